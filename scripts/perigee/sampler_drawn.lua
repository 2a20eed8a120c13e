-- sampler_drawn.lua: samplers whose steps draw their examples afresh: a function of the step says which examples, with
-- which weights, and how many. Where sizes vary, a batch has the sampler's capacity in rows: places that no example has
-- hold some example's data under weight 0, and batch.count says how many are real. Owns those batches, uniform and
-- weighted draws with replacement, and the draws of samplers that users define.

local builder = require "perigee.builder"
local core = require "perigee.core"
local names = require "perigee.names"
local source = require "perigee.sampler_source"

local drawn = {}

local Drawn = source.class()

-- A sampler that draws. given: { split, key, dtype, rows (of a batch), expected (examples on average), weighted
-- (whether batches carry weights), draw }. draw(self, step) → count: fills self.indices (i64 [rows]) and, where
-- weighted, self.weight for the first `count` rows.
function drawn.new(given)
  local self = source.new { split = given.split, batch = math.max(1, math.floor(given.expected + 0.5)), key = given.key,
    dtype = given.dtype, class = Drawn }
  self.rows, self.expected, self.draw = given.rows, given.expected, given.draw
  self.indices = core.tensor("i64", { given.rows })
  self.per_epoch = math.max(1, math.ceil(self.n / given.expected - 1e-9))
  self.redraws = true
  self.batch = given.split:staging(given.rows, given.dtype)
  if given.weighted then
    self.weight = core.tensor(given.dtype, { given.rows })
    self.batch.sample_weight, self.batch.count, self.batch.expected = self.weight, given.rows, given.expected
  end
  return self
end

function Drawn:prepare(pass_size)
  source.prepare_passes(self, pass_size)
  return { self.batch }
end

-- The batch of a step, and in place of its epoch the step: what is drawn for an example is drawn anew in each.
function Drawn:at(step)
  local count, rows = self:draw(step), self.rows
  if self.weight then
    local filler = count > 0 and self.indices:data_read(0) or 0
    for i = count, rows - 1 do
      self.indices:data_write(i, filler)
      self.weight:data_write(i, 0)
    end
    self.batch.count = count
  end
  self.split:fill(self.batch, self.indices, 0, rows)
  return self.batch, step
end

function Drawn:seen(step) return step * self.expected end

function Drawn:total(size, count, ahead)
  if ahead then
    core.raise("batches ahead (ahead = true) are known where steps go through the data in order, not where each draws "
      .. "its own")
  end
  return count and math.min(self.n, size * count) or self.n
end

-- ---- keyed uniform numbers of a step --------------------------------------------------------------------------------

-- A function(step) → tensor of `count` uniform f64 numbers in [0, 1), in memory that the next call fills again.
function drawn.uniforms(key, count)
  local numbers = { step = 0 }
  local program = builder.trace("a step's draw of examples", function(b)
    local at = core.apply("key_fold", nil, b:input("key", key), b:scalar(numbers, "step"))
    b:output(core.apply("uniform", { a = { count }, dtype = "f64" }, at))
  end)
  program:bind("key", key)
  local drawn_numbers
  return function(step)
    numbers.step = step
    program:run()
    drawn_numbers = drawn_numbers or program:result(1) -- the same memory each time
    return drawn_numbers
  end
end

-- ---- without replacement, in batches of one size --------------------------------------------------------------------

-- Batches of `rows` examples from one epoch's order after the other: where an epoch ends within a batch, the rest is of
-- the next one.
function drawn.going_round(split, key, dtype, rows)
  return drawn.new { split = split, key = key, dtype = dtype, rows = rows, expected = rows, draw = function(self, step)
    local n = self.n
    for i = 0, rows - 1 do
      local place = step * rows + i
      self.indices:data_write(i, self:order_of(place // n):data_read(place % n))
    end
    return rows
  end }
end

-- ---- with replacement -----------------------------------------------------------------------------------------------

function drawn.bind_replacement(split, key, dtype, given)
  local rows, n = math.tointeger(given.batch), split.n
  local uniforms = drawn.uniforms(key:fold("draw"), rows)
  return drawn.new { split = split, key = key, dtype = dtype, rows = rows, expected = rows, draw = function(self, step)
    local u = uniforms(step)
    for i = 0, rows - 1 do self.indices:data_write(i, math.floor(u:data_read(i) * n)) end
    return rows
  end }
end

-- The weights of a split's examples as a list of numbers and their sum.
local function read_weights(given, split)
  local weights = given
  if type(weights) == "function" then weights = weights(split) end
  if core.is_tensor(weights) then weights = weights:totable() end
  if type(weights) ~= "table" or #weights ~= split.n then
    core.raise(("pg.sampler.weighted: weights has %s, the data %d examples"):format(
      type(weights) == "table" and #weights .. " numbers" or names.describe(weights), split.n))
  end
  local sum = 0
  for i, w in ipairs(weights) do
    if type(w) ~= "number" or not (w >= 0 and w < math.huge) then
      core.raise(("pg.sampler.weighted: weight %d is %s; a number of at least 0 was expected"):format(i,
        names.describe(w)))
    end
    sum = sum + w
  end
  if sum <= 0 then core.raise("pg.sampler.weighted: all weights are 0") end
  return weights, sum
end

-- The first i (from 1) with sums[i] > x, where sums rises.
local function first_above(sums, x)
  local low, high = 1, #sums
  while low < high do
    local middle = (low + high) // 2
    if sums[middle] > x then high = middle else low = middle + 1 end
  end
  return low
end

function drawn.bind_weighted(split, key, dtype, given)
  local rows, n, correct = math.tointeger(given.batch), split.n, given.correct ~= false
  local weights, total = read_weights(given.weights, split)
  local sums, sum = {}, 0
  for i, w in ipairs(weights) do
    sum = sum + w
    sums[i] = sum
  end
  local uniforms = drawn.uniforms(key:fold("draw"), rows)
  return drawn.new { split = split, key = key, dtype = dtype, rows = rows, expected = rows, weighted = correct,
    draw = function(self, step)
      local u = uniforms(step)
      for i = 0, rows - 1 do
        local chosen = first_above(sums, u:data_read(i) * sum)
        self.indices:data_write(i, chosen - 1)
        if correct then self.weight:data_write(i, total / (n * weights[chosen]) / rows) end
      end
      return rows
    end }
end

-- ---- samplers that users define -------------------------------------------------------------------------------------

-- x, a list or a tensor of numbers, as a list.
local function list_of(owner, what, x)
  if core.is_tensor(x) and x.ndim == 1 then return x:totable() end
  if type(x) ~= "table" then
    core.raise(("%s: sample must return %s as a list or a tensor [count], not %s"):format(owner, what,
      names.describe(x)))
  end
  return x
end

local function check_indices(owner, indices, rows, exact, n)
  if #indices > rows or exact and #indices ~= rows then
    core.raise(("%s: sample gave %d examples; %s %d"):format(owner, #indices, exact and "batch is" or "capacity is",
      rows))
  end
  for i, index in ipairs(indices) do
    if math.type(index) ~= "integer" or index < 0 or index >= n then
      core.raise(("%s: index %d is %s; a whole number from 0 to %d was expected"):format(owner, i,
        names.describe(index), n - 1))
    end
  end
end

function drawn.bind_defined(split, key, dtype, given)
  local owner, rows, n = "sampler " .. given.name, math.tointeger(given.batch or given.capacity), split.n
  local expected, own = given.expected or rows, key:fold("draw")
  local function sample(step)
    local indices, weights = given.sample(own:fold(step), step, n)
    indices = list_of(owner, "indices", indices)
    check_indices(owner, indices, rows, given.batch ~= nil, n)
    weights = weights ~= nil and list_of(owner, "weights", weights) or nil
    if weights and #weights ~= #indices then
      core.raise(("%s: sample gave %d indices and %d weights"):format(owner, #indices, #weights))
    end
    return indices, weights
  end
  local gives_weights = select(2, sample(0)) ~= nil
  return drawn.new { split = split, key = key, dtype = dtype, rows = rows, expected = expected,
    weighted = gives_weights or given.capacity ~= nil,
    draw = function(self, step)
      local indices, weights = sample(step)
      if (weights ~= nil) ~= gives_weights then
        core.raise(("%s: sample gives weights at some steps and none at others (step %d)"):format(owner, step))
      end
      for i, index in ipairs(indices) do
        self.indices:data_write(i - 1, index)
        if self.weight then self.weight:data_write(i - 1, weights and weights[i] / expected or 1 / #indices) end
      end
      return #indices
    end }
end

return drawn
