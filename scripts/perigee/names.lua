-- names.lua: names that are not there: unknown keys of option tables, unknown fields of modules and of the library's
-- objects. Each is an error that says the nearest known name, or what a word from another library is called here.

local core = require "perigee.core"
local nearest = require("perigee.options").nearest
local words = require "perigee.words"

local names = {}

local MOST_LISTED = 20 -- names that a message may list

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

-- Whether a list has an entry.
function names.includes(list, word)
  for _, known in ipairs(list) do
    if known == word then return true end
  end
  return false
end

-- The known name that was meant by `word`: what this library calls it, or the nearest; nil if there is neither.
function names.meant(word, known)
  local ours = words[word]
  for _, translation in ipairs(type(ours) == "table" and ours or { ours }) do
    if names.includes(known, translation) then return translation end
  end
  return nearest(word, known)
end

-- " (known: lr, momentum)", or where there are many, where they are listed.
function names.listed(owner, known)
  if #known == 0 then return "" end
  if #known <= MOST_LISTED then return (" (known: %s)"):format(table.concat(known, ", ")) end
  return (" (?%s at the prompt lists them)"):format(owner)
end

-- The sentence for an unknown name: "unknown option 'lrr' of rule sgd; did you mean 'lr'?", or with all the known
-- ones where none is near: "unknown option 'foo' of rule sgd (known: lr, momentum)".
function names.unknown(kind, name, owner, known)
  local meant = names.meant(tostring(name), known)
  return ("unknown %s '%s' of %s%s"):format(kind, tostring(name), owner,
    meant and ("; did you mean '%s'?"):format(meant) or names.listed(owner, known))
end

-- Tables of our own that are options all the same: what pg.grid goes through.
local OPTIONS = { ["perigee.combination"] = true }

-- Raise at the recipe's line unless `given` is a plain table of options whose keys are all in `known` (a list).
function names.check(owner, given, known)
  local meta = getmetatable(given)
  local name = type(meta) == "table" and meta.__name or ""
  if type(given) ~= "table" or name:find("^perigee%.") and not OPTIONS[name] then
    core.raise(("%s takes a table of options, not %s%s"):format(owner, names.describe(given),
      names.listed(owner, known)))
  end
  local set = {}
  for _, k in ipairs(known) do
    set[k] = true
  end
  for _, k in ipairs(names.sorted(given)) do
    if math.type(k) == "integer" then
      core.raise(("%s takes options by name; entry %d is %s without one%s"):format(owner, k,
        names.describe(given[k]), names.listed(owner, known)))
    elseif not set[k] then
      core.raise(names.unknown("option", k, owner, known))
    end
  end
end

-- Raise unless `value` is one of `choices`, a list of words. what: "family diagonal: hess_approx".
function names.choice(what, value, choices)
  if names.includes(choices, value) then return end
  local quoted = {}
  for i, choice in ipairs(choices) do quoted[i] = ('"%s"'):format(choice) end
  local last = table.remove(quoted)
  local meant = type(value) == "string" and names.meant(value, choices)
  core.raise(("%s is %s or %s, not %s%s"):format(what, table.concat(quoted, ", "), last, names.describe(value),
    meant and ('; did you mean "%s"?'):format(meant) or ""))
end

-- What a value is, for messages: "nothing", "3", "true", "\"sgd\"", "a table", "a model", "a tensor f32 [2, 3]".
function names.describe(value)
  local kind = type(value)
  if value == nil then return "nothing" end
  if kind == "number" or kind == "boolean" then return tostring(value) end
  if kind == "string" then return ('"%s"'):format(value) end
  if core.is_tensor(value) then return "a tensor " .. require("perigee.tensor_text").type(value) end
  local meta = getmetatable(value)
  local name = type(meta) == "table" and meta.__name
  if not name then return "a " .. kind end
  local plain = name:gsub("^perigee%.", "")
  return (plain:match("^[aeiou]") and "an " or "a ") .. plain
end

-- Make the table `t` answer names it does not have with an error: "pg.nn has no 'Linear'; did you mean pg.nn.linear?".
-- owner: what users call t. opts: prefix, what stands before a suggested name (default owner and a dot); more() → a
-- list of further known names; elsewhere(name) → the full name of something else that was meant, or nil; lacks, a set
-- of names that may be missing. An __index of t's own is asked first.
function names.guard(t, owner, opts)
  local meta, options = getmetatable(t) or {}, opts or {}
  local inner, prefix, lacks = meta.__index, options.prefix or owner .. ".", options.lacks or {}
  function meta.__index(self, name)
    local value
    if type(inner) == "function" then value = inner(self, name) elseif inner then value = inner[name] end
    if value ~= nil or type(name) ~= "string" or name:sub(1, 2) == "__" or lacks[name] then return value end
    local known = names.sorted(t)
    if options.more then table.move(options.more(), 1, #options.more(), #known + 1, known) end
    local elsewhere = options.elsewhere and options.elsewhere(name)
    local meant = elsewhere or names.meant(name, known)
    if meant and not elsewhere then meant = prefix .. meant end
    local hint = meant and ("; did you mean %s?"):format(meant)
      or #known > 0 and #known <= MOST_LISTED and (" (it has: %s)"):format(table.concat(known, ", ")) or ""
    return core.raise(("%s has no '%s'%s"):format(owner, name, hint))
  end
  return setmetatable(t, meta)
end

return names
