-- keys.lua: random keys and draws. A draw depends on nothing but its key and the logical index of each element.
local core = require "perigee.core"
local tensor = require "perigee.tensor"

local apply, is_tensor, methods, raise = core.apply, core.is_tensor, core.methods, tensor.raise
local M = {}

-- pg.key(seed)
function M.key(seed)
  return core.key(seed)
end

local function check_key(what, key)
  if not is_tensor(key) or key.dtype ~= "key" then
    raise("%s: a key was expected first (pg.key(seed)), got %s", what, is_tensor(key) and key.dtype or type(key))
  end
  return key
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

-- key:fold("dropout"), key:fold(i), key:fold(tensor of integers): an independent key for each value.
function methods.fold(key, data)
  check_key("fold", key)
  if is_tensor(data) then return apply("key_fold", nil, key, data) end
  if not key.traced then return key:fold_constant(data) end
  return apply("key_fold", nil, key, constant(core.fold_data(data)))
end

-- local a, b = key:split(2)
function methods.split(key, n)
  local base, keys = methods.fold(key, "split"), {}
  n = n or 2
  for i = 1, n do keys[i] = methods.fold(base, i - 1) end
  return table.unpack(keys, 1, n)
end

-- One tensor of n keys: what split gives, side by side.
function methods.keys(key, n)
  return apply("key_fold", nil, methods.fold(key, "split"), apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }))
end

local function draw(name, key, shape, opts)
  check_key(name, key)
  local dtype = tensor.dtype_of(opts, "f32")
  if core.is_layout(shape) then return apply(name, { layout = shape, dtype = dtype }, key) end
  return apply(name, { a = tensor.shape_of(name, shape or {}), dtype = dtype }, key)
end

-- Standard normals: pg.randn(key, shape, dtype). A layout in place of the shape gives a vector.
function M.randn(key, shape, opts) return draw("normal", key, shape, opts) end

-- Uniform in [low, high), [0, 1) by default: pg.uniform(key, shape, {low =, high =, dtype =}).
function M.uniform(key, shape, opts)
  local u = draw("uniform", key, shape, opts)
  if type(opts) ~= "table" or not (opts.low or opts.high) then return u end
  local low, high = opts.low or 0, opts.high or 1
  return u * (high - low) + low
end

-- A mask that holds with probability p.
function M.bernoulli(key, p, shape)
  if shape == nil and is_tensor(p) then shape = p.shape end
  return draw("uniform", key, shape):lt(p)
end

-- Draws from softmax(logits) along the last axis → i64 indices from 0, by the Gumbel trick.
function M.categorical(key, logits)
  local u = draw("uniform", key, logits.shape, logits.dtype)
  local gumbel = -(-(u:maximum(1e-30):log())):log()
  return methods.argmax(logits + gumbel, -1)
end

-- 0 … n-1 in random order, i64.
function M.permutation(key, n)
  return apply("permutation", { a = { n } }, check_key("permutation", key))
end

-- k of 0 … n-1 without replacement, or with replacement where opts.replace.
function M.choice(key, n, k, opts)
  if opts and opts.replace then
    return (draw("uniform", key, { k }, "f64") * n):floor():minimum(n - 1):to("i64")
  end
  return M.permutation(key, n):slice({ 1, k })
end

-- x with a share `rate` of its elements zeroed and the rest scaled up. The key is one for all of x, or one per entry
-- of its leading axes.
function M.dropout(x, key, rate)
  if rate == 0 then return x end
  return apply("dropout", { x = rate }, x, check_key("dropout", key))
end
methods.dropout = M.dropout

return M
