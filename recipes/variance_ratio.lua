-- Variance that SVRG leaves within an epoch, locked and unlocked, with and without batch norm: the square of four.
--
--   perigee recipes/variance_ratio.lua                   Fashion-MNIST, a part of it, some minutes
--   perigee recipes/variance_ratio.lua data=mnist dropout=0.1 examples=60000 epochs=21 probe_every=5
--
-- SVRG takes a snapshot and its full gradient mu at the beginning of each epoch. At 2%, 11%, 33% and 100% of the epoch
-- the parameters are frozen, and all batches of the epoch are gone through (Defazio & Bottou 2019):
--     ratio = mean |g(w) - g(snapshot) + mu - gbar|^2 / mean |g(w) - gbar|^2
-- A corrected step costs three gradients, an epoch's pass included, so below 1/3 it is worth more than a batch three
-- times as large; above 1 it does harm. Images are cropped and mirrored at random. What is locked:
--   locked     both gradients of a step and mu see an image changed alike, in the same batches
--   mu apart   the gradients of a step do; mu is of another draw and other batches, as in well-known programs
--   unlocked   every evaluation draws anew
-- Batch norm normalizes by the statistics of the batch, at the snapshot too.

local pg = require "perigee"

local o = pg.options {
  data = "fashion-mnist", examples = 3200, test = 2000, batch = 64, epochs = 7, probe_every = 3, seeds = 3, lr = 0.05,
  momentum = 0.9, pad = 2, dropout = 0.0,
}

local all = pg.data.load(o.data)
local data = { train = all.train:take(math.min(o.examples, all.train.n)), test = all.test:take(math.min(o.test,
  all.test.n)) }
local channels, side = all.train:take(1):all().x.shape[2], all.train:take(1):all().x.shape[3]
local per_epoch = (data.train.n + o.batch - 1) // o.batch

-- LeNet with ReLU and max-pooling, with batch norm after each layer but the last, or none.
local function make_model(normed)
  local layers = {}
  local function add(...)
    for _, layer in ipairs { ... } do layers[#layers + 1] = layer end
  end
  local function norm(width) if normed then add(pg.nn.batch_norm(width)) end end
  local function thin() if o.dropout > 0 then add(pg.nn.dropout(o.dropout)) end end
  add(pg.nn.conv2d(channels, 6, 5, { pad = 2 }))
  norm(6)
  add(pg.nn.relu(), pg.nn.max_pool2d(2), pg.nn.conv2d(6, 16, 5))
  norm(16)
  add(pg.nn.relu(), pg.nn.max_pool2d(2), pg.nn.flatten())
  local width = 16 * (side // 2 - 4) // 2 * ((side // 2 - 4) // 2)
  for _, out in ipairs { 120, 84 } do
    add(pg.nn.linear(width, out))
    norm(out)
    add(pg.nn.relu())
    thin()
    width = out
  end
  add(pg.nn.linear(width, 10))
  return pg.nn.sequential(layers)
end

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, pg.augment.crop_flip(batch.x, ctx, { pad = o.pad }), ctx), batch.y)
end

local LOCKS = {
  { name = "locked", lock = { augment = true, dropout = true, partition = true } },
  { name = "mu apart", lock = { augment = "step", dropout = "step", partition = false } },
  { name = "unlocked", lock = { augment = false, dropout = false, partition = false } },
}

-- ---- one run --------------------------------------------------------------------------------------------------------

-- Steps of an epoch before which to look, by the share of it that is over.
local PLACES = { { "2%", math.ceil(per_epoch / 50) }, { "11%", math.ceil(per_epoch / 9) },
  { "33%", math.ceil(per_epoch / 3) }, { "100%", per_epoch - 1 } }

local probed = {} -- epochs, from 1
for epoch = 1, o.epochs, o.probe_every do probed[#probed + 1] = epoch end

-- found[epoch][place] = { ratio, distance, bias (its square as a share of the plain variance) }; and the test accuracy.
local function run_once(entry, normed, seed)
  local found = {}
  local run = pg.train {
    name = ("variance-%s-%s-%d"):format(normed and "norm" or "none", entry.name:gsub(" ", "_"), seed),
    model = make_model(normed), data = data, loss = loss, batch = o.batch, epochs = o.epochs,
    seed = seed, metrics = { accuracy = pg.metric.accuracy }, eval_every = o.epochs,
    optimizer = pg.optimizer {
      rule = pg.rule.sgd { lr = o.lr, momentum = o.momentum },
      correction = pg.correction.svrg { every = pg.epochs(1), lock = entry.lock },
    },
    hooks = { on_step = function(ctx)
      local done = ctx.optimizer.step
      local epoch, k = done // per_epoch + 1, done % per_epoch
      if (epoch - 1) % o.probe_every > 0 then return end
      for place, where in ipairs(PLACES) do
        if where[2] == k then
          local seen = pg.probe.variance(ctx)
          found[epoch] = found[epoch] or {}
          found[epoch][place] = { ratio = seen.ratio, distance = seen.distance,
            offset = seen.g.bias ^ 2 / seen.g.plain }
        end
      end
    end },
  }
  return found, run
end

-- ---- all of them ----------------------------------------------------------------------------------------------------

local function mean_of(runs, epoch, place, what)
  local sum, low, high = 0, math.huge, -math.huge
  for _, found in ipairs(runs) do
    local v = found[epoch] and found[epoch][place] and found[epoch][place][what] or 0 / 0
    sum, low, high = sum + v / #runs, math.min(low, v), math.max(high, v)
  end
  return sum, low, high
end

local rows, curves, directory = {}, {}, nil
for _, normed in ipairs { false, true } do
  for _, entry in ipairs(LOCKS) do
    local runs, accuracy = {}, 0
    for seed = 1, o.seeds do
      local found, run = run_once(entry, normed, seed)
      runs[seed], accuracy, directory = found, accuracy + run.metrics.accuracy / o.seeds, run.directory
    end
    local curve = { name = entry.name .. (normed and ", batch norm" or ""), x = {}, y = {}, low = {}, high = {} }
    for _, epoch in ipairs(probed) do
      local row = { normed and "batch norm" or "none", entry.name, tostring(epoch) }
      for place, where in ipairs(PLACES) do
        local mean, low, high = mean_of(runs, epoch, place, "ratio")
        row[#row + 1] = ("%.3f (%.2f-%.2f)"):format(mean, low, high)
        local i = #curve.x + 1
        curve.x[i], curve.y[i], curve.low[i], curve.high[i] = epoch - 1 + where[2] / per_epoch, mean, low, high
      end
      row[#row + 1] = ("%.3f"):format((mean_of(runs, epoch, 1, "offset")))
      row[#row + 1] = ("%.3f"):format((mean_of(runs, epoch, #PLACES, "distance")))
      row[#row + 1] = epoch == probed[#probed] and ("%.1f%%"):format(100 * accuracy) or ""
      rows[#rows + 1] = row
    end
    curves[#curves + 1] = curve
  end
end

print(("%s: %d examples in %d batches, %d seeds; ratio of variances SVRG / plain at shares of an epoch"):format(o.data,
  data.train.n, per_epoch, o.seeds))
print()
local heads = { "norm", "randomness", "epoch" }
for _, where in ipairs(PLACES) do heads[#heads + 1] = where[1] end
for _, head in ipairs { "offset", "|w - s|", "accuracy" } do heads[#heads + 1] = head end
pg.table.print(heads, rows)
local labels = { title = "variance left by SVRG, mean over seeds", log = true, xlabel = "epochs",
  lines = { { y = 1 / 3, name = "break-even" } } }
print()
io.write(pg.plot.draw(curves, labels))
pg.plot.save(directory .. "/variance_ratio.svg", curves, labels)
