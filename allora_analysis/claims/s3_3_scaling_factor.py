"""§3.3, around the derivation: what the scaling factor η = α/r is for, how to start A and B.

Two rows rest on what the cited authors write, which stands here with its source. The norms ‖W*_i‖ of pretrained models'
linear maps stand in `pretrained_norms.json`, in the layers' names as the fine-tuning records have them, so that ‖ηBA‖
is held against ‖W*‖ without a model at hand: `python -m allora_analysis.claims.s3_3_scaling_factor FOLDER NAME` writes
them. Checked by `tests/test_claims_3_3.py`, which plants other quotations, norms and formulas.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from tyro.conf import Positional, arg

from allora_analysis import adaptive, cli, hessian
from allora_analysis.claims.cases import PAPER_ETAS, Case, Cases, log_uniform, relative_error
from allora_analysis.claims.claim import Finding, claim, in_part, not_run, ranged
from allora_analysis.claims.s3_2_in_a_and_b import against
from allora_analysis.claims.s3_2_in_v import power_law
from allora_analysis.finetune.setting import STUDY, Setting
from allora_analysis.grid.presets import LISTS
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.outputs import entries, say, write_text

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


@claim(
    "3.3-comparable-level",
    where="beyond the paper: §3.3, first paragraph, in two small models",
    says="After fine-tuning two small models, ηBA is at a comparable level with W*.",
    reading="Rows of ηBA have on average at least a tenth of the norm of rows of W*; by rows, the verdict is the same "
    "at a fifth and at a twentieth. The paper's is an induced norm, which was not recorded: in it a BA of low rank is "
    "larger beside W*, by up to about the root of W*'s stable rank: a twentieth is open and, map by map, a tenth.",
    command="python -m experiments.row_norms --model FOLDER --model-name NAME --data FOLDER",
    test="tests/test_claims_3_3.py",
    reads=STUDY,
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
    induced = max(in_the_induced_norm(case.inputs.model, seen) for case, seen in judged.pairs)
    part = in_part(len(runs), len(fine_tuned()), "runs")
    models = {1: "one", 2: "two"}.get(number := len({one.model for one in runs}), number)
    return judged.finding(
        refuted=f"Not in {models} small models: ηBA's rows end at {shares.min():.1%} to {shares.max():.1%} of the norm "
        "of W*'s.",
        evidence=judged.evidence(
            f"none: a threshold of {COMPARABLE:g}; {len(runs)} of {len(fine_tuned())} runs recorded, their last step",
            {"‖ηBA‖/‖W*‖": "0.1 or more"},
            more={
                "in the induced norm, if BA's rows are equally long in all maps, at most about": induced,
                "η = 2 over η = 1": doubled,
            },
            tolerance=COMPARABLE,
            n=len(runs),
        ),
        size=ranged(shares, "of ‖W*‖", f"‖ηBA‖ after fine-tuning, rows averaged{part}"),
        flips_if="runs at the paper's rates in which the rows of ηBA reach a tenth of W*'s",
    )


def in_the_induced_norm(model: str, share: float) -> float:
    """The mean over maps of ‖BA‖_F/‖W‖₂, all rows of BA as long as `share` of the mean row of W."""
    rows, root = np.array([(one["mean"], one["root_stable_rank"]) for one in weight_norms(model).values()]).T
    return share * float(rows.mean() * (root / rows).mean())


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
HAYOU = (
    "to start from the pretrained model as initialization for finetuning, one can either initialize B to zero and A to "
    "random (default initialization in PEFT package), or vice-versa. […] the first scheme (initializing B to zero and "
    "A to random) on average yields better performance compared to the other scheme"
)
"""Hayou et al. (2024a), The Impact of Initialization on LoRA Finetuning Dynamics, arXiv 2406.08447, abstract."""


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


class First(NamedTuple):
    """A module at its start: X (N×n₂), targets (N×n₁) beyond W*'s outputs, A, B, η; whether W* gives up ηBA."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    eta: float
    subtracted: bool


def first_step(one: First) -> dict[str, float]:
    """How far the outputs are from the pretrained ones, over all inputs; the loss's fall in a small first step.

    The first over η‖B‖‖A‖, the second per learning rate over η²‖G‖²(‖A‖² + ‖B‖²), Frobenius norms.
    """
    given = one.eta * one.b @ one.a if one.subtracted else np.zeros((one.y.shape[1], one.x.shape[1]))

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        return float(((one.x @ (one.eta * b @ a - given).T - one.y) ** 2).sum())

    slopes = []
    for which in (0, 1):
        parts = [one.a, one.b]
        step = 1e-4 * np.abs(parts[1 - which]).max() ** -1  # as far in BA whatever the other's size
        for entry in np.ndindex(parts[which].shape):
            moved = np.zeros(parts[which].shape)
            moved[entry] = step
            up, down = ([*parts[:which], parts[which] + sign * moved, *parts[which + 1 :]] for sign in (1, -1))
            slopes.append((loss(*up) - loss(*down)) / (2 * step))
    size = np.linalg.norm(one.a) * np.linalg.norm(one.b)
    return {
        "moved": float(np.linalg.norm(one.eta * one.b @ one.a - given) / (one.eta * size)),
        "fall": float(np.square(slopes).sum()) / _largest_fall(one),
    }


def _gradient(one: First) -> np.ndarray:
    """G = ∂L/∂(ηBA)."""
    moved = 0 if one.subtracted else one.eta * one.x @ (one.b @ one.a).T
    return 2 * (moved - one.y).T @ one.x


def _largest_fall(one: First) -> float:
    return float((one.eta * np.linalg.norm(_gradient(one))) ** 2 * (np.square(one.a).sum() + np.square(one.b).sum()))


def fall(one: First) -> float:
    """η²(‖GAᵀ‖² + ‖BᵀG‖²) over the same, in closed form."""
    g = _gradient(one)
    return one.eta**2 * float((np.square(g @ one.a.T)).sum() + (np.square(one.b.T @ g)).sum()) / _largest_fall(one)


class Starts(NamedTuple):
    """A module's starts with neither factor at 0, all of one kind, and whether A and B are drawn independently."""

    starts: tuple[First, ...]
    independent: bool

    @property
    def rank(self) -> int:
        """The rank of A and B."""
        return len(self.starts[0].a)


def pairs_with_product_0(n1: int, n2: int, rank: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """A and B, neither 0, with BA = 0 where r > 1 allows it: on halves of the latent space, as in PEFT's orthogonal."""
    a, b = rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank))
    if rank == 1:
        return [(a, b), (a, 1e-6 * b), (1e-6 * a, b)]
    q, half = np.linalg.qr(rng.standard_normal((rank, rank)))[0], rank // 2
    first = np.arange(rank) < half
    found = [(a * first[:, None], b * ~first), (q[:half].T @ a[:half], b[:, half:] @ q[half:])]
    if rank % 2 == 0:
        found.append(hessian.start_pair("orthogonal", np.zeros((n1, n2)), rank, rng))
    return found


def made(
    rng: np.random.Generator, independent: bool, subtracted: bool, shape: tuple[int, int, int], eta: float
) -> Starts:
    """A module's starts, (n₂, n₁, r) its shape."""
    n2, n1, rank = shape
    x, y = power_law(8, n2, rng), rng.standard_normal((8, n1))
    if independent:
        sizes = [(0.2, 0.2), (0.01, 1.0), (1.0, 1e-3)]
        pairs = [(a * rng.standard_normal((rank, n2)), b * rng.standard_normal((n1, rank))) for a, b in sizes]
    else:
        pairs = pairs_with_product_0(n1, n2, rank, rng)
    return Starts(tuple(First(x, y, a, b, eta, subtracted) for a, b in pairs), independent)


def compares_zeros(text: str) -> bool:
    """Whether the words compare starts with B = 0 and with A = 0 by performance."""
    return "B to zero" in text and "vice-versa" in text and "better performance" in text


def compares_others(text: str) -> bool:
    """Whether the words compare them with a start that has no zero, too."""
    return "neither" in text or "non-zero" in text or "both random" in text


def either_zero_of(one: Starts, seen: Sequence[dict[str, float]]) -> bool:
    """No start with neither factor at 0 has the pretrained outputs and descends from them."""
    return not any(step["moved"] <= 1e-12 and step["fall"] > 1e-9 for step in seen)


def foretold(one: Starts, seen: Sequence[dict[str, float]]) -> bool:
    """The first step's descent in closed form; the pretrained outputs as whether BA can be 0 or is taken off W*."""
    return all(
        abs(step["fall"] - fall(start)) <= 1e-5
        and (step["moved"] <= 1e-12) == (start.subtracted or not (one.independent or one.rank == 1))
        for start, step in zip(one.starts, seen, strict=True)
    )


def any_starts(rng: np.random.Generator, independent: bool, subtracted: bool) -> Starts:
    """A module of 4 to 8 inputs and outputs, r from 1 to 4."""
    shape = int(rng.integers(4, 9)), int(rng.integers(4, 9)), int(rng.choice([1, 1, 2, 2, 3, 4]))
    return made(rng, independent, subtracted, shape, float(rng.choice(PAPER_ETAS)))


SAYS = "Later, Hayou et al. (2024a) argued that for the best performance, either A or B must be initialized at 0."
zero_claim = functools.partial(
    claim,
    where="§3.3, first paragraph",
    says=SAYS,
    test="tests/test_claims_3_3.py",
    depends_on=("3.2-pretrained-mapping", "3.2-saddle-starts"),
)


@zero_claim(
    "3.3-either-zero",
    reading='"For the best performance … must": that their abstract compares starts with B = 0 and with A = 0 with '
    "one that has no zero, which is read. Computed: of A and B whose entries are drawn independently, as theirs, only "
    "those with a factor at 0 have the pretrained outputs for all inputs.",
)
def either_zero(cases: Cases) -> Finding:
    """Outputs and the first step's descent from independent starts with neither factor at 0, W* left as it is."""
    own, told = Case("n₂ = 24, r = 8", made(cases.rng, True, False, (24, 12, 8), 2.0)), compares_zeros(HAYOU)
    judged = cases.judge(
        [own, *cases.draw(lambda rng: any_starts(rng, True, False), 12)],
        lambda one: [first_step(start) for start in one.starts],
        printed=lambda one, seen: compares_others(HAYOU) and either_zero_of(one, seen),
        corrected=lambda one, seen: told and either_zero_of(one, seen) and foretold(one, seen),
    )
    return judged.finding(
        holds_corrected="Not shown: they compare just these two starts, B = 0 being better on average, with no third.",
        evidence=judged.evidence(
            "central differences, relative: 1e-5",
            lambda one: [fall(start) for start in one.starts],
            more={"they write (arXiv 2406.08447, abstract)": HAYOU},
            tolerance=1e-5,
        ),
        corrected="they argue that B = 0 and A = 0 both keep the pretrained outputs, B = 0 performing better on "
        "average; of independent A and B, only these keep them",
        flips_if="a passage of theirs that compares other starts; or independent A and B, neither 0, that keep the "
        "pretrained outputs",
    )


@zero_claim(
    "3.3-either-zero-any-start",
    reading="A less kind reading: of all starts, not of theirs alone, every one that has the pretrained outputs for "
    "all inputs and from which the first step lowers the loss has A = 0 or B = 0.",
)
def either_zero_any_start(cases: Cases) -> Finding:
    """Outputs and the first step's descent from starts with neither factor at 0, W* left as it is or less ηBA."""
    kinds = {"A and B independent": (True, False), "A and B drawn together": (False, False)}
    own = [
        Case(f"n₂ = 24, r = 8, {name}", made(cases.rng, *kind, (24, 12, 8), 2.0), True) for name, kind in kinds.items()
    ]
    given = Case("n₂ = 24, r = 8, independent, W* less ηBA", made(cases.rng, True, True, (24, 12, 8), 2.0))
    rank_1 = Case("n₂ = 24, r = 1, A and B drawn together", made(cases.rng, False, False, (24, 12, 1), 2.0))

    judged = cases.judge(
        [*own, given, rank_1, *cases.draw(lambda rng: any_starts(rng, *(rng.random(2) < (0.4, 0.3)).tolist()), 20)],
        lambda one: [first_step(start) for start in one.starts],
        printed=either_zero_of,
        corrected=foretold,
        condition=lambda one: not one.starts[0].subtracted and (one.independent or one.rank == 1),
    )
    return judged.finding(
        conditional="Not always: PEFT's orthogonal start has BA = 0 with neither at 0; PiSSA takes ηBA off W*.",
        evidence=judged.evidence(
            "central differences, relative: 1e-5", lambda one: [fall(start) for start in one.starts], tolerance=1e-5
        ),
        condition="W* is kept, and r = 1 or A and B have independent entries with densities. Else BA = 0 is possible "
        "with A ≠ 0 ≠ B, and with W* − ηBA in W*'s place any A and B have the pretrained outputs; the loss falls by "
        "η²(‖GAᵀ‖² + ‖BᵀG‖²) per learning rate, G = ∂L/∂(ηBA)",
        flips_if="a start of rank 1, or with independent A and B, that has no zero factor and keeps W* and the "
        "pretrained outputs; or none of rank 2 and above",
    )


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
