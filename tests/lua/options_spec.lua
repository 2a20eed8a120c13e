-- Facts about pg.options: what the command line may set, and what it says about mistakes.
local options = require "perigee.options"

local function resolve(defaults, ...)
  return options.resolve(defaults, assert(options.split { ... }))
end

describe("the nearest word", function()
  local known = { "lr", "momentum", "batch", "epochs", "relu", "weight_decay" }

  it("is one or two edits away, neighbours swapped counting as one", function()
    for word, meant in pairs { lrr = "lr", momentun = "momentum", rleu = "relu", epoch = "epochs", Batch = "batch",
      weigth_deacy = "weight_decay" } do
      assert.equal(meant, options.nearest(word, known), word)
    end
  end)

  it("begins like the word, or the word like it", function()
    assert.equal("batch", options.nearest("batch_size", known))
    assert.equal("weight_decay", options.nearest("weight", known))
  end)

  it("is nothing for words that are only short", function()
    for _, word in ipairs { "x", "foo", "tau", "seed", "clip" } do assert.is_nil(options.nearest(word, known), word) end
  end)
end)

describe("pg.options", function()
  local defaults = { lr = 0.1, epochs = 10, nesterov = false, method = { "svrg", "ivon" }, data = "a9a" }

  it("gives the defaults, of a list the first", function()
    assert.same({ lr = 0.1, epochs = 10, nesterov = false, method = "svrg", data = "a9a" }, resolve(defaults))
  end)

  it("reads values by the type of their default", function()
    local o = resolve(defaults, "lr=2e-3", "epochs=20", "nesterov=true", "method=ivon", "data=x=y")
    assert.same({ lr = 0.002, epochs = 20, nesterov = true, method = "ivon", data = "x=y" }, o)
    assert.equal("integer", math.type(o.epochs))
  end)

  it("keeps a count a count when it is written as 1e3", function()
    assert.equal("integer", math.type(resolve(defaults, "epochs=1e3").epochs))
    assert.equal(0.5, resolve(defaults, "epochs=0.5").epochs)
  end)

  it("takes numbers as people write them and no others", function()
    for _, text in ipairs { "0x10", " 1", "1 ", "1e", "e5", "", "nan", "inf", "1e999", "1_000", "--1", "1.2.3" } do
      local o, message = resolve(defaults, "lr=" .. text)
      assert.is_nil(o, text)
      assert.matches("option lr=", message, 1, true)
    end
    for text, value in pairs { ["+1"] = 1, ["-.5"] = -0.5, ["1."] = 1, ["1E2"] = 100, ["007"] = 7 } do
      assert.equal(value, resolve(defaults, "lr=" .. text).lr)
    end
  end)

  it("takes true and false for a switch and nothing else", function()
    for _, text in ipairs { "1", "yes", "TRUE", "" } do assert.is_nil(resolve(defaults, "nesterov=" .. text)) end
  end)

  it("refuses what is not among the choices, and lists them", function()
    local _, message = resolve(defaults, "method=adam")
    assert.matches("one of svrg, ivon", message, 1, true)
  end)

  it("names the nearest known option, and all", function()
    local _, message = resolve(defaults, "epoch=3")
    assert.matches('did you mean "epochs"?', message, 1, true)
    assert.matches("data, epochs, lr, method, nesterov", message, 1, true)
    _, message = resolve(defaults, "zzzzzzzz=3")
    assert.not_matches("did you mean", message, 1, true)
  end)

  it("refuses an option given twice", function()
    assert.is_nil(resolve(defaults, "lr=1", "lr=2"))
  end)

  it("refuses words that are not key=value", function()
    assert.is_nil(options.split { "lr" })
    assert.is_nil(options.split { "=3" })
    assert.is_nil(options.split { "a-b=3" })
  end)

  it("raises a usage error in a recipe, and knows which words nobody asked for", function()
    options.begin { { "lrr", "1" } }
    local ok, raised = pcall(options.options, { lr = 1 })
    assert.is_false(ok)
    assert.matches('did you mean "lr"', raised.usage, 1, true)
    assert.matches("this recipe has none", options.unused(), 1, true)
    options.begin {}
    assert.is_nil(options.unused())
  end)
end)
