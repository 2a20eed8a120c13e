-- The hard test: a multilayer perceptron with dropout, a short last batch, SVRG over the diagonal family (IVON-PoCo),
-- on 2 threads, killed with SIGKILL again and again, at random moments and at chosen ones (inside a full pass), and
-- resumed each time. Against one run on 1 thread without interruption: the final checkpoint (weights, posterior,
-- optimizer state) and metrics.jsonl are the same to the last byte.

local perigee = os.getenv("PERIGEE") or "build/perigee"
if perigee:sub(1, 1) ~= "/" then perigee = io.popen("pwd"):read("l") .. "/" .. perigee end

local RECIPE = [[
local key = pg.key(7)
local n = 600
local x = pg.randn(key:fold("x"), { n, 12 })
local y = (x:matmul(pg.randn(key:fold("w"), { 12, 3 })) + pg.randn(key:fold("noise"), { n, 3 })):argmax(-1)
local data = {
  train = pg.data.from { x = x, y = y },
  test = pg.data.from { x = x:slice({ 1, 300 }), y = y:slice({ 1, 300 }) },
}

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

local model = pg.nn.sequential {
  pg.nn.linear(12, 200), pg.nn.relu(), pg.nn.dropout(0.3), pg.nn.linear(200, 100), pg.nn.tanh(), pg.nn.linear(100, 3),
}
pg.train {
  name = "hard", model = model, data = data, seed = 3, epochs = 3, batch = 64,
  loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optim.ivon_poco { lr = 0.1, ess = n, h0 = 0.5, weight_decay = 1e-3, every = pg.epochs(1) },
  metrics = { accuracy = pg.metric.accuracy }, log_every = 1, checkpoint_every = 0, keep = 2,
}
]]

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

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

  local whole

  setup(function()
    os.remove(root)
    assert(os.execute("mkdir -p " .. root))
    local file = assert(io.open(root .. "/hard.lua", "wb"))
    file:write(RECIPE)
    file:close()
    assert(sh("%s --threads=1 --runs=whole hard.lua >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    whole = newest("whole/hard")
    assert.matches("step%-30%.safetensors", whole)
  end)

  teardown(function() os.execute("rm -rf " .. root) end)

  local function assert_same(directory)
    assert.is_true(is_finished(directory), "the run did not finish")
    assert.equal(read(root .. "/whole/hard/metrics.jsonl"), read(root .. "/" .. directory .. "/metrics.jsonl"))
    assert.equal(whole:match("[^/]*$"), newest(directory):match("[^/]*$"))
    assert.is_true(read(root .. "/" .. whole) == read(root .. "/" .. newest(directory)), "the final checkpoints differ")
  end

  it("is bitwise equal after kills at random moments", function()
    local kills = 0
    local pid = start("%s --threads=2 --runs=killed hard.lua", perigee)
    for round = 1, 6 do
      -- once it has got further than before, wait a random while; then kill
      local before = newest("killed/hard") or ""
      local unchanged = "[ \"$(ls -t killed/hard/checkpoints 2>/dev/null | head -n 1)\" = '%s' ]"
      capture("while kill -0 %s 2>/dev/null && " .. unchanged .. "; do sleep 0.003; done; sleep %.3f", pid,
        before:match("[^/]*$"), 0.007 * (round * 5 % 13))
      if kill(pid) then
        kills = kills + 1
      elseif is_finished("killed/hard") then
        break
      end
      pid = start("%s --threads=2 resume killed/hard", perigee)
    end
    wait_for(pid)
    assert_same("killed/hard")
    assert.is_true(kills >= 3, ("only %d kills"):format(kills))
  end)

  it("is bitwise equal after a kill inside the first and inside the third full pass", function()
    for _, count in ipairs { 5, 25 } do
      local directory = ("pass%d/hard"):format(count)
      sh("CRASH_IN_PASS=%d %s --threads=2 --trust --runs=pass%d hard.lua >log.txt 2>&1", count, perigee, count)
      local path = newest(directory)
      assert.is_truthy(path and read(root .. "/" .. path):find("numbers/pass.cursor", 1, true),
        "no checkpoint inside the pass: " .. read(root .. "/log.txt"))
      assert(sh("%s --threads=2 --trust resume %s >log.txt 2>&1", perigee, directory), read(root .. "/log.txt"))
      assert_same(directory)
    end
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
