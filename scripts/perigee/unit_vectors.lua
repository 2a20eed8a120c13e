-- unit_vectors.lua: going over all directions of the space of a tensor or vector inside a trace, as whole Hessians and
-- their diagonals do: a few directions are a batch, and rounds of them follow one another, for the memory of one.

local core = require "perigee.core"

local unit_vectors = {}

-- Directions of one round: what does not depend on the direction, a forward and backward pass, they share. Measured on
-- a logistic regression and small networks, more gain nothing.
local LANES = 16

-- The indices from 0 to n - 1.
local function count_up(n) return core.apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }) end

-- A tensor or vector like x, whose numbers are all 0 but number i, from 0, which is 1.
local function direction(x, i)
  local e = core.apply("cast", { dtype = x.dtype }, count_up(x.size):eq(i))
  return x.layout and core.apply("pack_flat", { layout = x.layout }, e) or e:reshape(x.shape)
end

-- f(e), a tensor, for every direction e of the space of x: [x.size, …]. f computes all that e enters itself.
function unit_vectors.over(x, f)
  local n = x.size
  local lanes = math.min(LANES, n)
  local rounds = n > 0 and (n + lanes - 1) // lanes or 0
  local _, rows = core.scan(function(_, starts)
    return {}, core.vmap(function(_, lane)
      return { f(direction(x, starts[1] + lane[1])) }, {}
    end, { count_up(lanes) }, lanes)
  end, {}, { count_up(rounds) * lanes }, rounds, false)
  return rows[1]:reshape(rounds * lanes, table.unpack(rows[1].shape, 3)):slice { 1, n } -- without lanes beyond n
end

return unit_vectors
