-- Facts about normalization and embedding: values, gradients and second-order gradients are those of PyTorch in f64,
-- for tests/golden/make_conv.py's cases, each to 1e-10 of the largest number; batch norm's layer has those values in
-- its three modes, and leaves the running statistics that PyTorch's does.
local golden = require "golden"
local support = require "support"
local pg, core = support.pg, support.core
local data = dofile "tests/golden/norm.lua"

-- Of a case: its inputs → y.
local functions = {}

function functions.batch_norm(case)
  local given = case.options.mode == "running" and case.before or {}
  local mean = given.running_mean and golden.tensor(given.running_mean)
  local var = given.running_var and golden.tensor(given.running_var)
  return function(x, weight, bias)
    return (pg.batch_norm(x, { weight = weight, bias = bias, mean = mean, var = var, eps = case.options.eps }))
  end
end

function functions.layer_norm(case)
  local o = case.options
  return function(x, weight, bias) return pg.layer_norm(x, o.sizes, { weight = weight, bias = bias, eps = o.eps }) end
end

function functions.group_norm(case)
  local o = case.options
  return function(x, weight, bias) return pg.group_norm(x, o.groups, { weight = weight, bias = bias, eps = o.eps }) end
end

function functions.embedding(case)
  local index = core.tensor("i64", case.index.shape, case.index.data)
  return function(weight) return pg.embedding(index, weight) end
end

describe("golden", function()
  for _, case in ipairs(data.cases) do
    it(("%s: %s"):format(case.op, case.name), function()
      local c, directions = golden.tensor(case.cotangent), golden.tensors(case.directions)
      local y, first, second = golden.derivatives(functions[case.op](case))(golden.tensors(case.inputs), c, directions)
      golden.check("output", y, golden.tensor(case.output))
      for i, g in ipairs(first) do golden.check("gradient " .. i, g, golden.tensor(case.gradients[i])) end
      for i, g in ipairs(second) do golden.check("second order " .. i, g, golden.tensor(case.second[i])) end
    end)
  end
end)

-- The layer of a case on its data → y, its buffers afterwards (nil where they do not move).
local function run_layer(case)
  local inputs, mode = golden.tensors(case.inputs), case.options.mode
  local model = pg.nn.sequential { pg.nn.batch_norm(inputs[2].size) }
  local theta, buffers = model:init(pg.key(1), "f64"), model:init_buffers("f64")
  for i = 1, 2 do theta:segment_set(i, inputs[i + 1]) end
  buffers:segment_set(1, golden.tensor(case.before.running_mean))
  buffers:segment_set(2, golden.tensor(case.before.running_var))
  local ctx = { train = mode ~= "running", buffers = buffers, update_buffers = mode == "update" }
  return model(theta, inputs[1], ctx), ctx.new_buffers
end

describe("the layer batch_norm", function()
  for _, case in ipairs(data.cases) do
    if case.op == "batch_norm" then
      it(case.name, function()
        local y, moved = run_layer(case)
        golden.check("output", y, golden.tensor(case.output))
        assert.are.equal(case.options.mode == "update", moved ~= nil)
        if not moved then return end
        for _, name in ipairs { "running_mean", "running_var" } do
          golden.check(name, moved["1." .. name], golden.tensor(case.after[name]))
        end
      end)
    end
  end
end)
