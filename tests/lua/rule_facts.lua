-- rule_facts.lua: for each ready-made rule a fact that holds for any gradients, and would not if its formula were
-- another: what it takes no notice of, what it becomes at special settings. name → { statement, function }.
local assert = require "luassert"
local support = require "support"
local walks = require "walks"
local pg, core = support.pg, support.core
local rule = pg.rule
local walk, near, same = walks.walk, walks.near, walks.same

local facts = {}

local function sign_of(k, layout) return pg.sign(walks.noise(layout, 100 + k)) end

-- Every step moves each coordinate by lr, against the sign of this step's gradient.
local function goes_by_signs(r, lr, tolerance)
  local _, _, path = walk(r)
  for k = 1, #path - 1 do
    near(path[k] - path[k + 1], lr * sign_of(k, path[1].layout), tolerance or 1e-12, "step " .. k)
  end
end

-- The displacements of two walks on gradients from streams of their own, and of one on their sums.
local function displacements(r, options)
  local function gradient(seed) return function(k, theta) return walks.noise(theta.layout, seed + k) end end
  local g1, g2 = gradient(10), gradient(50)
  local found = {}
  for i, g in ipairs { g1, g2, function(k, theta) return g1(k, theta) + g2(k, theta) end } do
    local theta, _, path = walk(r, { gradient = g, options = options })
    found[i] = theta - path[1]
  end
  return found
end

-- The first step from the default walk's beginning, and its gradient.
local function first_step(r, options)
  local _, _, path = walk(r, { steps = 1, options = options })
  return path[2] - path[1], walks.noise(path[1].layout, 101)
end

facts.sgd = { "is linear in the gradients, momentum and all, and begins with lr times the first", function()
  local step, g = first_step(rule.sgd { lr = 0.1, momentum = 0.9, dampening = 0.5 })
  near(step, -0.1 * g, 1e-15)
  for _, nesterov in ipairs { false, true } do
    local d = displacements(rule.sgd { lr = 0.1, momentum = 0.9, nesterov = nesterov })
    near(d[1] + d[2], d[3], 1e-13)
  end
end }

facts.normalized_sgd = { "moves by lr, whatever the size of the gradient", function()
  local _, _, path = walk(rule.normalized_sgd { lr = 0.25 })
  for k = 1, #path - 1 do assert(math.abs((path[k + 1] - path[k]):norm():item() - 0.25) < 1e-12) end
  walks.scale_free(rule.normalized_sgd { lr = 0.25, momentum = 0.9, scope = "tensor" })
end }

facts.clipped_sgd = { "with nothing to cut is SGD, and moves no coordinate by more than lr times a bound", function()
  same(rule.clipped_sgd { lr = 0.1, momentum = 0.9, top = 0 }, rule.sgd { lr = 0.1, momentum = 0.9 })
  local _, _, path = walk(rule.clipped_sgd { lr = 0.1, value = 0.5 })
  for k = 1, #path - 1 do assert(walks.apart(path[k], path[k + 1]) <= 0.05 + 1e-15) end
end }

facts.adagrad = { "takes no notice of the gradients' scale, and begins by signs", function()
  local r = rule.adagrad { lr = 0.1, eps = 0 }
  walks.scale_free(r)
  local _, _, path = walk(r)
  near(path[1] - path[2], 0.1 * sign_of(1, path[1].layout), 1e-14)
end }

facts.adagrad_norm = { "of one number is AdaGrad", function()
  same(rule.adagrad_norm { lr = 0.1, initial = 0.01 }, rule.adagrad { lr = 0.1, initial = 0.01, eps = 0 },
    { shapes = { { 1 } } }, 1e-15)
end }

facts.rmsprop = { "without a past goes by signs, and takes no notice of scale", function()
  goes_by_signs(rule.rmsprop { lr = 0.1, alpha = 0, eps = 0 }, 0.1)
  walks.scale_free(rule.rmsprop { lr = 0.1, eps = 0, momentum = 0.9, centered = true }, {}, 1e-9)
end }

facts.adadelta = { "begins with a step that eps and rho alone say the size of", function()
  local _, _, path = walk(rule.adadelta { rho = 0.9, eps = 1e-6 }, { steps = 1, scale = 1e6 })
  near(path[1] - path[2], math.sqrt(1e-6 / 0.1) * sign_of(1, path[1].layout), 1e-12)
end }

facts.adam = { "without a past goes by signs, and takes no notice of scale", function()
  goes_by_signs(rule.adam { lr = 0.1, beta1 = 0, beta2 = 0, eps = 0 }, 0.1)
  walks.scale_free(rule.adam { lr = 0.1, eps = 0, amsgrad = true })
end }

facts.adamw = { "is Adam where nothing decays, and where nothing pulls, decay", function()
  same(rule.adamw { lr = 0.1 }, rule.adam { lr = 0.1 })
  local _, _, path = walk(rule.adamw { lr = 0.1 }, { scale = 0, options = { weight_decay = 0.5 } })
  near(path[7], path[1] * 0.95 ^ 6, 1e-15)
end }

facts.nadam = { "without momentum is Adam without it, and takes no notice of scale", function()
  same(rule.nadam { lr = 0.1, beta1 = 0 }, rule.adam { lr = 0.1, beta1 = 0 }, {}, 1e-14)
  walks.scale_free(rule.nadam { lr = 0.1, eps = 0 })
end }

facts.adabelief = { "begins by signs over beta1, and goes far where gradients are as expected", function()
  local step, g = first_step(rule.adabelief { lr = 0.1, eps = 0, rectify = false })
  near(step, -0.1 / 0.9 * pg.sign(g), 1e-13)
  local function constant(_, theta) return theta * 0 + 1 end
  local how = { gradient = constant, steps = 100, zero = true }
  local far, adam = walk(rule.adabelief { lr = 0.01, rectify = false }, how), walk(rule.adam { lr = 0.01 }, how)
  assert(far:abs():min():item() > 3 * adam:abs():max():item(), tostring(far))
  walks.scale_free(rule.adabelief { lr = 0.1, eps = 0, rectify = false })
end }

facts.diffgrad = { "makes between half and all of Adam's step, half where the gradient stays", function()
  local diff, adam = rule.diffgrad { lr = 0.1, eps = 0 }, rule.adam { lr = 0.1, eps = 0 }
  local _, _, a = walk(diff, { steps = 1 })
  local _, _, b = walk(adam, { steps = 1 })
  local share = (a[2] - a[1]) / (b[2] - b[1])
  assert(share:min():item() > 0.5 and share:flat():max():item() < 1)
  local how = { gradient = function(_, theta) return walks.noise(theta.layout, 9) end, steps = 2 }
  _, _, a = walk(diff, how)
  _, _, b = walk(adam, how)
  near(a[3] - a[2], 0.5 * (b[3] - b[2]), 1e-14)
end }

facts.adopt = { "stands in the first step, and measures the second by the first gradient", function()
  local _, _, path = walk(rule.adopt { lr = 0.1, beta1 = 0, clip = false }, { steps = 2 })
  near(path[2], path[1], 0)
  local layout = path[1].layout
  near(path[2] - path[3], 0.1 * walks.noise(layout, 102) / pg.abs(walks.noise(layout, 101)), 1e-11)
end }

facts.ademamix = { "without its slow momentum is AdamW", function()
  same(rule.ademamix { lr = 0.1, alpha = 0 }, rule.adamw { lr = 0.1 }, { options = { weight_decay = 0.3 } }, 1e-14)
end }

facts.lion = { "moves every coordinate by lr in every step", function()
  local _, _, path = walk(rule.lion { lr = 0.1 })
  for k = 1, #path - 1 do near(pg.abs(path[k] - path[k + 1]), path[1] * 0 + 0.1, 1e-15) end
  goes_by_signs(rule.lion { lr = 0.1, beta1 = 0 }, 0.1)
end }

facts.sophia = { "goes by signs where h is small, and is linear where it is large", function()
  local function with_h(h) return { extra = function(_, theta) return { q = { h = theta * 0 + h } } end } end
  local how = with_h(-1)
  local _, _, path = walk(rule.sophia { lr = 0.1, beta1 = 0 }, how)
  for k = 1, #path - 1 do near(path[k] - path[k + 1], 0.1 * sign_of(k, path[1].layout), 1e-14) end
  how = with_h(1e6)
  local _, _, curved = walk(rule.sophia { lr = 1e6, beta1 = 0, rho = 1 }, how)
  near(curved[1] - curved[2], walks.noise(path[1].layout, 101), 1e-14)
end }

facts.vsgd = { "with K near 0 goes by signs", function()
  goes_by_signs(rule.vsgd { lr = 0.1, K = 1e-10, eps = 0 }, 0.1, 2e-8)
end }

facts.constant_vsgd = { "has Adam's m with beta1 = K / (K + 1), and moves by at most lr", function()
  local step, g = first_step(rule.constant_vsgd { lr = 0.1, K = 4 })
  near(step, -0.1 * g / 5 / pg.sqrt(g * g / 25 + 1 / 5), 1e-14)
  local _, state, path = walk(rule.constant_vsgd { lr = 0.1, K = 4 })
  local _, adam = walk(rule.adam { beta1 = 0.8 })
  near(state.mu, adam.m, 1e-14)
  for k = 1, #path - 1 do assert(walks.apart(path[k], path[k + 1]) < 0.1) end
end }

facts.sgd_sai = { "is as long as its gradients, each tensor times a number that the first one sets", function()
  local r = rule.sgd_sai { lr = 0.1, eps = 0 }
  local one, _, path = walk(r)
  local ten = walk(r, { scale = 10 })
  near(ten - path[1], 10 * (one - path[1]), 1e-12)
  local step, g = first_step(r)
  local matrix = core.apply("view", { a = { 0 } }, g)
  local scale = pg.sqrt((matrix * matrix):sum()) / pg.std(matrix, { 1, 2 }, { correction = 1 })
  near(core.apply("view", { a = { 0 } }, step), -0.1 * scale * matrix, 1e-12)
  local _, state = walk(r, { gradient = function(k, theta) return walks.noise(theta.layout, 101, k) end })
  local _, first = walk(r, { steps = 1 })
  assert.are.same(first.scale:totable(), state.scale:totable())
end }

facts.adafactor = { "moves a tensor by at most lr times its root mean square, in root mean square", function()
  local function rms(x) return math.sqrt((x * x):mean():item()) end
  local _, _, path = walk(rule.adafactor { lr = 0.1 }, { scale = 1e3 })
  for k = 1, #path - 1 do
    for i = 0, 1 do
      local from, to = core.apply("view", { a = { i } }, path[k]), core.apply("view", { a = { i } }, path[k + 1])
      local allowed = math.max(1e-3, rms(from)) * math.min(0.1, 1 / math.sqrt(k))
      assert(rms(to - from) <= allowed * (1 + 1e-12) and rms(to - from) > 0.2 * allowed)
    end
  end
end }

-- ---- on matrices ----

local MATRIX = { { 4, 4 } }

local function as_matrix(x) return core.apply("view", { a = { 0 } }, x) end

local function as_vector(matrix, layout) return core.apply("pack", { layout = layout }, matrix) end

-- Walks on gradients G and on left G right, from 0: ends as matrices.
local function turned(r, left, right, steps)
  local function ends(map)
    return as_matrix((walk(r, { shapes = MATRIX, zero = true, steps = steps or 4, gradient = function(k, theta)
      return as_vector(map(as_matrix(walks.noise(theta.layout, 100 + k))), theta.layout)
    end })))
  end
  local plain = ends(function(G) return G end)
  return plain, ends(function(G) return left:matmul(G):matmul(right) end)
end

-- An orthogonal matrix: a product of two reflections.
local function rotation()
  local R = pg.eye(4, "f64")
  for seed = 1, 2 do
    local v = as_matrix(walks.noise(support.layout { { 4, 1 } }, seed))
    R = R:matmul(pg.eye(4, "f64") - 2 / (v * v):sum():item() * v:matmul(v:t()))
  end
  return R
end

local function diagonal(list) return pg.eye(4, "f64") * pg.tensor(list, "f64") end

local EYE = pg.eye(4, "f64")

facts.muon = { "of a rotated problem is rotated Muon, its values near 1, and takes no notice of scale", function()
  local R = rotation()
  local plain, rotated = turned(rule.muon { lr = 0.1 }, R, R:t())
  near(R:matmul(plain):matmul(R:t()), rotated, 1e-9)
  local once = turned(rule.muon { lr = 0.1 }, R, R:t(), 1)
  local _, values = pg.linalg.svd(once / 0.1)
  assert(values:min():item() > 0.6 and values:max():item() < 1.3, tostring(values))
  walks.scale_free(rule.muon { lr = 0.1, eps = 1e-300, ["others.eps"] = 0 })
end }

facts.swan = { "takes no notice of the scale and mean of a row, and moves by lr alpha the root of the size", function()
  local plain, scaled = turned(rule.swan { lr = 1, alpha = 0.1, outputs = "rows" }, diagonal { 1, 10, 0.1, 3 }, EYE, 1)
  near(plain, scaled, 1e-9)
  assert(math.abs(math.sqrt((plain * plain):sum():item()) - 0.1 * 4) < 1e-12)
end }

facts.sinkgd = { "takes no notice of the scale of rows and columns, and is as long as the root of its size", function()
  local r = rule.sinkgd { lr = 1, alpha = 1, sweeps = 100, outputs = "rows" }
  local plain, scaled = turned(r, diagonal { 1, 2, 0.5, 3 }, diagonal { 2, 1, 0.3, 1 }, 1)
  near(plain, scaled, 1e-6)
  assert(math.abs((plain * plain):sum():item() - 16) < 1e-10)
end }

facts.shampoo = { "of one number is AdaGrad, and of a rotated problem rotated Shampoo", function()
  same(rule.shampoo { lr = 0.1, eps = 1e-4 }, rule.adagrad { lr = 0.1, initial = 1e-4, eps = 0 },
    { shapes = { { 1, 1 }, { 1 } } }, 1e-12)
  local R = rotation()
  local plain, rotated = turned(rule.shampoo { lr = 0.1 }, R, R:t())
  near(R:matmul(plain):matmul(R:t()), rotated, 1e-9)
end }

facts.soap = { "of a rotated problem is rotated SOAP, and without matrices Adam that sits out a step", function()
  local _, _, late = walk(rule.soap { lr = 0.1, max_size = 0, eps = 0 }, { zero = true })
  local _, _, adam = walk(rule.adam { lr = 0.1, beta1 = 0.95, beta2 = 0.95, eps = 0 }, { zero = true,
    gradient = function(k, theta) return walks.noise(theta.layout, 101 + k) end })
  for k = 1, 5 do near(late[k + 1], adam[k], 1e-14) end
  local R = rotation()
  local plain, rotated = turned(rule.soap { lr = 0.1, every = 2 }, R, R:t(), 5)
  near(R:matmul(plain):matmul(R:t()), rotated, 1e-9)
end }

-- ---- without a schedule, and sampling ----

-- What the run is evaluated at, of a state made by rule:init and rule:step.
local function point_of(r, theta, state)
  local st = pg.optimizer { rule = r }:init(theta)
  for name, tensor in pairs(st.rule) do tensor:copy_from(state[name]) end
  return st:point()
end

-- x is the mean of the iterates z of another rule.
local function averages(r, inner, how)
  local theta, state = walk(r, how)
  local _, _, path = walk(inner, how)
  local mean = path[2]
  for k = 3, #path do mean = mean + path[k] end
  near(state.z, path[#path], 1e-13, "z")
  near(point_of(r, theta, state), mean / (#path - 1), 1e-13, "x")
end

facts.schedule_free_sgd = { "is evaluated at the mean of SGD's iterates, where gradients are given", function()
  averages(rule.schedule_free_sgd { lr = 0.1 }, rule.sgd { lr = 0.1 })
end }

facts.schedule_free_adamw = { "is evaluated at the mean of RMSProp's iterates, its bias corrected", function()
  averages(rule.schedule_free_adamw { lr = 0.1, eps = 0 }, rule.adam { lr = 0.1, beta1 = 0, eps = 0 })
end }

facts.prodigy = { "begins with d0, takes no notice of scale, and never makes its distance smaller", function()
  walks.scale_free(rule.prodigy { eps = 0 }, {}, 1e-9)
  local step, g = first_step(rule.prodigy { eps = 0, d0 = 0.01 })
  near(step, -0.01 * 0.1 / math.sqrt(0.001) * pg.sign(g), 1e-13)
  local theta = support.flat("f64", { 1, 1, 1 })
  local state, last = rule.prodigy:init(theta), 1e-6
  for k = 0, 40 do
    rule.prodigy:step(theta, { g = theta * support.flat("f64", { 1, 2, 3 }) }, state, k)
    assert(state.d:item() >= last)
    last = state.d:item()
  end
  assert(last > 1e-3)
end }

facts.sgld = { "at temperature 0 is SGD", function()
  same(rule.sgld { ess = 10, lr = 0.1, temperature = 0 }, rule.sgd { lr = 0.1 }, { options = { weight_decay = 0.2 } },
    1e-15)
end }

facts.sghmc = { "with friction 1 is SGLD, noise and all", function()
  same(rule.sghmc { ess = 10, lr = 0.1, friction = 1 }, rule.sgld { ess = 10, lr = 0.1 }, {}, 1e-14)
end }

-- ---- with a precision ----

facts.ivon = { "with the precision it began with, and no momentum, is SGD", function()
  same(rule.ivon { lr = 0.1, beta1 = 0 }, rule.sgd { lr = 0.1 }, { options = { weight_decay = 0.2 },
    extra = function(_, theta) return { q = { h = theta * 0 + 0.7, h0 = 0.7 } } end }, 1e-14)
end }

facts.newton = { "with a diagonal H is IVON's step, and finds the minimum of a quadratic at once", function()
  local n = 17
  local h = walks.noise(support.layout(walks.SHAPES), 8)
  h = h * h + 0.5
  local H = pg.eye(n, "f64") * h:flat()
  local function extra() return { q = { h = h, h0 = 1, H = H } } end
  same(rule.newton { lr = 0.1, beta1 = 0.5 }, rule.ivon { lr = 0.1, beta1 = 0.5, rescale_lr = false },
    { extra = extra, options = { weight_decay = 0.2 } }, 1e-13)
  local theta = walk(rule.newton, { steps = 1, extra = extra, gradient = function(_, at) return h * (at - 2) end })
  near(theta, theta * 0 + 2, 1e-13)
end }

facts.split = { "into one part is that rule, bit for bit", function()
  same(rule.split { { rule.adamw { lr = 0.1 } } }, rule.adamw { lr = 0.1 }, { options = { weight_decay = 0.3 } })
end }

return facts
