-- family_noise.lua: the one place where families draw the noise of their points, so that a step which is watched, or
-- whose noise comes from outside (witness.lua), can put itself in between.

local generic = require "perigee.generic"

local noise = {}

local exchange_draw -- while a point is sampled for somebody who watches: function(eps) → the noise to use

-- f(…), with the noise that it draws going through exchange; nil: as it is drawn.
function noise.watched(exchange, f, ...)
  exchange_draw = exchange
  local _ <close> = setmetatable({}, { __close = function() exchange_draw = nil end })
  return f(...)
end

--- pg.family.normal(key, like [, sign = 1]) → vector: Standard normal numbers of the layout and dtype of `like`, by
-- the key and their places alone; with sign = -1 their negatives, for `sample` of families of one's own.
function noise.normal(key, like, sign)
  local eps = generic.normal_like(key, like)
  if exchange_draw then eps = exchange_draw(eps) end
  return sign == -1 and -eps or eps
end

return noise
