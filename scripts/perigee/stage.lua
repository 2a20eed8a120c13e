-- stage.lua: stages edit a gradient in one of two named places of an optimizer: `per_evaluation` (each gradient
-- alike, at every point where one is taken) and `combined` (once, after the correction). They are traced into the
-- step's program.

local core = require "perigee.core"
local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"

local stage = {}

local Stage = part.class "stage"

--- pg.stage.define { name =, apply =, hyper = {}, static = {} } → stage: A stage of one's own: what edits a gradient
-- before statistics are formed (stages.per_evaluation of pg.optimizer) or after the correction (stages.combined).
--   apply(g, o, ctx) → g: traced; g is a vector, o the hyperparameters, ctx has t (step + 1) and weight_decay.
--   hyper, static, limits: as in pg.rule.define.
-- The result is the stage; call it with hyperparameters for others.
function stage.define(definition)
  names.check("pg.stage.define", definition, { "name", "hyper", "static", "limits", "apply" })
  if type(definition.name) ~= "string" or type(definition.apply) ~= "function" then
    core.raise("pg.stage.define needs a name and an apply function")
  end
  hyper.check_limits("pg.stage.define", definition)
  local function make(given)
    local h = hyper.resolve("stage " .. definition.name, definition.hyper or {}, given, definition.static,
      nil, definition.limits)
    return setmetatable({
      name = definition.name, definition = definition, hyper = h, given = given, make = make,
    }, Stage)
  end
  return part.defined(make, definition.hyper or {}, hyper.required)
end

function Stage:apply(g, o, ctx)
  return self.definition.apply(g, o, ctx)
end

--- pg.stage.is(x): Whether x is a stage.
function stage.is(x)
  return getmetatable(x) == Stage
end

-- As torch.nn.utils.clip_grad_norm_: g times min(1, max_norm / (norm + 1e-6)).
local function scale_to(norm, limit)
  return generic.minimum(limit / (norm + 1e-6), 1)
end

local clip = stage.define {
  name = "clip",
  hyper = { norm = false, value = false, per_tensor = false },
  limits = { norm = "(0, inf)", value = "(0, inf)", per_tensor = "(0, inf)" },
  apply = function(g, o)
    if o.value then
      g = generic.clip(g, -o.value, o.value)
    end
    if o.per_tensor then
      g = g * scale_to(g:per_tensor():norm(), o.per_tensor)
    end
    if o.norm then
      g = g * scale_to(generic.norm(g), o.norm)
    end
    return g
  end,
}

--- pg.stage.clip { norm = c, per_tensor = c, value = c } → stage: Gradient clipping. At least one option is given;
-- several act in the order value, per_tensor, norm.
--   norm: the gradient times min(1, c / (its norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
--   per_tensor: the same for each tensor by itself.
--   value: each coordinate limited to [-c, c].
function stage.clip(given)
  names.check("pg.stage.clip", given, { "norm", "value", "per_tensor" })
  if not (given.norm or given.value or given.per_tensor) then
    core.raise("pg.stage.clip needs norm, value or per_tensor")
  end
  return clip(given)
end

return stage
