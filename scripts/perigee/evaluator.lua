-- evaluator.lua: what an optimizer evaluates: a loss, a model, and the data that full passes run over.
--
-- loss(model, theta, batch, ctx) → loss, aux…: traced; a pure function. loss is 0-d, the mean over the batch.
-- ctx.train is a static boolean; ctx.key holds one key per example, fold(key, stream, epoch or snapshot segment,
-- example id), where the batch has ids, else a single one. aux may be tensors or tables of tensors.
--
-- A batch is a table of tensors (x, y, …), run-time numbers, and static booleans and strings. batch.id: i64 example
-- ids. Its number of examples is batch.count if given, else the first extent of id, x, or the first tensor by name.
-- Batches of one signature (names, dtypes, shapes, statics) share programs.
--
-- A source gives the batches of full passes:
--   source.n                                number of examples
--   source:total(size, count)               examples in a pass of `count` batches of `size` (nil: all the data)
--   source:batches(size, options)           iterator of j (1-based), batch, over a partition of the data into batches
--     of `size`, the short
--                                           last one included. options: first (the j to begin with, default 1), count
--                                             (nil = all;
--                                           else that many batches, chosen afresh per segment), segment, key
-- The same options must give the same batches, whatever ran before: that is what lets an interrupted pass continue.

local builder = require "perigee.builder"
local core = require "perigee.core"
local names = require "perigee.names"
local vectors = require "perigee.vectors"

local evaluator = {}

local Evaluator = {}
Evaluator.__index = Evaluator
Evaluator.__name = "perigee.evaluator"

local FIELDS = { "loss", "model", "source", "key", "batch", "steps_per_epoch", "total_steps" }

-- Make an evaluator. key: the run's key, default core.key(0). batch: the size of full passes' batches, default that
-- of the first step. steps_per_epoch, total_steps: for durations in epochs and of the whole run; the first is derived
-- from the source where missing.
local function make(spec)
  names.check("pg.evaluator", spec, FIELDS)
  if type(spec.loss) ~= "function" then
    core.raise("pg.evaluator needs a loss function (model, theta, batch, ctx)")
  end
  local self = setmetatable({ programs = {}, streams = {} }, Evaluator)
  for _, k in ipairs(FIELDS) do
    self[k] = spec[k]
  end
  self.key = spec.key or core.key(0)
  return self
end

setmetatable(evaluator, {
  __call = function(_, spec)
    return make(spec)
  end,
})

function evaluator.is(x)
  return getmetatable(x) == Evaluator
end

local function is_tensor(x)
  return type(x) == "userdata" or (type(x) == "table" and x.dtype ~= nil)
end

-- The entries of a batch by kind, each sorted by name: tensors, numbers, statics.
local function sort_entries(batch)
  local tensors, numbers, statics = {}, {}, {}
  for _, name in ipairs(names.sorted(batch)) do
    local v = batch[name]
    if is_tensor(v) then
      tensors[#tensors + 1] = name
    elseif type(v) == "number" then
      numbers[#numbers + 1] = name
    elseif type(v) == "boolean" or type(v) == "string" then
      statics[#statics + 1] = name
    else
      core.raise(("batch.%s: a batch holds tensors, numbers, booleans and strings, not a %s"):format(tostring(name),
        type(v)))
    end
  end
  return tensors, numbers, statics
end

-- How many examples a batch has.
function Evaluator:count(batch) -- luacheck: ignore self
  if type(batch.count) == "number" then
    return batch.count
  end
  local t = batch.id or batch.x
  if not t then
    local tensors = sort_entries(batch)
    t = batch[tensors[1]]
  end
  if not t or #t.shape == 0 then
    core.raise("a batch needs a tensor with one row per example, or count")
  end
  return t.shape[1]
end

-- Names, dtypes, shapes and statics of a batch as one string.
function Evaluator:signature(batch) -- luacheck: ignore self
  local tensors, numbers, statics = sort_entries(batch)
  local parts = {}
  for _, name in ipairs(tensors) do
    parts[#parts + 1] = ("%s:%s[%s]"):format(name, batch[name].dtype, table.concat(batch[name].shape, ","))
  end
  for _, name in ipairs(numbers) do
    parts[#parts + 1] = name
  end
  for _, name in ipairs(statics) do
    parts[#parts + 1] = name .. "=" .. tostring(batch[name])
  end
  return table.concat(parts, ";")
end

-- Declare a batch in builder b: returns the traced batch and a function (program, batch) that binds another of its
-- signature.
function Evaluator:declare(b, batch) -- luacheck: ignore self
  local tensors, numbers, statics = sort_entries(batch)
  local traced, values, bound = {}, {}, {}
  for i, name in ipairs(tensors) do
    bound[i] = "batch." .. name
    traced[name] = b:input(bound[i], batch[name])
  end
  for _, name in ipairs(numbers) do
    traced[name] = b:scalar(values, name)
  end
  for _, name in ipairs(statics) do
    traced[name] = batch[name]
  end
  return traced, function(program, other)
    for i = 1, #tensors do
      program:bind(bound[i], other[tensors[i]])
    end
    for i = 1, #numbers do
      values[numbers[i]] = other[numbers[i]]
    end
  end
end

-- Register aux values (tensors, numbers, tables of them) as outputs; returns a function(program) that gives them
-- after a run.
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
  return function(program)
    local out = {}
    for i = 1, #readers do
      out[i] = readers[i](program)
    end
    return out
  end
end

-- Call the loss in a trace: loss, packed aux.
function Evaluator:trace_loss(theta, batch, ctx)
  local results = table.pack(self.loss(self.model, theta, batch, ctx))
  local loss = results[1]
  if type(loss) ~= "userdata" or #loss.shape ~= 0 then
    core.raise("the loss function must return a 0-d loss first (a mean over the batch)" .. (type(loss) == "userdata" and
      (", got shape [%s]"):format(table.concat(loss.shape, ", ")) or ", got a " .. type(loss)))
  end
  return loss, table.pack(table.unpack(results, 2, results.n))
end

-- The loss at theta on a batch without a gradient: number, list of aux. options: train (default false), key (default
-- the evaluator's, for one draw). aux tensors are overwritten by the next call.
function Evaluator:evaluate(theta, batch, options)
  options = options or {}
  local train = options.train or false
  local signature = ("%s|%s|%s"):format(self:signature(batch), theta.dtype, train)
  local entry = self.programs[signature]
  if not entry then
    entry = {}
    entry.program = builder.trace(function(b)
      local traced_theta = b:input("theta", theta)
      local traced
      traced, entry.bind = self:declare(b, batch)
      local key = b:input("key", self.key)
      if traced.id then
        key = core.apply("key_fold", nil, key, traced.id)
      end
      local loss, aux = self:trace_loss(traced_theta, traced, { train = train, key = key })
      b:output(loss)
      entry.aux = evaluator.register_aux(b, aux)
    end)
    self.programs[signature] = entry
  end
  local program = entry.program
  program:bind("theta", theta)
  program:bind("key", options.key or self.key)
  entry.bind(program, batch)
  program:run()
  return vectors.number(program:result(1)), entry.aux(program)
end

-- ---- a source over tensors in memory ----

local Memory = {}
Memory.__index = Memory

-- A source over whole tensors with one row per example: evaluator.memory { x = …, y = … }. Ids are 0 … n - 1. For
-- small problems: it makes new batch tensors as it goes.
function evaluator.memory(tensors)
  local list = names.sorted(tensors)
  return setmetatable({ tensors = tensors, names = list, n = tensors[list[1]].shape[1] }, Memory)
end

function Memory:total(size, count)
  return count and math.min(self.n, size * count) or self.n
end

-- The batch of the 0-based rows in an i64 tensor.
function Memory:take(rows)
  local batch = { id = rows }
  for _, name in ipairs(self.names) do
    batch[name] = core.apply("gather", { a = { 0 } }, self.tensors[name], rows)
  end
  return batch
end

function Memory:batches(size, options)
  options = options or {}
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
