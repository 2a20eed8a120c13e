-- The hard test: a multilayer perceptron with dropout, a short last batch, SVRG over the diagonal family (IVON-PoCo),
-- on 2 threads, killed with SIGKILL again and again, at random moments and at chosen ones (inside a full pass), and
-- resumed each time. Against one run on 1 thread without interruption: the final checkpoint (weights, posterior,
-- optimizer state) and metrics.jsonl are the same to the last byte. And so for a convolutional network with batch norm,
-- whose running statistics are part of that state.

local perigee = os.getenv("PERIGEE") or "build/perigee"
if perigee:sub(1, 1) ~= "/" then perigee = io.popen("pwd"):read("l") .. "/" .. perigee end

local RECIPE = [[
-- A chosen moment, which only a trusted recipe can arrange: the process kills itself at that batch of its full passes.
local count = rawget(os, "getenv") and tonumber(os.getenv "CRASH_IN_PASS" or "")
if count then
  local meter = getmetatable(require("perigee.cost").new()).__index
  local add = meter.add
  function meter.add(self, purpose, examples)
    add(self, purpose, examples)
    if purpose ~= "passes" then return end
    count = count - 1
    if count == 0 then os.execute("kill -9 " .. require("perigee.core").data.pid()) end
  end
end

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end
local key = pg.key(7)
]]

local RECIPES = {}

RECIPES.hard = RECIPE .. [[
local n = 600
local x = pg.randn(key:fold("x"), { n, 12 })
local y = (x:matmul(pg.randn(key:fold("w"), { 12, 3 })) + pg.randn(key:fold("noise"), { n, 3 })):argmax(-1)
local data = {
  train = pg.data.from { x = x, y = y },
  test = pg.data.from { x = x:slice({ 1, 300 }), y = y:slice({ 1, 300 }) },
}
local model = pg.nn.sequential {
  pg.nn.linear(12, 200), pg.nn.relu(), pg.nn.dropout(0.3), pg.nn.linear(200, 100), pg.nn.tanh(), pg.nn.linear(100, 3),
}
pg.train {
  name = "hard", model = model, data = data, seed = 3, epochs = 3, batch = 64, loss = loss,
  optimizer = pg.optim.ivon_poco { lr = 0.1, ess = n, h0 = 0.5, weight_decay = 1e-3, every = pg.epochs(1) },
  metrics = { accuracy = pg.metric.accuracy }, log_every = 1, checkpoint_every = 0, keep = 2,
}
]]

RECIPES.normed = RECIPE .. [[
local n = 300
local x = pg.randn(key:fold("x"), { n, 1, 8, 8 })
local split = pg.data.from { x = x, y = x:reshape(n, 64):matmul(pg.randn(key:fold("w"), { 64, 3 })):argmax(-1) }
pg.train {
  name = "normed", data = { train = split, test = split }, seed = 3, epochs = 3, batch = 64, loss = loss,
  model = pg.nn.sequential {
    pg.nn.conv2d(1, 16, 3, { pad = 1 }), pg.nn.batch_norm(16), pg.nn.relu(), pg.nn.max_pool2d(2), pg.nn.dropout(0.3),
    pg.nn.conv2d(16, 16, 3), pg.nn.batch_norm(16), pg.nn.relu(), pg.nn.flatten(), pg.nn.linear(64, 3),
  },
  optimizer = pg.optim.ivon_poco { lr = 0.1, ess = n, h0 = 0.5, every = pg.epochs(1), batch_norm = "running" },
  metrics = { accuracy = pg.metric.accuracy }, log_every = 1, checkpoint_every = 0, keep = 2,
}
]]

local read = require("files").read

if not read(perigee) then
  describe("kill and resume", function() pending("is not built: " .. perigee) end)
  return
end

describe("a run that is killed at any moment and resumed", function()
  local root = os.tmpname()

  local function sh(command, ...) return os.execute(("cd %s && "):format(root) .. command:format(...)) end

  local function capture(command, ...)
    local pipe = assert(io.popen(("cd %s && "):format(root) .. command:format(...)))
    local text = pipe:read("a")
    pipe:close()
    return text
  end

  local function newest(directory)
    return capture("ls %s/checkpoints/step-*.safetensors 2>/dev/null | sort -V | tail -n 1", directory):match("%S+")
  end

  local function is_finished(directory)
    local path = newest(directory)
    return path ~= nil and (read(root .. "/" .. path) or ""):find('"info.finished":"true"', 1, true) ~= nil
  end

  -- Start in the background; the number of the process is returned once it is known.
  local function start(command, ...)
    sh("rm -f pid; sh -c 'echo $$ >pid.new; mv pid.new pid; exec " .. command .. "' >log.txt 2>&1 &", ...)
    capture("while [ ! -e pid ]; do sleep 0.001; done")
    return read(root .. "/pid"):match("%d+")
  end

  local function wait_for(pid) capture("while kill -0 %s 2>/dev/null; do sleep 0.01; done", pid) end

  -- Whether it was alive.
  local function kill(pid)
    local alive = sh("kill -9 %s 2>/dev/null", pid)
    wait_for(pid)
    return alive
  end

  local function wait_for_step(directory, step)
    for _ = 1, 6000 do
      local path = newest(directory)
      if path and tonumber(path:match("step%-(%d+)")) >= step then return end
      os.execute("sleep 0.005")
    end
    error("no progress: " .. (read(root .. "/log.txt") or ""))
  end

  local whole = {}

  -- The run without interruption.
  local function run_whole(name, steps)
    local file = assert(io.open(("%s/%s.lua"):format(root, name), "wb"))
    file:write(RECIPES[name])
    file:close()
    assert(sh("%s --threads=1 --runs=whole %s.lua >log.txt 2>&1", perigee, name), read(root .. "/log.txt"))
    whole[name] = newest("whole/" .. name)
    assert.matches(("step%%-%d%%.safetensors"):format(steps), whole[name])
  end

  setup(function()
    os.remove(root)
    assert(os.execute("mkdir -p " .. root))
    run_whole("hard", 30)
    run_whole("normed", 15)
  end)

  teardown(function() os.execute("rm -rf " .. root) end)

  local function assert_same(directory)
    local name = directory:match("[^/]*$")
    local expected = whole[name]
    assert.is_true(is_finished(directory), "the run did not finish")
    assert.equal(read(("%s/whole/%s/metrics.jsonl"):format(root, name)), read(root .. "/" .. directory
      .. "/metrics.jsonl"))
    assert.equal(expected:match("[^/]*$"), newest(directory):match("[^/]*$"))
    assert.is_true(read(root .. "/" .. expected) == read(root .. "/" .. newest(directory)),
      "the final checkpoints differ")
  end

  -- Kill a run up to `rounds` times, each time once it has got further than before and a random while has passed, and
  -- let it end. → how often it was alive
  local function kill_again_and_again(name, rounds)
    local kills, directory = 0, "killed/" .. name
    local pid = start("%s --threads=2 --runs=killed %s.lua", perigee, name)
    for round = 1, rounds do
      local before = newest(directory) or ""
      local unchanged = "[ \"$(ls -t %s/checkpoints 2>/dev/null | head -n 1)\" = '%s' ]"
      capture("while kill -0 %s 2>/dev/null && " .. unchanged .. "; do sleep 0.003; done; sleep %.3f", pid, directory,
        before:match("[^/]*$"), 0.007 * (round * 5 % 13))
      if kill(pid) then
        kills = kills + 1
      elseif is_finished(directory) then
        break
      end
      pid = start("%s --threads=2 resume %s", perigee, directory)
    end
    wait_for(pid)
    return kills
  end

  -- Let a run kill itself at batch number `count` of its full passes, and resume it.
  local function crash_in_pass(name, count)
    local directory = ("pass%d/%s"):format(count, name)
    sh("CRASH_IN_PASS=%d %s --threads=2 --trust --runs=pass%d %s.lua >log.txt 2>&1", count, perigee, count, name)
    local path = newest(directory)
    assert.is_truthy(path and read(root .. "/" .. path):find("numbers/pass.cursor", 1, true),
      "no checkpoint inside the pass: " .. read(root .. "/log.txt"))
    assert(sh("%s --threads=2 --trust resume %s >log.txt 2>&1", perigee, directory), read(root .. "/log.txt"))
    return directory
  end

  it("is bitwise equal after kills at random moments", function()
    local kills = kill_again_and_again("hard", 6)
    assert_same("killed/hard")
    assert.is_true(kills >= 3, ("only %d kills"):format(kills))
  end)

  it("is bitwise equal with batch norm too: after kills at random moments, and inside a full pass", function()
    local kills = kill_again_and_again("normed", 3)
    assert_same("killed/normed")
    assert.is_true(kills >= 1, "it was never killed")
    local directory = crash_in_pass("normed", 8)
    assert_same(directory)
    assert.is_truthy(read(root .. "/" .. newest(directory)):find("snapshot.buffers", 1, true))
  end)

  it("is bitwise equal after a kill inside the first and inside the third full pass", function()
    for _, count in ipairs { 5, 25 } do assert_same(crash_in_pass("hard", count)) end
  end)

  it("is bitwise equal after a kill inside the write of a checkpoint", function()
    local pid = start("%s --threads=2 --runs=write hard.lua", perigee)
    wait_for_step("write/hard", 3)
    -- stopped, it can be looked at: is a file half written? If not, let it run for a moment and look again
    local half_written = capture("for i in $(seq 2000); do kill -STOP %s 2>/dev/null || break; "
      .. "if ls write/hard/checkpoints/.*.tmp >/dev/null 2>&1; then kill -9 %s; echo yes; break; fi; "
      .. "kill -CONT %s; sleep 0.00$((i %% 10)); done", pid, pid, pid)
    assert.equal("yes\n", half_written, "it was never seen writing")
    wait_for(pid)
    assert.is_false(is_finished("write/hard"))
    assert(sh("%s --threads=2 resume write/hard >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    assert_same("write/hard")
    assert.equal("", capture("ls write/hard/checkpoints/.*.tmp 2>/dev/null"))
  end)

  it("goes on from the checkpoint before when the newest is torn, and says so", function()
    local pid = start("%s --threads=2 --runs=torn hard.lua", perigee)
    wait_for_step("torn/hard", 13)
    kill(pid)
    local path = newest("torn/hard")
    assert(sh("truncate -s -100 %s", path))
    assert(sh("%s --threads=2 resume torn/hard >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    assert.matches("trying the one before", read(root .. "/log.txt"), 1, true)
    assert_same("torn/hard")
  end)

  it("goes on from the checkpoint before when bytes of the newest were altered", function()
    local pid = start("%s --threads=2 --runs=altered hard.lua", perigee)
    wait_for_step("altered/hard", 13)
    kill(pid)
    local path = newest("altered/hard")
    assert(sh("printf x | dd of=%s bs=1 seek=20000 conv=notrunc 2>/dev/null", path))
    assert(sh("%s --threads=2 resume altered/hard >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    assert.matches("trying the one before", read(root .. "/log.txt"), 1, true)
    assert_same("altered/hard")
  end)
end)
