-- Facts about tables of statistics: rows for each example average to the batch's statistics; SAGA and SAG do what their
-- formulas say; cotangents of linear models hold the same as whole gradients; caches of snapshots change no bit; all of
-- it is resumed bit for bit, lies in memory or in a file, and goes away.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/corrections.lua"
local correction, rule = pg.correction, pg.rule

local function golden_problem(batch)
  return problems.logistic { X = golden.X, y = golden.y, lam = golden.lam, w0 = golden.w0, batch = batch }
end

local function optimizer(c, more)
  return pg.optimizer { rule = rule.sgd { lr = 0.2 }, correction = c, weight_decay = more and more.weight_decay,
    family = more and more.family, stages = more and more.stages }
end

-- n of `classes` labels, i64.
local function labels(key, n, classes) return (pg.uniform(key, { n }) * classes):floor():to("i64") end

-- A classifier of 3 classes with `n` examples; hidden: the width of a layer between, none for a linear model.
local function classifier(n, hidden, options)
  local x = pg.randn(pg.key(3), { n, 6 }, { dtype = "f64" })
  local y = labels(pg.key(4), n, 3)
  local layers = hidden and { pg.nn.linear(6, hidden), pg.nn.tanh(), pg.nn.dropout(0.3), pg.nn.linear(hidden, 3) }
    or { pg.nn.linear(6, 3) }
  if options and options.norm then table.insert(layers, 2, pg.nn.batch_norm(hidden)) end
  local model = pg.nn.sequential(layers)
  local source = pg.evaluator.memory { x = x, y = y }
  local evaluator = pg.evaluator {
    model = model, source = source, batch = options and options.batch, key = pg.key(9),
    loss = options and options.loss or function(net, theta, batch, ctx)
      local z = net(theta, batch.x, ctx)
      return pg.cross_entropy(z, batch.y), z:mean()
    end,
  }
  local function batch(k, b)
    local rows = {}
    for i = 1, b do rows[i] = (k * b + i - 1) % n end
    return source:take(core.tensor("i64", { b }, rows))
  end
  return { model = model, evaluator = evaluator, batch = batch, n = n, theta = model:init(pg.key(5), "f64"),
    buffers = options and options.norm and model:init_buffers("f64") or nil }
end

-- Make steps, batch number k from `first` on; f(st, k) after each.
local function follow(opt, st, p, first, last, b, f)
  for k = first, last do
    opt:step(st, p.evaluator, p.batch(k, b))
    if f then f(st, k) end
  end
  return st
end

local refusal = support.refusal

describe("statistics for each example", function()
  -- A correction that keeps what a table-less ctx:rows gives, and how far its mean is from the batch's statistics.
  local function compare(p, more, b)
    local probe = correction.define {
      name = "compare", state = { off = pg.scalar(0), size = pg.scalar(0) },
      correct = function(s, ctx)
        local now, rows = ctx:evaluate(ctx.q), ctx:rows(ctx.q)
        local mean = ctx:mean(rows)
        local off, size = 0, 0
        for _, field in ipairs { "g", "h", "H" } do
          if rawget(now, field) then
            local d = mean[field] - now[field]
            off, size = off + (d * d):sum(), size + (now[field] * now[field]):sum()
          end
        end
        s.off, s.size = off, size
        return now
      end,
    }
    local opt = optimizer(probe, more)
    local st = opt:init(p.theta)
    opt:step(st, p.evaluator, p.batch(0, b))
    assert.is_true(st.memory.values.size:item() > 1e-6)
    return math.sqrt(st.memory.values.off:item() / st.memory.values.size:item())
  end

  it("average to the batch's, with dropout and several layers", function()
    assert.is_true(compare(classifier(20, 5), nil, 7) < 1e-14)
  end)

  it("do so for noise and curvature too", function()
    local exact = pg.family.diagonal { ess = 20, h0 = 0.5 }
    assert.is_true(compare(classifier(20, 4), { family = exact }, 5) < 1e-13)
  end)

  it("are refused with batch norm, and without ids", function()
    local p = classifier(20, 5, { norm = true })
    local opt = optimizer(correction.saga {})
    local st = opt:init(p.theta, nil, p.buffers)
    assert.matches("batch norm.*per = \"batch\"", refusal(opt.step, opt, st, p.evaluator, p.batch(0, 5)))
    p = classifier(20)
    opt = optimizer(correction.saga {})
    local batch = p.batch(0, 5)
    batch.id = nil
    assert.matches("need ids", refusal(opt.step, opt, opt:init(p.theta), p.evaluator, batch))
  end)
end)

describe("saga and sag", function()
  it("are gradient descent where the batch is all the data", function()
    for _, c in ipairs { correction.saga {}, correction.sag {}, correction.saga { per = "batch" } } do
      local p = golden_problem(golden.n)
      local opt, plain = optimizer(c), optimizer()
      local st, other = opt:init(p.theta0()), plain:init(p.theta0())
      for k = 0, 9 do
        opt:step(st, p.evaluator, p.cyclic(k, golden.n))
        plain:step(other, p.evaluator, p.cyclic(k, golden.n))
      end
      assert.is_true(support.difference(st.theta:totable(), other.theta:totable()) < 1e-13)
    end
  end)

  -- Both by hand: n rows, batches of b, in plain Lua. biased: SAG's direction.
  local function by_hand(steps, b, biased)
    local n, d, lam, w, T, mean = golden.n, golden.d, golden.lam, { table.unpack(golden.w0) }, {}, {}
    local function gradient(i)
      local x, y, m, g = golden.X[i], golden.y[i], 0, {}
      for j = 1, d do m = m + x[j] * w[j] end
      for j = 1, d do g[j] = lam * w[j] - y * x[j] / (1 + math.exp(y * m)) end
      return g
    end
    for j = 1, d do mean[j] = 0 end
    for i = 1, n do
      T[i] = gradient(i)
      for j = 1, d do mean[j] = mean[j] + T[i][j] / n end
    end
    for k = 0, steps - 1 do
      local change, now = {}, {}
      for j = 1, d do change[j] = 0 end
      for r = 1, b do
        local i = (k * b + r - 1) % n + 1
        now[i] = gradient(i)
        for j = 1, d do change[j] = change[j] + (now[i][j] - T[i][j]) / b end
      end
      for i, g in pairs(now) do T[i] = g end
      for j = 1, d do
        local after = mean[j] + b / n * change[j]
        w[j] = w[j] - 0.2 * (biased and after or mean[j] + change[j])
        mean[j] = after
      end
    end
    return w
  end

  it("follow their formulas: sag by hand, also with rebuilt means", function()
    for _, case in ipairs { { "sag", true }, { "saga", false } } do
      local p = golden_problem(64)
      local opt = optimizer(correction[case[1]] { rebuild = true, every = 7 })
      local st = opt:init(p.theta0())
      for k = 0, 29 do opt:step(st, p.evaluator, p.cyclic(k, 16)) end
      assert.is_true(support.difference(st.theta:totable(), by_hand(30, 16, case[2])) < 1e-12)
      assert.are.equal(golden.n + 30 * 16, st.cost:gradients())
      assert.are.equal(1, st.segment)
    end
  end)

  it("rebuild a mean that has drifted", function()
    local p = golden_problem(64)
    local opt = optimizer(correction.saga { rebuild = true, every = 4 })
    local st = opt:init(p.theta0())
    for k = 0, 3 do opt:step(st, p.evaluator, p.cyclic(k, 16)) end
    local g = st.memory.values.mean.g
    local wanted = g:totable()
    g:data_write(2, g:data_read(2) + 0.5)
    opt:step(st, p.evaluator, p.cyclic(0, 16)) -- a step at the rows it has: changes them, after the mean is right
    local T, n = st.memory.table.tensors.g, golden.n
    for j = 0, golden.d - 1 do
      local sum = 0
      for i = 0, n - 1 do sum = sum + T:data_read(i * golden.d + j) end
      assert.is_true(math.abs(sum / n - g:data_read(j)) < 1e-14)
    end
    assert.is_true(support.difference(g:totable(), wanted) < 0.1)
  end)

  it("keep a row for each batch of a fixed partition, the short last one weighted by its count", function()
    local p = classifier(23, 4, { batch = 5 })
    local order = {}
    local function batch(k)
      local first, rows = k % 5 * 5, {}
      for i = first, math.min(first + 4, 22) do rows[#rows + 1] = i end
      return p.evaluator.source:take(core.tensor("i64", { #rows }, rows))
    end
    local opt = optimizer(correction.saga { per = "batch" })
    local st = opt:init(p.theta)
    for k = 0, 12 do
      opt:step(st, p.evaluator, batch(k))
      order[k] = st.memory.table.known
    end
    assert.are.equal(5, st.memory.table.n)
    assert.are.equal(5, order[12])
    local T, mean, width = st.memory.table.tensors.g, st.memory.values.mean.g:flat(), p.theta.size
    for j = 0, width - 1 do
      local sum = 0
      for k = 0, 4 do sum = sum + T:data_read(k * width + j) * (k < 4 and 5 or 3) / 23 end
      assert.is_true(math.abs(sum - mean:data_read(j)) < 1e-14)
    end
    assert.matches("none of the 5", refusal(opt.step, opt, st, p.evaluator, p.batch(0, 4)))
  end)

  it("begin with zeros if asked, without a pass", function()
    local p = golden_problem(64)
    local opt = optimizer(correction.saga { fill = "zeros" })
    local st = opt:init(p.theta0())
    opt:step(st, p.evaluator, p.cyclic(0, 16))
    assert.are.equal(16, st.cost:gradients())
    local plain = optimizer()
    local other = plain:init(p.theta0())
    plain:step(other, p.evaluator, p.cyclic(0, 16))
    assert.is_true(support.difference(st.theta:totable(), other.theta:totable()) < 1e-15)
  end)

  it("keep {g, h} of a family that evaluates at the mean, and refuse one that does not", function()
    local quiet = pg.family.diagonal { ess = 20, h0 = 0.5, noise = false, hess_approx = "gradsq" }
    local p = classifier(20, 4)
    local opt = pg.optimizer { family = quiet, rule = rule.ivon { lr = 0.1 }, correction = correction.saga {} }
    local st = follow(opt, opt:init(p.theta), p, 0, 8, 4)
    assert.are.same({ "g", "h" }, st.memory.table.fields)
    for _, x in ipairs(st.theta:totable()) do assert.is_true(x == x) end
    local full = pg.family.full { ess = 20, h0 = 0.5, beta2 = 0.9, noise = false }
    opt = pg.optimizer { family = full, rule = rule.newton { lr = 0.1 }, correction = correction.saga {} }
    p = classifier(20)
    st = follow(opt, opt:init(p.theta), p, 0, 8, 4)
    assert.are.same({ 20, 21 * 21 }, st.memory.table.tensors.H.shape)
    for _, x in ipairs(st.theta:totable()) do assert.is_true(x == x) end
    for _, family in ipairs { pg.family.diagonal { ess = 20 }, pg.family.isotropic { sigma = 0.1 } } do
      assert.matches("noise of other steps, which never cancels", refusal(optimizer, correction.saga {},
        { family = family }))
    end
  end)

  it("do not stand alone, without a model", function()
    assert.matches("rows of statistics", refusal(correction.saga.init, correction.saga,
      { mean = golden_problem(64).theta0() }))
  end)

  it("refuse an example that stands twice in a batch, and one that the data does not have", function()
    local p = golden_problem(64)
    local opt = optimizer(correction.saga {})
    local st = opt:init(p.theta0())
    opt:step(st, p.evaluator, p.cyclic(0, 3))
    local before, batch = support.state_bytes(st), p.batch { 1, 2, 3 }
    assert.matches("index 7 occurs twice", refusal(opt.step, opt, st, p.evaluator, p.batch { 7, 2, 7 }))
    batch.id:data_write(1, 200)
    assert.matches("200 at position 1 is outside 0", refusal(opt.step, opt, st, p.evaluator, batch))
    assert.are.equal(before, support.state_bytes(st))
  end)
end)

describe("a part of the data", function()
  it("has rows for its own examples, whatever their ids", function()
    local whole = pg.data.from { x = pg.randn(pg.key(1), { 40, 6 }), y = labels(pg.key(2), 40, 3) }
    local chosen = {}
    for i = 1, 20 do chosen[i] = 40 - 2 * i end
    local part = whole:select(chosen)
    local copy = pg.data.from { x = part:all().x, y = part:all().y } -- the same examples with ids from 0
    local results = {}
    for i, split in ipairs { part, copy } do
      local run = pg.train {
        name = "part", out = false, data = split, model = pg.nn.linear(6, 3), batch = 6, epochs = 3, seed = 3,
        loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
        optimizer = optimizer(correction.saga {}),
      }
      results[i] = run.theta:bytes()
      assert.are.equal(20, run.state.memory.table.n)
    end
    assert.are.equal(results[2], results[1])
  end)
end)

describe("linear = true", function()
  local function run(given, steps, options)
    local p = classifier(40, nil, options)
    local opt = optimizer(correction.saga(given), { weight_decay = 1e-3 })
    local st = opt:init(p.theta)
    return follow(opt, st, p, 0, steps - 1, 8), p
  end

  it("keeps as many numbers as the model has outputs, and gives the same to rounding along 50 steps", function()
    local full, linear = run({}, 50), run({ linear = true }, 50)
    assert.are.same({ 40, 21 }, full.memory.table.tensors.g.shape)
    assert.are.same({ 40, 3 }, linear.memory.table.tensors.g.shape)
    assert.is_true(support.difference(linear.theta:totable(), full.theta:totable()) < 1e-12)
    assert.are.equal(full.cost:gradients(), linear.cost:gradients())
  end)

  it("rebuilds its mean by pulling the rows back", function()
    local kept, rebuilt = run({ linear = true }, 50), run({ linear = true, rebuild = true, every = 3 }, 50)
    assert.is_true(support.difference(rebuilt.theta:totable(), kept.theta:totable()) < 1e-12)
  end)

  it("keeps one number for an example of binary logistic regression, in f32 too", function()
    for _, dtype in ipairs { "f32", "f64" } do
      local x = pg.randn(pg.key(1), { 30, 4 }, { dtype = dtype })
      local y = labels(pg.key(2), 30, 2):to(dtype)
      local model = pg.nn.linear(4, 1)
      local source = pg.evaluator.memory { x = x, y = y }
      local evaluator = pg.evaluator { model = model, source = source, loss = function(net, theta, batch, ctx)
        return pg.binary_cross_entropy_with_logits(net(theta, batch.x, ctx):squeeze(2), batch.y)
      end }
      local opt = optimizer(correction.saga { linear = true })
      local st = opt:init(model:init(pg.key(3), dtype))
      for k = 0, 5 do opt:step(st, evaluator, source:take(core.tensor("i64", { 3 }, { k, k + 6, k + 12 }))) end
      assert.are.same({ 30, 1 }, st.memory.table.tensors.g.shape)
    end
  end)

  it("refuses models that are not linear, losses that see theta elsewhere, and stages", function()
    local p = classifier(20, 4)
    local opt = optimizer(correction.saga { linear = true })
    assert.matches("not linear in theta", refusal(opt.step, opt, opt:init(p.theta), p.evaluator, p.batch(0, 5)))
    local function decayed(net, theta, batch, ctx)
      return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) + 0.05 * (theta * theta):sum()
    end
    assert.matches("weight decay belongs", refusal(run, { linear = true }, 1, { loss = decayed }))
    p = classifier(20)
    opt = optimizer(correction.saga { linear = true }, { stages = { per_evaluation = { pg.stage.clip { norm = 1 } } } })
    assert.matches("stages.per_evaluation", refusal(opt.step, opt, opt:init(p.theta), p.evaluator, p.batch(0, 5)))
  end)
end)

-- Corrections with a snapshot, cached and not, on batches of a locked partition.
local SNAPSHOTS = {
  svrg = function(more)
    return correction.svrg { alpha = 0.8, every = 6, cache = more, lock = { partition = true } }
  end,
  alpha_svrg = function(more)
    return correction.alpha_svrg { estimate = "tensor", every = 6, cache = more, lock = { partition = true } }
  end,
  lsvrg = function(more) return correction.lsvrg { p = 0.3, cache = more, lock = { partition = true } } end,
  adasvrg = function(more) return correction.adasvrg { every = 6, cache = more, lock = { partition = true } } end,
  svrg_bb = function(more)
    return correction.svrg_bb { eta0 = 0.3, every = 6, cache = more, lock = { partition = true } }
  end,
}

-- The same partition in every epoch: 23 examples in batches of 5.
local function partitioned(options)
  local p = classifier(23, 4, { batch = 5, norm = options and options.norm })
  function p.batch(k)
    local first, rows = k % 5 * 5, {}
    for i = first, math.min(first + 4, 22) do rows[#rows + 1] = i end
    return p.evaluator.source:take(core.tensor("i64", { #rows }, rows))
  end
  return p
end

describe("caches of snapshots", function()
  for _, name in ipairs(support.sorted_names(SNAPSHOTS)) do
    it(name .. ": the same bits as evaluating again, for one gradient a step", function()
      local results, costs, passes = {}, {}, {}
      for i, cache in ipairs { false, "memory", "file" } do
        local p = partitioned()
        local opt = optimizer(SNAPSHOTS[name](cache))
        local st = follow(opt, opt:init(p.theta), p, 0, 19)
        results[i], costs[i], passes[i] = support.state_bytes(st), st.cost.steps, st.cost.passes
      end
      assert.are.equal(results[1], results[2])
      assert.are.equal(results[1], results[3])
      assert.are.same({ 2 * 92, 92, 92 }, costs)
      assert.are.equal(passes[1], passes[2])
    end)
  end

  it("the same bits with batch norm, and with noise that is fixed for a segment", function()
    local fixed = pg.family.diagonal { ess = 23, h0 = 0.5 }
    for _, case in ipairs { { norm = true }, { family = fixed } } do
      local results = {}
      for i, cache in ipairs { false, "memory" } do
        local p = partitioned(case)
        local c = correction.svrg { every = 5, cache = cache, noise = "fixed", lock = { partition = true } }
        local opt = pg.optimizer { family = case.family, correction = c, rule = rule.sgd { lr = 0.1 } }
        local st = opt:init(p.theta, nil, p.buffers)
        results[i] = support.state_bytes(follow(opt, st, p, 0, 14))
      end
      assert.are.equal(results[1], results[2])
    end
  end)

  it("go through batches of a trainer's steps, whatever the period", function()
    local split = pg.data.from { x = pg.randn(pg.key(1), { 50, 6 }), y = labels(pg.key(2), 50, 3) }
    local results = {}
    for i, cache in ipairs { false, "memory" } do
      for _, every in ipairs { pg.epochs(1), 4 } do
        local run = pg.train {
          name = "cached", out = false, data = split, model = pg.nn.sequential { pg.nn.linear(6, 4), pg.nn.relu(),
            pg.nn.dropout(0.2), pg.nn.linear(4, 3) }, batch = 8, epochs = 3, seed = 3,
          loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
          optimizer = pg.optimizer { rule = rule.sgd { lr = 0.1 },
            correction = correction.svrg { every = every, cache = cache, lock = { partition = true } } },
        }
        results[i] = (results[i] or "") .. run.theta:bytes()
      end
    end
    assert.are.equal(results[1], results[2])
  end)

  it("lock the partition and refuse what they could not keep", function()
    assert.is_true(correction.svrg { cache = "memory" }.lock.partition)
    local function message(given) return refusal(correction.svrg, given) end
    assert.matches("partition cannot be false", message { cache = "memory", lock = { partition = false } })
    assert.matches("must be locked", message { cache = "memory", lock = { dropout = "step" } })
    assert.matches("by segment", message { cache = "memory", lock = { key = "epoch" } })
    assert.matches("ahead = true", message { cache = "memory", mega = 4 })
    assert.matches("cache is false or \"memory\" or \"file\", not \"disk\"", message { cache = "disk" })
    assert.matches("this one has none", refusal(correction.storm, { cache = "memory" }))
    assert.matches("mega must be \"full\"", refusal(function()
      optimizer(correction.saga { mega = 2 }):init(golden_problem(64).theta0())
    end))
    assert.matches("has no use for cache", refusal(function()
      optimizer(correction.saga { cache = "memory" }):init(golden_problem(64).theta0())
    end))
    local noisy = pg.family.diagonal { ess = 20 }
    assert.matches("noise = \"fixed\"", refusal(optimizer, correction.svrg { cache = "memory" }, { family = noisy }))
    local sarah = correction.sarah { cache = "memory" }
    local p = partitioned()
    local opt = optimizer(sarah)
    local st = opt:init(p.theta)
    assert.matches("does not ask for them", refusal(follow, opt, st, p, 0, 1))
  end)

  it("say so if a batch is none of the pass's", function()
    local p = partitioned()
    local opt = optimizer(SNAPSHOTS.svrg "memory")
    local st = follow(opt, opt:init(p.theta), p, 0, 2)
    local other = p.evaluator.source:take(core.tensor("i64", { 5 }, { 0, 2, 4, 6, 8 }))
    assert.matches("none of the 5 that the pass went through", refusal(opt.step, opt, st, p.evaluator, other))
  end)
end)

describe("resuming", function()
  local cases = {
    saga = function(place) return correction.saga { table = place } end,
    saga_linear = function(place) return correction.saga { table = place, linear = true } end,
    saga_batches = function(place)
      return correction.saga { table = place, per = "batch", rebuild = true, every = 6 }
    end,
    svrg = function(place) return correction.svrg { every = 6, cache = place } end,
    lsvrg = function(place) return correction.lsvrg { p = 0.3, cache = place } end,
  }

  local function problem(name)
    local p = partitioned()
    if name ~= "saga_linear" then return p end
    local linear = classifier(23, nil, { batch = 5 })
    linear.batch = p.batch
    linear.evaluator.source = p.evaluator.source
    return linear
  end

  -- Steps 0 … last of a fresh optimizer with state `st`; each pass stops before `stop` more batches are done, where the
  -- state goes to a new optimizer as it would in another process.
  local function make(name, place)
    local p, opt = problem(name), optimizer(cases[name](place))
    return p, opt, opt:init(p.theta)
  end

  -- All that is saved, in memory of its own.
  local function save(st)
    local tensors = {}
    for _, entry in ipairs(st:tensors()) do tensors[entry[1]] = entry[2]:copy() end
    return tensors, st:numbers()
  end

  local function whole(name, place, last)
    local p, opt, st = make(name, place)
    follow(opt, st, p, 0, last)
    return support.state_bytes(st), st.cost:gradients()
  end

  for _, name in ipairs(support.sorted_names(cases)) do
    for _, place in ipairs { "memory", "file" } do
      it(("%s in %s: at every step, the same bits and the same cost"):format(name, place), function()
        local LAST = 13
        local wanted, cost = whole(name, place, LAST)
        local p, opt, st = make(name, place)
        for k = 0, LAST do
          opt:step(st, p.evaluator, p.batch(k))
          local tensors, numbers = save(st)
          p, opt, st = make(name, place)
          st:load(tensors, numbers)
        end
        assert.are.equal(wanted, support.state_bytes(st))
        assert.are.equal(cost, st.cost:gradients())
      end)
    end

    it(name .. ": inside a pass, after every batch of it", function()
      local LAST = 8
      local wanted, cost = whole(name, "memory", LAST)
      local p, opt, st = make(name, "memory")
      local k, stops = 0, 0
      while k <= LAST do
        local _, info = opt:step(st, p.evaluator, p.batch(k), nil, { on_pass = function() return false end })
        if not info.suspended then k = k + 1 else stops = stops + 1 end
        local tensors, numbers = save(st)
        p, opt, st = make(name, "memory")
        st:load(tensors, numbers)
      end
      assert.is_true(stops >= 5)
      assert.are.equal(wanted, support.state_bytes(st))
      assert.are.equal(cost, st.cost:gradients())
    end)
  end

  it("of a cache computes rows again that an interruption lost, and books nothing for them", function()
    local p, opt, st = make("svrg", "memory")
    follow(opt, st, p, 0, 1)
    local tensors, numbers = save(st)
    local recovered, opt2, again = make("svrg", "memory")
    again:load(tensors, numbers)
    assert.are.equal(0, again.cache.known)
    follow(opt2, again, recovered, 2, 3)
    assert.are.equal(2, again.cache.known)
    follow(opt, st, p, 2, 3)
    assert.are.equal(support.state_bytes(st), support.state_bytes(again))
    assert.are.equal(st.cost:gradients(), again.cost:gradients())
  end)
end)

describe("memory", function()
  it("of a table is checked before it is taken", function()
    local p = golden_problem(64)
    local source = p.evaluator.source
    p.evaluator.source = setmetatable({ n = 2 ^ 40 // 1 }, { __index = source })
    local opt = optimizer(correction.saga {})
    local message = refusal(opt.step, opt, opt:init(p.theta0()), p.evaluator, p.cyclic(0, 4))
    assert.matches("correction saga: a table of 1099511627776 rows of 10 numbers takes 8.19e%+04 GiB", message)
    assert.matches("keep it in a file", message)
  end)

  it("of files, staging and rows is given back", function()
    local function count_files()
      core.collect()
      local count = 0
      for line in io.lines("/proc/self/maps") do
        if line:find("perigee%-") and line:find("deleted") then count = count + 1 end
      end
      return count
    end
    local before = count_files()
    do
      local p = golden_problem(64)
      local opt = optimizer(correction.saga { table = "file" })
      local st = opt:init(p.theta0())
      opt:step(st, p.evaluator, p.cyclic(0, 4))
      assert.are.equal(before + 1, count_files())
      local used = core.memory_used()
      for k = 1, 20 do opt:step(st, p.evaluator, p.cyclic(k, 4)) end
      core.collect()
      assert.is_true(core.memory_used() <= used)
    end
    assert.are.equal(before, count_files())
  end)
end)
