-- support.lua: what the optimizer's specs share: finding the built module, making vectors from lists, comparing
-- numbers.

assert(_VERSION == "Lua 5.4", "run the tests as: lua5.4 /usr/bin/busted (this is " .. _VERSION .. ")")
package.cpath = package.cpath .. ";build/?.so"

local pg = require "perigee"
local core = require "perigee.core"

local support = { pg = pg, core = core }

-- A layout of tensors named t1, t2, … of these shapes.
function support.layout(shapes)
  local entries = {}
  for i, shape in ipairs(shapes) do
    entries[i] = { "t" .. i, shape }
  end
  return core.layout(entries)
end

-- A vector from one flat list per tensor.
function support.vector(layout, dtype, lists)
  local v = core.vector(layout, dtype)
  for i, list in ipairs(lists) do
    for k, x in ipairs(list) do
      v:data_write(layout[i].offset + k - 1, x)
    end
  end
  return v
end

-- A vector of one tensor from a flat list.
function support.flat(dtype, list)
  return support.vector(support.layout { { #list } }, dtype, { list })
end

-- The largest difference between two lists (b may be nested per tensor), absolute below 1, relative above.
function support.difference(a, b)
  local flat = {}
  for _, x in ipairs(b) do
    if type(x) == "table" then
      table.move(x, 1, #x, #flat + 1, flat)
    else
      flat[#flat + 1] = x
    end
  end
  assert(#a == #flat, ("%d against %d numbers"):format(#a, #flat))
  local worst = 0
  for i, x in ipairs(a) do
    local d = math.abs(x - flat[i]) / math.max(1, math.abs(flat[i]))
    worst = d ~= d and math.huge or math.max(worst, d)
  end
  return worst
end

-- Numbers from a fixed stream, standard-normal-like, for test problems.
function support.stream(seed)
  local state = seed
  return function()
    local sum = 0
    for _ = 1, 12 do
      state = (state * 1103515245 + 12345) % 2147483648
      sum = sum + state / 2147483648
    end
    return sum - 6
  end
end

-- Everything that an optimizer remembers between steps, as one string.
function support.state_bytes(st)
  local parts = {}
  for _, entry in ipairs(st:tensors()) do parts[#parts + 1] = entry[1] .. "=" .. entry[2]:bytes() end
  return table.concat(parts)
end

-- Let runs go to a new directory, as those of a recipe at the command line do; → its path, for end_runs.
function support.begin_runs()
  local root = os.tmpname()
  os.remove(root)
  require("perigee.run").begin_invocation { source = "-- a recipe", root = root }
  return root
end

function support.end_runs(root)
  require("perigee.run").end_invocation()
  os.execute("rm -rf '" .. root .. "'")
end

-- The message, of one line, of the error that f(…) must raise.
function support.refusal(f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "an error was expected")
  message = tostring(message)
  assert(not message:find("\n", 1, true), message)
  return message
end

-- The names of a table's fields in order.
function support.sorted_names(t)
  local list = {}
  for name in pairs(t) do list[#list + 1] = name end
  table.sort(list)
  return list
end

return support
