"""Figure 2 (left) and Table 2 on a model that fits a desk: accuracy by drop rate and epoch, from the recorded runs.

The runs are long: the row reads what `experiments/dropout_rates.py` recorded, which states arms, tests and stopping
rule. Checked by `tests/test_claims_fine_tuning.py`, which plants records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allora_analysis.claims.accuracy import LEVEL, SOURCE, described
from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid.presets.dropout_rates import DROP_RATES, PRESETS
from allora_analysis.grid.reading import recorded
from allora_analysis.statistics import Difference, paired_family

EARLY, LATE = 3, 8  # epochs; the paper has 3 and 10
HIGH = max(DROP_RATES)
COMMAND = "python -m experiments.dropout_rates --source all-MiniLM-L6-v2=FOLDER rotten_tomatoes=FOLDER"


def figure_2_left(folder: Path | None = None) -> Finding:
    """The highest drop rate minus none, at an early and at a late epoch; the other drop rates beside them.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    wanted = [one for one in PRESETS["desk"] if one.placement == "input"]
    runs = recorded(wanted, folder)
    seeds = sorted({one.seed for one in wanted})
    known = {(one.drop_rate, one.seed): runs[one] for one in wanted if one in runs}
    rates = [rate for rate in DROP_RATES if all((rate, seed) in known for seed in seeds)]
    if 0.0 not in rates or HIGH not in rates:
        return not_run(f"{len(runs)} of {len(wanted)} runs are recorded")
    family = paired_family(
        {
            (rate, epoch): [_accuracy(known[rate, seed], epoch) - _accuracy(known[0.0, seed], epoch) for seed in seeds]
            for rate in rates
            if rate > 0
            for epoch in (EARLY, LATE)
        },
        LEVEL,
    )
    verdict, text = judged(family[HIGH, EARLY], family[HIGH, LATE])
    measured: dict[str, Any] = {
        f"drop rate {rate:g} minus 0, epoch {epoch}": described(one) for (rate, epoch), one in family.items()
    }
    measured["epoch of the best accuracy"] = {
        f"{rate:g}": [_best(known[rate, seed]) for seed in seeds] for rate in rates
    }
    return Finding(verdict, Evidence({"early": "below 0", "late": "above 0"}, measured, SOURCE, n=len(seeds)), text)


def _accuracy(result: Mapping[str, Any], epoch: int) -> float:
    return result["epochs"][epoch - 1]["test_accuracy"]


def _best(result: Mapping[str, Any]) -> int:
    accuracies = [entry["test_accuracy"] for entry in result["epochs"]]
    return 1 + accuracies.index(max(accuracies))


def judged(early: Difference, late: Difference) -> tuple[str, str | None]:
    """The verdict on "weakest after short, strongest after long fine-tuning".

    Args:
        early: the high drop rate minus none after few epochs.
        late: after many.

    Returns:
        The verdict, and what is seen or how many seeds it needs.
    """
    words = {1: "better", -1: "worse", 0: "open"}
    seen = f"drop rate {HIGH:g} against none: {words[early.sign]} after {EARLY} epochs, {words[late.sign]} after {LATE}"
    if (early.sign, late.sign) == (-1, 1):
        return "holds", None
    if early.sign == 1 or late.sign == -1:
        return "refuted", seen
    needed = [one.required_n for one in (early, late) if one.required_n is not None]
    return "undecided", seen + (f"; would need {max(needed)} seeds" if needed else "")


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
            COMMAND,
            "tests/test_claims_fine_tuning.py",
            reads=STUDY,
        ),
    )
