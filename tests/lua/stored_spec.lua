-- Facts about pg.save and pg.load: what comes back, what stands in the file, what is refused.
local pg = require "perigee"
local run = require "perigee.run"

local core = require "perigee.core"
local files = core.data

describe("pg.save and pg.load", function()
  local path = os.tmpname()
  after_each(function() os.remove(path) end)

  local model = pg.nn.sequential { pg.nn.linear(3, 5), pg.nn.tanh(), pg.nn.linear(5, 2) }

  it("give back a tree with every bit, tables of all kinds included", function()
    for _, dtype in ipairs { "f32", "f64" } do
      local theta = model:init(pg.key(1), dtype)
      local tree = { theta = theta, list = { 1, 2.5, { "a", true } }, nan = 0 / 0, small = 5e-324, key = pg.key(3),
        none = {}, text = "x\0y",
        batch = { x = pg.randn(pg.key(2), { 2, 3 }, dtype), y = pg.tensor({ 1, 0 }, "i64") } }
      pg.save(path, tree)
      local back = pg.load(path)
      assert.equal(theta:bytes(), back.theta:bytes())
      assert.is_true(theta.layout == back.theta.layout)
      assert.equal(tree.batch.x:bytes(), back.batch.x:bytes())
      assert.equal("i64", back.batch.y.dtype)
      assert.same(tree.list, back.list)
      assert.equal("float", math.type(back.list[2]))
      assert.is_true(back.nan ~= back.nan)
      assert.same({ 5e-324, {}, "x\0y" }, { back.small, back.none, back.text })
      assert.equal(tree.key:bytes(), back.key:bytes())
    end
  end)

  it("name one tensor for each parameter, with its own shape", function()
    local theta = model:init(pg.key(1))
    pg.save(path, { theta = theta, batch = { x = pg.ones { 2, 3 } } })
    local tensors = files.safetensors_read(path)
    local seen = {}
    for name, tensor in pairs(tensors) do seen[name] = table.concat(tensor.shape, "x") end
    assert.same({ ["theta.1.weight"] = "3x5", ["theta.1.bias"] = "5", ["theta.3.weight"] = "5x2",
      ["theta.3.bias"] = "2", ["batch.x"] = "2x3" }, seen)
    assert.same(theta["3.weight"]:totable(), tensors["theta.3.weight"]:totable())
  end)

  it("take a vector or a tensor alone", function()
    local theta = model:init(pg.key(1))
    pg.save(path, theta)
    assert.equal(theta:bytes(), pg.load(path):bytes())
    pg.save(path, pg.arange(4))
    assert.same({ 0, 1, 2, 3 }, pg.load(path):totable())
  end)

  it("read the file of another program: its tensors, or the vector they make up", function()
    local theta = model:init(pg.key(1))
    local list = {}
    for i = 1, #theta.layout do list[i] = { theta.layout[i].name, theta[theta.layout[i].name] } end
    files.safetensors_write(path, list, {})
    assert.same(theta["1.bias"]:totable(), pg.load(path)["1.bias"]:totable())
    local vector = pg.load(path, model:init(pg.key(2)))
    assert.equal(theta:bytes(), vector:bytes())
    local function refused(expected, ...)
      local ok, message = pcall(pg.load, ...)
      assert.is_false(ok)
      assert.matches(expected, message, 1, true)
    end
    refused("1.weight is f32 [3, 5], not f64 [3, 5]", path, model:init(pg.key(1), "f64"))
    refused("1.weight is f32 [3, 5], not f32 [3, 4]", path, pg.nn.sequential { pg.nn.linear(3, 4) }:init(pg.key(1)))
    table.remove(list)
    files.safetensors_write(path, list, {})
    refused("there is no tensor '3.", path, theta)
  end)

  it("refuse what cannot be told apart, what contains itself, and functions", function()
    local function refused(expected, tree)
      local ok, message = pcall(pg.save, path, tree)
      assert.is_false(ok)
      assert.matches(expected, message, 1, true)
    end
    refused("two values would be called 'a.b'", { ["a.b"] = pg.ones { 1 }, a = { b = pg.ones { 1 } } })
    refused("f is a function; a file holds tensors", { f = print })
    local loop = {}
    loop.loop = loop
    refused("contains itself", loop)
  end)

  it("give what a run had at a step", function()
    local root = os.tmpname()
    os.remove(root)
    run.begin_invocation { source = "--", root = root }
    local data = pg.data.from { x = pg.randn(pg.key(1), { 20, 3 }), y = pg.zeros({ 20 }, "i64") }
    local seen
    local result = pg.train { name = "x", model = model, data = data, batch = 5, steps = 6, keep = 9,
      checkpoint_every = { steps = 2 }, optimizer = pg.optim.sgd { lr = 0.1, momentum = 0.9 },
      loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
      hooks = { on_step = function(ctx) if ctx.step == 3 then seen = ctx.theta:bytes() end end } }
    run.end_invocation()
    local at = pg.load(result.directory .. "/@4")
    assert.equal(seen, at.theta:bytes())
    assert.equal(4, at.step)
    assert.equal(result.state.rule.buf:bytes(), pg.load(result.directory).rule.buf:bytes())
    local ok, message = pcall(pg.load, result.directory .. "@5")
    assert.is_false(ok)
    assert.matches("no checkpoint of that step, only of 6, 4, 2", message, 1, true)
    os.execute("rm -rf '" .. root .. "'")
  end)
end)
