-- Facts about mistakes with models: each is one line that begins with the recipe's line, names the layer's path, what
-- was found and what would fit.
local pg = require("support").pg
local nn = pg.nn

-- f must fail with "FILE:LINE: " and then this message.
local function assert_message(want, f)
  local ok, message = pcall(f)
  assert.is_false(ok)
  local found = message:match("^tests/lua/nn_errors_spec%.lua:%d+: (.*)$")
  assert.equal(want, found or message)
end

local net = nn.sequential {
  nn.conv2d(1, 6, 5), { "block", { nn.relu(), { "conv", nn.conv2d(6, 16, 5) }, nn.max_pool2d(2) } }, nn.flatten(),
  nn.linear(1600, 10),
}
local theta = net:init(pg.key(1))

local function call(model, x, ctx) return function() return model(model:init(pg.key(1)), x, ctx) end end

describe("an input that does not fit", function()
  it("has the wrong number of channels", function()
    assert_message("1 (conv2d(1, 6, 5)): input f32 [8, 3, 28, 28] has 3 channels, 1 expected", function()
      return net(theta, pg.ones { 8, 3, 28, 28 })
    end)
    assert_message("2.conv (conv2d(6, 16, 5)): input f32 [8, 7, 24, 24] has 7 channels, 6 expected",
      call(nn.sequential { nn.conv2d(1, 7, 5), { { "conv", nn.conv2d(6, 16, 5) } } }, pg.ones { 8, 1, 28, 28 }))
    assert_message("conv2d(3, 6, 5): input f32 [8, 28, 28, 3] has 28 channels, 3 expected; axes are [batch, channels, "
      .. "height, width]", call(nn.conv2d(3, 6, 5), pg.ones { 8, 28, 28, 3 }))
  end)

  it("lacks the batch axis, or the channel axis", function()
    assert_message("1 (conv2d(1, 6, 5)): input f32 [1, 28, 28] has 3 axes, [batch, channels, height, width] expected; "
      .. "a single example becomes a batch by x:unsqueeze(1)", function() return net(theta, pg.ones { 1, 28, 28 }) end)
    assert_message("1 (conv2d(1, 6, 5)): input f32 [64, 28, 28] has 3 axes, [batch, channels, height, width] expected; "
      .. "x:unsqueeze(2) makes one channel", function() return net(theta, pg.ones { 64, 28, 28 }) end)
    assert_message("1 (conv2d(1, 6, 5)): input f32 [64, 784] has 2 axes, [batch, channels, height, width] expected; "
      .. "x:reshape { -1, channels, height, width } makes images of rows",
      function() return net(theta, pg.ones { 64, 784 }) end)
  end)

  it("is smaller than the kernel or the window", function()
    assert_message("conv2d(2, 3, 7, pad 1): input f32 [1, 2, 4, 9] is smaller, with pad 1 on each side, than the "
      .. "kernel of 7 x 7", call(nn.conv2d(2, 3, 7, { pad = 1 }), pg.ones { 1, 2, 4, 9 }))
    assert_message("max_pool2d(3): input f32 [1, 2, 2, 9] is smaller, with pad 0 on each side, than the window of "
      .. "3 x 3", call(nn.max_pool2d(3), pg.ones { 1, 2, 2, 9 }))
  end)

  it("comes to a linear layer unflattened, or of another size", function()
    local unflat = nn.sequential { nn.conv2d(1, 2, 3), nn.linear(72, 5) }
    assert_message("2 (linear(72, 5)): input f32 [4, 2, 6, 6] has 6 features in its last axis, 72 expected; put "
      .. "pg.nn.flatten() before it", call(unflat, pg.ones { 4, 1, 8, 8 }))
    assert_message("2 (linear(72, 5)): input f32 [4, 2, 7, 7] has 7 features in its last axis, 72 expected; after "
      .. "pg.nn.flatten() it would have 98: linear(98, 5)", call(unflat, pg.ones { 4, 1, 9, 9 }))
    assert_message("4 (linear(1600, 10)): input f32 [2, 1296] has 1296 features in its last axis, 1600 expected: "
      .. "linear(1296, 10) would fit", function() return net(theta, pg.ones { 2, 1, 26, 26 }) end)
  end)

  it("does not fit a norm", function()
    assert_message("batch_norm(4): input f32 [2, 3, 5, 5] has 3 channels, 4 expected",
      call(nn.batch_norm(4), pg.ones { 2, 3, 5, 5 }, { train = true }))
    assert_message("batch_norm(4): input f32 [1, 4] has one number per channel; training needs two for a variance",
      call(nn.batch_norm(4), pg.ones { 1, 4 }, { train = true }))
    assert_message("layer_norm(3, 5): input f32 [2, 4, 5] ends in [4, 5], [3, 5] expected",
      call(nn.layer_norm { 3, 5 }, pg.ones { 2, 4, 5 }))
    assert_message("pg.nn.group_norm: 6 channels cannot be divided into 4 groups", function() nn.group_norm(4, 6) end)
  end)

  it("is no tensor, or of the wrong kind", function()
    assert_message("1 (conv2d(1, 6, 5)): the input must be a tensor, got nothing", function() return net(theta) end)
    assert_message("relu: the input must be a tensor, got 3", call(nn.relu(), 3))
    assert_message("embedding(5, 2): embedding: indices are whole numbers (i64, i32, u8), got f32 [3]",
      call(nn.embedding(5, 2), pg.ones { 3 }))
    assert_message("embedding(5, 2): embedding: index 5 is outside 0..4 of the rows; integers inside tensors count "
      .. "from 0", call(nn.embedding(5, 2), pg.tensor({ 5 }, "i64")))
  end)
end)

describe("a call of a model", function()
  it("without parameters first", function()
    assert_message("a model's parameters are a vector of 6 tensors, 18582 numbers, as model:init(key) makes it; got a "
      .. "tensor f32 [1, 1, 28, 28]", function() return net(pg.ones { 1, 1, 28, 28 }) end)
    assert_message("a model's parameters are a vector of 6 tensors, 18582 numbers, as model:init(key) makes it; got "
      .. "nothing", function() return net(nil, pg.ones { 1, 1, 28, 28 }) end)
  end)

  it("without buffers or a key where it needs them", function()
    assert_message("1 (batch_norm(3)): the buffer 'running_mean' is needed, and ctx.buffers is missing: in a loss hand "
      .. "ctx on, net(theta, batch.x, ctx); elsewhere give { buffers = run.buffers }, or model:init_buffers()",
      call(nn.sequential { nn.batch_norm(3) }, pg.ones { 2, 3 }))
    assert_message("dropout(0.5): dropout needs ctx.key while training",
      call(nn.dropout(0.5), pg.ones { 2, 3 }, { train = true }))
  end)

  it("with parameters or buffers of another model", function()
    local other = nn.sequential { nn.batch_norm(2) }
    assert_message("ctx.buffers are a vector of 2 tensors, 6 numbers, as model:init_buffers() makes it; got a tensor "
      .. "f32 vector of 2 tensors, 4 numbers", call(nn.batch_norm(3), pg.ones { 2, 3 }, { buffers =
      other:init_buffers() }))
    assert_message("ctx.buffers are f64 and the parameters f32; model:init_buffers takes a dtype",
      call(other, pg.ones { 2, 2 }, { buffers = other:init_buffers("f64") }))
  end)

  it("with a ctx that is none, or in other words", function()
    assert_message("ctx is a table, as a loss gets it or { train = true }, not true",
      function() return net(theta, pg.ones { 1, 1, 28, 28 }, true) end)
    assert_message("a model has no 'forward'; did you mean model(theta, x, ctx)?",
      function() return net:forward(pg.ones { 1, 1, 28, 28 }) end)
    assert_message("a model has no 'eval'; did you mean model(theta, x, { train = false })?", function() net:eval() end)
    assert_message("a model has no 'sumary'; did you mean model:summary?", function() net:sumary() end)
    assert.is_nil(net.buffer_layout)
  end)

  it("to begin it without a key", function()
    assert_message("model:init needs a key first, as pg.key(1), got 1", function() net:init(1) end)
    assert_message("model:init: no tensor's name is or ends in 'wieght'; did you mean \"weight\"?",
      function() net:init(pg.key(1), { wieght = 0 }) end)
  end)
end)

describe("an error inside a forward function", function()
  it("of the engine has the path and both shapes", function()
    local model = nn.sequential { { "mix", nn.module {
      name = "mixing", parameters = { w = { 3, 4 } }, forward = function(self, x) return x:matmul(self.w) end,
    } } }
    local ok, message = pcall(model, model:init(pg.key(1)), pg.ones { 2, 5 })
    assert.is_false(ok)
    assert.is_true(message:find("^tests/lua/nn_errors_spec%.lua:%d+: mix %(mixing%): matmul: ") ~= nil, message)
    assert.is_true(message:find("[2, 5]", 1, true) and message:find("[3, 4]", 1, true) and true, message)
  end)

  it("of a child has the child's path, at the line that calls it", function()
    local model = nn.module { name = "outer", children = { inner = { nn.linear(3, 2) } }, forward = function(self, x)
      return self.inner(x)
    end }
    local line = debug.getinfo(1, "l").currentline - 2
    local ok, message = pcall(model, model:init(pg.key(1)), pg.ones { 2, 4 })
    assert.is_false(ok)
    assert.equal(("tests/lua/nn_errors_spec.lua:%d: inner.1 (linear(3, 2)): input f32 [2, 4] has 4 features in its "
      .. "last axis, 3 expected: linear(4, 2) would fit"):format(line), message)
  end)

  it("of Lua itself has the path, too, and after a call that went well it is the parent's", function()
    local model = nn.sequential { { "odd", nn.module { children = { fine = nn.relu() }, forward = function(self, x)
      x = self.fine(x)
      return x + nothing -- luacheck: ignore 113
    end } } }
    local ok, message = pcall(model, model:init(pg.key(1)), pg.ones { 2 })
    assert.is_false(ok)
    assert.is_true(message:find("^tests/lua/nn_errors_spec%.lua:%d+: odd %(module%): ") ~= nil, message)
  end)

  it("is the same while tracing", function()
    local ok, message = pcall(pg.grad(function(t) return net(t, pg.ones { 8, 3, 28, 28 }):sum() end), theta)
    assert.is_false(ok)
    assert.is_true(message:find(": 1 (conv2d(1, 6, 5)): input f32 [8, 3, 28, 28] has 3", 1, true) ~= nil, message)
  end)

  it("of self: names that are not there, things that cannot be set", function()
    local function model(forward)
      return nn.sequential { { "block", nn.module { name = "own", children = { conv = nn.relu() },
        parameters = { weight = { 2 } }, forward = forward } } }
    end
    assert_message("block (own): unknown name 'conf' of self; did you mean 'conv'?",
      call(model(function(self, x) return self.conf(x) end), pg.ones { 2 }))
    assert_message("block (own): self.weight cannot be set: forward keeps nothing but buffers",
      call(model(function(self, x) self.weight = x end), pg.ones { 2 }))
    assert_message("block (own): a module calls itself in its forward; call its children",
      call(model(function(self, x) return self(x) end), pg.ones { 2 }))
  end)

  it("that returns nothing, or gives a buffer another shape", function()
    assert_message("1 (module): forward returned nothing; it must return the output",
      call(nn.sequential { nn.module { forward = function(_, x) x:relu() end }, nn.relu() }, pg.ones { 2 }))
    local model = nn.module {
      buffers = { mean = { 3 } },
      forward = function(self, x)
        self.mean = x
        return x
      end,
    }
    assert_message("module: self.mean is a buffer of shape [3]; it was given a tensor f32 [2]",
      call(model, pg.ones { 2 }))
  end)

  it("shapes that differ on the two ways of a residual", function()
    assert_message("residual: the body gives f32 [2, 4], and the shortcut f32 [2, 3]; they must have one shape",
      call(nn.residual(nn.linear(3, 4)), pg.ones { 2, 3 }))
  end)
end)

describe("a description of a model", function()
  it("with options that are not there", function()
    assert_message("unknown option 'padding' of pg.nn.conv2d; did you mean 'pad'?",
      function() nn.conv2d(1, 6, 5, { padding = 2 }) end)
    assert_message("pg.nn.conv2d takes a table of options, not 2 (known: stride, pad, dilation, groups, bias, init)",
      function() nn.conv2d(1, 6, 5, 2) end)
    assert_message("unknown option 'momentun' of pg.nn.batch_norm; did you mean 'momentum'?",
      function() nn.batch_norm(3, { momentun = 0.1 }) end)
    assert_message("unknown option 'child' of pg.nn.module; did you mean 'children'?",
      function() nn.module { child = {}, forward = print } end)
    assert_message("pg.nn.init.he: nonlinearity 'rleu' is unknown; did you mean \"relu\"? (known: leaky_relu, linear, "
      .. "relu, sigmoid, tanh)", function() nn.init.he { nonlinearity = "rleu" } end)
  end)

  it("with sizes that are none", function()
    assert_message("pg.nn.linear: inputs must be a positive whole number, not 0", function() nn.linear(0, 3) end)
    assert_message("pg.nn.linear: outputs must be a positive whole number, not nil", function() nn.linear(3) end)
    assert_message("pg.nn.conv2d: size is a whole number of at least 1 or a pair { height, width } of them, not nil",
      function() nn.conv2d(1, 6) end)
    assert_message("pg.nn.conv2d: stride is a whole number of at least 1 or a pair { height, width } of them, not { 1, "
      .. "0 }", function() nn.conv2d(1, 6, 3, { stride = { 1, 0 } }) end)
    assert_message("pg.nn.conv2d: 3 inputs and 4 outputs cannot both be divided into 2 groups",
      function() nn.conv2d(3, 4, 3, { groups = 2 }) end)
    assert_message('pg.nn.conv2d: pad = "same" pads both sides alike, which takes an odd size (or an even dilation), '
      .. "not 4", function() nn.conv2d(1, 6, { 3, 4 }, { pad = "same" }) end)
    assert_message('pg.nn.conv2d: pad is a number, a pair { height, width } of them or "same", not "valid"',
      function() nn.conv2d(1, 6, 3, { pad = "valid" }) end)
    assert_message("pg.nn.max_pool2d: pad is at most half of size", function() nn.max_pool2d(2, { pad = 2 }) end)
    assert_message("pg.nn.dropout: the rate is a number in [0, 1)", function() nn.dropout(1) end)
  end)

  it("with words of another library", function()
    assert_message("pg.nn has no 'Conv2d'; did you mean pg.nn.conv2d?", function() return nn.Conv2d end)
    assert_message("pg.nn has no 'BatchNorm2d'; did you mean pg.nn.batch_norm?", function() return nn.BatchNorm2d end)
    assert_message("pg.nn.init has no 'kaiming_normal_'; did you mean pg.nn.init.he?",
      function() return nn.init.kaiming_normal_ end)
  end)

  it("with what is no module", function()
    assert_message("pg.nn.sequential: '2' is the function pg.nn.relu, not a module; call it: pg.nn.relu(…)",
      function() nn.sequential { nn.linear(1, 1), nn.relu } end)
    assert_message("pg.nn.sequential: '1' is 3, not a module", function() nn.sequential { 3 } end)
    assert_message("pg.nn.sequential: its parts are in order; write { \"a\", … } for a = …",
      function() nn.sequential { a = nn.relu() } end)
    assert_message("pg.nn.sequential takes a list of modules, not a module", function() nn.sequential(nn.relu()) end)
    assert_message("pg.nn.residual takes a body: a module, a function or a list of modules",
      function() nn.residual() end)
    assert_message("pg.nn.module needs a function forward(self, x, ctx)", function() nn.module { children = {} } end)
  end)

  it("with names that clash or are none", function()
    assert_message("pg.nn.module: the name 'a' is taken twice (parameters and children)", function()
      nn.module { parameters = { a = { 1 } }, children = { a = nn.relu() }, forward = print }
    end)
    assert_message("pg.nn.module: 'a.b' is no name: letters, digits and _ are", function()
      nn.module { parameters = { ["a.b"] = { 1 } }, forward = print }
    end)
    assert_message("pg.nn.module: 'w': extents of a shape are positive whole numbers, not 2.5", function()
      nn.module { parameters = { w = { 2.5 } }, forward = print }
    end)
    assert_message("unknown option 'inti' of pg.nn.module: 'w'; did you mean 'init'?", function()
      nn.module { parameters = { w = { 2, inti = 0 } }, forward = print }
    end)
  end)

  it("with an initializer that does not fit", function()
    assert_message("'bias' of shape [3]: this initializer is for tensors of two axes or more",
      function() nn.linear(2, 3, { bias = nn.init.orthogonal() }):init(pg.key(1)) end)
    assert_message("'weight': the initializer must return a f32 tensor of shape [2, 3]",
      function() nn.linear(2, 3, { init = function() return pg.ones { 3, 2 } end }):init(pg.key(1)) end)
    assert_message("pg.nn.linear: 'weight': an initializer is a number, a function, or one of pg.nn.init, not "
      .. '"he"', function() nn.linear(2, 3, { init = "he" }) end)
    assert_message("pg.nn.linear: 'weight': pg.nn.init.he is to be called: pg.nn.init.he(…)",
      function() nn.linear(2, 3, { init = nn.init.he }) end)
    assert_message("pg.nn.linear: 'bias': an initializer is a number, a function, or one of pg.nn.init, not "
      .. '"yes"', function() nn.linear(2, 3, { bias = "yes" }) end)
    assert_message("model:init: 'weight': an initializer is a number, a function, or one of pg.nn.init, not true",
      function() net:init(pg.key(1), { weight = true }) end)
    assert_message("pg.nn.module: 'b': a buffer begins with a number, not a function",
      function() nn.module { buffers = { b = { 2, init = print } }, forward = print } end)
  end)
end)
