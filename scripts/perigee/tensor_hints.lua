-- tensor_hints.lua: what is said when a tensor is asked for something it does not have: x.T, x:backward(), x[mask], a
-- misspelt tensor of a vector. Only messages; tensor.lua raises them.

local core = require "perigee.core"
local names = require "perigee.names"
local text = require "perigee.tensor_text"

local M = {}

-- PyTorch's and NumPy's names → what to write here.
local ELSEWHERE = {
  T = "x:t()", mT = "x:t()", permute = "x:transpose({2, 1})", swapaxes = "x:transpose(1, 2)", numel = "x.size",
  dim = "x.ndim", detach = "pg.stop_gradient(x)", numpy = "x:totable()", tolist = "x:totable()",
  clamp = "x:clip(low, high)",
  astype = 'x:to("f64")', type = "x.dtype", float = 'x:to("f32")', double = 'x:to("f64")', long = 'x:to("i64")',
  int = 'x:to("i32")', bool = "x:ne(0)", half = 'x:to("f32")', cpu = 'x:to("cpu")',
  cuda = "x itself: this build computes on the cpu",
  backward = "pg.grad(f), the gradient of a function", grad = "pg.grad(f), the gradient of a function",
  requires_grad = "pg.grad(f), the gradient of a function", mm = "x:matmul(y)", bmm = "x:matmul(y)",
  expand = "x:broadcast_to(shape)", index_select = "x:take(indices)", masked_fill = "pg.where(mask, value, x)",
  masked_select = "pg.where(mask, x, 0)", cat = "pg.concat({x, y})", len = "#x", view_as = "x:reshape(shape)",
  data = "x itself: tensors are values", contiguous = "x itself: tensors are values",
  copy_ = "y itself: tensors are values",
}

-- What was meant by a method or property `name` that tensors lack, or nil.
local function meant_by(name)
  if ELSEWHERE[name] then return ELSEWHERE[name] end
  local base = name:match("^(.+)_$")
  if base and core.methods[base] then return ("x = x:%s(…): tensors are values"):format(base) end
  local near = names.meant(name, names.sorted(core.methods))
  return near and near:sub(1, 1) ~= "_" and ("x:%s(…)"):format(near) or nil
end

local function unknown_segment(layout, name)
  local known = {}
  for i = 1, #layout do known[i] = layout[i].name end
  local near = names.meant(name, known)
  return ('the vector has no tensor "%s"%s'):format(name, near and ('; did you mean "%s"?'):format(near) or
    (" (it has: %s)"):format(table.concat(known, ", ", 1, math.min(#known, 12)) .. (#known > 12 and ", …" or "")))
end

M.unknown_segment = unknown_segment

-- The sentence for x[key], x.key or x:key() where there is none.
function M.unknown(x, key)
  if core.is_tensor(key) then
    if key.dtype == "bool" then return "a mask is no index: pg.where(mask, a, b) chooses by it" end
    return ("an index is a plain number, got a tensor %s; x:take(indices) takes those, counted from 0")
      :format(text.type(key))
  elseif type(key) == "table" then
    return "an index is a number; x:slice({first, last}) takes a range, x:take({0, 2}) several entries"
  elseif type(key) ~= "string" then
    return ("an index is an integer, got %s"):format(tostring(key))
  end
  local meant = meant_by(key)
  if x.layout and not meant then return unknown_segment(x.layout, key) end
  return ("tensors have no method or property '%s'%s"):format(key, meant and ("; did you mean %s?"):format(meant) or "")
end

return M
