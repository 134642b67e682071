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
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tyro.conf import Positional, arg

from allora_analysis import adaptive, cli
from allora_analysis.claims.cases import Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Evidence, Finding, claim, in_part, not_run, ranged, run_diverged
from allora_analysis.claims.s3_2_in_a_and_b import against
from allora_analysis.claims.s3_2_in_v import power_law
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.finetune.sources import INSTRUCT
from allora_analysis.grid.presets import INDUCED_SEEDS, LISTS, command
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.outputs import entries, say, write_text
from allora_analysis.statistics.directional import Decision, decide, in_every

if TYPE_CHECKING:
    from torch import nn

COMPARABLE = 0.1  # of ‖W*‖, at least
FINE_TUNED = ("row_norms", "perception", "ablation")  # experiments
NORMS = Path(__file__).with_name("pretrained_norms.json")


def fine_tuned() -> list[Setting]:
    """Our runs of LoRA under AdamW at the paper's rates, 1e-4 to 2e-4, and with η as a factor of the output."""
    listed = [one for name in FINE_TUNED for one in LISTS[name]["desk"]]
    return [
        one
        for one in dict.fromkeys(listed)
        if one.arm in ("lora", "lora_x_eta")
        and one.optimizer == "adamw"
        and 1e-4 <= one.learning_rate <= 2e-4
        and one.data == "rotten_tomatoes"
    ]


def norms_of(model: nn.Module) -> dict[str, dict[str, float]]:
    """The mean ‖W_i‖ over rows of each linear map and ‖W‖₂, `induced`, to 6 digits, by the map's name."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().double().numpy()
            values = {"mean": np.linalg.norm(weight, axis=1).mean(), "induced": np.linalg.norm(weight, 2)}
            found[name] = {key: float(f"{value:.6g}") for key, value in values.items()}
    return found


def weight_norms(model: str) -> dict[str, dict[str, float]]:
    """The committed norms of a model; empty for one that the file does not have."""
    return json.loads(NORMS.read_text(encoding="utf-8")).get(model, {})


level_claim = functools.partial(
    claim,
    where="beyond the paper: §3.3, first paragraph, in two small models",
    says="After fine-tuning two small models, ηBA is at a comparable level with W*.",
    test="tests/test_claims_3_3.py",
    reads=STUDY,
)


def in_the_induced_norm(model: str, norms: Sequence[float]) -> dict[str, float]:
    """‖ηBA‖₂/‖W*‖₂ by map, of a run's `induced_norms` (in the order of the maps' names)."""
    weights = sorted(weight_norms(model).items())
    return {name: norm / weight["induced"] for norm, (name, weight) in zip(norms, weights, strict=True)}


def as_large(shares: Mapping[str, ArrayLike], threshold: float = COMPARABLE) -> dict[str, Decision]:
    """By model, whether the mean over seeds is at least a threshold."""
    return decide({model: [np.asarray(of) - threshold] for model, of in shares.items()}, "t")


def _by_map(of: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    # What an average over maps hides, each averaged over seeds: without the largest, the median, how many reach it.
    largest = max(of[0], key=lambda name: np.mean([one[name] for one in of]))
    rest = [[share for name, share in one.items() if name != largest] for one in of]
    every = [[*one.values()] for one in of]
    return {
        "largest map": {largest: float(np.mean([one[largest] for one in of]))},
        "mean of the others": float(np.mean(rest)),
        "median map": float(np.mean(np.median(every, axis=1))),
        f"share of maps at {COMPARABLE:g} or more": float(np.mean(np.array(every) >= COMPARABLE)),
    }


@level_claim(
    "3.3-comparable-level-induced",
    reading="On each model ‖ηBA‖ is at least a tenth of ‖W*‖, averaged over maps, in the induced norm, after LoRA at "
    "the paper's highest rate, 2e-4 under AdamW, held for one epoch of rotten_tomatoes (SmolLM2-135M: half of one). "
    "Written before these runs; those before had recorded norms of rows alone, which left it open. MiniLM's average is "
    "its pooler's, which is longer than W* (1.2 times); without that map it is 8 %, looked at afterwards." + INSTRUCT,
    command=command("induced_norms", LISTS["induced_norms"]["desk"]),
)
def comparable_in_the_induced_norm(cases: Cases, folder: Path | None) -> Finding:
    """‖ηBA‖₂/‖W*‖₂ after the last step, by model and seed."""
    listed = LISTS["induced_norms"]["desk"]
    known = recorded(listed, folder)
    stopped = any(result["diverged_at_step"] is not None for result in known.values())
    runs = known if stopped else {one: of for one, of in known.items() if "induced_norms" in of}  # older ones have none
    if len(runs) < len(listed):
        return not_run(f"{len(runs)} of {len(listed)} runs are recorded, whose rule asks for all")
    rule = f"Student's t over seeds, one-sided at 0.05, Holm over two models; a threshold of {COMPARABLE:g}"
    if stopped:
        return run_diverged("a run diverged", rule)
    maps: dict[str, list[dict[str, float]]] = {}
    for one, result in runs.items():
        maps.setdefault(one.model, []).append(in_the_induced_norm(one.model, result["induced_norms"]))
    shares = {model: [float(np.mean([*one.values()])) for one in of] for model, of in maps.items()}
    tested = cases.test(shares, lambda samples: in_every(as_large(samples)))
    told = " and ".join(f"{np.mean(of):.1%} ({model})" for model, of in shares.items())
    least = min(shares, key=lambda model: np.mean(shares[model]))
    return tested.finding(
        holds=f"Yes: it ends at {told} of ‖W*‖.",
        refuted=f"Not on both: it ends at {told} of ‖W*‖.",
        undecided=f"Undecided: it ends at {told} of ‖W*‖, near a tenth.",
        evidence=Evidence(
            {"‖ηBA‖/‖W*‖": f"{COMPARABLE:g} or more"},
            {
                model: {"by seed": shares[model]} | one._asdict() | _by_map(maps[model])
                for model, one in as_large(shares).items()
            }
            | {f"the verdict at {at:g}": in_every(as_large(shares, at)) for at in (COMPARABLE / 2, 2 * COMPARABLE)},
            rule,
            n=len(INDUCED_SEEDS),
        ),
        size=ranged(shares[least], "of ‖W*‖", f"‖ηBA‖ after fine-tuning {least}, induced norm, averaged over maps"),
        wanted="more seeds",
        flips_if={
            "holds": f"a model whose average is clearly below {COMPARABLE:g}",
            "refuted": f"no model whose average is clearly below {COMPARABLE:g}",
            "undecided": f"averages clearly above {COMPARABLE:g} on both models, or clearly below it on one",
        }[tested.verdict],
    )


@level_claim(
    "3.3-comparable-level",
    reading="A less kind reading: by rows, which on average have at least a tenth of the norm of W*'s; the verdict is "
    "the same at a fifth and at a twentieth. The paper's is an induced norm, in which a BA of low rank is larger "
    "beside W*: row 3.3-comparable-level-induced." + INSTRUCT,
    command=" && ".join(command(name, LISTS[name]["desk"]) for name in FINE_TUNED),
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
        flips_if="a passage of theirs that recommends tuning α, once a reader puts it in the quotation's place; code "
        "only looks there for “tun”, and for no “not tune”",
    )
    exact = all(seen["α and rate exchanged"] <= 1e-9 < 1e-3 < seen["α alone"] for seen in distances.values())
    return against(finding, exact)


@dataclass(frozen=True)
class Arguments:
    """Write the mean row norm and the induced norm of each linear map of a pretrained model into the committed file."""

    model: Positional[Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID|PACKAGE")]]
    """The pretrained model, as transformers loads it, or the installed package that carries it."""
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
