"""One adapter trained by hand, with every hyper-parameter in sight, and how many of them act independently.

The judge of `invariance`: nothing here knows of a rescaling. The model is small and not linear, x ↦ tanh(s·BAx), the
loss squared, the batch full. Checked by `tests/test_adaptive_invariance.py` against torch's own optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptive.field import field, row_factor
from allora_analysis.adaptive.invariance import OPTIMISERS, Setting
from allora_analysis.validation import ArgumentError, adapter_rank, choice, count, matrix, matrix_of, positive, several

BETAS = (0.9, 0.999)


def train(
    x: ArrayLike,
    y: ArrayLike,
    a_draw: ArrayLike,
    setting: Setting,
    steps: int,
    *,
    optimiser: str = "adam",
    max_norm: float | None = None,
) -> Float[np.ndarray, "times n1 n2"]:
    """s·BA after 0, 1, …, `steps` full-batch steps on L = ‖tanh(s·x(BA)ᵀ) − y‖²_F/(2N), B from 0, by hand.

    Args:
        x: inputs (N×n₂).
        y: targets (N×n₁).
        a_draw: A's draw (r×n₂); A starts at init_a times it.
        setting: the knobs.
        steps: number of steps.
        optimiser: "adam" (bias-corrected, β = 0.9, 0.999) or "sgd".
        max_norm: clip the gradient's global norm; None for no clipping.

    Returns:
        The products, the first one 0.
    """
    x, y = matrix("x", x), matrix("y", y)
    y = matrix_of("y", y, (len(x), None), "N, the rows of x")
    a_draw = matrix_of("a_draw", a_draw, (None, x.shape[1]), "n2, the columns of x")
    adapter_rank(len(a_draw), y.shape[1], x.shape[1])
    _check(setting, choice("optimiser", optimiser, OPTIMISERS))
    limit = np.inf if max_norm is None else positive("max_norm", max_norm)
    a, b = setting.init_a * a_draw, np.zeros((y.shape[1], len(a_draw)))
    moments = [np.zeros((2, *part.shape)) for part in (a, b)]
    path = [setting.scaling * (b @ a)]
    for step in range(1, count("steps", steps) + 1):
        gradients = _gradients(x, y, a, b, setting)
        shrink = min(1.0, limit / max(float(np.sqrt(sum(np.sum(g**2) for g in gradients))), 1e-300))
        knobs = ((setting.rate_a, setting.eps_a, setting.decay_a), (setting.rate_b, setting.eps_b, setting.decay_b))
        a, b = (
            _moved(part, shrink * g, m, knob, step, optimiser)
            for part, g, m, knob in zip((a, b), gradients, moments, knobs, strict=True)
        )
        path.append(setting.scaling * (b @ a))
    return np.array(path)


def degrees_of_freedom(
    x: ArrayLike,
    y: ArrayLike,
    a_draw: ArrayLike,
    setting: Setting,
    knobs: Sequence[str],
    steps: int,
    *,
    optimiser: str = "adam",
) -> int:
    """How many of the named knobs act independently: the rank of the trajectory's derivative in their logarithms.

    Args:
        x: inputs (N×n₂).
        y: targets (N×n₁).
        a_draw: A's draw (r×n₂).
        setting: where the derivative is taken.
        knobs: fields of `Setting` with values above 0; "rate" for both rates at once.
        steps: number of steps.
        optimiser: "adam" or "sgd".

    Returns:
        The rank: singular values above 1e-6 of the largest count (central differences err by about 1e-9).
    """
    names = several("knobs", knobs)
    for name in names:
        choice("knobs", name, ("rate", *(f.name for f in fields(Setting))))
    step = 1e-4
    columns = []
    for name in names:
        parts = ("rate_a", "rate_b") if name == "rate" else (name,)
        ends = [
            replace(setting, **{p: positive(p, getattr(setting, p)) * np.exp(sign * step) for p in parts})
            for sign in (1, -1)
        ]
        up, down = (train(x, y, a_draw, end, steps, optimiser=optimiser) for end in ends)
        columns.append(((up - down) / (2 * step)).ravel())
    values = np.linalg.svd(np.array(columns), compute_uv=False)
    return int(np.count_nonzero(values > 1e-6 * values[0])) if values[0] > 0 else 0


def _check(setting: Setting, optimiser: str) -> None:
    for name in ("scaling", "init_a", "rate_a", "rate_b"):
        positive(name, getattr(setting, name))
    if setting.eta is not None:
        positive("eta", setting.eta)
    for name in ("eps_a", "eps_b") if optimiser == "adam" else ():
        if not getattr(setting, name) > 0:
            raise ArgumentError(
                f"{name} must be above 0, received {getattr(setting, name)}: at B = 0 the gradient of A is 0 and "
                "Adam's first step 0/0"
            )


def _gradients(
    x: Float[np.ndarray, "N n2"],
    y: Float[np.ndarray, "N n1"],
    a: Float[np.ndarray, "r n2"],
    b: Float[np.ndarray, "n1 r"],
    setting: Setting,
) -> tuple[Float[np.ndarray, "r n2"], Float[np.ndarray, "n1 r"]]:
    output = np.tanh(setting.scaling * (x @ a.T @ b.T))
    g = setting.scaling * ((output - y) * (1 - output**2)).T @ x / len(x)
    d = np.ones(len(b)) if setting.eta is None else row_factor(a, b, setting.eta)
    return field(a, b, g, d)


def _moved(
    part: np.ndarray, g: np.ndarray, moments: np.ndarray, knob: tuple[float, float, float], step: int, optimiser: str
) -> np.ndarray:
    # One decoupled-decay step; `moments` is advanced in place.
    rate, eps, decay = knob
    if optimiser == "sgd":
        return part - rate * decay * part - rate * g
    for moment, beta, power in zip(moments, BETAS, (g, g * g), strict=True):
        moment += (1 - beta) * (power - moment)
    mean, square = (moment / (1 - beta**step) for moment, beta in zip(moments, BETAS, strict=True))
    return part - rate * decay * part - rate * mean / (np.sqrt(square) + eps)
