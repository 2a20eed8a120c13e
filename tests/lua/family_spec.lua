-- Facts about families: the points they sample, their statistics, the diagonal family's precision, and a family of one's
-- own.
package.path = "tests/lua/?.lua;" .. package.path
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local family, rule = require "perigee.family", require "perigee.rule"
local vectors = require "perigee.vectors"

-- Statistics and loss of one evaluation of an optimizer's plain step, read through a rule that stores them.
local function watch(fields)
  local state = {}
  for i, field in ipairs(fields) do state[i] = "seen_" .. field end
  return rule.define {
    name = "watch", state = state,
    update = function(p, stats, s)
      for _, field in ipairs(fields) do s["seen_" .. field] = stats[field] end
      return p + 0
    end,
  }
end

-- 0.5 sum_j c_j (theta_j - 1)^2, whatever the batch.
local CURVATURE = { 0.5, 1, 2, 4 }
local function quadratic(_, theta)
  local d = theta - 1
  return 0.5 * (support.flat("f64", CURVATURE) * d * d):sum()
end

local function quadratic_problem()
  return problems.logistic { X = { { 0, 0, 0, 0 } }, y = { 1 }, loss = quadratic, w0 = { 0, 3, 1, -2 } }
end

describe("the diagonal family", function()
  it("samples with variance 1 / (ess (h + decay))", function()
    local n = 40000
    local theta = core.vector(support.layout { { n } }, "f64")
    local f = family.diagonal { ess = 100, h0 = 0.3 }
    local q = f:init(theta)
    local sum, squares = 0, 0
    local builder = require "perigee.builder"
    local out
    local program = builder.trace(function(b)
      local o = { ess = 100, weight_decay = 0.2, noise = true }
      local sample = f.definition.sample({ mean = b:slot(q.mean), h = b:slot(q.h) }, b:slot(core.key(3)), o)
      out = b:output(sample)
    end)
    program:run()
    for _, x in ipairs(program:result(out):totable()) do
      sum, squares = sum + x, squares + x * x
    end
    local variance = squares / n * 100 * (0.3 + 0.2)
    assert(math.abs(variance - 1) < 4 * math.sqrt(2 / n), "scaled variance " .. variance)
    assert(math.abs(sum / n) * math.sqrt(50) < 4 / math.sqrt(n))
  end)

  it("has h statistics whose mean is the diagonal of the Hessian, to 4 standard errors", function()
    local p = quadratic_problem()
    local opt = pg.optimizer { family = family.diagonal { ess = 10, h0 = 1, samples = 1 }, rule = watch { "h" } }
    local st = opt:init(p.theta0(), core.key(11))
    local count, sums, squares = 4000, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }
    local batch = p.batch { 0 }
    for _ = 1, count do
      st.q.h:copy_from(pg.full_like(st.q.h, 1))
      opt:step(st, p.evaluator, batch)
      for j, x in ipairs(st.rule.seen_h:totable()) do
        sums[j], squares[j] = sums[j] + x, squares[j] + x * x
      end
    end
    for j, c in ipairs(CURVATURE) do
      local mean = sums[j] / count
      local deviation = math.sqrt((squares[j] / count - mean * mean) / count)
      assert(math.abs(mean - c) < 4 * deviation, ("h[%d]: %g +- %g, curvature %g"):format(j, mean, deviation, c))
    end
  end)

  it("with samples = K averages K evaluations with keys folded by k", function()
    local p = problems.random_logistic(40, 5)
    local function seen(samples)
      local opt = pg.optimizer { family = family.diagonal { ess = 50, h0 = 1, samples = samples }, rule = watch { "g", "h" } }
      local st = opt:init(p.theta0(), core.key(5))
      local _, info = opt:step(st, p.evaluator, p.cyclic(0, 40))
      return st, info.loss
    end
    local one, three = seen(1), seen(3)
    assert(support.difference(one.rule.seen_g:totable(), three.rule.seen_g:totable()) > 1e-6)
    -- by hand: three single evaluations under the keys that the three samples have
    local evaluation = require "perigee.evaluation"
    local builder = require "perigee.builder"
    local q, means = three.q, nil
    local key = evaluation.fold(core.key(5), evaluation.streams.noise, 0)
    local h = pg.full_like(q.mean, 1)
    for k = 1, 3 do
      local eps = pg.randn(core.apply("key_fold", nil, key, k), q.mean.layout, "f64")
      local scale = (50 * (h + 0)):sqrt()
      local theta = q.mean + eps / scale
      local g
      local program = builder.trace(function(b)
        local x = core.mark(b:slot(theta))
        local loss = p.evaluator.loss(nil, x, p.cyclic(0, 40))
        b:output(core.vjp({ loss }, { false }, { x })[1])
      end)
      program:run()
      g = vectors.clone(program:result(1))
      means = means and means + g or g
    end
    assert(support.difference(three.rule.seen_g:totable(), (means / 3):totable()) < 1e-12)
  end)

  it("keeps h + decay at or above half of what it was, whatever f and beta2", function()
    local draw = support.stream(5)
    local n = 1000
    local h, f = core.vector(support.layout { { n } }, "f64"), core.vector(support.layout { { n } }, "f64")
    for i = 0, n - 1 do
      h:data_write(i, math.abs(draw()) + 1e-3)
      f:data_write(i, draw() * 10 ^ (draw() * 2))
    end
    local before = h:totable()
    for _, beta2 in ipairs { 0, 0.3, 0.9, 0.99999, 1 } do
      local q = { h = h }
      family.diagonal { ess = 1 }.definition.update(q, { h = f }, { beta2 = beta2, weight_decay = 0.01 })
      for i, x in ipairs(q.h:totable()) do
        assert(x + 0.01 >= (before[i] + 0.01) / 2 * (1 - 1e-12), ("beta2 %g: %g from %g"):format(beta2, x, before[i]))
      end
    end
  end)

  it("refuses what makes no sense", function()
    assert(not pcall(family.diagonal, { h0 = 1 }))
    assert(not pcall(family.diagonal, { ess = 1, hess_approx = "exact" }))
    local ok, message = pcall(family.diagonal, { ess = 1, noise = false })
    assert(not ok and message:find("gradsq", 1, true), message)
  end)

  it("estimates by squared gradients without noise where asked", function()
    local p = quadratic_problem()
    local opt = pg.optimizer {
      family = family.diagonal { ess = 10, noise = false, hess_approx = "gradsq" }, rule = watch { "g", "h" },
    }
    local st = opt:init(p.theta0())
    opt:step(st, p.evaluator, p.batch { 0 })
    for j, g in ipairs(st.rule.seen_g:totable()) do
      assert.are.equal(10 * (g * g), st.rule.seen_h:totable()[j])
    end
  end)
end)

describe("the isotropic family", function()
  it("perturbs by sigma and has the gradient alone", function()
    local p = quadratic_problem()
    local opt = pg.optimizer { family = family.isotropic { sigma = 0.5 }, rule = watch { "g" } }
    local st = opt:init(p.theta0(), core.key(2))
    local sum, count = 0, 2000
    for _ = 1, count do
      opt:step(st, p.evaluator, p.batch { 0 })
      sum = sum + st.rule.seen_g:totable()[4]
    end
    -- g_4 = 4 (theta_4 - 1) = -12 + 4 * 0.5 * eps
    assert(math.abs(sum / count + 12) < 4 * 2 / math.sqrt(count))
  end)
end)

describe("a family of one's own", function()
  it("is a few lines: SAM's ascent step as a sampled point would be", function()
    local shifted = family.define {
      name = "shifted", hyper = { by = 0.1 },
      init = function(theta) return { mean = theta, count = vectors.zeros_like(theta) } end,
      sample = function(q, _, o) return q.mean + o.by, o.by end,
      statistics = function(g) return { g = g } end,
      update = function(q) q.count = q.count + 1 end,
    }
    local p = quadratic_problem()
    local opt = pg.optimizer { family = shifted { by = 0.25 }, rule = watch { "g" } }
    local st = opt:init(p.theta0())
    opt:step(st, p.evaluator, p.batch { 0 })
    opt:step(st, p.evaluator, p.batch { 0 })
    local want = {}
    for j, w in ipairs { 0, 3, 1, -2 } do want[j] = CURVATURE[j] * (w + 0.25 - 1) end
    assert(support.difference(st.rule.seen_g:totable(), want) < 1e-15)
    assert.are.same({ 2, 2, 2, 2 }, st.q.count:totable())
  end)
end)
