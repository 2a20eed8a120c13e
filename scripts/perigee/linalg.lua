-- linalg.lua: pg.linalg: factors, solutions and eigenvectors of matrices [n, n] in f32 or f64, outside of traces and
-- inside. No mathematics here: the operations are the engine's (engine/ops/linalg.c).
local core = require "perigee.core"
local check = require "perigee.tensor_args"

local apply, check_tensor = core.apply, check.check_tensor
local linalg = {}

--- pg.linalg.cholesky(a) → tensor: The lower triangular l with l l^T = a, for a symmetric positive definite a [n, n].
-- Of a matrix that is not symmetric, the symmetric part is taken. Where a is not positive definite, l is NaN from the
-- row of the first pivot that is not positive: ask with pg.isfinite. Has derivatives of any order, which are symmetric.
function linalg.cholesky(a)
  return apply("cholesky", nil, check_tensor("linalg.cholesky", a))
end

--- pg.linalg.solve_triangular(l, b [, { transpose = false }]) → tensor: The x with l x = b, or l^T x = b with
-- transpose = true, for l [n, n], whose lower triangle is read, and b [n] or [n, k]. Has derivatives of any order.
function linalg.solve_triangular(l, b, opts)
  local o = check.read_options("pg.linalg.solve_triangular", opts, { transpose = false })
  return apply("triangular_solve", { flags = o.transpose and 1 or 0 }, check_tensor("linalg.solve_triangular", l),
    check_tensor("linalg.solve_triangular", b))
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

--- pg.linalg.eigh(a) → values, vectors: The eigenvalues [n] of a symmetric a [n, n], ascending, and its eigenvectors as
-- columns [n, n], each up to its sign.
-- Of a matrix that is not symmetric, the symmetric part is taken; NaN for a matrix that holds any. No derivatives.
function linalg.eigh(a)
  local both = apply("eigh", nil, check_tensor("linalg.eigh", a))
  return both:slice(1), both:slice({ 2, -1 }):t()
end

return linalg
