-- Facts about methods that take several gradients in a step, or correct them by those before: SAM and ASAM, SVRG and
-- its kin, MARS and FedSpeed follow trajectories of independent implementations, most as whole steps of an optimizer.
local support = require "support"
local given = require "given_gradients"
local replay = require "rule_replay"
local pg, core = support.pg, support.core
local golden = dofile "tests/golden/rules_paired.lua"
local correction, family, rule = pg.correction, pg.family, pg.rule

-- Replay a case by an optimizer. how: { pairs(step, theta, before) → what the step's batch is made of, gradients by
-- points, where before is theta one step ago, or with before = "snapshot" at the last pass; after(step, dump, near) }.
local function follow(case, dtype, opt, how)
  local theta, layout = replay.begin(golden.problems[case.problem], dtype)
  local source, tolerance = given.source(), replay.tolerance(case, dtype)
  local evaluator = pg.evaluator { loss = given.loss, source = source, steps_per_epoch = 100 }
  local st = opt:init(theta, core.key(1))
  local before = st.theta:copy()
  local function near(x, list, what)
    local d = support.difference(x:totable(), list)
    assert(d <= tolerance, ("%s: off by %g"):format(what, d))
  end
  for k, step in ipairs(case.steps) do
    local now, dump = st.theta:copy(), {}
    if step.inputs.full then source.set(given.batch(layout, dtype, { { now, step.inputs.full } })) end
    opt:step(st, evaluator, given.batch(layout, dtype, how.pairs(step, now, before)), nil, { dump = dump })
    near(st.theta, step.params, "step " .. k)
    if how.after then how.after(step, dump, near) end
    if how.before ~= "snapshot" or step.inputs.full then before = now end
  end
end

-- A test f(case, dtype, options) for each case of an optimizer, in f64 and f32.
local function each_case(optimizer, f)
  for _, case in ipairs(golden.cases) do
    for _, dtype in ipairs(case.optimizer == optimizer and { "f64", "f32" } or {}) do
      it(("%s in %s"):format(case.id, dtype), function() f(case, dtype, case.hyper) end)
    end
  end
end

describe("golden replay", function()
  each_case("SAM", function(case, dtype, h)
    local opt = pg.optimizer { family = h.adaptive and family.asam { rho = h.rho } or family.sam { rho = h.rho },
      rule = rule.sgd { lr = h.lr, momentum = h.momentum }, weight_decay = h.wd }
    follow(case, dtype, opt, {
      pairs = function(step, now)
        return { { now, step.inputs.grad }, { step.extra.perturbed, step.inputs.grad2 } }
      end,
      after = function(step, dump, near)
        near(dump["evaluation.1.sample.2.theta"], step.extra.perturbed, "perturbed")
      end,
    })
  end)

  local function now_and_before(step, now, before)
    return { { now, step.inputs.grad }, { before, step.inputs.grad_prev } }
  end

  local recursive = {
    svrg = function(h) return correction.svrg { every = 5, alpha = h.alpha } end,
    sarah = function(h)
      -- lr d / |d|: SPIDER's step, for which 1 / (2 L) is never the smaller one
      return h.normalize and correction.spider { every = 5, eps = 1e-9, L = 1e-9 } or correction.sarah { every = 5 }
    end,
    -- beside such a w the sum of squares vanishes: the step is 1, and the weight a constant
    storm = function(h) return correction.storm { k = 1e10, w = 1e30, c = h.a } end,
  }
  each_case("Recursive", function(case, dtype, h)
    local opt = pg.optimizer { rule = rule.sgd { lr = h.lr }, correction = recursive[h.kind](h) }
    follow(case, dtype, opt, { pairs = now_and_before, before = h.kind == "svrg" and "snapshot" or nil })
  end)

  -- The rule behind MARS, for matrices.
  local behind_mars = {
    adamw = function(h) return rule.adamw { lr = h.lr, beta1 = h.b1, beta2 = h.b2, eps = h.eps } end,
    lion = function(h) return rule.lion { lr = h.lr, beta1 = h.b1, beta2 = h.b1 } end,
    -- Newton-Schulz of m / (1 - beta1), to which eps is added
    shampoo = function(h)
      return rule.muon { lr = h.lr, momentum = h.b1, nesterov = false, eps = h.eps * (1 - h.b1), outputs = "rows" }
    end,
  }
  local function is_matrix(_, shape) return #shape == 2 end
  each_case("MARS", function(case, dtype, h)
    local r, decay, all = behind_mars[h.kind](h), h.wd, h.one_d
    if not all and case.problem == "mix" then
      r = rule.split { { is_matrix, r, name = "matrices" },
        { rule.adamw { lr = h.lr1, beta1 = h.b1_1, beta2 = h.b2_1, eps = h.eps }, name = "others" } }
      decay = pg.per_tensor(function(name, shape) return is_matrix(name, shape) and h.wd or h.wd1 end)
    end
    local mars = correction.mars { gamma = h.gamma, beta1 = h.b1, clip = "per_tensor", exact = h.exact,
      matrices_only = not all }
    follow(case, dtype, pg.optimizer { rule = r, correction = mars, weight_decay = decay }, {
      pairs = function(step, now, before)
        return h.exact and now_and_before(step, now, before) or { { now, step.inputs.grad } }
      end,
    })
  end)
end)

-- ---- FedSpeed -------------------------------------------------------------------------------------------------------

-- A method of clients and a server is no rule: it is a loop in a recipe, a local step of all clients at once.
describe("FedSpeed", function()
  local case = golden.special.fedspeed
  local n = #case.init

  -- A local step of a client: from x, with the round's beginning, its dual variable and two gradients.
  local function local_step(x, start, h, g, g2, lr)
    local pull = (1 - case.alpha) * g + case.alpha * g2 + case.lam * (h - start)
    local clipped = pull * pg.minimum(case.clip / (pg.sqrt((pull * pull):sum()) + 1e-6), 1)
    return x - lr * (clipped + (case.lam + case.wd) * x)
  end

  for _, dtype in ipairs { "f64", "f32" } do
    it("is a loop over rounds, its clients batched: fedspeed in " .. dtype, function()
      local tolerance = dtype == "f64" and 1e-12 or 1e-5
      local all_clients = pg.jit(pg.vmap(local_step, { 1, false, 1, 1, 1, false }))
      local server, h, taken = pg.tensor(case.init, dtype), pg.zeros({ case.clients, n }, dtype), 0
      -- gradients of all clients at local step k of a round: at x and at the perturbed point
      local function gradients(k)
        local lists = { {}, {} }
        for client = 0, case.clients - 1 do
          for which = 1, 2 do lists[which][client + 1] = case.grads[taken + (client * case.K + k) * 2 + which] end
        end
        return pg.tensor(lists[1], dtype), pg.tensor(lists[2], dtype)
      end
      for round = 1, case.rounds do
        local x, lr = pg.zeros({ case.clients, n }, dtype) + server, case.lr * case.lr_decay ^ (round - 1)
        for k = 0, case.K - 1 do
          local g, g2 = gradients(k)
          x = all_clients(x, server, h, g, g2, pg.tensor(lr, dtype))
        end
        taken = taken + 2 * case.K * case.clients
        h = h + (x - server)
        server = x:mean(1) + h:mean(1)
        assert(support.difference(server:totable(), case.server[round]) <= tolerance, "round " .. round)
      end
      assert(support.difference(h:reshape(-1):totable(), case.h) <= tolerance)
    end)
  end
end)
