-- written.lua: hyperparameters as Lua text that gives back the same bits when it is read: numbers, durations and
-- ready-made schedules. A change made by hand in the middle of a run is kept in this form. A Lua function has no such
-- text; pg.schedule.formula is a function that has.

local names = require "perigee.names"
local schedule = require "perigee.schedule"

local written = {}

-- The shortest decimal text of a number that reads back as that number, of the same type.
function written.number(x)
  if math.type(x) == "integer" then return ("%d"):format(x) end
  if x == math.huge then return "math.huge" elseif x == -math.huge then return "-math.huge" end
  for digits = 15, 17 do
    local text = ("%." .. digits .. "g"):format(x)
    if tonumber(text) == x then return text:match("^%-?%d+$") and text .. ".0" or text end
  end
  return "0/0"
end

local function duration(x)
  if x.unit == "run" then
    return x.n == 1 and "pg.whole_run" or written.number(x.n) .. " * pg.whole_run"
  end
  return ("pg.%s(%s)"):format(x.unit, written.number(x.n))
end

-- A constructor's argument: a table of written values. nil and the reason where one cannot be written.
local function literal(t)
  local parts, keys = {}, {}
  for i = 1, #t do keys[i] = i end -- a list in its own order
  for _, key in ipairs(names.sorted(t)) do
    if math.type(key) ~= "integer" then keys[#keys + 1] = key end
  end
  for i, key in ipairs(keys) do
    local value = t[key]
    local is_plain = type(value) == "table" and getmetatable(value) == nil
    local text, why = (is_plain and literal or written.encode)(value)
    if not text then return nil, why end
    parts[i] = math.type(key) == "integer" and text or ("%s = %s"):format(key, text)
  end
  return ("{ %s }"):format(table.concat(parts, ", "))
end

-- The text of a number, duration or ready-made schedule; nil and the reason for anything else.
function written.encode(value)
  if type(value) == "number" then return written.number(value) end
  if type(value) == "boolean" then return tostring(value) end
  if type(value) == "string" then return (("%q"):format(value):gsub("\\\n", "\\n")) end
  if schedule.is_duration(value) then return duration(value) end
  if type(value) == "function" then
    return nil, "a Lua function cannot be written down to be replayed; give its text, as "
      .. "\"0.1 / (1 + step / 100)\" or \"function(step) return … end\""
  end
  if not schedule.is_schedule(value) then return nil, names.describe(value) .. " cannot be written down" end
  local argument = value.argument
  if type(argument) ~= "table" then
    local text, why = written.encode(argument)
    return text and ("pg.schedule.%s(%s)"):format(value.name, text), why
  end
  local text, why = literal(argument)
  return text and ("pg.schedule.%s %s"):format(value.name, text), why
end

-- What such a text may use: a run directory may come from somebody else.
local READABLE = { pg = { schedule = {}, epochs = schedule.epochs, steps = schedule.steps,
  whole_run = schedule.whole_run }, math = { huge = math.huge } }
for _, name in ipairs { "constant", "linear", "cosine", "step", "piecewise", "warmup", "hold", "by_samples",
  "formula" } do
  READABLE.pg.schedule[name] = schedule[name]
end

-- The value of a text that encode wrote; nil and a message for any other.
function written.decode(text)
  local chunk, message = load("return " .. text, "=value", "t", READABLE)
  if not chunk then return nil, message end
  local ok, value = pcall(chunk)
  if not ok then return nil, tostring(value) end
  return value
end

return written
