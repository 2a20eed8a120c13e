-- family_ascent.lua: definitions of families that take two gradients one after the other, the second where the first
-- one leads: sharpness-aware minimization (SAM) and its adaptive form (ASAM).

local clipping = require "perigee.clipping"
local generic = require "perigee.generic"
local per_tensor = require "perigee.per_tensor"
local tensors = require "perigee.tensors"

local NOT_NEGATIVE = "[0, inf)"

local ascent = {}

local function begin(theta) return { mean = theta } end

local function at_the_mean(q) return q.mean end

local function keep(g) return { g = g } end

-- A definition with these fields and what the two have in common.
local function define(fields)
  fields.init, fields.sample, fields.statistics = begin, at_the_mean, keep
  return fields
end

ascent.sam = define {
  name = "sam",
  hyper = { rho = 0.05, scope = "global", eps = 1e-12 },
  limits = { rho = NOT_NEGATIVE, eps = NOT_NEGATIVE },
  check = function(o) clipping.check_scope("family sam", o.scope) end,
  perturb = function(theta, g, _, o) return theta + o.rho / (clipping.lengths[o.scope](g) + o.eps) * g end,
}

-- 1 for tensors with at least two axes, 0 for biases and their like.
local IS_WEIGHT = per_tensor.per_tensor(function(_, shape) return tensors.is_matrix(shape) and 1 or 0 end)

ascent.asam = define {
  name = "asam",
  hyper = { rho = 0.5, eta = 0, weights_only = false, eps = 1e-12 },
  limits = { rho = NOT_NEGATIVE, eta = NOT_NEGATIVE, eps = NOT_NEGATIVE },
  perturb = function(theta, g, _, o)
    local scale = generic.abs(theta) + o.eta
    if o.weights_only then scale = IS_WEIGHT * scale + (1 - IS_WEIGHT) end
    local scaled = scale * g
    return theta + o.rho / (generic.norm(scaled) + o.eps) * (scale * scaled)
  end,
}

return ascent
