-- nn_call.lua: one call of a model. Owns what a forward function sees: `self`, the module at its place, with its
-- parameters, buffers and children by name, and `ctx`, whose key is the module's own; where new buffers are gathered;
-- and the path that errors are given.
--
-- Keys. ctx.key of a module is its parent's folded with its place (the number in a sequential, else the name); when
-- one module is called again in the same forward, also with -2, -3, …, so that no two calls draw alike.

local core = require "perigee.core"
local names = require "perigee.names"

local call = {}

-- Fields of our tables go by these, so that no name of a user's is taken.
local NODE, FRAME, SCOPE, OUTER, HANDLES, CALLS, PLACE, NUMBER = {}, {}, {}, {}, {}, {}, {}, {}

-- ---- ctx ----

local Scope = {}

local function fold(key, place)
  if type(place) == "string" then return key:fold(place) end
  return core.apply("key_fold", nil, key, place)
end

-- The key is folded each time, not kept: the place that asks may be the body of a loop, where values must not outlive
-- it.
function Scope.__index(scope, name)
  local value = rawget(scope, OUTER)[name]
  if name ~= "key" or value == nil then return value end
  local number = rawget(scope, NUMBER)
  value = fold(value, rawget(scope, PLACE))
  return number > 1 and fold(value, -number) or value
end

function Scope.__newindex(scope, name, value)
  if name == "key" then
    rawset(scope, name, value)
  else
    rawget(scope, OUTER)[name] = value
  end
end

local function scoped(outer, place, number)
  return setmetatable({ [OUTER] = outer, [PLACE] = place, [NUMBER] = number }, Scope)
end

-- ---- buffers ----

local function read_buffer(frame, i, name)
  local changed = frame.changed[i]
  if changed then return changed end
  if not frame.buffers then
    core.raise(("the buffer '%s' is needed, and ctx.buffers is missing: in a loss hand ctx on, net(theta, batch.x, "
      .. "ctx); elsewhere give { buffers = run.buffers }, or model:init_buffers()"):format(name))
  end
  return core.apply("view", { a = { i - 1 } }, frame.buffers)
end

-- Whether new values of buffers are kept: while training, unless the caller forbids it. Else they are let go.
local function keeps_buffers(frame)
  local ctx = frame.ctx
  return frame.buffers and ctx.train and ctx.update_buffers ~= false
end

-- For modules whose new buffers cost something: whether self's would be kept.
function call.keeps_buffers(self)
  return keeps_buffers(rawget(self, FRAME))
end

-- The vector of buffers after the call, or nil if none was changed.
local function new_buffers(frame)
  if next(frame.changed) == nil then return nil end
  local parts, layout = {}, frame.tree.buffer_layout
  for i = 1, #layout do parts[i] = read_buffer(frame, i) end
  return core.apply("pack", { layout = layout }, table.unpack(parts))
end

-- ---- self ----

local Bound = {}

-- A module as its parent's forward sees it: to be called, or asked for its parameters. outer: the parent's ctx.
local function handle(node, frame, outer)
  return setmetatable({ [NODE] = node, [FRAME] = frame, [OUTER] = outer, [HANDLES] = {}, [CALLS] = 0 }, Bound)
end

-- A module as its own forward sees it.
local function callee(node, frame, scope)
  return setmetatable({ [NODE] = node, [FRAME] = frame, [SCOPE] = scope, [HANDLES] = {} }, Bound)
end

local function known_names(node)
  local known = {}
  for _, list in ipairs { node.parameters, node.buffers, node.children } do
    for name in next, list do known[#known + 1] = name end
  end
  table.sort(known)
  return known
end

local function describe(node)
  if node.path == "" then return node.spec.kind end
  return ("%s (%s)"):format(node.path, node.spec.kind)
end

function Bound.__index(self, name)
  local node, frame = rawget(self, NODE), rawget(self, FRAME)
  if math.type(name) == "integer" then name = tostring(name) end
  local child = node.children[name]
  if child then
    local handles = rawget(self, HANDLES)
    if not handles[name] then
      handles[name] = handle(child, frame, rawget(self, SCOPE) or scoped(rawget(self, OUTER), node.place, 1))
    end
    return handles[name]
  elseif node.parameters[name] then
    return core.apply("view", { a = { node.parameters[name] - 1 } }, frame.theta)
  elseif node.buffers[name] then
    return read_buffer(frame, node.buffers[name], name)
  end
  return core.raise(names.unknown("name", name, "self", known_names(node)))
end

local function check_new_buffer(frame, i, name, value)
  local shape = frame.tree.buffer_layout[i].shape
  if core.is_tensor(value) and table.concat(value.shape, ",") == table.concat(shape, ",") then return end
  core.raise(("self.%s is a buffer of shape [%s]; it was given %s"):format(name, table.concat(shape, ", "),
    names.describe(value)))
end

function Bound.__newindex(self, name, value)
  local node, frame = rawget(self, NODE), rawget(self, FRAME)
  local i = node.buffers[name]
  if not i then
    core.raise(("self.%s cannot be set: forward keeps nothing but buffers"):format(tostring(name)))
  end
  check_new_buffer(frame, i, name, value)
  if keeps_buffers(frame) then frame.changed[i] = value end
end

function Bound.__tostring(self)
  return describe(rawget(self, NODE))
end

-- ---- calling ----

-- After a forward function: its results go on.
local function finish(frame, node, before, ...)
  if (...) == nil then core.raise("forward returned nothing; it must return the output") end
  frame.active = before
  if frame.observer then frame.observer.leave(node, ...) end
  return ...
end

local function enter(frame, node, x, scope)
  local before = frame.active
  frame.active = node
  if node.spec.takes_tensor and not core.is_tensor(x) then
    core.raise("the input must be a tensor, got " .. names.describe(x))
  end
  if frame.observer then frame.observer.enter(node, x) end
  return finish(frame, node, before, node.spec.forward(callee(node, frame, scope), x, scope))
end

-- self.child(x, ctx); without ctx, that of the parent. A C function (core.entry), so that `return self.child(x)` leaves
-- the caller's line to be found.
Bound.__call = core.entry(function(self, x, ctx)
  local node = rawget(self, NODE)
  if not rawget(self, OUTER) then
    core.raise("a module calls itself in its forward; call its children")
  end
  local number = rawget(self, CALLS) + 1
  rawset(self, CALLS, number)
  return enter(rawget(self, FRAME), node, x, scoped(ctx or rawget(self, OUTER), node.place, number))
end)

local function check_vector(what, x, layout, made_by)
  if core.is_tensor(x) and x.layout == layout then return x end
  return core.raise(("%s are a vector of %d tensors, %d numbers, as %s makes it; got %s"):format(what, #layout,
    layout.size, made_by, names.describe(x)))
end

-- The message of an error inside a forward function with the path of the module behind the line.
local function placed(frame, message)
  if type(message) ~= "string" or message:find("interrupted$") then return message end
  local where = core.where()
  if where == "" or message:sub(1, #where) ~= where then where = message:match("^[^\n]-:%d+: ") or "" end
  return where .. describe(frame.active) .. ": " .. message:sub(#where + 1)
end

-- New buffers → the ctx.buffers that they came from.
local origins = setmetatable({}, { __mode = "k" })

-- Called twice with one ctx, a model goes on from the buffers that the first call left; but not from those that came
-- from other buffers than ctx has now, or that were made in a trace which has ended.
local function buffers_of(ctx)
  local new = ctx.new_buffers
  local origin = origins[new or ctx]
  local stale = origin and not (rawequal(origin, ctx.buffers) and core.is_usable(new))
  return not stale and new or ctx.buffers
end

local function conclude(frame, ok, ...)
  if not ok then error((...), 0) end
  local buffers, ctx = new_buffers(frame), frame.ctx
  if buffers then
    origins[buffers] = ctx.buffers
    ctx.new_buffers = buffers
  end
  return ...
end

-- Call the root of a tree. observer: { enter(node, x), leave(node, results…) } or nil.
function call.run(tree, theta, x, ctx, observer)
  ctx = ctx or {}
  if type(ctx) ~= "table" then
    core.raise("ctx is a table, as a loss gets it or { train = true }, not " .. names.describe(ctx))
  end
  check_vector("a model's parameters", theta, tree.layout, "model:init(key)")
  local buffers = buffers_of(ctx)
  if buffers and tree.buffer_layout then
    check_vector("ctx.buffers", buffers, tree.buffer_layout, "model:init_buffers()")
    if buffers.dtype ~= theta.dtype then
      core.raise(("ctx.buffers are %s and the parameters %s; model:init_buffers takes a dtype"):format(buffers.dtype,
        theta.dtype))
    end
  end
  local frame = { tree = tree, theta = theta, ctx = ctx, buffers = buffers, changed = {}, active = tree.root,
    observer = observer }
  return conclude(frame, xpcall(enter, function(message)
    return placed(frame, message)
  end, frame, tree.root, x, ctx))
end

return call
