-- LeNet-5 on Fashion-MNIST by five methods: what does each reach, and what does it cost?
--
--   perigee recipes/fashion_lenet.lua                  all five, ten epochs each
--   perigee recipes/fashion_lenet.lua form=relu        ReLU and max-pooling in place of tanh and average-pooling
--   perigee recipes/fashion_lenet.lua epochs=20 only=svrg
--
-- The corrected methods (SVRG, IVON-PoCo) pay for a full pass at each snapshot and for a second gradient at each step,
-- about three times the gradient evaluations of the plain ones; the plot shows the loss against what was paid.

local pg = require "perigee"
local networks = require "parts.networks"

local o = pg.options {
  epochs = 10, batch = 64, seed = 1, form = { "tanh", "relu" },
  only = { "all", "sgd", "adamw", "svrg", "ivon", "ivon-poco" },
}

local data = pg.data.load "fashion-mnist"
local n = data.train.n

local model, sgd_lr = networks.lenet(o.form), o.form == "relu" and 0.05 or 0.1
print(model:summary { o.batch, 1, 28, 28 })
print()

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

-- Every learning rate falls to 0 over the run, along half a cosine. Peaks: the best of a few on the last 10,000
-- training images, held out.
local function falling(peak) return pg.schedule.cosine { peak = peak } end

local methods = {
  { "sgd", pg.optim.momentum { lr = falling(sgd_lr), momentum = 0.9, weight_decay = 1e-4 } },
  { "adamw", pg.optim.adamw { lr = falling(2e-3), weight_decay = 0.01 } },
  { "svrg", pg.optim.svrg { lr = falling(sgd_lr), momentum = 0.9, weight_decay = 1e-4, every = pg.epochs(1) } },
  { "ivon", pg.optim.ivon { lr = falling(0.5), ess = n, h0 = 0.1, weight_decay = 1e-4 } },
  { "ivon-poco", pg.optim.ivon_poco { lr = falling(0.5), ess = n, h0 = 0.1, weight_decay = 1e-4,
    every = pg.epochs(1) } },
}

local rows, curves, directory = {}, {}, nil
for _, method in ipairs(methods) do
  local name, optimizer = method[1], method[2]
  if o.only == "all" or o.only == name then
    local run = pg.train {
      name = "lenet-" .. name, model = model, data = data, loss = loss, optimizer = optimizer,
      epochs = o.epochs, batch = o.batch, seed = o.seed, metrics = { accuracy = pg.metric.accuracy },
      log_every = 100,
    }
    rows[#rows + 1] = {
      name, ("%.2f%%"):format(100 * run.metrics.accuracy), ("%.4f"):format(run.metrics.loss),
      pg.table.thousands(run.cost:gradients()), ("%.1f"):format(run.seconds),
    }
    directory = run.directory
    curves[#curves + 1] = run:curve("loss", "gradients", name)
  end
end

pg.table.print({ "method", "test accuracy", "test loss", "gradient evaluations", "seconds" }, rows)
print()
local labels = { title = "training loss", log = true, xlabel = "gradient evaluations" }
io.write(pg.plot.draw(curves, labels))
pg.plot.save(directory .. "/loss.svg", curves, labels)
