-- plot_svg.lua: line plots of several series as SVG, for papers and pages. Owns the arrangement on the page: axes with
-- ticks, curves with their bands, marks, a legend in rows below. What axes show is plot_axes.lua's. Colours are those
-- of Okabe and Ito, which people with any colour vision tell apart; from the eighth series on they come again dashed.

local axes = require "perigee.plot_axes"
local core = require "perigee.core"

local svg = {}

local COLORS = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000" }
local DASHES = { "", "7 3", "2 3", "9 3 2 3" }
local FONT, TEXT, FAINT, FRAME = 13, "#222222", "#e4e4e4", "#444444"
local GUIDE = "#777777"

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function escape(text) return (tostring(text):gsub('[&<>"]', ESCAPES)) end

-- About how wide a text is in a common sans-serif font, in pixels: rather more than less.
local function text_width(text, size) return (utf8.len(text) or #text) * size * 0.58 end

local function color_of(k) return COLORS[(k - 1) % #COLORS + 1] end

-- ' stroke-dasharray="…"' or nothing.
local function dash_of(k)
  local dash = DASHES[(k - 1) // #COLORS % #DASHES + 1]
  return dash ~= "" and (' stroke-dasharray="%s"'):format(dash) or ""
end

-- ---- the page -------------------------------------------------------------------------------------------------------

local Page = {}
Page.__index = Page

function Page:add(format, ...) self.out[#self.out + 1] = format:format(...) end

function Page:text(x, y, text, how)
  how = how or {}
  self:add('<text x="%.1f" y="%.1f" fill="%s" font-size="%d"%s%s>%s</text>', x, y, how.color or TEXT, how.size or FONT,
    how.anchor and (' text-anchor="%s"'):format(how.anchor) or "", how.bold and ' font-weight="bold"' or "", text)
end

-- Pixels of a value on an axis; nil where it is not on it.
function Page:x(v)
  local u = self.xaxis.at(v)
  return u and self.left + u * self.w
end

function Page:y(v)
  local u = self.yaxis.at(v)
  return u and self.top + (1 - u) * self.h
end

-- ---- axes -----------------------------------------------------------------------------------------------------------

-- The text of a tick: powers of ten with a raised exponent, large numbers with their digits in groups.
local function tick_text(tick)
  if tick.exponent then
    if tick.exponent >= 0 and tick.exponent <= 3 then return ("%d"):format(math.floor(10 ^ tick.exponent)) end
    local exponent = ("%d"):format(tick.exponent):gsub("%-", "−")
    return ('10<tspan dy="-5" font-size="%d">%s</tspan>'):format(FONT - 3, exponent), 2 + 0.8 * utf8.len(exponent)
  end
  local digits = tick[2]:match("^%-?(%d%d%d%d%d+)$")
  local text = digits and tick[2]:gsub("%d+", function(d)
    return (d:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
  end) or tick[2]
  return (text:gsub("^%-", "−"))
end

local function label_width(tick)
  local text, length = tick_text(tick)
  return length and length * FONT * 0.58 or text_width(text, FONT)
end

-- Whether no two labels of ticks touch. room: pixels along the axis.
local function have_room(ticks, room, width_of)
  for i = 2, #ticks do
    local needed = (width_of(ticks[i - 1]) + width_of(ticks[i])) / 2 + 12
    if (ticks[i][1] - ticks[i - 1][1]) * room < needed then return false end
  end
  return true
end

-- As many ticks as have room, at most about `most`.
local function roomy_ticks(axis, most, room, width_of)
  for count = most, 2, -1 do
    local ticks = axes.ticks(axis, count)
    if have_room(ticks, room, width_of) then return ticks end
  end
  return { axes.ticks(axis, 1)[1] }
end

local function draw_axes(page)
  for _, u in ipairs(axes.minor(page.yaxis)) do
    local y = page.top + (1 - u) * page.h
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', page.left - 3, page.left, y, y, FRAME)
  end
  for _, u in ipairs(axes.minor(page.xaxis)) do
    local x = page.left + u * page.w
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', x, x, page.bottom, page.bottom + 3, FRAME)
  end
  for _, tick in ipairs(page.yticks) do
    local y = page.top + (1 - tick[1]) * page.h
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', page.left, page.right, y, y, FAINT)
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', page.left - 5, page.left, y, y, FRAME)
    page:text(page.left - 9, y + 4.5, (tick_text(tick)), { anchor = "end" })
  end
  for _, tick in ipairs(page.xticks) do
    local x = page.left + tick[1] * page.w
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', x, x, page.top, page.bottom, FAINT)
    page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>', x, x, page.bottom, page.bottom + 5, FRAME)
    page:text(x, page.bottom + 20, (tick_text(tick)), { anchor = "middle" })
  end
  page:add('<path d="M%.1f %.1fV%.1fH%.1f" fill="none" stroke="%s" stroke-width="1.2"/>', page.left, page.top,
    page.bottom, page.right, FRAME)
end

-- ---- curves ---------------------------------------------------------------------------------------------------------

-- The runs of neighbouring points that can be drawn, in pixels: {{{x, y}, …}, …}.
local function pieces_of(page, xs, ys)
  local pieces, piece = {}, nil
  for i, value in ipairs(ys) do
    local x, y = axes.is_finite(xs[i]) and page:x(xs[i]), axes.is_finite(value) and page:y(value)
    if x and y then
      if not piece then
        piece = {}
        pieces[#pieces + 1] = piece
      end
      piece[#piece + 1] = { x, y }
    else
      piece = nil
    end
  end
  return pieces
end

-- Of the points within half a pixel of x, the first, the lowest, the highest and the last: what the eye can see.
local function thin(points)
  local out, i = {}, 1
  while i <= #points do
    local last, low, high = i, i, i
    while points[last + 1] and math.abs(points[last + 1][1] - points[i][1]) < 0.5 do
      last = last + 1
      if points[last][2] < points[low][2] then low = last end
      if points[last][2] > points[high][2] then high = last end
    end
    local before
    for _, j in ipairs { i, math.min(low, high), math.max(low, high), last } do
      if j ~= before then out[#out + 1] = points[j] end
      before = j
    end
    i = last + 1
  end
  return out
end

local function path_of(points, start)
  local parts = {}
  for i, point in ipairs(points) do
    parts[i] = ("%s%.1f %.1f"):format(i == 1 and (start or "M") or "L", point[1], point[2])
  end
  return table.concat(parts)
end

local function draw_band(page, k, s)
  if not s.low or not s.high then return end
  local lows, highs = pieces_of(page, s.x, s.low), pieces_of(page, s.x, s.high)
  for i, low in ipairs(lows) do
    local high, back = highs[i], {}
    if high then
      for j = #high, 1, -1 do back[#back + 1] = high[j] end
      page:add('<path d="%s%sZ" fill="%s" fill-opacity="0.16"/>', path_of(thin(low)), path_of(thin(back), "L"),
        color_of(k))
    end
  end
end

local function draw_curve(page, k, s)
  for _, piece in ipairs(pieces_of(page, s.x, s.y)) do
    if #piece == 1 then
      page:add('<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>', piece[1][1], piece[1][2], color_of(k))
    else
      page:add('<path class="curve" d="%s" fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round"%s/>',
        path_of(thin(piece)), color_of(k), dash_of(k))
    end
  end
  for _, x in ipairs(s.marks or {}) do
    local y = axes.value_at(s, x)
    local px, py = page:x(x), y and page:y(y)
    if px and py then
      page:add('<circle cx="%.1f" cy="%.1f" r="3.2" fill="white" stroke="%s" stroke-width="1.6"/>', px, py, color_of(k))
    end
  end
end

local function draw_guides(page, opts)
  for _, line in ipairs(opts.lines) do
    local y = page:y(line.y)
    if y then
      page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="1.2" stroke-dasharray="8 4"/>',
        page.left, page.right, y, y, GUIDE)
    end
  end
  for _, mark in ipairs(opts.marks) do
    local x = page:x(mark.x)
    if x and x >= page.left - 0.5 and x <= page.right + 0.5 then
      page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="2 3"/>', x, x, page.top,
        page.bottom, GUIDE)
    end
  end
end

-- ---- the legend -----------------------------------------------------------------------------------------------------

-- What the legend explains, in order: { name, k (number of a series) or guide ("lines", "marks") }.
local function legend_entries(series, opts)
  local entries = {}
  for k, s in ipairs(series) do
    if s.name and s.name ~= "" then entries[#entries + 1] = { name = s.name, k = k } end
  end
  for _, guide in ipairs { "lines", "marks" } do
    local said = {}
    for _, one in ipairs(opts[guide]) do
      if one.name and not said[one.name] then
        entries[#entries + 1], said[one.name] = { name = one.name, guide = guide }, true
      end
    end
  end
  return entries
end

-- Place the entries in rows no wider than `width`. → number of rows
local function arrange(entries, width)
  local x, row = 0, 0
  for i, entry in ipairs(entries) do
    local needed = 34 + text_width(entry.name, FONT)
    if i > 1 and x + needed > width then x, row = 0, row + 1 end
    entry.x, entry.row = x, row
    x = x + needed + 22
  end
  return #entries > 0 and row + 1 or 0
end

local function draw_legend(page, entries, top)
  for _, entry in ipairs(entries) do
    local x, y = page.left + entry.x, top + entry.row * 20
    if entry.guide == "marks" then
      page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="2 3"/>', x + 13, x + 13,
        y - 12, y + 3, GUIDE)
    elseif entry.guide then
      page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="1.2" stroke-dasharray="8 4"/>',
        x, x + 26, y - 4.5, y - 4.5, GUIDE)
    else
      page:add('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="3"%s/>', x, x + 26, y - 4.5,
        y - 4.5, color_of(entry.k), dash_of(entry.k))
    end
    page:text(x + 34, y, escape(entry.name))
  end
end

-- ---- the document ---------------------------------------------------------------------------------------------------

-- Where everything stands on a page of w × h pixels.
local function lay_out(series, opts)
  local width, height = opts.width or 760, opts.height or 460
  local entries = legend_entries(series, opts)
  local page = setmetatable({ out = {}, width = width, entries = entries }, Page)
  page.xaxis, page.yaxis = axes.of(series, opts)
  page.yticks = roomy_ticks(page.yaxis, 5, height * 0.7, function() return FONT end)
  local margin = 24
  for _, tick in ipairs(page.yticks) do margin = math.max(margin, label_width(tick)) end
  page.left, page.right = margin + 22, width - 36
  page.top = 16 + (opts.title and 26 or 0) + (opts.ylabel and 20 or 0)
  page.rows = arrange(entries, page.right - page.left)
  page.height = height + math.max(0, page.rows - 2) * 20
  page.bottom = page.height - 32 - (opts.xlabel and 22 or 0) - (page.rows > 0 and page.rows * 20 + 10 or 0)
  page.w, page.h = page.right - page.left, page.bottom - page.top
  page.xticks = roomy_ticks(page.xaxis, 5, page.w, label_width)
  return page
end

--- pg.plot.svg(series [, opts]) → string: The series as an SVG document. Series and options as in pg.plot.draw; width =
-- 760 and height = 460 are in pixels. A series with low and high = {…} has a band between them, as for the spread over
-- seeds; its marks are circles on the curve. Colours can be told apart with any colour vision.
function svg.svg(series, opts)
  opts = axes.check(series, opts)
  local page = lay_out(series, opts)
  page:add('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
    .. 'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif">', page.width, page.height, page.width, page.height)
  page:add('<rect width="%d" height="%d" fill="white"/>', page.width, page.height)
  if opts.title then page:text(page.left, 26, escape(opts.title), { size = 16, bold = true }) end
  if opts.ylabel then page:text(page.left, page.top - 10, escape(opts.ylabel)) end
  draw_axes(page)
  for k, s in ipairs(series) do draw_band(page, k, s) end
  draw_guides(page, opts)
  for k, s in ipairs(series) do draw_curve(page, k, s) end
  if opts.xlabel then
    page:text((page.left + page.right) / 2, page.bottom + 42, escape(opts.xlabel), { anchor = "middle" })
  end
  draw_legend(page, page.entries, page.height - page.rows * 20 + 10)
  page:add("</svg>")
  return table.concat(page.out, "\n") .. "\n"
end

--- pg.plot.save(path, series [, opts]): Write the series as SVG to a file, whole or not at all, and make its directory
-- where there is none; series and options as in pg.plot.svg. In a recipe, `path` lies below the directory of runs,
-- unless it is run with --trust.
function svg.save(path, series, opts)
  local ok, message = require("perigee.sandbox").may_open(path, "w")
  if not ok then core.raise(message) end
  local directory = path:match("^(.+)/[^/]*$")
  if directory then core.data.mkdir(directory) end
  core.data.write_file_atomic(path, svg.svg(series, opts))
end

return svg
