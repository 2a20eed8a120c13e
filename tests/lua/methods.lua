-- methods.lua: families, corrections and rules with settings that suit small logistic regressions, and which of them
-- go together: the product that specs and the recipe every_method.lua run.
local pg = require "perigee"
local correction, family, rule, wrapper = pg.correction, pg.family, pg.rule, pg.wrapper

local EVERY = 12

local families = {
  point = function() return family.point {} end,
  isotropic = function() return family.isotropic { sigma = 0.05 } end,
  isotropic_pairs = function() return family.isotropic { sigma = 0.05, samples = 2, antithetic = true } end,
  diagonal = function() return family.diagonal { ess = 600, h0 = 0.3, beta2 = 0.995 } end,
  diagonal_gradsq = function()
    return family.diagonal { ess = 60, h0 = 0.3, beta2 = 0.995, hess_approx = "gradsq", noise = false }
  end,
  diagonal_exact = function()
    return family.diagonal { ess = 60, h0 = 0.3, beta2 = 0.9, hess_approx = "exact", noise = false }
  end,
  sam = function() return family.sam { rho = 0.1 } end,
  asam = function() return family.asam { rho = 0.3, eta = 0.1 } end,
  full = function() return family.full { ess = 600, h0 = 0.3, beta2 = 0.9 } end,
  full_price = function() return family.full { ess = 600, h0 = 0.3, beta2 = 0.995, hess_approx = "price" } end,
}

local corrections = {
  none = function() end,
  svrg = function() return correction.svrg { every = EVERY } end,
  svrg_fresh = function() return correction.svrg { every = EVERY, noise = "fresh", antithetic = true } end,
  svrg_part = function() return correction.svrg { every = EVERY, alpha = 0.5, alpha_h = 0.2, start = 5, mega = 3 } end,
  alpha_svrg = function() return correction.alpha_svrg { every = EVERY } end,
  alpha_all = function() return correction.alpha_svrg { every = EVERY, estimate = "all" } end,
  alpha_tensor = function() return correction.alpha_svrg { every = EVERY, estimate = "tensor" } end,
  alpha_component = function() return correction.alpha_svrg { every = EVERY, estimate = "component" } end,
  lsvrg = function() return correction.lsvrg { p = 0.1 } end,
  svrg_bb = function() return correction.svrg_bb { every = EVERY, eta0 = 1 } end,
  adasvrg = function() return correction.adasvrg { every = EVERY } end,
  sarah = function() return correction.sarah { every = EVERY } end,
  sarah_plus = function() return correction.sarah { every = EVERY, plus = 0.3 } end,
  spider = function() return correction.spider { every = EVERY, eps = 0.2, L = 1 } end,
  page = function() return correction.page { p = 0.15 } end,
  storm = function() return correction.storm { k = 0.5, c = 2 } end,
  storm_per_tensor = function() return correction.storm { k = 0.5, c = 2, per_tensor = true } end,
  storm_plus = function() return correction.storm_plus {} end,
  mars = function() return correction.mars {} end,
  saga = function() return correction.saga {} end,
  saga_batches = function() return correction.saga { per = "batch", rebuild = true, every = EVERY } end,
  sag = function() return correction.sag { fill = "zeros" } end,
  svrg_cached = function() return correction.svrg { every = EVERY, cache = "memory", noise = "fixed" } end,
  mars_approximate = function() return correction.mars { exact = false, clip = "per_tensor" } end,
}

local rules = {
  sgd = function() return rule.sgd { lr = 0.5 } end,
  momentum = function() return rule.sgd { lr = 0.1, momentum = 0.9 } end,
  adamw = function() return rule.adamw { lr = 0.05 } end,
  ivon = function() return rule.ivon { lr = 0.5 } end,
  newton = function() return rule.newton { lr = 0.1 } end,
  katyusha = function() return wrapper.katyusha { L = 1, sigma = 0.01, m = EVERY } end,
  lkatyusha = function()
    return wrapper.lkatyusha { L = 1, sigma = 0.01, rule = rule.sgd { lr = 1, momentum = 0.5 } }
  end,
}

-- Corrections that weigh the numbers of vectors one by one, and refuse Hessian matrices.
local FOR_VECTORS = { alpha_all = true, alpha_tensor = true, alpha_component = true, storm_per_tensor = true }

-- Corrections with tables of statistics, and the families whose points have no noise, which they need; with a row for
-- each example the gradient of a batch has to be the mean of its examples', which SAM's is not.
local WITH_TABLES = { saga = true, saga_batches = true, sag = true }
local WITHOUT_NOISE = { point = true, diagonal_gradsq = true, diagonal_exact = true, sam = true, asam = true }
local OF_BATCHES = { sam = true, asam = true }

-- Whether the parts go together, by what they need.
local function fit(f, c, r)
  if f:find "^full" and FOR_VECTORS[c] then return false end
  if WITH_TABLES[c] and (not WITHOUT_NOISE[f] or OF_BATCHES[f] and c ~= "saga_batches") then return false end
  if r == "ivon" then return f:find "^diagonal" end
  if r == "newton" then return f:find "^full" end
  if r == "katyusha" then return c == "svrg" end
  if r == "lkatyusha" then return c == "lsvrg" end
  return true
end

-- The names of a table's fields in order.
local function sorted(t)
  local list = {}
  for name in pairs(t) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local methods = { families = sorted(families) }

-- All that fit over a family: a list of { name, make() → optimizer }.
function methods.over(f)
  local list = {}
  for _, c in ipairs(sorted(corrections)) do
    for _, r in ipairs(sorted(rules)) do
      if fit(f, c, r) then
        list[#list + 1] = { name = ("%s-%s-%s"):format(f, c, r), make = function()
          return pg.optimizer { family = families[f](), correction = corrections[c](), rule = rules[r](),
            weight_decay = 1e-3 }
        end }
      end
    end
  end
  return list
end

return methods
