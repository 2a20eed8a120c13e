-- stored.lua: pg.save and pg.load: trees of tensors as safetensors files that other programs read as they are: a vector
-- is one tensor for each parameter, under the parameter's name. Owns those names, and the metadata from which a tree is
-- made again. States of runs, which nothing else need read, are checkpoint.lua's.

local checkpoint = require "perigee.checkpoint"
local core = require "perigee.core"
local names = require "perigee.names"
local origin = require "perigee.origin"
local posterior = require "perigee.posterior"
local sandbox = require "perigee.sandbox"
local statistics = require "perigee.statistics"

local data = core.data

local stored = {}

local FORMAT = "perigee-tree-1"

-- ---- saving ---------------------------------------------------------------------------------------------------------

-- The plain table of values that a value stands for, if it is one of the library's that may be saved.
local function as_table(value)
  if posterior.is(value) then
    local out = {}
    for _, field in ipairs(value.fields) do out[field] = value[field] end
    return out
  elseif statistics.is(value) then
    local out = {}
    for _, field in ipairs(statistics.fields(value)) do out[field] = value[field] end
    return out
  elseif type(value) == "table" and getmetatable(value) == nil then
    return value
  end
end

-- A writer: tensors (list of { name, tensor }), seen (name → true), leaves (what a tree is made of again).
local Writer = {}
Writer.__index = Writer

function Writer:add(name, tensor)
  if self.seen[name] then core.raise(("pg.save: two values would be called '%s'"):format(name)) end
  self.seen[name] = true
  self.tensors[#self.tensors + 1] = { name, tensor }
end

function Writer:tensor(value, path, name)
  if not value.layout then
    self:add(name, value)
    self.leaves[#self.leaves + 1] = { path = path, tensor = name }
    return
  end
  local segments = {}
  for i = 1, #value.layout do
    local segment = value.layout[i]
    self:add(name == "" and segment.name or name .. "." .. segment.name, value[segment.name])
    segments[i] = { segment.name, data.json_array(segment.shape) }
  end
  self.leaves[#self.leaves + 1] = { path = path, tensor = name, dtype = value.dtype,
    layout = data.json_array(segments) }
end

-- Write down `value`, which stands at the list of keys `path` and is called `name`.
function Writer:walk(value, path, name)
  if core.is_tensor(value) then
    return self:tensor(value, path, name == "" and not value.layout and "value" or name)
  end
  local scalar = checkpoint.encode_scalar(value)
  if scalar then
    self.leaves[#self.leaves + 1] = { path = path, scalar = scalar }
    return
  end
  local entries = as_table(value)
  if not entries then
    core.raise(("pg.save: %s is %s; a file holds tensors, vectors, keys, numbers, strings, booleans and tables of them")
      :format(name == "" and "the value" or name, names.describe(value)))
  elseif self.open[value] then
    core.raise(("pg.save: %s contains itself"):format(name))
  end
  self.open[value] = true
  if next(entries) == nil then self.leaves[#self.leaves + 1] = { path = path, empty = true } end
  for _, key in ipairs(names.sorted(entries)) do
    if type(key) ~= "string" and math.type(key) ~= "integer" then
      core.raise(("pg.save: a %s cannot be a key"):format(type(key)))
    end
    local below = table.move(path, 1, #path, 1, {})
    below[#below + 1] = key
    self:walk(entries[key], data.json_array(below), name == "" and tostring(key) or name .. "." .. tostring(key))
  end
  self.open[value] = nil
end

--- pg.save(path, tree): Write tensors, vectors and tables of them, numbers, strings and booleans too, to a safetensors
-- file, whole or not at all. Names are paths: { theta = theta, batch = { x = x } } gives theta.1.weight, theta.1.bias
-- and batch.x; a vector is one tensor for each parameter. Numbers and the like stand in the metadata. In a recipe,
-- `path` lies below the directory of runs, unless it is run with --trust.
function stored.save(path, tree)
  local ok, message = sandbox.may_open(path, "w")
  if not ok then core.raise(message) end
  stored.write(path, tree)
end

-- The same for the library, which may write anywhere.
function stored.write(path, tree)
  local writer = setmetatable({ tensors = {}, seen = {}, leaves = {}, open = {} }, Writer)
  writer:walk(tree, data.json_array {}, "")
  data.safetensors_write(path, writer.tensors, { format = FORMAT,
    leaves = data.json_encode(data.json_array(writer.leaves)) })
end

-- ---- loading --------------------------------------------------------------------------------------------------------

-- A vector of a layout from one tensor for each of its parameters. tensor_of(name) → tensor, or raises.
local function join(layout, dtype, tensor_of)
  local vector = core.vector(layout, dtype)
  local bytes, parts, at = vector:bytes(), {}, 0
  local width = #bytes // layout.padded
  for i = 1, #layout do
    local segment = layout[i]
    local piece = tensor_of(segment):bytes()
    parts[#parts + 1] = ("\0"):rep(segment.offset * width - at)
    parts[#parts + 1] = piece
    at = segment.offset * width + #piece
  end
  parts[#parts + 1] = ("\0"):rep(#bytes - at)
  vector:from_bytes(table.concat(parts))
  return vector
end

local function read_leaf(path, leaf, tensors)
  if leaf.scalar then return checkpoint.decode_scalar(leaf.scalar) end
  if leaf.empty then return {} end
  local function find(name)
    return tensors[name] or core.raise(("%s: there is no tensor '%s' in it"):format(path, name))
  end
  if not leaf.layout then return find(leaf.tensor) end
  return join(core.layout(leaf.layout), leaf.dtype, function(segment)
    return find(leaf.tensor == "" and segment.name or leaf.tensor .. "." .. segment.name)
  end)
end

-- The tree that pg.save wrote.
local function read_tree(path, leaves, tensors)
  local root
  for _, leaf in ipairs(leaves) do
    local value, keys = read_leaf(path, leaf, tensors), leaf.path
    if #keys == 0 then return value end
    root = root or {}
    local at = root
    for i = 1, #keys - 1 do
      at[keys[i]] = at[keys[i]] or {}
      at = at[keys[i]]
    end
    at[keys[#keys]] = value
  end
  return root
end

-- The vector like `like` that the tensors of a foreign file make up.
local function read_like(path, like, tensors)
  return join(like.layout, like.dtype, function(segment)
    local tensor = tensors[segment.name]
    if not tensor then
      core.raise(("%s: there is no tensor '%s' in it%s"):format(path, segment.name,
        names.listed("", names.sorted(tensors))))
    elseif tensor.dtype ~= like.dtype or table.concat(tensor.shape, ",") ~= table.concat(segment.shape, ",") then
      core.raise(("%s: %s is %s [%s], not %s [%s]"):format(path, segment.name, tensor.dtype,
        table.concat(tensor.shape, ", "), like.dtype, table.concat(segment.shape, ", ")))
    end
    return tensor
  end)
end

-- What a checkpoint holds of an optimizer: { theta, q, rule, correction, buffers, step }; of a loop of one's own, its
-- state.
local function of_run(place)
  local saved = origin.find(place, "pg.load").saved.tree.state
  local optimizer = saved.optimizer
  if type(optimizer) ~= "table" or type(optimizer.tensors) ~= "table" then return saved end
  local out = { step = optimizer.numbers.step, buffers = optimizer.tensors.buffers }
  for _, name in ipairs(names.sorted(optimizer.tensors)) do
    local part, rest = name:match("^(%w+)%.(.*)$")
    if part == "q" or part == "rule" or part == "correction" then
      out[part] = out[part] or {}
      out[part][rest] = optimizer.tensors[name]
    end
  end
  out.theta = out.q and out.q.mean
  return out
end

--- pg.load(path [, like]) → tree: What pg.save wrote, as it was; of any other safetensors file, a table of its tensors
-- by name. With a vector `like`, the vector of its layout that the tensors make up: pg.load("torch.safetensors",
-- theta). "runs/x@5000" gives what a run had at a checkpoint, the newest without @: { theta, q = { mean, … }, buffers,
-- rule, correction, step }.
function stored.load(path, like)
  local ok, message = sandbox.may_open((path:gsub("@%d+$", "")), "r")
  if not ok then core.raise(message) end
  if data.exists(path) and data.stat(path).type == "directory" or path:match("@%d+$") then return of_run(path) end
  local tensors, strings = data.safetensors_read(path)
  if like then return read_like(path, like, tensors) end
  if strings.format ~= FORMAT then return tensors end
  local read, leaves = pcall(data.json_decode, strings.leaves or "")
  if not read or type(leaves) ~= "table" then core.raise(("%s: its metadata is damaged"):format(path)) end
  return read_tree(path, leaves, tensors)
end

return stored
