-- Facts about completion, the lexer under it, and what keeps the locals of a chunk.
local complete = require "perigee.complete"
local core = require "perigee.core"
local lexer = require "perigee.lexer"
local pg = require "perigee"
local source = require "perigee.prompt_source"

-- A directory of its own with these files (a name that ends in a slash is a directory).
local function make_files(names)
  local root = os.tmpname()
  os.remove(root)
  core.data.mkdir(root)
  for _, name in ipairs(names) do
    if name:sub(-1) == "/" then
      core.data.mkdir(root .. "/" .. name:sub(1, -2))
    else
      core.data.write_file_atomic(root .. "/" .. name, "")
    end
  end
  return root
end

describe("completion", function()
  local model = pg.nn.sequential { pg.nn.linear(3, 2), pg.nn.linear(2, 1) }
  local env = { pg = pg, model = model, theta = model:init(pg.key(1)), x = pg.ones { 2 }, name = "text",
    list = { first = { inner = { deep_one = 1, deep_two = 2 } }, ["odd key"] = 1 } }

  local function candidates(text)
    local partial, list, suffix = complete.candidates(env, text, { "run", "time", "trace" })
    return list, partial, suffix
  end

  local function includes(list, word)
    for _, entry in ipairs(list) do
      if entry == word then return true end
    end
    return false
  end

  it("finds variables, Lua's functions and words, the user's first use or not", function()
    assert.same({ "model" }, (candidates "y = mod"))
    assert.same({ "table", "theta", "then" }, { (candidates "t")[1], (candidates "the")[2], (candidates "the")[1] })
    assert.same({ "function" }, (candidates "local f = func"))
    assert.same({}, (candidates "nothing_begins_so"))
  end)

  it("finds fields of nested tables, and of modules that are not loaded yet", function()
    assert.same({ "linear" }, (candidates "pg.nn.lin"))
    assert.same({ "deep_one", "deep_two" }, (candidates "f(list.first.inner.dee"))
    assert.same({ "deep_one", "deep_two" }, (candidates 'list["first"].inner.'))
    assert.is_true(includes((candidates "pg."), "minimize"))
    assert.same({ "gsub" }, (candidates "string.gs"))
    assert.is_false(includes((candidates "list."), "odd key"))
  end)

  it("finds methods behind a colon and properties behind a dot", function()
    assert.same({ "sub", "sum" }, (candidates "x:su"))
    assert.same({ "size" }, (candidates "x.si"))
    assert.same({}, (candidates "x:siz"))
    assert.is_true(includes((candidates "model:"), "init"))
    assert.same({ "layout" }, (candidates "model.layo"))
    assert.same({ "find" }, (candidates "model.layout:"))
    assert.same({ "gsub" }, (candidates "name:gs"))
    assert.same({ "gsub" }, (candidates '("a"):gs'))
    assert.is_false(includes((candidates "x:"), "copy_from"))
  end)

  it("takes the result of a call and a part of a vector for a tensor", function()
    assert.same({ "matmul" }, (candidates "pg.ones{2}:matm"))
    assert.same({ "norm" }, (candidates 'theta["1.weight"]:nor'))
    assert.same({ "item" }, (candidates "x:sum():ite"))
  end)

  it("finds the names within a vector, and closes the bracket behind the only one", function()
    local list, partial, suffix = candidates 'theta["2.'
    assert.same({ "2.bias", "2.weight" }, list)
    assert.equal("2.", partial)
    assert.equal('"]', suffix)
    assert.equal('eight"]', (complete.at_cursor(env, 'theta["1.w')))
    assert.same({ "odd key" }, (candidates "list['odd"))
  end)

  it("finds files within quotes and behind %run", function()
    local root = make_files { "one.lua", "only.txt", "sub/", ".hidden" }
    assert.same({ root .. "/one.lua", root .. "/only.txt" }, (candidates(('io.open("%s/o'):format(root))))
    assert.same({ root .. "/sub/" }, (candidates(("f '%s/s"):format(root))))
    assert.same({ root .. "/one.lua", root .. "/sub/" }, (candidates(("%%run %s/"):format(root))))
    assert.equal('y.txt"', (complete.at_cursor(env, ('g("%s/onl'):format(root))))
    assert.equal("b/", (complete.at_cursor(env, ('g("%s/su'):format(root))))
    assert.same({}, (candidates 'f("/no/such/directory/x'))
  end)

  it("finds commands, and names behind ? and %time", function()
    assert.same({ "time", "trace" }, (candidates "%t"))
    assert.same({ "linear" }, (candidates "?pg.nn.lin"))
    assert.same({ "linear" }, (candidates "%time pg.nn.lin"))
  end)

  it("runs nothing of the user's", function()
    local touched = false
    local trap = setmetatable({}, { __index = function() touched = true end, __pairs = function() touched = true end,
      __len = function() touched = true return 0 end, __call = function() touched = true end })
    env.trap = trap
    local texts = { "trap.", "trap.x.y", "trap:", 'trap["', "trap.x:", "trap().x.", "trap[1].", "tra", "#trap." }
    for _, text in ipairs(texts) do
      complete.at_cursor(env, text)
      complete.at_cursor(trap, text)
    end
    assert.is_false(touched)
  end)

  it("inserts what all candidates share, then lists them", function()
    assert.equal("eep_", (complete.at_cursor(env, "list.first.inner.d")))
    local inserted, shown = complete.at_cursor(env, "list.first.inner.deep_")
    assert.is_nil(inserted)
    assert.matches("deep_one +deep_two", shown)
    assert.equal("  ", (complete.at_cursor(env, "")))
    assert.equal("  ", (complete.at_cursor(env, "for i = 1, 2 do\n")))
  end)

  it("survives any text", function()
    print("# seed 20")
    local state = 20
    local function random(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return state // 65536 % n + 1
    end
    local pieces = { "x", ".", ":", "[", "]", '"', "'", "(", ")", "{", "}", "pg", "theta", "1", "--", "[[", "]]", "\\",
      " ", "%", "?", "\n", "=", "é", "\xff", "model", "list", "..", "1e", "0x", "~", "end", "name" }
    for _ = 1, 3000 do
      local text = {}
      for i = 1, random(10) do text[i] = pieces[random(#pieces)] end
      local ok, message = pcall(complete.at_cursor, env, table.concat(text))
      assert.is_true(ok, table.concat(text) .. ": " .. tostring(message))
    end
  end)
end)

describe("the lexer", function()
  local function kinds(text)
    local out = {}
    for i, token in ipairs(lexer.tokens(text)) do out[i] = token.kind:sub(1, 1) .. ":" .. token.text end
    return out
  end

  it("cuts Lua into tokens", function()
    assert.same({ "k:local", "n:x", "o:=", "n:0x1F", "o:..", "s:'a\\'b'" }, kinds "local x = 0x1F .. 'a\\'b' -- end")
    assert.same({ "n:a", "o:==", "s:[=[b]]]=]", "o:...", "n:1e-3" }, kinds "a == [=[b]]]=] --[[ c ]] ... 1e-3")
  end)

  it("marks strings that have no end", function()
    assert.is_true(lexer.tokens('f("abc')[3].open)
    assert.is_true(lexer.tokens("f([[abc")[3].open)
    assert.is_false(lexer.tokens('f("abc")')[3].open)
  end)
end)

describe("the locals of a chunk", function()
  local function kept(text)
    local values
    local code, names = source.keep_locals(text)
    assert(load(code, "=test", "t", { f = function(...) return ... end, setmetatable = setmetatable }))(function(given)
      values = given
    end)
    return values or {}, names
  end

  it("are handed over when they stand outside of blocks", function()
    assert.same({ a = 1, b = 2 }, (kept "local a, b = 1, 2"))
    assert.same({ a = 3 }, (kept "local a = 3 do local b = 1 end if a then local c = 2 end"))
    assert.same({ a = 3 }, (kept "local a = 3 for i = 1, 2 do local d = i end"))
    assert.same({ a = 1 }, (kept "local a <const> = 1 -- a comment at the end"))
    assert.same({ "g" }, select(2, kept "local function g() local inner = 1 return inner end"))
    assert.same({ a = 2 }, (kept "local a = 1; while a < 2 do local b = a; a = a + 1 end repeat local c = 1 until c"))
    assert.same({ a = 5 }, (kept "local a = 5 return a"))
    assert.same({ "a" }, select(2, kept "local a"))
  end)

  it("are not when they are closed with the chunk", function()
    local closed = "local a <close>, b = setmetatable({}, { __close = function() end }), 1"
    assert.same({ b = 1 }, (kept(closed)))
  end)

  it("leave line numbers alone", function()
    local _, message = pcall(load(source.keep_locals "local a = 1\nlocal b = 2\nerror 'x'\nreturn a", "=test"))
    assert.equal("test:3: x", message)
  end)
end)
