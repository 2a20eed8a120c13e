-- nn_layers.lua: layers without statistics: linear, convolution, pooling, embedding, dropout, activations, flatten.
-- Each checks its input and says what would fit; the path of the layer is put in front by nn_call.lua. Initial values
-- are PyTorch's.
--
-- A linear layer's weight is [in, out]: the forward product x W and both of its derivatives then read W as it lies. A
-- convolution's is [out, in / groups, kh, kw], as PyTorch's.

local core = require "perigee.core"
local functions = require "perigee.layer_functions"
local init = require "perigee.nn_init"
local module = require "perigee.nn_module"
local nn_options = require "perigee.nn_options"
local text = require "perigee.tensor_text"

local check_options, check_size = nn_options.check, nn_options.check_size
local nn = {}

local function raise(format, ...)
  return core.raise(format:format(...))
end

-- A layer whose input is one tensor.
local function layer(owner, spec)
  spec.takes_tensor = true
  return module.new(owner, spec)
end

-- The declaration of a bias of fan_in inputs for the option: true (nil) for the default, false for none, else how it
-- begins.
local function declare_bias(option, size, fan_in)
  if option == false then return nil end
  if option == true then option = nil end
  return { "bias", { size }, init = option, fan_in = fan_in }
end

-- ---- linear ----

local function check_linear_input(x, inputs, outputs)
  local shape = x.shape
  local got = shape[#shape]
  if got == inputs then return end
  local rest = 1
  for i = 2, #shape do rest = rest * shape[i] end
  local hint = ""
  if #shape > 2 and rest == inputs then
    hint = "; put pg.nn.flatten() before it"
  elseif #shape > 2 then
    hint = ("; after pg.nn.flatten() it would have %d: linear(%d, %d)"):format(rest, rest, outputs)
  elseif #shape == 2 then
    hint = (": linear(%d, %d) would fit"):format(got, outputs)
  end
  raise("input %s has %s features in its last axis, %d expected%s", text.type(x), got or "no", inputs, hint)
end

--- pg.nn.linear(inputs, outputs, { bias = true, init = }): x [..., inputs] W + b, with W [inputs, outputs] (the
-- transpose of PyTorch's). Both begin uniform in +-1/sqrt(inputs); init: another initializer for W. bias: false for
-- none, or how it begins.
function nn.linear(inputs, outputs, options)
  local owner = "pg.nn.linear"
  check_size(owner, "inputs", inputs)
  check_size(owner, "outputs", outputs)
  options = check_options(owner, options, { "bias", "init" })
  local bias = declare_bias(options.bias, outputs, inputs)
  return layer(owner, {
    kind = ("linear(%d, %d%s)"):format(inputs, outputs, bias and "" or ", no bias"),
    parameters = { { "weight", { inputs, outputs }, init = options.init }, bias },
    forward = function(self, x)
      check_linear_input(x, inputs, outputs)
      local y = core.apply("matmul", nil, x, self.weight)
      return bias and y + self.bias or y
    end,
  })
end

-- ---- convolution and pooling ----

local AXES = "[batch, channels, height, width]"

-- An image batch; channels: how many, or nil for any number.
local function check_images(x, channels)
  local shape = x.shape
  if #shape ~= 4 then
    local hint = ""
    if #shape == 3 and channels == 1 and shape[1] ~= 1 then
      hint = "; x:unsqueeze(2) makes one channel"
    elseif #shape == 3 then
      hint = "; a single example becomes a batch by x:unsqueeze(1)"
    elseif #shape == 2 then
      hint = "; x:reshape { -1, channels, height, width } makes images of rows"
    end
    raise("input %s has %d axes, %s expected%s", text.type(x), #shape, AXES, hint)
  elseif channels and shape[2] ~= channels then
    local last = shape[4] == channels and ("; axes are %s"):format(AXES) or ""
    raise("input %s has %d channels, %d expected%s", text.type(x), shape[2], channels, last)
  end
end

-- That a window of extents h, w (dilated already) fits into the padded image.
local function check_window(x, what, h, w, pad_h, pad_w)
  local shape = x.shape
  if shape[3] + 2 * pad_h >= h and shape[4] + 2 * pad_w >= w then return end
  raise("input %s is smaller, with pad %d on each side, than the %s of %d x %d", text.type(x), math.max(pad_h, pad_w),
    what, h, w)
end

local function pair_text(h, w)
  return h == w and tostring(h) or ("%dx%d"):format(h, w)
end

-- ", pad 2" for { "pad", 2, 2, default }, and nothing for defaults.
local function option_text(list)
  local parts = {}
  for _, o in ipairs(list) do
    if o[2] ~= o[4] or o[3] ~= o[4] then parts[#parts + 1] = (", %s %s"):format(o[1], pair_text(o[2], o[3])) end
  end
  return table.concat(parts)
end

--- pg.nn.conv2d(inputs, outputs, size, { stride = 1, pad = 0, dilation = 1, groups = 1, bias = true, init = }): a
-- convolution of images [batch, inputs, height, width] → [batch, outputs, …], by a weight [outputs, inputs / groups,
-- size, size]. size, stride, pad and dilation are numbers or pairs { height, width }; pad = "same", for odd sizes,
-- keeps height and width (with a stride: divides them by it, rounded up). groups = inputs = outputs makes it depthwise.
-- Weight and bias begin uniform in +-1/sqrt(fan_in), fan_in = inputs / groups * size^2; init and bias as for
-- pg.nn.linear.
function nn.conv2d(inputs, outputs, size, options)
  local owner = "pg.nn.conv2d"
  check_size(owner, "inputs", inputs)
  check_size(owner, "outputs", outputs)
  options = check_options(owner, options, { "stride", "pad", "dilation", "groups", "bias", "init" })
  local kh, kw = nn_options.pair(owner, "size", size, 1)
  local geometry = nn_options.geometry(owner, options, kh, kw)
  local stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups = table.unpack(geometry)
  if inputs % groups ~= 0 or outputs % groups ~= 0 then
    raise("%s: %d inputs and %d outputs cannot both be divided into %d groups", owner, inputs, outputs, groups)
  end
  local fan_in = inputs // groups * kh * kw
  local bias = declare_bias(options.bias, outputs, fan_in)
  return layer(owner, {
    kind = ("conv2d(%d, %d, %s%s%s)"):format(inputs, outputs, pair_text(kh, kw), option_text {
      { "stride", stride_h, stride_w, 1 }, { "pad", pad_h, pad_w, 0 }, { "dilation", dilation_h, dilation_w, 1 },
      { "groups", groups, groups, 1 },
    }, bias and "" or ", no bias"),
    parameters = { { "weight", { outputs, inputs // groups, kh, kw }, init = options.init }, bias },
    forward = function(self, x)
      check_images(x, inputs)
      check_window(x, "kernel", (kh - 1) * dilation_h + 1, (kw - 1) * dilation_w + 1, pad_h, pad_w)
      return functions.convolve(x, self.weight, bias and self.bias, geometry)
    end,
  })
end

-- A pooling layer of the engine's function `name`.
local function pooling(name, size, options, flags)
  local window = nn_options.window("pg.nn." .. name, size, options)
  local kh, kw, stride_h, stride_w, pad_h, pad_w = table.unpack(window)
  local stride = (stride_h ~= kh or stride_w ~= kw) and ", stride " .. pair_text(stride_h, stride_w) or ""
  return layer("pg.nn." .. name, {
    kind = ("%s(%s%s%s)"):format(name, pair_text(kh, kw), stride, option_text { { "pad", pad_h, pad_w, 0 } }),
    forward = function(_, x)
      check_images(x)
      check_window(x, "window", kh, kw, pad_h, pad_w)
      return core.apply(name, { a = window, flags = flags }, x)
    end,
  })
end

--- pg.nn.max_pool2d(size, { stride = size, pad = 0 }): The largest of each window.
function nn.max_pool2d(size, options)
  return pooling("max_pool2d", size, check_options("pg.nn.max_pool2d", options, { "stride", "pad" }), 0)
end

--- pg.nn.avg_pool2d(size, { stride = size, pad = 0, count_include_pad = true }): The mean of each window.
function nn.avg_pool2d(size, options)
  options = check_options("pg.nn.avg_pool2d", options, { "stride", "pad", "count_include_pad" })
  return pooling("avg_pool2d", size, options, options.count_include_pad == false and 1 or 0)
end

--- pg.nn.global_avg_pool(): The mean of each channel's image: [batch, channels, height, width] → [batch, channels, 1,
-- 1], as torch.nn.AdaptiveAvgPool2d(1); pg.nn.flatten() makes [batch, channels] of it.
function nn.global_avg_pool()
  return layer("pg.nn.global_avg_pool", {
    kind = "global_avg_pool",
    forward = function(_, x)
      check_images(x)
      local h, w = x.shape[3], x.shape[4]
      return core.apply("avg_pool2d", { a = { h, w, h, w, 0, 0 } }, x)
    end,
  })
end

-- ---- embedding and dropout ----

--- pg.nn.embedding(n, dim, { init = }): Whole numbers [...] from 0 to n - 1 → rows [..., dim] of a weight [n, dim],
-- which begins standard normal.
function nn.embedding(n, dim, options)
  local owner = "pg.nn.embedding"
  check_size(owner, "n", n)
  check_size(owner, "dim", dim)
  options = check_options(owner, options, { "init" })
  return layer(owner, {
    kind = ("embedding(%d, %d)"):format(n, dim),
    parameters = { { "weight", { n, dim }, init = options.init or init.public.normal(), fan_in = dim, fan_out = n } },
    forward = function(self, x)
      return functions.functions.embedding(x, self.weight)
    end,
  })
end

--- pg.nn.dropout(rate): Zero each element with probability rate while training, and scale the rest by 1 / (1 - rate).
-- The mask is drawn from ctx.key (one key per example, where the batch has ids), folded with the layer's path.
function nn.dropout(rate)
  if type(rate) ~= "number" or not (rate >= 0 and rate < 1) then
    core.raise("pg.nn.dropout: the rate is a number in [0, 1)")
  end
  return layer("pg.nn.dropout", {
    kind = ("dropout(%g)"):format(rate),
    keeps_memory = true,
    forward = function(_, x, ctx)
      if rate == 0 or not ctx.train then return x end
      if not ctx.key then core.raise("dropout needs ctx.key while training") end
      return core.apply("dropout", { x = rate }, x, ctx.key)
    end,
  })
end

-- ---- without parameters ----

--- pg.nn.flatten(): [batch, …] → [batch, product of the rest].
function nn.flatten()
  return layer("pg.nn.flatten", {
    kind = "flatten",
    keeps_memory = true,
    forward = function(_, x)
      local shape, n = x.shape, 1
      for i = 2, #shape do n = n * shape[i] end
      if #shape == 0 then raise("input %s has no axes, [batch, …] expected", text.type(x)) end
      return core.apply("reshape", { a = { shape[1], n } }, x)
    end,
  })
end

--- pg.nn.identity(): x as it is.
function nn.identity()
  return layer("pg.nn.identity", {
    kind = "identity", keeps_memory = true, forward = function(_, x) return x end,
  })
end

local function activation(kind, name, attrs)
  return layer("pg.nn." .. name, {
    kind = kind, forward = function(_, x) return core.apply(name, attrs, x) end,
  })
end

-- A parameter of an activation that may be left out.
local function check_number(owner, what, value, default)
  if value == nil then return default end
  if type(value) ~= "number" then raise("pg.nn.%s: %s is a number, not a %s", owner, what, type(value)) end
  return value
end

--- pg.nn.relu(): max(x, 0).
function nn.relu() return activation("relu", "relu") end

--- pg.nn.tanh(): The hyperbolic tangent.
function nn.tanh() return activation("tanh", "tanh") end

--- pg.nn.sigmoid(): 1 / (1 + exp(-x)).
function nn.sigmoid() return activation("sigmoid", "sigmoid") end

--- pg.nn.gelu(): x times the standard normal distribution function of x, by erf.
function nn.gelu() return activation("gelu", "gelu") end

--- pg.nn.silu(): x sigmoid(x).
function nn.silu() return activation("silu", "silu") end

--- pg.nn.softplus(): log(1 + exp(x)).
function nn.softplus() return activation("softplus", "softplus") end

--- pg.nn.leaky_relu([slope]): x where positive, slope (0.01) times x elsewhere.
function nn.leaky_relu(slope)
  slope = check_number("leaky_relu", "slope", slope, 0.01)
  return activation(("leaky_relu(%g)"):format(slope), "leaky_relu", { x = slope })
end

--- pg.nn.elu([alpha]): x where positive, alpha (1) times (exp(x) - 1) elsewhere.
function nn.elu(alpha)
  alpha = check_number("elu", "alpha", alpha, 1)
  return activation(("elu(%g)"):format(alpha), "elu", { x = alpha })
end

local function along_last_axis(name)
  return layer("pg.nn." .. name, {
    kind = name, forward = function(_, x) return core.apply(name, { a = { x.ndim - 1 }, n = 1 }, x) end,
  })
end

--- pg.nn.softmax(): Along the last axis. (pg.cross_entropy takes logits, not this.)
function nn.softmax() return along_last_axis("softmax") end

--- pg.nn.log_softmax(): Along the last axis.
function nn.log_softmax() return along_last_axis("log_softmax") end

return nn
