-- LeNet-5 on Fashion-MNIST by five methods: what does each reach, and what does it cost?
--
--   perigee recipes/fashion_lenet.lua                  all five, ten epochs each
--   perigee recipes/fashion_lenet.lua form=relu        ReLU and max-pooling in place of tanh and average-pooling
--   perigee recipes/fashion_lenet.lua epochs=20 only=svrg
--
-- The corrected methods (SVRG, IVON-PoCo) pay for a full pass at each snapshot and for a second gradient at each step,
-- about three times the gradient evaluations of the plain ones; the plot shows the loss against what was paid.

local pg = require "perigee"
local compare = require "parts.comparison"
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

compare {
  name = "lenet", model = model, data = data, methods = methods, only = o.only,
  epochs = o.epochs, batch = o.batch, seed = o.seed,
}
