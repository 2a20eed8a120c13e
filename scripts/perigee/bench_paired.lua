-- bench_paired.lua: problems on which a corrected method is held against its plain one: one step of SGD, SVRG, IVON and
-- IVON-PoCo on the same model and batch, each with state of its own, and the floating-point operations of each.
--
-- SVRG and IVON-PoCo evaluate two points where their plain methods evaluate one. They are measured between refreshes:
-- the only refresh, a full pass over a data set of this one batch, is made before.

local core = require "perigee.core"
local evaluator = require "perigee.evaluator"
local pg = require "perigee"

local paired = {}

-- Labels of a batch: 0 … classes - 1, mixed.
local function labels(count, classes)
  local list = {}
  for i = 1, count do list[i] = i * 7 % classes end
  return core.tensor("i64", { count }, list)
end

local function classify(model, theta, batch, ctx) return pg.cross_entropy(model(theta, batch.x, ctx), batch.y) end

-- LeNet-5 in one of its forms: "relu" (and max-pooling) or "tanh" (and average-pooling).
function paired.lenet(form)
  local nn = pg.nn
  local activation, pool = nn.relu, nn.max_pool2d
  if form == "tanh" then activation, pool = nn.tanh, nn.avg_pool2d end
  return {
    model = nn.sequential {
      nn.conv2d(1, 6, 5, { pad = 2 }), activation(), pool(2), nn.conv2d(6, 16, 5), activation(), pool(2), nn.flatten(),
      nn.linear(400, 120), activation(), nn.linear(120, 84), activation(), nn.linear(84, 10),
    },
    loss = classify, lr = 0.01, tensors = { x = pg.randn(pg.key(4), { 64, 1, 28, 28 }), y = labels(64, 10) },
  }
end

paired.problems = {}

-- Logistic regression, d = 100, batch 32.
function paired.problems.logreg()
  local x = pg.randn(pg.key(4), { 32, 100 })
  return {
    model = pg.nn.sequential { pg.nn.linear(100, 1) }, lr = 0.1,
    loss = function(model, theta, batch)
      return pg.binary_cross_entropy_with_logits(model(theta, batch.x), batch.y)
    end,
    tensors = { x = x, y = x:sum(-1):gt(0):to("f32"):reshape { 32, 1 } },
  }
end

function paired.problems.lenet() return paired.lenet("relu") end

-- 24,995,012 parameters in three layers, batch 128.
function paired.problems.mlp25m()
  local nn = pg.nn
  return {
    model = nn.sequential {
      nn.linear(784, 4096), nn.relu(), nn.linear(4096, 4096), nn.relu(), nn.linear(4096, 1220),
    },
    loss = classify, lr = 0.01, tensors = { x = pg.randn(pg.key(4), { 128, 784 }), y = labels(128, 1220) },
  }
end

local NEVER = 1 << 40 -- steps from one refresh to the next

-- The methods in the order in which they are measured: each corrected one after its plain one.
paired.methods = { "sgd", "svrg", "ivon", "ivon_poco" }

-- By method; those in `off` are corrected ones whose correction is switched off by alpha = 0.
local options = {
  sgd = function(lr) return { lr = lr } end,
  svrg = function(lr) return { lr = lr, every = NEVER } end,
  ivon = function(lr) return { lr = lr, ess = 6e4 } end,
  ivon_poco = function(lr) return { lr = lr, ess = 6e4, every = NEVER } end,
}
local off = {
  svrg_off = { "svrg", function(lr) return { lr = lr, alpha = 0 } end },
  ivon_poco_off = { "ivon_poco", function(lr) return { lr = lr, ess = 6e4, alpha = 0 } end },
}

-- The same with the corrections switched off: what a correction costs that does nothing.
paired.switched_off = { "sgd", "svrg_off", "ivon", "ivon_poco_off" }

-- A step of one method on a problem: a function that makes it, and how many floating-point operations its plan counts.
function paired.step(problem, method)
  local source = evaluator.memory(problem.tensors)
  local eval = pg.evaluator { model = problem.model, loss = problem.loss, key = pg.key(1), source = source }
  local name, given = method, options[method]
  if off[method] then name, given = table.unpack(off[method]) end
  local optimizer = pg.optim[name](given(problem.lr))
  local state = optimizer:init(problem.model:init(pg.key(2)), pg.key(3))
  local _, batch = source:batches(source.n)()
  local _, info = optimizer:step(state, eval, batch)
  local mode = info.corrected and "corrected" or "plain"
  local flops = optimizer:program(state, eval, mode, batch).program:info().flops
  return function() optimizer:step(state, eval, batch) end, flops
end

return paired
