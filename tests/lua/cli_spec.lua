-- Facts about the command line: exit codes, one-line errors that name the nearest thing, help everywhere. It runs the
-- program that `make` built (PERIGEE names it; default build/perigee) and looks at what comes out.
local files = require "files"
local perigee = os.getenv("PERIGEE") or "build/perigee"

if not files.read(perigee) then
  describe("perigee", function() pending("is not built: " .. perigee) end)
  return
end

local scratch = os.tmpname()
os.remove(scratch)
assert(os.execute("mkdir -p " .. scratch))

local function write(name, text) files.write(scratch .. "/" .. name, text) end

-- Run with arguments in the scratch directory; → exit code, stdout, stderr.
local absolute = perigee:sub(1, 1) == "/" and perigee or io.popen("pwd"):read("l") .. "/" .. perigee
local function run(arguments, before)
  local command = "cd %s && %s %s %s >out.txt 2>err.txt </dev/null"
  local _, _, code = os.execute(command:format(scratch, before or "", absolute, arguments))
  return code, files.read(scratch .. "/out.txt"), files.read(scratch .. "/err.txt")
end

describe("perigee", function()
  teardown(function() os.execute("rm -r " .. scratch) end)

  it("answers help and --help for every command with exit code 0", function()
    local code, out = run("help")
    assert.equal(0, code)
    for name in ("run resume branch compare check emit dump methods doctor bench version help"):gmatch("%S+") do
      assert.matches("\n  " .. name, out, 1, true)
      local help_code, help_out, err = run(name .. " --help")
      assert.equal(0, help_code, name)
      assert.matches("usage: perigee " .. name, help_out, 1, true)
      assert.equal("", err)
    end
  end)

  it("doctor says why programs run interpreted", function()
    assert(os.execute(("mkdir -p %s/open && chmod 777 %s/open"):format(scratch, scratch)))
    local code, out = run("doctor", "PERIGEE_CACHE=" .. scratch .. "/open")
    assert.equal(1, code)
    assert.matches("programs are interpreted.*others may write to it", out)
  end)

  it("names the nearest command, option and recipe, on one line, with exit code 2", function()
    local code, _, err = run("resum runs/x")
    assert.equal(2, code)
    assert.matches('did you mean "resume"?', err, 1, true)
    write("quadratic.lua", "local o = pg.options { lr = 0.1 } print(o.lr)")
    code, _, err = run("quadratc.lua")
    assert.equal(2, code)
    assert.matches('did you mean "quadratic.lua"?', err, 1, true)
    code, _, err = run("quadratic.lua lrr=3")
    assert.equal(2, code)
    assert.matches('did you mean "lr"?', err, 1, true)
    assert.matches("^[^\n]*\n$", err)
    code, _, err = run("--treads=2 quadratic.lua")
    assert.equal(2, code)
    assert.matches('did you mean "threads"?', err, 1, true)
    assert.equal(2, (run("resume runs/none")))
    assert.equal(2, (run("resume")))
    assert.equal(2, (run("quadratic.lua lr")))
  end)

  it("refuses options that say nothing to a command", function()
    local code, _, err = run("version --only=svrg")
    assert.equal(2, code)
    assert.equal("perigee: --only says nothing to perigee version; see perigee version --help\n", err)
  end)

  it("sets options from the command line", function()
    local code, out = run("quadratic.lua lr=0.25")
    assert.equal(0, code)
    assert.equal("0.25\n", out)
  end)

  it("refuses key=value for a recipe that declares no options", function()
    write("plain.lua", "print('ran')")
    local code, _, err = run("plain.lua lr=1")
    assert.equal(2, code)
    assert.matches("this recipe has none", err, 1, true)
  end)

  it("shows an error at the recipe's line, on one line, and the rest only with --trace", function()
    write("wrong.lua", "local x = 1\nlocal y = pg.zeros({2, 3}):matmul(pg.zeros({2, 3}))\nprint(x, y)\n")
    local code, _, err = run("wrong.lua")
    assert.equal(1, code)
    assert.matches("wrong.lua:2: ", err, 1, true)
    assert.matches("^[^\n]*\n$", err)
    _, _, err = run("--trace wrong.lua")
    assert.matches("stack traceback", err, 1, true)
    write("syntax.lua", "local = 3\n")
    code, _, err = run("syntax.lua")
    assert.equal(1, code)
    assert.matches("syntax.lua:1: ", err, 1, true)
  end)

  local WALK = [[
local o = pg.options { steps = 12, slow = 0 }
local outside = 0
local r = pg.run { name = "walk", seed = 1, steps = o.steps, state = { x = pg.zeros({ 3 }), n = 0 },
  step = function(st, ctx)
    for _ = 1, o.slow do st.n = st.n + 0 end
    st.x = 0.5 * st.x + pg.randn(ctx.key, { 3 })
    outside = outside + 1
    ctx:log { x = st.x:sum():item(), n = OUTSIDE }
  end }
print(r.steps, r.directory)
]]

  it("check finds that a run repeats, and that one does not which keeps state outside of its state", function()
    write("walk.lua", (WALK:gsub("OUTSIDE", "0")))
    local code, out = run("check walk.lua")
    assert.equal(0, code)
    assert.equal("ok   walk: 3 steps, save, load, 3 steps: the same bits as at once\n", out)
    write("leaky.lua", (WALK:gsub("OUTSIDE", "outside")))
    code, out = run("check leaky.lua")
    assert.equal(1, code)
    assert.matches("FAIL walk", out, 1, true)
    assert.matches("at once: .*resumed: ", out)
    write("empty.lua", "print('nothing')")
    assert.equal(2, (run("check empty.lua")))
  end)

  it("check finds nothing wrong with a corrected method under batch norm and dropout, however its snapshots normalize",
    function()
      write("normed.lua", [[
local o = pg.options { snapshot = { "batch", "running" } }
local split = pg.data.from { x = pg.randn(pg.key(1), { 50, 4 }), y = pg.randn(pg.key(2), { 50, 1 }) }
pg.train {
  name = "normed", data = split, batch = 16, epochs = 4,
  model = pg.nn.sequential { pg.nn.linear(4, 8), pg.nn.batch_norm(8), pg.nn.dropout(0.2), pg.nn.linear(8, 1) },
  loss = function(net, theta, batch, ctx) return pg.squared_loss(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optim.svrg { lr = 0.1, every = 2, batch_norm = o.snapshot },
}
]])
      for _, snapshot in ipairs { "batch", "running" } do
        local code, out = run("check normed.lua snapshot=" .. snapshot)
        assert.equal(0, code)
        assert.equal(3, select(2, out:gsub("ok   normed: ", "")))
      end
    end)

  it("finishes the step at Ctrl-C, saves, and goes on later as if nothing had been", function()
    write("walk.lua", (WALK:gsub("OUTSIDE", "0")))
    local code, out = run("--runs=whole walk.lua slow=100000 steps=400")
    assert.equal(0, code)
    assert.matches("^400\t", out)
    local command = "cd %s && { %s --runs=broken walk.lua slow=100000 steps=400 >o.txt 2>e.txt </dev/null & pid=$!; "
      .. "for i in $(seq 1000); do [ -s broken/walk/metrics.jsonl ] && break; sleep 0.01; done; "
      .. "kill -INT $pid; wait $pid; echo $?; }"
    -- a shell without job control starts background processes deaf to SIGINT; env gives them their ears back
    local pipe = io.popen(command:format(scratch, "env --default-signal=INT " .. absolute))
    assert.equal("1", pipe:read("l"))
    pipe:close()
    local file = assert(io.open(scratch .. "/e.txt"))
    assert.matches("interrupted and saved; go on with: perigee resume broken/walk", file:read("a"), 1, true)
    file:close()
    assert.equal(0, (run("resume broken/walk")))
    assert.is_true(os.execute(("cd %s && cmp whole/walk/metrics.jsonl broken/walk/metrics.jsonl"):format(scratch)))
  end)

  it("resume refuses a trusted run without --trust", function()
    write("walk.lua", (WALK:gsub("OUTSIDE", "0")))
    assert.equal(0, (run("--trust --runs=trusted walk.lua")))
    local code, _, err = run("resume trusted/walk")
    assert.equal(2, code)
    assert.matches("--trust", err, 1, true)
    assert.equal(0, (run("--trust resume trusted/walk")))
  end)

  it("emit prints C and nothing of the recipe's", function()
    write("emitted.lua", "print('noise')\n"
      .. "local d = pg.data.from { x = pg.ones({ 8, 2 }), y = pg.zeros({ 8 }, 'i64') }\n"
      .. "pg.train { name = 'e', model = pg.nn.sequential { pg.nn.linear(2, 2) }, data = d, epochs = 1, batch = 4,\n"
      .. "loss = function(m, t, b, c) return pg.cross_entropy(m(t, b.x, c), b.y) end, optimizer = pg.optim.sgd {} }")
    local code, out, err = run("emit emitted.lua")
    assert.equal(0, code, err)
    assert.is_nil(out:find("noise", 1, true))
    assert.is_truthy(out:find("pg_kernel", 1, true) or out:find("interpreted", 1, true))
  end)

  it("methods lists what an optimizer is made of", function()
    local _, out = run("methods")
    for name in ("point diagonal svrg sgd adamw ivon ivon_poco"):gmatch("%S+") do
      assert.matches("\n  " .. name .. " ", out, 1, true)
    end
  end)

  it("methods measures what a method costs and explains one by its name", function()
    local _, list = run("methods")
    assert.matches("gives {g, h}; keeps h\n", list, 1, true)
    local flat = list:gsub("%s+", " ")
    for _, options in ipairs {
      "options: beta2 = 0.99999, ess (needed), h0 = 1, hess_approx = price, noise = true, samples = 1, antithetic = "
        .. "false",
      "options: alpha0 = 0.75, estimate = false, memory = 0.9, alpha_h = false ",
      "on {g}, {g, h}, {g, H} of families without noise; 1 gradient for each example of a step, 1 pass",
      "options: batches = 10, alpha = 1, ahead = true ",
      "all: every = epochs(1), start = 0, mega = full, ahead = false, noise = shared",
    } do
      assert.matches(options, flat, 1, true)
    end
    for line in list:gmatch "[^\n]+" do assert(utf8.len(line) <= 80, line) end
    local code, out = run("methods svrg")
    assert.equal(0, code)
    assert.matches("pg.correction.svrg { alpha = 1, ", out, 1, true)
    assert.matches("\n    in a step: (statistics at q - alpha statistics at `at`", out, 1, true)
    assert.matches("Needs and costs: on {g}, {g, h}, {g, H}; 2 gradients for each example of a step,\n"
      .. "1 pass over the data for each refresh; keeps at.mean, mean.g\n\n\npg.optim.svrg {", out, 1, true)
    _, out = run("methods ivon_poco")
    assert.matches("keeps h, m, at.mean, at.h, mean.g, mean.h", (out:gsub("\n", " ")), 1, true)
    local bad, _, err = run("methods svgr")
    assert.equal(2, bad)
    assert.matches('there is no method svgr; did you mean "', err, 1, true)
  end)

  describe("runs recipes in a sandbox that", function()
    local function refused(body, message)
      write("bad.lua", body)
      local code, out, err = run("bad.lua")
      assert.equal(1, code, body .. out)
      assert.matches(message or "bad.lua:1: ", err, 1, true)
    end

    it("has no shell, no native modules, no debug library, no bytecode", function()
      refused "os.execute('true')"
      refused "io.popen('true')"
      refused "os.remove('bad.lua')"
      refused "package.loadlib('x', 'y')"
      refused "debug.getinfo(1)"
      refused "string.dump(print)"
      refused "('x').dump(print)"
      refused "dofile('bad.lua')"
      refused "require 'io'"
      refused "require '../secret'"
      refused "assert(load('\\27Lua', 'x', 'b'))"
      refused "assert(getmetatable('').__index)"
    end)

    it("refuses bytecode as a recipe", function()
      write("code.lua", string.dump(load("print('ran')")))
      local code, out = run("code.lua")
      assert.equal(1, code)
      assert.equal("", out)
    end)

    it("opens files beside the recipe for reading, in the run directory for writing, and no others", function()
      write("beside.txt", "hello")
      write("reads.lua", "print(io.open('beside.txt'):read('a'), (select(2, io.open('no.txt'))))")
      local code, out = run("reads.lua")
      assert.equal(0, code)
      assert.matches("^hello\tno.txt: No such file", out)
      refused("io.open('/etc/passwd')", "bad.lua:1: io.open: /etc/passwd: outside")
      refused("assert(io.open('new.txt', 'w'))", "outside")
      refused("assert(io.open('../x', 'r'))", "outside")
      refused("assert(io.open('beside.txt', 'r+'))", "outside")
      assert(os.execute("ln -s /etc/passwd " .. scratch .. "/link.txt"))
      refused("assert(io.open('link.txt'))", "outside")
      write("writes.lua", "assert(io.open('runs/note.txt', 'w')):close()")
      assert(os.execute("mkdir -p " .. scratch .. "/runs"))
      assert.equal(0, (run("writes.lua")))
    end)

    it("requires Lua files beside the recipe, in the same environment", function()
      write("helper.lua", "return { random = pcall(math.random), name = ... }")
      write("uses.lua", "local h = require 'helper' print(h.random, h.name, require 'helper' == h)")
      local code, out = run("uses.lua")
      assert.equal(0, code)
      assert.equal("false\thelper\ttrue\n", out)
    end)

    it("makes math.random an error that points to keys, and pairs sorted", function()
      refused("math.random()", "pg.key")
      write("sorted.lua", "local t = { z = 1, a = 2, [2] = 3, [1] = 4, m = 5 }\n"
        .. "for k in pairs(t) do io.write(tostring(k), ' ') end print(next(t))")
      local _, out = run("sorted.lua")
      assert.equal("1 2 a m z 1\t4\n", out)
    end)

    it("limits the memory of tensors", function()
      write("large.lua", "local t = {}\nfor i = 1, 100 do t[i] = pg.zeros({ 1024, 1024 }, 'f64') end\n")
      local code, _, err = run("--memory=0.5 large.lua")
      assert.equal(1, code)
      assert.matches("large.lua:2: ", err, 1, true)
      assert.equal(0, (run("--memory=2 large.lua")))
    end)

    it("is lifted by --trust", function()
      write("trusting.lua", "print(os.execute('true'))")
      local code, out = run("--trust trusting.lua")
      assert.equal(0, code)
      assert.matches("^true", out)
    end)
  end)
end)
