-- per_tensor.lua: one value for each tensor of a vector: norms and sums by tensor, and hyperparameters such as a weight
-- decay for matrices only. Such values meet vectors in arithmetic, where each is spread over its tensor.
local core = require "perigee.core"
local check = require "perigee.tensor_args"

local apply, is_tensor, methods, raise = core.apply, core.is_tensor, core.methods, check.raise
local M = {}
local PerTensor = {}
PerTensor.__index = PerTensor

-- A value is resolved ({values = tensor [tensors], layout =}), given by a function of name and shape or a number
-- ({given =}), or an operation on others, waiting for a layout ({name =, args =}).
local function new(fields) return setmetatable(fields, PerTensor) end

function M.is(x) return getmetatable(x) == PerTensor end

-- The values of a layout's tensors, [tensors], as one value per tensor.
function M.of(values, layout) return new { values = values, layout = layout } end

--- pg.per_tensor(given): One number for each tensor of a vector: a number, or a function(name, shape) → number, such as
-- a weight decay for matrices only.
-- It is resolved when the layout is known. In arithmetic with a vector each value is spread over its tensor.
function M.per_tensor(given)
  if M.is(given) then return given end
  if type(given) ~= "function" and type(given) ~= "number" then
    raise("per_tensor: a function of (name, shape) or a number was expected, got %s", type(given))
  end
  return new { given = given }
end

local function evaluate(given, layout, dtype)
  local list = {}
  for i = 1, #layout do
    local s = layout[i]
    local x = given
    if type(given) == "function" then x = given(s.name, s.shape) end
    if type(x) ~= "number" then raise("per_tensor: a number was expected for '%s', got %s", s.name, type(x)) end
    list[i] = x
  end
  return core.tensor(dtype, { #layout }, list)
end

-- The values for a layout as a tensor [tensors].
function PerTensor:resolve(layout, dtype)
  dtype = dtype or "f32"
  if self.values then
    if self.layout ~= layout then raise("per_tensor: these values belong to another layout") end
    return self.values
  end
  if self.name then
    local args = {}
    for i, x in ipairs(self.args) do args[i] = M.is(x) and x:resolve(layout, dtype) or x end
    return apply(self.name, nil, table.unpack(args))
  end
  local known = self.known
  if not (known and known.dtype == dtype and known.layout == layout) then
    known = { dtype = dtype, layout = layout, values = evaluate(self.given, layout, dtype) }
    self.known = known
  end
  return known.values
end

-- The values spread over a vector of the layout.
function PerTensor:spread(layout, dtype)
  layout = layout or self.layout
  return apply("segbroadcast", { layout = layout }, self:resolve(layout, dtype))
end

local function find_layout(args)
  local layout, dtype
  for _, x in ipairs(args) do
    if M.is(x) and x.values then layout, dtype = layout or x.layout, dtype or x.values.dtype end
  end
  return layout, dtype
end

-- Called by the engine's functions when one of their operands is ours.
function PerTensor.__pg_apply(name, ...)
  local args = { ... }
  for _, x in ipairs(args) do
    local layout = is_tensor(x) and x.layout
    if layout then
      for i, y in ipairs(args) do if M.is(y) then args[i] = y:spread(layout, x.dtype) end end
      return apply(name, nil, table.unpack(args))
    end
  end
  local layout, dtype = find_layout(args)
  if not layout then return new { name = name, args = args } end
  for i, y in ipairs(args) do if M.is(y) then args[i] = y:resolve(layout, dtype) end end
  return new { layout = layout, values = apply(name, nil, table.unpack(args)) }
end

local events = { __add = "add", __sub = "sub", __mul = "mul", __div = "div", __pow = "pow" }
for event, name in next, events do
  PerTensor[event] = function(a, b) return PerTensor.__pg_apply(name, a, b) end
end
function PerTensor.__unm(a) return PerTensor.__pg_apply("neg", a) end

for _, name in ipairs {
  "abs", "sign", "sqrt", "rsqrt", "exp", "log", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne",
} do
  PerTensor[name] = function(...) return PerTensor.__pg_apply(name, ...) end
end

function PerTensor:totable()
  if not self.values then raise("per_tensor: the layout is not known yet") end
  return self.values:totable()
end

function PerTensor:__tostring()
  if self.values then return "per tensor: " .. tostring(self.values) end
  return "per tensor (no layout yet)"
end

-- How many numbers each tensor has.
M.count = M.per_tensor(function(_, shape)
  local n = 1
  for _, extent in ipairs(shape) do n = n * extent end
  return n
end)

-- ---- of vectors ----

local Segments = {}
Segments.__index = Segments

--- tensor:per_tensor(): The tensors of a vector one by one, to be reduced: v:per_tensor():norm() gives one norm for
-- each tensor, which in arithmetic with vectors is spread over it. Reductions: sum, mean, max, min, norm.
function methods.per_tensor(x)
  if not x.layout then raise("per_tensor: a vector was expected, got %s %s", x.dtype, "tensor") end
  return setmetatable({ vector = x }, Segments)
end

local function reduced(vector, name)
  return new { layout = vector.layout, values = apply(name, nil, vector) }
end

function Segments:sum() return reduced(self.vector, "segsum") end
function Segments:max() return reduced(self.vector, "segmax") end
function Segments:min() return reduced(self.vector, "segmin") end
function Segments:norm() return reduced(self.vector * self.vector, "segsum"):sqrt() end

function Segments:mean() return reduced(self.vector, "segmean") end

return M
