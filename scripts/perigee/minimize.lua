-- minimize.lua: the minimum of a smooth, strictly convex function of few parameters (up to a few hundred), found as
-- well as double precision allows, so that gaps down to 1e-16 mean something. Damped Newton (Nocedal & Wright 2006,
-- ch. 3.3): the Hessian comes column by column from Hessian-vector products, its Cholesky factor is Lua's own, and a
-- factor is kept while it still shortens the gradient tenfold.

local minimize = {}

--- pg.minimize.cholesky(a) → l: The lower Cholesky factor of the symmetric matrix a[i][j], as tables; nil and the row
-- where it stops being positive definite.
function minimize.cholesky(a)
  local n, l = #a, {}
  for i = 1, n do
    local li = {}
    l[i] = li
    for j = 1, i do
      local lj, sum = l[j], a[i][j]
      for k = 1, j - 1 do sum = sum - li[k] * lj[k] end
      if i == j then
        if sum ~= sum or sum <= 0 then return nil, i end
        li[i] = sum ^ 0.5
      else
        li[j] = sum / lj[j]
      end
    end
  end
  return l
end

--- pg.minimize.solve(l, b) → x: The list x with L Lᵀ x = b, for a factor of pg.minimize.cholesky.
function minimize.solve(l, b)
  local n, x = #l, {}
  for i = 1, n do
    local sum = b[i]
    for k = 1, i - 1 do sum = sum - l[i][k] * x[k] end
    x[i] = sum / l[i][i]
  end
  for i = n, 1, -1 do
    local sum = x[i]
    for k = i + 1, n do sum = sum - l[k][i] * x[k] end
    x[i] = sum / l[i][i]
  end
  return x
end

--- pg.minimize.quadratic(a, x) → number: xᵀ A x for a matrix and a list.
function minimize.quadratic(a, x)
  local sum = 0
  for i = 1, #x do
    local row, ai = 0, a[i]
    for j = 1, #x do row = row + ai[j] * x[j] end
    sum = sum + x[i] * row
  end
  return sum
end

local function norm(x)
  local sum = 0
  for i = 1, #x do sum = sum + x[i] * x[i] end
  return sum ^ 0.5
end

local function add_scaled(x, t, d)
  local out = {}
  for i = 1, #x do out[i] = x[i] + t * d[i] end
  return out
end

local function negative(x)
  local out = {}
  for i = 1, #x do out[i] = -x[i] end
  return out
end

-- Columns from products with unit vectors, made symmetric.
local function hessian_of(product, x)
  local n, columns, unit = #x, {}, {}
  for i = 1, n do unit[i] = 0 end
  for j = 1, n do
    unit[j] = 1
    columns[j] = product(x, unit)
    unit[j] = 0
  end
  local h = {}
  for i = 1, n do
    h[i] = {}
    for j = 1, n do h[i][j] = 0.5 * (columns[i][j] + columns[j][i]) end
  end
  return h
end

-- Half the step until the value falls by Armijo's rule; near the minimum, where values no longer tell, until the
-- gradient is no longer than before.
local function search_line(value_and_gradient, x, value, gradient, d, slope)
  local t = 1
  for _ = 1, 50 do
    local candidate = add_scaled(x, t, d)
    local v, g = value_and_gradient(candidate)
    local flat = -slope <= 1e-10 * math.max(1, math.abs(value))
    if flat and norm(g) <= norm(gradient) or not flat and v <= value + 1e-4 * t * slope then
      return candidate, v, g
    end
    t = t / 2
  end
end

--- pg.minimize.newton(value_and_gradient, product, x [, { tolerance = 1e-14, iterations = 60 }]) → result: The minimum
-- of a smooth, strictly convex function of a few hundred numbers, by damped Newton steps (Nocedal & Wright 2006, ch.
-- 3.3).
--   value_and_gradient(x) → number, list. product(x, v) → list: the Hessian at x times v. x: where to begin, a list.
--   tolerance: of the gradient's norm, relative to max(1, norm at the start).
--   result: { x, value, gradient (its norm), hessian, iterations, converged }; nil and a message if the Hessian is not
--     positive definite.
function minimize.newton(value_and_gradient, product, x, opts)
  opts = opts or {}
  local value, gradient = value_and_gradient(x)
  local tolerance = (opts.tolerance or 1e-14) * math.max(1, norm(gradient))
  local hessian, factor
  local iterations, kept, stalled = 0, 0, 0
  while norm(gradient) > tolerance and iterations < (opts.iterations or 60) and stalled < 3 do
    if not factor or kept >= 4 then
      hessian = hessian_of(product, x)
      factor = minimize.cholesky(hessian)
      if not factor then return nil, "the Hessian is not positive definite: not strictly convex here" end
      kept = 0
    end
    local d = minimize.solve(factor, negative(gradient))
    local slope = 0
    for i = 1, #d do slope = slope + d[i] * gradient[i] end
    local x_new, value_new, gradient_new = search_line(value_and_gradient, x, value, gradient, d, slope)
    if not x_new then break end
    if norm(gradient_new) > 0.1 * norm(gradient) then factor = nil end
    stalled = norm(gradient_new) > 0.5 * norm(gradient) and -slope <= 1e-10 * math.max(1, math.abs(value))
      and stalled + 1 or 0
    x, value, gradient = x_new, value_new, gradient_new
    iterations, kept = iterations + 1, kept + 1
  end
  return { x = x, value = value, gradient = norm(gradient), hessian = hessian_of(product, x), iterations = iterations,
    converged = norm(gradient) <= tolerance }
end

--- pg.minimize.find(f, x0 [, { tolerance = 1e-14, iterations = 60 }]) → result: The minimum of f, a function from a
-- tensor to a tensor of shape [] that can be traced, from x0 on. Options and result as in pg.minimize.newton; x is a
-- list in the order of the tensor's elements. For more than a few hundred numbers: pg.minimize.newton_cg, which needs
-- no matrix, and pg.minimize.lbfgs, which needs only gradients and no convexity.
function minimize.find(f, x0, opts)
  local pg = require "perigee"
  local shape, dtype = x0.shape, x0.dtype
  local value_and_grad, hvp = pg.value_and_grad(f), pg.hvp(f)
  local function tensor_of(list) return pg.tensor(list, dtype):reshape(shape) end
  local function list_of(t) return t:reshape { t.size }:totable() end
  local function value_and_gradient(x)
    local value, gradient = value_and_grad(tensor_of(x))
    return value:item(), list_of(gradient)
  end
  local function product(x, v) return list_of(hvp(tensor_of(v), tensor_of(x))) end
  return minimize.newton(value_and_gradient, product, list_of(x0), opts)
end

--- pg.minimize.difference(x, y) → list: x - y for lists.
function minimize.difference(x, y) return add_scaled(x, -1, y) end

minimize.newton_cg = require("perigee.minimize_cg").newton_cg
minimize.lbfgs = require("perigee.minimize_lbfgs").lbfgs
minimize.objective = require("perigee.minimize_objective").objective

return minimize
