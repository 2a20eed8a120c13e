-- Facts about scan, while_loop, remat and vmap: equal to the plain loops they stand for, derivatives and captures
-- included.
local pg = require "perigee"
local core = require "perigee.core"

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { ... } do assert.matches(part, message, 1, true) end
  assert.is_false(core.tracing())
end

local function f64(values) return pg.tensor(values, "f64") end

describe("scan", function()
  local xs = f64 { { 1, 2 }, { 3, 4 }, { 5, 6 } }

  it("equals the loop", function()
    local last, ys = pg.scan(function(c, x) return c * 0.5 + x, { twice = c * 2 } end, f64 { 0, 0 }, xs)
    assert.same({ 0.25 + 1.5 + 5, 0.5 + 2 + 6 }, last:totable())
    assert.same({ { 0, 0 }, { 2, 4 }, { 7, 10 } }, ys.twice:totable())
  end)

  it("goes backwards, and without outputs", function()
    local last, ys = pg.scan(function(c, x) return c * 0.5 + x end, f64 { 0, 0 }, xs, { reverse = true })
    assert.same({ 1.25 + 1.5 + 1, 1.5 + 2 + 2 }, last:totable())
    assert.is_nil(ys)
  end)

  it("uses tensors, traced values and numbers from around it", function()
    local w, gain = f64 { 10, 100 }, 2
    local f = pg.jit(function(a, k, x)
      local b = a * 3
      return (pg.scan(function(c, y) return c + y * w * gain + b * k end, b * 0, x))
    end)
    local expected = pg.jit(function(a, k, x)
      local c = a * 0
      for i = 1, 3 do c = c + x[i] * w * gain + a * 3 * k end
      return c
    end)
    assert.equal(expected(f64 { 1, 2 }, 0.5, xs), f(f64 { 1, 2 }, 0.5, xs))
    gain = 3
    assert.equal(expected(f64 { 1, 2 }, 0.25, xs), f(f64 { 1, 2 }, 0.25, xs))
  end)

  it("has the derivatives of the loop, of first and second order", function()
    local function looped(theta)
      local c = theta * 0
      for i = 1, 3 do c = (c * theta + xs[i]):tanh() end
      return c:sum()
    end
    local function scanned(theta)
      return (pg.scan(function(c, x) return (c * theta + x):tanh() end, theta * 0, xs)):sum()
    end
    local theta = f64 { 0.3, -0.2 }
    local function close(a, b) assert.is_true((a - b):abs():max():item() < 1e-12) end
    close(looped(theta), scanned(theta))
    close(pg.grad(looped)(theta), pg.grad(scanned)(theta))
    close(pg.hvp(looped)(f64 { 1, 2 }, theta), pg.hvp(scanned)(f64 { 1, 2 }, theta))
  end)

  it("nests", function()
    local total = pg.scan(function(c, row)
      return (pg.scan(function(d, x) return d + x * c:maximum(1) end, c, row))
    end, f64(0), xs)
    local c = 0
    for _, row in ipairs(xs:totable()) do
      local d, m = c, math.max(c, 1)
      for _, x in ipairs(row) do d = d + x * m end
      c = d
    end
    assert.equal(c, total:item())
  end)

  it("may make tensors in its body", function()
    local total = pg.scan(function(c, x) return c + x * f64 { 10, 100 } end, f64 { 0, 0 }, xs)
    assert.same({ 90, 1200 }, total:totable())
    local out = pg.while_loop(function(x) return x:lt(f64(9)) end, function(x) return x + f64(4) end, f64(1))
    assert.equal(9, out:item())
  end)

  it("says what is wrong with its body, and leaves no trace open", function()
    raises(function() pg.scan(function() return {} end, f64(0), xs) end, "carry of 0 tensors for one of 1")
    raises(function() pg.scan(function() error("inside") end, f64(0), xs) end, "inside")
    raises(function() pg.scan(function(c) return c end, 0, xs) end, "tensors, not numbers")
    raises(function() pg.scan(function(c) return c end, f64(0), { xs, f64 { 1 } }) end, "first axis")
    raises(function() pg.scan(function(c) return c:to("f32") end, f64(0), xs) end, "scan")
  end)
end)

describe("while_loop", function()
  it("repeats until the condition fails", function()
    local limit = f64(100)
    local out = pg.while_loop(function(s) return s.x:lt(limit) end, function(s) return { x = s.x * 2, n = s.n + 1 } end,
      { x = f64(3), n = f64(0) })
    assert.equal(192, out.x:item())
    assert.equal(6, out.n:item())
  end)

  it("has no derivative in reverse mode, and says so", function()
    raises(function()
      pg.grad(function(x)
        return pg.while_loop(function(y) return y:lt(10) end, function(y) return y * 2 end, x)
      end)(f64(1))
    end, "while")
  end)
end)

describe("remat", function()
  it("changes no value and no derivative", function()
    local w = f64 { 0.5, -1 }
    local function block(x, y) return (x * w + y):tanh() * x end
    local function loss(g) return function(x, y) return (g(g(x, y), y)):sum() end end
    local x, y = f64 { 1, 2 }, f64 { 0.1, 0.2 }
    assert.equal(loss(block)(x, y), loss(pg.remat(block))(x, y))
    local plain = { pg.grad(loss(block), { wrt = { 1, 2 } })(x, y) }
    local again = { pg.grad(loss(pg.remat(block)), { wrt = { 1, 2 } })(x, y) }
    for i = 1, 2 do assert.is_true((plain[i] - again[i]):abs():max():item() < 1e-14) end
  end)
end)

describe("vmap", function()
  it("maps over the axes named", function()
    local x, w = pg.arange(6, "f64"):reshape(3, 2), f64 { 1, 10 }
    assert.same({ 10, 32, 54 }, pg.vmap(function(r, v) return r:dot(v) end, { 1, false })(x, w):totable())
    assert.same({ 6, 9 }, pg.vmap(function(c) return c:sum() end, { 2 })(x):totable())
    local sums, rows = pg.vmap(function(r) return r:sum(), r * 2 end)(x)
    assert.same({ 1, 5, 9 }, sums:totable())
    assert.equal(x * 2, rows)
  end)

  it("gives gradients one by one, and composes with jit", function()
    local x, w = pg.arange(6, "f64"):reshape(3, 2), f64 { 1, 10 }
    local g = pg.jit(pg.vmap(pg.grad(function(v, r) return (r * v):sum() ^ 2 end), { false, 1 }))(w, x)
    assert.same({ 3, 2 }, g.shape)
    assert.same({ 2 * 32 * 2, 2 * 32 * 3 }, g[2]:totable())
  end)

  it("maps over keys", function()
    local keys = pg.key(1):keys(4)
    local draws = pg.vmap(function(k) return pg.randn(k, { 3 }) end)(keys)
    assert.equal(pg.randn(keys[2], { 3 }), draws[2])
  end)
end)
