-- Facts about what an optimizer's state takes over from another run, for every correction and rule: with the same
-- method nothing is lost; with a correction that begins at that step, the rest has the bits of a run that had it,
-- waiting, from the start.
local support = require "support"
local methods = require "methods"
local problems = require "problems"
local builder = require "perigee.builder"
local checkpoint = require "perigee.checkpoint"

local core = support.core

local N, B = 60, 10
local AT, STEPS = 14, 32 -- in the middle of an epoch of 6 steps, and of a period of 12
local KEY = core.key(3)

local function problem()
  local p = problems.random_logistic(N, 4, { batch = B })
  p.evaluator.total_steps = STEPS
  return p
end

local function go(p, opt, st, last)
  while st.step < last do opt:step(st, p.evaluator, p.cyclic(st.step, B)) end
  return st
end

local function begin(p, opt) return opt:init(p.theta0(), KEY) end

-- All that counts of a state, as one string.
local function bytes(st)
  local parts, numbers = { support.state_bytes(st) }, st:numbers()
  local names = {}
  for name in pairs(numbers) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do parts[#parts + 1] = ("%s=%s"):format(name, numbers[name]) end
  return table.concat(parts, " ")
end

-- A new state of `opt` that goes on where a run by `before` was at step AT.
local function branch(p, before, opt)
  local saved = checkpoint.snapshot(go(p, before, begin(p, before), AT))
  local st = begin(p, opt)
  opt:configure { steps_per_epoch = N // B, total_steps = STEPS }
  st:adopt(saved, "runs/x@14")
  return st
end

describe("adopting another run's state", function()
  local before
  setup(function() before, builder.executor = builder.executor, "interpret" end)
  teardown(function() builder.executor = before end)

  for _, family in ipairs { "point", "isotropic_pairs", "diagonal", "full" } do
    it(family .. ": with the same method loses nothing", function()
      for _, method in ipairs(methods.over(family)) do
        local p = problem()
        local whole = go(p, method.make(), begin(p, method.make()), STEPS)
        local opt = method.make()
        local again = go(p, opt, branch(p, method.make(), opt), STEPS)
        assert.is_true(bytes(whole) == bytes(again), method.name)
      end
    end)

    it(family .. ": gives it the bits of a correction that was there from the start, and began at that step", function()
      local count = 0
      for _, method in ipairs(methods.over(family)) do
        local given = method.make()
        -- the Katyushas do not run without their correction
        if given.correction and not method.name:find "katyusha" then
          local function late() return method.make():with { correction = given.correction:with { start = AT } } end
          local p = problem()
          local opt = late()
          local whole = go(p, opt, begin(p, opt), STEPS)
          opt = late()
          local again = go(p, opt, branch(p, method.make():with { correction = false }, opt), STEPS)
          assert.is_true(bytes(whole) == bytes(again), method.name)
          count = count + 1
        end
      end
      assert.is_true(count > 30)
    end)
  end
end)
