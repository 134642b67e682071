"""Every arm at its own best learning rate: from the runs recorded by `experiments/learning_rates.py`.

That file states arms, test and stopping rule; a row for each list of runs, one model under one optimiser. Checked by
`tests/test_claims_learning_rates.py`, which plants records.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from allora_analysis.claims.accuracy import LEVEL, Runs, compared, described, differences, diverged, words
from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run
from allora_analysis.finetune.setting import ARMS, STUDY, Setting
from allora_analysis.grid.presets.learning_rates import PRESETS
from allora_analysis.grid.reading import final_accuracy, recorded
from allora_analysis.grid.sources import command

SOURCE = f"Student's t over seeds at {LEVEL}, Holm over the arms; the rate is chosen on validation"
# By the row's id: model and optimiser.
LISTS = {
    "4-own-best-rate": ("all-MiniLM-L6-v2", "adamw"),
    "4-own-best-rate-sgd": ("all-MiniLM-L6-v2", "sgd"),
    "4-own-best-rate-smollm2": ("SmolLM2-135M", "adamw"),
}
OURS = "allora_0"  # the paper's ALLoRA, as all arms here without dropout: the others stand beside it in the evidence
SPELT = {"adamw": "AdamW", "sgd": "SGD"}


def wanted(model: str, optimizer: str) -> list[Setting]:
    """The runs of one list.

    Args:
        model: its name.
        optimizer: "adamw" or "sgd".

    Returns:
        The runs.
    """
    return [one for one in PRESETS["desk"] if (one.model, one.optimizer) == (model, optimizer)]


def own_best_rate(model: str, optimizer: str, folder: Path | None = None) -> Finding:
    """ALLoRA at the rate that validation chose, minus LoRA at its own, on the test split; the other arms beside it.

    Args:
        model: its name.
        optimizer: "adamw" or "sgd".
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    listed = wanted(model, optimizer)
    runs, arms = recorded(listed, folder), dict.fromkeys(one.arm for one in listed)
    chosen = {arm: best for arm in arms if (best := _best(runs, listed, arm)) is not None}
    if "lora" not in chosen or OURS not in chosen:
        return not_run(f"{len(runs)} of {len(listed)} runs are recorded")
    cases = {arm: list(zip(best, chosen["lora"], strict=True)) for arm, best in chosen.items() if arm != "lora"}
    others = len(arms) - 1  # Holm's family, recorded or not
    family = compared(differences(runs, cases), others)
    ours = {arm: one for arm, one in family.items() if arm == OURS}
    verdict = {1: "holds", -1: "refuted", 0: "undecided"}[ours[OURS].sign if ours else 0]
    rates = {arm: best[0].learning_rate for arm, best in chosen.items()}
    ends = [arm for arm, rate in rates.items() if rate in _ends(listed, arm)]
    measured: dict[str, Any] = {arm: described(one) | {"learning_rate": rates[arm]} for arm, one in family.items()}
    measured |= {"lora": {"learning_rate": rates["lora"]}, "best at an end of their range": ends}
    beyond = (
        f"; best at an end of their range, so that better may lie beyond: {', '.join(ARMS[arm] for arm in ends)}"
        if ends
        else ""
    )
    stopped = diverged(runs, {OURS: cases[OURS]})
    text = None if verdict == "holds" else words(ours, 0, stopped, others) + beyond
    return Finding(verdict, Evidence({"difference": "above 0"}, measured, SOURCE, n=len(chosen["lora"])), text)


def _ends(listed: Iterable[Setting], arm: str) -> tuple[float, float]:
    rates = [one.learning_rate for one in listed if one.arm == arm]
    return min(rates), max(rates)


def _best(runs: Runs, listed: Iterable[Setting], arm: str) -> list[Setting] | None:
    # The runs of an arm at the rate of the best average validation accuracy; None while a run is missing.
    by_rate: dict[float, list[Setting]] = {}
    for one in listed:
        if one.arm == arm:
            by_rate.setdefault(one.learning_rate, []).append(one)
    if not all(one in runs for those in by_rate.values() for one in those):
        return None
    scores = {
        rate: statistics.fmean(final_accuracy(runs[one], "validation") or 0.0 for one in those)
        for rate, those in by_rate.items()
    }
    return sorted(by_rate[max(scores, key=scores.get)], key=lambda one: one.seed)


def claims() -> tuple[Claim, ...]:
    """A row for each list of runs.

    Returns:
        The claims.
    """
    return tuple(
        Claim(
            name,
            f"Abstract, read: at each method's own best learning rate, on {model} under {SPELT[optimizer]}",
            "ALLoRA admits better accuracy than LoRA (read: ALLoRA-0, as no arm here has dropout)",
            partial(own_best_rate, model, optimizer),
            command("learning_rates", wanted(model, optimizer)),
            "tests/test_claims_learning_rates.py",
            reads=STUDY,
        )
        for name, (model, optimizer) in LISTS.items()
    )
