-- breakin.lua: the prompt that Ctrl-C opens in a run: which names there are, the commands that save and leave, and what
-- a Ctrl-C says. What the values are is live.lua's; what may be changed, controls.lua's. Whatever is computed at the
-- prompt draws from no key and fills no buffer of the run.

local controls = require "perigee.controls"
local core = require "perigee.core"
local globals = require "perigee.globals"
local journal = require "perigee.journal"
local live = require "perigee.live"
local posterior = require "perigee.posterior"

local data = core.data

local breakin = {}

-- Whether there is a person to ask. Replaced in tests.
function breakin.is_possible() return data.isatty(0) and data.isatty(1) end

-- Open the prompt. → the name of the command that left it, nil at the end of input. Replaced in tests.
function breakin.prompt(options) return require("perigee.prompt").open(options) end

-- Tell the signal handler what a Ctrl-C says. of: { directory (nil: nothing is kept), path (of the newest checkpoint,
-- or nil), resumes (whether there is a recipe to resume), leaves (whether a second Ctrl-C ends the process) }.
function breakin.announce(of)
  local where = of.path and "the last checkpoint is " .. of.path or "there is no checkpoint yet"
  if of.resumes then
    where = ("%s; %s: perigee resume %s"):format(where, of.path and "go on from there with" or "to begin again",
      of.directory)
  end
  if not of.directory then where = "nothing was kept (out = false)" end
  local first = data.isatty(2) and "\nperigee: finishing the step; Ctrl-C again leaves at once\n" or ""
  core.announce_interrupt(first, "left at once; " .. where, of.leaves)
end

-- ---- the names ------------------------------------------------------------------------------------------------------

local function draw(records, name, y, x)
  y, x = y or "loss", x or "step"
  local series = {}
  for _, split in ipairs { false, "test" } do
    local one = journal.series(records, y, x, (split or "training") .. " " .. y, split or nil)
    if #one.x > 0 then series[#series + 1] = one end
  end
  io.write(require("perigee.plot").draw(series, { title = name, xlabel = x }))
end

local function describe_run(run)
  local lines = { ("run %s: %d of %d steps done in %.1f s"):format(run.name, run.done, run.steps, run.seconds),
    "  " .. (run.directory or "nothing is kept (out = false)") }
  for _, line in ipairs(run.changes) do lines[#lines + 1] = "  " .. line end
  return table.concat(lines, "\n")
end

-- The run's facts as a value. of: as in breakin.open.
local function run_value(of)
  local values = { name = of.name, directory = of.directory, steps = of.steps, done = of.done, seconds = of.seconds,
    changes = of.changes:summary() }
  function values.curve(_, y, x, name, split)
    return journal.series(of.records, y or "loss", x or "step", name or of.name, split)
  end
  local function refuse(key) return controls.why_fixed(key) or ("run.%s cannot be set"):format(tostring(key)) end
  return live.sealed(values, refuse, describe_run(values))
end

local COPIED = "it is a copy to look at; parameters and state change in steps only, so that the record repeats the run"
local REASONS = {
  theta = COPIED, q = COPIED, buffers = COPIED, step = "the run counts it",
  opt = "assign to its hyperparameters, as opt.rule.lr = 0.01", state = "assign to its fields",
}

-- The environment of the prompt: name → function that gives its value, made when asked for and then kept; other names
-- are the user's (own) and, for reading, Lua's.
local function environment(readers, own)
  local known = {}
  local base = setmetatable({}, { __index = function(_, name)
    local reader = readers[name]
    if not reader then return _G[name] end
    if name == "run" then return reader() end -- it tells what has been changed, and that may be more by now
    if known[name] == nil then known[name] = reader() end
    return known[name]
  end })
  local env = globals.guard(own, require "perigee", base)
  local meta = getmetatable(env)
  function meta.__newindex(t, name, value)
    if readers[name] then
      error(("%s cannot be set: %s"):format(name, REASONS[name] or "it is the run's; take another name"), 2)
    end
    rawset(t, name, value)
  end
  function meta.__names() -- for completion
    local all = {}
    for name in next, readers do all[#all + 1] = name end
    table.sort(all)
    return all
  end
  function meta.__pairs(t)
    local all = {}
    for name in next, readers do all[name] = known[name] or true end -- listing names copies nothing
    for name, value in next, t do all[name] = value end
    return next, all, nil
  end
  return env
end

local function readers_of(of, view)
  local readers = {
    step = function() return of.done end, run = function() return run_value(of) end,
    state = function() return view:state_proxy("state.", of.state) end,
    log = function() return live.copy(of.records) end,
    plot = function() return function(y, x) draw(of.records, of.name, y, x) end end,
    pg = function() return require "perigee" end,
  }
  if of.changes.of.optimizer then readers.opt = function() return view:proxy("") end end
  for name, value in next, of.names do
    local is_copied = core.is_tensor(value) or posterior.is(value)
    readers[name] = function() return is_copied and live.copy(value) or value end
  end
  return readers
end

-- ---- the prompt -----------------------------------------------------------------------------------------------------

-- The names as the banner has them, a line each.
local ROWS = {
  { "theta", "q", "buffers", "opt", "state", "step", "epoch", "metrics", "log" },
  { "run", "model", "data", "loss", "evaluate", "plot" },
}

-- Something that can be changed, as it is typed; nil if there is nothing.
local function example(known)
  local rate = known.by_name["rule.lr"]
  if rate and not rate.fixed then return "opt.rule.lr" end
  for _, control in ipairs(known.list) do
    if not control.fixed then return control.kept and control.name or "opt." .. control.name end
  end
end

local function banner(of, readers, view)
  local lines = { of.inside and ("%s: inside %s, after %d of %d steps"):format(of.name, of.inside, of.done, of.steps)
    or ("%s: stopped after %d of %d steps"):format(of.name, of.done, of.steps) }
  for i, row in ipairs(ROWS) do
    local there = {}
    for _, name in ipairs(row) do
      if readers[name] then there[#there + 1] = name end
    end
    lines[#lines + 1] = (i == 1 and "  look    " or "          ") .. table.concat(there, ", ")
  end
  local name = example(view.known)
  if name then
    lines[#lines + 1] = ("  change  %s = …, from step %d on, recorded%s"):format(name, view.step,
      readers.opt and "; opt lists them all" or "")
  end
  lines[#lines + 1] = "  leave   continue (or Ctrl-D), quit (saves); and save, plot"
  return table.concat(lines, "\n")
end

local function commands_of(of)
  return {
    ["continue"] = function() return "leave" end,
    quit = function() return "leave" end,
    save = function()
      io.write(of.directory and "saved " .. of.save() or "nothing is kept: the run has out = false", "\n")
    end,
    plot = function(argument)
      local y, x = (argument or ""):match("^%s*(%S*)%s*(%S*)")
      draw(of.records, of.name, y ~= "" and y or nil, x ~= "" and x or nil)
    end,
  }
end

-- Open the prompt in a run that stands still. of: { name, directory, done (steps), steps (of the run), seconds, records
-- (of the log), changes, state, names (further name → value), inside (what was broken
-- into, or nil), variables (of the user's, kept from one time to the next), save() → path }. At the end of input the
-- run goes on: a terminal that was lost must not end it. → whether the run is to go on
function breakin.open(of)
  local step = of.done + (of.inside and 1 or 0)
  local view = live.view(of.changes, step)
  local readers = readers_of(of, view)
  local ok, left = pcall(breakin.prompt, {
    env = environment(readers, of.variables), banner = banner(of, readers, view), commands = commands_of(of),
    mark = ("(step %d) > "):format(of.done),
  })
  of.changes:write()
  if not ok then io.stderr:write("perigee: ", tostring(left), "\n") end
  return not (ok and left == "quit")
end

return breakin
