-- step.lua: the traced program of a whole step: sample, loss and gradient at q (and wherever the correction asks),
-- stages, correction, precision, mean. State slots are inputs bound once and outputs written in place. Also knows
-- when such a program is out of date, because a number that a user's function captured has changed.

local batches = require "perigee.batch"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local evaluators = require "perigee.evaluator"
local fingerprint = require "perigee.fingerprint"
local names = require "perigee.names"
local part = require "perigee.part"
local pieces = require "perigee.pieces"
local posterior = require "perigee.posterior"
local rows = require "perigee.rows"
local stages = require "perigee.stages"
local statistics = require "perigee.statistics"

local step = {}

-- What the parts of a step share while it is traced: builder, optimizer, state, the step's scalars and keys, q's
-- fields, the rule's slots, the evaluation, and the step's static flags. flags: of a corrected step, nil in a plain
-- one. how: { witness, idle (stages that do not act) }, or nil.
local function open(b, opt, st, evaluator, flags, batch, entry, how)
  how = how or {}
  local c = opt.correction
  local self = { b = b, opt = opt, st = st, idle = how.idle, t = b:scalar(st.scalars, "t"), fields = {}, slots = {},
    flags = c and flags and c:flags(flags) or {}, corrected = flags ~= nil }
  local key = b:input("key", evaluator.key)
  local traced, binding = batches.declare(b, batch)
  entry.binding, entry.count = binding, batches.size(batch)
  for _, field in ipairs(st.q.fields) do
    self.fields[field] = b:slot(st.q[field], "q." .. field)
  end
  self.p = self.fields.mean
  local number, streams = b:scalar(st.scalars, "step"), evaluation.streams
  self.decay = evaluation.decay(b, opt, self.p)
  self.run_key, self.key = key, evaluation.fold(key, streams.rule, number)
  for _, name in ipairs(st.rule_names) do self.slots[name] = b:slot(st.rule[name], "rule." .. name) end
  local stream = flags and c.lock.key or "epoch"
  self.eval = evaluation.new(b, opt, {
    evaluator = evaluator, batch = traced, examples = entry.count, key = key, like = self.p,
    decay = self.decay, t = self.t, stream = stream, stream_index = b:scalar(st.scalars, stream), st = st,
    noise_key = evaluation.fold(key, streams.noise, number), witness = how.witness,
    idle = how.idle,
  })
  return self
end

-- The hyperparameters of a part as traced scalars.
local function traced_hyper(self, h)
  return h:traced(function(values, name)
    return self.b:scalar(values, name)
  end, self.p)
end

-- What rule and correction see alike: ctx.t, keys, flags.
local function shared_context(self, fields)
  fields.t, fields.key, fields.weight_decay, fields.corrected = self.t, self.key, self.decay, self.corrected
  return setmetatable(fields, { __index = self.flags })
end

-- How the evaluation at another point than ctx.q, number k of the step, draws its noise and its examples.
local function elsewhere(self, k)
  local c, eval, streams = self.opt.correction, self.eval, evaluation.streams
  local opts = { apart = k, apart_dropout = c.lock.dropout == false, apart_augment = c.lock.augment == false }
  if c.noise == "fresh" then
    opts.noise_key = evaluation.fold(eval.noise_key, streams.fresh, k)
  elseif c.noise == "fixed" then
    opts.noise_key = evaluation.fold(self.run_key, streams.outer, self.b:scalar(self.st.scalars, "segment"))
    opts.one_noise = true
  end
  return opts
end

-- Remember the statistics at the current point as they are, for probes; gives them back.
local function keep_plain(self, opts, stats)
  if opts.live then self.plain = self.plain or statistics.map(stats, function(x) return x end) end
  return stats
end

-- ctx:rows and ctx:mean, of rows as the correction's table has them, and the batch's share of the data.
local function add_rows(self, ctx, locate)
  local st, eval = self.st, self.eval
  local spec = st.memory.table and st.memory.table.spec
  local form = rows.form(eval, spec, ctx.q)
  function ctx.rows(_, q)
    if not spec then rows.check_per_example(self.opt, st, eval.evaluator, eval.batch) end
    local point, opts = locate(q)
    local taken = form:take(point, opts)
    if opts.live then keep_plain(self, opts, form:mean(taken)) end
    return taken
  end
  function ctx.mean(_, taken) return form:mean(taken) end
  ctx.share = spec and self.b:scalar(st.scalars, "share")
end

-- ctx:snapshot: statistics at s.at, evaluated, or as the cache has kept them.
local function add_snapshot(self, ctx, s)
  local cache, eval = self.st.cache, self.eval
  function ctx.snapshot(_, q)
    if not cache then return ctx:evaluate(q) end
    if q ~= s.at then core.raise("ctx:snapshot takes the snapshot that the pass was at: ctx:snapshot(s.at)") end
    self.reads_cache = true
    return rows.form(eval, cache.spec):mean(cache:traced(self.b, eval.examples, "snapshot."))
  end
end

-- What correct sees as ctx. live: the view on q where the step evaluates; s: the slots.
local function correction_context(self, live, s)
  local eval = self.eval
  local ctx = { q = live, iterate = eval:view("ctx.iterate", self.fields) }
  local others = 0
  -- A view on the point that is meant, and how to evaluate there.
  local function locate(q)
    if not posterior.values(q) then -- a vector stands for q with that mean
      q = eval:view("q", part.merge(self.fields, { mean = q }))
    end
    if q == live then return q, { live = true } end
    others = others + 1
    return q, elsewhere(self, others)
  end
  function ctx.evaluate(_, q)
    local point, opts = locate(q)
    return keep_plain(self, opts, eval:at(point, opts))
  end
  add_rows(self, ctx, locate)
  add_snapshot(self, ctx, s)
  return names.guard(shared_context(self, ctx), "ctx of correction " .. self.opt.correction.name, { prefix = "ctx." })
end

-- Where the step evaluates: at the mean, or at the point that the rule makes of it.
local function trace_point(self)
  local rule = self.opt.rule
  if not rule.definition.point then return self.p end
  return rule.definition.point(self.p, self.slots, traced_hyper(self, rule.hyper),
    shared_context(self, { snapshot = self.snapshot }))
end

-- A view on q where the step evaluates, the correction's slots, and a function that registers them.
local function trace_live(self)
  local eval = self.eval
  local s, register = self.st.memory:traced_view(self.b, function(name, values)
    return eval:view("s." .. name, values)
  end, eval.examples)
  if self.st.memory.kinds.at == "posterior" then self.snapshot = s.at.mean end
  return eval:view("ctx.q", part.merge(self.fields, { mean = trace_point(self) })), s, register
end

-- Statistics, info, and a function that registers the correction's slots.
local function trace_correction(self)
  local c = self.opt.correction
  local live, s, register = trace_live(self)
  local stats, info = c.definition.correct(s, correction_context(self, live, s), traced_hyper(self, c.hyper))
  if self.st.cache and not self.reads_cache then
    core.raise(("correction %s: cache keeps the statistics at the snapshot, and correct does not ask for them by "
      .. "ctx:snapshot(s.at)"):format(c.name))
  end
  if type(stats) == "table" and not statistics.is(stats) then
    stats = statistics.new(stats)
  end
  if not statistics.is(stats) then
    core.raise(("correct of correction %s must return statistics, not %s"):format(c.name, names.describe(stats)))
  end
  return stats, info, register
end

-- Write the new buffers over the old ones. A step that looks nowhere at the current point would never move them.
local function trace_buffers(self)
  local b, st, eval = self.b, self.st, self.eval
  if st.buffers and not eval.was_live and not self.flags.refreshed then
    core.raise(("correction %s evaluates at other points than ctx.q only, so no evaluation moves the model's running "
      .. "statistics; evaluate at ctx.q too: ctx:evaluate(ctx.q)"):format(self.opt.correction.name))
  end
  if eval.new_buffers then
    b:output(eval.new_buffers, st.buffers)
  end
end

-- Move the precision, then the mean; register both as outputs.
local function trace_update(self, stats, info)
  local b, opt, st = self.b, self.opt, self.st
  local q, moved = self.eval:view("q of family " .. opt.family.name, part.merge(self.fields, {}),
    { table.unpack(st.q.fields, 2) })
  opt.family:update(q, stats, self.eval.family_o, { t = self.t, weight_decay = self.decay })
  local values = part.merge(self.slots, {})
  local ctx = shared_context(self, { q = q, info = info or {}, snapshot = self.snapshot })
  local new, written = opt.rule:apply(self.p, stats, values, traced_hyper(self, opt.rule.hyper), ctx)
  b:output(new, st.q.mean)
  for _, field in ipairs(moved) do
    b:output(q[field], st.q[field])
  end
  for _, name in ipairs(written) do
    b:output(values[name], st.rule[name])
  end
end

-- What the user's functions capture, as they are traced: numbers among it are baked into programs.
local function fingerprints(opt, evaluator)
  local functions = {
    evaluator.loss, opt.rule.definition.update, opt.family.definition.sample, opt.family.definition.statistics,
  }
  functions[#functions + 1] = evaluator.model
  functions[#functions + 1] = opt.family.definition.update
  functions[#functions + 1] = opt.family.definition.perturb
  functions[#functions + 1] = opt.correction and opt.correction.definition.correct
  for _, place in ipairs { "per_evaluation", "combined" } do
    for _, s in ipairs(opt.stages[place]) do
      functions[#functions + 1] = s.definition.apply
    end
  end
  local prints = {}
  for _, f in ipairs(functions) do
    local print = fingerprint.take(f)
    if #print.upvalues + #print.fields > 0 then
      prints[#prints + 1] = print
    end
  end
  return prints
end

-- Remember what a program was traced from.
function step.stamp(entry, opt, evaluator)
  entry.loss_function, entry.prints = evaluator.loss, fingerprints(opt, evaluator)
end

-- Whether a program was traced from this loss and from what the user's functions still capture.
function step.is_current(entry, evaluator)
  if entry.loss_function ~= evaluator.loss then
    return false
  end
  local prints = entry.prints
  for i = 1, #prints do
    if not fingerprint.holds(prints[i]) then
      return false
    end
  end
  return true
end

-- "diagonal × svrg × ivon"
function step.describe(opt)
  return ("%s × %s × %s"):format(opt.family.name, opt.correction and opt.correction.name or "none", opt.rule.name)
end

-- What a step is called in messages and by `perigee emit`.
local function name_step(opt, flags, batch, division)
  local kind = not flags and "plain" or opt.correction.definition.refresh and flags.refreshed and "first corrected"
    or "corrected"
  return ("a %s step of %s, %d examples%s"):format(kind, step.describe(opt), batches.size(batch),
    pieces.describe(division))
end

-- Edit the gradient by the combined stages; gives a function that registers the slots of all stages.
local function trace_stages(self, stats)
  local eval, combined = self.eval, stages.trace(self.b, self.st.stages.combined, self.p, self.idle)
  local number = self.b:scalar(self.st.scalars, "step")
  local fields = { t = self.t, weight_decay = self.decay, examples = eval.present, theta = self.p }
  for _, entry in ipairs(combined) do
    stats.g = entry:apply(stats.g, stages.context(part.merge(fields, {}), function()
      return evaluation.fold(self.run_key, evaluation.streams.stage, number, entry.place)
    end))
  end
  return function()
    stages.register(self.b, eval.stages)
    stages.register(self.b, combined)
  end
end

-- Trace and compile a step. flags: { first, refreshed, last } of a corrected step, nil of a plain one. The entry has
-- program, binding and count (of the batch), loss (an output's number, nil if the step evaluates nothing),
-- aux(program), evaluations and products (gradients and Hessian-vector products per example). look: what is to be
-- watched or put in (witness.lua), or nil. idle: stages that do not act (stages.timing), or nil.
function step.build(opt, st, evaluator, flags, batch, look, idle)
  local entry = {}
  local division = pieces.divide(batch, evaluator.micro, st.batch_size)
  local label = name_step(opt, flags, batch, division) .. (idle and idle.name or "")
  entry.program = builder.trace(label, function(b)
    local watching = look and look:open(b, entry, st)
    local self = open(b, opt, st, evaluator, flags, batch, entry, { witness = watching, idle = idle })
    local eval = self.eval
    local stats, info, register
    if not flags then
      stats = eval:at(eval:view("q", self.fields), { live = true })
    else
      stats, info, register = trace_correction(self)
    end
    local register_stages = trace_stages(self, stats)
    if watching then watching:saw_result(stats, opt.family.name) end
    trace_update(self, stats, info)
    trace_buffers(self)
    entry.loss = eval.loss and b:output(eval.loss)
    entry.aux = evaluators.register_aux(b, eval.aux or { n = 0 })
    if register then
      register()
    end
    register_stages()
    entry.evaluations, entry.products = eval.count, eval.products
  end)
  return entry
end

-- The statistics that a probe looks at, under the randomness of the step. See step.build_probe.
local LOOK = {
  plain = function(self)
    return self.plain or self.eval:at(self.corrected and trace_live(self) or self.eval:view("q", self.fields),
      { live = true })
  end,
  corrected = function(self) return (trace_correction(self)) end,
  other = function(self, at)
    local fields = {}
    for _, field in ipairs(at.fields) do fields[field] = self.b:slot(at[field], "at." .. field) end
    return self.eval:at(self.eval:view("at", part.merge(self.fields, fields)),
      self.opt.correction and elsewhere(self, 1) or nil)
  end,
}

-- Trace and compile what a probe sees of a batch, with everything frozen: what correct and the model write is dropped.
-- wanted: a list of "corrected" (what the correction makes of the statistics), "plain" (those at q) and "other" (those
-- at the host posterior `at`), "corrected" first. The entry has program, binding, count, evaluations, and outputs: what
-- is wanted → field → number of an output, f64.
function step.build_probe(opt, st, evaluator, flags, batch, wanted, at)
  local entry = { outputs = {} }
  local label = ("a probe of %s, %d examples%s"):format(step.describe(opt), batches.size(batch),
    pieces.describe(pieces.divide(batch, evaluator.micro, st.batch_size)))
  entry.program = builder.trace(label, function(b)
    local self = open(b, opt, st, evaluator, flags, batch, entry)
    for _, what in ipairs(wanted) do
      local numbers, stats = {}, LOOK[what](self, at)
      for _, field in ipairs(statistics.fields(stats)) do
        numbers[field] = b:output(core.apply("cast", { dtype = "f64" }, stats[field]))
      end
      entry.outputs[what] = numbers
    end
    entry.evaluations = self.eval.count + 2 * self.eval.products -- a product is about two gradients
  end)
  return entry
end

return step
