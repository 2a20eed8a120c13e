-- controls.lua: what may be changed while a run goes on: the hyperparameters of its optimizer that are run-time numbers
-- of the compiled step, and the plain values in the state of a loop of one's own. Owns the list of them by name
-- ("rule.lr", "state.rate"), the check of a new value, and why the others are fixed. Who changes what at which step is
-- changes.lua's.

local core = require "perigee.core"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local part = require "perigee.part"
local schedule = require "perigee.schedule"
local written = require "perigee.written"

local controls = {}

local COMPILED = "it is part of the compiled step"
local FIXED = { -- options of parts beside their hyperparameters
  samples = "the compiled step evaluates as many points",
  mega = "the batches of a pass were laid out for it", noise = COMPILED,
}
-- Words a user may try that are the run's, not the optimizer's.
local OF_THE_RUN = {
  batch = "the order of the examples and the compiled step depend on it",
  seed = "everything drawn so far comes from it", epochs = "schedules over the whole run depend on it",
  steps = "schedules over the whole run depend on it", model = "the compiled step belongs to it",
  data = "the order of the examples depends on it", loss = COMPILED,
}

-- A control: { name, get(), set(value), and for a fixed one fixed = why; else check(value, step) → value, or nil and
-- why }. kept: whether checkpoints hold its value. settle(): what a change does besides, once, at its step.

local function same(a, b)
  for key, value in next, a or {} do
    if b == nil or b[key] ~= value then return false end
  end
  return true
end

-- Call f; its first result, or nil and the message without the place in the library.
local function try(f, ...)
  local ok, result = pcall(f, ...)
  if ok then return result end
  return nil, (tostring(result):gsub("^[^\n]-:%d+: ", ""))
end

-- The part with one option replaced, which finds what is wrong with a value; nil and the message.
local function try_option(owner, key, value)
  local given = part.merge(owner.hyper.given, {})
  for _, option in ipairs { "every", "start", "mega", "noise", "samples" } do given[option] = owner[option] end
  given[key] = value
  return try(owner.make, given)
end

-- The number or schedule that was typed for `name`, to hold from `step` on; nil and a message if it is none, gives no
-- number at that step, or cannot be written down. A string is the text of a formula.
local function read_scalar(name, value, step, units)
  if type(value) == "string" then
    local formula, message = try(schedule.formula, value)
    if not formula then return nil, message end
    value = formula
  end
  if type(value) ~= "number" and not schedule.is_schedule(value) then
    return nil, ("%s is a number or a schedule, not %s"):format(name, names.describe(value))
  end
  if value ~= value then return nil, ("%s cannot be nan"):format(name) end
  local text, why = written.encode(value)
  if not text then return nil, ("%s: %s"):format(name, why) end
  local number, wrong = try(schedule.value, value, step, units)
  return number and value, wrong
end

-- A hyperparameter of a part. prefix: "rule." …
local function of_hyper(owner, prefix, key, units)
  local h, name = owner.hyper, prefix .. key
  local control = { name = name, owner = owner, units = units, get = function() return h.given[key] end }
  function control.set(value) h:set(key, value) end
  if not names.includes(h.scalars, key) then
    control.fixed = names.includes(h.tensors, key) and "values per tensor are part of the compiled step" or COMPILED
    return control
  end
  function control.check(given, step)
    local value, why = read_scalar(name, given, step, units)
    if value == nil then return nil, why end
    local other, message = try_option(owner, key, value)
    if not other then return nil, message end
    if not same(rawget(owner, "variant"), rawget(other, "variant")) or not same(owner.slot_names, other.slot_names)
        or not same(other.slot_names, owner.slot_names) then
      return nil, ("%s cannot become %s in the middle of a run: the compiled step and the state have another form then")
        :format(name, written.encode(value) or tostring(value))
    end
    return value
  end
  return control
end

-- every or start of a correction: durations. A snapshot in use stays until the next period begins, counted anew.
local function of_period(owner, key, units, st)
  local name = "correction." .. key
  local control = { name = name, owner = owner, units = units, is_duration = true,
    get = function() return owner[key] end }
  function control.set(value) owner[key] = value end
  function control.settle()
    if st.segment > 0 then st.period = owner:period(st.step, units) end
  end
  if key == "every" and type(owner.definition.due) == "function" then
    control.fixed = ("correction %s decides by itself when it is due"):format(owner.name)
  end
  function control.check(value)
    if type(value) ~= "number" and not schedule.is_duration(value) then
      return nil, ("%s is a number of steps, pg.epochs(n) or pg.steps(n), not %s"):format(name, names.describe(value))
    end
    local ok, steps = pcall(schedule.resolve_steps, value, units)
    local least = key == "every" and 1 or 0
    if not ok or steps ~= steps or steps < least then
      return nil, ("%s must be at least %d step%s"):format(name, least, least == 1 and "" or "s")
    end
    return value
  end
  return control
end

local function of_decay(opt)
  local decay = opt.weight_decay
  local control = { name = "weight_decay", units = opt.units, get = function() return decay.given end }
  function control.set(value) decay.given = value end
  if not decay.scalar then control.fixed = "values per tensor are part of the compiled step" end
  function control.check(given, step)
    local value, why = read_scalar("weight_decay", given, step, opt.units)
    if value ~= nil and not optimizer.is_decay(value) then
      return nil, "weight_decay must be at least 0, not " .. names.describe(value)
    end
    return value, why
  end
  return control
end

local function fixed(name, value, why)
  return { name = name, get = function() return value end, fixed = why }
end

local function add_part(list, owner, prefix, units)
  for _, key in ipairs(names.sorted(owner.hyper.given)) do list[#list + 1] = of_hyper(owner, prefix, key, units) end
end

-- The hyperparameters of an optimizer, in the order in which a person reads them.
local function of_optimizer(opt, st)
  local list, c = {}, opt.correction
  add_part(list, opt.rule, "rule.", opt.units)
  if c then
    add_part(list, c, "correction.", opt.units)
    for _, key in ipairs { "every", "start" } do list[#list + 1] = of_period(c, key, opt.units, st) end
    for _, key in ipairs { "mega", "noise" } do list[#list + 1] = fixed("correction." .. key, c[key], FIXED[key]) end
  end
  add_part(list, opt.family, "family.", opt.units)
  list[#list + 1] = fixed("family.samples", opt.family.samples, FIXED.samples)
  for _, place in ipairs { "per_evaluation", "combined" } do
    for i, stage in ipairs(opt.stages[place]) do
      add_part(list, stage, ("stages.%s.%d."):format(place, i), opt.units)
    end
  end
  list[#list + 1] = of_decay(opt)
  return list
end

local PLAIN = { number = true, string = true, boolean = true }

-- The plain values in a state tree: numbers, strings and booleans. Tensors are fixed.
local function add_state(list, tree, prefix)
  for _, key in ipairs(names.sorted(tree)) do
    local value, name = tree[key], prefix .. key
    if PLAIN[type(value)] then
      local kind = type(value)
      local control = { name = name, kept = true, get = function() return tree[key] end }
      function control.set(new) tree[key] = new end
      function control.check(new)
        if type(new) == kind then return new end
        return nil, ("%s is a %s, not %s"):format(name, kind, names.describe(new))
      end
      list[#list + 1] = control
    elseif core.is_tensor(value) then
      list[#list + 1] = fixed(name, value, "tensors change in steps only, so that the record repeats the run")
    elseif type(value) == "table" and getmetatable(value) == nil then
      add_state(list, value, name .. ".")
    end
  end
end

local Controls = {}
Controls.__index = Controls

-- The controls there are at this moment. of: { optimizer =, optimizer_state =, state = a tree }; each may be missing.
function controls.new(of)
  local self = setmetatable({ list = {}, by_name = {}, optimizer = of.optimizer, has_state = of.state ~= nil },
    Controls)
  if of.optimizer then self.list = of_optimizer(of.optimizer, of.optimizer_state) end
  if of.state then add_state(self.list, of.state, "state.") end
  for _, control in ipairs(self.list) do self.by_name[control.name] = control end
  return self
end

-- Why what is not an optimizer's but the run's is fixed: a message, or nil for any other word.
function controls.why_fixed(name)
  local why = OF_THE_RUN[name]
  return why and ("%s is fixed while a run goes on: %s"):format(name, why)
end

-- The control of this name, or nil and a message that says the nearest name, or why there is none.
function Controls:find(name)
  local found = self.by_name[name]
  if found then return found end
  if OF_THE_RUN[name] then return nil, controls.why_fixed(name) end
  if name:match("^state%.") and not self.has_state then
    return nil, name .. " is fixed while a run goes on: the state of pg.train changes in steps only"
  end
  if name:match("^correction") and self.optimizer and not self.optimizer.correction then
    return nil, "this optimizer has no correction, and none can be put in while a run goes on"
  end
  local known, inside = {}, nil
  for _, control in ipairs(self.list) do
    known[#known + 1] = control.name
    inside = inside or control.name:sub(1, #name + 1) == name .. "."
  end
  if inside then
    return nil, ("%s itself is fixed while a run goes on: the compiled step and its state belong to it"):format(name)
  end
  local owner, key = name:match("^(.*)%.([^.]*)$")
  local beside = {}
  for _, full in ipairs(known) do
    local key_there = owner and full:sub(1, #owner + 1) == owner .. "." and full:sub(#owner + 2)
    if key_there and not key_there:find(".", 1, true) then beside[#beside + 1] = key_there end
  end
  if #beside > 0 then return nil, names.unknown("hyperparameter", key, owner, beside) end
  return nil, names.unknown("hyperparameter", name, "this run", known)
end

-- Check a value typed for `name`, to hold from `step` on. → the value as it will be set, or nil and a message
function Controls:check(name, value, step)
  local control, message = self:find(name)
  if not control then return nil, message end
  if control.fixed then return nil, ("%s is fixed while a run goes on: %s"):format(name, control.fixed) end
  return control.check(value, step)
end

-- The number a value of this control stands for at a step, for people.
function controls.at_step(control, value, step)
  if control.is_duration then
    return ("%d steps"):format(schedule.resolve_steps(value, control.units))
  elseif type(value) == "number" or schedule.is_schedule(value) then
    return ("%.6g"):format(schedule.value(value, step, control.units))
  end
  return tostring(value)
end

return controls
