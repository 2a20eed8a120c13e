"""Makes draws.lua: quantiles of distributions, and derivatives of gamma quantiles by the shape, by mpmath in 40 digits.

`quantiles`: for each case the values x with F(x) = p at p = 1/32 … 31/32, of gamma as log x (small shapes leave the
range of floating-point numbers). `slopes`: shape a, log x, and d log x / d a at fixed F, by central differences of F.

    python3 tests/golden/make_draws.py        (mpmath; and golden.py's PyTorch, for its writer only)
"""

import mpmath
from golden import write
from mpmath import mp, mpf

mp.dps = 40
SHARES = [mpf(i) / 32 for i in range(1, 32)]


def solve(function, share, low, high):
    """x in [low, high] with function(x) = share, for an increasing function."""
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < share else (low, middle)
    return float((low + high) / 2)


def gamma_below(a, log_x):
    return mpmath.gammainc(a, 0, mp.e**log_x, regularized=True)


def log_gamma_quantile(a, p):
    width = 12 / mp.sqrt(a) if a >= 1 else 12 / a
    return solve(lambda t: gamma_below(a, t), p, mp.log(a) - width, mp.log(a) + min(width, 4))


def student_below(df, x):
    tail = mpmath.betainc(mpf(df) / 2, mpf(1) / 2, 0, df / (df + x * x), regularized=True) / 2
    return tail if x < 0 else 1 - tail


def normal_below(x):
    return mpmath.ncdf(x)


def truncated_below(mean, std, low, high, x):
    first, last = normal_below((low - mean) / std), normal_below((high - mean) / std)
    return (normal_below((x - mean) / std) - first) / (last - first)


def laplace_quantile(p):
    return float(mp.log(2 * p)) if p <= 0.5 else float(-mp.log(2 * (1 - p)))


def cases():
    found = []

    def add(name, parameters, quantile):
        found.append({"name": name, "parameters": parameters, "x": [quantile(p) for p in SHARES]})

    add("exponential", [], lambda p: float(-mp.log(1 - p)))
    add("laplace", [], laplace_quantile)
    for a in ("0.05", "0.5", "1", "3", "100"):
        shape = mpf(a)
        add("log gamma", [float(a)], lambda p: log_gamma_quantile(shape, p))
    for df in (1, 3, 30):
        add("student_t", [df], lambda p: solve(lambda t: student_below(df, t), p, mpf(-1000), mpf(1000)))
    for a, b in (("0.5", "0.5"), ("2", "5")):
        below = lambda t: mpmath.betainc(mpf(a), mpf(b), 0, t, regularized=True)  # noqa: E731
        add("beta", [float(a), float(b)], lambda p: solve(below, p, mpf(0), mpf(1)))
    for mean, std, low, high in ((0, 1, -2, 2), (1, 2, 3, 4)):
        below = lambda t: truncated_below(mpf(mean), mpf(std), low, high, t)  # noqa: E731
        add("truncated_normal", [mean, std, low, high], lambda p: solve(below, p, mpf(low), mpf(high)))
    return found


def slopes():
    found = []
    for a in ("0.001", "0.05", "0.5", "1", "3", "17.5", "100", "900", "1100", "5000"):
        shape = mpf(a)
        for p in ("0.001", "0.2", "0.5", "0.9", "0.9999"):
            log_x = mpf(log_gamma_quantile(shape, mpf(p)))
            h = shape * mpf(10) ** -12
            by_shape = (gamma_below(shape + h, log_x) - gamma_below(shape - h, log_x)) / (2 * h)
            density = mp.e ** (shape * log_x - mp.e**log_x - mpmath.loggamma(shape))
            found.append([float(a), float(log_x), float(-by_shape / density)])
    return found


def main():
    made = f"by mpmath {mpmath.__version__} in {mp.dps} digits: made by make_draws.py, which says what the fields mean."
    write("draws.lua", ["Quantiles of distributions", made], {"quantiles": cases(), "slopes": slopes()})


if __name__ == "__main__":
    main()
