-- buffers.lua: what a model keeps besides its parameters and changes as it trains: the running statistics of batch
-- norm, one flat vector. Owns the errors when they are missing or do not fit, and where they come from and go to.
--
-- An evaluation reads them from ctx.buffers, and the model leaves new ones in ctx.new_buffers. Each evaluation of a
-- step is given those from before the step, so it stays a pure function of point, batch and key (evaluation.lua). At
-- the end of the step the new ones of one evaluation are adopted: that at the current point q, of its first sample.

local core = require "perigee.core"
local vectors = require "perigee.vectors"

local buffers = {}

-- Whether a model keeps any.
function buffers.has(model)
  return type(model) == "table" and model.buffer_layout ~= nil
end

-- Those that a run begins with, of a model at parameters of this dtype; nil if it keeps none.
function buffers.initial(model, dtype)
  return buffers.has(model) and model:init_buffers(dtype) or nil
end

-- A copy of the vector that a user gave, in the dtype of the parameters.
function buffers.copy(given, dtype, where)
  if not core.is_tensor(given) or given.layout == nil then
    core.raise(("%s: buffers are a vector, as model:init_buffers() gives, not a %s"):format(where,
      core.is_tensor(given) and given.dtype .. " tensor" or type(given)))
  end
  return vectors.clone(given, dtype)
end

-- Raise an error if the model keeps buffers and `given` are none or others. how: what to write instead.
function buffers.check(model, given, how)
  if not buffers.has(model) then
    return
  elseif not given then
    core.raise("the model keeps running statistics (buffers), and none were given: " .. how)
  elseif given.layout ~= model.buffer_layout then
    core.raise(("the model keeps buffers of %d numbers in %d tensors, those given are of another model (%d numbers in "
      .. "%d): %s"):format(model.buffer_layout.size, #model.buffer_layout, given.layout.size, #given.layout, how))
  end
end

-- The new ones that the model left in ctx, in a trace; nil if it left none.
function buffers.take(ctx)
  local new, old = ctx.new_buffers, ctx.buffers
  if new ~= nil and not (core.is_tensor(new) and new.layout == old.layout and new.dtype == old.dtype) then
    core.raise(("ctx.new_buffers must be a vector like ctx.buffers (%s, %d numbers)"):format(old.dtype,
      old.layout.size))
  end
  return new
end

return buffers
