-- Facts about the guides of docs/: whoever follows add-op.md, add-module.md, add-method.md and add-recipe.md block by
-- block, in a copy of the sources, has everything they promise. Elementwise operations are only applied, and built if
-- PERIGEE_TEST_LONG is set, since they touch a header that nearly everything includes.
package.path = "tests/?.lua;" .. package.path
local guide = require "guide"

local build = os.getenv "PERIGEE_BUILD" or "build"
local directory = (os.getenv "TMPDIR" or "/tmp") .. "/guides"

local function shell(command) assert(os.execute(command), command) end

-- Variables that this build was made with, for the one of the copy; -O1, since its speed is of no interest.
local function build_variables()
  local flags, out = " " .. (os.getenv "MAKEFLAGS" or ""), { "MAKEFLAGS=-j$(nproc)", "CFLAGS=-O1", "BUILD=build" }
  for name, value in flags:gmatch("%s([A-Z]+)=(%S+)") do
    if name == "CC" or name == "ARCH" or name == "PORTABLE" then out[#out + 1] = ("%s='%s'"):format(name, value) end
  end
  return table.concat(out, " ") .. " PERIGEE_BUILD=build PERIGEE=build/perigee"
end

-- The sources and what has been compiled of them, with the times of change that make looks at.
local function copy_sources()
  shell(("rm -rf '%s' && mkdir -p '%s/build'"):format(directory, directory))
  shell(("cp -a Makefile .busted engine bindings scripts tests tools recipes docs '%s'"):format(directory))
  shell(("find '%s' -mindepth 1 -maxdepth 1 ! -name tmp ! -name cache ! -name tests ! -name bench "
    .. "-exec cp -a -t '%s/build' {} +"):format(build, directory))
end

describe("the guide", function()
  if os.getenv "SAN" == "1" then
    pending("is followed in builds without sanitizers")
    return
  end
  local environment = build_variables()
  setup(copy_sources)
  teardown(function() shell(("rm -rf '%s'"):format(directory)) end)

  it("to operations with a kernel of their own", function()
    local count = guide.follow("docs/add-op.md", directory, environment,
      { heading = "An operation with a kernel of its own" })
    assert.equal(14, count)
  end)

  it("to elementwise operations", function()
    local long = os.getenv "PERIGEE_TEST_LONG" == "1"
    local count = guide.follow("docs/add-op.md", directory, environment,
      { heading = "An elementwise operation", only_edits = not long })
    assert.equal(18, count)
  end)

  it("to rules, corrections, families, wrappers and stages", function()
    if os.getenv "PERIGEE_TEST_LONG" ~= "1" then copy_sources() end -- without the operation that was not built
    assert.equal(21, guide.follow("docs/add-method.md", directory, environment))
  end)

  it("to models and layers", function()
    assert.equal(19, guide.follow("docs/add-module.md", directory, environment))
  end)

  it("to recipes", function()
    assert.equal(10, guide.follow("docs/add-recipe.md", directory, environment))
  end)
end)

describe("guide.lua", function()
  local place = os.tmpname()

  local function follow(text)
    shell(("rm -rf '%s' && mkdir '%s'"):format(place, place))
    local function write(name, content)
      local file = assert(io.open(place .. "/" .. name, "wb"))
      file:write(content)
      file:close()
    end
    write("page.md", text)
    write("file", "one\ntwo\ntwo\n")
    local ok, message = pcall(guide.follow, place .. "/page.md", place, "")
    return ok, tostring(message):gsub("^.*page.md", "page.md")
  end

  teardown(function() shell(("rm -rf '%s'"):format(place)) end)

  it("applies and runs what a page says", function()
    assert.is_true(follow("In `file`, below:\n\n```c\none\n```\n\nadd:\n\n```c\nhalf\n```\n\n"
      .. "In `file`, replace:\n\n```c\nhalf\ntwo\n```\n\nwith:\n\n```c\nnew\n```\n\n"
      .. "Run:\n\n```sh\ncat file\n```\n\nIt prints:\n\n```text\none\n…two\n```\n"))
  end)

  it("says where a page is wrong", function()
    local function fails(line, what, text)
      local ok, message = follow(text)
      assert.is_false(ok)
      assert.matches(("page.md:%d: %s"):format(line, what), message, 1, true)
    end
    fails(3, "file does not have these lines", "In `file`, below:\n\n```c\nthree\n```\n")
    fails(3, "file has these lines more than once", "In `file`, below:\n\n```c\ntwo\n```\n")
    fails(2, "nothing says what to do with this block", "Look:\n```c\nx\n```\n")
    fails(2, "this fails:\noh\n", "Run:\n```sh\necho oh\nfalse\necho never\n```\n")
    fails(6, "printed was:\noh\n", "Run:\n```sh\necho oh\n```\nIt prints:\n```text\nno\n```\n")
  end)
end)
