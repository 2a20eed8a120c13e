-- cli.lua: the `perigee` command. Owns the subcommands, their help, exit codes (0 done, 1 failed, 2 misused) and the
-- shape of error messages: one line with the recipe's file and line; --trace adds where in the library it came from.

local core = require "perigee.core"
local failure = require "perigee.failure"
local advice = require "perigee.advice"
local files = core.data
local names = require "perigee.names"
local options = require "perigee.options"
local reference = require "perigee.reference"

local cli = {}

local function say(...) io.stderr:write("perigee: ", ..., "\n") end

-- Raise what ends the command with exit code 2.
local function misused(fmt, ...) options.misused(fmt:format(...)) end

-- ---- running a recipe -----------------------------------------------------------------------------------------------

-- Files *.lua near `path` whose name is near to it.
local function nearest_file(path)
  local directory = path:match("^(.*)/[^/]*$") or "."
  local candidates = {}
  for _, place in ipairs { directory, "recipes" } do
    for _, name in ipairs(files.exists(place) and files.list(place) or {}) do
      if name:match("%.lua$") then candidates[#candidates + 1] = place == "." and name or place .. "/" .. name end
    end
  end
  local base, bases, full = path:match("[^/]*$"), {}, {}
  for i, candidate in ipairs(candidates) do
    bases[i] = candidate:match("[^/]*$")
    full[bases[i]] = full[bases[i]] or candidate
  end
  return full[base] or full[base .. ".lua"] or full[options.nearest(base, bases) or ""]
end

local function read_recipe(path)
  local source = files.exists(path) and files.read_file(path)
  if source then return source end
  local near = nearest_file(path)
  misused("%s: no such recipe%s", path, near and ('; did you mean "%s"?'):format(near) or "")
end

-- raised: of failure.handler, or a table that a recipe raised, which is read raw.
local function report(raised)
  if rawget(raised, "usage") then
    say(rawget(raised, "usage"))
    return 2
  end
  local text = rawget(raised, "traceback") or rawget(raised, "message")
  if type(text) ~= "string" then
    local ok, own = pcall(tostring, raised)
    text = ok and own or "failed"
  end
  say(text)
  return 1
end

cli.report = report

-- Whether what a recipe raised came from a person's Ctrl-C.
function cli.is_interruption(raised)
  return rawget(raised, "resumes") ~= nil or tostring(rawget(raised, "message")):match("interrupted$") ~= nil
end

-- Call f with nothing that a recipe prints coming out, also through the library. io.stdout itself still writes.
function cli.call_muted(f, ...)
  local print_before, write_before = print, io.write
  local function nothing() end
  _G.print, io.write = nothing, nothing -- luacheck: ignore 122
  local results = table.pack(pcall(f, ...))
  _G.print, io.write = print_before, write_before -- luacheck: ignore 122
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- Call a recipe's chunk with `keep`: true, or false and what report() takes; then the chunk's variables, as far as it
-- got, are kept.
local function call_recipe(chunk, flags, keep)
  local handle = failure.handler(flags.trace)
  return xpcall(function()
    chunk(keep)
    local unused = options.unused()
    if unused then misused("%s", unused) end
  end, function(raised)
    if keep then keep(failure.locals_of(chunk)) end
    return handle(raised)
  end)
end

-- The globals that a recipe made in its environment, which had the keys `before`.
local function new_globals(env, before)
  local made = {}
  for name, value in next, env do
    if type(name) == "string" and not before[name] then made[name] = value end
  end
  return made
end

-- Run a recipe's text. how: { path, chunkname, source, words, flags, root, write (a further directory to write in),
-- resume, limit, inspect, branch, rehearsal, suffix, recorder (see run.begin_invocation), report(raised) → exit code,
-- instead of a message }; for the prompt also keep(values), called with the recipe's variables at its end.
-- → exit code, runs made
local function run_source(how)
  local pg = require "perigee"
  local run, sandbox = require "perigee.run", require "perigee.sandbox"
  local root = how.root or how.flags.runs or "runs"
  options.begin(how.words)
  run.begin_invocation { recipe = how.path, source = how.source, words = how.words, root = root,
    trust = how.flags.trust, resume = how.resume, limit = how.limit, inspect = how.inspect,
    branch = how.branch, rehearsal = how.rehearsal, suffix = how.suffix, recorder = how.recorder,
    leaves = not how.keep }
  local env = sandbox.enter(pg, how.path, { trust = how.flags.trust, write = { root, how.write },
    memory = how.flags.memory, read = pg.data and pg.data.directories and pg.data.directories() or {} })
  local before = how.keep and new_globals(env, {})
  local text = how.keep and require("perigee.prompt_source").keep_locals(how.source) or how.source
  local chunk, message = load(text, "@" .. how.chunkname, "t", env)
  if not chunk then
    message = message .. advice.on_syntax(message, how.source, tonumber(message:match(":(%d+): ")))
  end
  for _, suspicion in ipairs(advice.suspicions(how.source)) do
    say(("%s:%d: warning: %s"):format(how.chunkname, suspicion.line, suspicion.message))
  end
  local ok, raised = false, { message = message }
  if chunk then ok, raised = call_recipe(chunk, how.flags, how.keep) end
  local done = run.end_invocation()
  if how.keep then
    how.keep(new_globals(env, before))
    sandbox.leave()
    options.begin()
  end
  if ok then return 0, done end
  return (how.report or report)(raised), done
end
cli.run_source = run_source

local function split_words(words)
  local split, message = options.split(words)
  if not split then misused("%s; what follows a recipe is key=value", message) end
  return split
end

local function run_recipe(path, words, flags, extra)
  local how = { path = path, chunkname = path, source = read_recipe(path), words = split_words(words), flags = flags }
  for _, key in ipairs(names.sorted(extra or {})) do how[key] = extra[key] end
  return run_source(how)
end
cli.run_recipe = run_recipe

-- ---- subcommands ----------------------------------------------------------------------------------------------------

local function one_argument(words, what)
  if #words ~= 1 then misused("expected %s; see --help", what) end
  return words[1]
end

--- perigee: Open a prompt: tensors as on a calculator.
-- `?name` explains anything, %help lists its commands, Ctrl-D ends it. With input from a pipe it runs the statements
-- quietly and fails if one of them did.

--- perigee run RECIPE.lua [key=value …]: Run a recipe; the word `run` may be left out.
-- Each pg.train or pg.run in it makes a run directory with the recipe, the settings, the metrics and the checkpoints.
-- key=value sets what the recipe declares with pg.options. A list, lr=0.1,0.3, or a range, seed=1..5, runs the recipe
-- for every combination, one after another, in a directory of their own, and ends with a table; `perigee resume` of
-- that directory goes on with what is left. In a string a comma is a comma: a list of strings stands in braces and
-- quotes, 'data={a9a,w8a}'.
local function run(words, flags)
  local path = table.remove(words, 1)
  if not path then misused("expected a recipe; see --help") end
  local split = split_words(words)
  if not require("perigee.grid").may_be_several(split) then return (run_recipe(path, words, flags)) end
  local code, single = require("perigee.sweep").main(path, read_recipe(path), split, flags)
  return code or (run_recipe(path, require("perigee.settings").join(single), flags))
end

-- What a run directory says, or misuse.
local function read_run(directory, flags)
  local found, message = require("perigee.settings").read(directory)
  if not found then misused("%s", message) end
  if found.trust and not flags.trust then misused("%s was run with --trust; say so again", directory) end
  return found
end

--- perigee resume RUN: Continue a run that was ended, bit for bit.
-- RUN is a run directory. The recipe stored there is executed again: its finished runs answer from their directories,
-- the unfinished one goes on from its newest whole checkpoint. What a person changed by hand at the prompt that Ctrl-C
-- opens is changed again at its step. Of a grid's directory, what is left of the grid is run.
local function resume(words, flags)
  if #words > 1 and words[2]:find("=", 1, true) then
    misused("%s: a run goes on with the options it began with; perigee branch gives others", words[2])
  end
  local directory = one_argument(words, "one run directory")
  local code = require("perigee.sweep").resume(directory:gsub("(.)/+$", "%1"), flags)
  if code then return code end
  local found = read_run(directory, flags)
  return (run_source { path = found.recipe or directory .. "/recipe.lua", chunkname = directory .. "/recipe.lua",
    source = found.source, words = found.words, flags = flags, resume = found.resume, write = directory })
end

--- perigee branch RUN@STEP [key=value …]: Go on from a step of a run with other options, in a run of its own.
-- The recipe stored in the run directory RUN is executed with the options it had and those given here; its run begins
-- at step STEP with all that RUN had then: parameters, posterior, data order, keys, counters, cost. What only the new
-- options bring, as the slots of another correction, begins empty. Without a checkpoint of that step the run is
-- repeated up to there, in memory.
local function branch(words, flags)
  local place = table.remove(words, 1)
  local directory, step
  if place then directory, step = require("perigee.origin").parse(place) end
  if not step then misused("expected RUN@STEP, as runs/first@500, not %s", place or "nothing") end
  local given, message = options.split(words)
  if not given then misused("%s; what follows RUN@STEP is key=value", message) end
  return (require("perigee.branch").main(read_run(directory, flags), directory, step, given, flags))
end

--- perigee emit RECIPE.lua [--only=TEXT] [key=value …]: Print the C that a recipe's steps become.
-- Prepares the recipe's runs, takes one step of each and prints every program: what it does step by step, with the
-- recipe's lines that steps come from, and its kernels, as one text that a C compiler takes. --only=TEXT leaves out the
-- programs whose names do not have TEXT in them, as --only=svrg or --only="full pass".
local function emit(words, flags)
  local path = table.remove(words, 1)
  if not path then misused("expected a recipe; see --help") end
  return require("perigee.emit").main(path, words, flags)
end

--- perigee compare RUN … [x=gradients] [y=loss] [svg=FILE]: Runs side by side: a plot, and a table over seeds.
-- RUN is a run directory or a directory that holds some. Runs that differ only in their seed are one line: the mean,
-- with the least and the largest value. x: gradients, step, epoch or seconds. y: what the runs log, as loss, test.loss,
-- test.accuracy. log=true, logx=true: logarithmic axes. title=TEXT. svg=FILE writes the plot as a picture too, with the
-- spread over seeds as a band.
local function compare(words) return require("perigee.compare").main(words) end

--- perigee check RECIPE.lua [key=value …]: Does a recipe repeat, save, load and correct as it should?
-- For every run of the recipe: three steps, save, load, three steps against six at once, compared bit for bit; for a
-- corrected method also that the correction vanishes at the snapshot and with alpha = 0.
local function check(words, flags)
  local path = table.remove(words, 1)
  if not path then misused("expected a recipe; see --help") end
  return require("perigee.check").check(path, words, flags)
end

--- perigee doctor: What this machine offers, and what is wrong.
-- Prints BLAS, cores, SIMD, threads, compiler, cache and memory, and says what keeps the engine from its best. Exit
-- code 1 if something is wrong.
local function doctor(words)
  if #words > 0 then misused("doctor takes no arguments") end
  return require("perigee.doctor").main()
end

--- perigee bench [NAME …]: Measure speed against the machine and a peer.
-- Runs the benchmarks named, or all; `perigee bench list` lists them.
local function bench(words)
  local ok, found = pcall(require, "perigee.bench")
  if not ok then
    say("this build has no benchmarks (", tostring(found):match("^[^\n]*"), ")")
    return 1
  end
  return found.main(words)
end

--- perigee dump RECIPE.lua [steps=3] [out=dump.safetensors] [key=value …]: Write whole steps for checks elsewhere.
-- The first steps of every pg.train in the recipe, as tensors with speaking names (docs/runs.md): state before and
-- after, batch, noise, points, gradients and statistics of each evaluation, what the rule got, hyperparameters. Any
-- program that reads safetensors can compute them again. steps and out are not handed on to the recipe.
local function dump(words, flags)
  local path = table.remove(words, 1)
  if not path then misused("expected a recipe; see --help") end
  return require("perigee.dump").main(path, words, flags)
end

--- perigee methods [NAME]: List the families, corrections, rules, stages and ready-made optimizers, or explain one.
-- The list says what each keeps beside the parameters, how many gradients a step takes, and which passes over the data.
-- With a name: the formulas, the options with their defaults, and the source.
local function methods(words)
  if #words > 1 then misused("methods takes one name at most") end
  return require("perigee.methods").main(words[1])
end

--- perigee version: Print the versions of the program, its numerics and its file formats.
local function version(words)
  if #words > 0 then misused("version takes no arguments") end
  io.write(("perigee %s (numerics %d, formats %d, %s)\n"):format(core.version, core.numerics_version,
    core.format_version, _VERSION))
  return 0
end

local COMMON = [[
  --trust        run the recipe outside the sandbox: shell, native modules, any file
  --trace        with an error, say where in the library it came from
  --threads=N    threads to use; results do not depend on it
  --memory=GIB   how much memory tensors may take (default: 0.8 of the machine's; with --trust no limit)
  --runs=DIR     where run directories are made (default: runs)
]]

local COMMANDS -- filled below; help lists it

-- What the doc comment of a command says.
local function print_command_help(name)
  local entry = reference.find("perigee " .. name)
  io.write("usage: ", entry.signature, "\n\n", reference.wrap(entry.text), "\n")
  if COMMANDS[name].flags then io.write("\noptions:\n", COMMON) end
  return 0
end

local ORDER = { "run", "resume", "branch", "compare", "check", "emit", "dump", "methods", "doctor", "bench", "version",
  "help" }

--- perigee help [COMMAND]: List the commands, or say what one does; so does COMMAND --help.
local function help(words)
  if words[1] then
    if not COMMANDS[words[1]] then
      misused("there is no command %s%s", words[1], options.hint(words[1], names.sorted(COMMANDS)))
    end
    return print_command_help(words[1])
  end
  io.write("perigee: training methods in Lua, run by a compiled engine\n\n")
  io.write("usage: perigee RECIPE.lua [key=value …]    run a recipe\n")
  io.write("       perigee                             the prompt\n")
  io.write("       perigee COMMAND [--help] …\n\ncommands:\n")
  for _, name in ipairs(ORDER) do
    io.write(("  %-9s %s\n"):format(name, reference.summary(reference.find("perigee " .. name))))
  end
  io.write("\noptions:\n", COMMON)
  return 0
end

-- flags: whether COMMON's options say something to it.
COMMANDS = {
  run = { run = run, flags = true }, resume = { run = resume, flags = true },
  branch = { run = branch, flags = true }, compare = { run = compare }, check = { run = check, flags = true },
  emit = { run = emit, flags = true }, dump = { run = dump, flags = true }, methods = { run = methods },
  doctor = { run = doctor }, bench = { run = bench },
  version = { run = version }, help = { run = help },
}

-- ---- main -----------------------------------------------------------------------------------------------------------

local SWITCHES = { trust = true, trace = true, help = true, version = true }
local VALUES = { memory = true, threads = true, runs = true, only = true }
local OF_RECIPES = { "memory", "only", "runs", "trust" }
local FLAGS = { "help", "memory", "only", "runs", "threads", "trace", "trust", "version" }

-- Split argv into flags and words.
local function parse_flags(argv)
  local flags, words, i = {}, {}, 1
  while argv[i] do
    local word = argv[i]
    local name, value = word:match("^%-%-([%w%-]+)=(.*)$")
    name = name or word:match("^%-%-([%w%-]+)$") or word == "-h" and "help"
    if not name then
      if word:sub(1, 1) == "-" and word ~= "-" then misused("unknown option %s; see perigee help", word) end
      words[#words + 1] = word
    elseif SWITCHES[name] and not value then
      flags[name] = true
    elseif VALUES[name] then
      if not value then
        i = i + 1
        value = argv[i]
      end
      if not value or value == "" then misused("--%s needs a value", name) end
      flags[name] = value
    else
      if tostring(words[1]):find("%.lua$") and not options.nearest(name, FLAGS) then
        misused("unknown option --%s; the options of a recipe are written without dashes: %s=%s", name, name,
          value or argv[i + 1] or "…")
      end
      misused("unknown option --%s%s", name, options.hint(name, FLAGS))
    end
    i = i + 1
  end
  if flags.memory then
    local gib = tonumber(flags.memory)
    if not gib or gib <= 0 then misused("--memory takes a number of GiB, not %s", flags.memory) end
    flags.memory = math.floor(gib * 2 ^ 30)
  end
  if flags.threads then
    local n = math.tointeger(tonumber(flags.threads))
    if not n or n < 1 then misused("--threads takes a whole number, not %s", flags.threads) end
    core.set_threads(n)
  end
  return flags, words
end

local function dispatch(argv)
  local flags, words = parse_flags(argv)
  if flags.version then return version {} end
  local first = words[1]
  if not first then
    if flags.help then return help {} end
    misused("expected a recipe or a command; see perigee help")
  end
  local command = COMMANDS[first]
  if command then
    if flags.help then return print_command_help(first) end
    for _, name in ipairs(command.flags and {} or OF_RECIPES) do
      if flags[name] then misused("--%s says nothing to perigee %s; see perigee %s --help", name, first, first) end
    end
    table.remove(words, 1)
    return command.run(words, flags)
  end
  if flags.help then return print_command_help("run") end
  if first:match("%.lua$") or first:find("/", 1, true) or files.exists(first) then
    return COMMANDS.run.run(words, flags)
  end
  if files.exists(first .. ".lua") then misused('there is no command %s; did you mean "%s.lua"?', first, first) end
  if tostring(words[2]):match("%.lua$") and not options.nearest(first, names.sorted(COMMANDS)) then
    misused("there is no command %s; a recipe is run by: perigee %s", first, words[2])
  end
  misused("there is no command %s%s", first, options.hint(first, names.sorted(COMMANDS)))
end

-- The command line: argv[1], argv[2], … → exit code. Never raises.
function cli.main(argv)
  local ok, result = xpcall(dispatch, function(raised)
    if type(raised) == "table" then return raised end
    local message = tostring(raised)
    return { message = message, traceback = os.getenv("PERIGEE_TRACE") and debug.traceback(message, 2) }
  end, argv)
  if not ok then return report(result) end
  return result or 0
end

return cli
