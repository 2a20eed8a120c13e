-- sampler.lua: what a step sees. A sampler says how many steps an epoch has and which examples each takes, as a pure
-- function of the key and the step, so that a resumed run needs no state but its step count. It knows nothing of files.

local sampler = {}

-- Without replacement: a keyed permutation per epoch, cut into batches; the short last batch is used.
-- `permutation(key, n)` gives an object of n 0-based indices, kept for the epoch.
function sampler.shuffled(n, batch, key, permutation)
  if batch < 1 or batch % 1 ~= 0 then error(("a batch has at least one example, not %s"):format(batch), 3) end
  batch = math.tointeger(math.min(batch, n))
  local self = { n = n, batch = batch, per_epoch = (n + batch - 1) // batch }
  local order_key = key:fold("order")
  local epoch_at, order = nil, nil

  -- Step `step` (0-based) of the run: order of its epoch, first position in it (0-based), count, epoch.
  function self.at(step)
    local epoch, k = step // self.per_epoch, step % self.per_epoch
    if epoch ~= epoch_at then
      epoch_at, order = epoch, permutation(order_key:fold(epoch), n)
    end
    local first = k * batch
    return order, first, math.min(batch, n - first), epoch
  end

  -- The sizes a batch can have: the usual one and, if n is not a multiple of it, the last one's.
  function self.sizes()
    local last = n - (self.per_epoch - 1) * batch
    return last == batch and { batch } or { batch, last }
  end
  return self
end

return sampler
