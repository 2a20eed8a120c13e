-- quantize.lua: block-wise 8-bit quantization (Dettmers et al. 2022, arXiv 2110.02861) as functions of tensors: each
-- block is divided by its largest magnitude, and each number becomes the code of the nearest of 256 values. What state
-- slots of 8 bits are made by (eight_bit.lua), to be looked at.

local check = require "perigee.tensor_args"
local coded = require "perigee.coded"
local core = require "perigee.core"
local names = require "perigee.names"
local tensor = require "perigee.tensor"

local quantize = {}

local function read_options(owner, given)
  local o = check.read_options(owner, given, { signed = true, block = 256, keep_sign = true, map = "dynamic" })
  return coded.check(owner, o), coded.kind(o)
end

-- The layout of n numbers as one tensor, and the numbers of a tensor as a vector of it.
local function layout_of(n) return core.layout { { "x", { n } } } end

local function as_vector(x)
  return core.apply("pack", { layout = layout_of(x.size) }, x.layout and x:flat() or x:reshape(x.size))
end

--- pg.quantize.map([{ signed = true, map = "dynamic" }]) → tensor: The 256 values that codes stand for, in order, f32
-- [256]. 0 is code 127 of signed maps and 0 of unsigned ones; 1 is code 255, and -1 there is none.
--   "dynamic": signed, 0, 1 and, for e = 0 … 6, the centres of 2^e equal cells of [0.1, 1] times ± 10^(e - 6);
--     unsigned, 2^(e + 1) cells, and no negative ones.
--   "linear": signed, (i - 127) / 128; unsigned, i / 255.
function quantize.map(given)
  local o = check.read_options("pg.quantize.map", given, { signed = true, map = "dynamic" })
  coded.check("pg.quantize.map", { block = 256, map = o.map })
  local codes = tensor.functions.arange(256):to("u8")
  return quantize.decode(codes, tensor.functions.ones { 1 }, o)
end

--- pg.quantize.encode(x [, { signed = true, block = 256, keep_sign = true, map = "dynamic" }]) → codes, absmax: The
-- numbers of x, a vector or tensor of f32 or f64, in 8 bits: codes is u8 [n], absmax the largest magnitude of each
-- block of x:flat(), of x's dtype, [ceil(n / block)].
--   signed, map: which map (pg.quantize.map). Numbers must not be negative for the unsigned one: those become 0.
--   block: a power of two from 2 to 4096.
--   keep_sign: a negative number nearest to 0 becomes the smallest negative value instead, as bitsandbytes does.
-- A block with a number that is not finite has one as its absmax, so that nothing of it decodes to a finite number.
function quantize.encode(x, given)
  local block, kind = read_options("pg.quantize.encode", given)
  if not core.is_tensor(x) or (x.dtype ~= "f32" and x.dtype ~= "f64") then
    core.raise("pg.quantize.encode: x must be a tensor or vector of f32 or f64, not " .. names.describe(x))
  end
  local vector = as_vector(x)
  local codes, absmax = coded.encode(vector, vector.layout, block, kind)
  return codes:flat(), absmax
end

--- pg.quantize.decode(codes, absmax [, { signed = true, block = 256, map = "dynamic" }]) → tensor: The numbers that
-- pg.quantize.encode's results stand for: [n], of absmax's dtype. A block of zeros stays one. No derivative.
function quantize.decode(codes, absmax, given)
  local block, kind = read_options("pg.quantize.decode", given)
  if not core.is_tensor(codes) or codes.dtype ~= "u8" or codes.ndim ~= 1 then
    core.raise("pg.quantize.decode: codes must be u8 [n], not " .. names.describe(codes))
  elseif not core.is_tensor(absmax) or absmax.size ~= (codes.size + block - 1) // block then
    core.raise(("pg.quantize.decode: %d codes in blocks of %d need %d absmax, not %s"):format(codes.size, block,
      (codes.size + block - 1) // block, names.describe(absmax)))
  end
  local vector = as_vector(codes)
  return coded.decode(vector, absmax:reshape(absmax.size), vector.layout, block, kind):flat()
end

return quantize
