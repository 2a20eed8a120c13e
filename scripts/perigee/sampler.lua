-- sampler.lua: what a step sees. A sampler says how many steps an epoch has and which examples each takes, as a pure
-- function of the key and the step, so that a resumed run needs no state but its step count; and it assembles the
-- batches, into staging tensors that are made once for each size. It is also the source that full passes draw from.

local builder = require "perigee.builder"
local core = require "perigee.core"
local names = require "perigee.names"
local read_options = require("perigee.tensor_args").read_options

local sampler = {}

local Sampler = {}
Sampler.__index = Sampler
Sampler.__name = "perigee.sampler"

-- A program whose result 1 is the order of epoch numbers.epoch, always in the same memory.
local function shuffling_program(key, n, numbers)
  local program = builder.trace("the order of an epoch", function(b)
    local epoch_key = core.apply("key_fold", nil, b:input("key", key), b:scalar(numbers, "epoch"))
    b:output(core.apply("permutation", { a = { n } }, epoch_key))
  end)
  program:bind("key", key)
  return program
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
  local n = split.n
  batch = math.tointeger(math.min(batch, n))
  local self = setmetatable({
    split = split, ids = split.ids, n = n, batch_size = batch, dtype = dtype, per_epoch = (n + batch - 1) // batch,
    steps = {}, passes = {}, natural = core.apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }), numbers = {},
  }, Sampler)
  self.program = shuffling_program(key:fold("order"), n, self.numbers)
  return self
end

local function staging(self, pool, count)
  local tensors = pool[count]
  if not tensors then
    tensors = self.split:staging(count, self.dtype)
    pool[count] = tensors
  end
  return tensors
end

--- sampler:prepare([pass_size]) → list: Make the tensors of every size that a step or a pass of `pass_size` can have,
-- and return one batch of each step's size, for optimizer:prepare.
function Sampler:prepare(pass_size)
  local batches = {}
  for i, size in ipairs(sampler.sizes(self.n, self.batch_size)) do batches[i] = staging(self, self.steps, size) end
  for _, size in ipairs(pass_size and sampler.sizes(self.n, pass_size) or {}) do staging(self, self.passes, size) end
  return batches
end

--- pg.sampler.sizes(n, size) → list: The sizes of the pieces that n examples fall into: the usual one and, where it
-- does not divide n, the last one's.
function sampler.sizes(n, size)
  size = math.min(n, size)
  local last = n % size
  return last == 0 and { size } or { size, last }
end

-- The order of an epoch (0-based), in memory that the next call for another epoch fills again.
local function order_of(self, epoch)
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
  self.split:fill(batch, order_of(self, order_epoch), first, count)
  return batch, count
end

--- sampler:at(step [, order]) → batch, epoch: The batch of a step and its epoch, both counted from 0. It depends on the
-- key and the arguments alone. order: the epoch whose order to go by, where not its own. The tensors are filled again
-- by the next call.
function Sampler:at(step, order)
  local epoch = step // self.per_epoch
  return (fill_step(self, self.steps, step, order or epoch)), epoch
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
    order = order_of(self, options.epoch)
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

return sampler
