-- metric.lua: numbers read off predictions. A metric gives one value for each example, or a row of k values; their
-- average over the examples is the metric, after `finish` where a metric has one: that is how numbers that are no
-- averages (calibration errors) are taken batch by batch. It reads a model's outputs or class probabilities. Owns the
-- averaging too, for pg.train's evaluations and for pg.metric.evaluate.

local check = require "perigee.tensor_args"
local core = require "perigee.core"
local names = require "perigee.names"
local one_hot = require("perigee.tensor").functions.one_hot
local text = require "perigee.tensor_text"

local metric = {}

local Metric = { __name = "perigee.metric" }
Metric.__index = Metric

function Metric:__call(out, batch)
  return self.example(out, batch)
end

--- pg.metric.define { example =, of = "outputs", finish = } → metric: A metric of one's own.
--   example(out, batch) → tensor: traced; for each example a number, [n], or a row of k numbers, [n, k].
--   of: what `out` is: the model's "outputs", or class "probabilities" (pg.metric.probabilities of the outputs).
--   finish(average) → number: plain Lua; from the average over all examples, a number or a list of k numbers. Without
--     it the average is the metric.
-- A function(out, batch) in its place is a metric of outputs without finish. Calling a metric gives example(out,
-- batch).
function metric.define(definition)
  names.check("pg.metric.define", definition, { "example", "of", "finish" })
  local of = definition.of or "outputs"
  if type(definition.example) ~= "function" then
    core.raise("pg.metric.define needs a function example(out, batch)")
  elseif of ~= "outputs" and of ~= "probabilities" then
    core.raise(('pg.metric.define: of is "outputs" or "probabilities", not %s'):format(names.describe(of)))
  end
  return setmetatable({ example = definition.example, of = of, finish = definition.finish }, Metric)
end

--- pg.metric.is(x): Whether x may be a metric: an object of pg.metric.define or a function.
function metric.is(x)
  return type(x) == "function" or getmetatable(x) == Metric
end

-- ---- outputs, probabilities, labels ---------------------------------------------------------------------------------

--- pg.metric.probabilities(out): Class probabilities [n, classes] of a model's outputs: softmax of logits [n, classes];
-- of one logit an example, [n] or [n, 1], the two of its sigmoid, [n, 2].
function metric.probabilities(out)
  if out.ndim >= 2 and out.shape[out.ndim] > 1 then return out:softmax(-1) end
  local logit = out.ndim >= 2 and out or out:unsqueeze(-1)
  return core.apply("concat", { a = { logit.ndim - 1 } }, (-logit):sigmoid(), logit:sigmoid())
end

-- Labels as indices of classes, for rows of `classes` numbers; of two classes the second is that of positive labels, so
-- that -1 and 1 will do as well as 0 and 1.
local function indices_of(y, classes)
  return classes == 2 and y:gt(0):to("i64") or y:to("i64")
end

-- The label of each row of p [..., classes] as an index; raises what does not fit.
local function labels_for(what, p, batch)
  local rows = p.ndim > 0 and p.size // p.shape[p.ndim] or 0
  if rows ~= batch.y.size then
    core.raise(("%s: probabilities are %s and labels %s; one label for each row was expected"):format(what,
      text.type(p), text.type(batch.y)))
  end
  local classes = p.shape[p.ndim]
  local y = indices_of(batch.y, classes):reshape { table.unpack(p.shape, 1, p.ndim - 1) }
  check.check_range(what .. ": label", y, classes, "of the classes")
  return y
end

--- pg.metric.accuracy(out, batch): 1 where the largest of out [n, classes], outputs or probabilities, is batch.y [n],
-- else 0; [n]. With one output for each example, [n] or [n, 1], the sign decides between two labels.
function metric.accuracy(out, batch)
  local y = batch.y
  local ndim, classes = out.ndim, out.shape[out.ndim]
  if ndim == y.ndim + 1 and classes > 1 then return out:argmax(-1):eq(indices_of(y, classes)):to(out.dtype) end
  if out.size ~= y.size then
    core.raise(("pg.metric.accuracy: outputs are %s and labels %s; one label for each row of outputs was expected")
      :format(text.type(out), text.type(y)))
  end
  return out:gt(0):to(out.dtype):reshape(y.shape):eq(y:gt(0):to(out.dtype)):to(out.dtype)
end

-- The smallest normal number: what stands for a probability that was rounded to 0.
local SMALLEST = { f32 = 2.0 ^ -126, f64 = 2.0 ^ -1022 }

--- pg.metric.nll(p, batch): The negative log-likelihood -log p[label] of probabilities p [n, classes] and batch.y [n],
-- in nats; [n]. A probability below the smallest normal number counts as that number.
metric.nll = metric.define {
  of = "probabilities",
  example = function(p, batch)
    local picked = p:take_along_last(labels_for("pg.metric.nll", p, batch))
    return -picked:maximum(SMALLEST[p.dtype]):log()
  end,
}

--- pg.metric.brier(p, batch): The Brier score (Brier 1950) of probabilities p [n, classes] and batch.y [n]: the sum
-- over classes of (p - one-hot label)^2, between 0 and 2; [n].
metric.brier = metric.define {
  of = "probabilities",
  example = function(p, batch)
    local y = labels_for("pg.metric.brier", p, batch)
    return (p - one_hot(y, p.shape[p.ndim], p.dtype)):square():sum(-1)
  end,
}

--- pg.metric.calibration { bins = 15 } → metric: The expected calibration error (Guo et al. 2017, arXiv 1706.04599,
-- eq. 3) of probabilities: sum over bins of the share of examples in it times |accuracy - mean confidence| there.
-- An example's confidence is its largest probability; bin m of M holds those in ((m - 1) / M, m / M].
function metric.calibration(options)
  options = options or {}
  names.check("pg.metric.calibration", options, { "bins" })
  local bins = options.bins or 15
  if math.type(bins) ~= "integer" or bins < 1 then
    core.raise(("pg.metric.calibration: bins is a whole number of at least 1, not %s"):format(names.describe(bins)))
  end
  return metric.define {
    of = "probabilities",
    -- A row has accuracy - confidence at the example's bin and 0 elsewhere: averaged, the terms of the sum without | |.
    example = function(p, batch)
      local y = labels_for("pg.metric.ece", p, batch)
      local confidence = p:max(-1)
      local bin = ((confidence * bins):ceil() - 1):maximum(0):minimum(bins - 1):to("i64")
      local excess = p:argmax(-1):eq(y):to(p.dtype) - confidence
      local rows = one_hot(bin, bins, p.dtype) * excess:unsqueeze(-1)
      return rows:reshape { y.size, bins }
    end,
    finish = function(terms)
      local sum = 0.0
      for _, term in ipairs(terms) do sum = sum + math.abs(term) end
      return sum
    end,
  }
end

--- pg.metric.ece(p, batch): The expected calibration error with 15 bins: pg.metric.calibration {}. As a function it
-- gives the rows of which it is made, [n, 15]; pg.metric.evaluate gives the number.
metric.ece = metric.calibration {}

-- ---- averaging ------------------------------------------------------------------------------------------------------

local Meter = {}
Meter.__index = Meter

--- pg.metric.meter(metrics) → meter: For the library: averages metrics, by name, over batches: trace in a program; then
-- reset, add for each batch that ran, finish.
function metric.meter(metrics)
  local self = setmetatable({ metrics = metrics, names = names.sorted(metrics), sums = {}, total = 0 }, Meter)
  self:reset()
  return self
end

function Meter:reset()
  self.total = 0
  for i in ipairs(self.names) do self.sums[i] = 0.0 end
end

local function is_of_probabilities(one)
  return getmetatable(one) == Metric and one.of == "probabilities"
end

-- Averages over one batch, in the order of names: [] or [k] each. outputs, probabilities: functions that give them.
function Meter:trace(outputs, probabilities, batch)
  local averages = {}
  for i, name in ipairs(self.names) do
    local one = self.metrics[name]
    local value = one(is_of_probabilities(one) and probabilities() or outputs(), batch)
    if not core.is_tensor(value) then
      core.raise(("metrics.%s must return one number for each example, as a tensor; it returned %s"):format(name,
        names.describe(value)))
    end
    averages[i] = getmetatable(one) == Metric and value:mean(1) or value:mean()
  end
  return averages
end

-- Book the averages over a batch of n examples.
function Meter:add(n, averages)
  self.total = self.total + n
  for i, average in ipairs(averages) do
    if average.ndim == 0 then
      self.sums[i] = self.sums[i] + n * average:item()
    else
      local sum = type(self.sums[i]) == "table" and self.sums[i] or {}
      for k, x in ipairs(average:totable()) do sum[k] = (sum[k] or 0.0) + n * x end
      self.sums[i] = sum
    end
  end
end

-- name → number over all batches.
function Meter:finish()
  local out = {}
  for i, name in ipairs(self.names) do
    local sum, one = self.sums[i], self.metrics[name]
    local average = type(sum) ~= "table" and sum / self.total or {}
    for k, x in ipairs(type(sum) == "table" and sum or {}) do average[k] = x / self.total end
    local finish = getmetatable(one) == Metric and one.finish
    out[name] = finish and finish(average) or average
  end
  return out
end

--- pg.metric.evaluate(metrics, p, batch) → number or table: Metrics of predictions p, as pg.predict gives them, against
-- batch.y: one metric's number, or for a table of metrics by name one of numbers. batch: a batch, or the labels alone.
function metric.evaluate(metrics, p, batch)
  if core.is_tensor(batch) then batch = { y = batch } end
  local single = metric.is(metrics)
  if not single and (type(metrics) ~= "table" or getmetatable(metrics)) then
    core.raise("pg.metric.evaluate: metrics come first, one or a table of them by name, as pg.metric.accuracy, not "
      .. names.describe(metrics))
  elseif not core.is_tensor(p) then
    core.raise("pg.metric.evaluate: predictions, as pg.predict gives them, come second, not " .. names.describe(p))
  end
  local meter = metric.meter(single and { value = metrics } or metrics)
  local function given() return p end
  meter:add(p.shape[1], meter:trace(given, given, batch))
  local found = meter:finish()
  return single and found.value or found
end

return metric
