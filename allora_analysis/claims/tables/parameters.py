"""Trainable parameters of LoRA and DoRA from a model's sizes, and Table 1's column "# Params %".

With module weights of shape (out, in): LoRA trains r(in + out) each, DoRA `out` magnitudes more; the pre-trained
count is that of a LLaMA decoder with untied embeddings. Checked by `tests/test_claims_tables.py` against models built
layer by layer in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from allora_analysis.claims.reported import ADAPTED_MODULES, ARCHITECTURES, TABLE_1, Architecture
from allora_analysis.claims.tables.rounding import Comparison, exact, half_unit
from allora_analysis.validation import adapter_rank, choice

DENOMINATORS = ("pretrained", "all")


def module_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """The (out, in) sizes of one decoder layer's linear modules.

    Args:
        architecture: the model's sizes.

    Returns:
        Sizes by module name.
    """
    hidden, wide, narrow = architecture.hidden, architecture.intermediate, architecture.key_value
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (narrow, hidden),
        "v_proj": (narrow, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "down_proj": (hidden, wide),
    }


def pretrained_parameters(architecture: Architecture) -> int:
    """2·vocabulary·hidden + layers·(Σ out·in + 2·hidden) + hidden: embeddings, head, layers, RMS norms.

    Args:
        architecture: the model's sizes.

    Returns:
        The count.
    """
    matrices = sum(out * size for out, size in module_shapes(architecture).values())
    hidden = architecture.hidden
    return 2 * architecture.vocabulary * hidden + architecture.layers * (matrices + 2 * hidden) + hidden


def trainable_parameters(
    architecture: Architecture, rank: int, method: str, modules: Sequence[str] = ADAPTED_MODULES
) -> int:
    """layers·Σ r(in + out), and with DoRA Σ out more.

    Args:
        architecture: the model's sizes.
        rank: r, at most the smallest size of an adapted module.
        method: "LoRA" (ALLoRA has the same parameters) or "DoRA".
        modules: names of the adapted modules.

    Returns:
        The count.
    """
    choice("method", method, ("LoRA", "DoRA"))
    shapes = module_shapes(architecture)
    adapted = [shapes[choice("modules", name, tuple(shapes))] for name in modules]
    r = adapter_rank(rank, min(out for out, _ in adapted), min(size for _, size in adapted))
    magnitudes = sum(out for out, _ in adapted) if method == "DoRA" else 0
    return architecture.layers * (r * sum(out + size for out, size in adapted) + magnitudes)


def trainable_percent(architecture: Architecture, rank: int, method: str, denominator: str) -> float:
    """Trainable parameters as a percentage of the pre-trained ones, or of all (pre-trained and trainable).

    Args:
        architecture: the model's sizes.
        rank: r.
        method: "LoRA" or "DoRA".
        denominator: "pretrained", as §4.5 says, or "all", as PEFT prints it.

    Returns:
        The percentage.
    """
    trainable = trainable_parameters(architecture, rank, method)
    base = pretrained_parameters(architecture)
    total = base if choice("denominator", denominator, DENOMINATORS) == "pretrained" else base + trainable
    return 100 * trainable / total


def table_1_parameters(denominator: str) -> tuple[Comparison, ...]:
    """Table 1's "# Params %" against the architectures; no rounding of inputs, so only agreement counts.

    Args:
        denominator: as in `trainable_percent`.

    Returns:
        One comparison a (model, rank, method), DoRA or ALLoRA (whose two arms print the same).
    """
    words = "trainable / pre-trained" if denominator == "pretrained" else "trainable / all"
    distinct = {(row.model, row.rank, row.arm.removesuffix("-0")): row.parameters for row in TABLE_1}
    return tuple(
        Comparison(
            f"Table 1, {model}, r = {rank}, {arm}, # Params %",
            f"architecture, {words}",
            exact(printed),
            exact(trainable_percent(ARCHITECTURES[model], rank, "DoRA" if arm == "DoRA" else "LoRA", denominator)),
            half_unit(2),
            exact(0.0),
        )
        for (model, rank, arm), printed in distinct.items()
    )
