-- rule_adam.lua: Adam and AdamW. Formulas and their order: torch.optim.

local define = require("perigee.rule_class").define
local generic = require "perigee.generic"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local IN_8_BITS = { "m", v = "unsigned", vmax = "unsigned" }

local M = {}

-- The common part of Adam and AdamW, from the gradient and the already decayed parameters. raw: in place of g in its
-- square, where a correction says so.
local function adam_step(p, g, s, o, t, raw)
  local c1, c2 = 1 - o.beta1 ^ t, 1 - o.beta2 ^ t
  s.m = o.beta1 * s.m + (1 - o.beta1) * g
  raw = raw or g
  s.v = o.beta2 * s.v + (1 - o.beta2) * (raw * raw)
  local v = s.v
  if o.amsgrad then
    s.vmax = generic.maximum(s.vmax, s.v)
    v = s.vmax
  end
  if o.eps_corrected then
    return p - (o.lr * generic.sqrt(c2) / c1) * (s.m / (generic.sqrt(v) + o.eps))
  end
  return p - (o.lr / c1) * (s.m / (generic.sqrt(v) / generic.sqrt(c2) + o.eps))
end

local function adam_state(o)
  return o.amsgrad and { "m", "v", "vmax" } or { "m", "v" }
end

--- pg.rule.adam { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, eps_corrected = false } → rule:
-- Adam with L2 weight decay (Kingma & Ba 2015, algorithm 1), as torch.optim.Adam.
--     g = stats.g + weight_decay p
--     m = beta1 m + (1 - beta1) g
--     v = beta2 v + (1 - beta2) g^2
--     p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
-- amsgrad takes the largest v so far in place of v (Reddi et al. 2018). eps_corrected: the correction of bias divides
-- eps too, (sqrt(v) + eps) / sqrt(1 - beta2^t), as at the end of the paper's section 2, in HuggingFace's AdamW and in
-- what was written after it.
M.adam = define {
  name = "adam",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, eps_corrected = false },
  reads_raw = true,
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, eps = NOT_NEGATIVE },
  state = adam_state,
  eight_bit = IN_8_BITS,
  update = function(p, stats, s, o, ctx)
    local raw = ctx.info and ctx.info.raw
    return adam_step(p, stats.g + ctx.weight_decay * p, s, o, ctx.t, raw and raw + ctx.weight_decay * p)
  end,
}

--- pg.rule.adamw { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, eps_corrected = false } → rule:
-- Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW.
--     p = p (1 - lr weight_decay), then Adam's step with g = stats.g
-- amsgrad, eps_corrected: as in pg.rule.adam.
M.adamw = define {
  name = "adamw",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, eps_corrected = false },
  reads_raw = true,
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, eps = NOT_NEGATIVE },
  state = adam_state,
  eight_bit = IN_8_BITS,
  update = function(p, stats, s, o, ctx)
    return adam_step(p * (1 - o.lr * ctx.weight_decay), stats.g, s, o, ctx.t, ctx.info and ctx.info.raw)
  end,
}

return M
