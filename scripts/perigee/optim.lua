-- optim.lua: the usual names, ready-made: each is a cell of family x correction x rule. Options are sorted to the
-- part that has them; weight_decay, stages and dtype go to the optimizer.

local correction = require "perigee.correction"
local family = require "perigee.family"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local part = require "perigee.part"
local rule = require "perigee.rule"
local schedule = require "perigee.schedule"

local optim = {}

local SHARED = { "weight_decay", "stages", "dtype" }
local SGD = { "lr", "momentum", "dampening", "nesterov" }
local ADAM = { "lr", "beta1", "beta2", "eps", "amsgrad" }
local IVON = { "lr", "beta1", "clip_radius", "debias", "rescale_lr" }
local DIAGONAL = { "ess", "h0", "beta2", "hess_approx", "noise", "samples" }
local SVRG = { "every", "start", "mega", "alpha", "alpha_h", "prox", "noise" }

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
  local known, spec = { table.unpack(SHARED) }, pick(given, SHARED)
  for _, p in ipairs(parts) do
    for _, k in ipairs(p[3]) do
      known[#known + 1] = k
    end
  end
  names.check("pg.optim." .. name, given, known)
  local merged = {}
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

-- about: one line for `perigee methods`.
local function define(name, about, parts, defaults)
  part.note("optim", name, about)
  optim[name] = function(given)
    return compose(name, given, parts, defaults)
  end
end

local sgd, svrg = { "rule", rule.sgd, SGD }, { "correction", correction.svrg, SVRG }

define("sgd", "point × none × sgd", { sgd })
define("momentum", "the same with momentum 0.9", { sgd }, { momentum = 0.9 })
define("adam", "point × none × adam", { { "rule", rule.adam, ADAM } })
define("adamw", "point × none × adamw, decay 0.01", { { "rule", rule.adamw, ADAM } }, { weight_decay = 0.01 })
define("svrg", "point × svrg × sgd", { sgd, svrg })

local ivon = { "rule", rule.ivon, IVON }
local diagonal = { "family", family.diagonal, DIAGONAL }
define("ivon", "diagonal × none × ivon", { diagonal, ivon })
-- The correction's noise is an option of the correction here; a diagonal family without noise is composed by
-- pg.optimizer.
define("ivon_poco", "diagonal × svrg × ivon: IVON with posterior correction", {
  { "family", family.diagonal, { "ess", "h0", "beta2", "hess_approx", "samples" } }, ivon, svrg,
})

-- SVRG with a strength that falls linearly from alpha0 to 0 over the run, constant within a segment (Yin et al. 2025).
part.note("optim", "alpha_svrg", "SVRG whose strength falls from 0.75 to 0 over the run")
function optim.alpha_svrg(given)
  given = given or {}
  local every = given.every or schedule.epochs(1)
  local rest = {}
  for k, v in pairs(given) do
    if k ~= "alpha0" then
      rest[k] = v
    end
  end
  rest.alpha = rest.alpha or schedule.hold {
    of = schedule.linear { from = given.alpha0 or 0.75, to = 0, over = schedule.whole_run }, every = every,
  }
  return compose("alpha_svrg", rest, { sgd, svrg })
end

-- The ready-made optimizers, for `perigee methods`.
function optim.list()
  return part.list("optim")
end

return optim
