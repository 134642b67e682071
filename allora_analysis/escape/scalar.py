"""§4.2, escape from zero in the scalar model: m' = g·h(m), m(0) = 0, in closed form for each adaptor h; and its end.

m is the norm of a row of BA, g > 0 the size of its gradient through a fixed A, l·steps the time t. LoRA at learning
rate ρ·l is h = ρ: m = ρgt. With h at 0 equal to η every adaptor starts as LoRA at η·l does, m ≈ ηgt, and then

| adaptor | m(t), s = gt | t(m)·g | m for large t |
| --- | --- | --- | --- |
| `inverse_sqrt` | (3s/2 + η⁻³)^(2/3) − η⁻² | (2/3)·[(m + η⁻²)^(3/2) − η⁻³] | (3s/2)^(2/3) |
| `inverse` | √(2s + η⁻²) − 1/η | m²/2 + m/η | √(2s) |
| `exponential` | (2/η²)·log(1 + sη³/2) | (2/η³)·[exp(mη²/2) − 1] | (2/η²)·log(sη³/2) |
| `constant` | ηs | m/η | ηs |

each written so that it does not cancel at small t. Assumptions: the gradient's direction and A stay as they are.

A's own training ends that. One output, rank one, constant gradient −γvᵀ with ‖v‖ = 1, A = √s·vᵀ and b = 0 at the
start, so BA = b·√s·vᵀ at first with g = γs. Both factors move, a' = γh(m)b, b' = γh(m)a for m = |ab|: a² − b² = s is
kept, a² + b² = √(s² + 4m²), and m' = γ·h(m)·√(s² + 4m²). While m ≪ s/2 this is the scalar model. Beyond it A's growth
feeds back: LoRA at rate ρ·l (h = ρ) grows exponentially, m = (s/2)·sinh(2ργt), where the scalar model says ρgt, and
ALLoRA as (γt)², **not** as t^(2/3), while the gradient lasts.

Checked by `tests/test_escape_scalar.py` against an ODE solver and 50 digits and, as the limit of small steps, by
`tests/test_escape_teacher.py`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.validation import ArgumentError, representable

ETAS = (1e-50, 1e50)  # beyond, η³ leaves the range of a float


def usable_eta(eta: float) -> float:
    """An η whose powers in the closed forms are numbers."""
    result = validation.positive("eta", eta)
    if not ETAS[0] <= result <= ETAS[1]:
        raise ArgumentError(f"eta must be in [{ETAS[0]:g}, {ETAS[1]:g}], received {eta!r}")
    return result


@representable()
def trajectory(t: ArrayLike, gradient: float, eta: float, adaptor: str = "inverse_sqrt") -> Float[np.ndarray, "*shape"]:
    """m(t) of the scalar model; for the paper's adaptor (3gt/2 + η⁻³)^(2/3) − η⁻².

    Args:
        t: times, 0 or above, of any shape; l·steps.
        gradient: g > 0.
        eta: η in [1e-50, 1e50], the factor at m = 0.
        adaptor: a name of `adaptors.ADAPTORS`.

    Returns:
        m at each time.

    Examples:
        >>> from allora_analysis.escape import trajectory
        >>> trajectory([0.0, 7 / 3], gradient=2.0, eta=1.0).round(9).tolist()  # (3t + 1)^{2/3} − 1
        [0.0, 3.0]
    """
    gradient, eta = validation.positive("gradient", gradient), usable_eta(eta)
    impulse = np.asarray(gradient * _not_negative("t", t))
    return levels(impulse, eta, validation.choice("adaptor", adaptor, ADAPTORS))


@representable()
def time_to_reach(
    level: ArrayLike, gradient: float, eta: float, adaptor: str = "inverse_sqrt"
) -> Float[np.ndarray, "*shape"]:
    """The time t with m(t) = level, the inverse of `trajectory`.

    Arguments as in `trajectory`; `level` holds values of m, 0 or above, of any shape.

    Returns:
        The time to reach each level.

    Examples:
        >>> from allora_analysis.escape import time_to_reach
        >>> print(round(float(time_to_reach(3.0, gradient=2.0, eta=1.0)), 9))  # (4^{3/2} − 1)/3
        2.333333333
    """
    gradient, eta = validation.positive("gradient", gradient), usable_eta(eta)
    impulse = _impulses(_not_negative("level", level), eta, validation.choice("adaptor", adaptor, ADAPTORS))
    return np.asarray(impulse / gradient)


@representable()
def lora_trajectory(t: ArrayLike, gradient: float, rate: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """m(t) = rate·g·t, LoRA at learning rate rate·l: rate 1 is LoRA at l, rate η LoRA at η·l.

    Args:
        t: times, 0 or above; l·steps.
        gradient: g > 0.
        rate: the learning rate over l, above 0.

    Returns:
        m at each time.
    """
    impulse = np.asarray(validation.positive("gradient", gradient) * _not_negative("t", t))
    return levels(impulse, validation.positive("rate", rate), "constant")


@dataclass(frozen=True)
class Tradeoff:
    """Fast escape against measured steps, at a level m: what a fixed rate must give up, and what an adaptor gains.

    Rates multiply the learning rate l, times are l·steps.
    """

    rate_at_zero: float
    """η, the adaptor's rate at 0."""
    rate_at_level: float
    """h(m), its rate at the level."""
    time: float
    """The adaptor's time to the level."""
    fast_time: float
    """m/(gη): the fixed rate η, as fast at 0, and η/h(m) times too large at the level."""
    measured_time: float
    """m/(g·h(m)): the fixed rate h(m), as measured at the level."""
    equal_time_rate: float
    """m/(g·time), the fixed rate that reaches the level at the adaptor's time."""
    advantage: float
    """measured_time/time = equal_time_rate/h(m) ≥ 1, with equality for `constant`."""


@representable(infinite=True)
def tradeoff(level: float, gradient: float, eta: float, adaptor: str = "inverse_sqrt") -> Tradeoff:
    """What "a fixed rate cannot both escape fast and then take measured steps" (§4.2) amounts to.

    No fixed rate has both: one that equals η at 0 is η/h(m) times h(m) at the level m. Against the fixed rate that is
    as measured at the level, the adaptor arrives earlier by the factor m/(h(m)·∫₀^m du/h(u)): with u = η²m
    (3u/2)·√(1 + u)/((1 + u)^(3/2) − 1) for the paper's adaptor, between 1 and **3/2**; (1 + v)/(1 + v/2) with v = ηm
    for `inverse`, between 1 and 2; (u/2)/(1 − exp(−u/2)) for `exponential`, without limit.

    Arguments as in `trajectory`; `level` is one m > 0.

    Returns:
        The rates and times; a time beyond the range of a float is 0 or ∞.

    Raises:
        ArgumentError: η²m above 1e308, near the end of the range of a float.
    """
    level, eta = validation.positive("level", level), usable_eta(eta)
    if eta * eta * level > 1e308:
        raise ArgumentError(f"level: eta²·level must be at most 1e308, received {level!r} with eta {eta!r}")
    gradient = validation.positive("gradient", gradient)
    time = float(_impulses(np.asarray(level), eta, validation.choice("adaptor", adaptor, ADAPTORS)) / gradient)
    at_level, advantage = float(ADAPTORS[adaptor](level, eta)), _advantage(level, eta, adaptor)
    speed = gradient * time
    measured = level / gradient / at_level if at_level > 0 else np.inf
    return Tradeoff(
        rate_at_zero=eta,
        rate_at_level=at_level,
        time=time,
        fast_time=level / gradient / eta,
        measured_time=measured,
        equal_time_rate=level / speed if 0 < speed < np.inf else at_level * advantage,
        advantage=advantage,
    )


# In closed form: the two times may leave the range of numbers where their ratio does not.
def _advantage(level: float, eta: float, adaptor: str) -> float:
    u, v = eta * eta * level, eta * level
    if adaptor == "inverse":
        return (1 + v) / (1 + v / 2)
    if adaptor == "constant" or u == 0:
        return 1.0
    if adaptor == "exponential":
        return float(u / 2 / -np.expm1(-u / 2))
    return float(1.5 * u / (1 + u) / -np.expm1(-1.5 * np.log1p(u)))


def levels(impulse: Float[np.ndarray, "*shape"], eta: float, adaptor: str) -> Float[np.ndarray, "*shape"]:
    """The level m where the impulse is s = g·t: the core of `trajectory`, which checks nothing."""
    start = np.asarray(eta * impulse)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if adaptor == "inverse_sqrt":
            x = 1.5 * eta**3 * impulse
            return _between(x, start, np.expm1(2 / 3 * np.log1p(x)) / eta**2, np.cbrt(1.5 * impulse) ** 2)
        if adaptor == "inverse":
            x = 2 * eta**2 * impulse
            return _between(x, start, 2 * eta * impulse / (1 + np.sqrt(1 + x)), np.sqrt(2 * impulse))
        if adaptor == "exponential":
            x = eta**3 / 2 * impulse
            late = 2 / eta**2 * (3 * np.log(eta) + np.log(impulse / 2))
            return _between(x, start, 2 / eta**2 * np.log1p(x), late)
    return start


def _impulses(level: Float[np.ndarray, "*shape"], eta: float, adaptor: str) -> Float[np.ndarray, "*shape"]:
    """∫₀^level du/h(u), the impulse g·t that reaches a level: the core of `time_to_reach`; arguments as in `levels`."""
    start, u = np.asarray(level / eta), eta**2 * level
    with np.errstate(over="ignore"):
        if adaptor == "inverse_sqrt":
            exact = 2 / (3 * eta**3) * np.expm1(1.5 * np.log1p(u))
            return _between(u, start, exact, 2 / 3 * level * np.sqrt(level))
        if adaptor == "inverse":
            return np.asarray(level * (level / 2 + 1 / eta))
        if adaptor == "exponential":
            exact = 2 / eta**3 * np.expm1(eta**2 / 2 * level)
            return _between(u, start, exact, exact)
    return start


# The closed form, and its limits where its powers leave the floats' range.
def _between(x: ArrayLike, small: ArrayLike, exact: ArrayLike, large: ArrayLike) -> Float[np.ndarray, "*shape"]:
    return np.where(x < 1e-200, small, np.where(x > 1e200, large, exact))


def _not_negative(name: str, value: ArrayLike) -> Float[np.ndarray, "*shape"]:
    array = validation.finite(name, value)
    if array.min() < 0:
        raise ArgumentError(f"{name} must be 0 or above everywhere, received {array.min():g}")
    return array
