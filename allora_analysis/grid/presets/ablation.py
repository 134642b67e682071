"""Table 4 and Figure 4: the runs of `experiments.ablation`, which states the question and the test."""

from __future__ import annotations

from collections.abc import Iterator

from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets.perception import DROP_RATE, ETA2, RATE

ARMS = ("allora_od", "asf_lora", "lora_x_eta")
PAPER = ("Qwen2-0.5B", "Snowflake-Arctic-L", "OpenELM-450M")
DATA = ("rotten_tomatoes", "emotion")


def runs(model: str, data: str, seeds: int, precision: str = "fp32") -> Iterator[Setting]:
    """The runs on one model and data set: every arm and η² before the second seed."""
    rates = {"learning_rate": RATE, "head_learning_rate": RATE, "drop_rate": DROP_RATE}
    shared = rates | {"epochs": 2, "precision": precision}
    for seed in range(seeds):
        for eta2 in ETA2:
            for arm in ARMS:
                if arm != "lora_x_eta" or eta2 != 1:
                    yield Setting(model=model, data=data, arm=arm, eta2=eta2, seed=seed, **shared)


PRESETS = {
    "desk": [*runs("all-MiniLM-L6-v2", "rotten_tomatoes", 3, "bf16")],
    "paper": [one for model in PAPER for data in DATA for one in runs(model, data, 5)],
}
