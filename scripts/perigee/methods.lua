-- methods.lua: `perigee methods`: what an optimizer can be made of. What parts do and which options they have is said
-- by their doc comments; what they cost is not declared anywhere but measured here, on a model of one parameter.

local core = require "perigee.core"
local labels = require("perigee.drawn_labels").labels
local losses = require "perigee.loss"
local names = require "perigee.names"
local options = require "perigee.options"
local reference = require "perigee.reference"
local terminal = require "perigee.terminal"

local methods = {}

local KINDS = {
  { "family", "families: where the loss is evaluated, and which statistics come back" },
  { "correction", "corrections: less noisy statistics" },
  { "rule", "rules: how the mean moves" },
  { "wrapper", "wrappers: rules around rules, which may choose where a step evaluates" },
  { "stage", "stages: edits of a gradient, at every evaluation or after the correction" },
  { "optim", "ready-made: pg.optim.NAME { … }" },
}

-- The documented parts of a kind: { { name, entry }, … }. Their signatures take a table of options and give a part.
local function parts_of(kind)
  local found = {}
  for _, name in ipairs(reference.names()) do
    local short, entry = name:match("^pg%." .. kind .. "%.([%w_]+)$"), reference.find(name)
    if short and short ~= "define" and entry.signature:match("%s{.*}%s→%s%l+$") then
      found[#found + 1] = { short, entry }
    end
  end
  return found
end

-- ---- what a method costs --------------------------------------------------------------------------------------------

-- A part or ready-made optimizer with its defaults; options without one, `name =` in the signature, are set to 1,
-- the rule inside a wrapper to SGD.
local function make(kind, name)
  local part, given = require("perigee." .. kind)[name], {}
  if name == "split" then return part { { require("perigee.rule").sgd } } end
  if type(part) ~= "function" then return part end
  local signature = reference.find(("pg.%s.%s"):format(kind, name)).signature
  for key in signature:gmatch("([%w_]+) =%s?[,}]") do
    given[key] = key == "rule" and require("perigee.rule").sgd or 1
  end
  return part(given)
end

-- What an optimizer keeps beside the parameters (names of vectors and matrices), how many gradients a step takes for
-- each example, how many the first step and one after a refresh take, whether they come with Hessian-vector products,
-- and how many passes over the data a refresh takes.
local function measure(opt)
  local evaluator = require "perigee.evaluator"
  local source = evaluator.memory { y = core.tensor("i64", { 1 }) }
  local eval = evaluator { source = source, key = core.key(0), loss = function(_, theta, batch, ctx)
    local logits = theta:flat():reshape(1, 2)
    return losses.cross_entropy(logits, labels(logits, batch.y, ctx))
  end }
  opt:configure { steps_per_epoch = 1, total_steps = 1 }
  local st = opt:init(core.vector(core.layout { { "w", { 2 } } }, "f32"), core.key(0))
  opt:evaluate_hypers(0)
  local batch = source:take(core.tensor("i64", { 1 }, { 0 }))
  local mode = opt.correction and "corrected" or "plain"
  local function program(flags) return opt:program(st, eval, mode, batch, opt.correction and flags) end
  local function gradients(flags) return program(flags).evaluations end
  local kept = {}
  for _, row in ipairs(st:tensors()) do
    local large = row.tensor.layout or row.tensor.ndim == 2
    if large and row.name ~= "q.mean" then kept[#kept + 1] = row.name:match("^%w+%.(.*)$") end
  end
  local table = st.memory and st.memory.table
  if table then kept[#kept + 1] = ("a table of %s"):format(table:describe()) end
  return { kept = kept, lasting = opt.correction and opt.correction.definition.lasting, gradients = gradients(nil),
    products = program(nil).products > 0, passes = st.passes or 0,
    first = gradients { first = true, refreshed = (st.passes or 0) > 0 }, refreshed = gradients { refreshed = true } }
end

local function count(n, one, many) return ("%.4g %s"):format(n, n == 1 and one or many) end

local function list_kept(kept) return #kept > 0 and "keeps " .. table.concat(kept, ", ") or "keeps nothing" end

local function describe_steps(cost)
  local gradients = count(cost.gradients, "gradient", "gradients") .. " for each example of a step"
  if cost.products then gradients = gradients .. ", each with a Hessian-vector product for each parameter" end
  local function add(n, when)
    if n ~= cost.gradients then gradients = ("%s (%s %s)"):format(gradients, n == 0 and "none" or n, when) end
  end
  if cost.passes == 0 then
    add(cost.first, "in the first")
    return gradients
  end
  add(cost.refreshed, "in one after a refresh")
  return ("%s, %s over the data %s"):format(gradients, count(cost.passes, "pass", "passes"),
    cost.lasting and "at the beginning" or "for each refresh")
end

-- Which statistics a correction works on, asked of it with a family that gives them and evaluates at the mean.
local function describe_statistics(correction)
  local family, list = require "perigee.family", {}
  for _, f in ipairs { family.point, family.diagonal { ess = 1, noise = false, hess_approx = "exact" },
    family.full { ess = 1, noise = false } } do
    if not correction:refuses(f) then list[#list + 1] = ("{%s}"):format(table.concat(f.stats, ", ")) end
  end
  return ("on %s%s"):format(table.concat(list, ", "),
    correction:refuses(family.isotropic { sigma = 1 }) and " of families without noise" or "")
end

-- One line on what a part needs and costs, by kind. Corrections are measured over the point family.
local COSTS = {
  family = function(name)
    local family = make("family", name)
    local opt = require "perigee.optimizer" { family = family, rule = require("perigee.rule").sgd }
    local cost = measure(opt)
    return ("gives {%s}; %s%s"):format(table.concat(family.stats, ", "), list_kept(cost.kept),
      cost.gradients > 1 and "; " .. describe_steps(cost) or "")
  end,
  correction = function(name)
    local correction = make("correction", name)
    local cost = measure(require "perigee.optimizer" { correction = correction, rule = require("perigee.rule").sgd })
    return ("%s; %s; %s"):format(describe_statistics(correction), describe_steps(cost), list_kept(cost.kept))
  end,
  rule = function(name)
    local rule = make("rule", name)
    local needs = table.concat(rule.definition.needs, ", ")
    return (needs ~= "" and ("reads q.%s of the family; "):format(needs) or "") .. list_kept(rule.slot_names)
  end,
  wrapper = function(name) return list_kept(make("wrapper", name).slot_names) end,
  optim = function(name)
    local cost = measure(make("optim", name))
    return ("%s; %s"):format(describe_steps(cost), list_kept(cost.kept))
  end,
}

local function cost_of(kind, name) return COSTS[kind] and COSTS[kind](name) end

-- A default as text.
local function show(value)
  if type(value) == "number" then return ("%.9g"):format(value) end
  return tostring(value)
end

-- A function like pg.correction.scsg makes a part of another name, whose options are not its own: those of the
-- signature.
local function options_of_signature(signature)
  local list = {}
  for option, value in signature:gmatch "([%w_]+) = ([^,}]-)%s*[,}]" do
    if option ~= "every" then list[#list + 1] = ("%s = %s"):format(option, (value:gsub('"', ""))) end
  end
  return list
end

-- The options of a part and their defaults, from its definition.
local function options_of(kind, name)
  local part = COSTS[kind] and kind ~= "optim" and make(kind, name)
  if not part then return nil end
  local list, signature = {}, reference.find(("pg.%s.%s"):format(kind, name)).signature
  if kind == "correction" and part.name ~= name then
    list = options_of_signature(signature)
  else
    local given = part.hyper.given
    for i, option in ipairs(names.sorted(given)) do
      local is_needed = signature:find("%f[%w_]" .. option .. " =%s?[,}]")
      list[i] = is_needed and option .. " (needed)" or ("%s = %s"):format(option, show(given[option]))
    end
  end
  for _, option in ipairs(kind == "family" and { "samples", "antithetic" } or {}) do
    list[#list + 1] = ("%s = %s"):format(option, show(part[option]))
  end
  return #list > 0 and "options: " .. table.concat(list, ", ") or nil
end

-- The options that all corrections have, as read off one.
local function common_options()
  local list, part = {}, require("perigee.correction").svrg
  for _, option in ipairs { "every", "start", "mega", "ahead", "noise", "antithetic", "batch_norm", "cache" } do
    list[#list + 1] = ("%s = %s"):format(option, show(part[option]))
  end
  return ("all: %s, lock, due; those about refreshes only where there are any (pg.correction.define says more)"):format(
    table.concat(list, ", "))
end

-- ---- what is printed ------------------------------------------------------------------------------------------------

local NAME_WIDTH = 13

local function width() return math.min(terminal.width(), 100) end

-- Text beside a column of names, itself NAME_WIDTH wide; below a name that is longer.
local function print_beside(name, text)
  local margin = (" "):rep(NAME_WIDTH)
  local lines = reference.wrap(text, width() - NAME_WIDTH):gsub("\n", "\n" .. margin)
  if #name > NAME_WIDTH - 3 then
    io.write("  ", name, "\n")
    name = ""
  end
  io.write(("  %-10s %s\n"):format(name, lines))
end

local function print_list()
  for _, kind in ipairs(KINDS) do
    io.write(kind[2], "\n")
    for _, part in ipairs(parts_of(kind[1])) do
      print_beside(part[1], reference.summary(part[2]))
      for _, line in ipairs { cost_of(kind[1], part[1]) or "", options_of(kind[1], part[1]) or "" } do
        if line ~= "" then print_beside("", line) end
      end
    end
    if kind[1] == "correction" then print_beside("", common_options()) end
    io.write("\n")
  end
  io.write(reference.wrap("An optimizer is a family, a correction and a rule: pg.optimizer { family = …, correction = "
    .. "…, rule = … }. `perigee methods NAME` explains one. What is kept are vectors as long as the parameters (P); H "
    .. "stands for matrices, n x P for a table with a row for each example.", width()), "\n")
  return 0
end

-- Every part called `name`: a rule and a ready-made optimizer may share one.
local function print_part(name)
  local known, found = {}, 0
  for _, kind in ipairs(KINDS) do
    for _, part in ipairs(parts_of(kind[1])) do
      known[part[1]] = true
      if part[1] == name then
        if found > 0 then io.write("\n\n") end
        found = found + 1
        io.write(reference.format(part[2], width()), "\n")
        local cost = cost_of(kind[1], name)
        if cost then io.write(reference.wrap("Needs and costs: " .. cost, width()), "\n") end
      end
    end
  end
  if found == 0 then
    options.misused(("there is no method %s%s"):format(name, options.hint(name, names.sorted(known))))
  end
  return 0
end

-- `perigee methods [NAME]` → exit code
function methods.main(name)
  if name then return print_part(name) end
  return print_list()
end

return methods
