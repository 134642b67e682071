"""The family of §4.3, in closed form: what ASF-LoRA does to an output, and what ALLoRA-OD's factor does to a gradient.

**ASF-LoRA**, f̃ = f/√(|f| + 1/η²), entry by entry. Odd, with slope f̃′ = (|f|/2 + 1/η²)/(|f| + 1/η²)^{3/2} > 0: monotone,
slope η at 0, and f̃′ lies between d/2 and d for d = 1/√(|f| + 1/η²). As |f| + 1/η² is at least the larger of the two and
at most twice it,

    min(η|f|, √|f|)/√2 ≤ |f̃| ≤ min(η|f|, √|f|):

a square root for large outputs, never above LoRA×η's ηf. f̃ is not linear (f̃(2f) ≠ 2f̃(f) for f ≠ 0): no matrix W has
Wx = f̃(x) for both x and 2x, so it cannot be merged.

**ALLoRA-OD**, factor d(|f(x)_i|) per token. For x ~ N(0, Σ) the output f_i is N(0, σ_i²), σ_i² = P_iΣP_iᵀ, and the
factor has a mean and a variance over inputs; ALLoRA's d(‖P_i‖) is the same for every token. With Σ = I (σ_i = ‖P_i‖,
u_i = P_i/σ_i) and a squared loss, δ_i = (P_i − T_i)x, the expected row of D G is

    E[d(|f_i|) δ_i xᵀ] = (P_i − T_i)(E[d]·(I − u_iu_iᵀ) + E[d z²]·u_iu_iᵀ),   z = f_i/σ_i ~ N(0, 1):

not a multiple of G_i = P_i − T_i. E[d z²] < E[d] (d falls with |z|: Chebyshev) and E[d] > d(σ_i) (d is convex, and
E|f_i| < σ_i): OD damps the row's own direction and steps further across it. Checked by
`tests/test_adaptive_variants.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.adaptive.field import checked_pair
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import ArgumentError, finite, non_negative, positive, representable

NODES = 200
TAIL = 10.0  # |z| beyond which the normal law's 1.5e-23 is left out


@representable()
def asf(f: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """f̃ = f/√(|f| + 1/η²), ASF-LoRA's output (§4.3).

    Args:
        f: BAx, any shape.
        eta: η > 0.

    Returns:
        f̃, of f's shape.

    Examples:
        >>> from allora_analysis.adaptive import asf
        >>> asf([0.0, 3.75], eta=2.0).round(9).tolist()  # f/√(|f| + 1/4)
        [0.0, 1.875]
    """
    return np.asarray(finite("f", f) * inverse_sqrt(f, eta))


@representable()
def asf_derivative(f: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """f̃′ = (|f|/2 + 1/η²)/(|f| + 1/η²)^{3/2}, in [d/2, d]; arguments as in `asf`.

    Returns:
        The slope, of f's shape.
    """
    size, d = np.abs(finite("f", f)), inverse_sqrt(f, eta)
    return np.asarray(d * (1 - 0.5 * size * d * d))


@dataclass(frozen=True)
class UnmergeablePair:
    """Two inputs that no matrix can serve.

    Attributes:
        x: an input.
        twice: 2x.
        gap: ‖f̃(2x) − 2f̃(x)‖/‖2f̃(x)‖ > 0, about η²|f|/2 where that is small; a matrix would make it 0.
    """

    x: Float[np.ndarray, " n2"]
    twice: Float[np.ndarray, " n2"]
    gap: float


@representable()
def unmergeable_pair(a: ArrayLike, b: ArrayLike, eta: float) -> UnmergeablePair:
    """x, the first right singular vector of BA, and 2x: f̃(2x) ≠ 2f̃(x), so no W has Wx = f̃(x) for both.

    Entry by entry, with s = |f(x)| and c = 1/η², 1 − f̃(2x)/(2f̃(x)) = 1 − √((s + c)/(2s + c)), which is

        s/((2s + c)(1 + √((s + c)/(2s + c)))),

    positive however small η²s. Checked by `tests/test_adaptive_variants.py`, against 500 digits.

    Args:
        a: A (r×n₂).
        b: B (n₁×r), BA ≠ 0.
        eta: η > 0.

    Returns:
        The pair and its gap.

    Raises:
        ArgumentError: BA = 0, which merges trivially.
    """
    a, b = checked_pair(a, b)
    product = b @ a
    if not product.any():
        raise ArgumentError("b: BA is 0, and 0 can be merged; give an adapter that has moved")
    x = np.linalg.svd(product)[2][0]
    size = np.abs(product @ x)
    once, twice = inverse_sqrt(size, eta), inverse_sqrt(2 * size, eta)
    lost = size * twice * twice / (1 + twice / once)
    share, most = size * once / np.max(size * once), np.max(lost)  # no square vanishes
    return UnmergeablePair(x, 2 * x, float(most * np.linalg.norm(share * (lost / most)) / np.linalg.norm(share)))


@dataclass(frozen=True)
class OutputFactor:
    """ALLoRA-OD's factor d(|f|) over Gaussian inputs, f ~ N(0, σ²).

    Attributes:
        mean: E[d].
        variance: Var[d]; 0 for ALLoRA's factor.
        along: E[d z²], z = f/σ: the expected scale of the gradient along the row, where across it is E[d].
    """

    mean: float
    variance: float
    along: float


@representable()
def output_factor(sigma: float, eta: float) -> OutputFactor:
    """The moments of d(|f|) for f ~ N(0, σ²), by Gauss–Legendre in log(1 + η²|f|), where the integrand is smooth.

    Args:
        sigma: σ ≥ 0, the standard deviation of the row's output over inputs.
        eta: η > 0.

    Returns:
        The moments, for η²σ up to 1e12 to about 1e-12 relative, the variance to 1e-11.

    Raises:
        ArgumentError: η² or η²σ above 1e307, near the end of the range of a float.
    """
    sigma, eta = non_negative("sigma", sigma), positive("eta", eta)
    scaled = sigma * eta * eta
    if max(scaled, eta * eta) > 1e307:
        raise ArgumentError(f"eta: eta² and eta²·sigma must be at most 1e307, received {eta!r} with sigma {sigma!r}")
    if scaled == 0:
        return OutputFactor(eta, 0.0, eta)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    length = np.log1p(TAIL * scaled)
    w = length * (nodes + 1) / 2
    z = np.expm1(w) / scaled
    density = np.exp(-(z**2) / 2 + w) * weights  # dz = e^w dw/scaled; constants cancel in the normalization
    density /= density.sum()
    factor = eta * np.exp(-w / 2)
    below = eta * np.expm1(-w / 2)  # d − η: near σ = 0, where d is almost constant, its variance must not cancel
    variance = float(density @ (below - density @ below) ** 2)
    return OutputFactor(float(density @ factor), variance, float(density @ (factor * z**2)))
