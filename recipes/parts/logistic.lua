-- logistic.lua: L2-regularized logistic regression as a problem to measure methods on: data, model, loss, and the exact
-- minimum, above which gaps are measured. For recipes: local logistic = require "parts.logistic".
--
--   F(w) = mean over examples of log(1 + exp(-y x·w)) + l2/2 |w|²        two classes; w [d, 1]
--   F(w) = mean over examples of -log softmax(x w)[y] + l2/2 |w|²        more classes; w [d, classes]

local pg = require "perigee"

local logistic = {}

-- A made-up problem of 2000 examples and 20 features, of unequal sizes and correlated: the Hessian at its minimum has a
-- condition number of 326 (l2 = 5e-4), and of 13 with the features scaled by its diagonal.
local function make_synthetic()
  local n, d = 2000, 20
  local key = pg.key(8)
  local sizes, mixing = {}, pg.randn(key:fold "mixing", { d, d }, { dtype = "f64" })
  for j = 1, d do sizes[j] = 25 ^ (-(j - 1) / (d - 1)) end
  local z = pg.randn(key:fold "x", { n, d }, { dtype = "f64" })
  local x = (z + 0.8 * z:matmul(mixing) / d ^ 0.5) * pg.tensor(sizes, "f64")
  local w = pg.randn(key:fold "w", { d }, { dtype = "f64" })
  local logits = 1.5 * x:matmul(w)
  local y = 2 * pg.uniform(key:fold "y", { n }, { dtype = "f64" }):lt(pg.sigmoid(logits)):to "f64" - 1
  return pg.data.from { x = x, y = y }
end

-- → split, number of outputs (1: two classes, labels -1 and 1)
local function load_data(name, rows)
  local split
  local outputs = 1
  if name == "synthetic" then
    split = make_synthetic()
  else
    local found = pg.data.load(name)
    if rawget(found, "train") then
      split = pg.data.load(name, { flat = true }).train
      outputs = math.tointeger(split.y:max():item()) + 1
    else
      split = pg.data.load(name, { labels = "pm1" })
    end
  end
  if rows > 0 and rows < split.n then split = split:take(rows) end
  return split, outputs
end

local Problem = {}
Problem.__index = Problem

-- F(w) - F(w*) at parameters theta. Close to the minimum the difference of two values loses its digits, so there it is
-- the quadratic form of the Hessian at w*, which differs from it by a relative error of the size of |w - w*|.
function Problem:gap(theta)
  local w = theta["1.weight"]
  local step = w - self.minimum.x
  local quadratic = self:quadratic(step)
  if quadratic < 1e-9 then return quadratic end
  return self.value(w):item() - self.minimum.value
end

-- Half of step' H step, H the Hessian at w*.
function Problem:quadratic(step) return 0.5 * (step * self.minimum.product(step)):sum():item() end

-- The Hessian at w*, [d, d], by its columns.
function Problem:hessian()
  local size = self.minimum.x.size
  local columns = {}
  for i = 0, size - 1 do
    local unit = pg.one_hot(pg.tensor({ i }, "i32"), size):to("f64"):reshape(self.minimum.x.shape)
    columns[i + 1] = self.minimum.product(unit):reshape { size }
  end
  return pg.stack(columns, 1)
end

-- The condition numbers of the Hessian at w*: as it is, and scaled by its diagonal from both sides.
function Problem:conditions()
  local h = self:hessian()
  local size = h.shape[1]
  local scale = (h * pg.eye(size, { dtype = "f64" })):sum(2) ^ -0.5
  local function of(a)
    local values = pg.linalg.eigh(a):totable()
    return values[size] / values[1]
  end
  return of(h), of(h * scale:unsqueeze(1) * scale:unsqueeze(2))
end

-- Nodes [k] and weights of Gauss-Hermite quadrature for a standard normal number, from the eigenvectors of the Jacobi
-- matrix (Golub & Welsch 1969).
local function quadrature(k)
  local jacobi = {}
  for i = 1, k do
    jacobi[i] = {}
    for j = 1, k do jacobi[i][j] = math.abs(i - j) == 1 and math.min(i, j) ^ 0.5 or 0 end
  end
  local nodes, vectors = pg.linalg.eigh(pg.tensor(jacobi, "f64"))
  return nodes, vectors:slice(1):square()
end

-- How far above F* the point lies at which the mean of F over N(w, diag(variance)) is least: what weight noise of that
-- size alone makes of the minimum. Two classes only: there x·w is one normal number, and its mean a quadrature.
function Problem:offset(variance)
  local x, y = self.x, self.y
  local nodes, weights = quadrature(12)
  local spread = (x * x):matmul(variance) ^ 0.5 -- [n, 1]
  local minimum = pg.minimize.newton_cg(function(w)
    local z = -y:unsqueeze(2) * (x:matmul(w) + spread * nodes) -- [n, nodes]
    return (pg.softplus(z) * weights):sum(2):mean() + 0.5 * self.l2 * (w * w):sum()
  end, self.minimum.x)
  return self:quadratic(minimum.x - self.minimum.x)
end

-- given: { data = name or "synthetic", rows = how many of its examples (0: all), l2 = } → problem: { n, parameters,
-- train, model, loss, minimum }
function logistic.load(given)
  local train, outputs = load_data(given.data, given.rows)
  local whole = train:all "f64"
  local x, y, d = whole.x, whole.y, whole.x.shape[2]
  local function loss_of(z, labels)
    if outputs > 1 then return pg.cross_entropy(z, labels) end
    return pg.softplus(-labels * z:squeeze(2)):mean()
  end
  local function objective(w) return loss_of(x:matmul(w), y) + 0.5 * given.l2 * (w * w):sum() end
  return setmetatable({
    name = given.data, n = train.n, parameters = outputs * d, outputs = outputs, train = train, x = x, y = y,
    l2 = given.l2,
    model = pg.nn.sequential { pg.nn.linear(d, outputs, { bias = false }) },
    loss = function(net, theta, batch) return loss_of(net(theta, batch.x), batch.y) end,
    value = pg.jit(objective), minimum = pg.minimize.newton_cg(objective, pg.zeros({ d, outputs }, "f64")),
  }, Problem)
end

return logistic
