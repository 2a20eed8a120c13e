-- methods.lua: `perigee methods`: the families, corrections, rules and ready-made optimizers there are, with the line
-- their definitions give and their hyperparameters.

local names = require "perigee.names"

local methods = {}

local HEADS = {
  { "family", "families: where the loss is evaluated, and which statistics come back" },
  { "correction", "corrections: less noisy statistics" },
  { "rule", "rules: how the mean moves" },
  { "optim", "ready-made: pg.optim.NAME { … }" },
}

-- "lr = 0.001, momentum = 0" of a part's defaults; "" where there are none to be had.
local function defaults_of(part)
  local given = type(part) == "table" and part.hyper and part.hyper.given
  local out = {}
  for i, key in ipairs(given and names.sorted(given) or {}) do
    local value = given[key]
    out[i] = type(value) == "number" and ("%s = %.12g"):format(key, value) or ("%s = %s"):format(key, tostring(value))
  end
  return table.concat(out, ", ")
end

-- Print all of it. → exit code
function methods.main()
  local pg = require "perigee"
  for _, head in ipairs(HEADS) do
    local module = pg[head[1]]
    io.write(head[2], "\n")
    for _, entry in ipairs(module.list()) do
      io.write(("  %-11s %s\n"):format(entry.name, entry.summary or ""))
      local defaults = defaults_of(module[entry.name])
      if defaults ~= "" then io.write(("  %-11s   %s\n"):format("", defaults)) end
    end
    io.write("\n")
  end
  io.write("An optimizer is a family, a correction and a rule: pg.optimizer { family = …, correction = …, rule = … }\n")
  return 0
end

return methods
