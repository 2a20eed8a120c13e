-- Facts about the pages of documentation: what they link to and the files they name are there.

local files = require "files"

local function read(path) return assert(files.read(path)) end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function pages()
  local list = { "README.md" }
  local pipe = assert(io.popen "ls docs/*.md docs/results/*.md 2>/dev/null")
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  return list
end

-- A page without its blocks of code: those of the guides are followed by a test of their own.
local function prose(path) return (("\n" .. read(path)):gsub("\n```.-\n```", "\n")) end

describe("documentation", function()
  it("has no link to a file that is not there", function()
    local broken, count = {}, 0
    for _, page in ipairs(pages()) do
      local directory = page:match("^(.*/)") or ""
      for target in prose(page):gsub("`[^`\n]*`", ""):gmatch("[^\\]%]%(([^)#]+)[^)]*%)") do
        if not target:find("^https?:") then
          count = count + 1
          local path = (directory .. target):gsub("[%w_]+/%.%./", "")
          if not exists(path) then broken[#broken + 1] = page .. ": " .. target end
        end
      end
    end
    assert.is_true(count > 20)
    assert.same({}, broken)
  end)

  it("names no file of the sources that is not there", function()
    local missing, count = {}, 0
    for _, page in ipairs(pages()) do
      for path in prose(page):gsub("New file `[^`]*`", ""):gmatch("([%w_/%-]+%.[chl]u?a?)`") do
        local root = path:match("^(%l+)/")
        if root == "engine" or root == "bindings" or root == "scripts" or root == "recipes" or root == "tools" then
          count = count + 1
          if not exists(path) then missing[#missing + 1] = page .. ": " .. path end
        end
      end
    end
    assert.is_true(count > 20)
    assert.same({}, missing)
  end)

  it("lists every page in an index, and the README every recipe and command", function()
    local index, front = read "docs/README.md", read "README.md"
    for _, name in ipairs(require("perigee.reference").names()) do
      local command = name:match("^perigee (%l+)$")
      local shown = command ~= "run" and command ~= "version" and command -- a recipe's name alone runs it
      assert(not shown or front:find("\n    perigee " .. shown, 1, true), name)
    end
    for _, page in ipairs(pages()) do
      local name = page:match("^docs/(.*)$")
      assert(not name or name == "README.md" or index:find("(" .. name .. ")", 1, true)
        or front:find("(" .. page .. ")", 1, true), page)
    end
    local pipe = assert(io.popen "ls recipes/*.lua")
    for recipe in pipe:lines() do assert(front:find("`" .. recipe .. "`", 1, true), recipe) end
    pipe:close()
  end)
end)
