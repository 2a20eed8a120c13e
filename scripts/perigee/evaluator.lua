-- evaluator.lua: what an optimizer evaluates: a loss, a model, and the data that full passes run over.
--
-- loss(model, theta, batch, ctx) → loss, aux…: traced; a pure function. loss is 0-d, the mean over the batch.
-- ctx.train is a static boolean; ctx.key holds one key per example, fold(key, stream, epoch or snapshot segment,
-- example id), where the batch has ids, else a single one. aux may be tensors or tables of tensors. ctx.buffers: the
-- running statistics of a model that keeps any (buffers.lua); a loss that hands on its ctx need not know of them.
--
-- Batches: see batch.lua.
--
-- A source gives the batches of full passes:
--   source.n: number of examples; source.ids: their ids, i64 [n], in case they are not 0 … n - 1
--   source:total(size, count, ahead): examples in a pass of `count` batches of `size`; count nil: all the data
--   source:batches(size, options): an iterator of j (1-based), batch over a partition of the data into batches of
--     `size`, the short last one included. options: first, the j to begin with (default 1); count, nil for all the
--     data, else that many batches chosen afresh for each segment; segment; key; ahead, a step (from 0): in place of
--     chosen ones, the batches that the `count` steps from there on will have; epoch: given if the model keeps buffers,
--     the family is SAM's or its like, or the correction locks the partition. Batch norm makes a gradient depend on its
--     whole batch, so a pass over all the data should then go through the batches that the steps of that epoch have
-- The same options must give the same batches, whatever ran before: that is what lets an interrupted pass continue.

local builder = require "perigee.builder"
local buffers = require "perigee.buffers"
local core = require "perigee.core"
local batch = require "perigee.batch"
local names = require "perigee.names"
local weighted = require "perigee.weighted"

local evaluator = {}

local Evaluator = {}
Evaluator.__index = Evaluator
Evaluator.__name = "perigee.evaluator"

local FIELDS = { "loss", "model", "source", "key", "batch", "micro", "steps_per_epoch", "total_steps" }

local function read_micro(given)
  if given == nil then return 1 end
  local micro = type(given) == "number" and math.tointeger(given)
  if not micro or micro < 1 then
    core.raise("pg.evaluator: micro is a whole number of pieces, at least 1, not " .. names.describe(given))
  end
  return micro
end

local function make(spec)
  names.check("pg.evaluator", spec, FIELDS)
  if type(spec.loss) ~= "function" then
    core.raise("pg.evaluator needs a loss function (model, theta, batch, ctx)")
  end
  local self = setmetatable({ programs = {}, streams = {} }, Evaluator)
  for _, k in ipairs(FIELDS) do
    self[k] = spec[k]
  end
  self.key, self.micro = spec.key or core.key(0), read_micro(spec.micro)
  return self
end

--- pg.evaluator { loss =, model =, source =, key = pg.key(0), batch =, micro = 1, steps_per_epoch =, total_steps = }
-- → evaluator: What an optimizer evaluates, for loops of one's own; pg.train makes its own.
--   loss(model, theta, batch, ctx) → loss, aux…: traced; a pure function. loss has shape [], the mean of the batch.
--     ctx.train: whether in training; ctx.key: one key for each example where the batch has ids, else a single one.
--   source: what full passes run over: source.n examples, source:total(size, count), source:batches(size, options) (the
--     exact words stand in evaluator.lua); pg.evaluator.memory makes one.
--   batch: the size of full passes' batches, default that of the first step; mega-batches always have the latter.
--   micro: pieces that the batch of a step, as big as the first one, is evaluated in one after the other, for the
--     memory of one piece; shorter batches and passes are cut alike. A piece is made of the rows of every tensor of the
--     batch with as many rows as the batch has examples. Statistics are averages over the pieces, weighted by their
--     examples; so is the loss; aux is that of the first piece. Each piece draws noise of its own, and stages per
--     evaluation edit its gradient; running statistics (buffers) move from piece to piece.
--   steps_per_epoch, total_steps: for durations in epochs and of the whole run; the first is derived from the source.
setmetatable(evaluator, {
  __call = function(_, spec)
    return make(spec)
  end,
})

--- pg.evaluator.is(x): Whether x is an evaluator.
function evaluator.is(x)
  return getmetatable(x) == Evaluator
end

--- evaluator:count(batch) → number: How many examples a batch has.
function Evaluator:count(b) -- luacheck: ignore self
  return batch.count(b)
end

local NONE = {}
local function no_aux()
  return NONE
end

--- pg.evaluator.register_aux(b, aux) → function: For the library: register what a loss returns beside the loss
-- (tensors, numbers, tables of them) as outputs of a program being built; the function gives them after a run of the
-- program.
function evaluator.register_aux(b, aux)
  local function register(v)
    if type(v) == "userdata" then
      local k = b:output(v)
      return function(program)
        return program:result(k)
      end
    elseif type(v) == "table" then
      local readers, keys = {}, names.sorted(v)
      for i, name in ipairs(keys) do
        readers[i] = register(v[name])
      end
      return function(program)
        local out = {}
        for i, name in ipairs(keys) do
          out[name] = readers[i](program)
        end
        return out
      end
    end
    return function()
      return v
    end
  end
  local readers = {}
  for i = 1, aux.n do
    readers[i] = register(aux[i])
  end
  if #readers == 0 then
    return no_aux -- a step must leave no garbage behind
  end
  return function(program)
    local out = {}
    for i = 1, #readers do
      out[i] = readers[i](program)
    end
    return out
  end
end

-- Raise what is wrong with `returned`, which a loss function returned.
local function refuse_loss(f, returned)
  local info = debug.getinfo(f, "S")
  local where = info.source:sub(1, 1) == "@" and (" (%s:%d)"):format(info.short_src, info.linedefined) or ""
  local hint = ""
  if returned == nil then hint = "; is `return` missing?" end
  if core.is_tensor(returned) then
    hint = returned.ndim > 0 and "; reduce it with :mean()" or ", which does not depend on theta"
  end
  core.raise(("the loss function%s must return the loss, a single number of shape []; it returned %s%s"):format(where,
    names.describe(returned), hint))
end

-- Call the loss in a trace: loss, packed aux. model: what it gets in place of the evaluator's. Weights of the batch are
-- taken care of here, for all who evaluate.
function Evaluator:trace_loss(theta, traced, ctx, model)
  if traced.sample_weight then
    return weighted.loss(self, traced, ctx, function(one, own) return self:trace_loss(theta, one, own, model) end)
  end
  local results = table.pack(self.loss(model or self.model, theta, traced, ctx))
  local loss = results[1]
  if not core.is_tensor(loss) or loss.ndim ~= 0 or not loss.traced then
    refuse_loss(self.loss, loss)
  end
  return loss, table.pack(table.unpack(results, 2, results.n))
end

-- The program of a loss on batches of one signature, with the gradient if asked for, as { program, binding, aux }.
local function build_evaluation(self, theta, given, train, running, graded)
  local entry = {}
  local label = ("an evaluation%s, %d examples%s"):format(graded and " with its gradient" or "", batch.count(given),
    train and ", as in training" or "")
  entry.program = builder.trace(label, function(b)
    local at = core.mark(b:input("theta", theta))
    local traced
    traced, entry.binding = batch.declare(b, given)
    local key = b:input("key", self.key)
    if traced.id then
      key = core.apply("key_fold", nil, key, traced.id)
    end
    local loss, aux = self:trace_loss(at, traced, {
      train = train, key = key, buffers = running and b:input("buffers", running), update_buffers = false,
    })
    b:output(loss)
    if graded then b:output(core.vjp({ loss }, { false }, { at })[1]) end
    entry.aux = evaluator.register_aux(b, aux)
  end)
  return entry
end

-- Run the program of a loss at theta on a batch.
local function run_evaluation(self, owner, theta, given, options, graded)
  options = options or {}
  local train, running = options.train or false, options.buffers
  if running or not train then
    buffers.check(self.model, running, owner)
  end
  local signature = ("%s|%s|%s|%s|%s"):format(batch.signature(given), theta.dtype, train, running and running.dtype,
    graded)
  local entry = self.programs[signature]
  if not entry then
    entry = build_evaluation(self, theta, given, train, running, graded)
    self.programs[signature] = entry
  end
  local program = entry.program
  program:bind("theta", theta)
  program:bind("key", options.key or self.key)
  if running then
    program:bind("buffers", running)
  end
  entry.binding:bind(program, given)
  program:run()
  return entry
end

--- evaluator:evaluate(theta, given [, { train = false, key =, buffers = }]) → loss, aux: The loss at theta on a
-- batch, without a gradient: a number, and a list of what else the loss returns, whose tensors are overwritten by the
-- next call. key: default the evaluator's. buffers: the running statistics that batch norm needs unless training; they
-- are read, never changed.
function Evaluator:evaluate(theta, given, options)
  local entry = run_evaluation(self, "evaluator:evaluate(theta, batch, { buffers = st.buffers })", theta, given,
    options, false)
  return entry.program:number(1), entry.aux(entry.program)
end

--- evaluator:value_and_grad(theta, given [, { train = false, key =, buffers = }]) → loss, gradient, aux: As
-- evaluator:evaluate, with the gradient, a vector like theta that is overwritten by the next call.
function Evaluator:value_and_grad(theta, given, options)
  local entry = run_evaluation(self, "evaluator:value_and_grad(theta, batch, { buffers = st.buffers })", theta, given,
    options, true)
  return entry.program:number(1), entry.program:result(2), entry.aux(entry.program)
end

-- ---- a source over tensors in memory ----

local Memory = {}
Memory.__index = Memory

--- pg.evaluator.memory { x =, y =, … } → source: A source over whole tensors with one row for each example; ids
-- are 0 … n - 1. For small problems: it makes new batch tensors as it goes.
function evaluator.memory(tensors)
  local list = names.sorted(tensors)
  return setmetatable({ tensors = tensors, names = list, n = tensors[list[1]].shape[1] }, Memory)
end

function Memory:total(size, count)
  return count and math.min(self.n, size * count) or self.n
end

-- The batch of the 0-based rows in an i64 tensor.
function Memory:take(rows)
  local b = { id = rows }
  for _, name in ipairs(self.names) do
    b[name] = core.apply("gather", { a = { 0 } }, self.tensors[name], rows)
  end
  return b
end

function Memory:batches(size, options)
  options = options or {}
  if options.ahead then
    core.raise("pg.evaluator.memory does not know which batches the steps will have, so no mega-batch ahead of them")
  end
  local n, chosen = self.n, nil
  if options.count then
    local key = core.apply("key_fold", nil, options.key, options.segment or 0)
    chosen = core.apply("permutation", { a = { n } }, key)
  end
  local total = self:total(size, options.count)
  local j = (options.first or 1) - 1
  return function()
    local from = j * size
    if from >= total then
      return nil
    end
    j = j + 1
    local rows = {}
    for i = from, math.min(from + size, total) - 1 do
      rows[#rows + 1] = chosen and chosen:data_read(i) or i
    end
    return j, self:take(core.tensor("i64", { #rows }, rows))
  end
end

return evaluator
