"""E|T|, T = Σ_g b_g (K_g − N_g p) with independent K_g ~ Bin(N_g, p), by two methods and the binomial law below them.

**The binomial law.** Probabilities and mean absolute deviations are right to nearly full precision, for counts up to
10¹². Differences of log Γ lose 10⁻³ at such counts; Loader's saddle-point form loses nothing: each term is a small
quantity computed as such. Source: C. Loader (2000), "Fast and accurate computation of binomial probabilities". Entries
with equal δ act as one binomial, a group.

**Meet in the middle.** Two halves of the groups are enumerated as sorted atoms; cumulative sums then give E|S₁ + S₂|
without forming the pairs, so 10¹³ joint outcomes cost two sorts. Atoms that coincide (commensurate δ) are merged on the
way, which makes lattice cases small.

**The characteristic function** φ of T, with a certified error. Inside |x| ≤ M, |x| is the triangle wave
f(x) = M/2 − (4M/π²) Σ_{k odd > 0} cos(πkx/M)/k², so E f(T) is a series in Re φ(πk/M): no quadrature. It is cut off by
smoothing, which is what makes the error certain even where φ never decays (few atoms, resonance): with G standard
normal and T of standard deviation 1,

    0 ≤ E|T + σG| − E|T| ≤ B = σ√(2/π) E exp(−T²/2σ²),

as E|x + σG| − |x| = 2σ[ϕ(u) − u(1 − Φ(u))] ≤ 2σϕ(u), u = |x|/σ. Both E f(T + σG) and B are sums over the *same* φ
values times exp(−σ²t²/2), which is 10⁻⁸ where the series is cut. The answer is E f(T + σG) − B/2 ± B/2; where T has a
density at scale σ, B/2 is the smoothing's bias itself and the true error is far below the bar. The bar falls as σ².
Equivalent to E|T| = (2/π)∫₀^∞ (1 − Re φ(t))/t² dt.

Checked by `tests/test_deviation_methods.py`, against mpmath and against one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Atoms, or their probabilities.
Vector = Float[np.ndarray, " size"]

HALF = 2**21
"""Most atoms in one half."""
EPS = float(np.finfo(np.float64).eps)
# log n! − log(√(2πn)(n/e)ⁿ) below 16, where Stirling's series is not yet exact to rounding; entry 0 is never used.
_SMALL = np.array(
    [0.0] + [math.log(math.factorial(k) / k**k * math.exp(k) / math.sqrt(2 * math.pi * k)) for k in range(1, 16)]
)
CUT = 6.0
"""σ × the largest frequency: exp(−CUT²/2) = 1.5·10⁻⁸ of an already small remainder is left out."""
DEAD = -45.0
"""Where log|φ| falls below this, φ is 0."""
POINTS, MOST_POINTS = 2**12, 2**20
"""Frequencies of the first and of the last stage."""
EVALUATIONS = 1.5e8
"""Budget: (frequency, group) pairs, 20 to 50 ns each."""


def stirling_error(k: Vector) -> Vector:
    """The logarithm of k! over √(2πk)(k/e)ᵏ, for whole k ≥ 1."""
    square = 1 / np.maximum(k, 16.0) ** 2
    series = 1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    return np.where(k < 16, _SMALL[np.minimum(k, 15).astype(int)], series / np.maximum(k, 16.0))


def _relative_entropy(gap: Vector, mean: Vector) -> Vector:
    """m·h(g/m) with h(ε) = (1 + ε)log(1 + ε) − ε, free of cancellation near g = 0."""
    value = mean + gap
    v = gap / (value + mean)
    square = np.minimum(v**2, 0.01)
    series = sum(square**j / (2 * j + 1) for j in range(9, 0, -1))
    near = gap * v + 2 * value * v * series
    far = value * np.log(np.maximum(value, 1e-300) / mean) - gap
    return np.where(np.abs(v) < 0.1, near, far)


def binomial_probabilities(k: Vector, trials: Vector, probability: float) -> Vector:
    """P(K = k) for K ~ Bin(trials, probability), entry by entry."""
    inner = np.maximum(k, 1)
    rest = np.maximum(trials - inner, 1)
    gap = inner - trials * probability
    exponent = stirling_error(trials) - stirling_error(inner) - stirling_error(rest)
    exponent -= _relative_entropy(gap, trials * probability) + _relative_entropy(-gap, trials * (1 - probability))
    saddle = np.sqrt(trials / (2 * np.pi * inner * rest)) * np.exp(exponent)
    none, every = np.exp(trials * math.log1p(-probability)), np.exp(trials * math.log(probability))
    return np.where(k == 0, none, np.where(k == trials, every, saddle))


def binomial_deviation(trials: Vector, probability: float) -> Vector:
    """E|K − Np| = 2ν(1 − p)P(K = ν), ν = ⌊Np⌋ + 1, for K ~ Bin(N, p): de Moivre (1730)."""
    # The value is continuous where Np is whole, so a rounded ⌊Np⌋ does no harm.
    above = np.floor(trials * probability) + 1
    return 2 * above * (1 - probability) * binomial_probabilities(above, trials, probability)


def window(trials: float, probability: float) -> Vector:
    """The values of K that matter."""
    # Outside, Bin(trials, probability) has mass below 2·10⁻²² (Bernstein's inequality).
    low, high = _ends(trials, probability)
    return np.arange(low, high + 1, dtype=np.float64)


def window_length(trials: float, probability: float) -> int:
    """How many values `window` has, without them."""
    low, high = _ends(trials, probability)
    return int(high - low) + 1


def _ends(trials: float, probability: float) -> tuple[float, float]:
    exponent = 51.0
    reach = exponent / 3 + math.sqrt(exponent**2 / 9 + 2 * exponent * trials * probability * (1 - probability))
    low = max(0, math.floor(trials * probability - reach))
    return low, min(trials, math.ceil(trials * probability + reach))


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
        """The groups from index `first` on."""
        return Groups(self.size[first:], self.trials[first:], self.probability)


def group(delta: Float[np.ndarray, " entries"], n: int, keep_prob: float) -> Groups:
    """Entries with equal δ as one binomial of n × multiplicity trials; δ = 0 dropped."""
    # The rarer of "kept" and "dropped" is counted (1 − p is exact in float64 for p ≥ ½, and the sign of T does not
    # matter). Values that differ by a few roundings are one group: E|T| moves by as many roundings.
    values, multiplicity = np.unique(delta[delta != 0], return_counts=True)
    new = np.concatenate([[True], np.diff(values) > 8 * EPS * np.abs(values[1:])])
    starts = np.flatnonzero(new)
    trials = np.add.reduceat(multiplicity, starts).astype(np.float64)
    size = np.add.reduceat(values * multiplicity, starts) / trials
    order = np.argsort(-np.abs(size) * np.sqrt(trials), kind="stable")
    return Groups(size[order], n * trials[order], min(keep_prob, 1 - keep_prob))


def atoms_of(groups: Groups, index: int) -> tuple[Vector, Vector]:
    """The centered values of one group's term and their probabilities."""
    trials = float(groups.trials[index])
    k = window(trials, groups.probability)
    weight = binomial_probabilities(k, np.full_like(k, trials), groups.probability)
    return groups.size[index] * (k - trials * groups.probability), weight


def merge(
    value: Vector, weight: Vector, width: float
) -> tuple[Float[np.ndarray, " merged"], Float[np.ndarray, " merged"], float]:
    """Sort atoms and join neighbors closer than `width` at their mean."""
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


def _half_law(groups: Groups, members: list[int], width: float) -> tuple[Vector, Vector, float] | None:
    """The law of a sum of some groups as sorted atoms, or None where more than `HALF` would be needed."""
    lengths = [window_length(float(groups.trials[index]), groups.probability) for index in members]
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


def _halves(groups: Groups) -> tuple[list[int], list[int]]:
    """The groups dealt onto two sides so that the numbers of joint outcomes balance."""
    sizes = np.array([math.log(window_length(float(t), groups.probability)) for t in groups.trials])
    sides: tuple[list[int], list[int]] = ([], [])
    loads = [0.0, 0.0]
    for index in np.argsort(-sizes, kind="stable"):
        side = int(loads[1] < loads[0])
        sides[side].append(int(index))
        loads[side] += float(sizes[index])
    return sides


def _expected_absolute_sum(
    one: tuple[Float[np.ndarray, " m1"], Float[np.ndarray, " m1"]],
    two: tuple[Float[np.ndarray, " m2"], Float[np.ndarray, " m2"]],
) -> float:
    """E|S₁ + S₂| = 2 E(S₁ + S₂)₊ for independent centered S₁, S₂ given as atoms, the second sorted: O(m log m)."""
    # Rounding is relative to E|S₁| + E|S₂| ≤ 2 E|S₁ + S₂| (Jensen), so nothing is lost to cancellation.
    mass = np.append(np.cumsum(two[1][::-1])[::-1], 0.0)
    moment = np.append(np.cumsum((two[0] * two[1])[::-1])[::-1], 0.0)
    first = np.searchsorted(two[0], -one[0], side="right")
    return 2 * float(np.sum(one[1] * (one[0] * mass[first] + moment[first])))


def meet_in_the_middle(groups: Groups, floor: float) -> tuple[float, float] | None:
    """E|T| exactly, or None where a half has too many atoms."""
    if len(groups.size) > 256:
        return None
    laws = []
    for members in _halves(groups):
        law = _half_law(groups, members, 1e-14 * floor)
        if law is None:
            return None
        laws.append(law)
    (one, one_weight, one_error), (two, two_weight, two_error) = laws
    value = _expected_absolute_sum((one, one_weight), (two, two_weight))
    rounding = 1e-14 * len(groups.size) + EPS * (len(one) + len(two))
    return value, rounding * value + one_error + two_error


def radius(groups: Groups, exponent: float) -> tuple[float, float]:
    """R with P(|T| > R) ≤ 2e^{−exponent}, and a bound on E[|T|; |T| > R]."""
    # Bennett's inequality, or all of T's support.
    if len(groups.size) == 0:
        return 0.0, 0.0
    largest = float(np.max(np.abs(groups.size))) * (1 - groups.probability)
    support = float(np.sum(np.abs(groups.size) * groups.trials)) * (1 - groups.probability)
    u = np.geomspace(1e-9, 40.0, 600)
    growth = np.where(u < 1e-3, u**2 / 2 * (1 + u / 3 + u**2 / 12), np.expm1(u) - u)
    reach = largest * (float(np.sum(groups.variance)) / largest**2 * growth + exponent) / u
    best = int(np.argmin(reach))
    if reach[best] >= support:
        return support * (1 + 1e-12), 0.0
    return float(reach[best]), 2 * math.exp(-exponent) * (float(reach[best]) + largest / float(u[best]))


def log_phi(groups: Groups, t: Float[np.ndarray, " times"]) -> tuple[Float[np.ndarray, "2 times"], int]:
    """log|φ(t)| and arg φ(t), group by group only while log|φ| > `DEAD`."""
    # A group has |φ|² = (1 − 4p(1 − p)sin²(bt/2))^N and phase N[(½ − p)bt − atan2((1 − 2p)sin(bt/2), cos(bt/2))].
    p, result, alive, done, start = groups.probability, np.zeros((2, len(t))), np.arange(len(t)), 0, 0
    while start < len(groups.size) and len(alive):
        stop = start + max(64, 2**16 // len(alive))
        size, trials = groups.size[start:stop], groups.trials[start:stop]
        half = np.multiply.outer(t[alive], size / 2)
        sine, cosine = np.sin(half), np.cos(half)
        result[0, alive] += 0.5 * (np.log1p(-np.minimum(4 * p * (1 - p) * sine**2, 1 - EPS)) @ trials)
        result[1, alive] += ((1 - 2 * p) * half - np.arctan2((1 - 2 * p) * sine, cosine)) @ trials
        done, start = done + half.size, stop
        dead = result[0, alive] < DEAD
        result[0, alive[dead]] = -np.inf
        alive = alive[~dead]
    return result, done


def _real_part(
    groups: Groups,
    t: Float[np.ndarray, " times"],
    place: Float[np.ndarray, " atoms"],
    mass: Float[np.ndarray, " atoms"],
) -> tuple[Float[np.ndarray, " times"], int]:
    """Re Σ_i mass_i e^{i t place_i} φ(t): an enumerated part times the rest."""
    values, done = np.empty(len(t)), 0
    for first in range(0, len(t), 1024):
        chunk = slice(first, first + 1024)
        (modulus, phase), spent = log_phi(groups, t[chunk])
        angles = phase[:, None] + np.multiply.outer(t[chunk], place)
        values[chunk] = np.exp(modulus) * (np.cos(angles) @ mass)
        done += spent + angles.size
    return values, done


def _odd_remainder(last: float) -> float:
    """Σ 1/k² over odd k > last (last odd): ψ′((last + 2)/2)/4 by its asymptotic series."""
    z = (last + 2) / 2
    return (1 / z + 1 / (2 * z**2) + 1 / (6 * z**3) - 1 / (30 * z**5)) / 4


def expectation(
    groups: Groups, place: Float[np.ndarray, " atoms"], mass: Float[np.ndarray, " atoms"], target: float
) -> tuple[float, float]:
    """E|X + T|, X an independent part given by atoms (of total mass ≤ 1) and T the sum of the groups."""
    # Frequencies are doubled until the certified error is below `target` or the budget of evaluations is spent.
    unit = math.sqrt(float(np.sum(groups.variance)))
    total, shift = float(np.sum(mass)), float(np.max(np.abs(place))) / unit
    reach, beyond = radius(groups, 42.0 + max(0.0, math.log(unit / target) - 20))
    period = (reach / unit + shift) * 1.05 + 0.1  # the margin keeps the smoothed wave's other kinks away
    scaled = Groups(groups.size / unit, groups.trials, groups.probability)
    step, where, values, spent, points = math.pi / period, place / unit, np.empty(0), 0, POINTS
    while True:
        k = 2 * np.arange(points) + 1.0
        more, done = _real_part(scaled, k[len(values) :] * step, where, mass)
        values, spent = np.concatenate([values, more]), spent + done
        value, error = _sum_up(k, values, period, total)
        error += period * 4 * EPS * total + _phase_rounding(scaled, k, values, shift)
        if unit * error <= target or 2 * points > MOST_POINTS or spent + 2 * done > EVALUATIONS:
            return unit * value, unit * error + beyond * (1 + total)
        points *= 2


def _sum_up(k: np.ndarray, values: np.ndarray, period: float, total: float) -> tuple[float, float]:
    # The smoothed series minus half the bound of its bias; and the error: that half, and what was cut off.
    sigma = CUT * period / (math.pi * float(k[-1]))
    damped = values * np.exp(-0.5 * (sigma * math.pi / period * k) ** 2)
    left = _odd_remainder(float(k[-1]))
    factor = 4 * period / math.pi**2
    smoothed = factor * (float(np.sum((total - damped) / k**2)) + total * left)
    near_zero = 2 * sigma * math.sqrt(2 * math.pi) / period * float(np.sum(damped))
    bias = sigma * math.sqrt(2 / math.pi) * max(near_zero, 0.0)
    cut = math.exp(-(CUT**2) / 2) * total
    return smoothed - bias / 2, bias / 2 + cut * (factor * left + sigma)


def _phase_rounding(groups: Groups, k: np.ndarray, values: np.ndarray, shift: float) -> float:
    # What rounding the phases N b t does: 4ε Σ N|b| t at each frequency, times |φ| and the series' weights.
    size = float(np.sum(groups.trials * np.abs(groups.size))) + shift
    return 4 / math.pi * 4 * EPS * size * float(np.sum(np.abs(values) / k))
