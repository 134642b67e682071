"""§4 in PEFT: `allora_config(eta=…)` for `peft.get_peft_model`, for ALLoRA and every arm that the paper compares.

- `config.py`: `allora_config`, `ALLoRAConfig`: a `LoraConfig` with a rule
- `rule.py`: what an adapter does beside LoRA, and how it merges
- `layer.py`: `ALLoRALayer`, one class for all variants, which picks the rule per adapter
- `targets.py`: the layers that an adapter may be put on
- `model.py`: PEFT's tuner, all or nothing
- `saving.py`: `load`, `train_on`
- `export.py`: `export_lora`

Everything else (saving, switching, merging, `modules_to_save`, checkpointing) is PEFT's.
"""

from importlib.util import find_spec

# The library, not this package: imports are absolute.
if find_spec("peft") is None:
    raise ModuleNotFoundError("PEFT is not installed: pip install 'allora-analysis[llm]'", name="peft")

from allora_analysis.lora.peft.config import ALLoRAConfig, allora_config
from allora_analysis.lora.peft.export import export_lora
from allora_analysis.lora.peft.layer import ALLoRALayer
from allora_analysis.lora.peft.model import ALLoRAModel
from allora_analysis.lora.peft.rule import VARIANTS, Rule
from allora_analysis.lora.peft.saving import load, train_on

__all__ = [
    "VARIANTS",
    "ALLoRAConfig",
    "ALLoRALayer",
    "ALLoRAModel",
    "Rule",
    "allora_config",
    "export_lora",
    "load",
    "train_on",
]
