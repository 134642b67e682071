"""The network that attains the worst case, to rounding: the paper's "all the inequalities are tight", built.

W_l = U_l diag(σ) U_{l−1}ᵀ and B_lA_l = U_l diag(τ) U_{l−1}ᵀ share orthonormal bases, U_l's first column is both the top
left direction of layer l and the top right one of layer l + 1, and x is U_0's first column. Then M_l maps U_{l−1}e₁ to
(σ₁ + ητ₁) U_l e₁ with ‖W_l‖ = σ₁ and ‖B_lA_l‖ = τ₁, so ‖f_L(x)‖ = ∏(‖W_l‖ + η‖B_lA_l‖)‖x‖, and the AM–GM bound is
attained too if all τ₁/σ₁ are equal. The first columns are non-negative, so ReLU passes them. Checked by
`tests/test_ripple.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.ripple.bounds import Layer
from allora_analysis.ripple.growth import check_widths
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class AlignedNetwork:
    """Layers whose top singular vectors line up, and the unit input x that they stretch the most."""

    layers: tuple[Layer, ...]
    x: Float[np.ndarray, " n0"]


def aligned_network(
    widths: Sequence[int],
    rank: int,
    weight_norms: ArrayLike = 1.0,
    adapter_norms: ArrayLike = 1.0,
    *,
    generator: np.random.Generator,
    architecture: str = "linear",
    closed: bool = False,
) -> AlignedNetwork:
    """A network with these norms whose output is as long as the bound allows: the worst case of §3.3, attained.

    Args:
        widths: n₀, …, n_L; need not be equal (except for "prelayernorm").
        rank: r of every adapter, 1 to the smallest width; the adapters have rank exactly r.
        weight_norms: ‖W_l‖, one for all layers or one each.
        adapter_norms: ‖B_lA_l‖, likewise; proportional to `weight_norms` (equal m_l) attains the AM–GM bound as well.
        generator: draws the bases and the smaller singular values.
        architecture: "linear" and "relu" take non-negative directions; "prelayernorm" takes one direction of mean 0 for
            all layers, which the layer norm only rescales.
        closed: the last direction is x again, so that the stack can be repeated; needs n_L = n₀.

    Returns:
        The layers and x, ‖x‖ = 1.

    Raises:
        ArgumentError: widths that differ where they must not, a norm below 0.
    """
    widths = check_widths(widths, rank)
    validation.choice("architecture", architecture, ("linear", "relu", "prelayernorm"))
    residual = architecture == "prelayernorm"
    if residual and (len(set(widths)) > 1 or widths[0] < 2):
        raise ArgumentError(f"widths must be equal and at least 2 for prelayernorm, received {sorted(set(widths))}")
    if closed and widths[0] != widths[-1]:
        raise ArgumentError(f"widths must end as they begin for a closed stack, received {widths[0]} and {widths[-1]}")
    norms = [
        _per_layer(name, value, len(widths) - 1)
        for name, value in (("weight_norms", weight_norms), ("adapter_norms", adapter_norms))
    ]
    bases = [_basis(_direction(n, residual, generator), generator) for n in widths]
    if closed or residual:
        bases = [bases[0], *(bases[1:-1] if not residual else bases[:1] * (len(widths) - 2)), bases[0]]
    layers = [_layer(bases[i + 1], bases[i], rank, norms[0][i], norms[1][i], generator) for i in range(len(widths) - 1)]
    return AlignedNetwork(tuple(layers), bases[0][:, 0].copy())


def _per_layer(name: str, value: ArrayLike, depth: int) -> np.ndarray:
    norms = validation.vector(name, np.atleast_1d(value))
    if norms.min() < 0 or norms.size not in (1, depth):
        raise ArgumentError(
            f"{name} must be one norm or {depth}, 0 or above; received {norms.size}, least {norms.min()}"
        )
    return np.broadcast_to(norms, (depth,))


def _direction(size: int, mean_zero: bool, generator: np.random.Generator) -> Float[np.ndarray, " n"]:
    u = generator.standard_normal(size)
    u = u - u.mean() if mean_zero else np.abs(u)
    return u / np.linalg.norm(u)


def _basis(first: Float[np.ndarray, " n"], generator: np.random.Generator) -> Float[np.ndarray, "n n"]:
    # Orthogonal, its first column the given unit vector, the others at random.
    columns = np.column_stack([first, generator.standard_normal((first.size, first.size - 1))])
    basis = np.linalg.qr(columns)[0]
    # QR fixes the first column up to sign and rounding; the sign matters to ReLU.
    return basis * np.where(np.arange(first.size) == 0, np.sign(basis[:, 0] @ first), 1.0)


def _layer(
    left: Float[np.ndarray, "n1 n1"],
    right: Float[np.ndarray, "n2 n2"],
    rank: int,
    weight_norm: float,
    adapter_norm: float,
    generator: np.random.Generator,
) -> Layer:
    def values(size: int, top: float) -> np.ndarray:
        return top * np.concatenate([[1.0], generator.uniform(0.2, 0.9, size - 1)])

    full = min(len(left), len(right))
    root = np.sqrt(values(rank, adapter_norm))
    w = (left[:, :full] * values(full, weight_norm)) @ right[:, :full].T
    return Layer(w, left[:, :rank] * root, root[:, None] * right[:, :rank].T)
