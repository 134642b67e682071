"""§4.3, ASF-LoRA: its gradient, its ripple, and that it cannot be merged; the layer is run.

Checked by `tests/test_claims_allora_variants.py`, which plants wrong formulas.
"""

from __future__ import annotations

import math

import numpy as np

from allora_analysis import adaptive, ripple
from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

SEED = 46
ROUNDING = 1e-10
SIMILAR = 0.01  # relative distance
TEST = "tests/test_adaptive_variants.py"


def natural_gradient() -> Finding:
    """The gradient with respect to BA through ASF-LoRA's output: autograd's on the layer, against f̃′ and against d.

    Returns:
        The finding.
    """
    from allora_analysis.lora import functional

    x, upstream, a, b = layer_runs.draws()
    printed, seen = {}, {}
    for case, scale in {"outputs near 0.01": 0.01, "outputs near 1": 1.0, "outputs near 100": 100.0}.items():
        output, *_, grad_b = layer_runs.backward(functional.asf_lora, scale * x, upstream, a, b, 2.0)
        f = scale * x @ a.T @ b.T
        expected = (adaptive.asf_derivative(f, 2.0) * upstream).T @ (scale * x @ a.T)
        seen[case] = max(relative_error(output, adaptive.asf(f, 2.0)), relative_error(grad_b, expected))
        printed[case] = seen[case] <= ROUNDING
    evidence = Evidence(
        {"g̃_i": "f̃′(f_i)·g_i, with f̃′ between d_i/2 and d_i"}, seen, "float64 rounding", max(seen.values()), ROUNDING
    )
    return Finding(settle(printed), evidence)


def asf_similar() -> Finding:
    """BA of ASF-LoRA against ALLoRA's at the same rate, first step and later; and the output after the first step.

    Returns:
        The finding; measured are relative distances of BA, and ASF-LoRA's output over ALLoRA's.
    """
    task, eta, rate, steps = layer_runs.problem(), 2.0, 0.01, 50
    printed, corrected, seen, errors = {}, {}, {}, []
    for name, optimiser in {"SGD": "sgd", "AdamW": "adamw"}.items():
        asf, allora = (layer_runs.products(task, optimiser, arm, eta, rate, steps) for arm in ("asf", "allora"))
        for case, step in ((f"{name}, first step", 1), (f"{name}, {steps} steps", steps)):
            seen[case] = relative_error(asf[step], allora[step])
            printed[case] = seen[case] <= SIMILAR
            corrected[case] = printed[case] == (step == 1)
        f = task.x @ allora[1].T
        output, plain = adaptive.asf(task.x @ asf[1].T, eta), _first_output(task, optimiser, eta, rate)
        errors.append(relative_error(plain, output))
        seen[f"{name}, output after the first step, over ALLoRA's"] = float(np.linalg.norm(plain) / np.linalg.norm(f))
        corrected[f"{name}, its output"] = errors[-1] <= ROUNDING
    ratios = [f"{value:.2f}" for case, value in seen.items() if "over ALLoRA's" in case]
    later = [f"{seen[f'{name}, {steps} steps']:.0%} ({name})" for name in ("SGD", "AdamW")]
    source = f"{SIMILAR:g} for a similar BA; outputs: float64 rounding"
    evidence = Evidence({"BA": "ALLoRA's"}, seen, source, max(errors), ROUNDING, n=steps, seed=layer_runs.SEED)
    text = (
        f"for the first step of BA, from B = 0; the output is then already up to η times ALLoRA's ({', '.join(ratios)} "
        f"times at η = {eta:g}), since the factor stands in the forward pass, and after {steps} steps BA is "
        f"{' and '.join(later)} away from ALLoRA's"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _first_output(task: layer_runs.Problem, optimiser: str, eta: float, rate: float) -> np.ndarray:
    # ASF-LoRA's own output after its first step.
    import torch

    parts = (task.x, *layer_runs.pairs(task, optimiser, "asf", eta, rate, 1)[1])
    return layer_runs.forward("asf", *map(torch.tensor, parts), eta).numpy()


def asf_ripple() -> Finding:
    """Growth through eight random layers: ASF-LoRA's, beside LoRA×η's and that of LoRA at scaling 1, by input size.

    Returns:
        The finding; logarithms of ‖f_L‖/‖x‖.
    """
    depth, width, rank, eta = 8, 32, 4, 4.0
    generator = np.random.default_rng(SEED)
    scales = ripple.fair_scales(width, rank)
    layers = [
        (
            scales.w_std * generator.standard_normal((width, width)),
            scales.b_std * generator.standard_normal((width, rank)),
            scales.a_std * generator.standard_normal((rank, width)),
        )
        for _ in range(depth)
    ]
    x = generator.standard_normal(width)
    one, full = (float(growth) for growth in ripple.log_output_growth(layers, x, [1.0, eta]))
    printed, corrected, seen, errors = {}, {}, {}, []
    for size in (1e-8, 1.0, 1e8):
        case = f"inputs of size {size:g}"
        found = _asf_growth(layers, size * x, eta)
        errors.append(relative_error(found, ripple.log_output_growth(layers, size * x, eta, damped=True)[0]))
        seen[case] = {"log_growth, ASF-LoRA": found, "log_growth, LoRA×η": full, "log_growth, scaling 1": one}
        printed[case] = found - one > (full - one) / 2
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == (size < 1e-6) and found <= full + ROUNDING
    corrected["damped below scaling 1 for large inputs"] = seen["inputs of size 1e+08"]["log_growth, ASF-LoRA"] < one
    f = np.geomspace(1e-8, 1e8, 200)
    bounded = np.abs(adaptive.asf(f, eta)) <= np.minimum(eta * f, np.sqrt(f)) * (1 + ROUNDING)
    corrected["|f̃| ≤ min(η|f|, √|f|)"] = bool(bounded.all())
    evidence = Evidence(
        {"|f̃|, at most": "min(η|f|, √|f|)"},
        seen,
        "float64 rounding between two forwards",
        max(errors),
        ROUNDING,
        seed=SEED,
    )
    text = (
        "only for outputs well below 1/η², where it is LoRA×η; from |f| ≈ 1 on it damps: |f̃| ≤ √|f|, less than "
        "ALLoRA's own forward pass"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _asf_growth(layers, x: np.ndarray, eta: float) -> float:
    # The same forward pass through the layer itself.
    import torch

    from allora_analysis.lora import functional

    h = torch.tensor(x)
    for w, b, a in layers:
        h = torch.tensor(w) @ h + functional.asf_lora(h, torch.tensor(a), torch.tensor(b), eta)
    return float(torch.log(h.norm())) - math.log(float(np.linalg.norm(x)))


def asf_merge() -> Finding:
    """The best matrix for ASF-LoRA's outputs at x and 2x, LoRA's beside it; and what merging the module says.

    Returns:
        The finding.
    """
    import torch

    from allora_analysis.lora import functional
    from allora_analysis.lora.layers import ALLoRALinear
    from allora_analysis.validation import ArgumentError

    *_, a, b = layer_runs.draws()
    pair = adaptive.unmergeable_pair(a, b, 2.0)
    inputs = np.stack([pair.x, pair.twice])
    tensors = [torch.tensor(part) for part in (inputs, a, b)]
    residuals = {}
    for name, outputs in {"ASF-LoRA": functional.asf_lora(*tensors, 2.0), "LoRA": layer_runs.lora(*tensors)}.items():
        values = outputs.numpy()
        fitted = inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0]
        residuals[name] = float(np.linalg.norm(values - fitted) / np.linalg.norm(values))
    once, twice = (functional.asf_lora(torch.tensor(v), *tensors[1:], 2.0).numpy() for v in inputs)
    gap = float(np.linalg.norm(twice - 2 * once) / np.linalg.norm(2 * once))
    module = ALLoRALinear(torch.nn.Linear(3, 4, dtype=torch.float64), rank=2, eta=2.0, variant="asf_lora")
    try:
        module.merge()
        refuses = False
    except ArgumentError:
        refuses = True
    printed = {"no matrix serves x and 2x": residuals["ASF-LoRA"] > 1e-3, "the module refuses to merge": refuses}
    printed["LoRA's outputs have a matrix"] = residuals["LoRA"] <= ROUNDING
    printed["the gap is the predicted one"] = abs(gap - pair.gap) <= ROUNDING
    evidence = Evidence(
        {"gap": pair.gap}, {"gap": gap, "residual": residuals}, "float64 rounding", abs(gap - pair.gap), ROUNDING
    )
    return Finding(settle(printed), evidence)


ROWS = (
    (
        "4-asf-similar",
        "We may achieve similar effect by switching from adaptive learning rate to Adaptive Scaling Factor (read: the "
        "same BA)",
        asf_similar,
    ),
    ("4-asf-gradient", "ASF-LoRA: g̃ is naturally defined by using f̃ in place of f; run on the layer", natural_gradient),
    ("4-asf-ripple", "ASF-LoRA introduces ripple effect across layers", asf_ripple),
    ("4-asf-merge", "ASF-LoRA: we cannot merge BA back to W* as we need to apply f_o to the LoRA output", asf_merge),
)


def claims() -> tuple[Claim, ...]:
    """The statements on ASF-LoRA that need no fine-tuning.

    Returns:
        The claims.
    """
    return tuple(
        Claim(name, "§4.3", text, check, f"python -m allora_analysis --only {name}", TEST) for name, text, check in ROWS
    )
