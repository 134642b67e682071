"""§4.2, the definition of ALLoRA: its adaptor (Figure 5), what it scales, and whether the layer is that.

The layer is run (`lora.functional`, `lora.layers`). d_i = 1/√(‖(BA)_i‖ + 1/η²), G = ∂L/∂(BA). Checked by
`tests/test_claims_4_2_definition.py`, which plants wrong formulas.
"""

import functools
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive, adaptors
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import (
    PAPER_ETAS,
    PAPER_ROW,
    Case,
    Cases,
    at_etas,
    log_uniform,
    on_either_side,
    relative_error,
)
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, ranged
from allora_analysis.claims.layer_training import ROUNDING, Layer, Pass, close

TOLERANCE = 1e-9
definition_claim = functools.partial(claim, test="tests/test_adaptive_field.py")
REMOVES = "ALLoRA removes two hyper-parameters from LoRA: the scaling factor and the dropout rate."


class Adaptor(NamedTuple):
    """η, and sizes ‖(BA)_i‖ in increasing order, the first 0."""

    eta: float
    sizes: np.ndarray


def layer_factor(case: Adaptor) -> np.ndarray:
    """The layer's own factor for rows of these sizes."""
    import torch

    from allora_analysis.lora import functional

    one = torch.ones(1, 1, dtype=torch.float64)
    return functional.row_factor(one, torch.tensor(case.sizes[:, None]), case.eta).numpy()


@definition_claim(
    "4-adaptor",
    where="§4.2, Figure 5, Appendix C",
    says="the function 1/√(‖(BA)_{i,:}‖ + 1/η²) which reaches maximum at ‖(BA)_{i,:}‖ = 0 and then tapers down when "
    "‖(BA)_{i,:}‖ increases",
)
def adaptor(cases: Cases) -> Finding:
    """The layer's factor and the library's, over sizes from 0 to 10⁶."""

    def draw(rng: np.random.Generator) -> Adaptor:
        sizes = np.sort(np.exp(rng.uniform(np.log(1e-6), np.log(1e6), 12)))
        return Adaptor(log_uniform(rng, -2, 2), np.array([0.0, *sizes]))

    judged = cases.judge(
        [Case(f"η = {eta:.3g}", Adaptor(eta, np.array([0.0, *np.geomspace(1e-4, 4, 12)])), True) for eta in PAPER_ETAS]
        + cases.draw(draw, 12),
        measure=lambda case: [layer_factor(case), adaptors.inverse_sqrt(case.sizes, case.eta)],
        printed=lambda case, seen: (
            close(seen, [1 / np.sqrt(case.sizes + case.eta**-2)] * 2, TOLERANCE)
            and abs(seen[0][0] - case.eta) <= TOLERANCE * case.eta
            and bool((np.diff(seen[0]) < 0).all())
        ),
    )
    kept = [(1 + PAPER_ROW * eta**2) ** -0.5 for eta in PAPER_ETAS]
    return judged.finding(
        holds="Yes: its maximum is η, at 0, and it falls from there.",
        evidence=judged.evidence(ROUNDING, {"everywhere": "1/√(size + 1/η²), η at 0, falling"}, tolerance=TOLERANCE),
        size=ranged(kept, "of η", f"the factor at ‖(BA)_i‖ = {PAPER_ROW}, for η² from 4 to 1", kept[-1]),
        flips_if="a factor of the layer that rises anywhere, or is not η at 0",
    )


class Slope(NamedTuple):
    """η and u = η²‖(BA)_i‖."""

    eta: float
    u: float


@definition_claim(
    "4-inversely-proportional",
    where="Abstract; §4.2",
    says="with a coefficient inversely proportional to parameters' ℓ2 norm",
    reading="A less kind reading: the slope of log d_i in log ‖(BA)_i‖ is −1, to 1 in 100. That d_i falls as the norm "
    "grows, as the function does that §4.2 names next, is 4-adaptor's, and true.",
    depends_on=("4-adaptor",),
)
def inversely_proportional(cases: Cases) -> Finding:
    """The slope of the layer's factor in logarithms, over norms from far below 1/η² to far above."""
    step = 1e-5

    def slope(case: Slope) -> float:
        sizes = case.u / case.eta**2 * np.exp(np.array([-step, step]))
        return float(np.diff(np.log(layer_factor(Adaptor(case.eta, sizes))))[0] / (2 * step))

    def told(case: Slope) -> float:
        return -0.5 * case.u / (1 + case.u)

    own = at_etas(f"‖(BA)_i‖ = {PAPER_ROW}", lambda eta: Slope(eta, PAPER_ROW * eta**2))
    judged = cases.judge(
        own + cases.draw(lambda rng: Slope(log_uniform(rng, -1, 1), float(10 ** rng.uniform(-3, 6))), 20),
        measure=slope,
        printed=lambda case, seen: abs(seen + 1) < 0.01,
        corrected=lambda case, seen: abs(seen - told(case)) < 1e-7,
    )
    return judged.finding(
        holds_corrected="Not quite: far above 1/η² it falls as the norm's inverse square root, far below it hardly "
        "falls.",
        evidence=judged.evidence(
            "central differences at 1e-5 in log norm: h²/6 and rounding/h, below 1e-10", told, tolerance=1e-7
        ),
        size=Size(
            told(own[2].inputs),
            "log per log",
            f"slope at ‖(BA)_i‖ = {PAPER_ROW}, η² = 4; −1 is inversely proportional",
        ),
        corrected="inversely proportional to √(‖(BA)_i‖ + 1/η²): slope −½·u/(1 + u), u = η²‖(BA)_i‖",
        flips_if="a slope of −1",
    )


def layers(cases: Cases) -> list[Case]:
    """Passes at random, B = 0 among them, and at LoRA's shapes for the paper's η."""

    def draw(rng: np.random.Generator) -> Layer:
        one = layer_training.draw_pass(rng)
        return Layer(one._replace(b=one.b * float(rng.random() < 0.8)), log_uniform(rng, -1, 1))

    own = at_etas("n₂ = 64, r = 8", lambda eta: Layer(layer_training.paper_pass(cases.rng), eta))
    return own + cases.draw(draw, 12)


@definition_claim(
    "4-per-sample",
    where="Abstract",
    says="By scaling the per sample and per parameter gradients with a coefficient",
    reading="Parameters are the rows of BA, as in \"parameters' ℓ2 norm\", later in the sentence: each sample's "
    "gradient of row i, as B's row has it, is LoRA's times d_i, one for all samples. Entries of A: 4-per-parameter.",
    depends_on=("4-definition",),
)
def per_sample(cases: Cases) -> Finding:
    """The layer's gradient of B sample by sample, over LoRA's."""
    from allora_analysis.lora import functional

    def coefficients(case: Layer) -> np.ndarray:
        x, upstream, a, b = case.one
        ratios = []
        for token in range(min(len(x), 6)):
            one = Pass(x[token : token + 1], upstream[token : token + 1], a, b)
            ratios.append(
                layer_training.backward(functional.allora, one, case.eta)[3]
                / layer_training.backward(layer_training.lora, one)[3]
            )
        return np.array(ratios)

    def told(case: Layer) -> np.ndarray:
        return adaptive.row_factor(case.one.a, case.one.b, case.eta)[:, None]

    judged = cases.judge(
        layers(cases),
        measure=coefficients,
        printed=lambda case, seen: relative_error(seen, np.broadcast_to(told(case), seen.shape)) <= TOLERANCE,
    )
    spread = {case.name: float(np.ptp(seen, axis=0).max() / seen.max()) for case, seen in judged.pairs}
    return judged.finding(
        holds="Yes, row by row of BA: by one coefficient a row, the same for all samples.",
        evidence=Evidence({"relative spread over samples": 0.0}, spread, ROUNDING, max(spread.values()), TOLERANCE),
        flips_if="a coefficient that varies over samples, as ALLoRA-OD's does, or is not d_i",
    )


class Member(NamedTuple):
    """A rule of the family, "allora", "allora_od" or "asf_lora", and the layer that it is put in."""

    rule: str
    layer: Layer


def defined(member: Member) -> list[np.ndarray]:
    """A member's output and its gradients of A and B, by the definitions."""
    (x, upstream, a, b), eta = member.layer
    f = x @ a.T @ b.T
    if member.rule == "allora":
        return [f, *adaptive.update_field(a, b, upstream.T @ x, eta)]
    od = member.rule == "allora_od"
    through = upstream * (adaptors.inverse_sqrt(np.abs(f), eta) if od else adaptive.asf_derivative(f, eta))
    return [f if od else adaptive.asf(f, eta), (through @ b).T @ x, through.T @ (x @ a.T)]


@definition_claim(
    "4-definition",
    where="beyond the paper: §4.2 and §4.3, definitions, in this toolkit",
    says="This toolkit's layers are ALLoRA, ALLoRA-OD and ASF-LoRA as defined.",
    reading="ALLoRA and ALLoRA-OD: the output is f, the gradients of A and B are those through g̃, g̃_i = "
    "1/√(‖(BA)_i‖ + 1/η²)·g_i and, token by token, 1/√(|(f(x))_i| + 1/η²)·g_i. ASF-LoRA: the output is f̃ = f/√(|f| + "
    "1/η²), the gradients are a loss of f̃'s.",
)
def definition(cases: Cases) -> Finding:
    """Each layer's output and gradients against f, BᵀD_dG and D_dGAᵀ, and their likes in §4.3."""
    from allora_analysis.lora import functional

    def seen_of(member: Member) -> list[np.ndarray]:
        found = layer_training.backward(getattr(functional, member.rule), *member.layer)
        return [found[index] for index in (0, 2, 3)]

    judged = cases.judge(
        [
            Case(f"{case.name}, {rule}", Member(rule, case.inputs), case.paper)
            for rule in ("allora", "allora_od", "asf_lora")
            for case in layers(cases)
        ],
        measure=seen_of,
        printed=lambda member, seen: close(seen, defined(member), TOLERANCE),
    )
    return judged.finding(
        holds="Yes: all three layers match the paper's formulas, output and gradients.",
        evidence=layer_training.deviations(judged, defined, ROUNDING, TOLERANCE),
        flips_if="an output or a gradient of a layer other than its definition's",
    )


@definition_claim(
    "4-not-back-propagated",
    where="§4.2, implementation detail",
    says="We only modify the gradients of A and B, but not that of the input",
    depends_on=("4-definition",),
)
def not_back_propagated(cases: Cases) -> Finding:
    """∂L/∂x of the layer, and of the module with its frozen weight, against LoRA's."""
    import torch

    from allora_analysis.lora import functional
    from allora_analysis.lora.layers import ALLoRALinear

    def through_module(case: Layer) -> np.ndarray:
        x, upstream, a, b = case.one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            base = torch.nn.Linear(x.shape[1], len(b), dtype=torch.float64)
            module = ALLoRALinear(base, rank=min(len(a), *b.shape), eta=case.eta)
        inputs = torch.tensor(x, requires_grad=True)
        with torch.no_grad():
            module.b.copy_(torch.tensor(b[:, : module.b.shape[1]]))
        module(inputs).backward(torch.tensor(upstream))
        weight = (module.base.weight + module.b @ module.a).detach().numpy()
        return inputs.grad.numpy() - upstream @ weight

    judged = cases.judge(
        layers(cases),
        measure=lambda case: [layer_training.backward(functional.allora, case.one, case.eta)[1], through_module(case)],
        printed=lambda case, seen: (
            relative_error(seen[0], case.one.upstream @ case.one.b @ case.one.a) <= TOLERANCE
            and np.abs(seen[1]).max() <= TOLERANCE * max(1.0, np.abs(case.one.upstream).max())
        ),
    )
    return judged.finding(
        holds="Yes: the gradient passed to the layer below is LoRA's.",
        evidence=layer_training.deviations(
            judged, lambda case: [case.one.upstream @ case.one.b @ case.one.a, 0 * case.one.x], ROUNDING, TOLERANCE
        ),
        flips_if="a gradient of the input that carries the factor",
    )


class Adapted(NamedTuple):
    """A layer: n₁, n₂, r, the rule, η and the drop rate; what seeds its weights, inputs and mask."""

    n1: int
    n2: int
    rank: int
    variant: str
    eta: float
    drop_rate: float
    seed: int


def added(one: Adapted) -> tuple[np.ndarray, np.ndarray]:
    """What the layer adds while it trains, and BAx, 16×n₁."""
    import torch

    from allora_analysis.lora.layers import ALLoRALinear

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(one.seed)
        base = torch.nn.Linear(one.n2, one.n1, bias=False, dtype=torch.float64)
        layer = ALLoRALinear(base, one.rank, one.eta, variant=one.variant, drop_rate=one.drop_rate)
        layer.b.normal_()
        x = torch.randn(16, one.n2, dtype=torch.float64)
        return (layer.train()(x) - base(x)).numpy(), (x @ layer.a.T @ layer.b.T).numpy()


def off_the_product(one: Adapted) -> float:
    """How far what the layer adds is from BAx, relative: a factor on it, or a mask, shows."""
    return layer_training.norm_error(*added(one))


@definition_claim(
    "4-two-hyper-parameters",
    where="Abstract",
    says=REMOVES,
    reading="By name: while it trains, ALLoRA-0, as the abstract calls its solution 'Dropout-free', adds BAx, with no "
    "factor and no mask on it, whatever η is. If l_b is constant, as §4.2 calls it, in the sense of not tuned, η alone "
    "is left to choose of scaling factor, learning rate and drop rate; with l_b tuned, too, η stands where the factor "
    "stood, and one choice fewer is left: 4-two-fewer-to-choose.",
    test="tests/test_claims_4_2_definition.py",
    depends_on=("4-definition",),
)
def removed_by_name(cases: Cases) -> Finding:
    """What the layer of ALLoRA-0 adds, over shapes and η."""

    def draw(rng: np.random.Generator) -> Adapted:
        n1, n2, rank = int(rng.integers(4, 33)), int(rng.integers(4, 33)), int(rng.integers(1, 5))
        return Adapted(n1, n2, rank, "allora_0", log_uniform(rng, -2.3, 1.2), 0.0, int(rng.integers(2**31)))

    seed, *more = map(int, cases.rng.integers(2**31, size=100))
    own = at_etas("n₂ = 64, r = 8", lambda eta: Adapted(64, 64, 8, "allora_0", eta, 0.0, seed))
    judged = cases.judge(
        [*own, *cases.draw(draw, 16)],
        measure=lambda one: added(one)[0],
        printed=lambda one, seen: relative_error(seen, added(one)[1]) <= TOLERANCE,
    )
    as_run = own[0].inputs._replace(variant="allora", drop_rate=0.05)
    return judged.finding(
        holds="Yes: ALLoRA-0 has neither; one fewer is left to choose if l_b is tuned beside η "
        "(4-two-fewer-to-choose).",
        evidence=judged.evidence(
            "float64 rounding, 1e-9",
            {"distance from BAx": 0.0},
            shown=lambda one, seen: relative_error(seen, added(one)[1]),
            tolerance=TOLERANCE,
        ),
        size=ranged(
            [off_the_product(as_run._replace(seed=other)) for other in more],
            "of ‖BAx‖",
            "what dropout at drop rate 0.05 moves in ALLoRA as run, white inputs and B at random: √(0.05/0.95) in root "
            "mean square, less where BA's rows lie along the inputs' main directions, more where across; 0 in ALLoRA-0",
            (0.05 / 0.95) ** 0.5,
        ),
        flips_if="ALLoRA-0's output depending on η or on a mask",
    )


class Ripple(NamedTuple):
    """η, BA's singular value σ, the number of layers L, and U (n×r) of orthonormal columns and rows of one length."""

    eta: float
    sigma: float
    depth: int
    frame: np.ndarray

    @property
    def row(self) -> float:
        """‖(BA)_i‖ = σ√(r/n), BA = σUUᵀ."""
        n, rank = self.frame.shape
        return self.sigma * (rank / n) ** 0.5


def frame(rng: np.random.Generator, n: int, rank: int) -> np.ndarray:
    """U, of entries ±1/√n; n is a power of 2."""
    from scipy.linalg import hadamard

    return hadamard(n)[:, rng.permutation(n)[:rank]] * rng.choice([-1, 1], (n, 1)) / n**0.5


def _input_gradient(case: Ripple, adapted: bool) -> float:
    """‖∂L/∂x‖ through layers x + BAx of the real layer, from a gradient along U's first column: the worst case."""
    import torch

    from allora_analysis.lora import functional

    u = torch.tensor(case.frame)
    a, b = u.mT, case.sigma * u
    h = x = torch.ones(1, len(u), dtype=torch.float64, requires_grad=True)
    for _ in range(case.depth):
        f = functional.allora(h, a, b, case.eta)
        d = functional.row_factor(a, b, case.eta) if adapted else 1.0
        h = h + d * f + ((1 - d) * f).detach()  # the value of h + f, and d times f's gradient
    h.backward(u[None, :, 0])
    return float(x.grad.norm())


def growth_ratio(case: Ripple) -> float:
    """The layer's growth of the input's gradient over that with the factor: Pᵀu = σu and PᵀDu = dσu."""
    d = (case.row + case.eta**-2) ** -0.5
    return ((1 + case.sigma) / (1 + d * case.sigma)) ** case.depth


@definition_claim(
    "4-backward-ripple",
    where="§4.2, implementation detail",
    says="This helps further restrict the changes within each layer and reduce ripple effect",
    reading="The input's gradient grows less through the layers than if it were adapted too; the layers I + BA are "
    "aligned, BA's rows equally long.",
    depends_on=("4-not-back-propagated",),
)
def backward_ripple(cases: Cases) -> Finding:
    """Growth of the input's gradient through aligned layers, over that with the input's gradient adapted as well."""

    def draw(rng: np.random.Generator) -> Ripple:
        eta, near = log_uniform(rng, -0.5, 1.5), on_either_side(rng, 0.01, 0.69)
        row = near * abs(1 - eta**-2) if rng.random() < 0.8 else 0.0
        n = int(rng.choice([2, 4, 8, 16]))
        rank = int(rng.integers(1, n + 1))
        return Ripple(eta, row * (n / rank) ** 0.5, int(rng.integers(1, 25)), frame(rng, n, rank))

    sigma = PAPER_ROW * 8**0.5
    name = f"n = 64, r = 8, ‖(BA)_i‖ = {PAPER_ROW}, L = 24"
    own = at_etas(name, lambda eta: Ripple(eta, sigma, 24, frame(cases.rng, 64, 8)))
    longer = own[2].inputs._replace(sigma=0.1 * 8**0.5)
    wider = own[2].inputs._replace(
        sigma=PAPER_ROW * 48**0.5, frame=np.empty((384, 8))
    )  # of which only the shape counts
    judged = cases.judge(
        own + cases.draw(draw, 24),
        measure=lambda case: _input_gradient(case, adapted=False) / _input_gradient(case, adapted=True),
        printed=lambda case, seen: seen < 1 - TOLERANCE,
        corrected=lambda case, seen: abs(seen / growth_ratio(case) - 1) <= TOLERANCE,
        condition=lambda case: (1 - case.eta**-2) / case.row if case.eta > 1 and case.row > 0 else False,
    )
    return judged.finding(
        conditional="Mostly: for short rows at η² = 2 and 4; at η² = 1 ripple grows by "
        f"{100 * (judged.measured[0] - 1):.1f} %.",
        evidence=judged.evidence(ROUNDING, growth_ratio, tolerance=TOLERANCE),
        size=Size(
            judged.measured[2],
            "times",
            "growth of the input's gradient over that if adapted, 24 aligned layers, n = 64, r = 8, row norms of "
            f"{PAPER_ROW} (σ = {sigma:.2f}), η² = 4; {growth_ratio(longer):.2g} at rows of 0.1, "
            f"{growth_ratio(wider):.2g} at rows of {PAPER_ROW} and n = 384, all-MiniLM-L6-v2's",
        ),
        corrected="over L aligned layers ((1 + σ)/(1 + d_iσ))^L of what it would grow if adapted, σ BA's singular "
        "value along the gradient: ‖(BA)_i‖√(n/r) where r of them are equal",
        condition="0 < ‖(BA)_i‖ < 1 − 1/η²",
        flips_if="a layer whose input gradient carries the factor, or growth on the other side of 1 − 1/η²",
    )
