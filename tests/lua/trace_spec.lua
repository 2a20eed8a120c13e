-- Facts about core's traces and programs: what is recorded, bound, donated, refused, and where errors point.
local pg = require "perigee"
local core = require "perigee.core"

local function raises(f, ...)
  local ok, message = pcall(f)
  assert.is_false(ok, "an error was expected")
  for _, part in ipairs { ... } do assert.matches(part, message, 1, true) end
  return message
end

local executors = { "interpret", "generate" }

describe("a trace", function()
  it("records operations on its inputs and runs them on bound tensors", function()
    for _, executor in ipairs(executors) do
      local tr = core.trace()
      local x, y, k = tr:input("f32", { 2, 3 }), tr:input("f32", { 3 }), tr:scalar()
      local program = tr:compile({ x * k + y, (x * y):sum() }, { executor = executor })
      tr:finish()
      program:bind(1, pg.arange(6):reshape(2, 3)):bind(2, pg.tensor { 1, 2, 3 }):set(1, 10):run()
      assert.same({ { 1, 12, 23 }, { 31, 42, 53 } }, program:result(1):totable())
      assert.equal(0 + 2 + 6 + 3 + 8 + 15, program:result(2):item())
      program:set(1, 0):run()
      assert.same({ { 1, 2, 3 }, { 1, 2, 3 } }, program:result(1):totable())
    end
  end)

  it("writes to bound outputs and to donated inputs", function()
    local tr = core.trace()
    local m, g = tr:input("f32", { 4 }), tr:input("f32", { 4 })
    local program = tr:compile({ m * 0.5 + g, m - g }, { donate = { 1 } })
    tr:finish()
    local slot, out = pg.full({ 4 }, 2), pg.zeros { 4 }
    program:bind(1, slot):bind(2, pg.ones { 4 }):output(2, out)
    program:run()
    assert.same({ 2, 2, 2, 2 }, slot:totable())
    assert.same({ 1, 1, 1, 1 }, out:totable())
    program:run()
    assert.same({ 2, 2, 2, 2 }, program:result(1):totable())
    assert.equal(slot, program:result(1))
    raises(function()
      local bad <close> = core.trace()
      bad:compile({ bad:input("f32", { 1 }) + 1 }, { donate = { 3 } })
    end, "input 3")
  end)

  it("captures eager tensors once each, and follows what is copied into them", function()
    local w = pg.tensor { 1, 2 }
    local tr = core.trace()
    local x = tr:input("f32", { 2 })
    local program = tr:compile { x * w + w + pg.tensor { 10, 20 } }
    tr:finish()
    assert.equal(2, program:info().captured)
    assert.equal(1, program:info().inputs)
    program:bind(1, pg.ones { 2 }):run()
    assert.same({ 12, 24 }, program:result(1):totable())
    w:copy_from(pg.zeros { 2 })
    program:run()
    assert.same({ 10, 20 }, program:result(1):totable())
  end)

  it("runs operations on eager tensors at once, and makes constants nodes", function()
    local tr <close> = core.trace() -- luacheck: ignore
    assert.is_false((pg.tensor({ 1 }) + 1).traced)
    assert.is_true(pg.zeros({ 2 }).traced)
    assert.equal(2, pg.sqrt(4))
  end)

  it("keeps the weak numbers apart from tensors", function()
    local tr = core.trace()
    local k = tr:scalar()
    assert.is_true(k.weak)
    assert.is_true((k * 2 + 1).weak)
    local program = tr:compile { 1 - k, k:lt(3) }
    tr:finish()
    program:set(1, 0.99999):run()
    assert.equal(1 - 0.99999, program:result(1))
  end)

  it("refuses its tensors once it has ended, and elements while it lasts", function()
    local tr = core.trace()
    local x = tr:input("f32", { 2 })
    raises(function() return x:item() end, "traced", "trace_spec.lua")
    raises(function() return x == x + 1 end, "x:eq(y)")
    raises(function() return x < 1 end, "x:lt(y)")
    assert.equal("traced f32 [2]", tostring(x))
    assert.same({ 2 }, x.shape)
    tr:finish()
    raises(function() return x + 1 end, "trace that has ended", "trace_spec.lua")
    raises(function() return x.shape end, "trace that has ended")
    raises(function() return tr:input("f32", {}) end, "ended")
  end)

  it("refuses the tensors of a trace around it", function()
    local outer <close> = core.trace()
    local x = outer:input("f32", {})
    do
      local inner <close> = core.trace()
      raises(function() return x + 1 end, "a trace around the current one")
      assert.is_not_nil(inner:input("f32", {}) + 1)
    end
    assert.is_not_nil(x + 1)
  end)

  it("ends the traces inside it when it ends", function()
    local outer = core.trace()
    core.trace()
    outer:finish()
    assert.is_false(core.tracing())
    outer:finish()
  end)

  it("is closed by an error that passes through its scope", function()
    local before = core.memory_used()
    for _ = 1, 20 do
      pcall(function()
        local tr <close> = core.trace()
        return tr:input("f32", { 3 }) + pg.ones({ 4 }, "i64"):to("f32")
      end)
      assert.is_false(core.tracing())
    end
    collectgarbage()
    assert.is_true(core.memory_used() <= before)
  end)
end)

describe("errors in a trace", function()
  it("point at the line of the code that is traced, with shapes", function()
    local tr <close> = core.trace()
    local x, w = tr:input("f32", { 64, 10 }), tr:input("f32", { 12, 5 })
    local line = debug.getinfo(1, "l").currentline + 1
    local message = raises(function() return x:matmul(w) end, "[64, 10]", "[12, 5]")
    assert.matches("trace_spec.lua:" .. line .. ": ", message, 1, true)
    message = raises(function() return x:reshape { 7 } end, "[64, 10]")
    assert.matches("trace_spec.lua:" .. line + 2 .. ": ", message, 1, true)
    assert.is_nil(message:match("trace_spec.lua.*trace_spec.lua"))
  end)

  it("do not read % in messages as formats", function()
    raises(function() core.apply("100%s%n", nil, pg.ones { 1 }) end, "100%s%n")
    raises(function() core.raise("50% %d of %s") end, "50% %d of %s")
  end)
end)

describe("a program", function()
  local function make()
    local tr <close> = core.trace()
    local x, k = tr:input("f32", { 2 }), tr:scalar()
    return tr:compile { x * k }
  end

  it("checks what is bound to it", function()
    local program = make()
    raises(function() program:run() end, "input 1", "not bound", "trace_spec.lua")
    raises(function() program:bind(1, pg.ones { 3 }) end, "f32 [2]", "f32 [3]")
    raises(function() program:bind(1, pg.ones({ 2 }, "f64")) end, "f32 [2]", "f64 [2]")
    raises(function() program:bind(2, pg.ones { 2 }) end, "no input 2")
    raises(function() program:set(2, 1) end, "no scalar 2")
    raises(function() program:result(1) end, "not run")
    raises(function() program:bind(1, 3) end, "tensor expected")
    local wrong = core.trace()
    local y = wrong:input("f32", { 2 })
    raises(function() program:bind(1, y) end, "traced")
    wrong:finish()
  end)

  it("gives new tensors from each call, and keeps none of its arguments", function()
    local program = make()
    local a = program:call(pg.ones { 2 }, 2)
    local b = program:call(pg.ones { 2 }, 3)
    assert.same({ 2, 2 }, a:totable())
    assert.same({ 3, 3 }, b:totable())
    collectgarbage()
    local before = core.memory_used()
    local tr = core.trace()
    local sum = tr:compile { tr:input("f32", { 100000 }):sum() }
    tr:finish()
    assert.equal(100000, sum:call(pg.ones { 100000 }):item())
    collectgarbage()
    assert.is_true(core.memory_used() < before + 1000)
  end)

  it("outlives its trace and describes itself", function()
    local program = make()
    collectgarbage()
    local info = program:info()
    assert.equal(1, info.inputs)
    assert.equal(1, info.scalars)
    assert.equal(1, info.outputs)
    assert.equal("string", type(program:source()))
  end)

  it("gives the same bits interpreted and generated, with any number of threads", function()
    local x = pg.randn(pg.key(5), { 300, 77 })
    local threads, first = core.threads(), nil
    for _, executor in ipairs(executors) do
      for _, n in ipairs { 1, 2 } do
        core.set_threads(n)
        local tr = core.trace()
        local v = tr:input("f32", { 300, 77 })
        local program = tr:compile({ ((v:exp() + 1):log() * v:tanh()):sum(1) }, { executor = executor })
        tr:finish()
        local y = program:call(x)
        first = first or y
        assert.is_true(first == y)
      end
    end
    core.set_threads(threads)
  end)
end)

describe("derivatives in a trace", function()
  it("agree with hand calculation", function()
    local tr = core.trace()
    local x = core.mark(tr:input("f64", { 3 }))
    local y = (x ^ 3):sum()
    local g = core.vjp({ y }, { false }, { x })[1]
    local h = core.jvp({ x }, { pg.ones({ 3 }, "f64") }, { g })[1]
    local program = tr:compile { g, h }
    tr:finish()
    local dg, dh = program:call(pg.tensor({ 1, 2, 3 }, "f64"))
    assert.same({ 3, 12, 27 }, dg:totable())
    assert.same({ 6, 12, 18 }, dh:totable())
  end)

  it("are zero where nothing depends", function()
    local tr = core.trace()
    local x, z = core.mark(tr:input("f32", { 2 })), core.mark(tr:input("f32", { 2 }))
    local program = tr:compile(core.vjp({ x:sum() }, { false }, { x, z }))
    tr:finish()
    local dx, dz = program:call(pg.ones { 2 }, pg.ones { 2 })
    assert.same({ 1, 1 }, dx:totable())
    assert.same({ 0, 0 }, dz:totable())
  end)

  it("pass through taps, whose errors arrive as messages", function()
    local tr <close> = core.trace()
    local x = core.mark(tr:input("f32", { 2 }))
    local good = core.tap(x, function(ct) return ct * 10 end)
    local bad = core.tap(x, function() error("no way back") end)
    local program = tr:compile(core.vjp({ good:sum() }, { false }, { x }))
    assert.same({ 10, 10 }, program:call(pg.tensor { 1, 1 }):totable())
    raises(function() core.vjp({ bad:sum() }, { false }, { x }) end, "no way back")
    raises(function() core.vjp({ core.tap(x, function() end):sum() }, { false }, { x }) end, "returned nothing")
  end)
end)
