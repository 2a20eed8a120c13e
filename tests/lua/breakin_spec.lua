-- Facts about breaking into a run, without a terminal: the prompt is a function of the test, and Ctrl-C a flag. What is
-- typed there is evaluated in the environment the prompt would get. tests/cli/breakin_spec.lua does it with a terminal.
local pg = require "perigee"
local breakin = require "perigee.breakin"
local core = require "perigee.core"
local run = require "perigee.run"

local files = core.data

local key = pg.key(5)
local N = 96
local x = pg.randn(key:fold("x"), { N, 4 })
local y = x:matmul(pg.randn(key:fold("w"), { 4, 3 })):argmax(-1)
local data = { train = pg.data.from { x = x, y = y }, test = pg.data.from { x = x, y = y } }
local model = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.tanh(), pg.nn.dropout(0.2), pg.nn.linear(8, 3) }

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local function svrg(hyper)
  hyper = hyper or {}
  return pg.optimizer {
    correction = pg.correction.svrg { every = hyper.every or 6, alpha = hyper.alpha or 1 },
    rule = pg.rule.sgd { lr = hyper.lr or 0.1, momentum = hyper.momentum or 0.9 }, weight_decay = hyper.decay or 1e-3,
  }
end

describe("breaking into a run", function()
  local root, pressed, typed, shown, failure
  local interrupted, is_possible, prompt, write = core.interrupted, breakin.is_possible, breakin.prompt, io.write

  -- Type a line at the prompt: its values, or the error.
  local function type_line(env, line)
    local chunk = load("return " .. line, "=stdin", "t", env) or assert(load(line, "=stdin", "t", env))
    local results = table.pack(pcall(chunk))
    if not results[1] then error(results[2], 0) end
    return table.unpack(results, 2, results.n)
  end

  before_each(function()
    root = os.tmpname()
    os.remove(root)
    run.begin_invocation { source = "-- a recipe", recipe = "a.lua", root = root }
    pressed, typed, shown, failure = false, nil, {}, nil
    core.interrupted = function()
      local was = pressed
      pressed = false
      return was
    end
    breakin.is_possible = function() return typed ~= nil end
    breakin.prompt = function(options)
      io.write = function(...) for _, text in ipairs { ... } do shown[#shown + 1] = text end end -- luacheck: ignore 122
      local ok, left = pcall(typed, function(line) return type_line(options.env, line) end, options)
      io.write = write -- luacheck: ignore 122
      if not ok then
        failure = left -- the run goes on, so it is looked at after the test
        error(left, 0)
      end
      return left
    end
  end)

  after_each(function()
    run.end_invocation()
    core.interrupted, breakin.is_possible, breakin.prompt = interrupted, is_possible, prompt
    os.execute("rm -rf '" .. root .. "'")
    if failure then error(failure, 0) end
  end)

  -- A run of 30 steps (6 an epoch, 12 batches a pass). at: the step (from 0) in which Ctrl-C is pressed; crash: the one
  -- in which it dies.
  local function train(opts)
    opts = opts or {}
    return pg.train {
      name = "t", model = model, data = data, loss = loss, optimizer = opts.optimizer or svrg(), epochs = 5, batch = 16,
      pass_batch = 8, seed = 2, metrics = { accuracy = pg.metric.accuracy }, log_every = 1,
      checkpoint_every = { steps = opts.every or 1000 }, out = opts.out, from = opts.from, keep = 9,
      hooks = { on_step = function(ctx, info)
        if opts.refreshed and info.refreshed then opts.refreshed[#opts.refreshed + 1] = ctx.step end
        if ctx.step == opts.crash then error("crash") end
        if ctx.step == opts.at then pressed = true end
      end },
    }
  end

  -- The same recipe once more, with nothing left of the run before.
  local function begin_again()
    os.execute("rm -rf '" .. root .. "/t'")
    run.end_invocation()
    run.begin_invocation { source = "-- a recipe", recipe = "a.lua", root = root }
  end

  local function resume()
    local found = assert(run.read_settings(root .. "/t"))
    run.end_invocation()
    run.begin_invocation { source = found.source, recipe = found.recipe, root = root, words = found.words,
      resume = found.resume }
  end

  local function parts_of(result)
    local out = {}
    for _, entry in ipairs(result.state:tensors()) do out[entry[1]] = entry[2]:bytes() end
    for name, number in pairs(result.state:numbers()) do out[name] = number end
    return out
  end

  local function final(name)
    local list = require("perigee.checkpoint").list(root .. "/" .. name .. "/checkpoints")
    return files.read_file(list[1].path)
  end

  it("hands its changes on to a run that goes on from there, but for what that one's recipe says otherwise", function()
    typed = function(at) at "opt.rule.lr = 0.02" return "continue" end
    local whole = train { at = 9, every = 10 }
    typed = nil
    local branched = train { from = root .. "/t@20" }
    assert.equal(whole.theta:bytes(), branched.theta:bytes())
    assert.same(whole.changes, branched.changes)
    assert.same({ "changed by hand at step 10: rule.lr 0.1 → 0.02" }, whole.changes)
    assert.same({}, train({ from = root .. "/t@10" }).changes)
    assert.same({}, train({ from = root .. "/t@20", optimizer = svrg { lr = 0.05 } }).changes)
    assert.same(whole.changes, train({ from = root .. "/t@20", optimizer = svrg { decay = 0 } }).changes)
  end)

  it("changes no bit of a run that is only looked at", function()
    local whole = train { out = false }
    local seen
    typed = function(at, options)
      assert.equal("(step 9) > ", options.mark)
      at "theta:copy_from(theta * 0)"
      at "q.mean:copy_from(q.mean * 0)"
      at "state.optimizer.tensors['rule.buf']:copy_from(theta)"
      seen = {
        logits = at "model(theta, data.test.x or pg.ones{2, 4}, { train = false })", found = at "evaluate()",
        step = at "step", epoch = at "epoch", curve = at "run:curve()", log = at "#log",
        text = at "tostring(opt)", run = at "tostring(run)", draws = at "pg.randn(pg.key(1), { 3 })",
      }
      at "plot()"
      at "function helper() return 3 end"
      assert.equal(3, at "helper()")
      return "continue"
    end
    local looked = train { out = false, at = 8 }
    assert.same(parts_of(whole), parts_of(looked))
    assert.same(whole.history, looked.history)
    assert.same(whole.metrics, looked.metrics)
    assert.equal(9, seen.step)
    assert.equal(1.5, seen.epoch)
    assert.equal(9, #seen.curve.x)
    assert.is_number(seen.found.accuracy)
    assert.matches("rule.lr%s+0.1", seen.text)
    assert.matches("run t: 9 of 30 steps done", seen.run, 1, true)
    assert.matches("training loss", table.concat(shown), 1, true)
    assert.same({}, looked.changes)
  end)

  it("leaves running statistics alone when evaluations are looked at", function()
    local normed = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.batch_norm(8), pg.nn.relu(), pg.nn.linear(8, 3) }
    local function run_it(at)
      return pg.train { name = "t", model = normed, data = data, loss = loss, optimizer = svrg(), steps = 14,
        batch = 16, seed = 2, out = false, log_every = 1,
        hooks = { on_step = function(ctx) pressed = ctx.step == at end } }
    end
    local whole = run_it()
    typed = function(at)
      at "evaluate()"
      at "model(theta, pg.ones { 4, 4 }, { train = true, buffers = buffers })"
      at "buffers:copy_from(buffers * 0)"
      return "continue"
    end
    local looked = run_it(7)
    assert.is_truthy(parts_of(whole).buffers)
    assert.same(parts_of(whole), parts_of(looked))
    assert.same(whole.history, looked.history)
  end)

  it("takes changes over from the next step on, as schedules would have it", function()
    local function switched(a, b) return function(step) return step < 9 and a or b end end
    local whole = train { out = false, optimizer = svrg { lr = switched(0.1, 0.02), alpha = switched(1, 0.5),
      decay = switched(1e-3, 0), momentum = switched(0.9, 0.8) } }
    typed = function(at)
      at "opt.rule.lr = 0.02"
      at "opt.rule.momentum = 0.8"
      at "opt.correction.alpha = 0.5"
      at "opt.weight_decay = 0"
      assert.equal(0.02, at "opt.rule.lr")
      return "continue"
    end
    local changed = train { out = false, at = 8 }
    assert.same(parts_of(whole), parts_of(changed))
    assert.same({ "changed by hand at step 9: rule.lr 0.1 → 0.02, rule.momentum 0.9 → 0.8, "
      .. "correction.alpha 1 → 0.5, weight_decay 0.001 → 0" }, changed.changes)
    assert.matches("rule.lr: 0.1 → 0.02 from step 9 on; recorded\n", table.concat(shown), 1, true)
  end)

  it("changes what family and stages have, over IVON with posterior correction", function()
    local function poco(hyper)
      return pg.optimizer {
        family = pg.family.diagonal { ess = hyper.ess or N, h0 = 0.5, beta2 = hyper.beta2 or 0.999 },
        correction = pg.correction.svrg { every = 6 }, rule = pg.rule.ivon { lr = hyper.lr or 0.1 },
        stages = { per_evaluation = { pg.stage.clip { norm = hyper.norm or 5 } } }, weight_decay = 1e-3,
      }
    end
    local function switched(a, b) return function(step) return step < 9 and a or b end end
    local whole = train { out = false, optimizer = poco { ess = switched(N, 10 * N), beta2 = switched(0.999, 0.99),
      lr = switched(0.1, 0.05), norm = switched(5, 0.01) } }
    typed = function(at)
      at "opt.family.ess = 960"
      at "opt.family.beta2 = 0.99"
      at "opt.rule.lr = 0.05"
      at "opt.stages.per_evaluation[1].norm = 0.01"
      assert.matches("stages.per_evaluation.1.norm%s+0.01", at "tostring(opt.stages)")
      return "continue"
    end
    local changed = train { out = false, at = 8, optimizer = poco {} }
    assert.same(parts_of(whole), parts_of(changed))
    assert.not_same(parts_of(whole), parts_of(train { out = false, optimizer = poco {} }))
  end)

  it("keeps the snapshot when a period is changed, until the next period begins", function()
    local refreshed = {}
    typed = function(at)
      at "opt.correction.every = 10"
      assert.matches("correction.every%s+10 steps", at "tostring(opt)")
      return "continue"
    end
    train { out = false, at = 7, refreshed = refreshed }
    assert.same({ 0, 6, 10, 20 }, refreshed)
    refreshed = {}
    typed = function(at) at "opt.correction.every = pg.epochs(2)" return "continue" end
    train { out = false, at = 7, refreshed = refreshed }
    assert.same({ 0, 6, 12, 24 }, refreshed)
  end)

  it("takes schedules and formulas, and goes back to the recipe's", function()
    local recipe = function(step) return 0.1 / (1 + step) end
    local optimizer = svrg { lr = recipe }
    local whole = train { out = false, optimizer = svrg { lr = function(step)
      if step < 9 or step >= 21 then return recipe(step) end
      return step < 15 and 0.02 * math.exp(-step) or (0.5 - 0.5 * (step / 30))
    end } }
    local k = 0
    typed = function(at)
      k = k + 1
      at(({ "opt.rule.lr = '0.02 * exp(-step)'", "opt.rule.lr = pg.schedule.linear { from = 0.5, to = 0, over = 30 }",
        "opt.rule.lr = nil" })[k])
      return "continue"
    end
    local changed = pg.train {
      name = "t", model = model, data = data, loss = loss, optimizer = optimizer, epochs = 5, batch = 16,
      pass_batch = 8, seed = 2, metrics = { accuracy = pg.metric.accuracy }, log_every = 1, out = false,
      hooks = { on_step = function(ctx) pressed = ctx.step == 8 or ctx.step == 14 or ctx.step == 20 end },
    }
    assert.same(parts_of(whole), parts_of(changed))
    assert.equal(recipe, optimizer.rule.hyper.given.lr) -- given back
    assert.same({ "changed by hand at step 9: rule.lr a function of the recipe → "
        .. 'pg.schedule.formula("0.02 * exp(-step)")',
      'changed by hand at step 15: rule.lr pg.schedule.formula("0.02 * exp(-step)") → '
        .. "pg.schedule.linear { from = 0.5, over = 30, to = 0 }",
      "changed by hand at step 21: rule.lr pg.schedule.linear { from = 0.5, over = 30, to = 0 } → recipe" },
      changed.changes)
  end)

  it("keeps long lists in their order, for a resume too", function()
    local pieces = {}
    for i = 1, 12 do pieces[i] = ("{ %g, %d }"):format(i / 100, i * 2 + 2) end
    pieces[13] = "{ 0.2 }"
    typed = function(at)
      at("opt.rule.lr = pg.schedule.piecewise { " .. table.concat(pieces, ", ") .. " }")
      return "continue"
    end
    local whole = train { at = 2 }
    begin_again()
    assert.is_false(pcall(train, { at = 2, crash = 9 }))
    typed = nil
    resume()
    assert.same(parts_of(whole), parts_of(train {}))
    assert.is_nil(files.exists(root .. "/t/running") or nil)
  end)

  it("replays changes when it is resumed from before them, and from after them", function()
    local function change(at)
      at "opt.rule.lr = 1/30"
      at "opt.correction.every = 7"
      at "opt.correction.alpha = 0.25"
      return "continue"
    end
    typed = change
    local whole = train { at = 8 }
    local metrics = files.read_file(root .. "/t/metrics.jsonl")
    assert.matches('{"change":"rule.lr","from":"0.1","step":9,"to":"0.03333333333333333"}\n', metrics, 1, true)
    local last = final "t"
    -- the newest checkpoint is of: the start, before, at and after the change
    for _, every in ipairs { 1000, 5, 9, 4, 1 } do
      begin_again()
      typed = change
      assert.is_false(pcall(train, { at = 8, every = every, crash = 13 }))
      typed = nil
      resume()
      local again = train { every = every }
      assert.equal(metrics, files.read_file(root .. "/t/metrics.jsonl"))
      assert.is_true(last == final "t")
      assert.same(whole.changes, again.changes)
    end
  end)

  it("holds changes that are made inside a full pass from the step after it on", function()
    local meter = getmetatable(require("perigee.cost").new()).__index
    local add, batches, where = meter.add, 0, nil
    finally(function() meter.add = add end)
    function meter.add(self, purpose, examples)
      add(self, purpose, examples)
      if purpose == "passes" then batches = batches + 1 end
      pressed = pressed or batches == 17 -- batch 5 of the second pass, before step 6
      if batches == 17 then batches = 18 end
    end
    local refreshed = {}
    local function change(at, options)
      where = options.banner
      at "opt.rule.lr = 0.02"
      at "opt.correction.every = 4"
      return "continue"
    end
    typed = change
    local changed = train { refreshed = refreshed }
    assert.matches("inside a full pass (5 of 12 batches done)", where, 1, true)
    assert.same({ 0, 6, 8, 12, 16, 20, 24, 28 }, refreshed)
    assert.matches("step 7: rule.lr", changed.changes[1], 1, true)
    local last, metrics = final "t", files.read_file(root .. "/t/metrics.jsonl")
    -- quit there, saved inside the pass; then go on
    begin_again()
    batches = 0
    typed = function(at, options)
      change(at, options)
      options.commands.save()
      return "quit"
    end
    local ok, raised = pcall(train)
    assert.is_false(ok)
    assert.matches("perigee resume " .. root .. "/t", tostring(raised), 1, true)
    assert.matches("saved " .. root .. "/t/checkpoints/step-6.safetensors", table.concat(shown), 1, true)
    assert.is_truthy(final("t"):find("numbers/pass.cursor", 1, true))
    batches, typed = 100, nil
    resume()
    train()
    assert.is_true(last == final "t")
    assert.equal(metrics, files.read_file(root .. "/t/metrics.jsonl"))
  end)

  it("stops between two batches of a pass where there is nobody to ask", function()
    train()
    local last = final "t"
    begin_again()
    local meter = getmetatable(require("perigee.cost").new()).__index
    local add, batches = meter.add, 0
    finally(function() meter.add = add end)
    function meter.add(self, purpose, examples)
      add(self, purpose, examples)
      if purpose == "passes" then batches = batches + 1 end
      pressed = pressed or batches == 17
    end
    local ok, raised = pcall(train)
    assert.is_false(ok)
    assert.matches("interrupted and saved; go on with: perigee resume", tostring(raised), 1, true)
    assert.equal(17, batches)
    meter.add = add
    resume()
    train()
    assert.is_true(last == final "t")
  end)

  it("says what is misspelt, fixed, of a wrong kind or cannot be written down, and goes on", function()
    local tried = {}
    local whole = train { out = false }
    typed = function(at)
      local function refused(line, message)
        local ok, why = pcall(at, line)
        assert.is_false(ok, line)
        assert.matches("^stdin:1: ", why, nil, line)
        assert.matches(message, why, 1, true)
        tried[#tried + 1] = line
      end
      refused("opt.rule.lrr = 1", "unknown hyperparameter 'lrr' of rule; did you mean 'lr'?")
      refused("opt.rule.lrr", "did you mean 'lr'?")
      refused("opt.rool.lr = 1", "rule.lr")
      refused("opt.rule.nesterov = true", "rule.nesterov is fixed while a run goes on: it is part of the compiled step")
      refused("opt.correction.mega = 3", "correction.mega is fixed")
      refused("opt.family.samples = 2", "family.samples is fixed")
      refused("opt.rule = pg.rule.adam {}", "rule itself is fixed while a run goes on")
      refused("opt.batch = 32", "batch is fixed while a run goes on: the order of the examples")
      refused("run.batch = 32", "batch is fixed while a run goes on")
      refused("run.name = 'u'", "run.name cannot be set")
      refused("opt.rule.lr = true", "rule.lr is a number or a schedule, not true")
      refused("opt.rule.lr = 0/0", "rule.lr cannot be nan")
      refused("opt.rule.lr = function(step) return 0.1 end", "give its text")
      refused("opt.rule.lr = '0.1 +'", "formula")
      refused("opt.rule.lr = '0.1 * stepp'", "did you mean 'step'?")
      refused("opt.rule.momentum = 0", "another form")
      refused("opt.weight_decay = -1", "weight_decay must be at least 0, not -1")
      refused("opt.correction.every = 0", "correction.every must be at least 1 step")
      refused("opt.correction.every = '3'", "pg.epochs(n)")
      refused("theta = theta * 0", "theta cannot be set: it is a copy to look at")
      refused("q = 1", "q cannot be set")
      refused("step = 3", "step cannot be set: the run counts it")
      refused("opt = 3", "as opt.rule.lr = 0.01")
      refused("model = 3", "take another name")
      refused("state.since.loss = 3", "changes in steps only")
      refused("thta", "there is no variable 'thta'; did you mean theta?")
      at "opt.rule.lr = 0.5" -- and back, which leaves nothing
      at "opt.rule.lr = 0.1"
      return "continue"
    end
    local after = train { out = false, at = 8 }
    assert.equal(26, #tried)
    assert.same(parts_of(whole), parts_of(after))
    assert.same({}, after.changes)
  end)

  it("has no correction where there is none, and fixes values per tensor", function()
    local function try(line, message)
      return function(at)
        local ok, why = pcall(at, line)
        assert.is_false(ok)
        assert.matches(message, why, 1, true)
        return "continue"
      end
    end
    typed = try("opt.correction.alpha = 1", "this optimizer has no correction")
    train { out = false, at = 3, optimizer = pg.optim.sgd { lr = 0.1 } }
    typed = try("opt.weight_decay = 0", "values per tensor are part of the compiled step")
    train { out = false, at = 3, optimizer = pg.optim.sgd { lr = 0.1, weight_decay = pg.per_tensor(1e-3) } }
    typed = try("opt.rule.momentum = 0.9", "rule.momentum cannot become 0.9 in the middle of a run")
    train { out = false, at = 3, optimizer = pg.optim.sgd { lr = 0.1 } }
  end)

  it("goes on at the end of input and after a broken prompt, and quits only when told to", function()
    local whole = train { out = false }
    typed = function() return nil end
    assert.same(parts_of(whole), parts_of(train { out = false, at = 3 }))
    typed = function() error("the prompt broke", 0) end
    assert.same(parts_of(whole), parts_of(train { out = false, at = 3 }))
    assert.equal("the prompt broke", failure)
    failure = nil
    typed = function() return "quit" end
    assert.is_false(pcall(train, { at = 3 }))
    typed = nil
    resume()
    local again = train()
    assert.same(whole.history[#whole.history], again.history[#again.history])
  end)

  it("keeps runs that are started at the prompt out of the recipe's", function()
    typed = function(at)
      typed = nil
      at "pg.run { name = 't', steps = 2, out = false, step = function() end }"
      return "continue"
    end
    train { at = 3 }
    assert.equal("t", run.end_invocation()[1].name)
  end)

  it("changes the plain values of a loop's own state, and replays that too", function()
    local function loop(opts)
      return pg.run { name = "t", steps = 10, checkpoint_every = { steps = opts.every or 1000 },
        state = { rate = 1.0, word = "a", inner = { on = true }, sum = 0.0, x = pg.zeros({ 2 }) },
        step = function(st, ctx)
          if ctx.step == opts.crash then error("crash") end
          st.sum = st.sum + (st.inner.on and st.rate or 100)
          st.x = st.x + st.rate
          ctx:log { sum = st.sum, word = st.word }
          if ctx.step == opts.at then pressed = true end
        end }
    end
    local function change(at)
      at "state.rate = 0.25"
      at "state.inner.on = false"
      at "state.word = 'b\\n'"
      assert.equal(0.25, at "state.rate")
      assert.matches("rate = 0.25", at "tostring(state)", 1, true)
      assert.matches("on = false", at "tostring(state)", 1, true)
      assert.same({ "changed by hand at step 3: state.rate 1.0 → 0.25, state.inner.on true → false, "
        .. 'state.word "a" → "b\\n"' }, at "run.changes")
      assert.same({ 3, 3 }, at "state.x:totable()")
      assert.matches("state.rate is a number, not \"x\"", select(2, pcall(at, "state.rate = 'x'")), 1, true)
      assert.matches("tensors change in steps only", select(2, pcall(at, "state.x = state.x * 2")), 1, true)
      assert.matches("did you mean 'rate'", select(2, pcall(at, "state.rat = 2")), 1, true)
      return "continue"
    end
    typed = change
    local result = loop { at = 2 }
    assert.equal(3 + 700, result.state.sum)
    assert.equal("b\n", result.state.word)
    local last = final "t"
    for _, every in ipairs { 1000, 2, 1 } do
      begin_again()
      typed = change
      assert.is_false(pcall(loop, { at = 2, every = every, crash = 5 }))
      typed = nil
      resume()
      loop { every = every }
      assert.is_true(last == final "t")
    end
  end)

  it("refuses a record of changes that is not one, and one that lost its lines", function()
    typed = function(at) at "opt.rule.lr = 0.02" return "continue" end
    assert.is_false(pcall(train, { at = 3, every = 1, crash = 8 }))
    typed = nil
    local path = root .. "/t/changes.jsonl"
    local function refused(text, message)
      files.write_file_atomic(path, text)
      resume()
      local ok, why = pcall(train)
      assert.is_false(ok)
      assert.matches(message, why, 1, true)
    end
    refused("", "holds 0 changes, the checkpoint knows 1")
    refused("{}\n", "line 1 is not a change")
    refused('{"name":"rule.lrr","step":4,"to":"1"}\n', "line 1: unknown hyperparameter 'lrr'")
    refused('{"name":"rule.lr","step":4,"to":"os.exit()"}\n', "line 1: ")
  end)
end)
