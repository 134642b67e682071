"""Records of fine-tuning runs as if they had been run: accuracies and row norms by formula, seeds a little apart."""

from pathlib import Path

from allora_analysis import records
from allora_analysis.finetune.run import summarised
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


def wiggle(run) -> float:
    """Seeds 0.0005 apart, around 0."""
    return 0.0005 * (run.seed - 1)


def better(arms, by=0.02):
    """Accuracies after two epochs: 0.8, by about `by` more for these arms, and what a seed gives every arm."""
    return lambda run: [0.5, 0.8 + 0.01 * run.seed + (by + wiggle(run)) * (run.arm in arms)]


def plant(
    folder: Path,
    wanted,
    accuracies=epochs,
    norms=speed,
    skip=lambda run: False,
    losses=None,
    induced=None,
    validation=None,
):
    """Save a record for each run that is not skipped; a None in `accuracies(run)`, or for it: the run diverged there.

    Test losses are `losses(run)`, the validation loss is `validation(run)` at each epoch, and induced norms
    `induced(run)`, where given. Its row norms grow in proportion to the steps, by `norms(run)` each; one of `max_steps`
    has its last there.
    """
    for run in wanted:
        if skip(run):
            continue
        values = accuracies(run) or [None]
        measured = [
            {"epoch": float(i), "step": i, "test_accuracy": value, "validation_accuracy": value - 0.01}
            for i, value in enumerate(values, 1)
            if value is not None
        ]
        for entry, loss in zip(measured, losses(run) if losses else (), strict=False):
            entry["test_loss"] = loss
        for entry in measured if validation else ():
            entry["validation_loss"] = validation(run)
        steps = [*STEPS[:-1], run.max_steps or STEPS[-1]]
        row = [step * norms(run) for step in steps]
        layers = {"q": row, "v": [3 * norm for norm in row]}
        result = {
            "epochs": measured,
            "diverged_at_step": 7 if None in values else None,
            "row_norms": summarised({"step": steps, "layers": layers}),
        }
        if induced:
            result["induced_norms"] = induced(run)
        records.save(folder, STUDY, run, result, protocol=PROTOCOL, digests=DIGESTS, provenance={})
