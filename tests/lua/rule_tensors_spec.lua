-- Facts about rules that work tensor by tensor, and about different rules for different tensors: golden trajectories,
-- results of single operations, properties.
local support = require "support"
local replay = require "rule_replay"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/rules_recent.lua"
local directions = require "perigee.directions"
local sometimes = require "perigee.sometimes"
local rule = pg.rule

local function adamw(h)
  return rule.adamw { lr = h.lr1 or h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps }
end

-- Golden optimizer → what replays it. The golden matrices have their outputs in rows.
local made = {
  Muon = function(h)
    return { rule = rule.muon { lr = h.lr, momentum = h.momentum, nesterov = h.nesterov, steps = h.steps,
      scale = h.scale, outputs = "rows", ["others.lr"] = h.lr1 }, options = { weight_decay = h.wd } }
  end,
  SWAN = function(h)
    return { rule = rule.swan { lr = h.lr, alpha = h.alpha, steps = h.iters, beta = h.beta, outputs = "rows",
      others = adamw(h) }, options = { weight_decay = h.wd }, exact = h.beta == 0.8 and 1e-9 or nil }
  end,
  SinkGD = function(h)
    return { rule = rule.sinkgd { lr = h.lr, alpha = h.alpha, sweeps = h.iters, outputs = "rows",
      others = adamw(h) }, options = { weight_decay = h.wd } }
  end,
  Adafactor = function(h)
    return { rule = rule.adafactor { lr = h.lr, decay = h.decay, eps1 = h.eps1, eps2 = h.eps2, d = h.d },
      options = { weight_decay = h.wd } }
  end,
  Shampoo = function(h)
    return { rule = rule.shampoo { lr = h.lr, eps = h.eps, every = h.every }, options = { weight_decay = h.wd },
      exact = 1e-9 }
  end,
  SOAP = function(h)
    return { rule = rule.soap { lr = h.lr, beta1 = h.b1, beta2 = h.b2, shampoo_beta = h.sb, eps = h.eps,
      every = h.freq, vectors = h.oned }, options = { weight_decay = h.wd }, exact = 1e-11 }
  end,
}

describe("golden replay", function()
  replay.replay_all(it, golden, made)
end)

-- ---- single operations ----

describe("of a matrix", function()
  local ops = golden.special.matrix_ops
  local layout = support.layout { ops.shape }

  -- -p / lr after one step of a rule from 0 by G; tall: by G transposed.
  local function direction(r, tall)
    local G = support.vector(layout, "f64", { ops.G })
    if tall then
      local across = core.layout { { "t1", { ops.shape[2], ops.shape[1] } } }
      G = core.apply("pack", { layout = across }, core.apply("view", { a = { 0 } }, G):t())
    end
    local theta = core.vector(G.layout, "f64")
    r:step(theta, { g = G }, r:init(theta), 0)
    return (-theta):totable()
  end

  it("Muon's Newton-Schulz", function()
    local options = { lr = 1, momentum = 0, nesterov = false, outputs = "rows" }
    assert(support.difference(direction(rule.muon(options)), ops.ns5) < 1e-12)
    options.scale = "rms"
    local tall, factor = direction(rule.muon(options), true), 0.2 * math.sqrt(ops.shape[2])
    for i, x in ipairs(tall) do tall[i] = x / factor end
    assert(support.difference(tall, ops.ns5_tall) < 1e-12)
  end)

  it("SWAN's standardized rows and whitening, SinkGD's balance", function()
    local G = core.tensor("f64", ops.shape, ops.G)
    local function near(x, list, tolerance)
      assert(support.difference(x:reshape(-1):totable(), list) < (tolerance or 1e-12))
    end
    near(directions.standardize_rows(G), ops.gradnorm)
    near(directions.whiten(G, 10, 0.5), ops.whiten_beta05_it10)
    near(directions.whiten(G, 10, 0.8), ops.whiten_beta08_it10, 1e-9)
    near(directions.balance(G, 5), ops.sinkhorn5)
  end)

  it("outputs in columns is the transpose of outputs in rows", function()
    for _, make in ipairs { rule.muon, rule.swan, rule.sinkgd } do
      local rows, columns = direction(make { lr = 1, outputs = "rows" }), direction(make { lr = 1 }, true)
      local m, n = ops.shape[1], ops.shape[2]
      for i = 1, m do
        for j = 1, n do assert(math.abs(rows[(i - 1) * n + j] - columns[(j - 1) * m + i]) < 1e-14) end
      end
    end
  end)
end)

-- ---- properties ----

local SHAPES = { { 4, 3 }, { 3 }, { 2, 2, 1, 2 } }

-- Three steps of a rule on gradients that do not depend on theta; scale multiplies them.
local function run(r, scale, options)
  local layout, draw = support.layout(SHAPES), support.stream(7)
  local theta = core.vector(layout, "f64")
  local state = r:init(theta, options)
  for k = 0, 2 do
    local lists = {}
    for i, shape in ipairs(SHAPES) do
      local list, n = {}, 1
      for _, extent in ipairs(shape) do n = n * extent end
      for j = 1, n do list[j] = draw() * scale end
      lists[i] = list
    end
    r:step(theta, { g = support.vector(layout, "f64", lists) }, state, k, { key = core.key(3):fold(k) })
  end
  return theta, state
end

describe("rules on matrices", function()
  it("take no notice of the scale of the gradient", function()
    for name, r in pairs {
      swan = rule.swan, sinkgd = rule.sinkgd, muon = rule.muon,
      adafactor = rule.adafactor { form = "paper", eps1 = 1e-300 },
    } do
      local a, b = run(r, 1):totable(), run(r, 1e3):totable()
      assert(support.difference(a, b) < 1e-6, ("%s: %g"):format(name, support.difference(a, b)))
    end
  end)

  it("stand still, and stay finite, where a gradient is 0", function()
    for _, r in ipairs { rule.swan, rule.sinkgd, rule.muon, rule.adafactor } do
      for _, x in ipairs(run(r, 0):totable()) do assert.are.equal(0, x) end
    end
  end)

  it("keep slots for those tensors only that need them", function()
    local _, state = run(rule.muon, 1)
    assert.are.equal(12 + 8, #state.m:totable())
    assert.are.equal(3, #state["others.v"]:totable())
    _, state = run(rule.adafactor, 1)
    assert.are.same({ 4 + 4, 3 + 8, 3 }, { #state.row:totable(), #state.column:totable(), #state.v:totable() })
  end)

  it("Adafactor of a matrix of rank one is that of all its numbers", function()
    local layout = support.layout { { 2, 3 } }
    local g = support.vector(layout, "f64", { { 1, 2, 3, 2, 4, 6 } })
    local theta = core.vector(layout, "f64")
    local r = rule.adafactor { lr = 1, eps2 = 1 }
    r:step(theta, { g = g }, r:init(theta), 0)
    for _, x in ipairs(theta:totable()) do assert(math.abs(x + 1) < 1e-12, x) end
  end)

  it("have options that are checked", function()
    for text, call in pairs {
      ["outputs is"] = function() return rule.muon { outputs = "both" } end,
      ["scale is"] = function() return rule.muon { scale = "big" } end,
      ["others must be a rule"] = function() return rule.swan { others = 1 } end,
      ["form is"] = function() return rule.adafactor { form = "other" } end,
      ["did you mean 'others.lr'"] = function() return rule.muon { ["other.lr"] = 1 } end,
    } do
      local ok, message = pcall(call)
      assert(not ok and message:find(text, 1, true), message)
    end
  end)
end)

-- A matrix of numbers that a seed gives, with orthonormal columns if asked.
local function random_matrix(seed, m, n, is_orthonormal)
  local draw, list = support.stream(seed), {}
  for i = 1, m * n do list[i] = draw() end
  local matrix = core.tensor("f64", { m, n }, list)
  return is_orthonormal and pg.linalg.qr(matrix) or matrix
end

local function largest(x) return x:abs():max():item() end

describe("a matrix for each axis", function()
  it("work is done in some runs only", function()
    local f = pg.jit(function(t, x)
      return sometimes(t:eq(2), function(given) return { given[1] * 3 } end, { x })[1]
    end)
    for t, expected in ipairs { 5, 15, 5 } do
      assert.are.equal(expected, f(pg.tensor(t, "f64"), pg.tensor(5, "f64")):item())
    end
  end)

  -- Parameters after each of `steps` steps of a rule on the matrices gradient(k).
  local function walk(r, m, n, gradient, steps)
    local layout, list = support.layout { { m, n } }, {}
    local theta = core.vector(layout, "f64")
    local state = r:init(theta)
    for k = 1, steps do
      r:step(theta, { g = core.apply("pack", { layout = layout }, gradient(k)) }, state, k - 1)
      list[k] = core.apply("view", { a = { 0 } }, theta):copy()
    end
    return list
  end

  it("Shampoo's first step is the polar factor, as Muon's would be", function()
    local G = random_matrix(1, 4, 6)
    local first = walk(rule.shampoo { lr = 1, eps = 1e-14 }, 4, 6, function() return G end, 1)[1]
    assert(largest(first + directions.whiten(G, 30, 0.5)) < 1e-6)
  end)

  it("Shampoo keeps its roots for `every` steps", function()
    local G = random_matrix(1, 3, 2)
    local at = walk(rule.shampoo { lr = 1, every = 2 }, 3, 2, function() return G end, 3)
    assert(largest(at[2] - 2 * at[1]) < 1e-14)
    assert(largest(at[3] - 3 * at[1]) > 1e-2)
  end)

  it("SOAP of a rotated problem is rotated SOAP", function()
    local R = random_matrix(9, 4, 4, true)
    local function gradient(k) return random_matrix(20 + k, 4, 3) end
    local r = rule.soap { lr = 0.1, every = 3 }
    local at = walk(r, 4, 3, gradient, 9)
    local turned = walk(r, 4, 3, function(k) return R:matmul(gradient(k)) end, 9)
    assert(largest(at[9]) > 0.1)
    assert(largest(turned[9] - R:matmul(at[9])) < 1e-9)
  end)

  it("SOAP without matrices is Adam that sits out the first step", function()
    local function gradient(k) return random_matrix(30 + k, 4, 3) end
    local soap = walk(rule.soap { lr = 0.1, max_size = 0, eps = 0 }, 4, 3, gradient, 6)
    local adam = walk(rule.adam { lr = 0.1, beta1 = 0.95, beta2 = 0.95, eps = 0 }, 4, 3,
      function(k) return gradient(k + 1) end, 5)
    assert(largest(soap[6] - adam[5]) < 1e-14)
  end)
end)

describe("split", function()
  local function parts(theta)
    local list = {}
    for i = 1, #theta.layout do list[i] = core.apply("view", { a = { i - 1 } }, theta):reshape(-1):totable() end
    return list
  end

  it("does with each tensor what the rule does with all", function()
    local rules = { rule.adamw { lr = 0.1 }, rule.sgd { lr = 0.3, momentum = 0.9 }, rule.lion { lr = 0.2 } }
    local r = rule.split { { "^t1$", rules[1] }, { function(_, shape) return #shape == 1 end, rules[2] }, { rules[3] } }
    local mine = parts(run(r, 1, { weight_decay = 0.1 }))
    for i, one in ipairs(rules) do
      assert.are.same(parts(run(one, 1, { weight_decay = 0.1 }))[i], mine[i])
    end
  end)

  it("hands on weight decay and learning rates by tensor, schedules and what corrections say of the rate", function()
    local decay = pg.per_tensor(function(name) return name == "t3" and 0.5 or 0.1 end)
    local rate = pg.per_tensor(function(name) return name == "t3" and 0.2 or 0.1 end)
    local sgd = rule.sgd { lr = rate, momentum = 0.5 }
    local r = rule.split { { "1", sgd }, { sgd, name = "rest" } }
    assert.are.same(run(sgd, 1, { weight_decay = decay }):totable(), run(r, 1, { weight_decay = decay }):totable())
    local half = r { ["rest.momentum"] = 0, ["1.momentum"] = 0, ["1.lr"] = function() return 0.05 end, ["rest.lr"] = 1 }
    local theta, g = core.vector(support.layout(SHAPES), "f64"), core.vector(support.layout(SHAPES), "f64") + 1
    half:step(theta, { g = g }, half:init(theta), 0, { info = { lr = 0.5 } })
    assert.are.same({ -0.025, -0.5 }, { parts(theta)[1][1], parts(theta)[2][1] })
  end)

  it("draws other noise for other tensors, and is evaluated where its rules are", function()
    local noise = rule.sgld { ess = 1, lr = 1 }
    local r = rule.split { { "t1", noise }, { "t2", noise }, { pg.wrapper.ema { rule = rule.sgd { lr = 1 } } } }
    local found = parts(run(r, 0))
    assert(found[1][1] ~= found[2][1])
    local opt = pg.optimizer { rule = r }
    local theta = core.vector(support.layout(SHAPES), "f64") + 1
    local st = opt:init(theta)
    st.theta:copy_from(theta * 3)
    assert.are.same({ 3, 3, 1 }, { parts(st:point())[1][1], parts(st:point())[2][1], parts(st:point())[3][1] })
  end)

  it("says which tensor or entry is left over", function()
    local theta = core.vector(support.layout(SHAPES), "f64")
    for text, r in pairs {
      ["no entry matches tensor 't2'"] = rule.split { { "t[13]", rule.adamw } },
      ["entry 1 (adamw) matches none"] = rule.split { { "weight", rule.adamw }, { rule.sgd } },
    } do
      local ok, message = pcall(r.init, r, theta)
      if ok then ok, message = pcall(r.step, r, theta, { g = theta }, message, 0) end
      assert(not ok and message:find(text, 1, true), message)
    end
    for text, call in pairs {
      ["a list of entries"] = function() return rule.split {} end,
      ["entry 1 is { match, rule }"] = function() return rule.split { { "a", 3 } } end,
      ["q.H"] = function() return rule.split { { rule.newton } } end,
    } do
      local ok, message = pcall(call)
      assert(not ok and message:find(text, 1, true), message)
    end
  end)
end)

describe("state", function()
  local x, y = random_matrix(2, 24, 4), random_matrix(3, 24, 1)
  local model = pg.nn.sequential { pg.nn.linear(4, 3), pg.tanh, pg.nn.linear(3, 1) }
  local evaluator = pg.evaluator { model = model, source = pg.evaluator.memory { x = x, y = y },
    loss = function(m, theta, batch, ctx)
      local d = m(theta, batch.x, ctx) - batch.y
      return (d * d):mean()
    end }

  local function advance(opt, st, steps)
    for k = st.step, st.step + steps - 1 do
      local first = k % 3 * 8
      local rows = { first + 1, first + 8 }
      opt:step(st, evaluator, { x = x:slice(rows):copy(), y = y:slice(rows):copy() })
    end
    return st
  end

  for name, r in pairs {
    soap = rule.soap { every = 2 }, shampoo = rule.shampoo { every = 3, eps = 1 }, muon = rule.muon, swan = rule.swan,
    adafactor = rule.adafactor, prodigy = rule.prodigy, schedule_free = rule.schedule_free_adamw,
    sghmc = rule.sghmc { ess = 100, precondition = true }, swa = pg.wrapper.swa { rule = rule.sinkgd, start = 2 },
  } do
    it("of " .. name .. " continues bit for bit", function()
      local opt, theta = pg.optimizer { rule = r }, model:init(core.key(4), "f64")
      local through = advance(opt, opt:init(theta, core.key(5)), 9)
      local st = advance(opt, opt:init(theta, core.key(5)), 4)
      local other = opt:init(theta, core.key(5))
      other:load(st:tensors(), st:numbers())
      advance(opt, other, 5)
      assert.are.equal(support.state_bytes(through), support.state_bytes(other))
      assert.are.same(through:point():totable(), other:point():totable())
    end)
  end
end)
