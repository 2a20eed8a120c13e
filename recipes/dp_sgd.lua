-- What does privacy cost? DP-SGD on MNIST: accuracy and epsilon for several amounts of noise.
--
--   perigee recipes/dp_sgd.lua                        a network of 25,450 parameters, 5 epochs, 3 seeds
--   perigee recipes/dp_sgd.lua noise=0.8,2 epochs=20  other amounts, a longer run
--   perigee recipes/dp_sgd.lua data=fashion-mnist net=lenet
--
-- Each example joins a batch by a coin of its own (pg.sampler.poisson), its gradient is clipped to a norm of at most
-- `clip`, and normal noise of deviation noise * clip is added to their sum (pg.stage.private; Abadi et al. 2016, arXiv
-- 1607.00133). The Renyi accountant (pg.privacy.of) then says how private the parameters are that come out: epsilon at
-- delta, for data sets that differ by one example. Two controls are not private: plain SGD on the same batches, and
-- clipping without noise, which show what of the loss in accuracy is due to what.
--
-- What came out, and what it does not show, stands in docs/results/dp_sgd.md.

local pg = require "perigee"
local networks = require "parts.networks"

local o = pg.options {
  data = "mnist", net = { "mlp", "lenet" }, rows = 0, epochs = 5, batch = 512, lr = 4.0, plain_lr = 1.0, clip = 1.0,
  delta = 1e-5, seeds = 3, noise = "0.6,0.8,1.1,1.6,2.5",
}

local loaded = pg.data.load(o.data)
local train = o.rows > 0 and loaded.train:take(math.min(o.rows, loaded.train.n)) or loaded.train
local data = { train = train, test = loaded.test }
local width = train.x.size // train.n
local model = o.net == "lenet" and networks.lenet "tanh"
  or pg.nn.sequential { pg.nn.flatten(), pg.nn.linear(width, 32), pg.nn.tanh(), pg.nn.linear(32, 10) }

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

-- ---- the methods ----------------------------------------------------------------------------------------------------

local function private(noise)
  return pg.optimizer { rule = pg.rule.sgd { lr = o.lr }, stages = {
    per_evaluation = { pg.stage.private { clip = o.clip, noise_multiplier = noise } } } }
end

local methods = { { name = "SGD, not private", slug = "plain", make = pg.optim.sgd { lr = o.plain_lr } },
  { name = "clipped, no noise", slug = "clipped", make = private(0) } }
for word in o.noise:gmatch "[^,%s]+" do
  methods[#methods + 1] = { name = "noise " .. word, slug = "noise-" .. word, make = private(tonumber(word)),
    is_private = true }
end

-- ---- runs -----------------------------------------------------------------------------------------------------------

local function run(method, seed)
  return pg.train {
    name = ("dp-%s-%d"):format(method.slug, seed), model = model, data = data, loss = loss, optimizer = method.make,
    sampler = pg.sampler.poisson { batch = o.batch }, epochs = o.epochs, seed = seed,
    metrics = { accuracy = pg.metric.accuracy }, hash_every = 0,
    hooks = { on_epoch = function(ctx)
      if method.is_private then ctx:log { epsilon = pg.privacy.of(ctx):epsilon(o.delta) } end
    end },
  }
end

local function mean_and_deviation(list)
  local mean, square = 0, 0
  for _, x in ipairs(list) do mean = mean + x / #list end
  for _, x in ipairs(list) do square = square + (x - mean) ^ 2 end
  return mean, #list > 1 and math.sqrt(square / (#list - 1)) or 0
end

local rows, curve = {}, { name = "private", x = {}, y = {} }
local plain_accuracy, directory
for _, method in ipairs(methods) do
  local accuracies, losses, last = {}, {}, nil
  for seed = 1, o.seeds do
    last = run(method, seed)
    directory = directory or last.directory
    accuracies[seed], losses[seed] = 100 * last.metrics.accuracy, last.metrics.loss
  end
  local epsilon = method.is_private and pg.privacy.of(last):epsilon(o.delta) or math.huge
  local accuracy, deviation = mean_and_deviation(accuracies)
  plain_accuracy = plain_accuracy or accuracy
  if method.is_private then curve.x[#curve.x + 1], curve.y[#curve.y + 1] = epsilon, accuracy end
  rows[#rows + 1] = { method.name, method.is_private and ("%.2f"):format(epsilon) or "none",
    ("%.2f ± %.2f"):format(accuracy, deviation), ("%.2f"):format(plain_accuracy - accuracy),
    ("%.4f"):format((mean_and_deviation(losses))), tostring(last.steps) }
end

print(("%s: %d examples, expected batch %d, %g epochs, clip %g, delta %g, %d seeds"):format(o.data, train.n, o.batch,
  o.epochs, o.clip, o.delta, o.seeds))
pg.table.print({ "method", "epsilon", "test accuracy, %", "below SGD", "test loss", "steps" }, rows)
if #curve.x > 1 then
  local labels = { title = "test accuracy against epsilon", xlabel = "epsilon", ylabel = "%" }
  io.write("\n", pg.plot.draw({ curve }, labels))
  pg.plot.save(directory .. "/dp_sgd.svg", { curve }, labels)
end
