-- Facts about `perigee emit`: what it prints is C that compiles by itself without a warning, each kernel once, with the
-- steps of every program, the names of its memory and the recipe's lines; and about outlines of plans.
local core = require "perigee.core"
require "perigee"

local perigee = os.getenv "PERIGEE" or "build/perigee"
local directory = os.tmpname()

local function shell(command)
  local pipe = assert(io.popen(("cd %s && { %s\n} 2>&1"):format(directory, command)))
  local out = pipe:read("a")
  local _, _, code = pipe:close()
  return out, code
end

local RECIPE = [[
local pg = require "perigee"
print "noise"
local data = pg.data.from { x = pg.ones { 8, 3 }, y = pg.zeros({ 8 }, "i64") }
pg.train {
  name = "e", data = data, epochs = 1, batch = 4, model = pg.nn.sequential { pg.nn.linear(3, 2) },
  loss = function(net, theta, batch, ctx)
    return pg.cross_entropy(net(theta, batch.x, ctx):tanh(), batch.y)
  end,
  optimizer = pg.optim.ivon_poco { ess = 8 },
}
]]

describe("perigee emit", function()
  local text

  setup(function()
    os.remove(directory)
    assert(os.execute("mkdir -p " .. directory))
    local file = assert(io.open(directory .. "/recipe.lua", "wb"))
    file:write(RECIPE)
    file:close()
    local here = shell("cd - >/dev/null; pwd"):match("[^\n]*")
    if perigee:sub(1, 1) ~= "/" then perigee = here .. "/" .. perigee end
    text = shell(perigee .. " emit recipe.lua >emitted.c; cat emitted.c")
  end)
  teardown(function() os.execute("rm -rf " .. directory) end)

  it("prints the programs with their steps, memory and lines, and nothing that the recipe prints", function()
    assert.is_nil(text:find("noise", 1, true))
    assert.matches("/* ==== ", text, 1, true)
    local program = text:match("/%* ==== %d+ of %d+: a corrected step of diagonal × svrg × ivon, 4 examples.- %*/")
    assert.matches("correction.mean.h        f32 vector", program, 1, true)
    assert.matches("matmul(batch.x [4, 3], ", program, 1, true)
    assert.matches("→q.h, rule.m, →rule.m, q.mean, →q.mean)", program, 1, true)
    assert.matches("from recipe.lua:7\n", program, 1, true)
    assert.matches("from recipe.lua:4\n", program, 1, true)
    assert.matches(" = sub(num[", program, 1, true)
  end)

  it("prints C that compiles without a warning, each kernel once", function()
    if not text:find("\nvoid pg_kernel_1(", 1, true) then return pending "there is no compiler" end
    assert.same({ "", 0 }, { shell "cc -std=gnu11 -O1 -Wall -Wextra -Werror -c emitted.c -o emitted.o" })
    local bodies, numbers = {}, {}
    for number, body in text:gmatch("\nvoid pg_kernel_(%d+)(.-\n})\n") do
      assert.is_nil(bodies[body])
      bodies[body], numbers[number] = true, true
    end
    for number in text:gmatch("pg_kernel_(%d+)%(") do assert.is_true(numbers[number]) end
  end)

  it("prints the programs that were asked for", function()
    local out = shell(perigee .. ' emit recipe.lua --only="full pass"')
    local _, count = out:gsub("/%* ==== ", "")
    assert.equal(3, count)
    assert.is_nil(out:find("a corrected step", 1, true))
    local message, code = shell(perigee .. " emit recipe.lua --only=nonsense")
    assert.same({ 'perigee: no program of recipe.lua is called "nonsense"\n', 2 }, { message, code })
  end)
end)

describe("a program's outline", function()
  it("says what is computed, in which memory, over which extents, from which lines", function()
    local trace <close> = core.trace()
    local x, w, lr = trace:input("f32", { 4, 3 }), trace:input("f32", { 3, 2 }), trace:scalar()
    local y = (x:matmul(w) + 1):relu():sum(1)
    local program = trace:compile({ y * (1 - lr), w * 2 }, { donate = { [2] = 2 } })
    local here = debug.getinfo(1, "S").short_src
    local lines = {}
    for line in program:outline():gmatch("[^\n]+") do lines[#lines + 1] = line:gsub(here:gsub("%p", "%%%0"), "here") end
    assert.same({ "number\tnum[1]\t1", "number\tnum[2]\tsub(num[1], num[0])" }, { lines[1], lines[2] })
    assert.matches("^call\tmatmul%(in0 %[4, 3%], in1 %[3, 2%], →t%d+%)\t%[4, 2%]\tmatmul\there:%d+$", lines[3])
    assert.matches("^kernel\tpg_kernel_0%(t%d+ | →t%d+%)\t%[4, 2%]\tadd relu sum\there:%d+$", lines[4])
    assert.matches("^kernel\tpg_kernel_1%(t%d+, →out0%)\t%[2%]\tmul\there:%d+$", lines[5])
    assert.matches("^kernel\tpg_kernel_2%(in1, →out1%)\t%[6%]\tmul\there:%d+$", lines[6])
    local arguments, results = program:arguments()
    assert.same({ { type = "f32 [4, 3]", number = 1 }, { type = "f32 [3, 2]", number = 2 } }, arguments)
    assert.same({ { type = "f32 [2]" }, { type = "f32 [3, 2]", donated = 2 } }, results)
  end)
end)
