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

  it("lbfgs finds Rosenbrock's valley, of two numbers and of many", function()
    local function valley(n)
      return function(x)
        local a, b = x:slice { 1, n - 1 }, x:slice { 2, n }
        return ((1 - a) ^ 2 + 100 * (b - a ^ 2) ^ 2):sum()
      end
    end
    for most, x0 in pairs { [60] = pg.tensor({ -1.2, 1 }, "f64"), [250] = pg.zeros({ 20 }, "f64") } do
      local found = pg.minimize.lbfgs(valley(x0.size), x0)
      assert.equal("converged", found.why)
      assert((found.x - 1):abs():max():item() < 1e-8)
      assert(found.iterations < most and found.evaluations < 2 * found.iterations, found.iterations)
    end
  end)

  it("lbfgs with exact searches takes n steps for a quadratic of n numbers, as conjugate gradients", function()
    for _, n in ipairs { 1, 2, 6, 12 } do
      local a, b = spd(n, pg.key(n)), pg.randn(pg.key(2), { n }, "f64")
      local found = pg.minimize.lbfgs(function(x) return 0.5 * x:dot(a:matmul(x)) - x:dot(b) end,
        pg.zeros({ n }, "f64"), { curvature = 1e-8, tolerance = 1e-9 })
      assert.equal("converged", found.why)
      assert(found.iterations <= n, found.iterations)
      assert((found.x - pg.linalg.solve(a, b)):abs():max():item() < 1e-9)
    end
  end)

  it("lbfgs finds the minimum that newton_cg finds", function()
    local f = logistic(400, 20)
    local newton = pg.minimize.newton_cg(f, pg.zeros({ 20, 1 }, "f64"))
    local found = pg.minimize.lbfgs(f, pg.zeros({ 20, 1 }, "f64"), { tolerance = 1e-12 })
    assert.equal("converged", found.why)
    assert(math.abs(found.value - newton.value) < 1e-15)
    assert((found.x - newton.x):abs():max():item() < 1e-10)
  end)

  -- A model, its data in f64, and an evaluator of its loss.
  local function classifier(batch)
    local model = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.tanh(), pg.nn.linear(4, 3) }
    local x, y = pg.randn(pg.key(1), { 50, 5 }, "f64"), (3 * pg.uniform(pg.key(2), { 50 })):floor():to "i64"
    local evaluate = pg.evaluator { model = model, batch = batch, source = pg.evaluator.memory { x = x, y = y },
      loss = function(m, theta, b, ctx) return pg.cross_entropy(m(theta, b.x, ctx), b.y) end }
    local function whole(theta)
      return pg.cross_entropy(model(theta, x), y) + 0.005 * (theta * theta):sum()
    end
    return evaluate, whole, model:init(pg.key(3), "f64")
  end

  it("objective is the loss over all the data, whatever the batches", function()
    for _, batch in ipairs { 50, 7 } do
      local evaluate, whole, theta = classifier(batch)
      local value, gradient = pg.minimize.objective(evaluate, { weight_decay = 0.01 })(theta)
      local expected, slope = pg.value_and_grad(whole)(theta)
      assert(math.abs(value - expected:item()) < 1e-14)
      assert((gradient - slope):abs():max():item() < 1e-14)
    end
  end)

  it("lbfgs minimizes the loss of a model: traced, from an evaluator, or by a function that gives gradients", function()
    local evaluate, whole, theta = classifier(20)
    local found = pg.minimize.lbfgs(whole, theta)
    local reports = {}
    local same = pg.minimize.lbfgs(pg.minimize.objective(evaluate, { weight_decay = 0.01 }), theta,
      { given = true, on_step = function(report) reports[#reports + 1] = report end })
    assert.same({ "converged", "converged" }, { found.why, same.why })
    assert(math.abs(found.value - same.value) < 1e-14)
    assert.equal(same.iterations, #reports)
    for i = 2, #reports do assert(reports[i].value <= reports[i - 1].value + 1e-14) end
    assert.equal(theta.layout, same.x.layout)
    local first = pg.minimize.lbfgs(evaluate, theta, { on_step = function() return false end })
    assert.same({ "stopped", 1 }, { first.why, first.iterations })
  end)

  it("lbfgs says when it is not there", function()
    local x0 = pg.ones({ 3 }, "f64")
    local function line(x) return x:sum() end
    local function power(x) return (x ^ 4):sum() end
    local function kink(x) return x:abs():sum() end
    assert.same({ "iterations", false }, (function(r) return { r.why, r.converged } end)(
      pg.minimize.lbfgs(power, x0, { iterations = 2 })))
    assert.equal("line", pg.minimize.lbfgs(line, x0).why)
    assert.equal("line", pg.minimize.lbfgs(kink, x0 * pg.tensor({ 1, 0.7, 0.3 }, "f64")).why)
    for text, call in pairs {
      ["memory"] = function() pg.minimize.lbfgs(power, x0, { memry = 3 }) end,
      ["curvature lies between 0 and 1"] = function() pg.minimize.lbfgs(power, x0, { curvature = 1 }) end,
      ["tolerance is a number"] = function() pg.minimize.lbfgs(power, x0, { tolerance = "1" }) end,
      ["a function or an evaluator comes first, not 3"] = function() pg.minimize.lbfgs(3, x0) end,
      ["to begin with comes second, not 3"] = function() pg.minimize.lbfgs(power, 3) end,
      ["the evaluator has no source"] = function()
        pg.minimize.lbfgs(pg.evaluator { loss = power, model = {} }, x0)
      end,
    } do
      local ok, message = pcall(call)
      assert(not ok and message:find(text, 1, true), message)
    end
  end)
end)
