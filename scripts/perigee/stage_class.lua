-- stage_class.lua: what a stage is: an edit of a gradient, defined by a function, hyperparameters and slots. How stages
-- are placed and traced: stages.lua.

local core = require "perigee.core"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"

local stage = {}

local Stage = part.class "stage"

--- pg.stage.define { name =, apply =, state = {}, examples = false, active =, hyper = {}, static = {}, check = } →
-- stage: A stage of one's own: what edits a gradient before statistics are formed (stages.per_evaluation of
-- pg.optimizer) or after the correction (stages.combined).
--   apply(g, o, ctx, s) → g: traced; g is a vector, o the hyperparameters. ctx has t (step + 1), weight_decay, theta
--     (where the gradient was taken; after the correction the mean), examples (how many the batch has) and key, another
--     one for each step and each gradient in it. s: the slots.
--   state: as in pg.rule.define: slots that checkpoints keep. Not per evaluation where a step evaluates several.
--   examples: apply gets, in place of g, the gradients of the batch's examples one by one: g:mean(f) averages what
--     f(gradient of one example), traced, returns: one or more tensors, by the batch's weights where it has any;
--     g:sum(f) adds up; g.count is the number of examples, g.expected how many a sampler expects, or nil. Such a stage
--     is the first of stages.per_evaluation. g:mean costs a gradient of each example by itself; the model is without
--     batch norm.
--   active(step, o) → boolean: plain Lua: whether the stage acts in a step, counted from 0; where it does not, the step
--     is that of an optimizer without it. Default: always, as in passes.
--   hyper, static, limits, check: as in pg.rule.define.
-- The result is the stage; call it with hyperparameters for others.
function stage.define(definition)
  names.check("pg.stage.define", definition, { "name", "hyper", "static", "limits", "apply", "state", "examples",
    "active", "check" })
  if type(definition.name) ~= "string" or type(definition.apply) ~= "function" then
    core.raise("pg.stage.define needs a name and an apply function")
  end
  hyper.check_limits("pg.stage.define", definition)
  local function make(given)
    local h = hyper.resolve("stage " .. definition.name, definition.hyper or {}, given, definition.static,
      nil, definition.limits)
    if definition.check then definition.check(h.given) end
    return setmetatable({
      name = definition.name, definition = definition, hyper = h, given = given, make = make,
    }, Stage)
  end
  return part.defined(make, definition.hyper or {}, hyper.required)
end

--- pg.stage.is(x): Whether x is a stage.
function stage.is(x)
  return getmetatable(x) == Stage
end

return stage
