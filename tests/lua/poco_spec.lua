-- Facts about IVON, SVRG and posterior correction: the numbered identities of the methods' specification (section 7)
-- and its golden trace (8.2). Seeds are fixed in the text.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local watch = problems.watch
local family, correction, rule = require "perigee.family", require "perigee.correction", require "perigee.rule"
local stage, statistics = require "perigee.stage", require "perigee.statistics"

local function vector(list)
  return support.flat("f64", list)
end

-- The family's statistics for a given gradient and noise.
local function diagonal_stats(q, g, eps, o)
  local scale = (o.ess * (q.h + o.weight_decay)):sqrt()
  return family.diagonal({ ess = o.ess }).definition.statistics(g, { eps = eps, scale = scale }, q, o)
end

local function move_h(q, stats, o)
  family.diagonal({ ess = o.ess }).definition.update(q, stats, o)
end

local function logistic(options)
  return problems.random_logistic(60, 4, options)
end

local function run(p, opt, steps, batch_size, st)
  st = st or opt:init(p.theta0(), core.key(9))
  for _ = 1, steps do
    opt:step(st, p.evaluator, p.cyclic(st.step, batch_size))
  end
  return st
end

local function state_bytes(st)
  local parts = {}
  for _, entry in ipairs(st:tensors()) do parts[#parts + 1] = entry[1] .. "=" .. entry[2]:bytes() end
  return table.concat(parts)
end

-- ---- IVON ----

local GOLDEN = {
  m0 = { 0.5, -0.25, 1 }, lr = 0.1, ess = 1000, h0 = 0.5, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01,
  eps = { { 1, -0.5, 0.25 }, { -2, 1.5, 0.5 }, { 0.75, 0.25, -1.25 } },
  g = { { 0.2, -0.1, 0.4 }, { -0.3, 0.6, 0.1 }, { 0.5, 0.5, -2 } },
  m = { { 0.4847, -0.239875668713399, 0.9847 }, { 0.488924771228804, -0.255175668713399, 0.9694 },
    { 0.479421936175811, -0.270475668713399, 0.9847 } },
  mom = { { 0.02, -0.01, 0.04 }, { -0.012, 0.051, 0.046 }, { 0.0392, 0.0959, -0.1586 } },
  h = { { 0.541748061523696, 0.506330397733865, 0.517886285663809 },
    { 0.69390926999876, 0.744292608396246, 0.524233011949072 },
    { 0.792547172713791, 0.771659385073983, 1.4036832238637 } },
}

describe("IVON", function()
  it("1: the golden trace", function()
    local G = GOLDEN
    local q = { mean = vector(G.m0), h = vector { 0.5, 0.5, 0.5 } }
    local state = rule.ivon:init(q.mean, { lr = G.lr, beta1 = G.beta1, clip_radius = 0.3,
      weight_decay = G.weight_decay })
    for k = 1, 3 do
      local stats = diagonal_stats(q, vector(G.g[k]), vector(G.eps[k]), G)
      move_h(q, stats, G)
      rule.ivon:step(q.mean, { g = stats.g }, state, k - 1, { q = { h = q.h, h0 = G.h0 } })
      assert(support.difference(q.mean:totable(), G.m[k]) < 1e-12, "m of step " .. k)
      assert(support.difference(state.m:totable(), G.mom[k]) < 1e-12, "momentum of step " .. k)
      assert(support.difference(q.h:totable(), G.h[k]) < 1e-12, "h of step " .. k)
    end
  end)

  -- Section 1.3 in plain numbers, one coordinate, K noisy gradients a step.
  local function reference(o, draws)
    local m, h, mom = 0.7, o.h0, 0
    for t, draw in ipairs(draws) do
      local g, nxg = 0, 0
      for _, pair in ipairs(draw) do
        local noise = pair[2] / math.sqrt(o.ess * (h + o.weight_decay))
        local gk = pair[1] * (m + noise) + 0.3
        g, nxg = g + gk / #draw, nxg + noise * gk / #draw
      end
      mom = o.beta1 * mom + (1 - o.beta1) * g
      local f = nxg * (h + o.weight_decay) * o.ess
      local old = h
      h = o.beta2 * h + (1 - o.beta2) * f + 0.5 * (1 - o.beta2) ^ 2 * (old - f) ^ 2 / (old + o.weight_decay)
      local lr = o.rescale_lr and o.lr * (o.h0 + o.weight_decay) or o.lr
      local u = (mom / (o.debias and 1 - o.beta1 ^ t or 1) + o.weight_decay * m) / (h + o.weight_decay)
      m = m - lr * math.max(-o.clip_radius, math.min(o.clip_radius, u))
    end
    return m, h, mom
  end

  local variants = {
    { "default", {} }, { "clipped", { clip_radius = 0.2 } }, { "without debias", { debias = false } },
    { "without rescaling", { rescale_lr = false } }, { "with 3 samples", { samples = 3 } },
  }
  for _, variant in ipairs(variants) do
    it("1: 30 steps " .. variant[1] .. " equal plain arithmetic", function()
      local o = { lr = 0.1, ess = 100, h0 = 0.5, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01,
        clip_radius = math.huge,
        debias = true, rescale_lr = true, samples = 1 }
      for k, v in pairs(variant[2]) do o[k] = v end
      local draw, draws = support.stream(17), {}
      for t = 1, 30 do
        draws[t] = {}
        for k = 1, o.samples do draws[t][k] = { 1 + 0.5 * draw(), draw() } end
      end
      local q = { mean = vector { 0.7 }, h = vector { o.h0 } }
      local state = rule.ivon:init(q.mean, { lr = o.lr, beta1 = o.beta1, clip_radius = o.clip_radius, debias = o.debias,
        rescale_lr = o.rescale_lr, weight_decay = o.weight_decay })
      for t, draw_t in ipairs(draws) do
        local total
        for _, pair in ipairs(draw_t) do
          local scale = (o.ess * (q.h + o.weight_decay)):sqrt()
          local g = pair[1] * (q.mean + pair[2] / scale) + 0.3
          local stats = statistics.new(diagonal_stats(q, g, vector { pair[2] }, o))
          total = total and total + stats or stats
        end
        local stats = total / o.samples
        move_h(q, stats, o)
        rule.ivon:step(q.mean, { g = stats.g }, state, t - 1, { q = { h = q.h, h0 = o.h0 } })
      end
      local m, h, mom = reference(o, draws)
      assert(support.difference({ q.mean:totable()[1], q.h:totable()[1], state.m:totable()[1] }, { m, h, mom }) < 1e-12)
    end)
  end

  it("2: samples have variance 1 / (ess (h + decay)), and a step without learning rate leaves m bit for bit", function()
    local n = 20000
    local theta = core.vector(support.layout { { n } }, "f64")
    for i = 0, n - 1 do theta:data_write(i, 1 / (i + 3)) end
    local seen = rule.define {
      name = "sampled", state = { "theta" },
      update = function(p, stats, s)
        s.theta = stats.g -- the loss below is 0.5 |theta|^2, so the gradient is the sampled point
        return p - 0 * stats.g
      end,
    }
    local p = problems.logistic { X = { { 0 } }, y = { 1 }, loss = function(_, t) return 0.5 * (t * t):sum() end }
    local opt = pg.optimizer { family = family.diagonal { ess = 50, h0 = 0.3 }, rule = seen, weight_decay = 0.2 }
    local st = opt:init(theta, core.key(23))
    opt:step(st, p.evaluator, p.batch { 0 })
    assert.are.equal(theta:bytes(), st.theta:bytes())
    local squares = 0
    local at, mean = st.rule.theta:totable(), theta:totable()
    for i = 1, n do squares = squares + (at[i] - mean[i]) ^ 2 end
    local scaled = squares / n * 50 * (0.3 + 0.2)
    assert(math.abs(scaled - 1) < 4 * math.sqrt(2 / n), "scaled variance " .. scaled)
  end)

  it("3: h + decay keeps at least half of itself for any f and beta2", function()
    local draw, n = support.stream(5), 1000
    local h, f = core.vector(support.layout { { n } }, "f64"), core.vector(support.layout { { n } }, "f64")
    for i = 0, n - 1 do
      h:data_write(i, math.abs(draw()) + 1e-3)
      f:data_write(i, draw() * 10 ^ math.min(6, 3 * math.abs(draw())))
    end
    local before = h:totable()
    for _, beta2 in ipairs { 0, 0.3, 0.9, 0.99999, 1 } do
      local q = { h = h }
      move_h(q, { h = f }, { ess = 1, beta2 = beta2, weight_decay = 0.01 })
      for i, x in ipairs(q.h:totable()) do
        assert(x + 0.01 >= (before[i] + 0.01) / 2 * (1 - 1e-12), ("beta2 %g: %g from %g"):format(beta2, x, before[i]))
      end
    end
  end)

  it("4: Price's statistic of a quadratic averages to its Hessian diagonal; exact for eps = +-1 at the minimum",
    function()
    local c = { 0.5, 1, 2, 4 }
    local p = problems.logistic { X = { { 0, 0, 0, 0 } }, y = { 1 }, w0 = { 0, 3, 1, -2 },
      loss = function(_, t) return 0.5 * (vector(c) * (t - 1) * (t - 1)):sum() end }
    local opt = pg.optimizer { family = family.diagonal { ess = 10, h0 = 1, beta2 = 1 }, rule = watch { "h" } }
    local st = opt:init(p.theta0(), core.key(11))
    local count, sums, squares, batch = 4000, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, p.batch { 0 }
    for _ = 1, count do
      opt:step(st, p.evaluator, batch)
      for j, x in ipairs(st.rule.seen_h:totable()) do sums[j], squares[j] = sums[j] + x, squares[j] + x * x end
    end
    for j, curvature in ipairs(c) do
      local mean = sums[j] / count
      local deviation = math.sqrt((squares[j] / count - mean * mean) / count)
      assert(math.abs(mean - curvature) < 4 * deviation, ("h[%d]: %g +- %g"):format(j, mean, deviation))
    end
    local q, o = { h = vector { 0.7 } }, { ess = 9, weight_decay = 0.1 }
    for _, eps in ipairs { 1, -1 } do
      local g = 3 * (vector { eps } / (o.ess * (q.h + o.weight_decay)):sqrt())
      assert(math.abs(diagonal_stats(q, g, vector { eps }, o).h:totable()[1] - 3) < 1e-14)
    end
  end)

  it("5: K samples are the mean of K single evaluations with the same noise", function()
    local p = logistic()
    local evaluation = require "perigee.evaluation"
    local function seen(samples)
      local opt = pg.optimizer { family = family.diagonal { ess = 50, h0 = 1, samples = samples },
        rule = watch { "g", "h" } }
      return run(p, opt, 1, 60)
    end
    local three = seen(3)
    local key = evaluation.fold(core.key(9), evaluation.streams.noise, 0)
    local zero, total = p.theta0(), nil
    for k = 1, 3 do
      local eps = pg.randn(core.apply("key_fold", nil, key, k), zero.layout, "f64")
      local scale = (50 * pg.full_like(zero, 1)):sqrt()
      local _, g = pg.value_and_grad(function(w) return p.evaluator.loss(nil, w, p.cyclic(0,
        60)) end)(zero + eps / scale)
      local stats = statistics.new { g = g, h = g * eps * scale }
      total = total and total + stats or stats
    end
    assert(support.difference(three.rule.seen_g:totable(), (total / 3).g:totable()) < 1e-13)
    assert(support.difference(three.rule.seen_h:totable(), (total / 3).h:totable()) < 1e-12)
    assert(support.difference(seen(1).rule.seen_g:totable(), three.rule.seen_g:totable()) > 1e-6)
  end)

  it("6: the first step with rescale_lr and f = h0 is lr (g + decay m)", function()
    local m, g = vector { 0.5, -2 }, vector { 0.3, 0.7 }
    local before = m:copy()
    local extra = { q = { h = vector { 0.25, 0.25 }, h0 = 0.25 } }
    rule.ivon:step(m, { g = g }, rule.ivon:init(m, { lr = 0.1, beta1 = 0, weight_decay = 0.01 }), 0, extra)
    assert(support.difference(m:totable(), (before - 0.1 * (g + 0.01 * before)):totable()) < 1e-15)
    local still = before:copy()
    rule.ivon:step(still, { g = 0 * g }, rule.ivon:init(still, { lr = 0.1 }), 0, extra)
    assert.are.equal(before:bytes(), still:bytes())
  end)

  it("7: beta2 = 1 holds h, lr = 0 holds m alone, clip_radius bounds the step", function()
    local p = logistic()
    local function ivon(o, b)
      return pg.optimizer { weight_decay = 0.01, family = family.diagonal { ess = 60, h0 = 0.5, beta2 = b or 0.9 },
        rule = rule.ivon(o) }
    end
    local st = run(p, ivon({ lr = 0.1 }, 1), 5, 10)
    for _, h in ipairs(st.q.h:totable()) do assert.are.equal(0.5, h) end
    st = run(p, ivon { lr = 0 }, 5, 10)
    assert.are.equal(p.theta0():bytes(), st.theta:bytes())
    assert(math.abs(st.q.h:totable()[1] - 0.5) > 1e-6 and st.rule.m:totable()[1] ~= 0)
    local opt = ivon { lr = 0.2, clip_radius = 0.05 }
    st = opt:init(p.theta0(), core.key(9))
    for k = 0, 9 do
      local before = st.theta:totable()
      opt:step(st, p.evaluator, p.cyclic(k, 10))
      for j, w in ipairs(st.theta:totable()) do
        assert(math.abs(w - before[j]) <= 0.2 * (0.5 + 0.01) * 0.05 * (1 + 1e-9))
      end
    end
  end)

  it("8: saved and loaded in the middle, the run is the same bit for bit", function()
    local p = logistic()
    local function make()
      return pg.optim.ivon_poco { lr = 0.1, ess = 60, h0 = 0.5, beta2 = 0.99, every = 5, alpha = 0.8, mega = 3,
        weight_decay = 0.01 }
    end
    local straight = run(p, make(), 17, 10)
    for _, stop in ipairs { 1, 4, 5, 6, 11 } do
      local first = run(p, make(), stop, 10)
      local opt = make()
      local second = opt:init(p.theta0(), core.key(9))
      second:load(first:tensors(), first:numbers())
      run(p, opt, 17 - stop, 10, second)
      assert.are.equal(state_bytes(straight), state_bytes(second))
      assert.are.equal(straight.cost:gradients(), second.cost:gradients())
    end
  end)

  it("9: with the exact Hessian diagonal it is preconditioned SGD on the mean", function()
    local c = { 0.5, 2, 8 }
    local exact = family.define {
      name = "exact", stats = { "g", "h" }, hyper = { h0 = 1, beta2 = 0.5 },
      init = function(theta, o) return { mean = theta, h = pg.full_like(theta, o.h0) } end,
      sample = function(q) return q.mean end,
      statistics = function(g) return { g = g, h = vector(c) } end,
      update = family.diagonal({ ess = 1 }).definition.update,
    }
    local p = problems.logistic { X = { { 0, 0, 0 } }, y = { 1 }, w0 = { 1, 2, 3 },
      loss = function(_, t) return 0.5 * (vector(c) * t * t):sum() end }
    local opt = pg.optimizer { family = exact {}, rule = rule.ivon { lr = 0.3, beta1 = 0, rescale_lr = false } }
    local st = run(p, opt, 8, 1)
    local w, h = { 1, 2, 3 }, { 1, 1, 1 }
    for _ = 1, 8 do
      for j = 1, 3 do
        h[j] = 0.5 * h[j] + 0.5 * c[j] + 0.125 * (h[j] - c[j]) ^ 2 / h[j]
        w[j] = w[j] - 0.3 * c[j] * w[j] / h[j]
      end
    end
    assert(support.difference(st.theta:totable(), w) < 1e-14)
  end)

  it("10: with ess = 1e30 a posterior sample predicts as the mean does", function()
    local p = logistic { w0 = { 0.3, -1, 2, 0.5 } }
    local opt = pg.optimizer { family = family.diagonal { ess = 1e30, h0 = 1, beta2 = 1 }, rule = watch { "g" } }
    local st = run(p, opt, 1, 60)
    local _, g = pg.value_and_grad(function(w) return p.evaluator.loss(nil, w, p.cyclic(0, 60)) end)(p.theta0())
    assert(support.difference(st.rule.seen_g:totable(), g:totable()) < 1e-13)
  end)
end)

-- ---- SVRG and posterior correction ----------------------------------------------------------------------------------

-- For the proximal term, which wants exact curvatures.
local function exact_diagonal()
  return family.diagonal { ess = 60, h0 = 0.5, beta2 = 0.9, hess_approx = "exact" }
end

local cells = {
  { "point", function() return family.point {} end, function() return rule.sgd { lr = 0.1, momentum = 0.9 } end,
    { "g" } },
  { "diagonal", function() return family.diagonal { ess = 60, h0 = 0.5, beta2 = 0.9 } end,
    function() return rule.ivon { lr = 0.1 } end, { "g", "h" } },
}

for _, cell in ipairs(cells) do
  local name, make_family, make_rule, fields = table.unpack(cell)

  describe("SVRG over the " .. name .. " family", function()
    it("11: alpha = 0, and steps before start, are the plain method bit for bit", function()
      local p = logistic()
      local function with(c)
        return pg.optimizer { family = make_family(), correction = c, rule = make_rule(), weight_decay = 0.01 }
      end
      local plain = run(p, with(nil), 20, 10)
      for _, o in ipairs { { alpha = 0, every = 3 }, { start = 20, every = 3 } } do
        local st = run(p, with(correction.svrg(o)), 20, 10)
        assert.are.equal(plain.theta:bytes(), st.theta:bytes())
        assert.are.equal(20 * 10, st.cost:gradients())
      end
      local active = run(p, with(correction.svrg { every = 3 }), 20, 10)
      assert.are_not.equal(plain.theta:bytes(), active.theta:bytes())
    end)

    for _, mega in ipairs { 1, 3, "full" } do
      for _, prox in ipairs(name == "diagonal" and { false, true } or { false }) do
        it(("12: right after a refresh the statistics are the pass's (M = %s, prox %s)"):format(mega, prox), function()
          local p = logistic()
          local opt = pg.optimizer {
            family = prox and exact_diagonal() or make_family(), rule = watch(fields), weight_decay = 0.01,
            correction = correction.svrg { every = 1, mega = mega, prox = prox },
            stages = { per_evaluation = { stage.clip { norm = 0.1 } } },
          }
          local st = opt:init(p.theta0(), core.key(9))
          for k = 0, 2 do
            opt:step(st, p.evaluator, p.cyclic(k, 10))
            for _, field in ipairs(fields) do
              assert.are.equal(st.memory.values.mean[field]:bytes(), st.rule["seen_" .. field]:bytes())
            end
          end
        end)
      end
    end

    it("23: a refresh changes nothing but the correction's slots", function()
      local p = logistic()
      local opt = pg.optimizer { family = make_family(), rule = make_rule(),
        correction = correction.svrg { every = 4 } }
      local st = run(p, opt, 4, 10)
      local before, step = {}, st.step
      for _, entry in ipairs(st:tensors()) do before[entry[1]] = entry[2]:bytes() end
      local _, info = opt:step(st, p.evaluator, p.cyclic(4, 10), nil, {
        on_pass = function(_, done, total) return done < total end,
      })
      assert(info.suspended)
      assert.are.equal(step, st.step)
      for _, entry in ipairs(st:tensors()) do
        if entry[1]:match("^q%.") or entry[1]:match("^rule%.") then
          assert.are.equal(before[entry[1]], entry[2]:bytes())
        end
      end
    end)

    it("24: with zero gradients the mean does not depend on alpha", function()
      local results = {}
      for i, alpha in ipairs { 0, 0.3, 1 } do
        local p = logistic { w0 = { 1, 2, -3, 4 }, loss = function(_, t) return 0 * t:sum() end }
        local opt = pg.optimizer { family = make_family(), rule = make_rule(), weight_decay = 0.3,
          correction = correction.svrg { every = 2, alpha = alpha } }
        results[i] = run(p, opt, 7, 10).theta:bytes()
      end
      assert.are.equal(results[1], results[2])
      assert.are.equal(results[1], results[3])
    end)
  end)
end

describe("posterior correction", function()
  local G = GOLDEN
  local function golden_step(prox)
    local o = { ess = G.ess, weight_decay = G.weight_decay, beta2 = G.beta2 }
    local q_in = { mean = vector(G.m0), h = vector { 0.5, 0.5, 0.5 } }
    local q_out = { mean = vector { 0.45, -0.2, 1.1 }, h = vector { 0.4, 0.6, 0.5 } }
    local c = correction.svrg { alpha = 0.75, prox = prox, every = 1000 }
    local state, eps = c:init(), vector(G.eps[1])
    local inner = false
    local function evaluate(q, kind)
      if kind == "full" then return { g = vector { 0.15, -0.2, 0.3 }, h = vector { 0.45, 0.55, 0.5 } } end
      local at_snapshot = not inner or q ~= inner
      return diagonal_stats(q, vector(at_snapshot and { 0.1, -0.3, 0.35 } or { 0.2, -0.1, 0.4 }), eps, o)
    end
    c:step(q_out, evaluate, state, 0) -- takes the snapshot
    local posterior = require "perigee.posterior"
    inner = posterior.new({ "mean", "h" }, q_in)
    local stats = c:step(inner, evaluate, state, 1)
    local rule_state = rule.ivon:init(q_in.mean, { lr = G.lr, beta1 = G.beta1, weight_decay = G.weight_decay })
    move_h(q_in, stats, o)
    rule.ivon:step(q_in.mean, { g = stats.g }, rule_state, 0, { q = { h = q_in.h, h0 = 0.5 } })
    return q_in, rule_state
  end

  it("golden step gP0", function()
    local q, state = golden_step(false)
    assert(support.difference(q.mean:totable(), { 0.477060827897706, -0.247154750540843, 0.963222664834953 }) < 1e-12)
    assert(support.difference(state.m:totable(), { 0.02375, -0.0025, 0.03625 }) < 1e-12)
    assert(support.difference(q.h:totable(), { 0.529143258738747, 0.482926901536284, 0.506554554992751 }) < 1e-12)
  end)

  it("golden step gP1, with the proximal term", function()
    local q, state = golden_step(true)
    assert(support.difference(q.mean:totable(), { 0.482647269536446, -0.259394729359524, 0.952292923026392 }) < 1e-12)
    assert(support.difference(state.m:totable(), { 0.0178443287257563, 0.00933022516463202, 0.04732021160021 }) < 1e-12)
    assert(support.difference(q.h:totable(), { 0.529143258738747, 0.482926901536284, 0.506554554992751 }) < 1e-12)
  end)

  -- Statistics of rows at q with fixed noise.
  local p = logistic()
  local eps = pg.randn(core.key(31), p.theta0().layout, "f64")
  local o = { ess = 60, weight_decay = 0.01 }
  local function statistics_at(q, rows)
    local scale = (o.ess * (q.h + o.weight_decay)):sqrt()
    local batch = p.batch(rows)
    local _, g = pg.value_and_grad(function(w) return p.evaluator.loss(nil, w, batch) end)(q.mean + eps / scale)
    return { g = g, h = g * eps * scale }
  end
  local function rows_of(from, to)
    local rows = {}
    for i = from, to - 1 do rows[#rows + 1] = i end
    return rows
  end
  local snapshot = { mean = vector { 0.1, 0.2, -0.3, 0.4 }, h = vector { 0.5, 0.6, 0.7, 0.8 } }
  local now = { mean = vector { 0.3, 0.1, -0.5, 0.6 }, h = vector { 0.9, 0.4, 0.7, 1.1 } }

  -- Corrected statistics at `now` on rows, the pass at the snapshot being over mega rows.
  local function corrected(alpha, prox, rows, mega)
    local c = correction.svrg { alpha = alpha, prox = prox, every = 1000 }
    local state = c:init()
    local function evaluate(q, kind) return statistics_at(q, kind == "full" and mega or rows) end
    c:step(snapshot, evaluate, state, 0)
    return (c:step(now, evaluate, state, 1))
  end

  for _, prox in ipairs { false, true } do
    it(("13: averaged over a partition it is the full batch's, any alpha (prox %s)"):format(prox), function()
      for _, alpha in ipairs { 0.7, 1 } do
        local total
        for b = 0, 5 do
          local stats = corrected(alpha, prox, rows_of(10 * b, 10 * b + 10), rows_of(0, 60))
          total = total and total + stats or stats
        end
        local full = statistics_at(now, rows_of(0, 60))
        assert(support.difference((total / 6).g:totable(), full.g:totable()) < 1e-13)
        assert(support.difference((total / 6).h:totable(), full.h:totable()) < 1e-12)
      end
      local rows = rows_of(20, 30)
      local same = corrected(1, prox, rows, rows)
      assert(support.difference(same.g:totable(), statistics_at(now, rows).g:totable()) < 1e-14)
    end)

    it(("14: with the full batch as minibatch nothing is corrected (prox %s)"):format(prox), function()
      local rows = rows_of(0, 60)
      for _, alpha in ipairs { 0.3, 1 } do
        local stats = corrected(alpha, prox, rows, rows)
        assert(support.difference(stats.g:totable(), statistics_at(now, rows).g:totable()) < 1e-14)
      end
    end)
  end

  -- Gradient of the logistic problem in plain Lua.
  local golden = dofile "tests/golden/corrections.lua"
  local function plain_gradient(w, rows)
    local g = {}
    for j = 1, golden.d do g[j] = golden.lam * w[j] end
    for _, i in ipairs(rows) do
      local margin = 0
      for j = 1, golden.d do margin = margin + golden.X[i + 1][j] * w[j] end
      local s = -golden.y[i + 1] / (1 + math.exp(golden.y[i + 1] * margin)) / #rows
      for j = 1, golden.d do g[j] = g[j] + s * golden.X[i + 1][j] end
    end
    return g
  end
  local function golden_problem(w0)
    return problems.logistic { X = golden.X, y = golden.y, lam = golden.lam, w0 = w0 or golden.w0, batch = 10 }
  end

  for _, alpha in ipairs { 1, 0.7 } do
    it(("15: isotropic with sigma = 0 is %s, over 1200 steps"):format(alpha == 1 and "SVRG" or "alpha-SVRG"), function()
      local problem = golden_problem()
      local opt = pg.optimizer { family = family.isotropic { sigma = 0 }, rule = rule.sgd { lr = 0.25 },
        correction = correction.svrg { every = 150, alpha = alpha } }
      local st = opt:init(problem.theta0(), core.key(1))
      local w, at, mean = { table.unpack(golden.w0) }, nil, nil
      for t = 0, 1199 do
        local rows = rows_of(10 * (t * 7 % 20), 10 * (t * 7 % 20) + 10)
        if t % 150 == 0 then
          at, mean = { table.unpack(w) }, plain_gradient(w, rows_of(0, 200))
        end
        local g, old = plain_gradient(w, rows), plain_gradient(at, rows)
        for j = 1, golden.d do w[j] = w[j] - 0.25 * (g[j] - alpha * old[j] + alpha * mean[j]) end
        opt:step(st, problem.evaluator, problem.batch(rows))
      end
      local d = support.difference(st.theta:totable(), w)
      assert(d < 1e-11, ("off by %g"):format(d))
    end)
  end

  it("16: at the minimiser every minibatch's step is zero", function()
    local problem = golden_problem(golden.w_star)
    local opt = pg.optim.svrg { lr = 1, every = 20 }
    local st = opt:init(problem.theta0())
    for t = 1, 20 do
      opt:step(st, problem.evaluator, problem.batch(golden.batches[t]))
    end
    assert(support.difference(st.theta:totable(), golden.w_star) < 1e-12)
  end)

  it("19: for a linear loss the corrected gradient is the pass's, bit for bit", function()
    local problem = logistic { loss = function(_, theta, batch)
      return (batch.x:matmul(theta["t1"]:reshape(4, 1))):mean()
    end }
    local moving = rule.define {
      name = "moving", state = { "seen" },
      update = function(w, stats, s)
        s.seen = stats.g
        return w - 0.5 * stats.g
      end,
    }
    local opt = pg.optimizer { rule = moving, correction = correction.svrg { every = 100 } }
    local st = run(problem, opt, 1, 10)
    local first = st.memory.values.mean.g:bytes()
    for _ = 1, 5 do
      run(problem, opt, 1, 10, st)
      assert.are.equal(first, st.rule.seen:bytes())
    end
  end)

  -- Variance over minibatches and noise of the statistics at q, |dm| = r sigma away from the snapshot.
  local function variance(noise, r, corrected_too, field)
    local problem = problems.random_logistic(200, 4, { seed = 3 })
    local opt = pg.optimizer {
      family = family.diagonal { ess = 200, h0 = 0.2, beta2 = 1 }, rule = watch { "g", "h" },
      correction = corrected_too and correction.svrg { every = 1e6, noise = noise } or nil,
    }
    local st = opt:init(problem.theta0(), core.key(77))
    opt:step(st, problem.evaluator, problem.cyclic(0, 20))
    local sigma, moved = 1 / math.sqrt(200 * 0.2), st.theta:copy()
    for j = 0, 3 do moved:data_write(j, moved:data_read(j) + (j % 2 == 0 and 1 or -1) * r * sigma) end
    st.theta:copy_from(moved)
    local count, sums, squares = 600, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }
    for k = 1, count do
      opt:step(st, problem.evaluator, problem.cyclic(k, 20))
      for j, x in ipairs(st.rule["seen_" .. field]:totable()) do sums[j], squares[j] = sums[j] + x,
        squares[j] + x * x end
    end
    local total = 0
    for j = 1, 4 do total = total + squares[j] / count - (sums[j] / count) ^ 2 end
    return total
  end

  it("20: shared noise removes the variance near the snapshot; independent noise doubles that of h", function()
    local plain_g, plain_h = variance("shared", 1, false, "g"), variance("shared", 1, false, "h")
    assert(variance("shared", 0, true, "g") < 1e-20)
    local near, far = variance("shared", 1, true, "g"), variance("shared", 3, true, "g")
    assert(near < 0.05 * plain_g, ("ratio %g at one sigma"):format(near / plain_g))
    assert(far > near)
    local ratio = variance("fresh", 1, true, "h") / plain_h
    assert(ratio > 1.5 and ratio < 2.6, ("ratio %g with independent noise"):format(ratio))
  end)

  it("21: the counter shows 2 n N + floor(n N / m) |M|, and n N before start", function()
    local problem = logistic()
    local opt = pg.optim.ivon_poco { lr = 0.1, ess = 60, h0 = 0.5, every = 6, mega = 2, start = 6 }
    local st = run(problem, opt, 6 + 18, 10) -- 1 epoch plain, 3 epochs corrected; m = 60 examples, |M| = 20
    assert.are.equal(60 + 2 * 3 * 60 + 3 * 20, st.cost:gradients())
    assert.are.equal(3 * 20, st.cost.passes)
  end)
end)
