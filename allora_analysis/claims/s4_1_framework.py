"""§4.1, the framework of Definition 2: is it of the output, what does it hold, and is g̃ a gradient?

Here f(x) = BAx; a mask m ∈ {0, 1} is drawn without its factor 1/(keep probability), which changes none
of these statements. Checked by `tests/test_claims_4_1.py`, which plants wrong formulas.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import null_space
from scipy.special import softmax

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_DROP, PAPER_ROW, Case, Cases, Judged, log_uniform, relative_error
from allora_analysis.claims.claim import Evidence, Finding, claim, ranged
from allora_analysis.claims.layer_training import ROUNDING, Pass, Problem, close

framework_claim = functools.partial(claim, test="tests/test_adaptive_field.py")
TOLERANCE = 1e-9


class Adaption(NamedTuple):
    """A scaling factor, or masks on a LoRA layer's outputs, latent space or inputs; inputs to probe it with.

    The masks are a row for each token, as training draws them, or one row for all.
    """

    kind: str
    eta: float
    mask: np.ndarray
    one: Pass
    probes: np.ndarray


def adapted(case: Adaption, x, a, b):
    """The layer's output, masked where dropout is: "output" (§4.1), "latent" (§3.1), "input" (LoRA's code)."""
    import torch

    m = torch.tensor(case.mask)
    if case.kind == "scaling":
        return layer_training.forward("scaled", x, a, b, case.eta)
    if case.kind == "output":
        return m * layer_training.lora(x, a, b)
    return (m * (x @ a.mT)) @ b.mT if case.kind == "latent" else layer_training.lora(m * x, a, b)


def output_and_gradient(case: Adaption, one: Pass) -> list[np.ndarray]:
    """The adapted output, and the gradient of B through it."""
    found = layer_training.backward(lambda *parts: adapted(case, *parts), one)
    return [found[0], found[3]]


def plain(one: Pass) -> list[np.ndarray]:
    """LoRA's output and gradients of x, A and B."""
    g = one.upstream.T @ one.x
    return [one.x @ (one.b @ one.a).T, one.upstream @ one.b @ one.a, one.b.T @ g, g @ one.a.T]


def adaption(kind: str, one: Pass, drop_rate: float, rng: np.random.Generator, masks: int = 1) -> Adaption:
    """So many masks that drop this share each, at least one entry, or a scaling factor."""
    size = {"latent": len(one.a), "input": one.a.shape[1]}.get(kind, len(one.b))
    order = rng.permuted(np.tile(np.arange(size), (masks, 1)), axis=1)
    mask = (order >= max(1, round(drop_rate * size))).astype(float)
    return Adaption(kind, log_uniform(rng, 0.1, 1.0), mask, one, rng.standard_normal((200, one.a.shape[1])))


def adaptions(cases: Cases, kinds: Sequence[str]) -> list[Case]:
    """A scaling factor or masks each, ranks below, at and above n₁ and n₂; LoRA's shapes first, a mask a token."""

    def draw(rng: np.random.Generator) -> Adaption:
        n1, n2, rank = (int(rng.integers(*ends)) for ends in ((2, 6), (2, 6), (1, 5)))
        kind, one = str(rng.choice(kinds)), layer_training.draw_pass(rng, n1, n2, rank)
        if rank > 1 and rng.random() < 0.2:  # B of lower rank than r
            one = one._replace(b=one.b[:, [0, *range(rank - 1)]])
        case = adaption(kind, one, float(rng.choice([0.2, 0.5])), rng, int(rng.choice([1, len(one.x)])))
        return parted(rng, case) if kind == "input" and len(case.mask) == 1 and rng.random() < 0.7 else case

    own = layer_training.paper_pass(cases.rng)
    return [
        *(Case(f"{kind}, n₂ = 64, r = 8", adaption(kind, own, PAPER_DROP, cases.rng, 32), True) for kind in kinds),
        *cases.draw(draw, 32),
    ]


def parted(rng: np.random.Generator, case: Adaption) -> Adaption:
    """A's first row in the masked features, the others in these or in the kept, half of the draws but for a nudge."""
    masked = np.arange(len(case.one.a))[:, None] <= rng.integers(len(case.one.a))
    a = case.one.a * np.abs(case.mask - masked)
    return case._replace(one=case.one._replace(a=a + 1e-3 * rng.integers(2) * rng.standard_normal(a.shape)))


def follows_from_f(case: Adaption) -> bool:
    """Whether the adapted map is a function of f = BAx: under each mask its rows lie in BA's row space.

    Masks on the input keep that space V in itself exactly where it is the sum of a part in the masked features and one
    in the kept: V·diag(m) ⊂ V.
    """
    a, b = case.one.a, case.one.b
    if case.kind in ("scaling", "output"):
        return True
    masked = [(b * m) @ a if case.kind == "latent" else b @ (a * m) for m in case.mask]
    return bool(np.linalg.matrix_rank(np.vstack([b @ a, *masked]), 1e-8) == np.linalg.matrix_rank(b @ a, 1e-8))


def same_f(one: Pass) -> np.ndarray:
    """Inputs x moved by their own length, where BA has a null space, along what lies in it of one fixed vector."""
    _, values, basis = np.linalg.svd(one.b @ one.a, full_matrices=False)
    rows, way = basis[values > 1e-8 * values[0]], np.cos(np.arange(one.a.shape[1]))
    way = way - rows.T @ (rows @ way)
    size = np.linalg.norm(way)
    return one.x + np.linalg.norm(one.x, axis=1, keepdims=True) * way / size if size > 1e-8 else one.x


@framework_claim(
    "4-both-adaptions",
    test="tests/test_claims_4_1.py",
    where="§4.1, below Eq. (4)",
    says="both scaling factor and dropout are adaptions on LoRA output f(x), and both have effects on gradient",
    reading="Two inputs with one f(x) have one adapted output under one mask, which training draws for each x, with "
    "dropout of (f(x))_i, as §4.1 has it; LoRA's own is row 4-both-adaptions-in-lora.",
)
def both_adaptions(cases: Cases) -> Finding:
    """The scaled and the masked layer on two inputs that BA maps to one output."""
    judged = on_one_f(cases, ("scaling", "output"))
    return judged.finding(
        holds="Yes: the scaling factor and dropout of outputs, which §4.1 speaks of.",
        evidence=judged_distance(judged),
        flips_if="a scaled or masked output that differs at two inputs of one f(x), or a gradient that is LoRA's",
    )


def on_one_f(cases: Cases, kinds: Sequence[str], *known: Case) -> Judged:
    """Whether two inputs that BA maps to one output have one adapted output, and a gradient that is not LoRA's."""
    return cases.judge(
        [*adaptions(cases, kinds), *known],
        measure=lambda case: output_and_gradient(case, case.one._replace(x=same_f(case.one))),
        printed=lambda case, seen: (
            relative_error(seen[0], output_and_gradient(case, case.one)[0]) <= 1e-7
            and relative_error(seen[1], plain(case.one._replace(x=same_f(case.one)))[3]) > 1e-7
        ),
        condition=follows_from_f,
    )


def distance(case: Adaption, seen: list[np.ndarray]) -> float:
    """How far what was seen is from the adapted output at the pass's own inputs."""
    return layer_training.norm_error(seen[0], output_and_gradient(case, case.one)[0])


def judged_distance(judged: Judged) -> Evidence:
    """The distance of the two adapted outputs, by case."""
    return judged.evidence(ROUNDING, {"distance of two outputs at one f(x)": 0.0}, shown=distance, tolerance=1e-7)


@framework_claim(
    "4-both-adaptions-in-lora",
    test="tests/test_claims_4_1.py",
    where="beyond the paper: §4.1, below Eq. (4), of dropout where §3.1 and LoRA's code have it",
    says="LoRA's own dropout, too, is an adaption on LoRA output f(x).",
    reading="Two inputs with one f(x) have one adapted output, with masks on the inputs (LoRA's code) or in the latent "
    "space (§3.1).",
    depends_on=("4-both-adaptions",),
)
def own_dropout(cases: Cases) -> Finding:
    """The masked layers on two inputs that BA maps to one output."""
    one = layer_training.draw_pass(cases.rng, 2, 3, 1)._replace(a=np.array([[1.0, 1.0, 0.0]]))
    both = Adaption("input", 1.0, np.array([[0.0, 0.0, 1.0]]), one, one.x)
    judged = on_one_f(cases, ("input", "latent"), Case("A = (1, 1, 0), inputs 1 and 2 masked together", both))
    drawn = [adaption("input", layer_training.paper_pass(cases.rng), PAPER_DROP, cases.rng) for _ in range(100)]
    return judged.finding(
        conditional="Partly: in the latent space, if B has rank r; not in LoRA's code, which masks inputs.",
        evidence=judged_distance(judged),
        size=ranged(
            [distance(case, output_and_gradient(case, case.one._replace(x=same_f(case.one)))) for case in drawn],
            "of the output's norm",
            "distance of LoRA's masked outputs at one f(x), x moved by its own length, drop rate 0.05, 100 draws",
        ),
        condition="f(x) decides the masked output: the masked product has its rows in BA's row space. So of masks in "
        "the latent space surely where B has rank r (so r ≤ n₁), of masks on the input only where that space is the "
        "sum of a part in the masked features and one in the kept",
        flips_if="masked inputs giving one output at one f(x) where BA's row space has no two such parts",
    )


def unexplained(f: np.ndarray, outputs: np.ndarray) -> float:
    """The norm of what is left of a mask's outputs by a linear function of f, the largest over masks."""
    fitted = (f @ np.linalg.lstsq(f, seen, rcond=1e-10)[0] for seen in outputs)
    return float(max(np.linalg.norm(seen - told) for seen, told in zip(outputs, fitted, strict=True)))


@framework_claim(
    "4-subsumes",
    test="tests/test_claims_4_1.py",
    where="§4.1, above Definition 2",
    says="We are inspired to formalize a general framework that subsumes both",
    reading="f̃ = f_o∘f for a function f_o, which may be drawn anew for every x, as a token's mask is, for the scaling "
    "factor and for dropout of (f(x))_i; LoRA's own dropout is row 4-both-adaptions-in-lora.",
    depends_on=("4-both-adaptions",),
)
def subsumes(cases: Cases) -> Finding:
    """Is the adapted output f_o(f(x)) for a linear f_o a mask? The best f_o fitted on many inputs; what it leaves."""

    def f_of(case: Adaption) -> np.ndarray:
        return case.probes @ case.one.a.T @ case.one.b.T

    def outputs(case: Adaption) -> np.ndarray:
        probed = case.one._replace(x=case.probes, upstream=0 * f_of(case))
        return np.array([output_and_gradient(case._replace(mask=mask), probed)[0] for mask in case.mask])

    def left(case: Adaption, seen: np.ndarray) -> float:
        return unexplained(f_of(case), seen) / float(np.linalg.norm(f_of(case)))

    judged = cases.judge(
        adaptions(cases, ("scaling", "output")),
        measure=outputs,
        printed=lambda case, seen: left(case, seen) <= 1e-7,
    )
    return judged.finding(
        holds="Yes: the scaling factor, and dropout of outputs, whose f_o is drawn anew for every x.",
        evidence=judged.evidence(ROUNDING, {"what no f_o explains, of f(x)": 0.0}, shown=left, tolerance=1e-7),
        flips_if="a scaled or masked output that no f_o of f(x) gives",
    )


@framework_claim(
    "4-identity",
    where="§4.1, below Definition 2",
    says="Then a natural corollary is that all learning is adaptive learning (when f_o = I and f_g = I)",
)
def identity(cases: Cases) -> Finding:
    """The layer with the constant adaptor at η = 1 (f_o = f_g = I) against LoRA's output and gradients."""
    from allora_analysis.lora import functional

    judged = cases.judge(
        [Case("n₂ = 64, r = 8", layer_training.paper_pass(cases.rng), True), *cases.draw(layer_training.draw_pass, 12)],
        measure=lambda one: layer_training.backward(functional.allora, one, 1.0, "constant"),
        printed=lambda one, seen: close(seen, plain(one), TOLERANCE),
    )
    return judged.finding(
        holds="Yes: with both adaptors the identity, output and gradients are LoRA's.",
        evidence=layer_training.deviations(judged, plain, ROUNDING, TOLERANCE),
        flips_if="an output or a gradient other than LoRA's",
    )


class Field(NamedTuple):
    """ALLoRA's update field at (A, B): X, Y, A, B, η and the loss."""

    task: Problem
    b: np.ndarray
    eta: float
    loss: str


DIFFERENCES, SOFT, UNCOUPLED = 1e-5, "soft cross-entropy", ("squared", "Huber")


def product_slope(case: Field) -> np.ndarray:
    """G = ∂L/∂(BA)."""
    output = case.task.x @ (case.b @ case.task.a).T
    return layer_training.loss_gradient(case.loss, case.task.y, output).T @ case.task.x


def kink(case: Field) -> float:
    """The even part of the layer's one-sided derivative of ∂B at B = 0, over its closed form −½η³‖β_iA‖(GAᵀ)_i."""
    (x, y, a), step = case.task, 1e-7
    zero, beta = 0 * case.b, np.ones_like(case.b)

    def grad_b(b: np.ndarray) -> np.ndarray:
        return layer_training.backward(
            lambda *parts: layer_training.forward("allora", *parts, case.eta), Pass(x, -y, a, b)
        )[3]

    even = (grad_b(step * beta) + grad_b(-step * beta) - 2 * grad_b(zero)) / (2 * step)
    flat, g = np.zeros((a.shape[1], a.shape[1])), -y.T @ x
    ways = (
        adaptive.directional_derivative(a, zero, g, flat, case.eta, (np.zeros_like(a), s * beta))[1] for s in (1, -1)
    )
    closed = sum(ways) / 2
    return float(np.sum(even * closed) / np.sum(closed * closed))


def derivatives(case: Field) -> dict[str, object]:
    """The layer's gradients differenced; of the squared loss also its double backward, and the kink at B = 0."""
    found = {"Jacobian": layer_training.differenced_field(case.task, case.b, case.eta, loss=case.loss)}
    if case.loss == "squared":
        found["double backward"] = layer_training.double_backward(case.task, case.b, case.eta)
        found["kink"] = kink(case) if not layer_training.nothing_to_learn(case.task) else 1.0
    return found


def curvature(case: Field) -> np.ndarray:
    """∂G_i/∂P_j, n₁×n₁×n₂×n₂: Σ_t x_t x_tᵀ ∂²L_t/∂f_i∂f_j."""
    x, y, a = case.task
    output = x @ (case.b @ a).T
    own = np.broadcast_to(np.eye(output.shape[1]), (len(x), output.shape[1], output.shape[1]))
    if case.loss == "Huber":
        own = own * (np.abs(output - y) < 1)[:, :, None]
    elif case.loss != "squared":
        chance = softmax(output, axis=1)
        own = own * chance[:, :, None] - chance[:, :, None] * chance[:, None, :]
    return np.einsum("tij,tk,tl->ijkl", own, x, x, optimize=True)


def asymmetry(case: Field) -> np.ndarray:
    """J − Jᵀ in closed form: KᵀMK, M = diag(½d_i³(P_iG_iᵀ − G_iP_iᵀ)/‖P_i‖) + [(d_i − d_j)∂G_i/∂P_j]."""
    g, p, (n1, n2) = product_slope(case), case.b @ case.task.a, (len(case.b), case.task.a.shape[1])
    d, row = adaptive.row_factor(case.task.a, case.b, case.eta), np.arange(n1)
    between = (d[:, None] - d)[:, :, None, None] * curvature(case)
    across = p[:, :, None] * g[:, None, :] - g[:, :, None] * p[:, None, :]
    between[row, row] = across * (0.5 * d**3 / np.linalg.norm(p, axis=1))[:, None, None]
    inner = between.transpose(0, 2, 1, 3).reshape(n1 * n2, n1 * n2)
    k = product_derivative(case)
    return k.T @ inner @ k


def product_derivative(case: Field) -> np.ndarray:
    """K: (dA, dB) ↦ B dA + dB A."""
    n1, n2 = len(case.b), case.task.a.shape[1]
    return np.hstack([np.kron(case.b, np.eye(n2)), np.kron(np.eye(n1), case.task.a.T)])


def as_derived(case: Field, seen: dict[str, object]) -> bool:
    """Whether J − Jᵀ is as told; with a squared loss also Jacobian, double backward and kink, the first two apart."""
    found = seen["Jacobian"]
    apart = np.linalg.norm(found - found.T - asymmetry(case)) / np.linalg.norm(found)
    if case.loss != "squared":
        return bool(apart <= DIFFERENCES)
    place = (case.task.a, case.b, product_slope(case), case.task.x.T @ case.task.x, case.eta)
    field, twice = adaptive.update_jacobian(*place), adaptive.layer_double_backward(*place)
    return bool(
        apart <= DIFFERENCES
        and relative_error(found, field) <= DIFFERENCES
        and relative_error(seen["double backward"], twice) <= TOLERANCE
        and relative_error(seen["double backward"], field) > DIFFERENCES
        and abs(seen["kink"] - 1) <= DIFFERENCES
    )


def around(case: Field) -> list[Field]:
    """The case, and its loss at two points where A and B are moved by a hundredth."""
    rng = np.random.default_rng(0)
    move = lambda part: part + 0.01 * np.abs(part).max() * rng.standard_normal(part.shape)  # noqa: E731
    return [case, *(case._replace(task=case.task._replace(a=move(case.task.a)), b=move(case.b)) for _ in range(2))]


def asymmetries(seen: list[dict[str, object]]) -> list[float]:
    """‖J − Jᵀ‖/(2‖J‖), by point."""
    return [adaptive.relative_asymmetry(each["Jacobian"]) for each in seen]


def derivatives_around(case: Field) -> list[dict[str, object]]:
    """At the case and, if the Jacobian is symmetric there, at the other points."""
    first, others = derivatives(case), around(case)[1:]
    return [first, *map(derivatives, others if max(asymmetries([first])) <= DIFFERENCES else [])]


def has_potential(case: Field) -> bool:
    """M = 0 at every A and B: outputs uncoupled, one input feature or a loss of the rows' lengths alone, ½c‖P‖²."""
    gram = case.task.x.T @ case.task.x
    of_lengths = layer_training.nothing_to_learn(case.task) and np.allclose(gram, gram[0, 0] * np.eye(len(gram)))
    return case.loss in UNCOUPLED and bool(len(gram) == 1 or (case.loss == "squared" and of_lengths))


def factor_b(rng: np.random.Generator, a: np.ndarray, share: float = 1 / 3) -> np.ndarray:
    """B at random, n₁ = 4; in this share of the draws such that all rows of BA are as long."""
    b = rng.standard_normal((4, len(a)))
    return b / np.linalg.norm(b @ a, axis=1, keepdims=True) if rng.random() < share else b


def aligned_rows(rng: np.random.Generator, n2: int, rank: int, loss: str) -> Field:
    """Every G_i parallel to (BA)_i, for a squared loss (in half of the draws but for a nudge) or a cross-entropy."""
    task = layer_training.draw_problem(rng, 4, n2, rank)
    b = factor_b(rng, task.a)
    p, eta = b @ task.a, log_uniform(rng, 0, 1)
    x = np.linalg.qr(rng.standard_normal((12, n2)))[0]
    if loss == "squared":
        nudge = 1e-3 * float(rng.random() < 0.5) * rng.standard_normal(p.shape)
        return Field(Problem(x, x @ (rng.standard_normal((4, 1)) * p + nudge).T, task.a), b, eta, loss)
    chance, free = softmax(x @ p.T, axis=1), null_space(p.T)
    slope = x @ (free @ rng.standard_normal((free.shape[1], 1)) * p).T  # its rows sum to 0, as those of ∂L/∂f
    return Field(Problem(x, chance - 0.5 * chance.min() / np.abs(slope).max() * slope, task.a), b, eta, SOFT)


def fields(rng: np.random.Generator) -> Field:
    """One to three input features, three losses, one token or many; now and then every G_i parallel to (BA)_i."""
    n2, loss = int(rng.choice([1, 1, 2, 3])), str(rng.choice(["squared", "Huber", "cross-entropy"]))
    rank, eta = int(rng.integers(1, n2 + 1)), log_uniform(rng, 0, 1)
    while True:
        task = layer_training.draw_problem(rng, 4, n2, rank, int(rng.choice([1, 12])) if n2 > 1 else 12)
        if np.linalg.norm(task.a, axis=1).min() > 0.2:  # as A shrinks, the asymmetry does beside ‖J‖
            break
    b = factor_b(rng, task.a)
    if n2 > 1 and rng.random() < 0.4:
        return aligned_rows(rng, n2, rank, str(rng.choice(["squared", SOFT])))
    return Field(task, b, eta, loss)


@framework_claim(
    "4-adapted-gradient",
    where="beyond the paper: §4.1, Definition 2, for ALLoRA's f_g",
    says="ALLoRA's adapted gradient of A and B is the gradient of some loss.",
    reading="Its Jacobian is symmetric at every (A, B); judged at a case and at two points a hundredth away.",
    depends_on=("4-definition",),
)
def adapted_gradient(cases: Cases) -> Finding:
    """Asymmetry of the Jacobian of the layer's gradients, by central differences."""
    rng = cases.rng
    tasks = [layer_training.paper_problem(rng, 24, 32, 32) for _ in range(5)]
    papers = [Field(task, layer_training.paper_b(rng, task), 2.0, "cross-entropy") for task in tasks]
    at = f"n₂ = 32, r = 8, cross-entropy, row norms near {PAPER_ROW}, η² = 4"
    single = layer_training.draw_problem(rng, 4, 1, 1)._replace(a=np.ones((1, 1)))
    alike = Case("rows of one length, n₂ = 1, cross-entropy", Field(single, factor_b(rng, single.a, 1), 2.0, SOFT))
    tokens = Problem(np.array([[0.0, 1.0], [0.0, 1.0]]), np.eye(2), np.array([[1.0, 0.0]]))
    basis = np.linalg.qr(rng.standard_normal((12, 3)), "complete")[0]
    white = Problem(2 * basis[:, :3], basis[:, 3:7], rng.standard_normal((2, 3)))
    judged = cases.judge(
        [
            Case(at, papers[0], True),
            Case("every G_i parallel to (BA)_i, cross-entropy", aligned_rows(rng, 3, 2, SOFT)),
            alike,
            Case("r = 1, A sees no token, cross-entropy, G = 0", Field(tokens, np.c_[[1.0, 2]], 2.0, "cross-entropy")),
            Case("n₂ = 3, XᵀY = 0 and XᵀX = 4I, squared", Field(white, factor_b(rng, white.a, 0), 2.0, "squared")),
            *cases.draw(fields, 24),
        ],
        measure=derivatives_around,
        printed=lambda case, seen: max(asymmetries(seen)) <= DIFFERENCES,
        corrected=lambda case, seen: all(map(as_derived, around(case), seen)),
        condition=has_potential,
    )
    return judged.finding(
        conditional="Only where there is nothing to learn, or with one input feature and uncoupled outputs.",
        evidence=judged.evidence(
            "central differences at 1e-5: 1e-5",
            {"asymmetry ‖J − Jᵀ‖/(2‖J‖)": 0.0},
            shown=lambda case, seen: asymmetries(seen),
            tolerance=DIFFERENCES,
        ),
        size=ranged(asymmetries([*map(derivatives, papers)]), "of J", f"its antisymmetric part, {at}; five draws"),
        corrected="J − Jᵀ = KᵀMK, M = diag(½d_i³ (P_iG_iᵀ − G_iP_iᵀ)/‖P_i‖) + [(d_i − d_j) ∂G_i/∂P_j], P = BA, d its "
        "rows' factors, K: (dA, dB) ↦ B dA + dB A: 0 at single points, too, as where rows are as long and G_i ∥ P_i. "
        "At B = 0 a kink, −½η³‖β_iA‖(GAᵀ)_i along β; the layer's double backward is neither this nor a Hessian",
        condition="M = 0 at every P: ∂G_i/∂P_j = 0 for all i ≠ j (outputs uncoupled, unlike cross-entropy's), and one "
        "input feature (n₂ = 1) or a loss of the rows' lengths ‖P_i‖ alone, with nothing to learn (XᵀY = 0, XᵀX = cI)",
        flips_if="a Jacobian symmetric at a case and around it where M is not 0 at every P, or not where it is",
    )
