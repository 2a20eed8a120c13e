-- statistics.lua: what an evaluation yields: {g}, {g, h} or {g, H}. Arithmetic acts on every field alike, so a
-- correction is written on whole statistics: (now - o.alpha * old) + o.alpha * mean. The other operand is a number or
-- scalar, applied to every field, or statistics with the same fields.

local core = require "perigee.core"
local names = require "perigee.names"

local statistics = {}

local FIELDS = { "g", "h", "H" }

local Statistics = names.guard({}, "stats", { lacks = { g = true, h = true, H = true },
  more = function() return FIELDS end })
Statistics.__index = Statistics
Statistics.__name = "perigee.statistics"

local function is_statistics(x)
  return getmetatable(x) == Statistics
end

-- Statistics of a table of fields; any field but g, h, H is an error.
function statistics.new(fields)
  if is_statistics(fields) then
    return fields
  end
  local s = setmetatable({}, Statistics)
  for k, v in pairs(fields) do
    if k ~= "g" and k ~= "h" and k ~= "H" then
      core.raise(("statistics are {g}, {g, h} or {g, H}; there is no field '%s'"):format(tostring(k)))
    end
    s[k] = v
  end
  return s
end

statistics.is = is_statistics

-- The fields present, in the fixed order g, h, H.
function statistics.fields(s)
  local list = {}
  for _, k in ipairs(FIELDS) do
    if s[k] ~= nil then
      list[#list + 1] = k
    end
  end
  return list
end

local function operand(x, field)
  if not is_statistics(x) then
    return x
  end
  if x[field] == nil then
    core.raise(("statistics do not fit together: '%s' is missing on one side"):format(field))
  end
  return x[field]
end

-- The engine's function `name` on every field. Called for operators, and by the engine when an operand of its
-- functions is statistics.
function Statistics.__pg_apply(name, a, b)
  local of = is_statistics(a) and a or b
  if is_statistics(a) and is_statistics(b) and #statistics.fields(a) ~= #statistics.fields(b) then
    core.raise("statistics do not fit together: one side has more fields")
  end
  return statistics.map(of, function(_, field)
    if b == nil then
      return core.apply(name, nil, operand(a, field))
    end
    return core.apply(name, nil, operand(a, field), operand(b, field))
  end)
end

local OPERATORS = { __add = "add", __sub = "sub", __mul = "mul", __div = "div" }
for event, name in pairs(OPERATORS) do
  Statistics[event] = function(a, b)
    return Statistics.__pg_apply(name, a, b)
  end
end

function Statistics.__unm(a)
  return Statistics.__pg_apply("neg", a)
end

-- Apply f(field value, field name) to every field.
function statistics.map(s, f)
  local out = setmetatable({}, Statistics)
  for _, field in ipairs(statistics.fields(s)) do
    out[field] = f(s[field], field)
  end
  return out
end

return statistics
