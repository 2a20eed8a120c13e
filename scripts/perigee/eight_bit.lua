-- eight_bit.lua: pg.wrapper.eight_bit: a rule whose state slots are kept in 8 bits (Dettmers et al. 2022, arXiv
-- 2110.02861). The rule is the one inside, with the same options; only where its slots lie differs: a slot `m` becomes
-- `m.codes` and `m.absmax`. Reading it decodes and writing it encodes, in the kernels of the update, so the numbers of
-- 32 bits exist a block at a time.

local branchcheck = require "perigee.branchcheck"
local coded = require "perigee.coded"
local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local part = require "perigee.part"
local per_tensor = require "perigee.per_tensor"
local rule_class = require "perigee.rule_class"
local slots = require "perigee.slots"
local tensors = require "perigee.tensors"
local vectors = require "perigee.vectors"

local CODES, ABSMAX = ".codes", ".absmax"

-- Options of the wrapper itself; all others are the rule's.
local DEFAULTS = { block = 256, min_size = 4096, map = "dynamic", keep_sign = true, decay_after = false,
  skip_nonfinite = "auto" }
local OWN = { "rule", "slots", "exact", table.unpack(names.sorted(DEFAULTS)) }

-- ---- options --------------------------------------------------------------------------------------------------------

local function complain(format, ...) core.raise("wrapper eight_bit: " .. format:format(...)) end

-- Which slots are kept in 8 bits, by name → whether they have a sign: those of the option, or as the rule says.
local function read_slots(given, rule)
  if given ~= nil then return slots.signs("wrapper eight_bit: slots", given) end
  local known = rule_class.eight_bit(rule)
  if known then return known end
  local first = rule.slot_names[1]
  complain("rule %s does not say which of its slots may be kept in 8 bits; name them, as slots = { \"%s\" }, or "
    .. 'slots = { %s = "unsigned" } for one that is never negative', rule.name, first, first)
end

-- Raise for slots that were named and cannot be meant.
local function check_slots(signed, rule)
  local inits = {}
  for _, slot in ipairs(rule.slots) do inits[slot.name] = slot.init end
  for _, name in ipairs(names.sorted(signed)) do
    if inits[name] == nil then
      core.raise(names.unknown("slot", name, "rule " .. rule.name, rule.slot_names))
    elseif name == rule.definition.snapshot then
      complain("slot %s is what snapshots are taken of, and stays as it is", name)
    elseif per_tensor.is(inits[name]) or vectors.is_scalar(inits[name]) then
      complain("slot %s is no vector", name)
    end
  end
end

-- Whether a tensor keeps states of 32 bits.
local function is_exact(self, entry)
  local exact = self.exact
  if entry.size < self.min_size or entry.name:find(coded.STABLE .. "$") then return true end
  if type(exact) == "function" then return exact(entry.name, entry.shape) end
  return exact ~= nil and entry.name:find(exact) ~= nil
end

local function read_options(given)
  local self, options = part.merge(DEFAULTS, {}), {}
  for key, value in next, given do
    if names.includes(OWN, key) then self[key] = value else options[key] = value end
  end
  local rule = self.rule
  if not rule_class.is(rule) then
    complain("it stands around a rule, as { rule = pg.rule.adamw {} }, not %s", names.describe(rule))
  end
  for _, key in ipairs(OWN) do
    if rule.hyper.given[key] ~= nil then complain("both it and rule %s have option '%s'", rule.name, key) end
  end
  self.block = coded.check("wrapper eight_bit", self)
  if type(self.min_size) ~= "number" or self.min_size < 0 then
    complain("min_size is a number of at least 0, not %s", names.describe(self.min_size))
  elseif self.exact ~= nil and type(self.exact) ~= "string" and type(self.exact) ~= "function" then
    complain("exact is a pattern of names or a function of name and shape, not %s", names.describe(self.exact))
  end
  for _, key in ipairs { "keep_sign", "decay_after", "skip_nonfinite" } do
    local value = self[key]
    if type(value) ~= "boolean" and not (key == "skip_nonfinite" and value == "auto") then
      complain("%s is true or false, not %s", key, names.describe(value))
    end
  end
  self.signed = read_slots(self.slots, rule)
  if self.slots then check_slots(self.signed, rule) end
  return self, options
end

-- ---- where a slot lies ----------------------------------------------------------------------------------------------

local function kind_of(self, name)
  return coded.kind { signed = self.signed[name], map = self.map, keep_sign = self.keep_sign }
end

-- The layout of those of a layout's tensors that have codes.
local function coded_layout(self, layout)
  local entries = {}
  for i = 1, #layout do
    local entry = layout[i]
    if not is_exact(self, entry) then entries[#entries + 1] = { entry.name, entry.shape } end
  end
  return core.layout(entries)
end

-- The layout of a slot beside parameters of layout and dtype; nil for one that is no vector of tensors.
local function layout_of(slot, layout, dtype)
  if type(slot.init) == "number" then return layout end
  return slots.allocate(slot, core.vector(layout, dtype)).layout
end

-- Codes and absmax of what a slot begins with.
local function begin(self, slot, theta, layout)
  return coded.encode(slots.allocate(slot, theta), coded_layout(self, layout), self.block, kind_of(self, slot.name))
end

-- One of them each; those of zeros, as most slots begin with, without making any.
local function begin_codes(self, slot, theta)
  local layout = layout_of(slot, theta.layout, theta.dtype)
  if not layout then return core.tensor("u8", { 0 }) end
  if slot.init ~= 0 then return (begin(self, slot, theta, layout)) end
  return core.apply("full", { layout = coded_layout(self, layout), dtype = "u8" },
    coded.zero(kind_of(self, slot.name)))
end

local function begin_absmax(self, slot, theta)
  local layout = layout_of(slot, theta.layout, theta.dtype)
  if not layout then return slots.allocate(slot, theta) end
  if slot.init ~= 0 then return (select(2, begin(self, slot, theta, layout))) end
  return core.tensor(theta.dtype, { coded.count_scales(layout, coded_layout(self, layout), self.block) })
end

-- The rule inside with those of the options `o` that are its own.
local function rule_with(self, o)
  local own = {}
  for name in next, self.rule.hyper.given do own[name] = o[name] end
  return self.rule:with(own)
end

-- The slots of the rule inside, each where it lies.
local function declare(self, o)
  local rule, state = rule_with(self, o), {}
  for _, slot in ipairs(rule.slots) do
    if self.signed[slot.name] == nil then
      state[slot.name] = slot.init
    else
      state[slot.name .. CODES] = function(theta)
        branchcheck.check(rule)
        return begin_codes(self, slot, theta)
      end
      state[slot.name .. ABSMAX] = function(theta) return begin_absmax(self, slot, theta) end
    end
  end
  return state
end

-- ---- a step ---------------------------------------------------------------------------------------------------------

-- The part of a mask that belongs to a slot which is a vector of some of the parameters' tensors; nil for another.
local function mask_of(mask, layout)
  if layout == mask.layout then return mask end
  local parts = {}
  for i = 1, #layout do
    local at = mask.layout:find(layout[i].name)
    if not at then return nil end
    parts[i] = tensors.view(mask, at)
  end
  return tensors.pack(layout, parts)
end

-- Slots while functions of the rule look at them: s, where they lie; `now`, values of 32 bits by name, as far as they
-- were asked for; `written`, names in order.
local Open = {}
Open.__index = Open

local function open(self, rule, p, s)
  local opened = setmetatable({ self = self, p = p, s = s, slots = {}, layouts = {}, now = {}, written = {} }, Open)
  for _, slot in ipairs(rule.slots) do
    if self.signed[slot.name] ~= nil then opened.slots[slot.name] = slot end
  end
  return opened
end

-- The layout of a slot; false for one that is no vector.
function Open:layout(name)
  if self.layouts[name] == nil then
    self.layouts[name] = layout_of(self.slots[name], self.p.layout, self.p.dtype) or false
  end
  return self.layouts[name]
end

function Open:read(name)
  if not self.slots[name] then return self.s[name] end
  if self.now[name] == nil then
    local wrapper, absmax, layout = self.self, self.s[name .. ABSMAX], self:layout(name)
    self.now[name] = layout and coded.decode(self.s[name .. CODES], absmax, layout, wrapper.block,
      kind_of(wrapper, name)) or absmax
  end
  return self.now[name]
end

function Open:write(name, value)
  if not self.slots[name] then
    self.s[name] = value
    return
  end
  if not names.includes(self.written, name) then self.written[#self.written + 1] = name end
  self.now[name] = value
end

-- The slots as the rule sees them.
function Open:view()
  return setmetatable({}, {
    __index = function(_, name) return self:read(name) end,
    __newindex = function(_, name, value) self:write(name, value) end,
  })
end

-- Encode what was written. finite: a mask like p; elements where it does not hold become 0. nil: none do.
function Open:close(finite)
  local wrapper, s = self.self, self.s
  for _, name in ipairs(self.written) do
    local layout, value = self:layout(name), self.now[name]
    local mask = finite and layout and mask_of(finite, layout)
    if mask then value = generic.where(mask, value, 0) end
    if layout then
      if type(value) == "number" or value.weak then
        value = core.apply("full", { layout = layout, dtype = self.p.dtype }, value)
      end
      s[name .. CODES], s[name .. ABSMAX] = coded.encode(value, coded_layout(wrapper, layout), wrapper.block,
        kind_of(wrapper, name))
    else
      s[name .. ABSMAX] = value
    end
  end
end

-- Whether elements whose gradient is not finite are left out.
local function skips(self, rule)
  if self.skip_nonfinite ~= "auto" then return self.skip_nonfinite end
  local count = 0
  for _, name in ipairs(rule.slot_names) do count = count + (self.signed[name] ~= nil and 1 or 0) end
  return count >= 2
end

local RULE = "eight_bit.rule" -- in o: the rule inside, with the options of this use

local function update(self, p, stats, s, o, ctx)
  local rule, seen = o[RULE], ctx
  local opened = open(self, rule, p, s)
  if self.decay_after then seen = setmetatable({ weight_decay = 0 }, { __index = ctx }) end
  local new = rule.definition.update(p, stats, opened:view(), o, seen)
  if new == nil then return nil end
  if self.decay_after then new = new * (1 - o.lr * ctx.weight_decay) end
  if not skips(self, rule) then
    opened:close()
    return new
  end
  local finite = generic.isfinite(stats.g)
  opened:close(finite)
  return generic.where(finite, new, p)
end

-- A function of the rule's definition that looks at slots, for slots that lie elsewhere.
local function through(self, f)
  return f and function(p, s, o, ctx) return f(p, open(self, self.rule, p, s):view(), o, ctx) end
end

-- pg.wrapper.eight_bit, which wrapper.lua documents.
return function(given)
  local self, options = read_options(part.merge({}, given or {}))
  local within = self.rule.definition
  return rule_class.build(part.merge(within, {
    name = ("eight_bit(%s)"):format(self.rule.name), checked = {}, hyper = self.rule.hyper.given, eight_bit = {},
    variant = function(o)
      local rule = rule_with(self, o)
      return part.merge(rule.variant or {}, { [RULE] = rule })
    end,
    state = function(o) return declare(self, o) end,
    point = through(self, within.point), evaluate = through(self, within.evaluate),
    update = function(p, stats, s, o, ctx) return update(self, p, stats, s, o, ctx) end,
  }), options)
end
