-- plot.lua: line plots of several series, as text for a terminal and as SVG for a file. Pure Lua; draws what it is
-- given and knows nothing of runs. A series is { name = "sgd", x = {…}, y = {…} }; points that are not finite, or not
-- positive on a logarithmic axis, are left out.

local terminal = require "perigee.terminal"

local plot = {}

local COLORS = { 34, 31, 32, 35, 36, 33 } -- blue, red, green, magenta, cyan, yellow
local MARKS = { "●", "○", "▲", "△", "■", "□", "◆", "◇" }
local ASCII_MARKS = { "*", "o", "+", "x", "#", "@", "%", "=" }
local SVG_COLORS = { "#1f5fb4", "#d1372c", "#2b8a3e", "#8e44ad", "#0b7285", "#e08e0b", "#5c4033", "#666666" }

local function finite(x) return x == x and x ~= math.huge and x ~= -math.huge end

-- ---- axes -----------------------------------------------------------------------------------------------------------

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

-- {{position 0…1, label}, …}, about `count` of them.
local function ticks_of(axis, count)
  local out = {}
  if axis.logarithmic and axis.high - axis.low >= 0.8 then
    local every = math.max(1, math.ceil((axis.high - axis.low) / count))
    for e = math.ceil(axis.low - 1e-9), math.floor(axis.high + 1e-9) do
      if e % every == 0 then out[#out + 1] = { (e - axis.low) / (axis.high - axis.low), ("1e%d"):format(e) } end
    end
    if #out >= 2 then return out end
    out = {}
  end
  if axis.logarithmic then -- a short range: labels of plain numbers
    local low, high = 10 ^ axis.low, 10 ^ axis.high
    local step = nice_step(high - low, count)
    for k = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do
      if k > 0 then out[#out + 1] = { axis.at(k * step), number_label(k * step, step) } end
    end
    return out
  end
  local step = nice_step(axis.high - axis.low, count)
  for k = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) do
    out[#out + 1] = { axis.at(k * step), number_label(k * step, step) }
  end
  return out
end

local function axes_of(series, opts)
  local xs, ys = {}, {}
  for _, s in ipairs(series) do
    for i, y in ipairs(s.y) do
      if finite(y) and finite(s.x[i]) and not (opts.log and y <= 0) and not (opts.logx and s.x[i] <= 0) then
        xs[#xs + 1], ys[#ys + 1] = s.x[i], y
      end
    end
  end
  return make_axis(xs, opts.logx), make_axis(ys, opts.log), #xs
end

-- ---- the terminal ---------------------------------------------------------------------------------------------------

-- Call visit(column, row) for every cell of a w × h grid (0-based, row 0 at the top) on the line through the points.
local function trace_line(s, xaxis, yaxis, w, h, visit)
  local px, py
  for i, y in ipairs(s.y) do
    local u, v = xaxis.at(s.x[i]), yaxis.at(y)
    if u and v then
      local cx, cy = math.floor(u * (w - 1) + 0.5), math.floor((1 - v) * (h - 1) + 0.5)
      if px then
        local steps = math.max(math.abs(cx - px), math.abs(cy - py), 1)
        for k = 1, steps do
          visit(math.floor(px + (cx - px) * k / steps + 0.5), math.floor(py + (cy - py) * k / steps + 0.5))
        end
      else
        visit(cx, cy)
      end
      px, py = cx, cy
    end
  end
end

local BRAILLE = { [0] = { [0] = 0x01, 0x02, 0x04, 0x40 }, { [0] = 0x08, 0x10, 0x20, 0x80 } }

-- Cells as strings, cells[row][column] (0-based), nil where nothing is drawn.
local function draw_braille(series, xaxis, yaxis, w, h)
  local dots, owner = {}, {}
  for k, s in ipairs(series) do
    trace_line(s, xaxis, yaxis, w * 2, h * 4, function(x, y)
      local cell = (y // 4) * w + x // 2
      dots[cell] = (dots[cell] or 0) | BRAILLE[x % 2][y % 4]
      owner[cell] = k
    end)
  end
  local cells = {}
  for row = 0, h - 1 do
    cells[row] = {}
    for column = 0, w - 1 do
      local cell = row * w + column
      if dots[cell] then
        cells[row][column] = ("\27[%dm%s\27[0m"):format(COLORS[(owner[cell] - 1) % #COLORS + 1],
          utf8.char(0x2800 + dots[cell]))
      end
    end
  end
  return cells
end

local function draw_marks(series, xaxis, yaxis, w, h, marks)
  local cells = {}
  for row = 0, h - 1 do cells[row] = {} end
  for k, s in ipairs(series) do
    trace_line(s, xaxis, yaxis, w, h, function(x, y) cells[y][x] = marks[(k - 1) % #marks + 1] end)
  end
  return cells
end

local function legend_line(series, marks, color)
  local parts = {}
  for k, s in ipairs(series) do
    local mark = marks[(k - 1) % #marks + 1]
    if color then mark = ("\27[%dm%s\27[0m"):format(COLORS[(k - 1) % #COLORS + 1], "━━") end
    parts[k] = mark .. " " .. s.name
  end
  return table.concat(parts, "   ")
end

-- The row of tick labels under the frame, at most one label over another.
local function label_row(ticks, w)
  local row, free_from = {}, 0
  for c = 0, w - 1 do row[c] = " " end
  for _, tick in ipairs(ticks) do
    local middle = math.floor(tick[1] * (w - 1) + 0.5)
    local first = math.max(0, math.min(w - #tick[2], middle - #tick[2] // 2))
    if first >= free_from then
      for i = 1, #tick[2] do row[first + i - 1] = tick[2]:sub(i, i) end
      free_from = first + #tick[2] + 2
    end
  end
  return (table.concat(row, "", 0, w - 1):gsub("%s+$", ""))
end

--- pg.plot.draw(series [, opts]) → string: Line plots as text. series: a list of { name = "sgd", x = {…}, y = {…} };
-- points that are not finite, or not positive on a logarithmic axis, are left out.
--   title, xlabel, ylabel: strings. log, logx: whether the y axis and the x axis are logarithmic.
--   width, height: in characters, default those of the terminal and 16.
--   utf8, color: whether to use Braille dots and colours; found in the environment where not given (NO_COLOR forbids).
function plot.draw(series, opts)
  opts = opts or {}
  local unicode = opts.utf8
  if unicode == nil then unicode = terminal.is_utf8() end
  local color = opts.color
  if color == nil then color = terminal.has_color(1) end
  color = color and unicode
  local marks = unicode and MARKS or ASCII_MARKS
  local xaxis, yaxis, count = axes_of(series, opts)
  if count == 0 then return "(nothing to plot)\n" end
  local height = opts.height or 16
  local yticks = ticks_of(yaxis, math.max(2, height // 4))
  local margin = 0
  for _, tick in ipairs(yticks) do margin = math.max(margin, #tick[2]) end
  local width = math.max(10, (opts.width or terminal.width()) - margin - 3)
  local cells = (color and draw_braille or draw_marks)(series, xaxis, yaxis, width, height, marks)

  local side, corner, bottom = "│", "└", "─"
  if not unicode then side, corner, bottom = "|", "+", "-" end
  local label_at = {}
  for _, tick in ipairs(yticks) do label_at[math.floor((1 - tick[1]) * (height - 1) + 0.5)] = tick[2] end
  local lines = {}
  if opts.title then lines[#lines + 1] = (" "):rep(margin + 2) .. opts.title end
  if opts.ylabel then lines[#lines + 1] = (" "):rep(margin + 2) .. opts.ylabel end
  for row = 0, height - 1 do
    local out = {}
    for column = 0, width - 1 do out[column] = cells[row][column] or " " end
    local label = label_at[row] or ""
    lines[#lines + 1] = ((" "):rep(margin - #label) .. label .. " " .. side
      .. table.concat(out, "", 0, width - 1)):gsub("%s+$", "")
  end
  lines[#lines + 1] = (" "):rep(margin + 1) .. corner .. bottom:rep(width)
  lines[#lines + 1] = (" "):rep(margin + 2) .. label_row(ticks_of(xaxis, math.max(2, width // 14)), width)
  if opts.xlabel then
    lines[#lines + 1] = (" "):rep(margin + 2 + math.max(0, width - #opts.xlabel)) .. opts.xlabel
  end
  lines[#lines + 1] = (" "):rep(margin + 2) .. legend_line(series, marks, color)
  return table.concat(lines, "\n") .. "\n"
end

-- ---- SVG ------------------------------------------------------------------------------------------------------------

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function escape(text) return (text:gsub('[&<>"]', ESCAPES)) end

local function svg_line(s, xaxis, yaxis, box, color)
  local points = {}
  for i, y in ipairs(s.y) do
    local u, v = xaxis.at(s.x[i]), yaxis.at(y)
    if u and v then
      points[#points + 1] = ("%.1f,%.1f"):format(box.x + u * box.w, box.y + (1 - v) * box.h)
    end
  end
  return ('<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>'):format(color, table.concat(points, " "))
end

--- pg.plot.svg(series [, opts]) → string: The series as an SVG document. Options as in pg.plot.draw; width = 720 and
-- height = 420 are in pixels.
function plot.svg(series, opts)
  opts = opts or {}
  local w, h = opts.width or 720, opts.height or 420
  local box = { x = 70, y = 36, w = w - 90, h = h - 36 - 70 }
  local xaxis, yaxis = axes_of(series, opts)
  local out = {}
  local function add(fmt, ...) out[#out + 1] = fmt:format(...) end
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">', w, h)
  add('<rect width="%d" height="%d" fill="white"/>', w, h)
  if opts.title then add('<text x="%d" y="20" font-size="14">%s</text>', box.x, escape(opts.title)) end
  for _, tick in ipairs(ticks_of(yaxis, 6)) do
    local y = box.y + (1 - tick[1]) * box.h
    add('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>', box.x, box.x + box.w, y, y)
    add('<text x="%d" y="%.1f" text-anchor="end">%s</text>', box.x - 6, y + 4, tick[2])
  end
  for _, tick in ipairs(ticks_of(xaxis, 6)) do
    local x = box.x + tick[1] * box.w
    add('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/>', x, x, box.y, box.y + box.h)
    add('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', x, box.y + box.h + 16, tick[2])
  end
  add('<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#444"/>', box.x, box.y, box.w, box.h)
  local x = box.x
  for k, s in ipairs(series) do
    local color = SVG_COLORS[(k - 1) % #SVG_COLORS + 1]
    out[#out + 1] = svg_line(s, xaxis, yaxis, box, color)
    add('<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s" stroke-width="3"/>', x, x + 18, h - 14, h - 14, color)
    add('<text x="%d" y="%d">%s</text>', x + 24, h - 10, escape(s.name))
    x = x + 44 + 8 * (utf8.len(s.name) or #s.name)
  end
  if opts.xlabel then
    add('<text x="%d" y="%d" text-anchor="end">%s</text>', box.x + box.w, box.y + box.h + 34, escape(opts.xlabel))
  end
  if opts.ylabel then add('<text x="8" y="%d">%s</text>', box.y - 8, escape(opts.ylabel)) end
  add("</svg>")
  return table.concat(out, "\n") .. "\n"
end

--- pg.plot.save(path, series [, opts]): Write the series as SVG to a file. In a recipe, `path` lies below the directory
-- of runs, unless it is run with --trust.
function plot.save(path, series, opts)
  local ok, message = require("perigee.sandbox").may_open(path, "w")
  if not ok then error(message, 2) end
  require("perigee.core").data.write_file_atomic(path, plot.svg(series, opts))
end

return plot
