"""A fine-tuning run from its start, or from where it was stopped, to its record; a recorded result, and whether it is
whole. Checked by `tests/test_finetune_run.py` and `tests/test_finetune_setting.py`.

While it runs, checkpoints lie in `unfinished/finetune-<key>/` below the folder of records. A recorded run is not run
again; a run that was killed goes on from its newest whole checkpoint, to the same result.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allora_analysis import records
from allora_analysis.finetune import machine
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.records.files import hold
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from allora_analysis.finetune.data import TextData
    from allora_analysis.finetune.models import Pretrained


@dataclass(frozen=True)
class Outcome:
    """A run's result, and whether this call ran it (False: it was recorded before)."""

    result: dict[str, Any]
    ran: bool


def lookup(results: Path, setting: Setting, digests: dict[str, str]) -> dict[str, Any] | None:
    """A run's recorded result, or None; the digests are of its model and its data."""
    record = records.lookup(results, STUDY, setting, PROTOCOL, digests) if results.is_dir() else None
    return None if record is None else dict(record.result)


def run(
    setting: Setting,
    load_model: Callable[[], Pretrained],
    data: TextData,
    digests: dict[str, str],
    results: Path | None = None,
    *,
    save_steps: int = 100,
    device: str = "auto",
    gradient_checkpointing: bool = False,
) -> Outcome:
    """Run a setting, or find it recorded; `results` None keeps nothing.

    `load_model` is called after the seed is set, since the classifier is drawn in it; `gradient_checkpointing` computes
    activations twice and keeps fewer of them, to the same result. Ctrl-C raises KeyboardInterrupt, which says where the
    same command goes on; data of another task, a full disk or a folder that cannot be written an ArgumentError; another
    process at this run `Busy`.
    """
    if data.task != setting.task:
        raise ArgumentError(f"task must be {data.task} for the data {data.name!r}, received {setting.task!r}")
    alone = machine.world() == 1
    if results is not None and alone and (known := lookup(results, setting, digests)) is not None:
        return Outcome(known, False)

    def train(folder: Path, save_steps: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
        from allora_analysis.finetune import training

        return training.train(setting, load_model, data, folder, save_steps, device, gradient_checkpointing)

    if results is None:
        with tempfile.TemporaryDirectory() as scratch:
            return Outcome(train(Path(scratch), 10**9)[0], True)
    folder = records.unfinished(results, STUDY, records.key(setting, PROTOCOL, digests))
    try:
        with _held(folder, setting):
            known = lookup(results, setting, digests)  # again: a neighbor may have recorded it meanwhile
            if (known := machine.agree(known, device)) is not None:
                return Outcome(known, False)
            with _checkpoints_in(folder):
                result, facts = train(folder, save_steps)
            if facts is not None:
                records.save(results, STUDY, setting, result, protocol=PROTOCOL, digests=digests, provenance=facts)
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ArgumentError(
            f"results {str(results)!r}: cannot be written ({error.strerror or error}); what was there is kept: make "
            "room, and the same command goes on"
        ) from None
    except KeyboardInterrupt:
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")]
        where = f"step {max(steps)}" if steps else "the start: no checkpoint yet"
        raise KeyboardInterrupt(f"the same command goes on from {where}") from None
    finally:
        with contextlib.suppress(OSError):  # not empty: other runs are unfinished
            folder.parent.rmdir()
    return Outcome(result, True)


@contextlib.contextmanager
def _checkpoints_in(folder: Path) -> Iterator[None]:
    # Makes the folder; an error before the first checkpoint takes it away again.
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: it goes on from there
            folder.rmdir()
        raise


def _held(folder: Path, setting: Setting) -> contextlib.AbstractContextManager[None]:
    # Of several processes that train one run together, the first holds it for all.
    if machine.rank():
        return contextlib.nullcontext()
    return hold(folder.with_suffix(".lock"), setting.words())


SERIES = ("step", "mean")
COARSE_DIGITS = 3  # of what one row each reads: the longest layer's rows and ‖ηBA‖₂ of each map, after the last step


def summarised(norms: Mapping[str, Any]) -> dict[str, Any]:
    """Row norms over all layers, of norms by layer ("step"; "layers": by layer the mean over rows, a number a step).

    "mean" is the mean over layers (six digits, as of a layer), empty where nothing is adapted; "longest" the largest of
    a layer at the last step (`COARSE_DIGITS`), None there.
    """
    layers, steps = list(norms["layers"].values()), range(len(norms["step"]))
    means = [[layer[i] for layer in layers] for i in steps] if layers else []
    return {
        "step": list(norms["step"]),
        "mean": [float(f"{sum(of) / len(of):.6g}") for of in means],
        "longest": float(f"{max(means[-1]):.{COARSE_DIGITS}g}") if means else None,
    }


def steps_of(loss: Mapping[str, Any]) -> list[int]:
    """The steps of a record's training losses; records before November 30, 2026 list them."""
    known = loss.get("step")
    return [loss["every"] * place for place in range(1, len(loss["value"]) + 1)] if known is None else known


def check_result(name: str, result: Mapping[str, Any]) -> None:
    """Refuse a result that lacks what rows and figures read of any run."""
    for leaf, value in _wrong(result):
        told = "is missing or null" if value is None else f"is {value!r:.60}"
        raise ArgumentError(f"{name}: {leaf} of its result {told}; delete the record and run again")


def _wrong(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    epochs = result.get("epochs")
    if not isinstance(epochs, list) or not all(isinstance(entry, dict) for entry in epochs):
        yield "epochs", epochs
        return
    leaves = (
        (i, leaf, entry.get(leaf)) for i, entry in enumerate(epochs) for leaf in {"step", "test_accuracy", *entry}
    )
    yield from ((f"epochs[{i}].{leaf}", value) for i, leaf, value in leaves if not _number(value))
    if "row_norms" in result:
        yield from _wrong_norms(result["row_norms"])
    induced = result.get("induced_norms", [])  # runs recorded before these were measured have none
    if not isinstance(induced, list) or not all(map(_number, induced)):
        yield "induced_norms", induced


def _wrong_norms(norms: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(norms, dict) or not isinstance(norms.get("step"), list):
        yield "row_norms.step", norms.get("step") if isinstance(norms, dict) else norms
        return
    for leaf in SERIES:
        values = norms.get(leaf)
        whole = isinstance(values, list) and len(values) in (0, len(norms["step"])) and all(map(_number, values))
        if not whole:
            yield f"row_norms.{leaf}", values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
