"""How strongly a saved adapter acts in its network, and the c up to which the network is a power series in c·BA.

One sentence through the base model with c·BA on its linear maps (`ripple.transformer`, float64): how far the output of
the last block is from the base model's, beside that of adapters at random of the same ranks and row norms, and the
radius of convergence (`ripple.series`). Checked by `tests/test_doctor_strength.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allora_analysis.ripple import series
from allora_analysis.ripple.pretrained import Adapters, transformer_of
from allora_analysis.ripple.transformer import Transformer, forward, turned_at_random
from allora_analysis.validation import ArgumentError

SENTENCE = "the film is good, and the plot is not"
TOKENS = 4  # a radius takes some hundred passes
DRAWS = 3
AGREES = 1e-3  # with transformers' own output, relative


@dataclass(frozen=True)
class Strength:
    """What was found, at c = 1: the adapter as it is.

    Attributes:
        change: ‖f − f₀‖/‖f₀‖ of the output.
        at_random: the mean of that over adapters at random of the same ranks and row norms.
        radius: the smallest |c|, real or complex, at which the network divides by 0: its power series in c ends there.
        adapted: linear maps of the blocks with an adapter.
        left_out: pairs on other layers (a head's, an embedding's).
        tokens: of the sentence.
    """

    change: float
    at_random: float
    radius: float
    adapted: int
    left_out: int
    tokens: int


def strength(source: str, adapters: Adapters, sentence: str = SENTENCE, seed: int = 0) -> Strength:
    """Load the base model and run the sentence through it.

    Args:
        source: a folder, a GGUF file, or a hub id of a BERT, Llama or Qwen2.
        adapters: A and s·B by the layer's name.
        sentence: its first tokens are used.
        seed: of the adapters at random.

    Returns:
        The strength.

    Raises:
        ArgumentError: a model of another kind, one that is not the adapter's, and what `finetune.models.load` refuses.
    """
    from allora_analysis.finetune import models

    pretrained = models.load(source, 2, attention="eager")
    x, theirs = _states(pretrained, sentence)
    model = transformer_of(pretrained.model, adapters)
    plain = forward(model, x, 0.0).output
    if np.linalg.norm(plain - theirs) > AGREES * np.linalg.norm(theirs):
        raise ArgumentError(f"--model {source!r}: has more than BERT's, Llama's or Qwen2's blocks; it cannot be read")
    adapted = sum(bool(one.b.any() and one.a.any()) for block in model.blocks for one in block.values())
    if not adapted:
        raise ArgumentError(
            f"--model {source!r}: no layer of it has one of the adapter's names ({next(iter(adapters))}, …), or all of "
            "BA is 0; give the base model that it was trained on"
        )
    generator = np.random.default_rng(seed)

    def change(one: Transformer) -> float:
        return float(np.linalg.norm(forward(one, x, 1.0).output - plain) / np.linalg.norm(plain))

    radius = series.radius(model, x, series.radius_by_quadratics(model, x, 1e-2), 0.15, (16, 32))
    drawn = [change(turned_at_random(model, generator)) for _ in range(DRAWS)]
    left_out = sum(bool(a.any() and b.any()) for a, b in adapters.values()) - adapted
    return Strength(change(model), float(np.mean(drawn)), radius, adapted, left_out, x.shape[1])


def _states(pretrained: Any, sentence: str) -> tuple[np.ndarray, np.ndarray]:
    # h₀ and transformers' own output.
    import torch

    row = pretrained.tokenizer(sentence)["input_ids"][:TOKENS]
    with torch.no_grad():
        states = pretrained.model.eval()(torch.tensor([row]), output_hidden_states=True).hidden_states
    return states[0].double().numpy(), states[-1].double().numpy()


def words(found: Strength) -> str:
    """What `strength` found, in a line."""
    ratio = found.change / found.at_random
    word = "more than at random" if ratio > 2 else "about as at random" if ratio > 0.5 else "less than at random"
    past = "beyond which" if found.radius >= 1 else "below the adapter's own 1, so that at its full strength"
    return (
        f"{word}: on {found.tokens} tokens of one sentence it changes the output by {found.change:.2g} of its length, "
        f"{ratio:.2g} times as much as {DRAWS} adapters at random of its ranks and row norms; with c·BA for BA the "
        f"network is a power series in c up to c = {found.radius:.2g}, {past} no expansion in small adapters holds"
        + (f"; {found.left_out} pairs on other layers are left out" if found.left_out else "")
    )
