-- passes.lua: full and mega-batch passes of a correction's refresh. A pass adds each batch's statistics, weighted by
-- its count, into f64 accumulators, with fresh noise per batch. It can stop between two batches and continue later,
-- in another process too: its state is which pass of the refresh it is, the batches done, and the accumulators.

local batches = require "perigee.batch"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local posterior = require "perigee.posterior"
local statistics = require "perigee.statistics"

local passes = {}

local SUSPENDED = setmetatable({}, { __tostring = function() return "the pass was suspended" end })

-- The program that adds one batch to the accumulators.
function passes.build_batch(opt, st, evaluator, batch)
  local entry = {}
  local sums = st:accumulate_into(opt.family.stats)
  local label = ("%d examples of a full pass over %s"):format(batches.count(batch), opt.family.name)
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
    local eval = evaluation.new(b, opt, {
      evaluator = evaluator, batch = traced, key = key, like = fields.mean,
      decay = evaluation.decay(b, opt, fields.mean), t = b:scalar(st.scalars, "t"),
      stream = "segment", stream_index = segment, st = st,
      noise_key = evaluation.fold(key, evaluation.streams.outer, segment, b:scalar(st.scalars, "batch")),
    })
    local stats = eval:at(eval:view("q", fields))
    local weight = b:scalar(st.scalars, "weight")
    for _, field in ipairs(statistics.fields(stats)) do
      local sum = b:slot(sums[field], "sum." .. field)
      b:output(sum + weight * core.apply("cast", { dtype = "f64" }, stats[field]), sums[field])
    end
    entry.evaluations = eval.count
  end)
  return entry
end

-- Two programs: zero the accumulators; round them into the results of pass `which`.
function passes.build_frame(opt, st, which)
  local sums, result = st:accumulate_into(opt.family.stats), st:result(which, opt.family.stats)
  local zero = builder.trace("before a full pass", function(b)
    for _, field in ipairs(opt.family.stats) do
      b:slot(sums[field], "sum." .. field)
      b:output(core.apply("full", { layout = st.theta.layout, dtype = "f64" }, 0), sums[field])
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
  local source = evaluator.source
  if not source then
    core.raise("ctx:full needs data: give the evaluator a source")
  end
  local frame = opt:frame(st, pass.which)
  if pass.cursor == 0 then
    frame.zero:run()
  end
  local size = st.pass_size
  local count = opt.correction.mega ~= "full" and opt.correction.mega or nil
  local total = source:total(size, count)
  local steps = (total + size - 1) // size
  local scalars, on_pass = st.scalars, call.hooks.on_pass
  scalars.segment = call.segment
  local options = {
    first = pass.cursor + 1, count = count, segment = call.segment, epoch = st.buffers and scalars.epoch,
    key = count and evaluation.fold(call.key, evaluation.streams.mega),
  }
  for j, batch in source:batches(size, options) do
    local entry = opt:program(st, evaluator, "pass", batch)
    local n = batch.count or entry.count
    entry.binding:bind(entry.program, batch)
    bind_posterior(entry.program, st, q)
    entry.program:bind("key", call.key)
    scalars.weight, scalars.batch = n / total, j
    entry.program:run()
    pass.cursor = j
    st.cost:add("passes", n * entry.evaluations)
    if on_pass and on_pass(st, j, steps) == false then
      error(SUSPENDED, 0)
    end
  end
  frame.finish:run()
  return st:result(pass.which, opt.family.stats)
end

-- The context that refresh sees.
local Context = {}
Context.__index = Context

function Context:full(q)
  local call = self.call
  local st = call.st
  if #call.hazard > 0 then
    core.raise(("refresh reads s.%s, changes it, and then takes a pass: if the pass is interrupted, refresh starts "
      .. "again and would see the changed value. Change it after the pass"):format(call.hazard[1]))
  end
  self.passes = self.passes + 1
  if st.pass.which > self.passes then
    return st:result(self.passes, call.opt.family.stats) -- finished before the interruption
  end
  local result = run(call, q)
  st.pass.which, st.pass.cursor = st.pass.which + 1, 0
  return result
end

-- True with probability p, from a stream of its own: the same for the same key and step.
function Context:coin(p)
  return passes.coin(self.call.key, self.step, p)
end

function passes.coin(key, step, p)
  local u = core.apply("uniform", { a = {}, dtype = "f64" }, evaluation.fold(key, evaluation.streams.coin, step))
  return u:data_read(0) < p
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
  local ctx = setmetatable({ call = call, q = st.q, step = st.step, segment = call.segment, passes = 0 }, Context)
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
  st.segment = call.segment
  st.pass = nil
  return true
end

-- Find the slots of a correction by running refresh on zeros: fills st.memory, and makes results and accumulators.
function passes.probe(opt, st)
  local memory, taken = st.memory, 0
  local ctx = {
    q = st.q, step = 0, segment = 0,
    full = function()
      taken = taken + 1
      return st:result(taken, opt.family.stats)
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
    st:accumulate_into(opt.family.stats)
  end
  return taken
end

return passes
