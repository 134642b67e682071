"""Which hyper-parameters are real? Rescalings that leave training as it was (abstract, §1: "removes two").

The module is x ↦ s·BAx (s = α/r), B starts at 0, A at init_A times a given draw. Put Ã = aA, B̃ = bB, s̃ = s/(ab): the
same function. ∂L/∂Ã is 1/a of ∂L/∂A, Adam's ratio m/(√v + ε) is blind to that once ε̃_A = ε_A/a, and Ã must move a times
as far:

    Adam:  s → s/(ab), init_A → a·init_A, l_A → a·l_A, l_B → b·l_B, ε_A → ε_A/a, ε_B → ε_B/b,
           decoupled decay λ_A → λ_A/a, λ_B → λ_B/b                                    (any schedule; no clipping)
    SGD:   the same with l_A → a²·l_A, l_B → b²·l_B, λ_A → λ_A/a², λ_B → λ_B/b²       (also with momentum)

leaves s·BA, hence training, invariant. So s is redundant *given* init_A and two rates; with init_A fixed (a = 1) and
one rate (b = a) it is a degree of freedom. Clipping by the global norm breaks the invariance (the two gradients scale
apart). At ε = 0 A's first Adam step is 0/0: its gradient is 0 at B = 0.

ALLoRA fixes s = 1 and has η. With Ã = ηA, B̃ = ηB: ‖(BA)_i‖ + 1/η² = (‖(B̃Ã)_i‖ + 1)/η², so d_i(η) = η·d̃_i(1), and

    ALLoRA(s = 1, η, init_A, l)  =  ALLoRA(s = 1/η², η = 1, η·init_A, l̃),
    l̃ = η³l (SGD; λ → λ/η³)  or  ηl (Adam; ε → ε/η², λ → λ/η):

**η is the scaling factor under another name**, s = 1/η². Checked by `tests/test_adaptive_invariance.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from allora_analysis.validation import ArgumentError, choice, positive

OPTIMISERS = ("adam", "sgd")


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


def rescaled(setting: Setting, a: float, b: float, optimiser: str = "adam") -> Setting:
    """The setting that trains the same s·BA with A multiplied by a and B by b; LoRA only.

    Args:
        setting: LoRA's knobs (eta None: ALLoRA's factor sees ‖(BA)_i‖, which changes).
        a: what A is multiplied by, above 0.
        b: what B is multiplied by, above 0.
        optimiser: "adam" or "sgd".

    Returns:
        The other setting.

    Raises:
        ArgumentError: an ALLoRA setting.
    """
    a, b = positive("a", a), positive("b", b)
    if setting.eta is not None:
        raise ArgumentError(f"setting: eta must be None (LoRA), received {setting.eta}; for ALLoRA see eta_as_scaling")
    power = {"adam": 1, "sgd": 2}[choice("optimiser", optimiser, OPTIMISERS)]
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


def eta_as_scaling(setting: Setting, optimiser: str = "adam") -> Setting:
    """The ALLoRA setting with η = 1 and scaling 1/η² (times its own) that trains the same s·BA.

    Args:
        setting: an ALLoRA setting.
        optimiser: "adam" or "sgd".

    Returns:
        The setting with η = 1.

    Raises:
        ArgumentError: a LoRA setting.
    """
    if setting.eta is None:
        raise ArgumentError("setting: eta is None (LoRA); give ALLoRA's eta")
    eta = positive("eta", setting.eta)
    power = {"adam": 1, "sgd": 3}[choice("optimiser", optimiser, OPTIMISERS)]
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
