-- Facts about families that take gradients in a row, SAM and ASAM: where they look, under which randomness, what is
-- adopted of which pass, and how they go with pieces, stages and corrections. Golden trajectories: paired_spec.lua.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local correction, family, rule, stage = pg.correction, pg.family, pg.rule, pg.stage

local refusal = support.refusal

local N, D, B = 24, 3, 6

local function problem(options) return problems.random_logistic(N, D, options) end

-- One step by a family from theta0: what it did by name, and the state. more: fields of pg.optimizer, and batch.
local function look(p, f, more)
  more = more or {}
  local spec = { family = f, rule = problems.watch { "g" }, stages = more.stages, correction = more.correction }
  if more.correction then spec.rule = rule.sgd { lr = 0 } end
  local opt = pg.optimizer(spec)
  local st, dump = opt:init(more.theta or p.theta0() + 0.3, core.key(1), more.buffers), {}
  local _, info = opt:step(st, more.evaluator or p.evaluator, more.batch or p.cyclic(0, B), nil, { dump = dump })
  return dump, st, info
end

local function gradient(dump, k, evaluation)
  return dump[("evaluation.%d.sample.%d.gradient"):format(evaluation or 1, k)]
end

local function theta(dump, k, evaluation)
  return dump[("evaluation.%d.sample.%d.theta"):format(evaluation or 1, k)]
end

describe("SAM", function()
  it("with rho = 0 is the point family, for the price of two gradients", function()
    for _, f in ipairs { family.sam { rho = 0 }, family.asam { rho = 0 } } do
      local p = problem()
      local _, st, info = look(p, f)
      local _, plain, plain_info = look(p, family.point {})
      assert.are.equal(plain.rule.seen_g:bytes(), st.rule.seen_g:bytes())
      assert.are.equal(plain_info.loss, info.loss)
      assert.are.same({ 2 * B, B }, { st.cost:gradients(), plain.cost:gradients() })
    end
  end)

  it("looks at the distance rho from the mean, where its gradient leads, by scope", function()
    local p = problem()
    local dump = look(p, family.sam { rho = 0.25 })
    local step, g = theta(dump, 2) - theta(dump, 1), gradient(dump, 1)
    assert(math.abs(step:norm():item() - 0.25) < 1e-11)
    assert(math.abs((step * g):sum():item() / (0.25 * g:norm():item()) - 1) < 1e-10)
    dump = look(p, family.sam { rho = 0.25, scope = "elem" })
    local signs = (theta(dump, 2) - theta(dump, 1)) / 0.25
    assert(support.difference(signs:totable(), pg.sign(gradient(dump, 1)):totable()) < 1e-9)
    assert.matches('scope is "global"', refusal(family.sam, { scope = "all" }))
  end)

  it("takes the gradient there as the statistic, and the loss at the mean", function()
    local p = problem()
    local dump, st, info = look(p, family.sam { rho = 0.25 })
    assert.are.equal(gradient(dump, 2):bytes(), st.rule.seen_g:bytes())
    local there = look(p, family.point {}, { theta = theta(dump, 2) })
    assert.are.equal(gradient(there, 1):bytes(), st.rule.seen_g:bytes())
    assert.are.equal(dump["evaluation.1.sample.1.loss"]:item(), info.loss)
  end)

  it("is the family that its paper writes down: a dozen lines of one's own", function()
    local mine = family.define {
      name = "mine", hyper = { rho = 0.1 },
      init = function(start) return { mean = start } end,
      sample = function(q) return q.mean end,
      perturb = function(at, g, _, o) return at + o.rho * g / pg.sqrt((g * g):sum()) end,
      statistics = function(g) return { g = g } end,
    }
    local a, b = look(problem(), mine { rho = 0.25 }), look(problem(), family.sam { rho = 0.25 })
    assert(support.difference(a["statistics.g"]:totable(), b["statistics.g"]:totable()) < 1e-10)
  end)
end)

describe("ASAM", function()
  -- f(u w) with the weights of two tensors scaled up and down, so that their product stays.
  local layout = support.layout { { 2 }, { 2 } }
  local function loss(_, at) return pg.softplus(at.t1 * at.t2 * pg.tensor({ 1, -3 }, "f64")):sum() end

  local function ascend(f, scale)
    local start = support.vector(layout, "f64", { { 0.5 * scale, -scale }, { 2 / scale, 0.7 / scale } })
    local evaluator = pg.evaluator { loss = loss }
    local dump = look(nil, f, { theta = start, evaluator = evaluator, batch = { x = pg.zeros { 1 } } })
    return dump["evaluation.1.sample.2.loss"]:item()
  end

  it("sees the same sharpness however weights are scaled, and SAM does not", function()
    assert(math.abs(ascend(family.asam, 1) - ascend(family.asam, 30)) < 1e-12)
    assert(math.abs(ascend(family.sam { rho = 0.5 }, 1) - ascend(family.sam { rho = 0.5 }, 30)) > 0.1)
  end)

  it("of weights of size 1 is SAM, and eta and weights_only are as its authors' code has them", function()
    local p, at_ones = problem(), { theta = support.flat("f64", { 1, -1, 1 }) }
    local a, b = look(p, family.asam { rho = 0.2 }, at_ones), look(p, family.sam { rho = 0.2 }, at_ones)
    assert(support.difference(theta(a, 2):totable(), theta(b, 2):totable()) < 1e-14)
    -- tensors with one axis alone: T = 1, whatever eta
    a, b = look(p, family.asam { rho = 0.2, eta = 0.01, weights_only = true }), look(p, family.sam { rho = 0.2 })
    assert.are.equal(theta(a, 2):bytes(), theta(b, 2):bytes())
    local dump = look(p, family.asam { rho = 0.2, eta = 0.5 })
    local g, scale = gradient(dump, 1), pg.abs(theta(dump, 1)) + 0.5
    local want = theta(dump, 1) + 0.2 / (scale * g):norm():item() * (scale * scale * g)
    assert(support.difference(theta(dump, 2):totable(), want:totable()) < 1e-10)
  end)
end)

describe("the gradients of an evaluation", function()
  local ids = core.tensor("i64", { 8 }, { 0, 1, 2, 3, 4, 5, 6, 7 })
  local x = pg.randn(pg.key(3), { 8, 1, 6, 6 }, "f64")

  it("see each example under the same dropout mask and the same augmentation", function()
    -- a loss that is linear in theta has one gradient everywhere, if only its draws stay
    local net = pg.nn.sequential { pg.nn.dropout(0.5), pg.nn.flatten(), pg.nn.linear(36, 2) }
    local evaluator = pg.evaluator { model = net, loss = function(m, at, batch, ctx)
      return m(at, pg.augment.crop_flip(batch.x, ctx, { pad = 2 }), ctx):mean()
    end }
    for _, f in ipairs { family.sam { rho = 1 }, family.sam { rho = 1, samples = 2 } } do
      local dump = look(nil, f, { theta = net:init(pg.key(4), "f64"), evaluator = evaluator,
        batch = { x = x, id = ids } })
      assert.are.equal(gradient(dump, 1):bytes(), gradient(dump, 2):bytes())
      assert(support.difference(theta(dump, 1):totable(), theta(dump, 2):totable()) > 1e-2)
      if f.samples == 2 then
        assert.are.equal(gradient(dump, 3):bytes(), gradient(dump, 4):bytes())
        assert.are_not.equal(gradient(dump, 1):bytes(), gradient(dump, 3):bytes())
      end
    end
  end)

  it("move the running statistics of batch norm once, by the first", function()
    local net = pg.nn.sequential { pg.nn.flatten(), pg.nn.linear(36, 4), pg.nn.batch_norm(4), pg.nn.linear(4, 1) }
    local start = net:init(pg.key(4), "f64")
    local function buffers_after(f, micro)
      local evaluator = pg.evaluator { model = net, micro = micro, loss = function(m, at, batch, ctx)
        local y = m(at, batch.x, ctx)
        return (y * y):mean()
      end }
      local _, st = look(nil, f, { theta = start, evaluator = evaluator, batch = { x = x, id = ids },
        buffers = net:init_buffers("f64") })
      return st.buffers:bytes(), st.rule.seen_g:bytes()
    end
    for _, micro in ipairs { 1, 2 } do
      local buffers, g = buffers_after(family.sam { rho = 0.5 }, micro)
      local plain_buffers, plain_g = buffers_after(family.point {}, micro)
      assert.are.equal(plain_buffers, buffers)
      assert.are_not.equal(plain_g, g)
    end
  end)

  it("of a batch in pieces climb piece by piece", function()
    local f, p = family.sam { rho = 0.5 }, problem()
    local _, whole = look(problem { micro = 2 }, f)
    local halves = {}
    for k = 0, 1 do
      local _, half = look(p, f, { batch = p.cyclic(k, B // 2) })
      halves[k] = half.rule.seen_g
    end
    assert(support.difference(whole.rule.seen_g:totable(), (0.5 * (halves[0] + halves[1])):totable()) < 1e-15)
    assert.are.equal(2 * B, whole.cost:gradients())
    local _, at_once = look(p, f)
    assert(support.difference(whole.rule.seen_g:totable(), at_once.rule.seen_g:totable()) > 1e-4)
  end)

  it("are all edited by the stages per evaluation, under keys of their own", function()
    local clip = { per_evaluation = { stage.clip { norm = 0.1 } } }
    local dump = look(problem(), family.sam { rho = 0.5 }, { stages = clip })
    for k = 1, 2 do assert(math.abs(gradient(dump, k):norm():item() - 0.1) < 1e-6) end
    local evaluator = pg.evaluator { loss = function(_, at) return (0 * at:flat()):sum() end }
    dump = look(problem(), family.sam {}, { evaluator = evaluator,
      stages = { per_evaluation = { stage.noise { variance = 1 } } } })
    assert(support.difference(gradient(dump, 1):totable(), gradient(dump, 2):totable()) > 0.1)
    local private = stage.private { clip = 1e300, noise_multiplier = 0 }
    local a = look(problem(), family.sam { rho = 0.5 }, { stages = { per_evaluation = { private } } })
    local b = look(problem(), family.sam { rho = 0.5 })
    assert(support.difference(a["statistics.g"]:totable(), b["statistics.g"]:totable()) < 1e-13)
    assert.matches("family sam evaluates several", refusal(look, problem(), family.sam {},
      { stages = { per_evaluation = { stage.dice { clip = 1 } } } }))
  end)

  it("are as many as `gradients` says, and statistics gets those before: the mean gradient of a climb", function()
    local climb = family.define {
      name = "climb", hyper = { rate = 0.1, ascents = 3 }, static = { "ascents" },
      init = function(start) return { mean = start } end,
      sample = function(q) return q.mean end,
      gradients = function(o) return o.ascents + 1 end,
      perturb = function(at, g, q, o, k)
        return (k % 2 == 1 and at or q.mean) + o.rate * g
      end,
      statistics = function(g, _, _, _, _, earlier)
        for _, before in ipairs(earlier) do g = g + before end
        return { g = g / (#earlier + 1) }
      end,
    }
    local p = problem()
    local dump, st = look(p, climb)
    assert.are.equal(4 * B, st.cost:gradients())
    local sum = gradient(dump, 1)
    for k = 2, 4 do
      local from = (k - 1) % 2 == 1 and theta(dump, k - 1) or theta(dump, 1)
      local want = from + 0.1 * gradient(dump, k - 1)
      assert(support.difference(theta(dump, k):totable(), want:totable()) < 1e-14)
      sum = sum + gradient(dump, k)
    end
    assert(support.difference(st.rule.seen_g:totable(), (sum / 4):totable()) < 1e-14)
    local _, two = look(p, climb { ascents = 1 })
    assert.are.equal(2 * B, two.cost:gradients())
  end)

  it("that make no sense are refused", function()
    local function definition(changes)
      local d = { name = "odd", init = function(start) return { mean = start } end,
        sample = function(q) return q.mean end, statistics = function(g) return { g = g } end }
      for k, v in pairs(changes) do d[k] = v end
      return d
    end
    assert.matches("there is no perturb", refusal(family.define, definition { gradients = 2 }))
    local nothing = definition { perturb = function() end }
    assert.matches("perturb must return a point like theta, not nothing",
      refusal(look, problem(), family.define(nothing)))
    nothing.gradients = 1.5
    assert.matches("gradients is a whole number", refusal(family.define, nothing))
  end)
end)

describe("corrections of SAM", function()
  it("compare perturbed points, and give the pass at the snapshot", function()
    local p = problem { batch = B }
    local dump, st = look(p, family.sam { rho = 0.5 }, { correction = correction.svrg { every = 100 } })
    assert.are.equal(2 * N + 4 * B, st.cost:gradients()) -- a pass and two evaluations of two gradients
    for e = 1, 2 do
      assert(math.abs((theta(dump, 2, e) - theta(dump, 1, e)):norm():item() - 0.5) < 1e-11)
      assert.are.equal(gradient(dump, 2, 1):bytes(), gradient(dump, 2, e):bytes())
    end
    -- the mean over the batches of SAM's gradients is what the pass found, and the first step got
    local mean = pg.zeros(st.theta.layout, "f64")
    for k = 0, N // B - 1 do
      local _, plain = look(p, family.sam { rho = 0.5 }, { batch = p.cyclic(k, B) })
      mean = mean + plain.rule.seen_g / (N // B)
    end
    assert(support.difference(dump["statistics.g"]:totable(), mean:totable()) < 1e-14)
  end)

  it("go through the batches of the steps in their passes", function()
    for _, f in ipairs { family.sam {}, family.point {} } do
      local p, seen = problem { batch = B }, nil
      local inner = p.evaluator.source
      p.evaluator.source = setmetatable({ batches = function(_, size, options)
        seen = options
        return inner:batches(size, options)
      end }, { __index = inner })
      look(p, f, { correction = correction.svrg {} })
      assert.are.equal(f.name == "sam", seen.epoch ~= nil)
    end
  end)

  it("keep no rows of examples, whose gradients do not make up SAM's", function()
    local function make(options)
      return pg.optimizer { family = family.sam {}, rule = rule.sgd, correction = correction.saga(options) }
    end
    assert.matches('gradient of the whole batch; per = "batch"', refusal(make, {}))
    make { per = "batch" }
    local by_rows = correction.define { name = "by_rows",
      correct = function(_, ctx) return ctx:mean(ctx:rows(ctx.q)) end }
    assert.matches("points of family sam depend on the gradient of the whole batch",
      refusal(look, problem(), family.sam {}, { correction = by_rows }))
  end)
end)
