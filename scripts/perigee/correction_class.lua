-- correction_class.lua: what a correction is: its definition, the options that all of them have, when it is active and
-- when its refresh is due. The ready-made ones are gathered in correction.lua.

local core = require "perigee.core"
local hyper = require "perigee.hyper"
local moment = require "perigee.moment"
local names = require "perigee.names"
local part = require "perigee.part"
local schedule = require "perigee.schedule"

local correction = { required = hyper.required }

local Correction = part.class "correction"

local DEFINITION = { "name", "hyper", "static", "limits", "state", "due", "refresh", "correct", "active", "check",
  "fits", "exact", "lasting", "partition", "unused" }
-- Options that every correction has.
local COMMON = { "every", "start", "due", "mega", "ahead", "noise", "antithetic", "batch_norm", "lock", "cache" }

-- ---- common options -------------------------------------------------------------------------------------------------

-- What `lock` may say of each thing that is locked, and what holds unless something is said.
local LOCKS = {
  dropout = { [true] = true, step = true, [false] = true }, augment = { [true] = true, step = true, [false] = true },
  partition = { [true] = true, [false] = true }, key = { segment = true, epoch = true },
}

local function read_lock(owner, given)
  local lock = { dropout = true, augment = true, key = "segment" }
  if given == nil then return lock end
  if type(given) ~= "table" then
    core.raise(("%s: lock is a table, as { dropout = false }, not %s"):format(owner, names.describe(given)))
  end
  names.check(owner .. " lock", given, names.sorted(LOCKS))
  for name, value in next, given do
    if not LOCKS[name][value] then
      core.raise(('%s: lock.%s is %s, not %s'):format(owner, name, name == "key" and '"segment" or "epoch"'
        or name == "partition" and "true or false" or 'true, "step" (in a step, not in its pass) or false',
        names.describe(value)))
    end
    lock[name] = value
  end
  return lock
end

local function check_choice(owner, name, value, ...)
  for i = 1, select("#", ...) do
    if value == select(i, ...) then return value end
  end
  local known = {}
  for i = 1, select("#", ...) do
    local choice = select(i, ...)
    known[i] = type(choice) == "string" and ('"%s"'):format(choice) or tostring(choice)
  end
  return core.raise(("%s: %s is %s, not %s"):format(owner, name, table.concat(known, " or "), names.describe(value)))
end

local function check_mega(owner, given)
  local mega, ahead = given.mega or "full", given.ahead or false
  if mega ~= "full" and (math.type(mega) ~= "integer" or mega < 1) then
    core.raise(('%s: mega is "full" or a number of batches, not %s'):format(owner, names.describe(mega)))
  end
  check_choice(owner, "ahead", ahead, true, false)
  if ahead and mega == "full" then
    core.raise(owner .. ": ahead takes the mega-batch from the coming steps, so mega must be a number of batches")
  end
  return mega, ahead
end

-- Passes go through the batches of the steps, which stay the same. why: what needs it.
local function lock_partition(owner, lock, why)
  if lock.partition == false then
    core.raise(("%s: %s needs the same batches again and again, so lock.partition cannot be false"):format(owner, why))
  end
  lock.partition = true
end

-- Raise an error where what a step would evaluate at the snapshot is not what the pass did; else lock what must be.
local function check_cache(owner, common, definition)
  local lock = common.lock
  if not definition.refresh then
    core.raise(owner .. ": cache keeps statistics at the snapshot of a pass, and this one has none")
  elseif lock.dropout ~= true or lock.augment ~= true or lock.key ~= "segment" then
    core.raise(owner .. ": cache keeps what the pass saw, so dropout and augment must be locked, by segment")
  elseif common.mega == "full" then
    lock_partition(owner, lock, "cache")
  elseif not common.ahead then
    core.raise(owner .. ": cache needs a pass through the batches of the steps: mega = \"full\", or ahead = true")
  end
end

-- Options that say something about refreshes.
local OF_REFRESH = { "every", "due", "mega", "ahead", "antithetic" }

-- Raise an error for options that would never be looked at.
local function check_unused(owner, given, unused, why)
  for _, name in ipairs(unused) do
    if given[name] ~= nil then core.raise(("%s: %s says nothing here: %s"):format(owner, name, why)) end
  end
end

local function check_without_refresh(owner, given)
  check_unused(owner, given, OF_REFRESH, "this correction has no refreshes")
  if given.batch_norm == "running" then
    core.raise(owner .. ": batch_norm = \"running\" keeps the statistics of the last refresh, and this one has none")
  end
end

-- The common options as fields of a correction.
local function read_common(owner, given, definition)
  local batch_norm = check_choice(owner, "batch_norm", given.batch_norm or "batch", "batch", "running")
  if not definition.refresh then
    check_without_refresh(owner, given)
  elseif given.due ~= nil and type(given.due) ~= "function" then
    core.raise(("%s: due is a function(ctx) → boolean, not %s"):format(owner, names.describe(given.due)))
  end
  check_unused(owner, given, definition.unused or {}, "this correction has its own times of refresh")
  schedule.check_duration(owner, "every", given.every, 1)
  schedule.check_duration(owner, "start", given.start, 0)
  local mega, ahead = check_mega(owner, given)
  local common = {
    every = given.every or schedule.epochs(1), start = given.start or 0, due = given.due or definition.due or "every",
    mega = mega, ahead = ahead, batch_norm = batch_norm, lock = read_lock(owner, given.lock),
    noise = check_choice(owner, "noise", given.noise or "shared", "shared", "fresh", "fixed"),
    antithetic = check_choice(owner, "antithetic", given.antithetic or false, true, false),
    cache = check_choice(owner, "cache", given.cache or false, false, "memory", "file"),
  }
  if common.cache then check_cache(owner, common, definition) end
  return common
end

-- Raise at the recipe's line unless all options are common ones or among `own`: for functions that make a correction of
-- another name.
function correction.check_names(owner, given, own)
  names.check(owner, given, table.move(COMMON, 1, #COMMON, #own + 1, table.move(own, 1, #own, 1, {})))
end

-- ---- defining -------------------------------------------------------------------------------------------------------

--- pg.correction.define { name =, correct =, state = {}, refresh =, due = "every", active =, hyper = {}, static = {} }
-- → correction: A correction of one's own: less noisy statistics, from a snapshot or from earlier steps.
--   correct(s, ctx, o) → statistics [, info]: traced. ctx:evaluate(q) gives statistics at q on this step's batch and
--     randomness, ctx:snapshot(s.at) those at the snapshot (or as `cache` has kept them); ctx.q is the point that
--     moves, ctx.t = step + 1, ctx.key. s.x = e writes a slot. info: a table of scalars for the rule's ctx.info;
--     info.lr multiplies the rule's learning rate. ctx:rows(q): statistics by rows, one for each example (or as in
--     pg.rows); ctx:mean(rows): statistics out of rows; ctx.share: the batch's share of the data, with pg.rows.
--     Static booleans: ctx.first (no step was corrected before this one), ctx.refreshed (refresh ran just before this
--     step), ctx.last (it will run just before the next one). `if` on them is right: a step has a program for each.
--   state: slots, as { v = "statistics", previous = "posterior", sum = pg.scalar(0), norms = pg.per_tensor(0) }, which
--     begin as zeros, as the posterior of the beginning and as these numbers; table = pg.rows {…}: rows of statistics,
--     zeros at first; or a function of the options.
--   refresh(s, ctx): plain Lua, run before a step when due. ctx.q is the posterior, ctx.q:clone() a frozen one;
--     ctx:full(q [, s.table]) the mean statistics of a pass over the data (or the mega-batch) at q, which fills the
--     table; ctx:average(s.table) the mean of its rows; ctx.first, ctx.step, ctx.segment, ctx.steps_per_epoch,
--     ctx:coin(p). s.x = value makes a slot: a frozen posterior, statistics, a tensor or a number,
--     copied in. It is run once beforehand on zeros, to find the slots.
--   due: "every" (each `every` steps from `start`) or a function(ctx) → boolean, pure: ctx.step, ctx.s (the slots),
--     ctx.o, ctx.q, ctx.segment, ctx.steps_per_epoch, ctx.period_ended (`every` steps are over), ctx:coin(p). The first
--     step is always due.
--   active(values, step): whether the step is corrected; default: alpha (or alpha_h), if there is one, is not 0.
--   check(o): raises an error for options that do not fit together. fits(family, o) → nil, or why it does not go with
--     the family.
--   exact = true: right after a refresh the result is the mean of the pass, for every batch (with alpha = 1, if there
--     is one): a promise, which `perigee check` tests.
--   lasting = true: later refreshes begin no new segment, so that partition and examples' randomness stay.
--   partition(o) → boolean: whether it needs lock.partition = true.
--   unused: common options that this one never looks at, as { "every" }: giving them is an error.
--   hyper, static, limits: as in pg.rule.define.
-- The result is the correction; call it with hyperparameters and the common options for others. Common options:
--   every = pg.epochs(1), start = 0; due = function(ctx) → boolean in place of `every`.
--   mega = "full": what a pass goes over; or a number of batches of the steps' size, drawn afresh for each refresh, or,
--     with ahead = true, those of the coming steps.
--   noise = "shared": the points of a step see the same noise; "fresh": each its own; "fixed": other points than ctx.q
--     see one noise from refresh to refresh, that of the pass.
--   antithetic = false: whether a pass takes each point with its mirror image.
--   batch_norm = "batch": evaluations away from q and passes normalize by the statistics of their batch; "running": by
--     the running ones of the last refresh.
--   cache = false: whether statistics at the snapshot are kept for each batch of the pass, in "memory" or in a "file",
--     and not evaluated again: one gradient less in each step. Locks the partition.
--   lock = { dropout = true, augment = true, partition =, key = "segment" }: what is the same in all evaluations of a
--     segment; for studies of what happens if it is not. dropout, augment: true; "step": the evaluations of a step
--     agree, those of its pass are drawn apart; false: every evaluation is drawn apart. partition: whether a pass goes
--     through the batches of the steps, and the steps keep them until the next refresh; by default it goes through them
--     if the model has batch norm. key: "epoch" draws an example anew in each epoch of a segment.
function correction.define(definition)
  names.check("pg.correction.define", definition, DEFINITION)
  if type(definition.name) ~= "string" or type(definition.correct) ~= "function" then
    core.raise("pg.correction.define needs a name and a correct function")
  end
  hyper.check_limits("pg.correction.define", definition)
  local function make(given)
    given = given or {}
    local owner = "correction " .. definition.name
    local h = hyper.resolve(owner, definition.hyper or {}, given, definition.static, COMMON, definition.limits)
    if definition.check then definition.check(h.given) end
    local self = read_common(owner, given, definition)
    if definition.partition and definition.partition(h.given) then
      lock_partition(owner, self.lock, "a row for each batch")
    end
    self.name, self.definition, self.hyper, self.given, self.make = definition.name, definition, h, given, make
    self.reads = {} -- the static flags that `correct` was seen to read, once it was `traced`
    return setmetatable(self, Correction)
  end
  return part.defined(make, definition.hyper or {}, hyper.required)
end

--- pg.correction.is(x): Whether x is a correction.
function correction.is(x)
  return getmetatable(x) == Correction
end

-- The slots that the definition declares, by name.
function Correction:declared_state()
  local state = self.definition.state or {}
  return type(state) == "function" and state(self.hyper.given) or state
end

-- Why it does not go with a family; nil if it does.
function Correction:refuses(family)
  if self.cache and family:has_noise() and (self.noise ~= "fixed" or self.antithetic) then
    return "cache keeps the statistics of the pass, whose noise a step does not have: noise = \"fixed\" gives both the "
      .. "same, without antithetic; or a family that evaluates at the mean"
  end
  return self.definition.fits and self.definition.fits(family, self.hyper.given)
end

-- The segment that a refresh begins, after segment number `now`.
function Correction:next_segment(now)
  return self.definition.lasting and math.max(now, 1) or now + 1
end

-- ---- when -----------------------------------------------------------------------------------------------------------

-- Whether a step is corrected. values: of the hyperparameters at this step.
function Correction:is_active(values, step, units)
  local start, active = self.start, self.definition.active
  if start ~= 0 and step < schedule.resolve_steps(start, units) then
    return false
  elseif active then
    return active(values, step)
  end
  if values.alpha ~= 0 or (values.alpha_h or 0) ~= 0 then return true end
  -- Off for good, unless somebody changes it: steps need not ask again.
  if #self.hyper.moving == 0 then self.off = hyper.changes end
  return false
end

-- The period of `every` steps, counted from start, that a step is in.
function Correction:period(step, units)
  local every = schedule.resolve_steps(self.every, units)
  if every < 1 then
    core.raise(("correction %s: every must be at least one step"):format(self.name))
  end
  return (step - schedule.resolve_steps(self.start, units)) // every
end

-- Whether refresh is due before a step. segment: number of refreshes so far; period: that of the last one; at: what a
-- due function's ctx is made of (moment.lua).
function Correction:is_due(step, segment, period, units, at)
  if not self.definition.refresh then return false end
  if self.due == "every" then return self:period(step, units) ~= period end
  return segment == 0 or self.due(moment.reuse(at, step, segment, period)) and true or false
end

-- The static flags of a step for `correct`: a table whose reads are remembered. values: { first, refreshed, last }.
function Correction:flags(values)
  self.traced = true
  return setmetatable({}, { __index = function(_, name)
    if values[name] ~= nil then self.reads[name] = true end
    return values[name]
  end })
end

local FLAGS = { "first", "refreshed", "last" }

-- Which of a step's flags make a difference, as a number: steps with the same one share a program.
function Correction:variant(values)
  local number, reads = 0, self.reads
  for i = 1, #FLAGS do
    local name = FLAGS[i]
    if reads[name] and values[name] then number = number | 1 << i end
  end
  return number
end

-- All settings of flags that a step can have, the usual one first.
function Correction:possible_flags()
  local list = {}
  for i = 0, 7 do
    local flags = { first = i & 2 ~= 0, refreshed = i & 1 ~= 0, last = i & 4 ~= 0 }
    local has_refresh = self.definition.refresh ~= nil
    -- without refresh nothing is refreshed; with one the first step always is
    if has_refresh and (flags.refreshed or not flags.first) or not has_refresh and i & 5 == 0 then
      list[#list + 1] = flags
    end
  end
  return list
end

-- ---- standalone -----------------------------------------------------------------------------------------------------

--- correction:init([q]) → state: Standalone use, without an optimizer or a model: the state before the first step. q:
-- { mean =, h = }, for corrections that declare slots like it.
function Correction:init(q)
  return require("perigee.replay").init(self, q)
end

--- correction:step(q, evaluate, state, step [, key]) → statistics, info: Standalone use: one step, with a refresh if
-- one is due. q: { mean =, h = }, eager vectors; evaluate(q, "batch" or "full") → { g =, h = }, plain Lua; step counts
-- from 0; `every` is a number of steps; key: for ctx.key and coins.
function Correction:step(q, evaluate, state, step, key)
  return require("perigee.replay").step(self, state, q, evaluate, step, key)
end

return correction
