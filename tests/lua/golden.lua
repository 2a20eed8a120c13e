-- golden.lua: replaying golden data: the tensors that tests/golden/golden.py makes without storing them, and a
-- function's output with its first and second derivatives, compiled as one plan.

local support = require "support"
local pg, core = support.pg, support.core

local golden = {}

-- 32-bit words number 0 … count - 1 of a stream: a counter-based hash.
function golden.mix(seed, count)
  local start, words = seed * 0x9E3779B9 & 0xFFFFFFFF, {}
  for i = 0, count - 1 do
    local h = i + start & 0xFFFFFFFF
    h = (h ~ h >> 16) * 0x45D9F3B & 0xFFFFFFFF
    h = (h ~ h >> 16) * 0x45D9F3B & 0xFFFFFFFF
    words[i + 1] = h ~ h >> 16
  end
  return words
end

local function size_of(shape)
  local n = 1
  for _, extent in ipairs(shape) do n = n * extent end
  return n
end

-- A tensor of multiples of 2^-10 in [-2, 2).
function golden.fill(seed, shape, dtype)
  local list = golden.mix(seed, size_of(shape))
  for i, word in ipairs(list) do list[i] = ((word >> 20) - 2048) / 1024 end
  return core.tensor(dtype or "f64", shape, list)
end

-- A stored tensor, { shape =, data = }.
function golden.tensor(stored, dtype) return core.tensor(dtype or "f64", stored.shape, stored.data) end

function golden.tensors(list)
  local out = {}
  for i, stored in ipairs(list) do out[i] = golden.tensor(stored) end
  return out
end

-- f(x1, …) → y. Returns a function(inputs, cotangent c, directions) → y, the gradient of <y, c> by each input, and
-- the gradient of the sum of <gradient i, direction i> by each input, and by c at the list's end.
function golden.derivatives(f)
  local function weighted(inputs, c) return (f(table.unpack(inputs)) * c):sum() end
  local first = pg.grad(weighted)
  local function along(inputs, c, directions)
    local sum = 0
    for i, g in ipairs(first(inputs, c)) do sum = sum + (g * directions[i]):sum() end
    return sum
  end
  local second = pg.grad(along, { wrt = { 1, 2 } })
  return pg.jit(function(inputs, c, directions)
    local by_inputs, by_c = second(inputs, c, directions)
    by_inputs[#by_inputs + 1] = by_c
    return f(table.unpack(inputs)), first(inputs, c), by_inputs
  end)
end

-- The largest difference of two tensors over the larger of 1 and the largest number wanted.
function golden.difference(got, want)
  local ours, theirs = table.concat(got.shape, ", "), table.concat(want.shape, ", ")
  assert(ours == theirs, ("shape [%s], wanted [%s]"):format(ours, theirs))
  local worst, largest = 0, 1
  for i = 0, want.size - 1 do
    local a, b = got:data_read(i), want:data_read(i)
    local d = math.abs(a - b)
    worst = d ~= d and math.huge or math.max(worst, d)
    largest = math.max(largest, math.abs(b))
  end
  return worst / largest
end

-- Fail where `got` and the stored `want` differ by more than the tolerance of golden data.
function golden.check(what, got, want)
  local d = golden.difference(got, want)
  assert(d <= 1e-10, ("%s: off by %.2g"):format(what, d))
end

return golden
