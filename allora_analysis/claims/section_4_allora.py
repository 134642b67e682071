"""§4.1 and Eq. (6), the framework: dropout and the scaling factor as factors on rows and on the learning rate.

Checked by `tests/test_claims_allora.py`, which plants wrong formulas. Rows on the definition of ALLoRA, the escape from
zero, descent, the hyper-parameters, Listing 1 and the variants: `section_4_*` beside this file.
"""

from __future__ import annotations

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ROUNDING = 1e-11
ROUNDING_SOURCE = "float64 rounding; seen: below 1e-14"
TEST = "tests/test_adaptive_field.py"


def row_scaled(product: np.ndarray, factor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """f(x) with row i of BA multiplied by η_i, for rows of tokens.

    Args:
        product: BA.
        factor: η_i.
        x: tokens as rows.

    Returns:
        The outputs.
    """
    return x @ (factor[:, None] * product).T


def _masks() -> dict[str, np.ndarray]:
    # tokens×n₁ masks by case.
    one, per_token = np.ones((5, 4)), np.random.default_rng(layer_runs.SEED).integers(0, 2, (5, 4)).astype(float)
    one[:, 1] = 0.0
    return {"one token": one[:1], "several tokens, one mask": one, "several tokens, a mask each": per_token}


def dropout_forward() -> Finding:
    """Is there one factor a row that does what the mask does?

    Returns:
        The finding.
    """
    x, _, a, b = layer_runs.draws()
    printed, corrected, seen = {}, {}, {}
    for case, mask in _masks().items():
        tokens = x[: len(mask)]
        error = relative_error(row_scaled(b @ a, mask[0], tokens), mask * (tokens @ (b @ a).T))
        printed[case], seen[case] = error <= ROUNDING, error
        corrected[case] = printed[case] == bool((mask == mask[0]).all())
    evidence = Evidence(
        {"relative error": 0.0}, seen, ROUNDING_SOURCE, seen["one token"], ROUNDING, seed=layer_runs.SEED
    )
    return Finding(
        settle(printed, corrected), evidence, "for one token, or one mask for all: masks are drawn per token"
    )


def dropout_gradient() -> Finding:
    """The i-th row of ∂L/∂(BA) when output i is dropped, by autograd.

    Returns:
        The finding.
    """
    import torch

    x, upstream, a, b = layer_runs.draws()
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, mask in _masks().items():
        product = torch.tensor(b @ a, requires_grad=True)
        tokens, weight = torch.tensor(x[: len(mask)]), torch.tensor(upstream[: len(mask)] * mask)
        ((tokens @ product.T) * weight).sum().backward()
        rows = product.grad.numpy()
        plain = upstream[: len(mask)].T @ x[: len(mask)]
        printed[case] = relative_error(rows, mask[0][:, None] * plain) <= ROUNDING
        errors.append(relative_error(rows, (mask * upstream[: len(mask)]).T @ x[: len(mask)]))
        seen[case] = np.linalg.norm(rows, axis=1)
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == bool((mask == mask[0]).all())
    evidence = Evidence(
        {"row i": "Σ over the tokens that keep output i"},
        seen,
        ROUNDING_SOURCE,
        max(errors),
        ROUNDING,
        seed=layer_runs.SEED,
    )
    return Finding(
        settle(printed, corrected), evidence, "for one token, or one mask for all; else g_i sums the tokens that keep i"
    )


def dropout_rate() -> Finding:
    """Does (BA)_i stay when its gradient is 0? One SGD step on A and B with row i dropped.

    Returns:
        The finding.
    """
    x, upstream, a, b = layer_runs.draws()
    g, keep, rate = upstream.T @ x, np.array([1.0, 0.0, 1.0, 1.0]), 0.1
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, start in {"B = 0": 0 * b, "B_i ≠ 0": b}.items():
        step_a, step_b = adaptive.masked_field(a, start, g, keep)
        moved = (start - rate * step_b) @ (a - rate * step_a) - start @ a
        change, predicted = moved[1], -rate * start[1] @ step_a
        seen[case] = float(np.linalg.norm(change))
        printed[case] = seen[case] <= ROUNDING
        errors.append(relative_error(change, predicted))
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == (not start[1].any())
    evidence = Evidence({"Δ(BA)_i": "B_i ΔA"}, seen, ROUNDING_SOURCE, max(errors), ROUNDING, seed=layer_runs.SEED)
    text = "only while B_i = 0: a dropped row of BA still moves, through A, which the other rows share"
    return Finding(settle(printed, corrected), evidence, text)


def identity() -> Finding:
    """The layer with the constant adaptor at η = 1 (f_o = f_g = I) against LoRA.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    draws = layer_runs.draws()
    found, lora = (
        layer_runs.backward(functional.allora, *draws, 1.0, "constant"),
        layer_runs.backward(layer_runs.lora, *draws),
    )
    errors = dict(zip(("output", "∂x", "∂A", "∂B"), map(relative_error, found, lora), strict=True))
    evidence = Evidence(
        {"relative error": 0.0}, errors, ROUNDING_SOURCE, max(errors.values()), ROUNDING, seed=layer_runs.SEED
    )
    return Finding(settle({case: error <= ROUNDING for case, error in errors.items()}), evidence)


def scaled_gradient() -> Finding:
    """∂L(ηf)/∂(BA) by autograd, against η·g at BA and against η·g at ηBA.

    Returns:
        The finding.
    """
    import torch

    x, target, a, b = layer_runs.draws()
    g_of = {"squared": lambda p: (x @ p.T - target).T @ x, "linear": lambda p: -target.T @ x}
    cases = {
        "BA = 0, η = 2": (0 * b @ a, 2.0, "squared"),
        "BA ≠ 0, η = 1": (b @ a, 1.0, "squared"),
        "BA ≠ 0, η = 2, a loss linear in f": (b @ a, 2.0, "linear"),
        "BA ≠ 0, η = 2": (b @ a, 2.0, "squared"),
    }
    printed, corrected, errors, seen = {}, {}, [], {}
    for case, (product, eta, kind) in cases.items():
        p, inputs, y = torch.tensor(product, requires_grad=True), torch.tensor(x), torch.tensor(target)
        f = eta * inputs @ p.T
        (((f - y) ** 2).sum() / 2 if kind == "squared" else -(f * y).sum()).backward()
        seen[case] = relative_error(p.grad.numpy(), eta * g_of[kind](product))
        printed[case] = seen[case] <= ROUNDING
        errors.append(relative_error(p.grad.numpy(), eta * g_of[kind](eta * product)))
        expected = not product.any() or eta == 1 or kind == "linear"
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == expected
    evidence = Evidence({"relative error": 0.0}, seen, ROUNDING_SOURCE, max(errors), ROUNDING, seed=layer_runs.SEED)
    text = (
        "g̃ = κ∘g (not κ∘f) = η·g evaluated at the scaled output ηf; η·g(f) only at BA = 0, η = 1 or a loss linear in f"
    )
    return Finding(settle(printed, corrected), evidence, text)


def scaling_as_rate() -> Finding:
    """f_o = I with g̃ = ηg at rate l against LoRA at η·l: the layer with a constant adaptor, under each optimiser.

    Returns:
        The finding; measured are relative distances of BA after 10 steps.
    """
    task, eta, rate, steps = layer_runs.problem(), 2.0, 0.001, 10
    first = layer_runs.first_gradient(task)
    printed, corrected, seen = {}, {}, {}
    cases = {  # optimiser, clipping; LoRA at which rate?
        "SGD": ("sgd", None, "η·l"),
        "momentum": ("momentum", None, "η·l"),
        "SGD, clipped below LoRA's gradient at every step": ("sgd", 0.07 * first, "l"),
        "SGD, clipped above η times it at every step": ("sgd", 10.0 * first, "η·l"),
        "AdamW": ("adamw", None, "l"),
    }
    for case, (optimiser, clip, like) in cases.items():
        scaled, plain, fast = (
            layer_runs.products(task, optimiser, arm, eta, lr, steps, clip)[-1]
            for arm, lr in (("constant", rate), ("lora", rate), ("lora", eta * rate))
        )
        seen[case] = {"from LoRA at η·l": relative_error(scaled, fast), "from LoRA at l": relative_error(scaled, plain)}
        printed[case] = seen[case]["from LoRA at η·l"] <= ROUNDING
        close = seen[case]["from LoRA at l"] <= 1e-5
        corrected[case] = printed[case] == (like == "η·l") and close == (like == "l")
        if clip is not None:
            reached = eta * rate if like == "η·l" else rate
            path = layer_runs.pairs(task, optimiser, "lora", eta, reached, steps, clip)
            norms = layer_runs.gradient_norms(task, path)
            corrected[f"{case}: it is"] = bool((norms > clip).all() if like == "l" else (eta * norms < clip).all())
    evidence = Evidence(
        {case: f"LoRA at {like}" for case, (_, _, like) in cases.items()},
        seen,
        "rounding; 1e-5 for what is LoRA at l (Adam's ε, clipping's 1e-6)",
        n=1,
    )
    text = (
        "under SGD and momentum while nothing is clipped; Adam divides η out again, and so does clipping of the "
        "adapters' gradients alone, wherever LoRA's exceeds the threshold: LoRA at l, not at η·l"
    )
    return Finding(settle(printed, corrected), evidence, text)


ROWS = (
    (
        "dropout-forward",
        "§4.1, below Eq. (4)",
        "Dropping out (f(x))_i for a given i is equivalent to applying a per-row scaling factor η_i = 0 to (BA)_i",
        dropout_forward,
    ),
    (
        "dropout-gradient",
        "§4.1, below Eq. (4)",
        "η_i = 0 is implicitly applied to the i-th row of the gradient, g_i = (∂L/∂(BA))_i",
        dropout_gradient,
    ),
    (
        "dropout-rate",
        "§4.1, below Eq. (4)",
        "[η_i = 0 on g_i] is again a scaling factor applied to the learning rate l (read: of (BA)_i)",
        dropout_rate,
    ),
    ("identity", "§4.1, Definition 2", "All learning is adaptive learning (when f_o = I and f_g = I)", identity),
    ("scaled-gradient", "§4.2, Eq. (6)", "f̃ = κ∘f = ηf, g̃ = κ∘f = ηg (read: g̃ = κ∘g)", scaled_gradient),
    (
        "scaling-as-rate",
        "§4.2, below Eq. (6)",
        "Force f_o = I while keeping g̃ intact, which is to use a larger learning rate η·l",
        scaling_as_rate,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements of §4.1 and Eq. (6).

    Returns:
        The claims, in the paper's order.
    """
    command = "python -m allora_analysis --only 4-"
    return tuple(Claim(f"4-{name}", where, text, check, command + name, TEST) for name, where, text, check in ROWS)
