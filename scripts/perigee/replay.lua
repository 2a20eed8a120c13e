-- replay.lua: a correction without an optimizer or a model, on eager tensors, given an evaluate function written in
-- Lua: for golden data and for trying out a correction of one's own. It runs the same refresh and correct as a step
-- does.

local core = require "perigee.core"
local memory = require "perigee.memory"
local moment = require "perigee.moment"
local posterior = require "perigee.posterior"
local slots = require "perigee.slots"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local replay = {}

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

-- State of a correction before its first step. q: { mean =, h = }, for the slots that the correction declares.
function replay.init(correction, q)
  local state = { memory = memory.new("correction " .. correction.name), period = -1, segment = 0, corrected = 0 }
  local declared = correction:declared_state()
  if next(declared) ~= nil then
    if not q then
      core.raise(("correction %s keeps slots like q: correction:init { mean = theta }"):format(correction.name))
    end
    q = as_posterior(q)
    state.memory:declare(declared, q, function()
      local zeros = {}
      for _, field in ipairs(q.fields) do zeros[field == "mean" and "g" or field] = vectors.zeros_like(q.mean) end
      return statistics.new(zeros)
    end)
  end
  if state.memory.table then
    core.raise(("correction %s keeps rows of statistics, which only an optimizer with a model gives"):format(
      correction.name))
  end
  return state
end

-- What the ctx of host functions is made of, for a call { correction, state, q, evaluate, key }.
local function place_of(call)
  local opt = { correction = call.correction, units = {}, weight_decay = { scalar = true, values = { decay = 0 } } }
  local st = { memory = call.state.memory, q = call.q }
  return { opt = opt, st = st, key = call.key }
end

local function refresh(call, step)
  local mem, state = call.state.memory, call.state
  mem.probing = state.segment == 0
  local s = mem:host_view()
  local ctx = moment.new(place_of(call), step, state.segment + 1)
  function ctx.full(_, at)
    return statistics.new(call.evaluate(at, "full"))
  end
  call.correction.definition.refresh(s, ctx)
  mem.probing = false
  for _, name in ipairs(mem.names) do
    mem.filled[name] = true
  end
  state.segment, state.period = state.segment + 1, call.correction:period(step)
end

local function correct(call, step, flags)
  local mem, correction = call.state.memory, call.correction
  local values = {}
  for _, name in ipairs(mem.names) do
    values[name] = mem.values[name]
  end
  local s, written = slots.view(mem.owner, values, mem.names, nil, mem.layout)
  local ctx = { q = call.q, iterate = call.q, t = step + 1, key = call.key, weight_decay = 0 }
  function ctx.evaluate(_, at)
    return statistics.new(call.evaluate(at, "batch"))
  end
  ctx.snapshot = ctx.evaluate
  setmetatable(ctx, { __index = correction:flags(flags) })
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
  local call = { correction = correction, state = state, q = as_posterior(q), evaluate = evaluate,
    key = key or core.key(0) }
  correction.hyper:evaluate(step)
  if not correction:is_active(correction.hyper.values, step) then
    return statistics.new(evaluate(call.q, "batch"))
  end
  local at = place_of(call)
  local function is_due(when, period) return correction:is_due(when, state.segment, period, nil, at) end
  local due = is_due(step, state.period)
  if due then refresh(call, step) end
  local flags = { first = state.corrected == 0, refreshed = due, last = is_due(step + 1, correction:period(step)) }
  state.corrected = state.corrected + 1
  return correct(call, step, flags)
end

return replay
