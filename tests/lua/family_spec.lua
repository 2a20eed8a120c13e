-- Facts about families: the points they sample, their statistics, the diagonal family's precision, and a family of
-- one's own.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local watch = problems.watch
local family = require "perigee.family"
local vectors = require "perigee.vectors"

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
  it("refuses what makes no sense", function()
    assert(not pcall(family.diagonal, { h0 = 1 }))
    local known, said = pcall(family.diagonal, { ess = 1, hess_approx = "exakt" })
    assert(not known and said:find('"price", "gradsq" or "exact", not "exakt"; did you mean "exact"?', 1, true), said)
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
