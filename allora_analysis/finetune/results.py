"""A run's result as a record holds it: what rows and figures read, and whether it is whole.

Checked by `tests/test_finetune_results.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from allora_analysis.validation import ArgumentError

SERIES = ("step", "mean", "least", "most", "largest")


def summarised(norms: Mapping[str, Any]) -> dict[str, list[float]]:
    """Row norms over all layers, of norms by layer; those that are summarized already stay as they are.

    Args:
        norms: "step", and "layers": by layer the "mean" and the "max" over rows, a number a step.

    Returns:
        "step"; "mean", "least" and "most": the mean, the smallest and the largest over layers of the mean over rows;
        "largest": the largest row norm of all. The lists are empty where nothing is adapted.
    """
    if "layers" not in norms:
        return dict(norms)
    layers, steps = list(norms["layers"].values()), range(len(norms["step"]))
    means = [[layer["mean"][i] for layer in layers] for i in steps] if layers else []
    return {
        "step": list(norms["step"]),
        "mean": [sum(of) / len(of) for of in means],
        "least": [min(of) for of in means],
        "most": [max(of) for of in means],
        "largest": [max(layer["max"][i] for layer in layers) for i in steps] if layers else [],
    }


def check_result(name: str, result: Mapping[str, Any]) -> None:
    """Refuse a result that lacks what rows and figures read of any run."""
    for leaf, value in _wrong(result):
        told = "is missing or null" if value is None else f"is {value!r:.60}"
        raise ArgumentError(f"{name}: {leaf} of its result {told}; delete the record and run again")


def _wrong(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    epochs = result.get("epochs")
    if not isinstance(epochs, list) or not all(isinstance(entry, dict) for entry in epochs):
        yield "epochs", epochs
        return
    leaves = (
        (i, leaf, entry.get(leaf)) for i, entry in enumerate(epochs) for leaf in {"step", "test_accuracy", *entry}
    )
    yield from ((f"epochs[{i}].{leaf}", value) for i, leaf, value in leaves if not _number(value))
    if "row_norms" in result:
        yield from _wrong_norms(result["row_norms"])


def _wrong_norms(norms: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(norms, dict) or not isinstance(norms.get("step"), list):
        yield "row_norms.step", norms.get("step") if isinstance(norms, dict) else norms
        return
    layers = norms.get("layers", {})
    if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        yield "row_norms.layers", layers
        return
    series = [(f"layers.{layer}.mean", of.get("mean")) for layer, of in layers.items()]
    series += [] if "layers" in norms else [(leaf, norms.get(leaf)) for leaf in SERIES]
    for leaf, values in series:
        whole = isinstance(values, list) and len(values) in (0, len(norms["step"])) and all(map(_number, values))
        if not whole:
            yield f"row_norms.{leaf}", values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
