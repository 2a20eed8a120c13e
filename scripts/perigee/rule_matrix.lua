-- rule_matrix.lua: rules whose step for a matrix is a matrix without a size of its own: Muon and SWAN, which make it
-- orthogonal, and SinkGD, which balances its rows and columns. They are for matrices; all other tensors go by another
-- rule, AdamW unless given.

local core = require "perigee.core"
local adamw = require("perigee.rule_adam").adamw
local directions = require "perigee.directions"
local names = require "perigee.names"
local part = require "perigee.part"
local rule_class = require "perigee.rule_class"
local split = require "perigee.rule_split"
local tensors = require "perigee.tensors"

local NOT_NEGATIVE, SHARE = "[0, inf)", "[0, 1)"

local M = {}

-- ---- matrices by one rule, the rest by another ----------------------------------------------------------------------

local function is_matrix(_, shape) return tensors.is_matrix(shape) end

-- The rule with `definition` for matrices and the option `others`, a rule for all other tensors.
local function for_matrices(definition, default_others)
  local own = rule_class.define(definition)
  local function make(given)
    local options, others = part.merge(given, {}), given.others or default_others
    options.others = nil
    if not rule_class.is(others) then
      core.raise(("rule %s: others must be a rule, as pg.rule.adamw { lr = 1e-3 }, not %s"):format(definition.name,
        names.describe(others)))
    end
    local whole = split.build(definition.name, {
      { match = is_matrix, rule = own, prefix = "", may_be_empty = true },
      { rule = others, prefix = "others.", may_be_empty = true },
    }, options)
    whole.make, whole.given = make, given
    return whole
  end
  return make {}
end

local function check_outputs(name)
  return function(o)
    names.choice(("rule %s: outputs"):format(name), o.outputs, { "columns", "rows" })
  end
end

-- f(matrix with a row for each output, shape of the tensor) for each tensor of a vector.
local function for_each_matrix(x, o, f)
  return tensors.map(x, function(one)
    local matrix, back = tensors.as_matrix(one, o.outputs)
    return back(f(matrix, one.shape))
  end)
end

-- ---- Muon -----------------------------------------------------------------------------------------------------------

local function spectral_scale(rows, columns) return math.sqrt(math.max(1, rows / columns)) end

local MUON_SCALES = {
  spectral = spectral_scale,
  rms = function(rows, columns) return 0.2 * math.sqrt(math.max(rows, columns)) end,
  code = function(rows, columns, shape)
    if #shape > 2 then rows, columns = shape[#shape - 1], shape[#shape] end
    return spectral_scale(rows, columns)
  end,
}

--- pg.rule.muon { lr = 0.02, momentum = 0.95, nesterov = true, steps = 5, scale = "spectral", eps = 1e-7, form =
-- "code", outputs = "columns", others = pg.rule.adamw { lr = 3e-4, beta2 = 0.95, eps = 1e-10 } } → rule: Muon (Jordan
-- et al. 2024, as the code of KellerJordan/Muon): momentum made orthogonal, for tensors with at least two axes; others
-- go by `others`. Decoupled weight decay.
--     m = m + (1 - momentum) (g - m);  u = g + momentum (m - g) with nesterov, else m;  X = u / (|u| + eps)
--     `steps` times: A = X X^T;  X = 3.4445 X + (-4.7750 A + 2.0315 A A) X
--     p = p (1 - lr weight_decay) - lr scale X
-- scale: "spectral", sqrt(max(1, outputs / inputs)); "rms", 0.2 sqrt(max(outputs, inputs)), the size of AdamW's steps
-- (torch.optim.Muon's match_rms_adamw); "code", "spectral" by the last two axes of the tensor, which for kernels of a
-- convolution are their height and width. form: "torch" divides by max(|u|, eps). outputs: the axis of 2-D weights with
-- the outputs, "columns" as in pg.nn or "rows" as in PyTorch; kernels of a convolution are seen as [outputs, the rest].
-- The options of `others` are others.lr and so on. An embedding or a last layer is better off with AdamW:
-- pg.rule.split.
M.muon = for_matrices({
  name = "muon",
  hyper = { lr = 0.02, momentum = 0.95, nesterov = true, steps = 5, scale = "spectral", eps = 1e-7, form = "code",
    outputs = "columns" },
  static = { "steps" },
  limits = { lr = NOT_NEGATIVE, momentum = SHARE, steps = "[1, 100]", eps = "(0, inf)" },
  check = function(o)
    check_outputs("muon")(o)
    names.choice("rule muon: scale", o.scale, { "spectral", "rms", "code" })
    names.choice("rule muon: form", o.form, { "code", "torch" })
  end,
  state = { "m" },
  eight_bit = { "m" },
  update = function(p, stats, s, o, ctx)
    local g = stats.g
    s.m = s.m + (1 - o.momentum) * (g - s.m)
    local u = o.nesterov and g + o.momentum * (s.m - g) or s.m
    local direction = for_each_matrix(u, o, function(x, shape)
      local scale = MUON_SCALES[o.scale](x.shape[1], x.shape[2], shape)
      return scale * directions.orthogonalize(x, o.steps, o.eps, o.form == "torch")
    end)
    return p * (1 - o.lr * ctx.weight_decay) - o.lr * direction
  end,
}, adamw { lr = 3e-4, beta2 = 0.95, eps = 1e-10 })

-- ---- SWAN -----------------------------------------------------------------------------------------------------------

--- pg.rule.swan { lr = 1e-3, alpha = 0.05, steps = 10, beta = 0.5, center = true, outputs = "columns", others =
-- pg.rule.adamw {} } → rule: SWAN (Ma et al. 2024, arXiv 2412.13148): SGD with whitened gradients, without a state, for
-- tensors with at least two axes; others go by `others`. Decoupled weight decay.
--     G = (g - mean of the row) / standard deviation of the row, a row for each output
--     X = G / |G|;  Y = X X^T, Z = I;  `steps` times: T = 3 I - Z Y;  Y = beta Y T;  Z = beta T Z;  W = Z X
--     p = p - lr alpha (W sqrt(numbers) / |W| + weight_decay p)
-- There is no code of its authors. beta = 1/2 converges to the polar factor; the 0.8 of the paper's setting does not,
-- and its singular values end anywhere between about 0.56 and 1.6. center = false leaves the mean of the row in, as one
-- port does. outputs as in pg.rule.muon.
M.swan = for_matrices({
  name = "swan",
  hyper = { lr = 1e-3, alpha = 0.05, steps = 10, beta = 0.5, center = true, outputs = "columns" },
  static = { "steps" },
  limits = { lr = NOT_NEGATIVE, alpha = NOT_NEGATIVE, steps = "[1, 100]", beta = "(0, 1]" },
  check = check_outputs("swan"),
  update = function(p, stats, _, o, ctx)
    local direction = for_each_matrix(stats.g, o, function(x)
      local w = directions.whiten(directions.standardize_rows(x, o.center), o.steps, o.beta)
      return w * (math.sqrt(x.shape[1] * x.shape[2]) / directions.length(w):maximum(directions.TINY))
    end)
    return p - o.lr * o.alpha * (direction + ctx.weight_decay * p)
  end,
}, adamw)

-- ---- SinkGD ---------------------------------------------------------------------------------------------------------

--- pg.rule.sinkgd { lr = 1e-3, alpha = 0.05, sweeps = 5, outputs = "columns", others = pg.rule.adamw {} } → rule:
-- SinkGD (Scetbon et al. 2025, arXiv 2502.06742): gradient multi-normalization with the lengths of rows and columns,
-- without a state, for tensors with at least two axes; others go by `others`. Decoupled weight decay.
--     X = g, a row for each output;  `sweeps` times: rows to length sqrt(columns), then columns to length sqrt(rows)
--     p = p - lr alpha (X + weight_decay p)
-- Columns are exact at the end, rows to a percent or two; lengths below 1e-8 count as that, so rows of zeros stay.
-- Which axis comes first is told by outputs, as in pg.rule.muon.
M.sinkgd = for_matrices({
  name = "sinkgd",
  hyper = { lr = 1e-3, alpha = 0.05, sweeps = 5, outputs = "columns" },
  static = { "sweeps" },
  limits = { lr = NOT_NEGATIVE, alpha = NOT_NEGATIVE, sweeps = "[1, 100]" },
  check = check_outputs("sinkgd"),
  update = function(p, stats, _, o, ctx)
    local direction = for_each_matrix(stats.g, o, function(x) return directions.balance(x, o.sweeps) end)
    return p - o.lr * o.alpha * (direction + ctx.weight_decay * p)
  end,
}, adamw)

return M
