-- check-layers.lua: dependencies point downwards only. Reads the #include lines of engine/ and bindings/ and fails on
-- one that the table below does not allow. Run by `make lint`.

-- Directory → directories whose headers it may include, itself and the public engine/perigee.h aside.
local allowed = {
  ["engine/core"] = {},
  ["engine/io"] = { "engine/core" },
  ["engine/codegen"] = { "engine/core" },
  ["engine/ops"] = { "engine/core" },
  ["engine/graph"] = { "engine/core", "engine/codegen", "engine/ops" },
  ["engine/data"] = { "engine/core", "engine/io" },
}

-- The data structures that meet: a kernel's instructions are named by the op table, the op table speaks of nodes, and
-- what is cut into tiles must know their size. Each is one header, and no function is called upwards through it.
local shared = {
  ["engine/codegen/kernel.h"] = { "engine/graph/graph.h", "engine/ops/ops.h" },
  ["engine/ops/ops.h"] = { "engine/graph/graph.h" },
  ["engine/ops/matmul.c"] = { "engine/codegen/kernel_abi.h" },
  ["engine/ops/quantize.c"] = { "engine/codegen/kernel_abi.h" },
}

local function directory_of(path) return path:match("^(.*)/[^/]*$") end

local function contains(list, x)
  for _, entry in ipairs(list or {}) do
    if entry == x then return true end
  end
  return false
end

local function may_include(file, header)
  local from, to = directory_of(file), directory_of(header)
  if from == to or header == "engine/perigee.h" or not to or contains(shared[file], header) then return true end
  return contains(allowed[from], to)
end

local problems, files = 0, 0
local function complain(file, line, fmt, ...)
  problems = problems + 1
  io.write(("%s:%d: %s\n"):format(file, line, fmt:format(...)))
end

local listing = assert(io.popen("find engine -name '*.[ch]' | LC_ALL=C sort"))
for file in listing:lines() do
  files = files + 1
  local number = 0
  for line in io.lines(file) do
    number = number + 1
    local quoted, system = line:match('^#include "([^"]+)"'), line:match("^#include <([^>]+)>")
    if system and system:match("^lua") or system == "lauxlib.h" or quoted and quoted:match("^bindings/") then
      complain(file, number, "the engine knows nothing of Lua, but includes %s", system or quoted)
    elseif quoted and not may_include(file, quoted) then
      complain(file, number, "%s must not include %s", directory_of(file), quoted)
    end
  end
end
listing:close()
if files == 0 then complain("engine", 0, "no files found: run this from the project's root") end
os.exit(problems == 0)
