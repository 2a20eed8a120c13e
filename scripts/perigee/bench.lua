-- bench.lua: `perigee bench`: our speed as ratios to a peer and to the machine's own limits: the benchmarks by name.
-- Two sides are timed in turn in one run (bench_time.lua); peers are PyTorch (bench_torch.lua) and two loops in C that
-- `make bench` builds, the yardsticks of memory and of arithmetic. docs/benchmarks.md says what is measured and how.

local core = require "perigee.core"
local cases = require "perigee.bench_case"
local names = require "perigee.names"
local paired = require "perigee.bench_paired"
local peer = require "perigee.bench_peer"
local report = require "perigee.bench_report"
local eight_bit = require "perigee.eight_bit"
local rules = require "perigee.bench_rules"
local timing = require "perigee.bench_time"
local tools = require "perigee.bench_tools"
local torch_peer = require "perigee.bench_torch"

local bench = {}

local say, note, compare = report.say, report.note, report.compare
local alternate, median, ratio, runner_of = timing.alternate, timing.median, timing.ratio, timing.runner_of

-- A peer as a runner.
local function runner_of_peer(other)
  return function(steps) return other:run(steps) end
end

-- A yardstick of tests/bench, set up, or nil where it is not built. arrays: how many rmw reads + writes.
local function start_yardstick(name, size, arrays)
  local path = (os.getenv("PERIGEE_BENCH") or "build/bench") .. "/" .. name
  local yardstick = core.data.exists(path) and peer.start(peer.quote(path))
  if not yardstick then
    note("the yardstick %s is not built (make bench builds it)", name)
    return nil
  end
  yardstick:setup(size, arrays or "-", core.threads())
  return yardstick
end

-- Our step of a case beside each PyTorch's. bounds: at_most on ours / theirs (aim: further), at_least on theirs / ours.
-- make: what sets our side up, by default the case of that name.
local function compare_with_torch(name, label, bounds, make)
  local ours = runner_of((make or cases[name])())
  local found = torch_peer.each(function(torch)
    torch_peer.each_fastest(torch, name, function(how)
      local times = alternate { runner_of_peer(torch), ours }
      local theirs, mine = times[1], times[2]
      local r = bounds.at_least and ratio(theirs, mine) or ratio(mine, theirs)
      compare(label, how, median(theirs), median(mine), r, bounds)
    end)
  end)
  if found == 0 then compare(label, nil, nil, median(alternate({ ours })[1])) end
end

-- ---- the machine's own limits ----

local function least(list) return math.min(table.unpack(list)) end

local GEMM_SIZES = { 512, 1024, 2048 }
local FMA_MEGAFLOP = 100

-- FLOP/s of the best of a few square products, and of the loop of multiply-adds (nil where it is not built). A peak is
-- what the machine can do, so the best round counts.
local function measure_peaks()
  local runs, peaks = {}, { gemm = 0 }
  for i, n in ipairs(GEMM_SIZES) do runs[i] = runner_of(cases.gemm(n)) end
  local loop <close> = start_yardstick("fma", FMA_MEGAFLOP)
  if loop then runs[#runs + 1] = runner_of_peer(loop) end
  local times = alternate(runs)
  for i, n in ipairs(GEMM_SIZES) do peaks.gemm = math.max(peaks.gemm, 2 * n ^ 3 / least(times[i])) end
  if loop then peaks.fma = FMA_MEGAFLOP * 1e6 / least(times[#times]) end
  return peaks
end

local benchmarks = {}

function benchmarks.machine()
  say("machine: %s, %d threads", core.doctor().cpu, core.threads())
  local peaks = measure_peaks()
  say("sgemm, the best of %s cubed: %.1f GFLOP/s", table.concat(GEMM_SIZES, ", "), peaks.gemm / 1e9)
  if peaks.fma then say("multiply-adds in registers: %.1f GFLOP/s", peaks.fma / 1e9) end
  local loop <close> = start_yardstick("rmw", rules.parameters, "4+3")
  if loop then
    local seconds = median(alternate({ runner_of_peer(loop) })[1])
    say("read 4 arrays, write 3, of %.0fM floats: %.1f GB/s", rules.parameters / 1e6,
      28 * rules.parameters / seconds / 1e9)
  end
end

-- ---- steps beside PyTorch's ----

function benchmarks.logreg()
  compare_with_torch("logreg", "logistic regression, d 100, batch 32, SGD step", { at_most = 1 / 10 })
end

function benchmarks.mlp()
  compare_with_torch("mlp", "MLP 784-512-512-10, batch 128, AdamW step", { at_most = 1 / 1.5 })
  local times = alternate { runner_of(cases.mlp()), runner_of(cases.gemm(1024)) }
  local rate, peak = cases.mlp_flops / median(times[1]), 2 * 1024 ^ 3 / median(times[2])
  say("MLP: %.1f GFLOP/s in matrix products over the whole step, %.0f%% of sgemm's %.1f", rate / 1e9,
    100 * rate / peak, peak / 1e9)
end

local LENET_BOUNDS = { at_most = 1 / 2, aim = 1 / 3 }

function benchmarks.lenet() compare_with_torch("lenet", "LeNet, ReLU, max-pool, batch 64, SGD step", LENET_BOUNDS) end

function benchmarks.lenet_tanh()
  compare_with_torch("lenet_tanh", "LeNet, tanh, average-pool, batch 64, SGD step", LENET_BOUNDS)
end

-- ---- corrected methods beside their plain ones ----

local TITLES = { sgd = "SGD", svrg = "SVRG", ivon = "IVON", ivon_poco = "IVON-PoCo",
  svrg_off = "SVRG with alpha = 0", ivon_poco_off = "IVON-PoCo with alpha = 0" }
local MOST_PAIRED, MOST_OFF = 2.1, 1.02

-- The four methods on one problem in turn, the machine's peaks right after: ratios within pairs, shares of the peaks.
local function measure_pairs(name, label)
  local problem, runs, flops = paired.problems[name](), {}, {}
  for i, method in ipairs(paired.methods) do
    local step
    step, flops[i] = paired.step(problem, method)
    runs[i] = runner_of(step)
  end
  local times, peaks = alternate(runs), measure_peaks()
  for i, method in ipairs(paired.methods) do
    report.share(("%s, %s step"):format(label, TITLES[method]), flops[i], median(times[i]), peaks)
  end
  for i = 1, #times, 2 do
    local plain, corrected = TITLES[paired.methods[i]], TITLES[paired.methods[i + 1]]
    compare(("%s, %s step"):format(label, corrected), ("%s step"):format(plain), median(times[i]),
      median(times[i + 1]), ratio(times[i + 1], times[i]), { at_most = MOST_PAIRED })
  end
end

-- Corrections that are switched off beside the plain methods, on the smallest step, where the host's share is largest.
function benchmarks.switched_off()
  local problem, runs = paired.problems.logreg(), {}
  for i, method in ipairs(paired.switched_off) do runs[i] = runner_of((paired.step(problem, method))) end
  local times = alternate(runs)
  for i = 1, #times, 2 do
    local plain, corrected = TITLES[paired.switched_off[i]], TITLES[paired.switched_off[i + 1]]
    compare("logistic regression, d 100, batch 32, " .. corrected, plain, median(times[i]), median(times[i + 1]),
      ratio(times[i + 1], times[i]), { at_most = MOST_OFF })
  end
end

function benchmarks.paired_logreg() measure_pairs("logreg", "logistic regression, d 100, batch 32") end

function benchmarks.paired_lenet() measure_pairs("lenet", "LeNet, ReLU, max-pool, batch 64") end

function benchmarks.paired_mlp25m() measure_pairs("mlp25m", "MLP 784-4096-4096-1220, batch 128") end

-- ---- gradients of examples ----

local MOST_PER_EXAMPLE = 4

function benchmarks.per_example()
  local mean, all, clipped = cases.per_example()
  local times = alternate { runner_of(mean), runner_of(all), runner_of(clipped) }
  for i, label in ipairs { "per-example gradients", "per-example gradients, clipped and averaged" } do
    compare("LeNet, batch 64, " .. label, "their mean", median(times[1]), median(times[1 + i]),
      ratio(times[1 + i], times[1]), { at_most = MOST_PER_EXAMPLE })
  end
end

-- ---- updates alone ----

function benchmarks.adamw25m()
  local bytes = 28 * rules.parameters
  local loop <close> = start_yardstick("rmw", rules.parameters, "4+3")
  for _, case in ipairs { { "adamw25m", "AdamW, 25M parameters" },
    { "adamw25m_in_steps", "AdamW in Lua, another order, temporaries" } } do
    local ours = runner_of(cases[case[1]]())
    if loop then
      local times = alternate { runner_of_peer(loop), ours }
      local theirs, mine = median(times[1]), median(times[2])
      say("%s: %.1f GB/s, the plain loop %.1f GB/s", case[2], bytes / mine / 1e9, bytes / theirs / 1e9)
      compare(case[2], "plain loop in C", theirs, mine, ratio(times[1], times[2]), { at_least = 0.9 })
    else
      local mine = median(alternate({ ours })[1])
      say("%s: %.1f GB/s", case[2], bytes / mine / 1e9)
      compare(case[2], nil, nil, mine)
    end
    collectgarbage()
  end
  if loop then loop:close() end
  compare_with_torch("adamw25m", "AdamW, 25M parameters", {})
end

-- A rule's update beside a plain loop over as many arrays.
local function compare_with_loop(entry, loop)
  local name, bounds = entry[1] .. ", 25M parameters", { at_least = entry.at_least }
  local ours = runner_of(rules.updater(entry[2], entry))
  if not loop then return compare(name, nil, nil, median(alternate({ ours })[1])) end
  loop:setup(rules.parameters, entry.loop, core.threads())
  local times = alternate { runner_of_peer(loop), ours }
  compare(name, ("loop, %s arrays"):format(entry.loop), median(times[1]), median(times[2]), ratio(times[1], times[2]),
    bounds)
end

-- The rules of lists that PyTorch has too, beside it.
local function compare_rules_with_torch(...)
  for _, list in ipairs { ... } do
    for _, entry in ipairs(list) do
      if entry.torch then
        local ours = runner_of(rules.updater(entry[2], entry))
        torch_peer.each(function(torch)
          torch_peer.each_fastest(torch, "update_" .. entry.torch, function(how)
            local times = alternate { runner_of_peer(torch), ours }
            compare(entry[1] .. ", 25M parameters", how, median(times[1]), median(times[2]),
              ratio(times[2], times[1]))
          end)
        end)
        collectgarbage()
      end
    end
  end
end

function benchmarks.rules()
  local loop <close> = start_yardstick("rmw", rules.parameters, "2+1")
  for _, list in ipairs { rules.elementwise, rules.reducing } do
    for _, entry in ipairs(list) do
      compare_with_loop(entry, loop)
      collectgarbage()
    end
  end
end

-- Updates with states of 8 bits beside those of 32 bits, and beside a loop that moves as many bytes.
function benchmarks.eight_bit()
  local loop <close> = start_yardstick("rmw", rules.parameters, "3+1")
  for _, entry in ipairs(rules.coded) do
    local runs = { runner_of(rules.updater(entry[2], {})),
      runner_of(rules.updater(eight_bit { rule = entry[2] }, { random = true })) }
    if loop then
      loop:setup(rules.parameters, entry.loop, core.threads())
      runs[3] = runner_of_peer(loop)
    end
    local times, name = alternate(runs), entry[1] .. ", states of 8 bits, 25M parameters"
    compare(name, "states of 32 bits", median(times[1]), median(times[2]), ratio(times[2], times[1]))
    if loop then
      compare(name, ("loop, %s arrays"):format(entry.loop), median(times[3]), median(times[2]),
        ratio(times[3], times[2]))
    end
    collectgarbage()
  end
end

function benchmarks.rules_torch() compare_rules_with_torch(rules.elementwise, rules.reducing, rules.matrix) end

local OF_GEMM, MATRIX_ROUNDS = 0.6, 3 -- a step takes seconds

function benchmarks.matrix_rules()
  for _, entry in ipairs(rules.matrix) do
    local step = rules.updater(entry[2], { random = true })
    for _ = 1, 2 do step() end
    local runs = { runner_of(step) }
    for _, n in ipairs(GEMM_SIZES) do runs[#runs + 1] = runner_of(cases.gemm(n)) end
    local times, peak = alternate(runs, MATRIX_ROUNDS), 0
    for i, n in ipairs(GEMM_SIZES) do peak = math.max(peak, 2 * n ^ 3 / least(times[i + 1])) end
    local flops, seconds = entry.products * rules.parameters * 2 * 1000, median(times[1])
    say("%s: %.1f GFLOP/s in products, sgemm %.1f", entry[1], flops / seconds / 1e9, peak / 1e9)
    compare(entry[1] .. ", 25 matrices of 1000", "sgemm's peak", flops / peak, seconds, flops / seconds / peak,
      { at_least = OF_GEMM })
    collectgarbage()
  end
end

function benchmarks.ivon16m()
  compare_with_torch("ivon16m", "IVON, 16.8M parameters, sample and update", { at_least = 6 })
end

-- ---- tools ----

function benchmarks.tools()
  for _, tool in ipairs(tools) do
    compare_with_torch("tool_" .. tool.name, tool.label, {}, tool.make)
    collectgarbage()
  end
end

-- In a process of its own, whose cache is empty.
function benchmarks.compile()
  local place = os.tmpname()
  os.remove(place)
  local pipe = io.popen(("PERIGEE_CACHE='%s' exec /proc/$PPID/exe bench compile-here"):format(place))
  for line in pipe:lines() do
    local name, seconds = line:match("^(%S+) (%S+)$")
    seconds = tonumber(seconds)
    if seconds then compare("compiling the demo's plan: " .. name, nil, nil, seconds, seconds, { at_most = 1 }) end
  end
  local ok = pipe:close()
  os.execute("rm -rf '" .. place .. "'")
  if not ok then error("the process that compiles failed", 0) end
end

local ORDER = {
  "machine", "logreg", "mlp", "lenet", "lenet_tanh", "paired_logreg", "paired_lenet", "paired_mlp25m",
  "switched_off", "per_example", "adamw25m", "rules", "rules_torch", "eight_bit", "matrix_rules", "ivon16m",
  "tools",
  "compile",
}

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
  report.print()
  return failed == 0 and 0 or 1
end

return bench
