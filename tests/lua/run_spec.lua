-- Facts about pg.run: its directory, its log, and going on where it stood.
local pg = require "perigee"
local core = require "perigee.core"
local run = require "perigee.run"
local checkpoint = require "perigee.checkpoint"
local journal = require "perigee.journal"

local files = core.data

describe("pg.run", function()
  local root

  before_each(function()
    root = os.tmpname()
    os.remove(root)
    run.begin_invocation { source = "-- a recipe", recipe = "a.lua", root = root, words = { { "lr", "0.1" } } }
  end)

  after_each(function()
    run.end_invocation()
    os.execute("rm -rf '" .. root .. "'")
  end)

  -- A random walk whose every step depends on all before it. stop_at: raise there, as a crash would.
  local function walk(opts)
    opts = opts or {}
    return pg.run {
      name = "walk", seed = opts.seed or 4, steps = opts.steps or 20, checkpoint_every = opts.every or { steps = 3 },
      hash_every = 5, keep = opts.keep,
      state = { x = pg.zeros({ 3 }, "f64"), sum = 0.0, seen = {} },
      step = function(st, ctx)
        if ctx.step == opts.stop_at then error("crash") end
        st.x = 0.9 * st.x + pg.randn(ctx.key, { 3 }, "f64")
        st.sum = st.sum + st.x:sum():item()
        st.seen[#st.seen + 1] = ctx.step
        ctx:log { sum = st.sum, even = ctx.step % 2 == 0 }
      end,
    }
  end

  local function resume(directory)
    local found = assert(run.read_settings(directory))
    run.end_invocation()
    run.begin_invocation { source = found.source, recipe = found.recipe, root = root, words = found.words,
      resume = found.resume }
  end

  it("leaves the recipe, the settings, the metrics and two checkpoints", function()
    local result = walk()
    assert.equal(root .. "/walk", result.directory)
    assert.equal("-- a recipe", files.read_file(result.directory .. "/recipe.lua"))
    local settings = files.json_decode(files.read_file(result.directory .. "/settings.json"))
    assert.equal(4, settings.seed)
    assert.same({ "lr=0.1" }, settings.arguments)
    assert.equal(core.version, settings.versions.perigee)
    assert.is_string(settings.machine.blas)
    local steps = {}
    for i, entry in ipairs(checkpoint.list(result.directory .. "/checkpoints")) do steps[i] = entry.step end
    assert.same({ 20, 18 }, steps)
  end)

  it("takes another name when one is taken", function()
    walk()
    assert.equal(root .. "/walk-2", walk().directory)
    assert.equal(root .. "/walk-3", walk().directory)
  end)

  it("logs numbers with every digit and no clock", function()
    local result = walk()
    local lines = files.read_file(result.directory .. "/metrics.jsonl")
    assert.is_nil(lines:find("second", 1, true))
    assert.equal(20 + 4, select(2, lines:gsub("\n", "")))
    local first = files.json_decode(lines:match("^[^\n]*"))
    assert.equal(result.history[1].sum, first.sum)
    assert.same({ 0, true }, { first.step, first.even })
  end)

  it("goes on after a crash at any step as if there had been none", function()
    local whole = walk()
    local metrics = files.read_file(whole.directory .. "/metrics.jsonl")
    local final = files.read_file(whole.directory .. "/checkpoints/step-20.safetensors")
    for stop_at = 0, 19, 2 do
      run.end_invocation()
      run.begin_invocation { source = "-- a recipe", recipe = "a.lua", root = root, words = { { "lr", "0.1" } } }
      local ok = pcall(walk, { stop_at = stop_at })
      assert.is_false(ok)
      local directory = root .. "/walk-2"
      resume(directory)
      local result = walk()
      assert.equal(directory, result.directory)
      assert.equal(metrics, files.read_file(directory .. "/metrics.jsonl"))
      assert.is_true(final == files.read_file(directory .. "/checkpoints/step-20.safetensors"))
      assert.equal(24, #result.history)
      os.execute("rm -rf '" .. directory .. "'")
    end
  end)

  it("answers from its directory when it is resumed although it ended", function()
    local whole = walk()
    resume(whole.directory)
    local steps = 0
    local again = pg.run { name = "walk", seed = 4, steps = 20, step = function() steps = steps + 1 end,
      state = { x = pg.zeros({ 3 }, "f64"), sum = 0.0, seen = {} } }
    assert.equal(0, steps)
    assert.equal(whole.state.sum, again.state.sum)
    assert.same(whole.state.seen, again.state.seen)
  end)

  it("refuses a directory that a living process writes to, and takes over a dead one's", function()
    local writer
    pg.run { name = "writer", steps = 1, step = function(_, ctx)
      writer = files.read_file(ctx.directory .. "/running")
    end }
    assert.equal(files.pid(), tonumber(writer))
    pcall(walk, { stop_at = 10 })
    local path = root .. "/walk/running"
    assert.is_false(files.exists(path))
    -- a process with our name: another interpreter that waits for its input
    local name = assert(io.open("/proc/self/comm")):read("l")
    local number = os.tmpname()
    local child = io.popen(("exec %s -e 'io.open(\"%s\", \"w\"):write((io.open(\"/proc/self/stat\"):read(\"n\")))"
      .. ":close() io.read()'"):format(name, number), "w")
    local pid
    for _ = 1, 500 do
      pid = files.read_file(number):match("%d+")
      if pid then break end
      os.execute("sleep 0.01")
    end
    files.write_file_atomic(path, pid .. "\n")
    resume(root .. "/walk")
    local ok, message = pcall(walk)
    child:close()
    os.remove(number)
    assert.is_false(ok)
    assert.matches("is being written by process " .. pid, message, 1, true)
    files.write_file_atomic(path, "999999999\n")
    resume(root .. "/walk")
    assert.equal(20, walk().steps)
    assert.is_false(files.exists(path))
  end)

  it("refuses to go on with other settings", function()
    pcall(walk, { stop_at = 10 })
    resume(root .. "/walk")
    local ok, message = pcall(walk, { seed = 5 })
    assert.is_false(ok)
    assert.matches("another recipe, seed, data or options", message, 1, true)
  end)

  it("resumes the several runs of a recipe: ended ones answer, the broken one goes on, later ones begin", function()
    local function recipe(stop_at)
      local made = {}
      for k = 1, 3 do
        made[k] = pg.run { name = "part", steps = 6, checkpoint_every = { steps = 1 }, state = { n = 0 },
          step = function(st, ctx)
            if k == 2 and ctx.step == stop_at then error("crash") end
            st.n = st.n + k
            ctx:log { n = st.n }
          end }
      end
      return made
    end
    assert.is_false(pcall(recipe, 4))
    resume(root .. "/part-2")
    local made = recipe()
    for k = 1, 3 do
      assert.equal(6 * k, made[k].state.n)
      assert.equal(root .. "/part" .. (k > 1 and "-" .. k or ""), made[k].directory)
      assert.equal(7 - 1, #made[k].history)
    end
  end)

  it("goes on from another run's state, and leaves what that one did not have as given", function()
    local whole = walk { keep = 9 }
    local seen = {}
    local branched = pg.run { name = "branched", seed = 4, steps = 20, from = whole.directory .. "@9", hash_every = 5,
      state = { x = pg.ones({ 3 }, "f64"), sum = -1.0, seen = { "nothing", "of", "this" }, extra = 7 },
      step = function(st, ctx)
        seen[#seen + 1] = ctx.step
        st.x = 0.9 * st.x + pg.randn(ctx.key, { 3 }, "f64")
        st.sum = st.sum + st.x:sum():item()
        st.seen[#st.seen + 1] = ctx.step
        ctx:log { sum = st.sum, even = ctx.step % 2 == 0 }
      end }
    assert.equal(9, seen[1])
    assert.equal(whole.state.x:bytes(), branched.state.x:bytes())
    assert.same(whole.state.seen, branched.state.seen)
    assert.equal(7, branched.state.extra)
    for i, record in ipairs(whole.history) do
      if not record.state then assert.same(record, branched.history[i]) end
    end
    local settings = files.json_decode(files.read_file(branched.directory .. "/settings.json"))
    assert.equal(9, settings.branch.step)
    assert.equal(whole.directory, settings.branch.run)
  end)

  it("runs without leaving anything with out = false", function()
    local result = pg.run { name = "ghost", steps = 3, out = false, state = { n = 0 },
      step = function(st, ctx) st.n = st.n + 1 ctx:log { n = st.n } end }
    assert.equal(3, result.state.n)
    assert.equal(3, #result.history)
    assert.is_nil(result.directory)
    assert.is_false(files.exists(root .. "/ghost"))
  end)

  it("stops when told to, and that is an end", function()
    local result = pg.run { name = "early", steps = 100, state = {}, step = function(_, ctx)
      if ctx.step == 4 then ctx:stop() end
    end }
    assert.equal(5, result.steps)
    assert.equal("true", assert(checkpoint.load(result.directory .. "/checkpoints/step-5.safetensors")).info.finished)
  end)

  it("gives batches that depend on the step alone", function()
    local data = pg.data.from { x = pg.arange(10):reshape { 10, 1 } }
    local function collect(first)
      local out = {}
      pg.run { name = "batches", steps = 8, out = false, state = {}, step = function(_, ctx)
        if ctx.step >= first then out[ctx.step] = table.concat(ctx:batch(data, 4).id:totable(), " ") end
      end }
      return out
    end
    local all, tail = collect(0), collect(5)
    for step = 5, 7 do assert.equal(all[step], tail[step]) end
    local seen = {}
    for step = 0, 2 do for id in all[step]:gmatch("%d+") do seen[id] = (seen[id] or 0) + 1 end end
    for id = 0, 9 do assert.equal(1, seen[tostring(id)]) end
    assert.not_equal(all[0], all[3])
  end)

  it("says what is wrong with a specification", function()
    local function refused(spec, pattern)
      local ok, message = pcall(pg.run, spec)
      assert.is_false(ok)
      assert.matches(pattern, message, 1, true)
    end
    refused({ name = "a", steps = 1 }, "step must be a function")
    refused({ name = "a/b", steps = 1, step = print }, "cannot be a directory's")
    refused({ name = "a", steps = 1.5, step = print }, "whole number")
    refused({ name = "a", steps = 1, step = print, stat = {} }, "state")
  end)
end)

describe("journal", function()
  it("writes what cannot be JSON as words and reads them back", function()
    local line = journal.encode { a = 0 / 0, b = math.huge, c = -math.huge, d = 1 / 3, e = 2, f = "x\"\n" }
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(line, "\n{\"cut")
    file:close()
    local records = assert(journal.read(path))
    os.remove(path)
    assert.equal(1, #records)
    local r = records[1]
    assert.is_true(r.a ~= r.a)
    assert.same({ math.huge, -math.huge, 1 / 3, 2, "x\"\n" }, { r.b, r.c, r.d, r.e, r.f })
  end)

  it("refuses a tensor or a table, and says how to log it", function()
    local ok, message = pcall(journal.encode, { loss = {} })
    assert.is_false(ok)
    assert.matches("t:item()", message, 1, true)
  end)
end)
