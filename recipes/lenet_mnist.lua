-- Does variance reduction pay on MNIST? LeNet by SGD, Adam, AdaGrad, SVRG, alpha-SVRG and STORM, at equal cost.
--
--   perigee recipes/lenet_mnist.lua                     a small form of the study, some minutes
--   perigee recipes/lenet_mnist.lua only=STORM          the methods whose names contain a word
--   perigee recipes/lenet_mnist.lua examples=60000 search=100 budget=200 grid=study    all of it: days
--
-- A well-known study (Apostolov 2021) answered with a cross-validation that trained on what it validated with,
-- snapshots eight times rarer than it said, a search over one of STORM's parameters that never reached it, one seed,
-- and grids whose best value lay at their edge. Here folds are apart (split:folds), a segment is a whole number of
-- epochs, every method gets the same number of gradients of examples (a corrected one takes fewer steps for them), the
-- settings with the least mean loss on the held-out folds are fitted anew with several seeds, and what lies at an edge
-- is marked.

local pg = require "perigee"
local networks = require "parts.networks"
local tuning = require "parts.tuning"

local o = pg.options {
  examples = 2400, test = 5000, folds = 4, batch = 32, seeds = 5, search = 12, budget = 30, points = 10, only = "",
  grid = { "short", "study" },
}

local data = pg.data.load "mnist"
local test = data.test:take(math.min(o.test, data.test.n))
local train = data.train:take(math.min(o.examples, data.train.n))

local model = networks.lenet "tanh"

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

local function sgd_with(correction)
  return function(h) return pg.optimizer { rule = pg.rule.sgd { lr = h.lr }, correction = correction } end
end

-- STORM chooses its own step. per_tensor: sums and steps for each tensor by itself, as the study has them.
local function storm(per_tensor)
  return function(h)
    return pg.optimizer { rule = pg.rule.sgd { lr = 1 },
      correction = pg.correction.storm { k = h.k, c = h.c, w = 0.1, per_tensor = per_tensor } }
  end
end

local svrg, alpha_svrg = pg.correction.svrg, pg.correction.alpha_svrg
local STUDY = { 1e-5, 1e-4, 1e-3, 0.01, 0.1 }
local STORM = { short = { k = { 0.1, 0.3, 1, 3 }, c = { 1, 10, 100 } },
  study = { k = { 1e-3, 0.01, 0.1, 1 }, c = { 0.1, 1, 10, 100, 1000 } } }
local PLAIN = { short = { lr = { 0.01, 0.03, 0.1, 0.3, 1 } }, study = { lr = STUDY } }

local methods = {
  { name = "SGD", make = sgd_with(nil), grid = PLAIN },
  { name = "Adam", make = function(h) return pg.optim.adam { lr = h.lr } end,
    grid = { short = { lr = { 3e-4, 1e-3, 3e-3, 0.01 } }, study = { lr = STUDY } } },
  { name = "AdaGrad", make = function(h) return pg.optim.adagrad { lr = h.lr } end,
    grid = { short = { lr = { 3e-3, 0.01, 0.03, 0.1 } }, study = { lr = { 1e-4, 1e-3, 0.01, 0.1 } } } },
  { name = "SVRG K=1", make = sgd_with(svrg { every = pg.epochs(1) }), grid = PLAIN },
  { name = "SVRG K=5", make = sgd_with(svrg { every = pg.epochs(5) }), grid = PLAIN },
  { name = "alpha-SVRG", make = sgd_with(alpha_svrg { alpha0 = 0.75, every = pg.epochs(1) }), grid = PLAIN },
  { name = "STORM per tensor", make = storm(true), grid = STORM },
  { name = "STORM", make = storm(false), grid = STORM },
}

-- ---- measuring ------------------------------------------------------------------------------------------------------

-- pg.train at a cost of `gradients` for each example; nil where it diverges. more: further arguments.
local function fit(optimizer, split, gradients, seed, more)
  local spec = { name = "lenet", model = model, data = split, loss = loss, optimizer = optimizer, batch = o.batch,
    seed = seed, budget = { gradients = math.ceil(gradients * split.n) } }
  for name, v in pairs(more) do spec[name] = v end
  return tuning.train(spec)
end

-- ---- cross-validation -----------------------------------------------------------------------------------------------

local folds = train:folds(o.folds, pg.key(1))
for _, fold in ipairs(folds) do fold.measure = tuning.judge(model, fold.test) end

-- Mean loss over the folds' held-out examples; infinity if a fold diverges.
local function validate(method, setting)
  local sum = 0
  for i, fold in ipairs(folds) do
    local run = fit(method.make(setting), fold.train, o.search, i, { out = false })
    local value = run and fold.measure(run.theta) or math.huge
    if value ~= value then value = math.huge end
    sum = sum + value / #folds
  end
  return sum
end

local function choose(method)
  local best = tuning.choose(method.grid[o.grid], function(setting) return validate(method, setting) end)
  print(("%s\n  %s"):format(method.name, best.tried))
  return best
end

-- ---- the final fits -------------------------------------------------------------------------------------------------

-- A sixth is held out, to say when to stop; train's loss is taken on as many examples.
local held = train.n // 6
local fitted, validation = train:rows(1, train.n - held), train:rows(-held, -1)
local look = {
  validation = tuning.judge(model, validation), test = tuning.judge(model, test),
  train = tuning.judge(model, fitted:take(held)),
}

-- One fit: lists of what was seen each time that another part of the budget was spent.
local function follow(method, setting, seed)
  local seen = { cost = {}, train = {}, validation = {}, test = {}, accuracy = {} }
  local part = o.budget / o.points
  local function on_step(ctx)
    local spent = ctx.optimizer.cost:gradients() / fitted.n
    local k = #seen.cost + 1
    if spent < k * part * (1 - 1e-9) then return end
    seen.cost[k], seen.train[k], seen.validation[k] = k * part, look.train(ctx.theta), look.validation(ctx.theta)
    seen.test[k], seen.accuracy[k] = look.test(ctx.theta)
  end
  local run = fit(method.make(setting), fitted, o.budget, seed, { hooks = { on_step = on_step },
    name = ("lenet-%s-%d"):format(method.name:gsub("[ =]", "_"), seed) })
  if run and #seen.cost > 0 then return seen, run.directory end
end

local function smallest(list)
  local best = 1
  for i, v in ipairs(list) do if v < list[best] then best = i end end
  return best
end

-- The mean over the seeds of a quantity at each point, with its least and most.
local function curve_of(name, fits, quantity)
  local curve = { name = name, x = fits[1].cost, y = {}, low = {}, high = {} }
  for k in ipairs(curve.x) do
    local column = {}
    for i, seen in ipairs(fits) do column[i] = seen[quantity][k] end
    curve.y[k], curve.low[k], curve.high[k] = tuning.mean_and_spread(column), math.min(table.unpack(column)),
      math.max(table.unpack(column))
  end
  return curve
end

local function summarize(name, chosen, fits)
  local final = { accuracy = {}, test = {}, train = {} }
  local early = { accuracy = {}, test = {}, cost = {} }
  for i, seen in ipairs(fits) do
    local last, best = #seen.cost, smallest(seen.validation)
    for quantity, list in pairs(final) do list[i] = seen[quantity][last] end
    for quantity, list in pairs(early) do list[i] = seen[quantity][best] end
  end
  local function percent(list)
    local mean, spread = tuning.mean_and_spread(list)
    return ("%.2f ± %.2f"):format(100 * mean, 100 * spread)
  end
  return { name, tuning.describe(chosen.setting), chosen.edge, ("%.4f"):format(chosen.score), percent(early.accuracy),
    ("%.4f"):format(tuning.mean_and_spread(early.test)), ("%.3g"):format(tuning.mean_and_spread(early.cost)),
    percent(final.accuracy), ("%.4f"):format(tuning.mean_and_spread(final.test)),
    ("%.1e"):format(tuning.mean_and_spread(final.train)) }
end

print(("%d examples, %d folds, %g gradients per example in a fold's fit; loss on what is held out\n"):format(train.n,
  o.folds, o.search))
local rows, curves, directory = {}, {}, nil
for _, method in ipairs(methods) do
  if method.name:lower():find(o.only:lower(), 1, true) then
    local chosen, fits = choose(method), {}
    for seed = 1, o.seeds do
      local seen, place = follow(method, chosen.setting, seed)
      fits[#fits + 1], directory = seen, place or directory
    end
    if #fits > 0 then
      rows[#rows + 1], curves[#curves + 1] = summarize(method.name, chosen, fits), curve_of(method.name, fits, "train")
    else
      rows[#rows + 1] = { method.name, tuning.describe(chosen.setting), chosen.edge, "diverges" }
    end
  end
end

print(("\n%d examples, %g gradients for each, %d seeds; %d held out to stop early, %d to test\n"):format(fitted.n,
  o.budget, o.seeds, held, test.n))
pg.table.print({ "method", "chosen", "at edge", "folds' loss", "best: test %", "loss", "after", "final: test %", "loss",
  "train loss" }, rows)
local labels = { title = "training loss, mean over seeds", log = true, xlabel = "gradient evaluations per example" }
print()
io.write(pg.plot.draw(curves, labels))
if directory then pg.plot.save(directory .. "/lenet_mnist.svg", curves, labels) end
