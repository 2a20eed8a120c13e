-- slots.lua: state slots as user code sees them: `s.x` reads, `s.x = e` writes. In a trace a write is recorded and
-- becomes an output into the slot's memory; later reads see the new value. Declarations: { "m" } or { m = 0, d =
-- pg.per_tensor(0), n = pg.scalar(0) }.

local names = require "perigee.names"
local per_tensor = require "perigee.per_tensor"
local vectors = require "perigee.vectors"
local core = require "perigee.core"

local slots = {}

-- Turn a declaration into an ordered list of { name =, init = }. A list keeps its order, named slots are sorted.
function slots.declare(declaration)
  local list, seen = {}, {}
  for _, name in ipairs(declaration) do
    list[#list + 1], seen[name] = { name = name, init = 0 }, true
  end
  local named = {}
  for k, init in pairs(declaration) do
    if type(k) == "string" and not seen[k] then
      named[k] = init
    end
  end
  for _, name in ipairs(names.sorted(named)) do
    list[#list + 1] = { name = name, init = named[name] }
  end
  return list
end

local SIGNS = { signed = true, unsigned = false }

-- Which slots may be kept in 8 bits, { "m", v = "unsigned" } → name → whether it has a sign. owner: for messages.
function slots.signs(owner, given)
  if type(given) ~= "table" then
    core.raise(('%s are slots, as { "m", v = "unsigned" }, not %s'):format(owner, names.describe(given)))
  end
  local signed = {}
  for key, value in next, given do
    local name, sign = key, value
    if math.type(key) == "integer" then name, sign = value, "signed" end
    if type(name) ~= "string" or SIGNS[sign] == nil then
      core.raise(('%s: slot %s is "signed" or "unsigned", not %s'):format(owner, tostring(name),
        names.describe(sign)))
    end
    signed[name] = SIGNS[sign]
  end
  return signed
end

-- Fresh memory for one declared slot beside the vector theta.
function slots.allocate(slot, theta)
  if per_tensor.is(slot.init) then
    return slot.init:resolve(theta.layout, theta.dtype):copy()
  elseif vectors.is_scalar(slot.init) then
    return core.tensor(theta.dtype, {}, { slot.init.value })
  elseif type(slot.init) == "number" then
    return slot.init == 0 and vectors.zeros_like(theta) or vectors.clone(vectors.full_like(theta, slot.init))
  elseif type(slot.init) == "function" then
    return vectors.clone(slot.init(theta))
  end
  core.raise(("state slot '%s': expected a number, pg.per_tensor, pg.scalar or a function of theta"):format(slot.name))
end

-- A view on `values` (name → value) for user code. known: list of names that may be written. fallback(name): what a
-- read of any other name gives. layout: given where some slots hold one value per tensor of it; they read as
-- per-tensor values, which arithmetic spreads over vectors. spread: the set of those slots, where others have one axis
-- too. Returns the view and the list of written names, in the
-- order of first writes, which fills as code runs.
function slots.view(owner, values, known, fallback, layout, spread)
  local may_write, written, is_written = {}, {}, {}
  for _, name in ipairs(known) do
    may_write[name] = true
  end
  local view = setmetatable({}, {
    __index = function(_, name)
      local v = values[name]
      if v == nil and fallback then
        v = fallback(name)
      end
      if v == nil and not may_write[name] and type(name) == "string" then
        core.raise(names.unknown("slot", name, owner, known))
      end
      local may_spread = layout and (not spread or spread[name])
      if may_spread and core.is_tensor(v) and v.layout == nil and v.ndim == 1 then
        return per_tensor.of(v, layout)
      end
      return v
    end,
    __newindex = function(_, name, value)
      if not may_write[name] then
        core.raise(names.unknown("slot", name, owner, known))
      elseif value == nil then
        core.raise(("slot '%s' of %s cannot be set to nil"):format(name, owner))
      elseif per_tensor.is(value) and layout then
        value = value:resolve(layout, values[name].dtype)
      end
      values[name] = value
      if not is_written[name] then
        is_written[name] = true
        written[#written + 1] = name
      end
    end,
  })
  return view, written
end

return slots
