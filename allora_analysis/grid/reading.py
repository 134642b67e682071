"""What is recorded of a list of runs. Checked by `tests/test_grid_reading.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from allora_analysis import records
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.validation import ArgumentError


def found(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, records.Record]:
    """The records of those runs that have one, whatever the machine had for a model's or a data set's folder.

    Args:
        wanted: the runs.
        folder: the folder of records, which need not exist; None for the repository's own.

    Returns:
        The record by run, in the order wanted.

    Raises:
        ArgumentError: a run recorded twice, on models or data of one name and different content.
    """
    where = settings.RESULTS if folder is None else folder
    return records.find_each(where, STUDY, PROTOCOL, {run: run for run in wanted})


def recorded(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, dict[str, Any]]:
    """The results of those runs that are recorded; arguments and errors as in `found`.

    Args:
        wanted: the runs.
        folder: the folder of records.

    Returns:
        The result by run, in the order wanted.
    """
    return {run: record.result for run, record in found(wanted, folder).items()}


def final_accuracy(result: dict[str, Any], split: str = "test") -> float | None:
    """The accuracy after a run's last epoch.

    Args:
        result: the run's.
        split: "test" or "validation".

    Returns:
        The accuracy; None where the run diverged.
    """
    if result.get("diverged_at_step") is not None or not result["epochs"]:
        return None
    return result["epochs"][-1][f"{split}_accuracy"]


def average_norm(result: dict[str, Any], step: int) -> float:
    """The row norm ‖(ηBA)_i‖ averaged over rows and layers, after a step.

    Args:
        result: the run's.
        step: one of those at which norms were taken.

    Returns:
        The average of the layers' means.

    Raises:
        ArgumentError: no norms were taken at this step.
    """
    norms = result["row_norms"]
    if step not in norms["step"]:
        raise ArgumentError(f"step must be one of {norms['step']}, received {step}")
    at = norms["step"].index(step)
    layers = norms["layers"].values()
    return sum(layer["mean"][at] for layer in layers) / len(layers)
