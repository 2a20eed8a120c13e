-- metainit.lua: pg.nn.metainit and pg.nn.gradient_quotient, after Dauphin and Schoenholz, "MetaInit: Initializing
-- learning by learning to initialize" (2019): the norms of a network's weights are learned before training, on noise,
-- such that curvature disturbs gradient descent little.
--
-- With g the gradient, H the Hessian, p = H g and s_i = 1 where g_i >= 0, else -1, the gradient quotient is the mean of
--   |(g_i - p_i) / (g_i + s_i eps) - 1| = |p_i + s_i eps| / (s_i g_i + eps)
-- over all N parameters. A tensor W moves along W alone, so all that is asked of the quotient's gradient is its inner
-- product with each W. Two ways lead there. "autodiff" differentiates the quotient, which is a third derivative of the
-- loss. "first_order" needs 11 gradients and no derivative of one: with the partial derivatives of the quotient
--   by p_i: b_i = sign(p_i + s_i eps) / (s_i g_i + eps) / N
--   by g_i: a_i = -s_i |p_i + s_i eps| / (s_i g_i + eps)^2 / N
-- its gradient is H (a + H b) + T(g, b), T the third derivative, with central differences of gradients for H and T.

local core = require "perigee.core"
local losses = require "perigee.loss"
local module = require "perigee.nn_module"
local names = require "perigee.names"
local nn_options = require "perigee.nn_options"
local transform = require "perigee.transform"
local vectors = require "perigee.vectors"

local nn = {}
local OWNER = "pg.nn.metainit"

-- ---- the quotient ----

local function signs(g) return g:ge(0):to(g.dtype) * 2 - 1 end

-- |p + s eps| and s g + eps, by elements, and s.
local function parts_of(g, p, eps)
  local s = signs(g)
  return p + s * eps, s * g + eps, s
end

--- pg.nn.gradient_quotient(f [, { eps = 1e-5 }]) → function: The same arguments as f → the gradient quotient of the
-- loss f(theta, …) at theta, a vector or tensor: the mean over its numbers of |(g - H g) / (g + eps) - 1| (eps with the
-- sign of g), g the gradient and H the Hessian: how much a step of size 1 along the gradient changes the gradient,
-- relative to it. Near 0 where the loss is linear; 1 and more mean that curvature rules (Dauphin and Schoenholz 2019).
-- It may be differentiated in turn.
function nn.gradient_quotient(f, opts)
  local eps = nn_options.read("pg.nn.gradient_quotient", opts, { eps = 1e-5 }).eps
  local grad, hvp = transform.grad(f), transform.hvp(f)
  return transform.jit(function(theta, ...)
    local g = (grad(theta, ...))
    local numerator, denominator = parts_of(g, (hvp(g, theta, ...)), eps)
    return (numerator:abs() / denominator):sum() / theta.size
  end)
end

-- ---- its slopes along each tensor: measure(theta, batch) → the quotient, [tensors] of <W, d quotient / dW> ----

local function along_tensors(theta, slope)
  return core.apply("segsum", nil, theta * slope)
end

local function measure_by_autodiff(loss, o)
  local quotient = transform.value_and_grad(nn.gradient_quotient(loss, { eps = o.eps }))
  return transform.jit(function(theta, batch)
    local value, slope = quotient(theta, batch)
    return value, along_tensors(theta, slope)
  end)
end

local function measure_by_gradients(loss, o)
  local grad = transform.grad(loss)
  return function(theta, batch)
    local length = o.delta * theta:norm():item() -- of a step
    local function at(point) return (grad(point, batch)) end
    local function curvature(v)
      local t = length / v:norm():item()
      return (at(theta + t * v) - at(theta - t * v)) / (2 * t)
    end
    local function third(v, w)
      local a, b = length / v:norm():item(), length / w:norm():item()
      local difference = at(theta + a * v + b * w) - at(theta + a * v - b * w) - at(theta - a * v + b * w)
        + at(theta - a * v - b * w)
      return difference / (4 * a * b)
    end
    local g = at(theta)
    local numerator, denominator, s = parts_of(g, curvature(g), o.eps)
    local terms = numerator:abs() / denominator
    local by_p = numerator:sign() / denominator / theta.size
    local by_g = -s * terms / denominator / theta.size
    local slope = curvature(by_g + curvature(by_p)) + third(g, by_p)
    return terms:sum() / theta.size, along_tensors(theta, slope)
  end
end

local MEASURES = { autodiff = measure_by_autodiff, first_order = measure_by_gradients }

-- ---- the descent ----

local KNOWN = {
  "loss", "input", "classes", "batch", "steps", "lr", "momentum", "eps", "method", "key", "delta", "dtype",
}
local DEFAULTS = {
  batch = 32, steps = 500, lr = 0.1, momentum = 0.9, eps = 1e-5, method = "autodiff", delta = 3e-5, dtype = "f64",
}

local function check_shape(input)
  if type(input) ~= "table" or #input == 0 then
    core.raise(("%s: input is the shape of one example, as { 3, 32, 32 }, not %s"):format(OWNER,
      names.describe(input)))
  end
  for _, extent in ipairs(input) do nn_options.check_size(OWNER, "an extent of input", extent) end
end

local function read_options(given)
  local o = {}
  names.check(OWNER, given, KNOWN)
  for _, name in ipairs(KNOWN) do
    o[name] = given[name]
    if o[name] == nil then o[name] = DEFAULTS[name] end
    if DEFAULTS[name] and type(o[name]) ~= type(DEFAULTS[name]) then
      core.raise(("%s: %s is a %s, not %s"):format(OWNER, name, type(DEFAULTS[name]), names.describe(o[name])))
    end
  end
  check_shape(o.input)
  for _, name in ipairs { "batch", "steps" } do nn_options.check_size(OWNER, name, o[name]) end
  if o.classes ~= nil or not o.loss then nn_options.check_size(OWNER, "classes", o.classes) end
  if not MEASURES[o.method] then core.raise(names.unknown("method", o.method, OWNER, names.sorted(MEASURES))) end
  if o.dtype ~= "f64" and (o.dtype ~= "f32" or o.method == "first_order") then
    core.raise(('%s: dtype is "f64", or "f32" with autodiff (differences of gradients want f64), not "%s"'):format(
      OWNER, o.dtype))
  end
  o.key = o.key or core.key(0)
  return o
end

local function cross_entropy(model, theta, batch, ctx)
  return losses.cross_entropy(model(theta, batch.x, ctx), batch.y)
end

-- Noise in place of data, and labels that mean nothing.
local function draw_batch(o, step)
  local key = o.key:fold(step)
  local x = core.apply("normal", { a = { o.batch, table.unpack(o.input) }, dtype = o.dtype }, key:fold("x"))
  if not o.classes then return { x = x } end
  local u = core.apply("uniform", { a = { o.batch }, dtype = "f64" }, key:fold("y"))
  return { x = x, y = (u * o.classes):floor():to("i32") }
end

-- How much of a norm one step may take away. The step is absolute, and with momentum 0.9 grows to ten times lr: a small
-- norm would be through zero before its slope has changed its sign. The velocity is cut, not only the norm, which would
-- go on shrinking for as long as the velocity lasts.
local MOST_LOSS = 0.5

-- The factors that move each tensor's norm r to r + v, v a velocity that follows the signs of the slopes.
local function move_norms(layout, norms, slopes, velocity, o)
  local factors = {}
  for j = 1, #layout do
    local r = norms[j]
    factors[j] = 1
    if #layout[j].shape >= 2 and r > 0 then
      local sign = slopes[j] > 0 and 1 or slopes[j] < 0 and -1 or 0
      velocity[j] = math.max(o.momentum * (velocity[j] or 0) - o.lr * sign, -MOST_LOSS * r)
      factors[j] = (r + velocity[j]) / r
    end
  end
  return factors
end

local function check_weights(layout)
  for j = 1, #layout do
    if #layout[j].shape >= 2 then return end
  end
  core.raise(OWNER .. ": it moves norms of tensors of two axes or more, and the model has none")
end

--- pg.nn.metainit(model, theta, { input =, classes =, loss =, batch = 32, steps = 500, lr = 0.1, momentum = 0.9, eps =
-- 1e-5, method = "autodiff", delta = 3e-5, key = pg.key(0), dtype = "f64" }) → theta, history, slopes: Parameters like
-- theta, in which the norm of each tensor of two axes or more has been moved to make the gradient quotient small
-- (Dauphin and Schoenholz 2019). history: the quotient at each step, before it moves; slopes: at each step a list with
-- <W, dquotient/dW> of every tensor W. No data is needed: each step draws standard normal examples of shape `input` and
-- as many random labels below `classes`, fresh ones folded from key. A norm r becomes r + v, v = momentum v - lr
-- sign(slope), where v is kept above -r / 2, so that no norm is driven through zero; what is zero stays zero.
--   loss: (model, theta, batch, ctx), with batch.x and batch.y; default the cross entropy of model(theta, batch.x,
--     ctx). ctx.train is false, and batch norm goes by the buffers of model:init_buffers().
--   method: "autodiff" differentiates the quotient. "first_order" takes 11 gradients a step instead, at points delta
--     times the norm of theta apart: for losses that are smooth but cannot be differentiated three times, or only
--     slowly. Where there are kinks (relu) the two differ: differences see the jumps of the gradient.
--   dtype: to compute in; "f32" with autodiff only. What comes out is of theta's.
function nn.metainit(model, theta, opts)
  module.check(OWNER, model)
  module.check_parameters(OWNER, model, theta)
  check_weights(theta.layout)
  if type(opts) ~= "table" then
    core.raise(OWNER .. ": options come third, as { input = { 1, 28, 28 }, classes = 10 }")
  end
  local o = read_options(opts)
  local f, running = o.loss or cross_entropy, model:init_buffers(o.dtype)
  local measure = MEASURES[o.method](function(at, batch)
    return (f(model, at, batch, { train = false, key = o.key, buffers = running }))
  end, o)
  local point, layout, velocity, history, slopes = vectors.clone(theta, o.dtype), theta.layout, {}, {}, {}
  for step = 1, o.steps do
    local quotient, along = measure(point, draw_batch(o, step))
    history[step], slopes[step] = quotient:item(), along:totable()
    if history[step] - history[step] ~= 0 then
      core.raise(("%s: the gradient quotient is %s at step %d"):format(OWNER, history[step], step))
    end
    local norms = core.apply("segsum", nil, point * point):sqrt()
    local factors = move_norms(layout, norms:totable(), slopes[step], velocity, o)
    point = point * core.apply("segbroadcast", { layout = layout }, core.tensor(o.dtype, { #layout }, factors))
  end
  return vectors.clone(point, theta.dtype), history, slopes
end

return nn
