-- Why do large batches generalize worse, and what helps? Ghost batch norm and more updates, one after the other.
--
--   perigee recipes/ghost_batch_norm.lua                  4,096 examples of MNIST, batches of 64 and 1,024, 3 seeds
--   perigee recipes/ghost_batch_norm.lua large=4096       the whole set in a batch
--   perigee recipes/ghost_batch_norm.lua data=fashion-mnist
--
-- Hoffer, Hubara and Soudry ("Train longer, generalize better", 2017, arXiv 1705.08741) say: a large batch is worse
-- than a small one because training has fewer updates, not because of its minima. So go from a small batch to a large
-- one and add their remedies by and by: a step larger by the root of the ratio; ghost batch norm, which normalizes
-- chunks of the size of the small batch (pg.nn.batch_norm { ghost = 64 }); at last regime adaptation, as many more
-- epochs as the batch is larger, with milestones moved along (pg.batch.regime), so that the number of updates is that
-- of the small batch. The last row is the same without ghost batch norm.
--
-- What came out, and what it does not show, stands in docs/results/ghost_batch_norm.md.

local pg = require "perigee"

local o = pg.options {
  data = "mnist", rows = 4096, small = 64, large = 1024, epochs = 10, lr = 0.05, width = 64, seeds = 3,
  weight_decay = 1e-4,
}

local loaded = pg.data.load(o.data)
local data = { train = loaded.train:take(math.min(o.rows, loaded.train.n)), test = loaded.test }
local inputs = data.train.x.size // data.train.n

local function make_model(ghost)
  local function norm() return pg.nn.batch_norm(o.width, { ghost = ghost }) end
  return pg.nn.sequential {
    pg.nn.flatten(),
    pg.nn.linear(inputs, o.width, { bias = false }), norm(), pg.nn.relu(),
    pg.nn.linear(o.width, o.width, { bias = false }), norm(), pg.nn.relu(),
    pg.nn.linear(o.width, 10),
  }
end
local plain, ghost = make_model(0), make_model(o.small)

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

-- ---- the regimes ----------------------------------------------------------------------------------------------------

-- The small batch's: a tenth of the step after 60% and after 80% of the epochs.
local small = { lr = o.lr, epochs = o.epochs, milestones = { pg.epochs(0.6 * o.epochs), pg.epochs(0.8 * o.epochs) } }
local adapted = pg.batch.regime { from = o.small, to = o.large, lr = small.lr, epochs = small.epochs,
  milestones = small.milestones }

local regimes = {
  { name = "small batch", batch = o.small, model = plain, lr = small.lr, at = small },
  { name = "large batch", batch = o.large, model = plain, lr = small.lr, at = small },
  { name = "+ lr by the root", batch = o.large, model = plain, lr = adapted.lr, at = small },
  { name = "+ ghost batch norm", batch = o.large, model = ghost, lr = adapted.lr, at = small },
  { name = "+ regime adaptation", batch = o.large, model = ghost, lr = adapted.lr, at = adapted },
  { name = "the same, no ghosts", batch = o.large, model = plain, lr = adapted.lr, at = adapted },
}

-- ---- runs -----------------------------------------------------------------------------------------------------------

local function run(regime, seed)
  return pg.train {
    name = ("ghost-%s-%d"):format(regime.name:gsub("[^%w]+", "-"):gsub("^%-", ""), seed), model = regime.model,
    data = data, loss = loss, batch = math.min(regime.batch, data.train.n), epochs = regime.at.epochs, seed = seed,
    optimizer = pg.optim.momentum { lr = pg.schedule.step { from = regime.lr, factor = 0.1, at = regime.at.milestones },
      momentum = 0.9, weight_decay = o.weight_decay },
    metrics = { accuracy = pg.metric.accuracy }, eval_every = regime.at.epochs / 10, hash_every = 0,
  }
end

local function mean_and_deviation(list)
  local mean, square = 0, 0
  for _, x in ipairs(list) do mean = mean + x / #list end
  for _, x in ipairs(list) do square = square + (x - mean) ^ 2 end
  return mean, #list > 1 and math.sqrt(square / (#list - 1)) or 0
end

local rows, curves, directory = {}, {}, nil
for _, regime in ipairs(regimes) do
  local accuracies, losses, fitted, last = {}, {}, {}, nil
  for seed = 1, o.seeds do
    last = run(regime, seed)
    directory = directory or last.directory
    accuracies[seed], losses[seed] = 100 * last.metrics.accuracy, last.metrics.loss
    local curve = last:curve("loss", "step").y
    fitted[seed] = curve[#curve]
    if seed == 1 then
      local series = last:curve("accuracy", "step", regime.name, "test")
      for i = 1, #series.x do series.x[i], series.y[i] = series.x[i] + 1, 100 * series.y[i] end
      curves[#curves + 1] = series
    end
  end
  local accuracy, deviation = mean_and_deviation(accuracies)
  rows[#rows + 1] = { regime.name, tostring(regime.batch), ("%.3g"):format(regime.lr), ("%g"):format(regime.at.epochs),
    tostring(last.steps), ("%.4f"):format((mean_and_deviation(fitted))), ("%.4f"):format((mean_and_deviation(losses))),
    ("%.2f ± %.2f"):format(accuracy, deviation), ("%.1f"):format(last.seconds) }
end

print(("%s: %d examples, %d seeds"):format(o.data, data.train.n, o.seeds))
pg.table.print({ "regime", "batch", "lr", "epochs", "updates", "training loss", "test loss", "test accuracy, %",
  "seconds" }, rows)
local labels = { title = "test accuracy", xlabel = "updates", ylabel = "%" }
io.write("\n", pg.plot.draw(curves, labels))
pg.plot.save(directory .. "/ghost_batch_norm.svg", curves, labels)
