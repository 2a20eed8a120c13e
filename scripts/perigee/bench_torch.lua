-- bench_torch.lua: PyTorch as the other side of a benchmark, in the interpreters that have it (/usr/bin/python3 and
-- those that PERIGEE_TORCH_PYTHON names, separated by colons), each at the fastest of its variants (ways users run it:
-- tests/bench/torch_cases.py) and of 1 and all threads.

local core = require "perigee.core"
local peer = require "perigee.bench_peer"
local report = require "perigee.bench_report"
local timing = require "perigee.bench_time"

local torch_peer = {}

local PEER = "tests/bench/torch_peer.py"

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

-- The fastest variants of a case over all thread counts: of those that are written the usual way, and of those that
-- compile a whole step as one graph. A list of { variant =, threads =, how = (both as text) }.
local function find_fastest(torch, name)
  local best = {}
  local threads = core.threads() > 1 and { 1, core.threads() } or { 1 }
  for variant in (torch:ask("variants", name) or ""):gmatch("%S+") do
    local kind = variant:find("whole", 1, true) and 2 or 1
    for _, count in ipairs(threads) do
      local ok, why = torch:setup(name, variant, count)
      if not ok then
        report.note("%s, %s: left out (%s)", torch.name, variant, why)
        break
      end
      local seconds, how = timing.probe(function(steps) return torch:run(steps) end), describe(torch, variant, count)
      report.note("%s: %s", how, report.duration(seconds))
      if not best[kind] or seconds < best[kind].seconds then
        best[kind] = { variant = variant, threads = count, how = how, seconds = seconds }
      end
    end
  end
  return best
end

-- Set the peer up in each of its fastest variants and call f(how) with their description.
function torch_peer.each_fastest(torch, name, f)
  for _, best in ipairs(find_fastest(torch, name)) do
    if torch:setup(name, best.variant, best.threads) then f(best.how) end
  end
end

return torch_peer
