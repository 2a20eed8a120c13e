-- methods.lua: `perigee methods`: the families, corrections, rules and ready-made optimizers there are, with one line
-- each and their hyperparameters. What there is comes from the modules; only the lines are kept here.

local names = require "perigee.names"

local methods = {}

local SUMMARIES = {
  family = {
    point = "the parameters themselves; statistics {g}",
    isotropic = "Gaussian noise of fixed width around the mean; {g}",
    diagonal = "IVON's Gaussian with a Hessian diagonal h; {g, h}",
  },
  correction = {
    none = "the statistics as they are",
    svrg = "gradient at a snapshot subtracted, its full mean added; over diagonal: posterior correction (PoCo)",
  },
  rule = {
    sgd = "gradient descent with momentum, Nesterov, dampening; weight decay is L2",
    adam = "Adam and AMSGrad; weight decay is L2",
    adamw = "Adam with decoupled weight decay",
    ivon = "IVON's mean update, preconditioned by the family's h",
  },
  stage = {
    clip = "clips a gradient by global norm, per tensor or by value",
  },
  optim = {
    sgd = "point, sgd",
    momentum = "point, sgd with momentum 0.9",
    adam = "point, adam",
    adamw = "point, adamw",
    svrg = "point, svrg, sgd",
    alpha_svrg = "point, svrg with a strength that falls over the run, sgd",
    ivon = "diagonal, ivon",
    ivon_poco = "diagonal, svrg, ivon",
  },
}

local HEADS = {
  { "family", "families: where the loss is evaluated, and which statistics come back" },
  { "correction", "corrections: less noisy statistics" },
  { "rule", "rules: how the mean moves" },
  { "stage", "stages: edits of a gradient, per_evaluation or combined" },
  { "optim", "ready-made: pg.optim.NAME { … }" },
}

-- "lr = 0.001, momentum = 0" of a part's defaults; "" where there are none to be had.
local function defaults_of(part)
  local given = type(part) == "table" and part.hyper and part.hyper.given
  local out = {}
  for i, key in ipairs(given and names.sorted(given) or {}) do
    local value = given[key]
    out[i] = type(value) == "number" and ("%s = %.12g"):format(key, value) or ("%s = %s"):format(key, tostring(value))
  end
  return table.concat(out, ", ")
end

-- {{ name, summary, defaults }, …} of one kind ("family", "rule", …), sorted.
function methods.list(kind)
  local module, out = require("perigee")[kind], {}
  for _, name in ipairs(names.sorted(module)) do
    local part = module[name]
    local is_part = type(part) == "table" and part.kind == kind or SUMMARIES[kind][name] ~= nil
    if is_part then out[#out + 1] = { name, SUMMARIES[kind][name] or "", defaults_of(part) } end
  end
  return out
end

-- Print all of it. → exit code
function methods.main()
  for _, head in ipairs(HEADS) do
    io.write(head[2], "\n")
    for _, row in ipairs(methods.list(head[1])) do
      io.write(("  %-11s %s\n"):format(row[1], row[2]))
      if row[3] ~= "" then io.write(("  %-11s   %s\n"):format("", row[3])) end
    end
    io.write("\n")
  end
  io.write("An optimizer is a family, a correction and a rule: pg.optimizer { family = …, correction = …, rule = … }\n")
  return 0
end

return methods
