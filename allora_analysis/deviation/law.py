"""The exact law of the Monte Carlo error: E|L̄_n − E L| over n masks, and how it compares with the paper's bound.

Methods, by size: one distinct δ: de Moivre's closed form; up to about 10¹³ joint outcomes (more on a lattice): meet in
the middle; beyond: the characteristic function, after enumerating what dominates. `tests/test_deviation_exact.py`
checks the answers against brute force, `tests/test_deviation_methods.py` the methods against one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.deviation import binomial, characteristic, enumeration
from allora_analysis.deviation.enumeration import Groups
from allora_analysis.deviation.moments import jumps, problem, spread
from allora_analysis.validation import count, keep_probability

LIMIT = math.sqrt(2 / math.pi)
"""The ratio of the exact deviation to the bound as n → ∞ (central limit theorem)."""
TARGET = 2e-9
"""Relative error that the characteristic function aims at."""
FEW = 64
"""Most atoms of an enumerated part that go through the characteristic function."""
OUTCOMES = 2**20
"""Most joint outcomes of the settled atoms and one more group, above which its atoms are not even built."""
METHODS = ("constant", "closed form", "meet in the middle", "enumeration", "characteristic function")


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
    """A lower bound of E|T|/√(E T²): the largest term's own (Jensen), or (E T²)^{3/2}/(E T⁴)^{1/2} (Hölder).

    Args:
        groups: the terms of T.

    Returns:
        The bound, in (0, 1].
    """
    variance, p = groups.variance, groups.probability
    total = float(np.sum(variance))
    own = np.abs(groups.size[:64]) * binomial.mean_absolute_deviation(groups.trials[:64], p)
    fourth = 3 + (1 - 6 * p * (1 - p)) * float(np.sum(variance / total * (groups.size**2 / total)))
    return max(float(np.max(own)) / math.sqrt(total), 1 / math.sqrt(fourth))


@dataclass(frozen=True)
class Peeled:
    """E|T| after enumerating the first `depth` groups: atoms far from 0 are settled, as E|x + S| = |x| there."""

    depth: int
    settled: float
    place: Float[np.ndarray, " atoms"]
    mass: Float[np.ndarray, " atoms"]
    error: float


def peel(groups: Groups, width: float, most: int = 4096, steps: int = 2000) -> list[Peeled]:
    """Enumerate the groups one after another, largest first, settling each atom that the rest cannot bring to 0.

    Args:
        groups: the terms.
        width: atoms closer than this are one.
        most: stop where more atoms than this stay unsettled.
        steps: stop after so many groups.

    Returns:
        The state after 0, 1, 2, … groups.
    """
    state = Peeled(0, 0.0, np.zeros(1), np.ones(1), 0.0)
    states = [state]
    for index in range(min(len(groups.size), steps)):
        if binomial.window_length(float(groups.trials[index]), groups.probability) * len(state.place) > OUTCOMES:
            break
        value, weight = enumeration.atoms_of(groups, index)
        place, mass, error = enumeration.merge(
            (state.place[:, None] + value).ravel(), (state.mass[:, None] * weight).ravel(), width
        )
        reach, beyond = characteristic.radius(groups.tail(index + 1), 60.0)
        far = np.abs(place) >= reach
        settled = state.settled + float(np.sum(mass[far] * np.abs(place[far])))
        state = Peeled(index + 1, settled, place[~far], mass[~far], state.error + error + 2 * beyond)
        if len(state.place) > most:
            break
        states.append(state)
        if len(state.place) == 0:
            break
    return states


def smoothness(groups: Groups) -> float:
    """Largest jump over standard deviation: small where a sum of many terms has no visible atoms.

    Args:
        groups: the terms.

    Returns:
        The ratio; ∞ for no terms.
    """
    if len(groups.size) == 0:
        return math.inf
    return float(np.max(np.abs(groups.size))) / math.sqrt(float(np.sum(groups.variance)))


def by_characteristic_function(groups: Groups, floor: float) -> tuple[float, float, str]:
    """E|T| by enumerating what dominates (nothing, usually) and the characteristic function of the rest.

    Args:
        groups: the terms.
        floor: a lower bound of E|T|.

    Returns:
        The value, its error and the method.
    """
    states = peel(groups, 1e-14 * floor)
    last = states[-1]
    if last.depth == len(groups.size) or len(last.place) == 0:
        value = last.settled + float(np.sum(last.mass * np.abs(last.place)))
        return value, last.error + 1e-13 * value, "enumeration"
    few = [state for state in states if len(state.place) <= FEW]
    smooth = [smoothness(groups.tail(state.depth)) for state in few[:32]]
    best = int(np.argmin(smooth))
    first = few[best] if smooth[best] < 0.7 * smooth[0] else few[0]
    answer = _finish(groups, first, floor)
    if answer[1] > 2 * TARGET * floor and few[-1].depth != first.depth:
        answer = min(answer, _finish(groups, few[-1], floor), key=lambda pair: pair[1])
    return answer[0], answer[1], "characteristic function"


def _finish(groups: Groups, state: Peeled, floor: float) -> tuple[float, float]:
    rest = groups.tail(state.depth)
    value, error = characteristic.expectation(rest, state.place, state.mass, TARGET * floor)
    return state.settled + value, error + state.error + 1e-13 * (state.settled + value)


def expected_absolute(groups: Groups) -> tuple[float, float, str]:
    """E|T| by the first method that fits, for T of standard deviation about 1.

    Args:
        groups: the terms, at least one.

    Returns:
        The value, a bound on its error, and the method.
    """
    if len(groups.size) == 1:
        value = abs(float(groups.size[0])) * float(
            binomial.mean_absolute_deviation(groups.trials, groups.probability)[0]
        )
        return value, 1e-13 * value, "closed form"
    floor = floor_ratio(groups) * math.sqrt(float(np.sum(groups.variance)))
    exact = enumeration.meet_in_the_middle(groups, floor)
    if exact is not None:
        return *exact, "meet in the middle"
    return by_characteristic_function(groups, floor)


def deviation_of(delta: Float[np.ndarray, " entries"], keep_prob: float, n: int) -> Deviation:
    """The core of `exact_deviation`: from the entries' δ.

    Args:
        delta: δ of each entry.
        keep_prob: p in (0, 1].
        n: number of masks.

    Returns:
        The deviation.
    """
    std = spread(delta[None, :], keep_prob)
    limit = std / math.sqrt(n)
    if limit == 0.0:
        return Deviation(0.0, 0.0, "constant", limit, LIMIT)
    # In units of the sum's standard deviation, ratio = E|T|: nothing under- or overflows.
    groups = enumeration.group(delta / std / math.sqrt(n), n, keep_prob)
    ratio, error, method = expected_absolute(groups)
    return Deviation(ratio * limit, error * limit, method, limit, ratio)


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

    Examples:
        >>> from allora_analysis.deviation import mean_absolute_deviation
        >>> print(round(mean_absolute_deviation([[1.0]], [[0.0]], [[2.0]], keep_prob=0.5, n=1), 9))  # 0 or 16, mean 8
        8.0
    """
    return exact_deviation(x, y, w, keep_prob, n).value


def ratio(x: ArrayLike, y: ArrayLike, w: ArrayLike, keep_prob: float, n: int) -> float:
    """E|L̄_n − E L| over Std[L]/√n, in (0, 1]; √(2/π) as n → ∞ and, by convention, where both are 0.

    Returns:
        The ratio; arguments as in `exact_deviation`.
    """
    return exact_deviation(x, y, w, keep_prob, n).ratio
