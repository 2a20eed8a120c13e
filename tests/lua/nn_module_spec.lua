-- Facts about modules of one's own and how they are put together: names, shared and tied parameters, what ctx and
-- buffers are inside a forward function, keys that differ by place and call.
local support = require "support"
local pg, core = support.pg, support.core
local nn = pg.nn

local function names_of(layout)
  local list = {}
  for i = 1, #layout do list[i] = ("%s [%s]"):format(layout[i].name, table.concat(layout[i].shape, ",")) end
  return list
end

-- A module without parameters that gives uniform numbers drawn from its key in place of its input.
local function draw()
  return nn.module { name = "draw", forward = function(_, x, ctx) return pg.uniform(ctx.key, x.shape, x.dtype) end }
end

local function values(x) return x:totable() end

-- The basic block of torchvision's resnet18, with its names.
local function basic_block(inputs, outputs, stride)
  local function conv(from, size, step, pad)
    return nn.conv2d(from, outputs, size, { stride = step, pad = pad, bias = false })
  end
  local shortcut
  if stride ~= 1 or inputs ~= outputs then
    shortcut = nn.sequential { { "0", conv(inputs, 1, stride, 0) }, { "1", nn.batch_norm(outputs) } }
  end
  return nn.module {
    name = "block",
    children = {
      { "conv1", conv(inputs, 3, stride, 1) }, { "bn1", nn.batch_norm(outputs) }, { "conv2", conv(outputs, 3, 1, 1) },
      { "bn2", nn.batch_norm(outputs) }, shortcut and { "downsample", shortcut },
    },
    forward = function(self, x, ctx)
      local y = self.bn2(self.conv2(self.bn1(self.conv1(x, ctx), ctx):relu(), ctx), ctx)
      return (y + (shortcut and self.downsample(x, ctx) or x)):relu()
    end,
  }
end

describe("a residual network with batch norm", function()
  local model = nn.sequential {
    { "conv1", nn.conv2d(3, 4, 3, { pad = 1, bias = false }) }, { "bn1", nn.batch_norm(4) }, pg.relu,
    { "layer1", { { "0", basic_block(4, 4, 1) }, { "1", basic_block(4, 8, 2) } } },
    { "avgpool", nn.global_avg_pool() }, nn.flatten(), { "fc", nn.linear(8, 10) },
  }

  it("has PyTorch's names and shapes, in its order", function()
    assert.same({
      "conv1.weight [4,3,3,3]", "bn1.weight [4]", "bn1.bias [4]",
      "layer1.0.conv1.weight [4,4,3,3]", "layer1.0.bn1.weight [4]", "layer1.0.bn1.bias [4]",
      "layer1.0.conv2.weight [4,4,3,3]", "layer1.0.bn2.weight [4]", "layer1.0.bn2.bias [4]",
      "layer1.1.conv1.weight [8,4,3,3]", "layer1.1.bn1.weight [8]", "layer1.1.bn1.bias [8]",
      "layer1.1.conv2.weight [8,8,3,3]", "layer1.1.bn2.weight [8]", "layer1.1.bn2.bias [8]",
      "layer1.1.downsample.0.weight [8,4,1,1]", "layer1.1.downsample.1.weight [8]", "layer1.1.downsample.1.bias [8]",
      "fc.weight [8,10]", "fc.bias [10]",
    }, names_of(model.layout))
    local statistics = {}
    for _, place in ipairs {
      { "bn1", 4 }, { "layer1.0.bn1", 4 }, { "layer1.0.bn2", 4 }, { "layer1.1.bn1", 8 }, { "layer1.1.bn2", 8 },
      { "layer1.1.downsample.1", 8 },
    } do
      for _, name in ipairs { "running_mean", "running_var" } do
        statistics[#statistics + 1] = ("%s.%s [%d]"):format(place[1], name, place[2])
      end
    end
    assert.same(statistics, names_of(model.buffer_layout))
  end)

  it("trains: gradients of all parameters, and statistics of all norms", function()
    local theta, buffers = model:init(pg.key(1)), model:init_buffers()
    local x, y = pg.randn(pg.key(2), { 6, 3, 8, 8 }), pg.tensor({ 0, 1, 2, 3, 4, 5 }, "i64")
    local _, g, moved = pg.value_and_grad(function(t)
      local ctx = { train = true, buffers = buffers }
      return pg.cross_entropy(model(t, x, ctx), y), ctx.new_buffers
    end)(theta)
    for i = 1, #model.layout do assert.is_true(g:segment(i):abs():max():item() > 1e-8, model.layout[i].name) end
    for i = 1, #model.buffer_layout do
      assert.is_true((moved:segment(i) - buffers:segment(i)):abs():min():item() > 0, model.buffer_layout[i].name)
    end
  end)
end)

describe("a module of one's own", function()
  it("is a model by itself: parameters by name, any Lua in forward", function()
    local model = nn.module {
      parameters = { scale = { 3, init = 2 }, offset = { init = -1 } },
      forward = function(self, x)
        for _ = 1, 2 do x = x * self.scale end
        return x + self.offset
      end,
    }
    assert.same({ "offset []", "scale [3]" }, names_of(model.layout))
    assert.same({ 3, 7, 11 }, values(model(model:init(pg.key(1)), pg.tensor { 1, 2, 3 })))
  end)

  it("orders tables by name, numbers in names as numbers, and lists as they are", function()
    local function layout(parameters) return names_of(nn.module { parameters = parameters, forward = print }.layout) end
    assert.same({ "w1 [2]", "w2 [2]", "w10 [2]" }, layout { w10 = { 2 }, w2 = { 2 }, w1 = { 2 } })
    assert.same({ "w10 [2]", "w2 [2]" }, layout { { "w10", { 2 } }, { "w2", { 2 }, init = 1 } })
    assert.same({ "a.weight [1,2]", "a.bias [2]", "b.1.weight [2,3]", "b.1.bias [3]" }, names_of(nn.module {
      children = { b = { nn.linear(2, 3) }, a = nn.linear(1, 2) }, forward = print }.layout))
  end)

  it("called twice in a forward shares its parameters, and standing twice does not", function()
    local layer = nn.linear(2, 2, { bias = false })
    local shared = nn.module { children = { f = layer }, forward = function(self, x) return self.f(self.f(x)) end }
    local theta = shared:init(pg.key(3), "f64")
    local x, w = pg.tensor({ { 1, -2 } }, "f64"), theta["f.weight"]
    assert.equal(1, #shared.layout)
    assert(support.difference(values(x:matmul(w):matmul(w))[1], { values(shared(theta, x))[1] }) < 1e-15)
    -- d sum(x W W)/dW = x' (1 W') + (x W)' 1
    local g = pg.grad(function(t) return shared(t, x):sum() end)(theta)["f.weight"]
    local ones = pg.ones({ 1, 2 }, "f64")
    local want = x:t():matmul(ones:matmul(w:t())) + x:matmul(w):t():matmul(ones)
    assert((g - want):abs():max():item() < 1e-14)
    assert.equal(2, #nn.sequential({ layer, layer }).layout)
  end)

  it("ties weights by reading another module's", function()
    local model = nn.module {
      children = { embed = nn.embedding(5, 3) },
      forward = function(self, tokens) return self.embed(tokens):matmul(self.embed.weight:t()) end,
    }
    local theta, tokens = model:init(pg.key(1)), pg.tensor({ 4, 0 }, "i64")
    local w = theta["embed.weight"]
    assert.same(values(w:take({ 4, 0 }):matmul(w:t())), values(model(theta, tokens)))
  end)

  it("counts a list of children, and calls a child's child", function()
    local inner = nn.sequential { nn.linear(2, 2), nn.tanh() }
    local model = nn.module {
      children = { inner, function(x) return 2 * x end },
      forward = function(self, x) return self[1](x) - self[2](self[1][2](x)) end,
    }
    local theta, x = model:init(pg.key(2)), pg.ones { 1, 2 }
    local w, b = theta["1.1.weight"], theta["1.1.bias"]
    local want = (x:matmul(w) + b):tanh() - 2 * x:tanh()
    assert.same(values(want), values(model(theta, x)))
  end)

  it("is traced: derivatives and jit go through it, and what its forward captures is watched", function()
    local factor = 2
    local model = nn.module { parameters = { w = { 1, init = 3 } }, forward = function(self, x)
      return (self.w * x * factor):sum()
    end }
    local theta, x = model:init(pg.key(1)), pg.tensor { 5 }
    local compiled, gradient = pg.jit(model), pg.grad(function(t) return model(t, x) end)
    assert.equal(30, compiled(theta, x):item())
    assert.equal(10, gradient(theta)["w"]:totable()[1])
    factor = 4
    assert.equal(60, compiled(theta, x):item())
    assert.equal(20, gradient(theta)["w"]:totable()[1])
  end)

  it("is traced anew in a training step when what it captures has changed", function()
    local factor = 1
    local model = nn.module {
      parameters = { w = { 1, init = 0 } }, forward = function(self) return self.w * factor end,
    }
    local evaluator = pg.evaluator { model = model, loss = function(net, theta, b) return net(theta, b.x):sum() end }
    local opt, batch = pg.optim.sgd { lr = 1 }, { x = pg.ones { 1 } }
    local st = opt:init(model:init(pg.key(1)), pg.key(1))
    st = opt:step(st, evaluator, batch)
    factor = 10
    st = opt:step(st, evaluator, batch)
    assert.same({ -11 }, values(st.q.mean["w"]))
  end)
end)

describe("ctx", function()
  it("reaches children, given or not, and may be another one", function()
    local see = nn.module { forward = function(_, x, ctx) return x * (ctx.train and 10 or 1) end }
    local model = nn.module { children = { see = see }, forward = function(self, x, ctx)
      return pg.concat { self.see(x), self.see(x, ctx), self.see(x, { train = not ctx.train }) }
    end }
    local theta, x = model:init(pg.key(1)), pg.ones { 1 }
    assert.same({ 10, 10, 1 }, values(model(theta, x, { train = true })))
    assert.same({ 1, 1, 10 }, values(model(theta, x)))
  end)

  it("takes what a module writes to the caller's table", function()
    local note = nn.module { forward = function(_, x, ctx)
      ctx.penalty = (ctx.penalty or 0) + x:sum()
      return x
    end }
    local model, ctx = nn.sequential { { note }, note }, {}
    model(model:init(pg.key(1)), pg.ones { 3 }, ctx)
    assert.equal(6, ctx.penalty:item())
  end)

  it("has a key folded with the names of the path", function()
    local model = nn.module { children = { a = { draw() } }, forward = function(self, x) return self.a(x) end }
    local theta, x, key = model:init(pg.key(1)), pg.zeros { 4 }, pg.key(9)
    assert.same(values(pg.uniform(key:fold("a"):fold(1), { 4 })), values(model(theta, x, { key = key })))
  end)

  it("has another key for each place and each call, and the same one again next time", function()
    local model = nn.module { children = { a = draw(), b = draw(), c = { draw() } }, forward = function(self, x)
      return pg.stack { self.a(x), self.b(x), self.a(x), self.c(x), self.c(x), self.c[1](x) }
    end }
    local theta, x = model:init(pg.key(1)), pg.zeros { 3 }
    local function run() return values(model(theta, x, { key = pg.key(5) })) end
    local rows, seen = run(), {}
    for i = 1, 5 do
      local text = table.concat(rows[i], " ")
      assert.is_nil(seen[text], "call " .. i)
      seen[text] = i
    end
    assert.same(rows, run())
    local compiled = pg.jit(function(t, at, key) return model(t, at, { key = key }) end)
    assert.same(rows, values(compiled(theta, x, pg.key(5))))
  end)
end)

describe("buffers", function()
  local counter = nn.module {
    buffers = { count = { init = 5 } },
    forward = function(self, x)
      self.count = self.count + 1
      return x * self.count
    end,
  }
  local theta, x = counter:init(pg.key(1)), pg.ones { 1 }

  local function run(model, ctx) return model(theta, x, ctx):item(), ctx.new_buffers end

  it("begin as they are declared", function()
    assert.equal(5, counter:init_buffers("f64")["count"]:item())
    assert.equal("f64", counter:init_buffers("f64").dtype)
    assert.is_nil(nn.relu():init_buffers())
    assert.is_nil(nn.relu().buffer_layout)
  end)

  it("are kept while training, and let go otherwise", function()
    local before = counter:init_buffers()
    local y, after = run(counter, { train = true, buffers = before })
    assert.equal(6, y)
    assert.equal(6, after["count"]:item())
    assert.equal(5, before["count"]:item())
    for _, ctx in ipairs {
      { train = false, buffers = before }, { train = true, buffers = before, update_buffers = false },
    } do
      local value, kept = run(counter, ctx)
      assert.equal(5, value)
      assert.is_nil(kept)
    end
    assert.has_error(function() run(counter, { train = true }) end)
  end)

  it("of a module called twice, or of a model called twice with one ctx, move twice", function()
    local twice = nn.module { children = { c = counter }, forward = function(self, at) return self.c(self.c(at)) end }
    local ctx = { train = true, buffers = twice:init_buffers() }
    assert.equal(6 * 7, (run(twice, ctx)))
    assert.equal(7, ctx.new_buffers["c.count"]:item())
    run(twice, ctx)
    assert.equal(9, ctx.new_buffers["c.count"]:item())
  end)

  it("that did not change go on", function()
    local idle = nn.module { buffers = { kept = { 2, init = 3 } }, forward = function(_, at) return at end }
    local both = nn.sequential { idle, counter }
    local ctx = { train = true, buffers = both:init_buffers() }
    run(both, ctx)
    assert.same({ 3, 3 }, values(ctx.new_buffers["1.kept"]))
    assert.equal(6, ctx.new_buffers["2.count"]:item())
    ctx = { train = true, buffers = idle:init_buffers() }
    run(idle, ctx)
    assert.is_nil(ctx.new_buffers)
  end)

  it("go on from ctx.buffers where what a call left is of other buffers or of a trace that has ended", function()
    local net = pg.nn.sequential { pg.nn.batch_norm(2) }
    local start, before = net:init(pg.key(1)), net:init_buffers()
    local ctx = { train = true, buffers = before }
    local step = pg.value_and_grad(function(t, input) return net(t, input, ctx):sum() end)
    for rows = 3, 5 do step(start, pg.randn(pg.key(rows), { rows, 2 })) end
    net(start, pg.randn(pg.key(2), { 4, 2 }), ctx)
    local moved = ctx.new_buffers
    ctx.buffers = net:init_buffers()
    net(start, pg.randn(pg.key(2), { 4, 2 }), ctx)
    assert.equal(moved:bytes(), ctx.new_buffers:bytes())
  end)

  it("carry no gradient and come out of a trace", function()
    local ctx_buffers = counter:init_buffers()
    local f = pg.value_and_grad(function(at)
      local ctx = { train = true, buffers = ctx_buffers }
      return counter(theta, at, ctx):sum(), ctx.new_buffers
    end)
    local loss, g, after = f(x)
    assert.same({ 6, 6, 6 }, { loss:item(), g:item(), after["count"]:item() })
    assert.equal(core.layout({ { "count", {} } }), after.layout)
  end)
end)

describe("what is declared", function()
  it("is not dropped in silence", function()
    local function raises(message, f, ...)
      local ok, raised = pcall(f, ...)
      assert.is_false(ok)
      assert.matches(message, raised, 1, true)
    end
    raises("'block' names several modules", pg.nn.sequential, { { "block", pg.nn.linear(2, 2), pg.nn.relu() } })
    raises("behind the shape stand named fields", pg.nn.module,
      { parameters = { w = { { 3, 3 }, pg.nn.init.he() } }, forward = function(_, x) return x end })
    raises("the shape of the last axes is missing", pg.nn.layer_norm)
    raises("the shape of the last axes is missing", pg.layer_norm, pg.ones { 2, 3 }, {})
    local net = pg.nn.sequential { pg.nn.linear(2, 3) }
    raises("'bias' fits only tensors of one axis", net.init, net, pg.key(1), { bias = pg.nn.init.he() })
    local theta = net:init(pg.key(1), { weight = 0, ["1.weight"] = 1 })
    assert.same({ { 1, 1, 1 }, { 1, 1, 1 } }, theta["1.weight"]:totable())
  end)
end)

describe("residual", function()
  it("adds what comes in, or what the shortcut makes of it", function()
    local plain = nn.residual(nn.linear(2, 2))
    local theta, x = plain:init(pg.key(1)), pg.ones { 1, 2 }
    local y = x:matmul(theta["body.weight"]) + theta["body.bias"]
    assert.same(values(y + x), values(plain(theta, x)))
    local projected = nn.residual({ nn.linear(2, 3), nn.relu() }, nn.linear(2, 3, { bias = false }))
    assert.same({ "body.1.weight [2,3]", "body.1.bias [3]", "shortcut.weight [2,3]" }, names_of(projected.layout))
    theta = projected:init(pg.key(1))
    y = (x:matmul(theta["body.1.weight"]) + theta["body.1.bias"]):relu()
    assert.same(values(y + x:matmul(theta["shortcut.weight"])), values(projected(theta, x)))
  end)
end)
