-- problems.lua: small problems for the optimizer's specs: logistic regression with the golden data, or made from a
-- stream.
local support = require "support"
local pg, core = support.pg, support.core
local evaluator = require "perigee.evaluator"

local problems = {}

-- mean_i log(1 + exp(-y_i x_i.w)) + lam/2 |w|^2 for a parameter vector with one tensor "t1" of shape [d].
local function logistic_loss(lam)
  return function(_, theta, batch)
    local w = theta["t1"]
    local d = w.shape[1]
    local margins = batch.x:matmul(w:reshape(d, 1)):reshape(batch.x.shape[1]) * batch.y
    local data = (-margins):softplus():mean()
    return data + lam / 2 * (w * w):sum()
  end
end

-- From rows X, labels y (+-1): { evaluator, theta0(), batch(rows), n, d }. rows: 0-based. spec: X, y, lam, w0, dtype,
-- loss (default logistic), micro.
function problems.logistic(spec)
  local dtype, n, d = spec.dtype or "f64", #spec.X, #spec.X[1]
  local flat = {}
  for _, row in ipairs(spec.X) do
    table.move(row, 1, d, #flat + 1, flat)
  end
  local source = evaluator.memory { x = core.tensor(dtype, { n, d }, flat), y = core.tensor(dtype, { n }, spec.y) }
  local self = { n = n, d = d, source = source }
  self.evaluator = evaluator {
    loss = spec.loss or logistic_loss(spec.lam or 0), source = source, batch = spec.batch,
    micro = spec.micro, key = core.key(spec.seed or 1),
  }
  function self.theta0()
    return support.flat(dtype, spec.w0 or (function()
      local w = {}
      for i = 1, d do w[i] = 0 end
      return w
    end)())
  end
  function self.batch(rows)
    return source:take(core.tensor("i64", { #rows }, rows))
  end
  -- Batch k (0-based) of a cyclic order of b rows each.
  function self.cyclic(k, b)
    local rows = {}
    for i = 1, b do
      rows[i] = (k * b + i - 1) % n
    end
    return self.batch(rows)
  end
  return self
end

-- A made-up logistic regression of n rows with d columns.
function problems.random_logistic(n, d, options)
  local draw, X, y, w = support.stream(options and options.seed or 7), {}, {}, {}
  for j = 1, d do w[j] = 2 * draw() end
  for i = 1, n do
    X[i] = {}
    local s = 0
    for j = 1, d do
      X[i][j] = draw()
      s = s + X[i][j] * w[j]
    end
    y[i] = s + draw() > 0 and 1 or -1
  end
  local spec = { X = X, y = y, lam = 0.01 }
  for k, v in pairs(options or {}) do
    spec[k] = v
  end
  return problems.logistic(spec)
end

problems.pg = pg

-- A rule that keeps the statistics it gets in state seen_FIELD and moves nothing.
function problems.watch(fields)
  local state = {}
  for i, field in ipairs(fields) do state[i] = "seen_" .. field end
  return pg.rule.define {
    name = "watch", state = state,
    update = function(p, stats, s)
      for _, field in ipairs(fields) do s["seen_" .. field] = stats[field] end
      return p + 0
    end,
  }
end

return problems
