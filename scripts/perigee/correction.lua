-- correction.lua: corrections replace the statistics of a step by less noisy ones. What one is stands in
-- correction_class.lua; this file gathers the ready-made ones, which are written as a user would write them.

local class = require "perigee.correction_class"

local correction = { define = class.define, is = class.is }

--- pg.correction.none(): No correction: what an optimizer without one has. Both none and none() say it.
function correction.none()
  return nil
end

for _, name in ipairs { "snapshot", "recursive", "table" } do
  for key, value in next, (require("perigee.correction_" .. name)) do correction[key] = value end
end

return correction
