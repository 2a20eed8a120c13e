-- sandbox.lua: the environment a recipe runs in. A recipe that arrives beside someone else's paper is untrusted code,
-- so by default it gets Lua without a shell, native modules, bytecode or files outside the data, recipe and run
-- directories. Owns the list of what a recipe may touch and the two rules that keep its numbers repeatable: `pairs`
-- goes in sorted order and math.random is an error. `--trust` lifts all but the sorted order.

local core = require "perigee.core"
local globals = require "perigee.globals"
local machine = require "perigee.machine"
local files = core.data

local sandbox = {}

-- ---- order ----------------------------------------------------------------------------------------------------------

local RANK = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local ta, tb = RANK[type(a)], RANK[type(b)]
  if ta ~= tb then return ta < tb end
  if ta == 3 then return not a and b end
  return a < b
end

-- The keys of t in the order of numbers, strings, booleans; nil and the offending type where a key has no order.
local function ordered_keys(t)
  local keys = {}
  for key in next, t do
    if not RANK[type(key)] then return nil, type(key) end
    keys[#keys + 1] = key
  end
  table.sort(keys, before)
  return keys
end

-- pairs with sorted keys: Lua's own order changes from process to process.
function sandbox.pairs(t)
  local meta = getmetatable(t)
  if type(meta) == "table" and meta.__pairs then return meta.__pairs(t) end
  local keys, kind = ordered_keys(t)
  if not keys then error(("pairs: a %s key has no order that repeats; use strings or numbers"):format(kind), 2) end
  local i = 0
  return function()
    repeat
      i = i + 1
      local key = keys[i]
      if key == nil then return nil end
      local value = t[key]
      if value ~= nil then return key, value end
    until false
  end, t, nil
end

-- next in the same order. Linear in the size of the table at every call; for `next(t) == nil` and the odd loop.
function sandbox.next(t, key)
  local keys, kind = ordered_keys(t)
  if not keys then error(("next: a %s key has no order that repeats; use strings or numbers"):format(kind), 2) end
  if key == nil then return keys[1], t[keys[1]] end
  for i, k in ipairs(keys) do
    if k == key then return keys[i + 1], t[keys[i + 1]] end
  end
end

-- ---- files ----------------------------------------------------------------------------------------------------------

-- The directories a recipe may read below and write below, as real paths; nil while recipes are trusted.
local readable, writable

-- The real path of `path`; where its last parts do not exist yet, that of what does, with those parts behind it. nil
-- for a path that leads through "..".
local function resolve(path)
  local real = files.realpath(path)
  if real then return real end
  local directory, name = path:match("^(.*)/([^/]*)$")
  if not directory then directory, name = ".", path end
  if name == ".." or name == "." then return nil end
  local parent = resolve(directory == "" and "/" or directory)
  if name == "" then return parent end
  return parent and (parent == "/" and "" or parent) .. "/" .. name
end

local function lies_below(real, roots)
  for _, root in ipairs(roots) do
    if real == root or root == "/" or real:sub(1, #root + 1) == root .. "/" then return true end
  end
  return false
end

-- Whether the present recipe may open `path`, in mode "r" or "w": true, or nil and a message.
function sandbox.may_open(path, mode)
  local roots = mode == "r" and readable or mode ~= "r" and writable
  if not roots then return true end
  local real = resolve(path)
  if real and lies_below(real, roots) then return true end
  return nil, ("%s: outside the %s (--trust lifts this)"):format(path,
    mode == "r" and "data, recipe and run directories" or "run directory, the only one that recipes write in")
end

local function open_file(path, mode)
  if type(path) ~= "string" then error("bad argument #1 to 'open' (string expected)", 2) end
  mode = mode or "r"
  local ok, message = sandbox.may_open(path, mode:match("^rb?$") and "r" or "w")
  if not ok then error("io.open: " .. message, 2) end
  return io.open(path, mode)
end

local function lines_of(path, ...)
  local ok, message = sandbox.may_open(path, "r")
  if not ok then error(message, 2) end
  return io.lines(path, ...)
end

-- ---- the environment ------------------------------------------------------------------------------------------------

local function copy(t, without)
  local out = {}
  for key, value in next, t do
    if not (without and without[key]) then out[key] = value end
  end
  return out
end

local function refuse_random()
  error("math.random does not repeat from run to run; draw from a key: pg.uniform(pg.key(1), {n})", 2)
end

-- load, text only, into the recipe's own environment unless it names another table.
local function make_load(env)
  return function(chunk, name, _, where, ...)
    if select("#", ...) > 0 then error("load takes at most four arguments", 2) end
    return load(chunk, name, "t", where == nil and env or where)
  end
end

-- require of "perigee" and of Lua files beside the recipe; "a.b" is a/b.lua.
local function make_require(env, directory)
  local loaded = {}
  return function(name)
    if type(name) ~= "string" then error("bad argument #1 to 'require' (string expected)", 2) end
    if name == "perigee" then return env.pg end
    if loaded[name] ~= nil then return loaded[name] end
    if not name:match("^[%w_%-]+[%w_%-%.]*$") or name:find("..", 1, true) then
      error(("require: \"%s\" is not the name of a file beside the recipe"):format(name), 2)
    end
    local path = directory .. "/" .. name:gsub("%.", "/") .. ".lua"
    local ok, refused = sandbox.may_open(path, "r")
    if not ok then error(refused, 2) end
    if not files.exists(path) then
      error(("require: there is no file %s%s"):format((path:gsub("^%./", "")), globals.advise_module(name)), 2)
    end
    local chunk, message = loadfile(path, "t", env)
    if not chunk then error(message, 0) end
    local value = chunk(name)
    loaded[name] = value == nil and true or value
    return loaded[name]
  end
end

local PLAIN = {
  "assert", "error", "ipairs", "pcall", "xpcall", "print", "rawequal", "rawget", "rawlen", "rawset", "select",
  "setmetatable", "getmetatable", "tonumber", "tostring", "type", "_VERSION",
}

local function make_environment(pg, directory)
  local env = { pg = pg, pairs = sandbox.pairs, next = sandbox.next }
  for _, name in ipairs(PLAIN) do env[name] = _G[name] end
  env._G = env
  env.string = globals.guard_library(copy(string, { dump = true }), "string")
  for _, name in ipairs { "table", "utf8", "coroutine", "math" } do
    env[name] = globals.guard_library(copy(_G[name]), name)
  end
  env.math.random, env.math.randomseed = refuse_random, refuse_random
  env.os = globals.guard_library({ time = os.time, clock = os.clock, date = os.date, difftime = os.difftime }, "os")
  env.io = { open = open_file, lines = lines_of, write = io.write, type = io.type }
  env.io.stdout, env.io.stderr = io.stdout, io.stderr
  globals.guard_library(env.io, "io")
  env.collectgarbage = function(what)
    if what == nil or what == "collect" or what == "count" or what == "step" then return collectgarbage(what) end
    error("collectgarbage: a recipe may collect, step and count", 2)
  end
  env.load = make_load(env)
  env.require = make_require(env, directory)
  return globals.guard(env, pg)
end

-- What a trusted recipe sees: all of Lua, with sorted pairs and `require` finding files beside the recipe first.
local function make_trusted_environment(pg, directory)
  local env = globals.guard({ pg = pg, pairs = sandbox.pairs }, pg, _G)
  env._G = env
  local beside = make_require(env, directory)
  env.require = function(name)
    local path = directory .. "/" .. name:gsub("%.", "/") .. ".lua"
    if name == "perigee" or files.exists(path) then return beside(name) end
    return require(name)
  end
  return env
end

-- Methods of strings must not lead out: ("").rep goes through the strings' metatable to the real library.
local function guard_strings()
  local meta = getmetatable("")
  if type(meta) ~= "table" then return end
  meta.__index = copy(string, { dump = true })
  meta.__metatable = false
end

-- Most of the machine's memory, in bytes; 0 where that is not known.
local function most_memory()
  local bytes = machine.memory "MemTotal"
  return bytes and bytes * 8 // 10 or 0
end

-- Enter the sandbox for the recipe at `path`: the environment its chunk gets. `opts`: trust, read (list of directories
-- that may be read besides the recipe's), write (list that may be written and read), memory (bytes tensors may take).
function sandbox.enter(pg, path, opts)
  local directory = path:match("^(.*)/[^/]*$") or "."
  if directory == "" then directory = "/" end
  core.memory_limit(opts.memory or (opts.trust and 0 or most_memory()))
  if opts.trust then
    readable, writable = nil, nil
    return make_trusted_environment(pg, directory)
  end
  readable, writable = { files.realpath(directory) }, {}
  for _, root in ipairs(opts.write or {}) do
    local real = resolve(root)
    if real then
      writable[#writable + 1], readable[#readable + 1] = real, real
    end
  end
  for _, root in ipairs(opts.read or {}) do readable[#readable + 1] = files.realpath(root) end
  guard_strings()
  return make_environment(pg, directory)
end

-- End what `enter` began: for the prompt, which outlives the recipes it runs.
function sandbox.leave()
  core.memory_limit(0)
  readable, writable = nil, nil
end

return sandbox
