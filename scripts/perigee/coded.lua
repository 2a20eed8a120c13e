-- coded.lua: vectors in 8 bits, as the engine's operations have them: codes, u8, of some of a vector's tensors, and a
-- list of scales, the largest magnitude of each block; tensors without codes have their numbers there in full. Kinds of
-- codes and what a block may be. For pg.quantize (any tensor) and pg.wrapper.eight_bit (state slots).

local core = require "perigee.core"
local names = require "perigee.names"

local coded = {}

local LARGEST_BLOCK = 4096

-- Flags of the operations.
local UNSIGNED, LINEAR, LOSE_SIGN = 1, 2, 4

-- The weight of pg.nn.stable_embedding, which keeps states of 32 bits, is known by this name.
coded.STABLE = "stable_weight"

coded.MAPS = { "dynamic", "linear" }

-- The kind of codes by options: signed, map, keep_sign.
function coded.kind(o)
  return (o.signed and 0 or UNSIGNED) | (o.map == "linear" and LINEAR or 0) | (o.keep_sign and 0 or LOSE_SIGN)
end

-- Raise unless o.block and o.map are what blocks and maps may be; the block as an integer. owner: for messages.
function coded.check(owner, o)
  local block = math.tointeger(o.block)
  if not block or block < 2 or block > LARGEST_BLOCK or block & (block - 1) ~= 0 then
    core.raise(("%s: block is a power of two from 2 to %d, not %s"):format(owner, LARGEST_BLOCK,
      names.describe(o.block)))
  end
  names.choice(owner .. ": map", o.map, coded.MAPS)
  return block
end

-- The vector x as codes of the tensors that `layout` names, and scales.
function coded.encode(x, layout, block, kind)
  return core.apply("block_codes", { layout = layout, a = { block }, flags = kind }, x),
    core.apply("block_scales", { layout = layout, a = { block } }, x)
end

-- The vector of a layout that codes and scales stand for.
function coded.decode(codes, scales, layout, block, kind)
  return core.apply("block_values", { layout = layout, a = { block }, flags = kind }, codes, scales)
end

-- How many scales a vector of a layout has, codes being those of another.
function coded.count_scales(layout, codes, block)
  local count = 0
  for i = 1, #layout do
    local size = layout[i].size
    count = count + (codes:find(layout[i].name) and (size + block - 1) // block or size)
  end
  return count
end

-- What 0 is coded as.
function coded.zero(kind) return kind & UNSIGNED == 0 and 127 or 0 end

return coded
