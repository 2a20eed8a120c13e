-- failure.lua: what was raised, made readable: one line with the place in what the person wrote (a recipe, a file
-- beside it, the prompt), that line of source with a mark under what the message names, and a traceback for those who
-- ask.

local advice = require "perigee.advice"
local data = require("perigee.core").data

local failure = {}

-- The innermost place on the stack in a person's code: chunk names of recipes begin with "@", the prompt's is "=stdin",
-- the library's "=[perigee]". → "recipe.lua:12: " or ""
local function find_place(level)
  for i = level + 1, 250 do
    local info = debug.getinfo(i, "Sl")
    if not info then return "" end
    if info.currentline > 0 and (info.source:sub(1, 1) == "@" or info.source == "=stdin") then
      return ("%s:%d: "):format(info.short_src, info.currentline)
    end
  end
  return ""
end

-- A message handler for xpcall: tables are passed on, all else becomes { message = "recipe.lua:12: what happened",
-- traceback = (with `trace`) where in the library that was }.
function failure.handler(trace)
  return function(raised)
    if type(raised) == "table" then return raised end
    local message = tostring(raised)
    local inner = message:match("^%[perigee%][%w_]+%.lua:%d+: (.*)$")
    if inner then
      message = find_place(2) .. inner
    elseif not message:match("^[^\n:]+:%d+: ") then
      message = find_place(2) .. message
    end
    message = message .. advice.on_error(message)
    return { message = message, traceback = trace and debug.traceback(message, 2) }
  end
end

-- The local variables of the function `f`, which is running below the caller: { name = value }.
function failure.locals_of(f)
  local values = {}
  for level = 2, 250 do
    local info = debug.getinfo(level, "f")
    if not info then return values end
    if info.func == f then
      for i = 1, 250 do
        local name, value = debug.getlocal(level, i)
        if not name then return values end
        if name:find("^[%a_]") then values[name] = value end
      end
    end
  end
  return values
end

-- ---- the line -------------------------------------------------------------------------------------------------------

-- "recipe.lua:12: what happened" → "recipe.lua", 12, "what happened"; nil for a message without a place.
function failure.place(message)
  local source, line, rest = message:match("^([^\n]-):(%d+): (.*)$")
  return source, tonumber(line), rest
end

-- Line `n` of a file, or nil.
function failure.line_of_file(path, n)
  if not data.exists(path) or data.stat(path).type ~= "file" then return nil end
  local i = 0
  for line in io.lines(path) do
    i = i + 1
    if i == n then return line end
  end
end

-- What a message of Lua's points at: near 'x', (global 'x'), (field 'x'), variable 'x'.
local function find_culprit(message)
  return message:match("near '([^']+)'") or message:match("%(%a+ '([%a_][%w_]*)'%)")
    or message:match("variable '([%a_][%w_]*)'") or message:match(" has no '([%a_][%w_]*)'")
end

-- Where in the line the word stands, if it does so once: → column, width
local function find_word(line, word)
  local from, to = line:find(word, 1, true)
  local pattern = word:find("^[%a_]") and "%f[%w_]" .. word .. "%f[^%w_]"
  if pattern then from, to = line:find(pattern) end
  if not from or line:find(pattern or word, to + 1, not pattern) then return nil end
  return from, to - from + 1
end

-- The source line of an error for below its message, with carets under what the message names. label: stands before it.
function failure.mark(message, line, label)
  local shown = line:gsub("\t", " ")
  local text = ("  %s | %s"):format(label, shown)
  local culprit = find_culprit(message)
  local column, width = nil, nil
  if culprit then column, width = find_word(shown, culprit) end
  if not column then return text end
  local before = ("  %s | %s"):format(label, shown:sub(1, column - 1))
  return text .. "\n" .. (" "):rep(utf8.len(before) or #before) .. ("^"):rep(width)
end

return failure
