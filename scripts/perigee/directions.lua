-- directions.lua: what rules on matrices make of a gradient: matrices that are orthogonal, white or balanced, whatever
-- the gradient's size. Matrices have a row for each output; eager and traced.

local tensors = require "perigee.tensors"

local directions = {}

-- Below every length of a gradient that is not 0: what is 0 and divided by it stays 0.
directions.TINY = 1e-30

local FLOOR = 1e-8

-- f of a matrix with no more rows than columns: the matrix or its transpose.
local function as_wide(x, f)
  if x.shape[1] <= x.shape[2] then return f(x) end
  return f(x:t()):t()
end

function directions.length(x) return (x * x):sum():sqrt() end

-- A matrix made nearly orthogonal by Newton-Schulz steps of degree 5: singular values end between 0.7 and 1.2. It is
-- first divided by its length + eps; is_bound: by the larger one of them.
function directions.orthogonalize(x, steps, eps, is_bound)
  local a, b, c = 3.4445, -4.7750, 2.0315
  return as_wide(x, function(wide)
    local length = directions.length(wide)
    local y = wide / (is_bound and length:maximum(eps) or length + eps)
    for _ = 1, steps do
      local square = y:matmul(y:t())
      y = a * y + (b * square + c * square:matmul(square)):matmul(y)
    end
    return y
  end)
end

-- Each row with mean 0 and standard deviation 1; center = false: with mean square 1.
function directions.standardize_rows(x, center)
  local around = center == false and x or x - x:mean(2, true)
  return around / (around * around):mean(2, true):sqrt():maximum(directions.TINY)
end

-- (X X^T)^(-1/2) X by Newton-Schulz steps, which beta = 1/2 makes converge.
function directions.whiten(x, steps, beta)
  return as_wide(x / directions.length(x):maximum(directions.TINY), function(wide)
    local y, z = wide:matmul(wide:t()), tensors.eye(wide.shape[1], wide)
    local three = 3 * z
    for _ = 1, steps do
      local t = three - z:matmul(y)
      y, z = beta * y:matmul(t), beta * t:matmul(z)
    end
    return z:matmul(wide)
  end)
end

-- Rows of length sqrt(columns), then columns of length sqrt(rows), again and again.
function directions.balance(x, sweeps)
  local row, column = math.sqrt(x.shape[2]), math.sqrt(x.shape[1])
  for _ = 1, sweeps do
    x = x * (row / (x * x):sum(2, true):sqrt():maximum(FLOOR))
    x = x * (column / (x * x):sum(1, true):sqrt():maximum(FLOOR))
  end
  return x
end

return directions
