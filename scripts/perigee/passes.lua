-- passes.lua: full and mega-batch passes of a correction's refresh. A pass adds each batch's statistics, weighted by
-- its count, into f64 accumulators, with fresh noise per batch; it may keep their rows in a table (tables.lua). It can
-- stop between two batches and continue later, in another process too: its state is which pass of the refresh it is,
-- the batches done, and the accumulators.

local batches = require "perigee.batch"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local moment = require "perigee.moment"
local pieces = require "perigee.pieces"
local posterior = require "perigee.posterior"
local row_table = require "perigee.row_table"
local rows = require "perigee.rows"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local passes = {}

local SUSPENDED = setmetatable({}, { __tostring = function() return "the pass was suspended" end })

-- Traced: add statistics, times the weight of the batch, to the accumulators.
local function accumulate(b, st, stats)
  local sums, weight = st:accumulate_into(), b:scalar(st.scalars, "weight")
  for _, field in ipairs(statistics.fields(stats)) do
    local sum = b:slot(sums[field], "sum." .. field)
    b:output(sum + weight * core.apply("cast", { dtype = "f64" }, stats[field]), sums[field])
  end
end

-- The evaluation of a batch of a pass in builder b, the view of q there, and the binding of its batch.
local function open_batch(b, opt, st, evaluator, batch)
  local c, key = opt.correction, b:input("key", evaluator.key)
  local traced, binding = batches.declare(b, batch)
  local fields = {}
  for _, field in ipairs(st.q.fields) do
    fields[field] = b:input("q." .. field, st.q[field])
  end
  local noise_key = evaluation.fold(key, evaluation.streams.outer, b:scalar(st.scalars, "segment"))
  if c.noise ~= "fixed" then noise_key = evaluation.fold(noise_key, b:scalar(st.scalars, "batch")) end
  local eval = evaluation.new(b, opt, {
    evaluator = evaluator, batch = traced, examples = batches.count(batch), key = key, like = fields.mean,
    decay = evaluation.decay(b, opt, fields.mean), t = b:scalar(st.scalars, "t"),
    stream = c.lock.key, stream_index = b:scalar(st.scalars, c.lock.key), st = st, noise_key = noise_key,
  })
  return eval, eval:view("q", fields), binding
end

-- The program that adds one batch to the accumulators. fills: its rows go into the staging tensors of st:filled().
function passes.build_batch(opt, st, evaluator, batch, fills)
  local c, entry, count = opt.correction, {}, batches.count(batch)
  local label = ("%d examples%s of a full pass over %s"):format(count,
    pieces.describe(pieces.divide(batch, evaluator.micro, st.batch_size)), opt.family.name)
  entry.count = count
  entry.program = builder.trace(label, function(b)
    local eval, q, stats
    eval, q, entry.binding = open_batch(b, opt, st, evaluator, batch)
    local how = { antithetic = c.antithetic, one_noise = c.noise == "fixed", apart = 0,
      apart_dropout = c.lock.dropout ~= true, apart_augment = c.lock.augment ~= true }
    if fills then
      local form = rows.form(eval, st:filled().spec, q)
      local taken = form:take(q, how)
      st:filled():output(b, count, taken)
      stats = form:mean(taken)
    else
      stats = eval:at(q, how)
    end
    entry.loss = b:output(eval.loss)
    accumulate(b, st, stats)
    entry.evaluations, entry.products = eval.count, eval.products
  end)
  return entry
end

-- The program that adds the mean of a batch's rows in a table to the accumulators.
function passes.build_average(opt, st, evaluator, batch)
  local entry, table, count = {}, st.memory.table, batches.count(batch)
  entry.count = count
  entry.program = builder.trace(("the mean of %d rows of a table"):format(count), function(b)
    local eval, q
    eval, q, entry.binding = open_batch(b, opt, st, evaluator, batch)
    accumulate(b, st, rows.form(eval, table.spec, q):mean(table:traced(b, count, "row.")))
  end)
  return entry
end

-- Two programs: zero the accumulators; round them into the results of pass `which`.
function passes.build_frame(opt, st, which)
  local sums, result = st:accumulate_into(), st:result(which)
  local zero = builder.trace("before a full pass", function(b)
    for _, field in ipairs(opt.family.stats) do
      b:slot(sums[field], "sum." .. field)
      b:output(vectors.traced_full_like(sums[field], 0), sums[field])
    end
  end)
  local finish = builder.trace("after a full pass", function(b)
    for _, field in ipairs(opt.family.stats) do
      local sum = b:slot(sums[field], "sum." .. field)
      b:slot(result[field], "mean." .. field)
      b:output(core.apply("cast", { dtype = st.theta.dtype }, sum), result[field])
    end
  end)
  return { zero = zero, finish = finish }
end

-- Bind q's tensors: a host posterior, or a vector that replaces the mean.
local function bind_posterior(program, st, q)
  local tensors = posterior.is(q) and q or nil
  for _, field in ipairs(st.q.fields) do
    local tensor = tensors and tensors[field] or (field == "mean" and q) or st.q[field]
    program:bind("q." .. field, tensor)
  end
end

-- Run the program of one batch at q; weight: of its statistics in the accumulators.
local function run_batch(call, entry, q, batch, weight)
  entry.binding:bind(entry.program, batch)
  bind_posterior(entry.program, call.st, q)
  entry.program:bind("key", call.key)
  call.st.scalars.weight = weight
  entry.program:run()
end

-- What a pass asks the source for, from batch `first` on. epoch: whose order the partition has, if it is locked.
local function options_of(call, first, epoch)
  local c, st = call.opt.correction, call.st
  local count, partition = c.mega ~= "full" and c.mega or nil, c.lock.partition
  if partition == nil then partition = st.buffers ~= nil or call.opt.family:is_of_batch() end
  return {
    first = first, count = count, segment = call.segment, epoch = partition and epoch or nil,
    key = count and evaluation.fold(call.key, evaluation.streams.mega), ahead = c.ahead and st.step or nil,
  }
end

-- Examples in a batch of a pass; a mega-batch is so many batches of the steps' size.
local function size_of(call)
  return call.opt.correction.mega ~= "full" and call.st.batch_size or call.st.pass_size
end

-- Run (or continue) pass st.pass.which at q. call: { opt, st, evaluator, key, hooks, segment }. into: the table that
-- gets the rows, or nil. Returns its mean statistics.
local function run(call, q, into)
  local opt, st, evaluator, pass = call.opt, call.st, call.evaluator, call.st.pass
  local source = evaluator.source
  if not source then
    core.raise("ctx:full needs data: give the evaluator a source")
  end
  local frame = opt:frame(st, pass.which)
  if pass.cursor == 0 then
    frame.zero:run()
    pass.loss = 0.0
    if into and into.keys then into:forget() end
  end
  local size, scalars, on_pass = size_of(call), st.scalars, call.hooks.on_pass
  scalars.segment = call.segment
  local options = options_of(call, pass.cursor + 1, scalars.epoch)
  local total = source:total(size, options.count, options.ahead)
  local steps = options.ahead and options.count or (total + size - 1) // size
  for j, batch in source:batches(size, options) do
    local entry = opt:program(st, evaluator, into and "filling" or "pass", batch)
    local n = batch.count or entry.count
    scalars.batch = j
    run_batch(call, entry, q, batch, n / total)
    if into then into:store(batch, entry.count) end
    pass.cursor, pass.loss = j, pass.loss + scalars.weight * entry.program:number(entry.loss)
    st.cost:add("passes", n * entry.evaluations)
    st.cost:add("products", n * entry.products)
    if on_pass and on_pass(st, j, steps) == false then
      error(SUSPENDED, 0)
    end
  end
  frame.finish:run()
  return st:result(pass.which)
end

-- Bring the row of a batch at the snapshot into the cache, if an interruption has lost it. It is no gradient of the
-- method, so the cost meter does not count it.
function passes.recover(call, batch)
  local st = call.st
  local entry = call.opt:program(st, call.evaluator, "filling", batch)
  run_batch(call, entry, st.memory.values.at, batch, 0) -- the accumulators are idle between passes
  st.cache:store(batch, entry.count)
end

-- ctx:average of refresh: the mean of a table's rows over all the data, summed anew in f64; no gradients are taken.
local function average(ctx, table)
  local call = ctx.at
  local opt, st, evaluator = call.opt, call.st, call.evaluator
  local frame = opt:frame(st, 1)
  frame.zero:run()
  for _, batch in evaluator.source:batches(st.pass_size, options_of(call, 1, st.order)) do
    local entry = opt:program(st, evaluator, "average", batch)
    table:load(batch, entry.count)
    run_batch(call, entry, st.q, batch, (batch.count or entry.count) / evaluator.source.n)
  end
  frame.finish:run()
  return st:result(1)
end

-- ctx:full of refresh: the mean statistics of a pass at q. into: the table that gets the rows.
local function full(ctx, q, into)
  local call = ctx.at
  local st = call.st
  if #call.hazard > 0 then
    core.raise(("refresh reads s.%s, changes it, and then takes a pass: if the pass is interrupted, refresh starts "
      .. "again and would see the changed value. Change it after the pass"):format(call.hazard[1]))
  end
  ctx.passes = ctx.passes + 1
  if st.pass.which > ctx.passes then
    return st:result(ctx.passes) -- finished before the interruption
  end
  if into ~= nil and not row_table.is(into) then
    core.raise("ctx:full(q, table): a table is a slot of pg.rows, as s.table, not a " .. type(into))
  end
  local result = run(call, q, into or st.cache)
  st.pass.which, st.pass.cursor = st.pass.which + 1, 0
  return result
end

-- The posterior that a snapshot is taken of: the present one, with the mean that the rule has for snapshots, if it has
-- one of its own.
local function point_of_snapshot(opt, st)
  local slot = opt.rule.definition.snapshot
  if not slot or st.segment == 0 then return st.q end
  local tensors = { mean = st.rule[slot] }
  for _, field in ipairs(st.q.fields) do tensors[field] = tensors[field] or st.q[field] end
  return posterior.new(st.q.fields, tensors)
end

-- Run refresh. call: { opt, st, evaluator, key, hooks }. Returns false if on_pass asked to stop between two batches;
-- st then holds what a later call needs to go on.
function passes.refresh(call)
  local opt, st = call.opt, call.st
  local s, written
  st.pass = st.pass or { which = 1, cursor = 0 }
  call.segment = opt.correction:next_segment(st.segment)
  if st.frozen_buffers then
    st.frozen_buffers:copy_from(st.buffers)
  end
  s, written, call.hazard = st.memory:host_view()
  local ctx = moment.new(call, st.step, call.segment)
  ctx.q, ctx.full, ctx.average, ctx.passes = point_of_snapshot(opt, st), full, average, 0
  local ok, message = pcall(opt.correction.definition.refresh, s, ctx)
  if not ok then
    if message == SUSPENDED then
      return false
    end
    error(message, 0)
  end
  for j, name in pairs(st.memory.aliases) do
    if ctx.passes >= j and not written[name] then
      core.raise(("correction %s: refresh must assign the result of pass %d to s.%s each time"):format(
        opt.correction.name, j, name))
    end
  end
  if call.segment ~= st.segment then st.segment, st.order = call.segment, st.scalars.epoch end
  st.mean_loss, st.pass = ctx.passes > 0 and st.pass.loss or nil, nil
  return true
end

-- Find the slots of a correction by running refresh on zeros: fills st.memory, and makes results and accumulators.
function passes.probe(opt, st)
  local memory, taken = st.memory, 0
  local ctx = {
    q = st.q, step = 0, segment = 1, every = 1, steps_per_epoch = 1, weight_decay = 0, first = true,
    o = opt.correction.hyper:numbers(0, { steps_per_epoch = 1, total_steps = 1 }),
    full = function(_, _, into)
      taken = taken + 1
      if into and opt.correction.mega ~= "full" then
        core.raise(("correction %s: the pass that fills its table goes through all the data, so mega must be \"full\"")
          :format(opt.correction.name))
      end
      if into or st.cache then st.pass_mode = "filling" end
      return st:result(taken)
    end,
    coin = function()
      return false
    end,
  }
  memory.probing = true
  local s = memory:host_view(st.results)
  opt.correction.definition.refresh(s, ctx)
  memory.probing = false
  memory:settle(taken)
  if taken > 0 then
    st:accumulate_into()
  end
  return taken
end

return passes
