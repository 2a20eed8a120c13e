-- tree.lua: arguments and results of transformed functions as trees: tensors and numbers are leaves; plain tables are
-- inner nodes, walked in sorted order; anything else (strings, booleans, functions, objects) is static.
local core = require "perigee.core"

local is_tensor = core.is_tensor
local M = {}

-- Keys of a plain table: integers in order, then strings in order.
local function sorted_keys(t)
  local keys = {}
  for k in next, t do
    if type(k) ~= "string" and math.type(k) ~= "integer" then
      core.raise(("tables of tensors have strings or integers as keys, not a %s"):format(type(k)))
    end
    keys[#keys + 1] = k
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  return keys
end

local function is_node(x)
  return type(x) == "table" and getmetatable(x) == nil
end

function M.is_leaf(x)
  return is_tensor(x) or type(x) == "number"
end

-- Append the leaves of x to `leaves` and what identifies its structure to `signature` (either may be nil).
function M.flatten(x, leaves, signature)
  if is_tensor(x) then
    if leaves then leaves[#leaves + 1] = x end
    if signature then signature[#signature + 1] = x:signature() end
  elseif type(x) == "number" then
    if leaves then leaves[#leaves + 1] = x end
    if signature then signature[#signature + 1] = "n" end
  elseif is_node(x) then
    if signature then signature[#signature + 1] = "{" end
    for _, k in ipairs(sorted_keys(x)) do
      if signature then signature[#signature + 1] = type(k) == "string" and ("%q"):format(k) or tostring(k) end
      M.flatten(x[k], leaves, signature)
    end
    if signature then signature[#signature + 1] = "}" end
  elseif signature then
    signature[#signature + 1] = type(x) == "string" and ("%q"):format(x) or tostring(x)
    signature.statics = signature.statics or {}
    signature.statics[#signature.statics + 1] = x
  end
end

-- A copy of x with every leaf replaced by f(leaf).
function M.map(x, f)
  if M.is_leaf(x) then return f(x) end
  if not is_node(x) then return x end
  local copy = {}
  for _, k in ipairs(sorted_keys(x)) do copy[k] = M.map(x[k], f) end
  return copy
end

-- Like map over two trees of one structure; `what` names the second in messages.
function M.zip(x, y, f, what)
  if M.is_leaf(x) then
    if not M.is_leaf(y) then core.raise(("%s: a tensor was expected, got %s"):format(what, type(y))) end
    return f(x, y)
  end
  if not is_node(x) then return x end
  if not is_node(y) then core.raise(("%s: a table was expected, got %s"):format(what, type(y))) end
  local copy = {}
  for _, k in ipairs(sorted_keys(x)) do
    if y[k] == nil then core.raise(("%s: entry '%s' is missing"):format(what, tostring(k))) end
    copy[k] = M.zip(x[k], y[k], f, what)
  end
  return copy
end

return M
