"""§4.2, Eq. (6): a scaled output's gradient, a scaled gradient as a larger learning rate; A's and B's by entries.

The layer with a constant adaptor is run (`lora.functional`). G = ∂L/∂(BA). Checked by
`tests/test_claims_4_2_definition.py`, which plants wrong formulas.
"""

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
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass, Run, first_gradient

TOLERANCE = 1e-9
SIZES = 100


class Scaled(NamedTuple):
    """A pass whose upstream is the target, η, and the loss of η·f: squared, or linear in the output."""

    one: Pass
    eta: float
    loss: str


def scaled_gradient_of(case: Scaled) -> list[np.ndarray]:
    """η·f, and ∂L(η·f)/∂(BA) by autograd."""
    import torch

    p = torch.tensor(case.one.b @ case.one.a, requires_grad=True)
    f, y = case.eta * torch.tensor(case.one.x) @ p.mT, torch.tensor(case.one.upstream)
    (((f - y) ** 2).sum() / 2 if case.loss == "squared" else -(f * y).sum()).backward()
    return [f.detach().numpy(), p.grad.numpy()]


def eta_times_g(case: Scaled, at: float) -> np.ndarray:
    """η·g with ∂L/∂f taken at `at`·f."""
    output = at * case.one.x @ (case.one.b @ case.one.a).T
    return case.eta * ((output - case.one.upstream) if case.loss == "squared" else -case.one.upstream).T @ case.one.x


@claim(
    "4-scaled-gradient",
    test="tests/test_adaptive_field.py",
    where="§4.2, Eq. (6)",
    says="f̃ = κ∘f = ηf, g̃ = κ∘f = ηg",
    reading="κ: x ↦ ηx; κ∘f in the second line stands for κ∘g, with Definition 2's g, the gradient at f(x).",
)
def scaled_gradient(cases: Cases) -> Finding:
    """Autograd's ∂L(ηf)/∂(BA) against η·g at f and at ηf; the loss squared or linear."""

    def draw(rng: np.random.Generator) -> Scaled:
        one = layer_training.draw_pass(rng)
        loss = str(rng.choice(["squared", "linear"]))
        return Scaled(one._replace(b=one.b * float(rng.random() < 0.8)), log_uniform(rng, -1, 1), loss)

    own = at_etas("n₂ = 64, r = 8", lambda eta: Scaled(layer_training.paper_pass(cases.rng), eta, "squared"))
    judged = cases.judge(
        [*own, *cases.draw(draw, 16)],
        measure=scaled_gradient_of,
        printed=lambda case, seen: relative_error(seen[1], eta_times_g(case, 1.0)) <= TOLERANCE,
        corrected=lambda case, seen: relative_error(seen[1], eta_times_g(case, case.eta)) <= TOLERANCE,
    )
    drawn = [Scaled(layer_training.paper_pass(cases.rng), 2.0, "squared") for _ in range(100)]
    moved = lambda one: layer_training.norm_error(eta_times_g(one, one.eta), eta_times_g(one, 1.0))  # noqa: E731
    near = np.median([moved(one._replace(one=one.one._replace(upstream=one.one.upstream / 10))) for one in drawn])
    return judged.finding(
        holds_corrected="Not as printed, a misprint: g̃ = κ∘g, with g at the scaled output.",
        evidence=layer_training.deviations(
            judged,
            lambda case: [case.eta * (case.one.x @ (case.one.b @ case.one.a).T), eta_times_g(case, case.eta)],
            ROUNDING,
            TOLERANCE,
        ),
        size=ranged(
            [moved(one) for one in drawn],
            "of its norm",
            f"what g changes by when taken at ηf in place of f, r = 8, rows of {PAPER_ROW}, η² = 4, inputs of variance "
            f"1/i, i = 1 … 64, targets of standard deviation 1 ({near:.2g} if they are a tenth as large), 100 draws",
        ),
        corrected="g̃ = κ∘g = ηg, with ∂L/∂f in g taken at ηf",
        flips_if="a gradient of the scaled layer other than η times ∂L/∂f at ηf, xᵀ",
    )


class Trained(NamedTuple):
    """A training, and the norm h of other gradients that are clipped with A's and B's."""

    run: Run
    other: float = 0.0


def _rate_cases(cases: Cases) -> list[Case]:
    """AdamW at the paper's setting; all optimizers with and without clipping, other gradients and weight decay."""

    def draw(rng: np.random.Generator) -> Trained:
        task, eta, kind = layer_training.draw_problem(rng), log_uniform(rng, 0.2, 1.0), rng.integers(6)
        g, other = first_gradient(task), float(rng.choice([0.0, 0.0, 0.5, 5.0]))
        decay = float(rng.choice([0.0, 0.0, 0.1]))
        if kind < 3:
            over = on_either_side(rng, 0.02, 0.69) * np.hypot(eta, other)
            name, steps = str(rng.choice(["sgd", "momentum"])), int(rng.choice([1, 10]))
            return Trained(Run(task, name, eta, 1e-3, steps, over * g), other * g)
        if kind == 3:
            return Trained(Run(task, str(rng.choice(["sgd", "momentum"])), eta, 1e-3, 10, decay=decay))
        clip = None if kind == 4 else g * float(rng.choice([0.3, 1.1, (1 + eta) / 2]))
        return Trained(Run(task, "adamw", eta, 1e-3, 30, clip, decay), other * g)

    def own(eta: float, clip: float | None = None) -> Trained:
        task = layer_training.paper_problem(cases.rng)
        return Trained(Run(task, "adamw", eta, PAPER_RATE, 20, clip and clip * first_gradient(task)))

    clipped = Case("AdamW, η = 2, clipped at 1.5‖g‖", own(2.0, 1.5), paper=True)
    return [*at_etas("AdamW", own, PAPER_ETAS[1:]), clipped, *cases.draw(draw, 26)]


def largest_gradient(run: Run) -> float:
    """The largest norm that LoRA's gradients of A and B have before a step at η·l, nothing being clipped."""
    x, y, _ = run.task
    path = layer_training.pairs(run._replace(clip=None), "lora", run.eta)[:-1]
    slopes = [((x @ (b @ a).T - y).T @ x / len(x), a, b) for a, b in path]
    return max(float(np.hypot(np.linalg.norm(b.T @ g), np.linalg.norm(g @ a.T))) for g, a, b in slopes)


def follows_the_gradient(case: Trained) -> bool | float:
    """Whether steps grow with the gradient: SGD or momentum, no decay; where clipped, c over √(η²g² + h²)."""
    run = case.run
    if run.clip is None or run.optimizer == "adamw" or run.decay:
        return run.optimizer != "adamw" and not run.decay
    return run.clip / float(np.hypot(run.eta * largest_gradient(run), case.other))


def divides_out(case: Trained) -> bool:
    """Whether one number is between both layers' gradients in all steps: unclipped, or A's and B's alone clipped."""
    run = case.run
    return run.clip is None or (case.other == 0 and run.clip < 0.9 * first_gradient(run.task))


@claim(
    "4-scaling-as-rate",
    test="tests/test_claims_4_2_definition.py",
    where="§4.2, below Eq. (6)",
    says="force f_o = I, while keeping g̃ intact, which is to use a larger learning rate η·l",
    reading="A layer whose gradient, far above Adam's ε, is multiplied by η > 1 trains at l as LoRA does at η·l. Steps "
    "along the gradients of A and B themselves, plain SGD's, meet the condition.",
    depends_on=("4-scaled-gradient",),
)
def scaling_as_rate(cases: Cases) -> Finding:
    """The layer with a constant adaptor at l against LoRA at η·l and at l, under each optimizer."""

    def distances(case: Trained) -> dict[str, float]:
        run = case.run
        scaled, plain, fast = (
            layer_training.products(run, *arm, other_norm=case.other)[-1]
            for arm in (("constant",), ("lora",), ("lora", run.eta))
        )
        return {"from LoRA at η·l": relative_error(scaled, fast), "from LoRA at l": relative_error(scaled, plain)}

    judged = cases.judge(
        _rate_cases(cases),
        measure=distances,
        printed=lambda case, seen: seen["from LoRA at η·l"] <= TOLERANCE,
        corrected=lambda case, seen: (
            case.run.optimizer != "adamw" or not divides_out(case) or seen["from LoRA at l"] <= 1e-3
        ),
        condition=follows_the_gradient,
    )
    own = [seen["from LoRA at l"] for seen in judged.own]
    return judged.finding(
        conditional="Only where steps grow with the gradient (SGD, unclipped, no weight decay): AdamW divides η out.",
        evidence=judged.evidence("rounding; 1e-3 for AdamW, its ε over small gradients", tolerance=TOLERANCE),
        size=ranged(
            own,
            "of BA's largest entry",
            "distance from LoRA at l after 20 steps of AdamW at 1e-4; in brackets also clipped at 1.5‖g‖, η² = 4",
            max(own[:2]),
        ),
        corrected="LoRA at η·l under SGD or momentum, unclipped and without weight decay; LoRA at l under AdamW, "
        "unclipped or with A's and B's gradients alone clipped in every step of both",
        condition="SGD or momentum, no weight decay, and c ≥ √(η²g² + h²) in every step, g and h the norms of LoRA's "
        "and all other gradients, c that they are clipped at together (∞ without clipping)",
        flips_if="AdamW moving BA by η times as much",
        assumes="AdamW",
    )


class Entries(NamedTuple):
    """A pass, η, and whose gradient is looked at."""

    one: Pass
    eta: float
    which: str


def over(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Entry over entry; 1 where both are 0, which any coefficient makes of 0."""
    none = (one == 0) & (other == 0)
    return np.where(none, 1.0, one) / np.where(none, 1.0, other)


def ratios(case: Entries) -> np.ndarray:
    """The layer's gradient of A or of B over LoRA's."""
    from allora_analysis.lora import functional

    rules = (functional.allora, case.one, case.eta), (layer_training.lora, case.one)
    return over(*(layer_training.backward(*rule)[2 if case.which == "A" else 3] for rule in rules))


def coefficients(case: Entries) -> np.ndarray:
    """The closed form: B's rows by d_i, A's re-weighted over rows."""
    x, upstream, a, b = case.one
    d = adaptive.row_factor(a, b, case.eta)
    if case.which == "B":
        return np.broadcast_to(d[:, None], b.shape)
    g = upstream.T @ x
    return over(b.T @ (d[:, None] * g), b.T @ g)


def turning(case: Entries) -> Entries:
    """The case with ∂L/∂f = 1gᵀ, Bᵀ_kg > 0 > Bᵀ_kD_dg: entries of A's gradient turn their signs if any loss does it."""
    x, _, a, b = case.one
    d = adaptive.row_factor(a, b, case.eta)
    unit, scaled = (part / np.maximum(np.linalg.norm(part, axis=0), 1e-300) for part in (b, d[:, None] * b))
    g = max((unit - scaled).T, key=np.linalg.norm)
    if case.which == "B" or np.linalg.norm(g) < TOLERANCE:
        return case
    return case._replace(one=case.one._replace(upstream=np.tile(g, (len(x), 1))))


def keeps_signs(case: Entries) -> bool:
    """B's gradient; or d is one on the rows where a column of B is not 0, for every column."""
    _, _, a, b = case.one
    d = adaptive.row_factor(a, b, case.eta)
    return case.which == "B" or all(np.ptp(d[column != 0]) <= TOLERANCE * d.max() for column in b.T if column.any())


def entries(rng: np.random.Generator) -> Entries:
    """A pass of rank 1 with rows of BA of different length, of one, or at B = 0; or of rank 2."""
    one = layer_training.draw_pass(rng, n1=6, n2=3, rank=(rank := int(rng.integers(1, 3))))
    b = np.sign(one.b) if rng.random() < 0.5 else one.b
    b = b * np.kron(np.eye(2), np.ones((3, 1))) if rank == 2 else b
    b = b * np.exp(rng.uniform(0, 3)) * (rng.random() > 0.1)
    return Entries(one._replace(b=b), log_uniform(rng, 0, 1), str(rng.choice(["A", "A", "B"])))


@claim(
    "4-per-parameter",
    test="tests/test_claims_4_2_definition.py",
    where="Abstract",
    says="By scaling the per sample and per parameter gradients with a coefficient",
    reading="A less kind reading: parameters are A's and B's entries; each entry of their gradients is LoRA's times a "
    "coefficient above 0, whatever the loss.",
    depends_on=("4-definition", "4-per-sample"),
)
def per_parameter(cases: Cases) -> Finding:
    """The layer's gradient of A or of B over LoRA's, entry by entry, for a loss of its own and one that turns signs."""
    shape = layer_training.paper_pass(cases.rng)
    start = shape._replace(b=0 * shape.b)
    own = [Case(f"{which}'s, n₂ = 64, r = 8, η = 2", Entries(shape, 2.0, which), True) for which in ("A", "B")]
    own += [Case(f"{which}'s, the same at B = 0", Entries(start, 2.0, which), True) for which in ("A", "B")]
    a, b, y = adaptive.EXAMPLE.arrays()
    counter = Pass(np.ones((1, 1)), (b @ a).T - y, a, b)
    judged = cases.judge(
        [*own, Case("A's, the rational example", Entries(counter, 1.0, "A")), *cases.draw(entries, 24)],
        measure=lambda case: [ratios(case), ratios(turning(case))],
        printed=lambda case, seen: all((each > 0).all() for each in seen),
        corrected=lambda case, seen: layer_training.close(seen, map(coefficients, (case, turning(case))), 1e-6),
        condition=keeps_signs,
    )
    drawn = [Entries(layer_training.paper_pass(cases.rng), 2.0, "A") for _ in range(SIZES)]
    turned = [float(np.mean(coefficients(case) <= 0)) for case in drawn]
    return judged.finding(
        conditional="Only B's entries: A's gradient mixes rows, so some signs change; BA's rows are each scaled.",
        evidence=judged.evidence(
            "float64 rounding over entries near 0, 1e-6",
            lambda case: [coefficients(case).min(), coefficients(case).max()],
            shown=lambda case, seen: [[each.min(), each.max()] for each in seen],
            tolerance=1e-6,
        ),
        size=ranged(
            turned,
            "of A's entries",
            f"entries of A's gradient that change sign, r = 8, row norms near {PAPER_ROW}, η = 2, mean of {SIZES} "
            "draws",
            float(np.mean(turned)),
        ),
        corrected="B_i's entries times d_i; A's gradient BᵀD_dG in place of BᵀG",
        condition="B's gradient; A's where for every k the rows of BA with B_ik ≠ 0 are equally long, as at B = 0",
        flips_if="A's gradient keeping its signs for every loss where rows with B_ik ≠ 0 differ in length",
    )
