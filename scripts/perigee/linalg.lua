-- linalg.lua: pg.linalg: factors, solutions, decompositions and determinants of matrices in f32 or f64, outside of
-- traces and inside. A matrix lies on the last two axes; axes before those make a stack of matrices, each handled by
-- itself. The mathematics is the engine's (engine/ops/linalg.c, lu.c, decompose.c); here its results are taken apart
-- and put together.
local core = require "perigee.core"
local check = require "perigee.tensor_args"

local apply, check_tensor, raise = core.apply, check.check_tensor, check.raise
local linalg = {}

-- ---- parts of matrices ----

-- Rows first … first + count - 1 of each matrix, from 1; axis -1: columns.
local function part(x, first, count, axis)
  local a, b, c, n = {}, {}, {}, x.ndim
  for i, extent in ipairs(x.shape) do a[i], b[i], c[i] = 0, extent, 1 end
  local at = n + 1 + (axis or -2)
  a[at], b[at] = first - 1, count
  return apply("slice", { a = a, b = b, c = c }, x)
end

-- Row i of each matrix, as [.., n].
local function row(x, i)
  local shape = x.shape
  table.remove(shape, #shape - 1)
  return part(x, i, 1):reshape(shape)
end

local function flip(x) return x:transpose(-2, -1) end

-- The last two extents of a matrix.
local function extents(what, x)
  local shape = check_tensor(what, x).shape
  if #shape < 2 then raise("%s: a matrix was expected, got a tensor with %d axes", what, #shape) end
  return shape[#shape - 1], shape[#shape]
end

-- The unit matrix for each matrix of x, square.
local function eye_like(x)
  return apply("eye", { a = { x.shape[x.ndim] }, dtype = x.dtype }):broadcast_to(x.shape)
end

-- ---- factors and solutions ----

--- pg.linalg.cholesky(a) → tensor: The lower triangular l with l l^T = a, for a symmetric positive definite a [n, n].
-- Of a matrix that is not symmetric, the symmetric part is taken. Where a is not positive definite, l is NaN from the
-- row of the first pivot that is not positive: ask with pg.isfinite. Has derivatives of any order, which are symmetric.
-- This and all of pg.linalg take stacks of matrices [.., n, n] too.
function linalg.cholesky(a)
  return apply("cholesky", nil, check_tensor("linalg.cholesky", a))
end

local function solve_with(op, what, a, b, opts)
  local o = check.read_options("pg." .. what, opts, { transpose = false })
  return apply(op, { flags = o.transpose and 1 or 0 }, check_tensor(what, a), check_tensor(what, b))
end

--- pg.linalg.solve_triangular(l, b [, { transpose = false }]) → tensor: The x with l x = b, or l^T x = b with
-- transpose = true, for l [n, n], whose lower triangle is read, and b [n] or [n, k]. Has derivatives of any order.
function linalg.solve_triangular(l, b, opts)
  return solve_with("triangular_solve", "linalg.solve_triangular", l, b, opts)
end

--- pg.linalg.cholesky_solve(l, b) → tensor: The x with l l^T x = b, from the factor l of a matrix; b [n] or [n, k].
function linalg.cholesky_solve(l, b)
  return linalg.solve_triangular(l, linalg.solve_triangular(l, b), { transpose = true })
end

--- pg.linalg.solve_spd(a, b) → tensor: The x with a x = b, for a symmetric positive definite a [n, n] and b [n] or
-- [n, k]; NaN where a is not positive definite.
function linalg.solve_spd(a, b)
  return linalg.cholesky_solve(linalg.cholesky(a), b)
end

--- pg.linalg.solve(a, b [, { transpose = false }]) → tensor: The x with a x = b, or a^T x = b with transpose = true,
-- for any square a [n, n] and b [n] or [n, k], by LAPACK's factors with partial pivoting; of stacks, a and b have the
-- same leading axes. NaN where a pivot is exactly 0. Has derivatives of any order.
function linalg.solve(a, b, opts)
  return solve_with("solve", "linalg.solve", a, b, opts)
end

--- pg.linalg.inv(a) → tensor: The inverse of a square matrix; NaN where a pivot is exactly 0. What is to be multiplied
-- by it is better given to pg.linalg.solve.
function linalg.inv(a)
  local m, n = extents("linalg.inv", a)
  if m ~= n then raise("linalg.inv: a square matrix was expected, got [%d, %d]", m, n) end
  return linalg.solve(a, eye_like(a))
end

--- pg.linalg.slogdet(a) → sign, log: The sign (1, -1, or 0) of the determinant of a square matrix and the logarithm of
-- its magnitude, each of shape []; 0 and -inf where a pivot is exactly 0. The logarithm has derivatives of any order
-- where it is finite.
function linalg.slogdet(a)
  local both = apply("slogdet", nil, check_tensor("linalg.slogdet", a))
  local shape = both.shape
  shape[#shape] = nil
  return part(both, 1, 1, -1):reshape(shape), part(both, 2, 1, -1):reshape(shape)
end

--- pg.linalg.det(a) → tensor: The determinant of a square matrix, [], as sign times exp(log) of pg.linalg.slogdet: its
-- derivative is NaN where it is 0.
function linalg.det(a)
  local sign, log = linalg.slogdet(a)
  return sign * log:exp()
end

-- ---- decompositions ----

--- pg.linalg.eigh(a) → values, vectors: The eigenvalues [n] of a symmetric a [n, n], ascending, and its eigenvectors as
-- columns [n, n], each with its first component of at least half the largest magnitude positive.
-- Of a matrix that is not symmetric, the symmetric part is taken; NaN for a matrix that is not finite. Has derivatives
-- of any order; between equal values, whose vectors are not determined, the turning of the vectors is left out, so that
-- derivatives of functions of the values stay right.
function linalg.eigh(a)
  local both = apply("eigh", nil, check_tensor("linalg.eigh", a))
  local n = both.shape[both.ndim]
  return row(both, 1), flip(part(both, 2, n))
end

--- pg.linalg.qr(a) → q, r: a = q r with q [m, k] of orthonormal columns and r [k, n] upper triangular with a diagonal
-- that is not negative, k = min(m, n); so each matrix of full rank has one. NaN for a matrix that is not finite. Has
-- derivatives of any order where the first k columns are independent.
function linalg.qr(a)
  local m, n = extents("linalg.qr", a)
  if m < n then
    local q, r = linalg.qr(part(a, 1, m, -1))
    return q, apply("concat", { a = { -1 } }, r, flip(q):matmul(part(a, m + 1, n - m, -1)))
  end
  local both = apply("qr", nil, a)
  return part(both, 1, m), part(both, m + 1, n)
end

--- pg.linalg.svd(a) → u, s, vt: a = (u * s) vt with u [m, k] of orthonormal columns, the singular values s [k],
-- falling, and vt [k, n] of orthonormal rows, k = min(m, n).
-- The first component of at least half the largest magnitude is positive in each row of vt (where m < n, in each column
-- of u). NaN for a matrix that is not finite. Has derivatives of any order, with what pg.linalg.eigh says of equal
-- values.
function linalg.svd(a)
  local m, n = extents("linalg.svd", a)
  if m < n then
    local v, s, ut = linalg.svd(flip(a))
    return flip(ut), s, flip(v)
  end
  local all = apply("svd", nil, a)
  return part(all, 1, m), row(all, m + 1), part(all, m + 2, n)
end

-- ---- least squares ----

local EPS = { f32 = 2.0 ^ -23, f64 = 2.0 ^ -52 }

-- 1 / s, and 0 for what is not above rcond times the largest.
local function inverse_values(s, rcond)
  if s.shape[s.ndim] == 0 then return s end
  local kept = s:gt(rcond * s:max(-1, { keepdims = true }))
  return apply("where", nil, kept, 1 / apply("where", nil, kept, s, 1), 0)
end

--- pg.linalg.pinv(a [, { rcond = eps max(m, n) }]) → tensor: The pseudo-inverse [n, m] of a [m, n], by singular values;
-- those that are not above rcond times the largest count as 0.
function linalg.pinv(a, opts)
  local m, n = extents("linalg.pinv", a)
  local o = check.read_options("pg.linalg.pinv", opts, { rcond = (EPS[a.dtype] or 0) * math.max(m, n) })
  local u, s, vt = linalg.svd(a)
  local scale = inverse_values(s, o.rcond)
  local shape = s.shape
  table.insert(shape, #shape, 1)
  return (flip(vt) * scale:reshape(shape)):matmul(flip(u))
end

--- pg.linalg.lstsq(a, b [, { rcond = 0 }]) → tensor: The x [n] or [n, k] for which |a x - b|^2 is least, for a [m, n]
-- and b [m] or [m, k]; of several such x, the shortest.
-- With rcond = 0 the rank must be min(m, n), and a QR decomposition gives x. Above 0 any rank will do: x is then
-- pg.linalg.pinv(a, { rcond = rcond }) b. Has derivatives of any order.
function linalg.lstsq(a, b, opts)
  local m, n = extents("linalg.lstsq", a)
  local o = check.read_options("pg.linalg.lstsq", opts, { rcond = 0 })
  local shape = check_tensor("linalg.lstsq", b).shape
  if shape[math.max(#shape - 1, 1)] ~= m then
    raise("linalg.lstsq: b has as many rows as a, %d, not the shape [%s]", m, table.concat(shape, ", "))
  end
  local right = #shape == 1 and b:reshape(m, 1) or b
  local x
  if o.rcond > 0 then
    x = linalg.pinv(a, { rcond = o.rcond }):matmul(right)
  elseif m >= n then
    local q, r = linalg.qr(a)
    x = linalg.solve_triangular(flip(r), flip(q):matmul(right), { transpose = true })
  else
    local q, r = linalg.qr(flip(a))
    x = q:matmul(linalg.solve_triangular(flip(r), right))
  end
  return #shape == 1 and x:reshape(n) or x
end

return linalg
