-- examples.lua: the examples of a traced batch one by one: batches of one cut out of it, and what stages see in place
-- of a gradient when they ask for those of the examples. Each gradient is that of a batch of one (pg.vmap), so it is
-- exact for every model in which an example does not depend on the others. Examples are gone over in pieces, and only
-- one piece's gradients are in memory at a time.

local buffers = require "perigee.buffers"
local core = require "perigee.core"
local loops = require "perigee.loops"
local names = require "perigee.names"
local part = require "perigee.part"
local tree = require "perigee.tree"

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

-- ---- pieces of a batch ----------------------------------------------------------------------------------------------

local CACHED_BYTES = 16 << 20  -- of the gradients of a piece's examples, if there is room for enough of them
local MOST_BYTES = 256 << 20   -- of those, unless one example's takes more
local LANES = 16               -- kernels work on so many examples at a time

-- How many of `count` examples go at once, whose gradients are like `like`: pieces of about equal sizes.
local function piece_size(count, like)
  local each = math.max(1, like.size) * (like.dtype == "f64" and 8 or 4)
  local cached = CACHED_BYTES // each // LANES * LANES
  local most = cached > 0 and cached or math.max(1, math.min(LANES, MOST_BYTES // each))
  local pieces = math.max(1, (count + most - 1) // most)
  return (count + pieces - 1) // pieces
end

-- Rows first + 1 … first + count of each tensor, as `pieces` pieces where that is given.
local function cut(slices, first, count, pieces)
  local out = {}
  for name, x in next, slices do
    local shape = x.shape
    local a, b, c = { first }, { count }, { 1 }
    for i = 2, #shape do a[i], b[i], c[i] = 0, shape[i], 1 end
    local cutting = core.apply("slice", { a = a, b = b, c = c }, x)
    out[name] = pieces and cutting:reshape(pieces, count // pieces, table.unpack(shape, 2)) or cutting
  end
  return out
end

-- Go over `count` examples in pieces: sums, seen = f(slices of a piece, sums before or nil), starting from start()
-- where there are several. like: a vector like an example's gradient, of which a piece holds 16 MiB, or 16 where they
-- are large, or 256 MiB. → the last sums, and what was seen, trees of tensors with a row for each example.
function examples.over(slices, count, like, f, start)
  local size = piece_size(count, like)
  if size == count then return f(slices) end
  local pieces = count // size
  local sums, seen = loops.scan(function(sums, some) return f(some, sums) end, start(), cut(slices, 0, pieces * size,
    pieces))
  seen = tree.map(seen, function(x) return x:reshape(pieces * size, table.unpack(x.shape, 3)) end)
  local rest = count - pieces * size
  if rest == 0 then return sums, seen end
  local last
  sums, last = f(cut(slices, pieces * size, rest), sums)
  return sums, tree.zip(seen, last, function(x, y) return core.apply("concat", { a = { 0 } }, x, y) end, "a piece")
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

-- The sum over the first axis of x: of what core.vmap stacked, a vector of `layout` or a plain tensor.
local function sum_of_stacked(x, layout)
  if not layout then return x:sum(1) end
  local parts = {}
  for i = 1, #layout do parts[i] = core.apply("view", { a = { i - 1 } }, x):sum(1) end
  return core.apply("pack", { layout = layout }, table.unpack(parts))
end

-- Sums over the rows of what f makes of each one's gradient, times its weight where there are any (weight: [rows] or
-- nil), as a list. The loss and aux seen on the way are kept, averaged by the batch's own weights.
local function add_up(self, f, weight)
  local eval, own, n_aux = self.eval, self.weight, nil
  local slices, join = examples.split { batch = examples.without_weights(eval.batch), examples = eval.examples }
  slices[1] = core.apply("iota", { a = { eval.examples }, b = { 0 }, dtype = "i64" })
  slices[2] = weight
  local layouts = {}

  local function one(slice)
    local number, w = slice[1], slice[2]
    slice[1], slice[2] = nil, nil
    local loss, aux, g = self.differentiate(join(slice), number)
    local made = { f(g) }
    for i, x in ipairs(made) do
      layouts[i] = x.layout or false
      if w then made[i] = w:to(x.dtype) * x end
    end
    n_aux = aux.n
    return made, { loss = loss, aux = examples.numbers(aux) }
  end

  local sums, found = examples.over(slices, eval.examples, self.like, function(some, before)
    local made, seen = loops.vmap(one)(some)
    for i, x in ipairs(made) do
      made[i] = sum_of_stacked(x, layouts[i])
      if before then made[i] = before[i] + made[i] end
    end
    return made, seen
  end, function()
    local zeros = {}
    for i, x in ipairs { f(zeros_like(self.like)) } do zeros[i] = zeros_like(x) end
    return zeros
  end)
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
