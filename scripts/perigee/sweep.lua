-- sweep.lua: `perigee RECIPE.lua lr=0.1,0.3 seed=1..5`: a recipe executed for every combination of its options, one
-- after another. Owns the directory of a grid: grid.json (the words, and which combinations have ended), the recipe,
-- and the runs, whose directories' names tell their combination. `perigee resume` of that directory goes on with it.

local cli = require "perigee.cli"
local compare = require "perigee.compare"
local grid = require "perigee.grid"
local options = require "perigee.options"
local settings = require "perigee.settings"

local data = require("perigee.core").data

local sweep = {}

local function misused(format, ...) options.misused(format:format(...)) end

-- ---- the grid's directory -------------------------------------------------------------------------------------------

-- A grid: { directory, recipe (path), source, words, trust, ended (combination as text → "done" or "failed") }.

local function save(self)
  data.write_file_atomic(self.directory .. "/grid.json", data.json_encode {
    recipe = self.recipe, words = data.json_array(settings.join(self.words)), trust = self.trust or false,
    ended = self.ended,
  } .. "\n")
end

-- The grid in a directory, or nil if there is none.
local function open(directory)
  local path = directory .. "/grid.json"
  if not data.exists(path) then return nil end
  local ok, found = pcall(data.json_decode, data.read_file(path))
  local words = ok and type(found) == "table" and options.split(found.words or {})
  if not words then misused("%s: damaged", path) end
  return { directory = directory, recipe = found.recipe, source = data.read_file(directory .. "/recipe.lua"),
    words = words, trust = found.trust, ended = found.ended or {} }
end

-- A new one, in a directory of its own below `root`.
local function create(path, source, words, flags)
  local name = path:match("([^/]*)%.lua$") or path:match("[^/]*$")
  local self = { recipe = path, source = source, words = words, trust = flags.trust, ended = {} }
  self.directory = settings.claim(("%s/%s-grid"):format(flags.runs or "runs", name))
  data.write_file_atomic(self.directory .. "/recipe.lua", source)
  save(self)
  return self
end

-- ---- executing ------------------------------------------------------------------------------------------------------

-- What a recipe declares with pg.options: it is executed up to there, or to its first run.
local function defaults_of(self, flags)
  local declared
  options.on_declare = function(defaults)
    declared = defaults
    error("declared", 0)
  end
  local _ <close> = setmetatable({}, { __close = function() options.on_declare = nil end })
  local rehearsal = {}
  local code = cli.call_muted(cli.run_source, { path = self.recipe, chunkname = self.recipe, source = self.source,
    words = {}, flags = flags, rehearsal = rehearsal,
    report = function(raised) return (declared or rehearsal.is_over) and 0 or cli.report(raised) end })
  return declared or {}, code
end

-- The runs of an earlier execution of this combination, to go on with: what settings.read says of its first one.
local function find_begun(self, words)
  local wanted = table.concat(settings.join(words), "\0")
  for _, name in ipairs(data.list(self.directory)) do
    local path = self.directory .. "/" .. name
    local found = settings.of(path)
    if found and not found.branch and table.concat(found.arguments or {}, "\0") == wanted then
      return settings.read(found.invocation or path)
    end
  end
end

-- Words, without those that are the same in all combinations, as a name.
local function name_of(words, varies)
  local telling = {}
  for _, word in ipairs(words) do
    if varies[word[1]] then telling[#telling + 1] = word end
  end
  return grid.name_of(telling)
end

-- The text of a combination, by which grid.json knows it.
local function text_of(words) return table.concat(settings.join(words), " ") end

-- Execute the recipe for one combination. → "done", "failed", or nil if a person interrupted it
local function execute(self, words, name, flags)
  local begun = find_begun(self, words)
  local interrupted = false
  local code = cli.run_source { path = self.recipe, chunkname = self.recipe, source = self.source, words = words,
    flags = flags, root = self.directory, write = flags.runs or "runs", suffix = name, resume = begun and begun.resume,
    report = function(raised)
      interrupted = cli.is_interruption(raised)
      return cli.report(raised)
    end }
  if interrupted then return nil end
  return code == 0 and "done" or "failed"
end

-- What the runs came to, as `perigee compare` has it.
local function summarize(self, combinations)
  local failed = 0
  for _, words in ipairs(combinations) do
    if self.ended[text_of(words)] == "failed" then
      failed = failed + 1
      io.write(("failed: %s\n"):format(text_of(words)))
    end
  end
  local runs = compare.read_inside(self.directory)
  local x, y = compare.choose_quantities(runs)
  if y then io.write((compare.tabulate(runs, { x = x, y = y }))) end
  local done = #combinations - failed
  io.write(("%d of %d combinations done%s\n"):format(done, #combinations,
    done > 0 and ("; perigee compare %s draws them"):format(self.directory) or ""))
  return failed == 0 and 0 or 1
end

-- Execute what is left of a grid. → exit code
local function run_all(self, combinations, varies, flags)
  for i, words in ipairs(combinations) do
    local text = text_of(words)
    if self.ended[text] ~= "done" then
      io.stderr:write(("perigee: %d of %d: %s\n"):format(i, #combinations, text))
      self.ended[text] = execute(self, words, name_of(words, varies), flags)
      save(self)
      if not self.ended[text] then
        io.stderr:write(("perigee: the grid goes on with: perigee resume %s\n"):format(self.directory))
        return 1
      end
    end
  end
  return summarize(self, combinations)
end

-- Run the recipe at `path` for every combination that `words` stand for: the exit code. nil and the words if that is
-- just one.
function sweep.main(path, source, words, flags)
  local defaults, code = defaults_of({ recipe = path, source = source }, flags)
  if code ~= 0 then return code end
  local combinations, varies = grid.expand(words, defaults)
  if #combinations == 1 then return nil, combinations[1] end
  return run_all(create(path, source, words, flags), combinations, varies, flags)
end

-- Go on with the grid in a directory; nil if there is none.
function sweep.resume(directory, flags)
  local self = open(directory)
  if not self then return nil end
  if self.trust and not flags.trust then misused("%s was run with --trust; say so again", directory) end
  local defaults, code = defaults_of(self, flags)
  if code ~= 0 then return code end
  local combinations, varies = grid.expand(self.words, defaults)
  return run_all(self, combinations, varies, flags)
end

return sweep
