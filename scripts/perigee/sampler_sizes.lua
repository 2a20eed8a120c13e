-- sampler_sizes.lua: batches whose size changes over the run, without replacement: the order of each epoch cut into
-- pieces of the sizes that a schedule or a test says. A batch ends where its epoch does. Where only a few sizes occur
-- each has a plan of its own; else a batch lies in a plan for the next power of two, and rows beyond it have weight 0.

local core = require "perigee.core"
local schedule = require "perigee.schedule"
local source = require "perigee.sampler_source"

local sizes = {}

local FEW = 8 -- sizes that have plans of their own

local Sized = source.class()

local function new(split, key, dtype, first)
  local self = source.new { split = split, batch = first, key = key, dtype = dtype, class = Sized }
  self.varies, self.redraws, self.masked, self.starts = true, true, {}, { step = 0, seen = 0 }
  return self
end

-- Plans for masked batches: powers of two times `least`, up to `most`.
local function buckets_between(least, most)
  local list = { least }
  while list[#list] < most do list[#list + 1] = math.min(most, 2 * list[#list]) end
  return list
end

-- ---- by a schedule --------------------------------------------------------------------------------------------------

-- The size that the schedule says for a step before which `seen` examples were seen.
local function scheduled(self, step, seen)
  self.units.samples = seen
  local size = schedule.value(self.given, step, self.units, "pg.train", "batch")
  if size < 1 or size ~= size then
    core.raise(("pg.train: batch: the schedule gave %g examples at step %d"):format(size, step))
  end
  return math.tointeger(math.min(math.floor(size), self.n))
end

-- A sampler whose sizes a schedule says. length: { samples = } or { steps = } of the run, which is gone through once.
function sizes.by_schedule(split, key, dtype, given, length)
  local units = { varies = true, examples = split.n, total_samples = length.samples, samples = 0 }
  local first = scheduled({ given = given, units = units, n = split.n }, 0, 0)
  local self = new(split, key, dtype, first)
  self.given, self.units = given, units
  local seen, step, found, list = 0, 0, {}, {}
  while step < (length.steps or math.huge) and seen < (length.samples or math.huge) do
    local count = self:count_at(step, seen)
    if not found[count] then found[count], list[#list + 1] = true, count end
    seen, step = seen + count, step + 1
  end
  self.total_steps = step
  table.sort(list)
  if #list <= FEW then
    self.exact = list
  elseif #list > 0 then
    self.buckets = buckets_between(list[1], list[#list])
  end
  return self
end

-- Examples of a step before which `seen` were seen. Where a test chose the size, what is left of an epoch is divided
-- evenly into batches of at most that size: a step on a few examples left over would be the noisiest of all.
function Sized:count_at(step, seen)
  local rest = self.n - seen % self.n
  if not self.state then return math.min(scheduled(self, step, seen), rest) end
  local batches = (rest + self.state.size - 1) // self.state.size
  return (rest + batches - 1) // batches
end

-- ---- by a test ------------------------------------------------------------------------------------------------------

-- A sampler whose size a test lets grow. adaptive: of pg.batch.adaptive. Its state has to be saved with the run.
function sizes.by_test(split, key, dtype, adaptive)
  local first, most = math.min(adaptive.initial, split.n), math.min(adaptive.max or split.n, split.n)
  local self = new(split, key, dtype, first)
  self.adaptive, self.most, self.buckets = adaptive, most, buckets_between(first, most)
  self.state = { size = first, seen = 0 }
  return self
end

-- After a step: where the next one begins, and how large it is. st: the optimizer's state, with the stage that tests.
function Sized:advance(step, st)
  local state = self.state
  if not state then return end
  state.seen = state.seen + self:count_at(step, state.seen)
  if (step + 1) % self.adaptive.interval == 0 then
    local ratio = st.stages.per_evaluation[1].values.ratio:item()
    state.size = self.adaptive:grow(state.size, ratio, self.most)
  end
end

-- ---- what both do ---------------------------------------------------------------------------------------------------

function Sized:seen(step)
  if self.state then return self.state.seen end
  local at = self.starts
  if step < at.step then at.step, at.seen = 0, 0 end
  while at.step < step do at.step, at.seen = at.step + 1, at.seen + self:count_at(at.step, at.seen) end
  return at.seen
end

function Sized:epoch_of(step) return self:seen(step) // self.n end

local function masked(self, rows)
  local batch = self.masked[rows]
  if not batch then
    batch = self.split:staging(rows, self.dtype)
    batch.sample_weight, batch.count = core.tensor(self.dtype, { rows }), rows
    self.masked[rows] = batch
  end
  return batch
end

function Sized:prepare(pass_size)
  source.prepare_passes(self, pass_size)
  local list = {}
  for i, count in ipairs(self.exact or {}) do list[i] = self:stage(count) end
  for i, rows in ipairs(self.buckets or {}) do list[i] = masked(self, rows) end
  return list
end

-- A batch of the `count` examples from place `first` of an order on, in a plan with more rows: those before or behind
-- them in the order fill it.
local function fill_masked(self, order, first, count)
  local rows
  for _, bucket in ipairs(self.buckets) do
    rows = bucket
    if bucket >= count then break end
  end
  local batch = masked(self, rows)
  local from = math.min(first, self.n - rows)
  for i = 0, rows - 1 do
    local is_there = from + i >= first and from + i < first + count
    batch.sample_weight:data_write(i, is_there and 1 / count or 0)
  end
  batch.count = count
  return self.split:fill(batch, order, from, rows)
end

function Sized:at(step)
  local seen = self:seen(step)
  local epoch, first, count = seen // self.n, seen % self.n, self:count_at(step, seen)
  local order = self:order_of(epoch)
  if self.buckets then return fill_masked(self, order, first, count), epoch end
  return self.split:fill(self:stage(count), order, first, count), epoch
end

return sizes
