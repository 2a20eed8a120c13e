-- train.lua: pg.train, the usual training loop, written on pg.run: batches in keyed order, one optimizer step each,
-- logging, evaluation of a held-out split at the posterior mean, progress. Holds no mathematics.

local batch_size = require "perigee.batch_size"
local budget = require "perigee.budget"
local buffers = require "perigee.buffers"
local core = require "perigee.core"
local course = require "perigee.course"
local evaluator = require "perigee.evaluator"
local journal = require "perigee.journal"
local names = require "perigee.names"
local merge = require("perigee.part").merge
local metric = require "perigee.metric"
local progress = require "perigee.progress"
local run = require "perigee.run"
local sampler = require "perigee.sampler"
local sampler_sizes = require "perigee.sampler_sizes"
local streams = require "perigee.streams"
local train_check = require "perigee.train_check"

local train = {}

local EVAL_BATCH = 1000
local PASS_BATCH = 1024

-- ---- the specification ----------------------------------------------------------------------------------------------

local function splits_of(data)
  local train_split = rawget(data, "train")
  if train_split then return train_split, rawget(data, "test") end
  return data, nil
end

-- Where the parameters begin: given, or the model's own initialization.
local function initial_parameters(spec, key)
  if spec.theta then return spec.theta end
  return spec.model:init(key:fold("init"), spec.dtype)
end

-- ---- evaluation -----------------------------------------------------------------------------------------------------

-- A function () → { loss =, metric = … }: means over `split` at the state's point, batch norm by the
-- running statistics; without side effects.
local function make_evaluation(spec, split, st, key)
  local meter = metric.meter(spec.metrics or {})
  local function loss_and_metrics(model, at, batch, ctx)
    local loss = spec.loss(model, at, batch, ctx)
    local out, p
    local function outputs()
      out = out or model(at, batch.x, ctx)
      return out
    end
    local function probabilities()
      p = p or metric.probabilities(outputs())
      return p
    end
    return loss, table.unpack(meter:trace(outputs, probabilities, batch))
  end
  local source = sampler.shuffled(split, spec.eval_batch or EVAL_BATCH, key, { dtype = st.theta.dtype })
  local eval = evaluator { loss = loss_and_metrics, model = spec.model, key = key:fold("evaluation") }
  return function()
    local sum, total, point = 0.0, 0, st:point()
    meter:reset()
    for _, batch in source:batches(source.batch_size) do
      local n = eval:count(batch)
      local loss, averages = eval:evaluate(point, batch, { train = false, buffers = st.buffers })
      sum, total = sum + n * loss, total + n
      meter:add(n, averages)
    end
    st.cost:add("forward", total)
    return merge({ loss = sum / total }, meter:finish())
  end
end

-- ---- describing -----------------------------------------------------------------------------------------------------

local function describe_value(value)
  if type(value) == "number" then return ("%.17g"):format(value) end
  local text = tostring(value)
  return (text:gsub("0x%x+", "…")) -- addresses differ from run to run
end

local function describe_part(part)
  if not part then return "none" end
  local out, options = {}, merge(part.given or {}, part.hyper.given)
  for i, key in ipairs(names.sorted(options)) do out[i] = ("%s = %s"):format(key, describe_value(options[key])) end
  return ("%s { %s }"):format(part.name, table.concat(out, ", "))
end

local function describe(spec, opt, source, parts)
  return {
    batch = type(spec.batch) == "table" and tostring(spec.batch) or source.batch_size, micro = spec.micro or 1,
    sampler = spec.sampler and tostring(spec.sampler) or nil,
    steps_per_epoch = not source.varies and source.per_epoch or nil, steps = parts.steps, examples = source.n,
    family = describe_part(opt.family), correction = describe_part(opt.correction), rule = describe_part(opt.rule),
    weight_decay = describe_value(opt.weight_decay.given), dtype = source.dtype,
    data = parts.split.hash and parts.split:hash() or nil,
  }
end

-- ---- the loop -------------------------------------------------------------------------------------------------------

-- Examples in a batch of a full pass: those of a step's, of which mega-batches and locked partitions are made. A larger
-- one is quicker where a gradient is a mean over its examples: not with noise drawn afresh for each batch, stages such
-- as clipping, or batch norm; and where memory allows.
local function size_of_passes(spec, source)
  local opt, c = spec.optimizer, spec.optimizer.correction
  if c and c.mega ~= "full" then return source.batch_size end
  local by_steps = buffers.has(spec.model) or c and c.lock.partition or #opt.stages.per_evaluation > 0
  local large = opt.family.name == "point" and not by_steps and (spec.micro or 1) == 1
  local size = spec.pass_batch or (large and math.max(source.batch_size, PASS_BATCH) or source.batch_size)
  return math.tointeger(math.min(size, source.n))
end

-- Examples that a run whose steps are of different sizes sees: of its epochs, or at most of its budget; nil if it ends
-- by its steps.
local function samples_of(spec, n)
  if spec.steps then return nil end
  return spec.epochs and math.floor(spec.epochs * n + 0.5) or math.ceil(spec.budget.gradients)
end

-- How many steps the run has, and a number that ends it at the latest; with a budget the meter ends it before that.
local function length_of(spec, opt, st, eval, source, pass_batch)
  if source.varies then -- a step sees an example at least
    local steps = source.total_steps or spec.steps
    return steps, steps or samples_of(spec, source.n)
  elseif not spec.budget then
    local steps = spec.steps or course.steps_of_epochs(spec.epochs, source.per_epoch)
    return steps, steps
  end
  local batch = source:prepare()[1]
  local pass = source:batches(pass_batch)
  return budget.steps(spec.budget.gradients, { opt = opt, st = st, source = source, batch = source.batch_size,
    pass_batch = pass_batch, programs = function(mode, flags)
      local _, example = nil, batch
      if mode == "pass" then _, example = pass() end
      return opt:program(st, eval, mode, example, flags)
    end })
end

-- What the steps see.
local function bind_sampler(spec, split, key, dtype)
  if spec.sampler then return spec.sampler:bind(split, key, dtype) end
  if batch_size.is_adaptive(spec.batch) then return sampler_sizes.by_test(split, key, dtype, spec.batch) end
  if type(spec.batch) ~= "number" then
    return sampler_sizes.by_schedule(split, key, dtype, spec.batch,
      { steps = spec.steps, samples = samples_of(spec, split.n) })
  end
  return sampler.shuffled(split, spec.batch, key, { dtype = dtype })
end

-- The optimizer, with the test of its batches where they grow by one.
local function method_of(spec)
  local opt = spec.optimizer
  if not batch_size.is_adaptive(spec.batch) then return opt end
  local given = opt.stages.per_evaluation
  return opt:with { stages = { combined = opt.stages.combined,
    per_evaluation = table.move(given, 1, #given, 2, { spec.batch.stage }) } }
end

-- Everything a run is made of: optimizer state, evaluator, source, evaluation, step counts.
local function build(spec)
  local key = core.key(spec.seed or 1)
  local train_split, test_split = splits_of(spec.data)
  local theta = initial_parameters(spec, key)
  local opt, source = method_of(spec), bind_sampler(spec, train_split, key, theta.dtype)
  local c, pass_batch = opt.correction, size_of_passes(spec, source)
  local varies = source.varies or false
  local samples = varies and samples_of(spec, source.n) or false
  opt:configure { steps_per_epoch = not varies and source.per_epoch, examples = source.n, varies = varies,
    total_steps = not varies and 1 or source.total_steps or spec.steps or false, total_samples = samples }
  local kept = spec.buffers and buffers.copy(spec.buffers, theta.dtype, "pg.train")
    or buffers.initial(spec.model, theta.dtype)
  buffers.check(spec.model, kept, "pg.train { buffers = } takes another run's run.buffers")
  local st = opt:init(theta, key:fold("optimizer"), kept)
  if source.redraws then train_check.check_redraws(st, spec.sampler and "sampler " .. spec.sampler.name or "batch") end
  local eval = evaluator { loss = spec.loss, model = spec.model, source = source, key = st.key, batch = pass_batch,
    micro = spec.micro, steps_per_epoch = not varies and source.per_epoch or nil }
  local batches, others = source:prepare(c and pass_batch or nil), streams.bind(spec.streams, key, theta.dtype)
  for _, batch in ipairs(batches) do streams.add(others, 0, batch) end
  if #others > 0 then train_check.check_streams(st) end
  st.batch_size, st.pass_size = source.batch_size, pass_batch
  local steps, limit = length_of(spec, opt, st, eval, source, pass_batch)
  eval.total_steps = steps
  opt:configure { total_steps = steps, total_samples = samples or steps and source:seen(steps) }
  opt:prepare(st, eval, batches)
  if c and (st.passes or 0) > 0 then
    for _, size in ipairs(sampler.sizes(source.n, pass_batch)) do
      opt:program(st, eval, st.pass_mode, source.passes[size])
    end
  end
  return { key = key, opt = opt, st = st, eval = eval, source = source, streams = others, steps = steps, limit = limit,
    course = course.new { source = source, limit = limit, every = spec.eval_every or 1, cost = st.cost,
      samples = samples or nil, gradients = spec.budget and spec.budget.gradients },
    split = train_split, evaluate = test_split and make_evaluation(spec, test_split, st, key) }
end

local function show(parts, line, ctx, shown, what, fraction_of_pass)
  if not line.is_due() then return end
  local source, way = parts.source, parts.course
  local done = ctx.step + (fraction_of_pass and 0 or 1)
  local fraction, epochs = way:fraction(done, parts.steps or parts.limit)
  line.update {
    epoch = math.min(math.floor(way:epochs_before(ctx.step)) + 1, epochs), epochs = epochs, fraction = fraction,
    first_fraction = way:fraction(parts.first, parts.steps or parts.limit), done = math.floor(source:seen(done)),
    unit = "ex", shown = shown, idle = ctx.idle,
    what = what and ("%s %d%%"):format(what, math.floor(100 * fraction_of_pass)),
  }
end

-- What the prompt of an interrupted run shows besides the state. Evaluating there is not booked.
local function names_at_prompt(spec, parts, state, epoch)
  local cost = parts.st.cost
  local function evaluate()
    local forward = cost.forward
    local _ <close> = setmetatable({}, { __close = function() cost.forward = forward end }) -- after a Ctrl-C too
    return (parts.evaluate())
  end
  return { theta = parts.st.theta, q = parts.st.q, buffers = parts.st.buffers, model = spec.model, loss = spec.loss,
    data = spec.data, epoch = epoch, metrics = merge(state.metrics, {}), evaluate = parts.evaluate and evaluate }
end

local Result = {}
Result.__name = "perigee.result"

-- Fields that a result may lack.
local MAY_LACK = { buffers = true, directory = true, changes = true, sampling = true }

function Result.__index(result, name)
  if Result[name] ~= nil or MAY_LACK[name] then return Result[name] end
  local meant = rawget(result.metrics, name) and "metrics." .. name or names.meant(tostring(name), names.sorted(result))
  return core.raise(("the result of pg.train has no '%s'%s"):format(tostring(name),
    meant and ("; did you mean result.%s?"):format(meant) or ""))
end

--- result:curve(y, x [, name [, split]]) → series: One logged quantity against another, for pg.plot:
-- result:curve("loss", "gradients"). split: "test" for what evaluations logged; else what the steps logged.
function Result:curve(y, x, name, split)
  return journal.series(self.history, y, x, name or self.name, split)
end

-- What is worth knowing of a run at a glance, and what else there is.
function Result:__tostring()
  local lines = { ("run %s: %d steps, %s, %.3g s%s"):format(self.name, self.steps, tostring(self.cost), self.seconds,
    self.directory and ", " .. self.directory or "") }
  for _, name in ipairs(names.sorted(self.metrics)) do
    lines[#lines + 1] = ("  %s %.6g"):format(name, self.metrics[name])
  end
  for _, change in ipairs(self.changes) do lines[#lines + 1] = "  " .. tostring(change) end
  local fields = {}
  for _, name in ipairs(names.sorted(self)) do fields[#fields + 1] = "." .. name end
  lines[#lines + 1] = "  it has " .. table.concat(fields, ", ")
  return table.concat(lines, "\n")
end

-- Count a step whose batch was empty, or cut off at the sampler's capacity.
local function count_sampling(counts, source, batch)
  if batch.count == 0 then counts.empty = counts.empty + 1 end
  if source.truncated then counts.truncated = counts.truncated + 1 end
end

--- pg.train { name = "run", data =, model =, loss =, optimizer =, batch =, epochs =, … } → result: Train a model: keyed
-- shuffles, one optimizer step for each batch, logging, checkpoints, evaluation of the held-out split, a progress line.
--   data: a data set (train and test) or a split. model: of pg.nn, or any function with an init(key, dtype) of
--     parameters. theta, buffers: parameters and running statistics to begin at, in place of the model's.
--   loss(model, theta, batch, ctx) → loss, aux…: traced; the mean over the batch, shape []. batch has the fields of the
--     data; ctx.train and ctx.key (one key for each example) are for dropout and the like.
--   optimizer: of pg.optimizer or pg.optim.
--   batch: examples in a step: a number; a schedule or function(step); or pg.batch.adaptive { … }, where a test lets it
--     grow. An epoch is the data once, whatever the sizes; schedules of other things may count examples by
--     pg.schedule.by_samples. Or sampler: what decides them (pg.sampler).
--   streams = { outer = { data = split, batch = 32 } }: further batches of a step, by name, each from its own data in
--     its own order, or by a sampler (sampler = …): the loss finds them as batch.outer.x. Not in evaluations, where
--     ctx.train is false, nor in full passes. Weights of a stream are the loss's affair: batch.outer.sample_weight.
--   epochs, steps or budget = { gradients = n }: how long; one of them.
--   micro = 1: pieces that a step's batch is evaluated in, one after the other, for the memory of one. Each piece draws
--     noise of its own (families that sample), and stages per evaluation edit each piece's gradient; what the loss
--     returns beside the loss is that of the first piece.
--   seed = 1: of everything random. dtype = "f32". from = "runs/x@5000": go on from that step of another run, with its
--     posterior, running statistics, counters and what else fits (docs/runs.md).
--   metrics = { accuracy = pg.metric.accuracy }: what evaluations report besides the loss, each a metric (pg.metric).
--   hooks = { on_step(ctx, info), on_epoch(ctx, epoch) }: plain Lua. ctx has theta, q, buffers, optimizer (the state),
--     method (the optimizer itself), evaluator, step and ctx:log; pg.predict and pg.probe take it as it is.
--   eval_every = 1 (epochs; 0: never), eval_batch = 1000, log_every (steps; default 50 lines an epoch), hash_every
--     (steps; default an epoch), checkpoint_every = 60 (seconds, or { steps = n }), keep = 2 (checkpoints), pass_batch
--     (examples in a batch of full passes, not of mega-batches; default that of the steps, or more where it makes no
--     difference), out (directory; false: nothing on disk).
--   result: { theta, q, buffers, metrics, cost, history, seconds, directory, steps, state, method, evaluator, changes }
--     and result:curve; with a sampler that draws afresh sampling = { empty, truncated }, numbers of steps.
--     changes: lines on what was changed by hand at the prompt that Ctrl-C opens.
function train.train(spec)
  train_check.check(spec)
  local parts = build(spec)
  local opt, st, source, way = parts.opt, parts.st, parts.source, parts.course
  local hooks = spec.hooks or {}
  local per_epoch = source.per_epoch
  local log_every = spec.log_every or math.max(1, per_epoch // 50)
  local state = { optimizer = st, since = { loss = 0.0, count = 0 }, metrics = {},
    sampling = source.redraws and not source.varies and { empty = 0, truncated = 0 } or nil, sampler = source.state }
  local name = spec.name or "run"
  local line = progress.new(name)
  local shown = { { "loss" }, { "acc" } }
  local since = state.since

  local ctx -- of the present step, for the hook inside passes
  local pass_hooks = { on_pass = function(_, done, total)
    show(parts, line, ctx, shown, "full pass", done / total)
    return ctx:pause(done, total)
  end }

  local function evaluate(epoch)
    if not parts.evaluate then return end
    local found = parts.evaluate()
    state.metrics = found
    local record = { split = "test", epoch = epoch }
    for _, key in ipairs(names.sorted(found)) do record[key] = found[key] end
    ctx:log(record)
    shown[2][2] = found.accuracy
  end

  local function step(_, context)
    ctx = context
    local k = ctx.step
    way:begin(k)
    local batch, epoch = source:at(k, opt:order_of(st, source:epoch_of(k)))
    streams.add(parts.streams, k, batch)
    pass_hooks.epoch = epoch
    local recorder = ctx.invocation.recorder
    pass_hooks.dump = recorder and recorder:begin(name, st, batch)
    local _, info = opt:step(st, parts.eval, batch, st.key, pass_hooks)
    if info.suspended then return end
    if source.advance then source:advance(k, st) end
    way:finish(k)
    if state.sampling then count_sampling(state.sampling, source, batch) end
    if recorder then recorder:finish(pass_hooks.dump, opt, st) end
    if info.loss - info.loss ~= 0 then error(train_check.not_finite(name, k, info.loss, batch), 0) end
    since.loss, since.count = since.loss + info.loss, since.count + 1
    ctx.info, ctx.epoch = info, epoch
    if (k + 1) % log_every == 0 or way.is_last then
      local mean = since.loss / since.count
      ctx:log { loss = mean, epoch = way.epochs, batch = source.varies and parts.eval:count(batch) or nil }
      shown[1][2] = mean
      since.loss, since.count = 0.0, 0
    end
    show(parts, line, ctx, shown)
    if hooks.on_step then hooks.on_step(ctx, info) end
    if way.evaluates then evaluate(way.epochs) end
    if hooks.on_epoch and way.epoch_ended then hooks.on_epoch(ctx, way.epoch_ended) end
    if way.is_last then ctx:stop() end
  end

  parts.first = 0
  local result = run.run {
    name = name, seed = spec.seed or 1, steps = parts.limit, state = state, step = step, out = spec.out,
    from = spec.from,
    checkpoint_every = spec.checkpoint_every, keep = spec.keep, cost = st.cost,
    hash_every = spec.hash_every or per_epoch,
    identity = parts.split.hash and parts.split:hash() or "",
    config = describe(spec, opt, source, parts),
    at_start = function(context)
      context.theta, context.q, context.buffers, context.optimizer = st.theta, st.q, st.buffers, st
      context.method, context.evaluator = opt, parts.eval
      parts.first = context.completed
    end,
    at_end = function(_, context)
      ctx = context
      if (spec.eval_every or 1) > 0 then evaluate(way:epochs_before(ctx.step)) end
    end,
    clear = line.clear, adjust = { optimizer = opt, optimizer_state = st },
    names = function(context) return names_at_prompt(spec, parts, state, way:epochs_before(context.completed)) end,
    inspect = function() return train.inspection(spec, name) end,
  }
  line.clear()
  return setmetatable({ name = name, theta = st.theta, q = st.q, buffers = st.buffers, state = st,
    method = opt, evaluator = parts.eval, cost = st.cost,
    metrics = names.guard(merge(state.metrics, {}), "result.metrics"),
    history = result.history, seconds = result.seconds,
    directory = result.directory, steps = result.steps, changes = result.changes, sampling = state.sampling }, Result)
end

-- What `perigee check` looks at: the same run under variants of its optimizer, a few steps by hand.
function train.inspection(spec, name)
  return {
    name = name, optimizer = spec.optimizer,
    start = function(variant)
      local copy = {}
      for _, key in ipairs(names.sorted(spec)) do copy[key] = spec[key] end
      copy.optimizer = variant
      return build(copy)
    end,
    -- one step of a started variant on batch number k (1-based)
    step = function(parts, k)
      local source = parts.source
      local batch, epoch = source:at(k - 1, parts.opt:order_of(parts.st, source:epoch_of(k - 1)))
      streams.add(parts.streams, k - 1, batch)
      parts.opt:step(parts.st, parts.eval, batch, parts.st.key, { epoch = epoch })
    end,
  }
end

return train
