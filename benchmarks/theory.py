"""The closed forms against the dense or sampled peer that gives the same numbers: ratios, interleaved in one process.

`python benchmarks/theory.py` prints, for each pair, the median over rounds of peer time / closed-form time. A peer that
would need more draws for the same error than are run is timed on those, and its time is scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from allora_analysis import deviation, dropout_sgd, hessian, width
from allora_analysis.ripple.mean_field import moments
from allora_analysis.ripple.transformer import Design, draw, forward

ROUNDS = 7


def factor_pair(n: int = 24, rank: int = 4) -> tuple[Callable, Callable]:
    """The spectrum of LoRA's Hessian at B = 0: closed form; dense eigenvalues of the matrix it describes."""
    rng = np.random.default_rng(0)
    x, g, a = rng.standard_normal((2 * n, n)), rng.standard_normal((n, n)), rng.standard_normal((rank, n))
    coupling = np.kron(np.eye(rank), g)  # dL/dB's dependence on A, both flattened rank first
    curvature = 2 * np.kron(a @ x.T @ x @ a.T, np.eye(n))
    dense = np.block([[np.zeros((rank * n, rank * n)), coupling.T], [coupling, curvature]])
    np.testing.assert_allclose(hessian.factor_spectrum(x, g, a), np.linalg.eigvalsh(dense), atol=1e-9 * n**2)
    return lambda: hessian.factor_spectrum(x, g, a), lambda: np.linalg.eigvalsh(dense)


def product_pair(d: int = 60, c: int = 10) -> tuple[Callable, Callable]:
    """The Hessian in V: eigenvalues of XᵀX, repeated; dense eigenvalues of 2 I ⊗ XᵀX."""
    x = np.random.default_rng(1).standard_normal((100, d))
    dense = 2 * np.kron(np.eye(c), x.T @ x)
    np.testing.assert_allclose(hessian.product_spectrum(x, c), np.linalg.eigvalsh(dense), atol=1e-9 * d**2)
    return lambda: hessian.product_spectrum(x, c), lambda: np.linalg.eigvalsh(dense)


def deviation_pair(n: int = 64) -> tuple[Callable, Callable]:
    """E|L̄_n − E L|: the exact law; 20,000 draws, which give it to about 0.6 % only."""
    rng = np.random.default_rng(2)
    x, y, w = rng.standard_normal((8, 4)), rng.standard_normal((8, 2)), rng.standard_normal((4, 2))
    z = x @ w
    step = z * (z / 0.9 - 2 * y) / 0.9

    def sampled() -> float:
        kept = rng.binomial(n, 0.9, size=(20_000, *z.shape))
        return np.abs(((kept / n - 0.9) * step).sum(axis=(1, 2))).mean()

    return lambda: deviation.mean_absolute_deviation(x, y, w, 0.9, n), sampled


def sgd_pair(steps: int = 100) -> tuple[Callable, Callable]:
    """Mean and covariance of SGD under dropout: exact; 1,000 replicas, which give the trace to about 4 % only."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((40, 20)), rng.standard_normal((40, 1))
    rate = 0.2 / np.linalg.norm(x, 2) ** 2

    def sampled() -> np.ndarray:
        w = np.zeros((1000, 20, 1))
        for _ in range(steps):
            mask = (rng.random((1000, 40, 1)) < 0.9) / 0.9
            w -= 2 * rate * x.T @ (mask * (mask * (x @ w) - y))
        return w.var(axis=0)

    return lambda: dropout_sgd.trajectory(x, y, 0.9, rate, steps, "output"), sampled


def start_pair(n: int = 24, rank: int = 4) -> tuple[Callable, Callable]:
    """Eigenvalues without the rescalings at A = 0: closed form; the dense Hessian with them projected out."""
    rng = np.random.default_rng(4)
    x, g, b = rng.standard_normal((2 * n, n)), rng.standard_normal((n, n)), rng.standard_normal((n, rank))
    a, tiny = np.zeros((rank, n)), 1e-300 * np.ones((rank, n))  # not exactly 0: the general route
    ours, peer = (hessian.restricted_spectrum(x, g, factor, b) for factor in (a, tiny))
    np.testing.assert_allclose(ours, peer, atol=1e-9 * n**2)
    return lambda: hessian.restricted_spectrum(x, g, a, b), lambda: hessian.restricted_spectrum(x, g, tiny, b)


def width_pair(n: int = 1024, rank: int = 4) -> tuple[Callable, Callable]:
    """The row norm where gradient flow ends: closed form; gradient descent on one layer, to about 5 %."""
    method = width.METHODS["lora"]
    of = width.layer(n, rank, 1, np.random.default_rng(5))
    rates = np.array([rank / n / 4])
    found = width.train(of, method, "sgd", rates, 100).norms
    np.testing.assert_allclose(np.sqrt((found**2).mean()), width.flow_row_norm(method, n, rank), rtol=0.1)
    return lambda: width.flow_row_norm(method, n, rank), lambda: width.train(of, method, "sgd", rates, 100)


FACTORS = {"step_size": 0.005, "steps": 1000, "replicas": 50, "coarse": 20_000, "times": 20}


def factor_flow_pair() -> tuple[Callable, Callable, float]:
    """SGD under dropout in A and B: the limit equations; simulation until its error in tr Cov is as small."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((40, 20)), rng.standard_normal((40, 2))
    a, b, steps, replicas = (
        rng.standard_normal((2, 20)) / 20**0.5,
        np.zeros((2, 2)),
        FACTORS["steps"],
        FACTORS["replicas"],
    )
    rate = FACTORS["step_size"] / dropout_sgd.factor_flow(x, y, a, b, 0.9, 1e-9, 1).step_size * 1e-9

    def limit(times: int = 1) -> dropout_sgd.FactorFlow:
        return dropout_sgd.factor_flow(x, y, a, b, 0.9, times * rate, steps // times)

    def sampled(count: int = replicas, times: int = 1) -> tuple[float, float]:
        of = dropout_sgd.simulate_factors(
            x, y, a, b, 0.9, times * rate, steps // times, replicas=count, generator=rng, most_seconds=1e9
        )
        return tuple(float(part[0]) for part in of.covariance_trace())

    # The limit's relative error is of order l: at most what shows at many times the rate, and two standard errors, over
    # that many. So the quotient grows as l⁻³ at one time lT: steps as l⁻¹, replicas as l⁻².
    times = FACTORS["times"]
    trace, stderr = sampled(FACTORS["coarse"], times)
    error = (abs(limit(times).covariance_trace[-1] / trace - 1) + 2 * stderr / trace) / times
    needed = FACTORS["coarse"] * (stderr / trace / error) ** 2
    print(f"factor_flow: relative error of tr Cov at most {error:.2g}; a simulation needs {needed:,.0f} runs for that")
    return limit, sampled, needed / replicas


def transformer_pair(depth: int = 12, width: int = 64, replicas: int = 50) -> tuple[Callable, Callable]:
    """Mean square of a transformer's streams at random: a sum over blocks; 50 networks, which give it to about 10 %."""
    rng, design = np.random.default_rng(5), Design(heads=4, activation="relu")
    model, x = draw(design, depth, width, 8, 1.0, rng), np.full((1, width), 1.0)

    def sampled() -> float:
        runs = (forward(draw(design, depth, width, 8, 1.0, rng), x, 1.0) for _ in range(replicas))
        return float(np.mean([np.square(run.streams[-1]).mean() for run in runs]))

    np.testing.assert_allclose(np.exp(moments(model, 1.0).log_stream[-1]), sampled(), rtol=0.3)
    return lambda: moments(model, 1.0), sampled


def seconds(task: Callable) -> float:
    """One run's time."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    pairs = {"factor_spectrum": factor_pair, "product_spectrum": product_pair}
    pairs |= {"mean_absolute_deviation": deviation_pair, "trajectory": sgd_pair}
    pairs |= {"restricted_spectrum": start_pair, "flow_row_norm": width_pair}
    pairs["factor_flow"] = factor_flow_pair
    pairs |= {"moments": transformer_pair}
    for name, make in pairs.items():
        ours, peer, *scale = make()
        ours(), peer()  # warm-up
        ratios = [(seconds(peer), seconds(ours)) for _ in range(ROUNDS)]
        quotient = median(theirs / own for theirs, own in ratios) * (scale[0] if scale else 1.0)
        print(f"{name:24s} peer / closed form = {quotient:8.1f}   ({make.__doc__.splitlines()[0]})")
