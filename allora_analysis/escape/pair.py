"""§4.2, one row with A trained too: where the scalar model ends.

One output, rank one, constant gradient −γvᵀ with ‖v‖ = 1, A = √s·vᵀ and b = 0 at the start, so BA = b·√s·vᵀ at first
with g = γs. Both factors move, a' = γh(m)b, b' = γh(m)a for m = |ab|: a² − b² = s is kept, a² + b² = √(s² + 4m²), and

    m' = γ·h(m)·√(s² + 4m²).

While m ≪ s/2 this is the scalar model. Beyond it A's growth feeds back: LoRA at rate ρ·l (h = ρ) grows exponentially,
m = (s/2)·sinh(2ργt), where the scalar model says ρgt, and ALLoRA as (γt)², **not** as t^(2/3), while the gradient
lasts. Checked by `tests/test_escape_scalar.py` and, as the limit of small steps, `tests/test_escape_teacher.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.validation import ArgumentError

TOLERANCE = 1e-11  # relative, of the quadrature


def pair_time(
    level: ArrayLike, gradient: float, eta: float, start: float, adaptor: str = "inverse_sqrt"
) -> Float[np.ndarray, "*shape"]:
    """The time at which m reaches a level when A is trained too: ∫₀^level du/(γ·h(u)·√(s² + 4u²)).

    Args:
        level: values of m, 0 or above, of any shape.
        gradient: g = γs > 0, as in the scalar model.
        eta: η > 0.
        start: s = ‖A‖² at the start, above 0.
        adaptor: a name of `adaptors.ADAPTORS`.

    Returns:
        The time for each level, below `scalar.time_to_reach`.

    Raises:
        ArgumentError: a negative level.
    """
    levels = validation.finite("level", level)
    gradient, eta = validation.positive("gradient", gradient), validation.positive("eta", eta)
    start, core = validation.positive("start", start), ADAPTORS[validation.choice("adaptor", adaptor, ADAPTORS)]
    if levels.min() < 0:
        raise ArgumentError(f"level must be 0 or above everywhere, received {levels.min():g}")
    # u = (s/2)·sinh(z) takes the root away, du/√(s² + 4u²) = dz/2; z = x² softens 1/h's bend near 0.
    ends = np.sqrt(np.arcsinh(2 * levels / start))
    times = [_quadrature(lambda x: x / core(start / 2 * np.sinh(x * x), eta), end) for end in ends.flat]
    return np.asarray(np.reshape(times, levels.shape) * start / gradient)


def _quadrature(integrand: Callable[[float], float], end: float) -> float:
    from scipy.integrate import quad  # here: the study's --help does without it

    return quad(integrand, 0.0, end, epsabs=0, epsrel=TOLERANCE, limit=200)[0] if end > 0 else 0.0


def lora_pair(t: ArrayLike, gradient: float, start: float, rate: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """(s/2)·sinh(2·rate·γt): LoRA at learning rate rate·l with A trained too, γ = gradient/start.

    Args:
        t: times, 0 or above, of any shape; l·steps.
        gradient: g > 0.
        start: s = ‖A‖² at the start, above 0.
        rate: the learning rate over l.

    Returns:
        m at each time.

    Raises:
        ArgumentError: a negative time.
    """
    times, start = validation.finite("t", t), validation.positive("start", start)
    if times.min() < 0:
        raise ArgumentError(f"t must be 0 or above everywhere, received {times.min():g}")
    growth = 2 * validation.positive("rate", rate) * validation.positive("gradient", gradient) / start
    return np.asarray(start / 2 * np.sinh(growth * times))
