-- Facts about likely mistakes of a new user: what perigee says, word for word, when one makes it. The tables of recipes
-- are in mistakes_language.lua, mistakes_training.lua and mistakes_methods.lua; here are also those on the command line
-- and at the prompt. A message stands on one line and names the recipe and its line.
local files = require "files"
local runner = require "tests.lua.recipe_runner"

local program, scratch = files.program(), files.scratch()

local function write(name, text) files.write(scratch .. "/" .. name, text) end

local function read(name) return assert(files.read(scratch .. "/" .. name)) end

-- The first line of recipes on training and data.
local PREPARED = ([[
local NONE, data = {}, pg.data.from { x = pg.randn(pg.key(1), { 40, 4 }), y = pg.zeros({ 40 }, "i32") }
local both, model = { train = data, test = data }, pg.nn.sequential { pg.nn.linear(4, 3) }
local function with(changes)
  local spec = { name = "t", model = model, data = data, optimizer = pg.optim.sgd { lr = 0.1 }, epochs = 1, batch = 8,
    loss = function(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end }
  for name, value in pairs(changes) do spec[name] = value ~= NONE and value or nil end
  return spec
end
local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  file:write(text)
end
local npy = "\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (10, 4), }" .. (" "):rep(57) .. "\n"
]]):gsub("\n%s*", " ") .. "\n"

-- What a recipe makes perigee say: "perigee: recipe.lua:LINE: MESSAGE".
local function check(group, entry)
  local title, recipe, expected = entry[1], entry[2], entry[3]
  local prepared = group == "training" or group == "data" or group == "methods"
  local code, said = runner.run(prepared and PREPARED .. recipe or recipe, scratch .. "/runs")
  local message = said:match("^perigee: recipe%.lua:([^\n]*)\n$")
  assert(message, ("%s: not one line with the recipe's place: %s"):format(title, said))
  if entry.pattern then
    assert.matches("^" .. expected .. "$", message)
  else
    assert.equal(expected, message)
  end
  assert.equal(entry.code or 1, code)
end

teardown(function() os.execute("rm -r " .. scratch) end)

for _, file in ipairs { "mistakes_language", "mistakes_training", "mistakes_methods" } do
  for _, group in ipairs(require("tests.lua." .. file)) do
    describe("a mistake with " .. group[1], function()
      for i = 2, #group do
        local entry = group[i]
        it(("%d: %s"):format(i - 1, entry[1]), function() check(group[1], entry) end)
      end
    end)
  end
end

-- ---- the command line -----------------------------------------------------------------------------------------------

-- Run the program in the scratch directory: exit code, what it said.
local function run(arguments, input)
  local command = ("cd %s && %s %s >out.txt 2>err.txt <%s"):format(scratch, program, arguments, input or "/dev/null")
  local _, _, code = os.execute(command)
  return code, read("err.txt")
end

local OPTIONS = [[
local o = pg.options { lr = 0.1, method = { "svrg", "ivon" }, epochs = 10, nesterov = false }
pg.run { name = "walk", seed = 1, steps = 2, state = { x = pg.zeros({ 3 }) }, step = function() end }
]]

-- { title, arguments, what is said behind "perigee: ", exit code if not 2 }
local COMMAND_LINE = {
  { "a misspelt option", "walk.lua lrr=0.1",
    'unknown option lrr; did you mean "lr"? (options: epochs, lr, method, nesterov)' },
  { "an option with dashes", "walk.lua --lr 0.1",
    "unknown option --lr; the options of a recipe are written without dashes: lr=0.1" },
  { "blanks around =", "walk.lua lr = 0.1",
    "lr = 0.1: write lr=0.1 without blanks; what follows a recipe is key=value" },
  { "a word for a number", "walk.lua lr=large", "option lr=large: expected a number" },
  { "a list with a value that is none", "walk.lua lr=0.1,fast", "option lr=fast: expected a number" },
  { "a missing value", "walk.lua lr=", "option lr=: expected a number" },
  { "yes for true", "walk.lua nesterov=yes", "option nesterov=yes: expected true or false" },
  { "a choice that is not there", "walk.lua method=sgd", "option method=sgd: expected one of svrg, ivon" },
  { "an option given twice", "walk.lua lr=1 lr=2", "option lr is given twice" },
  { "an option for a recipe without", "plain.lua lr=1", "unknown option lr: this recipe has none" },
  { "a misspelt recipe", "wolk.lua", 'wolk.lua: no such recipe; did you mean "walk.lua"?' },
  { "a recipe without .lua", "walk", 'there is no command walk; did you mean "walk.lua"?' },
  { "a misspelt command", "resum runs/walk", 'there is no command resum; did you mean "resume"?' },
  { "a command that is not needed", "train walk.lua",
    "there is no command train; a recipe is run by: perigee walk.lua" },
  { "a misspelt switch", "--treads=2 walk.lua", 'unknown option --treads; did you mean "threads"?' },
  { "no thread at all", "--threads=0 walk.lua", "--threads takes a whole number, not 0" },
  { "a directory for a recipe", "runs.lua", "runs.lua: not a regular file", 1 },
  { "a recipe with a syntax error", "syntax.lua", "syntax.lua:2: 'then' expected near '='; equality is ==", 1 },
  { "resume of nothing", "resume", "expected one run directory; see --help" },
  { "resume of a run that is not there", "resume runs/wakl", "runs/wakl: no such run directory" },
  { "resume of a recipe", "resume walk.lua", "walk.lua is no run directory; a recipe is run by: perigee walk.lua" },
  { "resume of all runs", "resume runs", "runs holds runs but is none itself; name one, as runs/changed" },
  { "resume with options", "resume runs/walk epochs=20",
    "epochs=20: a run goes on with the options it began with; perigee branch gives others" },
  { "branch without a step", "branch runs/walk", "expected RUN@STEP, as runs/first@500, not runs/walk" },
  { "branch of nothing", "branch", "expected RUN@STEP, as runs/first@500, not nothing" },
  { "branch of a run that is not there", "branch runs/wakl@3", "runs/wakl: no such run directory" },
  { "branch beyond the end", "branch runs/walk@9", "runs/walk ends at step 2, before 9" },
  { "branch with an unknown option", "branch runs/walk@1 lrr=1",
    'unknown option lrr; did you mean "lr"? (options: epochs, lr, method, nesterov)' },
  { "branch with an option twice", "branch runs/walk@1 lr=1 lr=2", "option lr is given twice" },
  { "branch with another word", "branch runs/walk@1 fast",
    '"fast" is not key=value; what follows RUN@STEP is key=value' },
  { "resume of a run whose recipe changed", "resume runs/changed",
    "runs/changed/recipe.lua:2: runs/changed/checkpoints/step-2.safetensors: made with another recipe, seed, data or "
      .. "options than this run has now", 1 },
}

describe("a mistake on the command line", function()
  setup(function()
    write("walk.lua", OPTIONS)
    write("plain.lua", "print(1)\n")
    write("syntax.lua", "local x = 1\nif x = 2 then print(x) end\n")
    assert(os.execute(("rm -rf %s/runs && mkdir -p %s/runs.lua"):format(scratch, scratch)))
    for _, name in ipairs { "walk", "changed" } do
      write("one.lua", (OPTIONS:gsub("walk", name)))
      assert.equal(0, (run("one.lua")))
    end
    write("runs/changed/recipe.lua", (OPTIONS:gsub("walk", "changed"):gsub("zeros", "ones")))
  end)

  for i, entry in ipairs(COMMAND_LINE) do
    it(("%d: %s"):format(i, entry[1]), function()
      local code, said = run(entry[2])
      assert.equal("perigee: " .. entry[3] .. "\n", said)
      assert.equal(entry[4] or 2, code)
    end)
  end
end)

-- ---- the prompt -----------------------------------------------------------------------------------------------------

-- { title, input, what is said behind "perigee: stdin:" }: the message, the line, a mark under what it names.
local PROMPT = {
  { "a layer with a capital", "pg.nn.Linear(2, 3)", [[
1: pg.nn has no 'Linear'; did you mean pg.nn.linear?
  1 | pg.nn.Linear(2, 3)
            ^^^^^^]] },
  { "a misspelt variable", "rate = 0.1\nprint(raet)", [[
2: there is no variable 'raet'; did you mean rate?
  2 | print(raet)
            ^^^^]] },
  { "a syntax error", "x = 3\nprint(x +)", [[
2: unexpected symbol near ')'
  2 | print(x +)
               ^]] },
  { "not equal in C's way", "x = 3\nx != 4", [[
2: syntax error near '!'; "not equal" is ~=
  2 | x != 4
        ^]] },
  { "import", "import torch", [[
1: syntax error near 'torch'; everything is in pg; a file beside the recipe is had by require "name"
  1 | import torch
             ^^^^^]] },
  { "a statement that does not end", "for i = 1, 3 do\nprint(i)", [[
2: 'end' expected (to close 'for' at line 1) near <eof>
  2 | print(i)]] },
  { "a field of nothing", "o = { lr = 0.1 }\nprint(o.rule.lr)", [[
2: attempt to index a nil value (field 'rule')
  2 | print(o.rule.lr)
              ^^^^]] },
  { "shapes that do not broadcast", "pg.zeros({2}) + pg.zeros({3})", [[
1: add: shapes f32 [2] and f32 [3] do not broadcast (axis 1: 2 against 3)
  1 | pg.zeros({2}) + pg.zeros({3})]] },
  { "a property with brackets", "x = pg.zeros({2})\nx.shape()", [[
2: attempt to call a table value (field 'shape'); x.shape is a property, written without brackets
  2 | x.shape()
        ^^^^^]] },
  { "a command of the shell", "perigee walk.lua", [[
1: syntax error near 'walk'; the prompt runs a recipe by %run RECIPE.lua
  1 | perigee walk.lua
              ^^^^]] },
}

describe("a mistake at the prompt", function()
  for i, entry in ipairs(PROMPT) do
    it(("%d: %s"):format(i, entry[1]), function()
      write("typed.txt", entry[2] .. "\n")
      local _, said = run("", "typed.txt")
      assert.equal("perigee: stdin:" .. entry[3] .. "\n", said)
    end)
  end
end)
