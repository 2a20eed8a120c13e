-- curvature.lua: the Hessian of a loss at a point, inside a trace: whole, or its diagonal, by products of the Hessian
-- with unit vectors (Pearlmutter 1994), a few at a time; and the diagonal of the Gauss-Newton matrix, estimated on
-- labels drawn from the model. Nothing is computed for those who do not ask.

local core = require "perigee.core"
local generic = require "perigee.generic"
local sometimes = require "perigee.sometimes"
local unit_vectors = require "perigee.unit_vectors"
local vectors = require "perigee.vectors"

local curvature = {}

local Curvature = {}
Curvature.__index = Curvature

local MOST = 4096 -- parameters

-- Raise if theta has more parameters than a Hessian is taken of. owner: "family full". price(n): what n would take.
function curvature.check_size(owner, theta, price)
  local n = theta.size
  if n > MOST then
    core.raise(("%s is for at most %d parameters; %d would take %s"):format(owner, MOST, n, price(n)))
  end
end

-- Of a scalar loss(at, drawn) at a traced vector theta, in the step whose number, from 1, is t. Given a table as drawn
-- the loss is that of labels drawn from the model, and drawn.count their number. book(n, m): called with the number of
-- Hessian-vector products, or of further gradients, when they are traced.
function curvature.new(theta, t, loss, book)
  return setmetatable({ theta = theta, t = t, loss = loss, book = book }, Curvature)
end

-- of(product, e) for every unit vector e and its product with the Hessian, [n, …].
function Curvature:over_directions(of)
  self.book(self.theta.size, 0)
  return unit_vectors.over(self.theta, function(e)
    local at = core.mark(self.theta)
    local g = core.vjp({ self.loss(at) }, { false }, { at })[1] -- the same for all, and computed once
    return of(core.jvp({ at }, { e }, { g })[1], e)
  end)
end

-- The whole Hessian, [n, n] over the numbers of theta without pads.
function Curvature:matrix()
  self.rows = self.rows or self:over_directions(function(product) return product:flat() end)
  return self.rows
end

-- Its diagonal, a vector of theta's layout.
function Curvature:diagonal()
  self.entries = self.entries or vectors.unflatten(
    self:over_directions(function(product, e) return product:dot(e) end), self.theta)
  return self.entries
end

-- The square of the mean loss's gradient on labels drawn from the model, times their number.
function Curvature:square_on_drawn_labels()
  local at, drawn = core.mark(self.theta), {}
  local loss = self.loss(at, drawn)
  if not drawn.count then
    core.raise("the Gauss-Newton matrix is estimated on labels drawn from the model, and the loss does not ask for "
      .. "them: pg.cross_entropy(logits, pg.labels(logits, batch.y, ctx))")
  end
  local g = core.vjp({ loss }, { false }, { at })[1]
  return drawn.count * (g * g)
end

-- An estimate of the diagonal of the Gauss-Newton matrix of the mean loss, without bias (Liu et al. 2023, arXiv
-- 2305.14342, equation 13), in one of every `every` steps from the first on; zeros in the others.
function Curvature:gauss_newton(every)
  self.book(0, 1 / every)
  if every == 1 then return self:square_on_drawn_labels() end
  return sometimes(generic.falls_on(self.t - 1, every), function() return { self:square_on_drawn_labels() } end,
    { vectors.traced_full_like(self.theta, 0) })[1]
end

return curvature
