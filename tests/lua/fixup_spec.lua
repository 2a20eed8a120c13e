-- Facts about Fixup: what its blocks compute, which weights it scales and by how much, that a network so begun computes
-- what its shortcuts do, and that steps change its function alike at any depth.
local support = require "support"
local pg = support.pg
local nn = pg.nn

local WIDTH, CLASSES = 16, 4

-- A residual perceptron of `depth` blocks with `layers` weights each.
local function network(depth, layers, plain)
  local parts = { { "stem", { nn.linear(10, WIDTH, { bias = false }), nn.relu() } } }
  for i = 1, depth do
    local body = { nn.linear(WIDTH, WIDTH, { bias = false }) }
    for k = 2, layers do
      body[2 * k - 2], body[2 * k - 1] = nn.relu(), nn.linear(WIDTH, WIDTH, { bias = false })
    end
    parts[#parts + 1] = { "block" .. i, plain and nn.residual(body) or nn.fixup_block(body) }
  end
  parts[#parts + 1] = { "head", nn.linear(WIDTH, CLASSES) }
  return nn.sequential(parts)
end

local function draw(model) return model:init(pg.key(1), "f64", { weight = nn.init.he(), ["head.bias"] = 0 }) end

local x = pg.randn(pg.key(3), { 32, 10 }, "f64")
local y = (pg.uniform(pg.key(4), { 32 }, "f64") * CLASSES):floor():to("i32")

local function apart(a, b) return (a - b):abs():max():item() end

describe("pg.nn.fixup_block", function()
  it("computes scale * body + shift + shortcut, with a scalar bias before each entry", function()
    local model = nn.fixup_block({ nn.linear(3, 5, { bias = false }), pg.tanh, nn.linear(5, 2, { bias = false }) },
      nn.linear(3, 2, { bias = false }))
    local theta = model:init(pg.key(1), "f64", { bias1 = 0.1, bias2 = 0.2, bias3 = 0.3, scale = 1.5, shift = 0.7 })
    local v = pg.randn(pg.key(2), { 4, 3 }, "f64")
    local body = (((v + 0.1):matmul(theta["1.weight"]) + 0.2):tanh() + 0.3):matmul(theta["3.weight"])
    local want = 1.5 * body + 0.7 + (v + 0.1):matmul(theta["shortcut.weight"])
    assert(apart(want, model(theta, v)) < 1e-14)
  end)

  it("works on images, passes x itself on without a shortcut, and begins with biases 0 and scale 1", function()
    local model = nn.fixup_block { nn.conv2d(2, 2, 3, { pad = 1, bias = false }), nn.relu(),
      nn.conv2d(2, 2, 3, { pad = 1, bias = false }) }
    local theta = model:init(pg.key(1))
    local images = pg.randn(pg.key(2), { 3, 2, 5, 5 })
    local body = pg.conv2d(pg.conv2d(images, theta["1.weight"], { pad = 1 }):relu(), theta["3.weight"], { pad = 1 })
    assert(apart(images + body, model(theta, images)) < 1e-5)
    for name, value in pairs { bias1 = 0, bias2 = 0, bias3 = 0, scale = 1, shift = 0 } do
      assert.same({ value }, theta[name]:totable())
    end
  end)

  it("says what is wrong", function()
    for pattern, f in pairs {
      ["pg.nn.fixup_block takes a list of modules, not a"] = function() nn.fixup_block(nn.relu()) end,
      ["fixup_block: the body gives f32 [2, 4], and the shortcut f32 [2, 3]; they must have one shape"] = function()
        local block = nn.fixup_block { nn.linear(3, 4) }
        block(block:init(pg.key(1)), pg.ones { 2, 3 })
      end,
    } do
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
    end
  end)
end)

describe("pg.nn.scalar_bias", function()
  it("adds one number, which begins at 0", function()
    local model = nn.scalar_bias()
    assert.same({ 0 }, model:init(pg.key(1)).bias:totable())
    assert.same({ { 1.5, 2.5 } }, model(model:init(pg.key(1), { bias = 0.5 }), pg.tensor { { 1, 2 } }):totable())
  end)
end)

describe("pg.nn.fixup", function()
  it("scales by L^(-1 / (2 m - 2)) inside the branches, zeroes their last layers and the classifier, nothing else",
    function()
      for _, case in ipairs { { 4, 2 }, { 9, 3 }, { 5, 1 }, { 1, 4 } } do
        local depth, layers = table.unpack(case)
        for _, plain in ipairs { false, true } do
          local model = network(depth, layers, plain)
          local before = draw(model)
          local kept = before:bytes()
          local after = nn.fixup(model, before)
          assert.equal(kept, before:bytes())
          for i = 1, #model.layout do
            local name = model.layout[i].name
            local factor = 1
            if name:find("^head") then factor = 0 end
            local place = name:match("^block%d+%.(%d+)%.weight$") or name:match("^block%d+%.body%.(%d+)%.weight$")
            if place then factor = tonumber(place) == 2 * layers - 1 and 0 or depth ^ (-1 / (2 * layers - 2)) end
            assert(apart(factor * before[name], after[name]) < 1e-15, name)
          end
        end
      end
    end)

  it("leaves a shortcut's weights alone, and the classifier where asked", function()
    local model = nn.sequential { nn.residual({ nn.linear(3, 4), nn.relu(), nn.linear(4, 4) }, nn.linear(3, 4)),
      nn.linear(4, 2) }
    local before = model:init(pg.key(1))
    local after = nn.fixup(model, before, { classifier = false })
    for _, name in ipairs { "1.shortcut.weight", "1.shortcut.bias", "2.weight", "2.bias", "1.body.1.weight",
      "1.body.1.bias" } do
      assert.equal(before[name]:bytes(), after[name]:bytes())
    end
    for _, name in ipairs { "1.body.3.weight", "1.body.3.bias" } do
      assert.equal(0, after[name]:abs():max():item())
    end
  end)

  it("begins with the function of the shortcuts: every branch gives 0", function()
    local model = network(6, 2)
    local theta = nn.fixup(model, draw(model), { classifier = false })
    local shallow = network(0, 2)
    local same = shallow:init(pg.key(1), "f64")
    for i = 1, #shallow.layout do same:segment_set(i, theta[shallow.layout[i].name]) end
    assert.equal(shallow(same, x):bytes(), model(theta, x):bytes())
    assert.equal(0, model(nn.fixup(model, theta), x):abs():max():item())
  end)

  -- How far five steps of gradient descent move the outputs, on average.
  local function moved_by_steps(model, theta)
    local gradient = pg.jit(pg.grad(function(at) return pg.cross_entropy(model(at, x), y) end))
    local before = model(theta, x)
    for _ = 1, 5 do theta = theta - 0.1 * gradient(theta) end
    return (model(theta, x) - before):square():mean():sqrt():item()
  end

  it("lets steps change the function as much at 64 blocks as at 2, where the usual initialization breaks down",
    function()
      local shallow, deep = network(2, 2), network(64, 2)
      local little = moved_by_steps(shallow, nn.fixup(shallow, draw(shallow)))
      local much = moved_by_steps(deep, nn.fixup(deep, draw(deep)))
      assert(much / little > 0.7 and much / little < 1.5, ("%g and %g"):format(little, much))
      local usual = moved_by_steps(deep, draw(deep))
      assert(usual ~= usual or usual > 100 * much, ("%g"):format(usual))
    end)

  it("says what is wrong", function()
    local model = network(2, 2)
    for pattern, f in pairs {
      ["a model comes first, not 3"] = function() nn.fixup(3) end,
      ["parameters, as model:init(key) makes them, come second, not a tensor f32 [2]"] =
        function() nn.fixup(model, pg.ones { 2 }) end,
      ["the model has no residual block"] = function()
        local plain = nn.linear(2, 2)
        nn.fixup(plain, plain:init(pg.key(1)))
      end,
      ["unknown option 'clasifier' of pg.nn.fixup; did you mean 'classifier'?"] =
        function() nn.fixup(model, draw(model), { clasifier = true }) end,
    } do
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
    end
  end)
end)
