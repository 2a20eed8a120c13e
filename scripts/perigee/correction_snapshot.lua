-- correction_snapshot.lua: corrections that compare each batch with the statistics at a snapshot: SVRG and its
-- descendants. All but the strength, the time of the snapshot and the step size is the same formula.

local class = require "perigee.correction_class"
local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local part = require "perigee.part"
local per_tensor = require "perigee.per_tensor"
local schedule = require "perigee.schedule"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local define, required = class.define, class.required

local M = {}

-- The subtraction comes first: at the snapshot `now` and `old` cancel exactly, and with alpha = 1 the mean is left.
local function combine(now, old, mean, alpha)
  return (now - alpha * old) + alpha * mean
end

local function take_snapshot(s, ctx)
  s.at = ctx.q:clone()
  s.mean = ctx:full(s.at)
end

-- The change of the snapshot's gradient between there and q.mean that the curvatures of all examples, less those of
-- the batch, predict.
local function predict_change(s, old, q)
  local moved = q.mean - s.at.mean
  if old.H then
    return vectors.unflatten((s.mean.H - old.H):matmul(moved:flat()), moved)
  end
  return (s.mean.h - old.h) * moved
end

--- pg.correction.svrg { alpha = 1, alpha_h = false, prox = "auto", every = pg.epochs(1), start = 0, mega = "full",
-- noise = "shared" } → correction: SVRG (Johnson & Zhang 2013) and alpha-SVRG (Yin et al. 2025, arXiv 2311.05589); over
-- pg.family.diagonal and pg.family.full, posterior correction of IVON and Newton's method (arXiv 2512.01930).
--     at a refresh: at = q;  mean = statistics of all examples at `at`
--     in a step: (statistics at q - alpha statistics at `at`, on this batch) + alpha mean
-- The subtraction comes first, so that with alpha = 1 the result at the snapshot is `mean`, exactly. Both evaluations
-- of a step see the same batch, the same dropout masks and the same noise. alpha_h: the strength for h or H, default
-- alpha. prox = true adds the proximal term alpha (mean.H - old.H) (q.mean - at.mean) to g (h in place of H over the
-- diagonal family): for a quadratic loss the corrected gradient over the full family is then that of all examples. It
-- needs exact Hessians; "auto": over the full family with these it is on, else off.
M.svrg = define {
  name = "svrg",
  hyper = { alpha = 1, alpha_h = false, prox = "auto" },
  fits = function(family, o)
    if o.prox ~= true then
      return nil
    elseif #family.stats == 1 then
      return "the proximal term is a product with the curvature, which the family does not estimate"
    elseif family.hyper.given.hess_approx ~= "exact" then
      return 'the proximal term needs hess_approx = "exact": estimates from gradients vary by (g / sigma)^2, and their '
        .. "product with the distance to the snapshot drowns what the term corrects"
    end
  end,
  refresh = take_snapshot, exact = true,
  correct = function(s, ctx, o)
    local now, old = ctx:evaluate(ctx.q), ctx:snapshot(s.at)
    local alpha = o.alpha
    if o.alpha_h then
      alpha = statistics.map(now, function(_, field)
        return field == "g" and o.alpha or o.alpha_h
      end)
    end
    local corrected = combine(now, old, s.mean, alpha)
    local prox = o.prox
    if prox == "auto" then prox = old.H ~= nil and ctx.q.hess_approx == "exact" end
    if prox then
      corrected.g = corrected.g + o.alpha * predict_change(s, old, ctx.q)
    end
    return corrected
  end,
}

-- ---- strengths ------------------------------------------------------------------------------------------------------

-- How the moments of alpha's estimate are summed: over all numbers, over those of a tensor, or not at all.
local REDUCE = {
  all = { slot = function() return vectors.scalar(0) end, sum = function(x) return core.apply("sum", nil, x) end },
  tensor = { slot = function() return per_tensor.per_tensor(0) end, sum = function(x) return x:per_tensor():sum() end },
  component = { slot = function() return 0 end, sum = function(x) return x end },
}

local estimated = define {
  name = "alpha_svrg",
  hyper = { estimate = "all", memory = 0.9, alpha_h = false },
  limits = { memory = "[0, 1)" },
  check = function(o)
    if not REDUCE[o.estimate] then
      core.raise(('correction alpha_svrg: estimate is "all", "tensor", "component" or false, not %s'):format(
        names.describe(o.estimate)))
    end
  end,
  fits = function(family)
    return family:gives "H" and "alpha is estimated for vectors, not for a Hessian matrix" or nil
  end,
  state = function(o)
    return { covariance = REDUCE[o.estimate].slot(), variance = REDUCE[o.estimate].slot() }
  end,
  refresh = take_snapshot, exact = true,
  correct = function(s, ctx, o)
    local now, old, sum = ctx:evaluate(ctx.q), ctx:snapshot(s.at), REDUCE[o.estimate].sum
    local noise = old.g - s.mean.g
    local keep = ctx.refreshed and 0 or o.memory
    local alpha = 1 -- at the snapshot both gradients are the same
    if not ctx.refreshed then alpha = generic.clip(s.covariance / (s.variance + 1e-24), -2, 2) end
    s.covariance = keep * s.covariance + (1 - keep) * sum(noise * (now.g - s.mean.g))
    s.variance = keep * s.variance + (1 - keep) * sum(noise * noise)
    return statistics.map(now, function(x, field)
      local strength = field ~= "g" and o.alpha_h or alpha
      return (x - strength * old[field]) + strength * s.mean[field]
    end)
  end,
}

--- pg.correction.alpha_svrg { alpha0 = 0.75, estimate = false, memory = 0.9, alpha_h = false, every = pg.epochs(1) } →
-- correction: SVRG of less than full strength (Yin et al. 2025, arXiv 2311.05589).
--   alpha0: the strength of the first segment; it falls in a straight line to 0 over the run, constant within a
--     segment. For a constant strength, or a schedule, use pg.correction.svrg { alpha = 0.5 }.
--   estimate = "all", "tensor", "component": the strength of least variance, Cov(g at q, g at the snapshot) / Var(g at
--     the snapshot), one for all numbers, for each tensor or for each number; from running moments of the segment's
--     earlier steps (weight `memory` for what is older, around the snapshot's mean), cut to [-2, 2]; 1 at the snapshot.
-- alpha_h: the strength for h; default the same.
function M.alpha_svrg(given)
  given = given or {}
  class.check_names("correction alpha_svrg", given, { "alpha0", "estimate", "memory", "alpha", "alpha_h", "prox" })
  if given.estimate then
    if given.alpha0 ~= nil then
      core.raise("correction alpha_svrg: alpha0 is a strength that is given, and estimate finds one; give one of them")
    end
    return estimated(given)
  elseif given.memory ~= nil then
    core.raise('correction alpha_svrg: memory is of the estimate; give estimate = "all", "tensor" or "component" too')
  end
  local rest = part.merge(given, {})
  rest.alpha0, rest.estimate = nil, nil
  rest.alpha = rest.alpha or schedule.hold {
    of = schedule.linear { from = given.alpha0 or 0.75, to = 0, over = schedule.whole_run },
    every = given.every or schedule.epochs(1),
  }
  return M.svrg(rest)
end

-- ---- times of the snapshot ------------------------------------------------------------------------------------------

--- pg.correction.lsvrg { alpha = 1, p = false, mega = "full" } → correction: loopless SVRG (Kovalev, Horváth &
-- Richtárik 2020, arXiv 1901.08689): after each step, with probability p, the point before that step becomes the
-- snapshot. p: default batch / examples, one refresh for each epoch on average. The coins come from a stream of
-- their own, by step; due = function(ctx) → boolean decides otherwise: whether the point before step ctx.step - 1
-- becomes one.
M.lsvrg = define {
  name = "lsvrg",
  hyper = { alpha = 1, p = false },
  limits = { p = "(0, 1]" },
  due = function(ctx) return ctx:coin(ctx.o.p or 1 / ctx.steps_per_epoch) end, exact = true, unused = { "every" },
  refresh = function(s, ctx)
    if ctx.segment == 1 then s.at = ctx.q:clone() end
    s.mean = ctx:full(s.at)
  end,
  correct = function(s, ctx, o)
    local corrected = combine(ctx:evaluate(ctx.q), ctx:snapshot(s.at), s.mean, o.alpha)
    if ctx.last then s.at = ctx.iterate end
    return corrected
  end,
}

--- pg.correction.scsg { batches = 10, alpha = 1, ahead = true } → correction: SCSG, or streaming SVRG (Lei & Jordan
-- 2017; Frostig et al. 2015): every `batches` steps a snapshot, whose mean is over the batches of the steps to come
-- (ahead = false: over as many drawn apart). The noise of that mean stays: it converges to a floor.
function M.scsg(given)
  class.check_names("correction scsg", given or {}, { "batches", "alpha", "alpha_h", "prox" })
  local rest = part.merge(given or {}, {})
  local batches = rest.batches or 10
  if math.type(batches) ~= "integer" or batches < 1 then
    core.raise("correction scsg: batches is a whole number of at least 1, not " .. names.describe(batches))
  end
  rest.batches = nil
  if rest.ahead == nil then rest.ahead = true end
  return M.svrg(part.merge({ every = batches, mega = batches }, rest))
end

-- ---- step sizes -----------------------------------------------------------------------------------------------------

--- pg.correction.svrg_bb { eta0 =, every = pg.epochs(1) } → correction: SVRG with Barzilai-Borwein step sizes (Tan et
-- al. 2016, arXiv 1605.04131): at a snapshot, with ds and dmu the changes of the point and of the full gradient since
-- the one before, the step is |ds|^2 / (m <ds, dmu>), m the steps between snapshots. Goes with a rule of lr = 1, which
-- it multiplies. eta0: the step until the second snapshot, and wherever <ds, dmu> is not positive.
M.svrg_bb = define {
  name = "svrg_bb",
  hyper = { eta0 = required },
  limits = { eta0 = "(0, inf)" }, exact = true,
  refresh = function(s, ctx)
    local ds = s.at and ctx.q.mean - s.at.mean
    local before = ds and generic.dot(ds, s.mean.g):item()
    local mean, eta = ctx:full(ctx.q), ctx.o.eta0
    if ds then
      local length = generic.dot(ds, ds):item()
      local change = generic.dot(ds, mean.g):item() - before + generic.dot(ds, ctx.weight_decay * ds):item()
      if change > 0 then eta = length / (ctx.every * change) end
    end
    s.at, s.mean, s.eta = ctx.q:clone(), mean, eta
  end,
  correct = function(s, ctx)
    return combine(ctx:evaluate(ctx.q), ctx:snapshot(s.at), s.mean, 1), { lr = s.eta }
  end,
}

--- pg.correction.adasvrg { every = pg.epochs(1) } → correction: SVRG with AdaGrad's scalar step size (Dubois-Taine
-- et al. 2021, arXiv 2102.09700): the rule's lr over the root of the sum of |v|^2 since the snapshot, v the
-- corrected gradient.
M.adasvrg = define {
  name = "adasvrg",
  state = { sum = vectors.scalar(0) },
  refresh = take_snapshot, exact = true,
  correct = function(s, ctx)
    local v = combine(ctx:evaluate(ctx.q), ctx:snapshot(s.at), s.mean, 1)
    s.sum = (ctx.refreshed and 0 or s.sum) + generic.dot(v.g, v.g)
    return v, { lr = 1 / generic.sqrt(s.sum) }
  end,
}

return M
