-- builder.lua: tracing a Lua function into a program whose inputs are state slots bound once. A builder is open while
-- the function runs; what it returns is a program that needs, per step, only its scalars read from tables of numbers
-- and run().

local core = require "perigee.core"
local vectors = require "perigee.vectors"

local builder = { executor = nil } -- executor: of all programs, as "interpret"; nil where each chooses by itself

local Builder = {}
Builder.__index = Builder

local Program = {}
Program.__index = Program

-- Open a trace, call f(b), compile what b:output registered, close the trace. Errors of f pass through unchanged.
-- label: what the program does, for `perigee emit`; false keeps it out of there. options: {executor = …} or nil.
function builder.trace(label, f, options)
  local b = setmetatable({
    label = label, tr = core.trace(), by_tensor = {}, open = {}, bound = {}, getters = {}, outputs = {}, donate = {},
    count = 0, inputs = {},
  }, Builder)
  local ok, result = pcall(function()
    f(b)
    return b:compile(options)
  end)
  b.tr:finish()
  if not ok then
    error(result, 0)
  end
  return result
end

-- Zeroed memory for a traced value.
local function new_tensor(value)
  local layout = value.layout
  if layout then
    return core.vector(layout, value.dtype)
  end
  return core.tensor(value.dtype, value.shape)
end

function Builder:new_input(t, name)
  self.count = self.count + 1
  self.inputs[self.count] = { name = name, layout = t.layout, dtype = t.dtype }
  if t.layout ~= nil then
    return self.tr:input(t.dtype, t.layout)
  end
  return self.tr:input(t.dtype, t.shape)
end

-- The traced value of an eager tensor that stays bound; the same value for the same tensor. name: for people.
function Builder:slot(t, name)
  local value = self.by_tensor[t]
  if not value then
    value = self:new_input(t, name)
    self.by_tensor[t] = value
    self.bound[self.count] = t
    self.by_tensor[value] = self.count
  end
  return value
end

-- An input bound by name before a run; `like` gives dtype and shape or layout.
function Builder:input(name, like)
  local value = self:new_input(like, name)
  self.open[name] = self.count
  return value
end

-- A run-time scalar read from values[name] before each run; the same for the same place.
function Builder:scalar(values, name)
  for _, getter in ipairs(self.getters) do
    if getter.values == values and getter.name == name then
      return getter.value
    end
  end
  local value = self.tr:scalar()
  self.getters[#self.getters + 1] = { values = values, name = name, value = value }
  return value
end

-- Make `value` an output; returns its number. With `slot`, an eager tensor, the output is written into it at the end
-- of the run; a number fills it. With `into`, the name of an open input, into whatever is bound there.
function Builder:output(value, slot, into)
  local k = #self.outputs + 1
  if slot and (type(value) == "number" or value.weak) then value = vectors.traced_full_like(slot, value) end
  self.outputs[k] = value
  if slot then
    self.donate[k] = self.by_tensor[self:slot(slot)]
  elseif into then
    self.donate[k] = self.open[into]
  end
  return k
end

function Builder:compile(options)
  local program = self.tr:compile(self.outputs, { donate = self.donate,
    executor = options and options.executor or builder.executor })
  for i, t in pairs(self.bound) do
    program:bind(i, t)
  end
  local self_program = {
    program = program, open = self.open, now = {}, values = {}, names = {}, known = {},
    label = self.label, inputs = self.inputs,
  }
  -- Tables have their size from the beginning: a first run may come late, and should take no memory either.
  for i, getter in ipairs(self.getters) do
    self_program.values[i], self_program.names[i], self_program.known[i] = getter.values, getter.name, false
  end
  for name in next, self.open do self_program.now[name] = false end
  for k, value in ipairs(self.outputs) do
    if not self.donate[k] and core.is_tensor(value) and not value.weak then
      program:output(k, new_tensor(value)) -- here and now, so that no run takes memory
    end
  end
  return setmetatable(self_program, Program)
end

-- Bind an open input; nothing happens when the same tensor is bound already.
function Program:bind(name, tensor)
  if self.now[name] ~= tensor then
    self.program:bind(self.open[name], tensor)
    self.now[name] = tensor
  end
end

-- Read the scalars and run. Most are what they were; those that might be another zero are set anyway.
function Program:run()
  local program, values, keys, known = self.program, self.values, self.names, self.known
  for i = 1, #keys do
    local value = values[i][keys[i]]
    if value ~= known[i] or value == 0 then
      program:set(i, value)
      known[i] = value
    end
  end
  program:run()
end

-- The number in output k, a float of no dimensions, without making a tensor.
function Program:number(k)
  return self.program:number(k)
end

-- The tensor of output k that has no slot; the same memory every run.
function Program:result(k)
  return self.program:result(k)
end

-- Numbers about the plan: flops, arena_bytes and others (bindings/program.c).
function Program:info()
  return self.program:info()
end

-- What the program is, for people: { label, source ("" where it is interpreted), outline (see perigee.h), inputs =
-- { { name, layout, dtype }, … } as they were made, names (of the run-time scalars), arguments, results (see
-- bindings/program.c) }.
function Program:describe()
  local program = self.program
  local arguments, results = program:arguments()
  return { label = self.label, source = program:source(), outline = program:outline(), inputs = self.inputs,
    names = self.names, arguments = arguments, results = results }
end

return builder
