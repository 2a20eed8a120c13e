-- Facts about pg.predict and the metrics of probabilities: numbers by numpy (float64), averaging of probabilities over
-- samples, batches that do not matter, and both kinds of metrics in pg.train's evaluation.
local support = require "support"
local pg = support.pg

-- rng = RandomState(6): logits = round(2 randn(24, 3), 2), labels at random, the first half made right.
local LOGITS = {
  { -0.62, 1.46, 0.44 }, { -1.8, -4.97, 1.83 }, { 2.25, -3.03, 3.28 }, { -0.86, 5.26, 1.2 }, { -0.67, 2.48, 0.22 },
  { 0.26, 0.15, -0.31 }, { 1.27, 1.62, 0.71 }, { 3.63, -2.71, -0.93 }, { 1.65, -2.35, 3.13 }, { 1.43, -0.36, 1.07 },
  { -1.17, -2.96, 1.71 }, { 1.89, 0.23, -0.04 }, { -4.25, -1.67, -0.93 }, { 0.47, 2.77, -1.04 },
  { -1.56, 1.91, -0.25 }, { -2.74, 2.44, -1.72 }, { -1.12, -2.07, 0.72 }, { 2.15, -0.75, 0.79 },
  { -0.94, 4.67, 3.01 }, { -1.19, 1.06, 1.88 }, { 0.85, -1.52, -0.32 }, { 1.45, 0.89, -1.71 }, { 0.89, -2.03, -4.26 },
  { 0.35, 1.9, 0.88 },
}

local LABELS = { 1, 2, 2, 1, 1, 0, 1, 0, 2, 0, 2, 0, 2, 2, 1, 0, 2, 1, 1, 0, 0, 0, 1, 0 }

local function probabilities(dtype) return pg.metric.probabilities(pg.tensor(LOGITS, dtype)) end

local function labels() return pg.tensor(LABELS, "i32") end

local function near(expected, found, tolerance)
  assert(math.abs(expected - found) <= tolerance, ("%.17g, not %.17g"):format(found, expected))
end

describe("metrics of probabilities", function()
  it("agree with numpy in double precision", function()
    local found = pg.metric.evaluate({ nll = pg.metric.nll, brier = pg.metric.brier, ece = pg.metric.ece,
      ece5 = pg.metric.calibration { bins = 5 }, accuracy = pg.metric.accuracy }, probabilities "f64", labels())
    near(1.0924500325930175, found.nll, 1e-14)
    near(0.5130153412689277, found.brier, 1e-14)
    near(0.20587560683871148, found.ece, 1e-14)
    near(0.1546523449028696, found.ece5, 1e-14)
    near(0.75, found.accuracy, 1e-14)
  end)

  it("may be taken one alone, from a batch too", function()
    local p = probabilities "f64"
    assert.equal(pg.metric.evaluate({ x = pg.metric.nll }, p, labels()).x,
      pg.metric.evaluate(pg.metric.nll, p, { y = labels() }))
    assert.same({ 24 }, pg.metric.nll(p, { y = labels() }).shape)
    assert.same({ 24, 15 }, pg.metric.ece(p, { y = labels() }).shape)
  end)

  it("know perfect and hopeless predictions", function()
    local right, y = pg.tensor({ { 1, 0, 0 }, { 0, 0, 1 } }, "f64"), pg.tensor({ 0, 2 }, "i64")
    local wrong = pg.tensor({ { 0, 1, 0 }, { 1, 0, 0 } }, "f64")
    for _, case in ipairs { { right, 0, 0, 0 }, { wrong, 1022 * math.log(2), 2, 1 } } do
      near(case[2], pg.metric.evaluate(pg.metric.nll, case[1], y), 1e-12)
      near(case[3], pg.metric.evaluate(pg.metric.brier, case[1], y), 0)
      near(case[4], pg.metric.evaluate(pg.metric.ece, case[1], y), 0)
    end
  end)

  it("put a confidence on the edge of two bins into the lower one", function()
    local p = pg.tensor({ { 0.5, 0.5 }, { 0.8, 0.2 } }, "f64")
    local halves = pg.metric.calibration { bins = 2 }
    near(0.5 * (1 - 0.5) + 0.5 * 0.8, pg.metric.evaluate(halves, p, pg.tensor({ 0, 1 }, "i64")), 1e-15)
  end)

  it("are those of two classes where a model has one output, whatever the labels are called", function()
    local logit = pg.tensor({ 0.3, -1.2, 2.0, -0.1 }, "f64")
    local p = pg.metric.probabilities(logit)
    assert.same({ 4, 2 }, p.shape)
    assert.same(p:totable(), pg.metric.probabilities(logit:reshape { 4, 1 }):totable())
    local expected = (math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-1.2)) + math.log(1 + math.exp(2.0))
      + math.log(1 + math.exp(-0.1))) / 4
    for _, y in ipairs { pg.tensor({ 1, 0, 0, 0 }, "i32"), pg.tensor({ 1, -1, -1, -1 }, "f64") } do
      near(expected, pg.metric.evaluate(pg.metric.nll, p, y), 1e-15)
      near(0.75, pg.metric.evaluate(pg.metric.accuracy, p, y), 0)
    end
  end)

  it("say what does not fit", function()
    local p = probabilities "f32"
    assert.error_matches(function() pg.metric.nll(p, { y = pg.zeros({ 3 }, "i32") }) end,
      "probabilities are f32 %[24, 3%] and labels i32 %[3%]")
    assert.error_matches(function() pg.metric.brier(p, { y = labels() + 1 }) end, "label 3 is outside 0..2 of the")
    assert.error_matches(function() pg.metric.calibration { bins = 0 } end, "bins is a whole number .*, not 0")
    assert.error_matches(function() pg.metric.define { example = print, of = "logits" } end,
      '"outputs" or "probabilities", not "logits"')
  end)
end)

-- ---- prediction -----------------------------------------------------------------------------------------------------

local key = pg.key(3)
local x = pg.randn(key:fold("x"), { 50, 4 }, "f64")
local y = x:matmul(pg.randn(key:fold("w"), { 4, 3 }, "f64")):argmax(-1)
local split = pg.data.from { x = x, y = y }
local model = pg.nn.sequential { pg.nn.linear(4, 6), pg.nn.tanh(), pg.nn.linear(6, 3) }

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local function train(optimizer, changes)
  local spec = { name = "t", model = model, data = { train = split, test = split }, loss = loss, optimizer = optimizer,
    epochs = 2, batch = 16, dtype = "f64", out = false }
  for k, v in pairs(changes or {}) do spec[k] = v end
  return pg.train(spec)
end

local function ivon(more)
  local o = { lr = 0.1, ess = 50, h0 = 0.5, weight_decay = 0.01 }
  for k, v in pairs(more or {}) do o[k] = v end
  return pg.optim.ivon(o)
end

describe("pg.predict", function()
  it("at the mean gives the softmax of the outputs there, in batches of any size", function()
    local run = train(ivon())
    local expected = model(run.theta, x, {}):softmax(-1)
    for _, size in ipairs { 7, 50, 1000 } do
      local mean, variance = pg.predict(model, run, x, { batch = size })
      assert(support.difference(mean:flatten():totable(), expected:flatten():totable()) < 1e-15)
      assert.is_nil(variance)
    end
    local expected_bytes = pg.predict(model, run, x):bytes()
    for _, where in ipairs { run.q, run.theta, run.state } do
      assert.equal(expected_bytes, pg.predict(model, where, split):bytes())
    end
    local raw = pg.predict(model, run, { x = x }, { output = "values" })
    assert(support.difference(raw:flatten():totable(), model(run.theta, x, {}):flatten():totable()) < 1e-15)
  end)

  -- Samples of the diagonal family drawn here by its formula: noise of sample k from the key folded with k.
  it("averages probabilities over samples drawn by key and number", function()
    local run = train(ivon())
    local q, sample_key, count = run.q, pg.key(8), 5
    local total, squares = 0, 0
    for k = 1, count do
      local noise = require("perigee.generic").normal_like(sample_key:fold(k), q.mean)
      local p = model(q.mean + noise / (50 * (q.h + 0.01)):sqrt(), x, {}):softmax(-1)
      total, squares = total + p, squares + p * p
    end
    local mean, variance = pg.predict(model, run, x, { samples = count, key = sample_key, batch = 20 })
    local expected = total / count
    assert(support.difference(mean:flatten():totable(), expected:flatten():totable()) < 1e-14)
    assert(support.difference(variance:flatten():totable(),
      (squares / count - expected * expected):flatten():totable()) < 1e-14)
    local same = { samples = count, key = sample_key, family = pg.family.diagonal { ess = 50 }, weight_decay = 0.01 }
    assert.equal(pg.predict(model, run, x, { samples = count, key = sample_key }):bytes(),
      pg.predict(model, q, x, same):bytes())
    assert.not_equal(mean:bytes(), pg.predict(model, run, x, { samples = count, key = pg.key(9) }):bytes())
  end)

  it("averaged over a posterior without width is the prediction at the mean (identity 10)", function()
    local narrow, plain = train(ivon { ess = 1e30 }), train(pg.optim.sgd { lr = 0.1 })
    local at_mean, averaged = pg.predict(model, narrow, x), pg.predict(model, narrow, x, { samples = 7 })
    assert(support.difference(averaged:flatten():totable(), at_mean:flatten():totable()) < 1e-13)
    at_mean = pg.predict(model, plain, x)
    for _, family in ipairs { pg.family.isotropic { sigma = 0 }, pg.family.point {} } do
      local mean, variance = pg.predict(model, plain.q, x, { samples = 7, family = family })
      assert.equal(at_mean:bytes(), mean:bytes())
      assert.equal(0, variance:abs():max():item())
    end
  end)

  it("samples a full Gaussian by its covariance", function()
    local small = pg.nn.sequential { pg.nn.linear(4, 1, { bias = false }) }
    local function fit(ess)
      local opt = pg.optimizer { family = pg.family.full { ess = ess, h0 = 0.5 }, rule = pg.rule.newton { lr = 0.5 },
        weight_decay = 0.1 }
      return pg.train { model = small, data = pg.data.from { x = x, y = x:sum(-1, true) }, optimizer = opt, epochs = 2,
        batch = 16, dtype = "f64", out = false,
        loss = function(net, theta, batch) return 0.5 * (net(theta, batch.x) - batch.y):square():mean() end }
    end
    local run = fit(5)
    local _, variance = pg.predict(small, run, x, { samples = 4000, output = "values" })
    local precision = 5 * (run.q.H + 0.1 * pg.eye(4, "f64"))
    local width = (x * pg.linalg.solve_spd(precision, x:t()):t()):sum(-1)
    local off = (variance:squeeze(-1) / width - 1):abs():max():item()
    assert(off < 0.12, off)
    local narrow = fit(1e30)
    local at_mean = pg.predict(small, narrow, x, { output = "values" })
    local averaged = pg.predict(small, narrow, x, { output = "values", samples = 7 })
    assert(support.difference(averaged:flatten():totable(), at_mean:flatten():totable()) < 1e-12)
    assert(pg.probe.variance(run).H.plain > 0)
  end)

  it("of an isotropic posterior of a linear model has the variance sigma^2 |x|^2", function()
    local linear = pg.nn.sequential { pg.nn.linear(4, 1, { bias = false }) }
    local theta = linear:init(pg.key(1), "f64")
    local mean, variance = pg.predict(linear, theta, x, { samples = 4000, output = "values",
      family = pg.family.isotropic { sigma = 0.3 } })
    local width = 0.09 * (x * x):sum(-1)
    local off = (variance:squeeze(-1) / width - 1):abs():max():item()
    assert(off < 0.12, off) -- the standard error is sqrt(2 / 4000) = 0.022, of 50 that share their samples
    local shift = ((mean - linear(theta, x, {})):squeeze(-1):square() / width):max():item()
    assert(shift < 16 / 4000, shift)
  end)

  it("goes by the running statistics of a run", function()
    local net = pg.nn.sequential { pg.nn.linear(4, 6), pg.nn.batch_norm(6), pg.nn.linear(6, 3) }
    local run = train(pg.optim.sgd { lr = 0.1 }, { model = net })
    local expected = net(run.theta, x, { buffers = run.buffers }):softmax(-1)
    assert(support.difference(pg.predict(net, run, x, { batch = 9 }):flatten():totable(),
      expected:flatten():totable()) < 1e-15)
    assert.equal(pg.predict(net, run, x):bytes(), pg.predict(net, run.theta, x, { buffers = run.buffers }):bytes())
    assert.error_matches(function() pg.predict(net, run.theta, x) end, "the model keeps running statistics")
  end)

  it("changes nothing but the count of forward evaluations, and that not of a finished run", function()
    local opt = ivon()
    local run = train(opt)
    local st = run.state
    local before, text = support.state_bytes(st), tostring(st.cost)
    pg.predict(model, run, x, { samples = 3 })
    assert.equal(text, tostring(st.cost))
    local forward = st.cost.forward
    pg.predict(model, st, x, { samples = 3, optimizer = opt })
    pg.predict(model, st, x)
    assert.equal(forward + 4 * 50, st.cost.forward)
    assert.equal(before, support.state_bytes(st))
  end)

  it("says what it needs", function()
    local theta = model:init(pg.key(1), "f64")
    assert.error_matches(function() pg.predict(model, theta, x, { samples = 2 }) end, "give optimizer =")
    assert.error_matches(function()
      pg.predict(model, theta, x, { samples = 2, family = pg.family.diagonal { ess = 9 } })
    end, "family diagonal samples from q.h, which is not there")
    assert.error_matches(function() pg.predict(model, theta, x, { sample = 2 }) end, "did you mean 'samples'")
    assert.error_matches(function() pg.predict(model, theta, "mnist") end, 'or a split, not "mnist"')
    assert.error_matches(function() pg.predict(model, 3, x) end,
      "pg.predict looks at the result of pg.train, .* of parameters, not at 3")
    assert.error_matches(function() pg.predict(model, theta, x, { output = "logits" }) end, 'or "values", not "logits"')
  end)
end)

describe("pg.train's evaluation", function()
  it("takes metrics of outputs and of probabilities, averages or not, as pg.metric.evaluate does", function()
    local metrics = { accuracy = pg.metric.accuracy, nll = pg.metric.nll, ece = pg.metric.ece,
      margin = function(out) return out:max(-1) - out:mean(-1) end }
    local run = train(ivon(), { metrics = metrics, eval_batch = 13 })
    near(run.metrics.loss, run.metrics.nll, 1e-14)
    metrics.margin = nil
    local found = pg.metric.evaluate(metrics, pg.predict(model, run, x), y)
    for name, value in pairs(found) do near(value, run.metrics[name], 1e-14) end
    local out = model(run.theta, x, {})
    near((out:max(-1) - out:mean(-1)):mean():item(), run.metrics.margin, 1e-14)
  end)

  it("and hooks may predict from their ctx", function()
    local seen = {}
    train(ivon(), { hooks = { on_epoch = function(ctx, epoch)
      local p = pg.predict(model, ctx, split, { samples = 8 })
      seen[epoch] = pg.metric.evaluate(pg.metric.nll, p, y)
    end } })
    assert.equal(2, #seen)
    assert(seen[2] < seen[1])
  end)
end)
