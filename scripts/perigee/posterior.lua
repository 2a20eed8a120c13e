-- posterior.lua: the posterior q as parts see it. On the host q holds the eager tensors of a state (q.mean, q.h, …);
-- in a trace q is a view on traced values, whose fields the family may write. Numbers of the family (h0, ess) can be
-- read off q as well.

local slots = require "perigee.slots"

local posterior = {}

local Posterior = {}
Posterior.__index = Posterior
Posterior.__name = "perigee.posterior"

-- A host posterior over eager tensors. fields: ordered names, "mean" first.
function posterior.new(fields, tensors)
  local q = setmetatable({ fields = fields }, Posterior)
  for _, name in ipairs(fields) do
    q[name] = tensors[name]
  end
  return q
end

-- A frozen q. Assigning it to a slot copies it there, so nothing is copied here; q does not change during a refresh.
function Posterior:clone()
  return self
end

-- Its fields one by one, as print shows tensors.
function Posterior:__tostring()
  local lines = { "posterior" }
  for _, field in ipairs(self.fields) do lines[#lines + 1] = ("%s: %s"):format(field, tostring(self[field])) end
  return table.concat(lines, "\n")
end

function posterior.is(x)
  return getmetatable(x) == Posterior
end

local traced_values = setmetatable({}, { __mode = "k" }) -- view → its values, marks views as posteriors

-- A view on traced values. writable: names of the fields that may be assigned. fallback: function(name) for other
-- reads. Returns the view and the list of fields written.
function posterior.view(owner, values, writable, fallback)
  local view, written = slots.view(owner, values, writable, fallback)
  traced_values[view] = values
  return view, written
end

-- The values behind a traced view, or nil if x is none.
function posterior.values(x)
  return type(x) == "table" and traced_values[x] or nil
end

return posterior
