"""§4, the doctor in transformers' Trainer: under its defaults (AdamW, clipping at 1) `allora_config` trains plain LoRA.

`Trainer(…, callbacks=[DoctorCallback()])` asks before a run's first step and at its n-th or its last, logs what it
finds, and warns where ALLoRA is off. Checked by `tests/test_lora_training.py`.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, distributed, nn

from allora_analysis.lora.doctor import Diagnosis, NoAdapter, doctor
from allora_analysis.lora.doctor.advice import VERDICTS
from allora_analysis.lora.doctor.measured import unwrapped
from allora_analysis.lora.watch import warn_of_run
from allora_analysis.validation import ArgumentError, count, not_installed

if importlib.util.find_spec("transformers") is None:
    raise ModuleNotFoundError(not_installed("transformers"), name="transformers")

from transformers import TrainerCallback

__all__ = ["DoctorCallback"]

_ON = {"on": 1.0, "off": 0.0, "plain": 0.0}  # anything between is one half
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # accelerate's words


class DoctorCallback(TrainerCallback):
    """Runs `doctor` before the first step and at the n-th, on that step's gradients as they are before clipping.

    Steps are counted from where the run begins, resumed or not; a run of fewer is looked at in its last.

    Each finding is an entry of the Trainer's `state.log_history`, of numbers named `allora/…`: `allora/on` (1, 0, or ½
    for what is neither), the share of trained layers where the factor acts, and of the trained layers the median row
    norm, the smallest, median and largest factor, and what clipping takes from the gradient's norm. Where there is a
    problem — ALLoRA off, in part, undone by clipping; a gradient that is not finite — a warning gives the worst and the
    way out. Another says where the arguments' learning rate or weight decay is not the optimizer's. A model without
    adapters raises; a doctor that fails otherwise is a warning, and the run goes on.

    Args:
        step: n, 1 for the first step; there BA = 0 and every factor is η, so that a later step shows whether it tapers.
        log: takes the numbers in the history's place, for example `trainer.log`, which enters them there and hands them
            on to W&B or TensorBoard.
        allora: ALLoRA is meant to be on; False: for plain LoRA, of which it logs rates, row norms and clipping.

    Attributes:
        diagnoses: what `doctor` found, by the number of steps made before.
    """

    def __init__(self, step: int = 10, log: Callable[[dict[str, float]], Any] | None = None, *, allora: bool = True):
        if log is not None and not callable(log):
            raise ArgumentError(f"log must be a function of the numbers, as trainer.log is, received {log!r}")
        self.step, self.log, self.allora = count("step", step), log, allora
        self.diagnoses: dict[int, Diagnosis] = {}
        self._looks_after = self.step - 1  # steps, a resumed run's earlier ones too
        self._unclipped: dict[nn.Parameter, Tensor] = {}
        self._hooks: list[Any] = []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        """Before the first step, where there are no gradients yet."""
        self._forget()  # what a run left that ended within its step n
        left = state.max_steps - state.global_step
        self._looks_after = state.global_step + (min(self.step, left) if left > 0 else self.step) - 1
        with _going_on(state):
            self._examine(args, state, model, optimizer)
            if state.is_world_process_zero and (told := "; ".join(_without_effect(args, optimizer))):
                warn_of_run(
                    f"TrainingArguments' {told}: an optimizer that is handed to the Trainer, or loaded from a "
                    "checkpoint, keeps its own; set them in its groups"
                )

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        """At the n-th step: keep each gradient as the backward pass leaves it, because the Trainer clips in place."""
        if state.global_step != self._looks_after or self._hooks:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._keep) for parameter in trained]

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        """At the n-th step: the doctor, on the gradients that were kept."""
        if not self._hooks:
            return
        for hook in self._hooks:  # the doctor names those of others
            hook.remove()
        scaler = getattr(optimizer, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        try:
            with _going_on(state):
                if not _is_sharded(args, model, optimizer):
                    self._average(model)
                with self._gradients(scale):
                    self._examine(args, state, model, optimizer)
        finally:
            self._forget()

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._unclipped = [], {}

    def _keep(self, parameter: nn.Parameter) -> None:
        self._unclipped[parameter] = parameter.grad.detach().clone()

    def _average(self, model: nn.Module) -> None:
        # Under DistributedDataParallel a process keeps its own part's gradients; what is stepped on is their mean.
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return
        for parameter in (one for one in model.parameters() if one.requires_grad):  # in one order on all of them
            mean = self._unclipped.get(parameter, torch.zeros_like(parameter))
            distributed.all_reduce(mean)
            if parameter in self._unclipped or mean.any():
                self._unclipped[parameter] = mean / distributed.get_world_size()

    @contextmanager
    def _gradients(self, scale: float) -> Iterator[None]:
        clipped = {parameter: parameter.grad for parameter in self._unclipped}
        try:
            for parameter, gradient in self._unclipped.items():
                parameter.grad = gradient / scale
            yield
        finally:
            for parameter, gradient in clipped.items():
                parameter.grad = gradient

    def _examine(self, args: Any, state: Any, model: nn.Module, optimizer: Any) -> None:
        maximum = args.max_grad_norm
        if maximum is not None and not 0 < maximum < math.inf:
            maximum = 0.0  # at which the Trainer clips nothing
        found = self.diagnoses[state.global_step] = doctor(model, optimizer, maximum, allora=self.allora)
        numbers = _numbers(found)
        if self.log is None:
            state.log_history.append({**numbers, "step": state.global_step})
        problems = [line.text for line in found.advice if line.level == "problem"]
        if problems and state.is_world_process_zero:
            said = VERDICTS[found.verdict].rstrip(".")
            warn_of_run(f"{said} (step {state.global_step}): {problems[0]}")
        if self.log is not None:
            with _going_on(state, "the log that DoctorCallback was given"):
                self.log(numbers)


@contextmanager
def _going_on(state: Any, what: str = "the doctor") -> Iterator[None]:
    # A model or an optimizer that nobody foresaw: the run is worth more than what is said about it.
    try:
        yield
    except (NoAdapter, Warning):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warn_of_run(f"{what} failed at step {state.global_step} ({reason}); training goes on")


def _without_effect(args: Any, optimizer: Any) -> Iterator[str]:
    """Settings that were set away from their defaults and that no parameter group has, beside what the groups have."""
    groups = getattr(unwrapped(optimizer), "param_groups", None) or ()
    defaults = {one.name: one.default for one in fields(args)} if is_dataclass(args) else {}
    for name, keys in {"learning_rate": ("initial_lr", "lr"), "weight_decay": ("weight_decay",)}.items():
        asked, found = getattr(args, name, None), [next((g[k] for k in keys if k in g), None) for g in groups]
        if name not in defaults or asked == defaults[name] or not found or None in found:
            continue
        if not any(math.isclose(float(one), asked) for one in found):
            held = ", ".join(f"{value:g}" for value in sorted({float(one) for one in found}))
            yield f"{name} {asked:g} is not used, the optimizer's is {held}"


def _is_sharded(args: Any, model: nn.Module, optimizer: Any) -> bool:
    # What shards parameters reduces their parts' gradients itself. `accelerate launch` leaves the Trainer's arguments
    # empty, and its own state is at the optimizer.
    kind = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", "")
    by_name = bool(args.fsdp or args.deepspeed) or getattr(kind, "value", kind) in _SHARDING
    return by_name or any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def _numbers(found: Diagnosis) -> dict[str, float]:
    """A diagnosis as the numbers of a log."""
    layers = [layer for layer in found.layers if not layer.effect.idle]
    acting = [layer.effect.acts for layer in layers]
    numbers = {"allora/on": _ON.get(found.verdict, 0.5), "allora/layers_on": sum(acting) / (len(acting) or 1)}
    norms = [layer.norms[1] for layer in layers if layer.norms is not None]
    factors = [layer.factors for layer in layers if layer.factors is not None]
    if norms:
        numbers["allora/row_norm"] = median(norms)
    for side, index in (("a", 0), ("b", 1)):
        if rates := [layer.rates[index] for layer in layers if layer.rates[index] is not None]:
            numbers[f"lora/lr_{side}"] = median(rates)
    if factors:
        low, middle, high = zip(*factors, strict=True)
        numbers |= {"allora/d_min": min(low), "allora/d": median(middle), "allora/d_max": max(high)}
    if found.clipping is not None:
        numbers["allora/clipped"] = found.clipping.removed
    return numbers
