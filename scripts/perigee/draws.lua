-- draws.lua: draws from distributions by keys: exponential, Laplace, gamma, beta, Dirichlet, Student's t, truncated
-- normal, categorical, and choices with weights. Each is a pure function of its key, the logical index of the element
-- and its parameters, whatever else is drawn; a tensor of keys [K…] gives the draws of each key, [K…, shape]. Where the
-- parameters are tensors, derivatives by them flow through the draw (pathwise).
local core = require "perigee.core"
local check = require "perigee.tensor_args"
local names = require "perigee.names"
local sorting = require("perigee.sorting").functions

local apply, is_tensor, raise = core.apply, core.is_tensor, check.raise
local M = {}

-- ---- shapes and parameters ----

local function join(first, second)
  local all = { table.unpack(first) }
  for _, extent in ipairs(second) do all[#all + 1] = extent end
  return all
end

-- What a draw looks like: { key =, shape = what each key draws, full = [K…, shape], dtype =, layout = or nil }. Without
-- a shape it is that of the first parameter.
local function plan(what, key, shape, opts, more, ...)
  check.check_key(what, key)
  local default, own = "f32", {}
  for i = 1, select("#", ...) do
    local x = select(i, ...)
    if type(x) ~= "number" and not is_tensor(x) then
      raise("%s: a parameter is a number or a tensor, not %s", what, names.describe(x))
    elseif is_tensor(x) and not x.weak then
      if x.layout or (x.dtype ~= "f32" and x.dtype ~= "f64") then
        raise("%s: a parameter is a tensor of f32 or f64, not %s", what, names.describe(x))
      end
      default = x.dtype
      if #x.shape > #own then own = x.shape end
    end
  end
  local d = { key = key, dtype = check.dtype_of(what, opts, default, more) }
  if core.is_layout(shape) then
    d.layout, d.shape = shape, { shape.size }
  else
    d.shape = check.shape_of(what, shape or own)
  end
  d.full = join(key.shape, d.shape)
  return d
end

-- A parameter over the whole draw.
local function spread(d, x)
  if type(x) == "number" or x.weak then return apply("full", { a = d.full, dtype = d.dtype }, x) end
  if x.dtype ~= d.dtype then x = x:to(d.dtype) end
  return apply("broadcast", { a = d.full }, x)
end

local function draw(d, name, label)
  return apply(name, { a = d.shape, dtype = d.dtype }, label and d.key:fold(label) or d.key)
end

local function log_gamma(d, alpha, label)
  return apply("log_gamma", nil, label and d.key:fold(label) or d.key, spread(d, alpha))
end

local function finish(d, x)
  return d.layout and apply("pack_flat", { layout = d.layout }, x) or x
end

-- ---- distributions ----

--- pg.exponential(key [, shape [, dtype = "f32"]]): Exponential numbers of mean 1; divide by a rate. A layout in place
-- of the shape gives a vector, here and below.
function M.exponential(key, shape, opts)
  local d = plan("exponential", key, shape, opts)
  return finish(d, -(-draw(d, "uniform")):log1p())
end

--- pg.laplace(key [, shape [, dtype = "f32"]]): Laplace (double exponential) numbers of scale 1: density exp(-|x|) / 2,
-- mean 0, variance 2.
function M.laplace(key, shape, opts)
  local d = plan("laplace", key, shape, opts)
  -- Uniform in (-1, 1), symmetric and never at an end: the middles of the intervals that 2 u - 1 begins.
  local v = draw(d, "uniform") * 2 - 1 + (d.dtype == "f64" and 0x1p-53 or 0x1p-24)
  return finish(d, -v:sign() * (-v:abs()):log1p())
end

--- pg.gamma(key, alpha [, shape [, { log = false, dtype = "f32" }]]): Gamma numbers of shape parameter alpha and scale
-- 1: mean and variance alpha. By Marsaglia & Tsang (2000).
-- alpha: above 0, a number or a tensor that broadcasts to the shape, whose shape is the default. log = true: their
-- logarithms, which do not underflow where alpha is small. First derivatives by alpha are implicit reparameterization
-- gradients (Figurnov et al. 2018, arXiv 1805.08498); there are no second ones.
function M.gamma(key, alpha, shape, opts)
  local d = plan("gamma", key, shape, opts, { "log" }, alpha)
  local x = log_gamma(d, alpha)
  if type(opts) == "table" and opts.log then return finish(d, x) end
  return finish(d, x:exp())
end

--- pg.beta(key, a, b [, shape [, dtype = "f32"]]): Beta numbers in (0, 1) of mean a / (a + b), from two gamma draws.
-- a, b and derivatives: as pg.gamma's alpha.
function M.beta(key, a, b, shape, opts)
  local d = plan("beta", key, shape, opts, nil, a, b)
  return finish(d, (log_gamma(d, a, "a") - log_gamma(d, b, "b")):sigmoid())
end

--- pg.dirichlet(key, alpha [, shape]): Points of the simplex with mean alpha / sum(alpha), from gamma draws. alpha: a
-- tensor [..., n]; the result is [shape, ..., n] and sums to 1 along the last axis, for small alpha too. Derivatives:
-- as pg.gamma's.
function M.dirichlet(key, alpha, shape)
  if not is_tensor(alpha) or alpha.ndim == 0 then
    raise("dirichlet: alpha is a tensor [..., n], not %s", names.describe(alpha))
  end
  local d = plan("dirichlet", key, join(check.shape_of("dirichlet", shape or {}), alpha.shape), nil, nil, alpha)
  return log_gamma(d, alpha):softmax(-1)
end

--- pg.student_t(key, df [, shape [, dtype = "f32"]]): Student's t with df degrees of freedom: mean 0 where df > 1,
-- variance df / (df - 2) where df > 2; heavy tails, Cauchy's for df = 1. df and derivatives: as pg.gamma's alpha.
function M.student_t(key, df, shape, opts)
  local d = plan("student_t", key, shape, opts, nil, df)
  local half = spread(d, df) * 0.5
  local spread_of = ((half:log() - log_gamma(d, half, "gamma")) * 0.5):exp() -- one over the root of a mean square
  return finish(d, draw(d, "normal", "normal") * spread_of)
end
-- x with erf(x) = y, for an f64 tensor y in (-1, 1): M. Giles, "Approximating the erfinv function" (2010), which is
-- good to six digits, and two steps of Newton's method.
local function erfinv(y)
  local function horner(w, coefficients)
    local p = coefficients[1]
    for i = 2, #coefficients do p = p * w + coefficients[i] end
    return p
  end
  local w = -((1 - y) * (1 + y)):log()
  local center = horner(w - 2.5, { 2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941 })
  local tails = horner(w:sqrt() - 3, { -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682 })
  local x = core.apply("where", nil, w:lt(5), center, tails) * y
  for _ = 1, 2 do x = x - (x:erf() - y) * (x * x):exp() * (math.pi ^ 0.5 / 2) end
  return x
end

-- erf of a number.
local function erf(x) return core.apply("erf", nil, x) end

-- The ends of the standard normal distribution function on [low, high], times 2, minus 1.
local function truncation(o)
  local scale = o.std * 2 ^ 0.5
  return erf((o.low - o.mean) / scale), erf((o.high - o.mean) / scale), scale
end

-- Raise unless there is enough of a normal distribution between the bounds. owner: for messages.
local function check_truncation(owner, o)
  if not (o.low < o.high and o.std > 0) then core.raise(owner .. ": low is below high, and std above 0") end
  local from, to = truncation(o)
  if to - from < 1e-9 then
    core.raise(("%s: hardly anything falls into [%g, %g]"):format(owner, o.low, o.high))
  end
end

-- o: mean, std, low, high, numbers that have been checked. In f64 by the inverse distribution function.
local function truncated_normal(key, shape, dtype, o)
  local from, to, scale = truncation(o)
  local u = core.apply("uniform", { a = shape, dtype = "f64" }, key)
  local inside = (u * (to - from) + from):clip(-1 + 1e-16, 1 - 1e-16)
  return (erfinv(inside) * scale + o.mean):clip(o.low, o.high):to(dtype)
end

local TRUNCATED = { mean = 0, std = 1, low = -2, high = 2 }

--- pg.truncated_normal(key [, shape [, { mean = 0, std = 1, low = -2, high = 2, dtype = "f32" }]]): Normal numbers,
-- given that they fall into [low, high] (bounds of the values, not multiples of std; as torch.nn.init.trunc_normal_).
function M.truncated_normal(key, shape, opts)
  local d = plan("truncated_normal", key, shape, opts, names.sorted(TRUNCATED))
  local o = {}
  for name, default in next, TRUNCATED do
    o[name] = type(opts) == "table" and opts[name] or default
    if type(o[name]) ~= "number" then
      raise("truncated_normal: %s is a number, not %s", name, names.describe(o[name]))
    end
  end
  check_truncation("truncated_normal", o)
  return finish(d, truncated_normal(key, d.shape, d.dtype, o))
end

-- ---- choices ----

--- pg.categorical(key, logits [, shape = {}]): Draws from softmax(logits) along the last axis: i64 indices from 0, by
-- the Gumbel trick. logits [..., n] → [shape, ...]: as many draws of each row as the shape says.
function M.categorical(key, logits, shape)
  check.check_tensor("categorical", logits)
  shape = join(check.shape_of("categorical", shape or {}), logits.shape)
  local d = plan("categorical", key, shape, nil, nil, logits)
  local gumbel = -(-(draw(d, "uniform"):maximum(1e-30):log())):log()
  return (logits + gumbel):argmax(-1)
end

-- Weights as a tensor [n] of f64.
local function read_weights(weights, n, needed)
  local w = is_tensor(weights) and weights:to("f64") or type(weights) == "table" and core.nested("f64", weights)
  if not w or w.layout or w.ndim ~= 1 or w.shape[1] ~= n then
    raise("choice: weights are %d numbers, a tensor or a list, not %s", n, names.describe(weights))
  end
  if w.traced then return w end
  local possible = w:gt(0):to("i64"):sum():item()
  if n > 0 and not (w:min():item() >= 0 and w:sum():item() < 1 / 0) or possible < needed then
    raise("choice: weights are numbers of at least 0, of which %d or more are above 0; got %s", needed,
      names.describe(weights))
  end
  return w
end

-- With replacement: where a uniform number falls among the running sums.
local function choose_again(key, n, shape, weights)
  local u = apply("uniform", { a = shape, dtype = "f64" }, key)
  if not weights then return (u * n):floor():minimum(n - 1):to("i64") end
  local sums = read_weights(weights, n, 1):cumsum()
  return sorting.searchsorted(sums, u * sums:slice(n), { right = true }):minimum(n - 1)
end

-- Without: the first k of n exponential clocks with these rates to ring, in order (the Gumbel top-k trick; Efraimidis &
-- Spirakis 2006).
local function choose_first(key, n, count, weights)
  local u = apply("uniform", { a = { n }, dtype = "f64" }, key)
  local _, indices = sorting.topk(-(-u):log1p() / read_weights(weights, n, count), count, -1, { largest = false })
  return indices
end

--- pg.choice(key, n, k [, { replace = false, weights = nil }]): k of 0 … n - 1, i64 [k]; k may be a shape. Without
-- replacement unless said otherwise. weights: a tensor or list of n numbers of at least 0, the chances of each (with
-- replacement), or of being the next among those that are left (without).
function M.choice(key, n, k, opts)
  check.check_key("choice", key)
  check.check_count("choice", n)
  names.check("pg.choice", opts or {}, { "replace", "weights" })
  local shape, count, weights = check.shape_of("choice", k), 1, opts and opts.weights
  for _, extent in ipairs(shape) do count = count * check.check_count("choice", extent) end
  if opts and opts.replace then return choose_again(key, n, shape, weights) end
  if count > n then raise("choice: %d of %d without replacement; give { replace = true } for more", count, n) end
  local chosen
  if weights then
    chosen = choose_first(key, n, count, weights)
  else
    local ranges = {}
    for i = 1, key.ndim do ranges[i] = {} end
    ranges[key.ndim + 1] = { 1, count }
    chosen = apply("permutation", { a = { n } }, key):slice(table.unpack(ranges))
  end
  return #shape == 1 and chosen or chosen:reshape(join(key.shape, shape))
end

return { functions = M, truncated_normal = truncated_normal, check_truncation = check_truncation }
