-- batch_test.lua: whether a batch is large enough: the tests of adaptive batch sizes, which compare the variance of the
-- examples' gradients with the size of their mean. Owns the formulas and the stage that takes them along in a step;
-- what a run makes of them: sampler_sizes.lua. Sources: the norm test of Byrd et al. 2012, the inner-product tests of
-- Bollapragada et al. 2018, as AdAdaGrad has them (Lau, Liu & Kolar 2024, arXiv 2402.11215).

local core = require "perigee.core"
local define = require("perigee.stage_class").define
local generic = require "perigee.generic"
local names = require "perigee.names"

local batch_test = {}

-- 0 where both are 0: a coordinate without a gradient has no noise either.
local function share(variance, size)
  return generic.where(generic.eq(variance, 0), 0, variance / size)
end

-- Variances out of moments, unbiased; rounding may leave a little less than 0. count: examples.
local function variance(square, mean_square, count)
  return generic.maximum(square - mean_square, 0) * (count / (count - 1))
end

-- Each test: moments → ratio, the size of the batch that would pass. m: { count, size (the squared norm of the mean g),
-- squares (mean squared norm of a gradient), dots() (mean of <gradient, g>^2), mean (g), each_square() (mean of
-- gradient^2) }.
local TESTS = {
  norm = function(m, o) return share(variance(m.squares, m.size, m.count), o.eta * o.eta * m.size) end,
  inner = function(m, o)
    return share(variance(m.dots(), m.size * m.size, m.count), o.theta * o.theta * m.size * m.size)
  end,
  coordinate = function(m, o)
    local each = variance(m.each_square(), m.mean * m.mean, m.count)
    local ratios = share(each, o.eta * o.eta * m.mean * m.mean)
    return (ratios.layout and ratios:flat() or ratios):max()
  end,
}

-- What is orthogonal to g in a gradient has mean 0: the squares less those along g are its variance.
function TESTS.augmented(m, o)
  local along = share(m.dots(), m.size)
  return generic.maximum(TESTS.inner(m, o), share(variance(m.squares, along, m.count), o.nu * o.nu * m.size))
end

local DEFAULTS = { eta = 0.1, theta = 0.5, nu = 1 }

local function check(owner, test)
  if not TESTS[test] then
    core.raise(('%s: test is "norm", "inner", "augmented" or "coordinate", not %s'):format(owner, names.describe(test)))
  end
end

--- pg.batch.test(gradients [, { test = "norm", eta = 0.1, theta = 0.5, nu = 1 }]) → number: The size that a batch
-- should have by one of the tests, from the gradients of its examples [examples, numbers]: see pg.stage.batch_test.
function batch_test.test(gradients, given)
  local owner = "pg.batch.test"
  given = given or {}
  names.check(owner, given, { "test", "eta", "theta", "nu" })
  check(owner, given.test or "norm")
  if not core.is_tensor(gradients) or gradients.ndim ~= 2 or gradients.shape[1] < 2 then
    core.raise(("%s: the gradients of at least two examples [examples, numbers] were expected, not %s"):format(owner,
      names.describe(gradients)))
  end
  local o = setmetatable({}, { __index = function(_, name) return given[name] or DEFAULTS[name] end })
  local mean = gradients:mean(1)
  return TESTS[given.test or "norm"]({
    count = gradients.shape[1], mean = mean, size = (mean * mean):sum(),
    squares = (gradients * gradients):sum(2):mean(),
    dots = function()
      local dots = (gradients * mean):sum(2)
      return (dots * dots):mean()
    end,
    each_square = function() return (gradients * gradients):mean(1) end,
  }, o):item()
end

local stage = define {
  name = "batch_test",
  hyper = { test = "norm", eta = DEFAULTS.eta, theta = DEFAULTS.theta, nu = DEFAULTS.nu, interval = 1 },
  limits = { eta = "(0, inf)", theta = "(0, inf)", nu = "(0, inf)", interval = "[1, inf)" },
  examples = true,
  state = { ratio = require("perigee.vectors").scalar(0) },
  active = function(step, o) return (step + 1) % o.interval == 0 end,
  apply = function(each, o, _, s)
    local function mean_of(f) return (each:mean(f)) end
    local g, squares = each:mean(function(g) return g, (g * g):sum() end)
    s.ratio = TESTS[o.test]({
      count = each.count, mean = g, size = (g * g):sum(), squares = squares,
      dots = function() return mean_of(function(one) return (one * g):sum() ^ 2 end) end,
      each_square = function() return mean_of(function(one) return one * one end) end,
    }, o)
    return g
  end,
}

--- pg.stage.batch_test { test = "norm", eta = 0.1, theta = 0.5, nu = 1, interval = 1 } → stage: Asks once in `interval`
-- steps whether the batch was large enough, first in stages.per_evaluation; the gradient stays the mean. The slot
-- `ratio` holds the size T that the batch should have had, with the gradients g_i of its b examples, their mean g and
-- unbiased variances over i:
--     norm: sum over coordinates of Var(g_i) / (eta^2 |g|^2)      inner: Var(<g_i, g>) / (theta^2 |g|^4)
--     augmented: the larger of inner and sum of Var(g_i - <g_i, g> / |g|^2 g) / (nu^2 |g|^2)
--     coordinate: the largest of Var(g_ij) / (eta^2 g_j^2) over coordinates j: one small coordinate blows it up
-- (Lau, Liu & Kolar 2024, arXiv 2402.11215; inner is the variance over the whole gradient, where their code sums those
-- of its tensors.) pg.batch.adaptive lets batches grow by it. Steps without a test cost what they cost without the
-- stage. Batches of weights are taken as means of their examples.
function batch_test.stage(given)
  check("pg.stage.batch_test", given.test or "norm")
  return stage(given)
end

return batch_test
