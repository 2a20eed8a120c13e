-- batch_size.lua: pg.batch, what is known of batch sizes beside a number: sizes that a test lets grow, the tests
-- themselves, and what else has to change with the size.

local batch_test = require "perigee.batch_test"
local core = require "perigee.core"
local names = require "perigee.names"
local schedule = require "perigee.schedule"

local batch_size = { test = batch_test.test }

local Adaptive = {}
Adaptive.__index = Adaptive
Adaptive.__name = "perigee.adaptive batch"

--- pg.batch.adaptive { initial =, max = n, test = "norm", eta = 0.1, theta = 0.5, nu = 1, interval = 1 } → batch size:
-- Batches that grow, as pg.train { batch = } takes it (AdAdaGrad; Lau, Liu & Kolar 2024, arXiv 2402.11215): after every
-- `interval` steps the size becomes max(size, ceil(T)), at most max, where T is the size that the step's batch should
-- have had by pg.stage.batch_test. What is left of an epoch is divided evenly into batches of at most that size.
-- initial is at least 2, default of max the data. The test looks at the gradients of single examples, so batch norm,
-- micro-batches, corrections and several samples are refused. pg.rule.adagrad and pg.rule.adagrad_norm make it
-- AdAdaGrad and AdAdaGradNorm; any rule goes.
function batch_size.adaptive(given)
  local owner = "pg.batch.adaptive"
  names.check(owner, given, { "initial", "max", "test", "eta", "theta", "nu", "interval" })
  local function need_whole(name, x, least)
    if type(x) ~= "number" or x % 1 ~= 0 or x < least then
      core.raise(("%s: %s is a whole number, at least %d, not %s"):format(owner, name, least, names.describe(x)))
    end
  end
  need_whole("initial", given.initial, 2)
  need_whole("interval", given.interval or 1, 1)
  if given.max ~= nil then need_whole("max", given.max, given.initial) end
  local stage = batch_test.stage { test = given.test, eta = given.eta, theta = given.theta, nu = given.nu,
    interval = given.interval }
  return setmetatable({ given = given, initial = given.initial, max = given.max, interval = given.interval or 1,
    stage = stage }, Adaptive)
end

--- pg.batch.is_adaptive(x): Whether x is a batch size that a test lets grow.
function batch_size.is_adaptive(x) return getmetatable(x) == Adaptive end

-- The size after one whose batch should have had `ratio` examples; not a number where all gradients are 0.
function Adaptive:grow(size, ratio, most) -- luacheck: ignore self
  if ratio ~= ratio then return size end
  return math.tointeger(math.max(size, math.ceil(math.min(ratio, most))))
end

function Adaptive:__tostring()
  local out = {}
  for i, key in ipairs(names.sorted(self.given)) do out[i] = ("%s = %s"):format(key, tostring(self.given[key])) end
  return ("adaptive { %s }"):format(table.concat(out, ", "))
end

--- pg.batch.regime { from =, to =, lr =, epochs =, milestones = } → { ratio, lr, epochs, milestones }: What goes with
-- batches of `to` examples in place of `from`, for the same number of updates ("Train longer, generalize better",
-- Hoffer, Hubara & Soudry 2017, arXiv 1705.08741): lr times sqrt(to / from), epochs and every milestone (a number or a
-- duration in epochs) times ceil(to / from), the ratio. Each is optional.
function batch_size.regime(given)
  local owner = "pg.batch.regime"
  names.check(owner, given, { "from", "to", "lr", "epochs", "milestones" })
  for _, name in ipairs { "from", "to" } do
    if type(given[name]) ~= "number" or given[name] <= 0 then
      core.raise(("%s: %s is a number of examples, not %s"):format(owner, name, names.describe(given[name])))
    end
  end
  local ratio = math.ceil(given.to / given.from)
  local function longer(what, x)
    if type(x) ~= "number" and not schedule.is_duration(x) then
      core.raise(("%s: %s is a number or pg.epochs(n), not %s"):format(owner, what, names.describe(x)))
    end
    return x * ratio
  end
  local milestones = given.milestones and {}
  for i, at in ipairs(given.milestones or {}) do milestones[i] = longer("a milestone", at) end
  if given.lr ~= nil and type(given.lr) ~= "number" then
    core.raise(("%s: lr is a number, not %s"):format(owner, names.describe(given.lr)))
  end
  return { ratio = ratio, lr = given.lr and given.lr * math.sqrt(given.to / given.from),
    epochs = given.epochs and longer("epochs", given.epochs), milestones = milestones }
end

return batch_size
