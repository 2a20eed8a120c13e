-- Facts about batch sizes that change over a run: the tests by which they grow are those of the reference, a masked
-- batch is the batch it stands for, every epoch sees every example once, and what counts in examples counts right.
local support = require "support"
local pg, core = support.pg, support.core
local files = require "files"
local given_gradients = require "given_gradients"
local golden = dofile "tests/golden/rules_batches.lua"
local run = require "perigee.run"
local sizes = require "perigee.sampler_sizes"
local written = require "perigee.written"

local refusal = support.refusal

local linear, rows_of, batch_of = given_gradients.by_example, given_gradients.rows_of, given_gradients.batch_of
local still = pg.rule.sgd { lr = 0 }

-- The slot of a stage that tests, after one step on a batch.
local function ratio_of(batch, o, dtype, width)
  local stage = pg.stage.batch_test(o)
  local opt = pg.optimizer { rule = still, stages = { per_evaluation = { stage } } }
  local zeros = {}
  for i = 1, width do zeros[i] = 0 end
  local st = opt:init(support.flat(dtype, zeros))
  opt:step(st, linear, batch)
  return st.stages.per_evaluation[1].values.ratio:item()
end

describe("the test of a batch", function()
  local given = golden.special.batch_tests
  local want = given.result
  local B = 6
  local CASES = {
    norm = { want.T_norm, want.b_norm }, inner = { want.T_ip, want.b_ip },
    augmented = { math.max(want.T_ip, want.T_orth), want.b_aug }, coordinate = { want.T_coord, want.b_coord },
  }
  for test, case in pairs(CASES) do
    local o = { test = test, eta = given.eta, theta = given.theta, nu = given.nu }
    it(test .. " is that of the reference, as a function and in a step", function()
      local rows = rows_of(given.per_sample, B, "f64")
      assert(math.abs(pg.batch.test(rows, o) / case[1] - 1) < 1e-11)
      assert(math.abs(ratio_of(batch_of(rows), o, "f64", rows.shape[2]) / case[1] - 1) < 1e-11)
      local in_f32 = ratio_of(batch_of(rows_of(given.per_sample, B, "f32")), o, "f32", rows.shape[2])
      -- the coordinate that decides is 3e-4 of the others: its mean loses digits
      assert(math.abs(in_f32 / case[1] - 1) < (test == "coordinate" and 1e-2 or 1e-5), in_f32)
      local adaptive = pg.batch.adaptive { initial = 2, test = test }
      assert.are.equal(case[2], adaptive:grow(B, case[1], 1e6))
    end)

    it(test .. " of a masked batch is that of its examples", function()
      local rows = rows_of(given.per_sample, B, "f64")
      local batch = batch_of(rows)
      batch.sample_weight, batch.count = core.tensor("f64", { B }, { 0.25, 0, 0.25, 0.25, 0, 0.25 }), 4
      local kept = pg.take(rows, core.tensor("i64", { 4 }, { 0, 2, 3, 5 }))
      local found = ratio_of(batch, o, "f64", rows.shape[2])
      assert(math.abs(found / pg.batch.test(kept, o) - 1) < 1e-9, found)
    end)
  end

  it("lets sizes grow, to the largest, and never shrink", function()
    local adaptive = pg.batch.adaptive { initial = 4 }
    assert.are.equal(5, adaptive:grow(4, 4.0001, 100))
    assert.are.equal(4, adaptive:grow(4, 1, 100))
    assert.are.equal(100, adaptive:grow(4, math.huge, 100))
    assert.are.equal(4, adaptive:grow(4, 0 / 0, 100))
    -- equal gradients have no noise, all zeros neither
    assert.are.equal(0, pg.batch.test(pg.ones({ 3, 2 }, "f64")))
    assert.are.equal(0, pg.batch.test(pg.zeros({ 3, 2 }, "f64"), { test = "coordinate" }))
  end)

  it("is of the examples' gradients, whatever the model", function()
    local x, y = pg.randn(pg.key(1), { 7, 3 }, "f64"), core.tensor("i32", { 7 }, { 0, 1, 1, 0, 1, 0, 0 })
    local net = pg.nn.sequential { pg.nn.linear(3, 4), pg.nn.tanh(), pg.nn.linear(4, 2) }
    local eval = pg.evaluator { model = net, loss = function(model, theta, batch, ctx)
      return pg.cross_entropy(model(theta, batch.x, ctx), batch.y)
    end }
    local theta, list = net:init(pg.key(2), "f64"), {}
    local gradient = pg.grad(function(at, one, label) return pg.cross_entropy(net(at, one, {}), label) end)
    for i = 1, 7 do
      local g = gradient(theta, x:slice { i, i }, y:slice { i, i }):flat()
      list[i] = g:reshape(1, g.size)
    end
    local want_ratio = pg.batch.test(pg.concat(list, 1), { test = "augmented" })
    local opt = pg.optimizer { rule = still, stages = { per_evaluation = { pg.stage.batch_test {
      test = "augmented" } } } }
    local st = opt:init(theta)
    opt:step(st, eval, { x = x, y = y, id = core.tensor("i64", { 7 }, { 0, 1, 2, 3, 4, 5, 6 }) })
    assert(math.abs(st.stages.per_evaluation[1].values.ratio:item() / want_ratio - 1) < 1e-10)
  end)

  it("of some steps only leaves the others as they are, bit for bit, and costs nothing there", function()
    local rows = { rows_of(given.per_sample, B, "f64") }
    for k = 2, 6 do rows[k] = rows[k - 1] * 0.5 + 1 end
    local function follow(stages)
      local opt = pg.optimizer { rule = pg.rule.adam { lr = 0.1 }, stages = stages }
      local start = {}
      for i = 1, rows[1].shape[2] do start[i] = i end
      local st, seen = opt:init(support.flat("f64", start)), {}
      for k = 1, 6 do
        opt:step(st, linear, batch_of(rows[k]))
        seen[k] = { st.theta:bytes(), stages and st.stages.per_evaluation[1].values.ratio:item(), st.theta:totable() }
      end
      return seen, st.cost:gradients()
    end
    local tested, cost = follow { per_evaluation = { pg.stage.batch_test { interval = 3 } } }
    local plain, plain_cost = follow()
    assert.are.equal(plain[1][1], tested[1][1])
    assert.are.equal(plain[2][1], tested[2][1]) -- the third and the sixth are tested
    for k = 1, 6 do assert(support.difference(tested[k][3], plain[k][3]) < 1e-12) end
    assert.are.same({ 0, 0 }, { tested[1][2], tested[2][2] })
    assert(math.abs(tested[3][2] / pg.batch.test(rows[3]) - 1) < 1e-10)
    assert.are.same({ tested[3][2], tested[3][2] }, { tested[4][2], tested[5][2] })
    assert(math.abs(tested[6][2] / pg.batch.test(rows[6]) - 1) < 1e-10)
    assert.are.equal(plain_cost, cost)
  end)

  it("refuses what it cannot be taken of", function()
    assert.matches('test is "norm"', refusal(pg.batch.test, pg.zeros { 3, 2 }, { test = "all" }))
    assert.matches("at least two examples", refusal(pg.batch.test, pg.zeros { 1, 2 }))
    assert.matches("initial is a whole number, at least 2", refusal(pg.batch.adaptive, { initial = 1 }))
    assert.matches("max is a whole number, at least 8", refusal(pg.batch.adaptive, { initial = 8, max = 4 }))
    assert.matches('did you mean', refusal(pg.batch.adaptive, { initial = 8, intervall = 4 }))
  end)
end)

describe("AdAdaGrad", function()
  for _, case in ipairs(golden.cases) do
    for _, dtype in ipairs { "f64", "f32" } do
      it(("reproduces %s in %s: parameters and batch sizes"):format(case.id, dtype), function()
        local h, problem = case.hyper, golden.problems[case.problem]
        local layout = support.layout(problem.shapes)
        local rule = h.norm and pg.rule.adagrad_norm { lr = h.lr, initial = h.v0 }
          or pg.rule.adagrad { lr = h.lr, eps = h.eps }
        local adaptive = pg.batch.adaptive { initial = h.b0, eta = h.eta, test = h.test, interval = h.interval }
        local opt = pg.optimizer { rule = rule, stages = { per_evaluation = { adaptive.stage } } }
        local st, size = opt:init(support.vector(layout, dtype, problem.init)), h.b0
        local bound = dtype == "f64" and 1e-12 or math.max(1e-5, 20 * case.float32_drift)
        for k, step in ipairs(case.steps) do
          assert.are.equal(step.inputs.batch, size)
          opt:step(st, linear, batch_of(rows_of(step.inputs.per_sample, size, dtype)))
          size = adaptive:grow(size, st.stages.per_evaluation[1].values.ratio:item(), h.bmax)
          assert.are.equal(step.extra.batch, size, "after step " .. k)
          local d = support.difference(st.theta:totable(), step.params)
          assert(d <= bound, ("step %d: off by %g"):format(k, d))
        end
      end)
    end
  end
end)

-- ---- in a run -------------------------------------------------------------------------------------------------------

local N = 100
local x = pg.randn(pg.key(1), { N, 5 }, "f64")
local y = (x:sum(2) + pg.randn(pg.key(2), { N }, "f64")):gt(0):to("i32")
local data = pg.data.from { x = x, y = y }
local net = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.tanh(), pg.nn.dropout(0.3), pg.nn.linear(4, 2) }

local function loss(model, theta, batch, ctx)
  return pg.cross_entropy(model(theta, batch.x, ctx), batch.y)
end

local function train(batch, more)
  local spec = { model = net, data = { train = data, test = data }, loss = loss, batch = batch, out = false,
    optimizer = pg.optim.sgd { lr = 0.3 }, dtype = "f64", log_every = 1,
    epochs = not (more and (more.steps or more.budget)) and 3 or nil }
  for name, value in pairs(more or {}) do spec[name] = value end
  return pg.train(spec)
end

-- Sizes of the steps of a sampler until an epoch count is reached, and the ids by epoch.
local function go_through(sampler, epochs)
  local found, seen, step = {}, {}, 0
  while sampler:seen(step) < epochs * N do
    local batch, epoch = sampler:at(step)
    local weights, ids = batch.sample_weight and batch.sample_weight:totable(), batch.id:totable()
    found[step + 1] = batch.count or #ids
    seen[epoch] = seen[epoch] or {}
    for i, id in ipairs(ids) do
      if not weights or weights[i] > 0 then
        assert.is_nil(seen[epoch][id])
        seen[epoch][id] = true
        if weights then assert(math.abs(weights[i] * batch.count - 1) < 1e-12) end
      end
    end
    step = step + 1
  end
  return found, seen
end

describe("batch = a schedule", function()
  it("gives the sizes it says, each example once an epoch, with plans of their own or masked", function()
    for _, case in ipairs { { function(step) return 10 + 5 * (step % 3) end, "exact" },
      { function(step) return 7 + step end, "buckets" } } do
      local sampler = sizes.by_schedule(data, pg.key(3), "f64", case[1], { samples = 3 * N })
      assert.is_truthy(sampler[case[2]])
      local found, seen = go_through(sampler, 3)
      local at = 0
      for k, count in ipairs(found) do
        assert.are.equal(math.min(case[1](k - 1), N - at % N), count)
        at = at + count
      end
      assert.are.equal(#found, sampler.total_steps)
      for epoch = 0, 2 do assert.are.equal(N, #support.sorted_names(seen[epoch])) end
      -- a function of the step, whatever was asked before
      local again = sizes.by_schedule(data, pg.key(3), "f64", case[1], { samples = 3 * N })
      assert.are.same(again:at(5).id:totable(), sampler:at(5).id:totable())
    end
  end)

  it("masked trains as batches of those sizes do", function()
    local function size(step) return 9 + step end
    local result = train(size, { steps = 12 })
    local sampler = sizes.by_schedule(data, pg.key(1), "f64", size, { steps = 12 })
    assert.is_truthy(sampler.buckets)
    local opt = pg.optim.sgd { lr = 0.3 }
    local st = opt:init(net:init(pg.key(1):fold("init"), "f64"), pg.key(1):fold("optimizer"))
    local eval = pg.evaluator { model = net, loss = loss, key = st.key }
    for k = 0, 11 do
      local batch, epoch = sampler:at(k)
      local indices, weights = {}, batch.sample_weight:totable()
      for i, id in ipairs(batch.id:totable()) do if weights[i] > 0 then indices[#indices + 1] = id end end
      opt:step(st, eval, data:batch(indices, nil, "f64"), st.key, { epoch = epoch })
    end
    assert(support.difference(result.theta:totable(), st.theta:totable()) < 1e-12)
    assert.are.equal(st.cost:gradients(), result.cost:gradients())
  end)

  it("of one size is that number, bit for bit", function()
    assert.are.equal(train(16).theta:bytes(), train(function() return 16.9 end).theta:bytes())
  end)

  it("ends after its epochs, steps or gradients, evaluates by epochs and logs sizes", function()
    local epochs = {}
    local size = pg.schedule.by_samples { of = pg.schedule.step { from = 10, factor = 2, every = pg.epochs(1) } }
    local result = train(size, { hooks = { on_epoch = function(_, epoch) epochs[#epochs + 1] = epoch end } })
    assert.are.same({ 1, 2, 3 }, epochs)
    assert.are.equal(10 + 5 + 3, result.steps)
    assert.are.equal(3 * N, result.cost:gradients())
    assert.are.equal(3, #result:curve("loss", "step", "test", "test").x)
    local logged = table.move(result:curve("batch", "step").y, 9, 18, 1, {})
    assert.are.same({ 10, 10, 20, 20, 20, 20, 20, 40, 40, 20 }, logged)
    assert.are.equal(7, train(size, { steps = 7 }).steps)
    assert.are.equal(140, train(size, { budget = { gradients = 125 } }).cost:gradients()) -- 10 of 10, 2 of 20
  end)

  it("goes with batch norm where few sizes occur, and says why not where they are masked", function()
    local normed = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.batch_norm(4), pg.nn.linear(4, 2) }
    assert.is_truthy(train(function(step) return step < 5 and 10 or 20 end, { model = normed }).buffers)
    assert.matches("batch norm", refusal(train, function(step) return 9 + step end, { model = normed }))
  end)

  it("corrects by passes as ever", function()
    local svrg = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, correction = pg.correction.svrg { every = 4 } }
    local result = train(function(step) return 9 + step end, { optimizer = svrg, steps = 8 })
    assert.are.equal(2 * N, result.cost.passes)
    assert.matches("epoch has no length in steps.*by_samples", refusal(train, function() return 9 end,
      { optimizer = pg.optim.svrg { lr = 0.1, every = pg.epochs(1) } }))
    assert.matches("locks the partition.*batch draws each batch afresh", refusal(train, function() return 9 end,
      { optimizer = pg.optim.svrg { lr = 0.1, every = 3, lock = { partition = true } } }))
  end)

  it("is told what a schedule may not give", function()
    assert.matches("gave 0 examples at step 2", refusal(train, function(step) return 2 - step end))
    assert.matches("batch must be a whole number.*a schedule or pg.batch.adaptive", refusal(train, "many"))
  end)
end)

describe("schedules that count examples", function()
  local function values(batch, schedule, more)
    local list = {}
    local rule = pg.rule.define { name = "probe", hyper = { lr = 0 }, update = function(p, _, _, o)
      return p * 0 + o.lr
    end }
    local spec = { optimizer = pg.optimizer { rule = rule { lr = schedule } },
      hooks = { on_step = function(ctx) list[#list + 1] = ctx.theta:totable()[1] end } }
    for name, value in pairs(more or {}) do spec[name] = value end
    train(batch, spec)
    return list
  end
  local count = pg.schedule.by_samples { of = function(samples) return samples end }

  it("see how many the steps before have seen", function()
    assert.are.same({ 0, 30, 60, 90, 100, 130 }, values(30, count, { steps = 6 }))
    local rising = values(function(step) return 10 * (step + 1) end, count, { steps = 6 })
    assert.are.same({ 0, 10, 30, 60, 100, 150 }, rising)
    local poisson, list = pg.sampler.poisson { batch = 9 }, { 0 }
    local sampler = poisson:bind(data, pg.key(1), "f64")
    for k = 0, 4 do list[k + 2] = list[k + 1] + sampler:at(k).count end
    assert.are.same(list, values(nil, count, { sampler = poisson, steps = 6 }))
  end)

  it("take an epoch for the data, and the whole run for its examples", function()
    local line = pg.schedule.by_samples { of = pg.schedule.linear { from = 0, to = 1, over = pg.whole_run } }
    local list = values(25, line)
    for k, value in ipairs(list) do assert(math.abs(value - (k - 1) / 12) < 1e-14) end
    local list_2 = values(function(step) return step < 2 and 50 or 100 end, line)
    assert(support.difference(list_2, { 0, 1 / 6, 1 / 3, 2 / 3 }) < 1e-14)
    local drop = pg.schedule.by_samples { of = pg.schedule.step { from = 1, factor = 0.5, every = pg.epochs(1) } }
    assert.are.same({ 1, 1, 0.5, 0.25 }, values(function(step) return step < 2 and 50 or 100 end, drop))
  end)

  it("are written down and read back", function()
    local line = pg.schedule.by_samples { of = pg.schedule.linear { from = 0, to = 1, over = pg.epochs(2) } }
    local text = assert(written.encode(line))
    local units = { samples = 50, examples = 100 }
    assert.are.equal(line(3, units), written.decode(text)(3, units))
    assert.matches("how many examples were seen", refusal(line, 3))
  end)
end)

describe("batch = pg.batch.adaptive", function()
  local root
  before_each(function() root = support.begin_runs() end)
  after_each(function() support.end_runs(root) end)

  local growing = pg.batch.adaptive { initial = 8, max = 64, eta = 0.8, interval = 2 }

  it("grows by the test on the step's own batch", function()
    local result = train(growing, { optimizer = pg.optim.adagrad { lr = 0.1 } })
    local list = result:curve("batch", "step").y
    assert.are.same({ 8, 8 }, { list[1], list[2] })
    assert.are.equal(3 * N, result.cost:gradients())
    local at, largest = 0, 8
    for _, count in ipairs(list) do
      assert(count >= math.min(largest, N - at % N) // 2) -- the rest of an epoch divided evenly
      largest, at = math.max(largest, count), at + count
    end
    assert(largest > 16 and largest <= 64, largest)
    -- the first decision is that of the gradients of steps 1 and 2, taken one by one
    local sampler = sizes.by_test(data, pg.key(1), "f64", growing)
    local opt = pg.optim.adagrad { lr = 0.1 }
    local st = opt:init(net:init(pg.key(1):fold("init"), "f64"), pg.key(1):fold("optimizer"))
    local eval = pg.evaluator { model = net, loss = loss, key = st.key }
    opt:step(st, eval, sampler:at(0), st.key, { epoch = 0 })
    sampler.state.seen = 8
    local rows, ids = {}, {}
    local batch = sampler:at(1)
    local weights = batch.sample_weight:totable()
    for i, id in ipairs(batch.id:totable()) do if weights[i] > 0 then ids[#ids + 1] = id end end
    for i, id in ipairs(ids) do
      local one = pg.optimizer { rule = pg.rule.sgd { lr = 1 } }
      local from = one:init(st.theta, st.key)
      one:step(from, eval, data:batch({ id }, nil, "f64"), st.key, { epoch = 0 })
      local g = (st.theta - from.theta):flat()
      rows[i] = g:reshape(1, g.size)
    end
    assert.are.equal(growing:grow(8, pg.batch.test(pg.concat(rows, 1), { eta = 0.8 }), 64), list[3])
  end)

  it("goes on from a crash bit for bit", function()
    local function make(name, stop)
      return train(growing, { name = name, out = root .. "/" .. name, checkpoint_every = { steps = 2 },
        optimizer = pg.optim.adagrad { lr = 0.1 },
        hooks = { on_step = function(ctx) if ctx.step == stop then error("crash") end end } })
    end
    local whole = make("whole")
    for _, stop in ipairs { 3, 5 } do
      run.end_invocation()
      run.begin_invocation { source = "-- a recipe", root = root }
      local name = "crash" .. stop
      assert.is_false(pcall(make, name, stop))
      local found = assert(run.read_settings(root .. "/" .. name))
      run.end_invocation()
      run.begin_invocation { source = found.source, root = root, resume = found.resume }
      local resumed = make(name)
      assert.equal(whole.theta:bytes(), resumed.theta:bytes())
      assert.same(whole.history, resumed.history)
    end
  end)

  it("stands up to `perigee check`", function()
    local path, runs = root .. ".lua", root .. "-check"
    files.write(path, [[
      local pg = require "perigee"
      local x = pg.randn(pg.key(1), { 60, 5 })
      local data = pg.data.from { x = x, y = x:sum(2):gt(0):to("i32") }
      local net = pg.nn.sequential { pg.nn.linear(5, 2) }
      local function loss(model, theta, batch, ctx) return pg.cross_entropy(model(theta, batch.x, ctx), batch.y) end
      pg.train { name = "adaptive", model = net, data = data, batch = pg.batch.adaptive { initial = 4, eta = 0.5 },
        epochs = 2, optimizer = pg.optim.adagrad { lr = 0.1 }, loss = loss }
      pg.train { name = "scheduled", model = net, data = data, batch = function(step) return 4 + 4 * step end,
        epochs = 2, optimizer = pg.optim.svrg { lr = 0.1, every = 4 }, loss = loss }
    ]])
    local perigee = os.getenv "PERIGEE" or "build/perigee"
    local pipe = assert(io.popen(("%s check --runs %s %s 2>&1"):format(perigee, runs, path)))
    local text = pipe:read("a")
    assert(pipe:close(), text)
    assert.are.equal(4, select(2, text:gsub("ok  ", "")), text)
    os.execute(("rm -rf '%s' '%s'"):format(path, runs))
  end)

  it("ends by steps or by a budget too, and refuses a length in steps that it does not know", function()
    assert.are.equal(5, train(growing, { steps = 5 }).steps)
    local cost = train(growing, { budget = { gradients = 150 } }).cost:gradients()
    assert(cost >= 150 and cost < 150 + 64, cost)
    assert.matches("length of the run is not known", refusal(train, growing, { optimizer = pg.optim.sgd {
      lr = pg.schedule.cosine { peak = 1 } } }))
    assert.matches("correction svrg evaluates several", refusal(train, growing, { optimizer = pg.optim.svrg {
      lr = 1, every = 3 } }))
    assert.matches("micro = 1", refusal(train, growing, { micro = 2 }))
    local normed = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.batch_norm(4), pg.nn.linear(4, 2) }
    assert.matches("batch norm", refusal(train, growing, { model = normed }))
  end)

  it("leaves an optimizer as it was for the next run", function()
    local opt = pg.optim.sgd { lr = pg.schedule.step { from = 0.3, factor = 0.5, every = pg.epochs(1) } }
    local before = train(20, { optimizer = opt }).theta:bytes()
    assert.matches("by_samples", refusal(train, function() return 20 end, { optimizer = opt }))
    assert.are.equal(before, train(20, { optimizer = opt }).theta:bytes())
  end)
end)

describe("pg.batch.regime", function()
  it("keeps the number of updates and scales the step by the root of the ratio", function()
    local r = pg.batch.regime { from = 128, to = 4096, lr = 0.1, epochs = 200, milestones = { 81, pg.epochs(122) } }
    assert.are.equal(32, r.ratio)
    assert(math.abs(r.lr - 0.1 * math.sqrt(32)) < 1e-15)
    assert.are.equal(6400, r.epochs)
    assert.are.equal(2592, r.milestones[1])
    assert.are.equal(122 * 32, pg.schedule.resolve_steps(r.milestones[2], { steps_per_epoch = 1 }))
    assert.are.equal(3, pg.batch.regime { from = 100, to = 250 }.ratio)
    -- 50,000 examples: as many updates
    assert.are.equal(math.floor(50000 / 128 * 200), math.floor(50000 / 4096 * r.epochs))
    assert.matches("from is a number of examples", refusal(pg.batch.regime, { to = 3 }))
    assert.matches("a milestone is a number", refusal(pg.batch.regime, { from = 1, to = 3, milestones = { "x" } }))
  end)
end)
