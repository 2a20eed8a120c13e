-- nn_init.lua: pg.nn.init, the distributions that parameters begin with. An initializer stands in a layer's option
-- init, in a module's declaration of a parameter, or in model:init; a number is one, too, and so is a function (key,
-- shape, dtype) that returns a tensor. Formulas as in torch.nn.init. Fans: a declaration may give fan_in and fan_out;
-- else [in, out] for a matrix and [out, in, …] with the kernel's size for a convolution.

local core = require "perigee.core"
local draws = require "perigee.draws"
local names = require "perigee.names"
local nn_options = require "perigee.nn_options"
local options = require "perigee.options"

local init = {}

local Initializer = {}
Initializer.__name = "perigee.initializer"
Initializer.__index = Initializer

-- draw(key, shape, dtype, fans) → tensor; fans(): fan_in, fan_out. needs_matrix: undefined for fewer than two axes.
local function initializer(draw, needs_matrix)
  return setmetatable({ draw = draw, needs_matrix = needs_matrix }, Initializer)
end

-- ---- draws ----

local function filled(shape, dtype, value)
  return core.apply("full", { a = shape, dtype = dtype }, value)
end

local function uniform_draw(key, shape, dtype, bound)
  return (core.apply("uniform", { a = shape, dtype = dtype }, key) * 2 - 1) * bound
end

local function normal_draw(key, shape, dtype, std)
  return core.apply("normal", { a = shape, dtype = dtype }, key) * std
end

local function product(shape, first)
  local n = 1
  for i = first, #shape do n = n * shape[i] end
  return n
end

-- fan_in, fan_out of a declared tensor.
local function fans_of(declared)
  local shape = declared.shape
  local fan_in, fan_out = shape[1], shape[2]
  if #shape > 2 then
    local kernel = product(shape, 3)
    fan_in, fan_out = shape[2] * kernel, shape[1] * kernel
  end
  return declared.fan_in or fan_in or 1, declared.fan_out or fan_out or 1
end

-- What a tensor without an initializer gets: torch.nn.Linear's and torch.nn.Conv2d's uniform in +-1/sqrt(fan_in); zeros
-- where there is only one axis and no fan_in.
local function draw_default(key, dtype, declared)
  if #declared.shape < 2 and not declared.fan_in then return filled(declared.shape, dtype, 0) end
  return uniform_draw(key, declared.shape, dtype, fans_of(declared) ^ -0.5)
end

local function same_shape(a, b)
  return #a == #b and table.concat(a, ",") == table.concat(b, ",")
end

-- Raise unless x is what a parameter may begin with. label: whose it is, for messages.
function init.check(label, x)
  if type(x) ~= "number" and type(x) ~= "function" and getmetatable(x) ~= Initializer then
    core.raise(("%s: an initializer is a number, a function, or one of pg.nn.init, not %s"):format(label,
      names.describe(x)))
  end
  for maker, f in next, init.public do
    if x == f then core.raise(("%s: pg.nn.init.%s is to be called: pg.nn.init.%s(…)"):format(label, maker, maker)) end
  end
end

-- Whether this initializer is for two axes and more only.
function init.needs_matrix(x)
  return getmetatable(x) == Initializer and x.needs_matrix or false
end

-- The first value of the tensor `name`. chosen: instead of the declaration's own initializer.
function init.draw(name, chosen, key, dtype, declared)
  local how, shape = chosen or declared.init, declared.shape
  if how == nil then return draw_default(key, dtype, declared) end
  if type(how) == "number" then return filled(shape, dtype, how) end
  local tensor
  if type(how) == "function" then
    tensor = how(key, { table.unpack(shape) }, dtype)
  else
    if how.needs_matrix and #shape < 2 then
      core.raise(("'%s' of shape [%s]: this initializer is for tensors of two axes or more"):format(name,
        table.concat(shape, ", ")))
    end
    tensor = how.draw(key, shape, dtype, function() return fans_of(declared) end)
  end
  if not core.is_tensor(tensor) or tensor.dtype ~= dtype or not same_shape(tensor.shape, shape) then
    core.raise(("'%s': the initializer must return a %s tensor of shape [%s]"):format(name, dtype,
      table.concat(shape, ", ")))
  end
  return tensor
end

-- ---- the distributions ----

local public = {}

local function read_options(name, given, defaults)
  return nn_options.read("pg.nn.init." .. name, given, defaults)
end

local function read_choice(name, key, value, known)
  for _, choice in ipairs(known) do
    if choice == value then return value end
  end
  return core.raise(("pg.nn.init.%s: %s '%s' is unknown%s (known: %s)"):format(name, key, value,
    options.hint(value, known), table.concat(known, ", ")))
end

--- pg.nn.init.zeros(): All 0.
function public.zeros() return initializer(function(_, shape, dtype) return filled(shape, dtype, 0) end) end

--- pg.nn.init.ones(): All 1.
function public.ones() return initializer(function(_, shape, dtype) return filled(shape, dtype, 1) end) end

--- pg.nn.init.constant(value): All the same; the number by itself does as well.
function public.constant(value)
  if type(value) ~= "number" then core.raise("pg.nn.init.constant takes a number, not a " .. type(value)) end
  return initializer(function(_, shape, dtype) return filled(shape, dtype, value) end)
end

--- pg.nn.init.uniform { low = -1, high = 1 }: Uniform in [low, high).
function public.uniform(given)
  local o = read_options("uniform", given, { low = -1, high = 1 })
  return initializer(function(key, shape, dtype)
    return core.apply("uniform", { a = shape, dtype = dtype }, key) * (o.high - o.low) + o.low
  end)
end

--- pg.nn.init.normal { mean = 0, std = 1 }: Normal.
function public.normal(given)
  local o = read_options("normal", given, { mean = 0, std = 1 })
  return initializer(function(key, shape, dtype) return normal_draw(key, shape, dtype, o.std) + o.mean end)
end

--- pg.nn.init.truncated_normal { mean = 0, std = 1, low = -2, high = 2 }: normal, given that it falls into [low, high]
-- (bounds of the values, not multiples of std; as torch.nn.init.trunc_normal_).
function public.truncated_normal(given)
  local o = read_options("truncated_normal", given, { mean = 0, std = 1, low = -2, high = 2 })
  draws.check_truncation("pg.nn.init.truncated_normal", o)
  return initializer(function(key, shape, dtype) return draws.truncated_normal(key, shape, dtype, o) end)
end

-- A draw of standard deviation std: normal, or uniform in +-sqrt(3) std.
local function spread_draw(distribution, key, shape, dtype, std)
  if distribution == "normal" then return normal_draw(key, shape, dtype, std) end
  return uniform_draw(key, shape, dtype, 3 ^ 0.5 * std)
end

local DISTRIBUTIONS, MODES = { "normal", "uniform" }, { "fan_in", "fan_out" }

local GAINS = {
  linear = function() return 1 end,
  sigmoid = function() return 1 end,
  tanh = function() return 5 / 3 end,
  relu = function() return 2 ^ 0.5 end,
  leaky_relu = function(slope) return (2 / (1 + slope ^ 2)) ^ 0.5 end,
}

--- pg.nn.init.he { distribution = "normal", mode = "fan_in", nonlinearity = "relu", slope = 0.01 }: Standard deviation
-- gain / sqrt(fan), where the gain is sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 5/3 for tanh, 1 for
-- sigmoid and linear. distribution: normal or uniform; mode: fan_in or fan_out. He et al. (2015); PyTorch's kaiming_*.
function public.he(given)
  local o = read_options("he", given, { distribution = "normal", mode = "fan_in", nonlinearity = "relu", slope = 0.01 })
  read_choice("he", "distribution", o.distribution, DISTRIBUTIONS)
  read_choice("he", "mode", o.mode, MODES)
  local gain = GAINS[read_choice("he", "nonlinearity", o.nonlinearity, names.sorted(GAINS))](o.slope)
  return initializer(function(key, shape, dtype, fans)
    local fan_in, fan_out = fans()
    local fan = o.mode == "fan_in" and fan_in or fan_out
    return spread_draw(o.distribution, key, shape, dtype, gain / fan ^ 0.5)
  end, true)
end

--- pg.nn.init.glorot { distribution = "uniform", gain = 1 }: Standard deviation gain sqrt(2 / (fan_in + fan_out)).
-- Glorot and Bengio (2010); PyTorch's xavier_*.
function public.glorot(given)
  local o = read_options("glorot", given, { distribution = "uniform", gain = 1 })
  read_choice("glorot", "distribution", o.distribution, DISTRIBUTIONS)
  return initializer(function(key, shape, dtype, fans)
    local fan_in, fan_out = fans()
    return spread_draw(o.distribution, key, shape, dtype, o.gain * (2 / (fan_in + fan_out)) ^ 0.5)
  end, true)
end

-- The orthogonal matrix nearest to z [m, n], m >= n: z (z'z)^(-1/2), by Newton's iteration x (3 - x'x) / 2, which
-- brings all singular values from (0, sqrt 3) to 1. Of Gaussian z it is uniform among the orthonormal frames, as Q of a
-- QR decomposition with signs fixed is.
local function polar(z)
  local n = z.shape[2]
  local identity = core.apply("eye", { a = { n }, dtype = "f64" })
  local x = z / z:norm()
  for _ = 1, 200 do
    local gram = x:t():matmul(x)
    if (gram - identity):abs():max():item() < 1e-13 * n then return x end
    x = x:matmul((identity * 3 - gram) / 2)
  end
  return core.raise("pg.nn.init.orthogonal: this draw has no orthogonal matrix near it; use another key")
end

--- pg.nn.init.orthogonal { gain = 1 }: Gain times a matrix with orthonormal columns (rows, where it is wider than
-- tall), uniform among all of them. A convolution's weight [out, in, kh, kw] counts as [out, in kh kw]. Saxe et al.
-- (2014).
function public.orthogonal(given)
  local o = read_options("orthogonal", given, { gain = 1 })
  return initializer(function(key, shape, dtype)
    local rows, columns = shape[1], product(shape, 2)
    local z = normal_draw(key, { rows, columns }, "f64", 1)
    local q = rows >= columns and polar(z) or polar(z:t()):t()
    return (q * o.gain):reshape(shape):to(dtype)
  end, true)
end

init.public = public

return init
