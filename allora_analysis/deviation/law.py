"""The law of the masked loss: its moments, the paper's bound, and how far an average over n masks is from its mean.

Mask on the output, as the paper draws it (§3.1, Appendix A). Entry j = (n, c) of L = ‖Y − Z⊙V‖², Z = XW, is a two-point
variable: Y² where the mask drops it and (Y − Z/p)² where it keeps it, so L − E L = Σ_j δ_j (v_j − p) with independent
v_j ~ Bernoulli(p) and δ_j = Z_j (Z_j/p − 2Y_j)/p.

E|L̄_n − E L| exactly, by size: one distinct δ: de Moivre's closed form; up to about 10¹³ joint outcomes (more on a
lattice): meet in the middle; beyond: the characteristic function, after enumerating what dominates.
`tests/test_deviation_exact.py` checks the answers against brute force,
`tests/test_deviation_methods.py` the methods against one another.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.deviation import methods
from allora_analysis.deviation.methods import Groups, binomial_deviation
from allora_analysis.validation import (
    ArgumentError,
    count,
    keep_probability,
    matrix,
    matrix_of,
    representable,
    unit_scaled,
)

# Shapes by the paper's letters: the design, the targets or what has their shape, the weights.
X, Y, W = Float[np.ndarray, "N D"], Float[np.ndarray, "N C"], Float[np.ndarray, "D C"]

LIMIT = math.sqrt(2 / math.pi)
"""The ratio of the exact deviation to the bound as n → ∞ (central limit theorem)."""
TARGET = 2e-9
"""Relative error that the characteristic function aims at, and that rare atoms may have altogether."""
KNOWN = 1e-6
"""Largest relative error of an answer that is given without its bar."""
FEW = 64
"""Most atoms of an enumerated part that go through the characteristic function."""
OUTCOMES = 2**20
"""Most joint outcomes of the settled atoms and one more group, above which its atoms are not even built."""
METHODS = ("constant", "closed form", "meet in the middle", "enumeration", "characteristic function")
CHUNK = 2**18
"""Binomial draws of the sampled twin held at once."""


def problem(x: ArrayLike, y: ArrayLike, w: ArrayLike) -> tuple[X, Y, W]:
    """The three matrices of the linear model, with matching shapes."""
    design = matrix("x", x)
    targets = matrix_of("y", y, (design.shape[0], None), "the N rows of x")
    weights = matrix_of("w", w, (design.shape[1], targets.shape[1]), "the D columns of x and the C columns of y")
    return design, targets, weights


def jumps(z: Y, y: Y, keep_prob: float) -> Y:
    """δ = Z(Z/p − 2Y)/p: by how much the loss changes when an entry is kept instead of dropped."""
    with np.errstate(over="ignore", invalid="ignore"):
        delta = z / keep_prob * (z / keep_prob - 2 * y)
        loss = np.sum(y**2) + np.sum((z / keep_prob) ** 2) + np.sum(np.abs(delta))
    if not np.isfinite(loss):
        raise ArgumentError(
            f"x, y, w: the loss overflows float64 (max |XW|/keep_prob = {np.max(np.abs(z)) / keep_prob:.3g}, "
            f"max |y| = {np.max(np.abs(y)):.3g}); scale the targets and weights below 1e150"
        )
    return delta


def _spread(delta: Y, keep_prob: float) -> float:
    """Std[L] = √(p(1 − p) Σδ²), free of overflow and underflow."""
    scale = float(np.max(np.abs(delta)))
    if scale == 0.0 or keep_prob == 1.0:
        return 0.0
    return scale * math.sqrt(keep_prob * (1 - keep_prob) * float(np.sum((delta / scale) ** 2)))


@representable("x", "y", "w", "keep_prob")
def loss_moments(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float) -> tuple[float, float]:
    """E L = ‖Y − Z‖² + k‖Z‖² and Std[L] = √(k Σ Z²(Z/p − 2Y)²), k = (1 − p)/p, over masks V with entries in {0, 1/p}.

    Source: §3.1 (the expectation) and Appendix A (the variance is left open there). Std is exactly 0 at Z = 0, LoRA's
    initialization. Test: `tests/test_deviation_exact.py`, against all masks.

    Args:
        x: X (N×D), the design.
        y: Y (N×C), the targets (with a frozen W*, the residual Y − XW*).
        w: W (D×C), the weights.
        keep_prob: p in (0, 1].

    Returns:
        Mean and standard deviation, in the loss's unit.

    Examples:
        >>> from allora_analysis.deviation import loss_moments
        >>> mean, std = loss_moments([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5)  # the loss is 0 or 16, with equal chance
        >>> print(round(mean, 9), round(std, 9))
        8.0 8.0
    """
    return moments_of(*problem(x, y, w), keep_probability(keep_prob))


def moments_of(x: X, y: Y, w: W, keep_prob: float) -> tuple[float, float]:
    """The core of `loss_moments`."""
    z = x @ w
    delta = jumps(z, y, keep_prob)
    mean = float(np.sum((y - z) ** 2) + (1 - keep_prob) / keep_prob * np.sum(z**2))
    return mean, _spread(delta, keep_prob)


@representable("x", "y", "w", "keep_prob", "n")
def bound(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> float:
    """The paper's bound Std[L]/√n on E|L̄_n − E L|, the mean distance of an average over n masks from its expectation.

    Source: §3.1, display "A first naive bound"; Appendix A. It is the Cauchy–Schwarz inequality E|T| ≤ √(E T²).

    Arguments as in `exact_deviation`.

    Returns:
        The bound, in the loss's unit.

    Examples:
        >>> from allora_analysis.deviation import bound
        >>> print(round(bound([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5, n=4), 9))  # 8/√4
        4.0
    """
    return loss_moments(x, y, w, keep_prob)[1] / math.sqrt(count("n", n))


@representable("x", "y", "w", "keep_prob")
def gradient_std(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float) -> W:
    """Std over masks of entry (d, c) of ∂L/∂W: √(4k Σ_n X²_nd (Y_nc − Z_nc/p)²), k = (1 − p)/p.

    ∂L/∂W_dc = −2 Σ_n X_nd v_nc (Y_nc − Z_nc v_nc) with v in {0, 1/p}: a kept entry contributes
    −2 X_nd (Y_nc − Z_nc/p)/p, a dropped one nothing. At Z = 0 this is 2√(k Σ X²Y²), not zero, where Std[L] is.
    Source: claim behind Figure 1, for the linear model of §3.1. Test: `tests/test_deviation_exact.py`.

    Arguments as in `exact_deviation`.

    Returns:
        The standard deviations (D×C), in the loss's unit over the weight's.

    Examples:
        >>> from allora_analysis.deviation import gradient_std
        >>> gradient_std([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5).round(9).tolist()  # the gradient is 0 or 16
        [[8.0]]
    """
    design, targets, weights = problem(x, y, w)
    kept = keep_probability(keep_prob)
    jumps(design @ weights, targets, kept)  # refuses what overflows
    residual = targets - design @ weights / kept
    return gradient_spread(design, residual, kept)


def gradient_spread(x: X, residual: Y, keep_prob: float) -> W:
    """√(4k (X²)ᵀ(Y − Z/p)²), the core of `gradient_std`."""
    of_x, of_residual = (np.where((top := np.abs(part).max(axis=0)) > 0, top, 1.0) for part in (x, residual))
    left, right = x / of_x, residual / of_residual
    sums = np.sqrt((left**2).T @ right**2)  # no square overflows
    crossed = (sums < 1e-140) & left.any(axis=0)[:, None] & right.any(axis=0)
    for d, c in np.argwhere(crossed):  # squares that vanish, as large entries meet small ones alone
        products = left[:, d] * right[:, c]
        top = float(np.abs(products).max()) or 1.0
        sums[d, c] = top * np.linalg.norm(products / top)
    return 2 * math.sqrt((1 - keep_prob) / keep_prob) * of_x[:, None] * sums * of_residual


@dataclass(frozen=True)
class Deviation:
    """E|L̄_n − E L| with what is known about it.

    Attributes:
        value: the expectation, in the loss's unit.
        error: a bound on |value − truth|: smoothing and truncation (certified) plus an estimate of rounding.
        method: one of `METHODS`.
        bound: the paper's Std[L]/√n.
        ratio: value / bound; at bound 0 (Z = 0, keep_prob 1, …) the limit √(2/π), though both are 0.
    """

    value: float
    error: float
    method: str
    bound: float
    ratio: float


def floor_ratio(groups: Groups) -> float:
    """A lower bound of E|T|/√(E T²): the largest term's own (Jensen), or (E T²)^{3/2}/(E T⁴)^{1/2} (Hölder)."""
    variance, p = groups.variance, groups.probability
    total = float(np.sum(variance))
    own = np.abs(groups.size[:64]) * binomial_deviation(groups.trials[:64], p)
    fourth = 3 + (1 - 6 * p * (1 - p)) * float(np.sum(variance / total * (groups.size**2 / total)))
    return max(float(np.max(own)) / math.sqrt(total), 1 / math.sqrt(fourth))


@dataclass(frozen=True)
class _Peeled:
    """E|T| after enumerating the first `depth` groups: atoms far from 0 are settled, as E|x + S| = |x| there."""

    depth: int
    settled: float
    place: Float[np.ndarray, " atoms"]
    mass: Float[np.ndarray, " atoms"]
    error: float


def peel(groups: Groups, width: float, most: int = 4096, spare: float = 0.0) -> list[_Peeled]:
    """Enumerate the groups one after another, largest first, settling each atom that the rest cannot bring to 0.

    And each that the rest S may bring there, but so seldom that all of them stay within an error of `spare`:
    |x| ≤ E|x + S| ≤ √(x² + Var S), by Jensen's inequality.
    """
    state = _Peeled(0, 0.0, np.zeros(1), np.ones(1), 0.0)
    states = [state]
    for index in range(min(len(groups.size), 2000)):
        if methods.window_length(float(groups.trials[index]), groups.probability) * len(state.place) > OUTCOMES:
            break
        value, weight = methods.atoms_of(groups, index)
        place, mass, error = methods.merge(
            (state.place[:, None] + value).ravel(), (state.mass[:, None] * weight).ravel(), width
        )
        reach, beyond = methods.radius(groups.tail(index + 1), 60.0)
        far = np.abs(place) >= reach
        amiss = _settling_error(groups.tail(index + 1), place, np.where(far, 0.0, mass))
        order = np.argsort(amiss, kind="stable")
        far[order[np.cumsum(amiss[order]) <= spare / len(groups.size)]] = True
        settled = state.settled + float(np.sum(mass[far] * np.abs(place[far])))
        error += state.error + 2 * beyond + float(np.sum(amiss[far]))
        state = _Peeled(index + 1, settled, place[~far], mass[~far], error)
        if len(state.place) > most:
            break
        states.append(state)
        if len(state.place) == 0:
            break
    return states


def _settling_error(
    rest: Groups, place: Float[np.ndarray, " atoms"], mass: Float[np.ndarray, " atoms"]
) -> Float[np.ndarray, " atoms"]:
    """What √(x² + Var S) − |x| comes to by mass; nothing of it cancels."""
    variance = float(np.sum(rest.variance))
    return mass * variance / np.maximum(np.hypot(place, math.sqrt(variance)) + np.abs(place), np.finfo(float).tiny)


def smoothness(groups: Groups) -> float:
    """Largest jump over standard deviation: small where a sum of many terms has no visible atoms."""
    if len(groups.size) == 0:
        return math.inf
    return float(np.max(np.abs(groups.size))) / math.sqrt(float(np.sum(groups.variance)))


def by_characteristic_function(groups: Groups, floor: float) -> tuple[float, float, str]:
    """E|T| by enumerating what dominates (nothing, usually) and the characteristic function of the rest."""
    states = peel(groups, 1e-14 * floor)
    rare = states if len(states[-1].place) == 0 else peel(groups, 1e-14 * floor, spare=TARGET * floor)
    last = rare[-1]
    if len(last.place) == 0:  # all is settled, at the latest after the last group
        return last.settled, last.error + 1e-13 * last.settled, "enumeration"
    few = [state for state in states if len(state.place) <= FEW]
    smooth = [smoothness(groups.tail(state.depth)) for state in few[:32]]
    best = int(np.argmin(smooth))
    first = few[best] if smooth[best] < 0.7 * smooth[0] else few[0]
    answer = _finish(groups, first, floor)
    if answer[1] > 2 * TARGET * floor and few[-1].depth != first.depth:
        answer = min(answer, _finish(groups, few[-1], floor), key=lambda pair: pair[1])
    return answer[0], answer[1], "characteristic function"


def _finish(groups: Groups, state: _Peeled, floor: float) -> tuple[float, float]:
    rest = groups.tail(state.depth)
    value, error = methods.expectation(rest, state.place, state.mass, TARGET * floor)
    return state.settled + value, error + state.error + 1e-13 * (state.settled + value)


def expected_absolute(groups: Groups) -> tuple[float, float, str]:
    """E|T| by the first method that fits, for T of standard deviation about 1."""
    if len(groups.size) == 1:
        value = abs(float(groups.size[0])) * float(binomial_deviation(groups.trials, groups.probability)[0])
        return value, 1e-13 * value, "closed form"
    floor = floor_ratio(groups) * math.sqrt(float(np.sum(groups.variance)))
    exact = methods.meet_in_the_middle(groups, floor)
    if exact is not None:
        return *exact, "meet in the middle"
    return by_characteristic_function(groups, floor)


def deviation_of(delta: Float[np.ndarray, " entries"], keep_prob: float, n: int) -> Deviation:
    """The core of `exact_deviation`: from the entries' δ."""
    std = _spread(delta[None, :], keep_prob)
    limit = std / math.sqrt(n)
    if limit == 0.0:
        return Deviation(0.0, 0.0, "constant", limit, LIMIT)
    # In units of the sum's standard deviation, ratio = E|T|: nothing under- or overflows.
    groups = methods.group(delta / std / math.sqrt(n), n, keep_prob)
    ratio, error, method = expected_absolute(groups)
    return Deviation(ratio * limit, error * limit, method, limit, ratio)


@representable("x", "y", "w", "keep_prob", "n")
def exact_deviation(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> Deviation:
    """E|L̄_n − E L| for the average of the loss L = ‖Y − (XW)⊙V‖² over n independent masks, without sampling.

    L̄_n − E L = Σ_j δ_j (K_j/n − p), K_j ~ Bin(n, p) independent. Source: §3.1, left side of the display "A first naive
    bound". Assumes masks on the output. Test: `tests/test_deviation_exact.py`.

    Args:
        x: X (N×D).
        y: Y (N×C).
        w: W (D×C).
        keep_prob: p in (0, 1].
        n: number of masks, 1 or above.

    Returns:
        Value, error bar, method, the paper's bound and the ratio of the two.
    """
    design, targets, weights = problem(x, y, w)
    kept, masks = keep_probability(keep_prob), count("n", n)
    return deviation_of(jumps(design @ weights, targets, kept).ravel(), kept, masks)


def mean_absolute_deviation(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> float:
    """E|L̄_n − E L|: the value of `exact_deviation`, whose arguments these are.

    Returns:
        The expectation, in the loss's unit.

    Raises:
        ArgumentError: an error bar above 10⁻⁶ of the value: there `exact_deviation` tells both.

    Examples:
        >>> from allora_analysis.deviation import mean_absolute_deviation
        >>> print(round(mean_absolute_deviation([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5, n=1), 9))  # 0 or 16, mean 8
        8.0
    """
    return _known(exact_deviation(x, y, w, keep_prob, n)).value


def _known(found: Deviation) -> Deviation:
    """What is known to 10⁻⁶ of itself."""
    if found.error > KNOWN * found.value:
        raise ArgumentError(
            f"keep_prob, n: the deviation is known only as {found.value:.3g} ± {found.error:.1g}; exact_deviation "
            "gives both"
        )
    return found


def ratio(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> float:
    """E|L̄_n − E L| over Std[L]/√n, in (0, 1]; √(2/π) as n → ∞ and, by convention, where both are 0.

    Returns:
        The ratio; arguments as in `exact_deviation`.

    Raises:
        ArgumentError: as `mean_absolute_deviation`.
    """
    return _known(exact_deviation(x, y, w, keep_prob, n)).ratio


@dataclass(frozen=True)
class Estimate:
    """A sample mean and its standard error over `draws` independent draws."""

    mean: float
    stderr: float
    draws: int


def deviations(
    delta: Float[np.ndarray, " entries"], keep_prob: float, n: int, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Independent draws of |Σ_j δ_j (K_j/n − p)|; the draws do not depend on the size of the chunks."""
    rows = max(1, CHUNK // len(delta))
    parts = []
    for first in range(0, draws, rows):
        kept = generator.binomial(n, keep_prob, size=(min(rows, draws - first), len(delta)))
        parts.append(np.abs((kept - n * keep_prob) @ delta / n))
    return np.concatenate(parts)


def sample_of(
    delta: Float[np.ndarray, " entries"], keep_prob: float, n: int, draws: int, generator: np.random.Generator
) -> Estimate:
    """E|L̄_n − E L| estimated, from the entries' δ: the twin of `deviation_of`, by drawing how often each was kept.

    K_j ~ Bin(n, p) carries all that n masks do to an average, so n = 10⁶ masks cost one draw an entry. Checked by
    `tests/test_deviation_study.py`.
    """
    delta, exponent = unit_scaled(delta)  # no square of a deviation vanishes
    sample = deviations(delta, keep_prob, n, draws, generator)
    mean, stderr = float(np.mean(sample)), float(np.std(sample, ddof=1)) / math.sqrt(draws)
    return Estimate(math.ldexp(mean, exponent), math.ldexp(stderr, exponent), draws)
