"""Makes lenet.lua: the first losses of LeNet-5 under SGD with momentum by PyTorch, in f64 and f32.

Both sides make the weights, images and labels themselves from `golden.mix`, in numbers that f32 holds exactly:

- a weight or bias, in PyTorch's order: tensor number i takes the top 11 bits of the words of stream i, less 1024, times
  2^-(10 + scale), which makes a bound near PyTorch's 1/sqrt(fan_in);
- a label: word number `step * 64 + row` of stream 100, modulo 10;
- a pixel: (p + n - 256) / 128. p is the top byte of a word of stream 200 + label, one for each square of 4 x 4 pixels;
  n that of a word of stream 1000 + step, one for each pixel of the batch. So classes can be told apart: losses fall.

    python3 tests/golden/make_lenet.py       (PyTorch; the file says which version made it)
"""

import numpy
import torch
from golden import mix, write
from torch import nn

STEPS, BATCH, SIDE = 20, 64, 28
LR, MOMENTUM = 0.05, 0.9
SCALES = [2, 4, 4, 4, 4]  # of layer i: weights and biases are integers times 2^-(10 + scale)


def lenet(form):
    activation = nn.Tanh if form == "tanh" else nn.ReLU
    pool = nn.AvgPool2d if form == "tanh" else nn.MaxPool2d
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2),
        nn.Conv2d(6, 16, 5), activation(), pool(2), nn.Flatten(),
        nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10),
    )  # fmt: skip


def integers(seed, count, bits):
    """The top bits of a stream's words."""
    return (mix(seed, count) >> numpy.uint64(32 - bits)).astype(numpy.int64)


def set_weights(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            values = (integers(i, p.numel(), 11) - 1024) * 2.0 ** -(10 + SCALES[i // 2])
            p.copy_(torch.from_numpy(values).reshape(p.shape))


def batch(step, dtype):
    labels = mix(100, (step + 1) * BATCH)[step * BATCH :] % numpy.uint64(10)
    squares = [integers(200 + k, (SIDE // 4) ** 2, 8).reshape(SIDE // 4, SIDE // 4) for k in range(10)]
    pictures = numpy.kron(numpy.stack(squares), numpy.ones((1, 4, 4), dtype=numpy.int64))
    noise = integers(1000 + step, BATCH * SIDE * SIDE, 8).reshape(BATCH, SIDE, SIDE)
    pixels = (pictures[labels.astype(numpy.int64)] + noise - 256) / 128
    x = torch.from_numpy(pixels).unsqueeze(1).to(dtype)
    return x, torch.from_numpy(labels.astype(numpy.int64))


def losses(form, dtype):
    model = lenet(form).to(dtype)
    set_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    out = []
    for step in range(STEPS):
        x, y = batch(step, dtype)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        out.append(loss.item())
    return out


def main():
    torch.set_num_threads(1)
    forms = []
    for form in ("tanh", "relu"):
        f64, f32 = losses(form, torch.float64), losses(form, torch.float32)
        drift = max(abs(a - b) / b for a, b in zip(f32, f64))
        print(f"{form}: {f64[0]:.4f} to {f64[-1]:.4f}, f32 off by {drift:.2e}")
        forms.append({"form": form, "f64": f64, "f32": f32, "f32_drift": drift})
    fields = {"steps": STEPS, "batch": BATCH, "lr": LR, "momentum": MOMENTUM, "scales": SCALES, "forms": forms}
    write(
        "lenet.lua",
        [
            f"The first losses of LeNet-5 in its two forms by PyTorch {torch.__version__}: made by make_lenet.py,",
            "which says what from. f32_drift: the largest relative difference of its own f32 losses from its f64 ones.",
        ],
        fields,
    )


if __name__ == "__main__":
    main()
