-- loss.lua: losses, each with reduction = "mean" (the default), "sum" or "none" (one loss per example or element).
local core = require "perigee.core"
local names = require "perigee.names"
local check = require "perigee.tensor_args"
local text = require "perigee.tensor_text"

local M = {}

local reductions = { mean = 0, sum = 1, none = 2 }

local KNOWN = { "reduction" }

-- fits(x, target): raises what the engine does not say about the operands.
local function loss(name, fits)
  return function(x, target, opts)
    check.check_tensor(name, x)
    if opts ~= nil then names.check("pg." .. name, opts, KNOWN) end
    local reduction = opts and opts.reduction or "mean"
    local flags = reductions[reduction]
    if not flags then
      check.raise('%s: reduction is "mean", "sum" or "none", got %s', name, names.describe(reduction))
    end
    fits(x, target)
    return core.apply(name, { flags = flags }, x, target)
  end
end

-- In a compiled program, where labels are not known yet, the loss of a label that is no class is NaN.
local function check_labels(logits, labels)
  check.check_tensor("cross_entropy: labels", labels)
  local classes = logits.shape[logits.ndim]
  if classes then check.check_range("cross_entropy: label", labels, classes, "of the classes") end
end

-- Predictions [n, 1] and targets [n] would broadcast to [n, n], and the mean of that is no loss.
local function check_alike(name)
  return function(x, target)
    if not core.is_tensor(target) then return end
    local same_shape = table.concat(x.shape, ",") == table.concat(target.shape, ",")
    local what = x.dtype ~= target.dtype and ('dtypes; convert one with :to("%s")'):format(x.dtype)
      or not same_shape and x.ndim > 0 and target.ndim > 0 and "shapes; reshape or broadcast one"
    if not what then return end
    check.raise("%s: prediction %s and target %s have different %s", name, text.type(x), text.type(target), what)
  end
end

--- pg.cross_entropy(logits, labels [, { reduction = "mean" }]): The cross entropy of softmax(logits [..., classes]) and
-- labels [...], integers from 0, in nats. reduction: "mean", "sum" or "none" (one loss for each label).
M.cross_entropy = loss("cross_entropy", check_labels)
--- pg.binary_cross_entropy_with_logits(logits, targets [, { reduction = "mean" }]): The cross entropy of
-- sigmoid(logits) and targets in [0, 1], by elements, in nats. reduction: "mean", "sum" or "none".
M.binary_cross_entropy_with_logits = loss("binary_cross_entropy_with_logits",
  check_alike "binary_cross_entropy_with_logits")
--- pg.squared_loss(prediction, target [, { reduction = "mean" }]), pg.mse(prediction, target [, opts]):
-- (prediction - target)^2, by elements. reduction: "mean", "sum" or "none".
M.squared_loss = loss("squared_loss", check_alike "squared_loss")
M.mse = M.squared_loss

return M
