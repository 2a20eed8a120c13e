-- AdamW with states of 8 bits on Fashion-MNIST: is anything lost, and what is it in the recipe that keeps it?
--
--   perigee recipes/eight_bit.lua                    a multilayer perceptron, 4 epochs, 3 seeds
--   perigee recipes/eight_bit.lua net=lenet          the demo's LeNet, which is small and forgiving
--   perigee recipes/eight_bit.lua only=linear        one row (its name, or a part of it)
--
-- AdamW keeps two numbers for each parameter, m and v. Dettmers et al. (2022, arXiv 2110.02861) keep each in 8 bits: a
-- block of a tensor is divided by its largest magnitude, and a number becomes the nearest of 256 values, most of them
-- small. Three things make it work, and the table takes them away one by one:
--
--   the dynamic map   linear, equal steps, has nothing between 0 and 1/255: a small v becomes 0, and the step m / (0 +
--                     eps) has no bound. m alone in equal steps does no harm, since nothing is divided by it
--   blocks            an outlier costs its own block the precision; 2048 is the paper's, 256 today's
--   small tensors     keep 32 bits: biases, and here the weights of the last layer; they are no memory to speak of
--
-- Everything else is the same in all rows: network, data, batches, schedule and seeds. What came out stands in
-- docs/results/eight_bit.md.

local pg = require "perigee"
local networks = require "parts.networks"

local o = pg.options {
  net = { "mlp", "lenet" }, epochs = 4, batch = 64, seeds = 3, lr = 2e-3, weight_decay = 0.01, only = "",
  timed = 4000000, -- parameters of the vector on which an update alone is timed; 0: none
}

local data = pg.data.load "fashion-mnist"
local model = networks.lenet "tanh"
if o.net == "mlp" then
  model = pg.nn.sequential {
    pg.nn.flatten(), pg.nn.linear(784, 256), pg.nn.relu(), pg.nn.linear(256, 128), pg.nn.relu(), pg.nn.linear(128, 10),
  }
end

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

local adamw = pg.rule.adamw { lr = pg.schedule.cosine { peak = o.lr } }

local function coded(given)
  given.rule = adamw
  return pg.wrapper.eight_bit(given)
end

local variants = {
  { "32 bits", adamw },
  { "8 bits, blocks of 256", coded {} },
  { "8 bits, blocks of 2048", coded { block = 2048 } },
  { "small tensors too", coded { min_size = 0 } },
  { "linear, m alone", coded { slots = { "m" }, map = "linear" } },
  { "linear, v alone", coded { slots = { v = "unsigned" }, map = "linear" } },
  { "linear", coded { map = "linear" } },
}

-- ---- training -------------------------------------------------------------------------------------------------------

-- A run that ended, or the step at which its loss was no number any more.
local function train(name, rule, seed)
  local ok, run = pcall(pg.train, {
    name = ("eight_bit-%s-%d"):format(name:gsub("%W+", "_"), seed), model = model, data = data, loss = loss,
    optimizer = pg.optimizer { rule = rule, weight_decay = o.weight_decay }, epochs = o.epochs, batch = o.batch,
    seed = seed, metrics = { accuracy = pg.metric.accuracy }, eval_every = o.epochs, log_every = 100,
  })
  if ok then return run end
  local step = tostring(run):match("not finite at step (%d+)")
  if not step then error(run, 0) end
  return nil, tonumber(step)
end

local BYTES = { f32 = 4, u8 = 1 }

-- Bytes of the rule's slots, for each parameter.
local function state_bytes(rule, slots, n)
  local bytes = 0
  for _, name in ipairs(rule.slot_names) do bytes = bytes + slots[name].size * BYTES[slots[name].dtype] end
  return bytes / n
end

local function mean(list)
  local sum = 0
  for _, x in ipairs(list) do sum = sum + x end
  return sum / #list
end

local function spread(list)
  local m, sum = mean(list), 0
  for _, x in ipairs(list) do sum = sum + (x - m) ^ 2 end
  return #list > 1 and (sum / (#list - 1)) ^ 0.5 or 0
end

-- Accuracies and losses of all seeds as cells of the table, and a curve; or when it diverged.
local function compare(name, rule)
  local accuracies, losses, ends, curve = {}, {}, {}, nil
  for seed = 1, o.seeds do
    local run, step = train(name, rule, seed)
    if run then
      accuracies[#accuracies + 1], losses[#losses + 1] = 100 * run.metrics.accuracy, run.metrics.loss
      curve = curve or run:curve("loss", "step", name)
    else
      ends[#ends + 1] = step
    end
  end
  if #ends > 0 then
    local when = ("diverged, %d of %d, at step %s"):format(#ends, o.seeds, table.concat(ends, ", "))
    return when, "", nil
  end
  return ("%.2f%% ± %.2f"):format(mean(accuracies), spread(accuracies)), ("%.4g"):format(mean(losses)), curve
end

-- ---- an update alone ------------------------------------------------------------------------------------------------

-- Processor time of one update of `timed` parameters, in nanoseconds a parameter; the best of a few.
local function time_update(rule)
  local theta = pg.nn.linear(1000, math.max(1, o.timed // 1000), { bias = false }):init(pg.key(1))
  local state, stats, best = rule:init(theta, { lr = o.lr }), { g = theta * 0.1 }, math.huge
  for step = 0, 7 do
    local begun = os.clock()
    rule:step(theta, stats, state, step)
    best = math.min(best, os.clock() - begun)
  end
  return 1e9 * best / theta.size
end

-- ---- what came out --------------------------------------------------------------------------------------------------

local rows, curves = {}, {}
for _, variant in ipairs(variants) do
  local name, rule = table.unpack(variant)
  if name:find(o.only, 1, true) then
    local theta = model:init(pg.key(1))
    local bytes = state_bytes(rule, rule:init(theta), theta.size)
    local accuracy, test_loss, curve = compare(name, rule)
    rows[#rows + 1] = { name, ("%.2f"):format(bytes), ("%.1f%%"):format(100 * bytes / 8),
      o.timed > 0 and ("%.2f"):format(time_update(rule)) or "", accuracy, test_loss }
    curves[#curves + 1] = curve
  end
end

print(("%s, %s parameters; AdamW, lr %g along a cosine, weight decay %g, %d epochs, batch %d, %d seeds"):format(o.net,
  pg.table.thousands(model.layout.size), o.lr, o.weight_decay, o.epochs, o.batch, o.seeds))
pg.table.print({ "states", "bytes", "of f32's", "ns", "test accuracy", "test loss" }, rows)
print("bytes of states for each parameter; ns: processor time of an update alone, for each parameter")
if #curves > 0 then
  print()
  io.write(pg.plot.draw(curves, { title = "training loss of the first seed", log = true, xlabel = "step" }))
end
