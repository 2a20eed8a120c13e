-- A recipe that trains by the methods of from_docs/, which somebody wrote who had read the docs alone.
--   perigee check tests/lua/from_docs_recipe.lua
local pg = require "perigee"
local yogi, unit_clip, trust = require "from_docs.yogi", require "from_docs.unit_clip", require "from_docs.trust"

local x = pg.randn(pg.key(1), { 400, 4 })
local y = x:matmul(pg.tensor { 1, -2, 0.5, 1 }):gt(0):to "i32"
local all = pg.data.from { x = x, y = y }
local clip = { per_evaluation = { unit_clip { share = 0.5 } } }

for name, optimizer in pairs {
  yogi = pg.optimizer { rule = yogi { lr = 0.05 } },
  unit_clip = pg.optimizer { rule = pg.rule.sgd { lr = 0.5 }, stages = clip, correction = pg.correction.svrg {} },
  trust = pg.optimizer { rule = trust { rule = pg.rule.adamw { lr = 0.05 } }, weight_decay = 1e-3 },
} do
  local run = pg.train {
    name = name, data = { train = all:rows(1, 300), test = all:rows(301, 400) },
    model = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.tanh(), pg.nn.linear(8, 2) },
    loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
    optimizer = optimizer, epochs = 20, batch = 10, seed = 2, metrics = { accuracy = pg.metric.accuracy },
  }
  print(name, run.metrics.accuracy > 0.9 and "learned" or "failed")
end
