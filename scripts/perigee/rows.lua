-- rows.lua: statistics by rows, as tables keep them: what a row is and how statistics come out of rows. Three forms:
-- one row for the whole batch; one for each example, all numbers of its statistics, by batches of one (examples.lua);
-- and one for each example that holds the cotangent of the model's output only, for models that are linear in theta:
-- there the output's derivative does not depend on theta, so that gradients can be formed from such rows at any time.
-- Traced rows are statistics whose fields are [rows, width]; arithmetic on them is that of statistics.

local core = require "perigee.core"
local examples = require "perigee.examples"
local loops = require "perigee.loops"
local names = require "perigee.names"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local rows = {}

local Spec = {}
Spec.__index = Spec
Spec.__name = "perigee.rows"

--- pg.rows { per = "example", linear = false, file = false } → slot: A table of statistics as a slot of a correction:
-- state = { table = pg.rows { per = "example" } }; a correction has at most one.
--   per: "example": a row for each example, found by batch.id; "batch": one for each batch of a fixed partition.
--   linear: rows hold the cotangents of the model's output, for models that are linear in theta given x; checked once.
--   file: whether it lies in a file without a name in TMPDIR (/var/tmp), and not in memory.
-- In `correct`, ctx:rows(q) are the statistics at q by rows, ctx:mean(rows) statistics out of rows, s.table the rows of
-- this batch as they were kept, and s.table = rows keeps others once the step has succeeded.
function rows.rows(given)
  given = given or {}
  names.check("pg.rows", given, { "per", "linear", "file" })
  local per = given.per or "example"
  if per ~= "example" and per ~= "batch" then
    core.raise(('pg.rows: per is "example" or "batch", not %s'):format(names.describe(per)))
  elseif per == "batch" and given.linear then
    core.raise('pg.rows: linear keeps cotangents of each example\'s output, so per must be "example"')
  end
  return setmetatable({ per = per, linear = given.linear or false, file = given.file or false }, Spec)
end

function rows.is(x)
  return getmetatable(x) == Spec
end

-- ---- rows and fields ------------------------------------------------------------------------------------------------

-- How many numbers a row of a field has. st: the optimizer's state.
function rows.width(st, field)
  local shape, width = st.shapes[field], 1
  if not shape then return st.theta.size end
  for _, extent in ipairs(shape) do width = width * extent end
  return width
end

local function flatten(x) return x.layout and x:flat() or x:reshape(x.size) end

-- Statistics from one row of all their numbers.
local function restore(eval, row)
  return statistics.map(row, function(x, field)
    local shape = eval.st.shapes[field]
    return shape and x:reshape(shape) or vectors.unflatten(x:reshape(eval.st.theta.size), eval.st.theta)
  end)
end

-- ---- one row for the batch ------------------------------------------------------------------------------------------

local Whole = {}
Whole.__index = Whole

function Whole:take(q, opts)
  return statistics.map(self.eval:at(q, opts), function(x)
    local flat = flatten(x)
    return flat:reshape(1, flat.size)
  end)
end

function Whole:mean(taken) return restore(self.eval, taken) end

-- ---- a row for each example -----------------------------------------------------------------------------------------

local Each = {}
Each.__index = Each

function Each:take(q, opts)
  local eval = self.eval
  local slices, join = examples.split(eval)
  if eval.witness then eval.witness:begin_evaluation(true) end
  local took, n_aux
  local function row(slice)
    local one = eval:on({ batch = join(slice) }, q, opts)
    local out = { rows = {}, aux = examples.numbers(one.aux), loss = one.loss }
    for _, field in ipairs(statistics.fields(one.stats)) do out.rows[field] = flatten(one.stats[field]) end
    took, n_aux = one, one.aux.n
    return out
  end
  local _, found = examples.over(slices, eval.examples, eval.st.theta, function(some)
    return {}, loops.vmap(row)(some)
  end, function() return {} end)
  eval:note({ loss = found.loss:mean(), aux = examples.average(found.aux, n_aux) }, took, opts.live)
  return statistics.new(found.rows)
end

function Each:mean(taken)
  return restore(self.eval, statistics.map(taken, function(x) return x:mean(1) end))
end

-- ---- cotangents of a linear model's output --------------------------------------------------------------------------

-- The model as the loss gets it: one call of it is seen, its output standing apart from what the loss makes of it.
local function watch(model, seen)
  return setmetatable({}, {
    __call = function(_, ...)
      if seen.output then core.raise("linear = true: the loss calls the model more than once") end
      seen.output = model(...)
      if not core.is_tensor(seen.output) then
        core.raise("linear = true: the model must return one tensor, the outputs for each example")
      end
      seen.marked = core.mark(seen.output)
      return seen.marked
    end,
    __index = type(model) == "table" and model or nil,
  })
end

local Linear = {}
Linear.__index = Linear

function Linear:take(q, opts)
  local eval, seen = self.eval, {}
  local live = opts.live or false
  local theta = core.mark(eval.opt.family.definition.sample(q, eval.noise_key, eval.family_o, 1))
  local ctx = eval:loss_context(eval:example_keys({ batch = eval.batch }, opts), live, live)
  local loss, aux = eval.evaluator:trace_loss(theta, eval.batch, ctx, watch(eval.evaluator.model, seen))
  if not seen.output then core.raise("linear = true: the loss must call the model: model(theta, batch.x, ctx)") end
  local count = eval.examples
  if seen.output.ndim == 0 or seen.output.shape[1] ~= count then
    core.raise(("linear = true: the model's output needs a row for each of %d examples"):format(count))
  end
  self.theta, self.output = theta, seen.output
  eval:note({ loss = loss, aux = aux }, { count = 1, products = 0 }, live)
  local cotangent = core.vjp({ loss }, { false }, { seen.marked })[1]
  return statistics.new { g = cotangent:reshape(count, seen.output.size // count) * count }
end

function Linear:mean(taken)
  if not self.output then self:take(self.at, {}) end -- the derivative is the same at every theta
  local cotangent = (taken.g / self.eval.examples):reshape(self.output.shape)
  return statistics.new { g = core.vjp({ self.output }, { cotangent }, { self.theta })[1] }
end

-- ---- choosing one ---------------------------------------------------------------------------------------------------

-- Raise an error where there are no statistics of single examples.
function rows.check_per_example(opt, st, evaluator, batch, linear)
  examples.check_model(evaluator.model, st)
  if not core.is_tensor(batch.id) and not (type(batch.id) == "table" and batch.id.dtype) then
    core.raise("statistics for each example: batches need ids (batch.id, i64, from 0)")
  elseif batch.count or batch.sample_weight then
    core.raise("statistics for each example: batches of full size only, without batch.count and batch.sample_weight")
  elseif opt.family:is_of_batch() then
    core.raise(("statistics for each example: the points of family %s depend on the gradient of the whole batch")
      :format(opt.family.name))
  elseif linear and #opt.stages.per_evaluation > 0 then
    core.raise("linear = true: stages.per_evaluation edit gradients, and rows hold cotangents of the model's output")
  elseif linear and (#st.stats > 1 or opt.family.samples > 1) then
    core.raise(("linear = true: rows hold what gradients are formed from, and family %s gives {%s} with %d samples")
      :format(opt.family.name, table.concat(st.stats, ", "), opt.family.samples))
  end
end

-- What makes rows out of an evaluation, in a trace: form:take(q, opts) → rows at q, opts as in Evaluation:at;
-- form:mean(rows) → statistics. spec: of the table; nil: a row for each example. at: the current point.
function rows.form(eval, spec, at)
  local class = Each
  if spec and spec.per == "batch" then class = Whole elseif spec and spec.linear then class = Linear end
  return setmetatable({ eval = eval, at = at }, class)
end

return rows
