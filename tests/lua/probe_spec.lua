-- Facts about the probes of gradients: the reference file's numbers, the formula by hand, zero variance at the snapshot
-- where things are locked and not where they are not, exact counts, and a run that never notices it was looked at.
local support = require "support"
local builder = require "perigee.builder"
local methods = require "methods"
local problems = require "problems"
local normed = require "normed"
local pg, core = support.pg, support.core
local golden, reference = dofile "tests/golden/corrections.lua", dofile "tests/golden/probe.lua"
local moments = require "perigee.probe_moments"

local function near(expected, found, tolerance)
  assert(math.abs(expected - found) <= tolerance * math.max(1, math.abs(expected)),
    ("%.17g, not %.17g"):format(found, expected))
end

local function write(v, list)
  for i, x in ipairs(list) do v:data_write(i - 1, x) end
end

-- The problem of the reference file at its point w, with its snapshot taken; what probes take.
local function at_w(correction)
  local p = problems.logistic { X = golden.X, y = golden.y, lam = golden.lam, w0 = reference.snapshot, batch = 10 }
  local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0 }, correction = correction }
  local st = opt:init(p.theta0())
  opt:step(st, p.evaluator, p.cyclic(0, 10))
  write(st.theta, reference.w)
  return { optimizer = opt, state = st, evaluator = p.evaluator }, p
end

local function svrg(alpha) return pg.correction.svrg { every = 1000, alpha = alpha or 1 } end

local function same_metrics(expected, found)
  near(expected.metric1_directional, found.m1, 1e-14)
  near(expected.metric2_trace, found.m2, 1e-14)
  near(expected.metric3_lambda_max, found.m3, 1e-14)
end

describe("the reference file's probe", function()
  it("has this ratio of variances and these means", function()
    local where = at_w(svrg())
    local found = pg.probe.variance(where)
    near(reference.ratio_svrg_over_sgd, found.ratio, 1e-13)
    near(reference.sgd.metric2_trace, found.g.plain, 1e-14)
    near(reference.svrg.metric2_trace, found.g.corrected, 1e-14)
    assert(found.g.bias < 1e-15)
    assert(support.difference(pg.probe.gradients(where).mean:totable(), reference.full_grad) < 1e-14)
    assert(support.difference(where.state.memory.values.mean.g:totable(), reference.snapshot_full_grad) < 1e-14)
  end)

  it("has these metrics, plain and corrected at several strengths", function()
    local found = pg.probe.metrics((at_w(svrg())))
    same_metrics(reference.sgd, found.plain)
    same_metrics(reference.svrg, found.corrected)
    same_metrics(reference.alpha_0_5, pg.probe.metrics((at_w(svrg(0.5)))).corrected)
    assert.is_nil(pg.probe.metrics((at_w(nil))).corrected)
  end)

  it("has these best strengths, and these metrics with them", function()
    local where, p = at_w(svrg())
    local found = pg.probe.alpha(where)
    near(reference.alpha_star_scalar, found.alpha, 1e-13)
    near(reference.alpha_star_scalar, found.per_tensor.t1, 1e-13)
    assert(support.difference(found.per_component:totable(), reference.alpha_star_per_component) < 1e-13)
    local gradient = pg.grad(function(theta, batch) return p.evaluator.loss(nil, theta, batch) end)
    local mean, list = where.state.memory.values.mean.g, {}
    for k = 0, 19 do
      local batch = p.cyclic(k, 10)
      list[k + 1] = gradient(where.state.theta, batch) - found.per_component * (gradient(p.theta0(), batch) - mean)
    end
    same_metrics(reference.alpha_star, pg.probe.metrics_of(list))
  end)
end)

-- ---- against the formula --------------------------------------------------------------------------------------------

-- mean |x - center|^2 of vectors with weights, in plain numbers.
local function spread(list, weights, center)
  local sum, total = 0, 0
  for i, x in ipairs(list) do
    local d = x - center
    sum, total = sum + weights[i] * (d * d):sum():item(), total + weights[i]
  end
  return sum / total
end

local function mean_of(list, weights)
  local sum, total = 0, 0
  for i, x in ipairs(list) do sum, total = sum + weights[i] * x, total + weights[i] end
  return sum / total
end

-- Gradient descent that keeps what it was given.
local watchful = pg.rule.define {
  name = "watchful", hyper = { lr = 0.2 }, state = { "seen" },
  update = function(p, stats, s, o)
    s.seen = stats.g
    return p - o.lr * stats.g
  end,
}

describe("pg.probe.variance", function()
  it("equals the formula on batches of several sizes, the short last one counting less", function()
    local p = problems.random_logistic(25, 4, { batch = 10 })
    local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0.3 }, correction = svrg(0.7) }
    local st = opt:init(p.theta0())
    for k = 0, 3 do opt:step(st, p.evaluator, p.cyclic(k, 10)) end
    local gradient = pg.grad(function(theta, batch) return p.evaluator.loss(nil, theta, batch) end)
    local g, v, weights, s = {}, {}, {}, st.memory.values
    for j, batch in p.source:batches(10) do
      local now, old = gradient(st.theta, batch), gradient(s.at.mean, batch)
      g[j], v[j], weights[j] = now, now - 0.7 * (old - s.mean.g), batch.id.shape[1]
    end
    local gbar = mean_of(g, weights)
    local found = pg.probe.variance { optimizer = opt, state = st, evaluator = p.evaluator }
    near(spread(g, weights, gbar), found.g.plain, 1e-13)
    near(spread(v, weights, gbar), found.g.corrected, 1e-13)
    near(spread(v, weights, mean_of(v, weights)), found.g.spread, 1e-13)
    near((st.theta - s.at.mean):norm():item(), found.distance, 1e-15)
    assert.same({ 3, 50, true }, { found.batches, found.evaluations, found.active })
  end)

  local corrections = {
    svrg = svrg(), alpha_svrg = pg.correction.alpha_svrg { estimate = "all", every = 1000 },
    storm = pg.correction.storm {}, mars = pg.correction.mars {}, sarah = pg.correction.sarah { every = 1000 },
    lsvrg = pg.correction.lsvrg { p = 0.05 }, sag = pg.correction.sag { fill = "zeros" },
    saga = pg.correction.saga { per = "batch" }, cached = pg.correction.svrg { every = 1000, cache = "memory" },
    unfilled = pg.correction.saga { per = "batch", fill = "zeros" },
  }
  for _, name in ipairs { "svrg", "alpha_svrg", "storm", "mars", "sarah", "lsvrg", "saga", "sag", "cached",
    "unfilled" } do
    it("sees of " .. name .. " what the next step then does", function()
      local p = problems.random_logistic(40, 4, { batch = 10 })
      local opt = pg.optimizer { rule = watchful, correction = corrections[name] }
      local st = opt:init(p.theta0(), core.key(5))
      for k = 0, 3 do opt:step(st, p.evaluator, p.cyclic(k, 10)) end
      local batch = p.cyclic(4, 10)
      local found = pg.probe.variance({ optimizer = opt, state = st, evaluator = p.evaluator }, { batches = { batch } })
      local plain = pg.grad(function(theta, one) return p.evaluator.loss(nil, theta, one) end)(st.theta, batch)
      local _, info = opt:step(st, p.evaluator, batch)
      assert.is_false(info.refreshed)
      near((st.rule.seen - plain):norm():item(), found.g.bias, 1e-13)
      assert(found.g.bias > 1e-3)
    end)
  end

  it("is 0 at the snapshot with dropout, batch norm and noise, g and h alike, unless they are unlocked", function()
    local function ratios(options)
      local p = normed.problem { n = 30 }
      options.every = 1000
      local opt = pg.optimizer { family = pg.family.diagonal { ess = 30, h0 = 1, beta2 = 1 },
        rule = pg.rule.sgd { lr = 0 }, correction = pg.correction.svrg(options), weight_decay = 1e-2 }
      local st = opt:init(p.theta0(), core.key(3), p.buffers0())
      opt:step(st, p.evaluator, p.part(0))
      local found = pg.probe.variance { optimizer = opt, state = st, evaluator = p.evaluator }
      return found.g.spread / found.g.plain, found.h.spread / found.h.plain, found.distance
    end
    local g, h, distance = ratios {}
    assert.same({ 0, 0, 0 }, { g, h, distance })
    for _, options in ipairs { { noise = "fresh" }, { lock = { dropout = false } } } do
      g, h = ratios(options)
      assert(g > 0.05 and h > 0.05, ("%g and %g"):format(g, h))
    end
  end)

  it("is that of the plain method where the correction is not active, or there is no snapshot yet", function()
    local p = problems.random_logistic(40, 4, { batch = 10 })
    for _, correction in ipairs { svrg(), pg.correction.svrg { start = 10 } } do
      local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, correction = correction }
      local st = opt:init(p.theta0())
      local where = { optimizer = opt, state = st, evaluator = p.evaluator }
      local found = pg.probe.variance(where)
      assert.same({ 1, false, 40 }, { found.ratio, found.active, found.evaluations })
      assert.is_nil(found.distance)
      assert.is_nil(pg.probe.distance(where))
    end
  end)

  it("says what it lacks", function()
    local where, p = at_w(svrg())
    local probe = pg.probe
    assert.error_matches(function() probe.variance(where.state) end, "needs the optimizer as well: give it the ctx of")
    assert.error_matches(function() probe.variance(3) end, "pg.probe.variance looks at the ctx of a hook.*, not at 3")
    assert.error_matches(function() probe.variance(where, { batch = {} }) end, "did you mean 'batches'")
    assert.error_matches(function() probe.variance(where, { count = 0 }) end, "count is a whole number .*, not 0")
    assert.error_matches(function() probe.variance(where, { epoch = 0.5 }) end, "counted from 0, not 0.5")
    assert.error_matches(function() probe.variance(where, { key = 1 }) end, "key is a key, as pg.key%(1%), not 1")
    assert.error_matches(function() probe.metrics_of { where.state.theta } end, "at least two gradients")
    local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0 } }
    local plain = { optimizer = opt, state = opt:init(p.theta0()), evaluator = p.evaluator }
    assert.error_matches(function() probe.alpha(plain) end, "there is none yet; give at = a vector of parameters")
    plain.evaluator = pg.evaluator { loss = p.evaluator.loss }
    assert.error_matches(function() probe.variance(plain) end, "needs batches = a list of batches")
  end)
end)

describe("pg.probe.alpha and gradients", function()
  it("find strength 1 and cosine 1 at the snapshot, by tensors too, and take any point for it", function()
    local p = normed.problem { n = 30 }
    local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0.05 } }
    local st = opt:init(p.theta0(), core.key(3), p.buffers0())
    local where = { optimizer = opt, state = st, evaluator = p.evaluator }
    local found = pg.probe.alpha(where, { at = st.theta:copy() })
    near(1, found.alpha, 1e-12)
    near(1, found.cosine, 1e-12)
    near(1, found.cosine_of_means, 1e-12)
    for _, name in ipairs { "1.weight", "2.bias", "8.weight" } do near(1, found.per_tensor[name], 1e-12) end
    assert.equal(0, found.distance)
    assert.same({ 1, 1 }, { math.floor(found.summary.median + 0.5), math.floor(found.summary.max + 0.5) })
    for k = 0, 3 do opt:step(st, p.evaluator, p.part(k)) end
    found = pg.probe.alpha(where, { at = p.theta0() })
    assert(found.alpha < 0.99 and found.cosine < 0.99 and found.distance > 0.01)
  end)

  it("share the noise of a step between both points, unless the correction draws it apart", function()
    local p = normed.problem { n = 30 }
    for _, noise in ipairs { "shared", "fresh" } do
      local opt = pg.optimizer { family = pg.family.diagonal { ess = 30, h0 = 1 }, rule = pg.rule.sgd { lr = 0.05 },
        correction = pg.correction.svrg { every = 1000, noise = noise } }
      local st = opt:init(p.theta0(), core.key(3), p.buffers0())
      for k = 0, 2 do opt:step(st, p.evaluator, p.part(k)) end
      local found = pg.probe.alpha({ optimizer = opt, state = st, evaluator = p.evaluator }, { at = st.q })
      if noise == "shared" then near(1, found.cosine, 1e-12) else assert(found.cosine < 0.9, found.cosine) end
    end
  end)

  it("find signal, noise and directions of gradients that are known", function()
    local p = problems.logistic { X = { { 3, 0 }, { 1, 0 }, { 0, 2 }, { 0, 4 } }, y = { 1, 1, 1, 1 }, batch = 1,
      loss = function(_, theta, batch) return (batch.x:matmul(theta.t1:reshape { 2, 1 })):mean() end }
    local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0 } }
    local found = pg.probe.gradients { optimizer = opt, state = opt:init(p.theta0()), evaluator = p.evaluator }
    assert.same({ 1, 1.5 }, found.mean:totable())
    near(3.25 ^ 0.5, found.norm, 1e-15)
    near(7.5 - 3.25, found.variance, 1e-15) -- (9 + 1 + 4 + 16) / 4 less |mean|^2
    near(3.25 / 4.25, found.snr, 1e-15)
    near((1 + 0 + 1) / 3, found.cosine, 1e-15)
    near(2.5 / 2 / 3.25 ^ 0.5, found.cosine_to_mean, 1e-15)
  end)
end)

-- ---- changing nothing -----------------------------------------------------------------------------------------------

local key = pg.key(11)
local x = pg.randn(key:fold("x"), { 70, 4 })
local y = x:matmul(pg.randn(key:fold("w"), { 4, 3 })):argmax(-1)
local split = pg.data.from { x = x, y = y }
local model = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.batch_norm(8), pg.nn.tanh(), pg.nn.dropout(0.2),
  pg.nn.linear(8, 3) }

local function train(optimizer, on_step)
  return pg.train { name = "t", model = model, data = { train = split, test = split }, epochs = 2, batch = 16, seed = 2,
    loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
    optimizer = optimizer, out = false, log_every = 1, hash_every = 0, hooks = { on_step = on_step } }
end

local optimizers = {
  sgd = function() return pg.optim.momentum { lr = 0.05 } end,
  ["svrg by schedules"] = function()
    return pg.optimizer { rule = pg.rule.sgd { lr = pg.schedule.cosine { peak = 0.05 } },
      correction = pg.correction.alpha_svrg { every = pg.steps(3) },
      weight_decay = pg.schedule.linear { from = 1e-2, to = 0, over = pg.whole_run } }
  end,
  ["ivon-poco"] = function()
    return pg.optim.ivon_poco { lr = 0.1, ess = 70, h0 = 0.5, weight_decay = 1e-3, every = pg.epochs(1) }
  end,
}

local function look(ctx)
  local probe = pg.probe
  local before = ctx.optimizer.cost.probes
  local spent = probe.variance(ctx).evaluations + probe.metrics(ctx, { count = 3 }).evaluations
    + probe.gradients(ctx, { count = 2, epoch = 1 }).evaluations
    + probe.alpha(ctx, { count = 2, at = ctx.theta * 0.9 }).evaluations
    + probe.trace(ctx, { samples = 1, count = 2 }).evaluations
    + probe.eigenvalues(ctx, { steps = 2, values = 1, count = 1 }).evaluations
    + probe.spectrum(ctx, { samples = 1, steps = 2, count = 1 }).evaluations
  probe.distance(ctx)
  assert(spent > 0)
  assert.equal(before + spent, ctx.optimizer.cost.probes)
end

describe("probes in hooks of pg.train (T10)", function()
  for _, name in ipairs { "sgd", "svrg by schedules", "ivon-poco" } do
    it("leave a run of " .. name .. " with batch norm and dropout as it is, bit for bit, and its costs", function()
      local plain, watched = train(optimizers[name]()), train(optimizers[name](), look)
      assert.equal(support.state_bytes(plain.state), support.state_bytes(watched.state))
      local a, b = plain.state:numbers(), watched.state:numbers()
      assert.equal(0, a["cost.probes"])
      assert(b["cost.probes"] > 0)
      a["cost.probes"], b["cost.probes"] = nil, nil
      assert.same(a, b)
      assert.same(plain.history, watched.history)
      assert.same(plain.metrics, watched.metrics)
    end)
  end

  it("may look at the batches of a finished run, with its own keys and noise", function()
    local run = train(optimizers["ivon-poco"]())
    local before = support.state_bytes(run.state)
    local all = pg.probe.variance(run)
    assert.same({ 5, 70 * 2, true }, { all.batches, all.evaluations, all.active })
    assert(all.ratio > 0 and all.h.ratio > 0)
    assert.same(all, pg.probe.variance(run))
    assert.same({ 2, 16 * 2 * 2 }, { pg.probe.variance(run, { count = 2 }).batches,
      pg.probe.variance(run, { count = 2 }).evaluations })
    assert.not_equal(all.g.plain, pg.probe.variance(run, { epoch = 0 }).g.plain)
    assert.equal(before, support.state_bytes(run.state))
  end)

  it("see the batches, masks and noise that the steps of the epoch had", function()
    local still = pg.optimizer { family = pg.family.isotropic { sigma = 0.1 }, rule = problems.watch { "g" } }
    local sum, count = 0, 0
    local run = train(still, function(ctx)
      if ctx.epoch == 0 then return end
      local examples = ctx.step == 9 and 6 or 16
      sum, count = sum + examples * ctx.optimizer.rule.seen_g:to("f64"), count + examples
    end)
    local mean = sum / count
    local function off(options)
      return (pg.probe.gradients(run, options).mean - mean):norm():item() / mean:norm():item()
    end
    assert.equal(70, count)
    assert(off {} < 1e-14, off {})
    for _, other in ipairs { { key = pg.key(1) }, { epoch = 0 }, { count = 4 } } do assert(off(other) > 1e-2) end
  end)

  it("do not count towards a budget", function()
    local function spend(hook)
      return pg.train { name = "t", model = model, data = split, budget = { gradients = 200 }, batch = 16,
        optimizer = pg.optim.sgd { lr = 0.1 }, out = false, hooks = { on_step = hook },
        loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end }.steps
    end
    assert.equal(spend(), spend(function(ctx) pg.probe.gradients(ctx) end))
  end)
end)

describe("every family × correction × rule", function()
  local before = builder.executor
  setup(function() builder.executor = "interpret" end) -- the same bits, without compiling hundreds of programs
  teardown(function() builder.executor = before end)

  -- 15 steps, looked at before the steps that are listed → state.
  local function run(method, looks)
    local p, opt = problems.random_logistic(60, 4, { batch = 10 }), method.make()
    p.evaluator.total_steps = 15
    local st = opt:init(p.theta0(), core.key(3))
    for k = 0, 14 do
      if looks[k] then
        local where = { optimizer = opt, state = st, evaluator = p.evaluator }
        local spent = st.cost.probes
        local found = pg.probe.variance(where, { count = 2 })
        assert(found.g.corrected - found.g.corrected == 0, method.name .. ": not finite")
        spent = spent + found.evaluations + pg.probe.alpha(where, { count = 1, at = p.theta0() }).evaluations
        assert.equal(spent, st.cost.probes)
      end
      opt:step(st, p.evaluator, p.cyclic(k, 10))
    end
    return st
  end

  for _, family in ipairs(methods.families) do
    it("over " .. family .. " may be looked at and goes on as if it had not been", function()
      for _, method in ipairs(methods.over(family)) do
        local plain, watched = run(method, {}), run(method, { [0] = true, [1] = true, [7] = true, [13] = true })
        assert.equal(support.state_bytes(plain), support.state_bytes(watched), method.name)
        watched.cost.probes = 0
        assert.same(plain:numbers(), watched:numbers(), method.name)
      end
    end)
  end
end)

describe("moments", function()
  it("of equal tensors have exactly no variance, and of others the one by sums", function()
    local found, draw = moments.new(), support.stream(4)
    for _ = 1, 7 do found:add(pg.tensor({ 0.1, -1e9, 3 }, "f64"), 0.3) end
    assert.equal(0, found:variance())
    local pair, sums, total = moments.pair(), { x = 0, y = 0, xx = 0, xy = 0 }, 0
    for k = 1, 20 do
      local a, b, w = draw(), draw(), k % 3 + 1
      pair:add(pg.tensor({ a }, "f64"), pg.tensor({ b }, "f64"), w)
      total, sums.x, sums.y = total + w, sums.x + w * a, sums.y + w * b
      sums.xx, sums.xy = sums.xx + w * a * a, sums.xy + w * a * b
    end
    near(sums.xx / total - (sums.x / total) ^ 2, pair.x:variance(), 1e-14)
    near(sums.xy / total - sums.x * sums.y / total ^ 2, pair.products:item() / total, 1e-14)
  end)
end)
