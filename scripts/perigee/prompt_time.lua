-- prompt_time.lua: %time: how long an expression or a statement takes, and what tensor memory it leaves behind. An
-- expression that is fast is run many times; a statement never twice, since it changes something.

local core = require "perigee.core"

local clock = core.data.clock

local timing = {}

local FAST = 0.05     -- seconds: what takes less is repeated
local SAMPLE = 0.01   -- seconds that one sample should take
local PATIENCE = 0.3  -- seconds for all samples
local FEWEST = 5      -- samples

local UNITS = { { 1e-9, "ns" }, { 1e-6, "us" }, { 1e-3, "ms" }, { 1, "s" } }

-- Seconds as a person says them: "12.3 us", "1.24 s", "3 min 20 s".
function timing.duration(seconds)
  if seconds >= 120 then return ("%d min %d s"):format(seconds // 60, seconds % 60) end
  local unit = UNITS[1]
  for _, candidate in ipairs(UNITS) do
    if seconds >= candidate[1] then unit = candidate end
  end
  return ("%.3g %s"):format(seconds / unit[1], unit[2])
end

local function bytes_text(n)
  if math.abs(n) >= 1 << 20 then return ("%+.1f MiB"):format(n / (1 << 20)) end
  return ("%+.1f KiB"):format(n / 1024)
end

local function sample(f, count)
  local start = clock()
  for _ = 1, count do f() end
  return (clock() - start) / count
end

-- The median time of f in samples of several runs, how many samples, and how many runs each.
local function repeat_fast(f, first)
  local count = math.max(1, math.min(1000000, math.ceil(SAMPLE / math.max(first, 1e-8))))
  -- The first run may have compiled something that the others do not.
  count = math.max(count, math.min(1000000, math.ceil(SAMPLE / math.max(sample(f, count), 1e-9))))
  local times, deadline = {}, clock() + PATIENCE
  while #times < FEWEST or clock() < deadline do times[#times + 1] = sample(f, count) end
  table.sort(times)
  return times[(#times + 1) // 2], #times, count
end

-- Run f, print how long it took → its results, packed.
function timing.run(f, may_repeat)
  core.collect()
  local memory, start = core.memory_used(), clock()
  local results = table.pack(f())
  local first = clock() - start
  core.collect()
  local kept = core.memory_used() - memory
  local text = timing.duration(first)
  if may_repeat and first < FAST then
    local median, samples, count = repeat_fast(f, first)
    text = ("%s a run, the median of %d samples of %d; the first run took %s"):format(timing.duration(median), samples,
      count, timing.duration(first))
  end
  if math.abs(kept) >= 1024 then text = text .. "; tensor memory " .. bytes_text(kept) end
  return results, text
end

return timing
