-- keys.lua: random keys and draws. A draw depends on nothing but its key and the logical index of each element.
local core = require "perigee.core"
local names = require "perigee.names"
local check = require "perigee.tensor_args"

local apply, is_tensor, methods, raise = core.apply, core.is_tensor, core.methods, check.raise
local check_key = check.check_key
local M = {}

--- pg.key(seed) → key: A random key from a whole number or a string. All randomness comes from keys, and a draw
-- depends on its key and the logical index of each element alone (Philox 4x32-10, Salmon et al. 2011).
function M.key(seed)
  return core.key(seed)
end

-- 64-bit numbers do not fit into the doubles that traces bake in, so those travel as captured tensors, one for each.
local constants = setmetatable({}, { __mode = "v" })

local function constant(data)
  local t = constants[data]
  if not t then
    t = core.tensor("i64", {}, { data })
    constants[data] = t
  end
  return t
end

--- tensor:fold(data): An independent key for each value: key:fold("dropout"), key:fold(i), or key:fold(tensor of
-- integers), which gives a tensor of keys.
function methods.fold(key, data)
  check_key("fold", key)
  if is_tensor(data) then return apply("key_fold", nil, key, data) end
  if not key.traced then return key:fold_constant(data) end
  return apply("key_fold", nil, key, constant(core.fold_data(data)))
end

--- tensor:split([n = 2]): n independent keys from one: local a, b = key:split(2).
function methods.split(key, n)
  local base, keys = methods.fold(key, "split"), {}
  n = n or 2
  for i = 1, n do keys[i] = methods.fold(base, i - 1) end
  return table.unpack(keys, 1, n)
end

--- tensor:keys(n): One tensor of n keys, [n]: what split gives, side by side.
function methods.keys(key, n)
  return apply("key_fold", nil, methods.fold(key, "split"), apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }))
end

-- what: the function that is asked; name: the engine's; more: names of its further options.
local function draw(what, name, key, shape, opts, more)
  check_key(what, key)
  local dtype = check.dtype_of(what, opts, "f32", more)
  if core.is_layout(shape) then return apply(name, { layout = shape, dtype = dtype }, key) end
  return apply(name, { a = check.shape_of(what, shape or {}), dtype = dtype }, key)
end

--- pg.randn(key [, shape [, dtype = "f32"]]): Standard normal numbers. A layout in place of the shape gives a vector.
function M.randn(key, shape, opts) return draw("randn", "normal", key, shape, opts) end

--- pg.uniform(key [, shape [, { low = 0, high = 1, dtype = "f32" }]]): Uniform numbers from [low, high). A layout in
-- place of the shape gives a vector; a dtype may stand in place of the options.
function M.uniform(key, shape, opts)
  local u = draw("uniform", "uniform", key, shape, opts, { "low", "high" })
  if type(opts) ~= "table" or not (opts.low or opts.high) then return u end
  local low, high = opts.low or 0, opts.high or 1
  return u * (high - low) + low
end

--- pg.bernoulli(key, p [, shape]): A mask that holds with probability p, a number or a tensor, whose shape it then
-- takes.
function M.bernoulli(key, p, shape)
  if shape == nil and is_tensor(p) then shape = p.shape end
  if not is_tensor(p) and type(p) ~= "number" then
    raise("bernoulli: a key, a probability and a shape were expected; the probability is %s", names.describe(p))
  end
  return draw("bernoulli", "uniform", key, shape):lt(p)
end

--- pg.permutation(key, n): 0 … n - 1 in random order, i64 [n].
function M.permutation(key, n)
  check_key("permutation", key)
  return apply("permutation", { a = { check.check_count("permutation", n) } }, key)
end

--- pg.dropout(x, key, rate), tensor:dropout(key, rate): x with a share `rate` of its elements zeroed and the rest
-- scaled by 1 / (1 - rate). The key is one for all of x, or one for each entry of its leading axes.
function M.dropout(x, key, rate)
  check_key("dropout", key, "second")
  if type(rate) ~= "number" or rate < 0 or rate >= 1 then
    raise("dropout: the rate is a number in [0, 1), got %s", names.describe(rate))
  end
  if rate == 0 then return x end
  return apply("dropout", { x = rate }, x, key)
end
methods.dropout = M.dropout

return M
