-- hyper.lua: hyperparameters of rules, families, corrections and stages. Numbers (and schedules, which yield numbers)
-- are run-time scalars of a traced program; booleans, strings and the names listed in `static` are part of the
-- trace's identity. A default of hyper.required must be given; a default of false may be replaced by a number ("none
-- unless given"), and one of "auto" by true or false.

local core = require "perigee.core"
local names = require "perigee.names"
local part = require "perigee.part"
local per_tensor = require "perigee.per_tensor"
local schedule = require "perigee.schedule"

local hyper = {}

hyper.required = setmetatable({}, { __tostring = function() return "required" end })

local Hyper = {}
Hyper.__index = Hyper

local function type_fits(default, value)
  if default == hyper.required or default == false then
    return true
  end
  if default == "auto" then
    return value == "auto" or type(value) == "boolean"
  end
  if type(default) == "string" and value == false then
    return true -- "none of them", which the definition's check knows or refuses
  end
  local numeric = type(value) == "number" or schedule.is_schedule(value)
  if type(default) == "number" or schedule.is_schedule(default) or per_tensor.is(default) then
    return numeric or per_tensor.is(value)
  end
  return type(default) == type(value)
end

local function read_end(text) return text == "-inf" and -math.huge or text == "inf" and math.huge or tonumber(text) end

-- An interval written as "[0, 1)" or "(0, inf)" → its ends, and whether they belong to it; nil if it is none.
local function read_interval(text)
  local left, low, high, right = tostring(text):match("^([%[%(])%s*(%S-)%s*,%s*(%S-)%s*([%]%)])$")
  low, high = left and read_end(low), left and read_end(high)
  if low and high then return low, high, left == "[", right == "]" end
end

local function lies_in(x, interval)
  local low, high, from, to = read_interval(interval)
  return (from and x >= low or x > low) and (to and x <= high or x < high)
end

-- Check the limits of a part that is being defined: intervals for hyperparameters that it has.
function hyper.check_limits(owner, definition)
  local limits = definition.limits or {}
  names.check("the limits of " .. owner, limits, names.sorted(definition.hyper or {}))
  for _, name in ipairs(names.sorted(limits)) do
    if not read_interval(limits[name]) then
      core.raise(('%s: the limits of %s are written as "[0, 1)" or "(0, inf)", not %s'):format(owner, name,
        names.describe(limits[name])))
    end
  end
end

local function check_value(owner, name, default, value, interval)
  if not type_fits(default, value) then
    local kind = type(default)
    local wanted = (kind == "number" or kind == "table") and "number or a schedule"
      or default == "auto" and 'boolean or "auto"' or kind
    core.raise(("%s: %s must be a %s, not %s"):format(owner, name, wanted, names.describe(value)))
  elseif interval and type(value) == "number" and not lies_in(value, interval) then
    core.raise(("%s: %s must lie in %s, not %s"):format(owner, name, interval, names.describe(value)))
  end
end

-- Counts changes of hyperparameters while runs go on: who keeps something derived from them compares it.
hyper.changes = 0

-- Put the scalars that are plain numbers where they are read, and note which ones are not.
local function settle(self)
  self.moving = {}
  for _, k in ipairs(self.scalars) do
    if type(self.given[k]) == "number" then
      self.values[k] = self.given[k]
    else
      self.moving[#self.moving + 1] = k
    end
  end
end

-- Merge `given` over `defaults`. owner: "rule sgd", for messages. reserved: further keys allowed in `given` and left
-- out here. limits: name → the interval that numbers given for it must lie in.
function hyper.resolve(owner, defaults, given, static, reserved, limits)
  local known = names.sorted(defaults)
  local allowed = { table.unpack(known) }
  for _, k in ipairs(reserved or {}) do
    allowed[#allowed + 1] = k
  end
  names.check(owner, given, allowed)
  local is_static = {}
  for _, k in ipairs(static or {}) do
    is_static[k] = true
  end
  local self = setmetatable({ owner = owner, given = {}, scalars = {}, statics = {}, values = {}, tensors = {} }, Hyper)
  for _, k in ipairs(known) do
    local default, value = defaults[k], given[k]
    if value == nil then
      value = default
    else
      check_value(owner, k, default, value, limits and limits[k])
    end
    if value == hyper.required then
      core.raise(("%s needs '%s'"):format(owner, k))
    end
    self.given[k] = value
    if (type(value) == "number" or schedule.is_schedule(value)) and not is_static[k] then
      self.scalars[#self.scalars + 1] = k
    elseif type(value) == "userdata" or per_tensor.is(value) then
      self.tensors[#self.tensors + 1] = k
    else
      self.statics[#self.statics + 1] = k
    end
  end
  settle(self)
  return self
end

-- Replace a scalar while a run goes on.
function Hyper:set(name, value)
  self.given[name] = value
  settle(self)
  hyper.changes = hyper.changes + 1
end

-- Evaluate every scalar at a step into self.values, which is reused.
function Hyper:evaluate(step, units)
  local values, moving = self.values, self.moving
  for i = 1, #moving do
    local k = moving[i]
    values[k] = schedule.value(self.given[k], step, units, self.owner, k)
  end
  return values
end

-- The table `o` for code that runs on plain numbers at a step.
function Hyper:numbers(step, units)
  return part.merge(self.given, self:evaluate(step, units))
end

-- The values of the last evaluation, and what is no number, as a table to read; the same one each time.
function Hyper:reader()
  local values, given = self.values, self.given
  self.readable = self.readable or setmetatable({}, { __index = function(_, name)
    local value = values[name]
    if value == nil then return given[name] end
    return value
  end })
  return self.readable
end

-- The table `o` that a traced function sees: scalar(values, name) makes a run-time scalar of a builder; per-tensor
-- values are spread over `like`.
function Hyper:traced(scalar, like)
  local o = {}
  for _, k in ipairs(self.scalars) do
    o[k] = scalar(self.values, k)
  end
  for _, k in ipairs(self.statics) do
    o[k] = self.given[k]
  end
  for _, k in ipairs(self.tensors) do
    o[k] = hyper.spread(self.given[k], like)
  end
  return o
end

-- A number, traced scalar or tensor as it is; pg.per_tensor as a vector like `like`.
function hyper.spread(value, like)
  if per_tensor.is(value) then
    return value:spread(like.layout, like.dtype)
  end
  return value
end

-- The statics as one string: part of a program's identity.
function Hyper:identity()
  local parts = {}
  for _, k in ipairs(self.statics) do
    parts[#parts + 1] = k .. "=" .. tostring(self.given[k])
  end
  return table.concat(parts, ",")
end

return hyper
