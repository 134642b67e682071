"""§4: the adaptor, the escape from zero, descent, Listing 1 and the variants.

Their checks need the layers of §4, which the package does not have yet: each row says which command is to decide it.
"""

from __future__ import annotations

from allora_analysis.claims.ledger import Claim

ESCAPE = "python -m allora_analysis.escape (to come, with the layers of §4)"
FINE_TUNING = "python -m experiments.row_norms (to come, with the fine-tuning runs)"
TEST = "to come with the command"

STATEMENTS = (
    (
        "4-adaptor",
        "§4.2 and Figure 5; abstract",
        "1/√(‖(BA)_i‖ + 1/η²) reaches its maximum η at ‖(BA)_i‖ = 0 and then tapers down; the coefficient is inversely "
        "proportional to the parameters' ℓ2 norm, per sample and per parameter",
        ESCAPE,
    ),
    (
        "4-escape",
        "§4.2",
        "A fixed learning rate cannot simultaneously achieve both fast escape from 0 and, once away from 0, measured "
        "discovery of the optimal direction; ALLoRA escapes rapidly and then tapers off",
        ESCAPE,
    ),
    (
        "4-figure-2-right",
        "§4.2 and Figure 2, right",
        "The starting phase matches that of LoRA with learning rate η·l_b; LoRA with a lower rate reaches the same "
        "level at a much slower pace",
        FINE_TUNING,
    ),
    (
        "4-descent",
        "§4.2, definition of ALLoRA",
        "g̃_i = g_i/√(‖(BA)_i‖ + 1/η²) is an adaptive learning rate: a rescaled step that still descends",
        ESCAPE,
    ),
    (
        "4-not-back-propagated",
        "§4.2, implementation detail",
        "Only the gradients of A and B are modified, not that of the input",
        ESCAPE,
    ),
    (
        "4-listing-1",
        "Appendix F, Listing 1",
        "The listed autograd function implements ALLoRA",
        ESCAPE,
    ),
    (
        "4-variants",
        "§4.3",
        "ALLoRA-OD is subject to the stochastic noise in x; ASF-LoRA introduces a ripple effect across layers and "
        "cannot be merged",
        ESCAPE,
    ),
    (
        "4-two-hyper-parameters",
        "Abstract, §1",
        "ALLoRA removes two hyper-parameters from LoRA: the scaling factor and the dropout rate",
        ESCAPE,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements of §4, none of which can be decided yet.

    Returns:
        The claims, without checks.
    """
    return tuple(Claim(name, where, text, None, command, TEST) for name, where, text, command in STATEMENTS)
