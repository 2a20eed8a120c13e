-- Posterior correction on logistic regression: loss against passes over the data, each method beside its corrected
-- form.
--
--   perigee recipes/poco_logreg.lua                          a9a, 30 passes, 3 seeds
--   perigee recipes/poco_logreg.lua data=mnist               or w8a, synthetic, and any LIBSVM file of two classes
--   perigee recipes/poco_logreg.lua noise=false              without weight noise: exact Hessians at the mean
--   perigee recipes/poco_logreg.lua ess=100 antithetic=true  less weight noise; outer passes in mirrored pairs
--   perigee recipes/poco_logreg.lua part=floors              what keeps IVON-PoCo from where SVRG goes
--   perigee recipes/poco_logreg.lua part=sweep data=synthetic    strength × period × mega-batch
--
-- Posterior correction is one idea over every posterior (arXiv 2512.01930). So four methods of the same kind, each
-- plain and corrected by pg.correction.svrg; only the family of posteriors and the rule that moves its mean differ:
--
--   SGD   → SVRG         point × sgd: the posterior is its mean
--   VSGD  → VSGD-PoCo    isotropic × sgd: a Gaussian of fixed size. (Variational SGD; not the optimizer named VSGD.)
--   IVON  → IVON-PoCo    diagonal × ivon: a Gaussian with a diagonal precision that is learned
--   VON   → VON-PoCo     full × newton: a Gaussian with a whole precision matrix, for at most 800 parameters
--
-- The minimum F* is found first, to the last digits of double precision; a gap is F(mean) - F*. Steps are constant, the
-- power of two with the least mean of log10(gap) over the ends of the epochs (first seed; the grid grows until the best
-- one lies inside); curves are medians over seeds. A pass counts n gradients of one example: a corrected step takes
-- two for each, and an outer pass one more, so an epoch of a corrected method is three passes. Hessians of VON are
-- not counted as gradients; the table has them apart.

local pg = require "perigee"

local o = pg.options {
  part = { "figure", "floors", "sweep" }, data = "a9a", rows = 0, methods = "all",
  passes = 30.0, newton_passes = 12.0, seeds = 3, points = 12, batch = 0, l2 = 0.0,
  ess = 1.0, noise = true, antithetic = false, h0 = 0.1, beta2 = 0.9999, beta2_exact = 0.99,
}

local logistic = require "parts.logistic"

-- ---- the problem ----------------------------------------------------------------------------------------------------

-- What goes with a data set, unless it is given.
local DEFAULTS = {
  a9a = { batch = 128, l2 = 1e-3 }, w8a = { batch = 256, l2 = 1e-4 }, mnist = { batch = 200, l2 = 1e-3 },
  synthetic = { batch = 10, l2 = 5e-4 },
}
local default = DEFAULTS[o.data] or DEFAULTS.a9a
local batch = o.batch > 0 and o.batch or default.batch
local problem = logistic.load { data = o.data, rows = o.rows, l2 = o.l2 > 0 and o.l2 or default.l2 }
local minimum, is_small = problem.minimum, problem.parameters <= 800

print(("%s: %d examples, %d parameters, l2 = %g, batch %d"):format(o.data, problem.n, problem.parameters, problem.l2,
  batch))
print(("minimum F* = %.15g, |gradient| = %.1e after %d Hessian-vector products"):format(minimum.value, minimum.gradient,
  minimum.products))
if is_small then
  print(("condition number of the Hessian there: %.4g; scaled by its diagonal: %.4g"):format(problem:conditions()))
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

-- Families for options or what stands for them. The isotropic one's noise is that of IVON's posterior at its start.
-- noise = false: the loss at the mean, and exact Hessians there; or, with fixed, h as it begins.
local FAMILIES = {
  point = function() return pg.family.point {} end,
  isotropic = function(given)
    return pg.family.isotropic { sigma = (given.ess * problem.n * (o.h0 + problem.l2)) ^ -0.5 }
  end,
  diagonal = function(given)
    local ess, noise = given.ess * problem.n, given.noise
    if given.fixed then
      return pg.family.diagonal { ess = ess, h0 = o.h0, noise = noise, hess_approx = "gradsq", beta2 = 1 }
    end
    return pg.family.diagonal { ess = ess, h0 = o.h0, noise = noise, hess_approx = noise and "price" or "exact",
      beta2 = noise and given.beta2 or o.beta2_exact }
  end,
  full = function(given)
    return pg.family.full { ess = given.ess * problem.n, h0 = o.h0, noise = given.noise, beta2 = o.beta2_exact }
  end,
}

local RULES = {
  sgd = function(lr) return pg.rule.sgd { lr = lr } end,
  ivon = function(lr) return pg.rule.ivon { lr = lr, beta1 = 0, rescale_lr = false } end,
  newton = function(lr) return pg.rule.newton { lr = lr } end,
}

-- first: the exponent of the step at which the grid begins.
local METHODS = {
  { name = "SGD", family = "point", rule = "sgd", first = -3 },
  { name = "SVRG", family = "point", rule = "sgd", first = 0, is_corrected = true },
  { name = "VSGD", family = "isotropic", rule = "sgd", first = -3 },
  { name = "VSGD-PoCo", family = "isotropic", rule = "sgd", first = 0, is_corrected = true },
  { name = "IVON", family = "diagonal", rule = "ivon", first = -7 },
  { name = "IVON-PoCo", family = "diagonal", rule = "ivon", first = -3, is_corrected = true },
  { name = "VON", family = "full", rule = "newton", first = -8 },
  { name = "VON-PoCo", family = "full", rule = "newton", first = -4, is_corrected = true },
}

local function is_mirrored(method, given)
  -- a pass without weight noise has no mirror image
  return given.antithetic and given.noise and method.family ~= "point"
end

-- An optimizer of a method. more: what differs from the options: ess (in units of n), noise, fixed, antithetic, beta2,
-- and the correction's every, mega and alpha.
local function make(method, lr, more)
  local given = setmetatable(more or {}, { __index = function(_, name) return rawget(o, name) end })
  local correction
  if method.is_corrected then
    correction = pg.correction.svrg { every = given.every or pg.epochs(1), mega = given.mega or "full",
      alpha = given.alpha or 1, antithetic = is_mirrored(method, given) }
  end
  return pg.optimizer { weight_decay = problem.l2, family = FAMILIES[method.family](given),
    correction = correction, rule = RULES[method.rule](lr) }
end

-- Passes that an epoch of a method takes.
local function passes_of_epoch(method)
  if not method.is_corrected then return 1 end
  return is_mirrored(method, o) and 4 or 3
end

local part = { o = o, problem = problem, batch = batch, make = make, methods = METHODS,
  passes_of_epoch = passes_of_epoch }

require("parts.poco_" .. o.part)(part)
