-- quantize.lua: block-wise 8-bit quantization by a dynamic map (Dettmers et al. 2022, arXiv 2110.02861), as optimizer
-- states with 8 bits keep their numbers: each block is divided by its largest magnitude, and each number becomes the
-- code of the nearest of 256 values. Written over tensor operations, so that it runs alike outside and inside a trace.

local core = require "perigee.core"
local check = require "perigee.tensor_args"
local names = require "perigee.names"
local tensor = require "perigee.tensor"

local quantize = {}

local DECADES = 7
local ZERO = 127 -- the code of 0 in the signed map

local function read_options(owner, given)
  local o = check.read_options(owner, given, { signed = true, block = 256, keep_sign = true })
  local block = math.tointeger(o.block)
  if not block or block < 1 then
    core.raise(("%s: block is a whole number of at least 1, not %s"):format(owner, names.describe(o.block)))
  end
  o.block = block
  return o
end

-- The values of a map in order. A decade, [0.1, 1] times a power of ten, is cut into equal cells, whose number doubles
-- from decade to decade; the map has their centres, 0 and 1, and in the signed one the negative centres too.
local function values_of(signed)
  local values = { 0, 1 }
  for e = 0, DECADES - 1 do
    local cells = signed and 2 ^ e or 2 ^ (e + 1)
    for i = 0, cells - 1 do
      local value = (0.1 + 0.9 * (i + 0.5) / cells) * 10.0 ^ (e - DECADES + 1)
      values[#values + 1] = value
      if signed then values[#values + 1] = -value end
    end
  end
  table.sort(values)
  for i, value in ipairs(values) do values[i] = string.unpack("f", string.pack("f", value)) end
  return values
end

local lists = { [true] = values_of(true), [false] = values_of(false) }

-- The boundaries between neighbouring values of a map: half-way.
local function boundaries_of(values)
  local list = {}
  for i = 1, #values - 1 do list[i] = (values[i] + values[i + 1]) / 2 end
  return list
end

local boundaries = { [true] = boundaries_of(lists[true]), [false] = boundaries_of(lists[false]) }

local kept = {} -- dtype → list → tensor: bodies of loops may capture tensors, and are traced twice

-- One of these lists as a tensor, the same one each time.
local function constant(list, dtype)
  kept[dtype] = kept[dtype] or {}
  kept[dtype][list] = kept[dtype][list] or core.tensor(dtype, { #list }, list)
  return kept[dtype][list]
end

--- pg.quantize.map([{ signed = true }]) → tensor: The 256 values that codes stand for, in order, f32 [256]. Signed:
-- 0, 1 and, for e = 0 … 6, the centres of 2^e equal cells of [0.1, 1] times ± 10^(e - 6); unsigned: 2^(e + 1)
-- cells, and no negative ones. 0 is code 127 of the signed map and 0 of the unsigned.
function quantize.map(given)
  local o = check.read_options("pg.quantize.map", given, { signed = true })
  return core.tensor("f32", { 256 }, lists[o.signed])
end

-- x, the numbers of a vector or tensor, in blocks: [blocks, block], zeros at the end.
local function cut(x, block)
  local flat = x.layout and x:flat() or x:reshape(x.size)
  local missing = -flat.size % block
  if missing > 0 then flat = tensor.functions.concat { flat, tensor.functions.zeros({ missing }, x.dtype) } end
  return flat:reshape(flat.size // block, block)
end

-- The code of the nearest value for numbers of [-1, 1], i64: by halving, 8 times.
local function nearest(x, signed)
  local limits = constant(boundaries[signed], x.dtype)
  local code = tensor.functions.zeros(x.shape, "i64")
  for bit = 7, 0, -1 do
    local candidate = code + (1 << bit)
    code = tensor.functions.where(x:gt(limits:take(candidate - 1)), candidate, code)
  end
  return code
end

--- pg.quantize.encode(x [, { signed = true, block = 256, keep_sign = true }]) → codes, absmax: The numbers of x, a
-- vector or tensor of f32 or f64, in 8 bits: codes is u8 [n], absmax the largest magnitude of each block of
-- x:flat(), of x's dtype, [ceil(n / block)].
--   signed: which map (pg.quantize.map). Numbers must not be negative for the unsigned one: those become 0.
--   keep_sign: a negative number nearest to 0 becomes the smallest negative value instead, as bitsandbytes does.
function quantize.encode(x, given)
  local o = read_options("pg.quantize.encode", given)
  if not core.is_tensor(x) or (x.dtype ~= "f32" and x.dtype ~= "f64") then
    core.raise("pg.quantize.encode: x must be a tensor or vector of f32 or f64, not " .. names.describe(x))
  end
  local blocks = cut(x, o.block)
  local absmax = blocks:abs():max(2, true)
  local scaled = blocks / tensor.functions.where(absmax:eq(0), 1, absmax)
  local code = nearest(scaled, o.signed)
  if o.signed and o.keep_sign then
    code = tensor.functions.where(scaled:lt(0):logical_and(code:eq(ZERO)), code - 1, code)
  end
  local n = x.size
  return code:reshape(blocks.size):slice({ 1, n }):to("u8"), absmax:reshape(absmax.size)
end

--- pg.quantize.decode(codes, absmax [, { signed = true, block = 256 }]) → tensor: The numbers that pg.quantize.encode's
-- results stand for: [n], of absmax's dtype. A block of zeros stays one.
function quantize.decode(codes, absmax, given)
  local o = read_options("pg.quantize.decode", given)
  if not core.is_tensor(codes) or codes.dtype ~= "u8" or codes.ndim ~= 1 then
    core.raise("pg.quantize.decode: codes must be u8 [n], not " .. names.describe(codes))
  elseif not core.is_tensor(absmax) or absmax.size ~= (codes.size + o.block - 1) // o.block then
    core.raise(("pg.quantize.decode: %d codes in blocks of %d need %d absmax, not %s"):format(codes.size, o.block,
      (codes.size + o.block - 1) // o.block, names.describe(absmax)))
  end
  local values = constant(lists[o.signed], absmax.dtype):take(codes:to("i64"))
  return (cut(values, o.block) * absmax:reshape(absmax.size, 1)):reshape(-1):slice { 1, codes.size }
end

return quantize
