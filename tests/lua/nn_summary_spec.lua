-- Facts about model:summary and model:costs: floating-point operations, memory and shapes against counts by hand, one
-- row for each call in the order of calls, and text that a person can read.
local pg = require("support").pg
local nn = pg.nn

local function lenet(activation, pool)
  return nn.sequential {
    nn.conv2d(1, 6, 5, { pad = 2 }), activation(), pool(2), nn.conv2d(6, 16, 5), activation(), pool(2), nn.flatten(),
    nn.linear(400, 120), activation(), nn.linear(120, 84), activation(), nn.linear(84, 10),
  }
end

-- { path = { FLOPs, bytes, shape as text } } of a summary's rows.
local function by_path(rows)
  local found = {}
  for _, row in ipairs(rows) do
    found[row.path] = { row.flops, row.bytes, table.concat(row.shape, "x") }
  end
  return found
end

local PRODUCTS = 2 * (6 * 28 * 28 * 25 + 16 * 10 * 10 * 150 + 400 * 120 + 120 * 84 + 84 * 10)
local ACTIVATIONS = { 6 * 28 * 28, 16 * 10 * 10, 120, 84 }

local function sum(list)
  local total = 0
  for _, x in ipairs(list) do total = total + x end
  return total
end

describe("the summary of LeNet-5", function()
  it("counts the operations of a forward pass as by hand", function()
    local biases = sum(ACTIVATIONS) + 10
    local pools = 4 * (6 * 14 * 14 + 16 * 5 * 5)
    local _, totals = lenet(nn.relu, nn.max_pool2d):costs { 1, 1, 28, 28 }
    assert.equal(PRODUCTS + biases + sum(ACTIVATIONS) + pools, totals.flops)
    assert.equal(61706, totals.parameters)
    local _, batch = lenet(nn.relu, nn.max_pool2d):costs { 64, 1, 28, 28 }
    assert.equal(64 * totals.flops, batch.flops)
    assert.equal(64 * totals.bytes, batch.bytes)
  end)

  it("counts the bytes of all outputs, in the input's dtype, flatten's not again", function()
    local outputs = 2 * sum(ACTIVATIONS) + 6 * 14 * 14 + 16 * 5 * 5 + 10
    local _, totals = lenet(nn.relu, nn.max_pool2d):costs { 1, 1, 28, 28 }
    assert.equal(4 * outputs, totals.bytes)
  end)

  it("has a row for each layer with the shape of its output", function()
    local rows = lenet(nn.tanh, nn.avg_pool2d):costs { 2, 1, 28, 28 }
    assert.equal(12, #rows)
    local found = by_path(rows)
    assert.same({ 2 * (2 * 6 * 28 * 28 * 25 + 6 * 28 * 28), 2 * 4 * 6 * 28 * 28, "2x6x28x28" }, found["1"])
    assert.same({ 0, 0, "2x400" }, found["7"])
    assert.same({ 2 * (2 * 84 * 10 + 10), 2 * 4 * 10, "2x10" }, found["12"])
  end)

  it("reads well", function()
    local text = lenet(nn.relu, nn.max_pool2d):summary { 64, 1, 28, 28 }
    for _, line in ipairs {
      "layer  kind                    output            parameters       FLOPs     memory",
      "1      conv2d(1, 6, 5, pad 2)  [64, 6, 28, 28]          156  15,353,856    1.1 MiB",
      "7      flatten                 [64, 400]                  -           -          -",
      "61,706 parameters in 10 tensors",
      "forward FLOPs: 54,551,680 for the batch of 64, 852,370 an example",
      "memory of outputs: 3.6 MiB for the batch of 64, 57.0 KiB an example",
    } do
      assert.is_true(("\n" .. text .. "\n"):find("\n" .. line .. "\n", 1, true) ~= nil, line .. "\nin\n" .. text)
    end
  end)
end)

describe("the summary of nested modules", function()
  local block = nn.module {
    name = "block",
    parameters = { scale = { 4 } },
    children = { { "conv", nn.conv2d(4, 4, 3, { pad = 1, bias = false }) }, { "idle", nn.linear(9, 9) } },
    forward = function(self, x, ctx)
      local y = self.conv(self.conv(x, ctx), ctx)
      return y + y
    end,
  }
  local model = nn.sequential { { "first", block }, { "rest", { nn.relu(), nn.batch_norm(4) } } }

  it("has a row for each call, in the order of the calls, and one for what was not called", function()
    local rows = model:costs { 1, 4, 5, 5 }
    local seen = {}
    for i, row in ipairs(rows) do seen[i] = ("%s %d"):format(row.path, row.depth) end
    assert.same({ "first 0", "first.conv 1", "first.conv 1", "rest 0", "rest.1 1", "rest.2 1", "first.idle 1" }, seen)
    assert.same({ 4, 144, 0 }, { rows[1].parameters, rows[2].parameters, rows[3].parameters })
    assert.equal(2 * 4 * 25 * 4 * 9, rows[2].flops)
    assert.equal(rows[2].flops, rows[3].flops)
    -- What a module computes by itself stands in its own row.
    assert.equal(4 * 25, rows[1].flops)
    assert.is_nil(rows[7].shape)
  end)

  it("says so in the text, children indented", function()
    local text = model:summary { 1, 4, 5, 5 }
    for _, part in ipairs { "\nfirst   block ", "\n  conv  conv2d(4, 4, 3, pad 1, no bias) ", "call 2", "not called",
      "8 numbers in 2 buffers" } do
      assert.is_true(text:find(part, 1, true) ~= nil, part .. "\nin\n" .. text)
    end
    assert.equal("(model)  linear(2, 3)           9  weight [2, 3], bias [3]",
      tostring(nn.linear(2, 3)):match("%(model%)[^\n]*"))
  end)

  it("without an input lists parameters and buffers, and is what print shows", function()
    local text = model:summary()
    assert.equal(text, tostring(model))
    assert.is_true(text:find("weight [4], bias [4], running_mean [4], running_var [4]", 1, true) ~= nil, text)
    assert.is_true(text:find("246 parameters in 6 tensors, 8 numbers in 2 buffers", 1, true) ~= nil, text)
  end)

  it("takes tokens, an input itself, and refuses what is neither", function()
    local tokens = nn.sequential { nn.embedding(10, 4), nn.linear(4, 2) }
    local rows = tokens:costs({ 3, 7 }, "i64")
    assert.same({ 3, 7, 2 }, rows[2].shape)
    local again = tokens:costs(pg.zeros({ 3, 7 }, "i64"))
    assert.same(rows[2].shape, again[2].shape)
    local ok, message = pcall(tokens.summary, tokens, 28)
    assert.is_true(not ok and message:find("nn_summary_spec.lua:%d+: model:summary takes the shape of an input") ~= nil)
  end)
end)
