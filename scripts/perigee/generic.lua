-- generic.lua: functions for update rules, corrections and families. Each works alike on tensors, traced or eager, and
-- on plain numbers, where the engine's own scalar definition answers; the check for swallowed branches
-- (branchcheck.lua) runs a user's update on plain numbers through these.

local core = require "perigee.core"

local generic = {}

local ELEMENTWISE = {
  "neg", "abs", "sign", "floor", "ceil", "round", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh",
  "erf", "sigmoid", "softplus", "relu", "isfinite", "add", "sub", "mul", "div", "pow", "maximum", "minimum", "lt", "le",
  "gt", "ge", "eq", "ne", "where",
}

for _, name in ipairs(ELEMENTWISE) do
  generic[name] = function(...)
    return core.apply(name, nil, ...)
  end
end

-- Words that Lua reserves go by a second name.
for _, name in ipairs { "not", "and", "or" } do
  generic["logical_" .. name] = function(...)
    return core.apply(name, nil, ...)
  end
end

-- x cut to [low, high].
function generic.clip(x, low, high)
  return generic.minimum(generic.maximum(x, low), high)
end

-- Whether step number n, from 0, is one of every `every`.
function generic.falls_on(n, every)
  return generic.eq(n - every * generic.floor(n / every), 0)
end

-- Standard normal numbers of x's dtype and shape (layout, for a vector), drawn from `key` by logical index.
function generic.normal_like(key, x)
  if not core.is_tensor(x) then core.raise("normal_like: noise is drawn for a tensor or vector, not for a number") end
  local layout = x.layout
  return core.apply("normal", layout and { layout = layout, dtype = x.dtype } or { a = x.shape, dtype = x.dtype }, key)
end

-- Inner product and Euclidean norm of whole vectors, as 0-d tensors. Pads count as 0.
function generic.dot(a, b)
  return core.apply("sum", nil, a * b)
end

function generic.norm(v)
  return generic.sqrt(generic.dot(v, v))
end

-- What plain numbers answer to as methods while a user's function runs on them. Reductions are not among them: one
-- coordinate does not know the others.
generic.number_methods = {}
for name, f in pairs(generic) do
  generic.number_methods[name] = type(f) == "function" and f or nil
end
for _, name in ipairs { "normal_like", "dot", "norm" } do
  generic.number_methods[name] = nil
end

return generic
