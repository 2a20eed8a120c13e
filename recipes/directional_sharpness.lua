-- Why is Adam faster than SGD on text? How curved the loss is in the directions that optimizers step in.
--
--   perigee recipes/directional_sharpness.lua                  the next word of wikitext-2 (PERIGEE_DATA)
--   perigee recipes/directional_sharpness.lua data=made        made-up words, as unequally frequent
--
-- A step of length t in a direction v, |v| = 1, changes the loss by about t g·v + t^2/2 v'Hv. Pan & Li (2023, arXiv
-- 2306.00204) call v'Hv the directional sharpness, and found that of SGD's updates far larger than that of Adam's: a
-- few coordinates are to blame, and cutting the largest tenth of an update down (pg.clip_top) mends it. But Adam's
-- directions also descend less, by |g·v|; what a step can gain is (g·v)^2 / (2 v'Hv), if the loss is quadratic so far.
--
-- Table 1: one method trains, the others watch: each keeps its momenta from the same gradients, and says where it would
-- step. Sharpness, descent and gain of these directions, as they are and clipped. Table 2: each method trains by
-- itself, at its best rate; the loss, and the sharpness of its own steps.

local pg = require "perigee"

local o = pg.options { data = "text/wikitext-2-valid.txt", words = 500, tokens = 60000, width = 16, hidden = 64,
  batch = 128, steps = 400, looks = 5, watched = 2048, top = 0.1, seed = 1 }

-- ---- words ----------------------------------------------------------------------------------------------------------

-- The most frequent words by number, from 1 on, and 0 for all others.
local function number_words(text)
  local counts, list = {}, {}
  for word in text:gmatch "%S+" do counts[word] = (counts[word] or 0) + 1 end
  for word in pairs(counts) do list[#list + 1] = word end
  table.sort(list, function(a, b) return counts[a] > counts[b] or counts[a] == counts[b] and a < b end)
  local numbers, out = {}, {}
  for i = 1, math.min(o.words - 1, #list) do numbers[list[i]] = i end
  for word in text:gmatch "%S+" do
    out[#out + 1] = numbers[word] or 0
    if #out == o.tokens then break end
  end
  return pg.tensor(out, "i32")
end

-- Words as frequent as one over their rank; half of them follow from the word before.
local function make_words()
  local key, weights = pg.key(9), (pg.arange(1, o.words + 1)):log():neg()
  local fresh = pg.categorical(key:fold "fresh", weights:broadcast_to { o.tokens, o.words }):totable()
  local follows, out = pg.bernoulli(key:fold "follows", 0.5, { o.tokens }):totable(), { fresh[1] }
  for i = 2, o.tokens do out[i] = follows[i] and (out[i - 1] * 7 + 1) % o.words or fresh[i] end
  return pg.tensor(out, "i32")
end

local words = o.data == "made" and make_words() or number_words(pg.data.text(o.data))
local n = words.size - 3
local function from(first) return words:slice { first, first + n - 1 } end
local data = pg.data.from { x = pg.stack({ from(1), from(2), from(3) }, 2), y = from(4) } -- three words, and the next

local model = pg.nn.sequential { pg.nn.embedding(o.words, o.width), pg.nn.flatten(),
  pg.nn.linear(3 * o.width, o.hidden), pg.nn.tanh(), pg.nn.linear(o.hidden, o.words) }

local function loss(theta, batch) return pg.cross_entropy(model(theta, batch.x), batch.y) end

local value, slope, curve = pg.jit(loss), pg.jit(pg.value_and_grad(loss)), pg.jit(pg.hvp(loss))
local watched = data:take(math.min(o.watched, n)):all()

-- ---- the methods ----------------------------------------------------------------------------------------------------

-- rate: where the search of table 2 begins, and what a guide of table 1 trains with.
local METHODS = {
  { name = "SGD", rate = 0.25, make = function(lr) return pg.rule.sgd { lr = lr, momentum = 0.9 } end },
  { name = "normalized, by tensor", rate = 0.0625,
    make = function(lr) return pg.rule.normalized_sgd { lr = lr, momentum = 0.9, scope = "tensor" } end },
  { name = "clipped SGD", rate = 2.0,
    make = function(lr) return pg.rule.clipped_sgd { lr = lr, momentum = 0.9, top = o.top } end },
  { name = "sign", rate = 0.002,
    make = function(lr) return pg.rule.normalized_sgd { lr = lr, momentum = 0.9, scope = "elem" } end },
  { name = "Adagrad", rate = 0.03, make = function(lr) return pg.rule.adagrad { lr = lr } end },
  { name = "Adam", rate = 0.004, make = function(lr) return pg.rule.adam { lr = lr } end },
}
local GUIDES = { METHODS[#METHODS], METHODS[1] }

-- Where a rule would step by itself from gradient g: the direction, written again by the next call. t counts from 0.
-- Without weight decay a step does not depend on where it is taken, so it is taken at 0.
local function follow(rule)
  local zero = pg.zeros_like(model:init(pg.key(0)))
  local u, state = zero:copy(), rule:init(zero)
  return function(g, t)
    u:copy_from(zero)
    return (rule:step(u, { g = g }, state, t))
  end
end

-- Train with `rule` from the seed's start; watch(theta, g, t) before each step. → theta, the last quarter's mean loss
local function train(rule, seed, watch)
  local key = pg.key(seed)
  local theta, batches = model:init(key:fold "init"), pg.sampler.shuffled(data, o.batch, key:fold "order")
  local state, sum, count = rule:init(theta), 0, 0
  for t = 0, o.steps - 1 do
    local now, g = slope(theta, batches:at(t))
    if watch then watch(theta, g, t) end
    rule:step(theta, { g = g }, state, t)
    if 4 * t >= 3 * o.steps then sum, count = sum + now:item(), count + 1 end
  end
  return theta, sum / count
end

-- ---- directions -----------------------------------------------------------------------------------------------------

local FIELDS = { "sharpness", "descent", "gain", "best" }

-- What the step u is worth at theta, where the gradient is g: v = u / |u|.
--   sharpness v'Hv; descent -g·v / |g|; gain (g·v)^2 / (2 v'Hv); best: the largest fall of the loss along v, by
--   lengths that are powers of two
local function judge(theta, g, u)
  local v = u / u:norm()
  local sharpness, along = curve(v, theta, watched):dot(v):item(), g:dot(v):item()
  local here, best = value(theta, watched):item(), 0
  for k = -8, 5 do best = math.max(best, here - value(theta + 2.0 ^ k * v, watched):item()) end
  local gain = sharpness > 0 and along ^ 2 / (2 * sharpness) or math.huge
  return { sharpness = sharpness, descent = -along / g:norm():item(), gain = gain, best = best }
end

-- Along the training by a guide: means over the looks of every method's direction, as it is and clipped.
local function compare(guide)
  local followers, found, looks = {}, {}, 0
  for i, method in ipairs(METHODS) do followers[i], found[i] = follow(method.make(1)), { {}, {} } end
  train(guide.make(guide.rate), o.seed, function(theta, g, t)
    local directions = {}
    for i, direction in ipairs(followers) do directions[i] = direction(g, t) end
    if (t + 1) % math.max(1, o.steps // o.looks) > 0 then return end
    looks = looks + 1
    local _, whole = slope(theta, watched)
    for i, u in ipairs(directions) do
      for j, direction in ipairs { u, pg.clip_top(u, o.top) } do
        for field, x in pairs(judge(theta, whole, direction)) do found[i][j][field] = (found[i][j][field] or 0) + x end
      end
    end
  end)
  local rows = {}
  for i, method in ipairs(METHODS) do
    rows[i] = { method.name }
    for _, part in ipairs(found[i]) do
      for _, field in ipairs(FIELDS) do rows[i][#rows[i] + 1] = ("%.3g"):format(part[field] / looks) end
    end
  end
  return rows
end

-- ---- each by itself -------------------------------------------------------------------------------------------------

-- The loss at the best of the rates, which are powers of two around the method's own; the grid grows until the best
-- lies inside.
local function train_best(method)
  local losses, low, high, best = {}, -1, 1, 0
  local function score(k)
    if not losses[k] then
      local _, found = train(method.make(method.rate * 2.0 ^ k), o.seed)
      losses[k] = found == found and found or math.huge
    end
    return losses[k]
  end
  repeat
    for k = low, high do if score(k) < score(best) then best = k end end
    local is_inside = best > low and best < high
    if best == low then low = low - 1 elseif best == high then high = high + 1 end
  until is_inside or high - low > 12
  local rule = method.make(method.rate * 2.0 ^ best)
  local direction, curve_of = follow(rule), { name = method.name, x = {}, y = {} }
  train(rule, o.seed, function(theta, g, t)
    local u = direction(g, t)
    if (t + 1) % math.max(1, o.steps // 20) == 0 then
      local v = u / u:norm()
      curve_of.x[#curve_of.x + 1], curve_of.y[#curve_of.y + 1] = t + 1, curve(v, theta, watched):dot(v):item()
    end
  end)
  local last = curve_of.y[#curve_of.y]
  return { row = { method.name, ("%.4g"):format(method.rate * 2.0 ^ best), ("%.3f"):format(losses[best]),
    ("%.3g"):format(last) }, curve = curve_of }
end

-- ---- all of it ------------------------------------------------------------------------------------------------------

local jobs = {}
for _, guide in ipairs(GUIDES) do jobs[#jobs + 1] = function() return { rows = compare(guide) } end end
for _, method in ipairs(METHODS) do jobs[#jobs + 1] = function() return train_best(method) end end

-- One part is a step of the run; `perigee resume` goes on between two.
local result = pg.run {
  name = "directional_sharpness", steps = #jobs, state = { found = {} },
  step = function(state, ctx)
    state.found[ctx.step + 1] = jobs[ctx.step + 1]()
    ctx:log { part = ctx.step + 1 }
  end,
}

print(("%s: %d examples, %d words, %s parameters, batch %d"):format(o.data, n, o.words,
  pg.table.thousands(model.layout.size), o.batch))
for i, guide in ipairs(GUIDES) do
  local found = result.state.found[i]
  if found then
    print(("\n%s trains; directions of all, means of %d looks; then the same with the largest %g%% cut down"):format(
      guide.name, o.looks, 100 * o.top))
    pg.table.print({ "method", "sharpness", "descent", "gain", "best", "sharpness", "descent", "gain", "best" },
      found.rows)
  end
end
local rows, curves = {}, {}
for i = #GUIDES + 1, #jobs do
  local found = result.state.found[i]
  if found then rows[#rows + 1], curves[#curves + 1] = found.row, found.curve end
end
print(("\neach trains by itself, %d steps at its best rate: mean loss of the last quarter, last sharpness"):format(
  o.steps))
pg.table.print({ "method", "rate", "loss", "sharpness" }, rows)
local opts = { title = "directional sharpness of each method's own steps", log = true, xlabel = "step" }
io.write("\n", pg.plot.draw(curves, opts))
pg.plot.save(result.directory .. "/own.svg", curves, opts)
