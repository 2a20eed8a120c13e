-- Adaptive gradient clipping (Brock et al. 2021): the gradient of each unit's weights, a column, stays below a share of
-- their own length.
local pg = require "perigee"

local function lengths(x) return pg.sqrt((x * x):sum(1, true)) end

return pg.stage.define {
  name = "unit_clip", hyper = { share = 0.01, eps = 1e-3 },
  apply = function(g, o, ctx)
    return g:map_tensors(function(x, _, w)
      if x.ndim ~= 2 then return x end
      local most = o.share * pg.maximum(lengths(w), o.eps)
      return x * pg.minimum(most / pg.maximum(lengths(x), 1e-6), 1)
    end, ctx.theta)
  end,
}
