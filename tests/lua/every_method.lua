-- A recipe that trains a small logistic regression by every method over a family: what `perigee check` is run on.
--   perigee check --trust tests/lua/every_method.lua family=diagonal
local pg = require "perigee"
local methods = require "methods"

local o = pg.options { family = methods.families }

local x = pg.randn(pg.key(1), { 60, 4 })
local y = 2 * x:matmul(pg.tensor { 1, -2, 0.5, 1 }):gt(0):to("f32") - 1

for _, method in ipairs(methods.over(o.family)) do
  pg.train {
    name = method.name, data = pg.data.from { x = x, y = y }, model = pg.nn.sequential { pg.nn.linear(4, 1) },
    loss = function(net, theta, batch) return pg.softplus(-batch.y * net(theta, batch.x):squeeze(2)):mean() end,
    optimizer = method.make(), batch = 10, steps = 50, seed = 3,
  }
end
