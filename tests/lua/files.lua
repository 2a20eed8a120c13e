-- files.lua: what specs need of files: whole ones, read and written; the program under test; a directory to work in.

local files = {}

-- The text of a file; nil and the reason if it cannot be read.
function files.read(path)
  local file <close>, message = io.open(path, "rb")
  if not file then return nil, message end
  return file:read("a")
end

function files.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

-- The path of a file of this checkout, for commands that run elsewhere.
function files.from_here(path)
  if path:sub(1, 1) == "/" then return path end
  return io.popen("pwd"):read("l") .. "/" .. path
end

-- The program under test.
function files.program() return files.from_here(os.getenv("PERIGEE") or "build/perigee") end

-- A new, empty directory.
function files.scratch()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir -p " .. path))
  return path
end

return files
