-- rule_direction.lua: rules whose step has a size of its own, whatever the gradient's: signs, normalized gradients,
-- VSGD's signal over noise; and SGD-SaI, which fixes a size for each tensor in the first step.

local clipping = require "perigee.clipping"
local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local define = require("perigee.rule_class").define
local per_tensor = require "perigee.per_tensor"
local sometimes = require "perigee.sometimes"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}

--- pg.rule.lion { lr = 1e-4, beta1 = 0.9, beta2 = 0.99 } → rule: Lion (Chen et al. 2023, arXiv 2302.06675), with
-- decoupled weight decay.
--     p = p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g);  then m = beta2 m + (1 - beta2) g
-- Its learning rates are 3 to 10 times smaller than AdamW's, its weight decays as much larger.
M.lion = define {
  name = "lion",
  hyper = { lr = 1e-4, beta1 = 0.9, beta2 = 0.99 },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE },
  state = { "m" },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local direction = generic.sign(o.beta1 * s.m + (1 - o.beta1) * stats.g)
    s.m = o.beta2 * s.m + (1 - o.beta2) * stats.g
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * direction
  end,
}

--- pg.rule.sophia { lr = 1e-4, beta1 = 0.965, rho = 0.04, batch = 1, eps = 1e-15 } → rule: Sophia (Liu et al. 2023,
-- arXiv 2305.14342) over a family with a Hessian diagonal, with decoupled weight decay.
--     m = beta1 m + (1 - beta1) g
--     p = p (1 - lr weight_decay) - lr sign(m) min(1, |m| / (rho batch q.h + eps))
-- Where h is 0 or below, or small, that is a step by the sign. q.h is the family's, moved by this step's statistics
-- already: pg.family.gauss_newton's for Sophia-G, whose h holds the number of labels that its authors' code has in
-- batch; or pg.family.diagonal's. lr is rho times the paper's.
M.sophia = define {
  name = "sophia",
  needs = { "h" },
  hyper = { lr = 1e-4, beta1 = 0.965, rho = 0.04, batch = 1, eps = 1e-15 },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, rho = NOT_NEGATIVE, batch = "(0, inf)", eps = "(0, inf)" },
  state = { "m" },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    s.m = o.beta1 * s.m + (1 - o.beta1) * stats.g
    local bound = o.rho * o.batch * generic.maximum(ctx.q.h, 0) + o.eps
    local size = generic.minimum(generic.abs(s.m) / bound, 1)
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * (generic.sign(s.m) * size)
  end,
}

--- pg.rule.normalized_sgd { lr = 1e-2, momentum = 0, scope = "global", eps = 1e-12 } → rule: normalized SGD (Murray
-- et al. 2019; with momentum, Cutkosky & Mehta 2020), with decoupled weight decay.
--     m = momentum m + (1 - momentum) stats.g;  p = p (1 - lr weight_decay) - lr m / (|m| + eps)
-- scope: |m| over all numbers ("global"), those of a tensor ("tensor"), or each by itself ("elem", which is sign
-- descent).
M.normalized_sgd = define {
  name = "normalized_sgd",
  hyper = { lr = 1e-2, momentum = 0, scope = "global", eps = 1e-12 },
  limits = { lr = NOT_NEGATIVE, momentum = SHARE, eps = NOT_NEGATIVE },
  check = function(o) clipping.check_scope("rule normalized_sgd", o.scope) end,
  variant = function(o) return { buffer = o.momentum ~= 0 } end,
  state = function(o) return o.momentum ~= 0 and { "m" } or {} end,
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local m = stats.g
    if o.buffer then
      s.m = o.momentum * s.m + (1 - o.momentum) * m
      m = s.m
    end
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * (m / (clipping.lengths[o.scope](m) + o.eps))
  end,
}

--- pg.rule.clipped_sgd { lr = 1e-3, momentum = 0.9, top = 0.1, value = false } → rule: SGD with momentum whose update
-- is clipped by coordinates (Pan & Li 2023, arXiv 2306.00204), with decoupled weight decay. The buffer is not clipped.
--     m = momentum m + stats.g;  p = p (1 - lr weight_decay) - lr clip(m)
-- top: the share of each tensor's coordinates that are cut down to the next magnitude (pg.clip_top). value: a threshold
-- in place of that.
M.clipped_sgd = define {
  name = "clipped_sgd",
  hyper = { lr = 1e-3, momentum = 0.9, top = 0.1, value = false },
  limits = { lr = NOT_NEGATIVE, momentum = NOT_NEGATIVE, top = SHARE, value = "(0, inf)" },
  state = { "m" },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    s.m = o.momentum * s.m + stats.g
    local u = o.value and generic.clip(s.m, -o.value, o.value) or clipping.functions.clip_top(s.m, o.top)
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * u
  end,
}

-- ---- VSGD -----------------------------------------------------------------------------------------------------------

--- pg.rule.vsgd { lr = 0.1, K = 30, gamma = 1e-8, tau1 = 0.81, tau2 = 0.9, eps = 1e-8, init = "code", decoupled = true
-- } → rule: VSGD (Chen et al. 2025, arXiv 2404.06549): the gradient as a hidden variable behind a noisy one. Not
-- pg.optim.variational_sgd, which is SGD over a posterior.
--     sg, sh: variances of the hidden gradient around the last one, and of the observed around the hidden one
--     mu = (g sg + mu sh) / (sg + sh);  s2 = sg sh / (sg + sh)
--     bg, bh = averages, with weights t^-tau1, t^-tau2, of 2 gamma + s2 + (mu - mu before)^2 and 2 K gamma + s2 + (mu
--     - g)^2 p = p - lr mu / (sqrt(s2 + mu^2) + eps)
-- K: how much noisier the observed gradient is, a priori. init: what sg and sh are in the first step: "code", as the
-- authors' vsgd.py; "paper", the prior means 1 and K, which make first steps tiny. Weight decay: decoupled, or L2.
M.vsgd = define {
  name = "vsgd",
  hyper = { lr = 0.1, K = 30, gamma = 1e-8, tau1 = 0.81, tau2 = 0.9, eps = 1e-8, init = "code", decoupled = true },
  limits = { lr = NOT_NEGATIVE, K = "(0, inf)", gamma = "(0, inf)", tau1 = "[0, 1]", tau2 = "[0, 1]",
    eps = NOT_NEGATIVE },
  check = function(o)
    if o.init ~= "code" and o.init ~= "paper" then
      core.raise(('rule vsgd: init is "code" or "paper", not %s'):format(names.describe(o.init)))
    end
  end,
  state = { "mu", "bg", "bh" },
  update = function(p, stats, s, o, ctx)
    local g, t = stats.g, ctx.t
    if o.decoupled then p = p * (1 - o.lr * ctx.weight_decay) else g = g + ctx.weight_decay * p end
    local shape, prior_g, prior_h = 2 * o.gamma + 1, 2 * o.gamma, 2 * o.K * o.gamma
    if o.init == "code" then shape = shape + 1e-4 end
    local is_first = generic.eq(t, 1)
    local sg = generic.where(is_first, prior_g / (shape - 1), s.bg / shape)
    local sh = generic.where(is_first, prior_h / (shape - 1), s.bh / shape)
    local before = s.mu
    s.mu = (g * sg + before * sh) / (sg + sh)
    local s2, moved, missed = sg * sh / (sg + sh), s.mu - before, s.mu - g
    local rho1, rho2 = t ^ -o.tau1, t ^ -o.tau2
    s.bg = (1 - rho1) * s.bg + rho1 * (prior_g + (s2 + moved * moved))
    s.bh = (1 - rho2) * s.bh + rho2 * (prior_h + (s2 + missed * missed))
    return p - o.lr * (s.mu / (generic.sqrt(s2 + s.mu * s.mu) + o.eps))
  end,
}

--- pg.rule.constant_vsgd { lr = 0.1, K = 9, gamma = 1e-8, kappa = 0.9, eps = 0 } → rule: VSGD with a constant ratio
-- K of its two precisions (arXiv 2404.06549, algorithm 2; derived by conjugacy, there is no published code), with
-- decoupled weight decay. mu is Adam's m with beta1 = K / (K + 1).
--     d = g - mu;  mu = mu + d / (K + 1);  s2 = b / (gamma + 1) / (K + 1), in the first step 1 / (K + 1)
--     b = (1 - t^-kappa) b + t^-kappa (gamma + ((K + 1) s2 + d^2 K / (K + 1)) / 2)
--     p = p - lr mu / (sqrt(mu^2 + s2) + eps)
M.constant_vsgd = define {
  name = "constant_vsgd",
  hyper = { lr = 0.1, K = 9, gamma = 1e-8, kappa = 0.9, eps = 0 },
  limits = { lr = NOT_NEGATIVE, K = "(0, inf)", gamma = "(0, inf)", kappa = "[0, 1]", eps = NOT_NEGATIVE },
  state = { "mu", "b" },
  update = function(p, stats, s, o, ctx)
    local ratio, rho = o.K + 1, ctx.t ^ -o.kappa
    local s2 = generic.where(generic.eq(ctx.t, 1), 1, s.b / (o.gamma + 1)) / ratio
    local d = stats.g - s.mu
    s.mu = s.mu + d / ratio
    s.b = (1 - rho) * s.b + rho * (o.gamma + 0.5 * (ratio * s2 + o.K / ratio * (d * d)))
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * (s.mu / (generic.sqrt(s.mu * s.mu + s2) + o.eps))
  end,
}

-- ---- SGD-SaI --------------------------------------------------------------------------------------------------------

-- The scales of a gradient's tensors, as one value per tensor. count, freedom: how many numbers each has, and one less,
-- but 1 for tensors of one number, whose deviation is 0.
local function scales_of(g, eps, count, freedom)
  local around = g - g:per_tensor():sum() / count
  return g:per_tensor():norm() / (((around * around):per_tensor():sum() / freedom):sqrt() + eps)
end

--- pg.rule.sgd_sai { lr = 1e-2, momentum = 0.9, eps = 1e-8 } → rule: SGD with momentum and a scale for each tensor
-- that the first gradient fixes (Xu et al. 2024, arXiv 2412.11768), with decoupled weight decay.
--     t = 1: scale = |g| / (standard deviation of g's numbers + eps);  m = g
--     t > 1: m = momentum m + (1 - momentum) g
--     p = p (1 - lr weight_decay) - lr scale m
-- Scales are about the root of a tensor's size; for a tensor of one number it is |g| / eps: leave such out, or use SGD
-- there.
M.sgd_sai = define {
  name = "sgd_sai",
  hyper = { lr = 1e-2, momentum = 0.9, eps = 1e-8 },
  limits = { lr = NOT_NEGATIVE, momentum = SHARE, eps = NOT_NEGATIVE },
  state = { m = 0, scale = per_tensor.per_tensor(0) },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local g, is_first = stats.g, generic.eq(ctx.t, 1)
    local layout, dtype = g.layout, g.dtype
    local count = per_tensor.of(per_tensor.count:resolve(layout, dtype), layout)
    local freedom = (count - 1):maximum(1)
    s.scale = sometimes(is_first, function(x)
      return { scale = scales_of(g, x.eps, count, freedom):resolve(layout, dtype), eps = x.eps }
    end, { scale = s.scale:resolve(layout, dtype), eps = core.apply("full", { a = {}, dtype = dtype }, o.eps) }).scale
    s.m = generic.where(is_first, g, o.momentum * s.m + (1 - o.momentum) * g)
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * (s.scale * s.m)
  end,
}

return M
