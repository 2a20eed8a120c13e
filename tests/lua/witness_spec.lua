-- Facts about steps that are watched and steps whose noise is given: what is shown, that the bits are the same, what is
-- refused.
local pg = require "perigee"
local core = require "perigee.core"

local N = 24
local x = pg.randn(pg.key(1), { N, 4 })
local y = x:sum(2):gt(0):to("i64")
local model = pg.nn.sequential { pg.nn.linear(4, 5), pg.nn.tanh(), pg.nn.dropout(0.2), pg.nn.linear(5, 2) }
local theta = model:init(pg.key(2))
local source = pg.evaluator.memory { x = x, y = y }

-- Five steps with the options that hooks(k) gives: the state, and the options.
local function train(opt, hooks, micro)
  local evaluator = pg.evaluator { model = model, source = source, key = pg.key(4), batch = 8, micro = micro,
    steps_per_epoch = 3, loss = function(net, at, batch, ctx)
      return pg.cross_entropy(net(at, batch.x, ctx), batch.y)
    end }
  local st, given = opt:init(theta, pg.key(3)), {}
  for k = 1, 5 do
    given[k] = hooks and hooks(k) or {}
    opt:step(st, evaluator, source:take(pg.arange(8):to("i64") + 8 * (k % 3)), nil, given[k])
  end
  return st, given
end

local function bytes(st)
  local parts = {}
  for i, entry in ipairs(st:tensors()) do parts[i] = entry[1] .. entry[2]:bytes() end
  return table.concat(parts)
end

local METHODS = {
  sgd = pg.optim.sgd { lr = 0.1 }, svrg = pg.optim.svrg { lr = 0.1, every = 2 },
  ivon = pg.optim.ivon { lr = 0.1, ess = N, h0 = 0.5 },
  poco = pg.optim.ivon_poco { lr = 0.1, ess = N, h0 = 0.5, every = 2 },
  fresh = pg.optim.ivon_poco { lr = 0.1, ess = N, h0 = 0.5, every = 2, noise = "fresh" },
  mirrored = pg.optimizer { family = pg.family.diagonal { ess = N, h0 = 0.5, samples = 4, antithetic = true },
    rule = pg.rule.ivon { lr = 0.1 } },
  isotropic = pg.optim.variational_sgd_poco { lr = 0.1, sigma = 0.1, every = 2 },
  full = pg.optim.newton_poco { lr = 0.1, ess = N, h0 = 0.5, every = 2 },
}

-- Many small programs that run a few times: compiling them takes longer.
setup(function() core.set_executor("interpret") end)
teardown(function() core.set_executor("auto") end)

describe("a watched step", function()
  it("has the bits of one that is not", function()
    for name, opt in pairs(METHODS) do
      local plain, watched = train(opt), train(opt, function() return { dump = {} } end)
      assert.is_true(bytes(plain) == bytes(watched), name)
    end
  end)

  it("shows each evaluation, and what the rule got", function()
    local _, given = train(METHODS.poco, function() return { dump = {} } end)
    local seen = given[4].dump
    local names = {}
    for name in pairs(seen) do names[#names + 1] = name end
    table.sort(names)
    assert.same({ "evaluation.1.sample.1.gradient", "evaluation.1.sample.1.loss", "evaluation.1.sample.1.noise",
      "evaluation.1.sample.1.theta", "evaluation.1.statistics.g", "evaluation.1.statistics.h",
      "evaluation.2.sample.1.gradient", "evaluation.2.sample.1.loss", "evaluation.2.sample.1.noise",
      "evaluation.2.sample.1.theta", "evaluation.2.statistics.g", "evaluation.2.statistics.h", "statistics.g",
      "statistics.h" }, names)
    -- the two evaluations share their noise, and a gradient is the statistic of one sample
    assert.equal(seen["evaluation.1.sample.1.noise"]:bytes(), seen["evaluation.2.sample.1.noise"]:bytes())
    assert.equal(seen["evaluation.2.sample.1.gradient"]:bytes(), seen["evaluation.2.statistics.g"]:bytes())
  end)

  it("shows points where they were before the step moved them", function()
    local before
    local st = METHODS.sgd:init(theta, pg.key(3))
    local evaluator = pg.evaluator { model = pg.nn.sequential { pg.nn.linear(4, 2) }, key = pg.key(4),
      loss = function(_, at) return (at["1.weight"] ^ 2):mean() end }
    for _ = 1, 3 do
      before = st.theta:bytes()
      local dump = {}
      METHODS.sgd:step(st, evaluator, source:take(pg.arange(8):to("i64")), nil, { dump = dump })
      assert.is_true(dump["evaluation.1.sample.1.theta"]:bytes() == before and before ~= st.theta:bytes())
    end
  end)

  it("shows single points only where a batch is evaluated at once", function()
    local _, given = train(METHODS.svrg, function() return { dump = {} } end, 2)
    assert.is_nil(given[1].dump["evaluation.1.sample.1.theta"])
    assert.is_truthy(given[1].dump["evaluation.1.statistics.g"])
  end)
end)

describe("noise from outside", function()
  -- The noise that evaluation e of each step drew, by sample.
  local function noise_of(dump, e, samples)
    local list = {}
    for k = 1, samples do list[k] = dump[("evaluation.%d.sample.%d.noise"):format(e, k)] end
    return list
  end

  it("repeats a run with the noise that it drew itself", function()
    for name, opt in pairs(METHODS) do
      local samples = opt.family.samples
      if opt.family:has_noise() then
        local plain, drawn = train(opt, function() return { dump = {} } end)
        local again = train(opt, function(k)
          local dump = drawn[k].dump
          local first = noise_of(dump, 1, samples)
          if name == "fresh" then return { noise = { first, noise_of(dump, 2, samples) } } end
          if name == "mirrored" then return { noise = { first[1], first[3] } } end -- one for each pair
          return { noise = k % 2 == 0 and first or first[1] and samples == 1 and { first } and first }
        end)
        assert.is_true(bytes(plain) == bytes(again), name)
      end
    end
  end)

  it("is used: twice the noise, twice as far from the mean", function()
    local eps = pg.family.normal(pg.key(8), theta)
    for _, name in ipairs { "ivon", "isotropic", "full" } do
      local one, two
      for factor = 1, 2 do
        local dump = {}
        train(METHODS[name], function(k) return k == 1 and { noise = eps * factor, dump = dump } or {} end)
        local away = dump["evaluation.1.sample.1.theta"] - theta
        if factor == 1 then one = away else two = away end
      end
      assert.is_true((two - 2 * one):norm():item() < 1e-5 * two:norm():item(), name)
    end
  end)

  it("is refused where it does not fit", function()
    local function refused(expected, opt, noise, micro)
      local ok, message = pcall(train, opt, function() return { noise = noise } end, micro)
      assert.is_false(ok)
      assert.matches(expected, message, 1, true)
    end
    refused("noise is a vector or a list of vectors, not 3", METHODS.ivon, 3)
    refused("noise is given, and family point draws none", METHODS.svrg, theta)
    refused("noise has no vector for sample 2 of evaluation 1", METHODS.mirrored, { theta })
    refused("noise of sample 1 of evaluation 1 must be like the parameters (f32, 37 numbers)", METHODS.ivon,
      pg.ones { 3 })
    refused("noise can be given where a step evaluates its whole batch at once, with micro = 1", METHODS.ivon, theta, 2)
  end)
end)
