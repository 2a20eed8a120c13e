-- reference.lua: the reference manual inside the program: what `?name` at the prompt, `perigee help` and `perigee
-- methods` say. The entries are made from doc comments at build time (tools/reference.lua).

local entries = require "perigee.reference_data"
local nearest = require("perigee.options").nearest

local reference = {}

local by_name = {}
for _, entry in ipairs(entries) do by_name[entry.name] = entry end

-- All names in sorted order: "perigee run", "pg.grad", "tensor:sum".
function reference.names()
  local names = {}
  for i, entry in ipairs(entries) do names[i] = entry.name end
  return names
end

-- Ways to say a name: in full; without pg. or perigee; a method by its name alone, or on any variable.
local function spellings(name)
  local last = name:match("([%w_]+)$") or name
  return { name, "pg." .. name, "perigee " .. name, "tensor:" .. last, "tensor." .. last, "model:" .. last }
end

-- { name, signature, text, file, line } of a name as a user types it, or nil. text: a line for each paragraph and each
-- item of a list; file and line: of the doc comment, from the root of the sources.
function reference.find(name)
  for _, spelling in ipairs(spellings(name)) do
    if by_name[spelling] then return by_name[spelling] end
  end
end

-- The name nearest to one that is not there, or nil.
function reference.suggest(name)
  return nearest(name, reference.names()) or nearest("pg." .. name, reference.names())
end

-- The first sentence of an entry's text.
function reference.summary(entry)
  local paragraph = entry.text:match("^[^\n]*")
  return ((paragraph:match("^(.-[%.%?])%s+%u") or paragraph):gsub("%.$", ""))
end

local function width_of(text) return utf8.len(text) or #text end

-- One line of text broken between words, but not around "="; later lines begin with `hang` more than the first.
local function wrap(line, width, hang)
  local indent, words = line:match("^(%s*)(.*)$")
  words = words:gsub(" = ", "\1=\1")
  local out, current = {}, nil
  for word in words:gmatch("%S+") do
    if current and width_of(current) + 1 + width_of(word) > width then
      out[#out + 1] = current
      current = indent .. hang .. word
    else
      current = current and current .. " " .. word or indent .. word
    end
  end
  out[#out + 1] = current
  return (table.concat(out, "\n"):gsub("\1", " "))
end

-- A text (of an entry) for a terminal of `width` columns, default 80. Indented code stays as it is.
function reference.wrap(text, width)
  local out = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    out[#out + 1] = line:match("^    ") and line or wrap(line, width or 80, line:match("^%s") and "  " or "")
  end
  return table.concat(out, "\n")
end

-- A whole entry as text: signature, what it does, where it is written.
function reference.format(entry, width)
  return ("%s\n\n%s\n\n%s:%d"):format(wrap(entry.signature, width or 80, "  "), reference.wrap(entry.text, width),
    entry.file, entry.line)
end

return reference
