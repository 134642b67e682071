"""§3.3 beyond the worst case: does a random network, or a residual one, show the ripple? Simulated and in closed form.

Part of `section_3_3_ripple`. Every simulation draws whole matrices. Checked by `tests/test_claims_ripple.py`.
"""

from __future__ import annotations

import math

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims.ledger import Claim, Evidence, Finding, settle
from allora_analysis.ripple import stack

SEED = 34
Z = 5.0  # two-sided false-fail rate 6e-7 a comparison
SOURCE = f"{Z:g} standard errors of the simulation, false-fail rate 6e-7 a comparison, n fixed beforehand"
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
    etas, generator = (0.25, 1.0, 4.0, 100.0), np.random.default_rng(SEED)
    scales = ripple.fair_scales(width, rank)
    norms = stack.drawn_norms(depth, width, rank, scales, generator)
    run = ripple.simulate((width,) * (depth + 1), rank, [*etas, 0.0], *scales, replicas=replicas, generator=generator)
    growths = [ripple.network_growth((width,) * (depth + 1), rank, eta, *scales).mean for eta in (*etas, 0.0)]
    z = _z(run.log_growth, growths)
    shares = (run.log_growth[:, :-1] - run.log_growth[:, -1:]).mean(axis=0)
    bounds = [stack.bound_adapter_share(norms, eta, "linear") for eta in etas]
    printed = {f"η = {eta}": bool(share >= bound / 2) for eta, share, bound in zip(etas, shares, bounds, strict=True)}
    corrected = {case: bool(abs(value) < Z) for case, value in zip(printed, z, strict=False)}
    corrected["η = 0"] = bool(abs(z[-1]) < Z)
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
    evidence = Evidence(predicted, measured, SOURCE, float(np.abs(z).max()), Z, n=replicas, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_small_eta() -> Finding:
    """Is log growth linear in η for small η, as the bound's ηm̄ is? The exponent of η between η and 2η.

    Returns:
        The finding; predicted and measured are exponents.
    """
    depth, width, rank, replicas, eta = 8, 16, 4, 10_000, 0.2
    scales = ripple.fair_scales(width, rank)
    shape = (width,) * (depth + 1)
    generator = np.random.default_rng(SEED)
    run = ripple.simulate(shape, rank, [0.0, eta, 2 * eta], *scales, replicas=replicas, generator=generator)
    shares = run.log_growth[:, 1:] - run.log_growth[:, :1]
    gains = [depth * ripple.adapter_gain(rank, value, *scales) for value in (eta, 2 * eta)]
    z = _z(shares, gains)
    tiny = [
        [ripple.adapter_gain(rank, value, *scales), ripple.worst_case([1.0], [1.0], value).log_bound]
        for value in (1e-7, 2e-7)
    ]
    limit, bound = (math.log2(second / first) for first, second in zip(*tiny, strict=True))
    measured = {"bound": bound, "random network, η = 0.2 to 0.4": math.log2(shares[:, 1].mean() / shares[:, 0].mean())}
    predicted = {"bound": 1.0, "random network, η = 0.2 to 0.4": math.log2(gains[1] / gains[0]), "random, η → 0": limit}
    printed = {case: abs(exponent - 1) < 0.1 for case, exponent in measured.items()}
    corrected = {
        "bound is linear": abs(bound - 1) < 1e-6,
        "random is quadratic": abs(limit - 2) < 1e-6,
        "simulated gains": bool(np.abs(z).max() < Z),
    }
    text = (
        "linear in η for the bound and what attains it; quadratic, about ½η²r(s_As_B/s_W)² a layer, for a random one "
    )
    text += f"(exponent {measured['random network, η = 0.2 to 0.4']:.2f} measured between η = 0.2 and 0.4, 2 as η → 0)"
    evidence = Evidence(predicted, measured, SOURCE, float(np.abs(z).max()), Z, n=replicas, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def check_residual() -> Finding:
    """Does log growth double with L (exponential growth)? Linear and pre-LayerNorm stacks, worst and typical case.

    Returns:
        The finding; predicted and measured are log growth at 2L less twice that at L; 0 is exponential.
    """
    width, rank, eta, depth, replicas = 16, 2, 4.0, 16, 1500
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for architecture in ("linear", "prelayernorm"):
        ends = []
        for layers in (depth, 2 * depth):
            norms = np.ones(layers), np.ones(layers)
            bound = stack.stack_bound(norms, eta, width, architecture).log_bound
            grown = stack.aligned_growth(norms, rank, (eta,), width, architecture, np.random.default_rng(SEED))[0]
            ends.append((bound, float(grown)))
        case = f"{architecture}, worst case"
        predicted[case], measured[case] = (second - 2 * first for first, second in zip(*ends, strict=True))
        printed[case] = abs(measured[case]) < 1e-9
        corrected[case] = abs(measured[case] - predicted[case]) < 1e-9
    scales, generator = ripple.fair_scales(width, rank), np.random.default_rng(SEED)
    logs, zs = [], []
    for layers in (depth, 2 * depth):
        run = ripple.simulate(
            (width,) * (layers + 1),
            rank,
            eta,
            *scales,
            replicas=replicas,
            generator=generator,
            architecture="prelayernorm",
        )
        squares = width * np.exp(2 * run.log_growth)
        mean = ripple.residual_square(layers, width, rank, eta, *scales).mean
        zs.append(float(_z(squares, [mean])[0]))
        logs.append((0.5 * math.log(mean / width), 0.5 * math.log(squares.mean() / width)))
    case = "prelayernorm, random"
    predicted[case], measured[case] = (second - 2 * first for first, second in zip(*logs, strict=True))
    printed[case] = abs(measured[case]) < 0.1
    corrected[case] = max(map(abs, zs)) < Z
    text = "without normalisation; in a pre-LayerNorm residual stack the worst case grows linearly in L and E‖h_L‖² = "
    text += "‖h₀‖² + L n²(s_W² + η²r s_A²s_B²), the norm as √L"
    evidence = Evidence(predicted, measured, SOURCE, max(map(abs, zs)), Z, n=replicas, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def growth_claims() -> tuple[Claim, ...]:
    """The rows beyond the worst case.

    Returns:
        The claims.
    """
    proposition = "A constant scaling factor η may cause the output to grow exponentially w.r.t. the number of layers"
    rows = (
        (
            "3.3-typical",
            "§3.3, Proposition 1, for a network at random",
            f"{proposition}, as the bound does",
            check_typical,
        ),
        (
            "3.3-small-eta",
            "§3.3, last display, for small η",
            "Log growth is of the order of the bound's ηm̄ a layer",
            check_small_eta,
        ),
        ("3.3-residual", "§3.3, Proposition 1, for an LLM's blocks", proposition, check_residual),
    )
    return tuple(Claim(*row, COMMAND, TEST) for row in rows)
