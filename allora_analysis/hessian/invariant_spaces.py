"""§3.2, the spaces that gradient flow from a start keeps to: the Hessian in (B, A) falls apart into them and the rest.

Of L(B, A) = ‖X(BA − M)ᵀ‖²_F, M = T + B₀A₀, with S = XᵀX, G = 2(BA − M)S and H as in `starts.py`: let V hold the rows of
A₀ and of TS, with SV ⊂ V, and let U hold the columns of B₀ and of TXᵀ. Then GV^⊥ = 0 and GᵀU^⊥ = 0, the flow from
(B₀, A₀) stays in them, and at each of its points H is the direct sum of

- H itself on U and V, in whose coordinates it is that of a smaller problem; every rescaling (−BΞ, ΞA) lies there,
- 2q_k for each direction of U^⊥, q_k the eigenvalues of ASAᵀ,
- 2b_i s_j for each of V^⊥, b_i the eigenvalues of BᵀB and s_j those of S there.

The least V is the sum, over the eigenspaces of S, of what A₀ and T have there, and of A₀'s part in S's kernel: few
dimensions for white inputs, for fewer samples than inputs; all n₂ where S has distinct eigenvalues and no kernel.
Checked by `tests/test_hessian_starts.py` against the whole Hessian.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from allora_analysis.hessian.factors import EPSILON
from allora_analysis.validation import unit_scaled


class Within(NamedTuple):
    """The problem within U and V, in coordinates there, and what of H is outside.

    Attributes:
        x: X, as many rows as V has dimensions or fewer.
        fit: M = T + B₀A₀.
        a: A₀.
        b: B₀.
        left: the dimension of U^⊥.
        curved: the eigenvalues of S on V^⊥.
    """

    x: np.ndarray
    fit: np.ndarray
    a: np.ndarray
    b: np.ndarray
    left: int
    curved: np.ndarray


def within(x: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray) -> Within:
    """U and V of a start (A, B) towards W + T on inputs X, and the problem in them."""
    rank, (n1, n2), tolerance = len(a), t.shape, 16 * max(*x.shape, *t.shape) * EPSILON
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    seen = s > tolerance * s[0]
    s, vt, inputs = s[seen], vt[seen], np.hstack([_unit(a).T, _unit(t).T])
    u = _span(np.hstack([_unit((t @ vt.T) * s), _unit(b)]), rank, tolerance)  # of TXᵀ and B
    parts, curved = [], []
    for space in np.split(np.arange(len(s)), 1 + np.flatnonzero(-np.diff((s / s[0]) ** 2) > tolerance)):
        parts.append(vt[space].T @ _span(vt[space] @ inputs, rank, tolerance))
        curved.append(np.full(len(space) - parts[-1].shape[1], np.mean(s[space] ** 2)))
    if len(s) < n2:  # S has a kernel, where it matters what A has there
        unseen = inputs[:, :rank] - vt.T @ (vt @ inputs[:, :rank])
        kernel = _span(unseen, 0, tolerance)
        parts.append(kernel - vt.T @ (vt @ kernel))
    v = np.linalg.qr(np.hstack(parts))[0]
    if v.shape[1] < rank:  # no room for A: as it is
        v, curved = np.eye(n2), []
    outside = np.concatenate([*curved, np.zeros(n2)])[: n2 - v.shape[1]]
    return Within(np.linalg.qr(x @ v, mode="r"), u.T @ (t + b @ a) @ v, a @ v, u.T @ b, n1 - u.shape[1], outside)


def _unit(matrix: np.ndarray) -> np.ndarray:
    scaled = unit_scaled(matrix)[0]
    return scaled / (np.linalg.norm(scaled) or 1.0)


def _span(columns: np.ndarray, least: int, tolerance: float) -> np.ndarray:
    # An orthonormal basis of what the columns span, of `least` dimensions or more where there is room.
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, : max(least, int(np.count_nonzero(s > tolerance)))]
