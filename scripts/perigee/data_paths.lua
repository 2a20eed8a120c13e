-- data_paths.lua: where data sets are looked for: the recipe's directory, those of PERIGEE_DATA, the system's; plain or
-- compressed, as far as the recipe may read them.

local files = require("perigee.core").data

local data_paths = {}

local SYSTEM = { "/usr/share/datasets", "/usr/local/share/datasets" }

--- pg.data.directories() → list: The directories that are searched for names, besides the recipe's own: those of the
-- environment variable PERIGEE_DATA (separated by colons), then the system's.
function data_paths.directories()
  local list = {}
  for directory in (os.getenv "PERIGEE_DATA" or ""):gmatch "[^:]+" do list[#list + 1] = directory end
  return table.move(SYSTEM, 1, #SYSTEM, #list + 1, list)
end

-- The directory of the file that called the caller of this, pg.data.load: what lies beside a recipe is found wherever
-- it is run from.
function data_paths.directory_of_caller()
  local level, info = 3, debug.getinfo(3, "S")
  while info and info.source:sub(1, 1) ~= "@" do
    level = level + 1
    info = debug.getinfo(level, "S")
  end
  return info and (info.source:match "^@(.*)/[^/]*$" or ".")
end

-- The directories that `name` is looked for in: the working directory, the recipe's, the others. "" stands for none, so
-- that messages show names as they were given.
function data_paths.search_path(name, beside)
  if name:sub(1, 1) == "/" then return { "" } end
  local list = { "" }
  if beside and beside ~= "." then list[2] = beside .. "/" end
  for _, root in ipairs(data_paths.directories()) do list[#list + 1] = root .. "/" end
  return list
end

local SUFFIXES = { "", ".xz", ".gz" }

-- Whether the recipe that runs may read `path`: true, or nil and a message.
function data_paths.may_read(path)
  local sandbox = package.loaded["perigee.sandbox"]
  if not sandbox then return true end
  return sandbox.may_open(path, "r")
end

-- `path`, plain or compressed, as it lies there; nil if it does not or may not be read.
function data_paths.find_file(path)
  for _, suffix in ipairs(SUFFIXES) do
    local stat = files.stat(path .. suffix)
    if stat and stat.type == "file" and data_paths.may_read(path .. suffix) then return path .. suffix end
  end
end

function data_paths.find_directory(path, member)
  local stat = files.stat(path)
  return stat and stat.type == "directory" and data_paths.find_file(path .. "/" .. member) and path
end

return data_paths
