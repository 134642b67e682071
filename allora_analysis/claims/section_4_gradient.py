"""§4.1–4.2, is the adapted gradient a gradient? The Jacobian of the update, measured on the layer; and Adam survived.

Checked by `tests/test_claims_allora_gradient.py`, which plants wrong formulas.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from allora_analysis import adaptive
from allora_analysis.claims import layer_derivatives, layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

SEED = 43
ROUNDING = 1e-10
DIFFERENCES = 1e-6

ON_WHAT = (
    "for a loss that does not couple the outputs (squared, Huber) with one input feature (n₂ = 1), or where each G_i "
    "is parallel to (BA)_i; otherwise ALLoRA is gradient descent on no loss, one token (n₂ > 1) and cross-entropy with "
    "one input feature included (it couples the outputs). At B = 0 the field has a kink, −½η³‖β_iA‖(GAᵀ)_i, beside η "
    "times LoRA's Hessian. The layer's double backward is neither a Hessian nor this Jacobian: it has d_i² for the d_i "
    "before the loss's curvature"
)


def _kink(step: float = 1e-7) -> float:
    # The even part of the layer's one-sided derivative of ∂B at B = 0, over −½η³‖β_iA‖(GAᵀ)_i.
    from allora_analysis.lora import functional

    task, eta, beta = layer_runs.problem(4, 3, 2), 2.0, np.ones((4, 2))
    g = -task.y.T @ task.x

    def grad_b(b: np.ndarray) -> np.ndarray:
        return layer_runs.backward(functional.allora, task.x, -task.y, task.a, b, eta)[3]

    even = (grad_b(step * beta) + grad_b(-step * beta) - 2 * grad_b(0 * beta)) / (2 * step)
    ways = ((np.zeros_like(task.a), sign * beta) for sign in (1, -1))
    derivatives = [adaptive.directional_derivative(task.a, 0 * beta, g, 0 * np.eye(3), eta, way)[1] for way in ways]
    closed = (derivatives[0] + derivatives[1]) / 2
    return float(np.sum(even * closed) / np.sum(closed * closed))


def potential() -> Finding:
    """Is g̃ the gradient of some loss? Asymmetry of its Jacobian, the layer differenced.

    Returns:
        The finding.
    """
    printed, corrected, seen = {}, {}, {}
    errors, exact, apart = [], [], []
    for case, (n2, rank, zero) in {
        "one input feature (n₂ = 1)": (1, 1, False),
        "n₂ = 3, rank 1": (3, 1, False),
        "n₂ = 3, rank 2": (3, 2, False),
        "n₂ = 3, B = 0, its smooth part": (3, 2, True),
    }.items():
        task = layer_runs.problem(4, n2, rank)
        b = np.zeros((4, rank)) if zero else np.random.default_rng(SEED).standard_normal((4, rank))
        g = (task.x @ (b @ task.a).T - task.y).T @ task.x
        predicted = adaptive.update_jacobian(task.a, b, g, task.x.T @ task.x, 2.0)
        # Central differences leave out the kink, which is even, but for a term of the step's size.
        measured = layer_derivatives.differenced_field(task, b, 2.0, 1e-7 if zero else 1e-5)
        errors.append(relative_error(measured, predicted))
        twice = adaptive.layer_double_backward(task.a, b, g, task.x.T @ task.x, 2.0)
        backward = layer_derivatives.double_backward(task, b, 2.0)
        exact.append(relative_error(backward, twice))
        apart.append(relative_error(backward, predicted))
        seen[case] = adaptive.relative_asymmetry(measured)
        printed[case] = seen[case] <= DIFFERENCES
        right = errors[-1] <= DIFFERENCES and exact[-1] <= ROUNDING and apart[-1] > DIFFERENCES
        corrected[case] = right and printed[case] == (n2 == 1 or zero)
    for case, (task, loss, expected) in _further().items():
        b = np.random.default_rng(SEED).standard_normal((4, 1))
        seen[case] = adaptive.relative_asymmetry(layer_derivatives.differenced_field(task, b, 2.0, loss=loss))
        printed[case] = seen[case] <= DIFFERENCES
        corrected[case] = printed[case] == expected
    seen["at B = 0, the kink over its closed form"] = kink = _kink()
    corrected["at B = 0 the field has the kink"] = abs(kink - 1) <= DIFFERENCES
    seen["the layer's double backward, from its closed form"] = max(exact)
    seen["the same, from the Jacobian"] = min(apart)
    source = "central differences at 1e-5 (1e-7 at B = 0): 1e-6; the double backward against its closed form: 1e-10"
    predicted = {"asymmetry": "0 at n₂ = 1, or of the smooth part at B = 0; else not"}
    evidence = Evidence(predicted, seen, source, max(errors), DIFFERENCES, seed=SEED)
    return Finding(settle(printed, corrected), evidence, ON_WHAT)


def _further() -> dict[str, tuple[layer_runs.Problem, str, bool]]:
    # At the B that `potential` draws, with a loss and whether the field is to be symmetric: XᵀX = I, and Y such that
    # G_i = c_i(BA)_i; one token, of which G is a row's multiple; a loss that couples the outputs.
    task, b = layer_runs.problem(4, 3, 1), np.random.default_rng(SEED).standard_normal((4, 1))
    x = np.linalg.qr(task.x)[0]
    y = x @ (np.array([[1.5], [-0.5], [0.2], [3.0]]) * (b @ task.a)).T
    return {
        "n₂ = 3, each G_i parallel to (BA)_i": (replace(task, x=x, y=y), "squared", True),
        "n₂ = 3, one token": (layer_runs.problem(4, 3, 1, samples=1), "squared", False),
        "one input feature, Huber": (layer_runs.problem(4, 1, 1), "Huber", True),
        "one input feature, cross-entropy": (layer_runs.problem(4, 1, 1), "cross-entropy", False),
    }


def survives_adam() -> Finding:
    """ALLoRAAdamW's step at β₁ = 0 against AdamW's: the sign of each entry, and the first-order change of the loss.

    Returns:
        The finding.
    """
    import torch

    from allora_analysis.lora.optim import ALLoRAAdamW

    generator = np.random.default_rng(SEED)
    printed, seen, errors = {}, {}, []
    a, b, y = adaptive.EXAMPLE.arrays()
    points = {"the counterexample": (np.ones((1, 1)), y, a, b, float(adaptive.EXAMPLE.eta))}
    for index in range(3):
        x, y, a, b = (generator.standard_normal(shape) for shape in ((6, 4), (6, 5), (2, 4), (5, 2)))
        points[f"draw {index}"] = x, y, a, 3 * b, 2.0
    for case, (x, y, a, b, eta) in points.items():
        g = (x @ (b @ a).T - y).T @ x
        start, gradients = (a, b), (b.T @ g, g @ a.T)
        steps = []
        for build in (
            lambda pair, eta=eta: ALLoRAAdamW([{"params": pair, "pair": True}], 1.0, eta, (0.0, 0.9), weight_decay=0.0),
            lambda pair: torch.optim.AdamW(pair, 1.0, (0.0, 0.9), weight_decay=0.0),
        ):
            pair = [torch.tensor(part, requires_grad=True) for part in start]
            for part, gradient in zip(pair, gradients, strict=True):
                part.grad = torch.tensor(gradient)
            build(pair).step()
            steps.append([part.detach().numpy() - old for part, old in zip(pair, start, strict=True)])
        factor = adaptive.row_factor(a, b, eta)
        expected = [steps[1][0] * factor.mean(), steps[1][1] * factor[:, None]]
        errors.append(max(map(relative_error, steps[0], expected)))
        slope = sum(float(np.sum(gradient * step)) for gradient, step in zip(gradients, steps[0], strict=True))
        seen[case] = slope
        same = all(bool((np.sign(one) == np.sign(other)).all()) for one, other in zip(*steps, strict=True))
        printed[case] = same and slope < 0 and errors[-1] <= ROUNDING
    evidence = Evidence(
        {"dL/dl": "below 0; the step is AdamW's times d (B) and mean d (A)"},
        {"dL/dl": seen},
        "rounding of a step of size 1 subtracted from weights near 10",
        max(errors),
        ROUNDING,
        seed=SEED,
    )
    return Finding(settle(printed), evidence)


ROWS = (
    (
        "4-adapted-gradient",
        "§4.1, Definition 2, for ALLoRA's f_g",
        "The adapted gradient (read: g̃ is a gradient, of some loss in A and B)",
        potential,
        "tests/test_adaptive_field.py",
    ),
    (
        "4-allora-adamw",
        "beyond the paper: the factor of §4.2 on AdamW's update",
        "With β₁ = 0 every step of ALLoRAAdamW keeps the signs of AdamW's and is a direction of descent",
        survives_adam,
        "tests/test_lora_optim.py",
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on the adapted gradient, and the optimiser that keeps its factor.

    Returns:
        The claims.
    """
    return tuple(
        Claim(name, where, text, check, f"python -m allora_analysis --only {name}", test)
        for name, where, text, check, test in ROWS
    )
