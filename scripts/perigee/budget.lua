-- budget.lua: how many steps a budget of gradient evaluations pays for. The schedule of a correction is gone through
-- without evaluating anything: which steps are corrected, which of them refresh, what each takes. Exact unless the
-- correction looks at its own state to decide (as SARAH+ does); a run ends by the meter in any case.

local budget = {}

-- Gradient evaluations per example of the steps and passes of an optimizer. programs: a function(mode, flags) → entry.
local function read_prices(opt, programs)
  local prices = { plain = programs("plain").evaluations }
  local c = opt.correction
  if not c then return prices end
  prices.corrected = function(flags) return programs("corrected", flags).evaluations end
  prices.pass = c.definition.refresh and programs("pass").evaluations or 0
  return prices
end

-- Go through steps until `gradients` are spent. call: { opt, st, source, batch, pass_batch, prices, units }.
local function go_through(call, gradients)
  local opt, st, source, prices, units = call.opt, call.st, call.source, call.prices, call.units
  local c, size = opt.correction, call.batch
  local spent, step, period, segment, corrected = 0, 0, -1, 0, 0
  local count = c and c.mega ~= "full" and c.mega or nil
  while spent < gradients do
    units.samples = source:seen(step)
    local examples = source:seen(step + 1) - units.samples
    if c and c:is_active(c.hyper:evaluate(step, units), step, units) then
      local flags = { first = corrected == 0, refreshed = c:is_due(step, segment, period, units, call.at) }
      if flags.refreshed then
        local pass = source:total(count and size or call.pass_batch, count, c.ahead and step or nil)
        local next_segment = c:next_segment(segment) -- refreshes that begin none take no pass
        if next_segment ~= segment then spent = spent + st.passes * pass * prices.pass end
        period, segment = c:period(step, units), next_segment
      end
      flags.last = c.reads.last ~= nil and c:is_due(step + 1, segment, c:period(step, units), units, call.at)
      spent, corrected = spent + examples * prices.corrected(flags), corrected + 1
    else
      spent = spent + examples * prices.plain
    end
    step = step + 1
  end
  return math.max(1, step)
end

-- The steps that `gradients` pay for, and a number of steps that is enough for any method. call: { opt, st, source,
-- batch (examples of a step), pass_batch, programs (a function(mode, flags) → entry of opt:program) }.
function budget.steps(gradients, call)
  call.prices = read_prices(call.opt, call.programs)
  call.at = { opt = call.opt, st = call.st, key = call.st.key }
  local per_epoch = call.source.per_epoch
  local most = math.ceil(gradients / call.source.n * per_epoch) + per_epoch
  call.units = { steps_per_epoch = per_epoch, total_steps = most, examples = call.source.n,
    total_samples = call.source:seen(most) }
  -- schedules may depend on the length of the run: a second time with what came out
  call.units.total_steps = go_through(call, gradients)
  return go_through(call, gradients), most
end

return budget
