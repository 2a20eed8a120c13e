-- drawn_labels.lua: labels drawn from the model in place of those of the data, where a family asks for them: the
-- gradients on such labels are what the diagonal of the Gauss-Newton matrix is estimated from.

local check = require "perigee.tensor_args"
local draws = require("perigee.draws").functions
local loops = require "perigee.loops"
local text = require "perigee.tensor_text"
local transform = require "perigee.transform"

local M = {}

local draw_for_each = loops.vmap(draws.categorical) -- a key for each example

--- pg.labels(logits, labels, ctx): The labels that a loss compares logits [..., classes] with: labels, as they are,
-- except where a family (pg.family.gauss_newton) takes a gradient on labels drawn from the model; there, draws from
-- softmax(logits) by ctx.key, i64 [...].
--     pg.cross_entropy(logits, pg.labels(logits, batch.y, ctx))
-- ctx: what the loss is given; without one (nil) these are labels.
function M.labels(logits, labels, ctx)
  check.check_tensor("labels: logits", logits)
  check.check_tensor("labels: labels", labels)
  local drawn = ctx and ctx.drawn
  if not drawn then return labels end
  if logits.ndim ~= labels.ndim + 1 then
    check.raise("labels: logits %s need one axis, of classes, more than labels %s have", text.type(logits),
      text.type(labels))
  end
  drawn.count = labels.size
  local key = ctx.key:fold "labels"
  local draw = key.ndim > 0 and draw_for_each or draws.categorical
  return draw(key, transform.stop_gradient(logits))
end

return M
