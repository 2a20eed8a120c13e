-- Facts about how the prompt shows values.
local core = require "perigee.core"
local pg = require "perigee"
local pretty = require "perigee.pretty"

local function show(value, env) return pretty.format(value, env, 60) end

describe("values at the prompt", function()
  it("are short where they are", function()
    assert.equal("1", show(1))
    assert.equal("a text", show "a text")
    assert.equal("nil", show(nil))
    assert.equal("{ 1, 2, 3 }", show { 1, 2, 3 })
    assert.equal("{}", show {})
    assert.equal('{ a = "b\\n", c = true }', show { a = "b\n", c = true })
    assert.equal('{ 7, ["end"] = 3, ["odd key"] = 2 }', show { 7, ["odd key"] = 2, ["end"] = 3 })
  end)

  it("put several results in a line if each is a word, else below each other", function()
    assert.equal("1\tx\tnil", pretty.format_all({ 1, "x", nil }, 3, {}))
    assert.equal("1\n{ 2 }", pretty.format_all({ 1, { 2 } }, 2, {}))
  end)

  it("indent what does not fit, with keys in order", function()
    local text = show { zebra = ("z"):rep(30), apple = ("a"):rep(30), { 1 } }
    assert.equal(('{\n  { 1 },\n  apple = "%s",\n  zebra = "%s"\n}'):format(("a"):rep(30), ("z"):rep(30)), text)
  end)

  it("fill lines with short entries, and leave out what is too much", function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    local text = show(list)
    assert.matches("^{\n  1, 2, 3,", text)
    assert.matches("... 961 more\n}$", text)
    for line in text:gmatch("[^\n]+") do assert.is_true(#line <= 60, line) end
    local inside = show { list, name = 1 }
    assert.matches("9, ... 991 more", inside, 1, true)
  end)

  it("end at cycles and in depth", function()
    local t = { a = 1 }
    t.self, t.list = t, { t }
    assert.equal("{ a = 1, list = { { the table it is in } }, self = { the table it is in } }",
      (show(t):gsub("%s+", " ")))
    local deep = {}
    for _ = 1, 50 do deep = { deep } end
    assert.equal("{ { { { { ... } } } } }", show(deep))
    local wide = {} -- shared tables: 4^12 leaves
    for _ = 1, 12 do wide = { wide, wide, wide, wide } end
    assert.is_true(#show(wide) < 20000)
  end)

  it("run no code of a table's but its __tostring", function()
    local trap = setmetatable({ 5 }, { __index = function() error "read" end, __pairs = function() error "pairs" end,
      __len = function() error "length" end })
    assert.equal("{ 5 }", show(trap))
    assert.equal("a thing", show(setmetatable({}, { __tostring = function() return "a thing" end })))
    assert.equal("{ 1, b = a thing }",
      show { 1, b = setmetatable({}, { __tostring = function() return "a thing" end }) })
  end)

  it("name tensors by dtype and shape in tables, with values if they are few", function()
    local text = show { x = pg.ones { 2 }, y = pg.ones { 3, 4 } }
    assert.equal("{ x = tensor f32 [2] [1., 1.], y = tensor f32 [3, 4] }", text)
    assert.equal("tensor f32 [2] cpu [1., 1.]", show(pg.ones { 2 }))
  end)

  it("show vectors with their layout, norms and some values", function()
    local v = pg.vector { { "1.weight", pg.full({ 2, 3 }, 2) }, { "1.bias", pg.zeros { 4 } } }
    assert.equal("vector f32 of 2 tensors, 10 numbers, cpu\n  1.weight  [2, 3]  norm 4.9  [2., 2., ..., 2., 2.]\n"
      .. "  1.bias    [4]     norm 0.   [0., 0., 0., 0.]", show(v))
    assert.equal("{ f32 vector of 2 tensors, 10 numbers }", show { v })
    assert.matches("^layout of 2 tensors, 10 numbers\n  1.weight %[2, 3%]", show(v.layout))
  end)

  it("show models by their summary, within tables by their size", function()
    local model = pg.nn.sequential { pg.nn.linear(3, 2) }
    assert.equal(model:summary(), show(model))
    assert.matches("of 2 tensors, 8 numbers", show { model })
  end)

  it("name functions, with parameters and place", function()
    local function mine(a, b, ...) return a, b, ... end
    assert.matches("^function mine%(a, b, %.%.%.%), .*pretty_spec%.lua:%d+$", show(mine, { mine = mine }))
    assert.matches("^function pg%.nn%.linear%(inputs, outputs", show(pg.nn.linear))
    assert.equal("{ function pg.nn.linear, function print }", show { pg.nn.linear, print })
    assert.matches("^function tensor:sum%(", show(core.methods.sum))
    assert.equal("function string.rep(...), built in", show(string.rep))
  end)

  it("are summarized in a line", function()
    assert.equal("table of 3 values", pretty.summarize { 1, 2, 3 })
    assert.equal("table of 2 entries", pretty.summarize { 1, a = 2 })
    assert.equal("string of 100 bytes", pretty.summarize(("a"):rep(100)))
    assert.equal('"short"', pretty.summarize "short")
  end)
end)
