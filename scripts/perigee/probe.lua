-- probe.lua: pg.probe, instruments that change nothing they look at: state, keys, buffers and counters stay as they are
-- bit for bit, but for the count of gradient evaluations that probes have made. Each file below has one kind.

local names = require "perigee.names"

local probe = {}

for _, file in ipairs { "probe_gradients", "probe_hessian" } do
  local functions = require("perigee." .. file)
  for _, name in ipairs(names.sorted(functions)) do probe[name] = functions[name] end
end

return probe
