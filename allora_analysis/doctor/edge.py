"""The largest stable learning rate of a pretrained classifier with LoRA, from the curvature of one batch; recorded
learning-rate curves, where they end, and what was predicted for each.

`hessian.stable_rate` on A and B of all linear layers, or of those that are named, at the start (SGD) or after a few
steps at a given rate (Adam needs second moments). The classifier has a rate of its own, so that rate has an edge of its
own: beyond it the whole optimizer is unstable, since λ_max of D^½HD^½ is at least that of its block, and no rate of A
and B helps.
`experiments.stable_rates` states the question and the test on recorded curves. Checked by `tests/test_doctor_edge.py`
and `tests/test_doctor_curves.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis import records
from allora_analysis.adaptive.recipe import Recipe, checked
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.reading import every, final_value
from allora_analysis.study import Table
from allora_analysis.validation import ArgumentError, count, positive

STUDY, PROTOCOL = "stable_rates", 3
RESULTS = records.results_folder(STUDY)
FACTOR = 2.0
LEAST_RATES = 2
SEEDS = (0, 1, 2)  # of the recorded curves, by the protocol


@dataclass(frozen=True)
class Edge:
    """What was found.

    Attributes:
        rate: the largest stable learning rate, A's.
        curvature: λ_max over A's rate in the trial: of the Hessian (SGD), of the preconditioned one (Adam), times
            `clipped`.
        threshold: the optimizer's.
        products: with the Hessian.
        loss: of the batch.
        steps: made before.
        head_rate: the classifier's largest stable rate, by the same rule on it alone; None: it is not trained.
        clipped: what clipping leaves of the batch's gradient, and so of its slope; 1: all.
    """

    rate: float
    curvature: float
    threshold: float
    products: int
    loss: float
    steps: int
    head_rate: float | None = None
    clipped: float = 1.0


def edge(
    source: str,
    data: str,
    recipe: Recipe,
    *,
    steps: int = 0,
    batch_size: int = 32,
    head_lr: float | None = None,
    clip: float = 1.0,
    seed: int = 0,
    layers: Sequence[str] | None = None,
) -> Edge:
    """Load, adapt all linear layers or `layers` (B = 0), make the trial steps, measure on one batch of the same size.

    The recipe's rates, optimizer, ε and decay are those of the trial; Adam needs a step or more. `head_lr` is the
    classifier's rate there (None: the same), `clip` of its gradient's norm (0: none); `seed` is of A, the classifier
    and the sentences. Refuses a start from A = 0 and what `finetune.models.load` and `finetune.data.load` refuse.
    """
    import torch

    from allora_analysis.hessian.empirical_risk import evaluating
    from allora_analysis.hessian.stable_rate import largest_stable_rate
    from allora_analysis.lora.pairs import lora_pairs

    steps, adam = count("--trial-steps", steps, 0), checked(recipe).optimizer != "sgd"
    if recipe.zero == "a":
        raise ArgumentError(
            "--zero a: the largest stable rate is measured from B = 0 alone; leave --zero or --data out"
        )
    if adam and not steps:
        raise ArgumentError("--trial-steps must be 1 or more for Adam, whose second moments it needs, received 0")
    setting = Setting(
        source, data, "lora", "adamw" if adam else "sgd", recipe.lr, recipe.lr if head_lr is None else head_lr,
        rank=recipe.r, batch_size=count("--batch-size", batch_size), seed=count("--seed", seed, 0),
    )  # fmt: skip
    model, optimizer, loss = _prepared(setting, recipe, steps, layers)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    clip = positive("--max-grad-norm", clip) if clip else 0.0
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
    adapters = [part for pair in lora_pairs(model) for part in (pair.a, pair.b)]
    head = [parameter for parameter in trained if all(parameter is not part for part in adapters)]
    options = {"seed": seed, "clip": clip}
    try:
        with evaluating(model):
            found = largest_stable_rate(adapters, optimizer, lambda: loss(steps), **options)
            of_head = largest_stable_rate(head, optimizer, lambda: loss(steps), **options).multiple if head else None
    except ArgumentError as error:
        why = f"--lr {recipe.lr:g}: too large, if its {steps} steps have led here: " if steps else ""
        raise ArgumentError(why + str(error)) from None
    rate, curvature = recipe.lr * found.multiple, found.curvature / recipe.lr
    head_rate = None if of_head is None else setting.head_learning_rate * of_head
    return Edge(rate, curvature, found.threshold, found.products, found.loss, steps, head_rate, found.clipped)


def _prepared(
    setting: Setting, recipe: Recipe, steps: int, layers: Sequence[str] | None = None
) -> tuple[Any, Any, Callable[[int], Any]]:
    # The model with its adapters, without dropout, its optimizer, and the loss of the batch of a step.
    import torch

    from allora_analysis.finetune import arms, models
    from allora_analysis.finetune import data as texts
    from allora_analysis.lora.pairs import lora_pairs

    read, size = texts.load(setting.data), setting.batch_size
    if read.classes is None:
        raise ArgumentError(f"data {read.name!r}: is multiple choice; sentences with a label are wanted")
    split = read.splits["train"]
    if len(split) < size * (steps + 1):
        raise ArgumentError(
            f"--trial-steps: {steps + 1} batches of {size} want more than the {len(split)} rows of the data"
        )
    torch.manual_seed(setting.seed)
    pretrained = models.load(setting.model, read.classes, attention="eager")
    there, prefix = dict(pretrained.model.named_modules()), f"{pretrained.model.base_model_prefix}."
    # An adapter of the model without a head names layers without the prefix.
    layers = layers and [prefix + name if prefix + name in there else name for name in layers]
    if lacking := [name for name in layers or () if not isinstance(there.get(name), torch.nn.Linear)]:
        raise ArgumentError(
            f"--model {setting.model!r}: has no linear layer {lacking[0]!r}, which ADAPTER adapts; "
            "give the base model that it was trained on, or leave ADAPTER out for adapters on all linear layers"
        )
    model = arms.adapt(pretrained.model, setting, "all-linear" if layers is None else layers).eval()
    for pair in lora_pairs(model):
        pair.module.scaling[pair.adapter] = recipe.scaling
    order = torch.randperm(len(split)).tolist()

    def loss(step: int) -> Any:
        drawn = order[step * size : (step + 1) * size]
        texts_drawn, labels = [split.texts[i] for i in drawn], torch.tensor([split.labels[i] for i in drawn])
        cut = {"padding": True, "truncation": True, "max_length": setting.max_length}
        inputs = pretrained.tokenizer(texts_drawn, return_tensors="pt", **cut)
        return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)

    return model, _optimizer(model, recipe, setting.head_learning_rate), loss


def _optimizer(model: Any, recipe: Recipe, head_lr: float) -> Any:
    # A, B and the classifier, each at its own rate; only A and B decay.
    import torch

    from allora_analysis.finetune import arms
    from allora_analysis.lora.pairs import lora_pairs

    pairs, own = lora_pairs(model), recipe.setting
    groups = [
        {"params": [pair.a for pair in pairs], "lr": own.rate_a, "weight_decay": own.decay_a},
        {"params": [pair.b for pair in pairs], "lr": own.rate_b, "weight_decay": own.decay_b},
    ]
    if head := arms.split(model)[1]:
        groups.append({"params": head, "lr": head_lr, "weight_decay": 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, eps=recipe.eps)


@dataclass(frozen=True)
class Trial:
    """A prediction in full: the trial steps at `rate`, the classifier's at `head_rate`, clipped at `clip` (0: none),
    then the curvature of one batch.

    Model and data as records call them; r = α = `rank`; the seed is of A, the classifier and the sentences.
    """

    model: str
    optimizer: str
    rate: float
    steps: int
    batch_size: int
    head_rate: float
    clip: float
    data: str = "rotten_tomatoes"
    rank: int = 16
    seed: int = 0


TRIALS = tuple(
    Trial(model, optimizer, rate, steps, size, head, clip)
    for model, size in (("all-MiniLM-L6-v2", 32), ("SmolLM2-135M", 8))
    for optimizer, rate, steps, head in (("sgd", 1.0, 0, 0.1), ("adamw", 3e-4, 20, 1e-3))
    for clip in (0.0, 1.0)
)
# How the curvature grows at two rates, as far along.
GROWN = tuple(Trial("all-MiniLM-L6-v2", "sgd", rate, steps, 32, 0.1, 0.0) for rate, steps in ((1.0, 80), (0.5, 160)))


@dataclass(frozen=True)
class Curve:
    """LoRA's test accuracy by learning rate, at one schedule, clipping (0: none) and rate of the classifier.

    By rate, ascending: a seed each. `majority` is the most frequent label's share.
    """

    model: str
    optimizer: str
    schedule: str
    clip: float
    head: float
    accuracies: Mapping[float, tuple[float, ...]]
    majority: float
    data: str = "rotten_tomatoes"
    rank: int = 16
    batch_size: int = 32

    @property
    def edge(self) -> tuple[float, float | None]:
        """The largest rate at which every seed trains (0: none does), and the next one recorded above it, or None."""
        best = max(sum(of) / len(of) for of in self.accuracies.values())
        half = (self.majority + best) / 2
        trains = [rate for rate, of in self.accuracies.items() if min(of) > max(half, self.majority)]
        low = max(trains, default=0.0)
        return low, min((rate for rate in self.accuracies if rate > low), default=None)


def curves(folder: Path | None = None, seeds: Collection[int] | None = SEEDS) -> list[Curve]:
    """LoRA's recorded curves without dropout, by model and optimizer, wherever two rates or more are there, over the
    same seeds at every rate; `seeds` None: all, so that a rate with more of them fails more easily.
    """
    found: dict[tuple, dict[float, dict[int, tuple[int, float]]]] = {}
    majority: dict[tuple, float] = {}

    def wanted(config: Mapping[str, Any]) -> bool:
        plain = (config["arm"], config["drop_rate"]) == ("lora", 0.0) and config["own_dropout"]
        return plain and config["epochs"] <= 2 and (seeds is None or config["seed"] in seeds)

    for record in every(folder, wanted):
        config = record.config
        key = tuple(config[name] for name in _KEY)
        # A rate may be recorded after more steps too: the shorter run counts.
        runs, seed = found.setdefault(key, {}).setdefault(config["learning_rate"], {}), config["seed"]
        one = record.result["steps"], final_value(record.result, "test_accuracy")
        runs[seed] = min(runs.get(seed, one), one)
        majority[key] = record.result["majority_rates"]["test"]
    return [
        Curve(
            *key[:5],
            {rate: tuple(x for _, x in of.values()) for rate, of in sorted(rates.items())},
            majority[key],
            *key[5:],
        )
        for key, rates in sorted(found.items())
        if len(rates) >= LEAST_RATES
    ]


_KEY = (
    "model", "optimizer", "schedule", "max_grad_norm", "head_learning_rate",
    "data", "rank", "batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A prediction beside a curve: the rate, 0 where the classifier's own is beyond its edge; None: not recorded."""

    curve: Curve
    predicted: float | None

    @property
    def hit(self) -> bool | None:
        """Within a factor of 2 of the edge; None without a prediction, or where all there is to miss is kept: low/2."""
        low, high = self.curve.edge
        if self.predicted is None or (high is None and self.predicted >= low / FACTOR):
            return None
        return high is not None and low / FACTOR <= self.predicted <= FACTOR * high


def compared(
    folder: Path | None = None, runs: Path | None = None, seeds: Collection[int] | None = SEEDS
) -> list[Compared]:
    """Every curve with its prediction: `folder` is of the predictions, `runs` of fine-tuning; None: those of this
    repository.
    """
    known = records.results_of(folder or RESULTS, STUDY, PROTOCOL, TRIALS)
    edges = {_setting(one): result for one, result in known.items()}
    return [Compared(curve, _predicted(curve, edges.get(_setting(curve)))) for curve in curves(runs, seeds)]


def grown(folder: Path | None = None) -> dict[Trial, float]:
    """The largest stable rate of each of `GROWN` that is recorded."""
    known = records.results_of(folder or RESULTS, STUDY, PROTOCOL, GROWN)
    return {one: result["rate"] for one, result in known.items()}


def _setting(one: Trial | Curve) -> tuple:
    return (one.model, one.optimizer, one.clip, one.data, one.rank)


def _predicted(curve: Curve, edge: Mapping[str, float] | None) -> float | None:
    if edge is None:
        return None
    head = edge["head_rate"]
    return edge["rate"] if head is None or curve.head <= head else 0.0


def table(found: Sequence[Compared]) -> Table:
    """What `compared` found, as a table."""
    told = [one.hit for one in found if one.hit is not None]
    share = f"{sum(told)} of {len(told)} curves where it can be missed"
    title = f"largest stable rate within a factor of {FACTOR:g} of the edge: {share}"
    columns = ("model", "optimizer", "schedule", "clipping", "head", "trains up to", "no more at", "predicted", "hit")
    return Table(title, columns, [_row(one) for one in found])


def _row(one: Compared) -> tuple[str, ...]:
    curve, (low, high) = one.curve, one.curve.edge
    predicted = "not run" if one.predicted is None else f"{one.predicted:.3g}" if one.predicted else "none"
    hit = {True: "yes", False: "no", None: "–"}[one.hit]
    ends = (f"{low:g}" if low else "none", "beyond the range" if high is None else f"{high:g}")
    clip = f"{curve.clip:g}" if curve.clip else "none"
    return (curve.model, curve.optimizer, curve.schedule, clip, f"{curve.head:g}", *ends, predicted, hit)
