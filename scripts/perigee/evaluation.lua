-- evaluation.lua: one evaluation inside a trace: sample a point from q, take loss and gradient of the batch there,
-- edit the gradient by the per-evaluation stages, form the family's statistics. Steps and passes are built from it.
-- Pure: same point, batch and keys, same bits.
--
-- Keys. From the key of a step: noise = fold(key, NOISE, step), examples = fold(key, EXAMPLE, EPOCH or SEGMENT,
-- number, id). Plain steps use the epoch; corrected steps and their pass the snapshot segment, so that all gradients
-- of a segment see the same randomness per example. Passes draw noise from fold(key, OUTER, segment, batch). What a
-- study has unlocked is folded once more, with the number of the evaluation. Stages draw from fold(noise, STAGE, number
-- of the gradient in the step, place of the stage, piece). In pieces (pieces.lua) samples are
-- numbered on from piece to piece, as if one piece took them all.

local buffers = require "perigee.buffers"
local core = require "perigee.core"
local curvature = require "perigee.curvature"
local examples = require "perigee.examples"
local hyper = require "perigee.hyper"
local pieces = require "perigee.pieces"
local posterior = require "perigee.posterior"
local stages = require "perigee.stages"

local evaluation = {}

local Evaluation = {}
Evaluation.__index = Evaluation

evaluation.streams = {
  -- folded into the step's key
  noise = 1, example = 2, outer = 3, coin = 4, rule = 5, fresh = 6, mega = 7, apart = 8, apart_augment = 9,
  stage = 10,
  epoch = 1, segment = 2, -- folded into the stream of examples
}

-- Fold numbers (plain, or traced scalars) into a key, one after the other.
function evaluation.fold(key, ...)
  for i = 1, select("#", ...) do
    key = core.apply("key_fold", nil, key, (select(i, ...)))
  end
  return key
end

-- An evaluation in builder b of optimizer opt. args: { evaluator, batch (traced), examples (their number), key
-- (traced), noise_key (traced), stream ("epoch" or "segment"), stream_index (traced scalar), like (a vector that gives
-- dtype and layout), decay, t, st (the state, whose buffers are read), witness (who watches; or nil), idle (stages
-- that do not act; or nil) }.
function evaluation.new(b, opt, args)
  local streams = evaluation.streams
  local key = evaluation.fold(args.key, streams.example, streams[args.stream], args.stream_index)
  local self = setmetatable({
    opt = opt, evaluator = args.evaluator, batch = args.batch, examples = args.examples, stream_key = key,
    present = args.batch.sample_weight and args.batch.count or args.examples, -- rows that are examples
    noise_key = args.noise_key, count = 0, products = 0, gradients = 0, st = args.st,
    division = pieces.divide(args.batch, args.evaluator.micro, args.st.batch_size),
    t = args.t, decay = args.decay, witness = args.witness,
  }, Evaluation)
  buffers.check(args.evaluator.model, args.st.buffers, "opt:init(theta, key, model:init_buffers())")
  self.buffers = args.st.buffers and b:slot(args.st.buffers, "buffers")
  self.frozen_buffers = args.st.frozen_buffers and b:slot(args.st.frozen_buffers, "frozen buffers")
  self.family_o = opt.family.hyper:traced(function(values, name) return b:scalar(values, name) end, args.like)
  self.family_o.weight_decay = args.decay
  self.stages = stages.trace(b, args.st.stages.per_evaluation, args.like, args.idle)
  if self.division then stages.check_pieces(self.stages) end
  return self
end

-- What the loss gets as ctx. live: whether at the current point. adopts: whether new buffers are kept. given: buffers
-- to read in place of those from before the step.
function Evaluation:loss_context(keys, live, adopts, given)
  local ctx = { train = true, key = keys.example, augment_key = keys.augment }
  if self.buffers then
    local frozen = not live and self.frozen_buffers
    ctx.buffers, ctx.update_buffers, ctx.batch_statistics = frozen or given or self.buffers, adopts, not frozen
  end
  return ctx
end

-- The keys of a piece's examples for an evaluation: those of the step, unless a study has unlocked them. augment: nil
-- where augmentation draws from the same. opts: as in Evaluation:at.
function Evaluation:example_keys(piece, opts)
  local streams = evaluation.streams
  local number = piece.batch.id or piece.number
  local key = number and evaluation.fold(self.stream_key, number) or self.stream_key
  local keys = { example = key }
  if opts.apart_dropout then keys.example = evaluation.fold(key, streams.apart, opts.apart) end
  if opts.apart_dropout or opts.apart_augment then
    keys.augment = opts.apart_augment and evaluation.fold(key, streams.apart_augment, opts.apart) or key
  end
  return keys
end

-- The keys of sample k of several.
local function keys_of_sample(keys, k)
  local folded = {}
  for name, key in next, keys do folded[name] = core.apply("key_fold", nil, key, k) end
  return folded
end

-- The curvature of a piece's loss at theta, under the keys of its gradient; computed where the family asks for it. The
-- Hessian-vector products and gradients that this takes are added to piece.products and piece.further.
function Evaluation:curvature(theta, piece, keys, live)
  return curvature.new(theta, self.t, function(at, drawn)
    local ctx = self:loss_context(keys, live, false, piece.buffers)
    ctx.drawn = drawn
    local loss = self.evaluator:trace_loss(at, piece.batch, ctx)
    local weight = piece.batch.sample_weight
    if weight and drawn and drawn.count then -- rows were taken one by one: with equal weights they count as 1 / weight
      weight = weight:to(at.dtype)
      drawn.count = drawn.count * (weight:sum() / (weight * weight):sum():maximum(1e-30))
    end
    return loss
  end, function(products, gradients)
    piece.products, piece.further = piece.products + products, piece.further + gradients
  end)
end

-- What stage number i sees as ctx. noise_key: that of the evaluation; piece: its number, or nil; theta: where the
-- gradient was taken.
function Evaluation:stage_context(i, noise_key, piece, theta)
  local number = self.gradients
  local fields = { t = self.t, weight_decay = self.decay, examples = self.present, theta = theta }
  return stages.context(fields, function()
    local key = evaluation.fold(noise_key, evaluation.streams.stage, number, i)
    return piece and evaluation.fold(key, piece) or key
  end)
end

-- The gradients of the piece's examples one by one, for sample number k; see Evaluation:gradient.
function Evaluation:each(theta, k, piece, live)
  if self.division or self.batch.count and not self.batch.sample_weight then
    core.raise("gradients of single examples are taken of whole batches, in pieces of their own: use micro = 1 and "
      .. "batches without batch.count, or with batch.sample_weight beside it")
  elseif piece.batch ~= self.batch then
    core.raise("rows for each example, and a stage that asks for the examples' gradients: a row is one already")
  end
  return examples.new(self, theta, function(one, number)
    local keys = piece.keys { batch = one, number = number }
    if self.opt.family.samples > 1 then keys = keys_of_sample(keys, k) end
    local at = core.mark(theta)
    local loss, aux = self.evaluator:trace_loss(at, one, self:loss_context(keys, live, false))
    return loss, aux, core.vjp({ loss }, { false }, { at })[1]
  end)
end

-- Loss, gradient and aux at theta before the stages, and new buffers; where the first stage asks for those of the
-- examples, the gradient is not one but Each (examples.lua), and loss and aux are nil.
function Evaluation:plain_gradient(theta, k, piece, keys, live, adopts)
  local first = self.stages[1]
  if first and first.stage.definition.examples then return nil, self:each(theta, k, piece, live) end
  local at = core.mark(theta)
  local ctx = self:loss_context(keys, live, adopts, piece.buffers)
  local loss, aux = self.evaluator:trace_loss(at, piece.batch, ctx)
  return loss, core.vjp({ loss }, { false }, { at })[1], aux, adopts and self.buffers and buffers.take(ctx)
end

-- Loss, gradient after the stages, aux, curvature and new buffers at theta, for sample number k of a piece. live: at
-- the current point. first: whether it is the piece's first sample, whose buffers may be adopted.
function Evaluation:gradient(theta, k, piece, live, first)
  local keys = piece.keys(piece)
  if self.opt.family.samples > 1 then keys = keys_of_sample(keys, k) end
  local loss, given, aux, new = self:plain_gradient(theta, k, piece, keys, live, live and first)
  self.gradients = self.gradients + 1
  local g = given
  for _, entry in ipairs(self.stages) do
    g = entry:apply(g, self:stage_context(entry.place, piece.noise_key, piece.number, theta))
  end
  if not loss then
    loss, aux = given.loss, given.aux
    if not loss then
      core.raise(("stage %s never asked for the examples' gradients: g:mean(f)"):format(self.stages[1].stage.name))
    end
  end
  if self.witness then self.witness:saw_gradient(theta, loss, g) end
  return loss, g, aux, self:curvature(theta, piece, keys, live), new
end

-- Evaluate at q on a piece of the batch, { batch =, number = (nil: it is the whole batch), buffers = }: { stats, loss,
-- aux, buffers (new ones, where they are adopted), count and products (gradients and Hessian-vector products per
-- example) }. opts: as in Evaluation:at.
function Evaluation:on(piece, q, opts)
  local family, live = self.opt.family, opts.live or false
  local drawn = piece.number and not opts.one_noise and piece.number * family.samples or nil
  local found = {}
  piece.products, piece.further, piece.noise_key = 0, 0, opts.noise_key or self.noise_key
  function piece.keys(part) return self:example_keys(part, opts) end
  found.stats, found.loss, found.aux, found.count = family:evaluate(q, piece.noise_key, self.family_o,
    function(theta, k, first)
      local loss, g, aux, curve, new = self:gradient(theta, k, piece, live, first)
      if first then found.buffers = new or nil end
      return loss, g, aux, curve
    end, { mirrored = opts.antithetic, drawn = drawn, exchange = self.witness and self.witness:exchange() })
  found.count, found.products = found.count + piece.further, piece.products
  return found
end

-- Statistics at q, a traced view. opts:
--   live: q is the current point; the loss and aux seen here are the step's (without it only if there are none yet),
--     and the first sample's new buffers.
--   noise_key: default that of the step. one_noise: all pieces see the same. antithetic: take each sample with its
--     mirror image.
--   apart_dropout, apart_augment: draw these apart from the step's other evaluations; apart: by which number.
function Evaluation:at(q, opts)
  opts = opts or {}
  if self.witness then self.witness:begin_evaluation(self.division) end
  local last -- of the pieces
  local function on(piece)
    last = self:on(piece, q, opts)
    return last
  end
  local live = opts.live or false
  local found = self.division and pieces.average(self.batch, self.division, self.st:traced_zero_statistics(q.mean),
    live and self.buffers or nil, on) or on { batch = self.batch }
  if self.witness then self.witness:saw_statistics(found.stats) end
  self:note(found, last, live)
  return found.stats
end

-- Remember the loss, aux and new buffers that an evaluation found, and what it took for each example (took: count,
-- products).
function Evaluation:note(found, took, live)
  self.count, self.products = self.count + took.count, self.products + took.products
  self.was_live = self.was_live or live
  if live then self.new_buffers = found.buffers end
  if live or not self.loss then
    self.loss, self.aux = found.loss, found.aux
  end
end

-- A view on traced fields as a posterior; numbers of the family can be read off it. With `writable`, a list of fields,
-- also the list of those written.
function Evaluation:view(owner, values, writable)
  local o = self.family_o
  local view, written = posterior.view(owner, values, writable or {}, function(name)
    return o[name]
  end)
  if writable then
    return view, written
  end
  return view
end

-- The optimizer's weight decay in a trace.
function evaluation.decay(b, opt, like)
  local decay = opt.weight_decay
  if decay.scalar then
    return b:scalar(decay.values, "decay")
  end
  return hyper.spread(decay.given, like)
end

return evaluation
