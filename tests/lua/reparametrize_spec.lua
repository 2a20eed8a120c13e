-- Facts about weights that are given explicitly: layers as functions, vectors with tensors replaced, and models whose
-- weights are functions of other parameters.
local support = require "support"
local pg = support.pg
local nn = pg.nn

local function largest(x) return x:abs():max():item() end

local function network()
  return nn.sequential { nn.linear(6, 5), nn.tanh(), nn.linear(5, 3) }
end

local X = pg.randn(pg.key(1), { 9, 6 }, "f64")
local Y = (3 * pg.uniform(pg.key(2), { 9 })):floor():to "i64"

local function loss_of(model)
  return function(theta) return pg.cross_entropy(model(theta, X), Y) end
end

local function raises(text, f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok and message:find(text, 1, true), message)
end

describe("layers as functions", function()
  it("compute what the layers compute at the same weights", function()
    local model = nn.sequential { nn.conv2d(2, 3, 3, { pad = 1 }), nn.group_norm(1, 3), nn.max_pool2d(2), nn.flatten(),
      nn.linear(12, 4) }
    local theta, x = model:init(pg.key(3), "f64"), pg.randn(pg.key(4), { 5, 2, 4, 4 }, "f64")
    local y = pg.conv2d(x, theta["1.weight"], { bias = theta["1.bias"], pad = 1 })
    y = pg.max_pool2d(pg.group_norm(y, 1, { weight = theta["2.weight"], bias = theta["2.bias"] }), 2)
    y = pg.linear(y:reshape(5, 12), theta["5.weight"], { bias = theta["5.bias"] })
    assert(largest(y - model(theta, x)) < 1e-15)
    raises("linear: x [..., in] and w [in, out] were expected", pg.linear, X, pg.zeros({ 5, 6 }, "f64"))
    raises("bias", pg.linear, X, pg.zeros({ 6, 5 }, "f64"), { bais = 1 })
  end)
end)

describe("a vector with tensors replaced", function()
  local model = network()
  local theta = model:init(pg.key(3), "f64")

  it("has the others as they were, eager and traced", function()
    local function change(v)
      return v:with { ["1.bias"] = function(b) return 2 * b + 1 end, [3] = v["3.weight"] * 0 }
    end
    for _, changed in ipairs { change(theta), pg.jit(change)(theta) } do
      assert.equal(theta.layout, changed.layout)
      assert.same((2 * theta["1.bias"] + 1):totable(), changed["1.bias"]:totable())
      assert.same({ 0, theta["1.weight"]:bytes() }, { largest(changed["3.weight"]), changed["1.weight"]:bytes() })
    end
  end)

  it("leaves a function unchanged where hidden units are permuted, and the gradient is permuted alike", function()
    local order = pg.permutation(pg.key(5), 5)
    local function permute(v)
      return v:with { ["1.weight"] = v["1.weight"]:take(order, 2), ["1.bias"] = v["1.bias"]:take(order),
        ["3.weight"] = v["3.weight"]:take(order, 1) }
    end
    assert(largest(model(permute(theta), X) - model(theta, X)) < 1e-15)
    assert(largest(permute(theta)["1.weight"] - theta["1.weight"]) > 0.1)
    local gradient = pg.grad(loss_of(model))
    assert(largest(gradient(permute(theta)) - permute(gradient(theta))) < 1e-15)
    local through = pg.grad(function(v) return loss_of(model)(permute(v)) end)
    assert(largest(through(theta) - gradient(theta)) < 1e-15)
  end)

  it("rotates: a rotation of the inputs is undone by one of the weights", function()
    local q = pg.linalg.qr(pg.randn(pg.key(6), { 6, 6 }, "f64"))
    local rotated = theta:with { ["1.weight"] = q:t():matmul(theta["1.weight"]) }
    assert(largest(model(rotated, X:matmul(q)) - model(theta, X)) < 1e-14)
  end)

  it("refuses names and shapes that do not fit", function()
    raises("did you mean", function() theta:with { ["1.wieght"] = 1 } end)
    raises("'1.bias' has the shape [5]", function() theta:with { ["1.bias"] = pg.zeros({ 4 }, "f64") } end)
    raises("'1.bias' has the shape [5]", function() theta:with { ["1.bias"] = 1 } end)
    raises("a vector was expected", function() X:with {} end)
  end)
end)

describe("a reparametrized model", function()
  local model = network()
  local theta = model:init(pg.key(3), "f64")

  it("is the model itself where nothing is changed: names, first values, outputs, gradients", function()
    local same = nn.reparametrize(model, {})
    assert.equal(model.layout, same.layout)
    assert.equal(theta:bytes(), same:init(pg.key(3), "f64"):bytes())
    assert.equal(model(theta, X):bytes(), same(theta, X):bytes())
    assert(largest(pg.grad(loss_of(same))(theta) - pg.grad(loss_of(model))(theta)) < 1e-16)
  end)

  it("freezes: what is not kept stays at `from`, what is kept begins there", function()
    local head = nn.reparametrize(model, { from = theta, keep = function(name) return name:find "^3" end })
    local own = head:init(pg.key(9), "f64")
    assert.same({ "3.weight", "3.bias" }, { head.layout[1].name, head.layout[2].name })
    assert.equal(2, #head.layout)
    assert.equal(model(theta, X):bytes(), head(own, X):bytes())
    local gradient = pg.grad(loss_of(head))(own)
    assert(largest(gradient["3.weight"] - pg.grad(loss_of(model))(theta)["3.weight"]) < 1e-15)
  end)

  it("norms weights: the function does not depend on their lengths, so the gradient is orthogonal to them", function()
    local normed = nn.reparametrize(model, { parameters = { g = { 5, init = 1 } }, weights = function(p, v)
      local w = v["1.weight"]
      return { ["1.weight"] = p.g * w / (w * w):sum(1):sqrt() }
    end })
    local own = normed:init(pg.key(3), "f64")
    local longer = own:with { ["1.weight"] = function(w) return 3 * w end }
    assert(largest(normed(longer, X) - normed(own, X)) < 1e-14)
    local gradient = pg.grad(loss_of(normed))(own)
    assert(largest((gradient["1.weight"] * own["1.weight"]):sum(1)) < 1e-15)
    assert(largest(gradient.g) > 1e-3)
  end)

  it("moves in a subspace: the gradient is the projection of the whole one", function()
    local basis = pg.randn(pg.key(7), { theta.layout.size, 4 }, "f64")
    local sub = nn.reparametrize(model, { from = theta, parameters = { z = { 4, init = 0 } },
      weights = function(p, v) return v + pg.vector(v.layout, basis:matmul(p.z)) end })
    local z = sub:init(pg.key(1), "f64")
    assert.equal(4, sub.layout.size)
    assert.equal(model(theta, X):bytes(), sub(z, X):bytes())
    local whole = pg.grad(loss_of(model))(theta):flat()
    assert(largest(pg.grad(loss_of(sub))(z).z - basis:t():matmul(whole)) < 1e-14)
  end)

  local function adapter(rank)
    return nn.reparametrize(model, { from = theta, parameters = { a = { 6, rank }, b = { rank, 5, init = 0 } },
      weights = function(p, v) return { ["1.weight"] = v["1.weight"] + p.a:matmul(p.b) } end })
  end

  it("adapts by low rank: only the adapter is trained, from the frozen function on, and pg.train takes it", function()
    local lora = adapter(2)
    assert.equal(22, lora.layout.size)
    local own = lora:init(pg.key(4), "f64")
    assert.equal(model(theta, X):bytes(), lora(own, X):bytes())
    local run = pg.train {
      name = "lora", model = lora, theta = own, data = pg.data.from { x = X, y = Y }, out = false,
      loss = function(net, at, batch, ctx) return pg.cross_entropy(net(at, batch.x, ctx), batch.y) end,
      optimizer = pg.optim.adamw { lr = 0.05 }, steps = 60, batch = 9,
    }
    local before, after = loss_of(lora)(own):item(), loss_of(lora)(run.theta):item()
    assert(after < 0.8 * before, after)
    local found = pg.minimize.lbfgs(loss_of(lora), own, { iterations = 300, tolerance = 1e-6 })
    assert(found.value <= after)
  end)

  it("carries buffers, alone and as a part of another model", function()
    local inner = nn.sequential { nn.linear(6, 4), nn.batch_norm(4) }
    local outer = nn.reparametrize(inner, { weights = function(_, v) return v * 2 end })
    local around = nn.sequential { nn.identity(), { "part", outer } }
    local at = inner:init(pg.key(1), "f64")
    local ctx = { train = true, buffers = inner:init_buffers "f64" }
    local expected = inner(2 * at, X, ctx)
    for _, whole in ipairs { outer, around } do
      local own = { train = true, buffers = whole:init_buffers "f64" }
      local theta_of = whole:init(pg.key(2), "f64")
      for i = 1, #theta_of.layout do theta_of:segment_set(i, at:segment(i)) end
      assert(largest(whole(theta_of, X, own) - expected) < 1e-15)
      for i = 1, #own.new_buffers.layout do
        assert.same(ctx.new_buffers:segment(i):totable(), own.new_buffers:segment(i):totable())
      end
    end
    assert.equal("part.1.weight", around.layout[1].name)
    assert.equal("part.2.running_mean", around.buffer_layout[1].name)
  end)

  it("notices that what `weights` captured has changed", function()
    local scale = 1
    local scaled = nn.reparametrize(model, { weights = function(_, v) return scale * v end })
    local f = pg.jit(function(at) return scaled(at, X) end)
    local one = f(theta)
    scale = 2
    assert(largest(f(theta) - model(2 * theta, X)) < 1e-15)
    assert(largest(f(theta) - one) > 0.01)
  end)

  it("says what is wrong", function()
    raises("a model comes first", nn.reparametrize, 3, {})
    raises("weights is a function", nn.reparametrize, model, { weights = 3 })
    raises("from is parameters of the model", nn.reparametrize, model, { from = 3 })
    raises("keep is true, false", nn.reparametrize, model, { keep = 3 })
    raises("did you mean", nn.reparametrize, model, { keep = { "1.wight" } })
    raises("nothing is left to train", nn.reparametrize, model, { from = theta })
    raises("parameters", nn.reparametrize, model, { parameter = {} })
    local own = adapter(1):init(pg.key(1), "f64")
    local wrong = nn.reparametrize(model, { from = theta, parameters = { z = { 1 } },
      weights = function(p) return p.z end })
    raises("weights returns a vector of the model's layout", wrong, wrong:init(pg.key(1), "f64"), X)
    local unknown = nn.reparametrize(model, { from = theta, parameters = { z = { 1 } },
      weights = function(p) return { ["1.bias"] = p.y } end })
    raises("has no 'y'", unknown, unknown:init(pg.key(1), "f64"), X)
    raises("parameters are a vector", model, own, X)
  end)
end)
