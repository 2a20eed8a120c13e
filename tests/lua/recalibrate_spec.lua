-- Facts about pg.nn.recalibrate: the running statistics it makes are plain averages over batches, computed here by
-- hand; it changes nothing it is given, and leaves buffers of other kinds alone.
local support = require "support"
local pg = support.pg
local nn = pg.nn

local N, BATCH = 50, 20

-- A network with two batch norms, the second behind a dropout, and a buffer that counts calls.
local counter = nn.module {
  buffers = { calls = { 1, init = 0 } },
  forward = function(self, x)
    self.calls = self.calls + 1
    return x
  end,
}
local model = nn.sequential { counter, nn.linear(3, 4), nn.batch_norm(4), nn.tanh(), nn.dropout(0.3), nn.linear(4, 5),
  nn.batch_norm(5) }
local theta = model:init(pg.key(2), "f64")
local data = pg.data.from { x = pg.randn(pg.key(1), { N, 3 }, "f64") }

local function used_buffers()
  local buffers = model:init_buffers("f64")
  buffers:segment_set(1, pg.tensor({ 7 }, "f64"))
  for i = 2, 5 do buffers:segment_set(i, pg.randn(pg.key(i), { i < 4 and 4 or 5 }, "f64"):abs()) end
  return buffers
end

-- Mean and unbiased variance of each column.
local function statistics(z)
  return z:mean(1), z:var(1) * (z.shape[1] / (z.shape[1] - 1))
end

-- Means over the batches of the statistics that both norms see, by hand; mask(batch): what dropout multiplies by.
local function by_hand(batches, mask)
  local sums
  for _, batch in ipairs(batches) do
    local z = batch.x:matmul(theta["2.weight"]) + theta["2.bias"]
    local hidden = ((z - z:mean(1)) / (z:var(1) + 1e-5):sqrt() * theta["3.weight"] + theta["3.bias"]):tanh()
    local found = { statistics(z) }
    found[3], found[4] = statistics((hidden * mask(batch)):matmul(theta["6.weight"]) + theta["6.bias"])
    for i = 1, 4 do found[i] = found[i] / #batches + (sums and sums[i] or 0) end
    sums = found
  end
  return sums
end

-- The dropout of this place in the model, from the keys that the documentation promises.
local function mask_of(key)
  return function(batch)
    local keys = key:fold(batch.id):fold(pg.tensor({ 5 }, "i64"):reshape {})
    return pg.dropout(pg.ones({ batch.x.shape[1], 4 }, "f64"), keys, 0.3)
  end
end

local function batches_of(source, count, key)
  local list = {}
  for _, batch in source:batches(BATCH, { count = count, key = key:fold("batches") }) do list[#list + 1] = batch end
  return list
end

local function assert_averages(want, got, tolerance)
  for i, name in ipairs { "3.running_mean", "3.running_var", "7.running_mean", "7.running_var" } do
    local d = support.difference(want[i]:totable(), got[name]:totable())
    assert(d < (tolerance or 1e-13), ("%s is off by %g"):format(name, d))
  end
end

describe("pg.nn.recalibrate", function()
  it("averages each batch's mean and unbiased variance plainly, the short last batch like any", function()
    local source, key = pg.evaluator.memory { x = data.x }, pg.key(6)
    for _, count in ipairs { 3, 2, 1 } do
      local batches = batches_of(source, count, key)
      assert.equal(count == 3 and N - 2 * BATCH or BATCH, batches[count].x.shape[1])
      local got = nn.recalibrate(model, theta, used_buffers(), source, { batch = BATCH, batches = count, key = key })
      assert_averages(by_hand(batches, mask_of(key)), got)
    end
  end)

  it("takes all the data by default, in an order drawn from the key", function()
    local function averages(seed) return nn.recalibrate(model, theta, used_buffers(), data,
      { batch = BATCH, key = pg.key(seed) }) end
    assert.equal(averages(1):bytes(), averages(1):bytes())
    assert.are_not.equal(averages(1):bytes(), averages(2):bytes())
    -- the mean over all the data does not depend on the order where batches are equal
    local function mean(seed)
      local got = nn.recalibrate(model, theta, used_buffers(), data, { batch = 25, key = pg.key(seed) })
      return got["3.running_mean"]
    end
    local want = (data.x:matmul(theta["2.weight"]) + theta["2.bias"]):mean(1)
    for seed = 1, 3 do assert(support.difference(want:totable(), mean(seed):totable()) < 1e-13) end
  end)

  it("changes nothing that it is given, and takes over buffers that are no running averages", function()
    local given = used_buffers()
    local before, point = given:bytes(), theta:bytes()
    local got = nn.recalibrate(model, theta, given, data)
    assert.equal(before, given:bytes())
    assert.equal(point, theta:bytes())
    assert.same({ 7 }, got["1.calls"]:totable())
    assert.equal(model.buffer_layout, got.layout)
  end)

  it("does not look at the running statistics there were, finite or not", function()
    local given = used_buffers()
    local want = nn.recalibrate(model, theta, given, data)
    given:segment_set(2, pg.full({ 4 }, 0 / 0, "f64"))
    assert.equal(want:bytes(), nn.recalibrate(model, theta, given, data):bytes())
  end)

  it("makes prediction agree with training on one batch, up to the unbiased variance", function()
    local plain = nn.sequential { nn.linear(3, 4), nn.batch_norm(4, { eps = 1e-12 }) }
    local at, x = plain:init(pg.key(3)), data:all()
    local running = nn.recalibrate(plain, at, plain:init_buffers(), data, { batch = N })
    local predicted = plain(at, x.x, { buffers = running })
    local trained = plain(at, x.x, { train = true })
    assert(((predicted * (N / (N - 1)) ^ 0.5) - trained):abs():max():item() < 1e-5)
  end)

  it("calls the model through a loss where one is given, and a module's own running averages count", function()
    local seen = nn.module {
      buffers = { level = { init = 0, running = true } },
      forward = function(self, x, ctx)
        local m = ctx.momentum or 0.1
        self.level = (1 - m) * self.level + m * x:mean()
        return x
      end,
    }
    local function loss(net, at, batch, ctx) return net(at, 3 * batch.x, ctx):mean() end
    local got = nn.recalibrate(seen, seen:init(pg.key(1), "f64"), seen:init_buffers("f64"), data, { batch = 25,
      loss = loss })
    assert(math.abs(got["level"]:item() - 3 * data.x:mean():item()) < 1e-14)
  end)

  it("says what is wrong", function()
    local buffers = used_buffers()
    local stateless = nn.linear(3, 2)
    for pattern, f in pairs {
      ["a model comes first, not 3"] = function() nn.recalibrate(3, theta, buffers, data) end,
      ["none were given: pg.nn.recalibrate(model, theta, run.buffers, data)"] =
        function() nn.recalibrate(model, theta, nil, data) end,
      ["a split, as data.train, or a source of batches was expected fourth, not 7"] =
        function() nn.recalibrate(model, theta, buffers, 7) end,
      ["unknown option 'batchs' of pg.nn.recalibrate; did you mean 'batches'?"] =
        function() nn.recalibrate(model, theta, buffers, data, { batchs = 3 }) end,
      ["batch must be a positive whole number, not 0"] =
        function() nn.recalibrate(model, theta, buffers, data, { batch = 0 }) end,
      ["the model keeps no buffers, so there is nothing to average"] =
        function() nn.recalibrate(stateless, stateless:init(pg.key(1)), nil, data) end,
    } do
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
      assert.matches("recalibrate_spec.lua:%d+: ", message)
    end
  end)
end)
