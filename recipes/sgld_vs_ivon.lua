-- What posteriors say where there are no data: Langevin and Hamiltonian samples, IVON's diagonal Gaussian, a full one.
--
--   perigee recipes/sgld_vs_ivon.lua              a linear model and a small network, 24 data sets each
--   perigee recipes/sgld_vs_ivon.lua sets=4 steps=1000
--
-- Regression on [-2, 2] with a gap between -0.7 and 0.7. The true function of each data set is drawn from the prior, so
-- that intervals of 95% from the exact posterior hold the truth in 95% of all cases, in the gap and outside.
--
--   linear   f(x) = w·phi(x), phi ten tanh features that stay. The posterior is a Gaussian and known, and so is what a
--            diagonal Gaussian can do best: the exact mean, precisions that are the diagonal of the exact one
--   network  f(x) = a sum of tanh units all of whose weights are unknown. The reference is Hamiltonian Monte Carlo over
--            all data with accepted and rejected moves (Neal 2011)
--
-- All chains of all data sets are one parameter tensor [sets, chains, weights] with one loss, the sum of theirs; rules
-- and IVON's family work number by number, so the chains know nothing of each other. A full Gaussian does not, and goes
-- through the sets one by one.

local pg = require "perigee"

local o = pg.options { only = { "both", "linear", "network" }, sets = 24, full_sets = 12, chains = 4, examples = 40,
  batch = 10, noise = 0.3, hidden = 10, steps = 12000, looks = 200, ivon_steps = 6000, von_steps = 1500,
  hmc_steps = 1000, leaps = 15, leap = 0.025, samples = 400, grid = 41, seed = 1 }

local f64, GAP = { dtype = "f64" }, 0.7
local n, key = o.examples, pg.key(o.seed)
local grid = pg.linspace(-2, 2, o.grid, f64)
local inside = grid:abs():lt(GAP):to "f64":unsqueeze(2) -- [grid, 1]
local half = pg.linspace(GAP, 2, n // 2, f64)
local xs = pg.concat({ -half, half }, 1)

-- ---- two models -----------------------------------------------------------------------------------------------------

-- predict: weights [sets, chains, count], x [batch] → [batch, sets, chains]. rate: of learning, as a share of those
-- below
local function expand(x) return x:reshape { x.size, 1, 1, 1 } end

local slopes = 3 * pg.randn(key:fold "slopes", { o.hidden }, f64)
local shifts = 3 * pg.randn(key:fold "shifts", { o.hidden }, f64)
local function features(x) return (x * slopes + shifts):tanh() / o.hidden ^ 0.5 end

local MODELS = {
  linear = { count = o.hidden, rate = 1, predict = function(w, x) return (features(expand(x)) * w):sum(-1) end },
  network = { count = 3 * o.hidden + 1, rate = 0.04, predict = function(w, x)
    local function part(k) return w:slice({}, {}, { (k - 1) * o.hidden + 1, k * o.hidden }) end
    local bias = w:slice({}, {}, { 3 * o.hidden + 1 }):squeeze(3)
    return (part(3) * (3 * (expand(x) * part(1) + part(2))):tanh()):sum(-1) / o.hidden ^ 0.5 + bias
  end },
}

-- Truths from the prior, and noisy values of them: truth [grid, sets], y [n, sets].
for name, model in pairs(MODELS) do
  local own = key:fold(name)
  local w = pg.randn(own:fold "truth", { o.sets, 1, model.count }, f64)
  model.name, model.truth = name, model.predict(w, grid):squeeze(3)
  model.y = model.predict(w, xs):squeeze(3) + o.noise * pg.randn(own:fold "noise", { n, o.sets }, f64)
end

-- ---- what is kept of samples ----------------------------------------------------------------------------------------

-- Moments of f on the grid over samples of the weights: add(w), and at the end mean and sd [grid, sets] over all
-- chains, and R-hat (Gelman & Rubin 1992), its mean over the gap.
local function collect(model)
  local see = pg.jit(function(w)
    local f = model.predict(w, grid)
    return f, f * f
  end)
  local count, sum, squares = 0, 0, 0
  local kept = {}
  function kept.add(w)
    local f, square = see(w)
    count, sum, squares = count + 1, sum + f, squares + square
  end
  function kept.finish()
    local means = sum / count
    local within = (squares / count - means:square()):mean(3)
    local between = means:var(3)
    local rhat = (1 + between / within:maximum(1e-300)):sqrt()
    return { mean = means:mean(3), sd = (within + between):maximum(0):sqrt(),
      rhat = ((rhat * inside):sum() / (inside:sum() * rhat.shape[2])):item() }
  end
  return kept
end

-- ---- by pg.train ----------------------------------------------------------------------------------------------------

-- sets: { first, last } of those trained at once.
local function train(model, chains, sets, how)
  local count = sets[2] - sets[1] + 1
  local net = pg.nn.module { name = model.name, parameters = { w = { count, chains, model.count,
    init = function(own, shape, dtype) return pg.randn(own, shape, { dtype = dtype }) end } },
    forward = function(self, x) return model.predict(self.w, x) end }
  return pg.train {
    name = model.name, model = net, out = false, dtype = "f64", seed = o.seed, hash_every = 0, steps = how.steps,
    data = pg.data.from { x = xs, y = model.y:slice({}, sets) }, batch = how.batch or n, log_every = how.steps,
    loss = function(m, theta, batch)
      local off = (m(theta, batch.x) - batch.y:unsqueeze(3)) / o.noise
      return 0.5 * off:square():mean(1):sum()
    end,
    optimizer = pg.optimizer { weight_decay = 1 / n, family = how.family, rule = how.rule },
    hooks = { on_step = how.see },
  }
end

-- The iterates of pg.rule.sgld or sghmc, after the first quarter of the steps.
local function by_chains(rule, lr, batch, precondition)
  return function(model)
    local own = rule { ess = n, lr = lr * model.rate, precondition = precondition or false }
    local kept, every = collect(model), math.max(1, 3 * o.steps // 4 // o.looks)
    train(model, o.chains, { 1, o.sets }, { rule = own, batch = batch, steps = o.steps, see = function(ctx)
      if 4 * ctx.step > o.steps and ctx.step % every == 0 then kept.add(ctx.theta["w"]) end
    end })
    return kept.finish()
  end
end

-- Samples of the Gaussian with which variational learning ends. draw(run, key) → weights
local function by_gaussian(model, sets, how, draw)
  local run, kept = train(model, 1, sets, how), collect(model)
  for s = 1, o.samples do kept.add(draw(run, key:fold "draws":fold(s))) end
  return kept.finish()
end

local function falling(peak) return pg.schedule.linear { from = peak, to = 0, over = pg.whole_run } end

local function ivon(model)
  return by_gaussian(model, { 1, o.sets }, { steps = o.ivon_steps, batch = o.batch,
    family = pg.family.diagonal { ess = n, h0 = 1, beta2 = 0.9995 },
    rule = pg.rule.ivon { lr = falling(0.03), rescale_lr = false } }, function(run, own)
    local eps = pg.randn(own, run.theta["w"].shape, f64)
    return run.theta["w"] + eps / (n * (run.q.h["w"] + 1 / n)):sqrt()
  end)
end

local function von(model)
  local parts = {}
  for set = 1, math.min(o.full_sets, o.sets) do
    parts[set] = by_gaussian(model, { set, set }, { steps = o.von_steps,
      family = pg.family.full { ess = n, h0 = 1, beta2 = 0.98 }, rule = pg.rule.newton { lr = falling(0.1) } },
      function(run, own)
        local precision = n * (run.q.H + pg.eye(model.count, f64) / n)
        local l = pg.linalg.cholesky(precision)
        local off = pg.linalg.solve_triangular(l, pg.randn(own, { model.count }, f64), { transpose = true })
        return run.theta["w"] + off:reshape { 1, 1, model.count }
      end)
  end
  local all = { mean = {}, sd = {}, rhat = 1 }
  for _, field in ipairs { "mean", "sd" } do
    for set, part in ipairs(parts) do all[field][set] = part[field] end
    all[field] = pg.concat(all[field], 2)
  end
  return all
end

-- ---- references -----------------------------------------------------------------------------------------------------

-- The exact posterior of the linear model; diagonal: the best Gaussian with a diagonal precision.
local function exact(diagonal)
  return function(model)
    local phi, at = features(xs:unsqueeze(2)), features(grid:unsqueeze(2))
    local precision = phi:t():matmul(phi) / o.noise ^ 2 + pg.eye(model.count, f64)
    local mean = at:matmul(pg.linalg.solve_spd(precision, phi:t():matmul(model.y) / o.noise ^ 2))
    local variance = (at * pg.linalg.solve_spd(precision, at:t()):t()):sum(2)
    if diagonal then variance = (at * at / (precision * pg.eye(model.count, f64)):sum(1)):sum(2) end
    return { mean = mean, sd = variance:sqrt():unsqueeze(2):broadcast_to { o.grid, o.sets }, rhat = 1 }
  end
end

-- One trajectory of every chain, accepted or not by each for itself: w, share accepted.
local function make_hmc(model)
  local function energy(w) -- [sets, chains]
    local off = (model.predict(w, xs) - model.y:unsqueeze(3)) / o.noise
    return 0.5 * off:square():sum(1) + 0.5 * w:square():sum(3)
  end
  local slope = pg.grad(function(w) return energy(w):sum() end)
  return pg.jit(function(w, own)
    local r = pg.randn(own:fold "momentum", w.shape, f64)
    local size = o.leap * (0.8 + 0.4 * pg.uniform(own:fold "size", {}, f64))
    local carry = pg.scan(function(c)
      local middle = c.r - 0.5 * size * slope(c.w)
      local moved = c.w + size * middle
      return { w = moved, r = middle - 0.5 * size * slope(moved) }, middle:sum()
    end, { w = w, r = r }, pg.zeros({ o.leaps }, "f64"))
    local gain = energy(w) + 0.5 * r:square():sum(3) - energy(carry.w) - 0.5 * carry.r:square():sum(3)
    local accepted = pg.uniform(own:fold "accept", gain.shape, f64):log():lt(gain)
    return pg.where(accepted:unsqueeze(3), carry.w, w), accepted:to "f64":mean()
  end)
end

local function hmc(model)
  local move, kept, rate = make_hmc(model), collect(model), 0
  local w = pg.randn(key:fold "hmc", { o.sets, o.chains, model.count }, f64)
  for k = 1, o.hmc_steps do
    local share
    w, share = move(w, key:fold "moves":fold(k))
    if 4 * k > o.hmc_steps then kept.add(w) end
    rate = rate + share:item() / o.hmc_steps
  end
  local found = kept.finish()
  found.note = ("%.0f%% accepted"):format(100 * rate)
  return found
end

-- ---- all of it ------------------------------------------------------------------------------------------------------

local sgld, sghmc = pg.rule.sgld, pg.rule.sghmc
local SAMPLERS = {
  { "SGLD, all data", by_chains(sgld, 0.05) }, { "SGLD", by_chains(sgld, 0.05, o.batch) },
  { "SGLD, lr / 5", by_chains(sgld, 0.01, o.batch) }, { "pSGLD", by_chains(sgld, 0.02, o.batch, true) },
  { "SGHMC, all data", by_chains(sghmc, 0.02) }, { "SGHMC", by_chains(sghmc, 0.005, o.batch) },
  { "pSGHMC", by_chains(sghmc, 0.002, o.batch, true) }, { "IVON", ivon }, { "VON", von },
}

-- The references come first, then all samplers on the same model.
local jobs = {}
local function add(name, references)
  if o.only ~= "both" and o.only ~= name then return end
  for _, list in ipairs { references, SAMPLERS } do
    for _, entry in ipairs(list) do jobs[#jobs + 1] = { model = MODELS[name], name = entry[1], run = entry[2] } end
  end
end
add("linear", { { "exact", exact(false) }, { "exact, diagonal", exact(true) } })
add("network", { { "HMC", hmc } })

-- One row is a step of the run; `perigee resume` goes on between two.
local result = pg.run {
  name = "sgld_vs_ivon", steps = #jobs, state = { found = {} },
  step = function(state, ctx)
    local job = jobs[ctx.step + 1]
    state.found[ctx.step + 1] = job.run(job.model)
    ctx:log { model = job.model.name, method = job.name, rhat = state.found[ctx.step + 1].rhat }
  end,
}

-- Averages over a region (weights [grid, 1]) and the sets that a method has.
local function judge(job, found, reference, region)
  local sets = found.sd.shape[2]
  local truth, size = job.model.truth:slice({}, { 1, sets }), region:sum() * sets
  local function average(x) return ((x * region):sum() / size):item() end
  local off, variance = found.mean - truth, found.sd:square() + o.noise ^ 2
  local wanted = reference.sd:slice({}, { 1, sets })
  local held = (off:abs():le(1.96 * found.sd):to "f64" * region):sum(1) / region:sum()
  return { sd = average(found.sd), ratio = average(found.sd) / average(wanted),
    shift = (average((found.mean - reference.mean:slice({}, { 1, sets })):square()) ^ 0.5) / average(wanted),
    coverage = held:mean():item(), error = (held:var():item() / math.max(1, sets - 1)) ^ 0.5,
    nll = average(0.5 * (2 * math.pi * variance):log() + 0.5 * (off:square() + o.noise ^ 2) / variance) }
end

local function show(name)
  local rows, curves, reference = {}, {}, nil
  for i, job in ipairs(jobs) do
    local found = result.state.found[i]
    if job.model.name == name and found then
      reference = reference or found
      local row = { job.name }
      for _, region in ipairs { inside, 1 - inside } do
        local x = judge(job, found, reference, region)
        for _, cell in ipairs { ("%.3f"):format(x.sd), ("%.2f"):format(x.ratio), ("%.2f"):format(x.shift),
          ("%.1f ± %.1f"):format(100 * x.coverage, 100 * x.error), ("%.3f"):format(x.nll) } do
          row[#row + 1] = cell
        end
      end
      row[#row + 1], row[#row + 2] = ("%.2f"):format(found.rhat), found.note or ""
      rows[#rows + 1] = row
      if found == reference or job.name == "SGHMC, all data" or job.name == "IVON" then
        local mean, sd = found.mean:slice({}, { 1, 1 }):squeeze(2), found.sd:slice({}, { 1, 1 }):squeeze(2)
        curves[#curves + 1] = { name = job.name, x = grid:totable(), y = mean:totable(),
          low = (mean - 1.96 * sd):totable(), high = (mean + 1.96 * sd):totable() }
      end
    end
  end
  if #rows == 0 then return end
  print(("\n%s: in the gap, then outside"):format(name))
  pg.table.print({ "method", "sd", "ratio", "shift", "coverage %", "nll", "sd", "ratio", "shift", "coverage %", "nll",
    "R-hat", "" }, rows)
  local truth = MODELS[name].truth:slice({}, { 1, 1 }):squeeze(2)
  curves[#curves + 1] = { name = "truth", x = grid:totable(), y = truth:totable() }
  local opts = { title = name .. ": mean and 95% of the first data set", xlabel = "x",
    marks = { { x = -GAP, name = "gap" }, { x = GAP } } }
  io.write("\n", pg.plot.draw(curves, opts))
  pg.plot.save(("%s/%s.svg"):format(result.directory, name), curves, opts)
end

print(("%d data sets of %d examples, noise %g, %d chains, batches of %d; full Gaussians for %d sets"):format(o.sets, n,
  o.noise, o.chains, o.batch, math.min(o.full_sets, o.sets)))
show "linear"
show "network"
