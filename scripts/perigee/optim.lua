-- optim.lua: the usual names, ready-made: each is a cell of family x correction x rule. Options are sorted to the
-- part that has them; weight_decay, stages and dtype go to the optimizer.

local correction = require "perigee.correction"
local family = require "perigee.family"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local rule = require "perigee.rule"

local optim = {}

local SHARED = { "weight_decay", "stages", "dtype" }
local SGD = { "lr", "momentum", "dampening", "nesterov", "lr_inside" }
local ADAM = { "lr", "beta1", "beta2", "eps", "amsgrad", "eps_corrected" }
local IVON = { "lr", "beta1", "clip_radius", "debias", "rescale_lr" }
local DIAGONAL = { "ess", "h0", "beta2", "hess_approx", "noise", "samples" }
local SVRG = { "every", "start", "due", "mega", "ahead", "alpha", "alpha_h", "prox", "noise", "antithetic",
  "batch_norm", "lock" }
local FULL = { "ess", "h0", "beta2", "hess_approx", "guard", "samples" }
local NEWTON = { "lr", "beta1", "debias" }

local function pick(given, keys)
  local out = {}
  for _, k in ipairs(keys) do
    out[k] = given[k]
  end
  return out
end

-- Build an optimizer from one flat table. parts: { { field, constructor, keys }, … }; `defaults` stand in for what is
-- not given.
local function compose(name, given, parts, defaults)
  given = given or {}
  local known = { table.unpack(SHARED) }
  for _, p in ipairs(parts) do
    for _, k in ipairs(p[3]) do
      known[#known + 1] = k
    end
  end
  names.check("pg.optim." .. name, given, known)
  local spec, merged = pick(given, SHARED), {}
  for _, k in ipairs(known) do
    merged[k] = given[k]
    if merged[k] == nil and defaults then
      merged[k] = defaults[k]
    end
  end
  for _, p in ipairs(parts) do
    spec[p[1]] = p[2](pick(merged, p[3]))
  end
  return optimizer(spec)
end

local function define(name, parts, defaults)
  optim[name] = function(given)
    return compose(name, given, parts, defaults)
  end
end

local sgd, svrg = { "rule", rule.sgd, SGD }, { "correction", correction.svrg, SVRG }

-- Each takes weight_decay, stages and dtype besides what is written.

--- pg.optim.sgd { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false, weight_decay = 0 } → optimizer: point ×
-- none × sgd: stochastic gradient descent. See pg.rule.sgd.
define("sgd", { sgd })

--- pg.optim.momentum { lr = 1e-3, momentum = 0.9, dampening = 0, nesterov = false, weight_decay = 0 } → optimizer:
-- point × none × sgd with momentum 0.9.
define("momentum", { sgd }, { momentum = 0.9 })

--- pg.optim.adam { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, weight_decay = 0 } → optimizer:
-- point × none × adam. See pg.rule.adam.
define("adam", { { "rule", rule.adam, ADAM } })

--- pg.optim.adamw { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, amsgrad = false, weight_decay = 0.01 } →
-- optimizer: point × none × adamw, with weight decay 0.01. See pg.rule.adamw.
define("adamw", { { "rule", rule.adamw, ADAM } }, { weight_decay = 0.01 })

--- pg.optim.svrg { lr = 1e-3, momentum = 0, alpha = 1, every = pg.epochs(1), start = 0, mega = "full", … } → optimizer:
-- point × svrg × sgd: SVRG. See pg.correction.svrg and pg.rule.sgd.
define("svrg", { sgd, svrg })

local isotropic = { "family", family.isotropic, { "sigma", "samples" } }

--- pg.optim.variational_sgd { sigma =, lr = 1e-3, momentum = 0, samples = 1, … } → optimizer: isotropic × none × sgd:
-- SGD on gradients at points drawn around the mean. Not VSGD, the optimizer (a rule).
define("variational_sgd", { isotropic, sgd })

--- pg.optim.variational_sgd_poco { sigma =, lr = 1e-3, alpha = 1, every = pg.epochs(1), … } → optimizer: isotropic ×
-- svrg × sgd: variational SGD with posterior correction (VSGD-PoCo, Daheim et al. 2025, arXiv 2512.01930), which at
-- sigma = 0 is SVRG. See pg.family.isotropic and pg.correction.svrg.
define("variational_sgd_poco", { isotropic, sgd, svrg })

--- pg.optim.sam { rho = 0.05, lr = 1e-3, momentum = 0, scope = "global", weight_decay = 0, … } → optimizer: sam × none
-- × sgd: SGD on the gradients of sharpness-aware minimization. See pg.family.sam and pg.rule.sgd.
define("sam", { { "family", family.sam, { "rho", "scope", "samples" } }, sgd })

--- pg.optim.asam { rho = 0.5, lr = 1e-3, momentum = 0, eta = 0, weights_only = false, weight_decay = 0, … } →
-- optimizer: asam × none × sgd: SGD on the gradients of adaptive SAM. See pg.family.asam and pg.rule.sgd.
define("asam", { { "family", family.asam, { "rho", "eta", "weights_only", "samples" } }, sgd })

local ivon = { "rule", rule.ivon, IVON }
local diagonal = { "family", family.diagonal, DIAGONAL }

--- pg.optim.ivon { ess =, lr = 0.1, h0 = 1, beta1 = 0.9, beta2 = 0.99999, weight_decay = 0, samples = 1, … } →
-- optimizer: diagonal × none × ivon: IVON. See pg.family.diagonal and pg.rule.ivon.
define("ivon", { diagonal, ivon })

--- pg.optim.ivon_poco { ess =, lr = 0.1, h0 = 1, alpha = 1, every = pg.epochs(1), noise = "shared", … } → optimizer:
-- diagonal × svrg × ivon: IVON with posterior correction. See pg.family.diagonal, pg.correction.svrg and pg.rule.ivon.
-- With beta1 = 0 it is the paper's IVON-PoCo, with the default of 0.9 its IVON-PoCoMo.
-- `noise` and `antithetic` are the correction's; a diagonal family without noise is composed by pg.optimizer.
define("ivon_poco", {
  { "family", family.diagonal, { "ess", "h0", "beta2", "hess_approx", "samples" } }, ivon, svrg,
})

local newton = { "rule", rule.newton, NEWTON }

--- pg.optim.newton { ess =, lr = 1, h0 = 1, beta1 = 0, beta2 = 0.99, hess_approx = "exact", noise = true, … } →
-- optimizer: full × none × newton: variational online Newton, for at most 4096 parameters. See pg.family.full
-- and pg.rule.newton.
define("newton", { { "family", family.full, { "noise", table.unpack(FULL) } }, newton })

--- pg.optim.newton_poco { ess =, lr = 1, h0 = 1, beta2 = 0.99, alpha = 1, every = pg.epochs(1), noise = "shared", … } →
-- optimizer: full × svrg × newton: variational online Newton with posterior correction, proximal term included. See
-- pg.family.full, pg.correction.svrg and pg.rule.newton. `noise` is the correction's; a full family without noise is
-- composed by pg.optimizer. Where the Hessian changes much on the way, begin with an epoch of the plain method (start =
-- pg.epochs(1)) or prox = false: far from the snapshot the proximal term adds noise.
define("newton_poco", { { "family", family.full, FULL }, newton, svrg })

--- pg.optim.alpha_svrg { lr = 1e-3, momentum = 0, alpha0 = 0.75, every = pg.epochs(1), … } → optimizer: point ×
-- alpha_svrg × sgd: SVRG whose strength falls from alpha0 to 0 over the run, constant within a segment, or is estimated
-- (Yin et al. 2025, arXiv 2311.05589). See pg.correction.alpha_svrg.
define("alpha_svrg", { sgd, { "correction", correction.alpha_svrg, { "alpha0", "estimate", "memory",
  table.unpack(SVRG) } } })

--- pg.optim.sophia { ess =, lr = 1e-4, rho = 0.04, h0 = 1, beta2 = 0.99, hess_approx = "exact", noise = false, … } →
-- optimizer: diagonal × none × sophia: Sophia, by the exact diagonal of the Hessian at the mean, for at most 4096
-- parameters; hess_approx = "price" and noise = true for more. See pg.family.diagonal and pg.rule.sophia.
define("sophia", { diagonal, { "rule", rule.sophia, { "lr", "beta1", "rho", "batch", "eps" } } },
  { beta2 = 0.99, hess_approx = "exact", noise = false })

--- pg.optim.sophia_g { lr = 1e-4, rho = 0.04, every = 10, beta1 = 0.965, beta2 = 0.99, weight_decay = 0, … } →
-- optimizer: gauss_newton × none × sophia: Sophia-G, for losses that ask pg.labels for their labels. See
-- pg.family.gauss_newton and pg.rule.sophia.
define("sophia_g", { { "family", family.gauss_newton, { "every", "beta2", "h0" } },
  { "rule", rule.sophia, { "lr", "beta1", "rho", "batch", "eps" } } })

for name, parts in next, (require "perigee.optim_rules") do define(name, parts) end

return optim
