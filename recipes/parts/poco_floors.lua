-- poco_floors.lua: recipes/poco_logreg.lua part=floors: what keeps IVON-PoCo from where SVRG goes. Its gradients are as
-- free of the batches' noise as SVRG's; what remains is that of the weights, in two ways:
-- (1) It minimizes the mean of F over the posterior, whose minimum is not w*: an offset that shrinks as ess grows. For
--     two classes it is computed beside, by quadrature at the variances the run ended with.
-- (2) Each outer pass draws the weights afresh, so every epoch's correction is a little wrong, which moves the mean
--     about: a spread. Passes in mirrored pairs cancel most of it.
-- The iterates at the ends of the last third of the epochs are split accordingly: the gap of their mean, and their
-- spread around it.

local pg = require "perigee"
local measure = require "parts.measure"

local function variants_of(o)
  return {
    { "SVRG", "SVRG", {} },
    { "VSGD-PoCo", "VSGD-PoCo", {} },
    { "IVON-PoCo", "IVON-PoCo", {} },
    { "  h faster: beta2 = 0.999", "IVON-PoCo", { beta2 = 0.999 } },
    { "  mirrored passes", "IVON-PoCo", { antithetic = true } },
    { "  100 times the ess", "IVON-PoCo", { ess = 100 * o.ess } },
    { "  both", "IVON-PoCo", { ess = 100 * o.ess, antithetic = true } },
    { "  no weight noise, h fixed", "IVON-PoCo", { noise = false, fixed = true } },
  }
end

-- The variances of the weights of a posterior that ended a run, [d, 1]; nil where there is no noise.
local function variance_of(part, q, more)
  local given = setmetatable(more, { __index = part.o })
  if not given.noise then return nil end
  local ess = given.ess * part.problem.n
  local w = q.mean["1.weight"]
  if q.h then return 1 / (ess * (q.h["1.weight"] + part.problem.l2)) end
  return 0 * w + 1 / (ess * (part.o.h0 + part.problem.l2))
end

-- One seed: the last gap, that of the mean iterate, the spread around it, and the posterior at the end.
local function split_gap(part, method, lr, more, how, epochs)
  local tail, problem = {}, part.problem
  how.each = function(ctx, epoch)
    if 3 * epoch > 2 * epochs then tail[#tail + 1] = 1 * ctx.theta["1.weight"] end
  end
  local _, last, run = measure.run(problem, part.make(method, lr, more), how)
  if not run or #tail == 0 then return last, last, last end
  local mean, around = 0 * tail[1], 0
  for _, w in ipairs(tail) do mean = mean + w / #tail end
  for _, w in ipairs(tail) do around = around + problem:quadratic(w - mean) / #tail end
  return last, problem:quadratic(mean - problem.minimum.x), around, run.q
end

return function(part)
  local o, by_name = part.o, {}
  for _, method in ipairs(part.methods) do by_name[method.name] = method end
  local epochs = math.max(3, math.floor(2 * o.passes / 3))
  local rows = {}
  for _, variant in ipairs(variants_of(o)) do
    local method, more = by_name[variant[2]], variant[3]
    local how = { batch = part.batch, passes = epochs * (more.antithetic and 4 or 3), points = 0, seed = 1 }
    local lr = measure.search(function(lr)
      return measure.score(part.problem, part.make(method, lr, more), how)
    end, method.first)
    local last, offset, spread, q = {}, {}, {}, nil
    for seed = 1, o.seeds do
      how.seed = seed
      last[seed], offset[seed], spread[seed], q = split_gap(part, method, lr, more, how, epochs)
    end
    local variance = q and method.family ~= "point" and part.problem.outputs == 1 and variance_of(part, q, more)
    local function text(list) return ("%.1e"):format(measure.median(list)) end
    rows[#rows + 1] = { variant[1], ("%g"):format(lr), text(last), text(offset), text(spread),
      variance and ("%.1e"):format(part.problem:offset(variance)) or "" }
  end
  print(("\n%d epochs, each variant at its best step:"):format(epochs))
  pg.table.print({ "", "step", "gap", "of the mean iterate", "of the spread around it", "offset by quadrature" }, rows)
end
