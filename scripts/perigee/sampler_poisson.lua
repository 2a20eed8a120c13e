-- sampler_poisson.lua: Poisson subsampling: each example joins a batch by a coin of its own. The coins of a step are
-- tossed as the gaps between those that come up, which are geometric and as many as the batch is large, beginning at a
-- random example and going round; so a step costs its batch and not the data, and what an overflow cuts off is nobody's
-- in particular. Owns the draw and how probable an overflow is.

local core = require "perigee.core"
local drawn = require "perigee.sampler_drawn"
local names = require "perigee.names"

local poisson = {}

local OWNER = "pg.sampler.poisson"
local RARE = 1e-9 -- the largest probability of an overflow, in a step, that the default capacity allows

function poisson.check(given)
  names.check(OWNER, given, { "rate", "batch", "capacity", "overflow", "average" })
  local function need(ok, format, ...)
    if not ok then core.raise(OWNER .. ": " .. format:format(...)) end
  end
  need((given.rate == nil) ~= (given.batch == nil), "give one of rate and batch (the expected number of examples)")
  local rate, batch, capacity = given.rate, given.batch, given.capacity
  need(rate == nil or type(rate) == "number" and rate > 0 and rate <= 1, "rate is a probability above 0, not %s",
    names.describe(rate))
  need(batch == nil or type(batch) == "number" and batch > 0, "batch is an expected number of examples, not %s",
    names.describe(batch))
  need(capacity == nil or type(capacity) == "number" and capacity >= 1 and capacity % 1 == 0,
    "capacity is a whole number of examples, at least 1, not %s", names.describe(capacity))
  need(({ error = 1, truncate = 1 })[given.overflow or "error"], 'overflow is "error" or "truncate", not %s',
    names.describe(given.overflow))
  need(({ expected = 1, count = 1 })[given.average or "expected"], 'average is "expected" or "count", not %s',
    names.describe(given.average))
end

-- The sum of the probabilities of k, k + step, … heads among n coins of probability p, away from the mode.
local function add_terms(n, p, k, step)
  local ratio, log_term = p / (1 - p), n * math.log(1 - p)
  for i = 1, k do log_term = log_term + math.log((n - i + 1) / i * ratio) end
  local sum, term = 0, math.exp(log_term)
  while k >= 0 and k <= n and term > sum * 1e-17 do
    sum = sum + term
    term = step > 0 and term * (n - k) / (k + 1) * ratio or term * k / (n - k + 1) / ratio
    k = k + step
  end
  return sum
end

-- The probability that more than k of n coins come up, each with probability p: a tail of the binomial distribution.
function poisson.tail(n, p, k)
  if k >= n then return 0 end
  if p >= 1 then return 1 end
  return k >= n * p and add_terms(n, p, k + 1, 1) or 1 - add_terms(n, p, k, -1)
end

-- The least capacity that overflows with probability at most RARE.
local function find_capacity(n, rate)
  local low, high = math.floor(n * rate), n -- the tail at low is above RARE, at high 0
  while high - low > 1 do
    local middle = (low + high) // 2
    if poisson.tail(n, rate, middle) <= RARE then high = middle else low = middle end
  end
  return math.max(1, high)
end

-- Toss a step's coins: fills self.indices; → how many came up, at most the capacity, and whether there were more.
local function toss(self, step, rate)
  local u, n, rows, indices = self.uniforms(step), self.n, self.rows, self.indices
  local log_tails, log = math.log(1 - rate), math.log
  local first, place, count = math.floor(u:data_read(rows + 1) * n), -1, 0
  for i = 0, rows do
    place = place + 1 + (rate < 1 and log(1 - u:data_read(i)) // log_tails or 0)
    if place >= n then return count, false end
    if count == rows then return count, true end
    indices:data_write(count, math.tointeger((first + place) % n))
    count = count + 1
  end
end

function poisson.bind(split, key, dtype, given)
  local n = split.n
  local rate = given.rate or given.batch / n
  if rate > 1 then
    core.raise(("%s: batch is %g, but the data has only %d examples"):format(OWNER, given.batch, n))
  end
  local rows = math.tointeger(math.min(n, given.capacity or find_capacity(n, rate)))
  local expected, by_count, stops = rate * n, given.average == "count", given.overflow ~= "truncate"
  local self = drawn.new { split = split, key = key, dtype = dtype, rows = rows, expected = expected, weighted = true,
    draw = function(self, step)
      local count, more = toss(self, step, rate)
      if more and stops then
        error(("%s: more than %d examples at step %d, which has probability %.3g: raise capacity"):format(OWNER, rows,
          step, self.overflow), 0)
      end
      self.truncated = more
      for i = 0, count - 1 do self.weight:data_write(i, 1 / (by_count and count or expected)) end
      return count
    end }
  self.overflow, self.rate = poisson.tail(n, rate, rows), rate
  self.uniforms = drawn.uniforms(key:fold("draw"), rows + 2)
  return self
end

return poisson
