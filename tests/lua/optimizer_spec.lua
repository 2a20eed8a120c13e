-- Facts about pg.optimizer: every cell of family x correction x rule runs; an interrupted pass and a resumed run
-- give the same bits; corrected gradients are locked to the pass under dropout; after prepare a step takes no
-- memory.
local support = require "support"
local problems = require "problems"
local pg, core = support.pg, support.core
local correction, evaluator, family = require "perigee.correction", require "perigee.evaluator",
  require "perigee.family"
local nn, rule, schedule, stage = require "perigee.nn", require "perigee.rule", require "perigee.schedule",
  require "perigee.stage"
local statistics = require "perigee.statistics"

local state_bytes = support.state_bytes

-- A small network with dropout on made-up data; ids let dropout be keyed by example.
local function network(options)
  options = options or {}
  local model = nn.sequential { nn.linear(6, 8), nn.relu(), nn.dropout(0.3), nn.linear(8, 1) }
  local n, draw, x, y = options.n or 30, support.stream(2), {}, {}
  for i = 1, n do
    local s = 0
    for _ = 1, 6 do
      x[#x + 1] = draw()
      s = s + x[#x]
    end
    y[i] = math.sin(s)
  end
  local dtype = options.dtype or "f64"
  local source = evaluator.memory { x = core.tensor(dtype, { n, 6 }, x), y = core.tensor(dtype, { n, 1 }, y) }
  local self = { model = model, source = source, n = n }
  self.evaluator = evaluator {
    model = model, source = source, key = core.key(4), batch = options.batch or 10, micro = options.micro,
    loss = function(m, theta, batch, ctx)
      local d = m(theta, batch.x, ctx) - batch.y
      return (d * d):mean(), (d:abs()):mean()
    end,
  }
  function self.theta0() return model:init(core.key(12), dtype) end
  function self.batch(from, to)
    local rows = {}
    for i = from, to - 1 do rows[#rows + 1] = i % n end
    return source:take(core.tensor("i64", { #rows }, rows))
  end
  return self
end

local function run(p, opt, st, steps, size, hooks)
  for _ = 1, steps do
    local info
    repeat
      st, info = opt:step(st, p.evaluator, p.batch(st.step * size, st.step * size + size), nil, hooks)
    until not info.suspended
  end
  return st
end

describe("the product", function()
  local families = {
    point = function() return family.point {} end,
    diagonal = function() return family.diagonal { ess = 300, h0 = 0.5, beta2 = 0.99 } end,
  }
  local corrections = { none = function() end, svrg = function() return correction.svrg { every = 12 } end }
  local rules = {
    sgd = function() return rule.sgd { lr = 0.5 } end,
    momentum = function() return rule.sgd { lr = 0.1, momentum = 0.9, nesterov = true } end,
    adamw = function() return rule.adamw { lr = 0.05 } end,
    ivon = function() return rule.ivon { lr = 0.5 } end,
  }
  for _, f in ipairs { "point", "diagonal" } do
    for _, c in ipairs { "none", "svrg" } do
      for _, r in ipairs { "sgd", "momentum", "adamw", "ivon" } do
        if not (f == "point" and r == "ivon") then
          for _, dtype in ipairs { "f32", "f64" } do
            it(("%s x %s x %s in %s lowers the loss and stays finite"):format(f, c, r, dtype), function()
              local p = problems.random_logistic(120, 6, { dtype = dtype })
              local opt = pg.optimizer { family = families[f](), correction = corrections[c](), rule = rules[r](),
                weight_decay = 1e-3 }
              local st = opt:init(p.theta0(), core.key(3))
              for k = 0, 49 do opt:step(st, p.evaluator, p.cyclic(k, 10)) end
              for _, entry in ipairs(st:tensors()) do
                for _, x in ipairs(entry[2]:totable()) do assert(x - x == 0, entry[1] .. " is not finite") end
              end
              local loss = p.evaluator:evaluate(st.theta, p.cyclic(0, 120))
              assert(loss < 0.75 * math.log(2), ("loss %g"):format(loss))
            end)
          end
        end
      end
    end
  end
end)

describe("a full pass", function()
  local function make()
    return pg.optim.ivon_poco { lr = 0.1, ess = 100, h0 = 0.5, beta2 = 0.99, every = 4, alpha = 0.9,
      weight_decay = 0.01 }
  end
  local steps = 10

  it("stopped between any two batches and continued elsewhere gives the same bits", function()
    local p = network { n = 37 } -- batches of 10, 10, 10, 7
    local straight = run(p, make(), make():init(p.theta0()), steps, 10)
    for _, stop_at in ipairs { 1, 2, 3, 4, 7, 12 } do
      local passed, opt = 0, make()
      local st = opt:init(p.theta0())
      local saved
      local hooks = { on_pass = function(s, done, total)
        assert.are.equal(4, total)
        assert(done >= 1 and done <= 4)
        passed = passed + 1
        if passed == stop_at then
          saved = { tensors = {}, numbers = s:numbers() }
          for _, entry in ipairs(s:tensors()) do saved.tensors[entry[1]] = entry[2]:copy() end
          return false
        end
      end }
      repeat
        local _, info = opt:step(st, p.evaluator, p.batch(st.step * 10, st.step * 10 + 10), nil, hooks)
      until info.suspended
      local other = make()
      local second = other:init(p.theta0())
      second:load(saved.tensors, saved.numbers)
      run(p, other, second, steps - second.step, 10)
      run(p, opt, st, steps - st.step, 10)
      assert.are.equal(state_bytes(straight), state_bytes(second))
      assert.are.equal(state_bytes(straight), state_bytes(st))
      assert.are.equal(straight.cost:gradients(), second.cost:gradients())
    end
  end)

  it("ended by an error in the hook continues where it was", function()
    local p, opt = network(), make()
    local straight = run(p, make(), make():init(p.theta0()), 3, 10)
    local st, calls = opt:init(p.theta0()), 0
    local ok, message = pcall(opt.step, opt, st, p.evaluator, p.batch(0, 10), nil, { on_pass = function()
      calls = calls + 1
      if calls == 2 then error("killed") end
    end })
    assert(not ok and message:find("killed", 1, true))
    assert.are.equal(2, st.pass.cursor)
    run(p, opt, st, 3, 10)
    assert.are.equal(state_bytes(straight), state_bytes(st))
  end)

  it("weights batches by their counts: the short one too", function()
    local means = {}
    for i, size in ipairs { 37, 10, 8 } do
      local p = network { n = 37, batch = size }
      local opt = pg.optim.svrg { lr = 0, every = 10 }
      means[i] = run(p, opt, opt:init(p.theta0()), 1, 10).memory.values.mean.g:totable()
    end
    assert(support.difference(means[1], means[2]) < 1e-15)
    assert(support.difference(means[1], means[3]) < 1e-15)
  end)

  it("may be one of several in a refresh, also when interrupted", function()
    local two = correction.define {
      name = "two",
      refresh = function(s, ctx)
        s.at = ctx.q:clone()
        s.first = ctx:full(s.at)
        s.both = 0.5 * (s.first + ctx:full(ctx.q.mean))
      end,
      correct = function(s, ctx) return ctx:evaluate(ctx.q) - ctx:evaluate(s.at) + s.both end,
    }
    local function fresh()
      return pg.optimizer { correction = two { every = 2 }, rule = rule.sgd { lr = 0.1 } }
    end
    local p = network()
    local straight = run(p, fresh(), fresh():init(p.theta0()), 5, 10)
    local opt, calls = fresh(), 0
    local st = opt:init(p.theta0())
    run(p, opt, st, 5, 10, { on_pass = function()
      calls = calls + 1
      return calls % 2 == 0
    end })
    assert.are.equal(straight.theta:bytes(), st.theta:bytes())
    assert.are.equal(3 * 2 * 30 + 5 * 20, st.cost:gradients())
  end)

  it("is refused without data, at the recipe's line", function()
    local p = network()
    p.evaluator.source = nil
    local opt = pg.optim.svrg { lr = 0.1, every = 5 }
    local ok, message = pcall(opt.step, opt, opt:init(p.theta0()), p.evaluator, p.batch(0, 10))
    assert(not ok and message:find("source", 1, true), message)
  end)
end)

describe("randomness", function()
  local watch = rule.define {
    name = "watch", state = { "seen" },
    update = function(p, stats, s)
      s.seen = stats.g
      return p + 0
    end,
  }

  it("is locked: under dropout, corrected gradients average to the full one of the segment", function()
    local p = network()
    local moved = p.theta0() + 0.1
    local at_moved = pg.optimizer { rule = watch, correction = correction.svrg { every = 100 } }
    local want = run(p, at_moved, at_moved:init(moved), 1, 10).memory.values.mean.g:totable()
    local opt = pg.optimizer { rule = watch, correction = correction.svrg { every = 100 } }
    local st = run(p, opt, opt:init(p.theta0()), 1, 10)
    st.theta:copy_from(moved)
    local total
    for k = 0, 2 do
      opt:step(st, p.evaluator, p.batch(10 * k, 10 * k + 10))
      total = total and total + st.rule.seen or st.rule.seen:copy()
    end
    assert(support.difference((total / 3):totable(), want) < 1e-14)
  end)

  it("is that of the plain method at alpha = 0, under dropout", function()
    local p = network()
    local plain, off = pg.optim.sgd { lr = 0.1 }, pg.optim.svrg { lr = 0.1, alpha = 0, every = 2 }
    assert.are.equal(run(p, plain, plain:init(p.theta0()), 6, 10).theta:bytes(),
      run(p, off, off:init(p.theta0()), 6, 10).theta:bytes())
  end)

  it("depends on the example, not on its place in the batch", function()
    local p = network()
    local opt = pg.optimizer { rule = watch }
    local function seen(rows)
      local st = opt:init(p.theta0())
      opt:step(st, p.evaluator, p.source:take(core.tensor("i64", { #rows }, rows)))
      return st.rule.seen:totable()
    end
    assert(support.difference(seen { 3, 1, 4, 15 }, seen { 15, 4, 3, 1 }) < 1e-15)
  end)
end)

describe("after prepare", function()
  local function check_memory(micro)
    local p = network { n = 37, micro = micro }
    local made = {}
    for size in pairs { [10] = 1, [7] = 1 } do made[size] = {} end
    for k = 0, 3 do made[k] = p.batch(10 * k, math.min(37, 10 * k + 10)) end
    local source = {
      n = 37,
      total = function() return 37 end,
      batches = function(_, _, options)
        local j = (options and options.first or 1) - 1
        return function()
          j = j + 1
          if j <= 4 then return j, made[j - 1] end
        end
      end,
    }
    p.evaluator.source = source
    local opt = pg.optim.ivon_poco { lr = 0.1, ess = 100, h0 = 0.5, every = 3 }
    local st = opt:init(p.theta0(), core.key(1))
    opt:prepare(st, p.evaluator, { made[0], made[3] })
    local hashes = {}
    core.collect()
    local before = core.memory_used()
    for t = 0, 8 do
      opt:step(st, p.evaluator, made[t % 4])
      hashes[#hashes + 1] = core.memory_used()
    end
    core.collect()
    assert.are.equal(before, core.memory_used())
    local traces, trace = 0, core.trace
    core.trace = function(...)
      traces = traces + 1
      return trace(...)
    end
    opt:step(st, p.evaluator, made[1])
    core.trace = trace
    assert.are.equal(0, traces)
  end

  it("steps, refreshes and the short last batch take no memory", function() check_memory(1) end)
  it("nor do they in pieces", function() check_memory(3) end)

  it("a schedule changes numbers, not programs", function()
    local p, traces, trace = network(), 0, core.trace
    core.trace = function(...)
      traces = traces + 1
      return trace(...)
    end
    local opt = pg.optimizer {
      rule = rule.sgd { lr = function(step) return 0.1 / (step + 1) end, momentum = schedule.linear { from = 0.1,
        to = 0.9, over = 5 } },
      weight_decay = schedule.constant(0.01),
    }
    local st = opt:init(p.theta0())
    run(p, opt, st, 1, 10)
    local first = traces
    run(p, opt, st, 6, 10)
    core.trace = trace
    assert.are.equal(first, traces)
  end)
end)

describe("a step", function()
  it("returns loss, aux and what it did", function()
    local p = network()
    local opt = pg.optim.svrg { lr = 0.1, every = 3, start = 1 }
    local st = opt:init(p.theta0())
    local want, aux = p.evaluator:evaluate(st.theta, p.batch(0, 10), { train = false })
    assert(want > 0 and aux[1]:item() > 0)
    local _, info = opt:step(st, p.evaluator, p.batch(0, 10))
    assert(info.loss > 0 and info.aux[1]:item() > 0)
    assert(not info.corrected and not info.refreshed and st.step == 1)
    _, info = opt:step(st, p.evaluator, p.batch(10, 20))
    assert(info.corrected and info.refreshed)
    assert.are.equal(1, opt:next_segment(st))
  end)

  it("reports the loss at the current point, whichever point correct evaluates first", function()
    local backwards = correction.define {
      name = "backwards",
      refresh = function(s, ctx) s.at = ctx.q:clone() end,
      correct = function(s, ctx)
        local old = ctx:evaluate(s.at)
        return ctx:evaluate(ctx.q) + 0 * old
      end,
    }
    local p = problems.logistic { X = { { 0 } }, y = { 1 }, w0 = { 2 }, loss = function(_, t) return (t * t):sum() end }
    local opt = pg.optimizer { rule = rule.sgd { lr = 0.25 }, correction = backwards { every = 100 } }
    local st = opt:init(p.theta0())
    opt:step(st, p.evaluator, p.batch { 0 })
    local _, info = opt:step(st, p.evaluator, p.batch { 0 })
    assert.are.equal(1, info.loss)
  end)

  it("decays tensors by their own amounts", function()
    local p = network()
    p.evaluator.loss = function(_, theta) return 0 * theta:sum() end
    local opt = pg.optimizer {
      rule = rule.sgd { lr = 0.5 }, weight_decay = pg.per_tensor(function(_,
        shape) return #shape >= 2 and 0.2 or 0 end),
    }
    local st = opt:init(p.theta0())
    local before = p.theta0()
    run(p, opt, st, 1, 10)
    assert.are.equal(before["1.bias"]:bytes(), st.theta["1.bias"]:bytes())
    assert(support.difference(st.theta["1.weight"]:reshape(48):totable(),
      (0.9 * before["1.weight"]):reshape(48):totable())
      < 1e-15)
  end)

  it("clips where the stages say", function()
    local seen = rule.define {
      name = "seen", state = { "g" },
      update = function(p, stats, s)
        s.g = stats.g
        return p + 0
      end,
    }
    local p = problems.logistic { X = { { 0, 0, 0 } }, y = { 1 }, w0 = { 3, 4, 12 },
      loss = function(_, t) return 0.5 * (t * t):sum() end }
    local function g(stages)
      local opt = pg.optimizer { rule = seen, stages = stages }
      local st = opt:init(p.theta0())
      opt:step(st, p.evaluator, p.batch { 0 })
      return st.rule.g:totable()
    end
    local f = 1 / (13 + 1e-6)
    assert(support.difference(g { per_evaluation = { stage.clip { norm = 1 } } }, { 3 * f, 4 * f, 12 * f }) < 1e-15)
    assert(support.difference(g { combined = { stage.clip { norm = 100 } } }, { 3, 4, 12 }) == 0)
    assert(support.difference(g { combined = { stage.clip { value = 3.5 } } }, { 3, 3.5, 3.5 }) == 0)
    local double = stage.define { name = "double", hyper = { by = 2 }, apply = function(x, o) return o.by * x end }
    assert(support.difference(g { combined = { double {}, double { by = 3 } } }, { 18, 24, 72 }) == 0)
    local layout = support.layout { { 2 }, { 1 } }
    local opt = pg.optimizer { rule = seen, stages = { combined = { stage.clip { per_tensor = 1 } } } }
    local st = opt:init(support.vector(layout, "f64", { { 3, 4 }, { 12 } }))
    opt:step(st, p.evaluator, p.batch { 0 })
    assert(support.difference(st.rule.g:totable(), { 0.6, 0.8, 1 }) < 1e-6)
  end)

  it("notices when a number that the loss captures has changed", function()
    local factor = 1
    local p = problems.logistic { X = { { 0 } }, y = { 1 }, w0 = { 1 },
      loss = function(_, t) return factor * (t * t):sum() end }
    local opt = pg.optim.sgd { lr = 0 }
    local st = opt:init(p.theta0())
    local batch = p.batch { 0 }
    local losses = {}
    for i = 1, 4 do
      factor = i // 2
      local _, info = opt:step(st, p.evaluator, batch)
      losses[i] = info.loss
    end
    assert.are.same({ 0, 1, 1, 2 }, losses)
  end)

  it("casts the parameters where a dtype is asked for", function()
    local p = network { dtype = "f32" }
    local opt = pg.optimizer { rule = rule.sgd {}, dtype = "f64" }
    assert.are.equal("f64", opt:init(p.theta0()).theta.dtype)
  end)

  it("copies the parameters: theta stays as it was", function()
    local p = network()
    local theta = p.theta0()
    local opt = pg.optim.sgd { lr = 1 }
    run(p, opt, opt:init(theta), 3, 10)
    assert.are.equal(p.theta0():bytes(), theta:bytes())
  end)
end)

-- The memory that a step's plan needs beside its state.
local function arena_of(opt, mode)
  local model = nn.sequential { nn.linear(20, 32), nn.relu(), nn.linear(32, 32), nn.relu(), nn.linear(32, 10) }
  local eval = evaluator {
    model = model, loss = function(net, theta, b, ctx) return pg.cross_entropy(net(theta, b.x, ctx), b.y) end,
  }
  local st = opt:init(model:init(core.key(1)))
  opt:evaluate_hypers(0)
  local batch = { x = core.tensor("f32", { 1024, 20 }), y = core.tensor("i64", { 1024 }) }
  return opt:program(st, eval, mode, batch).program:info().arena_bytes, model.layout.padded * 4
end

describe("a corrected step", function()
  it("makes its evaluations one after the other: beyond a plain step's memory it needs a gradient", function()
    local plain = arena_of(pg.optim.sgd { lr = 0.1 }, "plain")
    local corrected, vector = arena_of(pg.optim.svrg { lr = 0.1, every = 10 }, "corrected")
    assert(corrected <= plain + 2 * vector, ("%d bytes, a plain step %d, a vector %d"):format(corrected, plain,
      vector))
  end)
end)

describe("mistakes", function()
  it("in option names are answered with the nearest", function()
    for name, given in pairs { sgd = { momentun = 1 }, ivon = { es = 1 }, ivon_poco = { ess = 1, aplha = 1 } } do
      local ok, message = pcall(pg.optim[name], given)
      assert(not ok and message:find("did you mean", 1, true), message)
      assert(message:find("optimizer_spec.lua", 1, true) or message:find("^%S+:%d+:"), message)
    end
  end)

  it("in the loss say so at the recipe's line", function()
    local p = network()
    p.evaluator.loss = function(m, theta, batch, ctx) return m(theta, batch.x, ctx) end
    local opt = pg.optim.sgd { lr = 1 }
    local ok, message = pcall(opt.step, opt, opt:init(p.theta0()), p.evaluator, p.batch(0, 10))
    assert(not ok and message:find("a single number of shape []; it returned a tensor f64 [10, 1]", 1, true), message)
    p.evaluator.loss = function(_, theta, batch) return (theta["1.weight"]:matmul(batch.x)):sum() end
    local line = debug.getinfo(1, "l").currentline - 1
    ok, message = pcall(opt.step, opt, opt:init(p.theta0()), p.evaluator, p.batch(0, 10))
    assert(not ok and message:find("optimizer_spec.lua:" .. line, 1, true), message)
    assert(not core.tracing(), "the trace was left open")
  end)

  it("are not: parts as they are defined, without a call, and a correction that is none", function()
    local mine = correction.define { name = "mine", correct = function(_, ctx) return ctx:evaluate(ctx.q) end }
    local p = network()
    for _, c in ipairs { mine, mine {}, correction.none } do
      local opt = pg.optimizer { rule = rule.sgd, family = family.point, correction = c }
      run(p, opt, opt:init(p.theta0()), 2, 10)
    end
    assert.are.equal(0.5, correction.svrg { alpha = 0.5 }:with { every = 3 }.hyper.given.alpha)
  end)

  it("of parts are named", function()
    assert(not pcall(pg.optimizer, {}))
    assert(not pcall(pg.optimizer, { rule = rule.sgd {}, family = rule.sgd {} }))
    assert(not pcall(correction.svrg, { mega = 0 }))
    assert(not pcall(correction.svrg, { noise = "other" }))
    assert(not pcall(statistics.new, { x = 1 }))
  end)

  it("in a saved state are noticed", function()
    local p = network()
    local opt, other = pg.optim.sgd { lr = 1 }, pg.optim.adamw {}
    local st, wrong = opt:init(p.theta0()), other:init(p.theta0())
    local ok, message = pcall(wrong.load, wrong, st:tensors(), st:numbers())
    assert(not ok and message:find("rule.m", 1, true), message)
  end)
end)

describe("schedules", function()
  local function values(s, steps, units)
    local out = {}
    for i, step in ipairs(steps) do out[i] = schedule.value(s, step, units) end
    return out
  end
  it("have the values they promise", function()
    assert.are.same({ 1, 1, 0.5, 0, 0 }, values(schedule.linear { from = 1, to = 0, over = 4, start = 2 }, { 0, 2, 4,
      6, 9 }))
    assert.are.same({ 0.25, 0.5, 1, 1, 0 }, values(schedule.cosine { peak = 1, warmup = 4, total = 8 }, { 0, 1, 3, 4,
      8 }))
    assert(math.abs(schedule.value(schedule.cosine { peak = 1, floor = 0.2, total = 10 }, 5) - 0.6) < 1e-15)
    assert.are.same({ 8, 4, 4, 2 }, values(schedule.step { from = 8, factor = 0.5, every = 10 }, { 9, 10, 19, 20 }))
    assert.are.same({ 1, 0.5, 0.25 }, values(schedule.step { from = 1, factor = 0.5, at = { 5, 7 } }, { 4, 5, 7 }))
    assert.are.same({ 1, 2, 3 }, values(schedule.piecewise { { 1, 3 }, { function(t) return t - 2 end, 6 }, { 3 } },
      { 2, 4, 6 }))
    assert.are.same({ 1, 2, 2 }, values(schedule.warmup { over = 2, after = 2 }, { 0, 1, 5 }))
    local line = schedule.linear { from = 0, to = 10, over = 10 }
    assert.are.same({ 0, 0, 4, 4 }, values(schedule.hold { of = line, every = 4 }, { 0, 3, 4, 7 }))
  end)
  it("resolve epochs and the whole run, or say what is missing", function()
    local units = { steps_per_epoch = 7, total_steps = 70 }
    assert.are.equal(14, schedule.resolve_steps(schedule.epochs(2), units))
    assert.are.equal(35, schedule.resolve_steps(0.5 * schedule.whole_run, units))
    local ok, message = pcall(schedule.resolve_steps, schedule.epochs(1), {})
    assert(not ok and message:find("source", 1, true), message)
  end)
end)
