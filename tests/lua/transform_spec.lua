-- Facts about transforms: values and derivatives against hand calculation and differences, composition, captures,
-- structure, errors, and that no trace stays open.
local pg = require "perigee"
local core = require "perigee.core"

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { ... } do assert.matches(part, message, 1, true) end
  assert.is_false(core.tracing())
  return message
end

local function f64(values) return pg.tensor(values, "f64") end

local function assert_close(expected, got, tolerance)
  local difference = (expected - got):to("f64"):abs():max():item()
  assert.is_true(difference <= tolerance, ("%s differs by %g from\n%s"):format(got, difference, expected))
end

-- The gradient of f at x by 4-point central differences.
local function differences(f, x)
  local g, h = pg.zeros_like(x), 1e-3
  for i = 0, x.size - 1 do
    local function at(step)
      local y = x:clone()
      y:data_write(i, y:data_read(i) + step)
      return f(y):item()
    end
    g:data_write(i, (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
  end
  return g
end

describe("jit", function()
  it("gives what the function gives eagerly, to the bit", function()
    local function f(x, w) return (x:matmul(w) + 1):tanh():sum(1) end
    local x, w = pg.randn(pg.key(1), { 8, 16 }), pg.randn(pg.key(2), { 16, 4 })
    assert.equal(f(x, w), pg.jit(f)(x, w))
    assert.equal(f(x, w), pg.jit(f, { executor = "interpret" })(x, w))
  end)

  it("traces once per signature", function()
    local traces = 0
    local f = pg.jit(function(x, k, mode)
      traces = traces + 1
      return mode == "double" and x * k * 2 or x * k
    end)
    for i = 1, 5 do assert.equal(3 * i, f(pg.full({ 2 }, i), 3)[1]:item()) end
    for i = 1, 5 do assert.equal(i, f(pg.full({ 2 }, 1), i)[1]:item()) end
    assert.equal(1, traces)
    f(pg.ones { 3 }, 1)
    assert.equal(2, traces)
    assert.equal(2, f(pg.ones { 3 }, 1, "double")[1]:item())
    f(pg.ones({ 3 }, "f64"), 1)
    assert.equal(4, traces)
  end)

  it("takes and gives trees: tables, vectors, numbers, keys, constants", function()
    local f = pg.jit(function(state, key)
      local sum, noise = { state.a + state.nested[1] }, pg.randn(key, { 2 })
      return { sum = sum, noise = noise, k = state.k * 2, name = "x", n = 3 }, state.a
    end)
    local out, a = f({ a = pg.ones { 2 }, nested = { pg.full({ 2 }, 2) }, k = 1.5 }, pg.key(3))
    assert.same({ 3, 3 }, out.sum[1]:totable())
    assert.equal(pg.randn(pg.key(3), { 2 }), out.noise)
    assert.equal(3, out.k)
    assert.equal("x", out.name)
    assert.equal(3, out.n)
    assert.same({ 1, 1 }, a:totable())
    local v = pg.vector { { "w", pg.ones { 3 } }, { "b", pg.zeros { 1 } } }
    local w = pg.jit(function(x) return x * 2 + 1 end)(v)
    assert.equal(v.layout, w.layout)
    assert.same({ 3, 3, 3, 1 }, w:totable())
    assert.same({ 2, 2, 2 }, pg.jit(function(x) return x.w + x["w"] end)(v):totable())
  end)

  it("gives new tensors each time", function()
    local f = pg.jit(function(x) return x + 1 end)
    local a, b = f(pg.ones { 2 }), f(pg.full({ 2 }, 5))
    assert.same({ 2, 2 }, a:totable())
    assert.same({ 6, 6 }, b:totable())
    local identity = pg.jit(function(x) return x end)
    local x = pg.ones { 2 }
    local y = identity(x)
    y:data_write(0, 9)
    assert.same({ 1, 1 }, x:totable())
  end)

  it("notices that captured numbers and tensors have changed", function()
    local rate, w, o = 2, pg.ones { 2 }, { gain = 1, unused = { 1 } }
    local inner = function(x) return x * rate end
    local f = pg.jit(function(x) return inner(x) * w * o.gain end)
    assert.same({ 2, 2 }, f(pg.ones { 2 }):totable())
    rate = 3
    assert.same({ 3, 3 }, f(pg.ones { 2 }):totable())
    w = pg.full({ 2 }, 2)
    assert.same({ 6, 6 }, f(pg.ones { 2 }):totable())
    o.gain = 10
    assert.same({ 60, 60 }, f(pg.ones { 2 }):totable())
    local g = pg.grad(function(x) return (x * rate):sum() end)
    assert.same({ 3 }, g(pg.ones { 1 }):totable())
    rate = 4
    assert.same({ 4 }, g(pg.ones { 1 }):totable())
    local both = pg.jit(g)
    assert.same({ 4 }, both(pg.ones { 1 }):totable())
    rate = 5
    assert.same({ 5 }, both(pg.ones { 1 }):totable())
  end)

  it("notices changed globals that it names", function()
    local env = setmetatable({ scale = 2 }, { __index = _G })
    env.other = 1
    local f = pg.jit(load("return function(x) return x * scale end", "=chunk", "t", env)())
    assert.equal(2, f(pg.ones { 1 }):item())
    env.scale = 3
    assert.equal(3, f(pg.ones { 1 }):item())
  end)

  it("says so when nothing is returned, and closes the trace on errors", function()
    raises(function() pg.jit(function() end)(pg.ones { 1 }) end, "returned nothing")
    raises(function() pg.jit(function() error("oh") end)(pg.ones { 1 }) end, "oh")
    raises(function() pg.jit(3) end, "a function was expected", "transform_spec.lua")
    local line = debug.getinfo(1, "l").currentline + 1
    local f = pg.jit(function(x) return pg.cross_entropy(x, x) end)
    local message = raises(function() f(pg.ones { 2, 3 }) end, "[2, 3]")
    assert.matches("transform_spec.lua:" .. line .. ": ", message, 1, true)
    message = raises(function() return pg.jit(function(x) return x:sum(5) end)(pg.ones { 2 }) end, "axis 5")
    assert.matches("transform_spec.lua:" .. line + 3 .. ": ", message, 1, true)
  end)

  it("leaves no memory behind when the traced function fails", function()
    local f = pg.jit(function(x)
      local y = x * pg.ones({ 1000 }):to("f32") + pg.tensor { 1, 2, 3 } -- captured, and then a mismatch
      return y
    end)
    pcall(f, pg.ones { 1000 })
    collectgarbage()
    local before = core.memory_used()
    for _ = 1, 30 do pcall(f, pg.ones { 1000 }) end
    collectgarbage()
    assert.is_true(core.memory_used() <= before)
  end)

  it("runs a loop of optimization without growing", function()
    local step = pg.jit(function(theta, m, g, lr)
      m = 0.9 * m + 0.1 * g
      return theta - lr * m, m
    end)
    local theta, m = pg.ones { 50000 }, pg.zeros { 50000 }
    local peak = 0
    for i = 1, 500 do
      theta, m = step(theta, m, theta, 0.1 / i)
      peak = math.max(peak, core.memory_used())
    end
    assert.is_true(peak < 120e6, ("peak %.1f MB"):format(peak / 1e6))
  end)
end)

describe("grad", function()
  it("agrees with hand calculation and differences", function()
    local function f(x) return ((x * x):sum() + x:exp():sum() * x[1]) end
    local x = f64 { 0.3, -0.7, 1.1 }
    assert_close(differences(f, x), pg.grad(f)(x), 1e-9)
    local function loss(w, b, inputs)
      return pg.cross_entropy(inputs:matmul(w) + b, pg.tensor({ 0, 2, 1 }, "i64"))
    end
    local w, b = pg.randn(pg.key(1), { 4, 3 }, "f64"), f64 { 0.1, 0.2, 0.3 }
    local inputs = pg.randn(pg.key(2), { 3, 4 }, "f64")
    local dw, db = pg.grad(loss, { wrt = { 1, 2 } })(w, b, inputs)
    assert_close(differences(function(v) return loss(v, b, inputs) end, w), dw, 1e-9)
    assert_close(differences(function(v) return loss(w, v, inputs) end, b), db, 1e-9)
    assert_close(differences(function(v) return loss(w, b, v) end, inputs),
      pg.grad(loss, { wrt = 3 })(w, b, inputs), 1e-9)
  end)

  it("gives loss, gradients and further results", function()
    local vg = pg.value_and_grad(function(x, y) return (x * y):sum(), { twice = y * 2 }, "done" end, { wrt = { 2, 1 } })
    local loss, dy, dx, aux, done = vg(pg.tensor { 1, 2 }, pg.tensor { 3, 4 })
    assert.equal(11, loss:item())
    assert.same({ 1, 2 }, dy:totable())
    assert.same({ 3, 4 }, dx:totable())
    assert.same({ 6, 8 }, aux.twice:totable())
    assert.equal("done", done)
  end)

  it("differentiates by trees and vectors", function()
    local g = pg.grad(function(p) return (p.w * p.w):sum() + p.list[1] * 3 end)
    local d = g { w = pg.tensor { 1, 2 }, list = { pg.tensor(5) } }
    assert.same({ 2, 4 }, d.w:totable())
    assert.equal(3, d.list[1]:item())
    local v = pg.vector { { "w", pg.tensor { 1, 2, 3 } }, { "b", pg.tensor { 4 } } }
    local dv = pg.grad(function(theta) return (theta.w * theta.w):sum() * theta.b:sum() end)(v)
    assert.equal(v.layout, dv.layout)
    assert.same({ 8, 16, 24, 14 }, dv:totable())
    local ds = pg.grad(function(theta) return (theta * theta):sum() + theta:per_tensor():sum():totable_sum() end)
    raises(function() ds(v) end, "totable_sum")
  end)

  it("differentiates by numbers", function()
    assert.equal(12, pg.grad(function(k) return k * k * k end)(2))
    local dk = pg.grad(function(k, x) return (x * k):sum() end)(2, pg.tensor { 1, 2 })
    assert.equal(3, type(dk) == "number" and dk or dk:item())
  end)

  it("composes to any order", function()
    local function f(x) return x ^ 4 + x:exp() end
    local x = f64(0.5)
    local e = math.exp(0.5)
    assert.near(4 * 0.5 ^ 3 + e, pg.grad(f)(x):item(), 1e-12)
    assert.near(12 * 0.25 + e, pg.grad(pg.grad(f))(x):item(), 1e-12)
    assert.near(24 * 0.5 + e, pg.grad(pg.grad(pg.grad(f)))(x):item(), 1e-12)
    assert.near(24 + e, pg.jit(pg.grad(pg.jit(pg.grad(pg.grad(pg.grad(f))))))(x):item(), 1e-12)
  end)

  it("does not confuse the perturbations of nested derivatives", function()
    local value = pg.grad(function(x)
      return x * pg.grad(function(y) return x * y end)(f64(1))
    end)(f64(3))
    assert.equal(6, value:item())
  end)

  it("differentiates by captured tensors not at all", function()
    local w = pg.tensor { 2, 3 }
    assert.same({ 2, 3 }, pg.grad(function(x) return (x * w):sum() end)(pg.ones { 2 }):totable())
  end)

  it("wants a loss that is one number computed from its arguments", function()
    local x = pg.ones { 3 }
    raises(function() pg.grad(function(v) return v * 2 end)(x) end, "f32 [3]", ":sum()", "transform_spec.lua")
    raises(function() pg.grad(function() return 3 end)(x) end, "it returned 3", "transform_spec.lua")
    raises(function() pg.grad(function() end)(x) end, "nothing")
    raises(function() pg.grad(function(v) return { v:sum() } end)(x) end, "a table")
    raises(function() pg.grad(function(v) return v:sum() end, { wrt = 2 })(x) end, "no argument 2")
    raises(function() pg.grad(function(v) return v:to("f32"):sum() end)(pg.ones({ 2 }, "i64")) end, "i64", "f32")
  end)
end)

describe("stop_gradient and tap", function()
  it("hold back and edit what flows back", function()
    local x = pg.tensor { 1, 2 }
    assert.same({ 1, 2 }, pg.grad(function(v) return (v * pg.stop_gradient(v)):sum() end)(x):totable())
    local clipped = pg.grad(function(v) return (pg.tap(v, function(ct) return ct:minimum(3) end) * 1) ^ 2 end)
    assert.equal(3, clipped(pg.tensor(5)):item())
    assert.equal(2, clipped(pg.tensor(1)):item())
    assert.equal(x, pg.tap(x, function(ct) return ct end))
    raises(function()
      pg.grad(function(v) return pg.tap(v, function() error("bad tap") end):sum() end)(x)
    end, "bad tap")
    raises(function()
      pg.grad(function(v) return pg.tap(v, function(ct) return ct:reshape { 7 } end):sum() end)(x)
    end, "[2]")
  end)
end)

describe("jvp, vjp, hvp, hessian", function()
  local function f(x) return (x ^ 3):sum() + x[1] * x[2] * x[3] end
  local x, v = f64 { 1, 2, 3 }, f64 { 1, -1, 0.5 }

  it("agree with each other and with hand calculation", function()
    local y, dy = pg.jvp(f)(v, x)
    assert.near(42, y:item(), 1e-12)
    local g = pg.grad(f)(x)
    assert.near(g:dot(v):item(), dy:item(), 1e-12)
    assert.same({ 9, 15, 29 }, g:totable())
    local y2, gx = pg.vjp(f)(f64(2), x)
    assert.equal(y, y2)
    assert_close(g * 2, gx, 1e-12)
    local h = pg.hessian(f)(x)
    assert.same({ { 6, 3, 2 }, { 3, 12, 1 }, { 2, 1, 18 } }, h:totable())
    assert_close(h:matmul(v), pg.hvp(f)(v, x), 1e-12)
  end)

  it("work on vectors and through jit", function()
    local theta = pg.vector { { "a", f64 { 1, 2 } }, { "b", f64 { 3 } } }
    local function loss(t) return (t.a * t.a):sum() * t.b:sum() end
    assert.same({ { 6, 0, 2 }, { 0, 6, 4 }, { 2, 4, 0 } }, pg.hessian(loss)(theta):totable())
    local direction = pg.vector { { "a", f64 { 1, 0 } }, { "b", f64 { 1 } } }
    assert.same({ 8, 4, 2 }, pg.jit(pg.hvp(loss))(direction, theta):totable())
    assert.same({ 2, 2, 2, 2 }, pg.hessian(function(m) return (m * m):sum() end)(pg.ones { 2, 2 }).shape)
  end)

  it("take trees of tangents and give trees of results", function()
    local product = pg.jvp(function(p) return { p.u * p.w } end)
    local out, dout = product({ u = f64(1), w = f64(0) }, { u = f64(2), w = f64(5) })
    assert.equal(10, out[1]:item())
    assert.equal(5, dout[1]:item())
    local _, da, db = pg.vjp(function(a, b) return { s = a * b, t = a } end, { wrt = { 1, 2 } })(
      { s = f64(1), t = f64(10) }, f64(3), f64(4))
    assert.equal(14, da:item())
    assert.equal(3, db:item())
    raises(function() pg.vjp(f)(nil, x) end, "cotangent")
    raises(function() pg.jvp(f)({ f64(1) }, x) end, "tangent")
  end)
end)

describe("a model by hand", function()
  it("learns", function()
    local key = pg.key(0)
    local x = pg.randn(key:fold("x"), { 64, 3 })
    local y = x:matmul(pg.tensor { { 1 }, { -2 }, { 0.5 } }) + 0.25
    local step = pg.value_and_grad(function(p) return pg.squared_loss(x:matmul(p.w) + p.b, y) end)
    local p, loss = { w = pg.zeros { 3, 1 }, b = pg.zeros { 1 } }, nil
    for _ = 1, 200 do
      local g
      loss, g = step(p)
      p = { w = p.w - 0.2 * g.w, b = p.b - 0.2 * g.b }
    end
    assert.is_true(loss:item() < 1e-8)
    assert.near(-2, p.w[2][1]:item(), 1e-3)
    assert.near(0.25, p.b:item(), 1e-3)
  end)
end)
