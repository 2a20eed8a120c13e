-- plot.lua: line plots of several series as text for a terminal. Pure Lua; draws what it is given and knows nothing of
-- runs. Axes are plot_axes.lua's, pictures for files plot_svg.lua's.

local axes = require "perigee.plot_axes"
local svg = require "perigee.plot_svg"
local terminal = require "perigee.terminal"

local plot = { svg = svg.svg, save = svg.save }

local COLORS = { 34, 31, 32, 35, 36, 33 } -- blue, red, green, magenta, cyan, yellow
local MARKS = { "●", "○", "▲", "△", "■", "□", "◆", "◇" }
local ASCII_MARKS = { "*", "o", "+", "x", "#", "@", "%", "=" }

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

-- Draw the marks as columns and the lines as rows where nothing else is, and the series' own marks over what is there.
local function draw_guides(cells, series, opts, xaxis, yaxis, w, h, unicode)
  local function column_of(x)
    local u = xaxis.at(x)
    return u and u >= 0 and u <= 1 and math.floor(u * (w - 1) + 0.5)
  end
  for _, line in ipairs(opts.lines) do
    local v = yaxis.at(line.y)
    local row = v and math.floor((1 - v) * (h - 1) + 0.5)
    for column = 0, row and w - 1 or -1 do cells[row][column] = cells[row][column] or (unicode and "┄" or "-") end
  end
  for _, mark in ipairs(opts.marks) do
    local column = column_of(mark.x)
    for row = 0, column and h - 1 or -1 do cells[row][column] = cells[row][column] or (unicode and "┊" or ":") end
  end
  for _, s in ipairs(series) do
    for _, x in ipairs(s.marks or {}) do
      local column, y = column_of(x), axes.value_at(s, x)
      local v = column and y and yaxis.at(y)
      if v then cells[math.floor((1 - v) * (h - 1) + 0.5)][column] = unicode and "◉" or "O" end
    end
  end
end

-- The legend in lines no wider than `width`.
local function legend_lines(series, opts, marks, color, unicode, width)
  local parts = {}
  for k, s in ipairs(series) do
    local mark = marks[(k - 1) % #marks + 1]
    if color then mark = ("\27[%dm%s\27[0m"):format(COLORS[(k - 1) % #COLORS + 1], "━━") end
    parts[k] = mark .. " " .. (s.name or "")
  end
  for _, guide in ipairs { { opts.lines, unicode and "┄┄" or "--" }, { opts.marks, unicode and "┊" or ":" } } do
    local said = {}
    for _, entry in ipairs(guide[1]) do
      if entry.name and not said[entry.name] then
        parts[#parts + 1], said[entry.name] = guide[2] .. " " .. entry.name, true
      end
    end
  end
  local lines, used = {}, nil
  for _, part in ipairs(parts) do
    local length = utf8.len((part:gsub("\27%[%d+m", ""))) or #part
    if used and used + 3 + length <= width then
      lines[#lines], used = lines[#lines] .. "   " .. part, used + 3 + length
    else
      lines[#lines + 1], used = part, length
    end
  end
  return lines
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
-- points that are not finite, or not positive on a logarithmic axis, are left out. A series may have marks = {…}, x
-- positions that are marked on its line, and, for pictures, low and high = {…}, the ends of a band around it.
--   title, xlabel, ylabel: strings. log, logx: whether the y axis and the x axis are logarithmic.
--   marks: x positions of vertical lines, as outer passes; lines: y positions of horizontal ones, as a minimum. Each a
--     list of numbers, or of { x =, name = } and { y =, name = } for a word in the legend.
--   width, height: in characters, default those of the terminal and 16.
--   utf8, color: whether to use Braille dots and colours; found in the environment where not given (NO_COLOR forbids).
function plot.draw(series, opts)
  opts = axes.check(series, opts)
  local unicode = opts.utf8
  if unicode == nil then unicode = terminal.is_utf8() end
  local color = opts.color
  if color == nil then color = terminal.has_color(1) end
  color = color and unicode
  local marks = unicode and MARKS or ASCII_MARKS
  local xaxis, yaxis, count = axes.of(series, opts)
  if count == 0 then return "(nothing to plot)\n" end
  local height = opts.height or 16
  local yticks = axes.ticks(yaxis, math.max(2, height // 4))
  local margin = 0
  for _, tick in ipairs(yticks) do margin = math.max(margin, #tick[2]) end
  local width = math.max(10, (opts.width or terminal.width()) - margin - 3)
  local cells = (color and draw_braille or draw_marks)(series, xaxis, yaxis, width, height, marks)
  draw_guides(cells, series, opts, xaxis, yaxis, width, height, unicode)

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
  lines[#lines + 1] = (" "):rep(margin + 2) .. label_row(axes.ticks(xaxis, math.max(2, width // 14)), width)
  if opts.xlabel then
    lines[#lines + 1] = (" "):rep(margin + 2 + math.max(0, width - #opts.xlabel)) .. opts.xlabel
  end
  for _, line in ipairs(legend_lines(series, opts, marks, color, unicode, width)) do
    lines[#lines + 1] = (" "):rep(margin + 2) .. line
  end
  return table.concat(lines, "\n") .. "\n"
end

return plot
