"""Table 1 on a model that fits a desk, from the recorded runs of `experiments/commonsense.py`.

That file states arms, test and stopping rule, and what so small a model can say. Checked by
`tests/test_claims_commonsense.py`, which plants records.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allora_analysis.claims.accuracy import LEVEL, Pairs, Runs, compared, described, differences, diverged, words
from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid.presets.commonsense import DESK_DATA, PRESETS, SEEDS
from allora_analysis.grid.reading import recorded
from allora_analysis.grid.sources import command

ARMS = ("allora", "allora_0")


def _pairs(arm: str, other: str, data: str) -> Pairs:
    runs = {
        name: sorted((one for one in PRESETS["desk"] if (one.arm, one.data) == (name, data)), key=lambda one: one.seed)
        for name in (arm, other)
    }
    return list(zip(runs[arm], runs[other], strict=True))


def averaged(runs: Runs, other: str) -> dict[str, list[float]]:
    """Each arm's accuracy minus another's, averaged over the tasks, seed by seed.

    Args:
        runs: what is recorded.
        other: the other arm.

    Returns:
        The differences by arm; an arm with a run that is missing is left out.
    """
    found = {}
    for arm in ARMS:
        own = differences(runs, {data: _pairs(arm, other, data) for data in DESK_DATA})
        if len(own) == len(DESK_DATA):
            found[arm] = np.mean(list(own.values()), axis=0).tolist()
    return found


def table_1(folder: Path | None = None) -> Finding:
    """ALLoRA and ALLoRA-0 minus DoRA, averaged over the tasks.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    wanted = PRESETS["desk"]
    runs = recorded(wanted, folder)
    gaps = averaged(runs, "dora")
    stopped = diverged(runs, {arm: [pair for data in DESK_DATA for pair in _pairs(arm, "dora", data)] for arm in ARMS})
    if not gaps and not stopped:
        return not_run(f"{len(runs)} of {len(wanted)} runs are recorded")
    family = compared(gaps, len(ARMS))
    signs = [one.sign for one in family.values()]
    verdict = "refuted" if -1 in signs else "holds" if signs == [1] * len(ARMS) else "undecided"
    beside = {
        f"{arm} over {other}, {data}": _pairs(arm, other, data)
        for other in ("dora", "lora")
        for arm in ARMS
        for data in DESK_DATA
    }
    complete = differences(runs, beside)
    measured = {f"{arm} over dora": described(one) for arm, one in family.items()}
    measured |= {case: described(one) for case, one in compared(complete, len(beside)).items()}
    source = f"Student's t over seeds at {LEVEL}, Holm over the two arms"
    evidence = Evidence({"difference": "above 0 for both"}, measured, source, n=SEEDS)
    text = None if verdict == "holds" else words(family, len(ARMS) - len(family) - len(stopped), stopped)
    return Finding(verdict, evidence, text)


def claims() -> tuple[Claim, ...]:
    """The row of Table 1.

    Returns:
        The claim.
    """
    return (
        Claim(
            "4-table-1-desk",
            f"§4.5, Table 1, on SmolLM2-135M and {' and '.join(DESK_DATA)}",
            "On average, ALLoRA and ALLoRA-0 each boosted accuracy over DoRA",
            table_1,
            command("commonsense", PRESETS["desk"]),
            "tests/test_claims_commonsense.py",
            reads=STUDY,
        ),
    )
