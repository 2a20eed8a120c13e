-- networks.lua: the networks that several recipes train. For recipes: local networks = require "parts.networks".

local pg = require "perigee"

local networks = {}

-- LeNet-5 for images of 28 x 28 and ten classes, 61,706 parameters (LeCun et al. 1998, without the sparse connections
-- of its second layer and the Gaussian ones of its last). form: "tanh", with average-pooling, or "relu", with
-- max-pooling.
function networks.lenet(form)
  local activation, pool = pg.nn.tanh, pg.nn.avg_pool2d
  if form == "relu" then activation, pool = pg.nn.relu, pg.nn.max_pool2d end
  return pg.nn.sequential {
    pg.nn.conv2d(1, 6, 5, { pad = 2 }), activation(), pool(2),
    pg.nn.conv2d(6, 16, 5), activation(), pool(2),
    pg.nn.flatten(),
    pg.nn.linear(400, 120), activation(),
    pg.nn.linear(120, 84), activation(),
    pg.nn.linear(84, 10),
  }
end

-- ConvMixer-width/depth (Trockman and Kolter 2022, arXiv 2201.09792): the image in patches, then `depth` times a mixing
-- of places, depthwise and around which the input goes, and one of channels; GELU and batch norm after each.
--   given: { channels = 3, classes =, width =, depth =, kernel = 5, patch = 2 }
-- ConvMixer-256/8 with kernel 5, patches of 2 and 100 classes has 617,316 parameters.
function networks.conv_mixer(given)
  local width, kernel, patch = given.width, given.kernel or 5, given.patch or 2
  local function after(convolution) return { convolution, pg.nn.gelu(), pg.nn.batch_norm(width) } end
  local layers = { after(pg.nn.conv2d(given.channels or 3, width, patch, { stride = patch })) }
  for _ = 1, given.depth do
    layers[#layers + 1] = pg.nn.residual(after(pg.nn.conv2d(width, width, kernel, { pad = "same", groups = width })))
    layers[#layers + 1] = after(pg.nn.conv2d(width, width, 1))
  end
  layers[#layers + 1] = { pg.nn.global_avg_pool(), pg.nn.flatten(), pg.nn.linear(width, given.classes) }
  return pg.nn.sequential(layers)
end

return networks
