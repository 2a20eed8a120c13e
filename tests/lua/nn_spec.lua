-- Facts about models: forward values against plain arithmetic, initialization that depends on names only, dropout
-- keyed per example, gradients against central differences.
local support = require "support"
local pg, core = support.pg, support.core
local nn = require "perigee.nn"
local builder = require "perigee.builder"

local function eager(model, theta, x, ctx)
  return model(theta, x, ctx)
end

local function traced(model, theta, x, ctx_of)
  local program = builder.trace("a test", function(b)
    b:output(model(b:slot(theta), b:slot(x), ctx_of and ctx_of(b)))
  end)
  program:run()
  return program:result(1):totable()
end

describe("linear", function()
  local model = nn.sequential { nn.linear(2, 3) }
  local theta = model:init(core.key(1), "f64")
  local x = core.tensor("f64", { 2, 2 }, { 1, 2, -3, 0.5 })

  it("is x W + b with W [in, out]", function()
    assert.are.same({ 2, 3 }, model.layout[1].shape)
    assert.are.equal("1.weight", model.layout[1].name)
    local w, b = theta["1.weight"]:totable(), theta["1.bias"]:totable()
    local want = {}
    for i, row in ipairs { { 1, 2 }, { -3, 0.5 } } do
      want[i] = {}
      for j = 1, 3 do want[i][j] = row[1] * w[1][j] + row[2] * w[2][j] + b[j] end
    end
    for _, y in ipairs { traced(model, theta, x), eager(model, theta, x):totable() } do
      for i = 1, 2 do assert(support.difference(y[i], want[i]) < 1e-15) end
    end
  end)

  it("starts uniform in +-1/sqrt(in), by name and not by place", function()
    local wide = nn.sequential { nn.linear(400, 50), nn.tanh(), nn.linear(50, 10, { bias = false }) }
    local t = wide:init(core.key(7))
    local largest, sum = 0, 0
    for _, row in ipairs(t["1.weight"]:totable()) do
      for _, v in ipairs(row) do
        largest, sum = math.max(largest, math.abs(v)), sum + v * v
      end
    end
    assert(largest <= 0.05 and largest > 0.0499)
    assert(math.abs(sum / 20000 / (0.05 ^ 2 / 3) - 1) < 0.03)
    assert.are.equal(3, #wide.layout)
    local other = nn.sequential { nn.linear(400, 50), nn.linear(50, 10) }
    assert.are.equal(t["1.weight"]:bytes(), other:init(core.key(7))["1.weight"]:bytes())
    assert.are_not.equal(t["1.weight"]:bytes(), other:init(core.key(8))["1.weight"]:bytes())
  end)

  it("names the shapes that do not fit", function()
    local ok, message = pcall(eager, model, theta, core.tensor("f64", { 2, 5 }))
    assert(not ok and message:find("linear(2, 3)", 1, true) and message:find("2, 5", 1, true), message)
    assert(message:find("nn_spec.lua:%d+"), message)
    assert(not pcall(nn.linear, 0, 3))
    assert(not pcall(nn.sequential, { nn.relu(), 3 }))
  end)
end)

describe("sequential", function()
  it("nests, with names joined by dots", function()
    local inner = nn.sequential { nn.linear(4, 4), nn.relu() }
    local model = nn.sequential { nn.flatten(), inner, { nn.linear(4, 2), nn.sigmoid() } }
    local seen = {}
    for i = 1, #model.layout do seen[i] = model.layout[i].name end
    assert.are.same({ "2.1.weight", "2.1.bias", "3.1.weight", "3.1.bias" }, seen)
    local y = eager(model, model:init(core.key(3)), pg.ones { 5, 2, 2 })
    assert.are.same({ 5, 2 }, y.shape)
    assert(tostring(model):find("30 parameters in 4 tensors", 1, true), tostring(model))
  end)

  it("has gradients that agree with central differences", function()
    local model = nn.sequential { nn.linear(3, 5), nn.tanh(), nn.linear(5, 4), nn.gelu(), nn.linear(4, 2),
      nn.sigmoid() }
    local theta = model:init(core.key(5), "f64")
    local x = pg.randn(core.key(6), { 7, 3 }, "f64")
    local k_loss, k_g
    local program = builder.trace("a test", function(b)
      local t = core.mark(b:slot(theta))
      local loss = (model(t, b:slot(x)) * model(t, b:slot(x))):mean()
      k_loss, k_g = b:output(loss), b:output(core.vjp({ loss }, { false }, { t })[1])
    end)
    program:run()
    local g = program:result(k_g):copy()
    for _, offset in ipairs { 0, 3, model.layout[2].offset, model.layout[3].offset + 6, model.layout[5].offset + 1 } do
      local at, h, d = theta:data_read(offset), 1e-3, 0
      for _, term in ipairs { { -2, 1 / 12 }, { -1, -8 / 12 }, { 1, 8 / 12 }, { 2, -1 / 12 } } do
        theta:data_write(offset, at + term[1] * h)
        program:run()
        d = d + term[2] * program:result(k_loss):item() / h
      end
      theta:data_write(offset, at)
      assert(math.abs(d - g:data_read(offset)) < 1e-9, ("%g against %g"):format(g:data_read(offset), d))
    end
  end)
end)

describe("dropout", function()
  local model = nn.sequential { nn.dropout(0.25) }
  local theta = core.vector(model.layout, "f32")
  local x = pg.ones { 4, 1000 }
  local function run(ids, train)
    return traced(model, theta, x, function(b)
      return { train = train, key = core.apply("key_fold", nil, b:slot(core.key(1)), b:slot(core.tensor("i64", { 4 },
        ids))) }
    end)
  end

  it("is the identity when not training", function()
    assert.are.same(x:totable(), run({ 0, 1, 2, 3 }, false))
  end)

  it("keeps the mean and drops a share", function()
    local zeros, sum = 0, 0
    for _, row in ipairs(run({ 0, 1, 2, 3 }, true)) do
      for _, v in ipairs(row) do
        zeros, sum = zeros + (v == 0 and 1 or 0), sum + v
      end
    end
    assert(math.abs(zeros / 4000 - 0.25) < 0.03 and math.abs(sum / 4000 - 1) < 0.04)
  end)

  it("gives an example its mask wherever it stands in the batch", function()
    local a, b = run({ 5, 6, 7, 8 }, true), run({ 8, 5, 9, 6 }, true)
    assert.are.same(a[1], b[2])
    assert.are.same(a[4], b[1])
    assert.are.same(a[2], b[4])
    assert.are_not.same(a[1], a[2])
  end)
end)
