-- noalloc_spec.lua: training allocates nothing after its first steps, counted by a preloaded malloc: not in a step, the
-- short last batch included; a snapshot refresh takes no tensor memory and a few dozen small Lua objects. Also with
-- batch norm, whose running statistics move in place.

local place = os.getenv("PERIGEE_BUILD") or "build"

local SCRIPT = [[
local count, pg, core = require "count_malloc", require "perigee", require "perigee.core"
local n = %d
local data = pg.data.from { x = pg.randn(pg.key(1), { n, 20 }), y = pg.uniform(pg.key(2), { n }) }
local model = pg.nn.sequential { pg.nn.linear(20, 16), pg.nn.relu(), pg.nn.dropout(0.1), pg.nn.linear(16, 1) }
local function loss(net, theta, batch, ctx)
  return pg.binary_cross_entropy_with_logits(net(theta, batch.x, ctx):squeeze(2), batch.y)
end
local normed = pg.nn.sequential {
  pg.nn.linear(20, 16), pg.nn.batch_norm(16), pg.nn.relu(), pg.nn.dropout(0.1), pg.nn.linear(16, 1),
}
local every = pg.epochs(1)
local methods = {
  { "adamw", pg.optim.adamw { lr = 1e-3 } }, { "svrg", pg.optim.svrg { lr = 0.05, every = every } },
  { "ivon", pg.optim.ivon { lr = 0.05, ess = n } },
  { "ivon_poco", pg.optim.ivon_poco { lr = 0.05, ess = n, every = every } },
  { "sarah", pg.optimizer { rule = pg.rule.sgd { lr = 0.05 }, correction = pg.correction.sarah { every = every } } },
  { "storm", pg.optimizer { rule = pg.rule.sgd { lr = 1 }, correction = pg.correction.storm {} } },
  { "micro", pg.optim.ivon_poco { lr = 0.05, ess = n, every = every }, nil, 3 },
  { "svrg_norm", pg.optim.svrg { lr = 0.05, every = every, batch_norm = "running" }, normed },
  { "ivon_poco_norm", pg.optim.ivon_poco { lr = 0.05, ess = n, every = every }, normed },
  { "poisson", pg.optim.adamw { lr = 1e-3 }, sampler = pg.sampler.poisson { batch = 32 } },
  { "weighted", pg.optim.adamw { lr = 1e-3 }, sampler = pg.sampler.weighted { batch = 32, weights = data.y } },
  { "scheduled", pg.optim.adamw { lr = 1e-3 }, batch = function(step) return 10 + step end },
  { "growing", pg.optim.adamw { lr = 1e-3 }, batch = pg.batch.adaptive { initial = 8, eta = 0.9, interval = 3 } },
}
for _, method in ipairs(methods) do
  local calls, memory, refreshed = {}, {}, {}
  for i = 0, 200 do calls[i], memory[i], refreshed[i] = 0, 0, false end
  pg.train {
    name = method[1], out = false, model = method[3] or model, data = { train = data, test = data }, loss = loss,
    batch = not method.sampler and (method.batch or 32) or nil, sampler = method.sampler, micro = method[4], seed = 1,
    optimizer = method[2], steps = 110, eval_every = 0,
    log_every = 1000, hash_every = 0,
    hooks = { on_step = function(ctx, info)
      calls[ctx.step], memory[ctx.step], refreshed[ctx.step] = count(), core.memory_used(), info.refreshed
    end },
  }
  for step = 2, 100 do
    print(method[1], step, calls[step] - calls[step - 1], memory[step] - memory[step - 1], refreshed[step])
  end
end
]]

-- Lines { method, step, calls, bytes, refreshed }.
local function train(n)
  local script = os.tmpname()
  local f = assert(io.open(script, "w"))
  f:write(SCRIPT:format(n))
  f:close()
  local command = "LD_PRELOAD='%s/tests/count_malloc.so' LUA_CPATH='%s/?.so;%s/tests/?.so' lua5.4 '%s' 2>&1"
  local pipe = assert(io.popen(command:format(place, place, place, script)))
  local lines = {}
  for line in pipe:lines() do
    local method, step, calls, bytes, refreshed = line:match("^(%S+)\t(%d+)\t(%-?%d+)\t(%-?%d+)\t(%a+)$")
    assert.is_truthy(method, line)
    lines[#lines + 1] = { method = method, step = tonumber(step), calls = tonumber(calls), bytes = tonumber(bytes),
      refreshed = refreshed == "true" }
  end
  pipe:close()
  os.remove(script)
  return lines
end

describe("steps 2 to 100, counted by a preloaded malloc", function()
  if os.getenv("SAN") == "1" then
    pending("the sanitizers bring a malloc of their own")
    return
  end
  local lines = train(250)

  it("are all there", function() assert.equal(13 * 99, #lines) end)

  -- Where sizes change a step may be the first in its plan, which Lua first meets then: a few dozen small objects.
  local MEETS_PLANS = { scheduled = 50, growing = 50 }

  it("allocate nothing, the short last batch and the epoch's new order included", function()
    for _, l in ipairs(lines) do
      -- The first short batch of a method is step 7: its staging is there, but Lua first meets it.
      if not l.refreshed and l.step > 8 then
        assert.is_true(l.calls <= (MEETS_PLANS[l.method] or 0), ("%s, step %d"):format(l.method, l.step))
      end
    end
  end)

  it("take no tensor memory in a refresh, and a few dozen small objects of Lua's", function()
    local refreshes = 0
    for _, l in ipairs(lines) do
      -- less than 0: the collector came to what building the run left behind
      if l.step > 8 then assert.is_true(l.bytes <= 0, ("%d bytes, %s, step %d"):format(l.bytes, l.method, l.step)) end
      if l.step > 8 and l.refreshed then
        refreshes = refreshes + 1
        assert.is_true(l.calls < 100, ("%d calls in a refresh of %s"):format(l.calls, l.method))
      end
    end
    assert.is_true(refreshes >= 20)
  end)
end)
