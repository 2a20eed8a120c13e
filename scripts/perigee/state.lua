-- state.lua: everything an optimizer remembers between steps: q, the model's buffers, the slots of rule and correction,
-- counters, the cost meter, and how far an unfinished pass is. st:tensors() and st:numbers() are the whole of it:
-- loading them elsewhere continues bit for bit.

local core = require "perigee.core"
local cost = require "perigee.cost"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local state = {}

local State = {}
State.__index = State
State.__name = "perigee.state"

-- parts: { q, rule_slots (name → tensor), rule_names, memory (or nil), key, buffers (or nil), frozen_buffers (their
-- values at the last refresh, where the correction keeps them) }.
function state.new(parts)
  return setmetatable({
    q = parts.q, theta = parts.q.mean, rule = parts.rule_slots, rule_names = parts.rule_names,
    memory = parts.memory, key = parts.key, buffers = parts.buffers, frozen_buffers = parts.frozen_buffers,
    step = 0, segment = 0, period = -1, pass_size = 0, pass = nil, results = {}, accumulators = nil, cost = cost.new(),
    programs = setmetatable({}, { __mode = "k" }),
    scalars = { step = 0, t = 1, epoch = 0, segment = 0, batch = 0, weight = 0 },
    info = {},
  }, State)
end

function state.is(x)
  return getmetatable(x) == State
end

-- The statistics that pass number `which` of a refresh writes; made on first use. fields: of the family's statistics.
function State:result(which, fields)
  local result = self.results[which]
  if not result then
    result = {}
    for _, field in ipairs(fields) do
      result[field] = vectors.zeros_like(self.theta)
    end
    result = statistics.new(result)
    self.results[which] = result
  end
  return result
end

-- The f64 accumulators of passes; made on first use.
function State:accumulate_into(fields)
  if not self.accumulators then
    self.accumulators = {}
    for _, field in ipairs(fields) do
      self.accumulators[field] = vectors.zeros_like(self.theta, "f64")
    end
  end
  return self.accumulators
end

local function add(list, name, tensor)
  list[#list + 1] = { name, tensor, name = name, tensor = tensor }
end

-- All tensors in a fixed order: a list of { name, tensor }. While a pass is unfinished its accumulators and the
-- results of the refresh's earlier passes are among them.
function State:tensors()
  local list = {}
  for _, field in ipairs(self.q.fields) do
    add(list, "q." .. field, self.q[field])
  end
  for _, name in ipairs(self.rule_names) do
    add(list, "rule." .. name, self.rule[name])
  end
  if self.buffers then
    add(list, "buffers", self.buffers)
  end
  if self.frozen_buffers then
    add(list, "snapshot.buffers", self.frozen_buffers)
  end
  if self.memory then
    local slots = {}
    self.memory:tensors("correction.", slots)
    for _, entry in ipairs(slots) do
      add(list, entry[1], entry[2])
    end
  end
  if self.pass then
    for which = 1, self.pass.which - 1 do
      for _, field in ipairs(statistics.fields(self.results[which])) do
        add(list, ("pass.result.%d.%s"):format(which, field), self.results[which][field])
      end
    end
    for _, field in ipairs { "g", "h", "H" } do
      if self.accumulators[field] then
        add(list, "pass.sum." .. field, self.accumulators[field])
      end
    end
  end
  return list
end

-- All numbers, flat: name → number.
function State:numbers()
  local numbers = { step = self.step, segment = self.segment, period = self.period, pass_size = self.pass_size }
  if self.pass then
    numbers["pass.which"], numbers["pass.cursor"] = self.pass.which, self.pass.cursor
  end
  if self.memory then
    self.memory:save_numbers("correction.", numbers)
  end
  self.cost:save(numbers)
  return numbers
end

-- Take over what tensors() and numbers() gave. tensors: that list, or name → tensor. A missing tensor is an error.
function State:load(tensors, numbers)
  local by_name = {}
  for k, v in pairs(tensors) do
    if type(k) == "number" then
      by_name[v[1]] = v[2]
    else
      by_name[k] = v
    end
  end
  if by_name.buffers and not self.buffers then
    core.raise("the saved state has buffers (running statistics), and this one was made without: "
      .. "opt:init(theta, key, model:init_buffers())")
  end
  self.step, self.segment, self.period = numbers.step, numbers.segment, numbers.period
  self.pass_size = numbers.pass_size
  self.pass = nil
  if numbers["pass.which"] then
    self.pass = { which = numbers["pass.which"], cursor = numbers["pass.cursor"] }
    self:accumulate_into(self.stats)
    for which = 1, self.pass.which - 1 do
      self:result(which, self.stats)
    end
  end
  if self.memory then
    self.memory:load_numbers("correction.", numbers)
  end
  self.cost:load(numbers)
  for _, entry in ipairs(self:tensors()) do
    local from = by_name[entry[1]]
    if not from then
      core.raise(("the saved state has no tensor '%s'; it is of another optimizer"):format(entry[1]))
    end
    entry[2]:copy_from(from)
  end
end

return state
