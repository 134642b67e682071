"""Table 2 and Figure 2, left: the runs of `experiments.dropout_rates`, which states the question and the test."""

from __future__ import annotations

from collections.abc import Iterator

from allora_analysis.finetune.setting import Setting

DROP_RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
BOTTLENECK = (0.1, 0.4)


def runs(model: str, data: str, seeds: int, epochs: int, precision: str) -> Iterator[Setting]:
    """The runs: every drop rate at the input before the second seed, the bottleneck's last."""
    rates_of = {"learning_rate": 3e-4, "head_learning_rate": 1e-3, "schedule": "constant"}
    shared = rates_of | {"epochs": epochs, "precision": precision}
    for placement, rates in (("input", DROP_RATES), ("bottleneck", BOTTLENECK)):
        for seed in range(seeds):
            for rate in rates:
                yield Setting(
                    model=model, data=data, arm="lora", drop_rate=rate, placement=placement, seed=seed, **shared
                )


PRESETS = {
    "desk": [*runs("all-MiniLM-L6-v2", "rotten_tomatoes", 3, 8, "bf16")],
    "paper": [*runs("Qwen2-0.5B", "bias_in_bios", 5, 10, "fp32")],
}
AT_INPUT = [one for one in PRESETS["desk"] if one.placement == "input"]  # what Figure 2 and its row are about
