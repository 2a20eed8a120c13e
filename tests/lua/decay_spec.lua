-- Which rules take weight decay as a gradient (L2), and which apart from it (decoupled): measured, and compared with
-- what each rule's doc comment and docs/optimizer.md say.
local support = require "support"
local walks = require "walks"
local reference = require "perigee.reference"
local pg = support.pg
local rule = pg.rule
local walk, near = walks.walk, walks.near

local DECAY, LR = 0.3, 0.05

-- Steps, and a tolerance in each; what moves, moves by more.
local STEPS, TOLERANCE = 4, 1e-12

local function key_of(k) return { key = pg.key(1):fold(k) } end

-- kind → check(rule, options): whether decay is of this kind.
local kinds = {}

-- In the gradient: the same as weight_decay p added to it.
function kinds.L2(r, how)
  local function run(decay, in_gradient)
    local given = { steps = STEPS, options = { weight_decay = decay }, extra = how.extra or key_of }
    function given.gradient(k, theta) return walks.noise(theta.layout, 100 + k) + in_gradient * theta end
    return select(3, walk(r, given))
  end
  local by_option, by_gradient, without = run(DECAY, 0), run(0, DECAY), run(0, 0)
  for k = 1, STEPS + 1 do near(by_option[k], by_gradient[k], TOLERANCE, "step " .. k - 1) end
  assert(walks.apart(by_option[STEPS + 1], without[STEPS + 1]) > 1e-6, "nothing decays")
end

-- p loses a share of itself in each step, beside a move that is the same as without: before the move, or after it.
local function apart_from_gradient(r, how, after)
  local share = (how.share or LR) * DECAY
  local function run(decay)
    return select(3, walk(r, { steps = STEPS, options = { weight_decay = decay }, extra = how.extra or key_of }))
  end
  local with, without = run(DECAY), run(0)
  for k = how.first or 1, how.last or STEPS do
    local move = without[k + 1] - without[k]
    local want = after and (with[k] + move) * (1 - share) or with[k] * (1 - share) + move
    near(with[k + 1], want, TOLERANCE, "step " .. k)
  end
end

function kinds.decoupled(r, how) apart_from_gradient(r, how, false) end

kinds["decoupled, after the step"] = function(r, how) apart_from_gradient(r, how, true) end

-- As the prior of a posterior: in the gradient, and in the precision that it is divided by.
function kinds.prior(r, how)
  local h = 0.7
  local _, _, path = walk(r, { steps = STEPS, options = { weight_decay = DECAY }, extra = how.extra })
  for k = 1, STEPS do
    local g = walks.noise(path[1].layout, 100 + k)
    near(path[k + 1], path[k] - LR * (g + DECAY * path[k]) / (h + DECAY), TOLERANCE, "step " .. k)
  end
end

local function with_h(k, theta)
  return { key = pg.key(1):fold(k), q = { h = theta * 0 + 0.7, h0 = 0.7, H = pg.eye(theta.size, "f64") * 0.7 } }
end

-- Rules with options where what they do is not for the first of all: rule, kind, how. The options are those that make
-- moves independent of p, without which two walks cannot be compared.
local table_of_rules = {
  sgd = { rule.sgd { lr = LR, momentum = 0.9 }, "L2" },
  adam = { rule.adam { lr = LR }, "L2" },
  adagrad = { rule.adagrad { lr = LR }, "L2" },
  adagrad_norm = { rule.adagrad_norm { lr = LR }, "L2" },
  rmsprop = { rule.rmsprop { lr = LR }, "L2" },
  adadelta = { rule.adadelta { lr = LR }, "L2" },
  nadam = { rule.nadam { lr = LR }, "L2" },
  diffgrad = { rule.diffgrad { lr = LR }, "L2" },
  adopt = { rule.adopt { lr = LR }, "L2" },
  shampoo = { rule.shampoo { lr = LR }, "L2" },
  schedule_free_sgd = { rule.schedule_free_sgd { lr = LR }, "L2" },
  sgld = { rule.sgld { lr = LR, ess = 10 }, "L2" },
  sghmc = { rule.sghmc { lr = LR, ess = 10 }, "L2" },
  adamw = { rule.adamw { lr = LR }, "decoupled" },
  adabelief = { rule.adabelief { lr = LR }, "decoupled" },
  ademamix = { rule.ademamix { lr = LR }, "decoupled" },
  lion = { rule.lion { lr = LR }, "decoupled" },
  sophia = { rule.sophia { lr = LR }, "decoupled", { extra = with_h } },
  normalized_sgd = { rule.normalized_sgd { lr = LR, momentum = 0.5 }, "decoupled" },
  clipped_sgd = { rule.clipped_sgd { lr = LR }, "decoupled" },
  vsgd = { rule.vsgd { lr = LR }, "decoupled" },
  constant_vsgd = { rule.constant_vsgd { lr = LR }, "decoupled" },
  sgd_sai = { rule.sgd_sai { lr = LR }, "decoupled" },
  muon = { rule.muon { lr = LR, ["others.lr"] = LR }, "decoupled" },
  swan = { rule.swan { lr = LR, alpha = 0.5, others = rule.lion { lr = LR / 2 } }, "decoupled", { share = LR / 2 } },
  sinkgd = { rule.sinkgd { lr = LR, alpha = 0.5, others = rule.lion { lr = LR / 2 } }, "decoupled",
    { share = LR / 2 } },
  -- these two look at p: only the first steps of both walks are from the same point
  adafactor = { rule.adafactor { lr = LR }, "decoupled", { last = 1 } },
  prodigy = { rule.prodigy { d0 = LR }, "decoupled", { last = 1 } },
  -- the share is a part of the direction that z and y go: the whole of y's in the first step
  schedule_free_adamw = { rule.schedule_free_adamw { lr = LR }, "decoupled", { last = 1 } },
  soap = { rule.soap { lr = LR, every = 2 }, "decoupled, after the step", { first = 2 } },
  ivon = { rule.ivon { lr = LR, beta1 = 0, rescale_lr = false }, "prior", { extra = with_h } },
  newton = { rule.newton { lr = LR }, "prior", { extra = with_h } },
}

-- Options that choose the other kind.
local other_kinds = {
  { "nadam", rule.nadam { lr = LR, decoupled = true }, "decoupled" },
  { "adopt", rule.adopt { lr = LR, decoupled = true }, "decoupled", { first = 2 } },
  { "adabelief", rule.adabelief { lr = LR, decoupled = false }, "L2" },
  { "adabelief, fixed", rule.adabelief { lr = LR, fixed_decay = true }, "decoupled", { share = 1 } },
  { "vsgd", rule.vsgd { lr = LR, decoupled = false }, "L2" },
  { "prodigy", rule.prodigy { lr = LR, d0 = 1, decoupled = false }, "L2" },
}

describe("weight decay", function()
  it("is known of every rule but split, whose parts have theirs", function()
    local names = {}
    for name in pairs(rule) do
      if name ~= "define" and name ~= "is" and name ~= "split" then names[#names + 1] = name end
    end
    table.sort(names)
    assert.are.same(names, support.sorted_names(table_of_rules))
  end)

  for _, name in ipairs(support.sorted_names(table_of_rules)) do
    local r, kind, how = table.unpack(table_of_rules[name])
    it(("of %s is %s, and said to be"):format(name, kind), function()
      kinds[kind](r, how or {})
      local entry = reference.find("pg.rule." .. name)
      local text = (entry.signature .. reference.format(entry, 100)):lower()
      local word = kind == "prior" and "weight_decay" or kind:match "^%w+":lower()
      assert(text:find(word, 1, true), "its doc comment does not say: " .. word)
    end)
  end

  for _, entry in ipairs(other_kinds) do
    it(("of %s is %s where an option says so"):format(entry[1], entry[3]), function()
      kinds[entry[3]](entry[2], entry[4] or {})
    end)
  end

  it("is in docs/optimizer.md as it is here", function()
    local file <close> = assert(io.open "docs/optimizer.md")
    local text = file:read "a"
    for kind in pairs(kinds) do
      local row = assert(text:match("\n| " .. kind:gsub("%p", "%%%0") .. "[^|\n]* |([^\n]*)\n"), "no row for " .. kind)
      local said, here = {}, {}
      for name in row:gmatch "`([%w_]+)`" do said[#said + 1] = name end
      for name, entry in pairs(table_of_rules) do if entry[2] == kind then here[#here + 1] = name end end
      table.sort(said)
      table.sort(here)
      assert.are.same(here, said)
    end
  end)
end)
