-- normed.lua: two small networks with dropout and two batch norms, and a regression problem for each: a perceptron
-- written out by hand as a model of one's own, and a convolutional one of pg.nn. One norm stands before the dropout and
-- one behind it, so that buffers tell both which batches and which masks a network has seen.
local support = require "support"
local pg, core, evaluator = support.pg, support.core, require "perigee.evaluator"

local normed = {}

local INPUTS, HIDDEN, MOMENTUM, EPS, RATE = 6, 8, 0.1, 1e-5, 0.3

local layout = core.layout {
  { "1.weight", { INPUTS, HIDDEN } }, { "2.weight", { HIDDEN } }, { "2.bias", { HIDDEN } },
  { "5.weight", { HIDDEN, HIDDEN } }, { "6.weight", { HIDDEN } }, { "6.bias", { HIDDEN } },
  { "8.weight", { HIDDEN, 1 } },
}
local buffer_layout = core.layout {
  { "2.mean", { HIDDEN } }, { "2.var", { HIDDEN } }, { "6.mean", { HIDDEN } }, { "6.var", { HIDDEN } },
}

local Model = {}
Model.__index = Model

-- theta: weights from a fixed stream, gains 1.
function Model.init(_, _, dtype)
  local draw, theta = support.stream(12), core.vector(layout, dtype)
  for i = 1, #layout do
    local segment = layout[i]
    for k = 0, segment.size - 1 do
      local gain, shift = segment.name:find("[26].weight"), segment.name:find("bias")
      theta:data_write(segment.offset + k, gain and 1 or shift and 0 or 0.4 * draw())
    end
  end
  return theta
end

function Model.init_buffers(_, dtype)
  local buffers = core.vector(buffer_layout, dtype)
  for _, name in ipairs { "2.var", "6.var" } do
    local segment = buffer_layout[buffer_layout:find(name)]
    for k = 0, segment.size - 1 do buffers:data_write(segment.offset + k, 1) end
  end
  return buffers
end

-- z [n, c] normalized by the statistics that ctx asks for; `new` gets the moved running ones.
local function normalize(theta, z, ctx, place, buffers, new)
  local mean, var
  local by_batch = ctx.batch_statistics
  if by_batch == nil then by_batch = ctx.train end
  if by_batch then
    mean, var = z:mean(1), z:var(1)
    if buffers then
      local n = z.shape[1]
      new[place .. ".mean"] = (1 - MOMENTUM) * buffers[place .. ".mean"] + MOMENTUM * mean
      new[place .. ".var"] = (1 - MOMENTUM) * buffers[place .. ".var"] + MOMENTUM * n / (n - 1) * var
    end
  else
    mean, var = buffers[place .. ".mean"], buffers[place .. ".var"]
  end
  return (z - mean) / (var + EPS):sqrt() * theta[place .. ".weight"] + theta[place .. ".bias"]
end

function Model.__call(_, theta, x, ctx)
  local buffers, new = ctx.new_buffers or ctx.buffers, {}
  local z = normalize(theta, x:matmul(theta["1.weight"]), ctx, "2", buffers, new):relu()
  if ctx.train then z = z:dropout(ctx.key, RATE) end
  z = normalize(theta, z:matmul(theta["5.weight"]), ctx, "6", buffers, new):tanh()
  if new["2.mean"] and ctx.update_buffers ~= false then
    local parts = {}
    for i = 1, #buffer_layout do parts[i] = new[buffer_layout[i].name] end
    ctx.new_buffers = core.apply("pack", { layout = buffer_layout }, table.unpack(parts))
  end
  return z:matmul(theta["8.weight"])
end

normed.model = setmetatable({ layout = layout, buffer_layout = buffer_layout }, Model)

-- Of images [n, 1, 6, 6].
normed.convolutional = pg.nn.sequential {
  pg.nn.conv2d(1, 4, 3, { pad = 1, bias = false }), pg.nn.batch_norm(4), pg.nn.relu(), pg.nn.max_pool2d(2),
  pg.nn.dropout(RATE), pg.nn.conv2d(4, 6, 3), pg.nn.batch_norm(6), pg.nn.tanh(), pg.nn.flatten(), pg.nn.linear(6, 1),
}

-- A regression on n made-up examples: { model, source, evaluator, theta0(), buffers0(), batch(from, to), part(k), parts
-- (how many) }. options: n (default 37, so that batches of 10 leave a short one; 30 if convolutional, which compiles
-- fewer programs), dtype (default f64), loss, convolutional, micro.
function normed.problem(options)
  options = options or {}
  local n, dtype = options.n or options.convolutional and 30 or 37, options.dtype or "f64"
  local draw, x, y = support.stream(2), {}, {}
  local model = options.convolutional and normed.convolutional or normed.model
  local shape = options.convolutional and { n, 1, 6, 6 } or { n, INPUTS }
  local size = options.convolutional and 36 or INPUTS
  for i = 1, n do
    local sum = 0
    for _ = 1, size do
      x[#x + 1] = draw()
      sum = sum + x[#x]
    end
    y[i] = math.sin(sum)
  end
  local source = evaluator.memory { x = core.tensor(dtype, shape, x), y = core.tensor(dtype, { n, 1 }, y) }
  local self = { model = model, source = source, n = n, parts = (n + 9) // 10 }
  -- aux: where the loss was evaluated and the buffers that came out, to look at
  self.evaluator = evaluator {
    model = model, source = source, key = core.key(4), batch = 10, micro = options.micro,
    loss = options.loss or function(net, theta, batch, ctx)
      local d = net(theta, batch.x, ctx) - batch.y
      return (d * d):mean(), theta + 0, ctx.new_buffers
    end,
  }
  function self.theta0() return model:init(core.key(12), dtype) end
  function self.buffers0() return model:init_buffers(dtype) end
  function self.batch(from, to)
    local rows = {}
    for i = from, to - 1 do rows[#rows + 1] = i % n end
    return source:take(core.tensor("i64", { #rows }, rows))
  end
  -- Batch k (0-based) of the partition that passes use: 10, 10, 10 and the rest.
  function self.part(k)
    k = k % self.parts
    return self.batch(10 * k, math.min(n, 10 * k + 10))
  end
  return self
end

return normed
