-- Facts about draws from distributions: against quantiles and derivatives that mpmath computed (tests/golden/
-- make_draws.py), with fixed seeds; that a draw depends on key, index and parameters alone; choices with weights.
local support = require "support"
local pg, core = support.pg, support.core
local data = dofile "tests/golden/draws.lua"

local COUNT = 40000

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { "draws_spec.lua", ... } do assert.matches(part, message, 1, true) end
end

-- How to draw what a golden case is about: key, parameters, shape, dtype → tensor.
local makers = {
  exponential = function(key, _, ...) return pg.exponential(key, ...) end,
  laplace = function(key, _, ...) return pg.laplace(key, ...) end,
  ["log gamma"] = function(key, p, shape, dtype) return pg.gamma(key, p[1], shape, { log = true, dtype = dtype }) end,
  student_t = function(key, p, ...) return pg.student_t(key, p[1], ...) end,
  beta = function(key, p, ...) return pg.beta(key, p[1], p[2], ...) end,
  truncated_normal = function(key, p, shape, dtype)
    return pg.truncated_normal(key, shape, { mean = p[1], std = p[2], low = p[3], high = p[4], dtype = dtype })
  end,
}

describe("draws", function()
  for _, case in ipairs(data.quantiles) do
    for _, dtype in ipairs { "f32", "f64" } do
      it(("of %s(%s) in %s have its distribution function"):format(case.name, table.concat(case.parameters, ", "),
        dtype), function()
        local x = makers[case.name](pg.key(11), case.parameters, { COUNT }, dtype)
        assert.equal(dtype, x.dtype)
        local below = pg.searchsorted((x:sort()), pg.tensor(case.x, dtype), { right = true }):totable()
        local furthest = 0
        for i, n in ipairs(below) do furthest = math.max(furthest, math.abs(n / COUNT - i / 32)) end
        -- Kolmogorov: sqrt(n) D > 1.63 has probability 0.01.
        assert(furthest * COUNT ^ 0.5 < 1.63, ("sqrt(n) D = %.3g"):format(furthest * COUNT ^ 0.5))
      end)
    end
  end

  it("have the moments of their distributions", function()
    local function check(x, mean, variance, fourth)
      x = x:to("f64")
      assert.near(mean, x:mean():item(), 4 * (variance / x.size) ^ 0.5)
      assert.near(variance, ((x - mean) ^ 2):mean():item(), 4 * ((fourth - variance ^ 2) / x.size) ^ 0.5)
    end
    local key, n = pg.key(5), { 100000 }
    for _, a in ipairs { 0.05, 0.5, 1, 3, 100 } do check(pg.gamma(key, a, n), a, a, 3 * a * a + 6 * a) end
    check(pg.exponential(key, n), 1, 1, 9)
    check(pg.laplace(key, n), 0, 2, 24)
    check(pg.student_t(key, 10, n), 0, 10 / 8, 3 * 100 / (8 * 6))
    local x = pg.dirichlet(key, pg.tensor { 0.5, 2, 7.5 }, n)
    assert.near(1, x:sum(-1):max():item(), 1e-6)
    for i, mean in ipairs { 0.05, 0.2, 0.75 } do
      assert.near(mean, x:slice({}, i):mean():item(), 4 * (mean * (1 - mean) / 11 / 1e5) ^ 0.5)
    end
  end)

  it("of a key do not depend on their neighbours, on threads, or on being alone", function()
    local shapes = pg.uniform(pg.key(3), { 5000 }, { low = 0.05, high = 3, dtype = "f64" })
    local all = pg.gamma(pg.key(1), shapes)
    for _, i in ipairs { 1, 63, 64, 65, 4999 } do
      local others = pg.full({ i }, 0.3, "f64")
      others = pg.concat { others:slice { 1, i - 1 }, shapes:slice { i, i } }
      assert.equal(all:data_read(i - 1), pg.gamma(pg.key(1), others):data_read(i - 1))
    end
    local threads = pg.threads()
    for n = 1, 3 do
      pg.set_threads(n)
      assert.equal(all:bytes(), pg.gamma(pg.key(1), shapes):bytes())
    end
    pg.set_threads(threads)
    local rounded = shapes:to "f32" -- draws in f32 are those in f64, rounded
    assert.equal(pg.gamma(pg.key(1), rounded:to "f64", nil, { log = true }):to("f32"):bytes(),
      pg.gamma(pg.key(1), rounded, nil, { log = true }):bytes())
  end)

  it("keep their bits", function() -- Philox, Marsaglia and Tsang: part of the numerics, docs/numerics.md
    local x = pg.gamma(pg.key(42), pg.tensor({ 0.05, 1, 100 }, "f64"), nil, { log = true }):totable()
    assert.same({ -5.5285684005328948, -1.0789914627914337, 4.5989240643231293 }, x)
  end)

  local families = {
    gamma = function(key) return pg.gamma(key, pg.tensor { 0.3, 2, 9 }) end,
    exponential = function(key) return pg.exponential(key, { 3 }) end,
    laplace = function(key) return pg.laplace(key, { 3 }) end,
    beta = function(key) return pg.beta(key, 0.5, pg.tensor { 1, 2, 3 }) end,
    dirichlet = function(key) return pg.dirichlet(key, pg.tensor { 1, 2, 3 }, { 2 }) end,
    student_t = function(key) return pg.student_t(key, 3, { 2, 3 }) end,
    truncated_normal = function(key) return pg.truncated_normal(key, { 3 }) end,
    categorical = function(key) return pg.categorical(key, pg.tensor { { 0, 1, 2 }, { 2, 1, 0 } }, { 5 }) end,
    permutation = function(key) return pg.permutation(key, 7) end,
    choice = function(key) return pg.choice(key, 9, 4) end,
    ["choice of a shape"] = function(key) return pg.choice(key, 9, { 2, 3 }) end,
    ["choice with replacement"] = function(key) return pg.choice(key, 9, { 2, 6 }, { replace = true }) end,
    ["choice with weights"] = function(key) return pg.choice(key, 4, 3, { weights = { 1, 2, 3, 4 } }) end,
    ["choice with weights and replacement"] = function(key)
      return pg.choice(key, 4, { 5 }, { weights = { 1, 2, 3, 4 }, replace = true })
    end,
  }
  for _, name in ipairs(support.sorted_names(families)) do
    it("of several keys are those of each: " .. name, function()
      local f, keys = families[name], pg.key(7):keys(4)
      local all, mapped, traced = f(keys), pg.vmap(f)(keys), pg.jit(f)(keys)
      assert.equal(all:bytes(), mapped:bytes())
      assert.equal(all:bytes(), traced:bytes())
      for i = 1, 4 do
        local one = f(keys[i])
        assert.same(one.shape, all[i].shape)
        assert.equal(one:bytes(), all[i]:bytes())
      end
      assert.not_equal(f(keys[1]):bytes(), f(keys[2]):bytes())
    end)
  end

  it("of a layout are vectors by logical index", function()
    local layout = support.layout { { 2, 3 }, { 5 } }
    local v = pg.laplace(pg.key(2), layout)
    assert.equal(layout, v.layout)
    assert.same(pg.laplace(pg.key(2), { 11 }):totable(), v:totable())
    assert.same(pg.gamma(pg.key(2), 2, { 11 }):totable(), pg.gamma(pg.key(2), 2, layout):totable())
  end)

  it("take shapes that broadcast, and infinite and impossible ones", function()
    local x = pg.gamma(pg.key(1), pg.tensor { 1, 2 }, { 3, 2 })
    assert.same({ 3, 2 }, x.shape)
    assert.same({ 1 / 0, 0 }, pg.gamma(pg.key(1), pg.tensor { 1 / 0, 1e-30 }):totable())
    local none = pg.gamma(pg.key(1), pg.tensor { -1, 0, 0 / 0 })
    assert.is_false(pg.isfinite(none):any():item())
    assert.same({ 0 }, pg.gamma(pg.key(1), 1, { 0 }).shape)
    raises(function() local _ = pg.gamma(pg.key(1), "x", { 2 }) end, "a number or a tensor")
    raises(function() local _ = pg.gamma(3, 1, { 2 }) end, "gamma: a key")
    raises(function() local _ = pg.gamma(pg.key(1), pg.ones({ 2 }, "i64")) end, "f32 or f64")
    raises(function() local _ = pg.gamma(pg.key(1), 1, { 2 }, { logarithm = true }) end, "log")
    raises(function() local _ = pg.dirichlet(pg.key(1), 3) end, "alpha is a tensor")
    raises(function() local _ = pg.truncated_normal(pg.key(1), { 2 }, { low = 1, high = 0 }) end, "low is below high")
    raises(function() local _ = pg.truncated_normal(pg.key(1), { 2 }, { hight = 0 }) end, "high")
  end)
end)

describe("derivatives of draws", function()
  it("are those of the quantile by the shape", function()
    for _, case in ipairs(data.slopes) do
      local a, log_x, want = table.unpack(case)
      local got = core.apply("gamma_slope", nil, pg.tensor(a, "f64"), pg.tensor(log_x, "f64")):item()
      local error = math.abs(got - want) / math.abs(want)
      assert(error <= (a > 1000 and 1e-10 or 1e-12), ("%g, %g: off by %.2g"):format(a, log_x, error))
    end
  end)

  it("of means are derivatives of the mean", function()
    local n = { 200000 }
    for _, a in ipairs { 0.3, 1, 6, 2000 } do -- E x = a, E x^2 = a + a^2
      local by_a, second = pg.jit(function(alpha)
        local function draw(t) return pg.gamma(pg.key(9), t, n) end
        return pg.grad(function(t) return draw(t):mean() end)(alpha), pg.grad(function(t)
          return (draw(t) ^ 2):mean()
        end)(alpha)
      end)(pg.tensor(a, "f64"))
      assert.near(1, by_a:item(), 0.02)
      assert.near(1, second:item() / (1 + 2 * a), 0.02)
    end
    local alpha = pg.tensor({ 1, 2, 5 }, "f64")
    local slope = pg.grad(function(t) return pg.dirichlet(pg.key(9), t, n):slice({}, 1):mean() end)(alpha):totable()
    for i, want in ipairs { 7 / 64, -1 / 64, -1 / 64 } do assert.near(want, slope[i], 0.003) end
    local by_df = pg.grad(function(t) return (pg.student_t(pg.key(9), t, n) ^ 2):mean() end)(pg.tensor(9, "f64"))
    assert.near(-2 / 49, by_df:item(), 0.01)
  end)

  it("agree forwards and backwards, and end after the first", function()
    local function f(a) return pg.gamma(pg.key(1), a, { 50 }):sum() end
    local a = pg.tensor(1.7, "f64")
    local _, forward = pg.jvp(f)(pg.tensor(1, "f64"), a)
    assert.near(pg.grad(f)(a):item(), forward:item(), 1e-12)
    raises(function() local _ = pg.grad(pg.grad(f))(a) end, "has no derivative itself", "stop_gradient")
  end)
end)

describe("choices", function()
  it("follow weights with replacement", function()
    local weights = { 0, 1, 0, 3, 4, 0 }
    for _, given in ipairs { weights, pg.tensor(weights) } do
      local drawn = pg.choice(pg.key(1), 6, 80000, { replace = true, weights = given })
      local shares = (pg.one_hot(drawn, 6):sum(1) / 80000):totable()
      for i, w in ipairs(weights) do
        assert.near(w / 8, shares[i], 4 * (w / 8 / 80000) ^ 0.5)
      end
    end
    assert.same({ 2, 3, 4 }, pg.choice(pg.key(1), 6, { 2, 3, 4 }, { replace = true, weights = weights }).shape)
  end)

  it("follow weights without replacement: in order, each among those that are left", function()
    local weights, n = { 1, 2, 0, 5 }, 20000
    local drawn = pg.choice(pg.key(3):keys(n), 4, 2, { weights = weights })
    local pairs_of = (drawn:slice({}, 1) * 4 + drawn:slice({}, 2))
    local counts = pg.one_hot(pairs_of, 16):sum(1):totable()
    for i = 0, 3 do
      for j = 0, 3 do
        local p = i == j and 0 or weights[i + 1] / 8 * weights[j + 1] / (8 - weights[i + 1])
        assert.near(p, counts[4 * i + j + 1] / n, 4 * (p / n) ^ 0.5)
      end
    end
    local all = pg.choice(pg.key(5), 500, 500, { weights = pg.uniform(pg.key(6), { 500 }) + 0.1 })
    assert.same(pg.arange(500, "i64"):totable(), (all:sort()):totable())
  end)

  it("draw categories of each row, in shapes", function()
    local logits = pg.tensor { { 0, math.log(3) }, { math.log(4), 0 } }
    local x = pg.categorical(pg.key(1), logits, { 4, 5000 })
    assert.same({ 4, 5000, 2 }, x.shape)
    local ones = x:to("f32"):mean({ 1, 2 }):totable()
    assert.near(0.75, ones[1], 0.015)
    assert.near(0.2, ones[2], 0.015)
  end)

  it("refuse weights that do not fit", function()
    local function choose(n, k, o) return function() local _ = pg.choice(pg.key(1), n, k, o) end end
    raises(choose(3, 2, { weights = { 1, 2 } }), "weights are 3 numbers")
    raises(choose(3, 2, { weights = { 1, 0, 0 } }), "2 or more are above 0")
    raises(choose(2, 1, { weights = { 1, -1 } }), "at least 0")
    raises(choose(2, 1, { weights = { 0, 0 }, replace = true }), "1 or more are above 0")
    raises(choose(2, 3), "3 of 2 without replacement")
    raises(choose(2, 1, { weight = { 1, 1 } }), "weights")
  end)
end)
