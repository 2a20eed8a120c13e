-- The product: every family × correction × rule that fit together takes 50 steps on a logistic regression, stays
-- finite and lowers the loss; stopped in the middle, within full passes too, it continues elsewhere with the same bits;
-- and `perigee check` passes on it. In the first part the programs are interpreted, whose bits are those of compiled
-- code, so that hundreds of methods take seconds.
local support = require "support"
local methods = require "methods"
local problems = require "problems"
local builder = require "perigee.builder"
local core = support.core

local N, D, B = 60, 4, 10
local STEPS = 50
local KEY = core.key(3)

local function problem()
  local p = problems.random_logistic(N, D, { batch = B })
  p.evaluator.total_steps = STEPS
  return p
end

-- Steps from st.step to `last`. stop(st, done) is asked in every pass.
local function go(p, opt, st, last, stop)
  while st.step < last do
    local _, info = opt:step(st, p.evaluator, p.cyclic(st.step, B), nil, { on_pass = stop })
    if info.suspended then return st end
  end
  return st
end

-- The same state in another process: made anew, filled with what a checkpoint holds.
local function move(p, opt, st)
  local tensors = {}
  for i, row in ipairs(st:tensors()) do tensors[i] = { row[1], row[2]:copy() } end
  local other = opt:init(p.theta0(), KEY)
  other:load(tensors, st:numbers())
  return other
end

-- All steps at once → the state, and how many batches its passes had.
local function run_through(p, method)
  local opt, batches = method.make(), 0
  local st = go(p, opt, opt:init(p.theta0(), KEY), STEPS, function() batches = batches + 1 end)
  for _, row in ipairs(st:tensors()) do
    assert(row[2]:isfinite():all():item(), ("%s: %s is not finite"):format(method.name, row[1]))
  end
  local all = p.cyclic(0, N)
  local start, loss = p.evaluator:evaluate(p.theta0(), all), p.evaluator:evaluate(st.theta, all)
  assert(loss < 0.9 * start, ("%s: loss %g from %g"):format(method.name, loss, start))
  return st, batches
end

-- The same steps, moved elsewhere between two steps, and between two batches of a pass, the one at half of them.
local function run_in_parts(p, method, batches)
  local opt = method.make()
  local st = go(p, opt, opt:init(p.theta0(), KEY), 17)
  opt = method.make()
  st = go(p, opt, move(p, opt, st), 31)
  local at = 0
  st = go(p, opt, st, STEPS, function()
    at = at + 1
    return at ~= batches // 2 + 1
  end)
  opt = method.make()
  return go(p, opt, move(p, opt, st), STEPS)
end

describe("the product", function()
  local before
  setup(function() before, builder.executor = builder.executor, "interpret" end)
  teardown(function() builder.executor = before end)

  for _, family in ipairs(methods.families) do
    it(family .. ": every correction and rule lowers the loss, and resumes from anywhere", function()
      local list = methods.over(family)
      for _, method in ipairs(list) do
        local p = problem()
        local st, batches = run_through(p, method)
        local again = run_in_parts(p, method, batches)
        assert.are.equal(support.state_bytes(st), support.state_bytes(again), method.name)
        assert.are.equal(st.cost:gradients(), again.cost:gradients(), method.name)
      end
      print(("%d methods over %s"):format(#list, family))
    end)
  end
end)

describe("perigee check", function()
  for _, family in ipairs(methods.families) do
    it("passes on every method over " .. family, function()
      local perigee = os.getenv "PERIGEE" or "build/perigee"
      local runs = os.tmpname()
      os.remove(runs)
      -- no compiler: the same bits, without compiling a thousand programs
      local command = "PERIGEE_CC=/nonexistent %s check --trust --runs %s tests/lua/every_method.lua family=%s 2>&1"
      local pipe = assert(io.popen(command:format(perigee, runs, family)))
      local text = pipe:read("a")
      local ok = pipe:close()
      assert(ok, text)
      assert.is_nil(text:find("FAIL", 1, true), text)
      local _, passed = text:gsub("\nok  ", "")
      assert(passed + 1 >= #methods.over(family), text)
    end)
  end
end)
