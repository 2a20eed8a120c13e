-- How many passes over the data does each method of variance reduction need to come within 1e-6 of the minimum?
--
--   perigee recipes/passes.lua                  the whole table: five seeds, two batch sizes, some minutes
--   perigee recipes/passes.lua only=SVRG        the rows whose names contain a word
--   perigee recipes/passes.lua batch=10 seeds=1 limit=100
--
-- A small logistic regression (200 examples, 10 features, condition number 225) whose data come from a linear
-- congruential generator, so that any program can make the same ones. Each method starts at 0 and is charged for every
-- gradient of one example; n of them are a pass. Step sizes and other parameters come from grids: the first seed tries
-- all of a grid, the settings with which it gets there are tried by the other seeds, and the row shows the one of least
-- median. `reference` are the figures of an independent program that did the same with other random numbers; a row
-- agrees where the ranges of its seeds overlap, or where both do not get there and their best gaps lie within a factor
-- of three.

local pg = require "perigee"

local o = pg.options { seeds = 5, limit = 2000, target = 1e-6, batch = { "both", "1", "10" }, only = "" }

pg.set_threads(1) -- ten numbers are not worth sharing

-- ---- the problem ----------------------------------------------------------------------------------------------------

local N, D, LAMBDA = 200, 10, 0.01

-- Uniform numbers in [0, 1) with 53 bits: Knuth's generator modulo 2^64.
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

local rows, labels, L = make_data() -- L: the largest smoothness of one example's loss
local x, y = pg.tensor(rows, "f64"), pg.tensor(labels, "f64")
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

-- Run until the gap is at most the target: the passes spent, or infinity, and the best gap seen. The gap is looked at
-- after the first step past every `check` passes.
local function run(method, setting, size, seed, limit)
  local optimizer = method.make(setting[1], size, table.unpack(setting, 2))
  local source, whole = SOURCES[method.order](size, seed)
  local evaluator = pg.evaluator { loss = loss, model = model, source = whole, key = pg.key(seed),
    batch = method.mega and size or N, steps_per_epoch = N // size }
  local st, check = optimizer:init(zero, pg.key(seed)), method.check or 1
  local cost, due, best = st.cost, check, math.huge
  local curve = { x = { 0 }, y = { math.log(2) - minimum.value } }
  while true do
    optimizer:step(st, evaluator, (source:at(st.step)))
    local passes = (cost.steps + cost.passes) / N
    if passes >= due then
      due = passes + check
      local gap = value(st.theta):item() - minimum.value
      if gap ~= gap or gap > 1e3 then return { passes = math.huge, best = best, curve = curve } end
      best = math.min(best, gap)
      curve.x[#curve.x + 1], curve.y[#curve.y + 1] = passes, math.max(gap, 1e-9)
      if gap <= o.target then return { passes = passes, best = gap, curve = curve } end
      if passes >= limit then return { passes = math.huge, best = best, curve = curve } end
    end
  end
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

-- Step sizes in units of 1 / L.
local UNITS = { 0.01, 0.02, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 15, 21, 30 }

-- The grid of step sizes from `low` to `high` for batches of 1; those of ten bear steps eight times larger.
local function steps(low, high)
  return function(size)
    local list, scale = {}, size == 10 and 8 or 1
    for _, unit in ipairs(UNITS) do
      if unit > 0.9 * low * scale and unit < 1.1 * high * scale then list[#list + 1] = { unit / L } end
    end
    return list
  end
end

local function values(list)
  for i, v in ipairs(list) do list[i] = { v } end
  return function() return list end
end

-- All choices of one entry of each list.
local function product(...)
  local out = { {} }
  for _, list in ipairs { ... } do
    local longer = {}
    for _, head in ipairs(out) do
      for _, v in ipairs(list) do
        longer[#longer + 1] = table.move(head, 1, #head, 1, {})
        longer[#longer][#head + 1] = v
      end
    end
    out = longer
  end
  return out
end

local correction, sgd = pg.correction, pg.rule.sgd

-- A method whose one parameter is the step size of SGD's rule. make(options) → correction.
local function by_step(make)
  return function(eta, size)
    return pg.optimizer { rule = sgd { lr = eta }, correction = make and make(size) or nil, dtype = "f64" }
  end
end

-- A correction that chooses the step by itself, and multiplies the rule's lr.
local function own_step(make)
  return function(...) return pg.optimizer { rule = sgd { lr = 1 }, correction = make(...), dtype = "f64" } end
end

local function svrg_every(epochs, alpha)
  return by_step(function() return correction.svrg { every = pg.epochs(epochs), alpha = alpha or 1 } end)
end

-- 0.75 in the first of 20 segments, 0 in the last one and after it.
local function falling_alpha(eta, size)
  local per_segment = N // size
  local function alpha(step) return math.max(0, 0.75 * (1 - step // per_segment / 19)) end
  return pg.optimizer { rule = sgd { lr = eta }, correction = correction.svrg { alpha = alpha }, dtype = "f64" }
end

local function decaying(eta, _, q)
  return pg.optimizer { rule = sgd { lr = function(t) return eta / (1 + q * eta * LAMBDA * t) end }, dtype = "f64" }
end

local DECAYS = product({ 0.2 / L, 0.5 / L, 1 / L, 2 / L }, { 0.25, 0.5, 1 })
local STORM = product({ 0.1, 0.3, 1, 3 }, { 0.1, 1, 10 }, { 1, 10 })

-- name; make(parameter, batch size, more parameters) → optimizer; grid(batch size) → list of parameters; reference at
-- batches of 1 and of 10: { median, least, most }, or { not = passes, best = gap }.
local methods = {
  { name = "SGD constant", order = "iid", check = 5, make = by_step(), grid = steps(0.01, 0.2),
    reference = { { within = 2000, best = 2.6e-5 }, { within = 2000, best = 7.5e-5 } } },
  { name = "SGD constant", order = "reshuffled", check = 5, make = by_step(), grid = steps(0.01, 0.1),
    reference = { { 190, 190, 215 }, { 210, 190, 215 } } },
  { name = "SGD decaying", order = "iid", check = 5, make = decaying, grid = function() return DECAYS end,
    reference = { { within = 2000, best = 2.9e-5 }, { within = 2000, best = 2.3e-5 } } },
  { name = "SGD decaying", order = "reshuffled", check = 5, make = decaying, grid = function() return DECAYS end,
    reference = { { 50, 35, 50 }, { 95, 85, 100 } } },
  { name = "SVRG m = 1 pass", order = "iid", make = svrg_every(1), grid = steps(0.3, 1.4),
    reference = { { 16, 14, 17 }, { 16.1, 14.1, 19.1 } } },
  { name = "SVRG m = 2 passes", order = "iid", make = svrg_every(2), grid = steps(0.3, 1.4),
    reference = { { 22, 21, 27 }, { 21.1, 19.1, 22.1 } } },
  { name = "SVRG m = 1 pass", order = "reshuffled", make = svrg_every(1), grid = steps(0.3, 1.4),
    reference = { { 14, 13, 16 }, { 16.1, 14.1, 16.1 } } },
  { name = "SVRG m = 2 passes", order = "reshuffled", make = svrg_every(2), grid = steps(0.3, 1.4),
    reference = { { 17, 17, 18 }, { 17.1, 17.1, 18.1 } } },
  { name = "SVRG m = 5 passes", order = "iid", make = svrg_every(5), grid = steps(0.2, 1),
    reference = { { 35, 30, 37 }, { 35.1, 30.1, 36.1 } } },
  { name = "L-SVRG p = b/n", order = "iid", make = by_step(function() return correction.lsvrg {} end),
    grid = steps(0.3, 1.4), reference = { { 19.9, 18.7, 21.5 }, { 20.4, 15, 22.5 } } },
  { name = "SARAH m = 1 pass", order = "iid", make = by_step(function() return correction.sarah {} end),
    grid = steps(0.3, 1.4), reference = { { 16.9, 15.9, 19.9 }, { 18.4, 16.5, 22.3 } } },
  { name = "SPIDER (eps)", order = "iid", make = own_step(function(eps) return correction.spider { eps = eps, L = L } end),
    grid = values { 0.003, 0.01, 0.03, 0.1, 0.3 },
    reference = { { 24.9, 24.9, 24.9 }, { 213.7, 213.7, 215.6 } } },
  { name = "PAGE p = b/(n+b)", order = "iid", make = by_step(function() return correction.page {} end),
    grid = steps(0.5, 2), reference = { { 19.4, 15.3, 23.4 }, { 21.1, 18.9, 27.1 } } },
  { name = "STORM (k, w, c)", order = "iid", limit = 1000,
    make = own_step(function(k, _, w, c) return correction.storm { k = k, w = w, c = c } end),
    grid = function() return STORM end,
    reference = { { within = 1000, best = 5.7e-5 }, { within = 1000, best = 1.9e-5 } } },
  { name = "STORM+ (k)", order = "iid", limit = 1000, make = own_step(function(k) return correction.storm_plus { k = k } end),
    grid = values { 0.1, 0.3, 1, 3, 10 },
    reference = { { within = 1000, best = 3.7e-4 }, { within = 1000, best = 2.8e-4 } } },
  { name = "alpha-SVRG 0.90", order = "iid", limit = 1000, make = svrg_every(1, 0.9), grid = steps(0.01, 0.1),
    reference = { { 661, 598, 973 }, { 841.1, 733.1, math.huge } } },
  { name = "alpha-SVRG 0.75", order = "iid", limit = 1000, make = svrg_every(1, 0.75), grid = steps(0.01, 0.1),
    reference = { { within = 1000, best = 1.7e-5 }, { within = 1000, best = 1.6e-5 } } },
  { name = "alpha-SVRG 0.50", order = "iid", limit = 1000, make = svrg_every(1, 0.5), grid = steps(0.01, 0.1),
    reference = { { within = 1000, best = 5.6e-5 }, { within = 1000, best = 5.9e-5 } } },
  { name = "alpha-SVRG 0.75 to 0", order = "iid", limit = 1000, make = falling_alpha, grid = steps(0.01, 0.1),
    reference = { { within = 1000, best = 2.1e-4 }, { within = 1000, best = 2.3e-4 } } },
  { name = "SCSG mega-batch n/4", order = "iid", limit = 1000, mega = true,
    make = by_step(function(size) return correction.scsg { batches = N // 4 // size, ahead = false } end),
    grid = steps(0.01, 0.2), reference = { { 278, 154, 490 }, { 262, 258, 292 } } },
  { name = "SCSG n/4 of the steps to come", order = "reshuffled", limit = 1000, mega = true,
    make = by_step(function(size) return correction.scsg { batches = N // 4 // size } end), grid = steps(0.01, 0.2) },
  { name = "L-Katyusha (L / L_max)", order = "iid", make = function(scale)
      return pg.optimizer { dtype = "f64", correction = correction.lsvrg {},
        rule = pg.wrapper.lkatyusha { L = scale * L, sigma = LAMBDA } }
    end, grid = values { 0.05, 0.1, 0.2, 0.4, 0.8 },
    reference = { { 23.9, 13.8, 28.1 }, { 33.2, 29.4, 38.6 } } },
  { name = "AdaSVRG m = 1 pass", order = "iid", make = by_step(function() return correction.adasvrg {} end),
    grid = values { 0.01, 0.03, 0.1, 0.3, 1 }, reference = { { 26, 26, 29 }, { 50.1, 32.1, 56.1 } } },
  { name = "SVRG-BB m = 1 pass", order = "iid",
    make = own_step(function(eta) return correction.svrg_bb { eta0 = eta } end), grid = steps(0.1, 0.5) },
  { name = "full gradient descent", order = "reshuffled", size = N, make = by_step(),
    grid = steps(4, 30), reference = { { 33, 33, 33 } } },
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
  return a.best < b.best
end

-- All seeds of one setting; the first one's result is known.
local function run_seeds(method, entry, size, limit)
  local passes, best = { entry.passes }, { entry.best }
  for seed = 2, o.seeds do
    local result = run(method, entry.setting, size, seed, limit)
    passes[seed], best[seed] = result.passes, result.best
  end
  local middle = median(passes) -- sorts
  return { passes = middle, least = passes[1], most = passes[#passes], best = median(best), setting = entry.setting,
    curve = entry.curve }
end

local GO_ON = 3 -- settings that all seeds try where none gets there

-- The best setting of a method's grid, by the median over the seeds.
local function search(method, size)
  local limit, tried, arrived = math.min(o.limit, method.limit or o.limit), {}, 0
  for i, setting in ipairs(method.grid(size)) do
    tried[i] = run(method, setting, size, 1, limit)
    tried[i].setting = setting
    if tried[i].passes < math.huge then arrived = arrived + 1 end
  end
  table.sort(tried, is_better)
  local winner
  for i = 1, math.min(#tried, arrived > 0 and arrived or GO_ON) do
    local result = run_seeds(method, tried[i], size, limit)
    if not winner or is_better(result, winner) then winner = result end
  end
  winner.limit = limit
  return winner
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local function describe(r)
  if r.passes == math.huge then return ("not in %d; best %.1e"):format(r.limit, r.best) end
  return ("%.1f (%.1f-%.1f)"):format(r.passes, r.least, r.most)
end

local function describe_setting(r)
  local parts = {}
  for i, v in ipairs(r.setting) do parts[i] = ("%.4g"):format(v) end
  return table.concat(parts, ", ")
end

local function describe_reference(r)
  if not r then return "" end
  if r.best then return ("not in %d; best %.1e"):format(r.within, r.best) end
  return ("%.1f (%.1f-%.1f)"):format(r[1], r[2], r[3])
end

-- Whether a result agrees with the reference: "yes", "no", or nothing to say.
local function compare(r, reference)
  if not reference then return "" end
  if reference.best then
    if r.passes < math.huge then return "no" end
    local ratio = r.best / reference.best
    return r.limit < reference.within and "" or ratio < 3 and ratio > 1 / 3 and "yes" or "no"
  end
  return r.least <= reference[3] and r.most >= reference[2] and "yes" or "no"
end

local function name_of(method)
  return method.name .. (method.order == "iid" and ", iid" or method.order and ", reshuffled" or "")
end

-- One table for each batch size; the whole batch stands in both.
local function show(size, index)
  local lines, curves = {}, {}
  for _, method in ipairs(methods) do
    local name = name_of(method)
    if name:lower():find(o.only:lower(), 1, true) then
      local result = search(method, method.size or size)
      local reference = method.reference and method.reference[method.size and 1 or index]
      lines[#lines + 1] = { name, describe(result), describe_setting(result), describe_reference(reference),
        compare(result, reference) }
      result.curve.name = name
      if method.plotted then curves[#curves + 1] = result.curve end
    end
  end
  print(("\nbatches of %d"):format(size))
  pg.table.print({ "method", "passes: median (least-most)", "at", "reference", "agrees" }, lines, { [2] = true })
  return curves
end

local curves
for index, size in ipairs { 1, 10 } do
  if o.batch == "both" or tonumber(o.batch) == size then curves = show(size, index) end
end
