-- init.lua: assembles pg, the table that `require "perigee"` gives. Tensors and transforms are there at once; the
-- rest of the library is loaded when it is first asked for. A name that is not there is an error that says the nearest
-- one.
local core = require "perigee.core"
local names = require "perigee.names"

--- pg.version: The version of the program, as a string.
--- pg.set_threads(n): Use n threads from now on; 0: as many as there are. Results do not depend on it.
--- pg.threads() → number: How many threads are in use.
--- pg.doctor() → table: What the engine found on this machine, as a table: build, blas, compiler, cpu, threads, cuda.
-- `perigee doctor` prints and judges them.
local pg = { version = core.version, set_threads = core.set_threads, threads = core.threads, doctor = core.doctor }

-- Functions that recipes call stand behind core.entry, so that errors find the recipe's line.
local function add(module)
  for name, value in next, module do
    if pg[name] == nil then pg[name] = type(value) == "function" and core.entry(value) or value end
  end
end

add(require("perigee.tensor").functions)
add(require("perigee.sorting").functions)
add(require "perigee.running")
add(require "perigee.keys")
add(require("perigee.draws").functions)
add(require "perigee.loss")
add(require "perigee.drawn_labels")
add(require "perigee.transform")
add(require "perigee.loops")
add(require("perigee.layer_functions").functions)
add(require("perigee.clipping").functions)
add { per_tensor = require("perigee.per_tensor").per_tensor }
require "perigee.tensors" -- map_tensors of vectors
for name, method in next, core.methods do core.methods[name] = core.entry(method) end

-- pg.NAME → module, or field of a module.
local lazy = {}
for _, name in ipairs {
  "nn", "family", "correction", "rule", "stage", "wrapper", "schedule", "optim", "optimizer", "evaluator", "minimize",
  "data", "sampler", "metric", "options", "train", "run", "grid", "plot", "table", "augment", "linalg", "predict",
  "probe", "privacy", "quantize",
} do lazy[name] = { name } end
for _, name in ipairs { "epochs", "steps", "whole_run" } do lazy[name] = { "schedule", name } end
for _, name in ipairs { "save", "load" } do lazy[name] = { "stored", name } end
lazy.scalar = { "vectors", "scalar" }
lazy.batch = { "batch_size" }
lazy.rows = { "rows", "rows" }

-- A module with a function of its own name stands for that function: pg.run is the function run of run.lua. Fields that
-- a module does not have are errors.
local function load_lazily(name)
  local module_name, field = lazy[name][1], lazy[name][2]
  local module = require("perigee." .. module_name)
  local value = field and module[field] or module
  if not field and type(module) == "table" then
    if type(rawget(module, name)) == "function" then value = module[name] else names.guard(module, "pg." .. name) end
  end
  return type(value) == "function" and core.entry(value) or value
end

-- What a name that pg does not have stands for in one of its modules: adam → pg.optim.adam.
local function find_in_modules(name)
  for _, full in ipairs(require("perigee.reference").names()) do
    if full:match("^pg%.%w+%.([%w_]+)$") == name:lower() then return full end
  end
end

setmetatable(pg, {
  __index = function(t, name)
    if not lazy[name] then return nil end
    local value = load_lazily(name)
    rawset(t, name, value)
    return value
  end,
  -- The names that __index knows, for completion.
  __names = function() return names.sorted(lazy) end,
  -- Everything there is, what has not been loaded yet too.
  __pairs = function(t)
    for name in next, lazy do local _ = t[name] end
    return next, t
  end,
})
names.guard(pg, "pg", { more = function() return names.sorted(lazy) end, elsewhere = find_in_modules })

return pg
