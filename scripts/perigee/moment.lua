-- moment.lua: where a run stands, as the host functions of a correction see it: the ctx of `due` and `refresh`. Reading
-- a field computes it, so that a step which nobody asks about costs nothing.

local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local hyper = require "perigee.hyper"
local schedule = require "perigee.schedule"

local moment = {}

local Moment = {}

-- Fields that are computed when they are read: name → function(ctx, opt, st).
local FIELDS = {
  q = function(_, _, st) return st.q end,
  s = function(_, _, st) return (st.memory:host_view()) end,
  first = function(_, _, st) return st.corrected == 0 end,
  o = function(_, opt) return opt.correction.hyper:reader() end,
  steps_per_epoch = function(_, opt) return opt.units.steps_per_epoch end,
  every = function(_, opt) return schedule.resolve_steps(opt.correction.every, opt.units) end,
  period_ended = function(ctx, opt) return opt.correction:period(ctx.step, opt.units) ~= rawget(ctx, "period") end,
  weight_decay = function(_, opt, st)
    local decay = opt.weight_decay
    return decay.scalar and decay.values.decay or hyper.spread(decay.given, st.theta)
  end,
}

function Moment.__index(ctx, name)
  if Moment[name] then return Moment[name] end
  local field, at = FIELDS[name], rawget(ctx, "at")
  if not field then return nil end
  local value = field(ctx, at.opt, at.st)
  rawset(ctx, name, value)
  return value
end

-- True with probability p, from a stream of its own: the same for the same key and step.
function Moment:coin(p)
  return moment.toss(self.at.key, self.step, p)
end

-- One program tosses all coins: a coin a step should leave no garbage behind.
local coin = { numbers = { step = 0 } }

function moment.toss(key, step, p)
  coin.program = coin.program or builder.trace(false, function(b)
    local at = evaluation.fold(b:input("key", key), evaluation.streams.coin, b:scalar(coin.numbers, "step"))
    b:output(core.apply("uniform", { a = {}, dtype = "f64" }, at))
  end)
  coin.numbers.step = step
  coin.program:bind("key", key)
  coin.program:run()
  return coin.program:number(1) < p
end

-- at: { opt, st, key }. segment: the snapshot segment, 0 before the first; period: of `every` steps, that of the last
-- refresh. Further fields may be set on the result.
function moment.new(at, step, segment, period)
  return setmetatable({ at = at, step = step, segment = segment, period = period }, Moment)
end

-- The same, in a table of `at` that is used again: for questions that every step asks.
function moment.reuse(at, step, segment, period)
  local ctx = at.moment
  if not ctx then
    at.moment = moment.new(at, step, segment, period)
    return at.moment
  end
  for name in next, ctx do ctx[name] = nil end
  ctx.at, ctx.step, ctx.segment, ctx.period = at, step, segment, period
  return ctx
end

return moment
