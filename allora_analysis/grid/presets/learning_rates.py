"""Every arm over a range of learning rates: the runs of `experiments.learning_rates`, which states the test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from allora_analysis.finetune.setting import WITH_ETA, Setting

ETA2 = 4.0
RATES = {"adamw": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "sgd": (0.03, 0.1, 0.3, 1.0, 3.0)}
HEAD_RATES = {"adamw": 1e-3, "sgd": 0.1}
ARMS = {"adamw": ("lora", "allora_0", "allora_adamw", "dora", "loraplus", "asf_lora"), "sgd": ("lora", "allora_0")}
# Added past the range's end, as `experiments.learning_rates` says: the rates, the arms.
BEYOND = {"adamw": ((1e-2,), ("lora", "allora_0", "dora")), "sgd": ((10.0,), ("lora", "allora_0"))}


def runs(
    model: str, data: str, seeds: int, optimizer: str, arms: Iterable[str], rates: Iterable[float], **shared: Any
) -> Iterator[Setting]:
    """The runs on one model and data set under one optimizer: all rates and arms before the second seed."""
    for seed in range(seeds):
        for arm in arms:
            for rate in rates:
                yield Setting(
                    model=model,
                    data=data,
                    arm=arm,
                    eta2=ETA2 if arm in WITH_ETA else None,
                    optimizer=optimizer,
                    learning_rate=rate,
                    head_learning_rate=HEAD_RATES[optimizer],
                    seed=seed,
                    **shared,
                )


def _desk() -> Iterator[Setting]:
    shared = {"epochs": 1, "precision": "bf16"}
    fewer = {"max_steps": 250, "precision": "bf16"}
    mini, small = ("all-MiniLM-L6-v2", "rotten_tomatoes", 3), ("SmolLM2-135M", "rotten_tomatoes", 3)
    for optimizer, arms in ARMS.items():
        rates, further = BEYOND[optimizer]
        yield from runs(*mini, optimizer, arms, RATES[optimizer], batch_size=32, **shared)
        yield from runs(*mini, optimizer, further, rates, batch_size=32, **shared)
    yield from runs(*small, "adamw", ARMS["adamw"][:3], RATES["adamw"], batch_size=16, **fewer)


def _paper() -> Iterator[Setting]:
    for data in ("rotten_tomatoes", "emotion"):
        for optimizer, arms in ARMS.items():
            yield from runs("Qwen2-0.5B", data, 5, optimizer, arms, RATES[optimizer], batch_size=32, epochs=2)


PRESETS = {"desk": [*_desk()], "paper": [*_paper()]}
