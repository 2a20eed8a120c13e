-- Breaking into a run at a terminal: Ctrl-C is typed on a pseudo terminal (tests/c/pty_run.c), the prompt opens,
-- things are changed there. The recipe waits at a few gates, for files beside it, so that every Ctrl-C falls into a
-- known step.
-- What a run did that was killed after a change and resumed is compared with one that was not killed, byte by byte.

local perigee = os.getenv("PERIGEE") or "build/perigee"
local build = os.getenv("PERIGEE_BUILD") or "build"
local here = io.popen("pwd"):read("l")
if perigee:sub(1, 1) ~= "/" then perigee = here .. "/" .. perigee end
if build:sub(1, 1) ~= "/" then build = here .. "/" .. build end

-- 6 steps an epoch, 12 batches a pass.
local RECIPE = [[
local o = pg.options { gate = -1, gate2 = -1, pass_gate = -1, every = 1000 }
local key = pg.key(7)
local n = 96
local x = pg.randn(key:fold("x"), { n, 4 })
local y = (x:matmul(pg.randn(key:fold("w"), { 4, 3 })) + pg.randn(key:fold("noise"), { n, 3 })):argmax(-1)
local data = pg.data.from { x = x, y = y }

-- Say where we are, and wait for a file beside the recipe.
local function wait_at(file, what)
  io.write("at ", what, "\n")
  io.stdout:flush()
  local found
  repeat found = io.open(file) until found
  found:close()
end

local gated = pg.correction.define {
  name = "gated", hyper = { alpha = 1 },
  refresh = function(s, ctx)
    s.at = ctx.q:clone()
    if ctx.step == o.pass_gate then wait_at("go", "the pass of step " .. ctx.step) end
    s.mean = ctx:full(s.at)
  end,
  correct = function(s, ctx, h)
    local now, old = ctx:evaluate(ctx.q), ctx:evaluate(s.at)
    return (now - h.alpha * old) + h.alpha * s.mean
  end,
}
local model = pg.nn.sequential { pg.nn.linear(4, 16), pg.nn.tanh(), pg.nn.dropout(0.2), pg.nn.linear(16, 3) }
local run = pg.train {
  name = "net", model = model, data = { train = data, test = data }, seed = 3, epochs = 5, batch = 16, pass_batch = 8,
  loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optimizer {
    correction = gated { every = 6 }, rule = pg.rule.sgd { lr = 0.1, momentum = 0.9 }, weight_decay = 1e-3,
  },
  metrics = { accuracy = pg.metric.accuracy }, log_every = 1, checkpoint_every = { steps = o.every },
  hooks = { on_step = function(ctx)
    if ctx.step == o.gate then wait_at("go", "step " .. ctx.step) end
    if ctx.step == o.gate2 then wait_at("go2", "step " .. ctx.step) end
  end },
}
print("done", run.steps, #run.changes)
]]

local read = require("files").read

if not read(perigee) then
  describe("breaking in", function() pending("is not built: " .. perigee) end)
  return
end

describe("breaking into a run at a terminal", function()
  local root = os.tmpname()

  local function sh(command, ...) return os.execute(("cd %s && "):format(root) .. command:format(...)) end

  local function write(path, text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
  end

  -- Run a command of perigee with somebody at the terminal. → what came out, exit status
  local function play(arguments, script)
    write(root .. "/script", table.concat(script, "\n") .. "\n")
    local command = "env TERM=dumb LC_ALL=C.UTF-8 HOME=%s %s/tests/pty_run %s %s <script >out.txt 2>err.txt"
    local _, _, code = sh(command, root, build, perigee, arguments)
    local out = read(root .. "/out.txt"):gsub("\r", "")
    assert.not_equal(125, code, read(root .. "/err.txt"))
    return out, code
  end

  -- The gates: which files there are before a command starts.
  local function open_gates(...)
    sh("rm -f go go2")
    for _, name in ipairs { ... } do write(root .. "/" .. name, "") end
  end

  local function final(runs)
    local pipe = io.popen(("ls %s/%s/net/checkpoints/step-*.safetensors | sort -V | tail -n 1"):format(root, runs))
    local path = pipe:read("l")
    pipe:close()
    assert.matches("step%-30%.safetensors", path)
    assert.is_truthy(read(path):find('"info.finished":"true"', 1, true))
    return read(path)
  end

  local function metrics(runs) return assert(read(("%s/%s/net/metrics.jsonl"):format(root, runs))) end

  local function assert_same(a, b)
    assert.equal(metrics(a), metrics(b))
    assert.equal(read(("%s/%s/net/changes.jsonl"):format(root, a)), read(("%s/%s/net/changes.jsonl"):format(root, b)))
    assert.is_true(final(a) == final(b), "the final checkpoints differ")
  end

  local BREAK = { "expect at step 8", "send \\x03", "expect finishing the step", "touch go", "expect (step 9) > " }

  local function script(...)
    local all = {}
    for _, part in ipairs { ... } do
      for _, line in ipairs(type(part) == "table" and part or { part }) do all[#all + 1] = line end
    end
    return all
  end

  local CHANGE = {
    "send opt.rule.lr = 1/30\\n", "expect rule.lr: 0.1 → 0.03333333333333333 from step 9 on; recorded",
    "send opt.correction.alpha = 0.5\\n", "expect correction.alpha: 1 → 0.5",
    "send opt.correction.every = pg.epochs(2)\\n", "expect correction.every: 6 → pg.epochs(2)",
    "send opt.weight_decay = '1e-3 / (1 + step)'\\n", "expect recorded",
  }

  setup(function()
    os.remove(root)
    assert(os.execute("mkdir -p " .. root))
    write(root .. "/net.lua", RECIPE)
    open_gates "go"
    assert(sh("%s --runs=plain net.lua >out.txt 2>&1 </dev/null", perigee), read(root .. "/out.txt"))
  end)

  teardown(function() os.execute("rm -rf " .. root) end)

  it("changes no bit when somebody only looks", function()
    open_gates()
    local out, code = play("--runs=looked net.lua gate=8", script(BREAK, {
      "send step\\n", "expect 9", "send opt\\n", "expect rule.lr", "expect weight_decay", "send theta\\n", "expect f32",
      "send model(theta, pg.ones { 2, 4 }, { train = false })\\n", "expect [2, 3]",
      "send evaluate().accuracy\\n", "expect 0.", "send theta:copy_from(theta * 0)\\n", "expect > ",
      "send for i = 1, 3 do print(pg.randn(pg.key(i), { 2 }):sum():item()) end\\n", "expect > ",
      "send plot\\n", "expect training loss", "send error 'oh'\\n", "expect oh", "send nothing.at.all\\n",
      "expect nothing",
      "send run\\n", "expect run net: 9 of 30 steps done", "send continue\\n", "expect done",
    }))
    assert.equal(0, code, out)
    assert.matches("done\t30\t0", out, 1, true)
    assert.equal(metrics "plain", metrics "looked")
    assert.is_nil(read(root .. "/looked/net/changes.jsonl"))
  end)

  it("replays changes after a kill: from a checkpoint before them, after them, and from none", function()
    for _, every in ipairs { 8, 1, 1000 } do
      open_gates "go2"
      local name = "every" .. every
      local arguments = ("net.lua gate=8 gate2=13 every=%d"):format(every)
      local out, code = play(("--runs=%s-whole %s"):format(name, arguments), script(BREAK, CHANGE,
        "send continue\\n", "expect done"))
      assert.equal(0, code, out)
      local change = "net: changed by hand at step 9: rule.lr 0.1 → 0.03333333333333333, correction.alpha 1 → 0.5, "
      assert.matches(change, out, 1, true)
      open_gates()
      local _, status = play(("--runs=%s-killed %s"):format(name, arguments), script(BREAK, CHANGE,
        "send continue\\n", "expect at step 13", "kill"))
      assert.equal(128 + 9, status)
      open_gates("go", "go2")
      assert(sh("%s resume %s-killed/net >out.txt 2>&1 </dev/null", perigee, name), read(root .. "/out.txt"))
      assert.matches(change, read(root .. "/out.txt"), 1, true)
      assert_same(name .. "-whole", name .. "-killed")
      assert.not_equal(metrics "plain", metrics(name .. "-whole"))
    end
  end)

  local IN_PASS = { "expect at the pass of step 6", "send \\x03", "expect finishing the step", "touch go",
    "expect inside a full pass (1 of 12 batches done)", "expect (step 6) > ", "send opt.rule.lr = 0.02\\n",
    "expect rule.lr: 0.1 → 0.02 from step 7 on; recorded" }

  it("breaks into a full pass, and goes on in it after a kill or quit", function()
    open_gates()
    local out, code = play("--runs=pass net.lua pass_gate=6", script(IN_PASS, "send continue\\n", "expect done"))
    assert.equal(0, code, out)
    local leaving = {
      killed = { "send save\\n", "expect saved pass-killed/net/checkpoints/step-6.safetensors", "kill" },
      quit = { "send quit\\n", "expect interrupted and saved; go on with: perigee resume pass-quit/net" },
    }
    for how, status in pairs { killed = 128 + 9, quit = 1 } do
      open_gates()
      local _, left = play(("--runs=pass-%s net.lua pass_gate=6"):format(how), script(IN_PASS, leaving[how]))
      assert.equal(status, left)
      local saved = read(("%s/pass-%s/net/checkpoints/step-6.safetensors"):format(root, how))
      assert.is_truthy(saved:find("numbers/pass.cursor", 1, true))
      assert(sh("%s resume pass-%s/net >out.txt 2>&1 </dev/null", perigee, how), read(root .. "/out.txt"))
      assert_same("pass", "pass-" .. how)
    end
  end)

  it("leaves at once at the second Ctrl-C, the last checkpoint and the way back named, with status 130", function()
    open_gates()
    local out, code = play("--runs=twice net.lua gate=8 every=3", { "expect at step 8", "send \\x03",
      "expect finishing the step; Ctrl-C again leaves at once", "send \\x03" })
    assert.equal(130, code)
    assert.matches("perigee: left at once; the last checkpoint is twice/net/checkpoints/step-6.safetensors; go on from "
      .. "there with: perigee resume twice/net\n", out, 1, true)
    open_gates "go"
    assert(sh("%s resume twice/net >out.txt 2>&1 </dev/null", perigee), read(root .. "/out.txt"))
    assert.equal(metrics "plain", metrics "twice")
    open_gates()
    out, code = play("--runs=early net.lua gate=8", { "expect at step 8", "send \\x03", "expect finishing",
      "send \\x03" })
    assert.equal(130, code)
    assert.matches("left at once; there is no checkpoint yet; to begin again: perigee resume early/net\n", out, 1, true)
  end)

  it("says what is misspelt and what is fixed, and the run goes on; Ctrl-C at the prompt too", function()
    open_gates()
    local out, code = play("--runs=wrong net.lua gate=8", script(BREAK, {
      "send opt.rule.lrr = 1\\n", "expect did you mean 'lr'?", "send opt.rule.nesterov = true\\n",
      "expect rule.nesterov is fixed while a run goes on: it is part of the compiled step",
      "send theta = 0\\n", "expect theta cannot be set",
      "send opt.rule.lr = function() end\\n", "expect give its text",
      "send print('go' .. 'ing') while true do end\\n", "expect going", "send \\x03", "expect interrupted",
      "expect (step 9) > ", "send \\x03", "expect (step 9) > ", "send \\x04", "expect done",
    }))
    assert.equal(0, code, out)
    assert.equal(metrics "plain", metrics "wrong")
  end)

  it("opens in a run that was started at the prompt, and comes back to that", function()
    open_gates()
    write(root .. "/loop.lua", "return function(wait) return pg.run { name = 'loop', steps = 4,\n"
      .. "state = { rate = 1.0 }, step = function(st, ctx)\n"
      .. "if ctx.step == 0 then wait() end ctx:log { rate = st.rate } end } end\n")
    local out, code = play("", { "expect > ", "send f = dofile 'loop.lua'\\n", "expect > ",
      "send w = function() print('now ' .. 'at the gate') repeat until io.open 'go' end\\n", "expect > ",
      "send r = f(w)\\n", "expect now at the gate", "send \\x03", "expect finishing", "touch go", "expect (step 1) > ",
      "send state.rate = 0.5\\n", "expect recorded", "send continue\\n", "expect > ",
      "send r.history[4].rate, #r.changes\\n", "expect 0.5", "expect 1",
      -- a second Ctrl-C leaves the run, not the prompt; and a quit has no recipe to name
      "send f(function() print('once ' .. 'more') while true do end end)\\n", "expect once more", "send \\x03",
      "expect finishing", "send \\x03", "expect left at once; there is no checkpoint yet", "send 6 * 7\\n", "expect 42",
      "send print('go' .. 'ing') while true do end\\n", "expect going", "send \\x03", "expect interrupted",
      "send \\x04" })
    assert.equal(0, code, out)
  end)
end)
