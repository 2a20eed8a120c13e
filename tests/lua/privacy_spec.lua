-- Facts about pg.privacy.rdp: its numbers are those that libraries publish in their tests, and what an integral says;
-- they compose, and move with rate, noise and order as they must.
local support = require "support"
local pg = support.pg

local function accountant(orders, ...)
  local a = pg.privacy.rdp { orders = orders }
  for _, step in ipairs { ... } do a:add(step) end
  return a
end

local function step(rate, noise_multiplier, steps)
  return { rate = rate, noise_multiplier = noise_multiplier, steps = steps }
end

local function near(want, got, tolerance)
  assert(math.abs(want - got) <= tolerance, ("%.12g, expected %.12g"):format(got, want))
end

-- log of the moment of order alpha by Simpson's rule: the mean over z ~ N(0, sigma^2) of ((1 - q) + q N(1) / N(0)) to
-- the power alpha.
local function integrate(q, sigma, alpha)
  local low, high, n = -12 * sigma, alpha + 12 * sigma, 200000
  local h, sum = (high - low) / n, 0
  for i = 0, n do
    local z = low + i * h
    local ratio = (1 - q) + q * math.exp((2 * z - 1) / (2 * sigma * sigma))
    local f = math.exp(alpha * math.log(ratio) - z * z / (2 * sigma * sigma)) / (sigma * math.sqrt(2 * math.pi))
    sum = sum + f * ((i == 0 or i == n) and 1 or i % 2 == 1 and 4 or 2)
  end
  return math.log(sum * h / 3)
end

describe("the accountant's numbers", function()
  -- pytorch/opacus, opacus/tests/accountants_test.py: test_rdp_accountant, and the noise multipliers that
  -- test_get_noise_multiplier_rdp_epochs and _steps find for epsilon = 8 (to 4 digits, rounded up).
  it("are those of Opacus's tests", function()
    near(7.32911117143, accountant(nil, step(0.04, 1.5, 2250)):epsilon(1e-5), 1e-7)
    for multiplier, steps in pairs { [1.416] = 2250, [1.3562] = 2000 } do
      near(8, accountant(nil, step(0.04, multiplier, steps)):epsilon(1e-5), 0.01)
    end
  end)

  -- tensorflow/privacy, tensorflow_privacy/privacy/analysis/rdp_accountant_test.py: test_compute_rdp_scalar, _sequence,
  -- _no_data, _no_sampling, test_get_privacy_spent_check_target_delta, test_check_composition.
  it("are those of TensorFlow Privacy's tests", function()
    near(0.07737, accountant({ 5 }, step(0.1, 2, 10)):rdp()[1], 5e-6)
    local rdp = accountant({ 1.5, 2.5, 5, 50, 100, math.huge }, step(0.01, 2.5, 50)):rdp()
    for i, want in ipairs { 0.00065, 0.001085, 0.00218075, 0.023846, 167.416307 } do near(want, rdp[i], 1e-5) end
    assert.are.equal(math.huge, rdp[6])
    assert.are.equal(0, accountant({ 20 }, step(0, 10)):rdp()[1])
    near(0.1, accountant({ 20 }, step(1, 10)):rdp()[1], 1e-15)
    local orders = {}
    for i = 1001, 99999 do orders[#orders + 1] = i / 1000 end
    near(1, accountant(orders, step(1, 4.530877117)):epsilon(1e-6), 1e-7)
    local composed = accountant({ 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 64, 256 },
      step(1e-4, 0.4, 40000), step(0.1, 2, 100))
    local epsilon = composed:epsilon(1e-5)
    assert(epsilon <= 8.509656 and epsilon > 6, epsilon)
  end)

  it("are those of an integral", function()
    for _, c in ipairs { { 0.01, 1, 1.5 }, { 0.2, 1.3, 2 }, { 0.3, 2, 7.7 }, { 0.001, 0.7, 3 }, { 0.9, 1.1, 4.25 },
      { 0.5, 3, 20 }, { 0.5, 3, 20.5 }, { 0.04, 1.5, 3.9 } } do
      local want = integrate(c[1], c[2], c[3]) / (c[3] - 1)
      near(want, accountant({ c[3] }, step(c[1], c[2])):rdp()[1], 1e-9 * math.max(1, want))
    end
  end)
end)

describe("the accountant", function()
  it("adds up", function()
    local one, two = step(0.02, 1.1, 30), step(0.3, 4, 7)
    local a, b, both = accountant(nil, one):rdp(), accountant(nil, two):rdp(), accountant(nil, two, one):rdp()
    for i, x in ipairs(both) do near(a[i] + b[i], x, 1e-12 * x) end
    assert.are.same(a, accountant(nil, step(0.02, 1.1, 30), step(0.5, 1, 0)):rdp())
  end)

  it("grows with order, rate, steps and less noise, and is tighter for a larger delta", function()
    local last = 0
    for _, x in ipairs(accountant(nil, step(0.05, 0.9)):rdp()) do
      assert(x >= last, "rdp falls with the order")
      last = x
    end
    local function epsilon(rate, sigma, steps, delta)
      return (accountant(nil, step(rate, sigma, steps)):epsilon(delta))
    end
    local base = epsilon(0.02, 1.2, 100, 1e-5)
    assert(base < epsilon(0.03, 1.2, 100, 1e-5) and base < epsilon(0.02, 1.1, 100, 1e-5))
    assert(base < epsilon(0.02, 1.2, 101, 1e-5) and base < epsilon(0.02, 1.2, 100, 1e-6))
    assert(base < epsilon(1, 1.2, 100, 1e-5) / 10, "sampling does not help")
    assert.are.equal(math.huge, epsilon(0.1, 0, 1, 1e-5))
    assert.are.equal(0, epsilon(0.1, 1, 0, 0.5))
  end)

  it("refuses what is no rate, order or delta", function()
    local function refused(what, f) local ok, m = pcall(f) assert(not ok and m:find(what, 1, true), m) end
    refused("rate must be a number in [0, 1]", function() accountant(nil, step(1.5, 1)) end)
    refused("noise_multiplier", function() accountant(nil, step(0.5, -1)) end)
    refused("orders are numbers above 1", function() accountant { 1 } end)
    refused("delta", function() accountant():epsilon(2) end)
    refused("did you mean 'noise_multiplier'", function() accountant(nil, { rate = 1, noise_multiplyer = 1 }) end)
  end)
end)

describe("the accountant of a run", function()
  local x = pg.randn(pg.key(1), { 50, 3 })
  local data = pg.data.from { x = x, y = x:sum(2):gt(0):to("i32") }
  local net = pg.nn.sequential { pg.nn.linear(3, 2) }
  local function train(stage, more)
    local spec = { model = net, data = data, out = false, steps = 12, sampler = pg.sampler.poisson { rate = 0.1 },
      loss = function(model, theta, batch, ctx) return pg.cross_entropy(model(theta, batch.x, ctx), batch.y) end,
      optimizer = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, stages = { per_evaluation = { stage } } } }
    for name, value in pairs(more or {}) do spec[name] = value end
    return pg.train(spec)
  end

  it("counts its steps, rate and noise, also in a hook and by a schedule", function()
    local seen = {}
    local hooks = { on_step = function(ctx) seen[#seen + 1] = pg.privacy.of(ctx):epsilon(1e-5) end }
    local result = train(pg.stage.private { clip = 1, noise_multiplier = 1.3 }, { hooks = hooks })
    local want = accountant(nil, step(0.1, 1.3, 12)):epsilon(1e-5)
    near(want, pg.privacy.of(result):epsilon(1e-5), 1e-12)
    near(accountant(nil, step(0.1, 1.3, 5)):epsilon(1e-5), seen[5], 1e-12)
    near(want, seen[12], 1e-12)
    local falling = train(pg.stage.private { clip = 1, noise_multiplier = function(k) return k < 4 and 2 or 1 end })
    near(accountant(nil, step(0.1, 2, 4), step(0.1, 1, 8)):epsilon(1e-5), pg.privacy.of(falling):epsilon(1e-5), 1e-12)
  end)

  it("refuses runs of which it can say nothing", function()
    local function refusal(result)
      local ok, message = pcall(pg.privacy.of, result)
      assert.is_false(ok)
      return tostring(message)
    end
    local private = pg.stage.private { clip = 1, noise_multiplier = 1 }
    assert.matches("has no pg.stage.private", refusal(train(pg.stage.clip { norm = 1 })))
    assert.matches("coin of its own", refusal(train(private, { sampler = pg.sampler.replacement { batch = 5 } })))
    assert.matches("correction storm takes several", refusal(train(nil, { optimizer = pg.optimizer {
      rule = pg.rule.sgd { lr = 0.1 }, correction = pg.correction.storm {}, stages = { per_evaluation = { private } } }
    })))
  end)
end)
