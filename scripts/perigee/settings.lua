-- settings.lua: what a run directory says of how its run came about: settings.json, the recipe beside it, and which
-- other runs one execution of that recipe made (invocation.json). Owns those files and the identity of a run, which its
-- checkpoints carry.

local core = require "perigee.core"
local data = core.data
local options = require "perigee.options"

local settings = {}

-- A new directory: `wanted`, or `wanted`-2, -3, …
function settings.claim(wanted)
  local path, i = wanted, 1
  while data.exists(path) do
    i = i + 1
    path = ("%s-%d"):format(wanted, i)
  end
  data.mkdir(path)
  return path
end

local function versions()
  return { perigee = core.version, format = core.format_version, numerics = core.numerics_version, lua = _VERSION }
end

-- key=value words, {{key, text}, …}, as a list of texts.
function settings.join(words)
  local texts = {}
  for i, word in ipairs(words) do texts[i] = word[1] .. "=" .. word[2] end
  return texts
end

-- What must be the same for a run to be the same: a text whose hash goes into every checkpoint.
function settings.identity(inv, spec)
  local parts = { spec.name, ("%d"):format(spec.seed), inv.source or "", spec.identity or "" }
  table.move(settings.join(inv.words), 1, #inv.words, #parts + 1, parts)
  return data.sha256(table.concat(parts, "\0"))
end

local function write_json(path, value) data.write_file_atomic(path, data.json_encode(value) .. "\n") end

-- The table in a JSON file; nil if there is none.
local function read_json(path)
  local text = data.exists(path) and data.read_file(path)
  local ok, value = pcall(data.json_decode, text or "")
  return ok and type(value) == "table" and value or nil
end

-- origin: of a run that goes on from another one (branch.lua), else nil.
function settings.save(inv, spec, directory, origin)
  if inv.source then data.write_file_atomic(directory .. "/recipe.lua", inv.source) end
  write_json(directory .. "/settings.json", {
    name = spec.name, seed = spec.seed, steps = spec.steps, recipe = inv.recipe,
    arguments = data.json_array(settings.join(inv.words)), options = options.resolved, config = spec.config,
    invocation = inv.first, trust = inv.trust or false, versions = versions(), machine = core.doctor(),
    branch = origin and { run = origin.run, step = origin.step, group = origin.group },
  })
  write_json(inv.first .. "/invocation.json", { first = inv.first, runs = inv.runs })
end

-- The settings.json of a run directory as a table; nil if it has none.
function settings.of(directory) return read_json(directory .. "/settings.json") end

-- The id of the run in `directory` among `runs` (id → directory) of its execution.
local function find_id(runs, directory, name)
  local real = data.realpath(directory)
  for id, path in next, runs do
    if path == directory or real and data.realpath(path) == real then return id end
  end
  return name .. "#1"
end

-- What it takes to execute the recipe of a run directory again, or nil and a message: { recipe, source, words, trust,
-- resume = { first, runs }, settings, id (of the run among resume.runs) }.
function settings.read(directory)
  directory = directory:gsub("(.)/+$", "%1")
  if not data.exists(directory) then return nil, ("%s: no such run directory"):format(directory) end
  if data.stat(directory).type ~= "directory" then
    return nil, ("%s is no run directory; a recipe is run by: perigee %s"):format(directory, directory)
  end
  local found = settings.of(directory)
  for _, one in ipairs(found and {} or data.list(directory)) do
    if data.exists(("%s/%s/settings.json"):format(directory, one)) then
      return nil, ("%s holds runs but is none itself; name one, as %s/%s"):format(directory, directory, one)
    end
  end
  if not found then
    return nil, ("%s: no settings.json there; the run was ended before it began, so start it again"):format(directory)
  end
  local group = read_json((found.invocation or directory) .. "/invocation.json")
  if not group or type(group.runs) ~= "table" then
    group = { first = directory, runs = { [found.name .. "#1"] = directory } }
  end
  local source = data.exists(directory .. "/recipe.lua") and data.read_file(directory .. "/recipe.lua")
  if not source then return nil, ("%s: no recipe.lua there"):format(directory) end
  local words = options.split(found.arguments or {})
  if not words then return nil, directory .. "/settings.json: bad arguments" end
  return { recipe = found.recipe, source = source, words = words, trust = found.trust, resume = group,
    settings = found, id = find_id(group.runs, directory, found.name) }
end

return settings
