-- doctor.lua: `perigee doctor`: what this machine offers the engine and what keeps it from its best. Owns the questions
-- and the wording; the facts come from the engine and from /proc.

local core = require "perigee.core"
local files = core.data
local machine = require "perigee.machine"

local doctor = {}

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- Cores this process may use, and physical ones of the machine, from /proc.
local function count_cores()
  local status, info = read("/proc/self/status") or "", read("/proc/cpuinfo") or ""
  local usable = 0
  for part in (status:match("Cpus_allowed_list:%s*(%S+)") or ""):gmatch("[^,]+") do
    local first, last = part:match("^(%d+)%-?(%d*)$")
    if first then usable = usable + 1 + (tonumber(last) or tonumber(first)) - tonumber(first) end
  end
  local seen, physical = {}, 0
  for block in info:gmatch("(.-)\n\n") do
    local id = (block:match("physical id%s*:%s*(%d+)") or "0") .. ":" .. (block:match("core id%s*:%s*(%d+)") or "?")
    if not seen[id] then
      seen[id] = true
      physical = physical + 1
    end
  end
  return usable, physical
end

local SIMD = { "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "neon", "asimd", "sve" }

local function simd_of_cpu()
  local flags = " " .. ((read("/proc/cpuinfo") or ""):match("\nflags%s*:([^\n]*)")
    or (read("/proc/cpuinfo") or ""):match("\nFeatures%s*:([^\n]*)") or "") .. " "
  local found = {}
  for _, name in ipairs(SIMD) do
    if flags:find(" " .. name .. " ", 1, true) then found[#found + 1] = name end
  end
  return #found > 0 and table.concat(found, " ") or "none that this program knows"
end

-- Where compiled code is kept (engine/codegen/cache.c has the rule) and how much of it there is.
local function describe_cache()
  local home, xdg = os.getenv "HOME", os.getenv "XDG_CACHE_HOME"
  local directory = os.getenv "PERIGEE_CACHE" or xdg and xdg .. "/perigee" or home and home .. "/.cache/perigee"
  if not directory then return "none that lasts: HOME is not set" end
  if not files.exists(directory) then return directory .. " (empty)" end
  local readable, list = pcall(files.list, directory)
  if not readable then return nil, ("the cache of compiled code cannot be read: %s"):format(tostring(list)) end
  local count, bytes = 0, 0
  for _, name in ipairs(list) do
    local found = files.stat(directory .. "/" .. name)
    if found and found.type == "file" then count, bytes = count + 1, bytes + found.size end
  end
  return ("%s (%d programs, %.1f MiB)"):format(directory, count, bytes / 1048576)
end

-- nil if a small program compiles and loads; else why not. Nobody else hears of it: programs then run interpreted.
local function compiling_trouble()
  local trace <const> = core.trace()
  local ok, message = pcall(function()
    trace:compile({ core.apply("neg", nil, trace:input("f32", { 4 })) }, { executor = "generate" })
  end)
  trace:finish()
  return not ok and tostring(message) or nil
end

local function gib(bytes) return bytes and ("%.1f GiB"):format(bytes / 2 ^ 30) or "unknown" end

-- The rows to print, {{what, value}, …}, and the complaints.
function doctor.examine()
  local facts, rows, complaints = core.doctor(), {}, {}
  local function row(what, value) rows[#rows + 1] = { what, tostring(value) } end
  local function complain(fmt, ...) complaints[#complaints + 1] = fmt:format(...) end

  row("perigee", ("%s, numerics %d, formats %d, %s"):format(core.version, core.numerics_version, core.format_version,
    _VERSION))
  row("build", facts.build)
  row("processor", facts.cpu)
  row("SIMD", simd_of_cpu())
  local usable, physical = count_cores()
  row("cores", ("%d usable here, %d physical in the machine"):format(usable, physical))
  row("threads", ("%d, one pool for everything"):format(facts.threads))
  if usable > 0 and facts.threads > usable then
    complain("%d threads on %d usable cores: threads that wait for each other's core are many times slower; use "
      .. "--threads=%d or unset OMP_NUM_THREADS", facts.threads, usable, usable)
  elseif facts.threads < usable and facts.threads < physical then
    complain("%d of %d usable cores are used; OMP_NUM_THREADS or --threads says so", facts.threads, usable)
  end
  row("BLAS", facts.blas)
  if not facts.blas:find("OpenMP flavour", 1, true) then
    complain("BLAS is not the OpenMP flavour of OpenBLAS: a second thread pool fights with the engine's; "
      .. "apt-get install libopenblas0-openmp")
  end
  row("compiler", facts.compiler)
  if not facts.compiler:find("/", 1, true) then
    complain("no C compiler: programs are interpreted, same bits but several times slower; apt-get install gcc")
  end
  local cache, trouble = describe_cache()
  row("cache", cache or "unusable")
  trouble = trouble or facts.compiler:find("/", 1, true) and compiling_trouble()
  if trouble then complain("programs are interpreted, same bits but several times slower: %s", trouble) end
  row("CUDA", facts.cuda or "none in this build")
  local available = machine.memory "MemAvailable"
  row("memory", ("%s available of %s"):format(gib(available), gib(machine.memory "MemTotal")))
  if available and available < 2 ^ 30 then complain("less than 1 GiB of memory is available") end
  local places = {}
  for _, directory in ipairs(require("perigee").data.directories()) do
    if files.exists(directory) then places[#places + 1] = directory end
  end
  row("data", #places > 0 and table.concat(places, " ") or "no data directory found; set PERIGEE_DATA")
  row("terminal", files.isatty(2) and "yes: runs show a progress line" or "no: runs are quiet")
  return rows, complaints
end

-- Print what there is; → exit code, 1 if something is wrong.
function doctor.main()
  local rows, complaints = doctor.examine()
  for _, row in ipairs(rows) do io.write(("%-10s %s\n"):format(row[1], row[2])) end
  io.write("\n")
  for _, text in ipairs(complaints) do io.write("! ", text, "\n") end
  if #complaints == 0 then io.write("Nothing is wrong.\n") end
  return #complaints == 0 and 0 or 1
end

return doctor
