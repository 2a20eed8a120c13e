-- prompt.lua: the prompt: reads statements of one or more lines, runs them, prints what expressions give, and goes on
-- after errors. `perigee` alone opens it, and so does a training run that was interrupted. Input may be a terminal with
-- a line editor, one without, or a pipe, which is read without a word.

local core = require "perigee.core"
local failure = require "perigee.failure"
local globals = require "perigee.globals"

local prompt = {}

local has_editor, editor = pcall(require, "perigee.editor")

-- ---- reading --------------------------------------------------------------------------------------------------------

-- A function that gives the next line, or nil and "end" or "interrupted". It is told what to show before the line.
local function make_reader()
  if not core.data.isatty(0) then
    return function()
      local line = io.read("L")
      if not line then return nil, "end" end
      return (line:gsub("\n$", ""))
    end, false
  end
  if not has_editor then
    return function(mark)
      io.write(mark)
      local line = io.read("l")
      if not line then return nil, "end" end
      return line
    end, true
  end
  local term = os.getenv("TERM")
  local capable = term and term ~= "" and term ~= "dumb" and core.data.isatty(1)
  return capable and editor.read or editor.read_plain, true
end

-- ---- one statement --------------------------------------------------------------------------------------------------

-- A chunk from the text of an expression or a statement; nil, message and whether more lines may make it whole.
local function compile(self, text)
  local padding = ("\n"):rep(self.first_line - 1)
  local chunk, message = load(padding .. "return " .. text, "=stdin", "t", self.env)
  if chunk then return chunk end
  local unfinished = message:find("<eof>$") and message
  chunk, message = load(padding .. text, "=stdin", "t", self.env)
  if chunk then return chunk end
  unfinished = message:find("<eof>$") and message or unfinished
  return nil, unfinished or message, unfinished ~= nil
end

local function next_line(self, mark)
  local line, why = self.read(mark)
  if line then self.line = self.line + 1 end
  return line, why
end

-- The next whole statement: chunk, or nil, message; nil and "end" or "interrupted" when there is none.
local function read_statement(self)
  local text, why = next_line(self, self.mark)
  if not text then return nil, nil, why end
  self.first_line = self.line
  local chunk, message, unfinished = compile(self, text)
  while unfinished do
    local line
    line, why = next_line(self, self.continuation)
    if not line then
      if why == "interrupted" then return nil, nil, why end
      break
    end
    text = text .. "\n" .. line
    chunk, message, unfinished = compile(self, text)
  end
  return chunk, message, nil, text
end

local function report(self, raised)
  self.failures = self.failures + 1
  io.stdout:flush()
  io.stderr:write("perigee: ", raised.message or tostring(raised), "\n")
end

local function print_results(self, results)
  if results.n == 0 then return end
  if results[1] ~= nil then rawset(self.env, "_", results[1]) end
  print(table.unpack(results, 1, results.n))
end

local function run(self, chunk)
  local results = table.pack(core.guard(function() return table.pack(chunk()) end, failure.handler(self.trace)))
  if not results[1] then return report(self, results[2]) end
  local ok, raised = core.guard(print_results, failure.handler(self.trace), self, results[2])
  if not ok then report(self, raised) end
end

-- A word of the caller's alone on a line: its name and what follows it.
local function find_command(self, text)
  local name, argument = text:match("^%s*([%a_][%w_]*)%s*$"), ""
  if not name then name, argument = text:match("^%s*([%a_][%w_]*)%s+([%w_/~][^=]*)$") end
  if name and self.commands[name] then return name, argument end
end

-- ---- the loop -------------------------------------------------------------------------------------------------------

-- Read and run statements until a command answers "leave" or the input ends. o: env, the table of their variables (what
-- it lacks is looked up in Lua's globals, unless it has a metatable); banner, printed first; commands, { name =
-- function(argument) … return "leave" end } for words typed alone on a line; mark, the text before the input.
-- → the name of the command that left, or nil at the end of the input; how many statements failed
function prompt.open(o)
  local self = { env = o.env, commands = o.commands or {}, mark = o.mark or "> ", line = 0, failures = 0 }
  self.continuation = (" "):rep(math.max(0, (utf8.len(self.mark) or #self.mark) - 3)) .. ">> "
  if not getmetatable(self.env) then globals.guard(self.env, require "perigee", _G) end
  local interactive
  self.read, interactive = make_reader()
  if interactive and o.banner then print(o.banner) end
  while true do
    local chunk, message, why, text = read_statement(self)
    local command, argument = find_command(self, text or "")
    if why == "end" then
      if interactive then print() end
      return nil, self.failures
    elseif command then
      local ok, answer = core.guard(self.commands[command], failure.handler(self.trace), argument)
      if not ok then report(self, answer) elseif answer == "leave" then return command, self.failures end
    elseif chunk then
      run(self, chunk)
    elseif not why then
      report(self, { message = message })
    end
    io.stdout:flush()
  end
end

-- The prompt of the program → its exit code.
function prompt.main()
  local function leave() return "leave" end
  local _, failures = prompt.open { env = {}, commands = { quit = leave, exit = leave },
    banner = ("Perigee %s  (pg is loaded; Ctrl-D leaves)"):format(core.version) }
  return failures > 0 and not core.data.isatty(0) and 1 or 0
end

return prompt
