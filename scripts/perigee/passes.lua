-- passes.lua: full and mega-batch passes of a correction's refresh. A pass adds each batch's statistics, weighted by
-- its count, into f64 accumulators, with fresh noise per batch. It can stop between two batches and continue later,
-- in another process too: its state is which pass of the refresh it is, the batches done, and the accumulators.

local batches = require "perigee.batch"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local moment = require "perigee.moment"
local pieces = require "perigee.pieces"
local posterior = require "perigee.posterior"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local passes = {}

local SUSPENDED = setmetatable({}, { __tostring = function() return "the pass was suspended" end })

-- The program that adds one batch to the accumulators.
function passes.build_batch(opt, st, evaluator, batch)
  local entry = {}
  local sums, c = st:accumulate_into(), opt.correction
  local label = ("%d examples%s of a full pass over %s"):format(batches.count(batch),
    pieces.describe(pieces.divide(batch, evaluator.micro, st.batch_size)), opt.family.name)
  entry.program = builder.trace(label, function(b)
    local key = b:input("key", evaluator.key)
    local traced
    traced, entry.binding = batches.declare(b, batch)
    entry.count = batches.count(batch)
    local fields = {}
    for _, field in ipairs(st.q.fields) do
      fields[field] = b:input("q." .. field, st.q[field])
    end
    local segment = b:scalar(st.scalars, "segment")
    local noise_key = evaluation.fold(key, evaluation.streams.outer, segment)
    if c.noise ~= "fixed" then noise_key = evaluation.fold(noise_key, b:scalar(st.scalars, "batch")) end
    local eval = evaluation.new(b, opt, {
      evaluator = evaluator, batch = traced, key = key, like = fields.mean,
      decay = evaluation.decay(b, opt, fields.mean), t = b:scalar(st.scalars, "t"),
      stream = c.lock.key, stream_index = b:scalar(st.scalars, c.lock.key), st = st, noise_key = noise_key,
    })
    local stats = eval:at(eval:view("q", fields), {
      antithetic = c.antithetic, one_noise = c.noise == "fixed", apart = 0, apart_dropout = c.lock.dropout ~= true,
      apart_augment = c.lock.augment ~= true,
    })
    entry.loss = b:output(eval.loss)
    local weight = b:scalar(st.scalars, "weight")
    for _, field in ipairs(statistics.fields(stats)) do
      local sum = b:slot(sums[field], "sum." .. field)
      b:output(sum + weight * core.apply("cast", { dtype = "f64" }, stats[field]), sums[field])
    end
    entry.evaluations, entry.products = eval.count, eval.products
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

-- Run (or continue) pass st.pass.which at q. call: { opt, st, evaluator, key, hooks, segment }. Returns its mean
-- statistics.
local function run(call, q)
  local opt, st, evaluator, pass = call.opt, call.st, call.evaluator, call.st.pass
  local c, source = opt.correction, evaluator.source
  if not source then
    core.raise("ctx:full needs data: give the evaluator a source")
  end
  local frame = opt:frame(st, pass.which)
  if pass.cursor == 0 then
    frame.zero:run()
    pass.loss = 0.0
  end
  local scalars, on_pass = st.scalars, call.hooks.on_pass
  local count = c.mega ~= "full" and c.mega or nil
  local size = count and st.batch_size or st.pass_size -- a mega-batch is so many batches of the steps' size
  local partition = c.lock.partition
  if partition == nil then partition = st.buffers ~= nil end
  scalars.segment = call.segment
  local options = {
    first = pass.cursor + 1, count = count, segment = call.segment, epoch = partition and scalars.epoch or nil,
    key = count and evaluation.fold(call.key, evaluation.streams.mega), ahead = c.ahead and st.step or nil,
  }
  local total = source:total(size, count, options.ahead)
  local steps = options.ahead and count or (total + size - 1) // size
  for j, batch in source:batches(size, options) do
    local entry = opt:program(st, evaluator, "pass", batch)
    local n = batch.count or entry.count
    entry.binding:bind(entry.program, batch)
    bind_posterior(entry.program, st, q)
    entry.program:bind("key", call.key)
    scalars.weight, scalars.batch = n / total, j
    entry.program:run()
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

-- ctx:full of refresh: the mean statistics of a pass at q.
local function full(ctx, q)
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
  local result = run(call, q)
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
  call.segment = st.segment + 1
  if st.frozen_buffers then
    st.frozen_buffers:copy_from(st.buffers)
  end
  s, written, call.hazard = st.memory:host_view()
  local ctx = moment.new(call, st.step, call.segment)
  ctx.q, ctx.full, ctx.passes = point_of_snapshot(opt, st), full, 0
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
  st.segment, st.order = call.segment, st.scalars.epoch
  st.mean_loss, st.pass = ctx.passes > 0 and st.pass.loss or nil, nil
  return true
end

-- Find the slots of a correction by running refresh on zeros: fills st.memory, and makes results and accumulators.
function passes.probe(opt, st)
  local memory, taken = st.memory, 0
  local ctx = {
    q = st.q, step = 0, segment = 1, every = 1, steps_per_epoch = 1, weight_decay = 0,
    o = opt.correction.hyper:numbers(0, { steps_per_epoch = 1, total_steps = 1 }),
    full = function()
      taken = taken + 1
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
