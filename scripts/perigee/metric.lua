-- metric.lua: numbers read off a batch of a model's outputs when a run evaluates. Traced like a loss, a metric takes
-- the model's output and the batch and returns one number per example, which the evaluation averages over the split.

local core = require "perigee.core"
local text = require "perigee.tensor_text"

local metric = {}

--- pg.metric.accuracy(out, batch): 1 where the largest of out [n, classes] is batch.y [n], else 0; [n]. With one output
-- for each example, [n] or [n, 1], the sign decides between two labels.
function metric.accuracy(out, batch)
  local y = batch.y
  local ndim, classes = out.ndim, out.shape[out.ndim]
  if ndim == y.ndim + 1 and classes > 1 then return out:argmax(-1):to(y.dtype):eq(y):to(out.dtype) end
  if out.size ~= y.size then
    core.raise(("pg.metric.accuracy: outputs are %s and labels %s; one label for each row of outputs was expected")
      :format(text.type(out), text.type(y)))
  end
  return out:gt(0):to(out.dtype):reshape(y.shape):eq(y:gt(0):to(out.dtype)):to(out.dtype)
end

return metric
