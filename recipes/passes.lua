-- How many passes over the data does each method of variance reduction need to come within 1e-6 of the minimum?
--
--   perigee recipes/passes.lua                  the whole table: five seeds, two batch sizes, some minutes
--   perigee recipes/passes.lua only=SVRG        the rows whose names contain a word
--   perigee recipes/passes.lua batch=10 seeds=1 limit=100
--   perigee resume runs/passes                  where an interrupted one goes on
--
-- A small logistic regression (200 examples, 10 features, condition number 225) whose data come from a linear
-- congruential generator, so that any program can make the same ones. Each method starts at 0 and is charged for every
-- gradient of one example; n of them are a pass. Step sizes and other parameters come from grids: the first seed tries
-- all of a grid, the settings with which it gets there are tried by the other seeds, and the row shows the one of least
-- median, or, where none gets there, of least median gap at the end (then the best eight of the first seed go on).
-- `reference` are the figures of an independent program that did the same with other random numbers; a row agrees where
-- the ranges of the seeds overlap, or where both do not get there and the gap of the reference is one that seeds here
-- end with, or within a factor of three of their median.

local pg = require "perigee"

local o = pg.options { seeds = 5, limit = 2000, target = 1e-6, batch = { "both", "1", "10" }, only = "" }

pg.set_threads(1) -- ten numbers are not worth sharing

-- ---- the problem ----------------------------------------------------------------------------------------------------

local N, D, LAMBDA = 200, 10, 0.01

-- Uniform numbers in [0, 1) of 53 bits, from Knuth's generator of MMIX.
local function uniform_stream(seed)
  local state = seed
  return function()
    state = state * 6364136223846793005 + 1442695040888963407
    return (state >> 11) * 2.0 ^ -53
  end
end

local function make_data()
  local u = uniform_stream(20210201)
  local function normal()
    local sum = 0
    for _ = 1, 12 do sum = sum + u() end
    return sum - 6
  end
  local w, x, y, largest = {}, {}, {}, 0
  for j = 1, D do w[j] = normal() end
  for i = 1, N do
    local row, margin, square = {}, 0, 0
    for j = 1, D do
      row[j] = j < D and normal() / (1 + 0.5 * (j - 1)) or 1
      margin, square = margin + row[j] * w[j], square + row[j] * row[j]
    end
    x[i], y[i] = row, margin + 0.5 * normal() >= 0 and 1 or -1
    largest = math.max(largest, square)
  end
  return x, y, largest / 4 + LAMBDA
end

local features, labels, L = make_data() -- L: the largest smoothness of one example's loss
local x, y = pg.tensor(features, "f64"), pg.tensor(labels, "f64")
local split = pg.data.from { x = x, y = y }
local model = pg.nn.sequential { pg.nn.linear(D, 1, { bias = false }) }

-- The regularizer belongs to each example's loss, so that every correction sees it.
local function loss(net, theta, batch)
  local w = theta["1.weight"]
  return pg.softplus(-batch.y * net(theta, batch.x):squeeze(2)):mean() + 0.5 * LAMBDA * (w * w):sum()
end

local function objective(w)
  return pg.softplus(-y * x:matmul(w):squeeze(2)):mean() + 0.5 * LAMBDA * (w * w):sum()
end

local minimum = pg.minimize.find(objective, pg.zeros({ D, 1 }, "f64"))
local value = pg.jit(function(theta) return objective(theta["1.weight"]) end)
print(("n = %d, d = %d, lambda = %g, L_max = %.17g"):format(N, D, LAMBDA, L))
print(("F* = %.17g, |gradient| there %.1e, F(0) - F* = %.4g"):format(minimum.value, minimum.gradient,
  math.log(2) - minimum.value))

-- ---- batches --------------------------------------------------------------------------------------------------------
-- A source of steps has at(step) → batch. Reshuffled ones are the library's; here are batches that are drawn without
-- replacement, each by itself.

local function draw_rows(u, list, size)
  local rows = {}
  for first = 0, N - size, size do
    for i = 1, size do
      local j = i + math.floor((N - i + 1) * u())
      list[i], list[j] = list[j], list[i]
      rows[first + i] = list[i]
    end
  end
  return pg.tensor(rows, "i64")
end

local SOURCES = {}

function SOURCES.iid(size, seed)
  local u, list, batch, rows = uniform_stream(seed), {}, split:staging(size, "f64"), nil
  for i = 1, N do list[i] = i - 1 end
  return { at = function(_, step) -- steps are asked for in their order
    local k = step * size % N
    if k == 0 then rows = draw_rows(u, list, size) end
    return split:fill(batch, rows, k, size)
  end }, pg.evaluator.memory(split:all("f64"))
end

function SOURCES.reshuffled(size, seed)
  local source = pg.sampler.shuffled(split, size, pg.key(seed), { dtype = "f64" })
  return source, source
end

-- ---- one run --------------------------------------------------------------------------------------------------------

local zero = pg.zeros(model.layout, "f64")

-- Run until the gap is at most the target: the passes spent, or infinity, and the gap at the end. The gap is looked at
-- after the first step past every `check` passes.
local function run(method, setting, size, seed, limit)
  local optimizer = method.make(setting, size)
  local source, whole = SOURCES[method.order](size, seed)
  local evaluator = pg.evaluator { loss = loss, model = model, source = whole, key = pg.key(seed),
    batch = method.by_batch and size or N, steps_per_epoch = N // size }
  local st, check = optimizer:init(zero, pg.key(seed)), method.check or 1
  local cost, due = st.cost, check
  local curve = { x = { 0 }, y = { math.log(2) - minimum.value } }
  while true do
    optimizer:step(st, evaluator, (source:at(st.step)))
    local passes = (cost.steps + cost.passes) / N
    if passes >= due then
      due = passes + check
      local gap = value(st.theta):item() - minimum.value
      if gap ~= gap or gap > 1e3 then return { passes = math.huge, gap = math.huge, curve = curve } end
      curve.x[#curve.x + 1], curve.y[#curve.y + 1] = passes, math.max(gap, 1e-9)
      if gap <= o.target then return { passes = passes, gap = gap, curve = curve } end
      if passes >= limit then return { passes = math.huge, gap = gap, curve = curve } end
    end
  end
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

-- Step sizes in units of 1 / L.
local UNITS = { 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 15, 21, 30 }

-- The grid of step sizes from `low` to `high` for batches of 1; those of ten bear steps eight times larger.
local function steps(low, high)
  return function(size)
    local list, scale = {}, size == 10 and 8 or 1
    for _, unit in ipairs(UNITS) do
      if unit > 0.9 * low * scale and unit < 1.1 * high * scale then list[#list + 1] = unit / L end
    end
    return { eta = list }
  end
end

local function grid(lists) return function() return lists end end

local correction, sgd = pg.correction, pg.rule.sgd

-- A method whose parameter is the step size of SGD's rule. make(batch size) → correction, or a correction.
local function by_step(make)
  return function(h, size)
    local c = type(make) == "function" and make(size) or make
    return pg.optimizer { rule = sgd { lr = h.eta }, correction = c, dtype = "f64" }
  end
end

-- A correction that chooses the step by itself, which multiplies the rule's lr.
local function own_step(make)
  return function(h) return pg.optimizer { rule = sgd { lr = 1 }, correction = make(h), dtype = "f64" } end
end

local function svrg(passes, alpha) return by_step(correction.svrg { every = pg.epochs(passes), alpha = alpha or 1 }) end

-- 0.75 in the first of 20 segments, 0 in the last one and after it.
local function falling_alpha(size)
  local per_segment = N // size
  return correction.svrg { alpha = function(step) return math.max(0, 0.75 * (1 - step // per_segment / 19)) end }
end

local function decaying(h)
  return pg.optimizer { dtype = "f64", rule = sgd {
    lr = function(step) return h.eta / (1 + h.q * h.eta * LAMBDA * step) end,
  } }
end

local function lkatyusha(h)
  return pg.optimizer { dtype = "f64", correction = correction.lsvrg {},
    rule = pg.wrapper.lkatyusha { L = h.L * L, sigma = LAMBDA } }
end

local DECAYS = grid { eta = { 0.2 / L, 0.5 / L, 1 / L, 2 / L }, q = { 0.25, 0.5, 1 } }
local STORM = grid { k = { 0.1, 0.3, 1, 3 }, w = { 0.1, 1, 10 }, c = { 1, 10 } }

-- What an independent program found: medians with the range of its seeds, or the gap at the end.
local function took(middle, least, most) return { passes = middle, least = least, most = most } end
local function stayed(gap, limit) return { passes = math.huge, gap = gap, limit = limit } end

-- make(setting, batch size) → optimizer; grid(batch size) → lists for pg.grid; order of the batches; limit: of passes;
-- check: every so many passes; by_batch: passes go by the batches of the steps; reference: at batches of 1 and of 10;
-- plot: whether its curve is drawn.
local methods = {
  { name = "SGD constant", order = "iid", check = 5, make = by_step(), grid = steps(0.002, 0.2), plot = true,
    reference = { stayed(2.6e-5, 2000), stayed(7.5e-5, 2000) } },
  { name = "SGD constant", order = "reshuffled", check = 5, make = by_step(), grid = steps(0.01, 0.1),
    reference = { took(190, 190, 215), took(210, 190, 215) } },
  { name = "SGD decaying", order = "iid", check = 5, make = decaying, grid = DECAYS,
    reference = { stayed(2.9e-5, 2000), stayed(2.3e-5, 2000) } },
  { name = "SGD decaying", order = "reshuffled", check = 5, make = decaying, grid = DECAYS, plot = true,
    reference = { took(50, 35, 50), took(95, 85, 100) } },
  { name = "SVRG m = 1 pass", order = "iid", make = svrg(1), grid = steps(0.3, 1.4), plot = true,
    reference = { took(16, 14, 17), took(16.1, 14.1, 19.1) } },
  { name = "SVRG m = 2 passes", order = "iid", make = svrg(2), grid = steps(0.3, 1.4),
    reference = { took(22, 21, 27), took(21.1, 19.1, 22.1) } },
  { name = "SVRG m = 1 pass", order = "reshuffled", make = svrg(1), grid = steps(0.3, 1.4),
    reference = { took(14, 13, 16), took(16.1, 14.1, 16.1) } },
  { name = "SVRG m = 2 passes", order = "reshuffled", make = svrg(2), grid = steps(0.3, 1.4),
    reference = { took(17, 17, 18), took(17.1, 17.1, 18.1) } },
  { name = "SVRG m = 5 passes", order = "iid", make = svrg(5), grid = steps(0.2, 1), plot = true,
    reference = { took(35, 30, 37), took(35.1, 30.1, 36.1) } },
  { name = "L-SVRG p = b/n", order = "iid", make = by_step(correction.lsvrg {}), grid = steps(0.3, 1.4),
    reference = { took(19.9, 18.7, 21.5), took(20.4, 15, 22.5) } },
  { name = "SVRG m = 1 pass, cached", order = "reshuffled", grid = steps(0.3, 1.4), by_batch = true,
    make = by_step(correction.svrg { every = pg.epochs(1), cache = "memory" }) },
  { name = "SAGA", order = "iid", make = by_step(correction.saga {}), grid = steps(0.2, 0.7), plot = true,
    reference = { took(11, 9, 12), took(12.1, 11.1, 12.1) } },
  { name = "SARAH m = 1 pass", order = "iid", make = by_step(correction.sarah {}), grid = steps(0.3, 1.4),
    reference = { took(16.9, 15.9, 19.9), took(18.4, 16.5, 22.3) } },
  { name = "SPIDER", order = "iid", make = own_step(function(h) return correction.spider { eps = h.eps, L = L } end),
    grid = grid { eps = { 0.003, 0.01, 0.03, 0.1, 0.3 } },
    reference = { took(24.9, 24.9, 24.9), took(213.7, 213.7, 215.6) } },
  { name = "PAGE p = b/(n+b)", order = "iid", make = by_step(correction.page {}), grid = steps(0.5, 2),
    reference = { took(19.4, 15.3, 23.4), took(21.1, 18.9, 27.1) } },
  { name = "STORM", order = "iid", limit = 1000, grid = STORM, plot = true,
    make = own_step(function(h) return correction.storm { k = h.k, w = h.w, c = h.c } end),
    reference = { stayed(5.7e-5, 1000), stayed(1.9e-5, 1000) } },
  { name = "STORM+", order = "iid", limit = 1000, make = own_step(function(h)
      return correction.storm_plus { k = h.k }
    end), grid = grid { k = { 0.1, 0.3, 1, 3, 10 } }, reference = { stayed(3.7e-4, 1000), stayed(2.8e-4, 1000) } },
  { name = "alpha-SVRG 0.90", order = "iid", limit = 1000, make = svrg(1, 0.9), grid = steps(0.01, 0.1),
    reference = { took(661, 598, 973), took(841.1, 733.1, math.huge) } },
  { name = "alpha-SVRG 0.75", order = "iid", limit = 1000, make = svrg(1, 0.75), grid = steps(0.01, 0.1),
    reference = { stayed(1.7e-5, 1000), stayed(1.6e-5, 1000) } },
  { name = "alpha-SVRG 0.50", order = "iid", limit = 1000, make = svrg(1, 0.5), grid = steps(0.01, 0.1), plot = true,
    reference = { stayed(5.6e-5, 1000), stayed(5.9e-5, 1000) } },
  { name = "alpha-SVRG 0.75 to 0", order = "iid", limit = 1000, make = by_step(falling_alpha), grid = steps(0.01, 0.1),
    reference = { stayed(2.1e-4, 1000), stayed(2.3e-4, 1000) } },
  { name = "SCSG mega-batch n/4", order = "reshuffled", limit = 1000, by_batch = true, grid = steps(0.01, 0.2),
    make = by_step(function(size) return correction.scsg { batches = N // 4 // size, cache = "memory" } end),
    reference = { took(278, 154, 490), took(262, 258, 292) } },
  { name = "L-Katyusha", order = "iid", make = lkatyusha, grid = grid { L = { 0.2, 0.5, 1 } },
    reference = { took(23.9, 13.8, 28.1), took(33.2, 29.4, 38.6) } },
  { name = "AdaSVRG m = 1 pass", order = "iid", make = by_step(correction.adasvrg {}),
    grid = grid { eta = { 0.01, 0.03, 0.1, 0.3, 1 } }, reference = { took(26, 26, 29), took(50.1, 32.1, 56.1) } },
  { name = "SVRG-BB m = 1 pass", order = "iid", grid = steps(0.1, 0.5),
    make = own_step(function(h) return correction.svrg_bb { eta0 = h.eta } end) },
  { name = "full gradient descent", order = "reshuffled", size = N, make = by_step(), grid = steps(4, 30), plot = true,
    reference = { took(33, 33, 33), took(33, 33, 33) } },
}

-- ---- the search -----------------------------------------------------------------------------------------------------

local function median(list)
  table.sort(list)
  local m = #list // 2
  return #list % 2 == 1 and list[m + 1] or 0.5 * (list[m] + list[m + 1])
end

-- Whether result a is better than b: there sooner, or, where neither is, closer.
local function is_better(a, b)
  if a.passes ~= b.passes then return a.passes < b.passes end
  return a.gap < b.gap
end

-- All seeds of one setting, of which the first one's result is known.
local function run_seeds(method, first, size, limit)
  local passes, gaps = { first.passes }, { first.gap }
  for seed = 2, o.seeds do
    local result = run(method, first.setting, size, seed, limit)
    passes[seed], gaps[seed] = result.passes, result.gap
  end
  local middle, gap = median(passes), median(gaps) -- which sort
  return { passes = middle, least = passes[1], most = passes[#passes], gap = gap, gaps = { gaps[1], gaps[#gaps] },
    setting = first.setting, curve = first.curve, limit = limit }
end

local GO_ON = 8 -- settings that all seeds try where none gets there

-- The best setting of a method's grid, by the median over the seeds.
local function search(method, size)
  local limit, tried, arrived = math.min(o.limit, method.limit or o.limit), {}, 0
  for setting in pg.grid(method.grid(size)) do
    local result = run(method, setting, size, 1, limit)
    result.setting, tried[#tried + 1] = setting, result
    if result.passes < math.huge then arrived = arrived + 1 end
  end
  table.sort(tried, is_better)
  local winner
  for i = 1, math.min(#tried, arrived > 0 and arrived or GO_ON) do
    local result = run_seeds(method, tried[i], size, limit)
    if not winner or is_better(result, winner) then winner = result end
  end
  return winner
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local function describe(r)
  if not r then return "" end
  if r.passes == math.huge then
    return ("not in %d; gap %.1e"):format(r.limit, r.gap) .. (r.gaps and (" (%.1e-%.1e)"):format(r.gaps[1], r.gaps[2])
      or "")
  end
  return ("%.1f (%.1f-%.1f)"):format(r.passes, r.least, r.most)
end

local function describe_setting(setting)
  local parts = {}
  for name, v in pairs(setting) do parts[#parts + 1] = ("%s = %.4g"):format(name, v) end
  return table.concat(parts, ", ")
end

-- Whether a result agrees with the reference; "" where there is nothing to say: none, or the run was cut shorter.
local function compare(r, reference)
  if not reference then return "" end
  local agrees
  if reference.passes < math.huge then
    agrees = r.least < reference.most + 0.05 and r.most > reference.least - 0.05 -- which is rounded
    if r.passes == math.huge and r.limit < reference.passes then return "" end
  else
    local gap = reference.gap
    agrees = r.passes == math.huge and gap > math.min(r.gaps[1], r.gap / 3) and gap < math.max(r.gaps[2], 3 * r.gap)
    if r.limit < reference.limit then return "" end
  end
  return agrees and "yes" or "no"
end

local jobs = {}
for index, size in ipairs { 1, 10 } do
  for _, method in ipairs(methods) do
    local name = method.size and method.name or ("%s, %s"):format(method.name, method.order)
    local wanted = o.batch == "both" or tonumber(o.batch) == size
    if wanted and name:lower():find(o.only:lower(), 1, true) then
      jobs[#jobs + 1] = { method = method, name = name, size = size, reference = (method.reference or {})[index] }
    end
  end
end

-- One row of the table is a step of the run, so that an interrupted table goes on with `perigee resume`.
local result = pg.run {
  name = "passes", steps = #jobs, state = { rows = {}, curves = {} }, config = { seeds = o.seeds, limit = o.limit },
  step = function(state, ctx)
    local job = jobs[ctx.step + 1]
    local found = search(job.method, job.method.size or job.size)
    state.rows[ctx.step + 1] = { job.name, describe(found), describe_setting(found.setting), describe(job.reference),
      compare(found, job.reference) }
    state.curves[ctx.step + 1] = found.curve
    ctx:log { method = job.name, batch = job.size, setting = tostring(found.setting), gap = found.gap,
      passes = found.passes < math.huge and found.passes or nil }
  end,
}

-- ---- what came out --------------------------------------------------------------------------------------------------

local function show(size)
  local lines, curves = {}, {}
  for k, job in ipairs(jobs) do
    local row, curve = result.state.rows[k], result.state.curves[k]
    if job.size == size and row then
      lines[#lines + 1] = row
      if job.method.plot then curves[#curves + 1] = { name = job.name, x = curve.x, y = curve.y } end
    end
  end
  if #lines == 0 then return end
  print(("\nbatches of %d"):format(size))
  pg.table.print({ "method", "passes: median (range)", "at", "reference", "agrees" }, lines, { [2] = true, [4] = true })
  if #curves == 0 then return end
  local picture = { title = ("F - F* of the first seed, batches of %d"):format(size), log = true, logx = true,
    xlabel = "passes (gradients / n)", lines = { { y = o.target, name = "target" } } }
  print()
  io.write(pg.plot.draw(curves, picture))
  pg.plot.save(("%s/passes-%d.svg"):format(result.directory, size), curves, picture)
end

show(1)
show(10)
