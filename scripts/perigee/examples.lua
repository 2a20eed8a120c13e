-- examples.lua: the examples of a traced batch one by one: batches of one cut out of it, and what stages see in place
-- of a gradient when they ask for those of the examples. Each gradient is taken by itself, in a scan over the examples,
-- so that it is exact for every model in which an example does not depend on the others; only one is in memory at a
-- time.

local buffers = require "perigee.buffers"
local core = require "perigee.core"
local loops = require "perigee.loops"
local names = require "perigee.names"
local part = require "perigee.part"

local examples = {}

-- The batch of an evaluation as tensors [examples, …] to go over, and a function that makes a batch of one from their
-- slices.
function examples.split(eval)
  local batch, slices, rest = eval.batch, {}, {}
  for name, value in next, batch do
    if not core.is_tensor(value) or value.weak then
      rest[name] = value
    elseif value.ndim > 0 and value.shape[1] == eval.examples then
      slices[name] = value
    else
      core.raise(("statistics for each example: batch.%s does not have one row for each of %d examples"):format(name,
        eval.examples))
    end
  end
  return slices, function(given)
    local one = part.merge(rest, {})
    for _, name in ipairs(names.sorted(given)) do
      one[name] = given[name]:reshape(1, table.unpack(given[name].shape))
    end
    return one
  end
end

-- Raise an error where examples have no gradients of their own. model: that of the evaluator; st: the state.
function examples.check_model(model, st)
  if buffers.has(model) or st.buffers then
    core.raise("statistics for each example: the model has batch norm, by which every example's output depends on the "
      .. "whole batch: there is no gradient of a single one. Use layer norm, or rows for each batch (per = \"batch\")")
  end
end

-- What the loss of one example returned beside the loss, where it can be averaged: numbers. aux: a packed list.
function examples.numbers(aux)
  local numbers = {}
  for i = 1, aux.n do
    local x = aux[i]
    if core.is_tensor(x) and x.ndim == 0 and x.dtype:match "^f" then numbers[i] = x end
  end
  return numbers
end

-- Averages over the examples of such numbers, stacked, as a packed list of n.
function examples.average(stacked, n)
  local aux = { n = n }
  for i = 1, n do
    local x = stacked[i]
    aux[i] = x and x:mean() or nil
  end
  return aux
end

-- ---- gradients one by one -------------------------------------------------------------------------------------------

local Each = {}
Each.__index = Each
Each.__name = "perigee.examples"

-- The gradients of the examples of an evaluation. like: a vector like them. differentiate(one, number) → loss, aux, g
-- of a batch of one, where number is its place in the batch, traced.
function examples.new(eval, like, differentiate)
  examples.check_model(eval.evaluator.model, eval.st)
  return setmetatable({ eval = eval, like = like, differentiate = differentiate, count = eval.examples }, Each)
end

local function zeros_like(x)
  return core.apply("full", x.layout and { layout = x.layout, dtype = x.dtype } or { a = x.shape, dtype = x.dtype }, 0)
end

-- The averages over the examples of what f makes of each one's gradient: as many tensors as f returns.
function Each:mean(f)
  local slices, join = examples.split(self.eval)
  slices[1] = core.apply("iota", { a = { self.count }, b = { 0 }, dtype = "i64" })
  local carry = {}
  for i, like in ipairs { f(zeros_like(self.like)) } do carry[i] = zeros_like(like) end
  local n_aux
  local sums, found = loops.scan(function(sums, slice)
    local number = slice[1]
    slice[1] = nil
    local loss, aux, g = self.differentiate(join(slice), number)
    local new, made = {}, { f(g) }
    for i, sum in ipairs(sums) do new[i] = sum + made[i] end
    n_aux = aux.n
    return new, { loss = loss, aux = examples.numbers(aux) }
  end, carry, slices)
  self.loss, self.aux = found.loss:mean(), examples.average(found.aux, n_aux)
  for i, sum in ipairs(sums) do sums[i] = sum / self.count end
  return table.unpack(sums)
end

return examples
