-- The correction switched on in mid-run: IVON → IVON-PoCo on LeNet-5, from three different steps of one run.
--
--   perigee recipes/late_start.lua                        Fashion-MNIST, 4 epochs
--   perigee recipes/late_start.lua data=mnist epochs=8 rows=10000
--   perigee recipes/late_start.lua every=100 alpha=0.9
--
-- A plain run of IVON at a constant step goes to the end; three branches leave it at a quarter, a half and three
-- quarters with everything it had there (parameters, posterior, momentum, cursor, keys) and go on with the
-- correction. The shape to expect is that of Figure 1 of the paper on posterior correction (arXiv 2512.01930): the
-- loss falls at once after each start. Two controls: what a smaller step does from the middle on, which costs
-- nothing; and a run of its own with `start` set to the first of the steps, which must have the bits of the branch.
--
-- A refresh every 50 steps over a mega-batch of 100 batches makes a corrected step cost four gradients. The strength
-- follows alpha = 1 / (1 + tau / mega), tau = the steps that the optimizer remembers.

local pg = require "perigee"
local networks = require "parts.networks"

local o = pg.options {
  data = "fashion-mnist", rows = 0, epochs = 4.0, batch = 50, seed = 1,
  lr = 0.3, h0 = 0.1, weight_decay = 2e-4, beta1 = 0.9, ess = 0.0,
  every = 50, mega = 100, alpha = 0.0, watched = 2000, points = 48, control = 0.25,
}

local data = pg.data.load(o.data)
local train = o.rows > 0 and data.train:take(math.min(o.rows, data.train.n)) or data.train
local test = data.test:take(math.min(o.watched, data.test.n))

local model = networks.lenet "tanh"

local function loss(net, theta, batch, ctx) return pg.cross_entropy(net(theta, batch.x, ctx), batch.y) end

local per_epoch = math.ceil(train.n / o.batch)
local steps = math.floor(o.epochs * per_epoch)
local starts = { steps // 4, steps // 2, 3 * steps // 4 }
local apart = math.max(1, steps // o.points) -- steps between two looks at the loss

-- A step of lr * (h0 + weight_decay) on the scale of SGD remembers about one over that many steps, momentum ten.
local tau = math.max(1 / (o.lr * (o.h0 + o.weight_decay)), 1 / (1 - o.beta1))
local alpha = o.alpha > 0 and o.alpha or 1 / (1 + math.min(tau, o.every) / o.mega)

-- ---- watching -------------------------------------------------------------------------------------------------------

-- The loss at the posterior's mean over a part of the training examples, and over the test examples, by themselves.
local function watch(split)
  local evaluator, pieces = pg.evaluator { loss = loss, model = model }, {}
  for first = 1, split.n, 1000 do pieces[#pieces + 1] = split:rows(first, math.min(first + 999, split.n)):all "f32" end
  return function(theta)
    local sum = 0
    for _, batch in ipairs(pieces) do sum = sum + evaluator:count(batch) * evaluator:evaluate(theta, batch) end
    return sum / split.n
  end
end

local loss_of_train, loss_of_test = watch(train:take(math.min(o.watched, train.n))), watch(test)

-- ---- the runs -------------------------------------------------------------------------------------------------------

local function ivon(more)
  local given = { lr = o.lr, ess = o.ess > 0 and o.ess or train.n, h0 = o.h0, weight_decay = o.weight_decay,
    beta1 = o.beta1 }
  for key, value in pairs(more) do given[key] = value end
  return given.start and pg.optim.ivon_poco(given) or pg.optim.ivon(given)
end

local function corrected(start) return ivon { start = start, every = o.every, mega = o.mega, alpha = alpha } end

local function run(name, optimizer, from, last)
  return pg.train {
    name = "late-" .. name, model = model, data = { train = train, test = test }, loss = loss, optimizer = optimizer,
    steps = last or steps, batch = o.batch, seed = o.seed, from = from, eval_every = 0, log_every = apart,
    checkpoint_every = { steps = steps // 4 }, keep = 4, hash_every = apart,
    hooks = { on_step = function(ctx)
      if (ctx.step + 1) % apart == 0 then
        ctx:log { watched = loss_of_train(ctx.theta), watched_test = loss_of_test(ctx.theta) }
      end
    end },
  }
end

local plain = run("ivon", ivon {})

-- Where the plain run was after `start` steps; nil under `perigee check`, where it does not get there.
local function at(start) return plain.steps >= start and ("%s@%d"):format(plain.directory, start) or nil end

local branches = {}
for i, start in ipairs(starts) do branches[i] = run(("poco-from-%d"):format(start), corrected(start), at(start)) end
local smaller = run("ivon-smaller-step", ivon { lr = o.control * o.lr }, at(starts[2]))
local whole = run(("poco-whole-%d"):format(starts[1]), corrected(starts[1]), nil, starts[2])

-- ---- what came out --------------------------------------------------------------------------------------------------

-- The mean of what was watched from step `first` + 1 to step `last`.
local function mean_between(result, name, first, last)
  local curve, sum, count = result:curve(name, "step"), 0, 0
  for i, step in ipairs(curve.x) do
    if step >= first and step < last then sum, count = sum + curve.y[i], count + 1 end
  end
  return sum / count
end

local function number(x) return ("%.4f"):format(x) end

-- What follows a start in its first eighth of the run, and the run's last eighth, beside the plain one.
local function row_of(name, result, start)
  local eighth = steps // 8
  local function mean(run_of, first, what)
    return number(mean_between(run_of, what or "watched", first, first + eighth))
  end
  return { name, mean(result, start - eighth), mean(result, start), mean(plain, start), mean(result, steps - eighth),
    mean(result, steps - eighth, "watched_test"), ("%.1f"):format(result.cost:gradients() / train.n) }
end

print(("%s: %d training examples, %d steps, %d an epoch; alpha = %.3g"):format(o.data, train.n, steps, per_epoch,
  alpha))
local rows = { row_of("IVON", plain, starts[2]) }
for i, start in ipairs(starts) do rows[#rows + 1] = row_of(("PoCo from %d"):format(start), branches[i], start) end
rows[#rows + 1] = row_of(("step × %g from %d"):format(o.control, starts[2]), smaller, starts[2])
print "\nmean loss on training examples (an eighth of the run each) before and after the start, and at the end:"
pg.table.print({ "run", "before", "after", "IVON there", "at the end", "test, at the end", "gradients / n" }, rows)

-- The branch has the bits of the run of its own: from the start to the latter's end the same hashes of everything
-- that is state, and the same losses.
local function compare()
  local seen, count, same = {}, 0, true
  for _, record in ipairs(branches[1].history) do
    for _, name in ipairs { "state", "watched" } do
      if record[name] then seen[("%s %d"):format(name, record.step)] = record[name] end
    end
  end
  for _, record in ipairs(whole.history) do
    for _, name in ipairs { "state", "watched" } do
      if record[name] and record.step >= starts[1] and record.step + 1 < whole.steps then
        same, count = same and seen[("%s %d"):format(name, record.step)] == record[name], count + 1
      end
    end
  end
  return same, count
end
local same, count = compare()
print(("\nbranch from step %d and a run with start = %d: %s (%d hashes of the state and losses to step %d)"):format(
  starts[1], starts[1], same and "the same bits" or "DIFFERENT BITS", count, whole.steps))

-- A branch is drawn from its start on, which is marked.
local function series_of(name, result, x, start)
  local all, s = result:curve("watched", "step"), { name = name, x = {}, y = {} }
  local positions = result:curve("watched", x).x
  for i, step in ipairs(all.x) do
    if not start or step + 1 >= start then s.x[#s.x + 1], s.y[#s.y + 1] = positions[i], all.y[i] end
  end
  if start then s.marks = { s.x[1] } end
  return s
end

for _, x in ipairs { "step", "gradients" } do
  local curves = { series_of("IVON", plain, x) }
  for i, start in ipairs(starts) do curves[i + 1] = series_of(("PoCo from %d"):format(start), branches[i], x, start) end
  curves[#curves + 1] = series_of(("step × %g"):format(o.control), smaller, x, starts[2])
  local labels = { title = "loss on training examples at the posterior mean", log = true,
    xlabel = x == "step" and "step" or "gradient evaluations" }
  io.write("\n", pg.plot.draw(curves, labels))
  pg.plot.save(("%s/late_start_%s.svg"):format(plain.directory, x), curves, labels)
end
