-- files.lua: what specs need of files: whole ones, read and written.

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

return files
