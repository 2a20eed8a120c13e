-- helper.lua: makes `require "perigee"` find the module that `make` built (PERIGEE_BUILD names another build directory). Read by
-- busted before the specs, because .busted says so.
assert(_VERSION == "Lua 5.4", "run the specs under Lua 5.4: lua5.4 /usr/bin/busted")
package.cpath = (os.getenv("PERIGEE_BUILD") or "build") .. "/?.so;" .. package.cpath
require "perigee"
