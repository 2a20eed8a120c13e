-- transform.lua: functions in, functions out: jit, grad, value_and_grad, vjp, jvp, hvp, hessian, stop_gradient, tap.
--
-- Inside an open trace a transformed function just extends it, which is why they compose to any order. Outside, its
-- call is traced once per signature of the arguments (dtypes, shapes, structure, strings and booleans), compiled,
-- and run. Numbers among the arguments are run-time inputs; captured numbers are baked in and watched
-- (fingerprint.lua).
local core = require "perigee.core"
local fingerprint = require "perigee.fingerprint"
local names = require "perigee.names"
local tree = require "perigee.tree"
local text = require "perigee.tensor_text"
local unit_vectors = require "perigee.unit_vectors"

local is_tensor = core.is_tensor
local M = {}

local function raise(format, ...)
  return core.raise(select("#", ...) > 0 and format:format(...) or format)
end

local function check_function(what, f)
  local meta = getmetatable(f)
  if type(f) ~= "function" and not (type(meta) == "table" and meta.__call) then
    raise("%s: a function was expected, got %s", what, names.describe(f))
  end
  return f
end

-- ---- jit ----

-- Trace f at these arguments and compile it. A results' tree has {output = k} in place of output k.
local Output = {}

local function build(f, args, opts)
  local trace <close> = core.trace()
  local lifted = { n = args.n }
  for i = 1, args.n do
    lifted[i] = tree.map(args[i], function(x)
      if type(x) == "number" then return trace:scalar() end
      return trace:input(x.dtype, x.layout or x.shape)
    end)
  end
  local results = table.pack(f(table.unpack(lifted, 1, lifted.n)))
  local outputs = {}
  for i = 1, results.n do
    results[i] = tree.map(results[i], function(x)
      if not is_tensor(x) or not x.traced then return x end
      outputs[#outputs + 1] = x
      return setmetatable({ output = #outputs }, Output)
    end)
  end
  if results.n == 0 then raise("jit: the function returned nothing") end
  local program = #outputs > 0 and trace:compile(outputs, { executor = opts and opts.executor }) or nil
  return { program = program, results = results, print = fingerprint.take(f) }
end

local function restore(x, outputs)
  if type(x) ~= "table" then return x end
  local meta = getmetatable(x)
  if meta == Output then return outputs[x.output] end
  if meta ~= nil then return x end
  local copy = {}
  for k, v in next, x do copy[k] = restore(v, outputs) end
  return copy
end

local function run(entry, ...)
  local results = entry.results
  if not entry.program then
    return table.unpack(results, 1, results.n)
  end
  if results.n == 1 and getmetatable(results[1]) == Output then return (entry.program:call(...)) end
  local outputs, restored = { entry.program:call(...) }, {}
  for i = 1, results.n do restored[i] = restore(results[i], outputs) end
  return table.unpack(restored, 1, results.n)
end

-- `inner` traced and compiled; `f` is the user's function whose captures are watched.
local function compiled(inner, f, opts)
  local entries = {}

  local function find(key, ...)
    local entry = entries[key]
    if not entry or not fingerprint.holds(entry.print) then
      entries[key] = nil
      entry = build(inner, table.pack(...), opts)
      entry.print = fingerprint.take(f)
      entries[key] = entry
    end
    return entry
  end

  return fingerprint.wrap(core.entry(function(...)
    if core.tracing() then return inner(...) end
    local key = core.signature(...)
    if key then return run(find(key, ...), ...) end
    local args, leaves, signature = table.pack(...), {}, {}
    for i = 1, args.n do tree.flatten(args[i], leaves, signature) end
    local entry = find("{" .. table.concat(signature, " "), ...)
    entry.statics = signature.statics -- their addresses stand in the key
    return run(entry, table.unpack(leaves))
  end), f)
end

--- pg.jit(f [, { executor = "auto" }]) → function: f as one compiled plan for each signature of its arguments.
-- f is traced once for each combination of dtypes, shapes, table structures, strings and booleans; numbers among the
-- arguments are run-time inputs (where one meets a tensor of whole numbers its fraction is cut off), captured numbers
-- are baked in and watched: when one changes, f is traced again.
-- Arguments and results are tensors, numbers and tables of them. executor: "auto", "interpret" or "generate" (C through
-- the system's compiler; same bits).
function M.jit(f, opts)
  if opts ~= nil then names.check("pg.jit", opts, { "executor" }) end
  return compiled(check_function("jit", f), f, opts)
end

-- ---- derivatives ----

-- The argument numbers to differentiate by.
local function wrt_of(what, opts)
  if opts ~= nil then names.check("pg." .. what, opts, { "wrt" }) end
  local wrt = opts and opts.wrt or { 1 }
  if type(wrt) == "number" then wrt = { wrt } end
  for _, i in ipairs(wrt) do
    if math.type(i) ~= "integer" or i < 1 then
      raise("%s: wrt lists argument numbers from 1, got %s", what, tostring(i))
    end
  end
  return wrt
end

-- Replace the arguments in wrt by marked ones. Returns the arguments, and the marks as trees and as a list.
local function mark_arguments(what, wrt, ...)
  local args, marks, leaves = table.pack(...), {}, {}
  for k, i in ipairs(wrt) do
    if i > args.n then raise("%s: there is no argument %d to differentiate by (%d were given)", what, i, args.n) end
    args[i] = tree.map(args[i], function(x)
      if is_tensor(x) and x.dtype ~= "f32" and x.dtype ~= "f64" then
        raise("%s: argument %d is %s; derivatives exist for f32 and f64 only", what, i, text.type(x))
      end
      local marked = core.mark(x)
      leaves[#leaves + 1] = marked
      return marked
    end)
    marks[k] = args[i]
  end
  if #leaves == 0 then raise("%s: there is no tensor to differentiate by", what) end
  return args, marks, leaves
end

-- Values put back in the shape of the marked arguments.
local function unflatten(marks, list)
  local next_leaf, result = 0, {}
  for k, marked in ipairs(marks) do
    result[k] = tree.map(marked, function()
      next_leaf = next_leaf + 1
      return list[next_leaf]
    end)
  end
  return result
end

local function check_loss(what, loss)
  if not is_tensor(loss) then
    raise("%s: the function must return a tensor computed from its arguments; it returned %s", what,
      names.describe(loss))
  end
  if loss.ndim ~= 0 then
    raise("%s: the loss must be a single number, of shape []; got %s: reduce it with :sum() or :mean()", what,
      text.type(loss))
  end
  return loss
end

-- Loss, gradients (a list like wrt) and the further results of f, as nodes of the current trace.
local function gradients(what, f, wrt, ...)
  local args, marks, leaves = mark_arguments(what, wrt, ...)
  local results = table.pack(f(table.unpack(args, 1, args.n)))
  local grads = core.vjp({ check_loss(what, results[1]) }, { false }, leaves)
  return results, unflatten(marks, grads), leaves, grads, marks
end

local function append(list, n, more, first, last)
  for i = first, last do
    n = n + 1
    list[n] = more[i]
  end
  return n
end

--- pg.value_and_grad(f [, { wrt = 1 }]) → function: The same arguments as f → its loss, one gradient for each argument
-- in wrt, then what else f returns.
-- f returns a loss of shape [] first. wrt: an argument's number or a list of them; an argument may be a vector, a
-- tensor or a table of them, and its gradient is alike.
function M.value_and_grad(f, opts)
  check_function("value_and_grad", f)
  local wrt = wrt_of("value_and_grad", opts)
  return compiled(function(...)
    local results, grads = gradients("value_and_grad", f, wrt, ...)
    local out = { results[1] }
    local n = append(out, 1, grads, 1, #wrt)
    n = append(out, n, results, 2, results.n)
    return table.unpack(out, 1, n)
  end, f, opts)
end

--- pg.grad(f [, { wrt = 1 }]) → function: The same arguments as f → one gradient for each argument in wrt, then what
-- f returns behind its loss. See pg.value_and_grad. May be nested to any order: pg.grad(pg.grad(f)).
function M.grad(f, opts)
  check_function("grad", f)
  local wrt = wrt_of("grad", opts)
  return compiled(function(...)
    local results, grads = gradients("grad", f, wrt, ...)
    local out = {}
    local n = append(out, 0, grads, 1, #wrt)
    n = append(out, n, results, 2, results.n)
    return table.unpack(out, 1, n)
  end, f, opts)
end

local function check_results(what, results)
  local leaves = {}
  for i = 1, results.n do tree.flatten(results[i], leaves) end
  for _, x in ipairs(leaves) do
    if not is_tensor(x) then raise("%s: the function must return tensors; it returned a number", what) end
  end
  if #leaves == 0 then
    raise("%s: the function must return tensors; it returned %s", what, names.describe(results[1]))
  end
  return leaves
end

--- pg.vjp(f [, { wrt = 1 }]) → function: (cotangent, …) → f(…), then <cotangent, df/dx> for each x of wrt, by reverse
-- mode. The cotangent is a tensor or table like f's first result.
function M.vjp(f, opts)
  check_function("vjp", f)
  local wrt = wrt_of("vjp", opts)
  return compiled(function(cotangent, ...)
    local args, marks, leaves = mark_arguments("vjp", wrt, ...)
    local results = { f(table.unpack(args, 1, args.n)), n = 1 }
    local ys, cts = check_results("vjp", results), {}
    tree.zip(results[1], cotangent, function(_, ct)
      cts[#cts + 1] = ct
      return ct
    end, "vjp: the cotangent")
    local grads = unflatten(marks, core.vjp(ys, cts, leaves))
    return results[1], table.unpack(grads, 1, #wrt)
  end, f, opts)
end

-- Tangents for the marked arguments: one tree for a single wrt, else a list of trees.
local function tangents_of(what, marks, v)
  local list = #marks == 1 and { v } or v
  local tangents = {}
  for k, marked in ipairs(marks) do
    if type(list) ~= "table" or list[k] == nil then
      raise("%s: a tangent for each argument in wrt was expected", what)
    end
    tree.zip(marked, list[k], function(_, x)
      tangents[#tangents + 1] = x
      return x
    end, what .. ": the tangent")
  end
  return tangents
end

--- pg.jvp(f [, { wrt = 1 }]) → function: (v, …) → f(…) and its derivative along v, by forward mode. v is a tensor or
-- table like the argument in wrt (a list of them if there are several).
function M.jvp(f, opts)
  check_function("jvp", f)
  local wrt = wrt_of("jvp", opts)
  return compiled(function(v, ...)
    local args, marks, leaves = mark_arguments("jvp", wrt, ...)
    local results = { f(table.unpack(args, 1, args.n)), n = 1 }
    local ys = check_results("jvp", results)
    local dys, i = core.jvp(leaves, tangents_of("jvp", marks, v), ys), 0
    return results[1], tree.map(results[1], function()
      i = i + 1
      return dys[i]
    end)
  end, f, opts)
end

-- The Hessian of f times v, as nodes of the current trace: a list like wrt.
local function hessian_vector(what, f, wrt, v, ...)
  local _, _, leaves, grads, marks = gradients(what, f, wrt, ...)
  return unflatten(marks, core.jvp(leaves, tangents_of(what, marks, v), grads))
end

--- pg.hvp(f [, { wrt = 1 }]) → function: (v, …) → the Hessian of the loss f(…) times v, by forward over reverse mode
-- (Pearlmutter 1994). v is a tensor or table like the argument in wrt.
function M.hvp(f, opts)
  check_function("hvp", f)
  local wrt = wrt_of("hvp", opts)
  return compiled(function(v, ...)
    return table.unpack(hessian_vector("hvp", f, wrt, v, ...), 1, #wrt)
  end, f, opts)
end

-- ---- the whole Hessian ----

local MOST_ROWS = 4096

-- The numbers of a tensor, or of a vector without pads, as one axis.
local function flat(x)
  return x.layout and x:flat() or x:reshape { x.size }
end

--- pg.hessian(f [, { wrt = 1 }]) → function: The same arguments as f → the whole Hessian, for up to 4096 numbers.
-- [n, n] by the numbers of x if it is a vector, else of x's shape twice.
function M.hessian(f, opts)
  check_function("hessian", f)
  local wrt = wrt_of("hessian", opts)
  if #wrt ~= 1 then raise("hessian: one argument to differentiate by") end
  return compiled(function(...)
    local x, args = select(wrt[1], ...), table.pack(...)
    if not is_tensor(x) then
      raise("hessian: argument %d must be a tensor or a vector, got %s", wrt[1], names.describe(x))
    end
    if x.size > MOST_ROWS then raise("hessian: %d numbers are too many (at most %d); use pg.hvp", x.size, MOST_ROWS) end
    local h = unit_vectors.over(x, function(e)
      return flat(hessian_vector("hessian", f, wrt, e, table.unpack(args, 1, args.n))[1])
    end)
    if x.layout or x.ndim == 1 then return h end
    local shape = x.shape
    for _, extent in ipairs(x.shape) do shape[#shape + 1] = extent end
    return h:reshape(shape)
  end, f, opts)
end

-- ---- inside traced functions ----

--- pg.stop_gradient(x): x, a tensor or a table of them, as a constant: no derivative flows back through it.
function M.stop_gradient(x)
  return tree.map(x, function(leaf)
    if is_tensor(leaf) and leaf.traced then return core.apply("stop", nil, leaf) end
    return leaf
  end)
end

--- pg.tap(x, fn): x itself; a derivative flowing back through it is replaced by fn(cotangent).
-- For gradient clipping inside a network, straight-through estimators and the like.
function M.tap(x, fn)
  check_function("tap", fn)
  return tree.map(x, function(leaf)
    if is_tensor(leaf) and leaf.traced then return core.tap(leaf, fn) end
    return leaf
  end)
end

return M
