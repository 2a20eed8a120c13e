-- Facts about the rules without a schedule, those that sample, and averages of the parameters: golden trajectories,
-- properties, and where their runs are evaluated.
local support = require "support"
local replay = require "rule_replay"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/rules_recent.lua"
local first_golden = dofile "tests/golden/rules.lua"
local rule, wrapper = pg.rule, pg.wrapper

-- ---- golden ----

-- What an optimizer of these says of a state made by rule:init and rule:step.
local function point(r, theta, state)
  local opt = pg.optimizer { rule = r }
  local st = opt:init(theta)
  for name, tensor in pairs(st.rule) do tensor:copy_from(state[name]) end
  return st:point()
end

local made = {
  Prodigy = function(h)
    return { rule = rule.prodigy, states = { m = "m", v = "v", s = "s", p0 = "p0" },
      options = { lr = h.lr, beta1 = h.b1, beta2 = h.b2, beta3 = h.b3, eps = h.eps, d0 = h.d0, d_coef = h.d_coef,
        growth = math.huge, debias = h.bias, safeguard = h.safeguard, decoupled = h.decoupled, weight_decay = h.wd },
      after = function(_, step, _, state, near) near({ state.d:item() }, { step.extra.d }, "d") end }
  end,
  ScheduleFree = function(h)
    local options = { lr = h.lr, beta = h.beta, warmup = h.warmup, r = h.r, lr_power = h.lr_power,
      beta2 = h.adam and h.b2 or nil, eps = h.adam and h.eps or nil }
    local r = (h.adam and rule.schedule_free_adamw or rule.schedule_free_sgd):with(options)
    return { rule = r, options = { weight_decay = h.wd }, states = { v = h.adam and "v" or nil, z = "z" },
      after = function(_, step, theta, state, near) near(point(r, theta, state), step.extra.x, "x") end }
  end,
  -- its driver refreshes h after the step, where there is a gradient on sampled labels
  SophiaG = function(h)
    local hessian
    return { rule = rule.sophia, states = { m = "m" },
      options = { lr = h.lr, beta1 = h.b1, rho = h.rho, batch = h.bs, weight_decay = h.wd },
      before = function(_, _, theta)
        hessian = hessian or pg.full_like(theta, 0)
        return { q = { h = hessian } }
      end,
      after = function(_, step, theta)
        local given = step.inputs.hess_grad
        local gs = given and support.vector(theta.layout, theta.dtype, given)
        if gs then hessian = h.b2 * hessian + (1 - h.b2) * gs * gs end
      end }
  end,
}

describe("golden replay", function()
  replay.replay_all(it, golden, made)

  local averages = {
    ema = function(r) return wrapper.ema { rule = r, decay = golden.special.averaging.ema_decay } end,
    swa = function(r) return wrapper.swa { rule = r } end,
  }
  for name, wrap in pairs(averages) do
    it("averaging: " .. name, function()
      for _, case in ipairs(first_golden.cases) do
        if case.id == golden.special.averaging.trajectory then
          local r = wrap(rule.sgd { lr = case.hyper.lr })
          replay.replay(case, first_golden.problems[case.problem], "f64", { rule = r,
            after = function(k, _, theta, state, near)
              near(point(r, theta, state), golden.special.averaging[name][k], name)
            end })
        end
      end
    end)
  end
end)

-- ---- properties ----

-- f(theta) = sum a_i theta_i^2 / 2 by a rule from 1: parameters after `steps`.
local function descend(r, a, steps, options)
  local theta = support.flat("f64", { 1, 1, 1 })
  local state = r:init(theta, options)
  local curvature = support.flat("f64", a)
  for k = 0, steps - 1 do r:step(theta, { g = curvature * theta }, state, k) end
  return theta, state
end

describe("schedule-free", function()
  it("SGD with beta = 1 is evaluated at y, the average of what SGD's step made of z", function()
    local r = rule.schedule_free_sgd { lr = 0.1, beta = 1 }
    local theta, state = descend(r, { 1, 2, 3 }, 10)
    assert(support.difference(point(r, theta, state):totable(), theta:totable()) < 1e-15)
  end)

  it("SGD without a past is SGD: its first step moves z by lr g, and x there", function()
    local r = rule.schedule_free_sgd { lr = 0.1 }
    local theta, state = descend(r, { 1, 2, 3 }, 1)
    assert(support.difference(state.z:totable(), { 0.9, 0.8, 0.7 }) < 1e-15)
    assert(support.difference(point(r, theta, state):totable(), { 0.9, 0.8, 0.7 }) < 1e-15)
  end)
end)

describe("prodigy", function()
  it("takes the same steps whatever the scale of the loss", function()
    local big = descend(rule.prodigy, { 1000, 2000, 3000 }, 30, { eps = 0 })
    local small = descend(rule.prodigy, { 1, 2, 3 }, 30, { eps = 0 })
    assert(support.difference(big:totable(), small:totable()) < 1e-9)
  end)

  it("finds its step size, of which the first guess is a millionth", function()
    local theta, state = descend(rule.prodigy, { 1, 2, 3 }, 300)
    assert(state.d:item() > 0.05, state.d:item())
    assert(support.difference(theta:totable(), { 0, 0, 0 }) < 0.05, tostring(theta))
  end)

  it("stands still without a gradient", function()
    local theta = descend(rule.prodigy, { 0, 0, 0 }, 3, { weight_decay = 0.1 })
    assert.are.same({ 1, 1, 1 }, theta:totable())
  end)
end)

describe("sampling", function()
  local N = 20000

  -- Mean square of N coordinates of curvature a, after the chain has forgotten its start.
  local function spread_of(r, a, steps)
    local theta = core.vector(core.layout { { "w", { N } } }, "f64")
    local state = r:init(theta)
    for k = 0, steps - 1 do r:step(theta, { g = a * theta }, state, k, { key = core.key(5):fold(k) }) end
    return (theta * theta):sum():item() / N
  end

  it("SGLD has the variance of the posterior, and of its discretization", function()
    local lr, a, ess = 0.2, 1.5, 50
    local exact = 2 * lr / ess / (1 - (1 - lr * a) ^ 2)
    local found = spread_of(rule.sgld { ess = ess, lr = lr }, a, 40)
    assert(math.abs(found / exact - 1) < 0.04, found / exact)
  end)

  it("SGHMC has it, too", function()
    local a, ess = 1.5, 50
    local found = spread_of(rule.sghmc { ess = ess, lr = 0.02, friction = 0.2 }, a, 200)
    assert(math.abs(found * ess * a - 1) < 0.04, found * ess * a)
  end)

  it("SGHMC with friction 1 is SGLD, number by number", function()
    for _, precondition in ipairs { false, true } do
      local options = { ess = 10, lr = 0.1, precondition = precondition }
      local a = spread_of(rule.sgld(options), 1, 5)
      options.friction = 1
      assert(math.abs(spread_of(rule.sghmc(options), 1, 5) / a - 1) < 1e-12)
    end
  end)

  it("at temperature 0 they are SGD, with momentum", function()
    local cold = { ess = 1, lr = 0.1, temperature = 0, friction = 0.25 }
    local options = { weight_decay = 0.1, lr = 0.1, momentum = 0.75 }
    local curve, key = support.flat("f64", { 1, 2, 3 }), { key = core.key(1) }
    local theta, other = support.flat("f64", { 1, 1, 1 }), support.flat("f64", { 1, 1, 1 })
    local r = rule.sghmc(cold)
    local state = r:init(theta, { weight_decay = 0.1 })
    local sgd = rule.sgd:init(other, options)
    for k = 0, 9 do
      r:step(theta, { g = curve * theta }, state, k, key)
      rule.sgd:step(other, { g = curve * other }, sgd, k)
    end
    assert(support.difference(theta:totable(), other:totable()) < 1e-14)
  end)

  it("needs the number of examples", function()
    local ok, message = pcall(rule.sgld, {})
    assert(not ok and message:find("needs 'ess'", 1, true), message)
  end)
end)

describe("sophia", function()
  it("goes by the sign where the curvature is small, by Newton's step where it is large", function()
    local theta, g = support.flat("f64", { 0, 0, 0 }), support.flat("f64", { 0.5, -2, 0.5 })
    local r = rule.sophia { lr = 0.1, beta1 = 0, rho = 0.5 }
    r:step(theta, { g = g }, r:init(theta), 0, { q = { h = support.flat("f64", { 0, -1, 4 }) } })
    assert(support.difference(theta:totable(), { -0.1, 0.1, -0.1 * 0.5 / (0.5 * 4) }) < 1e-15)
  end)

  it("needs a family with a Hessian diagonal", function()
    local opt = pg.optimizer { rule = rule.sophia }
    local ok, message = pcall(opt.init, opt, support.flat("f32", { 1 }))
    assert(not ok and message:find("diagonal", 1, true), message)
  end)
end)

describe("perigee methods", function()
  it("lists every rule and wrapper with its options", function()
    local pipe = assert(io.popen((os.getenv "PERIGEE" or "build/perigee") .. " methods 2>&1"))
    local text = pipe:read("a")
    assert(pipe:close(), text)
    for _, kind in ipairs { "rule", "wrapper" } do
      for name in pairs(pg[kind]) do
        assert(name == "define" or name == "is" or text:find("\n  " .. name .. "[ \n]"), name)
      end
    end
  end)
end)

describe("pg.optim", function()
  it("has every rule, with its defaults and options, and is described", function()
    for name, r in pairs(rule) do
      local needed = { sgld = { ess = 50 }, sghmc = { ess = 50 }, sophia = { ess = 50 }, ivon = { ess = 50 },
        newton = { ess = 50 } }
      if name ~= "define" and name ~= "is" and name ~= "split" then
        local opt = pg.optim[name](needed[name])
        local plain = type(r) == "function" and r(needed[name]) or r
        assert.are.equal(plain.name, opt.rule.name)
        for option, value in pairs(plain.hyper.given) do assert.are.equal(value, opt.rule.hyper.given[option]) end
      end
    end
    local opt = pg.optim.muon { lr = 1, others = rule.lion, ["others.lr"] = 0.5, weight_decay = 0.1 }
    assert.are.same({ 1, 0.5, 0.99 }, { opt.rule.hyper.given.lr, opt.rule.hyper.given["others.lr"],
      opt.rule.hyper.given["others.beta2"] })
    local ok, message = pcall(pg.optim.soap, { beta3 = 1 })
    assert(not ok and message:find("beta3", 1, true), message)
  end)
end)

describe("averages", function()
  it("leave the run as it is, and stochastic weight averaging begins when it is told", function()
    local plain = descend(rule.sgd { lr = 0.1 }, { 1, 2, 3 }, 9)
    for _, r in ipairs { wrapper.ema { rule = rule.sgd { lr = 0.1 }, warmup = true },
      wrapper.swa { rule = rule.sgd { lr = 0.1 }, start = 4, every = 3 } } do
      assert.are.same(plain:totable(), (descend(r, { 1, 2, 3 }, 9):totable()))
    end
    local r = wrapper.swa { rule = rule.sgd { lr = 0.1 }, start = 4, every = 3 }
    for steps, expected in pairs { [3] = 0.9 ^ 3, [5] = 0.9 ^ 4, [9] = (0.9 ^ 4 + 0.9 ^ 7) / 2 } do
      local theta, state = descend(r, { 1, 1, 1 }, steps)
      assert(math.abs(point(r, theta, state):totable()[1] - expected) < 1e-14, steps)
    end
  end)

  it("are where pg.train evaluates and pg.predict looks, with the wrapper outside", function()
    local model = pg.nn.sequential { pg.nn.linear(2, 1) }
    local x = pg.tensor({ { 1, 0 }, { 0, 1 }, { 1, 1 }, { 2, 1 } }, "f64")
    local function loss(m, theta, batch, ctx)
      local d = m(theta, batch.x, ctx) - 1
      return (d * d):mean()
    end
    local data = { train = pg.data.from { x = x }, test = pg.data.from { x = x } }
    local result = pg.train { name = "averages", data = data, model = model, loss = loss, dtype = "f64", batch = 2,
      epochs = 3, out = false, optimizer = pg.optimizer { rule = wrapper.swa { rule = rule.sgd { lr = 0.1 } } } }
    local at = result.state:point()
    assert(support.difference(at:totable(), result.theta:totable()) > 1e-3)
    local here = pg.predict(model, at:copy(), x, { output = "values" })
    assert.are.same(here:totable(), (pg.predict(model, result, x, { output = "values" })):totable())
    local d = here - 1
    assert(math.abs((d * d):mean():item() - result.metrics.loss) < 1e-14)
  end)
end)
