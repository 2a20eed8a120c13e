-- tuning.lua: choosing settings from grids, and numbers over seeds. For recipes: local tuning = require "parts.tuning".

local pg = require "perigee"

local tuning = {}

-- pg.train, or nil where the run diverges: too large a step is an answer, too.
function tuning.train(spec)
  local ok, run = pcall(pg.train, spec)
  if ok then return run end
  if not tostring(run):find("not finite", 1, true) then error(run, 0) end
end

local CHUNK = 1000

-- A function of theta: the mean cross-entropy of a classifier over a split, and its accuracy.
function tuning.judge(model, split)
  local score, batches = pg.jit(function(theta, x, y)
    local out = model(theta, x, { train = false })
    return pg.cross_entropy(out, y), pg.metric.accuracy(out, { y = y }):to("f32"):mean()
  end), {}
  for first = 1, split.n, CHUNK do
    batches[#batches + 1] = split:rows(first, math.min(first + CHUNK - 1, split.n)):all()
  end
  return function(theta)
    local total, right = 0, 0
    for _, batch in ipairs(batches) do
      local n, mean, accuracy = batch.id.shape[1], score(theta, batch.x, batch.y)
      total, right = total + n * mean:item(), right + n * accuracy:item()
    end
    return total / split.n, right / split.n
  end
end

-- The mean of a list, and its standard deviation (by n - 1).
function tuning.mean_and_spread(list)
  local mean, square = 0, 0
  for _, v in ipairs(list) do mean = mean + v / #list end
  for _, v in ipairs(list) do square = square + (v - mean) ^ 2 end
  return mean, (square / math.max(1, #list - 1)) ^ 0.5
end

function tuning.median(list)
  local sorted = { table.unpack(list) }
  table.sort(sorted)
  local m = #sorted // 2
  return #sorted % 2 == 1 and sorted[m + 1] or 0.5 * (sorted[m] + sorted[m + 1])
end

-- "lr 0.1, momentum 0.9"
function tuning.describe(setting)
  local parts = {}
  for name, v in pairs(setting) do parts[#parts + 1] = ("%s %g"):format(name, v) end
  return table.concat(parts, ", ")
end

-- The names of the parameters whose value is the first or last of its list, of lists with values between.
local function at_edge(setting, lists)
  local names = {}
  for name, list in pairs(lists) do
    local v = setting[name]
    if #list > 2 and (v == list[1] or v == list[#list]) then names[#names + 1] = name end
  end
  return table.concat(names, ", ")
end

-- The setting of a grid { name = list, … } whose score_of(setting) is least; NaN counts as infinity.
-- → { setting, score, edge = names of what lies at an edge, tried = text on all }
function tuning.choose(lists, score_of)
  local best, tried = nil, {}
  for setting in pg.grid(lists) do
    local score = score_of(setting)
    if score ~= score then score = math.huge end
    tried[#tried + 1] = ("%s: %.4f"):format(tuning.describe(setting), score)
    if not best or score < best.score then best = { setting = setting, score = score } end
  end
  best.edge, best.tried = at_edge(best.setting, lists), table.concat(tried, "   ")
  return best
end

-- The power of `base` whose score_of(power, exponent) is least: beginning with the exponents around `first`, the grid
-- grows on the side where the best one lies, to at most `most` steps between its ends. → exponent, low, high, score
function tuning.search(base, first, most, score_of)
  local scores, low, high = {}, first - 1, first + 1
  local function score(k)
    scores[k] = scores[k] or score_of(base ^ k, k)
    return scores[k]
  end
  local best = first
  repeat
    for k = low, high do
      if score(k) < score(best) then best = k end
    end
    local inside = best > low and best < high
    if best == low then low = low - 1 elseif best == high then high = high + 1 end
  until inside or high - low > most
  return best, low, high, score(best)
end

return tuning
