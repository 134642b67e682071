"""Table 3 and Figure 3: the runs of `experiments.perception`, which states the question and the test."""

from __future__ import annotations

from collections.abc import Iterator

from allora_analysis.finetune.setting import Setting

RATE = 1e-4
DROP_RATE = 0.05
ETA2 = (1.0, 2.0, 4.0)
PAPER = {
    "Qwen2-0.5B": ("bias_in_bios", "emotion", "rotten_tomatoes"),
    "Snowflake-Arctic-L": ("emotion", "rotten_tomatoes", "yelp"),
    "OpenELM-450M": ("emotion", "rotten_tomatoes", "yelp"),
}


def arms(eta2: float) -> Iterator[dict[str, object]]:
    """The arms at one η². At η² = 1 the two LoRA arms are one."""
    yield {"arm": "allora", "eta2": eta2, "drop_rate": DROP_RATE}
    fast = eta2**0.5 * RATE
    yield {"arm": "lora", "learning_rate": fast, "head_learning_rate": fast, "drop_rate": DROP_RATE}
    yield {"arm": "allora_0", "eta2": eta2}
    if eta2 != 1:
        yield {"arm": "lora", "learning_rate": fast, "drop_rate": DROP_RATE}


def runs(model: str, data: str, seeds: int, precision: str = "fp32") -> Iterator[Setting]:
    """The runs on one model and data set: every arm and η² before the second seed."""
    shared = {"learning_rate": RATE, "head_learning_rate": RATE, "epochs": 2, "precision": precision}
    for seed in range(seeds):
        for eta2 in ETA2:
            yield from (Setting(model=model, data=data, seed=seed, **(shared | arm)) for arm in arms(eta2))


PRESETS = {
    "desk": [*runs("all-MiniLM-L6-v2", "rotten_tomatoes", 3, "bf16")],
    "paper": [one for model, sets in PAPER.items() for data in sets for one in runs(model, data, 5)],
}
