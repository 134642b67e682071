"""The worst case of §3.3: the product bound, the AM–GM bound, and where the paper's C and m̄ come from.

The norm is the Euclidean one on vectors and, induced by it, the spectral one on matrices. With M_l = W_l + ηB_lA_l and
f_L(x) = M_L ⋯ M_1 x, line by line:

    ‖f_L(x)‖ ≤ ‖M_L ⋯ M_1‖ ‖x‖                          definition of the induced norm (the paper prints "=")
             ≤ ‖M_L‖ ⋯ ‖M_1‖ ‖x‖                         submultiplicativity
             ≤ ∏_l (‖W_l‖ + η‖B_lA_l‖) ‖x‖               triangle inequality, η ≥ 0: **the product bound**
             = ∏_l ‖W_l‖ · ∏_l (1 + η‖B_lA_l‖/‖W_l‖) ‖x‖ each factor divided by its own ‖W_l‖ > 0
             = C ∏_l (1 + ηm_l) ‖x‖                      C = ∏_l ‖W_l‖,  m_l = ‖B_lA_l‖/‖W_l‖
             ≤ C ((1/L) Σ_l (1 + ηm_l))^L ‖x‖            geometric mean ≤ arithmetic mean of the L factors
             = C (1 + ηm̄)^L ‖x‖                          m̄ = (1/L) Σ_l m_l: **the AM–GM bound**

So m̄ must divide each ‖B_lA_l‖ by the norm of *its own* W_l. The paper prints ‖W_L‖ under every term; the last
inequality then fails for some networks whose norms differ (ledger row `3.3-mean-ratio`). C is constant in x and η, not
in L.

Equality holds line by line iff: x is a top right singular vector of the product; the layers line up; within each layer
W_l and B_lA_l share both top singular vectors; all m_l are equal. `aligned.aligned_network` builds such a network.

Everything is in natural logarithms: at η = 100 and L = 10⁵ the bound itself is 10^200432.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.validation import ArgumentError


class Layer(NamedTuple):
    """One layer x ↦ (W + ηBA)x: W (n₁×n₂) frozen, B (n₁×r), A (r×n₂)."""

    w: np.ndarray
    b: np.ndarray
    a: np.ndarray


@dataclass(frozen=True)
class WorstCase:
    """The bounds on log(‖f_L(x)‖/‖x‖), natural logarithms.

    Attributes:
        log_bound: Σ log(‖W_l‖ + η‖B_lA_l‖).
        log_amgm_bound: log C + L log(1 + ηm̄), never below log_bound.
        log_c: log C = Σ log ‖W_l‖; −∞ if some W_l = 0.
        mean_ratio: m̄; ∞ if some W_l = 0, and the AM–GM bound then says nothing (∞).
    """

    log_bound: float
    log_amgm_bound: float
    log_c: float
    mean_ratio: float


def checked_layers(layers: Sequence[Sequence[ArrayLike]]) -> tuple[Layer, ...]:
    """The layers as float64, with shapes that chain: n₂ and r within a layer, widths from one layer to the next.

    Args:
        layers: (W, B, A) triples, the first applied first.

    Returns:
        The layers, copied.

    Raises:
        ArgumentError: none at all, a layer that is no triple, or sizes that do not match.
    """
    result: list[Layer] = []
    for index, triple in enumerate(validation.several("layers", layers)):
        if len(triple) != 3:
            raise ArgumentError(f"layers[{index}] must be a triple (W, B, A), received {len(triple)} entries")
        width_in = result[-1].w.shape[0] if result else None
        w = validation.matrix_of(f"layers[{index}] W", triple[0], (None, width_in), "the layer before")
        b = validation.matrix_of(f"layers[{index}] B", triple[1], (w.shape[0], None), "the rows of W")
        a = validation.matrix_of(f"layers[{index}] A", triple[2], (b.shape[1], w.shape[1]), "B's and W's columns")
        result.append(Layer(w, b, a))
    return tuple(result)


def spectral_norms(layers: Sequence[Sequence[ArrayLike]]) -> tuple[np.ndarray, np.ndarray]:
    """‖W_l‖ and ‖B_lA_l‖ of every layer, spectral; BA is not formed.

    Checked by `tests/test_ripple.py` against dense singular values.

    Args:
        layers: (W, B, A) triples, the first applied first.

    Returns:
        Two arrays of length L.
    """
    checked = checked_layers(layers)
    weights = np.array([np.linalg.norm(layer.w, 2) for layer in checked])
    return weights, np.array([_adapter_norm(layer.b, layer.a) for layer in checked])


def _adapter_norm(b: Float[np.ndarray, "n1 r"], a: Float[np.ndarray, "r n2"]) -> float:
    # B = Q₁R₁ and Aᵀ = Q₂R₂ give BA = Q₁(R₁R₂ᵀ)Q₂ᵀ: the norm of an at most r×r matrix.
    left, right = np.linalg.qr(b, mode="r"), np.linalg.qr(a.T, mode="r")
    return float(np.linalg.norm(left @ right.T, 2))


def worst_case(weight_norms: ArrayLike, adapter_norms: ArrayLike, eta: float) -> WorstCase:
    """Bounds on log(‖f_L(x)‖/‖x‖) from each layer's norms; `worst_case(*spectral_norms(layers), eta)` for given layers.

    Paper §3.3; the derivation is this module's docstring. ReLU between the layers leaves both bounds valid, as
    ‖max(z, 0)‖ ≤ ‖z‖. Checked by `tests/test_ripple.py`.

    Args:
        weight_norms: ‖W_l‖, length L.
        adapter_norms: ‖B_lA_l‖, length L.
        eta: the scaling factor η = α/r, 0 or above.

    Returns:
        Both bounds, log C and m̄.

    Raises:
        ArgumentError: a negative norm or eta, lengths that differ, every bound −∞ (a layer that is zero).

    Examples:
        >>> from allora_analysis.ripple import worst_case
        >>> print(round(worst_case([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], eta=1.0).log_bound, 6))  # 3 log 2
        2.079442
    """
    weights, adapters = _norms(weight_norms, adapter_norms)
    eta = validation.non_negative("eta", eta)
    if (weights + eta * adapters).min() == 0:
        raise ArgumentError("weight_norms: a layer with W = 0 and ηBA = 0 maps everything to 0; its logarithm is −∞")
    return _bounds(weights, adapters, eta)


def _norms(weight_norms: ArrayLike, adapter_norms: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    weights, adapters = (
        validation.vector("weight_norms", weight_norms),
        validation.vector("adapter_norms", adapter_norms),
    )
    for name, norms in (("weight_norms", weights), ("adapter_norms", adapters)):
        if norms.min() < 0:
            raise ArgumentError(f"{name} must be norms, 0 or above; received {norms.min()}")
    if weights.shape != adapters.shape:
        raise ArgumentError(f"adapter_norms: {adapters.size} received, {weights.size} wanted, one per weight norm")
    return weights, adapters


def _bounds(weights: Float[np.ndarray, " L"], adapters: Float[np.ndarray, " L"], eta: float) -> WorstCase:
    log_bound = float(np.log(weights + eta * adapters).sum())
    if weights.min() == 0:
        return WorstCase(log_bound, np.inf, -np.inf, np.inf)
    log_c, mean_ratio = float(np.log(weights).sum()), float((adapters / weights).mean())
    return WorstCase(log_bound, log_c + weights.size * float(np.log1p(eta * mean_ratio)), log_c, mean_ratio)


def residual_bound(weight_norms: ArrayLike, adapter_norms: ArrayLike, eta: float, width: int) -> float:
    """The worst case of the pre-LayerNorm residual stack: log(1 + Σ_l (‖W_l‖ + η‖B_lA_l‖)), from ‖h₀‖ = √n.

    h_l = h_{l−1} + (W_l + ηB_lA_l) LN(h_{l−1}) and ‖LN(·)‖ = √n (ε = 0, unit gain), so ‖h_l‖ ≤ ‖h_{l−1}‖ +
    √n(‖W_l‖ + η‖B_lA_l‖): the bound is *additive*, linear in L where the plain stack's is exponential. Attained by
    `aligned_network(..., architecture="prelayernorm")`. Checked by `tests/test_ripple.py`.

    Args:
        weight_norms: ‖W_l‖, length L.
        adapter_norms: ‖B_lA_l‖, length L.
        eta: the scaling factor.
        width: n, at least 2 (the layer norm of one number is 0/0).

    Returns:
        The bound on log(‖h_L‖/‖h₀‖), natural logarithm.

    Raises:
        ArgumentError: a negative norm or eta, lengths that differ, a width below 2.
    """
    validation.count("width", width, 2)
    weights, adapters = _norms(weight_norms, adapter_norms)
    return float(np.log1p((weights + validation.non_negative("eta", eta) * adapters).sum()))
