-- names.lua: checks of the names in option tables. An unknown name is an error that names the nearest known one.

local core = require "perigee.core"
local nearest = require("perigee.options").nearest

local names = {}

-- The keys of a table in sorted order, so that nothing depends on the order of a hash.
function names.sorted(t)
  local keys = {}
  for k in pairs(t) do
    keys[#keys + 1] = k
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  return keys
end

-- The sentence for an unknown name: "unknown option 'lrr' of rule sgd (did you mean 'lr'? known: lr, momentum)".
function names.unknown(kind, name, owner, known)
  local near = nearest(tostring(name), known)
  local hint = near and ("did you mean '" .. near .. "'? ") or ""
  return ("unknown %s '%s' of %s (%sknown: %s)"):format(kind, tostring(name), owner, hint, table.concat(known, ", "))
end

-- Raise at the caller's caller if `given` has a key that is not in `known` (a list).
function names.check(owner, given, known)
  local set = {}
  for _, k in ipairs(known) do
    set[k] = true
  end
  for _, k in ipairs(names.sorted(given)) do
    if not set[k] then
      core.raise(names.unknown("option", k, owner, known))
    end
  end
end

return names
