-- lanczos.lua: Lanczos' method for a symmetric operator on vectors, with full reorthogonalization (twice, by modified
-- Gram-Schmidt: Parlett 1998, section 6.9), and what is read off its tridiagonal matrix. Knows no model and no loss.

local core = require "perigee.core"
local linalg = require "perigee.linalg"

local lanczos = {}

local function dot(x, y) return core.apply("sum", nil, x * y):item() end

-- Eigenvalues of the tridiagonal matrix, ascending; the first and the last entry of each eigenvector. diagonal, beside:
-- lists; beside may have one entry more.
function lanczos.decompose(diagonal, beside)
  local k, entries = #diagonal, {}
  for i = 1, k * k do entries[i] = 0 end
  for i = 1, k do
    entries[(i - 1) * k + i] = diagonal[i]
    if i < k then entries[(i - 1) * k + i + 1], entries[i * k + i] = beside[i], beside[i] end
  end
  local values, vectors = linalg.eigh(core.tensor("f64", { k, k }, entries))
  local rows = vectors:totable()
  return values:totable(), rows[1], rows[k]
end

local function orthogonalize(w, basis)
  for _ = 1, 2 do
    for _, v in ipairs(basis) do w = w - dot(w, v) * v end
  end
  return w
end

-- At most `steps` steps from a vector `start`; fewer when the space is exhausted or enough(diagonal, beside) says so
-- after a step. apply(v) → the operator times v, a new f64 vector. Returns diagonal and beside, lists; beside[k] is the
-- length of what is left after step k, 0 where the space is exhausted.
function lanczos.run(apply, start, steps, enough)
  local v = start / dot(start, start) ^ 0.5
  local basis, diagonal, beside, size = { v }, {}, {}, 0
  for k = 1, steps do
    local w = apply(v)
    diagonal[k] = dot(w, v)
    size = math.max(size, dot(w, w) ^ 0.5)
    w = orthogonalize(w, basis)
    local rest = dot(w, w) ^ 0.5
    beside[k] = rest > 1e-13 * size and rest or 0
    if beside[k] == 0 or enough and enough(diagonal, beside) then break end
    v = w / rest
    basis[k + 1] = v
  end
  return diagonal, beside
end

return lanczos
