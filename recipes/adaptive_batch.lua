-- Batches that grow by a test: AdAdaGrad and AdAdaGradNorm against batches of one size, at equal numbers of samples.
--
--   perigee recipes/adaptive_batch.lua                    a network on 20,480 examples of MNIST, 6 epochs, 3 seeds
--   perigee recipes/adaptive_batch.lua test=augmented     another test
--   perigee recipes/adaptive_batch.lua initial=8 rule=adagrad
--
-- The norm test asks after a step whether its batch was large enough: whether the variance of the mean gradient, the
-- examples' variance over the batch size, was at most eta^2 times the squared norm of that mean. If not, the next batch
-- has the size that would have passed (Lau, Liu & Kolar 2024, arXiv 2402.11215; pg.batch.adaptive). So batches are
-- small while the gradient is large, and grow where noise would take over. What a run is given is samples, not steps:
-- large batches take fewer steps for them, which is what they are there for: on hardware where a step's time does not
-- depend on its batch. On two cores it does.
--
-- What came out, and what it does not show, stands in docs/results/adaptive_batch.md.

local pg = require "perigee"

local o = pg.options {
  data = "mnist", rows = 20480, epochs = 6, rule = { "both", "adagrad", "adagrad_norm" }, lr = 0.05, norm_lr = 4.0,
  fixed = "32,128,512,2048", initial = 64, max = 2048, test = { "norm", "inner", "augmented", "coordinate" },
  etas = "0.5,0.8,0.95", interval = 20, seeds = 3, watched = 2000,
}

local loaded = pg.data.load(o.data)
local data = { train = loaded.train:take(math.min(o.rows, loaded.train.n)), test = loaded.test }
local width = data.train.x.size // data.train.n
local model = pg.nn.sequential { pg.nn.flatten(), pg.nn.linear(width, 32), pg.nn.tanh(), pg.nn.linear(32, 10) }

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local function numbers(text)
  local list = {}
  for word in text:gmatch "[^,%s]+" do list[#list + 1] = tonumber(word) end
  return list
end

-- ---- what is compared -----------------------------------------------------------------------------------------------

local rules = { adagrad = function() return pg.optim.adagrad { lr = o.lr } end,
  adagrad_norm = function() return pg.optim.adagrad_norm { lr = o.norm_lr } end }

local batches = {}
for _, size in ipairs(numbers(o.fixed)) do batches[#batches + 1] = { name = ("%d"):format(size), size = size } end
for _, eta in ipairs(numbers(o.etas)) do
  -- eta and theta are the same thing in two tests: how much noise is borne
  batches[#batches + 1] = { name = ("%s test, eta = %g"):format(o.test, eta), is_adaptive = true,
    size = pg.batch.adaptive { initial = o.initial, max = math.min(o.max, data.train.n), test = o.test, eta = eta,
      theta = eta, interval = o.interval } }
end

-- ---- runs -----------------------------------------------------------------------------------------------------------

-- The training loss at the present parameters, over some of the examples.
local evaluator = pg.evaluator { loss = loss, model = model }
local watched = data.train:take(math.min(o.watched, data.train.n)):all "f32"

local function run(rule, batch, seed)
  local result = pg.train {
    name = ("batch-%s-%s-%d"):format(rule, batch.name:gsub("[^%w.]+", "-"), seed), model = model, data = data,
    loss = loss, optimizer = rules[rule](), batch = batch.size, epochs = o.epochs, seed = seed, eval_every = o.epochs,
    metrics = { accuracy = pg.metric.accuracy }, hash_every = 0,
    log_every = batch.is_adaptive and 1 or math.ceil(data.train.n / batch.size / 8),
  }
  return { result = result, train = evaluator:evaluate(result.theta, watched),
    sizes = batch.is_adaptive and result:curve("batch", "gradients") or nil }
end

local function mean(list, f)
  local sum = 0
  for _, entry in ipairs(list) do sum = sum + f(entry) / #list end
  return sum
end

local function largest(run_of) return math.max(table.unpack(run_of.sizes.y)) end

local directory
local function compare(rule)
  local rows, curves, growth = {}, {}, {}
  for _, batch in ipairs(batches) do
    local runs = {}
    for seed = 1, o.seeds do runs[seed] = run(rule, batch, seed) end
    directory = directory or runs[1].result.directory
    local accuracy = mean(runs, function(r) return 100 * r.result.metrics.accuracy end)
    local spread = math.sqrt(mean(runs, function(r) return (100 * r.result.metrics.accuracy - accuracy) ^ 2 end)
      * #runs / math.max(1, #runs - 1))
    rows[#rows + 1] = { batch.name, ("%.0f"):format(mean(runs, function(r) return r.result.steps end)),
      batch.is_adaptive and ("%.0f"):format(mean(runs, largest)) or batch.name,
      ("%.4f"):format(mean(runs, function(r) return r.train end)),
      ("%.4f"):format(mean(runs, function(r) return r.result.metrics.loss end)),
      ("%.2f ± %.2f"):format(accuracy, spread), ("%.1f"):format(mean(runs, function(r) return r.result.seconds end)) }
    curves[#curves + 1] = runs[1].result:curve("loss", "gradients", batch.name)
    if batch.is_adaptive then
      growth[#growth + 1] = { name = batch.name, x = runs[1].sizes.x, y = runs[1].sizes.y }
    end
  end
  print(("\n%s, %s: %d examples, %g epochs, %d seeds"):format(rule, o.data, data.train.n, o.epochs, o.seeds))
  pg.table.print({ "batch", "steps", "largest batch", "training loss", "test loss", "test accuracy, %", "seconds" },
    rows)
  local labels = { title = rule .. ": loss of the steps", log = true, xlabel = "samples" }
  io.write("\n", pg.plot.draw(curves, labels))
  pg.plot.save(("%s/adaptive_%s_loss.svg"):format(directory, rule), curves, labels)
  if #growth > 0 then
    labels = { title = rule .. ": batch size", log = true, xlabel = "samples" }
    io.write("\n", pg.plot.draw(growth, labels))
    pg.plot.save(("%s/adaptive_%s_size.svg"):format(directory, rule), growth, labels)
  end
end

for _, rule in ipairs { "adagrad", "adagrad_norm" } do
  if o.rule == "both" or o.rule == rule then compare(rule) end
end
