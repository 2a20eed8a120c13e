-- evaluation_point.lua: where a run is evaluated. Most methods are evaluated at the mean of the posterior; a rule may
-- say otherwise: an average of what it has passed, or a point that its slots and the mean make (schedule-free methods).

local builder = require "perigee.builder"
local slots = require "perigee.slots"

local PROGRAM = {} -- key in a state under which its program is kept

local function build(st, rule)
  return builder.trace("the evaluation point of rule " .. rule.name, function(b)
    local p, values = b:slot(st.theta, "theta"), {}
    for _, name in ipairs(rule.slot_names) do values[name] = b:slot(st.rule[name], "rule." .. name) end
    local o = rule.hyper:traced(function(numbers, name) return b:scalar(numbers, name) end, p)
    for name, value in next, rule.variant or {} do o[name] = value end
    b:output(rule.definition.evaluate(p, slots.view("rule " .. rule.name, values, {}), o))
  end)
end

-- The point of an optimizer's state: its mean, or what its rule's `evaluate` makes of it, in the same memory each time.
return function(st)
  local opt = st.optimizer
  local rule = opt and opt.rule
  if not (rule and rule.definition.evaluate) then return st.theta end
  opt:evaluate_hypers(st.step)
  st[PROGRAM] = st[PROGRAM] or build(st, rule)
  st[PROGRAM]:run()
  return st[PROGRAM]:result(1)
end
