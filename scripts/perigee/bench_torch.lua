-- bench_torch.lua: PyTorch as the other side of a benchmark, in the interpreters that have it (/usr/bin/python3 and
-- those that PERIGEE_TORCH_PYTHON names, separated by colons), each at the fastest of its variants (ways users run it:
-- tests/bench/torch_cases.py) and of 1 and all threads.

local core = require "perigee.core"
local peer = require "perigee.bench_peer"
local report = require "perigee.bench_report"
local timing = require "perigee.bench_time"

local torch_peer = {}

local PEER = "tests/bench/torch_peer.py"
local FINALISTS = 4 -- settings that are probed twice

-- Commands of the Pythons to look for PyTorch in.
local function python_commands()
  local commands = {}
  local listed = "/usr/bin/python3:" .. (os.getenv("PERIGEE_TORCH_PYTHON") or "")
  for path in listed:gmatch("[^:]+") do
    if core.data.exists(path) then commands[#commands + 1] = peer.quote(path) .. " " .. PEER end
  end
  return core.data.exists(PEER) and commands or {}
end

-- Call f(peer) for each PyTorch there is, one process at a time. Returns how many there were.
function torch_peer.each(f)
  local count = 0
  for _, command in ipairs(python_commands()) do
    local torch <close> = peer.start(command)
    if torch then
      count = count + 1
      f(torch)
    end
  end
  if count == 0 then
    report.note(core.data.exists(PEER) and "no PyTorch found (Debian: python3-torch); our own figures only"
      or PEER .. " is not here: run this in the source tree; our own figures only")
  end
  return count
end

local function describe(torch, variant, threads)
  return ("%s, %s, %d thread%s"):format(torch.name, variant, threads, threads > 1 and "s" or "")
end

-- Probe one setting, { variant =, threads =, how =, seconds = the best probe yet }. Returns false where it cannot run.
local function probe(torch, name, setting)
  local ok, why = torch:setup(name, setting.variant, setting.threads)
  if not ok then
    report.note("%s: left out (%s)", setting.how, why)
    return false
  end
  local seconds = timing.probe(function(steps) return torch:run(steps) end)
  setting.seconds = math.min(setting.seconds or seconds, seconds)
  report.note("%s: %s", setting.how, report.duration(seconds))
  return true
end

-- A case's settings, all variants by all thread counts, in two kinds: variants written the usual way, and those that
-- compile a whole step as one graph.
local function probe_all(torch, name)
  local kinds, threads = { {}, {} }, core.threads() > 1 and { 1, core.threads() } or { 1 }
  for variant in (torch:ask("variants", name) or ""):gmatch("%S+") do
    local kind = kinds[variant:find("whole", 1, true) and 2 or 1]
    for _, count in ipairs(threads) do
      local setting = { variant = variant, threads = count, how = describe(torch, variant, count) }
      if not probe(torch, name, setting) then break end
      kind[#kind + 1] = setting
    end
  end
  return kinds
end

local function sort_by_seconds(settings)
  table.sort(settings, function(a, b) return a.seconds < b.seconds end)
end

-- Set the peer up in the fastest setting of each kind and call f(how) with its description. The first few are probed
-- again before one is chosen, since a disturbance may have hit the best of them.
function torch_peer.each_fastest(torch, name, f)
  for _, settings in ipairs(probe_all(torch, name)) do
    sort_by_seconds(settings)
    local finalists = table.move(settings, 1, math.min(FINALISTS, #settings), 1, {})
    if #finalists > 1 then
      for _, setting in ipairs(finalists) do probe(torch, name, setting) end
      sort_by_seconds(finalists)
    end
    local best = finalists[1]
    if best and torch:setup(name, best.variant, best.threads) then f(best.how) end
  end
end

return torch_peer
