-- witness.lua: steps that show what they do, and steps whose noise comes from outside, so that others can compute them
-- again with programs of their own. Owns what is shown under which name:
--
--   evaluation.N.sample.K.theta, .noise, .gradient, .loss   each point at which the loss was evaluated, in order
--   evaluation.N.statistics.g, .h, .H                        what the family made of them
--   statistics.g, .h, .H                                     what the rule got, after correction and stages
--
-- Such a step has a program of its own with more outputs; its other results have the bits of the usual one.

local core = require "perigee.core"
local names = require "perigee.names"
local statistics = require "perigee.statistics"

local witness = {}

-- ---- in a trace -----------------------------------------------------------------------------------------------------

local Watching = {}
Watching.__index = Watching

-- Let the program give `value` under a name.
function Watching:show(name, value)
  if not self.shows then return end
  -- a slot that the program overwrites at its end is shown as it was: a value of its own
  local shown = value.weak and core.apply("full", { a = {}, dtype = self.dtype }, value) or value * 1
  self.entry.shown[#self.entry.shown + 1] = { name, self.b:output(shown) }
end

-- A new evaluation begins. division: into pieces of the batch, which are evaluated in a loop, where single points
-- cannot be seen; or nil.
function Watching:begin_evaluation(division)
  self.evaluation, self.sample, self.in_loop = self.evaluation + 1, 0, division ~= nil
  if division and self.given then
    core.raise("opt:step: noise can be given where a step evaluates its whole batch at once, with micro = 1")
  end
end

-- function(number, eps) → the noise to use for a draw of the present evaluation
function Watching:exchange()
  if self.in_loop then return nil end
  return function(number, eps)
    if self.given then eps = self:take(number, eps) end
    self:show(("evaluation.%d.sample.%d.noise"):format(self.evaluation, self.sample + 1), eps)
    return eps
  end
end

-- The given noise for a draw of the present evaluation, as an input of the program; the same for the same draw.
function Watching:take(number, eps)
  local name = ("noise.%d.%d"):format(self.evaluation, number)
  if not self.inputs[name] then
    local vector = self.look:noise_at(self.evaluation, number)
    if vector.dtype ~= eps.dtype or vector.layout ~= eps.layout then
      local message = "opt:step: the noise of sample %d of evaluation %d must be like the parameters (%s, %d numbers)"
      core.raise(message:format(number, self.evaluation, eps.dtype, eps.size))
    end
    self.inputs[name] = self.b:input(name, vector)
    self.entry.taken[#self.entry.taken + 1] = { name, self.evaluation, number }
  end
  return self.inputs[name]
end

function Watching:saw_gradient(theta, loss, g)
  if self.in_loop then return end
  self.sample = self.sample + 1
  local place = ("evaluation.%d.sample.%d."):format(self.evaluation, self.sample)
  self:show(place .. "theta", theta)
  self:show(place .. "loss", loss)
  self:show(place .. "gradient", g)
end

function Watching:saw_statistics(stats)
  for _, field in ipairs(statistics.fields(stats)) do
    self:show(("evaluation.%d.statistics.%s"):format(self.evaluation, field), stats[field])
  end
end

-- At the end of a step over a family. Noise that nobody took would look as if it had been used.
function Watching:saw_result(stats, family)
  if self.given and self.evaluation > 0 and #self.entry.taken == 0 then
    core.raise(("opt:step: noise is given, and family %s draws none by pg.family.normal"):format(family))
  end
  for _, field in ipairs(statistics.fields(stats)) do self:show("statistics." .. field, stats[field]) end
end

-- ---- around a run ---------------------------------------------------------------------------------------------------

local Look = {}
Look.__index = Look

-- What is wanted of a step. hooks: { noise =, dump = } of opt:step. kind: tells the programs of such steps apart.
function witness.look(hooks, st)
  local noise, dump = hooks.noise, hooks.dump
  if noise ~= nil and not core.is_tensor(noise) and type(noise) ~= "table" then
    core.raise(("opt:step: noise is a vector or a list of vectors, not %s"):format(names.describe(noise)))
  end
  return setmetatable({ noise = noise, dump = dump, theta = st.theta,
    kind = (dump and " shown" or "") .. (noise ~= nil and " with noise" or "") }, Look)
end

-- The given noise for draw `number` of an evaluation.
function Look:noise_at(evaluation, number)
  local found = self.noise
  if type(found) == "table" then
    if type(found[evaluation]) == "table" then found = found[evaluation] end
    found = found[number]
  end
  if not core.is_tensor(found) then
    core.raise(("opt:step: noise has no vector for sample %d of evaluation %d"):format(number, evaluation))
  end
  return found
end

-- Begin to watch a step that is traced in builder b.
function Look:open(b, entry, st)
  entry.shown, entry.taken = {}, {}
  return setmetatable({ b = b, entry = entry, look = self, given = self.noise ~= nil, shows = self.dump ~= nil,
    dtype = st.theta.dtype, inputs = {}, evaluation = 0, sample = 0 }, Watching)
end

-- Bind the given noise before a run.
function Look:bind(entry)
  for _, taken in ipairs(entry.taken) do entry.program:bind(taken[1], self:noise_at(taken[2], taken[3])) end
end

-- Copy what the program showed into the table that was given.
function Look:collect(entry)
  for _, shown in ipairs(self.dump and entry.shown or {}) do
    self.dump[shown[1]] = entry.program:result(shown[2]):copy()
  end
end

return witness
