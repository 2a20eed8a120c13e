-- Facts about `perigee compare`: what belongs together, the numbers in the table, the picture.
local files = require "files"

local program, scratch = files.program(), files.scratch()

-- A run whose loss after step k is scale × seed / (k + 1), and whose accuracy rises, at the end of a pass too.
local RECIPE = [[
local o = pg.options { scale = 1, seed = 1, name = "falling", steps = 4, broken = false }
pg.run { name = o.name, seed = o.seed, steps = o.steps, checkpoint_every = { steps = 1 }, keep = 9, state = { n = 0 },
  step = function(st, ctx)
    st.n = st.n + 1
    ctx:log { loss = o.broken and st.n > 2 and 0 / 0 or o.scale * o.seed / st.n, gradients = 10 * o.scale * st.n }
    ctx:log { split = "test", accuracy = st.n / 10, gradients = 10 * o.scale * st.n }
  end }
]]

local function run(arguments)
  local command = "cd %s && NO_COLOR=1 %s %s >out.txt 2>err.txt </dev/null"
  local _, _, code = os.execute(command:format(scratch, program, arguments))
  return code, assert(files.read(scratch .. "/out.txt")), assert(files.read(scratch .. "/err.txt"))
end

local function out(arguments)
  local code, said, err = run(arguments)
  assert.equal(0, code, err)
  return said
end

-- The lines of the table in a text, heads without rule, with runs of blanks as one "|", and no seconds.
local function table_of(text)
  local lines, inside = {}, false
  for line in text:gmatch("[^\n]+") do
    inside = inside or line:match("^run +seed") ~= nil
    if inside and not line:match("^%-%-") then lines[#lines + 1] = (line:gsub("  +", "|"):gsub("|[%d.]+$", "")) end
  end
  return lines
end

describe("perigee compare", function()
  setup(function()
    files.write(scratch .. "/r.lua", RECIPE)
    for _, words in ipairs { "seed=1", "seed=2", "seed=3", "scale=2 seed=1", "scale=2 seed=4", "name=other-5 seed=5",
      "name=other-6 seed=6" } do
      out("r.lua " .. words)
    end
  end)
  teardown(function() os.execute("rm -r " .. scratch) end)

  it("puts runs together that differ only in the seed, and gives means with the least and the largest", function()
    local text = out "compare runs/falling runs/falling-2 runs/falling-3 runs/falling-4 runs/falling-5"
    assert.same({
      "run|seed|final loss|min … max|least|min … max|at gradients|gradients|seconds",
      "falling|1, 2, 3|0.5|0.25 … 0.75|0.5|0.25 … 0.75|40|40",
      "falling scale=2|1, 4|1.25|0.5 … 2|1.25|0.5 … 2|80|80",
      "Values are means over the seeds, with the least and the largest beside them.",
    }, table_of(text))
  end)

  it("takes a directory of runs, knows a seed in a name and a quantity by its field alone", function()
    local rows = table_of(out "compare runs x=step y=accuracy")
    assert.equal("run|seed|final test.accuracy|min … max|largest|min … max|at step|step|seconds", rows[1])
    assert.equal("other|5, 6|0.4|0.4 … 0.4|0.4|0.4 … 0.4|3|3", rows[4])
  end)

  it("keeps a repetition apart, by its directory", function()
    out "--runs=twice r.lua seed=1"
    out "--runs=twice r.lua seed=1"
    out "--runs=twice r.lua seed=2"
    local rows = table_of(out "compare twice")
    assert.equal("twice/falling|1, 2|0.375|0.25 … 0.5|0.375|0.25 … 0.5|40|40", rows[2])
    assert.equal("twice/falling-2|1|0.25|0.25|40|40", rows[3])
  end)

  it("draws the mean and, in the picture, the spread as a band", function()
    local text = out "compare runs/falling runs/falling-2 svg=loss.svg title=Losses log=true"
    assert.matches("wrote loss.svg\n$", text)
    local svg = assert(files.read(scratch .. "/loss.svg"))
    assert.matches(">Losses<", svg, 1, true)
    assert.matches(">gradient evaluations<", svg, 1, true)
    assert.equal(1, select(2, svg:gsub("fill%-opacity", "")))
    assert.equal(1, select(2, svg:gsub('class="curve"', "")))
  end)

  it("keeps a run that diverged in the numbers", function()
    out "--runs=diverged r.lua seed=1 broken=true"
    local rows = table_of(out "compare diverged")
    assert.equal("falling|1|nan|0.5|20|40", rows[2])
  end)

  it("draws a branch with all that came before, and marks where it began", function()
    out "branch runs/falling@2 scale=3"
    local text = out "compare runs/falling runs/falling-from2 x=step"
    assert.matches("┊ branch", text, 1, true)
    local rows = table_of(text)
    assert.equal("falling@2 scale=3|1|0.75|0.5|1|3", rows[3])
  end)

  it("says on one line what it cannot compare", function()
    for arguments, expected in pairs {
      [""] = "expected run directories; see --help",
      ["runs y=los"] = 'y=los: the runs log no such thing; did you mean "loss"? (they log loss, test.accuracy)',
      ["runs x=steps"] = "option x=steps: expected one of gradients, step, epoch, seconds",
      ["runs x=epoch"] = "x=epoch: the runs log loss, but not against that",
      ["runs svgg=a.svg"] = 'unknown option svgg; did you mean "svg"? (options: x, y, svg, log, logx, title)',
      ["runs log=maybe"] = "option log=maybe: expected true or false",
      ["runz"] = "runz: neither a run directory nor one that holds some",
    } do
      local code, _, err = run("compare " .. arguments)
      assert.equal(2, code)
      assert.equal("perigee: " .. expected .. "\n", err)
    end
  end)
end)
