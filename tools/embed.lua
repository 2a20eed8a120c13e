-- embed.lua: print the C table of embedded scripts (bindings/scripts.h) for the Lua files named as arguments.
local function quote(line)
  local escaped = line:gsub('[\\"]', "\\%0")
  escaped = escaped:gsub("[^\32-\126]", function(c) return ("\\%03o"):format(c:byte()) end)
  return '"' .. escaped .. '\\n"'
end

local names = {}
for i, path in ipairs(arg) do
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  names[i] = { name = path:match("([^/]+)%.lua$"), text = text:sub(-1) == "\n" and text or text .. "\n" }
end
table.sort(names, function(a, b) return a.name < b.name end)

print('// Written by tools/embed.lua from scripts/perigee. Do not edit.\n#include "bindings/scripts.h"\n')
print("const pgl_script pgl_scripts[] = {")
for _, entry in ipairs(names) do
  print(('{"%s",'):format(entry.name))
  for line in entry.text:gmatch("(.-)\n") do print((quote(line))) end
  print((", %d},"):format(#entry.text))
end
print("{NULL, NULL, 0}};")
