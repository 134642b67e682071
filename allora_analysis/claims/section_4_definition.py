"""§4.2, the definition of ALLoRA: its adaptor (Figure 5), what it scales, and whether the layer is what is defined.

The layer is run (`lora.functional`, `lora.layers`). Checked by `tests/test_claims_allora.py`, which plants wrong
formulas.
"""

from __future__ import annotations

import itertools

import numpy as np

from allora_analysis import adaptive, adaptors
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ROUNDING = 1e-11
ROUNDING_SOURCE = "float64 rounding; seen: below 1e-14"
DISTINCT = 1e-3  # what is not equal differs by more than this, relatively
ETAS = (0.5, 1.0, 2.0**0.5, 2.0)
DEPTH = 8  # layers of the backward ripple
TEST = "tests/test_adaptive_field.py"


def adaptor() -> Finding:
    """The adaptor, and the layer's own factor, over sizes from 0 to 10⁶ for Figure 5's η² and below.

    Returns:
        The finding.
    """
    import torch

    from allora_analysis.lora import functional

    sizes = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 40)])
    printed, values, errors = {}, {}, []
    for eta in ETAS:
        found = adaptors.inverse_sqrt(sizes, eta)
        layer = functional.row_factor(torch.ones(1, 1, dtype=torch.float64), torch.tensor(sizes[:, None]), eta)
        errors += [relative_error(values_, 1 / np.sqrt(sizes + 1 / eta**2)) for values_ in (found, layer.numpy())]
        values[f"η = {eta:.4g}"] = {
            "at 0": found[0],
            "at 1": float(adaptors.inverse_sqrt(1.0, eta)),
            "at 1e6": found[-1],
        }
        tapers = bool((np.diff(found) < 0).all()) and abs(found[0] - eta) <= ROUNDING * eta
        printed[f"η = {eta:.4g}"] = tapers and max(errors[-2:]) <= ROUNDING
    predicted = {"at 0": "η", "everywhere": "1/√(x + 1/η²), falling"}
    evidence = Evidence(predicted, values, ROUNDING_SOURCE, max(errors), ROUNDING)
    return Finding(settle(printed), evidence)


def inversely_proportional() -> Finding:
    """The adaptor's slope in logarithms: −1 where it is inversely proportional to the norm.

    Returns:
        The finding.
    """
    eta, h = 2.0, 1e-5
    printed, corrected, slopes, errors = {}, {}, {}, []
    for u in (0.01, 1.0, 100.0, 1e6):
        sizes = u / eta**2 * np.exp(np.array([-h, h]))
        slope = float(np.diff(np.log(adaptors.inverse_sqrt(sizes, eta)))[0] / (2 * h))
        case = f"‖(BA)_i‖ = {u:g}/η²"
        errors.append(abs(slope + 0.5 * u / (1 + u)))
        slopes[case], printed[case], corrected[case] = slope, abs(slope + 1) < 0.01, errors[-1] < 1e-8
    source = "central differences at a step of 1e-5 in log norm: h²/6 and rounding/h, below 1e-10"
    evidence = Evidence({"slope": "−½·u/(1 + u), u = η²‖(BA)_i‖"}, slopes, source, max(errors), 1e-8)
    text = "to the square root of the norm, and that only for norms well above 1/η²; below it is constant"
    return Finding(settle(printed, corrected), evidence, text)


def per_sample() -> Finding:
    """The layer's coefficient on each sample's gradient of B, sample by sample.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    x, upstream, a, b = layer_runs.draws()
    eta, ratios = 2.0, []
    for token in range(len(x)):
        one = (x[token : token + 1], upstream[token : token + 1], a, b)
        ratios.append(
            layer_runs.backward(functional.allora, *one, eta)[3] / layer_runs.backward(layer_runs.lora, *one)[3]
        )
    ratios = np.array(ratios)
    spread = float(np.ptp(ratios, axis=0).max() / ratios.max())
    error = relative_error(ratios, np.broadcast_to(adaptive.row_factor(a, b, eta)[:, None], ratios.shape))
    evidence = Evidence(
        {"coefficient": adaptive.row_factor(a, b, eta)},
        {"coefficient": ratios.mean(axis=(0, 2)), "relative spread over samples": spread},
        ROUNDING_SOURCE,
        error,
        ROUNDING,
        seed=layer_runs.SEED,
    )
    text = "one coefficient for a row of ∂L/∂(BA), the same for every sample; ALLoRA-OD's is per sample"
    opposite = {"the row's factor for every sample": error <= ROUNDING and spread <= ROUNDING}
    return Finding(settle({"varies over samples": spread > DISTINCT}, opposite, contrary=True), evidence, text)


def definition() -> Finding:
    """The layer against the definition: output f, gradients BᵀD_dG and D_dGAᵀ.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    printed, errors = {}, {}
    for eta in ETAS:
        x, upstream, a, b = layer_runs.draws()
        for case, start in {f"η = {eta:.4g}, B = 0": 0 * b, f"η = {eta:.4g}": b}.items():
            output, _, grad_a, grad_b = layer_runs.backward(functional.allora, x, upstream, a, start, eta)
            expected = (x @ a.T @ start.T, *adaptive.update_field(a, start, upstream.T @ x, eta))
            errors[case] = max(map(relative_error, (output, grad_a, grad_b), expected))
            printed[case] = errors[case] <= ROUNDING
    evidence = Evidence(
        {"relative error": 0.0}, errors, ROUNDING_SOURCE, max(errors.values()), ROUNDING, seed=layer_runs.SEED
    )
    return Finding(settle(printed), evidence)


def not_back_propagated() -> Finding:
    """∂L/∂x of the layer, and of the module with its frozen weight, against LoRA's.

    Returns:
        The finding.
    """
    import torch

    from allora_analysis.lora import functional
    from allora_analysis.lora.layers import ALLoRALinear

    x, upstream, a, b = layer_runs.draws()
    module = ALLoRALinear(torch.nn.Linear(3, 4, dtype=torch.float64), rank=2, eta=2.0)
    module.b.data.copy_(torch.tensor(b))
    inputs = torch.tensor(x, requires_grad=True)
    module(inputs).backward(torch.tensor(upstream))
    with torch.no_grad():
        through_module = torch.tensor(upstream) @ (module.base.weight + module.b @ module.a)
    errors = {
        "functional": relative_error(
            layer_runs.backward(functional.allora, x, upstream, a, b, 2.0)[1],
            layer_runs.backward(layer_runs.lora, x, upstream, a, b)[1],
        ),
        "module": relative_error(inputs.grad.numpy(), through_module.numpy()),
    }
    evidence = Evidence(
        {"relative error": 0.0}, errors, ROUNDING_SOURCE, max(errors.values()), ROUNDING, seed=layer_runs.SEED
    )
    return Finding(settle({case: error <= ROUNDING for case, error in errors.items()}), evidence)


def _input_gradient(size: float, eta: float, adapted: bool) -> float:
    # ‖∂L/∂x‖ through DEPTH layers x + BAx of the real layer with BA = size·I, all in one direction: the worst case.
    import torch

    from allora_analysis.lora import functional

    a = torch.eye(2, dtype=torch.float64)
    b, x = size * a, torch.tensor([[0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    h = x
    for _ in range(DEPTH):
        f = functional.allora(h, a, b, eta)
        d = functional.row_factor(a, b, eta) if adapted else 1.0
        h = h + d * f + ((1 - d) * f).detach()  # the value of h + f, and d times f's gradient
    h.sum().backward()
    return float(x.grad.norm())


def backward_ripple() -> Finding:
    """Growth of the input's gradient through the layers, over that with the input's gradient adapted as well.

    Returns:
        The finding.
    """
    printed, corrected, predicted, seen, errors = {}, {}, {}, {}, []
    for eta, size in itertools.product((1.0, 2.0), (0.0, 0.1, 0.5, 1.0, 10.0)):
        case, d = f"η = {eta:g}, ‖(BA)_i‖ = {size:g}", (size + eta**-2) ** -0.5
        seen[case] = _input_gradient(size, eta, adapted=False) / _input_gradient(size, eta, adapted=True)
        predicted[case] = ((1 + size) / (1 + d * size)) ** DEPTH
        errors.append(abs(seen[case] / predicted[case] - 1))
        printed[case] = seen[case] < 1 - ROUNDING
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == (0 < size < 1 - eta**-2)
    evidence = Evidence(predicted, {"ratio": seen}, ROUNDING_SOURCE, max(errors), ROUNDING)
    text = (
        "while 0 < ‖(BA)_i‖ < 1 − 1/η² (never for η ≤ 1): there the factor is above 1. At B = 0 the gradient of the "
        f"input does not pass BA at all, and past 1 − 1/η² it grows more than if adapted: over {DEPTH} layers that add "
        f"up, at η = 2, {seen['η = 2, ‖(BA)_i‖ = 0.1']:.2g} times as much at ‖(BA)_i‖ = 0.1, "
        f"{seen['η = 2, ‖(BA)_i‖ = 1']:.2g} times at 1"
    )
    return Finding(settle(printed, corrected), evidence, text)


ROWS = (
    (
        "adaptor",
        "§4.2, Figure 5, Appendix C",
        "1/√(‖(BA)_i‖ + 1/η²) reaches its maximum (η) at ‖(BA)_i‖ = 0 and then tapers down",
        adaptor,
    ),
    (
        "inversely-proportional",
        "Abstract; §4.2",
        "A coefficient inversely proportional to the parameters' ℓ2 norm ‖(BA)_i‖",
        inversely_proportional,
    ),
    ("per-sample", "Abstract", "Scaling the per sample gradients (read: one coefficient per sample)", per_sample),
    (
        "definition",
        "§4.2, definition of ALLoRA; run on the layer",
        "f̃ = f, g̃_i = g_i/√(‖(BA)_i‖ + 1/η²)",
        definition,
    ),
    (
        "not-back-propagated",
        "§4.2, implementation detail; run on the layer",
        "We only modify the gradients of A and B, but not that of the input",
        not_back_propagated,
    ),
    (
        "backward-ripple",
        "§4.2, implementation detail; run on the layer",
        "This helps further restrict the changes within each layer and reduce ripple effect (read: the input's "
        "gradient grows less through the layers than if it were adapted too)",
        backward_ripple,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on ALLoRA's definition.

    Returns:
        The claims, in the paper's order.
    """
    command = "python -m allora_analysis --only 4-"
    return tuple(Claim(f"4-{name}", where, text, check, command + name, TEST) for name, where, text, check in ROWS)
