-- Every rule of pg.rule on one small problem: how far does each get at its best learning rate, what does its update
-- cost, and what does it keep?
--
--   perigee recipes/optimizer_zoo.lua
--   perigee recipes/optimizer_zoo.lua only=adam epochs=30     the rules whose names contain a word
--
-- A perceptron 49-8-10 on 2,000 images of Fashion-MNIST, averaged down to 7 x 7: small enough for the rules that read a
-- whole Hessian. All settings but the learning rate are the rules' defaults, no weight decay; rates are constant. The
-- grid of rates goes by factors of sqrt(10) around the default, and grows on the side where the best one lies; a rule
-- that leaves some tensors to another (others.lr) has both scaled. A rate is judged by the training loss after the last
-- epoch, seed 0; the table is of other seeds. Rules come from the library itself: one that is added appears.

local pg = require "perigee"
local tuning = require "parts.tuning"

local o = pg.options {
  data = "fashion-mnist", examples = 2000, test = 10000, hidden = 8, epochs = 10, batch = 100, seeds = 3, side = 256,
  most = 16, only = "",
}

-- ---- the problem ----------------------------------------------------------------------------------------------------

local loaded = pg.data.load(o.data)

-- Images averaged down to 7 x 7 and standardized by `mean` and `std`, else by their own.
local function shrink(split, count, mean, std)
  local batch = split:take(math.min(count, split.n)):all "f32"
  local x = pg.avg_pool2d(batch.x, 4)
  mean, std = mean or x:mean():item(), std or x:std():item()
  return pg.data.from { x = (x - mean) / std, y = batch.y }, mean, std
end

local train, mean, std = shrink(loaded.train, o.examples)
local test = shrink(loaded.test, o.test, mean, std)

local model = pg.nn.sequential {
  pg.nn.flatten(), pg.nn.linear(49, o.hidden), pg.nn.tanh(), pg.nn.linear(o.hidden, 10),
}

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local judge_train, judge_test = tuning.judge(model, train), tuning.judge(model, test)

-- ---- the rules ------------------------------------------------------------------------------------------------------

-- A rule or ready-made optimizer with these options, and `ess`, the number of examples, where it has no default.
local function make(entry, given)
  local ok, made = pcall(entry, given)
  if ok then return made end
  if not tostring(made):find("'ess'", 1, true) then error(made, 0) end
  given.ess = train.n
  return entry(given)
end

local NOT_RULES = { define = true, is = true, split = true } -- the last is of rules that are here themselves

local rules = {}
for name, entry in pairs(pg.rule) do
  if not NOT_RULES[name] and name:find(o.only, 1, true) then
    rules[#rules + 1] = { name = name, rule = make(entry, {}) }
  end
end

-- Every learning rate of a rule times a factor: { lr = … }, { lr = …, ["others.lr"] = … }.
local function rates_of(rule, factor)
  local given = {}
  for option, v in pairs(rule.hyper.given) do
    if (option == "lr" or option:find "%.lr$") and type(v) == "number" then given[option] = factor * v end
  end
  return given
end

-- ---- how far each gets ----------------------------------------------------------------------------------------------

-- → training loss, test accuracy; infinity where it diverges. The run of seed 1 is written, as zoo-NAME.
local function run_once(entry, factor, seed)
  local given, out = rates_of(entry.rule, factor), nil
  if seed ~= 1 then out = false end
  given.weight_decay = 0
  local run = tuning.train {
    name = "zoo-" .. entry.name, out = out, model = model, data = train, loss = loss,
    optimizer = make(pg.optim[entry.name], given),
    epochs = o.epochs, batch = o.batch, seed = seed, eval_every = 0, log_every = math.ceil(train.n / o.batch),
  }
  local value = run and judge_train(run.theta) or math.huge
  if value ~= value or value == math.huge then return math.huge, 0 end
  local _, accuracy = judge_test(run.theta)
  return value, 100 * accuracy
end

local STEP = 10 ^ 0.5

local function compare(entry)
  local best, low, high = tuning.search(STEP, 0, o.most, function(factor) return (run_once(entry, factor, 0)) end)
  local losses, accuracies = {}, {}
  for seed = 1, o.seeds do losses[seed], accuracies[seed] = run_once(entry, STEP ^ best, seed) end
  entry.lr = entry.rule.hyper.given.lr * STEP ^ best
  entry.tried = high - low + 1
  entry.loss, entry.spread = tuning.mean_and_spread(losses)
  entry.accuracy, entry.accuracy_spread = tuning.mean_and_spread(accuracies)
end

-- ---- what each costs ------------------------------------------------------------------------------------------------

local n = o.side
local wide = pg.nn.sequential { pg.nn.linear(n, n), pg.nn.linear(n, n), pg.nn.linear(n, n), pg.nn.linear(n, n) }

-- What one update of a larger network takes, in seconds of processor time, and the numbers that a rule keeps, in
-- vectors as long as the parameters (a diagonal Hessian that it reads is one); nothing where it reads a whole Hessian.
local function measure_cost(rule)
  local theta = wide:init(pg.key(1))
  local extra = { key = pg.key(2), q = { h0 = 1, ess = train.n } }
  for _, field in ipairs(rule.definition.needs) do
    if field == "H" then return end
    extra.q[field] = pg.ones(theta.layout)
  end
  local state, g, step, kept = rule:init(theta), 1e-3 * pg.randn(pg.key(3), theta.layout), 0, #rule.definition.needs
  for _, name in ipairs(rule.slot_names) do kept = kept + state[name].size / theta.size end
  local function update()
    rule:step(theta, { g = g }, state, step, extra)
    step = step + 1
  end
  update()
  local least = math.huge
  for _ = 1, 5 do
    local begun = os.clock()
    for _ = 1, 10 do update() end -- SOAP turns its bases once in ten steps
    least = math.min(least, (os.clock() - begun) / 10)
  end
  return least, kept
end

local reference = measure_cost(pg.rule.sgd)
for _, entry in ipairs(rules) do
  entry.seconds, entry.kept = measure_cost(entry.rule)
  if entry.name == "sgd" then reference = entry.seconds end
end
for _, entry in ipairs(rules) do compare(entry) end

-- ---- what came out --------------------------------------------------------------------------------------------------

table.sort(rules, function(a, b) return a.loss < b.loss or a.loss == b.loss and a.name < b.name end)
local rows = {}
for i, e in ipairs(rules) do
  rows[i] = { e.name, ("%.3g"):format(e.lr), ("%d"):format(e.tried), ("%.3f ± %.3f"):format(e.loss, e.spread),
    ("%.1f ± %.1f"):format(e.accuracy, e.accuracy_spread), e.seconds and ("%.1f"):format(e.seconds / reference) or "",
    e.kept and ("%.2f"):format(e.kept) or "" }
end
print(("%s: %d images, %d to test; %s parameters, %d epochs of %d steps, %d seeds; updates of %s parameters\n"):format(
  o.data, train.n, test.n, pg.table.thousands(model.layout.size), o.epochs, math.ceil(train.n / o.batch), o.seeds,
  pg.table.thousands(wide.layout.size)))
pg.table.print({ "rule", "lr", "rates tried", "training loss", "test %", "update / SGD's", "vectors kept" }, rows)
