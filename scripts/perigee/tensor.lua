-- tensor.lua: what tensors can do in Lua, in the fashion of NumPy and PyTorch: methods, functions on pg, creation.
-- Axes, indices and slices written in Lua count from 1 and negative ones from the end; the engine counts from 0, and
-- so do integers inside tensors (labels, argmax, indices of take). No mathematics here: everything ends in
-- core.apply.
--
-- What Lua cannot intercept: a tensor after `if`, `and`, `or`, `not` counts as true, and `tensor == number` is false.
-- Masks (x:lt(y), x:eq(y)) and pg.where choose by value.
local core = require "perigee.core"
local check = require "perigee.tensor_args"
local hints = require "perigee.tensor_hints"
local names = require "perigee.names"
local text = require "perigee.tensor_text"

local apply, is_tensor = core.apply, core.is_tensor
local methods = core.methods
local raise, check_tensor, check_list = check.raise, check.check_tensor, check.check_list
local axis_of, axes_of, shape_of, dtype_of = check.axis_of, check.axes_of, check.shape_of, check.dtype_of
local check_count, check_range, read_options = check.check_count, check.check_range, check.read_options
local shape_text = text.type
local F = {} -- the functions of pg

-- Methods that are not functions of pg: those of the userdata itself, and names that say too little without a tensor.
local internal = { __index = true, flat = true, view = true, to = true, t = true, unpack = true }
for name in next, methods do internal[name] = true end

-- ---- elementwise functions ----

--- tensor:neg(), pg.neg(x): -x, also written -x.
--- tensor:abs(), pg.abs(x): The absolute value; derivative 0 at 0.
--- tensor:sign(), pg.sign(x): -1, 0 or 1; derivative 0.
--- tensor:floor(), pg.floor(x): The largest integer that is not above; derivative 0.
--- tensor:ceil(), pg.ceil(x): The smallest integer that is not below; derivative 0.
--- tensor:round(), pg.round(x): The nearest integer, halves to the even one; derivative 0.
--- tensor:sqrt(), pg.sqrt(x): The square root.
--- tensor:rsqrt(), pg.rsqrt(x): 1 / sqrt(x).
--- tensor:exp(), pg.exp(x): e to the power x.
--- tensor:expm1(), pg.expm1(x): exp(x) - 1, accurate near 0.
--- tensor:log(), pg.log(x): The natural logarithm.
--- tensor:log1p(), pg.log1p(x): log(1 + x), accurate near 0.
--- tensor:sin(), pg.sin(x): The sine of an angle in radians.
--- tensor:cos(), pg.cos(x): The cosine of an angle in radians.
--- tensor:tanh(), pg.tanh(x): The hyperbolic tangent.
--- tensor:erf(), pg.erf(x): The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.
--- tensor:sigmoid(), pg.sigmoid(x): 1 / (1 + exp(-x)).
--- tensor:softplus(), pg.softplus(x): log(1 + exp(x)), without overflow.
--- tensor:relu(), pg.relu(x): max(x, 0); derivative 0 at 0.
--- tensor:silu(), pg.silu(x): x sigmoid(x).
--- tensor:log_sigmoid(), pg.log_sigmoid(x): log(sigmoid(x)), without overflow.
--- tensor:square(), pg.square(x): x times x.
--- tensor:reciprocal(), pg.reciprocal(x): 1 / x.
--- tensor:isfinite(), pg.isfinite(x): A mask: neither infinite nor NaN.
--- tensor:add(y), pg.add(x, y): x + y, also written so. Shapes broadcast as in NumPy; dtypes are equal, numbers adapt.
--- tensor:sub(y), pg.sub(x, y): x - y, also written so.
--- tensor:mul(y), pg.mul(x, y): x * y by elements, also written so.
--- tensor:div(y), pg.div(x, y): x / y, also written so; integers are divided without a remainder.
--- tensor:pow(y), pg.pow(x, y): x to the power y, also written x ^ y. Small whole exponents become products.
--- tensor:maximum(y), pg.maximum(x, y): The larger of two, by elements; equal ones share the derivative.
--- tensor:minimum(y), pg.minimum(x, y): The smaller of two, by elements; equal ones share the derivative.
--- tensor:lt(y), pg.lt(x, y): A mask: x < y by elements. Lua's own < cannot give a tensor, and is an error.
--- tensor:le(y), pg.le(x, y): A mask: x <= y by elements.
--- tensor:gt(y), pg.gt(x, y): A mask: x > y by elements.
--- tensor:ge(y), pg.ge(x, y): A mask: x >= y by elements.
--- tensor:eq(y), pg.eq(x, y): A mask: x equals y by elements. x == y of two tensors asks for equality as a whole.
--- tensor:ne(y), pg.ne(x, y): A mask: x differs from y by elements.
local elementwise = {
  "neg", "abs", "sign", "floor", "ceil", "round", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh",
  "erf", "sigmoid", "softplus", "relu", "isfinite", "add", "sub", "mul", "div", "pow", "maximum", "minimum",
  "lt", "le", "gt", "ge", "eq", "ne", "square", "reciprocal", "silu", "log_sigmoid",
}
for _, name in ipairs(elementwise) do methods[name] = core.method(name) end
--- tensor:logical_not(), pg.logical_not(mask): The mask the other way round.
--- tensor:logical_and(y), pg.logical_and(x, y): A mask: both of two masks hold.
--- tensor:logical_or(y), pg.logical_or(x, y): A mask: one of two masks holds, or both.
methods.logical_not, methods.logical_and, methods.logical_or = core.method("not"), core.method("and"), core.method("or")

--- tensor:clip(low, high), pg.clip(x, low, high): x limited to [low, high]; nil leaves a side open.
function methods.clip(x, low, high)
  if low then x = methods.maximum(x, low) end
  if high then x = methods.minimum(x, high) end
  return x
end

--- pg.where(mask, x, y): x where the mask holds, y elsewhere, by elements.
-- In traced functions this takes the place of `if`: a branch on a traced value would be taken once and for all.
function F.where(mask, x, y)
  if type(mask) == "boolean" then
    if mask then return x end
    return y
  end
  return apply("where", nil, mask, x, y)
end

-- ---- reductions ----

--- tensor:sum([axes [, keepdims]]), pg.sum(x [, axes [, keepdims]]): The sum over axes: a number, a table of
-- numbers, or all of them.
-- Axes count from 1, negative ones from the end; keepdims = true keeps them with extent 1. The same holds for the other
-- reductions. Sums follow one tree that the shape alone determines, so their bits do not depend on threads.
--- tensor:mean([axes [, keepdims]]), pg.mean(x [, axes [, keepdims]]): The mean over axes, as sum.
--- tensor:max([axes [, keepdims]]), pg.max(x [, axes [, keepdims]]): The largest over axes. Equal ones share the
-- derivative.
--- tensor:min([axes [, keepdims]]), pg.min(x [, axes [, keepdims]]): The smallest over axes. Equal ones share the
-- derivative.
--- tensor:norm([axes [, keepdims]]), pg.norm(x [, axes [, keepdims]]): The Euclidean norm over axes.
--- tensor:any([axes [, keepdims]]), pg.any(mask [, axes [, keepdims]]): Whether a mask holds somewhere.
--- tensor:all([axes [, keepdims]]), pg.all(mask [, axes [, keepdims]]): Whether a mask holds everywhere.
for _, name in ipairs { "sum", "mean", "max", "min", "norm", "any", "all" } do
  methods[name] = core.reduction(name, text)
end

--- tensor:var([axes [, { correction = 0, keepdims = false }]]), pg.var(x [, axes [, opts]]): The variance over axes:
-- of a population, or of a sample with correction = 1.
function methods.var(x, axes, opts)
  local a, o = axes_of("var", axes, x), read_options("pg.var", opts, { correction = 0, keepdims = false })
  return apply("var", { a = a, flags = o.keepdims and 1 or 0, x = o.correction }, x)
end

--- tensor:std([axes [, { correction = 0, keepdims = false }]]), pg.std(x [, axes [, opts]]): The square root of var.
function methods.std(x, axes, opts) return methods.var(x, axes, opts):sqrt() end

--- tensor:dot(y), pg.dot(x, y): The sum of products: the inner product of two tensors or vectors, [].
methods.dot = core.method("dot")

--- tensor:outer(y), pg.outer(x, y): The products of all pairs: [m] and [n] → [m, n].
methods.outer = core.method("outer")

--- tensor:argmax([axis]), pg.argmax(x [, axis]): The index, from 0, of the first largest element: along an axis, or of
-- the flattened tensor; i64.
function methods.argmax(x, axis)
  check_tensor("argmax", x)
  if axis == nil then return apply("argmax", nil, x:reshape { x.size }) end
  local ndim = x.ndim
  local k = axis_of("argmax", axis, ndim, x)
  if k == ndim - 1 then return apply("argmax", nil, x) end
  local perm = {}
  for i = 0, ndim - 1 do if i ~= k then perm[#perm + 1] = i end end
  perm[ndim] = k
  return apply("argmax", nil, apply("transpose", { a = perm }, x))
end

--- tensor:argmin([axis]), pg.argmin(x [, axis]): The index, from 0, of the first smallest element, as argmax.
function methods.argmin(x, axis) return methods.argmax(-x, axis) end

-- ---- shapes ----

--- tensor:reshape(...), pg.reshape(x, ...): The same elements in another shape, given as a table or as numbers. One
-- extent may be -1: what is left.
function methods.reshape(x, ...)
  return apply("reshape", { a = shape_of("reshape", ...) }, check_tensor("reshape", x))
end

--- tensor:flatten([from = 1 [, to = -1]]), pg.flatten(x [, from = 1 [, to = -1]]): The axes from … to as one.
function methods.flatten(x, from, to)
  local shape, ndim = check_tensor("flatten", x).shape, x.ndim
  if ndim == 0 then return x:reshape { 1 } end
  local first, last = axis_of("flatten", from or 1, ndim, x) + 1, axis_of("flatten", to or -1, ndim, x) + 1
  if first > last then raise("flatten: the axes go from %d to %d; the first comes first", first, last) end
  local result, merged = {}, 1
  for i, n in ipairs(shape) do
    if i >= first and i <= last then merged = merged * n end
    if i < first or i > last then result[#result + 1] = n end
    if i == last then result[#result + 1] = merged end
  end
  return x:reshape(result)
end

--- tensor:transpose([first [, second]]), pg.transpose(x [, first [, second]]): Axes in another order.
-- x:transpose() reverses them, x:transpose(1, 2) swaps two, x:transpose{2, 1, 3} says where each comes from.
function methods.transpose(x, first, second)
  check_tensor("transpose", x)
  local ndim, a = x.ndim, {}
  if first == nil then
    for i = 1, ndim do a[i] = ndim - i end
  elseif type(first) == "number" then
    for i = 1, ndim do a[i] = i - 1 end
    local i, j = axis_of("transpose", first, ndim, x) + 1, axis_of("transpose", second, ndim, x) + 1
    a[i], a[j] = a[j], a[i]
  else
    if #first ~= ndim then raise("transpose: %d axes for %s", #first, shape_text(x)) end
    for i, axis in ipairs(first) do a[i] = axis_of("transpose", axis, ndim, x) end
  end
  return apply("transpose", { a = a }, x)
end

--- tensor:t(): A matrix transposed: [m, n] → [n, m].
function methods.t(x)
  if x.ndim ~= 2 then raise("t: a matrix was expected, got %s", shape_text(x)) end
  return methods.transpose(x)
end

--- tensor:unsqueeze(axis), pg.unsqueeze(x, axis): A new axis of extent 1 at position `axis` of the result.
function methods.unsqueeze(x, axis)
  local shape = x.shape
  table.insert(shape, axis_of("unsqueeze", axis, #shape + 1, x) + 1, 1)
  return x:reshape(shape)
end

--- tensor:squeeze([axis]), pg.squeeze(x [, axis]): Without axis `axis`, which has extent 1; without all such axes if
-- none is given.
function methods.squeeze(x, axis)
  local result, k = {}, axis and axis_of("squeeze", axis, x.ndim, x) + 1
  for i, n in ipairs(x.shape) do
    if k == i and n ~= 1 then raise("squeeze: axis %d of %s has extent %d, not 1", axis, shape_text(x), n) end
    if (k and i ~= k) or (not k and n ~= 1) then result[#result + 1] = n end
  end
  return x:reshape(result)
end

--- tensor:broadcast_to(...), pg.broadcast_to(x, ...): x repeated along axes of extent 1 and along new leading axes,
-- up to a shape given as a table or as numbers.
function methods.broadcast_to(x, ...)
  local shape = shape_of("broadcast_to", ...)
  return apply("broadcast", { a = shape }, is_tensor(x) and x or F.tensor(x))
end

-- ---- parts ----

-- {first, last, step} on an axis of extent n, from 1, inclusive, negative from the end → start from 0, length, step.
local function range_of(range, n, axis, x)
  local first, last, step = range[1] or 1, range[2] or n, range[3] or 1
  if first < 0 then first = first + n + 1 end
  if last < 0 then last = last + n + 1 end
  if step < 1 then raise("slice: the step on axis %d is %s; it must be positive", axis, tostring(step)) end
  if first < 1 or last > n or last < first - 1 then
    raise("slice: {%s, %s} is outside 1..%d on axis %d of %s", tostring(range[1] or 1), tostring(range[2] or n), n,
      axis, shape_text(x))
  end
  return first - 1, (last - first) // step + 1, step
end

--- tensor:slice(...), pg.slice(x, ...): A part of x, by one argument for each axis.
-- {first, last, step}: inclusive, from 1, negative from the end; {} or nothing: the whole axis; an integer picks one
-- entry and drops the axis. x[i] is x:slice(i).
function methods.slice(x, ...)
  check_tensor("slice", x)
  local shape = x.shape
  local n = select("#", ...)
  if n > #shape then raise("slice: %d ranges for %s; one range is {first, last}", n, shape_text(x)) end
  local a, b, c, kept = {}, {}, {}, {}
  for axis, extent in ipairs(shape) do
    local range = axis <= n and (select(axis, ...)) or {}
    local picked = math.type(range) == "integer" and range
    if picked then range = { picked, picked } end
    if type(range) ~= "table" then raise("slice: range %d is a %s; {first, last} was expected", axis, type(range)) end
    if picked and (picked == 0 or picked > extent or picked < -extent) then
      raise("index %d is outside 1..%d on axis %d of %s%s", picked, extent, axis, shape_text(x),
        picked == 0 and "; indices count from 1" or "")
    end
    a[axis], b[axis], c[axis] = range_of(range, extent, axis, x)
    if not picked then kept[#kept + 1] = b[axis] end
  end
  local part = apply("slice", { a = a, b = b, c = c }, x)
  return #kept < #shape and part:reshape(kept) or part
end

--- tensor:take(indices [, axis = 1]), tensor:gather(indices [, axis = 1]), pg.take(x, indices [, axis = 1]),
-- pg.gather(x, indices [, axis = 1]): The entries of x along an axis at indices that count from 0: a tensor of
-- integers, or a table.
function methods.take(x, indices, axis)
  check_tensor("take", x)
  if not is_tensor(indices) then indices = F.tensor(indices, "i64") end
  axis = axis_of("take", axis or 1, x.ndim, x) + 1
  check_range("take: index", indices, x.shape[axis], "on axis " .. axis .. " of " .. shape_text(x))
  return apply("gather", { a = { axis - 1 } }, x, indices)
end
methods.gather = methods.take

--- tensor:scatter_add(indices, updates [, axis = 1]), pg.scatter_add(x, indices, updates [, axis = 1]): x with the
-- entries of `updates` added at indices (from 0) along an axis; an index may come several times.
function methods.scatter_add(x, indices, updates, axis)
  check_tensor("scatter_add", x)
  axis = axis_of("scatter_add", axis or 1, x.ndim, x) + 1
  check_range("scatter_add: index", indices, x.shape[axis], "on axis " .. axis .. " of " .. shape_text(x))
  return apply("scatter_add", { a = { axis - 1 } }, x, indices, updates)
end

-- f of tensors with an axis moved to the end, and the result's moved back.
local function with_last(axis, ndim, f, ...)
  if axis == ndim then return f(...) end
  local moved = { ... }
  for i, t in ipairs(moved) do moved[i] = methods.transpose(t, axis, ndim) end
  return methods.transpose(f(table.unpack(moved)), axis, ndim)
end

local function along_axis_of(what, x, indices, axis)
  check_tensor(what, x)
  check_tensor(what, indices)
  axis = axis_of(what, axis or -1, x.ndim, x) + 1
  if indices.ndim ~= x.ndim then
    raise("%s: indices %s for %s; all axes but the indexed one must agree", what, shape_text(indices), shape_text(x))
  end
  check_range(what .. ": index", indices, x.shape[axis], "on axis " .. axis .. " of " .. shape_text(x))
  return axis
end

--- tensor:take_along(indices [, axis = -1]), pg.take_along(x, indices [, axis = -1]): Elements along an axis by
-- indices, from 0, of each row's own: what argsort gives puts x in order. x [..., n], indices [..., m] → [..., m];
-- numpy.take_along_axis, torch.gather.
function methods.take_along(x, indices, axis)
  axis = along_axis_of("take_along", x, indices, axis)
  return with_last(axis, x.ndim, function(...) return apply("take_along", nil, ...) end, x, indices)
end

--- tensor:add_along(indices, updates [, axis = -1]), pg.add_along(x, indices, updates [, axis = -1]): x with updates
-- [..., m] added along an axis at indices [..., m], from 0, of each row's own; an index may come several times. The
-- derivative of take_along; torch.scatter_add.
function methods.add_along(x, indices, updates, axis)
  axis = along_axis_of("add_along", x, indices, axis)
  return with_last(axis, x.ndim, function(...) return apply("add_along", nil, ...) end, x, indices,
    check_tensor("add_along", updates))
end

--- pg.concat(list [, axis = 1]): The tensors of a list side by side along an axis. Their other axes agree.
function F.concat(list, axis)
  check_list("concat", list)
  local first = check_tensor("concat", list[1])
  return apply("concat", { a = { axis_of("concat", axis or 1, first.ndim, first) } }, table.unpack(list))
end

--- pg.stack(list [, axis = 1]): The tensors or numbers of a list, all of one shape, along a new axis.
function F.stack(list, axis)
  check_list("stack", list)
  local parts = {}
  for i, x in ipairs(list) do
    x = is_tensor(x) and x or F.tensor(x)
    parts[i] = methods.unsqueeze(x, axis or 1)
  end
  return F.concat(parts, axis or 1)
end

-- ---- matrices and small functions with options ----

--- tensor:matmul(y), pg.matmul(x, y): The matrix product: [m, k] and [k, n] → [m, n].
-- [k] as first operand is a row, as second a column, and that axis is dropped again; leading axes of both broadcast and
-- stand for many products.
methods.matmul = core.method("matmul")

-- Functions along one axis, the last by default.
local function along_axis(name)
  return function(x, axis)
    check_tensor(name, x)
    return apply(name, { a = { axis_of(name, axis or -1, x.ndim, x) }, n = 1 }, x)
  end
end
--- tensor:softmax([axis = -1]), pg.softmax(x [, axis = -1]): exp(x) divided by its sum along an axis.
--- tensor:log_softmax([axis = -1]), pg.log_softmax(x [, axis = -1]): The logarithm of softmax, without overflow.
for _, name in ipairs { "softmax", "log_softmax" } do methods[name] = along_axis(name) end

--- tensor:logsumexp([axis = -1 [, keepdims]]), pg.logsumexp(x [, axis = -1 [, keepdims]]): log(sum(exp(x))) along an
-- axis, without overflow.
function methods.logsumexp(x, axis, keepdims)
  check_tensor("logsumexp", x)
  if type(keepdims) ~= "boolean" then
    keepdims = read_options("pg.logsumexp", keepdims, { keepdims = false }).keepdims
  end
  return apply("logsumexp", { a = { axis_of("logsumexp", axis or -1, x.ndim, x) }, flags = keepdims and 1 or 0 }, x)
end

--- tensor:gelu([{ approximate = false }]), pg.gelu(x [, { approximate = false }]): x times the normal distribution
-- function at x; approximate = true: the form with tanh (Hendrycks & Gimpel 2016).
function methods.gelu(x, opts)
  return apply("gelu", { flags = read_options("pg.gelu", opts, { approximate = false }).approximate and 1 or 0 }, x)
end

--- tensor:leaky_relu([slope = 0.01]), pg.leaky_relu(x [, slope = 0.01]): x where it is positive, slope x elsewhere.
function methods.leaky_relu(x, slope) return apply("leaky_relu", { x = slope or 0.01 }, x) end

--- tensor:elu([alpha = 1]), pg.elu(x [, alpha = 1]): x where it is positive, alpha (exp(x) - 1) elsewhere.
function methods.elu(x, alpha) return apply("elu", { x = alpha or 1 }, x) end

--- pg.one_hot(labels, n [, dtype = "f32"]): Integers from 0 as rows with a single 1 among n: [...] → [..., n].
function F.one_hot(labels, n, dtype)
  check_tensor("one_hot", labels)
  check_count("one_hot", n)
  check_range("one_hot: label", labels, n, "of the classes")
  return apply("one_hot", { a = { n }, dtype = dtype_of("one_hot", dtype, "f32") }, labels)
end

--- tensor:take_along_last(indices), pg.take_along_last(x, indices): x [..., n] at indices [...], from 0, along the last
-- axis → [...].
methods.take_along_last = core.method("take_along_last")

-- ---- dtype and device ----

--- tensor:to(where): x as another dtype: "f32", "f64", "i32", "i64", "u8" or "bool"; or on a device, of which this
-- build has "cpu" alone.
function methods.to(x, where)
  check_tensor("to", x)
  if where == "cpu" or where == x.dtype then return x end
  if check.dtypes[where] then return apply("cast", { dtype = where }, x) end
  if type(where) == "string" and where:find("^cuda") then
    raise("to: no CUDA backend is in this build, so there is no device '%s'", where)
  end
  return raise("to: %s is neither a device nor a dtype (f32, f64, i32, i64, u8, bool)%s", names.describe(where),
    check.dtype_hint(where))
end

--- tensor:clone(), pg.clone(x): A copy in memory of its own. Tensors are values, so only slots of programs need it.
function methods.clone(x)
  if x.traced then return x end
  return x:copy()
end

-- ---- vectors ----

--- tensor:view(name): A tensor of a vector by its name or 1-based place: a copy, or inside a trace a view.
-- theta["1.weight"] is the same.
function methods.view(x, name)
  local layout = check_tensor("view", x).layout
  if not layout then
    raise("view: %s is not a vector, whose tensors it would give by name; for a new shape use x:reshape", shape_text(x))
  end
  local i = math.type(name) == "integer" and name or layout:find(name)
  if not i or not layout[i] then raise("%s", hints.unknown_segment(layout, tostring(name))) end
  if x.traced then return apply("view", { a = { i - 1 } }, x) end
  return x:segment(i)
end

--- tensor:with(changes), pg.with(x, changes): A vector like x with some of its tensors replaced, by name or 1-based
-- place: theta:with { ["1.weight"] = w }. A change may also be a function of the tensor that is there: { ["1.weight"] =
-- function(w) return q:matmul(w) end }. Differentiable.
function methods.with(x, changes)
  local layout = check_tensor("with", x).layout
  if not layout then raise("with: a vector was expected, got %s", shape_text(x)) end
  if type(changes) ~= "table" then raise("with: a table of tensors was expected, got %s", names.describe(changes)) end
  local list = {}
  for i = 1, #layout do list[i] = methods.view(x, i) end
  for key, change in next, changes do
    local i = math.type(key) == "integer" and key or type(key) == "string" and layout:find(key)
    if not i or not layout[i] then raise("%s", hints.unknown_segment(layout, tostring(key))) end
    list[i] = type(change) == "function" and change(list[i]) or change
    if not is_tensor(list[i]) or table.concat(list[i].shape, ",") ~= table.concat(layout[i].shape, ",") then
      raise("with: '%s' has the shape [%s]; it was given %s", layout[i].name, table.concat(layout[i].shape, ", "),
        names.describe(list[i]))
    end
  end
  return apply("pack", { layout = layout }, table.unpack(list))
end

--- tensor:unpack(): All tensors of a vector: {name = tensor}.
function methods.unpack(x)
  local layout, result = check_tensor("unpack", x).layout, {}
  if not layout then raise("unpack: a vector was expected, got %s", shape_text(x)) end
  for i = 1, #layout do result[layout[i].name] = methods.view(x, i) end
  return result
end

--- pg.vector(list [, tensors]): A vector of named tensors.
-- pg.vector{ {name, tensor}, … }, pg.vector(layout, {tensors…}), or, from all numbers in order as one tensor without
-- pads, pg.vector(layout, flat).
function F.vector(list, tensors)
  local layout = list
  if not core.is_layout(list) then
    local entries = {}
    tensors = {}
    for i, entry in ipairs(list) do
      if type(entry) ~= "table" or type(entry[1]) ~= "string" or not is_tensor(entry[2]) then
        raise("vector: entry %d must be {name, tensor}", i)
      end
      entries[i], tensors[i] = { entry[1], entry[2].shape }, entry[2]
    end
    layout = core.layout(entries)
  elseif is_tensor(tensors) then
    return apply("pack_flat", { layout = layout }, tensors)
  end
  return apply("pack", { layout = layout }, table.unpack(tensors))
end

--- tensor:flat(): The numbers of a vector without pads, [size].
methods.flat = core.method("flatten_vector")

-- t[i]: entry i of the first axis. theta["1.weight"]: a tensor of a vector. Other names are not there.
function methods.__index(x, key)
  if math.type(key) == "integer" then return methods.slice(x, key) end
  if x.layout and type(key) == "string" and x.layout:find(key) then return methods.view(x, key) end
  return raise("%s", hints.unknown(x, key))
end

-- ---- creation ----

local function first_leaf(x)
  while type(x) == "table" do x = x[1] end
  return x
end

--- pg.tensor(values [, dtype = "f32"]): A tensor from a number, a boolean or nested tables of them, as
-- pg.tensor{{1, 2}, {3, 4}}.
-- dtype may also be an option: pg.tensor(x, { dtype = "f64" }). Of booleans: bool, unless said otherwise. A tensor is
-- returned as it is, or cast.
function F.tensor(values, opts)
  if is_tensor(values) then return methods.to(values, dtype_of("tensor", opts, values.dtype)) end
  if type(values) ~= "table" and type(values) ~= "number" and type(values) ~= "boolean" then
    raise("tensor: numbers or nested tables of numbers were expected, got %s", names.describe(values))
  elseif type(opts) == "number" then
    raise("tensor: several numbers come in a table, as pg.tensor({1, 2})")
  end
  return core.nested(dtype_of("tensor", opts, type(first_leaf(values)) == "boolean" and "bool" or "f32"), values)
end

--- pg.full(shape, value [, dtype = "f32"]): A tensor of this shape (or a vector of this layout) filled with one number.
function F.full(shape, value, opts)
  local dtype = dtype_of("full", opts, "f32")
  if not is_tensor(value) and type(value) ~= "number" then
    raise("full: a shape and a number were expected, as pg.full({2, 3}, 0.5); the second is %s", names.describe(value))
  elseif type(value) == "number" and dtype:find("^[iu]") and value % 1 ~= 0 then
    raise("full: %s does not fit into a tensor of %s", tostring(value), dtype)
  end
  if core.is_layout(shape) then return apply("full", { layout = shape, dtype = dtype }, value) end
  shape = shape_of("full", shape)
  return apply("full", { a = shape, dtype = dtype }, value)
end

--- pg.zeros(shape [, dtype = "f32"]): A tensor of this shape, or a vector of this layout, of zeros.
function F.zeros(shape, opts)
  local dtype = dtype_of("zeros", opts, "f32")
  if core.tracing() then return F.full(shape, 0, dtype) end
  if core.is_layout(shape) then return core.vector(shape, dtype) end
  return core.tensor(dtype, shape_of("zeros", shape))
end

--- pg.ones(shape [, dtype = "f32"]): A tensor of this shape, or a vector of this layout, of ones.
function F.ones(shape, opts) return F.full(shape, 1, dtype_of("ones", opts, "f32")) end

--- pg.full_like(x, value [, dtype]): A tensor of x's shape or layout filled with one number; dtype: x's by default.
function F.full_like(x, value, opts)
  check_tensor("full_like", x)
  return F.full(x.layout or x.shape, value, dtype_of("full_like", opts, x.dtype))
end

--- pg.zeros_like(x [, dtype]): Zeros of x's shape or layout; dtype: x's by default.
function F.zeros_like(x, opts) return F.full_like(x, 0, opts) end

--- pg.ones_like(x [, dtype]): Ones of x's shape or layout; dtype: x's by default.
function F.ones_like(x, opts) return F.full_like(x, 1, opts) end

--- pg.arange([first = 0,] last [, step = 1] [, dtype = "f32"]): The numbers from `first` up to but without `last`:
-- pg.arange(3) is 0, 1, 2.
function F.arange(...)
  local args = { ... }
  local dtype = dtype_of("arange", type(args[#args]) ~= "number" and table.remove(args) or nil, "f32")
  local first, last, step = 0, args[1], args[3] or 1
  if #args >= 2 then first, last = args[1], args[2] end
  if type(first) ~= "number" or type(last) ~= "number" or type(step) ~= "number" or step == 0 then
    raise("arange: numbers and a step other than 0 were expected")
  end
  local n = math.max(0, math.ceil((last - first) / step))
  local index = apply("iota", { a = { n }, b = { 0 }, dtype = dtype })
  if step ~= 1 then index = index * step end
  if first ~= 0 then index = index + first end
  return index
end

--- pg.linspace(first, last, n [, dtype = "f32"]): n numbers evenly spaced from first to last, both included.
function F.linspace(first, last, n, opts)
  check_count("linspace", n)
  local index = apply("iota", { a = { n }, b = { 0 }, dtype = dtype_of("linspace", opts, "f32") })
  return index * ((last - first) / math.max(n - 1, 1)) + first
end

--- pg.eye(n [, dtype = "f32"]): The unit matrix, [n, n].
function F.eye(n, opts)
  check_count("eye", n)
  return apply("eye", { a = { n }, dtype = dtype_of("eye", opts, "f32") })
end

-- ---- as functions ----

core.metatable.__tostring = text.tostring
core.metatable.__name = "tensor"

function core.metatable.__mod() raise("tensors have no %: the remainder is x - y * (x / y):floor()") end

function core.metatable.__idiv() raise("tensors have no //: write (x / y):floor()") end

for name, method in next, methods do
  if not internal[name] and not F[name] then F[name] = method end
end
--- pg.is_tensor(x): Whether x is a tensor, eager or traced.
F.is_tensor = is_tensor

return { functions = F }
