-- Facts about micro-batches: a batch in pieces is the average over its pieces, against loops written out by hand; the
-- pieces of paired evaluations and of passes see the same noise, masks and clipping; memory is that of one piece.
local support = require "support"
local methods = require "methods"
local normed = require "normed"
local problems = require "problems"
local pg, core = support.pg, support.core
local builder = require "perigee.builder"
local correction, evaluation, family, rule = require "perigee.correction", require "perigee.evaluation",
  require "perigee.family", require "perigee.rule"
local pieces, stage = require "perigee.pieces", require "perigee.stage"

local KEY = core.key(9)
local watch, difference = problems.watch, support.difference

-- `steps` steps on batches of b rows of a logistic regression of 60 examples: state, info of the last one, problem.
local function run(spec, steps, b, options)
  local p = problems.random_logistic(60, 4, options)
  local opt = pg.optimizer(spec)
  local st, info = opt:init(p.theta0(), KEY), nil
  for k = 0, steps - 1 do st, info = opt:step(st, p.evaluator, p.cyclic(k, b)) end
  return st, info, p
end

local function diagonal(options)
  local o = { ess = 60, h0 = 0.5, beta2 = 0.9 }
  for name, value in pairs(options or {}) do o[name] = value end
  return family.diagonal(o)
end

local function seen(st, field) return st.rule["seen_" .. field]:totable() end

-- Sizes that n examples are cut into.
local function sizes(n, micro, usual)
  local division, list = pieces.divide({ x = pg.zeros { n } }, micro, usual), {}
  for _, group in ipairs(division or { { count = 1, size = n } }) do
    for _ = 1, group.count do list[#list + 1] = group.size end
  end
  return list
end

describe("a batch", function()
  it("is cut into pieces whose sizes differ by at most 1, none larger than those of a step's batch", function()
    assert.same({ 4, 3, 3 }, sizes(10, 3, 10))
    assert.same({ 5, 5 }, sizes(10, 2, 10))
    assert.same({ 10 }, sizes(10, 1, 10))
    assert.same({ 3, 2, 2 }, sizes(7, 3, 10))
    assert.same({ 3 }, sizes(3, 3, 10))
    assert.same({ 5, 5, 5, 5 }, sizes(20, 2, 10))
    assert.same({ 1, 1 }, sizes(2, 5, 0))
    for n = 1, 40 do
      for micro = 1, 12 do
        local list, sum = sizes(n, micro, 12), 0
        for _, size in ipairs(list) do
          sum = sum + size
          assert(size <= math.ceil(12 / micro) or micro == 1)
          assert(list[1] - size == 0 or list[1] - size == 1)
        end
        assert.equal(n, sum)
      end
    end
  end)

  it("in pieces gives the statistics and the loss of the whole, where they are means over examples", function()
    for _, c in ipairs { false, correction.svrg { every = 4 }, correction.storm {},
      correction.svrg { every = 4, mega = 3 } } do
      local spec = { rule = rule.sgd { lr = 0.5, momentum = 0.9 }, correction = c or nil }
      local whole, whole_info = run(spec, 9, 10)
      for _, micro in ipairs { 2, 3, 7, 10 } do
        local st, info = run(spec, 9, 10, { micro = micro })
        assert(difference(st.theta:totable(), whole.theta:totable()) < 1e-12)
        assert(math.abs(info.loss - whole_info.loss) < 1e-12)
        assert.equal(tostring(whole.cost), tostring(st.cost))
      end
    end
  end)

  it("in pieces does so for every correction and rule over the point family", function()
    builder.executor = "interpret"
    for _, method in ipairs(methods.over("point")) do
      local function go(micro)
        local p, opt = problems.random_logistic(60, 4, { micro = micro }), method.make()
        local st = opt:init(p.theta0(), KEY)
        p.evaluator.total_steps = 12
        for k = 0, 11 do opt:step(st, p.evaluator, p.cyclic(k, 10)) end
        return st
      end
      local whole, cut = go(1), go(3)
      local off = difference(cut.theta:totable(), whole.theta:totable())
      assert(off < 1e-12, ("%s: off by %g"):format(method.name, off))
      assert.equal(tostring(whole.cost), tostring(cut.cost))
    end
    builder.executor = nil
  end)

  it("in pieces has the Hessians of the whole", function()
    for _, f in ipairs { family.full { ess = 60, h0 = 0.5, noise = false },
      family.diagonal { ess = 60, h0 = 0.5, beta2 = 0.9, hess_approx = "exact", noise = false } } do
      for _, c in ipairs { false, correction.svrg { every = 4 } } do
        local function go(micro)
          local st = run({ family = f, rule = f.name == "full" and rule.newton { lr = 0.3 } or rule.ivon { lr = 0.1 },
            correction = c or nil }, 9, 10, { micro = micro })
          return st
        end
        local whole, cut = go(1), go(3)
        for _, field in ipairs(whole.q.fields) do
          local off = cut.q[field] - whole.q[field]
          assert(off:abs():max():item() < 1e-12, ("%s: %s"):format(f.name, field))
        end
        assert.equal(tostring(whole.cost), tostring(cut.cost))
        assert.is_true(cut.cost.products > 0)
      end
    end
  end)

  it("in pieces hides the same units of an example as the whole, by its id; without ids each piece has its own masks",
    function()
      local function mask(micro, with_ids)
        local eval = pg.evaluator { micro = micro, key = KEY, loss = function(_, theta, batch, ctx)
          return (batch.x:dropout(ctx.key, 0.5):sum(1) * theta["t1"]):sum() / batch.x.shape[1]
        end }
        local opt = pg.optimizer { rule = watch { "g" } }
        local st = opt:init(support.flat("f64", { 1, 1, 1, 1, 1, 1 }), KEY)
        opt:step(st, eval, { x = pg.ones({ 4, 6 }, "f64"), id = with_ids and pg.arange(4, "i64") or nil })
        return table.concat(seen(st, "g"), " ")
      end
      assert.equal(mask(1, true), mask(2, true))
      assert.equal(mask(1, true), mask(4, true))
      assert.are_not.equal(mask(1, false), mask(2, false))
      -- rows 1 and 2 in another order than the masks of one piece, taken twice, would make them: only even sums
      local sums, odd = mask(2, false), false
      for sum in sums:gmatch("%S+") do odd = odd or math.abs(tonumber(sum) * 2 % 2 - 1) < 1e-9 end
      assert.is_true(odd)
    end)

  it("gives what the loss returns beside the loss for the first piece: tensors, vectors, tables of them", function()
    local eval = pg.evaluator { micro = 3, key = KEY, loss = function(_, theta, batch)
      local z = batch.x * theta["t1"]
      return z:mean(), { z = z, name = "z", list = { z:sum(), 3 } }, theta * 2, batch.offset
    end }
    local opt = pg.optimizer { rule = rule.sgd { lr = 1 } }
    local st = opt:init(support.flat("f64", { 2 }), KEY)
    local batch = { x = pg.arange(10, "f64"), offset = pg.tensor({ 7, 8 }, "f64") }
    local _, info = opt:step(st, eval, batch)
    assert.equal(9, info.loss)
    assert.same({ 0, 2, 4, 6 }, info.aux[1].z:totable())
    assert.same({ 12, 3, "z" }, { info.aux[1].list[1]:item(), info.aux[1].list[2], info.aux[1].name })
    assert.equal(4, info.aux[2]["t1"]:totable()[1])
    assert.same({ 7, 8 }, info.aux[3]:totable()) -- no row for each example, so each piece has all of it
  end)
end)

describe("noise", function()
  it("5: a batch of K copies of a piece, in K pieces, is that piece with K samples, bit for bit", function()
    for _, c in ipairs { false, correction.svrg { every = 3, mega = 1 } } do
      local function go(K, samples, micro)
        local p = problems.random_logistic(60, 4, { micro = micro })
        local opt = pg.optimizer { family = diagonal { samples = samples }, rule = rule.ivon { lr = 0.1 },
          correction = c or nil, weight_decay = 0.01 }
        -- a mega-batch of one batch, always the same
        local rows, piece = {}, { 3, 7, 11, 40 }
        for i = 1, K * 4 do rows[i] = piece[(i - 1) % 4 + 1] end
        local batch = p.batch(rows)
        p.evaluator.source = { n = #rows, total = function() return #rows end,
          batches = function(_, _, options)
            return function() if options.first == 1 then options.first = 2 return 1, batch end end
          end }
        local st = opt:init(p.theta0(), KEY)
        for _ = 1, 7 do opt:step(st, p.evaluator, batch) end
        return st
      end
      local samples, copies = go(1, 5, 1), go(5, 1, 5)
      for _, name in ipairs { "mean", "h" } do assert.equal(samples.q[name]:bytes(), copies.q[name]:bytes()) end
      assert.are_not.equal(samples.q.h:bytes(), go(1, 1, 1).q.h:bytes())
    end
  end)

  -- Poco_ivon.md 1.3 and 1.6 in plain numbers on the loss 0.5 mean_i a_i (theta - b_i)^2: fresh noise for each piece,
  -- running means of g and noise * g over pieces of one size. Noise is asked of the keys.
  it("of an IVON step in pieces equals accumulation written out, clipping of each piece included", function()
    local o = { lr = 0.1, ess = 50, h0 = 0.5, beta1 = 0.9, beta2 = 0.99, decay = 0.01 }
    local a, b, K, n = {}, {}, 4, 12
    local draw = support.stream(5)
    for i = 1, n do a[i], b[i] = 1 + 0.3 * draw(), draw() end
    for _, limit in ipairs { math.huge, 0.4 } do
      local eval = pg.evaluator { micro = K, key = KEY, loss = function(_, theta, batch)
        local d = theta["t1"] - batch.b
        return 0.5 * (batch.a * d * d):mean()
      end }
      local opt = pg.optimizer { family = family.diagonal { ess = o.ess, h0 = o.h0, beta2 = o.beta2 },
        weight_decay = o.decay, rule = rule.ivon { lr = o.lr, beta1 = o.beta1 },
        stages = { per_evaluation = limit < math.huge and { stage.clip { norm = limit } } or {} } }
      local st = opt:init(support.flat("f64", { 0.7 }), KEY)
      local m, h, mom = 0.7, o.h0, 0
      local clipped = 0
      for t = 1, 10 do
        opt:step(st, eval, { a = pg.tensor(a, "f64"), b = pg.tensor(b, "f64") })
        local g, nxg = 0, 0
        for k = 1, K do
          local key = evaluation.fold(KEY, evaluation.streams.noise, t - 1, k)
          local noise = family.normal(key, support.flat("f64", { 0 })):totable()[1] / math.sqrt(o.ess * (h + o.decay))
          local gk = 0
          for i = (k - 1) * 3 + 1, k * 3 do gk = gk + a[i] * (m + noise - b[i]) / 3 end
          local scale = math.min(1, limit / (math.abs(gk) + 1e-6))
          if scale < 1 then clipped = clipped + 1 end
          gk = gk * scale
          g, nxg = g + (gk - g) / k, nxg + (noise * gk - nxg) / k
        end
        mom = o.beta1 * mom + (1 - o.beta1) * g
        local f, old = nxg * (h + o.decay) * o.ess, h
        h = o.beta2 * h + (1 - o.beta2) * f + 0.5 * (1 - o.beta2) ^ 2 * (old - f) ^ 2 / (old + o.decay)
        m = m - o.lr * (o.h0 + o.decay) * (mom / (1 - o.beta1 ^ t) + o.decay * m) / (h + o.decay)
      end
      assert(difference({ st.theta:totable()[1], st.q.h:totable()[1] }, { m, h }) < 1e-12)
      assert.equal(limit < math.huge, clipped > 5)
    end
  end)

  it("is fresh for each piece of a pass, and one for all where it is fixed", function()
    -- the gradient of the loss is the point itself; the data are alike, so pieces differ by their noise alone
    local function mean_of_pass(noise, micro)
      local eval = pg.evaluator { micro = micro, key = KEY, source = pg.evaluator.memory { x = pg.ones({ 12 }, "f64") },
        loss = function(_, theta, batch) return 0.5 * (theta * theta):sum() * batch.x:mean() end }
      local opt = pg.optimizer { family = family.isotropic { sigma = 1 }, rule = watch { "g" },
        correction = correction.define { name = "pass", refresh = function(s, ctx) s.mean = ctx:full(ctx.q) end,
          correct = function(s, ctx) return s.mean + 0 * ctx:evaluate(ctx.q) end } { noise = noise } }
      local st = opt:init(core.vector(support.layout { { 4000 } }, "f64"), KEY)
      opt:step(st, eval, eval.source:take(pg.arange(12, "i64")))
      local square = 0
      for _, g in ipairs(seen(st, "g")) do square = square + g * g / 4000 end
      return square
    end
    local spread = 5 * math.sqrt(2 / 4000)
    for _, case in ipairs { { "shared", 1, 1 }, { "shared", 4, 1 / 4 }, { "shared", 5, (9 + 9 + 4 * 3) / 144 },
      { "fixed", 4, 1 } } do
      local found = mean_of_pass(case[1], case[2])
      assert(math.abs(found / case[3] - 1) < spread, ("%s, %d: variance %g"):format(case[1], case[2], found))
    end
  end)
end)

local clip = { per_evaluation = { stage.clip { norm = 0.05 } } }

it("clipping in pieces cuts the gradient of each: against a loop", function()
  local p = problems.random_logistic(60, 4, { lam = 0, w0 = { 0.3, -0.2, 0.1, 0.5 } })
  local function gradient(rows, stages)
    local opt = pg.optimizer { rule = watch { "g" }, stages = stages }
    local st = opt:init(p.theta0(), KEY)
    opt:step(st, p.evaluator, p.batch(rows))
    return seen(st, "g")
  end
  local at, mean = 0, { 0, 0, 0, 0 }
  for _, size in ipairs { 4, 3, 3 } do
    local rows = {}
    for i = 1, size do rows[i] = at + i - 1 end
    at = at + size
    local g, norm = gradient(rows, {}), 0
    for i = 1, 4 do norm = norm + g[i] ^ 2 end
    for i = 1, 4 do mean[i] = mean[i] + size / 10 * g[i] * math.min(1, 0.05 / (math.sqrt(norm) + 1e-6)) end
  end
  local st = run({ rule = watch { "g" }, stages = clip }, 1, 10, { micro = 3, lam = 0, w0 = { 0.3, -0.2, 0.1, 0.5 } })
  assert(difference(seen(st, "g"), mean) < 1e-12)
  assert(difference(seen(st, "g"), gradient({ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }, clip)) > 1e-3)
end)

-- Batches of 10, 10, 10 and 7 in pieces of 4, 3, 3 and 3, 2, 2: batch norm, dropout and clipping on.
local cells = {
  { name = "point", fields = { "g" }, family = function() return family.point {} end,
    rule = function() return rule.sgd { lr = 0.1, momentum = 0.9 } end },
  { name = "diagonal", fields = { "g", "h" }, family = function() return diagonal { ess = 37 } end,
    rule = function() return rule.ivon { lr = 0.1 } end },
  { name = "diagonal with 2 samples", fields = { "g", "h" },
    family = function() return diagonal { ess = 37, samples = 2, antithetic = true } end,
    rule = function() return rule.ivon { lr = 0.1 } end },
}

for _, cell in ipairs(cells) do
  local function optimizer(c, r)
    return pg.optimizer { family = cell.family(), correction = c, rule = r or cell.rule(), weight_decay = 0.01,
      stages = clip }
  end
  local function start(p, opt) return opt:init(p.theta0(), KEY, p.buffers0()) end
  local function steps(p, opt, st, count)
    for _ = 1, count do
      local info
      repeat st, info = opt:step(st, p.evaluator, p.part(st.step)) until not info.suspended
    end
    return st
  end

  describe("in uneven pieces under SVRG over the " .. cell.name .. " family", function()
    setup(function() core.set_executor("interpret") end)
    teardown(function() core.set_executor("auto") end)

    it("T2: at the snapshot the difference of the two evaluations is 0, bit for bit, and the mean is left", function()
      local bare = correction.define {
        name = "difference", refresh = function(s, ctx) s.at = ctx.q:clone() end,
        correct = function(s, ctx) return ctx:evaluate(ctx.q) - ctx:evaluate(s.at) end,
      }
      for _, dtype in ipairs { "f32", "f64" } do
        local p = normed.problem { dtype = dtype, micro = 3 }
        local opt = optimizer(bare { every = 1 }, watch(cell.fields))
        local st = start(p, opt)
        local corrected = optimizer(correction.svrg { every = 1 }, watch(cell.fields))
        local other = start(p, corrected)
        for _ = 1, 4 do
          steps(p, opt, st, 1)
          steps(p, corrected, other, 1)
          for _, field in ipairs(cell.fields) do
            assert.equal(("\0"):rep(#st.rule["seen_" .. field]:bytes()), st.rule["seen_" .. field]:bytes())
            assert.equal(other.memory.values.mean[field]:bytes(), other.rule["seen_" .. field]:bytes())
          end
        end
      end
    end)

    it("T3: over the batches of a pass the corrected statistics average to those of the pass", function()
      local p = normed.problem { micro = 3 }
      -- evaluations away from ctx.q see the noise of the pass
      local at = correction.define {
        name = "paired", refresh = function(s, ctx)
          s.at = ctx.q:clone()
          s.mean = ctx:full(s.at)
        end,
        correct = function(s, ctx) return ctx:evaluate(s.at) + 0 * (s.mean + ctx:evaluate(ctx.q)) end,
      }
      local opt = optimizer(at { every = 100, noise = "fixed" }, watch(cell.fields))
      local st, mean = start(p, opt), {}
      for k = 0, p.parts - 1 do
        steps(p, opt, st, 1)
        for _, field in ipairs(cell.fields) do
          local share = p.part(k).x.shape[1] / p.n * st.rule["seen_" .. field]
          mean[field] = mean[field] and mean[field] + share or share
        end
      end
      for _, field in ipairs(cell.fields) do
        assert(difference(mean[field]:totable(), st.memory.values.mean[field]:totable()) < 1e-12)
      end
    end)

    it("T4: alpha = 0 is the plain method bit for bit, buffers included, and costs nothing more", function()
      local p = normed.problem { micro = 3 }
      local plain_opt, opt = optimizer(), optimizer(correction.svrg { alpha = 0, every = 3 })
      local plain, st = steps(p, plain_opt, start(p, plain_opt), 9), steps(p, opt, start(p, opt), 9)
      for _, field in ipairs(st.q.fields) do assert.equal(plain.q[field]:bytes(), st.q[field]:bytes()) end
      assert.equal(plain.buffers:bytes(), st.buffers:bytes())
      assert.equal(tostring(plain.cost), tostring(st.cost))
    end)

    it("costs as many gradients as whole batches do", function()
      local function cost(micro)
        local p, opt = normed.problem { micro = micro }, optimizer(correction.svrg { every = 3 })
        return tostring(steps(p, opt, start(p, opt), 7).cost)
      end
      assert.equal(cost(1), cost(3))
    end)

    it("T7: goes on bit for bit from any step and from inside a pass", function()
      local p = normed.problem { micro = 3 }
      local opt = optimizer(correction.svrg { every = 3 })
      local whole = support.state_bytes(steps(p, opt, start(p, opt), 7))
      for stop = 1, 6 do
        for cursor = 0, stop % 3 == 0 and p.parts - 1 or 0 do
          local st = steps(p, opt, start(p, opt), stop)
          if cursor > 0 then
            local _, info = opt:step(st, p.evaluator, p.part(stop), nil,
              { on_pass = function(_, done) return done < cursor end })
            assert.is_true(info.suspended)
          end
          local copies = {}
          for _, entry in ipairs(st:tensors()) do copies[entry[1]] = entry[2]:copy() end
          local other = normed.problem { micro = 3 }
          local again = optimizer(correction.svrg { every = 3 })
          local resumed = start(other, again)
          resumed:load(copies, st:numbers())
          assert.equal(whole, support.state_bytes(steps(other, again, resumed, 7 - stop)))
        end
      end
    end)
  end)
end

describe("running statistics", function()
  it("move from piece to piece in the evaluation at q, as forward passes one after the other do", function()
    core.set_executor("interpret")
    for _, c in ipairs { false, correction.svrg { every = 3 } } do
      local p = normed.problem { micro = 3 }
      local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = c or nil }
      local st, by_hand = opt:init(p.theta0(), KEY, p.buffers0()), p.buffers0()
      for k = 0, 8 do
        local theta, epoch = st.theta:copy(), k // p.parts
        local _, info = opt:step(st, p.evaluator, p.part(k), nil, { epoch = epoch })
        local n, at = p.part(k).x.shape[1], 10 * (k % p.parts)
        for _, size in ipairs(sizes(n, 3, 10)) do
          local piece, streams = p.batch(at, at + size), evaluation.streams
          local key = evaluation.fold(KEY, streams.example, streams[info.corrected and "segment" or "epoch"],
            info.corrected and st.segment or epoch, piece.id)
          local ctx = { train = true, key = key, buffers = by_hand }
          p.model(theta, piece.x, ctx)
          by_hand, at = ctx.new_buffers, at + size
        end
        assert(difference(st.buffers:totable(), by_hand:totable()) < 1e-12, "after step " .. k)
      end
    end
    core.set_executor("auto")
  end)
end)

describe("a mega-batch of M", function()
  it("is M batches of the steps, whatever the batches of full passes and the pieces", function()
    for _, options in ipairs { {}, { micro = 3 }, { batch = 25 }, { batch = 25, micro = 2 } } do
      local st = run({ family = diagonal(), rule = rule.ivon { lr = 0.1 },
        correction = correction.svrg { mega = 4, every = 5 } }, 10, 10, options)
      assert.equal(2 * 4 * 10, st.cost.passes)
      assert.equal(2 * 10 * 10, st.cost.steps)
      st = run({ rule = rule.sgd { lr = 0.1 }, correction = correction.svrg { mega = 40, every = 5 } }, 10, 10, options)
      assert.equal(2 * 60, st.cost.passes) -- at most all the data
    end
  end)

  it("is so in pg.train too, and passes are cut as the steps are", function()
    local x = pg.randn(pg.key(1), { 100, 3 })
    local data = pg.data.from { x = x, y = x:sum(2):gt(0):to("i64") }
    local function train(options)
      local spec = {
        data = data, model = pg.nn.sequential { pg.nn.linear(3, 2) }, batch = 8, seed = 2, out = false, dtype = "f64",
        steps = not options.budget and 13 or nil, loss = function(model, theta, batch, ctx)
          return pg.cross_entropy(model(theta, batch.x, ctx), batch.y)
        end,
      }
      for name, value in pairs(options) do spec[name] = value end
      return pg.train(spec)
    end
    local svrg = pg.optim.svrg { lr = 0.3, mega = 3, every = 5 }
    local ivon = pg.optim.ivon_poco { ess = 100, mega = 3, every = 5 }
    for _, opt in ipairs { svrg, ivon, svrg:with { stages = clip } } do
      for _, micro in ipairs { 1, 3 } do
        assert.equal(3 * 3 * 8, train { optimizer = opt, micro = micro }.cost.passes)
        assert.equal(3 * 3 * 8, train { optimizer = opt, micro = micro, pass_batch = 50 }.cost.passes)
      end
    end
    local full = pg.optim.svrg { lr = 0.3 }
    local whole, cut = train { optimizer = full }, train { optimizer = full, micro = 3 }
    assert(difference(whole.theta:totable(), cut.theta:totable()) < 1e-12)
    assert.equal(tostring(whole.cost), tostring(cut.cost))
    assert.equal(100, whole.state.pass_size)
    assert.equal(8, cut.state.pass_size)
    assert.equal(8, train { optimizer = full:with { stages = clip } }.state.pass_size)
    -- a budget is spent as planned
    local spent = train { optimizer = svrg, budget = { gradients = 2000 }, micro = 2 }
    assert.is_true(math.abs(spent.cost:gradients() / 2000 - 1) < 0.1)
  end)
end)

describe("the program of a step", function()
  local model = pg.nn.sequential { pg.nn.linear(20, 60), pg.nn.tanh(), pg.nn.linear(60, 60), pg.nn.tanh(),
    pg.nn.linear(60, 5) }
  local n = 960
  local batch = { x = pg.randn(pg.key(1), { n, 20 }), y = pg.zeros({ n }, "i64"), id = pg.arange(n, "i64") }

  local function program(micro, opt)
    local eval = pg.evaluator { model = model, micro = micro, loss = function(net, theta, b, ctx)
      return pg.cross_entropy(net(theta, b.x, ctx), b.y)
    end }
    return opt:program(opt:init(model:init(pg.key(2)), KEY), eval, opt.correction and "corrected" or "plain", batch)
      .program
  end

  it("takes the memory of one piece, beside sums of the statistics", function()
    for _, opt in ipairs { pg.optim.sgd { lr = 0.1 }, pg.optim.svrg { lr = 0.1 }, pg.optim.ivon_poco { ess = n } } do
      local arena = {}
      for _, micro in ipairs { 1, 4, 7, 24 } do arena[micro] = program(micro, opt):info().arena_bytes end
      local vectors = 4 * model.layout.padded * 12 -- those of the sums and of the piece's gradients
      assert(arena[4] < arena[1] / 4 + vectors and arena[4] < 0.75 * arena[1], ("%d, %d"):format(arena[1], arena[4]))
      assert(arena[7] < arena[4] * 1.01 + 2 * vectors / 12 and arena[24] < arena[4])
    end
  end)

  it("does the work of the whole batch", function()
    local function flops(micro) return program(micro, pg.optim.svrg { lr = 0.1 }):info().flops end
    for _, micro in ipairs { 4, 7 } do
      assert(math.abs(flops(micro) / flops(1) - 1) < 0.05, ("%g, %g"):format(flops(micro), flops(1)))
    end
  end)

  it("has as many parts whatever the number of pieces", function()
    local function lines(micro)
      local count, loops = 0, 0
      for line in program(micro, pg.optim.ivon_poco { ess = n }):describe().outline:gmatch("[^\n]+") do
        count, loops = count + 1, loops + (line:find("loop\tscan", 1, true) and 1 or 0)
      end
      return count, loops
    end
    assert.equal(lines(2), lines(480))
    assert.equal(lines(7), lines(479))
    assert.equal(2, select(2, lines(480))) -- one for each evaluation
    assert.equal(4, select(2, lines(479)))
  end)
end)

describe("mistakes", function()
  local function fails(f, expected)
    local ok, message = pcall(f)
    assert.is_false(ok)
    assert.matches(expected, message, 1, true)
    assert.is_nil(message:find("\n"))
  end

  it("get one line that says what was found", function()
    for _, case in ipairs { { 0, "0" }, { 1.5, "1.5" }, { "2", 'a string' }, { false, "a boolean" } } do
      fails(function() pg.evaluator { loss = print, micro = case[1] } end,
        "pg.evaluator: micro is a whole number of pieces, at least 1, not ")
    end
    fails(function() run({ rule = rule.sgd { lr = 0.1 } }, 1, 10, { micro = 11 }) end,
      "micro is 11, but a batch has only 10 examples")
    local p = problems.random_logistic(60, 4, { micro = 2 })
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 } }
    local padded = p.cyclic(0, 10)
    padded.count = 9
    fails(function() opt:step(opt:init(p.theta0(), KEY), p.evaluator, padded) end, "micro = 2 cuts a batch by its rows")
    local x = pg.randn(pg.key(1), { 30, 3 })
    local spec = { data = pg.data.from { x = x, y = x:sum(2) }, model = pg.nn.linear(3, 1), batch = 10, epochs = 1,
      loss = function(model, theta, b) return model(theta, b.x):mean() end, optimizer = pg.optim.sgd { lr = 1 } }
    for micro, expected in pairs {
      [11] = "pg.train: micro is 11, but a batch has only 10 examples",
      [2.5] = "pg.train: micro must be a whole number of pieces, at least 1, not 2.5",
      [0] = "pg.train: micro must be a whole number of pieces, at least 1, not 0",
    } do
      spec.micro = micro
      fails(function() pg.train(spec) end, expected)
    end
  end)
end)
