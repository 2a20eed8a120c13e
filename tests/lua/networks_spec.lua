-- Facts about recipes/parts/networks.lua: the networks are those of their papers, by their numbers of parameters and
-- what a batch of images becomes.
local pg = require("support").pg
local networks = dofile "recipes/parts/networks.lua"

describe("the networks of recipes", function()
  it("are LeNet-5 with 61,706 parameters, in both forms", function()
    for _, form in ipairs { "tanh", "relu" } do
      local model = networks.lenet(form)
      assert.equal(61706, model.layout.size)
      assert.same({ 2, 10 }, model(model:init(pg.key(1)), pg.zeros { 2, 1, 28, 28 }).shape)
    end
  end)

  it("are ConvMixer-256/8 with the 617,316 parameters of the VSGD paper", function()
    assert.equal(617316, networks.conv_mixer { classes = 100, width = 256, depth = 8 }.layout.size)
  end)

  it("mix patches: every place of the image reaches every output, and gradients every parameter", function()
    local model = networks.conv_mixer { channels = 1, classes = 5, width = 4, depth = 2, kernel = 3, patch = 2 }
    local theta, x = model:init(pg.key(1), "f64"), pg.randn(pg.key(2), { 3, 1, 8, 8 }, "f64")
    assert.same({ 3, 5 }, model(theta, x, { train = true }).shape)
    local function loss(t, images) return model(t, images, { train = true }):square():sum() end
    local by_theta, by_x = pg.grad(loss, { wrt = { 1, 2 } })(theta, x)
    assert.is_true(by_x:abs():min():item() > 0)
    for i = 1, #model.layout do
      local name = model.layout[i].name
      assert.is_true(by_theta[name]:abs():max():item() > 0, name)
    end
  end)
end)
