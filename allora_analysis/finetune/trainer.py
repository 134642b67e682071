"""What all tasks ask of transformers' Trainer, and what is measured along a run, kept in the Trainer's own log so that
a checkpoint holds it. Checked by `tests/test_finetune_run.py`.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch.utils.data import BatchSampler, DataLoader, Dataset
from transformers import Trainer, TrainerCallback

from allora_analysis import outputs
from allora_analysis.finetune.run import COARSE_DIGITS, summarised
from allora_analysis.lora.autograd import norms_of_rows
from allora_analysis.lora.pairs import lora_pairs

DENSE, POINTS, LOSSES = 10, 24, 50  # norms at each of the first steps, then at so many; losses at so many
EVALUATED = ("validation", "test")
INTERVAL = 20.0  # seconds between two lines of progress, where standard error is no terminal
IGNORED = -100  # the label of what no loss counts, as torch has it


class Diverged(Exception):
    """The loss is no longer finite; `step` says where."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


def norm_steps(total: int) -> tuple[int, ...]:
    """The steps after which the row norms are taken: 0, the first ten, then evenly in log step to the last."""
    dense = range(min(DENSE, total) + 1)
    ratio = math.log(total / DENSE) / POINTS if total > DENSE else 0.0
    sparse = {round(DENSE * math.exp(ratio * i)) for i in range(1, POINTS + 1)} if total > DENSE else set()
    return tuple(sorted({*dense, *sparse, total}))


@torch.no_grad()
def norms_by_layer(model: torch.nn.Module) -> dict[str, float]:
    """‖(ηBA)_i‖, the mean over the rows of each adapted layer (of all experts of a stack), with the adapter's LoRA
    scaling in η's place; to 6 digits, which is what float32 holds.
    """
    found = {}
    for pair in lora_pairs(model):
        norms = abs(pair.scaling) * norms_of_rows(*pair.matrices).double()
        found[pair.name.removeprefix("base_model.model.")] = _kept(norms.mean())
    return found


def _kept(value: Any, digits: int = 6) -> float:
    # Six digits are what float32 holds.
    return float(f"{value:.{digits}g}")


@torch.no_grad()
def induced_norms(model: torch.nn.Module) -> dict[str, float]:
    """‖ηBA‖₂ of each adapted layer (of a stack, its largest expert's), η and digits as in `norms_by_layer`.

    B = Q_B R_B and Aᵀ = Q_A R_A with orthonormal columns Q, so that ‖BA‖₂ = ‖R_B R_Aᵀ‖₂, of r × r numbers.
    """
    found = {}
    for pair in lora_pairs(model):
        a, b = (matrix.cpu().double() for matrix in pair.matrices)
        triangles = torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT
        norm = abs(pair.scaling) * torch.linalg.matrix_norm(triangles, 2).max()
        found[pair.name.removeprefix("base_model.model.")] = _kept(norm)
    return found


class History(TrainerCallback):
    """Row norms into the Trainer's log, an evaluation at each epoch's end, an end where one is not finite.

    Whatever ends with a step is in the log before the step's checkpoint is written. The last step, `total`, has no
    checkpoint: from one, the Trainer would take a step more.
    """

    def __init__(self, total: int, per_epoch: int):
        self.total, self.per_epoch, self.wanted = total, per_epoch, frozenset(norm_steps(total))
        self.begun, self.seconds, self.timed = 0.0, 0.0, 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Before the first step."""
        if state.global_step == 0:
            self._note(state, model)

    def on_step_begin(self, args, state, control, **kwargs):
        """Before each step."""
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """After each step."""
        self.seconds, self.timed = self.seconds + time.perf_counter() - self.begun, self.timed + 1
        if state.global_step in self.wanted:
            self._note(state, model)
        if state.global_step % self.per_epoch == 0 or state.global_step == self.total:
            control.should_evaluate = True
        if state.global_step >= self.total:
            control.should_save = False

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """After a split was evaluated.

        A loss that is not finite raises `Diverged`: the step before it made the weights so.
        """
        if not all(math.isfinite(value) for key, value in metrics.items() if key.endswith("_loss")):
            raise Diverged(state.global_step)

    def _note(self, state: Any, model: torch.nn.Module) -> None:
        entry: dict[str, Any] = {"step": state.global_step, "row_norms": norms_by_layer(model)}
        if state.global_step == self.total and _finite(entry["row_norms"]):  # else the evaluation says that it diverged
            entry["induced_norms"] = induced_norms(model)
        state.log_history.append(entry)


def collect(log: list[dict[str, Any]]) -> dict[str, Any]:
    """A record's series from the Trainer's `state.log_history`.

    `epochs` (accuracy and loss on each split that was evaluated), `loss` (of training, "every" so many steps, to 6
    digits, up to the first that is not finite), `row_norms` (`summarised`), `induced_norms` (after the last step, a
    number a layer in the order of their names, to `COARSE_DIGITS`) and `right` (the test rows predicted rightly at the
    last evaluation, `packed`); all finite: what a diverged run's last step left is not among them.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for entry in log:
        measured = {key.removeprefix("eval_"): value for key, value in entry.items() if _measured(key)}
        if measured:
            epochs.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"]}).update(measured)
    whole = [entry for entry in epochs.values() if all(math.isfinite(value) for value in entry.values())]
    losses = [entry for entry in log if "loss" in entry]
    finite = itertools.takewhile(math.isfinite, (entry["loss"] for entry in losses))
    noted = [entry | {"row_norms": _means(entry["row_norms"])} for entry in log if "row_norms" in entry]
    norms = [entry for entry in noted if _finite(entry["row_norms"])]
    return {
        "epochs": whole,
        "loss": {"every": losses[0]["step"] if losses else None, "value": [_kept(value) for value in finite]},
        "row_norms": summarised(
            {
                "step": [entry["step"] for entry in norms],
                "layers": {
                    layer: [entry["row_norms"][layer] for entry in norms]
                    for layer in sorted(norms[0]["row_norms"] if norms else ())  # as a checkpoint's JSON has them
                },
            }
        ),
        "induced_norms": next((_in_order(entry["induced_norms"]) for entry in norms if "induced_norms" in entry), []),
        "right": _right(log, whole[-1]["step"] if whole else None),
    }


def _in_order(by_layer: dict[str, float]) -> list[float]:
    return [_kept(by_layer[name], COARSE_DIGITS) for name in sorted(by_layer)]


def _right(log: list[dict[str, Any]], step: int | None) -> dict[str, str]:
    ends = [entry["eval_test_right"] for entry in log if entry["step"] == step and "eval_test_right" in entry]
    return {"test": ends[-1]} if ends else {}


def _measured(key: str) -> bool:
    return key.startswith("eval_") and key.endswith(("_accuracy", "_loss"))


def _means(norms: dict[str, Any]) -> dict[str, float]:
    # A checkpoint of an older revision has {"mean", "max"} by layer.
    return {layer: value["mean"] if isinstance(value, dict) else value for layer, value in norms.items()}


def _finite(norms: dict[str, float]) -> bool:
    return all(map(math.isfinite, norms.values()))


def packed(right: Bool[np.ndarray, " rows"]) -> str:
    """Which rows were right, eight to a byte, as hexadecimal digits: what a record keeps of each prediction.

    `grid.reading.right_rows` unpacks them.
    """
    return np.packbits(right).tobytes().hex()


class Filled(BatchSampler):
    """Batches of one size, for each process as many; `None` in the places at an epoch's end that have no row."""

    def __init__(self, batches: BatchSampler, processes: int):
        super().__init__(batches.sampler, batches.batch_size, drop_last=False)
        self.processes = processes

    def __iter__(self) -> Iterator[list[int | None]]:
        left = self.batch_size * len(self) - len(self.sampler)
        rows = itertools.chain(self.sampler, itertools.repeat(None, left))
        while batch := list(itertools.islice(rows, self.batch_size)):
            yield batch

    def __len__(self) -> int:
        return -(-len(self.sampler) // (self.batch_size * self.processes)) * self.processes


class Watched(Trainer):
    """The Trainer, which stops at the first loss that is not finite, before its gradient is used."""

    def get_train_dataloader(self) -> DataLoader:
        """Each row once an epoch, over all processes: accelerate would fill the last batches with some once more."""
        loader, processes = super().get_train_dataloader(), self.accelerator.num_processes
        if processes > 1:
            loader.batch_sampler.batch_sampler = Filled(loader.batch_sampler.batch_sampler, processes)
        return loader

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of one part of a batch; its gradient is added.

        A loss that is not finite, on this process or another, raises `Diverged`.
        """
        loss = super().training_step(*args, **kwargs)
        if not self.accelerator.gather(loss.reshape(1)).isfinite().all():
            raise Diverged(self.state.global_step + 1)
        return loss


class Encoded(Dataset):
    """Rows of token ids, unpadded; at the index None one that no loss counts."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None) -> dict[str, Any]:
        if index is not None:
            return dict(self.rows[index])
        labels = self.rows[0]["labels"]
        return self.rows[0] | {"labels": [IGNORED] * len(labels) if isinstance(labels, list) else IGNORED}


@dataclass(frozen=True)
class TrainerParts:
    """A task's parts of a Trainer.

    Attributes:
        trainer: its class.
        train: rows to train on.
        evaluated: rows to evaluate on, by split.
        collator: pads a batch.
        loss: of the model's outputs and labels, meaned over the whole batch, whatever its parts.
        metrics: of an evaluation's predictions.
        evaluation_batch: rows in a batch of an evaluation, which changes no result.
    """

    trainer: type[Watched]
    train: Encoded
    evaluated: dict[str, Encoded]
    collator: Callable[..., Any]
    loss: Callable[..., torch.Tensor]
    metrics: Callable[[Any], dict[str, float | str]]
    evaluation_batch: int


class Progress(TrainerCallback):
    """What a user sees of a run: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, description: str):
        self.description, self.loss, self.last, self.bar, self.task = description, "", 0.0, None, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar."""
        if outputs.redraws() and state.is_world_process_zero:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.description, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, description=self.description + self.loss)
        elif state.is_world_process_zero and time.monotonic() - self.last > INTERVAL:
            self.last = time.monotonic()
            line = f"{self.description}: step {state.global_step} of {state.max_steps}{self.loss}"
            outputs.remark(line)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the loss."""
        if "loss" in (logs or {}):
            self.loss = f", loss {logs['loss']:.4f}"

    def stop(self) -> None:
        """Take the bar away, however the run ended: transformers calls no `on_train_end` after Ctrl-C or an error."""
        if self.bar is not None:
            self.bar.stop()
