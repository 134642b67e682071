"""Figure 2 (left) and Table 2 on a model that fits a desk: accuracy by drop rate and epoch, from the recorded runs.

The runs are long: the row reads what `experiments/dropout_rates.py` recorded, which states arms, tests and stopping
rule. Checked by `tests/test_claims_fine_tuning.py`, which plants records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.accuracy import SOURCE, compared, described, wanting
from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid.presets.dropout_rates import AT_INPUT, DROP_RATES
from allora_analysis.grid.reading import recorded
from allora_analysis.grid.sources import command
from allora_analysis.statistics import Difference

EARLY, LATE = 3, 8  # epochs; the paper has 3 and 10
HIGH = max(DROP_RATES)
CASES = 2 * (len(DROP_RATES) - 1)  # each other drop rate, early and late: Holm's family, recorded or not
ACCURACY = "test_accuracy"
PERMUTATIONS, SEED = 9999, 0


def figure_2_left(folder: Path | None = None) -> Finding:
    """The highest drop rate minus each other at an early and at a late epoch; each minus none beside them.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    runs = recorded(AT_INPUT, folder)
    seeds = sorted({one.seed for one in AT_INPUT})
    known = {(one.drop_rate, one.seed): runs[one]["epochs"] for one in AT_INPUT if one in runs}
    rates = [rate for rate in DROP_RATES if all(len(known.get((rate, seed), ())) >= LATE for seed in seeds)]
    stopped = [rate for rate in DROP_RATES if rate not in rates and all((rate, seed) in known for seed in seeds)]
    if HIGH not in rates or len(rates) < 2:
        if stopped:
            return Finding("undecided", Evidence({}, {}, SOURCE), _at(stopped))
        return not_run(f"{len(runs)} of {len(AT_INPUT)} runs are recorded")

    def gaps(pairs: Iterable[tuple[float, float]]) -> dict[tuple[float, float, int], list[float]]:
        return {
            (first, second, epoch): [
                known[first, seed][epoch - 1][ACCURACY] - known[second, seed][epoch - 1][ACCURACY] for seed in seeds
            ]
            for first, second in pairs
            for epoch in (EARLY, LATE)
        }

    others = [rate for rate in rates if rate != HIGH]
    family = compared(gaps((HIGH, other) for other in others), CASES)
    verdict, text = judged(family, len(DROP_RATES) - len(rates) - len(stopped), stopped)
    beside = compared(gaps((rate, 0.0) for rate in others if rate > 0 and 0.0 in rates), CASES - 2)
    measured: dict[str, Any] = {
        f"drop rate {first:g} minus {second:g}, epoch {epoch}": described(one)
        for (first, second, epoch), one in (family | beside).items()
    }
    best = {rate: [_best(known[rate, seed]) for seed in seeds] for rate in rates}
    measured["epoch of the best accuracy"] = {f"{rate:g}": epochs for rate, epochs in best.items()}
    measured["Spearman's correlation of that epoch with the drop rate"] = correlation(best)
    predicted = {"epoch 3": "below 0 for each", "epoch 8": "above 0 for each"}
    return Finding(verdict, Evidence(predicted, measured, SOURCE, n=len(seeds)), text)


def _at(stopped: Iterable[float]) -> str:
    return f"a run diverged at drop rate {', '.join(f'{rate:g}' for rate in stopped)}"


def _best(epochs: Sequence[Mapping[str, Any]]) -> int:
    accuracies = [entry[ACCURACY] for entry in epochs]
    return 1 + accuracies.index(max(accuracies))


def correlation(best: Mapping[float, Sequence[int]]) -> dict[str, float] | None:
    """Spearman's correlation of the best epoch with the drop rate, over all runs.

    Args:
        best: the runs' best epochs by drop rate.

    Returns:
        The correlation and its two-sided p-value by permutations of the epochs; None where all epochs are one.
    """
    from scipy.stats import rankdata

    pairs = np.array([(rate, epoch) for rate, epochs in best.items() for epoch in epochs])
    rates, epochs = (rankdata(column) - (len(pairs) + 1) / 2 for column in pairs.T)
    scale = float(np.linalg.norm(rates) * np.linalg.norm(epochs))
    if scale == 0:
        return None
    shuffled = np.random.default_rng(SEED).permuted(np.tile(epochs, (PERMUTATIONS, 1)), axis=1) @ rates
    extreme = np.abs(shuffled) >= abs(rates @ epochs) * (1 - 1e-9)
    return {
        "correlation": float(rates @ epochs) / scale,
        "p_value": (1 + int(extreme.sum())) / (1 + PERMUTATIONS),
    }


def judged(
    family: Mapping[tuple[float, float, int], Difference], missing: int, stopped: Sequence[float] = ()
) -> tuple[str, str | None]:
    """The verdict on "weakest after short, strongest after long fine-tuning".

    Args:
        family: the high drop rate minus each other, early and late.
        missing: how many drop rates are not recorded in full.
        stopped: the drop rates at which a run diverged.

    Returns:
        The verdict, and what is seen or how many seeds it needs.
    """
    signs = {epoch: [one.sign for case, one in family.items() if case[-1] == epoch] for epoch in (EARLY, LATE)}
    if not missing and not stopped and set(signs[EARLY]) == {-1} and set(signs[LATE]) == {1}:
        return "holds", None
    seen = f"drop rate {HIGH:g} against each other: " + ", ".join(
        f"after {epoch} epochs better than {of.count(1)}, worse than {of.count(-1)}, open against {of.count(0)}"
        for epoch, of in signs.items()
    )
    if 1 in signs[EARLY] or -1 in signs[LATE]:
        return "refuted", seen
    rest = wanting({f"{other:g} after {epoch} epochs": one for (_, other, epoch), one in family.items()}, CASES)
    rest += [_at(stopped)] if stopped else []
    rest += [f"{missing} drop rates not recorded in full"] if missing else []
    return "undecided", "; ".join([seen, *rest])


def claims() -> tuple[Claim, ...]:
    """The row of Figure 2, left.

    Returns:
        The claim.
    """
    return (
        Claim(
            "3.1-figure-2-left",
            "Figure 2 left, Table 2; on all-MiniLM-L6-v2",
            "High value of Dropout provides the strongest performance after long fine-tuning and the weakest "
            "performance after short fine-tuning.",
            figure_2_left,
            command("dropout_rates", AT_INPUT),
            "tests/test_claims_fine_tuning.py",
            reads=STUDY,
        ),
    )
