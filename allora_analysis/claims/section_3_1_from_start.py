"""§3.1, after the bound: how the standard deviations over masks move in training, from zero and from random matrices.

`section_3_1_deviation.claims` lists these rows. Closed forms along gradient descent. Checked by
`tests/test_claims_deviation.py`, which plants wrong formulas.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np

from allora_analysis import deviation
from allora_analysis.claims.ledger import Evidence, Finding, relative_error, settle

COMMAND = "python -m allora_analysis.deviation"
TEST = "tests/test_deviation_exact.py"
AFTER = "§3.1, the paragraph after the bound"
SEED = 34
KEEP_PROBS = (0.1, 0.5, 0.95)
NOISE = 0.5  # standard deviation of the noise in Y; the signal's is about 1
NOISES, DRAWS = (NOISE, 2.0, 5.0, 50.0), 60
EXPLAINED = 0.5  # of ‖Y‖²
SCALES, STARTS = (0.1, 1.0, 3.0), 200


def problem(n: int, d: int, c: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard normal X and Y, and normal weights of standard deviation 1/√D.

    Args:
        n: rows N.
        d: columns D of X.
        c: columns C of Y.
        seed: of the draw.

    Returns:
        X (N×D), Y (N×C) and W (D×C).
    """
    generator = np.random.default_rng([seed, n, d, c])
    x, w, y = (generator.standard_normal(shape) for shape in ((n, d), (d, c), (n, c)))
    return x, y, w / math.sqrt(d)


def _trained(seed: int, noise: float = NOISE) -> tuple[np.ndarray, np.ndarray]:
    x, error, w = problem(24, 4, 3, seed)
    return x, x @ w + noise * error


def _descent(x: np.ndarray, y: np.ndarray, keep_prob: float) -> list[np.ndarray]:
    # Gradient descent on the expected loss from W = 0.
    gram, w, path = x.T @ x, np.zeros((x.shape[1], y.shape[1])), []
    rate = keep_prob / (2 * np.linalg.norm(gram, 2))
    for _ in range(100):
        path.append(w)
        w = w - 2 * rate * (gram @ w / keep_prob - x.T @ y)
    return path


def check_loss_from_zero() -> Finding:
    """Std[L] along training from W = 0: exactly 0 at the start, so that it can only rise.

    Returns:
        The finding.
    """
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for seed, p in itertools.product(range(4), KEEP_PROBS):
        case, (x, y) = f"data {seed}, p = {p}", _trained(seed)
        stds = [deviation.loss_moments(x, y, w, p)[1] for w in _descent(x, y, p)]
        predicted[f"{case}: at W = 0"] = 0.0
        measured[f"{case}: at W = 0"], measured[f"{case}: after training"] = stds[0], stds[-1]
        printed[case] = stds[-1] < stds[0]
        corrected[case] = stds[0] == 0.0 and min(stds[1:]) > 0.0
    text = "Compared to LoRA's zero initialisation Std[L] increases: Var[L] = ((1 − p)/p) Σ Z²(Z/p − 2Y)² is exactly 0 "
    text += "at Z = XW = 0 and positive once training has begun."
    error, source = max(measured[name] for name in predicted), "exact: every term has the factor Z = 0"
    evidence = Evidence(predicted, measured, source, error, 0.0, seed=0)
    return Finding(settle(printed, corrected, contrary=True), evidence, text)


def _random_start(x: np.ndarray, y: np.ndarray, p: float, scale: float) -> float:
    """√(E Var[L]) over W with independent N(0, scale²/D) entries: Z is N(0, σ²) in row n, σ² = scale²‖X_n‖²/D.

    Returns:
        √(k Σ (3σ⁴/p² + 4Y²σ²)), k = (1 − p)/p; the term odd in Z has mean 0.
    """
    square = scale**2 * np.mean(x**2, axis=1, keepdims=True)
    return math.sqrt((1 - p) / p * float(np.sum(3 * square**2 / p**2 + 4 * y**2 * square)))


def _threshold(x: np.ndarray, y: np.ndarray) -> float:
    """The start's scale over p at which Std[L] after training, at Z = pXX⁺Y, is the random start's.

    With v = (scale/p)² and m_n = ‖X_n‖²/D: 3 Σ m² v² + 4 Σ Y²m v = Σ F²(F − 2Y)², F = XX⁺Y, free of p.

    Returns:
        √v.
    """
    mean, fit = np.mean(x**2, axis=1, keepdims=True), x @ np.linalg.lstsq(x, y, rcond=None)[0]
    a, b = 3 * y.shape[1] * float(np.sum(mean**2)), 4 * float(np.sum(y**2 * mean))
    c = float(np.sum(fit**2 * (fit - 2 * y) ** 2))
    return math.sqrt((math.sqrt(b**2 + 4 * a * c) - b) / (2 * a))


def check_loss_from_random() -> Finding:
    """Std[L] after training over that of random starts of several scales, with the scale at which it turns.

    Returns:
        The finding.
    """
    from scipy.special import ndtri

    printed, corrected, predicted, measured, scores, turns = {}, {}, {}, {}, [], []
    cases = tuple(itertools.product(range(4), KEEP_PROBS, SCALES))
    limit = float(-ndtri(1e-6 / len(cases) / 2))
    for index, (seed, p, scale) in enumerate(cases):
        case, (x, y) = f"data {seed}, p = {p}, scale {scale:g}", _trained(seed)
        generator = np.random.default_rng([SEED, index])
        starts = scale / math.sqrt(x.shape[1]) * generator.standard_normal((STARTS, x.shape[1], y.shape[1]))
        variances = [deviation.loss_moments(x, y, w, p)[1] ** 2 for w in starts]
        start, after = float(np.mean(variances)), deviation.loss_moments(x, y, _descent(x, y, p)[-1], p)[1]
        turns.append(_threshold(x, y))
        predicted[f"{case}: at the start"] = _random_start(x, y, p, scale)
        measured[f"{case}: at the start, after training"] = [math.sqrt(start), after]
        spread = float(np.std(variances, ddof=1)) / math.sqrt(STARTS)
        scores.append(abs(start - predicted[f"{case}: at the start"] ** 2) / spread)
        printed[case] = after < math.sqrt(start)
        corrected[case] = printed[case] == (scale > p * turns[-1]) and scores[-1] < limit
    text = (
        "depends on the start's scale: Std[L] falls from random matrices with large entries and rises from small ones, "
        f"as it does from 0. It turns where their standard deviation is {min(turns):.2f}p to {max(turns):.2f}p times "
        f"the true weights' (p: keep probability; by data set, the noise in Y {NOISE:g} of the signal)"
    )
    source = f"|z| of the mean of Var[L] over {STARTS} random starts, at a false-fail rate of 1e-6 over the cases"
    evidence = Evidence(predicted, measured, source, max(scores), limit, n=STARTS, seed=SEED)
    return Finding(settle(printed, corrected), evidence, text)


def _shares(x: np.ndarray, y: np.ndarray, p: float) -> tuple[float, float, float, float]:
    """Std of the gradient's entries: mean and worst after training over before, the formula's error, and the fit.

    Returns:
        The two shares; the relative error at W = 0 of 2√(k (X²)ᵀY²); the part of ‖Y‖² that Z/p explains in the end.
    """
    path = _descent(x, y, p)
    first, last = (deviation.gradient_std(x, y, w, p) for w in (path[0], path[-1]))
    error = relative_error(first, 2 * np.sqrt((1 - p) / p * (x**2).T @ y**2))
    explained = 1 - float(np.sum((y - x @ path[-1] / p) ** 2) / np.sum(y**2))
    return float(np.mean(last) / np.mean(first)), float(np.max(last) / np.max(first)), error, explained


def check_gradient_from_zero() -> Finding:
    """Std of the gradient's entries along training from W = 0 in this linear model, as the noise in Y grows.

    Returns:
        The finding.
    """
    printed, corrected, measured, errors, passing, well = {}, {}, {}, [], Counter(), []
    for noise, seed in itertools.product(NOISES, range(DRAWS)):
        case, (x, y) = f"noise {noise:g} of signal 1, data {seed}", _trained(seed, noise)
        mean, worst, error, explained = _shares(x, y, 0.5)
        for p in KEEP_PROBS if seed == 0 else ():
            *others, again, _ = _shares(x, y, p)
            error = max(error, again, relative_error(others, [mean, worst]))
        errors.append(error)
        printed[case] = mean < 1 < worst
        passing[noise] += printed[case]
        well += [max(mean, worst)] if explained >= EXPLAINED else []
        corrected[case] = error < 1e-9 and (explained < EXPLAINED or max(mean, worst) < 1)
        measured[case] = {"mean and worst, after over before": [mean, worst], "part of ‖Y‖² explained": explained}
    by_noise = ", ".join(f"{passing[noise]} of {DRAWS} at noise {noise:g}" for noise in NOISES)
    text = (
        f"only on some data whose noise hides the signal: {by_noise} times the signal. Where XX⁺Y explains "
        f"{EXPLAINED:g} of ‖Y‖² or more, average and worst entry both fell, in all {len(well)} such data sets. Entry "
        "(d, c) has Std 2√(((1 − p)/p) Σ X²(Y − Z/p)²), not 0 at Z = 0, and training leaves the same share of it at "
        "every p. Figure 1 shows an MLP, another model"
    )
    source = "float64 rounding: the formula at W = 0, and shares that no p changes"
    evidence = Evidence({"formula and shares: error": 0.0}, measured, source, max(errors), 1e-9, n=len(printed), seed=0)
    return Finding(settle(printed, corrected, contrary=not any(printed.values())), evidence, text)


STD = "the variance of the current approximation against the targets (Std[‖Y − (XW) ⊙ V‖²_F]) will decrease on average"
ROWS = (
    (
        "3.1-loss-std-from-zero",
        AFTER,
        f"{STD} […] compared to initialization with […] zero matrices with LoRA",
        check_loss_from_zero,
    ),
    (
        "3.1-loss-std-from-random",
        AFTER,
        f"{STD} […] compared to initialization with random matrices",
        check_loss_from_random,
    ),
    (
        "3.1-gradient-std-from-zero",
        AFTER,
        f"{STD} but increase in the worst case compared to initialization with […] zero matrices with LoRA (read: of "
        "the gradients' entries, which the next sentence looks at, in the linear model of §3.1)",
        check_gradient_from_zero,
    ),
)
