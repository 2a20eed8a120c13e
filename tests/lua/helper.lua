-- helper.lua: makes `require "perigee"` find the module that `make` built (PERIGEE_BUILD names another build
-- directory) and `require` the modules beside this file. Temporary files go where TMPDIR says, which os.tmpname does
-- not ask. Read by busted before the specs, because .busted says so.
assert(_VERSION == "Lua 5.4", "run the specs under Lua 5.4: lua5.4 /usr/bin/busted")
package.cpath = (os.getenv("PERIGEE_BUILD") or "build") .. "/?.so;" .. package.cpath
package.path = "tests/lua/?.lua;" .. package.path
require "perigee"

local directory, count = os.getenv("TMPDIR"), 0
if directory then
  os.tmpname = function() -- luacheck: ignore 122
    local name
    repeat
      count = count + 1
      name = ("%s/lua_%d_%d"):format(directory, math.random(0, 1 << 40), count)
      local taken = io.open(name, "rb")
      if taken then taken:close() end
    until not taken
    assert(io.open(name, "wb")):close()
    return name
  end
end
