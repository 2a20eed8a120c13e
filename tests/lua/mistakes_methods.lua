-- mistakes_methods.lua: likely mistakes of a new user with families, corrections, wrappers and what looks at them, in
-- the form that mistakes_language.lua describes, with the line before them that mistakes_training.lua describes.

-- A recipe that trains with an optimizer.
local function with(optimizer, changes)
  return ("pg.train(with {\noptimizer = pg.optimizer { %s },\n%s })"):format(optimizer, changes or "")
end

local SGD = ", rule = pg.rule.sgd { lr = 0.1 }"

return {
  { "methods",
    { "a misspelt option of a correction", with("correction = pg.correction.svrg { evry = 3 }" .. SGD),
      "3: unknown option 'evry' of correction svrg; did you mean 'every'?" },
    { "a misspelt correction", with("correction = pg.correction.srvg {}" .. SGD),
      "3: pg.correction has no 'srvg'; did you mean pg.correction.svrg?" },
    { "a correction by name", with('correction = "svrg"' .. SGD),
      '3: pg.optimizer: correction must be a correction, as pg.correction.svrg {}, not "svrg"' },
    { "a correction outside the optimizer", [[
pg.train(with { correction = pg.correction.svrg {} })]],
      "2: unknown option 'correction' of pg.train (?pg.train at the prompt lists them)" },
    { "a learning rate for a correction", with("correction = pg.correction.svrg { lr = 1 }" .. SGD),
      "3: unknown option 'lr' of correction svrg (known: alpha, alpha_h, prox, every, start, due, mega, ahead, noise, "
        .. "antithetic, batch_norm, lock, cache)" },
    { "a period of nothing", with("correction = pg.correction.svrg { every = 0 }" .. SGD),
      "3: correction svrg: every must be a number of steps of at least 1, pg.steps(n), pg.epochs(n) or pg.whole_run, "
        .. "not 0" },
    { "a strength of another layout",
      with("correction = pg.correction.svrg { alpha = pg.zeros { 3 } }" .. SGD),
      "3: correction svrg: alpha must be a number or a schedule, not a tensor f32 [3]" },
    { "a period for a correction without refreshes", with("correction = pg.correction.storm { every = 3 }" .. SGD),
      "3: correction storm: every says nothing here: this correction has no refreshes" },
    { "mirrored passes without passes", with("correction = pg.correction.mars { antithetic = true }" .. SGD),
      "3: correction mars: antithetic says nothing here: this correction has no refreshes" },
    { "a period for coins", with("correction = pg.correction.lsvrg { every = pg.epochs(1) }" .. SGD),
      "3: correction lsvrg: every says nothing here: this correction has its own times of refresh" },
    { "a probability above 1", with("correction = pg.correction.page { p = 2 }" .. SGD),
      "3: correction page: p must lie in (0, 1], not 2" },
    { "a bound that is needed", with("correction = pg.correction.spider { eps = 1 }" .. SGD),
      "3: correction spider needs 'L'" },
    { "a strength given and estimated",
      with('correction = pg.correction.alpha_svrg { estimate = "all", alpha0 = 0.5 }' .. SGD),
      "3: correction alpha_svrg: alpha0 is a strength that is given, and estimate finds one; give one of them" },
    { "the memory of no estimate", with("correction = pg.correction.alpha_svrg { memory = 0.5 }" .. SGD),
      '3: correction alpha_svrg: memory is of the estimate; give estimate = "all", "tensor" or "component" too' },
    { "a misspelt option of alpha_svrg", with("correction = pg.correction.alpha_svrg { alpha_0 = 0.5 }" .. SGD),
      "3: unknown option 'alpha_0' of correction alpha_svrg; did you mean 'alpha0'?" },
    { "batches in words", with('correction = pg.correction.scsg { batches = "5" }' .. SGD),
      '3: correction scsg: batches is a whole number of at least 1, not "5"' },
    { "a lock that is not there", with("correction = pg.correction.svrg { lock = { droput = false } }" .. SGD),
      "3: unknown option 'droput' of correction svrg lock; did you mean 'dropout'?" },
    { "SAGA under noise",
      with("family = pg.family.isotropic { sigma = 0.1 }, correction = pg.correction.saga {}" .. SGD),
      "3: pg.optimizer: correction saga does not go with family isotropic: the statistics in the table were taken "
        .. "under the noise of other steps, which never cancels; it needs a family that evaluates at the mean" },
    { "the proximal term with Price's estimate",
      with("family = pg.family.diagonal { ess = 40 }, correction = pg.correction.svrg { prox = true }" .. SGD),
      "3: pg.optimizer: correction svrg does not go with family diagonal: the proximal term needs hess_approx = "
        .. '"exact": estimates from gradients vary by (g / sigma)^2, and their product with the distance to the '
        .. "snapshot drowns what the term corrects" },
    { "Newton's rule over a point", with("rule = pg.rule.newton { lr = 0.1 }"),
      "2: rule newton reads q.H, which family point does not keep; use pg.family.full" },
    { "half a pair",
      with("family = pg.family.isotropic { sigma = 0.1, samples = 3, antithetic = true }" .. SGD),
      "3: family isotropic: antithetic takes samples in pairs, so samples must be even, not 3" },
    { "a whole Gaussian over a large model", [[
pg.train(with { model = pg.nn.sequential { pg.nn.linear(4, 2000), pg.nn.linear(2000, 3) },
  optimizer = pg.optim.newton { lr = 1, ess = 40 } })]],
      "2: family full is for at most 4096 parameters; 16003 would take 1024384036 bytes for each of its matrices "
        .. "[16003, 16003]" },
    { "Katyusha over no correction", with("rule = pg.wrapper.katyusha { L = 1, sigma = 0.1, m = 5 }"),
      "3: pg.optimizer: rule katyusha(sgd) chooses where corrected steps evaluate, and there is no correction, as "
        .. "pg.correction.svrg {}; correction = pg.correction.none if there should be none" },
    { "Katyusha over STORM",
      with("correction = pg.correction.storm {}, rule = pg.wrapper.katyusha { L = 1, sigma = 0.1, m = 5 }"),
      "2: this wrapper evaluates between its iterates and a snapshot, and the correction keeps none (a slot `at`); "
        .. "pg.correction.svrg and pg.correction.lsvrg do" },
    { "an optimizer for a rule",
      with("rule = pg.wrapper.lkatyusha { L = 1, sigma = 0.1, rule = pg.optim.sgd { lr = 1 } }"),
      "3: wrapper lkatyusha stands around a rule, as { rule = pg.rule.sgd { lr = 0.1 } }, not an optimizer" },
    { "more pieces than examples", with("rule = pg.rule.sgd { lr = 0.1 }", "micro = 9"),
      "2: pg.train: micro is 9, but a batch has only 8 examples" },
    { "a slot that begins as nothing known", [[
local c = pg.correction.define { name = "mine", state = { v = "statistic" },
  correct = function(s, ctx) return ctx:evaluate(ctx.q) end }
]] .. with("correction = c" .. SGD),
      '4: correction mine: slot v begins as "statistics", "posterior", a number, pg.scalar, pg.per_tensor or pg.rows, '
        .. 'not "statistic"' },
    { "a correction that returns a vector", [[
local c = pg.correction.define { name = "mine", correct = function(s, ctx) return ctx:evaluate(ctx.q).g end }
]] .. with("correction = c" .. SGD),
      "3: correct of correction mine must return statistics, not a tensor f32 vector of 2 tensors, 15 numbers" },
    { "a family that gives less than it says", [[
local f = pg.family.define { name = "mine", stats = { "g", "h" }, init = function(theta) return { mean = theta } end,
  sample = function(q) return q.mean end, statistics = function(g) return { g = g } end }
]] .. with("family = f" .. SGD),
      "4: family mine: statistics must return {g, h}, as its `stats` say, not {g}" },
    { "a field of ctx that is not there", [[
local c = pg.correction.define { name = "mine", correct = function(s, ctx) return ctx:evaluate(ctx.p) end }
]] .. with("correction = c" .. SGD),
      "2: ctx of correction mine has no 'p' (it has: corrected, evaluate, iterate, key, mean, q, rows, snapshot, t, "
        .. "weight_decay)" },
    { "a misspelt probe", "pg.probe.varience()", "2: pg.probe has no 'varience'; did you mean pg.probe.variance?" },
    { "metrics behind predictions", "pg.metric.evaluate(pg.zeros { 4, 3 }, pg.metric.ece)",
      "2: pg.metric.evaluate: metrics come first, one or a table of them by name, as pg.metric.accuracy, not a tensor "
        .. "f32 [4, 3]" },
    { "a key for parameters", "pg.nn.metainit(model, pg.key(1), { input = { 4 }, classes = 3 })",
      "2: pg.nn.metainit: parameters, as model:init(key) makes them, come second, not a tensor key []" },
    { "MetaInit without weights", [[
local plain = pg.nn.sequential { pg.nn.flatten() }
pg.nn.metainit(plain, plain:init(pg.key(1)), { input = { 4 }, classes = 3 })]],
      "3: pg.nn.metainit: it moves norms of tensors of two axes or more, and the model has none" },
  },
}
