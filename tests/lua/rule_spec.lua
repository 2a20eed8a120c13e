-- Facts about rules: the ready-made ones reproduce reference trajectories; a rule of one's own is a dozen lines;
-- branches that a trace would swallow are found.
local replay = require "rule_replay"
local support = require "support"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/rules.lua"
local rule, family = require "perigee.rule", require "perigee.family"

local function number(x)
  return x == "inf" and math.huge or x
end

-- Golden optimizer → our rule, hyperparameters under our names, state names (golden → ours) of a case.
local translations = {
  SGD = function(h)
    return rule.sgd, { lr = h.lr, momentum = h.momentum, dampening = h.dampening, nesterov = h.nesterov,
      weight_decay = h.wd }, { buf = "buf" }
  end,
  Adam = function(h)
    return h.decoupled and rule.adamw or rule.adam,
      { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, amsgrad = h.amsgrad, weight_decay = h.wd },
      { m = "m", v = "v", vmax = "vmax" }
  end,
  IVON = function(h)
    return rule.ivon, { lr = h.lr, beta1 = h.b1, clip_radius = number(h.clip), debias = h.debias,
      rescale_lr = h.rescale, weight_decay = h.wd }, { m = "m" }
  end,
  VSGD = function(h)
    return rule.vsgd, { lr = h.lr, K = h.K, gamma = h.ps, tau1 = h.tau1, tau2 = h.tau2, eps = h.eps, init = h.init,
      decoupled = not h.l2, weight_decay = h.wd }, { bg2 = "bg", bh2 = "bh", mu = "mu" }
  end,
  ConstVSGD = function(h)
    return rule.constant_vsgd, { lr = h.lr, K = h.K, gamma = h.ps, kappa = h.kappa, eps = h.eps,
      weight_decay = h.wd }, { b = "b", mu = "mu" }
  end,
  AdaGrad = function(h)
    return rule.adagrad, { lr = h.lr, lr_decay = h.lr_decay, initial = h.init, eps = h.eps, weight_decay = h.wd },
      { sum = "sum" }
  end,
  AdaGradNorm = function(h)
    return rule.adagrad_norm, { lr = h.lr, initial = h.v0, eps = h.eps, weight_decay = h.wd }, {}
  end,
  RMSProp = function(h)
    return rule.rmsprop, { lr = h.lr, alpha = h.alpha, eps = h.eps, momentum = h.momentum, centered = h.centered,
      weight_decay = h.wd }, { buf = "buf", gavg = "mean", v = "v" }
  end,
  AdaDelta = function(h)
    return rule.adadelta, { lr = h.lr, rho = h.rho, eps = h.eps, weight_decay = h.wd }, { acc = "acc", v = "v" }
  end,
  NSGD = function(h)
    return rule.normalized_sgd, { lr = h.lr, momentum = h.momentum, eps = h.eps, scope = h.scope,
      weight_decay = h.wd }, h.momentum ~= 0 and { m = "m" } or {}
  end,
  Lion = function(h)
    if h.cautious then
      return pg.wrapper.cautious { rule = rule.lion {}, rescale = "count" },
        { lr = h.lr, beta1 = h.b1, beta2 = h.b2, weight_decay = h.wd }, { m = "m" }
    end
    return rule.lion, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, weight_decay = h.wd }, { m = "m" }
  end,
  NAdam = function(h)
    return rule.nadam, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, momentum_decay = h.psi,
      decoupled = h.decoupled, weight_decay = h.wd }, { m = "m", v = "v" }
  end,
  AdaBelief = function(h)
    return rule.adabelief, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, amsgrad = h.amsgrad,
      decoupled = h.decoupled, fixed_decay = h.fixed_decay, rectify = h.rectify, degenerate = h.degenerate,
      weight_decay = h.wd }, { m = "m", v = "v", vmax = "vmax" }
  end,
  DiffGrad = function(h)
    return rule.diffgrad, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, weight_decay = h.wd },
      { m = "m", v = "v", prev = "previous" }
  end,
  SGDSaI = function(h)
    return rule.sgd_sai, { lr = h.lr, momentum = h.momentum, eps = h.eps, weight_decay = h.wd }, { m = "m" }
  end,
  ADOPT = function(h)
    return rule.adopt, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, decoupled = h.decoupled, clip = h.clip,
      weight_decay = h.wd }, { m = "m", v = "v" }
  end,
  CAdamW = function(h)
    return pg.wrapper.cautious { rule = rule.adamw { eps_corrected = true }, floor = h.floor },
      { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps, weight_decay = h.wd }, { m = "m", v = "v" }
  end,
  Lookahead = function(h)
    return pg.wrapper.lookahead { rule = rule.sgd { momentum = h.momentum } }, { lr = h.lr, k = h.k, alpha = h.alpha },
      {}
  end,
  AdEMAMix = function(h)
    return rule.ademamix, { lr = h.lr, beta1 = h.b1, beta2 = h.b2, beta3 = h.b3, alpha = h.alpha, eps = h.eps,
      beta3_warmup = h.b3_warm, alpha_warmup = h.alpha_warm, weight_decay = h.wd },
      { m1 = "m", m2 = "slow", v = "v" }
  end,
}

-- IVON's family part of a golden step, written out: the new Hessian diagonal from given noise.
local function move_hessian(case, h, stats_g, noise)
  local o = case.hyper
  local f = stats_g * noise * pg.sqrt(o.ess * (h + o.wd))
  local d = h - f
  return o.b2 * h + (1 - o.b2) * f + 0.5 * (1 - o.b2) ^ 2 * (d * d / (h + o.wd))
end

-- Feeds q.h to a case of IVON, from the Hessian's start on.
local function feed_hessian(case, dtype)
  local h
  return function(_, step, theta, layout)
    h = h or pg.full_like(theta, case.hyper.hess_init)
    h = move_hessian(case, h, support.vector(layout, dtype, step.inputs.grad),
      support.vector(layout, dtype, step.inputs.noise))
    return { q = { h = h, h0 = case.hyper.hess_init } }
  end, function() return h end
end

describe("golden replay", function()
  for _, case in ipairs(golden.cases) do
    for _, dtype in ipairs { "f64", "f32" } do
      it(case.id .. " in " .. dtype, function()
        local made, hessian = {}, nil
        made.rule, made.options, made.states = translations[case.optimizer](case.hyper)
        if case.optimizer == "IVON" then made.before, hessian = feed_hessian(case, dtype) end
        replay.replay(case, golden.problems[case.problem], dtype, made)
        if hessian then
          assert(support.difference(hessian():totable(), case.final_state.h) <= replay.tolerance(case, dtype))
        end
      end)
    end
  end
end)

describe("a rule of one's own", function()
  local signum = rule.define {
    name = "signum", state = { "m" }, hyper = { lr = 1e-3, beta = 0.9 },
    update = function(p, stats, s, o, ctx)
      s.m = o.beta * s.m + (1 - o.beta) * stats.g
      return p - o.lr * (pg.sign(s.m) + ctx.weight_decay * p)
    end,
  }

  it("is traced from a dozen lines", function()
    local theta, g = support.flat("f64", { 1, -2, 3 }), support.flat("f64", { 0.5, 0, -1 })
    local state = signum:init(theta, { lr = 0.1, weight_decay = 0.5 })
    signum:step(theta, { g = g }, state, 0)
    assert.are.same({ 1 - 0.1 * 1.5, -2 + 0.1, 3 - 0.1 * 0.5 }, theta:totable())
    assert(support.difference(state.m:totable(), { 0.05, 0, -0.1 }) < 1e-15)
  end)

  it("moves the parameters it is given, though it began with others", function()
    local first, other, g = support.flat("f64", { 1 }), support.flat("f64", { 5 }), support.flat("f64", { 1 })
    local state = signum:init(first, { lr = 0.5 })
    signum:step(first, { g = g }, state, 0)
    signum:step(other, { g = g }, state, 1)
    assert.are.same({ 0.5, 4.5 }, { first:totable()[1], other:totable()[1] })
    assert(math.abs(state.m:totable()[1] - 0.19) < 1e-15)
  end)

  it("takes schedules without another program", function()
    local theta, g = support.flat("f64", { 0 }), support.flat("f64", { 1 })
    local state = signum:init(theta, { lr = function(step) return step + 1 end })
    for k = 0, 2 do
      signum:step(theta, { g = g }, state, k)
    end
    assert.are.equal(-(1 + 2 + 3), theta:totable()[1])
  end)

  it("keeps per-tensor values and single numbers as state", function()
    local r = rule.define {
      name = "sai", hyper = { lr = 1 },
      state = { d = pg.per_tensor(2), n = require("perigee.vectors").scalar(1) },
      update = function(p, stats, s, o)
        s.d = s.d + stats.g:per_tensor():sum()
        s.n = s.n + 1
        return p - o.lr * s.d * s.n
      end,
    }
    local layout = support.layout { { 2 }, { 3 } }
    local theta = core.vector(layout, "f64")
    local g = support.vector(layout, "f64", { { 1, 2 }, { 0, 0, 5 } })
    local state = r:init(theta)
    r:step(theta, { g = g }, state, 0)
    assert.are.same({ -10, -10, -14, -14, -14 }, theta:totable())
    assert.are.same({ 5, 7 }, state.d:totable())
    assert.are.equal(2, state.n:item())
  end)

  it("names the nearest option and slot", function()
    local ok, message = pcall(function() return signum { beat = 0.5 } end)
    assert(not ok and message:find("did you mean 'beta'", 1, true), message)
    local bad = rule.define {
      name = "bad", state = { "m" },
      update = function(p, stats, s)
        s.mm = stats.g
        return p
      end,
    }
    local theta = support.flat("f64", { 1 })
    ok, message = pcall(function() bad:step(theta, { g = theta }, bad:init(theta), 0) end)
    assert(not ok and message:find("did you mean 'm'", 1, true), message)
    assert(message:find("rule_spec.lua:%d+"), message)
  end)
end)

describe("a swallowed branch", function()
  local function define(update, hyper)
    return pcall(rule.define, { name = "branchy", state = { "m" }, hyper = hyper or { lr = 0.1 }, update = update })
  end

  it("on the step is reported with the definition's line", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = define(function(p, stats, s, o, ctx)
      if ctx.t == 1 then s.m = stats.g else s.m = 0.9 * s.m + stats.g end
      return p - o.lr * s.m
    end)
    assert(not ok, "not reported")
    assert(message:find("branchy", 1, true) and message:find("rule_spec.lua:" .. line, 1, true), message)
    assert(message:find("pg.where", 1, true), message)
  end)

  it("on a hyperparameter is reported", function()
    local ok, message = define(function(p, stats, _, o)
      return p - o.lr * (o.mode == 1 and stats.g or 2 * stats.g)
    end, { lr = 0.1, mode = 1 })
    assert(not ok and message:find("static", 1, true), message)
  end)

  it("on a gradient is reported", function()
    assert(not define(function(p, stats, _, o)
      if stats.g == 0 then return p + 1 end
      return p - o.lr * stats.g
    end))
  end)

  it("is found where plain numbers cannot go", function()
    assert(not define(function(p, stats, _, o, ctx)
      local noise = pg.randn(ctx.key, p.layout, p.dtype)
      return p - o.lr * (ctx.t == 1 and stats.g or noise)
    end))
  end)

  it("is no branch when written with where, or static", function()
    assert(define(function(p, stats, s, o, ctx)
      s.m = pg.where(ctx.t:eq(1), stats.g, 0.9 * s.m + stats.g)
      return p - o.lr * s.m
    end))
    assert(define(function(p, stats, _, o)
      return p - o.lr * (o.flip and -stats.g or stats.g)
    end, { lr = 0.1, flip = false }))
    local ok, message = pcall(rule.define, {
      name = "counted", hyper = { lr = 0.1, n = 3 }, static = { "n" },
      update = function(p, stats, _, o)
        for _ = 1, o.n do p = p - o.lr * stats.g end
        return p
      end,
    })
    assert(ok, message)
  end)
end)

describe("refusals", function()
  it("an IVON rule over a point family says which family to use", function()
    local opt = pg.optimizer { rule = rule.ivon {}, family = family.point {} }
    local ok, message = pcall(opt.init, opt, support.flat("f32", { 1 }))
    assert(not ok and message:find("diagonal", 1, true), message)
  end)

  it("nesterov without momentum", function()
    assert(not pcall(rule.sgd, { nesterov = true }))
  end)
end)
