-- prompt_commands.lua: what begins with % at the prompt: its commands and their help. A command gets the session
-- (prompt.lua) and the text behind its name; what it answers is what prompt.lua's `perform` does.

local help = require "perigee.prompt_help"
local names = require "perigee.names"
local options = require "perigee.options"
local pretty = require "perigee.pretty"
local text_table = require "perigee.table"

local commands = {}

local SHORT = [[
An expression prints its value, `_` holds the last one, a `;` behind it keeps it silent. A statement may take several
lines; `local` variables stay. Tab completes; Ctrl-C drops the line or stops what runs; Ctrl-D leaves.

  ?name  name?    what a function, method, command or variable is: ?pg.nn.linear, ?tensor:sum, ?theta
  %time code      how long an expression (repeated if it is fast) or a statement takes
  %run FILE.lua [key=value ...]
                  run a recipe; its top-level variables can be looked at afterwards
  %who            your variables
  %trace on|off   with an error, where in the library it came from
  %help           this text
  %quit           leave

Up and Down find earlier input that begins with what stands before the cursor, Ctrl-R any that contains it.
`perigee help` in a shell lists the commands of the program; docs/prompt.md has examples.
]]

local function short_help() io.write(SHORT) end

-- ---- %run -----------------------------------------------------------------------------------------------------------

-- Words separated by blanks, with "…" or '…' around those that contain some.
local function split_words(text)
  local words, at = {}, text:find("%S")
  while at do
    local word = ""
    while at <= #text and not text:find("^%s", at) do
      local quote = text:match("^[\"']", at)
      local stop = quote and text:find(quote, at + 1, true)
      word = word .. (stop and text:sub(at + 1, stop - 1) or text:sub(at, at))
      at = (stop or at) + 1
    end
    words[#words + 1] = word
    at = text:find("%S", at)
  end
  return words
end

local function run(self, argument)
  local words = split_words(argument)
  local trust = words[1] == "--trust" and table.remove(words, 1) ~= nil
  local path = table.remove(words, 1)
  if not path then options.misused("%run takes a recipe, as %run recipes/new_method.lua epochs=1") end
  if not self.is_program then
    options.misused("a run stands still here, and another cannot begin inside it; leave this prompt first")
  end
  local kept, failed = {}, nil
  require("perigee.cli").run_recipe(path, words, { trust = trust, trace = self.trace }, {
    keep = function(values)
      for name, value in next, values do
        if value ~= rawget(_G, name) then self.env[name], kept[name] = value, true end
      end
    end,
    report = function(raised)
      failed = raised
      return 1
    end,
  })
  if next(kept) then print("kept: " .. table.concat(names.sorted(kept), ", ")) end
  if failed then error(failed, 0) end
end

-- ---- the others -----------------------------------------------------------------------------------------------------

local function who(self)
  local own, rows = {}, {}
  for name, value in next, self.env do -- the raw table: a stopped run's values are copied when they are asked for
    if type(name) == "string" and name ~= "_" and name ~= "_G" then own[name] = value end
  end
  for i, name in ipairs(names.sorted(own)) do rows[i] = { name, pretty.summarize(own[name], self.env) } end
  if #rows > 0 then text_table.print({ "name", "value" }, rows) else print("no variables yet") end
  local list = (getmetatable(self.env) or {}).__names
  if list then print("of the run: " .. table.concat(list(self.env), ", ")) end
end

local function trace(self, argument)
  if argument ~= "on" and argument ~= "off" then options.misused("%trace takes on or off") end
  self.trace = argument == "on"
end

-- name → { run(self, argument), help }. %time is a statement with something before it, and so prompt.lua's.
local COMMANDS = {
  time = { run = function() error("%time takes what it is to time, as %time pg.ones({ 3 }) * 2", 0) end,
    help = "%time code: how long it takes. An expression of less than 50 ms is repeated, and the median is\n"
    .. "given; a statement runs once. The memory of tensors that it leaves behind is told where there is any." },
  run = { run = run, help = "%run [--trust] FILE.lua [key=value ...]: run a recipe as `perigee FILE.lua` does, in its\n"
    .. "sandbox. Its global and top-level local variables are then the prompt's, also after an error." },
  who = { run = who, help = "%who: your variables, each with its type, shape or length." },
  trace = { run = trace, help = "%trace on|off: whether an error shows where in the library it came from." },
  help = { run = short_help, help = "%help: how to use the prompt." },
  quit = { run = function() return "leave" end, help = "%quit: leave the prompt; Ctrl-D does too." },
}

function commands.names()
  return names.sorted(COMMANDS)
end

-- Run the command `name`; one that is not there raises, naming the nearest. → "leave" or nil
function commands.perform(self, name, argument)
  local command = COMMANDS[name]
  if not command then
    local near = options.nearest(name, commands.names())
    options.misused(("there is no command %%%s%s"):format(name, near and ("; did you mean %%%s?"):format(near)
      or "; %help lists them"))
  end
  return command.run(self, argument)
end

-- `?argument`
function commands.explain(self, argument)
  if argument == "" then return short_help() end
  local command = COMMANDS[argument:match("^%%(%a+)$") or ""]
  print(command and command.help or help.about(self, argument))
end

return commands
