-- nn_reparametrize.lua: pg.nn.reparametrize, a model whose weights are a function of other parameters: of fewer (low
-- rank, a subspace, a frozen body), of more (weight norm), or of as many (rotated, permuted).

local call = require "perigee.nn_call"
local core = require "perigee.core"
local module = require "perigee.nn_module"
local names = require "perigee.names"

local nn = {}
local OWNER = "pg.nn.reparametrize"
local OPTIONS = { "parameters", "weights", "from", "keep" }

-- ---- which of the model's tensors stay parameters ----

-- Name → whether it is kept, for all the model's tensors.
local function read_keep(model, keep)
  local kept, known, layout = {}, {}, model.layout
  for i = 1, #layout do
    local name = layout[i].name
    known[i] = name
    if type(keep) == "function" then kept[name] = keep(name, layout[i].shape) and true or false
    elseif type(keep) == "boolean" then kept[name] = keep end
  end
  if type(keep) == "table" then
    local present = {}
    for _, name in ipairs(known) do present[name] = true end
    for _, name in ipairs(keep) do
      if not present[name] then core.raise(names.unknown("name", tostring(name), OWNER .. ": keep", known)) end
      kept[name] = true
    end
  elseif next(kept) == nil and #layout > 0 then
    core.raise(("%s: keep is true, false, a list of names or a function of a name, not %s"):format(OWNER,
      names.describe(keep)))
  end
  return kept
end

-- The declarations of the kept tensors, which begin as in the model, or as in `from`.
local function declare_kept(model, kept, from)
  local list = {}
  for _, entry in ipairs(model.tree.parameters) do
    if kept[entry.name] then
      local declared = {}
      for field, value in next, entry.declared do declared[field] = value end
      declared.name = entry.name
      if from then declared.init = function(_, _, dtype) return from[entry.name]:to(dtype) end end
      list[#list + 1] = declared
    end
  end
  return list
end

-- ---- the weights of a call ----

-- The vector of the model's layout: kept tensors from self, the others from `from`, which a trace binds as it is.
local function base_of(self, layout, kept, from, dtype)
  local list, frozen = {}, from and core.tracing() and core.capture(from) or from
  for i = 1, #layout do
    local name = layout[i].name
    list[i] = kept[name] and self[name] or frozen and frozen[name]:to(dtype)
      or core.apply("full", { a = layout[i].shape, dtype = dtype }, 0)
  end
  return core.apply("pack", { layout = layout }, table.unpack(list))
end

-- The user's parameters by name.
local function own_of(self, list)
  local own = {}
  for _, declared in ipairs(list) do own[declared.name] = self[declared.name] end
  return names.guard(own, "the parameters of " .. OWNER)
end

local function check_weights(found, base)
  if core.is_tensor(found) and found.layout == base.layout then return found end
  if type(found) == "table" and getmetatable(found) == nil then return base:with(found) end
  return core.raise(("%s: weights returns a vector of the model's layout, or a table of tensors by name, not %s")
    :format(OWNER, names.describe(found)))
end

-- ---- buffers ----

-- A ctx for the inner model, whose buffers are those of self as a vector of its own layout.
local function inner_context(self, layout, ctx)
  local list = {}
  for i = 1, #layout do list[i] = self[layout[i].name] end
  local own = { buffers = core.apply("pack", { layout = layout }, table.unpack(list)), new_buffers = false }
  return setmetatable(own, { __index = ctx, __newindex = ctx })
end

local function adopt_buffers(self, layout, own, ...)
  if own.new_buffers then
    for i = 1, #layout do self[layout[i].name] = own.new_buffers[layout[i].name] end
  end
  return ...
end

-- ---- the model ----

local function read_from(model, from)
  if from ~= nil and not (core.is_tensor(from) and from.layout == model.layout) then
    core.raise(("%s: from is parameters of the model, as model:init(key) makes them, not %s"):format(OWNER,
      names.describe(from)))
  end
  return from
end

local function keep_all(_, theta) return theta end

local function read_weights(weights)
  if weights ~= nil and type(weights) ~= "function" then
    core.raise(("%s: weights is a function (p, theta), not %s"):format(OWNER, names.describe(weights)))
  end
  return weights or keep_all
end

-- The buffers of a model, declared under their full names.
local function declare_buffers(model)
  local list = {}
  for i, entry in ipairs(model.tree.buffers) do
    list[i] = setmetatable({ name = entry.name }, { __index = entry.declared })
  end
  return list
end

-- The forward function. how: { kept, from, weights, own, first (the name of a parameter) }.
local function forward_of(model, how)
  local layout, buffer_layout = model.layout, model.buffer_layout
  return function(self, x, ctx)
    local base = base_of(self, layout, how.kept, how.from, self[how.first].dtype)
    local theta = check_weights(how.weights(own_of(self, how.own), base), base)
    if not buffer_layout or not ctx.buffers then return call.run(model.tree, theta, x, ctx) end
    local inner = inner_context(self, buffer_layout, ctx)
    return adopt_buffers(self, buffer_layout, inner, call.run(model.tree, theta, x, inner))
  end
end

--- pg.nn.reparametrize(model, { weights = function(p, theta) … end, parameters = { NAME = { shape… } }, from =, keep =
-- }) → model: A model that computes what `model` computes at weights that are a function of its own parameters. It is
-- trained, saved and called as any other, and may be part of one.
--   parameters: new ones, declared as in pg.nn.module.
--   keep: which of the model's tensors stay parameters, under their names: true, false, a list of names, or a function
--     (name, shape) → boolean; true by default, false where `from` is given.
--   from: parameters of the model. What is not kept is frozen at these values; what is kept begins there. Without
--     from, what is not kept is 0 until `weights` replaces it.
--   weights(p, theta): traced. p holds the new parameters by name; theta is a vector of the model's layout: what is
--     kept, and what is frozen. Returns such a vector, or the tensors to be replaced in theta: { ["1.weight"] = tensor
--     }. By default theta.
-- Gradients flow through whatever `weights` computes. Examples: docs/add-module.md.
function nn.reparametrize(model, given)
  module.check(OWNER, model)
  names.check(OWNER, given, OPTIONS)
  local from, weights, keep = read_from(model, given.from), read_weights(given.weights), given.keep
  if keep == nil then keep = from == nil end
  local kept = read_keep(model, keep)
  local own, list = module.read_parameters(OWNER, given.parameters), declare_kept(model, kept, from)
  table.move(own, 1, #own, #list + 1, list)
  if #list == 0 then core.raise(OWNER .. ": nothing is left to train; declare parameters, or keep some") end
  return module.assemble {
    kind = "reparametrized " .. model.spec.kind, parameters = list, buffers = declare_buffers(model), children = {},
    watched = table.move(model.tree.watched, 1, #model.tree.watched, 2, { weights }),
    forward = forward_of(model, { kept = kept, from = from, weights = weights, own = own, first = list[1].name }),
  }
end

return nn
