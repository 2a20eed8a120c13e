-- memory.lua: the slots of a correction: frozen posteriors, statistics, tensors and numbers that its definition
-- declares or `refresh` makes by assigning to s.x. The first run of refresh, on zeros, finds the latter and their
-- memory; from then on assignments copy into it. In a trace the same slots appear as traced values.

local core = require "perigee.core"
local names = require "perigee.names"
local per_tensor = require "perigee.per_tensor"
local posterior = require "perigee.posterior"
local row_table = require "perigee.row_table"
local rows = require "perigee.rows"
local slots = require "perigee.slots"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local memory = {}

local Memory = {}
Memory.__index = Memory

function memory.new(owner)
  return setmetatable({
    owner = owner, names = {}, kinds = {}, values = {}, filled = {}, aliases = {}, probing = false,
  }, Memory)
end

-- The kind of a value that may be kept, or nil.
local function kind_of(value)
  if posterior.is(value) then
    return "posterior"
  elseif statistics.is(value) then
    return "statistics"
  elseif type(value) == "number" then
    return "number"
  elseif core.is_tensor(value) then
    return "tensor"
  elseif row_table.is(value) then
    return "rows"
  end
end

local function clone(kind, value)
  if kind == "posterior" then
    local tensors = {}
    for _, field in ipairs(value.fields) do
      tensors[field] = vectors.clone(value[field])
    end
    return posterior.new(value.fields, tensors)
  elseif kind == "statistics" then
    return statistics.map(value, function(x)
      return vectors.clone(x)
    end)
  elseif kind == "tensor" then
    return vectors.clone(value)
  end
  return value
end

-- The tensors of a slot's value as an ordered list of { suffix, tensor }.
local function parts(kind, value)
  local list = {}
  if kind == "posterior" then
    for _, field in ipairs(value.fields) do
      list[#list + 1] = { "." .. field, value[field] }
    end
  elseif kind == "statistics" then
    for _, field in ipairs(statistics.fields(value)) do
      list[#list + 1] = { "." .. field, value[field] }
    end
  elseif kind == "tensor" then
    list[1] = { "", value }
  elseif kind == "rows" then
    return value:parts()
  end
  return list
end

local function copy_into(kind, to, from)
  local into, out_of = parts(kind, to), parts(kind, from)
  for i, part in ipairs(into) do
    if not rawequal(part[2], out_of[i][2]) then
      part[2]:copy_from(out_of[i][2])
    end
  end
end

function Memory:make(name, value, results)
  local kind = kind_of(value)
  if not kind then
    core.raise(("%s: s.%s can hold a posterior, statistics, a tensor or a number, not a %s"):format(self.owner, name,
      type(value)))
  end
  self.names[#self.names + 1] = name
  self.kinds[name] = kind
  for j, result in ipairs(results or {}) do
    if result == value then
      self.aliases[j], self.values[name] = name, value
      return
    end
  end
  self.values[name] = clone(kind, value)
end

-- Make the slots that a definition declares (see pg.correction.define). q: the posterior of the beginning;
-- zero_statistics() makes statistics of zeros.
function Memory:declare(state, q, zero_statistics)
  for _, name in ipairs(names.sorted(state)) do
    local init = state[name]
    if init == "posterior" then
      self:make(name, q)
    elseif init == "statistics" then
      self:make(name, zero_statistics())
    elseif rows.is(init) then
      self:declare_table(name, init)
    elseif type(init) == "string" then
      core.raise(('%s: slot %s begins as "statistics", "posterior", a number, pg.scalar, pg.per_tensor or pg.rows, '
        .. 'not "%s"'):format(self.owner, name, init))
    else
      self:make(name, slots.allocate({ name = name, init = init }, q.mean))
      if per_tensor.is(init) then self.layout = q.mean.layout end
    end
    self.filled[name] = true
  end
end

-- Make a table; it has no rows until the data are known.
function Memory:declare_table(name, spec)
  if self.table then core.raise(self.owner .. ": a correction keeps one table of rows at most") end
  self.table = row_table.new(self.owner, spec, { advice = "keep it in a file, or rows for each batch" })
  self.names[#self.names + 1] = name
  self.kinds[name], self.values[name] = "rows", self.table
end

-- The object `s` for refresh. results: statistics objects of passes so far; a slot assigned one of them shares its
-- memory.
function Memory:host_view(results)
  local reads, written, hazard = {}, {}, {}
  local view = setmetatable({}, {
    __index = function(_, name)
      reads[name] = true
      if self.filled[name] or (self.probing and written[name]) then
        return self.values[name]
      end
    end,
    __newindex = function(_, name, value)
      if reads[name] and not written[name] then
        hazard[#hazard + 1] = name
      end
      written[name] = true
      if self.kinds[name] == nil then
        if not self.probing then
          core.raise(("%s: slot '%s' was not assigned when refresh ran on zeros; refresh must assign the same slots "
            .. "each time"):format(self.owner, name))
        end
        return self:make(name, value, results)
      end
      if kind_of(value) ~= self.kinds[name] or self.kinds[name] == "rows" and value ~= self.values[name] then
        core.raise(("%s: s.%s holds a %s, got a %s"):format(self.owner, name, self.kinds[name],
          kind_of(value) or type(value)))
      end
      if self.kinds[name] == "number" then
        self.values[name] = value
      elseif self.kinds[name] ~= "rows" then
        copy_into(self.kinds[name], self.values[name], value)
      end
      self.filled[name] = not self.probing or nil
    end,
  })
  return view, written, hazard
end

-- After the run on zeros: no slot may share the memory of a pass if refresh makes several, and everything is zero
-- again.
function Memory:settle(passes)
  if passes > 1 then
    for j, name in pairs(self.aliases) do
      self.values[name] = clone("statistics", self.values[name])
      self.aliases[j] = nil
    end
  end
end

-- Names and tensors in a fixed order, and numbers, for checkpoints.
function Memory:tensors(prefix, list)
  for _, name in ipairs(self.names) do
    for _, part in ipairs(parts(self.kinds[name], self.values[name])) do
      list[#list + 1] = { prefix .. name .. part[1], part[2] }
    end
  end
end

function Memory:save_numbers(prefix, numbers)
  for _, name in ipairs(self.names) do
    numbers[prefix .. name .. ".filled"] = self.filled[name] and 1 or 0
    if self.kinds[name] == "number" then
      numbers[prefix .. name] = self.values[name]
    end
  end
end

function Memory:load_numbers(prefix, numbers)
  for _, name in ipairs(self.names) do
    self.filled[name] = numbers[prefix .. name .. ".filled"] == 1 or nil
    if self.kinds[name] == "number" then
      self.values[name] = numbers[prefix .. name]
    end
  end
  if self.table then self.table:settle() end
end

-- Before tensors that were saved (by name) are copied in: a table that has no rows yet gets as many as were saved.
function Memory:make_room(prefix, tensors, fields)
  for _, name in ipairs(self.names) do
    if self.kinds[name] == "rows" then
      self.values[name]:make_room(function(suffix) return tensors[prefix .. name .. suffix] end, fields)
    end
  end
end

-- The object `s` for correct, in builder b, on a batch of `count` examples. view(name, values) wraps the traced fields
-- of a posterior. Returns it and a function that registers what correct wrote as outputs.
function Memory:traced_view(b, view, count)
  local traced = {}
  for _, name in ipairs(self.names) do
    local kind, value = self.kinds[name], self.values[name]
    if kind == "number" then
      traced[name] = b:scalar(self.values, name)
    elseif kind == "tensor" then
      traced[name] = b:slot(value, "correction." .. name)
    elseif kind == "rows" then
      traced[name] = value:traced(b, count, ("correction.%s."):format(name))
    else
      local fields = {}
      for _, part in ipairs(parts(kind, value)) do
        fields[part[1]:sub(2)] = b:slot(part[2], "correction." .. name .. part[1])
      end
      traced[name] = kind == "posterior" and view(name, fields) or statistics.new(fields)
    end
  end
  local s, written = slots.view(self.owner, traced, self.names, nil, self.layout)
  return s, function()
    for _, name in ipairs(written) do
      self:output(b, name, traced[name], count)
    end
  end
end

function Memory:output(b, name, value, count)
  local kind = self.kinds[name]
  local fields = kind == "posterior" and posterior.values(value) or value
  if kind == "number" then
    core.raise(("%s: s.%s is a number of the host; correct cannot write it"):format(self.owner, name))
  elseif kind == "tensor" then
    b:output(value, self.values[name])
    return
  elseif type(fields) ~= "table" then
    core.raise(("%s: s.%s holds a %s, got a %s"):format(self.owner, name, kind, type(value)))
  end
  if kind == "rows" then
    return self.values[name]:output(b, count, fields)
  end
  for _, part in ipairs(parts(kind, self.values[name])) do
    b:output(fields[part[1]:sub(2)], part[2])
  end
end

return memory
