-- Facts about builds: the program says for which processors it was compiled, and code generated later is for the same.
-- With PERIGEE_TEST_LONG also: a portable build has no instruction beyond AVX2, and it and one by clang train to the
-- bits of this build.
local perigee = os.getenv "PERIGEE" or "build/perigee"
local directory = os.tmpname()

local function shell(command)
  local pipe = assert(io.popen(("{ %s\n} 2>&1"):format(command)))
  local out = pipe:read("a")
  local _, _, code = pipe:close()
  return out, code
end

local function build_of(program) return shell(program .. " doctor"):match("\nbuild +([^\n]+)") end

-- Drawing, products, a convolution, normalization, reductions, a family and a correction, to the last digit.
local RECIPE = [[
local pg = require "perigee"
local key = pg.key(1)
local x, y = pg.randn(key:fold "x", { 200, 1, 12, 12 }), pg.choice(key, 10, 200, { replace = true }):to "i32"
local run = pg.train {
  name = "bits", data = pg.data.from { x = x, y = y }, epochs = 2, batch = 64, out = false,
  model = pg.nn.sequential {
    pg.nn.conv2d(1, 6, 5, { pad = 2 }), pg.nn.batch_norm(6), pg.nn.tanh(), pg.nn.max_pool2d(2), pg.nn.flatten(),
    pg.nn.dropout(0.2), pg.nn.linear(216, 10),
  },
  loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optim.ivon_poco { ess = 200 },
}
for i, value in ipairs(run.theta:totable()) do print(i, ("%.9g"):format(value)) end
]]

describe("a build", function()
  local is_long = os.getenv "PERIGEE_TEST_LONG" == "1" and os.getenv "SAN" ~= "1"

  setup(function()
    os.remove(directory)
    assert(os.execute("mkdir -p " .. directory))
    local file = assert(io.open(directory .. "/bits.lua", "wb"))
    file:write(RECIPE)
    file:close()
  end)
  teardown(function() os.execute("rm -rf " .. directory) end)

  -- What training gives under a program, with generated code in a cache of its own.
  local function train(program, cache)
    return shell(("PERIGEE_CACHE=%s/%s %s %s/bits.lua"):format(directory, cache, program, directory))
  end

  local function make(variables, place)
    local out, code = shell(("env -u MAKEFLAGS make -s -j$(nproc) %s BUILD=%s/%s all"):format(variables, directory,
      place))
    assert.same({ "", 0 }, { out, code })
    return ("%s/%s/perigee"):format(directory, place)
  end

  it("says by which compiler and for which processors it is", function()
    assert.matches("^%l+ %d.*, %-march=%S+$", build_of(perigee):lower())
  end)

  if not is_long then return end

  it("for any processor has no instruction beyond AVX2, trains to the same bits", function()
    local portable = make("PORTABLE=1", "portable")
    assert.matches("-march=x86-64-v3", build_of(portable), 1, true)
    local expected = train(perigee, "here")
    assert.equal(expected, (train(portable, "portable-code")))
    assert.is_true(#expected > 1000)
    local out = shell(("for f in %s %s/portable-code/*.so; do objdump -d $f | grep -cE '%%(zmm|k[1-7])'; done"):format(
      portable, directory))
    assert.is_nil(out:find("[1-9]"), out)
    assert.matches("^0\n0\n", out)
  end)

  it("by clang trains to the same bits", function()
    if select(2, shell "command -v clang") ~= 0 then return pending "clang is not installed" end
    local clang = make("CC=clang", "clang")
    assert.matches("clang", build_of(clang):lower(), 1, true)
    assert.equal((train(perigee, "here")), (train(clang, "clang-code")))
    assert.equal((train(perigee, "here")), (train("PERIGEE_CC=$(command -v clang) " .. clang, "clang-code")))
  end)
end)
