-- prompt_functions.lua: what a function is: the name it has in the library, in Lua or among the user's variables, its
-- parameters, and where it is written.

local core = require "perigee.core"
local reference = require "perigee.reference"

local functions = {}

local LIBRARIES = { "string", "table", "math", "io", "os", "coroutine", "utf8", "debug" }

local known = setmetatable({}, { __mode = "k" }) -- function → full name

local function learn(t, prefix)
  for name, value in next, t do
    if type(value) == "function" and type(name) == "string" and not known[value] then known[value] = prefix .. name end
  end
end

-- Learn the functions that are loaded now; modules of pg are loaded when first used.
local function learn_all()
  local pg = require "perigee"
  for name, value in next, pg do
    if type(value) == "table" and type(name) == "string" then learn(value, "pg." .. name .. ".") end
  end
  learn(pg, "pg.")
  learn(core.methods, "tensor:")
  for _, name in ipairs(LIBRARIES) do learn(_G[name], name .. ".") end
  learn(_G, "")
end

-- The full name of a function of the library or of Lua: "pg.nn.linear", "tensor:sum", "string.format"; or nil.
function functions.name_of(f)
  if not known[f] then learn_all() end
  return known[f]
end

-- The Lua function that stands behind core.entry's closure, if it is one.
function functions.behind(f)
  if debug.getinfo(f, "S").what ~= "C" then return f end
  local name, inner = debug.getupvalue(f, 1)
  return name == "" and type(inner) == "function" and inner or f
end

-- "(a, b, ...)" of a function in Lua; nil of one in C.
function functions.parameters(f)
  local info = debug.getinfo(f, "Su")
  if info.what == "C" then return nil end
  local list = {}
  for i = 1, info.nparams do list[i] = debug.getlocal(f, i) end
  if info.isvararg then list[#list + 1] = "..." end
  return "(" .. table.concat(list, ", ") .. ")"
end

-- Where a function in Lua is written: chunk name and first and last line, or nil.
function functions.place_of(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" or info.linedefined < 1 then return nil end
  return info.source, info.linedefined, info.lastlinedefined, info.short_src
end

local function name_in(env, f)
  for name, value in next, env or {} do
    if value == f and type(name) == "string" then return name end
  end
end

-- A function with its signature: "function pg.relu(x)", "function f(a, b), stdin:3". env: the user's variables.
function functions.describe(f, env)
  local name = functions.name_of(f)
  local entry = name and reference.find(name)
  if entry then return "function " .. entry.signature end
  local inner = functions.behind(f)
  local _, line, _, short = functions.place_of(inner)
  local own = name or name_in(env, f) or ""
  local text = "function " .. own .. (functions.parameters(inner) or (own == "" and "in C" or "(...), built in"))
  return line and not short:find("^%[perigee%]") and ("%s, %s:%d"):format(text, short, line) or text
end

-- The same as one short word or two, for lists: a function that the library names is known by that.
function functions.summarize(f, env)
  local name = functions.name_of(f)
  return name and "function " .. name or functions.describe(f, env)
end

return functions
