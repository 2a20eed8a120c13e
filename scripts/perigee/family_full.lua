-- family_full.lua: the definition of pg.family.full: a Gaussian with a whole precision matrix, for problems of at most
-- some thousand parameters. Formulas: variational online Newton (Khan et al. 2018, arXiv 1806.04854) and its posterior
-- correction (Daheim et al. 2025, arXiv 2512.01930).

local core = require "perigee.core"
local curvature = require "perigee.curvature"
local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local linalg = require "perigee.linalg"
local names = require "perigee.names"
local noises = require "perigee.family_noise"
local tensor_args = require "perigee.tensor_args"
local vectors = require "perigee.vectors"

local full = {
  name = "full",
  stats = { "g", "H" },
  hyper = { ess = hyper.required, h0 = 1, beta2 = 0.99, hess_approx = "exact", noise = true, guard = true },
  limits = { ess = "(0, inf)", h0 = "[0, inf)", beta2 = "[0, 1]" },
}

function full.check(o)
  names.choice("family full: hess_approx", o.hess_approx, { "exact", "price" })
  if not o.noise and o.hess_approx == "price" then
    core.raise('family full: Price\'s estimate is a product with the noise; noise = false needs hess_approx = "exact"')
  end
end

function full.shapes(theta)
  return { H = { theta.size, theta.size } }
end

function full.init(theta, o)
  curvature.check_size("family full", theta, function(n)
    return ("%d bytes for each of its matrices [%d, %d]"):format(n * n * tensor_args.bytes[theta.dtype], n, n)
  end)
  return { mean = theta, H = vectors.add_to_diagonal(core.tensor(theta.dtype, { theta.size, theta.size }), o.h0) }
end

-- With L L^T = H + decay: L^-T eps has the covariance (H + decay)^-1.
function full.sample(q, key, o, sign)
  if not o.noise then
    return q.mean
  end
  local noise = { eps = noises.normal(key, q.mean, sign):flat(),
    factor = linalg.cholesky(vectors.add_to_diagonal(q.H, o.weight_decay)) }
  local step = linalg.solve_triangular(noise.factor, noise.eps, { transpose = true })
  return q.mean + vectors.unflatten(step / generic.sqrt(o.ess), q.mean), noise
end

function full.statistics(g, noise, _, o, curve)
  if o.hess_approx == "exact" then
    return { g = g, H = curve:matrix() }
  end
  -- ess (H + decay) (theta - mean) = sqrt(ess) L eps
  local pull = generic.sqrt(o.ess) * noise.factor:matmul(noise.eps)
  local product = pull:outer(g:flat())
  return { g = g, H = 0.5 * (product + product:t()) }
end

function full.update(q, stats, o)
  local rate, old = 1 - o.beta2, q.H
  q.H = o.beta2 * old + rate * stats.H
  if o.guard then
    local factor = linalg.cholesky(vectors.add_to_diagonal(old, o.weight_decay))
    local half = linalg.solve_triangular(factor, old - stats.H)
    q.H = q.H + (0.5 * rate ^ 2) * half:t():matmul(half)
  end
end

return full
