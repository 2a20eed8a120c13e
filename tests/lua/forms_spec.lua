-- Where a rule's source code and its paper, or two codes, differ, an option selects each. Here the ones without golden
-- trajectories are computed again, one coordinate at a time in plain Lua numbers, as the source named has them.
local support = require "support"
local pg, core = support.pg, support.core
local rule, stage, wrapper = pg.rule, pg.stage, pg.wrapper

local STEPS, N = 12, 3

-- Gradients of the steps: STEPS lists of N numbers, the same for all.
local GRADIENTS = {}
do
  local draw = support.stream(11)
  for k = 1, STEPS do
    GRADIENTS[k] = {}
    for i = 1, N do GRADIENTS[k][i] = draw() * (i == 2 and 1e-3 or 1) end
  end
end

-- Replay a rule, and a formula step(p, g, t, lr, s) → new p of one coordinate, s a table of its own state.
local function agrees(r, options, step)
  options.lr = options.lr or 0.1
  local theta, p, s = support.flat("f64", { 1, -2, 0.5 }), { 1, -2, 0.5 }, { {}, {}, {} }
  local state = r:init(theta, options)
  for k = 1, STEPS do
    r:step(theta, { g = support.flat("f64", GRADIENTS[k]) }, state, k - 1)
    local lr = type(options.lr) == "number" and options.lr or options.lr(k - 1)
    for i = 1, N do p[i] = step(p[i], GRADIENTS[k][i], k, lr, s[i]) end
    local d = support.difference(theta:totable(), p)
    assert(d < 1e-12, ("step %d: off by %g"):format(k, d))
  end
end

local function keep(s, name, beta, x)
  s[name] = beta * (s[name] or 0) + (1 - beta) * x
  return s[name]
end

local function falling(step) return 0.1 / (1 + step) end

describe("sgd with lr_inside", function()
  it("has lr in the buffer, as Sutskever et al. and Caffe", function()
    agrees(rule.sgd { lr_inside = true, momentum = 0.9 }, { lr = falling }, function(p, g, _, lr, s)
      s.v = 0.9 * (s.v or 0) + lr * g
      return p - s.v
    end)
    agrees(rule.sgd { lr_inside = true, momentum = 0.9, nesterov = true }, { lr = falling }, function(p, g, _, lr, s)
      s.v = 0.9 * (s.v or 0) + lr * g
      return p - (lr * g + 0.9 * s.v)
    end)
  end)

  it("is no other method while lr stays", function()
    local ends = {}
    for _, inside in ipairs { true, false } do
      local theta = support.flat("f64", { 1, -2, 0.5 })
      local r = rule.sgd { lr_inside = inside, momentum = 0.9, dampening = 0.3, lr = 0.2 }
      local state = r:init(theta, { weight_decay = 0.1 })
      for k = 1, STEPS do r:step(theta, { g = support.flat("f64", GRADIENTS[k]) }, state, k - 1) end
      ends[#ends + 1] = theta:totable()
    end
    assert(support.difference(ends[1], ends[2]) < 1e-14)
  end)
end)

describe("Adam and its kin", function()
  it("eps_corrected: eps beside the uncorrected root, as HuggingFace's AdamW", function()
    for _, decay in ipairs { 0, 0.1 } do
      agrees(rule.adamw { eps_corrected = true, eps = 1e-2 }, { weight_decay = decay }, function(p, g, t, lr, s)
        local m, v = keep(s, "m", 0.9, g), keep(s, "v", 0.999, g * g)
        local rate = lr * math.sqrt(1 - 0.999 ^ t) / (1 - 0.9 ^ t)
        return p * (1 - lr * decay) - rate * m / (math.sqrt(v) + 1e-2)
      end)
    end
    agrees(rule.adam { eps_corrected = true, eps = 1e-2 }, {}, function(p, g, t, lr, s)
      local m, v = keep(s, "m", 0.9, g), keep(s, "v", 0.999, g * g)
      return p - lr * math.sqrt(1 - 0.999 ^ t) / (1 - 0.9 ^ t) * m / (math.sqrt(v) + 1e-2)
    end)
  end)

  it("rmsprop with eps_inside has eps under the root, as TensorFlow, centered too", function()
    for _, centered in ipairs { false, true } do
      agrees(rule.rmsprop { eps_inside = true, eps = 1e-2, centered = centered }, {}, function(p, g, _, lr, s)
        local v, mean = keep(s, "v", 0.99, g * g), keep(s, "mean", 0.99, g)
        if centered then v = math.max(v - mean * mean, 0) end
        return p - lr * g / math.sqrt(v + 1e-2)
      end)
    end
  end)

  it("nadam as torch 1.13 counts the momentum of a step twice", function()
    agrees(rule.nadam { form = "torch1" }, {}, function(p, g, t, lr, s)
      local now, ahead = 0.9 * (1 - 0.5 * 0.96 ^ (t * 4e-3)), 0.9 * (1 - 0.5 * 0.96 ^ ((t + 1) * 4e-3))
      s.product = (s.product or 1) * now
      local m, v = keep(s, "m", 0.9, g), keep(s, "v", 0.999, g * g)
      local d = math.sqrt(v / (1 - 0.999 ^ t)) + 1e-8
      return p - lr * (1 - now) / (1 - s.product) * g / d - lr * ahead / (1 - s.product * now * ahead) * m / d
    end)
  end)

  it("adabelief with eps_inside = 0 adds eps to the root alone", function()
    agrees(rule.adabelief { eps = 1e-2, eps_inside = 0, rectify = false }, {}, function(p, g, t, lr, s)
      local m = keep(s, "m", 0.9, g)
      local v = keep(s, "v", 0.999, (g - m) ^ 2)
      return p - lr / (1 - 0.9 ^ t) * m / (math.sqrt(v) / math.sqrt(1 - 0.999 ^ t) + 1e-2)
    end)
  end)

  it("diffgrad of version 1 is Adam at half the rate", function()
    agrees(rule.diffgrad { form = "v1" }, {}, function(p, g, t, lr, s)
      local m, v = keep(s, "m", 0.9, g), keep(s, "v", 0.999, g * g)
      return p - 0.5 * lr * math.sqrt(1 - 0.999 ^ t) / (1 - 0.9 ^ t) * m / (math.sqrt(v) + 1e-8)
    end)
  end)

  it("soap with debias = false leaves the betas' factor out", function()
    agrees(rule.soap { debias = false, max_size = 0 }, {}, function(p, g, t, lr, s)
      if t == 1 then return p end
      return p - lr * keep(s, "m", 0.95, g) / (math.sqrt(keep(s, "v", 0.95, g * g)) + 1e-8)
    end)
  end)

  it("schedule-free AdamW of the paper corrects the bias in lr, which weighs the average too", function()
    local decay = 0.1
    agrees(rule.schedule_free_adamw { form = "paper", warmup = 4 }, { weight_decay = decay }, function(y, g, t, lr, s)
      lr = lr * math.min(t / 4, 1) * math.sqrt(1 - 0.999 ^ t)
      s.largest = math.max(s.largest or 0, lr)
      s.total = (s.total or 0) + s.largest ^ 2
      local c, z = s.largest ^ 2 / s.total, s.z or y
      local d = g / (math.sqrt(keep(s, "v", 0.999, g * g)) + 1e-8) + decay * y
      s.z = z - lr * d
      return y + c * (z - y) + lr * (0.9 * (1 - c) - 1) * d
    end)
  end)
end)

describe("Lookahead", function()
  local function sgd(p, g, lr, s)
    s.m = 0.9 * (s.m or 0) + g
    return p - lr * s.m
  end

  it("as its port moves the slow weights after steps k + 1, 2 k + 1, …", function()
    local r = wrapper.lookahead { rule = rule.sgd { momentum = 0.9 }, k = 4, port = true, alpha = 0.3 }
    agrees(r, {}, function(p, g, t, lr, s)
      p = sgd(p, g, lr, s)
      if t == 1 then s.slow = p elseif t % 4 == 1 then
        s.slow = s.slow + 0.3 * (p - s.slow)
        p = s.slow
      end
      return p
    end)
  end)

  it("keeps, resets or averages the momentum inside", function()
    for _, inner in ipairs { "keep", "reset", "average" } do
      local r = wrapper.lookahead { rule = rule.sgd { momentum = 0.9 }, k = 4, inner = inner }
      agrees(r, {}, function(p, g, t, lr, s)
        s.slow, s.slow_m = s.slow or p, s.slow_m or 0
        p = sgd(p, g, lr, s)
        if t % 4 == 0 then
          s.slow = s.slow + 0.5 * (p - s.slow)
          p = s.slow
          if inner == "reset" then s.m = 0 end
          if inner == "average" then
            s.slow_m = s.slow_m + 0.5 * (s.m - s.slow_m)
            s.m = s.slow_m
          end
        end
        return p
      end)
    end
  end)

  it("resets single numbers, and says which slots it cannot", function()
    local theta = support.flat("f64", { 1, -2, 0.5 })
    local r = wrapper.lookahead { rule = rule.adagrad_norm { initial = 0.25 }, k = 2, inner = "reset" }
    local state = r:init(theta)
    for k = 1, 2 do r:step(theta, { g = support.flat("f64", GRADIENTS[k]) }, state, k - 1) end
    assert.are.equal(0.25, state.sum:item())
    local ok, message = pcall(function()
      local bad = wrapper.lookahead { rule = rule.prodigy, inner = "reset" }
      bad:step(theta, { g = theta }, bad:init(theta), 0)
    end)
    assert(not ok and message:find("slot p0 of the rule inside", 1, true), message)
  end)
end)

describe("rules on matrices", function()
  local function matrix_step(r, shape, list)
    local layout = support.layout { shape }
    local theta = core.vector(layout, "f64")
    r:step(theta, { g = support.vector(layout, "f64", { list }) }, r:init(theta), 0)
    return theta:totable()
  end

  it("Muon of torch divides by the larger of length and eps, its code by their sum", function()
    local list = { 3e-8, 1e-8, -2e-8, 5e-8, 0, 1e-8 }
    local function first(form)
      return matrix_step(rule.muon { lr = 1, momentum = 0, nesterov = false, form = form }, { 2, 3 }, list)
    end
    local length = math.sqrt(40e-16) -- below eps: both shrink the matrix, and Newton-Schulz begins from another one
    local by_larger, by_sum = {}, {}
    for i, x in ipairs(list) do by_larger[i], by_sum[i] = x / 1e-7 * 1e7, x / (length + 1e-7) * 1e7 end
    local function of_unit(scaled) -- what both make of a matrix of length above eps that is begun at `scaled`
      return matrix_step(rule.muon { lr = 1, momentum = 0, nesterov = false, form = "torch", eps = 1e7 }, { 2, 3 },
        scaled)
    end
    assert(support.difference(first "torch", of_unit(by_larger)) < 1e-12)
    assert(support.difference(first "code", of_unit(by_sum)) < 1e-12)
    assert(support.difference(first "torch", first "code") > 1e-2)
  end)

  it("Muon's code scales kernels of a convolution by height over width", function()
    local list, draw = {}, support.stream(5)
    for i = 1, 24 do list[i] = draw() end
    local function kernel(scale)
      return matrix_step(rule.muon { lr = 1, momentum = 0, scale = scale }, { 12, 1, 2, 1 }, list)
    end
    local code, spectral = kernel "code", kernel "spectral"
    for i, x in ipairs(spectral) do spectral[i] = x / math.sqrt(12 / 2) * math.sqrt(2) end
    assert(support.difference(code, spectral) < 1e-12)
    local wide = { scale = "code", lr = 1, outputs = "rows" }
    assert.are.same(matrix_step(rule.muon(wide), { 12, 2 }, list),
      matrix_step(rule.muon { lr = 1, outputs = "rows" }, { 12, 2 }, list))
  end)

  it("SWAN without centering leaves the mean of a row in", function()
    local options = { lr = 1, alpha = 1, center = false, outputs = "rows" }
    local ones = { 2, 2, 2, 2, 2, 2 }
    local step = matrix_step(rule.swan(options), { 1, 6 }, ones)
    assert(support.difference(step, { -1, -1, -1, -1, -1, -1 }) < 1e-9)
    options.center = true
    assert(support.difference(matrix_step(rule.swan(options), { 1, 6 }, ones), { 0, 0, 0, 0, 0, 0 }) < 1e-9)
  end)
end)

describe("private stages", function()
  -- what one stage makes of examples' gradients (rows), step after step; the last one's gradient
  local function run(made, steps)
    local seen = rule.define { name = "seen", state = { "g" }, update = function(p, stats, s)
      s.g = stats.g
      return p + 0
    end }
    local opt = pg.optimizer { rule = seen, stages = { per_evaluation = { made } } }
    local evaluator = pg.evaluator { loss = function(_, theta, batch)
      return (batch.c * theta:flat()):sum(-1):mean()
    end }
    local st = opt:init(support.flat("f64", { 0, 0 }))
    for _, rows in ipairs(steps) do
      opt:step(st, evaluator, { c = pg.tensor(rows, "f64"), id = pg.arange(0, #rows, 1, "i64") })
    end
    return st.rule.g:totable(), st.stages.per_evaluation[1].values
  end

  it("private with eps = 0 clips to the bound itself, as the paper of DP-SGD", function()
    local rows = { { 3, 4 }, { 0, 0 } }
    local exact = run(stage.private { clip = 1, noise_multiplier = 0, eps = 0 }, { rows })
    assert(support.difference(exact, { 0.3, 0.4 }) < 1e-16)
    local opacus = run(stage.private { clip = 1, noise_multiplier = 0 }, { rows })
    assert(support.difference(opacus, { 1.5 / (5 + 1e-6), 2 / (5 + 1e-6) }) < 1e-16)
  end)

  it("dice as its code forgets most of a long error", function()
    local steps = { { { 30, 40 } }, { { 0.3, 0.4 } } } -- the second is not clipped
    for form, kept in pairs { paper = 49 - 1, code = 1 } do
      local g, values = run(stage.dice { clip = 1, form = form }, steps)
      assert(support.difference(g, { 0.3 + 0.6, 0.4 + 0.8 }) < 1e-12) -- and the error, cut to length 1
      assert(support.difference(values.error:totable(), { 0.6 * kept, 0.8 * kept }) < 1e-12)
    end
  end)
end)

describe("MARS", function()
  local given = require "given_gradients"

  -- Two steps with gradients that are given, by its approximate form before a rule; what the rule had in the end.
  local function walk(options, r, lists)
    options.exact = false
    local opt = pg.optimizer { rule = r, correction = pg.correction.mars(options) }
    local theta = support.flat("f64", { 1, -2 })
    local evaluator = pg.evaluator { loss = given.loss, steps_per_epoch = 100 }
    local st = opt:init(theta, core.key(1))
    for _, list in ipairs(lists) do
      opt:step(st, evaluator, given.batch(theta.layout, "f64", { { st.theta:copy(), { list } } }))
    end
    return st
  end

  it("from_zero takes the gradient before the first as 0, as its code does", function()
    local factor = 1 + 0.5 * 0.95 / 0.05
    local st = walk({ gamma = 0.5, from_zero = true, clip = false }, rule.sgd { lr = 0.1 }, { { 0.1, -0.2 } })
    assert(support.difference(st.theta:totable(), { 1 - 0.01 * factor, -2 + 0.02 * factor }) < 1e-14)
    local plain = walk({ gamma = 0.5, clip = false }, rule.sgd { lr = 0.1 }, { { 0.1, -0.2 } })
    assert(support.difference(plain.theta:totable(), { 1 - 0.01, -2 + 0.02 }) < 1e-14)
  end)

  it('second = "raw" squares the gradient as it was, as its README has it', function()
    local lists = { { 0.1, -0.2 }, { 0.3, 0.1 } }
    local function square(options)
      options.gamma, options.clip = 0.5, false
      return walk(options, rule.adamw { beta1 = 0.95, beta2 = 0.5 }, lists).rule.v:totable()
    end
    local raw = square { second = "raw" }
    assert(support.difference(raw, { 0.25 * 0.01 + 0.5 * 0.09, 0.25 * 0.04 + 0.5 * 0.01 }) < 1e-15)
    local c = { 0.3 + 9.5 * 0.2, 0.1 + 9.5 * 0.3 }
    assert(support.difference(square {}, { 0.25 * 0.01 + 0.5 * c[1] ^ 2, 0.25 * 0.04 + 0.5 * c[2] ^ 2 }) < 1e-13)
  end)

  it("refuses rules that have no use for it, and options that say nothing", function()
    for text, call in pairs {
      ["rule lion makes no use of it"] = function() walk({ second = "raw" }, rule.lion, { { 1, 1 } }) end,
      ["rule sgd makes no use"] = function()
        walk({ second = "raw" }, rule.split { { rule.sgd } }, { { 1, 1 } })
      end,
      ["from_zero is about"] = function() pg.correction.mars { from_zero = true } end,
      ['clip is "per_tensor" or false'] = function() pg.correction.mars { matrices_only = true } end,
    } do
      local ok, message = pcall(call)
      assert(not ok and tostring(message):find(text, 1, true), message)
    end
    walk({ second = "raw" }, wrapper.cautious { rule = rule.adamw }, { { 1, 1 } })
  end)
end)
