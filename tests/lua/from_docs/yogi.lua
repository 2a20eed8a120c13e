-- Yogi (Zaheer et al. 2018): Adam whose second moment moves by a step of a size of its own.
local pg = require "perigee"

return pg.rule.define {
  name = "yogi", state = { m = 0, v = 1e-6 },
  hyper = { lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-3 },
  update = function(p, stats, s, o, ctx)
    local square = stats.g * stats.g
    s.m = o.beta1 * s.m + (1 - o.beta1) * stats.g
    s.v = s.v - (1 - o.beta2) * pg.sign(s.v - square) * square
    local rate = o.lr * pg.sqrt(1 - o.beta2 ^ ctx.t) / (1 - o.beta1 ^ ctx.t)
    return p * (1 - o.lr * ctx.weight_decay) - rate * s.m / (pg.sqrt(s.v) + o.eps)
  end,
}
