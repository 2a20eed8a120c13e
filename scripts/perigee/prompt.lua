-- prompt.lua: the prompt: reads statements of one or more lines, runs them, prints what expressions give, and goes on
-- after errors. `perigee` alone opens it, and so does a training run that was interrupted. Input may come from a
-- terminal with a line editor, from one without, or from a pipe, which is read without a word.

local commands = require "perigee.prompt_commands"
local complete = require "perigee.complete"
local advice = require "perigee.advice"
local core = require "perigee.core"
local failure = require "perigee.failure"
local globals = require "perigee.globals"
local open_history = require("perigee.prompt_history").open
local pretty = require "perigee.pretty"
local source = require "perigee.prompt_source"
local terminal = require "perigee.terminal"
local timing = require "perigee.prompt_time"

local prompt = {}

local LINES_KEPT = 10000 -- of what was typed, to show the line of an error

-- Only the program has the editor, not the module for a stock interpreter.
local has_editor, editor = pcall(require, "perigee.editor")

-- ---- reading --------------------------------------------------------------------------------------------------------

local history -- one for all prompts of a process, as there is one terminal

local function load_history()
  if history then return end
  history = open_history(editor.history_size)
  for _, entry in ipairs(history.entries) do editor.remember(entry) end
end

local function read_stream(mark, shown)
  if shown then
    io.write(mark)
    io.flush()
  end
  local line = io.read("L")
  if not line then return nil, "end" end
  return (line:gsub("\r?\n$", ""))
end

-- Set how lines are read: self.read(mark) → text of one or more lines, or nil and "end" or "interrupted".
local function choose_reader(self)
  self.interactive = core.data.isatty(0)
  if not self.interactive or not has_editor then
    self.read = function(mark) return read_stream(mark, self.interactive) end
  elseif terminal.has_escapes(1) then
    load_history()
    self.editing = true
    self.read = function(mark)
      editor.set_completer(function(text) return complete.at_cursor(self.env, text, commands.names()) end)
      local bold = terminal.has_color(1)
      return editor.read(bold and "\1\27[1m\1" .. mark .. "\1\27[0m\1" or mark)
    end
  else
    self.read = editor.read_plain
  end
end

-- The next line, which may be one of several that were read together.
local function next_line(self, mark)
  if #self.queue == 0 then
    local text, why = self.read(mark)
    if not text then return nil, why end
    self.entry[#self.entry + 1] = text
    for line in (text .. "\n"):gmatch("(.-)\n") do self.queue[#self.queue + 1] = line end
  end
  self.line = self.line + 1
  local line = table.remove(self.queue, 1)
  self.lines[self.line], self.lines[self.line - LINES_KEPT] = line, nil
  return line
end

-- What was read since the last whole statement becomes an entry of the history.
local function remember_entry(self)
  if #self.queue > 0 then return end
  local entry = table.concat(self.entry, "\n")
  self.entry = {}
  if self.editing and history.add(entry) then editor.remember(entry) end
end

-- The statement that begins with the line `text`, with as many further lines as it needs: { compiled =, timed = } or
-- { message = } if it is wrong; nil and "interrupted".
local function read_statement(self, text)
  local timed = text:match("^%s*%%time%s+(.*)$")
  text = timed or text
  local compiled, message, unfinished = source.compile(text, self.first_line, self.env)
  while unfinished do
    local line, why = next_line(self, self.continuation)
    if why == "interrupted" then return nil, why end
    if not line then break end
    text = text .. "\n" .. line
    compiled, message, unfinished = source.compile(text, self.first_line, self.env)
  end
  if message then message = message .. advice.on_syntax(message, text, self.line - self.first_line + 1) end
  return { compiled = compiled, message = message, timed = timed ~= nil }
end

-- A word of the caller's typed alone on a line, perhaps with something behind it.
local function find_word(self, text)
  local word, argument = text:match("^%s*([%a_][%w_]*)%s*$"), ""
  word = word or text:match("^%s*([%a_][%w_]*)%s*%(%s*%)%s*$")
  if not word then word, argument = text:match("^%s*([%a_][%w_]*)%s+([%w_/~][^=]*)$") end
  return word and self.commands[word] and { word = word, argument = argument }
end

-- What is to be done next: { word =, argument = }, { command =, argument = }, { about = name } or a statement; or nil
-- and "end" or "interrupted".
local function read_item(self)
  local text, why = next_line(self, self.mark)
  if not text then return nil, why end
  self.first_line = self.line
  local word = find_word(self, text)
  if word then return word end
  local about = text:match("^%s*%?%s*(.-)%s*$") or text:match("^%s*([%a_%%][%w_%.:]*)%s*%?%s*$")
  if not about and rawget(self.env, "help") == nil then -- what people type first
    about = text:match("^%s*help%s*$") and "" or text:match("^%s*help%s+([%a_%%][%w_%.:]*)%s*$")
  end
  if about then return { about = about } end
  local command, argument = text:match("^%s*%%(%a+)%s*(.-)%s*$")
  if command and not (command == "time" and argument ~= "") then return { command = command, argument = argument } end
  return read_statement(self, text)
end

-- ---- errors ---------------------------------------------------------------------------------------------------------

-- The source line that a place names, and what stands before it: its number within the statement, or "earlier".
local function find_line(self, where, n)
  if where ~= "stdin" then return failure.line_of_file(where, n), tostring(n) end
  if not self.interactive then return self.lines[n], tostring(n) end
  return self.lines[n], n >= self.first_line and tostring(n - self.first_line + 1) or "earlier"
end

local function say(self, message)
  local head = self.interactive and terminal.paint("error:", "red", 2) or "perigee:"
  io.stderr:write(head, " ", message, "\n")
end

-- What was raised as text. It may be any object of the user's, which may not like to be asked.
local function text_of(self, raised)
  if type(raised) == "table" and type(rawget(raised, "message")) == "string" then return raised.message end
  local ok, text = pcall(pretty.format, raised, self.env)
  return ok and text or "(an error object that raises an error when it is to be printed)"
end

local function report(self, raised)
  self.failures = self.failures + 1
  io.stdout:flush()
  local message = text_of(self, raised)
  if message:find(": interrupted$") or message == "interrupted" then
    io.stderr:write(self.interactive and "\n" or "", "interrupted\n") -- the terminal has echoed ^C
  else
    local where, n, rest = failure.place(message)
    local line, label = nil, nil
    if where then line, label = find_line(self, where, n) end
    say(self, self.interactive and where == "stdin" and rest or message)
    if line then io.stderr:write(failure.mark(rest, line, label), "\n") end
    local traceback = type(raised) == "table" and rawget(raised, "traceback")
    if type(traceback) == "string" then io.stderr:write(traceback, "\n") end
  end
  local left = #self.queue
  if left > 0 then
    local text = left == 1 and "(the line behind it was not run)\n" or "(%d lines behind it were not run)\n"
    io.stderr:write(text:format(left))
    self.queue = {}
    remember_entry(self)
  end
end

-- ---- doing ----------------------------------------------------------------------------------------------------------

local function show_results(self, results, quiet)
  if results[1] ~= nil then rawset(self.env, "_", results[1]) end
  if results.n > 0 and not quiet then print(pretty.format_all(results, results.n, self.env)) end
end

local function run_statement(self, item)
  local compiled = item.compiled
  if not compiled then error({ message = item.message }, 0) end
  local function keep(values)
    for _, name in ipairs(compiled.names) do
      self.declared[name] = true
      self.env[name] = values[name]
    end
  end
  local results, time
  if item.timed then
    results, time = timing.run(function() return compiled.chunk(keep) end, compiled.is_expression)
  else
    results = table.pack(compiled.chunk(keep))
  end
  show_results(self, results, compiled.quiet)
  if time then print(time) end
end

-- Do what was read → "leave" or nil
local function perform(self, item)
  if item.word then return self.commands[item.word](item.argument) end
  if item.command then return commands.perform(self, item.command, item.argument) end
  if item.about then return commands.explain(self, item.about) end
  return run_statement(self, item)
end

-- ---- the loop -------------------------------------------------------------------------------------------------------

-- Variables that the session's table lacks are Lua's; others are errors, but not those that hold nil by declaration.
local function guard_variables(self)
  if not getmetatable(self.env) then globals.guard(self.env, require "perigee", _G) end
  local meta = getmetatable(self.env)
  local inner = meta.__index
  if type(inner) ~= "function" then return end
  meta.__index = function(env, name)
    if self.declared[name] then return nil end
    return inner(env, name)
  end
end

local function new_session(o)
  local self = { env = o.env, commands = o.commands or {}, mark = o.mark or "> ", is_program = o.is_program,
    line = 0, lines = {}, queue = {}, entry = {}, first_line = 1, failures = 0, declared = {} }
  self.continuation = (" "):rep(math.max(0, (utf8.len(self.mark) or #self.mark) - 3)) .. ">> "
  guard_variables(self)
  choose_reader(self)
  return self
end

-- read_item under a Ctrl-C of its own: one that comes while nothing is being read drops the line, too. Nothing is typed
-- into a pipe, where Ctrl-C ends the process.
local function read_guarded(self)
  if not self.interactive then return read_item(self) end
  local ok, item, why = core.guard(read_item, failure.handler(self.trace), self)
  if ok then return item, why end
  report(self, item)
  return nil, "interrupted"
end

-- Read and run statements until a command answers "leave" or the input ends. o: env, the table of their variables (what
-- it lacks is looked up in Lua's globals, unless it has a metatable of its own); banner, printed first; commands for
-- words typed alone on a line, { name = function(argument) … return "leave" end }; mark, the text before the input.
-- → the name of the command that left, nil at the end of the input; how many statements failed
function prompt.open(o)
  local self = new_session(o)
  if self.interactive and o.banner then print(o.banner) end
  while true do
    local item, why = read_guarded(self)
    if why == "end" then
      if self.interactive then print() end
      return nil, self.failures
    elseif why == "interrupted" then
      self.queue, self.entry = {}, {}
    else
      remember_entry(self)
      local ok, answer = core.guard(perform, failure.handler(self.trace), self, item)
      if not ok then report(self, answer) end
      io.stdout:flush()
      if ok and answer == "leave" then return item.word or item.command, self.failures end
    end
  end
end

-- The prompt of the program → its exit code: of a pipe, 1 if a statement failed.
function prompt.main()
  local function leave() return "leave" end
  local env = {}
  env._G = env
  local _, failures = prompt.open { env = env, is_program = true,
    commands = { quit = leave, exit = leave },
    banner = ("Perigee %s: ?name explains, Tab completes, %%help tells more, Ctrl-D leaves")
      :format(core.version) }
  return failures > 0 and not core.data.isatty(0) and 1 or 0
end

return prompt
