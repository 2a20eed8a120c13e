-- family.lua: families own the posterior q: at which points the loss is evaluated, which statistics come back, how
-- the precision moves. point: q is the mean; {g}. isotropic: mean with fixed Gaussian noise; {g}. diagonal: IVON's
-- Gaussian with Hessian diagonal h; {g, h}. full: family_full.lua; sam, asam: family_ascent.lua. Formulas of the
-- diagonal family: Shen et al. 2024 (IVON) and Daheim et al. 2025 (posterior correction).

local core = require "perigee.core"
local curvature = require "perigee.curvature"
local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local noises = require "perigee.family_noise"
local part = require "perigee.part"
local posterior = require "perigee.posterior"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local family = { normal = noises.normal }

local Family = part.class "family"

-- How many gradients a definition takes in a row from a sampled point on. o: options as given.
local function count_gradients(definition, o)
  if not definition.perturb then return 1 end
  local n = definition.gradients or 2
  if type(n) == "function" then n = n(o) end
  if math.type(n) ~= "integer" or n < 1 then
    core.raise(("family %s: gradients is a whole number of at least 1, not %s"):format(definition.name,
      names.describe(n)))
  end
  return n
end

local DEFINITION = { "name", "hyper", "static", "limits", "stats", "shapes", "init", "sample", "perturb", "gradients",
  "statistics", "update", "check", "fits" }

--- pg.family.define { name =, init =, sample =, statistics =, perturb =, gradients = 2, update =, stats = {"g"}, hyper
-- = {}, static = {}, check =, shapes = } → family: A family of one's own: the posterior q, at which points the loss is
-- evaluated, what comes back.
--   init(theta, o) → { mean = theta, … }: plain Lua; eager vectors that make up q. o holds the numbers of step 0.
--   sample(q, key, o, sign) → theta, aux: traced; a point to evaluate at. Its noise comes from key. sign is 1, or -1
--     for the mirror image of the same draw, which pg.family.normal(key, q.mean, sign) gives.
--   perturb(theta, g, q, o, k) → theta: traced; a further point, made of the gradient g at the one before (number k),
--     at which another gradient is taken under the same batch, key and buffers. gradients: how many there are in a row,
--     from the sampled point's on: a number or a function(o). The loss, aux and running statistics of a step are those
--     of the first; of a batch in pieces each piece has points of its own.
--   statistics(g, aux, q, o, curvature, earlier) → { g = …, h = … }: traced; from the gradient at the (last) point.
--     earlier: the list of those before it, where there is a perturb. stats: the fields it returns. curvature:matrix()
--     is the Hessian of the batch's loss at the point, [n, n] over the numbers of theta; curvature:diagonal() its
--     diagonal, a vector: n Hessian-vector products each. curvature:gauss_newton(every) is an estimate of the diagonal
--     of the Gauss-Newton matrix, in one of `every` steps: a gradient on labels that the loss draws by pg.labels.
--   update(q, stats, o, ctx): traced; moves the precision by q.h = …; may be left out. ctx has t (step + 1) and
--     weight_decay.
--   hyper, static, limits: as in pg.rule.define. check(o): raises an error for options that do not fit together.
--   fits(o) → nil, or why it goes with no correction.
--   shapes(theta) → { H = { n, n } }: plain Lua; of statistics that are tensors and not vectors like theta.
-- o also holds weight_decay (the prior's precision over ess). The result is the family; call it with hyperparameters,
-- `samples` (points per step, default 1) and `antithetic` (in pairs of mirror images, default false) for others.
function family.define(definition)
  names.check("pg.family.define", definition, DEFINITION)
  for _, need in ipairs { "name", "init", "sample", "statistics" } do
    if definition[need] == nil then
      core.raise("pg.family.define needs " .. need)
    end
  end
  if definition.gradients ~= nil and not definition.perturb then
    core.raise("pg.family.define: gradients says how many perturb leads to, and there is no perturb")
  end
  hyper.check_limits("pg.family.define", definition)
  local function make(given)
    given = given or {}
    local owner = "family " .. definition.name
    local h = hyper.resolve(owner, definition.hyper or {}, given, definition.static, { "samples", "antithetic" },
      definition.limits)
    local samples, antithetic = given.samples or 1, given.antithetic or false
    if math.type(samples) ~= "integer" or samples < 1 then
      core.raise(owner .. ": samples is a whole number of at least 1")
    elseif antithetic and samples % 2 == 1 then
      core.raise(("%s: antithetic takes samples in pairs, so samples must be even, not %d"):format(owner, samples))
    end
    if definition.check then
      definition.check(h.given)
    end
    return setmetatable({
      name = definition.name, definition = definition, hyper = h, samples = samples, antithetic = antithetic,
      stats = definition.stats or { "g" }, given = given, make = make, gradients = count_gradients(definition, h.given),
    }, Family)
  end
  return part.defined(make, definition.hyper or {}, hyper.required)
end

-- q for parameters theta, which become q.mean as they are. units: as in schedule.resolve_steps.
function Family:init(theta, units)
  local q = self.definition.init(theta, self.hyper:numbers(0, units))
  local fields = { "mean" }
  for _, name in ipairs(names.sorted(q)) do
    if name ~= "mean" then
      fields[#fields + 1] = name
    end
  end
  return posterior.new(fields, q)
end

-- The draws of an evaluation: a list of { number folded into the key, sign }. mirrored: each with its mirror image.
local function draws_of(self, mirrored)
  local draws = {}
  for k = 1, self.samples do
    if self.antithetic then
      draws[k] = { (k + 1) // 2, k % 2 == 1 and 1 or -1 }
    else
      draws[#draws + 1] = { k, 1 }
      if mirrored then draws[#draws + 1] = { k, -1 } end
    end
  end
  return draws
end

-- A point at which to evaluate, and its noise. exchange(number, eps) → the noise to use; or nil.
local function sample(self, q, key, o, draw, exchange)
  local put = exchange and function(eps) return exchange(draw[1], eps) end
  return noises.watched(put, self.definition.sample, q, key, o, draw[2])
end

-- What the definition's `statistics` returned, which has to be what it declared.
local function check_statistics(self, returned)
  local stats = statistics.new(returned or {})
  local declared = {}
  for _, field in ipairs(self.stats) do declared[field] = true end
  local found, wanted = table.concat(statistics.fields(stats), ", "), table.concat(statistics.fields(declared), ", ")
  if found ~= wanted then
    core.raise(("family %s: statistics must return {%s}, as its `stats` say, not {%s}"):format(self.name, wanted,
      found))
  end
  return stats
end

-- The gradients in a row that begin at a sampled point: { loss, aux (of the first), g, curve (of the last), earlier
-- (the gradients before) }. gradient, first: as in Family:evaluate; number: of the draw.
local function take_gradients(self, theta, q, o, gradient, number, first)
  local found, perturb = { earlier = {} }, self.definition.perturb
  found.loss, found.g, found.aux, found.curve = gradient(theta, number, first)
  for k = 1, self.gradients - 1 do
    found.earlier[k] = found.g
    theta = perturb(theta, found.g, q, o, k)
    if not (core.is_tensor(theta) and theta.layout == q.mean.layout) then
      core.raise(("family %s: perturb must return a point like theta, not %s"):format(self.name, names.describe(theta)))
    end
    local _
    _, found.g, _, found.curve = gradient(theta, number, false)
  end
  return found
end

-- Traced: statistics at q, averaged over the samples. gradient(theta, number, first) → loss, g, aux, curvature.
-- how: { mirrored (take each sample with its mirror image), drawn (how many numbers of samples other pieces of the
-- batch use up before, an i64 tensor; nil: none), exchange (see sample) }. Returns statistics, loss, aux of sample 1,
-- and how many gradients it took.
function Family:evaluate(q, key, o, gradient, how)
  local total, total_loss, first_aux
  how = how or {}
  local draws = draws_of(self, how.mirrored)
  for k, draw in ipairs(draws) do
    local number = how.drawn and how.drawn + draw[1] or draw[1]
    local theta, noise = sample(self, q, core.apply("key_fold", nil, key, number), o, draw, how.exchange)
    local found = take_gradients(self, theta, q, o, gradient, draw[1], k == 1)
    local stats = check_statistics(self, self.definition.statistics(found.g, noise, q, o, found.curve, found.earlier))
    if k == 1 then
      total, total_loss, first_aux = stats, found.loss, found.aux
    else
      total, total_loss = total + stats, total_loss + found.loss
    end
  end
  if #draws > 1 then
    total, total_loss = total / #draws, total_loss / #draws
  end
  return total, total_loss, first_aux, #draws * self.gradients
end

-- Whether it gives a field of statistics: "g", "h" or "H".
function Family:gives(field)
  for _, name in ipairs(self.stats) do
    if name == field then return true end
  end
  return false
end

-- Whether it evaluates anywhere but at the mean itself, tried out on one parameter.
function Family:has_noise()
  local theta, units = core.vector(core.layout { { "theta", { 1 } } }, "f64"), { steps_per_epoch = 1, total_steps = 1 }
  local q = self:init(theta, units)
  local o = part.merge(self.hyper:numbers(0, units), { weight_decay = 0 })
  local ok, at = pcall(self.definition.sample, q, core.key(0), o, 1)
  return not (ok and rawequal(at, q.mean))
end

-- Whether what it gives for a batch is not the mean of what it would give for its examples, since a point depends on
-- the gradient of the whole batch.
function Family:is_of_batch()
  return self.gradients > 1
end

-- nil, or why it goes with no correction.
function Family:refuses()
  return self.definition.fits and self.definition.fits(self.hyper.given)
end

-- Traced: move the precision.
function Family:update(q, stats, o, ctx)
  if self.definition.update then
    self.definition.update(q, stats, o, ctx)
  end
end

--- pg.family.is(x): Whether x is a family.
function family.is(x)
  return getmetatable(x) == Family
end

--- pg.family.point { samples = 1 } → family: The mean alone: the loss is evaluated there, and the statistics are its
-- gradient.
family.point = family.define {
  name = "point",
  init = function(theta)
    return { mean = theta }
  end,
  sample = function(q)
    return q.mean
  end,
  statistics = function(g)
    return { g = g }
  end,
}

--- pg.family.isotropic { sigma =, samples = 1 } → family: Gaussian noise of fixed size around the mean (variational
-- SGD).
--     theta = q.mean + sigma eps, eps ~ N(0, I);  stats.g = gradient at theta
family.isotropic = family.define {
  name = "isotropic",
  hyper = { sigma = hyper.required },
  limits = { sigma = "[0, inf)" },
  init = function(theta)
    return { mean = theta }
  end,
  sample = function(q, key, o, sign)
    return q.mean + o.sigma * family.normal(key, q.mean, sign)
  end,
  statistics = function(g)
    return { g = g }
  end,
}

-- One over the standard deviation of q's coordinates.
local function inverse_sigma(q, o)
  return generic.sqrt(o.ess * (q.h + o.weight_decay))
end

--- pg.family.diagonal { ess =, h0 = 1, beta2 = 0.99999, hess_approx = "price", noise = true, samples = 1 } → family:
-- IVON's diagonal Gaussian: mean and Hessian diagonal h (Shen et al. 2024, arXiv 2402.17641, algorithm 1).
--     theta = q.mean + eps / s, eps ~ N(0, I), s = sqrt(ess (q.h + weight_decay))
--     stats.g = gradient g at theta
--     stats.h = g eps s  ("price"), ess g^2  ("gradsq"), or the diagonal of the Hessian at theta  ("exact")
--     q.h = beta2 q.h + (1 - beta2) stats.h + (1 - beta2)^2 / 2 (q.h - stats.h)^2 / (q.h + weight_decay)
-- ess: the effective sample size, as a rule the number of examples. h0: where h begins. "price" is unbiased for the
-- diagonal of the Hessian of the mean loss; "exact" takes as many Hessian-vector products as there are parameters, at
-- most 4096. noise = false evaluates at the mean and needs "gradsq" or "exact".
family.diagonal = family.define {
  name = "diagonal",
  stats = { "g", "h" },
  hyper = { ess = hyper.required, h0 = 1, beta2 = 0.99999, hess_approx = "price", noise = true },
  limits = { ess = "(0, inf)", h0 = "[0, inf)", beta2 = "[0, 1]" },
  check = function(o)
    names.choice("family diagonal: hess_approx", o.hess_approx, { "price", "gradsq", "exact" })
    if not o.noise and o.hess_approx == "price" then
      core.raise("family diagonal: Price's estimate is a product with the noise; noise = false needs "
        .. 'hess_approx = "exact" or "gradsq"')
    end
  end,
  init = function(theta, o)
    if o.hess_approx == "exact" then
      curvature.check_size('family diagonal with hess_approx = "exact"', theta, function(n)
        return ("%d Hessian-vector products for each example"):format(n)
      end)
    end
    return { mean = theta, h = vectors.full_like(theta, o.h0) }
  end,
  sample = function(q, key, o, sign)
    if not o.noise then
      return q.mean
    end
    local noise = { eps = family.normal(key, q.mean, sign), scale = inverse_sigma(q, o) }
    return q.mean + noise.eps / noise.scale, noise
  end,
  statistics = function(g, noise, _, o, curve)
    if o.hess_approx == "exact" then
      return { g = g, h = curve:diagonal() }
    elseif o.hess_approx == "gradsq" then
      return { g = g, h = o.ess * (g * g) }
    end
    return { g = g, h = g * noise.eps * noise.scale }
  end,
  update = function(q, stats, o)
    local rate, d = 1 - o.beta2, q.h - stats.h
    q.h = o.beta2 * q.h + rate * stats.h + (0.5 * rate ^ 2) * (d * d / (q.h + o.weight_decay))
  end,
}

--- pg.family.full { ess =, h0 = 1, beta2 = 0.99, hess_approx = "exact", noise = true, guard = true, samples = 1 } →
-- family: A Gaussian with a whole precision matrix, for at most 4096 parameters (Khan et al. 2018, arXiv 1806.04854).
--     theta = q.mean + L^-T eps / sqrt(ess), eps ~ N(0, I), L L^T = S = q.H + weight_decay I
--     stats.g = gradient g at theta
--     stats.H = the Hessian at theta  ("exact"), or the symmetric part of sqrt(ess) L eps g^T  ("price")
--     q.H = beta2 q.H + (1 - beta2) stats.H + (1 - beta2)^2 / 2 E S^-1 E, E = q.H - stats.H
-- q.H, [n, n] over the numbers of theta, is the Hessian of the mean loss without the prior; it begins as h0 I. The term
-- with E keeps at least half of S, whatever stats.H is; guard = false leaves it out, which is safe only where every
-- stats.H is positive semidefinite. "exact" takes n Hessian-vector products for each evaluation, "price" none (it is
-- unbiased, and noisy). noise = false evaluates at the mean and needs "exact". weight_decay may differ by tensor. A
-- matrix that is not positive definite gives NaN.
family.full = family.define(require "perigee.family_full")

--- pg.family.gauss_newton { every = 10, beta2 = 0.99, h0 = 0 } → family: The mean alone, and a Hessian diagonal that
-- pg.rule.sophia reads: the moving average of Sophia-G's estimates (Liu et al. 2023, arXiv 2305.14342, algorithm 3).
--     stats.g = gradient g at q.mean
--     in steps 1, 1 + every, …: stats.h = B s^2, s the gradient of the mean loss of B labels drawn from the model
--                               q.h = beta2 q.h + (1 - beta2) stats.h
-- B s^2 is, in expectation, the diagonal of the Gauss-Newton matrix, for a cross entropy that of the Fisher matrix. The
-- loss must ask pg.labels for its labels. Costs 1 / every of a gradient; with corrections only every = 1.
family.gauss_newton = family.define(require "perigee.family_gauss_newton")

local ascent = require "perigee.family_ascent"

--- pg.family.sam { rho = 0.05, scope = "global", eps = 1e-12, samples = 1 } → family: Sharpness-aware minimization
-- (Foret et al. 2021, arXiv 2010.01412): the gradient at the point, within rho, to which the first gradient leads.
--     g = gradient at q.mean;  theta = q.mean + rho g / (|g| + eps);  stats.g = gradient at theta
-- Two gradients for each evaluation, on the same batch under the same key; batch norm's running statistics, loss and
-- aux are those of the first. scope: |g| of all numbers, of each "tensor", or of each number by itself ("elem"). Weight
-- decay stays with the rule. In pieces (micro) each climbs by its own gradient, which is the paper's m-sharpness. A
-- correction compares perturbed points: its pass is over the batches of the steps, as SAM's gradient belongs to a
-- batch.
family.sam = family.define(ascent.sam)

--- pg.family.asam { rho = 0.5, eta = 0, weights_only = false, eps = 1e-12, samples = 1 } → family: Adaptive
-- sharpness-aware minimization (Kwon et al. 2021, arXiv 2102.11600), which takes no notice of the scale of weights:
--     T = |q.mean| + eta;  theta = q.mean + rho T^2 g / (|T g| + eps);  stats.g = gradient at theta
-- These defaults are those of davda54/sam. Its authors' code has eta = 0.01 and T = 1 for tensors with one axis
-- (weights_only). Everything else as in pg.family.sam.
family.asam = family.define(ascent.asam)

return family
