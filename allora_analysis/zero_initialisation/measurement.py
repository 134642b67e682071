"""Both ends of a layer's Hessian at B = 0, or all of it, beside what the ranks of G foretell.

With A and B of the layer's adapters trained and nothing else, H = [[0, C], [Cᵀ, K]] and n₋ = Σ r·rank G + n₋(K on
ker C), n₊ likewise (`hessian.network_inertia`). Where every G has rank n₁, ker C holds no direction of B, K does not
count, and n₋ = n₊ = Σ r·n₁ exactly; else each count lies between Σ r·rank G and that plus dim ker C, Σ r·(n₁ − rank G).
A run that asks for the whole spectrum computes K on ker C too, so that its counts are exact. Without K the eigenvalues
are ±σ_i(G), r times each, and 0; by Weyl none is further from its own than ‖K‖. Checked by
`tests/test_zero_initialisation.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from allora_analysis.hessian import LowRankLinear
from allora_analysis.hessian.empirical_risk import empirical_risk, evaluating
from allora_analysis.hessian.network import NetworkSpectrum, network_spectrum
from allora_analysis.hessian.network_inertia import layer_gradient_ranks, negative_directions
from allora_analysis.zero_initialisation.adapted import Adapted
from allora_analysis.zero_initialisation.setting import Setting


def measure(setting: Setting, model: Adapted) -> dict[str, Any]:
    """A run's result.

    Args:
        setting: the run.
        model: as `adapted.adapted` returned it.

    Returns:
        Loss, gradients, ranks and counts foretold, σ_i(G), and the eigenvalues with their residuals.
    """
    loss = nn.CrossEntropyLoss()
    slopes, sigma = gradients(model, loss)
    counted = foretold(setting, model, loss)
    size = sum(value.numel() for value in model.model.parameters() if value.requires_grad)
    spectrum = network_spectrum(model.model, loss, model.data, setting.k or size)
    return {
        "loss": spectrum.loss,
        "tokens": model.tokens,
        "parameters": spectrum.dimension,
        "gradient_norms": slopes,
        "foretold": counted,
        "singular_values": sigma if setting.k == 0 else {name: of[: setting.k] for name, of in sigma.items()},
        "products": spectrum.products,
        "method": spectrum.method,
        "certificate": vars(spectrum.certificate),
        **_eigenvalues(spectrum, whole=setting.k == 0),
    }


def _eigenvalues(spectrum: NetworkSpectrum, whole: bool) -> dict[str, Any]:
    if whole:
        return {"all": spectrum.smallest, "all_residual": float(spectrum.smallest_residuals.max())}
    return {
        "smallest": spectrum.smallest,
        "smallest_residuals": spectrum.smallest_residuals,
        "largest": spectrum.largest,
        "largest_residuals": spectrum.largest_residuals,
    }


def adapters(model: nn.Module) -> dict[str, LowRankLinear]:
    """The adapted linear maps.

    Args:
        model: the model.

    Returns:
        Each by its name in the model.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}


def gradients(model: Adapted, loss: nn.Module) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " n"]]]:
    """‖∂L/∂A‖ and ‖∂L/∂B‖ over all adapters, and each G's singular values.

    Args:
        model: the model and its sentences.
        loss: the loss.

    Returns:
        The norms by "a" and "b"; the singular values of G = ∂L/∂(BA), descending, by linear map.
    """
    risk, own = empirical_risk(model.model, loss, model.data), adapters(model.model)
    names = [f"{name}.{part}" for part in ("a", "b", "base.weight") for name in own]
    with evaluating(model.model):
        found = dict(zip(names, risk.value_and_gradient(names=names)[1], strict=True))
    norms = {part: float(np.sqrt(sum(np.sum(found[f"{name}.{part}"] ** 2) for name in own))) for part in ("a", "b")}
    return norms, {name: np.linalg.svd(found[f"{name}.base.weight"], compute_uv=False) for name in own}


def foretold(setting: Setting, model: Adapted, loss: nn.Module) -> dict[str, Any]:
    """Ranks of G and the counts of negative, zero and positive directions that follow, each as [least, most].

    Args:
        setting: the run.
        model: the model and its sentences.
        loss: the loss.

    Returns:
        `ranks` by linear map, its shape beside; dim ker C (in B); the counts.
    """
    own = adapters(model.model)
    shapes = {name: (layer.base.out_features, layer.base.in_features) for name, layer in own.items()}
    if setting.k == 0 and setting.precision == "float64":
        exact = negative_directions(model.model, loss, model.data)
        ranks, kernel = exact.layer_ranks, exact.kernel_dimension
        counts = {sign: [getattr(exact, sign)] * 2 for sign in ("negative", "zero", "positive")}
    else:
        ranks = layer_gradient_ranks(model.model, loss, model.data)
        counts, kernel = bounds(shapes, ranks, setting.rank)
    return {"shapes": shapes, "ranks": dict(ranks), "kernel_dimension": kernel, **counts}


def bounds(shapes: dict[str, tuple[int, int]], ranks: dict[str, int], rank: int) -> tuple[dict[str, list[int]], int]:
    """What the ranks of G alone say.

    Args:
        shapes: (n₁, n₂) by linear map.
        ranks: rank G by linear map.
        rank: r.

    Returns:
        [least, most] of each count, and dim ker C in B.
    """
    least = rank * sum(ranks.values())
    kernel = rank * sum(shapes[name][0] - of for name, of in ranks.items())
    flat = rank * sum(n2 - ranks[name] for name, (_, n2) in shapes.items())  # zeros that are A's own: Gα = 0
    signed = [least, least + kernel]
    return {"negative": signed, "zero": [flat, flat + kernel], "positive": signed}, kernel
