-- Facts about LeNet-5: from the same weights and batches its first losses under SGD with momentum are PyTorch's, in
-- both of its forms. tests/golden/make_lenet.py says what weights and batches are.
local golden = require "golden"
local support = require "support"
local pg, core = support.pg, support.core
local data = dofile "tests/golden/lenet.lua"
local nn = pg.nn

local SIDE, SQUARE = 28, 4

local function lenet(form)
  local tanh = form == "tanh"
  local activation, pool = tanh and nn.tanh or nn.relu, tanh and nn.avg_pool2d or nn.max_pool2d
  return nn.sequential {
    nn.conv2d(1, 6, 5, { pad = 2 }), activation(), pool(2), nn.conv2d(6, 16, 5), activation(), pool(2), nn.flatten(),
    nn.linear(400, 120), activation(), nn.linear(120, 84), activation(), nn.linear(84, 10),
  }
end

-- The weights; a linear layer's is [in, out] here and [out, in] there.
local function weights(model, dtype)
  local theta = core.vector(model.layout, dtype)
  for i = 1, #model.layout do
    local segment = model.layout[i]
    local list, unit = golden.mix(i - 1, segment.size), 2.0 ^ -(10 + data.scales[(i + 1) // 2])
    for k, word in ipairs(list) do list[k] = ((word >> 21) - 1024) * unit end
    local rows, columns = segment.shape[1], segment.shape[2]
    local value = #segment.shape == 2 and core.tensor(dtype, { columns, rows }, list):t()
      or core.tensor(dtype, segment.shape, list)
    theta:segment_set(i, value)
  end
  return theta
end

-- The ten pictures: lists of one byte for each square.
local pictures = {}
for label = 0, 9 do
  local list = golden.mix(200 + label, (SIDE // SQUARE) ^ 2 // 1 | 0)
  for i, word in ipairs(list) do list[i] = word >> 24 end
  pictures[label] = list
end

local function batch(step, dtype)
  local n, words = data.batch, golden.mix(100, (step + 1) * data.batch)
  local labels, pixels, k = {}, golden.mix(1000 + step, n * SIDE * SIDE), 0
  for row = 1, n do
    labels[row] = words[step * n + row] % 10
    local picture = pictures[labels[row]]
    for y = 0, SIDE - 1 do
      for x = 0, SIDE - 1 do
        k = k + 1
        pixels[k] = (picture[y // SQUARE * (SIDE // SQUARE) + x // SQUARE + 1] + (pixels[k] >> 24) - 256) / 128
      end
    end
  end
  return { x = core.tensor(dtype, { n, 1, SIDE, SIDE }, pixels), y = core.tensor("u8", { n }, labels) }
end

local function losses(form, dtype)
  local model = lenet(form)
  local optimizer = pg.optim.sgd { lr = data.lr, momentum = data.momentum }
  local evaluator = pg.evaluator {
    model = model,
    loss = function(net, theta, b, ctx) return pg.cross_entropy(net(theta, b.x, ctx), b.y) end,
  }
  local state, out = optimizer:init(weights(model, dtype), pg.key(1)), {}
  for step = 1, data.steps do
    local _, info = optimizer:step(state, evaluator, batch(step - 1, dtype))
    out[step] = info.loss
  end
  return out
end

describe("LeNet's first losses", function()
  for _, form in ipairs(data.forms) do
    for dtype, tolerance in pairs { f64 = 1e-12, f32 = 1e-5 } do
      it(("%s, %s"):format(form.form, dtype), function()
        for step, loss in ipairs(losses(form.form, dtype)) do
          local want = form[dtype][step]
          local d = math.abs(loss - want) / want
          assert(d <= tolerance, ("step %d: %.15g, PyTorch %.15g: off by %.2g"):format(step, loss, want, d))
        end
      end)
    end
  end
end)
