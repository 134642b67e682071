"""A pretrained BERT, Llama or Qwen2 of transformers, with adapters, as a `transformer.Transformer` in float64.

Checked by `tests/test_claims_pretrained_ripple.py` against transformers' own outputs, and by
`tests/test_doctor_strength.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.ripple.transformer import AdaptedMap, Design, Normalisation, Transformer
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from torch import nn

BERT = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
BERT |= {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
LLAMA = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}
ACTIVATIONS = {"bert": "gelu", "llama": "silu", "qwen2": "silu"}  # of the kinds that can be read
Adapters = Mapping[str, tuple[np.ndarray, np.ndarray]]  # A and B by the linear map's name


def transformer_of(model: nn.Module, adapters: Adapters) -> Transformer:
    """A pretrained BERT, Llama or Qwen2 of transformers as a `Transformer` in float64; maps without an adapter get 0.

    Args:
        model: the base model, or one with a head.
        adapters: s·B goes in B's place.

    Returns:
        The transformer.

    Raises:
        ArgumentError: a model of another kind, or an adapter that is not of this model.
    """
    own, kind = model.config, model.config.model_type
    if kind not in ACTIVATIONS or own.hidden_act != ACTIVATIONS[kind]:
        known = ", ".join(f"{name} with {act}" for name, act in ACTIVATIONS.items())
        act = getattr(own, "hidden_act", "another activation")
        raise ArgumentError(f"model: {kind} with {act} cannot be read as blocks of linear maps; give one of {known}")
    names = BERT if kind == "bert" else LLAMA
    base = model.base_model
    stack = base.encoder.layer if names is BERT else base.layers

    def array(value: Any) -> np.ndarray:
        return value.detach().double().numpy()

    def norm(module: nn.Module) -> Normalisation:
        return Normalisation(array(module.weight), array(module.bias) if hasattr(module, "bias") else 0.0)

    def one(block: int, name: str) -> AdaptedMap:
        linear = stack[block].get_submodule(name)
        linear = getattr(linear, "base_layer", linear)
        n1, n2 = linear.weight.shape
        a, b = next((pair for key, pair in adapters.items() if key.endswith(f".{block}.{name}")), (None, None))
        bias = 0.0 if linear.bias is None else array(linear.bias)
        a, b = (np.zeros((1, n2)), np.zeros((n1, 1))) if a is None else (a, b)
        if (len(b), a.shape[1]) != (n1, n2):
            raise ArgumentError(
                f"adapters: {name} of block {block} is {n1}×{n2} in the model, {len(b)}×{a.shape[1]} in the adapter; "
                "give the model that it was trained on"
            )
        return AdaptedMap(array(linear.weight), b, a, bias)

    blocks = tuple({key: one(i, name) for key, name in names.items()} for i in range(len(stack)))
    if names is BERT:
        design = Design(own.num_attention_heads, "post", True, own.layer_norm_eps)
        norms = tuple((norm(layer.attention.output.LayerNorm), norm(layer.output.LayerNorm)) for layer in stack)
        return Transformer(design, blocks, norms)
    design = Design(own.num_attention_heads, "pre", False, own.rms_norm_eps, True, True, "silu", True)
    rope = own.rope_parameters["rope_theta"]
    design = dataclasses.replace(design, key_heads=own.num_key_value_heads, rope=float(rope))
    norms = tuple((norm(layer.input_layernorm), norm(layer.post_attention_layernorm)) for layer in stack)
    return Transformer(design, blocks, norms, norm(base.norm))


def row_norm(model: Transformer) -> tuple[float, float]:
    """The mean row norm of the adapters BA, and of the weights."""
    maps = [one for block in model.blocks for one in block.values()]
    adapters = [np.sqrt(np.sum((one.b @ (one.a @ one.a.T)) * one.b, axis=1)).mean() for one in maps]
    return float(np.mean(adapters)), float(np.mean([np.linalg.norm(one.w, axis=1).mean() for one in maps]))
