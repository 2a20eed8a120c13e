-- modes.lua: a tensor along its axes, as Shampoo and SOAP see it: products of matrices with each axis, and vectors that
-- hold a square matrix for each axis of each tensor. Axes that are longer than a limit have none.

local core = require "perigee.core"
local tensors = require "perigee.tensors"

local modes = {}

-- The axes of a shape that have matrices. o: max_size, and vectors, whether tensors with one axis have any.
function modes.of(shape, o)
  local axes = {}
  if #shape > 1 or o.vectors then
    for axis, extent in ipairs(shape) do
      if extent <= o.max_size then axes[#axes + 1] = axis end
    end
  end
  return axes
end

-- A tensor as a matrix with a row for each index of an axis.
local function unfold(x, axis) return x:transpose(1, axis):reshape(x.shape[axis], -1) end

-- The product of a matrix [extent, extent] with an axis of a tensor.
function modes.multiply(matrix, x, axis)
  if x.ndim == 1 then return matrix:matmul(x:reshape(-1, 1)):reshape(-1) end
  local moved = x:transpose(1, axis)
  return matrix:matmul(unfold(x, axis)):reshape(moved.shape):transpose(1, axis)
end

-- The inner products of the slices of a tensor across an axis.
function modes.gram(x, axis)
  local rows = x.ndim == 1 and x:reshape(-1, 1) or unfold(x, axis)
  return rows:matmul(rows:t())
end

-- A zero vector with a matrix for each such axis of theta's tensors; a single 0 where there is none.
function modes.zeros(theta, o)
  local entries, layout = {}, theta.layout
  for i = 1, #layout do
    for _, axis in ipairs(modes.of(layout[i].shape, o)) do
      local extent = layout[i].shape[axis]
      entries[#entries + 1] = { ("%s, axis %d"):format(layout[i].name, axis), { extent, extent } }
    end
  end
  if #entries == 0 then return core.tensor(theta.dtype, {}, { 0 }) end
  return core.vector(core.layout(entries), theta.dtype)
end

-- f(tensor of x, axis, j) for each such axis, after the other: f gives the tensor anew. j: the number of the axis's
-- matrix in a vector of modes.zeros. The vector of the results.
function modes.fold(x, o, f)
  local j = 0
  return tensors.map(x, function(one, entry)
    for _, axis in ipairs(modes.of(entry.shape, o)) do
      j = j + 1
      one = f(one, axis, j)
    end
    return one
  end)
end

-- The vector of matrices f(matrix of `matrices`, tensor of x, axis, j).
function modes.update(matrices, x, o, f)
  local list, layout = {}, x.layout
  if not matrices.layout then return matrices end
  for i = 1, #layout do
    for _, axis in ipairs(modes.of(layout[i].shape, o)) do
      local j = #list + 1
      list[j] = f(tensors.view(matrices, j), tensors.view(x, i), axis, j)
    end
  end
  return tensors.pack(matrices.layout, list)
end

return modes
