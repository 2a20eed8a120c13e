-- bench_time.lua: how benchmarks measure: steps timed in turn, A B A B, and medians over the rounds, so that what
-- else the machine does in the meantime falls on all sides alike. A runner is a function(steps) → seconds.
-- PERIGEE_BENCH_SLICE (seconds of one measurement, default 0.3) makes all of it shorter or longer.

local core = require "perigee.core"

local timing = {}

local clock = core.data.clock
local ROUNDS = 9                                               -- times each side is measured
local SLICE = tonumber(os.getenv("PERIGEE_BENCH_SLICE")) or 0.3 -- seconds of one measurement, about
local PROBES = 5                                               -- slices of a fifth, of which the fastest counts

local function pause() os.execute("sleep 0.05") end -- until the other side's threads have gone to sleep

-- The middle of a list of numbers, which is left as it is.
function timing.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return n % 2 == 1 and sorted[n // 2 + 1] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
end

function timing.runner_of(step)
  return function(steps)
    local start = clock()
    for _ = 1, steps do step() end
    return clock() - start
  end
end

-- How many steps take about `seconds`.
local function calibrate(run, seconds)
  local steps = 1
  while true do
    local taken = run(steps)
    if taken >= seconds / 4 then return math.max(1, math.ceil(steps * seconds / taken)) end
    steps = math.ceil(steps * math.min(10, math.max(2, seconds / math.max(taken, 1e-9))))
  end
end

-- Seconds per step, quickly: the best of a few tries, since a disturbance only ever adds.
function timing.probe(run)
  local steps, best = calibrate(run, SLICE / PROBES), math.huge
  for _ = 1, PROBES do best = math.min(best, run(steps) / steps) end
  return best
end

-- Measure runners in turn, so many rounds. Returns one list of seconds per step, by round, for each.
function timing.alternate(runs, rounds)
  local steps, times = {}, {}
  for i, run in ipairs(runs) do
    steps[i], times[i] = calibrate(run, SLICE), {}
  end
  for round = 1, rounds or ROUNDS do
    for i, run in ipairs(runs) do
      pause()
      times[i][round] = run(steps[i]) / steps[i]
    end
  end
  return times
end

-- a / b for lists of the same rounds: the median of the rounds' own ratios.
function timing.ratio(a, b)
  local ratios = {}
  for i, x in ipairs(a) do ratios[i] = x / b[i] end
  return timing.median(ratios)
end

return timing
