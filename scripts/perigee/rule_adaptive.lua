-- rule_adaptive.lua: rules that scale each coordinate by what its gradients were: AdaGrad and its descendants, and
-- Adam's. Formulas and their order are those of the sources named with each; weight decay is stated with each.

local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local define = require("perigee.rule_class").define
local sometimes = require "perigee.sometimes"
local vectors = require "perigee.vectors"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}

-- beta m + (1 - beta) x
local function average(m, x, beta) return beta * m + (1 - beta) * x end

-- p, g with weight decay the one way or the other: decoupled, p (1 - lr weight_decay) before the step; or L2, in g.
local function decayed(p, g, o, ctx)
  if o.decoupled then return p * (1 - o.lr * ctx.weight_decay), g end
  return p, g + ctx.weight_decay * p
end

--- pg.rule.adagrad { lr = 1e-2, lr_decay = 0, initial = 0, eps = 1e-10 } → rule: AdaGrad (Duchi, Hazan & Singer
-- 2011), as torch.optim.Adagrad, with L2 weight decay.
--     g = stats.g + weight_decay p;  sum = sum + g^2, from `initial` on
--     p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(sum) + eps)
M.adagrad = define {
  name = "adagrad",
  hyper = { lr = 1e-2, lr_decay = 0, initial = 0, eps = 1e-10 }, static = { "initial" },
  limits = { lr = NOT_NEGATIVE, lr_decay = NOT_NEGATIVE, initial = NOT_NEGATIVE, eps = NOT_NEGATIVE },
  state = function(o) return { sum = o.initial } end,
  eight_bit = { sum = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    s.sum = s.sum + g * g
    return p - o.lr / (1 + (ctx.t - 1) * o.lr_decay) * (g / (generic.sqrt(s.sum) + o.eps))
  end,
}

-- |g + decay p|^2. Where there is no decay p is not read: this is all that the whole gradient is gone through for.
local function decayed_square(g, p, decay)
  local function square(d) return generic.dot(d, d) end
  if not (core.is_tensor(g) and core.is_tensor(decay) and decay.weak) then return square(g + decay * p) end
  local function number(x) return core.apply("full", { a = {}, dtype = g.dtype }, x) end
  local plain = sometimes(generic.eq(decay, 0), function() return { square(g) } end, { number(0) })
  return sometimes(generic.ne(decay, 0), function(x)
    return { square = square(g + x.decay * p), decay = x.decay }
  end, { square = plain[1], decay = number(decay) }).square
end

--- pg.rule.adagrad_norm { lr = 1, initial = 0.01, eps = 0 } → rule: AdaGrad with one sum for the whole gradient
-- (Ward, Wu & Bottou 2019, arXiv 1806.01811), with L2 weight decay.
--     g = stats.g + weight_decay p;  sum = sum + |g|^2, from `initial` on;  p = p - lr g / (sqrt(sum) + eps)
M.adagrad_norm = define {
  name = "adagrad_norm",
  hyper = { lr = 1, initial = 0.01, eps = 0 }, static = { "initial" },
  limits = { lr = NOT_NEGATIVE, initial = NOT_NEGATIVE, eps = NOT_NEGATIVE },
  state = function(o) return { sum = vectors.scalar(o.initial) } end,
  update = function(p, stats, s, o, ctx)
    s.sum = s.sum + decayed_square(stats.g, p, ctx.weight_decay)
    return p - o.lr / (generic.sqrt(s.sum) + o.eps) * (stats.g + ctx.weight_decay * p)
  end,
}

--- pg.rule.rmsprop { lr = 1e-2, alpha = 0.99, eps = 1e-8, momentum = 0, centered = false, eps_inside = false } → rule:
-- RMSProp (Tieleman & Hinton 2012), as torch.optim.RMSprop, with L2 weight decay.
--     g = stats.g + weight_decay p;  v = alpha v + (1 - alpha) g^2;  d = sqrt(v) + eps
--     centered: mean = alpha mean + (1 - alpha) g;  d = sqrt(max(v - mean^2, 0)) + eps
--     p = p - lr g / d, or with momentum: buf = momentum buf + g / d;  p = p - lr buf
-- eps_inside: eps is added under the root, as in TensorFlow.
M.rmsprop = define {
  name = "rmsprop",
  hyper = { lr = 1e-2, alpha = 0.99, eps = 1e-8, momentum = 0, centered = false, eps_inside = false },
  limits = { lr = NOT_NEGATIVE, alpha = "[0, 1]", eps = NOT_NEGATIVE, momentum = NOT_NEGATIVE },
  variant = function(o) return { buffer = o.momentum ~= 0 } end,
  state = function(o)
    local state = { "v" }
    if o.centered then state[#state + 1] = "mean" end
    if o.momentum ~= 0 then state[#state + 1] = "buf" end
    return state
  end,
  eight_bit = { "mean", "buf", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    s.v = average(s.v, g * g, o.alpha)
    local v = s.v
    if o.centered then
      s.mean = average(s.mean, g, o.alpha)
      v = generic.maximum(v - s.mean * s.mean, 0)
    end
    local step = g / (o.eps_inside and generic.sqrt(v + o.eps) or generic.sqrt(v) + o.eps)
    if not o.buffer then return p - o.lr * step end
    s.buf = o.momentum * s.buf + step
    return p - o.lr * s.buf
  end,
}

--- pg.rule.adadelta { lr = 1, rho = 0.9, eps = 1e-6 } → rule: AdaDelta (Zeiler 2012, arXiv 1212.5701), as
-- torch.optim.Adadelta, with L2 weight decay.
--     g = stats.g + weight_decay p;  v = rho v + (1 - rho) g^2;  d = sqrt(acc + eps) / sqrt(v + eps) g
--     acc = rho acc + (1 - rho) d^2;  p = p - lr d
M.adadelta = define {
  name = "adadelta",
  hyper = { lr = 1, rho = 0.9, eps = 1e-6 },
  limits = { lr = NOT_NEGATIVE, rho = "[0, 1]", eps = NOT_NEGATIVE },
  state = { "v", "acc" },
  eight_bit = { v = "unsigned", acc = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    s.v = average(s.v, g * g, o.rho)
    local d = generic.sqrt(s.acc + o.eps) / generic.sqrt(s.v + o.eps) * g
    s.acc = average(s.acc, d * d, o.rho)
    return p - o.lr * d
  end,
}

-- ---- after Adam -----------------------------------------------------------------------------------------------------

local ADAM_LIMITS = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, eps = NOT_NEGATIVE }

--- pg.rule.nadam { lr = 2e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, momentum_decay = 4e-3, decoupled = false, form =
-- "paper" } → rule: Adam with Nesterov's momentum (Dozat 2016), as torch.optim.NAdam from version 2 on. Weight decay:
-- L2, or decoupled.
--     mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2);  product = product mu_t, from 1 on
--     m, v as in Adam;  d = sqrt(v / (1 - beta2^t)) + eps
--     p = p - lr (1 - mu_t) / (1 - product) g / d - lr mu_{t+1} / (1 - product mu_{t+1}) m / d
-- form = "torch1" has product mu_t mu_{t+1} in the last denominator, the error of torch 1.13 that version 2 mended.
M.nadam = define {
  name = "nadam",
  hyper = { lr = 2e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, momentum_decay = 4e-3, decoupled = false,
    form = "paper" },
  limits = ADAM_LIMITS,
  check = function(o) names.choice("rule nadam: form", o.form, { "paper", "torch1" }) end,
  state = { m = 0, v = 0, product = vectors.scalar(1) },
  eight_bit = { "m", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local t = ctx.t
    local from, g = decayed(p, stats.g, o, ctx)
    local now = o.beta1 * (1 - 0.5 * 0.96 ^ (t * o.momentum_decay))
    local next_one = o.beta1 * (1 - 0.5 * 0.96 ^ ((t + 1) * o.momentum_decay))
    s.product = s.product * now
    s.m, s.v = average(s.m, g, o.beta1), average(s.v, g * g, o.beta2)
    local d = generic.sqrt(s.v / (1 - o.beta2 ^ t)) + o.eps
    local half_way = from - o.lr * (1 - now) / (1 - s.product) * (g / d)
    local ahead = s.product * next_one
    if o.form == "torch1" then ahead = ahead * now end
    return half_way - o.lr * next_one / (1 - ahead) * (s.m / d)
  end,
}

-- The step factor of rectified Adam (Liu et al. 2020), and whether it holds: where too few gradients have been seen
-- (r < 5), the variance is not tractable.
local function rectify(o, t)
  local limit = 2 / (1 - o.beta2) - 1
  local r = limit - 2 * t * o.beta2 ^ t / (1 - o.beta2 ^ t)
  local holds = generic.ge(r, 5)
  local safe = generic.where(holds, r, 5)
  return holds, generic.sqrt((1 - o.beta2 ^ t) * (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe))
end

--- pg.rule.adabelief { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-16, eps_inside = false, decoupled = true,
-- fixed_decay = false, amsgrad = false, rectify = true, degenerate = true } → rule: AdaBelief (Zhuang et al. 2020,
-- arXiv 2010.07468), as its authors' adabelief_pytorch 0.2.0.
--     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) (g - m)^2 + eps;  amsgrad: the largest v so far
--     p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
-- rectify: RAdam's factor once it is known, over the plain root of v; before that p - lr / (1 - beta1^t) m
-- (degenerate), or nothing. eps stands twice, in v, where it adds up, and beside the root; eps_inside is that in v
-- where it should be another, as 0 for the variance alone. Weight decay: decoupled (fixed_decay: weight_decay alone,
-- not times lr), or L2. For images: eps = 1e-8, decoupled = false, rectify = false.
M.adabelief = define {
  name = "adabelief",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-16, eps_inside = false, decoupled = true,
    fixed_decay = false, amsgrad = false, rectify = true, degenerate = true },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, eps = NOT_NEGATIVE, eps_inside = NOT_NEGATIVE },
  state = function(o) return o.amsgrad and { "m", "v", "vmax" } or { "m", "v" } end,
  eight_bit = { "m", v = "unsigned", vmax = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local t = ctx.t
    local from, g = decayed(p, stats.g, o, ctx)
    if o.decoupled and o.fixed_decay then from = p * (1 - ctx.weight_decay) end
    s.m = average(s.m, g, o.beta1)
    local residual = g - s.m
    s.v = average(s.v, residual * residual, o.beta2) + (o.eps_inside or o.eps)
    local v = s.v
    if o.amsgrad then
      s.vmax = generic.maximum(s.vmax, s.v)
      v = s.vmax
    end
    local rate = o.lr / (1 - o.beta1 ^ t)
    if not o.rectify then
      return from - rate * (s.m / (generic.sqrt(v) / generic.sqrt(1 - o.beta2 ^ t) + o.eps))
    end
    local holds, factor = rectify(o, t)
    local early = o.degenerate and from - rate * s.m or from
    return generic.where(holds, from - rate * factor * (s.m / (generic.sqrt(s.v) + o.eps)), early)
  end,
}

--- pg.rule.diffgrad { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, form = "paper" } → rule: diffGrad (Dubey et
-- al. 2020, arXiv 1909.11015), with L2 weight decay: Adam's step times sigmoid(|g before - g|), a friction where
-- gradients stay alike.
--     p = p - lr sqrt(1 - beta2^t) / (1 - beta1^t) sigmoid(|previous - g|) m / (sqrt(v) + eps);  previous begins as 0
-- form = "v1": the friction is 1/2 always, as in the first version of the authors' code, whose gradient before was the
-- same memory as the gradient.
M.diffgrad = define {
  name = "diffgrad",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, form = "paper" },
  limits = ADAM_LIMITS,
  check = function(o) names.choice("rule diffgrad: form", o.form, { "paper", "v1" }) end,
  state = function(o) return o.form == "v1" and { "m", "v" } or { "m", "v", "previous" } end,
  eight_bit = { "m", "previous", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g, t, friction = stats.g + ctx.weight_decay * p, ctx.t, 0.5
    s.m, s.v = average(s.m, g, o.beta1), average(s.v, g * g, o.beta2)
    if o.form == "paper" then
      friction = generic.sigmoid(generic.abs(s.previous - g))
      s.previous = g
    end
    local rate = o.lr * generic.sqrt(1 - o.beta2 ^ t) / (1 - o.beta1 ^ t)
    return p - rate * (friction * s.m / (generic.sqrt(s.v) + o.eps))
  end,
}

--- pg.rule.adopt { lr = 1e-3, beta1 = 0.9, beta2 = 0.9999, eps = 1e-6, decoupled = false, clip = true } → rule: ADOPT
-- (Taniguchi et al. 2024, arXiv 2411.02853). Weight decay: L2, or decoupled.
--     t = 1: v = g^2, and nothing moves
--     u = g / max(sqrt(v), eps), with the v of before;  clip: cut to [-c, c], c = (t - 1)^(1/4)
--     m = beta1 m + (1 - beta1) u;  p = p - lr m;  v = beta2 v + (1 - beta2) g^2
M.adopt = define {
  name = "adopt",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.9999, eps = 1e-6, decoupled = false, clip = true },
  limits = ADAM_LIMITS,
  state = { "m", "v" },
  eight_bit = { "m", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local is_first = generic.eq(ctx.t, 1)
    local from, g = decayed(p, stats.g, o, ctx)
    local u = g / generic.maximum(generic.sqrt(s.v), o.eps)
    if o.clip then
      local limit = (ctx.t - 1) ^ 0.25
      u = generic.clip(u, -limit, limit)
    end
    s.m = generic.where(is_first, s.m, average(s.m, u, o.beta1))
    s.v = generic.where(is_first, g * g, average(s.v, g * g, o.beta2))
    return generic.where(is_first, p, from - o.lr * s.m)
  end,
}

-- beta3 of AdEMAMix after t of T steps of warm-up: its half-life grows in a straight line from beta1's.
local function warm_beta(o, t)
  local function half_life(beta) return math.log(0.5) / generic.log(beta + 1e-8) - 1 end
  local share = generic.minimum(t / o.beta3_warmup, 1)
  local life = (1 - share) * half_life(o.beta1) + share * half_life(o.beta3)
  return generic.where(generic.lt(share, 1), 0.5 ^ (1 / (1 + life)), o.beta3)
end

--- pg.rule.ademamix { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, beta3 = 0.9999, alpha = 2, eps = 1e-8, beta3_warmup =
-- false, alpha_warmup = false } → rule: AdEMAMix (Pagliardini et al. 2024, arXiv 2409.03137): AdamW with a second,
-- slow momentum. Weight decay decoupled, times lr, taken at p before the step.
--     m, v as in Adam;  slow = beta3 slow + (1 - beta3) g
--     p = p - lr ((m / (1 - beta1^t) + alpha slow) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay p)
-- beta3_warmup, alpha_warmup: steps over which these two grow, beta3 from beta1 (in half-lives), alpha from 0.
M.ademamix = define {
  name = "ademamix",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, beta3 = 0.9999, alpha = 2, eps = 1e-8, beta3_warmup = false,
    alpha_warmup = false },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, beta3 = SHARE, eps = NOT_NEGATIVE,
    beta3_warmup = "(0, inf)", alpha_warmup = "(0, inf)" },
  state = { "m", "slow", "v" },
  eight_bit = { "m", "slow", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local g, t = stats.g, ctx.t
    local beta3 = o.beta3_warmup and warm_beta(o, t) or o.beta3
    local alpha = o.alpha_warmup and o.alpha * generic.minimum(t / o.alpha_warmup, 1) or o.alpha
    s.m, s.slow, s.v = average(s.m, g, o.beta1), average(s.slow, g, beta3), average(s.v, g * g, o.beta2)
    local d = generic.sqrt(s.v) / generic.sqrt(1 - o.beta2 ^ t) + o.eps
    return p - o.lr * ((s.m / (1 - o.beta1 ^ t) + alpha * s.slow) / d + ctx.weight_decay * p)
  end,
}

return M
