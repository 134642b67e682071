"""Appendix F, Listing 1: the paper's own autograd function, executed as printed and with its class name mended.

The text below is the paper's, less line numbers, which the comparison needs to the letter; the toolkit's layer shares
nothing with it. Checked by `tests/test_claims_allora_listing.py`, which plants other listings.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ROUNDING = 1e-11
SEED = 44
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
SHAPES = {"no batch, (n2,)": (), "tokens, (N, n2)": (6,), "batch × tokens, (N, T, n2)": (3, 4), "four axes": (2, 3, 4)}


def mended() -> str:
    """The listing with the name that it is defined under in place of `LinearLayer2`.

    Returns:
        Python source.
    """
    return LISTING.replace("LinearLayer2", "ALLoRA")


def compiled(source: str, **names) -> type:
    """The autograd function that a listing defines.

    Args:
        source: the listing.
        **names: further global names it may use.

    Returns:
        The class `ALLoRA`.
    """
    import torch

    scope = {"torch": torch, **names}
    exec(source, scope)  # the module's own constant
    return scope["ALLoRA"]


def _run(function: type, leading: tuple[int, ...]) -> tuple[list | None, str, list[np.ndarray]]:
    # Output and gradients of one pass (None and the error if it raises), and x, ∂L/∂f, A, B.
    generator = np.random.default_rng(SEED)
    shapes = ((*leading, 5), (*leading, 4), (2, 5), (4, 2))
    parts = [generator.standard_normal(shape) for shape in shapes]
    try:
        return layer_runs.backward(function.apply, *parts), "runs", parts
    except (NameError, RuntimeError, IndexError) as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]}", parts


def _errors(found: list, parts: list[np.ndarray], eta: float) -> float:
    # Largest relative error against the definition, batch axes summed over.
    x, upstream, a, b = (np.asarray(part) for part in parts)
    flat, rows = upstream.reshape(-1, 4), x.reshape(-1, 5)
    expected = (x @ a.T @ b.T, upstream @ b @ a, *adaptive.update_field(a, b, flat.T @ rows, eta))
    return max(map(relative_error, found, expected))


def as_printed() -> Finding:
    """One forward and backward pass of the listing as printed, for inputs of one to four axes.

    Returns:
        The finding; the correction is the listing's own class name.
    """
    seen, printed, fixed = {}, {}, {}
    for case, leading in SHAPES.items():
        found, seen[case], parts = _run(compiled(LISTING), leading)
        printed[case] = found is not None and _errors(found, parts, 2.0) <= ROUNDING
    for case in ("batch × tokens, (N, T, n2)",):
        found, outcome, parts = _run(compiled(mended()), SHAPES[case])
        fixed[case] = found is not None and _errors(found, parts, 2.0) <= ROUNDING
        seen[f"{case}, mended"] = outcome
    text = "with ALLoRA.rsq_scale for LinearLayer2.rsq_scale, a name that nothing defines: every backward pass raises"
    evidence = Evidence({"outcome": "runs"}, seen, "float64 rounding where it runs", seed=SEED)
    return Finding(settle(printed, fixed), evidence, text)


def mended_inputs() -> Finding:
    """The mended listing on inputs of one to four axes, and the toolkit's layer on the same.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    seen, printed, corrected, errors = {}, {}, {}, []
    for case, leading in SHAPES.items():
        found, seen[case], parts = _run(compiled(mended()), leading)
        printed[case] = found is not None and _errors(found, parts, 2.0) <= ROUNDING
        errors.append(_errors(layer_runs.backward(functional.allora, *parts, 2.0), parts, 2.0))
        corrected[case] = printed[case] == (len(leading) == 2) and errors[-1] <= ROUNDING
    evidence = Evidence({"outcome": "runs"}, seen, "float64 rounding; seen: 1e-15", max(errors), ROUNDING, seed=SEED)
    return Finding(settle(printed, corrected), evidence, "for inputs of exactly three axes: it transposes axes 1 and 2")


def fixed_eta() -> Finding:
    """The mended listing against the definition at each η² that the paper's experiments use.

    Returns:
        The finding.
    """
    found, _, parts = _run(compiled(mended()), (3, 4))
    errors = {f"η² = {square:g}": _errors(found, parts, square**0.5) for square in (1.0, 2.0, 4.0)}
    printed = {case: error <= ROUNDING for case, error in errors.items()}
    corrected = {case: printed[case] == (case == "η² = 4") for case in errors}
    evidence = Evidence({"relative error": 0.0}, errors, "float64 rounding", errors["η² = 4"], ROUNDING, seed=SEED)
    return Finding(settle(printed, corrected), evidence, "at η² = 4 only, written into the class as rsq_scale = 1/4")


def temporaries() -> Finding:
    """The tensors that a pass makes, the listing's, LoRA's and the layer's: is BA among them, a gradient per sample?

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    batch, tokens, n1, n2, rank = 3, 2, 40, 50, 2
    generator = np.random.default_rng(SEED)
    shapes = ((batch, tokens, n2), (batch, tokens, n1), (rank, n2), (n1, rank))
    parts = [generator.standard_normal(shape) for shape in shapes]
    made = {
        "Listing 1": _shapes_made(compiled(mended()).apply, parts),
        "LoRA by autograd": _shapes_made(layer_runs.lora, parts),
        "the toolkit's layer": _shapes_made(functional.allora, parts, 2.0),
    }
    wanted = {"BA": [(n1, n2)], "a weight gradient per sample": [(batch, rank, n2), (batch, n1, rank)]}
    seen = {
        f"{name} makes {what}": all(shape in shapes for shape in wasteful)
        for name, shapes in made.items()
        for what, wasteful in wanted.items()
    }
    printed = {case: found == case.startswith("Listing 1") for case, found in seen.items()}
    evidence = Evidence({"makes them": "Listing 1 alone"}, seen, "shapes: none allowed to differ", seed=SEED)
    return Finding(settle(printed), evidence)


def _shapes_made(rule, parts: list[np.ndarray], *args) -> set[tuple[int, ...]]:
    # Every shape that an operation of the pass returns.
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
        layer_runs.backward(rule, *parts, *args)
    return made


LISTED = "Appendix F, Listing 1"
ROWS = (
    (
        "4-listing-1",
        LISTED,
        "ALLoRA code (read: the listing as printed runs and implements ALLoRA at its η)",
        as_printed,
    ),
    (
        "4-listing-inputs",
        LISTED,
        "The listed function, its class name mended, implements ALLoRA (any input of a layer)",
        mended_inputs,
    ),
    (
        "4-listing-eta",
        LISTED,
        "The listed function, its class name mended, implements ALLoRA (the paper's η² = 1, 2, 4)",
        fixed_eta,
    ),
    (
        "4-listing-cost",
        "beyond the paper: the cost of Listing 1",
        "Listing 1 forms BA (n₁×n₂) in every forward pass, and hands autograd a weight gradient per sample, which "
        "autograd then sums; LoRA makes neither, nor does ALLoRA need them: row norms come from an r×r factor",
        temporaries,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on Listing 1.

    Returns:
        The claims.
    """
    test = "tests/test_claims_allora_listing.py"
    return tuple(
        Claim(name, where, text, check, f"python -m allora_analysis --only {name}", test)
        for name, where, text, check in ROWS
    )
