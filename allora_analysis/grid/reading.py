"""What is recorded of a list of runs, and how its pairs that share a seed are judged.

`judged` follows the rule of `statistics.directional`: Student's t over seeds, one-sided, Holm over the cases that were
run. Accuracies are shares, so 0.01 is a point. Checked by `tests/test_grid_plan.py` and
`tests/test_claims_own_best_rate.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from allora_analysis import records
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.run import check_result
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.statistics import Judgement, judge_family
from allora_analysis.statistics.paired import TIE
from allora_analysis.validation import ArgumentError

LEVEL = 0.05
ENDPOINTS = {"test_accuracy": 1, "test_loss": -1}
"""What a run is judged by, and the sign that makes more of it better."""
RULE = f"Student's t over seeds, one-sided at {LEVEL}, Holm over the cases run; interval: 90 %, a case alone"
Case = TypeVar("Case")
Runs = Mapping[Setting, Mapping[str, Any]]
Pairs = Sequence[tuple[Setting, Setting]]


def found(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, records.Record]:
    """The records of those runs that have one, whatever the machine had for a model's or a data set's folder.

    A run recorded twice, on models or data of one name and different content, is refused.
    """
    where = settings.RESULTS if folder is None else folder
    known = records.find_each(where, STUDY, PROTOCOL, {run: run for run in wanted})
    for record in known.values():
        check_result(record.path.name, record.result)
    return known


def every(folder: Path | str | None = None, wanted: Callable[[Mapping[str, Any]], bool] = bool) -> list[records.Record]:
    """The records of fine-tuning runs of the present protocol whose config, with every field of `Setting`, is wanted.

    A result that lacks a part, and a run recorded twice, on models or data of one name, are refused.
    """
    where = settings.RESULTS if folder is None else folder
    before, by_config = records.later(Setting), {}
    for record in records.standing(where, STUDY):
        if record.protocol == PROTOCOL and wanted(config := before | record.config):
            check_result(record.path.name, record.result)
            by_config.setdefault(record.text, []).append(dataclasses.replace(record, config=config))
    return [records.single(where, same) for same in by_config.values()]  # two models of one name would be paired


def recorded(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, dict[str, Any]]:
    """The results of those runs that are recorded; refuses what `found` refuses."""
    return {run: record.result for run, record in found(wanted, folder).items()}


def after_epoch(result: Mapping[str, Any], endpoint: str = "test_accuracy", epoch: int = -1) -> float | None:
    """An endpoint of a run after an epoch, the last by default; None where the run diverged or the record lacks it."""
    if result.get("diverged_at_step") is not None or not result["epochs"]:
        return None
    return result["epochs"][epoch].get(endpoint)


def final_value(result: Mapping[str, Any], endpoint: str) -> float:
    """An endpoint ("test_accuracy", "validation_loss", …) after a run's last epoch.

    Where the loss was not finite, that of a guess, so that no seed is left out: the share of the most frequent label,
    or −log of it for a loss.
    """
    if result.get("diverged_at_step") is None and result["epochs"]:
        return result["epochs"][-1][endpoint]
    split, _, kind = endpoint.partition("_")
    share = result["majority_rates"][split]
    return share if kind == "accuracy" else -math.log(share)


def paired_differences(runs: Runs, pairs: Pairs, endpoint: str) -> list[float]:
    """An endpoint of the first run of each pair minus that of the second, up to the first pair that is not recorded.

    What `statistics.e_values.decide` takes: pairs in the order that was fixed before the runs, none left out.
    """
    found = []
    for first, second in pairs:
        if first not in runs or second not in runs:
            break
        found.append(final_value(runs[first], endpoint) - final_value(runs[second], endpoint))
    return found


def differences(
    runs: Runs, cases: Mapping[str, Pairs], endpoint: str = "test_accuracy", epoch: int = -1
) -> dict[str, list[float]]:
    """The first minus the second run, pair by pair, more being better; of the cases that are recorded in full."""
    found, sign = {}, ENDPOINTS[endpoint]
    for case, pairs in cases.items():
        values = [[after_epoch(runs[one], endpoint, epoch) if one in runs else None for one in pair] for pair in pairs]
        if all(one is not None for pair in values for one in pair):
            found[case] = [sign * (first - second) for first, second in values]
    return found


def diverged(runs: Runs, cases: Mapping[str, Pairs]) -> list[str]:
    """The cases that are recorded in full, and yet have no difference, since a run diverged."""
    full = {case: {one for pair in pairs for one in pair} for case, pairs in cases.items()}
    return [
        case
        for case, those in full.items()
        if all(one in runs for one in those) and any(after_epoch(runs[one]) is None for one in those)
    ]


def judged(differences: Mapping[Case, Sequence[float]]) -> dict[Case, Judgement]:
    """The cases that were run, judged together; none gives none."""
    return judge_family(differences, "t", LEVEL, grain=TIE) if differences else {}


def right_rows(result: Mapping[str, Any]) -> Bool[np.ndarray, " rows"] | None:
    """Which rows of the test split a run predicted rightly after its last epoch, in the split's order.

    None where the record has none, as those before November 27, 2026.
    """
    packed = result.get("right", {}).get("test")
    if packed is None:
        return None
    bits = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8)
    return np.unpackbits(bits, count=result["rows"]["test"]).astype(bool)


def right_differences(runs: Runs, pairs: Pairs) -> Float[np.ndarray, "seeds rows"] | None:
    """Where the first run of each pair is right on a test row and the second is not (1), or the reverse (−1).

    A line a pair of recorded runs that share a seed, as `statistics.two_level` takes it; None where fewer than two
    pairs say which rows are right.
    """
    known = [[right_rows(runs[one]) for one in pair] for pair in pairs if all(one in runs for one in pair)]
    lines = [first.astype(float) - second for first, second in known if first is not None and second is not None]
    return np.array(lines) if len(lines) > 1 else None


def average_norm(result: dict[str, Any], step: int) -> float:
    """The row norm ‖(ηBA)_i‖ averaged over rows and layers, after a step."""
    norms = result["row_norms"]
    if step not in norms["step"]:
        raise ArgumentError(f"step must be one of {norms['step']}, received {step}")
    return float(norms["mean"][norms["step"].index(step)])
