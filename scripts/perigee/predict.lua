-- predict.lua: pg.predict: what a model says of new inputs, at the mean of a posterior or averaged over samples of it.
-- Works through the inputs in batches; each sample of the parameters is drawn once and used for all of them.

local buffers = require "perigee.buffers"
local builder = require "perigee.builder"
local core = require "perigee.core"
local data = require "perigee.data"
local evaluation = require "perigee.evaluation"
local family = require "perigee.family"
local metric = require "perigee.metric"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local posterior = require "perigee.posterior"
local sampler = require "perigee.sampler"
local subject = require "perigee.subject"

local predict = {}

local OPTIONS = { "samples", "key", "batch", "output", "buffers", "optimizer", "family", "weight_decay" }
local BATCH = 1000
local FORMS = "result of pg.train, the ctx of its hooks, an optimizer's state, a posterior or a vector of parameters"

local function need(ok, format, ...)
  if not ok then core.raise("pg.predict: " .. format:format(...)) end
end

local function check_options(o)
  names.check("pg.predict", o, OPTIONS)
  local samples, batch = o.samples or 0, o.batch or BATCH
  need(math.type(samples) == "integer" and samples >= 0, "samples is a whole number, 0 for the mean, not %s",
    names.describe(samples))
  need(math.type(batch) == "integer" and batch >= 1, "batch is a whole number of at least 1, not %s",
    names.describe(batch))
  need(o.output == nil or o.output == "probabilities" or o.output == "values",
    'output is "probabilities" or "values", not %s', names.describe(o.output))
  need(not o.optimizer or optimizer.is(o.optimizer), "optimizer must be an optimizer, not %s",
    names.describe(o.optimizer))
  need(not o.family or family.is(o.family), "family must be a family, not %s", names.describe(o.family))
  need(not (o.optimizer and (o.family or o.weight_decay)), "give the optimizer, or family and weight_decay")
  return samples, batch
end

-- A source of batches with the inputs as x.
local function source_of(x, batch, dtype)
  local split = x
  if core.is_tensor(x) or type(x) == "table" and core.is_tensor(rawget(x, "x")) then
    split = data.from { x = core.is_tensor(x) and x or x.x }
  end
  need(type(split) == "table" and type(rawget(split, "n")) == "number" and not rawget(split, "train"),
    "inputs are a tensor with one example for each entry of the first axis, a batch or a split, not %s",
    names.describe(x))
  return sampler.shuffled(split, batch, core.key(0), { dtype = dtype })
end

-- The optimizer that knows how the posterior is sampled: family and weight decay.
local function sampling_optimizer(o, found, samples)
  if samples == 0 then return nil end
  if o.family then
    return optimizer { family = o.family, weight_decay = o.weight_decay, rule = require("perigee.rule").sgd { lr = 0 } }
  end
  local opt = o.optimizer or found.opt
  need(opt, "samples are drawn by a family and its weight decay: give optimizer = (or family = and weight_decay =), "
    .. "or the result of pg.train or the ctx of its hooks")
  return opt
end

-- A function (k) → parameters: sample number k of q, in the same memory each time.
local function make_sampler(opt, found, key)
  local q, numbers = posterior.new(found.q.fields, found.q), { k = 0 }
  q.mean = found.theta
  for _, name in ipairs(opt.family:init(q.mean, opt.units).fields) do
    need(q[name], "family %s samples from q.%s, which is not there: give the posterior or a state", opt.family.name,
      name)
  end
  opt:evaluate_hypers(found.st and found.st.step or 0)
  local program = builder.trace("a sample of " .. opt.family.name, function(b)
    local fields = {}
    for _, name in ipairs(q.fields) do fields[name] = b:slot(q[name], "q." .. name) end
    local o = opt.family.hyper:traced(function(values, name) return b:scalar(values, name) end, fields.mean)
    o.weight_decay = evaluation.decay(b, opt, fields.mean)
    local view = posterior.view("q", fields, {}, function(name) return o[name] end)
    local of_sample = evaluation.fold(b:input("key", key), b:scalar(numbers, "k"))
    b:output((opt.family.definition.sample(view, of_sample, o)))
  end)
  program:bind("key", key)
  return function(k)
    numbers.k = k
    program:run()
    return program:result(1)
  end
end

-- Programs that take the predictions of sample k for one batch into mean and sum of squares (Welford 1962), so that
-- equal predictions have exactly themselves as their mean, and 0 as their variance.
local function make_forward(model, found, as)
  local forward = { numbers = { k = 1 }, programs = {} }
  local function trace(x, theta)
    local entry = {}
    entry.program = builder.trace(("predictions, %d examples"):format(x.shape[1]), function(b)
      local kept = found.buffers and b:input("buffers", found.buffers)
      local out = as(model(b:input("theta", theta), b:input("x", x),
        { train = false, buffers = kept, update_buffers = false }))
      entry.like = { dtype = out.dtype, shape = out.shape }
      local mean, squares = b:input("mean", entry.like), b:input("squares", entry.like)
      local difference = out - mean
      local moved = mean + difference / b:scalar(forward.numbers, "k")
      b:output(squares + difference * (out - moved), nil, "squares")
      b:output(moved, nil, "mean")
    end)
    return entry
  end
  -- Take sample k of batch x at theta into `piece`, which is made when there is none.
  function forward.run(k, theta, x, piece)
    local n = x.shape[1]
    forward.programs[n] = forward.programs[n] or trace(x, theta)
    local entry = forward.programs[n]
    local program, like = entry.program, entry.like
    piece = piece or { mean = core.tensor(like.dtype, like.shape), squares = core.tensor(like.dtype, like.shape) }
    forward.numbers.k = k
    program:bind("theta", theta)
    program:bind("x", x)
    program:bind("mean", piece.mean)
    program:bind("squares", piece.squares)
    if found.buffers then program:bind("buffers", found.buffers) end
    program:run()
    return piece
  end
  return forward
end

local function join(pieces, field)
  local list = {}
  for j, piece in ipairs(pieces) do list[j] = piece[field] end
  return #list == 1 and list[1] or core.apply("concat", { a = { 0 } }, table.unpack(list))
end

--- pg.predict(model, where, x [, { samples = 0, key = pg.key(0), batch = 1000, output = "probabilities", … }]) → mean,
-- variance: What a model predicts for inputs x, at the mean of a posterior or averaged over samples from it.
--   where: the result of pg.train or the ctx of its hooks, an optimizer's state, a posterior, or parameters. Of those
--     that have a state it is the state's point (state:point()): the mean, unless the rule says otherwise.
--   x: a tensor with one example for each entry of the first axis, a batch, or a split (its field x).
--   samples: 0 for the mean; S: the average of the predictions (of probabilities, never of logits) at S samples of the
--     posterior, drawn from key and the sample's number.
--   output: "probabilities": of classes, [n, classes], as in pg.metric.probabilities; "values": the model's outputs.
--   optimizer, or family and weight_decay: how samples are drawn; needed where `where` does not know it.
--   buffers: the running statistics of a model with batch norm, where `where` does not hold them.
-- mean has the shape of the model's outputs for all n examples. variance, given with samples only, is alike: that of
-- the predictions over the samples (sum of squares over S). Batches of `batch` examples keep memory small. On a
-- state, and on the ctx of a running hook, the evaluations are booked as forward ones.
function predict.predict(model, where, x, options)
  local o = options or {}
  local samples, batch = check_options(o)
  need(type(model) == "function" or type(model) == "table", "the first argument is the model, not %s",
    names.describe(model))
  local found = subject.of("pg.predict", where, FORMS)
  found.buffers = o.buffers or found.buffers
  if found.st then found.theta = found.st:point() end
  buffers.check(model, found.buffers, "pg.predict(model, where, x, { buffers = st.buffers })")
  local source = source_of(x, batch, found.theta.dtype)
  local opt = sampling_optimizer(o, found, samples)
  local draw = opt and make_sampler(opt, found, o.key or core.key(0))
  local forward = make_forward(model, found, o.output == "values" and function(out) return out end
    or metric.probabilities)
  local pieces = {}
  for k = 1, math.max(1, samples) do
    local theta = draw and draw(k) or found.theta
    for j, one in source:batches(source.batch_size) do pieces[j] = forward.run(k, theta, one.x, pieces[j]) end
  end
  if found.st and not found.finished then found.st.cost:add("forward", source.n * math.max(1, samples)) end
  return join(pieces, "mean"), samples > 0 and join(pieces, "squares") / samples or nil
end

return predict
