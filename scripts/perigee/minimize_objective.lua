-- minimize_objective.lua: what pg.minimize minimizes, as one kind of function: from a tensor to a number and a
-- gradient. It is made of a function that can be traced, or of an evaluator, whose loss is then that of all the data.

local core = require "perigee.core"
local evaluator = require "perigee.evaluator"
local hyper = require "perigee.hyper"
local names = require "perigee.names"

local M = {}

--- pg.minimize.objective(evaluator [, { weight_decay = 0, batch =, train = false, key =, buffers = }]) → function: The
-- mean loss over all the data of an evaluator's source, plus half of weight_decay |theta|^2, as a function: theta →
-- value (a number), gradient (like theta). Sums over batches are in f64.
--   weight_decay: a number or pg.per_tensor. batch: examples of one batch of a pass, default the evaluator's, or all.
--   train, key, buffers: as for evaluator:evaluate. With one key it is one function, dropout and all.
function M.objective(of, opts)
  if not evaluator.is(of) then
    core.raise("pg.minimize.objective: an evaluator comes first, not " .. names.describe(of))
  end
  opts = opts or {}
  names.check("pg.minimize.objective", opts, { "weight_decay", "batch", "train", "key", "buffers" })
  local source = of.source
  if not source then core.raise("pg.minimize.objective: the evaluator has no source, so no data to go over") end
  local how = { train = opts.train, key = opts.key, buffers = opts.buffers }
  local size = opts.batch or of.batch or source.n
  local decay = opts.weight_decay or 0
  return function(theta)
    local value, sum, total = 0.0, nil, source:total(size)
    for _, batch in source:batches(size, {}) do
      local loss, gradient = of:value_and_grad(theta, batch, how)
      local share = of:count(batch) / total
      value = value + share * loss
      local part = share * gradient:to "f64"
      sum = sum and sum + part or part
    end
    local gradient = sum:to(theta.dtype)
    if decay == 0 then return value, gradient end
    local pull = hyper.spread(decay, theta) * theta
    return value + 0.5 * (theta * pull):sum():item(), gradient + pull
  end
end

-- The function of a tensor that gives a number and a gradient, from what a user gives: an evaluator, or a function to
-- be traced, or with `given` one that is such already.
function M.of(owner, f, given)
  if evaluator.is(f) then return M.objective(f) end
  if type(f) ~= "function" then
    core.raise(("%s: a function or an evaluator comes first, not %s"):format(owner, names.describe(f)))
  end
  if given then return f end
  local pg = require "perigee"
  local value_and_grad = pg.jit(pg.value_and_grad(f))
  return function(x)
    local value, gradient = value_and_grad(x)
    return value:item(), gradient
  end
end

return M
