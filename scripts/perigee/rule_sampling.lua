-- rule_sampling.lua: rules whose iterates, once they have forgotten where they began, are samples of a posterior:
-- stochastic gradient Langevin dynamics and Hamiltonian Monte Carlo, with and without a preconditioner. Noise comes
-- from ctx.key, so a resumed run draws the same.

local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local define = require("perigee.rule_class").define

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}

-- By what a step is scaled for each coordinate: RMSProp's 1 / (eps + root of the mean square), or by nothing (1).
local function preconditioner(g, s, o)
  if not o.precondition then return 1 end
  s.v = o.alpha * s.v + (1 - o.alpha) * (g * g)
  return 1 / (o.eps + generic.sqrt(s.v))
end

local LIMITS = { lr = NOT_NEGATIVE, ess = "(0, inf)", temperature = NOT_NEGATIVE, alpha = SHARE, eps = NOT_NEGATIVE }

--- pg.rule.sgld { ess =, lr = 1e-3, temperature = 1, precondition = false, alpha = 0.99, eps = 1e-5 } → rule:
-- Stochastic gradient Langevin dynamics (Welling & Teh 2011), whose samples are of exp(-ess / temperature (loss +
-- weight_decay |p|^2 / 2)); precondition: pSGLD (Li et al. 2016, arXiv 1512.07666).
--     v = alpha v + (1 - alpha) g^2;  G = 1 / (eps + sqrt(v)), with precondition, else 1
--     p = p - lr G (g + weight_decay p) + sqrt(2 lr temperature / ess G) z,  z ~ N(0, I)
-- ess: the number of examples, so that the loss, a mean over them, becomes a sum; lr ess is half the step size of the
-- paper. Weight decay: L2, the prior's precision over ess. pSGLD's term with the derivative of G is left out, as in its
-- authors' experiments. temperature = 0 is SGD.
M.sgld = define {
  name = "sgld",
  hyper = { ess = hyper.required, lr = 1e-3, temperature = 1, precondition = false, alpha = 0.99, eps = 1e-5 },
  limits = LIMITS,
  state = function(o) return o.precondition and { "v" } or {} end,
  eight_bit = { v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local G = preconditioner(stats.g, s, o)
    local noise = generic.sqrt(2 * o.lr * o.temperature / o.ess * G) * generic.normal_like(ctx.key, p)
    return p - o.lr * (G * (stats.g + ctx.weight_decay * p)) + noise
  end,
}

--- pg.rule.sghmc { ess =, lr = 1e-3, friction = 0.1, temperature = 1, precondition = false, alpha = 0.99, eps =
-- 1e-5 } → rule: Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin 2014, arXiv 1402.4102, equation 15,
-- with no estimate of the gradient's noise); precondition: with the inverse mass of pSGLD.
--     v, G as pg.rule.sgld
--     r = (1 - friction) r - lr G (g + weight_decay p) + sqrt(2 friction lr temperature / ess G) z;  p = p + r
-- Samples, ess and weight decay (L2) as in pg.rule.sgld. friction = 1 is SGLD; temperature = 0 SGD with momentum
-- 1 - friction.
M.sghmc = define {
  name = "sghmc",
  hyper = { ess = hyper.required, lr = 1e-3, friction = 0.1, temperature = 1, precondition = false, alpha = 0.99,
    eps = 1e-5 },
  limits = { lr = NOT_NEGATIVE, ess = "(0, inf)", friction = "(0, 1]", temperature = NOT_NEGATIVE, alpha = SHARE,
    eps = NOT_NEGATIVE },
  state = function(o) return o.precondition and { "r", "v" } or { "r" } end,
  eight_bit = { "r", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local G = preconditioner(stats.g, s, o)
    local noise = generic.sqrt(2 * o.friction * o.lr * o.temperature / o.ess * G) * generic.normal_like(ctx.key, p)
    s.r = (1 - o.friction) * s.r - o.lr * (G * (stats.g + ctx.weight_decay * p)) + noise
    return p + s.r
  end,
}

return M
