-- stage.lua: the ready-made stages, which edit a gradient in one of two named places of an optimizer: `per_evaluation`
-- (each gradient alike, at every point where one is taken) and `combined` (once, after the correction). Those that look
-- at the gradients of single examples: stage_private.lua.

local clipping = require "perigee.clipping"
local core = require "perigee.core"
local define = require("perigee.stage_class").define
local generic = require "perigee.generic"
local names = require "perigee.names"
local part = require "perigee.part"

local stage = part.merge(require "perigee.stage_class", require "perigee.stage_private")
stage.batch_test = require("perigee.batch_test").stage

local clip = define {
  name = "clip",
  hyper = { norm = false, value = false, per_tensor = false, top = false },
  limits = { norm = "(0, inf)", value = "(0, inf)", per_tensor = "(0, inf)", top = "[0, 1)" },
  apply = function(g, o)
    if o.value then
      g = generic.clip(g, -o.value, o.value)
    end
    if o.top then
      g = clipping.functions.clip_top(g, o.top)
    end
    if o.per_tensor then
      g = g * clipping.factor(g:per_tensor():norm(), o.per_tensor)
    end
    if o.norm then
      g = g * clipping.factor(generic.norm(g), o.norm)
    end
    return g
  end,
}

--- pg.stage.clip { norm = c, per_tensor = c, value = c, top = share } → stage: Gradient clipping. At least one option
-- is given; several act in the order value, top, per_tensor, norm.
--   norm: the gradient times min(1, c / (its norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
--   per_tensor: the same for each tensor by itself.
--   value: each coordinate limited to [-c, c].
--   top: of each tensor, this share of the coordinates, the largest, cut down to the next magnitude: see pg.clip_top.
function stage.clip(given)
  names.check("pg.stage.clip", given, { "norm", "value", "per_tensor", "top" })
  if not (given.norm or given.value or given.per_tensor or given.top) then
    core.raise("pg.stage.clip needs norm, value, per_tensor or top")
  end
  return clip(given)
end

local normalize = define {
  name = "normalize",
  hyper = { scope = "global", eps = 1e-12 },
  limits = { eps = "[0, inf)" },
  apply = function(g, o) return g / (clipping.lengths[o.scope](g) + o.eps) end,
}

--- pg.stage.normalize { scope = "global", eps = 1e-12 } → stage: The gradient divided by its length + eps: the norm of
-- all numbers ("global"), of those of each tensor ("tensor"), or of each number by itself ("elem", its sign).
function stage.normalize(given)
  local s = normalize(given)
  clipping.check_scope("stage normalize", s.hyper.given.scope)
  return s
end

--- pg.stage.noise { variance = 0.01, decay = 0.55 } → stage: Gaussian gradient noise (Neelakantan et al. 2015, arXiv
-- 1511.06807): the gradient plus normal numbers of variance `variance` / t^decay, with t = 1 in the first step. Drawn
-- from the run's key, for each step and gradient afresh. variance may be a schedule; decay = 0 then leaves it alone.
stage.noise = define {
  name = "noise",
  hyper = { variance = 0.01, decay = 0.55 },
  limits = { variance = "[0, inf)", decay = "[0, inf)" },
  apply = function(g, o, ctx)
    return g + generic.sqrt(o.variance / ctx.t ^ o.decay) * generic.normal_like(ctx.key, g)
  end,
}

return stage
