-- state.lua: everything an optimizer remembers between steps: q, the model's buffers, the slots of rule and correction,
-- counters, the cost meter, and how far an unfinished pass is. st:tensors() and st:numbers() are the whole of it:
-- loading them elsewhere continues bit for bit.

local adopt = require "perigee.adopt"
local core = require "perigee.core"
local cost = require "perigee.cost"
local evaluation_point = require "perigee.evaluation_point"
local stages = require "perigee.stages"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"
local written = require "perigee.written"

local state = {}

local State = {}
State.__index = State
State.__name = "perigee.state"

-- parts: { optimizer, q, stats (names of the family's statistics), shapes (of those that are no vectors), rule_slots
-- (name → tensor), rule_names, stages (stages.lua), memory (or nil), key, buffers (or nil), frozen_buffers (their
-- values at the last refresh, where the correction keeps them), cache (tables.lua, or nil) }.
function state.new(parts)
  return setmetatable({
    optimizer = parts.optimizer, q = parts.q, theta = parts.q.mean, rule = parts.rule_slots,
    rule_names = parts.rule_names, stages = parts.stages, stats = parts.stats, shapes = parts.shapes or {},
    memory = parts.memory, key = parts.key, buffers = parts.buffers, frozen_buffers = parts.frozen_buffers,
    cache = parts.cache, pass_mode = "pass", call = {},
    step = 0, samples = 0, segment = 0, period = -1, corrected = 0, order = -1, batch_size = 0, pass_size = 0,
    pass = nil, results = {},
    accumulators = nil, cost = cost.new(),
    programs = setmetatable({}, { __mode = "k" }),
    scalars = { step = 0, t = 1, epoch = 0, segment = 0, batch = 0, weight = 0, share = 0 },
    info = {}, flags = {}, place = {},
  }, State)
end

function state.is(x)
  return getmetatable(x) == State
end

-- Statistics of the family, all zeros. dtype: default theta's.
function State:zero_statistics(dtype)
  local zeros = {}
  for _, field in ipairs(self.stats) do
    local shape = self.shapes[field]
    zeros[field] = shape and core.tensor(dtype or self.theta.dtype, shape) or vectors.zeros_like(self.theta, dtype)
  end
  return statistics.new(zeros)
end

-- The same in a trace. like: a traced vector of theta's layout.
function State:traced_zero_statistics(like)
  local zeros = {}
  for _, field in ipairs(self.stats) do
    local shape = self.shapes[field]
    zeros[field] = core.apply("full", shape and { a = shape, dtype = like.dtype }
      or { layout = like.layout, dtype = like.dtype }, 0)
  end
  return statistics.new(zeros)
end

-- The statistics that pass number `which` of a refresh writes; made on first use.
function State:result(which)
  self.results[which] = self.results[which] or self:zero_statistics()
  return self.results[which]
end

-- The table that passes fill: the one that the correction declares, or the cache of its snapshot's statistics.
function State:filled()
  return self.memory.table or self.cache
end

--- state:point() → vector: Where this state of an optimizer is evaluated: its mean, state.theta; or, where the rule
-- says otherwise, what the rule makes of it: the average of pg.wrapper.ema and pg.wrapper.swa, x of the schedule-free
-- rules. pg.train's evaluations and pg.predict look there. The vector is written again by the next call. Running
-- statistics of batch norm belong to the parameters that the steps have seen: pg.nn.recalibrate makes those of this
-- point.
function State:point() return evaluation_point(self) end

-- The f64 accumulators of passes; made on first use.
function State:accumulate_into()
  self.accumulators = self.accumulators or self:zero_statistics("f64")
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
  for _, entry in ipairs(stages.tensors(self.stages)) do add(list, entry[1], entry[2]) end
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
    for _, field in ipairs(self.stats) do
      add(list, "pass.sum." .. field, self.accumulators[field])
    end
  end
  return list
end

-- All numbers, flat: name → number.
function State:numbers()
  local numbers = { step = self.step, samples = self.samples, segment = self.segment, period = self.period,
    corrected = self.corrected, order = self.order, batch_size = self.batch_size, pass_size = self.pass_size }
  if self.pass then
    numbers["pass.which"], numbers["pass.cursor"] = self.pass.which, self.pass.cursor
    numbers["pass.loss"] = self.pass.loss
  end
  if self.memory then
    self.memory:save_numbers("correction.", numbers)
  end
  self.cost:save(numbers)
  return numbers
end

-- What the numbers are of, as text: the names of the optimizer's parts, and the periods of its correction.
function State:parts()
  local opt = self.optimizer
  local c = opt.correction
  return {
    family = opt.family.name, rule = opt.rule.name, correction = c and c.name or "none",
    every = c and (written.encode(c.every) or "?") or "", start = c and (written.encode(c.start) or "?") or "",
  }
end

-- Take over what another run saved, whose optimizer may have had other parts: adopt.lua.
function State:adopt(saved, where) adopt(self, saved, where) end

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
  for _, name in ipairs { "step", "segment", "period", "corrected", "order", "batch_size", "pass_size" } do
    self[name] = numbers[name]
  end
  self.samples = numbers.samples or 0 -- older ones lack it
  self.pass = nil
  if numbers["pass.which"] then
    self.pass = { which = numbers["pass.which"], cursor = numbers["pass.cursor"], loss = numbers["pass.loss"] }
    self:accumulate_into()
    for which = 1, self.pass.which - 1 do
      self:result(which)
    end
  end
  if self.memory then self.memory:make_room("correction.", by_name, self.stats) end
  self.cost:load(numbers)
  for _, entry in ipairs(self:tensors()) do
    local from = by_name[entry[1]]
    if not from then
      core.raise(("the saved state has no tensor '%s'; it is of another optimizer"):format(entry[1]))
    end
    entry[2]:copy_from(from)
  end
  if self.memory then self.memory:load_numbers("correction.", numbers) end
  if self.cache then self.cache:settle() end
end

return state
