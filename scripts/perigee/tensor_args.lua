-- tensor_args.lua: checks of the arguments of tensor functions: axes, shapes, dtypes, counts, integers inside tensors.
-- What a check refuses is raised at the recipe's line, with the function's name, what was found and what was expected.
local core = require "perigee.core"
local names = require "perigee.names"
local text = require "perigee.tensor_text"

local is_tensor = core.is_tensor
local M = {}

-- The dtypes of tensors that people make.
local dtypes = { f32 = true, f64 = true, i32 = true, i64 = true, u8 = true, bool = true }
M.dtypes = dtypes

-- Bytes of one element.
M.bytes = { f32 = 4, f64 = 8, i32 = 4, i64 = 8, u8 = 1, bool = 1, key = 16 }

function M.raise(format, ...)
  return core.raise(select("#", ...) > 0 and format:format(...) or format)
end

-- Axis of a tensor of `ndim` axes, from 1 or negative from the end → from 0.
function M.axis_of(what, axis, ndim, x)
  local integer = math.tointeger(axis)
  if not integer then M.raise("%s: an axis is an integer, got %s", what, names.describe(axis)) end
  if integer == 0 or integer > ndim or integer < -ndim then
    M.raise("%s: axis %d is outside 1..%d%s", what, integer, ndim, x and " of " .. text.type(x) or "")
  end
  return integer > 0 and integer - 1 or integer + ndim
end

function M.check_tensor(what, x)
  if is_tensor(x) then return x end
  return M.raise("%s: a tensor was expected, got %s", what, names.describe(x))
end

function M.check_key(what, key, place)
  if is_tensor(key) and key.dtype == "key" then return key end
  return M.raise("%s: a key, as pg.key(1), was expected %s; got %s", what, place or "first", names.describe(key))
end

-- '; did you mean "f32"?' or "".
function M.dtype_hint(name)
  local meant = type(name) == "string" and names.meant(name, names.sorted(dtypes))
  return meant and ('; did you mean "%s"?'):format(meant) or ""
end

-- The dtype in the options of a creating function: a name, { dtype = … } (with the further options `more`), or nothing.
function M.dtype_of(what, opts, default, more)
  local dtype = opts
  if type(opts) == "table" then
    names.check("pg." .. what, opts, { "dtype", "device", table.unpack(more or {}) })
    if opts.device and opts.device ~= "cpu" then
      M.raise("%s: no CUDA backend is in this build, so there is no device %s", what, names.describe(opts.device))
    end
    dtype = opts.dtype
  end
  if dtype == nil or dtype == "cpu" then return default end
  if dtypes[dtype] then return dtype end
  if type(dtype) == "number" then
    M.raise("%s: a shape is one table, as {2, 3}; a dtype or options may follow, not %s", what, names.describe(dtype))
  end
  return M.raise("%s: %s is not a dtype (f32, f64, i32, i64, u8, bool)%s", what, names.describe(dtype),
    M.dtype_hint(dtype))
end

-- A whole number of entries, of at least 0.
function M.check_count(what, n)
  if not math.tointeger(n) or n < 0 then M.raise("%s: a whole number was expected, got %s", what, names.describe(n)) end
  return n
end

-- Shapes are given as a table or as numbers.
function M.shape_of(what, first, ...)
  local shape = first
  if type(first) == "number" then shape = { first, ... } end
  if type(shape) ~= "table" then
    M.raise("%s: a shape is a table of integers, as {2, 3}; got %s", what, names.describe(first))
  end
  for i, extent in ipairs(shape) do
    if not math.tointeger(extent) then
      M.raise("%s: extent %d of the shape is %s, not an integer%s", what, i, names.describe(extent),
        is_tensor(extent) and " (shapes are fixed when a function is traced)" or "")
    end
  end
  return shape
end

-- Axes of x given as nil (all), a number or a table of numbers, from 0.
function M.axes_of(what, axes, x)
  M.check_tensor(what, x)
  if axes == nil then return {} end
  if type(axes) ~= "table" then axes = { axes } end
  for name in next, axes do
    if type(name) == "string" then
      M.raise("%s: axes are a number or a list of them, as x:%s(1); the table has '%s'", what, what, name)
    end
  end
  local a, ndim = {}, x.ndim
  for i, axis in ipairs(axes) do a[i] = M.axis_of(what, axis, ndim, x) end
  return a
end

-- Options over their defaults, whose types they have; nil for none. owner: "pg.var", for messages.
function M.read_options(owner, given, defaults)
  if given == nil then return defaults end
  names.check(owner, given, names.sorted(defaults))
  local o = {}
  for key, default in next, defaults do
    o[key] = default
    if given[key] ~= nil then o[key] = given[key] end
    if type(o[key]) ~= type(default) then
      M.raise("%s: %s is a %s, not %s", owner, key, type(default), names.describe(o[key]))
    end
  end
  return o
end

function M.check_list(what, list)
  if type(list) ~= "table" or #list == 0 then
    M.raise("%s: a table of tensors was expected, as pg.%s({a, b}); got %s", what, what, names.describe(list))
  end
end

-- Outside a trace, where their values are known, integers must be below `extent` and not negative: the engine takes the
-- nearest entry there is for one that is not.
function M.check_range(what, indices, extent, where)
  if not is_tensor(indices) or indices.traced or indices.size == 0 or indices.dtype:find("^[fbk]") then return end
  local lowest, highest = indices:min():item(), indices:max():item()
  if lowest >= 0 and highest < extent then return end
  M.raise("%s %d is outside 0..%d %s; integers inside tensors count from 0", what, lowest < 0 and lowest or highest,
    extent - 1, where)
end

return M
