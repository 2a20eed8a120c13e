-- Facts about layers: convolutions and pools against plain loops over numbers, activations against formulas, shapes,
-- norms on batches of rows and of images, gradients of a small network against central differences.
local support = require "support"
local pg, core = support.pg, support.core
local nn = pg.nn

local function run(layer, x, ctx) return layer(layer:init(pg.key(1), x.dtype), x, ctx) end

-- The number at these places, counted from 0.
local function at(x, n, c, i, j)
  local shape = x.shape
  return x:data_read(((n * shape[2] + c) * shape[3] + i) * shape[4] + j)
end

-- Calls visit(n, c, i, j) for every place of a [N, C, H, W] tensor, in order, and makes such a tensor of the results.
local function fill(shape, visit)
  local list = {}
  for n = 0, shape[1] - 1 do
    for c = 0, shape[2] - 1 do
      for i = 0, shape[3] - 1 do
        for j = 0, shape[4] - 1 do list[#list + 1] = visit(n, c, i, j) end
      end
    end
  end
  return core.tensor("f64", shape, list)
end

-- What stands under position (u, v) of a window for output (i, j), if it is inside x.
local function under(x, n, c, i, j, u, v, o)
  local row, column = i * o.sh - o.ph + u * (o.dh or 1), j * o.sw - o.pw + v * (o.dw or 1)
  local shape = x.shape
  if row < 0 or row >= shape[3] or column < 0 or column >= shape[4] then return nil end
  return at(x, n, c, row, column)
end

-- o: sh, sw, ph, pw, dh, dw, groups.
local function naive_conv(x, w, bias, o)
  local xs, ws = x.shape, w.shape
  local h = (xs[3] + 2 * o.ph - (ws[3] - 1) * o.dh - 1) // o.sh + 1
  local width = (xs[4] + 2 * o.pw - (ws[4] - 1) * o.dw - 1) // o.sw + 1
  local inputs, outputs = ws[2], ws[1] // o.groups
  return fill({ xs[1], ws[1], h, width }, function(n, c, i, j)
    local sum = bias and bias:data_read(c) or 0
    for k = 0, inputs - 1 do
      for u = 0, ws[3] - 1 do
        for v = 0, ws[4] - 1 do
          sum = sum + (under(x, n, c // outputs * inputs + k, i, j, u, v, o) or 0) * at(w, c, k, u, v)
        end
      end
    end
    return sum
  end)
end

local function naive_pool(x, o, reduce)
  local s = x.shape
  local shape = { s[1], s[2], (s[3] + 2 * o.ph - o.kh) // o.sh + 1, (s[4] + 2 * o.pw - o.kw) // o.sw + 1 }
  return fill(shape, function(n, c, i, j)
    local found = {}
    for u = 0, o.kh - 1 do
      for v = 0, o.kw - 1 do found[#found + 1] = under(x, n, c, i, j, u, v, o) end
    end
    return reduce(found)
  end)
end

local function largest_difference(a, b)
  assert.same(b.shape, a.shape)
  return (a - b):abs():max():item()
end

describe("conv2d", function()
  local cases = {
    { "plain", { 2, 3, 5, 6 }, 4, 3, {} },
    { "options of both axes", { 2, 3, 8, 9 }, 4, { 2, 3 }, { stride = { 1, 2 }, pad = { 2, 1 }, dilation = { 3, 1 } } },
    { "options of one number", { 1, 2, 9, 8 }, 3, 3, { stride = 2, pad = 1, dilation = 2, bias = false } },
    { "groups", { 3, 4, 5, 5 }, 6, { 3, 1 }, { groups = 2 } },
    { "one channel a group", { 2, 4, 4, 4 }, 4, 2, { groups = 4, pad = 1 } },
  }
  for _, case in ipairs(cases) do
    it("is the sum over the window: " .. case[1], function()
      local name, shape, outputs, size, options = table.unpack(case)
      local layer = nn.conv2d(shape[2], outputs, size, options)
      local theta, x = layer:init(pg.key(#name), "f64"), pg.randn(pg.key(2), shape, "f64")
      local function pair(value, k) return type(value) == "table" and value[k] or value end
      local o = { groups = options.groups or 1 }
      for k, axis in ipairs { "h", "w" } do
        o["s" .. axis], o["p" .. axis] = pair(options.stride or 1, k), pair(options.pad or 0, k)
        o["d" .. axis] = pair(options.dilation or 1, k)
      end
      local bias = options.bias ~= false and theta["bias"] or nil
      local want = naive_conv(x, theta["weight"], bias, o)
      assert(largest_difference(layer(theta, x), want) < 1e-13)
      local given = { bias = bias, stride = options.stride, pad = options.pad, dilation = options.dilation,
        groups = options.groups }
      assert(largest_difference(pg.conv2d(x, theta["weight"], given), want) < 1e-13)
    end)
  end
end)

describe('pad = "same"', function()
  it("keeps height and width, or divides them by the stride and rounds up", function()
    for _, case in ipairs {
      { size = 5, stride = 1, dilation = 1 }, { size = { 3, 7 }, stride = 1, dilation = { 2, 1 } },
      { size = 3, stride = 2, dilation = 1 }, { size = 2, stride = 3, dilation = 2 },
      { size = 1, stride = 4, dilation = 1 },
    } do
      local options = { pad = "same", stride = case.stride, dilation = case.dilation, groups = 2 }
      local layer = nn.conv2d(2, 4, case.size, options)
      for side = 7, 9 do
        local want = -(-side // case.stride)
        local x = pg.ones { 1, 2, side, side + 3 }
        assert.same({ 1, 4, want, -(-(side + 3) // case.stride) }, run(layer, x).shape)
        local w = layer:init(pg.key(1))["weight"]
        assert.same({ 1, 4, want, -(-(side + 3) // case.stride) }, pg.conv2d(x, w, options).shape)
      end
    end
  end)

  it("is the padding by half of what a window reaches", function()
    local x = pg.randn(pg.key(2), { 2, 3, 6, 5 }, "f64")
    local w = pg.randn(pg.key(3), { 3, 1, 5, 3 }, "f64")
    local same = pg.conv2d(x, w, { pad = "same", groups = 3, dilation = { 1, 2 } })
    assert.equal(0, largest_difference(same, pg.conv2d(x, w, { pad = 2, groups = 3, dilation = { 1, 2 } })))
  end)
end)

describe("pooling", function()
  local function largest(list) return math.max(table.unpack(list)) end
  local function sum(list)
    local total = 0
    for _, v in ipairs(list) do total = total + v end
    return total
  end
  local x = pg.randn(pg.key(3), { 2, 3, 7, 6 }, "f64")

  it("takes the largest, or the mean, of each window", function()
    local o = { kh = 2, kw = 2, sh = 2, sw = 2, ph = 0, pw = 0 }
    local want = naive_pool(x, o, largest)
    assert(largest_difference(run(nn.max_pool2d(2), x), want) == 0)
    assert(largest_difference(pg.max_pool2d(x, 2), want) == 0)
    local mean = naive_pool(x, o, function(list) return sum(list) / 4 end)
    assert(largest_difference(run(nn.avg_pool2d(2), x), mean) < 1e-15)
    assert(largest_difference(pg.avg_pool2d(x, { 2, 2 }), mean) < 1e-15)
  end)

  it("has sizes, strides and padding of two axes", function()
    local o = { kh = 3, kw = 2, sh = 1, sw = 2, ph = 1, pw = 1 }
    local options = { stride = { 1, 2 }, pad = 1 }
    assert(largest_difference(run(nn.max_pool2d({ 3, 2 }, options), x), naive_pool(x, o, largest)) == 0)
    local whole = naive_pool(x, o, function(list) return sum(list) / 6 end)
    assert(largest_difference(run(nn.avg_pool2d({ 3, 2 }, options), x), whole) < 1e-15)
    local real = naive_pool(x, o, function(list) return sum(list) / #list end)
    options.count_include_pad = false
    assert(largest_difference(run(nn.avg_pool2d({ 3, 2 }, options), x), real) < 1e-15)
    options.size = { 3, 2 }
    assert(largest_difference(pg.avg_pool2d(x, options), real) < 1e-15)
  end)

  it("over whole images leaves one number a channel", function()
    local y = run(nn.sequential { nn.global_avg_pool(), nn.flatten() }, x)
    assert(largest_difference(y, x:mean({ 3, 4 })) < 1e-15)
  end)
end)

describe("activations", function()
  local list = { -3, -0.5, 0, 0.25, 2 }
  local x = pg.tensor(list, "f64")
  local function sigmoid(v) return 1 / (1 + math.exp(-v)) end
  local formulas = {
    { nn.relu(), function(v) return math.max(v, 0) end },
    { nn.tanh(), function(v) return (math.exp(v) - math.exp(-v)) / (math.exp(v) + math.exp(-v)) end },
    { nn.sigmoid(), sigmoid },
    { nn.silu(), function(v) return v * sigmoid(v) end },
    { nn.softplus(), function(v) return math.log(1 + math.exp(v)) end },
    { nn.leaky_relu(), function(v) return v > 0 and v or 0.01 * v end },
    { nn.leaky_relu(0.2), function(v) return v > 0 and v or 0.2 * v end },
    { nn.elu(), function(v) return v > 0 and v or math.exp(v) - 1 end },
    { nn.elu(0.5), function(v) return v > 0 and v or 0.5 * (math.exp(v) - 1) end },
    { nn.gelu(), function(v) return v * 0.5 * (1 + core.apply("erf", nil, v / 2 ^ 0.5)) end },
    { nn.identity(), function(v) return v end },
  }
  for _, case in ipairs(formulas) do
    it(tostring(case[1]):match("%(model%)  (%S+)"), function()
      local want = {}
      for i, v in ipairs(list) do want[i] = case[2](v) end
      assert(support.difference(run(case[1], x):totable(), want) < 1e-15)
    end)
  end

  it("softmax sums to 1 along the last axis", function()
    local y = pg.randn(pg.key(1), { 3, 4, 5 }, "f64")
    assert(largest_difference(run(nn.softmax(), y):sum(-1), pg.ones({ 3, 4 }, "f64")) < 1e-15)
    assert(largest_difference(run(nn.log_softmax(), y):exp(), run(nn.softmax(), y)) < 1e-15)
  end)
end)

describe("embedding", function()
  it("gives the rows of its weight, whose gradient counts how often each was asked for", function()
    local model = nn.embedding(4, 2)
    local theta, tokens = model:init(pg.key(1)), pg.tensor({ { 3, 0, 3 }, { 1, 3, 3 } }, "i64")
    local y, w = model(theta, tokens), theta["weight"]:totable()
    assert.same({ 2, 3, 2 }, y.shape)
    assert.same(w[4], y:totable()[1][1])
    assert.same(w[2], y:totable()[2][1])
    local g = pg.grad(function(t) return model(t, tokens):sum() end)(theta)["weight"]
    assert.same({ { 1, 1 }, { 1, 1 }, { 0, 0 }, { 4, 4 } }, g:totable())
  end)
end)

describe("a stable embedding", function()
  it("is an embedding that begins as glorot's, behind a layer norm", function()
    local model = nn.stable_embedding(300, 64)
    local theta, tokens = model:init(pg.key(1), "f64"), pg.tensor({ { 3, 0, 3 }, { 1, 299, 3 } }, "i64")
    local w = theta["stable_weight"]
    local limit = math.sqrt(6 / 364)
    assert(w:abs():max():item() <= limit and w:abs():max():item() > 0.99 * limit)
    local rows = pg.embedding(tokens, w)
    assert(largest_difference(model(theta, tokens), pg.layer_norm(rows, { 64 })) == 0)
    assert.same({ 2, 3, 64 }, model(theta, tokens).shape)
    theta = model:init(pg.key(1), "f64", { norm_weight = 2, norm_bias = 1 })
    assert(largest_difference(model(theta, tokens), 2 * pg.layer_norm(rows, { 64 }) + 1) < 1e-12)
  end)
end)

describe("dropout", function()
  it("zeroes a share of the elements of images and keeps the mean", function()
    local y = run(nn.dropout(0.2), pg.ones { 4, 3, 20, 20 }, { train = true, key = pg.key(1):keys(4) })
    assert(math.abs(y:eq(0):to("f32"):mean():item() - 0.2) < 0.02)
    assert(math.abs(y:mean():item() - 1) < 0.02)
    assert.is_true((y:max():item() - 1.25) ^ 2 < 1e-12)
  end)
end)

describe("norms", function()
  it("of a batch leave mean 0 and variance 1 in each channel, scaled and shifted", function()
    local model = nn.batch_norm(3, { eps = 0 })
    local theta = model:init(pg.key(1), "f64", { weight = 2, bias = 0.5 })
    for _, shape in ipairs { { 50, 3 }, { 10, 3, 4, 5 } } do
      local x = pg.randn(pg.key(2), shape, "f64") * 3 + 7
      local y = model(theta, x, { train = true })
      local axes = #shape == 2 and { 1 } or { 1, 3, 4 }
      assert(largest_difference(y:mean(axes), pg.full({ 3 }, 0.5, "f64")) < 1e-13)
      assert(largest_difference(y:var(axes), pg.full({ 3 }, 4, "f64")) < 1e-12)
    end
  end)

  it("of a batch move the running statistics by the momentum, the variance unbiased", function()
    local model = nn.batch_norm(1, { momentum = 0.25, affine = false })
    assert.equal(0, #model.layout)
    local ctx = { train = true, buffers = model:init_buffers("f64") }
    run(model, pg.tensor({ { 1 }, { 2 }, { 6 } }, "f64"), ctx)
    assert(math.abs(ctx.new_buffers["running_mean"]:totable()[1] - 0.25 * 3) < 1e-15)
    assert(math.abs(ctx.new_buffers["running_var"]:totable()[1] - (0.75 + 0.25 * 7)) < 1e-15)
    local y = run(model, pg.tensor({ { 0.75 } }, "f64"), { train = false, buffers = ctx.new_buffers })
    assert(math.abs(y:item()) < 1e-15)
  end)

  it("of layers and groups leave nothing of an example's scale and offset", function()
    local x = pg.randn(pg.key(3), { 4, 6, 3, 5 }, "f64")
    for _, model in ipairs { nn.layer_norm { 6, 3, 5 }, nn.group_norm(3, 6), nn.layer_norm(5, { affine = false }) } do
      local y = run(model, x)
      assert(largest_difference(run(model, 1000 * x + 50), y) < 1e-4)
      assert(math.abs(y:mean():item()) < 1e-12)
    end
  end)
end)

describe("a small network of everything", function()
  it("has gradients that agree with central differences", function()
    local model = nn.sequential {
      nn.conv2d(2, 4, 3, { pad = 1, groups = 2 }), nn.batch_norm(4), nn.silu(), nn.max_pool2d(2),
      nn.residual { nn.group_norm(2, 4), nn.conv2d(4, 4, 3, { pad = 1 }), nn.tanh() }, nn.avg_pool2d(2), nn.flatten(),
      nn.layer_norm(4), nn.linear(4, 3),
    }
    local theta = model:init(pg.key(5), "f64")
    local x, y = pg.randn(pg.key(6), { 3, 2, 5, 5 }, "f64"), pg.tensor({ 0, 2, 1 }, "i64")
    local f = pg.value_and_grad(function(t) return pg.cross_entropy(model(t, x, { train = true }), y) end)
    local _, g = f(theta)
    for i = 1, #model.layout do
      local offset = model.layout[i].offset + model.layout[i].size // 2
      local origin, h, d = theta:data_read(offset), 1e-4, 0
      for _, term in ipairs { { -2, 1 / 12 }, { -1, -8 / 12 }, { 1, 8 / 12 }, { 2, -1 / 12 } } do
        theta:data_write(offset, origin + term[1] * h)
        d = d + term[2] * (f(theta)):item() / h
      end
      theta:data_write(offset, origin)
      assert(math.abs(d - g:data_read(offset)) < 1e-9, ("%s: %g against %g"):format(model.layout[i].name,
        g:data_read(offset), d))
    end
  end)
end)
