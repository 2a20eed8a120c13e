-- Every ready-made rule, wrapper and stage has a fact that could fail: those of rule_facts.lua and part_facts.lua.
local support = require "support"
local pg = support.pg

local facts = require "part_facts"
facts.rule = require "rule_facts"

-- The names of a library's parts of one kind.
local function parts_of(kind)
  local list = {}
  for name in pairs(pg[kind]) do
    if name ~= "define" and name ~= "is" then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

for _, kind in ipairs { "rule", "wrapper", "stage" } do
  describe("pg." .. kind, function()
    it("has a fact for each name, and none for names that are not there", function()
      assert.are.same(parts_of(kind), support.sorted_names(facts[kind]))
    end)

    for _, name in ipairs(support.sorted_names(facts[kind])) do
      local statement, hold = facts[kind][name][1], facts[kind][name][2]
      it(("%s %s"):format(name, statement), hold)
    end
  end)
end
