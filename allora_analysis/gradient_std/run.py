"""One run: training, what is measured at each epoch, and its record.

Training is an epoch at a time, with dropout, by any of four optimizers; loss and accuracy are taken without dropout.
Every run has the estimator's own check: a linear model on the same images, whose answer is known in closed form.

A power cut cannot make a run measure an epoch twice. After every epoch the parameters, the optimizer's state and what
was measured go to one `.npz` in `unfinished/` below the folder of records, written whole or not at all; nothing else is
needed to go on, because each epoch has random streams of its own. A finished run is a record, and its state is deleted.
Checked by `tests/test_gradient_std_run.py` and `tests/test_gradient_std_study.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from allora_analysis import deviation, outputs, records
from allora_analysis.gradient_std.estimator import (
    MLP,
    LinearGradient,
    MaskStream,
    MLPGradient,
    forward,
    gradient_moments,
    initialise,
    streaming_moments,
)
from allora_analysis.gradient_std.grid import BETAS, EPSILON, MOMENTUM, PROTOCOL, STUDY, Setting
from allora_analysis.gradient_std.summary import DIGITS, KEPT, components, summarise
from allora_analysis.images import Images
from allora_analysis.outputs import check_folder, write_atomically
from allora_analysis.records.files import STALE_SECONDS
from allora_analysis.validation import ArgumentError

EVALUATED = 10_000  # training images whose loss is reported, the first ones
CHUNK = 2000
# Each purpose has a stream of its own at each epoch, so that nothing depends on what else was measured, or resumed.
STREAMS = {name: index for index, name in enumerate(("start", "train", "batch", "probe", "fresh", "control", "nested"))}


class Diverged(ArgumentError):
    """The loss is not finite. `epochs` holds what was measured before."""

    def __init__(self, message: str, epochs: list):
        super().__init__(message)
        self.epochs = epochs


def make_optimizer(setting: Setting, mlp: MLP) -> torch.optim.Optimizer:
    """PyTorch's optimizer of a setting's name."""
    shared = {"lr": setting.learning_rate, "weight_decay": setting.weight_decay, "fused": True}
    if setting.optimizer in ("sgd", "momentum"):
        momentum = MOMENTUM if setting.optimizer == "momentum" else 0.0
        return torch.optim.SGD(mlp.parameters, momentum=momentum, **shared)
    kind = torch.optim.Adam if setting.optimizer == "adam" else torch.optim.AdamW
    return kind(mlp.parameters, betas=BETAS, eps=EPSILON, **shared)


def batches(samples: int, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """One shuffled pass; the last, incomplete batch is left out, so that all have one size."""
    order = generator.permutation(samples)
    for start in range(0, samples - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def train_epoch(
    mlp: MLP,
    optimizer: torch.optim.Optimizer,
    data: tuple[Float[Tensor, "N D"], Int[Tensor, " N"]],
    setting: Setting,
    generator: np.random.Generator,
) -> bool:
    """One pass over the training images, masks fresh at each step."""
    x, y = data
    parameters = mlp.parameters
    stream = MaskStream(setting.keep_prob, generator)
    sizes = [setting.batch_size * width for width in setting.hidden]
    drawn = np.empty((1, sum(sizes)), dtype=np.uint8)
    for chosen in batches(len(x), setting.batch_size, generator):
        kept = None
        if setting.keep_prob < 1:
            stream.fill(drawn)
            flags = torch.from_numpy(drawn[0]).to(x.device) < stream.threshold
            kept = [part.view(setting.batch_size, -1) for part in flags.split(sizes)]
        index = torch.from_numpy(chosen).to(x.device)
        loss = functional.cross_entropy(forward(mlp, x[index], kept, setting.keep_prob), y[index])
        if not math.isfinite(loss.item()):
            return False
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return True


@torch.no_grad()
def evaluate(mlp: MLP, x: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy without dropout."""
    loss, right = 0.0, 0
    for part, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = forward(mlp, part)
        loss += float(functional.cross_entropy(logits, labels, reduction="sum").double())
        right += int((logits.argmax(dim=1) == labels).sum())
    return loss / len(x), right / len(x)


@dataclass(frozen=True)
class Data:
    """Images and labels on the device, for training and for the test."""

    x: Float[Tensor, "N D"]
    y: Int[Tensor, " N"]
    x_test: Float[Tensor, "M D"]
    y_test: Int[Tensor, " M"]

    @classmethod
    def of(cls, loaded: Images, device: str = "cpu") -> Data:
        """The images of a data set, there."""
        parts = (loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test)
        return cls(*(torch.from_numpy(part).to(device) for part in parts))


def generator(setting: Setting, stream: str, epoch: int = 0) -> np.random.Generator:
    """The randomness of one purpose at one epoch."""
    return np.random.Generator(np.random.SFC64([setting.seed, STREAMS[stream], epoch]))


@torch.no_grad()
def measure(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    """One epoch's entry of a record."""
    # - `probe`: over K masks, on a batch that is the same at all epochs; `fresh`: on a new batch.
    # - `no_dropout_fresh`: the control, the spread across minibatches with nothing dropped.
    # - `decomposition`: variance components of masks and minibatches, averaged over entries.
    # Of each the numbers that are `KEPT`, to seven digits.
    measured = [tensor.detach() for tensor in mlp.parameters]
    mlp = MLP(tuple(measured[::2]), tuple(measured[1::2]))
    train_loss, _ = evaluate(mlp, data.x[:EVALUATED], data.y[:EVALUATED])
    _, test_accuracy = evaluate(mlp, data.x_test, data.y_test)
    entry = {"epoch": epoch, "test_accuracy": test_accuracy, "train_loss": train_loss}
    for name, part in _PARTS.items():
        if not math.isfinite(train_loss):
            break
        found = part(mlp, data, setting, epoch)
        entry[name] = {of: found[of] for of in KEPT[name]}
    return rounded(entry)


def rounded(entry: Any) -> Any:
    """An epoch's entry, or several, with floats as a record holds them, to `DIGITS` digits."""
    if isinstance(entry, dict):
        return {name: rounded(value) for name, value in entry.items()}
    if isinstance(entry, list):
        return [rounded(value) for value in entry]
    return float(f"{entry:.{DIGITS}g}") if isinstance(entry, float) else entry


def _probe(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    model = _on(mlp, data, minibatch(data, setting, generator(setting, "batch")), setting.keep_prob)
    return summarise(gradient_moments(model, setting.masks, generator(setting, "probe", epoch)))


def _fresh(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    draws = generator(setting, "fresh", epoch)
    model = _on(mlp, data, minibatch(data, setting, draws), setting.keep_prob)
    return summarise(gradient_moments(model, setting.masks, draws))


def minibatch(data: Data, setting: Setting, draws: np.random.Generator) -> Tensor:
    """Indices of a random minibatch: without replacement, independent of every other."""
    return torch.from_numpy(draws.choice(len(data.x), setting.batch_size, replace=False)).to(data.x.device)


def _on(mlp: MLP, data: Data, chosen: Tensor, keep_prob: float) -> MLPGradient:
    return MLPGradient(mlp, data.x[chosen], data.y[chosen], keep_prob)


def _control(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, Any]:
    draws = generator(setting, "control", epoch)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        # Samples do not mix below the loss's mean: several minibatches are one batch, their errors scaled up again.
        chosen = torch.cat([minibatch(data, setting, draws) for _ in range(size)])
        model = _on(mlp, data, chosen, 1.0)
        left, right = model.factors(torch.ones(1, model.mask_size, dtype=torch.bool, device=data.x.device))
        return left[0].mul_(size).unflatten(0, (size, -1)), right[0].unflatten(0, (size, -1))

    return summarise(streaming_moments(draw, setting.control_minibatches, chunk=8))


def _nested(mlp: MLP, data: Data, setting: Setting, epoch: int) -> dict[str, float]:
    draws = generator(setting, "nested", epoch)
    means, within = [], []
    for _ in range(setting.nested_minibatches):
        model = _on(mlp, data, minibatch(data, setting, draws), setting.keep_prob)
        moments = gradient_moments(model, setting.nested_masks, draws)
        means.append(moments.mean.ravel())
        within.append(float(np.mean(moments.std**2)))
    return dataclasses.asdict(components(np.array(means), within, setting.nested_masks))


_PARTS = {"probe": _probe, "fresh": _fresh, "no_dropout_fresh": _control, "decomposition": _nested}


def linear_average(
    images: Images, batch_size: int, keep_prob: float, masks: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The average over entries of the gradient's standard deviation, in closed form and by the estimator."""
    # X: the first images; Y: their classes, one-hot; W: Gaussian.
    generator = np.random.Generator(np.random.SFC64([seed, 7]))
    x = images.x_train[:batch_size].astype(np.float64)
    y = np.eye(images.classes)[images.y_train[:batch_size]]
    w = generator.standard_normal((x.shape[1], images.classes)) / math.sqrt(x.shape[1])
    predicted = float(deviation.gradient_std(x, y, w, keep_prob).mean())
    model = LinearGradient(*(torch.from_numpy(part) for part in (x, y, w)), keep_prob)
    moments = gradient_moments(model, masks, generator)
    return {"linear_mean": predicted}, {"linear_mean": moments.average, "linear_mean_stderr": moments.average_stderr}


def _state(results: Path, key: str) -> Path:
    return records.unfinished(results, STUDY, key).with_suffix(".npz")


def tidy(results: Path, key: str) -> None:
    """Delete the state of a run that is recorded, and what processes killed while they wrote one left an hour ago."""
    state = _state(results, key)
    with contextlib.suppress(OSError):  # not there; a folder that is not empty: other runs are unfinished
        state.unlink()
    for left in state.parent.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    with contextlib.suppress(OSError):
        state.parent.rmdir()


class Run:
    """A run of a setting on its data; `epochs` holds what was measured, an entry an epoch, from 0."""

    def __init__(self, setting: Setting, data: Data, classes: int, digest: str, results: Path | None):
        self.setting, self._data, self._results = setting, data, results
        self._digests = {"data": digest}
        self._begun, self._resumed_at = time.perf_counter(), 0
        self.epochs: list[dict[str, Any]] = []
        sizes = (data.x.shape[1], *setting.hidden, classes)
        self._mlp = initialise(sizes, generator(setting, "start"))
        for tensor in self._mlp.parameters:
            tensor.data = tensor.data.to(data.x.device)
            tensor.requires_grad_(True)
        self._optimizer = make_optimizer(setting, self._mlp)
        self._key = records.key(setting, PROTOCOL, self._digests)
        if results is not None:
            self._resume()

    @property
    def _state(self) -> Path:
        return _state(self._results, self._key)

    def entry(self, epoch: int) -> dict[str, Any]:
        """An epoch's entry: known, or trained for and measured now. Epochs are asked for in order."""
        if epoch >= len(self.epochs):
            self._advance(epoch)
        return self.epochs[epoch]

    def _advance(self, epoch: int) -> None:
        setting, data = self.setting, self._data
        if epoch > 0:
            draws = generator(setting, "train", epoch)
            if not train_epoch(self._mlp, self._optimizer, (data.x, data.y), setting, draws):
                raise self._diverged(epoch)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self._mlp.parameters):
            raise self._diverged(epoch)
        entry = measure(self._mlp, data, setting, epoch)
        if not _finite(entry):
            raise self._diverged(epoch)
        self.epochs.append(entry)
        if self._results is not None:
            self._keep()

    def _keep(self) -> None:
        if len(self.epochs) <= self.setting.epochs:
            self._save_state()
            return
        # Its seconds are those of this process: of a resumed run, the epochs after it was resumed alone.
        facts = records.provenance(["torchvision"], self._begun) | {
            "device": str(self._data.x.device.type),
            "resumed": self._resumed_at > 0,
        }
        result = {"epochs": self.epochs}
        records.save(
            self._results, STUDY, self.setting, result, protocol=PROTOCOL, digests=self._digests, provenance=facts
        )
        tidy(self._results, self._key)

    def _diverged(self, epoch: int) -> Diverged:
        kept = f"the {epoch} before are kept in memory only (--results FOLDER keeps them)"
        if self._results is not None:
            kept = f"the {epoch} measured before are kept in {self._state}"
        return Diverged(
            f"the loss is not finite in epoch {epoch} ({self.setting.words()}): give a lower learning_rate; {kept}",
            self.epochs,
        )

    def _save_state(self) -> None:
        arrays = {f"parameter_{i}": tensor.detach().cpu().numpy() for i, tensor in enumerate(self._mlp.parameters)}
        for i, tensor in enumerate(self._mlp.parameters):
            for name, value in self._optimizer.state[tensor].items():
                if value is not None:
                    arrays[f"optimizer_{i}_{name}"] = value.cpu().numpy()
        text = {"key": np.array(self._key), "epochs": np.array(json.dumps(self.epochs, allow_nan=False))}
        try:
            for last in (False, True):
                self._state.parent.mkdir(parents=True, exist_ok=True)
                try:
                    write_atomically(self._state, lambda target: np.savez(target, **arrays, **text))
                    break
                except FileNotFoundError:  # a neighbor that finished took the empty folder away
                    if last:
                        raise
        except OSError as error:
            raise ArgumentError(f"--results {self._results}: cannot be written ({error.strerror})") from None

    def _resume(self) -> None:
        record = records.lookup(self._results, STUDY, self.setting, PROTOCOL, self._digests)
        if record is not None:
            self.epochs = list(record.result["epochs"])
            tidy(self._results, self._key)
            return
        check_folder("--results", self._results)  # before an epoch's work; to read a recorded run, nothing is written
        try:
            with self._state.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                self._restore({name: arrays[name] for name in arrays.files})
        except FileNotFoundError:
            return
        except Exception as error:  # a torn archive fails in zipfile's, zlib's or NumPy's own way
            outputs.remark(f"{self._state.name}: not readable ({error}); this run starts again")

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if str(arrays["key"]) != self._key:
            raise ValueError("the state of another run")
        for i, tensor in enumerate(self._mlp.parameters):
            prefix = f"optimizer_{i}_"
            kept = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            # Adam's step count too: a fused optimizer wants it on the parameter's device.
            self._optimizer.state[tensor] = {
                name: torch.from_numpy(value).to(tensor.device) for name, value in kept.items()
            }
            tensor.data.copy_(torch.from_numpy(arrays[f"parameter_{i}"]))
        self.epochs = json.loads(str(arrays["epochs"]))
        self._resumed_at = len(self.epochs)


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_finite(item) for item in value.values())
    return not isinstance(value, float) or math.isfinite(value)
