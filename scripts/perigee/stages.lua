-- stages.lua: the stages of an optimizer in their two places: which may stand where, their slots in the optimizer's
-- state, and how they are traced into a step. What a stage is: stage_class.lua.

local core = require "perigee.core"
local names = require "perigee.names"
local part = require "perigee.part"
local slots = require "perigee.slots"
local stage = require "perigee.stage_class"

local stages = {}

local PLACES = { "per_evaluation", "combined" }

-- Raise an error if stage number i of a place cannot stand there. c: the correction or nil; f: the family.
local function check_place(s, place, i, c, f)
  local where = ("pg.optimizer: stage %s, entry %d of stages.%s, "):format(s.name, i, place)
  if s.definition.examples and (place ~= "per_evaluation" or i ~= 1) then
    core.raise(where .. "asks for the gradients of the examples, so it must be the first of stages.per_evaluation")
  elseif s.definition.state and place == "per_evaluation" and (c or f.samples * f.gradients > 1) then
    core.raise(where .. ("keeps state from step to step, and %s evaluates several gradients in a step"):format(
      c and "correction " .. c.name or "family " .. f.name))
  end
end

-- The stages given to pg.optimizer, checked: { per_evaluation = {…}, combined = {…} }.
function stages.check(given, c, f)
  names.check("pg.optimizer stages", given, PLACES)
  local checked = {}
  for _, place in ipairs(PLACES) do
    local list = given[place] or {}
    checked[place] = list
    if type(list) ~= "table" or stage.is(list) then
      core.raise(("pg.optimizer: stages.%s must be a list of stages, as { pg.stage.clip { norm = 1 } }, not %s"):format(
        place, names.describe(list)))
    end
    for i, s in ipairs(list) do
      if not stage.is(s) then
        core.raise(("pg.optimizer: entry %d of stages.%s is %s, not a stage, as pg.stage.clip { norm = 1 }"):format(i,
          place, names.describe(s)))
      end
      check_place(s, place, i, c, f)
    end
  end
  return checked
end

-- The slots of all stages beside theta: place → list of { stage, names, values (name → tensor), prefix }.
function stages.allocate(given, theta)
  local all = {}
  for _, place in ipairs(PLACES) do
    all[place] = {}
    for i, s in ipairs(given[place]) do
      local entry = { stage = s, names = {}, values = {}, prefix = ("stages.%s.%d."):format(place, i) }
      for k, slot in ipairs(slots.declare(s.definition.state or {})) do
        entry.names[k], entry.values[slot.name] = slot.name, slots.allocate(slot, theta)
      end
      all[place][i] = entry
    end
  end
  return all
end

-- The tensors of allocated stages in order: { { name, tensor }, … }.
function stages.tensors(all)
  local list = {}
  for _, place in ipairs(PLACES) do
    for _, entry in ipairs(all[place]) do
      for _, name in ipairs(entry.names) do list[#list + 1] = { entry.prefix .. name, entry.values[name] } end
    end
  end
  return list
end

-- ---- stages of some steps only --------------------------------------------------------------------------------------

-- The stages that say themselves when they act: { stage, prefix }, …; nil if there are none.
local function timed(given)
  local list = {}
  for _, place in ipairs(PLACES) do
    for i, s in ipairs(given[place]) do
      if s.definition.active then list[#list + 1] = { s, ("stages.%s.%d."):format(place, i) } end
    end
  end
  return #list > 0 and list or nil
end

-- For the stages of an optimizer, a function(step) → the set of those that do not act in it: { [prefix] = true, name,
-- how (to make programs) }, the same table for the same set, nil for none; and a list of all such sets. Both are nil if
-- all stages always act.
function stages.timing(given)
  local list = timed(given)
  if not list then return nil end
  local sets = {}
  for bits = 1, (1 << #list) - 1 do
    local set, parts = {}, {}
    for i, entry in ipairs(list) do
      if bits & 1 << (i - 1) ~= 0 then set[entry[2]], parts[#parts + 1] = true, entry[2] end
    end
    set.name, set.how = " without " .. table.concat(parts, " "), { idle = set }
    sets[bits] = set
  end
  return function(step)
    local bits = 0
    for i, entry in ipairs(list) do
      if not entry[1].definition.active(step, entry[1].hyper.values) then bits = bits | 1 << (i - 1) end
    end
    return sets[bits]
  end, sets
end

-- ---- in a trace -----------------------------------------------------------------------------------------------------

local Traced = {}
Traced.__index = Traced

local function trace(b, entry, place, like)
  local values = {}
  for _, name in ipairs(entry.names) do values[name] = b:slot(entry.values[name], entry.prefix .. name) end
  return setmetatable({
    stage = entry.stage, entry = entry, place = place, values = values, written = {}, layout = like.layout,
    o = entry.stage.hyper:traced(function(scalars, name) return b:scalar(scalars, name) end, like),
  }, Traced)
end

-- The stages of a place in builder b. list: as allocated; like: a vector that gives dtype and layout; idle: of
-- stages.idle, or nil.
function stages.trace(b, list, like, idle)
  local traced = {}
  for i, entry in ipairs(list) do
    if not idle or not idle[entry.prefix] then traced[#traced + 1] = trace(b, entry, i, like) end
  end
  return traced
end

-- The gradient as the stage leaves it. What it writes into its slots is seen from the next step on.
function Traced:apply(g, ctx)
  local s = self.stage
  self.after = part.merge(self.values, {})
  local view
  view, self.written = slots.view("stage " .. s.name, self.after, self.entry.names, nil, self.layout)
  local edited = s.definition.apply(g, self.o, ctx, view)
  if not core.is_tensor(edited) then
    core.raise(("apply of stage %s must return the gradient, not %s"):format(s.name, names.describe(edited)))
  end
  return edited
end

-- Raise an error where one of these keeps state, in a step that is evaluated in pieces.
function stages.check_pieces(traced)
  for _, t in ipairs(traced) do
    if t.stage.definition.state then
      core.raise(("stage %s keeps state, and gradients of several pieces pass it in a step: use micro = 1"):format(
        t.stage.name))
    end
  end
end

-- Register what stages have written into their slots as outputs of builder b.
function stages.register(b, traced)
  for _, t in ipairs(traced) do
    for _, name in ipairs(t.written) do b:output(t.after[name], t.entry.values[name]) end
  end
end

-- ctx of a stage: `fields`, and key, which make_key() gives where it is read.
function stages.context(fields, make_key)
  return setmetatable(fields, { __index = function(_, name) return name == "key" and make_key() or nil end })
end

return stages
