-- running.lua: what goes along an axis and remembers: running sums, products, maxima and logarithms of sums, and the
-- linear recurrence that products and logarithms are made of. The last axis by default; reverse = true goes from its
-- end.
local core = require "perigee.core"
local check = require "perigee.tensor_args"
local text = require "perigee.tensor_text"

local apply, methods, raise = core.apply, core.methods, check.raise
local M = {}

-- f(tensors with the axis last, flags), and the result's axis put back.
local function along(what, tensors, axis, opts, f)
  local o = check.read_options("pg." .. what, opts, { reverse = false })
  local x = check.check_tensor(what, tensors[1])
  if x.layout then raise("%s: a tensor was expected, got a vector; take its numbers with :flat()", what) end
  if x.ndim == 0 then raise("%s: %s has no axis", what, text.type(x)) end
  local k, ndim, flags = check.axis_of(what, axis or -1, x.ndim, x) + 1, x.ndim, o.reverse and 1 or 0
  if k == ndim then return f(flags, table.unpack(tensors)) end
  local moved = {}
  for i, t in ipairs(tensors) do moved[i] = check.check_tensor(what, t):transpose(k, ndim) end
  return f(flags, table.unpack(moved)):transpose(k, ndim)
end

-- A mask of the place where a recurrence begins, [n].
local function is_first(n, flags)
  return apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }):eq(flags == 1 and n - 1 or 0)
end

local function recur(a, b, flags) return apply("recur", { flags = flags }, a, b) end

--- tensor:cumsum([axis = -1 [, { reverse = false }]]), pg.cumsum(x [, axis = -1 [, { reverse = false }]]): Running
-- sums along an axis, of masks and u8 in i64. They follow from the shape alone (blocks of 4096), so their bits do not
-- depend on threads.
function M.cumsum(x, axis, opts)
  local o = check.read_options("pg.cumsum", opts, { reverse = false })
  check.check_tensor("cumsum", x)
  if x.dtype == "bool" or x.dtype == "u8" then x = x:to("i64") end
  local k = x.ndim > 0 and check.axis_of("cumsum", axis or -1, x.ndim, x) or 0
  return apply("cumsum", { a = { k }, flags = o.reverse and 1 or 0 }, x)
end

--- tensor:cumprod([axis = -1 [, { reverse = false }]]), pg.cumprod(x [, axis = -1 [, { reverse = false }]]): Running
-- products along an axis; derivatives are right at zeros too.
function M.cumprod(x, axis, opts)
  return along("cumprod", { x }, axis, opts, function(flags, rows)
    return recur(rows, apply("where", nil, is_first(rows.shape[rows.ndim], flags), rows, 0), flags)
  end)
end

local function cummax(rows, flags)
  return apply("take_along", nil, rows, apply("argcummax", { flags = flags }, rows))
end

--- tensor:cummax([axis = -1 [, { reverse = false }]]), pg.cummax(x [, axis = -1 [, { reverse = false }]]): The largest
-- so far along an axis; NaN from the first NaN on. Of equal elements the first has the derivative.
function M.cummax(x, axis, opts)
  return along("cummax", { x }, axis, opts, function(flags, rows) return cummax(rows, flags) end)
end

--- tensor:cummin([axis = -1 [, { reverse = false }]]), pg.cummin(x [, axis = -1 [, { reverse = false }]]): The smallest
-- so far along an axis, as cummax.
function M.cummin(x, axis, opts)
  return -M.cummax(-check.check_tensor("cummin", x), axis, opts)
end

-- What stands before each element of a row, and before the first itself.
local function before(x, flags)
  local ndim, n, ranges = x.ndim, x.shape[x.ndim], {}
  local function part(first, last)
    for i = 1, ndim do ranges[i] = {} end
    ranges[ndim] = { first, last }
    return x:slice(table.unpack(ranges))
  end
  if n < 2 then return x end
  if flags == 1 then return apply("concat", { a = { ndim - 1 } }, part(2, n), part(n, n)) end
  return apply("concat", { a = { ndim - 1 } }, part(1, 1), part(1, n - 1))
end

--- tensor:logcumsumexp([axis = -1 [, { reverse = false }]]), pg.logcumsumexp(x [, axis = -1 [, { reverse = false }]]):
-- The logarithm of the running sums of exp(x) along an axis, without overflow: the sums are kept relative to the
-- largest element so far.
function M.logcumsumexp(x, axis, opts)
  return along("logcumsumexp", { x }, axis, opts, function(flags, rows)
    local top = apply("stop", nil, cummax(rows, flags))
    local unit = apply("where", nil, top:isfinite(), top, 0) -- the sums are in units of exp(unit)
    return unit + recur((before(top, flags) - unit):exp(), (rows - unit):exp(), flags):log()
  end)
end

--- pg.linear_recurrence(a, b [, axis = -1 [, { reverse = false }]]): y with y[i] = a[i] y[i - 1] + b[i] along an axis,
-- beginning with y[1] = b[1]; reverse = true: from the end. a, b: f32 or f64 of one shape. Discounted sums, exponential
-- averages with a decay of their own for each step, linear state spaces. Differentiable in both, to any order.
function M.linear_recurrence(a, b, axis, opts)
  return along("linear_recurrence", { a, b }, axis, opts, function(flags, x, y) return recur(x, y, flags) end)
end

for _, name in ipairs { "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp" } do methods[name] = M[name] end

return M
