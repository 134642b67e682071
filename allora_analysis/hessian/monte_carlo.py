"""What the closed forms are held against: sampled condition numbers, a dense Hessian by differences, integrated flow.

None of it uses the closed forms. Checked by `tests/test_hessian_product.py` and `tests/test_hessian_escape.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import count, matrix, matrix_of, positive

CHUNK = 1 << 21  # entries drawn at a time: 16 MiB


def sample_log_conditions(
    n_samples: int, n_features: int, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Logarithms of κ of the non-zero part of XᵀX for X (N×D) with i.i.d. standard normal entries, each drawn afresh.

    E κ is infinite at N = D: average these logarithms, or take medians. The draws do not depend on the chunk size.

    Args:
        n_samples: N.
        n_features: D.
        draws: how many.
        generator: the source of randomness.

    Returns:
        The logarithms (draws).
    """
    shape = count("n_samples", n_samples), count("n_features", n_features)
    count("draws", draws)
    step = max(1, CHUNK // (shape[0] * shape[1]))
    parts = [
        np.linalg.svd(generator.standard_normal((min(step, draws - start), *shape)), compute_uv=False)
        for start in range(0, draws, step)
    ]
    return _log_ratios(np.concatenate(parts))


def _log_ratios(singular: Float[np.ndarray, "draws s"]) -> Float[np.ndarray, " draws"]:
    return 2 * np.log(singular[:, 0] / singular[:, -1])


def loss_gradient(
    x: Float[np.ndarray, "N n2"],
    g: Float[np.ndarray, "n1 n2"],
    b: Float[np.ndarray, "n1 r"],
    a: Float[np.ndarray, "r n2"],
) -> tuple[Float[np.ndarray, "n1 r"], Float[np.ndarray, "r n2"]]:
    """∇_B and ∇_A of L(B, A) = ⟨G, BA⟩ + ‖X(BA)ᵀ‖²_F, anywhere.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        b: B (n₁×r).
        a: A (r×n₂).

    Returns:
        The two gradients.
    """
    outer = g + 2 * (b @ (a @ x.T)) @ x
    return outer @ a.T, b.T @ outer


def dense_factor_hessian(x: ArrayLike, g: ArrayLike, a: ArrayLike) -> Float[np.ndarray, "parameters parameters"]:
    """The (B, A) Hessian at B = 0 by central differences of the gradient, coordinate by coordinate; small sizes only.

    Exact up to rounding at any step: from B = 0 a step along one coordinate changes the gradient by a polynomial of
    degree 2, whose even part central differences remove. Order: B row by row, then A row by row.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂).

    Returns:
        The symmetric matrix, r(n₁ + n₂) square.
    """
    g = matrix("g", g)
    x, a = (matrix_of(name, value, (None, g.shape[1]), "n2 of g") for name, value in (("x", x), ("a", a)))
    split, step = len(g) * len(a), float(np.abs(a).max()) or 1.0
    point = np.concatenate([np.zeros(split), a.ravel()])

    def gradient(theta: np.ndarray) -> np.ndarray:
        b_part, a_part = loss_gradient(x, g, theta[:split].reshape(len(g), -1), theta[split:].reshape(a.shape))
        return np.concatenate([b_part.ravel(), a_part.ravel()])

    steps = step * np.eye(len(point))
    return np.array([(gradient(point + e) - gradient(point - e)) / (2 * step) for e in steps])


def simulated_escape_time(x: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, size: float) -> float | None:
    """Gradient flow of the full quartic loss from (B, A) until ‖BA‖_F = size, by SciPy's DOP853.

    Args:
        x: X (N×n₂).
        g: G (n₁×n₂).
        a: A (r×n₂) at time 0.
        b: B (n₁×r) at time 0.
        size: the norm to reach.

    Returns:
        The time in learning rate × steps; None where the flow has not got there by 10⁶/σ₁(G).
    """
    from scipy.integrate import solve_ivp

    g, size = matrix("g", g), positive("size", size)
    x, a = (matrix_of(name, value, (None, g.shape[1]), "n2 of g") for name, value in (("x", x), ("a", a)))
    b = matrix_of("b", b, (len(g), len(a)), "n1 of g and r of a")
    split = b.size

    def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[:split].reshape(b.shape), theta[split:].reshape(a.shape)

    def velocity(_time: float, theta: np.ndarray) -> np.ndarray:
        return -np.concatenate([part.ravel() for part in loss_gradient(x, g, *parts(theta))])

    def arrived(_time: float, theta: np.ndarray) -> float:
        return float(np.linalg.norm(np.matmul(*parts(theta)))) - size

    arrived.terminal, arrived.direction = True, 1.0
    horizon = 1e6 / (float(np.linalg.norm(g, 2)) or 1.0)
    start = np.concatenate([b.ravel(), a.ravel()])
    answer = solve_ivp(velocity, (0.0, horizon), start, "DOP853", events=arrived, rtol=1e-9, atol=1e-14)
    return float(answer.t_events[0][0]) if answer.t_events[0].size else None
