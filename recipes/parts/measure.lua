-- measure.lua: methods on a problem of parts/logistic.lua: one run, medians over seeds, the best step size of a grid.
-- x is passes over the data: gradient evaluations / n, those of full passes among them.

local pg = require "perigee"
local tuning = require "parts.tuning"

local measure = { median = tuning.median }

-- Not a number, or beyond every start: the step size was too large.
local function settle(gap) return gap == gap and gap < 1e6 and gap or math.huge end

-- One run for so many passes over the data. how: { batch, passes, seed, points = gaps measured an epoch (0: only at the
-- end), name = of its directory (false: none), each(ctx, epoch) = called after every epoch }
-- → { x, gap } (lists; only the end for points = 0), the last gap, the run; gaps of a run that diverged are infinite.
function measure.run(problem, optimizer, how)
  local steps = math.ceil(problem.n / how.batch)
  local every = math.max(1, steps // math.max(1, how.points))
  local start = pg.zeros(problem.model.layout, "f64")
  local curve = { x = { 0 }, gap = { problem:gap(start) } }
  local function add(gap, gradients)
    curve.x[#curve.x + 1], curve.gap[#curve.gap + 1] = gradients / problem.n, settle(gap)
  end
  local out
  if not how.name then out = false end
  local run = tuning.train {
    name = how.name or "run", out = out, model = problem.model, theta = start,
    data = problem.train, loss = problem.loss, optimizer = optimizer, batch = how.batch, seed = how.seed,
    budget = { gradients = how.passes * problem.n }, log_every = steps, hash_every = 0,
    hooks = {
      on_step = how.points > 0 and function(ctx)
        if (ctx.step + 1) % every == 0 then ctx:log { gap = settle(problem:gap(ctx.theta)) } end
      end or nil,
      on_epoch = how.each,
    },
  }
  if not run then
    add(math.huge, how.passes * problem.n)
    return curve, math.huge
  end
  local logged = run:curve("gap", "gradients")
  for i, gradients in ipairs(logged.x) do add(logged.y[i], gradients) end
  local last = settle(problem:gap(run.theta))
  if curve.x[#curve.x] * problem.n < run.cost:gradients() then add(last, run.cost:gradients()) end
  return curve, last, run
end

-- What the best step has least of: the mean of log10(gap) over the ends of the epochs, so that speed, level and a start
-- without accidents count alike.
function measure.score(problem, optimizer, how)
  local sum, count = 0, 0
  local own = { batch = how.batch, passes = how.passes, seed = 1, points = 0, each = function(ctx)
    sum, count = sum + math.log(math.max(settle(problem:gap(ctx.theta)), 1e-30), 10), count + 1
  end }
  local _, last = measure.run(problem, optimizer, own)
  return count > 0 and last < math.huge and sum / count or last
end

-- The run of each seed from 1 to `seeds`. → { x, gap (medians), low, high }, the median of the last gaps, a run
function measure.over_seeds(problem, make, how, seeds)
  local curves, ends, run = {}, {}, nil
  for seed = 1, seeds do
    local own = { seed = seed, name = how.name and ("%s-seed%d"):format(how.name, seed) }
    for key, value in pairs(how) do own[key] = own[key] == nil and value or own[key] end
    curves[seed], ends[seed], run = measure.run(problem, make(), own)
  end
  local out = { x = {}, gap = {}, low = {}, high = {} }
  for i, x in ipairs(curves[1].x) do
    local column = {}
    for _, curve in ipairs(curves) do column[#column + 1] = curve.gap[i] or math.huge end
    out.x[i], out.gap[i] = x, measure.median(column)
    out.low[i], out.high[i] = math.min(table.unpack(column)), math.max(table.unpack(column))
  end
  return out, measure.median(ends), run
end

-- The power of two whose score_of(lr) is least: beginning with three around 2^first, the grid grows on the side where
-- the best one lies. → lr, the grid as text
function measure.search(score_of, first)
  local best, low, high = tuning.search(2.0, first, 20, score_of)
  return 2.0 ^ best, ("2^%d … 2^%d"):format(low, high)
end

return measure
