-- bench_tools.lua: our side of `perigee bench tools`: order, running sums and draws, each called eagerly on a tensor.
-- What PyTorch does with one of the same name stands in tests/bench/torch_cases.py.

local pg = require "perigee"

local MILLION = 1000000

local function numbers(shape, dtype) return pg.randn(pg.key(1), shape, dtype) end

-- name, what it is called in tables, what sets it up.
local function tool(name, label, make) return { name = name, label = label, make = make } end

return {
  tool("sort", "sort, 1M f32", function()
    local x = numbers { MILLION }
    return function() x:sort() end
  end),
  tool("sort_f64", "sort, 1M f64", function()
    local x = numbers({ MILLION }, "f64")
    return function() x:sort() end
  end),
  tool("sort_rows", "sort, [10000, 100]", function()
    local x = numbers { 10000, 100 }
    return function() x:sort() end
  end),
  tool("topk", "100 largest of 1M", function()
    local x = numbers { MILLION }
    return function() x:topk(100) end
  end),
  tool("topk_rows", "40 largest, [128, 50000]", function()
    local x = numbers { 128, 50000 }
    return function() x:topk(40) end
  end),
  tool("median", "median of 1M", function()
    local x = numbers { MILLION }
    return function() x:median() end
  end),
  tool("cumsum", "running sums of 1M", function()
    local x = numbers { MILLION }
    return function() x:cumsum() end
  end),
  tool("gamma", "1M gamma draws of shape 2", function()
    local shape, key = pg.full({ MILLION }, 2), pg.key(2)
    return function() pg.gamma(key, shape) end
  end),
}
