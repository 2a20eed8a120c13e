-- rule_factored.lua: Adafactor, which keeps the second moment of a matrix as what rows and columns have of it.

local define = require("perigee.rule_class").define
local generic = require "perigee.generic"
local names = require "perigee.names"
local tensors = require "perigee.tensors"

local NOT_NEGATIVE = "[0, inf)"

local M = {}

-- Shapes of what is kept of a tensor: the means over the last axis and over the last but one, or all of it.
local function row_shape(shape) return #shape >= 2 and { table.unpack(shape, 1, #shape - 1) } or nil end

local function column_shape(shape)
  if #shape < 2 then return nil end
  local kept = { table.unpack(shape, 1, #shape - 2) }
  kept[#kept + 1] = shape[#shape]
  return kept
end

local function whole_shape(shape) return #shape < 2 and shape or nil end

local function zeros(shape_of) return function(theta) return tensors.zeros(theta, shape_of) end end

local EPSILON = { f32 = 2 ^ -23, f64 = 2 ^ -52 }

-- The second moment by rows and columns of a tensor's squares, which moves the factors by `weight`.
local function factored(square, row, column, weight, eps1)
  local axes = square.ndim
  row = row + weight * (square:mean(axes) - row)
  column = column + weight * (square:mean(axes - 1) - column)
  local mean = row:mean(axes - 1, true):maximum(eps1)
  local left, right = { table.unpack(row.shape) }, { table.unpack(column.shape) }
  left[axes], right[axes] = 1, right[axes - 1]
  right[axes - 1] = 1
  return (row / mean):reshape(left) * column:reshape(right), row, column
end

local function root_mean_square(x) return (x * x):mean():sqrt() end

-- A step of one tensor: its new value, and a table of what is kept of it.
local function move(p, g, kept, o, t, lr, decay)
  local paper, eps1 = o.form == "paper", o.eps1 or EPSILON[p.dtype]
  local weight = t ^ o.decay
  local square, v = g * g
  if paper then square = square + eps1 end
  local floor = paper and 0 or eps1
  if p.ndim >= 2 then
    v, kept.row, kept.column = factored(square, kept.row, kept.column, weight, floor)
  else
    kept.v = kept.v + weight * (square - kept.v)
    v = kept.v
  end
  local u = g / v:sqrt():maximum(floor)
  local size = root_mean_square(p):maximum(o.eps2) * generic.minimum(lr, 1 / generic.sqrt(t))
  return p * (1 - lr * decay) - size / (root_mean_square(u) / o.d):maximum(1) * u
end

--- pg.rule.adafactor { lr = 1e-2, decay = -0.8, eps1 = false, eps2 = 1e-3, d = 1, form = "torch" } → rule: Adafactor
-- (Shazeer & Stern 2018, arXiv 1804.04235), as torch.optim.Adafactor, with decoupled weight decay: a tensor with at
-- least two axes keeps the means of its squared gradients over the last axis and the last but one, others all of them.
--     w = t^decay;  R = R + w (row means of g^2 - R);  C = C + w (column means of g^2 - C);  V = R C / max(mean R,
--     eps1) U = g / max(sqrt(V), eps1);  a = max(eps2, RMS(p)) min(lr, 1 / sqrt(t))
--     p = p (1 - lr weight_decay) - a U / max(1, RMS(U) / d)
-- eps1: default the dtype's machine epsilon. form = "paper": eps1 (there 1e-30) is added to g^2, and bounds nothing.
M.adafactor = define {
  name = "adafactor",
  hyper = { lr = 1e-2, decay = -0.8, eps1 = false, eps2 = 1e-3, d = 1, form = "torch" },
  static = { "eps1" },
  limits = { lr = NOT_NEGATIVE, decay = "(-inf, 0]", eps1 = "(0, inf)", eps2 = NOT_NEGATIVE, d = "(0, inf)" },
  check = function(o)
    names.choice("rule adafactor: form", o.form, { "torch", "paper" })
  end,
  state = { row = zeros(row_shape), column = zeros(column_shape), v = zeros(whole_shape) },
  update = function(p, stats, s, o, ctx)
    local list, layout = {}, p.layout
    local found = { row = {}, column = {}, v = {} }
    for i = 1, #layout do
      local is_matrix, kept = #layout[i].shape >= 2, {}
      for _, name in ipairs(is_matrix and { "row", "column" } or { "v" }) do
        kept[name] = tensors.view(s[name], #found[name] + 1)
      end
      list[i] = move(tensors.view(p, i), tensors.view(stats.g, i), kept, o, ctx.t, tensors.part(o.lr, i),
        tensors.part(ctx.weight_decay, i))
      for name, value in next, kept do table.insert(found[name], value) end
    end
    for _, name in ipairs { "row", "column", "v" } do
      if #found[name] > 0 then s[name] = tensors.pack(s[name].layout, found[name]) end
    end
    return tensors.pack(layout, list)
  end,
}

return M
