-- Facts about convolutions and pooling: values, gradients and second-order gradients are those of PyTorch in f64, for
-- tests/golden/make_conv.py's cases, each to 1e-10 of the largest number.
local golden = require "golden"
local core = require("support").core
local data = dofile "tests/golden/conv.lua"

local PROJECTIONS = 3

local ops = {}

function ops.conv2d(o)
  local attrs = { a = { o.stride[1], o.stride[2], o.pad[1], o.pad[2], o.dilation[1], o.dilation[2], o.groups } }
  return function(...) return core.apply("conv2d", attrs, ...) end
end

local function pool(name)
  return function(o)
    local a = { o.size[1], o.size[2], o.stride[1], o.stride[2], o.pad[1], o.pad[2] }
    local attrs = { a = a, flags = o.count_include_pad == false and 1 or 0 }
    return function(x) return core.apply(name, attrs, x) end
  end
end

ops.max_pool2d, ops.avg_pool2d = pool "max_pool2d", pool "avg_pool2d"

local function title(case)
  local how = case.options.count_include_pad == false and ", of real elements" or ""
  return ("%s: %s%s"):format(case.op, case.name, how)
end

describe("golden", function()
  for _, case in ipairs(data.cases) do
    it(title(case), function()
      local f, inputs = ops[case.op](case.options), golden.tensors(case.inputs)
      local c, directions = golden.tensor(case.cotangent), golden.tensors(case.directions)
      local y, first, second = golden.derivatives(f)(inputs, c, directions)
      local want = golden.tensor(case.output)
      golden.check("output", y, want)
      golden.check("output, eager", f(table.unpack(inputs)), want)
      for i, g in ipairs(first) do golden.check("gradient " .. i, g, golden.tensor(case.gradients[i])) end
      for i, g in ipairs(second) do golden.check("second order " .. i, g, golden.tensor(case.second[i])) end
    end)
  end
end)

-- Inner products of a result with tensors of streams seed, seed + 1, …
local function check_projections(what, seed, t, want)
  local got = {}
  for k = 1, PROJECTIONS do got[k] = t:dot(golden.fill(seed + k - 1, t.shape)):item() end
  golden.check(what, core.tensor("f64", { PROJECTIONS }, got), core.tensor("f64", { PROJECTIONS }, want))
end

describe("golden projections", function()
  for _, case in ipairs(data.wide) do
    it(title(case), function()
      local inputs, directions = {}, {}
      for i, shape in ipairs(case.shapes) do
        inputs[i], directions[i] = golden.fill(100 * i, shape), golden.fill(2000 + 100 * i, shape)
      end
      local f = ops[case.op](case.options)
      local y, first, second = golden.derivatives(f)(inputs, golden.fill(1000, case.output_shape), directions)
      check_projections("output", 3000, y, case.output)
      check_projections("output, eager", 3000, f(table.unpack(inputs)), case.output)
      for i, g in ipairs(first) do check_projections("gradient " .. i, 3900 + 100 * i, g, case.gradients[i]) end
      for i, g in ipairs(second) do check_projections("second order " .. i, 4900 + 100 * i, g, case.second[i]) end
    end)
  end
end)
