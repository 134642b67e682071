"""An adapter as a library saved it: pairs by name and shape, scaling, row norms. No base model, no pickle.

PEFT's folders, and `.safetensors` files of kohya's scripts, torchtune's or loralib's names. Checked by
`tests/test_doctor_saved.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis.adaptive.recipe import alpha_of_one
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.validation import ArgumentError, choice, count, ending, number, positive, shown

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PICKLES = ("adapter_model.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")
_KEY = re.compile(
    r"^(?P<layer>.*?)[._]?(?P<side>lora_(?:embedding_)?[AB]|lora_[ab]|lora_down|lora_up)(?P<rest>(?:\.[^.]+)*)$"
)
_PREFIX = "base_model.model."
_A_SIDES = ("lora_A", "lora_a", "lora_down", "lora_embedding_A")


@dataclass(frozen=True)
class SavedPair:
    """A pair of a file.

    Attributes:
        name: the layer's; with the adapter's where the file holds several.
        n1: outputs.
        n2: inputs.
        r: the rank.
        scaling: s.
        norms: smallest, median and largest ‖s(BA)_i‖; None where A or B is not finite.
        zero: "a", "b", "both" or "": the matrix that is 0.
        experts: how many products of rank r the two hold (`target_parameters`).
    """

    name: str
    n1: int
    n2: int
    r: int
    scaling: float
    norms: tuple[float, float, float] | None
    zero: str
    experts: int = 1


@dataclass(frozen=True)
class Saved:
    """A file's pairs and what its config says.

    Attributes:
        pairs: in the file's order.
        config: adapter_config.json's, or empty; the caller's α and rsLoRA in it.
        scaled: the scaling of all pairs is known: from a config, from an alpha in the file, or given.
        magnitudes: DoRA's vectors in the file.
        left_out: A or B without its other half, or no matrices (a convolution's).
    """

    pairs: tuple[SavedPair, ...]
    config: dict[str, Any]
    scaled: bool
    magnitudes: int
    left_out: int

    def common(self) -> tuple[int, float, int]:
        """R and s that most pairs have together, and the most frequent n₂ of those pairs.

        Returns:
            Three numbers that some pair has.
        """
        (r, s), _ = Counter((pair.r, pair.scaling) for pair in self.pairs).most_common(1)[0]
        (n2, _), *_ = Counter(pair.n2 for pair in self.pairs if (pair.r, pair.scaling) == (r, s)).most_common(1)
        return r, s, n2


def read(path: Path, alpha: float | None = None, rslora: bool = False) -> Saved:
    """Read an adapter's folder or its .safetensors file.

    Args:
        path: the folder or the file.
        alpha: α, in place of the config's and the file's.
        rslora: s = α/√r, whatever the config says.

    Returns:
        The adapter.

    Raises:
        ArgumentError: nothing there, a pickle, a file that cannot be read, no LoRA pair in it, a config whose values
            make no sense, or a scaling given for ASF-LoRA, which has none but 1.
    """
    weights, config = _files(path)
    tensors = _tensors(weights)
    whole, left_out = _sides(tensors)
    given: dict[str, Any] = {} if alpha is None else {"lora_alpha": positive("--alpha", alpha)}
    given |= {"use_rslora": True} if rslora else {}
    fixed = config.get("variant") == "asf_lora"
    if given and fixed:
        raise ArgumentError(f"{path}: ASF-LoRA has the scaling 1 and no other; leave --alpha and --rslora out")
    config = config | given
    stored = tensors.items() if alpha is None else ()
    alphas = {key.removesuffix(".alpha"): _alpha(key, value) for key, value in stored if key.endswith(".alpha")}
    pairs = tuple(_pair(name, part, config, alphas.get(part["layer"])) for name, part in whole.items())
    if not pairs:
        raise ArgumentError(
            f"{path}: no LoRA pair (lora_A and lora_B, lora_down and lora_up, …) among {len(tensors)} tensors"
        )
    own = all(part["layer"] in alphas for part in whole.values())
    known = fixed or config.get("lora_alpha") is not None or own
    magnitudes = sum("lora_magnitude_vector" in key or key.endswith("dora_scale") for key in tensors)
    return Saved(pairs, config, known, magnitudes, left_out)


def matrices(path: Path, saved: Saved) -> dict[str, tuple[Any, Any]]:
    """A and s·B of every pair that `read` found at a path, by the layer's name, as NumPy's float64."""
    parts = {name.removeprefix(_PREFIX): part for name, part in _sides(_tensors(_files(path)[0]))[0].items()}
    return {
        pair.name: (parts[pair.name]["a"].double().numpy(), pair.scaling * parts[pair.name]["b"].double().numpy())
        for pair in saved.pairs
    }


def _sides(tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    # A, B and the layer of each pair by its name, and how many are no pair.
    sides: dict[tuple[str, str], dict[str, Any]] = {}
    for key, value in tensors.items():
        if (found := _KEY.match(key)) and not key.endswith(".bias"):
            adapter = found["rest"].removesuffix(".weight").removeprefix(".")
            part = sides.setdefault((found["layer"], adapter), {"layer": found["layer"]})
            part["a" if found["side"] in _A_SIDES else "b"] = value
    whole = {key: part for key, part in sides.items() if _whole(part)}
    several = len({adapter for _, adapter in whole}) > 1
    named = {f"{layer} ({adapter})" if several else layer: part for (layer, adapter), part in whole.items()}
    return named, len(sides) - len(whole)


def _files(path: Path) -> tuple[Path, dict[str, Any]]:
    if not os.path.exists(path):
        raise ArgumentError(f"adapter {str(path)!r}: no such folder or file; give a saved adapter's folder")
    weights = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not weights.exists():
        others = sorted(path.glob("*.safetensors"))
        if len(others) == 1:
            weights = others[0]
        elif any(next(path.glob(name), None) for name in _PICKLES):
            raise ArgumentError(
                f"adapter {str(path)!r}: holds a pickle, which runs code when read; save as safetensors"
            )
        else:
            raise ArgumentError(f"adapter {str(path)!r}: holds no {WEIGHTS}; save_pretrained writes it")
    if weights.suffix != ".safetensors":
        raise ArgumentError(
            f"adapter {str(path)!r}: a .safetensors file wanted; others are pickles, which run code when read"
        )
    config = weights.parent / CONFIG
    if not config.exists():
        return weights, {}
    try:
        found = json.loads(ending(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{config}: is no JSON ({error!s:.100}); save the adapter again") from None
    if not isinstance(found, dict) or not str(found.get("peft_type", "LORA")).startswith(("LORA", "ASF_LORA")):
        kind = found.get("peft_type") if isinstance(found, dict) else type(found).__name__
        raise ArgumentError(f"{config}: LoRA's config wanted, received {kind!r}")
    _check(config, found)
    return weights, found


def _check(path: Path, config: dict[str, Any]) -> None:
    # The fields that are read here and in `answers`; null is as good as none.
    from allora_analysis.lora.layers import VARIANTS

    for name, check in {"lora_alpha": number, "lora_dropout": number, "eta": positive}.items():
        if config.get(name) is not None:
            check(f"{path}: {name}", config[name])
    for name in ("variant", "init_lora_weights"):
        if not isinstance(config.get(name), str | bool | None):
            raise ArgumentError(f"{path}: {name} must be a name, received {shown(config[name])}")
    for name, what, check in (("alpha_pattern", "α", number), ("rank_pattern", "r", count)):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise ArgumentError(f"{path}: {name} must be {what} by layer, received {shown(patterns)}")
        for key, value in patterns.items():
            check(f"{path}: {name}[{key!r}]", value)
            try:
                re.compile(key)
            except re.error as error:
                raise ArgumentError(
                    f"{path}: {name} must be of regular expressions, received {key!r} ({error})"
                ) from None
    targets = config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
        raise ArgumentError(f"{path}: target_parameters must be names, received {shown(targets)}")
    if targets and config.get("r") is not None:
        count(f"{path}: r", config["r"])
    if config.get("eta") is not None:
        choice(f"{path}: variant", config.get("variant", "allora"), VARIANTS)
        choice(f"{path}: adaptor", config.get("adaptor", "inverse_sqrt"), ADAPTORS)


def _alpha(key: str, tensor: Any) -> float:
    if tensor.numel() != 1:
        raise ArgumentError(f"{key} must be one number, received shape {tuple(tensor.shape)}; save the adapter again")
    return number(key, tensor.item())


def _tensors(weights: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise ArgumentError("safetensors is not installed: pip install 'allora-analysis[llm]'") from None
    try:
        with safe_open(str(ending(weights)), framework="pt") as opened:
            keys = [key for key in opened.keys() if "lora_" in key or key.endswith((".alpha", "dora_scale"))]  # noqa: SIM118
            return {key: opened.get_tensor(key) for key in keys}
    except (OSError, SafetensorError) as error:
        raise ArgumentError(
            f"{weights}: cannot be read as safetensors ({error!s:.80}); save or fetch it again"
        ) from None


def _whole(part: dict[str, Any]) -> bool:
    a, b = part.get("a"), part.get("b")
    return a is not None and b is not None and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]


def _pair(name: str, part: dict[str, Any], config: dict[str, Any], own_alpha: float | None) -> SavedPair:
    import torch

    from allora_analysis.lora.autograd import norms_of_rows
    from allora_analysis.lora.pairs import as_matrices

    a, b, layer = part["a"].double(), part["b"].double(), part["layer"].removeprefix(_PREFIX)
    r, keys = a.shape[0], _parameters(layer, config)
    rank = next((one for key in keys if r % (one := _of_pattern("rank_pattern", "r", key, config) or r) == 0), r)
    scaling = _scaling(next(iter(keys), layer), rank, config, own_alpha)
    spread = None
    if torch.isfinite(a).all() and torch.isfinite(b).all():
        rows = abs(scaling) * norms_of_rows(*as_matrices(a, b, r // rank))
        spread = (float(rows.min()), float(rows.median()), float(rows.max()))
    zero = ("both" if not b.any() else "a") if not a.any() else "" if b.any() else "b"
    return SavedPair(name.removeprefix(_PREFIX), b.shape[0], a.shape[1], rank, scaling, spread, zero, experts=r // rank)


def _parameters(layer: str, config: dict[str, Any]) -> list[str]:
    # Those of PEFT's `target_parameters` that belong to a layer, where a wrapper for each lies in the one before it.
    while layer.endswith(".base_layer"):
        layer = layer.removesuffix(".base_layer")
    targets = config.get("target_parameters") or ()
    keys = (f"{layer}.{target.rpartition('.')[2]}" for target in targets)
    return [key for key, target in zip(keys, targets, strict=True) if f".{key}".endswith(f".{target}")]


def _of_pattern(patterns: str, default: str, name: str, config: dict[str, Any]) -> Any:
    # PEFT's patterns: the first key that matches the end of the layer's name.
    found = (config.get(patterns) or {}).items()
    return next((value for key, value in found if re.match(rf"(.*\.)?({key})$", name)), config.get(default))


def _scaling(name: str, r: int, config: dict[str, Any], own_alpha: float | None) -> float:
    alpha = _of_pattern("alpha_pattern", "lora_alpha", name, config) if own_alpha is None else own_alpha
    if alpha is None:
        return 1.0
    return float(alpha) / alpha_of_one(r, config.get("use_rslora"))
