-- Facts about vectors of parameters on their way between a layout and plain numbers.
local support = require "support"
local pg = support.pg
local vectors = require "perigee.vectors"

describe("unflatten", function()
  local layout = support.layout { { 2, 3 }, { 1 }, {}, { 5 } }
  local x = support.vector(layout, "f64", { { 1, 2, 3, 4, 5, 6 }, { 7 }, { 8 }, { 9, 10, 11, 12, 13 } })

  it("is the inverse of flat, outside of traces and inside", function()
    local flat = x:flat()
    assert.same({ 13 }, flat.shape)
    assert.equal(x:bytes(), vectors.unflatten(flat, x):bytes())
    local through = pg.jit(function(v) return vectors.unflatten(v:flat() * 2, v) end)
    assert.equal((x * 2):bytes(), through(x):bytes())
  end)

  it("is differentiated", function()
    local weights = support.vector(layout, "f64", { { 6, 5, 4, 3, 2, 1 }, { 0.5 }, { -1 }, { 1, 1, 2, 3, 5 } })
    local slope = pg.grad(function(flat) return vectors.unflatten(flat, x):dot(weights) end)
    assert.same(weights:flat():totable(), slope(x:flat()):totable())
  end)

  it("refuses another number of numbers", function()
    local ok, message = pcall(vectors.unflatten, pg.zeros({ 12 }, "f64"), x)
    assert(not ok and message:find("12", 1, true) and message:find("13", 1, true), message)
  end)
end)

describe("map_tensors", function()
  local layout = support.layout { { 2, 2 }, { 3 } }
  local a = support.vector(layout, "f64", { { 1, 2, 3, 4 }, { 5, 6, 7 } })
  local b = support.vector(layout, "f64", { { 1, 1, 2, 2 }, { 10, 20, 30 } })
  local function add(x, name, y) return name == "t1" and x:matmul(y) or x + y end

  it("goes through tensors in their shapes, of several vectors together, traced too", function()
    local want = { 5, 5, 11, 11, 15, 26, 37 }
    assert.are.same(want, a:map_tensors(add, b):totable())
    assert.are.same(want, support.pg.jit(function(x, y) return x:map_tensors(add, y) end)(a, b):totable())
  end)

  it("is for vectors", function()
    local ok, message = pcall(function() return support.pg.ones { 2 }:map_tensors(add) end)
    assert(not ok and message:find("a vector was expected", 1, true), message)
  end)
end)
