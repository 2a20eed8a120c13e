-- Facts about the prompt of the `perigee` program (PERIGEE names it), read from a pipe, and about the module in the
-- stock interpreter. What needs a terminal is in tests/cli/prompt_spec.lua.
local perigee = os.getenv("PERIGEE") or "build/perigee"
local build = os.getenv("PERIGEE_BUILD") or "build"
local here = io.popen("pwd"):read("l")
if perigee:sub(1, 1) ~= "/" then perigee = here .. "/" .. perigee end

local function shell(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local out = pipe:read("a")
  local _, _, code = pipe:close()
  return out, code
end

-- What the prompt prints for these lines when they come through a pipe.
local function prompt(lines, before)
  return shell(("%s printf '%%s' '%s' | %s"):format(before or "", lines:gsub("'", "'\\''"), perigee))
end

-- A directory with these files: {name = text}.
local function make_directory(files)
  local root = os.tmpname()
  os.remove(root)
  assert(os.execute("mkdir " .. root))
  for name, text in pairs(files) do
    local file = assert(io.open(root .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end
  return root
end

describe("the prompt, read from a pipe", function()
  it("prints what expressions give, and nothing else", function()
    assert.same({ "2\n", 0 }, { prompt("1 + 1\n") })
    assert.same({ "1\t2\n", 0 }, { prompt("x = 1\nx, 2") })
    assert.equal("", (prompt("")))
    assert.equal("tensor f32 [2] cpu [2., 3.]\n", (prompt("pg.tensor{1, 2} + 1\n")))
    assert.equal("", (prompt("\n-- a comment\n1 + 1;\n")))
  end)

  it("reads statements of several lines", function()
    assert.equal("1\n2\n", (prompt("for i = 1, 2 do\nprint(i)\nend\n")))
    assert.equal("7\n", (prompt("(3 +\n4)\n")))
    assert.equal("a\nb\n", (prompt("[[a\nb]]\n")))
    assert.equal("5\n", (prompt("--[[ a comment\nof two lines ]] 5\n")))
  end)

  it("keeps locals from line to line, and the last result", function()
    assert.equal("4\n9\n", (prompt("local a, b = 4, 5\na\nlocal function sum() return a + b end\nsum()\n")))
    assert.equal("nil\n", (prompt("local nothing\nnothing\n")))
    assert.equal("3\n4\n", (prompt("1 + 2\n_ + 1\n")))
    assert.equal("3\n", (prompt("1 + 2;\nx = nil\n_\n")))
  end)

  it("goes on after an error, and fails at the end", function()
    local out, code = prompt('error("oh")\npg.ones{2} + pg.ones{3}\nprint("still here")\nx +\n')
    assert.matches("stdin:1: oh", out, 1, true)
    assert.matches("stdin:2: add: ", out, 1, true)
    assert.matches("still here\n", out, 1, true)
    assert.matches("near <eof>", out, 1, true)
    assert.equal(1, code)
  end)

  it("marks the line of an error, also of one made earlier, and what it names", function()
    local out = prompt("function f(a)\n  return a.b.c\nend\nprint(1)\n\nf {}\nlocal y = mising + 1\ny = = 2\n")
    local function has(text) assert.matches(text, out, 1, true) end
    has "stdin:2: attempt to index a nil value (field 'b')\n  2 |   return a.b.c\n                 ^\n"
    has "stdin:7: there is no variable 'mising'\n  7 | local y = mising + 1\n                ^^^^^^\n"
    assert.matches("stdin:8: unexpected symbol near '='", out, 1, true)
    assert.is_nil(out:find("traceback", 1, true))
    assert.matches("stack traceback", (prompt("%trace on\nerror 'x'\n")), 1, true)
    assert.matches("{ code = 3 }", (prompt("error { code = 3 }\n")), 1, true)
  end)

  it("can be interrupted", function()
    local out = shell(([[%s <<'END' & pid=$!; sleep 0.7; kill -INT $pid; wait $pid
local t = os.time(); while os.time() < t + 10 do end
print("after")
END]]):format(perigee))
    assert.equal("interrupted\nafter\n", out)
  end)

  it("leaves the first Ctrl-C to code that asks for it", function()
    local out = shell(([[%s <<'END' & pid=$!; sleep 0.7; kill -INT $pid; sleep 0.5; kill -INT $pid; wait $pid
core = require "perigee.core"
core.interrupted()
local t = os.time(); repeat until core.interrupted() or os.time() > t + 10
print("asked")
core.interrupted()
local t = os.time(); while os.time() < t + 10 do end
END]]):format(perigee))
    assert.matches("asked", out, 1, true)
  end)
end)

describe("the prompt's help", function()
  it("has the manual's entry for names of the library, of Lua, and what a variable holds", function()
    assert.matches("^pg%.nn%.linear%(inputs, outputs.-W %+ b", (prompt "?pg.nn.linear\n"))
    assert.equal((prompt "?pg.nn.linear\n"), (prompt "pg.nn.linear?\n"))
    assert.equal((prompt "?pg.nn.linear\n"), (prompt "layer = pg.nn.linear\n?layer\n"))
    assert.equal((prompt "?tensor:sum\n"), (prompt "x = pg.ones{2}\n?x:sum\n"))
    assert.matches("^model:init%(", (prompt "m = pg.nn.sequential { pg.nn.relu() }\n?m:init\n"))
    assert.matches("manual%.html#pdf%-string%.format\n$", (prompt "?string.format\n"))
    assert.matches("a word of Lua", (prompt "?while\n"))
    assert.matches("^x: tensor f32 %[2%] %[1%., 1%.%]\n", (prompt "x = pg.ones{2}\n?x\n"))
  end)

  it("shows the source and the comment of a function that was typed, and of one in a file", function()
    assert.equal("function add(a, b), stdin:2\n\n  -- Adds.\n  function add(a, b)\n    return a + b\n  end\n",
      (prompt "-- Adds.\nfunction add(a, b)\n  return a + b\nend\n?add\n"))
    local root = make_directory { ["lib.lua"] = "-- Doubles.\nreturn function(x) return 2 * x end\n" }
    local out = prompt("f = dofile 'lib.lua'\n?f\n", ("cd %s;"):format(root))
    assert.equal("function f(x), lib.lua:2\n\n  -- Doubles.\n  return function(x) return 2 * x end\n", out)
  end)

  it("suggests the nearest name", function()
    assert.equal("there is nothing called 'pg.nn.liner'; did you mean pg.nn.linear?\n", (prompt "?pg.nn.liner\n"))
    assert.matches("did you mean velocity?", (prompt "velocity = 1\n?velocty\n"), 1, true)
    assert.matches("there is no command %whoo; did you mean %who?", (prompt "%whoo\n"), 1, true)
  end)

  it("lists the commands", function()
    local out = prompt "?\n"
    assert.equal(out, (prompt "%help\n"))
    assert.equal(out, (prompt "help\n"))
    assert.equal((prompt "?pg.nn.linear\n"), (prompt "help pg.nn.linear\n"))
    assert.equal("3\n", (prompt "help = 3\nhelp\n"))
    for _, name in ipairs { "time", "run", "who", "trace", "help", "quit" } do
      assert.matches("%" .. name, out, 1, true)
      assert.matches("^%%" .. name, (prompt("?%" .. name .. "\n")))
    end
  end)
end)

describe("the prompt's commands", function()
  it("time expressions many times, statements once", function()
    local out = prompt "n = 0\nfunction f() n = n + 1 return n end\n%time f()\nn > 5\n%time n = -1\nn\n"
    assert.matches("^1\n[%d.]+ [num]?s a run, the median of %d+ samples of %d+; the first run took [%d.e+]+ [num]?s\n"
      .. "true\n[%d.e+]+ [num]?s\n%-1\n$", out)
    assert.matches("tensor memory %+4%.0 KiB", (prompt "%time x = pg.ones{1000}\n"))
    assert.matches("^6\n", (prompt "%time (1 +\n2 + 3)\n"))
  end)

  it("list variables with types and shapes", function()
    assert.equal("name  value\n----  ------------------\nf     function f(a), stdin:2\nx     tensor f32 [3, 20]\n",
      (prompt "x = pg.ones{3, 20}\nfunction f(a) end\n%who\n"):gsub("%-%-%-%-%-%-%-%-%-%-%-%-+", "------------------"))
  end)

  it("leave", function()
    assert.same({ "1\n", 0 }, { prompt "1\n%quit\n2\n" })
    assert.same({ "1\n", 0 }, { prompt "1\nquit\n2\n" })
    assert.same({ "1\n", 0 }, { prompt "1\nexit()\n2\n" })
  end)
end)

describe("%run", function()
  local root = make_directory {
    ["r.lua"] = [[
local o = pg.options { n = 1, word = "a" }
made = o.n * 2
local list = { o.n, o.word }
local function later() return made + o.n end
if o.word == "fail" then error("no " .. list[1]) end
return list
]],
    ["outside.lua"] = "file = io.open('/etc/passwd')",
    ["broken.lua"] = "local x =\n= 2\n",
  }
  local function run(lines) return prompt(lines, ("cd %s;"):format(root)) end

  it("keeps a recipe's globals and top-level locals", function()
    assert.equal("kept: later, list, made, o\n10\n{ 5, \"a\" }\n15\n",
      (run "%run r.lua n=5\nmade\nlist\nlater()\n"))
    assert.matches("a\n", (run "%run r.lua\nlist[2]\n%run r.lua word='b c'\nlist[2]\n"):match("b c\n$") and "a\n")
  end)

  it("comes back with the recipe's line, and what there was until then", function()
    local out, code = run "%run r.lua n=3 word=fail\nlist[1]\n"
    assert.matches("perigee: r.lua:5: no 3\n  5 | if o.word", out, 1, true)
    assert.matches("^kept: later, list, made, o\n", out)
    assert.matches("\n3\n$", out)
    assert.equal(1, code)
    assert.matches("broken.lua:2: unexpected symbol near '='", (run "%run broken.lua\n"), 1, true)
    assert.matches("no such recipe; did you mean \"r.lua\"?", (run "%run rr.lua\n"), 1, true)
    assert.matches("unknown option m; did you mean", (run "%run r.lua nn=1\n"):gsub("nn", "m"), 1, true)
  end)

  it("confines the recipe, but not the prompt after it", function()
    local out = run "%run outside.lua\nio.open('/etc/passwd') ~= nil\n%run --trust outside.lua\nfile ~= nil\n"
    assert.matches("outside the data, recipe and run directories", out, 1, true)
    assert.matches("true\nkept: file\ntrue\n", out, 1, true)
  end)
end)

describe("the stock interpreter", function()
  local function stock(code)
    return shell(("lua5.4 -e 'package.path, package.cpath = \"\", \"%s/?.so\"; %s'"):format(build, code))
  end

  it("loads the module with the library inside it", function()
    local out, code = stock [[pg = require "perigee"; print(pg.version, require "perigee.tree", #pg.ones{2})]]
    assert.equal(0, code)
    assert.matches("^%d+%.%d+%.%d+\ttable: 0x%x+\t2\n", out)
  end)

  it("gives modules in any order", function()
    local out, code = stock [[core = require "perigee.core"; print(core == require("perigee.core"), core.version)]]
    assert.equal(0, code, out)
    assert.matches("^true", out)
  end)

  it("can open the prompt, without a line editor", function()
    local code = 'require "perigee"; print(require("perigee.prompt").open { env = { x = 7 } })'
    local set = ('package.path, package.cpath = "", "%s/?.so"'):format(build)
    local out = shell(("printf '1 + 1\\nx\\n' | lua5.4 -e '%s; %s'"):format(set, code))
    assert.equal("2\n7\nnil\t0\n", out)
  end)
end)
