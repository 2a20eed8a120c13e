-- stability.lua: how large a learning rate lets SGD stay at a minimum that fits every example, for square losses. For
-- recipes: local stability = require "parts.stability".
--
-- With J [n, parameters] the gradients of the n outputs and K = J J', a step of SGD on the mean of (f - y)^2 / 2 over a
-- batch of B moves the residuals e = f - y, near such a minimum, by
--     e ← e - lr / B K S e,  S the diagonal matrix of the batch's rows
-- For batches drawn without replacement the mean of e e' becomes M - lr C(M) + lr^2 D(M), where
--     C(M) = (K M + M K) / n,  D(M) = (1 - p) K M K / n^2 + p K diag(M) K / n,  p = (n - B) / (B (n - 1))
-- and stays bounded while lr times the largest eigenvalue of T(M) = C^-1(D(M)) is at most 1 (Mulayoff & Michaeli 2024,
-- arXiv 2306.07850, who say it in the parameters). B = n: lr lambda <= 2, lambda the largest eigenvalue of H = K / n.
-- B = 1 and a constant diagonal of K: lr trace(H) <= 2, since T then takes that matrix to itself which C takes to K^2.

local pg = require "perigee"

local stability = {}

-- The weight of a single example's step in a batch's, p.
function stability.share(n, batch) return n == batch and 0 or (n - batch) / (batch * (n - 1)) end

-- K = U diag(k) U' from J, and the largest eigenvalue and the trace of H = K / n.
function stability.linearize(gradients)
  local n = gradients.shape[1]
  local k, u = pg.linalg.eigh(gradients:matmul(gradients:t()))
  return { n = n, k = k:maximum(0), u = u, lambda = k:max():item() / n, trace = k:sum():item() / n }
end

-- T(m) in the coordinates U, where K is diagonal and C divides by n / (k_i + k_j): over its size, and its size.
local apply = pg.jit(function(m, k, u, p)
  local n = k.shape[1]
  local diagonal = (u:matmul(m) * u):sum(2):unsqueeze(2)
  local pushed = (1 - p) * m / n + p * u:t():matmul(diagonal * u)
  local sums = k:unsqueeze(2) + k:unsqueeze(1)
  local out = pg.where(sums:gt(0), k:unsqueeze(2) * pushed * k:unsqueeze(1) / sums:maximum(1e-300), 0)
  local size = out:norm()
  return out / size, size
end)

-- lr*, the largest rate at which batches of this size are stable in mean square at a point of stability.linearize; by
-- the power method, since T takes positive semidefinite matrices to such.
function stability.largest_rate(at, batch)
  local m, size, before = pg.eye(at.n, { dtype = at.k.dtype }), nil, 0
  for _ = 1, 1000 do
    m, size = apply(m, at.k, at.u, stability.share(at.n, batch))
    if math.abs(size:item() - before) < 1e-10 * before then break end
    before = size:item()
  end
  return 1 / size:item()
end

return stability
