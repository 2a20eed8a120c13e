-- The prompt at a terminal: a script of what a person types is played on a pseudo terminal (tests/c/pty_run.c), of a
-- kind with escape codes and of one without; what comes out is looked at. What is expected of a result is never a part
-- of what was typed, since the terminal echoes that.

local perigee = os.getenv("PERIGEE") or "build/perigee"
local build = os.getenv("PERIGEE_BUILD") or "build"
local here = io.popen("pwd"):read("l")
if perigee:sub(1, 1) ~= "/" then perigee = here .. "/" .. perigee end
if build:sub(1, 1) ~= "/" then build = here .. "/" .. build end

local read = require("files").read

local root = os.tmpname()
os.remove(root)
assert(os.execute("mkdir " .. root))
local history = root .. "/state/perigee/history"

-- Play the actions (lines of pty_run's script) on a terminal → all output, exit status.
local function play(actions, environment)
  local script = os.tmpname()
  local file = assert(io.open(script, "wb"))
  file:write(table.concat(actions, "\n"), "\n")
  file:close()
  local pipe = assert(io.popen(("cd %s && env -u NO_COLOR -u PERIGEE_HISTORY TERM=xterm XDG_STATE_HOME=%s/state %s "
    .. "%s/tests/pty_run %s <%s 2>&1"):format(root, root, environment or "", build, perigee, script)))
  local out = pipe:read("a")
  local _, _, code = pipe:close()
  return out, code
end

local START, END = "expect > ", "send \\x04"
local READY = "expect > " -- behind a result: the prompt again

describe("the prompt at a terminal", function()
  before_each(function() os.remove(history) end)

  it("edits lines, prints, leaves at Ctrl-D", function()
    local out, code = play { START, "send 20x\\x7f + 22\\n", "expect 42", READY, END }
    assert.equal(0, code, out)
  end)

  it("completes with Tab: names at once, choices as a list", function()
    local out, code = play { START, "send print(pg.nn.lin\\t == pg.nn.linear)\\n", "expect true", READY,
      "send pg.nn.l\\t", "expect layer_norm", "expect leaky_relu", "expect linear", READY,
      "send \\x15v = pg.vector { { 'w', pg.ones { 3 } } }\\n", READY, "send v[\"\\t:s\\tum():it\\t()\\n", "expect 3.0",
      READY, END }
    assert.equal(0, code, out)
  end)

  it("drops the line at Ctrl-C, and goes on", function()
    local out, code = play { START, "send some nonsense", "expect nonsense", "send \\x03", "expect ^C", READY,
      "send for i = 1, 2 do\\n", "expect >> ", "send \\x03", "expect ^C", READY, "send 6 * 7\\n", "expect 42", READY,
      END }
    assert.equal(0, code, out)
  end)

  it("stops a loop in Lua and a sequence of operations at Ctrl-C", function()
    local out, code = play { START,
      "send print('go' .. 'ing') while true do end\\n", "expect going", "send \\x03", "expect interrupted", READY,
      "send x = pg.ones{200, 200} print('comp' .. 'uting') while true do x = x:matmul(x) end\\n", "expect computing",
      "send \\x03", "expect interrupted", READY, "send 6 * 7\\n", "expect 42", READY, END }
    assert.equal(0, code, out)
  end)

  it("shows the mark of an unfinished statement", function()
    local out, code = play { START, "send for i = 1, 2 do\\n", "expect >> ", "send print(i * 11)\\n", "expect >> ",
      "send end\\n", "expect 11", "expect 22", READY, END }
    assert.equal(0, code, out)
  end)

  it("takes a bracketed paste as one entry, and stops it at an error", function()
    local text = "function f(a)\\n\\tlocal b = a\\n\\treturn b * 2\\nend\\nf(21)\\nf(nil)\\nf(33)\\n"
    local out, code = play { START, "send \\x1b[200~" .. text .. "\\x1b[201~", "expect f(33)",
      "send \\n", "expect 42", "expect arithmetic on a nil value", "expect earlier |",
      "expect (the line behind it was not run)", READY,
      "send \\x1b[A\\n", "expect f(33)", "expect 42", "expect was not run", READY, END }
    assert.equal(0, code, out)
    assert.is_nil(out:find("66", 1, true))
  end)

  it("marks the line of an error within the statement", function()
    local out, code = play { START, "send x = 1 +\\n", "expect >> ", "send  nope\\n",
      "expect there is no variable 'nope'", "expect 2 |", "expect ^^^^", READY, END }
    assert.equal(0, code, out)
    assert.is_nil(out:find("stdin", 1, true))
  end)

  it("remembers what was typed, also in the next session, whole statements as one entry", function()
    local out, code = play { START, "send 40 + 1\\n", "expect 41", READY, "send for i = 5, 6 do\\n", "expect >> ",
      "send print(i * 111)\\n", "expect >> ", "send end\\n", "expect 555", "expect 666", READY,
      "send \\x1b[A\\x1b[A\\n", "expect 41", READY, END }
    assert.equal(0, code, out)
    assert.equal("40 + 1\nfor i = 5, 6 do\\nprint(i * 111)\\nend\n40 + 1\n", read(history))
    local mode = io.popen("stat -c %a " .. history):read("l")
    assert.equal("600", mode)
    out, code = play { START, "send \\x1b[A\\x1b[A\\n", "expect 555", "expect 666", READY, -- the whole loop again
      "send 40\\x1b[A\\n", "expect 41", READY,       -- the newest that begins so
      "send \\x12print(i", "expect print(i", "send \\n", "expect 555", READY, END } -- any that contains it
    assert.equal(0, code, out)
  end)

  it("keeps no history where PERIGEE_HISTORY is empty, and needs none that can be kept", function()
    local out, code = play({ START, "send 40 + 2\\n", "expect 42", READY, END }, "PERIGEE_HISTORY=")
    assert.equal(0, code, out)
    assert.is_nil(read(history))
    out, code = play({ START, "send 40 + 2\\n", "expect 42", READY, END }, "PERIGEE_HISTORY=/proc/no/such")
    assert.equal(0, code, out)
  end)

  it("colours little, and nothing where NO_COLOR is set", function()
    local actions = { START, "send error 'x'\\n", "expect error", READY, END }
    assert.matches("\27[31merror:\27[0m", (play(actions)), 1, true)
    local plain = play(actions, "NO_COLOR=1")
    assert.is_nil(plain:find("\27%[%d*m"))
  end)
end)

describe("the prompt at a terminal without escape codes", function()
  it("reads, marks unfinished statements, interrupts, and writes no escape", function()
    local out, code = play({ START, "send 40 + 2\\n", "expect 42", READY, "send for i = 1, 2 do\\n", "expect >> ",
      "send \\x03", READY, "send some nonsense", "expect nonsense", "send \\x03", READY,
      "send print('go' .. 'ing') while true do end\\n", "expect going", "send \\x03", "expect interrupted", READY,
      "send error 'x'\\n", "expect error: x", READY, "send ?pg.relu\\n", "expect tensor:relu", READY,
      "send io.write(pg.plot.draw { { name = 'n', x = { 1, 2 }, y = { 1, 2 } } })\\n", "expect n", READY, END },
      "TERM=dumb")
    assert.equal(0, code, out)
    assert.is_nil(out:find("\27", 1, true))
  end)
end)
