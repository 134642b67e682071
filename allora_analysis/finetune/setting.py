"""What a fine-tuning run is: every field counts, none is a path. Checked by `tests/test_finetune_setting.py`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from allora_analysis.arms import TRAINED
from allora_analysis.records import LATER, results_folder
from allora_analysis.validation import (
    ArgumentError,
    choice,
    count,
    drop_rate,
    non_negative,
    number,
    positive,
    several,
)

STUDY = "finetune"
RESULTS = results_folder(STUDY)
PROTOCOL = 1  # grows when the meaning of a run changes
OPTIMIZERS = ("sgd", "momentum", "adamw")
TASKS = ("classification", "multiple_choice")
MOMENTUM = 0.9
WITH_ETA = tuple(name for name, arm in TRAINED.items() if arm.has_eta)
ARMS = {name: arm.label for name, arm in TRAINED.items()}
ABOVE_ZERO, ZERO_TOO = ("learning_rate", "epsilon"), ("head_learning_rate", "weight_decay", "max_grad_norm")
LARGEST = 1e30  # of any of them: float32 ends at 3e38
LORAPLUS_RATIO = 16.0  # B's rate over A's: Hayou et al. (2024b), LoRA+, as its authors recommend


@dataclass(frozen=True)
class Setting:
    """A run in full; the fields are flags of `python -m allora_analysis.finetune` too."""

    model: str
    """What records call the model; its content's digest stands beside."""
    data: str
    """What records call the data."""
    arm: Annotated[str, arg(metavar=" | ".join(ARMS))]
    """The arm; lora_x_eta has a fixed scaling η, allora_0 no dropout, allora_adamw is LoRA under ALLoRAAdamW; adamw and
    clipping undo allora, allora_0 and allora_od."""
    optimizer: Annotated[str, arg(metavar="|".join(OPTIMIZERS))] = "adamw"
    """momentum is SGD with momentum 0.9."""
    learning_rate: float = 1e-4
    """Learning rate of the adapters."""
    head_learning_rate: float = 1e-4
    """Learning rate of the classifier."""
    eta2: float | None = None
    """η² of the arm's rule (the paper: 1, 2, 4); only for arms that have one."""
    task: Annotated[str, arg(metavar="|".join(TASKS))] = "classification"
    """multiple_choice is by the likelihood of each answer (a causal language model)."""
    rank: int = 16
    """Rank r of every adapter; the LoRA scaling α/r is 1 but for lora_x_eta (η) and rslora (√r)."""
    drop_rate: float = 0.0
    """Drop rate of the adapters' dropout; the paper takes 0.05 where its arms have one."""
    placement: Annotated[str, arg(metavar="input|bottleneck")] = "input"
    """Where the dropout is: at the input, as PEFT has it; in the bottleneck, between A and B (the arm lora)."""
    epochs: int = 2
    """Passes over the training split."""
    max_steps: int | None = None
    """Optimizer steps instead of epochs."""
    batch_size: int = 32
    """Sentences in a step, over all its parts and all processes."""
    accumulation: int = 1
    """Parts in which a batch's gradient is accumulated; divides the batch size."""
    max_length: int = 128
    """Tokens after which a sentence is cut."""
    schedule: Annotated[str, arg(metavar="linear|constant")] = "linear"
    """linear is to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate first rises from 0."""
    weight_decay: float = 0.0
    """Weight decay of adapters and classifier; decoupled for adamw."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the moments."""
    epsilon: float = 1e-8
    """AdamW's ε."""
    max_grad_norm: float = 1.0
    """Clip the norm of the gradient of all parameters to this (transformers' default is 1); 0: no clipping."""
    precision: Annotated[str, arg(metavar="fp32|bf16")] = "fp32"
    """bf16 is autocast."""
    seed: int = 0
    """Seed of adapters, classifier, order of the data and dropout masks."""
    own_dropout: Annotated[bool, arg(help_behavior_hint="(default: it stays on)")] = field(default=True, metadata=LATER)
    """With the flag the model's own dropout (a BERT's is 0.1) is off in training: the arm's is the only one."""

    @property
    def eta(self) -> float | None:
        """η, the root of `eta2`; None for arms without one."""
        return None if self.eta2 is None else self.eta2**0.5

    def steps(self, rows: int) -> int:
        """The run's number of optimizer steps, on a training split of so many rows."""
        return self.max_steps or self.epochs * -(-rows // self.batch_size)

    def words(self) -> str:
        """The run in a line, the rank where it is not 16; no two of a preset's have the same."""
        eta = "" if self.eta2 is None else f", η² = {self.eta2:g}"
        place = " in the bottleneck" if self.placement == "bottleneck" else ""
        dropped = f", drop rate {self.drop_rate:g}{place}" if self.drop_rate else ""
        rank = f", rank {self.rank}" if self.rank != Setting.rank else ""
        own = "" if self.own_dropout else ", own dropout off"
        return (
            f"{self.model}, {self.data}, {self.arm}{rank}{eta}{dropped}, {self.optimizer} at {self.learning_rate:g}"
            f" (head {self.head_learning_rate:g}){own}, seed {self.seed}"
        )


def check(setting: Setting) -> Setting:
    """Refuse a run that makes no sense. Fields that the run ignores are set to their defaults: equal runs, equal keys.

    Numbers become floats; `epochs` beside `max_steps`, and `head_only`'s `rank` and `learning_rate`, are not read.
    """
    arm = choice("arm", setting.arm, ARMS)
    choice("optimizer", setting.optimizer, OPTIMIZERS)
    choice("schedule", setting.schedule, ("constant", "linear"))
    choice("precision", setting.precision, ("fp32", "bf16"))
    choice("task", setting.task, TASKS)
    choice("placement", setting.placement, ("input", "bottleneck"))
    if arm == "allora_adamw" and setting.optimizer != "adamw":
        raise ArgumentError(f"optimizer must be adamw for the arm allora_adamw, received {setting.optimizer!r}")
    for name, minimum in (("rank", 1), ("epochs", 1), ("batch_size", 1), ("accumulation", 1), ("max_length", 2)):
        count(name, getattr(setting, name), minimum)
    count("warmup_steps", setting.warmup_steps, 0)
    count("seed", setting.seed, 0, 2**31)
    if setting.max_steps is not None:
        count("max_steps", setting.max_steps, 1)
    if setting.batch_size % setting.accumulation:
        raise ArgumentError(
            f"accumulation must divide the batch size {setting.batch_size}, received {setting.accumulation}"
        )
    if len(several("betas", setting.betas)) != 2:
        raise ArgumentError(f"betas must be two numbers, received {setting.betas!r}")
    if not isinstance(setting.own_dropout, bool):
        raise ArgumentError(f"own_dropout must be True or False, received {setting.own_dropout!r}")
    _check_rule(setting)
    unread = ["epochs"] if setting.max_steps is not None else []
    unread += ["rank", "learning_rate"] if setting.arm == "head_only" else []
    return dataclasses.replace(setting, **_checked_numbers(setting) | {name: getattr(Setting, name) for name in unread})


def _checked_numbers(setting: Setting) -> dict[str, object]:
    betas = tuple(number(f"betas[{i}]", beta, "in [0, 1)") for i, beta in enumerate(setting.betas))
    if not all(0 <= beta < 1 for beta in betas):
        raise ArgumentError(f"betas must be in [0, 1), received {setting.betas!r}")
    return {
        "betas": betas,
        **{name: _float32(name, positive(name, getattr(setting, name))) for name in ABOVE_ZERO},
        **{name: _float32(name, non_negative(name, getattr(setting, name))) for name in ZERO_TOO},
        "eta2": None if setting.eta2 is None else _eta2(setting.eta2),
        "drop_rate": drop_rate("drop_rate", setting.drop_rate),
    }


def _float32(name: str, value: float) -> float:
    if value > LARGEST:
        raise ArgumentError(f"{name} must be at most {LARGEST:g}, or training in float32 overflows, received {value!r}")
    return value


def _eta2(value: float) -> float:
    if (eta2 := _float32("eta2", positive("eta2", value))) < 1 / LARGEST:
        raise ArgumentError(f"eta2 must be at least {1 / LARGEST:g}, or 1/η² overflows in training, received {value!r}")
    return eta2


def _check_rule(setting: Setting) -> None:
    if setting.arm in WITH_ETA and setting.eta2 is None:
        raise ArgumentError(f"eta2 must be given for the arm {setting.arm}, received none; the paper takes 1, 2 and 4")
    if setting.arm not in WITH_ETA and setting.eta2 is not None:
        raise ArgumentError(f"eta2: the arm {setting.arm} has no η; leave it out, received {setting.eta2!r}")
    if setting.optimizer != "adamw":
        for name in ("betas", "epsilon"):
            if getattr(setting, name) != (default := getattr(Setting, name)):
                raise ArgumentError(
                    f"{name} must be left at {default} for the optimizer {setting.optimizer}, which has none, received "
                    f"{getattr(setting, name)!r}"
                )
    if setting.placement == "bottleneck" and not setting.drop_rate:
        raise ArgumentError("placement must be input at drop rate 0, where it has no effect, received 'bottleneck'")
    if setting.placement == "bottleneck" and setting.arm != "lora":
        raise ArgumentError(f"placement must be input for the arm {setting.arm}, received 'bottleneck'")
    if setting.task == "multiple_choice":
        _check_causal(setting)
    if not TRAINED[setting.arm].dropout and setting.drop_rate != 0:
        raise ArgumentError(f"drop_rate must be 0 for the arm {setting.arm}, received {setting.drop_rate!r}")


def _check_causal(setting: Setting) -> None:
    if setting.arm == "head_only":
        raise ArgumentError("arm must have adapters for the task multiple_choice, received 'head_only'")
    if setting.head_learning_rate != setting.learning_rate:
        raise ArgumentError(
            "head_learning_rate must be left out for the task multiple_choice, which trains no head, received "
            f"{setting.head_learning_rate!r}"
        )
