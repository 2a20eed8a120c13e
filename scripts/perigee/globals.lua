-- globals.lua: what a recipe is told when it reads a global variable that is not there, or a part of Lua that recipes
-- do not get: in plain Lua both give nil, and a misspelt `lr` silently becomes the default. Owns the words of other
-- languages that people write by habit. rawget(_G, name) asks without an error.

local names = require "perigee.names"

local globals = {}

-- Parts of Lua that recipes do not have by default.
local WITHHELD = {
  debug = true, package = true, dofile = true, loadfile = true,
  os = { "execute", "exit", "getenv", "remove", "rename", "setlocale", "tmpname" },
  io = { "close", "input", "output", "popen", "read", "stdin", "tmpfile" },
  string = { "dump" },
}

-- What to write instead.
local INSTEAD = {
  True = "true", False = "false", None = "nil", null = "nil", undefined = "nil", NULL = "nil",
  np = "pg", numpy = "pg", torch = "pg", jax = "pg", jnp = "pg", tf = "pg", perigee = "pg", nn = "pg.nn",
  F = "pg", unpack = "table.unpack", loadstring = "load", len = "#t, or x.shape[1]",
  range = "for i = 1, n do … end", enumerate = "ipairs", str = "tostring", int = "math.floor", float = "tonumber",
  f = '("loss %.3f"):format(loss)', printf = 'print(("…"):format(x))', sum = "x:sum()", max = "math.max, or x:max()",
  min = "math.min, or x:min()", abs = "math.abs, or x:abs()", arg = "pg.options", argparse = "pg.options",
  random = "pg.randn(key, shape)", getn = "#t",
}

-- The names of the locals that the function at `level` of the stack sees there, and of its upvalues.
local function names_in_sight(level)
  local found = {}
  for i = 1, 250 do
    local name = debug.getlocal(level + 1, i)
    if not name then break end
    if name:match("^[%a_]") then found[#found + 1] = name end
  end
  local f = debug.getinfo(level + 1, "f").func
  for i = 1, 250 do
    local name = debug.getupvalue(f, i)
    if not name then break end
    if name ~= "_ENV" then found[#found + 1] = name end
  end
  return found
end

local function hint_for(pg, name, known)
  if INSTEAD[name] then return INSTEAD[name] end
  local near = names.meant(name, known)
  if near then return near end
  local ok, value = pcall(function() return pg[name] end)
  return ok and value ~= nil and "pg." .. name or nil
end

-- Make reading a variable that is not there an error in the environment `env` of a recipe, except where `base` (all of
-- Lua, for a trusted recipe) has it.
function globals.guard(env, pg, base)
  return setmetatable(env, { __index = function(_, name)
    local value = base and base[name]
    if value ~= nil or type(name) ~= "string" then return value end
    if WITHHELD[name] == true and not base then
      error(("%s is kept from recipes, which run in a sandbox; --trust lifts it"):format(name), 2)
    end
    local known = names_in_sight(2)
    for _, global in ipairs(names.sorted(env)) do known[#known + 1] = global end
    local hint = hint_for(pg, name, known)
    error(("there is no variable '%s'%s"):format(name, hint and ("; did you mean %s?"):format(hint) or ""), 2)
  end })
end

-- "; everything is in pg" for the modules of other frameworks, else "".
function globals.advise_module(name)
  return INSTEAD[name] == "pg" and "; everything is in pg" or ""
end

-- Make `library`, a recipe's copy of one of Lua's, say which of its functions are withheld.
function globals.guard_library(library, name)
  local withheld = {}
  for _, field in ipairs(WITHHELD[name] or {}) do withheld[field] = true end
  return setmetatable(library, { __index = function(_, field)
    if withheld[field] then
      error(("%s.%s is kept from recipes, which run in a sandbox; --trust lifts it"):format(name, field), 2)
    end
    local near = type(field) == "string" and (INSTEAD[field] or names.meant(field, names.sorted(library)))
    if near and rawget(library, near) ~= nil then near = name .. "." .. near end
    error(("%s has no '%s'%s"):format(name, tostring(field), near and ("; did you mean %s?"):format(near) or ""), 2)
  end })
end

return globals
