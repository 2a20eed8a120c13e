-- Facts about the recipes that measure what methods do: each in its smallest form, on made-up data, shows what it is
-- there to show, leaves its pictures, and stands up to `perigee check`.
local files = require "files"
local perigee = os.getenv("PERIGEE") or "build/perigee"
local root = io.popen("pwd"):read("l")
local place = (os.getenv "TMPDIR" or "/tmp") .. "/studies"

local function run(command, words)
  local program = perigee:sub(1, 1) == "/" and perigee or root .. "/" .. perigee
  local pipe = assert(io.popen(("cd '%s' && PERIGEE_DATA='%s' '%s' %s %s/recipes/%s 2>&1"):format(place, place, program,
    command, root, words)))
  local out = pipe:read("a")
  return out, (select(3, pipe:close()))
end

-- The numbers of a table's row that begins with `words`, in order.
local function row(out, words)
  local line = assert(out:match("\n *" .. words .. " +([^\n]*)"), words .. " in\n" .. out)
  local numbers = {}
  for word in line:gmatch "%S+" do numbers[#numbers + 1] = tonumber(word) end
  return numbers
end

local function expect_picture(path)
  assert.is_truthy(files.read(("%s/runs/%s.svg"):format(place, path)):find("^<svg"), path)
end

describe("studies", function()
  setup(function() assert(os.execute(("rm -rf '%s' && mkdir -p '%s'"):format(place, place))) end)
  teardown(function() os.execute(("rm -rf '%s'"):format(place)) end)

  it("dynamical_stability.lua: gradient descent ends at 2 / lr, small batches where it is flatter", function()
    local out, code = run("", "dynamical_stability.lua data=teacher rows=24 width=6 seeds=1 rates=0.2,0.9 batches=24,1 "
      .. "steps=3000 escape=100 trials=3")
    assert.equal(0, code, out)
    local edge = row(out, "24 +0%.9")[6]
    assert(edge > 0.95 and edge < 1.02, out)
    assert(row(out, "1 +0%.2")[5] < 0.8 * row(out, "24 +0%.2")[5], out)
    for _, batch in ipairs { "24", "1" } do
      local star, stays, leaves = out:match("\n *" .. batch .. " +(0%.%d%d%d%d) +(%S+) %b() +(%S+) ")
      assert(tonumber(star) > 0.01 and tonumber(stays) < 0.3 and tonumber(leaves) > 10, out)
    end
    expect_picture "dynamical_stability/edge"
  end)

  it("last_iterate.lua: a rate that falls to 0 beats one that stays, and averages do; no bound is passed", function()
    local out, code = run("", "last_iterate.lua data=made rows=1000 l2=1e-3 longest=2048 seeds=2 whole=64")
    assert.equal(0, code, out)
    for _, problem in ipairs { "logistic", "hinge" } do
      local part = out:sub((out:find("\n" .. problem .. ": F* = ", 1, true)))
      local function last(method) return row(part, method:gsub("%p", "%%%0"))[3] end
      local constant = last "constant, last"
      for _, method in ipairs { "constant, average", "constant, last half", "to 0 in a line, last", "schedule-free" } do
        assert(last(method) > 0 and last(method) < 0.7 * constant, method .. " in\n" .. out)
      end
      expect_picture("last_iterate/" .. problem)
    end
    local shares = out:sub((out:find("over B R", 1, true)))
    for _, method in ipairs { "constant, average", "to 0 in a line, last" } do
      for _, share in ipairs(row(shares, method)) do assert(share > 0 and share < 1, out) end
    end
  end)

  it("directional_sharpness.lua: SGD steps where it is sharpest, clipped or not by two ways", function()
    local out, code = run("", "directional_sharpness.lua data=made words=60 tokens=4000 width=4 hidden=8 batch=64 "
      .. "steps=60 looks=2 watched=512")
    assert.equal(0, code, out)
    local part = out:sub((out:find("\nSGD trains", 1, true)))
    local sgd, clipped, adam = row(part, "SGD "), row(part, "clipped SGD"), row(part, "Adam")
    assert(sgd[1] > 2 * adam[1] and sgd[1] > clipped[1], out)
    for field = 1, 4 do assert.equal(clipped[field], sgd[4 + field], out) end -- the same direction, by two ways
    for _, x in ipairs { sgd[3] / sgd[4], adam[3] / adam[4] } do assert(x > 0.5 and x < 2, out) end
    local own = out:sub((out:find("each trains by itself", 1, true)))
    assert(row(own, "SGD")[3] > row(own, "Adam")[3], out)
    expect_picture "directional_sharpness/own"
  end)

  it("sgld_vs_ivon.lua: chains and a full Gaussian find the exact posterior, IVON the best diagonal one", function()
    local small = "sgld_vs_ivon.lua sets=6 full_sets=2 chains=2 hidden=5 grid=15 "
    local out, code = run("", small .. "only=linear steps=4000 ivon_steps=2000 von_steps=300")
    assert.equal(0, code, out)
    local IN, OUT = 2, 8 -- ratios of standard deviations to the exact ones, in the gap and outside
    for _, method in ipairs { "SGLD, all data", "SGHMC, all data", "pSGHMC", "VON" } do
      local x = row(out, method)
      assert(math.abs(x[IN] - 1) < 0.15 and math.abs(x[OUT] - 1) < 0.15, method .. " in\n" .. out)
    end
    local best, found = row(out, "exact, diagonal"), row(out, "IVON")
    assert(math.abs(found[IN] - best[IN]) < 0.1 and math.abs(found[OUT] - best[OUT]) < 0.15, out)
    assert(found[IN] < 0.6 and found[OUT] > 1.1, out)
    expect_picture "sgld_vs_ivon/linear"

    out, code = run("", small .. "only=network steps=800 looks=40 ivon_steps=200 von_steps=40 hmc_steps=200 samples=20")
    assert.equal(0, code, out)
    assert(tonumber(out:match "(%d+)%% accepted") > 50, out)
    assert(row(out, "IVON")[IN] < 1, out)
    expect_picture "sgld_vs_ivon-2/network"
  end)

  for words, name in pairs {
    ["dynamical_stability.lua data=teacher rows=24 width=6 seeds=1 steps=400"] = "dynamical_stability",
    ["last_iterate.lua data=made rows=500 longest=256 seeds=1 whole=16"] = "last_iterate",
    ["directional_sharpness.lua data=made words=20 tokens=500 width=2 hidden=4 batch=16 steps=8 looks=2 watched=64"] =
      "directional_sharpness",
    ["sgld_vs_ivon.lua only=network sets=2 full_sets=1 chains=2 steps=40 looks=5 ivon_steps=20 von_steps=5 "
      .. "hmc_steps=8 samples=5 hidden=3"] = "sgld_vs_ivon",
  } do
    it(words:match "^%S+" .. " stands up to check, runs inside its steps and all", function()
      local out, code = run("check", words)
      assert.equal(0, code, out)
      assert.is_truthy(out:find("ok   " .. name .. ": 3 steps, save, load, 3 steps: the same bits as", 1, true), out)
    end)
  end
end)
