-- metric.lua: numbers read off a batch of a model's outputs when a run evaluates. Traced like a loss, a metric takes
-- the model's output and the batch and returns one number per example, which the evaluation averages over the split.

local metric = {}

--- pg.metric.accuracy(out, batch): 1 where the largest of out [n, classes] is batch.y [n], else 0; [n]. With one output
-- for each example, [n], the sign decides between two labels.
function metric.accuracy(out, batch)
  local y = batch.y
  if #out.shape == #y.shape then
    return out:gt(0):to(out.dtype):eq(y:gt(0):to(out.dtype)):to(out.dtype)
  end
  return out:argmax(-1):to(y.dtype):eq(y):to(out.dtype)
end

return metric
