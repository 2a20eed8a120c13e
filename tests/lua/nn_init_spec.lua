-- Facts about initial values: bounds and moments against the formulas of each distribution, orthogonality, draws that
-- depend on the key and the tensor's name only, and who decides: the layer, the declaration, or model:init.
local pg = require("support").pg
local nn = pg.nn
local init = nn.init

-- Mean and standard deviation of a tensor, and its least and largest element.
local function moments(x)
  x = x:to "f64"
  return x:mean():item(), x:std():item(), x:min():item(), x:max():item()
end

local function assert_near(want, got, tolerance, what)
  assert(math.abs(got - want) <= tolerance, ("%s: %.6g, wanted %.6g"):format(what or "value", got, want))
end

-- The weight of a linear layer [inputs, outputs] begun by `how`.
local function draw(how, inputs, outputs, seed, dtype)
  local model = nn.linear(inputs or 400, outputs or 300, { init = how })
  return model:init(pg.key(seed or 1), dtype)["weight"]
end

local function assert_normal(std, x)
  local mean, found = moments(x)
  assert_near(0, mean, 4 * std / x.size ^ 0.5, "mean")
  assert_near(1, found / std, 4 / (2 * x.size) ^ 0.5, "standard deviation, relative")
  -- A uniform draw of this variance would end at sqrt(3) std.
  assert(x:abs():max():item() > 3 * std)
end

local function assert_uniform(low, high, x)
  local mean, std, least, largest = moments(x)
  local width = high - low
  assert(least >= low and largest <= high)
  assert_near(low, least, 10 / x.size * width, "least")
  assert_near(high, largest, 10 / x.size * width, "largest")
  assert_near((low + high) / 2, mean, 4 * width / 12 ^ 0.5 / x.size ^ 0.5, "mean")
  assert_near(1, std / (width / 12 ^ 0.5), 4 / x.size ^ 0.5, "standard deviation, relative")
end

describe("initial values by default", function()
  it("are uniform in +-1/sqrt(fan_in) for linear layers and convolutions, biases included", function()
    local model = nn.sequential { nn.conv2d(8, 600, { 5, 3 }, { groups = 2 }), nn.linear(100, 3000) }
    local theta = model:init(pg.key(1))
    local bound = (4 * 5 * 3) ^ -0.5
    assert_uniform(-bound, bound, theta["1.weight"])
    assert_uniform(-0.1, 0.1, theta["2.weight"])
    for name, b in pairs { ["1.bias"] = bound, ["2.bias"] = 0.1 } do
      local mean, std, least, largest = moments(theta[name])
      assert(least >= -b and least < -0.97 * b and largest <= b and largest > 0.97 * b, name)
      assert_near(0, mean / b, 0.1, name)
      assert_near(3 ^ -0.5, std / b, 0.03, name)
    end
  end)

  it("are standard normal for embeddings, 1 and 0 for norms", function()
    local model = nn.sequential { nn.embedding(300, 100), nn.layer_norm(100), nn.batch_norm(5), nn.group_norm(2, 4) }
    local theta = model:init(pg.key(2))
    assert_normal(1, theta["1.weight"])
    for i = 2, 4 do
      local _, _, least, largest = moments(theta[i .. ".weight"])
      assert.same({ 1, 1 }, { least, largest })
      assert.equal(0, theta[i .. ".bias"]:abs():max():item())
    end
    local buffers = model:init_buffers()
    assert.same({ { 0, 0, 0, 0, 0 }, { 1, 1, 1, 1, 1 } }, { buffers["3.running_mean"]:totable(),
      buffers["3.running_var"]:totable() })
  end)

  it("of a module's own parameters are a matrix's like a linear layer's, else zeros", function()
    local model = nn.module { parameters = { w = { 100, 50 }, k = { 10, 4, 5, 5 }, v = { 7 } }, forward = print }
    local theta = model:init(pg.key(3))
    assert_uniform(-0.1, 0.1, theta["w"])
    assert_uniform(-0.1, 0.1, theta["k"])
    assert.equal(0, theta["v"]:abs():max():item())
  end)
end)

describe("initial values", function()
  it("depend on key and name, not on what else there is or in which order", function()
    local a = nn.sequential { { "p", nn.linear(7, 5, { init = init.he() }) }, { "q", nn.linear(5, 5) } }
    local b = nn.sequential { { "q", nn.linear(5, 5) }, nn.relu(), { "p", nn.linear(7, 5, { init = init.he() }) } }
    local x, y, z = a:init(pg.key(1)), b:init(pg.key(1)), a:init(pg.key(2))
    for i = 1, #a.layout do
      local name = a.layout[i].name
      assert.equal(x[name]:bytes(), y[name]:bytes())
      assert.are_not.equal(x[name]:bytes(), z[name]:bytes())
    end
    assert.equal(x:bytes(), a:init(pg.key(1)):bytes())
    assert.are_not.equal(x["p.bias"]:bytes(), x["q.bias"]:bytes())
  end)

  it("are made in f64 where asked", function()
    local theta = nn.linear(300, 200, { init = init.truncated_normal() }):init(pg.key(1), "f64")
    assert.equal("f64", theta.dtype)
    local w = theta["weight"]
    assert(w:to("f32"):to("f64"):ne(w):any():item())
  end)
end)

describe("pg.nn.init", function()
  it("zeros, ones, constant, a number", function()
    for value, how in pairs { [0] = init.zeros(), [1] = init.ones(), [2.5] = init.constant(2.5), [-3] = -3 } do
      local mean, std = moments(draw(how, 3, 2))
      assert.same({ value, 0 }, { mean, std })
    end
  end)

  it("uniform and normal", function()
    assert_uniform(-1, 1, draw(init.uniform()))
    assert_uniform(0.5, 3, draw(init.uniform { low = 0.5, high = 3 }))
    assert_normal(1, draw(init.normal()))
    assert_normal(0.02, draw(init.normal { mean = 4, std = 0.02 }) - 4)
  end)

  it("truncated_normal has the moments of its formula", function()
    local function density(z) return math.exp(-z * z / 2) / (2 * math.pi) ^ 0.5 end
    local function below(z) return 0.5 * (1 + pg.erf(z / 2 ^ 0.5)) end
    for i, o in ipairs { {}, { mean = 1, std = 2, low = 0, high = 1.5 }, { std = 0.02, low = -0.05, high = 0.04 } } do
      local mean, std, low, high = o.mean or 0, o.std or 1, o.low or -2, o.high or 2
      local a, b = (low - mean) / std, (high - mean) / std
      local mass = below(b) - below(a)
      local shift = (density(a) - density(b)) / mass
      local want_std = std * (1 + (a * density(a) - b * density(b)) / mass - shift ^ 2) ^ 0.5
      local x = draw(init.truncated_normal(o), 400, 300, i, "f64")
      local found_mean, found_std, least, largest = moments(x)
      assert(least >= low and largest <= high)
      assert_near(mean + std * shift, found_mean, 4 * want_std / x.size ^ 0.5, "mean")
      assert_near(1, found_std / want_std, 4 / x.size ^ 0.5, "standard deviation, relative")
    end
  end)

  it("truncated_normal inverts the normal distribution function to the last digits", function()
    local key = pg.key(11)
    local model = nn.linear(100, 100, { init = init.truncated_normal { low = -6, high = 6 } })
    local x = model:init(key, "f64")["weight"]
    local u = pg.uniform(key:fold("weight"), { 100, 100 }, "f64")
    local edge = pg.erf(6 / 2 ^ 0.5)
    assert(((x / 2 ^ 0.5):erf() - (u * 2 * edge - edge)):abs():max():item() < 1e-15)
  end)

  it("he, by fan, nonlinearity and distribution", function()
    assert_normal((2 / 400) ^ 0.5, draw(init.he()))
    assert_normal((2 / 300) ^ 0.5, draw(init.he { mode = "fan_out" }))
    assert_normal((2 / 1.04 / 400) ^ 0.5, draw(init.he { nonlinearity = "leaky_relu", slope = 0.2 }))
    assert_normal(5 / 3 / 20, draw(init.he { nonlinearity = "tanh" }))
    assert_normal(1 / 20, draw(init.he { nonlinearity = "linear" }))
    local bound = (3 * 2 / 400) ^ 0.5
    assert_uniform(-bound, bound, draw(init.he { distribution = "uniform" }))
  end)

  it("glorot, by distribution and gain", function()
    local std = (2 / 700) ^ 0.5
    assert_uniform(-3 ^ 0.5 * std, 3 ^ 0.5 * std, draw(init.glorot()))
    assert_normal(3 * std, draw(init.glorot { distribution = "normal", gain = 3 }))
  end)

  it("knows the fans of convolutions, as PyTorch counts them", function()
    local function conv(how)
      return nn.conv2d(20, 60, { 3, 5 }, { groups = 2, init = how }):init(pg.key(1))["weight"]
    end
    assert_normal((2 / (10 * 15)) ^ 0.5, conv(init.he()))
    assert_normal((2 / (60 * 15)) ^ 0.5, conv(init.he { mode = "fan_out" }))
    assert_normal((2 / (70 * 15)) ^ 0.5, conv(init.glorot { distribution = "normal" }))
  end)

  it("orthogonal has orthonormal columns, or rows where it is wide", function()
    local function check(w, gain, tolerance)
      local rows = w.shape[1]
      local m = w:reshape { rows, w.size // rows }
      local gram = rows >= w.size // rows and m:t():matmul(m) or m:matmul(m:t())
      local want = gain ^ 2 * pg.eye(gram.shape[1], w.dtype)
      assert_near(0, (gram - want):abs():max():item(), tolerance, "distance from orthonormal")
    end
    for _, shape in ipairs { { 40, 40 }, { 70, 20 }, { 20, 70 }, { 1, 9 }, { 128, 128 } } do
      check(draw(init.orthogonal(), shape[1], shape[2], 3), 1, 1e-6)
      check(draw(init.orthogonal { gain = 2 }, shape[1], shape[2], 4, "f64"), 2, 1e-11)
    end
    check(nn.conv2d(3, 12, 5, { init = init.orthogonal() }):init(pg.key(1))["weight"], 1, 1e-6)
    assert.are_not.equal(draw(init.orthogonal(), 9, 9, 1):bytes(), draw(init.orthogonal(), 9, 9, 2):bytes())
  end)

  it("orthogonal is uniform: moments of an element of a random rotation", function()
    local squares, fourths, count = 0, 0, 2000
    for seed = 1, count do
      local x = draw(init.orthogonal(), 3, 3, seed, "f64"):data_read(seed % 9)
      squares, fourths = squares + x ^ 2, fourths + x ^ 4
    end
    -- On the sphere in three dimensions a coordinate is uniform in [-1, 1].
    assert_near(1 / 3, squares / count, 4 * (4 / 45 / count) ^ 0.5, "second moment")
    assert_near(1 / 5, fourths / count, 4 * (16 / 225 / count) ^ 0.5, "fourth moment")
  end)

  it("takes a function of key, shape and dtype", function()
    local w = draw(function(key, shape, dtype) return pg.randn(key, shape, dtype) * 0 + shape[1] end, 3, 2)
    assert.same({ { 3, 3 }, { 3, 3 }, { 3, 3 } }, w:totable())
  end)
end)

describe("model:init", function()
  local model = nn.sequential { { "body", { nn.linear(4, 3), nn.batch_norm(3), nn.linear(3, 3) } },
    { "head", nn.linear(3, 2, { bias = 7 }) } }

  it("replaces initializers by the ends of names; the longest decides", function()
    local theta = model:init(pg.key(1), { weight = 5, ["head.weight"] = 6, ["3.bias"] = init.ones(), bias = 0 })
    local want = { ["body.1.weight"] = 5, ["body.2.weight"] = 5, ["body.3.weight"] = 5, ["head.weight"] = 6,
      ["body.1.bias"] = 0, ["body.2.bias"] = 0, ["body.3.bias"] = 1, ["head.bias"] = 0 }
    for name, value in pairs(want) do
      local _, _, least, largest = moments(theta[name])
      assert.same({ value, value }, { least, largest }, name)
    end
  end)

  it("leaves norms alone where an initializer needs a matrix", function()
    local theta = model:init(pg.key(1), "f64", { weight = init.orthogonal() })
    assert.same({ 1, 1, 1 }, theta["body.2.weight"]:totable())
    assert(((theta["body.1.weight"]:t():matmul(theta["body.1.weight"])) - pg.eye(3, "f64")):abs():max():item() < 1e-12)
    assert.same({ 7, 7 }, theta["head.bias"]:totable())
  end)
end)
