-- hyper.lua: hyperparameters of rules, families, corrections and stages. Numbers (and schedules, which yield numbers)
-- are run-time scalars of a traced program; booleans, strings and the names listed in `static` are part of the
-- trace's identity. A default of hyper.required must be given; a default of false may be replaced by a number ("none
-- unless given").

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
  local numeric = type(value) == "number" or schedule.is_schedule(value)
  if type(default) == "number" or schedule.is_schedule(default) then
    return numeric or per_tensor.is(value)
  end
  return type(default) == type(value)
end

-- Whether x lies in an interval written as "[0, 1)" or "(0, inf)"; its ends belong to it by its brackets.
local function lies_in(x, interval)
  local left, low, high, right = interval:match("^([%[%(])(%S+), (%S+)([%]%)])$")
  low, high = low == "-inf" and -math.huge or tonumber(low), high == "inf" and math.huge or tonumber(high)
  return (left == "[" and x >= low or x > low) and (right == "]" and x <= high or x < high)
end

local function check_value(owner, name, default, value, interval)
  if not type_fits(default, value) then
    local kind = type(default)
    local wanted = (kind == "number" or kind == "table") and "number or a schedule" or kind
    core.raise(("%s: %s must be a %s, not %s"):format(owner, name, wanted, names.describe(value)))
  elseif interval and type(value) == "number" and not lies_in(value, interval) then
    core.raise(("%s: %s must lie in %s, not %s"):format(owner, name, interval, names.describe(value)))
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
  return self
end

-- Evaluate every scalar at a step into self.values, which is reused.
function Hyper:evaluate(step, units)
  local values = self.values
  for i = 1, #self.scalars do
    local k = self.scalars[i]
    values[k] = schedule.value(self.given[k], step, units, self.owner, k)
  end
  return values
end

-- The table `o` for code that runs on plain numbers at a step.
function Hyper:numbers(step, units)
  return part.merge(self.given, self:evaluate(step, units))
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
