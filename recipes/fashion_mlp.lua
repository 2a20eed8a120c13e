-- A multilayer perceptron on Fashion-MNIST by five methods: what does each reach, and what does it cost?
--
--   perigee recipes/fashion_mlp.lua                  all five, five epochs each
--   perigee recipes/fashion_mlp.lua epochs=10 only=svrg
--
-- The corrected methods (SVRG, IVON-PoCo) pay for a full pass at each snapshot and for a second gradient at each step,
-- about three times the gradient evaluations of the plain ones; the plot shows the loss against what was paid.

local pg = require "perigee"
local compare = require "parts.comparison"

local o = pg.options {
  epochs = 5, batch = 128, seed = 1, hidden = 256,
  only = { "all", "sgd", "adamw", "svrg", "ivon", "ivon-poco" },
}

local data = pg.data.load "fashion-mnist"
local n = data.train.n

local model = pg.nn.sequential {
  pg.nn.flatten(),
  pg.nn.linear(784, o.hidden), pg.nn.relu(),
  pg.nn.linear(o.hidden, 128), pg.nn.relu(),
  pg.nn.linear(128, 10),
}

-- Every learning rate falls to 0 over the run, along half a cosine.
local function falling(peak) return pg.schedule.cosine { peak = peak } end

local methods = {
  { "sgd", pg.optim.momentum { lr = falling(0.1), momentum = 0.9, weight_decay = 1e-4 } },
  { "adamw", pg.optim.adamw { lr = falling(2e-3), weight_decay = 0.01 } },
  { "svrg", pg.optim.svrg { lr = falling(0.1), momentum = 0.9, weight_decay = 1e-4, every = pg.epochs(1) } },
  { "ivon", pg.optim.ivon { lr = falling(1), ess = n, h0 = 0.1, weight_decay = 1e-4 } },
  { "ivon-poco", pg.optim.ivon_poco { lr = falling(1), ess = n, h0 = 0.1, weight_decay = 1e-4,
    every = pg.epochs(1) } },
}

compare {
  name = "fashion", model = model, data = data, methods = methods, only = o.only,
  epochs = o.epochs, batch = o.batch, seed = o.seed,
}
