-- weighted.lua: the loss of a batch whose rows have weights: the sum of sample_weight[i] times the loss of row i taken
-- by itself. So a loss that is written as a mean over its batch, as they all are, is weighted rightly whatever it is
-- made of, and a row of weight 0 is a place in a static plan that no example has. In a trace.

local batches = require "perigee.batch"
local buffers = require "perigee.buffers"
local core = require "perigee.core"
local examples = require "perigee.examples"
local loops = require "perigee.loops"
local names = require "perigee.names"

local weighted = {}

local function check(evaluator, batch, rows, ctx)
  local weight = batch.sample_weight
  if not core.is_tensor(weight) or weight.ndim ~= 1 or weight.shape[1] ~= rows or not weight.dtype:match "^f" then
    core.raise(("batch.sample_weight must be a float tensor [%d], a weight for each row, not %s"):format(rows,
      names.describe(weight)))
  end
  if ctx.buffers or buffers.has(evaluator.model) then
    core.raise("a batch with weights, or with places that no example has: the model has batch norm, by which every "
      .. "example's output depends on the whole batch. Use layer norm, or a sampler with whole batches")
  end
end

-- The keys of the rows, [rows]: where a batch has no ids, by their places.
local function by_row(key, rows)
  if not key or key.ndim == 1 then return key end
  return core.apply("key_fold", nil, key, core.apply("iota", { a = { rows }, b = { 0 }, dtype = "i64" }))
end

-- A copy of ctx with the keys of one row.
local function context_of_row(ctx, slice)
  local own = {}
  for name, value in next, ctx do own[name] = value end
  own.key = slice.key and slice.key:reshape(1)
  own.augment_key = slice.augment_key and slice.augment_key:reshape(1)
  return own
end

-- The weighted sum of the rows' losses, and a packed list of what they return beside them, where it is numbers, summed
-- likewise. loss_of(batch, ctx) → loss, aux: of a batch of one.
function weighted.loss(evaluator, batch, ctx, loss_of)
  local rows = batches.size(batch)
  check(evaluator, batch, rows, ctx)
  local slices, join = examples.split { batch = examples.without_weights(batch), examples = rows }
  local n_aux, is_number = 0, {}
  local each = loops.vmap(function(slice)
    local loss, aux = loss_of(join(slice.batch), context_of_row(ctx, slice))
    local out, numbers = { loss }, examples.numbers(aux)
    n_aux = aux.n
    for i = 1, aux.n do
      is_number[i] = numbers[i] ~= nil
      out[#out + 1] = numbers[i]
    end
    return table.unpack(out)
  end)
  local taken = table.pack(each { batch = slices, key = by_row(ctx.key, rows),
    augment_key = by_row(ctx.augment_key, rows) })
  local stacked, at = {}, 1
  for i = 1, n_aux do
    if is_number[i] then at, stacked[i] = at + 1, taken[at + 1] end
  end
  local loss, weight = taken[1], batch.sample_weight
  return (weight:to(loss.dtype) * loss):sum(), examples.average(stacked, n_aux, weight)
end

return weighted
