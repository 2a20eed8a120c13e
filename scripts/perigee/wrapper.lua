-- wrapper.lua: wrappers stand around a rule and are rules themselves: they see its moves, and may choose the point at
-- which a step evaluates. Katyusha and L-Katyusha, whose iterates are coupled, are of this kind.

local core = require "perigee.core"
local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"
local per_tensor = require "perigee.per_tensor"
local rule = require "perigee.rule_class"
local slots = require "perigee.slots"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local wrapper = {}

local DEFINITION = { "name", "update", "point", "snapshot", "evaluate", "state", "hyper", "static", "limits", "check",
  "rule" }

-- ---- putting a wrapper around a rule --------------------------------------------------------------------------------

-- a and b in one table; a name in both is an error.
local function join(what, outer, inner, a, b)
  for name in next, a do
    if b[name] ~= nil then
      core.raise(("wrapper %s: both it and rule %s have %s '%s'"):format(outer, inner.name, what, name))
    end
  end
  return part.merge(a, b)
end

local function by_name(declared)
  local state = {}
  for _, slot in ipairs(slots.declare(declared)) do state[slot.name] = slot.init end
  return state
end

-- The slots of a definition by name: what they begin with.
local function slots_of(definition, o)
  local state = definition.state
  return by_name(type(state) == "function" and state(o) or state)
end

local function append(a, b) return table.move(b or {}, 1, #(b or {}), #a + 1, { table.unpack(a) }) end

-- ctx.rule(p, stats [, scale]) of a wrapper's update: the new p by the rule inside, its lr times scale. decay: false
-- for no weight decay, where the wrapper takes care of it.
local function inner_move(inner, s, o, ctx)
  return function(p, stats, scale, decay)
    local given, seen = o, ctx
    if scale then given = part.merge(o, { lr = o.lr * scale }) end
    if decay == false then seen = setmetatable({ weight_decay = 0 }, { __index = ctx }) end
    return inner.definition.update(p, stats, s, given, seen)
  end
end

-- The definition of a rule: `inner` with the wrapper `outer` around it.
local function combine(outer, inner)
  local within = inner.definition
  return {
    name = ("%s(%s)"):format(outer.name, inner.name), needs = within.needs,
    variant = function(o)
      return part.merge(within.variant and within.variant(o) or {}, { slots_inside = slots_of(within, o) })
    end,
    hyper = join("option", outer.name, inner, outer.hyper or {}, inner.hyper.given),
    static = append(outer.static or {}, within.static),
    limits = part.merge(within.limits or {}, outer.limits or {}),
    check = function(o)
      for _, check in ipairs { within.check or false, outer.check or false } do if check then check(o) end end
    end,
    state = function(o)
      local own, inside = outer.state or {}, slots_of(within, o)
      own = type(own) == "function" and own(o, inside) or own
      return join("slot", outer.name, inner, by_name(own), inside)
    end,
    eight_bit = within.eight_bit,
    reads_raw = within.reads_raw, point = outer.point, snapshot = outer.snapshot,
    evaluate = outer.evaluate or within.evaluate,
    update = function(p, stats, s, o, ctx)
      ctx.rule, ctx.slots_inside = inner_move(inner, s, o, ctx), o.slots_inside
      return outer.update(p, stats, s, o, ctx)
    end,
    location = rule.locate(outer.update),
  }
end

--- pg.wrapper.define { name =, update =, state = {}, point =, evaluate =, snapshot =, hyper = {}, rule = } → function:
-- A wrapper of one's own; called with { rule = pg.rule.sgd {}, … } it gives a rule, whose options are those of both.
--   update(p, stats, s, o, ctx) → new p: traced; as in pg.rule.define, with ctx.rule(p, stats [, scale]) → new p, the
--     move of the rule inside, with its lr times scale. s also has the slots of that rule; ctx.slots_inside: their
--     names, and what each begins with.
--   point(p, s, o, ctx) → vector: traced; where corrected steps evaluate, in place of p: what corrections see as ctx.q,
--     while ctx.iterate is at p. ctx.snapshot: the mean of the correction's snapshot `at`, in update as well.
--   evaluate(p, s, o) → vector: traced; where a run is evaluated (state:point()). Default: as the rule inside.
--   snapshot: the name of a slot that snapshots are taken of, in place of p.
--   state, hyper, static, limits: as in pg.rule.define; a function for state gets the slots of the rule inside as well.
--     rule: the rule inside, where none is given.
function wrapper.define(definition)
  names.check("pg.wrapper.define", definition, DEFINITION)
  if type(definition.name) ~= "string" or type(definition.update) ~= "function" then
    core.raise("pg.wrapper.define needs a name and an update function")
  end
  hyper.check_limits("pg.wrapper.define", definition)
  return function(given)
    local options = part.merge(given or {}, {})
    local inner = options.rule or definition.rule
    options.rule = nil
    if not rule.is(inner) then
      core.raise(("wrapper %s stands around a rule, as { rule = pg.rule.sgd { lr = 0.1 } }, not %s"):format(
        definition.name, names.describe(inner)))
    end
    return rule.build(combine(definition, inner), options)
  end
end

-- ---- watching the moves ---------------------------------------------------------------------------------------------

local function begin_at_theta(theta) return theta end

-- What a slot of the rule inside begins with, as a number, so that it can begin anew.
local function begins_with(name, init)
  if vectors.is_scalar(init) then return init.value end
  if type(init) ~= "number" then
    core.raise(("wrapper lookahead: slot %s of the rule inside does not begin with a number, so inner is \"keep\"")
      :format(name))
  end
  return init
end

-- What becomes of the state of the rule inside when the parameters return to the slow weights.
local INNER = {
  keep = function() end,
  reset = function(s, name, init, returns)
    s[name] = generic.where(returns, begins_with(name, init), s[name])
  end,
  average = function(s, name, _, returns, o)
    local slow = "slow_" .. name
    s[slow] = generic.where(returns, s[slow] + o.alpha * (s[name] - s[slow]), s[slow])
    s[name] = generic.where(returns, s[slow], s[name])
  end,
}

-- Slow weights, and slow slots of the rule inside where these are averaged.
local function slow_slots(o, inside)
  local state = { slow = begin_at_theta }
  for name, init in next, inside do
    if o.inner == "average" then
      begins_with(name, init)
      state["slow_" .. name] = init
    end
  end
  return state
end

--- pg.wrapper.lookahead { rule =, k = 5, alpha = 0.5, inner = "keep", port = false } → rule: Lookahead (Zhang et al.
-- 2019, arXiv 1907.08610): every k steps the slow weights move by alpha towards the parameters, and the parameters
-- return to them.
-- inner: what becomes of the state of the rule inside then: it is kept; "reset", begins anew; or "average", moves like
-- the weights. port: as a port that many use, slow weights begin after the first step and move after steps k + 1, 2 k +
-- 1, …
wrapper.lookahead = wrapper.define {
  name = "lookahead",
  hyper = { k = 5, alpha = 0.5, inner = "keep", port = false },
  limits = { k = "[1, inf)", alpha = "[0, 1]" },
  check = function(o) names.choice("wrapper lookahead: inner", o.inner, { "keep", "reset", "average" }) end,
  state = slow_slots,
  update = function(p, stats, s, o, ctx)
    local fast = ctx.rule(p, stats)
    local since = o.port and ctx.t - 1 or ctx.t
    local returns = generic.eq(since - o.k * generic.floor(since / o.k), 0)
    local slow = o.port and generic.where(generic.eq(ctx.t, 1), fast, s.slow) or s.slow
    s.slow = generic.where(returns, slow + o.alpha * (fast - slow), slow)
    local inside = ctx.slots_inside
    for _, name in ipairs(names.sorted(inside)) do INNER[o.inner](s, name, inside[name], returns, o) end
    return generic.where(returns, s.slow, fast)
  end,
}

local COUNT = per_tensor.count

-- What the coordinates that are kept are multiplied by, for each tensor, so that the step keeps its size.
local RESCALE = {
  mean = function(kept, o) return 1 / (kept:per_tensor():sum() / COUNT):maximum(o.floor) end,
  count = function(kept) return COUNT / (kept:per_tensor():sum() + 1) end,
}

--- pg.wrapper.cautious { rule =, rescale = "mean", floor = 1e-3 } → rule: Cautious optimizers (Liang et al. 2024, arXiv
-- 2411.16085): of the move of the rule inside only those coordinates that go against the gradient, and those times
-- their tensor's
--     rescale = "mean": 1 / max(share of coordinates kept, floor), as the authors' C-AdamW
--     rescale = "count": n / (coordinates kept + 1), as the paper and C-Lion
-- Weight decay is decoupled, and outside the choice.
wrapper.cautious = wrapper.define {
  name = "cautious",
  hyper = { rescale = "mean", floor = 1e-3 },
  limits = { floor = "(0, 1]" },
  check = function(o)
    if not RESCALE[o.rescale] then
      core.raise(('wrapper cautious: rescale is "mean" or "count", not %s'):format(names.describe(o.rescale)))
    end
  end,
  update = function(p, stats, _, o, ctx)
    local from = p * (1 - o.lr * ctx.weight_decay)
    local step = from - ctx.rule(from, stats, nil, false)
    local kept = core.apply("cast", { dtype = p.dtype }, generic.gt(step * stats.g, 0))
    return from - kept * step * RESCALE[o.rescale](kept, o)
  end,
}

-- ---- averages of the parameters -------------------------------------------------------------------------------------

local function average_of(_, s) return s.average end

--- pg.wrapper.ema { rule =, decay = 0.999, warmup = false } → rule: An exponential average of the parameters, at which
-- the run is evaluated (state:point()); the steps themselves go on as they would without it.
--     average = decay average + (1 - decay) p, beginning with the p of the first step
-- warmup: min(decay, (1 + t) / (10 + t)) in place of decay, so that short runs are averages of less. The running
-- statistics of batch norm are those at p: pg.nn.recalibrate makes those at the average.
wrapper.ema = wrapper.define {
  name = "ema",
  hyper = { decay = 0.999, warmup = false },
  limits = { decay = "[0, 1]" },
  state = { average = begin_at_theta },
  update = function(p, stats, s, o, ctx)
    local new, t = ctx.rule(p, stats), ctx.t
    local decay = o.warmup and generic.minimum(o.decay, (1 + t) / (10 + t)) or o.decay
    s.average = generic.where(generic.eq(t, 1), new, decay * s.average + (1 - decay) * new)
    return new
  end,
  evaluate = average_of,
}

--- pg.wrapper.swa { rule =, start = 1, every = 1 } → rule: Stochastic weight averaging (Izmailov et al. 2018, arXiv
-- 1803.05407): the plain average of the parameters after step `start` and every `every` steps from there on, at which
-- the run is evaluated (state:point()); before, that is at the parameters.
--     average = average + (p - average) / n,  n: how many have been taken
-- Usually with a learning rate that stays high from `start` on, an epoch between two points, and the running statistics
-- of batch norm made anew at the average (pg.nn.recalibrate).
wrapper.swa = wrapper.define {
  name = "swa",
  hyper = { start = 1, every = 1 },
  limits = { start = "[1, inf)", every = "[1, inf)" },
  state = { average = begin_at_theta, taken = vectors.scalar(0) },
  update = function(p, stats, s, o, ctx)
    local new = ctx.rule(p, stats)
    local since = ctx.t - o.start
    local began = generic.ge(since, 0)
    local is_due = generic.logical_and(began, generic.eq(since - o.every * generic.floor(since / o.every), 0))
    s.taken = s.taken + generic.where(is_due, 1, 0)
    local averaged = s.average + (new - s.average) / generic.maximum(s.taken, 1)
    s.average = generic.where(is_due, averaged, generic.where(began, s.average, new))
    return new
  end,
  evaluate = average_of,
}

-- ---- memory ---------------------------------------------------------------------------------------------------------

--- pg.wrapper.eight_bit { rule =, slots = nil, block = 256, min_size = 4096, exact = nil, map = "dynamic", keep_sign =
-- true, decay_after = false, skip_nonfinite = "auto" } → rule: State slots in 8 bits (Dettmers et al. 2022, arXiv
-- 2110.02861, "8-bit optimizers via block-wise quantization"): of each block of a tensor the largest magnitude, absmax,
-- and of each number the code of the nearest of 256 values, in units of absmax. The rule moves them in 32 bits, block
-- by block: decoded, moved, encoded.
--   slots: which, as { "m", v = "unsigned" }; those never negative are "unsigned". Default: as the rule says; of Adam m
--     and v. A slot m is kept as m.codes and m.absmax.
--   block: numbers in a block, a power of two from 2 to 4096; 2048 in the paper, 256 in bitsandbytes since 0.44.
--   min_size: tensors with fewer numbers keep states of 32 bits, which lie in m.absmax. So do the weights of
--     pg.nn.stable_embedding, and with exact those whose name contains this pattern, or for which this
--     function(name, shape) is true.
--   map: "dynamic", for numbers of 7 decades; "linear", equal steps (pg.quantize.map).
--   keep_sign: a negative number never becomes 0, as in bitsandbytes' CUDA kernels; false, as in its others.
--   decay_after: p (1 - lr weight_decay) after the step in place of the rule's own weight decay, as bitsandbytes' CUDA
--     kernel of Adam and AdamW has it; its other kernels decay before the step, as AdamW does.
--   skip_nonfinite: where an element of the gradient is not finite its states become 0 and its parameter stays. "auto":
--     as bitsandbytes, of rules with two such slots or more.
wrapper.eight_bit = require "perigee.eight_bit"

-- ---- Katyusha -------------------------------------------------------------------------------------------------------

-- The gradient with the prior's, at the point where it was taken.
local function with_decay(stats, x, ctx)
  return statistics.map(stats, function(value, field)
    return field == "g" and value + ctx.weight_decay * x or value
  end)
end

-- Where the step evaluates: between z, the snapshot and p.
local function couple(p, s, theta1, theta2, ctx)
  if ctx.snapshot == nil then
    core.raise("this wrapper evaluates between its iterates and a snapshot, and the correction keeps none (a slot "
      .. "`at`); pg.correction.svrg and pg.correction.lsvrg do")
  end
  return theta1 * s.z + theta2 * ctx.snapshot + (1 - theta1 - theta2) * p
end

-- Before the correction starts z goes along with the mean.
local function go_along(p, stats, s, ctx)
  local new = ctx.rule(p, stats)
  s.z = new
  return new
end

local UNIT_SGD = require("perigee.rule").sgd { lr = 1 }

local function katyusha_theta(o)
  return o.theta1 or generic.minimum(generic.sqrt(o.m * o.sigma / (3 * o.L)), 0.5)
end

--- pg.wrapper.katyusha { L =, sigma =, m =, theta1 = false, theta2 = 0.5, rule = pg.rule.sgd { lr = 1 } } → rule:
-- Katyusha (Allen-Zhu 2017, arXiv 1603.05953, algorithm 1) around a rule, over pg.correction.svrg { every = m }.
--     x = theta1 z + theta2 snapshot + (1 - theta1 - theta2) y, where the step evaluates;  y is the parameters
--     z = z moved by the rule with lr times a = 1 / (3 theta1 L);  y = x + theta1 (z - z before)
--     snapshot: the mean of the segment's y, with weights (1 + a sigma)^j
-- L: smoothness of the examples' losses; sigma: strong convexity, weight decay included; m: steps of a segment. theta1:
-- default min(sqrt(m sigma / (3 L)), 1/2). Weight decay enters as the gradient of its quadratic, at x.
wrapper.katyusha = wrapper.define {
  name = "katyusha",
  hyper = { L = hyper.required, sigma = hyper.required, m = hyper.required, theta1 = false, theta2 = 0.5 },
  limits = { L = "(0, inf)", sigma = "[0, inf)", m = "[1, inf)", theta1 = "(0, 1]", theta2 = "[0, 1]" },
  rule = UNIT_SGD,
  state = { z = begin_at_theta, average = begin_at_theta, weight = vectors.scalar(1), total = vectors.scalar(0) },
  snapshot = "average",
  point = function(p, s, o, ctx) return couple(p, s, katyusha_theta(o), o.theta2, ctx) end,
  update = function(p, stats, s, o, ctx)
    if not ctx.corrected then
      s.average = go_along(p, stats, s, ctx)
      return s.average
    end
    local theta1 = katyusha_theta(o)
    local x, z, a = couple(p, s, theta1, o.theta2, ctx), s.z, 1 / (3 * theta1 * o.L)
    s.z = ctx.rule(z, with_decay(stats, x, ctx), a, false)
    local y = x + theta1 * (s.z - z)
    local weight = ctx.refreshed and 1 or s.weight
    s.total = (ctx.refreshed and 0 or s.total) + weight
    s.average = s.average + (weight / s.total) * (y - s.average)
    s.weight = weight * (1 + a * o.sigma)
    return y
  end,
}

--- pg.wrapper.lkatyusha { L =, sigma =, theta1 = 0.5, theta2 = 0.5, rule = pg.rule.sgd { lr = 1 } } → rule: loopless
-- Katyusha (Kovalev, Horváth & Richtárik 2020, arXiv 1901.08689) around a rule, over pg.correction.lsvrg.
--     x = theta1 z + theta2 snapshot + (1 - theta1 - theta2) y, where the step evaluates;  y is the parameters
--     z = (eta s x + z) / (1 + eta s) moved by the rule with lr times (eta / L) / (1 + eta s), with s = sigma / L and
--     eta = theta2 / ((1 + theta2) theta1);  y = x + theta1 (z - z before)
-- L: smoothness of the examples' losses; sigma: strong convexity, weight decay included. Weight decay enters as the
-- gradient of its quadratic, at x.
wrapper.lkatyusha = wrapper.define {
  name = "lkatyusha",
  hyper = { L = hyper.required, sigma = hyper.required, theta1 = 0.5, theta2 = 0.5 },
  limits = { L = "(0, inf)", sigma = "[0, inf)", theta1 = "(0, 1]", theta2 = "(0, 1]" },
  rule = UNIT_SGD,
  state = { z = begin_at_theta },
  point = function(p, s, o, ctx) return couple(p, s, o.theta1, o.theta2, ctx) end,
  update = function(p, stats, s, o, ctx)
    if not ctx.corrected then return go_along(p, stats, s, ctx) end
    local x, z = couple(p, s, o.theta1, o.theta2, ctx), s.z
    local eta, ratio = o.theta2 / ((1 + o.theta2) * o.theta1), o.sigma / o.L
    local mixed = (eta * ratio * x + z) / (1 + eta * ratio)
    s.z = ctx.rule(mixed, with_decay(stats, x, ctx), (eta / o.L) / (1 + eta * ratio), false)
    return x + o.theta1 * (s.z - z)
  end,
}

return wrapper
