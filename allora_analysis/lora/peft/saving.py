"""Adapters on disk: loading the rule again, training LoRA's adapters on, and exporting ALLoRA's as LoRA's (§4).

`PeftModel.save_pretrained` writes `adapter_model.safetensors` and an `adapter_config.json` that holds the rule. Where
`allora_analysis.lora.peft` is imported, PEFT's own loading keeps the rule; elsewhere PEFT loads the file as LoRA, which
is the same function (it warns of the fields it does not know); ASF-LoRA is another, and there PEFT raises on its file.
PiSSA and OLoRA change the base weight: their file is read over the changed one, and is LoRA's once it is converted.
Checked by `tests/test_lora_peft_saving.py` and `tests/test_lora_peft_saving_refusals.py`.
"""

import json
import os
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from allora_analysis.adaptive.recipe import alpha_of_one
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import VARIANTS
from allora_analysis.lora.functional import check_eta
from allora_analysis.lora.peft.config import CONVERT, ALLoRAConfig
from allora_analysis.lora.peft.layer import DTYPES, changes_base, is_finite, layers_with, refuse_merge
from allora_analysis.lora.peft.snapshot import Snapshot
from allora_analysis.validation import ArgumentError, choice, count, positive

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What these leave of an adapter once its weights are read is LoRA; the others have changed the base weight.
_HARMLESS_INITS = (True, False, "gaussian", "orthogonal", "eva")


def load(
    model: nn.Module, folder: str | os.PathLike[str], adapter_name: str = "default", is_trainable: bool = False
) -> PeftModel:
    """An adapter that `save_pretrained` wrote, with its rule; where it does not fit, the model stays as it was.

    Args:
        model: the base model, or a `PeftModel` made with ALLoRA (which then gets one more adapter, not yet active).
        folder: with `adapter_config.json` and `adapter_model.safetensors`. PEFT saves an adapter of another name than
            "default" in a folder of that name.
        adapter_name: its name in the model.
        is_trainable: train it on; else it is frozen and the model is put in eval mode.

    Returns:
        The `PeftModel`.

    Raises:
        ArgumentError: no such folder, a torn file, NaN weights, weights that do not fit, plain LoRA's, or a PiSSA by
            randomized SVD, whose start no file gives back. The model is left as it was.
    """
    folder = _checked(model, folder)
    saved = _read_config(folder)
    if "variant" not in saved:
        raise ArgumentError(
            f"folder {str(folder)!r} holds plain PEFT's adapter ({saved.get('peft_type')}): load it with "
            "peft.PeftModel.from_pretrained, or train it on with train_on"
        )
    return _attach(model, folder, _config(folder, saved), adapter_name, is_trainable)


def train_on(
    model: nn.Module,
    folder: str | os.PathLike[str],
    eta: float,
    variant: str = "allora",
    adaptor: str = "inverse_sqrt",
    adapter_name: str = "default",
) -> PeftModel:
    """A saved LoRA adapter, to be trained on with ALLoRA's rule. The model's function does not change.

    LoRA's scaling s = α/r (α/√r for rsLoRA) moves into B, B ← (s/s')B with s' the new scaling, 1 or LoRA×η's η: exact
    if the factor is a power of 2, else to rounding. It goes into B because ALLoRA starts from LoRA's own A, and d
    depends on the product alone.

    Arguments as in `load` and `allora_config`; a folder saved by ALLoRA will do, and gets the new rule, not "asf_lora".
    The file's `lora_dropout` stays, but for "allora_0", which has none.

    Returns:
        The `PeftModel`, the adapter trainable (and not yet active, if `model` was a `PeftModel`).

    Raises:
        ArgumentError: as in `load`; an adapter that is not LoRA's (DoRA, patterns, a changed base weight, ASF-LoRA).
    """
    folder = _checked(model, folder)
    rule = {"eta": check_eta(eta), "variant": choice("variant", variant, VARIANTS)}
    rule |= {"adaptor": choice("adaptor", adaptor, ADAPTORS)} | ({"lora_dropout": 0.0} if variant == "allora_0" else {})
    saved = _read_config(folder)
    refuse_merge([variant, saved.get("variant", "")], adapter_name)
    if saved.get("peft_type") != "LORA" or saved.get("init_lora_weights", True) not in _HARMLESS_INITS:
        raise ArgumentError(
            f"folder {str(folder)!r}: a LoRA adapter wanted, received peft_type {saved.get('peft_type')!r} with "
            f"init_lora_weights {saved.get('init_lora_weights')!r}; convert it to LoRA first"
        )
    for name in ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias"):
        if saved.get(name):
            raise ArgumentError(
                f"{folder / _CONFIG}: {name} must be left out, received {saved[name]!r}; load it as LoRA"
            )
    scaling, weights = _scaling(folder, saved), _read_weights(folder)
    # PEFT sets `fan_in_fan_out` in the file of every adapter over a Conv1D; here the layer itself says how it lies.
    own = {"lora_alpha": None, "use_rslora": False, "init_lora_weights": True, "fan_in_fan_out": False}
    own |= {"eva_config": None}  # of the start, which is over
    config = _config(folder, saved | own | rule)
    factor = scaling / (config.lora_alpha / config.r)
    _check_scaled(weights, factor, folder, saved.get("lora_alpha"))
    model = _attach(model, folder, config, adapter_name, is_trainable=True)
    for layer in layers_with(model, adapter_name):
        layer.matrices(adapter_name)[1].detach().mul_(factor)
    return model


def _checked(model: Any, folder: Any) -> Path:
    """The folder, where the two are not exchanged."""
    if not isinstance(model, nn.Module) or not isinstance(folder, str | os.PathLike):
        received = ", ".join(type(one).__name__ for one in (model, folder))
        raise ArgumentError(
            f"model and folder must be a torch.nn.Module and a path, in this order, received {received}"
        )
    return Path(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        below = sorted(p.parent.name for p in folder.glob(f"*/{_CONFIG}")) if folder.is_dir() else []
        hint = f"; there is one in {', '.join(below)}" if below else "; give the folder that save_pretrained wrote"
        raise ArgumentError(f"folder {str(folder)!r} has no {_CONFIG}{hint}")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{path}: torn, no JSON ({error}); save the adapter again") from None
    if not isinstance(saved, dict):
        raise ArgumentError(f"{path}: a JSON object wanted, received {type(saved).__name__}")
    return saved


def _scaling(folder: Path, saved: dict[str, Any]) -> float:
    # LoRA's α/r, or rsLoRA's
    try:
        rank, alpha = count("r", saved.get("r", 8)), positive("lora_alpha", saved.get("lora_alpha", 8))
    except ArgumentError as error:
        raise ArgumentError(f"{folder / _CONFIG}: {error}; save the adapter again") from None
    return alpha / alpha_of_one(rank, saved.get("use_rslora"))


def _check_scaled(weights: dict[str, Tensor], factor: float, folder: Path, alpha: Any) -> None:
    """B's that are numbers of float32 also when they are scaled."""
    scaled = {key: factor * value.float() for key, value in weights.items() if "lora_B" in key or "embedding_B" in key}
    _check_finite(scaled, f"{folder / _CONFIG}: lora_alpha {alpha!r} gives")


def _config(folder: Path, saved: dict[str, Any]) -> ALLoRAConfig:
    try:
        return ALLoRAConfig.from_dict(saved)
    except Exception as error:  # values of other types fail in PEFT's own ways
        raise ArgumentError(f"{folder / _CONFIG}: {error}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ArgumentError(f"folder {str(folder)!r} has no {_WEIGHTS} (no pickle is read); save the adapter again")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArgumentError(f"{path}: torn ({error}); save the adapter again") from None
    for key, value in weights.items():
        if "lora_" in key and value.dtype not in DTYPES:
            raise ArgumentError(f"{path}: {key} is {value.dtype}, floating wanted; save the adapter again")
    _check_finite(weights, str(path))
    return weights


def _check_finite(weights: dict[str, Tensor], where: str) -> None:
    """Weights that are all numbers."""
    for key, value in weights.items():
        if value.is_floating_point() and not is_finite(value):
            raise ArgumentError(f"{where}: NaN or infinity in {key}; take an earlier checkpoint")


def _check_keys(keys: set[str], model: PeftModel, adapter_name: str) -> None:
    """The file has the adapter's weights, and none that the model lacks, which PEFT would pass over."""
    # Embeddings, which PEFT saves where they were resized, are the model's.
    wanted = set(get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False))
    differing = sorted((wanted - keys) | (keys - wanted - set(model.state_dict())))
    if differing:
        raise ArgumentError(f"{len(differing)} keys are in the file or in the model alone, first {differing[0]}")


def _attach(model: nn.Module, folder: Path, config: ALLoRAConfig, adapter_name: str, is_trainable: bool) -> PeftModel:
    """PEFT's own loading, with a config that it would not have read; all or nothing."""
    weights = _read_weights(folder)
    _check_scaled(weights, _scaling(folder, vars(config)), folder, config.lora_alpha)
    keys = set(weights)
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    if adapter_name in configs:
        raise ArgumentError(f"adapter_name: the model has an adapter {adapter_name!r}; choose another name")
    before = Snapshot(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            loaded = _load(model, str(folder), config, adapter_name, is_trainable)
        _check_keys(keys, loaded, adapter_name)
    except Exception as error:
        before.restore()
        configs.pop(adapter_name, None)
        reason = str(error).strip().replace("\n", " ")
        raise ArgumentError(f"folder {str(folder)!r} does not fit the model: {reason}") from error
    return loaded


def _load(model: nn.Module, folder: str, config: ALLoRAConfig, adapter_name: str, is_trainable: bool) -> PeftModel:
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, folder, adapter_name, is_trainable=is_trainable, config=config)
    config.inference_mode = not is_trainable
    model.add_adapter(adapter_name, config)
    model.load_adapter(folder, adapter_name, is_trainable=is_trainable)
    model.set_requires_grad(adapter_name, is_trainable)
    return model


def export_lora(model: PeftModel, folder: str | os.PathLike[str], adapter_name: str = "default") -> None:
    """The adapter as plain LoRA, with no field that plain PEFT does not know: it loads without a warning.

    Both files are written beside the old ones first, so that what fails leaves an earlier export as it was. Whoever is
    killed between the two renames leaves weights without a config, which nothing loads, and never a mixed pair.

    Args:
        model: has the adapter.
        folder: to write `adapter_config.json` and `adapter_model.safetensors` to; made if missing.
        adapter_name: which adapter.

    Raises:
        ArgumentError: no such adapter, plain LoRA, ASF-LoRA, a start that changed the base weight (PiSSA, OLoRA), NaN
            weights, offloaded ones, a folder that cannot be written.
    """
    _checked(model, folder)
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    config = configs.get(adapter_name)
    if type(config) is LoraConfig:
        raise ArgumentError(
            f"adapter {adapter_name!r}: an ALLoRA adapter wanted, received plain PEFT's: model.save_pretrained(folder) "
            "writes that as it is"
        )
    if not isinstance(config, ALLoRAConfig):
        raise ArgumentError(
            f"adapter_name must name an ALLoRA adapter of a PeftModel, received {adapter_name!r}; it has {[*configs]}"
        )
    refuse_merge([config.variant], adapter_name)
    if changes_base(config):
        raise ArgumentError(
            f"adapter {adapter_name!r}: init_lora_weights {config.init_lora_weights!r} changed the base weight, and "
            f"plain LoRA adds s*BA to the one that it was; {CONVERT}"
        )
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    if any(value.is_meta for value in state.values()):
        raise ArgumentError(f"adapter {adapter_name!r}: its weights are offloaded; export it before offloading")
    weights = {key: value.detach().cpu().clone() for key, value in state.items()}
    _check_finite(weights, f"adapter {adapter_name!r}")
    plain = LoraConfig(**{f.name: getattr(config, f.name) for f in fields(LoraConfig) if f.init})
    plain.inference_mode = True
    # As PEFT itself would, with a warning.
    plain.fan_in_fan_out = all(isinstance(one.get_base_layer(), Conv1D) for one in layers_with(model, adapter_name))
    base = type(model.get_base_model())
    found = {"base_model_class": base.__name__, "parent_library": base.__module__}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as beside:
            save_file(weights, Path(beside) / _WEIGHTS, metadata={"format": "pt"})
            plain.save_pretrained(beside, auto_mapping_dict=None if config.task_type else found)
            _move_pair(Path(beside), Path(folder))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"folder {str(folder)!r}: cannot be written ({reason}); name another folder") from None


def _move_pair(beside: Path, folder: Path) -> None:
    # Another config goes before its weights and comes after them.
    old, kept = folder / _CONFIG, beside / "before"
    if old.is_file() and old.read_bytes() != (beside / _CONFIG).read_bytes():
        os.replace(old, kept)
    try:
        os.replace(beside / _WEIGHTS, folder / _WEIGHTS)
    except OSError:
        if kept.exists():
            os.replace(kept, old)
        raise
    os.replace(beside / _CONFIG, old)
