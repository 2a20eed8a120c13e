-- Facts about order and running sums: values against Lua's own sort and plain loops, ties, NaNs, axes, dtypes, threads,
-- derivatives, messages. Kernels' derivatives by themselves are held against differences in tests/c/test_ops.c.
local support = require "support"
local golden = require "golden"
local pg = support.pg

local NAN, INF = 0 / 0, 1 / 0

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { "sort_spec.lua", ... } do assert.matches(part, message, 1, true) end
end

-- Numbers of a fixed stream; few: with many ties.
local function draw(seed, shape, dtype, few)
  local x = golden.fill(seed, shape, "f64")
  if few then x = (x * 4):round() end
  return dtype:find "^f" and x:to(dtype) or (x * (few and 1 or 1024)):round():to(dtype)
end

-- The stable order of a list by plain Lua.
local function order_of(list, descending)
  local order = {}
  for i = 1, #list do order[i] = i end
  table.sort(order, function(i, j)
    local a, b = list[i], list[j]
    if descending then a, b = b, a end
    local nan_a, nan_b = a ~= a, b ~= b
    if nan_a or nan_b then
      if nan_a ~= nan_b then return nan_b end
      return i < j
    end
    if a == b then return i < j end
    return a < b
  end)
  for i, place in ipairs(order) do order[i] = place - 1 end
  return order
end

describe("sort", function()
  for _, dtype in ipairs { "f32", "f64", "i32", "i64" } do
    it("agrees with Lua's in " .. dtype .. ", by insertion and by radix, with and without ties", function()
      for _, n in ipairs { 1, 2, 40, 41, 257, 1000 } do
        for _, few in ipairs { false, true } do
          local x = draw(n, { n }, dtype, few)
          for _, descending in ipairs { false, true } do
            local want = order_of(x:totable(), descending)
            local values, indices = x:sort(1, { descending = descending })
            assert.same(want, indices:totable())
            assert.equal(values:bytes(), x:take(indices):bytes())
            assert.equal(indices:bytes(), x:argsort(-1, { descending = descending }):bytes())
          end
        end
      end
    end)
  end

  it("puts NaNs last and -0 beside 0, in the order in which they stand", function()
    local x = pg.tensor { NAN, 0, -INF, -0.0, INF, NAN, -1 }
    assert.same({ 2, 6, 1, 3, 4, 0, 5 }, x:argsort():totable())
    assert.same({ 0, 5, 4, 1, 3, 6, 2 }, x:argsort(1, { descending = true }):totable())
    assert.same({ 0, 5, 4 }, select(2, x:topk(3)):totable())
    assert.same(x:argsort():totable(), x:to("f64"):argsort():totable())
  end)

  it("sorts masks and bytes", function()
    assert.same({ 1, 0, 2 }, pg.tensor({ true, false, true }):argsort():totable())
    assert.same({ 3, 7, 255 }, (pg.tensor({ 255, 3, 7 }, "u8"):sort()):totable())
  end)

  it("sorts along any axis, and empty tensors", function()
    local x = draw(5, { 4, 3, 5 }, "f32", true)
    for axis = 1, 3 do
      local values, indices = x:sort(axis)
      local by_hand = x:transpose(axis, 3):sort():transpose(axis, 3)
      assert.equal(by_hand:bytes(), values:bytes())
      assert.equal(values:bytes(), x:take_along(indices, axis):bytes())
      assert.equal(values:bytes(), (x:sort(axis - 4)):bytes())
    end
    assert.same({ 0, 3 }, (pg.zeros({ 0, 3 }):sort()).shape)
    assert.same({ 3, 0 }, (pg.zeros({ 3, 0 }):sort()).shape)
  end)

  it("gives the same bits for any number of threads, long rows and many rows", function()
    local long, many, wide = draw(1, { 70001 }, "f32"), draw(2, { 900, 90 }, "f32", true), draw(3, { 40000 }, "f64")
    local function all()
      local parts = {}
      for _, x in ipairs { long, many, wide } do
        local values, indices = x:sort()
        local top, where = x:topk(50)
        for _, t in ipairs { values, indices, top, where, x:quantile(0.3, -1), x:cumsum() } do
          parts[#parts + 1] = t:bytes()
        end
      end
      return table.concat(parts)
    end
    local threads = pg.threads()
    pg.set_threads(1)
    local one = all()
    for n = 2, 3 do
      pg.set_threads(n)
      assert.equal(one, all())
    end
    pg.set_threads(threads)
    assert.same(order_of(long:totable()), long:argsort():totable())
  end)

  it("is the same in a trace", function()
    local x = draw(9, { 6, 50 }, "f32", true)
    local function f(t)
      local values, indices = t:sort(1)
      return values, indices, t:quantile({ 0.2, 0.9 }, 2), t:median(), t:cumsum(1), (t:topk(7))
    end
    local eager, traced = { f(x) }, { pg.jit(f)(x) }
    for i, t in ipairs(eager) do assert.equal(t:bytes(), traced[i]:bytes()) end
  end)

  it("and what is found by order batch as a loop would", function()
    local x = draw(6, { 4, 3, 20 }, "f32", true)
    local function f(t)
      local values, indices = t:sort(1)
      local top, where = t:topk(3)
      return values, indices, top, where, t:quantile({ 0.2, 0.9 }, 2), t:median(), t:cumsum(1), t:cumprod(),
        t:logcumsumexp(1), t:cummax(), pg.searchsorted((t[1]:sort()), t), pg.clip_top(t, 0.2)
    end
    local all = { pg.vmap(f)(x) }
    for i = 1, 4 do
      for k, one in ipairs { f(x[i]) } do assert.equal(one:bytes(), all[k][i]:bytes(), "result " .. k) end
    end
  end)

  it("is differentiated through the permutation", function()
    local weights = pg.tensor({ 1, 10, 100 }, "f64")
    local slope = pg.grad(function(x) return ((x:sort()) * weights):sum() end)
    assert.same({ 100, 1, 10 }, slope(pg.tensor({ 3, 1, 2 }, "f64")):totable())
    local curvature = pg.grad(function(x) return ((x:sort() ^ 3) * weights):sum() end)
    assert.same({ 1800, 6, 120 }, pg.hvp(function(x) return ((x:sort() ^ 3) * weights):sum() end)(
      pg.ones({ 3 }, "f64"), pg.tensor({ 3, 1, 2 }, "f64")):totable())
    assert.same({ 2700, 3, 120 }, curvature(pg.tensor({ 3, 1, 2 }, "f64")):totable())
    local y, dy = pg.jvp(function(x) return (x:sort(-1, { descending = true })) end)(
      pg.tensor({ 5, 6, 7 }, "f64"), pg.tensor({ 3, 1, 2 }, "f64"))
    assert.same({ { 3, 2, 1 }, { 5, 7, 6 } }, { y:totable(), dy:totable() })
  end)

  it("refuses what has no order", function()
    raises(function() local _ = pg.sort(3) end, "sort: a tensor was expected, got 3")
    raises(function() local _ = pg.tensor(3):sort() end, "has no axis")
    raises(function() local _ = pg.zeros({ 2, 3 }):sort(3) end, "axis 3 is outside 1..2")
    raises(function() local _ = pg.key(1):keys(4):sort() end, "keys have no order")
    raises(function() local _ = pg.zeros({ 2 }):sort(1, { decending = true }) end, "descending")
    raises(function() local _ = support.flat("f32", { 1, 2 }):sort() end, "take its numbers with :flat()")
  end)
end)

describe("topk", function()
  it("is what sort gives first, for few of many, for many, and for ties", function()
    for _, case in ipairs { { 3000, 5 }, { 3000, 375 }, { 3000, 376 }, { 30, 4 }, { 3000, 0 }, { 50, 50 } } do
      for _, few in ipairs { false, true } do
        for _, largest in ipairs { true, false } do
          local x = draw(case[1], { 3, case[1] }, "f32", few)
          local values, indices = x:topk(case[2], -1, { largest = largest })
          local all, order = x:sort(-1, { descending = largest })
          assert.equal(all:slice({}, { 1, case[2] }):bytes(), values:bytes())
          assert.equal(order:slice({}, { 1, case[2] }):bytes(), indices:bytes())
        end
      end
    end
  end)

  it("sends derivatives to what it chose", function()
    local slope = pg.grad(function(x) return ((x:topk(2)) * pg.tensor { 1, 10 }):sum() end)
    assert.same({ 0, 1, 0, 10 }, slope(pg.tensor { 1, 4, 2, 3 }):totable())
  end)

  it("says what k may be", function()
    raises(function() local _ = pg.zeros({ 2, 3 }):topk(4) end, "from 0 to 3", "got 4")
    raises(function() local _ = pg.zeros({ 2, 3 }):topk(1.5) end, "got 1.5")
  end)
end)

describe("quantile", function()
  it("is numpy's", function() -- numpy.quantile and numpy.median of the same numbers
    local x = pg.tensor({ { 1, 2, 3, 10 }, { 5, 4, 9, -1 } }, "f64")
    assert.equal(3.5, x:quantile(0.5):item())
    assert.same({ 2.5, 4.5 }, x:median(2):totable())
    assert.same({ { 1.75, 2.75 }, { 10, 9 } }, x:quantile({ 0.25, 1 }, -1):totable())
    assert.same({ { 3, 3, 6, 4.5 } }, x:median(1, { keepdims = true }):totable())
    assert.same({ 2, 1, 1 }, x:quantile({ 0, 1 }, nil, { keepdims = true }).shape)
    assert.same({ 1, 1 }, x:quantile(0.5, nil, { keepdims = true }).shape)
    assert.same({ 2, 2, 4 }, pg.zeros({ 2, 3, 4 }):quantile({ 0.1, 0.2 }, 2).shape)
  end)

  it("selects what sorting gives", function()
    for _, n in ipairs { 5, 1025, 5000 } do
      local x = draw(n, { n }, "f64", n == 5000)
      local list = x:sort():totable()
      for _, q in ipairs { 0, 0.123, 0.5, 0.999, 1 } do
        local place = q * (n - 1)
        local low = list[math.floor(place) + 1]
        local high = list[math.min(math.floor(place) + 2, n)]
        assert.equal(low + (high - low) * (place - math.floor(place)), x:quantile(q):item())
      end
    end
  end)

  it("is NaN where there is a NaN, and keeps infinite elements apart", function()
    local x = pg.tensor { { 1, NAN, 2 }, { -INF, 4, 4 } }
    local y = x:quantile(0.5, 2)
    assert.is_true(y:data_read(0) ~= y:data_read(0))
    assert.equal(4, y:data_read(1))
    assert.equal(-INF, pg.tensor({ -INF, -INF, 1 }):quantile(0.25):item())
    assert.equal(1, pg.tensor({ 0, 1, INF }):quantile(0.5):item())
    assert.equal(INF, pg.tensor({ 0, 1, INF }):quantile(0.75):item())
  end)

  it("is differentiated, and takes shares of a vector and of a trace", function()
    local slope = pg.grad(function(x) return x:quantile(0.4, 1) end)
    assert(support.difference(slope(pg.tensor({ 3, 1, 2, 9 }, "f64")):totable(), { 0, 0.8, 0.2, 0 }) > 0.1)
    assert(support.difference(slope(pg.tensor({ 3, 1, 2, 9 }, "f64")):totable(), { 0.2, 0, 0.8, 0 }) < 1e-15)
    assert.equal(2, support.vector(support.layout { { 2 }, { 1 } }, "f32", { { 1, 2 }, { 7 } }):median():item())
    local f = pg.jit(function(x, q) return x:quantile(q) end)
    assert.equal(2.5, f(pg.tensor { 1, 2, 3 }, 0.75):item())
    assert.equal(1.5, f(pg.tensor { 1, 2, 3 }, 0.25):item())
  end)

  it("refuses shares outside 0..1, integers, and nothing", function()
    raises(function() local _ = pg.ones({ 3 }):quantile(1.5) end, "q is a number from 0 to 1, not 1.5")
    raises(function() local _ = pg.ones({ 3 }):quantile { 0.5, -1 } end, "q[2]")
    raises(function() local _ = pg.ones({ 3 }, "i64"):median() end, "convert it with :to")
    raises(function() local _ = pg.ones({ 0 }):median() end, "nothing to choose from")
  end)
end)

describe("searching", function()
  it("counts what is smaller, or at most as large", function()
    local sorted = pg.tensor { 1, 2, 2, 5 }
    local x = pg.tensor { { 0, 2 }, { 3, NAN } }
    assert.same({ { 0, 1 }, { 3, 4 } }, pg.searchsorted(sorted, x):totable())
    assert.same({ { 0, 3 }, { 3, 4 } }, pg.searchsorted(sorted, x, { right = true }):totable())
    assert.equal(3, pg.searchsorted(sorted, 2, { right = true }):item())
    assert.same({ { 0, 1 }, { 2, 0 } },
      pg.searchsorted(pg.tensor { { 1, 2 }, { 3, 4 } }, pg.tensor { { 1, 2 }, { 9, 0 } }):totable())
    assert.same({ 0, 0 }, pg.searchsorted(pg.zeros { 0 }, pg.tensor { 1, 2 }):totable())
    raises(function() local _ = pg.searchsorted(sorted, pg.zeros({ 2 }, "f64")) end, "convert one with :to")
    raises(function() local _ = pg.searchsorted(pg.zeros { 3, 2 }, pg.zeros { 2, 2 }) end, "one for each row")
  end)

  it("finds the different elements, where they are and how often", function()
    local values, inverse, counts = pg.tensor({ { 3, 1 }, { 3, NAN }, { NAN, -1 } }):unique()
    assert.same({ -1, 1, 3 }, values:slice({ 1, 3 }):totable())
    assert.same({ 4 }, values.shape)
    assert.same({ { 2, 1 }, { 2, 3 }, { 3, 0 } }, inverse:totable())
    assert.same({ 1, 1, 2, 2 }, counts:totable())
    local x = draw(4, { 2000 }, "i64", true)
    values, inverse, counts = x:unique()
    assert.same(x:totable(), values:take(inverse):totable())
    assert.equal(2000, counts:sum():item())
    assert.same({ 0 }, (pg.zeros { 0 }:unique()).shape)
    assert.same({ 7 }, (pg.tensor({ 7, 7 }):unique()):totable())
    raises(function() local _ = pg.jit(function(t) return (t:unique()) end)(pg.zeros { 3 }) end, "depends on the data")
  end)
end)

describe("indices of each row", function()
  it("take and add along an axis", function()
    local x, at = pg.tensor { { 1, 2, 3 }, { 4, 5, 6 } }, pg.tensor({ { 2, 2 }, { 0, 1 } }, "i64")
    assert.same({ { 3, 3 }, { 4, 5 } }, x:take_along(at):totable())
    assert.same({ { 1, 2, 3 }, { 4, 2, 6 } }, x:take_along(pg.tensor({ { 0, 0, 0 }, { 1, 0, 1 } }, "i64"), 1):totable())
    assert.same({ { 1, 2, 33 }, { 14, 25, 6 } },
      x:add_along(at, pg.tensor { { 10, 20 }, { 10, 20 } }):totable())
    assert.same({ { 1, 2, 3 }, { 4, 5, 46 } },
      x:add_along(pg.tensor({ { 1 } }, "i64"):broadcast_to { 1, 3 }, pg.tensor { { 0, 0, 40 } }, 1):totable())
    raises(function() local _ = x:take_along(pg.tensor({ { 3 }, { 0 } }, "i64")) end, "index 3 is outside 0..2")
    raises(function() local _ = x:take_along(pg.tensor({ { 0 } }, "i64")) end, "must agree")
    raises(function() local _ = x:take_along(pg.tensor({ 0 }, "i64")) end, "must agree")
  end)

  it("of scatter_add repeat, and pass derivatives on", function()
    local at = pg.tensor({ 2, 0, 2 }, "i64")
    local f = function(x, u) return (x:scatter_add(at, u) * pg.tensor({ 1, 10, 100 }, "f64")):sum() end
    local by_x, by_u = pg.grad(f, { wrt = { 1, 2 } })(pg.zeros({ 3 }, "f64"), pg.ones({ 3 }, "f64"))
    assert.same({ { 1, 10, 100 }, { 100, 1, 100 } }, { by_x:totable(), by_u:totable() })
    assert.same({ 1, 0, 2 }, pg.zeros({ 3 }):scatter_add(at, pg.ones { 3 }):totable())
    local column = pg.zeros({ 2, 2 }):scatter_add(pg.tensor(1, "i64"), pg.tensor { 5, 7 }, 2)
    assert.same({ { 0, 5 }, { 0, 7 } }, column:totable())
  end)
end)

describe("running", function()
  local function check(f, step, x, ...)
    local list, state, want = x:totable(), nil, {}
    for i, v in ipairs(list) do
      state = i == 1 and v or step(state, v)
      want[i] = state
    end
    assert(support.difference(f(x, ...):totable(), want) < 1e-12)
  end

  it("sums, products, extremes and logarithms of sums are those of a loop", function()
    for _, n in ipairs { 1, 2, 9, 4096, 4097, 9000 } do
      local x = draw(n, { n }, "f64")
      check(pg.cumsum, function(a, b) return a + b end, x)
      check(pg.cummax, math.max, x)
      check(pg.cummin, math.min, x)
      check(pg.logcumsumexp, function(a, b) return math.max(a, b) + math.log(1 + math.exp(-math.abs(a - b))) end, x)
      check(pg.cumprod, function(a, b) return a * b end, x:slice { 1, math.min(n, 60) })
    end
  end)

  it("go along any axis, from either end", function()
    local x = draw(3, { 3, 5, 4 }, "f64")
    for _, name in ipairs { "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp" } do
      for axis = 1, 3 do
        local moved = pg[name](x:transpose(axis, 3)):transpose(axis, 3)
        assert(golden.difference(pg[name](x, axis), moved) < 1e-15, name)
      end
      local list = {}
      for i = 4, 1, -1 do list[#list + 1] = x:slice({}, {}, { i, i }) end
      local flipped = pg[name](pg.concat(list, 3))
      for i = 1, 4 do
        local d = golden.difference(pg[name](x, 3, { reverse = true }):slice({}, {}, i), flipped:slice({}, {}, 5 - i))
        assert(d < 1e-15, name)
      end
    end
  end)

  it("sums have the same bits along any axis, across blocks", function()
    local x = draw(8, { 9000, 3 }, "f32")
    assert.equal(x:cumsum(1):bytes(), x:transpose():cumsum():transpose():bytes())
    local wide = draw(8, { 4200, 300 }, "f32")
    assert.equal(wide:cumsum(1, { reverse = true }):bytes(),
      wide:transpose():cumsum(-1, { reverse = true }):transpose():bytes())
  end)

  it("sums of integers wrap nowhere they need not, and masks are counted", function()
    assert.same({ 1, 1, 2 }, pg.tensor({ true, false, true }):cumsum():totable())
    assert.same({ 300, 600 }, pg.tensor({ 300, 300 }, "i32"):cumsum():totable())
    assert.equal(4000000, pg.full({ 4000 }, 1000, "i64"):cumsum():data_read(3999))
  end)

  it("logarithms lose nothing far below the largest element, and start from nothing", function()
    local y = pg.tensor({ -INF, -1000, -1000, 500, 400 }, "f64"):logcumsumexp():totable()
    assert.equal(-INF, y[1])
    assert(support.difference({ y[2], y[3], y[4] }, { -1000, -1000 + math.log(2), 500 }) < 1e-14)
  end)

  it("products are differentiated at zeros", function()
    local slope = pg.grad(function(x) return (x:cumprod() * pg.tensor({ 1, 10, 100 }, "f64")):sum() end)
    assert.same({ 1, 620, 0 }, slope(pg.tensor({ 2, 0, 3 }, "f64")):totable())
  end)

  it("values' derivatives agree with differences, to second order", function()
    local w = golden.fill(77, { 6 })
    local h = 1e-3
    for _, name in ipairs { "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "median" } do
      local function f(x)
        local y = pg[name](x)
        return (y.ndim == 0 and y or y * w):sum() + ((y * y * y).ndim == 0 and y * y * y or y * y * y * w):sum()
      end
      local x = pg.tensor({ 0.3, -1.1, 0.7, 1.6, -0.4, 0.2 }, "f64")
      local v = golden.fill(5, { 6 })
      local along = pg.grad(function(t) return (pg.grad(f)(t) * v):sum() end)(x)
      local g = pg.grad(f)(x)
      for i = 1, 6 do
        local e = pg.arange(6, "f64"):eq(i - 1):to("f64") * h
        local d1 = (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * h)
        local function slope(t) return (pg.grad(f)(t) * v):sum() end
        local d2 = (8 * (slope(x + e) - slope(x - e)) - (slope(x + 2 * e) - slope(x - 2 * e))) / (12 * h)
        local largest1, largest2 = g:abs():max():item(), along:abs():max():item()
        assert(math.abs(d1:item() - g:data_read(i - 1)) <= 1e-7 * math.max(1e-3, largest1), name)
        assert(math.abs(d2:item() - along:data_read(i - 1)) <= 1e-6 * math.max(1e-3, largest2), name)
      end
    end
  end)

  it("a linear recurrence is its loop", function()
    local a, b = draw(1, { 2, 7 }, "f64"), draw(2, { 2, 7 }, "f64")
    local y, list_a, list_b = pg.linear_recurrence(a, b):totable(), a:totable(), b:totable()
    for row = 1, 2 do
      local state = 0
      for i = 1, 7 do
        state = (i == 1 and 0 or list_a[row][i] * state) + list_b[row][i]
        assert.equal(state, y[row][i])
      end
    end
    raises(function() local _ = pg.linear_recurrence(a, pg.zeros { 2, 7 }) end, "recur", "of one shape")
    raises(function() local _ = pg.cumsum(pg.tensor(1)) end, "cumsum", "no axis")
    raises(function() local _ = pg.cumsum(pg.zeros { 2 }, 1, { backwards = true }) end, "reverse")
  end)
end)
