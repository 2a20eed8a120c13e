-- Facts about `perigee dump`: another program computes the steps again from the file, and watching a step changes none
-- of its bits.
local files = require "files"

local program, scratch = files.program(), files.scratch()

local RECIPE = [[
local o = pg.options { method = { "sgd", "svrg", "ivon", "poco" }, samples = 1, micro = 1 }
local x = pg.randn(pg.key(1), { 30, 4 }, "f64")
local data = pg.data.from { x = x, y = x:matmul(pg.randn(pg.key(2), { 4, 3 }, "f64")):argmax(-1) }
local sampling = o.method == "ivon" or o.method == "poco"
pg.train {
  name = o.method, data = data, batch = 10, steps = 5, seed = 3, dtype = "f64", micro = o.micro,
  model = pg.nn.sequential { pg.nn.linear(4, 5), pg.nn.tanh(), pg.nn.linear(5, 3) },
  loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optimizer {
    family = sampling and pg.family.diagonal { ess = 30, h0 = 0.5, beta2 = 0.99, samples = o.samples } or nil,
    correction = (o.method == "svrg" or o.method == "poco") and pg.correction.svrg { every = 2, alpha = 0.7 } or nil,
    rule = sampling and pg.rule.ivon { lr = 0.1 }
      or pg.rule.sgd { lr = pg.schedule.cosine { peak = 0.3 }, momentum = 0.9 },
    weight_decay = 1e-2,
  },
}
]]

local function run(command)
  local _, _, code = os.execute(("cd %s && %s >out.txt 2>err.txt </dev/null"):format(scratch, command))
  return code, assert(files.read(scratch .. "/out.txt")), assert(files.read(scratch .. "/err.txt"))
end

describe("perigee dump", function()
  setup(function() files.write(scratch .. "/r.lua", RECIPE) end)
  teardown(function() os.execute("rm -r " .. scratch) end)

  local has_python = run "python3 --version" == 0

  for _, words in ipairs { "sgd", "svrg", "ivon", "ivon samples=3", "poco", "poco samples=2" } do
    it("writes steps that Python computes again to 1e-12: " .. words, function()
      local code, out, err = run(("%s dump r.lua steps=4 out=d.safetensors method=%s"):format(program, words))
      assert.equal(0, code, err)
      assert.matches("^%a+: 4 steps\nwrote d.safetensors, %d+ bytes\n$", out)
      assert.equal("", err)
      assert.is_nil(files.read(scratch .. "/runs"))
      if not has_python then return pending("there is no python3 here to compute the steps again") end
      code, out, err = run("python3 " .. files.from_here "tests/cli/check_dump.py" .. " d.safetensors")
      assert.equal(0, code, out .. err)
      assert.equal(4, select(2, out:gsub("%.step%.%d: ", "")))
    end)
  end

  it("shows averages only where pieces of a batch are evaluated in a loop", function()
    assert.equal(0, (run(program .. " dump r.lua steps=1 method=svrg micro=2")))
    local content = files.read(scratch .. "/dump.safetensors")
    assert.matches('"svrg.step.0.evaluation.2.statistics.g.1.weight"', content, 1, true)
    assert.is_nil(content:find("sample.1", 1, true))
  end)

  it("says on one line what is wrong", function()
    files.write(scratch .. "/none.lua", "local x = 1\n")
    for arguments, expected in pairs {
      [""] = "expected a recipe; see --help",
      ["r.lua steps=few"] = "option steps=few: expected a number of steps",
      ["none.lua"] = "none.lua: there is no pg.train in it to dump",
      ["r.lua methd=sgd"] = 'unknown option methd; did you mean "method"? (options: method, micro, samples)',
    } do
      local code, _, err = run(program .. " dump " .. arguments)
      assert.equal(2, code)
      assert.equal("perigee: " .. expected .. "\n", err)
    end
  end)
end)
