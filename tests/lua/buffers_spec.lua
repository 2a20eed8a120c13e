-- Facts about buffers (the running statistics of batch norm) under paired evaluation, dropout and batch norm on: T2,
-- T3, T4 of the methods' specification (variance reduction, section 8), over the point and the diagonal (IVON) family;
-- that only evaluations at the current point move them; and how they are saved, loaded and asked for.
local support = require "support"
local normed = require "normed"
local watch = require("problems").watch
local pg, core = support.pg, support.core
local correction, evaluation, family, rule = require "perigee.correction", require "perigee.evaluation",
  require "perigee.family", require "perigee.rule"
local sampler = require "perigee.sampler"

local state_bytes = support.state_bytes

local function start(p, opt) return opt:init(p.theta0(), core.key(3), p.buffers0()) end

local function run(p, opt, st, steps)
  for _ = 1, steps do
    local info
    repeat
      st, info = opt:step(st, p.evaluator, p.part(st.step))
    until not info.suspended
  end
  return st
end

local function zeros(n) return ("\0"):rep(n) end

local cells = {
  { name = "point", fields = { "g" }, family = function() return family.point {} end,
    rule = function() return rule.sgd { lr = 0.1, momentum = 0.9 } end },
  { name = "diagonal", fields = { "g", "h" },
    family = function() return family.diagonal { ess = 37, h0 = 0.5, beta2 = 0.9 } end,
    rule = function() return rule.ivon { lr = 0.1 } end },
  { name = "diagonal with 3 samples", simple = true, fields = { "g", "h" },
    family = function() return family.diagonal { ess = 37, h0 = 0.5, beta2 = 0.9, samples = 3 } end,
    rule = function() return rule.ivon { lr = 0.1 } end },
}

-- The convolutional network runs compiled, all else interpreted: so both are under test, and little is compiled.
local networks = { { "batch norm and dropout", false }, { "a convolutional network with both", true } }

local function choose_executor(is_convolutional)
  setup(function() core.set_executor(is_convolutional and "auto" or "interpret") end)
  teardown(function() core.set_executor("auto") end)
end

-- Pairs of a network and an entry of a list; only the first network is paired with entries that say simple = true.
local function pairs_with_networks(list)
  local found = {}
  for i, network in ipairs(networks) do
    for _, entry in ipairs(list) do
      if i == 1 or not entry.simple then found[#found + 1] = { network, entry } end
    end
  end
  return found
end

for _, product in ipairs(pairs_with_networks(cells)) do
  local network, cell = product[1], product[2]
  local function problem(dtype) return normed.problem { dtype = dtype, convolutional = network[2] } end

  local function optimizer(c, r)
    return pg.optimizer { family = cell.family(), correction = c, rule = r or cell.rule(), weight_decay = 0.01 }
  end

  describe(network[1] .. " under SVRG over the " .. cell.name .. " family", function()
    choose_executor(network[2])

    it("T2: at the snapshot the difference of the two evaluations is 0, bit for bit", function()
      local difference = correction.define {
        name = "difference",
        refresh = function(s, ctx) s.at = ctx.q:clone() end,
        correct = function(s, ctx) return ctx:evaluate(ctx.q) - ctx:evaluate(s.at) end,
      }
      for _, dtype in ipairs(network[2] and { "f32" } or { "f32", "f64" }) do
        local p = problem(dtype)
        local opt = optimizer(difference { every = 100 }, watch(cell.fields))
        local st = start(p, opt)
        local h = st.q.h and st.q.h:copy()
        for _ = 1, 5 do
          run(p, opt, st, 1)
          for _, field in ipairs(cell.fields) do
            local seen = st.rule["seen_" .. field]:bytes()
            assert.are.equal(zeros(#seen), seen, ("%s, %s"):format(dtype, field))
          end
          -- the rule moves nothing; with h put back, q is still the snapshot
          if h then st.q.h:copy_from(h) end
        end
      end
    end)

    it("T2: right after a refresh the statistics are those of the pass, bit for bit", function()
      local p = problem()
      local opt = optimizer(correction.svrg { every = 1 }, watch(cell.fields))
      local st = start(p, opt)
      for _ = 1, 5 do
        run(p, opt, st, 1)
        for _, field in ipairs(cell.fields) do
          assert.are.equal(st.memory.values.mean[field]:bytes(), st.rule["seen_" .. field]:bytes())
        end
      end
    end)

    it("T4: alpha = 0, and steps before start, are the plain method bit for bit, buffers included", function()
      local p = problem()
      local plain_opt = optimizer()
      local plain = run(p, plain_opt, start(p, plain_opt), 9)
      for _, o in ipairs { { alpha = 0, every = 3 }, { start = 9, every = 3 } } do
        local opt = optimizer(correction.svrg(o))
        local st = run(p, opt, start(p, opt), 9)
        for _, field in ipairs(st.q.fields) do assert.are.equal(plain.q[field]:bytes(), st.q[field]:bytes()) end
        assert.are.equal(plain.buffers:bytes(), st.buffers:bytes())
      end
      local opt = optimizer(correction.svrg { every = 3 })
      assert.are_not.equal(plain.buffers:bytes(), run(p, opt, start(p, opt), 9).buffers:bytes())
    end)

    it("a refresh leaves the buffers as they are, however far its pass got", function()
      local p = problem()
      local opt = optimizer(correction.svrg { every = 4 })
      local st = run(p, opt, start(p, opt), 4)
      local before = st.buffers:bytes()
      for batch = 1, p.parts do
        local _, info = opt:step(st, p.evaluator, p.part(4), nil, { on_pass = function() return false end })
        assert.is_true(info.suspended)
        assert.are.equal(batch, st.pass.cursor)
        assert.are.equal(before, st.buffers:bytes())
      end
      run(p, opt, st, 1)
      assert.are_not.equal(before, st.buffers:bytes())
    end)

    -- The buffers of a run, made again by hand: one forward pass a step, at the point of the step's first sample. That
    -- point and the keys are asked of the step; the forward pass is eager.
    for _, mode in ipairs { "batch", "running" } do
      it(("a corrected run moves them as one forward pass a step does (snapshots by %s statistics)"):format(mode),
        function()
          local p = problem()
          local opt = optimizer(correction.svrg { every = 3, start = 2, batch_norm = mode })
          local st, by_hand = start(p, opt), p.buffers0()
          for k = 0, 8 do
            local batch = p.part(k)
            local _, info = opt:step(st, p.evaluator, batch)
            local streams = evaluation.streams
            local key = evaluation.fold(core.key(3), streams.example, streams[info.corrected and "segment" or "epoch"],
              info.corrected and st.segment or k // p.parts, batch.id)
            if opt.family.samples > 1 then key = key:fold(pg.tensor({ 1 }, "i64"):reshape {}) end
            local ctx = { train = true, key = key, buffers = by_hand }
            p.model(info.aux[1], batch.x, ctx)
            by_hand = ctx.new_buffers
            assert.are.equal(by_hand:bytes(), st.buffers:bytes(), "step " .. k)
          end
        end)
    end
  end)
end

-- Statistics of the pass at a moved point in segment 1, and the mean over its partition of the corrected statistics
-- there with the snapshot at theta0, weighted by the batches' counts.
local function full_and_mean(p, make_family, fields, moved, options)
  local function at(theta)
    local opt = pg.optimizer { rule = watch(fields), family = make_family(), correction = correction.svrg(options) }
    return opt, opt:init(theta, core.key(3), p.buffers0())
  end
  local opt, st = at(p.theta0() + moved)
  local full = run(p, opt, st, 1).memory.values.mean
  opt, st = at(p.theta0())
  run(p, opt, st, p.parts)
  st.theta:copy_from(p.theta0() + moved)
  local total = {}
  for k = 0, p.parts - 1 do
    local batch = p.part(k)
    opt:step(st, p.evaluator, batch)
    for _, field in ipairs(fields) do
      local part = batch.x.shape[1] / p.n * st.rule["seen_" .. field]
      total[field] = total[field] and total[field] + part or part
    end
  end
  return full, total, st
end

describe("T3: over the pass's partition the corrected statistics average to the full ones", function()
  choose_executor(false)

  local families = {
    point = { { "g" }, function() return family.point {} end },
    -- the noise of a pass is other than that of the steps; without it h's statistic is g^2
    diagonal = { { "g", "h" }, function()
      return family.diagonal { ess = 37, h0 = 0.5, beta2 = 1, noise = false, hess_approx = "gradsq" }
    end },
    ["3 samples"] = { { "g" }, function() return family.isotropic { sigma = 0, samples = 3 } end },
  }
  for _, product in ipairs(pairs_with_networks { { name = "point" }, { name = "diagonal" } }) do
    local network, name = product[1], product[2].name
    it(("with %s over the %s family"):format(network[1], name), function()
      local fields, make_family = table.unpack(families[name])
      local p = normed.problem { convolutional = network[2] }
      local full, mean = full_and_mean(p, make_family, fields, 0.1, { every = 100 })
      for _, field in ipairs(fields) do
        local d = support.difference(mean[field]:totable(), full[field]:totable())
        assert(d < 1e-12, ("%s is off by %g"):format(field, d))
      end
    end)
  end

  for _, name in ipairs { "point", "3 samples" } do
    it(("also where snapshots use the running statistics of the refresh (%s)"):format(name), function()
      local p, make_family = normed.problem(), families[name][2]
      local _, mean, st = full_and_mean(p, make_family, { "g" }, 0.1, { every = 100, batch_norm = "running" })
      -- the full gradient at the moved point is by batch statistics, as evaluations at q are
      local full = full_and_mean(p, make_family, { "g" }, 0.1, { every = 100 })
      assert(support.difference(mean.g:totable(), full.g:totable()) < 1e-12)
      assert.are.equal(p.buffers0():bytes(), st.frozen_buffers:bytes())
      assert.are_not.equal(p.buffers0():bytes(), st.buffers:bytes())
    end)
  end

  it("in pg.train, whose passes go through the batches of the epoch's steps", function()
    local x = pg.randn(pg.key(5), { 37, 2 })
    local source = sampler.shuffled(pg.data.from { x = x }, 10, pg.key(6))
    for _, epoch in ipairs { 2, 0 } do
      local passed = {}
      for j, batch in source:batches(10, { epoch = epoch }) do passed[j] = batch.x:bytes() end
      for j = 1, 4 do assert.are.equal(passed[j], source:at(4 * epoch + j - 1).x:bytes()) end
      assert.are.equal(4, #passed)
    end
    local rest = {}
    source:at(4)
    for j, batch in source:batches(10, { epoch = 1, first = 3 }) do rest[j] = batch.x:bytes() end
    assert.are.equal(source:at(7).x:bytes(), rest[4])
    assert.is_nil(rest[2])
  end)
end)

describe("buffers", function()
  choose_executor(false)

  it("are those of the evaluation at q, whichever point correct looks at first", function()
    local function order(correct)
      local p = normed.problem()
      local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = correction.define {
        name = "ordered", refresh = function(s, ctx) s.at = ctx.q:clone() end, correct = correct,
      } { every = 100 } }
      return state_bytes(run(p, opt, start(p, opt), 4))
    end
    local forwards = order(function(s, ctx)
      local now = ctx:evaluate(ctx.q)
      return now - 0.5 * ctx:evaluate(s.at)
    end)
    local backwards = order(function(s, ctx)
      local old = ctx:evaluate(s.at)
      return ctx:evaluate(ctx.q) - 0.5 * old
    end)
    assert.are.equal(forwards, backwards)
  end)

  it("are not moved twice by a correction that evaluates at q twice", function()
    local p = normed.problem()
    local function after(correct)
      local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = correction.define { name = "own",
        correct = correct } }
      return state_bytes(run(p, opt, start(p, opt), 3))
    end
    local once = after(function(_, ctx) return ctx:evaluate(ctx.q) end)
    assert.are.equal(once, after(function(_, ctx) return 0.5 * ctx:evaluate(ctx.q) + 0.5 * ctx:evaluate(ctx.q) end))
  end)

  it("would never move under a correction that does not look at q, which is an error", function()
    local p = normed.problem()
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.1 }, correction = correction.define {
      name = "elsewhere", correct = function(_, ctx) return ctx:evaluate(ctx.q.mean + 0.1) end,
    } }
    local ok, message = pcall(run, p, opt, start(p, opt), 1)
    assert.is_false(ok)
    assert.matches("correction elsewhere evaluates at other points than ctx.q only", message, 1, true)
    assert.is_false(core.tracing())
  end)

  it("go through two calls of the model in one loss as through two forward passes", function()
    local p = normed.problem { loss = function(model, theta, batch, ctx)
      local d = model(theta, batch.x, ctx) - model(theta, 2 * batch.x, ctx)
      return (d * d):mean()
    end }
    local opt = pg.optim.sgd { lr = 0.1 }
    local st, batch = start(p, opt), p.part(0)
    opt:step(st, p.evaluator, batch)
    local streams = evaluation.streams
    local key = evaluation.fold(core.key(3), streams.example, streams.epoch, 0, batch.id)
    local first = { train = true, key = key, buffers = p.buffers0() }
    p.model(p.theta0(), batch.x, first)
    local second = { train = true, key = key, buffers = first.new_buffers }
    p.model(p.theta0(), 2 * batch.x, second)
    assert.are.equal(second.new_buffers:bytes(), st.buffers:bytes())
  end)

  it("stay as they are where the loss calls the model with a ctx of its own", function()
    local p = normed.problem { loss = function(model, theta, batch, ctx)
      local d = model(theta, batch.x, { train = true, key = ctx.key }) - batch.y
      return (d * d):mean()
    end }
    local opt = pg.optim.sgd { lr = 0.1 }
    local st = run(p, opt, start(p, opt), 2)
    assert.are.equal(p.buffers0():bytes(), st.buffers:bytes())
  end)

  it("are copied: the vector given to init does not move, and takes the dtype of the parameters", function()
    local p = normed.problem { dtype = "f32" }
    local opt, given = pg.optimizer { rule = rule.sgd { lr = 0.1 }, dtype = "f64" }, p.buffers0()
    local st = opt:init(p.theta0(), nil, given)
    assert.are.equal("f64", st.buffers.dtype)
    local q = normed.problem()
    run(q, opt, st, 2)
    assert.are.equal(p.buffers0():bytes(), given:bytes())
  end)

  it("are missed with an error that says what to pass", function()
    local p = normed.problem()
    local function refused(pattern, f, ...)
      local ok, message = pcall(f, ...)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
      assert.is_false(core.tracing())
    end
    local opt = pg.optim.sgd { lr = 0.1 }
    refused("opt:init(theta, key, model:init_buffers())", run, p, opt, opt:init(p.theta0()), 1)
    refused("buffers = st.buffers", p.evaluator.evaluate, p.evaluator, p.theta0(), p.part(0))
    local other = support.flat("f64", { 1, 2, 3 })
    refused("of 32 numbers in 4 tensors, those given are of another model (3 numbers in 1)", run, p, opt,
      opt:init(p.theta0(), nil, other), 1)
    refused("buffers are a vector, as model:init_buffers() gives, not a table", opt.init, opt, p.theta0(), nil, {})
    refused("not a f64 tensor", opt.init, opt, p.theta0(), nil, core.tensor("f64", { 2 }))
    local wrong = normed.problem { loss = function(_, theta, _, ctx)
      ctx.new_buffers = theta
      return theta:sum()
    end }
    refused("ctx.new_buffers must be a vector like ctx.buffers (f64, 32 numbers)", run, wrong, opt, start(wrong, opt),
      1)
    refused('batch_norm is "batch" or "running"', correction.svrg, { batch_norm = "frozen" })
    local no_refresh = correction.define { name = "mine", correct = function(_, ctx) return ctx:evaluate(ctx.q) end }
    refused("this one has none", no_refresh, { batch_norm = "running" })
  end)
end)

describe("an evaluation", function()
  choose_executor(false)

  it("uses the running statistics, whatever the batch, and leaves them", function()
    local p = normed.problem { loss = function(model, theta, batch, ctx)
      local d = model(theta, batch.x, ctx) - batch.y
      return (d * d):mean()
    end }
    local opt = pg.optim.sgd { lr = 0.1 }
    local st = run(p, opt, start(p, opt), 8)
    local before, all = state_bytes(st), 0
    for k = 0, 3 do
      local batch = p.part(k)
      all = all + batch.x.shape[1] / p.n * p.evaluator:evaluate(st.theta, batch, { buffers = st.buffers })
    end
    local whole = p.evaluator:evaluate(st.theta, p.batch(0, 37), { buffers = st.buffers })
    assert(math.abs(all - whole) < 1e-14)
    local d = p.model(st.theta, p.part(0).x, { buffers = st.buffers }) - p.part(0).y
    assert.are.equal((d * d):mean():item(), (p.evaluator:evaluate(st.theta, p.part(0), { buffers = st.buffers })))
    -- in training mode it is a probe: by the statistics of the batch, with and without buffers
    local probe = p.evaluator:evaluate(st.theta, p.part(0), { train = true, buffers = st.buffers })
    assert.are.equal(probe, (p.evaluator:evaluate(st.theta, p.part(0), { train = true })))
    assert.are.equal(before, state_bytes(st))
  end)
end)

describe("batch norm of pg.nn", function()
  it("goes by the running statistics where ctx.batch_statistics is false, also while training, and leaves them",
    function()
      local model = pg.nn.sequential { pg.nn.batch_norm(3) }
      local theta, x = model:init(pg.key(1)), pg.randn(pg.key(2), { 5, 3 })
      local ctx = { train = true, buffers = model:init_buffers(), update_buffers = false, batch_statistics = false }
      assert.are.equal(model(theta, x, { buffers = ctx.buffers }):bytes(), model(theta, x, ctx):bytes())
      assert.is_nil(ctx.new_buffers)
      ctx.batch_statistics = true
      assert.are.equal(model(theta, x, { train = true }):bytes(), model(theta, x, ctx):bytes())
    end)
end)

describe("a state with buffers", function()
  choose_executor(false)

  for _, mode in ipairs { "batch", "running" } do
    local function make()
      return pg.optim.ivon_poco { lr = 0.1, ess = 37, h0 = 0.5, beta2 = 0.99, every = 3, batch_norm = mode }
    end

    it(("stopped between any two batches of a pass and continued elsewhere gives the same bits (%s)"):format(mode),
      function()
        local p = normed.problem()
        local straight = run(p, make(), start(p, make()), 8)
        for _, stop_at in ipairs { 1, 4, 6, 8, 11 } do
          local passed, opt, saved = 0, make(), nil
          local st = start(p, opt)
          repeat
            local _, info = opt:step(st, p.evaluator, p.part(st.step), nil, { on_pass = function(s)
              passed = passed + 1
              if passed < stop_at then return end
              saved = { tensors = {}, numbers = s:numbers() }
              for _, entry in ipairs(s:tensors()) do saved.tensors[entry[1]] = entry[2]:copy() end
              return false
            end })
          until info.suspended
          local other = make()
          local second = start(p, other)
          second:load(saved.tensors, saved.numbers)
          run(p, other, second, 8 - second.step)
          assert.are.equal(state_bytes(straight), state_bytes(second))
        end
      end)
  end

  it("lists them, and only then; neither kind takes the other's place", function()
    local p = normed.problem()
    local opt = pg.optim.sgd { lr = 0.1 }
    local with, without = start(p, opt), opt:init(p.theta0())
    local function listed(st)
      for _, entry in ipairs(st:tensors()) do if entry[1] == "buffers" then return true end end
      return false
    end
    assert.is_true(listed(with))
    assert.is_false(listed(without))
    local ok, message = pcall(with.load, with, without:tensors(), without:numbers())
    assert.is_false(ok)
    assert.matches("no tensor 'buffers'", message, 1, true)
    ok, message = pcall(without.load, without, with:tensors(), with:numbers())
    assert.is_false(ok)
    assert.matches("the saved state has buffers", message, 1, true)
  end)
end)
