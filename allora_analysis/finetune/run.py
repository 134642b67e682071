"""A fine-tuning run from its start, or from where it was stopped, to its record.

Checked by `tests/test_finetune_run.py`.

While it runs, checkpoints lie in `unfinished/finetune-<key>/` below the folder of records. A recorded run is not run
again; a run that was killed goes on from its newest whole checkpoint, to the same result.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
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
    """A run's recorded result.

    Args:
        results: the folder of records.
        setting: the run.
        digests: of its model and its data.

    Returns:
        The result, or None.
    """
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
    """Run a setting, or find it recorded.

    Args:
        setting: the run.
        load_model: returns the `Pretrained` model; called after the seed is set, since the classifier is drawn in it.
        data: its sentences.
        digests: of model and data.
        results: the folder of records; None keeps nothing.
        save_steps: steps between two checkpoints.
        device: "cpu" or "auto".
        gradient_checkpointing: compute activations twice and keep fewer of them; the result is the same.

    Returns:
        The outcome.

    Raises:
        KeyboardInterrupt: Ctrl-C; its message says where the same command goes on.
        ArgumentError: data of another task, a full disk, a folder that cannot be written; `Busy`: another process is
            at this run.
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
        raise KeyboardInterrupt(_goes_on(folder)) from None
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


def _goes_on(folder: Path) -> str:
    steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")]
    return f"the same command goes on from {f'step {max(steps)}' if steps else 'the start: no checkpoint yet'}"


def _held(folder: Path, setting: Setting) -> contextlib.AbstractContextManager[None]:
    # Of several processes that train one run together, the first holds it for all.
    if machine.rank():
        return contextlib.nullcontext()
    return hold(folder.with_suffix(".lock"), setting.words())
