-- plot_axes.lua: the axes of a plot: which values they span, where their ticks stand and what is written there. A plot
-- is given as series, { name = "sgd", x = {…}, y = {…}, low = {…}, high = {…}, marks = {…} }, and the options of
-- pg.plot.draw. What draws it is plot.lua and plot_svg.lua.

local core = require "perigee.core"
local names = require "perigee.names"

local axes = {}

local OPTIONS = { "title", "xlabel", "ylabel", "log", "logx", "width", "height", "utf8", "color", "marks", "lines" }
local SERIES = { "name", "x", "y", "low", "high", "marks" }

local function finite(x) return type(x) == "number" and x == x and x ~= math.huge and x ~= -math.huge end
axes.is_finite = finite

-- ---- what is given --------------------------------------------------------------------------------------------------

-- A list of numbers or of { [field] =, name = } as a list of the latter.
local function named(owner, field, list)
  local out = {}
  for i, entry in ipairs(list or {}) do
    out[i] = type(entry) == "number" and { [field] = entry } or entry
    if type(out[i]) ~= "table" or type(out[i][field]) ~= "number" then
      core.raise(("pg.plot: entry %d of %s is %s, not a number or { %s =, name = }"):format(i, owner,
        names.describe(entry), field))
    end
  end
  return out
end

-- The options, with marks and lines as lists of { x =, name = } and { y =, name = }; an error where they are none.
function axes.check(series, opts)
  names.check("pg.plot", opts or {}, OPTIONS)
  for i, s in ipairs(series) do
    local owner = ("series %d of pg.plot"):format(i)
    names.check(owner, s, SERIES)
    for _, field in ipairs { "x", "y" } do
      if type(s[field]) ~= "table" then
        core.raise(("%s: %s must be a list of numbers, not %s"):format(owner, field, names.describe(s[field])))
      end
    end
  end
  local checked = {}
  for _, key in ipairs(OPTIONS) do checked[key] = opts and opts[key] end
  checked.marks = named("marks", "x", checked.marks)
  checked.lines = named("lines", "y", checked.lines)
  return checked
end

-- ---- scales ---------------------------------------------------------------------------------------------------------

-- An axis maps values to 0…1 and has ticks. `values` are all values shown on it.
local function make_axis(values, logarithmic)
  local function scale(v)
    if not finite(v) then return nil end
    if not logarithmic then return v end
    return v > 0 and math.log(v, 10) or nil
  end
  local low, high
  for _, v in ipairs(values) do
    local s = scale(v)
    if s then low, high = math.min(low or s, s), math.max(high or s, s) end
  end
  if not low then low, high = 0, 1 end
  if high - low < 1e-12 * math.max(1, math.abs(high)) then
    local margin = low == 0 and 1 or math.abs(low) * 0.1
    low, high = low - margin, high + margin
  end
  local axis = { low = low, high = high, logarithmic = logarithmic }
  function axis.at(v)
    local s = scale(v)
    return s and (s - low) / (high - low)
  end
  return axis
end

-- The axes of all series, their bands and the lines, and how many points there are to be drawn.
function axes.of(series, opts)
  local xs, ys, count = {}, {}, 0
  local function visible(v, logarithmic) return finite(v) and not (logarithmic and v <= 0) end
  for _, s in ipairs(series) do
    for i, y in ipairs(s.y) do
      if visible(y, opts.log) and visible(s.x[i], opts.logx) then
        count = count + 1
        xs[count] = s.x[i]
        for _, v in ipairs { y, s.low and s.low[i] or y, s.high and s.high[i] or y } do ys[#ys + 1] = v end
      end
    end
  end
  for _, line in ipairs(opts.lines) do
    if count > 0 then ys[#ys + 1] = line.y end
  end
  return make_axis(xs, opts.logx), make_axis(ys, opts.log), count
end

-- The value of a series at x, linearly between its points; nil outside of them.
function axes.value_at(s, x)
  for i = 1, #s.x - 1 do
    local a, b = s.x[i], s.x[i + 1]
    if a <= x and x <= b and finite(s.y[i]) and finite(s.y[i + 1]) then
      if a == b then return s.y[i] end
      return s.y[i] + (x - a) / (b - a) * (s.y[i + 1] - s.y[i])
    end
  end
  return s.x[1] == x and finite(s.y[1]) and s.y[1] or nil
end

-- ---- ticks ----------------------------------------------------------------------------------------------------------

-- The largest of 1, 2, 5 × 10^k that gives at least `count` intervals.
local function nice_step(span, count)
  local raw = span / count
  local power = 10 ^ math.floor(math.log(raw, 10))
  for _, m in ipairs { 5, 2, 1 } do
    if m * power <= raw * (1 + 1e-9) then return m * power end
  end
  return power
end

local function number_label(v, step)
  local size = math.abs(v)
  if size ~= 0 and (size >= 1e6 or size < 1e-3) then
    return (("%.3g"):format(v):gsub("e([+-])0*(%d)", "e%1%2"):gsub("e%+", "e"))
  end
  local digits = math.max(0, -math.floor(math.log(step, 10) + 1e-9))
  return ("%." .. digits .. "f"):format(v)
end

local function linear_ticks(axis, count)
  local out, step = {}, nice_step(axis.high - axis.low, count)
  for k = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) do
    out[#out + 1] = { axis.at(k * step), number_label(k * step, step) }
  end
  return out
end

-- Decades, where at least two are in sight.
local function decade_ticks(axis, count)
  local out, every = {}, math.max(1, math.ceil((axis.high - axis.low) / count))
  for e = math.ceil(axis.low - 1e-9), math.floor(axis.high + 1e-9) do
    if e % every == 0 then
      out[#out + 1] = { (e - axis.low) / (axis.high - axis.low), ("1e%d"):format(e), exponent = e }
    end
  end
  return #out >= 2 and out or nil
end

-- A logarithmic axis over less than two decades: labels of plain numbers, 1, 2 and 5 times powers of ten, or, where
-- even those are too few, steps as on a linear axis.
local function short_ticks(axis, count)
  local out = {}
  for e = math.floor(axis.low), math.floor(axis.high) do
    for _, m in ipairs { 1, 2, 5 } do
      local position = axis.at(m * 10.0 ^ e)
      if position >= -1e-9 and position <= 1 + 1e-9 then
        out[#out + 1] = { position, number_label(m * 10.0 ^ e, 10.0 ^ e) }
      end
    end
  end
  if #out >= 3 then return out end
  out = {}
  local low, high = 10 ^ axis.low, 10 ^ axis.high
  local step = nice_step(high - low, count)
  for k = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do
    if k > 0 then out[#out + 1] = { axis.at(k * step), number_label(k * step, step) } end
  end
  return out
end

-- {{position 0…1, label, exponent = of a decade}, …}, about `count` of them.
function axes.ticks(axis, count)
  if not axis.logarithmic then return linear_ticks(axis, count) end
  return axis.high - axis.low >= 0.8 and decade_ticks(axis, count) or short_ticks(axis, count)
end

-- Positions between decades, 2 … 9 times each, on a logarithmic axis of few decades.
function axes.minor(axis)
  local out = {}
  if not axis.logarithmic or axis.high - axis.low > 6 or axis.high - axis.low < 0.8 then return out end
  for e = math.floor(axis.low), math.floor(axis.high) do
    for m = 2, 9 do
      local position = axis.at(m * 10.0 ^ e)
      if position > 0 and position < 1 then out[#out + 1] = position end
    end
  end
  return out
end

return axes
