-- Facts about `perigee branch RUN@STEP`: the new run has the bits of one that had the changed options from that step on
-- and the old ones before.
local files = require "files"

local program, scratch = files.program(), files.scratch()

-- 8 epochs of 5 steps, the last batch short. What changes in the middle is an option that says from which step on. A
-- file `crash` beside it ends the run in the step it names.
local RECIPE = [[
local o = pg.options { method = { "sgd", "svrg", "ivon", "poco" }, start = 0, every = 12, alpha = 1, lr = 0.1,
  late = 0.1, since = 1000, norm = false, seed = 2, epochs = 8, hidden = 8, always = false }
local key, N = pg.key(11), 70
local x = pg.randn(key:fold "x", { N, 4 })
local data = pg.data.from { x = x, y = x:matmul(pg.randn(key:fold "w", { 4, 3 })):argmax(-1) }
local layers = { pg.nn.linear(4, o.hidden), pg.nn.tanh(), pg.nn.dropout(0.2), pg.nn.linear(o.hidden, 3) }
if o.norm then table.insert(layers, 2, pg.nn.batch_norm(o.hidden)) end
local lr = pg.schedule.formula(("step < %d and %.17g or %.17g"):format(o.since, o.lr, o.late))
local sampling = o.method == "ivon" or o.method == "poco"
local corrected = o.method == "svrg" or o.method == "poco"
local crash = io.open "crash"
crash = crash and crash:read "n"
pg.train {
  name = o.method, model = pg.nn.sequential(layers), data = { train = data, test = data }, epochs = o.epochs,
  batch = 16,
  loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end,
  optimizer = pg.optimizer {
    family = sampling and pg.family.diagonal { ess = N, h0 = 0.5 } or pg.family.point {},
    correction = corrected and pg.correction.svrg { alpha = o.alpha, start = o.start, every = o.every,
      batch_norm = o.norm and "running" or "batch" } or nil,
    rule = sampling and pg.rule.ivon { lr = lr } or pg.rule.sgd { lr = lr, momentum = 0.9 },
  },
  metrics = { accuracy = pg.metric.accuracy }, seed = o.seed, log_every = 3, eval_every = 1.5, hash_every = 4,
  checkpoint_every = o.always and 1e-9 or { steps = 10 },
  hooks = { on_step = function(ctx) if ctx.step == crash then error "crash" end end },
}
]]

local function run(arguments)
  local command = "cd %s && %s %s >out.txt 2>err.txt </dev/null"
  local _, _, code = os.execute(command:format(scratch, program, arguments))
  return code, assert(files.read(scratch .. "/err.txt"))
end

local function done(arguments)
  local code, said = run(arguments)
  assert.equal(0, code, said)
  return said
end

local function read(path) return assert(files.read(scratch .. "/" .. path)) end

-- The lines of a run's metrics: all that were logged from `step` on, and before it those that are no hashes of a state,
-- which holds the slots of a correction from the start.
local function lines(directory, step)
  local out = {}
  for line in read(directory .. "/metrics.jsonl"):gmatch("[^\n]+") do
    local at = tonumber(line:match('"step":(%d+)'))
    if at >= step or not line:find('"state"', 1, true) then out[#out + 1] = line end
  end
  return out
end

local function final(directory) return read(directory .. "/checkpoints/step-40.safetensors") end

describe("perigee branch", function()
  before_each(function()
    assert(os.execute(("rm -rf %s/runs %s/crash"):format(scratch, scratch)))
    files.write(scratch .. "/r.lua", RECIPE)
  end)
  teardown(function() os.execute("rm -r " .. scratch) end)

  -- The run with options `before`, branched at a step with `after`, ends as the run that had `all` from the beginning.
  local function check(before, step, after, all)
    done("--runs=runs/a r.lua " .. before)
    local parent = io.popen("ls " .. scratch .. "/runs/a"):read("l")
    local said = done(("--runs=runs/b branch runs/a/%s@%d %s"):format(parent, step, after))
    done("--runs=runs/c r.lua " .. all)
    local name = io.popen("ls " .. scratch .. "/runs/c"):read("l")
    local branched = ("runs/b/%s-from%d"):format(name, step)
    assert.same(lines("runs/c/" .. name, step), lines(branched, step))
    assert.is_true(final("runs/c/" .. name) == final(branched), all)
    return said
  end

  for _, step in ipairs { 30, 23, 7, 0 } do -- a checkpoint; between two; before the first that is left; the beginning
    it(("gives SGD with momentum a correction at step %d"):format(step), function()
      local said = check("method=sgd", step, "method=svrg start=" .. step, "method=svrg start=" .. step)
      if step == 30 then assert.equal("", said) end
      if step == 23 then
        assert.equal("perigee: there is no checkpoint of step 23; repeating runs/a/sgd from step 0\n", said)
      end
    end)
  end

  it("turns IVON into its corrected form", function()
    check("method=ivon", 33, "method=poco start=33", "method=poco start=33")
  end)

  it("turns IVON with batch norm into its corrected form", function()
    check("method=ivon norm=true", 20, "method=poco start=20", "method=poco norm=true start=20")
  end)

  it("goes on with a correction's snapshot, and with a schedule that changes there", function()
    check("method=poco", 33, "since=33 late=0.02", "method=poco since=33 late=0.02")
  end)

  it("changes nothing where no option changes", function()
    check("method=poco norm=true", 36, "", "method=poco norm=true")
    check("method=svrg every=7", 35, "", "method=svrg every=7")
  end)

  it("begins a pass anew that the checkpoint of that step is inside of", function()
    files.write(scratch .. "/crash", "24")
    assert.equal(1, (run "--runs=runs/a r.lua method=svrg always=true"))
    assert(os.remove(scratch .. "/crash"))
    assert.matches("pass.cursor", read "runs/a/svrg/checkpoints/step-24.safetensors", 1, true)
    local said = done "--runs=runs/b branch runs/a/svrg@24 since=24 late=0.02"
    assert.equal("perigee: there is no checkpoint of step 24; repeating runs/a/svrg from step 23\n", said)
    done "--runs=runs/c r.lua method=svrg always=true since=24 late=0.02"
    assert.is_true(final "runs/c/svrg" == final "runs/b/svrg-from24")
    assert.same(lines("runs/c/svrg", 24), lines("runs/b/svrg-from24", 24))
  end)

  it("is resumed bit for bit, and branched itself", function()
    done "r.lua method=ivon"
    done "branch runs/ivon@23 method=poco start=23"
    files.write(scratch .. "/crash", "34")
    assert.equal(1, (run "branch runs/ivon@23 method=poco start=23"))
    assert(os.remove(scratch .. "/crash"))
    local settings = read "runs/poco-from23-2/settings.json"
    assert.matches('"branch":{.*"run":"runs/ivon","step":23}', settings)
    done "resume runs/poco-from23-2"
    assert.is_true(final "runs/poco-from23" == final "runs/poco-from23-2")
    assert.equal(read "runs/poco-from23/metrics.jsonl", read "runs/poco-from23-2/metrics.jsonl")
    assert.is_truthy(files.read(scratch .. "/runs/poco-from23-2/checkpoints/step-23.safetensors"))
    -- a branch of the branch, from its first checkpoint on, without the run it came from
    assert(os.execute(("rm -r %s/runs/ivon"):format(scratch)))
    done "branch runs/poco-from23-2@28 since=28 late=0.01"
    done "r.lua method=poco start=23 since=28 late=0.01"
    assert.is_true(final "runs/poco-from28" == final "runs/poco")
    assert.same(lines("runs/poco", 28), lines("runs/poco-from28", 28))
    local code, said = run "branch runs/poco-from23-2@9"
    assert.equal(2, code)
    assert.equal("perigee: runs/poco-from23-2 begins at step 23 of runs/ivon: branch that one\n", said)
  end)

  it("leaves the parent as it is, and says on one line what does not fit", function()
    done "r.lua method=sgd"
    local before = io.popen(("cd %s/runs/sgd && cat * checkpoints/* 2>&1 | sha256sum; ls -R"):format(scratch)):read("a")
    for options, expected in pairs {
      ["method=ivon"] = "from: runs/sgd@23 keeps no q.h, which family diagonal needs",
      ["hidden=9"] = "from: q.mean of runs/sgd@23 is f32 with 67 numbers in 4 tensors, this run's f32 with 75 in 4",
      ["epochs=4"] = "from: runs/sgd@23 lies beyond the end of this run, whose 20 steps count from the beginning of ",
    } do
      local code, said = run("branch runs/sgd@23 " .. options)
      assert.equal(1, code)
      assert.matches(expected, said, 1, true)
      assert.equal(2, select(2, said:gsub("\n", "")))
    end
    local after = io.popen(("cd %s/runs/sgd && cat * checkpoints/* 2>&1 | sha256sum; ls -R"):format(scratch)):read("a")
    assert.equal(before, after)
  end)

  it("goes on with the run of the same name where a recipe makes several", function()
    files.write(scratch .. "/two.lua", [[
local o = pg.options { factor = 2, skip = false }
for _, name in ipairs { "one", "two" } do
  if not (o.skip and name == "two") then
    pg.run { name = name, seed = 1, steps = 6, checkpoint_every = { steps = 1 }, keep = 9, state = { x = 1.0, n = 0 },
      step = function(st, ctx)
        st.x, st.n = st.x * (name == "two" and o.factor or 1), st.n + 1
        ctx:log { x = st.x }
      end }
  end
end
]])
    done "two.lua"
    done "branch runs/two@4 factor=3"
    assert.matches('{"step":3,"x":16.0}\n{"step":4,"x":48.0}\n{"step":5,"x":144.0}\n$',
      read "runs/two-from4/metrics.jsonl")
    assert.equal(read "runs/one/metrics.jsonl", read "runs/one-from4/metrics.jsonl")
    local code, said = run "branch runs/two@4 skip=true"
    assert.equal(1, code)
    assert.equal("perigee: with these options the recipe makes no run two#1 to go on with\n", said)
  end)
end)
