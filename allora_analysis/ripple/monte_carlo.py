"""Simulated growth, three ways behind one signature, each exact in law: the twin of `growth` and `residual`.

- "matrices": draws every W, A and B and multiplies. The judge: it uses nothing of the theory. O(n²) a layer.
- "isotropy": draws Wu ~ ‖u‖s_W N(0, I_n) and BAu ~ ‖u‖s_As_Bχ_r N(0, I_n), their law for any u that is independent of
  the layer. O(n) a layer; carries ASF-LoRA's branch, whose growth depends on the length.
- "chi_square": the norms alone, two χ² a layer (`chi_square.py`). Any depth; LoRA's branch only.

Lengths are renormalised at every layer: depth 10⁵ neither over- nor underflows. All columns (η, branch) of a replica
share their draws: differences between them are sharper than their standard errors say. Checked by
`tests/test_ripple_monte_carlo.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.ripple.forward import ARCHITECTURES, advance, branch_input, check_etas
from allora_analysis.ripple.growth import check_scales, check_widths
from allora_analysis.ripple.scales import Scales
from allora_analysis.validation import ArgumentError

METHODS = ("matrices", "isotropy", "chi_square")
CHUNK = 2**17  # numbers a batch may draw at once: what stays in a processor's cache


@dataclass(frozen=True)
class Simulation:
    """Replicas of a random network, one column per η.

    Attributes:
        log_growth: log(‖f_L(x)‖/‖x‖), natural logarithm; −∞ where a ReLU network died.
        cosine_square: cos²(Wu, BAu) averaged over the layers reached alive, NaN if it is defined in none; None for
            "chi_square".
    """

    log_growth: Float[np.ndarray, "replicas columns"]
    cosine_square: Float[np.ndarray, "replicas columns"] | None


def simulate(
    widths: Sequence[int],
    rank: int,
    eta: ArrayLike,
    w_std: float,
    a_std: float,
    b_std: float,
    *,
    replicas: int,
    generator: np.random.Generator,
    architecture: str = "linear",
    damped: ArrayLike = False,
    method: str = "matrices",
) -> Simulation:
    """Log growth of `replicas` independent random networks from a random input of norm √n₀.

    Args:
        widths: n₀, …, n_L; (n,) * (L + 1) for a square stack; equal for "prelayernorm".
        rank: r.
        eta: one or several scaling factors η.
        w_std: s_W.
        a_std: s_A.
        b_std: s_B.
        replicas: number of networks.
        generator: the randomness.
        architecture: "linear", "relu" or "prelayernorm".
        damped: ASF-LoRA's branch in place of LoRA's: one for all η, or one each.
        method: "matrices", "isotropy" or "chi_square".

    Returns:
        The growths and alignments.

    Raises:
        ArgumentError: what `growth_exponent` refuses; "prelayernorm" with unequal widths; "chi_square" with ASF-LoRA.
    """
    from allora_analysis.ripple.chi_square import chi_square_growth

    widths, etas = check_widths(widths, rank), check_etas(eta)
    validation.choice("architecture", architecture, ARCHITECTURES)
    validation.choice("method", method, METHODS)
    replicas = validation.count("replicas", replicas)
    for value in etas:
        check_scales(float(value), w_std, a_std, b_std)
    scales = Scales(float(w_std), float(a_std), float(b_std))
    flags = np.asarray(damped, dtype=bool)
    if flags.shape not in ((), etas.shape):
        raise ArgumentError(f"damped must be one flag or {etas.size}, one per eta; received shape {flags.shape}")
    flags = np.broadcast_to(flags, etas.shape)
    if architecture == "prelayernorm" and (len(set(widths)) > 1 or widths[0] < 2):
        raise ArgumentError(f"widths must be equal and at least 2 for prelayernorm, received {sorted(set(widths))}")
    if method == "chi_square":
        if flags.any():
            raise ArgumentError("method chi_square knows LoRA's branch only, received damped; use isotropy or matrices")
        growth = chi_square_growth(np.array(widths), rank, etas, scales, replicas, generator, architecture)
        return Simulation(growth, None)
    draw = _matrices if method == "matrices" else _isotropy
    size = max(widths) * (max(widths) if method == "matrices" else etas.size)
    parts = [
        _propagate(draw, widths, rank, etas, flags, scales, count, generator, architecture)
        for count in _chunks(replicas, max(1, CHUNK // size))
    ]
    return Simulation(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


def _chunks(total: int, size: int) -> Iterator[int]:
    yield from (min(size, total - start) for start in range(0, total, size))


def _matrices(
    u: Float[np.ndarray, "replicas n_in columns"],
    n: int,
    rank: int,
    scales: Scales,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    replicas, n_in, _ = u.shape
    w = generator.standard_normal((replicas, n, n_in))
    a = generator.standard_normal((replicas, rank, n_in))
    b = generator.standard_normal((replicas, n, rank))
    return scales.w_std * (w @ u), scales.a_std * scales.b_std * (b @ (a @ u))


def _isotropy(
    u: Float[np.ndarray, "replicas n_in columns"],
    n: int,
    rank: int,
    scales: Scales,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    norm = np.linalg.norm(u, axis=1, keepdims=True)
    w, b = generator.standard_normal((2, len(u), n, 1))
    chi = np.sqrt(generator.chisquare(rank, (len(u), 1, 1)))
    return scales.w_std * norm * w, scales.a_std * scales.b_std * norm * chi * b


def _propagate(
    draw: Callable[..., tuple[np.ndarray, np.ndarray]],
    widths: tuple[int, ...],
    rank: int,
    etas: Float[np.ndarray, " columns"],
    damped: np.ndarray,
    scales: Scales,
    replicas: int,
    generator: np.random.Generator,
    architecture: str,
) -> tuple[np.ndarray, np.ndarray]:
    start = 0.5 * math.log(widths[0])
    x = generator.standard_normal((replicas, widths[0], 1))
    direction = np.repeat(x / np.linalg.norm(x, axis=1, keepdims=True), etas.size, axis=2)
    log_norm = np.full((replicas, 1, etas.size), start)
    cosine, reached = np.zeros((replicas, etas.size)), np.zeros((replicas, etas.size))
    for n in widths[1:]:
        products = draw(branch_input(direction, architecture), n, rank, scales, generator)
        square, defined = _cosine_square(*products)
        cosine, reached = cosine + square, reached + defined
        direction, log_norm = advance(direction, log_norm, products, etas, damped, architecture)
    with np.errstate(invalid="ignore"):
        return log_norm[:, 0] - start, cosine / reached  # NaN where no layer had an angle


def _cosine_square(
    w: Float[np.ndarray, "replicas n columns"], f: Float[np.ndarray, "replicas n columns"]
) -> tuple[np.ndarray, np.ndarray]:
    # cos² of the angle, and whether it is defined (neither is 0).
    w, f = (part / np.where((size := np.abs(part).max(axis=1, keepdims=True)) > 0, size, 1.0) for part in (w, f))
    inner = np.einsum("rnc,rnc->rc", w, f)
    squares = np.einsum("rnc,rnc->rc", w, w) * np.einsum("rnc,rnc->rc", f, f)
    return inner * inner / np.where(squares > 0, squares, 1.0), squares > 0
