-- machine.lua: what the machine says of its memory.

local machine = {}

-- A line of /proc/meminfo in bytes, as "MemTotal" or "MemAvailable"; nil where that is not known.
function machine.memory(line)
  local file = io.open("/proc/meminfo", "rb")
  local kib = file and tonumber(file:read("a"):match(line .. ":%s*(%d+)"))
  if file then file:close() end
  return kib and kib * 1024
end

return machine
