"""§1 and §2, what the design of LoRA gives: training starts at the pretrained map, and a merged adapter costs nothing.

Layers are run, and the operations of their matrix products counted. Listed by `section_3_2_zero_initialisation`.
Checked by `tests/test_claims_hessian.py`, which plants other layers.
"""

from __future__ import annotations

import itertools
from typing import Any

from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

WIDTHS, RANK, ETA, ROWS, SEED = (24, 40, 16), 4, 2.0, 32, 24
PRECISIONS = ("float32", "float64")
# Of outputs relative to the largest, in units of the precision's epsilon: a sum of up to 40 products in another order.
EPSILONS = 40


def network(dtype: str, a: float = 1.0, b: float = 0.0) -> tuple[Any, Any, Any]:
    """A pretrained network, the same with LoRA in both layers, and inputs.

    Args:
        dtype: name of torch's type.
        a: A's entries as drawn, times this.
        b: B's standard deviation.

    Returns:
        Both networks (sharing their weights) and the inputs.
    """
    import torch
    from torch import nn

    from allora_analysis.lora.layers import ALLoRALinear

    generator, kind = torch.Generator().manual_seed(SEED), getattr(torch, dtype)
    bases = [nn.Linear(n, m, dtype=kind) for n, m in itertools.pairwise(WIDTHS)]
    adapted = []
    with torch.no_grad():
        for base in bases:
            for part in (base.weight, base.bias):
                part.copy_(torch.randn(part.shape, generator=generator, dtype=kind) / base.in_features**0.5)
            layer = ALLoRALinear(base, RANK, ETA, "lora_x_eta", generator=generator)
            layer.a.mul_(a)
            layer.b.copy_(b * torch.randn(layer.b.shape, generator=generator, dtype=kind))
            adapted.append(layer)
    inputs = torch.randn(ROWS, WIDTHS[0], generator=generator, dtype=kind)
    base, lora = (nn.Sequential(layers[0], nn.Tanh(), layers[1]) for layers in (bases, adapted))
    return base, lora, inputs


def _largest_difference(one: Any, other: Any, inputs: Any) -> float:
    import torch

    with torch.no_grad():
        return float((one(inputs) - other(inputs)).abs().max())


def pretrained_mapping() -> Finding:
    """Is the network at the start the pretrained one, bit by bit? With B = 0, or A = 0; and not with neither.

    Returns:
        The finding.
    """
    printed, seen = {}, {}
    for dtype in PRECISIONS:
        control = _largest_difference(*network(dtype, 1.0, 1.0))
        for start, (a, b) in {"B = 0, A random": (1.0, 0.0), "A = 0, B random": (0.0, 1.0)}.items():
            case, difference = f"{start}, {dtype}", _largest_difference(*network(dtype, a, b))
            seen[case] = {"largest difference": difference, "with A and B random": control}
            printed[case] = difference == 0 < control
    error = max(found["largest difference"] for found in seen.values())
    told = {case: {"largest difference": 0.0} for case in seen}
    return Finding(settle(printed), Evidence(told, seen, "none: bit by bit", error, 0.0, seed=SEED))


def operations(module: Any, inputs: Any) -> int:
    """Floating-point operations of a forward pass's matrix products, 2 for each entry of a weight and each input row.

    Args:
        module: the network; its products are calls of `torch.nn.functional.linear`.
        inputs: its inputs.

    Returns:
        The number.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Counter(TorchFunctionMode):
        total = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                x, weight = args[:2]
                self.total += 2 * weight.numel() * (x.numel() // x.shape[-1])
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Counter() as counter:
        module(inputs)
    return counter.total


def inference_cost() -> Finding:
    """Does a merged network do what the adapted one does, at the pretrained one's cost? Unmerged it costs more.

    Returns:
        The finding; operations and parameters of the pretrained network (predicted) and of the merged one.
    """
    import torch
    from torch import nn

    printed, predicted, measured, errors = {}, {}, {}, []
    extra = 2 * ROWS * RANK * sum(n + m for n, m in itertools.pairwise(WIDTHS))
    for dtype in PRECISIONS:
        base, adapted, inputs = network(dtype, 1.0, 1.0)
        merged = nn.Sequential(adapted[0].merge(), nn.Tanh(), adapted[2].merge())
        with torch.no_grad():
            outputs, reference = merged(inputs).double().numpy(), adapted(inputs).double().numpy()
        errors.append(relative_error(outputs, reference) / torch.finfo(getattr(torch, dtype)).eps)
        cost = {name: operations(each, inputs) for name, each in (("base", base), ("on", adapted), ("merged", merged))}
        sizes = [sum(part.numel() for part in each.parameters()) for each in (base, merged)]
        predicted[dtype] = {"operations": cost["base"], "parameters": sizes[0], "unmerged": cost["base"] + extra}
        measured[dtype] = {"operations": cost["merged"], "parameters": sizes[1], "unmerged": cost["on"]}
        printed[dtype] = measured[dtype] == predicted[dtype] and errors[-1] <= EPSILONS
    source = "of the output, in units of the precision's ε: sums in another order; of the counts none may differ"
    return Finding(settle(printed), Evidence(predicted, measured, source, max(errors), EPSILONS, seed=SEED))


def claims() -> tuple[Claim, ...]:
    """The rows.

    Returns:
        The claims.
    """
    rows = (
        (
            "3.2-pretrained-mapping",
            "§1, LoRA's design",
            "zero-initialization to ensure that training starts from the LLM's pretrained mapping",
            pretrained_mapping,
        ),
        (
            "3.2-inference-cost",
            "§2, LoRA",
            "Since low-rank matrices can be merged back to original weights, LoRA does not incur any additional cost "
            "at inference",
            inference_cost,
        ),
    )
    return tuple(
        Claim(name, where, text, check, f"python -m allora_analysis --only {name}", "tests/test_lora_layers.py")
        for name, where, text, check in rows
    )
