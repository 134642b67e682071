"""One run, epoch by epoch, that a power cut cannot make measure an epoch twice; recorded when it is finished.

After every epoch the parameters, the optimizer's state and what was measured go to one `.npz` in `unfinished/` below
the folder of records, written whole or not at all; nothing else is needed to go on, because each epoch has random
streams of its own. A finished run is a record, and its state is deleted. Checked by `tests/test_gradient_std_run.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allora_analysis import records, terminal
from allora_analysis.gradient_std.grid import PROTOCOL, STUDY, Setting
from allora_analysis.gradient_std.measurement import Data, generator, measure
from allora_analysis.gradient_std.mlp import initialise
from allora_analysis.gradient_std.training import Diverged, make_optimizer, train_epoch
from allora_analysis.outputs import check_folder, write_atomically
from allora_analysis.records.files import STALE_SECONDS
from allora_analysis.validation import ArgumentError


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
    """A run of a setting on its data.

    Attributes:
        epochs: what was measured, an entry an epoch, from 0.
    """

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
        facts = records.provenance(["torchvision"]) | {
            "device": str(self._data.x.device.type),
            "resumed": self._resumed_at > 0,
            "seconds": time.perf_counter() - self._begun,  # of this process: the epochs after a resumed one alone
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
            terminal.remark(f"{self._state.name}: not readable ({error}); this run starts again")

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
