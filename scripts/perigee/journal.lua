-- journal.lua: metrics.jsonl, one JSON object a line. Owns the text of a line, which is the same to the last byte
-- whenever its numbers are (keys sorted, numbers as %.17g, no clock), and the byte offset that a checkpoint remembers:
-- after a kill the file is cut back there and written on.

local names = require "perigee.names"
local files = require "perigee.files"
local json = require "perigee.json"

local journal = {}

local Journal = {}
Journal.__index = Journal

-- Names that come first in a line, where a reader looks for them; the others follow in sorted order.
local FIRST = { "step", "epoch", "split" }
local is_first = { step = true, epoch = true, split = true }

local function encode_string(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- Numbers that JSON has no word for are strings: "nan", "inf", "-inf".
local function encode_number(x)
  if math.type(x) == "integer" then return ("%d"):format(x) end
  if x ~= x then return '"nan"' end
  if x == math.huge then return '"inf"' elseif x == -math.huge then return '"-inf"' end
  if x % 1 == 0 and math.abs(x) < 2 ^ 53 then return ("%d"):format(x) end
  return ("%.17g"):format(x)
end

local function encode_value(key, value)
  if type(value) == "number" then return encode_number(value) end
  if type(value) == "string" then return encode_string(value) end
  if type(value) == "boolean" then return tostring(value) end
  error(("log: %s is a %s; a log holds numbers, strings and booleans (use t:item() for a tensor)"):format(key,
    type(value)), 0)
end

-- A flat record as one line of JSON.
function journal.encode(record)
  local parts = {}
  local function add(key)
    if type(key) ~= "string" then error("log: the keys of a record are names", 0) end
    parts[#parts + 1] = encode_string(key) .. ": " .. encode_value(key, record[key])
  end
  for _, key in ipairs(FIRST) do
    if record[key] ~= nil then add(key) end
  end
  for _, key in ipairs(names.sorted(record)) do
    if not is_first[key] then add(key) end
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local SPECIAL = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

-- The records of the first `size` bytes of a file (all of it by default), in order. A last line that a kill cut off is
-- left out.
function journal.read(path, size)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = size and (size == 0 and "" or file:read(size) or "") or file:read("a")
  file:close()
  local records = {}
  for line in text:gmatch("([^\n]*)\n") do
    local record = json.decode(line)
    if type(record) ~= "table" then return nil, ("%s: line %d is not a record"):format(path, #records + 1) end
    for _, key in ipairs(names.sorted(record)) do
      local special = type(record[key]) == "string" and SPECIAL[record[key]]
      if special then record[key] = special end
    end
    records[#records + 1] = record
  end
  return records
end

-- Open `path` to write on from byte `offset`; what stands behind it is cut off. Returns the journal, whose records are
-- those that stay, or nil and a message when the file is shorter than that.
function journal.open(path, offset)
  local records = {}
  if offset > 0 then
    local file, message = io.open(path, "rb")
    if not file then return nil, message end
    local size = file:seek("end")
    file:seek("set", 0)
    local kept = size >= offset and file:read(offset)
    file:close()
    if not kept then return nil, ("%s holds %d bytes, the checkpoint knows %d"):format(path, size, offset) end
    if size > offset then files.write_atomic(path, kept) end
    records, message = journal.read(path)
    if not records then return nil, message end
  else
    files.write_atomic(path, "")
  end
  local file, message = io.open(path, "ab")
  if not file then return nil, message end
  return setmetatable({ path = path, file = file, offset = offset, records = records }, Journal)
end

-- Append a record and keep it for the run's history.
function Journal:append(record)
  local line = journal.encode(record) .. "\n"
  local ok, message = self.file:write(line)
  if not ok then error(("%s: %s"):format(self.path, message), 0) end
  self.offset = self.offset + #line
  self.records[#self.records + 1] = record
end

-- Make everything appended so far survive a loss of power. → the offset a checkpoint may remember.
function Journal:sync()
  local ok, message = self.file:flush()
  if not ok then error(("%s: %s"):format(self.path, message), 0) end
  files.sync(self.path)
  return self.offset
end

function Journal:flush() self.file:flush() end

function Journal:close()
  if self.file then
    self.file:close()
    self.file = nil
  end
end

return journal
