-- streams.lua: further batches that the steps of pg.train see beside their own, each from data of its own by a sampler
-- of its own, under a name: the loss finds them as batch.NAME. Methods with an inner and an outer problem are made of
-- these. Owns how they are described, bound and put into a step's batch.

local core = require "perigee.core"
local drawn = require "perigee.sampler_drawn"
local names = require "perigee.names"
local sampler = require "perigee.sampler"

local streams = {}

-- Raise at the recipe's line what is wrong with the streams given to pg.train.
function streams.check(given)
  local function need(ok, format, ...)
    if not ok then core.raise("pg.train: " .. format:format(...)) end
  end
  need(type(given) == "table", "streams is a table, as { outer = { data = split, batch = 32 } }, not %s",
    names.describe(given))
  for _, name in ipairs(names.sorted(given)) do
    local stream = given[name]
    need(type(name) == "string" and name:match "^[%a_][%w_]*$", "streams: %s is no name of a field",
      names.describe(name))
    names.check("pg.train's streams." .. name, stream, { "data", "batch", "sampler" })
    need(type(stream.data) == "table" and type(stream.data.n) == "number", "streams.%s.data must be a split, not %s",
      name, names.describe(stream.data))
    need((stream.batch == nil) ~= (stream.sampler == nil), "streams.%s needs one of batch and sampler", name)
    local batch = stream.batch
    need(batch == nil or type(batch) == "number" and batch % 1 == 0 and batch >= 1,
      "streams.%s.batch must be a whole number of examples, not %s", name, names.describe(batch))
    need(batch or sampler.is(stream.sampler), "streams.%s.sampler must be a sampler, not %s", name,
      names.describe(stream.sampler))
  end
end

-- The streams of a run, bound: a list of { name, source }. key: of the run.
function streams.bind(given, key, dtype)
  local list = {}
  for i, name in ipairs(names.sorted(given or {})) do
    local stream, own = given[name], key:fold("stream " .. name)
    list[i] = { name = name, source = stream.batch and drawn.going_round(stream.data, own, dtype, stream.batch)
      or stream.sampler:bind(stream.data, own, dtype) }
  end
  return list
end

-- Put what a step of the streams sees into its batch, as fields NAME.x, …, which programs see as batch.NAME.x.
function streams.add(list, step, batch)
  for i = 1, #list do
    local prefix = list[i].name .. "."
    for field, value in next, (list[i].source:at(step)) do batch[prefix .. field] = value end
  end
end

return streams
