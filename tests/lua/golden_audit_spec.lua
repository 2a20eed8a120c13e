-- Nothing of the reference file rules.json is left out: every trajectory is in one excerpt and replayed by a test in
-- f64 and in f32, every entry of special is the subject of a test.
local support = require "support"
local names = dofile "tests/golden/rules_names.lua"

local EXCERPTS = { "rules", "rules_recent", "rules_paired", "rules_batches", "stages", "quantize" }
local SPECS = { "rule", "rule_recent", "rule_tensors", "paired", "batch_size", "ghost", "stages", "quantize",
  "eight_bit" }

-- Entry of special → what the names of its tests say.
local TESTS_OF_SPECIAL = {
  quant_map_signed = "maps are those of the reference", quant_map_unsigned = "maps are those of the reference",
  quant_block8 = "codes are those of the reference", batch_tests = "the test of a batch augmented is that of the ref",
  pixel_clip = "of pixels is that of the reference", clip_top_fraction = "of the largest coordinates is that of",
  matrix_ops = "of a matrix", ghost_bn = "ghost batch norm has the values.* of the reference in f64",
  fedspeed = "fedspeed in f64", averaging = "averaging: swa",
}

-- The full names of a spec's tests, from running it with functions that only take names.
local function tests_of(spec)
  local list, within = {}, {}
  local function describe(name, body)
    within[#within + 1] = name
    body()
    within[#within] = nil
  end
  local function it(name) list[#list + 1] = table.concat(within, " ") .. " " .. name end
  local function nothing() end
  local run = assert(loadfile(("tests/lua/%s_spec.lua"):format(spec), "t", setmetatable({ describe = describe, it = it,
    setup = nothing, teardown = nothing, before_each = nothing, after_each = nothing }, { __index = _G })))
  run()
  return list
end

local tests = {}
for _, spec in ipairs(SPECS) do
  for _, name in ipairs(tests_of(spec)) do tests[#tests + 1] = name end
end

local function any_test(matches)
  for _, name in ipairs(tests) do if matches(name) then return true end end
end

local function escape(text) return (text:gsub("%p", "%%%0")) end

describe("the reference file", function()
  it("has every trajectory in one excerpt", function()
    local found = {}
    for _, excerpt in ipairs(EXCERPTS) do
      for _, case in ipairs(dofile(("tests/golden/%s.lua"):format(excerpt)).cases) do
        assert.is_nil(found[case.id], case.id)
        found[case.id] = true
      end
    end
    local missing = {}
    for _, id in ipairs(names.cases) do if not found[id] then missing[#missing + 1] = id end end
    assert.are.same({}, missing)
    assert.are.equal(171, #names.cases)
    assert.are.equal(171, #support.sorted_names(found))
  end)

  it("has every trajectory replayed in f64 and in f32", function()
    local missing = {}
    for _, id in ipairs(names.cases) do
      local whole = "%f[%w_]" .. escape(id) .. "%f[^%w_/]"
      for _, dtype in ipairs { "f64", "f32" } do
        local is_tested = any_test(function(name) return name:find(whole) and name:find("in " .. dtype, 1, true) end)
        if not is_tested then missing[#missing + 1] = ("%s in %s"):format(id, dtype) end
      end
    end
    assert.are.same({}, missing)
  end)

  it("has every entry of special tested", function()
    for _, name in ipairs(names.special) do
      local says = assert(TESTS_OF_SPECIAL[name], name)
      assert(any_test(function(test) return test:find(says) end), name)
    end
  end)
end)
