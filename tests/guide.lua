-- guide.lua: follows a page of docs/ as a reader would. Every block of code on a page is an instruction, and the
-- paragraph right before it says which:
--   … New file `PATH`:                      the file gets this text
--   … in `PATH`, below:   /  add:           the second block is put behind the first one's only occurrence
--   … in `PATH`, replace: /  with:          the second block takes the place of the first one's only occurrence
--   … Run:                /  It prints:     the commands succeed; the output holds the text (… stands for anything)
-- A block marked `text` without such a paragraph is only there to be read; any other is an error of the page.

local files = require "files"

local guide = {}

local function read(path) return assert(files.read(path)) end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- The blocks of a page: { { line, heading, before = last paragraph before it, language, text }, … }.
local function blocks_of(path)
  local blocks, block, paragraph, heading, number = {}, nil, {}, "", 0
  for line in (read(path)):gmatch("(.-)\n") do
    number = number + 1
    local fence = line:match("^```(%l*)$")
    if block and fence then
      block.text = table.concat(block.lines, "\n") .. "\n"
      blocks[#blocks + 1], block, paragraph = block, nil, {}
    elseif block then
      block.lines[#block.lines + 1] = line
    elseif fence then
      block = { line = number, language = fence, heading = heading, before = table.concat(paragraph, " "), lines = {} }
    elseif line:match("^## ") then
      heading, paragraph = line:match("^## (.*)$"), {}
    elseif line == "" then
      paragraph.ended = #paragraph > 0
    else
      if paragraph.ended then paragraph = {} end
      paragraph[#paragraph + 1] = line
    end
  end
  return blocks
end

local Walk = {}
Walk.__index = Walk

function Walk:fail(block, format, ...)
  error(("%s:%d: %s"):format(self.page, block.line, format:format(...)), 0)
end

-- The text of a file and where `needle` stands in it, once.
function Walk:locate(block, path, needle)
  local text = read(self.directory .. "/" .. path)
  local first, last = text:find(needle, 1, true)
  if not first then self:fail(block, "%s does not have these lines", path) end
  if text:find(needle, last + 1, true) then self:fail(block, "%s has these lines more than once", path) end
  return text, first, last
end

function Walk:run(block)
  if self.only_edits then return end
  local output = self.directory .. "/output"
  local command = ("cd %s && { %s\n} >%s 2>&1 </dev/null"):format(quote(self.directory), "set -e\n" .. block.text,
    quote(output))
  local ok = os.execute(("env %s sh -c %s"):format(self.environment, quote(command)))
  self.output = read(output)
  if not ok then self:fail(block, "this fails:\n%s", self.output) end
end

function Walk:compare(block)
  if self.only_edits then return end
  local from = 1
  for part in (block.text .. "…"):gmatch("(.-)…") do
    local first, last = self.output:find(part:gsub("^\n", ""), from, true)
    if not first then self:fail(block, "printed was:\n%s", self.output) end
    from = last + 1
  end
end

-- What to do with a block, by the end of the paragraph before it.
local INSTRUCTIONS = {
  { "[Nn]ew file `([^`]+)`:$", function(self, block, path) files.write(self.directory .. "/" .. path, block.text) end },
  { "[Ii]n `([^`]+)`, below:$", function(self, block, path)
    local _, _, last = self:locate(block, path, block.text)
    self.place = { path = path, first = last + 1, last = last }
  end },
  { "[Ii]n `([^`]+)`, replace:$", function(self, block, path)
    local _, first, last = self:locate(block, path, block.text)
    self.place = { path = path, first = first, last = last }
  end },
  { "^add:$", "place" }, { "^with:$", "place" },
  { "Run:$", Walk.run },
  { "prints:$", Walk.compare },
}

function Walk:put(block)
  local place = self.place
  if not place then self:fail(block, "nothing says where this goes") end
  local path = self.directory .. "/" .. place.path
  local text = read(path)
  files.write(path, text:sub(1, place.first - 1) .. block.text .. text:sub(place.last + 1))
  self.place = nil
end

function Walk:follow(block)
  for _, row in ipairs(INSTRUCTIONS) do
    local path = block.before:match(row[1])
    if path then
      if row[2] == "place" then return self:put(block) end
      return row[2](self, block, path)
    end
  end
  if block.language ~= "text" then self:fail(block, "nothing says what to do with this block") end
end

-- Follow a page in a directory. environment: "NAME=value …" for its commands. opts: heading, to follow only the part
-- under that "## heading"; only_edits, to run nothing. Raises what goes wrong, with the page and the line. → number of
-- blocks followed
function guide.follow(page, directory, environment, opts)
  opts = opts or {}
  local walk = setmetatable({ page = page, directory = directory, environment = environment,
    only_edits = opts.only_edits }, Walk)
  local count = 0
  for _, block in ipairs(blocks_of(page)) do
    if not opts.heading or block.heading == opts.heading then
      walk:follow(block)
      count = count + 1
    end
  end
  return count
end

return guide
