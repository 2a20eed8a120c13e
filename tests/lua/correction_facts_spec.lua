-- Facts about the ready-made corrections that their definitions imply: special settings at which they become each
-- other, the noise and randomness that evaluations share or do not, and what the flags of a step mean.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local correction, family, rule = require "perigee.correction", require "perigee.family", require "perigee.rule"
local wrapper = require "perigee.wrapper"

local N, D, B = 60, 5, 6
local KEY = core.key(9)

local function run(spec, steps, options)
  local p = problems.random_logistic(N, D, options)
  local opt = pg.optimizer(spec)
  local st = opt:init(p.theta0(), KEY)
  for k = 0, steps - 1 do opt:step(st, p.evaluator, p.cyclic(k, B)) end
  return st, p, opt
end

local function same_path(a, b, steps, tolerance)
  local x, y = run(a, steps), run(b, steps)
  local d = support.difference(x.theta:totable(), y.theta:totable())
  assert(d <= tolerance, ("after %d steps they differ by %g"):format(steps, d))
end

-- Gradient descent: every step takes the mean of a pass.
local function descent(lr)
  return { rule = rule.sgd { lr = lr }, correction = correction.define {
    name = "descent",
    refresh = function(s, ctx) s.mean = ctx:full(ctx.q) end,
    correct = function(s) return s.mean end,
  } { every = 1 } }
end

describe("at special settings", function()
  it("SVRG, SARAH, PAGE with p = 1 and L-SVRG with p = 1 and a snapshot each step are gradient descent", function()
    for _, c in ipairs {
      correction.svrg { every = 1 }, correction.sarah { every = 1 }, correction.page { p = 1 },
    } do
      same_path({ rule = rule.sgd { lr = 0.5 }, correction = c }, descent(0.5), 12, 1e-13)
    end
  end)

  it("STORM whose a stays 1 is SGD with its step size", function()
    local sum = pg.scalar(0)
    local adaptive = rule.define {
      name = "adaptive", state = { sum = sum }, hyper = { k = 0.3, w = 0.1 },
      update = function(p, stats, s, o)
        s.sum = s.sum + (stats.g * stats.g):sum()
        return p - o.k / (o.w + s.sum) ^ (1 / 3) * stats.g
      end,
    }
    same_path({ rule = rule.sgd { lr = 1 }, correction = correction.storm { k = 0.3, w = 0.1, c = 1e9 } },
      { rule = adaptive }, 20, 1e-13)
  end)

  it("MARS with gamma = 0 is AdamW on gradients cut to length 1", function()
    for _, exact in ipairs { true, false } do
      local cut = pg.stage.define { name = "cut", apply = function(g)
        return g * pg.minimum(1 / (g * g):sum():sqrt(), 1)
      end }
      same_path({ rule = rule.adamw { lr = 0.05 }, correction = correction.mars { gamma = 0, exact = exact } },
        { rule = rule.adamw { lr = 0.05 }, stages = { combined = { cut } } }, 15, 1e-13)
    end
  end)

  it("approximate MARS is exact MARS where all batches are the whole data", function()
    local paths = {}
    for i, exact in ipairs { true, false } do
      local p = problems.random_logistic(N, D)
      local opt = pg.optimizer { rule = rule.adamw { lr = 0.05 }, correction = correction.mars { exact = exact } }
      local st = opt:init(p.theta0())
      for _ = 1, 8 do opt:step(st, p.evaluator, p.cyclic(0, N)) end
      paths[i] = st.theta:totable()
    end
    assert(support.difference(paths[1], paths[2]) < 1e-13)
  end)

  it("SARAH on a linear loss is gradient descent, whatever the batches", function()
    local function linear(_, theta, batch) return (batch.x:matmul(theta["t1"]:reshape(D, 1))):mean() end
    local results = {}
    for i, spec in ipairs { { rule = rule.sgd { lr = 0.5 }, correction = correction.sarah { every = 7 } },
      descent(0.5) } do
      results[i] = run(spec, 20, { loss = linear }).theta:totable()
    end
    assert(support.difference(results[1], results[2]) < 1e-13)
  end)

  it("Katyusha with theta1 = 1 and theta2 = 0 steps from z = x, as SVRG with step 1 / (3 L)", function()
    local L = 2.5
    same_path({ rule = wrapper.katyusha { L = L, sigma = 0, m = 10, theta1 = 1, theta2 = 0 },
      correction = correction.svrg { every = 1000 } },
      { rule = rule.sgd { lr = 1 / (3 * L) }, correction = correction.svrg { every = 1000 } }, 25, 1e-12)
  end)

  it("a wrapper that changes nothing gives the rule's own bits, with all of its options", function()
    local idle = pg.wrapper.define { name = "idle", update = function(p, stats, _, _, ctx)
      return ctx.rule(p, stats)
    end }
    local a = run({ rule = rule.adamw { lr = 0.05, beta1 = 0.8 }, weight_decay = 0.1 }, 9)
    local b = run({ rule = idle { rule = rule.adamw { lr = 0.05 }, beta1 = 0.8 }, weight_decay = 0.1 }, 9)
    assert.are.equal(a.theta:bytes(), b.theta:bytes())
  end)
end)

describe("the flags of a step", function()
  it("are what happened: first once, refreshed after each refresh, last before it", function()
    local seen = correction.define {
      name = "seen", state = { first = pg.scalar(0), refreshed = pg.scalar(0), last = pg.scalar(0) },
      refresh = function(s, ctx) s.mean = ctx:full(ctx.q) end,
      correct = function(s, ctx)
        s.first = s.first + (ctx.first and 1 or 0)
        s.refreshed = s.refreshed + (ctx.refreshed and 1 or 0)
        s.last = s.last + (ctx.last and 1 or 0)
        return ctx:evaluate(ctx.q)
      end,
    }
    local st = run({ rule = rule.sgd { lr = 0.1 }, correction = seen { every = 4, start = 2 } }, 14)
    local values = st.memory.values
    assert.are.same({ 1, 3, 3 }, { values.first:item(), values.refreshed:item(), values.last:item() })
  end)

  it("cost no program that makes no difference", function()
    local st, p, opt = run({ rule = rule.sgd { lr = 0.1 }, correction = correction.svrg { every = 3 } }, 7)
    local batch = p.cyclic(0, B)
    local usual = opt:program(st, p.evaluator, "corrected", batch)
    assert.are.equal(usual, opt:program(st, p.evaluator, "corrected", batch, { first = true, refreshed = true }))
  end)

  it("SARAH+ begins a segment once the estimate has shrunk enough, and not before", function()
    local p = problems.random_logistic(N, D)
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.5 },
      correction = correction.sarah { plus = 0.25, every = 1000 } }
    local st, first, ends = opt:init(p.theta0(), KEY), nil, 0
    for k = 0, 60 do
      local before = st.segment > 0 and st.memory.values.square:item()
      local _, info = opt:step(st, p.evaluator, p.cyclic(k, B))
      if before then assert.are.equal(before < 0.25 * first, info.refreshed) end
      if info.refreshed then first, ends = st.memory.values.square:item(), ends + 1 end
    end
    assert(ends > 1 and ends < 40, ends .. " segments")
  end)

  it("L-SVRG's default coin refreshes about once an epoch, and its snapshot is the point before a step", function()
    local p = problems.random_logistic(N, D)
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = correction.lsvrg {} }
    local st, refreshes = opt:init(p.theta0(), KEY), 0
    for k = 0, 299 do
      local before = k % 7 == 0 and st.theta:totable()
      local kept = st.memory.values.at.mean:bytes()
      opt:step(st, p.evaluator, p.cyclic(k, B))
      if st.memory.values.at.mean:bytes() ~= kept then
        refreshes = refreshes + 1
        if before then assert.are.same(before, st.memory.values.at.mean:totable()) end
      end
    end
    assert(refreshes > 12 and refreshes < 50, refreshes .. " in 30 epochs")
  end)
end)

describe("step sizes of corrections", function()
  it("multiply the learning rate of any rule, and are refused where there is none", function()
    local half = correction.define { name = "half", correct = function(_, ctx)
      return ctx:evaluate(ctx.q), { lr = 0.5 + 0 * ctx.t }
    end }
    same_path({ rule = rule.adamw { lr = 0.1 }, correction = half, weight_decay = 0.1 },
      { rule = rule.adamw { lr = 0.05 }, weight_decay = 0.1 }, 10, 1e-13)
    local no_rate = rule.define { name = "fixed", update = function(p, stats) return p - 0.1 * stats.g end }
    local ok, message = pcall(run, { rule = no_rate, correction = half }, 1)
    assert.is_false(ok)
    assert(tostring(message):find("rule fixed has no lr for the correction's step size", 1, true), message)
  end)

  it("of Barzilai and Borwein are 1 / m times the inverse curvature between snapshots", function()
    local m = 8
    local p = problems.random_logistic(N, D)
    local opt = pg.optimizer { rule = rule.sgd { lr = 1 }, correction = correction.svrg_bb { eta0 = 0.3, every = m },
      weight_decay = 0.02 }
    local st = opt:init(p.theta0(), KEY)
    local function full_gradient()
      local w, batch = st.theta:copy(), p.cyclic(0, N)
      local loss = function(theta) return p.evaluator.loss(nil, theta, batch) end
      return (pg.grad(loss)(w) + 0.02 * w):totable()
    end
    local previous
    for k = 0, 4 * m - 1 do
      local here = k % m == 0 and { w = st.theta:totable(), g = full_gradient() }
      opt:step(st, p.evaluator, p.cyclic(k, B))
      if here then
        if previous then
          local ss, sy = 0, 0
          for i = 1, D do
            local ds = here.w[i] - previous.w[i]
            ss, sy = ss + ds * ds, sy + ds * (here.g[i] - previous.g[i])
          end
          local want = ss / (m * sy)
          assert(math.abs(st.memory.values.eta - want) < 1e-9 * want, ("%g, not %g"):format(st.memory.values.eta, want))
        else
          assert.are.equal(0.3, st.memory.values.eta)
        end
        previous = here
      end
    end
  end)
end)

describe("estimated alpha", function()
  it("is 1 at the snapshot, and Cov / Var of the steps before after that", function()
    local sums = {
      all = function(list) local t = 0 for _, x in ipairs(list) do t = t + x end return { t } end,
      component = function(list) return list end,
    }
    for over, sum in pairs(sums) do
      local p = problems.random_logistic(N, D)
      local c = correction.alpha_svrg { estimate = over, memory = 0.5, every = 100 }
      local moving = rule.define { name = "moving", state = { "seen_g" }, update = function(w, stats, s)
        s.seen_g = stats.g
        return w - 0.5 * stats.g
      end }
      local opt = pg.optimizer { rule = moving, correction = c }
      local st = opt:init(p.theta0(), KEY)
      local function gradient(w, batch)
        return pg.grad(function(theta) return p.evaluator.loss(nil, theta, batch) end)(w):totable()
      end
      local at, mean, cov, var
      for k = 0, 5 do
        local w, batch = st.theta:copy(), p.cyclic(k, B)
        at = at or w
        mean = mean or gradient(at, p.cyclic(0, N))
        local now, old, want, x, y = gradient(w, batch), gradient(at, batch), {}, {}, {}
        for i = 1, D do
          local j = over == "all" and 1 or i
          local alpha = cov and math.max(-2, math.min(2, cov[j] / (var[j] + 1e-24))) or 1
          want[i] = now[i] - alpha * old[i] + alpha * mean[i]
          x[i], y[i] = (old[i] - mean[i]) * (now[i] - mean[i]), (old[i] - mean[i]) ^ 2
        end
        x, y = sum(x), sum(y)
        for j = 1, #x do
          x[j] = cov and 0.5 * cov[j] + 0.5 * x[j] or x[j]
          y[j] = var and 0.5 * var[j] + 0.5 * y[j] or y[j]
        end
        cov, var = x, y
        opt:step(st, p.evaluator, batch)
        assert(support.difference(st.rule.seen_g:totable(), want) < 1e-12, over .. ", step " .. k)
      end
    end
  end)

  it("lowers the variance below that of alpha = 1 when the snapshot is stale", function()
    local function variance(c)
      local p = problems.random_logistic(N, D, { seed = 11 })
      local still = problems.watch { "g" }
      local away = pg.optimizer { rule = rule.sgd { lr = 2 }, correction = c }
      local st = away:init(p.theta0(), KEY)
      for k = 0, 40 do away:step(st, p.evaluator, p.cyclic(k, B)) end
      local probe = pg.optimizer { rule = still, correction = c }
      local other = probe:init(st.theta, KEY)
      for i, entry in ipairs(st.memory.names) do
        assert.are.equal(entry, other.memory.names[i])
      end
      local from = {}
      for _, row in ipairs(st:tensors()) do from[row[1]] = row[2] end
      local total, list = 0, {}
      for k = 0, 9 do
        for _, row in ipairs(other:tensors()) do if from[row[1]] then row[2]:copy_from(from[row[1]]) end end
        other:load(other:tensors(), st:numbers())
        probe:step(other, p.evaluator, p.cyclic(k, B))
        list[#list + 1] = other.rule.seen_g:totable()
      end
      for i = 1, D do
        local mean, square = 0, 0
        for _, g in ipairs(list) do mean, square = mean + g[i] / #list, square + g[i] ^ 2 / #list end
        total = total + square - mean ^ 2
      end
      return total
    end
    local whole = variance(correction.svrg { every = 1000 })
    local estimated = variance(correction.alpha_svrg { estimate = "all", every = 1000 })
    assert(estimated < whole, ("%g against %g"):format(estimated, whole))
  end)
end)

-- ---- what evaluations share -----------------------------------------------------------------------------------------

-- The statistics of one corrected step of `c` over f right after its refresh.
local function seen_after_refresh(f, c, k, options)
  local p = problems.random_logistic(N, D, options)
  local opt = pg.optimizer { family = f, rule = problems.watch(f.stats), correction = c }
  local st = opt:init(p.theta0(), KEY)
  for step = 0, k - 1 do opt:step(st, p.evaluator, p.cyclic(step, B)) end
  return st, p
end

describe("noise", function()
  local diagonal = family.diagonal { ess = 50, h0 = 0.5 }

  it("shared cancels at the snapshot; fresh and fixed do not", function()
    local found = {}
    for _, noise in ipairs { "shared", "fresh", "fixed" } do
      local st = seen_after_refresh(diagonal, correction.svrg { every = 100, noise = noise }, 1)
      found[noise] = support.difference(st.rule.seen_g:totable(), st.memory.values.mean.g:totable())
    end
    assert.are.equal(0, found.shared)
    assert(found.fresh > 1e-3 and found.fixed > 1e-3)
  end)

  it("fixed is one draw until the next refresh, that of the pass: over the data the snapshot's terms cancel", function()
    local old = correction.define {
      name = "old",
      refresh = function(s, ctx)
        s.at = ctx.q:clone()
        s.mean = ctx:full(s.at)
      end,
      correct = function(s, ctx)
        ctx:evaluate(ctx.q)
        return ctx:evaluate(s.at)
      end,
    }
    local p = problems.random_logistic(N, D, { batch = B })
    local opt = pg.optimizer { family = diagonal, rule = problems.watch { "g", "h" },
      correction = old { every = 100, noise = "fixed" } }
    local st, sum = opt:init(p.theta0(), KEY), {}
    for k = 0, N // B - 1 do
      opt:step(st, p.evaluator, p.cyclic(k, B))
      for i, x in ipairs(st.rule.seen_h:totable()) do sum[i] = (sum[i] or 0) + x * B / N end
    end
    assert(support.difference(sum, st.memory.values.mean.h:totable()) < 1e-12)
  end)

  it("mirrored halves nothing but the odd part: on a quadratic a pair gives the gradient at the mean", function()
    local function quadratic(_, theta, batch)
      local r = batch.x:matmul(theta["t1"]:reshape(D, 1)):squeeze(2) - batch.y
      return 0.5 * (r * r):mean()
    end
    local p = problems.random_logistic(N, D, { loss = quadratic })
    local batch = p.cyclic(0, N)
    local theta = pg.randn(core.key(4), p.theta0().layout, "f64")
    local want = pg.grad(function(w) return quadratic(nil, w, batch) end)(theta):totable()
    local pairs_of = { family.isotropic { sigma = 0.7, samples = 2, antithetic = true },
      family.diagonal { ess = 3, samples = 4, antithetic = true } }
    for _, f in ipairs(pairs_of) do
      local opt = pg.optimizer { family = f, rule = problems.watch { "g" } }
      local st = opt:init(theta, KEY)
      opt:step(st, p.evaluator, batch)
      assert(support.difference(st.rule.seen_g:totable(), want) < 1e-13, f.name)
      assert.are.equal(N * f.samples, st.cost:gradients())
    end
    -- in a pass: antithetic = true of the correction, at twice the price
    local c = correction.svrg { every = 100, antithetic = true }
    local opt = pg.optimizer { family = family.isotropic { sigma = 0.7 }, rule = problems.watch { "g" },
      correction = c }
    local st = opt:init(theta, KEY)
    opt:step(st, p.evaluator, batch)
    assert(support.difference(st.memory.values.mean.g:totable(), want) < 1e-13)
    assert.are.equal(2 * N, st.cost.passes)
    assert.has_error(function() family.isotropic { sigma = 1, samples = 3, antithetic = true } end)
  end)
end)

describe("locks", function()
  -- Two streams of keyed noise on the inputs: one drawn as dropout is, one as augmentation is.
  local function noisy(_, theta, batch, ctx)
    local x = batch.x
    if ctx.train then
      local shape = { D }
      local augment = ctx.augment_key or ctx.key
      x = x + 0.3 * pg.randn(ctx.key:fold(1), shape, "f64") + 0.3 * pg.randn(augment:fold(2), shape, "f64")
    end
    return pg.softplus(-x:matmul(theta["t1"]:reshape(D, 1)):squeeze(2) * batch.y):mean()
  end
  local point = family.point {}

  -- How far the corrected gradient right after the refresh is from the mean of the pass.
  local function miss(lock)
    local st = seen_after_refresh(point, correction.svrg { every = 100, lock = lock }, 1, { loss = noisy })
    return support.difference(st.rule.seen_g:totable(), st.memory.values.mean.g:totable())
  end

  it("hold everywhere unless undone: at the snapshot nothing is left, bit for bit", function()
    assert.are.equal(0, miss(nil))
    assert.are.equal(0, miss { key = "epoch" })
    assert.are.equal(0, miss { partition = true })
  end)

  it("undone for dropout or augmentation leave a difference within the step", function()
    assert(miss { dropout = false } > 1e-3)
    assert(miss { augment = false } > 1e-3)
    assert(miss { dropout = false, augment = false } > 1e-3)
  end)

  it("kept in the step only, the two gradients still cancel, but the pass is of another draw", function()
    assert.are.equal(0, miss { dropout = "step" })
    assert.are.equal(0, miss { augment = "step" })
    local means = {}
    for i, lock in ipairs { { dropout = true }, { dropout = "step" }, { augment = "step" },
      { dropout = "step", augment = "step" } } do
      local st = seen_after_refresh(point, correction.svrg { every = 100, lock = lock }, 1, { loss = noisy })
      means[i] = table.concat(st.memory.values.mean.g:totable(), " ")
      for j = 1, i - 1 do assert.are_not.equal(means[j], means[i]) end
    end
  end)

  it("of the partition: the pass goes through the batches of the steps, and the steps keep them", function()
    local data = pg.data.from { x = pg.randn(core.key(2), { 50, 3 }), y = pg.ones { 50 } }
    local function orders(lock)
      local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 },
        correction = correction.svrg { every = pg.epochs(2), lock = lock } }
      local source = pg.sampler.shuffled(data, 20, core.key(1))
      local evaluator = pg.evaluator { source = source, key = core.key(5), batch = 20, loss = function(_, theta, batch)
        return (batch.x:matmul(theta["t1"]:reshape(3, 1)):squeeze(2) * batch.y):mean()
      end }
      local st, list = opt:init(support.flat("f32", { 0, 0, 0 }), core.key(6)), {}
      for k = 0, 11 do
        local order = opt:order_of(st, k // 3)
        local batch, epoch = source:at(k, order)
        list[k + 1] = order
        opt:step(st, evaluator, batch, nil, { epoch = epoch })
      end
      return list
    end
    assert.are.same({ 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3 }, orders(nil))
    assert.are.same({ 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2 }, orders { partition = true })
  end)

  it("are refused where they make no sense", function()
    local function refused(options, text)
      local ok, message = pcall(correction.svrg, options)
      assert.is_false(ok)
      assert(tostring(message):find(text, 1, true), message)
    end
    refused({ lock = true }, "lock is a table, as { dropout = false }, not true")
    refused({ lock = { drop = true } }, "unknown option 'drop' of correction svrg lock (known: augment, dropout,")
    refused({ lock = { dropout = "epoch" } }, 'lock.dropout is true, "step" (in a step, not in its pass) or false')
    refused({ noise = "other" }, 'noise is "shared" or "fresh" or "fixed", not "other"')
    refused({ ahead = true }, "mega must be a number of batches")
    refused({ due = 3 }, "due is a function(ctx) → boolean, not 3")
  end)
end)

describe("a mega-batch ahead", function()
  it("is the batches of the coming steps, the short one too", function()
    local data = pg.data.from { x = pg.randn(core.key(2), { 50, 3 }) }
    local source = pg.sampler.shuffled(data, 20, core.key(1))
    for step = 0, 4 do
      local total, ids, want = 0, {}, {}
      for j = 0, 2 do table.move(source:at(step + j).id:totable(), 1, 20, #want + 1, want) end
      for _, batch in source:batches(20, { count = 3, ahead = step }) do
        total = total + batch.id.shape[1]
        table.move(batch.id:totable(), 1, 20, #ids + 1, ids)
      end
      assert.are.same(want, ids)
      assert.are.equal(total, source:total(20, 3, step))
    end
  end)
end)
