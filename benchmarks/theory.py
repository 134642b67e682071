"""The closed forms against the dense or sampled peer that gives the same numbers: ratios, interleaved in one process.

`python benchmarks/theory.py` prints, for each pair, the median over rounds of peer time / closed-form time. A peer that
would need more draws for the same error than are run is timed on those, and its time is scaled up. With `--record` the
comparisons over sizes, those with other libraries by name too, go to the figures of `docs/hardening.md`, and nothing
else is compared. curvlinops comes with the package, the others with `pip install pyhessian
backpack-for-pytorch`.
"""

import argparse
import importlib.metadata
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from allora_analysis import deviation, dropout_sgd, hessian, width
from allora_analysis.ripple.mean_field import moments
from allora_analysis.ripple.transformer import Design, draw, forward

ROUNDS = 7


def factor_problem(n: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, Any]:
    """X, G and A, and as tensors X and Y such that dL/dW = G at W = 0."""
    import torch

    rng = np.random.default_rng(0)
    x, g, a = rng.standard_normal((2 * n, n)), rng.standard_normal((n, n)), rng.standard_normal((rank, n))
    return x, g, a, torch.tensor(x), torch.tensor(-np.linalg.pinv(x.T) @ g.T / 2)


def factor_pair(n: int = 24, rank: int = 4) -> tuple[Callable, Callable]:
    """The spectrum of LoRA's Hessian at B = 0: closed form; eigenvalues of torch.func's dense Hessian."""
    import torch

    x, g, a, data, target = factor_problem(n, rank)
    start = torch.cat([torch.zeros(n * rank, dtype=torch.float64), torch.tensor(a).ravel()])

    def loss(theta: torch.Tensor) -> torch.Tensor:
        b, own = theta[: n * rank].view(n, rank), theta[n * rank :].view(rank, n)
        return (data @ own.T @ b.T - target).square().sum()

    def dense() -> np.ndarray:
        return torch.linalg.eigvalsh(torch.func.hessian(loss)(start)).numpy()

    np.testing.assert_allclose(hessian.factor_spectrum(x, g, a), dense(), atol=1e-9 * n**2)
    return lambda: hessian.factor_spectrum(x, g, a), dense


def factor_network(n: int, rank: int = 4) -> tuple[Callable, Any, Any, Any]:
    """The closed form, and the same loss as other libraries want it: two linear layers, x and y."""
    import torch

    x, g, a, data, target = factor_problem(n, rank)
    model = torch.nn.Sequential(torch.nn.Linear(n, rank, bias=False), torch.nn.Linear(rank, n, bias=False)).double()
    model[0].weight.data.copy_(torch.tensor(a))
    model[1].weight.data.zero_()
    return lambda: hessian.factor_spectrum(x, g, a), model, data, target


def curvlinops_pair(n: int) -> tuple[Callable, Callable]:
    """Both ends of LoRA's spectrum: curvlinops' Hessian in SciPy's Lanczos, to 1e-9; the closed form has all of it."""
    import torch
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    ours, model, data, target = factor_network(n)
    loss, parameters = torch.nn.MSELoss(reduction="sum"), list(model.parameters())

    def peer() -> np.ndarray:
        operator = HessianLinearOperator(model, loss, parameters, [(data, target)], check_deterministic=False)
        return eigsh(operator.to_scipy(), 2, which="BE", tol=1e-9, return_eigenvectors=False)

    ends = ours()[[0, -1]]
    np.testing.assert_allclose(np.sort(peer()), ends, rtol=0, atol=1e-9 * np.abs(ends).max())
    return ours, peer


def pyhessian_pair(n: int) -> tuple[Callable, Callable]:
    """The largest eigenvalue of LoRA's Hessian: PyHessian's power iteration, to 1e-5; the closed form has all."""
    import torch
    from pyhessian import hessian as peers_hessian

    ours, model, data, target = factor_network(n)

    def peer() -> float:
        model.zero_grad()
        torch.set_default_dtype(torch.float64)
        try:
            made = peers_hessian(model, torch.nn.MSELoss(reduction="sum"), data=(data, target), cuda=False)
            return made.eigenvalues(maxIter=10_000, tol=1e-9)[0][0]
        finally:
            torch.set_default_dtype(torch.float32)

    np.testing.assert_allclose(peer(), ours()[-1], rtol=1e-5)
    return ours, peer


def backpack_pair(n: int) -> tuple[Callable, Callable]:
    """The trace of LoRA's Hessian: BackPACK's exact diagonal; the sum of the closed form's spectrum."""
    import torch
    from backpack import backpack, extend
    from backpack.extensions import DiagHessian

    ours, model, data, target = factor_network(n)
    extended, loss = extend(model), extend(torch.nn.MSELoss(reduction="sum"))

    def peer() -> float:
        extended.zero_grad()
        with backpack(DiagHessian()):
            loss(extended(data), target).backward()
        return sum(float(parameter.diag_h.sum()) for parameter in extended.parameters())

    np.testing.assert_allclose(peer(), ours().sum(), rtol=1e-9)
    return ours, peer


def product_pair(d: int = 60, c: int = 10) -> tuple[Callable, Callable]:
    """The Hessian in V: eigenvalues of XᵀX, repeated; dense eigenvalues of 2 I ⊗ XᵀX."""
    x = np.random.default_rng(1).standard_normal((100, d))
    dense = 2 * np.kron(np.eye(c), x.T @ x)
    np.testing.assert_allclose(hessian.product_spectrum(x, c), np.linalg.eigvalsh(dense), atol=1e-9 * d**2)
    return lambda: hessian.product_spectrum(x, c), lambda: np.linalg.eigvalsh(dense)


DRAWS, ACCURACY = 2_000, 1e-3


def deviation_pair(rows: int = 8, n: int = 64) -> tuple[Callable, Callable, float]:
    """E|L̄_n − E L|: the exact law, to 1e-9; sampling until its standard error is 1e-3 of the mean."""
    rng = np.random.default_rng(2)
    x, y, w = rng.standard_normal((rows, 4)), rng.standard_normal((rows, 2)), rng.standard_normal((4, 2))
    z = x @ w
    step = z * (z / 0.9 - 2 * y) / 0.9

    def sampled() -> np.ndarray:
        kept = rng.binomial(n, 0.9, size=(DRAWS, *z.shape))
        return np.abs(((kept / n - 0.9) * step).sum(axis=(1, 2)))

    draws, exact = sampled(), deviation.mean_absolute_deviation(x, y, w, 0.9, n)
    np.testing.assert_allclose(draws.mean(), exact, atol=6 * draws.std() / DRAWS**0.5)
    needed = (draws.std() / exact / ACCURACY) ** 2
    return lambda: deviation.mean_absolute_deviation(x, y, w, 0.9, n), sampled, needed / DRAWS


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
    """One run's time of the processor: what else is at work on the machine counts little."""
    start = time.process_time()
    task()
    return time.process_time() - start


def over_sizes(name: str, make: Callable, sizes: dict[int, int], unit: str) -> tuple[list[list[str]], str]:
    """Prints both times at each size, their ratio, and how each grows: the slope of log time over the larger sizes.

    Returns:
        A row for each size, and the growth in words.
    """
    times = {}
    for size, argument in sizes.items():
        ours, peer, *scale = make(argument)
        ours(), peer()
        rounds = [(seconds(peer), min(seconds(ours) for _ in range(3))) for _ in range(3)]
        theirs, own = (median(column) for column in zip(*rounds, strict=True))
        times[size] = theirs * (scale[0] if scale else 1.0), own
        ratio = times[size][0] / own
        print(
            f"{name} at {size:6,d} {unit}: {own:8.4f} s, peer {times[size][0]:8.3f} s, {ratio:8.1f} times", flush=True
        )
    last = sorted(times)[-3:]
    peers, own = (np.polyfit(np.log(last), np.log([times[size][i] for size in last]), 1)[0] for i in (0, 1))
    print(f"{name}: time grows as {unit} to the {own:.1f}, the peer's to the {peers:.1f}")
    rows = [
        [name, f"{size:,} {unit}", f"{own_time:.2g}", f"{peer:.3g}", f"{peer / own_time:,.2g}" if peer < 10 * own_time
         else f"{peer / own_time:,.0f}"]
        for size, (peer, own_time) in times.items()
    ]  # fmt: skip
    return rows, f"{unit} to the {own:.1f} (the peer's to the {peers:.1f})"


NAMED = {
    "curvlinops-for-pytorch": (curvlinops_pair, "both ends of the spectrum to 1e-9, curvlinops {} and SciPy's Lanczos"),
    "pyhessian": (pyhessian_pair, "the largest eigenvalue to 1e-5, PyHessian {}"),
    "backpack-for-pytorch": (backpack_pair, "the trace, BackPACK {}"),
}
SIZES = {8 * n: n for n in (24, 64, 128)}
LEFT_OUT = "Opacus is left out: it computes the gradients of single examples, and no closed form here is one of them."


def compared() -> tuple[list[list[str]], list[str]]:
    """Over sizes: the rows, and how each pair grows."""
    found = [
        over_sizes("LoRA's spectrum, dense torch.func", factor_pair, SIZES, "parameters"),
        over_sizes("exact deviation, draws to 1e-3", deviation_pair, {2 * n: n for n in (8, 100, 1_000)}, "N·C"),
    ]
    for package, (make, words) in NAMED.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package}: is not installed here")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other libraries' hooks say
            found.append(over_sizes(words.format(version), make, {8 * n: n for n in (64, 128, 256)}, "parameters"))
    return [row for rows, _ in found for row in rows], [growth for _, growth in found]


def keep(rows: list[list[str]], growth: list[str]) -> None:
    """The rows as a line of the page of what was tried."""
    from tests.hardening import record

    told = f"time grows as {growth[0]} and as {growth[1]}"
    heads = ["what", "size", "closed form, s", "peer, s", "times"]
    what = "closed forms against their peers at equal accuracy, over sizes"
    command = "python benchmarks/theory.py --record"
    record(
        "benchmarks",
        what,
        command,
        len(rows),
        f"sizes of {len(growth)} peers",
        told,
        "nothing",
        rows=[heads, *rows],
        note=LEFT_OUT,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", action="store_true", help="keep the comparisons over sizes, and end there")
    asked = parser.parse_args()
    rows, growth = compared()
    if asked.record:
        keep(rows, growth)
        raise SystemExit
    pairs = {"product_spectrum": product_pair, "trajectory": sgd_pair}
    pairs |= {"restricted_spectrum": start_pair, "flow_row_norm": width_pair}
    pairs["factor_flow"] = factor_flow_pair
    pairs |= {"moments": transformer_pair}
    for name, make in pairs.items():
        ours, peer, *scale = make()
        ours(), peer()  # warm-up
        ratios = [(seconds(peer), seconds(ours)) for _ in range(ROUNDS)]
        quotient = median(theirs / own for theirs, own in ratios) * (scale[0] if scale else 1.0)
        print(f"{name:24s} peer / closed form = {quotient:8.1f}   ({make.__doc__.splitlines()[0]})")
