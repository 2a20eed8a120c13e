-- prompt_help.lua: what `?name` says: the reference manual's entry of whatever the name stands for, else what can be
-- known of a value or a function of the user's; for a name that is not there, the nearest.

local complete = require "perigee.complete"
local core = require "perigee.core"
local data = core.data
local functions = require "perigee.prompt_functions"
local lexer = require "perigee.lexer"
local names = require "perigee.names"
local pretty = require "perigee.pretty"
local reference = require "perigee.reference"
local terminal = require "perigee.terminal"

local help = {}

local MOST_LINES = 20 -- of a function's source

local MANUAL = "https://www.lua.org/manual/5.4/manual.html"

-- ---- functions of the user's ----------------------------------------------------------------------------------------

-- The lines from `first` to `last` of the file or the prompt, and the comment above them.
local function source_lines(self, source, first, last)
  local lines = self.lines
  if source:sub(1, 1) == "@" then
    lines = {}
    local path = source:sub(2)
    if not data.exists(path) then return nil end
    for line in io.lines(path) do lines[#lines + 1] = line end
  elseif source ~= "=stdin" then
    return nil
  end
  while (lines[first - 1] or ""):find("^%s*%-%-") do first = first - 1 end
  local out = {}
  for i = first, last do
    if #out == MOST_LINES then
      out[#out + 1] = "  ..."
      break
    end
    out[#out + 1] = lines[i] and "  " .. lines[i]
  end
  return table.concat(out, "\n")
end

local function describe_function(self, f)
  local name = functions.name_of(f)
  if name and not reference.find(name) then
    return ("%s\n\nPart of Lua: %s#pdf-%s"):format(functions.describe(f, self.env), MANUAL, name)
  end
  local inner = functions.behind(f)
  local source, first, last = functions.place_of(inner)
  local text = functions.describe(f, self.env)
  local lines = source and source_lines(self, source, first, last)
  return lines and text .. "\n\n" .. lines or text
end

-- ---- values ---------------------------------------------------------------------------------------------------------

-- Fields and methods that the manual has of a kind of object: ":init", ":summary", ".shape".
local function methods_of(kind)
  local list = {}
  if not kind then return list end
  for _, name in ipairs(reference.names()) do
    local owner, mark, own = name:match("^(%w+)([:.])([%w_]+)$")
    if owner == kind then list[#list + 1] = mark .. own end
  end
  return list
end

-- What the manual calls an object of the library; nil for plain values.
local function kind_of(value)
  if core.is_tensor(value) then return "tensor" end
  local meta = debug.getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  local kind = type(name) == "string" and name:gsub("^perigee%.", "")
  return kind == "module" and "model" or kind or nil
end

local function describe_value(self, name, value)
  local lines = { ("%s: %s"):format(name, pretty.summarize(value, self.env)) }
  local methods = methods_of(kind_of(value))
  if #methods > 0 then
    local text = ("It has %s"):format(table.concat(methods, ", "))
    lines[#lines + 1] = "\n" .. reference.wrap(text, terminal.width())
  end
  return table.concat(lines, "\n")
end

-- The manual's entry for the method `name` (after the colon) of an object.
local function method_entry(owner, name)
  local method = name:match("[:.]([%a_][%w_]*)$")
  local kind = owner ~= nil and kind_of(owner)
  if not method or not kind then return nil end
  return reference.find(kind .. ":" .. method) or reference.find(kind .. "." .. method)
end

-- ---- names ----------------------------------------------------------------------------------------------------------

local function entry_text(entry) return reference.format(entry, math.min(terminal.width(), 100)) end

local function suggestion(self, name)
  local known = reference.names()
  for own in next, self.env do known[#known + 1] = type(own) == "string" and own or nil end
  local near = names.meant(name, known) or reference.suggest(name)
  return ("there is nothing called '%s'%s"):format(name, near and ("; did you mean %s?"):format(near) or "")
end

-- What there is to say of a name. self: the session of the prompt, for its variables and what was typed.
function help.about(self, name)
  local root = name:match("^[%a_][%w_]*")
  if lexer.keywords[name] then return ("'%s' is a word of Lua: %s#3.3"):format(name, MANUAL) end
  if not (root and complete.is_own(self.env, root)) then
    local entry = reference.find(name)
    if entry then return entry_text(entry) end
  end
  local value, owner = complete.resolve(self.env, name)
  local full = type(value) == "function" and functions.name_of(value)
  local entry = full and reference.find(full) or method_entry(owner, name)
  if entry then return entry_text(entry) end
  if type(value) == "function" then return describe_function(self, value) end
  if value ~= nil then return describe_value(self, name, value) end
  entry = reference.find(name)
  return entry and entry_text(entry) or suggestion(self, name)
end

return help
