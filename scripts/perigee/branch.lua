-- branch.lua: `perigee branch RUN@STEP key=value …`: a run's recipe executed again with changed options, from a step
-- on. Owns how that step is reached where there is no checkpoint of it: the recipe is rehearsed in memory, with its own
-- options, from the newest checkpoint before.

local cli = require "perigee.cli"
local core = require "perigee.core"
local options = require "perigee.options"
local origin = require "perigee.origin"

local branch = {}

local function misused(format, ...) options.misused(format:format(...)) end

-- The words of a run with those given in their place, or behind them.
local function merge_words(before, given)
  local out, place = {}, {}
  for i, word in ipairs(before) do out[i], place[word[1]] = word, i end
  local is_given = {}
  for _, word in ipairs(given) do
    if is_given[word[1]] then misused("option %s is given twice", word[1]) end
    is_given[word[1]] = true
    out[place[word[1]] or #out + 1] = word
  end
  return out
end

-- Execute a run's recipe up to a step in memory, saying nothing. rehearsal: as run.begin_invocation takes it. → the
-- exit code if that failed, else nil
local function rehearse(found, directory, words, flags, rehearsal)
  local code = cli.call_muted(cli.run_source, {
    path = found.recipe or directory .. "/recipe.lua", chunkname = directory .. "/recipe.lua", source = found.source,
    words = words, flags = flags, resume = found.resume, rehearsal = rehearsal, root = directory,
    report = function(raised) return rehearsal.is_over and 0 or cli.report(raised) end,
  })
  return code ~= 0 and code or nil
end

-- The run's state at a step, from a checkpoint or by repeating it, or nil and an exit code. words: the new ones, which
-- are tried before a long repetition.
local function reach(found, directory, step, words, flags)
  local at, others = origin.at(directory, step)
  if at then return at end
  local steps = found.settings.steps
  if step > steps then misused("%s ends at step %d, before %d", directory, steps, step) end
  local first = (found.settings.branch or {}).step
  if first and step < first then
    misused("%s begins at step %d of %s: branch that one", directory, first, found.settings.branch.run)
  end
  local code = rehearse(found, directory, words, flags, {})
  if code then return nil, code end
  local before = 0
  for _, other in ipairs(others) do
    local n = math.tointeger(tonumber(other))
    if n <= step then before = math.max(before, n) end
  end
  local notice = "perigee: there is no checkpoint of step %d; repeating %s from step %d\n"
  io.stderr:write(notice:format(step, directory, before))
  local rehearsal = { id = found.id, step = step }
  code = rehearse(found, directory, found.words, flags, rehearsal)
  if code then return nil, code end
  at = rehearsal.origin
  if not at then misused("%s ends before step %d", directory, step) end
  at.run, at.group = directory, origin.group(found.settings)
  return at
end

-- Which run of the new execution goes on from the old one: the one of the same name, or, if the recipe made but one,
-- the first.
local function id_of(found)
  local runs = 0
  for _ in next, found.resume.runs do runs = runs + 1 end
  return runs > 1 and found.id or nil
end

-- `perigee branch RUN@STEP key=value …` → exit code. found: of settings.read.
function branch.main(found, directory, step, given, flags)
  local words = merge_words(found.words, given)
  local at, code = reach(found, directory, step, words, flags)
  if not at then return code end
  local target = { id = id_of(found), origin = at }
  local done
  code, done = cli.run_source { path = found.recipe or directory .. "/recipe.lua",
    chunkname = directory .. "/recipe.lua", source = found.source, words = words, flags = flags, branch = target,
    suffix = ("from%d"):format(step), root = flags.runs or directory:match("^(.*)/[^/]*$") or "." }
  if code == 0 and not target.is_begun then
    core.raise(("with these options the recipe makes no run %s to go on with"):format(target.id))
  end
  return code, done
end

return branch
