-- layer_functions.lua: what layers compute, as functions of pg: linear, convolution, pooling, normalization,
-- embedding. Shapes are PyTorch's: images [batch, channels, height, width]. No mathematics here but the sentences that
-- norms consist of; per-channel work goes through the engine's channel_* functions, because inside a plan images lie
-- batch-innermost.

local core = require "perigee.core"
local nn_options = require "perigee.nn_options"
local check = require "perigee.tensor_args"
local text = require "perigee.tensor_text"

local apply, raise = core.apply, check.raise
local F = {}
local M = { functions = F }

-- ---- linear, convolution and pooling ----

--- pg.linear(x, w, { bias = }) → [..., out]: x [..., in] times w [in, out], plus a bias [out].
function F.linear(x, w, options)
  check.check_tensor("linear", x)
  check.check_tensor("linear", w)
  local bias = nn_options.check("pg.linear", options, { "bias" }).bias
  local shape = w.shape
  if #shape ~= 2 or x.shape[x.ndim] ~= shape[1] then
    raise("linear: x [..., in] and w [in, out] were expected, got %s and %s", text.type(x), text.type(w))
  end
  local y = apply("matmul", nil, x, w)
  return bias and y + bias or y
end

local CONVOLUTION = { "bias", "stride", "pad", "dilation", "groups" }

--- pg.conv2d(x, w, { bias =, stride = 1, pad = 0, dilation = 1, groups = 1 }) → [batch, out, height, width]: the
-- cross-correlation of x [batch, in, height, width] with w [out, in / groups, kh, kw], plus a bias [out]. Options but
-- bias and groups are numbers or pairs { height, width }. pad = "same", for odd windows, makes the result as large as x
-- (with a stride: x's extent divided by it, rounded up). groups = in = out is a depthwise convolution.
function F.conv2d(x, w, options)
  check.check_tensor("conv2d", x)
  check.check_tensor("conv2d", w)
  options = nn_options.check("pg.conv2d", options, CONVOLUTION)
  local shape = w.shape
  return M.convolve(x, w, options.bias, nn_options.geometry("pg.conv2d", options, shape[3] or 1, shape[4] or 1))
end

-- With the engine's geometry (nn_options.lua).
function M.convolve(x, w, bias, geometry)
  if bias then return apply("conv2d", { a = geometry }, x, w, bias) end
  return apply("conv2d", { a = geometry }, x, w)
end

-- size, { h, w } or { size =, stride =, pad = } → the engine's window, and the options.
local function read_pooling(owner, options, known)
  if type(options) ~= "table" or options[1] then options = { size = options } end
  nn_options.check(owner, options, known)
  return nn_options.window(owner, options.size, options), options
end

--- pg.max_pool2d(x, { size =, stride = size, pad = 0 }): The largest of each window of x [batch, channels, height,
-- width]. Each option is a number or a pair { height, width }; a size alone may stand for the table.
function F.max_pool2d(x, options)
  check.check_tensor("max_pool2d", x)
  return apply("max_pool2d", { a = (read_pooling("pg.max_pool2d", options, { "size", "stride", "pad" })) }, x)
end

--- pg.avg_pool2d(x, { size =, stride = size, pad = 0, count_include_pad = true }): The mean of each window of x [batch,
-- channels, height, width]; options as for pg.max_pool2d. With count_include_pad = false, padding is not counted.
function F.avg_pool2d(x, options)
  check.check_tensor("avg_pool2d", x)
  local window, o = read_pooling("pg.avg_pool2d", options, { "size", "stride", "pad", "count_include_pad" })
  return apply("avg_pool2d", { a = window, flags = o.count_include_pad == false and 1 or 0 }, x)
end

-- ---- normalization ----

local EPS = 1e-5

local function zeros(n, dtype)
  return apply("full", { a = { n }, dtype = dtype }, 0)
end

--- pg.batch_norm(x, { weight =, bias =, mean =, var =, eps = 1e-5 }) → y, mean, var: Each channel (axis 2) of x [batch,
-- channels, …] less its mean, over sqrt(var + eps), times weight plus bias [channels]. mean and var (of a population)
-- are the batch's unless given; they come back as they were used.
function F.batch_norm(x, options)
  check.check_tensor("batch_norm", x)
  options = nn_options.check("pg.batch_norm", options, { "weight", "bias", "mean", "var", "eps" })
  if x.ndim < 2 then raise("batch_norm: [batch, channels, …] was expected, got %s", text.type(x)) end
  local mean = options.mean or apply("channel_mean", nil, x)
  local var = options.var or apply("channel_var", nil, x)
  local scale = (var + (options.eps or EPS)):rsqrt()
  if options.weight then scale = scale * options.weight end
  local shift = options.bias or zeros(x.shape[2], x.dtype)
  return apply("channel_normalize", nil, x, mean, scale, shift), mean, var
end

-- How many chunks of `size` examples a batch of n with `width` numbers for each example and channel falls into, and the
-- size of a short last one (0: none). A last one with a single number per channel, which has no variance, joins the one
-- before it: then there is one whole chunk less.
local function cut_chunks(n, size, width)
  local count, rest = n // size, n % size
  if rest * width == 1 then count, rest = count - 1, rest + size end
  return count, rest
end

-- Batch norm of `count` chunks of `size` examples, each by its own statistics: y, means, variances [count, channels].
local function norm_whole_chunks(x, count, size, o)
  local shape, channels = x.shape, x.shape[2]
  local grouped = x:reshape { count, size, channels, x.size // (count * size * channels) }
  local mean = grouped:mean({ 2, 4 }, { keepdims = true })
  local centered = grouped - mean
  local var = (centered * centered):mean({ 2, 4 }, { keepdims = true })
  local y = centered * (var + (o.eps or EPS)):rsqrt()
  if o.weight then y = y * o.weight:reshape(channels, 1) end
  if o.bias then y = y + o.bias:reshape(channels, 1) end
  return y:reshape(shape), mean:reshape(count, channels), var:reshape(count, channels)
end

-- Ghost batch norm: the batch in chunks of `size` examples, each normalized by its own statistics. o: weight, bias,
-- eps. Returns y, means and variances [chunks, channels], and the numbers per channel in each chunk, a list.
function M.ghost_batch_norm(x, size, o)
  local n, channels = x.shape[1], x.shape[2]
  local width = x.size // (n * channels)
  local count, rest = cut_chunks(n, size, width)
  local numbers = {}
  for i = 1, count do numbers[i] = size * width end
  if rest == 0 then
    local y, mean, var = norm_whole_chunks(x, count, size, o)
    return y, mean, var, numbers
  end
  numbers[count + 1] = rest * width
  local y, mean, var = F.batch_norm(x:slice { n - rest + 1, n }, o)
  mean, var = mean:reshape(1, channels), var:reshape(1, channels)
  if count == 0 then return y, mean, var, numbers end
  local ys, means, vars = norm_whole_chunks(x:slice { 1, n - rest }, count, size, o)
  local function join(a, b) return apply("concat", { a = { 0 } }, a, b) end
  return join(ys, y), join(means, mean), join(vars, var), numbers
end

-- x less its mean over these axes (from 1), divided by its standard deviation.
local function standardize(x, axes, eps)
  local centered = x - x:mean(axes, { keepdims = true })
  return centered * ((centered * centered):mean(axes, { keepdims = true }) + eps):rsqrt()
end

--- pg.layer_norm(x, shape, { weight =, bias =, eps = 1e-5 }): x standardized over its last axes, which have this shape
-- (a number for one axis), times weight plus bias, both of that shape.
function F.layer_norm(x, shape, options)
  check.check_tensor("layer_norm", x)
  options = nn_options.check("pg.layer_norm", options, { "weight", "bias", "eps" })
  if type(shape) == "number" then shape = { shape } end
  if type(shape) ~= "table" or #shape == 0 then
    raise("layer_norm: the shape of the last axes is missing, as in (x, { 8, 8 })")
  end
  local whole, axes = x.shape, {}
  for i = 1, #shape do
    axes[i] = #whole - #shape + i
    if whole[axes[i]] ~= shape[i] then
      raise("layer_norm: the last axes of %s are not [%s]", text.type(x), table.concat(shape, ", "))
    end
  end
  local y = standardize(x, axes, options.eps or EPS)
  if options.weight then y = y * options.weight end
  return options.bias and y + options.bias or y
end

--- pg.group_norm(x, groups, { weight =, bias =, eps = 1e-5 }): x [batch, channels, …] standardized for each example
-- over each group of neighbouring channels, times weight plus bias [channels].
function F.group_norm(x, groups, options)
  check.check_tensor("group_norm", x)
  options = nn_options.check("pg.group_norm", options, { "weight", "bias", "eps" })
  local shape = x.shape
  if #shape < 2 or math.type(groups) ~= "integer" or groups < 1 or shape[2] % groups ~= 0 then
    raise("group_norm: the channels of %s cannot be divided into %s groups", text.type(x), tostring(groups))
  end
  local grouped = x:reshape { shape[1], groups, x.size // (shape[1] * groups) }
  local y = standardize(grouped, { 3 }, options.eps or EPS):reshape(shape)
  if not (options.weight or options.bias) then return y end
  local none = zeros(shape[2], x.dtype)
  return apply("channel_normalize", nil, y, none, options.weight or none + 1, options.bias or none)
end

-- ---- embedding ----

local INTEGERS = { i64 = true, i32 = true, u8 = true }

--- pg.embedding(indices, weight) → [..., dim]: The rows of weight [n, dim] at whole numbers [...] that count from
-- 0. One out of range is an error; where the function was traced, and values are not known, it stands for the nearest.
function F.embedding(indices, weight)
  check.check_tensor("embedding", indices)
  check.check_tensor("embedding", weight)
  if not INTEGERS[indices.dtype] then
    raise("embedding: indices are whole numbers (i64, i32, u8), got %s", text.type(indices))
  elseif weight.ndim ~= 2 then
    raise("embedding: the weight is [n, dim], got %s", text.type(weight))
  end
  check.check_range("embedding: index", indices, weight.shape[1], "of the rows")
  return apply("gather", { a = { 0 } }, weight, indices)
end

return M
