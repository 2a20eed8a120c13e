-- Facts about pg.vmap: what it gives equals what calling the function on each entry gives, for gradients of networks,
-- vectors, draws, loops and derivatives of every kind. Operation by operation that is stated in tests/c/test_vmap.c.
local pg = require "perigee"
local core = require "perigee.core"
local examples = require "perigee.examples"

local key = pg.key(7)

local function normal(name, shape) return pg.randn(key:fold(name), shape, { dtype = "f64" }) end

-- f over the first axes of its arguments, one call after another, results as a list of stacked tensors.
local function loop(f, ...)
  local args, count, stacked = table.pack(...), nil, {}
  for i = 1, args.n do count = count or (args[i].layout and args[i].layout[1].shape[1] or args[i].shape[1]) end
  local function entry(x, k)
    if not x.layout then return x[k] end
    local parts = {}
    for i = 1, #x.layout do parts[i] = { x.layout[i].name, x:view(i)[k] } end
    return pg.vector(parts)
  end
  for k = 1, count do
    local given = {}
    for i = 1, args.n do given[i] = entry(args[i], k) end
    for i, y in ipairs { f(table.unpack(given)) } do
      stacked[i] = stacked[i] or {}
      stacked[i][k] = y
    end
  end
  return stacked
end

local function assert_near(found, expected, tolerance)
  local off = (found - expected):abs():max():item()
  local scale = math.max(1, expected:abs():max():item())
  assert.is_true(off <= (tolerance or 1e-12) * scale, ("off by %g of %g"):format(off, scale))
end

-- Each entry of y, stacked, equals the entry of a list: vectors tensor by tensor.
local function assert_stacked(y, list, tolerance)
  for k, one in ipairs(list) do
    if one.layout then
      assert.equal(#one.layout, #y.layout)
      for i = 1, #one.layout do assert_near(y:view(i)[k], one:view(i), tolerance) end
    else
      assert_near(y[k], one, tolerance)
    end
  end
end

local function check(f, ...)
  local found, expected = { pg.vmap(f)(...) }, loop(f, ...)
  assert.equal(#expected, #found)
  for i, list in ipairs(expected) do assert_stacked(found[i], list) end
end

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { ... } do assert.matches(part, message, 1, true) end
  assert.is_false(core.tracing())
end

-- ---- networks -------------------------------------------------------------------------------------------------------

local nn = pg.nn

local networks = {
  mlp = { nn.sequential { nn.linear(6, 8), nn.tanh(), nn.linear(8, 5), nn.relu(), nn.linear(5, 3) }, { 6 } },
  lenet = {
    nn.sequential {
      nn.conv2d(1, 6, 5, { pad = 2 }), nn.relu(), nn.max_pool2d(2), nn.conv2d(6, 16, 5), nn.relu(), nn.max_pool2d(2),
      nn.flatten(), nn.linear(400, 120), nn.relu(), nn.linear(120, 84), nn.relu(), nn.linear(84, 10),
    }, { 1, 28, 28 },
  },
  pooled = {
    nn.sequential {
      nn.conv2d(2, 4, 3, { stride = 2, pad = 1, groups = 2 }), nn.tanh(), nn.avg_pool2d(2), nn.flatten(),
      nn.layer_norm(16), nn.linear(16, 3),
    }, { 2, 8, 8 },
  },
}

-- Parameters, examples, labels, and the loss of one example.
local function problem(name, count)
  local model, shape = table.unpack(networks[name])
  local theta = model:init(key):to("f64")
  local x = normal(name, { count, table.unpack(shape) })
  local labels = {}
  for k = 1, count do labels[k] = k * 7 % 3 end
  local y = pg.tensor(labels, "i64")
  return theta, x, y, function(at, image, label)
    return pg.cross_entropy(model(at, image:reshape(1, table.unpack(image.shape)), {}), label:reshape(1))
  end
end

describe("vmap of a network's gradient", function()
  for name in pairs(networks) do
    it("is that of each example: " .. name, function()
      local count = name == "lenet" and 19 or 5
      local theta, x, y, loss = problem(name, count)
      local g = pg.jit(pg.vmap(pg.grad(loss), { false, 1, 1 }))(theta, x, y)
      local one = pg.grad(loss)
      local list = {}
      for k = 1, count do list[k] = one(theta, x[k], y[k]) end
      assert_stacked(g, list)
    end)

    it("clips and averages as a scan does: " .. name, function()
      local theta, x, y, loss = problem(name, 6)
      local function shorten(image, label)
        local g = pg.grad(loss)(theta, image, label)
        local each = g:per_tensor():norm():resolve(g.layout, "f64")
        return g * (0.01 / g:norm()):minimum(1), g / g:norm(), each, g
      end
      local function averages(list)
        local out = {}
        for i, v in ipairs(list) do
          out[i] = v:view(1):sum(1)
          if v.layout then
            local parts = {}
            for k = 1, #v.layout do parts[k] = { v.layout[k].name, v:view(k):mean(1) } end
            out[i] = pg.vector(parts)
          end
        end
        return table.unpack(out)
      end
      local a, b, _, d = pg.jit(function(images, labels)
        local clipped, unit, norms, plain = pg.vmap(shorten)(images, labels)
        local p, q, r = averages { clipped, unit, plain }
        return p, q, norms, r
      end)(x, y)
      local expected = loop(shorten, x, y)
      for i, found in ipairs { a, b, [4] = d } do
        local sum = expected[i][1]
        for k = 2, 6 do sum = sum + expected[i][k] end
        assert_near(found, sum / 6)
      end
    end)
  end

  it("goes over parameters and examples, as of an ensemble", function()
    local _, x, y, loss = problem("lenet", 2)
    local thetas = pg.vmap(function(k) return networks.lenet[1]:init(k) end)(key:keys(2)):to("f64")
    assert.same({ 2, 6, 1, 5, 5 }, thetas.layout[1].shape)
    check(pg.grad(loss), thetas, x, y)
    local each = pg.vmap(pg.vmap(pg.grad(loss), { false, 1, 1 }), { 1, false, false })(thetas, x, y)
    local one = pg.vmap(pg.grad(loss), { 1, false, false })(thetas, x[2], y[2])
    assert_near(each:view(1)[2][2], one:view(1)[2])
  end)

  it("has the same bits for any number of threads", function()
    local theta, x, y, loss = problem("lenet", 19)
    local f = pg.jit(pg.vmap(pg.grad(loss), { false, 1, 1 }))
    core.set_threads(1)
    local one = f(theta, x, y)
    core.set_threads(2)
    local two = f(theta, x, y)
    core.set_threads(0)
    assert.equal(one:bytes(), two:bytes())
  end)
end)

describe("pieces of a batch", function()
  it("are large enough for the kernels, unless memory forbids it", function()
    for size, most in pairs { [1] = 50, [1 << 17] = 25, [1 << 21] = 13, [1 << 25] = 2, [1 << 28] = 1 } do
      local largest = 0
      pg.jit(function(x)
        return examples.over({ x = x }, 50, { size = size, dtype = "f32" }, function(some)
          largest = math.max(largest, some.x.shape[1])
          return {}, { some.x }
        end, function() return {} end)
      end)(pg.arange(50))
      assert.equal(most, largest)
    end
  end)

  it("add up to the whole, the last one smaller", function()
    local x = normal("pieces", { 50, 3 })
    local like = { size = 1 << 17, dtype = "f64" } -- 16 at a time
    local sizes = {}
    local sums, seen = pg.jit(function(slices)
      local sums, seen = examples.over({ x = slices }, 50, like, function(some, before)
        sizes[#sizes + 1] = some.x.shape[1]
        local sum = some.x:sum(1)
        return { before and before[1] + sum or sum }, { twice = some.x * 2 }
      end, function() return { pg.zeros({ 3 }, "f64") } end)
      return sums[1], seen.twice
    end)(x)
    assert.same({ 13, 11 }, sizes)
    assert_near(sums, x:sum(1))
    assert.equal(x * 2, seen)
  end)
end)

-- ---- sums of outer products -----------------------------------------------------------------------------------------

describe("sums of outer products", function()
  local a, b, s = normal("a", { 4, 3 }), normal("b", { 4, 5 }), normal("s", { 4 })
  local w, u = normal("w", { 3, 5 }), normal("u", { 3 })
  local function outer(x, y) return x:reshape(3, 1):matmul(y:reshape(1, 5)) end

  it("are those of the products", function()
    check(function(x, y) return (outer(x, y) * outer(x, y)):sum(), outer(x, y):norm() end, a, b)
    check(function(x, y, t) return (outer(x, y) * t / (t + 3)):sum() end, a, b, s)
    check(function(x, y, t) return ((outer(x, y) * t) * (u:reshape(3, 1) * outer(x, y))):sum() end, a, b, s)
    check(function(x, y, t) return (outer(x, y) * w):sum() + (outer(x, y) * w * t):sum(1):max() end, a, b, s)
    check(function(x, y, t) return (outer(x, y) / (outer(x, y) * outer(x, y) + 1) * t):sum(), outer(x, y):mean(2) end,
      a, b, s)
    check(function(x, y) return x:reshape(3, 1):matmul(y:slice({ 1, 1 }):reshape(1, 1)):square():sum() end, a, b)
  end)

  it("weighted over the batch are products of matrices, with derivatives", function()
    local function average(x, y, t)
      local all = pg.vmap(function(p, q, r) return outer(p, q) * r * 2 end)(x, y, t)
      return (all:mean(1) * w):sum() + all:sum(1):square():sum()
    end
    local function plain(x, y, t)
      local all = x:reshape(4, 3, 1) * y:reshape(4, 1, 5) * t:reshape(4, 1, 1) * 2
      return (all:mean(1) * w):sum() + all:sum(1):square():sum()
    end
    assert_near(pg.jit(average)(a, b, s), plain(a, b, s))
    for i = 1, 3 do
      assert_near(pg.grad(average, { wrt = i })(a, b, s), pg.grad(plain, { wrt = i })(a, b, s))
    end
  end)
end)

-- ---- vectors --------------------------------------------------------------------------------------------------------

describe("vmap of vectors", function()
  local function vector(name, count)
    local lead = count and { count } or {}
    local function shape(...)
      local out = table.move(lead, 1, #lead, 1, {})
      for _, n in ipairs { ... } do out[#out + 1] = n end
      return out
    end
    return pg.vector { { "w", normal(name .. "w", shape(2, 3)) }, { "b", normal(name .. "b", shape(3)) },
      { "c", normal(name .. "c", shape()) } }
  end
  local many, shared, numbers = vector("many", 3), vector("one"), normal("numbers", { 3 })

  it("goes over the first axes of their tensors", function()
    check(function(v) return v * 2 + v:exp(), v:norm(), v:view("w"):sum() end, many)
    check(function(v, x) return v * x + shared, (v * shared):sum(), v:maximum(x) end, many, numbers)
    check(function(v) return v:per_tensor():max():resolve(v.layout, "f64"), v:flat() end, many)
    check(function(x) return shared * x, pg.full_like(shared, 1) * x end, numbers)
    check(function(v) return pg.where(v:gt(shared), v, shared), v:to("f32"):to("f64") end, many)
  end)

  it("differentiates by them, and what is made of them", function()
    local function loss(v, x) return (v * v * shared):sum() * x + (v:view("w") * x):tanh():sum() end
    check(pg.grad(loss), many, numbers)
    check(function(v, x) return pg.hvp(loss)(v * x, v, x) end, many, numbers)
    local function total(v) return pg.vmap(loss)(v, numbers):sum() end
    local g = pg.grad(total)(many)
    assert_stacked(g, loop(pg.grad(loss), many, numbers)[1])
  end)

  it("carries them through loops and calls", function()
    check(function(v, x)
      return (pg.scan(function(c, t) return (c * t + shared * x):tanh() end, v, normal("steps", { 4 })))
    end, many, numbers)
    check(function(x)
      return (pg.scan(function(c, t) return c * t * x end, shared, normal("steps", { 4 })))
    end, numbers)
    check(function(v, x)
      return pg.while_loop(function(c) return c.n:lt(x:abs() * 10) end,
        function(c) return { v = c.v * 0.5 + shared, n = c.n + 1 } end, { v = v, n = x * 0 }).v
    end, many, numbers)
    check(pg.grad(function(v, x)
      return pg.remat(function(p, q) return (p * q):sin() * p end)(v, x):sum()
    end), many, numbers)
  end)

  it("runs Langevin chains with draws of their own", function()
    check(function(k, start)
      return (pg.scan(function(c, t)
        local g = pg.grad(function(v) return (v * v * shared):square():sum() end)(c)
        return c - 1e-3 * g + 0.1 * pg.randn(core.apply("key_fold", nil, k, t), shared.layout, { dtype = "f64" })
      end, start, pg.arange(6, "i64")))
    end, key:keys(3), many)
  end)

  it("draws for each key what that key draws alone", function()
    local keys = key:keys(3)
    check(function(k) return pg.randn(k, shared.layout, { dtype = "f64" }), pg.uniform(k, shared.layout) end, keys)
    check(function(k) return pg.dropout(shared, k, 0.4), pg.uniform(k:fold(3), { 4 }) end, keys)
    local drawn = pg.vmap(function(k) return pg.permutation(k, 9) end)(keys)
    for i = 1, 3 do assert.equal(pg.permutation(keys[i], 9), drawn[i]) end
  end)
end)

-- ---- composition ----------------------------------------------------------------------------------------------------

describe("vmap composes", function()
  local x, y = normal("x", { 3, 4 }), normal("y", { 3, 4 })

  it("with itself, and with axes of its own", function()
    local f = pg.vmap(pg.vmap(function(p, q) return p * q + p:sin() end, { 1, false }), { false, 1 })
    assert_near(f(x:reshape(12), y), (x:reshape(1, 12, 1) * y:reshape(3, 1, 4) + x:reshape(1, 12, 1):sin()))
    local columns = pg.vmap(function(p, q) return p:dot(q) end, { 2, -1 })(x, y)
    assert_near(columns, (x * y):sum(1))
  end)

  it("with numbers that change from run to run, and tensors around it", function()
    local f = pg.jit(function(p, k)
      local b = p * 3
      return pg.vmap(function(r, j) return r * k + b[1] * j * y[2] end, { 1, false })(p, k + 1)
    end)
    for _, k in ipairs { 0.5, 0.25 } do assert_near(f(x, k), x * k + (x[1] * 3) * (k + 1) * y[2]) end
  end)

  it("with derivatives of every mode, on either side", function()
    local function f(p, q) return (p * q):tanh():sum() * p:norm() end
    check(pg.grad(f), x, y)
    check(function(p, q) return select(2, pg.jvp(function(t) return f(t, q) end)(q, p)) end, x, y)
    check(function(p, q) return pg.hessian(function(t) return f(t, q) end)(p) end, x, y)
    local function total(p) return pg.vmap(f)(p, y):sum() end
    local function plain(p) return f(p[1], y[1]) + f(p[2], y[2]) + f(p[3], y[3]) end
    assert_near(pg.grad(total)(x), pg.grad(plain)(x))
    assert_near(pg.hvp(total)(y, x), pg.hvp(plain)(y, x))
  end)

  it("with scans around it and in it, over what is batched and what is not", function()
    local last = pg.scan(function(c, row) return c + pg.vmap(function(t) return t * t end)(row) end,
      pg.zeros({ 4 }, "f64"), x)
    assert_near(last, (x * x):sum(1))
    check(function(p)
      local c, ys = pg.scan(function(c, t) return c * 0.5 + t * p:sum(), { c = c, t = t * 2 } end, p * 0, y)
      return c, ys.c, ys.t
    end, x)
    check(pg.grad(function(p, q)
      return (pg.scan(function(c, t) return (c * t + q):sin() end, p, y, { reverse = true })):sum()
    end), x, y)
  end)

  it("with loops that end at another round for each entry", function()
    check(function(p)
      return pg.while_loop(function(c) return c:lt(50) end, function(c) return c * 2 + 1 end, p:sum():abs())
    end, x)
    check(function(p)
      return pg.while_loop(function(c) return c.n:lt(3) end, function(c) return { n = c.n + 1, p = c.p * p } end,
        { n = pg.tensor(0, "f64"), p = p }).p
    end, x)
  end)

  it("with linear algebra, indices and order", function()
    local a, right = normal("matrices", { 3, 4, 4 }), normal("right", { 3, 4 })
    check(function(m, r)
      local s = m:matmul(m:t()) + pg.eye(4, "f64")
      return pg.linalg.cholesky(s), pg.linalg.solve_spd(s, r)
    end, a, right)
    check(function(r) return r:take(r:argsort():slice({ 1, 2 })), r:cumsum(), (pg.sort(r)) end, right)
    check(function(m) return m:take(pg.tensor({ 2, 0 }, "i64"), 2) end, a)
  end)
end)

-- ---- what is refused ------------------------------------------------------------------------------------------------

describe("vmap says what is wrong:", function()
  local x = normal("x", { 3, 4 })
  local function double(t) return t * 2 end

  it("with its arguments", function()
    raises(function() pg.vmap(double)(x, x[1]) end, "vmap", "differ in the axis that is mapped (4 against 3)")
    raises(function() pg.vmap(double)(pg.tensor(1)) end, "first axis of tensors, and one of these has none")
    raises(function() pg.vmap(double)(3) end, "vmap: tensors are gone over, not numbers")
    raises(function() pg.vmap(double, { false })(x) end, "at least one argument")
    raises(function() pg.vmap(double, { 3 })(x) end, "vmap: axis 3 of a tensor of 2 axes")
    raises(function() pg.vmap(double, { 2 })(pg.vector { { "a", x } }) end, "axis 1, not 2")
    raises(function() pg.vmap(double)(pg.vector { { "a", x }, { "b", x[1] } }) end, "differ in their first axis", "'b'")
  end)

  it("with its function", function()
    raises(function() pg.vmap(function() return 3 end)(x) end, "vmap: the results", "got a number")
    raises(function() pg.vmap(function(t) return t:reshape(5) end)(x) end, "reshape")
    raises(function()
      pg.vmap(function(t) return t:reshape(1, 1, 1, 1, 1, 1, 2, 2) end)(x)
    end, "no room for one more")
    raises(function()
      pg.vmap(function(k) return pg.randn(k, { 1, 1, 1, 1, 1, 1, 1, 2 }) end)(key:keys(3))
    end, "at most 8")
    local deep = pg.zeros_like(pg.vector { { "deep", pg.zeros { 1, 1, 1, 1, 1, 1, 1, 2 } } })
    raises(function() pg.vmap(function(k) return pg.randn(k, deep.layout) end)(key:keys(3)) end, "at most 8")
    raises(function() pg.vmap(function(t) return deep * t end)(x[1]:to("f32")) end, "no room for one more")
    raises(function()
      pg.grad(function(t) return pg.vmap(function(r) return pg.tap(r, function(c) return c end) end)(t):sum() end)(x)
    end, "pg.tap inside pg.vmap")
    raises(function()
      pg.vmap(function(k, n)
        return pg.while_loop(function(c) return c.n:lt(n) end,
          function(c) return { k = c.k:fold(1), n = c.n + 1 } end, { k = k, n = n * 0 }).k
      end)(key:keys(3), x:sum(2))
    end, "cannot carry keys")
  end)
end)
