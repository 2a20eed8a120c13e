-- Facts about names that are not there: what is said of unknown options and fields.
local names = require "perigee.names"
local pg = require "perigee"

local function message_of(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return message
end

describe("names", function()
  it("translates words of other frameworks where ours is known", function()
    assert.equal("lr", names.meant("learning_rate", { "lr", "momentum" }))
    assert.equal("every", names.meant("step_size", { "every", "factor" }))
    assert.is_nil(names.meant("learning_rate", { "momentum" }))
  end)

  it("lists what is known where nothing is near, unless that is long", function()
    assert.equal("unknown option 'foo' of x (known: lr, momentum)",
      names.unknown("option", "foo", "x", { "lr", "momentum" }))
    local many = {}
    for i = 1, 30 do many[i] = "quantity" .. i end
    assert.equal("unknown option 'foo' of pg.x (?pg.x at the prompt lists them)",
      names.unknown("option", "foo", "pg.x", many))
  end)

  it("refuses what is no table of options: numbers, lists, objects", function()
    local function check(given) names.check("pg.x", given, { "lr" }) end
    check {}
    check { lr = 1 }
    assert.matches("takes a table of options, not 0.1", message_of(check, 0.1), 1, true)
    assert.matches("takes a table of options, not a tensor f32 [2]", message_of(check, pg.zeros { 2 }), 1, true)
    assert.matches("entry 1 is 0.1 without one", message_of(check, { 0.1 }), 1, true)
    assert.matches("takes a table of options, not a rule", message_of(check, pg.rule.sgd {}), 1, true)
  end)

  it("guards tables: a field that is there, or may be missing, is read as ever", function()
    local t = names.guard({ first = 1 }, "t", { lacks = { second = true }, elsewhere = function(name)
      return name == "third" and "u.third" or nil
    end })
    assert.equal(1, t.first)
    assert.is_nil(t.second)
    assert.is_nil(t[1])
    assert.matches("t has no 'frist'; did you mean t.first?", message_of(function() return t.frist end), 1, true)
    assert.matches("t has no 'third'; did you mean u.third?", message_of(function() return t.third end), 1, true)
  end)

  it("keeps an __index that is there", function()
    local t = names.guard(setmetatable({}, { __index = { inner = 2 } }), "t")
    assert.equal(2, t.inner)
    assert.matches("t has no 'x'", message_of(function() return t.x end), 1, true)
  end)

  it("describes values", function()
    for value, text in pairs { [0.5] = "0.5", [true] = "true", sgd = '"sgd"', [{}] = "a table" } do
      assert.equal(text, names.describe(value))
    end
    assert.equal("nothing", names.describe(nil))
    assert.equal("a module", names.describe(pg.nn.relu()))
    assert.equal("an optimizer", names.describe(pg.optim.sgd {}))
  end)
end)
