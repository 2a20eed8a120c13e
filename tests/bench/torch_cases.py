"""The cases of `perigee bench` in PyTorch, as its users write them: each function sets one up in one of the ways people
run it and returns what does one step.

A variant is a list of words joined by "+":

    eager          as it comes                      foreach, fused   these forms of the optimizer
    channels-last  images and weights in NHWC       no-mkldnn        without oneDNN
    compiled       forward and backward compiled    step             the optimizer's step compiled too
    whole          forward, backward and SGD's update compiled as one graph (torch.func.grad)
    wrapper        inductor's C++ wrapper           tuned            mode="max-autotune-no-cudagraphs"

IVON's is the sequence of unfused operations of the reference implementation, written from the paper's formulas.
"""

import inspect

import torch
from torch import nn
from torch.nn import functional as F

HAS_COMPILE = hasattr(torch, "compile")


def has_fused(optimizer_class):
    """Whether this version's optimizer takes fused=True on the CPU."""
    p = nn.Parameter(torch.zeros(4))
    p.grad = torch.ones(4)
    try:
        optimizer_class([p], lr=0.1, fused=True).step()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def compiler_of(words):
    mode = "max-autotune-no-cudagraphs" if "tuned" in words else None
    return lambda f: torch.compile(f, mode=mode)


def make_whole_step(model, loss_of, lr, x, y, words):
    """One step of plain SGD as a single compiled graph."""
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss_at(parameters, x, y):
        return loss_of(torch.func.functional_call(model, parameters, (x,)), y)

    def move(x, y):
        gradients = torch.func.grad(loss_at)(parameters, x, y)
        for name, p in parameters.items():
            p.sub_(gradients[name], alpha=lr)

    compiled = compiler_of(words)(move)
    return lambda: compiled(x, y)


def make_trainer(model, loss_of, optimizer_class, lr, x, y, variant):
    """One step of training on a batch that lies ready."""
    words = variant.split("+")
    if "channels-last" in words:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch.backends.mkldnn.set_flags("no-mkldnn" not in words)
    if HAS_COMPILE:
        torch._dynamo.reset()
        torch._inductor.config.cpp_wrapper = "wrapper" in words
    if "whole" in words:
        return make_whole_step(model, loss_of, lr, x, y, words)
    form = {word: True for word in words if word in ("foreach", "fused")}
    optimizer = optimizer_class(model.parameters(), lr=lr, **form)

    def forward(x, y):
        return loss_of(model(x), y)

    move = optimizer.step
    if "compiled" in words:
        forward = compiler_of(words)(forward)
    if "step" in words:
        move = torch.compile(move)

    def step():
        optimizer.zero_grad(set_to_none=True)
        forward(x, y).backward()
        move()

    return step


def logreg(variant):
    torch.manual_seed(1)
    x, y = torch.randn(32, 100), torch.randint(0, 2, (32, 1)).float()
    loss_of = F.binary_cross_entropy_with_logits
    return make_trainer(nn.Linear(100, 1), loss_of, torch.optim.SGD, 0.1, x, y, variant)


def mlp(variant):
    torch.manual_seed(1)
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return make_trainer(model, F.cross_entropy, torch.optim.AdamW, 1e-3, x, y, variant)


def make_lenet(activation, pool):
    def case(variant):
        torch.manual_seed(1)
        x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
        model = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2),
            nn.Conv2d(6, 16, 5), activation(), pool(2), nn.Flatten(),
            nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10),
        )  # fmt: skip
        return make_trainer(model, F.cross_entropy, torch.optim.SGD, 0.01, x, y, variant)

    return case


def make_update(optimizer_class, **options):
    """An optimizer's step alone, on 25M parameters."""

    def case(variant):
        parameters = [nn.Parameter(torch.full((1000, 1000), 0.1)) for _ in range(25)]
        for p in parameters:
            p.grad = torch.full((1000, 1000), 0.01)
        form = {} if variant == "eager" else {variant: True}
        return optimizer_class(parameters, lr=1e-3, **options, **form).step

    return case


class Ivon:
    """IVON over one group, price estimate, one sample: the reference's order of operations on flattened vectors."""

    def __init__(self, parameters, lr=0.1, ess=1e6, h0=0.1, beta1=0.9, beta2=0.99999, decay=1e-4):
        self.parameters = parameters
        self.lr, self.ess, self.h0, self.beta1, self.beta2, self.decay = lr, ess, h0, beta1, beta2, decay
        size = sum(p.numel() for p in parameters)
        self.momentum, self.hess, self.t = torch.zeros(size), torch.full((size,), h0), 0

    def write(self, flat):
        offset = 0
        for p in self.parameters:
            p.data = flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()

    def flatten(self, tensors):
        return torch.cat([t.flatten() for t in tensors], 0)

    def sample(self):
        self.mean = self.flatten([p.data for p in self.parameters])
        self.noise = torch.randn_like(self.mean) / (self.ess * (self.hess + self.decay)).sqrt()
        self.write(self.mean + self.noise)

    def restore_and_collect(self):
        g = self.flatten([p.grad for p in self.parameters])
        self.write(self.mean)
        self.avg_grad, self.avg_nxg = g, self.noise * g

    def update(self):
        self.t += 1
        hess, rate = self.hess, 1 - self.beta2
        self.momentum = self.beta1 * self.momentum + (1 - self.beta1) * self.avg_grad
        f = self.avg_nxg * (hess + self.decay) * self.ess
        self.hess = self.beta2 * hess + rate * f + 0.5 * rate**2 * (hess - f).square() / (hess + self.decay)
        lr = self.lr * (self.h0 + self.decay)
        debiased = self.momentum / (1 - self.beta1**self.t)
        mean = self.flatten([p.data for p in self.parameters])
        self.write(mean - lr * (debiased + self.decay * mean) / (self.hess + self.decay))

    def step(self):
        with torch.no_grad():
            self.sample()
            self.restore_and_collect()
            self.update()


def ivon16m(_variant):
    parameters = [nn.Parameter(torch.full((1024, 1024), 0.1)) for _ in range(16)]
    for p in parameters:
        p.grad = torch.full((1024, 1024), 0.01)
    return Ivon(parameters).step


def training_variants(optimizer_class):
    """Ways to run a training step; "whole" has plain SGD's update only."""
    fused = ["fused"] if has_fused(optimizer_class) else []
    names = ["eager"] + (fused or ["foreach"])
    if HAS_COMPILE:
        names += ["+".join(["compiled"] + fused), "compiled+step"]
        if optimizer_class is torch.optim.SGD:
            names += ["whole", "whole+wrapper", "whole+tuned"]
    return names


def image_variants(optimizer_class):
    """The same in both memory formats, and without oneDNN."""
    names = training_variants(optimizer_class)
    return names + ["no-mkldnn"] + ["+".join(["channels-last", name]) for name in names]


def update_variants(optimizer_class):
    """Forms of an optimizer; some have one only."""
    names = ["eager"]
    if "foreach" in inspect.signature(optimizer_class).parameters:
        names.append("foreach")
    return names + (["fused"] if has_fused(optimizer_class) else [])


# What Perigee has too: name, class, options. Older versions lack some.
UPDATES = [
    ("sgd", "SGD", {}),
    ("momentum", "SGD", {"momentum": 0.9}),
    ("adagrad", "Adagrad", {}),
    ("rmsprop", "RMSprop", {}),
    ("adadelta", "Adadelta", {}),
    ("adam", "Adam", {}),
    ("amsgrad", "Adam", {"amsgrad": True}),
    ("adamw", "AdamW", {}),
    ("nadam", "NAdam", {}),
    ("adafactor", "Adafactor", {}),
    ("muon", "Muon", {}),
]


def update_cases():
    cases = {}
    for name, class_name, options in UPDATES:
        found = getattr(torch.optim, class_name, None)
        if found:
            cases["update_" + name] = (make_update(found, **options), lambda found=found: update_variants(found))
    return cases


def make_tool(step, *shape, dtype=torch.float32):
    """Set up a function of normal numbers."""

    def setup(_variant):
        torch.manual_seed(1)
        x = torch.randn(*shape, dtype=dtype)
        return lambda: step(x)

    return setup, lambda: ["eager"]


MILLION = 1000000
TOOLS = {
    "tool_sort": make_tool(lambda x: x.sort(stable=True), MILLION),
    "tool_sort_f64": make_tool(lambda x: x.sort(stable=True), MILLION, dtype=torch.float64),
    "tool_sort_rows": make_tool(lambda x: x.sort(stable=True), 10000, 100),
    "tool_topk": make_tool(lambda x: x.topk(100), MILLION),
    "tool_topk_rows": make_tool(lambda x: x.topk(40), 128, 50000),
    "tool_median": make_tool(lambda x: x.quantile(0.5), MILLION),
    "tool_cumsum": make_tool(lambda x: x.cumsum(0), MILLION),
    "tool_gamma": make_tool(lambda x: torch._standard_gamma(torch.full_like(x, 2)), MILLION),
}


# name: (set-up, its variants)
CASES = {
    "logreg": (logreg, lambda: training_variants(torch.optim.SGD)),
    "mlp": (mlp, lambda: training_variants(torch.optim.AdamW)),
    "lenet": (make_lenet(nn.ReLU, nn.MaxPool2d), lambda: image_variants(torch.optim.SGD)),
    "lenet_tanh": (make_lenet(nn.Tanh, nn.AvgPool2d), lambda: image_variants(torch.optim.SGD)),
    "adamw25m": (make_update(torch.optim.AdamW), lambda: update_variants(torch.optim.AdamW)),
    "ivon16m": (ivon16m, lambda: ["eager"]),
    **update_cases(),
    **TOOLS,
}
