-- The last iterate or an average? SGD on convex problems by learning rates that stay, fall as 1 / sqrt(t) or fall in a
-- line to 0, with and without averages: how far above the minimum after T steps, and how fast that falls with T.
--
--   perigee recipes/last_iterate.lua                 a9a: logistic regression and the hinge loss, 3 seeds
--   perigee recipes/last_iterate.lua data=made rows=2000 longest=2048
--
-- For convex f with gradients bounded by B, from R away from the minimum, the best any method can promise after N steps
-- is B R / sqrt(N + 1). The average of SGD's iterates at a constant rate of order 1 / sqrt(N) gets there but for a
-- constant. The last iterate loses sqrt(1 + log(N) / 4) at its best constant rate, but attains the bound exactly with a
-- rate that falls in a line to 0 (Zamani & Glineur 2023, arXiv 2307.11134; Defazio et al. 2023, arXiv 2310.07831; and
-- before them Jain, Nagaraj & Netrapalli 2019). Schedule-free SGD promises as much without knowing N.
--
-- Table 1: every method at its best constant factor for each T. Table 2: the bound itself, by subgradient steps over
-- all examples, whose factors are the theorem's and not searched.

local pg = require "perigee"

local o = pg.options { data = "a9a", rows = 8000, l2 = 1e-4, batch = 1, shortest = 128, longest = 32768, seeds = 3,
  rates = 14, largest = 8.0, whole = 1024 }

-- ---- the problems and their minima ----------------------------------------------------------------------------------

local function make_data(n)
  local key, f64 = pg.key(4), { dtype = "f64" }
  local x = pg.bernoulli(key:fold "x", 0.2, { n, 30 }):to "f64"
  local z = x:matmul(pg.randn(key:fold "w", { 30 }, f64)) + pg.randn(key:fold "noise", { n }, f64)
  return pg.data.from { x = x, y = (z - z:mean()):sign() }
end

local data = o.data == "made" and make_data(o.rows) or pg.data.load(o.data, { labels = "pm1" })
if o.rows > 0 and o.rows < data.n then data = data:take(o.rows) end
local whole = data:all "f64"
local d = whole.x.shape[2]

local LOSSES = {
  logistic = function(margin) return pg.softplus(-margin) end,
  hinge = function(margin) return pg.relu(1 - margin) end,
}

-- w [d, k]: k points at once. → F at each, [k]
local function objective(link, w, x, y)
  return link(y:unsqueeze(2) * x:matmul(w)):mean(1) + 0.5 * o.l2 * w:square():sum(1)
end

-- The minimum, and how far below it the true one may be. The hinge is made smooth, mu softplus(z / mu), with mu falling
-- until the dual says that it is near enough: for any a in [0, 1]^n, as the smooth hinge's derivatives, F is nowhere
-- below mean a - |mean a y x|^2 / (2 l2).
local function minimize(name)
  local x, y, w = whole.x, whole.y, pg.zeros({ d, 1 }, "f64")
  local function solve(link, tolerance)
    return pg.minimize.newton_cg(function(at) return objective(link, at, x, y):sum() end, w, { tolerance = tolerance })
  end
  if name == "logistic" then
    local found = solve(LOSSES.logistic, 1e-10)
    return { x = found.x, value = found.value, slack = 0 }
  end
  local value, slack, mu = nil, math.huge, 0.1
  while slack > 2e-5 and mu > 1e-5 do
    w = solve(function(margin) return mu * pg.softplus((1 - margin) / mu) end, 1e-7).x
    local a = pg.sigmoid((1 - y * x:matmul(w):squeeze(2)) / mu)
    value = objective(LOSSES.hinge, w, x, y):sum():item()
    slack = value - (a:mean() - x:t():matmul(a * y / data.n):square():sum() / (2 * o.l2)):item()
    mu = mu / 8
  end
  return { x = w, value = value, slack = slack }
end

-- ---- the methods ----------------------------------------------------------------------------------------------------

-- All factors of the learning rate in one run: column k of w is sqrt(factor_k) u, so that a step of u at rate 1 is a
-- step of w at rate factor_k.
local factors = {}
for k = 1, o.rates do factors[k] = o.largest * 2.0 ^ (k - o.rates) end
local scale = pg.tensor(factors, "f64"):sqrt()

local model = pg.nn.module { name = "columns", parameters = { u = { d, #factors, init = 0 } },
  forward = function(self, x) return x:matmul(self.u * scale) end }

local function swa(rule, start) return pg.wrapper.swa { rule = rule, start = start } end
local function constant() return pg.rule.sgd { lr = 1 } end
local function root() return pg.rule.sgd { lr = function(step) return (step + 1) ^ -0.5 end } end

-- anytime: one run says it for every T; the others are made for one T.
local METHODS = {
  { name = "constant, last", make = constant, anytime = true },
  { name = "constant, average", make = function() return swa(constant(), 1) end, anytime = true },
  { name = "constant, last half", make = function(T) return swa(constant(), T // 2 + 1) end },
  { name = "constant, ema 0.99", make = function() return pg.wrapper.ema { rule = constant(), decay = 0.99 } end,
    anytime = true },
  { name = "1/sqrt(t), last", make = root, anytime = true },
  { name = "1/sqrt(t), average", make = function() return swa(root(), 1) end, anytime = true },
  { name = "to 0 in a line, last", make = function(T)
    return pg.rule.sgd { lr = pg.schedule.linear { from = 1, to = 0, over = T } }
  end },
  { name = "schedule-free", make = function() return pg.rule.schedule_free_sgd { lr = 1 } end, anytime = true },
}

local budgets = {}
for k = 0, 30 do
  local T = o.shortest * 2 ^ k
  if T <= o.longest then budgets[#budgets + 1] = math.tointeger(T) end
end

-- ---- table 1 --------------------------------------------------------------------------------------------------------

-- One run of T steps; see(T, gaps by factor) at its end or, `always`, at every budget on the way.
local function run_once(link, minimum, rule, T, seed, always, see)
  local value = pg.jit(function(u) return objective(link, u * scale, whole.x, whole.y) end)
  local is_budget = {}
  for _, budget in ipairs(budgets) do is_budget[budget] = always or budget == T end
  pg.train {
    name = "sgd", model = model, data = data, dtype = "f64", batch = o.batch, steps = T, seed = seed, out = false,
    optimizer = pg.optimizer { rule = rule }, hash_every = 0, log_every = T,
    loss = function(_, theta, batch) return objective(link, theta["u"] * scale, batch.x, batch.y):sum() end,
    hooks = { on_step = function(ctx)
      if not is_budget[ctx.step + 1] then return end
      see(ctx.step + 1, (value(ctx.optimizer:point()["u"]) - minimum.value):totable())
    end },
  }
end

-- Gaps of a method by budget: { mean over the seeds at the best factor, least, most, factor }.
local function measure(link, minimum, method)
  local gaps = {} -- [T][factor] = list over the seeds
  for seed = 1, o.seeds do
    local function see(T, list)
      gaps[T] = gaps[T] or {}
      for k, gap in ipairs(list) do
        gaps[T][k] = gaps[T][k] or {}
        gaps[T][k][seed] = gap == gap and gap or math.huge
      end
    end
    for _, T in ipairs(method.anytime and { budgets[#budgets] } or budgets) do
      run_once(link, minimum, method.make(T), T, seed, method.anytime, see)
    end
  end
  local best = {}
  for i, T in ipairs(budgets) do
    for k, list in ipairs(gaps[T]) do
      local mean = 0
      for _, gap in ipairs(list) do mean = mean + gap / #list end
      if not best[i] or mean < best[i].mean then
        best[i] = { mean = mean, low = math.min(table.unpack(list)), high = math.max(table.unpack(list)),
          factor = factors[k] }
      end
    end
  end
  return best
end

-- The exponent a of gap = c T^a, by least squares of logarithms.
local function fit(best)
  local n, sx, sy, sxx, sxy = #best, 0, 0, 0, 0
  for i, T in ipairs(budgets) do
    local x, y = math.log(T), math.log(best[i].mean)
    sx, sy, sxx, sxy = sx + x, sy + y, sxx + x * x, sxy + x * y
  end
  return (n * sxy - sx * sy) / (n * sxx - sx * sx)
end

-- ---- table 2 --------------------------------------------------------------------------------------------------------

-- Subgradient steps over all examples: rate(step from 1, N) times R / B.
local WHOLE = {
  { name = "constant, last", rate = function(_, N) return (N + 1) ^ -0.5 end },
  { name = "constant, average", rate = function(_, N) return (N + 1) ^ -0.5 end, averages = true },
  { name = "to 0 in a line, last", rate = function(k, N) return (N + 1 - k) / (N + 1) ^ 1.5 end },
}

-- The gap after N of them, from 0, over B R / sqrt(N + 1).
local function share_of_bound(link, minimum, method, N)
  local x, y, R = whole.x, whole.y, minimum.x:norm():item()
  local function value(w) return objective(link, w, x, y):sum() end
  -- |link'| <= 1, and nowhere is a point farther than 2 R from 0
  local B = x:norm(2):mean():item() + 2 * o.l2 * R
  local move = pg.jit(function(w, sum, rate)
    local next_w = w - rate * pg.grad(value)(w)
    return next_w, sum + next_w
  end)
  local w, sum = pg.zeros({ d, 1 }, "f64"), pg.zeros({ d, 1 }, "f64")
  for k = 1, N do w, sum = move(w, sum, method.rate(k, N) * R / B) end
  local found = value(method.averages and sum / (N + 1) or w):item()
  return (found - minimum.value) * (N + 1) ^ 0.5 / (B * R)
end

-- ---- all of it ------------------------------------------------------------------------------------------------------

local PROBLEMS = { "logistic", "hinge" }
local minima = {}
for _, name in ipairs(PROBLEMS) do minima[name] = minimize(name) end

local jobs = {}
for _, problem in ipairs(PROBLEMS) do
  for _, method in ipairs(METHODS) do jobs[#jobs + 1] = { problem = problem, method = method } end
end

-- One row is a step of the run; `perigee resume` goes on between two.
local result = pg.run {
  name = "last_iterate", steps = #jobs, state = { best = {} },
  step = function(state, ctx)
    local job = jobs[ctx.step + 1]
    local best = measure(LOSSES[job.problem], minima[job.problem], job.method)
    state.best[ctx.step + 1] = best
    ctx:log { problem = job.problem, method = job.method.name, gap = best[#best].mean, factor = best[#best].factor }
  end,
}

local function cell(x) return ("%.1e"):format(x) end

local function show(problem)
  local rows, curves, last = {}, {}, budgets[#budgets]
  for i, best in ipairs(result.state.best) do
    if jobs[i].problem == problem then
      local row, curve = { jobs[i].method.name }, { name = jobs[i].method.name, x = budgets, y = {} }
      for k in ipairs(budgets) do
        if k % 2 == 1 then row[#row + 1] = cell(best[k].mean) end
        curve.y[k] = best[k].mean
      end
      local final = best[#best]
      row[#row + 1] = ("%s … %s"):format(cell(final.low), cell(final.high))
      row[#row + 1], row[#row + 2] = ("%.4g"):format(final.factor), ("%.2f"):format(fit(best))
      rows[#rows + 1], curves[#curves + 1] = row, curve
    end
  end
  local heads = { "method" }
  for k, T in ipairs(budgets) do
    if k % 2 == 1 then heads[#heads + 1] = ("T = %d"):format(T) end
  end
  for _, head in ipairs { ("seeds, T = %d"):format(last), "factor", "exponent" } do heads[#heads + 1] = head end
  local minimum = minima[problem]
  print(("\n%s: F* = %.7f%s, |w*| = %.3f; F - F* at each method's best factor for T, mean of %d seeds"):format(problem,
    minimum.value, minimum.slack > 0 and (" (at most %.0e too high)"):format(minimum.slack) or "",
    minimum.x:norm():item(), o.seeds))
  pg.table.print(heads, rows)
  local opts = { title = problem .. ": F - F* after T steps", log = true, logx = true, xlabel = "T" }
  io.write("\n", pg.plot.draw(curves, opts))
  pg.plot.save(("%s/%s.svg"):format(result.directory, problem), curves, opts)
end

print(("%s: %d examples, %d features, l2 = %g, batch %d"):format(o.data, data.n, d, o.l2, o.batch))
for _, problem in ipairs(PROBLEMS) do show(problem) end

local steps, rows = {}, {}
for N = 4, math.huge do
  if 4 ^ (N - 3) * 4 > o.whole then break end
  steps[#steps + 1] = math.tointeger(4 ^ (N - 3) * 4)
end
for _, method in ipairs(WHOLE) do
  local row = { method.name }
  for _, N in ipairs(steps) do
    row[#row + 1] = ("%.4f"):format(share_of_bound(LOSSES.hinge, minima.hinge, method, N))
  end
  rows[#rows + 1] = row
end
local heads = { "method" }
for i, N in ipairs(steps) do heads[i + 1] = ("N = %d"):format(N) end
print "\nhinge, N steps over all examples: F - F* over B R / sqrt(N + 1)"
pg.table.print(heads, rows)
