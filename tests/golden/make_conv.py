"""Makes conv.lua (convolutions, pooling) and norm.lua (normalization, embedding): f64 by PyTorch, to second order.

For an operation y = f(inputs), a cotangent c and directions v, each case holds y, g = the gradient of <y, c> by the
inputs, and the gradient of the sum of <g_i, v_i> by the inputs and by c. Small cases hold every number; their inputs
have three decimals, so that the files stay short. Wide cases, large enough for every vectorized path, take their
tensors from `golden.fill` and hold a few random projections of each result.

    python3 tests/golden/make_conv.py        (PyTorch; the file says which version made it)
"""

import torch
from golden import fill, write

from torch.nn import functional as F

SEED = 20261125
PROJECTIONS = 3

generator = torch.Generator().manual_seed(SEED)


def draw(shape):
    """Numbers of three decimals in [-2, 2]."""
    return torch.randint(-2000, 2001, shape, generator=generator).double() / 1000


def derivatives(f, inputs, cotangent, directions):
    """→ output, gradients, second-order gradients (inputs, then cotangent)."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    c = cotangent.clone().requires_grad_()
    y = f(*inputs)
    first = torch.autograd.grad((y * c).sum(), inputs, create_graph=True)
    along = sum((g * v).sum() for g, v in zip(first, directions))
    second = torch.autograd.grad(along, inputs + [c], allow_unused=True, materialize_grads=True)
    return y.detach(), [g.detach() for g in first], list(second)


def small(op, name, options, f, inputs, extra=None):
    """One case with every number in it. extra: further fields, and tensors that f does not differentiate."""
    y = f(*inputs)
    c, directions = draw(y.shape), [draw(t.shape) for t in inputs]
    y, first, second = derivatives(f, inputs, c, directions)
    case = {"op": op, "name": name, "options": options, "inputs": inputs, "output": y, "cotangent": c}
    case.update(gradients=first, directions=directions, second=second, **(extra or {}))
    return case


def project(seed, t):
    return [(fill(seed + k, t.shape) * t).sum().item() for k in range(PROJECTIONS)]


def wide(op, name, options, f, shapes):
    """One case of projections; tensor number i of inputs, cotangent, directions is fill(100 i, …)."""
    inputs = [fill(100 * (i + 1), shape) for i, shape in enumerate(shapes)]
    y = f(*inputs)
    c = fill(1000, y.shape)
    directions = [fill(2000 + 100 * (i + 1), shape) for i, shape in enumerate(shapes)]
    y, first, second = derivatives(f, inputs, c, directions)
    return {
        "op": op,
        "name": name,
        "options": options,
        "shapes": shapes,
        "output_shape": list(y.shape),
        "output": project(3000, y),
        "gradients": [project(4000 + 100 * i, g) for i, g in enumerate(first)],
        "second": [project(5000 + 100 * i, g) for i, g in enumerate(second)],
    }


def pair(x):
    return list(x) if isinstance(x, tuple) else [x, x]


# ---- convolutions: name, x, (outputs, kernel height, kernel width), stride, padding, dilation, groups, bias

CONVOLUTIONS = [
    ("one channel", (1, 1, 5, 5), (1, 3, 3), 1, 0, 1, 1, False),
    ("1x1", (2, 3, 3, 4), (2, 1, 1), 1, 0, 1, 1, True),
    ("1x1, stride 2", (2, 2, 5, 4), (3, 1, 1), 2, 0, 1, 1, False),
    ("1x1, padded", (1, 2, 2, 3), (2, 1, 1), 1, 1, 1, 1, True),
    ("kernel as large as the input", (3, 2, 4, 5), (3, 4, 5), 1, 0, 1, 1, True),
    ("kernel as large as the padded input", (1, 1, 3, 2), (2, 5, 4), 1, 1, 1, 1, False),
    ("padding 1", (2, 2, 4, 5), (2, 3, 3), 1, 1, 1, 1, True),
    ("padding beyond the kernel", (1, 1, 2, 3), (1, 2, 2), 1, 3, 1, 1, True),
    ("5x5, padding 2", (2, 1, 6, 6), (2, 5, 5), 1, 2, 1, 1, True),
    ("stride 2, a row left over", (2, 1, 6, 7), (2, 3, 3), 2, 0, 1, 1, False),
    ("stride beyond the kernel", (1, 2, 7, 5), (2, 2, 1), 3, 0, 1, 1, True),
    ("stride 3 by 2, padding 1 by 2", (1, 2, 7, 6), (2, 3, 4), (3, 2), (1, 2), 1, 1, False),
    ("stride 1 by 2, padding 2 by 1", (1, 2, 5, 4), (2, 3, 2), (1, 2), (2, 1), 1, 1, True),
    ("dilation 2", (1, 2, 7, 7), (2, 3, 3), 1, 2, 2, 1, False),
    ("dilation 1 by 3, stride 2 by 1", (2, 1, 5, 9), (2, 2, 3), (2, 1), (0, 2), (1, 3), 1, True),
    ("two groups", (1, 4, 4, 4), (4, 3, 3), 1, 1, 1, 2, True),
    ("depthwise", (2, 3, 5, 4), (3, 3, 3), 1, 1, 1, 3, False),
    ("depthwise, two outputs each", (1, 2, 4, 5), (4, 2, 3), 1, 0, 1, 2, True),
    ("two groups, stride 2, dilation 2", (1, 4, 7, 6), (2, 3, 2), 2, 2, 2, 2, True),
    ("a row", (1, 2, 3, 7), (2, 1, 5), 1, 0, 1, 1, True),
    ("a column", (1, 2, 7, 3), (2, 5, 1), 1, (1, 0), 1, 1, False),
    ("batch 17", (17, 1, 3, 3), (1, 2, 2), 1, 0, 1, 1, False),
    ("batch 17, padded", (17, 2, 2, 3), (2, 3, 3), 1, 1, 1, 1, True),
]

WIDE_CONVOLUTIONS = [
    ("LeNet's first", (70, 1, 28, 28), (6, 5, 5), 1, 2, 1, 1, True),
    ("LeNet's second", (65, 6, 14, 14), (16, 5, 5), 1, 0, 1, 1, True),
    ("stride 2", (130, 3, 9, 11), (8, 3, 3), 2, 1, 1, 1, True),
    ("four groups, dilation 2", (66, 8, 8, 7), (12, 3, 3), 1, 2, 2, 4, False),
    ("1x1, many channels", (9, 40, 5, 6), (33, 1, 1), 1, 0, 1, 1, True),
    ("large image, batch 1", (1, 3, 65, 47), (5, 7, 3), (2, 1), (3, 1), 1, 1, True),
    ("batch 64, many channels", (64, 16, 7, 7), (24, 3, 3), 1, 1, 1, 1, False),
]


def convolution(stride, padding, dilation, groups):
    return lambda x, w, b=None: F.conv2d(x, w, b, stride, padding, dilation, groups)


def convolutions(table, make, prepare):
    cases = []
    for name, x, (outputs, kh, kw), stride, padding, dilation, groups, bias in table:
        shapes = [list(x), [outputs, x[1] // groups, kh, kw]] + ([[outputs]] if bias else [])
        options = {"stride": pair(stride), "pad": pair(padding), "dilation": pair(dilation), "groups": groups}
        f = convolution(pair(stride), pair(padding), pair(dilation), groups)
        cases.append(make("conv2d", name, options, f, prepare(shapes)))
    return cases


# ---- pooling: name, x, size, stride, padding, count_include_pad

POOLS = [
    ("2x2", (2, 2, 4, 6), 2, 2, 0),
    ("2x2, odd sizes", (1, 2, 5, 7), 2, 2, 0),
    ("3x3, stride 2, overlapping", (2, 1, 7, 7), 3, 2, 0),
    ("3x3, stride 2, padding 1", (1, 2, 6, 7), 3, 2, 1),
    ("3x2, stride 1 by 3, padding 1 by 0", (1, 2, 5, 8), (3, 2), (1, 3), (1, 0)),
    ("stride beyond the size", (1, 1, 7, 8), 2, 3, 0),
    ("as large as the input", (3, 2, 4, 3), (4, 3), (4, 3), 0),
    ("1x1", (1, 2, 3, 3), 1, 1, 0),
    ("batch 17", (17, 1, 3, 4), 2, 1, 1),
]

WIDE_POOLS = [
    ("LeNet's", (70, 6, 28, 28), 2, 2, 0),
    ("3x3, stride 2, padding 1", (67, 5, 9, 10), 3, 2, 1),
]


def pools(table, make, prepare):
    cases = []
    for name, x, size, stride, padding in table:
        size, stride, padding = pair(size), pair(stride), pair(padding)
        options = {"size": size, "stride": stride, "pad": padding}
        shapes = [list(x)]
        f = lambda x: F.max_pool2d(x, size, stride, padding)  # noqa: E731
        cases.append(make("max_pool2d", name, options, f, prepare(shapes)))
        for count in (True, False) if padding != [0, 0] else (True,):
            f = lambda x: F.avg_pool2d(x, size, stride, padding, count_include_pad=count)  # noqa: E731
            cases.append(make("avg_pool2d", name, dict(options, count_include_pad=count), f, prepare(shapes)))
    return cases


def tied_pools():
    """Inputs of few distinct values: which of equal elements gets the cotangent."""
    cases = []
    for name, shape, size, stride, padding in [
        ("ties, 2x2", (2, 2, 4, 4), 2, 2, 0),
        ("ties, 3x3, overlapping, padding 1", (1, 2, 6, 5), 3, 2, 1),
        ("all equal", (1, 1, 4, 5), (2, 3), 1, 0),
    ]:
        x = torch.randint(0, 1 if name == "all equal" else 2, shape, generator=generator).double() - 1
        options = {"size": pair(size), "stride": pair(stride), "pad": pair(padding)}
        f = lambda x: F.max_pool2d(x, pair(size), pair(stride), pair(padding))  # noqa: E731
        cases.append(small("max_pool2d", name, options, f, [x]))
    return cases


# ---- normalization: inputs x, weight, bias


def batch_norms():
    cases = []
    for shape in ((6, 3), (4, 2, 3), (3, 2, 2, 3), (17, 1, 2, 1)):
        mean, variance = draw((shape[1],)), draw((shape[1],)).abs() + 0.5
        for mode in ("update", "batch", "running"):
            inputs = [draw(shape), draw((shape[1],)), draw((shape[1],))]
            before = {"running_mean": mean, "running_var": variance}
            after = {key: value.clone() for key, value in before.items()}
            name = f"{'x'.join(map(str, shape))}, {mode} statistics"
            if mode == "update":
                F.batch_norm(inputs[0], after["running_mean"], after["running_var"], training=True, momentum=0.1)
            if mode == "running":
                f = lambda x, w, b: F.batch_norm(x, mean, variance, w, b, training=False)  # noqa: E731
            else:
                f = lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True)  # noqa: E731
            options = {"mode": mode, "eps": 1e-5, "momentum": 0.1}
            cases.append(small("batch_norm", name, options, f, inputs, {"before": before, "after": after}))
    return cases


def other_norms():
    cases = []
    for shape, axes in (((5, 7), 1), ((2, 3, 4), 1), ((2, 3, 4), 2), ((3, 2, 3, 2), 3)):
        sizes = list(shape[-axes:])
        f = lambda x, w, b: F.layer_norm(x, sizes, w, b)  # noqa: E731
        options = {"sizes": sizes, "eps": 1e-5}
        name = f"{len(shape)}-d, {axes} axes"
        cases.append(small("layer_norm", name, options, f, [draw(shape), draw(sizes), draw(sizes)]))
    for shape, groups in (((2, 4, 3, 2), 2), ((3, 3, 2, 2), 3), ((2, 6, 5), 1), ((4, 6), 3)):
        sizes = [shape[1]]
        f = lambda x, w, b: F.group_norm(x, groups, w, b)  # noqa: E731
        options = {"groups": groups, "channels": shape[1], "eps": 1e-5}
        name = f"{len(shape)}-d, {groups} groups"
        cases.append(small("group_norm", name, options, f, [draw(shape), draw(sizes), draw(sizes)]))
    return cases


def embeddings():
    cases = []
    for count, width, shape in ((7, 3, (5,)), (4, 5, (2, 6)), (3, 1, (2, 2, 2))):
        index = torch.randint(0, count, shape, generator=generator)
        f = lambda w: F.embedding(index, w)  # noqa: E731
        options, name = {"count": count, "width": width}, f"{count} rows, {len(shape)}-d indices"
        cases.append(small("embedding", name, options, f, [draw((count, width))], {"index": index}))
    return cases


def main():
    torch.set_num_threads(1)

    def drawn(shapes):
        return [draw(shape) for shape in shapes]

    cases = convolutions(CONVOLUTIONS, small, drawn) + pools(POOLS, small, drawn) + tied_pools()
    norms = batch_norms() + other_norms() + embeddings()
    wide_cases = convolutions(WIDE_CONVOLUTIONS, wide, list) + pools(WIDE_POOLS, wide, list)
    made = f"in f64 by PyTorch {torch.__version__}, seed {SEED}: made by make_conv.py, which says what the fields mean."
    write("conv.lua", ["Convolutions and pooling", made], {"cases": cases, "wide": wide_cases})
    write("norm.lua", ["Normalization and embedding", made], {"cases": norms})


if __name__ == "__main__":
    main()
