-- L2-regularized logistic regression by SGD, SVRG, IVON and IVON-PoCo: how far above the minimum does each end?
--
--   perigee recipes/logreg.lua                        a9a (LIBSVM), 15 epochs, 3 seeds
--   perigee recipes/logreg.lua data=mushrooms epochs=20
--
-- F(w) = mean over examples of log(1 + exp(-y x·w)) + l2/2 |w|². Its minimum is found first, by Newton's method; a
-- *gap* is F(w) - F(w*). Steps are constant, from a grid in powers of two that grows until the best one lies inside. A
-- corrected method takes two gradients a step and a full pass an epoch: three times the gradient evaluations of the
-- plain one, so the table compares at equal epochs and at equal evaluations.

local pg = require "perigee"
local logistic = require "parts.logistic"
local tuning = require "parts.tuning"

local o = pg.options {
  data = "a9a", l2 = 1e-3, batch = 32, epochs = 15, seeds = 3, rows = 0,
  h0 = 0.1, beta2 = 0.99999, explain = true,
}

local problem = logistic.load { data = o.data, rows = o.rows, l2 = o.l2 }
local n, minimum = problem.n, problem.minimum
print(("%s: %d examples, %d features; minimum F = %.15g, |gradient| = %.1e after %d Newton steps"):format(o.data, n,
  problem.parameters, minimum.value, minimum.gradient, minimum.iterations))

-- ---- the methods ----------------------------------------------------------------------------------------------------

local diagonal = { h0 = o.h0, beta2 = o.beta2, beta1 = 0, weight_decay = o.l2 }
local function with(base, more)
  local out = {}
  for _, t in ipairs { base, more } do for k, v in pairs(t) do out[k] = v end end
  return out
end

local methods = {
  { name = "SGD", make = function(lr) return pg.optim.sgd { lr = lr, weight_decay = o.l2 } end },
  { name = "SVRG", passes = true,
    make = function(lr) return pg.optim.svrg { lr = lr, weight_decay = o.l2, every = pg.epochs(1) } end },
  { name = "IVON", make = function(lr) return pg.optim.ivon(with(diagonal, { lr = lr, ess = n })) end },
  { name = "IVON-PoCo", passes = true, make = function(lr)
    return pg.optim.ivon_poco(with(diagonal, { lr = lr, ess = n, every = pg.epochs(1) }))
  end },
}

-- ---- running --------------------------------------------------------------------------------------------------------

-- One run: the gap after every epoch (gaps[0] is the start's), and the gradient evaluations an epoch took. A step size
-- that diverges is an answer, too: its gaps are infinite.
local function run_once(optimizer, seed, epochs, on_epoch)
  local gaps, theta = {}, pg.zeros(problem.model.layout, "f64")
  gaps[0] = problem:gap(theta)
  local run = tuning.train {
    name = "logreg", model = problem.model, theta = theta, data = problem.train, loss = problem.loss,
    optimizer = optimizer, out = false, epochs = epochs, batch = o.batch, seed = seed,
    hooks = { on_epoch = function(ctx, epoch)
      gaps[epoch] = problem:gap(ctx.theta)
      if on_epoch then on_epoch(1 * ctx.theta["1.weight"], epoch) end
    end },
  }
  -- `perigee check` and `perigee emit` take a few steps only: then every epoch has what the run ended with.
  local known, last = run and #gaps or 0, run and #gaps < epochs and problem:gap(run.theta) or math.huge
  for epoch = known + 1, epochs do gaps[epoch] = last end
  return gaps, run and run.cost:gradients() / epochs or 0
end

-- Medians over the seeds, for one step size.
local function run_seeds(make, lr)
  local per_epoch, found, gaps = nil, {}, {}
  for seed = 1, o.seeds do
    local list, cost = run_once(make(lr), seed, o.epochs)
    found[seed], per_epoch = list, cost
  end
  for epoch = 0, o.epochs do
    local column = {}
    for seed = 1, o.seeds do
      local gap = found[seed][epoch]
      column[seed] = gap ~= gap and math.huge or gap
    end
    gaps[epoch] = tuning.median(column)
  end
  return { lr = lr, gaps = gaps, per_epoch = per_epoch, final = gaps[o.epochs] }
end

-- The best power of two.
local function search(method)
  local tried = {}
  local best, low, high = tuning.search(2.0, -2, 24, function(lr, k)
    tried[k] = run_seeds(method.make, lr)
    return tried[k].final
  end)
  local result = tried[best]
  result.grid = ("2^%d … 2^%d"):format(low, high)
  return result
end

local results = {}
for _, method in ipairs(methods) do results[method.name] = search(method) end

-- ---- what came out --------------------------------------------------------------------------------------------------

-- The gap when `evaluations` gradients per example have been spent; between two epochs, the earlier one's.
local function gap_at(result, evaluations)
  local epoch = math.min(o.epochs, math.floor(evaluations * n / result.per_epoch + 1e-9))
  return result.gaps[epoch]
end

local rows, curves = {}, {}
for _, method in ipairs(methods) do
  local r = results[method.name]
  rows[#rows + 1] = {
    method.name, ("%g"):format(r.lr), r.grid, ("%.1e"):format(r.final), ("%.1e"):format(gap_at(r, o.epochs)),
    ("%.2f"):format(r.per_epoch / n),
  }
  local curve = { name = method.name, x = {}, y = {} }
  for epoch = 0, o.epochs do
    curve.x[epoch + 1], curve.y[epoch + 1] = epoch * r.per_epoch / n, math.max(r.gaps[epoch], 1e-18)
  end
  curves[#curves + 1] = curve
end
print()
pg.table.print({ "method", "step", "grid", ("gap, %d epochs"):format(o.epochs),
  ("gap, %d n gradients"):format(o.epochs), "gradients/epoch/n" }, rows)
print()
io.write(pg.plot.draw(curves, { title = "median gap", log = true, xlabel = "gradient evaluations / n" }))

local function ratio(a, b, at)
  local top = at and gap_at(results[a], at) or results[a].final
  local bottom = at and gap_at(results[b], at) or results[b].final
  return ("%.3g"):format(top / bottom)
end
print()
print(("SGD / SVRG:        %s at equal epochs, %s at equal gradient evaluations"):format(ratio("SGD", "SVRG"),
  ratio("SGD", "SVRG", o.epochs)))
print(("IVON / IVON-PoCo:  %s at equal epochs, %s at equal gradient evaluations"):format(ratio("IVON", "IVON-PoCo"),
  ratio("IVON", "IVON-PoCo", o.epochs)))

-- ---- what keeps IVON-PoCo up there ----------------------------------------------------------------------------------
-- Its gradients are almost free of minibatch noise, as SVRG's are. Two things remain that do not come from minibatches.
-- (1) It minimizes the mean of F over the posterior, whose minimum is not w*: an offset, which shrinks as the posterior
--     does (ess up).
-- (2) The weight noise itself: each epoch's full pass draws it afresh, and so every epoch's correction is a little
--     wrong (through g, and through Price's estimate of the Hessian), which moves the mean about.
-- So: the same method with less and with no weight noise, for twice as many epochs; and the gap of the last third split
-- into that of the mean iterate (offset) and that of the iterates' spread around it.
if o.explain then
  local lr = results["IVON-PoCo"].lr
  local variants = {
    { "weight noise of ess = n", with(diagonal, { ess = n }) },
    { "weight noise of ess = 100 n", with(diagonal, { ess = 100 * n }) },
    { "no weight noise, h fixed at h0", with(diagonal, { ess = 1e30, beta2 = 1 }) },
  }
  local lines = {}
  for _, variant in ipairs(variants) do
    local total, offset, spread = {}, {}, {}
    for seed = 1, o.seeds do
      local tail = {}
      local epochs = 2 * o.epochs
      local gaps = run_once(pg.optim.ivon_poco(with(variant[2], { lr = lr, every = pg.epochs(1) })), seed, epochs,
        function(w, epoch) if 3 * epoch > 2 * epochs then tail[#tail + 1] = w end end)
      local mean, around = 0 * tail[1], 0
      for _, w in ipairs(tail) do mean = mean + w / #tail end
      for _, w in ipairs(tail) do around = around + problem:quadratic(w - mean) / #tail end
      total[seed], offset[seed], spread[seed] = gaps[epochs], problem:quadratic(mean - minimum.x), around
    end
    lines[#lines + 1] = { variant[1], ("%.1e"):format(tuning.median(total)),
      ("%.1e"):format(tuning.median(offset)), ("%.1e"):format(tuning.median(spread)) }
  end
  print()
  print(("IVON-PoCo at the same step size, %d epochs:"):format(2 * o.epochs))
  pg.table.print({ "", "gap", "of the mean iterate", "of the spread around it" }, lines)
end
