"""E|T| by enumeration, T = Σ_g b_g (K_g − N_g p) with independent K_g ~ Bin(N_g, p): meet in the middle.

Entries with equal δ act as one binomial. Two halves of the groups are enumerated as sorted atoms; cumulative sums then
give E|S₁ + S₂| without forming the pairs, so 10¹³ joint outcomes cost two sorts. Atoms that coincide (commensurate δ)
are merged on the way, which makes lattice cases small. Checked by `tests/test_deviation_methods.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from allora_analysis.deviation import binomial

HALF = 2**21
"""Most atoms in one half."""
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Groups:
    """T = Σ_g size_g (K_g − trials_g · probability), by falling standard deviation; probability ≤ ½."""

    size: Float[np.ndarray, " groups"]
    trials: Float[np.ndarray, " groups"]
    probability: float

    @property
    def variance(self) -> Float[np.ndarray, " groups"]:
        """Each group's variance."""
        return self.trials * self.size**2 * (self.probability * (1 - self.probability))

    def tail(self, first: int) -> Groups:
        """The groups from index `first` on.

        Args:
            first: the index.

        Returns:
            Those groups.
        """
        return Groups(self.size[first:], self.trials[first:], self.probability)


def group(delta: Float[np.ndarray, " entries"], n: int, keep_prob: float) -> Groups:
    """Entries with equal δ as one binomial of n × multiplicity trials; δ = 0 dropped.

    The rarer of "kept" and "dropped" is counted (1 − p is exact in float64 for p ≥ ½, and the sign of T does not
    matter). Values that differ by a few roundings are one group: E|T| moves by as many roundings.

    Args:
        delta: δ of the entries.
        n: number of masks.
        keep_prob: p in (0, 1).

    Returns:
        The groups.
    """
    values, multiplicity = np.unique(delta[delta != 0], return_counts=True)
    new = np.concatenate([[True], np.diff(values) > 8 * EPS * np.abs(values[1:])])
    starts = np.flatnonzero(new)
    trials = np.add.reduceat(multiplicity, starts).astype(np.float64)
    size = np.add.reduceat(values * multiplicity, starts) / trials
    order = np.argsort(-np.abs(size) * np.sqrt(trials), kind="stable")
    return Groups(size[order], n * trials[order], min(keep_prob, 1 - keep_prob))


def atoms_of(groups: Groups, index: int) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    """The centred values of one group's term and their probabilities.

    Args:
        groups: the groups.
        index: which one.

    Returns:
        Values and probabilities.
    """
    trials = float(groups.trials[index])
    k = binomial.window(trials, groups.probability)
    weight = binomial.probabilities(k, np.full_like(k, trials), groups.probability)
    return groups.size[index] * (k - trials * groups.probability), weight


def merge(
    value: Float[np.ndarray, " size"], weight: Float[np.ndarray, " size"], width: float
) -> tuple[Float[np.ndarray, " merged"], Float[np.ndarray, " merged"], float]:
    """Sort atoms and join neighbours closer than `width` at their mean.

    Args:
        value: where the atoms sit.
        weight: their probabilities.
        width: the largest gap that is joined.

    Returns:
        Sorted values, weights, and a bound on the change of E|S + anything independent|.
    """
    order = np.argsort(value, kind="stable")
    value, weight = value[order], weight[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(value) > width]))
    if len(starts) == len(value):
        return value, weight, 0.0
    mass = np.add.reduceat(weight, starts)
    extent = value[np.append(starts[1:], len(value)) - 1] - value[starts]
    moment = np.add.reduceat(value * weight, starts)
    # An atom whose probability underflowed keeps its place.
    joined = np.where(mass > 0, moment / np.where(mass > 0, mass, 1.0), value[starts])
    return joined, mass, float(np.sum(mass * extent))


def half_law(
    groups: Groups, members: list[int], width: float
) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"], float] | None:
    """The law of a sum of some groups as sorted atoms, or None where more than `HALF` would be needed.

    Args:
        groups: all groups.
        members: the indices to sum.
        width: atoms closer than this are one.

    Returns:
        Sorted values, probabilities and the error of merging; or None.
    """
    lengths = [binomial.window_length(float(groups.trials[index]), groups.probability) for index in members]
    if _too_many(groups, members, lengths, width):
        return None
    left = sum(math.log(length) for length in lengths)
    value, weight, error = np.zeros(1), np.ones(1), 0.0
    for index, length in zip(members, lengths, strict=True):
        size = len(value) * length
        if size > HALF:
            return None
        left -= math.log(length)
        more, chance = atoms_of(groups, index)
        value, weight, change = merge((value[:, None] + more).ravel(), (weight[:, None] * chance).ravel(), width)
        error += change
        if size > 4096 and len(value) > 0.8 * size and math.log(size) + left > math.log(HALF):
            return None  # nothing coincides and the rest does not fit
    return value, weight, error


def _too_many(groups: Groups, members: list[int], lengths: list[int], width: float) -> bool:
    # Whether the first two groups do not fit, before either has an atom: the first one's atoms are |δ| apart.
    if len(members) < 2 or abs(groups.size[members[0]]) <= width:
        return False
    return lengths[0] * lengths[1] > HALF


def halves(groups: Groups) -> tuple[list[int], list[int]]:
    """The groups dealt onto two sides so that the numbers of joint outcomes balance.

    Args:
        groups: the groups.

    Returns:
        Indices of the two sides.
    """
    sizes = np.array([math.log(binomial.window_length(float(t), groups.probability)) for t in groups.trials])
    sides: tuple[list[int], list[int]] = ([], [])
    loads = [0.0, 0.0]
    for index in np.argsort(-sizes, kind="stable"):
        side = int(loads[1] < loads[0])
        sides[side].append(int(index))
        loads[side] += float(sizes[index])
    return sides


def expected_absolute_sum(
    one: tuple[Float[np.ndarray, " m1"], Float[np.ndarray, " m1"]],
    two: tuple[Float[np.ndarray, " m2"], Float[np.ndarray, " m2"]],
) -> float:
    """E|S₁ + S₂| = 2 E(S₁ + S₂)₊ for independent centred S₁, S₂ given as atoms, the second sorted: O(m log m).

    Rounding is relative to E|S₁| + E|S₂| ≤ 2 E|S₁ + S₂| (Jensen), so nothing is lost to cancellation.

    Args:
        one: values and probabilities of S₁.
        two: sorted values and probabilities of S₂.

    Returns:
        The expectation.
    """
    mass = np.append(np.cumsum(two[1][::-1])[::-1], 0.0)
    moment = np.append(np.cumsum((two[0] * two[1])[::-1])[::-1], 0.0)
    first = np.searchsorted(two[0], -one[0], side="right")
    return 2 * float(np.sum(one[1] * (one[0] * mass[first] + moment[first])))


def meet_in_the_middle(groups: Groups, floor: float) -> tuple[float, float] | None:
    """E|T| exactly, or None where a half has too many atoms.

    Args:
        groups: the groups.
        floor: a lower bound of E|T|, the scale of what may be merged.

    Returns:
        The expectation and a bound on its error (rounding and merging), or None.
    """
    if len(groups.size) > 256:
        return None
    laws = []
    for members in halves(groups):
        law = half_law(groups, members, 1e-14 * floor)
        if law is None:
            return None
        laws.append(law)
    (one, one_weight, one_error), (two, two_weight, two_error) = laws
    value = expected_absolute_sum((one, one_weight), (two, two_weight))
    rounding = 1e-14 * len(groups.size) + EPS * (len(one) + len(two))
    return value, rounding * value + one_error + two_error
