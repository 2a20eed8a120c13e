-- Facts about eager tensors: values, shapes, indices from 1, messages, memory.
local pg = require "perigee"
local core = require "perigee.core"

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { ... } do assert.matches(part, message, 1, true) end
  return message
end

describe("creation", function()
  it("reads nested tables in row-major order", function()
    local x = pg.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    assert.same({ 2, 3 }, x.shape)
    assert.equal("f32", x.dtype)
    assert.equal("cpu", x.device)
    assert.equal(6, x.size)
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, x:totable())
    assert.equal(4, x:data_read(3))
  end)

  it("gives 0-d tensors for numbers, and masks for booleans", function()
    assert.same({}, pg.tensor(3).shape)
    assert.equal(3, pg.tensor(3):item())
    assert.equal("bool", pg.tensor({ true, false }).dtype)
    assert.same({ true, false }, pg.tensor({ true, false }):totable())
  end)

  it("refuses ragged tables and numbers that do not fit", function()
    raises(function() pg.tensor { { 1, 2 }, { 3 } } end, "ragged", "tensor_spec.lua")
    raises(function() pg.tensor({ 300 }, "u8") end, "300 does not fit", "u8")
    raises(function() pg.tensor({ 1.5 }, "i64") end, "1.5 does not fit")
    raises(function() pg.tensor { 1, "a" } end, "a does not fit")
  end)

  it("fills, counts and spaces", function()
    assert.same({ { 0, 0 } }, pg.zeros({ 1, 2 }):totable())
    assert.same({ 1, 1 }, pg.ones({ 2 }, "i64"):totable())
    assert.same({ 2.5, 2.5 }, pg.full({ 2 }, 2.5):totable())
    assert.same({ 0, 1, 2 }, pg.arange(3):totable())
    assert.same({ 2, 4, 6 }, pg.arange(2, 7, 2, "i64"):totable())
    assert.same({ 3, 2, 1 }, pg.arange(3, 0, -1):totable())
    assert.same({ 0, 0.25, 0.5, 0.75, 1 }, pg.linspace(0, 1, 5):totable())
    assert.same({ { 1, 0 }, { 0, 1 } }, pg.eye(2):totable())
    assert.same({ 2 }, pg.zeros_like(pg.tensor({ 1, 2 }, "f64")).shape)
    assert.equal("f64", pg.zeros_like(pg.tensor({ 1, 2 }, "f64")).dtype)
  end)

  it("allows empty tensors", function()
    local x = pg.zeros { 0, 3 }
    assert.equal(0, x.size)
    assert.equal(0, x:sum():item())
    assert.same({ 0, 3 }, (x + 1).shape)
  end)
end)

describe("arithmetic", function()
  local x = pg.tensor { { 1, 2, 3 }, { 4, 5, 6 } }

  it("broadcasts as NumPy does", function()
    assert.same({ { 2, 4, 6 }, { 5, 7, 9 } }, (x + pg.tensor { 1, 2, 3 }):totable())
    assert.same({ { 2, 3, 4 }, { 6, 7, 8 } }, (x + pg.tensor { { 1 }, { 2 } }):totable())
    assert.same({ { -1, -2, -3 }, { -4, -5, -6 } }, (-x):totable())
    assert.same({ { 1, 4, 9 }, { 16, 25, 36 } }, (x ^ 2):totable())
    assert.same({ 2, 1 }, (2 / pg.tensor { 1, 2 }):totable())
  end)

  it("leaves its operands alone", function()
    local y = x + 1
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, x:totable())
    local z = y
    y = y * 2 -- luacheck: ignore
    assert.same({ { 2, 3, 4 }, { 5, 6, 7 } }, z:totable())
    raises(function() x[1] = 3 end, "tensors are values")
  end)

  it("takes no infinities among whole numbers", function()
    local ok, raised = pcall(function() return pg.tensor({ 1, 2 }, "i32") * math.huge end)
    assert.is_false(ok)
    assert.matches("holds whole numbers, and inf is not one", raised, 1, true)
  end)

  it("lets numbers take the dtype of the tensor they meet", function()
    assert.equal("f64", (pg.tensor({ 1 }, "f64") * 0.1).dtype)
    assert.equal(0.1, (pg.tensor({ 1 }, "f64") * 0.1):item())
    assert.equal("f32", (pg.tensor { 1 } * 0.1).dtype)
  end)

  it("refuses mixed dtypes", function()
    raises(function() return pg.ones { 2 } + pg.ones({ 2 }, "f64") end, "f32", "f64")
    raises(function() return pg.ones { 2 } + pg.ones({ 2 }, "i64") end, "f32", "i64")
  end)

  it("computes functions of plain numbers, as numbers", function()
    assert.equal(3, pg.sqrt(9))
    assert.equal(1, pg.where(pg.lt(1, 2), 1, 0))
    assert.equal(-1, pg.sign(-0.5))
  end)

  it("runs different numbers through one plan", function()
    for i = 1, 50 do assert.equal(i, (pg.ones { 1 } * i):item()) end
    assert.equal(8, (pg.full({ 1 }, 2) ^ 3):item())
    assert.equal(math.tointeger(16), math.tointeger((pg.full({ 1 }, 2) ^ 4):item()))
  end)

  it("names shapes and the caller's line when they do not fit", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local message = raises(function() return x + pg.ones { 2 } end, "[2, 3]", "[2]")
    assert.matches("tensor_spec.lua:" .. line .. ": ", message, 1, true)
    raises(function() return x:matmul(x) end, "[2, 3]", "tensor_spec.lua")
    raises(function() return x + {} end, "operand 2 is a table", "tensor_spec.lua")
    raises(function() return x + "1" end, "operand 2 is a string")
    raises(function() return core.apply("no_such", nil, x) end, "no_such")
  end)

  it("points to masks where Lua cannot compare", function()
    raises(function() return x < x end, "x:lt(y)", "pg.where")
    raises(function() return x <= 1 end, "x:le(y)")
    assert.is_true(pg.tensor { 1, 2 } == pg.tensor { 1, 2 })
    assert.is_false(pg.tensor { 1, 2 } == pg.tensor { 1, 3 })
    assert.is_false(pg.tensor { 1 } == pg.tensor({ 1 }, "f64"))
  end)

  it("chooses by masks", function()
    local z = pg.tensor { -1, 2, -3 }
    assert.same({ true, false, true }, z:lt(0):totable())
    assert.same({ 0, 2, 0 }, pg.where(z:lt(0), 0, z):totable())
    assert.same({ true, false, false }, z:lt(0):logical_and(z:gt(-2)):totable())
    assert.same({ false, true, false }, z:lt(0):logical_not():totable())
  end)
end)

describe("reductions", function()
  local x = pg.tensor { { 1, 2, 3 }, { 4, 5, 9 } }

  it("count axes from 1, negative from the end", function()
    assert.equal(24, x:sum():item())
    assert.same({ 5, 7, 12 }, x:sum(1):totable())
    assert.same({ 6, 18 }, x:sum(2):totable())
    assert.same({ 6, 18 }, x:sum(-1):totable())
    assert.same({ { 6 }, { 18 } }, x:sum(-1, true):totable())
    assert.equal(24, x:sum { 1, 2 }:item())
    assert.same({ 2, 6 }, x:mean(2):totable())
    assert.equal(9, x:max():item())
    assert.same({ 1, 2, 3 }, x:min(1):totable())
    raises(function() return x:sum(3) end, "axis 3", "1..2", "[2, 3]", "tensor_spec.lua")
    raises(function() return x:sum(0) end, "axis 0")
  end)

  it("know their options, and no others", function()
    local ones = pg.ones { 2, 3 }
    assert.same({ 2, 1 }, ones:logsumexp(-1, true).shape)
    assert.same({ 2 }, ones:logsumexp(-1, { keepdims = false }).shape)
    assert.same({ 1, 3 }, ones:var(1, { keepdims = true }).shape)
    for message, f in pairs {
      ["sum: unknown option 'keepdim' (known: keepdims)"] = function() return ones:sum(1, { keepdim = true }) end,
      ["unknown option 'unbiased' of pg.var"] = function() return ones:var(1, { unbiased = true }) end,
      ["pg.var takes a table of options, not true"] = function() return ones:var(1, true) end,
      ["unknown option 'aproximate' of pg.gelu"] = function() return ones:gelu { aproximate = true } end,
      ["flatten: the axes go from 2 to 1"] = function() return ones:flatten(2, 1) end,
      ["flatten: a tensor was expected, got 3"] = function() return pg.flatten(3) end,
    } do
      local ok, raised = pcall(f)
      assert.is_false(ok)
      assert.matches(message, raised, 1, true)
    end
  end)

  it("give positions from 0", function()
    assert.same({ 2, 2 }, x:argmax(-1):totable())
    assert.same({ 1, 1, 1 }, x:argmax(1):totable())
    assert.equal(5, x:argmax():item())
    assert.equal(0, x:argmin():item())
  end)

  it("give variances and norms", function()
    assert.equal(5, pg.tensor({ 3, 4 }):norm():item())
    assert.equal(0.25, pg.tensor({ 3, 4 }):var():item())
    assert.equal(0.5, pg.tensor({ 3, 4 }):var(nil, { correction = 1 }):item())
    assert.equal(11, pg.tensor({ 1, 2 }):dot(pg.tensor { 3, 4 }):item())
  end)
end)

describe("shapes", function()
  local x = pg.arange(6):reshape(2, 3)

  it("reshape, transpose, squeeze", function()
    assert.same({ 3, 2 }, x:reshape { 3, -1 }.shape)
    assert.same({ 6 }, x:flatten().shape)
    assert.same({ { 0, 3 }, { 1, 4 }, { 2, 5 } }, x:t():totable())
    assert.same({ 3, 2 }, x:transpose().shape)
    assert.same({ 1, 3, 2 }, x:unsqueeze(1):transpose(2, 3).shape)
    assert.same({ 3, 1, 2 }, x:unsqueeze(1):transpose({ 3, 1, 2 }).shape)
    assert.same({ 2, 3 }, x:unsqueeze(-1):squeeze().shape)
    assert.same({ 2, 2, 3 }, x:broadcast_to({ 2, 2, 3 }).shape)
    raises(function() return x:reshape { 4 } end, "[2, 3]", "4")
  end)

  it("slice from 1, both ends included", function()
    assert.same({ { 1, 2 }, { 4, 5 } }, x:slice({}, { 2, 3 }):totable())
    assert.same({ { 3, 4, 5 } }, x:slice({ 2, 2 }):totable())
    assert.same({ { 0, 2 }, { 3, 5 } }, x:slice({}, { 1, 3, 2 }):totable())
    assert.same({ { 1, 2 } }, x:slice({ 1, 1 }, { -2, -1 }):totable())
    assert.same({ 1, 4 }, x:slice({}, 2):totable())
    assert.same({ 3, 4, 5 }, x[2]:totable())
    assert.same({ 3, 4, 5 }, x[-1]:totable())
    assert.equal(5, x[2][3]:item())
    raises(function() return x[3] end, "index 3", "1..2")
    raises(function() return x:slice({ 1, 5 }) end, "{1, 5}", "1..2", "axis 1")
  end)

  it("join and take", function()
    assert.same({ 4, 3 }, pg.concat({ x, x }).shape)
    assert.same({ 2, 6 }, pg.concat({ x, x }, 2).shape)
    assert.same({ 2, 2, 3 }, pg.stack({ x, x }).shape)
    assert.same({ 2, 3, 2 }, pg.stack({ x, x }, -1).shape)
    assert.same({ { 3, 4, 5 }, { 0, 1, 2 } }, x:take({ 1, 0 }):totable())
    assert.same({ { 2, 0 }, { 5, 3 } }, x:take({ 2, 0 }, 2):totable())
    assert.same({ { 0, 1 }, { 1, 0 } }, pg.one_hot(pg.tensor({ 1, 0 }, "i64"), 2):totable())
  end)

  it("convert", function()
    assert.equal("f64", x:to("f64").dtype)
    assert.equal(x, x:to("cpu"))
    raises(function() return x:to("cuda:0") end, "no CUDA backend is in this build")
    raises(function() return x:to("f16") end, "neither a device nor a dtype")
  end)
end)

describe("softmax and losses", function()
  local logits = pg.tensor { { 1, 2, 3 }, { 1000, 0, 0 } }
  local labels = pg.tensor({ 2, 0 }, "i64")

  it("stay finite and sum to one", function()
    local p = logits:softmax():sum(-1):totable()
    assert.near(1, p[1], 1e-6)
    assert.near(1, p[2], 1e-6)
    assert.near(math.log(math.exp(1) + math.exp(2) + math.exp(3)), logits:logsumexp()[1]:item(), 1e-6)
  end)

  it("reduce as asked", function()
    local each = pg.cross_entropy(logits, labels, { reduction = "none" }):totable()
    assert.near(math.log(1 + math.exp(-1) + math.exp(-2)), each[1], 1e-6)
    assert.equal(0, each[2])
    assert.near((each[1] + each[2]) / 2, pg.cross_entropy(logits, labels):item(), 1e-7)
    assert.near(each[1] + each[2], pg.cross_entropy(logits, labels, { reduction = "sum" }):item(), 1e-6)
    raises(function() pg.cross_entropy(logits, labels, { reduction = "max" }) end, "got \"max\"")
    local compiled = pg.jit(function(x, y) return pg.cross_entropy(x, y, { reduction = "none" }) end)
    for _, label in ipairs { -1, 3, 300 } do
      local found = compiled(logits, pg.tensor({ label, 1 }, "i32")):totable()
      assert.is_true(found[1] ~= found[1], "a label that is no class gives a loss")
      assert.equal(each[2], compiled(logits, labels):totable()[2])
      assert.equal(found[2], compiled(logits, pg.tensor({ 0, 1 }, "i32")):totable()[2])
    end
    assert.near(math.log(2), pg.binary_cross_entropy_with_logits(pg.zeros { 1 }, pg.ones { 1 }):item(), 1e-6)
    assert.equal(2.5, pg.squared_loss(pg.tensor { 1, 2 }, pg.tensor { 0, 0 }):item())
  end)
end)

describe("keys", function()
  it("draw the same numbers for the same key, and others for others", function()
    local a, b = pg.key(1), pg.key(1)
    assert.equal(a, b)
    assert.equal(pg.randn(a, { 5 }), pg.randn(b, { 5 }))
    assert.not_equal(pg.randn(a, { 5 }), pg.randn(a:fold("x"), { 5 }))
    assert.equal(a:fold("x"), b:fold("x"))
    assert.not_equal(a:fold(1), a:fold(2))
    local c, d = a:split(2)
    assert.not_equal(c, d)
    assert.equal(c, a:keys(2)[1])
  end)

  it("fold 64-bit integers and tensors alike", function()
    local big = math.maxinteger - 7
    assert.equal(pg.key(3):fold(big), pg.key(3):fold(pg.tensor(big, "i64")))
    assert.equal(pg.key(3):fold(-5), pg.key(3):fold(pg.tensor(-5, "i64")))
    raises(function() return pg.key(3):fold(1.5) end, "1.5")
  end)

  it("have the moments they should", function()
    local x = pg.randn(pg.key(7), { 100000 })
    assert.near(0, x:mean():item(), 0.02)
    assert.near(1, x:std():item(), 0.02)
    local u = pg.uniform(pg.key(7), { 100000 }, { low = 2, high = 4 })
    assert.near(3, u:mean():item(), 0.02)
    assert.is_true(u:min():item() >= 2 and u:max():item() <= 4)
    assert.near(0.3, pg.bernoulli(pg.key(8), 0.3, { 100000 }):to("f32"):mean():item(), 0.01)
    local kept = pg.dropout(pg.ones { 100000 }, pg.key(9), 0.25)
    assert.near(1, kept:mean():item(), 0.02)
    assert.near(4 / 3, kept:max():item(), 1e-6)
  end)

  it("permute", function()
    local p = pg.permutation(pg.key(1), 100):totable()
    table.sort(p)
    for i = 1, 100 do assert.equal(i - 1, p[i]) end
    assert.same({ 10 }, pg.choice(pg.key(1), 100, 10).shape)
  end)

  it("draw categories by their weights", function()
    local logits = pg.tensor({ math.log(0.2), math.log(0.8) }):broadcast_to({ 20000, 2 })
    assert.near(0.8, pg.categorical(pg.key(1), logits):to("f32"):mean():item(), 0.02)
  end)
end)

describe("vectors", function()
  local w, b = pg.tensor { { 1, 2, 3 }, { 4, 5, 6 } }, pg.tensor { 7, 8 }
  local v = pg.vector { { "w", w }, { "b", b } }

  it("hold tensors by name, with pads that do not count", function()
    assert.equal(8, v.size)
    assert.equal(8, #v)
    assert.equal(2, #v.layout)
    assert.equal("b", v.layout[2].name)
    assert.same({ 2, 3 }, v.layout[1].shape)
    assert.equal(2, v.layout:find("b"))
    assert.equal(w, v.w)
    assert.equal(b, v["b"])
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8 }, v:totable())
    assert.equal(b, v:unpack().b)
    assert.equal(36, (v + 0):sum():item())
    assert.equal(4.5, v:mean():item())
    assert.equal(44, (v + 1):sum():item())
    assert.equal(v, pg.vector(v.layout, v:flat()))
    raises(function() return v.c end, "no tensor \"c\"", "tensor_spec.lua")
    raises(function() return v + w end, "tensor_spec.lua")
  end)

  it("refuse vectors of other layouts", function()
    local other = pg.vector { { "w", w }, { "c", b } }
    raises(function() return v + other end, "layout")
  end)

  it("mix with one value per tensor", function()
    local norms = v:per_tensor():norm()
    assert.near(math.sqrt(91), norms:totable()[1], 1e-5)
    assert.same({ 21, 15 }, v:per_tensor():sum():totable())
    assert.same({ 3.5, 7.5 }, v:per_tensor():mean():totable())
    assert.same({ 6, 8 }, v:per_tensor():max():totable())
    local unit = v / norms
    assert.near(1, unit:per_tensor():norm():totable()[2], 1e-6)
    local decay = pg.per_tensor(function(name, shape) return #shape >= 2 and name == "w" and 0.5 or 0 end)
    assert.same({ 0.5, 1, 1.5, 2, 2.5, 3, 0, 0 }, (decay * v):totable())
    assert.same({ 1, 2, 3, 4, 5, 6, 0, 0 }, (v * (2 * decay)):totable())
    assert.same({ 0.5, 0 }, decay:resolve(v.layout, "f64"):totable())
    assert.same({ 5, 5, 5, 5, 5, 6, 7, 8 }, pg.maximum(v, v:per_tensor():max() * 0 + 5):totable())
  end)

  it("draw by logical index, in either dtype", function()
    local n = pg.randn(pg.key(1), v.layout)
    assert.equal(v.layout, n.layout)
    assert.same(pg.randn(pg.key(1), { 8 }):totable(), n:totable())
  end)
end)

describe("printing", function()
  it("shows dtype, shape, device and aligned values", function()
    assert.equal("tensor f32 [2, 2] cpu\n[[ 1.,  2.],\n [10., 20.]]", tostring(pg.tensor { { 1, 2 }, { 10, 20 } }))
    assert.matches("0., 1., 2., ..., 997., 998., 999.", (tostring(pg.arange(1000)):gsub(" +", " ")), 1, true)
    assert.equal("tensor f32 [] cpu 0.5", tostring(pg.tensor(0.5)))
    assert.matches("w  [2]  norm 2.24  [1., 2.]", tostring(pg.vector { { "w", pg.tensor { 1, 2 } } }), 1, true)
    assert.matches("loss: tensor f32 [] cpu 2.", "loss: " .. pg.tensor(2), 1, true)
  end)
end)

describe("memory", function()
  it("of temporaries is freed as they go: 60,000 of 40 kB stay below 100 MB", function()
    collectgarbage()
    local x, peak = pg.ones { 10000 }, 0
    local before = core.memory_used()
    for _ = 1, 60000 do
      local y = x + 1 -- luacheck: ignore
      local used = core.memory_used()
      if used > peak then peak = used end
    end
    assert.is_true(peak - before < 100e6, ("peak %.1f MB"):format(peak / 1e6))
  end)

  it("of replaced long-lived tensors is freed in generational mode too", function()
    collectgarbage("generational")
    local state, peak = {}, 0 -- luacheck: ignore
    for i = 1, 3000 do
      state[i % 7] = pg.ones { 250000 } * i
      peak = math.max(peak, core.memory_used())
    end
    collectgarbage("incremental")
    assert.is_true(peak < 300e6, ("peak %.1f MB"):format(peak / 1e6))
  end)

  it("is given back by free and close", function()
    collectgarbage()
    local before = core.memory_used()
    local x = pg.zeros { 1000 }
    assert.is_true(core.memory_used() >= before + 4000)
    x:free()
    assert.equal(before, core.memory_used())
    raises(function() return x + 1 end, "freed")
    raises(function() return x.shape end, "freed")
    do
      local y <close> = pg.zeros { 1000 } -- luacheck: ignore
    end
    assert.equal(before, core.memory_used())
  end)

  it("exceeding a limit collects, retries, and then raises", function()
    collectgarbage()
    collectgarbage("stop")
    core.memory_limit(core.memory_used() + 10000000)
    local ok, message = pcall(function()
      for _ = 1, 50 do local x = pg.zeros { 500000 } end -- luacheck: ignore
      return pg.zeros { 5000000 }
    end)
    core.memory_limit(0)
    collectgarbage("restart")
    assert.is_false(ok)
    assert.matches("out of memory", message)
    assert.matches("tensor_spec.lua:", message, 1, true)
  end)

  it("copies into slots only where everything agrees", function()
    local slot, x = pg.zeros { 3 }, pg.tensor { 1, 2, 3 }
    slot:copy_from(x)
    assert.equal(x, slot)
    raises(function() slot:copy_from(pg.zeros { 4 }) end, "differ")
    local other = x:clone()
    other:data_write(0, 9)
    assert.same({ 1, 2, 3 }, x:totable())
    assert.equal(x, pg.zeros({ 3 }):from_bytes(x:bytes()))
  end)
end)
