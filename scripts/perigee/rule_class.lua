-- rule_class.lua: what a rule is: its definition, its state and the standalone use (rule:init, rule:step) that needs
-- no model. A rule moves the mean: a Lua function over vectors, traced once into one fused program. The ready-made
-- rules are in rule.lua.

local core = require "perigee.core"
local branchcheck = require "perigee.branchcheck"
local builder = require "perigee.builder"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"
local per_tensor = require "perigee.per_tensor"
local slots = require "perigee.slots"
local statistics = require "perigee.statistics"

local rule = {}

local getinfo = debug.getinfo -- recipes have no debug library

local Rule = part.class "rule"

local DEFINITION = { "name", "state", "hyper", "static", "limits", "check", "update", "needs", "variant",
  "evaluate", "reads_raw", "eight_bit" }
local PRIVATE = {} -- key of a state table under which a standalone state keeps its programs

local function instantiate(definition, given)
  local owner = "rule " .. definition.name
  local h = hyper.resolve(owner, definition.hyper, given, definition.static, nil, definition.limits)
  local self = setmetatable({ name = definition.name, definition = definition, hyper = h, given = given }, Rule)
  function self.make(options)
    return instantiate(definition, options)
  end
  if definition.check then definition.check(h.given) end
  if definition.variant then
    self.variant = definition.variant(h.given)
  end
  local state = definition.state
  if type(state) == "function" then
    state = state(h.given)
  end
  self.slots = slots.declare(state)
  self.slot_names = {}
  for i, slot in ipairs(self.slots) do
    self.slot_names[i] = slot.name
    if per_tensor.is(slot.init) then
      self.per_tensor = self.per_tensor or {} -- the set of slots with one value per tensor
      self.per_tensor[slot.name] = true
    end
  end
  return self
end

-- The file and line of a function, for messages.
function rule.locate(f)
  local info = getinfo(f, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- The rule of a checked definition with a location. It may have two fields that wrappers add: point(p, s, o, ctx),
-- where corrected steps evaluate, and snapshot, the slot that snapshots are taken of; scales_inside, which says that
-- its update multiplies learning rates by info.lr; and reads_raw, that it makes use of info.raw.
function rule.build(definition, given)
  local full = part.merge({ state = {}, hyper = {}, static = {}, needs = {}, checked = {} }, definition)
  return instantiate(full, given)
end

--- pg.rule.define { name =, update =, state = {}, hyper = {}, static = {}, limits = {}, needs = {}, variant =,
-- evaluate =, reads_raw = false, eight_bit = } → rule: A rule of one's own: how the mean moves, from the statistics of
-- a step.
--   name: for messages.
--   update(p, stats, s, o, ctx) → new p: traced; arithmetic on whole vectors. stats.g (and h); s: the slots, written by
--     s.m = e; o: hyperparameters and what variant(o) returns; ctx: t (step + 1), key, q, info (of the correction),
--     weight_decay.
--   state: slots, as { "m" } (vectors of zeros), { m = 0, d = pg.per_tensor(0), n = pg.scalar(0) }, or a function of
--     the hyperparameters that returns one of these.
--   hyper: names and defaults. Numbers are run-time scalars, for which a schedule may be given; booleans, strings and
--     the names listed in `static` are fixed when the rule is traced.
--   limits: intervals for numbers given as options, as { lr = "[0, inf)", beta1 = "[0, 1)" }. check(o): raises an error
--     for options that do not fit together.
--   needs: fields of q that update reads beyond the mean, as {"h"}.
--   variant(o): further statics, from the options. reads_raw = true: update makes use of ctx.info.raw where it is not
--     nil, the gradient before a correction that asks for its squares (pg.correction.mars, second = "raw").
--   evaluate(p, s, o) → vector: traced; where a run is evaluated, in place of the mean: state:point().
--   eight_bit: slots that pg.wrapper.eight_bit keeps in 8 bits, as { "m", v = "unsigned" }: those never negative are
--     "unsigned".
-- A branch on a number inside update would be taken once and for all; the rule is run on plain numbers beforehand, and
-- one that was swallowed is an error (use pg.where). The result is the rule with its defaults; call it with options for
-- others: signum { lr = 0.1 }.
function rule.define(definition)
  names.check("pg.rule.define", definition, DEFINITION)
  if type(definition.name) ~= "string" or type(definition.update) ~= "function" then
    core.raise("pg.rule.define needs a name and an update function")
  end
  hyper.check_limits("pg.rule.define", definition)
  local located = part.merge(definition, { location = rule.locate(definition.update) })
  if located.eight_bit then located.eight_bit = slots.signs("pg.rule.define: eight_bit", located.eight_bit) end
  local self = part.defined(function(given) return rule.build(located, given) end, definition.hyper or {},
    hyper.required)
  if rule.is(self) and not located.location:find("perigee]rule", 1, true) then
    branchcheck.check(self) -- the ready-made rules are checked when first used, as those with options without a default
  end
  return self
end

-- The rest depends on the step, or on what stands around it.
local CTX_MAY_LACK = { t = true, key = true, q = true, info = true, weight_decay = true, corrected = true, first = true,
  refreshed = true, last = true, snapshot = true }
local guarded = setmetatable({}, { __mode = "k" })

-- Let reading a hyperparameter, or a field of ctx, that is not there be an error inside update.
local function guard_arguments(self, o, ctx)
  if not getmetatable(o) then names.guard(o, "o of rule " .. self.name, { prefix = "o." }) end
  if not guarded[ctx] then
    guarded[ctx] = true
    names.guard(ctx, "ctx of rule " .. self.name, { prefix = "ctx.", lacks = CTX_MAY_LACK })
  end
end

-- The learning rate times info.lr, which a correction may hand on; it may have a value for each tensor.
local function scale_rate(self, o, p, factor)
  if o.lr == nil then
    core.raise(("rule %s has no lr for the correction's step size to multiply"):format(self.name))
  end
  o.lr = o.lr * hyper.spread(factor, p)
end

-- info.raw is the gradient before a correction whose squares second moments are made of; a rule that took no notice of
-- it would be another method than was asked for.
local function check_raw(self, info)
  if info and info.raw and not self.definition.reads_raw then
    core.raise(("the correction hands the gradient as it was to the rule, for its squares, and rule %s makes no use of "
      .. "it; pg.rule.adam and pg.rule.adamw do"):format(self.name))
  end
end

-- Call update on traced, eager or plain values. values: slot name → value, written in place. Returns the new mean and
-- the names of the slots written.
function Rule:apply(p, stats, values, o, ctx)
  if self.variant then
    for k, v in pairs(self.variant) do
      o[k] = v
    end
  end
  if ctx.info and ctx.info.lr and not self.definition.scales_inside then
    scale_rate(self, o, p, ctx.info.lr)
  end
  check_raw(self, ctx.info)
  guard_arguments(self, o, ctx)
  local layout = self.per_tensor and core.is_tensor(p) and p.layout or nil
  local view, written = slots.view("rule " .. self.name, values, self.slot_names, nil, layout, self.per_tensor)
  local new = self.definition.update(p, stats, view, o, ctx)
  if new == nil then
    core.raise(("update of rule %s (%s) returned nothing; it returns the new parameters"):format(self.name,
      self.definition.location))
  end
  return new, written
end

-- Memory for the slots: name → tensor.
function Rule:allocate(theta)
  branchcheck.check(self)
  local state = {}
  for _, slot in ipairs(self.slots) do
    state[slot.name] = slots.allocate(slot, theta)
  end
  return state
end

--- rule:init(theta [, o]) → state: Standalone use, without an optimizer: the state for parameters theta, a vector. o:
-- hyperparameters that differ from the rule's own, and weight_decay (default 0).
function Rule:init(theta, o)
  local given, decay = {}, 0
  for k, v in pairs(o or {}) do
    if k == "weight_decay" then
      decay = v
    else
      given[k] = v
    end
  end
  local self_with = next(given) and self:with(given) or self
  local state = self_with:allocate(theta)
  state[PRIVATE] = { rule = self_with, decay = decay, programs = {}, numbers = {} }
  return state
end

-- Build the program of one standalone step; `extra` as in Rule:step.
local function build(private, theta, stats, state, extra)
  local self = private.rule
  return builder.trace("an update by rule " .. self.name, function(b)
    local numbers = private.numbers
    local function scalar(values, name)
      return b:scalar(values, name)
    end
    local p = b:slot(theta, "theta")
    local traced = {}
    for _, field in ipairs(statistics.fields(stats)) do
      traced[field] = b:input(field, stats[field])
    end
    local q = { mean = p }
    for _, k in ipairs(names.sorted(extra.q or {})) do
      local v = extra.q[k]
      if k ~= "mean" then
        q[k] = type(v) == "number" and b:scalar(numbers, "q." .. k) or b:input("q." .. k, v)
      end
    end
    local decay = private.decay
    local ctx = {
      t = b:scalar(numbers, "t"), q = q, info = extra.info or {},
      weight_decay = type(decay) == "number" and b:scalar(numbers, "decay") or hyper.spread(decay, p),
      key = extra.key and b:input("key", extra.key),
    }
    local values = {}
    for _, name in ipairs(self.slot_names) do
      values[name] = b:slot(state[name], name)
    end
    local new, written = self:apply(p, statistics.new(traced), values, self.hyper:traced(scalar, p), ctx)
    b:output(new, theta)
    for _, name in ipairs(written) do
      b:output(values[name], state[name])
    end
  end)
end

--- rule:step(theta, stats, state, step [, { q =, key =, info = }]) → theta, state: Standalone use: apply one update, in
-- place. stats: { g = vector, … }; step counts from 0; q = { h =, h0 =, … }, key and info for rules that read them.
function Rule:step(theta, stats, state, step, extra) -- luacheck: ignore self
  extra = extra or {}
  local private = state[PRIVATE]
  stats = statistics.new(stats)
  local signature = table.concat(statistics.fields(stats), ",")
  -- programs move the parameters they were made with
  if not rawequal(private.theta, theta) then private.programs, private.theta = {}, theta end
  local program = private.programs[signature]
  private.rule.hyper:evaluate(step)
  private.numbers.t = step + 1
  private.numbers.decay = type(private.decay) == "number" and private.decay or 0
  for k, v in pairs(extra.q or {}) do
    if type(v) == "number" then
      private.numbers["q." .. k] = v
    end
  end
  if not program then
    program = build(private, theta, stats, state, extra)
    private.programs[signature] = program
  end
  for _, field in ipairs(statistics.fields(stats)) do
    program:bind(field, stats[field])
  end
  for k, v in pairs(extra.q or {}) do
    if type(v) ~= "number" and k ~= "mean" then
      program:bind("q." .. k, v)
    end
  end
  if extra.key then
    program:bind("key", extra.key)
  end
  program:run()
  return theta, state
end

-- Which slots of a rule may be kept in 8 bits, name → whether it has a sign; nil where nobody has said.
function rule.eight_bit(self)
  return self.definition.eight_bit or #self.slot_names == 0 and {} or nil
end

--- pg.rule.is(x): Whether x is a rule.
function rule.is(x)
  return getmetatable(x) == Rule
end

return rule
