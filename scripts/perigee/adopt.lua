-- adopt.lua: what an optimizer's state takes over from the state that another run saved, whose optimizer may have had
-- other parts. Owns the rule of what fits: q, the buffers, the step and the cost always have to; the slots of rule,
-- stages and correction are taken over if both runs have the same one, and else begin as they do in a new run.

local checkpoint = require "perigee.checkpoint"
local core = require "perigee.core"
local stages = require "perigee.stages"

local BEGIN_ANEW = "; theta = pg.load(\"%s\").theta begins anew at its parameters"

-- Copy the saved tensor `name` into `now`, or raise why it cannot be.
local function take(now, saved, name, where, keeper)
  local tensor = saved.tensors[name]
  if not tensor then
    core.raise(("from: %s keeps no %s, which %s needs" .. BEGIN_ANEW):format(where, name, keeper, where))
  elseif not checkpoint.are_alike(now, tensor) then
    core.raise(("from: %s of %s is %s with %d numbers in %d tensors, this run's %s with %d in %d"):format(name, where,
      tensor.dtype, tensor.size, tensor.layout and #tensor.layout or 1, now.dtype, now.size,
      now.layout and #now.layout or 1))
  end
  now:copy_from(tensor)
end

-- Whether `saved` holds every tensor of a list of { name, tensor } in its form.
local function holds_all(saved, list)
  for _, entry in ipairs(list) do
    local tensor = saved.tensors[entry[1]]
    if not tensor or not checkpoint.are_alike(entry[2], tensor) then return false end
  end
  return true
end

local function copy_all(saved, list)
  for _, entry in ipairs(list) do entry[2]:copy_from(saved.tensors[entry[1]]) end
end

-- The slots of the same rule, or those of another one as it makes them at the present parameters.
local function adopt_rule(st, saved)
  local list = {}
  for i, name in ipairs(st.rule_names) do list[i] = { "rule." .. name, st.rule[name] } end
  if saved.parts.rule == st.optimizer.rule.name and holds_all(saved, list) then return copy_all(saved, list) end
  local fresh = st.optimizer.rule:allocate(st.q.mean)
  for _, name in ipairs(st.rule_names) do st.rule[name]:copy_from(fresh[name]) end
end

-- The slots of the same stages, or those that stages begin with.
local function adopt_stages(st, saved)
  local list = stages.tensors(st.stages)
  if holds_all(saved, list) then return copy_all(saved, list) end
  for _, entry in ipairs(stages.tensors(stages.allocate(st.optimizer.stages, st.q.mean))) do
    for _, own in ipairs(list) do if own[1] == entry[1] then own[2]:copy_from(entry[2]) end end
  end
end

-- The slots and counters of the same correction. A snapshot in use stays until the next period begins,
-- also if periods have another length now.
local function adopt_correction(st, saved)
  local c, parts = st.optimizer.correction, saved.parts
  if not c or parts.correction ~= c.name then return end
  local list = {}
  st.memory:make_room("correction.", saved.tensors, st.stats)
  st.memory:tensors("correction.", list)
  if st.frozen_buffers then list[#list + 1] = { "snapshot.buffers", st.frozen_buffers } end
  if not holds_all(saved, list) then return end
  copy_all(saved, list)
  st.memory:load_numbers("correction.", saved.numbers)
  for _, name in ipairs { "segment", "period", "corrected", "order" } do st[name] = saved.numbers[name] end
  local own = st:parts()
  if st.segment > 0 and (own.every ~= parts.every or own.start ~= parts.start) then
    st.period = c:period(st.step, st.optimizer.units)
  end
end

-- Bring st to what `saved` holds ({ tensors, numbers, parts } by name). where: names the other run in messages.
return function(st, saved, where)
  for _, field in ipairs(st.q.fields) do
    take(st.q[field], saved, "q." .. field, where, "family " .. st.optimizer.family.name)
  end
  if st.buffers then take(st.buffers, saved, "buffers", where, "the model (running statistics)") end
  st.step, st.samples = saved.numbers.step, saved.numbers.samples or 0
  st.cost:load(saved.numbers)
  adopt_rule(st, saved)
  adopt_stages(st, saved)
  adopt_correction(st, saved)
end
