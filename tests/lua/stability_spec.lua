-- Facts about recipes/parts/stability.lua: lr* against the mean of all batches, one by one, and its two ends.
local pg = require "perigee"
local stability = dofile "recipes/parts/stability.lua"

local f64 = { dtype = "f64" }

-- All sets of `size` of the rows 1 … n.
local function subsets(n, size, first, chosen, out)
  out, chosen, first = out or {}, chosen or {}, first or 1
  if #chosen == size then
    out[#out + 1] = { table.unpack(chosen) }
    return out
  end
  for i = first, n do
    chosen[#chosen + 1] = i
    subsets(n, size, i + 1, chosen, out)
    chosen[#chosen] = nil
  end
  return out
end

-- How much the mean square of the residuals grows a step, in the end, at this rate: every batch is tried.
local function growth(J, batch, lr)
  local n = J.shape[1]
  local K, steps = J:matmul(J:t()), {}
  for k, rows in ipairs(subsets(n, batch)) do
    local mask = {}
    for i = 1, n do mask[i] = 0 end
    for _, i in ipairs(rows) do mask[i] = 1 end
    steps[k] = pg.eye(n, f64) - lr / batch * K * pg.tensor(mask, "f64")
  end
  local m, size = pg.eye(n, f64), nil
  for _ = 1, 300 do
    local sum = 0 * m
    for _, a in ipairs(steps) do sum = sum + a:matmul(m):matmul(a:t()) / #steps end
    size = sum:norm():item()
    m = sum / size
  end
  return size
end

describe("the largest stable rate", function()
  local J = pg.randn(pg.key(3), { 5, 8 }, f64)

  for batch = 1, 5 do
    it(("of batches of %d of 5 is where the mean square neither grows nor falls"):format(batch), function()
      local star = stability.largest_rate(stability.linearize(J), batch)
      local at = growth(J, batch, star)
      assert(math.abs(at - 1) < 1e-6, ("grows by %.9g"):format(at))
      assert(growth(J, batch, 1.02 * star) > 1.001)
      assert(growth(J, batch, 0.98 * star) < 0.999)
    end)
  end

  it("is 2 / lambda for all examples at once, and 2 / trace for one, if gradients have one length", function()
    local unit = J / J:norm(2, true)
    local at = stability.linearize(unit)
    assert(math.abs(stability.largest_rate(at, 5) * at.lambda - 2) < 1e-8)
    assert(math.abs(stability.largest_rate(at, 1) * at.trace - 2) < 1e-8)
    assert(math.abs(at.trace - 1) < 1e-12)
  end)
end)
