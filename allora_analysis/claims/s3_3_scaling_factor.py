"""§3.3, first paragraph: what the scaling factor η = α/r is for.

One row rests on what the cited authors write, which stands here with its source. The norms ‖W*_i‖ of pretrained models'
linear maps stand in `pretrained_norms.json`, in the layers' names as the fine-tuning records have them, so that ‖ηBA‖
is held against ‖W*‖ without a model at hand: `python -m allora_analysis.claims.s3_3_scaling_factor FOLDER NAME` writes
them. Checked by `tests/test_claims_3_3.py`, which plants other quotations, norms and formulas.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from tyro.conf import Positional, arg

from allora_analysis import adaptive, cli
from allora_analysis.claims.cases import Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, in_part, not_run, ranged
from allora_analysis.claims.s3_2_in_a_and_b import against
from allora_analysis.claims.s3_2_in_v import power_law
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import LISTS
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.outputs import entries, say, write_text
from allora_analysis.study import bound

if TYPE_CHECKING:
    from torch import nn

COMPARABLE = 0.1  # of ‖W*‖, at least
NORMS = Path(__file__).with_name("pretrained_norms.json")


def fine_tuned() -> list[Setting]:
    """Our runs of LoRA under AdamW at the paper's rates, 1e-4 to 2e-4, and with η as a factor of the output."""
    listed = [one for name in ("row_norms", "perception", "ablation") for one in LISTS[name]["desk"]]
    return [
        one
        for one in dict.fromkeys(listed)
        if one.arm in ("lora", "lora_x_eta")
        and one.optimizer == "adamw"
        and 1e-4 <= one.learning_rate <= 2e-4
        and one.data == "rotten_tomatoes"
    ]


def norms_of(model: nn.Module) -> dict[str, dict[str, float]]:
    """The mean and the largest ‖W_i‖ over rows of each linear map and ‖W‖_F/‖W‖₂, to 6 digits, by the map's name."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().double().numpy()
            norms, root = np.linalg.norm(weight, axis=1), np.linalg.norm(weight) / np.linalg.norm(weight, 2)
            values = {"mean": norms.mean(), "max": norms.max(), "root_stable_rank": root}
            found[name] = {key: float(f"{value:.6g}") for key, value in values.items()}
    return found


def weight_norms(model: str) -> dict[str, dict[str, float]]:
    """The committed norms of a model; empty for one that the file does not have."""
    return json.loads(NORMS.read_text(encoding="utf-8")).get(model, {})


level_claim = functools.partial(
    claim,
    where="beyond the paper: §3.3, first paragraph, in two small models",
    says="After fine-tuning two small models, ηBA is at a comparable level with W*.",
    command="python -m experiments.row_norms --model FOLDER --model-name NAME --data FOLDER",
    test="tests/test_claims_3_3.py",
    reads=STUDY,
)


class Induced(NamedTuple):
    """‖ηBA‖₂/‖W*‖₂ after a run, mean over maps: at least, at most, and at most if BA's rows are equally long in all."""

    least: float
    most: float
    equal_rows: float


def in_the_induced_norm(model: str, rank: int, least: float, mean: float, largest: float) -> Induced:
    """Bounds from norms of BA's rows: the least of the maps' means, the mean over maps, the largest of any row.

    ‖BA‖_F/√r ≤ ‖BA‖₂ ≤ ‖BA‖_F; with n₁ rows ‖BA‖_F/√n₁ is between a map's mean row and its largest, ‖W*‖_F/√n₁, too.
    """
    rows, longest, root = np.array(
        [(one["mean"], one["max"], one["root_stable_rank"]) for one in weight_norms(model).values()]
    ).T
    low, high = float((root / longest).mean()), float((root / rows).mean())
    return Induced(low * least / math.sqrt(rank), high * largest, high * mean)


def _by_bounds(bounds: Mapping[str, np.ndarray]) -> str:
    # Of each model the mean over its runs, at least and at most.
    ends = [np.mean(values, axis=0) for values in bounds.values()]
    if any(most < COMPARABLE for _, most in ends):
        return "refuted"
    return "holds" if all(least >= COMPARABLE for least, _ in ends) else "undecided"


@level_claim(
    "3.3-comparable-level-induced",
    reading="On each model ‖ηBA‖ is at least a tenth of ‖W*‖, averaged over maps and runs, in the induced norm. That "
    "was not recorded; recorded norms of rows bound it. A twentieth is open, too; at a fifth one model falls short.",
)
def comparable_in_the_induced_norm(cases: Cases, folder: Path | None) -> Finding:
    """Bounds on ‖ηBA‖₂/‖W*‖₂ after the last step of each recorded run."""
    runs = recorded(fine_tuned(), folder)
    if not runs:
        return not_run(f"0 of {len(fine_tuned())} runs are recorded")
    found = {}
    for one, result in runs.items():
        norms = [result["row_norms"][name][-1] for name in ("least", "mean", "largest")]
        found.setdefault(one.model, []).append(in_the_induced_norm(one.model, one.rank, *norms))
    every = np.array([one for of in found.values() for one in of])
    tested = cases.test({name: [one[:2] for one in of] for name, of in found.items()}, _by_bounds)
    least, most = every[:, 0].min(), every[:, 1].max()
    told = f"between {bound(100 * least, 3, False):g}% and {bound(100 * most, 0, True):g}% of ‖W*‖ by recorded rows"
    return tested.finding(
        undecided=f"Undecided: {told}; the norm itself was not recorded.",
        holds=f"Yes: {told}.",
        refuted=f"No: {told}.",
        evidence=Evidence(
            {"‖ηBA‖/‖W*‖": f"{COMPARABLE:g} or more"},
            {name: dict(zip(Induced._fields, np.mean(of, axis=0).tolist(), strict=True)) for name, of in found.items()},
            f"none: a threshold of {COMPARABLE:g}",
            n=len(runs),
        ),
        size=Size(
            float(np.median(every[:, 2])),
            "of ‖W*‖",
            "‖ηBA‖ after fine-tuning, induced norm, at most if BA's rows are equally long in all maps; median of runs",
            float(least),
            float(most),
            "bounds",
        ),
        wanted="runs that record ‖ηBA‖₂ itself",
        flips_if="bounds that leave out a tenth",
    )


@level_claim(
    "3.3-comparable-level",
    reading="A less kind reading: by rows, which on average have at least a tenth of the norm of W*'s; the verdict is "
    "the same at a fifth and at a twentieth. The paper's is an induced norm, in which a BA of low rank is larger "
    "beside W*: row 3.3-comparable-level-induced.",
)
def comparable_level(cases: Cases, folder: Path | None) -> Finding:
    """Row norms of ηBA after the last step of each recorded run over those of the pretrained weights."""
    runs = recorded(fine_tuned(), folder)
    if not runs:
        return not_run(f"0 of {len(fine_tuned())} runs are recorded")

    def share(one: Setting) -> float:
        rows = np.mean([layer["mean"] for layer in weight_norms(one.model).values()])
        return float(average_norm(runs[one], runs[one]["row_norms"]["step"][-1]) / rows)

    judged = cases.judge([Case(one.words(), one) for one in runs], share, lambda one, seen: seen >= COMPARABLE)
    shares = np.array(judged.measured)
    doubled = _median(judged.pairs, 4.0) / _median(judged.pairs, 1.0)
    part = in_part(len(runs), len(fine_tuned()), "runs")
    models = {1: "one", 2: "two"}.get(number := len({one.model for one in runs}), number)
    return judged.finding(
        refuted=f"Not in {models} small models: ηBA's rows end at {shares.min():.1%} to {shares.max():.1%} of the norm "
        "of W*'s.",
        evidence=judged.evidence(
            f"none: a threshold of {COMPARABLE:g}; {len(runs)} of {len(fine_tuned())} runs recorded, their last step",
            {"‖ηBA‖/‖W*‖": "0.1 or more"},
            more={"η = 2 over η = 1": doubled},
            tolerance=COMPARABLE,
            n=len(runs),
        ),
        size=ranged(shares, "of ‖W*‖", f"‖ηBA‖ after fine-tuning, rows averaged{part}"),
        flips_if="runs at the paper's rates in which the rows of ηBA reach a tenth of W*'s",
    )


def _median(pairs: list, eta2: float) -> float:
    # Of the two arms that differ in η alone, on the model that has both.
    wanted = 1e-4, "lora" if eta2 == 1 else "lora_x_eta", eta2
    dropped = [(case.inputs, seen) for case, seen in pairs if case.inputs.drop_rate > 0]
    chosen = [seen for one, seen in dropped if (one.learning_rate, one.arm, one.eta2 or 1.0) == wanted]
    return float(np.median(chosen)) if chosen else math.nan


HU_4_1 = (
    "When optimizing with Adam, tuning α is roughly the same as tuning the learning rate if we scale the "
    "initialization appropriately. As a result, we simply set α to the first r we try and do not tune it. This scaling "
    "helps to reduce the need to retune hyperparameters when we vary r"
)
"""Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685, §4.1."""


class _Alpha(NamedTuple):
    """A problem with A's draw, and what α is multiplied by."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    times: float


def apart(one: _Alpha) -> dict[str, float]:
    """Distance over 20 Adam steps: of α alone multiplied, and of α against the rate, with A's scale adjusted."""
    base, root = adaptive.Setting(rate_a=1e-2 * one.times**0.5, rate_b=1e-2 * one.times**0.5), one.times**-0.5
    paths = [
        adaptive.train(one.x, one.y, one.a, setting, 20)
        for setting in (base, adaptive.rescaled(base, root, root), dataclasses.replace(base, scaling=one.times))
    ]
    return {"α and rate exchanged": relative_error(paths[1], paths[0]), "α alone": relative_error(paths[2], paths[0])}


class Quotation(NamedTuple):
    """What a cited work writes, and where."""

    text: str
    where: str


def advises_tuning(text: str) -> bool:
    """Whether the words recommend tuning: they have the verb, and do not say that it is not done."""
    return "tun" in text and "not tune" not in text


@claim(
    "3.3-tune-carefully",
    where="§3.3, first paragraph",
    says="Hu et al. (2021) discussed the importance of the scaling factor and suggest to tune it carefully to prevent "
    "BA from overwhelming W*",
    reading="A row about a quotation, judged by reading it: whether the cited work's own section on the scaling, §4.1, "
    "recommends tuning α; no draw can change that. The reason given there, that under Adam α acts as the learning "
    "rate, is computed.",
    test="tests/test_adaptive_invariance.py",
)
def tune_carefully(cases: Cases) -> Finding:
    """What Hu et al. write; and Adam's path with α multiplied by c against that with the rates multiplied by √c."""

    def draw(rng: np.random.Generator) -> _Alpha:
        n2, n1, rank = (int(size) for size in rng.integers((4, 3, 1), (9, 6, 4)))
        y = 2 * rng.standard_normal((12, n1))
        return _Alpha(power_law(12, n2, rng), y, rng.standard_normal((rank, n2)), log_uniform(rng, 0.5, 2))

    judged = cases.judge(
        [Case("Hu et al. (2021), §4.1", Quotation(HU_4_1, "arXiv 2106.09685, §4.1"))],
        lambda one: {"recommends tuning": advises_tuning(one.text), "quotation": one.text},
        printed=lambda one, seen: seen["recommends tuning"],
    )
    distances = {case.name: apart(case.inputs) for case in cases.draw(draw, 6, "α times 1.6 to 7.4,")}
    evidence = judged.evidence(
        "float64 rounding of 20 steps, relative: 1e-9", {"α and rate exchanged": 0.0}, more=distances, tolerance=1e-9
    )
    finding = judged.finding(
        refuted="No: they write that they do not tune it, as under Adam it acts like the learning rate.",
        evidence=evidence,
        corrected="Hu et al. set α to the first r tried and do not tune it; under Adam, without weight decay and "
        "clipping, c·α trains the same model as α where A's start and both rates are divided by √c and ε is multiplied "
        "by it (AdamW's decay too)",
        flips_if="a passage of theirs that recommends tuning α",
    )
    exact = all(seen["α and rate exchanged"] <= 1e-9 < 1e-3 < seen["α alone"] for seen in distances.values())
    return against(finding, exact)


@dataclass(frozen=True)
class Arguments:
    """Write the mean and the largest row norm of each linear map of a pretrained model into the committed file."""

    model: Positional[Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID")]]
    """The pretrained model, as transformers loads it."""
    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """What records call the model."""
    out: Annotated[Path, arg(metavar="FILE.json")] = NORMS
    """Where the norms go, beside those of other models."""


def run(arguments: Arguments) -> int:
    """Loads the model and writes its norms."""
    from allora_analysis.finetune import models

    entries("--out", arguments.out)
    norms = norms_of(models.load(arguments.model, 2).model)
    norms = {name: value for name, value in norms.items() if not name.startswith(("classifier", "score"))}  # drawn
    known = entries("--out", arguments.out) | {arguments.name: norms}
    write_text("--out", arguments.out, json.dumps(known, indent=0, ensure_ascii=False) + "\n")
    say(f"{len(norms)} linear maps of {arguments.name} in {arguments.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis.claims.s3_3_scaling_factor", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
