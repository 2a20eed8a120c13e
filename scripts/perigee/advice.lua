-- advice.lua: what to add to messages that Lua itself makes, where a beginner's mistake is likely: words of Python and
-- C in a syntax error, a tensor where Lua's own library wants a number. Patterns and sentences only; whoever reports an
-- error asks.

local core = require "perigee.core"

local advice = {}

-- ---- syntax ---------------------------------------------------------------------------------------------------------

-- { pattern of the message, pattern of the source line, advice }; the first that fits is given.
local SYNTAX = {
  { "", "^%s*#", "comments begin with --" },
  { "near '//'", "//", "comments begin with --" },
  { "", "^%s*perigee%s+%S", "the prompt runs a recipe by %run RECIPE.lua" },
  { "", "^%s*import%s", 'everything is in pg; a file beside the recipe is had by require "name"' },
  { "", "^%s*from%s+[%w_.]+%s+import", 'everything is in pg; a file beside the recipe is had by require "name"' },
  { "", "^%s*def%s", "functions are: local function name(x) … end" },
  { "", "lambda", "functions without a name are: function(x) return … end" },
  { "near '!'", "!=", '"not equal" is ~=' },
  { "near '!'", "!", '"not" is the word not' },
  { "near '&'", "&&", '"and" is the word and' },
  { "near '|'", "||", '"or" is the word or' },
  { "near '[%+%-%*/]'", "[%+%-%*/]=", "there is no += and the like; write x = x + 1" },
  { "near '[%+%-]'", "%+%+", "there is no ++; write x = x + 1" },
  { "'then' expected near '='", "", "equality is ==" },
  { "", "elif", '"else if" is the word elseif' },
  { "", "else%s+if", '"else if" is the word elseif' },
  { "near 'else'", "", '"else if" is the word elseif, and a block ends with end' },
  { "'}' expected near ':'", "", 'fields of a table are { name = value } or { ["a name"] = value }' },
  { "'%]' expected near ','", "", "lists are { 1, 2 }, with braces" },
  { "'}' expected", "", "is a comma missing before it?" },
  { "'%)' expected near", "^[^\"']*%(.*[^%s,(]%s+[%w\"'{]", "is a comma missing before it?" },
  { "", "^%s*continue%s*$", "there is no continue; write goto continue, and ::continue:: at the end of the loop" },
}

local PYTHON = { ["for"] = true, ["if"] = true, ["while"] = true, ["else"] = true, elif = true, def = true,
  class = true, try = true, with = true }

-- A line of a program in Python: its blocks begin so.
local function is_python_block(line)
  return PYTHON[line:match("^%s*(%a+).*:%s*$") or line:match("^%s*(%a+):%s*$")]
end

local PYTHON_BLOCK = "blocks have no colon: for i = 1, n do … end, if x then … end"

local function line_of(source, n)
  local i = 0
  for line in (source .. "\n"):gmatch("(.-)\n") do
    i = i + 1
    if i == n then return line end
  end
end

-- "; advice" for a syntax error in `source` at line `n`, or "".
function advice.on_syntax(message, source, n)
  if not message:find(" near ", 1, true) then return "" end
  local line = line_of(source, n) or ""
  for _, row in ipairs(SYNTAX) do
    if message:find(row[1]) and line:find(row[2]) then return "; " .. row[3] end
  end
  -- An error at the end is that of a block that began somewhere before.
  if message:find("<eof>", 1, true) then
    for earlier in (source .. "\n"):gmatch("(.-)\n") do
      if is_python_block(earlier) then return "; " .. PYTHON_BLOCK end
    end
  end
  if is_python_block(line) then return "; " .. PYTHON_BLOCK end
  return ""
end

-- ---- what Lua cannot intercept --------------------------------------------------------------------------------------

local MASKS = { lt = true, le = true, gt = true, ge = true, eq = true, ne = true, any = true, all = true,
  isfinite = true, logical_and = true, logical_or = true, logical_not = true }
local NUMBERS = { sum = true, mean = true, max = true, min = true, norm = true, dot = true, var = true, std = true }

local function suspect(line)
  local code = line:gsub("%-%-.*$", "")
  local condition = code:match("%f[%w]if%s+(.-)%s+then%f[^%w]") or code:match("%f[%w]while%s+(.-)%s+do%f[^%w]")
  if not condition then return nil end
  if MASKS[condition:match(":([%a_]+)%b()%s*$")] then
    return "a tensor counts as true after if and while, whatever is in it; :item() gives its value, pg.where chooses"
  end
  for method in condition:gmatch(":([%a_]+)%b()%s*[=~]=") do
    if NUMBERS[method] then return "a tensor never equals a number; compare its :item()" end
  end
end

-- Lines of a source that most likely do what was not meant, and in which Lua sees no error: a list of { line =,
-- message = }.
function advice.suspicions(source)
  local found, n = {}, 0
  for line in (source .. "\n"):gmatch("(.-)\n") do
    n = n + 1
    local message = suspect(line)
    if message then found[#found + 1] = { line = n, message = message } end
  end
  return found
end

-- ---- run time -------------------------------------------------------------------------------------------------------

local PROPERTY = "attempt to call a %a+ value %(%a+ '(%a+)'%)"
local PROPERTIES = { shape = true, dtype = true, device = true, ndim = true, size = true, layout = true }

-- { pattern of the message, advice or function(captures) → advice or nil }
local RUN_TIME = {
  { PROPERTY, function(name)
    return PROPERTIES[name] and ("x.%s is a property, written without brackets"):format(name) end },
  { "bad argument #%d to 'format' %(number expected, got tensor%)", function()
    return "the number in a tensor is x:item(), outside of traced functions" end },
  { "bad argument #%d to '(%a+)' %(number expected, got tensor%)", function(name)
    return core.methods[name] and ("that is Lua's, for numbers; for tensors there is x:%s()"):format(name) end },
  { "bad 'for' %a+ %(number expected, got tensor%)", function()
    return "a traced function cannot count by a run-time number; capture a plain one, or use pg.scan" end },
  { "'for iterator' %(table expected, got tensor%)", function()
    return "x:totable() gives the elements of a tensor" end },
  { "perform arithmetic on a perigee.duration", function()
    return "a duration can be multiplied, as 2 * pg.epochs(1), and no more" end },
}

-- "; advice" for an error that Lua raised while a program ran, or "".
function advice.on_error(message)
  for _, row in ipairs(RUN_TIME) do
    local captured = message:match(row[1])
    local hint = captured and row[2](captured)
    if hint then return "; " .. hint end
  end
  return ""
end

return advice
