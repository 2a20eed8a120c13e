-- Facts about state slots of 8 bits: trajectories, codes and largest magnitudes are those of the reference; the update
-- is one kernel, keeps its states in a quarter of the memory and nothing else; what must keep 32 bits does; a
-- run with such states is saved and resumed bit for bit, with everything that stands around a rule.
local support = require "support"
local problems = require "problems"
local replay = require "rule_replay"
local builder = require "perigee.builder"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/quantize.lua"
local rule, wrapper, quantize = pg.rule, pg.wrapper, pg.quantize

local function layout_of(shapes)
  local entries = {}
  for i, entry in ipairs(shapes) do entries[i] = { entry[1], entry[2] } end
  return core.layout(entries)
end

-- A vector of normal numbers, by a key.
local function random_vector(layout, dtype, key)
  local parts = {}
  for i = 1, #layout do parts[i] = pg.randn(key:fold(i), layout[i].shape, dtype) end
  return core.apply("pack", { layout = layout }, table.unpack(parts))
end

-- ---- the reference --------------------------------------------------------------------------------------------------

local function rule_of(case)
  local h = case.hyper
  local inner = h.momentum and rule.sgd { lr = h.lr, momentum = h.momentum }
    or rule.adamw { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps }
  return wrapper.eight_bit { rule = inner, block = h.block, min_size = 0, decay_after = not h.momentum }
end

describe("a rule with 8-bit states", function()
  for _, case in ipairs(golden.cases) do
    for _, dtype in ipairs { "f64", "f32" } do
      it(("has the trajectory and codes of %s in %s"):format(case.id, dtype), function()
        local names = case.hyper.momentum and { "buf" } or { "m", "v" }
        replay.replay(case, golden.problems[case.problem], dtype, { rule = rule_of(case),
          options = { weight_decay = case.hyper.wd },
          after = function(_, step, _, state)
            for i, name in ipairs(names) do
              assert.are.same(step.extra["codes" .. i], state[name .. ".codes"]:flat():totable())
              local off = support.difference(state[name .. ".absmax"]:totable(), step.extra["absmax" .. i])
              assert(off < (dtype == "f64" and 1e-12 or 1e-6), off)
            end
          end })
      end)
    end
  end
end)

-- ---- where slots lie ------------------------------------------------------------------------------------------------

-- Three tensors, of which "b" is small.
local LAYOUT = layout_of { { "a", { 70, 80 } }, { "b", { 33 } }, { "c.stable_weight", { 5000 } }, { "d", { 9000 } } }

-- After `steps` steps with random gradients: theta, state.
local function walk(r, steps, o)
  local dtype = o and o.dtype or "f32"
  local theta = random_vector(o and o.layout or LAYOUT, dtype, pg.key(1))
  local state = r:init(theta, { weight_decay = o and o.weight_decay or 0.01 })
  for k = 1, steps do
    local g = random_vector(theta.layout, dtype, pg.key(1 + k))
    if o and o.edit then g = o.edit(g, k) end
    r:step(theta, { g = g }, state, k - 1, o and o.extra)
  end
  return theta, state
end

local function bits(theta, state)
  local parts, keys = { theta:bytes() }, {}
  for name, value in pairs(state) do
    if type(name) == "string" and core.is_tensor(value) then keys[#keys + 1] = name end
  end
  table.sort(keys)
  for _, name in ipairs(keys) do parts[#parts + 1] = name .. state[name]:bytes() end
  return table.concat(parts)
end

local function refused(what, f, ...)
  local ok, m = pcall(f, ...)
  assert(not ok and tostring(m):find(what, 1, true), m)
end

describe("a slot of 8 bits", function()
  it("is codes and a largest magnitude for each block of a large tensor; small tensors are as they were", function()
    local exact = rule.adamw { lr = 0.01 }
    local r = wrapper.eight_bit { rule = exact }
    local theta, state = walk(r, 4)
    local plain_theta, plain_state = walk(exact, 4)
    assert.are.same({ "m.absmax", "m.codes", "v.absmax", "v.codes" }, (function()
      local list = { table.unpack(r.slot_names) }
      table.sort(list)
      return list
    end)())
    local codes, absmax = state["m.codes"], state["m.absmax"]
    assert.are.equal("u8", codes.dtype)
    assert.are.equal(2, #codes.layout)
    assert.are.equal("a", codes.layout[1].name)
    assert.are.equal("d", codes.layout[2].name)
    -- blocks of a, the numbers of b, the numbers of the stable embedding, blocks of d
    assert.are.equal(22 + 33 + 5000 + 36, absmax.size)
    local numbers, want = absmax:totable(), plain_state.m:flat():totable()
    for i = 1, 5033 do assert.are.equal(want[5600 + i], numbers[22 + i]) end
    for _, name in ipairs { "b", "c.stable_weight" } do
      assert.are.same(plain_theta[name]:totable(), theta[name]:totable())
    end
    -- and of a large tensor what the functions of pg.quantize make of it
    local first = walk(exact, 1)
    assert.are_not.same(first["a"]:totable(), theta["a"]:totable())
    local _, one = walk(r, 1)
    local _, plain_one = walk(exact, 1)
    local a = plain_one.v["a"]
    local got, scales = quantize.encode(a, { signed = false })
    assert.are.same(got:totable(), one["v.codes"]["a"]:flatten():totable())
    assert.are.same(scales:totable(), one["v.absmax"]:slice({ 1, 22 }):totable())
  end)

  it("may be kept out by name, by a function, by size", function()
    local function coded(given)
      given.rule = rule.lion { lr = 0.01 }
      local _, state = walk(wrapper.eight_bit(given), 1)
      local list, layout = {}, state["m.codes"].layout
      for i = 1, #layout do list[i] = layout[i].name end
      return table.concat(list, " ")
    end
    assert.are.equal("a d", coded {})
    assert.are.equal("a", coded { exact = "^d$" })
    assert.are.equal("d", coded { exact = function(name, shape) return #shape == 2 and name == "a" end })
    assert.are.equal("d", coded { min_size = 6000 })
    assert.are.equal("a b d", coded { min_size = 0 })
    assert.are.equal("", coded { min_size = 1e6 })
  end)

  it("changes nothing where no tensor is large enough, bit for bit", function()
    for _, inner in ipairs { rule.adamw { lr = 0.01, amsgrad = true }, rule.rmsprop { momentum = 0.9, centered = true },
      rule.adagrad { initial = 0.1 }, rule.sgd { momentum = 0.9, nesterov = true } } do
      local theta = walk(inner, 5)
      assert.are.equal(theta:bytes(), (walk(wrapper.eight_bit { rule = inner, min_size = math.huge }, 5)):bytes())
    end
  end)

  -- As walk, with the rule itself: after each step its slots go through pg.quantize, tensor by tensor.
  local function walk_by_hand(r, steps, block)
    local theta = random_vector(LAYOUT, "f32", pg.key(1))
    local state = r:init(theta, { weight_decay = 0.01 })
    for k = 1, steps do
      r:step(theta, { g = random_vector(LAYOUT, "f32", pg.key(1 + k)) }, state, k - 1)
      for name, signed in pairs(r.definition.eight_bit) do
        local slot, parts = state[name], {}
        for i = 1, slot and slot.layout and #slot.layout or 0 do
          local entry, o = slot.layout[i], { signed = signed, block = block }
          parts[i] = slot[entry.name]
          if entry.size >= 4096 and entry.name ~= "c.stable_weight" then
            local codes, absmax = quantize.encode(parts[i], o)
            parts[i] = quantize.decode(codes, absmax, o):reshape(parts[i].shape)
          end
        end
        if #parts > 0 then slot:copy_from(core.apply("pack", { layout = slot.layout }, table.unpack(parts))) end
      end
    end
    return theta
  end

  it("of any rule is what encoding and decoding between its steps would make of it, bit for bit", function()
    local count = 0
    for name in pairs(pg.rule) do
      local r = name ~= "define" and name ~= "is" and name ~= "split" and pg.rule[name]
      if r and rule.is(r) and #r.definition.needs == 0 and r.definition.eight_bit then
        if name == "sgd" or name == "normalized_sgd" then r = r { momentum = 0.9 } end
        if name == "rmsprop" then r = r { momentum = 0.9, centered = true } end
        for _, block in ipairs(name == "adamw" and { 256, 2048 } or { 256 }) do
          local coded = walk(wrapper.eight_bit { rule = r, block = block, skip_nonfinite = false }, 3)
          assert(coded:bytes() == walk_by_hand(r, 3, block):bytes(), name)
        end
        count = count + 1
      end
    end
    assert(count >= 15, count)
  end)

  it("of any rule comes close to one of 32 bits", function()
    local inner = { rule.adam { lr = 0.01 }, rule.adagrad { lr = 0.1 }, rule.rmsprop { momentum = 0.9 }, rule.nadam {},
      rule.adadelta {}, rule.adabelief { eps = 1e-8 }, rule.diffgrad {}, rule.ademamix {}, rule.normalized_sgd {
      momentum = 0.9 }, rule.clipped_sgd {}, rule.sgd_sai {}, rule.muon {}, rule.schedule_free_adamw {},
      rule.split { { "a", rule.lion { lr = 1e-3 } }, { rule.adamw {} } } }
    for _, r in ipairs(inner) do
      local theta, plain = walk(wrapper.eight_bit { rule = r }, 6), walk(r, 6)
      local start = random_vector(LAYOUT, "f32", pg.key(1))
      local moved, apart = (plain - start):abs():mean():item(), (theta - plain):abs():mean():item()
      assert(apart > 0 and apart < 0.06 * moved, ("%s: %g of %g"):format(r.name, apart, moved))
    end
  end)

  it("begins as the rule's does", function()
    local started = rule.define { name = "started", state = { m = 0.25, far = function(theta) return theta * 2 end },
      hyper = {}, eight_bit = { "m", "far" }, update = function(_, _, s) return s.m * 0 + s.far end }
    local theta = random_vector(LAYOUT, "f32", pg.key(3))
    local r = wrapper.eight_bit { rule = started }
    local state, twice = r:init(theta), theta * 2
    assert.are.equal(0.25, quantize.decode(state["m.codes"]:flat(), pg.full({ 58 }, 0.25)):max():item())
    r:step(theta, { g = theta * 0 }, state, 0)
    assert((theta - twice):abs():max():item() < 0.03 * twice:abs():max():item())
  end)
end)

describe("an update with 8-bit states", function()
  -- What a step of its own is compiled to, and the state.
  local function program_of(r, theta)
    local state, info = r:init(theta), nil
    local trace = builder.trace
    function builder.trace(...) -- luacheck: ignore 122
      local program = trace(...)
      info = program:info()
      return program
    end
    local ok, message = pcall(r.step, r, theta, { g = theta * 0 }, state, 0)
    builder.trace = trace
    assert(ok, message)
    return info, state
  end

  local function bytes_of(r, state)
    local sum = 0
    for _, name in ipairs(r.slot_names) do sum = sum + #state[name]:bytes() end
    return sum
  end

  it("has no more kernels than one of 32 bits, no temporaries, and a quarter of the memory", function()
    local theta = core.vector(layout_of { { "w", { 1024, 1024 } }, { "b", { 1024 } } }, "f32")
    for _, block in ipairs { 256, 2048 } do
      for _, inner in ipairs { rule.adamw {}, rule.sgd { momentum = 0.9 }, rule.lion {} } do
        local r = wrapper.eight_bit { rule = inner, block = block }
        local info, state = program_of(r, theta)
        local plain_info, plain = program_of(inner, theta)
        assert(info.kernels <= plain_info.kernels)
        assert.are.equal(0, info.arena_bytes)
        local share = bytes_of(r, state) / bytes_of(inner, plain)
        assert(share <= 0.26, share)
      end
    end
  end)

  it("has the same bits interpreted and compiled, and with any number of threads", function()
    local threads = pg.threads()
    for _, block in ipairs { 4, 256, 1024, 4096 } do
      for _, dtype in ipairs { "f32", "f64" } do
        local r = wrapper.eight_bit { rule = rule.adamw { lr = 0.01 }, block = block }
        local want = bits(walk(r, 3, { dtype = dtype }))
        builder.executor = "interpret"
        local ok, got = pcall(function() return bits(walk(r, 3, { dtype = dtype })) end)
        builder.executor = nil
        assert(ok and got == want, ok or got)
        pg.set_threads(1)
        got = bits(walk(r, 3, { dtype = dtype }))
        pg.set_threads(threads)
        assert(got == want)
      end
    end
  end)

  it("leaves elements alone whose gradient is not finite", function()
    local function spoil(g, k)
      local copy = g:copy()
      if k == 2 then
        copy:data_write(3, 0 / 0)
        copy:data_write(7, math.huge)
      end
      return copy
    end
    local layout = layout_of { { "w", { 4096 } } }
    local r = wrapper.eight_bit { rule = rule.adamw { lr = 0.01 } }
    local before = walk(r, 1, { layout = layout, edit = spoil })
    local theta, state = walk(r, 2, { layout = layout, edit = spoil })
    local clean = walk(r, 2, { layout = layout })
    local a, b, c = before:totable(), theta:totable(), clean:totable()
    for i = 1, 4096 do
      if i == 4 or i == 8 then
        assert.are.equal(a[i], b[i])
      elseif i > 256 then -- other blocks do not notice
        assert.are.equal(c[i], b[i])
      end
    end
    for _, name in ipairs { "m", "v" } do
      local numbers = quantize.decode(state[name .. ".codes"]:flat(), state[name .. ".absmax"],
        { signed = name == "m" }):totable()
      assert(numbers[4] == 0 and numbers[8] == 0 and numbers[5] ~= 0)
    end
    -- one slot: the library does not look, and the block is lost
    theta = walk(wrapper.eight_bit { rule = rule.sgd { momentum = 0.9 } }, 2, { layout = layout, edit = spoil })
    assert(theta:totable()[4] ~= theta:totable()[4])
    theta = walk(wrapper.eight_bit { rule = rule.sgd { momentum = 0.9 }, skip_nonfinite = true }, 2,
      { layout = layout, edit = spoil })
    assert(theta:abs():max():item() < 100)
  end)

  it("decays as the rule does, or after the step; loses signs if it should", function()
    local layout = layout_of { { "w", { 4096 } } }
    local adamw, o = rule.adamw { lr = 0.1 }, { layout = layout, weight_decay = 0.5, dtype = "f64" }
    local start = random_vector(layout, "f64", pg.key(1))
    local free = walk(wrapper.eight_bit { rule = adamw }, 1, { layout = layout, weight_decay = 0, dtype = "f64" })
    local before, after = walk(wrapper.eight_bit { rule = adamw }, 1, o),
      walk(wrapper.eight_bit { rule = adamw, decay_after = true }, 1, o)
    assert((before - (free - 0.05 * start)):abs():max():item() < 1e-12)
    assert((after - 0.95 * free):abs():max():item() < 1e-12)
    -- of Adam, too, it is decoupled
    assert.are.equal(after:bytes(), (walk(wrapper.eight_bit { rule = rule.adam { lr = 0.1 }, decay_after = true }, 1,
      o)):bytes())
    local function zeros(keep_sign)
      local _, state = walk(wrapper.eight_bit { rule = rule.lion {}, keep_sign = keep_sign }, 1, { layout = layout,
        edit = function(g) return pg.where(g:gt(2), g, g * -1e-9) end })
      return state["m.codes"]:flat():eq(127):to("i64"):sum():item()
    end
    assert(zeros(true) < zeros(false))
  end)
end)

-- ---- with everything else -------------------------------------------------------------------------------------------

describe("8-bit states", function()
  it("are not those of a stable embedding, wherever it is in a model", function()
    local model = pg.nn.sequential { pg.nn.stable_embedding(200, 64), { "head", pg.nn.linear(64, 100) } }
    local theta = model:init(pg.key(1))
    local state = wrapper.eight_bit { rule = rule.adamw {} }:init(theta)
    assert.are.equal(1, #state["m.codes"].layout)
    assert.are.equal("head.weight", state["m.codes"].layout[1].name)
    assert.are.equal(200 * 64 + 2 * 64 + 6400 / 256 + 100, state["m.absmax"].size)
  end)

  it("stand inside and outside of other wrappers alike", function()
    local adamw = rule.adamw { lr = 0.01 }
    for _, name in ipairs { "lookahead", "ema", "swa", "cautious" } do
      local inside = wrapper[name] { rule = wrapper.eight_bit { rule = adamw } }
      local outside = wrapper.eight_bit { rule = wrapper[name] { rule = adamw } }
      local theta, state = walk(inside, 4)
      local other, other_state = walk(outside, 4)
      if name == "cautious" then -- elements that are skipped are skipped inside or outside of the choice
        assert((theta - other):abs():max():item() < 1e-6)
      else
        assert.are.equal(bits(theta, state), bits(other, other_state), name)
      end
    end
  end)

  it("leave evaluation and evaluated points to what is inside", function()
    local problem = problems.random_logistic(40, 6)
    local function run(r, c)
      local opt = pg.optimizer { rule = r, correction = c }
      local st = opt:init(problem.theta0(), core.key(2))
      for k = 0, 5 do opt:step(st, problem.evaluator, problem.cyclic(k, 10)) end
      return st
    end
    local sgd = rule.sgd { lr = 0.05, momentum = 0.5 }
    for _, inner in ipairs { rule.schedule_free_adamw { lr = 0.01 }, wrapper.ema { rule = sgd, decay = 0.5 } } do
      local plain, coded = run(inner), run(wrapper.eight_bit { rule = inner })
      assert.are.equal(plain:point():bytes(), coded:point():bytes()) -- nothing is large enough to be coded
      assert(coded:point():bytes() ~= coded.theta:bytes())
      coded = run(wrapper.eight_bit { rule = inner, min_size = 0, block = 2 })
      assert((coded:point() - plain:point()):abs():max():item() < 0.05)
    end
    local katyusha = wrapper.katyusha { L = 20, sigma = 0.1, m = 3, rule = rule.sgd { lr = 1, momentum = 0.2 } }
    local c = pg.correction.svrg { every = 3 }
    assert.are.equal(run(katyusha, c).theta:bytes(), run(wrapper.eight_bit { rule = katyusha }, c).theta:bytes())
    local coded = run(wrapper.eight_bit { rule = katyusha, min_size = 0, block = 2 }, c)
    assert.are.equal("u8", coded.rule["buf.codes"].dtype)
    local off, far = (coded.theta - run(katyusha, c).theta):norm():item(), run(katyusha, c).theta:norm():item()
    assert(off < 0.05 * far, ("%g of %g"):format(off, far))
  end)

  it("are those of the rule's options, whoever changes them", function()
    local r = wrapper.eight_bit { rule = rule.sgd { lr = 0.1 } }
    assert.are.same({}, r.slot_names)
    local with = r:with { momentum = 0.9 }
    assert.are.equal(2, #with.slot_names)
    assert.are.equal(bits(walk(with, 3)), bits(walk(wrapper.eight_bit { rule = rule.sgd { lr = 0.1, momentum = 0.9 } },
      3)))
    local around = wrapper.ema { rule = r }
    assert.are.equal(3, #around:with({ momentum = 0.9 }).slot_names)
    walk(around:with { momentum = 0.9 }, 2)
  end)

  it("are saved and loaded bit for bit, under corrections and step sizes of theirs", function()
    local problem = problems.random_logistic(40, 6)
    for _, c in ipairs { false, pg.correction.svrg { every = 4 }, pg.correction.storm {} } do
      local opt = pg.optimizer { correction = c or nil,
        rule = wrapper.eight_bit { rule = rule.adamw { lr = 0.05 }, min_size = 0, block = 4 } }
      local function run(st, from, to)
        for k = from, to do opt:step(st, problem.evaluator, problem.cyclic(k, 10), core.key(3)) end
      end
      local whole, first, second = opt:init(problem.theta0()), opt:init(problem.theta0()), opt:init(problem.theta0())
      run(whole, 0, 9)
      run(first, 0, 4)
      local tensors, numbers = {}, first:numbers()
      for _, entry in ipairs(first:tensors()) do tensors[entry[1]] = entry[2]:copy() end
      second:load(tensors, numbers)
      run(second, 5, 9)
      assert.are.equal(whole.theta:bytes(), second.theta:bytes())
      for _, name in ipairs(opt.rule.slot_names) do
        assert.are.equal(whole.rule[name]:bytes(), second.rule[name]:bytes())
      end
    end
  end)

  it("of a rule of one's own are named", function()
    local function define(eight_bit)
      return rule.define { name = "own", hyper = { lr = 0.1 }, state = { "m", "u" }, eight_bit = eight_bit,
        update = function(p, stats, s, o)
          s.m, s.u = 0.9 * s.m + stats.g, pg.maximum(0.9 * s.u, pg.abs(stats.g))
          return p - o.lr * s.m / (s.u + 1)
        end }
    end
    local theta = walk(wrapper.eight_bit { rule = define { "m", u = "unsigned" } }, 3)
    assert.are.equal(theta:bytes(), (walk(wrapper.eight_bit { rule = define(), slots = { "m", u = "unsigned" } },
      3)):bytes())
    local _, state = walk(wrapper.eight_bit { rule = define(), slots = { "m" } }, 1)
    assert.are.equal("f32", state.u.dtype)
    assert.are.equal("u8", state["m.codes"].dtype)
    refused('rule own does not say which of its slots may be kept in 8 bits; name them, as slots = { "m" }',
      wrapper.eight_bit, { rule = define() })
    refused('slot u is "signed" or "unsigned", not "positive"', define, { u = "positive" })
  end)

  it("refuse what is not meant", function()
    local function with(given)
      given.rule = given.rule or rule.adamw {}
      return wrapper.eight_bit, given
    end
    refused("it stands around a rule, as { rule = pg.rule.adamw {} }, not nothing", wrapper.eight_bit, {})
    refused("unknown option 'blok' of rule", with { blok = 3 })
    refused("block is a power of two from 2 to 4096, not 100", with { block = 100 })
    refused("unknown slot 'w' of rule adamw (known: m, v)", with { slots = { "w" } })
    refused('slots are slots, as { "m", v = "unsigned" }, not 3', with { slots = 3 })
    refused("slot product is no vector", with { rule = rule.nadam {}, slots = { "product" } })
    refused('decay_after is true or false, not "yes"', with { decay_after = "yes" })
    refused('map is "dynamic" or "linear", not "log"', with { map = "log" })
    refused("exact is a pattern of names or a function of name and shape, not 3", with { exact = 3 })
    refused("min_size is a number of at least 0, not -1", with { min_size = -1 })
    refused("keep_sign is true or false, not 1", with { keep_sign = 1 })
    refused("slot average is what snapshots are taken of", with { slots = { "average" },
      rule = wrapper.katyusha { L = 1, sigma = 0, m = 2 } })
  end)
end)
