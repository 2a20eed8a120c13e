-- LAMB's trust ratio (You et al. 2020) around any rule: each tensor moves by lr times its own length.
local pg = require "perigee"

return pg.wrapper.define {
  name = "trust", hyper = { most = 10 },
  update = function(p, stats, _, o, ctx)
    local move = ctx.rule(p, stats) - p
    local own, length = p:per_tensor():norm(), move:per_tensor():norm() / o.lr
    local ratio = pg.where(own:gt(0), own / length:maximum(1e-12), 1)
    return p + ratio:minimum(o.most) * move
  end,
}
