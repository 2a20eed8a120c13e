-- grid.lua: all combinations of several values, in a fixed order: pg.grid for recipes, and what a command line means by
-- lr=0.1,0.3 seed=1..5. Knows nothing of runs; sweep.lua executes a recipe for each combination.

local core = require "perigee.core"
local names = require "perigee.names"
local options = require "perigee.options"

local grid = {}

local MOST = 10000 -- combinations; more than that is a slip of the keyboard

-- "lr0.1-seed2" of { lr = 0.1, seed = 2 }: fit for the name of a run.
local Combination = { __name = "perigee.combination", __tostring = function(self)
  local parts = {}
  for i, key in ipairs(names.sorted(self)) do
    local value = self[key]
    local text = type(value) == "number" and ("%.14g"):format(value) or tostring(value)
    parts[i] = key .. text:gsub("[^%w_%.%-]+", "_")
  end
  return table.concat(parts, "-")
end }

-- The text of key=value words for a name: {{"lr", "0.1"}, {"seed", "2"}} → "lr0.1-seed2".
function grid.name_of(words)
  local parts = {}
  for i, word in ipairs(words) do parts[i] = word[1] .. word[2]:gsub("[^%w_%.%-]+", "_"):gsub("^%-", "m") end
  return table.concat(parts, "-")
end

-- Every way to take one of each list: an iterator of lists of indices, the last one fastest.
local function each_choice(sizes)
  local at
  return function()
    if not at then
      at = {}
      for i = 1, #sizes do at[i] = 1 end
      return at
    end
    for i = #sizes, 1, -1 do
      if at[i] < sizes[i] then
        at[i] = at[i] + 1
        return at
      end
      at[i] = 1
    end
    return nil
  end
end

--- pg.grid { lr = { 0.1, 0.3 }, seed = { 1, 2, 3 } } → iterator: All combinations, for a recipe's loop: for o in
-- pg.grid { … } do train(o.lr, o.seed) end. The names go in sorted order, the last one fastest; each list in its own
-- order. A value that is no list is the only one of its name. tostring(o) is "lr0.1-seed1", for names of runs.
function grid.grid(lists)
  if type(lists) ~= "table" or getmetatable(lists) or #lists > 0 then
    core.raise(("pg.grid takes lists by name, as pg.grid { lr = { 0.1, 0.3 } }, not %s"):format(names.describe(lists)))
  end
  local keys, sizes, values = names.sorted(lists), {}, {}
  for i, key in ipairs(keys) do
    local list = lists[key]
    values[i] = type(list) == "table" and not getmetatable(list) and list or { list }
    sizes[i] = #values[i]
    if sizes[i] == 0 then core.raise(("pg.grid: %s has no values"):format(key)) end
  end
  local choices = each_choice(sizes)
  return function()
    local at = choices()
    if not at then return nil end
    local combination = setmetatable({}, Combination)
    for i, key in ipairs(keys) do combination[key] = values[i][at[i]] end
    return combination
  end
end

-- ---- the command line -----------------------------------------------------------------------------------------------

-- The parts of a text between commas that stand in no braces.
local function split_at_commas(text)
  local parts, depth, from = {}, 0, 1
  for i = 1, #text do
    local c = text:sub(i, i)
    if c == "{" then depth = depth + 1 elseif c == "}" then depth = depth - 1 end
    if c == "," and depth == 0 then
      parts[#parts + 1] = text:sub(from, i - 1)
      from = i + 1
    end
  end
  parts[#parts + 1] = text:sub(from)
  return parts
end

-- What a part of a list stands for: "1..5" for five numbers, anything else for itself. Added to `out`.
local function add_part(out, key, part)
  local first, last = part:match("^(%-?%d+)%.%.(%-?%d+)$")
  if not first then
    out[#out + 1] = part
    return
  end
  first, last = math.tointeger(tonumber(first)), math.tointeger(tonumber(last))
  if not first or not last or first > last or last - first >= MOST then
    options.misused(("option %s: %s is no range, as 1..5"):format(key, part))
  end
  for n = first, last do out[#out + 1] = ("%d"):format(n) end
end

-- Whether a word may stand for several values; a string may just hold a comma.
function grid.may_be_several(words)
  for _, word in ipairs(words) do
    if word[2]:find(",", 1, true) or word[2]:match("^%-?%d+%.%.%-?%d+$") or word[2]:match("^{.*}$") then return true end
  end
  return false
end

-- The values that the text of an option stands for. default: what the recipe declares for it. In a string a comma is a
-- comma, so a list of strings stands in braces; so may any other list.
local function values_of(key, text, default)
  local inside = text:match("^{(.*)}$")
  if not inside and type(default) == "string" then return { text } end
  local out = {}
  for _, part in ipairs(split_at_commas(inside or text)) do add_part(out, key, part) end
  return out
end

-- All combinations of the words {{key, text}, …} for a recipe with these defaults, as lists of words, the last word
-- fastest; and which words have several values (key → true). Every combination has been checked.
function grid.expand(words, defaults)
  local sizes, values, varies, count = {}, {}, {}, 1
  for i, word in ipairs(words) do
    values[i] = values_of(word[1], word[2], defaults[word[1]])
    sizes[i], varies[word[1]] = #values[i], #values[i] > 1 or nil
    count = count * #values[i]
  end
  if count > MOST then options.misused(("%d combinations are more than %d"):format(count, MOST)) end
  local out = {}
  for at in each_choice(sizes) do
    local combination = {}
    for i, word in ipairs(words) do combination[i] = { word[1], values[i][at[i]] } end
    local ok, message = options.resolve(defaults, combination)
    if not ok then options.misused(message) end
    out[#out + 1] = combination
  end
  return out, varies
end

return grid
