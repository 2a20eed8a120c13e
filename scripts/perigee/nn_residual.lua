-- nn_residual.lua: residual blocks; and deep residual networks without normalization, after Zhang, Dauphin and Ma,
-- "Fixup Initialization: Residual Learning Without Normalization" (2019): blocks with scalar biases and a multiplier,
-- and the initialization that lets a step of gradient descent change the network's function by as much at any depth.

local core = require "perigee.core"
local module = require "perigee.nn_module"
local names = require "perigee.names"
local text = require "perigee.tensor_text"
local vectors = require "perigee.vectors"

local nn = {}

local function same_shape(a, b)
  return core.is_tensor(a) and core.is_tensor(b) and table.concat(a.shape, ",") == table.concat(b.shape, ",")
end

-- What the two ways around give, as they are, or an error.
local function check_alike(y, kept)
  if same_shape(y, kept) then return y, kept end
  return core.raise(("the body gives %s, and the shortcut %s; they must have one shape"):format(text.type(y),
    text.type(kept)))
end

--- pg.nn.residual(body[, shortcut]): body(x) + shortcut(x), or + x without a shortcut (He et al. 2015). Either may be a
-- module, a function, or a list of modules. Names: "body.1.weight", "shortcut.weight".
function nn.residual(body, shortcut)
  if body == nil then core.raise("pg.nn.residual takes a body: a module, a function or a list of modules") end
  return module.new("pg.nn.residual", {
    kind = "residual", children = { { "body", body }, shortcut ~= nil and { "shortcut", shortcut } or nil },
    branch = { "body" },
    forward = function(self, x, ctx)
      local y, kept = check_alike(self.body(x, ctx), shortcut == nil and x or self.shortcut(x, ctx))
      return y + kept
    end,
  })
end

-- ---- blocks without normalization ----

--- pg.nn.scalar_bias(): x plus one number, a parameter that begins at 0: what Fixup puts before the layers that are in
-- no block.
function nn.scalar_bias()
  return module.new("pg.nn.scalar_bias", {
    takes_tensor = true, kind = "scalar_bias", parameters = { { "bias", { 1 }, init = 0 } },
    forward = function(self, x) return x + self.bias end,
  })
end

local BLOCK = "pg.nn.fixup_block"

--- pg.nn.fixup_block(body [, shortcut]): A residual block without normalization (Zhang, Dauphin and Ma 2019). body is
-- a list of modules, before each of which stands a scalar bias; the block gives scale * body(x) + shift + shortcut(x +
-- first bias), or + x without a shortcut. Biases and shift begin at 0, scale at 1; layers of the body want { bias =
-- false }. Names: "1.weight", "bias1", …, "scale", "shift", "shortcut.weight". pg.nn.fixup gives it its first values.
function nn.fixup_block(body, shortcut)
  if type(body) ~= "table" or getmetatable(body) or #body == 0 then
    core.raise(("%s takes a list of modules, not %s"):format(BLOCK, names.describe(body)))
  end
  local children, parameters, branch = {}, {}, {}
  for i, entry in ipairs(body) do
    children[i] = { tostring(i), entry }
    parameters[i] = { "bias" .. i, { 1 }, init = 0 }
    branch[i] = tostring(i)
  end
  if shortcut ~= nil then children[#children + 1] = { "shortcut", shortcut } end
  parameters[#parameters + 1] = { "scale", { 1 }, init = 1 }
  parameters[#parameters + 1] = { "shift", { 1 }, init = 0 }
  return module.new(BLOCK, {
    takes_tensor = true, kind = "fixup_block", children = children, parameters = parameters, branch = branch,
    forward = function(self, x, ctx)
      local y = x
      for i = 1, #body do y = self[i](y + self["bias" .. i], ctx) end
      local kept
      y, kept = check_alike(y, shortcut == nil and x or self.shortcut(x + self.bias1, ctx))
      return self.scale * y + self.shift + kept
    end,
  })
end

-- ---- the initialization ----

local OWNER = "pg.nn.fixup"

-- The numbers in the layout of a node's own parameters and of those below it.
local function numbers_below(node, list)
  list = list or {}
  for _, i in next, node.parameters do list[#list + 1] = i end
  for _, child in next, node.children do numbers_below(child, list) end
  return list
end

-- Append to `branches` the layers of every residual branch, outermost ones, and to `rest` the numbers of all parameters
-- that are in none.
local function find_branches(node, branches, rest)
  for _, i in next, node.parameters do rest[#rest + 1] = i end
  local inside = {}
  for _, name in ipairs(node.spec.branch or {}) do inside[name] = true end
  local branch = {}
  for name, child in next, node.children do
    if inside[name] then numbers_below(child, branch) else find_branches(child, branches, rest) end
  end
  if node.spec.branch then branches[#branches + 1] = branch end
end

-- Of these parameters the weights, tensors of two axes or more, in the layout's order.
local function weights_of(layout, list)
  local weights = {}
  for _, i in ipairs(list) do
    if #layout[i].shape >= 2 then weights[#weights + 1] = i end
  end
  table.sort(weights)
  return weights
end

-- Zero the weight with this number and the other parameters of its layer.
local function zero_layer(theta, number)
  local layout = theta.layout
  local prefix = layout[number].name:match("^(.*%.)[^.]*$") or ""
  for i = 1, #layout do
    local name = layout[i].name
    if name:sub(1, #prefix) == prefix and not name:find(".", #prefix + 1, true) then
      theta:segment_set(i, theta:segment(i) * 0)
    end
  end
end

--- pg.nn.fixup(model, theta [, { classifier = true }]) → theta: The Fixup initialization (Zhang, Dauphin and Ma 2019)
-- of a model with residual blocks (pg.nn.fixup_block, pg.nn.residual), from parameters drawn in the usual way, as
-- model:init(key, { weight = pg.nn.init.he() }): with L blocks, in each of which m layers have weights, the last layer
-- becomes 0 and the weights of the others are scaled by L^(-1 / (2 m - 2)); the model's last layer that is in no block,
-- the classifier, becomes 0 too (classifier = false leaves it). A model so begun computes what its shortcuts compute.
-- "Last" is by the order of model.layout. Of a block inside a block's body, the outer one counts.
function nn.fixup(model, theta, opts)
  module.check(OWNER, model)
  module.check_parameters(OWNER, model, theta)
  names.check(OWNER, opts or {}, { "classifier" })
  local branches, rest = {}, {}
  find_branches(model.tree.root, branches, rest)
  if #branches == 0 then
    core.raise(OWNER .. ": the model has no residual block, pg.nn.fixup_block or pg.nn.residual")
  end
  local result, depth = vectors.clone(theta), #branches
  for _, branch in ipairs(branches) do
    local weights = weights_of(theta.layout, branch)
    local factor = depth ^ (-1 / (2 * #weights - 2))
    for k, i in ipairs(weights) do
      if k < #weights then result:segment_set(i, theta:segment(i) * factor) else zero_layer(result, i) end
    end
  end
  local outside = weights_of(theta.layout, rest)
  if #outside > 0 and not (opts and opts.classifier == false) then zero_layer(result, outside[#outside]) end
  return result
end

return nn
