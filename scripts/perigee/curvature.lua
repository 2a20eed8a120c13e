-- curvature.lua: the Hessian of a loss at a point, inside a trace: whole, or its diagonal. Rows are products of the
-- Hessian with unit vectors (Pearlmutter 1994), taken in a scan; nothing is computed for those who do not ask.

local core = require "perigee.core"
local loops = require "perigee.loops"
local vectors = require "perigee.vectors"

local curvature = {}

local Curvature = {}
Curvature.__index = Curvature

-- Directions of one round of the scan: they share its forward and backward pass. Measured on logistic regressions, more
-- gain nothing and take longer to compile.
local LANES = 8

local MOST = 4096 -- parameters

-- Raise if theta has more parameters than a Hessian is taken of. owner: "family full". price(n): what n would take.
function curvature.check_size(owner, theta, price)
  local n = theta.size
  if n > MOST then
    core.raise(("%s is for at most %d parameters; %d would take %s"):format(owner, MOST, n, price(n)))
  end
end

-- Of a scalar loss(at) at a traced vector theta. book(n): called with the number of Hessian-vector products when they
-- are traced.
function curvature.new(theta, loss, book)
  return setmetatable({ theta = theta, loss = loss, book = book }, Curvature)
end

-- of(product, e) for every unit vector e and its product with the Hessian, [n, …].
function Curvature:over_directions(of)
  local theta, n = self.theta, self.theta.size
  local lanes = math.min(LANES, n)
  local rounds = (n + lanes - 1) // lanes
  local index = core.apply("iota", { a = { n }, b = { 0 }, dtype = "i64" })
  local starts = core.apply("iota", { a = { rounds }, b = { 0 }, dtype = "i64" }) * lanes
  self.book(n)
  local _, rows = loops.scan(function(carry, start)
    local at, list = core.mark(theta), {}
    local g = core.vjp({ self.loss(at) }, { false }, { at })[1]
    for lane = 1, lanes do
      local e = vectors.unflatten(index:eq(start + (lane - 1)):to(theta.dtype), theta)
      list[lane] = of(core.jvp({ at }, { e }, { g })[1], e):unsqueeze(1)
    end
    return carry, core.apply("concat", { a = { 0 } }, table.unpack(list))
  end, {}, starts)
  return rows:flatten(1, 2):slice { 1, n } -- without what the last round has beyond n
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

return curvature
