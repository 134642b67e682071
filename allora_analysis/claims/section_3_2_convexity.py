"""§3.2, "the convex quadratic nature of the optimization problem": in V, over V of low rank, and in (B, A).

Curvatures are second differences of the loss itself. Listed by `section_3_2_zero_initialisation`. Checked by
`tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.ledger import Evidence, Finding, settle

SEED, RANK, STEP = 23, 2, 1e-3
TOLERANCE = 1e-5  # of the highest curvature
SHAPES = ((12, 6, 5), (4, 6, 5))  # N, D, C


def second_difference(loss: Callable[[np.ndarray], float], point: np.ndarray, direction: np.ndarray) -> float:
    """Curvature of the loss along a unit direction, to O(`STEP`²).

    Args:
        loss: of a vector.
        point: where.
        direction: of length 1.

    Returns:
        The second derivative along it.
    """
    up, down = loss(point + STEP * direction), loss(point - STEP * direction)
    return (up + down - 2 * loss(point)) / STEP**2


def third_difference(loss: Callable[[np.ndarray], float], point: np.ndarray, direction: np.ndarray) -> float:
    """Third difference over three steps of a direction, relative to the loss there: 0 for a quadratic.

    Args:
        loss: of a vector.
        point: where.
        direction: any.

    Returns:
        The difference over the largest of the four values.
    """
    values = np.array([loss(point + step * direction) for step in range(4)])
    return float(values @ [-1, 3, -3, 1] / values.max())


def problem(n: int, d: int, c: int) -> tuple[np.ndarray, ...]:
    """X, Y and W with standard Gaussian entries, A (r×D), and directions of unit size at random.

    Args:
        n: N.
        d: D.
        c: C.

    Returns:
        X (N×D), Y (N×C), W (D×C) and A.
    """
    generator = np.random.default_rng([SEED, n])
    return tuple(generator.standard_normal(shape) for shape in ((n, d), (n, c), (d, c), (RANK, d)))


def in_v(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float, float, float]:
    """The loss in V: its curvature at V = 0 where it is least.

    Args:
        x: X.
        y: Y.
        w: W.

    Returns:
        Lowest eigenvalue by the spectrum, the curvature along its direction, the third difference, highest eigenvalue.
    """
    spectrum, lowest = hessian.product_spectrum(x, y.shape[1]), np.zeros(w.shape)
    lowest[:, 0] = np.linalg.svd(x)[2][-1]

    def loss(flat: np.ndarray) -> float:
        return float(((x @ (w + flat.reshape(w.shape)) - y) ** 2).sum())

    curvature = second_difference(loss, np.zeros(w.size), lowest.ravel())
    return float(spectrum[0]), curvature, third_difference(loss, np.zeros(w.size), w.ravel()), float(spectrum[-1])


def in_factors(x: np.ndarray, y: np.ndarray, w: np.ndarray, a: np.ndarray) -> tuple[float, float, float, float]:
    """The same loss in (B, A), V = (BA)ᵀ, at LoRA's start B = 0.

    Args:
        x: X.
        y: Y.
        w: W.
        a: A.

    Returns:
        As `in_v`.
    """
    g, split = -2 * (y - x @ w).T @ x, y.shape[1] * len(a)
    point = np.concatenate([np.zeros(split), a.ravel()])
    lowest = np.linalg.eigh(hessian.dense_factor_hessian(x, g, a))[1][:, 0]

    def loss(flat: np.ndarray) -> float:
        v = (flat[:split].reshape(-1, len(a)) @ flat[split:].reshape(a.shape)).T
        return float(((x @ (w + v) - y) ** 2).sum())

    spectrum, ones = hessian.factor_spectrum(x, g, a), np.ones(point.size)
    curvature = second_difference(loss, point, lowest)
    return float(spectrum[0]), curvature, third_difference(loss, point, ones), float(spectrum[-1])


def convexity() -> Finding:
    """Is the problem convex and quadratic? In V, over the V of rank at most r (is a midpoint one?), and in (B, A).

    Returns:
        The finding.
    """
    printed, corrected, predicted, seen, errors = {}, {}, {}, {}, []
    for n, d, c in SHAPES:
        x, y, w, a = problem(n, d, c)
        for space, found in (("V", in_v(x, y, w)), ("(B, A) at B = 0", in_factors(x, y, w, a))):
            case = f"in {space}, N={n}, D={d}, C={c}"
            predicted[case], curvature, third, highest = found
            seen[case] = {"lowest curvature": curvature, "third difference": third}
            errors.append(abs(curvature - predicted[case]) / highest)
            printed[case] = curvature >= -TOLERANCE * highest and abs(third) <= TOLERANCE
            neither = curvature < -TOLERANCE * highest and abs(third) > TOLERANCE
            corrected[case] = (printed[case] if space == "V" else neither) and errors[-1] <= TOLERANCE
    case, generator = f"over V of rank at most {RANK}", np.random.default_rng(SEED)
    ends = [generator.standard_normal((6, RANK)) @ generator.standard_normal((RANK, 5)) for _ in range(2)]
    predicted[case], seen[case] = 2 * RANK, int(np.linalg.matrix_rank(ends[0] + ends[1]))
    printed[case], corrected[case] = seen[case] <= RANK, seen[case] == predicted[case]
    source = f"second differences of step {STEP:g}, relative to the highest curvature"
    evidence = Evidence(predicted, seen, source, max(errors), TOLERANCE, seed=SEED)
    lows = ", ".join(f"{of['lowest curvature']:.3g}" for name, of in seen.items() if name.startswith("in (B"))
    text = (
        "in an unconstrained V; the V of rank at most r are no convex set, and in (B, A), which LoRA trains, the loss "
        f"is neither convex nor quadratic (lowest curvature at B = 0: {lows})"
    )
    return Finding(settle(printed, corrected), evidence, text)
