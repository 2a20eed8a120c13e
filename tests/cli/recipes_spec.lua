-- Facts about the recipes: those on images train on a small made-up data set in MNIST's format and end with their table
-- and plot; those that take long run in a small form. All stand up to `perigee check`.
local files = require "files"
local perigee = os.getenv("PERIGEE") or "build/perigee"
local root = io.popen("pwd"):read("l")
local place = (os.getenv "TMPDIR" or "/tmp") .. "/recipes"
local TRAIN, TEST, SIDE = 320, 100, 28

local function shell(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local out = pipe:read("a")
  return out, (select(3, pipe:close()))
end

local function write(name, text) files.write(place .. "/data/fashion-mnist/" .. name, text) end

-- Images whose class is the brightest of ten stripes, and their labels.
local function write_split(name, count)
  local images, labels, state = {}, {}, 12345
  local function draw(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return state // 65536 % n
  end
  for i = 1, count do
    local class, rows = draw(10), {}
    for row = 0, SIDE - 1 do
      local base, pixels = row * 10 // SIDE == class and 150 or 20, {}
      for column = 1, SIDE do pixels[column] = string.char(base + draw(100)) end
      rows[row + 1] = table.concat(pixels)
    end
    images[i], labels[i] = table.concat(rows), string.char(class)
  end
  write(name .. "-images-idx3-ubyte", string.pack(">BBBBI4I4I4", 0, 0, 8, 3, count, SIDE, SIDE) .. table.concat(images))
  write(name .. "-labels-idx1-ubyte", string.pack(">BBBBI4", 0, 0, 8, 1, count) .. table.concat(labels))
end

local function run(command, words)
  local path = ("%s/recipes/%s"):format(root, words)
  return shell(("cd '%s' && PERIGEE_DATA='%s/data' '%s' %s %s"):format(place, place,
    perigee:sub(1, 1) == "/" and perigee or root .. "/" .. perigee, command, path))
end

describe("recipes", function()
  setup(function()
    assert(os.execute(("rm -rf '%s' && mkdir -p '%s/data/fashion-mnist'"):format(place, place)))
    write_split("train", TRAIN)
    write_split("t10k", TEST)
    assert(os.execute(("ln -s fashion-mnist '%s/data/mnist'"):format(place)))
  end)
  teardown(function() os.execute(("rm -rf '%s'"):format(place)) end)

  for _, words in ipairs { "fashion_lenet.lua epochs=2", "fashion_lenet.lua epochs=2 form=relu",
    "fashion_mlp.lua epochs=2" } do
    it(words .. " trains by five methods", function()
      local out, code = run("", words)
      assert.equal(0, code, out)
      -- Corrected methods take a pass and two gradients a step in each of two epochs.
      for method, evaluations in pairs { sgd = 2, adamw = 2, svrg = 6, ivon = 2, ["ivon-poco"] = 6 } do
        local accuracy, counted = out:match("\n" .. method:gsub("%-", "%%-") .. " +([%d.]+)%% +[%d.]+ +([%d,]+) ")
        assert.is_truthy(accuracy, method .. " in\n" .. out)
        assert.equal(evaluations * TRAIN, tonumber((counted:gsub(",", ""))), method)
      end
      assert.is_truthy(out:find("training loss", 1, true))
      assert.is_truthy(out:find("● sgd", 1, true))
    end)
  end

  it("fashion_lenet.lua learns, and one method is enough", function()
    local out = run("", "fashion_lenet.lua epochs=12 batch=32 only=adamw")
    local accuracy = tonumber(out:match("\nadamw +([%d.]+)%%"))
    assert(accuracy > 90, out)
    assert.is_nil(out:find("\nsgd"))
  end)

  it("batch_norm.lua moves its running statistics once a step, of three evaluations", function()
    local out, code = run("", "batch_norm.lua epochs=2")
    assert.equal(0, code, out)
    for _, method in ipairs { "svrg", "ivon%-poco" } do
      local steps, evaluated, moved = out:match("\n" .. method .. " +[%d.]+%% +[%d.]+ +(%d+) +(%d+) +(%d+) ")
      assert.same({ "10", "30", "10" }, { steps, evaluated, moved }, out)
    end
  end)

  it("eight_bit.lua loses nothing by the dynamic map, and says when a loss is no number any more", function()
    local out, code = run("", "eight_bit.lua epochs=8 batch=32 seeds=2 timed=2000000")
    assert.equal(0, code, out)
    local function row(name) return out:match("\n" .. name .. "  +([^\n]*)") end
    local _, share, _, accuracy, loss = row("32 bits"):match("([%d.]+) +([%d.]+)%% +([%d.]+) +([%d.]+)%%.- ([%de.-]+)$")
    assert(tonumber(share) == 100 and tonumber(accuracy) > 90, out)
    for _, block in ipairs { "256", "2048" } do
      local bytes, part, ns, reached, ended =
        row("8 bits, blocks of " .. block):match("([%d.]+) +([%d.]+)%% +([%d.]+) +([%d.]+)%%.- ([%de.-]+)$")
      assert(tonumber(bytes) < 2.1 and tonumber(part) <= 26 and tonumber(ns) > 0, out)
      assert(math.abs(tonumber(reached) - tonumber(accuracy)) < 3 and math.abs(tonumber(ended) - tonumber(loss)) < 0.1,
        out)
    end
    for _, name in ipairs { "small tensors too", "linear, v alone", "linear" } do -- no number, or one beyond use
      local cell = row(name):match("[%d.]+ +[%d.]+%% +[%d.]+ +(.*)")
      assert(cell:find("^diverged, %d of 2, at step %d+") or tonumber(cell:match("^([%d.]+)%%")) < 50, out)
    end
    assert(row("linear, m alone"):find("%d%%"), out)
    assert.is_truthy(out:find("● 32 bits", 1, true))
    out = run("", "eight_bit.lua net=lenet epochs=1 seeds=1 timed=0 only=2048")
    assert.is_truthy(out:find("lenet, 61,706 parameters", 1, true), out)
    assert.is_nil(out:find("\n32 bits"))
  end)

  local tiny = "metainit.lua blocks=1 width=4 rows=128 epochs=2 seeds=2 search=3 rates=0.01,1e30 "

  it("metainit.lua tries every rate from every initialization, and says which diverged", function()
    local out, code = run("", tiny)
    assert.equal(0, code, out)
    for _, name in ipairs { "default", "he", "fixup", "metainit", "he%-metainit" } do
      local quotient, loss, rest = out:match("\n" .. name .. " +([%d.e+]+) +([%d.]+) +([^\n]*)")
      assert(tonumber(quotient) and tonumber(loss), name .. " in\n" .. out)
      assert.equal("2 of 2 diverged", rest, name)
      assert.is_truthy(out:find("\n" .. name .. " +0.01 +" .. loss), out)
    end
    assert.is_truthy(out:find("a search: ", 1, true))
    assert.is_truthy(out:find("● default", 1, true))
  end)

  it("metainit.lua net=plain leaves Fixup out, and one initialization is enough", function()
    local out, code = run("", tiny .. "net=plain")
    assert.equal(0, code, out)
    assert.is_nil(out:find("\nfixup"))
    assert.is_truthy(out:find("\nhe%-metainit "))
    out = run("", tiny .. "only=fixup")
    assert.is_truthy(out:find("\nfixup "))
    assert.is_nil(out:find("\nhe "))
    assert.is_nil(out:find("a search: ", 1, true))
  end)

  it("fashion_lenet.lua stands up to check", function()
    local out, code = run("check", "fashion_lenet.lua only=svrg")
    assert.equal(0, code, out)
    assert.is_truthy(out:find("ok   lenet-svrg: 3 steps, save, load, 3 steps: the same bits as at once", 1, true), out)
  end)

  it("passes.lua makes the golden data from their generator, and its methods arrive", function()
    local golden = dofile(root .. "/tests/golden/corrections.lua")
    local out, code = run("", "passes.lua only=pass, batch=10 seeds=1 limit=60")
    assert.equal(0, code, out)
    local L, minimum = out:match("L_max = ([%d.]+)\nF%* = ([%d.]+)")
    assert.equal(golden.L_max, tonumber(L))
    assert(math.abs(tonumber(minimum) - golden.F_star) < 1e-15, minimum)
    for _, method in ipairs { "SVRG m = 1 pass, iid", "SARAH m = 1 pass, iid", "AdaSVRG m = 1 pass, iid" } do
      local passes = tonumber(out:match("\n" .. method .. " +([%d.]+) "))
      assert(passes and passes > 10 and passes < 60, method .. " in\n" .. out)
    end
    assert.is_truthy(out:find("F - F* of the first seed", 1, true))
    assert.is_truthy(files.read(place .. "/runs/passes/passes-10.svg"):find("^<svg"))
  end)

  it("lenet_mnist.lua validates, fits anew and reports each method", function()
    local out, code = run("", "lenet_mnist.lua folds=2 seeds=1 search=1 budget=2 points=2")
    assert.equal(0, code, out)
    for _, method in ipairs { "SGD", "Adam", "AdaGrad", "SVRG K=1", "SVRG K=5", "alpha-SVRG", "STORM per tensor",
      "STORM" } do
      local words = method:gsub("%-", "%%-")
      assert.is_truthy(out:find("\n" .. words .. "\n  [ck%l]+ [%d.e-]+.-: [%d.]+"), method .. " in\n" .. out)
      assert.is_truthy(out:find("\n" .. words .. " +[ck%l]+ [%d.e-]+.- [%d.]+ ± [%d.]+ "), method .. " in\n" .. out)
    end
  end)

  local small_vsgd = "vsgd_table.lua width=4 depth=1 steps=6 held=64 rates=0.01,0.02 batch=32 timed=1 "

  it("vsgd_table.lua tunes every method on what is held out, and tables the rest", function()
    local out, code = run("", small_vsgd .. "seeds=2")
    assert.equal(0, code, out)
    assert.is_truthy(out:find("256 images, 64 held out, 100 to test; ConvMixer-4/1, 266 parameters; 6 steps of 32", 1,
      true), out)
    for _, method in ipairs { "VSGD, decay", "VSGD", "Adam", "AdamW", "SGD" } do
      local momentum = method == "SGD" and ", momentum 0.99?" or ""
      assert.is_truthy(out:find("\n  " .. method .. " +lr 0.01" .. momentum .. ": [%d.]+   lr 0.0"), method)
      assert.is_truthy(out:find("\n" .. method .. " +lr 0.0[12]" .. momentum .. " +[%d.]+ +[%d.]+ ± [%d.]+ +[%d.]+ +"
        .. "[%d.]+ +[%d.]+\n"), method .. " in\n" .. out)
    end
  end)

  it("vsgd_table.lua part=gamma sweeps the prior", function()
    local out, code = run("", small_vsgd .. "part=gamma only=1e-0 seeds=1")
    assert.equal(0, code, out)
    for _, gamma in ipairs { "1e%-09", "1e%-08", "1e%-07" } do
      assert.is_truthy(out:find("\n" .. gamma .. " +lr 0.0[12] +[%d.]+ +[%d.]+ ± 0.0 "), gamma .. " in\n" .. out)
    end
    assert.is_nil(out:find("\n0.001 "))
  end)

  it("optimizer_zoo.lua has a row for every rule", function()
    local out, code = run("", "optimizer_zoo.lua epochs=1 seeds=1 side=8 most=2 examples=100")
    assert.equal(0, code, out)
    local methods = shell(("'%s' methods"):format(perigee))
    local count = 0
    for name in methods:match("\nrules: [^\n]+\n(.-)\n\n"):gmatch("%f[^\n%z]  ([%w_]+)") do
      if name ~= "split" then
        count = count + 1
        assert.is_truthy(out:find("\n" .. name .. " +[%d.e+-]+ +%d "), name .. " in\n" .. out)
      end
    end
    assert.is_true(count > 30)
  end)

  it("variance_ratio.lua finds that locking lowers the variance", function()
    local out, code = run("", "variance_ratio.lua epochs=1 seeds=1 dropout=0.1")
    assert.equal(0, code, out)
    for _, norm in ipairs { "none", "batch norm" } do
      local ratio = {}
      for _, lock in ipairs { "locked", "mu apart", "unlocked" } do
        ratio[lock] = tonumber(out:match("\n" .. norm .. " +" .. lock .. " +1 +([%d.]+) "))
      end
      assert(ratio.locked < ratio["mu apart"] and ratio["mu apart"] < ratio.unlocked, out)
    end
  end)

  local small = "poco_logreg.lua data=synthetic rows=300 seeds=1 passes=6 "

  it("poco_logreg.lua sets each method beside its corrected form", function()
    local out, code = run("", small .. "newton_passes=3 points=6")
    assert.equal(0, code, out)
    for _, method in ipairs { "SGD", "SVRG", "VSGD", "VSGD-PoCo", "IVON", "IVON-PoCo", "VON", "VON-PoCo" } do
      local words = method:gsub("%-", "%%-")
      local step, grid, passes, gap = out:match("\n" .. words .. " +([%d.]+) +(2%^[^ ]+ … [^ ]+) +(%d+) +([%d.e-]+) ")
      assert(tonumber(step) and grid and tonumber(gap) < 0.05, method .. " in\n" .. out)
      assert.equal(method:find "^VON" and "3" or "6", passes)
    end
    for _, picture in ipairs { "gap", "loss" } do
      assert.is_truthy(files.read(place .. "/runs/poco-synthetic-SGD-seed1/" .. picture .. ".svg"):find("^<svg"))
    end
  end)

  it("poco_logreg.lua noise=false goes a thousand times below its base", function()
    local out, code = run("", "poco_logreg.lua data=synthetic noise=false passes=18 seeds=1 methods=IVON,IVON-PoCo")
    assert.equal(0, code, out)
    local plain, corrected = out:match "\nIVON +.- 18 +([%d.e-]+) ", out:match "\nIVON%-PoCo +.- 18 +([%d.e-]+) "
    assert(tonumber(plain) > 1000 * tonumber(corrected), out)
  end)

  it("poco_logreg.lua takes images of ten classes, too many parameters for a whole matrix", function()
    local out, code = run("", "poco_logreg.lua data=fashion-mnist seeds=1 passes=3 methods=SVRG,VON-PoCo batch=32")
    assert.equal(0, code, out)
    assert.is_truthy(out:find("fashion-mnist: 320 examples, 7840 parameters", 1, true), out)
    assert.is_truthy(out:find("\nSVRG "))
    assert.is_nil(out:find("\nVON%-PoCo "))
  end)

  it("poco_logreg.lua says what keeps the corrected mean away, and sweeps strengths", function()
    local out, code = run("", small .. "part=floors")
    assert.equal(0, code, out)
    local offset = tonumber(out:match "\nIVON%-PoCo +[%d.]+ +[%d.e-]+ +[%d.e-]+ +[%d.e-]+ +([%d.e-]+)")
    local less = tonumber(out:match "100 times the ess +[%d.]+ +[%d.e-]+ +[%d.e-]+ +[%d.e-]+ +([%d.e-]+)")
    assert(less < offset / 1000, out) -- of second order in the variance
    out, code = run("", small .. "part=sweep")
    assert.equal(0, code, out)
    assert.is_truthy(out:find("\n0.05 +30 +full .- 1.00\n"), out)
  end)

  it("late_start.lua branches one run, and the branch has the bits of a run of its own", function()
    local out, code = run("", "late_start.lua epochs=4 batch=20 points=16 watched=100 every=8 mega=8")
    assert.equal(0, code, out)
    assert.is_truthy(out:find("branch from step 16 and a run with start = 16: the same bits (6 hashes", 1, true), out)
    assert.is_truthy(out:find("\nPoCo from 48 +[%d.]+ "), out)
    assert.is_truthy(files.read(place .. "/runs/late-ivon/late_start_step.svg"):find("^<svg"))
  end)

  it("dp_sgd.lua says epsilon for each amount of noise, less for more of it", function()
    local out, code = run("", "dp_sgd.lua epochs=2 batch=32 seeds=2 noise=0.8,2")
    assert.equal(0, code, out)
    local little, much = out:match "\nnoise 0.8 +([%d.]+) ", out:match "\nnoise 2 +([%d.]+) "
    assert(tonumber(little) > tonumber(much) and tonumber(much) > 0.1, out)
    assert.is_truthy(out:find("\nclipped, no noise +none +[%d.]+ ± [%d.]+ "), out)
    assert.is_truthy(files.read(place .. "/runs/dp-plain-1/dp_sgd.svg"):find("^<svg"))
  end)

  it("adaptive_batch.lua lets batches grow at equal samples", function()
    local out, code = run("", "adaptive_batch.lua epochs=8 seeds=1 fixed=16,80 etas=0.5,0.9 initial=4 interval=2")
    assert.equal(0, code, out)
    for _, rule in ipairs { "adagrad", "adagrad_norm" } do
      local table_of = out:match("\n" .. rule .. ", mnist: 320 examples.-\n\n")
      assert.equal("160", table_of:match "\n16 +(%d+) ", out)
      local steps, largest = table_of:match "\nnorm test, eta = 0.5 +(%d+) +(%d+) "
      assert(tonumber(steps) < 8 * 320 / 4 and tonumber(largest) > 4, out)
    end
    assert.is_truthy(files.read(place .. "/runs/batch-adagrad-16-1/adaptive_adagrad_size.svg"):find("^<svg"))
  end)

  it("ghost_batch_norm.lua adds its remedies one by one", function()
    local out, code = run("", "ghost_batch_norm.lua small=16 large=64 epochs=2 seeds=1 width=8")
    assert.equal(0, code, out)
    for name, updates in pairs { ["small batch"] = 40, ["large batch"] = 10, ["%+ ghost batch norm"] = 10,
      ["%+ regime adaptation"] = 40, ["the same, no ghosts"] = 40 } do
      assert.equal(updates, tonumber(out:match("\n" .. name .. " +%d+ +[%d.]+ +%d+ +(%d+) ")), name .. " in\n" .. out)
    end
    assert.is_truthy(files.read(place .. "/runs/ghost-small-batch-1/ghost_batch_norm.svg"):find("^<svg"))
  end)

  for words, name in pairs {
    ["dp_sgd.lua noise=1 seeds=1 batch=16"] = "dp-noise-1-1",
    ["adaptive_batch.lua seeds=1 rule=adagrad fixed=16 etas=0.5 initial=4 interval=2"] = "batch-adagrad-16-1",
    ["ghost_batch_norm.lua small=16 large=64 epochs=2 seeds=1 width=8"] = "ghost-small-batch-1",
    ["poco_logreg.lua data=synthetic seeds=1 methods=IVON-PoCo"] = "poco-synthetic-IVON-PoCo-seed1",
    ["late_start.lua epochs=4 batch=20"] = "late-ivon",
    ["lenet_mnist.lua only=K=1 folds=2 seeds=1"] = "lenet-SVRG_K_1-1",
    ["variance_ratio.lua epochs=1 seeds=1"] = "variance-norm-locked-1",
    ["eight_bit.lua only=2048 seeds=1 epochs=1 timed=0"] = "eight_bit-8_bits_blocks_of_2048-1",
    ["passes.lua only=passes, batch=10 seeds=1 limit=5"] = "passes",
    ["vsgd_table.lua only=AdamW width=4 depth=1 held=64 rates=0.01 timed=1"] = "vsgd-AdamW-1",
    ["optimizer_zoo.lua only=muon side=8"] = "zoo-muon",
  } do
    it(words:match "^%S+" .. " stands up to check", function()
      local out, code = run("check", words)
      assert.equal(0, code, out)
      assert.is_truthy(out:find("ok   " .. name .. ": 3 steps, save, load, 3 steps: the same bits as", 1, true), out)
    end)
  end
end)
