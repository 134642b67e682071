"""§3.2, "a poor optimization landscape": Eqs. (1) and (2), and what they can say about starting at zero.

What N does is checked in `section_3_2_samples`. The rows on LoRA's own parameters (A, B) are in
`section_3_2_factors`, on its design in `section_3_2_start`.
Checked by `tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims import section_3_2_factors as factors
from allora_analysis.claims import section_3_2_start as start
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_2_convexity import convexity
from allora_analysis.claims.section_3_2_samples import conditioning_by_samples, flat_directions

ROUNDING = 1e-9
ROUNDING_SOURCE = "float64 rounding of differences that are exact for a quadratic; seen: below 1e-12"
SEED = 20
COMMAND = "python -m allora_analysis.hessian"
TEST = "tests/test_hessian_product.py"
EQ1, EQ2 = "§3.2, Eq. (1)", "§3.2, Eq. (2)"


def _loss(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> Callable[[np.ndarray], float]:
    # ‖X(W + V) − Y‖² as a function of vec V, columns stacked.
    return lambda columns: float(((x @ (w + columns.reshape(w.shape, order="F")) - y) ** 2).sum())


def _gradient_of(loss: Callable[[np.ndarray], float], point: np.ndarray) -> np.ndarray:
    return np.array([(loss(point + e) - loss(point - e)) / 2 for e in np.eye(point.size)])


def _hessian_of(loss: Callable[[np.ndarray], float], point: np.ndarray) -> np.ndarray:
    return np.array([(_gradient_of(loss, point + e) - _gradient_of(loss, point - e)) / 2 for e in np.eye(point.size)])


def _problems(*shapes: tuple[int, int, int]) -> dict[str, tuple[np.ndarray, ...]]:
    # X, Y, W and V for each (N, D, C), by name.
    generator = np.random.default_rng(SEED)
    return {
        f"N={n}, D={d}, C={c}": tuple(generator.standard_normal(s) for s in ((n, d), (n, c), (d, c), (d, c)))
        for n, d, c in shapes
    }


def _shape_or_error(value: np.ndarray, reference: np.ndarray) -> str | float:
    wrong = value.shape != reference.shape
    return f"shape {value.shape} for {reference.shape}" if wrong else relative_error(value, reference)


def gradient() -> Finding:
    """Eq. (1) against differences of the loss.

    Returns:
        The finding.
    """
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (x, y, w, v) in _problems((9, 4, 2), (9, 3, 3)).items():
        measured = _gradient_of(_loss(x, y, w), v.ravel(order="F")).reshape(v.shape, order="F")
        first, last = 2 * x.T @ x @ v, 2 * (y - x @ w).T @ x
        defined = first.shape == last.shape
        seen[case] = relative_error(first - last, measured) if defined else f"{first.shape} minus {last.shape}"
        printed[case] = isinstance(seen[case], float) and seen[case] <= ROUNDING
        errors.append(relative_error(hessian.product_gradient(x, y, w, v), measured))
        corrected[case] = errors[-1] <= ROUNDING
    evidence = Evidence(
        {"relative error": 0.0}, {"as printed": seen}, ROUNDING_SOURCE, max(errors), ROUNDING, seed=SEED
    )
    return Finding(settle(printed, corrected), evidence, "∇L(V) = 2XᵀXV − 2Xᵀ(Y − XW): the last term is transposed")


def second_derivative() -> Finding:
    """Eq. (2) against second differences of the loss.

    Returns:
        The finding.
    """
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, (x, y, w, v) in _problems((5, 3, 2), (3, 2, 3)).items():
        measured = _hessian_of(_loss(x, y, w), v.ravel(order="F"))
        seen[case] = _shape_or_error(np.kron(np.eye(len(x)), x.T @ x), measured)
        printed[case] = isinstance(seen[case], float) and seen[case] <= ROUNDING
        errors.append(relative_error(hessian.product_hessian(x, y.shape[1]), measured))
        corrected[case] = errors[-1] <= ROUNDING
    evidence = Evidence(
        {"relative error": 0.0}, {"as printed": seen}, ROUNDING_SOURCE, max(errors), ROUNDING, seed=SEED
    )
    return Finding(settle(printed, corrected), evidence, "2 I_C ⊗ XᵀX, C the number of outputs: a factor 2 is missing")


def vectorisation() -> Finding:
    """The identity under Eq. (2), with I of size n and of size C: where they differ, and where they are one number.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured, errors = {}, {}, {}, {}, []
    for case, (x, y, w, v) in _problems((5, 3, 2), (2, 3, 4), (3, 2, 3)).items():
        (n, c), flat, target = y.shape, (w + v).ravel(order="F"), y.ravel(order="F")
        predicted[case] = loss = _loss(x, y, w)(v.ravel(order="F"))
        sizes = {size: np.kron(np.eye(size), x) for size in (n, c)}
        right = {
            size: float(((big @ flat - target) ** 2).sum()) if big.shape == (target.size, flat.size) else np.inf
            for size, big in sizes.items()
        }
        measured[case] = {"with I_C": right[c], "with I_n": right[n] if np.isfinite(right[n]) else "undefined"}
        errors.append(relative_error(right[c], loss))
        as_printed = relative_error(right[n], loss) <= ROUNDING
        # n = C says nothing for I_n: it is I_C there.
        if n != c:
            printed[case] = as_printed
        corrected[case] = errors[-1] <= ROUNDING and as_printed == (n == c)
    evidence = Evidence(predicted, measured, ROUNDING_SOURCE, max(errors), ROUNDING, seed=SEED)
    text = "with I_C, which Eq. (2) needs too; n is the training set size, and I_n fits only where that happens to be C"
    return Finding(settle(printed, corrected), evidence, text)


def semidefinite() -> Finding:
    """No negative eigenvalue, for N above and below D, and the closed form agrees.

    Returns:
        The finding.
    """
    printed, lowest, errors = {}, {}, []
    for case, (x, y, w, v) in _problems((6, 3, 2), (2, 4, 2)).items():
        values = np.linalg.eigvalsh(_hessian_of(_loss(x, y, w), v.ravel(order="F")))
        lowest[case] = float(values[0])
        errors.append(relative_error(values, hessian.product_spectrum(x, y.shape[1])))
        printed[case] = values[0] >= -ROUNDING * values[-1] and errors[-1] <= ROUNDING
    evidence = Evidence(
        {"lowest, at least": 0.0}, {"lowest": lowest}, ROUNDING_SOURCE, max(errors), ROUNDING, seed=SEED
    )
    return Finding(settle(printed), evidence)


def start_conditioning() -> Finding:
    """Is the Hessian in V worse conditioned at V = 0 than elsewhere? Differences of the gradient at several V.

    Returns:
        The finding.
    """
    printed, seen = {}, {}
    (x, y, w, v), *_ = _problems((9, 4, 2)).values()

    def log_condition(point: np.ndarray) -> float:
        unit = np.eye(v.size).reshape(-1, *v.shape)
        pairs = [[hessian.product_gradient(x, y, w, point + sign * e).ravel() for sign in (1, -1)] for e in unit]
        return float(np.log(np.linalg.cond(np.array([(up - down) / 2 for up, down in pairs]))))

    at_zero = log_condition(np.zeros_like(v))
    for case, scale in {"V of size 1": 1.0, "V of size 10": 10.0, "V of size 100": 100.0}.items():
        seen[case] = log_condition(scale * v)
        printed[case] = at_zero > seen[case] + ROUNDING
    error = relative_error(list(seen.values()), [at_zero] * len(seen))
    evidence = Evidence({"log_condition at V = 0": at_zero}, seen, ROUNDING_SOURCE, error, ROUNDING, seed=SEED)
    return Finding(
        settle(printed), evidence, "the Hessian in V does not contain V: zero is as well conditioned as any V"
    )


def claims() -> tuple[Claim, ...]:
    """The statements of §3.2 and what the abstract and §1 conclude from it.

    Returns:
        The claims, Δ first, then (A, B).
    """
    degenerate = "As the training set size n decreases, the optimization landscape for V will become degenerate"
    rows = (
        ("gradient", EQ1, "∇_V L(V) = 2XᵀXV − 2(Y − XW)ᵀX", gradient),
        ("hessian", EQ2, "H_vec(V) L(V) = (I_n ⊗ X)ᵀ(I_n ⊗ X) = I_n ⊗ XᵀX", second_derivative),
        ("vectorisation", "§3.2, below Eq. (2)", "‖X(W+V) − Y‖² = ‖(I_n ⊗ X)vec(W+V) − vec(Y)‖²", vectorisation),
        ("semidefinite", "§3.2, below Eq. (2)", "The Hessian (in V) is semidefinite positive", semidefinite),
        (
            "convex",
            "§3.2, below Eq. (2)",
            "as expected given the convex quadratic nature of the optimization problem",
            convexity,
        ),
        (
            "start-conditioning",
            "Abstract, from §3.2's Eq. (2)",
            "Initialization at 0 makes the optimization landscape (in V) poorly conditioned during the first steps",
            start_conditioning,
        ),
        ("degenerate-rank", "§3.2, last sentence", f"{degenerate}: it gains flat directions", flat_directions),
        (
            "degenerate-condition",
            "§3.2, last sentence",
            f"{degenerate}: its condition number rises",
            conditioning_by_samples,
        ),
    )
    own = tuple(Claim(f"3.2-{name}", where, text, check, COMMAND, TEST) for name, where, text, check in rows)
    return start.claims() + own + factors.claims()
