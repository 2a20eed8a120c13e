-- VSGD against Adam, AdamW and SGD with momentum on a small ConvMixer: Table 1 of the paper on VSGD (Chen et al. 2025,
-- arXiv 2404.06549) in small.
--
--   perigee recipes/vsgd_table.lua                     ConvMixer-16/4 on 8,000 images of Fashion-MNIST, 3 seeds
--   perigee recipes/vsgd_table.lua data=cifar10/exact  on CIFAR-10 (a directory with its binary version)
--   perigee recipes/vsgd_table.lua part=gamma          VSGD by the strength gamma of its prior
--   perigee recipes/vsgd_table.lua width=256 depth=8 patch=2 batch=256 steps=30000 examples=50000    the paper's size
--
-- Every method gets the same rates, momentum 0.9 or 0.99 (SGD), weight decay 0 or 0.01 (VSGD; AdamW without is Adam).
-- The paper's rates are 0.001, 0.005, 0.01, 0.02; so few steps want larger ones, so the grid goes on. One run for each
-- setting, seed 0, is judged by its accuracy on held-out training images; the best setting is run again with other
-- seeds, and those runs alone are judged by the test images. The learning rate halves after each third of the steps;
-- images are cropped and mirrored at random. At an equal number of steps all methods take equally many gradients; what
-- a step costs stands beside. What came out, and what it does not show, stands in docs/results/vsgd_table.md.

local pg = require "perigee"
local networks = require "parts.networks"
local tuning = require "parts.tuning"

local o = pg.options {
  part = { "table", "gamma" }, data = "fashion-mnist", examples = 8000, held = 2000, test = 10000,
  width = 16, depth = 4, patch = 4, batch = 128, steps = 400, seeds = 3, rates = "0.005,0.01,0.02,0.05,0.1",
  timed = 20, only = "",
}

-- ---- data and network -----------------------------------------------------------------------------------------------

local loaded = pg.data.load(o.data)
local train, test = loaded.train, loaded.test
train = train:take(math.min(o.examples + o.held, train.n))
test = test:take(math.min(o.test, test.n))
local fitted, held = train:rows(1, train.n - o.held), train:rows(-o.held, -1)

local whole = fitted:all()
local channels, classes = whole.x.shape[2], whole.y:max():item() + 1
local mean = whole.x:mean({ 1, 3, 4 }, { keepdims = true })
local std = (whole.x - mean):square():mean({ 1, 3, 4 }, { keepdims = true }) ^ 0.5

local model = pg.nn.sequential {
  function(x) return (x - mean) / std end,
  networks.conv_mixer { channels = channels, classes = classes, width = o.width, depth = o.depth, patch = o.patch },
}

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, pg.augment.crop_flip(batch.x, ctx), ctx), batch.y)
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

local function halving(lr) return pg.schedule.step { from = lr, factor = 0.5, every = math.ceil(o.steps / 3) } end

local rates = {}
for rate in o.rates:gmatch("[^,%s]+") do rates[#rates + 1] = tonumber(rate) end

-- A ready-made optimizer by the settings that the grid has and `more`.
local function with(make, more)
  return function(setting)
    local given = {}
    for _, t in ipairs { setting, more } do
      for name, v in pairs(t) do given[name] = v end
    end
    given.lr = halving(given.lr)
    return make(given)
  end
end

local methods = {
  { name = "VSGD, decay", make = with(pg.optim.vsgd, { weight_decay = 0.01 }), grid = { lr = rates } },
  { name = "VSGD", make = with(pg.optim.vsgd, {}), grid = { lr = rates } },
  { name = "Adam", make = with(pg.optim.adam, {}), grid = { lr = rates } },
  { name = "AdamW", make = with(pg.optim.adamw, { weight_decay = 0.01 }), grid = { lr = rates } },
  { name = "SGD", make = with(pg.optim.momentum, {}), grid = { lr = rates, momentum = { 0.9, 0.99 } } },
}

if o.part == "gamma" then
  methods = {}
  for i, gamma in ipairs { 1e-9, 5e-9, 1e-8, 5e-8, 1e-7, 1e-3 } do
    methods[i] = { name = ("%g"):format(gamma), make = with(pg.optim.vsgd, { gamma = gamma }), grid = { lr = rates } }
  end
end

-- ---- runs -----------------------------------------------------------------------------------------------------------

-- → { accuracy =, loss = } on `split` after all steps, and the training loss last logged; nil if it diverged. Without a
-- name nothing is written.
local function run_once(method, setting, split, seed, name)
  local out
  if not name then out = false end
  local run = tuning.train {
    name = name or "tuning", out = out, model = model, data = { train = fitted, test = split },
    loss = loss, optimizer = method.make(setting), steps = o.steps, batch = o.batch, seed = seed,
    metrics = { accuracy = pg.metric.accuracy }, eval_every = o.steps, log_every = math.max(1, o.steps // 10),
  }
  if not run then return nil end
  local curve = run:curve("loss", "step")
  return { accuracy = 100 * run.metrics.accuracy, loss = run.metrics.loss, train = curve.y[#curve.y] }
end

local function choose(method)
  local best = tuning.choose(method.grid, function(setting)
    local found = run_once(method, setting, held, 0)
    return found and 100 - found.accuracy or math.huge
  end)
  print(("  %-12s %s"):format(method.name, best.tried))
  return best
end

-- Processor time of a step of each method, in turns; the least of a few rounds.
local function time_steps(chosen)
  local batch, steppers, least = fitted:rows(1, math.min(o.batch, fitted.n)):all "f32", {}, {}
  for i, method in ipairs(methods) do
    if chosen[i] then
      local optimizer = method.make(chosen[i].setting)
      local evaluator = pg.evaluator { model = model, loss = loss, key = pg.key(1), total_steps = o.steps }
      local state = optimizer:init(model:init(pg.key(2)), pg.key(3), model:init_buffers())
      steppers[i] = function() optimizer:step(state, evaluator, batch) end
      steppers[i]()
    end
  end
  for _ = 1, 5 do
    for i, step in pairs(steppers) do
      local begun = os.clock()
      for _ = 1, o.timed do step() end
      least[i] = math.min(least[i] or math.huge, (os.clock() - begun) / o.timed)
    end
  end
  return least
end

local function take(list, field)
  local out = {}
  for i, item in ipairs(list) do out[i] = item[field] end
  return out
end

print(("%s: %d images, %d held out, %d to test; ConvMixer-%d/%d, %s parameters; %d steps of %d\n"):format(o.data,
  fitted.n, held.n, test.n, o.width, o.depth, pg.table.thousands(model.layout.size), o.steps, o.batch))
print "errors on held-out images, %, by setting:"
local chosen, finals = {}, {}
for i, method in ipairs(methods) do
  if method.name:lower():find(o.only:lower(), 1, true) then chosen[i] = choose(method) end
end
for i, best in pairs(chosen) do
  finals[i] = {}
  for seed = 1, o.seeds do
    local name = ("vsgd-%s-%d"):format(methods[i].name:gsub("[^%w]+", "_"), seed)
    finals[i][#finals[i] + 1] = run_once(methods[i], best.setting, test, seed, name)
  end
end

-- ---- what came out --------------------------------------------------------------------------------------------------

local seconds = time_steps(chosen)
local reference = seconds[3] or seconds[1] or 1 -- Adam's
local rows, cells = {}, {}
for i, method in ipairs(methods) do
  local best, runs = chosen[i], finals[i]
  if best and #runs > 0 then
    local accuracy, spread = tuning.mean_and_spread(take(runs, "accuracy"))
    cells[i] = ("%.1f ± %.1f"):format(accuracy, spread)
    rows[#rows + 1] = { method.name, tuning.describe(best.setting), best.edge, ("%.1f"):format(100 - best.score),
      cells[i], ("%.3f"):format(tuning.mean_and_spread(take(runs, "loss"))),
      ("%.3f"):format(tuning.mean_and_spread(take(runs, "train"))), ("%.2f"):format(seconds[i] / reference) }
  elseif best then
    rows[#rows + 1] = { method.name, tuning.describe(best.setting), best.edge, "diverges" }
  end
end

print(("\nthe best of each, %d seeds:"):format(o.seeds))
pg.table.print({ o.part == "gamma" and "gamma" or "method", "chosen", "at edge", "held out %", "test %", "test loss",
  "train loss", o.part == "gamma" and "step / first" or "step / Adam" }, rows)
print "\ntest accuracy, %, mean and standard deviation over the seeds:"
local heads, line = { "" }, { ("%s, ConvMixer"):format(o.data) }
for i, method in ipairs(methods) do heads[i + 1], line[i + 1] = method.name, cells[i] or "-" end
pg.table.print(heads, { line })
