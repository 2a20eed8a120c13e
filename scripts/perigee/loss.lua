-- loss.lua: losses, each with reduction = "mean" (the default), "sum" or "none" (one loss per example or element).
local core = require "perigee.core"
local tensor = require "perigee.tensor"

local M = {}

local reductions = { mean = 0, sum = 1, none = 2 }

local function loss(name)
  return function(x, target, opts)
    tensor.check_tensor(name, x)
    local reduction = opts and opts.reduction or "mean"
    local flags = reductions[reduction]
    if not flags then tensor.raise("%s: reduction is 'mean', 'sum' or 'none', got '%s'", name, tostring(reduction)) end
    return core.apply(name, { flags = flags }, x, target)
  end
end

--- pg.cross_entropy(logits, labels [, { reduction = "mean" }]): The cross entropy of softmax(logits [..., classes]) and
-- labels [...], integers from 0, in nats. reduction: "mean", "sum" or "none" (one loss for each label).
M.cross_entropy = loss("cross_entropy")
--- pg.binary_cross_entropy_with_logits(logits, targets [, { reduction = "mean" }]): The cross entropy of
-- sigmoid(logits) and targets in [0, 1], by elements, in nats. reduction: "mean", "sum" or "none".
M.binary_cross_entropy_with_logits = loss("binary_cross_entropy_with_logits")
--- pg.squared_loss(prediction, target [, { reduction = "mean" }]), pg.mse(prediction, target [, opts]):
-- (prediction - target)^2, by elements. reduction: "mean", "sum" or "none".
M.squared_loss = loss("squared_loss")
M.mse = M.squared_loss

return M
