-- nn_norm.lua: layers that normalize: batch norm with its running statistics in buffers, layer norm, group norm, an
-- embedding with a norm. Weight 1 and bias 0 to begin with, and names as in PyTorch.

local call = require "perigee.nn_call"
local coded = require "perigee.coded"
local core = require "perigee.core"
local init = require "perigee.nn_init"
local layer_functions = require "perigee.layer_functions"
local module = require "perigee.nn_module"
local nn_options = require "perigee.nn_options"
local text = require "perigee.tensor_text"

local check_size = nn_options.check_size
local functions = layer_functions.functions
local nn = {}

local function raise(format, ...)
  return core.raise(format:format(...))
end

-- Weight and bias of a norm, of one shape.
local function declare_affine(shape, affine)
  if not affine then return nil end
  return { { "weight", shape, init = 1 }, { "bias", shape, init = 0 } }
end

local function check_channel_axis(x, channels)
  local shape = x.shape
  if #shape < 2 then raise("input %s has %d axes, [batch, channels, …] expected", text.type(x), #shape) end
  if shape[2] ~= channels then
    raise("input %s has %d channels, %d expected", text.type(x), shape[2], channels)
  end
end

-- ---- batch norm ----

-- Running statistics moved towards those of a batch of n numbers per channel; the variance is unbiased there.
local function update_running(self, mean, var, momentum, n)
  self.running_mean = (1 - momentum) * self.running_mean + momentum * mean
  self.running_var = (1 - momentum) * self.running_var + momentum * n / (n - 1) * var
end

-- Running statistics moved towards those of each chunk of a batch, in order (means, vars: [chunks, channels]; numbers:
-- how many per channel in each), by one sum: chunk k of K has weight momentum (1 - momentum)^(K - k). given: how far
-- ctx says that they move, as for averages over batches; the chunks' average then counts as one batch.
local function update_by_chunks(self, means, vars, numbers, momentum, given)
  local count, weights, corrections, total = #numbers, {}, {}, given or 0
  for k, n in ipairs(numbers) do
    weights[k] = given and given / count or momentum * (1 - momentum) ^ (count - k)
    corrections[k] = weights[k] * n / (n - 1)
    if not given then total = total + weights[k] end
  end
  local function sum(stats, list) return (core.tensor(stats.dtype, { count, 1 }, list) * stats):sum(1) end
  self.running_mean = (1 - total) * self.running_mean + sum(means, weights)
  self.running_var = (1 - total) * self.running_var + sum(vars, corrections)
end

-- Whether ctx asks for the statistics of the batch, rather than the running ones.
local function is_by_batch(ctx)
  if ctx.batch_statistics ~= nil then return ctx.batch_statistics end
  return ctx.train
end

--- pg.nn.batch_norm(channels, { affine = true, momentum = 0.1, eps = 1e-5, ghost = 0 }): Batch norm of x [batch,
-- channels] or [batch, channels, height, width] (Ioffe and Szegedy 2015; torch.nn.BatchNorm1d and 2d). Parameters
-- weight and bias where affine; buffers running_mean and running_var. While training (ctx.train) it normalizes by the
-- statistics of the batch and, where ctx.buffers are given and ctx.update_buffers is not false, moves the running ones:
-- new = (1 - momentum) old + momentum batch (ctx.momentum, where given, in place of the layer's). Otherwise it
-- normalizes by the running statistics in ctx.buffers; also while training where ctx.batch_statistics is false, as it
-- is at a snapshot whose correction asks for that.
--   ghost: if not 0, ghost batch norm (Hoffer, Hubara & Soudry 2017, arXiv 1705.08741): the batch falls into chunks of
--     so many examples, in order, each normalized by its own statistics, and the running ones move once for each chunk,
--     in order, the short last one included; so large batches are normalized as small ones are. A last chunk with one
--     number per channel joins the one before. In micro-batches each piece falls into chunks.
function nn.batch_norm(channels, options)
  local owner = "pg.nn.batch_norm"
  check_size(owner, "channels", channels)
  local o = nn_options.read(owner, options, { affine = true, momentum = 0.1, eps = 1e-5, ghost = 0 })
  if o.ghost ~= 0 then check_size(owner, "ghost", o.ghost) end
  return module.new(owner, {
    takes_tensor = true,
    kind = ("batch_norm(%d%s)"):format(channels, o.ghost > 0 and ", ghost " .. o.ghost or ""),
    parameters = declare_affine({ channels }, o.affine),
    buffers = {
      { "running_mean", { channels }, init = 0, running = true },
      { "running_var", { channels }, init = 1, running = true },
    },
    forward = function(self, x, ctx)
      check_channel_axis(x, channels)
      local given = { weight = o.affine and self.weight or nil, bias = o.affine and self.bias or nil, eps = o.eps }
      if not is_by_batch(ctx) then
        given.mean, given.var = self.running_mean, self.running_var
        return (functions.batch_norm(x, given))
      end
      local n = x.size // channels
      if n < 2 then raise("input %s has one number per channel; training needs two for a variance", text.type(x)) end
      if o.ghost > 0 and x.shape[1] > o.ghost then
        if n // x.shape[1] * o.ghost < 2 then raise("chunks of one number per channel (ghost = 1) have no variance") end
        local y, means, vars, numbers = layer_functions.ghost_batch_norm(x, o.ghost, given)
        if call.keeps_buffers(self) then update_by_chunks(self, means, vars, numbers, o.momentum, ctx.momentum) end
        return y
      end
      local y, mean, var = functions.batch_norm(x, given)
      if call.keeps_buffers(self) then update_running(self, mean, var, ctx.momentum or o.momentum, n) end
      return y
    end,
  })
end

-- ---- layer and group norm ----

--- pg.nn.layer_norm(shape, { affine = true, eps = 1e-5 }): Standardized for each example over the last axes, of this
-- shape (a number for one axis); then times weight plus bias, of that shape.
function nn.layer_norm(shape, options)
  local owner = "pg.nn.layer_norm"
  if type(shape) ~= "table" then shape = { shape } end
  if #shape == 0 then raise("%s: the shape of the last axes is missing, as in (8) or ({ 8, 8 })", owner) end
  for _, extent in ipairs(shape) do check_size(owner, "an extent of the shape", extent) end
  local o = nn_options.read(owner, options, { affine = true, eps = 1e-5 })
  return module.new(owner, {
    takes_tensor = true,
    kind = ("layer_norm(%s)"):format(table.concat(shape, ", ")),
    parameters = declare_affine(shape, o.affine),
    forward = function(self, x)
      local last = { table.unpack(x.shape, math.max(1, x.ndim - #shape + 1)) }
      if table.concat(last, ",") ~= table.concat(shape, ",") then
        raise("input %s ends in [%s], [%s] expected", text.type(x), table.concat(last, ", "),
          table.concat(shape, ", "))
      end
      return functions.layer_norm(x, shape, { weight = o.affine and self.weight or nil,
        bias = o.affine and self.bias or nil, eps = o.eps })
    end,
  })
end

--- pg.nn.group_norm(groups, channels, { affine = true, eps = 1e-5 }): x [batch, channels, …] standardized for each
-- example over each of `groups` groups of channels; then times weight plus bias [channels].
function nn.group_norm(groups, channels, options)
  local owner = "pg.nn.group_norm"
  check_size(owner, "groups", groups)
  check_size(owner, "channels", channels)
  if channels % groups ~= 0 then
    raise("%s: %d channels cannot be divided into %d groups", owner, channels, groups)
  end
  local o = nn_options.read(owner, options, { affine = true, eps = 1e-5 })
  return module.new(owner, {
    takes_tensor = true,
    kind = ("group_norm(%d, %d)"):format(groups, channels),
    parameters = declare_affine({ channels }, o.affine),
    forward = function(self, x)
      check_channel_axis(x, channels)
      return functions.group_norm(x, groups, { weight = o.affine and self.weight or nil,
        bias = o.affine and self.bias or nil, eps = o.eps })
    end,
  })
end

-- ---- stable embedding ----

--- pg.nn.stable_embedding(n, dim, { init =, eps = 1e-5 }): Whole numbers [...] from 0 to n - 1 → rows [..., dim] of a
-- weight [n, dim], through a layer norm: the embedding of Dettmers et al. (2022, arXiv 2110.02861) for optimizers with
-- states of 8 bits. Positions are added behind it. The weight begins as pg.nn.init.glorot {} and is called
-- stable_weight, by which pg.wrapper.eight_bit knows it and keeps its states in 32 bits; norm_weight and norm_bias
-- [dim] are the layer norm's.
function nn.stable_embedding(n, dim, options)
  local owner = "pg.nn.stable_embedding"
  check_size(owner, "n", n)
  check_size(owner, "dim", dim)
  options = nn_options.check(owner, options, { "init", "eps" })
  return module.new(owner, {
    takes_tensor = true,
    kind = ("stable_embedding(%d, %d)"):format(n, dim),
    parameters = {
      { coded.STABLE, { n, dim }, init = options.init or init.public.glorot() },
      { "norm_weight", { dim }, init = 1 }, { "norm_bias", { dim }, init = 0 },
    },
    forward = function(self, x)
      return functions.layer_norm(functions.embedding(x, self[coded.STABLE]), { dim },
        { weight = self.norm_weight, bias = self.norm_bias, eps = options.eps })
    end,
  })
end

return nn
