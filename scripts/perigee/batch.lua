-- batch.lua: batches as programs see them. A batch is a table of tensors (x, y, …), run-time numbers, and static
-- booleans and strings. batch.id: i64 example ids. batch.sample_weight: the weights of the rows, where they differ
-- (weighted.lua); its rows are then examples and places that nobody has, and batch.count says how many are the former.
-- A field of the host's batch called outer.x is field x of batch.outer in programs: of another stream (streams.lua).
-- Batches of one signature (names, dtypes, shapes, statics) share programs.

local core = require "perigee.core"
local names = require "perigee.names"

local next, rawequal, type = next, rawequal, type -- asked several times in each step

local batch = {}

local Binding = {}
Binding.__index = Binding

-- Tensors, and tables that stand for one with { dtype =, shape = }.
local function is_tensor(x)
  return type(x) == "userdata" or (type(x) == "table" and x.dtype ~= nil)
end

-- The names of a batch by kind, each sorted: tensors, numbers, statics.
local function sort_entries(b)
  local tensors, numbers, statics = {}, {}, {}
  for _, name in ipairs(names.sorted(b)) do
    local v = b[name]
    if is_tensor(v) then
      tensors[#tensors + 1] = name
    elseif type(v) == "number" then
      numbers[#numbers + 1] = name
    elseif type(v) == "boolean" or type(v) == "string" then
      statics[#statics + 1] = name
    else
      core.raise(("batch.%s: a batch holds tensors, numbers, booleans and strings, not a %s"):format(tostring(name),
        type(v)))
    end
  end
  return tensors, numbers, statics
end

-- The first extent of a batch's id, x, or first tensor by name.
local function first_extent(b)
  local t = b.id or b.x
  if not t then
    t = b[sort_entries(b)[1]]
  end
  if not t or #t.shape == 0 then
    core.raise("a batch needs a tensor with one row per example, or count")
  end
  return t.shape[1]
end

-- How many examples a batch has: batch.count if given, else its rows.
function batch.count(b) return type(b.count) == "number" and b.count or first_extent(b) end

-- What programs of this signature are made for: the rows of a batch with weights, else its examples.
function batch.size(b) return b.sample_weight and first_extent(b) or batch.count(b) end

-- Names, dtypes, shapes and statics of a batch as one string.
function batch.signature(b)
  local tensors, numbers, statics = sort_entries(b)
  local parts = {}
  for _, name in ipairs(tensors) do
    parts[#parts + 1] = ("%s:%s[%s]"):format(name, b[name].dtype, table.concat(b[name].shape, ","))
  end
  for _, name in ipairs(numbers) do
    parts[#parts + 1] = name
  end
  for _, name in ipairs(statics) do
    parts[#parts + 1] = name .. "=" .. tostring(b[name])
  end
  return table.concat(parts, ";")
end

-- Put a value of a traced batch in its place: a name with a dot is that of a field of another stream's batch.
local function place(traced, name, value)
  local stream, field = name:match "^([^.]+)%.(.+)$"
  if not stream then
    traced[name] = value
    return
  end
  traced[stream] = traced[stream] or {}
  traced[stream][field] = value
end

-- Declare a batch in a builder: returns the traced batch and a binding for others of its signature.
function batch.declare(builder, b)
  local tensors, numbers, statics = sort_entries(b)
  local self = setmetatable({ tensors = tensors, numbers = numbers, statics = {}, inputs = {}, values = {}, bound = {},
    size = #tensors + #numbers + #statics }, Binding)
  local traced = {}
  for i, name in ipairs(tensors) do
    self.inputs[i], self.bound[i] = "batch." .. name, false
    place(traced, name, builder:input(self.inputs[i], b[name]))
  end
  for _, name in ipairs(numbers) do
    place(traced, name, builder:scalar(self.values, name))
  end
  for _, name in ipairs(statics) do
    place(traced, name, b[name])
    self.statics[name] = b[name]
  end
  return traced, self
end

-- Bind a batch of the declared signature to a program.
function Binding:bind(program, b)
  local bound, tensors, numbers = self.bound, self.tensors, self.numbers
  for i = 1, #tensors do
    local t = b[tensors[i]]
    if not rawequal(bound[i], t) then
      program:bind(self.inputs[i], t)
      bound[i] = t
    end
  end
  for i = 1, #numbers do
    self.values[numbers[i]] = b[numbers[i]]
  end
end

-- Whether b certainly has the declared signature, because its tensors are those bound now. The quick way for buffers
-- that are filled again and again; false says nothing.
function Binding:is_bound(b)
  local size, bound, tensors, numbers, statics = 0, self.bound, self.tensors, self.numbers, self.statics
  for _ in next, b do
    size = size + 1
  end
  if size ~= self.size then
    return false
  end
  for i = 1, #tensors do
    if not rawequal(bound[i], b[tensors[i]]) then
      return false
    end
  end
  for i = 1, #numbers do
    if type(b[numbers[i]]) ~= "number" then
      return false
    end
  end
  for name, value in next, statics do
    if b[name] ~= value then
      return false
    end
  end
  return true
end

return batch
