-- sampler_source.lua: what all samplers have in common: staging tensors that are made once for each size, the order of
-- each epoch, and the source that full passes draw from. As it is, it is the sampler of keyed shuffles.

local builder = require "perigee.builder"
local core = require "perigee.core"

local source = {}

local Sampler = {}
Sampler.__index = Sampler
Sampler.__name = "perigee.sampler"

-- A class of samplers that are not keyed shuffles: passes are the same, and what its steps see is its own.
function source.class()
  local class = { __name = Sampler.__name }
  class.__index = class
  return setmetatable(class, { __index = Sampler })
end

-- A program whose result 1 is the order of epoch numbers.epoch, always in the same memory.
local function shuffling_program(key, n, numbers)
  local program = builder.trace("the order of an epoch", function(b)
    local epoch_key = core.apply("key_fold", nil, b:input("key", key), b:scalar(numbers, "epoch"))
    b:output(core.apply("permutation", { a = { n } }, epoch_key))
  end)
  program:bind("key", key)
  return program
end

-- A sampler of a class (default: keyed shuffles). given: { split, batch (examples of a step, at most those of the
-- split), key, dtype (of float fields), class }.
function source.new(given)
  local split, n = given.split, given.split.n
  local batch = math.tointeger(math.min(given.batch, n))
  local self = setmetatable({
    split = split, ids = split.ids, n = n, batch_size = batch, dtype = given.dtype,
    per_epoch = (n + batch - 1) // batch,
    steps = {}, passes = {}, natural = core.apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }), numbers = {},
  }, given.class or Sampler)
  self.program = shuffling_program(given.key:fold("order"), n, self.numbers)
  return self
end

local function staging(self, pool, count) -- pool: self.steps or self.passes
  local tensors = pool[count]
  if not tensors then
    tensors = self.split:staging(count, self.dtype)
    pool[count] = tensors
  end
  return tensors
end

-- The sizes of the pieces that n examples fall into: the usual one and, where it does not divide n, the last one's.
function source.sizes(n, size)
  size = math.min(n, size)
  local last = n % size
  return last == 0 and { size } or { size, last }
end

--- sampler:stage(count) → batch: The tensors of a step with `count` examples, which are made once, as they are.
function Sampler:stage(count) return staging(self, self.steps, count) end

-- Make the tensors of a sampler's passes in batches of `size`; of none where it is nil.
function source.prepare_passes(self, size)
  for _, one in ipairs(size and source.sizes(self.n, size) or {}) do staging(self, self.passes, one) end
end

--- sampler:prepare([pass_size]) → list: Make the tensors of every size that a step or a pass of `pass_size` can have,
-- and return one batch of each step's size, for optimizer:prepare.
function Sampler:prepare(pass_size)
  local batches = {}
  for i, size in ipairs(source.sizes(self.n, self.batch_size)) do batches[i] = staging(self, self.steps, size) end
  source.prepare_passes(self, pass_size)
  return batches
end

--- sampler:order_of(epoch) → tensor: The order of an epoch, counted from 0: i64 [n], row numbers from 0, in memory that
-- the next call for another epoch fills again.
function Sampler:order_of(epoch)
  if epoch ~= self.numbers.epoch then
    self.numbers.epoch = epoch
    self.program:run()
    self.order = self.order or self.program:result(1) -- the same memory each time
  end
  return self.order
end

-- Fill a batch of `pool` with the examples of a step, in the order of an epoch.
local function fill_step(self, pool, step, order_epoch)
  local first = step % self.per_epoch * self.batch_size
  local count = math.min(self.batch_size, self.n - first)
  local batch = staging(self, pool, count)
  self.split:fill(batch, self:order_of(order_epoch), first, count)
  return batch, count
end

--- sampler:at(step [, order]) → batch, epoch: The batch of a step and its epoch, both counted from 0. It depends on the
-- key and the arguments alone. order: the epoch whose order to go by, where not its own. The tensors are filled again
-- by the next call.
function Sampler:at(step, order)
  local epoch = step // self.per_epoch
  return (fill_step(self, self.steps, step, order or epoch)), epoch
end

--- sampler:epoch_of(step) → number: The epoch that a step belongs to, both counted from 0.
function Sampler:epoch_of(step) return step // self.per_epoch end

--- sampler:seen(step) → number: How many examples the steps before this one have seen; where that is chance, expected.
function Sampler:seen(step)
  return step // self.per_epoch * self.n + math.min(self.n, step % self.per_epoch * self.batch_size)
end

-- ---- the source of full passes (see evaluator.lua) ----

--- sampler:total(size [, count [, ahead]]) → number: How many examples a pass of `count` batches of `size` sees, or,
-- with a step `ahead`, of the batches of that step and the ones after it; without count, all.
function Sampler:total(size, count, ahead)
  if not ahead then return count and math.min(self.n, size * count) or self.n end
  local total = 0
  for step = ahead, ahead + count - 1 do
    total = total + math.min(self.batch_size, self.n - step % self.per_epoch * self.batch_size)
  end
  return total
end

-- The batches of `count` steps from `ahead` on.
local function batches_ahead(self, options)
  local j = (options.first or 1) - 1
  return function()
    if j >= options.count then return nil end
    j = j + 1
    local step = options.ahead + j - 1
    return j, (fill_step(self, self.passes, step, step // self.per_epoch))
  end
end

--- sampler:batches(size [, { first = 1, count =, segment =, key =, epoch =, ahead = }]) → iterator: j, batch of a full
-- pass: all examples in file order, or in that of an epoch, or `count` batches' worth drawn afresh for each segment
-- from the key, or with a step `ahead` the batches of that step and the ones after it.
function Sampler:batches(size, options)
  options = options or {}
  if options.ahead then return batches_ahead(self, options) end
  local total, order = self:total(size, options.count), self.natural
  if options.count then
    order = core.apply("permutation", { a = { self.n } }, options.key:fold(options.segment or 0))
  elseif options.epoch then
    order = self:order_of(options.epoch)
  end
  local j = (options.first or 1) - 1
  return function()
    local first = j * size
    if first >= total then return nil end
    j = j + 1
    local count = math.min(size, total - first)
    local batch = staging(self, self.passes, count)
    self.split:fill(batch, order, first, count)
    return j, batch
  end
end

return source
