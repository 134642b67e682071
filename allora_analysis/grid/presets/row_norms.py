"""Figure 2, right: the runs of `experiments.row_norms`, which states the question, the test and the stopping rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from allora_analysis.finetune.setting import Setting

ETA2 = 4.0
ETA = ETA2**0.5
MINILM = {"adamw": (1e-4, 1e-3), "sgd": (0.5, 0.1)}
RATES = {
    "all-MiniLM-L6-v2": MINILM,
    "SmolLM2-135M": {"adamw": (1e-4, 1e-3), "sgd": (0.1, 1e-3)},
    "Snowflake-Arctic-XS": MINILM,
}
"""By model and optimizer: l, and the classifier's rate."""
FIXED = {"schedule": "constant", "max_grad_norm": 0.0}
DESK = {
    "all-MiniLM-L6-v2": {"batch_size": 32, "max_steps": 267},
    "SmolLM2-135M": {"batch_size": 16, "max_steps": 250, "precision": "bf16"},
}


def base_rate(run: Setting) -> float:
    """The rate l of a run's model and optimizer; the run's own is l or η·l."""
    return RATES[run.model][run.optimizer][0]


def arms(optimizer: str, rate: float) -> Iterator[dict[str, object]]:
    """The arms under an optimizer, at their rates. The learning rate is l or η·l."""
    yield {"arm": "lora", "learning_rate": rate}
    yield {"arm": "lora", "learning_rate": ETA * rate}
    yield {"arm": "allora", "eta2": ETA2, "learning_rate": rate}
    if optimizer == "adamw":
        yield {"arm": "allora_adamw", "eta2": ETA2, "learning_rate": rate}
    yield {"arm": "allora_od", "eta2": ETA2, "learning_rate": rate}


def runs(model: str, data: str, seeds: int, **shared: Any) -> Iterator[Setting]:
    """The runs on one model and data set: every arm before the second seed."""
    for seed in range(seeds):
        for optimizer, (rate, head) in RATES[model].items():
            own = {"optimizer": optimizer, "head_learning_rate": head, "seed": seed} | FIXED | shared
            yield from (Setting(model=model, data=data, **arm, **own) for arm in arms(optimizer, rate))


PRESETS = {
    "desk": [one for model, shared in DESK.items() for one in runs(model, "rotten_tomatoes", 3, **shared)],
    "paper": [*runs("Snowflake-Arctic-XS", "rotten_tomatoes", 5, epochs=2)],
}
