-- nn.lua: models: a layout and a pure forward function of one vector. A layer is a table { parameters = { { name,
-- shape, fan_in }, … }, forward = function(get, x, ctx, path) }, where get(name) is the traced or eager tensor of a
-- parameter; pg.nn.sequential composes them and makes a model of them. Initialization follows torch.nn.Linear:
-- uniform in +-1/sqrt(fan_in), drawn from a key folded with the tensor's name, so that it depends on no order.
--
-- A linear layer's weight is [in, out]: the forward product x W and both of its derivatives then read W as it lies.
-- Names in a sequential model are "1.weight": the 1-based place of the layer, nested ones joined by dots.

local core = require "perigee.core"
local generic = require "perigee.generic"

local nn = {}

local Layer = {}
Layer.__index = Layer
Layer.__name = "perigee.layer"

local function layer(spec)
  spec.parameters = spec.parameters or {}
  return setmetatable(spec, Layer)
end

-- A layer of one's own. parameters: list of { name, shape, fan_in } (fan_in: the initialization bound is
-- 1/sqrt(fan_in); 0 gives zeros). forward(get, x, ctx, path): traced; path is the list of places the layer stands at.
function nn.layer(spec)
  if type(spec.forward) ~= "function" then
    core.raise("pg.nn.layer needs a forward function")
  end
  return layer { name = spec.name or "layer", parameters = spec.parameters, forward = spec.forward }
end

local function check_size(what, n)
  if math.type(n) ~= "integer" or n < 1 then
    core.raise(("pg.nn.linear: %s must be a positive whole number, not %s"):format(what, tostring(n)))
  end
end

-- x [batch, in] → [batch, out]: x W + b.
function nn.linear(inputs, outputs, options)
  check_size("inputs", inputs)
  check_size("outputs", outputs)
  local bias = not options or options.bias ~= false
  local parameters = { { "weight", { inputs, outputs }, inputs } }
  if bias then
    parameters[2] = { "bias", { outputs }, inputs }
  end
  return layer {
    name = ("linear(%d, %d%s)"):format(inputs, outputs, bias and "" or ", no bias"),
    parameters = parameters,
    forward = function(get, x)
      local shape = x.shape
      if shape[#shape] ~= inputs then
        core.raise(("linear(%d, %d) got an input of shape [%s]"):format(inputs, outputs, table.concat(shape, ", ")))
      end
      local y = core.apply("matmul", nil, x, get("weight"))
      return bias and y + get("bias") or y
    end,
  }
end

local function activation(name, f)
  return function()
    return layer { name = name, forward = function(_, x) return f(x) end }
  end
end

nn.relu = activation("relu", generic.relu)
nn.tanh = activation("tanh", generic.tanh)
nn.sigmoid = activation("sigmoid", generic.sigmoid)
nn.gelu = activation("gelu", function(x) return core.apply("gelu", nil, x) end)

-- [batch, …] → [batch, product of the rest].
function nn.flatten()
  return layer {
    name = "flatten",
    forward = function(_, x)
      local shape, n = x.shape, 1
      for i = 2, #shape do
        n = n * shape[i]
      end
      return core.apply("reshape", { a = { shape[1], n } }, x)
    end,
  }
end

-- Zero each element with probability rate while training and scale the rest by 1 / (1 - rate). The mask is drawn from
-- ctx.key (one key per example, where the batch has ids), folded with the layer's path.
function nn.dropout(rate)
  if type(rate) ~= "number" or rate < 0 or rate >= 1 then
    core.raise("pg.nn.dropout: the rate is a number in [0, 1)")
  end
  return layer {
    name = ("dropout(%g)"):format(rate),
    forward = function(_, x, ctx, path)
      if rate == 0 or not (ctx and ctx.train) then
        return x
      elseif not ctx.key then
        core.raise("dropout needs ctx.key")
      end
      local key = ctx.key
      for _, place in ipairs(path) do
        key = core.apply("key_fold", nil, key, place)
      end
      local shape = x.shape
      if #key.shape > 0 then
        shape = { table.unpack(shape, 2) }
      end
      local u = core.apply("uniform", { a = shape, dtype = x.dtype }, key)
      return generic.where(generic.ge(u, rate), x / (1 - rate), 0)
    end,
  }
end

-- ---- models ----

local Model = {}
Model.__index = Model
Model.__name = "perigee.model"

local function is_layer(x)
  return getmetatable(x) == Layer
end

-- Append the leaf layers of a list (whose entries may be models or lists themselves) with their paths.
local function collect(list, prefix, path, out)
  for i, entry in ipairs(list) do
    local here = { table.unpack(path) }
    here[#here + 1] = i
    if is_layer(entry) then
      out[#out + 1] = { layer = entry, prefix = prefix .. i .. ".", path = here }
    elseif getmetatable(entry) == Model then
      collect(entry.list, prefix .. i .. ".", here, out)
    elseif type(entry) == "table" then
      collect(entry, prefix .. i .. ".", here, out)
    else
      core.raise(("pg.nn.sequential: entry %d is a %s, not a layer"):format(i, type(entry)))
    end
  end
  return out
end

-- A model that applies layers one after the other. Models and lists of layers may be nested in it.
function nn.sequential(list)
  local self = setmetatable({ list = list }, Model)
  self.layers = collect(list, "", {}, {})
  local entries = {}
  self.fan_in = {}
  for _, leaf in ipairs(self.layers) do
    leaf.index = {}
    for _, parameter in ipairs(leaf.layer.parameters) do
      local name = leaf.prefix .. parameter[1]
      entries[#entries + 1] = { name, parameter[2] }
      leaf.index[parameter[1]] = #entries
      self.fan_in[#entries] = parameter[3]
    end
  end
  self.layout = core.layout(entries)
  return self
end

-- Parameters drawn from key: a vector. dtype: default "f32".
function Model:init(key, dtype)
  dtype = dtype or "f32"
  local theta = core.vector(self.layout, dtype)
  for i = 1, #self.layout do
    local segment, fan_in = self.layout[i], self.fan_in[i]
    if fan_in > 0 then
      local u = core.apply("uniform", { a = segment.shape, dtype = dtype }, key:fold(segment.name))
      theta:segment_set(i, (u * 2 - 1) * fan_in ^ -0.5)
    end
  end
  return theta
end

-- model(theta, x, ctx): the output. ctx: { train =, key = }, as a loss gets it; may be left out.
function Model:__call(theta, x, ctx)
  for _, leaf in ipairs(self.layers) do
    local function get(name)
      return core.apply("view", { a = { leaf.index[name] - 1 } }, theta)
    end
    x = leaf.layer.forward(get, x, ctx, leaf.path)
  end
  return x
end

-- The layers with their parameters, as text.
function Model:summary()
  local lines = {}
  for _, leaf in ipairs(self.layers) do
    local parts, count = {}, 0
    for _, parameter in ipairs(leaf.layer.parameters) do
      local segment = self.layout[leaf.index[parameter[1]]]
      parts[#parts + 1] = ("%s [%s]"):format(parameter[1], table.concat(segment.shape, ", "))
      count = count + segment.size
    end
    lines[#lines + 1] = ("%-8s %-24s %10d  %s"):format(leaf.prefix:sub(1, -2), leaf.layer.name, count,
      table.concat(parts, ", "))
  end
  lines[#lines + 1] = ("%d parameters in %d tensors"):format(self.layout.size, #self.layout)
  return table.concat(lines, "\n")
end

Model.__tostring = Model.summary

return nn
