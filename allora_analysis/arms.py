"""The arms: what is compared. A baseline of PEFT's is one entry here, with the options that make it.

`finetune` trains them, `grid` lists their runs, figures draw them. A rule of ours has its adapters in `lora` as well.
Checked by `tests/test_finetune_arms.py`, which asks of every arm what its first step must be.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One arm, in every table, figure and run.

    Attributes:
        label: how it is written.
        colour: of its lines and points. With any of the usual color vision deficiencies, two arms that share an axis
            stay apart (CIELAB distance 14 or more).
        marker: of its points, so that no two arms of a figure differ by color alone.
        has_eta: whether its rule has an η.
        dropout: whether it may have dropout.
        peft: options of PEFT's `LoraConfig`; None where the adapters are a rule of ours, or there are none.
        trained: whether it is an arm of a run; LoRA at η·l is the arm "lora" at another rate.
    """

    label: str
    colour: str
    marker: str
    has_eta: bool = False
    dropout: bool = True
    peft: Mapping[str, Any] | None = None
    trained: bool = True


LORA: Mapping[str, Any] = {}
HEADS = ("classifier", "score")  # as transformers names the last layer of a sequence classifier; PEFT trains both names
ARMS = {
    "lora": Arm("LoRA", "#009E73", "o", peft=LORA),
    "lora_eta": Arm("LoRA at η·l", "#D55E00", "s", trained=False),
    "lora_x_eta": Arm("LoRA × η", "#7F3C00", "v", has_eta=True),
    "allora": Arm("ALLoRA", "#0072B2", "D", has_eta=True),
    "allora_0": Arm("ALLoRA-0", "#56B4E9", "^", has_eta=True, dropout=False),
    "allora_od": Arm("ALLoRA-OD", "#E69F00", "P", has_eta=True),
    "asf_lora": Arm("ASF-LoRA", "#999933", "X", has_eta=True),
    "allora_adamw": Arm("ALLoRAAdamW", "#CC79A7", "p", has_eta=True, peft=LORA),
    "dora": Arm("DoRA", "#225500", "*", peft={"use_dora": True}),
    "loraplus": Arm("LoRA+", "#332288", "h", peft=LORA),
    "rslora": Arm("rsLoRA", "#44AA99", "<", peft={"use_rslora": True}),
    "pissa": Arm("PiSSA", "#882255", ">", peft={"init_lora_weights": "pissa"}),
    "head_only": Arm("classifier alone", "#777777", ".", dropout=False),
}
ON_ROWS = ("allora", "allora_0")  # a factor for each row of BA
ON_OUTPUTS = ("allora_od", "asf_lora")  # one for each output
VARIANTS = (*ON_ROWS, *ON_OUTPUTS, "lora_x_eta")  # the rules that `lora` has adapters of
IN_FORWARD = ("asf_lora", "lora_x_eta")  # in the forward pass, so that the gradients are the loss's own
ON_GRADIENTS = (*ON_ROWS, "allora_od")  # a factor that Adam and clipping divide out again
TRAINED = {name: arm for name, arm in ARMS.items() if arm.trained}
OPTIMIZERS = {"sgd": "SGD", "momentum": "momentum", "adam": "Adam", "adamw": "AdamW"}
"""How an optimizer is written."""


def not_saved(asked: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The names in PEFT's `modules_to_save` at which no module's path, or one's that it lies in, ends."""
    paths = [f"{module}." for module in modules]
    return [name for name in asked if name not in HEADS and not any(f"{name}." in path for path in paths)]


NO_LAYER = "no adapted layer's path ends so: that adapter is missing; give the end of a layer's path in the base model"
"""What `not_adapted` finds, with the way out."""


def not_adapted(asked: Any, saved: Iterable[str], layers: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The names in PEFT's `target_modules` at which no adapted layer's path ends.

    One string is a regular expression or PEFT's "all-linear" and names nothing. Of the paths `modules`, those within
    the modules `saved`, `modules_to_save`, are trained as a whole and have no adapters: names of theirs are left out.
    """
    names = [] if asked is None or isinstance(asked, str) else sorted(asked)
    whole, paths = [f".{module}." for module in saved], [f".{layer}".replace(".base_layer", "") for layer in layers]
    inside = [f".{path}." for path in modules if any(module in f".{path}." for module in whole)]
    return [
        name
        for name in names
        if not any(module in f".{name}." for module in whole)
        and not any(f".{name}." in path for path in inside)
        and not any(path.endswith(f".{name}") for path in paths)
    ]
