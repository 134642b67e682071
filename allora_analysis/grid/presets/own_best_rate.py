"""Each arm at its own best rate, seed after seed: the runs of `experiments.own_best_rate`, which states the rules."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from allora_analysis.finetune.setting import WITH_ETA, Setting
from allora_analysis.grid.presets.learning_rates import ETA2, HEAD_RATES
from allora_analysis.grid.reading import paired_differences, recorded
from allora_analysis.statistics.e_values import CAP, Sequential, decide

FIRST_SEED = 3  # seeds 0, 1 and 2 chose the rates
BLOCK = 8  # fewer pairs cannot decide
REFERENCE = "lora"
MARGINS = {"test_accuracy": 0.003, "test_loss": 0.004}
"""By endpoint, the first of which decides when the runs stop: the margin of equivalence."""


class Listed(NamedTuple):
    """One question: model, optimizer, what its runs share, and each arm's frozen rate, the arm asked about first."""

    model: str
    optimizer: str
    shared: dict[str, object]
    rates: dict[str, float]


_MINILM = {"batch_size": 32, "epochs": 1, "precision": "bf16"}
_SMOLLM2 = {"batch_size": 16, "max_steps": 250, "precision": "bf16"}
LISTS = {
    "minilm-adamw": Listed(
        "all-MiniLM-L6-v2", "adamw", _MINILM, {"allora_0": 1e-3, "allora_adamw": 1e-3, "lora": 1e-3}
    ),
    "minilm-sgd": Listed("all-MiniLM-L6-v2", "sgd", _MINILM, {"allora_0": 1.0, "lora": 3.0}),
    "smollm2-adamw": Listed("SmolLM2-135M", "adamw", _SMOLLM2, {"allora_0": 1e-3, "allora_adamw": 3e-4, "lora": 1e-3}),
}


def run(name: str, arm: str, seed: int) -> Setting:
    """An arm's run of a list."""
    listed = LISTS[name]
    return Setting(
        model=listed.model,
        data="rotten_tomatoes",
        arm=arm,
        eta2=ETA2 if arm in WITH_ETA else None,
        optimizer=listed.optimizer,
        learning_rate=listed.rates[arm],
        head_learning_rate=HEAD_RATES[listed.optimizer],
        seed=seed,
        **listed.shared,
    )


def pairs(name: str, arm: str) -> list[tuple[Setting, Setting]]:
    """An arm's run and LoRA's, seed by seed, up to the cap."""
    seeds = range(FIRST_SEED, FIRST_SEED + CAP)
    return [(run(name, arm, seed), run(name, REFERENCE, seed)) for seed in seeds]


def blocks() -> list[tuple[str, list[Setting]]]:
    """The runs in their order; the lists take turns of `BLOCK` seeds."""
    starts = range(FIRST_SEED, FIRST_SEED + CAP, BLOCK)
    return [
        (name, [run(name, arm, seed) for arm in LISTS[name].rates])
        for start in starts
        for name in LISTS
        for seed in range(start, min(start + BLOCK, FIRST_SEED + CAP))
    ]


PRESETS = {"desk": [one for _, runs in blocks() for one in runs]}


def verdicts(
    name: str, endpoint: str = "test_accuracy", folder: Path | str | None = None
) -> dict[str, tuple[list[float], Sequential]]:
    """By arm, the differences arm − LoRA of a list's recorded seeds, at an endpoint of `MARGINS`, and their decision;
    arms without a pair are left out. The folder need not exist; None is the repository's own.
    """
    arms = [arm for arm in LISTS[name].rates if arm != REFERENCE]
    runs = recorded([one for listed, those in blocks() if listed == name for one in those], folder)
    found = {arm: paired_differences(runs, pairs(name, arm), endpoint) for arm in arms}
    return {arm: (values, decide(values, MARGINS[endpoint])) for arm, values in found.items() if values}


def decided(name: str, folder: Path | str | None = None) -> bool:
    """Whether a list stops: all its arms are decided on accuracy. No run of it is then wanted any more."""
    found = verdicts(name, folder=folder)
    return len(found) == len(LISTS[name].rates) - 1 and all(one.verdict != "open" for _, one in found.values())
