-- pretty.lua: how the prompt shows values: tensors and models by their own text, tables indented with their keys in
-- order, functions by name and place. Limited in depth and length, safe with cycles. It reads tables raw, so that only
-- a __tostring runs code of the value's own.

local core = require "perigee.core"
local functions = require "perigee.prompt_functions"
local lexer = require "perigee.lexer"
local tensor_text = require "perigee.tensor_text"
local text_table = require "perigee.table"
local terminal = require "perigee.terminal"

local pretty = {}

local DEEPEST = 4      -- tables within tables that are shown
local MOST_ENTRIES = 40 -- entries of a table
local MOST_INSIDE = 10  -- entries of a table within another
local MOST_IN_ALL = 400 -- entries of all
local FEW = 8          -- elements of a tensor that are shown within a table

-- ---- leaves ---------------------------------------------------------------------------------------------------------

local function class_of(value)
  local meta = debug.getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and (name:gsub("^perigee%.", "")) or nil
end

local function own_text(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__tostring") and tostring(value) or nil
end

local function tensor_summary(x)
  if x.layout then return tensor_text.type(x) end
  if x.traced or x.size > FEW or x.ndim > 1 then return "tensor " .. tensor_text.type(x) end
  return (tensor_text.tostring(x):gsub(" cpu ", " "))
end

local function layout_text(layout)
  local lines = { tostring(layout) }
  for i = 1, #layout do
    if i > MOST_ENTRIES then
      lines[#lines + 1] = ("  ... %d more"):format(#layout - MOST_ENTRIES)
      break
    end
    lines[#lines + 1] = ("  %s [%s]"):format(layout[i].name, table.concat(layout[i].shape, ", "))
  end
  return table.concat(lines, "\n")
end

-- An object that has a text of its own, on one line: the text, or if that is long the kind of the object.
local function object_summary(value, text)
  if not text:find("\n", 1, true) then return text end
  local layout = type(value) == "table" and rawget(value, "layout")
  local class = class_of(value) or type(value)
  return core.is_layout(layout) and ("%s of %d tensors, %s numbers"):format(class, #layout,
    text_table.thousands(layout.size)) or class
end

-- A string as Lua writes it, on one line.
local function quoted(text)
  return (("%q"):format(text):gsub("\\\n", "\\n"):gsub("\r", "\\r"):gsub("\t", "\\t"))
end

-- A value that has no entries to show, on one line; nil for plain tables and objects without a text of their own.
local function leaf_text(value, env)
  local kind = type(value)
  if kind == "string" then return quoted(value) end
  if kind == "function" then return functions.summarize(value, env) end
  if core.is_tensor(value) then return tensor_summary(value) end
  if core.is_layout(value) then return tostring(value) end
  if kind == "table" or kind == "userdata" then
    local text = own_text(value)
    if text then return object_summary(value, text) end
    return kind == "userdata" and (class_of(value) or "userdata") or nil
  end
  return tostring(value)
end

-- ---- tables ---------------------------------------------------------------------------------------------------------

local RANK = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local ra, rb = RANK[type(a)] or 4, RANK[type(b)] or 4
  if ra ~= rb then return ra < rb end
  if ra <= 2 then return a < b end
  return tostring(a) < tostring(b)
end

-- The length of the list in t, and its other keys in order.
local function keys_of(t)
  local length, keys = 0, {}
  while rawget(t, length + 1) ~= nil do length = length + 1 end
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  return length, keys
end

local function key_text(key, env)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") and not lexer.keywords[key] then return key end
  return "[" .. (leaf_text(key, env) or "table") .. "]"
end

local render

-- The texts of a table's entries, as many as may be shown.
local function entries_of(t, state, depth)
  local length, keys = keys_of(t)
  local entries, total = {}, length + #keys
  local most = depth == 0 and MOST_ENTRIES or MOST_INSIDE
  for i = 1, total do
    state.count = state.count + 1
    -- What is left out needs a line of its own, as the last entry does.
    if (i == most and i < total) or state.count > MOST_IN_ALL then
      entries[#entries + 1] = ("... %d more"):format(total - i + 1)
      break
    end
    local key = keys[i - length]
    local text = render(rawget(t, i <= length and i or key), state, depth + 1)
    entries[i] = i <= length and text or key_text(key, state.env) .. " = " .. text
  end
  return entries
end

-- Short entries side by side, as many as fit in a line.
local function fill_lines(entries, indent, width)
  local lines, line = {}, nil
  for i, entry in ipairs(entries) do
    local text = entry .. (i < #entries and "," or "")
    if line and #line + 1 + #text > width - #indent then
      lines[#lines + 1] = indent .. line
      line = nil
    end
    line = line and line .. " " .. text or text
  end
  lines[#lines + 1] = indent .. line
  return lines
end

local function join(entries, depth, state)
  local inner = (" "):rep(2 * depth + 2)
  local size, longest, flat = 0, 0, true
  for _, entry in ipairs(entries) do
    size, longest = size + #entry + 2, math.max(longest, #entry)
    if entry:find("\n", 1, true) then flat = false end
  end
  if flat and size + #inner < state.width then return "{ " .. table.concat(entries, ", ") .. " }" end
  if flat and longest <= 16 then
    return "{\n" .. table.concat(fill_lines(entries, inner, state.width), "\n") .. "\n" .. inner:sub(3) .. "}"
  end
  return "{\n" .. inner .. table.concat(entries, ",\n" .. inner) .. "\n" .. inner:sub(3) .. "}"
end

function render(value, state, depth)
  local leaf = leaf_text(value, state.env)
  if leaf then return leaf end
  local class = class_of(value)
  local head = class and class .. " " or ""
  if state.open[value] then return head .. "{ the table it is in }" end
  if next(value) == nil then return head .. "{}" end
  if depth >= DEEPEST or state.count > MOST_IN_ALL then return head .. "{ ... }" end
  state.open[value] = true
  local text = head .. join(entries_of(value, state, depth), depth, state)
  state.open[value] = nil
  return text
end

-- ---- what the prompt uses -------------------------------------------------------------------------------------------

-- A value as text of one or more lines. env: where functions may have their names; width: of the terminal by default.
function pretty.format(value, env, width)
  local kind = type(value)
  if kind == "string" then return value end
  if core.is_tensor(value) then return tensor_text.tostring(value) end
  if core.is_layout(value) then return layout_text(value) end
  if kind == "function" then return functions.describe(value, env) end
  local own = (kind == "table" or kind == "userdata") and own_text(value)
  if own then return own end
  return render(value, { env = env, width = width or terminal.width(), count = 0, open = {} }, 0)
end

-- Several results: short ones side by side as `print` has them, else one below the other.
function pretty.format_all(values, n, env)
  local texts, side_by_side = {}, true
  for i = 1, n do
    local value = values[i]
    texts[i] = pretty.format(value, env)
    local plain = type(value) == "string" or RANK[type(value)] or value == nil
    if not plain or texts[i]:find("\n", 1, true) then side_by_side = false end
  end
  return table.concat(texts, side_by_side and "\t" or "\n")
end

-- A value on one line: what it is and, if it is short, its text.
function pretty.summarize(value, env)
  local kind = type(value)
  if kind == "string" and #value > 40 then return ("string of %d bytes"):format(#value) end
  local leaf = leaf_text(value, env)
  if leaf then return leaf end
  local length, keys = keys_of(value)
  local class = class_of(value)
  if class then return class end
  if length > 0 and #keys == 0 then return ("table of %d values"):format(length) end
  return ("table of %d entries"):format(length + #keys)
end

return pretty
