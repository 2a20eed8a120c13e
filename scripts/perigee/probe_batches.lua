-- probe_batches.lua: what probes see of a run: statistics of batch after batch at a frozen point, under the randomness
-- that the run's own steps have. Nothing of the run is written: programs have scalars of their own, what corrections
-- and models would write is dropped, and evaluations are booked as those of probes.

local batches = require "perigee.batch"
local core = require "perigee.core"
local names = require "perigee.names"
local posterior = require "perigee.posterior"
local steps = require "perigee.step"
local subject = require "perigee.subject"
local tables = require "perigee.tables"

local M = {}

-- Options of every probe that goes over batches.
M.OPTIONS = { "batches", "count", "epoch", "key" }

-- ---- which batches --------------------------------------------------------------------------------------------------

local function is_list(x) return type(x) == "table" and #x > 0 end

function M.check_options(owner, o, more)
  local known = table.move(more or {}, 1, #(more or {}), #M.OPTIONS + 1, { table.unpack(M.OPTIONS) })
  names.check(owner, o, known)
  if o.batches ~= nil and not is_list(o.batches) then
    core.raise(("%s: batches is a list of batches, not %s"):format(owner, names.describe(o.batches)))
  elseif o.count ~= nil and (math.type(o.count) ~= "integer" or o.count < 1) then
    core.raise(("%s: count is a whole number of at least 1, not %s"):format(owner, names.describe(o.count)))
  elseif o.epoch ~= nil and (math.type(o.epoch) ~= "integer" or o.epoch < 0) then
    core.raise(("%s: epoch is a whole number, counted from 0, not %s"):format(owner, names.describe(o.epoch)))
  end
  for _, name in ipairs { "key", "probe_key" } do
    if o[name] ~= nil and not (core.is_tensor(o[name]) and o[name].dtype == "key") then
      core.raise(("%s: %s is a key, as pg.key(1), not %s"):format(owner, name, names.describe(o[name])))
    end
  end
end

-- Entries k of 1 … n to take: all, or `count` of them, evenly spaced.
local function spaced(n, count)
  local list = {}
  count = math.min(count or n, n)
  for i = 0, count - 1 do list[i + 1] = i * n // count + 1 end
  return list
end

-- The order of batches that the run is in: that of the last step's epoch, or of the last refresh where the correction
-- keeps it.
local function present_epoch(opt, st, last, per_epoch)
  local c = opt and opt.correction
  if c and c.lock.partition == true and st.order >= 0 then return st.order end
  return last // per_epoch
end

-- The batches of a source that knows its steps (pg.sampler): those of an epoch.
local function batches_of_epoch(source, o, self)
  local per_epoch = source.per_epoch
  local epoch = o.epoch or present_epoch(self.opt, self.st, self.last, per_epoch)
  local list, i = spaced(per_epoch, o.count), 0
  return function()
    i = i + 1
    if not list[i] then return nil end
    local step = epoch * per_epoch + list[i] - 1
    return (source:at(step)), step
  end
end

-- The batches of a pass over a source, as large as those of the steps.
local function batches_of_pass(source, o, self)
  local size = self.st.batch_size > 0 and self.st.batch_size or self.evaluator.batch or source.n
  local list = spaced((source.n + size - 1) // size, o.count)
  local wanted = {}
  for _, k in ipairs(list) do wanted[k] = true end
  local next_batch = source:batches(size, {})
  return function()
    for j, batch in next_batch do
      if wanted[j] then return batch, self.last + j - 1 end
    end
  end
end

-- An iterator of batch, step: the step (0-based) whose noise it gets. self: a view, or a table with its owner, st, opt,
-- evaluator, options and last.
function M.each(self)
  local o = self.options
  if o.batches then
    local i = 0
    return function()
      i = i + 1
      return o.batches[i], self.last + i - 1
    end
  end
  local source = self.evaluator.source
  if not source then
    core.raise(self.owner .. " needs batches = a list of batches: the evaluator has no source")
  end
  local has_steps = source.at and source.per_epoch and not source.varies
  return has_steps and batches_of_epoch(source, o, self) or batches_of_pass(source, o, self)
end

-- ---- looking --------------------------------------------------------------------------------------------------------

-- st → { scalars of its own, programs by evaluator }.
local kept = setmetatable({}, { __mode = "k" })

local function memory_of(st)
  local own = kept[st]
  if not own then
    own = { scalars = { step = 0, t = 1, epoch = 0, segment = 0 }, programs = setmetatable({}, { __mode = "k" }) }
    kept[st] = own
  end
  return own
end

-- Whether the run's last step was one that the correction acts on and has what it needs for.
local function is_corrected(opt, st, last)
  local c = opt.correction
  if not c or c.definition.refresh and st.segment == 0 then return false end
  return c:is_active(c.hyper.values, last, opt.units)
end

-- The snapshot of the correction, a host posterior; nil without one.
function M.snapshot(st)
  local memory = st.memory
  if not memory or memory.kinds.at ~= "posterior" or not memory.filled.at then return nil end
  return memory.values.at
end

local View = {}
View.__index = View

-- Open what was given to a probe, for runs over batches. o: the options.
function M.open(owner, given, o)
  local found = subject.complete(owner, given, "st", "opt", "evaluator")
  local st, opt, evaluator = found.st, found.opt, found.evaluator
  opt:configure { steps_per_epoch = evaluator.steps_per_epoch, total_steps = evaluator.total_steps }
  local self = setmetatable({
    owner = owner, st = st, opt = opt, evaluator = evaluator, options = o, last = math.max(0, st.step - 1),
    key = o.key or st.key or evaluator.key, memory = memory_of(st), spent = 0,
  }, View)
  opt:evaluate_hypers(self.last)
  self.corrected = is_corrected(opt, st, self.last)
  -- a cache knows the batches of the steps only, and a probe may look at others: it evaluates at the snapshot
  self.frozen = setmetatable({ scalars = self.memory.scalars, cache = false }, { __index = st })
  return self
end

-- The program for what is wanted of batches like this one; kept with the state.
function View:program(batch, wanted, at)
  local by_evaluator = self.memory.programs
  by_evaluator[self.evaluator] = by_evaluator[self.evaluator] or {}
  local known = by_evaluator[self.evaluator]
  local flags = self.corrected and { first = self.st.corrected == 0, refreshed = false, last = false } or nil
  local name = ("%s %s %s %d %s"):format(table.concat(wanted, "+"), flags and "corrected" or "plain",
    flags and flags.first, self.st.batch_size, batches.signature(batch))
  local entry = known[name]
  if not entry or entry.at ~= at or not steps.is_current(entry, self.evaluator) then
    if flags then tables.prepare(self.opt, self.st, self.evaluator, batch) end
    entry = steps.build_probe(self.opt, self.frozen, self.evaluator, flags, batch, wanted, at)
    entry.at = at
    steps.stamp(entry, self.opt, self.evaluator)
    known[name] = entry
  end
  return entry
end

-- Bring in what the correction has kept in tables for a batch of n examples.
function View:load_rows(batch, n)
  if not self.corrected then return end
  local st = self.st
  tables.load({ opt = self.opt, st = st, evaluator = self.evaluator, key = self.key, hooks = {} }, batch, n, true)
  self.memory.scalars.share = st.scalars.share
end

-- Call visit(stats, n) for batch after batch: stats.plain, .corrected, .other as in step.build_probe, statistics whose
-- tensors the next batch overwrites; n examples. wanted, at: see there.
function View:run(wanted, at, visit)
  local scalars, units = self.memory.scalars, self.opt.units
  for batch, step in M.each(self) do
    local entry = self:program(batch, wanted, at)
    scalars.step, scalars.t, scalars.segment = step, self.last + 1, self.st.segment
    scalars.epoch = units.steps_per_epoch and step // units.steps_per_epoch or step
    entry.binding:bind(entry.program, batch)
    entry.program:bind("key", self.key)
    self:load_rows(batch, entry.count)
    entry.program:run()
    local n = math.tointeger(batch.count) or entry.count
    self.spent = self.spent + n * entry.evaluations
    self.st.cost:add("probes", n * entry.evaluations)
    local stats = {}
    for what, numbers in next, entry.outputs do
      stats[what] = {}
      for field, k in next, numbers do stats[what][field] = entry.program:result(k) end
    end
    visit(stats, n)
  end
end

-- The point that "other" looks at: the option `at` (a vector or a posterior), or the snapshot of the correction.
function View:other_point()
  local at = self.options.at
  if posterior.is(at) then return at end
  if core.is_tensor(at) then return posterior.new({ "mean" }, { mean = at }) end
  return M.snapshot(self.st) or core.raise(self.owner
    .. " compares with a snapshot, and there is none yet; give at = a vector of parameters")
end

return M
