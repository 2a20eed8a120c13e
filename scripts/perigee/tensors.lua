-- tensors.lua: the tensors of a vector one by one, for rules that need shapes: products of matrices, sums over rows.
-- Views cost nothing; what comes back is put together as one vector.

local core = require "perigee.core"

local tensors = {}

-- Tensor number i (1-based) of a vector, in its shape.
function tensors.view(x, i) return core.apply("view", { a = { i - 1 } }, x) end

-- Of a vector tensor number i; anything else, as a number for all tensors, as it is.
function tensors.part(x, i)
  return core.is_tensor(x) and x.layout and tensors.view(x, i) or x
end

-- The vector of a layout made of its tensors, a list.
function tensors.pack(layout, list) return core.apply("pack", { layout = layout }, table.unpack(list)) end

-- The vector like x with f(tensor of x, entry of the layout, i, tensors of further vectors of that layout …) for each.
function tensors.map(x, f, ...)
  local layout, list, others = x.layout, {}, { ... }
  for i = 1, #layout do
    local more = {}
    for k, y in ipairs(others) do more[k] = tensors.view(y, i) end
    list[i] = f(tensors.view(x, i), layout[i], i, table.unpack(more))
  end
  return tensors.pack(layout, list)
end

--- tensor:map_tensors(f [, y …]): The vector whose tensors are f(tensor, name, tensor of y …) for each tensor of this
-- vector and of others with its layout, in their shapes: for rules and stages that treat matrices by rows.
function core.methods.map_tensors(x, f, ...)
  if not x.layout then core.raise("map_tensors: a vector was expected, whose tensors have names") end
  return tensors.map(x, function(one, entry, _, ...) return f(one, entry.name, ...) end, ...)
end

-- A zero vector with a tensor for each of theta's tensors for which shape_of(shape, name) is not nil, of that shape; a
-- single 0 where there is none.
function tensors.zeros(theta, shape_of)
  local entries, layout = {}, theta.layout
  for i = 1, #layout do
    local shape = shape_of(layout[i].shape, layout[i].name)
    if shape then entries[#entries + 1] = { layout[i].name, shape } end
  end
  if #entries == 0 then return core.tensor(theta.dtype, {}, { 0 }) end
  return core.vector(core.layout(entries), theta.dtype)
end

-- Those tensors of a vector whose numbers are listed, as a vector of their own; nil for an empty list.
function tensors.take(x, numbers)
  local entries, list, layout = {}, {}, x.layout
  if #numbers == #layout then return x end
  for j, i in ipairs(numbers) do entries[j], list[j] = { layout[i].name, layout[i].shape }, tensors.view(x, i) end
  return #entries > 0 and tensors.pack(core.layout(entries), list) or nil
end

-- Whether a shape is that of a matrix, or of a stack that can be seen as one: the kernels of a convolution.
function tensors.is_matrix(shape) return #shape >= 2 end

-- A tensor with at least two axes as a matrix with a row for each output, and the function that brings it back. 2-D
-- weights have their outputs in "columns", as pg.nn.linear, or in "rows", as PyTorch; others on their first axis.
function tensors.as_matrix(x, outputs)
  local shape = x.shape
  if #shape > 2 then
    return x:reshape(shape[1], -1), function(y) return y:reshape(shape) end
  elseif outputs == "columns" then
    return x:t(), function(y) return y:t() end
  end
  return x, function(y) return y end
end

-- The identity [n, n] of like's dtype.
function tensors.eye(n, like) return core.apply("eye", { a = { n }, dtype = like.dtype }) end

return tensors
