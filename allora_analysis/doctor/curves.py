"""Recorded learning-rate curves, where they end, and the largest stable rate that was predicted for each.

`experiments.stable_rates` states the question and the test. Checked by `tests/test_doctor_curves.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allora_analysis import records
from allora_analysis.finetune import setting as finetune
from allora_analysis.grid.reading import final_value
from allora_analysis.study import Table

STUDY, PROTOCOL = "stable_rates", 2
RESULTS = records.results_folder(STUDY)
FACTOR = 2.0
LEAST_RATES = 2


@dataclass(frozen=True)
class Trial:
    """A prediction in full.

    Attributes:
        model: what records call the model.
        optimizer: "adamw" or "sgd".
        rate: of the trial steps.
        steps: made before the curvature is measured.
        batch_size: sentences of a step, and of the batch that is measured.
        head_rate: of the classifier in the trial steps.
        data: what records call the data.
        rank: r = α.
        seed: of A, the classifier, the sentences.
    """

    model: str
    optimizer: str
    rate: float
    steps: int
    batch_size: int
    head_rate: float
    data: str = "rotten_tomatoes"
    rank: int = 16
    seed: int = 0


TRIALS = tuple(
    Trial(model, optimizer, rate, steps, size, head)
    for model, size in (("all-MiniLM-L6-v2", 32), ("SmolLM2-135M", 8))
    for optimizer, rate, steps, head in (("sgd", 1.0, 0, 0.1), ("adamw", 3e-4, 20, 1e-3))
)


@dataclass(frozen=True)
class Curve:
    """LoRA's test accuracy by learning rate, at one schedule, clipping and rate of the classifier.

    Attributes:
        model: its name.
        optimizer: "adamw" or "sgd".
        schedule: "linear" or "constant".
        clip: the largest gradient norm; 0: none.
        head: the classifier's rate.
        accuracies: by rate, ascending: a seed each.
        majority: the most frequent label's share.
        data: their name.
        rank: r.
        batch_size: sentences of a step.
    """

    model: str
    optimizer: str
    schedule: str
    clip: float
    head: float
    accuracies: Mapping[float, tuple[float, ...]]
    majority: float
    data: str = "rotten_tomatoes"
    rank: int = 16
    batch_size: int = 32

    @property
    def edge(self) -> tuple[float, float | None]:
        """The largest rate at which every seed trains (0: none does), and the next one recorded above it, or None."""
        best = max(sum(of) / len(of) for of in self.accuracies.values())
        half = (self.majority + best) / 2
        trains = [rate for rate, of in self.accuracies.items() if min(of) > max(half, self.majority)]
        low = max(trains, default=0.0)
        return low, min((rate for rate in self.accuracies if rate > low), default=None)


def curves(folder: Path | None = None) -> list[Curve]:
    """LoRA's recorded curves without dropout, wherever two rates or more are there.

    Args:
        folder: of fine-tuning records; None: those of this repository.

    Returns:
        The curves, by model and optimizer.
    """
    found: dict[tuple, dict[float, dict[int, tuple[int, float]]]] = {}
    majority: dict[tuple, float] = {}
    for path in records.record_files(finetune.RESULTS if folder is None else folder):
        record = records.load(path)
        config = record.config
        if (record.study, config["arm"], config["drop_rate"]) != (finetune.STUDY, "lora", 0.0) or config["epochs"] > 2:
            continue
        key = tuple(config[name] for name in _KEY)
        # A rate may be recorded after more steps too: the shorter run counts.
        runs, seed = found.setdefault(key, {}).setdefault(config["learning_rate"], {}), config["seed"]
        one = record.result["steps"], final_value(record.result, "test_accuracy")
        runs[seed] = min(runs.get(seed, one), one)
        majority[key] = record.result["majority_rates"]["test"]
    return [
        Curve(
            *key[:5],
            {rate: tuple(x for _, x in of.values()) for rate, of in sorted(rates.items())},
            majority[key],
            *key[5:],
        )
        for key, rates in sorted(found.items())
        if len(rates) >= LEAST_RATES
    ]


_KEY = (
    "model", "optimizer", "schedule", "max_grad_norm", "head_learning_rate",
    "data", "rank", "batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A prediction beside a curve.

    Attributes:
        curve: the recorded one.
        predicted: the rate, 0 where the classifier's own is beyond its edge; None: not recorded.
    """

    curve: Curve
    predicted: float | None

    @property
    def hit(self) -> bool | None:
        """Within a factor of 2 of the edge; None without a prediction, or where all there is to miss is kept: low/2."""
        low, high = self.curve.edge
        if self.predicted is None or (high is None and self.predicted >= low / FACTOR):
            return None
        return high is not None and low / FACTOR <= self.predicted <= FACTOR * high


def compared(folder: Path | None = None, runs: Path | None = None) -> list[Compared]:
    """Every curve with its prediction.

    Args:
        folder: of the predictions' records; None: those of this repository.
        runs: of fine-tuning records.

    Returns:
        The comparisons.
    """
    where = RESULTS if folder is None else folder
    known = records.find_each(where, STUDY, PROTOCOL, {one: one for one in TRIALS}) if Path(where).is_dir() else {}
    edges = {(one.model, one.optimizer, one.data, one.rank): record.result for one, record in known.items()}
    return [
        Compared(curve, _predicted(curve, edges.get((curve.model, curve.optimizer, curve.data, curve.rank))))
        for curve in curves(runs)
    ]


def _predicted(curve: Curve, edge: Mapping[str, float] | None) -> float | None:
    if edge is None:
        return None
    head = edge["head_rate"]
    return edge["rate"] if head is None or curve.head <= head else 0.0


def table(found: Sequence[Compared]) -> Table:
    """The comparisons, readable.

    Args:
        found: what `compared` returned.

    Returns:
        A table.
    """
    told = [one.hit for one in found if one.hit is not None]
    share = f"{sum(told)} of {len(told)} curves where it can be missed"
    title = f"largest stable rate within a factor of {FACTOR:g} of the edge: {share}"
    columns = ("model", "optimizer", "schedule", "clipping", "head", "trains up to", "no more at", "predicted", "hit")
    return Table(title, columns, [_row(one) for one in found])


def _row(one: Compared) -> tuple[str, ...]:
    curve, (low, high) = one.curve, one.curve.edge
    predicted = "not run" if one.predicted is None else f"{one.predicted:.3g}" if one.predicted else "none"
    hit = {True: "yes", False: "no", None: "–"}[one.hit]
    ends = (f"{low:g}" if low else "none", "beyond the range" if high is None else f"{high:g}")
    clip = f"{curve.clip:g}" if curve.clip else "none"
    return (curve.model, curve.optimizer, curve.schedule, clip, f"{curve.head:g}", *ends, predicted, hit)
