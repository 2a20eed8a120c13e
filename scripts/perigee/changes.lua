-- changes.lua: what a person changed by hand while a run went on, and at which step. Owns RUN/changes.jsonl, one change
-- a line, written whole before the run goes on; and the application of each change at the beginning of its step, the
-- first time and again when the run is resumed from before it. Values are kept as Lua text (written.lua).
--
-- A change in the record: { step, name = "rule.lr", from = text, to = text }; to = "recipe" is back to what the recipe
-- says. A checkpoint remembers how many changes came before it.

local controls = require "perigee.controls"
local data = require("perigee.core").data
local journal = require "perigee.journal"
local written = require "perigee.written"

local changes = {}

local Changes = {}
Changes.__index = Changes

local RECIPE = "recipe"

local function text_of(value) return written.encode(value) or "a function of the recipe" end

local function check_record(record, path, line)
  if math.type(record.step) ~= "integer" or type(record.name) ~= "string" or type(record.to) ~= "string" then
    error(("%s: line %d is not a change (step, name and to were expected)"):format(path, line), 0)
  end
end

-- The changes of a run. path: of its changes.jsonl, or nil to keep them in memory. of: as in controls.new. The object
-- is to be closed, which gives a shared optimizer back as the recipe made it.
function changes.open(path, of)
  local list = {}
  if path and data.exists(path) then
    local records, message = journal.read(path)
    if not records then error(message, 0) end
    for i, record in ipairs(records) do
      check_record(record, path, i)
      list[i] = record
    end
  end
  local self = setmetatable({ path = path, of = of, list = list, applied = 0, originals = {} }, Changes)
  self:look_ahead()
  return self
end

-- due: the step at which the next change is to be applied.
function Changes:look_ahead()
  local next_one = self.list[self.applied + 1]
  self.due = next_one and next_one.step or math.huge
end

-- Begin with what a person changed in the run that this one goes on from: `records`, all before its first step. The
-- latest word counts: where the recipe now says otherwise than it did there, and where there is no such thing any more,
-- a change is left out.
function Changes:inherit(records)
  local known, stays = controls.new(self.of), {}
  for _, change in ipairs(records) do
    local name = change.name
    if stays[name] == nil then
      local control = known:find(name)
      stays[name] = control ~= nil and (control.kept or not control.fixed and text_of(control.get()) == change.from)
    end
    if stays[name] then self.list[#self.list + 1] = change end
  end
  self.is_unwritten = #self.list > 0
  self:write()
end

function Changes:fail(index, message)
  error(("%s: line %d: %s"):format(self.path or "changes by hand", index, message), 0)
end

function Changes:set(index, known)
  local change = self.list[index]
  local control, message = known:find(change.name)
  if not control then self:fail(index, message) end
  if not control.kept and self.originals[change.name] == nil then self.originals[change.name] = control.get() end
  local value, why = self.originals[change.name], nil
  if change.to ~= RECIPE then value, why = written.decode(change.to) end
  if value == nil then self:fail(index, why) end
  control.set(value)
  return control
end

-- Bring the hyperparameters to where they stood at a checkpoint that `count` changes came before. What the checkpoint
-- itself holds is left alone.
function Changes:restore(count)
  if count > #self.list then
    error(("%s: holds %d changes, the checkpoint knows %d"):format(self.path, #self.list, count), 0)
  end
  local known = controls.new(self.of)
  for i = 1, count do
    local control = known:find(self.list[i].name)
    if not (control and control.kept) then self:set(i, known) end
  end
  self.applied = count
  self:look_ahead()
end

-- Apply what is due at the beginning of `step`. append(record) logs each.
function Changes:apply(step, append)
  while self.due <= step do
    local index = self.applied + 1
    local change, control = self.list[index], self:set(index, controls.new(self.of))
    if control.settle then control.settle() end
    append { step = step, change = change.name, from = change.from, to = change.to }
    self.applied = index
    self:look_ahead()
  end
end

-- The value that `name` will have from `step` on, and whether a person changed it: control, value, the last change.
function Changes:current(control, step)
  local value, last = control.get(), nil
  for i, change in ipairs(self.list) do
    if change.name == control.name and change.step <= step then
      last = change
      if i > self.applied then
        value = change.to == RECIPE and self.originals[change.name] or written.decode(change.to)
      end
    end
  end
  return value, last
end

-- Bring the record to what is in memory, if a change has not been written: Ctrl-C may have ended that.
function Changes:write()
  if not self.path or not self.is_unwritten then return end
  local lines = {}
  for i, change in ipairs(self.list) do lines[i] = journal.encode(change) .. "\n" end
  data.write_file_atomic(self.path, table.concat(lines))
  self.is_unwritten = false
end

-- Change `name` from `step` on; nil: back to what the recipe says. It is in the record when this returns. A person's
-- latest word counts: recorded changes of the same name that are still ahead are dropped.
-- → what it was and what it is, as text; or nil and a message
function Changes:add(name, value, step)
  local known = controls.new(self.of)
  local control, message = known:find(name)
  if not control then return nil, message end
  local before, to = self:current(control, step), RECIPE
  if value ~= nil then
    local checked, why = known:check(name, value, step)
    if checked == nil then return nil, why end
    value, to = checked, written.encode(checked)
  elseif control.fixed or control.kept then
    return nil, ("%s has no value of the recipe's to go back to"):format(name)
  else
    value = self.originals[name]
    if value == nil then value = control.get() end
  end
  self.is_unwritten = true
  for i = #self.list, self.applied + 1, -1 do
    if self.list[i].name == name then table.remove(self.list, i) end
  end
  local at = #self.list + 1
  while at > self.applied + 1 and self.list[at - 1].step > step do at = at - 1 end
  local from = text_of(control.get())
  if to ~= from and value ~= control.get() then
    table.insert(self.list, at, { step = step, name = name, from = from, to = to })
  end
  self:write()
  self:look_ahead()
  return text_of(before), text_of(value)
end

-- Give the hyperparameters back as the recipe made them: other runs of the recipe may share them.
function Changes:__close()
  local known = controls.new(self.of)
  for name, value in next, self.originals do known:find(name).set(value) end
  self.originals = {}
end

-- Lines for people, one a step: "changed by hand at step 120: rule.lr 0.1 → 0.01".
function Changes:summary()
  local lines, last = {}, nil
  for _, change in ipairs(self.list) do
    local text = ("%s %s → %s"):format(change.name, change.from, change.to)
    if last == change.step then
      lines[#lines] = lines[#lines] .. ", " .. text
    else
      lines[#lines + 1] = ("changed by hand at step %d: %s"):format(change.step, text)
    end
    last = change.step
  end
  return lines
end

return changes
