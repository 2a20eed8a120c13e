-- words.lua: what the same thing is called elsewhere (PyTorch, JAX, NumPy, scikit-learn, papers): a table from their
-- words to ours, for messages about names that are not there. Only data; names.lua looks into it, and a word counts
-- only where one of its translations is a known name.

return {
  -- optimizers, schedules, training
  learning_rate = "lr", step_size = { "lr", "every" }, eta = "lr", alpha = "lr", betas = "beta1", beta = "beta1",
  epsilon = "eps", mu = "momentum", wd = "weight_decay", l2 = "weight_decay", decay = "weight_decay",
  lambda = "weight_decay", max_norm = "norm", clip_norm = "norm", clip_value = "value",
  frequency = "every", period = "every", interval = "every", inner_steps = "every", update_freq = "every",
  init_value = { "from", "peak" }, start_value = "from", end_value = { "to", "floor" }, base_lr = { "peak", "from" },
  initial_lr = { "peak", "from" }, max_lr = "peak", min_lr = "floor", eta_min = "floor", T_max = "total",
  total_steps = { "total", "over", "steps" }, decay_steps = { "total", "over" }, warmup_steps = { "warmup", "over" },
  gamma = "factor", milestones = "at", mc_samples = "samples", n_samples = "samples", hess_init = "h0",
  effective_sample_size = "ess", N = "ess",
  batch_size = "batch", batchsize = "batch", bs = "batch", num_epochs = "epochs", n_epochs = "epochs",
  max_epochs = "epochs", epoch = "epochs", iterations = "steps", iters = "steps", num_steps = "steps",
  max_steps = "steps", criterion = "loss", loss_fn = "loss", objective = "loss", optimiser = "optimizer",
  opt = "optimizer", dataset = "data", train_data = "data", net = "model", network = "model",
  params = { "theta", "parameters" }, callbacks = "hooks", random_state = "seed", random_seed = "seed",
  output_dir = "out", eval_batch_size = "eval_batch", log_interval = "log_every", dim = "axis", keepdim = "keepdims",
  reduce = "reduction", size_average = "reduction", argnums = "wrt", min = "low", max = "high", validation = "test",
  valid = "test", val = "test",

  -- tensors and functions
  T = "t", mT = "t", permute = "transpose", swapaxes = "transpose", numel = "size", view_as = "reshape",
  detach = "stop_gradient", numpy = "totable", tolist = "totable", astype = "to", type = "to", float = { "to", "f32" },
  double = { "to", "f64" }, long = { "to", "i64" }, int = { "to", "i32" }, cuda = "to", cpu = "to", clamp = "clip",
  expand = "broadcast_to",
  mm = "matmul", bmm = "matmul", cat = "concat", concatenate = "concat", hstack = "concat", vstack = "concat",
  index_select = "take", index_add = "scatter_add", masked_fill = "where", array = "tensor", from_numpy = "tensor",
  Tensor = "tensor", FloatTensor = "tensor", rand = "uniform", normal = "randn", manual_seed = "key",
  PRNGKey = "key", seed = "key", randperm = "permutation", randint = "choice", nll_loss = "cross_entropy",
  CrossEntropyLoss = "cross_entropy", mse_loss = "mse", MSELoss = "mse", l2_loss = "mse",
  binary_cross_entropy = "binary_cross_entropy_with_logits", BCEWithLogitsLoss = "binary_cross_entropy_with_logits",
  bce = "binary_cross_entropy_with_logits", no_grad = "stop_gradient", autograd = "grad", backward = "grad",
  compile = "jit", cond = "where", fori_loop = "scan",

  -- rules
  grad = "g", gradient = "g", gradients = "g", hessian = "h", step = "t",

  -- dtypes
  float32 = "f32", float64 = "f64", int32 = "i32", int64 = "i64", uint8 = "u8", boolean = "bool", integer = "i64",

  -- layers and models
  Dense = "linear", dense = "linear", fc = "linear", Conv = "conv2d", parameters = { "init", "layout" },
  state_dict = "init", forward = "__call", lin = "linear", layer = "module", Module = "module", bn = "batch_norm",
  dropout2d = "dropout", AdaptiveAvgPool2d = "global_avg_pool", adaptive_avg_pool2d = "global_avg_pool",
  swish = "silu", padding = "pad", strides = "stride", use_bias = "bias",
  kaiming_normal = "he", kaiming_uniform = "he", kaiming_normal_ = "he", kaiming_uniform_ = "he", kaiming = "he",
  xavier = "glorot", xavier_normal = "glorot", xavier_uniform = "glorot", xavier_normal_ = "glorot",
  xavier_uniform_ = "glorot", trunc_normal = "truncated_normal", trunc_normal_ = "truncated_normal",
}
