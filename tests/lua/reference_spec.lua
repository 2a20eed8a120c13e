-- Facts about the reference manual: every name that a user can reach has an entry that says how it is called and what
-- it does, no entry speaks of what is not there, defaults are those of the code, and docs/reference.md is up to date.

local files = require "files"
local pg = require "perigee"
local core = require "perigee.core"
local names = require "perigee.names"
local reference = require "perigee.reference"

-- { {full name, value}, … } of what can be reached from a table, modules within modules included.
local function reachable(t, prefix, out)
  for name, value in pairs(t) do
    if type(name) == "string" and not name:find("^__") then
      out[#out + 1] = { prefix .. name, value }
      if type(value) == "table" and not (getmetatable(value) or {}).__name then
        reachable(value, prefix .. name .. ".", out)
      end
    end
  end
  return out
end

local function is_callable(value)
  return type(value) == "function" or type(value) == "table" and (getmetatable(value) or {}).__call ~= nil
end

-- The names of `list` that have no proper entry, with what is wrong.
local function faults(list)
  local found = {}
  for _, item in ipairs(list) do
    local name, value = item[1], item[2]
    local entry = reference.find(name)
    if not entry or entry.name ~= name then
      found[#found + 1] = name .. ": no entry"
    elseif is_callable(value) and not entry.signature:find("[%({]") then
      found[#found + 1] = name .. ": the signature has no arguments"
    elseif select(2, entry.text:gsub("%S+", "")) < 1 then
      found[#found + 1] = name .. ": no text"
    end
  end
  table.sort(found)
  return found
end

local function read(path) return assert(files.read(path)) end

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  local ok = pipe:close()
  return text, ok
end

describe("the reference", function()
  it("has an entry for every name reachable from pg", function()
    local list = reachable(pg, "pg.", {})
    assert.is_true(#list > 200)
    -- a module that can be called, as pg.optimizer, counts; one that only holds others does not
    for i = #list, 1, -1 do
      local value = list[i][2]
      if type(value) == "table" and not is_callable(value) and not (getmetatable(value) or {}).__name then
        table.remove(list, i)
      end
    end
    assert.same({}, faults(list))
  end)

  it("has an entry for every method and property of tensors and layouts", function()
    local list = {}
    for name, value in next, core.methods do
      if not name:find("^__") then list[#list + 1] = { "tensor:" .. name, value } end
    end
    for name in ("shape dtype device ndim size layout traced weak"):gmatch("%a+") do
      assert.not_nil(pg.key(1)[name] ~= nil or name == "layout")
      list[#list + 1] = { "tensor." .. name }
    end
    for name in ("size padded"):gmatch("%a+") do list[#list + 1] = { "layout." .. name } end
    list[#list + 1] = { "layout:find", core.layout({ { "w", { 1 } } }).find }
    assert.same({}, faults(list))
  end)

  it("has an entry for every method of models, optimizers, splits and whatever else a recipe is handed", function()
    local model = pg.nn.sequential { pg.nn.linear(2, 2) }
    local opt, split = pg.optim.sgd {}, pg.data.from { x = pg.ones { 2, 2 } }
    local sampler = pg.sampler.shuffled(split, 1, pg.key(1))
    local hidden = { -- for the library itself
      model = {}, optimizer = { "program", "frame", "evaluate_hypers" }, sampler = {},
      evaluator = { "trace_loss" }, rule = { "apply", "allocate" },
      family = { "init", "evaluate", "update", "gives", "has_noise", "is_of_batch",
        "refuses" },
      correction = { "is_active", "period", "is_due", "flags", "variant", "possible_flags", "declared_state",
        "refuses", "next_segment" },
      stage = { "apply" },
    }
    local objects = {
      model = model, optimizer = opt, sampler = sampler, evaluator = pg.evaluator { loss = print }, rule = pg.rule.sgd,
      correction = pg.correction.svrg, family = pg.family.point, stage = pg.stage.clip { norm = 1 },
    }
    local list = {}
    for kind, object in pairs(objects) do
      for name, value in next, getmetatable(object).__index do
        local is_hidden = name:find("^_") or name == "kind" or name == "with"
        for _, known in ipairs(hidden[kind]) do is_hidden = is_hidden or known == name end
        if type(value) == "function" and not is_hidden then list[#list + 1] = { kind .. ":" .. name, value } end
      end
    end
    assert.is_true(#list > 10)
    assert.same({}, faults(list))
  end)

  it("has an entry for every command that help lists", function()
    local text = output_of((os.getenv "PERIGEE" or "build/perigee") .. " help")
    local list = {}
    for command in text:match("commands:\n(.-)\n\n"):gmatch("\n?  (%l+) ") do
      list[#list + 1] = { "perigee " .. command }
    end
    assert.is_true(#list >= 9)
    assert.same({}, faults(list))
  end)

  it("says nothing of what is not there", function()
    local missing = {}
    local function look(name)
      local at = pg
      for part in name:gmatch("[%w_]+") do
        if part ~= "pg" then
          local ok, value = pcall(function() return at[part] end)
          if not ok or value == nil then return false end
          at = value
        end
      end
      return true
    end
    for _, name in ipairs(reference.names()) do
      local method = name:match("^tensor:([%w_]+)$")
      local there = true
      if method then there = core.methods[method] ~= nil elseif name:find("^pg%.") then there = look(name) end
      if not there then missing[#missing + 1] = name end
    end
    assert.same({}, missing)
  end)

  it("gives the parts the defaults that they have", function()
    local checked = 0
    for _, name in ipairs(reference.names()) do
      local kind, part = name:match("^pg%.(%l+)%.(%w+)$")
      local value = (kind == "rule" or kind == "family" or kind == "correction") and rawget(pg[kind], part)
      if type(value) == "table" then
        local options = reference.find(name).signature:match("{(.*)}")
        local own = {} -- options with a dot are those of a rule inside
        for key, default in next, value.hyper.given do
          if not key:find(".", 1, true) then own[key] = default end
        end
        for _, key in ipairs(names.sorted(own)) do
          local written = (" " .. options):match("[ ,]" .. key .. " = ([^,}]-)%s*[,}]") or (" " .. options):match(
            "[ ,]" .. key .. " = (.-)%s*$")
          assert(written, ("%s: %s is not in the signature"):format(name, key))
          local default = load("return " .. written, "=default", "t", { math = math })()
          assert.equal(value.hyper.given[key], default, name .. ": " .. key)
          checked = checked + 1
        end
      end
    end
    assert.is_true(checked > 15)
  end)

  it("is found by the ways people write a name", function()
    for typed, name in pairs {
      ["pg.nn.linear"] = "pg.nn.linear", ["nn.linear"] = "pg.nn.linear", grad = "pg.grad", ["x:sum"] = "tensor:sum",
      ["tensor:sum"] = "tensor:sum", resume = "perigee resume", ["perigee run"] = "perigee run",
    } do
      assert.equal(name, reference.find(typed).name)
    end
    assert.is_nil(reference.find("pg.nothing_like_it"))
    assert.equal("pg.nn.linear", reference.suggest("pg.nn.liner"))
  end)

  it("fits a terminal", function()
    for _, name in ipairs(reference.names()) do
      for line in reference.format(reference.find(name), 60):gmatch("[^\n]+") do
        local code = line:find("^    ")
        assert(code or utf8.len(line) <= 60 or not line:match("%S%s+%S"), name .. ": " .. line)
      end
    end
  end)

  it("is what docs/reference.md says: `make reference` brings it up to date", function()
    assert.is_true(output_of("lua5.4 tools/reference.lua manual") == read("docs/reference.md"))
  end)
end)

describe("tools/reference.lua", function()
  local directory = os.tmpname()

  -- What the tool prints for a source tree with this one script.
  local function manual_of(text)
    local root = directory .. ".tree"
    output_of(("rm -rf %s; mkdir -p %s/scripts/perigee %s/bindings"):format(root, root, root))
    output_of(("echo '// nothing' > %s/bindings/none.c"):format(root))
    local file = assert(io.open(root .. "/scripts/perigee/schedule.lua", "wb"))
    file:write(text)
    file:close()
    local here = output_of("pwd"):match("[^\n]*")
    return output_of(("cd %s && lua5.4 %s/tools/reference.lua manual"):format(root, here))
  end

  teardown(function() output_of(("rm -rf %s %s.tree"):format(directory, directory)) end)

  it("reads signatures, texts, lists and code", function()
    local text = manual_of("-- Not a doc comment.\nfunction schedule.twice(x)\nend\n\n"
      .. "--- pg.f(x [, y = 1]), pg.g { a = 1 } → z: It\n-- is *good*.\n--   x: one\n--     more\n--   y: two\n"
      .. "--- pg.h(\n-- a): H.\n--     f = 1\n")
    assert.is_nil(text:find("twice", 1, true))
    assert.matches("`pg.f(x [, y = 1]), pg.g { a = 1 } → z` ([schedule.lua](../scripts/perigee/schedule.lua))"
      .. "\n\nIt is \\*good\\*.\n\n- x: one more\n- y: two\n", text, 1, true)
    assert.matches("`pg.h( a)` ([schedule.lua](../scripts/perigee/schedule.lua))\n\nH.\n\n```text\nf = 1\n```", text,
      1, true)
  end)

  it("refuses a signature that does not fit the code, and a name documented twice", function()
    local text, ok = manual_of("--- pg.schedule.twice(x, y): Twice.\nfunction schedule.twice(x)\nend\n")
    assert.is_nil(ok)
    assert.equal("scripts/perigee/schedule.lua:1: "
      .. "pg.schedule.twice(x, y) is documented with 2 arguments, the code has (x)\n", text)
    text, ok = manual_of("--- pg.f(x): F.\n--- pg.f(x): F.\n")
    assert.is_nil(ok)
    assert.equal("scripts/perigee/schedule.lua:2: pg.f is documented in scripts/perigee/schedule.lua:1 too\n", text)
  end)
end)
