-- The hard test: a multilayer perceptron with dropout, a short last batch, SVRG over the diagonal family (IVON-PoCo), on
-- 2 threads, killed with SIGKILL again and again, at random moments and at chosen ones (inside a full pass, inside the
-- write of a checkpoint), and resumed each time. Against one run on 1 thread without interruption: the final
-- checkpoint (weights, posterior, optimizer state) and metrics.jsonl are the same to the last byte.

local perigee = os.getenv("PERIGEE") or "build/perigee"
if perigee:sub(1, 1) ~= "/" then perigee = io.popen("pwd"):read("l") .. "/" .. perigee end

local RECIPE = [[
local key = pg.key(7)
local n = 1000
local x = pg.randn(key:fold("x"), { n, 12 })
local y = (x:matmul(pg.randn(key:fold("w"), { 12, 3 })) + pg.randn(key:fold("noise"), { n, 3 })):argmax(-1)
local data = {
  train = pg.data.from { x = x, y = y },
  test = pg.data.from { x = x:slice({ 1, 300 }), y = y:slice({ 1, 300 }) },
}

-- A chosen moment, which only a trusted recipe can arrange: the process kills itself at that batch of a full pass.
local count = os.getenv and tonumber(os.getenv "CRASH_IN_PASS" or "")
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
  name = "hard", model = model, data = data, seed = 3, epochs = 4, batch = 64,
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

  local whole

  setup(function()
    os.remove(root)
    assert(os.execute("mkdir -p " .. root))
    local file = assert(io.open(root .. "/hard.lua", "wb"))
    file:write(RECIPE)
    file:close()
    assert(sh("%s --threads=1 --runs=whole hard.lua >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    whole = newest("whole/hard")
    assert.matches("step%-64%.safetensors", whole)
  end)

  teardown(function() os.execute("rm -rf " .. root) end)

  local function assert_same(directory)
    assert.is_true(is_finished(directory), "the run did not finish")
    assert.equal(read(root .. "/whole/hard/metrics.jsonl"), read(root .. "/" .. directory .. "/metrics.jsonl"))
    assert.equal(whole:match("[^/]*$"), newest(directory):match("[^/]*$"))
    assert.is_true(read(root .. "/" .. whole) == read(root .. "/" .. newest(directory)), "the final checkpoints differ")
  end

  it("is bitwise equal after kills at random moments, among them some inside passes and writes", function()
    local inside_pass, inside_write, kills = 0, 0, 0
    sh("%s --threads=2 --runs=killed hard.lua >log.txt 2>&1 & echo $! >pid", perigee)
    local delay = 0.35
    for round = 1, 200 do
      os.execute(("sleep %.3f"):format(delay + 0.011 * (round % 13)))
      local pid = read(root .. "/pid"):match("%d+")
      local alive = sh("kill -9 %s 2>/dev/null", pid)
      capture("while kill -0 %s 2>/dev/null; do sleep 0.01; done", pid)
      if alive then
        kills = kills + 1
        if capture("ls killed/hard/checkpoints/*.tmp 2>/dev/null") ~= "" then inside_write = inside_write + 1 end
        local path = newest("killed/hard")
        if path and read(root .. "/" .. path):find("numbers/pass.cursor", 1, true) then inside_pass = inside_pass + 1 end
      elseif is_finished("killed/hard") then
        break
      end
      sh("%s --threads=2 resume killed/hard >log.txt 2>&1 & echo $! >pid", perigee)
    end
    assert_same("killed/hard")
    assert.is_true(kills >= 3, ("only %d kills"):format(kills))
    print(("%d kills, %d with a pass unfinished, %d with a checkpoint half written"):format(kills, inside_pass,
      inside_write))
  end)

  it("is bitwise equal after a kill inside the first and inside the third full pass", function()
    for _, count in ipairs { 5, 40 } do
      local directory = ("pass%d/hard"):format(count)
      sh("CRASH_IN_PASS=%d %s --threads=2 --trust --runs=pass%d hard.lua >log.txt 2>&1", count, perigee, count)
      local path = newest(directory)
      assert.is_truthy(path and read(root .. "/" .. path):find("numbers/pass.cursor", 1, true),
        "no checkpoint inside the pass: " .. read(root .. "/log.txt"))
      assert(sh("%s --threads=2 --trust resume %s >log.txt 2>&1", perigee, directory), read(root .. "/log.txt"))
      assert_same(directory)
    end
  end)

  it("goes on from the checkpoint before when the newest is torn, and says so", function()
    sh("%s --threads=2 --runs=torn hard.lua >log.txt 2>&1 & echo $! >pid; sleep 0.6; kill -9 $(cat pid)", perigee)
    local path = newest("torn/hard")
    if is_finished("torn/hard") or not path then return pending("the machine is too fast or too slow") end
    assert(sh("truncate -s -100 %s", path))
    assert(sh("%s --threads=2 resume torn/hard >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    assert.matches("trying the one before", read(root .. "/log.txt"), 1, true)
    assert_same("torn/hard")
  end)

  it("goes on from the checkpoint before when bytes of the newest were altered", function()
    sh("%s --threads=2 --runs=altered hard.lua >log.txt 2>&1 & echo $! >pid; sleep 0.6; kill -9 $(cat pid)", perigee)
    local path = newest("altered/hard")
    if is_finished("altered/hard") or not path then return pending("the machine is too fast or too slow") end
    assert(sh("printf x | dd of=%s bs=1 seek=20000 conv=notrunc 2>/dev/null", path))
    assert(sh("%s --threads=2 resume altered/hard >log.txt 2>&1", perigee), read(root .. "/log.txt"))
    assert.matches("trying the one before", read(root .. "/log.txt"), 1, true)
    assert_same("altered/hard")
  end)
end)
