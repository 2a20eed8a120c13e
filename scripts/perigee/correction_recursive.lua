-- correction_recursive.lua: corrections that carry their estimate from step to step: SARAH, SPIDER, PAGE with restarts
-- from full passes; STORM, STORM+ and MARS without. They keep the estimate and the point before.

local core = require "perigee.core"
local class = require "perigee.correction_class"
local generic = require "perigee.generic"
local names = require "perigee.names"
local per_tensor = require "perigee.per_tensor"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local define, required = class.define, class.required

local M = {}

-- A restart: the estimate is the mean of a pass, and the step takes no batch.
local function restart(s, ctx)
  s.v = ctx:full(ctx.q)
  s.previous = ctx.q:clone()
end

-- SARAH's estimate: v + (statistics at q - statistics at the point before).
local function carry(s, ctx)
  if ctx.refreshed then return s.v end
  local v = (ctx:evaluate(ctx.q) - ctx:evaluate(s.previous)) + s.v
  s.v, s.previous = v, ctx.q
  return v
end

--- pg.correction.sarah { plus = false, every = pg.epochs(1), mega = "full" } → correction: SARAH (Nguyen et al. 2017,
-- arXiv 1703.00102).
--     at a refresh: v = statistics of all examples at q; the step takes v and no batch
--     in other steps: v = (statistics at q - statistics at the point before, on this batch) + v
-- plus = γ: SARAH+, a new segment also begins once |v|^2 < γ |v at the refresh|^2 (the paper's γ is 1/8).
M.sarah = define {
  name = "sarah",
  hyper = { plus = false },
  limits = { plus = "(0, 1)" },
  state = function(o) return o.plus and { square = vectors.scalar(0), first_square = vectors.scalar(0) } or {} end,
  due = function(ctx)
    local plus = ctx.o.plus
    return ctx.period_ended or plus and ctx.s.square:item() < plus * ctx.s.first_square:item()
  end,
  refresh = restart, exact = true,
  correct = function(s, ctx, o)
    local v = carry(s, ctx)
    if o.plus then
      s.square = generic.dot(v.g, v.g)
      if ctx.refreshed then s.first_square = s.square end
    end
    return v
  end,
}

--- pg.correction.spider { eps =, L =, every = pg.epochs(1) } → correction: SPIDER (Fang et al. 2018, arXiv
-- 1807.01695): SARAH's estimate with the step min(eps / (L |v|), 1 / (2 L)), which multiplies the rule's lr (1). L:
-- a bound of the gradients' Lipschitz constant; eps: the size of the gradient to reach. SpiderBoost is
-- pg.correction.sarah with a constant step.
M.spider = define {
  name = "spider",
  hyper = { eps = required, L = required },
  limits = { eps = "(0, inf)", L = "(0, inf)" },
  refresh = restart, exact = true,
  correct = function(s, ctx, o)
    local v = carry(s, ctx)
    return v, { lr = generic.minimum((o.eps / o.L) / generic.norm(v.g), 0.5 / o.L) }
  end,
}

--- pg.correction.page { p = false, mega = "full" } → correction: PAGE (Li et al. 2021, arXiv 2008.10898): with
-- probability p a step takes the mean of a pass, otherwise SARAH's estimate. p: default b / (n + b) for batches of b
-- among n. The coins come from a stream of their own, by step; due = function(ctx) → boolean decides otherwise.
M.page = define {
  name = "page",
  hyper = { p = false },
  limits = { p = "(0, 1]" },
  due = function(ctx) return ctx:coin(ctx.o.p or 1 / (ctx.steps_per_epoch + 1)) end, unused = { "every" },
  refresh = restart, exact = true,
  correct = carry,
}

-- ---- without passes -------------------------------------------------------------------------------------------------

-- v = now + (1 - a) (v - statistics at the point before), on this batch; the first step's is that of its batch.
local function mix(s, ctx, now, a)
  local v = now
  if not ctx.first then
    local keep, old = 1 - a, ctx:evaluate(s.previous)
    v = statistics.map(now, function(x, field) return x + keep * (s.v[field] - old[field]) end)
  end
  s.v, s.previous = v, ctx.q
  return v
end

-- |g|^2 as one number, or one for each tensor.
local function square_of(g, by_tensor)
  return by_tensor and (g * g):per_tensor():sum() or generic.dot(g, g)
end

local function one(by_tensor, value)
  return by_tensor and per_tensor.per_tensor(value) or vectors.scalar(value)
end

--- pg.correction.storm { k = 0.1, w = 0.1, c = 10, per_tensor = false } → correction: STORM (Cutkosky & Orabona
-- 2019, arXiv 1905.10018), two gradients a step and no passes.
--     v = now + (1 - a) (v - statistics at the point before, on this batch);  in the first step v = now
--     step: k / (w + sum of |now.g|^2)^(1/3), which multiplies the rule's lr (1);  then a = min(1, c step^2)
-- per_tensor: sums, steps and a for each tensor by itself, which is another method with other step sizes.
M.storm = define {
  name = "storm",
  hyper = { k = 0.1, w = 0.1, c = 10, per_tensor = false },
  limits = { k = "(0, inf)", w = "[0, inf)", c = "[0, inf)" },
  fits = function(family, o)
    return o.per_tensor and family:gives "H" and "a Hessian matrix has no weights for each tensor (per_tensor)" or nil
  end,
  state = function(o)
    return { v = "statistics", previous = "posterior", sum = one(o.per_tensor, 0), a = one(o.per_tensor, 1) }
  end,
  correct = function(s, ctx, o)
    local now = ctx:evaluate(ctx.q)
    local v = mix(s, ctx, now, s.a)
    s.sum = s.sum + square_of(now.g, o.per_tensor)
    local step = o.k / (o.w + s.sum) ^ (1 / 3)
    s.a = generic.minimum(o.c * (step * step), 1)
    return v, { lr = step }
  end,
}

--- pg.correction.storm_plus { k = 1 } → correction: STORM+ (Levy, Kavis & Cevher 2021, arXiv 2111.01040), without
-- constants of the problem: a = (1 + sum of |now.g|^2)^(-2/3), step k (sum of |v|^2 / a)^(-1/3).
M.storm_plus = define {
  name = "storm_plus",
  hyper = { k = 1 },
  limits = { k = "(0, inf)" },
  state = { v = "statistics", previous = "posterior", sum = vectors.scalar(0), a = vectors.scalar(1),
    weighted = vectors.scalar(0) },
  correct = function(s, ctx, o)
    local now = ctx:evaluate(ctx.q)
    local v = mix(s, ctx, now, s.a)
    s.sum = s.sum + generic.dot(now.g, now.g)
    s.a = (1 + s.sum) ^ (-2 / 3)
    s.weighted = s.weighted + generic.dot(v.g, v.g) / s.a
    return v, { lr = o.k * s.weighted ^ (-1 / 3) }
  end,
}

local function scale_to_one(g, norm)
  return g * generic.minimum(1 / norm, 1)
end

-- g cut to length 1, as a whole or tensor by tensor.
local CLIPS = {
  norm = function(g) return scale_to_one(g, generic.norm(g)) end,
  per_tensor = function(g) return scale_to_one(g, g:per_tensor():norm()) end,
}

local function check_mars(o)
  if o.clip and not CLIPS[o.clip] then
    core.raise(('correction mars: clip is "norm", "per_tensor" or false, not %s'):format(names.describe(o.clip)))
  elseif o.clip == "norm" and o.matrices_only then
    core.raise('correction mars: matrices_only clips matrices by themselves: clip is "per_tensor" or false')
  elseif o.from_zero and o.exact then
    core.raise("correction mars: from_zero is about the gradient before the first step, which exact = true never uses")
  end
  names.choice("correction mars: second", o.second, { "corrected", "raw" })
end

-- 1 for tensors with exactly two axes.
local IS_MATRIX = per_tensor.per_tensor(function(_, shape) return #shape == 2 and 1 or 0 end)

--- pg.correction.mars { gamma = 0.025, beta1 = 0.95, clip = "norm", exact = true, matrices_only = false, from_zero =
-- false, second = "corrected" } → correction: MARS (Yuan et al. 2024, arXiv 2411.10438), before a rule such as AdamW
-- with the same beta1.
--     c = now + gamma beta1 / (1 - beta1) (now - statistics at the point before, on this batch);  c = now at first
--     c.g cut to length 1: clip = "norm" all of it, "per_tensor" each tensor; false: not
-- exact = false takes the previous batch's gradient in place of that at the point before: one gradient a step. Where
-- the authors' code differs: clip = "per_tensor"; matrices_only corrects tensors with two axes alone, the others going
-- by another rule (pg.rule.split); from_zero takes 0 for the gradient before the first, with exact = false; second =
-- "raw" lets pg.rule.adam and adamw take squares of the gradient as it was, as its README has it and the code not.
M.mars = define {
  name = "mars",
  hyper = { gamma = 0.025, beta1 = 0.95, clip = "norm", exact = true, matrices_only = false, from_zero = false,
    second = "corrected" },
  limits = { beta1 = "[0, 1)" },
  check = check_mars,
  state = function(o) return o.exact and { previous = "posterior" } or { before = "statistics" } end,
  correct = function(s, ctx, o)
    local now, before = ctx:evaluate(ctx.q), nil
    if o.from_zero or not ctx.first then before = o.exact and ctx:evaluate(s.previous) or s.before end
    local c = before and now + (o.gamma * o.beta1 / (1 - o.beta1)) * (now - before) or now
    if o.exact then s.previous = ctx.q else s.before = now end
    local corrected = statistics.map(c, function(x, field)
      if field ~= "g" then return x end
      if o.clip then x = CLIPS[o.clip](x) end
      return o.matrices_only and now.g + IS_MATRIX * (x - now.g) or x
    end)
    return corrected, o.second == "raw" and { raw = now.g } or nil
  end,
}

return M
