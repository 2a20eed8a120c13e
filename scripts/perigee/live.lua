-- live.lua: a run that stands still as values to look at: its state as copies, so that looking cannot disturb it, and
-- its optimizer as a table whose fields read as the hyperparameters and take assignments, each of which becomes a
-- recorded change (changes.lua).

local checkpoint = require "perigee.checkpoint"
local controls = require "perigee.controls"
local core = require "perigee.core"
local names = require "perigee.names"
local posterior = require "perigee.posterior"
local text_table = require "perigee.table"
local written = require "perigee.written"

local live = {}

-- A value of the run as somebody who looks may have it: tensors and plain tables copied, and state that saves itself by
-- its parts { tensors, numbers }.
function live.copy(value)
  if core.is_tensor(value) then return value:copy() end
  if type(value) ~= "table" then return value end
  local out = {}
  if posterior.is(value) then
    for _, field in ipairs(value.fields) do out[field] = value[field]:copy() end
    return posterior.new(value.fields, out)
  elseif checkpoint.is_saving(value) then
    for _, entry in ipairs(value:tensors()) do out[entry[1]] = entry[2]:copy() end
    return { tensors = out, numbers = value:numbers() }
  elseif getmetatable(value) ~= nil then
    return value
  end
  for key, inner in next, value do out[key] = live.copy(inner) end
  return out
end

-- A table that shows `values` and answers assignments with the error refuse(key). text: what print shows.
function live.sealed(values, refuse, text)
  return setmetatable({}, {
    __index = values, __newindex = function(_, key) error(refuse(key), 2) end,
    __pairs = function() return next, values, nil end, __tostring = function() return text end,
    __name = "perigee.live",
  })
end

-- ---- what may be changed --------------------------------------------------------------------------------------------

local View = {}
View.__index = View

-- A view on what may be changed of a run, for changes that hold from `step` on.
function live.view(changes, step)
  return setmetatable({ changes = changes, known = controls.new(changes.of), step = step }, View)
end

local function starts_with(text, prefix) return text:sub(1, #prefix) == prefix end

function View:has_below(prefix)
  for _, control in ipairs(self.known.list) do
    if starts_with(control.name, prefix) then return true end
  end
  return false
end

-- What stands below a prefix: key → value or table, for pairs and completion.
function View:values_below(prefix)
  local values = {}
  for _, control in ipairs(self.known.list) do
    local key = starts_with(control.name, prefix) and control.name:sub(#prefix + 1):match("^[^.]+")
    if key and values[key] == nil then
      local leaf = self.known.by_name[prefix .. key]
      values[key] = leaf and self.changes:current(leaf, self.step) or self:proxy(prefix .. key .. ".")
    end
  end
  return values
end

-- Change something, and say so; a mistake is an error where it was typed.
function View:change(name, value)
  local from, to = self.changes:add(name, value, self.step)
  if not from then error(to, 3) end
  if from == to then
    io.write(("%s stays %s\n"):format(name, to))
  else
    io.write(("%s: %s → %s from step %d on; recorded\n"):format(name, from, to, self.step))
  end
end

-- The hyperparameters whose names begin with `prefix`, as a table that takes assignments; print lists them.
function View:proxy(prefix)
  return setmetatable({}, {
    __index = function(_, key)
      local name = prefix .. tostring(key)
      local control = self.known.by_name[name]
      if control then return (self.changes:current(control, self.step)) end
      if self:has_below(name .. ".") then return self:proxy(name .. ".") end
      error(select(2, self.known:find(name)), 2)
    end,
    __newindex = function(_, key, value) self:change(prefix .. tostring(key), value) end,
    __pairs = function() return next, self:values_below(prefix), nil end,
    __names = function() return names.sorted(self:values_below(prefix)) end,
    __tostring = function() return self:listing(prefix) end,
    __name = "perigee.live",
  })
end

-- A copy of a table of the run's state, with what was changed and holds from the next step on.
function View:copy_state(prefix, tree)
  local out = live.copy(tree)
  for key, value in next, out do
    local name = prefix .. tostring(key)
    local control = self.known.by_name[name]
    if control and not control.fixed then
      out[key] = self.changes:current(control, self.step)
    elseif type(value) == "table" and getmetatable(value) == nil and getmetatable(tree[key]) == nil then
      out[key] = self:copy_state(name .. ".", tree[key])
    end
  end
  return out
end

-- A table of the run's state, whose values are named prefix .. key: reads as a copy would; assignments to its plain
-- values become changes, others are refused.
function View:state_proxy(prefix, tree)
  return setmetatable({}, {
    __index = function(_, key)
      local name, value = prefix .. tostring(key), tree[key]
      local control = self.known.by_name[name]
      if control and not control.fixed then return (self.changes:current(control, self.step)) end
      if type(value) == "table" and getmetatable(value) == nil then return self:state_proxy(name .. ".", value) end
      return live.copy(value)
    end,
    __newindex = function(_, key, value) self:change(prefix .. tostring(key), value) end,
    __pairs = function() return next, self:copy_state(prefix, tree), nil end,
    __names = function() return names.sorted(tree) end,
    __tostring = function() return require("perigee.pretty").format(self:copy_state(prefix, tree)) end,
    __len = function() return #tree end,
  })
end

function View:row(control)
  local value, change = self.changes:current(control, self.step)
  local is_plain = type(value) ~= "table" and type(value) ~= "function"
  local given = is_plain and "" or written.encode(value) or names.describe(value)
  local note = change and ("by hand from step %d, was %s"):format(change.step, change.from) or ""
  if control.fixed then note = "fixed" end
  return { control.name, controls.at_step(control, value, self.step), given, note }
end

-- What may be changed below a prefix, as a table for people: name, value at the step, schedule, where it came from.
function View:listing(prefix)
  local rows = {}
  for _, control in ipairs(self.known.list) do
    if starts_with(control.name, prefix) then rows[#rows + 1] = self:row(control) end
  end
  return (text_table.format({ "name", ("at step %d"):format(self.step), "given as", "note" }, rows):gsub("\n$", ""))
end

return live
