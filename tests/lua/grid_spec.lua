-- Facts about combinations of values: pg.grid, and what a command line means by lists and ranges.
local pg = require "perigee"
local grid = require "perigee.grid"

describe("pg.grid", function()
  it("gives every combination once, names sorted, the last one fastest", function()
    local seen = {}
    for o in pg.grid { seed = { 2, 1 }, lr = { 0.1, 0.3, 1 }, method = "sgd" } do
      seen[#seen + 1] = ("%g %s %d"):format(o.lr, o.method, o.seed)
    end
    assert.same({ "0.1 sgd 2", "0.1 sgd 1", "0.3 sgd 2", "0.3 sgd 1", "1 sgd 2", "1 sgd 1" }, seen)
  end)

  it("names a combination so that it can name a run", function()
    local texts = {}
    for o in pg.grid { lr = { 0.1 }, on = { true, false }, data = "a b/c" } do
      texts[#texts + 1] = tostring(o)
      assert.matches("^[%w_][%w_%.%-]*$", texts[#texts])
    end
    assert.same({ "dataa_b_c-lr0.1-ontrue", "dataa_b_c-lr0.1-onfalse" }, texts)
  end)

  it("of nothing is one empty combination; a list without values and what is no table are errors", function()
    local count = 0
    for _ in pg.grid {} do count = count + 1 end
    assert.equal(1, count)
    local ok, message = pcall(pg.grid, { lr = {} })
    assert.is_false(ok)
    assert.matches("pg.grid: lr has no values", message, 1, true)
    ok, message = pcall(pg.grid, { 1, 2 })
    assert.is_false(ok)
    assert.matches("pg.grid takes lists by name", message, 1, true)
  end)
end)

describe("a list on the command line", function()
  local DEFAULTS = { lr = 0.1, seed = 1, title = "x", method = { "sgd", "svrg" } }

  -- The combinations of words as texts, or what is said against them.
  local function expand(...)
    local words = {}
    for i, text in ipairs { ... } do words[i] = { text:match("^(.-)=(.*)$") } end
    local ok, found = pcall(grid.expand, words, DEFAULTS)
    if not ok then return tostring(found) end
    local texts = {}
    for i, combination in ipairs(found) do
      local parts = {}
      for j, word in ipairs(combination) do parts[j] = word[1] .. "=" .. word[2] end
      texts[i] = table.concat(parts, " ")
    end
    return texts
  end

  it("goes where options go", function()
    for h in pg.grid { k = { 0.1 }, c = { 2 } } do assert.equal(0.1, pg.correction.storm(h).hyper.given.k) end
  end)

  it("is split at commas, a range counted through, the last word fastest", function()
    assert.same({ "lr=0.1 seed=1", "lr=0.1 seed=2", "lr=0.1 seed=7", "lr=3 seed=1", "lr=3 seed=2", "lr=3 seed=7" },
      expand("lr=0.1,3", "seed=1..2,7"))
    assert.same({ "seed=-1", "seed=0" }, expand("seed=-1..0"))
    assert.same({ "method=svrg", "method=sgd" }, expand("method={svrg,sgd}"))
  end)

  it("is none in a string, unless it stands in braces", function()
    assert.same({ "title=a,b" }, expand("title=a,b"))
    assert.same({ "title=1..3" }, expand("title=1..3"))
    assert.same({ "title=a", "title={b,c}", "title=d" }, expand("title={a,{b,c},d}"))
    assert.same({ "title={b,c}" }, expand("title={{b,c}}"))
  end)

  it("is checked as a whole before anything runs", function()
    assert.equal("option lr=fast: expected a number", expand("lr=0.1,fast"))
    assert.equal("option seed: 5..1 is no range, as 1..5", expand("seed=5..1"))
    assert.equal('unknown option sed; did you mean "seed"? (options: lr, method, seed, title)', expand("sed=1,2"))
    assert.equal("1000000 combinations are more than 10000", expand("lr=1..1000", "seed=1..1000"))
  end)
end)
