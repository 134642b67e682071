"""§3.3, Proposition 1 in an LLM's blocks: a residual stack without normalisation, and with a LayerNorm in each branch.

A row of `section_3_3_growth`. Blocks are h ↦ h + (W + ηBA)h and h ↦ h + (W + ηBA)LN(h). Simulations draw whole
matrices. Checked by `tests/test_claims_ripple.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims import student_t
from allora_analysis.claims.ledger import Evidence, Finding, settle
from allora_analysis.ripple import stack
from allora_analysis.ripple.bounds import Layer, Scales

SEED, ROUNDING = 35, 1e-9
WIDTH, RANK, ETA, DEPTH, REPLICAS = 16, 2, 4.0, 16, 1000
PLAIN, NORMALISED = "residual without normalisation", "residual with pre-LayerNorm"


def _added(growth: np.ndarray) -> float:
    # What η adds to log growth over η = 0, of the columns (0, η).
    return float(growth[1] - growth[0])


def plain_worst_case(depth: int) -> float:
    """What η adds to the log growth of an aligned residual stack without normalisation: a forward pass.

    Every layer has ‖W‖ = ‖BA‖ = 1 along the input's own direction, so that a block is I + W + ηBA of norm 2 + η.

    Args:
        depth: L.

    Returns:
        The difference, natural logarithm.
    """
    generator, widths = np.random.default_rng(SEED), (WIDTH,) * (depth + 1)
    network = ripple.aligned_network(widths, RANK, generator=generator, architecture="prelayernorm", closed=True)
    blocks = [Layer(np.eye(WIDTH) + layer.w, layer.b, layer.a) for layer in network.layers]
    return _added(ripple.log_output_growth(blocks, network.x, [0.0, ETA]))


def worst_cases() -> dict[str, tuple[float, float]]:
    """Log growth that η adds at 2L over that at L, told by the bounds and measured by forward passes.

    Returns:
        (predicted, measured) by case.
    """
    bounds, grown, plain = [], [], []
    for depth in (DEPTH, 2 * DEPTH):
        ones = np.ones(depth)
        bounds.append(stack.bound_adapter_share((ones, ones), ETA, "prelayernorm"))
        options = (WIDTH, "prelayernorm", np.random.default_rng(SEED))
        grown.append(_added(stack.aligned_growth((ones, ones), RANK, (0.0, ETA), *options)))
        told = [ripple.worst_case(2 * ones, ones, eta).log_bound for eta in (0.0, ETA)]
        plain.append((_added(np.array(told)), plain_worst_case(depth)))
    told, run = ([pair[side] for pair in plain] for side in (0, 1))
    return {
        f"{PLAIN}, worst case": (told[1] / told[0], run[1] / run[0]),
        f"{NORMALISED}, worst case": (bounds[1] / bounds[0], grown[1] / grown[0]),
    }


def plain_random(scales: Scales) -> np.ndarray:
    """What η adds to the log growth of random residual stacks without normalisation, after L and after 2L layers.

    Args:
        scales: the standard deviations.

    Returns:
        The differences (replicas×2).
    """
    generator, shape = np.random.default_rng(SEED), (REPLICAS, WIDTH)
    start, sizes = generator.standard_normal((*shape, 1)), []
    h = np.repeat(start, 2, axis=2)  # a column for 0, one for η
    for layer in range(1, 2 * DEPTH + 1):
        w = scales.w_std * generator.standard_normal((*shape, WIDTH))
        a = scales.a_std * generator.standard_normal((REPLICAS, RANK, WIDTH))
        b = scales.b_std * generator.standard_normal((*shape, RANK))
        h = h + w @ h + b @ (a @ h) * [0.0, ETA]
        if layer % DEPTH == 0:
            sizes.append(np.log(np.linalg.norm(h, axis=1)))
    return np.stack([size[:, 1] - size[:, 0] for size in sizes], axis=1)


def random_plain(scales: Scales) -> tuple[tuple[float, float], float]:
    """Layers add independent and like amounts, whatever the direction: exactly twice as much at 2L, in the mean.

    Args:
        scales: the standard deviations.

    Returns:
        (predicted, measured) of the ratio, and how many standard errors the measured one is off.
    """
    once, twice = plain_random(scales).T
    return (2.0, float(twice.mean() / once.mean())), _z(twice - 2 * once, 0.0)


def random_normalised(scales: Scales) -> tuple[tuple[float, float], float]:
    """Growth of the root mean square of a pre-LayerNorm stack, simulated, against `ripple.residual_square`.

    Args:
        scales: the standard deviations.

    Returns:
        As `random_plain`; the errors are the worst of both depths, with η and without.
    """
    generator, told, seen, z = np.random.default_rng(SEED), [], [], []
    for depth in (DEPTH, 2 * DEPTH):
        options = {"replicas": REPLICAS, "generator": generator, "architecture": "prelayernorm"}
        run = ripple.simulate((WIDTH,) * (depth + 1), RANK, [0.0, ETA], *scales, **options)
        squares = WIDTH * np.exp(2 * run.log_growth)
        means = [ripple.residual_square(depth, WIDTH, RANK, eta, *scales).mean for eta in (0.0, ETA)]
        z += [_z(squares[:, i], means[i]) for i in (0, 1)]
        told.append(_added(0.5 * np.log(means)))
        seen.append(_added(0.5 * np.log(squares.mean(axis=0))))
    return (told[1] / told[0], seen[1] / seen[0]), max(z, key=abs)


def _z(samples: np.ndarray, expected: float) -> float:
    return float((samples.mean() - expected) / (samples.std(ddof=1) / math.sqrt(len(samples))))


def check_residual() -> Finding:
    """Does what η adds to log growth double with L (exponential growth)? Residual stacks, worst and typical case.

    Returns:
        The finding; predicted and measured are what η adds to log growth at 2L over that at L.
    """
    scales, limit = ripple.fair_scales(WIDTH, RANK), student_t.standard_errors(REPLICAS)
    cases = worst_cases()
    agree = {case: abs(measured - predicted) < ROUNDING for case, (predicted, measured) in cases.items()}
    errors = []
    for name, simulated in ((PLAIN, random_plain), (NORMALISED, random_normalised)):
        cases[f"{name}, random"], z = simulated(scales)
        agree[f"{name}, random"] = abs(z) < limit
        errors.append(abs(z))
    predicted, measured = ({case: pair[side] for case, pair in cases.items()} for side in (0, 1))
    printed = {case: abs(ratio - 2) < 0.1 for case, ratio in measured.items()}
    corrected = {case: agree[case] and printed[case] == case.startswith(PLAIN) for case in cases}
    source = student_t.source(REPLICAS) + "; the worst cases to float64 rounding"
    evidence = Evidence(predicted, measured, source, max(errors), limit, n=REPLICAS, seed=SEED)
    return Finding(settle(printed, corrected), evidence, words(measured))


def words(measured: Mapping[str, float]) -> str:
    """The condition.

    Args:
        measured: ratios by case, each architecture's worst case first.

    Returns:
        One sentence.
    """
    ratios = {name: [r for case, r in measured.items() if case.startswith(name)] for name in (PLAIN, NORMALISED)}
    (worst, typical), (normalised, at_random) = ratios[PLAIN], ratios[NORMALISED]
    return (
        f"in a residual stack without normalisation, where from L = {DEPTH} to {2 * DEPTH} (η = {ETA:g}) what η adds "
        f"to log growth gets {worst:.2f} times as large in the worst case, {typical:.2f} times at random; with "
        f"pre-LayerNorm {normalised:.2f} and {at_random:.2f} times: there the worst case grows linearly in L, and "
        "E‖h_L‖² = ‖h₀‖² + L n²(s_W² + η²r s_A²s_B²), the norm as √L"
    )
