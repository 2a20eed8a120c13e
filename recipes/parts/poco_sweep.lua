-- poco_sweep.lua: recipes/poco_logreg.lua part=sweep: IVON-PoCo without weight noise over the strength alpha × the
-- period T (steps) × the mega-batch M (batches), at fixed steps, beside the rule
--
--   alpha* = 1 / (1 + tau / M),  tau = min(T, 1 / lr)
--
-- Over tau steps the batches' noise that is left adds up as (1 - alpha)^2 tau, and the mega-batch's, which is the
-- same in all of them, as alpha^2 tau^2 / M. A mega-batch is drawn without replacement, so its M counts as M / (1 - M
-- batch / n).

local pg = require "perigee"
local measure = require "parts.measure"

local STEPS, STRENGTHS = { 0.05, 0.2 }, { 0, 0.25, 0.5, 0.75, 1 }

-- The mean gap of the last quarter of the epochs, median over the seeds.
local function level(part, method, lr, more)
  local o, problem, levels = part.o, part.problem, {}
  local epochs = math.max(4, math.floor(2 * o.passes / 3))
  local steps = math.ceil(problem.n / part.batch)
  local pass = more.alpha == 0 and 0 or (more.mega == "full" and problem.n or more.mega * part.batch) / problem.n
  local passes = epochs * ((more.alpha == 0 and 1 or 2) + pass * steps / more.every)
  for seed = 1, o.seeds do
    local sum, count = 0, 0
    local _, last = measure.run(problem, part.make(method, lr, more), { batch = part.batch, passes = passes, points = 0,
      seed = seed, each = function(ctx, epoch)
        if 4 * epoch > 3 * epochs then sum, count = sum + problem:gap(ctx.theta), count + 1 end
      end })
    levels[seed] = count > 0 and last < math.huge and sum / count or last
  end
  return measure.median(levels)
end

local function rule_of(part, lr, every, mega)
  if mega == "full" then return 1 end
  local share = math.min(1, mega * part.batch / part.problem.n)
  local tau = math.min(every, 1 / lr)
  return 1 / (1 + tau * (1 - share) / mega)
end

-- The gaps of all strengths as text, and the strength of the least one.
local function row_of(part, method, lr, every, mega, plain)
  local texts, best, best_gap = {}, 0, plain
  for i, alpha in ipairs(STRENGTHS) do
    local more = { noise = false, alpha = alpha, every = every, mega = mega }
    local gap = alpha == 0 and plain or level(part, method, lr, more)
    if gap < best_gap then best, best_gap = alpha, gap end
    texts[i] = ("%.1e"):format(gap)
  end
  return texts, best
end

return function(part)
  local steps, method = math.ceil(part.problem.n / part.batch)
  for _, m in ipairs(part.methods) do
    if m.name == "IVON-PoCo" then method = m end
  end
  local rows = {}
  for _, lr in ipairs(STEPS) do
    local plain = level(part, method, lr, { noise = false, alpha = 0, every = steps })
    for _, every in ipairs { steps // 4, steps, 4 * steps } do
      for _, mega in ipairs { 1, 5, 20, 50, "full" } do
        local texts, best = row_of(part, method, lr, every, mega, plain)
        rows[#rows + 1] = { ("%g"):format(lr), tostring(every), tostring(mega), table.unpack(texts) }
        local row = rows[#rows]
        row[#row + 1], row[#row + 2] = ("%g"):format(best), ("%.2f"):format(rule_of(part, lr, every, mega))
      end
    end
  end
  local titles = { "lr", "T", "M" }
  for _, alpha in ipairs(STRENGTHS) do titles[#titles + 1] = ("alpha = %g"):format(alpha) end
  titles[#titles + 1], titles[#titles + 2] = "best alpha", "rule"
  print "\ngap, mean over the last quarter of the epochs:"
  pg.table.print(titles, rows)
end
