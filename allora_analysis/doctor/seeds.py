"""How many seeds until a gap of x points between two methods means anything: from one's own numbers or from records.

The differences of two methods on the same seeds have a standard deviation; the paired t-test needs so many seeds to see
a gap with power 0.8 at level 0.05 (`statistics.required_n`), and as many at the ends of that deviation's 90 % interval.
Checked by `tests/test_doctor_seeds.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allora_analysis import records
from allora_analysis.grid.reading import every, final_value
from allora_analysis.statistics import required_n, required_n_interval
from allora_analysis.study import Table
from allora_analysis.validation import ArgumentError, positive

LEAST = 3
_OWN = ("arm", "eta2", "seed")


@dataclass(frozen=True)
class Needed:
    """The seeds that a gap needs, from a deviation of the paired differences, in points.

    `pairs` is how many seeds it comes from, `low` and `high` are the seeds at the ends of its interval, `mean` is the
    differences'; all None where the deviation was given.
    """

    what: str
    pairs: int | None
    mean: float | None
    deviation: float
    seeds: int
    low: int | None
    high: int | None


def from_deviation(gap: float, deviation: float) -> Needed:
    """The seeds to see a gap, of a deviation of the paired differences that is known; both in points."""
    gap, deviation = positive("--gap", gap), positive("--sd", deviation)
    return Needed("the deviation given", None, None, deviation, required_n(gap, deviation), None, None)


def from_scores(gap: float, scores: Sequence[float], baseline: Sequence[float], what: str = "your scores") -> Needed:
    """Of two methods' scores on the same seeds, in order, all in points; refuses fewer than two, or differences that
    are all one.
    """
    if len(scores) != len(baseline) or len(scores) < 2:
        raise ArgumentError(
            f"--scores and --baseline must be of the same seeds, 2 or more, received {len(scores)} and {len(baseline)}"
        )
    differences = np.subtract(scores, baseline)
    if not np.isfinite(differences).all():
        raise ArgumentError("--scores and --baseline must be finite numbers")
    deviation = float(np.std(differences, ddof=1))
    if deviation <= 1e-9 * float(np.abs(differences).max()):
        raise ArgumentError("--scores and --baseline differ by the same on every seed: no spread to judge a gap by")
    gap = positive("--gap", gap)
    low, high = required_n_interval(gap, deviation, len(scores) - 1)
    return Needed(what, len(scores), float(differences.mean()), deviation, required_n(gap, deviation), low, high)


def from_records(gap: float, folder: Path | None, arm: str = "allora_0", reference: str = "lora") -> list[Needed]:
    """Of recorded runs: two arms at the same settings on three shared seeds or more; a setting each, those with most
    seeds first. `gap` is in points of test accuracy.
    """
    groups: dict[tuple, dict[str, dict[float | None, dict[int, float]]]] = {}
    for record in every(folder):
        config = record.config
        if config["arm"] in (arm, reference):
            key = tuple((name, str(value)) for name, value in sorted(config.items()) if name not in _OWN)
            of = groups.setdefault(key, {arm: {}, reference: {}})[config["arm"]]
            of.setdefault(config["eta2"], {})[config["seed"]] = _points(record)
    found = []
    for key, arms in groups.items():
        # Of several η² the largest with enough seeds: the paper's strongest.
        by_size = [sorted(arms[name].items(), key=lambda one: -(one[0] or 0)) for name in (arm, reference)]
        for (eta2, runs), (other_eta2, others) in itertools.product(*by_size):
            shared = sorted(set(runs) & set(others))
            if len(shared) < LEAST:
                continue
            one, other = ([of[seed] for seed in shared] for of in (runs, others))
            if np.ptp(np.subtract(one, other)) > 0:
                what = f"{_arm(arm, eta2)} − {_arm(reference, other_eta2)}: {_words(dict(key))}"
                found.append(from_scores(gap, one, other, what))
            break
    if not found:
        raise ArgumentError(f"--results: no setting has {arm} and {reference} on {LEAST} shared seeds; give --scores")
    return sorted(found, key=lambda one: (-(one.pairs or 0), one.deviation))


def _points(record: records.Record) -> float:
    return 100 * final_value(record.result, "test_accuracy")


def _arm(name: str, eta2: float | None) -> str:
    return name if eta2 is None else f"{name} (η² = {eta2:g})"


def _words(config: dict[str, str]) -> str:
    return f"{config['model']}, {config['optimizer']} at {float(config['learning_rate']):g}, {config['schedule']}" + (
        f", drop rate {config['drop_rate']}" if float(config["drop_rate"]) else ""
    )


def words(needed: Needed, gap: float) -> str:
    """The seeds for a gap, in points, in a line."""
    interval = "" if needed.low is None else f" ({needed.low} to {needed.high})"
    seen = "" if needed.pairs is None else f" over {needed.pairs} seeds, mean {needed.mean:+.2f}"
    return (
        f"{needed.seeds} seeds{interval} to see a gap of {gap:g} points: differences have a standard deviation of "
        f"{needed.deviation:.2f}{seen}"
    )


def table(found: Sequence[Needed]) -> Table:
    """The seeds of several settings, from records, as a table."""
    columns = ("differences, same seeds", "seeds recorded", "mean", "standard deviation", "seeds needed", "90 %")
    rows = [
        (
            one.what,
            str(one.pairs),
            f"{one.mean:+.2f}",
            f"{one.deviation:.2f}",
            str(one.seeds),
            f"{one.low} to {one.high}",
        )
        for one in found
    ]
    return Table("", columns, rows, ["Points; paired t-test, power 0.8, level 0.05, two-sided."])
