-- augment.lua: pg.augment, random changes of training images. What happens to an example depends on its own key alone:
-- the one that a loss gets as ctx.key, so that every evaluation of a corrected step and its pass sees the same image.

local args = require "perigee.tensor_args"
local core = require "perigee.core"
local names = require "perigee.names"

local augment = {}

-- What is folded into an example's key for each function, beyond what else is: places in a model, Monte Carlo samples.
local STREAMS = { crop_flip = 1 << 40 }

-- The keys to draw from: those given, or the examples' of a loss's ctx; nil where ctx says that this is no training.
local function find_key(owner, stream, given)
  if core.is_tensor(given) and given.dtype == "key" then return given end
  if type(given) ~= "table" then
    args.raise("%s: ctx, as a loss gets it, or a key was expected second, got %s", owner, names.describe(given))
  end
  if not given.train then return nil end
  local key = given.augment_key or given.key
  if not key then args.raise("%s needs ctx.key while training", owner) end
  return core.apply("key_fold", nil, key, stream)
end

--- pg.augment.crop_flip(x, ctx [, { pad = 4, flip = true }]): Images x [batch, channels, height, width], of any dtype,
-- each padded with `pad` zeros on every side, cut back to its size at a random place, and mirrored left to right with
-- probability 1/2 (not with flip = false): the usual augmentation of small photographs (He et al. 2015). Inside a loss:
--   local x = pg.augment.crop_flip(batch.x, ctx)
-- What happens to an image depends on its key alone: ctx.key (ctx.augment_key where there is one), a key for each
-- example of a batch with ids, which changes with the epoch, or, under a correction, with the segment. Without
-- ctx.train it gives x back. In place of ctx a key, or keys [batch], may be given; one key moves all images alike.
function augment.crop_flip(x, ctx, opts)
  local owner = "pg.augment.crop_flip"
  local o = args.read_options(owner, opts, { pad = 4, flip = true })
  if math.type(o.pad) ~= "integer" or o.pad < 0 then
    args.raise("%s: pad is a whole number of at least 0, not %s", owner, names.describe(o.pad))
  end
  args.check_tensor(owner, x)
  local key = find_key(owner, STREAMS.crop_flip, ctx)
  if not key then return x end
  return core.apply("crop_flip", { a = { o.pad }, flags = o.flip and 2 or 0 }, x, key)
end

augment.crop_flip = core.entry(augment.crop_flip)

return augment
