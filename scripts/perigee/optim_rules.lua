-- optim_rules.lua: ready-made optimizers that are a rule alone, over the point family and without a correction: each
-- takes what its rule takes, with the rule's defaults.

local names = require "perigee.names"
local part = require "perigee.part"
local rule = require "perigee.rule"

local M = {}

-- The options of a rule, by name; of one that has options without a default, given some.
local function options_of(name, needed)
  local made = rule[name](needed or {})
  local list = names.sorted(made.hyper.given)
  if made.given.others or made.hyper.given["others.lr"] then list[#list + 1] = "others" end
  return list
end

local function add(name, needed)
  M[name] = { { "rule", function(given) return rule[name](part.merge(given, {})) end, options_of(name, needed) } }
end

-- Each takes all options of its rule, and weight_decay, stages and dtype besides.

--- pg.optim.normalized_sgd { lr = 1e-2, momentum = 0, scope = "global", weight_decay = 0, … } → optimizer: point ×
-- none × normalized_sgd: normalized SGD. See pg.rule.normalized_sgd.
add("normalized_sgd")

--- pg.optim.clipped_sgd { lr = 1e-3, momentum = 0.9, weight_decay = 0, … } → optimizer: point × none × clipped_sgd: SGD
-- whose largest coordinates are cut. See pg.rule.clipped_sgd.
add("clipped_sgd")

--- pg.optim.adagrad { lr = 1e-2, weight_decay = 0, … } → optimizer: point × none × adagrad: AdaGrad. See
-- pg.rule.adagrad.
add("adagrad")

--- pg.optim.adagrad_norm { lr = 1, weight_decay = 0, … } → optimizer: point × none × adagrad_norm: AdaGrad with one
-- sum. See pg.rule.adagrad_norm.
add("adagrad_norm")

--- pg.optim.rmsprop { lr = 1e-2, alpha = 0.99, momentum = 0, weight_decay = 0, … } → optimizer: point × none ×
-- rmsprop: RMSProp. See pg.rule.rmsprop.
add("rmsprop")

--- pg.optim.adadelta { lr = 1, rho = 0.9, weight_decay = 0, … } → optimizer: point × none × adadelta: AdaDelta. See
-- pg.rule.adadelta.
add("adadelta")

--- pg.optim.nadam { lr = 2e-3, weight_decay = 0, … } → optimizer: point × none × nadam: Adam with Nesterov's
-- momentum. See pg.rule.nadam.
add("nadam")

--- pg.optim.adabelief { lr = 1e-3, eps = 1e-16, rectify = true, weight_decay = 0, … } → optimizer: point × none ×
-- adabelief: AdaBelief. See pg.rule.adabelief.
add("adabelief")

--- pg.optim.diffgrad { lr = 1e-3, weight_decay = 0, … } → optimizer: point × none × diffgrad: diffGrad. See
-- pg.rule.diffgrad.
add("diffgrad")

--- pg.optim.adopt { lr = 1e-3, beta2 = 0.9999, weight_decay = 0, … } → optimizer: point × none × adopt: ADOPT. See
-- pg.rule.adopt.
add("adopt")

--- pg.optim.ademamix { lr = 1e-3, beta3 = 0.9999, alpha = 2, weight_decay = 0, … } → optimizer: point × none ×
-- ademamix: AdEMAMix. See pg.rule.ademamix.
add("ademamix")

--- pg.optim.lion { lr = 1e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0, … } → optimizer: point × none × lion:
-- Lion. See pg.rule.lion.
add("lion")

--- pg.optim.vsgd { lr = 0.1, K = 30, weight_decay = 0, … } → optimizer: point × none × vsgd: VSGD. See
-- pg.rule.vsgd.
add("vsgd")

--- pg.optim.constant_vsgd { lr = 0.1, K = 9, weight_decay = 0, … } → optimizer: point × none × constant_vsgd: VSGD
-- with a constant ratio of precisions. See pg.rule.constant_vsgd.
add("constant_vsgd")

--- pg.optim.sgd_sai { lr = 1e-2, momentum = 0.9, weight_decay = 0, … } → optimizer: point × none × sgd_sai:
-- SGD-SaI. See pg.rule.sgd_sai.
add("sgd_sai")

--- pg.optim.schedule_free_sgd { lr = 1, beta = 0.9, weight_decay = 0, … } → optimizer: point × none ×
-- schedule_free_sgd: schedule-free SGD. See pg.rule.schedule_free_sgd.
add("schedule_free_sgd")

--- pg.optim.schedule_free_adamw { lr = 2.5e-3, beta = 0.9, weight_decay = 0, … } → optimizer: point × none ×
-- schedule_free_adamw: schedule-free AdamW. See pg.rule.schedule_free_adamw.
add("schedule_free_adamw")

--- pg.optim.prodigy { lr = 1, d0 = 1e-6, weight_decay = 0, … } → optimizer: point × none × prodigy: Prodigy. See
-- pg.rule.prodigy.
add("prodigy")

--- pg.optim.sgld { ess =, lr = 1e-3, temperature = 1, weight_decay = 0, … } → optimizer: point × none × sgld:
-- stochastic gradient Langevin dynamics. See pg.rule.sgld.
add("sgld", { ess = 1 })

--- pg.optim.sghmc { ess =, lr = 1e-3, friction = 0.1, weight_decay = 0, … } → optimizer: point × none × sghmc:
-- stochastic gradient Hamiltonian Monte Carlo. See pg.rule.sghmc.
add("sghmc", { ess = 1 })

--- pg.optim.muon { lr = 0.02, momentum = 0.95, others = pg.rule.adamw {…}, weight_decay = 0, … } → optimizer: point
-- × none × muon: Muon for matrices, AdamW for the rest. See pg.rule.muon.
add("muon")

--- pg.optim.swan { lr = 1e-3, alpha = 0.05, others = pg.rule.adamw {}, weight_decay = 0, … } → optimizer: point ×
-- none × swan: SWAN for matrices, AdamW for the rest. See pg.rule.swan.
add("swan")

--- pg.optim.sinkgd { lr = 1e-3, alpha = 0.05, others = pg.rule.adamw {}, weight_decay = 0, … } → optimizer: point ×
-- none × sinkgd: SinkGD for matrices, AdamW for the rest. See pg.rule.sinkgd.
add("sinkgd")

--- pg.optim.adafactor { lr = 1e-2, weight_decay = 0, … } → optimizer: point × none × adafactor: Adafactor. See
-- pg.rule.adafactor.
add("adafactor")

--- pg.optim.shampoo { lr = 0.1, every = 1, weight_decay = 0, … } → optimizer: point × none × shampoo: Shampoo. See
-- pg.rule.shampoo.
add("shampoo")

--- pg.optim.soap { lr = 3e-3, every = 10, weight_decay = 0, … } → optimizer: point × none × soap: SOAP. See
-- pg.rule.soap.
add("soap")

return M
