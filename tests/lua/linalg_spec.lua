-- Facts about pg.linalg: factors, solutions and eigenvectors, outside of traces and inside, and their messages. The
-- kernels are held against their definitions in tests/c/test_linalg.c, the derivatives in tests/c/test_ops.c.
local support = require "support"
local pg, core = support.pg, support.core
local linalg = pg.linalg

-- A symmetric positive definite matrix, and a right-hand side [n, k].
local function system(n, k, dtype)
  local x = pg.randn(core.key(n), { n, n }, dtype or "f64")
  return x:matmul(x:t()) + n * pg.eye(n, dtype or "f64"), pg.randn(core.key(n + 1), { n, k }, dtype or "f64")
end

local function largest(x) return x:abs():max():item() end

describe("linalg", function()
  it("factors", function()
    local l = linalg.cholesky(pg.tensor({ { 4, 2 }, { 2, 5 } }, "f64"))
    assert.same({ { 2, 0 }, { 1, 2 } }, l:totable())
    assert.same(l:totable(), linalg.cholesky(pg.tensor({ { 4, 3 }, { 1, 5 } }, "f64")):totable())
    assert.same({ { true, true }, { true, false } },
      pg.isfinite(linalg.cholesky(pg.tensor { { 1, 2 }, { 2, 1 } })):totable())
  end)

  for _, dtype in ipairs { "f32", "f64" } do
    it("solves in " .. dtype, function()
      local a, b = system(70, 3, dtype)
      local l, tolerance = linalg.cholesky(a), dtype == "f32" and 1e-4 or 1e-12
      local y, z = linalg.solve_triangular(l, b), linalg.solve_triangular(l, b, { transpose = true })
      assert(largest(l:matmul(y) - b) < tolerance)
      assert(largest(l:t():matmul(z) - b) < tolerance)
      assert(largest(a:matmul(linalg.cholesky_solve(l, b)) - b) < tolerance)
      assert(largest(a:matmul(linalg.solve_spd(a, b)) - b) < tolerance)
      local column = linalg.solve_spd(a, b:slice({}, 2))
      assert.same({ 70 }, column.shape)
      assert(largest(a:matmul(column) - b:slice({}, 2)) < tolerance)
    end)
  end

  it("finds eigenvectors", function()
    assert(support.difference((linalg.eigh(pg.tensor({ { 2, 1 }, { 1, 2 } }, "f64"))):totable(), { 1, 3 }) < 1e-14)
    local a = system(40, 1)
    local values, vectors = linalg.eigh(a)
    assert(largest(a:matmul(vectors) - vectors * values) < 1e-12)
    assert(largest(vectors:t():matmul(vectors) - pg.eye(40, "f64")) < 1e-13)
  end)

  it("gives the same bits in a trace", function()
    local a, b = system(66, 2)
    local function all(x, y)
      local values, vectors = linalg.eigh(x)
      return linalg.cholesky(x), linalg.solve_spd(x, y), values, vectors
    end
    local eager, traced = { all(a, b) }, { pg.jit(all)(a, b) }
    for i = 1, 4 do assert.equal(eager[i]:bytes(), traced[i]:bytes()) end
  end)

  it("is differentiated: log det by Cholesky has the inverse as its gradient, and that again", function()
    local a = system(9, 1)
    local inverse = linalg.solve_spd(a, pg.eye(9, "f64"))
    local function log_det(x) return 2 * (linalg.cholesky(x) * pg.eye(9, "f64")):sum(2):log():sum() end
    assert(largest(pg.grad(log_det)(a) - inverse) < 1e-14)
    local v = pg.randn(core.key(3), { 9, 9 }, "f64")
    v = v + v:t()
    assert(largest(pg.hvp(log_det)(v, a) + inverse:matmul(v):matmul(inverse)) < 1e-14)
  end)

  it("refuses what does not fit, at the recipe's line", function()
    local function raises(f, ...)
      local ok, message = pcall(f)
      assert.is_false(ok)
      for _, part in ipairs { "linalg_spec.lua", ... } do assert.matches(part, message, 1, true) end
    end
    local a, b = system(3, 2)
    raises(function() local _ = linalg.cholesky(b) end, "a square matrix was expected", "[3, 2]")
    raises(function() local _ = linalg.cholesky(3) end, "linalg.cholesky: a tensor was expected, got 3")
    raises(function() local _ = linalg.solve_triangular(a, b:t()) end, "[3] or [3, columns]")
    raises(function() local _ = linalg.solve_triangular(a, b, { transposed = true }) end, "transpose")
    raises(function() local _ = pg.grad(function(x) return (linalg.eigh(x)):sum() end)(a) end,
      "eigh: has no derivative")
  end)
end)
