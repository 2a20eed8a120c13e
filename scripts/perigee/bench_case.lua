-- bench_case.lua: our side of the benchmarks: each function sets up a case and returns what does one step of it, the
-- way a user's own loop would.

local core = require "perigee.core"
local builder = require "perigee.builder"
local paired = require "perigee.bench_paired"
local pg = require "perigee"
local rules = require "perigee.bench_rules"
local posterior = require "perigee.posterior"

local case = {}

local function trainer(spec)
  local evaluator = pg.evaluator { model = spec.model, loss = spec.loss, key = pg.key(1) }
  local state = spec.optimizer:init(spec.model:init(pg.key(2)), pg.key(3))
  return function() spec.optimizer:step(state, evaluator, spec.batch) end
end

-- Logistic regression, d = 100, batch 32: one SGD step.
function case.logreg() return (paired.step(paired.problems.logreg(), "sgd")) end

-- LeNet-5, batch 64: one SGD step, in either form.
function case.lenet() return (paired.step(paired.lenet("relu"), "sgd")) end

function case.lenet_tanh() return (paired.step(paired.lenet("tanh"), "sgd")) end

-- Multilayer perceptron 784-512-512-10, batch 128: one AdamW step.
function case.mlp()
  local labels = {}
  for i = 1, 128 do labels[i] = i * 7 % 10 end
  return trainer {
    model = pg.nn.sequential {
      pg.nn.linear(784, 512), pg.nn.relu(), pg.nn.linear(512, 512), pg.nn.relu(), pg.nn.linear(512, 10),
    },
    loss = function(model, theta, batch, ctx) return pg.cross_entropy(model(theta, batch.x, ctx), batch.y) end,
    optimizer = pg.optim.adamw { lr = 1e-3, weight_decay = 0.01 },
    batch = { x = pg.randn(pg.key(4), { 128, 784 }), y = core.tensor("u8", { 128 }, labels) },
  }
end

-- Floating-point operations of that step's matrix products: forward, weights, and inputs but for the first layer.
case.mlp_flops = 2 * 128 * (3 * (784 * 512 + 512 * 512 + 512 * 10) - 784 * 512)

-- AdamW as somebody else would write it: one thing after the other, with names for everything in between.
local function define_adamw_in_steps()
  return pg.rule.define {
    name = "adamw_in_steps", state = { "first", "second" },
    hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8 },
    update = function(p, stats, s, o, ctx)
      local g = stats.g
      local difference = g - s.first
      local first = s.first + (1 - o.beta1) * difference
      local squared = g * g
      local decayed = s.second * o.beta2
      local second = decayed + squared * (1 - o.beta2)
      s.second, s.first = second, first
      local corrected1 = first / (1 - o.beta1 ^ ctx.t)
      local corrected2 = second / (1 - o.beta2 ^ ctx.t)
      local root = corrected2:sqrt() + o.eps
      local direction = corrected1 / root
      local shrink = ctx.weight_decay * p
      local total = direction + shrink
      return p - o.lr * total
    end,
  }
end

-- AdamW's update alone on 25M parameters: the built-in rule, and the same written otherwise by a user.
function case.adamw25m() return rules.updater(pg.rule.adamw { lr = 1e-3 }, {}) end

function case.adamw25m_in_steps() return rules.updater(define_adamw_in_steps(), {}) end

local function vectors_of(count, rows, columns)
  local entries = {}
  for i = 1, count do entries[i] = { "t" .. i, { rows, columns } } end
  local layout = core.layout(entries)
  return function(x) return core.apply("full", { layout = layout, dtype = "f32" }, x) end
end

-- IVON on 16 tensors of 1024 x 1024, given a gradient: a program that samples the point, which is written to memory
-- for the model to read, and one that updates from the gradient, which is read from memory.
function case.ivon16m()
  local full = vectors_of(16, 1024, 1024)
  local family, rule = pg.family.diagonal { ess = 1e6, h0 = 0.1 }, pg.rule.ivon { lr = 0.1 }
  local q, point, g = family:init(full(0.1)), full(0), full(0.01)
  local slots, numbers, base = rule:allocate(q.mean), { t = 0, decay = 1e-4 }, pg.key(5)
  family.hyper:evaluate(0)
  rule.hyper:evaluate(0)

  local function trace(f)
    return builder.trace("a benchmark", function(b)
      local function scalar(values, name) return b:scalar(values, name) end
      local mean, h = b:slot(q.mean), b:slot(q.h)
      local o = family.hyper:traced(scalar, mean)
      o.weight_decay = b:scalar(numbers, "decay")
      local key = core.apply("key_fold", nil, b:input("key", base), b:scalar(numbers, "t"))
      local view = posterior.view("q", { mean = mean, h = h }, { "h" }, function(name) return o[name] end)
      f(b, view, key, o, scalar)
    end)
  end

  local sample = trace(function(b, view, key, o)
    family:evaluate(view, key, o, function(theta)
      b:output(theta, point)
      return nil, theta
    end)
  end)
  local update = trace(function(b, view, key, o, scalar)
    local stats = family:evaluate(view, key, o, function() return nil, b:slot(g) end)
    local ctx = { t = b:scalar(numbers, "t"), q = view, info = {}, weight_decay = o.weight_decay }
    family:update(view, stats, o, ctx)
    local values = { m = b:slot(slots.m) }
    b:output(rule:apply(view.mean, stats, values, rule.hyper:traced(scalar, view.mean), ctx), q.mean)
    b:output(view.h, q.h)
    b:output(values.m, slots.m)
  end)
  sample:bind("key", base)
  update:bind("key", base)
  return function()
    numbers.t = numbers.t + 1
    sample:run()
    update:run()
  end
end

-- Gradients of LeNet-5, batch 64, each a program that writes to memory of its own: their mean, all of them, [64, …] for
-- each tensor, and their average after each was clipped, as DP-SGD takes it.
function case.per_example()
  local problem = paired.lenet("relu")
  local theta, x, y = problem.model:init(pg.key(2)), problem.tensors.x, problem.tensors.y

  local function loss(at, images, labels)
    return pg.cross_entropy(problem.model(at, images, {}), labels)
  end

  local function loss_of_one(at, image, label)
    return loss(at, image:reshape(1, table.unpack(image.shape)), label:reshape(1))
  end

  local function clipped(at, image, label)
    local g = pg.grad(loss_of_one)(at, image, label)
    return g * (1 / (g * g):sum():sqrt()):minimum(1)
  end

  local function average_clipped(at, images, labels)
    local g, parts = pg.vmap(clipped, { false, 1, 1 })(at, images, labels), {}
    for i = 1, #g.layout do parts[i] = core.apply("view", { a = { i - 1 } }, g):mean(1) end
    return core.apply("pack", { layout = theta.layout }, table.unpack(parts))
  end

  local function compile(f)
    local trace <close> = core.trace()
    local inputs = { trace:input(theta.dtype, theta.layout), trace:input(x.dtype, x.shape),
      trace:input(y.dtype, y.shape) }
    local program = trace:compile { (f(table.unpack(inputs))) }
    for i, tensor in ipairs { theta, x, y } do program:bind(i, tensor) end
    return function() program:run() end
  end

  return compile(pg.grad(loss)), compile(pg.vmap(pg.grad(loss_of_one), { false, 1, 1 })), compile(average_clipped)
end

-- A product of two n x n matrices.
function case.gemm(n)
  local a, b = pg.randn(pg.key(6), { n, n }), pg.randn(pg.key(7), { n, n })
  local multiply = pg.jit(function(x, y) return x:matmul(y) end)
  return function() multiply(a, b) end
end

-- The plans of the demo (recipes/fashion_lenet.lua): seconds to trace and compile a step of each method, by name.
function case.compile_demo()
  local problem = paired.lenet("tanh")
  local batch = { x = problem.tensors.x, y = problem.tensors.y, id = core.tensor("i64", { 64 }) }
  local methods = {
    { "sgd", pg.optim.momentum { lr = 0.1 }, "plain" },
    { "adamw", pg.optim.adamw { lr = 1e-3 }, "plain" },
    { "svrg", pg.optim.svrg { lr = 0.1, every = 100 }, "corrected" },
    { "ivon", pg.optim.ivon { lr = 1, ess = 6e4 }, "plain" },
    { "ivon-poco", pg.optim.ivon_poco { lr = 1, ess = 6e4, every = 100 }, "corrected" },
  }
  local times = {}
  for i, method in ipairs(methods) do
    local name, optimizer, mode = table.unpack(method)
    local evaluator = pg.evaluator { model = problem.model, loss = problem.loss, key = pg.key(1) }
    local state = optimizer:init(problem.model:init(pg.key(2)), pg.key(3))
    optimizer:evaluate_hypers(0)
    local start = core.data.clock()
    optimizer:program(state, evaluator, mode, batch)
    times[i] = { name, core.data.clock() - start }
  end
  return times
end

return case
