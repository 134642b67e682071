"""Which hyper-parameters are real? Rescalings that leave training as it was (abstract, §1: "removes two").

The module is x ↦ s·BAx (s = α/r), B starts at 0, A at init_A times a given draw. Put Ã = aA, B̃ = bB, s̃ = s/(ab): the
same function. ∂L/∂Ã is 1/a of ∂L/∂A, Adam's ratio m/(√v + ε) is blind to that once ε̃_A = ε_A/a, and Ã must move a times
as far:

    Adam:  s → s/(ab), init_A → a·init_A, l_A → a·l_A, l_B → b·l_B, ε_A → ε_A/a, ε_B → ε_B/b,
           decoupled decay λ_A → λ_A/a, λ_B → λ_B/b                                    (any schedule; no clipping)
    SGD:   the same with l_A → a²·l_A, l_B → b²·l_B, λ_A → λ_A/a², λ_B → λ_B/b²       (also with momentum)

leaves s·BA, hence training, invariant. So s is redundant *given* init_A and two rates; with init_A fixed (a = 1) and
one rate (b = a) it is a degree of freedom. Clipping by the global norm breaks the invariance, as the two gradients
scale apart; where every step is clipped, a = b keeps it, with Adam's powers under SGD too and ε as it was. At ε = 0
A's first Adam step is 0/0: its gradient is 0 at B = 0.

ALLoRA fixes s = 1 and has η. With Ã = ηA, B̃ = ηB: ‖(BA)_i‖ + 1/η² = (‖(B̃Ã)_i‖ + 1)/η², so d_i(η) = η·d̃_i(1), and

    ALLoRA(s = 1, η, init_A, l)  =  ALLoRA(s = 1/η², η = 1, η·init_A, l̃),
    l̃ = η³l (SGD; λ → λ/η³)  or  ηl (Adam; ε → ε/η², λ → λ/η),  clipped at c/η² where ALLoRA is at c:

**η is the scaling factor under another name**, s = 1/η².

`train` judges all that: one adapter trained by hand, every hyper-parameter in sight; it knows of no rescaling. The
model is small and not linear, x ↦ tanh(s·BAx), the loss squared, the batch full. Checked by
`tests/test_adaptive_invariance.py` against torch's own optimizers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptive.field import factor_of, field
from allora_analysis.validation import (
    ArgumentError,
    adapter_rank,
    choice,
    count,
    matrix,
    matrix_of,
    positive,
    representable,
    several,
)

OPTIMIZERS = ("adam", "sgd")
BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Setting:
    """The knobs of one adapter's training.

    Attributes:
        scaling: s = α/r in front of BA.
        init_a: multiplies the draw of A.
        rate_a: A's learning rate.
        rate_b: B's learning rate.
        eps_a: Adam's ε for A (unused by SGD).
        eps_b: Adam's ε for B.
        decay_a: decoupled weight decay of A: A ← A − l_A λ_A A.
        decay_b: of B.
        eta: ALLoRA's η; None for LoRA.
    """

    scaling: float = 1.0
    init_a: float = 1.0
    rate_a: float = 1e-2
    rate_b: float = 1e-2
    eps_a: float = 1e-8
    eps_b: float = 1e-8
    decay_a: float = 0.0
    decay_b: float = 0.0
    eta: float | None = None


@representable()
def rescaled(setting: Setting, a: float, b: float, optimizer: str = "adam") -> Setting:
    """The setting that trains the same s·BA with A multiplied by a and B by b; LoRA only.

    Args:
        setting: LoRA's knobs (eta None: ALLoRA's factor sees ‖(BA)_i‖, which changes).
        a: what A is multiplied by, above 0.
        b: what B is multiplied by, above 0.
        optimizer: "adam" or "sgd".

    Raises:
        ArgumentError: an ALLoRA setting.
    """
    a, b = positive("a", a), positive("b", b)
    if setting.eta is not None:
        raise ArgumentError(f"setting: eta must be None (LoRA), received {setting.eta}; for ALLoRA see eta_as_scaling")
    power = {"adam": 1, "sgd": 2}[choice("optimizer", optimizer, OPTIMIZERS)]
    return replace(
        setting,
        scaling=setting.scaling / (a * b),
        init_a=a * setting.init_a,
        rate_a=a**power * setting.rate_a,
        rate_b=b**power * setting.rate_b,
        eps_a=setting.eps_a / a,
        eps_b=setting.eps_b / b,
        decay_a=setting.decay_a / a**power,
        decay_b=setting.decay_b / b**power,
    )


@representable()
def eta_as_scaling(setting: Setting, optimizer: str = "adam") -> Setting:
    """The ALLoRA setting with η = 1 and scaling 1/η² (times its own) that trains the same s·BA, clipped at c/η² for c.

    Args:
        setting: an ALLoRA setting.
        optimizer: "adam" or "sgd".

    Returns:
        The setting with η = 1.

    Raises:
        ArgumentError: a LoRA setting.
    """
    if setting.eta is None:
        raise ArgumentError("setting: eta is None (LoRA); give ALLoRA's eta")
    eta = positive("eta", setting.eta)
    power = {"adam": 1, "sgd": 3}[choice("optimizer", optimizer, OPTIMIZERS)]
    return replace(
        setting,
        eta=1.0,
        scaling=setting.scaling / eta**2,
        init_a=eta * setting.init_a,
        rate_a=eta**power * setting.rate_a,
        rate_b=eta**power * setting.rate_b,
        eps_a=setting.eps_a / eta**2,
        eps_b=setting.eps_b / eta**2,
        decay_a=setting.decay_a / eta**power,
        decay_b=setting.decay_b / eta**power,
    )


@representable()
def train(
    x: ArrayLike,
    y: ArrayLike,
    a_draw: ArrayLike,
    setting: Setting,
    steps: int,
    *,
    optimizer: str = "adam",
    max_norm: float | None = None,
) -> Float[np.ndarray, "times n1 n2"]:
    """s·BA after 0, 1, …, `steps` full-batch steps on L = ‖tanh(s·x(BA)ᵀ) − y‖²_F/(2N), B from 0, by hand.

    Args:
        x: inputs (N×n₂).
        y: targets (N×n₁).
        a_draw: A's draw (r×n₂); A starts at init_a times it.
        setting: the knobs.
        steps: number of steps.
        optimizer: "adam" (bias-corrected, β = 0.9, 0.999) or "sgd".
        max_norm: clip the gradient's global norm; None for no clipping.

    Returns:
        The products, the first one 0.
    """
    data = _data(x, y, a_draw)
    _check(setting, choice("optimizer", optimizer, OPTIMIZERS))
    limit = np.inf if max_norm is None else positive("max_norm", max_norm)
    return _path(*data, setting, count("steps", steps), optimizer, limit)


def _data(x: ArrayLike, y: ArrayLike, a_draw: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = matrix("x", x)
    y = matrix_of("y", y, (len(x), None), "N, the rows of x")
    a_draw = matrix_of("a_draw", a_draw, (None, x.shape[1]), "n2, the columns of x")
    adapter_rank(len(a_draw), y.shape[1], x.shape[1])
    return x, y, a_draw


def _path(
    x: Float[np.ndarray, "N n2"],
    y: Float[np.ndarray, "N n1"],
    a_draw: Float[np.ndarray, "r n2"],
    setting: Setting,
    steps: int,
    optimizer: str,
    limit: float,
) -> Float[np.ndarray, "times n1 n2"]:
    a, b = setting.init_a * a_draw, np.zeros((y.shape[1], len(a_draw)))
    moments = [np.zeros((2, *part.shape)) for part in (a, b)]
    path = [setting.scaling * (b @ a)]
    for step in range(1, steps + 1):
        gradients = _gradients(x, y, a, b, setting)
        shrink = min(1.0, limit / max(float(np.sqrt(sum(np.sum(g**2) for g in gradients))), 1e-300))
        knobs = ((setting.rate_a, setting.eps_a, setting.decay_a), (setting.rate_b, setting.eps_b, setting.decay_b))
        a, b = (
            _moved(part, shrink * g, m, knob, step, optimizer)
            for part, g, m, knob in zip((a, b), gradients, moments, knobs, strict=True)
        )
        path.append(setting.scaling * (b @ a))
    return np.array(path)


@representable()
def degrees_of_freedom(
    x: ArrayLike,
    y: ArrayLike,
    a_draw: ArrayLike,
    setting: Setting,
    knobs: Sequence[str],
    steps: int,
    *,
    optimizer: str = "adam",
    max_norm: float | None = None,
) -> int:
    """How many of the named knobs act independently: the rank of the trajectory's derivative in their logarithms.

    `knobs` names fields of `Setting` with values above 0, "rate" for both rates at once; the derivative is taken at the
    setting. The other arguments are those of `train`.

    Returns:
        The rank: singular values above 1e-6 of the largest count (central differences err by about 1e-9).
    """
    data, steps, names = _data(x, y, a_draw), count("steps", steps), several("knobs", knobs)
    _check(setting, choice("optimizer", optimizer, OPTIMIZERS))
    for name in names:
        choice("knobs", name, ("rate", *(f.name for f in fields(Setting))))
    limit = np.inf if max_norm is None else positive("max_norm", max_norm)
    step = 1e-4
    columns = []
    for name in names:
        parts = ("rate_a", "rate_b") if name == "rate" else (name,)
        ends = [
            replace(setting, **{p: positive(p, getattr(setting, p)) * np.exp(sign * step) for p in parts})
            for sign in (1, -1)
        ]
        up, down = (_path(*data, end, steps, optimizer, limit) for end in ends)
        columns.append(((up - down) / (2 * step)).ravel())
    values = np.linalg.svd(np.array(columns), compute_uv=False)
    return int(np.count_nonzero(values > 1e-6 * values[0])) if values[0] > 0 else 0


def _check(setting: Setting, optimizer: str) -> None:
    for name in ("scaling", "init_a", "rate_a", "rate_b"):
        positive(name, getattr(setting, name))
    if setting.eta is not None:
        positive("eta", setting.eta)
    for name in ("eps_a", "eps_b") if optimizer == "adam" else ():
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
    d = np.ones(len(b)) if setting.eta is None else factor_of(a, b, setting.eta)
    return field(a, b, g, d)


def _moved(
    part: np.ndarray, g: np.ndarray, moments: np.ndarray, knob: tuple[float, float, float], step: int, optimizer: str
) -> np.ndarray:
    # One decoupled-decay step; `moments` is advanced in place.
    rate, eps, decay = knob
    if optimizer == "sgd":
        return part - rate * decay * part - rate * g
    for moment, beta, power in zip(moments, BETAS, (g, g * g), strict=True):
        moment += (1 - beta) * (power - moment)
    mean, square = (moment / (1 - beta**step) for moment, beta in zip(moments, BETAS, strict=True))
    return part - rate * decay * part - rate * mean / (np.sqrt(square) + eps)
