"""ALLoRA's adapters for plain PEFT (§4). Checked by `tests/test_lora_peft_saving*.py`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import fields
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file

from allora_analysis.lora.peft.config import ALLoRAConfig
from allora_analysis.lora.peft.rule import refuse_merge
from allora_analysis.lora.peft.saving import CONFIG, WEIGHTS, check_finite
from allora_analysis.validation import ArgumentError


def export_lora(model: PeftModel, folder: str | os.PathLike[str], adapter_name: str = "default") -> None:
    """The adapter as plain LoRA, with no field that plain PEFT does not know: it loads without a warning.

    Both files are written beside the old ones first, so that what fails leaves an earlier export as it was.

    Args:
        model: has the adapter.
        folder: to write `adapter_config.json` and `adapter_model.safetensors` to; made if missing.
        adapter_name: which adapter.

    Raises:
        ArgumentError: no such adapter, ASF-LoRA, NaN weights, offloaded ones, a folder that cannot be written.
    """
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    config = configs.get(adapter_name)
    if not isinstance(config, ALLoRAConfig):
        raise ArgumentError(
            f"adapter_name must name an ALLoRA adapter of a PeftModel, received {adapter_name!r}; it has {[*configs]}"
        )
    refuse_merge([config.variant], adapter_name)
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    if any(value.is_meta for value in state.values()):
        raise ArgumentError(f"adapter {adapter_name!r}: its weights are offloaded; export it before offloading")
    weights = {key: value.detach().cpu().clone() for key, value in state.items()}
    check_finite(weights, f"adapter {adapter_name!r}")
    plain = LoraConfig(**{f.name: getattr(config, f.name) for f in fields(LoraConfig) if f.init})
    plain.inference_mode = True
    base = type(model.get_base_model())
    found = {"base_model_class": base.__name__, "parent_library": base.__module__}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as beside:
            save_file(weights, Path(beside) / WEIGHTS, metadata={"format": "pt"})
            plain.save_pretrained(beside, auto_mapping_dict=None if config.task_type else found)
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(beside) / name, Path(folder) / name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"folder {str(folder)!r}: cannot be written ({reason}); name another folder") from None
