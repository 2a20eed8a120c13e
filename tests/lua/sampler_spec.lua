-- Facts about samplers: a batch with weights has the loss and gradient of its examples so weighted, places that nobody
-- has change nothing, whatever the loss is made of; and draws come out as often as their probabilities say.
local support = require "support"
local pg, core = support.pg, support.core
local poisson = require "perigee.sampler_poisson"
local files = require "files"
local run = require "perigee.run"

local refusal = support.refusal

local N = 60
local x = pg.randn(pg.key(1), { N, 5 }, "f64")
local y = (x:sum(2) * 2):floor():clip(-1, 1):to("i32") + 1
local data = pg.data.from { x = x, y = y }
local net = pg.nn.sequential { pg.nn.linear(5, 4), pg.nn.tanh(), pg.nn.dropout(0.4), pg.nn.linear(4, 3) }

-- A mean of cross entropies, a penalty, and a number beside the loss.
local function loss(model, theta, batch, ctx)
  local z = model(theta, batch.x, ctx)
  return pg.cross_entropy(z, batch.y) + 0.01 * (theta * theta):sum(), z:mean()
end

local function rows_of(indices, weights, count)
  local rows = core.tensor("i64", { #indices }, indices)
  local batch = { x = pg.take(x, rows), y = pg.take(y, rows), id = rows, count = count }
  if weights then batch.sample_weight = core.tensor("f64", { #weights }, weights) end
  return batch
end

-- What one step at lr 1 makes of the parameters, and its loss, aux and cost.
local function step(batch, more)
  more = more or {}
  local eval = pg.evaluator { model = net, key = pg.key(3), micro = more.micro, loss = more.loss or loss,
    source = pg.evaluator.memory { x = x, y = y } }
  local opt = pg.optimizer { rule = more.rule or pg.rule.sgd { lr = 1 }, stages = more.stages, family = more.family,
    correction = more.correction }
  local st = opt:init(net:init(pg.key(5), "f64"))
  for _ = 1, more.steps or 1 do
    local _, info = opt:step(st, eval, batch)
    st.seen = { loss = info.loss, aux = info.aux[1] and info.aux[1]:item() }
  end
  return st
end

local function agree(a, b, bound)
  assert(support.difference(a.theta:totable(), b.theta:totable()) < (bound or 1e-13))
  assert(math.abs(a.seen.loss - b.seen.loss) < (bound or 1e-13))
  assert(math.abs((a.seen.aux or 0) - (b.seen.aux or 0)) < (bound or 1e-13))
end

local FULL, PADDED = { 3, 1, 4, 15 }, { 3, 1, 4, 15, 9, 2 }
local QUARTERS = { 0.25, 0.25, 0.25, 0.25, 0, 0 }

describe("a batch with weights", function()
  it("of one over their number is the mean of its examples, dropout, penalty and aux included", function()
    agree(step(rows_of(FULL)), step(rows_of(FULL, { 0.25, 0.25, 0.25, 0.25 })))
  end)

  it("of 0 at places without an example is the smaller batch, and costs what that costs", function()
    local small, padded = step(rows_of(FULL)), step(rows_of(PADDED, QUARTERS, 4))
    agree(small, padded)
    assert.are.equal(small.cost:gradients(), padded.cost:gradients())
  end)

  it("is evaluated in pieces alike", function()
    for _, micro in ipairs { 2, 4, 5 } do
      local whole = step(rows_of(PADDED, { 0.1, 0.2, 0.3, 0.05, 0, 0.4 }, 5))
      local pieces = step(rows_of(PADDED, { 0.1, 0.2, 0.3, 0.05, 0, 0.4 }, 5), { micro = micro })
      assert(support.difference(whole.theta:totable(), pieces.theta:totable()) < 1e-13)
      assert(math.abs(whole.seen.loss - pieces.seen.loss) < 1e-13)
    end
  end)

  it("has the sum of weight times each example's loss and gradient", function()
    local weights, want, total = { 2, 0.5, -1, 3 }, 0, 0
    local start = net:init(pg.key(5), "f64")
    for i, index in ipairs(FULL) do
      local one = step(rows_of { index })
      want, total = want + weights[i] * (one.theta - start), total + weights[i] * one.seen.loss
    end
    local got = step(rows_of(FULL, weights))
    assert(support.difference((got.theta - start):totable(), want:totable()) < 1e-13)
    assert(math.abs(got.seen.loss - total) < 1e-13)
  end)

  it("goes with families that sample and that ask for curvature, corrections, and stages of single examples", function()
    local clip = { per_evaluation = { pg.stage.private { clip = 0.2, noise_multiplier = 0 } } }
    local dice = { per_evaluation = { pg.stage.dice { clip = 0.1 } } }
    for _, more in ipairs {
      { family = pg.family.diagonal { ess = 100, samples = 2 }, rule = pg.rule.ivon { lr = 0.1 } },
      { family = pg.family.full { ess = 100 }, rule = pg.rule.newton { lr = 0.1 } },
      { correction = pg.correction.svrg { every = 2 }, steps = 3 }, { correction = pg.correction.storm {}, steps = 3 },
      { stages = clip }, { stages = dice, steps = 3 },
    } do
      agree(step(rows_of(FULL), more), step(rows_of(PADDED, QUARTERS, 4), more), 1e-12)
    end
  end)

  it("of images is right through convolutions, pooling, group norm and augmentation, over SAM too", function()
    local images, ids = pg.randn(pg.key(6), { 6, 1, 8, 8 }, "f64"), core.tensor("i64", { 6 }, { 0, 1, 2, 3, 4, 5 })
    local labels = core.tensor("i32", { 6 }, { 0, 1, 2, 0, 1, 2 })
    local model = pg.nn.sequential { pg.nn.conv2d(1, 2, 3, { pad = 1 }), pg.nn.tanh(), pg.nn.max_pool2d(2),
      pg.nn.group_norm(1, 2), pg.nn.flatten(), pg.nn.dropout(0.2), pg.nn.linear(32, 3) }
    local eval = pg.evaluator { model = model, key = pg.key(3), loss = function(m, theta, batch, ctx)
      return pg.cross_entropy(m(theta, pg.augment.crop_flip(batch.x, ctx, { pad = 2 }), ctx), batch.y)
    end }
    for _, family in ipairs { pg.family.point {}, pg.family.sam { rho = 0.1 } } do
      local function one_step(batch)
        local opt = pg.optimizer { rule = pg.rule.sgd { lr = 1 }, family = family }
        local st = opt:init(model:init(pg.key(5), "f64"))
        local _, info = opt:step(st, eval, batch)
        st.seen = { loss = info.loss }
        return st
      end
      local first = { 1, 4 }
      agree(one_step { x = images:slice(first), y = labels:slice(first), id = ids:slice(first) },
        one_step { x = images, y = labels, id = ids, count = 4, sample_weight = core.tensor("f64", { 6 }, QUARTERS) })
    end
  end)

  it("without ids draws apart for each row", function()
    local batch = rows_of({ 7, 7 }, { 1, -1 })
    assert(step(batch).seen.loss == 0)
    batch.id = nil
    assert(step(batch).seen.loss ~= 0) -- other dropout masks
  end)

  it("may be empty", function()
    local st = step(rows_of(PADDED, { 0, 0, 0, 0, 0, 0 }, 0), { rule = pg.rule.sgd { lr = 1, momentum = 0.9 } })
    assert.are.same(net:init(pg.key(5), "f64"):totable(), st.theta:totable())
    assert.are.equal(0, st.seen.loss)
    assert.are.equal(0, st.cost:gradients())
  end)

  it("is refused where examples have no loss of their own, with the reason", function()
    local normed = pg.nn.sequential { pg.nn.linear(5, 3), pg.nn.batch_norm(3) }
    local opt = pg.optim.sgd { lr = 1 }
    local st = opt:init(normed:init(pg.key(1), "f64"), nil, normed:init_buffers("f64"))
    assert.matches("batch norm.*layer norm, or a sampler", refusal(opt.step, opt, st,
      pg.evaluator { model = normed, loss = loss }, rows_of(PADDED, QUARTERS, 4)))
    assert.matches("sample_weight must be a float tensor %[6%]", refusal(step, rows_of(PADDED, { 1, 2 }, 4)))
    assert.matches("without batch.count and batch.sample_weight", refusal(step, rows_of(PADDED, QUARTERS, 4),
      { correction = pg.correction.saga {} }))
    assert.matches("field cannot be called 'sample_weight'", refusal(pg.data.from, { x = x, sample_weight = y }))
  end)
end)

-- ---- draws ----------------------------------------------------------------------------------------------------------

local KEY = pg.key(11)

-- How often each example was drawn in `steps` steps, the counts of the batches, and the sum over steps of f(batch).
local function tally(sampler, steps, f)
  local times, counts = {}, {}
  for i = 0, N - 1 do times[i] = 0 end
  for k = 0, steps - 1 do
    local batch = sampler:at(k)
    counts[k] = batch.count or batch.id.shape[1]
    local weights = batch.sample_weight and batch.sample_weight:totable()
    for i, id in ipairs(batch.id:totable()) do
      if not weights or weights[i] > 0 then times[id] = times[id] + 1 end
    end
    if f then f(batch) end
  end
  return times, counts
end

describe("Poisson sampling", function()
  it("takes each example by a coin of its own: counts are binomial, pairs independent", function()
    local steps, rate = 4000, 0.1
    local together = 0
    local times, counts = tally(pg.sampler.poisson { rate = rate }:bind(data, KEY, "f64"), steps, function(batch)
      local seen, weights = {}, batch.sample_weight:totable()
      for i, id in ipairs(batch.id:totable()) do
        if weights[i] > 0 then
          assert.is_nil(seen[id]) -- none twice
          seen[id] = true
          assert(math.abs(weights[i] - 1 / (rate * N)) < 1e-15)
        end
      end
      -- neighbours, the ends included, where a wrong gap or a wrong start would show
      for id = 0, N - 1 do together = together + (seen[id] and seen[(id + 1) % N] and 1 or 0) end
    end)
    for i = 0, N - 1 do
      local deviation = math.sqrt(steps * rate * (1 - rate))
      assert(math.abs(times[i] - steps * rate) < 4.5 * deviation, ("example %d: %d times"):format(i, times[i]))
    end
    local pairs_of_neighbours, p = steps * N, rate * rate
    assert(math.abs(together - pairs_of_neighbours * p) < 4.5 * math.sqrt(pairs_of_neighbours * p), together)
    local mean, square = 0, 0
    for k = 0, steps - 1 do mean, square = mean + counts[k] / steps, square + counts[k] ^ 2 / steps end
    local variance = N * rate * (1 - rate)
    assert(math.abs(mean - N * rate) < 4.5 * math.sqrt(variance / steps), mean)
    assert(math.abs((square - mean ^ 2) / variance - 1) < 4.5 * math.sqrt(2 / steps), square - mean ^ 2)
  end)

  it("with probability 1 is everything, once", function()
    local times, counts = tally(pg.sampler.poisson { rate = 1 }:bind(data, KEY, "f64"), 3)
    for i = 0, N - 1 do assert.are.equal(3, times[i]) end
    assert.are.equal(N, counts[2])
  end)

  it("is a function of key and step", function()
    local nine = pg.sampler.poisson { batch = 9 }
    local one, other = nine:bind(data, KEY), nine:bind(data, KEY)
    for k = 0, 9 do other:at(k) end
    for _, k in ipairs { 7, 2, 5 } do
      assert.are.same(one:at(k).id:totable(), other:at(k).id:totable())
      assert.are.equal(one:at(k).count, other:at(k).count)
    end
    assert.are_not.same(one:at(1).id:totable(), one:at(2).id:totable())
    assert.are_not.same(one:at(1).id:totable(), nine:bind(data, pg.key(12)):at(1).id:totable())
  end)

  it("knows how probable an overflow is", function()
    -- sums of binomial probabilities in exact fractions
    assert(math.abs(poisson.tail(200, 0.1, 30) / 0.009508311946973259 - 1) < 1e-11)
    assert(math.abs(poisson.tail(200, 0.1, 10) / 0.9919287500448973 - 1) < 1e-12)
    assert(math.abs(poisson.tail(50, 0.3, 15) / 0.4308215639065559 - 1) < 1e-12)
    local sampler = pg.sampler.poisson { batch = 6 }:bind(data, KEY)
    assert(sampler.overflow <= 1e-9 and poisson.tail(N, 0.1, sampler.rows - 1) > 1e-9)
  end)

  it("stops at an overflow, or cuts off examples that are nobody's in particular and counts the step", function()
    local sampler = pg.sampler.poisson { rate = 0.5, capacity = 20 }:bind(data, KEY)
    assert.matches("more than 20 examples at step 0.*raise capacity", refusal(sampler.at, sampler, 0))
    local steps = 2000
    local cut = pg.sampler.poisson { rate = 0.5, capacity = 25, overflow = "truncate" }:bind(data, KEY)
    local truncated = 0
    local times = tally(cut, steps, function() truncated = truncated + (cut.truncated and 1 or 0) end)
    local p = poisson.tail(N, 0.5, 25)
    assert(math.abs(truncated - steps * p) < 4.5 * math.sqrt(steps * p * (1 - p)), truncated)
    local sum = 0
    for i = 0, N - 1 do sum = sum + times[i] / N end
    for i = 0, N - 1 do assert(math.abs(times[i] - sum) < 4.5 * math.sqrt(sum), i) end
  end)

  it("averages by the expected number, or by that which came", function()
    local expected = pg.sampler.poisson { batch = 3 }:bind(data, KEY, "f64")
    local counted = pg.sampler.poisson { batch = 3, average = "count" }:bind(data, KEY, "f64")
    local empty = 0
    for k = 0, 99 do
      local a, b = expected:at(k), counted:at(k)
      assert(math.abs(a.sample_weight:sum():item() - a.count / 3) < 1e-12)
      assert(math.abs(b.sample_weight:sum():item() - (b.count > 0 and 1 or 0)) < 1e-12)
      empty = empty + (a.count == 0 and 1 or 0)
    end
    assert(empty > 0)
  end)
end)

describe("sampling with replacement", function()
  it("draws every example alike", function()
    local steps, batch = 500, 24
    local times = tally(pg.sampler.replacement { batch = batch }:bind(data, KEY), steps)
    local want, chi2 = steps * batch / N, 0
    for i = 0, N - 1 do chi2 = chi2 + (times[i] - want) ^ 2 / want end
    assert(chi2 < N - 1 + 4.5 * math.sqrt(2 * (N - 1)), chi2)
  end)

  it("by weights draws in proportion, and corrects for it so that the expected loss is everybody's", function()
    local weights = {}
    for i = 1, N do weights[i] = i % 4 end -- some never
    local sampler = pg.sampler.weighted { batch = 8, weights = weights }:bind(data, KEY, "f64")
    local steps, total = 3000, 0
    for i = 1, N do total = total + weights[i] end
    local sums = {}
    local times = tally(sampler, steps, function(batch)
      local given = batch.sample_weight:totable()
      for i, id in ipairs(batch.id:totable()) do sums[id] = (sums[id] or 0) + given[i] end
    end)
    for i = 0, N - 1 do
      local p = weights[i + 1] / total
      assert(math.abs(times[i] - 8 * steps * p) <= 4.5 * math.sqrt(8 * steps * p), i)
      if p > 0 then assert(math.abs(sums[i] / steps * N - 1) < 4.5 / math.sqrt(8 * steps * p), i) end
    end
    local plain = pg.sampler.weighted { batch = 8, weights = weights, correct = false }:bind(data, KEY)
    assert.is_nil(plain:at(0).sample_weight)
    assert.are.same(sampler:at(3).id:totable(), plain:at(3).id:totable())
  end)

  it("refuses weights that are none", function()
    local function bind(weights) return pg.sampler.weighted { batch = 8, weights = weights }:bind(data, KEY) end
    assert.matches("weights has 2 numbers, the data 60", refusal(bind, { 1, 2 }))
    assert.matches("weight 1 is %-1", refusal(bind, function(split)
      local list = {}
      for i = 1, split.n do list[i] = -i end
      return list
    end))
    assert.matches("all weights are 0", refusal(bind, pg.zeros { N }))
  end)
end)

describe("a sampler of one's own", function()
  local function every_third(more)
    return pg.sampler.define { name = "thirds", capacity = 30, expected = 15, sample = function(key, k, n)
      local indices, weights = {}, more and {}
      local shift = math.floor(pg.uniform(key):item() * 3)
      for i = shift, n - 1, 3 + k do
        indices[#indices + 1] = i
        if more then weights[#weights + 1] = 2 end
      end
      return indices, weights
    end }
  end

  it("says which examples, with which weights, and how many", function()
    local sampler = every_third():bind(data, KEY, "f64")
    local batch = sampler:at(2)
    assert.are.equal(12, batch.count)
    assert(math.abs(batch.sample_weight:sum():item() - 1) < 1e-14)
    local heavy = every_third(true):bind(data, KEY, "f64"):at(2)
    assert(math.abs(heavy.sample_weight:sum():item() - 12 * 2 / 15) < 1e-14)
    assert.are.same(batch.id:totable(), heavy.id:totable())
    assert.are.equal(4, sampler.per_epoch)
  end)

  it("is told what is wrong with what it gives", function()
    local function bind(sample, more)
      local given = { name = "bad", sample = sample }
      for name, value in pairs(more or { batch = 2 }) do given[name] = value end
      return pg.sampler.define(given):bind(data, KEY)
    end
    assert.matches("sampler bad: sample gave 3 examples; batch is 2", refusal(bind, function() return { 1, 2, 3 } end))
    assert.matches("capacity is 2", refusal(bind, function() return { 1, 2, 3 } end, { capacity = 2 }))
    assert.matches("index 2 is 60", refusal(bind, function() return { 1, N } end))
    assert.matches("2 indices and 1 weights", refusal(bind, function() return { 1, 2 }, { 1 } end))
    assert.matches("indices as a list", refusal(bind, function() end))
    assert.matches("needs one of batch", refusal(pg.sampler.define, { name = "bad", sample = print }))
    assert.matches("give one of rate and batch", refusal(pg.sampler.poisson, {}))
    assert.matches("rate is a probability", refusal(pg.sampler.poisson, { rate = 2 }))
    assert.matches('did you mean "?\'?rate', refusal(pg.sampler.poisson, { rat = 2 }))
  end)
end)

-- ---- training -------------------------------------------------------------------------------------------------------

describe("pg.train with a sampler", function()
  local root
  before_each(function() root = support.begin_runs() end)
  after_each(function() support.end_runs(root) end)

  local function train(sampler, more)
    local spec = { model = net, data = { train = data, test = data }, loss = loss, sampler = sampler, out = false,
      optimizer = pg.optim.sgd { lr = 0.2 }, dtype = "f64", epochs = not (more and more.steps) and 3 or nil }
    for name, value in pairs(more or {}) do spec[name] = value or nil end
    return pg.train(spec)
  end

  it("goes on from a crash bit for bit, counts of empty batches included", function()
    local samplers = { pg.sampler.poisson { batch = 2 }, pg.sampler.replacement { batch = 7 },
      pg.sampler.weighted { batch = 7, weights = function(split) return pg.uniform(pg.key(4), { split.n }) end } }
    for i, sampler in ipairs(samplers) do
      local function make(stop)
        return train(sampler, { name = "s" .. i, out = root .. "/s" .. i .. (stop and "x" or ""), hash_every = 1,
          checkpoint_every = { steps = 2 }, hooks = { on_step = function(ctx)
            if ctx.step == stop then error("crash") end
          end } })
      end
      local whole = make()
      assert.is_false(pcall(make, 5))
      local directory = root .. "/s" .. i .. "x"
      local found = assert(run.read_settings(directory))
      run.end_invocation()
      run.begin_invocation { source = found.source, root = root, resume = found.resume }
      local resumed = make(-1)
      assert.equal(whole.theta:bytes(), resumed.theta:bytes())
      assert.same(whole.history, resumed.history)
      assert.same(whole.sampling, resumed.sampling)
      if i == 1 then assert(whole.sampling.empty > 0) end
    end
  end)

  it("counts what it evaluates, and its passes are those of any sampler", function()
    local svrg = pg.optim.svrg { lr = 0.1, every = pg.epochs(1) }
    local result = train(pg.sampler.poisson { batch = 6 }, { optimizer = svrg })
    assert.equal(3 * N, result.cost.passes)
    local drawn = 0
    local sampler = pg.sampler.poisson { batch = 6 }:bind(data, pg.key(1), "f64")
    for k = 0, 29 do drawn = drawn + sampler:at(k).count end
    assert.equal(2 * drawn, result.cost.steps)
  end)

  it("ends by a budget, also where less than one example is expected in a step", function()
    local optimizer = pg.optim.svrg { lr = pg.schedule.cosine { peak = 0.1 }, every = pg.epochs(1) }
    for _, expected in ipairs { 6, 0.5 } do
      local result = train(pg.sampler.poisson { batch = expected }, { optimizer = optimizer, epochs = false,
        budget = { gradients = 400 } })
      local spent = result.cost:gradients()
      assert(spent >= 400 and spent < 400 + 60, spent)
    end
  end)

  it("at the snapshot has the full gradient, whichever batch came", function()
    local watch = pg.rule.define { name = "watch", state = { "g" }, hyper = { lr = 1 },
      update = function(p, stats, s)
        s.g = stats.g
        return p
      end }
    local function seen(seed, sampler)
      return train(sampler, { seed = seed, steps = 1, theta = net:init(pg.key(5), "f64"),
        loss = function(model, theta, batch) return pg.cross_entropy(model(theta, batch.x), batch.y) end,
        optimizer = pg.optimizer { rule = watch, correction = pg.correction.svrg { every = 9 } } }).state.rule.g:bytes()
    end
    local poisson_6, weighted = pg.sampler.poisson { batch = 6 }, pg.sampler.weighted { batch = 5,
      weights = function(split) return pg.uniform(pg.key(4), { split.n }) end }
    assert.equal(seen(1, poisson_6), seen(2, poisson_6))
    assert.equal(seen(1, poisson_6), seen(1, weighted))
  end)

  it("stands up to `perigee check`", function()
    local path, runs = root .. ".lua", root .. "-check"
    files.write(path, [[
      local pg = require "perigee"
      local x = pg.randn(pg.key(1), { 60, 5 })
      local data = pg.data.from { x = x, y = x:sum(2):gt(0):to("i32") }
      local net = pg.nn.sequential { pg.nn.linear(5, 2) }
      for name, sampler in pairs { poisson = pg.sampler.poisson { batch = 6 },
        replacement = pg.sampler.replacement { batch = 6 } } do
        pg.train { name = name, model = net, data = data, sampler = sampler, epochs = 2,
          optimizer = pg.optim.svrg { lr = 0.1, every = 4 },
          loss = function(model, theta, batch, ctx) return pg.cross_entropy(model(theta, batch.x, ctx), batch.y) end }
      end
    ]])
    local perigee = os.getenv "PERIGEE" or "build/perigee"
    local pipe = assert(io.popen(("%s check --runs %s %s 2>&1"):format(perigee, runs, path)))
    local text = pipe:read("a")
    assert(pipe:close(), text)
    assert.are.equal(6, select(2, text:gsub("ok  ", "")), text)
    os.execute(("rm -rf '%s' '%s'"):format(path, runs))
  end)

  it("refuses what goes by batches that come again", function()
    local function try(correction)
      return refusal(train, pg.sampler.replacement { batch = 6 }, { optimizer = pg.optimizer {
        rule = pg.rule.sgd { lr = 0.1 }, correction = correction } })
    end
    assert.matches("correction saga keeps a table.*replacement draws each batch afresh", try(pg.correction.saga {}))
    assert.matches("locks the partition", try(pg.correction.svrg { every = 5, lock = { partition = true } }))
    assert.matches("cache", try(pg.correction.svrg { every = 5, cache = "memory" }))
    assert.matches("sampler must be a sampler", refusal(train, 7))
    assert.matches("sampler says how many", refusal(train, pg.sampler.replacement { batch = 6 }, { batch = 6 }))
    assert.matches("batch is 61, but the data has only 60", refusal(train, pg.sampler.poisson { batch = 61 }))
  end)

  it("of private gradients divides by the expected number, and of an empty batch keeps the noise", function()
    local counts, sampler = {}, pg.sampler.poisson { batch = 1 }:bind(data, pg.key(1), "f64")
    for k = 0, 9 do counts[k] = sampler:at(k).count end
    local stage = pg.stage.private { clip = 0.5, noise_multiplier = 2 }
    local function moved(k, given)
      local result = train(pg.sampler.poisson { batch = 1 }, { steps = k,
        theta = net:init(pg.key(5), "f64"), optimizer = pg.optimizer { rule = pg.rule.sgd { lr = 1 },
          stages = { per_evaluation = { given } } } })
      return result.theta - net:init(pg.key(5), "f64")
    end
    -- one example expected: the noise alone has deviation 0.5 · 2 / 1 in each of theta's 39 numbers
    assert(counts[0] == 0 or counts[1] == 0 or counts[2] == 0)
    local k = counts[0] == 0 and 0 or counts[1] == 0 and 1 or 2
    local jump = moved(k + 1, stage) - moved(k, stage)
    local norm = math.sqrt((jump * jump):sum():item() / 39)
    assert(norm > 0.6 and norm < 1.4, norm)
    -- without noise a step's gradient is at most count · clip / expected
    for j = 0, 9 do
      local quiet = pg.stage.private { clip = 0.5, noise_multiplier = 0 }
      local d = moved(j + 1, quiet) - moved(j, quiet)
      local length = math.sqrt((d * d):sum():item())
      assert(length <= 0.5 * counts[j] + 1e-12, length)
      if counts[j] == 1 then assert(length > 0.49, length) end -- the loss has gradients longer than 0.5
    end
  end)
end)

describe("streams", function()
  -- Two problems on one theta: the mean of an outer stream's rows pulls, and so do the step's own.
  local outer = pg.data.from { x = pg.randn(pg.key(21), { 7, 2 }, "f64") + 5 }
  local inner = pg.data.from { x = pg.randn(pg.key(22), { 9, 2 }, "f64") }
  local zero = pg.data.from { x = pg.zeros({ 4, 2 }, "f64") }
  local function square(theta, rows)
    local d = rows - theta:flat()
    return (d * d):sum(2):mean()
  end
  local function train(more)
    local spec = { name = "streams", data = inner, theta = support.flat("f64", { 0, 0 }), dtype = "f64", steps = 10,
      batch = 3, out = false, optimizer = pg.optim.sgd { lr = 0.1 }, streams = { outer = { data = outer, batch = 3 } },
      loss = function(_, theta, batch) return square(theta, batch.x) + square(theta, batch.outer.x) end }
    for name, value in pairs(more or {}) do spec[name] = value or nil end
    return pg.train(spec)
  end

  it("reach the loss by name, each example once an epoch of its own", function()
    local seen = {}
    local drawn = require "perigee.sampler_drawn"
    local source = drawn.going_round(outer, pg.key(1):fold("stream outer"), "f64", 3)
    for k = 0, 6 do
      for _, id in ipairs(source:at(k).id:totable()) do seen[#seen + 1] = id end
    end
    for epoch = 0, 2 do
      local part = table.move(seen, 7 * epoch + 1, 7 * epoch + 7, 1, {})
      table.sort(part)
      assert.are.same({ 0, 1, 2, 3, 4, 5, 6 }, part)
    end
    -- by hand: the same steps
    local theta = { 0, 0 }
    local own = pg.sampler.shuffled(inner, 3, pg.key(1), { dtype = "f64" })
    for k = 0, 9 do
      local a, b = own:at(k).x:mean(1):totable(), source:at(k).x:mean(1):totable()
      for j = 1, 2 do theta[j] = theta[j] + 0.2 * (a[j] + b[j] - 2 * theta[j]) end
    end
    assert(support.difference(train().theta:totable(), theta) < 1e-13)
  end)

  it("go with weights, pieces, single examples, samplers and several names", function()
    local plain = train()
    assert(support.difference(train({ micro = 3 }).theta:totable(), plain.theta:totable()) < 1e-13)
    local private = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, stages = { per_evaluation = {
      pg.stage.private { clip = 1e300, noise_multiplier = 0 } } } }
    assert(support.difference(train({ optimizer = private }).theta:totable(), plain.theta:totable()) < 1e-13)
    local all = pg.sampler.define { name = "all", capacity = 12, sample = function(_, _, n)
      local indices = {}
      for i = 0, n - 1 do indices[#indices + 1] = i end
      return indices
    end }
    local result = train { batch = false, sampler = all, streams = { a = { data = outer, sampler = all },
      b = { data = zero, batch = 4 } }, steps = 300, loss = function(_, theta, batch)
      local d = batch.a.x - theta:flat()
      local weighted = (batch.a.sample_weight:unsqueeze(2) * d * d):sum()
      return square(theta, batch.x) + weighted + square(theta, batch.b.x)
    end }
    local want = (inner.x:mean(1) + outer.x:mean(1)) / 3
    assert(support.difference(result.theta:totable(), want:totable()) < 1e-12)
  end)

  it("refuse passes, and what is no stream", function()
    local svrg = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, correction = pg.correction.svrg { every = 3 } }
    assert.matches("correction svrg takes passes", refusal(train, { optimizer = svrg }))
    local storm = pg.optimizer { rule = pg.rule.sgd { lr = 0.1 }, correction = pg.correction.storm {} }
    assert.is_truthy(train({ optimizer = storm }))
    assert.matches("streams.outer needs one of batch", refusal(train, { streams = { outer = { data = outer } } }))
    local no_data = { outer = { data = 3, batch = 1 } }
    assert.matches("streams.outer.data must be a split", refusal(train, { streams = no_data }))
    assert.matches("is no name of a field", refusal(train, { streams = { ["a.b"] = { data = outer, batch = 1 } } }))
  end)

  it("of a loop of one's own have orders of their own, and may be drawn by any sampler", function()
    local seen = { a = {}, b = {}, plain = {}, counts = {} }
    local split = pg.data.from { x = pg.zeros { 12, 1 } }
    pg.run { name = "loop", steps = 6, out = false, state = {}, step = function(_, ctx)
      for _, stream in ipairs { "a", "b" } do
        local ids = ctx:batch(split, 4, { stream = stream }).id:totable()
        seen[stream][#seen[stream] + 1] = table.concat(ids, " ")
      end
      seen.plain[#seen.plain + 1] = table.concat(ctx:batch(split, 4).id:totable(), " ")
      seen.counts[#seen.counts + 1] = ctx:batch(split, pg.sampler.poisson { batch = 4 }, { stream = "c" }).count
    end }
    assert.are_not.same(seen.a, seen.b)
    assert.are_not.same(seen.a, seen.plain)
    local ids = {}
    for id in table.concat(table.move(seen.a, 1, 3, 1, {}), " "):gmatch "%d+" do ids[#ids + 1] = tonumber(id) end
    table.sort(ids)
    assert.are.same({ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 }, ids)
    assert.are.equal(6, #seen.counts)
  end)
end)
