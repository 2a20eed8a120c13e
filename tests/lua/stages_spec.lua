-- Facts about stages: what they do to a gradient is what their sources' reference trajectories say; those that ask for
-- the gradients of single examples get them exactly; keys, slots and places; stages of one's own.
local support = require "support"
local pg, core = support.pg, support.core
local given_gradients = require "given_gradients"
local golden = dofile "tests/golden/stages.lua"
local stage, rule = pg.stage, pg.rule

local refusal = support.refusal

local function case_of(id)
  for _, case in ipairs(golden.cases) do if case.id == id then return case end end
end

local function tolerance(case, dtype) return dtype == "f64" and 1e-12 or math.max(1e-5, 20 * case.float32_drift) end

-- A rule that keeps what it got.
local seen = rule.define {
  name = "seen", state = { "g" }, hyper = { lr = 0 },
  update = function(p, stats, s, o)
    s.g = stats.g
    return p - o.lr * stats.g
  end,
}

-- The gradient as one step leaves it: of a loss whose gradient is `list`.
local function edited(stages, list, options)
  local c = core.tensor("f64", { 1, #list }, list)
  local eval = pg.evaluator { key = options and options.key, loss = function(_, theta, batch)
    return (batch.c:reshape(#list) * theta:flat()):sum()
  end }
  local opt = pg.optimizer { rule = seen {}, stages = stages }
  local st = opt:init(support.flat("f64", list))
  for _ = 1, options and options.steps or 1 do opt:step(st, eval, { c = c, id = core.tensor("i64", { 1 }, { 0 }) }) end
  return st.rule.g:totable()
end

describe("clipping", function()
  for _, id in ipairs { "cclip/quad7", "cclip/mat43", "cclip_tau/quad7", "cclip_tau/mat43" } do
    for _, dtype in ipairs { "f64", "f32" } do
      it(("of updates by coordinates reproduces %s in %s"):format(id, dtype), function()
        local case = case_of(id)
        local h, problem = case.hyper, golden.problems[case.problem]
        local layout = support.layout(problem.shapes)
        local theta = support.vector(layout, dtype, problem.init)
        local r = rule.clipped_sgd { top = h.frac, value = h.tau > 0 and h.tau or nil }
        local o = { lr = h.lr, momentum = h.momentum, weight_decay = h.wd, top = h.frac,
          value = h.tau > 0 and h.tau or nil }
        local state = r:init(theta, o)
        for k, step in ipairs(case.steps) do
          r:step(theta, { g = support.vector(layout, dtype, step.inputs.grad) }, state, k - 1)
          local d = support.difference(theta:totable(), step.params)
          assert(d <= tolerance(case, dtype), ("step %d: off by %g"):format(k, d))
        end
      end)
    end
  end

  it("of the largest coordinates is that of the reference, for a tensor and by tensor", function()
    local special = golden.special.clip_top_fraction
    local n = #special.u
    assert.are.same(special.out, pg.clip_top(core.tensor("f64", { n }, special.u), special.frac):totable())
    local layout = support.layout { { n }, { 2 } }
    local v = support.vector(layout, "f64", { special.u, { 5, -7 } })
    local want = table.move({ 5, -5 }, 1, 2, n + 1, { table.unpack(special.out) })
    want[n + 1], want[n + 2] = 5, -7 -- floor(0.25 * 2) = 0 of two
    assert.are.same(want, pg.clip_top(v, special.frac):totable())
  end)

  it("of the largest coordinates agrees with sorting, ties and zeros among them", function()
    for seed = 1, 12 do
      local n = 5 + 17 * seed
      local x = pg.randn(pg.key(seed), { n }, "f32")
      if seed % 3 == 0 then x = (x * 3):round() end -- many ties
      if seed % 4 == 0 then x = x * 1e-6 * x end -- many magnitudes
      local fraction, magnitudes = seed / 14, pg.abs(x):totable()
      table.sort(magnitudes, function(a, b) return a > b end)
      local tau = magnitudes[math.floor(fraction * n) + 1]
      local want = x:totable()
      for i, value in ipairs(want) do want[i] = math.max(-tau, math.min(tau, value)) end
      assert.are.same(want, pg.clip_top(x, fraction):totable())
    end
  end)

  it("of pixels is that of the reference, also inside a derivative", function()
    local special = golden.special.pixel_clip
    local g = core.tensor("f64", special.shape, special.grad)
    assert(support.difference(pg.clip_pixels(g, special.c):reshape(g.size):totable(), special.out) < 1e-15)
    local image = pg.zeros(special.shape, "f64")
    local found = pg.grad(function(x)
      return (pg.tap(x, function(ct) return pg.clip_pixels(ct, special.c) end) * g):sum()
    end)(image)
    assert(support.difference(found:reshape(g.size):totable(), special.out) < 1e-15)
    assert.are.same({ 0, 0 }, pg.clip_pixels(pg.zeros({ 1, 2 }), 0.1):reshape(2):totable())
  end)

  it("of a stage acts in the order that it says", function()
    local f = 1 / (math.sqrt(3 * 9) + 1e-6)
    assert(support.difference(edited({ combined = { stage.clip { top = 0.5, norm = 1 } } }, { 3, -40, 30, -3 }),
      { 3 / (6 + 1e-6), -3 / (6 + 1e-6), 3 / (6 + 1e-6), -3 / (6 + 1e-6) }) < 1e-15)
    assert(support.difference(edited({ combined = { stage.clip { value = 3, norm = 1 } } }, { 3, -40, 30 }),
      { 3 * f, -3 * f, 3 * f }) < 1e-15)
    assert.matches("norm, value, per_tensor or top", refusal(stage.clip, {}))
    assert.matches("fraction must lie in", refusal(pg.clip_top, pg.zeros { 3 }, 1))
  end)
end)

describe("normalizing", function()
  it("divides by the length that scope says", function()
    local function run(o) return edited({ per_evaluation = { stage.normalize(o) } }, { 3, -4 }) end
    assert(support.difference(run {}, { 0.6, -0.8 }) < 1e-12)
    assert(support.difference(run { scope = "elem" }, { 1, -1 }) < 1e-12)
    assert(support.difference(run { scope = "tensor", eps = 5 }, { 0.3, -0.4 }) < 1e-12)
    assert.matches('scope is "global"', refusal(stage.normalize, { scope = "row" }))
  end)

  it("of a stage before plain SGD is the rule normalized_sgd", function()
    local function run(spec)
      local opt = pg.optimizer(spec)
      local st = opt:init(support.flat("f64", { 1, -2, 0.5 }))
      local eval = pg.evaluator { loss = function(_, theta) return (theta * theta * theta):sum() end }
      for _ = 1, 5 do opt:step(st, eval, { id = core.tensor("i64", { 1 }, { 0 }) }) end
      return st.theta:totable()
    end
    assert.are.same(run { rule = rule.normalized_sgd { lr = 0.1 } },
      run { rule = rule.sgd { lr = 0.1 }, stages = { combined = { stage.normalize {} } } })
  end)
end)

describe("gradient noise", function()
  local zeros = {}
  for i = 1, 20000 do zeros[i] = 0 end

  it("has the variance of its schedule", function()
    for _, steps in ipairs { 1, 4 } do
      local list = edited({ combined = { stage.noise { variance = 0.25 } } }, zeros, { steps = steps })
      local sum, squares = 0, 0
      for _, x in ipairs(list) do sum, squares = sum + x, squares + x * x end
      local n, want = #list, 0.25 / steps ^ 0.55
      assert(math.abs(sum / n) < 4 * math.sqrt(want / n))
      assert(math.abs(squares / n / want - 1) < 4 * math.sqrt(2 / n), squares / n)
    end
  end)

  it("is another one for each step, key, place and stage, and the same for the same", function()
    local noise = stage.noise { variance = 1 }
    local list = {}
    for i = 1, 8 do list[i] = 0 end
    local function run(stages, options) return table.concat(edited(stages, list, options), " ") end
    local once = run { combined = { noise } }
    assert.are.equal(once, run { combined = { noise } })
    local others = { run({ combined = { noise } }, { steps = 2 }), run({ combined = { noise } }, { key = pg.key(7) }),
      run { per_evaluation = { noise } }, run { combined = { noise, noise } } }
    for _, other in ipairs(others) do assert.are_not.equal(once, other) end
  end)
end)

-- ---- gradients of single examples -----------------------------------------------------------------------------------

local linear, rows_of, batch_of = given_gradients.by_example, given_gradients.rows_of, given_gradients.batch_of

local function follow_golden(case, dtype, make_stage, momentum, scale)
  local problem, h = golden.problems[case.problem], case.hyper
  local layout = support.layout(problem.shapes)
  local theta = support.vector(layout, dtype, problem.init)
  local z = core.vector(layout, dtype)
  -- the golden's noise in place of the stage's own
  local r = rule.define {
    name = "fed", hyper = { lr = h.lr, momentum = momentum }, state = { m = 0, z = 0 },
    update = function(p, stats, s, o)
      s.m = o.momentum * s.m + stats.g + scale * s.z
      return p - o.lr * s.m
    end,
  }
  local opt = pg.optimizer { rule = r, stages = { per_evaluation = { make_stage } } }
  local st = opt:init(theta)
  for k, step in ipairs(case.steps) do
    for i, list in ipairs(step.inputs.noise) do
      for j, x in ipairs(list) do z:data_write(layout[i].offset + j - 1, x) end
    end
    st.rule.z:copy_from(z)
    opt:step(st, linear, batch_of(rows_of(step.inputs.per_sample, h.B, dtype)))
    local d = support.difference(st.theta:totable(), step.params)
    assert(d <= tolerance(case, dtype), ("step %d: off by %g"):format(k, d))
  end
  return st
end

describe("private gradients", function()
  for _, case in ipairs(golden.cases) do
    local h = case.hyper
    for _, dtype in ipairs(h.B and { "f64", "f32" } or {}) do
      it(("reproduce %s in %s"):format(case.id, dtype), function()
        if h.C then
          local clip = stage.private { clip = h.C, noise_multiplier = 0 }
          follow_golden(case, dtype, clip, h.momentum, h.sigma * h.C / h.B)
        else
          local st = follow_golden(case, dtype, stage.dice { clip = h.C1, error_clip = h.C2 }, 0, h.sigma)
          local e = st.stages.per_evaluation[1].values.error
          assert(support.difference(e:totable(), case.final_state.e) <= tolerance(case, dtype))
        end
      end)
    end
  end

  local x, y = pg.randn(pg.key(1), { 6, 5 }, { dtype = "f64" }), core.tensor("i64", { 6 }, { 0, 1, 2, 0, 1, 2 })
  local ids = core.tensor("i64", { 6 }, { 0, 1, 2, 3, 4, 5 })
  local net = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.tanh(), pg.nn.dropout(0.4), pg.nn.linear(4, 3) }
  local eval = pg.evaluator { model = net, key = pg.key(3), loss = function(model, theta, batch, ctx)
    local z = model(theta, batch.x, ctx)
    return pg.cross_entropy(z, batch.y), z:mean()
  end }
  local function run(stages, more)
    local opt = pg.optimizer { rule = seen {}, stages = stages, family = more and more.family,
      correction = more and more.correction }
    local st = opt:init(net:init(pg.key(5), "f64"))
    local _, info = opt:step(st, more and more.eval or eval, more and more.batch or { x = x, y = y, id = ids })
    return st.rule.g, info, st
  end

  it("without a bound are the batch's gradient, with the loss, aux and keys of its examples", function()
    local plain, info = run {}
    local loss, aux = info.loss, info.aux[1]:item()
    local g, seen_info = run { per_evaluation = { stage.private { clip = 1e300, noise_multiplier = 0 } } }
    assert(support.difference(g:totable(), plain:totable()) < 1e-14)
    assert(math.abs(seen_info.loss - loss) < 1e-14 and math.abs(seen_info.aux[1]:item() - aux) < 1e-14)
  end)

  it("of one example more or less differ by no more than the bound, by groups too", function()
    local function sum(keep, groups)
      local rows = core.tensor("i64", { keep }, { table.unpack({ 0, 1, 2, 3, 4, 5 }, 1, keep) })
      local g = run({ per_evaluation = { stage.private { clip = 0.3, noise_multiplier = 0, groups = groups } } },
        { batch = { x = pg.take(x, rows), y = pg.take(y, rows), id = rows } })
      return g * keep
    end
    for _, groups in ipairs { false, "tensor", function(name) return name:match "bias" or "other" end } do
      local d = sum(6, groups) - sum(5, groups)
      local norm = math.sqrt((d * d):sum():item())
      assert(norm <= 0.3 + 1e-12 and norm > 0.1, norm)
      if groups == "tensor" then
        local parts = d:per_tensor():norm():totable()
        for _, part in ipairs(parts) do assert(part <= 0.3 / math.sqrt(#parts) + 1e-12) end
      end
    end
  end)

  it("get noise of clip times multiplier over the batch, expected or its own", function()
    local wide = pg.evaluator { loss = function(_, theta, batch) return (batch.c:mean() * theta:flat()):sum() end }
    local zeros = {}
    for i = 1, 20000 do zeros[i] = 0 end
    for _, expected in ipairs { false, 8 } do
      local opt = pg.optimizer { rule = seen {}, stages = { per_evaluation = {
        stage.private { clip = 2, noise_multiplier = 3, batch = expected or nil } } } }
      local st = opt:init(support.flat("f64", zeros))
      local zero = core.tensor("f64", { 4 }, { 0, 0, 0, 0 })
      opt:step(st, wide, { c = zero, id = core.tensor("i64", { 4 }, { 0, 1, 2, 3 }) })
      local variance = (st.rule.g * st.rule.g):sum():item() / 20000
      local want = (2 * 3 / (expected or 4)) ^ 2
      assert(math.abs(variance / want - 1) < 4 * math.sqrt(2 / 20000), variance)
    end
  end)

  it("go with families that sample and with corrections", function()
    local function private() return { per_evaluation = { stage.private { clip = 1e300, noise_multiplier = 0 } } } end
    local normal = pg.family.diagonal { ess = 100, samples = 2 }
    assert(support.difference((run(private(), { family = normal })):totable(),
      (run({}, { family = normal })):totable()) < 1e-13)
    local source = pg.evaluator.memory { x = x, y = y }
    local full = pg.evaluator { model = net, key = pg.key(3), loss = eval.loss, source = source }
    local svrg = pg.correction.svrg { every = 2 }
    assert(support.difference((run(private(), { correction = svrg, eval = full })):totable(),
      (run({}, { correction = svrg, eval = full })):totable()) < 1e-13)
  end)

  it("refuse what has no gradients of examples, or several for a slot", function()
    local private = stage.private { clip = 1, noise_multiplier = 1 }
    local normed = pg.nn.sequential { pg.nn.linear(5, 3), pg.nn.batch_norm(3) }
    local opt = pg.optimizer { rule = seen {}, stages = { per_evaluation = { private } } }
    local st = opt:init(normed:init(pg.key(1), "f64"), nil, normed:init_buffers("f64"))
    local bad = pg.evaluator { model = normed, loss = eval.loss }
    assert.matches("batch norm", refusal(opt.step, opt, st, bad, { x = x, y = y, id = ids }))
    local pieces = pg.evaluator { model = net, loss = eval.loss, micro = 2 }
    assert.matches("whole batches.*micro = 1", refusal(run, { per_evaluation = { private } }, { eval = pieces }))
    assert.matches("stage dice.*micro = 1", refusal(run, { per_evaluation = { stage.dice { clip = 1 } } },
      { eval = pieces }))
    assert.matches("first of stages.per_evaluation", refusal(run, { combined = { private } }))
    local idle = stage.define { name = "idle", examples = true, apply = function(each) return each.like end }
    assert.matches("stage idle.*never asked", refusal(run, { per_evaluation = { idle } }))
    assert.matches("first of stages.per_evaluation", refusal(run, { per_evaluation = { stage.noise {}, private } }))
    local dice = { per_evaluation = { stage.dice { clip = 1 } } }
    assert.matches("correction svrg evaluates several", refusal(run, dice, { correction = pg.correction.svrg {} }))
    assert.matches("family diagonal evaluates several", refusal(run, dice,
      { family = pg.family.diagonal { ess = 1, samples = 2 } }))
    assert.matches('groups is "tensor"', refusal(stage.private, { clip = 1, noise_multiplier = 1, groups = "all" }))
    assert.matches("needs 'clip'", refusal(stage.private, { noise_multiplier = 1 }))
  end)

  it("of DiceSGD go on from a checkpoint bit for bit, error included", function()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.5 }, stages = { per_evaluation = {
      stage.dice { clip = 0.1, noise = 0.01 } } } }
    local function advance(st, n)
      for _ = 1, n do opt:step(st, eval, { x = x, y = y, id = ids }) end
      return st
    end
    local st = advance(opt:init(net:init(pg.key(5), "f64")), 3)
    local saved, numbers = {}, st:numbers()
    for _, entry in ipairs(st:tensors()) do saved[entry[1]] = entry[2]:clone() end
    assert.is_truthy(saved["stages.per_evaluation.1.error"])
    local whole = support.state_bytes(advance(st, 4))
    local other = opt:init(net:init(pg.key(6), "f64"))
    other:load(saved, numbers)
    assert.are.equal(whole, support.state_bytes(advance(other, 4)))
  end)

  it("of DiceSGD begin at another run's error, or at none where that run had no such stage", function()
    local function make(stages) return pg.optimizer { rule = rule.sgd { lr = 0.5 }, stages = stages } end
    local dice = make { per_evaluation = { stage.dice { clip = 0.1 } } }
    for _, saver in ipairs { dice, make {} } do
      local st = saver:init(net:init(pg.key(5), "f64"))
      saver:step(st, eval, { x = x, y = y, id = ids })
      local saved = { tensors = {}, numbers = st:numbers(), parts = st:parts() }
      for _, entry in ipairs(st:tensors()) do saved.tensors[entry[1]] = entry[2]:clone() end
      local other = dice:init(net:init(pg.key(6), "f64"))
      dice:step(other, eval, { x = x, y = y, id = ids })
      other:adopt(saved, "another run")
      assert.are.same(st.theta:totable(), other.theta:totable())
      local e, want = other.stages.per_evaluation[1].values.error, saved.tensors["stages.per_evaluation.1.error"]
      assert.are.same((want or pg.zeros_like(e)):totable(), e:totable())
    end
  end)
end)

describe("a stage of one's own", function()
  it("with a slot is a few lines", function()
    local smooth = stage.define {
      name = "smooth", hyper = { beta = 0.5 }, state = { "m" },
      apply = function(g, o, _, s)
        s.m = o.beta * s.m + (1 - o.beta) * g
        return s.m
      end,
    }
    assert.are.same({ 0.75, 3 }, edited({ combined = { smooth } }, { 1, 4 }, { steps = 2 }))
    assert.matches("did you mean 'm'", refusal(edited, { combined = { stage.define { name = "bad", state = { "m" },
      apply = function(g, _, _, s)
        s.mm = g
        return g
      end } } }, { 1 }))
    assert.matches("apply of stage none must return", refusal(edited, { combined = { stage.define { name = "none",
      apply = function() end } } }, { 1 }))
  end)

  it("that sees the examples gives the norm test of batch sizes in a few lines", function()
    local noise_scale = stage.define {
      name = "noise_scale", examples = true, state = { test = pg.scalar(0) },
      apply = function(each, _, _, s)
        local mean, squares = each:mean(function(g) return g, (g * g):sum() end)
        local size = (mean * mean):sum()
        s.test = (squares - size) * (each.count / (each.count - 1)) / size
        return mean
      end,
    }
    local opt = pg.optimizer { rule = seen {}, stages = { per_evaluation = { noise_scale } } }
    local st = opt:init(support.flat("f64", { 0, 0 }))
    opt:step(st, linear, batch_of(core.tensor("f64", { 2, 2 }, { 1, 0, 3, 2 })))
    assert.are.same({ 2, 1 }, st.rule.g:totable())
    assert.are.equal(4 / 5, st.stages.per_evaluation[1].values.test:item()) -- variances 2 and 2, |mean|^2 = 5
  end)
end)
