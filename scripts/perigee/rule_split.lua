-- rule_split.lua: different rules for different tensors. Each group of tensors is a vector of its own to its rule, so
-- slots are only as long as the group; the price is that parameters and statistics are copied apart and together again
-- in each step.

local core = require "perigee.core"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local part = require "perigee.part"
local rule_class = require "perigee.rule_class"
local slots = require "perigee.slots"
local statistics = require "perigee.statistics"
local tensors = require "perigee.tensors"

local split = {}

-- ---- which tensors belong to whom -----------------------------------------------------------------------------------

local function matches(match, entry)
  if match == nil then return true end
  if type(match) == "function" then return match(entry.name, entry.shape) end
  return entry.name:find(match) ~= nil
end

local function list_names(layout)
  local list = {}
  for i = 1, #layout do list[i] = layout[i].name end
  return table.concat(list, ", ")
end

-- The numbers of each group's tensors: those that match, and no group before it.
local function divide(groups, layout)
  local numbers = {}
  for k in ipairs(groups) do numbers[k] = {} end
  for i = 1, #layout do
    local owner
    for k, group in ipairs(groups) do
      if matches(group.match, layout[i]) then
        owner = numbers[k]
        break
      end
    end
    if not owner then
      core.raise(("pg.rule.split: no entry matches tensor '%s'; a last entry { rule } takes what is left"):format(
        layout[i].name))
    end
    owner[#owner + 1] = i
  end
  for k, group in ipairs(groups) do
    if #numbers[k] == 0 and not group.may_be_empty then
      core.raise(("pg.rule.split: entry %d (%s) matches none of the tensors left to it: the tensors are %s"):format(k,
        group.rule.name, list_names(layout)))
    end
  end
  return numbers
end

-- ---- the definition of the whole ------------------------------------------------------------------------------------

-- The options of a group among those of the whole, under the names that its rule has for them.
local function options_of(group, o)
  local own = {}
  for name in next, group.rule.hyper.given do own[name] = o[group.prefix .. name] end
  return own
end

local function with_prefix(groups, read)
  local all = {}
  for _, group in ipairs(groups) do
    for name, value in next, read(group.rule) do all[group.prefix .. name] = value end
  end
  return all
end

local function static_names(groups)
  local list = {}
  for _, group in ipairs(groups) do
    for _, name in ipairs(group.rule.definition.static) do list[#list + 1] = group.prefix .. name end
  end
  return list
end

local function needed_fields(groups)
  local list, seen = {}, {}
  for _, group in ipairs(groups) do
    local within = group.rule.definition
    if within.point then
      core.raise(("pg.rule.split: rule %s chooses where steps evaluate, which one for some tensors cannot"):format(
        within.name))
    end
    for _, field in ipairs(within.needs) do
      if field == "H" then
        core.raise(("pg.rule.split: rule %s reads q.H, which is of all tensors together"):format(within.name))
      end
      if not seen[field] then list[#list + 1], seen[field] = field, true end
    end
  end
  return list
end

-- The slots of all groups; one for a group that turns out to be empty is a single 0.
local function declare_slots(groups, o)
  local state = {}
  for k, group in ipairs(groups) do
    for _, slot in ipairs(group.rule:with(options_of(group, o)).slots) do
      state[group.prefix .. slot.name] = function(theta)
        local own = tensors.take(theta, divide(groups, theta.layout)[k])
        return own and slots.allocate(slot, own) or core.tensor(theta.dtype, {}, { 0 })
      end
    end
  end
  return state
end

-- ---- a step ---------------------------------------------------------------------------------------------------------

-- ctx as a group's rule sees it. take: what cuts a vector of all tensors down to the group's.
local function context_of(ctx, p, k, take)
  local info = part.merge(ctx.info or {}, {})
  if info.lr then info.lr = take(hyper.spread(info.lr, p)) end
  info.raw = take(info.raw)
  local key = ctx.key
  return setmetatable({
    info = info, weight_decay = take(ctx.weight_decay), snapshot = take(ctx.snapshot),
    key = key and core.apply("key_fold", nil, key, k),
    q = setmetatable({}, { __index = function(_, field) return take(ctx.q[field]) end }),
  }, { __index = ctx })
end

-- Cuts vectors of p's layout down to the tensors listed; other values are handed through.
local function taker(p, numbers)
  return function(x)
    if core.is_tensor(x) and x.layout and x.layout == p.layout then return tensors.take(x, numbers) end
    return x
  end
end

-- For each group that has tensors: visit(group, its rule, its slots, k, take) → its new vector; put together again.
local function for_groups(groups, p, s, o, visit)
  if not core.is_tensor(p) then core.raise("pg.rule.split works on vectors, whose tensors have names") end
  local parts = {}
  for k, numbers in ipairs(divide(groups, p.layout)) do
    local group = groups[k]
    if #numbers > 0 then
      local own, values = o[group.prefix .. "rule"], {}
      for _, name in ipairs(own.slot_names) do values[name] = s[group.prefix .. name] end
      local new = visit(group, own, values, k, taker(p, numbers))
      for j, i in ipairs(numbers) do parts[i] = tensors.view(new, j) end
    end
  end
  return tensors.pack(p.layout, parts)
end

local function update(groups, p, stats, s, o, ctx)
  return for_groups(groups, p, s, o, function(group, own, values, k, take)
    local mine = statistics.map(stats, take)
    local options = options_of(group, o)
    for name, value in next, options do options[name] = take(value) end
    local new, written = own:apply(take(p), mine, values, options, context_of(ctx, p, k, take))
    for _, name in ipairs(written) do s[group.prefix .. name] = values[name] end
    return new
  end)
end

local function evaluate(groups, p, s, o)
  return for_groups(groups, p, s, o, function(group, own, values, _, take)
    local f, options = own.definition.evaluate, part.merge(options_of(group, o), own.variant or {})
    return f and f(take(p), values, options) or take(p)
  end)
end

-- Whether all rules say which of their slots may be kept in 8 bits.
local function all_say(groups)
  for _, group in ipairs(groups) do
    if not rule_class.eight_bit(group.rule) then return false end
  end
  return true
end

-- Whether any group is evaluated elsewhere than at its parameters.
local function any_evaluates(groups)
  for _, group in ipairs(groups) do
    if group.rule.definition.evaluate then return true end
  end
  return false
end

-- The rule made of groups, { rule, prefix (of its options and slots), match (nil: all that is left), may_be_empty }.
function split.build(name, groups, given)
  return rule_class.build({
    name = name, needs = needed_fields(groups), scales_inside = true, reads_raw = true,
    eight_bit = all_say(groups) and with_prefix(groups, rule_class.eight_bit) or nil,
    hyper = with_prefix(groups, function(r) return r.hyper.given end),
    limits = with_prefix(groups, function(r) return r.definition.limits or {} end),
    static = static_names(groups),
    check = function(o)
      for _, group in ipairs(groups) do group.rule:with(options_of(group, o)) end
    end,
    variant = function(o)
      local rules = {}
      for _, group in ipairs(groups) do rules[group.prefix .. "rule"] = group.rule:with(options_of(group, o)) end
      return rules
    end,
    state = function(o) return declare_slots(groups, o) end,
    update = function(p, stats, s, o, ctx) return update(groups, p, stats, s, o, ctx) end,
    evaluate = any_evaluates(groups) and function(p, s, o) return evaluate(groups, p, s, o) end or nil,
    location = rule_class.locate(update),
  }, given)
end

-- ---- pg.rule.split --------------------------------------------------------------------------------------------------

local function read_entry(k, entry)
  local match, own
  if type(entry) == "table" and not rule_class.is(entry) then
    match, own = entry[1], entry[2]
    if own == nil and rule_class.is(match) then match, own = nil, match end
  end
  if not rule_class.is(own) or not (match == nil or type(match) == "string" or type(match) == "function") then
    core.raise(('pg.rule.split: entry %d is { match, rule }, as { "weight$", pg.rule.lion {} }, or { rule } for all '
      .. "that is left, not %s"):format(k, names.describe(entry)))
  end
  return { match = match, rule = own, prefix = (entry.name or k) .. "." }
end

--- pg.rule.split { { match, rule }, … } → rule: Different rules for different tensors: each goes by the first entry
-- that matches it.
--   match: a pattern of Lua that the tensor's name contains, as "bias$", or a function(name, shape) → boolean. An entry
--     { rule } takes all that is left.
--   { match, rule, name = "head" }: what the entry's options and slots are called by, in place of its number: head.lr.
-- A tensor without an entry, and an entry without a tensor, are errors. Weight decay is as each rule has it, a schedule
-- each rule's own; keyed noise differs from entry to entry. Slots are as long as an entry's tensors. In each step the
-- parameters and statistics are copied apart, and the parameters together again.
function split.split(entries)
  local groups, list = {}, {}
  if type(entries) ~= "table" or #entries == 0 then
    core.raise('pg.rule.split: a list of entries, as { { "weight$", pg.rule.lion {} }, { pg.rule.sgd {} } }, was '
      .. ("expected, not %s"):format(names.describe(entries)))
  end
  for k, entry in ipairs(entries) do
    groups[k] = read_entry(k, entry)
    list[k] = groups[k].rule.name
  end
  return split.build(("split(%s)"):format(table.concat(list, ", ")), groups, {})
end


return split
