-- orthogonal.lua: matrices with orthonormal columns, and their order: what SOAP needs to keep its bases. Traced.

local core = require "perigee.core"
local loops = require "perigee.loops"
local tensors = require "perigee.tensors"

local orthogonal = {}

-- Where row i of [n, n] is compared with column j: 0, 1, … along one axis.
local function counting(n, axis, like)
  local index = core.apply("iota", { a = { n }, b = { 0 }, dtype = like.dtype })
  return axis == 1 and index:reshape(-1, 1) or index:reshape(1, -1)
end

-- The factor q of a = q r for a square matrix, by Householder's reflections; of any rank. Columns up to their signs.
function orthogonal.columns(a)
  local n = a.shape[1]
  local eye = tensors.eye(n, a)
  local below = counting(n, 2, a):ge(counting(n, 1, a)):to(a.dtype) -- row k: 1 from k on
  local made = loops.scan(function(carry, x)
    local column = carry.a:matmul(x.unit:reshape(-1, 1)):reshape(-1) * x.below
    local head, length = (column * x.unit):sum(), (column * column):sum():sqrt()
    local v = column + core.apply("where", nil, head:ge(0), length, -length) * x.unit
    v = (v / (v * v):sum():sqrt():maximum(1e-30)):reshape(-1, 1)
    return { a = carry.a - 2 * v:matmul(v:t():matmul(carry.a)), q = carry.q - 2 * carry.q:matmul(v):matmul(v:t()) }
  end, { a = a, q = eye }, { unit = eye, below = below })
  return made.q
end

-- The permutation matrix p that puts the columns of a matrix in the order of falling values [n]: a p. Equal values keep
-- their order.
function orthogonal.falling(values)
  local n = values.shape[1]
  local mine, other = values:reshape(-1, 1), values:reshape(1, -1)
  local earlier = counting(n, 2, values):lt(counting(n, 1, values))
  local before = other:gt(mine):logical_or(other:eq(mine):logical_and(earlier))
  local rank = before:to(values.dtype):sum(2, true)
  return rank:eq(counting(n, 2, values)):to(values.dtype)
end

return orthogonal
