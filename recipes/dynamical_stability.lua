-- At which minima can SGD stay? Curvature at the end of training against what the learning rate and the batch allow.
--
--   perigee recipes/dynamical_stability.lua               sonar: 128 examples, a small tanh network, square loss
--   perigee recipes/dynamical_stability.lua data=teacher  made-up data
--
-- Full-batch gradient descent can only end where lambda, the largest eigenvalue of the Hessian, is at most 2 / lr (Wu,
-- Ma & E 2018). With batches of B < n examples their noise pushes too, and the trace counts: at minima that fit every
-- example, with gradients of one length, B = 1 asks for trace <= 2 / lr, and in between nearly
--     mix = p trace + (1 - p) lambda <= 2 / lr,  p = (n - B) / (B (n - 1))
-- The exact condition is lr <= lr*, for which see parts/stability.lua. So smaller batches and larger rates must end
-- where it is flatter.
--
-- First table: the curvature where training ends, as shares of what is allowed. Second: is lr* true? SGD from beside
-- one minimum, at rates around the lr* of its batch.

local pg = require "perigee"
local stability = require "parts.stability"
local tuning = require "parts.tuning"

local o = pg.options { data = "sonar", rows = 128, width = 20, rates = "0.05,0.1,0.2,0.4", batches = "128,32,16,4,1",
  steps = 40000, loss = 1e-4, seeds = 3, escape = 200, trials = 8 }

local function numbers(text)
  local list = {}
  for word in text:gmatch "[^,%s]+" do list[#list + 1] = tonumber(word) end
  return list
end
local rates, batches = numbers(o.rates), numbers(o.batches)

-- ---- the problem ----------------------------------------------------------------------------------------------------

-- 20 inputs, and the sign of a network with three hidden units.
local function make_teacher()
  local key, f64 = pg.key(5), { dtype = "f64" }
  local x = pg.randn(key:fold "x", { o.rows, 20 }, f64)
  local hidden = x:matmul(pg.randn(key:fold "in", { 20, 3 }, f64)):tanh()
  return pg.data.from { x = x, y = hidden:matmul(pg.randn(key:fold "out", { 3 }, f64)):sign() }
end

local data = o.data == "teacher" and make_teacher() or pg.data.load(o.data, { labels = "pm1" })
if o.rows < data.n then data = data:select(pg.permutation(pg.key(0), data.n):slice { 1, o.rows }) end
local whole, n = data:all "f64", data.n
local model = pg.nn.sequential { pg.nn.linear(whole.x.shape[2], o.width), pg.nn.tanh(), pg.nn.linear(o.width, 1) }

local function loss(net, theta, batch) return 0.5 * (net(theta, batch.x):squeeze(2) - batch.y):square():mean() end

local evaluator = pg.evaluator { loss = loss, model = model }
local function loss_at(theta) return evaluator:evaluate(theta, whole) end

local gradients = pg.jit(function(theta) -- of the outputs, [n, parameters]
  return pg.vmap(function(x)
    return pg.grad(function(at) return model(at, x:unsqueeze(1)):sum() end)(theta):flat()
  end)(whole.x)
end)

local function begin(seed) return model:init(pg.key(seed):fold "init", "f64") end

-- ---- training -------------------------------------------------------------------------------------------------------

-- From theta on, until the loss is below `tolerance` or for so many steps; nil if it diverges. see(ctx): now and then.
local function train(theta, optimizer, batch, how)
  return tuning.train {
    name = "train", model = model, data = data, loss = loss, theta = theta, seed = how.seed, dtype = "f64",
    batch = batch, steps = how.steps, optimizer = optimizer, out = false, hash_every = 0, log_every = how.steps,
    hooks = { on_step = function(ctx)
      if (ctx.step + 1) % math.max(1, math.min(100, how.steps // 40)) > 0 then return end
      if how.see then how.see(ctx) end
      if loss_at(ctx.theta) < (how.tolerance or 0) then ctx:stop() end
    end },
  }
end

-- The end of training at one rate and batch: means over the seeds; {} if a seed diverged. H: the largest eigenvalue of
-- the whole Hessian, which K / n is at an exact fit.
local function end_of(batch, lr, see)
  local means = { steps = 0, loss = 0, H = 0, lambda = 0, trace = 0, mix = 0, star = 0 }
  for seed = 1, o.seeds do
    local run = train(begin(seed), pg.optim.sgd { lr = lr }, batch,
      { steps = o.steps, seed = seed, tolerance = o.loss, see = seed == 1 and see or nil })
    if not run then return {} end
    local at, p = stability.linearize(gradients(run.theta)), stability.share(n, batch)
    local found = { steps = run.steps, loss = loss_at(run.theta), lambda = at.lambda, trace = at.trace,
      H = pg.probe.eigenvalues(run, { values = 1, batches = { whole } }).values[1],
      mix = p * at.trace + (1 - p) * at.lambda, star = lr / stability.largest_rate(at, batch) }
    for name, x in pairs(found) do means[name] = means[name] + x / o.seeds end
  end
  return means
end

-- A row of the first table, and the way of gradient descent to its end.
local function describe_end(batch, lr)
  local curve = { name = ("lr = %g"):format(lr), x = {}, y = {} }
  local found = end_of(batch, lr, batch == n and function(ctx)
    local lambda = stability.linearize(gradients(ctx.theta)).lambda
    curve.x[#curve.x + 1], curve.y[#curve.y + 1] = (ctx.step + 1) * lr, lr * lambda / 2
  end)
  local row = { tostring(batch), ("%g"):format(lr), "diverged" }
  if found.loss then
    row[3], row[4] = ("%.0f"):format(found.steps), ("%.1e"):format(found.loss)
    for _, x in ipairs { found.H, found.lambda, found.trace, lr * found.lambda / 2, lr * found.trace / 2,
      lr * found.mix / 2, found.star } do
      row[#row + 1] = ("%.2f"):format(x)
    end
  end
  return { row = row, curve = batch == n and curve or nil, trace = found.trace }
end

-- ---- is lr* true? ---------------------------------------------------------------------------------------------------

-- A sharp minimum, by momentum at a small rate.
local function find_sharp()
  return train(begin(1), pg.optim.momentum { lr = rates[1] / 4, momentum = 0.9 }, n,
    { steps = 4 * o.steps, seed = 1, tolerance = 1e-3 * o.loss }).theta
end

-- The loss after some steps of SGD from a little beside it, over that before: the mean of the trials, and the median.
local function growth(sharp, batch, lr)
  local list, mean = {}, 0
  for trial = 1, o.trials do
    local beside = sharp + 1e-3 * pg.randn(pg.key(trial), sharp.layout, "f64")
    local run = train(beside, pg.optim.sgd { lr = lr }, batch, { steps = o.escape, seed = trial })
    list[trial] = run and loss_at(run.theta) / loss_at(beside) or math.huge
    mean = mean + list[trial] / o.trials
  end
  table.sort(list)
  return mean, list[(#list + 1) // 2]
end

local function describe_escape(sharp, batch)
  local star = stability.largest_rate(stability.linearize(gradients(sharp)), batch)
  local row = { tostring(batch), ("%.4f"):format(star) }
  for _, factor in ipairs { 0.7, 1.4, 2.5 } do
    local mean, median = growth(sharp, batch, factor * star)
    row[#row + 1] = ("%.1e (%.1e)"):format(mean, median)
  end
  return row
end

-- ---- all of it ------------------------------------------------------------------------------------------------------

local jobs = {}
for _, batch in ipairs(batches) do
  for _, lr in ipairs(rates) do jobs[#jobs + 1] = { batch = math.min(batch, n), lr = lr } end
end

-- A row is a step of the run, so that `perigee resume` goes on where it stopped; the last step is the second table.
local result = pg.run {
  name = "dynamical_stability", steps = #jobs + 1, state = { ends = {}, escapes = {}, sharp = begin(1) },
  step = function(state, ctx)
    local job = jobs[ctx.step + 1]
    if job then
      local found = describe_end(job.batch, job.lr)
      state.ends[ctx.step + 1] = found
      ctx:log { batch = job.batch, lr = job.lr, trace = found.trace }
      return
    end
    state.sharp = find_sharp()
    for i, batch in ipairs(batches) do state.escapes[i] = describe_escape(state.sharp, math.min(batch, n)) end
  end,
}

local rows, edges, traces = {}, {}, {}
for i, found in ipairs(result.state.ends) do
  local job = jobs[i]
  if i == 1 or job.batch ~= jobs[i - 1].batch then
    traces[#traces + 1] = { name = ("batch %d"):format(job.batch), x = {}, y = {} }
  end
  local line = traces[#traces]
  rows[i], edges[#edges + 1] = found.row, found.curve
  if found.trace then line.x[#line.x + 1], line.y[#line.y + 1] = job.lr, found.trace end
end

local first = stability.linearize(gradients(begin(1)))
print(("%s: %d examples, %d parameters; at the first start lambda = %.2f, trace = %.2f"):format(o.data, n,
  model.layout.size, first.lambda, first.trace))
for _, batch in ipairs(batches) do
  batch = math.min(batch, n)
  io.write(("lr* there for a batch of %d: %.3f\n"):format(batch, stability.largest_rate(first, batch)))
end
print(("\nwhere training ends, means of %d seeds"):format(o.seeds))
pg.table.print({ "batch", "lr", "steps", "loss", "H", "lambda", "trace", "lr lambda/2", "lr trace/2", "lr mix/2",
  "lr/lr*" }, rows)

if #result.state.escapes > 0 then
  local at = stability.linearize(gradients(result.state.sharp))
  print(("\n%d steps from beside a minimum with lambda = %.1f, trace = %.1f: loss after / before, mean (median) of %d"
    ):format(o.escape, at.lambda, at.trace, o.trials))
  pg.table.print({ "batch", "lr*", "0.7 lr*", "1.4 lr*", "2.5 lr*" }, result.state.escapes)
end

local function draw(name, series, opts)
  io.write("\n", pg.plot.draw(series, opts))
  pg.plot.save(("%s/%s.svg"):format(result.directory, name), series, opts)
end
draw("edge", edges, { title = "gradient descent: lr lambda / 2", xlabel = "lr × steps", logx = true,
  lines = { { y = 1, name = "edge of stability" } } })
draw("trace", traces, { title = "trace of the Hessian where training ends", xlabel = "learning rate", log = true,
  logx = true })
