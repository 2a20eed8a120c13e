-- Facts about the full family, exact Hessians, Newton's rule and their posterior correction. Numbers in brackets are
-- those of the identities in the methods' specification (poco_ivon.md, section 7).
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local family, correction, rule = require "perigee.family", require "perigee.correction", require "perigee.rule"
local names = require "perigee.names"
local stage, vectors = require "perigee.stage", require "perigee.vectors"
local linalg = pg.linalg

local function raises(f, ...)
  local ok, message = pcall(f)
  assert(not ok, "an error was expected")
  for _, part in ipairs { ... } do assert(message:find(part, 1, true), message) end
end

local function largest(x) return x:abs():max():item() end

-- A rule that keeps g and the curvature it gets, and moves by lr.
local function recorder(field, lr)
  return rule.define {
    name = "recorder",
    state = { seen_g = 0, seen_c = field == "h" and 0
      or function(theta) return pg.zeros({ theta.size, theta.size }, "f64") end },
    update = function(p, stats, s)
      s.seen_g, s.seen_c = stats.g, stats[field]
      return p - (lr or 0) * stats.g
    end,
  }
end

-- Two tensors with pads between them, and a loss that is no quadratic: logistic regression with a bias, of rows x.
local LAYOUT = support.layout { { 3 }, { 1 } }
local function two_tensors(options)
  options = options or {}
  local n = 24
  local x, noise = pg.randn(core.key(1), { n, 3 }, "f64"), pg.randn(core.key(2), { n }, "f64")
  local y = 2 * (x:sum(2) + noise):gt(0):to("f64") - 1
  local source = pg.evaluator.memory { x = x, y = y }
  local function loss(_, theta, batch)
    local w = theta["t1"]
    return (-(batch.x:matmul(w:reshape(3, 1)):reshape(-1) + theta["t2"]) * batch.y):softplus():mean()
      + 0.05 * (w * w * w * w):sum()
  end
  local self = { n = n, evaluator = pg.evaluator { loss = options.loss or loss, source = source, batch = 8 } }
  function self.theta0() return support.vector(LAYOUT, "f64", { { 0.4, -0.2, 0.1 }, { 0.3 } }) end
  function self.batch(k)
    local rows = {}
    for i = 1, 8 do rows[i] = (k * 8 + i - 1) % n end
    return source:take(core.tensor("i64", { 8 }, rows))
  end
  self.whole = source:take(pg.arange(n, "i64"))
  function self.at(theta, batch) return self.evaluator.loss(nil, theta, batch) end
  return self
end

local function run(p, opt, steps, st)
  st = st or opt:init(p.theta0(), core.key(9))
  for _ = 1, steps do opt:step(st, p.evaluator, p.batch(st.step)) end
  return st
end

describe("exact curvature", function()
  local p = two_tensors()
  local function hessian_at(theta, batch) return pg.hessian(function(w) return p.at(w, batch) end)(theta) end

  it("is the Hessian of the batch's loss at the sampled point, whatever stages do to its gradient", function()
    local o = { ess = 24, h0 = 0.7 }
    local clip = { per_evaluation = { stage.clip { norm = 1e-3 } } }
    for _, noise in ipairs { false, true } do
      local wanted = hessian_at(p.theta0(), p.batch(0))
      o.noise = noise
      local full = pg.optimizer { family = family.full(o), rule = recorder "H", weight_decay = 0.1, stages = clip }
      local diagonal = pg.optimizer { family = family.diagonal { ess = 24, h0 = 0.7, hess_approx = "exact",
        noise = noise }, rule = recorder "h", weight_decay = 0.1, stages = clip }
      local H, h = run(p, full, 1).rule.seen_c, run(p, diagonal, 1).rule.seen_c
      assert((largest(H - wanted) > 1e-3) == noise)
      if noise then -- with H = h0 I both draw the same point
        local evaluation = require "perigee.evaluation"
        local key = core.apply("key_fold", nil, evaluation.fold(core.key(9), evaluation.streams.noise, 0), 1)
        wanted = hessian_at(p.theta0() + pg.randn(key, LAYOUT, "f64") / math.sqrt(24 * 0.8), p.batch(0))
      end
      assert(largest(H - wanted) < 1e-14)
      assert(support.difference(h:flat():totable(), (wanted * pg.eye(4, "f64")):sum(2):totable()) < 1e-14)
    end
  end)

  it("is booked apart from gradients, and costs nothing where it is not asked for", function()
    local opt = pg.optim.newton_poco { ess = 24, every = 3, lr = 0.1 }
    local st = run(p, opt, 3)
    assert.equal(3 * 8 * 2 + 24, st.cost:gradients())
    assert.equal(4 * (3 * 8 * 2 + 24), st.cost.products)
    assert(tostring(st.cost):find("288 Hessian-vector products", 1, true))
    assert.equal(0, run(p, pg.optim.ivon { ess = 24 }, 1).cost.products)
    local copy = opt:init(p.theta0())
    copy:load(st:tensors(), st:numbers())
    assert.equal(288, copy.cost.products)
  end)

  it("is averaged over the pieces of a batch, at the price of the whole", function()
    local function first(micro)
      local evaluator = pg.evaluator { loss = p.evaluator.loss, source = p.evaluator.source, micro = micro }
      local opt = pg.optimizer { family = family.full { ess = 24, noise = false }, rule = recorder "H" }
      local st = opt:init(p.theta0(), core.key(9))
      opt:step(st, evaluator, p.batch(0))
      return st
    end
    local whole, cut = first(1), first(3)
    assert(largest(whole.rule.seen_c - cut.rule.seen_c) < 1e-15)
    assert.equal(4 * 8, cut.cost.products)
    assert.equal(8, cut.cost:gradients())
  end)

  it("is refused for many parameters, with what it would take", function()
    local many = core.vector(support.layout { { 4097 } }, "f32")
    raises(function() pg.optim.newton({ ess = 1 }):init(many) end, "family full is for at most 4096 parameters",
      "4097 would take 67141636 bytes for each of its matrices [4097, 4097]")
    raises(function() pg.optim.ivon({ ess = 1, hess_approx = "exact" }):init(many) end,
      'family diagonal with hess_approx = "exact" is for at most 4096 parameters', "4097 Hessian-vector products")
    pg.optim.ivon({ ess = 1 }):init(many)
  end)

  it("follows dropout masks and batch norm as the gradient does", function()
    local model = pg.nn.sequential { pg.nn.linear(3, 2), pg.nn.batch_norm(2), pg.nn.dropout(0.5), pg.nn.linear(2, 1) }
    local function loss(m, theta, batch, ctx)
      return (-m(theta, batch.x, ctx):reshape(-1) * batch.y):softplus():mean()
    end
    local source = pg.evaluator.memory { x = pg.randn(core.key(3), { 16, 3 }, "f64"),
      y = 2 * pg.randn(core.key(4), { 16 }, "f64"):gt(0):to("f64") - 1 }
    local evaluator = pg.evaluator { loss = loss, model = model, source = source }
    local theta, batch = model:init(core.key(5), "f64"), source:take(pg.arange(16, "i64"))
    local opt = pg.optimizer { family = family.full { ess = 16, noise = false }, rule = recorder "H" }
    local st = opt:init(theta, core.key(9), model:init_buffers())
    opt:step(st, evaluator, batch)
    local evaluation = require "perigee.evaluation"
    local key = evaluation.fold(core.key(9), evaluation.streams.example, evaluation.streams.epoch, 0)
    key = core.apply("key_fold", nil, key, batch.id)
    local before = model:init_buffers()
    local wanted = pg.hessian(function(w)
      return loss(model, w, batch, { train = true, key = key, buffers = before:to("f64"), update_buffers = false })
    end)(theta)
    assert(largest(wanted) > 1e-2)
    assert(largest(st.rule.seen_c - wanted) < 1e-13)
  end)
end)

describe("the full family", function()
  it("refuses what makes no sense", function()
    raises(function() family.full {} end, "family full needs 'ess'")
    raises(function() family.full { ess = 1, hess_approx = "gradsq" } end, '"exact" or "price", not "gradsq"')
    raises(function() family.full { ess = 1, hess_approx = "price", noise = false } end, 'needs hess_approx = "exact"')
    raises(function() pg.optimizer({ rule = rule.newton }):init(core.vector(LAYOUT, "f32")) end,
      "rule newton reads q.H, which family point does not keep; use pg.family.full")
    raises(function() pg.optimizer({ family = family.full { ess = 1 }, rule = rule.ivon }):init(
      core.vector(LAYOUT, "f32")) end, "use pg.family.diagonal")
  end)

  -- A posterior with a made-up H, positive definite with the decay.
  local function made_up(n, key)
    local x = pg.randn(core.key(key), { n, n }, "f64")
    return { mean = support.flat("f64", pg.randn(core.key(key + 1), { n }, "f64"):totable()), H = x:matmul(x:t()) }
  end

  it("samples with the covariance (ess (H + decay))^-1, from draws that two posteriors share", function()
    local sample = family.full({ ess = 1 }).definition.sample
    local n, count = 3, 4000
    local decay = support.flat("f64", { 0.5, 0.1, 2 })
    local sums, draws = pg.zeros({ n, n }, "f64"), {}
    for which, o in ipairs { { ess = 7, weight_decay = decay, noise = true }, { ess = 3, weight_decay = 0.3,
      noise = true } } do
      local q = made_up(n, 10 * which)
      local S = q.H + pg.eye(n, "f64") * (which == 1 and decay:flat() or 0.3)
      for k = 1, which == 1 and count or 1 do
        local step = (sample(q, core.key(k), o) - q.mean):flat()
        local eps = math.sqrt(o.ess) * linalg.cholesky(S):t():matmul(step)
        if which == 1 then sums = sums + step:outer(step) end
        if k == 1 then draws[which] = eps end
      end
      if which == 1 then
        local identity = (o.ess / count) * sums:matmul(S)
        assert(largest(identity - pg.eye(n, "f64")) < 5 * math.sqrt(2 / count) * 3, tostring(identity))
      end
      assert.equal(q.mean:bytes(), sample(q, core.key(1), { noise = false }):bytes())
      local there, back = sample(q, core.key(8), o, 1), sample(q, core.key(8), o, -1)
      assert(largest(there + back - 2 * q.mean) < 1e-14)
    end
    assert(support.difference(draws[1]:totable(), draws[2]:totable()) < 1e-12)
  end)

  it("estimates without products by Price's formula, unbiased", function()
    local A = made_up(3, 5).H
    local p = two_tensors {}
    local function quadratic(_, theta)
      local w = theta:flat()
      return 0.5 * w:dot(A:matmul(w)) + 0.3 * w:sum()
    end
    local problem = problems.logistic { X = { { 0, 0, 0 } }, y = { 1 }, loss = quadratic, w0 = { 0.2, -0.1, 0.4 } }
    local opt = pg.optimizer { family = family.full { ess = 10, hess_approx = "price", beta2 = 1 },
      rule = recorder "H" }
    local st, count, batch = opt:init(problem.theta0(), core.key(p.n)), 4000, problem.batch { 0 }
    local sums, squares = pg.zeros({ 3, 3 }, "f64"), pg.zeros({ 3, 3 }, "f64")
    for _ = 1, count do
      opt:step(st, problem.evaluator, batch)
      local H = st.rule.seen_c
      assert.equal(H:bytes(), H:t():clone():bytes())
      sums, squares = sums + H, squares + H * H
    end
    local mean = sums / count
    local deviation = ((squares / count - mean * mean) / count):sqrt()
    assert(largest((mean - A) / deviation) < 4.5)
    assert.equal(0, st.cost.products)
  end)

  it("stays positive definite: H + decay keeps at least half of itself, whatever comes (3)", function()
    local update = family.full({ ess = 1 }).definition.update
    for trial = 1, 12 do
      local n, decay = 6, trial % 2 == 0 and 0.3 or support.flat("f64", { 1, 0.2, 3, 0.5, 0.1, 1 })
      local q, x = made_up(n, 20 * trial), pg.randn(core.key(trial), { n, n }, "f64")
      local indefinite = (x + x:t()) * 10 ^ (trial % 4)
      local S = vectors.add_to_diagonal(q.H, decay)
      for _, beta2 in ipairs { 0, 0.3, 0.9, 1 } do
        local moved = { mean = q.mean, H = q.H }
        update(moved, { H = indefinite }, { beta2 = beta2, weight_decay = decay, guard = true })
        local l = linalg.cholesky(S)
        local whitened = linalg.solve_triangular(l, vectors.add_to_diagonal(moved.H, decay))
        local lowest = (linalg.eigh(linalg.solve_triangular(l, whitened:t()))):min():item()
        assert(lowest >= 0.5 - 1e-7, ("beta2 %g: %.9g of it is left"):format(beta2, lowest))
        if beta2 == 1 then assert(largest(moved.H - q.H) == 0) end
      end
    end
  end)

  it("takes a weight decay for each tensor, in sampling, guard and step", function()
    local p = two_tensors()
    local by_tensor = pg.per_tensor(function(name) return name == "t1" and 0.3 or 0.3 end)
    local function bytes(decay)
      local opt = pg.optim.newton_poco { ess = 24, every = 2, lr = 0.2, weight_decay = decay }
      return support.state_bytes(run(p, opt, 5))
    end
    local other = pg.per_tensor(function(name) return name == "t1" and 0.3 or 0 end)
    assert.equal(bytes(0.3), bytes(by_tensor))
    assert.are_not.equal(bytes(0.3), bytes(other))
  end)

  it("averages samples, and pairs of mirror images", function()
    local p = two_tensors()
    local opt = pg.optimizer { family = family.full { ess = 24, samples = 4, antithetic = true }, rule = recorder "H" }
    local st = run(p, opt, 1)
    assert.equal(4 * 8, st.cost:gradients())
    assert.equal(4 * 4 * 8, st.cost.products)
  end)

  it("predicts with samples", function()
    local model = pg.nn.sequential { pg.nn.linear(3, 2) }
    local theta = model:init(core.key(1))
    local opt = pg.optim.newton { ess = 1e8 }
    local x = pg.randn(core.key(2), { 5, 3 })
    local mean = pg.predict(model, theta, x)
    local st = opt:init(theta)
    local averaged = pg.predict(model, st.q, x, { samples = 8, optimizer = opt })
    assert(largest(mean - averaged) < 1e-3 and largest(mean - averaged) > 0)
  end)
end)

describe("Newton's rule", function()
  it("is one step of Newton's method on a quadratic, momentum and decay included", function()
    local H = pg.tensor({ { 2, 0.5 }, { 0.5, 1 } }, "f64")
    local S = H + 0.25 * pg.eye(2, "f64")
    for _, beta1 in ipairs { 0, 0.5 } do
      local p = support.flat("f64", { 1, -2 })
      local state = rule.newton:init(p, { lr = 0.5, beta1 = beta1, weight_decay = 0.25 })
      local want, m = pg.tensor({ 1, -2 }, "f64"), pg.zeros({ 2 }, "f64")
      for t = 1, 3 do
        local g = support.flat("f64", { 0.3 * t, -0.1 })
        m = beta1 * m + (1 - beta1) * g:flat()
        want = want - 0.5 * linalg.solve_spd(S, m / (1 - beta1 ^ t) + 0.25 * want)
        rule.newton:step(p, { g = g }, state, t - 1, { q = { H = H } })
        assert(support.difference(p:flat():totable(), want:totable()) < 1e-14)
      end
      assert.equal(beta1 > 0, rawget(state, "m") ~= nil)
    end
  end)
end)

-- ---- posterior correction -------------------------------------------------------------------------------------------

-- Of n examples 0.5 (w - c_i) A_i (w - c_i), the mean over a batch; diagonal: every A_i is.
local function quadratics(diagonal)
  local n, d = 12, 4
  local A, c = pg.randn(core.key(5), { n, d, d }, "f64"), pg.randn(core.key(6), { n, d }, "f64")
  if diagonal then A = A * pg.eye(d, "f64") end
  A = A:matmul(A:transpose(2, 3))
  local function loss(_, theta, batch)
    local offset = (theta:flat() - batch.c):unsqueeze(3)
    return 0.5 * (offset * batch.A:matmul(offset)):sum({ 2, 3 }):mean()
  end
  local source = pg.evaluator.memory { A = A, c = c }
  local self = { evaluator = pg.evaluator { loss = loss, source = source, batch = 5 }, H = A:mean(1) }
  function self.theta0() return support.vector(LAYOUT, "f64", { { 1, -1, 2 }, { 0.5 } }) end
  function self.batch(k) return source:take(core.tensor("i64", { 1 }, { k * 5 % n })) end
  function self.gradient(theta)
    local offset = (theta:flat() - c):unsqueeze(3)
    return A:matmul(offset):squeeze(3):mean(1)
  end
  return self
end

describe("posterior correction over exact curvatures", function()
  it("gives the full gradient and Hessian of a quadratic from any single example (17)", function()
    for _, diagonal in ipairs { false, true } do
      local p, field = quadratics(diagonal), diagonal and "h" or "H"
      local made = diagonal and family.diagonal { ess = 12, hess_approx = "exact", noise = false }
        or family.full { ess = 12, noise = false }
      for _, prox in ipairs { true, false } do
        local opt = pg.optimizer { family = made, rule = recorder(field, 0.1),
          correction = correction.svrg { every = 100, prox = prox } }
        local st, worst = opt:init(p.theta0(), core.key(9)), 0
        for k = 0, 8 do
          local full = p.gradient(st.theta)
          opt:step(st, p.evaluator, p.batch(k))
          worst = math.max(worst, largest(st.rule.seen_g:flat() - full))
          local H = diagonal and (p.H * pg.eye(4, "f64")):sum(2) or p.H
          assert(largest((diagonal and st.rule.seen_c:flat() or st.rule.seen_c) - H) < 1e-13)
        end
        assert((worst < 1e-13) == prox, worst)
      end
    end
  end)

  it("is the closed form of the update of natural parameters, for any strength (18)", function()
    local p, rho, decay = two_tensors(), 0.3, 0.2
    local identity = pg.eye(4, "f64")
    local function derivatives(m, batch)
      local function loss(w) return p.at(w, batch) end
      return pg.grad(loss)(m):flat(), pg.hessian(loss)(m)
    end
    for _, alpha in ipairs { 1, 0.6 } do
      local opt = pg.optimizer {
        weight_decay = decay, family = family.full { ess = 24, h0 = 1, beta2 = 1 - rho, noise = false, guard = false },
        correction = correction.svrg { every = 3, alpha = alpha }, rule = rule.newton { lr = rho },
      }
      local st = opt:init(p.theta0(), core.key(9))
      local m, second = p.theta0(), (1 + decay) * identity
      local first = second:matmul(m:flat())
      local at, g_mean, H_mean
      for k = 0, 7 do
        if k % 3 == 0 then
          at = m
          g_mean, H_mean = derivatives(at, p.whole)
        end
        local g, H = derivatives(m, p.batch(k))
        local g_old, H_old = derivatives(at, p.batch(k))
        local x, x_at = m:flat(), at:flat()
        -- sites (g - H m, H), the prior of mean 0 exact in every step
        local site = (g - H:matmul(x)) - alpha * ((g_old - H_old:matmul(x_at)) - (g_mean - H_mean:matmul(x_at)))
        first = (1 - rho) * first - rho * site
        second = (1 - rho) * second + rho * (H - alpha * (H_old - H_mean) + decay * identity)
        m = pg.vector(LAYOUT, linalg.solve_spd(second, first))
        opt:step(st, p.evaluator, p.batch(k))
        assert(largest(st.theta - m) < 1e-13)
        assert(largest(st.q.H + decay * identity - second) < 1e-13)
      end
    end
  end)

  it("without prior, noise and memory, on the full batch, is Newton's method (18)", function()
    local p = two_tensors()
    local opt = pg.optimizer {
      family = family.full { ess = 24, h0 = 0, beta2 = 0, noise = false, guard = false },
      correction = correction.svrg { every = 2 }, rule = rule.newton { lr = 1 },
    }
    local st = opt:init(p.theta0(), core.key(9))
    local function loss(w) return p.at(w, p.whole) end
    local m = p.theta0()
    for _ = 1, 5 do
      m = m - pg.vector(LAYOUT, linalg.solve_spd(pg.hessian(loss)(m), pg.grad(loss)(m):flat()))
      opt:step(st, p.evaluator, p.whole)
      assert(largest(st.theta - m) < 1e-13)
    end
    assert(pg.grad(loss)(m):norm():item() < 1e-6)
  end)

  for _, mega in ipairs { 1, 2, "full" } do
    for _, noise in ipairs { false, true } do
      it(("gives the statistics of the pass right after it (12; M = %s, noise %s)"):format(mega, noise), function()
        local p = two_tensors()
        local opt = pg.optimizer { family = family.full { ess = 24, noise = noise }, rule = recorder("H", 0.1),
          weight_decay = 0.1, correction = correction.svrg { every = 1, mega = mega } }
        local st = opt:init(p.theta0(), core.key(9))
        for k = 0, 2 do
          opt:step(st, p.evaluator, p.batch(k))
          assert.equal(st.memory.values.mean.g:bytes(), st.rule.seen_g:bytes())
          assert.equal(st.memory.values.mean.H:bytes(), st.rule.seen_c:bytes())
        end
      end)
    end
  end

  it("has its proximal term by itself over the full family, and only with exact curvatures", function()
    local p = two_tensors()
    local function bytes(prox, made)
      return support.state_bytes(run(p, pg.optimizer { family = made, rule = rule.newton { lr = 0.2 },
        correction = correction.svrg { every = 3, prox = prox } }, 5))
    end
    local exact, price = family.full { ess = 24 }, family.full { ess = 24, hess_approx = "price" }
    assert.equal(bytes(nil, exact), bytes(true, exact))
    assert.are_not.equal(bytes(nil, exact), bytes(false, exact))
    assert.equal(bytes(nil, price), bytes(false, price))
    local function over(made)
      local c = correction.svrg { prox = true }
      return function() pg.optimizer { family = made, rule = rule.sgd, correction = c } end
    end
    for _, made in ipairs { price, family.diagonal { ess = 1 }, family.diagonal { ess = 1, hess_approx = "gradsq" } } do
      raises(over(made), 'the proximal term needs hess_approx = "exact"')
    end
    raises(over(nil), "correction svrg does not go with family point", "which the family does not estimate")
    raises(function() correction.svrg { prox = "on" } end, 'prox must be a boolean or "auto", not "on"')
  end)

  it("resumes with the same bits, in a pass too, with H among the tensors of the state", function()
    local p = two_tensors()
    local function make()
      return pg.optim.newton_poco { ess = 24, every = 3, lr = 0.2, beta1 = 0.5, weight_decay = 0.1 }
    end
    local straight = run(p, make(), 8)
    local listed = {}
    for _, entry in ipairs(straight:tensors()) do listed[#listed + 1] = entry.name end
    for _, name in ipairs { "q.H", "correction.at.H", "correction.mean.H" } do
      assert(names.includes(listed, name), name)
    end
    for stop = 1, 7 do
      local first, opt = run(p, make(), stop), make()
      local second = opt:init(p.theta0(), core.key(9))
      second:load(first:tensors(), first:numbers())
      assert.equal(support.state_bytes(straight), support.state_bytes(run(p, opt, 8 - stop, second)))
    end
    local interrupted, opt = run(p, make(), 3), make()
    local halted = make()
    local _, info = halted:step(interrupted, p.evaluator, p.batch(3), nil, {
      on_pass = function(_, done) return done < 2 end,
    })
    assert(info.suspended)
    local second = opt:init(p.theta0(), core.key(9))
    second:load(interrupted:tensors(), interrupted:numbers())
    assert.equal(support.state_bytes(straight), support.state_bytes(run(p, opt, 5, second)))
  end)

  it("gives the same bits for any number of threads", function()
    local d = 70 -- beyond one block of the factorization
    local p = problems.random_logistic(40, d)
    local function bytes(threads)
      pg.set_threads(threads)
      local opt = pg.optim.newton_poco { ess = 40, every = 2, lr = 0.2, weight_decay = 0.01 }
      local st = opt:init(p.theta0(), core.key(9))
      for k = 0, 3 do opt:step(st, p.evaluator, p.cyclic(k, 10)) end
      pg.set_threads(0)
      return support.state_bytes(st)
    end
    assert.equal(bytes(1), bytes(2))
  end)
end)

describe("convergence", function()
  -- Section 8.3: N = 2000, d = 20, batches of 10, a snapshot each epoch, no noise; correlated columns of unequal scale.
  local N, d, size, decay = 2000, 20, 10, 1e-3

  local function make_problem()
    local x = pg.randn(core.key(3), { N, d }, "f64")
    local scale = pg.exp(pg.linspace(0, 1.5, d, "f64")) / 2
    x = x:matmul(pg.eye(d, "f64") + 0.15 * pg.randn(core.key(4), { d, d }, "f64")) * scale
    local w = pg.randn(core.key(5), { d }, "f64") / scale
    local y = 2 * pg.uniform(core.key(6), { N }, "f64"):lt(x:matmul(w):sigmoid()):to("f64") - 1
    local source = pg.evaluator.memory { x = x, y = y }
    local function loss(_, theta, batch) return (-(batch.x:matmul(theta:flat()) * batch.y)):softplus():mean() end
    local layout = support.layout { { d } }
    local function whole(theta) return loss(nil, theta, { x = x, y = y }) + decay / 2 * theta:dot(theta) end
    local best, gradient, hessian = core.vector(layout, "f64"), pg.grad(whole), pg.hessian(whole)
    for _ = 1, 12 do
      best = best - pg.vector(layout, linalg.solve_spd(hessian(best), gradient(best):flat()))
    end
    local H = hessian(best)
    return {
      source = source, layout = layout, evaluator = pg.evaluator { loss = loss, source = source, batch = 200 },
      gap = function(theta)
        local off = (theta - best):flat()
        return 0.5 * off:dot(H:matmul(off)):item()
      end,
    }
  end

  it("with the full correction is 1000 times nearer after 5 epochs than with that of the diagonal (22)", function()
    local p = make_problem()
    local function gap(made, c, r)
      local opt = pg.optimizer { family = made, correction = c, rule = r, weight_decay = decay }
      local st, steps = opt:init(core.vector(p.layout, "f64"), core.key(1)), N // size
      opt:configure { steps_per_epoch = steps }
      for epoch = 0, 4 do
        local order = core.apply("permutation", { a = { N } }, core.key(epoch))
        for k = 0, steps - 1 do
          opt:step(st, p.evaluator, p.source:take(order:slice { k * size + 1, (k + 1) * size }))
        end
      end
      return p.gap(st.theta)
    end
    local full = family.full { ess = N, noise = false }
    local diagonal = family.diagonal { ess = N, beta2 = 0.99, hess_approx = "exact", noise = false }
    local ivon = rule.ivon { lr = 0.05, beta1 = 0, rescale_lr = false }
    local plain = gap(full, nil, rule.newton { lr = 0.01 })
    local corrected = gap(full, correction.svrg, rule.newton { lr = 0.1 })
    local by_diagonal = gap(diagonal, correction.svrg, ivon)
    assert(plain > 1e-5, plain)
    assert(by_diagonal < 1e-2, by_diagonal)
    assert(corrected < 1e-3 * by_diagonal and corrected < 1e-8, ("%g against %g"):format(corrected, by_diagonal))
  end)
end)
