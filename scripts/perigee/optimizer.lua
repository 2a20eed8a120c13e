-- optimizer.lua: optimizer = family x correction x rule, with stages. Owns the order of a step on the host: schedules,
-- the decision whether the step is corrected, refreshes, one program run (step.lua), and the cache of programs. A step
-- commits at the end of that run.

local core = require "perigee.core"
local batches = require "perigee.batch"
local buffers = require "perigee.buffers"
local correction = require "perigee.correction"
local family = require "perigee.family"
local hyper = require "perigee.hyper"
local memory = require "perigee.memory"
local names = require "perigee.names"
local passes = require "perigee.passes"
local per_tensor = require "perigee.per_tensor"
local pieces = require "perigee.pieces"
local rule = require "perigee.rule_class"
local schedule = require "perigee.schedule"
local stages = require "perigee.stages"
local state = require "perigee.state"
local steps = require "perigee.step"
local tables = require "perigee.tables"
local vectors = require "perigee.vectors"
local witness = require "perigee.witness"

local optimizer = {}

local Optimizer = {}
Optimizer.__index = Optimizer
Optimizer.__name = "perigee.optimizer"

--- pg.optimizer.is_decay(x): Whether x may be a weight decay: a number that is not negative, a schedule, pg.per_tensor
-- or a vector.
function optimizer.is_decay(x)
  if type(x) == "number" then return x >= 0 end
  return schedule.is_schedule(x) or per_tensor.is(x) or core.is_tensor(x)
end

local function check_parts(spec)
  local function need(ok, format, ...)
    if not ok then core.raise("pg.optimizer: " .. format:format(...)) end
  end
  if type(spec) == "table" and rawget(spec, "lr") ~= nil then
    core.raise("pg.optimizer: lr belongs to the rule, as rule = pg.rule.sgd { lr = 0.1 }")
  end
  names.check("pg.optimizer", spec, { "weight_decay", "family", "correction", "stages", "rule", "dtype" })
  need(rule.is(spec.rule), "rule must be a rule, as pg.rule.sgd { lr = 0.1 }, not %s", names.describe(spec.rule))
  need(not spec.family or family.is(spec.family), "family must be a family, as pg.family.point {}, not %s",
    names.describe(spec.family))
  need(not spec.correction or spec.correction == correction.none or correction.is(spec.correction),
    "correction must be a correction, as pg.correction.svrg {}, not %s", names.describe(spec.correction))
  local decay = spec.weight_decay
  need(decay == nil or optimizer.is_decay(decay),
    "weight_decay must be a number of at least 0, a schedule or pg.per_tensor, not %s", names.describe(decay))
end

local function check_fit(c, f)
  local why = c and (c:refuses(f) or f:refuses())
  if why then
    core.raise(("pg.optimizer: correction %s does not go with family %s: %s"):format(c.name, f.name, why))
  end
end

local function make(spec)
  check_parts(spec)
  local decay = spec.weight_decay or 0
  local c, f = spec.correction ~= correction.none and spec.correction or nil, spec.family or family.point {}
  check_fit(c, f)
  local checked = stages.check(spec.stages or {}, c, f)
  local idle_stages, idle_sets = stages.timing(checked)
  return setmetatable({
    family = f, correction = c, rule = spec.rule, dtype = spec.dtype,
    stages = checked, idle_stages = idle_stages, idle_sets = idle_sets or {}, units = {}, spec = spec,
    weight_decay = {
      given = decay, scalar = type(decay) == "number" or schedule.is_schedule(decay), values = { decay = 0 },
    },
  }, Optimizer)
end

--- pg.optimizer { rule =, family = pg.family.point {}, correction = pg.correction.none, stages = {}, weight_decay = 0,
-- dtype = } → optimizer: A method: where the loss is evaluated (family), how noise is reduced (correction), how the
-- mean moves (rule).
--   weight_decay: a number, schedule or pg.per_tensor; the prior of the family and the decay of the rule.
--   stages: { per_evaluation = {…}, combined = {…} }, lists of stages that edit gradients: at every evaluation, and
--     once after the correction.
--   dtype: of the parameters; default that of theta.
-- pg.train takes it as it is; the methods below are for loops of one's own.
setmetatable(optimizer, {
  __call = function(_, spec)
    local made = make(spec)
    if made.rule.definition.point and spec.correction == nil then
      core.raise(("pg.optimizer: rule %s chooses where corrected steps evaluate, and there is no correction, as "
        .. "pg.correction.svrg {}; correction = pg.correction.none if there should be none"):format(made.rule.name))
    end
    return made
  end,
})

--- optimizer:with(parts) → optimizer: The same optimizer with some parts replaced; correction = false takes it out.
function Optimizer:with(parts)
  local spec = {}
  for k, v in pairs(self.spec) do
    spec[k] = v
  end
  for k, v in pairs(parts) do
    spec[k] = v or nil
  end
  return make(spec)
end

--- pg.optimizer.is(x): Whether x is an optimizer.
function optimizer.is(x)
  return getmetatable(x) == Optimizer
end

--- optimizer:configure(units): Say how long an epoch and the run are, in steps, for schedules and periods, and in
-- examples, for those that count them: { steps_per_epoch =, total_steps =, examples =, total_samples =, varies = }.
-- varies: whether steps have different sizes; an epoch has no length in steps then. false: not known any more.
function Optimizer:configure(units)
  for _, k in ipairs { "steps_per_epoch", "total_steps", "examples", "total_samples", "varies" } do
    if units[k] ~= nil then self.units[k] = units[k] or nil end
  end
end

--- optimizer:init(theta [, key [, buffers]]) → state: The state for parameters theta, which are copied. key: default
-- key of the steps. buffers: of a model that keeps running statistics, as model:init_buffers() gives; copied too.
-- state.theta is the mean, state.q the posterior, state.buffers the running statistics, state.step the number of steps
-- made, state.cost the meter.
function Optimizer:init(theta, key, given_buffers)
  local q = self.family:init(vectors.clone(theta, self.dtype), self.units)
  for _, field in ipairs(self.rule.definition.needs) do
    if q[field] == nil then
      core.raise(("rule %s reads q.%s, which family %s does not keep; use pg.family.%s"):format(
        self.rule.name, field, self.family.name, field == "H" and "full" or "diagonal"))
    end
  end
  local c = self.correction
  local kept = given_buffers and buffers.copy(given_buffers, q.mean.dtype, "opt:init")
  local st = state.new {
    optimizer = self, buffers = kept,
    frozen_buffers = kept and c and c.batch_norm == "running" and vectors.clone(kept) or nil,
    q = q, rule_slots = self.rule:allocate(q.mean), rule_names = self.rule.slot_names, key = key,
    memory = c and memory.new("correction " .. c.name), stats = self.family.stats, cache = c and tables.cache(c),
    stages = stages.allocate(self.stages, q.mean),
    shapes = self.family.definition.shapes and self.family.definition.shapes(q.mean),
  }
  if c then
    st.memory:declare(c:declared_state(), q, function() return st:zero_statistics() end)
    if st.memory.table and st.cache then
      core.raise(("correction %s keeps a table of its own, so it has no use for cache"):format(c.name))
    end
    st.passes = c.definition.refresh and passes.probe(self, st) or nil
  end
  return st
end

-- ---- programs ----

-- The hyperparameters that move from step to step. They are few: what stays costs a step nothing.
local function moving_hypers(self)
  local list = {}
  local function add(part)
    if part and #part.hyper.moving > 0 then list[#list + 1] = part.hyper end
  end
  add(self.family)
  add(self.rule)
  add(self.correction)
  for _, place in ipairs { "per_evaluation", "combined" } do
    for _, s in ipairs(self.stages[place]) do add(s) end
  end
  return list
end

-- What is known of a kind of programs, of a mode and a variant of its flags: by_signature, and seen (batch → entry).
local function open_kind(st, evaluator, mode, variant)
  local modes = st.programs[evaluator]
  local variants = modes and modes[mode]
  local kind = variants and variants[variant]
  if kind then return kind end
  modes = modes or {}
  variants = variants or {}
  kind = { by_signature = {}, seen = setmetatable({}, { __mode = "k" }) }
  st.programs[evaluator], modes[mode], variants[variant] = modes, variants, kind
  return kind
end

-- The usual corrected step.
local STEADY = { first = false, refreshed = false, last = false }

-- How most steps are made.
local USUAL = {}

-- Whether programs of these modes belong to a correction.
local OF_CORRECTION = { pass = true, filling = true, average = true }

local function build(self, st, evaluator, mode, batch, flags, how)
  if flags or OF_CORRECTION[mode] then tables.prepare(self, st, evaluator, batch) end
  if mode == "average" then return passes.build_average(self, st, evaluator, batch) end
  if OF_CORRECTION[mode] then return passes.build_batch(self, st, evaluator, batch, mode == "filling") end
  return steps.build(self, st, evaluator, flags, batch, how.look, how.idle)
end

-- The program of a mode ("plain", "corrected", "pass", "filling", a pass that fills a table, "average", of its rows)
-- for batches of this signature; traced on first use, and again when a number that the user's functions capture has
-- changed. flags: of a corrected step; default those of most. how: { look = (of a step that shows more or takes its
-- noise from outside: witness.lua), idle = (stages that do not act in it) }; nil for most.
function Optimizer:program(st, evaluator, mode, batch, flags, how)
  how = how or USUAL
  if mode == "corrected" then flags = flags or STEADY end
  if how.look then mode = mode .. how.look.kind end
  if how.idle then mode = mode .. how.idle.name end
  local kind = open_kind(st, evaluator, mode, flags and self.correction:variant(flags) or 0)
  -- Trainers fill the same few batch tables again and again: those are known without spelling out a signature.
  local seen = kind.seen[batch]
  if seen and seen.binding:is_bound(batch) and steps.is_current(seen, evaluator) then
    return seen
  end
  local signature = batches.signature(batch)
  local entry = kind.by_signature[signature]
  if not entry or not steps.is_current(entry, evaluator) then
    entry = build(self, st, evaluator, mode, batch, flags, how)
    -- tracing may have shown that a flag makes a difference
    if flags then kind = open_kind(st, evaluator, mode, self.correction:variant(flags)) end
    steps.stamp(entry, self, evaluator)
    kind.by_signature[signature] = entry
  end
  kind.seen[batch] = entry
  return entry
end

-- The programs around pass number `which` of a refresh.
function Optimizer:frame(st, which)
  st.frames = st.frames or {}
  st.frames[which] = st.frames[which] or passes.build_frame(self, st, which)
  return st.frames[which]
end

-- Learn from the first batch how many examples a step has, and a batch of a pass.
local function learn_sizes(st, evaluator, batch)
  if st.batch_size == 0 then
    st.batch_size = batches.size(batch)
    pieces.check(evaluator.micro, st.batch_size)
  end
  if st.pass_size == 0 then st.pass_size = evaluator.batch or st.batch_size end
end

-- Build the programs of steps on batches like this one.
local function prepare_steps(self, st, evaluator, batch, how)
  self:program(st, evaluator, "plain", batch, nil, how)
  for _, flags in ipairs(self.correction and self.correction:possible_flags() or {}) do
    self:program(st, evaluator, "corrected", batch, flags, how)
  end
end

--- optimizer:prepare(state, evaluator, list): Build every program now, so that later steps allocate nothing. list: of
-- batches, or of tables like them with { dtype =, shape = } for tensors: one for each size that occurs, the usual one
-- first.
function Optimizer:prepare(st, evaluator, list)
  self.units.samples = self.units.samples or 0
  self:evaluate_hypers(0)
  if list[1] then learn_sizes(st, evaluator, list[1]) end
  for _, batch in ipairs(list) do
    prepare_steps(self, st, evaluator, batch)
    for _, idle in ipairs(self.idle_sets) do prepare_steps(self, st, evaluator, batch, idle.how) end
    if self.correction then
      if self.correction.definition.refresh and st.passes > 0 then
        self:program(st, evaluator, st.pass_mode, batch)
      end
    end
  end
  for which = 1, st.passes or 0 do
    self:frame(st, which)
  end
end

-- ---- a step ----

function Optimizer:evaluate_hypers(step)
  if self.hypers_of ~= hyper.changes then
    self.hypers, self.hypers_of = moving_hypers(self), hyper.changes
  end
  local hypers, units = self.hypers, self.units
  for i = 1, #hypers do hypers[i]:evaluate(step, units) end
  local decay = self.weight_decay
  if decay.scalar then
    decay.values.decay = schedule.value(decay.given, step, self.units)
  end
end

local function learn_units(self, st, evaluator, batch)
  learn_sizes(st, evaluator, batch)
  local units = self.units
  units.total_steps = evaluator.total_steps or units.total_steps
  units.examples = units.examples or evaluator.source and evaluator.source.n
  units.steps_per_epoch = evaluator.steps_per_epoch or units.steps_per_epoch
  if not units.steps_per_epoch and not units.varies and evaluator.source then
    units.steps_per_epoch = (evaluator.source.n + st.batch_size - 1) // st.batch_size
  end
end

-- What the ctx of a due function is made of, in a table that is used again.
local function place_of(self, st, key)
  local at = st.place
  at.opt, at.st, at.key = self, st, key
  return at
end

-- Whether the correction's refresh is due before this step.
local function is_due(self, st, key)
  if st.pass then return true end
  return self.correction:is_due(st.step, st.segment, st.period, self.units, place_of(self, st, key))
end

-- Whether it will be due before the step after this one.
local function will_be_due(self, st, key)
  local c, units = self.correction, self.units
  return c:is_due(st.step + 1, st.segment, c:period(st.step, units), units, place_of(self, st, key))
end

-- The static flags of a corrected step, in a table that is used again.
local function read_flags(self, st, key, refreshed)
  local flags = st.flags
  flags.first, flags.refreshed = st.corrected == 0, refreshed
  local c = self.correction
  flags.last = (c.reads.last ~= nil or not c.traced) and will_be_due(self, st, key)
  return flags
end

--- optimizer:next_segment(state [, key]) → number: The segment of the correction that the randomness of the next step's
-- examples belongs to; nil if the step is not corrected, and its randomness the epoch's.
function Optimizer:next_segment(st, key)
  local c = self.correction
  if not c then
    return nil
  end
  self.units.samples = st.samples
  self:evaluate_hypers(st.step)
  if not c:is_active(c.hyper.values, st.step, self.units) then
    return nil
  end
  return is_due(self, st, key or st.key) and c:next_segment(st.segment) or st.segment
end

--- optimizer:order_of(state, epoch [, key]) → epoch: The epoch (0-based) whose order of batches the next step should go
-- by: `epoch`, or that of the last refresh where the correction locks the partition.
function Optimizer:order_of(st, epoch, key)
  local c = self.correction
  if not c or c.lock.partition ~= true or st.order < 0 then return epoch end
  self.units.samples = st.samples
  self:evaluate_hypers(st.step)
  if not c:is_active(c.hyper.values, st.step, self.units) then return epoch end
  local begins = is_due(self, st, key or st.key) and c:next_segment(st.segment) ~= st.segment
  return begins and epoch or st.order
end

--- optimizer:step(state, evaluator, batch [, key [, { on_pass =, epoch =, noise =, dump = }]]) → state, info: One step,
-- refresh included.
--   batch: a table of tensors with the examples along their first axis; batch.id: i64 ids of the examples.
--   key: the run's key (the step is folded in), default the state's, then the evaluator's.
--   on_pass(state, done, total): called between the batches of a full pass; false stops there.
--   noise: standard normal numbers to use in place of the family's draws: a vector, a list of one for each sample, or a
--     list of such lists, one for each evaluation of the step. Passes draw as ever.
--   dump: a table to fill with what the step did, by name (docs/runs.md): the points, noise, gradients and statistics
--     of each evaluation, and what the rule got.
--   info: { loss, aux, corrected, refreshed, suspended }, overwritten by the next step. Where a step after a refresh
--     evaluates no batch, as SARAH's, loss is the mean of the pass. If a pass was stopped,
--     info.suspended is true, no step was made, and the next call goes on with the pass.
function Optimizer:step(st, evaluator, batch, key, hooks)
  key, hooks = key or st.key or evaluator.key, hooks or {}
  local info, c, step = st.info, self.correction, st.step
  learn_units(self, st, evaluator, batch)
  self.units.samples = st.samples
  self:evaluate_hypers(step)
  local scalars = st.scalars
  scalars.step, scalars.t = step, step + 1
  local corrected = c ~= nil and c.off ~= hyper.changes and c:is_active(c.hyper.values, step, self.units)
  scalars.epoch = hooks.epoch or (self.units.steps_per_epoch and step // self.units.steps_per_epoch) or step
  info.refreshed, info.suspended, info.corrected = false, false, corrected
  local call = st.call
  call.opt, call.st, call.evaluator, call.key, call.hooks = self, st, evaluator, key, hooks
  if corrected then tables.check(self, st, evaluator, batch, key) end
  if corrected and is_due(self, st, key) then
    if not passes.refresh(call) then
      info.suspended = true
      return st, info
    end
    st.period = c:period(step, self.units)
    info.refreshed = true
  end
  scalars.segment = st.segment
  local flags = corrected and read_flags(self, st, key, info.refreshed) or nil
  local look = (hooks.noise or hooks.dump) and witness.look(hooks, st) or nil
  local idle = self.idle_stages and self.idle_stages(step)
  local how = look and { look = look, idle = idle } or idle and idle.how
  local entry = self:program(st, evaluator, corrected and "corrected" or "plain", batch, flags, how)
  local program = entry.program
  entry.binding:bind(program, batch)
  program:bind("key", key)
  if corrected then tables.load(call, batch, entry.count) end
  if look then look:bind(entry) end
  program:run()
  if look then look:collect(entry) end
  if corrected then tables.store(st, batch, entry.count) end
  local count = batch.count or entry.count
  st.cost:add("steps", count * entry.evaluations)
  st.cost:add("products", count * entry.products)
  st.step, st.samples = step + 1, st.samples + count
  if corrected then st.corrected = st.corrected + 1 end
  info.loss, info.aux = entry.loss and program:number(entry.loss) or st.mean_loss, entry.aux(program)
  return st, info
end

return optimizer
