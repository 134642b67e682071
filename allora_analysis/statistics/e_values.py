"""Sequential tests of paired differences: e-values that may be looked at after every pair, and the bounds they give.

Source: Lai (1976), "On confidence sequences"; Pérez-Ortiz, Lardy, de Heide and Grünwald (2024), "E-statistics, group
invariance and anytime-valid testing". Checked by `tests/test_statistics_e_values.py`, by another formula and by
simulation.

**The e-value.** Differences x₁, x₂, … are independent, N(μ, σ²), both unknown; δ = μ/σ is the effect in standard
deviations. No inference about δ should depend on the unit, so that only x₁/|x₁|, …, xₙ/|x₁| count. Their density under
δ is ∫₀^∞ s^{n−1} exp(−Σᵢ(s·xᵢ − δ)²/2) ds up to a factor without δ (s = 1/σ; the scale's Haar measure is ds/s). With
S = Σxᵢ², z = Σxᵢ/√S and u = s√S the likelihood ratio of δ against 0 is

    e_δ(n, z) = exp(−nδ²/2) · ∫₀^∞ u^{n−1} exp(−u²/2 + δzu) du / ∫₀^∞ u^{n−1} exp(−u²/2) du,

which is also the noncentral t density at t over the central one, t = z·√((n − 1)/(n − z²)). A likelihood ratio of
growing data is a martingale with mean 1 under δ = 0, so P(sup_n e_δ ≥ 20) ≤ 1/20 (Ville 1939): one may stop whenever
one likes. Here δ = ±0.5: "above" is e_{+0.5}, "below" is e_{−0.5}.

**One-sided.** e_δ with δ > 0 increases in z, hence in t. Adding c < 0 to every xᵢ lowers t at every n, so that the
whole path of e_{+0.5} under a true δ ≤ 0 lies below one under δ = 0: the test is of δ ≤ 0, not of δ = 0 alone.

**Bounds and equivalence.** μ ≤ m is rejected at n when e_{+0.5} of x − m is 20 or more. The m not rejected are above
mean − t*·s/√n, where e_{+0.5} = 20 at t*: a lower bound that is below μ at all n at once with probability 95 %. The
upper bound is its mirror image. Two arms are equivalent within a margin when both bounds are within it (two one-sided
tests, each at 1/20, of which both must reject: the level is 1/20). As δ is one number, t*/√n tends to δ/2 and not to 0:
the bounds come no nearer to the mean than a quarter of s (0.355 s after 60 pairs). A smaller effect is never found, nor
a narrower equivalence shown, however many pairs there are.

**Where differences are not normal** the errors are not bounded by 1/20. With a mean of 0, of which one pair in 45 lies
36 of the others' deviations above them, as of an arm that stays at chance, "below" is found within 60 pairs in 7 of 10
lists.

**Power** (60,000 simulated paths, up to 60 pairs): "above" is found with probability 0.53 at a true effect of 0.3
standard deviations, 0.77 at 0.4, 0.93 at 0.5 (where it is, after 21 pairs in the median) and 1.00 at 1 (12);
equivalence at a true effect of 0 with 0.43 where the margin is 0.4 deviations, 0.81 at 0.5, 0.92 at 0.6. Fewer than 8
pairs cannot decide. At a true effect of 0, 0.038 of the paths are "above".
"""

import math
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics.paired import TIE, standard_deviation
from allora_analysis.validation import (
    ArgumentError,
    count,
    non_negative,
    number,
    positive,
    representable,
    unit_scaled,
    vector,
)

EFFECT = 0.5  # δ, in standard deviations
MOST_EFFECT = 1e6  # beyond, rounding leaves fewer than five digits
THRESHOLD = 20.0  # 1/level
CAP = 60  # pairs


@dataclass(frozen=True)
class Sequential:
    """What differences say, taken in their order up to the first decision.

    Attributes:
        verdict: "above" or "below" (0), "equivalent" (within the margin), or "open".
        n: pairs used: up to the decision, or all there are (at most the cap).
        mean: of those differences.
        standard_deviation: of those differences; None for one pair.
        above: e-value against "the mean is at most 0".
        below: e-value against "the mean is at least 0".
        low: lower bound of the mean, right at all n at once with probability 1 − 1/threshold; None: no bound yet.
        high: upper bound, likewise.
        margin: of equivalence.
        at_cap: the cap was reached without a decision; the effects beyond `low` and `high` are excluded.
    """

    verdict: str
    n: int
    mean: float
    standard_deviation: float | None
    above: float
    below: float
    low: float | None
    high: float | None
    margin: float
    at_cap: bool


@representable("differences", "effect")
def e_values(differences: ArrayLike, effect: float = EFFECT, grain: float = 0.0) -> Float[np.ndarray, "n 2"]:
    """e_{+δ} and e_{−δ} after each pair: two test martingales under a mean of 0, each a test of its own side.

    As long as all differences are equal up to rounding, both are 1: then their spread says nothing of σ.

    Args:
        differences: of each pair, in the order in which they came, at least one.
        effect: δ in (0, 1e6], in standard deviations.
        grain: what rounding may have added to a difference, as in `directional.one_sided`: those that lie no further
            apart are equal.

    Returns:
        Row n − 1: the e-values against "μ ≤ 0" and against "μ ≥ 0" after n pairs.

    Examples:
        >>> from allora_analysis.statistics.e_values import e_values
        >>> e_values([0.4, 0.1, 0.3, 0.5, 0.2])[-1].round(2).tolist()
        [5.98, 0.08]
    """
    x, delta = vector("differences", differences), _effect(effect)
    apart = non_negative("grain", grain)
    return np.array([_both(x[: n + 1], delta, apart) for n in range(x.size)])


@representable("differences", "effect")
def bounds(
    differences: ArrayLike, threshold: float = THRESHOLD, effect: float = EFFECT, grain: float = 0.0
) -> tuple[float | None, float | None]:
    """Lower and upper bound of the mean, mean ∓ t*·s/√n, each right at all n at once with probability 1 − 1/threshold.

    Together they are a confidence sequence at 1 − 2/threshold; None twice while so few pairs, or pairs all equal,
    exclude nothing. Arguments as in `decide`.
    """
    x = vector("differences", differences)
    return _bounds(x, _threshold(threshold), _effect(effect), non_negative("grain", grain))


@representable("differences", "effect")
def decide(
    differences: ArrayLike,
    margin: float,
    threshold: float = THRESHOLD,
    cap: int = CAP,
    effect: float = EFFECT,
    grain: float = 0.0,
) -> Sequential:
    """The first decision along the differences; what came after it changes nothing.

    After each pair: "above" if e_{+δ} ≥ threshold, "below" if e_{−δ} ≥ threshold, "equivalent" if both bounds are
    within ±margin, in this order. Of normal differences a wrong decision of each kind has probability at most
    1/threshold.

    Args:
        differences: of each pair, in the order in which they came, at least one.
        margin: of equivalence, above 0, in the differences' unit.
        threshold: 1/level, above 1.
        cap: pairs after which nothing is used.
        effect: δ in (0, 1e6] of the e-value, in standard deviations.
        grain: as in `e_values`.

    Returns:
        The decision, or "open" with what is excluded so far.
    """
    x, width = vector("differences", differences), positive("margin", margin)
    rule = _threshold(threshold), _effect(effect), non_negative("grain", grain)
    x = x[: count("cap", cap)]
    for n in range(1, x.size + 1):
        verdict = _verdict(x[:n], width, *rule)
        if verdict != "open":
            break
    used = x[:n]
    above, below = _both(used, *rule[1:])
    low, high = _bounds(used, *rule)
    deviation = standard_deviation(used) if n > 1 else None
    at_cap = verdict == "open" and n == cap
    return Sequential(verdict, n, float(used.mean()), deviation, above, below, low, high, width, at_cap)


def _verdict(x: Float[np.ndarray, " n"], margin: float, threshold: float, delta: float, grain: float) -> str:
    above, below = _both(x, delta, grain)
    if above >= threshold:
        return "above"
    if below >= threshold:
        return "below"
    low, high = _bounds(x, threshold, delta, grain)
    return "equivalent" if low is not None and -margin < low and high < margin else "open"


def _effect(value: float) -> float:
    effect = positive("effect", value)
    if effect > MOST_EFFECT:
        raise ArgumentError(f"effect must be at most {MOST_EFFECT:g} standard deviations, received {value!r}")
    return effect


def _threshold(value: float) -> float:
    threshold = number("threshold", value, "a number above 1")
    if threshold <= 1:
        raise ArgumentError(f"threshold must be a number above 1, as 1/level is, received {value!r}")
    return threshold


def _both(x: Float[np.ndarray, " n"], delta: float, grain: float) -> tuple[float, float]:
    if _equal(x, grain):
        return 1.0, 1.0
    x, _ = unit_scaled(x)  # no square overflows or vanishes
    z = float(x.sum() / math.sqrt(float(x @ x)))
    # What is beyond the largest number is that number: a smaller e-value is one too.
    above, below = (math.exp(min(_log_e(x.size, side, delta), _LARGEST)) for side in (z, -z))
    return above, below


_LARGEST = math.log(sys.float_info.max)


def _equal(x: Float[np.ndarray, " n"], grain: float) -> bool:
    return float(np.ptp(x)) <= max(grain, TIE * float(np.abs(x).max()))


@cache
def _nodes() -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    return np.polynomial.legendre.leggauss(120)


def _log_moment(n: int, a: float) -> float:
    # log ∫₀^∞ u^{n−1} exp(−u²/2 + au) du. The integrand is log-concave with curvature below −1: twelve units from its
    # mode it is below e^−72 of its height.
    mode = (a + math.sqrt(a * a + 4 * (n - 1))) / 2
    low, high = max(0.0, mode - 12), mode + 12
    node, weight = _nodes()
    half = (high - low) / 2
    u = low + half * (1 + node)
    exponent = (n - 1) * np.log(u) - u * u / 2 + a * u
    top = float(exponent.max())
    return top + math.log(half * float(weight @ np.exp(exponent - top)))


def _log_e(n: int, z: float, delta: float) -> float:
    return _log_moment(n, delta * z) - _log_moment(n, 0.0) - n * delta * delta / 2


@cache
def _critical_t(n: int, threshold: float, delta: float) -> float | None:
    # t* at which e_{+δ} reaches the threshold after n pairs; None where no t does.
    from scipy.optimize import brentq

    wanted, largest = math.log(threshold), math.sqrt(n)
    if n < 2 or _log_e(n, largest, delta) <= wanted:
        return None
    z = float(brentq(lambda value: _log_e(n, value, delta) - wanted, 0.0, largest, xtol=1e-14))
    return z * math.sqrt((n - 1) / (n - z * z))


def _bounds(
    x: Float[np.ndarray, " n"], threshold: float, delta: float, grain: float
) -> tuple[float | None, float | None]:
    critical = None if _equal(x, grain) else _critical_t(x.size, threshold, delta)
    if critical is None:
        return None, None
    half = critical * standard_deviation(x) / math.sqrt(x.size)
    return float(x.mean()) - half, float(x.mean()) + half
