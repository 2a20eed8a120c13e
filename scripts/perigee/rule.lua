-- rule.lua: the ready-made rules, written as a user would write them. Formulas and their order: torch.optim for SGD,
-- Adam and AdamW; Shen et al. 2024 (IVON), section 3. Weight decay is the optimizer's and comes in ctx.weight_decay.

local core = require "perigee.core"
local generic = require "perigee.generic"
local part = require "perigee.part"
local rule_class = require "perigee.rule_class"

local rule = { define = rule_class.define, is = rule_class.is }

-- The rules defined so far, for `perigee methods`.
function rule.list()
  return part.list("rule")
end

-- SGD: momentum is heavy-ball outside lr; weight decay is L2; the first step's buffer is the gradient, without
-- dampening.
rule.sgd = rule_class.define {
  name = "sgd",
  about = "momentum, Nesterov, dampening, L2 (as torch.optim)",
  hyper = { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false },
  variant = function(o)
    if o.nesterov and (o.momentum == 0 or o.dampening ~= 0) then
      core.raise("rule sgd: nesterov needs a momentum and no dampening")
    end
    return { buffer = o.momentum ~= 0 }
  end,
  state = function(o)
    return o.momentum ~= 0 and { "buf" } or {}
  end,
  update = function(p, stats, s, o, ctx)
    local g = stats.g + ctx.weight_decay * p
    if not o.buffer then
      return p - o.lr * g
    end
    local fresh = generic.where(generic.eq(ctx.t, 1), 1, 1 - o.dampening)
    s.buf = o.momentum * s.buf + fresh * g
    local d = o.nesterov and g + o.momentum * s.buf or s.buf
    return p - o.lr * d
  end,
}

-- The common part of Adam and AdamW, from the gradient and the already decayed parameters.
local function adam_step(p, g, s, o, t)
  local c1, c2 = 1 - o.beta1 ^ t, 1 - o.beta2 ^ t
  s.m = o.beta1 * s.m + (1 - o.beta1) * g
  s.v = o.beta2 * s.v + (1 - o.beta2) * (g * g)
  local v = s.v
  if o.amsgrad then
    s.vmax = generic.maximum(s.vmax, s.v)
    v = s.vmax
  end
  return p - (o.lr / c1) * (s.m / (generic.sqrt(v) / generic.sqrt(c2) + o.eps))
end

local function adam_state(o)
  return o.amsgrad and { "m", "v", "vmax" } or { "m", "v" }
end

-- Adam: weight decay is L2.
rule.adam = rule_class.define {
  name = "adam",
  about = "bias-corrected moments, L2, amsgrad",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false },
  state = adam_state,
  update = function(p, stats, s, o, ctx)
    return adam_step(p, stats.g + ctx.weight_decay * p, s, o, ctx.t)
  end,
}

-- AdamW: weight decay is decoupled, p * (1 - lr * decay) first.
rule.adamw = rule_class.define {
  name = "adamw",
  about = "Adam with decoupled decay",
  hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false },
  state = adam_state,
  update = function(p, stats, s, o, ctx)
    return adam_step(p * (1 - o.lr * ctx.weight_decay), stats.g, s, o, ctx.t)
  end,
}

-- IVON's mean update over a diagonal family, whose Hessian diagonal q.h has been moved already. lr is on the scale of
-- SGD when rescale_lr (times h0 + decay); clip_radius bounds the preconditioned step per coordinate, before lr.
rule.ivon = rule_class.define {
  name = "ivon",
  about = "IVON's mean update, scaled by the precision",
  needs = { "h" },
  hyper = { lr = 0.1, beta1 = 0.9, clip_radius = math.huge, debias = true, rescale_lr = true },
  state = { "m" },
  update = function(p, stats, s, o, ctx)
    local q, decay = ctx.q, ctx.weight_decay
    s.m = o.beta1 * s.m + (1 - o.beta1) * stats.g
    local m = o.debias and s.m / (1 - o.beta1 ^ ctx.t) or s.m
    local u = (m + decay * p) / (q.h + decay)
    local lr = o.rescale_lr and o.lr * (q.h0 + decay) or o.lr
    return p - lr * generic.clip(u, -o.clip_radius, o.clip_radius)
  end,
}

return rule
