-- run.lua: runs every test and prints one line per test program, every failure, every skip with its reason, and at the
-- end `N passed, N failed, N skipped`. Status 1 if anything failed or nothing ran.
--   lua5.4 tests/run.lua BUILD [PATTERN …]   BUILD: where `make` built; PATTERN: only programs whose name matches one
--
-- A test program prints lines `ok - name`, `not ok - name (why)`, `skip - name # reason`; other lines are shown only
-- if it fails. Tests are the programs BUILD/tests/c/test_*, the specs *_spec.lua of tests/lua and tests/cli (run by
-- busted), and the scripts tests/cli/*.sh. PERIGEE_TEST_LONG=1 asks tests for their long form.

local build, patterns = arg[1] or "build", { table.unpack(arg, 2) }
local TIMEOUT = os.getenv("PERIGEE_TEST_LONG") and 3600 or 600 -- seconds one test program may take

local function read_command(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read("a")
  pipe:close()
  return text
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function clock() return tonumber(read_command("date +%s.%N")) end

local root = read_command("pwd"):match("[^\n]*")
local place = build:sub(1, 1) == "/" and build or root .. "/" .. build

-- Everything tests write goes below BUILD.
local environment = table.concat({
  "PERIGEE_CACHE=" .. quote(place .. "/cache"), "TMPDIR=" .. quote(place .. "/tmp"),
  "PERIGEE=" .. quote(place .. "/perigee"), "PERIGEE_BUILD=" .. quote(place),
}, " ")
assert(os.execute(("mkdir -p %s %s"):format(quote(place .. "/cache"), quote(place .. "/tmp"))))
assert(os.execute("chmod 700 " .. quote(place .. "/cache")))

local function list(command)
  local found = {}
  for name in read_command(command .. " 2>/dev/null | LC_ALL=C sort"):gmatch("[^\n]+") do found[#found + 1] = name end
  return found
end

local function is_wanted(name)
  for _, pattern in ipairs(patterns) do
    if name:find(pattern) then return true end
  end
  return #patterns == 0
end

local function collect()
  local tests = {}
  local function add(name, command)
    if is_wanted(name) then tests[#tests + 1] = { name = name, command = command } end
  end
  for _, path in ipairs(list("ls tests/c/test_*.c")) do
    local name = path:match("([^/]+)%.c$")
    add("c/" .. name, quote(place .. "/tests/c/" .. name))
  end
  local lua = os.getenv("SAN") == "1" and quote(place .. "/tests/c/lua_host") or "lua5.4"
  for _, path in ipairs(list("ls tests/lua/*_spec.lua tests/cli/*_spec.lua")) do
    add(path:match("^tests/(.*)_spec%.lua$"), lua .. " /usr/bin/busted -o tests/busted_lines.lua " .. quote(path))
  end
  for _, path in ipairs(list("ls tests/cli/*.sh")) do add(path:match("^tests/(.*)%.sh$"), "sh " .. quote(path)) end
  return tests
end

local total = { passed = 0, failed = 0, skipped = 0 }

-- Run one test program and count its lines. A program that ends badly without naming a failure is itself one.
local function run(test)
  local counts, shown, output = { passed = 0, failed = 0, skipped = 0 }, {}, {}
  local start = clock()
  local pipe = assert(io.popen(("env %s timeout %d env %s </dev/null 2>&1"):format(environment, TIMEOUT, test.command)))
  for line in pipe:lines() do
    local kind = line:match("^ok %- ") and "passed" or line:match("^not ok %- ") and "failed" or
      line:match("^skip %- ") and "skipped"
    if kind then counts[kind] = counts[kind] + 1 end
    if kind == "failed" or kind == "skipped" then shown[#shown + 1] = line end
    output[#output + 1] = line
  end
  local ok, how, code = pipe:close()
  local seconds = clock() - start
  if not ok and counts.failed == 0 then
    counts.failed = 1
    local why = code == 124 and ("took longer than %d s"):format(TIMEOUT) or ("ended with %s %s"):format(how, code)
    shown = { table.unpack(output, math.max(1, #output - 60)) }
    shown[#shown + 1] = ("not ok - %s (%s; its last lines are above)"):format(test.name, why)
  elseif counts.failed > 0 and how == "signal" then
    shown[#shown + 1] = "# ended by signal " .. code
  end
  io.write(("%-24s %4d passed %3d failed %3d skipped %8.1f s\n"):format(test.name, counts.passed, counts.failed,
    counts.skipped, seconds))
  for _, line in ipairs(shown) do io.write("  ", line, "\n") end
  io.flush()
  for kind, n in pairs(counts) do total[kind] = total[kind] + n end
end

local start = clock()
for _, test in ipairs(collect()) do run(test) end
io.write(("tests: %.1f s\n"):format(clock() - start))
io.write(("%d passed, %d failed, %d skipped\n"):format(total.passed, total.failed, total.skipped))
os.exit(total.failed == 0 and total.passed > 0)
