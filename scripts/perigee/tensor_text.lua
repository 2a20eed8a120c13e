-- tensor_text.lua: how tensors print: dtype, shape, device, and values in aligned rows, abbreviated where there are
-- many.
local text_table = require "perigee.table"

local M = {}

-- How values are shown: entries at each end of an axis that has more than `most`, and significant digits. A vector has
-- a line for each of its tensors.
local TENSOR, VECTOR = { edge = 3, most = 8, digits = 5 }, { edge = 2, most = 5, digits = 3 }

-- "f32 [64, 10]" or "f32 vector of 4 tensors": for messages.
function M.type(x)
  if x.layout then return ("%s vector of %d tensors, %d numbers"):format(x.dtype, #x.layout, x.size) end
  return ("%s%s [%s]"):format(x.weak and "weak " or "", x.dtype, table.concat(x.shape, ", "))
end

local function value_text(v, style)
  if math.type(v) == "float" then
    if v == math.floor(v) and math.abs(v) < 1e7 then return ("%d."):format(v) end
    return ("%%.%dg"):format(style.digits):format(v)
  end
  return tostring(v)
end

-- Positions shown on an axis of n entries; false stands for what is left out.
local function shown(n, style)
  local list = {}
  if n <= style.most then
    for i = 1, n do list[i] = i end
    return list
  end
  for i = 1, style.edge do
    list[i], list[style.edge + 1 + i] = i, n - style.edge + i
  end
  list[style.edge + 1] = false
  return list
end

-- Texts of the values shown, as nested tables, and their greatest width.
local function collect(x, shape, axis, offset, stride, style)
  local result, width = {}, 0
  local inner = stride // math.max(shape[axis], 1)
  for _, i in ipairs(shown(shape[axis], style)) do
    local entry, w
    if not i then
      entry, w = false, 3
    elseif axis == #shape then
      entry = value_text(x:data_read(offset + i - 1), style)
      w = #entry
    else
      entry, w = collect(x, shape, axis + 1, offset + (i - 1) * inner, inner, style)
    end
    result[#result + 1] = entry
    width = math.max(width, w)
  end
  return result, width
end

local function join(entries, width, depth, indent)
  local parts = {}
  for i, entry in ipairs(entries) do
    if entry == false then
      parts[i] = depth == 1 and "..." or "...,"
    elseif depth == 1 then
      parts[i] = (" "):rep(width - #entry) .. entry
    else
      parts[i] = join(entry, width, depth - 1, indent + 1)
    end
  end
  local separator = depth == 1 and ", " or "," .. ("\n"):rep(depth - 1) .. (" "):rep(indent + 1)
  return "[" .. table.concat(parts, separator):gsub(",,", ",") .. "]"
end

local function values(x, shape, offset, style)
  if #shape == 0 then return value_text(x:data_read(offset), style) end
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  if size == 0 then return "[]" end
  local entries, width = collect(x, shape, 1, offset, size, style)
  return join(entries, style == VECTOR and 0 or width, #shape, 0)
end

local FLOATS = { f32 = true, f64 = true }

-- Cells of one tensor of a vector: name, shape, Euclidean norm, values.
local function segment_cells(x, i)
  local s = x.layout[i]
  local norm = FLOATS[x.dtype] and ("norm " .. value_text(x:segment(i):norm():item(), VECTOR)) or ""
  return { s.name, "[" .. table.concat(s.shape, ", ") .. "]", norm, values(x, { s.size }, s.offset, VECTOR) }
end

local function vector_text(x)
  local rows, widths = {}, { 0, 0, 0, 0 }
  for _, i in ipairs(shown(#x.layout, { edge = 5, most = 20 })) do
    local cells = i and segment_cells(x, i) or { "..." }
    for c, cell in ipairs(cells) do widths[c] = math.max(widths[c], #cell) end
    rows[#rows + 1] = cells
  end
  local lines = { ("vector %s of %d tensors, %s numbers, %s"):format(x.dtype, #x.layout, text_table.thousands(x.size),
    x.device) }
  for _, cells in ipairs(rows) do
    local padded = {}
    for c, cell in ipairs(cells) do padded[c] = cell .. (" "):rep(c < #cells and widths[c] - #cell or 0) end
    lines[#lines + 1] = "  " .. table.concat(padded, "  ")
  end
  return table.concat(lines, "\n")
end

function M.tostring(x)
  if x.traced then return "traced " .. M.type(x) end
  if x.layout then return vector_text(x) end
  local shape = x.shape
  local head = ("tensor %s [%s] %s"):format(x.dtype, table.concat(shape, ", "), x.device)
  return head .. (#shape > 1 and "\n" or " ") .. values(x, shape, 0, TENSOR)
end

return M
