-- The prompt survives whatever is typed: thousands of random lines, right and wrong ones, come through a pipe; nothing
-- crashes, memory stays flat, and the last line is still answered. PERIGEE_TEST_LONG makes it a hundred times as many.

local perigee = os.getenv("PERIGEE") or "build/perigee"
local SEED = 15
local LINES = os.getenv("PERIGEE_TEST_LONG") and 400000 or 4000

local state = SEED
local function random(n)
  state = (state * 1103515245 + 12345) % 2147483648
  return state // 65536 % n + 1
end
local function pick(list) return list[random(#list)] end

-- What lines are made of. "$" is replaced by a number, "@" by another expression. (@) is no tail call: f would loop.
-- Not among them: integer division by zero, which behind a __concat crashes Lua 5.4.4 itself, also the stock one.
local EXPRESSIONS = { "$", "x", "y", "v", "t", "m", "pg.ones{$}", "pg.ones{$, $}", "x + @", "@ * y", "-x", "x:sum()",
  "y:matmul(@)", "v['w']", "v[@]", "t.a", "t[@]", "{ @, @ }", "{ a = @ }", "f(@)", "(@)", "@ .. 'text'", "#@", "not @",
  "pg.grad(function(z) return (z * z):sum() end)(@)", "pg.jit(f)(@)", "x.shape", "x:nothing()", "pg.nothing", "nothing",
  "'a string'", "[[long]]", "string.rep('a', $)", "x:reshape{$, $}", "x:slice{$, $}", "v:norm()", "_", "m(v, @)",
  "coroutine.wrap(function() return @ end)()", "pcall(error, @)", "tostring(@)", "x:item()", "pg.tensor(@)",
  "pg.where(x:lt(@), x, @)", "error(setmetatable({}, { __tostring = error }))",
  "setmetatable({}, { __tostring = function() return @ end })", "0/0", "1e308 * 10",
  "select(-1)", "next({})", "string.format('%d', @)", "pg.vmap(f)(@)", "pg.randn(pg.key($), {$})" }
local STATEMENTS = { "x = @", "y = @", "t.a = @", "local z = @", "local z, w = @, @", "f = function(a) return (@) end",
  "for i = 1, $ do x = x + 1 end", "if @ then y = @ end", "error(@)", "error { code = @ }", "error(m)",
  "do local u = @ end", "@;",
  "t.self = t", "@ ; @", "goto nowhere", "x.y = @", "x[1] = @", "while false do end", "repeat until true", "return @",
  "function g(a)\n  return a + @\nend", "for i = 1, 2 do\n  t[i] = @\nend", "local c <close> = @", "x = 1 +\n@",
  "?pg.ones", "?x", "?@", "t?", "%who", "%nothing", "%trace off", "%time y = @", "--[[ a\ncomment ]]", "# x", "%", "?",
  "" }
local RESET = "x = pg.ones{3} y = pg.ones{3, 3} t = {} f = function(a) return a * 2 end "
  .. "v = pg.vector { { 'w', pg.ones{2, 2} } } m = pg.nn.sequential { pg.nn.linear(3, 2) }"

local function fill(text, depth)
  return (text:gsub("[@$]", function(mark)
    if mark == "$" then return tostring(random(6) - 2) end
    return fill(depth > 3 and "x" or pick(EXPRESSIONS), depth + 1)
  end))
end

-- A line with some of its bytes dropped, doubled or replaced.
local function damage(line)
  local bytes = { line:byte(1, -1) }
  for _ = 1, random(3) do
    local at = random(#bytes + 1)
    local what = random(3)
    if what == 1 then bytes[at] = random(256) - 1 elseif what == 2 then table.insert(bytes, at, random(256) - 1)
    elseif bytes[at] then table.remove(bytes, at) end
  end
  for i, b in ipairs(bytes) do bytes[i] = b == 10 and " " or string.char(b) end
  return table.concat(bytes)
end

local function make_line(i)
  if i % 50 == 1 then return RESET end
  local line = fill(random(2) == 1 and pick(EXPRESSIONS) or pick(STATEMENTS), 0)
  return random(4) == 1 and damage(line) or line
end

local MEASURE = "collectgarbage() collectgarbage() print('measure', require('perigee.core').memory_used(), "
  .. "(collectgarbage('count') // 1))"

describe("the prompt", function()
  it(("survives %d lines"):format(LINES), function()
    print("# seed " .. SEED)
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    for i = 1, LINES do
      file:write(make_line(i), "\n")
      -- An unfinished block or string swallows what comes behind it: these lines end any.
      if i % 10 == 0 then file:write("]] ]=] '\n\"\nend end end\n") end
      if i % (LINES // 4) == 0 then file:write("]]\n]=]\n", RESET, "\n", MEASURE, "\n") end
    end
    file:write("print('the ' .. 'end')\n")
    file:close()
    local pipe = assert(io.popen(("%s <%s 2>&1; echo status $?"):format(perigee, path)))
    local out = pipe:read("a")
    pipe:close()
    os.remove(path)
    assert.matches("the end\n", out, 1, true)
    assert.matches("status 1\n$", out)
    local tensors, lua = {}, {}
    for a, b in out:gmatch("measure\t(%d+)\t(%d+)") do
      tensors[#tensors + 1], lua[#lua + 1] = tonumber(a), tonumber(b)
    end
    assert.equal(4, #tensors)
    assert.is_true(tensors[4] <= tensors[2] + (1 << 20), "tensors: " .. table.concat(tensors, ", "))
    assert.is_true(lua[4] <= lua[2] + 2048, "KiB of Lua: " .. table.concat(lua, ", "))
  end)
end)
