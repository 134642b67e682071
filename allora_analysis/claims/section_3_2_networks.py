"""§3.2 in a real network: the start of LoRA's parameters in a tanh MLP on the digits, and whether descent leaves it.

The counts that ranks predict stand beside the signs of a dense Hessian's eigenvalues. Checked by
`tests/test_claims_networks.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

ROUNDING = 1e-8
# Of a dense Hessian's eigenvalues, relative to the largest: below is rounding; the smallest true ones are 1e-6 here.
ZERO = 1e-11
STEPS = 300
COMMAND = "python -m allora_analysis.hessian --network --rank {}"


def _signs(values: np.ndarray) -> dict[str, int]:
    limit = ZERO * float(np.abs(values).max())
    negative, positive = int((values < -limit).sum()), int((values > limit).sum())
    return {"negative": negative, "positive": positive, "zero": len(values) - negative - positive}


def _dense_eigenvalues(model: Any, loss: Any, data: Any) -> np.ndarray:
    from allora_analysis.hessian import network

    size = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return network.network_spectrum(model, loss, data, size).smallest


def saddle() -> Finding:
    """B = 0, A random, in both layers: no critical point, but indefinite, as many negative directions as predicted.

    Returns:
        The finding.
    """
    from torch import nn

    from allora_analysis.hessian import digits_mlp, network, network_inertia

    loss, (images, classes) = nn.CrossEntropyLoss(), digits_mlp.new_digits()
    printed, corrected, predicted, seen = {}, {}, {}, {}
    for seed, rank, n in ((0, 1, digits_mlp.NEW_IMAGES), (1, 2, 8)):
        case, data = f"MLP 64-32-10, r = {rank}, {n} digits", (images[:n], classes[:n])
        model = digits_mlp.adapted_mlp(seed, rank)
        slope_a, slope_b = digits_mlp.gradient_norms(model, loss, data)
        exact, values = network_inertia.negative_directions(model, loss, data), _dense_eigenvalues(model, loss, data)
        signs = _signs(values)
        predicted[case] = {
            "negative": exact.negative,
            "positive": exact.positive,
            "zero": exact.zero,
            "Σ r·rank G": rank * sum(exact.layer_ranks.values()),
        }
        seen[case] = {**signs, "‖∇_A‖": slope_a, "‖∇_B‖": slope_b, "eigenvalues": [float(values[0]), float(values[-1])]}
        printed[case] = slope_b <= ROUNDING and signs["negative"] > 0
        counted = all(predicted[case][sign] == number for sign, number in signs.items())
        bounded = signs["negative"] >= predicted[case]["Σ r·rank G"] > 0
        corrected[case] = counted and bounded and slope_b > ROUNDING and slope_a == 0
    ends = network.network_spectrum(model, loss, data, 2)  # of the last case, matrix-free
    error = relative_error(np.r_[ends.smallest, ends.largest], np.r_[values[:2], values[-2:]])
    corrected[case] &= error <= ROUNDING
    evidence = Evidence(
        predicted,
        seen,
        "counts: none may differ; the error is that of both ends by Lanczos in the last case",
        error,
        ROUNDING,
        seed=0,
    )
    return Finding(
        settle(printed, corrected, contrary=True),
        evidence,
        "no critical point (∇_A = 0, ∇_B ≠ 0), hence no saddle point; the Hessian there is indefinite, with "
        f"Σ_l r·rank G_l negative directions and those of K on ker C besides ({_counts(predicted, seen)})",
    )


def _counts(predicted: Mapping[str, Mapping[str, int]], seen: Mapping[str, Mapping[str, Any]]) -> str:
    ranks = "Σ r·rank G"
    return "; ".join(
        f"{seen[case]['negative']}, of them {told[ranks]} Σ_l r·rank G_l: {case}" for case, told in predicted.items()
    )


def escape() -> Finding:
    """Does plain gradient descent stay at the start? From LoRA's, and from the only one that is a saddle, A = B = 0.

    Returns:
        The finding.
    """
    import torch
    from torch import nn

    from allora_analysis.hessian import digits_mlp

    loss, data = nn.CrossEntropyLoss(), digits_mlp.new_digits()
    printed, corrected, seen = {}, {}, {}
    for case, saddle_point in (("B = 0, A random (LoRA)", False), ("A = B = 0", True)):
        model = digits_mlp.adapted_mlp(0, 1)
        if saddle_point:
            with torch.no_grad():
                for layer in (model[0], model[2]):
                    layer.a.zero_()
        start, slope = loss(model(data[0]), data[1]).item(), sum(digits_mlp.gradient_norms(model, loss, data))
        before = _dense_eigenvalues(model, loss, data)
        digits_mlp.descend(model, loss, data, STEPS, digits_mlp.LEARNING_RATE)
        end, after = loss(model(data[0]), data[1]).item(), _dense_eigenvalues(model, loss, data)
        seen[case] = {
            "loss": [start, end],
            "‖∇‖ at the start": slope,
            "negative directions": [_signs(before)["negative"], _signs(after)["negative"]],
            "lowest over highest eigenvalue": [float(each[0] / each[-1]) for each in (before, after)],
        }
        printed[case] = end >= start * (1 - ROUNDING)
        corrected[case] = printed[case] == saddle_point == (slope <= ROUNDING)
    error, lora = 0.0 if all(corrected.values()) else 1.0, next(iter(seen.values()))
    (start, end), kept, shallow = lora["loss"], lora["negative directions"], -lora["lowest over highest eigenvalue"][1]
    predicted = {"gradient descent stays": "iff the gradient is 0 at the start: A = B = 0 only"}
    evidence = Evidence(predicted, seen, "stays or leaves: none may differ", error, 0.0, seed=0)
    return Finding(
        settle(printed, corrected),
        evidence,
        f"only from A = B = 0; from LoRA's start (r = 1) the loss falls from {start:.2f} to {end:.2f} in {STEPS} "
        f"steps, where {kept[1]} of {kept[0]} negative directions are left, the lowest eigenvalue {shallow:.1g} of the "
        "highest",
    )


def claims() -> tuple[Claim, ...]:
    """The rows on networks.

    Returns:
        The claims.
    """
    where, test = "§1, second flaw", "tests/test_hessian_network_inertia.py"
    text = "The fine-tuning parameters start from a saddle point: in a network"
    difficult = (
        "Zero-initialization is difficult to escape from, as the parameters start from a saddle point: in a network"
    )
    return (
        Claim("3.2-network-saddle", where, text, saddle, COMMAND.format(2), test),
        Claim("3.2-network-escape", where, difficult, escape, COMMAND.format(1), "tests/test_hessian_digits.py"),
    )
