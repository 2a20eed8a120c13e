-- Facts about the memory of updates: a rule goes over the parameters once, or twice where it reduces them, and keeps no
-- vector beside its slots.
local support = require "support"
local pg, core = support.pg, support.core
local bench_rules = require "perigee.bench_rules"

local N = 40000

local HALVES = core.layout { { "a", { N / 2 } }, { "b", { N / 2 } } }

-- What the program of an update says of itself.
local function program_of(r, entry, layout)
  layout = layout or HALVES
  local function full(x) return core.apply("full", { layout = layout, dtype = "f32" }, x) end
  local theta = full(0.1)
  local state = r:init(theta, { weight_decay = 0.01 })
  r:step(theta, { g = full(0.2) }, state, 0, { key = entry.key and pg.key(1), q = entry.h and { h = full(1), h0 = 1 } })
  for _, value in next, state do
    local programs = type(value) == "table" and value.programs
    if programs then return select(2, next(programs)):info() end
  end
end

describe("an update", function()
  for _, entry in ipairs(bench_rules.elementwise) do
    it("by " .. entry[1] .. " makes no temporary vector", function()
      local info = program_of(entry[2], entry)
      assert(info.arena_bytes < N, info.arena_bytes)
    end)
  end

  for _, entry in ipairs(bench_rules.reducing) do
    if entry.at_least then
      it("by " .. entry[1] .. " makes no temporary vector for its sums", function()
        local info = program_of(entry[2], entry)
        assert(info.arena_bytes < N, info.arena_bytes)
      end)
    end
  end

  it("by adafactor, matrix by matrix, writes each in its place", function()
    local entries = {}
    for i = 1, 16 do entries[i] = { "w" .. i, { 50, 50 } } end
    local info = program_of(pg.rule.adafactor, {}, core.layout(entries))
    assert(info.arena_bytes < 4 * N, info.arena_bytes)
  end)

  it("that reads a slot before it writes it is one loop", function()
    assert.are.equal(1, program_of(pg.rule.lion, {}).kernels)
  end)
end)
