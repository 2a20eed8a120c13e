-- rule_replay.lua: replaying golden trajectories of rules: the gradients of each step are fed, parameters compared
-- after it, and buffers at the end.
local support = require "support"
local core = support.core

local M = {}

function M.tolerance(case, dtype, exact)
  return dtype == "f64" and (exact or 1e-12) or math.max(1e-5, 20 * case.float32_drift)
end

-- The drift of a float32 replay is known of the parameters. A state is a sum of gradients, some of which are large and
-- cancel: its rounding is relative to those.
local function scale_of(case, dtype)
  local largest = 1
  for _, step in ipairs(dtype == "f32" and case.steps or {}) do
    for _, list in ipairs(step.inputs.grad) do
      for _, g in ipairs(list) do largest = math.max(largest, math.abs(g)) end
    end
  end
  return largest
end

-- The parameters where a problem begins, and their layout.
function M.begin(problem, dtype)
  local layout = support.layout(problem.shapes)
  return support.vector(layout, dtype, problem.init), layout
end

-- Replay a case. made: { rule =, options =, states = { golden name = ours }, exact = tolerance in f64, before =
-- function(k, step, theta, layout) → extra of the rule's step, after = function(k, step, theta, state, near) }, where
-- near(tensor or list, list, what) compares.
function M.replay(case, problem, dtype, made)
  local theta, layout = M.begin(problem, dtype)
  local state = made.rule:init(theta, made.options)
  local tolerance = M.tolerance(case, dtype, made.exact)
  local function near(tensor, list, what, factor)
    local d = support.difference(core.is_tensor(tensor) and tensor:totable() or tensor, list)
    assert(d <= tolerance * (factor or 1), ("%s: off by %g"):format(what, d))
  end
  for k, step in ipairs(case.steps) do
    local extra = made.before and made.before(k, step, theta, layout)
    made.rule:step(theta, { g = support.vector(layout, dtype, step.inputs.grad) }, state, k - 1, extra)
    near(theta, step.params, "step " .. k)
    if made.after then made.after(k, step, theta, state, near) end
  end
  for name, ours in pairs(made.states or {}) do
    if case.final_state[name] then
      near(state[ours], case.final_state[name], "final " .. name, scale_of(case, dtype))
    end
  end
  return theta, state
end

-- Tests that replay those cases of a golden file whose optimizer is in `made`: name → function(hyper) → made of
-- M.replay. it: that of busted.
function M.replay_all(it, golden, made)
  for _, case in ipairs(golden.cases) do
    for _, dtype in ipairs(made[case.optimizer] and { "f64", "f32" } or {}) do
      it(case.id .. " in " .. dtype, function()
        M.replay(case, golden.problems[case.problem], dtype, made[case.optimizer](case.hyper))
      end)
    end
  end
end

return M
