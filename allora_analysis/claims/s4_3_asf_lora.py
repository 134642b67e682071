"""§4.3 and §5.2, ASF-LoRA: its likeness to ALLoRA, its gradient, its ripple, and that it cannot be merged.

The layer is run. f̃_i = f_i/√(|f_i| + 1/η²), f = BAx. Checked by `tests/test_claims_4_3.py`, which plants
wrong formulas.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_ETAS, Case, Cases, at_etas, log_uniform, on_either_side, relative_error
from allora_analysis.claims.claim import Finding, Size, claim, ranged
from allora_analysis.claims.layer_training import PAPER_RATE, ROUNDING, Layer, Pass, Run, close
from allora_analysis.claims.s4_2_definition import frame

TOLERANCE = 1e-9
family_claim = functools.partial(claim, where="§4.3", test="tests/test_adaptive_variants.py")


def _asf_backward(one: Pass, eta: float) -> list[np.ndarray]:
    """ASF-LoRA's output and gradients."""
    return layer_training.backward(lambda *parts: layer_training.forward("asf", *parts, eta), one)


QUARTER = 0.25  # what counts as similar


class Switched(NamedTuple):
    """A run, and ‖f̃‖/‖f‖ of LoRA's outputs f = BAx after it."""

    run: Run
    told: float


def after(run: Run, arm: str) -> np.ndarray:
    """BA after the run."""
    a, b = layer_training.pairs(run, arm)[-1]
    return b @ a


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


def trained(case: Switched) -> dict[str, np.ndarray | list[np.ndarray]]:
    """BA of ASF-LoRA and of ALLoRA after a run, ASF-LoRA's output and its BAx, and BA after its first steps."""
    run = case.run
    a, b = layer_training.pairs(run, "asf")[-1]
    f = run.task.x @ (b @ a).T
    output = _asf_backward(Pass(run.task.x, 0 * run.task.y, a, b), run.eta)[0]
    first = [after(one, "asf") for one in first_steps(run)]
    return {"ASF": b @ a, "ALLoRA": after(run, "allora"), "output": output, "f": f, "first": first}


def first_steps(run: Run) -> list[Run]:
    """One step under each optimizer."""
    return [run._replace(optimizer=name, steps=1) for name in ("sgd", "momentum", "adamw")]


def apart(seen: dict[str, np.ndarray]) -> float:
    """‖BA − ALLoRA's‖ over ‖ALLoRA's‖."""
    return float(np.linalg.norm(seen["ASF"] - seen["ALLoRA"]) / np.linalg.norm(seen["ALLoRA"]))


def enlarged(seen: dict[str, np.ndarray]) -> float:
    """‖f̃‖/‖f‖ of ASF-LoRA's own outputs."""
    return float(np.linalg.norm(seen["output"]) / np.linalg.norm(seen["f"]))


def as_derived(case: Switched, seen: dict[str, np.ndarray]) -> bool:
    """Whether BA is ALLoRA's after the first step, and the output is f̃."""
    ours = [after(one, "allora") for one in first_steps(case.run)]
    output = relative_error(seen["output"], adaptive.asf(seen["f"], case.run.eta))
    return close(seen["first"], ours, 1e-7) and output <= TOLERANCE


@family_claim(
    "4-asf-similar",
    says="we may achieve similar effect by switching from adaptive learning rate to Adaptive Scaling Factor",
    reading="After the same training, AdamW at 1e-4 for up to 300 steps, BA is within a quarter of ALLoRA's, and the "
    "module's output has the size of its BAx to a quarter: a tolerance of ours.",
    depends_on=("4-scaling-as-rate",),
)
def asf_similar(cases: Cases) -> Finding:
    """BA of ASF-LoRA against ALLoRA's at the same rate, its output over its BAx, and the first step by itself."""
    run = Run(layer_training.paper_problem(cases.rng), "adamw", PAPER_ETAS[0], PAPER_RATE, 200)
    own = [Case(f"AdamW at 1e-4, 200 steps, η = {one.run.eta:.3g}", one, True) for one in switched(run, PAPER_ETAS)]
    judged = cases.judge(
        [*own, *cases.draw(switches, 8)],
        measure=trained,
        printed=lambda case, seen: apart(seen) <= QUARTER and abs(enlarged(seen) - 1) <= QUARTER,
        corrected=as_derived,
        condition=within,
    )
    distances, ratio = [apart(seen) for seen in judged.own], enlarged(judged.own[-1])
    return judged.finding(
        conditional=f"Partly: BA yes, {100 * min(distances):.0f} to {max(distances):.0%} apart; the output only for η "
        f"near 1, {ratio:.1f}-fold at η² = 4.",
        evidence=judged.evidence(
            "a quarter; the first step: 1e-7; outputs: float64 rounding",
            lambda case: {"output over BAx": case.told},
            shown=lambda case, seen: {"distance of BA": apart(seen), "output over BAx": enlarged(seen)},
            tolerance=QUARTER,
        ),
        size=Size(ratio, "times", "ASF-LoRA's output over its BAx after 200 steps of AdamW at 1e-4, η² = 4"),
        corrected="BA is ALLoRA's after the first step from B = 0; the output is f̃ = BAx/√(|BAx| + 1/η²) from then on",
        condition="¾ ≤ ‖f̃‖/‖f‖ ≤ 5/4, f LoRA's BAx after the same training, f̃ = f/√(|f| + 1/η²): for outputs far below "
        "1/η² that is η itself (⅞ and 9/8 for half the tolerance, ½ and 3/2 for twice)",
        flips_if="an output of BAx's size at η = 2, or a BA that leaves ALLoRA's by more than a quarter",
    )


@family_claim(
    "4-asf-gradient",
    says="Note that g̃ is naturally defined by using f̃ in place of f.",
    reading="The layer's output is f̃, and its gradients are those of a loss of f̃.",
)
def natural_gradient(cases: Cases) -> Finding:
    """The layer's output and gradient of B against f̃ and f̃′(f)·∂L/∂f."""

    def draw(rng: np.random.Generator) -> Layer:
        one = layer_training.draw_pass(rng)
        return Layer(one._replace(x=one.x * 10 ** rng.uniform(-2, 2)), log_uniform(rng, -1, 1))

    def told(case: Layer) -> list[np.ndarray]:
        f = case.one.x @ case.one.a.T @ case.one.b.T
        slope = adaptive.asf_derivative(f, case.eta) * case.one.upstream
        return [adaptive.asf(f, case.eta), slope.T @ (case.one.x @ case.one.a.T)]

    own = at_etas("n₂ = 64", lambda eta: Layer(layer_training.paper_pass(cases.rng), eta))
    judged = cases.judge(
        [*own, *cases.draw(draw, 12)],
        measure=lambda case: [_asf_backward(case.one, case.eta)[index] for index in (0, 3)],
        printed=lambda case, seen: close(seen, told(case), TOLERANCE),
    )
    return judged.finding(
        holds="Yes: the toolkit's layer differentiates f̃ itself.",
        evidence=layer_training.deviations(judged, told, ROUNDING, TOLERANCE),
        flips_if="a gradient of the layer other than f̃'s own",
    )


class Outputs(NamedTuple):
    """An output f of one layer and η."""

    f: float
    eta: float


SIMILAR = 0.1


@family_claim(
    "4-output-scales-gradient",
    where="§5.2",
    says="Since a scaling factor on output is implicitly also a scaling factor on gradient, we use the same η",
    reading=f"ASF-LoRA's output factor d = 1/√(|f| + 1/η²) scales the gradient by d as well, to {SIMILAR:g} of it: a "
    "threshold of ours. A constant factor is 4-scaled-gradient.",
    depends_on=("4-scaled-gradient", "4-asf-gradient"),
)
def output_scales_gradient(cases: Cases) -> Finding:
    """The layer's ∂f̃/∂f by autograd over d(|f|)."""

    def slope(one: Outputs) -> float:
        unit, f = np.ones((1, 1)), np.full((1, 1), one.f)
        found = _asf_backward(Pass(f, unit, unit, unit), one.eta)
        return float(found[3][0, 0] / one.f * np.sqrt(abs(one.f) + one.eta**-2))

    def told(one: Outputs) -> float:
        u = one.eta**2 * abs(one.f)
        return 1 - u / (2 * (1 + u))

    def edge(limit: float) -> float:
        return 2 * limit / (1 - 2 * limit)  # η²|f| at which u/(2(1 + u)) is the limit

    def draw(rng: np.random.Generator) -> Outputs:
        eta, near = log_uniform(rng, -1, 1), on_either_side(rng, 0.01, 0.69)
        return Outputs(float(rng.choice([-1, 1])) * near * edge(SIMILAR) / eta**2, eta)

    own = [Case(f"|f| = {f:g}, η = {eta:.3g}", Outputs(f, eta), True) for eta in PAPER_ETAS for f in (0.001, 0.05, 0.1)]
    judged = cases.judge(
        [*own, *cases.draw(draw, 24)],
        measure=slope,
        printed=lambda one, seen: abs(seen - 1) <= SIMILAR,
        corrected=lambda one, seen: abs(seen - told(one)) <= TOLERANCE,
        condition=lambda one: edge(SIMILAR) / (one.eta**2 * abs(one.f)),
    )
    return judged.finding(
        conditional="Only for outputs well below 1/η²: then by the same factor, later by down to half of it.",
        evidence=judged.evidence(ROUNDING, told, tolerance=TOLERANCE),
        size=ranged((0.5, 1.0), "of d", "ASF-LoRA's gradient factor at |f| = 0.1, η² = 4", told(own[-1].inputs)),
        corrected="∂f̃/∂f = d·(1 − u/(2(1 + u))), u = η²|f|: between d/2 and d",
        condition=f"η²|f| ≤ {edge(SIMILAR):g}; for half the threshold {edge(SIMILAR / 2):.2g}, for twice "
        f"{edge(2 * SIMILAR):.2g}",
        flips_if="a gradient factor of d for large outputs",
    )


class _Stack(NamedTuple):
    """Aligned layers x + BAx, BA = mUUᵀ, |entries| of x along U's first column, U (n×r), the depth, and η."""

    m: float
    x: float
    frame: np.ndarray
    depth: int
    eta: float


def _asf_growth(one: _Stack) -> np.ndarray:
    """The logarithm of the output's norm over the input's in each of ASF-LoRA's layers."""
    import torch

    u = torch.tensor(one.frame)
    path = [one.x * len(u) ** 0.5 * u[None, :, 0]]
    for _ in range(one.depth):
        path.append(path[-1] + layer_training.forward("asf", path[-1], u.mT, one.m * u, one.eta))
    return np.diff([float(h.norm().log()) for h in path])


def _outputs_of(one: _Stack) -> list[float]:
    """|f| in each layer, by the closed form."""
    h, found = one.x, []
    for _ in range(one.depth):
        found.append(one.m * h)
        h += float(adaptive.asf(one.m * h, one.eta))
    return found


@family_claim(
    "4-asf-ripple",
    says="The potential downside is that it introduces ripple effect across layers, which may blur accuracy.",
    reading="Every one of some aligned layers, the worst case, lets its input grow more than under ALLoRA's own "
    "forward pass, LoRA's at scaling 1.",
    depends_on=("4-asf-gradient",),
)
def asf_ripple(cases: Cases) -> Finding:
    """Growth in each of L aligned layers against 1 + m, outputs below and above 1 − 1/η², and on both sides of it."""

    def told(one: _Stack) -> np.ndarray:
        f = np.array(_outputs_of(one))
        return np.log1p(one.m * adaptive.asf(f, one.eta) / f)

    def edge(one: _Stack) -> bool | float:
        limit = 1 - one.eta**-2
        return limit > 0 and limit / max(_outputs_of(one))

    def draw(rng: np.random.Generator) -> _Stack:
        while True:
            eta, m = log_uniform(rng, -0.3, 1.2), log_uniform(rng, -3, 0)
            aligned = frame(rng, 4, int(rng.integers(1, 5)))
            one = _Stack(m, log_uniform(rng, -2, 2), aligned, int(rng.integers(2, 6)), eta)
            ratio = edge(one)
            if (rng.random() < 0.2 or 0.5 < ratio < 2) and abs(ratio - 1) > 0.02:
                return one

    own = at_etas("n = 64, r = 8, |f| from 0.1, L = 4", lambda eta: _Stack(0.1, 1.0, frame(cases.rng, 64, 8), 4, eta))
    judged = cases.judge(
        [*own, *cases.draw(draw, 30)],
        measure=_asf_growth,
        printed=lambda one, seen: bool((seen > np.log1p(one.m) + TOLERANCE).all()),
        corrected=lambda one, seen: np.abs(seen - told(one)).max() <= TOLERANCE,
        condition=edge,
    )
    ours = judged.cases[2].inputs
    return judged.finding(
        conditional="Yes, it may, where outputs are below 1 − 1/η²; larger ones it damps, and at η² = 1 all.",
        evidence=judged.evidence(ROUNDING, told, tolerance=TOLERANCE),
        size=Size(
            float(judged.measured[2].sum() / (ours.depth * np.log1p(ours.m))),
            "times",
            "log growth over that at scaling 1, outputs near 0.1, η² = 4",
        ),
        corrected="|f̃| ≤ min(η|f|, √|f|): as LoRA×η for |f| well below 1/η², at most √|f| beyond 1",
        condition="0 < |f| < 1 − 1/η² in every layer; a layer where |f| is above it grows less than at scaling 1",
        flips_if="outputs above 1 in every layer that grow more than at scaling 1",
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
        return {
            "ASF-LoRA": at_x_and_twice(case, "asf"),
            "LoRA": at_x_and_twice(case, "lora"),
            "refuses": _refuses_to_merge(case),
        }

    def gap(case: Layer) -> float:
        return adaptive.unmergeable_pair(case.one.a, case.one.b, case.eta).gap

    def cannot(case: Layer, seen: dict[str, object]) -> bool:
        (left, apart), (left_lora, _) = seen["ASF-LoRA"], seen["LoRA"]
        right = abs(apart - gap(case)) <= TOLERANCE and left > 0.1 * gap(case)
        return right and left_lora <= TOLERANCE and bool(seen["refuses"])

    own = at_etas("n₂ = 64", lambda eta: Layer(layer_training.paper_pass(cases.rng), eta))
    judged = cases.judge(
        [*own, *cases.draw(lambda rng: Layer(layer_training.draw_pass(rng), log_uniform(rng, -1, 1)), 12)],
        measure=measured,
        printed=cannot,
    )
    gaps = [gap(case.inputs) for case in own]
    return judged.finding(
        holds="Yes: its output is not linear in x, so no matrix gives it; the toolkit refuses to merge it.",
        evidence=judged.evidence(ROUNDING, gap, tolerance=TOLERANCE),
        size=ranged(gaps, "of 2f̃(x)", "‖f̃(2x) − 2f̃(x)‖, x BA's first singular vector, η² from 1 to 4", gaps[2]),
        flips_if="a matrix that gives ASF-LoRA's outputs at x and 2x",
    )
