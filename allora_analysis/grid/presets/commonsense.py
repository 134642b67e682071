"""Table 1: the runs of `experiments.commonsense`, which states the question and the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from allora_analysis.finetune.setting import Setting

DROP_RATE = 0.05
MODELS = ("LLaMA-7B", "LLaMA2-7B", "LLaMA3-8B")
RANKS = (16, 32)
SEEDS = 3
TASK = {"task": "multiple_choice", "batch_size": 16, "max_length": 256}
PAPER_RATE, PAPER = 1e-4, {"epochs": 3, "warmup_steps": 100, "precision": "bf16"}


def _arm(arm: str, rate: float, eta2: float | None, **fields: Any) -> Setting:
    # No head is trained: its rate is the adapters', as `setting.check` asks.
    drop_rate = 0.0 if arm == "allora_0" else DROP_RATE
    return Setting(
        arm=arm, learning_rate=rate, head_learning_rate=rate, eta2=eta2, drop_rate=drop_rate, **(TASK | fields)
    )


def paper() -> Iterator[Setting]:
    """Table 1's own: DoRA at both its rates, ALLoRA with and without dropout at each η²."""
    for model in MODELS:
        for rank in RANKS:
            for seed in range(SEEDS):
                own = {"model": model, "data": "commonsense", "rank": rank, "seed": seed} | PAPER
                yield from (_arm("dora", factor * PAPER_RATE, None, **own) for factor in (1, 2))
                yield from (
                    _arm(arm, PAPER_RATE, eta2, **own) for arm in ("allora", "allora_0") for eta2 in (1.0, 2.0, 4.0)
                )


PRESETS = {"paper": [*paper()]}
