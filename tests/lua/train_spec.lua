-- Facts about pg.train: order of the data, honest counts, evaluation without side effects, running statistics of batch
-- norm, resuming.
local support = require "support"
local pg = require "perigee"
local normed = require "normed"
local run = require "perigee.run"
local sampler = require "perigee.sampler"

local key = pg.key(11)
local N = 70
local x = pg.randn(key:fold("x"), { N, 4 })
local y = x:matmul(pg.randn(key:fold("w"), { 4, 3 })):argmax(-1)
local data = { train = pg.data.from { x = x, y = y }, test = pg.data.from { x = x, y = y } }
local model = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.tanh(), pg.nn.dropout(0.2), pg.nn.linear(8, 3) }

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local function train(changes)
  local spec = { name = "t", model = model, data = data, loss = loss, optimizer = pg.optim.sgd { lr = 0.1 }, epochs = 3,
    batch = 16, seed = 2, out = false, metrics = { accuracy = pg.metric.accuracy }, log_every = 1 }
  for k, v in pairs(changes or {}) do
    if v == "none" then spec[k] = nil else spec[k] = v end
  end
  return pg.train(spec)
end

describe("accuracy", function()
  local labels = pg.tensor({ 0, 1, 1, 0 }, "i64")

  it("goes by the sign where there is one output, with an axis of its own or without", function()
    local out = pg.tensor { -1, 2, -3, 4 }
    assert.same({ 1, 1, 0, 0 }, pg.metric.accuracy(out, { y = labels }):totable())
    assert.same({ 1, 1, 0, 0 }, pg.metric.accuracy(out:reshape { 4, 1 }, { y = labels }):totable())
  end)

  it("goes by the largest of several, and says when rows and labels differ", function()
    assert.same({ 1, 0, 1, 1 }, pg.metric.accuracy(pg.tensor { { 2, 1 }, { 2, 1 }, { 0, 1 }, { 1, 0 } }, { y = labels })
      :totable())
    local ok, raised = pcall(pg.metric.accuracy, pg.ones { 3 }, { y = labels })
    assert.is_false(ok)
    assert.matches("outputs are f32 [3] and labels i64 [4]", raised, 1, true)
  end)
end)

describe("the sampler", function()
  it("gives every example once an epoch, the short batch last, another order every epoch", function()
    local source = sampler.shuffled(data.train, 16, key)
    assert.equal(5, source.per_epoch)
    local orders = {}
    for epoch = 0, 1 do
      local seen, order = {}, {}
      for k = 0, 4 do
        local batch, at = source:at(5 * epoch + k)
        assert.equal(epoch, at)
        assert.equal(k == 4 and 6 or 16, batch.id.shape[1])
        for _, id in ipairs(batch.id:totable()) do
          assert.is_nil(seen[id])
          seen[id], order[#order + 1] = true, id
        end
      end
      assert.equal(N, #order)
      orders[epoch] = table.concat(order, " ")
    end
    assert.not_equal(orders[0], orders[1])
  end)

  it("fills batches with the rows their ids name, at any step first", function()
    local batch = sampler.shuffled(data.train, 16, key):at(7)
    local again = sampler.shuffled(data.train, 16, key)
    for k = 0, 7 do batch = again:at(k) end
    local direct = sampler.shuffled(data.train, 16, key):at(7)
    assert.equal(batch.x:bytes(), direct.x:bytes())
    assert.equal(x:take(batch.id):bytes(), batch.x:bytes())
  end)

  it("passes cover all data in pieces that add up, from any piece on", function()
    local source = sampler.shuffled(data.train, 16, key)
    local function ids(first)
      local out = {}
      for j, batch in source:batches(32, { first = first }) do
        out[j] = table.concat(batch.id:totable(), " ")
      end
      return out
    end
    local all = ids(1)
    assert.equal(3, #all)
    assert.equal(all[3], ids(3)[3])
  end)
end)

describe("the progress line", function()
  local progress = require "perigee.progress"

  it("is one line, rewritten at most ten times a second, and wiped at the end", function()
    local written = {}
    local out = { write = function(_, ...) written[#written + 1] = table.concat { ... } end, flush = function() end }
    local line = progress.new("svrg", { force = true, out = out })
    for k = 1, 1000 do
      line.update { epoch = 3, epochs = 5, fraction = 0.625, done = k, unit = "ex",
        shown = { { "loss", 0.3123 }, { "acc" } } }
    end
    assert.equal(1, #written)
    assert.equal("\rsvrg  epoch 3/5   62%  loss 0.312", written[1])
    line.clear()
    assert.matches("^\r +\r$", written[2])
    line.clear()
    assert.equal(2, #written)
  end)

  it("never wraps: what does not fit is left out", function()
    local terminal = require "perigee.terminal"
    local width, written = terminal.width, {}
    finally(function() terminal.width = width end)
    terminal.width = function() return 30 end
    local out = { write = function(_, ...) written[#written + 1] = table.concat { ... } end, flush = function() end }
    progress.new("svrg", { force = true, out = out }).update { epoch = 3, epochs = 5, fraction = 0.625, done = 1,
      unit = "ex", shown = { { "loss", 0.3123 }, { "acc", 0.5 } } }
    assert.equal("\rsvrg  epoch 3/5   62%", written[1])
  end)

  it("is silent where stderr is no terminal", function()
    local pipe = io.popen("[ -t 2 ] && echo yes || echo no")
    local terminal = pipe:read("l") == "yes"
    pipe:close()
    if not terminal then assert.is_false(progress.new("x").is_due()) end
  end)
end)

describe("pg.train", function()
  it("learns, and reports the accuracy at the end", function()
    local before, after = train { epochs = 0.2 }, train { epochs = 40 }
    assert.is_true(after.metrics.loss < before.metrics.loss)
    assert.is_true(after.metrics.accuracy > 0.8)
  end)

  it("counts gradient evaluations per example: steps, passes and evaluations apart", function()
    local plain = train()
    assert.equal(3 * N, plain.cost.steps)
    assert.equal(0, plain.cost.passes)
    assert.equal(3 * N, plain.cost.forward)
    local svrg = train { optimizer = pg.optim.svrg { lr = 0.1, every = pg.epochs(1) } }
    assert.equal(2 * 3 * N, svrg.cost.steps)
    assert.equal(3 * N, svrg.cost.passes)
    local late = train { optimizer = pg.optim.svrg { lr = 0.1, every = pg.epochs(1), start = pg.epochs(2) } }
    assert.equal(2 * N + 2 * N, late.cost.steps)
    assert.equal(N, late.cost.passes)
    -- a mega-batch is so many batches of the steps' size
    local mega = train { optimizer = pg.optim.svrg { lr = 0.1, mega = 2 } }
    assert.equal(3 * 2 * 16, mega.cost.passes)
  end)

  it("ends when a budget of gradients is spent, whatever the method", function()
    local c = pg.correction
    for name, correction in pairs {
      none = false, svrg = c.svrg { every = pg.epochs(1) }, late = c.svrg { start = pg.epochs(2) },
      falling = c.alpha_svrg { every = pg.epochs(0.5) }, lsvrg = c.lsvrg {}, page = c.page { p = 0.3 },
      sarah = c.sarah {}, plus = c.sarah { plus = 0.9 }, storm = c.storm {}, ahead = c.scsg { batches = 2 },
      mega = c.svrg { every = 3, mega = 2 },
    } do
      local seen
      local spent = train { epochs = "none", budget = { gradients = 700 }, optimizer = pg.optimizer {
        rule = pg.rule.sgd { lr = pg.schedule.linear { from = 0.1, to = 0.01, over = pg.whole_run } },
        correction = correction or nil,
      }, hooks = { on_step = function(ctx) seen = ctx.method.units.total_steps end } }
      local cost = spent.cost:gradients()
      assert(cost >= 700 and cost < 700 + N + 2 * 16, ("%s: %d gradients"):format(name, cost))
      if name ~= "plus" then assert.equal(spent.steps, seen, name) end
    end
  end)

  it("evaluates without side effects: the run is the same with and without", function()
    local often, never = train { eval_every = 0.2 }, train { eval_every = 0 }
    assert.equal(often.theta:bytes(), never.theta:bytes())
    assert.is_nil(rawget(never.metrics, "loss"))
  end)

  it("weights the short last batch of an evaluation by its count", function()
    local a, b = train { eval_batch = N }, train { eval_batch = 64 }
    assert.is_true(math.abs(a.metrics.loss - b.metrics.loss) < 1e-6)
    assert.is_true(math.abs(a.metrics.accuracy - b.metrics.accuracy) < 1e-6)
  end)

  it("is the same for the same seed and other for another", function()
    assert.equal(train().theta:bytes(), train().theta:bytes())
    assert.not_equal(train().theta:bytes(), train { seed = 3 }.theta:bytes())
  end)

  it("logs the mean loss since the line before", function()
    local each, thirds = train { epochs = 1 }, train { epochs = 1, log_every = 5 }
    local sum = 0
    for i = 1, 5 do sum = sum + each.history[i].loss end
    assert.is_true(math.abs(sum / 5 - thirds.history[1].loss) < 1e-15)
    assert.equal(N, thirds.history[1].gradients)
    local curve = each:curve("loss", "gradients")
    assert.equal(5, #curve.x)
  end)

  it("calls the hooks after every step and epoch", function()
    local steps, epochs = 0, {}
    train { hooks = { on_step = function(ctx, info)
      steps = steps + 1
      assert.equal("number", type(info.loss))
      assert.equal(steps - 1, ctx.step)
    end, on_epoch = function(ctx, epoch)
      epochs[#epochs + 1] = epoch
      assert.is_truthy(ctx.theta)
    end } }
    assert.equal(15, steps)
    assert.same({ 1, 2, 3 }, epochs)
  end)

  it("says when the loss is not finite any more", function()
    local ok, message = pcall(train, { optimizer = pg.optim.sgd { lr = 1e38 } })
    assert.is_false(ok)
    assert.matches("not finite at step", message, 1, true)
  end)

  it("refuses options that are misspelt, missing or contradictory", function()
    local function refused(changes, pattern)
      local ok, message = pcall(train, changes)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
    end
    refused({ bach = 3 }, "did you mean 'batch'")
    refused({ steps = 3 }, "only one of epochs, steps and budget")
    refused({ batch = 2.5 }, "whole number")
    refused({ optimizer = {} }, "optimizer")
    refused({ device = "cuda:0" }, "cpu")
  end)

  -- Batch norm: 70 examples of 6 numbers, the short last batch of 6 included.
  local x6 = pg.randn(key:fold("x6"), { N, 6 })
  local y6 = x6:sum(2):sin():reshape(N, 1)
  local normed_data = { train = pg.data.from { x = x6, y = y6 }, test = pg.data.from { x = x6, y = y6 } }
  local function train_normed(changes)
    local spec = { model = normed.model, data = normed_data, metrics = "none", loss = function(net, theta, batch, ctx)
      return ((net(theta, batch.x, ctx) - batch.y) ^ 2):mean()
    end }
    for k, v in pairs(changes or {}) do spec[k] = v end
    return train(spec)
  end

  it("begins with the model's buffers, returns them moved, and evaluates by them", function()
    local still = train_normed { optimizer = pg.optim.sgd { lr = 0 }, epochs = 60 }
    local z = x6:matmul(still.theta["1.weight"])
    -- the running mean of the first norm is an average over batches, so the mean over the data within its noise
    local off = (still.buffers["2.mean"] - z:mean(1)):abs():max():item()
    assert.is_true(off < 0.3 * z:std():item(), ("off by %g"):format(off))
    local d = normed.model(still.theta, x6, { buffers = still.buffers }) - y6
    assert.is_true(math.abs((d * d):mean():item() - still.metrics.loss) < 1e-6)
    assert.is_nil(train().buffers)
  end)

  it("ends with the same buffers however often it evaluated", function()
    local svrg = pg.optim.svrg { lr = 0.05, every = pg.epochs(1) }
    local often, never = train_normed { eval_every = 0.2, optimizer = svrg }, train_normed { eval_every = 0,
      optimizer = svrg }
    assert.equal(often.buffers:bytes(), never.buffers:bytes())
  end)

  it("takes theta and buffers to begin at", function()
    local first = train_normed()
    local second = train_normed { theta = first.theta, buffers = first.buffers, steps = 0, epochs = "none" }
    assert.equal(first.buffers:bytes(), second.buffers:bytes())
    assert.equal(first.metrics.loss, second.metrics.loss)
    for message, wrong in pairs { ["pg.train: buffers are a vector"] = { 1 },
      ["those given are of another model (152 numbers in 7): pg.train { buffers = }"] = first.theta } do
      local ok, raised = pcall(train_normed, { buffers = wrong })
      assert.is_false(ok)
      assert.matches(message, raised, 1, true)
    end
  end)

  it("runs full passes through the epoch's batches, since batch norm makes a gradient belong to its batch", function()
    local without_dropout = pg.nn.sequential {
      pg.nn.linear(6, 8), pg.nn.batch_norm(8), pg.nn.tanh(), pg.nn.linear(8, 1),
    }
    local watch = pg.rule.define { name = "watch", state = { "g" }, update = function(p, stats, s)
      s.g = stats.g
      return p
    end }
    -- What the rule sees in the steps of the second epoch, weighted by the batches' counts; the parameters stay.
    local function mean_of_epoch(correction)
      local mean
      train_normed { model = without_dropout, dtype = "f64", epochs = 2,
        optimizer = pg.optimizer { rule = watch, correction = correction },
        hooks = { on_step = function(ctx)
          if ctx.epoch < 1 then return end
          local part = (ctx.step == 9 and 6 or 16) / N * ctx.optimizer.rule.g
          mean = mean and mean + part or part
        end } }
      return mean
    end
    local plain, full = mean_of_epoch(), mean_of_epoch(pg.correction.svrg { every = pg.epochs(1) })
    local off = (plain - full):abs():max():item()
    assert.is_true(off < 1e-14, ("off by %g"):format(off))
    local whole = pg.optim.svrg { lr = 0.05, every = pg.epochs(1) }
    assert.equal(N, train { optimizer = whole, epochs = 1 }.state.pass_size)
  end)

  describe("with a directory", function()
    local root
    before_each(function() root = support.begin_runs() end)
    after_each(function() support.end_runs(root) end)

    -- A run made by make(spec) that crashes at one of these steps and is resumed ends as one that does not.
    local function crash_and_resume(make, optimizer, steps)
      local function at(name, stop_at)
        return make { out = root .. "/" .. name, checkpoint_every = { steps = 2 }, optimizer = optimizer,
          hooks = { on_step = function(ctx) if ctx.step == stop_at then error("crash") end end } }
      end
      local whole = at("whole")
      for _, stop_at in ipairs(steps) do
        run.end_invocation()
        run.begin_invocation { source = "--", root = root }
        local name = "crash" .. stop_at
        assert.is_false(pcall(at, name, stop_at))
        local found = assert(run.read_settings(root .. "/" .. name))
        run.end_invocation()
        run.begin_invocation { source = found.source, root = root, resume = found.resume }
        local resumed = at(name)
        for _, vector in ipairs { "theta", "buffers" } do
          assert.equal(whole[vector] and whole[vector]:bytes(), resumed[vector] and resumed[vector]:bytes())
        end
        assert.equal(whole.q.h:bytes(), resumed.q.h:bytes())
        assert.same(whole.history, resumed.history)
        assert.equal(whole.cost:gradients(), resumed.cost:gradients())
      end
      return whole
    end

    it("goes on after a crash in any step, a full pass and momentum included", function()
      crash_and_resume(train, pg.optim.ivon_poco { lr = 0.1, ess = N, h0 = 0.5, every = pg.epochs(1) }, { 1, 5, 9, 14 })
    end)

    it("resumes running statistics after a crash in any step", function()
      local whole = crash_and_resume(train_normed,
        pg.optim.ivon_poco { lr = 0.1, ess = N, h0 = 0.5, every = 4, batch_norm = "running" }, { 1, 4, 9 })
      assert.is_truthy(whole.buffers)
    end)

    it("goes on after a crash in pieces too: uneven ones, clipped, with running statistics", function()
      local function in_pieces(options)
        options.micro = 3
        return train_normed(options)
      end
      local optimizer = pg.optim.ivon_poco { lr = 0.1, ess = N, h0 = 0.5, every = 4, mega = 2 }:with {
        stages = { per_evaluation = { pg.stage.clip { norm = 0.5 } } } }
      assert.equal(4 * 2 * 16, crash_and_resume(in_pieces, optimizer, { 1, 4, 9 }).cost.passes)
    end)

    it("begins at another run's running statistics with from, and says when that run has none", function()
      local still = pg.optim.sgd { lr = 0 }
      local first = train_normed { out = root .. "/first" }
      local second = train_normed { out = root .. "/second", from = root .. "/first", optimizer = still }
      assert.equal(first.buffers:bytes(), second.buffers:bytes())
      assert.equal(first.steps, second.steps)
      local without = setmetatable({ layout = normed.model.layout }, { __call = getmetatable(normed.model).__call,
        __index = { init = normed.model.init } })
      train_normed { out = root .. "/third", model = without, eval_every = 0, optimizer = still }
      local ok, message = pcall(train_normed, { out = root .. "/fourth", from = root .. "/third" })
      assert.is_false(ok)
      assert.matches("third@15 keeps no buffers, which the model (running statistics) needs", message, 1, true)
    end)

    it("takes a step at least of a part of an epoch, and lets go of the directory in an error", function()
      assert.equal(1, train { out = root .. "/short", epochs = 0.01 }.steps)
      assert.is_false(pcall(train, { out = root .. "/broken", hooks = { on_step = function() error("oh") end } }))
      assert.is_false(require("perigee.core").data.exists(root .. "/broken/running"))
    end)

    it("begins at another run's parameters with from", function()
      local first = train { out = root .. "/first" }
      local second = train { out = root .. "/second", from = root .. "/first@15", epochs = 4,
        optimizer = pg.optim.sgd { lr = 0 } }
      assert.equal(first.theta:bytes(), second.theta:bytes())
      assert.same({ 20, first.cost.steps + N }, { second.steps, second.cost.steps })
    end)

    it("goes on from another run's step in memory too, and takes over no slots of another rule", function()
      local momentum = pg.optim.sgd { lr = 0.1, momentum = 0.9 }
      local first = train { out = root .. "/first", optimizer = momentum, checkpoint_every = { steps = 7 }, keep = 9 }
      local same = train { from = root .. "/first@7", optimizer = momentum }
      assert.equal(first.theta:bytes(), same.theta:bytes())
      assert.same(first.history, same.history)
      assert.is_true(first.state.rule.buf:norm():item() > 0)
      local still = pg.rule.define { name = "still", state = { "buf" }, update = function(p) return p + 0 end }
      local other = train { from = root .. "/first@7", optimizer = pg.optimizer { rule = still } }
      assert.equal(0, other.state.rule.buf:norm():item())
    end)

    it("says what does not fit", function()
      train { out = root .. "/first", checkpoint_every = { steps = 6 } }
      local function refused(changes, expected)
        local ok, message = pcall(train, changes)
        assert.is_false(ok)
        assert.matches(expected, message, 1, true)
      end
      local ivon = pg.optim.ivon { lr = 0.1, ess = N, h0 = 0.5 }
      refused({ from = root .. "/first@12", optimizer = ivon }, "first@12 keeps no q.h, which family diagonal needs")
      refused({ from = root .. "/first@12", model = pg.nn.sequential { pg.nn.linear(4, 3) } },
        "q.mean of " .. root .. "/first@12 is f32 with 67 numbers in 4 tensors, this run's f32 with 15 in 2")
      refused({ from = root .. "/first@12", epochs = 2 }, "lies beyond the end of this run, whose 10 steps count from")
      refused({ from = root .. "/first@13" }, "no checkpoint of that step, only of 15, 12; perigee branch ")
    end)
  end)
end)
