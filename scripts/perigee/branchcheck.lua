-- branchcheck.lua: finds branches that tracing swallows. Lua cannot intercept `==`, `and` and `not` between a traced
-- scalar and a number, so `if ctx.t == 1` is decided once while tracing. Before a rule is used, its update runs on
-- plain Lua numbers at several steps, hyperparameters and points, and the traced program runs on the same values;
-- where they differ, a branch was swallowed. An update that plain numbers cannot run (it draws noise, say) runs on
-- eager vectors instead, with plain numbers for t and the hyperparameters.

local builder = require "perigee.builder"
local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local statistics = require "perigee.statistics"

local branchcheck = {}

local getmetatable_of, setmetatable_of = debug.getmetatable, debug.setmetatable

-- Vectors of one element, so that reductions over them agree with the number itself.
local POINTS = {
  { p = 0.5, g = 0.3, s = 0.2, h = 0.7 },
  { p = -1.25, g = 0, s = 0.4, h = 0.3 },
  { p = 0, g = -2, s = 0, h = 1.5 },
}
local STEPS = { 1, 2, 7 }
local Q_NUMBERS = { h0 = 0.5, ess = 100 }
local TOLERANCE = 1e-9

local function same(a, b)
  return a == b or (a ~= a and b ~= b) or math.abs(a - b) <= TOLERANCE * math.max(1, math.abs(a), math.abs(b))
end

-- Slot j at a point: different slots hold different numbers, all 0 at one of the points.
local function slot_value(point, j)
  return point.s == 0 and 0 or point.s + 0.1 * j
end

local function new_vector(layout, x)
  local v = core.vector(layout, "f64")
  v:data_write(0, x or 0)
  return v
end

-- The hyperparameter settings tried: as given, then each scalar alone at 0 and at 1.
local function settings(rule)
  local base = { ["weight decay"] = 0.01 }
  for k, v in pairs(rule.hyper:evaluate(0, { steps_per_epoch = 10, total_steps = 100 })) do
    base[k] = v
  end
  local list = { { label = "", values = base } }
  for _, k in ipairs(names.sorted(base)) do
    for _, x in ipairs { 0, 1 } do
      local values = {}
      for name, v in pairs(base) do
        values[name] = v
      end
      values[k] = x
      list[#list + 1] = { label = (", %s = %g"):format(k, x), values = values }
    end
  end
  return list
end

-- The traced side: a program over one-element vectors and the means to set and read them.
local function trace(rule, layout)
  local self = { numbers = {}, outputs = {}, slots = {}, p = new_vector(layout), g = new_vector(layout),
    h = new_vector(layout), H = core.tensor("f64", { 1, 1 }) }
  self.program = builder.trace(false, function(b)
    local function scalar(_, name)
      return b:scalar(self.numbers, name)
    end
    local p, values = b:slot(self.p), {}
    for _, name in ipairs(rule.slot_names) do
      self.slots[name] = new_vector(layout)
      values[name] = b:slot(self.slots[name])
    end
    local ctx = {
      t = scalar(nil, "t"), key = b:slot(core.key(1)), info = {}, weight_decay = scalar(nil, "weight decay"),
      q = { mean = p, h = b:slot(self.h), H = b:slot(self.H), h0 = b:scalar(Q_NUMBERS, "h0"),
        ess = b:scalar(Q_NUMBERS, "ess") },
    }
    local stats = statistics.new { g = b:slot(self.g) }
    self.outputs.p = b:output((rule:apply(p, stats, values, rule.hyper:traced(scalar, p), ctx)))
    for _, name in ipairs(rule.slot_names) do
      self.outputs[name] = b:output(values[name])
    end
  end, { executor = "interpret" })
  return self
end

-- Run the traced side: function name → number.
local function run_traced(rule, side, point, setting, t)
  for k, v in pairs(setting.values) do
    side.numbers[k] = v
  end
  side.numbers.t = t
  side.p:data_write(0, point.p)
  side.g:data_write(0, point.g)
  side.h:data_write(0, point.h)
  side.H:data_write(0, point.h)
  for j, name in ipairs(rule.slot_names) do
    side.slots[name]:data_write(0, slot_value(point, j))
  end
  side.program:run()
  return function(name)
    return side.program:result(side.outputs[name]):data_read(0)
  end
end

-- Run update with plain numbers for t and the hyperparameters; wrap(x) makes what stands for a coordinate.
local function run_plain(rule, point, setting, t, wrap)
  local values, o = {}, {}
  for j, name in ipairs(rule.slot_names) do
    values[name] = wrap(slot_value(point, j))
  end
  for k, v in pairs(rule.hyper.given) do
    o[k] = v
  end
  for _, k in ipairs(rule.hyper.scalars) do
    o[k] = setting.values[k]
  end
  local p = wrap(point.p)
  local ctx = {
    t = t, key = core.key(1), info = {}, weight_decay = setting.values["weight decay"],
    q = { mean = p, h = wrap(point.h), H = core.tensor("f64", { 1, 1 }, { point.h }), h0 = Q_NUMBERS.h0,
      ess = Q_NUMBERS.ess },
  }
  values.p = rule:apply(p, statistics.new { g = wrap(point.g) }, values, o, ctx)
  return function(name)
    local v = values[name]
    return type(v) == "number" and v or v:data_read(0)
  end
end

local function identity(x)
  return x
end

-- Run f with methods on numbers (x:sqrt(), t:eq(1)), as tensors have them.
local function with_number_methods(f, ...)
  local before = getmetatable_of(0)
  setmetatable_of(0, { __index = generic.number_methods })
  local ok, result = pcall(f, ...)
  setmetatable_of(0, before)
  return ok and result
end

local function report(rule, t, label, name, got, expected)
  local what = name == "p" and "the parameters" or ("slot '%s'"):format(name)
  core.raise(("rule %s, defined at %s, contains a branch that tracing decides once: at t = %d%s the traced update "
    .. "gives %.9g for %s where plain Lua numbers give %.9g. `==`, `and`, `or`, `not` and `if` on ctx.t, a "
    .. "hyperparameter or a tensor are not seen by the trace; write pg.where(pg.eq(a, b), x, y), or name the "
    .. "hyperparameter in `static`"):format(rule.name, rule.definition.location, t, label, got, what, expected))
end

-- Compare both sides at one point; false if the plain side cannot run at all.
local function compare(rule, layout, side, point, setting, t)
  local plain = with_number_methods(run_plain, rule, point, setting, t, identity)
    or with_number_methods(run_plain, rule, point, setting, t, function(x) return new_vector(layout, x) end)
  if not plain then
    return false
  end
  local traced = run_traced(rule, side, point, setting, t)
  for _, name in ipairs { "p", table.unpack(rule.slot_names) } do
    local ok, expected = pcall(plain, name)
    if not ok then
      return false
    end
    if not same(traced(name), expected) then
      report(rule, t, setting.label, name, traced(name), expected)
    end
  end
  return true
end

-- Raise if the update of `rule` contains a branch that tracing swallowed. Done once per set of static values. Silent
-- about updates that need shapes or inputs which the tiny problem does not have.
function branchcheck.check(rule)
  local checked, id = rule.definition.checked, rule.hyper:identity()
  if checked[id] or rule.per_tensor then
    return
  end
  checked[id] = true
  local layout = core.layout { { "a", { 1 } } }
  local ok, side = pcall(trace, rule, layout)
  if not ok then
    return -- the real trace will raise the same error with the real shapes
  end
  for _, setting in ipairs(settings(rule)) do
    for _, t in ipairs(STEPS) do
      for _, point in ipairs(POINTS) do
        if not compare(rule, layout, side, point, setting, t) then
          return
        end
      end
    end
  end
end

return branchcheck
