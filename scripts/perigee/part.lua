-- part.lua: what rules, families, corrections and stages have in common: each is made from a definition and a table of
-- options, is called with a table to give another with those options, and has `with` to replace some.

local part = {}

-- A metatable for parts of one kind ("rule", …). Instances have the fields make and given.
function part.class(kind)
  local class = { kind = kind, __name = "perigee." .. kind }
  class.__index = class

  -- The same part with some options replaced.
  function class:with(options)
    return self.make(part.merge(self.given, options))
  end

  -- The part with these options and the definition's defaults for the rest.
  function class:__call(options)
    return self.make(options or {})
  end

  function class:__tostring()
    return kind .. " " .. self.name
  end

  return class
end

-- What a definition's author gets: the part with its defaults, or, where an option has no default, the function that
-- makes it.
function part.defined(make, hyper_defaults, required)
  for _, default in next, hyper_defaults do
    if default == required then
      return make
    end
  end
  return make {}
end

-- A new table with the entries of a and then b.
function part.merge(a, b)
  local merged = {}
  for k, v in next, a do
    merged[k] = v
  end
  for k, v in next, b do
    merged[k] = v
  end
  return merged
end

return part
