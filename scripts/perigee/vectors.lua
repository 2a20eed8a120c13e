-- vectors.lua: flat vectors of parameters as the optimizer handles them: making, copying, reading single numbers; and
-- pg.scalar, which declares a state slot of one number.

local core = require "perigee.core"

local vectors = {}

-- A zero vector of theta's layout. dtype: default theta's.
function vectors.zeros_like(theta, dtype)
  return core.vector(theta.layout, dtype or theta.dtype)
end

-- In a trace, a tensor or vector like the eager `t` that is filled with a number or a traced scalar.
function vectors.traced_full_like(t, x)
  local layout = t.layout
  return core.apply("full", layout and { layout = layout, dtype = t.dtype } or { a = t.shape, dtype = t.dtype }, x)
end

-- A copy in memory of its own, cast where dtype differs.
function vectors.clone(x, dtype)
  if dtype and dtype ~= x.dtype then
    return core.apply("cast", { dtype = dtype }, x)
  end
  return x:copy()
end

-- A vector of theta's layout filled with one number; pads stay 0.
function vectors.full_like(theta, x)
  return core.apply("full", { layout = theta.layout, dtype = theta.dtype }, x)
end

-- The vector of like's layout whose numbers are those of x, [size]: the inverse of x:flat(). Eager and traced.
function vectors.unflatten(x, like)
  return core.apply("pack_flat", { layout = like.layout }, x)
end

-- A matrix [n, n] with x, a number or a vector of n numbers, added to its diagonal.
function vectors.add_to_diagonal(matrix, x)
  local entries = core.is_tensor(x) and x.layout and x:flat() or x
  return matrix + core.apply("eye", { a = { matrix.shape[1] }, dtype = matrix.dtype }) * entries
end

-- The number in a 0-d tensor.
function vectors.number(t)
  return t:data_read(0)
end

local Scalar = {}
Scalar.__index = Scalar
Scalar.__name = "perigee.scalar"

--- pg.scalar([value = 0]): One number, as a state slot of a rule: state = { m = 0, n = pg.scalar(0) }.
function vectors.scalar(value)
  return setmetatable({ value = value or 0 }, Scalar)
end

function vectors.is_scalar(x)
  return getmetatable(x) == Scalar
end

return vectors
