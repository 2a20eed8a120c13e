-- rule_shampoo.lua: rules with a matrix for each axis of a tensor: Shampoo, which multiplies gradients by inverse roots
-- of their second moments, and SOAP, which is Adam in the eigenvectors' coordinates. The costly part is done every few
-- steps only.

local core = require "perigee.core"
local define = require("perigee.rule_class").define
local generic = require "perigee.generic"
local linalg = require "perigee.linalg"
local modes = require "perigee.modes"
local sometimes = require "perigee.sometimes"
local tensors = require "perigee.tensors"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}


-- ---- Shampoo --------------------------------------------------------------------------------------------------------

-- (matrix + eps I)^-power of a positive semidefinite matrix, in f64: f32 has too few digits for nearly singular ones.
local function inverse_power(matrix, power, eps)
  local values, vectors = linalg.eigh(matrix:to("f64"))
  return (vectors * (generic.maximum(values, 0) + eps) ^ -power):matmul(vectors:t()):to(matrix.dtype)
end

-- The vector of inverse roots of what was gathered, of tensors like x.
local function inverse_roots(gathered, x, o)
  local layout, orders = x.layout, {}
  for i = 1, #layout do
    local axes = modes.of(layout[i].shape, o)
    for _ = 1, #axes do orders[#orders + 1] = #layout[i].shape end
  end
  return modes.update(gathered, x, o, function(matrix, _, _, j)
    return inverse_power(matrix, o.power or 0.5 / orders[j], o.eps)
  end)
end

--- pg.rule.shampoo { lr = 0.1, eps = 1e-4, beta2 = false, every = 1, power = false, max_size = 1024, vectors = true } →
-- rule: Shampoo (Gupta, Koren & Singer 2018, arXiv 1802.09568), with L2 weight decay.
--     G = g + weight_decay p;  for each axis a of a tensor with k axes: L_a = L_a + G_(a) G_(a)^T, G unfolded along a
--     p = p - lr G times (L_a + eps I)^(-1 / 2k) along each axis
-- beta2: the moving average beta2 L + (1 - beta2) G G^T in place of the sum. every: steps from one computation of the
-- roots to the next. power: in place of 1 / 2k (many ports have 1 / k). Axes longer than max_size are left alone, and
-- with vectors = false tensors with one axis. The roots are by eigenvectors in f64, of the order of
-- size^3; an L in f32 that is nearly singular has few right digits in its small eigenvalues, which a larger eps mends.
-- With `every` above 1 the first roots are of one gradient, and multiply what the next ones have and it lacks by up to
-- eps^(-1/2): begin with a small lr, or take a large eps (1).
M.shampoo = define {
  name = "shampoo",
  hyper = { lr = 0.1, eps = 1e-4, beta2 = false, every = 1, power = false, max_size = 1024, vectors = true },
  static = { "eps", "every", "max_size", "power" },
  limits = { lr = NOT_NEGATIVE, eps = "(0, inf)", beta2 = SHARE, every = "[1, inf)", power = NOT_NEGATIVE,
    max_size = NOT_NEGATIVE },
  state = function(o)
    local state = { L = function(theta) return modes.zeros(theta, o) end }
    if o.every > 1 then state.roots = state.L end
    return state
  end,
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    s.L = modes.update(s.L, g, o, function(L, one, axis)
      if o.beta2 then return o.beta2 * L + (1 - o.beta2) * modes.gram(one, axis) end
      return L + modes.gram(one, axis)
    end)
    local roots
    if o.every == 1 or not s.L.layout then
      roots = inverse_roots(s.L, g, o)
    else
      s.roots = sometimes(generic.falls_on(ctx.t - 1, o.every), function() return { inverse_roots(s.L, g, o) } end,
        { s.roots })[1]
      roots = s.roots
    end
    return p - o.lr * modes.fold(g, o, function(one, axis, j)
      return modes.multiply(tensors.view(roots, j), one, axis)
    end)
  end,
}

-- ---- SOAP -----------------------------------------------------------------------------------------------------------

-- A vector in the coordinates of the bases Q, or back from them.
local function rotate(x, Q, o, back)
  return modes.fold(x, o, function(one, axis, j)
    local basis = tensors.view(Q, j)
    return modes.multiply(back and basis or basis:t(), one, axis)
  end)
end

-- The bases one power iteration on, columns by falling eigenvalues, and m and v in their coordinates.
local function turn_bases(GG, Q, m, v, o)
  local orders = {}
  local turned = modes.update(Q, m, o, function(basis, _, _, j)
    local applied = tensors.view(GG, j):matmul(basis)
    orders[j] = (basis * applied):sum(1):argsort(-1, { descending = true })
    return (linalg.qr(applied:take(orders[j], 2)))
  end)
  local permuted = modes.fold(v, o, function(one, axis, j) return one:take(orders[j], axis) end)
  return turned, rotate(rotate(m, Q, o, true), turned, o), permuted
end

-- The moments GG after a step, and the bases, m and v that the next one begins with. The first step takes the
-- eigenvectors of its own moments.
local function move_bases(g, s, o, t)
  local share = o.shampoo_beta or o.beta2
  s.GG = modes.update(s.GG, g, o, function(matrix, one, axis)
    return share * matrix + (1 - share) * modes.gram(one, axis)
  end)
  s.Q = sometimes(generic.eq(t, 1), function()
    return { modes.update(s.GG, g, o, function(matrix) return select(2, linalg.eigh(matrix)) end) }
  end, { s.Q })[1]
  local due = generic.logical_and(generic.gt(t, 1), generic.falls_on(t - 1, o.every))
  local turned = sometimes(due, function(x) return { turn_bases(s.GG, x[1], x[2], x[3], o) } end, { s.Q, s.m, s.v })
  s.Q, s.m, s.v = turned[1], turned[2], turned[3]
end

--- pg.rule.soap { lr = 3e-3, beta1 = 0.95, beta2 = 0.95, shampoo_beta = false, eps = 1e-8, every = 10, max_size = 1024,
-- vectors = false, debias = true } → rule: SOAP (Vyas et al. 2024, arXiv 2409.11321), as its authors' code: Adam in the
-- coordinates of Shampoo's eigenvectors. Decoupled weight decay, after the step.
--     first step: GG_a = (1 - sb) G_(a) G_(a)^T for each axis a, Q_a its eigenvectors; p does not move
--     then, k = t - 1: r = g in the coordinates Q;  m = beta1 m + (1 - beta1) r;  v = beta2 v + (1 - beta2) r^2
--     p = p - lr sqrt(1 - beta2^k) / (1 - beta1^k) (m / (sqrt(v) + eps) back from Q);  p = p (1 - lr weight_decay)
--     GG_a = sb GG_a + (1 - sb) G_(a) G_(a)^T;  every `every` steps: Q_a by one power iteration and QR, m turned along
-- debias = false leaves the factor of the betas out (correct_bias of that code). sb: shampoo_beta, unless given beta2.
-- Axes longer than max_size, and tensors with one axis unless vectors = true, are Adam's.
M.soap = define {
  name = "soap",
  hyper = { lr = 3e-3, beta1 = 0.95, beta2 = 0.95, shampoo_beta = false, eps = 1e-8, every = 10, max_size = 1024,
    vectors = false, debias = true },
  static = { "every", "max_size" },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, shampoo_beta = SHARE, eps = NOT_NEGATIVE,
    every = "[1, inf)", max_size = NOT_NEGATIVE },
  state = function(o)
    local function zeros(theta) return modes.zeros(theta, o) end
    return { m = 0, v = 0, GG = zeros, Q = zeros }
  end,
  eight_bit = { "m", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g, t = stats.g, ctx.t
    local is_first, k = generic.eq(t, 1), t - 1
    local turns = core.is_tensor(s.Q) and s.Q.layout
    local r = turns and rotate(g, s.Q, o) or g
    s.m = generic.where(is_first, s.m, o.beta1 * s.m + (1 - o.beta1) * r)
    s.v = generic.where(is_first, s.v, o.beta2 * s.v + (1 - o.beta2) * (r * r))
    local step = s.m / (generic.sqrt(s.v) + o.eps)
    if turns then step = rotate(step, s.Q, o, true) end
    local rate = o.debias and o.lr * generic.sqrt(1 - o.beta2 ^ k) / (1 - o.beta1 ^ k) or o.lr
    local moved = (p - rate * step) * (1 - o.lr * ctx.weight_decay)
    if turns then move_bases(g, s, o, t) end
    return generic.where(is_first, p, moved)
  end,
}

return M
