-- minimize_cg.lua: the minimum of a smooth, strictly convex function of many parameters, on tensors: Newton steps whose
-- equations are solved by conjugate gradients on Hessian-vector products, so no matrix is formed (Nocedal & Wright
-- 2006, algorithm 7.1).

local names = require "perigee.names"

local M = {}

local function dot(a, b) return (a * b):sum():item() end

-- The step d with H d = -g to a relative residual, from products(v) = H v. → d, products taken
local function solve(product, g, residual, most)
  local d, r = 0 * g, -g
  local p, rr = r, dot(r, r)
  local target = residual ^ 2 * rr
  local count = 0
  while rr > target and count < most do
    local hp = product(p)
    local step = rr / dot(p, hp)
    if step ~= step or step <= 0 then break end -- what is left is rounding
    d, r = d + step * p, r - step * hp
    local before = rr
    rr = dot(r, r)
    p = r + (rr / before) * p
    count = count + 1
  end
  return d, count
end

-- Half the step until the value falls by Armijo's rule; where values no longer tell, until the gradient is shorter.
local function search_line(value_and_grad, at, d)
  local slope = dot(at.gradient, d)
  local flat = -slope <= 1e-10 * math.max(1, math.abs(at.value))
  local t = 1
  for _ = 1, 40 do
    local x = at.x + t * d
    local value, gradient = value_and_grad(x)
    local found = { x = x, value = value:item(), gradient = gradient, norm = dot(gradient, gradient) ^ 0.5 }
    if flat and found.norm < at.norm or not flat and found.value <= at.value + 1e-4 * t * slope then return found end
    t = t / 2
  end
end

--- pg.minimize.newton_cg(f, x0 [, { tolerance = 1e-12, iterations = 100, products = 500 }]) → result: The minimum
-- of a smooth, strictly convex f, a function from a tensor to a tensor of shape [] that can be traced, from x0 on;
-- for many parameters: Newton's equations are solved by conjugate gradients (Nocedal & Wright 2006, algorithm 7.1).
--   tolerance: of the gradient's norm, relative to max(1, norm at the start). products: Hessian-vector products of one
--     Newton step at most.
--   result: { x (a tensor like x0), value, gradient (its norm), iterations, products, converged, product };
--     product(v) is the Hessian at x times v.
function M.newton_cg(f, x0, opts)
  opts = opts or {}
  names.check("pg.minimize.newton_cg", opts, { "tolerance", "iterations", "products" })
  local pg = require "perigee"
  local value_and_grad, hvp = pg.jit(pg.value_and_grad(f)), pg.jit(pg.hvp(f))
  local value, gradient = value_and_grad(x0)
  local at = { x = x0, value = value:item(), gradient = gradient, norm = dot(gradient, gradient) ^ 0.5 }
  local tolerance = (opts.tolerance or 1e-12) * math.max(1, at.norm)
  local iterations, products = 0, 0
  while at.norm > tolerance and iterations < (opts.iterations or 100) do
    local d, count = solve(function(v) return hvp(v, at.x) end, at.gradient, math.min(0.1, at.norm),
      opts.products or 500)
    iterations, products = iterations + 1, products + count
    local found = search_line(value_and_grad, at, d)
    if not found then break end
    at = found
  end
  return { x = at.x, value = at.value, gradient = at.norm, iterations = iterations, products = products,
    converged = at.norm <= tolerance, product = function(v) return hvp(v, at.x) end }
end

return M
