-- poco_figure.lua: the figure of recipes/poco_logreg.lua: every method at its best step, in tables and plots.

local pg = require "perigee"
local measure = require "parts.measure"

local TARGETS = { 1e-3, 1e-4, 1e-5, 1e-6, 1e-8 }

-- Which of the methods are asked for and make sense: "all", or names separated by commas.
local function choose(part)
  local o, out = part.o, {}
  for _, method in ipairs(part.methods) do
    local is_asked = o.methods == "all" or ("," .. o.methods .. ","):find("," .. method.name .. ",", 1, true)
    local is_point_again = method.family == "isotropic" and not o.noise
    local is_too_large = method.family == "full" and (part.problem.parameters > 800 or o.newton_passes == 0)
    if is_asked and not is_point_again and not is_too_large then out[#out + 1] = method end
  end
  return out
end

-- The best constant step of a method and its runs with it.
local function study(part, method)
  local o = part.o
  local how = { batch = part.batch, passes = method.family == "full" and o.newton_passes or o.passes,
    points = o.points }
  local lr, grid = measure.search(function(lr)
    return measure.score(part.problem, part.make(method, lr), how)
  end, method.first)
  how.name = ("poco-%s-%s%s"):format(o.data, method.name, o.noise and "" or "-exact")
  local curve, last, run = measure.over_seeds(part.problem, function() return part.make(method, lr) end, how, o.seeds)
  return { name = method.name, method = method, lr = lr, grid = grid, curve = curve, last = last, run = run }
end

-- The median gap after so many passes: of the last point that is not later.
local function gap_at(result, passes)
  local gap
  for i, x in ipairs(result.curve.x) do
    if x <= passes + 1e-6 then gap = result.curve.gap[i] end
  end
  return gap
end

-- Passes until the median gap is at most `target`, or nil.
local function passes_to(result, target)
  for i, gap in ipairs(result.curve.gap) do
    if gap <= target then return result.curve.x[i] end
  end
end

local function number(x) return x and ("%.1e"):format(x) or "" end

local function show_passes(part, results)
  local rows = {}
  for i, r in ipairs(results) do
    local ends = #r.curve.x
    local row = { r.name, ("%g"):format(r.lr), r.grid, ("%g"):format(r.curve.x[ends]), number(r.last),
      ("%s … %s"):format(number(r.curve.low[ends]), number(r.curve.high[ends])) }
    for _, target in ipairs(TARGETS) do
      local passes = passes_to(r, target)
      row[#row + 1] = passes and ("%.2f"):format(passes) or "-"
    end
    local products = r.run and r.run.cost.products or 0
    row[#row + 1] = products > 0 and ("%.0f"):format(products / part.problem.n) or ""
    rows[i] = row
  end
  local titles = { "method", "step", "grid", "passes", "gap", "over the seeds" }
  for _, target in ipairs(TARGETS) do titles[#titles + 1] = ("to %.0e"):format(target) end
  titles[#titles + 1] = "H-products / n"
  pg.table.print(titles, rows)
end

-- The same by inner steps: gaps after epochs, whatever they cost.
local function show_epochs(part, results)
  local epochs, rows = { 1, 2, 5, 10, 20 }, {}
  for i, r in ipairs(results) do
    rows[i] = { r.name }
    for _, epoch in ipairs(epochs) do
      local passes = epoch * part.passes_of_epoch(r.method)
      local known = passes <= r.curve.x[#r.curve.x] + 1e-6
      rows[i][#rows[i] + 1] = known and number(gap_at(r, passes)) or ""
    end
  end
  local titles = { "method" }
  for _, epoch in ipairs(epochs) do titles[#titles + 1] = ("%d epoch%s"):format(epoch, epoch > 1 and "s" or "") end
  pg.table.print(titles, rows)
end

-- Whether each corrected method goes on falling where its base stalls: what the second half of the passes was good for.
local function show_halves(results)
  local rows = {}
  for i, r in ipairs(results) do
    local half = gap_at(r, r.curve.x[#r.curve.x] / 2)
    rows[i] = { r.name, number(half), number(r.last), ("%.3g"):format(half / r.last) }
  end
  pg.table.print({ "method", "gap at half", "at the end", "ratio" }, rows)
end

-- ---- plots ----------------------------------------------------------------------------------------------------------

local FLOOR = 1e-17 -- what a gap below the last digits is drawn at

local function gap_series(r)
  local s = { name = r.name, x = r.curve.x, y = {}, low = {}, high = {} }
  for i in ipairs(s.x) do
    s.y[i], s.low[i] = math.max(r.curve.gap[i], FLOOR), math.max(r.curve.low[i], FLOOR)
    s.high[i] = math.max(r.curve.high[i], FLOOR)
  end
  return s
end

-- The loss itself where it is near the minimum: the last hundredth of the way from the start.
local function loss_series(r, value)
  local s, near = { name = r.name, x = {}, y = {} }, 0.01 * r.curve.gap[1]
  for i, x in ipairs(r.curve.x) do
    if r.curve.gap[i] <= near then s.x[#s.x + 1], s.y[#s.y + 1] = x, value + r.curve.gap[i] end
  end
  return s
end

local function draw(part, results)
  local o, gaps, losses, marks = part.o, {}, {}, {}
  for i, r in ipairs(results) do
    gaps[i], losses[i] = gap_series(r), loss_series(r, part.problem.minimum.value)
  end
  local period = 1
  for _, r in ipairs(results) do period = math.max(period, part.passes_of_epoch(r.method)) end
  for k = 0, math.ceil(o.passes / period) - 1 do
    marks[k + 1] = { x = k * period, name = k == 0 and "outer passes" or nil }
  end
  local title = ("%s, %s"):format(o.data, o.noise and ("ess = %g n"):format(o.ess) or "no weight noise")
  local gap_options = { title = "gap: " .. title, log = true, xlabel = "passes over the data", marks = marks }
  local loss_options = { title = "loss near the minimum: " .. title, xlabel = "passes over the data", marks = marks,
    lines = { { y = part.problem.minimum.value, name = "minimum" } } }
  io.write("\n", pg.plot.draw(gaps, gap_options), "\n", pg.plot.draw(losses, loss_options))
  for _, r in ipairs(results) do
    if r.run and r.run.directory then
      pg.plot.save(r.run.directory .. "/gap.svg", gaps, gap_options)
      pg.plot.save(r.run.directory .. "/loss.svg", losses, loss_options)
      return print(("\nas pictures: gap.svg and loss.svg in %s"):format(r.run.directory))
    end
  end
end

return function(part)
  local results = {}
  for i, method in ipairs(choose(part)) do results[i] = study(part, method) end
  print "\nat equal passes:"
  show_passes(part, results)
  print "\nat equal inner steps:"
  show_epochs(part, results)
  print "\nthe second half of the passes:"
  show_halves(results)
  draw(part, results)
end
