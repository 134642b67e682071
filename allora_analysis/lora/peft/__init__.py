"""§4 in PEFT: `allora_config(eta=…)` for `peft.get_peft_model`, for ALLoRA and every arm that the paper compares.

- `config.py`: `allora_config`, `ALLoRAConfig`: a `LoraConfig` with a rule; PEFT's tuner, all or nothing
- `snapshot.py`: a model to go back to
- `layer.py`: what one adapter does beside LoRA, and `ALLoRALinearLayer`, one class for all variants
- `other_layers.py`, `quantised.py`: the same for embeddings, convolutions, experts, and for 4-bit and 8-bit weights
- `saving.py`: `load`, `train_on`, `export_lora`

Everything else (saving, switching, merging, `modules_to_save`, checkpointing) is PEFT's.
"""

from importlib.util import find_spec

from allora_analysis.validation import not_installed

# The library, not this package: imports are absolute.
if find_spec("peft") is None:
    raise ModuleNotFoundError(not_installed("PEFT"), name="peft")

from allora_analysis.arms import VARIANTS
from allora_analysis.lora.peft.config import ALLoRAConfig, ALLoRAModel, allora_config
from allora_analysis.lora.peft.layer import ALLoRALinearLayer, Rule
from allora_analysis.lora.peft.saving import export_lora, load, train_on

__all__ = [
    "VARIANTS",
    "ALLoRAConfig",
    "ALLoRALinearLayer",
    "ALLoRAModel",
    "Rule",
    "allora_config",
    "export_lora",
    "load",
    "train_on",
]
