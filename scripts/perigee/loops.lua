-- loops.lua: scan, while_loop, remat and vmap: functions of trees of tensors, traced once into a body that the engine
-- repeats. Bodies may use tensors and numbers of the code around them.
local core = require "perigee.core"
local fingerprint = require "perigee.fingerprint"
local transform = require "perigee.transform"
local read_options = require("perigee.tensor_args").read_options
local tree = require "perigee.tree"

local is_tensor = core.is_tensor
local M = {}

local function raise(format, ...)
  return core.raise(format:format(...))
end

-- The tensors of a tree in order.
local function leaves_of(what, x)
  local leaves = {}
  tree.flatten(x, leaves)
  for _, leaf in ipairs(leaves) do
    if not is_tensor(leaf) then raise("%s: a tensor was expected, got a number: use pg.tensor(x, dtype)", what) end
  end
  return leaves
end

-- The tree x with its tensors replaced by those of a list.
local function fill(x, list)
  local i = 0
  return tree.map(x, function()
    i = i + 1
    return list[i]
  end)
end

-- A function of trees that works inside a trace, as one that outside compiles itself, once for each function given.
local function anywhere(inline)
  local compiled = setmetatable({}, { __mode = "k" })
  return function(f, ...)
    if core.tracing() then return inline(f, ...) end
    if not compiled[f] then
      compiled[f] = transform.jit(fingerprint.wrap(function(...) return inline(f, ...) end, f))
    end
    return compiled[f](...)
  end
end

-- ---- scan ----

local function scan_inline(f, carry, xs, reverse)
  local carries, slices = leaves_of("scan", carry), leaves_of("scan", xs)
  if #slices == 0 then raise("scan: at least one tensor to go over is needed") end
  local length = slices[1].shape[1]
  for _, x in ipairs(slices) do
    if x.ndim == 0 or x.layout or x.shape[1] ~= length then
      raise("scan: the tensors to go over differ in their first axis (%s against %s)", tostring(x.shape[1]),
        tostring(length))
    end
  end
  local y_tree
  local last, ys = core.scan(function(carry_list, slice_list)
    local new, y = f(fill(carry, carry_list), fill(xs, slice_list))
    y_tree = y
    local new_list = leaves_of("scan: the new carry", new)
    if #new_list ~= #carry_list then
      raise("scan: the function returned a carry of %d tensors for one of %d", #new_list, #carry_list)
    end
    return new_list, y == nil and {} or leaves_of("scan: the outputs", y)
  end, carries, slices, length, reverse == true)
  return fill(carry, last), y_tree ~= nil and fill(y_tree, ys) or nil
end

local scan_anywhere = anywhere(scan_inline)

--- pg.scan(f, carry, xs [, { reverse = false }]) → carry, ys: carry, y = f(carry, x) for x = xs[1], xs[2], …: the last
-- carry, and the ys along a new first axis.
-- carry, xs and y are tensors or tables of them; the xs share their first extent. Differentiable to any order; memory
-- grows with the number of steps. reverse = true goes backwards.
function M.scan(f, carry, xs, opts)
  return scan_anywhere(f, carry, xs, read_options("pg.scan", opts, { reverse = false }).reverse)
end

-- ---- while ----

local pairs_of = setmetatable({}, { __mode = "k" }) -- f → cond → the function that has both

local function while_inline(both, carry)
  local list = core.while_loop(function(carry_list)
    local going = both.cond(fill(carry, carry_list))
    if not is_tensor(going) then raise("while_loop: the condition must return a mask such as x:lt(y)") end
    return { going }
  end, function(carry_list)
    return leaves_of("while_loop", both.f(fill(carry, carry_list)))
  end, leaves_of("while_loop", carry))
  return fill(carry, list)
end

--- pg.while_loop(cond, f, carry) → carry: carry = f(carry) while cond(carry), a mask of shape [], holds.
-- There is no derivative in reverse mode, since the number of rounds is not known beforehand: an error says so.
function M.while_loop(cond, f, carry)
  local both = { cond = cond, f = f }
  if core.tracing() then return while_inline(both, carry) end
  local made = pairs_of[f] and pairs_of[f][cond]
  if not made then
    local captures = function(x) return cond(f(x)) end
    made = transform.jit(fingerprint.wrap(function(x) return while_inline(both, x) end, captures))
    pairs_of[f] = pairs_of[f] or setmetatable({}, { __mode = "k" })
    pairs_of[f][cond] = made
  end
  return made(carry)
end

-- ---- rematerialization ----

--- pg.remat(f) → function: f, whose inner values are not kept for the derivative but computed again when it needs
-- them: less memory for about one more forward pass of f.
function M.remat(f)
  return fingerprint.wrap(core.entry(function(...)
    if not core.tracing() then return f(...) end
    local args, operands = table.pack(...), {}
    for i = 1, args.n do
      for _, leaf in ipairs(leaves_of("remat", args[i])) do operands[#operands + 1] = leaf end
    end
    local shape
    local results = core.remat(function(list)
      local at, given = 0, {}
      for i = 1, args.n do
        given[i] = tree.map(args[i], function()
          at = at + 1
          return list[at]
        end)
      end
      shape = table.pack(f(table.unpack(given, 1, args.n)))
      local out = {}
      for i = 1, shape.n do
        for _, leaf in ipairs(leaves_of("remat", shape[i])) do out[#out + 1] = leaf end
      end
      return out, {}
    end, operands)
    local at, out = 0, {}
    for i = 1, shape.n do
      out[i] = tree.map(shape[i], function()
        at = at + 1
        return results[at]
      end)
    end
    return table.unpack(out, 1, shape.n)
  end), f)
end

-- ---- vmap ----

-- Axis `axis` (from 1) first. Of a vector it is the first axis of its tensors.
local function axis_first(x, axis)
  if axis == 1 then return x end
  if x.layout then raise("vmap: of a vector, the first axis of its tensors is mapped over: axis 1, not %s", axis) end
  local ndim = x.ndim
  local from = axis < 0 and axis + ndim + 1 or axis
  if from < 1 or from > ndim then raise("vmap: axis %s of a tensor of %d axes", axis, ndim) end
  local perm = { from }
  for i = 1, ndim do if i ~= from then perm[#perm + 1] = i end end
  return x:transpose(perm)
end

-- How many entries there are along the first axis of x.
local function extent_of(x)
  if not x.layout then return x.shape[1] end
  return #x.layout > 0 and x.layout[1].shape[1] or nil
end

-- The arguments that are mapped, their axes first, as a list of trees by number, with the leaves and their extent.
local function mapped_arguments(axes, args)
  local mapped = {}
  for i = 1, args.n do
    local axis = axes == nil and 1 or axes[i]
    if axis then
      leaves_of("vmap", args[i])
      mapped[i] = tree.map(args[i], function(x) return axis_first(x, axis) end)
    end
  end
  local leaves = leaves_of("vmap", mapped)
  if #leaves == 0 then raise("vmap: at least one argument to go over is needed") end
  local size = extent_of(leaves[1])
  for _, x in ipairs(leaves) do
    if x.weak then raise("vmap: tensors are gone over, not numbers: pass them with axis false, or as pg.tensor") end
    if extent_of(x) ~= size then
      raise("vmap: the tensors to go over differ in the axis that is mapped (%s against %s)", tostring(extent_of(x)),
        tostring(size))
    end
  end
  return mapped, leaves, size or 0
end

local function vmap_inline(f, axes, ...)
  local args = table.pack(...)
  local mapped, leaves, size = mapped_arguments(axes, args)
  local results
  local list = core.vmap(function(_, slices)
    local filled, given = fill(mapped, slices), {}
    for i = 1, args.n do
      given[i] = args[i]
      if mapped[i] ~= nil then given[i] = filled[i] end
    end
    results = { f(table.unpack(given, 1, args.n)) }
    return leaves_of("vmap: the results", results), {}
  end, leaves, size)
  return table.unpack(fill(results, list))
end

--- pg.vmap(f [, axes]) → function: f over an axis of each argument, results along a new first axis: what calling f on
-- each entry gives, computed for all of them at once.
-- axes: one entry for each argument, as {1, false, 1}: an axis, or false for the whole argument each time; default 1
-- for all. A vector is mapped over the first axis of its tensors, and a vector among the results has such tensors:
-- pg.vmap(function(key) return model:init(key) end)(keys) are the parameters of as many models, over which axis 1 of
-- another pg.vmap goes. Keys give each entry the draws that it has alone. Composes with pg.grad, pg.jit, pg.scan and
-- itself. Memory is that of all entries at once: to go over many in pieces, call it in the body of pg.scan. A
-- pg.while_loop goes on until no entry wants to.
function M.vmap(f, axes)
  return transform.jit(fingerprint.wrap(function(...) return vmap_inline(f, axes, ...) end, f))
end

return M
