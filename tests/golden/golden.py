"""What the scripts that make golden data share: numbers both sides can make, and Lua text.

`mix` is a counter-based hash of 32 bits; tests/lua/golden.lua has the same one, so what it makes need not be stored.
"""

import os

import numpy
import torch

MASK = numpy.uint64(0xFFFFFFFF)


def mix(seed, count):
    """32-bit words number 0 … count - 1 of a stream."""
    h = (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(seed * 0x9E3779B9 & 0xFFFFFFFF)) & MASK
    for _ in range(2):
        h = ((h ^ (h >> numpy.uint64(16))) * numpy.uint64(0x45D9F3B)) & MASK
    return h ^ (h >> numpy.uint64(16))


def fill(seed, shape):
    """A tensor of multiples of 2^-10 in [-2, 2), exact in f32 and f64."""
    words = (mix(seed, int(numpy.prod(shape))) >> numpy.uint64(20)).astype(numpy.float64)
    return torch.from_numpy(((words - 2048) / 1024).reshape(shape))


def lua(value):
    """A Python value as a Lua expression on one line. 15 digits of a float: what repr adds is rounding noise."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "%.15g" % value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"%s"' % value
    if isinstance(value, torch.Tensor):
        return "{shape=%s,data=%s}" % (lua(list(value.shape)), lua(value.flatten().tolist()))
    if isinstance(value, dict):
        return "{%s}" % ",".join(f"{key}={lua(item)}" for key, item in value.items())
    return "{%s}" % ",".join(lua(item) for item in value)


def write(name, what, fields):
    """Write a Lua module beside this script: comment lines, then a table of `fields`, lists one entry a line."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"-- {line}\n" for line in what)
        file.write("return {\n")
        for key, value in fields.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                file.write("%s = {\n%s},\n" % (key, "".join(lua(item) + ",\n" for item in value)))
            else:
                file.write(f"{key} = {lua(value)},\n")
        file.write("}\n")
    print(f"{path}: {os.path.getsize(path)} bytes")
