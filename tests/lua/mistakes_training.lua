-- mistakes_training.lua: likely mistakes of a new user with models, losses, optimizers, training and data, in the form
-- that mistakes_language.lua describes. Recipes on training and data have a line before them, which the spec adds: data
-- (a split), both (with a test split), model, with(changes) (options of pg.train), write(path, text), npy.

return {
  { "models",
    { "features that do not fit", [[
local m = pg.nn.sequential { pg.nn.linear(8, 16), pg.nn.relu(), pg.nn.linear(32, 10) }
print(m(m:init(pg.key(1)), pg.zeros({4, 8})))]],
      "2: 3 (linear(32, 10)): input f32 [4, 16] has 16 features in its last axis, 32 expected: "
        .. "linear(16, 10) would fit" },
    { "images into a linear layer", [[
local m = pg.nn.sequential { pg.nn.linear(784, 10) }
print(m(m:init(pg.key(1)), pg.zeros({4, 1, 28, 28})))]],
      "2: 1 (linear(784, 10)): input f32 [4, 1, 28, 28] has 28 features in its last axis, 784 expected; "
        .. "put pg.nn.flatten() before it" },
    { "no flatten after convolutions", [[
local m = pg.nn.sequential { pg.nn.conv2d(1, 6, 5), pg.nn.linear(3456, 10) }
print(m(m:init(pg.key(1)), pg.zeros({2, 1, 28, 28})))]],
      "2: 2 (linear(3456, 10)): input f32 [2, 6, 24, 24] has 24 features in its last axis, 3456 "
        .. "expected; put pg.nn.flatten() before it" },
    { "channels that do not fit", [[
local m = pg.nn.sequential { pg.nn.conv2d(1, 6, 5), pg.nn.conv2d(3, 16, 5) }
print(m(m:init(pg.key(1)), pg.zeros({2, 1, 28, 28})))]],
      "2: 2 (conv2d(3, 16, 5)): input f32 [2, 6, 24, 24] has 6 channels, 3 expected" },
    { "channels last", [[
local m = pg.nn.sequential { pg.nn.conv2d(3, 6, 5) }
print(m(m:init(pg.key(1)), pg.zeros({2, 28, 28, 3})))]],
      "2: 1 (conv2d(3, 6, 5)): input f32 [2, 28, 28, 3] has 28 channels, 3 expected; axes are [batch, "
        .. "channels, height, width]" },
    { "an image without a batch axis", [[
local m = pg.nn.sequential { pg.nn.conv2d(1, 6, 5) }
print(m(m:init(pg.key(1)), pg.zeros({1, 28, 28})))]],
      "2: 1 (conv2d(1, 6, 5)): input f32 [1, 28, 28] has 3 axes, [batch, channels, height, width] "
        .. "expected; a single example becomes a batch by x:unsqueeze(1)" },
    { "a kernel larger than the image", [[
local m = pg.nn.sequential { pg.nn.conv2d(1, 6, 5) }
print(m(m:init(pg.key(1)), pg.zeros({2, 1, 4, 4})))]],
      "2: 1 (conv2d(1, 6, 5)): input f32 [2, 1, 4, 4] is smaller, with pad 0 on each side, than the kernel of 5 x 5" },
    { "padding", "print(pg.nn.conv2d(1, 6, 5, { padding = 2 }))",
      "1: unknown option 'padding' of pg.nn.conv2d; did you mean 'pad'?" },
    { "groups that do not divide", "print(pg.nn.conv2d(3, 6, 5, { groups = 2 }))",
      "1: pg.nn.conv2d: 3 inputs and 6 outputs cannot both be divided into 2 groups" },
    { "a stride as an argument", "print(pg.nn.conv2d(1, 6, 5, 2))",
      "1: pg.nn.conv2d takes a table of options, not 2 (known: stride, pad, dilation, groups, bias, init)" },
    { "batch norm without buffers", [[
local m = pg.nn.sequential { pg.nn.batch_norm(4) }
print(m(m:init(pg.key(1)), pg.zeros({2, 4})))]],
      "2: 1 (batch_norm(4)): the buffer 'running_mean' is needed, and ctx.buffers is missing: in a loss hand ctx on, "
        .. "net(theta, batch.x, ctx); elsewhere give { buffers = run.buffers }, or model:init_buffers()" },
    { "a layer that was not called",
      "local m = pg.nn.sequential { pg.nn.linear(8, 16), pg.nn.relu, pg.nn.linear(16, 10) }",
      "1: pg.nn.sequential: '2' is the function pg.nn.relu, not a module; call it: pg.nn.relu(…)" },
    { "layers without braces", "local m = pg.nn.sequential(pg.nn.linear(8, 16), pg.nn.linear(16, 10))",
      "1: pg.nn.sequential takes a list of modules, not a module" },
    { "a hole among layers", [[
local act
local m = pg.nn.sequential { pg.nn.linear(8, 16), act, pg.nn.linear(16, 10) }]],
      "2: pg.nn.sequential: entry 2 of children is nil, and there is one at 3" },
    { "a string for a layer", 'local m = pg.nn.sequential { pg.nn.linear(8, 16), "relu" }',
      "1: pg.nn.sequential: '2' is \"relu\", not a module" },
    { "linear with one size", "print(pg.nn.linear(784))",
      "1: pg.nn.linear: outputs must be a positive whole number, not nil" },
    { "dropout by percent", "print(pg.nn.dropout(50))",
      "1: pg.nn.dropout: the rate is a number in [0, 1)" },
    { "a model without parameters", [[
local m = pg.nn.sequential { pg.nn.linear(8, 2) }
print(m(pg.zeros({4, 8})))]],
      "2: a model's parameters are a vector of 2 tensors, 18 numbers, as model:init(key) makes it; got a "
        .. "tensor f32 [4, 8]" },
    { "the parameters of another model", [[
local a = pg.nn.sequential { pg.nn.linear(8, 2) }
local b = pg.nn.sequential { pg.nn.linear(8, 4) }
print(a(b:init(pg.key(1)), pg.zeros({4, 8})))]],
      "3: a model's parameters are a vector of 2 tensors, 18 numbers, as model:init(key) makes it; got a "
        .. "tensor f32 vector of 2 tensors, 36 numbers" },
    { "init without a key", [[
local m = pg.nn.sequential { pg.nn.linear(8, 2) }
print(m:init(42))]],
      "2: model:init needs a key first, as pg.key(1), got 42" },
    { "model:eval()", [[
local m = pg.nn.sequential { pg.nn.linear(8, 2) }
m:eval()]],
      "2: a model has no 'eval'; did you mean model(theta, x, { train = false })?" },
    { "a misspelt tensor of theta", [[
local m = pg.nn.sequential { pg.nn.linear(8, 2) }
print(m:init(pg.key(1))["1.wieght"])]],
      '2: the vector has no tensor "1.wieght"; did you mean "1.weight"?' },
    { "dropout without ctx.key", [[
local m = pg.nn.sequential { pg.nn.dropout(0.5) }
print(m(m:init(pg.key(1)), pg.zeros({4, 8}), { train = true }))]],
      "2: 1 (dropout(0.5)): dropout needs ctx.key while training" },
  },
  { "losses",
    { "labels as floats", "print(pg.cross_entropy(pg.zeros({4, 10}), pg.zeros({4})))",
      "1: cross_entropy: labels are whole numbers (i32, i64, u8), not f32 [4]" },
    { "one-hot labels", "print(pg.cross_entropy(pg.zeros({4, 10}), pg.zeros({4, 10})))",
      "1: cross_entropy: labels are whole numbers (i32, i64, u8), not f32 [4, 10]; one-hot rows become "
        .. "labels by y:argmax(-1)" },
    { "labels with an axis too many", 'print(pg.cross_entropy(pg.zeros({4, 10}), pg.zeros({4, 1}, "i32")))',
      "1: cross_entropy: logits f32 [4, 10] and labels i32 [4, 1] do not fit: labels have the logits' "
        .. "shape without the last axis; take the last one away with y:squeeze(-1)" },
    { "more labels than logits", 'print(pg.cross_entropy(pg.zeros({4, 10}), pg.zeros({5}, "i32")))',
      "1: cross_entropy: logits f32 [4, 10] and labels i32 [5] do not fit: labels have the logits' shape "
        .. "without the last axis" },
    { "a label out of range", 'print(pg.cross_entropy(pg.zeros({3, 10}), pg.tensor({1, 2, 10}, "i32")))',
      "1: cross_entropy: label 10 is outside 0..9 of the classes; integers inside tensors count from 0" },
    { "a reduction as an argument", 'print(pg.cross_entropy(pg.zeros({2, 10}), pg.zeros({2}, "i32"), "sum"))',
      '1: pg.cross_entropy takes a table of options, not "sum" (known: reduction)' },
    { "a target of another shape", "print(pg.mse(pg.zeros({4, 1}), pg.zeros({4})))",
      "1: squared_loss: prediction f32 [4, 1] and target f32 [4] have different shapes; reshape or broadcast one" },
    { "a loss of PyTorch's", "print(pg.binary_cross_entropy(pg.zeros({4}), pg.zeros({4})))",
      "1: pg has no 'binary_cross_entropy'; did you mean pg.binary_cross_entropy_with_logits?" },
  },
  { "optimizers and schedules",
    { "learning_rate", "local opt = pg.optim.sgd { learning_rate = 0.1 }",
      "1: unknown option 'learning_rate' of pg.optim.sgd; did you mean 'lr'?" },
    { "a learning rate without a name", "local opt = pg.optim.sgd(0.1)",
      "1: pg.optim.sgd takes a table of options, not 0.1 (known: weight_decay, stages, dtype, lr, "
        .. "momentum, dampening, nesterov, lr_inside)" },
    { "a model and a learning rate", [[
local m = pg.nn.sequential { pg.nn.linear(8, 2) }
local opt = pg.optim.sgd(m, 0.1)]],
      "2: pg.optim.sgd takes a table of options, not a module (known: weight_decay, stages, dtype, lr, "
        .. "momentum, dampening, nesterov, lr_inside)" },
    { "a learning rate as text", 'local opt = pg.optim.sgd { lr = "0.1" }',
      '1: rule sgd: lr must be a number or a schedule, not "0.1"' },
    { "a negative learning rate", "local opt = pg.optim.sgd { lr = -0.1 }",
      "1: rule sgd: lr must lie in [0, inf), not -0.1" },
    { "betas", "local opt = pg.optim.adam { lr = 1e-3, betas = { 0.9, 0.99 } }",
      "1: unknown option 'betas' of pg.optim.adam; did you mean 'beta1'?" },
    { "beta1 beyond 1", "local opt = pg.optim.adam { lr = 1e-3, beta1 = 9 }",
      "1: rule adam: beta1 must lie in [0, 1), not 9" },
    { "a weight decay as a table", "local opt = pg.optim.sgd { lr = 0.1, weight_decay = { 0.1 } }",
      "1: pg.optimizer: weight_decay must be a number of at least 0, a schedule or pg.per_tensor, not a table" },
    { "lr given to pg.optimizer", "local opt = pg.optimizer { lr = 0.1, rule = pg.rule.sgd {} }",
      "1: pg.optimizer: lr belongs to the rule, as rule = pg.rule.sgd { lr = 0.1 }" },
    { "a rule by its name", 'local opt = pg.optimizer { rule = "sgd" }',
      '1: pg.optimizer: rule must be a rule, as pg.rule.sgd { lr = 0.1 }, not "sgd"' },
    { "a correction that is not there",
      "local opt = pg.optimizer { correction = pg.correction.svgr {}, rule = pg.rule.sgd {} }",
      "1: pg.correction has no 'svgr'; did you mean pg.correction.svrg?" },
    { "a period of 0", "local opt = pg.optim.svrg { lr = 0.1, every = 0 }",
      "1: correction svrg: every must be a number of steps of at least 1, pg.steps(n), pg.epochs(n) or "
        .. "pg.whole_run, not 0" },
    { "a period as text", 'local opt = pg.optim.svrg { lr = 0.1, every = "epoch" }',
      "1: correction svrg: every must be a number of steps of at least 1, pg.steps(n), pg.epochs(n) or "
        .. 'pg.whole_run, not "epoch"' },
    { "IVON without ess", "local opt = pg.optim.ivon { lr = 0.1 }",
      "1: family diagonal needs 'ess'" },
    { "a stage that is not in a list", [[
local clip = pg.stage.clip { norm = 1 }
local opt = pg.optimizer { rule = pg.rule.sgd {}, stages = { combined = clip } }]],
      "2: pg.optimizer: stages.combined must be a list of stages, as { pg.stage.clip { norm = 1 } }, not a stage" },
    { "max_norm", "local clip = pg.stage.clip { max_norm = 1 }",
      "1: unknown option 'max_norm' of pg.stage.clip; did you mean 'norm'?" },
    { "a schedule's arguments by place", "local lr = pg.schedule.cosine(0.1, 100)",
      "1: pg.schedule.cosine takes a table of options, not 0.1 (known: floor, peak, total, warmup)" },
    { "a length as text", 'local lr = pg.schedule.linear { from = 1, to = 0, over = "10" }',
      "1: pg.schedule.linear: over must be a number of steps of at least 0, pg.steps(n), pg.epochs(n) or "
        .. 'pg.whole_run, not "10"' },
    { "T_max", "local lr = pg.schedule.cosine { peak = 0.1, T_max = 100 }",
      "1: unknown option 'T_max' of pg.schedule.cosine; did you mean 'total'?" },
  },
  { "training",
    { "no model", "pg.train(with { model = NONE })",
      "2: pg.train: model (or theta, to begin at) is missing" },
    { "no data", "pg.train(with { data = NONE })",
      '2: pg.train: data is missing, as data = pg.data.load "fashion-mnist"' },
    { "the name of a data set", 'pg.train(with { data = "fashion-mnist" })',
      '2: pg.train: data must be a data set, as pg.data.load "fashion-mnist", not a string' },
    { "a table for data", 'pg.train(with { data = { x = pg.zeros({4, 4}), y = pg.zeros({4}, "i32") } })',
      "2: pg.train: data must be a data set, as pg.data.from { x = images, y = labels }, not a table" },
    { "no loss", "pg.train(with { loss = NONE })",
      "2: pg.train: loss is missing: a function (model, theta, batch, ctx)" },
    { "the bare cross entropy", "pg.train(with { loss = pg.cross_entropy })",
      "2: pg.train: loss must be a function (model, theta, batch, ctx) that returns "
        .. "pg.cross_entropy(model(theta, batch.x, ctx), batch.y)" },
    { "a loss that returns nothing", [[
pg.train(with { loss = function(net, theta, batch)
  local loss = pg.cross_entropy(net(theta, batch.x), batch.y)
end })]],
      "2: the loss function (recipe.lua:2) must return the loss, a single number of shape []; it "
        .. "returned nothing; is `return` missing?" },
    { "a loss for each example", [[
pg.train(with { loss = function(net, theta, batch)
  return pg.cross_entropy(net(theta, batch.x), batch.y, { reduction = "none" })
end })]],
      "2: the loss function (recipe.lua:2) must return the loss, a single number of shape []; it "
        .. "returned a tensor f32 [8]; reduce it with :mean()" },
    { "a loss taken out of its tensor", [[
pg.train(with { loss = function(net, theta, batch)
  return pg.cross_entropy(net(theta, batch.x), batch.y):item()
end })]],
      "3: this tensor is traced: it stands for a value computed later and has no elements to read or write yet" },
    { "a misspelt field of the batch", [[
pg.train(with { loss = function(net, theta, batch)
  return pg.cross_entropy(net(theta, batch.images), batch.y)
end })]],
      "3: 1 (linear(4, 3)): the input must be a tensor, got nothing" },
    { "inputs of another size",
      'pg.train(with { data = pg.data.from { x = pg.zeros({40, 5}), y = pg.zeros({40}, "i32") } })',
      "1: 1 (linear(4, 3)): input f32 [8, 5] has 5 features in its last axis, 4 expected: linear(5, 3) would fit" },
    { "labels as floats in the data",
      "pg.train(with { data = pg.data.from { x = pg.zeros({40, 4}), y = pg.zeros({40}) } })",
      "1: cross_entropy: labels are whole numbers (i32, i64, u8), not f32 [8]" },
    { "labels out of range in the data",
      'pg.train(with { data = pg.data.from { x = pg.zeros({40, 4}), y = pg.full({40}, 3, "i32") } })',
      "2: pg.train t: the loss is not finite at step 0 (nan): batch.y goes from 3 to 3 (classes count "
        .. "from 0); try a smaller learning rate or clipping" },
    { "inputs that are not finite",
      'pg.train(with { data = pg.data.from { x = pg.full({40, 4}, math.huge), y = pg.zeros({40}, "i32") } })',
      "2: pg.train t: the loss is not finite at step 0 (nan): batch.x is not finite" },
    { "a learning rate that explodes", [[
pg.train(with { optimizer = pg.optim.sgd { lr = 1e6 }, epochs = 9, loss = function(net, theta, batch)
  return (net(theta, batch.x) ^ 2):mean()
end })]],
      "2: pg.train t: the loss is not finite at step %d+ %(%a+%): batch.y goes from 0 to 0 %(classes count from 0%); "
        .. "try a smaller learning rate or clipping", pattern = true },
    { "an optimizer that was not called", "pg.train(with { optimizer = pg.optim.adam })",
      "2: pg.train: optimizer must be an optimizer, as pg.optim.sgd { lr = 0.1 }, not a function; call "
        .. "it with its options" },
    { "a rule for an optimizer", "pg.train(with { optimizer = pg.rule.sgd { lr = 0.1 } })",
      "2: pg.train: optimizer must be an optimizer, as pg.optim.sgd { lr = 0.1 }, not a rule" },
    { "lr given to pg.train", "pg.train(with { lr = 0.1 })",
      "2: pg.train: lr belongs to the optimizer, as optimizer = pg.optim.sgd { lr = 0.1 }" },
    { "a rule that needs another family",
      "pg.train(with { optimizer = pg.optimizer { rule = pg.rule.ivon { lr = 0.1 } } })",
      "2: rule ivon reads q.h, which family point does not keep; use pg.family.diagonal" },
    { "a schedule that ends too early",
      "pg.train(with { optimizer = pg.optim.sgd { lr = function(step) if step < 3 then return 0.1 end end } })",
      "2: rule sgd: lr: the schedule gave nothing at step 3; a number was expected" },
    { "neither epochs nor steps", "pg.train(with { epochs = NONE })",
      "2: pg.train: how long? Give one of epochs, steps and budget = { gradients = n }" },
    { "epochs and steps", "pg.train(with { steps = 10 })",
      "2: pg.train: give only one of epochs, steps and budget, not epochs and steps" },
    { "epochs as text", 'pg.train(with { epochs = "3" })',
      '2: pg.train: epochs must be a number of epochs, not "3"' },
    { "batch_size", "pg.train(with { batch_size = 8 })",
      "2: unknown option 'batch_size' of pg.train; did you mean 'batch'?" },
    { "a batch of 0", "pg.train(with { batch = 0 })",
      "2: pg.train: batch must be a whole number of examples, at least 1, a schedule or pg.batch.adaptive { … }, "
        .. "not 0" },
    { "a batch larger than the data", "pg.train(with { batch = 64 })",
      "2: pg.train: batch is 64, but the data has only 40 examples" },
    { "a device that is not there", 'pg.train(with { device = "cuda" })',
      '2: pg.train: device must be "cpu" (this build has no CUDA), not "cuda"' },
    { "a metric by its name", 'pg.train(with { metrics = { accuracy = "accuracy" } })',
      '2: pg.train: metrics.accuracy must be a metric, as pg.metric.nll or a function (out, batch), not "accuracy"' },
    { "metrics without a test split", "pg.train(with { metrics = { accuracy = pg.metric.accuracy } })",
      "2: pg.train: metrics are taken of a test split, which the data lacks; give data = { train = …, test = … }" },
    { "a name with a slash", 'pg.train(with { name = "mnist/first" })',
      '2: pg.train: name must be a name for a directory (letters, digits, _ . and -), not "mnist/first"' },
    { "a misspelt hook", "pg.train(with { hooks = { on_stpe = print } })",
      "2: unknown option 'on_stpe' of pg.train's hooks; did you mean 'on_step'?" },
    { "a checkpoint period by another name", "pg.train(with { checkpoint_every = { step = 10 } })",
      "2: pg.train: checkpoint_every must be a number of seconds, or { steps = n }, not a table" },
    { "a run that is not there", 'pg.train(with { from = "runs/none" })',
      '2: from = "runs/none": no checkpoint there' },
    { "a directory elsewhere", 'pg.train(with { out = "/tmp/elsewhere" })',
      "2: /tmp/elsewhere: outside the run directory, the only one that recipes write in (--trust lifts this)" },
    { "a result by another name", [[
local result = pg.train(with { data = both, metrics = { accuracy = pg.metric.accuracy } })
print(result.accuracy)]],
      "3: the result of pg.train has no 'accuracy'; did you mean result.metrics.accuracy?" },
    { "a rule's misspelt hyperparameter", [[
local rule = pg.rule.define { name = "mine", hyper = { lr = 0.1 }, update = function(p, stats, s, o)
  return p - o.rl * stats.g
end }
pg.train(with { optimizer = pg.optimizer { rule = rule } })]],
      "3: o of rule mine has no 'rl'; did you mean o.lr?" },
    { "a period of nothing", "print(pg.schedule.hold { of = 0.1, every = 0 })",
      "2: pg.schedule.hold: every must be a number of steps of at least 1, pg.steps(n), pg.epochs(n) or pg.whole_run, "
        .. "not 0" },
    { "pieces without braces", "print(pg.schedule.piecewise { 0.1, 0.2 })",
      "2: pg.schedule.piecewise: piece 1 is { value, step at which it ends }, not 0.1" },
    { "one step for a list", 'print(pg.schedule.step { from = 1, factor = 0.1, at = 3 })',
      "2: pg.schedule.step: at is a list of steps or durations, not 3" },
    { "limits that are no interval",
      'print(pg.rule.define { name = "r", hyper = { lr = 1 }, limits = { lr = { 0, 1 } }, update = print })',
      '2: pg.rule.define: the limits of lr are written as "[0, 1)" or "(0, inf)", not a table' },
    { "limits of what is not there",
      'print(pg.rule.define { name = "r", hyper = { lr = 1 }, limits = { rl = "[0,1]" }, update = print })',
      "2: unknown option 'rl' of the limits of pg.rule.define; did you mean 'lr'?" },
    { "a rule that returns nothing", [[
local rule = pg.rule.define { name = "mine", hyper = { lr = 0.1 }, update = function(p, stats, s, o)
  p = p - o.lr * stats.g
end }
pg.train(with { optimizer = pg.optimizer { rule = rule } })]],
      "5: update of rule mine (recipe.lua:2) returned nothing; it returns the new parameters" },
    { "a branch on the step", [[
local rule = pg.rule.define { name = "mine", hyper = { lr = 0.1 }, update = function(p, stats, s, o, ctx)
  return ctx.t == 1 and p or p - o.lr * stats.g
end }]],
      "2: rule mine, defined at recipe.lua:2, contains a branch that tracing decides once: at t = 1 "
        .. ".*write pg.where.*", pattern = true },
  },
  { "data",
    { "a misspelt data set", 'print(pg.data.load "fashion_mnist")',
      '2: data set "fashion_mnist" was not found; did you mean "fashion-mnist"?' },
    { "a file that is not there", 'print(pg.data.load "train.csv")',
      '2: data set "train.csv" was not found; looked for train.csv, '
        .. ".*%(PERIGEE_DATA lists more directories.*", pattern = true },
    { "a split that is not there", [[
write("runs/t.txt", "1 1:2\n2 1:3\n")
write("runs/t.txt.t", "1 1:2\n")
print(pg.data.load("runs/t.txt", { test = true }).validation)]],
      "4: runs/t.txt has no 'validation'; its splits are train and test (train:rows(1, 1000) cuts one)" },
    { "a field that is not there", "print(data.images)",
      "2: data has no field 'images' (it has: x, y)" },
    { "rows from 0", "print(data:rows(0, 10))",
      "2: split:rows(0, 10): rows count from 1 to 40" },
    { "tables for tensors", "print(pg.data.from { x = { { 1, 2 } }, y = { 1 } })",
      "2: pg.data.from: x must be a tensor (pg.tensor makes one), not a table" },
    { "lengths that differ", "print(pg.data.from { x = pg.zeros({40, 4}), y = pg.zeros({39}) })",
      "2: field y has 39 rows, field x has 40" },
    { "an index into a split", "print(data[1])",
      "2: a split has no index; split:rows(1, 10) takes examples, split.x is a field" },
    { "a loop over a split", "for batch in data do print(batch) end",
      "2: a split is no iterator; pg.train takes its batches by itself, a loop of pg.run by ctx:batch(split, 64)" },
    { "a column that is not there", [[
write("runs/t.csv", "a,b\n1,2\n3,4\n")
print(pg.data.load("runs/t.csv", { target = "c" }))]],
      "3: runs/t.csv: no column c; there are a, b" },
    { "a line with a field missing", [[
write("runs/t.csv", "a,b\n1,2\n3\n")
print(pg.data.load("runs/t.csv", { target = "b" }))]],
      "3: runs/t.csv: line 3: found 1 fields, expected 2 as in the lines before" },
    { "a truncated file", [[
write("runs/t.npy", npy .. "1234")
print(pg.data.load("runs/t.npy"))]],
      "3: runs/t.npy: byte 132: the file ends inside the array (found 4 bytes, expected 160)" },
  },
}
