-- clipping.lua: clipping of gradients as functions: to a norm, of the largest coordinates, of the pixels of an image;
-- and the lengths that a vector may be divided by. Stages and rules are made of them.

local core = require "perigee.core"
local generic = require "perigee.generic"
local loops = require "perigee.loops"
local names = require "perigee.names"
local per_tensor = require "perigee.per_tensor"
local transform = require "perigee.transform"

local clipping = { functions = {} }

-- What a vector of this norm is multiplied by, as torch.nn.utils.clip_grad_norm_ has it: min(1, limit / (norm + 1e-6)).
function clipping.factor(norm, limit) return generic.minimum(limit / (norm + 1e-6), 1) end

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

-- How often the interval in which the threshold lies is halved: what is left of it is too short for two numbers that
-- differ by more than 2^-40 (2^-70 in f64) of the largest.
local HALVINGS = { f32 = 40, f64 = 70 }

-- How to reduce magnitudes: by tensor for a vector, as a whole for a tensor. spread: the reduced to magnitudes' shape.
local function reductions(a)
  if not a.layout then
    return { max = function(x) return x:max() end, sum = function(x) return x:sum() end, size = a.size,
      spread = function(x) return x end }
  end
  local function values(reduced) return reduced:resolve(a.layout, a.dtype) end
  return { max = function(x) return values(x:per_tensor():max()) end,
    sum = function(x) return values(x:per_tensor():sum()) end, size = per_tensor.count:resolve(a.layout, a.dtype),
    spread = function(x) return per_tensor.of(x, a.layout) end }
end

-- The magnitude that floor(fraction n) of n magnitudes lie above, or as many as ties allow: the smallest threshold of
-- which that holds, found by halving, always at a magnitude that occurs.
local function threshold(a, fraction)
  local by = reductions(a)
  local allowed, high = generic.floor(by.size * fraction), by.max(a)
  local last = loops.scan(function(ends)
    local low, up = ends[1], ends[2]
    local middle = low + (up - low) / 2
    local above = generic.gt(a, by.spread(middle))
    local fits = generic.le(by.sum(core.apply("cast", { dtype = a.dtype }, above)), allowed)
    local below = by.max(generic.where(above, 0, a))
    return { generic.where(fits, low, middle), generic.where(fits, below, up) }
  end, { 0 * high, high }, core.apply("iota", { a = { HALVINGS[a.dtype] }, b = { 0 }, dtype = "i64" }))
  return by.spread(last[2])
end

local function clip_top(x, fraction)
  local tau = threshold(generic.abs(x), fraction)
  return generic.clip(x, -tau, tau)
end

local eager = {} -- fraction → the function that does it outside of traces

--- pg.clip_top(x, fraction): x with its floor(fraction n) largest coordinates, by magnitude, cut down to the next
-- magnitude: coordinate-wise clipping (Pan & Li 2023, arXiv 2306.00204). x: a vector, by tensor, or a tensor as a
-- whole. Where fewer than so many coordinates are not 0, all become 0. The threshold is found in 40 passes (70 in f64)
-- over x; magnitudes that differ by less than 2^-40 (2^-70) of the largest count as one.
function clipping.functions.clip_top(x, fraction)
  if not core.is_tensor(x) or not HALVINGS[x.dtype] then
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
