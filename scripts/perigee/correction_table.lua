-- correction_table.lua: corrections that keep the last statistics of every example, or of every batch, in a table: SAGA
-- and SAG. One gradient a step, and memory instead of passes.

local class = require "perigee.correction_class"
local core = require "perigee.core"
local names = require "perigee.names"
local rows = require "perigee.rows"

local M = {}

local function check_choice(owner, o, name, first, second)
  if o[name] ~= first and o[name] ~= second then
    core.raise(('%s: %s is "%s" or "%s", not %s'):format(owner, name, first, second, names.describe(o[name])))
  end
end

-- The definition of both; result(change, before, after): the corrected statistics from the mean change of the batch's
-- rows and the mean of the table before and after it.
local function define(name, result)
  local owner = "correction " .. name
  return class.define {
    name = name,
    hyper = { per = "example", table = "memory", linear = false, fill = "pass", rebuild = false },
    check = function(o)
      check_choice(owner, o, "per", "example", "batch")
      check_choice(owner, o, "table", "memory", "file")
      check_choice(owner, o, "fill", "pass", "zeros")
    end,
    fits = function(family, o)
      if family:has_noise() then
        return "the statistics in the table were taken under the noise of other steps, which never cancels; it needs a "
          .. "family that evaluates at the mean"
      elseif o.per == "example" and family:is_of_batch() then
        return "a row is of an example, and the points of this family depend on the gradient of the whole batch; per = "
          .. "\"batch\" keeps a row for each batch"
      elseif o.linear and (family:gives "h" or family:gives "H") then
        return "with linear = true the table holds cotangents of the model's output, which give gradients only"
      end
    end,
    partition = function(o) return o.per == "batch" end,
    lasting = true,
    state = function(o)
      return { mean = "statistics", table = rows.rows { per = o.per, linear = o.linear, file = o.table == "file" } }
    end,
    due = function(ctx) return ctx.o.rebuild and ctx.period_ended end,
    refresh = function(s, ctx)
      if not ctx.first then
        s.mean = ctx:average(s.table)
      elseif ctx.o.fill == "pass" then
        s.mean = ctx:full(ctx.q, s.table)
      end
    end,
    correct = function(s, ctx)
      local now = ctx:rows(ctx.q)
      local change, before = ctx:mean(now - s.table), s.mean
      local after = before + ctx.share * change
      s.table, s.mean = now, after
      return result(change, before, after)
    end,
  }
end

--- pg.correction.saga { per = "example", table = "memory", linear = false, fill = "pass", rebuild = false, every =
-- pg.epochs(1) } → correction: SAGA (Defazio, Bach & Lacoste-Julien 2014, arXiv 1407.0202): a table T of the last
-- gradient of every one of n examples and its mean; one gradient a step.
--     v = mean over the batch of (g_i - T_i) + mean T;  then T_i = g_i, and the mean follows
--   per: "example" keeps n rows of all numbers and takes gradients one example after another; "batch" keeps a row for
--     each batch of a partition that never changes, for the price of ordinary gradients.
--   linear = true: the model is linear in theta given x (logistic, softmax regression): rows are the derivatives by the
--     model's outputs for each example, and a step costs as much as a plain one. Checked once; per = "example" only.
--   table: "memory", or "file" without a name in TMPDIR (/var/tmp). It is part of every checkpoint.
--   fill: "pass" fills it by a pass at the beginning, "zeros" begins with zeros.
--   rebuild: whether the mean is summed anew after each period of `every`, against drift by rounding.
-- It needs a family that evaluates at the mean, and a model without batch norm unless per = "batch".
M.saga = define("saga", function(change, before) return change + before end)

--- pg.correction.sag { per = "example", table = "memory", linear = false, fill = "pass", rebuild = false, every =
-- pg.epochs(1) } → correction: SAG (Schmidt, Le Roux & Bach 2013, arXiv 1309.2388): the mean of SAGA's table after the
-- batch's rows are replaced: less variance, and biased. Options as for pg.correction.saga.
M.sag = define("sag", function(_, _, after) return after end)

return M
