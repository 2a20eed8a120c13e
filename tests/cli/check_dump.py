"""Compute the steps of a `perigee dump` again, with nothing but Python's own library.

    python3 check_dump.py FILE

For SGD with momentum, SVRG, IVON and IVON-PoCo on a perceptron (linear, tanh, linear; cross-entropy). Prints the
largest difference of each step, absolute below 1 and relative above, and fails if one is larger than 1e-12.
"""
import json
import math
import struct
import sys

TYPES = {"F64": "d", "F32": "f", "I64": "q", "I32": "i"}


def read(path):
    """A safetensors file as name -> (shape, flat list of numbers)."""
    with open(path, "rb") as file:
        content = file.read()
    (size,) = struct.unpack_from("<Q", content)
    tensors = {}
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            kind = TYPES[entry["dtype"]]
            count = (last - first) // struct.calcsize(kind)
            tensors[name] = (entry["shape"], list(struct.unpack_from(f"<{count}{kind}", content, 8 + size + first)))
    return tensors


PARAMETERS = ["1.weight", "1.bias", "3.weight", "3.bias"]


class Step:
    """What the dump says of one step; vectors are flat lists over all parameters."""

    def __init__(self, tensors, prefix):
        self.tensors, self.prefix = tensors, prefix
        self.shapes = [tensors[f"{prefix}before.q.mean.{name}"][0] for name in PARAMETERS]

    def has(self, name):
        return any(key.startswith(self.prefix + name) for key in self.tensors)

    def vector(self, name):
        return [x for part in PARAMETERS for x in self.tensors[f"{self.prefix}{name}.{part}"][1]]

    def numbers(self, name):
        return self.tensors[self.prefix + name][1]

    def number(self, name, default=None):
        return self.numbers(name)[0] if self.prefix + name in self.tensors else default


def gradient(step, theta):
    """The gradient of the mean cross-entropy of the step's batch at theta."""
    (inputs, hidden), outputs = step.shapes[0], step.shapes[2][1]
    parts, at = [], 0
    for shape in step.shapes:
        count = math.prod(shape)
        parts.append(theta[at : at + count])
        at += count
    w1, b1, w2, b2 = parts
    g1, gb1, g2, gb2 = ([0.0] * len(part) for part in parts)
    xs, labels = step.numbers("batch.x"), step.numbers("batch.y")
    n = len(labels)
    for row, label in enumerate(labels):
        x = xs[row * inputs : (row + 1) * inputs]
        a = [math.tanh(b1[j] + sum(x[i] * w1[i * hidden + j] for i in range(inputs))) for j in range(hidden)]
        z = [b2[k] + sum(a[j] * w2[j * outputs + k] for j in range(hidden)) for k in range(outputs)]
        top = max(z)
        total = sum(math.exp(v - top) for v in z)
        dz = [(math.exp(z[k] - top) / total - (k == label)) / n for k in range(outputs)]
        for j in range(hidden):
            da = sum(dz[k] * w2[j * outputs + k] for k in range(outputs)) * (1 - a[j] ** 2)
            gb1[j] += da
            for i in range(inputs):
                g1[i * hidden + j] += x[i] * da
            for k in range(outputs):
                g2[j * outputs + k] += a[j] * dz[k]
        for k in range(outputs):
            gb2[k] += dz[k]
    return g1 + gb1 + g2 + gb2


def statistics(step, number, mean, h):
    """{g} or {g, h} of evaluation `number` at the posterior (mean, h), with the noise of the dump."""
    if h is None:
        return {"g": gradient(step, mean)}
    ess, decay = step.number("hyper.family.ess"), step.number("hyper.weight_decay")
    scale = [math.sqrt(ess * (v + decay)) for v in h]
    sums, samples = {"g": [0.0] * len(mean), "h": [0.0] * len(mean)}, 0
    while step.has(f"evaluation.{number}.sample.{samples + 1}."):
        samples += 1
        eps = step.vector(f"evaluation.{number}.sample.{samples}.noise")
        g = gradient(step, [m + e / s for m, e, s in zip(mean, eps, scale)])
        sums["g"] = [a + b for a, b in zip(sums["g"], g)]
        sums["h"] = [a + b * e * s for a, b, e, s in zip(sums["h"], g, eps, scale)]
    return {field: [v / samples for v in values] for field, values in sums.items()}


def corrected(step, mean, h):
    """The statistics that the rule gets."""
    now = statistics(step, 1, mean, h)
    if not step.has("evaluation.2."):
        return now
    at_h = step.vector("after.correction.at.h") if h else None
    old = statistics(step, 2, step.vector("after.correction.at.mean"), at_h)
    alpha = step.number("hyper.correction.alpha")
    out = {}
    for field in now:
        full = step.vector(f"after.correction.mean.{field}")
        out[field] = [(a - alpha * b) + alpha * c for a, b, c in zip(now[field], old[field], full)]
    return out


def sgd(step, mean, stats):
    """SGD with momentum: new mean, new buffer."""
    decay, momentum, lr = (step.number("hyper." + name) for name in ("weight_decay", "rule.momentum", "rule.lr"))
    g = [a + decay * p for a, p in zip(stats["g"], mean)]
    buffer = [momentum * b + a for a, b in zip(g, step.vector("before.rule.buf"))]
    return [p - lr * b for p, b in zip(mean, buffer)], {"rule.buf": buffer}


def ivon(step, mean, h, stats):
    """IVON, algorithm 1 of Shen et al. 2024: new mean, new h and momentum."""
    decay, beta1, beta2 = (step.number("hyper." + name) for name in ("weight_decay", "rule.beta1", "family.beta2"))
    new_h = [
        beta2 * a + (1 - beta2) * b + 0.5 * (1 - beta2) ** 2 * (a - b) ** 2 / (a + decay) for a, b in zip(h, stats["h"])
    ]
    m = [beta1 * a + (1 - beta1) * g for a, g in zip(step.vector("before.rule.m"), stats["g"])]
    bias = 1 - beta1 ** step.number("hyper.t")
    lr = step.number("hyper.rule.lr") * (step.number("hyper.family.h0") + decay)
    new = [p - lr * (a / bias + decay * p) / (b + decay) for p, a, b in zip(mean, m, new_h)]
    return new, {"q.h": new_h, "rule.m": m}


def difference(a, b):
    return max(abs(x - y) / max(1, abs(y)) for x, y in zip(a, b))


def check(step):
    """The largest difference between the step of the dump and our own."""
    mean = step.vector("before.q.mean")
    h = step.vector("before.q.h") if step.has("before.q.h") else None
    stats = corrected(step, mean, h)
    worst = max(difference(stats[field], step.vector(f"statistics.{field}")) for field in stats)
    new, others = ivon(step, mean, h, stats) if h else sgd(step, mean, stats)
    others["q.mean"] = new
    return max([worst] + [difference(values, step.vector("after." + name)) for name, values in others.items()])


def main(path):
    tensors = read(path)
    prefixes = sorted({name[: name.index(".after.") + 1] for name in tensors if ".after." in name})
    worst = 0.0
    for prefix in prefixes:
        found = check(Step(tensors, prefix))
        worst = max(worst, found)
        print(f"{prefix[:-1]}: {found:.1e}")
    return 0 if prefixes and worst <= 1e-12 else 1


sys.exit(main(sys.argv[1]))
