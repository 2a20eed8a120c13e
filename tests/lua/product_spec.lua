-- The product: every family × correction × rule that fit together takes 50 steps on a logistic regression, stays
-- finite and lowers the loss; and stopped in the middle, within full passes too, continues elsewhere with the same bits.
-- The programs are interpreted, whose bits are those of compiled code, so that hundreds of methods take seconds.
local support = require "support"
local problems = require "problems"
local builder = require "perigee.builder"
local pg, core = support.pg, support.core
local correction, family, rule, wrapper = pg.correction, pg.family, pg.rule, pg.wrapper

local N, D, B = 60, 4, 10
local STEPS, EVERY = 50, 12
local KEY = core.key(3)

local families = {
  point = function() return family.point {} end,
  isotropic = function() return family.isotropic { sigma = 0.05 } end,
  isotropic_pairs = function() return family.isotropic { sigma = 0.05, samples = 2, antithetic = true } end,
  diagonal = function() return family.diagonal { ess = 600, h0 = 0.3, beta2 = 0.995 } end,
  diagonal_gradsq = function()
    return family.diagonal { ess = 60, h0 = 0.3, beta2 = 0.995, hess_approx = "gradsq", noise = false }
  end,
}

local corrections = {
  none = function() end,
  svrg = function() return correction.svrg { every = EVERY } end,
  svrg_fresh = function() return correction.svrg { every = EVERY, noise = "fresh", antithetic = true } end,
  svrg_part = function() return correction.svrg { every = EVERY, alpha = 0.5, alpha_h = 0.2, start = 5, mega = 3 } end,
  alpha_svrg = function() return correction.alpha_svrg { every = EVERY } end,
  alpha_all = function() return correction.alpha_svrg { every = EVERY, estimate = "all" } end,
  alpha_tensor = function() return correction.alpha_svrg { every = EVERY, estimate = "tensor" } end,
  alpha_component = function() return correction.alpha_svrg { every = EVERY, estimate = "component" } end,
  lsvrg = function() return correction.lsvrg { p = 0.1 } end,
  svrg_bb = function() return correction.svrg_bb { every = EVERY, eta0 = 1 } end,
  adasvrg = function() return correction.adasvrg { every = EVERY } end,
  sarah = function() return correction.sarah { every = EVERY } end,
  sarah_plus = function() return correction.sarah { every = EVERY, plus = 0.3 } end,
  spider = function() return correction.spider { every = EVERY, eps = 0.2, L = 1 } end,
  page = function() return correction.page { p = 0.15 } end,
  storm = function() return correction.storm { k = 0.5, c = 2 } end,
  storm_per_tensor = function() return correction.storm { k = 0.5, c = 2, per_tensor = true } end,
  storm_plus = function() return correction.storm_plus {} end,
  mars = function() return correction.mars {} end,
  mars_approximate = function() return correction.mars { exact = false, clip = "per_tensor" } end,
}

local rules = {
  sgd = function() return rule.sgd { lr = 0.5 } end,
  momentum = function() return rule.sgd { lr = 0.1, momentum = 0.9 } end,
  adamw = function() return rule.adamw { lr = 0.05 } end,
  ivon = function() return rule.ivon { lr = 0.5 } end,
  katyusha = function() return wrapper.katyusha { L = 1, sigma = 0.01, m = EVERY } end,
  lkatyusha = function() return wrapper.lkatyusha { L = 1, sigma = 0.01, rule = rule.sgd { lr = 1, momentum = 0.5 } } end,
}

-- Whether the parts go together, by what they need.
local function fit(f, c, r)
  if r == "ivon" then return f:find "^diagonal" or f == "full" end
  if r == "newton" then return f == "full" end
  if r == "katyusha" then return c == "svrg" end
  if r == "lkatyusha" then return c == "lsvrg" end
  return true
end

local function make(f, c, r)
  return pg.optimizer { family = families[f](), correction = corrections[c](), rule = rules[r](), weight_decay = 1e-3 }
end

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

describe("the product", function()
  local before
  setup(function() before, builder.executor = builder.executor, "interpret" end)
  teardown(function() builder.executor = before end)

  for _, f in ipairs(support.sorted_names(families)) do
    it(f .. ": every correction and rule lowers the loss, and resumes from anywhere", function()
      local count = 0
      for _, c in ipairs(support.sorted_names(corrections)) do
        for _, r in ipairs(support.sorted_names(rules)) do
          if fit(f, c, r) then
            local what = ("%s × %s × %s"):format(f, c, r)
            local p, opt = problem(), make(f, c, r)
            local start = p.evaluator:evaluate(p.theta0(), p.cyclic(0, N))
            local passes = 0
            local st = go(p, opt, opt:init(p.theta0(), KEY), STEPS, function() passes = passes + 1 end)
            for _, row in ipairs(st:tensors()) do
              assert(row[2]:isfinite():all():item(), ("%s: %s is not finite"):format(what, row[1]))
            end
            local loss = p.evaluator:evaluate(st.theta, p.cyclic(0, N))
            assert(loss < 0.9 * start, ("%s: loss %g from %g"):format(what, loss, start))
            -- once between two steps, and once between two batches of a pass
            local again = go(p, opt, opt:init(p.theta0(), KEY), 17)
            local second = make(f, c, r)
            again = go(p, second, move(p, second, again), 31)
            local at, target = 0, passes // 2 + 1
            again = go(p, second, again, STEPS, function()
              at = at + 1
              return at ~= target
            end)
            local third = make(f, c, r)
            again = go(p, third, move(p, third, again), STEPS)
            assert.are.equal(support.state_bytes(st), support.state_bytes(again), what)
            assert.are.equal(st.cost:gradients(), again.cost:gradients(), what)
            count = count + 1
          end
        end
      end
      print(("%d methods over %s"):format(count, f))
    end)
  end
end)
