"""Records of fine-tuning runs as if they had been run: accuracies and row norms by formula, seeds a little apart."""

from __future__ import annotations

from pathlib import Path

from allora_analysis import records
from allora_analysis.finetune.setting import PROTOCOL, STUDY

DIGESTS = {"model": "0" * 64, "data": "1" * 64}
STEPS = (0, 1, 2, 5, 10, 50, 267)


def level(run) -> float:
    """An accuracy of the run's own: no two arms, η², rates or data sets alike, seeds 0.002 apart."""
    arm = sum(map(ord, run.arm)) % 13 / 200
    tuned = run.learning_rate / (run.learning_rate + 3e-4) - run.drop_rate / 10
    return 0.6 + arm + (run.eta2 or 0) / 100 + tuned / 10 + len(run.data) / 500 + 0.002 * run.seed


def epochs(run) -> list[float]:
    """Accuracies that rise by 0.01 an epoch."""
    return [level(run) + 0.01 * epoch for epoch in range(run.epochs)]


def speed(run) -> float:
    """Row norm a step: by rate, twice as fast for the arms with a factor, seeds 2 % apart."""
    return 0.01 * run.learning_rate * (2 if run.eta2 else 1) * (1 + 0.02 * run.seed)


def plant(folder: Path, wanted, accuracies=epochs, norms=speed, skip=lambda run: False) -> None:
    """Save a record for each run that is not skipped; `accuracies(run)` None: the run diverged before the first."""
    for run in wanted:
        if skip(run):
            continue
        values = accuracies(run)
        measured = [
            {"epoch": float(i), "step": i, "test_accuracy": value, "validation_accuracy": value - 0.01}
            for i, value in enumerate(values or (), 1)
        ]
        row = [step * norms(run) for step in STEPS]
        layers = {"q": {"mean": row, "max": row}, "v": {"mean": [3 * norm for norm in row], "max": row}}
        result = {
            "epochs": measured,
            "diverged_at_step": None if values else 7,
            "row_norms": {"step": list(STEPS), "layers": layers},
        }
        records.save(folder, STUDY, run, result, protocol=PROTOCOL, digests=DIGESTS, provenance={})
