"""Appendix F, Listing 1: the paper's own autograd function, executed as printed and with its class name mended.

The text below is the paper's, less line numbers, which the comparison needs to the letter; the toolkit's layer shares
nothing with it. Checked by `tests/test_claims_app_f_listing.py`, which plants other listings.
"""

import functools
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims.cases import PAPER_ROW, Case, Cases, at_etas, log_uniform, on_either_side, relative_error
from allora_analysis.claims.claim import Finding, claim, ranged
from allora_analysis.claims.layer_training import Layer, Pass

TOLERANCE = 1e-9
ROUNDING = "float64 rounding where it runs; seen: 1e-15"
CLASS_ETA = 2.0  # rsq_scale = 1/4, 1/η²
LISTING = """
class ALLoRA(torch.autograd.Function):
  rsq_scale = 1. / 4. # 1 / \\eta^2

  @staticmethod
  def forward(ctx, input_x, weight_A, weight_B):
    output = input_x @ weight_A.t() @ weight_B.t()
    norms = torch.norm(weight_B @ weight_A, dim=1)
    ctx.save_for_backward(input_x, weight_A, weight_B, norms)
    return output

  @staticmethod
  def backward(ctx, grad_output):
    input_x, weight_A, weight_B, norms = ctx.saved_tensors
    accelerate = 1. / torch.sqrt(norms + LinearLayer2.rsq_scale)
    grad_input = grad_output @ weight_B @ weight_A
    temp = grad_output.mul(accelerate) @ weight_B
    temp = torch.transpose(temp, 1, 2)
    grad_weight_A = temp @ input_x
    temp = grad_output.mul(accelerate).transpose(1, 2)
    grad_weight_B = temp @ (input_x @ weight_A.t())
    return grad_input, grad_weight_A, grad_weight_B
"""
listing_claim = functools.partial(claim, where="Appendix F, Listing 1", test="tests/test_claims_app_f_listing.py")


def mended() -> str:
    """The listing with the name that it is defined under in place of `LinearLayer2`."""
    return LISTING.replace("LinearLayer2", "ALLoRA")


def with_scale(listing: str, eta: float) -> str:
    """A listing with its attribute for this η."""
    line = "rsq_scale = 1. / 4."
    assert line in listing
    return listing.replace(line, f"rsq_scale = {eta**-2!r}")


def compiled(source: str, **names) -> type:
    """The autograd function that a listing defines; `names` are further global names that it may use."""
    import torch

    scope = {"torch": torch, **names}
    exec(source, scope)  # the module's own constant
    return scope["ALLoRA"]


def with_axes(rng: np.random.Generator, leading: tuple[int, ...], n1: int, n2: int, rank: int) -> Pass:
    """A pass of inputs with these leading axes."""
    shapes = ((*leading, n2), (*leading, n1), (rank, n2), (n1, rank))
    return Pass(*(rng.standard_normal(shape) for shape in shapes))


def _batched(one: Pass) -> Pass:
    """A pass's tokens as four sentences."""
    x, upstream = (part.reshape(4, -1, part.shape[-1]) for part in (one.x, one.upstream))
    return one._replace(x=x, upstream=upstream)


def calls(cases: Cases) -> list[Case]:
    """Inputs of one to four axes at η = 2, the class's; LoRA's shapes as batch × tokens; four axes that it runs on."""

    def draw(rng: np.random.Generator) -> Layer:
        leading = tuple(int(size) for size in rng.integers(2, 5, size=rng.integers(0, 4)))
        n1, n2 = (int(size) for size in rng.integers(3, 7, size=2))
        return Layer(with_axes(rng, leading, n1, n2, int(rng.integers(1, 4))), CLASS_ETA)

    own = Layer(with_axes(cases.rng, (4, 16), 48, 64, 8), CLASS_ETA)
    two = Layer(with_axes(cases.rng, (16,), 48, 64, 8), CLASS_ETA)
    known = [Case("batch × tokens × n₂ = 64, r = 8", own, True), Case("tokens × n₂ = 64, r = 8", two)]
    for size in (1, 2):
        four = Layer(with_axes(cases.rng, (4, size, size), size, 5, size), CLASS_ETA)
        known.append(Case(f"4 × {size} × {size} × n₂ = 5, r = n₁ = {size}", four))
    return [*known, *cases.draw(draw, 20)]


def outcome(source: str, call: Layer) -> dict[str, object]:
    """Whether a listing's pass runs, and what it returns."""
    try:
        return {"outcome": "runs", "found": layer_training.backward(compiled(source).apply, call.one)}
    except (NameError, RuntimeError, IndexError) as error:
        return {"outcome": f"{type(error).__name__}: {str(error).splitlines()[0]}", "found": None}


def is_allora(found: list[np.ndarray] | None, call: Layer) -> float:
    """The largest relative error of output and gradients against the definition, batch axes summed; ∞ without them."""
    return float("inf") if found is None else max(map(relative_error, found, defined(call)))


def defined(call: Layer) -> tuple[np.ndarray, ...]:
    """Output and gradients of x, A and B by the definition."""
    x, upstream, a, b = call.one
    flat, rows = upstream.reshape(-1, len(b)), x.reshape(-1, a.shape[1])
    return x @ a.T @ b.T, upstream @ b @ a, *adaptive.update_field(a, b, flat.T @ rows, call.eta)


def three_axes(call: Layer) -> bool:
    """Whether the input is batch × tokens × n₂, or batch × 1 × … × n₂ with r = n₁ = 1, where no axis matters."""
    *_, a, b = call.one
    sizes = {*call.one.x.shape[1:-1], len(a), len(b)}
    return call.one.x.ndim == 3 or (call.one.x.ndim > 3 and sizes == {1})


def told(_: Layer, seen: dict[str, object]) -> object:
    """The outcome, without the arrays."""
    return {key: value for key, value in seen.items() if not key.startswith("found")}


@listing_claim(
    "4-listing-1",
    says="Listing 1: ALLoRA Code",
    reading="The listing as printed runs and implements ALLoRA on a batch of sentences (three axes).",
    depends_on=("4-definition",),
)
def as_printed(cases: Cases) -> Finding:
    """One forward and backward pass of the listing as printed, and with its own class name in place of another."""

    def draw(rng: np.random.Generator) -> Layer:
        sizes = [int(size) for size in rng.integers(3, 7, size=4)]
        return Layer(with_axes(rng, tuple(sizes[:2]), *sizes[2:], int(rng.integers(1, 4))), CLASS_ETA)

    own = Layer(with_axes(cases.rng, (4, 16), 48, 64, 8), CLASS_ETA)
    judged = cases.judge(
        [Case("batch × tokens × n₂ = 64, r = 8", own, True), *cases.draw(draw, 6)],
        measure=lambda call: outcome(LISTING, call) | {"found, mended": outcome(mended(), call)["found"]},
        printed=lambda call, seen: is_allora(seen["found"], call) <= TOLERANCE,
        corrected=lambda call, seen: is_allora(seen["found, mended"], call) <= TOLERANCE,
    )
    return judged.finding(
        holds_corrected="Not as printed: every backward pass raises a NameError; with the class's own name "
        "it is ALLoRA.",
        evidence=judged.evidence(ROUNDING, {"outcome": "runs"}, shown=told, tolerance=TOLERANCE),
        corrected="ALLoRA.rsq_scale for LinearLayer2.rsq_scale, a name that nothing defines",
        flips_if="the listing running as printed, or its mended form computing something else",
    )


@listing_claim(
    "4-listing-inputs",
    says="Listing 1: ALLoRA Code",
    reading="A less kind reading: with its class name mended it implements ALLoRA for any input that a linear layer "
    "takes, not a Transformer's of three axes alone.",
    depends_on=("4-listing-1",),
)
def mended_inputs(cases: Cases) -> Finding:
    """The mended listing on inputs of one to four axes, and the toolkit's layer on the same."""
    from allora_analysis.lora import functional

    judged = cases.judge(
        calls(cases),
        measure=lambda call: (
            outcome(mended(), call) | {"found, layer": layer_training.backward(functional.allora, call.one, call.eta)}
        ),
        printed=lambda call, seen: is_allora(seen["found"], call) <= TOLERANCE,
        corrected=lambda call, seen: is_allora(seen["found, layer"], call) <= TOLERANCE,
        condition=three_axes,
    )
    return judged.finding(
        conditional="Only for three axes, as a Transformer's inputs have: on four it can run and be wrong.",
        evidence=judged.evidence(ROUNDING, {"outcome": "runs"}, shown=told, tolerance=TOLERANCE),
        corrected="the toolkit's layer takes any leading axes",
        condition="the input has three axes, as a Transformer's. With more, of which it transposes axes 1 and 2, only "
        "where the middle ones have size 1 and r = n₁ = 1. On 4 × 2 × 2 × n₂ with r = n₁ = 2 it runs without an error "
        "and its gradients are wrong",
        flips_if="the mended listing returning ALLoRA's gradients on inputs of two axes",
    )


@listing_claim(
    "4-listing-eta",
    says="Listing 1: ALLoRA Code",
    reading="With rsq_scale set to 1/η², as the comment beside it says, it implements ALLoRA at the paper's η² of 1, 2 "
    f"and 4, at B = 0 and at rows of BA of norm {PAPER_ROW:g}, the longest mean of our runs at 1e-4 under AdamW. "
    "Corrected is the class name, which is 4-listing-1's fault, and nothing else.",
    depends_on=("4-listing-1",),
    same_fault_as="4-listing-1",
)
def fixed_eta(cases: Cases) -> Finding:
    """The mended listing, its attribute set, against the definition at each η² of the paper's, and at others."""

    def draw(rng: np.random.Generator) -> Layer:
        eta = CLASS_ETA * on_either_side(rng, 1e-3, 1)
        one = with_axes(rng, (3, 4), 4, 5, 2)
        return Layer(one._replace(b=log_uniform(rng, -7, 2) * one.b), eta)

    at_start, later = (
        at_etas(name, lambda eta, size=size: Layer(_batched(layer_training.paper_pass(cases.rng, size)), eta))
        for name, size in (("B = 0", 0.0), (f"rows of {PAPER_ROW:g}", PAPER_ROW))
    )
    judged = cases.judge(
        [*at_start, *later, *cases.draw(draw, 12)],
        measure=lambda call: [outcome(with_scale(of, call.eta), call)["found"] for of in (LISTING, mended())],
        printed=lambda call, seen: is_allora(seen[0], call) <= TOLERANCE,
        corrected=lambda call, seen: is_allora(seen[1], call) <= TOLERANCE,
    )
    unset = [
        float(np.linalg.norm(outcome(mended(), one)["found"][-1]) / np.linalg.norm(defined(one)[-1]))
        for one in (at_start[0].inputs, later[0].inputs)
    ]
    return judged.finding(
        holds_corrected="Not as printed; with its class name mended and rsq_scale set to 1/η² it is ALLoRA.",
        evidence=judged.evidence(
            ROUNDING, {"relative error": 0.0}, shown=lambda call, seen: is_allora(seen[1], call), tolerance=TOLERANCE
        ),
        size=ranged(
            unset,
            "times as long",
            f"B's gradient at η² = 1 and B = 0, rsq_scale left at 1/4, as ALLoRA's; least: rows of {PAPER_ROW:g}",
            unset[0],
        ),
        corrected="ALLoRA.rsq_scale for LinearLayer2.rsq_scale",
        flips_if="the listing running as printed, or gradients at some η that are not ALLoRA's with rsq_scale = 1/η²",
    )


def shapes_made(rule, one: Pass, *args) -> set[tuple[int, ...]]:
    """Every shape that an operation of a pass returns."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    made: set[tuple[int, ...]] = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            made.update(
                tuple(r.shape)
                for r in (result if isinstance(result, tuple | list) else [result])
                if isinstance(r, Tensor)
            )
            return result

    with Record():
        layer_training.backward(rule, one, *args)
    return made


class Rule(NamedTuple):
    """Whose pass, and the pass."""

    name: str
    one: Pass


@claim(
    "4-listing-cost",
    where="beyond the paper: the cost of Listing 1",
    says="Listing 1 forms BA (n₁×n₂) in every forward pass, and hands autograd a weight gradient per sample; LoRA "
    "makes neither, nor does ALLoRA need them",
    test="tests/test_claims_app_f_listing.py",
    depends_on=("4-listing-1",),
)
def temporaries(cases: Cases) -> Finding:
    """The shapes that a pass makes, the listing's, LoRA's and the layer's: is BA among them, a gradient per sample?"""
    from allora_analysis.lora import functional

    def made(case: Rule) -> dict[str, bool]:
        rule, args = {
            "Listing 1": (compiled(mended()).apply, ()),
            "LoRA by autograd": (layer_training.lora, ()),
            "the toolkit's layer": (functional.allora, (2.0,)),
        }[case.name]
        shapes, (batch, *_), (rank, n2), n1 = (
            shapes_made(rule, case.one, *args),
            case.one.x.shape,
            case.one.a.shape,
            len(case.one.b),
        )
        return {"BA": (n1, n2) in shapes, "a gradient per sample": {(batch, rank, n2), (batch, n1, rank)} <= shapes}

    def draw(rng: np.random.Generator, name: str) -> Rule:
        n1, n2 = (int(size) for size in rng.permutation(np.arange(30, 60))[:2])
        return Rule(name, with_axes(rng, (int(rng.integers(3, 6)), 2), n1, n2, int(rng.integers(7, 12))))

    names = ("Listing 1", "LoRA by autograd", "the toolkit's layer")
    judged = cases.judge(
        [Case(f"{name}, {index + 1}", draw(cases.rng, name)) for name in names for index in range(3)],
        measure=made,
        printed=lambda case, seen: all(found == (case.name == "Listing 1") for found in seen.values()),
    )
    return judged.finding(
        holds="Yes: the listing forms BA and a gradient per sample; LoRA and this toolkit's layer form neither.",
        evidence=judged.evidence("shapes: none allowed to differ", {"makes them": "Listing 1 alone"}),
        flips_if="a pass of the toolkit's layer that forms an n₁×n₂ matrix",
    )
