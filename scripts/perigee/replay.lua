-- replay.lua: a correction without an optimizer or a model, on eager tensors, given an evaluate function written in
-- Lua: for golden data and for trying out a correction of one's own. It runs the same refresh and correct as a step
-- does.

local core = require "perigee.core"
local memory = require "perigee.memory"
local passes = require "perigee.passes"
local posterior = require "perigee.posterior"
local statistics = require "perigee.statistics"
local slots = require "perigee.slots"

local replay = {}

-- State of a correction before its first step.
function replay.init(correction)
  return { memory = memory.new("correction " .. correction.name), period = -1, segment = 0 }
end

local function as_posterior(q)
  if posterior.is(q) then
    return q
  end
  local fields = { "mean" }
  if q.h ~= nil then
    fields[2] = "h"
  end
  return posterior.new(fields, q)
end

local function refresh(correction, state, q, evaluate, step, key)
  local mem = state.memory
  mem.probing = state.segment == 0
  local s = mem:host_view()
  local ctx = { q = q, step = step, segment = state.segment + 1 }
  function ctx.full(_, at)
    return statistics.new(evaluate(at, "full"))
  end
  function ctx.coin(_, p)
    return passes.coin(key, step, p)
  end
  correction.definition.refresh(s, ctx)
  mem.probing = false
  for _, name in ipairs(mem.names) do
    mem.filled[name] = true
  end
  state.segment = state.segment + 1
end

local function correct(correction, state, q, evaluate, step, key)
  local mem = state.memory
  local values = {}
  for _, name in ipairs(mem.names) do
    values[name] = mem.values[name]
  end
  local s, written = slots.view(mem.owner, values, mem.names)
  local ctx = { q = q, t = step + 1, key = key }
  function ctx.evaluate(_, at)
    return statistics.new(evaluate(at, "batch"))
  end
  local stats, info = correction.definition.correct(s, ctx, correction.hyper:numbers(step))
  local host = mem:host_view()
  for _, name in ipairs(written) do
    host[name] = values[name]
  end
  return stats, info
end

-- One step: refresh if due (step is 0-based, `every` a number of steps), then the corrected statistics, or those of
-- a plain evaluation where the correction is not active. q: { mean =, h = }. evaluate(q, "batch" or "full") → { g =,
-- h = }. key: for ctx.key and coins. Returns statistics, info.
function replay.step(correction, state, q, evaluate, step, key)
  q, key = as_posterior(q), key or core.key(0)
  correction.hyper:evaluate(step)
  if not correction:is_active(correction.hyper.values, step) then
    return statistics.new(evaluate(q, "batch"))
  end
  if correction.definition.refresh and correction:period(step) ~= state.period then
    refresh(correction, state, q, evaluate, step, key)
    state.period = correction:period(step)
  end
  return correct(correction, state, q, evaluate, step, key)
end

return replay
