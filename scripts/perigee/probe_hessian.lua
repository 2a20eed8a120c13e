-- probe_hessian.lua: the Hessian of the mean loss over batches, at frozen parameters: products with vectors, its trace
-- by Hutchinson's estimate, its largest eigenvalues and its spectral density by Lanczos' method. A product goes through
-- the batches with one compiled program for each size; its sums are f64.

local batches = require "perigee.batch"
local buffers = require "perigee.buffers"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local generic = require "perigee.generic"
local lanczos = require "perigee.lanczos"
local names = require "perigee.names"
local plot = require "perigee.plot"
local subject = require "perigee.subject"
local transform = require "perigee.transform"
local vectors = require "perigee.vectors"
local views = require "perigee.probe_batches"

local M = {}

local OPTIONS = { "at", "train" }
local PRODUCT = 2 -- what a product costs, in gradients

-- ---- products -------------------------------------------------------------------------------------------------------

-- The program that adds weight * (Hessian on one batch) * v to `sum`.
local function trace_product(self, batch)
  local entry, evaluator, theta = {}, self.evaluator, self.theta
  local label = ("a Hessian-vector product, %d examples"):format(batches.count(batch))
  entry.program = builder.trace(label, function(b)
    local at, v = b:input("theta", theta), b:input("v", self.zero)
    local key, sum = b:input("key", self.key), b:input("sum", self.zero)
    local traced
    traced, entry.binding = batches.declare(b, batch)
    entry.count = batches.count(batch)
    if traced.id then key = evaluation.fold(key, traced.id) end
    local kept = self.buffers and b:input("buffers", self.buffers)
    local product = transform.hvp(function(x)
      local ctx = { train = self.train, key = key, buffers = kept, update_buffers = false }
      return (evaluator:trace_loss(x, traced, ctx))
    end)(core.apply("cast", { dtype = theta.dtype }, v), at)
    b:output(sum + b:scalar(self.numbers, "weight") * core.apply("cast", { dtype = "f64" }, product), nil, "sum")
  end)
  entry.program:bind("theta", theta)
  entry.program:bind("key", self.key)
  if self.buffers then entry.program:bind("buffers", self.buffers) end
  return entry
end

local Operator = {}
Operator.__index = Operator

-- The Hessian as an operator on f64 vectors of theta's layout. owner, where, o: the probe, what it was given, options.
local function open(owner, where, o, more)
  views.check_options(owner, o, table.move(more, 1, #more, #OPTIONS + 1, { table.unpack(OPTIONS) }))
  local found = subject.complete(owner, where, "st", "evaluator")
  local theta, train = o.at or found.theta, o.train ~= false
  if not core.is_tensor(theta) or theta.layout ~= found.theta.layout then
    core.raise(("%s: at must be a vector like the parameters, not %s"):format(owner, names.describe(theta)))
  end
  buffers.check(found.evaluator.model, found.st.buffers, "opt:init(theta, key, model:init_buffers())")
  local view = { owner = owner, st = found.st, opt = found.opt, evaluator = found.evaluator, options = o,
    last = math.max(0, found.st.step - 1) }
  return setmetatable({
    view = view, evaluator = found.evaluator, cost = found.st.cost, buffers = found.st.buffers, theta = theta,
    train = train, key = o.key or found.st.key or found.evaluator.key, zero = vectors.zeros_like(theta, "f64"),
    numbers = { weight = 0 }, programs = {}, size = theta.layout.size, spent = 0,
  }, Operator)
end

function Operator:program(batch)
  local signature = batches.signature(batch)
  self.programs[signature] = self.programs[signature] or trace_product(self, batch)
  return self.programs[signature]
end

-- How many examples the batches have.
function Operator:count()
  if not self.total then
    self.total = 0
    for batch in views.each(self.view) do self.total = self.total + batches.count(batch) end
  end
  return self.total
end

-- The Hessian of the mean loss over the batches times v, a new vector.
function Operator:apply(v)
  local total, sum = self:count(), vectors.zeros_like(v)
  for batch in views.each(self.view) do
    local entry = self:program(batch)
    local n = batches.count(batch)
    self.numbers.weight = n / total
    entry.binding:bind(entry.program, batch)
    entry.program:bind("v", v)
    entry.program:bind("sum", sum)
    entry.program:run()
    self.spent = self.spent + PRODUCT * n
    self.cost:add("probes", PRODUCT * n)
  end
  return sum
end

-- Probe vector number i: independent entries of mean 0 and variance 1; pads are 0.
function Operator:draw(distribution, key, i)
  local x = generic.normal_like(key:fold(i), self.zero)
  return distribution == "normal" and x or x:sign()
end

local function read_sampling(owner, o, samples)
  local distribution = o.distribution or "rademacher"
  if distribution ~= "rademacher" and distribution ~= "normal" then
    core.raise(('%s: distribution is "rademacher" or "normal", not %s'):format(owner, names.describe(distribution)))
  end
  return distribution, o.probe_key or core.key(0), o.samples or samples
end

local function check_whole(owner, name, x)
  if math.type(x) ~= "integer" or x < 1 then
    core.raise(("%s: %s is a whole number of at least 1, not %s"):format(owner, name, names.describe(x)))
  end
end

local function check_size(owner, name, x)
  if type(x) ~= "number" or x ~= x or x < 0 then
    core.raise(("%s: %s is a number of at least 0, not %s"):format(owner, name, names.describe(x)))
  end
end

local function dot(x, y) return core.apply("sum", nil, x * y):item() end

-- ---- probes ---------------------------------------------------------------------------------------------------------

--- pg.probe.hvp(where, v [, { batches =, count =, epoch =, key =, at =, train = true }]) → vector: The Hessian of the
-- mean loss over batches, times the vector v of the parameters' layout; f64.
-- where, batches, count, epoch, key: as in pg.probe.variance; of `where` only state and evaluator are used. at: other
-- parameters than the mean. train = false: the loss as in an evaluation. Dropout masks come from the key and the ids of
-- the examples, so that the Hessian is one and the same matrix for all products. A product counts as 2 gradients.
function M.hvp(where, v, options)
  local operator = open("pg.probe.hvp", where, options or {}, {})
  if not core.is_tensor(v) or v.layout ~= operator.theta.layout then
    core.raise("pg.probe.hvp: v must be a vector like the parameters, not " .. names.describe(v))
  end
  return operator:apply(vectors.clone(v, "f64"))
end

--- pg.probe.trace(where [, { samples = 32, distribution = "rademacher", probe_key = pg.key(0), … }]) → { trace, error,
-- samples, evaluations }: The trace of the Hessian of the mean loss by Hutchinson's estimate (1990): the mean of v^T H
-- v over random v of signs ("rademacher") or "normal" numbers, drawn from probe_key; error is its standard error.
-- Further options and cost as in pg.probe.hvp.
function M.trace(where, options)
  local owner, o = "pg.probe.trace", options or {}
  local operator = open(owner, where, o, { "samples", "distribution", "probe_key" })
  local distribution, key, samples = read_sampling(owner, o, 32)
  check_whole(owner, "samples", samples)
  local mean, squares = 0.0, 0.0
  for i = 1, samples do
    local v = operator:draw(distribution, key, i)
    local x = dot(v, operator:apply(v))
    local difference = x - mean
    mean = mean + difference / i
    squares = squares + difference * (x - mean)
  end
  local deviation = samples > 1 and (squares / (samples - 1)) ^ 0.5 or 0 / 0
  return { trace = mean, error = deviation / samples ^ 0.5, samples = samples, evaluations = operator.spent }
end

-- The eigenvalues that were asked for, largest first, and bounds of their errors: |what is left| |last entry|.
local function read_top(diagonal, beside, count)
  local k = #diagonal
  local values, _, last = lanczos.decompose(diagonal, beside)
  local top, residuals = {}, {}
  for i = 1, math.min(count, k) do
    top[i], residuals[i] = values[k + 1 - i], math.abs(beside[k] * last[k + 1 - i])
  end
  return top, residuals, values[1], math.abs(beside[k] * last[1])
end

--- pg.probe.eigenvalues(where [, { values = 5, steps = 100, tolerance = 1e-6, probe_key = pg.key(0), … }]) → table: The
-- largest eigenvalues of the Hessian of the mean loss, by Lanczos' method with full reorthogonalization from a random
-- vector drawn from probe_key.
--   values: how many. It ends when the residual of each is below tolerance times the largest eigenvalue in size, or
--     after `steps` products. It keeps a vector for each step.
--   result: { values (largest first), residuals (an eigenvalue lies that near each), lowest (the smallest Ritz value),
--     lowest_residual, steps, converged, evaluations }. An eigenvalue that occurs several times is found once.
-- Further options and cost as in pg.probe.hvp.
function M.eigenvalues(where, options)
  local owner, o = "pg.probe.eigenvalues", options or {}
  local operator = open(owner, where, o, { "values", "steps", "tolerance", "probe_key" })
  local count, steps, tolerance = o.values or 5, o.steps or 100, o.tolerance or 1e-6
  check_whole(owner, "values", count)
  check_whole(owner, "steps", steps)
  check_size(owner, "tolerance", tolerance)
  local converged = false
  local function enough(diagonal, beside)
    if #diagonal < count then return false end
    local top, residuals, lowest = read_top(diagonal, beside, count)
    local size = math.max(math.abs(top[1]), math.abs(lowest))
    converged = true
    for _, residual in ipairs(residuals) do converged = converged and residual <= tolerance * size end
    return converged
  end
  local start = operator:draw("normal", o.probe_key or core.key(0), 0)
  local diagonal, beside = lanczos.run(function(v) return operator:apply(v) end, start,
    math.min(steps, operator.size), enough)
  local values, residuals, lowest, lowest_residual = read_top(diagonal, beside, count)
  return { values = values, residuals = residuals, lowest = lowest, lowest_residual = lowest_residual,
    steps = #diagonal, converged = converged or beside[#beside] == 0, evaluations = operator.spent }
end

-- Sums of Gaussians of this width around nodes, at `points` places that reach three widths beyond them.
local function smear(nodes, weights, points, width)
  local low, high = math.huge, -math.huge
  for _, x in ipairs(nodes) do low, high = math.min(low, x), math.max(high, x) end
  if not width or width == 0 then
    width = math.max(0.01 * (high - low), 1e-3 * math.max(math.abs(low), math.abs(high)), 1e-300)
  end
  low, high = low - 3 * width, high + 3 * width
  local grid, density, scale = {}, {}, 1 / (width * (2 * math.pi) ^ 0.5)
  for i = 1, points do
    local x, sum = low + (high - low) * (i - 1) / math.max(1, points - 1), 0.0
    for j, node in ipairs(nodes) do sum = sum + weights[j] * math.exp(-0.5 * ((x - node) / width) ^ 2) end
    grid[i], density[i] = x, scale * sum
  end
  return grid, density, width
end

--- pg.probe.spectrum(where [, { samples = 8, steps = 64, points = 200, width =, distribution = "rademacher", probe_key
-- = pg.key(0), … }]) → table: The spectral density of the Hessian of the mean loss by stochastic Lanczos quadrature
-- (Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019): nodes and weights from `steps` Lanczos steps for each of
-- `samples` random vectors.
--   width: the standard deviation of the Gaussians that nodes are drawn as; default a hundredth of the range.
--   result: { nodes, weights (of sum 1; the sum of weights f(node) estimates the mean of f over the eigenvalues), grid,
--     density (the curve, at `points` places), width, samples, steps, evaluations }.
-- pg.probe.draw shows it. Further options and cost as in pg.probe.hvp.
function M.spectrum(where, options)
  local owner, o = "pg.probe.spectrum", options or {}
  local operator = open(owner, where, o, { "samples", "steps", "points", "width", "distribution", "probe_key" })
  local distribution, key, samples = read_sampling(owner, o, 8)
  local steps, points = o.steps or 64, o.points or 200
  check_whole(owner, "samples", samples)
  check_whole(owner, "steps", steps)
  check_whole(owner, "points", points)
  check_size(owner, "width", o.width or 0)
  local nodes, weights = {}, {}
  for i = 1, samples do
    local diagonal, beside = lanczos.run(function(v) return operator:apply(v) end,
      operator:draw(distribution, key, i), math.min(steps, operator.size))
    local values, first = lanczos.decompose(diagonal, beside)
    for j, x in ipairs(values) do nodes[#nodes + 1], weights[#weights + 1] = x, first[j] * first[j] / samples end
  end
  local grid, density, width = smear(nodes, weights, points, o.width)
  return { nodes = nodes, weights = weights, grid = grid, density = density, width = width, samples = samples,
    steps = steps, evaluations = operator.spent }
end

local SHOWN = 1e-6 -- of the largest density

--- pg.probe.draw(spectrum [, opts]) → string: A density of pg.probe.spectrum as a plot for the terminal, logarithmic;
-- what lies below a millionth of its peak is left out. opts: as in pg.plot.draw.
function M.draw(spectrum, opts)
  local peak, shown = 0, {}
  for _, y in ipairs(spectrum.density) do peak = math.max(peak, y) end
  for i, y in ipairs(spectrum.density) do shown[i] = y >= SHOWN * peak and y or 0 end
  local settings = { title = "spectral density of the Hessian", xlabel = "eigenvalue", log = true }
  for name, value in next, opts or {} do settings[name] = value end
  return plot.draw({ { name = "density", x = spectrum.grid, y = shown } }, settings)
end

return M
