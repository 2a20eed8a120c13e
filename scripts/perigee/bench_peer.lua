-- bench_peer.lua: the other side of a benchmark: a child process that sets up a case and runs as many steps of it as it
-- is asked to (tests/bench/torch_peer.py says how they speak). A child reads from a pipe whose only writer is this
-- process, so it ends when this process does, however that happens.

local peer = {}

local Peer = {}
Peer.__index = Peer

-- Text as one word of the shell.
function peer.quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local quote = peer.quote

-- Start `command` (shell words; a trusted string). Returns the peer, or nil where it does not come up.
function peer.start(command)
  local place = os.tmpname()
  os.remove(place)
  local pipe = quote(place .. "/in")
  if not os.execute(("mkdir -m 700 %s && mkfifo -m 600 %s"):format(quote(place), pipe)) then return nil end
  local from = io.popen(("exec %s <%s 2>/dev/null"):format(command, pipe), "r")
  local to = io.open(place .. "/in", "w") -- waits for the child's end
  os.execute("rm -r " .. quote(place))
  local self = setmetatable({ from = from, to = to }, Peer)
  local hello = from:read("l")
  if not hello or not hello:match("^ready ") then
    self:close()
    return nil
  end
  self.name = hello:match("^ready (.*)")
  return self
end

-- Send a line and return the answer; nil if the child is gone.
function Peer:ask(...)
  if not self.to then return nil end
  self.to:write(table.concat({ ... }, " "), "\n")
  self.to:flush()
  local answer = self.from:read("l")
  if not answer then self:close() end
  return answer
end

-- Prepare a case. Returns true, or false and why not.
function Peer:setup(case, variant, threads)
  local answer = self:ask("setup", tostring(case), variant, tostring(threads)) or "error the process ended"
  return answer == "ok", answer:match("^error (.*)")
end

-- Seconds that `steps` steps take.
function Peer:run(steps)
  return tonumber(self:ask("run", tostring(steps)) or "") or error("the peer process ended", 0)
end

function Peer:close()
  if self.to then self.to:close() end
  if self.from then self.from:close() end
  self.to, self.from = nil, nil
end
Peer.__close = Peer.close

return peer
