-- A method of one's own, in three parts: a rule, a correction and a family. Each is a few lines of Lua over whole
-- vectors; the engine traces them once and compiles the step, so nothing here costs speed.
--
--   perigee recipes/new_method.lua
--   perigee check recipes/new_method.lua      does it repeat, save, load, and vanish where it must?
--   perigee emit recipes/new_method.lua       the C it becomes
--
-- An optimizer is family × correction × rule:
--   the family owns the posterior q: where the loss is evaluated, and which statistics come back;
--   the correction replaces these statistics by less noisy ones;
--   the rule moves the mean.
-- Any of the three can be exchanged for a ready-made one (`perigee methods` lists them).

local pg = require "perigee"

local o = pg.options { lr = 0.003, epochs = 3, batch = 100, seed = 1 }

-- ---- a rule ---------------------------------------------------------------------------------------------------------
-- Signs of a momentum, as in signSGD, but each coordinate's step shrinks where the signs keep changing: `agree` is a
-- running mean of "the gradient has the momentum's sign". `state` names the vectors the rule keeps; they begin at 0.
-- Numbers in `hyper` are run-time inputs: a schedule for lr recompiles nothing.
--
-- The function runs once, on traced vectors. So `if`, `and`, `==` on them, on ctx.t or on a hyperparameter would be
-- decided once and for all; write pg.where(pg.lt(a, b), x, y). (The engine notices when a branch was swallowed.)
local steady_sign = pg.rule.define {
  name = "steady_sign", state = { "m", "agree" }, hyper = { lr = 1e-3, beta = 0.9, memory = 0.95 },
  update = function(p, stats, s, h, ctx)
    s.m = h.beta * s.m + (1 - h.beta) * stats.g
    local same = pg.gt(stats.g * s.m, 0):to(p.dtype)
    s.agree = h.memory * s.agree + (1 - h.memory) * same
    return p - h.lr * (s.agree * pg.sign(s.m) + ctx.weight_decay * p)
  end,
}

-- ---- a correction ---------------------------------------------------------------------------------------------------
-- SVRG compares each batch's gradient with the one at a snapshot and adds the snapshot's mean. This one does so in
-- part, `alpha`, and takes only a mega-batch of a few batches for the mean (`mega` is an option of every correction).
--
-- `refresh` is ordinary Lua, run when due. What it assigns to s is kept, and saved in checkpoints.
-- `correct` is traced. ctx:evaluate(q) gives the statistics at q on this step's batch under this step's randomness, so
-- the two evaluations below see the same examples, the same dropout masks and the same noise. Arithmetic on statistics
-- acts on all of them, {g} or {g, h}: over the diagonal family this very code corrects IVON.
local partial_svrg = pg.correction.define {
  name = "partial_svrg", hyper = { alpha = 0.5 }, due = "every",
  refresh = function(s, ctx)
    s.at = ctx.q:clone()
    s.mean = ctx:full(s.at)
  end,
  correct = function(s, ctx, h)
    local now, old = ctx:evaluate(ctx.q), ctx:evaluate(s.at)
    return (now - h.alpha * old) + h.alpha * s.mean -- this order is exact at the snapshot
  end,
}

-- ---- a family -------------------------------------------------------------------------------------------------------
-- Randomized smoothing: the loss is evaluated at the mean plus noise from a cube of half-width `radius`. The key makes
-- the draw the same wherever it is asked for again: it is never stored.
local smoothed = pg.family.define {
  name = "smoothed", hyper = { radius = 1e-3 },
  init = function(theta) return { mean = theta } end,
  sample = function(q, key, h)
    local cube = 2 * pg.uniform(key, q.mean.layout, q.mean.dtype) - 1
    return q.mean + h.radius * cube
  end,
  statistics = function(g) return { g = g } end,
}

-- ---- together -------------------------------------------------------------------------------------------------------

local data = pg.data.load "fashion-mnist"
local model = pg.nn.sequential { pg.nn.flatten(), pg.nn.linear(784, 64), pg.nn.tanh(), pg.nn.linear(64, 10) }

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

local run = pg.train {
  name = "new-method", model = model, data = data, loss = loss, epochs = o.epochs, batch = o.batch, seed = o.seed,
  metrics = { accuracy = pg.metric.accuracy },
  optimizer = pg.optimizer {
    weight_decay = 1e-4,
    family = smoothed { radius = 1e-3 },
    correction = partial_svrg { alpha = 0.5, every = pg.epochs(0.25), mega = 100, start = pg.epochs(1) },
    rule = steady_sign { lr = pg.schedule.cosine { peak = o.lr } },
  },
}

print(("test accuracy %.2f%%, test loss %.4f, %s"):format(100 * run.metrics.accuracy, run.metrics.loss, run.cost))
io.write(pg.plot.draw({ run:curve("loss", "gradients") }, { title = "training loss", xlabel = "gradient evaluations" }))
