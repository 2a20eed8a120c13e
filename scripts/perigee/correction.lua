-- correction.lua: corrections replace the statistics of a step by less noisy ones. A correction has a host part,
-- `refresh`, which runs when due and may take full passes over the data, and a traced part, `correct`, which becomes
-- part of the step's program.

local core = require "perigee.core"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"
local schedule = require "perigee.schedule"
local statistics = require "perigee.statistics"

local correction = {}

local Correction = part.class "correction"

local DEFINITION = { "name", "hyper", "static", "limits", "due", "refresh", "correct", "active" }
-- Options that every correction has.
local COMMON = { "every", "start", "mega", "noise", "batch_norm" }

local function check_common(owner, given, has_refresh)
  local mega, noise, batch_norm = given.mega or "full", given.noise or "shared", given.batch_norm or "batch"
  if mega ~= "full" and (math.type(mega) ~= "integer" or mega < 1) then
    core.raise(('%s: mega is "full" or a number of batches, not %s'):format(owner, names.describe(mega)))
  elseif noise ~= "shared" and noise ~= "fresh" then
    core.raise(('%s: noise is "shared" or "fresh", not %s'):format(owner, names.describe(noise)))
  elseif batch_norm ~= "batch" and batch_norm ~= "running" then
    core.raise(('%s: batch_norm is "batch" or "running", not %s'):format(owner, names.describe(batch_norm)))
  elseif batch_norm == "running" and not has_refresh then
    core.raise(owner .. ": batch_norm = \"running\" keeps the statistics of the last refresh, and this one has none")
  end
  schedule.check_duration(owner, "every", given.every, 1)
  schedule.check_duration(owner, "start", given.start, 0)
  return mega, noise, batch_norm
end

--- pg.correction.define { name =, correct =, refresh =, due = "every", active =, hyper = {}, static = {} } →
-- correction: A correction of one's own: less noisy statistics, from a snapshot or from earlier steps.
--   refresh(s, ctx): plain Lua, run before a step when due. ctx.q is the posterior, ctx.q:clone() a frozen one;
--     ctx:full(q) the mean statistics of a pass over the data (or the mega-batch) at q; ctx.step, ctx.segment,
--     ctx:coin(p). s.x = value makes a slot: a frozen posterior, statistics, a tensor or a number, copied in. It is run
--     once beforehand on zeros, to find the slots.
--   correct(s, ctx, o) → statistics [, info]: traced. ctx:evaluate(q) gives statistics at q on this step's batch and
--     randomness; ctx.q, ctx.t, ctx.key. s.x = e writes a slot. info: a table of scalars for the rule's ctx.info.
--   due: "every" (each `every` steps from `start`) or a function(ctx) → boolean.
--   active(values, step): whether the step is corrected; default: alpha (or alpha_h), if there is one, is not 0.
--   hyper, static, limits: as in pg.rule.define.
-- The result is the correction; call it with hyperparameters and the common options for others. Common options: every =
-- pg.epochs(1), start = 0, mega = "full" (or a number of batches), noise = "shared" (the points of a step see the same
-- noise; "fresh": each its own), batch_norm = "batch" (evaluations away from q and passes normalize by the statistics
-- of their batch; "running": by the running ones of the last refresh).
function correction.define(definition)
  names.check("pg.correction.define", definition, DEFINITION)
  if type(definition.name) ~= "string" or type(definition.correct) ~= "function" then
    core.raise("pg.correction.define needs a name and a correct function")
  end
  hyper.check_limits("pg.correction.define", definition)
  local function make(given)
    given = given or {}
    local owner = "correction " .. definition.name
    local h = hyper.resolve(owner, definition.hyper or {}, given, definition.static, COMMON, definition.limits)
    local mega, noise, batch_norm = check_common(owner, given, definition.refresh ~= nil)
    return setmetatable({
      name = definition.name, definition = definition, hyper = h,
      every = given.every or schedule.epochs(1), start = given.start or 0, mega = mega, noise = noise,
      batch_norm = batch_norm,
      given = given, make = make,
    }, Correction)
  end
  return part.defined(make, definition.hyper or {}, hyper.required)
end

-- Whether a step is corrected. values: of the hyperparameters at this step.
function Correction:is_active(values, step, units)
  if step < schedule.resolve_steps(self.start, units) then
    return false
  elseif self.definition.active then
    return self.definition.active(values, step)
  end
  return not values.alpha or values.alpha ~= 0 or (values.alpha_h or 0) ~= 0
end

-- The period of `every` steps, counted from start, that a step is in.
function Correction:period(step, units)
  local every = schedule.resolve_steps(self.every, units)
  if every < 1 then
    core.raise(("correction %s: every must be at least one step"):format(self.name))
  end
  return (step - schedule.resolve_steps(self.start, units)) // every
end

--- correction:init() → state: Standalone use, without an optimizer or a model: the state before the first step.
function Correction:init()
  return require("perigee.replay").init(self)
end

--- correction:step(q, evaluate, state, step [, key]) → statistics, info: Standalone use: one step, with a refresh if
-- one is due. q: { mean =, h = }, eager vectors; evaluate(q, "batch" or "full") → { g =, h = }, plain Lua; step counts
-- from 0; `every` is a number of steps; key: for ctx.key and coins.
function Correction:step(q, evaluate, state, step, key)
  return require("perigee.replay").step(self, state, q, evaluate, step, key)
end

--- pg.correction.is(x): Whether x is a correction.
function correction.is(x)
  return getmetatable(x) == Correction
end

--- pg.correction.none(): No correction: what an optimizer without one has. Both none and none() say it.
function correction.none()
  return nil
end

--- pg.correction.svrg { alpha = 1, alpha_h = false, prox = false, every = pg.epochs(1), start = 0, mega = "full", noise
-- = "shared" } → correction: SVRG (Johnson & Zhang 2013) and alpha-SVRG (Yin et al. 2025, arXiv 2311.05589); over
-- pg.family.diagonal, IVON's posterior correction (arXiv 2512.01930).
--     at a refresh: at = q;  mean = statistics of all examples at `at`
--     in a step: (statistics at q - alpha statistics at `at`, on this batch) + alpha mean
-- The subtraction comes first, so that with alpha = 1 the result at the snapshot is `mean`, exactly. Both evaluations
-- of a step see the same batch, the same dropout masks and the same noise. alpha_h: the strength for h, default alpha.
-- prox adds alpha (mean.h - old.h) (q.mean - at.mean) to g; off by default, since Price's estimate of h is too noisy
-- for it.
correction.svrg = correction.define {
  name = "svrg",
  hyper = { alpha = 1, alpha_h = false, prox = false },
  refresh = function(s, ctx)
    s.at = ctx.q:clone()
    s.mean = ctx:full(s.at)
  end,
  correct = function(s, ctx, o)
    local now, old = ctx:evaluate(ctx.q), ctx:evaluate(s.at)
    local alpha = o.alpha
    if o.alpha_h then
      alpha = statistics.map(now, function(_, field)
        return field == "g" and o.alpha or o.alpha_h
      end)
    end
    local corrected = (now - alpha * old) + alpha * s.mean
    if o.prox then
      corrected.g = corrected.g + o.alpha * (s.mean.h - old.h) * (ctx.q.mean - s.at.mean)
    end
    return corrected
  end,
}

return correction
