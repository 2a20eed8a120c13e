-- journal.lua: metrics.jsonl, one JSON object a line. Owns the text of a line, which is the same to the last byte
-- whenever its numbers are (keys sorted, numbers as %.17g, no clock), and the byte offset that a checkpoint remembers:
-- after a kill the file is cut back there and written on.

local data = require("perigee.core").data
local names = require "perigee.names"

local journal = {}

local Journal = {}
Journal.__index = Journal

local LOGGED = { number = true, string = true, boolean = true }

-- A flat record as one line of JSON.
function journal.encode(record)
  for _, key in ipairs(names.sorted(record)) do
    local kind = type(record[key])
    if type(key) ~= "string" then error("log: the keys of a record are names", 0) end
    if not LOGGED[kind] then
      local message = "log: %s is a %s; a log holds numbers, strings and booleans (t:item() makes a number of a tensor)"
      error(message:format(key, kind), 0)
    end
  end
  return data.json_encode(record)
end

local SPECIAL = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

-- The records of a file, or of its first `size` bytes, in order. A last line that a kill cut off is left out.
function journal.read(path, size)
  local records = {}
  for line in data.read_file(path):sub(1, size or -1):gmatch("([^\n]*)\n") do
    local ok, record = pcall(data.json_decode, line)
    if not ok or type(record) ~= "table" then return nil, ("%s: line %d is not a record"):format(path, #records + 1) end
    for _, key in ipairs(names.sorted(record)) do record[key] = SPECIAL[record[key]] or record[key] end
    records[#records + 1] = record
  end
  return records
end

-- One logged quantity of records against another as a series for pg.plot. split: "test" for what evaluations logged;
-- nil for what the steps logged.
function journal.series(records, y, x, name, split)
  local series = { name = name, x = {}, y = {} }
  for _, record in ipairs(records) do
    if record[y] and record[x] and record.split == split then
      series.x[#series.x + 1], series.y[#series.y + 1] = record[x], record[y]
    end
  end
  return series
end

-- Open `path` to write on from byte `offset`; what stands behind it is cut off. Returns the journal, whose records are
-- those that stay, or nil and a message when the file is shorter than that.
function journal.open(path, offset)
  local log = data.open_log(path)
  if log:size() < offset then
    return nil, ("%s holds %d bytes, the checkpoint knows %d"):format(path, log:size(), offset)
  end
  log:truncate(offset)
  local records, message = journal.read(path)
  if not records then return nil, message end
  return setmetatable({ log = log, offset = offset, records = records }, Journal)
end

-- A journal that keeps its records, beginning with those given, and writes nothing.
function journal.in_memory(records) return setmetatable({ offset = 0, records = records or {} }, Journal) end

-- Append a record and keep it for the run's history.
function Journal:append(record)
  if self.log then
    local line = journal.encode(record) .. "\n"
    self.log:write(line)
    self.offset = self.offset + #line
  end
  self.records[#self.records + 1] = record
end

-- Make everything appended so far survive a loss of power. → the offset a checkpoint may remember.
function Journal:sync()
  self.log:sync()
  return self.offset
end

function Journal:close()
  if self.log then
    self.log:close()
    self.log = nil
  end
end

return journal
