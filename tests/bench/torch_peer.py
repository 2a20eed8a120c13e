"""The PyTorch side of `perigee bench`: one process that sets up a case and runs as many steps of it as it is asked to.

It reads lines from standard input and answers each with one line: `setup CASE VARIANT THREADS` -> `ok` or `error WHY`;
`run STEPS` -> seconds; `variants CASE` -> their names. It ends when its input ends, so nothing is left behind.

The code of the cases is what a PyTorch user writes; IVON's is the sequence of unfused operations of the reference
implementation, written from the paper's formulas.
"""

import signal
import sys
import time
import warnings

import torch

warnings.filterwarnings("ignore")

SETUP_SECONDS = 240  # a compilation that takes longer is given up


def has_fused(optimizer_class):
    """Whether this version's optimizer takes fused=True on the CPU."""
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.ones(4)
    try:
        optimizer_class([p], lr=0.1, fused=True).step()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def make_trainer(model, loss_of, optimizer, x, y, variant):
    """One step of training on a batch that lies ready, in one of the ways users run it."""

    def forward(x, y):
        return loss_of(model(x), y)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(x, y)
        loss.backward()
        optimizer.step()

    if variant in ("eager", "fused"):
        return step
    if variant == "compiled":
        forward = torch.compile(forward)
        return step
    forward = torch.compile(forward)
    move = torch.compile(optimizer.step)

    def step_compiled():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(x, y)
        loss.backward()
        move()

    return step_compiled


def logreg(variant):
    torch.manual_seed(1)
    x, y = torch.randn(32, 100), torch.randint(0, 2, (32, 1)).float()
    model = torch.nn.Linear(100, 1)
    extra = {"fused": True} if variant == "fused" else {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **extra)
    return make_trainer(model, torch.nn.functional.binary_cross_entropy_with_logits, optimizer, x, y, variant)


def mlp(variant):
    torch.manual_seed(1)
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))
    n = torch.nn
    model = n.Sequential(n.Linear(784, 512), n.ReLU(), n.Linear(512, 512), n.ReLU(), n.Linear(512, 10))
    extra = {"fused": True} if variant == "fused" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **extra)
    return make_trainer(model, torch.nn.functional.cross_entropy, optimizer, x, y, variant)


def adamw25m(variant):
    parameters = [torch.nn.Parameter(torch.full((1000, 1000), 0.1)) for _ in range(25)]
    for p in parameters:
        p.grad = torch.full((1000, 1000), 0.01)
    extra = {"eager": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[variant]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **extra)
    return optimizer.step


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
    parameters = [torch.nn.Parameter(torch.full((1024, 1024), 0.1)) for _ in range(16)]
    for p in parameters:
        p.grad = torch.full((1024, 1024), 0.01)
    return Ivon(parameters).step


CASES = {"logreg": logreg, "mlp": mlp, "adamw25m": adamw25m, "ivon16m": ivon16m}


def variants_of(case):
    if case == "ivon16m":
        return ["eager"]
    optimizer = torch.optim.SGD if case == "logreg" else torch.optim.AdamW
    names = ["eager"]
    if case == "adamw25m":
        names.append("foreach")
    if has_fused(optimizer):
        names.append("fused")
    if case != "adamw25m" and hasattr(torch, "compile"):
        names += ["compiled", "compiled-step"]
    return names


def give_up(_signal, _frame):
    raise TimeoutError(f"took longer than {SETUP_SECONDS} s to set up")


def main():
    signal.signal(signal.SIGALRM, give_up)
    step = None
    print("ready torch", torch.__version__, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "variants":
            print(" ".join(variants_of(words[0])), flush=True)
        elif command == "setup":
            step = None
            signal.alarm(SETUP_SECONDS)
            try:
                torch.set_num_threads(int(words[2]))
                step = CASES[words[0]](words[1])
                for _ in range(3):
                    step()
                answer = "ok"
            except Exception as error:  # whatever a compiler of PyTorch raises; the case is then left out
                answer = "error " + " ".join(str(error).split())[:200]
            signal.alarm(0)
            print(answer, flush=True)
        elif command == "run":
            start = time.perf_counter()
            for _ in range(int(words[0])):
                step()
            print(f"{time.perf_counter() - start:.9f}", flush=True)


if __name__ == "__main__":
    main()
