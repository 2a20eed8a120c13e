-- Facts about what locking is for: on a network with one hidden layer, dropout and images that are moved at random, the
-- variance that SVRG leaves at a distance r from its snapshot, as a share of the plain gradients'. With everything
-- locked it falls to 0 with r; randomness that the two gradients of a step do not share is a floor.
local support = require "support"
local pg = support.pg

local N, SIDE, BATCH = 96, 8, 8
local DISTANCES = { 0, 1, 3, 10 }

local key = pg.key(20)
-- images of four even squares, so that moving one by a pixel changes it in part
local images = (pg.randn(key:fold "x", { N, 1, 2, 1, 2, 1 }, "f64") + pg.zeros({ N, 1, 2, 4, 2, 4 }, "f64")):reshape {
  N, 1, SIDE, SIDE }
local labels = images:reshape { N, SIDE * SIDE }:matmul(pg.randn(key:fold "w", { SIDE * SIDE, 4 }, "f64")):argmax(-1)
local split = pg.data.from { x = images, y = labels }
local model = pg.nn.sequential {
  pg.nn.flatten(), pg.nn.linear(SIDE * SIDE, 32), pg.nn.tanh(), pg.nn.dropout(0.15), pg.nn.linear(32, 4),
}

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, pg.augment.crop_flip(batch.x, ctx, { pad = 1, flip = false }), ctx), batch.y)
end

-- By distance, for a correction that locks what `lock` says: the share of variance that is left, that without the bias,
-- and the bias.
local function measure(lock)
  local source = pg.sampler.shuffled(split, BATCH, key:fold "order", { dtype = "f64" })
  local opt = pg.optimizer { rule = pg.rule.sgd { lr = 0 }, dtype = "f64",
    correction = pg.correction.svrg { every = 1000, lock = lock } }
  local evaluator = pg.evaluator { loss = loss, model = model, source = source, key = key:fold "run", batch = BATCH,
    steps_per_epoch = N // BATCH }
  local st = opt:init(model:init(key:fold "theta", "f64"))
  opt:step(st, evaluator, (source:at(0))) -- takes the snapshot, and stays there
  local snapshot, direction = st.theta:copy(), pg.randn(key:fold "direction", model.layout, "f64")
  direction = direction / direction:norm()
  local ratios, spreads, biases = {}, {}, {}
  for i, r in ipairs(DISTANCES) do
    st.theta:copy_from(snapshot + r * direction)
    local found = pg.probe.variance { optimizer = opt, state = st, evaluator = evaluator }
    assert(math.abs(found.distance - r) < 1e-12 and found.batches == N // BATCH)
    ratios[i], spreads[i], biases[i] = found.ratio, found.g.spread / found.g.plain, found.g.bias
  end
  return ratios, spreads, biases
end

describe("the variance that SVRG leaves near its snapshot", function()
  local locked, spread = measure {}
  local dropout = measure { dropout = false }
  local augment = measure { augment = false }
  local both = measure { dropout = false, augment = false }

  it("is 0 at it and grows with the distance, with everything locked", function()
    assert.equal(0, spread[1])
    assert(locked[1] < 1e-25, locked[1])
    for i = 2, #DISTANCES do assert(locked[i] > locked[i - 1]) end
    assert(locked[2] < 0.1 and locked[4] > 0.3, table.concat(locked, " "))
  end)

  it("has a floor where dropout or augmentation are drawn apart, and a higher one for both", function()
    for i, r in ipairs(DISTANCES) do
      local text = ("r = %g: %.3g %.3g %.3g %.3g"):format(r, locked[i], dropout[i], augment[i], both[i])
      assert(locked[i] < dropout[i] and locked[i] < augment[i], text)
      assert(r > 3 or dropout[i] < both[i] and augment[i] < both[i], text)
    end
    assert(dropout[1] > 0.1 and augment[1] > 0.1)
  end)

  it("has another leak where only the pass is drawn apart: one offset for the whole segment, and no spread", function()
    local ratios, spreads, biases = measure { dropout = "step", augment = "step" }
    for i = 1, #DISTANCES do
      assert(math.abs(spreads[i] - spread[i]) < 1e-12)
      assert(math.abs(biases[i] - biases[1]) < 1e-12)
    end
    assert(ratios[1] > 0.01, table.concat(ratios, " "))
  end)
end)
