-- A rule, a stage and a wrapper that nobody here has built in, each under 20 lines, written by somebody who had read
-- README.md, docs/add-method.md, docs/optimizer.md and docs/reference.md and nothing else: they do what their papers
-- say, computed here one number at a time, and train, resume and go with a correction.
local support = require "support"
local problems = require "problems"
local pg = support.pg

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- Lines with anything on them.
local function count_lines(text)
  local n = 0
  for line in text:gmatch "[^\n]+" do n = n + (line:find "%S" and 1 or 0) end
  return n
end

local DECAY, LR = 0.1, 0.05

-- Follow a rule with a formula: next_p(p, g, t) → the new list of numbers, for lists p and g.
local function follows(r, next_p)
  local p, draw = { 1, -2, 0.5, 3 }, support.stream(2)
  local theta = support.flat("f64", p)
  local state = r:init(theta, { lr = LR, weight_decay = DECAY })
  for k = 0, 9 do
    local g = { draw(), draw(), 1e-3 * draw(), 10 * draw() }
    p = next_p(p, g, k + 1)
    r:step(theta, { g = support.flat("f64", g) }, state, k)
    assert(support.difference(theta:totable(), p) < 1e-12, "step " .. k)
  end
end

describe("from the docs alone", function()
  for _, name in ipairs { "yogi", "unit_clip", "trust" } do
    it(name .. " is under 20 lines", function()
      assert(count_lines(read(("tests/lua/from_docs/%s.lua"):format(name))) < 20)
    end)
  end

  it("a rule: Yogi", function()
    local m, v = { 0, 0, 0, 0 }, { 1e-6, 1e-6, 1e-6, 1e-6 }
    follows(require "from_docs.yogi", function(p, g, t)
      local new = {}
      for i = 1, 4 do
        m[i] = 0.9 * m[i] + 0.1 * g[i]
        local square = g[i] ^ 2
        v[i] = v[i] + (v[i] > square and -1 or 1) * (1 - 0.999) * square
        local rate = LR * math.sqrt(1 - 0.999 ^ t) / (1 - 0.9 ^ t)
        new[i] = p[i] * (1 - LR * DECAY) - rate * m[i] / (math.sqrt(v[i]) + 1e-3)
      end
      return new
    end)
  end)

  it("a wrapper: the trust ratio of LAMB", function()
    local v = { 0, 0, 0, 0 }
    follows(require "from_docs.trust" { rule = pg.rule.adamw { beta1 = 0, beta2 = 0.9, eps = 0 } }, function(p, g, t)
      local u, own, length, new = {}, 0, 0, {}
      for i = 1, 4 do
        v[i] = 0.9 * v[i] + 0.1 * g[i] ^ 2
        u[i] = g[i] / math.sqrt(v[i] / (1 - 0.9 ^ t)) + DECAY * p[i]
        own, length = own + p[i] ^ 2, length + u[i] ^ 2
      end
      local ratio = math.min(math.sqrt(own / length), 10)
      for i = 1, 4 do new[i] = p[i] - LR * ratio * u[i] end
      return new
    end)
  end)

  it("a stage: adaptive clipping by units, at the point where each gradient was taken", function()
    local layout = support.layout { { 2, 3 }, { 3 } }
    local at = support.vector(layout, "f64", { { 3, 0, 1, 4, 0, 0 }, { 1, 1, 1 } })
    local c = pg.tensor({ 30, 1, 0, 40, 1, 2, 5, 5, 5 }, "f64")
    local clip = require "from_docs.unit_clip" { share = 0.5 }
    local root = math.sqrt(2)
    -- columns of length 50, root 2 and 2, those of the weights 5, 0 and 1
    local want = { 1.5, 0.5e-3 / root, 0, 2, 0.5e-3 / root, 0.5, 5, 5, 5 }
    for _, place in ipairs { "per_evaluation", "combined" } do
      local opt = pg.optimizer { rule = problems.watch { "g" }, stages = { [place] = { clip } } }
      local st = opt:init(at)
      local evaluator = pg.evaluator { loss = function(_, theta) return (theta:flat() * c):sum() end }
      opt:step(st, evaluator, { x = pg.ones { 1 } })
      assert(support.difference(st.rule.seen_g:totable(), want) < 1e-12)
    end
  end)

  for _, how in ipairs { { "", "learned" }, { "check ", "the same bits as at once" } } do
    it(("all three train: perigee %sRECIPE"):format(how[1]), function()
      local runs = os.tmpname()
      os.remove(runs)
      local command = ("%s %s--trust --runs %s tests/lua/from_docs_recipe.lua 2>&1"):format(
        os.getenv "PERIGEE" or "build/perigee", how[1], runs)
      local pipe = assert(io.popen(command))
      local text = pipe:read "a"
      assert(pipe:close(), text)
      local _, found = text:gsub(how[2], "")
      assert.are.equal(3, found, text)
    end)
  end
end)
