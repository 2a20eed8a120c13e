-- prompt_history.lua: what was typed in earlier sessions. A file of one line an entry, line ends and backslashes
-- escaped, private to the user, in PERIGEE_HISTORY (empty: none is kept) or the directory for such things,
-- ~/.local/state/perigee. An entry is added as soon as it is typed, so a kill loses nothing and two prompts may share
-- the file; it is cut to its newest entries, whole or not at all, when a session begins.

local data = require("perigee.core").data

local history = {}

local LONGEST = 1 << 16 -- bytes of an entry that is kept
local ESCAPES = { ["\\"] = "\\\\", ["\n"] = "\\n" }
local UNESCAPES = { ["\\\\"] = "\\", ["\\n"] = "\n" }

local function path_of_file()
  local chosen = os.getenv("PERIGEE_HISTORY")
  if chosen then return chosen ~= "" and chosen or nil end
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if state and state:sub(1, 1) == "/" then return state .. "/perigee/history" end
  return home and home ~= "" and home .. "/.local/state/perigee/history" or nil
end

local function read_entries(path)
  local entries = {}
  for line in (data.exists(path) and data.read_file(path) or ""):gmatch("[^\n]+") do
    entries[#entries + 1] = line:gsub("\\.", UNESCAPES)
  end
  return entries
end

local function encode(entry) return (entry:gsub("[\\\n]", ESCAPES)) end

local function write_entries(path, entries)
  local lines = {}
  for i, entry in ipairs(entries) do lines[i] = encode(entry) .. "\n" end
  data.write_file_private(path, table.concat(lines))
end

-- The history with at most `most` old entries: { entries = {…}, add(entry) → whether it is one }. A file that cannot be
-- read or written costs the history, never the prompt.
function history.open(most)
  local self = { entries = {}, path = path_of_file() }
  local last
  function self.add(entry)
    if entry == last or #entry > LONGEST or not entry:find("%S") or entry:find("\0", 1, true) then return false end
    last = entry
    if self.path then
      self.path = pcall(function()
        local log <close> = data.open_log(self.path)
        log:write(encode(entry) .. "\n")
      end) and self.path or nil
    end
    return true
  end
  if not self.path then return self end
  local ok = pcall(function()
    local directory = self.path:match("^(.+)/[^/]*$")
    if directory then data.mkdir(directory) end
    local entries = read_entries(self.path)
    if #entries > most or not data.exists(self.path) then
      entries = table.move(entries, math.max(1, #entries - most + 1), #entries, 1, {})
      write_entries(self.path, entries)
    end
    self.entries, last = entries, entries[#entries]
  end)
  if not ok then self.path = nil end
  return self
end

return history
