-- Facts about pg.linalg: factors, solutions and decompositions, outside of traces and inside, and their messages.
-- Kernels of triangular factors and eigenvectors are held against their definitions in tests/c/test_linalg.c too,
-- derivatives against differences in tests/c/test_ops.c, batches against their entries in tests/c/test_vmap.c.
local support = require "support"
local pg, core = support.pg, support.core
local linalg = pg.linalg

-- A symmetric positive definite matrix, and a right-hand side [n, k].
local function system(n, k, dtype)
  local x = pg.randn(core.key(n), { n, n }, dtype or "f64")
  return x:matmul(x:t()) + n * pg.eye(n, dtype or "f64"), pg.randn(core.key(n + 1), { n, k }, dtype or "f64")
end

local function largest(x) return x.size > 0 and x:abs():max():item() or 0 end

local function flip(x) return x:transpose(-2, -1) end

local function random(seed, shape, dtype) return pg.randn(core.key(seed), shape, dtype or "f64") end

-- How far the columns are from orthonormal.
local function skewness(q) return largest(flip(q):matmul(q) - pg.eye(q.shape[q.ndim], q.dtype)) end

local SHAPES = { { 1, 1 }, { 7, 2 }, { 2, 7 }, { 64, 64 }, { 130, 65 }, { 65, 130 }, { 4, 0 }, { 3, 5, 4 },
  { 2, 2, 3, 5 } }

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

  it("finds eigenvectors, each with its first large component positive", function()
    local values, vectors = linalg.eigh(pg.tensor({ { 2, 1 }, { 1, 2 } }, "f64"))
    assert(support.difference(values:totable(), { 1, 3 }) < 1e-14)
    assert(support.difference(vectors:slice(1):totable(), { 0.5 ^ 0.5, 0.5 ^ 0.5 }) < 1e-15)
    local a = system(40, 1)
    values, vectors = linalg.eigh(a)
    assert(largest(a:matmul(vectors) - vectors * values) < 1e-12)
    assert(skewness(vectors) < 1e-13)
  end)

  for _, dtype in ipairs { "f32", "f64" } do
    local eps = dtype == "f32" and 2.0 ^ -23 or 2.0 ^ -52

    it("decomposes in " .. dtype, function()
      for _, shape in ipairs(SHAPES) do
        local a = random(5, shape, dtype)
        local m, n = shape[#shape - 1], shape[#shape]
        local q, r = linalg.qr(a)
        assert.same({ m, math.min(m, n) }, { q.shape[q.ndim - 1], q.shape[q.ndim] })
        assert(largest(q:matmul(r) - a) < 40 * eps and skewness(q) < 40 * eps)
        for i = 1, math.min(m, n) do
          for j = 1, i do
            local at = r:reshape(-1, math.min(m, n), n):slice({}, i, j)
            if j < i then assert.equal(0, largest(at)) else assert(at:min():item() > 0) end
          end
        end
        local u, s, vt = linalg.svd(a)
        local column = s.shape
        table.insert(column, #column, 1)
        assert(largest((u * s:reshape(column)):matmul(vt) - a) < 200 * eps)
        assert(skewness(u) < 100 * eps and skewness(flip(vt)) < 100 * eps)
        if s.shape[s.ndim] > 1 then
          assert(s:min():item() >= 0)
          local flat = s:reshape(-1, math.min(m, n))
          assert((flat:slice({}, { 1, -2 }) - flat:slice({}, { 2, -1 })):min():item() >= 0)
        end
      end
    end)

    it("solves general systems in " .. dtype, function()
      for _, n in ipairs { 1, 2, 63, 130 } do
        local a, b = random(n, { n, n }, dtype) + n * pg.eye(n, dtype), random(3, { n, 5 }, dtype)
        assert(largest(a:matmul(linalg.solve(a, b)) - b) < 40 * eps)
        assert(largest(a:t():matmul(linalg.solve(a, b, { transpose = true })) - b) < 40 * eps)
        assert.same(linalg.solve(a, b:slice({}, { 2, 2 })):bytes(), linalg.solve(a, b:slice({}, 2)):bytes())
        assert(largest(linalg.inv(a):matmul(a) - pg.eye(n, dtype)) < 40 * eps)
      end
    end)
  end

  it("needs pivots: a system whose first pivot is 0", function()
    local a = pg.tensor({ { 0, 2 }, { 3, 1 } }, "f64")
    assert.same({ 1, 2 }, linalg.solve(a, pg.tensor({ 4, 5 }, "f64")):totable())
    assert(math.abs(linalg.det(a):item() + 6) < 1e-14)
  end)

  it("finds determinants: of products, of factors, of permutations", function()
    local a, b = random(1, { 9, 9 }), random(2, { 9, 9 })
    local sign, log = linalg.slogdet(a:matmul(b))
    assert(math.abs(sign:item() * math.exp(log:item()) / (linalg.det(a) * linalg.det(b)):item() - 1) < 1e-12)
    assert.same({ 1, -1, 1 }, { linalg.det(pg.eye(0, "f64")):item(),
      linalg.det(pg.tensor({ { 0, 1 }, { 1, 0 } }, "f64")):item(),
      linalg.det(pg.tensor({ { 0, 1, 0 }, { 0, 0, 1 }, { 1, 0, 0 } }, "f64")):item() })
    local spd = system(30, 1)
    local by_factor = 2 * (linalg.cholesky(spd) * pg.eye(30, "f64")):sum(2):log():sum():item()
    assert(math.abs(select(2, linalg.slogdet(spd)):item() - by_factor) < 1e-12)
  end)

  it("finds orthonormal columns of matrices of any rank", function()
    for _, a in ipairs { random(1, { 5, 2 }):matmul(random(2, { 2, 5 })), pg.zeros({ 5, 3 }, "f64") } do
      local q, r = linalg.qr(a)
      assert(skewness(q) < 1e-14 and largest(q:matmul(r) - a) < 1e-14)
    end
  end)

  it("is canonical: the factors that a matrix was made of come back", function()
    local q, r = linalg.qr(random(1, { 8, 5 }))
    local q2, r2 = linalg.qr(q:matmul(r))
    assert(largest(q2 - q) < 1e-13 and largest(r2 - r) < 1e-13)
    local u, s, vt = linalg.svd(random(2, { 8, 5 }))
    local u2, s2, vt2 = linalg.svd((u * s):matmul(vt))
    assert(largest(u2 - u) < 1e-13 and largest(s2 - s) < 1e-13 and largest(vt2 - vt) < 1e-13)
  end)

  it("fits least squares: orthogonal residuals, shortest solutions, any rank with rcond", function()
    local a, b = random(1, { 20, 6 }), random(2, { 20, 3 })
    local x = linalg.lstsq(a, b)
    assert(largest(a:t():matmul(a:matmul(x) - b)) < 1e-13)
    assert(largest(x - linalg.lstsq(a, b, { rcond = 1e-12 })) < 1e-13)
    local wide, right = random(3, { 4, 9 }), random(4, { 4 })
    local short = linalg.lstsq(wide, right)
    assert.same({ 9 }, short.shape)
    assert(largest(wide:matmul(short) - right) < 1e-13)
    assert(largest(short - linalg.pinv(wide):matmul(right)) < 1e-13)
    local poor = random(5, { 12, 2 }):matmul(random(6, { 2, 7 })) -- of rank 2
    local y = linalg.lstsq(poor, b:slice { 1, 12 }, { rcond = 1e-10 })
    assert(largest(poor:t():matmul(poor:matmul(y) - b:slice { 1, 12 })) < 1e-12)
    local inverse = linalg.pinv(poor)
    assert(largest(inverse:matmul(poor):matmul(inverse) - inverse) < 1e-13)
    assert(largest(poor:matmul(inverse):matmul(poor) - poor) < 1e-12)
    assert(largest(linalg.pinv(pg.zeros({ 3, 2 }, "f64"))) == 0)
  end)

  -- Everything there is, of a stack of square matrices near 6 times the unit.
  local function everything(a, b)
    local all = { linalg.cholesky(a), linalg.solve(a, b), linalg.solve_triangular(a, b), linalg.slogdet(a) }
    all[#all + 1] = linalg.inv(a)
    for _, f in ipairs { linalg.qr, linalg.svd, linalg.eigh } do
      for _, part in ipairs { f(a) } do all[#all + 1] = part end
    end
    return all
  end

  it("gives the same bits in a trace, for any number of threads, and in a stack", function()
    local n = 70
    local a = random(1, { 3, n, n })
    a = a + flip(a) + 6 * n ^ 0.5 * pg.eye(n, "f64")
    local b = random(2, { 3, n, 2 })
    local expected = everything(a, b)
    for k, x in ipairs(pg.jit(everything)(a, b)) do assert.equal(expected[k]:bytes(), x:bytes()) end
    for threads = 1, 3 do
      core.set_threads(threads)
      for i = 1, 3 do
        for k, x in ipairs(everything(a:slice(i), b:slice(i))) do
          assert.equal(expected[k]:slice(i):bytes(), x:bytes())
        end
      end
    end
    core.set_threads(0)
  end)

  it("batches", function()
    local a, b = random(1, { 4, 6, 6 }) + 6 * pg.eye(6, "f64"), random(2, { 4, 6 })
    local function fit(x, y) return linalg.lstsq(x, y) + linalg.solve(x, y), select(2, linalg.svd(x)) end
    local both, values = pg.vmap(fit)(a, b)
    local shared = pg.vmap(linalg.solve, { false, 1 })(a:slice(1), b)
    for i = 1, 4 do
      local one, s = fit(a:slice(i), b:slice(i))
      assert(largest(both:slice(i) - one) < 1e-14 and largest(values:slice(i) - s) < 1e-14)
      assert(largest(shared:slice(i) - linalg.solve(a:slice(1), b:slice(i))) < 1e-15)
    end
  end)

  it("gives NaN where there is nothing to find", function()
    local function all_nan(x) return not pg.isfinite(x):to("f64"):max():gt(0):item() end
    local singular, bad = pg.zeros { 3, 3 }, pg.ones { 3, 3 } / 0
    assert(all_nan(linalg.solve(singular, pg.ones { 3 })) and all_nan(linalg.inv(singular)))
    local sign, log = linalg.slogdet(singular)
    assert.same({ 0, -math.huge, 0 }, { sign:item(), log:item(), linalg.det(singular):item() })
    for _, f in ipairs { linalg.qr, linalg.svd, linalg.eigh } do
      for _, part in ipairs { f(bad) } do assert(all_nan(part)) end
    end
    local _, r = linalg.qr(singular)
    assert.equal(0, largest(r))
  end)

  it("is differentiated: log det by Cholesky has the inverse as its gradient, and that again", function()
    local a = system(9, 1)
    local inverse = linalg.inv(a)
    local function log_det(x) return 2 * (linalg.cholesky(x) * pg.eye(9, "f64")):sum(2):log():sum() end
    assert(largest(pg.grad(log_det)(a) - inverse) < 1e-14)
    assert(largest(pg.grad(function(x) return select(2, linalg.slogdet(x)) end)(a) - inverse:t()) < 1e-14)
    local v = random(3, { 9, 9 })
    v = v + v:t()
    assert(largest(pg.hvp(log_det)(v, a) + inverse:matmul(v):matmul(inverse)) < 1e-14)
  end)

  it("is differentiated: the nuclear norm has u vt as its gradient, the spectral norm their first", function()
    for _, shape in ipairs { { 6, 4 }, { 4, 6 }, { 5, 5 } } do
      local a = random(1, shape)
      local u, _, vt = linalg.svd(a)
      assert(largest(pg.grad(function(x) return select(2, linalg.svd(x)):sum() end)(a) - u:matmul(vt)) < 1e-13)
      local first = u:slice({}, { 1, 1 }):matmul(vt:slice { 1, 1 })
      assert(largest(pg.grad(function(x) return select(2, linalg.svd(x)):max() end)(a) - first) < 1e-13)
    end
  end)

  it("is differentiated where values are equal, as long as the vectors do not matter", function()
    local a = 3 * pg.eye(4, "f64")
    assert.same((2 * a):totable(), pg.grad(function(x) return (linalg.eigh(x) ^ 2):sum() end)(a):totable())
    assert(largest(pg.grad(function(x) return (select(2, linalg.svd(x)) ^ 2):sum() end)(a) - 2 * a) < 1e-14)
  end)

  it("is differentiated: least squares as its normal equations, wide QR as the tall one", function()
    local a, b = random(1, { 7, 4 }), random(2, { 7 })
    local function by_qr(x, y) return (linalg.lstsq(x, y) ^ 2):sum() end
    local function by_normal(x, y) return (linalg.solve_spd(x:t():matmul(x), x:t():matmul(y)) ^ 2):sum() end
    local da, db = pg.grad(by_qr, { wrt = { 1, 2 } })(a, b)
    local na, nb = pg.grad(by_normal, { wrt = { 1, 2 } })(a, b)
    assert(largest(da - na) < 1e-11 and largest(db - nb) < 1e-11)
    local wide = random(3, { 3, 5 })
    local function product(x) -- q r is x itself, so its derivative is the identity's
      local q, r = linalg.qr(x)
      return (q:matmul(r) * pg.arange(15, "f64"):reshape(3, 5)):sum()
    end
    assert(largest(pg.grad(product)(wide) - pg.arange(15, "f64"):reshape(3, 5)) < 1e-12)
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
    raises(function() local _ = linalg.solve(a, pg.ones({ 2 }, "f64")) end, "[3] or [3, columns]")
    raises(function() local _ = linalg.solve(pg.ones({ 2, 3, 3 }, "f64"), b) end, "the same leading axes")
    raises(function() local _ = linalg.inv(b) end, "linalg.inv: a square matrix was expected, got [3, 2]")
    raises(function() local _ = linalg.qr(pg.ones { 3 }) end, "linalg.qr: a matrix was expected")
    raises(function() local _ = linalg.lstsq(b, pg.ones({ 2 }, "f64")) end, "as many rows as a, 3, not the shape [2]")
    raises(function() local _ = linalg.lstsq(b, b, { rcnd = 1 }) end, "rcond")
    raises(function() local _ = linalg.pinv(pg.tensor({ { 1 } }, "i64")) end, "f32 or f64")
  end)
end)
