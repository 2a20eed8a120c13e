-- dump.lua: `perigee dump RECIPE.lua steps=3 out=FILE`: whole steps of pg.train as one safetensors file, for whoever
-- wants to compute them again with a program of their own. Owns the names beside those of witness.lua:
--
--   RUN.step.K.before.*, .after.*   the optimizer's state around step K (from 0): q.mean, q.h, rule.*, correction.*
--   RUN.step.K.batch.*              the batch, as the loss gets it
--   RUN.step.K.hyper.*              numbers of rule, family and correction at that step, t and weight_decay, f64
--
-- A name that stands for a vector is one tensor for each parameter: RUN.step.0.before.q.mean.1.weight.

local core = require "perigee.core"
local names = require "perigee.names"
local options = require "perigee.options"
local stored = require "perigee.stored"

local data = core.data

local dump = {}

local STEPS = 3

local Recorder = {}
Recorder.__index = Recorder

-- What keeps the steps of an invocation's runs.
function dump.recorder() return setmetatable({ tree = {} }, Recorder) end

local function copies_of(st)
  local out = {}
  for _, entry in ipairs(st:tensors()) do out[entry[1]] = entry[2]:copy() end
  return out
end

local function scalar(x) return core.tensor("f64", {}, { x }) end

-- The numbers that a step is computed with. Those of other kinds stand in the settings of the run.
local function hypers_of(opt, st)
  local out = { t = scalar(st.scalars.t) }
  local function add(prefix, h)
    for _, key in ipairs(h.scalars) do out[prefix .. key] = scalar(h.values[key]) end
  end
  add("rule.", opt.rule.hyper)
  add("family.", opt.family.hyper)
  if opt.correction then add("correction.", opt.correction.hyper) end
  if opt.weight_decay.scalar then out.weight_decay = scalar(opt.weight_decay.values.decay) end
  return out
end

-- A step of the run `name` begins: a table for opt:step to fill.
function Recorder:begin(name, st, batch)
  local step = { before = copies_of(st), batch = {} }
  for _, key in ipairs(names.sorted(batch)) do
    if core.is_tensor(batch[key]) then step.batch[key] = batch[key]:copy() end
  end
  self.tree[name] = self.tree[name] or { step = {} }
  self.tree[name].step[st.step] = step
  return step
end

-- It has ended.
function Recorder:finish(step, opt, st) -- luacheck: ignore self
  step.after, step.hyper = copies_of(st), hypers_of(opt, st)
end

-- `perigee dump RECIPE key=value …` → exit code. steps and out are the command's own.
function dump.main(path, words, flags)
  local cli, check = require "perigee.cli", require "perigee.check"
  local rest, own = {}, { steps = STEPS, out = "dump.safetensors" }
  for _, word in ipairs(words) do
    local key, value = word:match("^(%a+)=(.*)$")
    if own[key] then own[key] = value else rest[#rest + 1] = word end
  end
  local steps = math.tointeger(tonumber(own.steps))
  if not steps or steps < 1 then options.misused(("option steps=%s: expected a number of steps"):format(own.steps)) end
  local directory, remove = check.scratch_directory(flags)
  local _ <close> = setmetatable({}, { __close = remove })
  local recorder = dump.recorder()
  local code = cli.call_muted(cli.run_recipe, path, rest, flags, { root = directory, limit = steps,
    recorder = recorder })
  if code ~= 0 then return code end
  if next(recorder.tree) == nil then options.misused(path .. ": there is no pg.train in it to dump") end
  stored.write(own.out, recorder.tree)
  for _, name in ipairs(names.sorted(recorder.tree)) do
    local count = #names.sorted(recorder.tree[name].step)
    io.write(("%s: %d step%s\n"):format(name, count, count == 1 and "" or "s"))
  end
  io.write(("wrote %s, %d bytes\n"):format(own.out, data.stat(own.out).size))
  return 0
end

return dump
