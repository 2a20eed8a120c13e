-- tensor_text.lua: how tensors print: dtype, shape, device, and values in aligned rows, abbreviated where there are
-- many.
local M = {}

local EDGE, MOST = 3, 8 -- entries shown at each end of an axis that has more than MOST

-- "f32 [64, 10]" or "f32 vector of 4 tensors": for messages.
function M.type(x)
  if x.layout then return ("%s vector of %d tensors, %d numbers"):format(x.dtype, #x.layout, x.size) end
  return ("%s%s [%s]"):format(x.weak and "weak " or "", x.dtype, table.concat(x.shape, ", "))
end

local function value_text(v)
  if math.type(v) == "float" then
    if v == math.floor(v) and math.abs(v) < 1e7 then return ("%d."):format(v) end
    return ("%.5g"):format(v)
  end
  return tostring(v)
end

-- Positions shown on an axis of n entries; false stands for what is left out.
local function shown(n)
  local list = {}
  for i = 1, n do
    if n <= MOST or i <= EDGE or i > n - EDGE then
      list[#list + 1] = i
    elseif i == EDGE + 1 then
      list[#list + 1] = false
    end
  end
  return list
end

-- Texts of the values shown, as nested tables, and their greatest width.
local function collect(x, shape, axis, offset, stride)
  local result, width = {}, 0
  local inner = stride // math.max(shape[axis], 1)
  for _, i in ipairs(shown(shape[axis])) do
    local entry, w
    if not i then
      entry, w = false, 3
    elseif axis == #shape then
      entry = value_text(x:data_read(offset + i - 1))
      w = #entry
    else
      entry, w = collect(x, shape, axis + 1, offset + (i - 1) * inner, inner)
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

local function values(x, shape, offset, indent)
  if #shape == 0 then return value_text(x:data_read(offset)) end
  local size = 1
  for _, n in ipairs(shape) do size = size * n end
  if size == 0 then return "[]" end
  local entries, width = collect(x, shape, 1, offset, size)
  return join(entries, width, #shape, indent)
end

local function vector_text(x)
  local layout, lines = x.layout, {}
  lines[1] = ("vector %s of %d tensors, %d numbers, %s"):format(x.dtype, #layout, x.size, x.device)
  for _, i in ipairs(shown(#layout)) do
    local s = i and layout[i]
    lines[#lines + 1] = s and ("  %s [%s] %s"):format(s.name, table.concat(s.shape, ", "),
      values(x, { s.size }, s.offset, 0)) or "  ..."
  end
  return table.concat(lines, "\n")
end

function M.tostring(x)
  if x.traced then return "traced " .. M.type(x) end
  if x.layout then return vector_text(x) end
  local shape = x.shape
  local head = ("tensor %s [%s] %s"):format(x.dtype, table.concat(shape, ", "), x.device)
  return head .. (#shape > 1 and "\n" or " ") .. values(x, shape, 0, 0)
end

return M
