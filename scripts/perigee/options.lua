-- options.lua: what the command line may set. Owns the parsing of key=value words, their types and the messages for
-- mistakes, and the search for the nearest known word that other messages use. Knows nothing of runs.

local options = {
  arguments = {}, -- {{key, text}, …} of this invocation, set by the command line before the recipe runs
  begun = false, -- whether somebody has said what the words are
  on_declare = nil, -- called with the defaults that a recipe declares, before they are resolved (sweep.lua)
  resolved = nil, -- what pg.options returned in this invocation, for settings.json
}

-- Edit distance by rows: insert, delete, replace, swap two neighbours.
local function edit_distance(a, b)
  local before, row = nil, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local above = row
    row = { [0] = i }
    for j = 1, #b do
      local replaced = above[j - 1] + (a:byte(i) == b:byte(j) and 0 or 1)
      row[j] = math.min(replaced, above[j] + 1, row[j - 1] + 1)
      if before and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before = above
  end
  return row[#b]
end

-- How many edits a word may be away from what it was meant to be.
local function most_edits(word)
  if #word <= 4 then return math.min(1, #word // 2) end
  return math.max(2, #word // 3)
end

-- Whether one of two words begins with all of the other, which has at least three letters: "batch_size", "batch".
local function begins_alike(a, b)
  if #a > #b then a, b = b, a end
  return #a >= 3 and b:sub(1, #a) == a
end

-- The word of the list `known` nearest to `word`, or nil if none is near enough to be what was meant.
function options.nearest(word, known)
  local wanted = word:lower()
  local best, best_distance = nil, most_edits(word) + 1
  for _, candidate in ipairs(known) do
    local lower = candidate:lower()
    local distance = edit_distance(wanted, lower)
    if distance > 2 and begins_alike(wanted, lower) then distance = 2 end
    if distance < best_distance then best, best_distance = candidate, distance end
  end
  return best
end

local function sorted_keys(t)
  local keys = {}
  for key in next, t do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- '; did you mean "x"?' or "".
function options.hint(word, known)
  local near = options.nearest(word, known)
  return near and ('; did you mean "%s"?'):format(near) or ""
end

-- A decimal number as people write it; Lua's own tonumber also takes hexadecimal, blanks and more.
local function parse_number(text)
  local mantissa = text:match("^[+-]?(.-)$"):gsub("[eE][+-]?%d+$", "")
  if not (mantissa:match("^%d+%.?%d*$") or mantissa:match("^%.%d+$")) then return nil end
  local value = tonumber((text:gsub("^%+", "")))
  if not value or value ~= value or value == math.huge or value == -math.huge then return nil end
  return value
end

local function describe(default)
  if type(default) == "table" then
    local words = {}
    for i, choice in ipairs(default) do words[i] = tostring(choice) end
    return "one of " .. table.concat(words, ", ")
  elseif type(default) == "boolean" then
    return "true or false"
  elseif math.type(default) == "integer" then
    return "a whole number or a number"
  end
  return "a " .. type(default)
end

local parsers = {
  number = function(text, default)
    local value = parse_number(text)
    -- 1e4 for a count stays a count
    return value and math.type(default) == "integer" and math.tointeger(value) or value
  end,
  boolean = function(text)
    if text == "true" then return true end
    if text == "false" then return false end
  end,
  string = function(text) return text end,
  table = function(text, choices)
    for _, choice in ipairs(choices) do
      if tostring(choice) == text then return choice end
      if type(choice) == "number" and parse_number(text) == choice then return choice end
    end
  end,
}

local function check_defaults(defaults)
  if type(defaults) ~= "table" then error("pg.options takes a table of defaults, as pg.options{ lr = 0.1 }", 3) end
  for key, default in next, defaults do
    if type(key) ~= "string" or not key:match("^[%a_][%w_]*$") then
      error(("pg.options: %s is not an option name"):format(tostring(key)), 3)
    end
    if not parsers[type(default)] then
      error(("pg.options: %s: a %s cannot be set from the command line"):format(key, type(default)), 3)
    end
    if type(default) == "table" then
      if #default == 0 then error(("pg.options: %s has no choices"):format(key), 3) end
      for _, choice in ipairs(default) do
        if type(choice) ~= "string" and type(choice) ~= "number" then
          error(("pg.options: %s: a choice is a string or a number, not a %s"):format(key, type(choice)), 3)
        end
      end
    end
  end
end

-- What pg.options returns: a name that was not declared is an error, not the nil that would become some default.
local Values = { __name = "options" }
function Values.__index(values, name)
  error(("pg.options: there is no option %s%s"):format(tostring(name),
    options.hint(tostring(name), sorted_keys(values))), 2)
end

-- A message for pg.options to raise, ended by the list of what may be set.
local function unknown_message(key, known)
  if #known == 0 then return ("unknown option %s: this recipe has none"):format(key) end
  return ("unknown option %s%s (options: %s)"):format(key, options.hint(key, known), table.concat(known, ", "))
end

-- Resolve `defaults` against the words {{key, text}, …}: a table of values, or nil and a message.
function options.resolve(defaults, words)
  local values, seen = {}, {}
  local known = sorted_keys(defaults)
  for _, name in ipairs(known) do
    local default = defaults[name]
    if type(default) == "table" then default = default[1] end
    values[name] = default
  end
  for _, word in ipairs(words) do
    local key, text = word[1], word[2]
    local default = defaults[key]
    if default == nil then return nil, unknown_message(key, known) end
    if seen[key] then return nil, ("option %s is given twice"):format(key) end
    seen[key] = true
    local value = parsers[type(default)](text, default)
    if value == nil then return nil, ('option %s=%s: expected %s'):format(key, text, describe(default)) end
    values[key] = value
  end
  return values
end

--- pg.options(defaults) → table: What the command line may set, with defaults: pg.options { lr = 0.1, epochs = 10,
-- method = { "svrg", "ivon" } }, and then perigee RECIPE.lua lr=0.05 method=ivon. A list is a choice whose first entry
-- is the default. Values are numbers, strings and booleans. Unknown keys, named with the nearest known one, and values
-- of a wrong type end the command with status 2. Called once in a recipe.
function options.options(defaults)
  check_defaults(defaults)
  if options.on_declare then options.on_declare(defaults) end
  if options.resolved then error("pg.options is called once in a recipe", 2) end
  if not options.begun then options.take_arguments() end
  local values, message = options.resolve(defaults, options.arguments)
  if not values then options.misused(message) end
  options.resolved = values
  return setmetatable(values, Values)
end

local Misuse = { __tostring = function(raised) return raised.usage end }

-- Raise what ends the command line with exit code 2 and this message.
function options.misused(message) error(setmetatable({ usage = message }, Misuse), 0) end

-- key=value words that no pg.options call has looked at: a message, or nil.
function options.unused()
  if options.resolved or #options.arguments == 0 then return nil end
  return unknown_message(options.arguments[1][1], {})
end

-- Split command-line words: {{key, text}, …}, or nil and a message.
function options.split(words)
  local out = {}
  for i, word in ipairs(words) do
    local key, text = word:match("^([%a_][%w_]*)=(.*)$")
    if not key and words[i + 1] == "=" then
      return nil, ("%s = %s: write %s=%s without blanks"):format(word, words[i + 2], word, words[i + 2])
    end
    if not key then return nil, ('"%s" is not key=value'):format(word) end
    out[i] = { key, text }
  end
  return out
end

-- Forget the previous recipe's answers and take this one's words.
function options.begin(words)
  options.arguments, options.resolved, options.begun = words or {}, nil, true
end

-- A recipe run by the stock interpreter, `lua5.4 recipe.lua lr=1`: its words are the interpreter's.
function options.take_arguments()
  local given = rawget(_G, "arg")
  if type(given) ~= "table" or not tostring(given[0]):match("%.lua$") then return end
  local words, message = options.split(given)
  if not words then options.misused(message) end
  options.begin(words)
end

return options
