"""§4.2, is the adaptive gradient a learning rate? Does it descend, under AdamW too?

ΔA = −l BᵀD_dG and ΔB = −l D_dGAᵀ, G = ∂L/∂(BA), for L = ½‖XPᵀ − Y‖²_F, P = BA: with its ½. The real layer takes
the steps. Checked by `tests/test_claims_4_2_descent.py`, which plants wrong formulas.
"""

import functools
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_ETAS, Case, Cases, log_uniform, on_either_side, relative_error
from allora_analysis.claims.claim import Finding, Size, claim
from allora_analysis.claims.layer_training import ADAM, Pass, Problem

TOLERANCE, NOTHING = 1e-9, 1e-10
DRAWS, RATIO = 4000, 30  # B's entries over A's, far above those of fine-tuning, so that some steps climb
LORA = [Fraction(1)] * len(adaptive.EXAMPLE.b)
descent_claim = functools.partial(claim, test="tests/test_adaptive_descent.py")


class State(NamedTuple):
    """A training's state: X, Y and A, B, η, and the optimizer whose first small step is taken from here."""

    task: Problem
    b: np.ndarray
    eta: float
    optimizer: str


def gradient(one: State) -> np.ndarray:
    """G = (XPᵀ − Y)ᵀX."""
    return (one.task.x @ (one.b @ one.task.a).T - one.task.y).T @ one.task.x


def small_step(one: State, arm: str, rate: float) -> float:
    """The loss's change in one step of the real layer over the rate, without cancellation."""
    import torch

    x, y, a = one.task
    parts = [torch.tensor(part, requires_grad=True) for part in (a, one.b)]
    rule = {"sgd": torch.optim.SGD, "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.0)}[one.optimizer]
    optimizer, inputs, target = rule(parts, lr=rate), torch.tensor(x), torch.tensor(y)
    before = layer_training.forward(arm, inputs, *parts, one.eta)
    ((before - target) ** 2).sum().div(2).backward()
    optimizer.step()
    (new_a, new_b), (old_a, old_b) = (p.detach().numpy() for p in parts), (a, one.b)
    moved = x @ (new_b @ (new_a - old_a) + (new_b - old_b) @ old_a).T
    return float(np.sum(moved * (before.detach().numpy() - y + moved / 2))) / rate


def _parts_of_change(one: State) -> tuple[float, float]:
    """A's and B's parts of dL/dl: under SGD −⟨BᵀG, BᵀD_dG⟩ and −‖D_d^{1/2}GAᵀ‖²; signs in their place under AdamW."""
    g = gradient(one)
    if one.optimizer == "sgd":
        change = adaptive.first_order_change(one.task.a, one.b, g, one.eta)
        return change.a_part, change.b_part
    step_a, step_b = adaptive.update_field(one.task.a, one.b, g, one.eta)
    lora_a, lora_b = one.b.T @ g, g @ one.task.a.T
    return -float(np.sum(lora_a * np.sign(step_a))), -float(np.sum(lora_b * np.sign(step_b)))


def _halves(one: State) -> tuple[np.ndarray, np.ndarray]:
    # d, and S = ½(BBᵀD_d + D_dBBᵀ): under SGD A's part of dL/dl is −tr GᵀSG.
    d = adaptive.row_factor(one.task.a, one.b, one.eta)
    half = one.b @ (one.b.T * d)
    return d, (half + half.T) / 2


def surely(one: State) -> bool | float:
    """σ² over the least at which no loss climbs, σ the smallest of A's n₂ singular values; True where σ = 0 will do.

    Under SGD S + σ²D_d ⪰ 0; in AdamW's first step rows of BA equally long (r < n₁, n₂, no entry of B is 0).
    """
    d, half = _halves(one)
    if np.ptp(d) <= 1e-9 * d.max():
        return True
    if one.optimizer == "adamw":
        return False
    least = -np.linalg.eigvalsh(half / np.sqrt(np.outer(d, d)))[0]
    return True if least <= 0 else float(np.linalg.eigvalsh(one.task.a.T @ one.task.a)[0] / least)


def climbing(one: State) -> State:
    """The state with a loss that climbs if any does: G = g wᵀ, w where A is least; its residual at X = I is G.

    Under SGD g is the lowest eigenvector of S + σ²D_d; under AdamW BᵀD_dg has the signs of −Bᵀg.
    """
    a, b, (d, half) = one.task.a, one.b, _halves(one)
    values, vectors = np.linalg.eigh(a.T @ a)
    if one.optimizer == "sgd":
        g = np.linalg.eigh(half + values[0] * np.diag(d))[1][:, 0]
    else:
        still = np.linalg.svd(b.T * d)[2][-1]
        turned = np.linalg.pinv(b.T * d) @ -np.sign(b.T @ still)
        g = still + np.abs(b.T @ still).min() / (2 * np.abs(b.T @ turned).max() + 1e-300) * turned
    slope = (1e4 if one.optimizer == "adamw" else 1.0) * np.outer(g, vectors[:, 0])  # far above Adam's ε
    return one._replace(task=Problem(np.eye(a.shape[1]), (b @ a - slope).T, a))


def near_the_edge(rng: np.random.Generator) -> State:
    """A state with r = n₂ and σ² within a factor of two of what is needed, by A → cA, B → B/c."""
    n2 = int(rng.integers(1, 4))
    task = layer_training.draw_problem(rng, n1=n2 + 2, n2=n2, rank=n2)
    one = State(task, 3 * rng.standard_normal((n2 + 2, n2)), log_uniform(rng, 0, 1), "sgd")
    scale = (on_either_side(rng, 0.03, 0.69) / surely(one)) ** 0.25
    return one._replace(task=task._replace(a=scale * task.a), b=one.b / scale)


def mid_training(rng: np.random.Generator, eta: float, optimizer: str) -> State:
    """LoRA's shapes, r = 8, rows of BA as long as the longest mean of our runs at the paper's rate."""
    task = layer_training.paper_problem(rng)
    return State(task, layer_training.paper_b(rng, task), eta, optimizer)


def example() -> State:
    """The rational counterexample: A = 1, B = (8, 24), y = (10, 23), x = 1, η = 1; its loss rises at every step."""
    a, b, y = adaptive.EXAMPLE.arrays()
    return State(Problem(np.ones((1, 1)), y, a), b, float(adaptive.EXAMPLE.eta), "sgd")


class Shape(NamedTuple):
    """Where random steps are drawn: n₁, n₂, r, B's entries over A's, tokens, η; all entries are Gaussian."""

    n1: int
    n2: int
    rank: int
    ratio: float = RATIO
    tokens: int = 1
    eta: float = 2.0

    def __str__(self) -> str:
        of = f"{self.tokens} token{'s' * (self.tokens > 1)}"
        at = f"r = {self.rank}, {self.n1}×{self.n2}, B {self.ratio:g} times A, {of}"
        return at + (f", η = {self.eta:g}" if self.eta != 2 else "")


OFTEN, OFTENER, AS_LORA = Shape(16, 16, 1), Shape(64, 64, 1, 100, eta=10.0), Shape(48, 64, 8, 1)
SHAPES = (
    OFTEN, Shape(16, 16, 4), Shape(16, 16, 4, tokens=32), Shape(16, 16, 1, 1), Shape(64, 64, 8), OFTENER, AS_LORA
)  # fmt: skip


def shares(rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """How often a random step ascends, with its standard error, by shape."""
    found = {}
    for one in SHAPES:
        scales = one.n2**-0.5, one.ratio * one.n2**-0.5
        seen = adaptive.ascent_frequency(
            (one.n1, one.n2, one.rank), one.eta, *scales, samples=one.tokens, draws=DRAWS, generator=rng
        )
        found[str(one)] = seen.total, seen.total_stderr
    return found


def share_of_squared_loss(one: Shape, rng: np.random.Generator) -> float:
    """How often a random step ascends where ∂L/∂f = f − y, y standard Gaussian, in place of a ∂L/∂f of its own."""

    def ascends() -> bool:
        a, b = rng.standard_normal((one.rank, one.n2)), one.ratio * rng.standard_normal((one.n1, one.rank))
        x, y = (rng.standard_normal((one.tokens, n)) for n in (one.n2, one.n1))
        return sum(_parts_of_change(State(Problem(x, y, a / one.n2**0.5), b / one.n2**0.5, one.eta, "sgd"))) > 0

    return float(np.mean([ascends() for _ in range(DRAWS)]))


STEPS = (1e-6, 1e-4, 1e-2, 1.0)


def _exact_example(seen: float) -> bool:
    """The layer's change on the example against the polynomial: the loss rises at every l > 0, LoRA's falls first."""
    polynomial = adaptive.loss_after_step(adaptive.EXAMPLE, adaptive.EXAMPLE.factor())
    lora = adaptive.loss_after_step(adaptive.EXAMPLE, LORA)
    layer = [small_step(example(), "allora", rate) * rate for rate in STEPS]
    told = [float(adaptive.evaluate(polynomial, Fraction(rate)) - polynomial[0]) for rate in STEPS]
    follows = relative_error(np.divide(layer, told), np.ones(len(STEPS))) <= 1e-6
    rises = polynomial[1] > 0 and adaptive.first_return(polynomial) is None
    falls = lora[1] < 0 and small_step(example(), "lora", 1e-6) < 0
    return bool(follows and rises and falls and abs(seen / float(polynomial[1]) - 1) <= 1e-4)


def per_size(one: State) -> float:
    """What a change is compared with: ‖G‖·(‖A‖ + ‖B‖), under SGD its square."""
    size = np.linalg.norm(gradient(one)) * (np.linalg.norm(one.task.a) + np.linalg.norm(one.b))
    return float(size ** (2 if one.optimizer == "sgd" else 1))


def changes(one: State) -> dict[str, float]:
    """The loss's change in a small step of the layer over the rate, for its own loss and for one that climbs if any."""
    rate = 1e-7 / (1 + np.sum(one.b**2) + np.sum(one.task.a**2))
    both = {"own loss": one, "worst loss": climbing(one)}
    return {name: small_step(each, "allora", rate) / per_size(each) for name, each in both.items()}


def as_told(one: State, seen: dict[str, float]) -> bool:
    """Whether both changes are those of A's and B's parts, B's not above 0; the example exactly."""
    for each, change in zip((one, climbing(one)), seen.values(), strict=True):
        a_part, b_part = _parts_of_change(each)
        told, part = (a_part + b_part) / per_size(each), b_part / per_size(each)
        if part > NOTHING or abs(change - told) > ADAM * abs(told) + NOTHING:
            return False
    return len(one.task.x) > 1 or _exact_example(seen["own loss"] * per_size(one))


def states(rng: np.random.Generator) -> State:
    """A state with r < n₂, or the same with rows of BA equally long."""
    task, b = layer_training.draw_problem(rng), rng.standard_normal((5, 2))
    if rng.random() < 0.5:
        b /= np.linalg.norm(b @ task.a, axis=1, keepdims=True)
    return State(task, b, log_uniform(rng, -1, 1), str(rng.choice(["sgd", "adamw"])))


def _of_draws(found: dict[str, tuple[float, float]], own_loss: float) -> Size:
    (often, error), (more, _), (lora, _) = (found[str(one)] for one in (OFTEN, OFTENER, AS_LORA))
    of = (
        f"random steps that ascend, {OFTEN}, η = 2, Gaussian entries, ∂L/∂f drawn apart from BA: outside LoRA's use "
        f"({own_loss:.1g} where ∂L/∂f is a squared loss's, targets standard Gaussian). Not the most: {more:.2g} with "
        f"{OFTENER}; {lora * DRAWS:.0f} of {DRAWS:,} with {AS_LORA}, where a loss chosen to climb does"
    )
    return Size(often, "of draws", of, often - 1.96 * error, often + 1.96 * error, "95 %")


def _own(rng: np.random.Generator) -> list[Case]:
    # At LoRA's shapes, in training and at its start.
    return [
        Case(f"{name}, n₂ = 64, r = 8, η = {eta:.3g}{', B = 0' * start}", one._replace(b=one.b * (not start)), True)
        for eta in PAPER_ETAS
        for name, optimizer in (("AdamW", "adamw"), ("SGD", "sgd"))
        for one in [mid_training(rng, eta, optimizer)]
        for start in (False, True)
    ]


@descent_claim(
    "4-descent",
    where="beyond the paper: §1, of what the adaptive learning rate does to the loss",
    says="A small step along ALLoRA's gradients of A and B lowers the loss.",
    reading="Whatever the loss is, no small enough step raises it; r < n₁ and, under AdamW, r < n₂, as in LoRA.",
    depends_on=("4-definition",),
)
def descent(cases: Cases) -> Finding:
    """A small step of the layer under its own loss and one that climbs if any: near the edge, at LoRA's shapes."""
    drawn = [*cases.draw(near_the_edge, 14, "near the edge"), *cases.draw(states, 10)]
    judged = cases.judge(
        [*_own(cases.rng), Case("the rational example, r = n₂ = 1", example()), *drawn],
        measure=changes,
        printed=lambda one, seen: max(seen.values()) <= NOTHING,
        corrected=as_told,
        condition=surely,
    )
    found = shares(cases.rng)
    often, lora = (100 * found[str(one)][0] for one in (OFTEN, AS_LORA))
    rational = [adaptive.loss_after_step(adaptive.EXAMPLE, d)[1] for d in (adaptive.EXAMPLE.factor(), LORA)]
    return judged.finding(
        conditional=f"Only with equally long rows; else {often:.0f} % of random losses climb at rank 1, "
        f"{f'{lora:.1g} %' if lora else 'chosen ones'} at LoRA's shape.",
        evidence=judged.evidence(
            f"a step of 1e-7, to {ADAM:g}, Adam's ε over small gradients, and {NOTHING:g} of ‖G‖(‖A‖ + ‖B‖) or, under "
            "SGD, of its square; the example exactly",
            more={
                "share of draws that ascend, its standard error": found,
                "the example's dL/dl at A = 1, B = (8, 24), y = (10, 23), x = 1, η = 1": str(rational[0]),
                "LoRA's there": str(rational[1]),
            },
            n=DRAWS,
        ),
        size=_of_draws(found, share_of_squared_loss(OFTEN, cases.rng)),
        corrected="dL/dl = −⟨BᵀG, u_A⟩ − ⟨GAᵀ, u_B⟩, (u_A, u_B) = (BᵀD_dG, D_dGAᵀ) under SGD, their signs in AdamW's "
        "first step, L = ½‖XPᵀ − Y‖²: the second part, B's, is never above 0",
        condition="rows of BA are equally long, as at B = 0, or nearly so for r ≥ n₂. In formulas: under SGD ½(BBᵀD_d "
        "+ D_dBBᵀ) + σ²D_d ⪰ 0, σ the smallest of A's n₂ singular values: 0 for r < n₂, where a B at random then needs "
        "rows equally long; these in AdamW's first step, too",
        flips_if="a loss that climbs where rows of BA are equally long, or none for a B at random where, r < n₁ and "
        "r < n₂, they are not",
    )


class Stepped(NamedTuple):
    """A pass, η, and ∂L/∂f (N×n₁) of the steps before, which fill Adam's buffers while A and B stay."""

    one: Pass
    eta: float
    before: tuple[np.ndarray, ...]

    def gradients(self, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """LoRA's, of A and B."""
        g = upstream.T @ self.one.x
        return self.one.b.T @ g, g @ self.one.a.T


def _update(case: Stepped, adapted: bool) -> list[np.ndarray]:
    """What one step at rate 1 and β₁ = 0 adds to A and B after those before: ALLoRAAdamW's, or AdamW's."""
    import torch

    from allora_analysis.lora.optim import ALLoRAAdamW

    pair = [torch.tensor(part, requires_grad=True) for part in (case.one.a, case.one.b)]
    options = {"lr": 1.0, "betas": (0.0, 0.9), "weight_decay": 0.0}
    pairs = [{"params": pair, "pair": True}]
    rule = ALLoRAAdamW(pairs, eta=case.eta, **options) if adapted else torch.optim.AdamW(pair, **options)
    for upstream in (*case.before, case.one.upstream):
        rule.param_groups[0]["lr"] = float(upstream is case.one.upstream)
        for part, slope in zip(pair, case.gradients(upstream), strict=True):
            part.grad = torch.tensor(slope)
        rule.step()
    return [part.detach().numpy() - old for part, old in zip(pair, (case.one.a, case.one.b), strict=True)]


@claim(
    "4-allora-adamw",
    where="beyond the paper: §4.2's factor on AdamW's update",
    says="With β₁ = 0 and no weight decay a small step of ALLoRAAdamW, at any time, keeps the signs of AdamW's and "
    "lowers the loss.",
    test="tests/test_lora_optim.py",
    depends_on=("4-descent",),
)
def survives_adam(cases: Cases) -> Finding:
    """ALLoRAAdamW's step against AdamW's times d (B) and mean d (A), and the first-order change of the loss."""

    def expected(case: Stepped) -> list[np.ndarray]:
        factor = adaptive.row_factor(case.one.a, case.one.b, case.eta)
        plain = _update(case, adapted=False)
        return [plain[0] * factor.mean(), plain[1] * factor[:, None]]

    def slope(case: Stepped, steps: list[np.ndarray]) -> float:
        return float(sum(np.sum(g * step) for g, step in zip(case.gradients(case.one.upstream), steps, strict=True)))

    def keeps(case: Stepped, seen: list[np.ndarray]) -> bool:
        told = expected(case)  # of AdamW's signs, since factors are above 0
        same = all(np.array_equal(np.sign(one), np.sign(other)) for one, other in zip(seen, told, strict=True))
        return same and max(map(relative_error, seen, told)) <= TOLERANCE and slope(case, seen) < 0

    def draw(rng: np.random.Generator) -> Stepped:
        one = layer_training.draw_pass(rng)
        before = tuple(rng.standard_normal((rng.choice([0, 1, 10]), *one.upstream.shape)))
        return Stepped(one._replace(b=3 * one.b), log_uniform(rng, -1, 1), before)

    a, b, y = adaptive.EXAMPLE.arrays()
    counter = Stepped(Pass(np.ones((1, 1)), (b @ a).T - y, a, b), float(adaptive.EXAMPLE.eta), ())
    judged = cases.judge(
        [Case("4-descent's example", counter), *cases.draw(draw, 12)],
        measure=lambda case: _update(case, adapted=True),
        printed=keeps,
    )
    return judged.finding(
        holds="Yes, if small: each row of B takes AdamW's step times a positive factor, A times the factors' mean.",
        evidence=judged.evidence(
            "rounding of a step of size 1 subtracted from weights near 10",
            {"dL/dl": "below 0"},
            shown=slope,
            error=max(max(map(relative_error, seen, expected(case.inputs))) for case, seen in judged.pairs),
            tolerance=TOLERANCE,
        ),
        flips_if="an entry whose sign is not that of AdamW's step, or a slope not below 0 where the gradient is not 0",
    )
