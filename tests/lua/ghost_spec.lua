-- Facts about ghost batch norm: values, derivatives, running statistics and evaluation are those of the reference; a
-- batch in chunks is its chunks one by one; and it trains, resumes and recalibrates as batch norm does.
local support = require "support"
local pg, core = support.pg, support.core
local golden = dofile("tests/golden/rules_batches.lua").special.ghost_bn

local refusal = support.refusal

local function vector_of(layout, dtype, given)
  local v = core.vector(layout, dtype)
  for i = 1, #layout do
    local list = given[layout[i].name]
    for k, value in ipairs(list) do v:data_write(layout[i].offset + k - 1, value) end
  end
  return v
end

-- A layer, its parameters and its buffers, with the numbers given.
local function layer(channels, options, dtype, weight, bias)
  local model = pg.nn.batch_norm(channels, options)
  local theta = model:init(pg.key(1), dtype)
  if weight then theta = vector_of(theta.layout, dtype, { weight = weight, bias = bias }) end
  return model, theta, model:init_buffers(dtype)
end

describe("ghost batch norm", function()
  for _, dtype in ipairs { "f64", "f32" } do
    it("has the values, derivatives, running statistics and evaluation of the reference in " .. dtype, function()
      local bound = dtype == "f64" and 1e-12 or 1e-5
      local model, theta, buffers = layer(golden.C, { ghost = golden.ghost, momentum = golden.momentum,
        eps = golden.eps }, dtype, golden.gamma, golden.beta)
      local x = core.tensor(dtype, { golden.N, golden.C }, golden.X)
      local cotangent = core.tensor(dtype, { golden.N, golden.C }, golden.dY)
      local run = pg.jit(function(at, input, before)
        local ctx = { train = true, buffers = before }
        local y = model(at, input, ctx)
        return y, ctx.new_buffers
      end)
      local y, after = run(theta, x, buffers)
      local function agree(found, want) assert(support.difference(found:totable(), want) < bound) end
      agree(y:reshape(y.size), golden.Y)
      agree(after.running_mean, golden.run_mean)
      agree(after.running_var, golden.run_var)
      local by_theta, by_x = pg.grad(function(at, input)
        return (model(at, input, { train = true }) * cotangent):sum()
      end, { wrt = { 1, 2 } })(theta, x)
      agree(by_x:reshape(by_x.size), golden.dX)
      agree(by_theta.weight, golden.dgamma)
      agree(by_theta.bias, golden.dbeta)
      local evaluated = model(theta, x, { buffers = after })
      agree(evaluated:reshape(evaluated.size), golden.Y_eval)
    end)
  end

  -- The layer on chunks one by one, buffers going on from each to the next.
  local function one_by_one(x, sizes, options)
    local model, theta, buffers = layer(x.shape[2], options, "f64")
    local ys, first = {}, 1
    for i, size in ipairs(sizes) do
      local ctx = { train = true, buffers = buffers }
      ys[i] = model(theta, x:slice { first, first + size - 1 }, ctx)
      buffers, first = ctx.new_buffers, first + size
    end
    return pg.concat(ys, 1), buffers
  end

  for name, case in pairs {
    ["whole chunks of images"] = { { 12, 3, 4, 5 }, 4, { 4, 4, 4 } },
    ["a short last chunk"] = { { 11, 3, 2, 2 }, 4, { 4, 4, 3 } },
    ["a last chunk of one image"] = { { 9, 3, 2, 2 }, 4, { 4, 4, 1 } },
    ["a last chunk of one number, which joins"] = { { 9, 3 }, 4, { 4, 5 } },
    ["a chunk and one number"] = { { 5, 3 }, 4, { 5 } },
    ["a batch of one chunk"] = { { 4, 3 }, 4, { 4 } },
    ["a batch smaller than a chunk"] = { { 3, 3 }, 4, { 3 } },
  } do
    it("is batch norm of each chunk: " .. name, function()
      local shape, size, sizes = case[1], case[2], case[3]
      local x = pg.randn(pg.key(2), shape, "f64") * 2 + 1
      local want, buffers = one_by_one(x, sizes, { momentum = 0.3 })
      local model, theta, before = layer(3, { ghost = size, momentum = 0.3 }, "f64")
      local ctx = { train = true, buffers = before }
      local y = model(theta, x, ctx)
      assert(support.difference(y:reshape(y.size):totable(), want:reshape(want.size):totable()) < 1e-13)
      assert(support.difference(ctx.new_buffers:totable(), buffers:totable()) < 1e-13)
      if #sizes == 1 then assert.are.equal(want:bytes(), y:bytes()) end
      local frozen = { train = true, buffers = before, update_buffers = false }
      assert.are.equal(y:bytes(), model(theta, x, frozen):bytes())
      assert.is_nil(frozen.new_buffers)
    end)
  end

  it("has the second derivatives of its chunks", function()
    local x, direction = pg.randn(pg.key(3), { 7, 2, 3, 3 }, "f64"), pg.randn(pg.key(4), { 7, 2, 3, 3 }, "f64")
    local function curved(f) return pg.hvp(function(input) return (f(input) ^ 3):sum() end)(direction, x) end
    local model, theta = layer(2, { ghost = 3 }, "f64")
    local plain, plain_theta = layer(2, {}, "f64")
    local found = curved(function(input) return model(theta, input, { train = true }) end)
    local want = curved(function(input)
      local parts = {}
      for i, range in ipairs { { 1, 3 }, { 4, 6 }, { 7, 7 } } do
        parts[i] = plain(plain_theta, input:slice(range), { train = true })
      end
      return pg.concat(parts, 1)
    end)
    assert(support.difference(found:reshape(found.size):totable(), want:reshape(want.size):totable()) < 1e-11)
  end)

  it("trains with passes, and the statistics of a recalibration are the averages of its chunks", function()
    local x = pg.randn(pg.key(5), { 60, 4 })
    local data = pg.data.from { x = x, y = x:sum(2):gt(0):to("i32") }
    local model = pg.nn.sequential { pg.nn.linear(4, 6), pg.nn.batch_norm(6, { ghost = 5 }), pg.nn.relu(),
      pg.nn.linear(6, 2) }
    local function train(spec)
      local given = { model = model, data = { train = data, test = data }, batch = 20, epochs = 4, out = false,
        optimizer = pg.optim.svrg { lr = 0.2, every = pg.epochs(1) },
        loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end }
      for name, value in pairs(spec or {}) do given[name] = value end
      return pg.train(given)
    end
    local result = train()
    assert(result.metrics.loss < 0.5, result.metrics.loss)
    assert.are.equal(result.theta:bytes(), train().theta:bytes())
    local fresh = pg.nn.recalibrate(model, result.theta, result.buffers, data, { batch = 20 })
    -- the mean over chunks of equal size is the mean over all
    local w, b = result.theta["1.weight"], result.theta["1.bias"]
    local mean = (x:matmul(w) + b):mean(1)
    assert(support.difference(fresh["2.running_mean"]:totable(), mean:totable()) < 1e-5)
  end)

  it("is told what a chunk may not be", function()
    assert.matches("ghost must be a positive whole number", refusal(pg.nn.batch_norm, 3, { ghost = 2.5 }))
    local model, theta = layer(3, { ghost = 1 }, "f64")
    local by_batch = { train = true }
    assert.matches("chunks of one number per channel", refusal(model, theta, pg.ones({ 4, 3 }, "f64"), by_batch))
    assert.is_truthy(model(theta, pg.ones({ 4, 3, 2, 1 }, "f64"), { train = true }))
    assert.matches("batch_norm%(3, ghost 4%)", tostring(pg.nn.batch_norm(3, { ghost = 4 })))
  end)
end)
