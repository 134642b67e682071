"""§3.2, "a poor optimization landscape": Eqs. (1) and (2), what they can say about starting at zero, and what N does.

The rows on LoRA's own parameters (A, B) are checked in `section_3_2_factors`; `claims` lists both.
Checked by `tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims import section_3_2_factors as factors
from allora_analysis.claims import student_t
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ROUNDING = 1e-9
ROUNDING_SOURCE = "float64 rounding of differences that are exact for a quadratic; seen: below 1e-12"
SEED = 20
DRAWS = 200
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


def flat_directions() -> Finding:
    """Flat directions as N halves: i.i.d. rows on both sides of N = D, and with S held fixed.

    Returns:
        The finding.
    """
    d, c, generator = 8, 2, np.random.default_rng(SEED)
    rows = generator.standard_normal((4 * d, d))
    fixed = {n: hessian.fixed_gram_design(rows, n, generator) for n in (4 * d, d)}
    cases = {
        "i.i.d. rows, N = 4D → 2D": (rows, rows[: 2 * d], False),
        "i.i.d. rows, N = D → D/2": (rows[:d], rows[: d // 2], True),
        "i.i.d. rows, N = D/2 → D/4": (rows[: d // 2], rows[: d // 4], True),
        "XᵀX held fixed, N = 4D → D": (fixed[4 * d], fixed[d], False),
    }
    printed, corrected, seen = {}, {}, {}
    for case, (many, few, expected) in cases.items():
        values = [hessian.product_spectrum(x, c) for x in (many, few)]
        seen[case] = [int((value <= 1e-12 * value[-1]).sum()) for value in values]
        printed[case] = seen[case][1] > seen[case][0]
        counts = [c * (d - min(len(x), d)) for x in (many, few)]
        corrected[case] = printed[case] == expected and seen[case] == counts
    predicted = {"flat directions": "C·(D − N) for N < D, else 0"}
    evidence = Evidence(predicted, seen, "counts: none allowed to differ", 0.0 if all(corrected.values()) else 1.0, 0.0)
    return Finding(
        settle(printed, corrected), evidence, "only below N = D, and only if XᵀX loses rank with the samples"
    )


def conditioning_by_samples() -> Finding:
    """Does κ of S's non-zero part rise as N falls? Sampled, with the sign that Marchenko and Pastur give.

    Returns:
        The finding.
    """
    d, ratios = 30, (10.0, 3.0, 1.5, 1.0, 0.6, 0.3, 0.1)
    generator = np.random.default_rng(SEED)
    logs = [hessian.sample_log_conditions(round(ratio * d), d, DRAWS, generator) for ratio in ratios]
    mean, error = np.array([v.mean() for v in logs]), np.array([v.std(ddof=1) / np.sqrt(DRAWS) for v in logs])
    limit = np.log([hessian.marchenko_pastur_condition(1 / ratio) for ratio in ratios])
    printed, corrected, allowed = {}, {}, student_t.standard_errors(DRAWS)
    for i in range(len(ratios) - 1):
        case, noise = f"i.i.d. entries, N/D = {ratios[i]} → {ratios[i + 1]}", allowed * np.hypot(*error[i : i + 2])
        printed[case] = bool(mean[i + 1] - mean[i] > noise)
        corrected[case] = bool((mean[i + 1] - mean[i]) * np.sign(limit[i + 1] - limit[i]) > noise)
    x = generator.standard_normal((2 * d, d))
    same = [hessian.log_condition(hessian.fixed_gram_design(x, n, generator)) for n in (8 * d, d)]
    printed["XᵀX held fixed"] = same[1] > same[0] + ROUNDING
    corrected["XᵀX held fixed"] = abs(same[1] - same[0]) <= ROUNDING
    measured = {"N/D": ratios, "log_condition": mean, "log_condition_stderr": error, "log_condition_fixed_gram": same}
    source = f"each difference between neighbouring N/D: {student_t.source(DRAWS)}"
    evidence = Evidence({"log_condition": limit}, measured, source, n=DRAWS, seed=SEED)
    return Finding(
        settle(printed, corrected), evidence, "κ rises as N falls to D and falls again below; fixed XᵀX: never"
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
    return own + factors.claims()
