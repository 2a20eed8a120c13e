-- Facts about the probes of the Hessian: products, trace, eigenvalues and spectral density against pg.hessian and
-- against spectra that are known, also with dropout and batch norm, in f32; costs.
local support = require "support"
local problems = require "problems"
local normed = require "normed"
local pg, core = support.pg, support.core

local function near(expected, found, tolerance)
  assert(math.abs(expected - found) <= tolerance * math.max(1, math.abs(expected)),
    ("%.17g, not %.17g"):format(found, expected))
end

-- 0.5 sum d_i w_i^2 + a term of the first power: the Hessian of every batch is diag(d).
local function quadratic(spectrum)
  local rows, n = {}, #spectrum
  for i = 1, 6 do
    rows[i] = {}
    for j = 1, n do rows[i][j] = i * j end
  end
  local d = pg.tensor(spectrum, "f64")
  local p = problems.logistic { X = rows, y = { 1, 1, 1, 1, 1, 1 }, batch = 4, loss = function(_, theta, batch)
    return 0.5 * (d * theta.t1 * theta.t1):sum() + batch.x:matmul(theta.t1:reshape { n, 1 }):mean()
  end }
  local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0 } }
  return { optimizer = opt, state = opt:init(p.theta0()), evaluator = p.evaluator }
end

-- A regression by a small network, 25 examples in batches of 10, and the Hessian of its mean loss by pg.hessian.
local function network()
  local draw, X, y = support.stream(8), {}, {}
  for i = 1, 25 do X[i], y[i] = { draw(), draw(), draw() }, draw() end
  local net = pg.nn.sequential { pg.nn.linear(3, 4), pg.nn.tanh(), pg.nn.linear(4, 1) }
  local source = pg.evaluator.memory { x = pg.tensor(X, "f64"), y = pg.tensor(y, "f64"):reshape { 25, 1 } }
  local function loss(_, theta, batch) return (net(theta, batch.x, {}) - batch.y):square():mean() end
  local evaluator = pg.evaluator { model = net, loss = loss, source = source, batch = 10 }
  local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 } }
  local st = opt:init(net:init(pg.key(2), "f64"))
  local hessian = pg.hessian(function(theta) return loss(nil, theta, source.tensors) end)(st.theta)
  return { optimizer = opt, state = st, evaluator = evaluator }, hessian
end

describe("products with the Hessian", function()
  it("equal those of pg.hessian, the batches weighted by their examples, and cost 2 gradients", function()
    local where, hessian = network()
    local theta = where.state.theta
    local v = require("perigee.generic").normal_like(pg.key(5), theta)
    local expected = hessian:matmul(v:flat():reshape { theta.size, 1 }):reshape { theta.size }
    local product = pg.probe.hvp(where, v)
    assert(support.difference(product:flat():totable(), expected:totable()) < 1e-14)
    assert.equal(2 * 25, where.state.cost.probes)
    assert.same({ 0, 0, 0 }, { where.state.cost.steps, where.state.cost.passes, where.state.cost.forward })
    local first = { where.evaluator.source:take(core.tensor("i64", { 3 }, { 0, 1, 2 })) }
    pg.probe.hvp(where, v, { batches = first })
    assert.equal(2 * 28, where.state.cost.probes)
    assert.error_matches(function() pg.probe.hvp(where, pg.ones { 3 }) end, "v must be a vector like the parameters")
    assert.error_matches(function() pg.probe.hvp(where, v, { at = 3 }) end, "at must be a vector like the parameters")
  end)

  it("are of one symmetric matrix with dropout and batch norm too, and move no buffers", function()
    for _, dtype in ipairs { "f64", "f32" } do
      local p = normed.problem { dtype = dtype }
      local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 } }
      local st = opt:init(p.theta0(), core.key(6), p.buffers0())
      opt:step(st, p.evaluator, p.part(0))
      local where = { optimizer = opt, state = st, evaluator = p.evaluator }
      local before = support.state_bytes(st)
      local normal_like = require("perigee.generic").normal_like
      local u, v = normal_like(pg.key(1), st.theta), normal_like(pg.key(2), st.theta)
      for _, train in ipairs { true, false } do
        local hu, hv = pg.probe.hvp(where, u, { train = train }), pg.probe.hvp(where, v, { train = train })
        near((u:to("f64") * hv):sum():item(), (v:to("f64") * hu):sum():item(), dtype == "f64" and 1e-13 or 1e-5)
        assert.equal(hu:bytes(), pg.probe.hvp(where, u, { train = train }):bytes())
      end
      assert.equal(before, support.state_bytes(st))
    end
  end)
end)

describe("pg.probe.trace", function()
  it("is exact by signs for a diagonal matrix, and costs 2 gradients an example and sample", function()
    local where = quadratic { 5, -2, 0.5, 0 }
    local found = pg.probe.trace(where, { samples = 3 })
    near(3.5, found.trace, 1e-15)
    near(0, found.error, 1e-15)
    assert.same({ 3, 3 * 2 * 6, 3 * 2 * 6 }, { found.samples, found.evaluations, where.state.cost.probes })
  end)

  it("agrees with pg.hessian within its standard error, by both kinds of vectors", function()
    local where, hessian = network()
    local trace, rows = 0, hessian:totable()
    for i, row in ipairs(rows) do trace = trace + row[i] end
    for _, distribution in ipairs { "rademacher", "normal" } do
      local found = pg.probe.trace(where, { samples = 300, distribution = distribution })
      assert(math.abs(found.trace - trace) < 3 * found.error,
        ("%g ± %g, not %g"):format(found.trace, found.error, trace))
      assert(found.error < 0.1 * math.abs(trace))
      local again = pg.probe.trace(where, { samples = 300, distribution = distribution })
      assert.equal(found.trace, again.trace)
      assert.not_equal(found.trace, pg.probe.trace(where, { samples = 300, probe_key = pg.key(1) }).trace)
    end
  end)
end)

describe("pg.probe.eigenvalues", function()
  it("finds a known spectrum, both ends of it, and stops when it is exhausted", function()
    local where = quadratic { 5, -7, 0.5, 3, 1e-3, 2 }
    local found = pg.probe.eigenvalues(where, { values = 3, tolerance = 0 })
    assert(support.difference(found.values, { 5, 3, 2 }) < 1e-13)
    near(-7, found.lowest, 1e-13)
    assert.same({ 6, true, 6 * 2 * 6 }, { found.steps, found.converged, found.evaluations })
    found = pg.probe.eigenvalues(quadratic { 4, 4, 4, 1 }, { values = 2 }) -- one of equal ones
    assert(support.difference(found.values, { 4, 1 }) < 1e-13)
    assert.equal(2, found.steps)
  end)

  it("agrees with pg.hessian of a network, whose residuals bound the errors before that", function()
    local where, hessian = network()
    local exact = pg.linalg.eigh(hessian):totable()
    local n = #exact
    local found = pg.probe.eigenvalues(where, { values = 4, tolerance = 1e-9 })
    assert.is_true(found.converged)
    for i = 1, 4 do near(exact[n + 1 - i], found.values[i], 1e-12) end
    found = pg.probe.eigenvalues(where, { values = 2, steps = 6 })
    assert.same({ 6, false }, { found.steps, found.converged })
    for i = 1, 2 do
      local nearest = math.huge
      for _, value in ipairs(exact) do nearest = math.min(nearest, math.abs(value - found.values[i])) end
      assert(nearest <= found.residuals[i] + 1e-14)
      assert(found.residuals[i] > 0)
    end
  end)

  it("refuses numbers that mean nothing", function()
    local where = quadratic { 1, 2 }
    assert.error_matches(function() pg.probe.eigenvalues(where, { values = 0 }) end, "values is a whole number")
    assert.error_matches(function() pg.probe.spectrum(where, { distribution = "sign" }) end, 'rademacher" or "normal"')
    assert.error_matches(function() pg.probe.spectrum(where, { width = -1 }) end, "width is a number of at least 0")
    assert.error_matches(function() pg.probe.trace(where, { sample = 3 }) end, "did you mean 'samples'")
  end)
end)

describe("pg.probe.spectrum", function()
  it("has the moments of the eigenvalues, exactly by signs for a diagonal matrix", function()
    local spectrum = { 5, -2, 0.5, 0, 1, 3 }
    local found = pg.probe.spectrum(quadratic(spectrum), { samples = 3, steps = 10 })
    for power = 0, 5 do
      local expected, moment = 0, 0
      for _, value in ipairs(spectrum) do expected = expected + value ^ power / #spectrum end
      for j, node in ipairs(found.nodes) do moment = moment + found.weights[j] * node ^ power end
      near(expected, moment, 1e-12)
    end
    assert.same({ 3 * 6, 3 * 6 * 2 * 6 }, { #found.nodes, found.evaluations })
  end)

  it("has those of a network within the noise of its vectors, and a density of mass 1 that can be drawn", function()
    local where, hessian = network()
    local exact, second = pg.linalg.eigh(hessian):totable(), 0
    for _, value in ipairs(exact) do second = second + value ^ 2 / #exact end
    local found, estimate = pg.probe.spectrum(where, { samples = 60, steps = 30, points = 400 }), 0
    for j, node in ipairs(found.nodes) do estimate = estimate + found.weights[j] * node ^ 2 end
    assert(math.abs(estimate / second - 1) < 0.15, estimate / second)
    local mass = 0
    for i = 2, 400 do
      mass = mass + 0.5 * (found.density[i] + found.density[i - 1]) * (found.grid[i] - found.grid[i - 1])
    end
    near(1, mass, 5e-3)
    local text = pg.probe.draw(found, { width = 60, utf8 = false, color = false })
    assert.matches("spectral density of the Hessian", text, 1, true)
    assert.matches("* density", text, 1, true)
  end)
end)
