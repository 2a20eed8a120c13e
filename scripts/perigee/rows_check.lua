-- rows_check.lua: rows of cotangents hold what gradients are made of only if the model's output is linear in theta and
-- the loss depends on theta through it alone. Owns the numerical check of both, on the first real batch.

local batches = require "perigee.batch"
local builder = require "perigee.builder"
local core = require "perigee.core"
local evaluation = require "perigee.evaluation"
local generic = require "perigee.generic"
local part = require "perigee.part"
local rows = require "perigee.rows"

local rows_check = {}

local SPEC = rows.rows { linear = true }
local TOLERANCE = { f64 = 1e-9, f32 = 2e-3 }

-- An evaluation of a batch at the point of st, traced in b: evaluation, view of q, binding.
local function open(b, opt, st, evaluator, batch)
  local key = b:input("key", evaluator.key)
  local traced, binding = batches.declare(b, batch)
  local fields = {}
  for _, field in ipairs(st.q.fields) do fields[field] = b:slot(st.q[field], "q." .. field) end
  local eval = evaluation.new(b, opt, {
    evaluator = evaluator, batch = traced, examples = batches.count(batch), key = key, like = fields.mean, st = st,
    decay = evaluation.decay(b, opt, fields.mean), t = b:scalar(st.scalars, "t"), stream = "segment",
    stream_index = b:scalar(st.scalars, "segment"),
    noise_key = evaluation.fold(key, evaluation.streams.noise, b:scalar(st.scalars, "step")),
  })
  return eval, fields, binding
end

-- How many numbers the model gives for an example.
function rows_check.width(opt, st, evaluator, batch)
  local width
  builder.trace(false, function(b)
    local eval, fields = open(b, opt, st, evaluator, batch)
    local taken = rows.form(eval, SPEC):take(eval:view("q", fields), {})
    width = taken.g.shape[2]
    b:output(taken.g)
  end)
  return width
end

-- Traced: gradients weighted by fixed random numbers, one for each example, from rows of all numbers and from those of
-- cotangents, and the latter with the model's derivative at another theta.
local function trace_three(eval, fields, examples)
  local q = eval:view("q", fields)
  local theta = fields.mean
  local noise = generic.normal_like(core.key("another theta"), theta)
  local elsewhere = eval:view("q", part.merge(fields, { mean = theta + noise }))
  local like = core.apply("full", { a = { examples, 1 }, dtype = theta.dtype }, 0)
  local weights = generic.normal_like(core.key("weights"), like)
  local each, linear = rows.form(eval), rows.form(eval, SPEC)
  local full = each:mean(each:take(q, {}) * weights)
  local cotangents = linear:take(q, {}) * weights
  return full, linear:mean(cotangents), rows.form(eval, SPEC, elsewhere):mean(cotangents)
end

-- Raise an error if gradients made of a batch's cotangents are not those of its examples.
function rows_check.run(opt, st, evaluator, batch, key)
  local examples, binding = batches.count(batch), nil
  local program = builder.trace(false, function(b)
    local eval, fields
    eval, fields, binding = open(b, opt, st, evaluator, batch)
    local full, here, there = trace_three(eval, fields, examples)
    for _, x in ipairs { full.g, (here - full).g, (there - here).g } do b:output(generic.norm(x)) end
  end)
  binding:bind(program, batch)
  program:bind("key", key)
  program:run()
  local scale, by_loss, by_model = program:number(1), program:number(2), program:number(3)
  local allowed = TOLERANCE[st.theta.dtype] * scale + 1e-300
  if by_model > allowed then
    core.raise(("linear = true: the model's output is not linear in theta: its derivative at another theta differs by "
      .. "%.2g of the gradient"):format(by_model / scale))
  elseif by_loss > allowed then
    core.raise(("linear = true: the loss depends on theta in other ways than through the model's output (off by %.2g "
      .. "of the gradient); weight decay belongs into the optimizer's weight_decay"):format(by_loss / scale))
  end
end

return rows_check
