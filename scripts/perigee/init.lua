-- init.lua: assembles pg, the table that `require "perigee"` gives. Tensors and transforms are there at once; the rest of the
-- library is loaded when it is first asked for.
local core = require "perigee.core"

local pg = { version = core.version, set_threads = core.set_threads, threads = core.threads, doctor = core.doctor }

local function add(module)
  for name, value in next, module do
    if pg[name] == nil then pg[name] = value end
  end
end

local tensor = require "perigee.tensor"
add(require "perigee.keys")
add(require "perigee.transform")
for name, value in next, tensor do
  local internal = { methods = true, axis_of = true, dtype_of = true, shape_of = true, check_tensor = true, raise = true }
  if not internal[name] and pg[name] == nil then pg[name] = value end
end
pg.per_tensor = require("perigee.per_tensor").per_tensor
add(require "perigee.loss")

-- pg.NAME → module, or module and field of it.
local lazy = {
  nn = { "nn" }, family = { "family" }, correction = { "correction" }, rule = { "rule" }, stage = { "stage" },
  schedule = { "schedule" }, optim = { "optim" }, data = { "data" }, sampler = { "sampler" }, metric = { "metric" },
  linalg = { "linalg" }, optimizer = { "optimizer" }, options = { "options" }, train = { "train" }, run = { "run" },
  evaluator = { "evaluator" },
}

-- A module that gives a function of its own name stands for that function.
local function load_lazily(name)
  local module = require("perigee." .. lazy[name][1])
  if type(module) == "table" and getmetatable(module) == nil and type(module[name]) == "function" then
    return module[name]
  end
  return module
end

setmetatable(pg, {
  __index = function(t, name)
    if not lazy[name] then return nil end
    local value = load_lazily(name)
    rawset(t, name, value)
    return value
  end,
})

return pg
