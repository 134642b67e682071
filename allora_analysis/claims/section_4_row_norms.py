"""Figure 2 (right) as measured: how fast do the row norms of BA leave 0 in fine-tuning, under each optimiser?

The runs are long: the row reads what `python -m experiments.row_norms` recorded, whose file states the arms, the test
and the stopping rule. Checked by `tests/test_claims_row_norms.py`, which plants records.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run, settle
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import row_norms as preset
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.grid.sources import command
from allora_analysis.statistics import paired_test

# By the row's id; MiniLM is the base of the paper's Snowflake Arctic XS.
MODELS = {"4-figure-2-measured": "all-MiniLM-L6-v2", "4-figure-2-measured-smollm2": "SmolLM2-135M"}
START = (1, 10)
MARGIN = math.log(1.1)
MOST_SEEDS = 10**6
Runs = Mapping[Setting, Mapping[str, Any]]
Gap = tuple[float, tuple[float, float]]  # mean of log(n_ALLoRA/n_other) and its 95 % interval over seeds


def wanted(model: str) -> list[Setting]:
    """The runs on one model.

    Args:
        model: its name.

    Returns:
        The runs.
    """
    return [one for one in preset.PRESETS["desk"] if one.model == model]


def figure_2(model: str, folder: Path | None = None) -> Finding:
    """The verdict over the optimisers whose runs are all recorded.

    Args:
        model: its name.
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    listed = wanted(model)
    runs = recorded(listed, folder)
    by_optimizer = {name: [one for one in listed if one.optimizer == name] for name in preset.RATES[model]}
    complete = [name for name, own in by_optimizer.items() if all(_reached(runs, one, START) for one in own)]
    missing = [name for name, own in by_optimizer.items() if not all(one in runs for one in own)]
    stopped = [name for name in by_optimizer if name not in complete and name not in missing]
    if not complete and not stopped:
        return not_run(f"{len(runs)} of {len(listed)} runs are recorded")
    gaps = {name: _gaps(runs, by_optimizer[name]) for name in complete}
    outcomes = {name: outcome(gaps[name]["from LoRA at η·l"], gaps[name]["from LoRA at l"]) for name in complete}
    seeds = len({one.seed for one in listed})
    needed = {
        name: seeds_needed(gaps[name]["from LoRA at η·l"], gaps[name]["from LoRA at l"], seeds)
        for name, holds in outcomes.items()
        if holds is None
    }
    verdict, text = judged(outcomes, missing, stopped, needed)
    measured = {
        name: {
            what: {f"step {t}": {"log_ratio": m, "interval": i} for t, (m, i) in of.items()} for what, of in own.items()
        }
        for name, own in gaps.items()
    }
    source = (
        f"95 % intervals over seeds; ALLoRA matches another if the whole interval is within ±log 1.1 = ±{MARGIN:.3f}"
    )
    return Finding(verdict, Evidence({"steps 1 and 10": "LoRA at η·l"}, measured, source, n=seeds), text)


def _reached(runs: Runs, one: Setting, steps: Sequence[int]) -> bool:
    # Recorded, and not diverged before one of these steps.
    return one in runs and {*steps} <= {*runs[one]["row_norms"]["step"]}


def _gaps(runs: Runs, own: list[Setting]) -> dict[str, dict[int, Gap]]:
    rate, last = preset.base_rate(own[0]), own[0].max_steps
    steps = (*START, last) if all(_reached(runs, one, [last]) for one in own) else START
    pairs = {"from LoRA at η·l": ("allora", preset.ETA), "from LoRA at l": ("allora", 1.0)}
    if any(one.arm == "allora_adamw" for one in own):
        pairs["ALLoRAAdamW from LoRA at η·l"] = "allora_adamw", preset.ETA
    return {
        what: {t: _gap(runs, own, arm, ("lora", factor * rate), t) for t in steps}
        for what, (arm, factor) in pairs.items()
    }


def _gap(runs: Runs, own: list[Setting], arm: str, other: tuple[str, float], step: int) -> Gap:
    def logs(arm: str, rate: float | None) -> list[float]:
        same = sorted(
            (one for one in own if one.arm == arm and rate in (None, one.learning_rate)), key=lambda o: o.seed
        )
        return [math.log(average_norm(runs[one], step)) for one in same]

    test = paired_test(logs(arm, None), logs(*other), method="t")
    return test.mean_difference, test.interval


def matches(gap: Gap) -> bool:
    """Whether the whole interval is within the margin.

    Args:
        gap: mean and interval.

    Returns:
        True if it is.
    """
    return max(abs(end) for end in gap[1]) <= MARGIN


def differs(gap: Gap) -> bool:
    """Whether the interval excludes 0 and the mean is beyond the margin.

    Args:
        gap: mean and interval.

    Returns:
        True if so.
    """
    return gap[1][0] * gap[1][1] > 0 and abs(gap[0]) > MARGIN


def outcome(fast: Mapping[int, Gap], slow: Mapping[int, Gap]) -> bool | None:
    """What an optimiser says of "the starting phase matches LoRA's at η·l, and a lower rate is slower".

    Args:
        fast: ALLoRA's gaps from LoRA at η·l, by step.
        slow: from LoRA at l.

    Returns:
        True, False, or None where the runs do not decide it.
    """
    ahead = {t: differs(slow[t]) and slow[t][0] > 0 for t in START}
    if all(matches(fast[t]) and ahead[t] for t in START):
        return True
    return False if any(differs(fast[t]) or (differs(slow[t]) and not ahead[t]) for t in START) else None


def seeds_needed(fast: Mapping[int, Gap], slow: Mapping[int, Gap], seeds: int) -> int | None:
    """The seeds at which `outcome` decides, were every later seed to leave means and spreads as they are.

    An interval's half-width is t_{0.975, n − 1}·s/√n; once it decides, a narrower one says the same.

    Args:
        fast: ALLoRA's gaps from LoRA at η·l, by step.
        slow: from LoRA at l.
        seeds: that the gaps are from, n.

    Returns:
        The number, above n; None where even `MOST_SEEDS` do not decide: a mean that meets neither condition.
    """
    from scipy.special import stdtrit

    def decided(n: int) -> bool:
        narrower = float(stdtrit(n - 1, 0.975) / stdtrit(seeds - 1, 0.975)) * math.sqrt(seeds / n)

        def at_n(gaps: Mapping[int, Gap]) -> dict[int, Gap]:
            return {
                t: (m, (m - (m - low) * narrower, m + (high - m) * narrower)) for t, (m, (low, high)) in gaps.items()
            }

        return outcome(at_n(fast), at_n(slow)) is not None

    if not decided(MOST_SEEDS):
        return None
    return bisect_left(range(seeds, MOST_SEEDS), True, key=decided) + seeds


def judged(
    outcomes: Mapping[str, bool | None],
    missing: Sequence[str] = (),
    stopped: Sequence[str] = (),
    needed: Mapping[str, int | None] = MappingProxyType({}),
) -> tuple[str, str | None]:
    """The verdict over optimisers.

    Args:
        outcomes: by optimiser.
        missing: optimisers whose runs are not all recorded.
        stopped: optimisers under which a run diverged.
        needed: the seeds that an open optimiser needs, None where no number would do.

    Returns:
        The verdict, and on what it depends or what is missing.
    """
    decided = {name: holds for name, holds in outcomes.items() if holds is not None}
    undecided = [name for name, holds in outcomes.items() if holds is None]
    open_ones = [f"open under {name}: {_wanting(needed.get(name))}" for name in undecided]
    reasons = {"open under {}: not recorded in full": missing, "open under {}: a run diverged": stopped}
    open_ones += [why.format(", ".join(names)) for why, names in reasons.items() if names]
    if open_ones and len(set(decided.values())) < 2:
        said = [f"{'true' if holds else 'false'} under {name}" for name, holds in decided.items()]
        return "undecided", "; ".join([*said, *open_ones])
    true, false = ([name for name, holds in decided.items() if holds is want] for want in (True, False))
    if not false:
        return "holds", None
    if not true:
        return settle(decided), "under no optimiser tried: " + ", ".join(false)
    return settle(
        decided, dict.fromkeys(decided, True)
    ), f"true under {', '.join(true)}; false under {', '.join(false)}"


def _wanting(seeds: int | None) -> str:
    if seeds is None:
        return f"at these means {MOST_SEEDS} seeds do not decide it either"
    return f"would need {seeds} seeds of these means and spreads"


def claims() -> tuple[Claim, ...]:
    """Figure 2, right, a row for each model.

    Returns:
        The claims.
    """
    return tuple(
        Claim(
            name,
            f"Figure 2, right, as measured in fine-tuning {model}, nothing clipped",
            "The starting phase matches that of LoRA with learning rate η·l_b; LoRA with a lower rate reaches the same "
            "level of L2 norm but much slower (read: it is behind ALLoRA at steps 1 and 10)",
            partial(figure_2, model),
            command("row_norms", wanted(model)),
            "tests/test_claims_row_norms.py",
            reads=STUDY,
        )
        for name, model in MODELS.items()
    )
