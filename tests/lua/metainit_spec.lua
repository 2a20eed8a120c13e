-- Facts about the gradient quotient and MetaInit: the quotient against the whole Hessian, its slopes along each tensor
-- against differences of it, the two methods against each other, and what may and may not move.
local support = require "support"
local pg = support.pg
local nn = pg.nn

local CLASSES, BATCH = 3, 12
local model = nn.sequential { nn.linear(6, 8), nn.tanh(), nn.linear(8, 8), nn.tanh(), nn.linear(8, CLASSES) }
local theta = model:init(pg.key(2), "f64")
local batch = {
  x = pg.randn(pg.key(5), { BATCH, 6 }, "f64"),
  y = (pg.uniform(pg.key(6), { BATCH }, "f64") * CLASSES):floor():to("i32"),
}

local function loss(at, b) return pg.cross_entropy(model(at, b.x), b.y) end

local quotient = nn.gradient_quotient(loss)

-- The quotient as the paper writes it, from the gradient and the whole Hessian.
local function by_hessian(at, eps)
  local g = pg.grad(loss)(at, batch):flat()
  local p = pg.hessian(loss)(at, batch):matmul(g):totable()
  local sum = 0
  for i, gi in ipairs(g:totable()) do
    sum = sum + math.abs((gi - p[i]) / (gi + (gi >= 0 and eps or -eps)) - 1)
  end
  return sum / #p
end

-- theta with tensor j times `factor`.
local function scaled(at, j, factor)
  local copy = at:copy()
  copy:segment_set(j, at:segment(j) * factor)
  return copy
end

-- d quotient(theta with tensor j times t) / dt at 1, by 4-point differences.
local function slope_by_differences(at, j)
  local h = 1e-4
  local function q(t) return quotient(scaled(at, j, 1 + t), batch):item() end
  return (8 * (q(h) - q(-h)) - (q(2 * h) - q(-2 * h))) / (12 * h)
end

describe("pg.nn.gradient_quotient", function()
  it("is what the paper defines, by the whole Hessian", function()
    for _, eps in ipairs { 1e-5, 1e-2 } do
      local got = nn.gradient_quotient(loss, { eps = eps })(theta, batch):item()
      assert(math.abs(got / by_hessian(theta, eps) - 1) < 1e-11)
    end
  end)

  it("of a quadratic is known: |p + s eps| / (|g| + eps) with p = A A x", function()
    local a = pg.tensor({ { 2, 1 }, { 1, -3 } }, "f64")
    local x = pg.tensor({ 1, 2 }, "f64")
    local got = nn.gradient_quotient(function(v) return (v * a:matmul(v)):sum() / 2 end, { eps = 0.5 })(x)
    -- g = (4, -5), p = A g = (3, 19)
    assert(math.abs(got:item() - ((3 + 0.5) / 4.5 + (19 - 0.5) / 5.5) / 2) < 1e-14)
  end)

  it("can be differentiated: its slope along each tensor agrees with differences", function()
    local gradient = pg.grad(quotient)(theta, batch)
    for j = 1, #theta.layout do
      local got = (gradient:segment(j) * theta:segment(j)):sum():item()
      local want = slope_by_differences(theta, j)
      assert(math.abs(got / want - 1) < 1e-6, ("%s: %g, %g"):format(theta.layout[j].name, got, want))
    end
  end)
end)

describe("the two methods of MetaInit", function()
  local function run(method, steps)
    return nn.metainit(model, theta, { input = { 6 }, classes = CLASSES, batch = BATCH, steps = steps, lr = 0.03,
      key = pg.key(4), method = method })
  end

  it("agree on the quotient and on its slope along each tensor to 3e-6", function()
    local _, value, slopes = run("autodiff", 1)
    local _, other, near = run("first_order", 1)
    assert(math.abs(other[1] / value[1] - 1) < 1e-7)
    for j, slope in ipairs(slopes[1]) do
      assert(math.abs(near[1][j] / slope - 1) < 3e-6, ("tensor %d: %g, %g"):format(j, near[1][j], slope))
    end
  end)

  it("take the same signs along a trajectory: the parameters are the same, bit for bit", function()
    local one, history = run("autodiff", 15)
    local other, near = run("first_order", 15)
    assert.equal(one:bytes(), other:bytes())
    assert.equal(15, #history)
    assert(support.difference(near, history) < 1e-6)
  end)
end)

describe("pg.nn.metainit", function()
  local deep = {}
  for i = 1, 8 do
    deep[2 * i - 1], deep[2 * i] = nn.linear(i == 1 and 10 or 16, 16), nn.relu()
  end
  deep[17] = nn.linear(16, 4)
  deep = nn.sequential(deep)
  local options = { input = { 10 }, classes = 4, steps = 120, dtype = "f32" }

  for name, std in pairs { ["too small"] = 0.05, ["too large"] = 0.8 } do
    it(("brings down the quotient of weights that are %s, by their norms alone"):format(name), function()
      local begin = deep:init(pg.key(1), { weight = nn.init.normal { std = std }, bias = 0 })
      local found, history = nn.metainit(deep, begin, options)
      local function mean(from, to)
        local sum = 0
        for i = from, to do sum = sum + history[i] end
        return sum / (to - from + 1)
      end
      assert(mean(111, 120) < 0.8 * mean(1, 10), ("%g, then %g"):format(mean(1, 10), mean(111, 120)))
      for j = 1, #begin.layout do
        local before, after = begin:segment(j), found:segment(j)
        local factor = (after:norm() / before:norm()):item()
        if #begin.layout[j].shape == 1 then
          assert.equal(before:bytes(), after:bytes())
        else
          assert((after - before * factor):abs():max():item() < 1e-5 * after:abs():max():item())
          assert(math.abs(factor - 1) > 0.05)
        end
      end
    end)
  end

  it("follows the published update: v = momentum v - lr sign(slope), r becomes r + v", function()
    local o = { input = { 6 }, classes = CLASSES, batch = BATCH, steps = 3, lr = 0.02, momentum = 0.5, key = pg.key(4) }
    local found = nn.metainit(model, theta, o)
    local at, velocity = theta, {}
    for step = 1, 3 do
      local key, factors = pg.key(4):fold(step), {}
      local drawn = {
        x = pg.randn(key:fold "x", { BATCH, 6 }, "f64"),
        y = (pg.uniform(key:fold "y", { BATCH }, "f64") * CLASSES):floor():to("i32"),
      }
      local gradient = pg.grad(quotient)(at, drawn)
      for j = 1, 5, 2 do
        local r, slope = at:segment(j):norm():item(), (gradient:segment(j) * at:segment(j)):sum():item()
        velocity[j] = 0.5 * (velocity[j] or 0) - 0.02 * (slope > 0 and 1 or -1)
        factors[j] = (r + velocity[j]) / r
      end
      for j, factor in pairs(factors) do at = scaled(at, j, factor) end
    end
    assert(support.difference(found:totable(), at:totable()) < 1e-13)
  end)

  it("keeps norms positive however large the steps, and leaves zeros zero", function()
    local begin = deep:init(pg.key(1), { weight = nn.init.he(), ["17.weight"] = 0, bias = 0 })
    local o = { input = { 10 }, classes = 4, steps = 12, lr = 50 }
    local found = nn.metainit(deep, begin, o)
    for j = 1, #begin.layout - 2 do
      if #begin.layout[j].shape == 2 then
        -- the same direction as before: no norm went through 0
        assert((found:segment(j) * begin:segment(j)):sum():item() > 0)
      end
    end
    assert.equal(0, found["17.weight"]:abs():max():item())
  end)

  it("does not let a norm that is small beside lr die out: it turns back when its slope does", function()
    local found = nn.metainit(model, model:init(pg.key(2), { bias = 0 }), { input = { 6 }, classes = 3, steps = 300 })
    for _, norm in ipairs(found:per_tensor():norm():totable()) do assert(norm == 0 or norm > 0.01, tostring(norm)) end
  end)

  it("is a function of its arguments and key, and changes no argument", function()
    local before = theta:bytes()
    local function run(seed)
      return nn.metainit(model, theta, { input = { 6 }, classes = CLASSES, steps = 5, key = pg.key(seed) }):bytes()
    end
    assert.equal(run(1), run(1))
    assert.are_not.equal(run(1), run(9))
    assert.equal(before, theta:bytes())
    assert.equal("f32", nn.metainit(model, model:init(pg.key(1)), { input = { 6 }, classes = 3, steps = 1 }).dtype)
  end)

  it("takes a loss of one's own, and models with batch norm and dropout", function()
    local net = nn.sequential { nn.conv2d(1, 3, 3), nn.batch_norm(3), nn.tanh(), nn.dropout(0.5), nn.flatten(),
      nn.linear(27, 2) }
    local begin = net:init(pg.key(1))
    local found, history = nn.metainit(net, begin, {
      input = { 1, 5, 5 }, steps = 4, batch = 8,
      loss = function(m, at, b, ctx) return (m(at, b.x, ctx) - 1):square():mean() end,
    })
    assert.equal(4, #history)
    assert.are_not.equal(begin["1.weight"]:bytes(), found["1.weight"]:bytes())
    assert.equal(begin["2.weight"]:bytes(), found["2.weight"]:bytes())
  end)

  it("says what is wrong", function()
    local function call_with(more)
      local o = { input = { 6 }, classes = 3, steps = 1 }
      for k, v in pairs(more) do o[k] = v end
      return function() nn.metainit(model, theta, o) end
    end
    for pattern, f in pairs {
      ["a model comes first, not 3"] = function() nn.metainit(3) end,
      ["options come third, as { input ="] = function() nn.metainit(model, theta) end,
      ["input is the shape of one example, as { 3, 32, 32 }, not 6"] = call_with { input = 6 },
      ["classes must be a positive whole number, not nil"] =
        function() nn.metainit(model, theta, { input = { 6 } }) end,
      ["unknown option 'momentun' of pg.nn.metainit; did you mean 'momentum'?"] = call_with { momentun = 1 },
      ["unknown method 'autodif' of pg.nn.metainit; did you mean 'autodiff'?"] = call_with { method = "autodif" },
      ['lr is a number, not "x"'] = call_with { lr = "x" },
      ['dtype is "f64", or "f32" with autodiff'] = call_with { dtype = "f32", method = "first_order" },
      ["the gradient quotient is"] = call_with { loss = function(m, at, b) return (m(at, b.x) * math.huge):sum() end },
    } do
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
    end
  end)
end)
