-- nn_options.lua: options and sizes that layers and their functions take: checked, with defaults, and turned into the
-- engine's numbers.

local args = require "perigee.tensor_args"
local names = require "perigee.names"

local raise = args.raise
local nn_options = { read = args.read_options }

-- Raise unless n is a whole number of at least 1.
function nn_options.check_size(owner, what, n)
  if math.type(n) ~= "integer" or n < 1 then
    raise("%s: %s must be a positive whole number, not %s", owner, what, tostring(n))
  end
end

-- Options with these names, as they are; {} for nil.
function nn_options.check(owner, given, known)
  names.check(owner, given or {}, known)
  return given or {}
end

-- An option that is a whole number or a pair { height, width } of them, at least `least` → the two.
function nn_options.pair(owner, name, value, least)
  local h, w = value, value
  if type(value) == "table" then h, w = value[1], value[2] end
  for _, n in ipairs { h or 0.5, w or 0.5 } do
    if math.type(n) ~= "integer" or n < least then
      raise("%s: %s is a whole number of at least %d or a pair { height, width } of them, not %s", owner, name, least,
        type(value) == "table" and ("{ %s, %s }"):format(h, w) or tostring(value))
    end
  end
  return h, w
end

-- The padding of one axis that leaves its extent as it is at stride 1: what a window of this size reaches to each side.
local function pad_same(owner, size, dilation)
  local reach = (size - 1) * dilation
  if reach % 2 == 0 then return reach // 2 end
  return raise('%s: pad = "same" pads both sides alike, which takes an odd size (or an even dilation), not %d', owner,
    size)
end

-- Options of a convolution by a window of kh x kw → { stride h, w, pad h, w, dilation h, w, groups }.
function nn_options.geometry(owner, o, kh, kw)
  local a = {}
  a[1], a[2] = nn_options.pair(owner, "stride", o.stride or 1, 1)
  a[5], a[6] = nn_options.pair(owner, "dilation", o.dilation or 1, 1)
  if o.pad == "same" then
    a[3], a[4] = pad_same(owner, kh, a[5]), pad_same(owner, kw, a[6])
  elseif type(o.pad) == "string" then
    raise('%s: pad is a number, a pair { height, width } of them or "same", not "%s"', owner, o.pad)
  else
    a[3], a[4] = nn_options.pair(owner, "pad", o.pad or 0, 0)
  end
  a[7] = o.groups or 1
  nn_options.check_size(owner, "groups", a[7])
  return a
end

-- Options of pooling → { height, width, stride h, w, pad h, w }.
function nn_options.window(owner, size, o)
  local a = {}
  a[1], a[2] = nn_options.pair(owner, "size", size, 1)
  a[3], a[4] = nn_options.pair(owner, "stride", o.stride or { a[1], a[2] }, 1)
  a[5], a[6] = nn_options.pair(owner, "pad", o.pad or 0, 0)
  local include = o.count_include_pad
  if include ~= nil and type(include) ~= "boolean" then
    raise("%s: count_include_pad is true or false, not %s", owner, names.describe(include))
  end
  if 2 * a[5] > a[1] or 2 * a[6] > a[2] then raise("%s: pad is at most half of size", owner) end
  return a
end

return nn_options
