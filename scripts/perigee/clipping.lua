-- clipping.lua: clipping of gradients as functions: to a norm, of the largest coordinates, of the pixels of an image;
-- and the lengths that a vector may be divided by. Stages and rules are made of them.

local core = require "perigee.core"
local generic = require "perigee.generic"
local names = require "perigee.names"
local sorting = require "perigee.sorting"
local transform = require "perigee.transform"

local clipping = { functions = {} }

-- What a vector of this norm is multiplied by: min(1, limit / (norm + eps)); eps is 1e-6 unless given, as in
-- torch.nn.utils.clip_grad_norm_.
function clipping.factor(norm, limit, eps) return generic.minimum(limit / (norm + (eps or 1e-6)), 1) end

-- Lengths of a vector by scope: over all numbers, those of each tensor, or of each number by itself.
clipping.lengths = {
  global = function(v) return generic.norm(v) end,
  tensor = function(v) return v:per_tensor():norm() end,
  elem = function(v) return generic.abs(v) end,
}

-- Raise an error where scope is none of them.
function clipping.check_scope(owner, scope)
  if not clipping.lengths[scope] then
    core.raise(('%s: scope is "global", "tensor" or "elem", not %s'):format(owner, names.describe(scope)))
  end
end

-- ---- the largest coordinates ----------------------------------------------------------------------------------------

local FLOATS = { f32 = true, f64 = true }

-- The magnitude, [1], that floor(fraction n) of the n magnitudes of a tensor come before, largest first.
local function threshold(a, fraction)
  if a.size == 0 then return core.apply("full", { a = { 1 }, dtype = a.dtype }, 0) end
  local rank = a.size - 1 - generic.floor(a.size * fraction)
  return sorting.take_ranks(a:reshape { a.size }, { rank })
end

local function clip_top(x, fraction)
  local a = generic.abs(x)
  if not x.layout then
    local tau = threshold(a, fraction)
    return generic.clip(x, -tau, tau)
  end
  local list = {}
  for i = 1, #x.layout do list[i] = threshold(a:view(i), fraction) end
  local values = core.apply("concat", { a = { 0 } }, table.unpack(list))
  local tau = core.apply("segbroadcast", { layout = x.layout }, values)
  return generic.clip(x, -tau, tau)
end

local eager = {} -- fraction → the function that does it outside of traces

--- pg.clip_top(x, fraction): x with its floor(fraction n) largest coordinates, by magnitude, cut down to the next
-- magnitude: coordinate-wise clipping (Pan & Li 2023, arXiv 2306.00204). x: a vector, by tensor, or a tensor as a
-- whole. Where fewer than so many coordinates are not 0, all become 0. The magnitude is the one that topk would give,
-- found without sorting.
function clipping.functions.clip_top(x, fraction)
  if not core.is_tensor(x) or not FLOATS[x.dtype] then
    core.raise("pg.clip_top: x must be a tensor or vector of f32 or f64, not " .. names.describe(x))
  elseif type(fraction) == "number" and not (fraction >= 0 and fraction < 1) then
    core.raise("pg.clip_top: fraction must lie in [0, 1), not " .. names.describe(fraction))
  elseif core.tracing() then
    return clip_top(x, fraction)
  end
  eager[fraction] = eager[fraction] or transform.jit(function(v) return clip_top(v, fraction) end)
  return eager[fraction](x)
end

-- ---- pixels ---------------------------------------------------------------------------------------------------------

--- pg.clip_pixels(g, c [, axis = -1]): g with each pixel, the numbers along the axis of the channels, scaled so that
-- none of them is larger than c: pixel-wise gradient clipping (Pan et al. 2024, arXiv 2310.12474), which keeps
-- directions. Meant for the derivative by an image:
--     image = pg.tap(image, function(g) return pg.clip_pixels(g, 0.1) end)
function clipping.functions.clip_pixels(g, c, axis)
  if not core.is_tensor(g) or g.layout or g.ndim == 0 then
    core.raise("pg.clip_pixels: a tensor with an axis of channels was expected, not " .. names.describe(g))
  elseif type(c) == "number" and c <= 0 then
    core.raise("pg.clip_pixels: c must be above 0, not " .. names.describe(c))
  end
  return g * generic.minimum(c / generic.abs(g):max(axis or -1, true), 1)
end

return clipping
