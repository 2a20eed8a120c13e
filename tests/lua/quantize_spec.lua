-- Facts about block-wise 8-bit quantization: maps and codes are those of the reference; codes are the nearest ones;
-- what is decoded is as near as the map allows. Rules with such states: eight_bit_spec.lua.
local support = require "support"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/quantize.lua"
local special = golden.special
local quantize = pg.quantize

local function list(dtype, numbers) return core.tensor(dtype, { #numbers }, numbers) end

describe("maps", function()
  it("are those of the reference to the last bit", function()
    for name, want in pairs { signed = special.quant_map_signed, unsigned = special.quant_map_unsigned } do
      local map = quantize.map({ signed = name == "signed" }):totable()
      assert.are.same(want, map)
    end
  end)
end)

describe("codes", function()
  it("are those of the reference", function()
    local c = special.quant_block8
    for _, dtype in ipairs { "f64", "f32" } do
      local codes, absmax = quantize.encode(list(dtype, c.x), { block = c.block })
      assert.are.same(c.codes, codes:totable())
      local allowed = dtype == "f64" and 1e-14 or 1e-6
      assert(support.difference(absmax:totable(), c.absmax) < allowed)
      assert(support.difference(quantize.decode(codes, absmax, { block = c.block }):totable(), c.deq) < allowed)
      local x = list(dtype, c.x)
      codes, absmax = quantize.encode(x * x, { block = c.block, signed = false })
      assert.are.same(c.sq_codes, codes:totable())
      assert(support.difference(absmax:totable(), c.sq_absmax) < allowed)
    end
  end)

  it("are the nearest ones, but for signs, and stand for themselves", function()
    for i = 0, 7 do
      local signed, map_name, dtype = i % 2 == 0, i < 4 and "dynamic" or "linear", i % 4 < 2 and "f64" or "f32"
      local map = quantize.map({ signed = signed, map = map_name }):totable()
      local x = pg.randn(pg.key(2), { 300 }, dtype)
      x = x * x * x
      if not signed then x = x:abs() end
      local codes, absmax = quantize.encode(x, { signed = signed, keep_sign = false, block = 512, map = map_name })
      local top = absmax:totable()[1]
      local numbers = (x / top):totable()
      for k, code in ipairs(codes:totable()) do
        local value, best = numbers[k], math.huge
        for _, candidate in ipairs(map) do best = math.min(best, math.abs(candidate - value)) end
        assert.are.equal(best, math.abs(map[code + 1] - value))
      end
      local again = quantize.encode(list(dtype, map), { signed = signed, block = 256, map = map_name })
      for k, code in ipairs(again:totable()) do assert.are.equal(k - 1, code) end
    end
  end)

  it("keep signs, zeros, and the ends of blocks", function()
    local function both(numbers, o)
      local codes, absmax = quantize.encode(list("f32", numbers), o)
      return codes:totable(), quantize.decode(codes, absmax, o):totable()
    end
    local codes, numbers = both { 1, -1e-12, 1e-12, 0 }
    assert.are.same({ 255, 126, 127, 127 }, codes)
    assert(numbers[2] < 0 and numbers[3] == 0 and numbers[4] == 0)
    assert.are.same({ 255, 127, 127, 127 }, (both({ 1, -1e-12, 1e-12, 0 }, { keep_sign = false })))
    codes, numbers = both({ 0, 0, 5, 0.5, -3 }, { block = 2 }) -- a block of zeros, a short last one
    assert.are.same({ 127, 127, 255 }, { table.unpack(codes, 1, 3) })
    assert.are.same({ 0, 0, 5 }, { table.unpack(numbers, 1, 3) })
    assert(math.abs(numbers[5] + 3) < 0.03)
    assert.are.equal(5, #numbers)
  end)

  it("say that a block has a number that is not finite", function()
    for _, bad in ipairs { 0 / 0, math.huge, -math.huge } do
      local codes, absmax = quantize.encode(list("f32", { 1, bad, 2, 3, 5 }), { block = 4 })
      for i, x in ipairs(quantize.decode(codes, absmax, { block = 4 }):totable()) do
        assert(i == 5 and x == 5 or i < 5 and not (x == x and math.abs(x) < math.huge), ("%d: %g"):format(i, x))
      end
    end
  end)

  it("lose less in small blocks, where an outlier stands in one of them only", function()
    local x = pg.randn(pg.key(4), { 4096 }, "f32")
    x = pg.where(pg.arange(4096):eq(7), 1000, x)
    local function loss(block)
      local codes, absmax = quantize.encode(x, { block = block })
      return (quantize.decode(codes, absmax, { block = block }) - x):abs():mean():item()
    end
    assert(loss(256) < loss(4096) / 2)
    assert(loss(256) < 0.03)
  end)

  it("are the same inside a trace, and of vectors by their numbers without pads", function()
    local v = support.vector(support.layout { { 3 }, { 5 } }, "f32", { { 1, -2, 3 }, { 4, 0, -6, 7, 0.1 } })
    local f = pg.jit(function(x)
      local codes, absmax = quantize.encode(x, { block = 4 })
      return codes, quantize.decode(codes, absmax, { block = 4 })
    end)
    local codes, numbers = f(v)
    local plain, absmax = quantize.encode(v:flat(), { block = 4 })
    assert.are.same(plain:totable(), codes:totable())
    assert.are.same(quantize.decode(plain, absmax, { block = 4 }):totable(), numbers:totable())
    local rows = pg.randn(pg.key(6), { 3, 10 })
    local _, looped = pg.scan(function(n, row) return n, (quantize.encode(row, { block = 4 })) end, pg.zeros {}, rows)
    for i = 1, 3 do
      assert.are.same((quantize.encode(rows:slice(i), { block = 4 })):totable(), looped:slice(i):totable())
    end
  end)

  it("refuse what they cannot be of", function()
    local function refused(what, f, ...)
      local ok, m = pcall(f, ...)
      assert(not ok and tostring(m):find(what, 1, true), m)
    end
    refused("must be a tensor or vector of f32 or f64", quantize.encode, list("i64", { 1 }))
    refused("block is a power of two from 2 to 4096, not 0.5", quantize.encode, list("f32", { 1 }), { block = 0.5 })
    refused("block is a power of two from 2 to 4096, not 300", quantize.encode, list("f32", { 1 }), { block = 300 })
    refused('map is "dynamic" or "linear", not "log"', quantize.encode, list("f32", { 1 }), { map = "log" })
    refused("block_scales has no derivative", pg.grad(function(x) return select(2, quantize.encode(x)):sum() end),
      list("f32", { 1, 2 }))
    refused("codes must be u8", quantize.decode, list("f32", { 1 }), list("f32", { 1 }))
    refused("need 2 absmax", quantize.decode, list("f32", { 1, 2, 3 }):to("u8"), list("f32", { 1 }), { block = 2 })
  end)
end)
