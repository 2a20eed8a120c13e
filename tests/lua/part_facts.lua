-- part_facts.lua: for each ready-made wrapper and stage a fact that holds for any gradients, as rule_facts.lua has them
-- for rules. kind → name → { statement, function }.
local assert = require "luassert"
local support = require "support"
local problems = require "problems"
local walks = require "walks"
local pg, core = support.pg, support.core
local correction, rule, stage, wrapper = pg.correction, pg.rule, pg.stage, pg.wrapper
local walk, near, same = walks.walk, walks.near, walks.same

local wrappers, stages = {}, {}

-- ---- wrappers ----

local MOMENTUM = rule.sgd { lr = 0.1, momentum = 0.9 }

wrappers.cautious = { "is the rule where all moves go against the gradient, and never moves along it", function()
  same(wrapper.cautious { rule = rule.sgd { lr = 0.1 } }, rule.sgd { lr = 0.1 }, {}, 1e-15)
  local _, _, path = walk(wrapper.cautious { rule = MOMENTUM })
  for k = 1, #path - 1 do
    local along = (path[k + 1] - path[k]) * walks.noise(path[1].layout, 100 + k)
    assert(along:max():item() <= 0 and along:eq(0):any():item() == (k > 1))
  end
end }

wrappers.lookahead = { "with alpha = 1 is the rule, with alpha = 0 where it began after every k steps", function()
  same(wrapper.lookahead { rule = MOMENTUM, k = 3, alpha = 1 }, MOMENTUM, {}, 1e-15)
  local _, _, path = walk(wrapper.lookahead { rule = MOMENTUM, k = 3, alpha = 0 })
  for k = 1, 6 do assert.are.equal(k % 3 == 0, walks.apart(path[1], path[k + 1]) == 0) end
end }

-- The path of a wrapper that averages, and the points where the run would be evaluated.
local function averaged(r)
  local opt = pg.optimizer { rule = r }
  local points, _, path = {}, nil, nil
  for steps = 1, 6 do
    local theta, state
    theta, state, path = walk(r, { steps = steps })
    local st = opt:init(theta)
    for name, tensor in pairs(st.rule) do tensor:copy_from(state[name]) end
    points[steps] = st:point():copy()
  end
  return path, points
end

wrappers.ema = { "with decay = 0 is evaluated at the parameters, with decay = 1 at those of the first step", function()
  for decay = 0, 1 do
    local path, points = averaged(wrapper.ema { rule = MOMENTUM, decay = decay })
    for k = 1, 6 do near(points[k], path[decay == 0 and k + 1 or 2], 0) end
  end
end }

wrappers.swa = { "is evaluated at the mean of all parameters passed", function()
  local path, points = averaged(wrapper.swa { rule = MOMENTUM })
  local sum = 0 * path[1]
  for k = 1, 6 do
    sum = sum + path[k + 1]
    near(points[k], sum / k, 1e-14)
  end
end }

wrappers.eight_bit = { "is the rule where nothing is coded, and else codes a block in units of its own", function()
  same(wrapper.eight_bit { rule = MOMENTUM }, MOMENTUM)
  local r, shapes = wrapper.eight_bit { rule = MOMENTUM, min_size = 0, block = 4 }, { { 16 } }
  local layout, codes = support.layout(shapes), {}
  for i, unit in ipairs { 1, 1024 } do
    local units = support.vector(layout, "f64", { { 1, 1, 1, 1, unit, unit, unit, unit, 1, 1, 1, 1, 1, 1, 1, 1 } })
    local _, state = walk(r, { shapes = shapes, gradient = function(k) return walks.noise(layout, k) * units end })
    codes[i] = state["buf.codes"]:flat():totable()
    assert(walks.apart(walk(MOMENTUM, { shapes = shapes }), walk(r, { shapes = shapes })) > 1e-5)
  end
  assert.are.same(codes[1], codes[2])
end }

-- Parameters after steps of a corrected method on a small logistic regression.
local function corrected(r, steps)
  local p = problems.random_logistic(24, 4)
  local c = (steps == 1 and correction.lsvrg or correction.svrg) { due = function(ctx) return ctx.step == 0 end }
  local opt = pg.optimizer { rule = r, correction = c }
  local st = opt:init(p.theta0() + 0.2, core.key(2))
  for k = 0, steps - 1 do opt:step(st, p.evaluator, p.cyclic(k, 6)) end
  return st.theta
end

wrappers.katyusha = { "with theta1 = 1 and theta2 = 0 is the rule with lr 1 / (3 L)", function()
  near(corrected(wrapper.katyusha { L = 2, sigma = 0, m = 10, theta1 = 1, theta2 = 0 }, 10),
    corrected(rule.sgd { lr = 1 / 6 }, 10), 1e-13)
end }

wrappers.lkatyusha = { "begins with a step of theta1 eta / L, as all its points are one", function()
  local theta1, theta2, L = 0.4, 0.3, 2
  local eta = theta2 / ((1 + theta2) * theta1)
  near(corrected(wrapper.lkatyusha { L = L, sigma = 0, theta1 = theta1, theta2 = theta2 }, 1),
    corrected(rule.sgd { lr = theta1 * eta / L }, 1), 1e-14)
end }

-- ---- stages ----

-- What stages after the correction make of a gradient, a list.
local function edited(list, ...)
  local p = problems.logistic { X = { { 0, 0, 0, 0 } }, y = { 1 }, loss = function(_, theta)
    return (theta:flat() * pg.tensor(list, "f64")):sum()
  end }
  local opt = pg.optimizer { rule = problems.watch { "g" }, stages = { combined = { ... } } }
  local st = opt:init(p.theta0(), core.key(3))
  opt:step(st, p.evaluator, p.batch { 0 })
  return st.rule.seen_g:totable()
end

local G = { 3, -0.5, 0.25, -8 }

local function times(list, factor)
  local scaled = {}
  for i, x in ipairs(list) do scaled[i] = factor * x end
  return scaled
end

stages.clip = { "leaves what is short as it is, cuts what is long, and has nothing to do the second time", function()
  for _, o in ipairs { { norm = 1 }, { value = 1 }, { per_tensor = 1 }, { norm = 1, value = 0.5 } } do
    local clip = stage.clip(o)
    assert.are.same(times(G, 1e-3), edited(times(G, 1e-3), clip))
    local once, twice = edited(G, clip), edited(G, clip, clip)
    assert(support.difference(once, twice) < 1e-6)
    local square = 0
    for _, x in ipairs(once) do square = square + x * x end
    assert(math.sqrt(square) <= (o.value == 1 and 2 or 1))
  end
end }

stages.normalize = { "takes no notice of scale, and has nothing to do the second time", function()
  for _, scope in ipairs { "global", "tensor", "elem" } do
    local normalize = stage.normalize { scope = scope }
    local once = edited(G, normalize)
    assert(support.difference(once, edited(times(G, 1e3), normalize)) < 1e-11)
    assert(support.difference(once, edited(G, normalize, normalize)) < 1e-11)
  end
end }

stages.noise = { "adds noise that does not depend on the gradient", function()
  local noise = stage.noise { variance = 4 }
  local a, b = edited(G, noise), edited(times(G, -2), noise)
  for i, x in ipairs(G) do assert(math.abs((a[i] - x) - (b[i] + 2 * x)) < 1e-14 and a[i] ~= x) end
  assert.are.same(G, edited(G, stage.noise { variance = 0 }))
end }

-- Examples whose gradients are the rows of a matrix [B, 2], and steps on them: gradients and the stage's slots.
local function private_steps(made, batches)
  local evaluator = pg.evaluator { loss = function(_, theta, batch)
    return (batch.c * theta:flat()):sum(-1):mean()
  end }
  local opt = pg.optimizer { rule = problems.watch { "g" }, stages = { per_evaluation = { made } } }
  local st, list = opt:init(support.flat("f64", { 0, 0 }), core.key(4)), {}
  for k, rows in ipairs(batches) do
    local ids = {}
    for i = 1, #rows do ids[i] = i - 1 end
    opt:step(st, evaluator, { c = pg.tensor(rows, "f64"), id = core.tensor("i64", { #rows }, ids) })
    list[k] = st.rule.seen_g:copy()
  end
  return list, st.stages.per_evaluation[1].values
end

local ROWS = { { 3, 4 }, { -1, 2 }, { 0.1, 0 }, { -30, 5 } }

stages.private = { "changes by at most clip / B when one example changes", function()
  local made = stage.private { clip = 0.5, noise_multiplier = 0 }
  local before = private_steps(made, { ROWS })[1]
  for i = 1, #ROWS do
    local others = { table.unpack(ROWS) }
    others[i] = { -100, 70 }
    local after = private_steps(made, { others })[1]
    local moved = (after - before):norm():item()
    assert(moved <= 2 * 0.5 / 4 and moved > 0.01)
  end
end }

stages.dice = { "lets out, with the error that is left, all that came in", function()
  local batches = {}
  for k = 1, 5 do batches[k] = { { 3 * k, 4 }, { -1, 2 - k }, { 0.1, 0 } } end
  local list, values = private_steps(stage.dice { clip = 0.5 }, batches)
  local sum, all = values.error, { 0, 0 }
  for k, rows in ipairs(batches) do
    sum = sum + list[k]
    for _, row in ipairs(rows) do for i = 1, 2 do all[i] = all[i] + row[i] / 3 end end
  end
  assert(support.difference(sum:totable(), all) < 1e-13)
end }

stages.batch_test = { "takes no notice of the gradients' scale, and leaves their mean as it is", function()
  for _, test in ipairs { "norm", "inner", "augmented", "coordinate" } do
    local ratios = {}
    for i, factor in ipairs { 1, 1e3 } do
      local rows = {}
      for k, row in ipairs(ROWS) do rows[k] = times(row, factor) end
      local list, values = private_steps(stage.batch_test { test = test }, { rows })
      ratios[i] = values.ratio:item()
      assert(support.difference(list[1]:totable(), { -6.975 * factor, 2.75 * factor }) < 1e-13)
    end
    assert(ratios[1] > 1 and math.abs(ratios[2] / ratios[1] - 1) < 1e-12, test)
  end
end }

return { wrapper = wrappers, stage = stages }
