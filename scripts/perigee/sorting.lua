-- sorting.lua: what is found by order: sort, argsort, topk, quantile, median, searchsorted, unique. There is one order,
-- the engine's (engine/ops/order.h): ascending or descending, equal elements as they stand, every NaN larger than any
-- number. So results do not depend on threads, and sort, topk and quantile agree with each other. Values are taken
-- through the indices, and so are derivatives.
local core = require "perigee.core"
local check = require "perigee.tensor_args"
local names = require "perigee.names"
local text = require "perigee.tensor_text"

local apply, is_tensor, methods, raise = core.apply, core.is_tensor, core.methods, check.raise
local check_tensor, axis_of, read_options = check.check_tensor, check.axis_of, check.read_options
local M = {}

-- f of x with an axis moved to the end, and the result's axis moved back.
local function along(what, x, axis, f)
  check_tensor(what, x)
  local ndim = x.ndim
  if x.layout then raise("%s: a tensor was expected, got a vector; take its numbers with :flat()", what) end
  if ndim == 0 then raise("%s: %s has no axis", what, text.type(x)) end
  local k = axis_of(what, axis or -1, ndim, x) + 1
  if k == ndim then return f(x) end
  local first, second = f(x:transpose(k, ndim))
  return first:transpose(k, ndim), second and second:transpose(k, ndim)
end

local function order(x, count, descending)
  return apply("argsort", { a = { count }, flags = descending and 1 or 0 }, x)
end

--- tensor:argsort([axis = -1 [, { descending = false }]]), pg.argsort(x [, axis = -1 [, { descending = false }]]): The
-- indices, from 0, that sort x along an axis; i64, of x's shape. Equal elements keep their order, -0 equals 0, and NaNs
-- count as larger than any number.
function M.argsort(x, axis, opts)
  local o = read_options("pg.argsort", opts, { descending = false })
  return (along("argsort", x, axis, function(rows) return order(rows, rows.shape[rows.ndim], o.descending) end))
end

--- tensor:sort([axis = -1 [, { descending = false }]]), pg.sort(x [, axis = -1 [, { descending = false }]]) → values,
-- indices: x sorted along an axis, and where the elements were (argsort). Differentiable in the values.
function M.sort(x, axis, opts)
  local o = read_options("pg.sort", opts, { descending = false })
  return along("sort", x, axis, function(rows)
    local indices = order(rows, rows.shape[rows.ndim], o.descending)
    return apply("take_along", nil, rows, indices), indices
  end)
end

--- tensor:topk(k [, axis = -1 [, { largest = true }]]), pg.topk(x, k [, axis = -1 [, { largest = true }]]) → values,
-- indices: The k largest elements along an axis, largest first, and where they were, from 0; largest = false: the
-- smallest. What sort gives first, found without sorting the rest. Differentiable in the values.
function M.topk(x, k, axis, opts)
  local o = read_options("pg.topk", opts, { largest = true })
  return along("topk", x, axis, function(rows)
    local n = rows.shape[rows.ndim]
    if not math.tointeger(k) or k < 0 or k > n then
      raise("topk: k is a whole number from 0 to %d, the extent of that axis of %s; got %s", n, text.type(x),
        names.describe(k))
    end
    local indices = order(rows, k, o.largest)
    return apply("take_along", nil, rows, indices), indices
  end)
end

-- ---- quantiles ----

-- Weak numbers as a tensor [count].
local function list_of(dtype, numbers)
  local parts = {}
  for i, x in ipairs(numbers) do parts[i] = apply("full", { a = { 1 }, dtype = dtype }, x) end
  return apply("concat", { a = { 0 } }, table.unpack(parts))
end

-- The elements of each row [..., n] that have these ranks in ascending order, from 0 → [..., ranks]. Ranks may be
-- numbers of a trace.
local function take_ranks(rows, ranks)
  local wanted = apply("cast", { dtype = "i64" }, list_of("f64", ranks))
  return apply("take_along", nil, rows, apply("ranked", nil, rows, wanted))
end

local function check_share(share, place)
  local traced = is_tensor(share) and share.traced and share.ndim == 0
  if traced or (type(share) == "number" and share >= 0 and share <= 1) then return share end
  return raise("quantile: q%s is a number from 0 to 1, not %s", place, names.describe(share))
end

-- x with axis number k last, the others in order.
local function put_last(x, k)
  local ndim, perm = x.ndim, {}
  for i = 1, ndim do if i ~= k then perm[#perm + 1] = i end end
  perm[ndim] = k
  return k == ndim and x or x:transpose(perm)
end

local function put_first(x, k)
  local perm = { k }
  for i = 1, x.ndim do if i ~= k then perm[#perm + 1] = i end end
  return k == 1 and x or x:transpose(perm)
end

-- The last axis from `first` to `last`.
local function part(x, first, last)
  local ranges = {}
  for i = 1, x.ndim do ranges[i] = {} end
  ranges[x.ndim] = { first, last }
  return x:slice(table.unpack(ranges))
end

-- Quantiles of each row [..., n] → [..., shares].
local function quantiles_of(rows, shares)
  local n, count, ranks, rests = rows.shape[rows.ndim], #shares, {}, {}
  for i, share in ipairs(shares) do
    local place = share * (n - 1)
    local below = apply("floor", nil, place)
    ranks[i], ranks[count + i], rests[i] = below, below + 1, place - below
  end
  local values = take_ranks(rows, ranks)
  local low, high = part(values, 1, count), part(values, count + 1, 2 * count)
  local gap, rest = high - low, list_of(rows.dtype, rests)
  -- Infinite elements, or a gap beyond the largest number: weights instead, of which 0 takes no part.
  local weighted = apply("where", nil, rest:gt(0), low * (1 - rest) + high * rest, low)
  local between = apply("where", nil, gap:isfinite(), low + gap * rest, weighted)
  return apply("where", nil, rows:ne(rows):any(-1, true), 0 / 0, between)
end

--- tensor:quantile(q [, axis [, { keepdims = false }]]), pg.quantile(x, q [, axis [, { keepdims = false }]]): What a
-- share q of the elements lies below: along an axis or, without one, of them all; between two elements by linear
-- interpolation at place q (n - 1) of the sorted ones, as numpy.quantile.
-- q: a number from 0 to 1, or a list of them, which gives a new first axis. NaN where there is a NaN. Up to two
-- elements are looked for without sorting. Differentiable.
function M.quantile(x, q, axis, opts)
  local keepdims = read_options("pg.quantile", opts, { keepdims = false }).keepdims
  check_tensor("quantile", x)
  if x.dtype ~= "f32" and x.dtype ~= "f64" then
    raise("quantile: f32 or f64, not %s; convert it with :to", text.type(x))
  elseif x.size == 0 then
    raise("quantile: %s has nothing to choose from", text.type(x))
  end
  local listed, shares = type(q) == "table", {}
  for i, share in ipairs(listed and q or { q }) do
    shares[i] = check_share(share, listed and "[" .. i .. "]" or "")
  end
  if #shares == 0 then check_share(q, "") end
  if x.layout then x = x:flat() end
  local shape, k = x.shape, axis and axis_of("quantile", axis, x.ndim, x) + 1
  for i = k or #shape, k or 1, -1 do
    if keepdims then shape[i] = 1 else table.remove(shape, i) end
  end
  local found = quantiles_of(k and put_last(x, k) or x.ndim == 1 and x or x:reshape { x.size }, shares)
  if listed then
    found = put_first(found, found.ndim)
    table.insert(shape, 1, #shares)
  end
  return found:reshape(shape)
end

--- tensor:median([axis [, { keepdims = false }]]), pg.median(x [, axis [, { keepdims = false }]]): quantile at 0.5: the
-- mean of the two middle elements where their number is even, as numpy.median.
function M.median(x, axis, opts)
  return M.quantile(x, 0.5, axis, opts)
end

-- ---- searching ----

local function first_integers(n) return apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }) end

--- pg.searchsorted(sorted, x [, { right = false }]): Where each number of x belongs in a sorted list: how many of the
-- list are smaller, i64 of x's shape; right = true: how many are at most as large.
-- sorted: [n], in ascending order, or [..., n] with one list for each row of x [..., m]. x: a tensor or a number.
function M.searchsorted(sorted, x, opts)
  local o = read_options("pg.searchsorted", opts, { right = false })
  check_tensor("searchsorted", sorted)
  if type(x) == "number" then x = apply("full", { a = {}, dtype = sorted.dtype }, x) end
  return apply("searchsorted", { flags = o.right and 1 or 0 }, sorted, check_tensor("searchsorted", x))
end

--- tensor:unique(), pg.unique(x) → values, inverse, counts: The different elements of x in ascending order; for each
-- element of x the index of its value, from 0, i64 of x's shape; and how often each value occurs, i64. NaNs count as
-- one value. Not inside a trace, where shapes may not depend on the data.
function M.unique(x)
  check_tensor("unique", x)
  if x.traced then
    raise("unique: how many different elements there are depends on the data, and shapes in a trace may not; "
      .. "call it outside, or compare the neighbours of x:sort()")
  end
  local flat = x.layout and x:flat() or x:reshape { x.size }
  local n = flat.size
  if n == 0 then return flat, apply("cast", { dtype = "i64" }, x), apply("cast", { dtype = "i64" }, flat) end
  local sorted, indices = M.sort(flat)
  local now, before = sorted:slice { 2, n }, sorted:slice { 1, n - 1 }
  local both_nan = now:ne(now):logical_and(before:ne(before))
  local begins = now:ne(before):logical_and(both_nan:logical_not()):to("i64")
  local number = apply("cumsum", { a = { 0 } }, apply("concat", { a = { 0 } }, core.tensor("i64", { 1 }), begins))
  local count = number:data_read(n - 1) + 1
  local starts = M.searchsorted(number, first_integers(count))
  local ends = M.searchsorted(number, first_integers(count), { right = true })
  local inverse = apply("add_along", nil, core.tensor("i64", { n }), indices, number)
  return sorted:take(starts), inverse:reshape(x.layout and { n } or x.shape), ends - starts
end

for _, name in ipairs { "sort", "argsort", "topk", "quantile", "median", "unique" } do methods[name] = M[name] end

return { functions = M, take_ranks = take_ranks }
