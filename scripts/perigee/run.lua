-- run.lua: pg.run, a loop with a run directory: settings, metrics, checkpoints, and resuming bit for bit. Owns the
-- directory and what is written when; what a step does is the caller's. An *invocation* is one execution of a recipe;
-- it may hold several runs, and `perigee resume` executes the recipe again, where finished runs answer from their
-- directory, the killed one goes on and later ones begin.
--
-- RUN/recipe.lua       the recipe's source           RUN/metrics.jsonl   one record a log call, no clock in it
-- RUN/settings.json    options, seed, versions …     RUN/timing.jsonl    seconds
-- RUN/invocation.json  in the first run's directory: name → directory of every run of the invocation
-- RUN/checkpoints/step-N.safetensors                  RUN/changes.jsonl   what a person changed while it went on

local breakin = require "perigee.breakin"
local changes = require "perigee.changes"
local checkpoint = require "perigee.checkpoint"
local core = require "perigee.core"
local data = core.data
local journal = require "perigee.journal"
local names = require "perigee.names"
local options = require "perigee.options"
local origin = require "perigee.origin"
local sampler = require "perigee.sampler"
local sandbox = require "perigee.sandbox"
local settings = require "perigee.settings"

local run = {}

run.read_settings = settings.read

-- The present invocation. recipe: path; source: text; words: key=value as given; root: where runs go; trust; resume:
-- the invocation.json of the one to continue; limit: stop each run after so many steps (for `check`), except those
-- inside a step of another; depth: how many are under way; leaves: whether a second Ctrl-C ends the process. suffix:
-- what every directory's name ends in. recorder: keeps steps (dump.lua). branch: { id (nil: the first run), origin }:
-- the run that begins at another one's state. rehearsal: { id, step }: execute the recipe only up to that step of that
-- run, in memory; what is reached there becomes rehearsal.origin. Without an id: only up to the first run.
local invocation

-- Begin an execution of a recipe. The command line calls it; a script under plain lua5.4 gets one on its first run.
function run.begin_invocation(given)
  invocation = {
    recipe = given.recipe, source = given.source, words = given.words or {}, root = given.root or "runs",
    trust = given.trust, resume = given.resume, limit = given.limit, inspect = given.inspect, leaves = given.leaves,
    branch = given.branch, rehearsal = given.rehearsal, suffix = given.suffix, recorder = given.recorder,
    depth = 0, counts = {}, runs = {}, first = given.resume and given.resume.first, done = {},
  }
  return invocation
end

-- The runs that ended in this invocation, in order: {{name =, directory =, steps =}, …}.
function run.end_invocation()
  local done = invocation and invocation.done or {}
  invocation = nil
  return done
end

local function current_invocation()
  if invocation then return invocation end
  local path = arg and arg[0]
  local file = path and path:match("%.lua$") and io.open(path, "rb")
  local source = file and file:read("a")
  if file then file:close() end
  return run.begin_invocation { recipe = path, source = source, words = options.arguments, trust = true }
end

-- ---- directories ----------------------------------------------------------------------------------------------------

local function must(value, message)
  if value == nil or value == false then error(message, 0) end
  return value
end

-- The name of the run `spec` within its invocation: "sgd#2" is the second called sgd.
local function next_id(inv, spec)
  inv.counts[spec.name] = (inv.counts[spec.name] or 0) + 1
  return ("%s#%d"):format(spec.name, inv.counts[spec.name])
end

-- The directory of a run of the invocation that is resumed; nil if that did not begin it.
local function known_directory(inv, id)
  local known = inv.resume and inv.resume.runs[id]
  return known and data.exists(known .. "/settings.json") and known or nil
end

-- Which directory the run `spec` uses: path, and whether it exists from before.
local function find_directory(inv, spec, id)
  local known = known_directory(inv, id)
  if known then
    inv.runs[id] = known
    return known, true
  end
  local wanted = spec.out or inv.root .. "/" .. spec.name
  if inv.suffix and not wanted:find(inv.suffix, 1, true) then wanted = wanted .. "-" .. inv.suffix end
  must(sandbox.may_open(wanted, "w"))
  local path = settings.claim(wanted)
  data.mkdir(path .. "/checkpoints")
  inv.runs[id] = path
  inv.first = inv.first or path
  return path, false
end

-- ---- one run --------------------------------------------------------------------------------------------------------

local Context = {}

-- ctx.key, the run's key of this step, is made when it is asked for: most steps of pg.train never do.
local function context_index(ctx, name)
  if name ~= "key" then return Context[name] end
  return ctx.run_key:fold("step"):fold(ctx.step)
end

--- ctx:log(record): Write a table of numbers, strings and booleans to metrics.jsonl; the step and the cost meter are
-- added.
function Context:log(record)
  local line = { step = self.step }
  for _, key in ipairs(names.sorted(record)) do line[key] = record[key] end
  if self.cost then
    line.gradients = self.cost:gradients()
  end
  self.journal:append(line)
end

--- ctx:batch(split, n [, { dtype = "f32", stream = }]) → { x =, y =, id = }: A batch of n examples of a split for this
-- step: a keyed permutation for each epoch, the short last batch as it is; n may be a sampler (pg.sampler). stream: a
-- name; streams of one split go through it in orders of their own. The next call for the same split and stream fills
-- the same tensors again.
function Context:batch(split, n, opts)
  opts = opts or {}
  names.check("ctx:batch", opts, { "dtype", "stream" })
  local stream = opts.stream or ""
  local known = self.samplers[split] or {}
  self.samplers[split] = known
  local found = known[stream]
  if not found or found.n ~= n then
    local key = self.run_key:fold(("split %d"):format(split.n))
    if opts.stream then key = key:fold(stream) end
    local source = sampler.is(n) and n:bind(split, key, opts.dtype)
      or sampler.shuffled(split, n, key, { dtype = opts.dtype })
    found = { n = n, source = source }
    known[stream] = found
  end
  return (found.source:at(self.step))
end

--- ctx:stop(): End the run after this step.
function Context:stop() self.stopped = true end

--- ctx:pause(done, total) → boolean: Inside a long step, as a full pass, with `done` of `total` pieces behind it: save
-- what there is, if a checkpoint is due, and answer Ctrl-C. The state must say by itself how far the step got, since
-- the step runs again from there. false: the run ends here, and `step` must return.
function Context:pause(done, total)
  if self.due() then self.save(self.step, false) end
  if core.interrupted() then
    self.break_in(("a full pass (%d of %d batches done)"):format(done, total))
    self.suspended = self.interrupted
  end
  return not self.suspended
end

local function check_spec(spec, level)
  if type(spec) ~= "table" then error("pg.run takes a table: name, seed, steps, state, step", level + 1) end
  local known = { "name", "seed", "steps", "state", "step", "out", "checkpoint_every", "keep", "hash_every", "config",
    "from", "identity", "cost", "at_start", "at_end", "at_interrupt", "inspect", "adjust", "names", "clear" }
  names.check("pg.run", spec, known, level)
  local function need(key, kind)
    if type(spec[key]) ~= kind then
      error(("pg.run: %s must be a %s, not a %s"):format(key, kind, type(spec[key])), level + 2)
    end
  end
  need("name", "string")
  need("steps", "number")
  need("step", "function")
  if not spec.name:match("^[%w_][%w_%.%-]*$") then
    local message = "pg.run: the name \"%s\" cannot be a directory's: letters, digits, _ . and - only"
    error(message:format(spec.name), level + 1)
  end
  if spec.steps < 0 or spec.steps % 1 ~= 0 then
    error(("pg.run: steps must be a whole number, not %s"):format(spec.steps), level + 1)
  end
end

-- When to save: every so many seconds (a number, default 60) or { steps = n }.
local function make_due(every, ctx)
  if type(every) == "table" then
    names.check("checkpoint_every", every, { "steps" })
    return function() return ctx.completed > (ctx.saved or 0) and ctx.completed % every.steps == 0 end
  end
  local seconds, last = type(every) == "number" and every or 60, data.clock()
  return function()
    local now = data.clock()
    if now - last < seconds then return false end
    last = now
    return true
  end
end

-- The newest checkpoint that is whole and of this run: {info, tree} and its path, or nil. Torn ones are passed over
-- aloud. last: take none beyond the beginning of that step, which a pass within it is.
local function newest_checkpoint(directory, wanted_identity, last)
  for _, entry in ipairs(checkpoint.list(directory .. "/checkpoints")) do
    local saved, message
    if not last or entry.step <= last then saved, message = checkpoint.load(entry.path) end
    if saved and entry.step == last and origin.is_inside_pass(saved.tree) then saved = nil end
    if saved and saved.info.identity ~= wanted_identity then
      error(("%s: made with another recipe, seed, data or options than this run has now"):format(entry.path), 0)
    end
    if saved then return saved, entry.path end
    if message then io.stderr:write(("perigee: %s; trying the one before\n"):format(message)) end
  end
end

local function last_seconds(path)
  local records = data.exists(path) and journal.read(path)
  local last = records and records[#records]
  return last and tonumber(last.seconds) or 0
end

-- The journal cut back to where the newest usable checkpoint stood, and that checkpoint.
local function reopen(directory, id)
  local path = directory .. "/metrics.jsonl"
  local saved, where = newest_checkpoint(directory, id)
  while saved do
    local opened, message = journal.open(path, tonumber(saved.info.offset))
    if opened then return opened, saved end
    io.stderr:write(("perigee: %s: %s; trying the checkpoint before\n"):format(where, message))
    data.remove(where)
    saved, where = newest_checkpoint(directory, id)
  end
  return must(journal.open(path, 0))
end

-- The name of a living process; nil for none and for one that has ended but was not waited for.
local function command_of(pid)
  local file = io.open(("/proc/%d/stat"):format(pid), "rb")
  local name, state = (file and file:read("a") or ""):match("^%d+ %((.*)%) (%a)")
  if file then file:close() end
  return state ~= "Z" and state ~= "X" and name or nil
end

-- RUN/running holds the number of the process that writes there. Refuse a directory whose process is alive; a number
-- that a kill left behind is of no process, or of one that is something else.
local function take(directory)
  local path, own = directory .. "/running", data.pid()
  local pid = data.exists(path) and tonumber(data.read_file(path))
  if pid and pid ~= own and command_of(pid) and command_of(pid) == command_of(own) then
    error(("%s is being written by process %d; wait for it or end it first"):format(directory, pid), 0)
  end
  data.write_file_atomic(path, ("%d\n"):format(own))
end

-- Where a run lives: { directory, journal, changes, saved, identity, before (seconds spent earlier), origin (of a run
-- that begins now where another one stood), first (the step it began at) }. With out = false it lives in memory only
-- and leaves nothing. When this process lets go of it, by an error too, another may go on.
local Place = {}
function Place:__close()
  self.journal:close()
  if self.directory then data.remove(self.directory .. "/running") end
end

-- Let a new run begin where another one stood.
local function begin_at(place, found)
  place.origin, place.saved, place.before, place.first = found, found.saved, found.seconds, found.step
  for _, record in ipairs(found.records) do place.journal:append(record) end
  place.changes:inherit(found.changes)
end

-- What the run `id` begins at: of `perigee branch`, or of the recipe's `from`; nil for a run of its own.
local function origin_of(inv, spec, id)
  local branch = inv.branch
  if branch and not branch.is_begun and (branch.id or id) == id then
    branch.is_begun = true
    return branch.origin
  end
  return spec.from and origin.find(spec.from, "from =")
end

-- In memory, at what `directory` holds, in which nothing is changed. last: take no checkpoint beyond that step; nil:
-- only that of a finished run will do.
local function look_into(inv, spec, directory, last)
  local path, saved = directory .. "/metrics.jsonl", newest_checkpoint(directory, settings.identity(inv, spec), last)
  if not saved or not last and saved.info.finished ~= "true" then return nil end
  return { saved = saved, before = last_seconds(directory .. "/timing.jsonl"),
    journal = journal.in_memory(must(journal.read(path, math.tointeger(tonumber(saved.info.offset))))),
    changes = changes.open(directory .. "/changes.jsonl", spec.adjust) }
end

local function open_in_memory(inv, spec, id)
  local rehearsal, known = inv.rehearsal, known_directory(inv, id)
  local is_goal = rehearsal and rehearsal.id == id
  local place = rehearsal and known and look_into(inv, spec, known, is_goal and rehearsal.step)
  if not place then
    place = { journal = journal.in_memory(), changes = changes.open(nil, spec.adjust), before = 0 }
    local found = origin_of(inv, spec, id)
    if found then begin_at(place, found) end
  end
  place.goal = is_goal and rehearsal or nil
  return setmetatable(place, Place)
end

local function open_place(inv, spec)
  local id = next_id(inv, spec)
  if spec.out == false or inv.rehearsal then return open_in_memory(inv, spec, id) end
  local directory, existed = find_directory(inv, spec, id)
  local place = { directory = directory, identity = settings.identity(inv, spec), before = 0 }
  take(directory)
  if existed then
    checkpoint.sweep(directory .. "/checkpoints")
    place.journal, place.saved = reopen(directory, place.identity)
    place.before = last_seconds(directory .. "/timing.jsonl")
    place.first = ((settings.of(directory) or {}).branch or {}).step
  else
    place.journal = must(journal.open(directory .. "/metrics.jsonl", 0))
  end
  place.changes = changes.open(directory .. "/changes.jsonl", spec.adjust)
  local found = not place.saved and origin_of(inv, spec, id)
  if found then
    begin_at(place, found)
  elseif place.first and not place.saved then
    error(("%s: it began at step %d of another run, and no checkpoint is left"):format(directory, place.first), 0)
  end
  if not existed and not found then settings.save(inv, spec, directory) end
  return setmetatable(place, Place)
end

local function append_timing(directory, step, seconds)
  local timing <close> = data.open_log(directory .. "/timing.jsonl")
  timing:write(journal.encode { step = step, seconds = seconds } .. "\n")
end

local function checkpoint_path(directory, step)
  return ("%s/checkpoints/step-%d.safetensors"):format(directory, step)
end

-- Save the state after `step` steps, whole or not at all, and let older checkpoints go.
local function save(place, spec, state, step, is_final, seconds)
  checkpoint.save(checkpoint_path(place.directory, step), { state = state }, {
    step = ("%d"):format(step), offset = ("%d"):format(place.journal:sync()), identity = place.identity,
    name = spec.name, numerics = ("%d"):format(core.numerics_version), finished = tostring(is_final),
    changes = ("%d"):format(place.changes.applied),
  })
  checkpoint.prune(place.directory .. "/checkpoints", spec.keep or 2, place.first)
  append_timing(place.directory, step, seconds)
end

-- While this is open, Ctrl-C waits for the run to ask. One that nobody asked about is left to the invocation's next
-- run.
local Listening = {}
function Listening:__close()
  core.announce_interrupt()
  self.invocation.pressed = core.interrupted(false) or nil
end

local function listen(inv)
  core.interrupted() -- from now on one Ctrl-C does not raise
  return setmetatable({ invocation = inv }, Listening)
end

-- What Ctrl-C does in a run: with a person at a terminal the prompt opens; without one, or when they say quit, the run
-- ends here and is saved. inside: what long step it is in the middle of, or nil. Runs that are started at the prompt
-- are no part of this invocation.
local function make_break_in(spec, state, ctx, place)
  local inv, variables = invocation, {}
  local function announce()
    local path = place.directory and ctx.saved and checkpoint_path(place.directory, ctx.saved) or nil
    breakin.announce { directory = place.directory, path = path, resumes = inv.source ~= nil, leaves = inv.leaves }
  end
  local function ask(inside)
    local opened = data.clock()
    if spec.clear then spec.clear() end
    core.interrupted(false)
    invocation = nil
    local goes_on = breakin.open {
      name = spec.name, directory = place.directory, done = ctx.completed, steps = spec.steps, seconds = ctx.seconds(),
      records = place.journal.records, changes = place.changes, state = state,
      names = spec.names and spec.names(ctx) or {}, inside = inside, variables = variables,
      save = function()
        ctx.save(ctx.completed, false)
        return checkpoint_path(place.directory, ctx.completed)
      end,
    }
    invocation = inv
    ctx.idle = ctx.idle + data.clock() - opened
    announce()
    core.interrupted()
    return goes_on
  end
  return function(inside)
    inv.pressed = nil
    if not inv.limit and not inv.rehearsal and breakin.is_possible() and ask(inside) then return end
    ctx.stopped, ctx.interrupted = true, true
  end, announce
end

-- The loop itself, from ctx.completed to `last`.
local function take_steps(spec, state, ctx, last, by_hand)
  local hash_every, interrupted = ctx.hash_every, core.interrupted
  while ctx.completed < last and not ctx.stopped do
    ctx.step = ctx.completed
    if ctx.step >= by_hand.due then by_hand:apply(ctx.step, function(record) ctx.journal:append(record) end) end
    spec.step(state, ctx)
    if ctx.suspended then return end
    ctx.completed = ctx.completed + 1
    if hash_every > 0 and ctx.completed % hash_every == 0 then
      ctx.journal:append { step = ctx.step, state = checkpoint.hash(state) }
    end
    if ctx.completed < last and ctx.due() then ctx.save(ctx.completed, false) end
    if interrupted() or ctx.invocation.pressed then ctx.break_in() end
  end
end

-- Where take_steps is to end.
local function last_step(inv, spec, place)
  if place.goal then return math.min(spec.steps, place.goal.step) end
  if not inv.limit or inv.depth > 1 then return spec.steps end
  return math.min(spec.steps, (place.first or 0) + inv.limit)
end

-- Say what was changed by hand, unless it has been said. → what was said
local function report_changes(spec, by_hand, said)
  local lines = by_hand:summary()
  local text = table.concat(lines, "\n")
  if text == said or text == "" then return text end
  if spec.clear then spec.clear() end
  for _, line in ipairs(lines) do io.stderr:write(("perigee: %s: %s\n"):format(spec.name, line)) end
  return text
end

-- { interrupted = directory or nil, resumes = whether there is a recipe to go on with }
local Interruption = { __tostring = function(raised)
  if not raised.interrupted then return "interrupted; nothing was kept (out = false)" end
  return raised.resumes and "interrupted and saved; go on with: perigee resume " .. raised.interrupted
    or "interrupted and saved in " .. raised.interrupted
end }

-- Begin at another run's state. The settings are written last: without them the directory counts as one that never was.
local function adopt_origin(ctx, spec, state, place)
  local found = place.origin
  local where = ("%s@%d"):format(found.run, found.step)
  if found.step > spec.steps then
    core.raise(("from: %s lies beyond the end of this run, whose %d steps count from the beginning of that one"):format(
      where, spec.steps))
  end
  checkpoint.adopt(state, found.saved.tree.state or {}, where)
  ctx.completed = found.step
  place.changes:restore(#place.changes.list)
  ctx.save(ctx.completed, false)
  if place.directory then settings.save(ctx.invocation, spec, place.directory, found) end
end

-- What the rehearsal was for: everything up to its step, in memory of its own.
local function reach_goal(ctx, state, place)
  local by_hand = place.changes
  place.goal.is_over = true
  place.goal.origin = {
    step = ctx.completed, records = place.journal.records, seconds = ctx.seconds(),
    changes = table.move(by_hand.list, 1, by_hand.applied, 1, {}),
    saved = { info = {}, tree = { state = checkpoint.snapshot(state) } },
  }
end

local REHEARSED = setmetatable({}, { __tostring = function() return "rehearsed" end })

-- The context that `step` sees, at the checkpoint of the place if there is one. Besides: completed (steps), saved (the
-- last one saved, or nil), idle (seconds spent at the prompt), save(step, is_final), due(), break_in(inside),
-- seconds().
local function make_context(inv, spec, state, place)
  local started, saved = data.clock(), place.saved
  local announce
  local ctx = setmetatable({ journal = place.journal, directory = place.directory, run_key = core.key(spec.seed),
    cost = spec.cost, samplers = {}, completed = 0, idle = 0.0, invocation = inv },
    { __index = context_index })
  ctx.hash_every = inv.limit and 1 or spec.hash_every or (place.directory and 100 or 0)
  function ctx.seconds() return place.before + data.clock() - started - ctx.idle end
  ctx.break_in, announce = make_break_in(spec, state, ctx, place)
  function ctx.save(step, is_final)
    if place.directory then save(place, spec, state, step, is_final, ctx.seconds()) end
    ctx.saved = step
    announce()
  end
  ctx.due = place.directory and make_due(spec.checkpoint_every, ctx) or function() return false end
  if place.origin then
    adopt_origin(ctx, spec, state, place)
  elseif saved then
    checkpoint.restore(state, saved.tree.state or {})
    ctx.completed = math.tointeger(tonumber(saved.info.step))
    ctx.saved = ctx.completed
    place.changes:restore(tonumber(saved.info.changes) or 0)
  end
  announce()
  return ctx
end

-- Count a run that begins, until what comes back is closed.
local function enter(inv)
  inv.depth = inv.depth + 1
  return setmetatable({}, { __close = function() inv.depth = inv.depth - 1 end })
end

--- pg.run { name =, steps =, state = {}, step =, seed = 1, … } → result: A loop of one's own with the run directory,
-- logging, checkpoints and resume of pg.train, which is written on it.
--   step(state, ctx): called for every step from where the run stands; plain Lua. ctx: step (from 0), key (of the run
--     and the step), log, batch, stop, pause.
--   state: a table of tensors, vectors, keys, numbers, strings, booleans and tables of them: what a checkpoint holds.
--     What `step` keeps elsewhere is lost in a kill.
--   out (directory; false: leave nothing on disk), checkpoint_every = 60 (seconds, or { steps = n }), keep = 2
--     (checkpoints), hash_every = 100 (steps between hashes of the state in the metrics; 0: none), config (settings to
--     record), cost (a meter whose count every record carries).
--   from ("runs/x@5000"): begin at that step of another run, with its state; what that state lacks stays as given.
--   at_start(ctx), at_end(state, ctx), at_interrupt(ctx): hooks; the last one after Ctrl-C, when the state is saved.
--   adjust = { state = state }: what may be changed at the prompt that Ctrl-C opens: the plain values of a state tree,
--     the hyperparameters of an optimizer ({ optimizer =, optimizer_state = }), or both.
--   names(ctx): a table of further values to show there. clear(): wipe what is shown on the terminal, before a message.
--   result: { state, directory, steps, history, seconds, changes (lines on what was changed by hand) }.
function run.run(spec)
  check_spec(spec, 2)
  local inv = current_invocation()
  local unused = options.unused()
  if unused then options.misused(unused) end
  local rehearsal = inv.rehearsal
  if rehearsal and not rehearsal.id then rehearsal.is_over = true end
  if rehearsal and rehearsal.is_over then error(REHEARSED, 0) end
  spec.seed = spec.seed or 1
  local state = spec.state or {}
  spec.adjust = spec.adjust or { state = state }
  checkpoint.flatten(state) -- says now, not at the first checkpoint, what cannot be saved
  local place <close> = open_place(inv, spec)
  local by_hand <close> = place.changes
  local listening <close> = listen(inv) -- luacheck: ignore 211
  local counted <close> = enter(inv) -- luacheck: ignore 211
  local saved, ctx = place.saved, make_context(inv, spec, state, place)
  if spec.at_start then spec.at_start(ctx) end
  if inv.inspect and spec.inspect then inv.inspect(spec.inspect()) end
  local said = report_changes(spec, by_hand)

  local total
  if saved and saved.info.finished == "true" and not place.origin then
    total = place.before
  else
    take_steps(spec, state, ctx, last_step(inv, spec, place), by_hand)
    if place.goal and ctx.completed == place.goal.step then
      reach_goal(ctx, state, place)
      error(REHEARSED, 0)
    end
    local finished = (ctx.completed == spec.steps or ctx.stopped) and not ctx.interrupted
    -- A run that was cut short goes on, if it goes on, from before its evaluation; the recipe still gets one.
    if not finished then ctx.save(ctx.completed, false) end
    if spec.at_end and not ctx.interrupted then
      ctx.step = ctx.completed
      spec.at_end(state, ctx)
    end
    if finished then
      ctx.save(ctx.completed, true)
      report_changes(spec, by_hand, said)
    end
    total = ctx.seconds()
  end
  if place.directory then
    inv.done[#inv.done + 1] = { name = spec.name, directory = place.directory, steps = ctx.completed }
  end
  if ctx.interrupted and spec.at_interrupt then spec.at_interrupt(ctx) end
  if ctx.interrupted then
    error(setmetatable({ interrupted = place.directory, resumes = inv.source ~= nil }, Interruption), 0)
  end
  return { state = state, directory = place.directory, steps = ctx.completed, history = place.journal.records,
    seconds = total, changes = by_hand:summary() }
end

return run
