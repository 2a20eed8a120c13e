-- sampler.lua: what a step sees. A sampler says which examples a step takes and with which weights, as a pure function
-- of the key and the step, so that a resumed run needs no state but its step count. What pg.train is given is a
-- description, as pg.sampler.poisson { rate = 0.01 }; bound to a split and a key it assembles batches.

local core = require "perigee.core"
local drawn = require "perigee.sampler_drawn"
local names = require "perigee.names"
local poisson = require "perigee.sampler_poisson"
local read_options = require("perigee.tensor_args").read_options
local source = require "perigee.sampler_source"

local sampler = {}

local function check_count(owner, name, x)
  if type(x) ~= "number" or x < 1 or x % 1 ~= 0 then
    core.raise(("%s: %s is a whole number of examples, at least 1, not %s"):format(owner, name, names.describe(x)))
  end
  return math.tointeger(x)
end

--- pg.sampler.shuffled(split, batch, key [, { dtype = "f32" }]) → sampler: Batches of `batch` examples of a split
-- without replacement: a keyed permutation for each epoch, cut into pieces; the short last one is used. dtype: of float
-- fields.
function sampler.shuffled(split, batch, key, opts)
  local dtype = read_options("pg.sampler.shuffled", opts, { dtype = "f32" }).dtype
  if not core.is_tensor(key) or key.dtype ~= "key" then
    error("pg.sampler.shuffled needs a key behind the batch size, as pg.key(1), got " .. names.describe(key), 3)
  end
  if type(batch) ~= "number" or batch < 1 or batch % 1 ~= 0 then
    error(("a batch has a whole number of examples, not %s"):format(tostring(batch)), 3)
  end
  return source.new { split = split, batch = batch, key = key, dtype = dtype }
end

--- pg.sampler.sizes(n, size) → list: The sizes of the pieces that n examples fall into: the usual one and, where it
-- does not divide n, the last one's.
sampler.sizes = source.sizes

-- ---- descriptions ---------------------------------------------------------------------------------------------------

local Description = {}
Description.__index = Description
Description.__name = "perigee.sampler description"

function Description:__tostring()
  local out = {}
  for i, key in ipairs(names.sorted(self.given)) do
    local value = self.given[key]
    out[i] = ("%s = %s"):format(key, type(value) == "number" and ("%.17g"):format(value) or type(value))
  end
  return ("%s { %s }"):format(self.name, table.concat(out, ", "))
end

-- bind(split, key, dtype, given) → sampler.
local function describe(name, given, bind)
  return setmetatable({ name = name, given = given, bind_to = bind }, Description)
end

--- pg.sampler.is(x): Whether x is a sampler's description, as pg.train { sampler = } takes it.
function sampler.is(x) return getmetatable(x) == Description end

-- The sampler over a split. key: of the run; dtype: of float fields.
function Description:bind(split, key, dtype) return self.bind_to(split, key, dtype or "f32", self.given) end

--- pg.sampler.poisson { rate =, batch =, capacity =, overflow = "error", average = "expected" } → sampler: Each example
-- joins a step's batch by a coin of its own, with probability `rate`: what the accountants of differential privacy
-- assume. A batch may be empty; the step is made all the same.
--   rate, or batch, the expected number of examples: rate = batch / n.
--   average: "expected": the loss is the sum over the batch divided by the expected number, whose gradient is unbiased;
--     "count": divided by the number that came, the mean of the batch (0 of an empty one).
--   capacity: places of the static plan, default the least with which a step overflows with probability at most 1e-9;
--     sampler.overflow is that probability. overflow: "error" stops the run; "truncate" leaves out those that were
--     drawn last (the drawing begins at a random example) and counts the step in result.sampling.truncated.
-- An epoch is as many steps as it takes for n expected examples.
function sampler.poisson(given)
  poisson.check(given)
  return describe("poisson", given, poisson.bind)
end

--- pg.sampler.replacement { batch = } → sampler: Every example of a batch is drawn uniformly from all the data, apart
-- from the others.
function sampler.replacement(given)
  local owner = "pg.sampler.replacement"
  names.check(owner, given, { "batch" })
  check_count(owner, "batch", given.batch)
  return describe("replacement", given, drawn.bind_replacement)
end

--- pg.sampler.weighted { batch =, weights =, correct = true } → sampler: Importance sampling with replacement: example
-- i is drawn with probability p_i, which weights[i] (not negative) is proportional to.
--   weights: a list, a tensor [n], or a function(split) that gives one.
--   correct: each draw enters the loss with weight 1 / (n p_i), so that the expected loss is that of all the data
--     alike; false: the plain mean of what was drawn, another objective.
function sampler.weighted(given)
  local owner = "pg.sampler.weighted"
  names.check(owner, given, { "batch", "weights", "correct" })
  check_count(owner, "batch", given.batch)
  local weights = given.weights
  if type(weights) ~= "table" and type(weights) ~= "function" and not core.is_tensor(weights) then
    core.raise(("%s: weights is a list, a tensor or a function of the split, not %s"):format(owner,
      names.describe(weights)))
  end
  return describe("weighted", given, drawn.bind_weighted)
end

--- pg.sampler.define { name =, sample =, batch =, capacity =, expected = } → sampler: A sampler of one's own.
--   sample(key, step, n) → indices [, weights]: plain Lua, a pure function: the examples of a step, from 0, a list or a
--     tensor of integers. key: of the step; n: examples in the data. weights: a list or tensor of what multiplies each
--     example's loss, divided by `expected`; without them the loss is the mean of the batch.
--   batch: examples of every step; or capacity: at most so many, in a static plan with places left empty (expected:
--     how many on average, for weights and the length of an epoch; default the capacity).
function sampler.define(given)
  local owner = "pg.sampler.define"
  names.check(owner, given, { "name", "sample", "batch", "capacity", "expected" })
  if type(given.name) ~= "string" or type(given.sample) ~= "function" then
    core.raise(owner .. " needs a name and a function sample(key, step, n)")
  end
  if (given.batch == nil) == (given.capacity == nil) then
    core.raise(owner .. " needs one of batch, if all steps have as many examples, and capacity")
  end
  check_count(owner, given.batch and "batch" or "capacity", given.batch or given.capacity)
  return describe(given.name, given, drawn.bind_defined)
end

return sampler
