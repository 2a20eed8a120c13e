-- probe_moments.lua: weighted means, variances and covariances of tensors that come one after another (Welford 1962;
-- West 1979): no difference of large sums, so that tensors which are all the same have exactly the variance 0.

local core = require "perigee.core"
local transform = require "perigee.transform"

local moments = {}

local Moments = {}
Moments.__index = Moments

local add_to_mean = transform.jit(function(mean, squares, x, share, weight)
  local difference = x - mean
  local moved = mean + share * difference
  return moved, squares + weight * difference * (x - moved)
end)

local add_to_products = transform.jit(function(products, x, mean_x, y, moved_y, weight)
  return products + weight * (x - mean_x) * (y - moved_y)
end)

-- The sum of a tensor's elements, a number.
function moments.sum(x) return core.apply("sum", nil, x):item() end

-- The squared length of a tensor, and the product of two, numbers.
function moments.square(x) return moments.sum(x * x) end
function moments.dot(x, y) return moments.sum(x * y) end

-- Moments of one tensor: mean and squares (weighted sum of squared differences, by elements).
function moments.new()
  return setmetatable({ total = 0 }, Moments)
end

function Moments:add(x, weight)
  self.total = self.total + weight
  if not self.mean then
    self.mean, self.squares = x:copy(), x * 0
  else
    self.mean, self.squares = add_to_mean(self.mean, self.squares, x, weight / self.total, weight)
  end
end

-- The weighted mean of |x - mean|^2.
function Moments:variance() return moments.sum(self.squares) / self.total end

local Pair = {}
Pair.__index = Pair

-- Moments of two tensors together: x, y and products (weighted sum of products of differences).
function moments.pair()
  return setmetatable({ x = moments.new(), y = moments.new() }, Pair)
end

function Pair:add(x, y, weight)
  local mean_x = self.x.mean
  self.x:add(x, weight)
  self.y:add(y, weight)
  if not mean_x then
    self.products = x * 0
  else
    self.products = add_to_products(self.products, x, mean_x, y, self.y.mean, weight)
  end
end

return moments
