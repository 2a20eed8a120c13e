-- privacy.lua: how private a run with noisy clipped gradients is: Rényi differential privacy of the subsampled Gaussian
-- mechanism, its composition over steps, and what that says in (epsilon, delta); for a run of pg.train, by itself.

local core = require "perigee.core"
local names = require "perigee.names"
local schedule = require "perigee.schedule"
local subject = require "perigee.subject"

local privacy = {}

-- ---- numbers --------------------------------------------------------------------------------------------------------

-- log(exp(a) + exp(b)) and log(exp(a) - exp(b)).
local function log_add(a, b)
  if a < b then a, b = b, a end
  if b == -math.huge then return a end
  return a + math.log(1 + math.exp(b - a))
end

local function log_sub(a, b)
  if b == -math.huge then return a end
  if a <= b then return -math.huge end
  return a + math.log(1 - math.exp(b - a))
end

-- log(erfc(x)): by the series of erf near 0, by the continued fraction above, and by symmetry below 0.
local function log_erfc(x)
  if x < 0 then return math.log(2 - math.exp(log_erfc(-x))) end
  if x < 2 then
    local term, sum, n = x, x, 0
    repeat
      n = n + 1
      term = -term * x * x / n
      sum = sum + term / (2 * n + 1)
    until math.abs(term) < 1e-18
    return math.log(1 - 2 / math.sqrt(math.pi) * sum)
  end
  local fraction = 0
  for k = 120, 1, -1 do fraction = k / 2 / (x + fraction) end
  return -x * x - math.log((x + fraction) * math.sqrt(math.pi))
end

-- log A of Mironov, Talwar & Zhang 2019: the alpha-th moment of the mixture over the Gaussian, for an integer alpha: a
-- finite sum of binomial terms (their section 3.3, formula 1).
local function log_moment_integer(q, sigma, alpha)
  local total, log_binomial = -math.huge, 0
  for k = 0, alpha do
    total = log_add(total, log_binomial + k * math.log(q) + (alpha - k) * math.log(1 - q)
      + (k * k - k) / (2 * sigma * sigma))
    log_binomial = log_binomial + math.log((alpha - k) / (k + 1))
  end
  return total
end

-- The same for a fractional alpha: two series, for the parts below and above z0 (their section 3.3). Terms alternate in
-- sign once k is above alpha.
local function log_moment_fraction(q, sigma, alpha)
  local z0 = sigma * sigma * math.log(1 / q - 1) + 0.5
  local below, above, log_binomial, sign, k = -math.huge, -math.huge, 0, 1, 0
  local half, scale = math.log(0.5), math.sqrt(2) * sigma
  while true do
    local j = alpha - k
    local a = log_binomial + k * math.log(q) + j * math.log(1 - q) + (k * k - k) / (2 * sigma * sigma) + half
      + log_erfc((k - z0) / scale)
    local b = log_binomial + j * math.log(q) + k * math.log(1 - q) + (j * j - j) / (2 * sigma * sigma) + half
      + log_erfc((z0 - j) / scale)
    local join = sign > 0 and log_add or log_sub
    below, above = join(below, a), join(above, b)
    if k > alpha and math.max(a, b) < log_add(below, above) - 35 then return log_add(below, above) end
    if j < 0 then sign = -sign end
    log_binomial = log_binomial + math.log(math.abs(j) / (k + 1))
    k = k + 1
  end
end

-- The Rényi divergence of one step at order alpha.
local function rdp_of_step(q, sigma, alpha)
  if q == 0 then return 0 end
  if sigma == 0 or alpha == math.huge then return math.huge end
  if q == 1 then return alpha / (2 * sigma * sigma) end
  local moment = math.tointeger(alpha) and log_moment_integer or log_moment_fraction
  return math.max(0, moment(q, sigma, math.tointeger(alpha) or alpha)) / (alpha - 1)
end

-- ---- the accountant -------------------------------------------------------------------------------------------------

local ORDERS = {}
for i = 1, 99 do ORDERS[i] = 1 + i / 10 end
for order = 12, 63 do ORDERS[#ORDERS + 1] = order end
for _, order in ipairs { 80, 128, 256, 512 } do ORDERS[#ORDERS + 1] = order end

local Rdp = {}
Rdp.__index = Rdp
Rdp.__name = "perigee.rdp"

local function check_number(owner, name, x, low, high)
  if type(x) ~= "number" or not (x >= low and x <= high) then
    core.raise(("%s: %s must be a number in [%g, %g], not %s"):format(owner, name, low, high, names.describe(x)))
  end
end

--- pg.privacy.rdp { orders = } → accountant: How private a run is that adds Gaussian noise to sums of clipped gradients
-- over batches which each example joins with probability `rate`: Rényi differential privacy (Mironov 2017; the
-- subsampled Gaussian mechanism by Mironov, Talwar & Zhang 2019, arXiv 1908.10530), for neighbouring data sets that
-- differ by one example more or less.
--   orders: above 1; default 1.1 … 10.9 by 0.1, 12 … 63, 80, 128, 256, 512.
function privacy.rdp(given)
  given = given or {}
  names.check("pg.privacy.rdp", given, { "orders" })
  local orders = given.orders or ORDERS
  local self = setmetatable({ orders = orders, spent = {} }, Rdp)
  for i, alpha in ipairs(orders) do
    if type(alpha) ~= "number" or alpha <= 1 then
      core.raise("pg.privacy.rdp: orders are numbers above 1, not " .. names.describe(alpha))
    end
    self.spent[i] = 0
  end
  return self
end

--- accountant:add { rate =, noise_multiplier =, steps = 1 } → accountant: Count steps in, whose batches each example
-- joins with probability `rate`. noise_multiplier: the noise's deviation over the clipping norm, as in
-- pg.stage.private.
function Rdp:add(step)
  names.check("accountant:add", step, { "rate", "noise_multiplier", "steps" })
  local steps = step.steps or 1
  check_number("accountant:add", "rate", step.rate, 0, 1)
  check_number("accountant:add", "noise_multiplier", step.noise_multiplier, 0, math.huge)
  check_number("accountant:add", "steps", steps, 0, math.huge)
  for i, alpha in ipairs(self.orders) do
    if steps > 0 then
      self.spent[i] = self.spent[i] + steps * rdp_of_step(step.rate, step.noise_multiplier, alpha)
    end
  end
  return self
end

--- accountant:rdp() → list: The Rényi divergence spent so far at each order.
function Rdp:rdp() return { table.unpack(self.spent) } end

--- accountant:epsilon(delta) → epsilon, order: What the steps counted in guarantee: (epsilon, delta) differential
-- privacy, by the conversion of Balle et al. 2020 (arXiv 1905.09982, theorem 21), at the order that gives the smallest.
function Rdp:epsilon(delta)
  check_number("accountant:epsilon", "delta", delta, 0, 1)
  local best, order = math.huge, nil
  for i, alpha in ipairs(self.orders) do
    local epsilon = self.spent[i] + math.log((alpha - 1) / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)
    if epsilon < best then best, order = epsilon, alpha end
  end
  return math.max(0, best), order
end

-- ---- of a run -------------------------------------------------------------------------------------------------------

-- Raise why nothing can be said of the run, as far as that can be seen.
local function check_run(owner, found, stage)
  local opt, source = found.opt, found.evaluator.source
  local function need(ok, format, ...)
    if not ok then core.raise(owner .. ": " .. format:format(...)) end
  end
  need(stage and stage.name == "private", "the method has no pg.stage.private")
  need(source and source.rate, "it says how private batches are that each example joins by a coin of its own: "
    .. "sampler = pg.sampler.poisson { … }")
  need(not opt.correction and opt.family.samples == 1 and not opt.family:is_of_batch(),
    "%s takes several gradients in a step", opt.correction and "correction " .. opt.correction.name
      or "family " .. opt.family.name)
end

--- pg.privacy.of(run) → accountant: How private a run of pg.train has been so far: its steps, counted with the rate of
-- its pg.sampler.poisson and the noise multiplier of its pg.stage.private (a number or a schedule). run: the ctx of a
-- hook or the result. pg.privacy.of(ctx):epsilon(1e-5) in a hook logs it. The clipped gradients of a step are all that
-- may be published: not its loss, nor evaluations on the training data. Steps that were truncated
-- (result.sampling.truncated) are outside of what it counts; their probability adds to delta.
function privacy.of(run)
  local owner = "pg.privacy.of"
  local found = subject.complete(owner, run, "st", "opt", "evaluator")
  local stage = found.opt.stages.per_evaluation[1]
  check_run(owner, found, stage)
  local noise, counts, list = stage.hyper.given.noise_multiplier, {}, {}
  for step = 0, schedule.is_schedule(noise) and found.st.step - 1 or -1 do
    local value = schedule.value(noise, step, found.opt.units)
    if not counts[value] then list[#list + 1] = value end
    counts[value] = (counts[value] or 0) + 1
  end
  if type(noise) == "number" then list, counts = { noise }, { [noise] = found.st.step } end
  local accountant = privacy.rdp {}
  for _, value in ipairs(list) do
    accountant:add { rate = found.evaluator.source.rate, noise_multiplier = value, steps = counts[value] }
  end
  return accountant
end

return privacy
