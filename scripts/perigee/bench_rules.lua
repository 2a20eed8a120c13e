-- bench_rules.lua: the update rules of `perigee bench rules`, `eight_bit` and `matrix_rules`: what each reads and
-- writes, so that it can be held against a plain loop over as many arrays (tests/bench/rmw.c), or what its products of
-- matrices cost.

local core = require "perigee.core"
local pg = require "perigee"
local statistics = require "perigee.statistics"

local rules = {}

rules.parameters = 25 * 1000 * 1000

-- Vectors of 25 matrices [1000, 1000].
local function make_layout()
  local entries = {}
  for i = 1, 25 do entries[i] = { "t" .. i, { 1000, 1000 } } end
  return core.layout(entries)
end

local layout = make_layout()

local function full(x) return core.apply("full", { layout = layout, dtype = "f32" }, x) end

-- One update after the other by a rule, given a gradient. h: a Hessian diagonal for those that read one.
function rules.updater(rule, options)
  local theta = full(0.1)
  local g = options.random and core.apply("normal", { layout = layout, dtype = "f32" }, pg.key(3)) or full(0.01)
  local extra = { key = options.key and pg.key(1), q = options.h and { h = full(1), h0 = 0.1 } }
  local state, step = rule:init(theta, { weight_decay = options.decay or 0.01 }), -1
  local stats = statistics.new { g = g }
  return function()
    step = step + 1
    rule:step(theta, stats, state, step, extra)
  end
end

local OF_ONE_PASS, OF_TWO = 0.85, 0.7 -- shares of the plain loop's speed that are asked for

-- { name, rule, loop = arrays read + written, torch = its name in tests/bench/torch_cases.py … }. A rule with a
-- reduction goes over some of its arrays twice; sgld and sghmc draw a normal number for each parameter.
rules.elementwise = {
  { "sgd", pg.rule.sgd, loop = "2+1", torch = "sgd" },
  { "sgd, momentum", pg.rule.sgd { momentum = 0.9 }, loop = "3+2", torch = "momentum" },
  { "adagrad", pg.rule.adagrad, loop = "3+2", torch = "adagrad" },
  { "rmsprop", pg.rule.rmsprop, loop = "3+2", torch = "rmsprop" },
  { "rmsprop, centered, momentum", pg.rule.rmsprop { centered = true, momentum = 0.9 }, loop = "5+4" },
  { "adadelta", pg.rule.adadelta, loop = "4+3", torch = "adadelta" },
  { "adam", pg.rule.adam, loop = "4+3", torch = "adam" },
  { "adam, amsgrad", pg.rule.adam { amsgrad = true }, loop = "5+4", torch = "amsgrad" },
  { "adamw", pg.rule.adamw, loop = "4+3", torch = "adamw" },
  { "nadam", pg.rule.nadam, loop = "4+3", torch = "nadam" },
  { "adabelief", pg.rule.adabelief, loop = "4+3" },
  { "diffgrad", pg.rule.diffgrad, loop = "5+4" },
  { "adopt", pg.rule.adopt, loop = "4+3" },
  { "ademamix", pg.rule.ademamix, loop = "5+4" },
  { "lion", pg.rule.lion, loop = "3+2" },
  { "vsgd", pg.rule.vsgd, loop = "5+4" },
  { "constant_vsgd", pg.rule.constant_vsgd, loop = "4+3" },
  { "ivon", pg.rule.ivon, loop = "4+2", h = true },
  { "sophia", pg.rule.sophia, loop = "4+2", h = true },
  { "schedule_free_sgd", pg.rule.schedule_free_sgd, loop = "3+2" },
  { "schedule_free_adamw", pg.rule.schedule_free_adamw, loop = "4+3" },
  { "sgd_sai", pg.rule.sgd_sai, loop = "3+2" },
  { "clipped_sgd, by value", pg.rule.clipped_sgd { value = 1 }, loop = "3+2" },
  { "ema of sgd", pg.wrapper.ema { rule = pg.rule.sgd }, loop = "3+2" },
  { "sgld", pg.rule.sgld { ess = 1e5 }, loop = "2+1", key = true },
  { "sghmc", pg.rule.sghmc { ess = 1e5 }, loop = "3+2", key = true },
}
for _, entry in ipairs(rules.elementwise) do entry.at_least = OF_ONE_PASS end

rules.reducing = {
  { "normalized_sgd", pg.rule.normalized_sgd, loop = "2+1" },
  { "normalized_sgd, momentum", pg.rule.normalized_sgd { momentum = 0.9 }, loop = "3+2" },
  { "normalized_sgd, by tensor, momentum", pg.rule.normalized_sgd { momentum = 0.9, scope = "tensor" }, loop = "3+2" },
  { "adagrad_norm", pg.rule.adagrad_norm, loop = "2+1", decay = 0 },
  { "cautious adamw", pg.wrapper.cautious { rule = pg.rule.adamw }, loop = "4+3" },
  { "prodigy, two sums", pg.rule.prodigy, loop = "6+4" },
}
for _, entry in ipairs(rules.reducing) do entry.at_least = OF_TWO end
-- Sums over rows and columns, and two of whole matrices: several passes, for which no share is asked.
table.insert(rules.reducing, { "adafactor", pg.rule.adafactor, loop = "2+1", torch = "adafactor" })

-- { name, rule, loop = arrays of about as many bytes as its update moves with states of 8 bits }: 16 for each parameter
-- of AdamW, 14 of SGD with momentum.
rules.coded = {
  { "adamw", pg.rule.adamw, loop = "3+1" },
  { "sgd, momentum", pg.rule.sgd { momentum = 0.9 }, loop = "2+1" },
}

-- products: how many products of two [1000, 1000] matrices a step makes for each of the 25. Shampoo and SOAP between
-- two of their decompositions, which come in the first step here.
rules.matrix = {
  { "muon", pg.rule.muon, products = 15, torch = "muon" },
  { "swan", pg.rule.swan, products = 31 },
  { "shampoo, between roots", pg.rule.shampoo { every = 1 << 30 }, products = 4 },
  { "soap, between turns", pg.rule.soap { every = 1 << 30 }, products = 6 },
}

return rules
