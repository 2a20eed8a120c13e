-- minimize_lbfgs.lua: the minimum of a smooth function of many parameters by L-BFGS, which needs gradients alone
-- (Nocedal & Wright 2006, algorithms 7.4 and 7.5): the last m steps and changes of the gradient stand for the Hessian.

local core = require "perigee.core"
local names = require "perigee.names"
local objective = require "perigee.minimize_objective"
local search_line = require "perigee.line_search"

local M = {}

-- Sums in f64, whatever the tensors are.
local function dot(a, b)
  return core.apply("sum", nil, a:to "f64" * b:to "f64"):item()
end

-- The direction -H g of the two-loop recursion. pairs: { s, y, sy } from the oldest to the newest.
local function find_direction(pairs_kept, g)
  local q, share = g, {}
  for i = #pairs_kept, 1, -1 do
    local p = pairs_kept[i]
    share[i] = dot(p.s, q) / p.sy
    q = q - share[i] * p.y
  end
  local newest = pairs_kept[#pairs_kept]
  if newest then q = (newest.sy / newest.yy) * q end
  for i, p in ipairs(pairs_kept) do
    q = q + (share[i] - dot(p.y, q) / p.sy) * p.s
  end
  return -q
end

-- Keep a step and what the gradient did over it, where the curvature along it is positive beyond rounding.
local function remember(pairs_kept, m, s, y)
  local sy, yy = dot(s, y), dot(y, y)
  if sy ~= sy or sy <= 1e-16 * (dot(s, s) * yy) ^ 0.5 then return end
  if #pairs_kept == m then table.remove(pairs_kept, 1) end
  pairs_kept[#pairs_kept + 1] = { s = s, y = y, sy = sy, yy = yy }
end

local function evaluate_at(value_and_grad, x)
  local value, gradient = value_and_grad(x)
  if core.is_tensor(value) then value = value:item() end
  return { x = x, value = value, gradient = gradient:copy(), norm = dot(gradient, gradient) ^ 0.5 }
end

-- One step along d from `at`: the point that the line search accepts, or nil; evaluations taken.
local function advance(value_and_grad, at, d, first, curvature)
  local from = { t = 0, value = at.value, slope = dot(at.gradient, d) }
  if from.slope ~= from.slope or from.slope >= 0 then return nil, 0 end
  return search_line(function(t)
    local found = evaluate_at(value_and_grad, at.x + t * d)
    found.t, found.slope = t, dot(found.gradient, d)
    return found
  end, from, first, curvature)
end

local DEFAULTS = { tolerance = 1e-10, iterations = 1000, memory = 10, curvature = 0.9 }

local function read_options(opts)
  local o = {}
  names.check("pg.minimize.lbfgs", opts, { "tolerance", "iterations", "memory", "curvature", "given", "on_step" })
  for name, default in next, DEFAULTS do
    o[name] = opts[name] == nil and default or opts[name]
    if type(o[name]) ~= "number" or o[name] ~= o[name] or o[name] < 0 then
      core.raise(("pg.minimize.lbfgs: %s is a number of at least 0, not %s"):format(name, names.describe(o[name])))
    end
  end
  if o.curvature <= 0 or o.curvature >= 1 then
    core.raise(("pg.minimize.lbfgs: curvature lies between 0 and 1, not at %g"):format(o.curvature))
  end
  return o
end

-- The state of a minimization: at (a point as evaluate_at gives it), kept (pairs), iterations, evaluations.

-- One step of it. → why it ends: "converged", "iterations", "line", or nil.
local function step(run, value_and_grad, o)
  local at = run.at
  if at.norm <= run.tolerance then return "converged" end
  if run.iterations >= o.iterations then return "iterations" end
  local first = #run.kept == 0 and math.min(1, 1 / at.norm) or 1
  local found, count = advance(value_and_grad, at, find_direction(run.kept, at.gradient), first, o.curvature)
  run.evaluations = run.evaluations + count
  if found then
    remember(run.kept, o.memory, found.x - at.x, found.gradient - at.gradient)
    run.at, run.iterations = found, run.iterations + 1
  elseif #run.kept > 0 then
    run.kept = {} -- begin again along the gradient
    return step(run, value_and_grad, o)
  else
    return "line"
  end
end

local function report_of(run)
  local at = run.at
  return { x = at.x, value = at.value, gradient = at.norm, iterations = run.iterations, evaluations = run.evaluations,
    step = at.t }
end

--- pg.minimize.lbfgs(f, x0 [, { tolerance = 1e-10, iterations = 1000, memory = 10, curvature = 0.9, given = false,
-- on_step = }]) → result: A minimum of a smooth f from x0 on, a tensor or a vector of parameters, by L-BFGS with a line
-- search that meets the strong Wolfe conditions (Nocedal & Wright 2006, algorithms 7.4, 7.5 and ch. 3.5).
--   f: a function from such a tensor to a tensor of shape [], which is traced; or an evaluator, for the mean loss over
--     its data, as pg.minimize.objective has it; or with given = true any Lua function x → value, gradient.
--   tolerance: of the gradient's norm, relative to max(1, norm at the start). memory: steps that are remembered.
--   curvature: how flat the slope along a line has to become, as a share; 1e-8 makes searches all but exact.
--   on_step: called after each step with { x, value, gradient (its norm), iterations, evaluations, step }; the loop
--     ends when it returns false.
--   result: { x (like x0), value, gradient (its norm), iterations, evaluations, converged, why }; why: "converged",
--     "iterations", "stopped" (by on_step) or "line" (no better point is found along the line: rounding, or f is not
--     smooth, or it has no minimum).
-- The minimum is as exact as x0's dtype: take f64.
function M.lbfgs(f, x0, opts)
  opts = opts or {}
  local o = read_options(opts)
  if not core.is_tensor(x0) or (x0.dtype ~= "f32" and x0.dtype ~= "f64") then
    core.raise("pg.minimize.lbfgs: a tensor or vector in f32 or f64 to begin with comes second, not "
      .. names.describe(x0))
  end
  local value_and_grad = objective.of("pg.minimize.lbfgs", f, opts.given)
  local at = evaluate_at(value_and_grad, x0)
  local run = { at = at, kept = {}, iterations = 0, evaluations = 1 }
  run.tolerance = o.tolerance * math.max(1, at.norm)
  local why
  repeat
    why = step(run, value_and_grad, o)
    if not why and opts.on_step and opts.on_step(report_of(run)) == false then why = "stopped" end
  until why
  local result = report_of(run)
  result.step, result.why, result.converged = nil, why, why == "converged"
  return result
end

return M
