-- Facts about pg.augment: crop_flip against loops written out, its draws, its derivative; and that every evaluation of
-- a corrected step and its pass sees an example augmented alike, with dropout and batch norm on (T2 and T3 of the
-- methods' specification).
local support = require "support"
local normed = require "normed"
local watch = require("problems").watch
local pg, core = support.pg, support.core
local evaluation = require "perigee.evaluation"

local crop_flip = pg.augment.crop_flip

-- Rows, columns and mirroring of the image with this key, from public draws: words 0 to 2 are the f32 uniforms 0 to 2.
local function draws(key, pad)
  local u = pg.uniform(key, { 3 }):totable()
  local function shift(v) return math.floor(v * (2 * pad + 1)) - pad end
  return shift(u[1]), shift(u[2]), u[3] >= 0.5
end

-- The same by a padded copy, nested tables throughout. images: [n][c][h][w].
local function crop_slowly(images, keys, pad, flip)
  local result = {}
  for n, image in ipairs(images) do
    local down, right, mirrored = draws(keys[n], pad)
    result[n] = {}
    for c, plane in ipairs(image) do
      local height, width, padded, out = #plane, #plane[1], {}, {}
      for i = 1, height + 2 * pad do
        padded[i] = {}
        for j = 1, width + 2 * pad do padded[i][j] = (plane[i - pad] or {})[j - pad] or 0 end
      end
      for i = 1, height do
        out[i] = table.move(padded[i + pad + down], 1 + pad + right, width + pad + right, 1, {})
        if flip and mirrored then
          for j = 1, width // 2 do out[i][j], out[i][width + 1 - j] = out[i][width + 1 - j], out[i][j] end
        end
      end
      result[n][c] = out
    end
  end
  return result
end

local function split_keys(key, n)
  local keys = {}
  for i = 1, n do keys[i] = key:fold("split"):fold(i - 1) end
  return keys
end

describe("pg.augment.crop_flip", function()
  it("is a padded image cut and mirrored, for every dtype and padding", function()
    for i, case in ipairs { { 7, 1, 4, 5, 1 }, { 6, 3, 5, 3, 2 }, { 5, 2, 3, 3, 7 }, { 4, 1, 1, 1, 1 },
      { 6, 2, 4, 4, 0 } } do
      local n, c, h, w, pad = table.unpack(case)
      local x = (pg.randn(pg.key(i), { n, c, h, w }) * 40):floor():abs() + 1
      local key = pg.key(100 + i)
      for _, dtype in ipairs { "f32", "f64", "u8", "i32", "i64" } do
        for _, flip in ipairs { true, false } do
          local images = x:to(dtype)
          local got = crop_flip(images, key:keys(n), { pad = pad, flip = flip })
          assert.equal(dtype, got.dtype)
          assert.same(crop_slowly(images:totable(), split_keys(key, n), pad, flip), got:totable())
        end
      end
    end
  end)

  it("draws every place and both directions equally often", function()
    local n, pad = 18000, 1
    local seen = {}
    -- one bright pixel in the middle of a 5 x 5 image, another beside it: together they tell the place and the mirror
    local image = pg.tensor { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
    local moved = crop_flip(image:reshape { 1, 1, 5, 5 }:broadcast_to { n, 1, 5, 5 }, pg.key(8):keys(n), { pad = pad })
    local first, second = moved:reshape { n, 25 }:eq(1):to("f32"):argmax(2):totable(),
      moved:reshape { n, 25 }:eq(2):to("f32"):argmax(2):totable()
    for i = 1, n do
      local name = first[i] .. " " .. second[i] - first[i]
      seen[name] = (seen[name] or 0) + 1
    end
    local kinds = 0
    for name, count in pairs(seen) do
      kinds = kinds + 1
      assert(math.abs(count - 1000) < 5 * 1000 ^ 0.5, name .. ": " .. count)
    end
    assert.equal(18, kinds)
  end)

  it("depends on an image's key alone: not on its place, the batch, or the number of threads", function()
    local n = 64
    local x, keys = pg.randn(pg.key(1), { n, 3, 32, 32 }), pg.key(2):keys(n)
    local whole = crop_flip(x, keys)
    local order = pg.permutation(pg.key(3), n)
    assert.equal(whole:take(order):bytes(), crop_flip(x:take(order), keys:take(order)):bytes())
    assert.equal(whole:slice({ 9, 9 }):bytes(), crop_flip(x:slice { 9, 9 }, keys:slice { 9, 9 }):bytes())
    assert.equal(whole:slice({ 9, 9 }):bytes(), crop_flip(x:slice { 9, 9 }, keys:slice({ 9, 9 }):reshape {}):bytes())
    local threads = pg.threads()
    for _, count in ipairs { 1, 2, 3 } do
      pg.set_threads(count)
      assert.equal(whole:bytes(), crop_flip(x, keys):bytes())
      assert.equal(whole:bytes(), pg.jit(function(a, k) return crop_flip(a, k) + 0 end)(x, keys):bytes())
    end
    pg.set_threads(threads)
  end)

  it("has its adjoint as derivative, whose derivative it is again", function()
    local keys = pg.key(5):keys(6)
    local x, y = pg.randn(pg.key(1), { 6, 2, 5, 4 }, "f64"), pg.randn(pg.key(2), { 6, 2, 5, 4 }, "f64")
    local function move(a) return crop_flip(a, keys, { pad = 2 }) end
    local forward, back = pg.vjp(move)(y, x)
    assert.is_true(math.abs(((forward * y):sum() - (x * back):sum()):item()) < 1e-12)
    local there = select(2, pg.jvp(move)(x, y))
    assert.equal(move(x):bytes(), there:bytes())
    -- <y, A x>^2 / 2 has the Hessian (A'y)(A'y)'
    local curved = pg.hvp(function(a) return (move(a) * y):sum():square() / 2 end)(x, x)
    assert(support.difference((back * (back * x):sum()):reshape({ 240 }):totable(), curved:reshape({ 240 }):totable())
      < 1e-12)
  end)

  it("takes the examples' keys from a loss's ctx, in a stream of its own, and is the identity outside training",
    function()
      local x, key = pg.randn(pg.key(1), { 3, 1, 4, 4 }), pg.key(9):keys(3)
      assert.equal(x, crop_flip(x, { key = key }))
      local with_ctx = crop_flip(x, { train = true, key = key })
      assert.are_not.equal(with_ctx:bytes(), crop_flip(x, key):bytes())
      assert.equal(with_ctx:bytes(), crop_flip(x, { train = true, key = pg.key(1), augment_key = key }):bytes())
    end)

  it("says what is wrong", function()
    local x = pg.ones { 2, 1, 4, 4 }
    for pattern, f in pairs {
      ["one key for each image of f32 [2, 1, 4, 4], or one for all, was expected, got key [3]"] =
        function() crop_flip(x, pg.key(1):keys(3)) end,
      ["images [batch, channels, height, width] were expected, got f32 [3]"] =
        function() crop_flip(pg.ones { 3 }, pg.key(1)) end,
      ["ctx, as a loss gets it, or a key was expected second, got 4"] = function() crop_flip(x, 4) end,
      ["needs ctx.key while training"] = function() crop_flip(x, { train = true }) end,
      ["pad is a whole number of at least 0, not 1.5"] = function() crop_flip(x, pg.key(1), { pad = 1.5 }) end,
      ["unknown option 'padding' of pg.augment.crop_flip; did you mean 'pad'?"] =
        function() crop_flip(x, pg.key(1), { padding = 1 }) end,
      ["a tensor was expected"] = function() crop_flip(nil, pg.key(1)) end,
    } do
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
      assert.matches("augment_spec.lua:%d+: ", message)
    end
  end)
end)

-- The convolutional network with dropout and batch norm, on augmented images, which the loss returns as well.
local function augmented_problem(dtype)
  return normed.problem {
    dtype = dtype, convolutional = true,
    loss = function(net, theta, batch, ctx)
      local x = crop_flip(batch.x, ctx, { pad = 2 })
      local d = net(theta, x, ctx) - batch.y
      return (d * d):mean(), x
    end,
  }
end

local function start(p, opt) return opt:init(p.theta0(), core.key(3), p.buffers0()) end

-- The images that the step's loss saw.
local function step(p, opt, st, k)
  local _, info = opt:step(st, p.evaluator, p.part(k))
  return info.aux[1]:bytes()
end

describe("augmentation under SVRG", function()
  it("T2: at the snapshot the difference of the two evaluations is 0, bit for bit", function()
    local difference = pg.correction.define {
      name = "difference",
      refresh = function(s, ctx) s.at = ctx.q:clone() end,
      correct = function(s, ctx) return ctx:evaluate(ctx.q) - ctx:evaluate(s.at) end,
    }
    for _, dtype in ipairs { "f32", "f64" } do
      local p = augmented_problem(dtype)
      local opt = pg.optimizer { correction = difference { every = 100 }, rule = watch { "g" } }
      local st = start(p, opt)
      for k = 0, 4 do
        step(p, opt, st, k)
        local seen = st.rule.seen_g:bytes()
        assert.equal(("\0"):rep(#seen), seen)
      end
    end
  end)

  it("the pass sees what the steps see: at the snapshot their gradients average to the pass's", function()
    local p = augmented_problem()
    local plain = pg.correction.define {
      name = "paired", refresh = function(s, ctx) s.mean = ctx:full(ctx.q) end,
      correct = function(s, ctx) return ctx:evaluate(ctx.q) + 0 * s.mean end,
    }
    local opt = pg.optimizer { correction = plain { every = 100 }, rule = watch { "g" } }
    local st, mean = start(p, opt), 0
    for k = 0, p.parts - 1 do
      step(p, opt, st, k)
      mean = mean + p.part(k).x.shape[1] / p.n * st.rule.seen_g
    end
    local full = st.memory.values.mean.g
    assert(support.difference(mean:totable(), full:totable()) < 1e-12)
    assert(full:norm():item() > 0.01)
  end)

  it("an example keeps its image through a segment, whatever alpha and batch; segments and epochs differ", function()
    local p = augmented_problem("f32")
    local function images(alpha)
      local opt = pg.optimizer { correction = pg.correction.svrg { every = 6, alpha = alpha },
        rule = pg.rule.sgd { lr = 0.01 } }
      local st, seen = start(p, opt), {}
      for k = 0, 11 do seen[k] = step(p, opt, st, k) end
      return seen
    end
    local strong, weak = images(1), images(0.3)
    for k = 0, 11 do assert.equal(strong[k], weak[k]) end
    assert.equal(strong[0], strong[3]) -- the same batch, later in the segment
    assert.are_not.equal(strong[0], strong[6])
  end)

  it("the keys are those of the documentation: run, stream, epoch or segment, example", function()
    local p, streams = augmented_problem("f32"), evaluation.streams
    for stream, correction in pairs { epoch = false, segment = pg.correction.svrg { every = 100 } } do
      local opt = pg.optimizer { correction = correction or nil, rule = pg.rule.sgd { lr = 0.01 } }
      local st = start(p, opt)
      for k = 0, 5 do
        local batch = p.part(k)
        local number = stream == "epoch" and k // p.parts or 1
        local key = evaluation.fold(core.key(3), streams.example, streams[stream], number, batch.id)
        assert.equal(crop_flip(batch.x, { train = true, key = key }, { pad = 2 }):bytes(), step(p, opt, st, k))
      end
    end
  end)

  it("two epochs of plain steps see different crops, two runs of one key the same", function()
    local p = augmented_problem("f32")
    local function run()
      local opt, seen = pg.optimizer { rule = pg.rule.sgd { lr = 0.01 } }, {}
      local st = start(p, opt)
      for k = 0, 2 * p.parts - 1 do seen[k] = step(p, opt, st, k) end
      return seen
    end
    local one, other = run(), run()
    for k = 0, p.parts - 1 do
      assert.equal(one[k], other[k])
      assert.are_not.equal(one[k], one[k + p.parts])
    end
  end)
end)
