-- A small convolutional network with batch norm and dropout on Fashion-MNIST, by SVRG and by IVON with posterior
-- correction: which of their evaluations move the running statistics?
--
--   perigee recipes/batch_norm.lua                   both, two epochs each
--   perigee recipes/batch_norm.lua epochs=5 only=svrg
--   perigee recipes/batch_norm.lua snapshot=running  the snapshot's gradients by running statistics
--
-- A corrected step evaluates the network twice on its batch, at the current point and at the snapshot, and a full pass
-- evaluates it at the snapshot on every batch. All normalize by the statistics of their batch, but only evaluations at
-- the current point, one a step, may move the running statistics that predictions go by. A layer of one's own counts:
-- it adds 1 to a buffer whenever it is called, and the buffers of those evaluations only are kept.

local pg = require "perigee"

local o = pg.options {
  epochs = 2, batch = 64, seed = 1, snapshot = { "batch", "running" }, only = { "all", "svrg", "ivon-poco" },
}

local data = pg.data.load "fashion-mnist"

local counter = pg.nn.module {
  name = "counter", buffers = { calls = { 1, init = 0 } },
  forward = function(self, x)
    self.calls = self.calls + 1
    return x
  end,
}

local model = pg.nn.sequential {
  counter,
  pg.nn.conv2d(1, 8, 5, { stride = 2, pad = 2, bias = false }), pg.nn.batch_norm(8), pg.nn.relu(), pg.nn.max_pool2d(2),
  pg.nn.dropout(0.1),
  pg.nn.conv2d(8, 16, 3, { pad = 1, bias = false }), pg.nn.batch_norm(16), pg.nn.relu(), pg.nn.max_pool2d(2),
  pg.nn.flatten(), pg.nn.linear(144, 10),
}

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

local function falling(peak) return pg.schedule.cosine { peak = peak } end

local every = pg.epochs(1)
local methods = {
  { "svrg", pg.optim.svrg { lr = falling(0.02), momentum = 0.9, weight_decay = 1e-4, every = every,
    batch_norm = o.snapshot } },
  { "ivon-poco", pg.optim.ivon_poco { lr = falling(0.2), ess = data.train.n, h0 = 0.1, weight_decay = 1e-4,
    every = every, batch_norm = o.snapshot } },
}

local per_pass = math.ceil(data.train.n / o.batch)
local some = data.test:take(8):all()
local rows = {}
for _, method in ipairs(methods) do
  local name, optimizer = method[1], method[2]
  if o.only == "all" or o.only == name then
    local evaluated = 0 -- batches
    local run = pg.train {
      name = "batch-norm-" .. name, model = model, data = data, loss = loss, optimizer = optimizer,
      epochs = o.epochs, batch = o.batch, seed = o.seed, metrics = { accuracy = pg.metric.accuracy }, log_every = 100,
      hooks = { on_step = function(_, info) evaluated = evaluated + 2 + (info.refreshed and per_pass or 0) end },
    }
    rows[#rows + 1] = {
      name, ("%.2f%%"):format(100 * run.metrics.accuracy), ("%.4f"):format(run.metrics.loss),
      pg.table.thousands(run.steps), pg.table.thousands(evaluated),
      pg.table.thousands(math.tointeger(run.buffers["1.calls"]:item())), ("%.1f"):format(run.seconds),
    }
    -- to predict, a model with batch norm is given the running statistics beside the parameters
    local predicted = model(run.theta, some.x, { buffers = run.buffers }):argmax(-1)
    print(("%-9s takes the first test images for %s"):format(name, table.concat(predicted:totable(), " ")))
  end
end

print(("and they are                           %s\n"):format(table.concat(some.y:totable(), " ")))
pg.table.print({ "method", "test accuracy", "test loss", "steps", "batches evaluated", "statistics moved", "seconds" },
  rows)
