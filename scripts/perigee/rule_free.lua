-- rule_free.lua: rules that need no schedule of the learning rate, or no learning rate: the schedule-free methods,
-- which are evaluated at an average of where they have been, and Prodigy, which estimates how far there is to go.

local generic = require "perigee.generic"
local names = require "perigee.names"
local define = require("perigee.rule_class").define
local vectors = require "perigee.vectors"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}

local function begin_at_theta(theta) return theta end

-- ---- schedule-free --------------------------------------------------------------------------------------------------

-- This step's learning rate and the share of z in the average x: a z with weight t^r (largest lr so far)^lr_power.
local function weigh(s, o, t, factor)
  local lr = (o.warmup and o.lr * generic.minimum(t / o.warmup, 1) or o.lr) * factor
  s.largest = generic.maximum(s.largest, lr)
  local weight = t ^ o.r * s.largest ^ o.lr_power
  s.total = s.total + weight
  return lr, generic.where(generic.gt(s.total, 0), weight / s.total, 0)
end

-- Move y, which p holds, and z along the direction d. factor: of the learning rate.
local function move_free(y, d, s, o, t, factor)
  local lr, share = weigh(s, o, t, factor or 1)
  local mixed = y + share * (s.z - y)
  s.z = s.z - lr * d
  return mixed + lr * (o.beta * (1 - share) - 1) * d
end

local function average_of_free(y, s, o) return s.z + (y - s.z) / o.beta end

local FREE_LIMITS = { lr = NOT_NEGATIVE, beta = "(0, 1]", r = NOT_NEGATIVE, lr_power = NOT_NEGATIVE,
  warmup = "(0, inf)" }

--- pg.rule.schedule_free_sgd { lr = 1, beta = 0.9, warmup = false, r = 0, lr_power = 2 } → rule: Schedule-free SGD
-- (Defazio et al. 2024, arXiv 2405.15682), as its authors' code 1.4: gradients are taken at y, between the steps' own z
-- and their average x. The parameters of a run are y; its evaluations are at x, state:point().
--     lr_t = lr min(1, t / warmup);  w = t^r (largest lr_t so far)^lr_power;  W = W + w;  c = w / W
--     d = stats.g + weight_decay y
--     y = y + c (z - y) + lr_t (beta (1 - c) - 1) d;  z = z - lr_t d;  x = z + (y - z) / beta
-- warmup: steps over which lr grows. Weight decay: L2, at y. The running statistics of batch norm are those
-- at y: pg.nn.recalibrate makes those at x.
M.schedule_free_sgd = define {
  name = "schedule_free_sgd",
  hyper = { lr = 1, beta = 0.9, warmup = false, r = 0, lr_power = 2 },
  limits = FREE_LIMITS,
  state = { z = begin_at_theta, largest = vectors.scalar(0), total = vectors.scalar(0) },
  update = function(y, stats, s, o, ctx) return move_free(y, stats.g + ctx.weight_decay * y, s, o, ctx.t) end,
  evaluate = average_of_free,
}

--- pg.rule.schedule_free_adamw { lr = 2.5e-3, beta = 0.9, beta2 = 0.999, eps = 1e-8, warmup = false, r = 0, lr_power =
-- 2, form = "code" } → rule: Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682), as its authors' code 1.4. As
-- pg.rule.schedule_free_sgd, with
--     v = beta2 v + (1 - beta2) g^2;  d = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y
-- form = "paper": the correction of bias multiplies lr_t, as before version 1.3 of that code: lr_t sqrt(1 - beta2^t),
-- and d = g / (sqrt(v) + eps) + weight_decay y. Weight decay: decoupled from v, a part of the direction d.
M.schedule_free_adamw = define {
  name = "schedule_free_adamw",
  hyper = { lr = 2.5e-3, beta = 0.9, beta2 = 0.999, eps = 1e-8, warmup = false, r = 0, lr_power = 2, form = "code" },
  limits = { lr = NOT_NEGATIVE, beta = "(0, 1]", beta2 = SHARE, eps = NOT_NEGATIVE, r = NOT_NEGATIVE,
    lr_power = NOT_NEGATIVE, warmup = "(0, inf)" },
  check = function(o) names.choice("rule schedule_free_adamw: form", o.form, { "code", "paper" }) end,
  state = { z = begin_at_theta, v = 0, largest = vectors.scalar(0), total = vectors.scalar(0) },
  eight_bit = { v = "unsigned" },
  update = function(y, stats, s, o, ctx)
    local g = stats.g
    s.v = o.beta2 * s.v + (1 - o.beta2) * (g * g)
    local correction, factor = 1 - o.beta2 ^ ctx.t, nil
    local root = generic.sqrt(s.v)
    if o.form == "paper" then factor = generic.sqrt(correction) else root = generic.sqrt(s.v / correction) end
    return move_free(y, g / (root + o.eps) + ctx.weight_decay * y, s, o, ctx.t, factor)
  end,
  evaluate = average_of_free,
}

-- ---- Prodigy --------------------------------------------------------------------------------------------------------

-- The estimate of the distance after a step, from its numerator and denominator.
local function grow_distance(s, o, denominator)
  local estimate = o.d_coef * s.numerator / denominator
  local d = generic.where(generic.eq(s.d, o.d0), generic.maximum(s.d, estimate), s.d)
  s.largest = generic.maximum(s.largest, estimate)
  return generic.minimum(s.largest, d * o.growth)
end

--- pg.rule.prodigy { lr = 1, beta1 = 0.9, beta2 = 0.999, beta3 = false, eps = 1e-8, d0 = 1e-6, d_coef = 1, growth =
-- math.huge, debias = false, safeguard = false, decoupled = true } → rule: Prodigy (Mishchenko & Defazio 2024, arXiv
-- 2306.06101), as its authors' code: Adam whose step size is d, an estimate of the distance to the solution.
--     rate = d lr, with debias times sqrt(1 - beta2^t) / (1 - beta1^t);  beta3 = sqrt(beta2), unless given
--     numerator = beta3 numerator + d / d0 rate <g, p0 - p>
--     m = beta1 m + (1 - beta1) d g;  v = beta2 v + (1 - beta2) d^2 g^2
--     s = beta3 s + d / d0 rate g, with safeguard d in place of rate
--     d' = d_coef numerator / |s|_1;  d = max(d, d') if d is d0;  largest = max(largest, d')
--     d = min(largest, growth d);  p = p - weight_decay rate p - rate m / (sqrt(v) + d eps)
-- p0: where the run began. Nothing moves while s is 0. Weight decay: decoupled, or L2. lr is 1 times a schedule that
-- falls, as a cosine; safeguard where it begins with a warm-up. Two sums over all parameters for each step.
M.prodigy = define {
  name = "prodigy",
  hyper = { lr = 1, beta1 = 0.9, beta2 = 0.999, beta3 = false, eps = 1e-8, d0 = 1e-6, d_coef = 1, growth = math.huge,
    debias = false, safeguard = false, decoupled = true },
  static = { "d0" },
  limits = { lr = NOT_NEGATIVE, beta1 = SHARE, beta2 = SHARE, beta3 = SHARE, eps = NOT_NEGATIVE, d0 = "(0, inf)",
    d_coef = "(0, inf)", growth = "[1, inf]" },
  state = function(o)
    return { m = 0, v = 0, s = 0, p0 = begin_at_theta, numerator = vectors.scalar(0), d = vectors.scalar(o.d0),
      largest = vectors.scalar(o.d0) }
  end,
  eight_bit = { "m", v = "unsigned" },
  update = function(p, stats, s, o, ctx)
    local d, g, t = s.d, stats.g, ctx.t
    if not o.decoupled then g = g + ctx.weight_decay * p end
    local rate, beta3 = d * o.lr, o.beta3 or generic.sqrt(o.beta2)
    if o.debias then rate = rate * (generic.sqrt(1 - o.beta2 ^ t) / (1 - o.beta1 ^ t)) end
    local scaled = d / o.d0
    s.numerator = beta3 * s.numerator + scaled * rate * generic.dot(g, s.p0 - p)
    s.m = o.beta1 * s.m + (1 - o.beta1) * d * g
    s.v = o.beta2 * s.v + (1 - o.beta2) * (d * d) * (g * g)
    s.s = beta3 * s.s + scaled * (o.safeguard and d or rate) * g
    local length = generic.dot(generic.abs(s.s), 1)
    local moves = generic.gt(length, 0)
    local grown = grow_distance(s, o, generic.where(moves, length, 1))
    local fresh = generic.where(moves, generic.where(generic.gt(o.lr, 0), grown, d), d)
    s.d = fresh
    local from = o.decoupled and p * (1 - ctx.weight_decay * rate) or p
    return generic.where(moves, from - rate * (s.m / (generic.sqrt(s.v) + fresh * o.eps)), p)
  end,
}

return M
