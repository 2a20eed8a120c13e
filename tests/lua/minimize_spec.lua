-- Facts about minima: of a quadratic they are the solution of a system, of a logistic regression both ways agree, and
-- the Hessian that comes with them is that of central differences.
local support = require "support"
local pg = support.pg

local function spd(n, key)
  local a = pg.randn(key, { n, n }, { dtype = "f64" })
  return a:matmul(a:t()) / n + pg.eye(n, { dtype = "f64" })
end

-- Regularized logistic regression of made-up data, a function of w [d, 1].
local function logistic(n, d)
  local x = pg.randn(pg.key(3), { n, d }, { dtype = "f64" })
  local y = 2 * pg.uniform(pg.key(4), { n, 1 }, { dtype = "f64" }):lt(0.3):to "f64" - 1
  return function(w) return pg.softplus(-y * x:matmul(w)):mean() + 0.005 * (w * w):sum() end
end

describe("pg.minimize", function()
  it("newton_cg solves a system: the minimum of a quadratic", function()
    local a, b = spd(30, pg.key(1)), pg.randn(pg.key(2), { 30 }, { dtype = "f64" })
    local found = pg.minimize.newton_cg(function(x) return 0.5 * x:dot(a:matmul(x)) - x:dot(b) end,
      pg.zeros({ 30 }, "f64"))
    assert.is_true(found.converged)
    assert.is_true((found.x - pg.linalg.solve_spd(a, b)):abs():max():item() < 1e-11)
    local v = pg.randn(pg.key(5), { 30 }, { dtype = "f64" })
    assert.is_true((found.product(v) - a:matmul(v)):abs():max():item() < 1e-12)
  end)

  it("newton_cg and find agree on a logistic regression, to the last digits", function()
    local f = logistic(80, 7)
    local one = pg.minimize.newton_cg(f, pg.zeros({ 7, 1 }, "f64"))
    local two = pg.minimize.find(f, pg.zeros({ 7, 1 }, "f64"))
    assert.is_true(one.converged)
    assert.is_true(two.converged)
    assert.is_true(math.abs(one.value - two.value) < 1e-15)
    local x = one.x:reshape { 7 }:totable()
    for i = 1, 7 do assert.is_true(math.abs(x[i] - two.x[i]) < 1e-12) end
    local d = pg.randn(pg.key(6), { 7, 1 }, { dtype = "f64" })
    local quadratic = pg.minimize.quadratic(two.hessian, d:reshape { 7 }:totable())
    assert.is_true(math.abs((d * one.product(d)):sum():item() - quadratic) < 1e-12 * quadratic)
  end)

  it("newton_cg ends after so many steps, and says that it is not there", function()
    local found = pg.minimize.newton_cg(logistic(80, 7), pg.zeros({ 7, 1 }, "f64"), { iterations = 1 })
    assert.is_false(found.converged)
    assert.equal(1, found.iterations)
  end)

  it("newton_cg names an option it does not have", function()
    local ok, message = pcall(pg.minimize.newton_cg, logistic(8, 2), pg.zeros({ 2, 1 }, "f64"), { tolerence = 1 })
    assert.is_false(ok)
    assert.is_truthy(tostring(message):find("tolerance", 1, true), message)
  end)
end)
