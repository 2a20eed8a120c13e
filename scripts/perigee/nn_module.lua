-- nn_module.lua: what models are made of. A module is a description: parameters, buffers and children, each with a
-- name, and a forward function in plain Lua. It holds no numbers, so one module may stand at several places, each with
-- parameters of its own. Any module is a model: seen as the root of a tree, it has a layout (names joined by dots:
-- "block1.conv.weight"), initial values, and is called as model(theta, x, ctx). How a call goes is in nn_call.lua.

local call = require "perigee.nn_call"
local core = require "perigee.core"
local init = require "perigee.nn_init"
local names = require "perigee.names"
local options = require "perigee.options"

local module = {}

local Module = {}
Module.__name = "perigee.module"

function module.is(x)
  return getmetatable(x) == Module
end

-- Raise unless x, the first argument of `owner`, is a model.
function module.check(owner, x)
  if not module.is(x) then core.raise(("%s: a model comes first, not %s"):format(owner, names.describe(x))) end
end

-- Raise unless theta, the second argument of `owner`, is the parameters of the model.
function module.check_parameters(owner, model, theta)
  if not core.is_tensor(theta) or theta.layout ~= model.layout then
    core.raise(("%s: parameters, as model:init(key) makes them, come second, not %s"):format(owner,
      names.describe(theta)))
  end
end

-- ---- declaring ----

-- "block2" before "block10": numbers inside names count as numbers.
local function natural_key(name)
  return (name:gsub("%d+", function(digits) return ("0"):rep(20 - #digits) .. digits end))
end

-- { name = value, … } in natural order, behind the list part in its own: { { name, value }, … }, { value, … } → a list
-- of { name, place, value, paired }. place is what keys are folded with: a list's number, or the name.
local function entries_of(owner, what, given)
  if type(given) ~= "table" or getmetatable(given) then
    core.raise(("%s: %s is a table, not %s"):format(owner, what, names.describe(given)))
  end
  local entries, named, n = {}, {}, 0
  for i in ipairs(given) do n = i end
  for key, value in next, given do
    if type(key) == "string" then
      named[#named + 1] = { name = key, place = key, value = value }
    elseif math.type(key) ~= "integer" or key < 1 or key > n then
      core.raise(("%s: entry %d of %s is nil, and there is one at %s"):format(owner, n + 1, what, tostring(key)))
    end
  end
  for i, value in ipairs(given) do
    if type(value) == "table" and not getmetatable(value) and type(value[1]) == "string" then
      local rest = table.move(value, 2, #value, 1, {})
      for key, field in next, value do if type(key) == "string" then rest[key] = field end end
      entries[i] = { name = value[1], place = value[1], value = rest, paired = true }
    else
      entries[i] = { name = tostring(i), place = i, value = value }
    end
  end
  table.sort(named, function(a, b) return natural_key(a.name) < natural_key(b.name) end)
  return table.move(named, 1, #named, #entries + 1, entries)
end

local DECLARATION = { "init", "fan_in", "fan_out", "running" }

-- { shape…, init =, fan_in =, fan_out =, running = } or { { shape… }, init = … } → the same with a field shape.
local function read_declaration(owner, entry, what)
  local given = entry.value
  local label = ("%s: '%s'"):format(owner, entry.name)
  if type(given) ~= "table" or math.type(entry.place) == "integer" then
    core.raise(("%s: a parameter or buffer is declared as NAME = { shape… }"):format(owner))
  end
  if type(given[1]) == "table" and given[2] ~= nil then
    core.raise(("%s: behind the shape stand named fields, as init = …, not %s"):format(label, names.describe(given[2])))
  end
  local declared, fields = { name = entry.name, shape = {} }, {}
  for i, extent in ipairs(type(given[1]) == "table" and given[1] or given) do
    if math.type(extent) ~= "integer" or extent < 1 then
      core.raise(("%s: extents of a shape are positive whole numbers, not %s"):format(label, tostring(extent)))
    end
    declared.shape[i] = extent
  end
  for key, value in next, given do
    if type(key) == "string" then fields[key], declared[key] = value, value end
  end
  names.check(label, fields, DECLARATION)
  if what == "buffers" and fields.init ~= nil and type(fields.init) ~= "number" then
    core.raise(("%s: a buffer begins with a number, not %s"):format(label, names.describe(fields.init)))
  elseif fields.init ~= nil then
    init.check(label, fields.init)
  end
  return declared
end

local function read_child(owner, entry)
  if entry.paired and entry.value[2] ~= nil then
    core.raise(("%s: '%s' names several modules; write { \"%s\", { a, b } } for one after the other"):format(owner,
      entry.name, entry.name))
  end
  local found, why = module.from(entry.paired and entry.value[1] or entry.value)
  if not found then core.raise(("%s: '%s' is %s"):format(owner, entry.name, why)) end
  return { name = entry.name, place = entry.place, module = found }
end

local READERS = { parameters = read_declaration, buffers = read_declaration, children = read_child }

-- One list of a module's spec, checked; `taken` maps the names in use to what uses them.
local function read_entries(owner, what, given, taken)
  local list = {}
  for i, entry in ipairs(entries_of(owner, what, given or {})) do
    if not entry.name:match("^[%w_]+$") then
      core.raise(("%s: '%s' is no name: letters, digits and _ are"):format(owner, entry.name))
    elseif taken[entry.name] then
      core.raise(("%s: the name '%s' is taken twice (%s and %s)"):format(owner, entry.name, taken[entry.name], what))
    end
    taken[entry.name] = what
    list[i] = READERS[what](owner, entry, what)
  end
  return list
end

local constructors = {} -- functions that make modules → their names

-- Remember that f makes modules, to recognize it where a module is meant: pg.nn.relu for pg.nn.relu().
function module.remember(f, name)
  constructors[f] = name
end

-- What may stand where a module is expected: a module, a function of x, or a list for a sequential one. → the module,
-- or nil and what x is instead.
function module.from(x)
  if module.is(x) then return x end
  if type(x) == "table" and getmetatable(x) == nil then return module.sequential(x) end
  if type(x) ~= "function" then return nil, names.describe(x) .. ", not a module" end
  if constructors[x] then
    return nil, ("the function %s, not a module; call it: %s(…)"):format(constructors[x], constructors[x])
  end
  return module.new("function", { kind = "function", forward = function(_, input) return x(input) end, watched = x })
end

-- ---- the tree ----

-- Append declarations to `all` under their full names: name → place in the layout.
local function number_declarations(list, prefix, all)
  local index = {}
  for _, declared in ipairs(list) do
    all[#all + 1] = { name = prefix .. declared.name, declared = declared }
    index[declared.name] = #all
  end
  return index
end

-- The node of a module at a path, and those below it: { spec, path, place, parameters, buffers (name → number in the
-- layout), children (name → node) }.
local function grow(spec, path, place, tree)
  local prefix = path == "" and "" or path .. "."
  local node = { spec = spec, path = path, place = place, children = {} }
  node.parameters = number_declarations(spec.parameters, prefix, tree.parameters)
  node.buffers = number_declarations(spec.buffers, prefix, tree.buffers)
  local watched = spec.watched
  if type(watched) ~= "table" then watched = { watched } end
  table.move(watched, 1, #watched, #tree.watched + 1, tree.watched)
  for _, child in ipairs(spec.children) do
    node.children[child.name] = grow(child.module.spec, prefix .. child.name, child.place, tree)
  end
  return node
end

local function layout_of(list)
  local entries = {}
  for i, entry in ipairs(list) do entries[i] = { entry.name, entry.declared.shape } end
  return core.layout(entries)
end

-- The tree below a module as the root.
local function tree_of(spec)
  local tree = { parameters = {}, buffers = {}, watched = {} }
  tree.root = grow(spec, "", nil, tree)
  tree.layout = layout_of(tree.parameters)
  tree.buffer_layout = #tree.buffers > 0 and layout_of(tree.buffers) or nil
  return tree
end

-- ---- making modules ----

-- A module. given: kind (its name in messages and summaries), parameters, buffers, children, forward(self, x, ctx);
-- watched: the user's function that it computes with, or a list of them; takes_tensor: the input must be one;
-- keeps_memory: the result is the input's memory, seen otherwise; branch: which children make up a residual branch.
-- owner: for messages.
function module.new(owner, given)
  local taken = {}
  return module.assemble {
    kind = given.kind, forward = given.forward, watched = given.watched, takes_tensor = given.takes_tensor,
    keeps_memory = given.keeps_memory, branch = given.branch,
    parameters = read_entries(owner, "parameters", given.parameters, taken),
    buffers = read_entries(owner, "buffers", given.buffers, taken),
    children = read_entries(owner, "children", given.children, taken),
  }
end

-- A module from lists of declarations and children that have been read.
function module.assemble(spec)
  local tree = tree_of(spec)
  return setmetatable({ spec = spec, tree = tree, layout = tree.layout, buffer_layout = tree.buffer_layout }, Module)
end

-- The declarations { NAME = { shape… } } of `owner`, as module.assemble takes them.
function module.read_parameters(owner, given)
  return read_entries(owner, "parameters", given, {})
end

-- Modules one after the other.
function module.sequential(list)
  for name in next, list do
    if type(name) == "string" then
      core.raise(('pg.nn.sequential: its parts are in order; write { "%s", … } for %s = …'):format(name, name))
    end
  end
  local made
  made = module.new("pg.nn.sequential", {
    kind = "sequential", children = list,
    forward = function(self, x, ctx)
      for _, child in ipairs(made.spec.children) do x = self[child.name](x, ctx) end
      return x
    end,
  })
  return made
end

-- ---- methods of models ----

--- model.layout: Names and shapes of the parameters: of the vector that model:init makes.
--- model.buffer_layout: Names and shapes of the buffers; nil if the model has none.

-- What PyTorch's modules have and models do not → what to write.
local ELSEWHERE = {
  forward = "model(theta, x, ctx)", eval = "model(theta, x, { train = false })",
  train = "model(theta, x, { train = true })", state_dict = "model:init(key)", to = "model:init(key, dtype)",
  parameters = "model.layout", named_parameters = "model.layout", fit = "pg.train", predict = "model(theta, x)",
  zero_grad = "pg.grad", backward = "pg.grad",
}

local Model = names.guard({}, "a model", {
  prefix = "model:", lacks = { buffer_layout = true }, elsewhere = function(name) return ELSEWHERE[name] end,
})
module.methods, Module.__index = Model, Model

-- For each tensor the initializer of the longest of the given names that it ends in; then a name that fits no tensor,
-- and one that fits only tensors which its initializer cannot draw.
local function choose_initializers(entries, given)
  local chosen, unused, undrawn = {}, {}, {}
  for _, name in ipairs(names.sorted(given)) do
    unused[name], undrawn[name] = true, true
    init.check("model:init: '" .. name .. "'", given[name])
  end
  for i, entry in ipairs(entries) do
    local best
    for name in next, given do
      if entry.name == name or entry.name:sub(-#name - 1) == "." .. name then
        unused[name] = nil
        -- A bare "weight" means matrices and kernels where only those can be drawn; norms keep their own.
        local drawn = not init.needs_matrix(given[name]) or #entry.declared.shape >= 2 or name == entry.name
        if drawn then undrawn[name] = nil end
        if not best or #name > #best.name then best = { name = name, drawn = drawn } end
      end
    end
    if best and best.drawn then chosen[i] = given[best.name] end
  end
  return chosen, names.sorted(unused)[1], names.sorted(undrawn)[1]
end

-- All ends of names, at dots: "conv.weight", "weight".
local function ends_of(entries)
  local known = {}
  for _, entry in ipairs(entries) do
    for start in entry.name:gmatch("()[^.]+") do known[#known + 1] = entry.name:sub(start) end
  end
  return known
end

--- model:init(key[, dtype][, { NAME = initializer }]) → theta: Parameters, a vector drawn from key: each tensor from
-- key:fold(its name), so that a draw depends on nothing but the key and the name. dtype: "f32" by default. The table
-- replaces the layers' own initializers: for one tensor ("1.conv.weight") or for all whose names end so ("weight").
-- Initializers that need a matrix (he, glorot, orthogonal) leave tensors of one axis alone where they were not named
-- in full. Inside a traced function it draws from a traced key: pg.vmap of it gives the parameters of many models.
function Model:init(key, dtype, initializers)
  if type(dtype) == "table" then dtype, initializers = nil, dtype end
  if not core.is_tensor(key) or key.dtype ~= "key" then
    core.raise("model:init needs a key first, as pg.key(1), got " .. names.describe(key))
  end
  dtype = dtype or "f32"
  local entries, layout = self.tree.parameters, self.layout
  local chosen, unused, undrawn = choose_initializers(entries, initializers or {})
  if unused then
    core.raise(("model:init: no tensor's name is or ends in '%s'%s"):format(unused,
      options.hint(unused, ends_of(entries))))
  elseif undrawn then
    core.raise(("model:init: '%s' fits only tensors of one axis, and its initializer draws matrices"):format(undrawn))
  end
  local function draw(i)
    local entry = entries[i]
    return init.draw(entry.name, chosen[i], key:fold(entry.name), dtype, entry.declared)
  end
  if key.traced then
    local tensors = {}
    for i = 1, #entries do tensors[i] = draw(i) end
    return core.apply("pack", { layout = layout }, table.unpack(tensors))
  end
  local theta = core.vector(layout, dtype)
  for i = 1, #entries do theta:segment_set(i, draw(i)) end
  return theta
end

--- model:init_buffers([dtype]) → vector: The buffers (the running statistics of batch norm) as a run begins; nil if
-- the model has none.
function Model:init_buffers(dtype)
  local layout = self.buffer_layout
  if not layout then return nil end
  local buffers = core.vector(layout, dtype or "f32")
  for i, entry in ipairs(self.tree.buffers) do
    local declared = entry.declared
    buffers:segment_set(i, core.apply("full", { a = declared.shape, dtype = dtype or "f32" }, declared.init or 0))
  end
  return buffers
end

--- model(theta, x[, ctx]) → output: The forward function at parameters theta, a vector of model.layout. ctx: { train =,
-- key =, buffers =, update_buffers = }, as a loss gets it. If modules changed buffers, ctx.new_buffers holds them
-- afterwards, and another call with the same ctx goes on from there; a traced function returns them.
Module.__call = core.entry(function(self, theta, x, ctx)
  return call.run(self.tree, theta, x, ctx)
end)

-- The functions of users in it, whose captured values a trace of the model bakes in (fingerprint.lua).
function Module.__watch(self)
  return self.tree.watched
end

function Module.__tostring(self)
  return self:summary()
end

return module
