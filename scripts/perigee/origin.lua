-- origin.lua: where a run that goes on from another one begins: everything of that other run up to a step,
-- "runs/x@5000". Owns that notation and the reading of the other run's directory, in which it changes nothing.
--
-- An origin: { run (directory), step, saved ({ info, tree }, as checkpoint.load gives), records (logged so far),
-- changes (by hand so far), seconds, group (settings by which runs are told apart) }.

local checkpoint = require "perigee.checkpoint"
local core = require "perigee.core"
local data = core.data
local journal = require "perigee.journal"
local sandbox = require "perigee.sandbox"
local settings = require "perigee.settings"

local origin = {}

-- "runs/x@5000" → directory, step; the step is nil where there is none.
function origin.parse(text)
  local directory, step = text:match("^(.*)@(%d+)$")
  directory = (directory or text):gsub("(.)/+$", "%1")
  return directory, math.tointeger(tonumber(step))
end

-- Whether a saved state was taken between two batches of a full pass: another run may not want the rest of that pass.
function origin.is_inside_pass(tree)
  for key, value in next, tree do
    if key == "pass.which" or type(value) == "table" and origin.is_inside_pass(value) then return true end
  end
  return false
end

-- The lines of a record file of the run, those there are; the first `count`, or those in the first `size` bytes.
local function read_records(path, count, size)
  if not data.exists(path) then return {} end
  local records, message = journal.read(path, size)
  if not records then core.raise(message) end
  return table.move(records, 1, count or #records, 1, {})
end

local function seconds_at(directory, step)
  local seconds = 0
  for _, record in ipairs(read_records(directory .. "/timing.jsonl")) do
    if record.step == step then seconds = record.seconds end
  end
  return seconds
end

-- What tells the run in `directory` from others that are to be compared with it: its settings without the seed's.
function origin.group(found)
  return { arguments = data.json_array(found.arguments or {}), name = found.name, branch = found.branch }
end

-- The origin that a checkpoint of a run is. saved: the loaded checkpoint.
local function from_checkpoint(directory, saved)
  local step = math.tointeger(tonumber(saved.info.step))
  return {
    run = directory, step = step, saved = saved,
    records = read_records(directory .. "/metrics.jsonl", nil, math.tointeger(tonumber(saved.info.offset))),
    changes = read_records(directory .. "/changes.jsonl", tonumber(saved.info.changes)),
    seconds = seconds_at(directory, step), group = origin.group(settings.of(directory) or {}),
  }
end

-- The origin at a checkpoint of exactly this step (nil: the newest), or nil and the list of steps there are.
function origin.at(directory, step)
  local steps = {}
  for _, entry in ipairs(checkpoint.list(directory .. "/checkpoints")) do
    if step == nil or entry.step == step then
      local saved, message = checkpoint.load(entry.path)
      if not saved then core.raise(message) end
      if not origin.is_inside_pass(saved.tree) then return from_checkpoint(directory, saved) end
    else
      steps[#steps + 1] = ("%d"):format(entry.step)
    end
  end
  return nil, steps
end

-- The origin that a recipe names by `from`, or an error at its line. owner: what it is for, in messages.
function origin.find(from, owner)
  local directory, step = origin.parse(from)
  local allowed, refused = sandbox.may_open(directory, "r")
  if not allowed then core.raise(refused) end
  local found, steps = origin.at(directory, step)
  if found then return found end
  if #steps == 0 then core.raise(("%s \"%s\": no checkpoint there"):format(owner, from)) end
  return core.raise(("%s \"%s\": no checkpoint of that step, only of %s; perigee branch %s repeats the run up to "
    .. "there, and checkpoint_every = { steps = n }, keep = m leave more of them"):format(owner, from,
    table.concat(steps, ", "), from))
end

return origin
