-- compare.lua: runs side by side: which differ only in their seed, how one quantity went with another, means and spread
-- over seeds, as a table, as text and as SVG. Owns the reading of run directories for that. Changes nothing in them.

local core = require "perigee.core"
local journal = require "perigee.journal"
local names = require "perigee.names"
local options = require "perigee.options"
local plot = require "perigee.plot"
local plot_axes = require "perigee.plot_axes"
local settings = require "perigee.settings"
local text_table = require "perigee.table"

local data = core.data

local compare = {}

local function misused(format, ...) options.misused(format:format(...)) end

-- ---- runs -----------------------------------------------------------------------------------------------------------

-- Seconds at each step that a timing record stands for, linearly between: a function of the number of steps made.
local function clock_of(directory)
  local path, steps, seconds = directory .. "/timing.jsonl", { 0 }, { 0 }
  for _, record in ipairs(data.exists(path) and journal.read(path) or {}) do
    if record.step > steps[#steps] then steps[#steps + 1], seconds[#steps + 1] = record.step, record.seconds end
  end
  return function(step)
    local i = 1
    while steps[i + 1] and steps[i + 1] < step do i = i + 1 end
    if not steps[i + 1] then return seconds[i] end
    return seconds[i] + (step - steps[i]) / (steps[i + 1] - steps[i]) * (seconds[i + 1] - seconds[i])
  end
end

-- A run: { directory, settings, records }, the records with seconds.
local function read_run(directory, found)
  local path = directory .. "/metrics.jsonl"
  local records, message = {}, nil
  if data.exists(path) then records, message = journal.read(path) end
  if not records then misused("%s", message) end
  local clock = clock_of(directory)
  for _, record in ipairs(records) do
    -- a step logs its number, from 0; what is logged at the end, the number of steps
    record.seconds = clock(math.min(record.step + 1, found.steps))
  end
  return { directory = directory, settings = found, records = records }
end

-- Add the runs that stand in a directory.
local function add_runs_inside(list, path)
  for _, name in ipairs(data.exists(path) and data.stat(path).type == "directory" and data.list(path) or {}) do
    local inside = path .. "/" .. name
    local found = settings.of(inside)
    if found then list[#list + 1] = read_run(inside, found) end
  end
  return list
end

-- The runs that a word of the command line names: a run directory, or one that holds run directories.
local function add_runs(list, path)
  path = path:gsub("(.)/+$", "%1")
  local found = data.exists(path) and settings.of(path)
  if found then
    list[#list + 1] = read_run(path, found)
    return
  end
  local before = #list
  add_runs_inside(list, path)
  if #list == before then misused("%s: neither a run directory nor one that holds some", path) end
end

-- ---- groups ---------------------------------------------------------------------------------------------------------

-- The name of a run without its seed: "sgd-3" with seed 3 is "sgd".
local function name_without_seed(found)
  for _, pattern in ipairs { "^(.+)[-_.]seed%s$", "^(.+)[-_.]s%s$", "^(.+)[-_.]%s$" } do
    local name = found.name:match(pattern:format((("%d"):format(found.seed):gsub("%-", "%%-"))))
    if name then return name end
  end
  return found.name
end

-- The key=value words without the seed's, and without one that only gave the name.
local function words_without_seed(found)
  local words = {}
  for _, word in ipairs(found.arguments or {}) do
    local key, value = word:match("^(.-)=(.*)$")
    if key ~= "seed" and value ~= found.name then words[#words + 1] = word end
  end
  table.sort(words)
  return words
end

-- A text that runs have in common if they differ only in their seed.
local function key_of(run)
  local found = run.settings
  local path = run.directory .. "/recipe.lua"
  local parts = { name_without_seed(found), table.concat(words_without_seed(found), " "),
    data.json_encode(found.config or {}), data.exists(path) and data.sha256(data.read_file(path)) or "" }
  local branch = found.branch
  while branch do
    parts[#parts + 1] = ("%d %s %s"):format(branch.step, branch.group.name or "",
      table.concat(words_without_seed(branch.group), " "))
    branch = branch.group.branch
  end
  return table.concat(parts, "\0")
end

-- What a group is called: its name, with the words that tell it from others of that name.
local function label_groups(groups)
  local by_name = {}
  for _, group in ipairs(groups) do
    local name = name_without_seed(group.runs[1].settings)
    by_name[name] = by_name[name] or {}
    table.insert(by_name[name], group)
  end
  for name, same in next, by_name do
    local count = {}
    for _, group in ipairs(same) do
      for _, word in ipairs(words_without_seed(group.runs[1].settings)) do count[word] = (count[word] or 0) + 1 end
    end
    local said = {}
    for _, group in ipairs(same) do
      local found = group.runs[1].settings
      local parts = { #same > 1 and found.branch and ("%s@%d"):format(name, found.branch.step) or name }
      for _, word in ipairs(words_without_seed(found)) do
        if count[word] < #same then parts[#parts + 1] = word end
      end
      group.label = table.concat(parts, " ")
      said[group.label] = (said[group.label] or 0) + 1
    end
    for _, group in ipairs(same) do
      if said[group.label] > 1 then group.label = group.runs[1].directory end
    end
  end
end

-- Runs in groups that differ only in the seed, in the order in which they came: {{ runs, label }, …}. The same seed a
-- second time begins a group of its own: a repetition, or a difference that the settings do not tell.
local function group_runs(runs)
  local groups, by_key = {}, {}
  for _, run in ipairs(runs) do
    local key, seed = key_of(run), run.settings.seed
    while by_key[key] and by_key[key].seeds[seed] do key = key .. "+" end
    local group = by_key[key]
    if not group then
      group = { runs = {}, seeds = {} }
      by_key[key], groups[#groups + 1] = group, group
    end
    group.seeds[seed] = true
    table.insert(group.runs, run)
  end
  label_groups(groups)
  return groups
end

-- ---- quantities -----------------------------------------------------------------------------------------------------

-- Everything runs log beside what they are logged against: "loss", "test.loss", …
local function quantities_of(runs)
  local known = {}
  for _, run in ipairs(runs) do
    for _, record in ipairs(run.records) do
      for key, value in next, record do
        if type(value) == "number" then known[record.split and record.split .. "." .. key or key] = true end
      end
    end
  end
  for _, name in ipairs(names.sorted(known)) do
    local bare = name:match("^.-%.(.*)$") or name
    if names.includes({ "step", "gradients", "epoch", "seconds" }, bare) then known[name] = nil end
  end
  return names.sorted(known)
end

-- "test.loss" → split, field. A quantity that only one split has may be named without it.
local function find_quantity(runs, wanted)
  local known = quantities_of(runs)
  if not names.includes(known, wanted) then
    local found = {}
    for _, name in ipairs(known) do
      if name:match("^.-%.(.*)$") == wanted then found[#found + 1] = name end
    end
    if #found ~= 1 then
      misused("y=%s: the runs log no such thing%s (they log %s)", wanted, options.hint(wanted, known),
        #known > 0 and table.concat(known, ", ") or "nothing")
    end
    wanted = found[1]
  end
  local split, field = wanted:match("^(.-)%.(.*)$")
  return wanted, split, field or wanted
end

-- ---- over seeds -----------------------------------------------------------------------------------------------------

local function same_list(a, b)
  for i = 1, math.max(#a, #b) do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- The curves of a group at common positions: those of the first run, as far as all runs go, and linearly between points
-- where the others were logged elsewhere. → xs, list of lists of values
local function align(curves)
  local xs, all_same = curves[1].x, true
  local low, high = -math.huge, math.huge
  for _, curve in ipairs(curves) do
    all_same = all_same and same_list(curve.x, xs)
    low, high = math.max(low, curve.x[1] or math.huge), math.min(high, curve.x[#curve.x] or -math.huge)
  end
  local values, kept = {}, {}
  for _, x in ipairs(xs) do
    if x >= low and x <= high then kept[#kept + 1] = x end
  end
  for k, curve in ipairs(curves) do
    values[k] = all_same and curve.y or {}
    for i, x in ipairs(all_same and {} or kept) do
      values[k][i] = plot_axes.value_at(curve, x) or 0 / 0
    end
  end
  return all_same and xs or kept, values
end

local function statistics_of(values)
  local sum, low, high = 0, math.huge, -math.huge
  for _, v in ipairs(values) do
    sum = sum + v
    -- a comparison with nan is false: one that diverged must not vanish from the spread
    if v ~= v then low, high = v, v end
    low, high = math.min(low, v), math.max(high, v)
  end
  return { mean = sum / #values, low = low, high = high, n = #values }
end

-- The mean curve of a group with the spread as a band.
local function mean_curve(label, curves)
  local xs, values = align(curves)
  local series = { name = label, x = xs, y = {}, low = #curves > 1 and {} or nil, high = #curves > 1 and {} or nil }
  for i = 1, #xs do
    local column = {}
    for k, list in ipairs(values) do column[k] = list[i] end
    local found = statistics_of(column)
    series.y[i] = found.mean
    if series.low then series.low[i], series.high[i] = found.low, found.high end
  end
  return series
end

-- The best value of a curve and where it was; nan counts as worst.
local function best_of(curve, largest)
  local best, where
  for i, y in ipairs(curve.y) do
    local better = not best or largest and y > best or not largest and y < best
    if y == y and better then best, where = y, curve.x[i] end
  end
  return best or 0 / 0, where or curve.x[#curve.x]
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local function number(x)
  if x ~= x then return "nan" end
  local size = math.abs(x)
  if x == math.floor(x) and size >= 1000 and size < 1e15 then return text_table.thousands(math.floor(x)) end
  return ("%.5g"):format(x)
end

local function spread(found)
  return found.n > 1 and ("%s … %s"):format(number(found.low), number(found.high)) or ""
end

local function seeds_of(group)
  local seeds = {}
  for i, run in ipairs(group.runs) do seeds[i] = ("%d"):format(run.settings.seed) end
  return #seeds <= 4 and table.concat(seeds, ", ") or ("%d of them"):format(#seeds)
end

local function add_row(rows, group, curves, x, largest)
  local finals, bests, wheres, costs, seconds = {}, {}, {}, {}, {}
  for i, curve in ipairs(curves) do
    finals[i] = curve.y[#curve.y]
    bests[i], wheres[i] = best_of(curve, largest)
    costs[i] = curve.x[#curve.x]
    local records = group.runs[i].records
    seconds[i] = records[#records].seconds
  end
  local final, best = statistics_of(finals), statistics_of(bests)
  local row = { group.label, seeds_of(group), number(final.mean), spread(final), number(best.mean), spread(best),
    number(statistics_of(wheres).mean), number(statistics_of(costs).mean) }
  if x ~= "seconds" then row[#row + 1] = ("%.1f"):format(statistics_of(seconds).mean) end
  rows[#rows + 1] = row
end

-- Whether larger values of a quantity are better.
local function is_better_large(field) return field:find("acc", 1, true) ~= nil end

-- ---- the command ----------------------------------------------------------------------------------------------------

local AGAINST = { "gradients", "step", "epoch", "seconds" }
local XLABEL = { gradients = "gradient evaluations" }
local KNOWN = { "x", "y", "svg", "log", "logx", "title" }

-- → paths, options
local function read_words(words)
  local paths, given = {}, {}
  for _, word in ipairs(words) do
    local key, value = word:match("^([%a_][%w_]*)=(.*)$")
    if not key or data.exists(word) then
      paths[#paths + 1] = word
    elseif not names.includes(KNOWN, key) then
      misused("unknown option %s%s (options: %s)", key, options.hint(key, KNOWN), table.concat(KNOWN, ", "))
    else
      given[key] = value
    end
  end
  if #paths == 0 then misused("expected run directories; see --help") end
  for _, key in ipairs { "log", "logx" } do
    if given[key] and given[key] ~= "true" and given[key] ~= "false" then
      misused("option %s=%s: expected true or false", key, given[key])
    end
    given[key] = given[key] == "true"
  end
  given.x = given.x or "gradients"
  if not names.includes(AGAINST, given.x) then
    misused("option x=%s: expected one of %s", given.x, table.concat(AGAINST, ", "))
  end
  return paths, given
end

-- Where runs branched off, in the units of x.
local function branch_marks(runs, x)
  local marks, seen = {}, {}
  for _, run in ipairs(runs) do
    local branch = run.settings.branch
    local at
    for _, record in ipairs(branch and run.records or {}) do
      if not record.split and record.step < branch.step then at = record[x] or at end
    end
    if at and not seen[at] then marks[#marks + 1], seen[at] = { x = at, name = "branch" }, true end
  end
  return marks
end

-- What runs logged of y against x, for people and for pg.plot: table text, series, plot options. asked: { x =, y = }.
function compare.tabulate(runs, asked)
  local y, split, field = find_quantity(runs, asked.y or "loss")
  local rows, series, groups = {}, {}, group_runs(runs)
  for _, group in ipairs(groups) do
    local curves, with = {}, {}
    for _, run in ipairs(group.runs) do
      local curve = journal.series(run.records, field, asked.x, "", split)
      if #curve.x > 0 then curves[#curves + 1], with[#with + 1] = curve, run end
    end
    local measured = { label = group.label, runs = with }
    if #curves > 0 then
      add_row(rows, measured, curves, asked.x, is_better_large(field))
      series[#series + 1] = mean_curve(group.label, curves)
    else
      rows[#rows + 1] = { group.label, seeds_of(group), "-" }
    end
  end
  if #series == 0 then misused("x=%s: the runs log %s, but not against that", asked.x, y) end
  local heads = { "run", "seed", "final " .. y, "min … max", is_better_large(field) and "largest" or "least",
    "min … max", "at " .. asked.x, asked.x }
  if asked.x ~= "seconds" then heads[#heads + 1] = "seconds" end
  return text_table.format(heads, rows, { [2] = true }), series, { xlabel = XLABEL[asked.x] or asked.x, ylabel = y,
    title = asked.title, log = asked.log, logx = asked.logx, marks = branch_marks(runs, asked.x) }
end

-- The runs that stand in a directory.
function compare.read_inside(directory) return add_runs_inside({}, directory) end

-- What is best shown of runs: x, y; nil if they log nothing.
function compare.choose_quantities(runs)
  local known, x = quantities_of(runs), "step"
  for _, run in ipairs(runs) do
    if run.records[1] and run.records[1].gradients then x = "gradients" end
  end
  for _, y in ipairs { "test.loss", "loss", known[1] } do
    if names.includes(known, y) then return x, y end
  end
end

-- The runs in these directories.
function compare.read(paths)
  local runs = {}
  for _, path in ipairs(paths) do add_runs(runs, path) end
  return runs
end

-- `perigee compare RUN… key=value …` → exit code.
function compare.main(words)
  local paths, given = read_words(words)
  local text, series, opts = compare.tabulate(compare.read(paths), given)
  io.write(plot.draw(series, opts), "\n", text)
  local several = false
  for _, one in ipairs(series) do several = several or one.low ~= nil end
  if several then io.write("Values are means over the seeds, with the least and the largest beside them.\n") end
  if given.svg then
    local ok, message = pcall(data.write_file_atomic, given.svg, plot.svg(series, opts))
    if not ok then misused("%s", tostring(message)) end
    io.write("wrote ", given.svg, "\n")
  end
  return 0
end

return compare
