"""§3.2, conditioning in the parameters that LoRA trains: the Hessian's B block against the Hessian in V.

Rows of `section_3_2_factors`. Measured against a Hessian by differences of the gradient, over draws of A. Checked by
`tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

import math

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle
from allora_analysis.hessian import loss_gradient

ROUNDING = 1e-8
SEED = 22
WIDTH, DRAWS = 48, 40
MOST = 36  # of the draws; a fair coin is so one-sided with a chance of 2e-7
SPREADS = {1.0: (2, 16), 2.0: (2, 16), 10.0: (4, 40), 100.0: (8, 44)}  # of X: the ranks tried


def design(n: int, d: int, spread: float, generator: np.random.Generator) -> np.ndarray:
    """X with singular values from 1 to `spread`, evenly in the logarithm.

    Args:
        n: N.
        d: D.
        spread: the largest over the smallest.
        generator: draws the singular vectors.

    Returns:
        X (N×D).
    """
    left, right = (np.linalg.qr(generator.standard_normal((size, min(n, d))))[0] for size in (n, d))
    return left * np.geomspace(1, spread, min(n, d)) @ right.T


def block_condition(x: np.ndarray, a: np.ndarray) -> float:
    """κ of the Hessian in B at B = 0, two outputs, by differences of the gradient (exact: it is affine in B).

    Args:
        x: X (N×D).
        a: A (r×D).

    Returns:
        κ, ∞ where it is singular.
    """
    shape, none = (2, len(a)), np.zeros((2, x.shape[1]))
    steps = np.eye(2 * len(a)).reshape(-1, *shape)
    pairs = [[loss_gradient(x, none, sign * step, a)[0].ravel() for sign in (1, -1)] for step in steps]
    values = np.linalg.eigvalsh(np.array([(up - down) / 2 for up, down in pairs]))
    return float(values[-1] / values[0]) if values[0] > 1e-12 * values[-1] else math.inf


def limit_condition(squares: np.ndarray, rank: int) -> float:
    """κ(ASAᵀ) for A with i.i.d. entries in the limit of large r and D at this r/D and this spectrum of S.

    The eigenvalues fill intervals whose ends are extremes of z(m) = −1/m + (1/r) Σ_i s_i/(1 + s_i m): the highest is
    the least z on (−1/s_max, 0), the lowest the largest z on (0, ∞). For S = I it is Marchenko and Pastur's. At finite
    r it is too high: the evidence shows the median over draws beside it. Source: Silverstein and Choi 1995.
    Checked by `tests/test_claims_hessian.py::test_limit_condition`.

    Args:
        squares: the eigenvalues of S (D), above 0.
        rank: r, below their number.

    Returns:
        The condition number.
    """
    top, low = float(squares.max()), float(squares.min())

    def ends(m: np.ndarray) -> np.ndarray:
        return -1 / m + (squares / (1 + np.multiply.outer(m, squares))).sum(axis=1) / rank

    return float(
        ends(-np.linspace(0, 1, 4001)[1:-1] / top).min() / ends(np.geomspace(1e-3 / top, 1e4 / low, 4001)).max()
    )


def block_conditioning() -> Finding:
    """Is what LoRA trains first, B, worse conditioned than V? κ(ASAᵀ) against κ(S), over draws of A.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    cases = {
        f"{_named(spread)}, r = {rank}": (design(WIDTH, WIDTH, spread, generator), rank)
        for spread, ranks in SPREADS.items()
        for rank in ranks
    } | {"N = D/2, r = 4": (design(WIDTH // 2, WIDTH, 2.0, generator), 4)}
    printed, corrected, predicted, seen, errors = {}, {}, {}, {}, []
    for case, (x, rank) in cases.items():
        drawn = generator.standard_normal((DRAWS, rank, WIDTH))
        found = [hessian.block_conditioning(x, a) for a in drawn]
        worse = sum(each.block > each.gram * (1 + ROUNDING) for each in found)
        limit = limit_condition(np.linalg.svd(x, compute_uv=False) ** 2, rank)
        predicted[case] = {"κ(ASAᵀ), r and D → ∞": limit, "worse": limit > found[0].gram}
        median = float(np.median([each.block for each in found]))
        seen[case] = {"κ(S)": found[0].gram, "κ(ASAᵀ), median": median, f"worse, of {DRAWS} draws": worse}
        errors.append(relative_error(found[0].block, block_condition(x, drawn[0])))
        printed[case], decided = worse >= MOST, max(worse, DRAWS - worse) >= MOST
        corrected[case] = decided and printed[case] == predicted[case]["worse"] and errors[-1] <= ROUNDING
    source = "float64 rounding of the condition number by differences"
    evidence = Evidence(predicted, seen, source, max(errors), ROUNDING, n=DRAWS, seed=SEED)
    return Finding(settle(printed, corrected), evidence, _words(printed))


def _named(spread: float) -> str:
    return "white X" if spread == 1 else f"singular values 1 to {spread:g}"


def _words(printed: dict[str, bool]) -> str:
    spread = [case for case in printed if case.startswith("singular")]
    worse, better = ("; ".join(case for case in spread if printed[case] == way) for way in (True, False))
    return (
        "only for white X, or where r is not ≪ D against the spread of X's spectrum; better than V's for a spread "
        f"spectrum and r ≪ D. For D = {WIDTH} worse with {worse}; better with {better}. (The condition: the limit of "
        "κ(ASAᵀ) for large r and D, at this r/D and spectrum, is above κ(S).)"
    )


def block_rank() -> Finding:
    """Does the B block degenerate as n decreases? Its rank against min(r, N).

    Returns:
        The finding.
    """
    d, rank, generator = 16, 4, np.random.default_rng(SEED)
    a = generator.standard_normal((rank, d))
    printed, corrected, seen = {}, {}, {}
    for n in (32, 8, 4, 2):
        x = generator.standard_normal((n, d))
        found = hessian.block_conditioning(x, a).block
        case = f"N = {n}, r = {rank}, D = {d}"
        seen[case] = [found, block_condition(x, a)]
        printed[case] = math.isinf(seen[case][1])
        corrected[case] = printed[case] == (n < rank) == math.isinf(found)
    error = 0.0 if all(corrected.values()) else 1.0
    evidence = Evidence({"degenerate": "iff N < r"}, seen, "singular or not: none may differ", error, 0.0, seed=SEED)
    return Finding(
        settle(printed, corrected), evidence, "only once n < r: with r ≤ n < D the Hessian in V is flat, B's is not"
    )
