-- Facts about Sophia-G's family: its Hessian diagonal, estimated by gradients on labels drawn from the model.
local support = require "support"
local pg, core = support.pg, support.core

local N, INPUTS, CLASSES = 16, 3, 4
local LAYOUT = support.layout { { INPUTS, CLASSES } }

-- Softmax regression on N examples; loss: in place of its own.
local function problem(loss)
  local x = pg.randn(core.key(1), { N, INPUTS }, "f64")
  local y = (pg.uniform(core.key(2), { N }, "f64") * CLASSES):floor():to("i64")
  local self = { x = x, y = y }
  self.theta = support.vector(LAYOUT, "f64", { pg.randn(core.key(3), { INPUTS * CLASSES }):totable() })
  local source = pg.evaluator.memory { x = x, y = y }
  self.batch = source:take(pg.arange(N, "i64"))
  function self.logits(theta) return x:matmul(theta.t1) end
  self.evaluator = pg.evaluator { source = source, batch = N, loss = loss or function(_, theta, batch, ctx)
    local logits = batch.x:matmul(theta.t1)
    return pg.cross_entropy(logits, pg.labels(logits, batch.y, ctx))
  end }
  return self
end

-- Run an optimizer, whose parameters stay, and call see(state) after each step.
local function watch(p, family, steps, see)
  local opt = pg.optimizer { family = family, rule = pg.rule.sgd { lr = 0 } }
  local st = opt:init(p.theta, core.key(7))
  for _ = 1, steps do
    opt:step(st, p.evaluator, p.batch)
    see(st)
  end
end

local function raises(f, part)
  local ok, message = pcall(f)
  assert(not ok and message:find(part, 1, true), message)
end

describe("pg.family.gauss_newton", function()
  it("estimates the diagonal of the Hessian, where the logits are linear, without bias", function()
    local p, sum = problem(), 0
    local STEPS = 4000
    watch(p, pg.family.gauss_newton { every = 1, beta2 = 0 }, STEPS, function(st) sum = sum + st.q.h:flat() end)
    local share = p.logits(p.theta):softmax()
    local exact = (p.x * p.x):t():matmul(share * (1 - share)) / N
    local off = (sum / STEPS - exact:reshape(-1)):abs() / exact:reshape(-1)
    -- A square of normal numbers has variance 2 for a mean of 1: 4000 of them err by 2.2% (one sigma).
    assert(off:max():item() < 0.09, tostring(off))
  end)

  it("takes its gradient on the labels of the data", function()
    local p = problem()
    local expected = pg.grad(function(theta) return pg.cross_entropy(p.logits(theta), p.y) end)(p.theta)
    local opt = pg.optimizer { family = pg.family.gauss_newton {}, rule = pg.rule.sgd { lr = 1 } }
    local st = opt:init(p.theta:copy(), core.key(7))
    opt:step(st, p.evaluator, p.batch)
    assert(support.difference((p.theta - st.theta):totable(), expected:totable()) < 1e-14)
  end)

  it("moves h in one of `every` steps, from the first on, as a moving average", function()
    local p, seen, fresh = problem(), {}, {}
    watch(p, pg.family.gauss_newton { every = 3, beta2 = 0.5, h0 = 1 }, 7, function(st)
      seen[#seen + 1] = st.q.h:flat():copy()
    end)
    watch(p, pg.family.gauss_newton { every = 1, beta2 = 0 }, 7, function(st)
      fresh[#fresh + 1] = st.q.h:flat():copy()
    end)
    local h = 1
    for step = 1, 7 do
      if (step - 1) % 3 == 0 then h = 0.5 * h + 0.5 * fresh[step] end
      assert(support.difference(seen[step]:totable(), h:totable()) < 1e-14, step)
    end
  end)

  it("costs a gradient in each of these steps", function()
    watch(problem(), pg.family.gauss_newton { every = 4 }, 1, function(st)
      assert.are.equal(1.25 * N, st.cost:gradients())
    end)
  end)

  it("is the same in pieces, but for the draws and the number of labels", function()
    local p, found = problem(), {}
    local function look()
      watch(p, pg.family.gauss_newton { every = 2, h0 = 1, beta2 = 0 }, 1, function(st)
        found[#found + 1] = st.q.h:flat():sum():item()
      end)
    end
    look()
    p.evaluator = pg.evaluator { source = p.evaluator.source, batch = N, micro = 4, loss = p.evaluator.loss }
    look()
    local ratio = found[2] / found[1]
    assert(ratio > 0 and ratio < 2, ratio)
  end)

  it("counts the labels of a batch with weights, and not its empty places", function()
    local p, found = problem(), {}
    local function look()
      watch(p, pg.family.gauss_newton { every = 1, beta2 = 0 }, 1, function(st)
        found[#found + 1] = st.q.h:flat():totable()
      end)
    end
    look()
    local rows = pg.arange(N + 4, "i64"):minimum(N - 1)
    p.batch = { x = p.x:take(rows), y = p.y:take(rows), id = rows,
      sample_weight = pg.arange(N + 4, "i64"):lt(N):to("f64") / N }
    look()
    assert(support.difference(found[1], found[2]) < 1e-13)
  end)

  it("says what it needs", function()
    local p = problem(function(_, theta, batch) return pg.cross_entropy(batch.x:matmul(theta.t1), batch.y) end)
    raises(function() watch(p, pg.family.gauss_newton {}, 1, function() end) end, "pg.labels(logits, batch.y, ctx)")
    raises(function()
      pg.optimizer { family = pg.family.gauss_newton {}, correction = pg.correction.svrg {}, rule = pg.rule.sophia }
    end, "every = 1")
    raises(function() pg.labels(pg.zeros { 3, 2 }, pg.zeros({ 3, 1 }, "i64"), { drawn = {} }) end,
      "one axis, of classes")
  end)

  it("goes with corrections where it gives h in each step", function()
    local p = problem()
    local opt = pg.optimizer { family = pg.family.gauss_newton { every = 1 }, rule = pg.rule.sophia { lr = 0.01 },
      correction = pg.correction.svrg { every = 2 } }
    local st = opt:init(p.theta:copy(), core.key(7))
    for _ = 1, 4 do opt:step(st, p.evaluator, p.batch) end
    assert(st.q.h:flat():isfinite():all():item())
  end)
end)

describe("Sophia-G", function()
  it("learns by pg.optim.sophia_g", function()
    local x = pg.randn(core.key(4), { 256, 8 })
    local y = x:matmul(pg.randn(core.key(5), { 8, 4 })):argmax(-1)
    local model = pg.nn.sequential { pg.nn.linear(8, 16), pg.nn.relu(), pg.nn.dropout(0.1), pg.nn.linear(16, 4) }
    local run = pg.train { name = "sophia", model = model, data = pg.data.from { x = x, y = y }, seed = 1, batch = 32,
      steps = 150, optimizer = pg.optim.sophia_g { lr = 0.01 },
      loss = function(net, theta, batch, ctx)
        local logits = net(theta, batch.x, ctx)
        return pg.cross_entropy(logits, pg.labels(logits, batch.y, ctx))
      end }
    local loss = pg.cross_entropy(model(run.theta, x, { train = false }), y):item()
    assert(loss < 0.5, loss)
  end)
end)
