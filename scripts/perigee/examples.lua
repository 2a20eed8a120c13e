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

-- The batch of an evaluation, { batch =, examples = }, as tensors [examples, …] to go over, and a function that makes a
-- batch of one from their slices.
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

-- Averages over the examples of such numbers, stacked, as a packed list of n; in a batch with weights, weighted sums.
function examples.average(stacked, n, weight)
  local aux = { n = n }
  for i = 1, n do
    local x = stacked[i]
    aux[i] = x and (weight and (weight:to(x.dtype) * x):sum() or x:mean()) or nil
  end
  return aux
end

-- What a batch with weights says of itself as a whole, which the loss of a single example must not see.
local OF_WHOLE = { sample_weight = true, count = true, expected = true }

-- The batch as its examples see it: without that; as it is where it has no weights.
function examples.without_weights(batch)
  if not batch.sample_weight then return batch end
  local plain = {}
  for name, value in next, batch do
    if not OF_WHOLE[name] then plain[name] = value end
  end
  return plain
end

-- ---- gradients one by one -------------------------------------------------------------------------------------------

local Each = {}
Each.__index = Each
Each.__name = "perigee.examples"

-- The gradients of the examples of an evaluation. like: a vector like them. differentiate(one, number) → loss, aux, g
-- of a batch of one, where number is its place in the batch, traced.
function examples.new(eval, like, differentiate)
  examples.check_model(eval.evaluator.model, eval.st)
  local batch = eval.batch
  return setmetatable({ eval = eval, like = like, differentiate = differentiate, weight = batch.sample_weight,
    count = batch.sample_weight and batch.count or eval.examples, expected = batch.expected }, Each)
end

local function zeros_like(x)
  return core.apply("full", x.layout and { layout = x.layout, dtype = x.dtype } or { a = x.shape, dtype = x.dtype }, 0)
end

-- Sums over the rows of what f makes of each one's gradient, times its weight where there are any (weight: [rows] or
-- nil), as a list. The loss and aux seen on the way are kept, averaged by the batch's own weights.
local function add_up(self, f, weight)
  local eval, own = self.eval, self.weight
  local slices, join = examples.split { batch = examples.without_weights(eval.batch), examples = eval.examples }
  slices[1] = core.apply("iota", { a = { eval.examples }, b = { 0 }, dtype = "i64" })
  slices[2] = weight
  local carry = {}
  for i, like in ipairs { f(zeros_like(self.like)) } do carry[i] = zeros_like(like) end
  local n_aux
  local sums, found = loops.scan(function(sums, slice)
    local number, w = slice[1], slice[2]
    slice[1], slice[2] = nil, nil
    local loss, aux, g = self.differentiate(join(slice), number)
    local new, made = {}, { f(g) }
    for i, sum in ipairs(sums) do new[i] = sum + (w and w:to(made[i].dtype) * made[i] or made[i]) end
    n_aux = aux.n
    return new, { loss = loss, aux = examples.numbers(aux) }
  end, carry, slices)
  self.loss = own and (own:to(found.loss.dtype) * found.loss):sum() or found.loss:mean()
  self.aux = examples.average(found.aux, n_aux, own)
  return sums
end

-- The averages over the examples of what f makes of each one's gradient: as many tensors as f returns. In a batch with
-- weights, sums of weight times it.
function Each:mean(f)
  local sums = add_up(self, f, self.weight)
  if not self.weight then
    for i, sum in ipairs(sums) do sums[i] = sum / self.count end
  end
  return table.unpack(sums)
end

-- The sums over the examples of what f makes of each one's gradient, places without an example left out.
function Each:sum(f)
  local weight = self.weight
  return table.unpack(add_up(self, f, weight and weight:gt(0):to(weight.dtype)))
end

return examples
