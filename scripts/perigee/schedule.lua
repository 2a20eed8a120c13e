-- schedule.lua: numbers that change over a run. A schedule is a number, a function of the step, or one of the
-- ready-made ones here; all are evaluated on the host before each step, with the 0-based step, in f64, so they never
-- recompile anything. Durations are whole steps: a number, pg.steps(n), pg.epochs(n) or pg.whole_run; the last two
-- are turned into steps when the run knows how long an epoch and the run are.

local core = require "perigee.core"
local names = require "perigee.names"

local schedule = {}

local Duration = {}
Duration.__index = Duration
Duration.__name = "perigee.duration"

local Schedule = {}
Schedule.__index = Schedule
Schedule.__name = "perigee.schedule"

--- pg.epochs(n), pg.schedule.epochs(n) → duration: n epochs of ceil(examples / batch) steps each. n may be a fraction;
-- the product is rounded to the nearest step.
function schedule.epochs(n)
  if type(n) ~= "number" then core.raise("pg.epochs takes a number of epochs, not " .. names.describe(n)) end
  return setmetatable({ unit = "epochs", n = n }, Duration)
end

--- pg.steps(n), pg.schedule.steps(n) → duration: n steps, the same as the number n.
function schedule.steps(n)
  if type(n) ~= "number" then core.raise("pg.steps takes a number of steps, not " .. names.describe(n)) end
  return setmetatable({ unit = "steps", n = n }, Duration)
end

--- pg.whole_run, pg.schedule.whole_run: The number of steps of the run, as a duration; 0.5 * pg.whole_run is half of
-- it.
schedule.whole_run = setmetatable({ unit = "run", n = 1 }, Duration)

function Duration:__mul(other)
  if getmetatable(self) ~= Duration then
    self, other = other, self
  end
  return setmetatable({ unit = self.unit, n = self.n * other }, Duration)
end

function Duration:__tostring()
  return self.unit == "run" and "whole_run" or ("%s(%.17g)"):format(self.unit, self.n)
end

local function round(x)
  return math.floor(x + 0.5)
end

--- pg.schedule.resolve_steps(duration [, units]) → number: A duration in steps. units: { steps_per_epoch =, total_steps
-- = }; a missing one that is needed is an error.
function schedule.resolve_steps(duration, units)
  if type(duration) == "number" then
    return round(duration)
  end
  if getmetatable(duration) ~= Duration then
    core.raise("a duration is a number of steps, pg.steps(n), pg.epochs(n) or pg.whole_run, not "
      .. names.describe(duration))
  end
  if duration.unit == "steps" then
    return round(duration.n)
  elseif duration.unit == "epochs" then
    local per_epoch = units and units.steps_per_epoch
    if not per_epoch and units and units.varies then
      core.raise("pg.epochs: steps have different sizes in this run, so an epoch has no length in steps; schedules may "
        .. "count examples: pg.schedule.by_samples { of = … }")
    elseif not per_epoch then
      core.raise("pg.epochs: the length of an epoch is not known (the evaluator needs a source, or steps_per_epoch)")
    end
    return round(duration.n * per_epoch)
  end
  local total = units and units.total_steps
  if not total then
    core.raise("pg.whole_run: the length of the run is not known here (the evaluator needs total_steps)")
  end
  return round(duration.n * total)
end

--- pg.schedule.check_duration(owner, name, x, least): An error at the recipe's line, in the name of `owner`, unless x
-- is nil or a duration of at least `least` steps, as far as that is known: for options of corrections of one's own.
function schedule.check_duration(owner, name, x, least)
  if type(x) == "table" and getmetatable(x) == Duration then
    if x.unit ~= "steps" or x.n >= least then return end
  elseif x == nil or type(x) == "number" and x >= least then
    return
  end
  local found = getmetatable(x) == Duration and tostring(x) or names.describe(x)
  core.raise(("%s: %s must be a number of steps of at least %d, pg.steps(n), pg.epochs(n) or pg.whole_run, not %s")
    :format(owner, name, least, found))
end

--- pg.schedule.is_duration(x): Whether x is a duration of pg.epochs, pg.steps or pg.whole_run.
function schedule.is_duration(x)
  return getmetatable(x) == Duration
end

--- pg.schedule.is_schedule(x): Whether x may stand for a number that changes over the run: a function or a ready-made
-- schedule.
function schedule.is_schedule(x)
  return type(x) == "function" or getmetatable(x) == Schedule
end

--- pg.schedule.value(x, step [, units, owner, name]) → number: The value of a number, function or schedule at a 0-based
-- step. units: { steps_per_epoch =, total_steps = }, for durations. owner, name: whose value it is, for messages.
function schedule.value(x, step, units, owner, name)
  if type(x) == "number" then
    return x
  end
  local v
  if type(x) == "function" then
    v = x(step)
  else
    v = x.at(step, units)
  end
  if type(v) ~= "number" then
    core.raise(("%s%sthe schedule gave %s at step %d; a number was expected"):format(owner and owner .. ": " or "",
      name and name .. ": " or "", names.describe(v), step))
  end
  return v
end

-- Schedules answer calls too: s(step) or s(step, units).
function Schedule:__call(step, units)
  return self.at(step, units)
end

function Schedule:__tostring()
  return self.text
end

local function describe(name, spec)
  local parts = {}
  for _, k in ipairs(names.sorted(spec)) do
    local v = spec[k]
    parts[#parts + 1] = ("%s = %s"):format(tostring(k), type(v) == "number" and ("%.17g"):format(v) or tostring(v))
  end
  return ("%s { %s }"):format(name, table.concat(parts, ", "))
end

-- argument: what the constructor was called with, from which written.lua writes the call.
local function make(name, argument, at)
  local text = describe(name, type(argument) == "table" and argument or { argument })
  return setmetatable({ at = at, text = text, name = name, argument = argument }, Schedule)
end

-- Check the options of a schedule. fields: name → "number", "duration", "period" (a duration of at least a step),
-- "durations" (a list) or "value" (a number or a schedule), with a "?" behind what may be left out.
local function check_fields(name, spec, fields)
  local owner = "pg.schedule." .. name
  names.check(owner, spec, names.sorted(fields))
  for _, field in ipairs(names.sorted(fields)) do
    local kind, optional = fields[field]:match("^(%a+)([?]?)$")
    local value = spec[field]
    if value == nil and optional == "" then
      core.raise(("%s needs '%s'"):format(owner, field))
    elseif kind == "duration" or kind == "period" then
      schedule.check_duration(owner, field, value, kind == "period" and 1 or 0)
    elseif kind == "durations" then
      if value ~= nil and (type(value) ~= "table" or schedule.is_duration(value)) then
        core.raise(("%s: %s is a list of steps or durations, not %s"):format(owner, field, names.describe(value)))
      end
      for _, entry in ipairs(value or {}) do schedule.check_duration(owner, field, entry, 0) end
    elseif value ~= nil and type(value) ~= "number" and not (kind == "value" and schedule.is_schedule(value)) then
      core.raise(("%s: %s must be a number%s, not %s"):format(owner, field, kind == "value" and " or a schedule" or "",
        names.describe(value)))
    end
  end
end

--- pg.schedule.constant(x) → schedule: x at every step.
function schedule.constant(x)
  return make("constant", x, function()
    return x
  end)
end

--- pg.schedule.linear { from =, to =, over =, start = 0 } → schedule: From `from` at step `start` in a straight line to
-- `to` at step start + over; constant outside. over and start: steps or durations.
function schedule.linear(spec)
  check_fields("linear", spec, { from = "number", to = "number", over = "duration", start = "duration?" })
  local from, to, over = spec.from, spec.to, spec.over
  return make("linear", spec, function(step, units)
    local length = schedule.resolve_steps(over, units)
    local done = step - schedule.resolve_steps(spec.start or 0, units)
    if done <= 0 then
      return from
    elseif done >= length then
      return to
    end
    return from + (to - from) * (done / length)
  end)
end

--- pg.schedule.cosine { peak =, warmup = 0, total = pg.whole_run, floor = 0 } → schedule: (step + 1) / warmup of `peak`
-- during the first `warmup` steps, then half a cosine from `peak` down to `floor` at step `total` (Loshchilov & Hutter
-- 2017, without restarts), then `floor`.
function schedule.cosine(spec)
  check_fields("cosine", spec, { peak = "number", warmup = "duration?", total = "duration?", floor = "number?" })
  local peak, floor = spec.peak, spec.floor or 0
  return make("cosine", spec, function(step, units)
    local warmup = schedule.resolve_steps(spec.warmup or 0, units)
    local total = schedule.resolve_steps(spec.total or schedule.whole_run, units)
    if step < warmup then
      return peak * (step + 1) / warmup
    elseif step >= total then
      return floor
    end
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
  end)
end

--- pg.schedule.step { from =, factor =, every =, at = {…} } → schedule: `from` times `factor` for each `every` steps
-- passed, or for each of the steps in `at` that is reached. Either every or at is given, in steps or durations.
function schedule.step(spec)
  check_fields("step", spec, { from = "number", factor = "number", every = "period?", at = "durations?" })
  local from, factor = spec.from, spec.factor
  if (spec.every == nil) == (spec.at == nil) then
    core.raise("pg.schedule.step needs either 'every' or 'at'")
  end
  return make("step", spec, function(step, units)
    local drops = 0
    if spec.every then
      drops = step // schedule.resolve_steps(spec.every, units)
    else
      for _, at in ipairs(spec.at) do
        drops = drops + (step >= schedule.resolve_steps(at, units) and 1 or 0)
      end
    end
    return from * factor ^ drops
  end)
end

--- pg.schedule.piecewise { { value, until }, …, { value } } → schedule: Each value holds before its step `until`; the
-- last one to the end. Values may be schedules, which see the step of the run.
function schedule.piecewise(pieces)
  if type(pieces) ~= "table" or getmetatable(pieces) ~= nil or #pieces == 0 then
    core.raise("pg.schedule.piecewise takes a list of pieces { value, step at which it ends }, not "
      .. names.describe(pieces))
  end
  for i, piece in ipairs(pieces) do
    local value = type(piece) == "table" and piece[1]
    if type(value) ~= "number" and not schedule.is_schedule(value) then
      core.raise(("pg.schedule.piecewise: piece %d is { value, step at which it ends }, not %s"):format(i,
        names.describe(piece)))
    elseif i < #pieces and piece[2] == nil then
      core.raise("pg.schedule.piecewise: every piece but the last needs the step at which it ends")
    end
    schedule.check_duration("pg.schedule.piecewise", ("the end of piece %d"):format(i), piece[2], 0)
  end
  local result = make("piecewise", pieces, function(step, units)
    for i, piece in ipairs(pieces) do
      if i == #pieces or step < schedule.resolve_steps(piece[2], units) then
        return schedule.value(piece[1], step, units)
      end
    end
  end)
  result.text = ("piecewise { %d pieces }"):format(#pieces)
  return result
end

--- pg.schedule.warmup { over =, after = } → schedule: `after` (a number or schedule) scaled by (step + 1) / over during
-- the first `over` steps.
function schedule.warmup(spec)
  check_fields("warmup", spec, { over = "duration", after = "value" })
  local over, after = spec.over, spec.after
  return make("warmup", spec, function(step, units)
    local length = schedule.resolve_steps(over, units)
    return schedule.value(after, step, units) * math.min(1, (step + 1) / math.max(1, length))
  end)
end

--- pg.schedule.hold { of =, every = } → schedule: The value that `of` has at the first step of each period of `every`
-- steps: constant within a segment of SVRG.
function schedule.hold(spec)
  check_fields("hold", spec, { of = "value", every = "period" })
  local of, every = spec.of, spec.every
  return make("hold", spec, function(step, units)
    local length = schedule.resolve_steps(every, units)
    return schedule.value(of, step - step % length, units)
  end)
end

--- pg.schedule.by_samples { of = } → schedule: The value that `of` has at the number of examples that the steps before
-- have seen, in place of the number of steps: for `of` an example is a step, pg.epochs(1) the data, pg.whole_run the
-- examples of the run. For batches whose size changes.
function schedule.by_samples(spec)
  check_fields("by_samples", spec, { of = "value" })
  local of = spec.of
  return make("by_samples", spec, function(_, units)
    if not units or not units.samples then
      core.raise("pg.schedule.by_samples: how many examples were seen is not known here")
    end
    return schedule.value(of, units.samples, { steps_per_epoch = units.examples, total_steps = units.total_samples })
  end)
end

-- What the text of a formula may use besides `step`.
local FORMULA = { math = {} }
for _, name in ipairs { "abs", "ceil", "cos", "exp", "floor", "huge", "log", "max", "min", "pi", "sin", "sqrt" } do
  FORMULA[name], FORMULA.math[name] = math[name], math[name]
end

--- pg.schedule.formula(text) → schedule: A schedule that can be written down: an expression of `step` (0-based), as
-- "0.1 / (1 + step / 100)", or the text of a function of the step, as "function(step) … end". It may use numbers, abs,
-- ceil, cos, exp, floor, log, max, min, sin, sqrt, pi and huge.
function schedule.formula(text)
  if type(text) ~= "string" then
    core.raise("pg.schedule.formula takes an expression of step as a string, as \"0.1 / (1 + step)\", not "
      .. names.describe(text))
  end
  local body = text:match("^%s*function%s*%(") and text or ("function(step) return %s\nend"):format(text)
  local env = setmetatable({}, { __index = function(_, name)
    local value = FORMULA[name]
    if value ~= nil then return value end
    local known = names.sorted(FORMULA)
    known[#known + 1] = "step"
    core.raise(names.unknown("name", name, "a formula", known))
  end })
  local chunk, message = load("return " .. body, "=formula", "t", env)
  if not chunk then
    core.raise(("pg.schedule.formula %q: %s"):format(text, (message:gsub("^formula:%d+: ", ""))))
  end
  return make("formula", text, chunk())
end

return schedule
