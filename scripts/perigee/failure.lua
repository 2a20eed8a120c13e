-- failure.lua: what was raised, made readable: one line with the place in what the person wrote (a recipe, a file beside
-- it, the prompt), and a traceback for those who ask.

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
    return { message = message, traceback = trace and debug.traceback(message, 2) }
  end
end

return failure
