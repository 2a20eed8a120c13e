-- train_check.lua: what pg.train says about its options before anything runs, and about a loss that is not finite while
-- it runs. Holds no state; train.lua asks it.

local batch_size = require "perigee.batch_size"
local core = require "perigee.core"
local loss_functions = require "perigee.loss"
local metric = require "perigee.metric"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local sampler = require "perigee.sampler"
local streams = require "perigee.streams"
local schedule = require "perigee.schedule"

local train_check = {}

local KNOWN = { "name", "model", "data", "loss", "optimizer", "epochs", "steps", "budget", "batch", "pass_batch",
  "seed", "metrics", "hooks", "eval_every", "eval_batch", "log_every", "hash_every", "checkpoint_every", "keep", "from",
  "out", "theta", "buffers", "dtype", "device", "micro", "sampler",
  "streams" }

local function need(ok, format, ...)
  if not ok then core.raise("pg.train: " .. format:format(...)) end
end

-- ---- single options -------------------------------------------------------------------------------------------------

local function is_whole(x, least) return type(x) == "number" and math.tointeger(x) ~= nil and x >= least end

local function is_amount(x) return type(x) == "number" and x >= 0 and x < math.huge end

local function is_split(x) return type(x) == "table" and type(x.n) == "number" end

-- Options with a plain type: name → test, what is expected.
local PLAIN = {
  name = { function(x) return type(x) == "string" and x:match("^[%w_][%w_%.%-]*$") end,
    "a name for a directory (letters, digits, _ . and -)" },
  epochs = { is_amount, "a number of epochs" },
  steps = { function(x) return is_whole(x, 0) end, "a whole number of steps" },
  batch = { function(x) return is_whole(x, 1) or schedule.is_schedule(x) or batch_size.is_adaptive(x) end,
    "a whole number of examples, at least 1, a schedule or pg.batch.adaptive { … }" },
  pass_batch = { function(x) return is_whole(x, 1) end, "a whole number of examples, at least 1" },
  eval_batch = { function(x) return is_whole(x, 1) end, "a whole number of examples, at least 1" },
  seed = { function(x) return is_whole(x, math.mininteger) end, "a whole number" },
  eval_every = { is_amount, "a number of epochs" },
  log_every = { function(x) return is_whole(x, 1) end, "a whole number of steps" },
  hash_every = { function(x) return is_whole(x, 0) end, "a whole number of steps" },
  keep = { function(x) return is_whole(x, 1) end, "a whole number of checkpoints" },
  from = { function(x) return type(x) == "string" end, 'a run directory, as "runs/x" or "runs/x@5000"' },
  out = { function(x) return type(x) == "string" or x == false end, "a directory, or false for nothing on disk" },
  theta = { function(x) return core.is_tensor(x) and x.layout end, "a vector of parameters" },
  dtype = { function(x) return x == "f32" or x == "f64" end, '"f32" or "f64"' },
  device = { function(x) return x == "cpu" end, '"cpu" (this build has no CUDA)' },
  micro = { function(x) return is_whole(x, 1) end, "a whole number of pieces, at least 1" },
  checkpoint_every = { function(x) return is_amount(x) or type(x) == "table" and is_whole(x.steps, 1) end,
    "a number of seconds, or { steps = n }" },
  budget = { function(x) return type(x) == "table" and is_amount(x.gradients) end, "{ gradients = n }" },
  hooks = { function(x) return type(x) == "table" end, "a table { on_step = function, on_epoch = function }" },
  metrics = { function(x) return type(x) == "table" and #x == 0 end,
    "a table of functions by name, as { accuracy = pg.metric.accuracy }" },
}

local function check_plain(spec)
  for _, name in ipairs(names.sorted(PLAIN)) do
    local value = spec[name]
    need(value == nil or PLAIN[name][1](value), "%s must be %s, not %s", name, PLAIN[name][2], names.describe(value))
  end
end

local function check_functions(what, given, known)
  if known then names.check("pg.train's " .. what, given, known) end
  for _, name in ipairs(names.sorted(given)) do
    need(type(given[name]) == "function", "%s.%s must be a function, not %s", what, name, names.describe(given[name]))
  end
end

local function check_metrics(given)
  for _, name in ipairs(names.sorted(given)) do
    need(metric.is(given[name]), "metrics.%s must be a metric, as pg.metric.nll or a function (out, batch), not %s",
      name, names.describe(given[name]))
  end
end

-- ---- the parts ------------------------------------------------------------------------------------------------------

local LOSS = "loss must be a function (model, theta, batch, ctx)"

local function check_loss(loss)
  need(loss ~= nil, "loss is missing: a function (model, theta, batch, ctx)")
  need(type(loss) == "function", "%s, not %s", LOSS, names.describe(loss))
  for _, name in ipairs(names.sorted(loss_functions)) do
    need(loss ~= require("perigee")[name], "%s that returns pg.%s(model(theta, batch.x, ctx), batch.y)", LOSS, name)
  end
end

local function check_optimizer(given)
  if optimizer.is(given) then return end
  need(given ~= nil, "optimizer is missing, as pg.optim.sgd { lr = 0.1 }")
  local what = type(given) == "function" and "a function; call it with its options" or names.describe(given)
  need(false, "optimizer must be an optimizer, as pg.optim.sgd { lr = 0.1 }, not %s", what)
end

local function check_model(spec)
  local model = spec.model
  if model == nil then return need(spec.theta, "model (or theta, to begin at) is missing") end
  local fits = type(model) == "table" and type(model.init) == "function"
  need(fits or spec.theta, "model must be a model, as pg.nn.sequential { … }, not %s", names.describe(model))
end

local function check_data(spec)
  local data = spec.data
  if type(data) == "string" then need(false, 'data must be a data set, as pg.data.load "%s", not a string', data) end
  if core.is_tensor(data) or type(data) == "table" and core.is_tensor(rawget(data, "x")) then
    need(false, "data must be a data set, as pg.data.from { x = images, y = labels }, not %s", names.describe(data))
  end
  local split = type(data) == "table" and (rawget(data, "train") or data)
  need(is_split(split), 'data must be a data set, as pg.data.load "fashion-mnist", not %s', names.describe(data))
  if type(spec.batch) == "number" then
    need((spec.micro or 1) <= spec.batch, "micro is %d, but a batch has only %d examples", spec.micro, spec.batch)
    need(spec.batch <= split.n, "batch is %d, but the data has only %d examples", spec.batch, split.n)
  end
  need(not spec.metrics or next(spec.metrics) == nil or rawget(data, "test"),
    "metrics are taken of a test split, which the data lacks; give data = { train = …, test = … }")
end

local function check_length(spec)
  local given = {}
  for _, name in ipairs { "epochs", "steps", "budget" } do
    if spec[name] then given[#given + 1] = name end
  end
  need(#given > 0, "how long? Give one of epochs, steps and budget = { gradients = n }")
  need(#given == 1, "give only one of epochs, steps and budget, not %s", table.concat(given, " and "))
end

local function check_sampler(spec)
  local given = spec.sampler
  need(given == nil or sampler.is(given), "sampler must be a sampler, as pg.sampler.poisson { rate = 0.01 }, not %s",
    names.describe(given))
  need(given == nil or spec.batch == nil, "sampler says how many examples a step has, so batch must not")
  need(given or spec.batch ~= nil, "batch is missing: the number of examples of a step")
end

-- Raise what a method needs that steps which draw their examples afresh do not have: batches that come again.
function train_check.check_redraws(st, who)
  local c = st.optimizer.correction
  if not c then return end
  local why = st.memory.table and "keeps a table of rows, one for each example"
    or st.cache and "keeps a cache of batches" or c.ahead and "looks at the batches ahead"
    or c.lock.partition and "locks the partition of the data into batches"
  need(not why, "correction %s %s, and %s draws each batch afresh", c.name, why, who)
end

-- Raise an error where the method takes full passes, which streams have no part in.
function train_check.check_streams(st)
  local c = st.optimizer.correction
  need(not c or (st.passes or 0) == 0, "correction %s takes passes over the data, which have no batches of streams",
    c and c.name)
end

-- Raise at the recipe's line what is wrong with the options of pg.train.
function train_check.check(spec)
  need(spec ~= nil, "its options are missing: model, data, loss, optimizer, epochs, batch")
  need(type(spec) ~= "table" or rawget(spec, "lr") == nil,
    "lr belongs to the optimizer, as optimizer = pg.optim.sgd { lr = 0.1 }")
  names.check("pg.train", spec, KNOWN)
  check_loss(spec.loss)
  check_optimizer(spec.optimizer)
  check_model(spec)
  need(spec.data ~= nil, 'data is missing, as data = pg.data.load "fashion-mnist"')
  check_sampler(spec)
  check_plain(spec)
  check_length(spec)
  check_metrics(spec.metrics or {})
  if spec.streams ~= nil then streams.check(spec.streams) end
  check_functions("hooks", spec.hooks or {}, { "on_step", "on_epoch" })
  check_data(spec)
end

-- ---- while it runs --------------------------------------------------------------------------------------------------

-- What a batch has that explains a loss which is not finite, or the usual advice.
local function explain(batch)
  local labels
  for _, name in ipairs(names.sorted(batch)) do
    local x = core.is_tensor(batch[name]) and batch[name] or { dtype = "none" } -- a number, as count
    if x.dtype:find("^f") and not x:isfinite():all():item() then return ("batch.%s is not finite"):format(name) end
    if x.dtype:find("^[iu]") and name ~= "id" and x.size > 0 then
      labels = ("batch.%s goes from %d to %d (classes count from 0)"):format(name, x:min():item(), x:max():item())
    end
  end
  return (labels and labels .. "; " or "") .. "try a smaller learning rate or clipping"
end

-- The message for a loss that is not finite.
function train_check.not_finite(name, step, loss, batch)
  local what = loss ~= loss and "nan" or tostring(loss)
  return ("pg.train %s: the loss is not finite at step %d (%s): %s"):format(name, step, what, explain(batch))
end

return train_check
