-- Facts about plots: what stands where in the text and in the SVG.
local plot = require "perigee.plot"
local text_table = require "perigee.table"

local function lines_of(text)
  local out = {}
  for line in text:gmatch("([^\n]*)\n") do out[#out + 1] = line end
  return out
end

describe("plot.draw", function()
  local falling = { name = "falling", x = { 0, 1, 2, 3 }, y = { 3, 2, 1, 0 } }

  it("draws a falling series from the upper left to the lower right", function()
    local lines = lines_of(plot.draw({ falling }, { width = 40, height = 8, utf8 = false }))
    assert.matches("|%*", lines[1])
    assert.matches("%*$", lines[8])
    assert.matches("* falling", lines[#lines], 1, true)
  end)

  it("is ASCII when asked, and never wider than told", function()
    local text = plot.draw({ falling, { name = "b", x = { 0, 3 }, y = { 1, 1 } } }, { width = 50, utf8 = false,
      title = "t", xlabel = "x" })
    assert.is_nil(text:find("[\128-\255]"))
    for _, line in ipairs(lines_of(text)) do assert.is_true(#line <= 50) end
  end)

  it("holds no escape codes without colour", function()
    assert.is_nil(plot.draw({ falling }, { utf8 = true, color = false }):find("\27", 1, true))
    assert.is_truthy(plot.draw({ falling }, { utf8 = true, color = true }):find("\27[34m", 1, true))
  end)

  it("labels decades on a logarithmic axis and leaves out what has no logarithm", function()
    local text = plot.draw({ { name = "a", x = { 1, 2, 3, 4 }, y = { 1, 1e-4, 0, -1 } } }, { log = true, width = 40,
      utf8 = false })
    assert.matches("1e-4", text, 1, true)
    assert.matches("1e0", text, 1, true)
  end)

  it("survives nothing, one point, equal points, NaN and infinity", function()
    assert.equal("(nothing to plot)\n", plot.draw({ { name = "a", x = {}, y = {} } }))
    for _, y in ipairs { { 1 }, { 2, 2, 2 }, { 0 / 0, 1, math.huge }, { 1e300, -1e300 } } do
      assert.is_string(plot.draw { { name = "a", x = { 1, 2, 3 }, y = y } })
    end
  end)
end)

describe("plot.svg", function()
  it("escapes names and draws one line a series", function()
    local svg = plot.svg({ { name = "a<b&c", x = { 1, 2 }, y = { 1, 2 } } }, { title = "x>y" })
    assert.matches("a&lt;b&amp;c", svg, 1, true)
    assert.matches("x&gt;y", svg, 1, true)
    local _, count = svg:gsub("<polyline", "")
    assert.equal(1, count)
  end)
end)

describe("table.format", function()
  it("aligns numbers to the right and words to the left", function()
    local text = text_table.format({ "name", "n" }, { { "a", "1" }, { "bb", "1,000" } })
    assert.same({ "name      n", "----  -----", "a         1", "bb    1,000" }, lines_of(text))
  end)

  it("groups thousands", function()
    assert.equal("1,234,567", text_table.thousands(1234567))
    assert.equal("-12", text_table.thousands(-12))
    assert.equal("100", text_table.thousands(100))
  end)
end)
