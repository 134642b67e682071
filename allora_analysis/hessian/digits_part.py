"""The study's `--network` part: both ends of a real network's Hessian, at zero initialisation and after training.

Checked by `tests/test_hessian_study.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allora_analysis.study import text

if TYPE_CHECKING:
    from allora_analysis.hessian.network import NetworkSpectrum

LARGEST_SEED = 2**64 - 1  # torch's


def digits_part(seed: int, rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The digits MLP with LoRA: the counts that §3.2's structure predicts, and what Lanczos measures.

    Args:
        seed: of the network, the adapters and Lanczos.
        rank: r of the adapters, cut to 10, the narrowest side.

    Returns:
        Predicted (at B = 0: n₋, its lower bound Σ r·rank G_l, ‖∇_A‖ = 0) and measured (eigenvalues at both ends with
        their residuals, loss and gradients, at the start and after training).
    """
    from allora_analysis.hessian.digits_mlp import digits_spectra

    spectra = digits_spectra(seed, min(rank, 10))
    counts = spectra.inertia
    predicted = {
        "rank": min(rank, 10),
        "layer_gradient_ranks": dict(counts.layer_ranks),
        "negative_at_least": counts.bound,
        "negative": counts.negative,
        "zero": counts.zero,
        "positive": counts.positive,
        "gradient_a_norm": 0.0,
    }
    measured = {
        "gradient_a_norm": spectra.gradient_a,
        "gradient_b_norm": spectra.gradient_b,
        "start": _ends(spectra.start),
        "trained": _ends(spectra.trained),
    }
    return predicted, measured


def _ends(spectrum: NetworkSpectrum) -> dict[str, Any]:
    worst = max(np.max(spectrum.smallest_residuals), np.max(spectrum.largest_residuals))
    return {
        "parameters": spectrum.dimension,
        "loss": spectrum.loss,
        "smallest": spectrum.smallest,
        "largest": spectrum.largest,
        "largest_residual": float(worst),
        "hessian_vector_products": spectrum.products,
    }


def digits_notes(predicted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """The part's lines below the study's table.

    Args:
        predicted: as `digits_part` returns it.
        measured: as `digits_part` returns it.

    Returns:
        One line for the start, one for the trained adapters.
    """
    start, trained = measured["start"], measured["trained"]
    signs = f"{predicted['negative']} negative directions of {start['parameters']}, predicted from the ranks of G"
    signs += f" (at least {predicted['negative_at_least']})"
    return [
        f"Digits MLP with LoRA (r = {predicted['rank']}) at B = 0: {signs}; "
        f"eigenvalues {_range(start)}; ‖∇_A‖ = {text(measured['gradient_a_norm'])}, "
        f"‖∇_B‖ = {text(measured['gradient_b_norm'])}; loss {text(start['loss'])}",
        f"  after training the adapters: eigenvalues {_range(trained)}; loss {text(trained['loss'])}",
    ]


def _range(ends: dict[str, Any]) -> str:
    return (
        f"{text(ends['smallest'][0])} to {text(ends['largest'][-1])} (residuals ≤ {text(ends['largest_residual'], 2)})"
    )
