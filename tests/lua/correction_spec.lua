-- Facts about corrections: SVRG and alpha-SVRG reproduce reference trajectories through pg.optimizer, cost counts
-- included; a correction of one's own is a dozen lines; refusals say what is wrong.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/corrections.lua"
local correction, rule = require "perigee.correction", require "perigee.rule"

-- order: the batches that a pass over mega-batches ahead goes through, as the steps do.
local function problem()
  local spec = { X = golden.X, y = golden.y, lam = golden.lam, w0 = golden.w0, batch = golden.batch_size }
  local p = problems.logistic(spec)
  local all = p.source.batches
  function p.source.total(source, size, count) return count and size * count or source.n end
  function p.source.batches(source, size, options)
    if not options.ahead then return all(source, size, options) end
    local j = options.first - 1
    return function()
      j = j + 1
      local rows = j <= options.count and golden.batches[options.ahead + j]
      if rows then return j, p.batch(rows) end
    end
  end
  return p
end

local function per_segment(values, m)
  return function(step) return values[step // m + 1] end
end

local function flips(first)
  return function(ctx) return golden.coins[ctx.step + first] == 1 end
end

local STEPS, B, N = golden.steps, golden.batch_size, golden.n

-- name → optimizer, and the gradient evaluations per example that we count; where they differ from the reference's
-- count, `why` says so.
local methods = {
  sgd = function(h) return { rule = rule.sgd { lr = h.eta } }, 300 end,
  svrg = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.svrg { every = h.m } }, 1200
  end,
  svrg_momentum = function(h)
    return { rule = rule.sgd { lr = h.eta, momentum = h.momentum }, correction = correction.svrg { every = h.m },
      weight_decay = h.weight_decay }, 1200
  end,
  -- a segment with alpha = 0 is plain SGD here
  alpha_svrg = function(h)
    return { rule = rule.sgd { lr = h.eta },
      correction = correction.svrg { every = h.m, alpha = per_segment(h.alpha_per_segment, h.m) } },
        2 * 200 + 24 * 20 + 6 * 10
  end,
  alpha_svrg_adamw = function(h)
    return { rule = rule.adamw { lr = h.eta, beta1 = h.beta1, beta2 = h.beta2, eps = h.eps },
      correction = correction.svrg { every = h.m, alpha = per_segment(h.alpha_per_segment, h.m) },
      weight_decay = h.decoupled_weight_decay }, 2 * 200 + 24 * 20 + 6 * 10
  end,
  -- the reference takes the pass for step 30 already, we when that step comes
  lsvrg = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.lsvrg { due = flips(0) } }, 2800 - N
  end,
  sarah = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.sarah { every = h.m } }, 1140
  end,
  spider = function(h)
    return { rule = rule.sgd { lr = 1 }, correction = correction.spider { every = h.q, eps = h.eps, L = h.L } }, 1140
  end,
  page = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.page { due = flips(1) } }, 2580
  end,
  storm = function(h)
    return { rule = rule.sgd { lr = 1 }, correction = correction.storm { k = h.k, w = h.w, c = h.c } }, 590
  end,
  storm_plus = function(h)
    return { rule = rule.sgd { lr = 1 }, correction = correction.storm_plus { k = h.k } }, 590
  end,
  scsg = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.scsg { batches = h.megabatch_minibatches,
      cache = "memory" } }, 620
  end,
  saga = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.saga {} }, N + STEPS * B
  end,
  -- the reference's sigma is relative to L, and it takes the pass for step 30 already
  lkatyusha = function(h)
    local wrapped = pg.wrapper.lkatyusha { L = h.L, sigma = h.sigma * h.L, theta1 = h.theta1, theta2 = h.theta2 }
    return { rule = wrapped, correction = correction.lsvrg { due = flips(0) } }, 2800 - N
  end,
  mars_adamw = function(h)
    return { rule = rule.adamw { lr = h.lr, beta1 = h.beta1, beta2 = h.beta2, eps = h.eps },
      correction = correction.mars { gamma = h.gamma, beta1 = h.beta1 }, weight_decay = h.weight_decay }, 590
  end,
  adasvrg = function(h)
    return { rule = rule.sgd { lr = h.eta }, correction = correction.adasvrg { every = h.m } }, 1200
  end,
}

-- The same problem with the parameters in two tensors, as storm_per_tensor has it.
local function in_two_tensors()
  local p, layout = problem(), support.layout { { 6 }, { 4 } }
  local one = p.evaluator.loss
  p.evaluator.loss = function(model, theta, batch)
    return one(model, { t1 = core.apply("concat", { a = { 0 } }, theta["t1"], theta["t2"]) }, batch)
  end
  local w = golden.w0
  return p, support.vector(layout, "f64", { { table.unpack(w, 1, 6) }, { table.unpack(w, 7) } })
end

-- Follow the reference's trajectory of a method from theta; returns what the steps cost.
local function follow(p, theta, spec, params)
  local opt = pg.optimizer(spec)
  local st = opt:init(theta)
  for t = 1, golden.steps do
    opt:step(st, p.evaluator, p.batch(golden.batches[t]))
    local d = support.difference(st.theta:totable(), params[t])
    assert(d <= 1e-11, ("step %d: off by %g"):format(t, d))
  end
  return st.cost:gradients()
end

describe("golden trajectories", function()
  for _, name in ipairs(support.sorted_names(methods)) do
    it(name .. " agrees to 1e-11", function()
      local p, case = problem(), golden.methods[name]
      local spec, cost = methods[name](case.hyper)
      assert.are.equal(cost, follow(p, p.theta0(), spec, case.params))
    end)
  end

  it("storm_per_tensor agrees to 1e-11", function()
    local p, theta = in_two_tensors()
    local case = golden.methods.storm_per_tensor
    local h = case.hyper
    local storm = correction.storm { k = h.k, w = h.w, c = h.c, per_tensor = true }
    assert.are.equal(590, follow(p, theta, { rule = rule.sgd { lr = 1 }, correction = storm }, case.params))
  end)
end)

describe("a correction of one's own", function()
  it("is a dozen lines and equals the ready-made one", function()
    local mine = correction.define {
      name = "mine", hyper = { alpha = 1 },
      refresh = function(s, ctx)
        s.at = ctx.q:clone()
        s.mean = ctx:full(s.at)
      end,
      correct = function(s, ctx, o)
        local now, old = ctx:evaluate(ctx.q), ctx:evaluate(s.at)
        return (now - o.alpha * old) + o.alpha * s.mean
      end,
    }
    local results = {}
    for i, make in ipairs { mine, correction.svrg } do
      local p = problem()
      local opt = pg.optimizer { rule = rule.sgd { lr = 0.25 }, correction = make { every = 5, alpha = 0.75 } }
      local st = opt:init(p.theta0())
      for t = 1, 12 do
        opt:step(st, p.evaluator, p.batch(golden.batches[t]))
      end
      results[i] = st.theta:bytes()
    end
    assert.are.equal(results[1], results[2])
  end)

  -- STORM without its step size: no refresh, slots written by correct. v = g(w) + (1 - a) (v - g(previous)).
  it("may keep state that its traced part writes", function()
    local storm = correction.define {
      name = "storm", hyper = { a = 0.3 },
      refresh = function(s, ctx)
        s.previous = ctx.q:clone()
        s.v = ctx:full(s.previous)
      end,
      correct = function(s, ctx, o)
        local v = ctx:evaluate(ctx.q) + (1 - o.a) * (s.v - ctx:evaluate(s.previous))
        s.v, s.previous = v, ctx.q
        return v
      end,
    }
    local p = problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.25 }, correction = storm { every = 1000 } }
    local st = opt:init(p.theta0())
    local gradient = function(w, rows)
      local x, y, g = golden.X, golden.y, {}
      for j = 1, golden.d do g[j] = golden.lam * w[j] end
      for _, i in ipairs(rows) do
        local m = 0
        for j = 1, golden.d do m = m + x[i + 1][j] * w[j] end
        local s = -y[i + 1] / (1 + math.exp(y[i + 1] * m)) / #rows
        for j = 1, golden.d do g[j] = g[j] + s * x[i + 1][j] end
      end
      return g
    end
    local w, all = { table.unpack(golden.w0) }, {}
    for i = 0, golden.n - 1 do all[#all + 1] = i end
    local v, previous = gradient(w, all), { table.unpack(w) }
    for t = 1, 10 do
      local g, old = gradient(w, golden.batches[t]), gradient(previous, golden.batches[t])
      previous = { table.unpack(w) }
      for j = 1, golden.d do
        v[j] = g[j] + 0.7 * (v[j] - old[j])
        w[j] = w[j] - 0.25 * v[j]
      end
      opt:step(st, p.evaluator, p.batch(golden.batches[t]))
      assert(support.difference(st.theta:totable(), w) < 1e-12, "step " .. t)
    end
  end)

  it("may be due by a coin from its own stream", function()
    local loopless = correction.define {
      name = "loopless", hyper = { alpha = 1 },
      due = function(ctx) return ctx:coin(0.3) end,
      refresh = function(s, ctx)
        s.at = ctx.q:clone()
        s.mean = ctx:full(s.at)
      end,
      correct = function(s, ctx, o)
        return (ctx:evaluate(ctx.q) - o.alpha * ctx:evaluate(s.at)) + o.alpha * s.mean
      end,
    }
    local p = problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.25 }, correction = loopless {} }
    local st = opt:init(p.theta0())
    local refreshes = 0
    for t = 1, 30 do
      local _, info = opt:step(st, p.evaluator, p.batch(golden.batches[t]))
      refreshes = refreshes + (info.refreshed and 1 or 0)
    end
    assert(refreshes > 3 and refreshes < 20, refreshes .. " refreshes in 30 steps at p = 0.3")
    assert.are.equal(refreshes, st.segment)
    assert.are.equal(30 * 20 + refreshes * 200, st.cost:gradients())
  end)

  it("refuses to change what a repeated refresh would read again", function()
    local counting = correction.define {
      name = "counting",
      refresh = function(s, ctx)
        s.n = (s.n or 0) + 1
        s.mean = ctx:full(ctx.q)
      end,
      correct = function(s, ctx) return ctx:evaluate(ctx.q) - s.mean + s.mean end,
    }
    local p = problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = counting { every = 1 } }
    local st = opt:init(p.theta0())
    local ok, message = pcall(opt.step, opt, st, p.evaluator, p.batch(golden.batches[1]))
    assert(not ok and message:find("s.n", 1, true) and message:find("after the pass", 1, true), message)
  end)

  it("says what correct must return", function()
    local wrong = correction.define { name = "wrong", correct = function() return 3 end }
    local p = problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = wrong {} }
    local ok, message = pcall(opt.step, opt, opt:init(p.theta0()), p.evaluator, p.batch(golden.batches[1]))
    assert(not ok and message:find("must return statistics", 1, true), message)
  end)
end)

describe("periods", function()
  it("in epochs follow the source, short batch included", function()
    local p = problem() -- 200 rows in batches of 30: 7 steps an epoch
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 },
      correction = correction.svrg { every = require("perigee.schedule").epochs(1) } }
    p.evaluator.batch = 30
    local st = opt:init(p.theta0())
    local refreshed = {}
    for t = 0, 14 do
      local rows = {}
      for i = 1, t % 7 == 6 and 20 or 30 do rows[i] = (t * 30 + i) % 200 end
      local _, info = opt:step(st, p.evaluator, p.batch(rows))
      if info.refreshed then refreshed[#refreshed + 1] = t end
    end
    assert.are.same({ 0, 7, 14 }, refreshed)
  end)

  it("start late, before which the run is plain", function()
    local p = problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = correction.svrg { every = 4, start = 3 } }
    local st = opt:init(p.theta0())
    local seen = {}
    for t = 1, 9 do
      local _, info = opt:step(st, p.evaluator, p.batch(golden.batches[t]))
      seen[t] = (info.corrected and "c" or "p") .. (info.refreshed and "r" or "")
    end
    assert.are.same({ "p", "p", "p", "cr", "c", "c", "c", "cr", "c" }, seen)
    assert.are.equal(3 * 10 + 6 * 20, st.cost.steps)
    assert.are.equal(400, st.cost.passes)
  end)
end)

describe("whole-statistics arithmetic", function()
  local statistics = require "perigee.statistics"
  it("acts on every field and refuses unequal ones", function()
    local a = statistics.new { g = 2, h = 3 }
    local b = (a - 0.5 * a) + 2 * a / 4 - -a
    assert.are.same({ g = 4, h = 6 }, { g = b.g, h = b.h })
    assert(not pcall(function() return a + statistics.new { g = 1 } end))
    assert(not pcall(statistics.new, { g = 1, x = 2 }))
  end)
end)

core.collect()
