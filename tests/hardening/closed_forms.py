"""The closed forms that `numerics` compares with mpmath: how points are drawn, and the references.

The references are written from the mathematics and import nothing from the package.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np

from allora_analysis import adaptive, adaptors, deviation, dropout_sgd, escape, hessian, ripple, tikhonov
from allora_analysis.statistics.e_values import e_values

Arguments = tuple[Any, ...]


class Form(NamedTuple):
    """A closed form: how a point is drawn, the package's value and the reference's, and which corners it reaches."""

    draw: Callable[[np.random.Generator], Arguments]
    value: Callable[..., Any]
    reference: Callable[..., Any]
    corners: str


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    # Even in the exponent of ten.
    return float(10 ** rng.uniform(low, high))


def _near_one(rng: np.random.Generator) -> float:
    # A keep probability within 1e-12 of 0, or of 1, or between.
    kind = rng.integers(3)
    small = _log(rng, -12, -0.4)
    return small if kind == 0 else 1 - small if kind == 1 else float(rng.uniform(0.01, 1))


def _array(rng: np.random.Generator, *shape: int, spread: float = 6.0) -> np.ndarray:
    # Entries of either sign, of all sizes between 10^-spread and 10^spread.
    return rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-spread, spread, shape)


def _scalar(rng: np.random.Generator) -> Arguments:
    return _log(rng, -300, 250), _log(rng, -8, 8)


def _problem(rng: np.random.Generator) -> Arguments:
    n, d, c = (int(k) for k in rng.integers(1, 4, 3))
    return _array(rng, n, d, spread=3), _array(rng, n, c, spread=3), _array(rng, d, c, spread=3), _near_one(rng)


def _sum(terms: Any) -> mp.mpf:
    return mp.fsum(terms)


def _times(x: np.ndarray, w: np.ndarray) -> list[list[mp.mpf]]:
    # XW of matrices of exact numbers.
    return [[_sum(mp.mpf(a) * mp.mpf(b) for a, b in zip(row, column, strict=True)) for column in w.T] for row in x]


def _pairs(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[tuple[mp.mpf, mp.mpf]]:
    return [(mp.mpf(t), z) for row, fits in zip(y, _times(x, w), strict=True) for t, z in zip(row, fits, strict=True)]


def _k(keep_prob: float) -> mp.mpf:
    return (1 - mp.mpf(keep_prob)) / mp.mpf(keep_prob)


def _output_loss(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float) -> mp.mpf:
    return _sum((t - z) ** 2 + _k(keep_prob) * z**2 for t, z in _pairs(x, y, w))


def _input_loss(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float) -> mp.mpf:
    rest = _sum((t - z) ** 2 for t, z in _pairs(x, y, w))
    spread = _sum((mp.mpf(a) * mp.mpf(b)) ** 2 for row in x for a, weights in zip(row, w, strict=True) for b in weights)
    return rest + _k(keep_prob) * spread


def _output_std(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float) -> mp.mpf:
    p = mp.mpf(keep_prob)
    return mp.sqrt(_k(keep_prob) * _sum(z**2 * (z / p - 2 * t) ** 2 for t, z in _pairs(x, y, w)))


def _bottleneck(rng: np.random.Generator) -> Arguments:
    x, y, w, keep_prob = _problem(rng)
    return x, y, _array(rng, 2, w.shape[0]), _array(rng, w.shape[1], 2), keep_prob


def _bottleneck_loss(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, keep_prob: float) -> mp.mpf:
    hidden = _times(x, a.T)
    spread = _sum(
        _sum(row[j] ** 2 for row in hidden) * _sum(mp.mpf(entry) ** 2 for entry in b[:, j]) for j in range(len(a))
    )
    fits = [[_sum(h * mp.mpf(entry) for h, entry in zip(row, out, strict=True)) for out in b] for row in hidden]
    rest = _sum(
        (mp.mpf(t) - z) ** 2 for row, those in zip(y, fits, strict=True) for t, z in zip(row, those, strict=True)
    )
    return rest + _k(keep_prob) * spread


def _gradient_std(x: np.ndarray, y: np.ndarray, w: np.ndarray, keep_prob: float) -> mp.mpf:
    # Of the entry (0, 0).
    p, fits = mp.mpf(keep_prob), _times(x, w)
    squares = _sum(mp.mpf(x[i, 0]) ** 2 * (mp.mpf(y[i, 0]) - fits[i][0] / p) ** 2 for i in range(len(x)))
    return mp.sqrt(4 * _k(keep_prob) * squares)


def _input_solution(x: np.ndarray, y: np.ndarray, keep_prob: float) -> mp.mpf:
    # One feature: Σxy/(S(1 + k)) = p Σxy/S.
    cross = _sum(mp.mpf(a) * mp.mpf(t) for a, t in zip(x[:, 0], y[:, 0], strict=True))
    return mp.mpf(keep_prob) * cross / _sum(mp.mpf(a) ** 2 for a in x[:, 0])


def _column(rng: np.random.Generator) -> Arguments:
    n = int(rng.integers(1, 6))
    return np.abs(_array(rng, n, 1, spread=3)), np.abs(_array(rng, n, 1, spread=3)), _near_one(rng)


def _norms(rng: np.random.Generator) -> Arguments:
    depth = int(rng.integers(1, 60))
    return 10 ** rng.uniform(-20, 20, depth), 10 ** rng.uniform(-20, 20, depth), _log(rng, -8, 8)


def _deep(rng: np.random.Generator) -> Arguments:
    return int(_log(rng, 0, 6)), int(rng.integers(2, 200)), *_scales(rng)


def _scales(rng: np.random.Generator) -> Arguments:
    return _log(rng, -8, 8), _log(rng, -6, 6), _log(rng, -6, 6), _log(rng, -6, 6)


def _integral(of_log: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, steps: int) -> mp.mpf:
    # ∫ f(log t) d log t by the trapezoidal rule, whose error falls as exp(−c·steps) for what is analytic about the line
    # and dies off at both ends; checked against mpmath's own quadrature in tests/test_hardening.py.
    first, count = mp.floor(low * steps), int(mp.ceil(high * steps) - mp.floor(low * steps)) + 1
    t, ratio, values = mp.exp(first / steps), mp.exp(mp.mpf(1) / steps), []
    for _ in range(count):
        values.append(of_log(t))
        t *= ratio
    return _sum(values) / steps


def _added(rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> mp.mpf:
    # ½ E log(1 + ρχ²_r) = ½ ∫₀^∞ (1 − (1 + 2ρt)^(−r/2)) e^(−t)/t dt (Frullani).
    rho = (mp.mpf(eta) * mp.mpf(a_std) * mp.mpf(b_std) / mp.mpf(w_std)) ** 2

    def integrand(t: mp.mpf) -> mp.mpf:
        return -mp.expm1(-mp.mpf(rank) / 2 * mp.log1p(2 * rho * t)) * mp.exp(-t)

    return _integral(integrand, min(mp.mpf(0), -mp.log(2 * rho)) - 60, mp.mpf(5), 6) / 2  # to 1e-24


def _residual_mean(depth: int, width: int, eta: float, w_std: float, a_std: float, b_std: float) -> mp.mpf:
    n = mp.mpf(width)
    return n + depth * n**2 * (mp.mpf(w_std) ** 2 + (mp.mpf(eta) * mp.mpf(a_std) * mp.mpf(b_std)) ** 2)


def _adaptor(value: mp.mpf, eta: float) -> mp.mpf:
    return 1 / mp.sqrt(abs(value) + 1 / mp.mpf(eta) ** 2)


def _worst(weights: np.ndarray, adapters: np.ndarray, eta: float) -> mp.mpf:
    return _sum(mp.log(mp.mpf(w) + mp.mpf(eta) * mp.mpf(a)) for w, a in zip(weights, adapters, strict=True))


def _row(rng: np.random.Generator) -> Arguments:
    r = int(rng.integers(1, 4))
    return _array(rng, r, r + int(rng.integers(3))), _array(rng, r, r), _log(rng, -8, 8)


def _row_factor(a: np.ndarray, b: np.ndarray, eta: float) -> mp.mpf:
    return _adaptor(mp.sqrt(_sum(entry**2 for entry in _times(b[:1], a)[0])), eta)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> mp.mpf:
    # Two features, one output: the first weight, by Cramer's rule.
    s = [[_sum(mp.mpf(u) * mp.mpf(v) for u, v in zip(x[:, i], x[:, j], strict=True)) for j in (0, 1)] for i in (0, 1)]
    c = [_sum(mp.mpf(u) * mp.mpf(t) for u, t in zip(x[:, i], y[:, 0], strict=True)) for i in (0, 1)]
    a, d = s[0][0] + mp.mpf(penalty), s[1][1] + mp.mpf(penalty)
    return (d * c[0] - s[0][1] * c[1]) / (a * d - s[0][1] ** 2)


def _ridge_point(rng: np.random.Generator) -> Arguments:
    # Features at an angle down to 1e-6: a condition number of XᵀX to 1e12 before the penalty.
    angle, n = _log(rng, -6, 0), int(rng.integers(2, 6))
    first, other = rng.standard_normal(n), rng.standard_normal(n)
    return np.stack([first, first + angle * other], 1), rng.standard_normal((n, 1)), _log(rng, -2, 4)


def _least_eigenvalue(x: np.ndarray, outputs: int) -> mp.mpf:
    # 2s²_min of two columns: half of trace minus root, rationalized.
    s = _times(x.T, x)
    trace, determinant = s[0][0] + s[1][1], s[0][0] * s[1][1] - s[0][1] ** 2
    return 4 * determinant / (trace + mp.sqrt(trace**2 - 4 * determinant))


def _design(rng: np.random.Generator) -> Arguments:
    return np.stack([rng.standard_normal(2), rng.standard_normal(2)], 1) * _log(rng, -100, 100), 1


def _sgd_mean(x: np.ndarray, y: np.ndarray, keep_prob: float, rate: float, steps: int) -> mp.mpf:
    # One weight, output masks: p·(Σxy/S)·(1 − (1 − 2lS/p)^T), as E W' = W + 2l(Σxy − SW/p).
    size = _sum(mp.mpf(a) ** 2 for a in x[:, 0])
    cross = _sum(mp.mpf(a) * mp.mpf(t) for a, t in zip(x[:, 0], y[:, 0], strict=True))
    p = mp.mpf(keep_prob)
    return p * cross / size * (1 - (1 - 2 * mp.mpf(rate) * size / p) ** steps)


def _sgd(rng: np.random.Generator) -> Arguments:
    x, y, keep = np.abs(_array(rng, 3, 1, spread=2)), np.abs(_array(rng, 3, 1, spread=2)), float(rng.uniform(0.05, 1))
    return x, y, keep, keep / float((x**2).sum()) * _log(rng, -10, -0.5), int(rng.integers(1, 300))


def _growth_mean(width: int, rank: int, eta: float, w_std: float, a_std: float, b_std: float) -> mp.mpf:
    chi = mp.digamma(mp.mpf(width) / 2) + mp.log(2)
    return mp.log(mp.mpf(w_std)) + chi / 2 + _added(rank, eta, w_std, a_std, b_std)


def _t_ratio(differences: np.ndarray) -> mp.mpf:
    # e_{+½} after the last pair, by the integral itself: ∫₀^∞ u^(n−1) exp(−u²/2 + su) du.
    n, effect = len(differences), mp.mpf(1) / 2
    z = _sum(mp.mpf(d) for d in differences) / mp.sqrt(_sum(mp.mpf(d) ** 2 for d in differences))
    low, high = mp.log(n) / 2 - mp.mpf(75) / n, mp.log(mp.sqrt(n) + 16)

    def integral(slope: mp.mpf) -> mp.mpf:
        return _integral(lambda u: u**n * mp.exp(-(u**2) / 2 + slope * u), low, high, 24)

    return mp.exp(-n * effect**2 / 2) * integral(effect * z) / integral(mp.mpf(0))


def _differences(rng: np.random.Generator) -> Arguments:
    n = int(rng.integers(2, 30))
    return ((rng.standard_normal(n) + rng.uniform(-1, 1)) * _log(rng, -6, 6),)


def _level(t: float, g: float, eta: float) -> mp.mpf:
    # (3gt/2 + η⁻³)^(2/3) − η⁻², of which 50 digits may all cancel.
    with mp.workdps(120):
        return (3 * mp.mpf(g) * mp.mpf(t) / 2 + mp.mpf(eta) ** -3) ** (mp.mpf(2) / 3) - mp.mpf(eta) ** -2


FORMS = {
    "adaptors.inverse_sqrt": Form(
        _scalar,
        lambda x, eta: adaptors.inverse_sqrt(x, eta),
        lambda x, eta: _adaptor(mp.mpf(x), eta),
        "|x| 1e-300–1e250",
    ),
    "adaptors.inverse": Form(
        _scalar, adaptors.inverse, lambda x, eta: 1 / (mp.mpf(x) + 1 / mp.mpf(eta)), "|x| 1e-300–1e250, η 1e-8–1e8"
    ),
    "adaptors.exponential": Form(
        lambda rng: (eta := _log(rng, -8, 8), (_log(rng, -12, 2.5) / eta**2, eta))[1],
        adaptors.exponential,
        lambda x, eta: mp.mpf(eta) * mp.exp(-mp.mpf(x) * mp.mpf(eta) ** 2 / 2),
        "|x|η² 1e-12–300",
    ),
    "adaptive.asf": Form(
        _scalar, adaptive.asf, lambda f, eta: mp.mpf(f) * _adaptor(mp.mpf(f), eta), "|f| 1e-300–1e250, η 1e-8–1e8"
    ),
    "adaptive.asf_derivative": Form(
        _scalar,
        adaptive.asf_derivative,
        lambda f, eta: (mp.mpf(f) / 2 + 1 / mp.mpf(eta) ** 2) * _adaptor(mp.mpf(f), eta) ** 3,
        "|f| 1e-300–1e250, η 1e-8–1e8",
    ),
    "adaptive.row_factor": Form(_row, adaptive.row_factor, _row_factor, "entries 1e-6–1e6, η 1e-8–1e8"),
    "deviation.loss_moments, mean": Form(
        _problem, lambda *of: deviation.loss_moments(*of)[0], _output_loss, "keep_prob from 1e-12 to 1 − 1e-12"
    ),
    "deviation.loss_moments, std": Form(
        _problem, lambda *of: deviation.loss_moments(*of)[1], _output_std, "keep_prob from 1e-12 to 1 − 1e-12"
    ),
    "deviation.gradient_std": Form(
        _problem, lambda *of: deviation.gradient_std(*of)[0, 0], _gradient_std, "keep_prob from 1e-12 to 1 − 1e-12"
    ),
    "tikhonov.expected_loss, output": Form(
        _problem, lambda *of: tikhonov.expected_loss(*of, "output"), _output_loss, "keep_prob from 1e-12 to 1 − 1e-12"
    ),
    "tikhonov.expected_loss, input": Form(
        _problem, lambda *of: tikhonov.expected_loss(*of, "input"), _input_loss, "keep_prob from 1e-12 to 1 − 1e-12"
    ),
    "tikhonov.dropout_solution": Form(
        _column,
        lambda *of: tikhonov.dropout_solution(*of, "input")[0, 0],
        _input_solution,
        "one feature, keep_prob to 1e-12",
    ),
    "tikhonov.ridge_solution": Form(
        _ridge_point, lambda *of: tikhonov.ridge_solution(*of)[0, 0], _ridge, "two features, angle to 1e-6, λ 1e-2–1e4"
    ),
    "tikhonov.bottleneck_loss": Form(
        _bottleneck, tikhonov.bottleneck_loss, _bottleneck_loss, "keep_prob from 1e-12 to 1 − 1e-12, entries 1e-6–1e6"
    ),
    "dropout_sgd.trajectory, mean": Form(
        _sgd, lambda *of: dropout_sgd.trajectory(*of).mean[-1, 0, 0], _sgd_mean, "one weight, 1 to 300 steps"
    ),
    "statistics.e_values": Form(
        _differences, lambda d: e_values(d)[-1, 0], _t_ratio, "2 to 30 pairs, of size 1e-6–1e6"
    ),
    "escape.trajectory": Form(
        lambda rng: (_log(rng, -12, 12), _log(rng, -8, 8), _log(rng, -8, 8)),
        escape.trajectory,
        _level,
        "t 1e-12–1e12, g and η 1e-8–1e8",
    ),
    "escape.time_to_reach": Form(
        lambda rng: (_log(rng, -12, 12), _log(rng, -8, 8), _log(rng, -8, 8)),
        escape.time_to_reach,
        lambda m, g, eta: 2 / (3 * mp.mpf(g)) * ((mp.mpf(m) + mp.mpf(eta) ** -2) ** mp.mpf(1.5) - mp.mpf(eta) ** -3),
        "level 1e-12–1e12, g and η 1e-8–1e8",
    ),
    "hessian.marchenko_pastur_condition": Form(
        lambda rng: (1 + float(rng.choice([-1, 1])) * _log(rng, -12, -0.01),),
        hessian.marchenko_pastur_condition,
        lambda gamma: ((1 + mp.sqrt(mp.mpf(gamma))) / (1 - mp.sqrt(mp.mpf(gamma)))) ** 2,
        "γ within 1e-12 of 1",
    ),
    "hessian.initial_speed_ratio": Form(
        lambda rng: (int(_log(rng, 0, 6)), int(_log(rng, 0, 4)), _log(rng, -8, 8)),
        hessian.initial_speed_ratio,
        lambda n2, r, s: mp.mpf(s) ** 2 * mp.sqrt(mp.mpf(r) * (n2 + r + 1)),
        "n₂ to 1e6",
    ),
    "hessian.escape_time": Form(
        lambda rng: ([[_log(rng, -100, 100)]], _log(rng, -300, -1)),
        hessian.escape_time,
        lambda g, epsilon: -mp.log(mp.mpf(epsilon)) / mp.mpf(g[0][0]),
        "ε to 1e-300",
    ),
    "ripple.worst_case": Form(
        _norms, lambda *of: ripple.worst_case(*of).log_bound, _worst, "norms 1e-20–1e20, depth to 60, η 1e-8–1e8"
    ),
    "hessian.product_spectrum, least": Form(
        _design,
        lambda *of: hessian.product_spectrum(*of)[0],
        _least_eigenvalue,
        "two features, all entries × 1e-100–1e100",
    ),
    "ripple.growth_exponent, mean": Form(
        lambda rng: ((r := int(rng.integers(1, 30))) + int(rng.integers(300)), r, _log(rng, -3, 3), 1.0, 1.0, 0.1),
        lambda *of: ripple.growth_exponent(*of)[0],
        _growth_mean,
        "width to 330, η 1e-3–1e3",
    ),
    "ripple.adapter_gain": Form(
        lambda rng: (int(_log(rng, 0, 2.5)), _log(rng, -3, 3), 1.0, _log(rng, -1, 1), _log(rng, -1, 1)),
        ripple.adapter_gain,
        _added,
        "η 1e-3–1e3, r to 300",
    ),
    "ripple.log_survival": Form(
        lambda rng: (int(_log(rng, 0, 6)), int(rng.integers(1, 900))),
        ripple.log_survival,
        lambda depth, width: depth * mp.log1p(-(mp.mpf(2) ** -width)),
        "depth to 1e6, width to 900",
    ),
    "ripple.residual_square, mean": Form(
        _deep,
        lambda depth, width, eta, w, a, b: ripple.residual_square(depth, width, 1, eta, w, a, b)[0],
        _residual_mean,
        "depth to 1e6, η 1e-8–1e8",
    ),
    "ripple.damped_branch": Form(
        _scalar,
        ripple.damped_branch,
        lambda f, eta: mp.mpf(f) * _adaptor(mp.mpf(f), eta),
        "|f| 1e-300–1e250, η 1e-8–1e8",
    ),
}
