-- checkpoint.lua: the state of a run as one safetensors file. Owns the mapping between a tree of Lua values (tensors,
-- vectors, keys, numbers, strings, booleans, tables) and named tensors plus strings, the digest that tells a torn or
-- altered file from a whole one, and which files of a directory are kept. Numbers are written in hexadecimal, so every
-- bit of a double returns.
--
-- A leaf's name is its path, "opt/mean"; "~" and "/" inside a key are "~0" and "~1", and a whole number as key is "#7".

local core = require "perigee.core"
local data = core.data
local names = require "perigee.names"

local checkpoint = {}

checkpoint.FORMAT = "perigee-run-1"

-- ---- trees ----------------------------------------------------------------------------------------------------------

local function escape_key(key, path)
  if math.type(key) == "integer" then return "#" .. key end
  if type(key) ~= "string" then
    error(("state%s: a %s cannot be a key of a run's state"):format(path, type(key)), 0)
  end
  return (key:gsub("~", "~0"):gsub("/", "~1"):gsub("^#", "~2"))
end

local function unescape_key(text)
  local index = text:match("^#(-?%d+)$")
  if index then return math.tointeger(index) end
  return (text:gsub("^~2", "#"):gsub("~1", "/"):gsub("~0", "~"))
end

-- A string as text that safetensors metadata can hold.
local function encode_string(text)
  if utf8.len(text) and not text:find("\0", 1, true) then return "s" .. text end
  return "x" .. text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
end

local function encode_number(x)
  if math.type(x) == "integer" then return ("i%d"):format(x) end
  if x ~= x then return "nnan" end
  if x == math.huge then return "ninf" elseif x == -math.huge then return "n-inf" end
  return ("n%a"):format(x)
end

-- A number, string or boolean as text that gives back every bit of it; nil for anything else.
function checkpoint.encode_scalar(value)
  if type(value) == "number" then return encode_number(value) end
  if type(value) == "string" then return encode_string(value) end
  if type(value) == "boolean" then return "b" .. tostring(value) end
end

function checkpoint.decode_scalar(text)
  local kind, body = text:sub(1, 1), text:sub(2)
  if kind == "i" then return math.tointeger(body) end
  if kind == "n" then
    if body == "nan" then return 0 / 0 elseif body == "inf" then return math.huge end
    return body == "-inf" and -math.huge or tonumber(body)
  end
  if kind == "x" then return (body:gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end)) end
  if kind == "s" then return body elseif kind == "b" then return body == "true" end
end

-- Values that save themselves, as an optimizer's state does: value:tensors() → list of { name, tensor },
-- value:numbers() → name → number, value:parts() → name → string, value:load(name → tensor, name → number), and for
-- what another run's may bring value:adopt(saved, where).
function checkpoint.is_saving(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and type(value.tensors) == "function" and type(value.numbers) == "function"
end

local function saved_parts(value)
  local tensors = {}
  for _, entry in ipairs(value:tensors()) do tensors[entry[1]] = entry[2] end
  return { tensors = tensors, numbers = value:numbers(), parts = value:parts() }
end

-- A tree as a checkpoint would give it back, in memory of its own.
function checkpoint.snapshot(tree)
  if core.is_tensor(tree) then return tree:copy() end
  if type(tree) ~= "table" then return tree end
  if checkpoint.is_saving(tree) then tree = saved_parts(tree) end
  local out = {}
  for key, value in next, tree do out[key] = checkpoint.snapshot(value) end
  return out
end

-- Call visit(path, value) for every leaf and every empty table of a tree, in a fixed order.
local function walk(tree, path, visit, open)
  if open[tree] then error(("state%s: a table contains itself"):format(path), 0) end
  open[tree] = true
  local keys, by_name = {}, {}
  for key in next, tree do
    local name = escape_key(key, path)
    keys[#keys + 1], by_name[name] = name, key
  end
  table.sort(keys)
  if #keys == 0 and path ~= "" then visit(path, tree) end
  for _, name in ipairs(keys) do
    local value, below = tree[by_name[name]], path == "" and name or path .. "/" .. name
    if type(value) == "table" and checkpoint.is_saving(value) then value = saved_parts(value) end
    if type(value) == "table" then
      walk(value, below, visit, open)
    else
      visit(below, value)
    end
  end
  open[tree] = nil
end

-- A tree as { tensors = {path → tensor}, scalars = {path → text} }.
function checkpoint.flatten(tree)
  local tensors, scalars = {}, {}
  walk(tree, "", function(path, value)
    if core.is_tensor(value) then
      tensors[path] = value
    elseif checkpoint.encode_scalar(value) then
      scalars[path] = checkpoint.encode_scalar(value)
    elseif type(value) == "table" then
      scalars[path] = "t"
    else
      error(("state %s: a %s cannot be saved; a run's state holds tensors, vectors, keys, numbers, strings, booleans "
        .. "and tables of them"):format(path, type(value)), 0)
    end
  end, {})
  return { tensors = tensors, scalars = scalars }
end

-- ---- digests --------------------------------------------------------------------------------------------------------

local function digest_of(strings, tensors)
  local parts = {}
  for _, key in ipairs(names.sorted(strings)) do
    parts[#parts + 1] = ("%d:%s%d:%s"):format(#key, key, #strings[key], strings[key])
  end
  for _, path in ipairs(names.sorted(tensors)) do
    parts[#parts + 1] = ("%d:%s"):format(#path, path)
    parts[#parts + 1] = tensors[path]
  end
  return data.sha256(table.unpack(parts))
end

-- A short hash of everything in a tree, for logs: equal trees, equal hashes.
function checkpoint.hash(tree)
  local flat = checkpoint.flatten(tree)
  return digest_of(flat.scalars, flat.tensors)
end

-- ---- layouts --------------------------------------------------------------------------------------------------------

local function encode_layout(layout)
  local parts = {}
  for i = 1, #layout do
    local segment = layout[i]
    parts[i] = { segment.name, data.json_array(segment.shape) }
  end
  return data.json_encode(parts)
end

local function decode_layout(text)
  return core.layout(data.json_decode(text))
end

-- ---- saving and loading ---------------------------------------------------------------------------------------------

-- Write `tree` and the strings `info` to `path`, whole or not at all.
function checkpoint.save(path, tree, info)
  local flat = checkpoint.flatten(tree)
  local strings = { format = checkpoint.FORMAT }
  for _, key in ipairs(names.sorted(info)) do strings["info." .. key] = info[key] end
  for _, key in ipairs(names.sorted(flat.scalars)) do strings["state." .. key] = flat.scalars[key] end
  for _, key in ipairs(names.sorted(flat.tensors)) do
    local t = flat.tensors[key]
    if t.layout then strings["layout." .. key] = encode_layout(t.layout) end
  end
  strings.digest = digest_of(strings, flat.tensors)
  local list = {}
  for i, key in ipairs(names.sorted(flat.tensors)) do list[i] = { key, flat.tensors[key] } end
  data.safetensors_write(path, list, strings)
end

-- Put `value` where `path` says in a tree, making tables on the way.
local function place(tree, path, value)
  local at, key = tree, nil
  for part in path:gmatch("[^/]+") do
    if key ~= nil then
      if type(at[key]) ~= "table" then at[key] = {} end
      at = at[key]
    end
    key = unescape_key(part)
  end
  at[key] = value
end

local function section(strings, prefix)
  local out = {}
  for _, key in ipairs(names.sorted(strings)) do
    if key:sub(1, #prefix) == prefix then out[key:sub(#prefix + 1)] = strings[key] end
  end
  return out
end

-- Read a checkpoint: { info = strings, tree = … }, or nil and a message that names the file.
function checkpoint.load(path)
  local ok, tensors, strings = pcall(data.safetensors_read, path)
  if not ok then return nil, tostring(tensors) end
  if strings.format ~= checkpoint.FORMAT then
    return nil, ("%s: not a checkpoint of this version (format %s, expected %s)"):format(path,
      tostring(strings.format), checkpoint.FORMAT)
  end
  local digest = strings.digest
  strings.digest = nil
  for _, key in ipairs(names.sorted(strings)) do
    if key:sub(1, 8) == "perigee." then strings[key] = nil end -- the file format's own
  end
  if digest ~= digest_of(strings, tensors) then return nil, ("%s: torn or altered (digests differ)"):format(path) end
  local tree, layouts = {}, section(strings, "layout.")
  for _, key in ipairs(names.sorted(tensors)) do
    local t = tensors[key]
    if layouts[key] then
      local vector = core.vector(decode_layout(layouts[key]), t.dtype)
      vector:from_bytes(t:bytes())
      t = vector
    end
    place(tree, key, t)
  end
  local scalars = section(strings, "state.")
  for _, key in ipairs(names.sorted(scalars)) do
    local value = scalars[key]
    if value == "t" then value = {} else value = checkpoint.decode_scalar(value) end
    if value == nil then return nil, ("%s: %s holds no value"):format(path, key) end
    place(tree, key, value)
  end
  return { info = section(strings, "info."), tree = tree }
end

-- Whether two tensors are alike but for their numbers.
function checkpoint.are_alike(a, b)
  return a.dtype == b.dtype and a.size == b.size and (a.layout == nil) == (b.layout == nil)
    and table.concat(a.shape, ",") == table.concat(b.shape, ",") and a.layout == b.layout
end

local function restore_value(tree, key, value)
  local now = tree[key]
  if type(value) == "table" and type(now) == "table" and checkpoint.is_saving(now) then
    now:load(value.tensors or {}, value.numbers or {})
  elseif type(value) == "table" and type(now) == "table" then
    checkpoint.restore(now, value)
  elseif core.is_tensor(value) and core.is_tensor(now) and checkpoint.are_alike(now, value) then
    now:from_bytes(value:bytes())
  else
    tree[key] = value
  end
end

-- Bring `tree` to the state of `saved`. Tensors that fit are filled in place, because programs hold them; everything
-- else is taken over, and what `saved` does not have is removed.
function checkpoint.restore(tree, saved)
  for _, key in ipairs(names.sorted(tree)) do
    if saved[key] == nil then tree[key] = nil end
  end
  for key, value in next, saved do restore_value(tree, key, value) end
end

-- Bring `tree` to the state `saved` of another run, with whatever options it was made: what that one did not have
-- stays, and what saves itself decides what fits. where: names the other run in messages.
function checkpoint.adopt(tree, saved, where)
  for _, key in ipairs(names.sorted(saved)) do
    local now = tree[key]
    if type(now) == "table" and checkpoint.is_saving(now) then
      now:adopt(saved[key], where)
    else
      restore_value(tree, key, saved[key])
    end
  end
end

-- ---- a run's checkpoints --------------------------------------------------------------------------------------------

-- The checkpoints in a directory, newest first: {{step =, path =}, …}.
function checkpoint.list(directory)
  local out = {}
  if not data.exists(directory) then return out end
  for _, name in ipairs(data.list(directory)) do
    local step = name:match("^step%-(%d+)%.safetensors$")
    if step then out[#out + 1] = { step = math.tointeger(step), path = directory .. "/" .. name } end
  end
  table.sort(out, function(a, b) return a.step > b.step end)
  return out
end

-- Remove all but the newest `keep` and that of step `pinned`, if given.
function checkpoint.prune(directory, keep, pinned)
  for i, entry in ipairs(checkpoint.list(directory)) do
    if i > keep and entry.step ~= pinned then data.remove(entry.path) end
  end
end

-- Remove what a kill in the middle of a write left behind. No other process may be writing there.
function checkpoint.sweep(directory)
  for _, name in ipairs(data.exists(directory) and data.list(directory) or {}) do
    if name:match("%.tmp$") then data.remove(directory .. "/" .. name) end
  end
end

return checkpoint
