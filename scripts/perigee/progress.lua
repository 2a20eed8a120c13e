-- progress.lua: one line on a terminal that shows a run moving. It writes to stderr, at most ten times a second, and
-- only if that is a terminal; else it is silent, so that a log file holds no control characters. It is told numbers
-- that are there anyway and never asks for any.

local files = require("perigee.core").data
local terminal = require "perigee.terminal"

local progress = {}

local function duration(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds >= 3600 then return ("%d:%02d:%02d"):format(seconds // 3600, seconds // 60 % 60, seconds % 60) end
  return ("%d:%02d"):format(seconds // 60, seconds % 60)
end
progress.duration = duration

local function rate(per_second)
  if per_second >= 1e6 then return ("%.1fM"):format(per_second / 1e6) end
  if per_second >= 1e3 then return ("%.1fk"):format(per_second / 1e3) end
  return ("%.0f"):format(per_second)
end

local silent = { is_due = function() return false end, update = function() end, clear = function() end }

-- A progress line for the run `name`. Options: force = true writes whatever stderr is (for tests), out = a file.
function progress.new(name, opts)
  opts = opts or {}
  local out = opts.out or io.stderr
  if not opts.force and not files.isatty(2) then return silent end
  local self = {}
  local started, shown_at, width = files.clock(), -1, 0
  local done_before

  -- Whether it is time to show something again. Cheap: to be asked at every step before anything is put together.
  function self.is_due() return files.clock() - shown_at >= 0.1 end

  -- state: epoch, epochs, fraction (of the whole run), done (units so far), unit ("ex", "steps"), what ("full pass" or
  -- nil), shown = {{"loss", 0.31}, …}, idle (seconds not to count, or nil). Nothing is shown if it is not due.
  function self.update(state)
    if not self.is_due() then return end
    local now = files.clock()
    shown_at = now
    done_before = done_before or state.done
    local parts = { name }
    if state.epochs then parts[#parts + 1] = ("epoch %d/%d"):format(state.epoch, state.epochs) end
    parts[#parts + 1] = ("%3d%%"):format(math.floor(100 * state.fraction))
    if state.what then parts[#parts + 1] = state.what end
    for _, pair in ipairs(state.shown or {}) do
      if pair[2] then parts[#parts + 1] = ("%s %.3g"):format(pair[1], pair[2]) end
    end
    local elapsed = now - started - (state.idle or 0)
    if elapsed > 0.5 and state.done > done_before then
      parts[#parts + 1] = rate((state.done - done_before) / elapsed) .. " " .. state.unit .. "/s"
      local first = state.first_fraction or 0
      if state.fraction > first then
        parts[#parts + 1] = "eta " .. duration(elapsed * (1 - state.fraction) / (state.fraction - first))
      end
    end
    -- a line that wraps could not be written over; two columns are left for the ^C of an interruption
    while #parts > 2 and #table.concat(parts, "  ") > terminal.width() - 2 do parts[#parts] = nil end
    local line = table.concat(parts, "  ")
    out:write("\r", line, (" "):rep(math.max(0, width - #line)))
    out:flush()
    width = #line
  end

  -- Wipe the line, before something else is printed.
  function self.clear()
    if width == 0 then return end
    out:write("\r", (" "):rep(width), "\r")
    out:flush()
    width = 0
  end
  return self
end

return progress
