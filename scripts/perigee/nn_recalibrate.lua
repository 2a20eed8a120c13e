-- nn_recalibrate.lua: pg.nn.recalibrate, running statistics averaged anew at fixed parameters. Training leaves an
-- average over the points it went through, by batches of the last steps; what prediction wants belongs to one point.

local buffers = require "perigee.buffers"
local core = require "perigee.core"
local module = require "perigee.nn_module"
local names = require "perigee.names"
local nn_options = require "perigee.nn_options"
local transform = require "perigee.transform"

local nn = {}
local OWNER = "pg.nn.recalibrate"

local function call_model(model, theta, batch, ctx)
  return model(theta, batch.x, ctx)
end

-- Where a running average begins; all other buffers as they are given.
local function begin_anew(model, given)
  local fresh, layout = given:copy(), model.buffer_layout
  local initial = model:init_buffers(given.dtype)
  for i, entry in ipairs(model.tree.buffers) do
    if entry.declared.running then fresh:segment_set(i, initial[layout[i].name]) end
  end
  return fresh
end

-- `given` with the running averages replaced by these sums over `count` batches.
local function finish(model, given, sums, count)
  local result, layout = given:copy(), model.buffer_layout
  for i, entry in ipairs(model.tree.buffers) do
    if entry.declared.running then
      result:segment_set(i, (sums[layout[i].name] / count):to(given.dtype))
    end
  end
  return result
end

local function source_of(data, size, key, dtype)
  local meta = getmetatable(data)
  if meta and meta.__name == "perigee.split" then
    return require("perigee.sampler").shuffled(data, size, key, { dtype = dtype })
  elseif type(data) ~= "table" or not data.batches or not data.n then
    core.raise(("%s: a split, as data.train, or a source of batches was expected fourth, not %s"):format(OWNER,
      names.describe(data)))
  end
  return data
end

--- pg.nn.recalibrate(model, theta, buffers, data [, { batches =, batch = 128, key = pg.key(0), loss = }]) → buffers:
-- The running statistics of batch norm at parameters theta: the plain averages over batches of each batch's mean and
-- unbiased variance, as PyTorch's momentum = None and torch.optim.swa_utils.update_bn make them. For parameters that no
-- step has seen, averages of several runs or points of a posterior, and after training, whose running statistics lag
-- behind the last steps. Nothing that is given changes; buffers that are no running averages are taken over.
--   data: a split (data.train), or a source as evaluators have; batches come in an order drawn from key.
--   batches, batch: how many batches (default: all the data), of how many examples; the short last one counts like any.
--   loss: what calls the model, (model, theta, batch, ctx), as pg.train's; default model(theta, batch.x, ctx). Dropout
--     and augmentation act as in training, by keys folded from key with the examples' ids.
function nn.recalibrate(model, theta, given, data, opts)
  module.check(OWNER, model)
  local o = nn_options.check(OWNER, opts, { "batches", "batch", "key", "loss" })
  local size, key, loss = o.batch or 128, o.key or core.key(0), o.loss or call_model
  nn_options.check_size(OWNER, "batch", size)
  if o.batches then nn_options.check_size(OWNER, "batches", o.batches) end
  if not buffers.has(model) then core.raise(OWNER .. ": the model keeps no buffers, so there is nothing to average") end
  buffers.check(model, given, OWNER .. "(model, theta, run.buffers, data)")
  local source = source_of(data, size, key:fold("order"), theta.dtype)
  local fresh, sums, count = begin_anew(model, given), core.vector(model.buffer_layout, "f64"), 0
  local examine = transform.jit(function(at, batch)
    local ctx = { train = true, buffers = fresh, momentum = 1, key = batch.id and key:fold(batch.id) or key }
    loss(model, at, batch, ctx)
    return buffers.take(ctx) or fresh
  end)
  local order = { count = o.batches or (source.n + size - 1) // size, key = key:fold("batches") }
  for _, batch in source:batches(size, order) do
    sums = sums + core.apply("cast", { dtype = "f64" }, examine(theta, batch))
    count = count + 1
  end
  return finish(model, given, sums, count)
end

return nn
