-- A deep residual network without batch norm, begun in five ways: which learning rates does each stand, and how far
-- does it get?
--
--   perigee recipes/metainit.lua                      20 layers on 2,000 images of Fashion-MNIST, 3 seeds
--   perigee recipes/metainit.lua net=plain            the same layers without the ways around them (no Fixup)
--   perigee recipes/metainit.lua data=cifar10/exact   on CIFAR-10 (a directory with its binary version)
--
-- default      PyTorch's: uniform, of a sixth of He's variance
-- he           He et al. (2015): activations keep their size from layer to layer, if nothing goes around the layers
-- fixup        Zhang, Dauphin and Ma (2019): He's, scaled down inside the branches, whose last layers are 0
-- metainit     Dauphin and Schoenholz (2019): default, then the norm of each weight tensor moved, on noise, until the
--              gradient quotient GQ is small, that is until curvature disturbs gradient descent little
-- he-metainit  the same, begun at He's
--
-- An initialization and a learning rate go together. A comparison that gives MetaInit a larger rate than the others, as
-- there is one, leaves open which of the two has helped. So each gets the whole grid of constant rates, on the same
-- network, batches and number of gradients; the table has the training loss of the last epoch at every rate, and below
-- it each at its best. MetaInit looks at no data, but its search takes time, which is said as gradient evaluations that
-- training could have had for it. What came out, and what it does not show, stands in docs/results/metainit.md.

local pg = require "perigee"
local tuning = require "parts.tuning"

local o = pg.options {
  data = "fashion-mnist", net = { "residual", "plain" }, blocks = 4, width = 8, rows = 2000, epochs = 5, batch = 64,
  rates = "0.001,0.003,0.01,0.03,0.1,0.3", seeds = 3, search = 100, search_lr = 0.05,
  only = { "all", "default", "he", "fixup", "metainit", "he-metainit" },
}

-- ---- data, standardized as MetaInit's noise is ----------------------------------------------------------------------

local loaded = pg.data.load(o.data)
local train, test = loaded.train, loaded.test
if o.rows < train.n then train = train:take(o.rows) end
local whole = train:all()
local mean, std = whole.x:mean():item(), whole.x:std():item()

local function standardized(batch) return pg.data.from { x = (batch.x - mean) / std, y = batch.y } end

local data = { train = standardized(whole), test = standardized(test:take(math.min(test.n, o.rows)):all()) }
local _, channels, height, width = table.unpack(whole.x.shape)
local classes = whole.y:max():item() + 1

-- ---- the network ----------------------------------------------------------------------------------------------------

local function conv(inputs, outputs, size, stride)
  return pg.nn.conv2d(inputs, outputs, size, { stride = stride, pad = size // 2, bias = false })
end

local function block(inputs, outputs, stride)
  local body = { pg.nn.relu(), conv(inputs, outputs, 3, stride), pg.nn.relu(), conv(outputs, outputs, 3, 1) }
  if o.net == "plain" then return pg.nn.sequential(body) end
  return pg.nn.fixup_block(body, stride > 1 and conv(inputs, outputs, 1, stride) or nil)
end

local w = o.width
local parts = { conv(channels, w, 3, 2) }
for _ = 1, o.blocks do parts[#parts + 1] = block(w, w, 1) end
parts[#parts + 1] = block(w, 2 * w, 2)
for _ = 1, o.blocks do parts[#parts + 1] = block(2 * w, 2 * w, 1) end
for _, last in ipairs { pg.nn.relu(), pg.nn.global_avg_pool(), pg.nn.flatten(), pg.nn.scalar_bias(),
  pg.nn.linear(2 * w, classes) } do
  parts[#parts + 1] = last
end
local model = pg.nn.sequential(parts)

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

-- ---- the initializations --------------------------------------------------------------------------------------------

local he = { weight = pg.nn.init.he(), bias = 0 }

-- The norms of theta's tensors learned by MetaInit, in f32, which is twice as fast.
local function search(theta, key)
  return (pg.nn.metainit(model, theta, {
    input = { channels, height, width }, classes = classes, batch = o.batch, steps = o.search, lr = o.search_lr,
    dtype = "f32", key = key:fold("search"),
  }))
end

local inits = {
  { "default", function(key) return model:init(key) end },
  { "he", function(key) return model:init(key, he) end },
  { "fixup", function(key) return pg.nn.fixup(model, model:init(key, he)) end, residual = true },
  { "metainit", function(key) return search(model:init(key), key) end, searches = true },
  { "he-metainit", function(key) return search(model:init(key, he), key) end, searches = true },
}

-- The gradient quotient on noise, as MetaInit sees it.
local noise = {
  x = pg.randn(pg.key(0), { o.batch, channels, height, width }),
  y = (pg.uniform(pg.key(1), { o.batch }) * classes):floor():to("i32"),
}
local quotient = pg.nn.gradient_quotient(function(theta) return loss(model, theta, noise, {}) end)

-- ---- runs -----------------------------------------------------------------------------------------------------------

local rates = {}
for rate in o.rates:gmatch("[^,%s]+") do rates[#rates + 1] = tonumber(rate) end

-- One run: { loss = of the last epoch, accuracy =, curve = }, or nil if it diverged.
local function run_once(name, theta, rate, seed)
  local run = tuning.train {
    name = name, model = model, theta = theta, data = data, loss = loss, seed = seed,
    optimizer = pg.optim.momentum { lr = rate, momentum = 0.9 }, epochs = o.epochs, batch = o.batch, out = false,
    eval_every = o.epochs, metrics = { accuracy = pg.metric.accuracy },
    log_every = math.max(1, math.ceil(data.train.n / o.batch) // 4),
  }
  if not run then return nil end
  local curve, sum, count = run:curve("loss", "gradients", name), 0, 0
  for i = #curve.y, math.max(1, #curve.y - 3), -1 do sum, count = sum + curve.y[i], count + 1 end
  return { loss = sum / count, accuracy = run.metrics.accuracy, curve = curve, cost = run.cost:gradients() }
end

local function mean_of(list, field)
  local sum = 0
  for _, item in ipairs(list) do sum = sum + item[field] end
  return sum / #list
end

-- Processor time, and what it was spent for: of all threads together, so that it compares.
local spent = { training = 0, gradients = 0, search = 0 }

-- All seeds at one rate: { rate =, runs =, loss =, cell = text }.
local function run_seeds(name, thetas, rate)
  local found = { rate = rate, runs = {} }
  for seed = 1, o.seeds do
    local begun = os.clock()
    local result = run_once(name, thetas[seed], rate, seed)
    if result then
      spent.training, spent.gradients = spent.training + os.clock() - begun, spent.gradients + result.cost
      found.runs[#found.runs + 1] = result
    end
  end
  local diverged = o.seeds - #found.runs
  found.loss = diverged == 0 and mean_of(found.runs, "loss") or math.huge
  found.cell = diverged == 0 and ("%.3f"):format(found.loss) or ("%d of %d diverged"):format(diverged, o.seeds)
  return found
end

local cells, summary, curves = {}, {}, {}

-- Everything of one initialization: a row of the table, its best rate, and that one's curve.
local function compare(init)
  local name, draw = init[1], init[2]
  local thetas, begun, row = {}, os.clock(), { name }
  for seed = 1, o.seeds do thetas[seed] = draw(pg.key(seed):fold("init")) end
  if init.searches then spent.search = spent.search + os.clock() - begun end
  local quotients, best = 0, nil
  for seed = 1, o.seeds do quotients = quotients + quotient(thetas[seed]):item() / o.seeds end
  row[2] = ("%.3g"):format(quotients)
  for _, rate in ipairs(rates) do
    local found = run_seeds(name, thetas, rate)
    row[#row + 1] = found.cell
    if not best or found.loss < best.loss then best = found end
  end
  cells[#cells + 1] = row
  if best.loss == math.huge then return end
  local low, high = math.huge, -math.huge
  for _, r in ipairs(best.runs) do low, high = math.min(low, r.loss), math.max(high, r.loss) end
  summary[#summary + 1] = { name, ("%g"):format(best.rate), ("%.3f"):format(best.loss),
    ("%.3f - %.3f"):format(low, high), ("%.1f%%"):format(100 * mean_of(best.runs, "accuracy")) }
  curves[#curves + 1] = best.runs[1].curve
end

local searches = 0
for _, init in ipairs(inits) do
  if (o.only == "all" or o.only == init[1]) and not (init.residual and o.net == "plain") then
    compare(init)
    searches = searches + (init.searches and o.seeds or 0)
  end
end

-- ---- what came out --------------------------------------------------------------------------------------------------

print(("%s, %d images; %s network of %d layers with weights, %s parameters; %d epochs, batch %d, momentum 0.9"):format(
  o.data, data.train.n, o.net, 4 * o.blocks + 4, pg.table.thousands(model.layout.size), o.epochs, o.batch))
print(("\ntraining loss in the last epoch, mean of %d seeds, at each learning rate"):format(o.seeds))
local heads = { "init", "GQ" }
for _, rate in ipairs(rates) do heads[#heads + 1] = ("%g"):format(rate) end
pg.table.print(heads, cells)
print("\neach at its best rate")
pg.table.print({ "init", "rate", "training loss", "of the seeds", "test accuracy" }, summary)
if searches > 0 and spent.gradients > 0 then
  local seconds = spent.search / searches
  print(("\na search: %.1f s of processor time, as much as %s gradient evaluations of training (a run has %s)"):format(
    seconds, pg.table.thousands(math.floor(seconds / spent.training * spent.gradients)),
    pg.table.thousands(o.epochs * data.train.n)))
end
print()
io.write(pg.plot.draw(curves, { title = "training loss at the best rate, seed 1", log = true,
  xlabel = "gradient evaluations" }))
