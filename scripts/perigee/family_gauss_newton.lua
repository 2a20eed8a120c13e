-- family_gauss_newton.lua: the definition of the family whose Hessian diagonal is that of the Gauss-Newton matrix,
-- estimated now and then by gradients on labels that are drawn from the model: Sophia-G's.

local generic = require "perigee.generic"
local vectors = require "perigee.vectors"

return {
  name = "gauss_newton",
  stats = { "g", "h" },
  hyper = { h0 = 0, beta2 = 0.99, every = 10 },
  static = { "every" },
  limits = { h0 = "[0, inf)", beta2 = "[0, 1]", every = "[1, inf)" },
  fits = function(o)
    if o.every == 1 then return nil end
    return "a corrected h needs one in each step and for each batch of a pass: every = 1"
  end,
  init = function(theta, o) return { mean = theta, h = vectors.full_like(theta, o.h0) } end,
  sample = function(q) return q.mean end,
  statistics = function(g, _, _, o, curvature) return { g = g, h = curvature:gauss_newton(o.every) } end,
  update = function(q, stats, o, ctx)
    local moved = o.beta2 * q.h + (1 - o.beta2) * stats.h
    q.h = o.every == 1 and moved or generic.where(generic.falls_on(ctx.t - 1, o.every), moved, q.h)
  end,
}
