-- Facts about checkpoints: everything returns, to the last bit, and nothing broken is taken for whole.
local pg = require "perigee"
local core = require "perigee.core"
local checkpoint = require "perigee.checkpoint"
local files = require "files"

local function bytes_of(path) return assert(files.read(path)) end

describe("checkpoint", function()
  local path = os.tmpname()

  teardown(function() os.remove(path) end)

  local function make_tree()
    local layout = core.layout { { "a", { 3, 5 } }, { "b/c", { 7 } } }
    local vector = core.vector(layout, "f64")
    for i = 0, 2 do vector:data_write(i, i + 0.1) end
    return {
      w = pg.randn(pg.key(1), { 4, 3 }), v = vector, key = pg.key(9), half = core.tensor("f64", {}, { 0.5 }),
      labels = core.tensor("i64", { 3 }, { 1, -2, 2 ^ 40 }), bytes = core.tensor("u8", { 2 }, { 7, 255 }),
      name = "a \"name\"\nwith lines", raw = "\0\255", yes = true, no = false,
      list = { 1.5, 2, { deep = "x" } }, empty = {}, ["odd/key~"] = { ["#1"] = 3, [1] = 4 },
      numbers = { third = 1 / 3, big = 2 ^ 62 // 1 | 0, whole = 2.0, minus = -0.0, tiny = 5e-324, inf = math.huge,
        below = -math.huge },
    }
  end

  it("gives back every leaf with its type and its bits", function()
    local tree = make_tree()
    checkpoint.save(path, tree, { step = "7" })
    local saved = assert(checkpoint.load(path))
    assert.equal("7", saved.info.step)
    assert.equal(checkpoint.hash(tree), checkpoint.hash(saved.tree))
    local got = saved.tree
    for _, name in ipairs { "w", "v", "key", "half", "labels", "bytes" } do
      assert.equal(tree[name].dtype, got[name].dtype)
      assert.same(tree[name].shape, got[name].shape)
      assert.equal(tree[name]:bytes(), got[name]:bytes())
    end
    assert.equal("b/c", got.v.layout[2].name)
    assert.equal(tree.name, got.name)
    assert.equal(tree.raw, got.raw)
    assert.is_true(got.yes)
    assert.is_false(got.no)
    assert.same(tree.list, got.list)
    assert.same({}, got.empty)
    assert.same(tree["odd/key~"], got["odd/key~"])
    assert.equal("integer", math.type(got.list[2]))
    assert.equal("float", math.type(got.numbers.whole))
    assert.same(tree.numbers, got.numbers)
    assert.equal(-math.huge, 1 / got.numbers.minus)
  end)

  it("restores into tensors that are there, in place, and removes what was not saved", function()
    local tree = make_tree()
    checkpoint.save(path, tree, {})
    local other = make_tree()
    local w = other.w
    w:from_bytes(pg.zeros({ 4, 3 }):bytes())
    other.numbers.third, other.extra, other.list[3].deep = 0, 5, "y"
    checkpoint.restore(other, assert(checkpoint.load(path)).tree)
    assert.equal(w, other.w)
    assert.equal(tree.w:bytes(), w:bytes())
    assert.is_nil(other.extra)
    assert.equal("x", other.list[3].deep)
    assert.equal(checkpoint.hash(tree), checkpoint.hash(other))
  end)

  it("writes the same bytes for the same state", function()
    checkpoint.save(path, make_tree(), { step = "1" })
    local first = bytes_of(path)
    checkpoint.save(path, make_tree(), { step = "1" })
    assert.is_true(first == bytes_of(path))
  end)

  it("hashes differ when any bit, number, string or name differs", function()
    local seen = {}
    local function add(change)
      local tree = make_tree()
      change(tree)
      local hash = checkpoint.hash(tree)
      assert.is_nil(seen[hash])
      seen[hash] = true
    end
    add(function() end)
    add(function(t) t.v:data_write(1, 1.1000000000000003) end)
    add(function(t) t.numbers.minus = 0.0 end)
    add(function(t) t.numbers.whole = 2 end)
    add(function(t) t.no = nil end)
    add(function(t) t.name, t.nom = nil, t.name end)
    add(function(t) t.empty.x = {} end)
  end)

  it("refuses a file cut short anywhere, and one with any byte changed", function()
    checkpoint.save(path, make_tree(), { step = "1" })
    local whole = bytes_of(path)
    for cut = 0, #whole - 1, 37 do
      files.write(path, whole:sub(1, cut))
      local saved, message = checkpoint.load(path)
      assert.is_nil(saved, cut)
      assert.matches(path, message, 1, true)
    end
    for at = 1, #whole, 29 do
      local changed = string.char(whole:byte(at) ~ 1)
      files.write(path, whole:sub(1, at - 1) .. changed .. whole:sub(at + 1))
      assert.is_nil(checkpoint.load(path), ("byte %d changed and nobody noticed"):format(at))
    end
    files.write(path, whole)
    assert.is_truthy(checkpoint.load(path))
  end)

  it("says which part of a state cannot be saved", function()
    local function refused(tree, pattern)
      local ok, message = pcall(checkpoint.save, path, tree, {})
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refused({ a = { f = print } }, "state a/f: a function cannot be saved")
    refused({ [1.5] = 1 }, "number cannot be a key")
    local loop = {}
    loop.self = loop
    refused(loop, "contains itself")
  end)

  it("saves values that save themselves, as an optimizer's state", function()
    local model = pg.nn.sequential { pg.nn.linear(3, 2) }
    local opt = pg.optim.ivon { lr = 0.1, ess = 10 }
    local st = opt:init(model:init(pg.key(1)), pg.key(2))
    st.step = 5
    checkpoint.save(path, { optimizer = st }, {})
    local other = opt:init(model:init(pg.key(3)), pg.key(2))
    checkpoint.restore({ optimizer = other }, assert(checkpoint.load(path)).tree)
    assert.equal(5, other.step)
    assert.equal(st.theta:bytes(), other.theta:bytes())
  end)
end)
