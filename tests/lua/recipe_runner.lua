-- recipe_runner.lua: runs the text of a recipe as `perigee recipe.lua` would, sandbox included, but in this process,
-- and gives what it said. For specs that try many small recipes.

local cli = require "perigee.cli"
local core = require "perigee.core"
local sandbox = require "perigee.sandbox"

local runner = {}

-- What io.stderr is while a recipe runs: it keeps what is written.
local function make_ear()
  local heard = {}
  return { flush = function() end, write = function(_, ...)
    for i = 1, select("#", ...) do heard[#heard + 1] = tostring((select(i, ...))) end
  end }, heard
end

-- Run `source` as recipe.lua with run directories below `root`, which is called "runs" in the recipe and in messages.
-- → exit code, what came out on standard error
function runner.run(source, root)
  local stderr, ear, heard = io.stderr, make_ear()
  io.stderr = ear -- luacheck: ignore 122
  local ok, code = pcall(cli.call_muted, cli.run_source, { path = "recipe.lua", chunkname = "recipe.lua",
    source = source:gsub("runs/", root .. "/"), words = {}, flags = { runs = root } })
  io.stderr = stderr -- luacheck: ignore 122
  sandbox.leave()
  core.interrupted(false)
  assert(ok, code)
  return code, (table.concat(heard):gsub(root:gsub("%p", "%%%0"), "runs"))
end

return runner
