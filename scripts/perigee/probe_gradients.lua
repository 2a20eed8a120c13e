-- probe_gradients.lua: what batches say about a method at one point of a run: variance of its gradients against those
-- of the plain method, the best strength of a correction, the variance metrics of alpha-SVRG, gradient noise and
-- directions. Averages over batches are weighted by the batches' examples, but for the metrics, whose definition is
-- over equal ones.

local core = require "perigee.core"
local linalg = require "perigee.linalg"
local moments = require "perigee.probe_moments"
local names = require "perigee.names"
local subject = require "perigee.subject"
local views = require "perigee.probe_batches"

local M = {}

local square, dot, sum = moments.square, moments.dot, moments.sum

-- ---- distances ------------------------------------------------------------------------------------------------------

local function distance_between(q, at) return square(q.mean:to("f64") - at.mean:to("f64")) ^ 0.5 end

--- pg.probe.distance(where [, at]) → number: |w - s|, the distance of the mean from the correction's snapshot, or from
-- `at`, a vector of parameters; nil before there is a snapshot. It evaluates nothing.
function M.distance(where, at)
  local st = subject.complete("pg.probe.distance", where, "st").st
  local snapshot = at and { mean = at } or views.snapshot(st)
  return snapshot and distance_between(st.q, snapshot) or nil
end

-- ---- variance of a correction against plain sampling ----------------------------------------------------------------

-- Of one field: both variances around the mean of the plain statistics, and their ratio.
local function compare(plain, corrected)
  local v_plain, spread = plain:variance(), corrected:variance()
  local bias = square(corrected.mean - plain.mean)
  local v_corrected = spread + bias
  return { plain = v_plain, corrected = v_corrected, ratio = v_corrected / v_plain, spread = spread, bias = bias ^ 0.5 }
end

--- pg.probe.variance(where [, { batches =, count =, epoch =, key = }]) → table: What a correction does to the variance
-- of the statistics at a frozen point (Defazio & Bottou 2019): with g the plain statistics of a batch, gbar their mean
-- over the batches, and v what the correction makes of g with its present snapshot and state,
--     V_plain = mean |g - gbar|^2,  V_corrected = mean |v - gbar|^2,  ratio = V_corrected / V_plain
-- where: the ctx of a hook of pg.train, its result, or { optimizer =, state =, evaluator = }.
--   batches: a list of batches; default those of the epoch that the last step was in, each under the keys and noise of
--     its step. count: only so many of them, evenly spaced. epoch: another one (0-based). key: the run's, if it is not
--     the state's or the evaluator's.
--   result: { g = { plain, corrected, ratio, spread, bias }, h = { … } where the family gives it, ratio (of g),
--     distance (from the snapshot), active (whether the correction was on), batches, evaluations }. spread: mean
--     |v - mean v|^2; bias: |mean v - gbar|, which is part of `corrected`: over all batches of a pass it is 0 where the
--     correction is unbiased. Where the correction is not active, both are those of the plain method.
-- It costs what the steps on these batches would. Nothing is changed but the count of probes.
function M.variance(where, options)
  local owner, o = "pg.probe.variance", options or {}
  views.check_options(owner, o)
  local view = views.open(owner, where, o)
  local found, count = {}, 0
  view:run(view.corrected and { "corrected", "plain" } or { "plain" }, nil, function(stats, n)
    count = count + 1
    for field, plain in next, stats.plain do
      local pair = found[field] or { plain = moments.new(), corrected = moments.new() }
      found[field] = pair
      pair.plain:add(plain, n)
      pair.corrected:add((stats.corrected or stats.plain)[field], n)
    end
  end)
  local result = { batches = count, evaluations = view.spent, active = view.corrected, distance = M.distance(where) }
  for field, pair in next, found do result[field] = compare(pair.plain, pair.corrected) end
  result.ratio = result.g.ratio
  return result
end

-- ---- the best strength ----------------------------------------------------------------------------------------------

-- Name → number, by tensors of a vector's layout: sums of a over sums of b (and `floor`).
local function by_tensor(a, b, floor)
  local over, under, layout, out = a:per_tensor():sum():totable(), b:per_tensor():sum():totable(), a.layout, {}
  for i = 1, #layout do out[layout[i].name] = over[i] / (under[i] + floor) end
  return out
end

-- Mean and quantiles of the numbers of a vector.
local function summarize(x)
  local flat = x:flat()
  local out, found = { mean = flat:mean():item() }, flat:quantile({ 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1 }):totable()
  for i, name in ipairs { "min", "q05", "q25", "median", "q75", "q95", "max" } do out[name] = found[i] end
  return out
end

local FLOOR, MOST = 1e-24, 2 -- as in the authors' program

--- pg.probe.alpha(where [, { at =, batches =, count =, epoch =, key = }]) → table: The strength of SVRG that leaves
-- the least variance at a frozen point w, given the snapshot s (Yin et al. 2025, arXiv 2311.05589), from the gradients
-- of batches at both:
--     alpha = Cov(g(s), g(w)) / Var(g(s)),  population moments over the batches
-- where, batches, count, epoch, key: as in pg.probe.variance. at: what to take for the snapshot, a vector or a
-- posterior; default that of the correction.
--   result: { alpha (of all numbers together: sum of covariances over sum of variances), per_tensor (name → number),
--     per_component (a vector, cut to [-2, 2]), summary (of it: mean, min, q05, q25, median, q75, q95, max), cosine
--     (mean over batches of that between g(w) and g(s)), cosine_of_means, curvature (|gbar(w) - gbar(s)| / |w - s|),
--     distance, batches, evaluations }.
function M.alpha(where, options)
  local owner, o = "pg.probe.alpha", options or {}
  views.check_options(owner, o, { "at" })
  local view = views.open(owner, where, o)
  local at = view:other_point()
  local pair, count, cosines = moments.pair(), 0, 0
  view:run({ "plain", "other" }, at, function(stats, n)
    local now, old = stats.plain.g, stats.other.g
    count, cosines = count + 1, cosines + n * dot(now, old) / (square(now) * square(old)) ^ 0.5
    pair:add(old, now, n)
  end)
  local old, now = pair.x, pair.y
  local component = (pair.products / (old.squares + FLOOR * old.total)):clip(-MOST, MOST)
  local distance = distance_between(view.st.q, at)
  return {
    alpha = sum(pair.products) / sum(old.squares),
    per_tensor = by_tensor(pair.products, old.squares, FLOOR * old.total),
    per_component = component, summary = summarize(component), cosine = cosines / old.total,
    cosine_of_means = dot(now.mean, old.mean) / (square(now.mean) * square(old.mean)) ^ 0.5,
    curvature = square(now.mean - old.mean) ^ 0.5 / distance, distance = distance,
    batches = count, evaluations = view.spent,
  }
end

-- ---- the metrics of alpha-SVRG --------------------------------------------------------------------------------------

-- Products of all pairs of the rows of a matrix, as a table of rows.
local function gram(rows)
  return rows:matmul(rows:t())
end

local function mean_direction(products)
  local total, n = 0, #products
  for i = 1, n do
    for j = i + 1, n do
      total = total + 0.5 * (1 - products[i][j] / (products[i][i] * products[j][j]) ^ 0.5)
    end
  end
  return 2 * total / (n * (n - 1))
end

--- pg.probe.metrics_of(list) → { m1, m2, m3 }: The variance metrics of alpha-SVRG (Yin et al. 2025) for a list of N
-- gradients, vectors or tensors of one shape, in f64:
--     m1 = 2 / (N (N - 1)) sum over i < j of (1 - cos(g_i, g_j)) / 2    directions
--     m2 = sum over components of Var(g_k), the trace of the covariance
--     m3 = the largest eigenvalue of the covariance, from the N × N products of the centred gradients
-- The authors' page writes the sum of m1 over all i ≠ j; their program, and this, over pairs.
function M.metrics_of(list)
  if type(list) ~= "table" or #list < 2 then
    core.raise("pg.probe.metrics_of takes a list of at least two gradients, not " .. names.describe(list))
  end
  local n, rows = #list, {}
  for i, g in ipairs(list) do
    local x = g:to("f64")
    rows[i] = (x.layout and x:flat() or x:reshape { x.size }):reshape { 1, x.size }
  end
  local all = core.apply("concat", { a = { 0 } }, table.unpack(rows))
  local centred = gram(all - all:mean(1, true)) / n
  local values = linalg.eigh(centred):totable()
  local trace = 0
  for i, row in ipairs(centred:totable()) do trace = trace + row[i] end
  return { m1 = mean_direction(gram(all):totable()), m2 = trace, m3 = values[n] }
end

--- pg.probe.metrics(where [, { batches =, count =, epoch =, key = }]) → { plain, corrected, batches, evaluations }: The
-- three metrics of pg.probe.metrics_of for the gradients of batches, as they are and as the correction makes them (nil
-- where it is not active). It keeps the gradients of all batches: choose count where there are many. Arguments as in
-- pg.probe.variance.
function M.metrics(where, options)
  local owner, o = "pg.probe.metrics", options or {}
  views.check_options(owner, o)
  local view = views.open(owner, where, o)
  local found = { plain = {}, corrected = view.corrected and {} or nil }
  view:run(view.corrected and { "corrected", "plain" } or { "plain" }, nil, function(stats)
    for what, list in next, found do list[#list + 1] = stats[what].g:copy() end
  end)
  return { plain = M.metrics_of(found.plain), corrected = found.corrected and M.metrics_of(found.corrected),
    batches = #found.plain, evaluations = view.spent }
end

-- ---- noise and directions -------------------------------------------------------------------------------------------

--- pg.probe.gradients(where [, { batches =, count =, epoch =, key = }]) → table: Signal and noise of the plain
-- gradients of batches at a frozen point. Arguments as in pg.probe.variance.
--   result: { mean (gbar, a vector), norm (|gbar|), variance (mean |g - gbar|^2), snr (|gbar|^2 over variance),
--     per_tensor (name → the same ratio), cosine (mean between the gradients of consecutive batches; nil for one
--     batch), cosine_to_mean (mean over batches), batches, evaluations }.
function M.gradients(where, options)
  local owner, o = "pg.probe.gradients", options or {}
  views.check_options(owner, o)
  local view = views.open(owner, where, o)
  local found, count, previous, cosines, units = moments.new(), 0, nil, 0, moments.new()
  view:run({ "plain" }, nil, function(stats, n)
    local g = stats.plain.g
    local unit = g / square(g) ^ 0.5
    if previous then cosines = cosines + dot(unit, previous) end
    count, previous = count + 1, unit
    found:add(g, n)
    units:add(unit, n)
  end)
  local norm, variance = square(found.mean) ^ 0.5, found:variance()
  return {
    mean = found.mean, norm = norm, variance = variance, snr = norm * norm / variance,
    per_tensor = by_tensor(found.mean * found.mean, found.squares / found.total, 0),
    cosine = count > 1 and cosines / (count - 1) or nil, cosine_to_mean = dot(units.mean, found.mean) / norm,
    batches = count, evaluations = view.spent,
  }
end

return M
