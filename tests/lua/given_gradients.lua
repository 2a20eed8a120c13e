-- given_gradients.lua: losses whose gradients are given, at a few points or example by example, so that whole steps of
-- an optimizer, those with several evaluations too, can be replayed from recorded gradients.
local support = require "support"
local pg, core = support.pg, support.core

local M = {}

-- A batch: the loss has these gradients near these points. pairs: { { point, gradient }, … }, each a vector or lists of
-- numbers by tensor.
function M.batch(layout, dtype, pairs)
  local points, gradients = {}, {}
  local function row(x)
    x = core.is_tensor(x) and x or support.vector(layout, dtype, x)
    return x:flat():reshape(1, 1, -1)
  end
  for i, pair in ipairs(pairs) do points[i], gradients[i] = row(pair[1]), row(pair[2]) end
  return { points = pg.concat(points, 2):copy(), gradients = pg.concat(gradients, 2):copy() }
end

-- The loss that belongs to such batches: theta times the gradient of the nearest point.
function M.loss(_, theta, batch)
  local flat = theta:flat()
  local d = batch.points - pg.stop_gradient(flat)
  local nearest = (d * d):sum(-1):argmin(-1) -- [1]
  local is_it = core.apply("iota", { a = { batch.points.shape[2] }, b = { 0 }, dtype = "i64" }):eq(nearest)
  local gradient = (is_it:to(flat.dtype):reshape(1, -1, 1) * batch.gradients):sum(2)
  return (flat * pg.stop_gradient(gradient):reshape(-1)):sum()
end

-- ---- example by example ----

-- An evaluator whose examples have the gradients that each batch brings: the loss of example i is c_i · theta.
M.by_example = pg.evaluator { loss = function(_, theta, batch)
  local flat = theta:flat()
  return batch.c:matmul(flat:reshape(flat.size, 1)):reshape(batch.c.shape[1]):mean()
end }

-- Recorded gradients of b examples, a flat list for each tensor [examples × numbers], as rows.
function M.rows_of(per_sample, b, dtype)
  local flat, width = {}, 0
  for _, list in ipairs(per_sample) do width = width + #list // b end
  for i = 0, b - 1 do
    for _, list in ipairs(per_sample) do
      local n = #list // b
      table.move(list, i * n + 1, (i + 1) * n, #flat + 1, flat)
    end
  end
  return core.tensor(dtype, { b, width }, flat)
end

-- The batch of such rows.
function M.batch_of(rows) return { c = rows, id = pg.arange(rows.shape[1], "i64") } end

-- A source with one batch, that of the passes, which `set` replaces.
function M.source()
  local self, batch = { n = 1 }, nil
  function self.set(given) batch = given end
  function self.total() return 1 end
  function self.batches(_, _, options)
    local j = (options and options.first or 1) - 1
    return function()
      j = j + 1
      if j == 1 then return j, batch end
    end
  end
  return self
end

return M
