-- busted_helper.lua: runs before every spec file. Debian's busted starts under Lua 5.1 unless told otherwise; specs that
-- ran there would prove nothing. Temporary files go where TMPDIR says, which os.tmpname does not ask.
assert(_VERSION == "Lua 5.4", "run the specs with: lua5.4 /usr/bin/busted")

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
