"""§3.3 beyond the worst case: does a random network show the ripple? Simulated and in closed form.

Part of `section_3_3_ripple`; `section_3_3_residual.py` has residual stacks. Every simulation draws whole matrices.
Checked by `tests/test_claims_ripple.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims import student_t
from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.claims.section_3_3_residual import check_residual
from allora_analysis.ripple import stack

SEED = 34
COMMAND = "python -m allora_analysis.ripple"
TEST = "tests/test_ripple_monte_carlo.py"


def _z(samples: np.ndarray, expected: list[float]) -> np.ndarray:
    return (samples.mean(axis=0) - expected) / (samples.std(axis=0, ddof=1) / math.sqrt(len(samples)))


def check_typical() -> Finding:
    """Does η add to a random network's log growth at least half of what it adds to the bound? L = 48, n = 64, r = 4.

    Returns:
        The finding; predicted and measured are what η adds over η = 0, in nats.
    """
    depth, width, rank, replicas = 48, 64, 4, 48
    limit = student_t.standard_errors(replicas)
    etas, generator = (0.25, 1.0, 4.0, 100.0), np.random.default_rng(SEED)
    scales = ripple.fair_scales(width, rank)
    norms = stack.drawn_norms(depth, width, rank, scales, generator)
    run = ripple.simulate((width,) * (depth + 1), rank, [*etas, 0.0], *scales, replicas=replicas, generator=generator)
    growths = [ripple.network_growth((width,) * (depth + 1), rank, eta, *scales).mean for eta in (*etas, 0.0)]
    z = _z(run.log_growth, growths)
    shares = (run.log_growth[:, :-1] - run.log_growth[:, -1:]).mean(axis=0)
    bounds = [stack.bound_adapter_share(norms, eta, "linear") for eta in etas]
    printed = {f"η = {eta}": bool(share >= bound / 2) for eta, share, bound in zip(etas, shares, bounds, strict=True)}
    corrected = {case: bool(abs(value) < limit) for case, value in zip(printed, z, strict=False)}
    corrected["η = 0"] = bool(abs(z[-1]) < limit)
    parts_of_bound = [(growth - growths[-1]) / bound for growth, bound in zip(growths, bounds, strict=False)]
    corrected["only for large η"] = parts_of_bound == sorted(parts_of_bound) and [*printed.values()] == [
        part >= 1 / 2 for part in parts_of_bound
    ]
    predicted = {f"η = {eta}": growth - growths[-1] for eta, growth in zip(etas, growths, strict=False)}
    measured = {f"η = {eta}": float(share) for eta, share in zip(etas, shares, strict=True)}
    measured |= {f"η = {eta}, bound": bound for eta, bound in zip(etas, bounds, strict=True)}
    parts = ", ".join(
        f"{s:.3g} of {b:.3g} at η = {e:g}" for e, s, b in zip(etas, predicted.values(), bounds, strict=True)
    )
    text = "at least half of what the bound adds only for large η: "
    text += f"over L = {depth} random layers with m̄ ≈ 1, η adds (nats, of the bound's): {parts}"
    source, worst = student_t.source(replicas), float(np.abs(z).max())
    evidence = Evidence(predicted, measured, source, worst, limit, n=replicas, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _exponent(gains: Sequence[float]) -> float:
    # Of η between η and 2η: gains ∝ η^exponent.
    return math.log2(gains[1] / gains[0])


def aligned_gains(eta: float, depth: int = 8, width: int = 16, rank: int = 4) -> list[float]:
    """What η and 2η add to the log growth of a network that attains the bound, over η = 0: forward passes.

    Args:
        eta: η.
        depth: L.
        width: n.
        rank: r.

    Returns:
        Two differences, natural logarithm.
    """
    norms = np.ones(depth), np.ones(depth)
    growth = stack.aligned_growth(norms, rank, (0.0, eta, 2 * eta), width, "linear", np.random.default_rng(SEED))
    return [float(value - growth[0]) for value in growth[1:]]


def check_small_eta() -> Finding:
    """Is log growth linear in η for small η, as the bound's ηm̄ is? The exponent of η between η and 2η.

    Returns:
        The finding; predicted and measured are exponents.
    """
    depth, width, rank, replicas, eta, small = 8, 16, 4, 10_000, 0.2, 1e-3
    scales, generator = ripple.fair_scales(width, rank), np.random.default_rng(SEED)
    run = ripple.simulate(
        (width,) * (depth + 1), rank, [0.0, eta, 2 * eta], *scales, replicas=replicas, generator=generator
    )
    shares = run.log_growth[:, 1:] - run.log_growth[:, :1]
    gains = [depth * ripple.adapter_gain(rank, value, *scales) for value in (eta, 2 * eta)]
    z, allowed = float(np.abs(_z(shares, gains)).max()), student_t.standard_errors(replicas)
    limit = _exponent([ripple.adapter_gain(rank, value, *scales) for value in (1e-7, 2e-7)])
    bounds = [ripple.worst_case(np.ones(depth), np.ones(depth), value).log_bound for value in (small, 2 * small)]
    aligned, random = (
        f"network that attains the bound, η = {small:g} to {2 * small:g}",
        f"random network, η = {eta:g} to {2 * eta:g}",
    )
    measured = {aligned: _exponent(aligned_gains(small)), random: _exponent(shares.mean(axis=0).tolist())}
    predicted = {aligned: _exponent(bounds), random: _exponent(gains), "random, η → 0": limit}
    printed = {case: abs(exponent - 1) < 0.1 for case, exponent in measured.items()}
    corrected = {
        "attained": abs(measured[aligned] - predicted[aligned]) < 1e-9 and printed[aligned],
        "random is quadratic": abs(limit - 2) < 1e-6 and not printed[random],
        "simulated gains": z < allowed,
    }
    text = (
        f"linear in η for a network that attains the bound (exponent {measured[aligned]:.3f}); quadratic, about "
        f"½η²r(s_As_B/s_W)² a layer, for a random one (exponent {measured[random]:.2f} between η = {eta:g} and "
        f"{2 * eta:g}, {limit:.2f} as η → 0)"
    )
    evidence = Evidence(predicted, measured, student_t.source(replicas), z, allowed, n=replicas, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def growth_claims() -> tuple[Claim, ...]:
    """The rows beyond the worst case; the first two are no sentences of the paper, which treats the worst case alone.

    Returns:
        The claims.
    """
    proposition = "A constant scaling factor η may cause the output to grow exponentially w.r.t. the number of layers"
    rows = (
        (
            "3.3-typical",
            'beyond the paper: §3.3, Proposition 1 without its "In the worst case"',
            "A constant scaling factor η makes the output of a network at random grow exponentially w.r.t. the number "
            "of layers as in the worst case (read: η adds at least half of what it adds to the bound)",
            check_typical,
        ),
        (
            "3.3-small-eta",
            "beyond the paper: §3.3, last display, for small η",
            "Log growth is of the order of the bound's ηm̄ a layer",
            check_small_eta,
        ),
        (
            "3.3-residual",
            '§3.3, Proposition 1 and below it: "especially limiting for LLMs"',
            f"{proposition} (read: in a residual stack, as an LLM is)",
            check_residual,
        ),
    )
    return tuple(Claim(*row, COMMAND, TEST) for row in rows)
