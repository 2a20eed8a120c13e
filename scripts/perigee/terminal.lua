-- terminal.lua: what the terminal can show: escape codes, colours, UTF-8, its width. Owns the environment variables
-- that say so: TERM, NO_COLOR, COLUMNS, LC_ALL, LC_CTYPE, LANG.

local data = require("perigee.core").data

local terminal = {}

local CODES = { red = "31", green = "32", blue = "34", bold = "1", dim = "2" }

-- Whether file descriptor `fd` is a terminal that understands escape codes.
function terminal.has_escapes(fd)
  local kind = os.getenv("TERM")
  return kind ~= nil and kind ~= "" and kind ~= "dumb" and data.isatty(fd)
end

-- Whether to colour what goes to `fd`; NO_COLOR, if not empty, forbids it (no-color.org).
function terminal.has_color(fd)
  return (os.getenv("NO_COLOR") or "") == "" and terminal.has_escapes(fd)
end

-- Whether the locale says that text is UTF-8.
function terminal.is_utf8()
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    local value = os.getenv(name)
    if value and value ~= "" then return value:upper():find("UTF%-?8") ~= nil end
  end
  return false
end

-- Columns of the terminal that standard output is, within 20 to 200; 80 where there is none.
function terminal.width()
  local columns = tonumber(os.getenv("COLUMNS") or "") or data.terminal_width(1)
  return columns and columns >= 20 and math.min(math.floor(columns), 200) or 80
end

-- The text in a style ("red", "bold", …) if `fd` has colours.
function terminal.paint(text, style, fd)
  if not terminal.has_color(fd) then return text end
  return ("\27[%sm%s\27[0m"):format(CODES[style], text)
end

return terminal
