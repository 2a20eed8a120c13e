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

  it("draws marks and lines behind the curves, and a series' own marks on them", function()
    local rising = { name = "a", x = { 0, 4 }, y = { 0, 4 }, marks = { 2 } }
    local lines = lines_of(plot.draw({ rising }, { width = 40, height = 9, utf8 = false,
      marks = { { x = 4, name = "pass" } }, lines = { { y = 4, name = "least" } } }))
    assert.matches("|%-+%*+$", lines[1])
    assert.matches(" :$", lines[5])
    assert.matches("O", lines[5], 1, true)
    assert.matches("* a   -- least   : pass", lines[#lines], 1, true)
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
    assert.equal(1, select(2, svg:gsub('class="curve"', "")))
  end)

  -- The points of every curve, in pixels.
  local function curves_of(svg)
    local out = {}
    for d in svg:gmatch('class="curve" d="([^"]*)"') do
      local points = {}
      for px, py in d:gmatch("[ML]([%d%.]+) ([%d%.]+)") do points[#points + 1] = { tonumber(px), tonumber(py) } end
      out[#out + 1] = points
    end
    return out
  end

  it("puts points where the axes say, also on logarithmic ones", function()
    local points = curves_of(plot.svg({ { name = "a", x = { 1, 10, 100 }, y = { 1e-4, 1e-2, 1 } } },
      { log = true, logx = true }))[1]
    assert.equal(3, #points)
    for i = 1, 2 do assert.is_true(math.abs((points[1][i] + points[3][i]) / 2 - points[2][i]) <= 0.1) end
    assert.is_true(points[1][2] > points[3][2] and points[1][1] < points[3][1])
  end)

  it("interrupts a curve where a point cannot be drawn", function()
    local curves = curves_of(plot.svg { { name = "a", x = { 1, 2, 3, 4, 5 }, y = { 1, 2, 0 / 0, 1, 2 } } })
    assert.same({ 2, 2 }, { #curves[1], #curves[2] })
  end)

  it("keeps what the eye can see of many points, peaks included", function()
    local s = { name = "a", x = {}, y = {} }
    for i = 1, 50000 do s.x[i], s.y[i] = i, i == 31234 and 5 or math.sin(i / 3000) end
    local svg = plot.svg { s }
    local points, highest = curves_of(svg)[1], math.huge
    for _, point in ipairs(points) do highest = math.min(highest, point[2]) end
    assert.is_true(#points < 8000, #points .. " points")
    local single = curves_of(plot.svg { { name = "a", x = { 1, 50000 }, y = { 5, -1 } } })[1]
    assert.is_true(math.abs(highest - single[1][2]) < 0.2)
  end)

  it("has a band, marks and lines, and names those in the legend once", function()
    local banded = { name = "a", x = { 1, 2 }, y = { 1, 2 }, low = { 0.5, 1 }, high = { 2, 3 }, marks = { 1.5 } }
    local svg = plot.svg({ banded }, { lines = { { y = -1, name = "minimum" } },
      marks = { { x = 1.2, name = "outer pass" }, { x = 1.4, name = "outer pass" }, 9 } })
    assert.equal(1, select(2, svg:gsub("fill%-opacity", "")))
    assert.equal(1, select(2, svg:gsub("<circle", "")))
    assert.equal(1, select(2, svg:gsub(">outer pass<", "")))
    assert.equal(1, select(2, svg:gsub(">minimum<", "")))
    assert.equal(3, select(2, svg:gsub('stroke="#777777" stroke%-dasharray="2 3"', ""))) -- one of them in the legend
  end)

  it("leaves no two tick labels over one another", function()
    for _, high in ipairs { 1, 37, 99999, 600000, 1234567, 3e-5 } do
      local svg = plot.svg({ { name = "a", x = { 0, high }, y = { 1, 2 } } }, { width = 400 })
      local before
      for px, label in svg:gmatch('<text x="([%d%.]+)"[^>]*text%-anchor="middle">([^<]*)</text>') do
        local half = utf8.len(label) * 13 * 0.58 / 2
        assert.is_true(not before or tonumber(px) - half > before, label)
        before = tonumber(px) + half
      end
      assert.is_number(before)
    end
  end)

  it("says what is no series", function()
    local function refused(expected, ...)
      local ok, message = pcall(plot.svg, ...)
      assert.is_false(ok)
      assert.matches(expected, message, 1, true)
    end
    refused("series 1 of pg.plot: y must be a list of numbers, not nothing", { { name = "a", x = {} } })
    refused("unknown option 'logy' of pg.plot; did you mean 'log'?", {}, { logy = true })
    refused('entry 1 of lines is "low", not a number or { y =, name = }', {}, { lines = { "low" } })
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
