"""Abstract, §1, Definition 1 and §4.2: which hyper-parameters there are, and which of them are redundant.

They are counted as the rank of the trajectory's derivative in their logarithms (`adaptive.degrees_of_freedom`); equal
trainings are run. s = α/r is LoRA's scaling factor. The rate that acts: `s4_2_effective_rate`. Checked by
`tests/test_claims_4_2_hyper_parameters.py`, which plants wrong formulas.
"""

import functools
import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.adaptive import Setting
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_ETAS, PAPER_ROW, Case, Cases, at_etas, log_uniform, relative_error
from allora_analysis.claims.claim import Finding, Size, claim
from allora_analysis.claims.layer_training import Problem
from allora_analysis.claims.s4_2_definition import REMOVES

TOLERANCE = 1e-9
STEPS = 20
OPTIMIZERS = ("adam", "sgd")
SOURCE = "float64 rounding over 20 steps; a rank: singular values above 1e-6 of the largest"
PAPER = Setting(scaling=1.0, rate_a=1e-4, rate_b=1e-4)
knob_claim = functools.partial(claim, test="tests/test_adaptive_invariance.py")


class Training(NamedTuple):
    """Data X, Y, A's draw; LoRA's knobs, the optimizer ("adam", "sgd"), η, what is tuned beside s, the clip, a head.

    The head is the layer's frozen weight and a classifier that is trained, and clipped, with A and B.
    """

    data: tuple[np.ndarray, np.ndarray, np.ndarray]
    setting: Setting
    optimizer: str
    eta: float
    tuned: tuple[str, ...]
    clip: float | None = None
    head: tuple[np.ndarray, np.ndarray] | None = None


def drawn(rng: np.random.Generator, setting: Setting, optimizer: str, tuned: tuple[str, ...] = ()) -> Training:
    """A training on data at random, η from 1.2 to 2.5."""
    x = rng.standard_normal((12, 4))
    data = x, np.tanh(x @ rng.standard_normal((4, 3))), rng.standard_normal((2, 4))
    return Training(data, setting, optimizer, float(rng.uniform(1.2, 2.5)), tuned)


def of_paper(rng: np.random.Generator, tuned: tuple[str, ...] = (), eta: float = 2.0) -> Training:
    """AdamW at 1e-4 on LoRA's shapes, r = 8."""
    return Training(tuple(layer_training.paper_problem(rng)), PAPER, "adam", eta, tuned)


def knobs(rng: np.random.Generator) -> Setting:
    """Scaling, initialization and rates at random; ε so small that Adam does not see the gradients' scale."""
    scaling, init, rate = (log_uniform(rng, *np.log(ends)) for ends in ((0.7, 1.4), (0.7, 1.4), (0.01, 0.02)))
    return Setting(scaling=scaling, init_a=init, rate_a=rate, rate_b=rate, eps_a=1e-14, eps_b=1e-14)


def degrees(one: Training, setting: Setting, names: tuple[str, ...]) -> int:
    """How many of the named knobs act independently."""
    if one.head is None:
        how = {"optimizer": one.optimizer, "max_norm": one.clip}
        return adaptive.degrees_of_freedom(*one.data, setting, names, 10, **how) if names else 0

    def moved(name: str, step: float) -> np.ndarray:
        each = ("rate_a", "rate_b") if name == "rate" else (name,)
        knobs = replace(setting, **{field: getattr(setting, field) * np.exp(step) for field in each})
        return path(one, knobs, one.clip, 10).ravel()

    values = np.linalg.svd([moved(name, 1e-4) - moved(name, -1e-4) for name in names], compute_uv=False)
    return int(np.count_nonzero(values > 1e-6 * values[0]))


def path(one: Training, setting: Setting, max_norm: float | None = None, steps: int = STEPS) -> np.ndarray:
    """s·BA after every step."""
    how = {"optimizer": one.optimizer, "max_norm": max_norm}
    if one.head is None:
        return adaptive.train(*one.data, setting, steps, **how)
    return layer_training.with_classifier(Problem(*one.data), one.head, setting, steps, **how)


def headed(one: Training, rng: np.random.Generator) -> Training:
    """The same with a weight and a classifier."""
    return one._replace(head=layer_training.draw_head(rng, Problem(*one.data)))


def adapted(one: Training) -> Setting:
    """The same knobs with ALLoRA's η, and scaling 1."""
    return replace(one.setting, eta=one.eta, scaling=1.0)


RATES = ((), ("rate",), ("rate_a",), ("rate_b",), ("rate_a", "rate_b"))
OTHERS = [(*start, *rates) for rates in RATES for start in ((), ("init_a",))]
DECAYS = ((0.1, 0.1), (0.1, 0.0), (0.0, 0.1))
CLIPPED = 0.01  # far below every gradient's norm


def matters(one: Training) -> bool:
    """Whether s is no other knob in disguise: of B's rate, or of init_A with A's; decay and clipping tell."""
    tuned, decay_a, decay_b = {*one.tuned}, one.setting.decay_a, one.setting.decay_b
    by_b = "rate_b" in tuned and not decay_b
    by_a = "init_a" in tuned and not decay_a and ("rate_a" in tuned or ("rate" in tuned and not decay_b))
    if one.clip:  # A's and B's gradients must scale together, and with all others
        return one.head is not None or not (by_a and (by_b or "rate" in tuned))
    return not (by_b or by_a)


def clipped(one: Training) -> Training:
    """The same, clipped far below its gradients in every step; under SGD at rates that still move it."""
    x, y, draw = one.data
    first = np.linalg.norm(one.setting.scaling * one.setting.init_a * y.T @ x @ draw.T) / len(x)
    times = 25 if one.optimizer == "sgd" else 1
    rates = {name: times * getattr(one.setting, name) for name in ("rate_a", "rate_b")}
    return one._replace(clip=0.05 if one.head else float(0.02 * first), setting=replace(one.setting, **rates))


def detailed(one: Training) -> Setting:
    """Its knobs with ε and weight decays that matter."""
    return replace(one.setting, eps_a=1e-3, eps_b=2e-3, decay_a=0.3, decay_b=0.2)


def compared(one: Training) -> dict[str, object]:
    """The degrees of freedom with α and without; s·BA at the end, and where every step is clipped."""
    with_it, without = (degrees(one, one.setting, (*first, *one.tuned)) for first in (("scaling",), ()))
    ends = (path(one, detailed(one), norm)[-1] for norm in (None, CLIPPED))
    return {"degrees with α": with_it, "without": without, **dict(zip(("s·BA", "clipped"), ends, strict=True))}


def numbers(one: Training, seen: dict[str, object]) -> dict[str, object]:
    """What was measured but the matrices."""
    return {name: value for name, value in seen.items() if not isinstance(value, np.ndarray)}


def same_rescaled(one: Training, seen: dict[str, object]) -> bool:
    """Whether the rescaled knobs train the same; clipped only both with one factor, ε kept, without a classifier."""
    knobs = detailed(one)
    other = adaptive.rescaled(knobs, 1.3, 0.4, one.optimizer)
    alike = replace(adaptive.rescaled(knobs, 1.3, 1.3, "adam"), eps_a=knobs.eps_a, eps_b=knobs.eps_b)
    return (
        relative_error(path(one, other)[-1], seen["s·BA"]) <= TOLERANCE
        and relative_error(path(one, other, CLIPPED)[-1], seen["clipped"]) > 1e-3
        and (relative_error(path(one, alike, CLIPPED)[-1], seen["clipped"]) <= TOLERANCE) == (one.head is None)
    )


def _tuned_cases(rng: np.random.Generator) -> list[Case]:
    """The paper's AdamW at 1e-4 beside one rate; every set of tuned knobs without decay and with, clipped and not."""
    paper = of_paper(rng, ("rate",))
    found = [Case("AdamW at 1e-4, one rate tuned, init_A fixed", paper, True)]
    found += [Case("the same, clipped", clipped(paper), True)]
    found += [Case("the same, clipped with a classifier", clipped(headed(paper, rng)), True)]
    for name, tuned, clip in (("adam", "rate", True), ("sgd", "rate", True), ("adam", "rate_b", False)):
        one = headed(drawn(rng, knobs(rng), name, ("init_a", tuned)), rng)
        told = f"{name}, init_a and {tuned} tuned, a classifier{', clipped' * clip}"
        found.append(Case(told, clipped(one) if clip else one))
    for decays in DECAYS:
        own_rate = drawn(rng, replace(knobs(rng), decay_a=decays[0], decay_b=decays[1]), "adam", ("rate_b",))
        found.append(Case(f"B's own rate tuned, λ_A = {decays[0]}, λ_B = {decays[1]}", own_rate))
    for name, tuned in itertools.product(OPTIMIZERS, OTHERS):
        for decays, clip in (((0.0, 0.0), False), ((0.0, 0.0), True), (DECAYS[rng.integers(3)], rng.random() < 0.5)):
            one = drawn(rng, replace(knobs(rng), decay_a=decays[0], decay_b=decays[1]), name, tuned)
            told = f"{name}, {' and '.join(tuned) or 'nothing'} tuned, decays {decays}{', clipped' * clip}"
            found.append(Case(told, clipped(one) if clip else one))
    return found


@knob_claim(
    "4-alpha",
    where="beyond the paper: Definition 1, of what is tuned beside α",
    says="Beside the learning rate α is a further knob.",
    reading="α adds a degree of freedom to what is tuned beside it, among init_A, one rate or two; gradients are "
    "clipped in no step or in every one, A's and B's alone or with a classifier's.",
)
def scaling_is_tunable(cases: Cases) -> Finding:
    """The knobs' rank with α and without; rescaled trainings, which must be the same, or not where clipped."""
    judged = cases.judge(
        _tuned_cases(cases.rng),
        compared,
        printed=lambda one, seen: seen["degrees with α"] > seen["without"],
        corrected=same_rescaled,
        condition=matters,
    )
    added = judged.measured[0]["degrees with α"] - judged.measured[0]["without"]
    return judged.finding(
        conditional="Yes, unless B's own rate (or A's start) is tuned too, unclipped and without decay.",
        evidence=judged.evidence(SOURCE, shown=numbers, tolerance=TOLERANCE, n=STEPS),
        size=Size(added, "degree of freedom", "what α adds under AdamW beside one learning rate, A's start fixed"),
        corrected="the same training without clipping: α/(ab), a·init_A and, under Adam, a·l_A, b·l_B, ε_A/a, ε_B/b, "
        "λ_A/a, λ_B/b; under SGD a²l_A, b²l_B, λ_A/a², λ_B/b² (λ: weight decays); with A's and B's gradients "
        "alone clipped in every step only a = b, by Adam's formulas but with ε kept; with a classifier's none",
        condition="without clipping and weight decay: neither B's rate is tuned, nor A's start together with a rate. "
        "In general: neither B's rate is tuned by itself with λ_B = 0, nor init_A together with A's rate with λ_A = 0, "
        "nor together with a common rate with λ_A = λ_B = 0 (ε aside); with A's and B's gradients alone clipped in "
        "every step: not init_A together with both rates, or a common one, with λ_A = λ_B = 0; with a classifier's "
        "clipped too: always",
        flips_if="a training that α changes and B's own rate cannot, unclipped and at λ_B = 0",
    )


def _count_cases(cases: Cases) -> list[Case]:
    """The paper's AdamW at 1e-4, and trainings at random under Adam and SGD."""
    own = at_etas("AdamW at 1e-4", lambda eta: of_paper(cases.rng, eta=eta), PAPER_ETAS[1:])
    return [*own, *cases.draw(lambda rng: drawn(rng, knobs(rng), str(rng.choice(OPTIMIZERS))), 8)]


NO_NEW = "Note that this does not introduce a new hyperparameter."


@knob_claim(
    "4-no-new-hyper-parameter",
    where="§4.2, below the definition",
    says=NO_NEW,
    reading="ALLoRA's (η, l_b) are no more hyper-parameters than LoRA's (s, l): η stands where s stood. If l_b is "
    "constant, as §4.2 calls it, in the sense of not tuned, η stands for l under SGD, and s is gone besides "
    "(4-two-hyper-parameters).",
    depends_on=("4-alpha",),
)
def no_new_knob(cases: Cases) -> Finding:
    """Independent knobs of both; ALLoRA at η run at η = 1, scaling 1/η², unclipped and, with no classifier, clipped."""

    def counted(one: Training) -> dict[str, object]:
        return {
            "of (η, l_b)": degrees(one, adapted(one), ("eta", "rate")),
            "of LoRA's (s, l)": degrees(one, one.setting, ("scaling", "rate")),
            "BA": ends(one, adapted(one), CLIPPED),
        }

    def ends(one: Training, setting: Setting, norm: float) -> np.ndarray:
        return np.array([path(one, setting, limit)[-1] for limit in (None, norm)])

    def distances(one: Training, seen: dict[str, object]) -> list[float]:
        other = ends(one, adaptive.eta_as_scaling(adapted(one), one.optimizer), CLIPPED / one.eta**2)
        return [relative_error(*both) for both in zip(other, seen["BA"], strict=True)]

    rng = cases.rng
    heads = [Case(f"{name}, a classifier", headed(drawn(rng, knobs(rng), name), rng)) for name in OPTIMIZERS]
    judged = cases.judge(
        [*_count_cases(cases), *heads],
        measure=counted,
        printed=lambda one, seen: (
            seen["of (η, l_b)"] <= seen["of LoRA's (s, l)"]
            and max(distances(one, seen)[: 1 if one.head else 2]) <= TOLERANCE
        ),
    )
    return judged.finding(
        holds="Yes, compared with LoRA: (η, l_b) take the place of (scaling factor, learning rate), two for two.",
        evidence=judged.evidence(
            SOURCE,
            {"distance of BA unclipped, and clipped (A's and B's gradients alone)": 0.0},
            shown=lambda one, seen: numbers(one, seen) | {"distance of BA unclipped, clipped": distances(one, seen)},
            tolerance=TOLERANCE,
            n=STEPS,
        ),
        size=Size(
            judged.measured[0]["of (η, l_b)"],
            "hyper-parameters",
            "independent ones of ALLoRA, η and l_b; LoRA's s and l are as many",
        ),
        flips_if="LoRA's s and l acting as one, or no scaling factor that trains as η does",
    )


@knob_claim(
    "4-split-learning-rate",
    where="§4.2, below the definition",
    says=f"{NO_NEW} We split learning rate into a constant base learning rate l_b and η, and the effective learning "
    "rate is η·l_b.",
    reading="A less kind reading: η and l_b are one learning rate in two factors: they act through η·l_b alone, l_b "
    "varied, though §4.2 calls it constant. Each sentence by itself: 4-no-new-hyper-parameter, 4-effective-rate.",
    depends_on=("4-effective-rate", "4-no-new-hyper-parameter"),
)
def split_rate(cases: Cases) -> Finding:
    """Trainings at (η, l_b) and (2η, l_b/2): do they differ?"""

    def split(one: Training) -> np.ndarray:
        first = adapted(one)
        return path(one, replace(first, eta=2 * one.eta, rate_a=first.rate_a / 2, rate_b=first.rate_b / 2))[-1]

    def apart(one: Training, seen: np.ndarray) -> float:
        return relative_error(seen, path(one, adapted(one))[-1])

    judged = cases.judge(_count_cases(cases), measure=split, printed=lambda one, seen: apart(one, seen) <= TOLERANCE)
    shorter = 1 - ((1 + PAPER_ROW) / (1 + 4 * PAPER_ROW)) ** 0.5
    return judged.finding(
        refuted="No: doubling η from 1 and halving l_b halves AdamW's step, and shortens SGD's "
        f"by {100 * shorter:.0f} % (row norm {PAPER_ROW}).",
        evidence=judged.evidence(SOURCE, {"distance of BA": 0.0}, shown=apart, tolerance=TOLERANCE, n=STEPS),
        size=Size(
            apart(judged.cases[0].inputs, judged.measured[0]),
            "of ‖BA‖",
            "what (2η, l_b/2) trains apart from (η, l_b) in 20 steps of AdamW at 1e-4; under SGD a step of a row of "
            f"{PAPER_ROW} is {shorter:.1%} shorter, η from 1 to 2, that of a row at 0 as long",
        ),
        corrected="l_b·d_i = l_bη/√(1 + η²‖(BA)_i‖) under SGD; under AdamW l_b alone sets the first step",
        flips_if="equal trainings at (η, l_b) and (2η, l_b/2)",
    )


def independent(one: Training) -> dict[str, int]:
    """Independent knobs of LoRA, s and l and one for its drop rate, and of ALLoRA-0, η and l_b."""
    return {
        "LoRA": degrees(one, one.setting, ("scaling", "rate")) + 1,
        "ALLoRA-0": degrees(one, adapted(one), ("eta", "rate")),
    }


@knob_claim(
    "4-two-fewer-to-choose",
    where="Abstract",
    says=REMOVES,
    reading="A less kind reading: two fewer are left to choose; of LoRA's s, l and drop rate ALLoRA-0 leaves one. l_b "
    "is counted as a choice, though §4.2 calls it constant and §4.4 fixes it; the drop rate is counted as one, not "
    "measured.",
    depends_on=("4-no-new-hyper-parameter", "4-two-hyper-parameters"),
)
def removed(cases: Cases) -> Finding:
    """Independent knobs of LoRA less those of ALLoRA-0."""
    judged = cases.judge(_count_cases(cases), independent, lambda one, seen: seen["LoRA"] - seen["ALLoRA-0"] == 2)
    seen = judged.measured[0]
    return judged.finding(
        refuted="No: one, the dropout rate. The scaling factor leaves the formula, and η takes its place.",
        evidence=judged.evidence(SOURCE, {"removed": 2}),
        size=Size(seen["LoRA"] - seen["ALLoRA-0"], "of the two", "that ALLoRA without dropout leaves fewer to choose"),
        corrected="one fewer, the dropout rate, by setting it to 0 (ALLoRA as run keeps 0.05): ALLoRA at η is "
        "ALLoRA at η = 1 with scaling 1/η², init η·init_A, rate ηl, ε/η² and weight decay λ/η (Adam) or η³l and λ/η³ "
        "(SGD), and clipped at c/η² for c if A's and B's gradients alone are clipped",
        flips_if="ALLoRA's η and l_b acting as one knob",
    )


@knob_claim(
    "4-fewer-hyper-parameters",
    where="§1",
    says="all while employing less hyper-parameters",
    reading="ALLoRA-0 (§1: 'ALLoRA proposes to remove the Dropout regularizer') has fewer independent knobs than LoRA; "
    "a drop rate above 0 is counted as one.",
    depends_on=("4-two-fewer-to-choose",),
)
def fewer(cases: Cases) -> Finding:
    """Independent knobs of LoRA beside those of ALLoRA-0."""
    judged = cases.judge(_count_cases(cases), independent, lambda one, seen: seen["ALLoRA-0"] < seen["LoRA"])
    seen = judged.measured[0]
    return judged.finding(
        holds="Yes, by one, the dropout rate, in ALLoRA-0; as run, with dropout 0.05, none (as 4-two-fewer-to-choose).",
        evidence=judged.evidence(SOURCE, more={"of ALLoRA as run": seen["ALLoRA-0"] + 1}),
        size=Size(seen["LoRA"] - seen["ALLoRA-0"], "fewer", "independent knobs in ALLoRA-0 than in LoRA"),
        flips_if="LoRA's s and l acting as one knob while ALLoRA's η and l_b act as two",
    )
