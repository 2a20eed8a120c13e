-- Facts about the prompt of the `perigee` program (PERIGEE names it) and about the module in the stock interpreter.
local perigee = os.getenv("PERIGEE") or "build/perigee"
local build = os.getenv("PERIGEE_BUILD") or "build"

local function shell(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local out = pipe:read("a")
  local _, _, code = pipe:close()
  return out, code
end

-- What the prompt prints for these lines when they come through a pipe.
local function prompt(lines)
  return shell(("printf '%%s' '%s' | %s"):format(lines:gsub("'", "'\\''"), perigee))
end

describe("the prompt, read from a pipe", function()
  it("prints what expressions give, and nothing else", function()
    assert.same({ "2\n", 0 }, { prompt("1 + 1\n") })
    assert.same({ "1\t2\n", 0 }, { prompt("x = 1\nx, 2") })
    assert.equal("", (prompt("")))
    assert.equal("tensor f32 [2] cpu [2., 3.]\n", (prompt("pg.tensor{1, 2} + 1\n")))
  end)

  it("reads statements of several lines", function()
    assert.equal("1\n2\n", (prompt("for i = 1, 2 do\nprint(i)\nend\n")))
    assert.equal("7\n", (prompt("(3 +\n4)\n")))
  end)

  it("goes on after an error, and fails at the end", function()
    local out, code = prompt('error("oh")\npg.ones{2} + pg.ones{3}\nprint("still here")\nx +\n')
    assert.matches("stdin:1: oh", out, 1, true)
    assert.matches("stdin:2: add: ", out, 1, true)
    assert.matches("still here\n", out, 1, true)
    assert.matches("near <eof>", out, 1, true)
    assert.equal(1, code)
  end)

  it("can be interrupted", function()
    local out = shell(([[%s <<'END' & pid=$!; sleep 0.7; kill -INT $pid; wait $pid
local t = os.time(); while os.time() < t + 10 do end
print("after")
END]]):format(perigee))
    assert.matches("interrupted", out, 1, true)
    assert.matches("after", out, 1, true)
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
end)
