-- stage_private.lua: stages for differential privacy, which clip the gradient of each example by itself and add noise
-- to their average: DP-SGD and DiceSGD. How private that is: privacy.lua.

local clipping = require "perigee.clipping"
local core = require "perigee.core"
local define = require("perigee.stage_class").define
local generic = require "perigee.generic"
local hyper = require "perigee.hyper"
local names = require "perigee.names"
local per_tensor = require "perigee.per_tensor"

local M = {}

-- ---- groups of tensors ----------------------------------------------------------------------------------------------

-- The tensors of a layout by group: a matrix [tensors, tensors] with 1 for two of one group, and how many groups.
local function group_matrix(layout, dtype, groups)
  local labels, seen, count, cells = {}, {}, 0, {}
  for i = 1, #layout do
    local label = groups == "tensor" and i or groups(layout[i].name, layout[i].shape)
    if label == nil then
      core.raise(("stage private: groups gave no group for tensor '%s'"):format(layout[i].name))
    end
    if not seen[label] then seen[label], count = true, count + 1 end
    labels[i] = label
  end
  for i = 1, #layout do
    for j = 1, #layout do cells[#cells + 1] = labels[i] == labels[j] and 1 or 0 end
  end
  return core.tensor(dtype, { #layout, #layout }, cells), count
end

-- What clips a vector like `like` as a whole, or each group of its tensors to limit / sqrt(groups), which bounds the
-- whole by limit too.
local function make_clipper(like, limit, groups, eps)
  if not groups then return function(g) return g * clipping.factor(generic.norm(g), limit, eps) end end
  local layout, dtype = like.layout, like.dtype
  local same, count = group_matrix(layout, dtype, groups)
  return function(g)
    local squares = (g * g):per_tensor():sum():resolve(layout, dtype)
    local norms = generic.sqrt(same:matmul(squares:reshape(squares.size, 1)):reshape(squares.size))
    return g * per_tensor.of(clipping.factor(norms, limit / math.sqrt(count), eps), layout)
  end
end

-- ---- the stages -----------------------------------------------------------------------------------------------------

-- x, no longer than limit: x min(1, limit / |x|).
local function shorten(x, limit) return x * generic.minimum(limit / generic.norm(x), 1) end

local private = define {
  name = "private",
  hyper = { clip = hyper.required, noise_multiplier = hyper.required, groups = false, batch = false, eps = 1e-6 },
  limits = { clip = "(0, inf)", noise_multiplier = "[0, inf)", batch = "(0, inf)", eps = "[0, inf)" },
  static = { "groups" }, -- a function, and no schedule
  examples = true,
  apply = function(each, o, ctx)
    local size = o.batch or each.expected or each.count
    local g = each:sum(make_clipper(each.like, o.clip, o.groups, o.eps)) / size
    return g + (o.noise_multiplier * o.clip / size) * generic.normal_like(ctx.key, g)
  end,
}

--- pg.stage.private { clip =, noise_multiplier =, groups = false, batch =, eps = 1e-6 } → stage: The gradient of DP-SGD
-- (Abadi et al. 2016, arXiv 1607.00133), first in stages.per_evaluation:
--     g = (sum over examples of g_i min(1, clip / (|g_i| + eps)) + noise_multiplier clip z) / B,  z normal
-- with the eps of Opacus; the paper's is 0. It takes the gradient of each example by itself, so batch norm is refused.
--   groups: "tensor", or a function(name, shape) → group: the tensors of each group are clipped by themselves, to clip
--     / sqrt(groups) (McMahan et al. 2018, arXiv 1710.06963), so that the noise is that of one clip.
--   batch: the expected number of examples in a batch, which is divided by; default what pg.sampler.poisson expects, or
--     the batch's own number.
-- z comes from the run's key: whoever knows the key knows the noise. pg.privacy.rdp tells how private a run is; it
-- assumes batches that each example joins by a coin of its own: pg.train { sampler = pg.sampler.poisson { … } }. An
-- empty batch gives noise alone. Examples count alike here, whatever their weights.
-- Each gradient of a corrected step and each batch of a pass is a step of its own to it.
-- The loss that a step reports has no noise on it.
function M.private(given)
  local s = private(given)
  local groups = s.hyper.given.groups
  if groups and groups ~= "tensor" and type(groups) ~= "function" then
    core.raise(('stage private: groups is "tensor" or a function(name, shape), not %s'):format(names.describe(groups)))
  end
  return s
end

-- The share of the old error that a step leaves, f = error_clip / |error|.
local KEEPS = {
  paper = function(f) return 1 - generic.minimum(f, 1) end,
  code = function(f) return generic.minimum(f, 1 - generic.minimum(f, 1)) end,
}

--- pg.stage.dice { clip =, error_clip = clip, noise = 0, form = "paper" } → stage: The gradient of DiceSGD (Zhang et
-- al. 2024, arXiv 2311.14632), DP-SGD whose clipping error is fed back, first in stages.per_evaluation:
--     v = mean over examples of clipped(g_i, clip) + clipped(error, error_clip);  error = error + mean of g_i - v
-- and v + noise z goes on, z normal; clipped(x, c) = x min(1, c / |x|). error_clip at least clip. The error is private:
-- it must not be published, and checkpoints hold it. form = "code": of an error longer than twice error_clip the
-- authors' code leaves the clipped part and not the rest; its noise is a multiple of clip sqrt(1 + 2 error_clip /
-- clip). Not with corrections.
M.dice = define {
  name = "dice",
  hyper = { clip = hyper.required, error_clip = false, noise = 0, form = "paper" },
  limits = { clip = "(0, inf)", error_clip = "(0, inf)", noise = "[0, inf)" },
  check = function(o) names.choice("stage dice: form", o.form, { "paper", "code" }) end,
  examples = true,
  state = { "error" },
  apply = function(each, o, ctx, s)
    local clipped, plain = each:mean(function(g) return shorten(g, o.clip), g end)
    local f = (o.error_clip or o.clip) / generic.norm(s.error)
    local v = clipped + s.error * generic.minimum(f, 1)
    s.error = s.error * KEEPS[o.form](f) + (plain - clipped)
    return v + o.noise * generic.normal_like(ctx.key, v)
  end,
}

return M
