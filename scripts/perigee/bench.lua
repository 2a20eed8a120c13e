-- bench.lua: `perigee bench`: our speed as ratios to a peer and to the machine's own limits. A peer's step and ours are
-- timed in turn, A B A B, in one run, and medians are compared. Peers are PyTorch, in the interpreters that have it
-- (/usr/bin/python3 and those that PERIGEE_TORCH_PYTHON names, separated by colons), each at the fastest of its
-- variants and of 1 and all threads; and a plain read-modify-write loop in C, which `make bench` builds.

local core = require "perigee.core"
local cases = require "perigee.bench_case"
local peer = require "perigee.bench_peer"
local names = require "perigee.names"
local text_table = require "perigee.table"

local bench = {}

local clock = core.data.clock
local ROUNDS = 9         -- times each side is measured
local SLICE = 0.3        -- seconds of one measurement, about
local PROBE = 0.15       -- seconds spent on each variant of a peer
local PEER = "tests/bench/torch_peer.py"

local function say(fmt, ...) io.write(fmt:format(...), "\n") io.flush() end

local function note(fmt, ...) io.stderr:write("  ", fmt:format(...), "\n") end

local function pause() os.execute("sleep 0.05") end -- until the other side's threads have gone to sleep

local function median(list)
  table.sort(list)
  local n = #list
  return n % 2 == 1 and list[n // 2 + 1] or (list[n // 2] + list[n // 2 + 1]) / 2
end

-- Seconds as people read them.
local function duration(s)
  if s < 1e-3 then return ("%.2f us"):format(s * 1e6) end
  if s < 1 then return ("%.2f ms"):format(s * 1e3) end
  return ("%.2f s"):format(s)
end

-- ---- timing ----

-- A runner is a function(steps) → seconds.
local function runner_of(step)
  return function(steps)
    local start = clock()
    for _ = 1, steps do step() end
    return clock() - start
  end
end

-- How many steps take about `seconds`, and how long one takes as far as that tells.
local function calibrate(run, seconds)
  local steps = 1
  while true do
    local taken = run(steps)
    if taken >= seconds / 4 then return math.max(1, math.ceil(steps * seconds / taken)), taken / steps end
    steps = math.ceil(steps * math.min(10, math.max(2, seconds / math.max(taken, 1e-9))))
  end
end

-- Median seconds per step of each runner, measured in turn.
local function alternate(runs)
  local steps, times = {}, {}
  for i, run in ipairs(runs) do
    steps[i], times[i] = calibrate(run, SLICE), {}
  end
  for round = 1, ROUNDS do
    for i, run in ipairs(runs) do
      pause()
      times[i][round] = run(steps[i]) / steps[i]
    end
  end
  for i, list in ipairs(times) do times[i] = median(list) end
  return table.unpack(times)
end

-- ---- peers ----

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- Commands of the Pythons to look for PyTorch in.
local function python_commands()
  local commands = {}
  local listed = "/usr/bin/python3:" .. (os.getenv("PERIGEE_TORCH_PYTHON") or "")
  for path in listed:gmatch("[^:]+") do
    if exists(path) then commands[#commands + 1] = "'" .. path:gsub("'", "'\\''") .. "' " .. PEER end
  end
  return exists(PEER) and commands or {}
end

-- Call f(peer) for each PyTorch there is, one process at a time. Returns how many there were.
local function with_torches(f)
  local count = 0
  for _, command in ipairs(python_commands()) do
    local torch <close> = peer.start(command)
    if torch then
      count = count + 1
      f(torch)
    end
  end
  if count == 0 then
    note(exists(PEER) and "no PyTorch found (Debian: python3-torch); our own figures only"
      or PEER .. " is not here: run this in the source tree; our own figures only")
  end
  return count
end

-- Set the peer up as it is fastest on a case: over its variants and thread counts. Returns what that was, or nil.
local function set_fastest(torch, name)
  local best
  local threads = core.threads() > 1 and { 1, core.threads() } or { 1 }
  for variant in (torch:ask("variants", name) or ""):gmatch("%S+") do
    for _, count in ipairs(threads) do
      local ok, why = torch:setup(name, variant, count)
      if ok then
        local _, seconds = calibrate(function(steps) return torch:run(steps) end, PROBE)
        note("%s, %s, %d thread%s: %s", torch.name, variant, count, count > 1 and "s" or "", duration(seconds))
        if not best or seconds < best.seconds then
          best = { variant = variant, threads = count, seconds = seconds }
        end
      else
        note("%s, %s: left out (%s)", torch.name, variant, why)
        break
      end
    end
  end
  if best and torch:setup(name, best.variant, best.threads) then
    return ("%s, %s, %d thread%s"):format(torch.name, best.variant, best.threads, best.threads > 1 and "s" or "")
  end
end

-- The plain loop over arrays of `elements`, ready to run, or nil.
local function start_loop(elements)
  local path = (os.getenv("PERIGEE_BENCH") or "build/bench") .. "/rmw"
  local loop = exists(path) and peer.start("'" .. path .. "'")
  if not loop then
    note("the plain loop is not built (make bench builds it)")
    return nil
  end
  loop:setup(elements, "-", core.threads())
  return loop
end

-- ---- comparing ----

local rows = {}

local function verdict(holds) return holds and "reached" or "missed" end

local function add_row(what, against, theirs, ours, ratio, target, holds)
  rows[#rows + 1] = {
    what, against or "-", theirs and duration(theirs) or "-", duration(ours), ratio and ("%.3f"):format(ratio) or "-",
    target or "-", ratio and target and verdict(holds) or "-",
  }
end

-- Our step against each PyTorch. at_most: bound on ours / theirs, or at_least: bound on theirs / ours.
local function compare_with_torch(name, label, bounds)
  local ours = runner_of(cases[name]())
  local found = with_torches(function(torch)
    local how = set_fastest(torch, name)
    if not how then return end
    local theirs, mine = alternate { function(steps) return torch:run(steps) end, ours }
    if bounds.at_most then
      add_row(label, how, theirs, mine, mine / theirs, ("<= %.3f"):format(bounds.at_most),
        mine / theirs <= bounds.at_most)
    elseif bounds.at_least then
      add_row(label, how, theirs, mine, theirs / mine, (">= %.1f"):format(bounds.at_least),
        theirs / mine >= bounds.at_least)
    else
      add_row(label, how, theirs, mine, mine / theirs)
    end
  end)
  if found == 0 then add_row(label, nil, nil, (alternate { ours })) end
end

local machine = {} -- what was measured of it: gemm (flops/s), bandwidth (bytes/s)

local function measure_gemm()
  if not machine.gemm then machine.gemm = 2 * 1024 ^ 3 / alternate { runner_of(cases.gemm()) } end
  return machine.gemm
end

local benchmarks = {}

function benchmarks.machine()
  say("machine: %s, %d threads", core.doctor().cpu, core.threads())
  say("sgemm 1024^3: %.1f GFLOP/s", measure_gemm() / 1e9)
  local loop <close> = start_loop(cases.adamw_parameters)
  if loop then
    local seconds = alternate { function(steps) return loop:run(steps) end }
    say("read 4 arrays, write 3, of %.0fM floats: %.1f GB/s", cases.adamw_parameters / 1e6,
      28 * cases.adamw_parameters / seconds / 1e9)
  end
end

function benchmarks.logreg()
  compare_with_torch("logreg", "logistic regression, d 100, batch 32, SGD step", { at_most = 1 / 10 })
end

function benchmarks.mlp()
  compare_with_torch("mlp", "MLP 784-512-512-10, batch 128, AdamW step", { at_most = 1 / 1.5 })
  local run, multiply = runner_of(cases.mlp()), runner_of(cases.gemm())
  local seconds, product = alternate { run, multiply }
  machine.gemm = 2 * 1024 ^ 3 / product
  local rate = cases.mlp_flops / seconds
  say("MLP: %.1f GFLOP/s in matrix products over the whole step, %.0f%% of sgemm's %.1f", rate / 1e9,
    100 * rate / machine.gemm, machine.gemm / 1e9)
end

function benchmarks.adamw25m()
  local bytes = 28 * cases.adamw_parameters
  local loop <close> = start_loop(cases.adamw_parameters)
  for _, case in ipairs { { "adamw25m", "AdamW, 25M parameters" },
    { "adamw25m_in_steps", "AdamW in Lua, another order, temporaries" } } do
    local ours = runner_of(cases[case[1]]())
    if loop then
      local theirs, mine = alternate { function(steps) return loop:run(steps) end, ours }
      say("%s: %.1f GB/s, the plain loop %.1f GB/s", case[2], bytes / mine / 1e9, bytes / theirs / 1e9)
      add_row(case[2], "plain loop in C", theirs, mine, theirs / mine, ">= 0.9", theirs / mine >= 0.9)
    else
      local mine = alternate { ours }
      say("%s: %.1f GB/s", case[2], bytes / mine / 1e9)
      add_row(case[2], nil, nil, mine)
    end
    collectgarbage()
  end
  if loop then loop:close() end
  compare_with_torch("adamw25m", "AdamW, 25M parameters", {})
end

function benchmarks.ivon16m()
  compare_with_torch("ivon16m", "IVON, 16.8M parameters, sample and update", { at_least = 6 })
end

-- In a process of its own, whose cache is empty.
function benchmarks.compile()
  local place = os.tmpname()
  os.remove(place)
  local pipe = io.popen(("PERIGEE_CACHE='%s' exec /proc/$PPID/exe bench compile-here"):format(place))
  for line in pipe:lines() do
    local name, seconds = line:match("^(%S+) (%S+)$")
    if name then
      add_row("compiling the demo's plan: " .. name, "-", nil, tonumber(seconds), tonumber(seconds), "< 1 s",
        tonumber(seconds) < 1)
    end
  end
  pipe:close()
  os.execute("rm -rf '" .. place .. "'")
end

local ORDER = { "machine", "logreg", "mlp", "adamw25m", "ivon16m", "compile" }

-- The command: names of benchmarks, or none for all. → exit code
function bench.main(words)
  if words[1] == "list" then
    for _, name in ipairs(ORDER) do say("%s", name) end
    return 0
  elseif words[1] == "compile-here" then
    for _, entry in ipairs(cases.compile_demo()) do say("%s %.4f", entry[1], entry[2]) end
    return 0
  end
  for _, name in ipairs(words) do
    if not benchmarks[name] then error({ usage = names.unknown("benchmark", name, "perigee bench", ORDER) }, 0) end
  end
  local failed = 0
  for _, name in ipairs(#words > 0 and words or ORDER) do
    note("%s", name)
    local ok, message = pcall(benchmarks[name])
    if not ok then
      failed = failed + 1
      say("%s failed: %s", name, tostring(message))
    end
    collectgarbage()
  end
  if #rows > 0 then
    text_table.print({ "what", "against", "theirs", "ours", "ratio", "target", "" }, rows)
  end
  return failed == 0 and 0 or 1
end

return bench
