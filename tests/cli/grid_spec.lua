-- Facts about `perigee RECIPE.lua lr=0.1,0.3 seed=1..3`: a run of its own for each combination, a table in the end, and
-- going on after a combination that failed or was killed.
local files = require "files"

local program, scratch = files.program(), files.scratch()

-- A file `trouble` beside it holds "seed kind": what happens to the run with that seed in its third step.
local RECIPE = [[
local o = pg.options { rate = 0.5, seed = 1, title = "t" }
local file = io.open "trouble"
local seed, kind = (file and file:read "a" or ""):match "^(%d+) (%a+)"
local r = pg.run { name = "halving", seed = o.seed, steps = 5, checkpoint_every = { steps = 1 }, state = { x = 1.0 },
  step = function(st, ctx)
    st.x = st.x * o.rate + o.seed
    ctx:log { loss = st.x }
    if ctx.step == 2 and tonumber(seed) == o.seed then
      if kind == "fails" then error "diverged" end
      os.execute("kill -9 $PPID")
    end
  end }
print(o.title, r.state.x)
]]

local function run(arguments)
  local command = "cd %s && %s %s >out.txt 2>err.txt </dev/null"
  local _, _, code = os.execute(command:format(scratch, program, arguments))
  return code, assert(files.read(scratch .. "/out.txt")), assert(files.read(scratch .. "/err.txt"))
end

local function list(path) return io.popen(("ls %s/%s"):format(scratch, path)):read("a"):gsub("\n", " ") end

describe("a grid", function()
  before_each(function()
    assert(os.execute(("rm -rf %s/runs %s/trouble"):format(scratch, scratch)))
    files.write(scratch .. "/r.lua", RECIPE)
  end)
  teardown(function() os.execute("rm -r " .. scratch) end)

  it("makes a run of its own for each combination, and ends with a table over seeds", function()
    local code, out, err = run "r.lua rate=0,1 seed=1..3"
    assert.equal(0, code, err)
    assert.equal("grid.json halving-rate0-seed1 halving-rate0-seed2 halving-rate0-seed3 halving-rate1-seed1 "
      .. "halving-rate1-seed2 halving-rate1-seed3 recipe.lua ", (list "runs/r-grid"))
    assert.matches("halving rate=0  1, 2, 3           2      1 … 3", out, 1, true)
    assert.matches("halving rate=1  1, 2, 3          11     6 … 16", out, 1, true)
    assert.matches("\n6 of 6 combinations done; perigee compare runs/r%-grid draws them\n$", out)
    assert.matches("^perigee: 1 of 6: rate=0 seed=1\n", err)
    assert.equal(0, (run "r.lua rate=0,1"))
    assert.equal("halving-rate0 halving-rate1 recipe.lua ", (list "runs/r-grid-2"):gsub("^grid.json ", ""))
  end)

  it("goes on with the others when one fails, and tries that one again when it is resumed", function()
    files.write(scratch .. "/trouble", "2 fails")
    local code, out, err = run "r.lua seed=1..3"
    assert.equal(1, code)
    assert.matches("diverged", err, 1, true)
    assert.matches("failed: seed=2\n", out, 1, true)
    assert.matches("2 of 3 combinations done", out, 1, true)
    assert(os.remove(scratch .. "/trouble"))
    code, out, err = run "resume runs/r-grid"
    assert.equal(0, code, err)
    assert.equal("perigee: 2 of 3: seed=2\n", err)
    assert.matches("3 of 3 combinations done", out, 1, true)
    assert.equal("grid.json halving-seed1 halving-seed2 halving-seed3 recipe.lua ", (list "runs/r-grid"))
  end)

  it("goes on after a kill as if there had been none", function()
    assert.equal(0, (run "--runs=whole r.lua rate=0.5,0.25 seed=1,2"))
    files.write(scratch .. "/trouble", "2 kill")
    run "--trust r.lua rate=0.5,0.25 seed=1,2"
    assert.equal("grid.json halving-rate0.5-seed1 halving-rate0.5-seed2 recipe.lua ", (list "runs/r-grid"))
    assert(os.remove(scratch .. "/trouble"))
    assert.equal(2, (run "resume runs/r-grid"))
    local code, _, err = run "--trust resume runs/r-grid"
    assert.equal(0, code, err)
    assert.equal(list "whole/r-grid", list "runs/r-grid")
    for _, name in ipairs { "halving-rate0.5-seed2", "halving-rate0.25-seed2" } do
      for _, path in ipairs { "metrics.jsonl", "checkpoints/step-5.safetensors" } do
        assert.is_true(files.read(("%s/whole/r-grid/%s/%s"):format(scratch, name, path))
          == files.read(("%s/runs/r-grid/%s/%s"):format(scratch, name, path)), name .. "/" .. path)
      end
    end
  end)

  it("leaves a comma in a string alone, and takes lists of strings in braces", function()
    local code, out = run "r.lua title=a,b"
    assert.equal(0, code)
    assert.matches("^a,b\t", out)
    assert.equal("halving ", (list "runs"))
    code, out = run "r.lua 'title={a,b}' seed=1"
    assert.equal(0, code)
    assert.matches("^a\t[%d.]+\nb\t", out)
  end)

  it("runs nothing if one of its values is wrong", function()
    local code, _, err = run "r.lua rate=0.5,fast"
    assert.equal(2, code)
    assert.equal("perigee: option rate=fast: expected a number\n", err)
    assert.equal("", (list "runs 2>/dev/null"))
  end)
end)
