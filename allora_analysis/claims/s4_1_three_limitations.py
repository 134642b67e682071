"""Abstract and §4.1, the central claim: does ALLoRA alleviate the three limitations, and where?

Each limitation is measured on the layer beside LoRA's, and beside that of LoRA so set that it does the same.
Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

from typing import NamedTuple

import numpy as np

from allora_analysis import ripple
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import (
    ETA_M,
    ETA_M_ROWS,
    ETA_M_SMOLLM2,
    PAPER_DROP,
    PAPER_ETAS,
    PAPER_RATE,
    Case,
    Cases,
    log_uniform,
    on_either_side,
)
from allora_analysis.claims.claim import Finding, Size, claim
from allora_analysis.claims.layer_training import Pass, Problem, Run
from allora_analysis.escape.optimizers import clipped_step

SMALLER = 0.99  # a limitation is alleviated where its measure is below this share of LoRA's
SAME = 1e-3  # Adam's ε over small gradients, clipping's 1e-6, and what training leaves
MASKS, DEPTH, NETWORKS = 24, 8, 8


class Dropout(NamedTuple):
    """A pass, η, and ALLoRA's drop rate; LoRA's is `PAPER_DROP`."""

    one: Pass
    eta: float
    drop_rate: float
    seed: int


class Zero(NamedTuple):
    """A training of one step from B = 0, and the norm h of other gradients that are clipped with A's and B's."""

    run: Run
    other: float = 0.0


class Depth(NamedTuple):
    """η, and networks of layers (W, B, A), one BA in both arms, or a teacher that both learn first, for every layer.

    `ratio` is ‖BA‖_F/‖W‖_F in each of the layers where they are drawn at random, ‖BA‖/‖W‖ where they line up, as in the
    worst case.
    """

    eta: float
    networks: list[list[tuple[np.ndarray, ...]]] | None
    task: Problem | None
    x: np.ndarray
    ratio: float = 1.0
    aligned: bool = False


def mask_spread(case: Dropout, arm: str, drop_rate: float) -> float:
    """The largest standard deviation over input masks of an entry of B's gradient, over the entry's mean."""
    drawn = np.random.default_rng(case.seed).random((MASKS, *case.one.x.shape)) >= drop_rate
    gradients = [
        layer_training.backward(
            lambda *parts: layer_training.forward(arm, *parts, case.eta),
            case.one._replace(x=case.one.x * mask / (1 - drop_rate)),
        )[3]
        for mask in drawn
    ]
    return float(np.max(np.std(gradients, axis=0) / np.abs(np.mean(gradients, axis=0))))


def first_step(case: Zero, arm: str, speed: float = 1.0) -> float:
    """‖BA‖ after one step."""
    return float(np.linalg.norm(layer_training.products(case.run, arm, speed, other_norm=case.other)[1]))


def ahead(case: Zero) -> float:
    """ALLoRA's first step over LoRA's at l: η·min(1, c/√(η²g² + h²))/min(1, c/√(g² + h²)) under SGD, 1 under AdamW."""
    if case.run.optimizer == "adamw":
        return 1.0
    step = clipped_step(layer_training.first_gradient(case.run.task), case.run.eta, case.run.clip, case.other)
    return step.allora / step.lora


def growth(case: Depth, arm: str, eta: float) -> float:
    """‖f_L(x)‖/‖x‖ through `DEPTH` layers Wx + the arm's own forward pass, trained first where there is a teacher.

    Over several networks it is the root of the mean square.
    """
    import torch

    networks, squares = case.networks, []
    if networks is None:
        a, b = layer_training.pairs(Run(case.task, "sgd", eta, 0.2, 150), arm)[-1]
        networks = [[(np.eye(len(b)), b, a)] * DEPTH]
    for network in networks:
        h = torch.tensor(case.x)
        for w, b, a in network:
            h = h @ torch.tensor(w).mT + layer_training.forward(arm, h, torch.tensor(a), torch.tensor(b), eta)
        squares.append(float(h.square().sum()))
    return float(np.sqrt(np.mean(squares)) / np.linalg.norm(case.x))


def measures(case: Dropout | Zero | Depth) -> dict[str, float]:
    """The limitation's measure in ALLoRA over LoRA's, and in LoRA so set that it should do the same over LoRA's."""
    if isinstance(case, Dropout):
        parts = [mask_spread(case, *arm) for arm in (("allora", case.drop_rate), ("lora", case.drop_rate))]
        lora = mask_spread(case, "lora", PAPER_DROP)
        return {"ALLoRA": parts[0] / lora, "LoRA so set": parts[1] / lora}
    if isinstance(case, Zero):
        lora = first_step(case, "lora")
        arms = {"ALLoRA": first_step(case, "allora"), "LoRA so set": first_step(case, "lora", ahead(case))}
        return {name: lora / step for name, step in arms.items()}
    scaled = growth(case, "scaled", case.eta)
    same = growth(case, "lora", 1.0) if case.networks is not None else scaled
    return {"ALLoRA": growth(case, "allora", case.eta) / scaled, "LoRA so set": same / scaled}


def alleviated(case: Dropout | Zero | Depth) -> bool | float:
    """Whether the limitation is to be smaller: drop rate 0; a longer first step; η above 1 with one BA in both arms."""
    if isinstance(case, Dropout):
        return case.drop_rate == 0
    if isinstance(case, Zero):
        return ahead(case) * SMALLER
    return False if case.networks is None else np.log(rippled(case)) / -np.log(SMALLER)


def rippled(case: Depth) -> float:
    """Growth in LoRA scaled by η over ALLoRA's: lengths add up in aligned layers, mean squares in ones at random."""
    if case.aligned:
        return ((1 + case.eta * case.ratio) / (1 + case.ratio)) ** DEPTH
    return ((1 + (case.eta * case.ratio) ** 2) / (1 + case.ratio**2)) ** (DEPTH / 2)


def own_cases(rng: np.random.Generator) -> list[Case]:
    """The paper's setting: drop rates 0.05 and 0, AdamW at 1e-4, η² = 2 and 4; ripple with one BA and each one's."""
    one, task, eta = layer_training.paper_pass(rng), layer_training.paper_problem(rng), 2.0
    return [
        Case("dropout: ALLoRA as run, at 0.05", Dropout(one, eta, PAPER_DROP, 1), True),
        Case("dropout: ALLoRA-0", Dropout(one, eta, 0.0, 1), True),
        Case("zero: AdamW, η² = 2", Zero(Run(task, "adamw", 2**0.5, PAPER_RATE, 1)), True),
        Case("zero: AdamW, η² = 4", Zero(Run(task, "adamw", eta, PAPER_RATE, 1)), True),
        Case("ripple: one BA, ‖BA‖_F as ‖W‖_F, η² = 4", at_random(rng, eta, 8, 1.0)),
        Case(
            f"ripple: one BA, ‖ηBA‖_F {ETA_M_ROWS:.1%} of ‖W‖_F, η² = 4", at_random(rng, eta, 8, ETA_M_ROWS / eta), True
        ),
        *(
            Case(f"ripple: one BA, ‖ηBA‖ {size:.1%} of ‖W‖, aligned, η² = 4", lined_up(rng, eta, size / eta))
            for size in (ETA_M, ETA_M_SMOLLM2)
        ),
        *(
            Case(
                f"ripple: one BA, ‖BA‖_F {ratio:.1%} of ‖W‖_F, {times:.2g} of the threshold's rise",
                at_random(rng, threshold(ratio, False, times), 8, ratio),
            )
            for ratio in (1.0, ETA_M_ROWS)
            for times in (2 / 3, 3 / 2)
        ),
        Case("ripple: each trained to rest on one target", Depth(eta, None, fitted(rng), np.ones((1, 4)))),
    ]


def at_random(rng: np.random.Generator, eta: float, rank: int, ratio: float) -> Depth:
    """Networks of width 64 at random, `ratio` = ‖BA‖_F/‖W‖_F in each layer, each with B and with −B, as likely."""
    (w_std, a_std, b_std), networks = ripple.fair_scales(64, rank), []
    for _ in range(NETWORKS):
        shapes = [(w_std, (64, 64)), (b_std, (64, rank)), (a_std, (rank, 64))]
        layers = [[s * rng.standard_normal(shape) for s, shape in shapes] for _ in range(DEPTH)]
        sizes = [ratio * np.linalg.norm(w) / np.linalg.norm(b @ a) for w, b, a in layers]
        networks += [
            [(w, sign * size * b, a) for size, (w, b, a) in zip(sizes, layers, strict=True)] for sign in (1, -1)
        ]
    return Depth(eta, networks, None, rng.standard_normal((256, 64)), ratio)


def lined_up(rng: np.random.Generator, eta: float, ratio: float) -> Depth:
    """Layers that attain the bound, with ‖W‖ = 1 and ‖BA‖ = `ratio`."""
    network = ripple.aligned_network((64,) * (DEPTH + 1), 8, 1.0, ratio, generator=rng)
    layers = [(one.w, one.b, one.a) for one in network.layers]
    return Depth(eta, [layers], None, network.x[None, :], ratio, True)


def threshold(ratio: float, aligned: bool, times: float = 1.0) -> float:
    """η at which `DEPTH` layers' ripple is alleviated just enough, or by that many times as much in its logarithm."""
    rise = SMALLER ** (-times / DEPTH)
    if aligned:
        return (rise * (1 + ratio) - 1) / ratio
    return (rise**2 * (1 + ratio**2) - 1) ** 0.5 / ratio


def fitted(rng: np.random.Generator) -> Problem:
    """White inputs, full rank, A = I, a teacher of spectral norm 1: both arms can fit, and do so in few steps."""
    x, teacher = np.linalg.qr(rng.standard_normal((12, 4)))[0] * 12**0.5, rng.standard_normal((4, 4))
    return Problem(x, x @ teacher.T / np.linalg.norm(teacher, 2), np.eye(4))


def _met() -> str:
    # The paper's η² above 1 at which aligned layers meet the condition at both recorded sizes, ηm with its own η = 2.
    met = [eta for eta in PAPER_ETAS if all(eta > threshold(size / 2, True) for size in (ETA_M, ETA_M_SMOLLM2))]
    return "η² = " + " and ".join(f"{eta**2:.0f}" for eta in met)


def deep_enough() -> int:
    """From how many layers at random η = 2 makes LoRA's ripple larger than ALLoRA's at the recorded size."""
    eta = PAPER_ETAS[-1]
    a_layer = np.log((1 + ETA_M_ROWS**2) / (1 + (ETA_M_ROWS / eta) ** 2)) / 2
    return int(np.ceil(-np.log(SMALLER) / a_layer))


def draw_depth(rng: np.random.Generator, eta: float) -> Depth:
    """A ripple, half of them with η at 3/4 to 1/2 or 4/3 to 2 of the logarithm at which it is alleviated."""
    if rng.random() < 0.3:
        return Depth(max(eta, 1 / eta), None, fitted(rng), np.ones((1, 4)))
    aligned = bool(rng.random() < 0.3)
    ratio = float(rng.choice([1.0, ETA_M if aligned else ETA_M_ROWS]))
    if rng.random() < 0.7:  # else at the η drawn, mostly farther away
        eta = threshold(ratio, aligned, on_either_side(rng, np.log(4 / 3), np.log(2)))
    return lined_up(rng, eta, ratio) if aligned else at_random(rng, eta, 4, ratio)


def draw(rng: np.random.Generator) -> Dropout | Zero | Depth:
    """A limitation and a setting at random, η from 1/2 to 2 but for a hundredth on either side of 1; clipping."""
    eta = on_either_side(rng, 0.012, np.log(2))
    kind = rng.integers(4)
    if kind == 0:
        rate = float(rng.choice([0.0, PAPER_DROP]))
        return Dropout(layer_training.draw_pass(rng, rank=2), eta, rate, int(rng.integers(1000)))
    if kind in (1, 2):
        task, optimizer = layer_training.draw_problem(rng), str(rng.choice(["sgd", "sgd", "sgd", "adamw"]))
        g, over = layer_training.first_gradient(task), log_uniform(rng, np.log(0.4), np.log(3))
        clip = None if rng.random() < 0.3 else over * g
        return Zero(Run(task, optimizer, eta, 0.01, 1, clip), float(rng.choice([0.0, 0.0, 0.5, 2.0])) * g)
    return draw_depth(rng, eta)


@claim(
    "4-three-limitations",
    where="Abstract; §4.1, opening",
    says="ALLoRA alleviates those three limitations",
    reading=f"In its own measure each flaw is below {SMALLER:g} of LoRA's, a bar of ours: the spread of B's gradient "
    "over masks, ‖BA‖ after the first step, growth of the output through eight layers, ours too, beside LoRA scaled by "
    "η: at random ones, and at aligned ones, Proposition 1's worst case.",
    test="tests/test_claims_4_1.py",
    depends_on=("4-scaling-as-rate", "4-figure-2-right", "3.3-comparable-level", "3.3-comparable-level-induced"),
)
def three_limitations(cases: Cases) -> Finding:
    """Each limitation's measure in ALLoRA over that in LoRA, and in LoRA so set that it does the same."""
    judged = cases.judge(
        [*own_cases(cases.rng), *cases.draw(draw, 28)],
        measure=measures,
        printed=lambda case, seen: seen["ALLoRA"] < SMALLER,
        corrected=lambda case, seen: abs(seen["ALLoRA"] - seen["LoRA so set"]) <= SAME,
        condition=alleviated,
    )
    zero = judged.measured[3]["ALLoRA"]
    return judged.finding(
        conditional="Partly: dropout's, as LoRA without it; slow starts not as listed under AdamW; ripple of "
        "recorded size if aligned.",
        evidence=judged.evidence(
            f"{SAME:g}: Adam's ε over small gradients, clipping's 1e-6, what 150 steps leave",
            {"ALLoRA": "LoRA so set"},
            tolerance=SAME,
        ),
        size=Size(1 / zero, "times LoRA's", "ALLoRA's first step from zero under AdamW, η² = 4"),
        corrected="ALLoRA does what LoRA does at its drop rate, without a scaling factor, and at κl, κ = η under plain "
        "SGD and 1 under AdamW; clipped at c, SGD's κ is η·min(1, c/√(η²g² + h²))/min(1, c/√(g² + h²)), g and h the "
        "norms of LoRA's and all other gradients: at h = 0 it is c/g for g < c < ηg, 1 for c ≤ g",
        condition="each has its own: no dropout, SGD at a large enough η, one BA in both arms. In numbers: ALLoRA-0's "
        f"drop rate of 0, not LoRA's own {PAPER_DROP} (dropout); κ > 1/{SMALLER:g} under SGD "
        "(zero); with one BA in both arms (ripple) "
        f"((1 + η²t²)/(1 + t²))^(L/2) > 1/{SMALLER:g} in L layers drawn at random, t = ‖BA‖_F/‖W‖_F, "
        f"((1 + ηm)/(1 + m))^L > 1/{SMALLER:g} in aligned ones, m = ‖BA‖/‖W‖, L = {DEPTH}: at random "
        f"η > {threshold(1.0, aligned=False):.4g} at t = 1, but no η of the paper's at the ηt = {ETA_M_ROWS:.1%} "
        f"recorded at most (there {deep_enough()} layers, at η = 2); in aligned ones {_met()} at the ηm = "
        f"{ETA_M_SMOLLM2:.1%} and {ETA_M:.0%} recorded; not once both have learned one matrix",
        flips_if="a first step under AdamW that is longer than LoRA's, or a limitation that LoRA so set keeps",
    )
