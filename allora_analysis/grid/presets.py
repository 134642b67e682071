"""The lists of runs of the fine-tuning experiments, `LISTS`; `experiments/` states the question and the test of each.

The command that runs them, the ledger's rows and the figures read the same lists. In the paper's order: Table 1, Table
2 with Figure 2 left, Figure 2 right, Table 3 with Figure 3, Table 4 with Figure 4; then our own, over learning rates.
Checked by `tests/test_experiments_finetune.py` and `tests/test_experiments_own_best_rate.py`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from allora_analysis.finetune.setting import WITH_ETA, Setting
from allora_analysis.finetune.sources import in_command
from allora_analysis.grid.reading import paired_differences, recorded
from allora_analysis.statistics.e_values import CAP, THRESHOLD, Sequential, decide
from allora_analysis.statistics.paired import TIE

KINDS = ("model", "data", "optimizer", "arm")  # whose names `--only` takes
MINILM, SMOLLM2, FILMS = "all-MiniLM-L6-v2", "SmolLM2-135M", "rotten_tomatoes"
RATE, DROP_RATE, ETA2S = 1e-4, 0.05, (1.0, 2.0, 4.0)  # of Tables 1, 3 and 4
ETA2 = 4.0  # of all others
ETA = ETA2**0.5

# Table 1.
COMMONSENSE = {"data": "commonsense", "task": "multiple_choice", "batch_size": 16, "max_length": 256}
COMMONSENSE |= {"epochs": 3, "warmup_steps": 100, "precision": "bf16"}


def _commonsense(model: str, rank: int, seed: int) -> Iterator[Setting]:
    # DoRA at both its rates, ALLoRA with and without dropout at each η². No head is trained: its rate is the adapters'.
    arms = [("dora", factor * RATE, None) for factor in (1, 2)]
    arms += [(arm, RATE, eta2) for arm in ("allora", "allora_0") for eta2 in ETA2S]
    for arm, rate, eta2 in arms:
        rates = {
            "learning_rate": rate,
            "head_learning_rate": rate,
            "drop_rate": 0.0 if arm == "allora_0" else DROP_RATE,
        }
        yield Setting(model=model, arm=arm, eta2=eta2, rank=rank, seed=seed, **rates, **COMMONSENSE)


# Table 2 and Figure 2, left.
DROP_RATES = (0.0, 0.05, 0.1, 0.2, 0.4)


def _dropout_rates(model: str, data: str, seeds: int, epochs: int, precision: str) -> Iterator[Setting]:
    # Every drop rate at the input before the second seed, the bottleneck's last.
    shared = {"learning_rate": 3e-4, "head_learning_rate": 1e-3, "schedule": "constant"}
    shared |= {"epochs": epochs, "precision": precision}
    for placement, rates in (("input", DROP_RATES), ("bottleneck", (0.1, 0.4))):
        for seed in range(seeds):
            for rate in rates:
                yield Setting(model, data, "lora", drop_rate=rate, placement=placement, seed=seed, **shared)


# The same where LoRA's dropout is the only one: none, then the highest at either place.
ALONE = (("input", 0.0), ("input", max(DROP_RATES)), ("bottleneck", max(DROP_RATES)))
ALONE_SEEDS, ALONE_EPOCHS = range(3, 11), 4
EARLY_SEEDS = range(120, 136)  # of one epoch


def _dropout_alone(seeds: Iterable[int], epochs: int) -> Iterator[Setting]:
    # All three arms before the second seed.
    shared = {"learning_rate": 1e-3, "head_learning_rate": 1e-3, "schedule": "constant", "own_dropout": False}
    shared |= {"epochs": epochs, "precision": "bf16"}
    for seed in seeds:
        for placement, rate in ALONE:
            yield Setting(MINILM, FILMS, "lora", drop_rate=rate, placement=placement, seed=seed, **shared)


# Figure 2, right.
ROW_NORM_RATES = {
    MINILM: {"adamw": (1e-4, 1e-3), "sgd": (0.5, 0.1)},
    SMOLLM2: {"adamw": (1e-4, 1e-3), "sgd": (0.1, 1e-3)},
    "Snowflake-Arctic-XS": {"adamw": (1e-4, 1e-3), "sgd": (0.5, 0.1)},
}
"""By model and optimizer: l, and the classifier's rate."""
ROW_NORM_DESK = {
    MINILM: {"batch_size": 32, "max_steps": 267},
    SMOLLM2: {"batch_size": 16, "max_steps": 250, "precision": "bf16"},
}


def base_rate(run: Setting) -> float:
    """The rate l of a run's model and optimizer in the list `row_norms`; the run's own is l or η·l."""
    return ROW_NORM_RATES[run.model][run.optimizer][0]


def _row_norms(model: str, seeds: Iterable[int], **shared: Any) -> Iterator[Setting]:
    # Every arm before the second seed, LoRA at l and at η·l.
    for seed in seeds:
        for optimizer, (rate, head) in ROW_NORM_RATES[model].items():
            adam = ["allora_adamw"] if optimizer == "adamw" else []
            rates = [("lora", rate), ("lora", ETA * rate), *((arm, rate) for arm in ("allora", *adam, "allora_od"))]
            own = {"optimizer": optimizer, "head_learning_rate": head, "seed": seed}
            own |= {"schedule": "constant", "max_grad_norm": 0.0} | shared
            for arm, own_rate in rates:
                yield Setting(model, FILMS, arm, eta2=ETA2 if arm in WITH_ETA else None, learning_rate=own_rate, **own)


# How long ηBA ends beside W*: of the same runs LoRA at η·l under AdamW, the paper's highest rate, on other seeds.
INDUCED_SEEDS = range(3, 6)


def _induced_norms() -> Iterator[Setting]:
    for model, shared in ROW_NORM_DESK.items():
        runs = _row_norms(model, INDUCED_SEEDS, **shared)
        yield from (one for one in runs if (one.arm, one.optimizer, one.learning_rate) == ("lora", "adamw", ETA * RATE))


# Table 3 and Figure 3.
PERCEPTION = {
    "Qwen2-0.5B": ("bias_in_bios", "emotion", FILMS),
    "Snowflake-Arctic-L": ("emotion", FILMS, "yelp"),
    "OpenELM-450M": ("emotion", FILMS, "yelp"),
}
"""The paper's data sets by model."""


def _perception(model: str, data: str, seeds: int, precision: str = "fp32") -> Iterator[Setting]:
    # Every arm and η² before the second seed. At η² = 1 the two LoRA arms are one.
    for seed in range(seeds):
        for eta2 in ETA2S:
            fast = {"learning_rate": eta2**0.5 * RATE}
            arms: list[dict[str, Any]] = [
                {"arm": "allora", "eta2": eta2, "drop_rate": DROP_RATE},
                {"arm": "lora", **fast, "head_learning_rate": fast["learning_rate"], "drop_rate": DROP_RATE},
                {"arm": "allora_0", "eta2": eta2},
                {"arm": "lora", **fast, "drop_rate": DROP_RATE},
            ]
            shared = {"learning_rate": RATE, "head_learning_rate": RATE, "epochs": 2, "precision": precision}
            for arm in arms[: 3 if eta2 == 1 else 4]:
                yield Setting(model=model, data=data, seed=seed, **(shared | arm))


# Table 4 and Figure 4.
ABLATION_ARMS = ("allora_od", "asf_lora", "lora_x_eta")
ABLATION_DATA = (FILMS, "emotion")


def _ablation(model: str, data: str, seeds: int, precision: str = "fp32") -> Iterator[Setting]:
    # Every arm and η² before the second seed.
    shared = {"learning_rate": RATE, "head_learning_rate": RATE, "drop_rate": DROP_RATE}
    shared |= {"epochs": 2, "precision": precision}
    for seed in range(seeds):
        for eta2 in ETA2S:
            for arm in ABLATION_ARMS:
                if arm != "lora_x_eta" or eta2 != 1:
                    yield Setting(model, data, arm, eta2=eta2, seed=seed, **shared)


# Both tables with ALLoRA's factor on AdamW's update.
UPDATE_SEEDS = 5


def _on_the_update() -> Iterator[Setting]:
    # ALLoRAAdamW and LoRA at η·l, the classifier at l, seed by seed; then the rest of the family, as it is recorded.
    for one in _perception(MINILM, FILMS, UPDATE_SEEDS, "bf16"):
        if one.arm == "allora":
            yield dataclasses.replace(one, arm="allora_adamw")
        elif one.arm == "lora" and one.head_learning_rate == RATE:
            yield one
    yield from _ablation(MINILM, FILMS, 3, "bf16")


# Every arm over a range of learning rates.
SWEPT_ARMS = {
    "adamw": ("lora", "allora_0", "allora_adamw", "dora", "loraplus", "asf_lora"),
    "sgd": ("lora", "allora_0"),
}
SWEPT_RATES = {"adamw": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "sgd": (0.03, 0.1, 0.3, 1.0, 3.0)}
HEAD_RATES = {"adamw": 1e-3, "sgd": 0.1}
# Added past the range's end, as `experiments.learning_rates` says: the rates, the arms.
SWEPT_BEYOND = {"adamw": ((1e-2,), ("lora", "allora_0", "dora")), "sgd": ((10.0,), ("lora", "allora_0"))}
ON_MINILM = {"batch_size": 32, "epochs": 1, "precision": "bf16"}
ON_SMOLLM2 = {"batch_size": 16, "max_steps": 250, "precision": "bf16"}


def _at_rate(model: str, data: str, arm: str, optimizer: str, rate: float, seed: int, **shared: Any) -> Setting:
    own = {"eta2": ETA2 if arm in WITH_ETA else None, "optimizer": optimizer, "learning_rate": rate, "seed": seed}
    return Setting(model, data, arm, head_learning_rate=HEAD_RATES[optimizer], **own, **shared)


def _over_rates(
    model: str, data: str, seeds: int, optimizer: str, arms: Iterable[str], rates: Iterable[float], **shared: Any
) -> Iterator[Setting]:
    # All rates and arms before the second seed.
    for seed in range(seeds):
        for arm in arms:
            yield from (_at_rate(model, data, arm, optimizer, rate, seed, **shared) for rate in rates)


def _learning_rates() -> Iterator[Setting]:
    for optimizer, arms in SWEPT_ARMS.items():
        rates, further = SWEPT_BEYOND[optimizer]
        yield from _over_rates(MINILM, FILMS, 3, optimizer, arms, SWEPT_RATES[optimizer], **ON_MINILM)
        yield from _over_rates(MINILM, FILMS, 3, optimizer, further, rates, **ON_MINILM)
    yield from _over_rates(SMOLLM2, FILMS, 3, "adamw", SWEPT_ARMS["adamw"][:3], SWEPT_RATES["adamw"], **ON_SMOLLM2)


# Both tables under SGD with nothing clipped; first what chooses the rate.
UNCLIPPED_TRIED, UNCLIPPED_CHOSE = (0.125, 0.25, 0.5, 1.0, 2.0), (200, 201)  # rates; seeds
UNCLIPPED_BEYOND = 4.0  # tried of LoRA alone
UNCLIPPED_RATE = 1.0  # half of LoRA's best
UNCLIPPED_SEEDS, FAMILY_SEEDS = range(210, 222), range(210, 213)  # of ALLoRA and LoRA; of the others
# The second lot, at half of these rates: of ALLoRA and LoRA; of the others.
HALF_SEEDS, HALF_FAMILY_SEEDS = range(230, 250), range(230, 236)


def _unclipped(arm: str, rate: float, seed: int) -> Setting:
    return _at_rate(MINILM, FILMS, arm, "sgd", rate, seed, **ON_MINILM, max_grad_norm=0.0)


def _unclipped_trials() -> Iterator[Setting]:
    for seed in UNCLIPPED_CHOSE:
        for rate in UNCLIPPED_TRIED:
            yield from (_unclipped(arm, rate, seed) for arm in ("lora", "allora"))
    for seed in UNCLIPPED_CHOSE:
        yield _unclipped("lora", UNCLIPPED_BEYOND, seed)


def _unclipped_tables() -> Iterator[Setting]:
    # LoRA at η·l and ALLoRA at l; on the first seeds the rest of the family, and the same without LoRA at half of l.
    for seed in UNCLIPPED_SEEDS:
        yield _unclipped("lora", ETA * UNCLIPPED_RATE, seed)
        yield _unclipped("allora", UNCLIPPED_RATE, seed)
        if seed in FAMILY_SEEDS:
            yield from (_unclipped(arm, UNCLIPPED_RATE, seed) for arm in ABLATION_ARMS)
            yield from (_unclipped(arm, UNCLIPPED_RATE / 2, seed) for arm in ("allora", *ABLATION_ARMS))


def _unclipped_at_half() -> Iterator[Setting]:
    # LoRA and ALLoRA at half of their rates; on the first seeds the rest of the family, and ALLoRA at its whole one.
    for seed in HALF_SEEDS:
        yield _unclipped("lora", ETA * UNCLIPPED_RATE / 2, seed)
        yield _unclipped("allora", UNCLIPPED_RATE / 2, seed)
        if seed in HALF_FAMILY_SEEDS:
            yield from (_unclipped(arm, UNCLIPPED_RATE / 2, seed) for arm in ABLATION_ARMS)
            yield _unclipped("allora", UNCLIPPED_RATE, seed)


UNCLIPPED, UNCLIPPED_HALF = [*_unclipped_tables()], [*_unclipped_at_half()]
"""What judges, the first lot and the second; the rest of the list chose the rate."""


# Each arm at its own best rate, seed after seed, until it is decided.
FIRST_SEED = 3  # seeds 0, 1 and 2 chose the rates
BLOCK = 8  # fewer pairs cannot decide
REFERENCE = "lora"
MARGINS = {"test_accuracy": 0.003, "test_loss": 0.004}
"""By endpoint, the first of which decides when the runs stop: the margin of equivalence."""


class OwnBest(NamedTuple):
    """One question: model, optimizer, what its runs share, and each arm's frozen rate, the arm asked about first.

    `chosen`: validation chose the rates; or else LoRA's is the one at which the arm asked about starts.
    """

    model: str
    optimizer: str
    shared: dict[str, Any]
    rates: dict[str, float]
    chosen: bool = True

    @property
    def compared(self) -> list[str]:
        """The arms that are compared with LoRA."""
        return [arm for arm in self.rates if arm != REFERENCE]

    def threshold(self, arm: str, endpoint: str = "test_accuracy") -> float:
        """The e-value that decides: 20 for its first arm's accuracy; 20 times the comparisons for those beside it."""
        if arm == self.compared[0] and endpoint == next(iter(MARGINS)):
            return THRESHOLD
        return THRESHOLD * len(self.compared) * len(MARGINS)


OWN_BEST = {
    "minilm-adamw": OwnBest(MINILM, "adamw", ON_MINILM, {"allora_0": 1e-3, "allora_adamw": 1e-3, "lora": 1e-3}),
    "minilm-sgd": OwnBest(MINILM, "sgd", ON_MINILM, {"allora_0": 1.0, "lora": 3.0}),
    "smollm2-adamw": OwnBest(SMOLLM2, "adamw", ON_SMOLLM2, {"allora_0": 1e-3, "lora": 1e-3}),
    "minilm-control": OwnBest(MINILM, "adamw", ON_MINILM, {"allora_adamw": 1e-3, REFERENCE: ETA * 1e-3}, False),
    "minilm-sgd-control": OwnBest(MINILM, "sgd", ON_MINILM, {"allora_0": 1.0, REFERENCE: ETA * 1.0}, False),
}


def _own_best(name: str, arm: str, seed: int) -> Setting:
    of = OWN_BEST[name]
    return _at_rate(of.model, FILMS, arm, of.optimizer, of.rates[arm], seed, **of.shared)


def blocks() -> list[tuple[str, list[Setting]]]:
    """The runs of `own_best_rate` in their order; its questions take turns of `BLOCK` seeds."""
    return [
        (name, [_own_best(name, arm, seed) for arm in of.rates])
        for start in range(FIRST_SEED, FIRST_SEED + CAP, BLOCK)
        for name, of in OWN_BEST.items()
        for seed in range(start, min(start + BLOCK, FIRST_SEED + CAP))
    ]


def own_best_pairs(name: str, arm: str) -> list[tuple[Setting, Setting]]:
    """An arm's run and LoRA's for a question of `OWN_BEST`, seed by seed, up to the cap."""
    seeds = range(FIRST_SEED, FIRST_SEED + CAP)
    return [(_own_best(name, arm, seed), _own_best(name, REFERENCE, seed)) for seed in seeds]


OWN_BEST_FRESH, OWN_BEST_ONCE_MORE = (
    [(_own_best("minilm-adamw", "allora_0", seed), _own_best("minilm-adamw", REFERENCE, seed)) for seed in seeds]
    for seeds in (range(63, 83), range(83, 113))
)
"""Of `own_best_fresh`, whose numbers are fixed, ALLoRA-0's run and LoRA's, seed by seed: twenty, and then thirty."""


def own_best_verdicts(
    name: str, endpoint: str = "test_accuracy", folder: Path | str | None = None
) -> dict[str, tuple[list[float], Sequential]]:
    """By arm, the differences arm − LoRA of a question's recorded seeds, at an endpoint of `MARGINS`, and the decision
    at `OwnBest.threshold`; arms without a pair are left out. The folder need not exist; None is the repository's own.
    """
    of = OWN_BEST[name]
    pairs = {arm: own_best_pairs(name, arm) for arm in of.compared}
    runs = recorded([one for both in pairs.values() for pair in both for one in pair], folder)
    found = {arm: paired_differences(runs, both, endpoint) for arm, both in pairs.items()}
    rule = functools.partial(decide, margin=MARGINS[endpoint], grain=TIE)
    return {arm: (seen, rule(seen, threshold=of.threshold(arm, endpoint))) for arm, seen in found.items() if seen}


def own_best_decided(name: str, folder: Path | str | None = None) -> bool:
    """Whether a question's runs stop: all its arms are decided on accuracy, or all 60 seeds are spent. No run of it is
    then wanted any more.
    """
    found = own_best_verdicts(name, folder=folder)
    ends = [one for _, one in found.values()]
    return found.keys() == {*OWN_BEST[name].compared} and all(one.verdict != "open" or one.at_cap for one in ends)


LISTS: dict[str, dict[str, list[Setting]]] = {
    "commonsense": {
        "paper": [
            one
            for model in ("LLaMA-7B", "LLaMA2-7B", "LLaMA3-8B")
            for rank in (16, 32)
            for seed in range(3)
            for one in _commonsense(model, rank, seed)
        ]
    },
    "dropout_rates": {
        "desk": [*_dropout_rates(MINILM, FILMS, 3, 8, "bf16")],
        "paper": [*_dropout_rates("Qwen2-0.5B", "bias_in_bios", 5, 10, "fp32")],
    },
    "dropout_alone": {
        "desk": [*_dropout_alone(ALONE_SEEDS, ALONE_EPOCHS)],
    },
    "dropout_early": {
        "desk": [*_dropout_alone(EARLY_SEEDS, 1)],
    },
    "row_norms": {
        "desk": [one for model, shared in ROW_NORM_DESK.items() for one in _row_norms(model, range(3), **shared)],
        "paper": [*_row_norms("Snowflake-Arctic-XS", range(5), epochs=2)],
    },
    "induced_norms": {"desk": [*_induced_norms()]},
    "perception": {
        "desk": [*_perception(MINILM, FILMS, 3, "bf16")],
        "paper": [one for model, sets in PERCEPTION.items() for data in sets for one in _perception(model, data, 5)],
    },
    "ablation": {
        "desk": [*_ablation(MINILM, FILMS, 3, "bf16")],
        "paper": [one for model in PERCEPTION for data in ABLATION_DATA for one in _ablation(model, data, 5)],
    },
    "on_the_update": {"desk": [*_on_the_update()]},
    "unclipped": {"desk": [*_unclipped_trials(), *UNCLIPPED, *UNCLIPPED_HALF]},
    "learning_rates": {
        "desk": [*_learning_rates()],
        "paper": [
            one
            for data in (FILMS, "emotion")
            for optimizer, arms in SWEPT_ARMS.items()
            for one in _over_rates(
                "Qwen2-0.5B", data, 5, optimizer, arms, SWEPT_RATES[optimizer], batch_size=32, epochs=2
            )
        ],
    },
    "own_best_rate": {"desk": list(dict.fromkeys(one for _, runs in blocks() for one in runs))},
    "own_best_fresh": {"desk": [run for pair in (*OWN_BEST_FRESH, *OWN_BEST_ONCE_MORE) for run in pair]},
}
"""By experiment and preset ("desk" fits a desk, "paper" is of the paper's size), the runs in their order."""
AT_INPUT = [one for one in LISTS["dropout_rates"]["desk"] if one.placement == "input"]
"""What Figure 2, left, and its row are about."""


def command(experiment: str, runs: Iterable[Setting]) -> str:
    """The command line that makes runs, and no others where `--only` can tell them apart."""
    known = list(runs)
    names = dict.fromkeys([*(run.model for run in known), *(run.data for run in known)])
    words = _only(known, LISTS[experiment]["desk"])
    narrowed = f" --only {' '.join(words)}" if words else ""
    return f"python -m experiments.{experiment}{narrowed} --source {' '.join(map(in_command, names))}"


def _only(runs: Iterable[Setting], everything: Iterable[Setting]) -> list[str]:
    # The fewest kinds of names that leave of the whole list as little beside these runs as any would.
    wanted, left, words = set(runs), list(everything), []
    for kind in KINDS:
        names = dict.fromkeys(getattr(run, kind) for run in left if run in wanted)
        fewer = [run for run in left if getattr(run, kind) in names]
        if len(left) > len(wanted) and len(fewer) < len(left):
            left, words = fewer, [*words, *names]
    return words
