"""§4.3 and §5.2, ASF-LoRA: its likeness to ALLoRA, its gradient, its ripple, and that it cannot be merged.

The layer is run. f̃_i = f_i/√(|f_i| + 1/η²), f = BAx. Checked by `tests/test_claims_4_3.py`, which plants
wrong formulas.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import (
    PAPER_ETAS,
    PAPER_RATE,
    PAPER_ROW,
    Case,
    Cases,
    at_etas,
    log_uniform,
    on_either_side,
    relative_error,
)
from allora_analysis.claims.claim import Finding, Size, ranged
from allora_analysis.claims.layer_training import ROUNDING, Layer, Pass, Problem, Run
from allora_analysis.claims.s4_2_definition import frame
from allora_analysis.claims.s4_3_allora_od import family_claim

TOLERANCE = 1e-9


def _asf_backward(one: Pass, eta: float) -> list[np.ndarray]:
    """ASF-LoRA's output and gradients."""
    return layer_training.backward(lambda *parts: layer_training.forward("asf", *parts, eta), one)


QUARTER = 0.25  # what counts as similar


SIMILAR = "we may achieve similar effect by switching from adaptive learning rate to Adaptive Scaling Factor"


class Beside(NamedTuple):
    """A run, and the A and B that ALLoRA has after it."""

    run: Run
    told: tuple[np.ndarray, np.ndarray]

    @property
    def row(self) -> float:
        """The mean length of ALLoRA's rows."""
        return mean_row(self.told)


def mean_row(pair: tuple[np.ndarray, np.ndarray]) -> float:
    """The mean of ‖(BA)_i‖."""
    return float(np.linalg.norm(pair[1] @ pair[0], axis=1).mean())


def after(run: Run, arm: str) -> np.ndarray:
    """BA after the run."""
    a, b = layer_training.pairs(run, arm)[-1]
    return b @ a


def apart(case: Beside, seen: np.ndarray) -> float:
    """‖BA − ALLoRA's‖ over ‖ALLoRA's‖ after the run."""
    return layer_training.norm_error(seen, case.told[1] @ case.told[0])


SLOW = 1e-3, 240  # SGD's rate and the most steps where rows are to be as long as others
OF_OURS = 0.01, 0.05  # mean rows; our fine-tuned models' end at 0.004 to 0.04 (l of 1e-4 and 1e-3; 4-figure-2-factor)
LONGER = {0.1: {"adamw": (PAPER_RATE, 600), "sgd": SLOW}, 0.4: {"adamw": (1e-3, 200), "sgd": (1e-2, 60)}}
"""Mean rows beyond those, rates and the most steps."""


def as_long(run: Run, row: float) -> Beside:
    """The run, ended where ALLoRA's rows are as long as `row`; `run` has the most steps."""
    path = layer_training.pairs(run, "allora", until=lambda pair: mean_row(pair) >= row)
    return Beside(run._replace(steps=len(path) - 1), path[-1])


def similar_runs(cases: Cases) -> list[Case]:
    """AdamW at 1e-4 for 150 steps, SGD until rows are as long, at the paper's η; one step; others at random."""
    task, found = layer_training.paper_problem(cases.rng), []
    for eta in PAPER_ETAS:
        run = Run(task, "adamw", eta, PAPER_RATE, 150)
        one = Beside(run, layer_training.pairs(run, "allora")[-1])
        other = as_long(Run(task, "sgd", eta, *SLOW), one.row)
        found += [Case(f"AdamW, η = {eta:.3g}", one, True), Case(f"SGD, rows as long, η = {eta:.3g}", other)]
    for name in ("sgd", "momentum"):
        run = Run(task, name, PAPER_ETAS[-1], 1e-2, 1)
        found.append(Case(f"one step, {name}", Beside(run, layer_training.pairs(run, "allora")[-1])))

    def draw(rng: np.random.Generator, name: str) -> Beside:
        how = (PAPER_RATE, 300) if name == "adamw" else SLOW
        run = Run(layer_training.paper_problem(rng), name, log_uniform(rng, 0, np.log(PAPER_ETAS[-1])), *how)
        return as_long(run, log_uniform(rng, *np.log(OF_OURS)))

    return found + [
        one
        for name in ("adamw", "sgd")
        for one in cases.draw(functools.partial(draw, name=name), 6, f"{name} at random")
    ]


def on_longer_rows(task: Problem) -> dict[str, list[float]]:
    """How far ASF-LoRA's and LoRA's BA are at η² = 4 and mean rows longer than ours."""
    ends = {
        f"{name}, {row:g}": as_long(Run(task, name, PAPER_ETAS[-1], *how), row)
        for row, kinds in LONGER.items()
        for name, how in kinds.items()
    }
    return {name: [apart(one, after(one.run, arm)) for arm in ("asf", "lora")] for name, one in ends.items()}


def _told_of(case: Beside, seen: np.ndarray) -> dict[str, float]:
    return {"ASF-LoRA": apart(case, seen), "steps": case.run.steps, "mean row": case.row}


@family_claim(
    "4-asf-similar",
    says=SIMILAR,
    reading="The effect is training's, as the words before have it (the link between learning rate and scaling "
    'factor), and "may" is of rows as short as our fine-tuned models have (mean norms end at 0.004 to 0.04 at rates of '
    "1e-4 and 1e-3; drawn are 0.01 to 0.05): BA is ALLoRA's after one step, and within a quarter after more, under "
    "AdamW and under SGD, η² up to 4. The quarter is ours, chosen after some distances had been seen (half of it: "
    "evidence). On rows of 0.1 and 0.4 it is further off (evidence). Under AdamW LoRA without a factor is nearer "
    "still.",
    depends_on=("4-scaling-as-rate", "4-figure-2-factor"),
)
def asf_similar(cases: Cases) -> Finding:
    """BA of ASF-LoRA, and of LoRA, against ALLoRA's after the same training."""
    judged = cases.judge(
        similar_runs(cases),
        measure=lambda case: after(case.run, "asf"),
        printed=lambda case, seen: apart(case, seen) <= (QUARTER if case.run.steps > 1 else 1e-7),
    )
    own = [(case.inputs, apart(case.inputs, seen)) for case, seen in judged.pairs[:6]]
    (adamw, ours), (sgd, _) = own[-2:]
    lora, far = (apart(case, after(case.run, "lora")) for case in (adamw, sgd))
    longer = on_longer_rows(adamw.run.task)
    off = 100 * longer[f"sgd, {max(LONGER):g}"][0]
    ends = [apart(case.inputs, seen) for case, seen in judged.pairs]
    return judged.finding(
        holds=f"Yes, on short rows: within a quarter in all {len(ends)} trainings; on rows of {max(LONGER):g} it is "
        f"{off:.0f} % off.",
        evidence=judged.evidence(
            "a quarter; one step: 1e-7",
            shown=_told_of,
            more={
                "ASF-LoRA and LoRA at η² = 4, by optimizer and mean row": longer,
                "within half the bar": f"{sum(one <= QUARTER / 2 for one in ends)} of {len(ends)}",
            },
            tolerance=QUARTER,
        ),
        size=ranged(
            [one for _, one in own],
            "of ALLoRA's",
            f"distance of BA at mean rows of {adamw.row:.2f}, η² from 1 to 4, AdamW and SGD; of LoRA at η² = 4 "
            f"{lora:.2f} and {far:.2f}",
            ours,
        ),
        flips_if=f"a BA beyond a quarter at mean rows of up to {OF_OURS[1]:g}",
    )


class Switched(NamedTuple):
    """A run, and ‖f̃‖/‖f‖ of LoRA's outputs f = BAx after it."""

    run: Run
    told: float


def switched(run: Run, etas: Sequence[float]) -> list[Switched]:
    """A run at each η with LoRA, which has none, trained beside it."""
    f = run.task.x @ after(run, "lora").T
    told = [float(np.linalg.norm(adaptive.asf(f, eta)) / np.linalg.norm(f)) for eta in etas]
    return [Switched(run._replace(eta=eta), ratio) for eta, ratio in zip(etas, told, strict=True)]


def within(case: Switched) -> float:
    """How far the output foretold is inside of a quarter."""
    return min((1 + QUARTER) / case.told, case.told / (1 - QUARTER))


def switches(rng: np.random.Generator) -> Switched:
    """AdamW at 1e-4 for up to 300 steps, η near where the output leaves the quarter."""
    while True:
        eta = float(rng.choice([1 - QUARTER, 1 + QUARTER])) * on_either_side(rng, 0.02, 0.4)
        run = Run(layer_training.paper_problem(rng), "adamw", eta, PAPER_RATE, int(301 ** rng.random()))
        (one,) = switched(run, [eta])
        if abs(within(one) - 1) > 0.02:
            return one


def outputs(case: Switched) -> dict[str, np.ndarray]:
    """ASF-LoRA's output after the run, and its BAx."""
    run = case.run
    a, b = layer_training.pairs(run, "asf")[-1]
    output = _asf_backward(Pass(run.task.x, 0 * run.task.y, a, b), run.eta)[0]
    return {"output": output, "f": run.task.x @ (b @ a).T}


def enlarged(seen: dict[str, np.ndarray]) -> float:
    """‖f̃‖/‖f‖ of ASF-LoRA's own outputs."""
    return float(np.linalg.norm(seen["output"]) / np.linalg.norm(seen["f"]))


@family_claim(
    "4-asf-similar-output",
    says=SIMILAR,
    reading="A less kind reading: the module's output, too, has the size of its BAx to a quarter, after AdamW at 1e-4 "
    "for up to 300 steps; a factor on the output does not leave it there.",
    depends_on=("4-asf-similar",),
)
def asf_similar_output(cases: Cases) -> Finding:
    """ASF-LoRA's output over its BAx."""
    run = Run(layer_training.paper_problem(cases.rng), "adamw", PAPER_ETAS[0], PAPER_RATE, 200)
    own = [Case(f"AdamW at 1e-4, 200 steps, η = {one.run.eta:.3g}", one, True) for one in switched(run, PAPER_ETAS)]
    judged = cases.judge(
        [*own, *cases.draw(switches, 5)],
        measure=outputs,
        printed=lambda case, seen: abs(enlarged(seen) - 1) <= QUARTER,
        corrected=lambda case, seen: relative_error(seen["output"], adaptive.asf(seen["f"], case.run.eta)) <= TOLERANCE,
        condition=within,
    )
    ratio = enlarged(judged.own[-1])
    return judged.finding(
        conditional=f"Only for η near 1: at η² = 4 the output is {ratio:.1f} times BAx.",
        evidence=judged.evidence(
            f"a quarter; {ROUNDING}",
            lambda case: {"output over BAx": case.told},
            shown=lambda case, seen: {"output over BAx": enlarged(seen)},
            tolerance=QUARTER,
        ),
        size=Size(ratio, "times", "ASF-LoRA's output over its BAx after 200 steps of AdamW at 1e-4, η² = 4"),
        corrected="the output is f̃ = BAx/√(|BAx| + 1/η²)",
        condition="¾ ≤ ‖f̃‖/‖f‖ ≤ 5/4, f LoRA's BAx after the same training, f̃ = f/√(|f| + 1/η²): for outputs far below "
        "1/η² that is η itself (⅞ and 9/8 for half the tolerance, ½ and 3/2 for twice)",
        flips_if="an output of BAx's size at η = 2",
    )


class Outputs(NamedTuple):
    """An output f of one layer and η."""

    f: float
    eta: float


@family_claim(
    "4-output-scales-gradient",
    where="§5.2",
    says="Since a scaling factor on output is implicitly also a scaling factor on gradient, we use the same η",
    reading="ASF-LoRA's output factor d = 1/√(|f| + 1/η²) multiplies the gradient, too, by a factor above 0, which is "
    "η at f = 0, as d is. A constant factor is 4-scaled-gradient.",
    depends_on=("4-scaled-gradient", "4-definition"),
)
def output_scales_gradient(cases: Cases) -> Finding:
    """The layer's ∂f̃/∂f by autograd over d(|f|), down to outputs of next to nothing."""

    def slope(one: Outputs) -> float:
        unit, f = np.ones((1, 1)), np.full((1, 1), one.f)
        found = _asf_backward(Pass(f, unit, unit, unit), one.eta)
        return float(found[3][0, 0] / one.f * np.sqrt(abs(one.f) + one.eta**-2))

    def told(one: Outputs) -> float:
        u = one.eta**2 * abs(one.f)
        return 1 - u / (2 * (1 + u))

    def draw(rng: np.random.Generator) -> Outputs:
        eta = log_uniform(rng, -1, 1)
        return Outputs(float(rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 3)) / eta**2, eta)

    own = [Case(f"|f| = {f:g}, η = {eta:.3g}", Outputs(f, eta), True) for eta in PAPER_ETAS for f in (0.001, 0.05, 0.1)]
    judged = cases.judge(
        [*own, *cases.draw(draw, 24)],
        measure=slope,
        printed=lambda one, seen: seen > 0 and abs(seen - told(one)) <= TOLERANCE,
    )
    return judged.finding(
        holds="Yes: by the same factor for outputs well below 1/η², by down to half of it for large ones.",
        evidence=judged.evidence(ROUNDING, told, tolerance=TOLERANCE),
        size=ranged((0.5, 1.0), "of d", "ASF-LoRA's gradient factor at |f| = 0.1, η² = 4", told(own[-1].inputs)),
        flips_if="a gradient factor other than d·(1 − u/(2(1 + u))), u = η²|f|, which is between d/2 and d",
    )


class _Stack(NamedTuple):
    """Aligned layers x + BAx, BA = mUUᵀ: inputs' |entries| along U's first column, U (n×r), the depth, and η."""

    m: float
    inputs: tuple[float, ...]
    frame: np.ndarray
    depth: int
    eta: float


def _asf_growth(one: _Stack) -> np.ndarray:
    """The logarithm of the output's norm over the input's in each of ASF-LoRA's layers (depth × inputs)."""
    import torch

    u = torch.tensor(one.frame)
    path = [torch.tensor(one.inputs, dtype=u.dtype)[:, None] * len(u) ** 0.5 * u[None, :, 0]]
    for _ in range(one.depth):
        path.append(path[-1] + layer_training.forward("asf", path[-1], u.mT, one.m * u, one.eta))
    return np.diff(np.array([h.norm(dim=1).log().numpy() for h in path]), axis=0)


def _outputs_of(one: _Stack) -> np.ndarray:
    """|f| in each layer, by the closed form (depth × inputs)."""
    h, found = np.array(one.inputs), []
    for _ in range(one.depth):
        found.append(one.m * h)
        h = h + adaptive.asf(one.m * h, one.eta)
    return np.array(found)


SIZES = 10.0 ** np.arange(-4, 3)  # of |f| in the first layer


@family_claim(
    "4-asf-ripple",
    says="The potential downside is that it introduces ripple effect across layers, which may blur accuracy.",
    reading='"Potential" and "may": at this η there are outputs, of sizes from 1e-4 to 100, at which each of some '
    "aligned layers, the worst case, lets its input grow more than under ALLoRA's own forward pass, LoRA's at scaling "
    "1.",
    depends_on=("4-definition",),
)
def asf_ripple(cases: Cases) -> Finding:
    """Growth in each of L aligned layers against 1 + m, at outputs of many sizes, η on both sides of 1."""

    def told(one: _Stack) -> np.ndarray:
        f = _outputs_of(one)
        return np.log1p(one.m * adaptive.asf(f, one.eta) / f)

    def grows(one: _Stack, seen: np.ndarray) -> bool:
        return bool((seen > np.log1p(one.m) + TOLERANCE).all(axis=0).any())

    def stack(m: float, u: np.ndarray, depth: int, eta: float) -> _Stack:
        return _Stack(m, tuple(SIZES / m), u, depth, eta)

    def draw(rng: np.random.Generator) -> _Stack:
        m, aligned = log_uniform(rng, -3, 0), frame(rng, 4, int(rng.integers(1, 5)))
        return stack(m, aligned, int(rng.integers(2, 6)), on_either_side(rng, 0.01, 1.2))

    own = at_etas("n = 64, r = 8, L = 4", lambda eta: stack(0.1, frame(cases.rng, 64, 8), 4, eta))
    judged = cases.judge(
        [*own, *cases.draw(draw, 30)],
        measure=_asf_growth,
        printed=grows,
        corrected=lambda one, seen: np.abs(seen - told(one)).max() <= TOLERANCE,
        condition=lambda one: one.eta if abs(one.eta - 1) > TOLERANCE else False,
    )
    ours, at = judged.cases[2].inputs, int(np.flatnonzero(SIZES == 0.1)[0])
    return judged.finding(
        conditional="Only for η > 1, at outputs below 1 − 1/η²: never at η² = 1; larger outputs it damps.",
        evidence=judged.evidence(ROUNDING, told, tolerance=TOLERANCE),
        size=Size(
            float(judged.measured[2][:, at].sum() / (ours.depth * np.log1p(ours.m))),
            "times",
            f"log growth over that at scaling 1, outputs near 0.1, η² = 4, {ours.depth} layers, m = ‖BA‖ = {ours.m:g}",
        ),
        corrected="a layer grows by log(1 + m·f̃/f), f̃/f = 1/√(|f| + 1/η²), which is above 1 where |f| < 1 − 1/η²",
        condition="η > 1: then at outputs |f| < 1 − 1/η² in every layer",
        flips_if="a layer that grows more at η ≤ 1, or none at outputs below 1 − 1/η²",
    )


def _refuses_to_merge(case: Layer) -> bool:
    """Whether the toolkit's ASF-LoRA module of these shapes raises when merged."""
    import torch

    from allora_analysis.lora.layers import ALLoRALinear
    from allora_analysis.validation import ArgumentError

    base = torch.nn.Linear(case.one.a.shape[1], len(case.one.b), dtype=torch.float64)
    try:
        ALLoRALinear(base, rank=1, eta=case.eta, variant="asf_lora").merge()
    except ArgumentError:
        return True
    return False


def at_x_and_twice(case: Layer, arm: str) -> tuple[float, float]:
    """What the best matrix leaves of an arm's outputs at x and 2x, and ‖f(2x) − 2f(x)‖/‖2f(x)‖."""
    import torch

    pair = adaptive.unmergeable_pair(case.one.a, case.one.b, case.eta)
    inputs = np.stack([pair.x, pair.twice])
    values = layer_training.forward(arm, *map(torch.tensor, (inputs, case.one.a, case.one.b)), case.eta).numpy()
    fitted = inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0]
    left = np.linalg.norm(values - fitted) / np.linalg.norm(values)
    return float(left), float(np.linalg.norm(values[1] - 2 * values[0]) / np.linalg.norm(2 * values[0]))


@family_claim(
    "4-asf-merge",
    says="One more caveat of ASF-LoRA is that we cannot merge BA back to W* as we need to apply f_o to the LoRA "
    "output.",
)
def asf_merge(cases: Cases) -> Finding:
    """The best matrix for ASF-LoRA's outputs at x and 2x, LoRA's beside it; and what merging the module says."""

    def measured(case: Layer) -> dict[str, object]:
        left = {name: at_x_and_twice(case, arm) for name, arm in (("ASF-LoRA", "asf"), ("LoRA", "lora"))}
        return left | {"refuses": _refuses_to_merge(case)}

    def gap(case: Layer) -> float:
        return adaptive.unmergeable_pair(case.one.a, case.one.b, case.eta).gap

    def cannot(case: Layer, seen: dict[str, object]) -> bool:
        (left, apart), (left_lora, _) = seen["ASF-LoRA"], seen["LoRA"]
        right = abs(apart - gap(case)) <= TOLERANCE and left > 0.1 * gap(case)
        return right and left_lora <= TOLERANCE and bool(seen["refuses"])

    long = f"‖x‖ = √64, rows of {PAPER_ROW}"  # x of norm 1, rows √64 times as long
    own = at_etas(f"n₂ = 64, {long}", lambda eta: Layer(layer_training.paper_pass(cases.rng, 8 * PAPER_ROW), eta))
    judged = cases.judge(
        [*own, *cases.draw(lambda rng: Layer(layer_training.draw_pass(rng), log_uniform(rng, -1, 1)), 12)],
        measure=measured,
        printed=cannot,
    )
    gaps, of = [gap(case.inputs) for case in own], "‖f̃(2x) − 2f̃(x)‖, x BA's first singular vector"
    return judged.finding(
        holds="Yes: its output is not linear in x, so no matrix gives it; the toolkit refuses to merge it.",
        evidence=judged.evidence(ROUNDING, gap, tolerance=TOLERANCE),
        size=ranged(gaps, "of 2f̃(x)", f"{of}, {long}, η² from 1 to 4", gaps[2]),
        flips_if="a matrix that gives ASF-LoRA's outputs at x and 2x",
    )
