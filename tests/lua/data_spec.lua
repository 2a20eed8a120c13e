-- Facts about core.data and pg.data: JSON, files and logs, formats through Lua, data sets: real ones against what is
-- known of them, generated ones against what went in.
local pg = require "perigee"
local core = require "perigee.core"
local files = core.data

local SHARED = "../shared/data"
local FASHION = "/usr/share/datasets/fashion-mnist"

local scratch

setup(function()
  scratch = os.tmpname()
  os.remove(scratch)
  files.mkdir(scratch)
end)

teardown(function()
  for _, name in ipairs(files.list(scratch)) do files.remove(scratch .. "/" .. name) end
  files.remove(scratch)
end)

local function path_of(name) return scratch .. "/" .. name end

local function write(name, text)
  files.write_file_atomic(path_of(name), text)
  return path_of(name)
end

local function fails_naming(text, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.is_truthy(tostring(message):find(text, 1, true), ("'%s' is not in '%s'"):format(text, tostring(message)))
end

local function need(path)
  if not files.exists(path) then pending(path .. " is not here") end
  return files.exists(path)
end

describe("json", function()
  it("sorts keys and keeps integers and floats apart", function()
    local text = files.json_encode { b = { c = {} }, a = { 1, 2.0, true, "x" } }
    assert.are.equal('{"a":[1,2.0,true,"x"],"b":{"c":{}}}', text)
    local back = files.json_decode '{"i":1,"f":1.0,"big":9223372036854775807,"e":[]}'
    assert.are.equal("integer", math.type(back.i))
    assert.are.equal("float", math.type(back.f))
    assert.are.equal(math.maxinteger, back.big)
    assert.are.equal("[]", files.json_encode(back.e))
  end)

  it("gives every double back to the bit", function()
    for _, x in ipairs { 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0 ^ 53 + 1, math.pi } do
      local back = files.json_decode(files.json_encode { x })[1]
      assert.are.equal(string.pack("d", x), string.pack("d", back))
    end
  end)

  it("writes what JSON lacks as strings", function()
    assert.are.equal('["nan","inf","-inf"]', files.json_encode { 0 / 0, math.huge, -math.huge })
    assert.are.equal("0.10000000000000001", files.json_number(0.1))
  end)

  it("keeps null apart from nothing", function()
    assert.are.equal(files.null, files.json_decode("[null]")[1])
    assert.are.equal('{"a":null}', files.json_encode { a = files.null })
  end)

  it("refuses what has no JSON, and circles", function()
    local circle = {}
    circle[1] = circle
    local all = { { print }, { 1, 2, x = 3 }, { [1.5] = 1 }, { 1, nil, 3 }, { "\xff" }, circle, { [true] = 1 } }
    for _, bad in ipairs(all) do
      assert.is_false((pcall(files.json_encode, bad)))
    end
  end)

  it("refuses broken text and names it", function()
    for _, bad in ipairs { "", "{", '{"a":1,"a":2}', "[1,]", "1 2", ("["):rep(101), "nan" } do
      fails_naming("metrics.jsonl", files.json_decode, bad, "metrics.jsonl")
    end
  end)
end)

describe("files", function()
  it("are replaced whole and leave nothing beside them", function()
    local path = write("a", "old")
    files.write_file_atomic(path, "new\0bytes")
    assert.are.equal("new\0bytes", files.read_file(path))
    assert.are.same({ "a" }, files.list(scratch))
    fails_naming("no/such", files.write_file_atomic, path_of "no/such", "x")
  end)

  it("have sizes, types and hashes", function()
    local path = write("abc", "abc")
    assert.are.equal(3, files.stat(path).size)
    assert.are.equal("file", files.stat(path).type)
    assert.are.equal("directory", files.stat(scratch).type)
    assert.is_nil(files.stat(path_of "none"))
    local hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert.are.equal(hex, files.sha256_file(path))
    assert.are.equal(hex, files.sha256("a", "bc"))
    assert.are.equal(hex, files.sha256(core.tensor("u8", { 3 }, { 97, 98, 99 })))
  end)

  it("make directories with their parents", function()
    files.mkdir(path_of "x/y/z")
    files.mkdir(path_of "x/y/z")
    assert.are.equal("directory", files.stat(path_of "x/y/z").type)
    for _, name in ipairs { "x/y/z", "x/y", "x" } do assert.is_true(files.remove(path_of(name))) end
    assert.is_false(files.remove(path_of "x"))
    fails_naming("abc", files.mkdir, write("abc", "") .. "/d")
  end)

  it("logs are appended to and cut back", function()
    local path = path_of "log"
    do
      local log <close> = files.open_log(path)
      log:write("one\n")
      log:write("two\n")
      log:sync()
    end
    local log = files.open_log(path)
    log:write("three\n")
    assert.are.equal(14, log:size())
    log:truncate(4)
    log:write("2\n")
    assert.are.equal("one\n2\n", files.read_file(path))
    fails_naming("cannot cut", log.truncate, log, 100)
    log:close()
    log:close()
    fails_naming("closed", log.write, log, "x")
    files.remove(path)
  end)

  it("clocks go forward", function()
    local a = files.clock()
    assert.is_true(files.clock() >= a)
    assert.is_true(math.abs(files.time() - os.time()) < 2)
    assert.is_true(files.pid() > 0 and #files.hostname() > 0)
  end)
end)

describe("formats", function()
  it("npy and safetensors keep tensors to the bit", function()
    local x = core.tensor("f64", { 2, 3 }, { 1, -2, 0.5, 1 / 3, 1e300, 5e-324 })
    local key = core.key(7)
    files.write_npy(path_of "x.npy", x)
    assert.are.equal(x:bytes(), files.read_npy(path_of "x.npy"):bytes())
    files.safetensors_write(path_of "x.safetensors", { { "x", x }, { "key", key } }, { note = "ä" })
    local tensors, metadata, names = files.safetensors_read(path_of "x.safetensors")
    assert.are.same({ "x", "key" }, names)
    assert.are.equal("ä", metadata.note)
    assert.are.equal(x:bytes(), tensors.x:bytes())
    assert.are.equal("key", tensors.key.dtype)
    assert.are.equal(key:bytes(), tensors.key:bytes())
  end)

  it("safetensors can be read one by one, into slots, and say when they are damaged", function()
    local x = core.tensor("f32", { 3 }, { 1, 2, 3 })
    files.safetensors_write(path_of "y.safetensors", { { "x", x } })
    local slot = core.tensor("f32", { 3 })
    do
      local file <close> = files.safetensors_open(path_of "y.safetensors")
      file:verify()
      file:read_into("x", slot)
      assert.are.equal(x:bytes(), slot:bytes())
      fails_naming("no tensor", file.load, file, "z")
      fails_naming("f64", file.read_into, file, "x", core.tensor("f64", { 3 }))
      fails_naming("16", file.read_into, file, "x", core.tensor("f32", { 4 }))
    end
    local bytes = files.read_file(path_of "y.safetensors")
    write("y.safetensors", bytes:sub(1, -2) .. string.char(bytes:byte(-1) ~ 1))
    fails_naming("y.safetensors", files.safetensors_read, path_of "y.safetensors")
  end)

  it("refuse arguments that make no sense", function()
    assert.is_false((pcall(files.safetensors_write, path_of "z", { { 1, 2 } })))
    assert.is_false((pcall(files.safetensors_write, path_of "z", {}, { a = {} })))
    assert.is_false((pcall(files.safetensors_write, path_of "z", { { "a", core.key(1) }, { "a", core.key(1) } })))
    assert.is_false(files.exists(path_of "z"))
    assert.is_false((pcall(files.read_csv, write("c.csv", "1\n"), { delimiter = "ab" })))
    assert.is_false((pcall(files.read_libsvm, write("c.svm", "1 1:1\n"), { dims = -1 })))
    assert.is_false((pcall(files.read_libsvm, path_of "c.svm", { dtype = "i32" })))
    assert.is_false((pcall(files.gather, core.key(1), { 0 }, 3)))
  end)
end)

describe("splits", function()
  local x = core.tensor("f32", { 5, 2 }, { 0, 1, 10, 11, 20, 21, 30, 31, 40, 41 })
  local y = core.tensor("i32", { 5 }, { 0, 1, 2, 3, 4 })

  it("assemble batches by index, with ids", function()
    local split = pg.data.from { x = x, y = y }
    assert.are.equal(5, split.n)
    assert.are.equal(x, split.x)
    local batch = split:batch({ 3, 0, 3 }, nil, "f64")
    assert.are.equal("f64", batch.x.dtype)
    assert.are.same({ 3, 2 }, batch.x.shape)
    local got = {}
    for i = 0, 5 do got[i + 1] = batch.x:data_read(i) end
    assert.are.same({ 30, 31, 0, 1, 30, 31 }, got)
    assert.are.equal("i32", batch.y.dtype)
    assert.are.same({ 3, 0 }, { batch.y:data_read(0), batch.id:data_read(1) })
    fails_naming("outside", split.batch, split, { 5 })
  end)

  it("fill the same tensors again from a place in an order", function()
    local split = pg.data.from { x = x, y = y }
    local staging = split:staging(2)
    local order = core.tensor("i64", { 5 }, { 4, 3, 2, 1, 0 })
    split:fill(staging, order, 3, 2)
    local got = {}
    for i = 0, 3 do got[i + 1] = staging.x:data_read(i) end
    assert.are.same({ 10, 11, 0, 1 }, got)
    assert.are.equal(1, staging.y:data_read(0))
    fails_naming("not within", split.fill, split, staging, order, 4, 2)
  end)

  it("can be cut, and keep the ids of the examples", function()
    local split = pg.data.from { x = x, y = y }
    local part = split:rows(-2, -1)
    assert.are.equal(2, part.n)
    local batch = part:batch { 1 }
    assert.are.same({ 4, 4, 40 }, { batch.y:data_read(0), batch.id:data_read(0), batch.x:data_read(0) })
    assert.are.equal(3, split:take(3).n)
    for _, bad in ipairs { { 0, 1 }, { 4, 3 }, { 1, 6 }, { 1.5, 2 } } do
      assert.is_false((pcall(split.rows, split, bad[1], bad[2])))
    end
  end)

  it("give chosen examples, scaled as before, and fall into folds that hold out each example once", function()
    local split = pg.data.from({ x = x, y = y }, { scale = { x = 0.5 } })
    local chosen = split:select { 3, 1 }
    assert.are.same({ 3, 1 }, chosen:all().id:totable())
    assert.are.same({ { 15, 15.5 }, { 5, 5.5 } }, chosen:all().x:totable())
    assert.are.equal(chosen:hash(), split:select(pg.tensor({ 3, 1 }, "i64")):hash())
    fails_naming("outside", split.select, split, { 5 })
    fails_naming("a list of indices", split.select, split, 3)

    local held, order = {}, {}
    for _, fold in ipairs(split:folds(2, pg.key(4))) do
      assert.are.equal(5, fold.train.n + fold.test.n)
      local seen = {}
      for _, id in ipairs(fold.test:all().id:totable()) do
        assert.is_nil(held[id])
        held[id], seen[id], order[#order + 1] = true, true, id
      end
      for _, id in ipairs(fold.train:all().id:totable()) do assert.is_nil(seen[id]) end
    end
    assert.are.equal(5, #order)
    assert.are.same(pg.permutation(pg.key(4), 5):totable(), order) -- the order is the key's
    fails_naming("folds from 2 to 5", split.folds, split, 6, pg.key(1))
    fails_naming("needs a key", split.folds, split, 2)
  end)

  it("scale as they are gathered", function()
    local pixels = core.tensor("u8", { 2, 2 }, { 0, 51, 255, 1 })
    local split = pg.data.from({ x = pixels, y = core.tensor("i32", { 2 }) }, { scale = { x = 1 / 255 } })
    local all = split:all()
    assert.are.equal("f32", all.x.dtype)
    assert.are.equal(1, all.x:data_read(2))
    assert.are.equal(string.unpack("f", string.pack("f", 1 / 255)), all.x:data_read(3))
  end)

  it("have a hash of their content", function()
    local a, b = pg.data.from { x = x, y = y }, pg.data.from { x = x, y = y }
    assert.are.equal(a:hash(), b:hash())
    assert.are.equal(16, #a:hash())
    local other = core.tensor("f32", { 5, 2 }, { 0, 1, 10, 11, 20, 21, 30, 31, 40, 42 })
    assert.are_not.equal(a:hash(), pg.data.from({ x = other, y = y }):hash())
    assert.are_not.equal(a:hash(), a:take(4):hash())
    assert.are_not.equal(a:hash(), pg.data.from({ x = x, z = y }):hash())
  end)

  it("refuse fields that do not fit", function()
    fails_naming("rows", pg.data.from, { x = x, y = core.tensor("i32", { 4 }) })
    fails_naming("called 'n'", pg.data.from, { n = x })
    fails_naming("option", pg.data.from, { x = x }, { scales = {} })
    fails_naming("no examples", pg.data.from, { x = core.tensor("f32", { 0, 2 }) })
  end)
end)

describe("loading", function()
  it("gives the text of a file", function()
    assert.are.equal("one two\n", pg.data.text(write("words.txt", "one two\n")))
    fails_naming("no-such.txt", pg.data.text, "no-such.txt")
    fails_naming("pg.data.text takes the name", pg.data.text, 3)
  end)

  it("reads LIBSVM with labels, bias and a test part", function()
    local path = write("toy", "2 1:1 3:3\n1 2:2\n")
    write("toy.t", "1 4:1\n")
    local split = pg.data.load(path, { bias = true, labels = "pm1" })
    assert.are.same({ 2, 4 }, split.x.shape)
    assert.are.equal("f64", split.x.dtype)
    assert.are.same({ 1, -1 }, { split.y:data_read(0), split.y:data_read(1) })
    assert.are.equal(1, split.x:data_read(3))
    assert.are.same({ 1, 0 }, { pg.data.load(path).y:data_read(0), pg.data.load(path).y:data_read(1) })
    assert.are.equal(2, pg.data.load(path, { labels = "raw" }).y:data_read(0))
    local both = pg.data.load(path, { test = true, dtype = "f32" })
    assert.are.same({ 2, 4 }, both.train.x.shape)
    assert.are.same({ 1, 4 }, both.test.x.shape)
    assert.are.equal(0, both.test.y:data_read(0))
    write("toy.t", "7 4:1\n")
    fails_naming("label 7", pg.data.load, path, { test = true })
    fails_naming("labels", pg.data.load, path, { labels = "both" })
    fails_naming("toy3", pg.data.load, write("toy3", "1 1:1\n2 1:1\n3 1:1\n"), { labels = "pm1" })
    assert.are.equal("i32", pg.data.load(path_of "toy3").y.dtype)
  end)

  it("keeps wide data sparse and gathers it dense", function()
    local split = pg.data.load(write("wide", "1 1:5 1000000:7\n-1 2:3\n"))
    assert.is_true(files.is_sparse(split.x))
    assert.are.equal(1000000, split.x.columns)
    local batch = split:batch { 0 }
    assert.are.same({ 5, 0, 7 }, { batch.x:data_read(0), batch.x:data_read(1), batch.x:data_read(999999) })
    assert.are.equal(16, #split:hash())
    assert.are.equal(3, split:rows(2, 2):batch({ 0 }).x:data_read(1))
    fails_naming("sparse", split.select, split, { 0 })
  end)

  it("reads CSV with a target by name or number", function()
    local path = write("t.csv", "a,price,b\n1,2,3\n4,5,6\n")
    local split = pg.data.load(path, { target = "price" })
    assert.are.same({ 2, 2 }, split.x.shape)
    assert.are.same({ 3, 5 }, { split.x:data_read(1), split.y:data_read(1) })
    assert.are.equal(6, pg.data.load(path, { target = -1 }).y:data_read(1))
    assert.are.same({ 2, 3 }, pg.data.load(path).x.shape)
    fails_naming("no column cost", pg.data.load, path, { target = "cost" })
    fails_naming("no column 4", pg.data.load, path, { target = 4 })
    fails_naming("line 2", pg.data.load, write("bad.csv", "1,2\n1\n"))
  end)

  it("reads npy", function()
    files.write_npy(path_of "x.npy", core.tensor("f32", { 2, 2 }, { 1, 2, 3, 4 }))
    files.write_npy(path_of "y.npy", core.tensor("i32", { 2 }, { 5, 6 }))
    local split = pg.data.load(path_of "x.npy", { y = path_of "y.npy" })
    assert.are.equal(6, split:batch({ 1 }).y:data_read(0))
  end)

  it("says where it looked and what to install", function()
    fails_naming("looked for no-such-set, ", pg.data.load, "no-such-set")
    fails_naming("/usr/share/datasets/no-such-set", pg.data.load, "no-such-set")
    fails_naming("did you mean 'labels'", pg.data.load, path_of "toy", { lables = "raw" })
    fails_naming("name or path", pg.data.load, 3)
    if not files.exists(FASHION) then
      fails_naming("apt-get install dataset-fashion-mnist", pg.data.load, "fashion-mnist")
    end
  end)

  it("finds files beside the file that loads them", function()
    write("beside.csv", "1,2\n")
    write("recipe.lua", 'local x = require("perigee").data.load("beside.csv") return x\n')
    assert.are.equal(1, dofile(path_of "recipe.lua").n)
  end)

  it("knows Fashion-MNIST", function()
    if not need(FASHION) then return end
    local set = pg.data.load "fashion-mnist"
    assert.are.same({ 60000, 10000, 60000 }, { set.train.n, set.test.n, set.n })
    local batch = set.train:batch { 0, 1 }
    assert.are.same({ 2, 1, 28, 28 }, batch.x.shape)
    assert.are.same({ 9, 0 }, { batch.y:data_read(0), batch.y:data_read(1) })
    assert.are.same({ 1, 784 }, pg.data.load("fashion-mnist", { flat = true }).test:batch({ 0 }).x.shape)
    assert.are.equal(16, #set:hash())
    assert.is_truthy(tostring(set):find("60000 examples of x u8 [1,28,28]", 1, true))
  end)

  it("knows the sets of the shared folder", function()
    if not need(SHARED) then return end
    local mushrooms = pg.data.load(SHARED .. "/libsvm/mushrooms", { labels = "01", bias = true })
    assert.are.same({ 8124, 113 }, mushrooms.x.shape)
    local ones = 0
    for i = 0, mushrooms.n - 1 do ones = ones + mushrooms.y:data_read(i) end
    assert.are.equal(4208, ones)
    local a9a = pg.data.load(SHARED .. "/libsvm/a9a", { test = true })
    assert.are.same({ 32561, 16281, 123 }, { a9a.train.n, a9a.test.n, a9a.test.x.shape[2] })
    local cifar = pg.data.load(SHARED .. "/cifar10/exact")
    assert.are.same({ 8380, 1017 }, { cifar.train.n, cifar.test.n })
    local batch = cifar.train:batch { 0, 1, 2, 3 }
    for i, label in ipairs { 6, 9, 9, 4 } do assert.are.equal(label, batch.y:data_read(i - 1)) end
    assert.are.equal(59, math.floor(255 * batch.x:data_read(0) + 0.5)) -- red of the first pixel of the frog
    local iris = pg.data.load(SHARED .. "/sklearn/iris.csv", { target = -1, labels = "classes" })
    assert.are.same({ 150, 4 }, iris.x.shape)
    assert.are.equal(2, iris.y:data_read(149))
  end)
end)
