"""§4.2, is the adaptive gradient a learning rate? Descent and its exact counterexample, signs, where it comes to rest.

The real layer takes the counterexample's steps. Checked by `tests/test_claims_allora.py`, which plants wrong formulas.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

SEED = 42
ROUNDING = 1e-10
DRAWS = 10_000
STEPS = (1e-6, 1e-4, 1e-2, 1.0)
DESCENT_TEST = "tests/test_adaptive_descent.py"


def _losses(arm: str, rates: tuple[float, ...]) -> list[float]:
    # The loss of the counterexample after one SGD step of the real layer, less the loss before.
    import torch

    a, b, y = adaptive.EXAMPLE.arrays()
    eta, changes = float(adaptive.EXAMPLE.eta), []
    for rate in rates:
        parts = [torch.tensor(part, requires_grad=True) for part in (a, b)]
        x, target = torch.ones(1, 1, dtype=torch.float64), torch.tensor(y)
        loss = ((layer_runs.forward(arm, x, *parts, eta) - target) ** 2).sum() / 2
        loss.backward()
        torch.optim.SGD(parts, lr=rate).step()
        after = ((layer_runs.forward("lora", x, *parts, eta) - target) ** 2).sum() / 2
        changes.append(float(after.detach() - loss.detach()))
    return changes


SHAPES = ((1, 2), (1, 16), (4, 16))  # rank, n₁ = n₂
MANY = 32  # tokens
DRAWN = {  # case: B's entries over A's, tokens
    "B 30 times A, one token": (30.0, 1),
    "B as large as A, one token": (1.0, 1),
    f"B 30 times A, {MANY} tokens": (30.0, MANY),
}


def _shares(generator: np.random.Generator) -> dict[str, dict[str, tuple[float, float]]]:
    # By setting and shape: how often a random step ascends, with its standard error.
    return {
        case: {
            f"rank {rank}, {n}×{n}": (found.total, found.total_stderr)
            for rank, n in SHAPES
            for found in [
                adaptive.ascent_frequency(
                    (n, n, rank), 2.0, 1 / n**0.5, scale / n**0.5, samples=tokens, draws=DRAWS, generator=generator
                )
            ]
        }
        for case, (scale, tokens) in DRAWN.items()
    }


def descent() -> Finding:
    """First-order change of the loss: by B alone, from B = 0, with equal rows, at the counterexample.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    a, b, g = (generator.standard_normal(shape) for shape in ((2, 4), (5, 2), (5, 4)))
    equal = b / np.linalg.norm(b @ a, axis=1, keepdims=True)
    example = adaptive.EXAMPLE
    polynomial = adaptive.loss_after_step(example, example.factor())
    lora = adaptive.loss_after_step(example, [Fraction(1)] * len(example.b))
    rises = polynomial[1] > 0 and adaptive.first_return(polynomial) is None
    ends = adaptive.first_return(lora)
    layer, plain = _losses("allora", STEPS), _losses("lora", (1e-6, 1e-4, float(ends[0]) if ends else 1.0))
    printed = {
        "B alone": all(
            adaptive.first_order_change(a, scale * b, g, eta).b_part < 0 for scale in (0.1, 10) for eta in (0.5, 4)
        ),
        "A and B from B = 0": adaptive.first_order_change(a, 0 * b, g, 2.0).total < 0,
        "A and B, rows of BA equally long": adaptive.first_order_change(a, equal, g, 2.0).a_part < 0,
        "A and B, the example": min(layer) < 0,
    }
    exact = [float(adaptive.evaluate(polynomial, Fraction(step)) - polynomial[0]) for step in STEPS]
    error = relative_error(np.divide(layer, exact), np.ones(len(STEPS)))
    corrected = {case: printed[case] == (case != "A and B, the example") for case in printed}
    corrected["the layer follows the exact polynomial"] = error <= 1e-6
    corrected["the example rises at every step, LoRA's falls first"] = rises and lora[1] < 0 and max(plain[:2]) < 0
    shares = _shares(generator)
    measured = {"ALLoRA's change at l": dict(zip(map(str, STEPS), layer, strict=True)), "LoRA's": plain}
    measured["share of draws that ascend, its standard error"] = shares
    predicted = {"dL/dl, ALLoRA": str(polynomial[1]), "dL/dl, LoRA": str(lora[1])}
    predicted |= {"LoRA falls up to l": float(ends[0]) if ends else None}
    source = "float64 rounding of a loss of 5/2 over a change of 3e-6, 1e-10; 1e-6 allowed"
    evidence = Evidence(predicted, measured, source, error, 1e-6, n=DRAWS, seed=SEED)
    most = ", ".join(f"{max(share for share, _ in found.values()):.2%} ({case})" for case, found in shares.items())
    text = (
        "B's part always descends; A's part need not, as BBᵀD_d is not symmetric. A = 1, B = (8, 24), y = (10, 23), "
        f"x = 1, η = 1: dL/dl = {polynomial[1]} (LoRA: {lora[1]}), and the loss is higher after every step l > 0; "
        f"random draws ({DRAWS} at each of {len(SHAPES)} shapes, η = 2) ascend in at most {most}"
    )
    return Finding(settle(printed, corrected), evidence, text)


def per_parameter() -> Finding:
    """Is each parameter's gradient LoRA's times a positive coefficient? The layer's, at the counterexample.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    a, b, y = adaptive.EXAMPLE.arrays()
    x, eta = np.ones((1, 1)), float(adaptive.EXAMPLE.eta)
    upstream = x @ (b @ a).T - y
    allora = layer_runs.backward(functional.allora, x, upstream, a, b, eta)[2:]
    lora = layer_runs.backward(layer_runs.lora, x, upstream, a, b)[2:]
    ratios = [np.ravel(one / other) for one, other in zip(allora, lora, strict=True)]
    g, d = np.array(adaptive.EXAMPLE.gradient(), float), np.array(adaptive.EXAMPLE.factor(), float)
    expected = [[(b[:, 0] * d) @ g / (b[:, 0] @ g)], d]
    error = max(map(relative_error, ratios, expected))
    printed = {"B": bool((ratios[1] > 0).all()), "A": bool((ratios[0] > 0).all())}
    corrected = {"B": printed["B"] and error <= ROUNDING, "A": not printed["A"] and error <= ROUNDING}
    measured = {"B's coefficients": ratios[1], "A's": ratios[0]}
    evidence = Evidence({"B's": expected[1], "A's": expected[0]}, measured, "float64 rounding", error, ROUNDING)
    text = "B's: by its row's d; A's gradient BᵀD_dG is a re-weighted sum over rows, which can change sign"
    return Finding(settle(printed, corrected), evidence, text)


def optimal_direction() -> Finding:
    """Where ALLoRA comes to rest on a squared loss with white inputs, run to rest, against the best rank-r fit.

    Returns:
        The finding.
    """
    from scipy.linalg import hadamard

    eta, generator = 3.0, np.random.default_rng(SEED)
    sizes = np.array([6.0, 2.0, 1.0, 0.0])
    left, right = (np.linalg.qr(generator.standard_normal((4, 4)))[0] for _ in range(2))
    exact, full = left[:, :1] * sizes[0] @ right[:1], left * sizes @ right
    even = hadamard(4) / 2 * sizes  # each singular direction has rows of one length
    cases = {
        "the target has the adapter's rank": (exact, True),
        "the target's rank is higher": (full, False),
        "higher, and the rows of the best fit are equally long": (even, True),
    }
    printed, corrected, seen, errors, rests = {}, {}, {}, [], {}
    for case, (target, best) in cases.items():
        rest = adaptive.rest_point(target, 1, eta)
        reached = adaptive.run_to_rest(target, 0.3 * generator.standard_normal((1, 4)), eta, 0.05, 4000)
        values = np.linalg.svd(target, compute_uv=False)[1:]
        scale = float(np.sum(target**2))
        excess = float(np.sum((reached - target) ** 2) - values @ values)
        seen[case] = excess / scale
        printed[case] = seen[case] <= 1e-9
        errors.append(relative_error(reached, rest.product))
        rests[case] = float(np.sum((rest.product - target) ** 2) - values @ values) / scale
        corrected[case] = errors[-1] <= 1e-6 and printed[case] == best
    source = "what is left after the steps taken; 1e-6 allowed"
    evidence = Evidence({"excess loss": rests}, {"excess loss": seen}, source, max(errors), 1e-6, seed=SEED)
    text = (
        "(squared loss, white inputs, T the least-squares fit) where the rank suffices to fit, or the best fit's rows "
        "are equally long; otherwise it rests at the row-weighted fit Σ_i d_i‖(BA − T)_i‖², d its own row factors "
        "(where there is one), whose loss is above the best of that rank and where LoRA's gradient is not 0"
    )
    return Finding(settle(printed, corrected), evidence, text)


ROWS = (
    (
        "4-descent",
        "§4.2, definition of ALLoRA",
        "An adaptive learning rate, g̃_i = 1/√(‖(BA)_i‖ + 1/η²)·g_i (read: a small step along the adapted gradients of "
        "A and B descends)",
        descent,
        DESCENT_TEST,
    ),
    (
        "4-per-parameter",
        "Abstract",
        "Scaling the per parameter gradients with a coefficient (read: each entry of A and B)",
        per_parameter,
        DESCENT_TEST,
    ),
    (
        "4-optimal-direction",
        "§4.2, below Figure 2's description",
        "Then it finds an appropriate level and enters measured discovery of optimal directions (read: run long "
        "enough, it reaches the loss's minimum over the adapter's rank)",
        optimal_direction,
        DESCENT_TEST,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on what kind of step ALLoRA takes.

    Returns:
        The claims.
    """
    return tuple(
        Claim(name, where, text, check, f"python -m allora_analysis --only {name}", test)
        for name, where, text, check, test in ROWS
    )
