-- walks.lua: steps of a rule on gradients that are made up, for facts that hold for any.
local support = require "support"
local core = support.core

local M = {}

M.SHAPES = { { 3, 4 }, { 5 } }

-- The vector of a layout whose numbers are those of a stream, times scale.
function M.noise(layout, seed, scale)
  local draw, v = support.stream(seed), core.vector(layout, "f64")
  for i = 1, #layout do
    local n = 1
    for _, extent in ipairs(layout[i].shape) do n = n * extent end
    for j = 0, n - 1 do v:data_write(layout[i].offset + j, draw() * (scale or 1)) end
  end
  return v
end

-- Steps of a rule. how: { shapes = M.SHAPES, steps = 6, begin = seed of the parameters (default 3), or nil with zero =
-- true for zeros, gradient = function(k, theta) → vector (default from a stream), scale = of the default ones, options
-- (weight_decay among them), extra = function(k, theta) → what rule:step gets beside }. Returns theta, the state and
-- the list of theta before the first and after each step.
function M.walk(r, how)
  how = how or {}
  local layout = support.layout(how.shapes or M.SHAPES)
  local theta = how.zero and core.vector(layout, "f64") or M.noise(layout, how.begin or 3)
  local state, path = r:init(theta, how.options), { theta:copy() }
  for k = 1, how.steps or 6 do
    local g = how.gradient and how.gradient(k, theta) or M.noise(layout, 100 + k, how.scale)
    local extra = how.extra and how.extra(k, theta) or { key = core.key(1):fold(k) }
    r:step(theta, { g = g }, state, k - 1, extra)
    path[k + 1] = theta:copy()
  end
  return theta, state, path
end

-- The largest difference between two vectors or tensors.
function M.apart(a, b) return (a - b):abs():max():item() end

function M.near(a, b, tolerance, what)
  local d = M.apart(a, b)
  assert(d <= tolerance, ("%s: off by %g"):format(what or "vectors", d))
end

-- How far a rule moves in all, and its path, for the same walk with both rules: they must be the same.
function M.same(a, b, how, tolerance)
  local _, _, one = M.walk(a, how)
  local _, _, other = M.walk(b, how)
  for k, theta in ipairs(one) do M.near(theta, other[k], tolerance or 0, "after step " .. k - 1) end
  assert(M.apart(one[1], one[#one]) > 1e-6, "neither moves")
end

-- The walk is the same whatever the gradients' scale.
function M.scale_free(r, how, tolerance)
  how = how or {}
  local paths = {}
  for i, scale in ipairs { 1, 1000 } do
    how.scale = scale
    paths[i] = M.walk(r, how)
  end
  M.near(paths[1], paths[2], tolerance or 1e-11, "gradients a thousand times as large")
end

return M
