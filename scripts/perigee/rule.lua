-- rule.lua: the ready-made rules, written as a user would write them: SGD, IVON and Newton's step; the others from
-- files of their own. Formulas and their order: torch.optim for SGD; Shen et al. 2024 (IVON), section 3. Weight decay
-- is the optimizer's and comes in ctx.weight_decay.

local core = require "perigee.core"
local generic = require "perigee.generic"
local linalg = require "perigee.linalg"
local rule_class = require "perigee.rule_class"
local vectors = require "perigee.vectors"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local rule = { define = rule_class.define, is = rule_class.is }
rule.split = require("perigee.rule_split").split
for _, name in ipairs { "adam", "adaptive", "direction", "free", "sampling", "matrix", "factored", "shampoo" } do
  for key, value in next, (require("perigee.rule_" .. name)) do rule[key] = value end
end

--- pg.rule.sgd { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false, lr_inside = false } → rule: SGD with
-- heavy-ball or Nesterov momentum and L2 weight decay, as torch.optim.SGD.
--     g = stats.g + weight_decay p
--     buf = momentum buf + (1 - dampening) g      without dampening in the first step
--     d = buf, or g + momentum buf with nesterov
--     p = p - lr d
-- Without momentum d is g, and no buffer is kept. nesterov needs a momentum and no dampening. lr_inside: lr is within
-- the buffer, as in Sutskever et al. 2013 and Caffe: lr g takes the place of g, and p = p - d; another method only
-- while lr changes.
rule.sgd = rule_class.define {
  name = "sgd",
  hyper = { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false, lr_inside = false },
  limits = { lr = NOT_NEGATIVE, momentum = NOT_NEGATIVE },
  variant = function(o)
    if o.nesterov and (o.momentum == 0 or o.dampening ~= 0) then
      core.raise("rule sgd: nesterov needs a momentum and no dampening")
    end
    return { buffer = o.momentum ~= 0 }
  end,
  state = function(o)
    return o.momentum ~= 0 and { "buf" } or {}
  end,
  eight_bit = { "buf" },
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    if not o.buffer then
      return p - o.lr * g
    end
    local lr = o.lr
    if o.lr_inside then g, lr = lr * g, 1 end
    local fresh = generic.where(generic.eq(ctx.t, 1), 1, 1 - o.dampening)
    s.buf = o.momentum * s.buf + fresh * g
    local d = o.nesterov and g + o.momentum * s.buf or s.buf
    return p - lr * d
  end,
}

--- pg.rule.ivon { lr = 0.1, beta1 = 0.9, clip_radius = math.huge, debias = true, rescale_lr = true } → rule: IVON's
-- step of the mean, scaled by the precision of pg.family.diagonal (Shen et al. 2024, arXiv 2402.17641, algorithm 1).
--     m = beta1 m + (1 - beta1) stats.g
--     u = (m / (1 - beta1^t) + weight_decay p) / (q.h + weight_decay)
--     p = p - lr (h0 + weight_decay) clip(u, -clip_radius, clip_radius)
-- q.h has been moved by this step's statistics already. debias = false leaves the division by 1 - beta1^t out;
-- rescale_lr = false the factor h0 + weight_decay, which puts lr on the scale of SGD.
rule.ivon = rule_class.define {
  name = "ivon",
  needs = { "h" },
  hyper = { lr = 0.1, beta1 = 0.9, clip_radius = math.huge, debias = true, rescale_lr = true },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, clip_radius = "(0, inf]" },
  state = { "m" },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local q, decay = ctx.q, ctx.weight_decay
    s.m = o.beta1 * s.m + (1 - o.beta1) * stats.g
    local m = o.debias and s.m / (1 - o.beta1 ^ ctx.t) or s.m
    local u = (m + decay * p) / (q.h + decay)
    local lr = o.rescale_lr and o.lr * (q.h0 + decay) or o.lr
    return p - lr * generic.clip(u, -o.clip_radius, o.clip_radius)
  end,
}

--- pg.rule.newton { lr = 1, beta1 = 0, debias = true } → rule: Newton's step of the mean, by the precision of
-- pg.family.full: variational online Newton (Khan et al. 2018, arXiv 1806.04854).
--     m = beta1 m + (1 - beta1) stats.g
--     p = p - lr (q.H + weight_decay I)^-1 (m / (1 - beta1^t) + weight_decay p)
-- q.H has been moved by this step's statistics already. Without momentum m is stats.g, and no buffer is kept. debias =
-- false leaves the division by 1 - beta1^t out. lr = 1 is Newton's step, for the full batch; small batches want 0.01 to
-- 0.1. NaN where q.H + weight_decay I is not positive definite.
rule.newton = rule_class.define {
  name = "newton",
  needs = { "H" },
  hyper = { lr = 1, beta1 = 0, debias = true },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE },
  variant = function(o)
    return { buffer = o.beta1 ~= 0 }
  end,
  state = function(o)
    return o.beta1 ~= 0 and { "m" } or {}
  end,
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local m, decay = stats.g, ctx.weight_decay
    if o.buffer then
      s.m = o.beta1 * s.m + (1 - o.beta1) * stats.g
      m = o.debias and s.m / (1 - o.beta1 ^ ctx.t) or s.m
    end
    local slope = (m + decay * p):flat()
    return p - o.lr * vectors.unflatten(linalg.solve_spd(vectors.add_to_diagonal(ctx.q.H, decay), slope), p)
  end,
}

return rule
