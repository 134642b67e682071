"""Simulated growth, three ways behind one signature, each exact in law: the twin of `growth`. A given network's too.

- "matrices": draws every W, A and B and multiplies. The judge: it uses nothing of the theory. O(n²) a layer.
- "isotropy": draws Wu ~ ‖u‖s_W N(0, I_n) and BAu ~ ‖u‖s_As_Bχ_r N(0, I_n), their law for any u that is independent of
  the layer. O(n) a layer; carries ASF-LoRA's branch, whose growth depends on the length.
- "chi_square": the norms alone, two χ² a layer, for any depth; LoRA's branch only. Linear and ReLU stacks: independent
  terms, drawn in blocks of layers. Pre-LayerNorm: the Markov chain of `growth`. It shares `growth`'s decomposition, so
  it tests the quadrature and the sums, not the decomposition: "matrices" does that.

A forward pass runs on unit directions with the logarithm of the length beside them: a state is a direction ĥ (norm 1;
all 0 once a ReLU network has died) and log‖h‖, so depth 10⁵ neither over- nor underflows. Shapes are (..., n, columns),
a column for each η and branch; all columns of a replica share their draws: differences between them are sharper than
their standard errors say. Checked by `tests/test_ripple_monte_carlo.py` and `tests/test_ripple.py`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.ripple.bounds import ARCHITECTURES, Layer, Scales, check_layer_norm, check_widths, checked_layers
from allora_analysis.ripple.growth import check_scales
from allora_analysis.validation import ArgumentError

# Shapes, a column per η.
Directions, Logs, Etas, Growths = (
    Float[np.ndarray, "*batch n columns"],
    Float[np.ndarray, "*batch 1 columns"],
    Float[np.ndarray, " columns"],
    Float[np.ndarray, "replicas columns"],
)

METHODS = ("matrices", "isotropy", "chi_square")
CHUNK = 2**17  # numbers a batch may draw at once: what stays in a processor's cache
BLOCK = 2**17  # χ² draws at once
SQUARES = (1e-140, 1e150)  # norms within are sums of squares that neither vanish nor overflow


@validation.representable("f", "eta")
def damped_branch(f: ArrayLike, eta: ArrayLike) -> np.ndarray:
    """ASF-LoRA's branch f̃_i = f_i/√(|f_i| + 1/η²) for f = BAx (§4.3), in place of LoRA's ηf_i.

    |f̃_i| ≤ min(η|f_i|, √|f_i|): never above LoRA's, and a square root where |f_i| ≫ 1/η². ALLoRA's own forward pass has
    no such factor: it is LoRA's at η = 1. It is 0 at η = 0. Checked by `tests/test_ripple.py`.

    Args:
        f: the adapter's output, any shape.
        eta: η, one number or an array that broadcasts against f.

    Returns:
        f̃, an array of the broadcast shape.

    Raises:
        ArgumentError: shapes that do not broadcast, a negative η.
    """
    values, etas = validation.finite("f", f), validation.finite("eta", eta)
    _check_etas(etas.ravel())
    try:
        np.broadcast_shapes(values.shape, etas.shape)
    except ValueError:
        raise ArgumentError(f"f and eta: shapes {values.shape} and {etas.shape} do not broadcast") from None
    return np.asarray(_damped(values, etas, np.zeros(())))


def _damped(f: np.ndarray, eta: np.ndarray, log_scale: np.ndarray) -> np.ndarray | np.floating:
    # f and the result are divided by exp(log_scale). e^600 stands for anything larger: f̃ is then nothing beside Wx.
    root = np.exp(0.5 * np.minimum(log_scale, 600.0)) * np.sqrt(np.abs(f))
    with np.errstate(divide="ignore", over="ignore"):
        return f / np.hypot(root, 1.0 / eta)  # no square is formed; 1/η = ∞ gives 0


def layer_norm(h: Directions) -> Directions:
    """(h − mean)/std over n, ε = 0, unit gain: norm √n exactly."""
    centred = h - h.mean(axis=-2, keepdims=True)
    return centred * (math.sqrt(h.shape[-2]) / np.linalg.norm(centred, axis=-2, keepdims=True))


def _branch_input(direction: Directions, architecture: str) -> np.ndarray:
    """What W and BA are applied to: the direction, or LN(h), which does not depend on h's length."""
    return layer_norm(direction) if architecture == "prelayernorm" else direction


def advance(
    direction: Float[np.ndarray, "*batch n_in columns"],
    log_norm: Logs,
    products: tuple[Directions, Directions],
    eta: Etas,
    damped: Bool[np.ndarray, " columns"],
    architecture: str,
) -> tuple[Directions, Logs]:
    """The state after a layer, given Wu and BAu of `_branch_input`'s u."""
    residual = architecture == "prelayernorm"
    adapter = eta * products[1]
    if damped.any():
        scale = np.zeros_like(log_norm) if residual else log_norm
        adapter = np.where(damped, _damped(products[1], eta, scale), adapter)
    h = products[0] + adapter
    if residual:
        h = direction + np.exp(-log_norm) * h
    if architecture == "relu":
        h = np.maximum(h, 0.0)
    direction, log_length = _polar(h)
    return direction, log_norm + log_length


def _polar(h: Directions) -> tuple[Directions, Logs]:
    # ĥ and log‖h‖; a column whose squares overflow or vanish is divided by its largest entry first.
    with np.errstate(over="ignore", divide="ignore"):
        norm = np.linalg.norm(h, axis=-2, keepdims=True)
        extreme = (norm < SQUARES[0]) | (norm > SQUARES[1])
        if not extreme.any():
            return h / norm, np.log(norm)
        largest = np.abs(h).max(axis=-2, keepdims=True)
        scale = np.where(extreme & (largest > 0), largest, 1.0)
        h = h / scale
        norm = np.linalg.norm(h, axis=-2, keepdims=True)
        return h / np.where(norm > 0, norm, 1.0), np.log(scale) + np.log(norm)


@validation.representable("layers", "x", "eta", infinite=True)
def log_output_growth(
    layers: Sequence[Sequence[ArrayLike]],
    x: ArrayLike,
    eta: ArrayLike,
    *,
    damped: bool = False,
    architecture: str = "linear",
    repeats: int = 1,
) -> Float[np.ndarray, " etas"]:
    """log(‖f_L(x)‖/‖x‖) of a given network, one value per η.

    Args:
        layers: (W, B, A) triples, the first applied first.
        x: the input, not 0 (not constant for "prelayernorm").
        eta: one or several scaling factors.
        damped: ASF-LoRA's branch in place of LoRA's.
        architecture: "linear", "relu" (after every layer) or "prelayernorm" (residual).
        repeats: how often the whole stack is applied.

    Returns:
        The log growths, natural logarithm; −∞ where a ReLU network died.

    Raises:
        ArgumentError: shapes that do not chain, an x of 0.
    """
    checked, start = checked_layers(layers), validation.vector("x", x)
    etas = _check_etas(eta)
    validation.choice("architecture", architecture, ARCHITECTURES)
    validation.matrix_of("x", start[:, None], (checked[0].w.shape[1], 1), "the columns of the first W")
    check_layer_norm((len(start), *(len(layer.w) for layer in checked)), architecture)
    repeats = validation.count("repeats", repeats, maximum=10**6)
    if repeats > 1 and len(checked[-1].w) != len(start):
        raise ArgumentError(
            f"repeats must be 1 for a stack that ends {len(checked[-1].w)} wide and begins {len(start)} wide, "
            f"received {repeats}"
        )
    if not start.any() or (architecture == "prelayernorm" and np.ptp(start) == 0):
        raise ArgumentError("x must not be 0, nor constant before a layer norm: it has no direction")
    return forward_growth(checked, start, etas, damped, architecture, repeats)


def forward_growth(
    layers: Sequence[Layer],
    start: Float[np.ndarray, " n0"],
    etas: Float[np.ndarray, " etas"],
    damped: bool,
    architecture: str,
    repeats: int = 1,
) -> Float[np.ndarray, " etas"]:
    """The core of `log_output_growth`."""
    size = float(np.abs(start).max())
    scaled = start / size  # no square overflows or vanishes
    length, log_length = float(np.linalg.norm(scaled)), math.log(size) + math.log(np.linalg.norm(scaled))
    direction, log_norm = np.tile((scaled / length)[:, None], etas.size), np.full((1, etas.size), log_length)
    for _ in range(repeats):
        for layer in layers:
            u = _branch_input(direction, architecture)
            products = layer.w @ u, layer.b @ (layer.a @ u)
            direction, log_norm = advance(direction, log_norm, products, etas, np.full(etas.size, damped), architecture)
    return log_norm[0] - log_length


def _check_etas(eta: ArrayLike) -> Float[np.ndarray, " etas"]:
    """One or several scaling factors, each finite and 0 or above."""
    etas = validation.one_or_more("eta", eta)
    if etas.min() < 0:
        raise ArgumentError(f"eta must be 0 or above, received {etas.min()}")
    return etas


@dataclass(frozen=True)
class Simulation:
    """Replicas of a random network, one column per η.

    Attributes:
        log_growth: log(‖f_L(x)‖/‖x‖), natural logarithm; −∞ where a ReLU network died.
        cosine_square: cos²(Wu, BAu) averaged over the layers reached alive, NaN if it is defined in none; None for
            "chi_square".
    """

    log_growth: Growths
    cosine_square: Growths | None


@validation.representable("widths", "rank", "eta", "w_std", "a_std", "b_std", "replicas", undefined=True)
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

    Raises:
        ArgumentError: what `growth_exponent` refuses; "prelayernorm" with unequal widths; "chi_square" with ASF-LoRA.
    """
    widths, etas = check_widths(widths, rank), _check_etas(eta)
    validation.choice("architecture", architecture, ARCHITECTURES)
    validation.choice("method", method, METHODS)
    replicas = validation.count("replicas", replicas)
    check_scales(float(etas.max()), w_std, a_std, b_std)
    scales = check_scales(float(etas.min()), w_std, a_std, b_std)[1]
    flags = validation.finite("damped", damped) != 0
    if flags.shape not in ((), etas.shape):
        raise ArgumentError(f"damped must be one flag or {etas.size}, one per eta; received shape {flags.shape}")
    flags = np.broadcast_to(flags, etas.shape)
    check_layer_norm(widths, architecture)
    validation.fits("replicas", float(replicas) * etas.size, f"the growths of {replicas} networks")
    if method != "chi_square":
        numbers = max(float(n) * m for n, m in itertools.pairwise(widths)) if method == "matrices" else max(widths)
        validation.fits("widths", numbers, "a layer")
    if method == "chi_square" and flags.any():
        raise ArgumentError("method chi_square knows LoRA's branch only, received damped; use isotropy or matrices")
    return _grown(simulated(widths, rank, etas, scales, replicas, generator, architecture, flags, method))


def _grown(drawn: Simulation) -> Simulation:
    if np.isnan(drawn.log_growth).any():
        raise OverflowError("a layer's output")
    return drawn


def simulated(
    widths: tuple[int, ...],
    rank: int,
    etas: Etas,
    scales: Scales,
    replicas: int,
    generator: np.random.Generator,
    architecture: str,
    flags: Bool[np.ndarray, " columns"],
    method: str,
) -> Simulation:
    """The core of `simulate`."""
    if method == "chi_square":
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
    u: Float[np.ndarray, "replicas n_in columns"], n: int, rank: int, scales: Scales, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    replicas, n_in, _ = u.shape
    w = generator.standard_normal((replicas, n, n_in))
    a = generator.standard_normal((replicas, rank, n_in))
    b = generator.standard_normal((replicas, n, rank))
    return scales.w_std * (w @ u), scales.a_std * scales.b_std * (b @ (a @ u))


def _isotropy(
    u: Float[np.ndarray, "replicas n_in columns"], n: int, rank: int, scales: Scales, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    norm = np.linalg.norm(u, axis=1, keepdims=True)
    w, b = generator.standard_normal((2, len(u), n, 1))
    chi = np.sqrt(generator.chisquare(rank, (len(u), 1, 1)))
    return scales.w_std * norm * w, scales.a_std * scales.b_std * norm * chi * b


def _propagate(
    draw: Callable[..., tuple[np.ndarray, np.ndarray]],
    widths: tuple[int, ...],
    rank: int,
    etas: Etas,
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
        products = draw(_branch_input(direction, architecture), n, rank, scales, generator)
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


def chi_square_growth(
    widths: np.ndarray,
    rank: int,
    etas: Etas,
    scales: Scales,
    replicas: int,
    generator: np.random.Generator,
    architecture: str,
) -> Growths:
    """log(‖f_L(x)‖/‖x‖), from ‖x‖ = √n for "prelayernorm"."""
    with np.errstate(divide="ignore"):
        log_w = 2 * np.log(scales.w_std)
        log_adapter = 2 * (np.log(etas) + np.log(scales.a_std) + np.log(scales.b_std))[:, None, None]
    if architecture == "prelayernorm":
        return _chain(len(widths) - 1, int(widths[0]), rank, log_w, log_adapter[:, 0], replicas, generator)
    total = np.zeros((etas.size, replicas))
    block = max(1, BLOCK // replicas)
    for start in range(1, len(widths), block):
        n = np.broadcast_to(widths[start : start + block, None], (min(block, len(widths) - start), replicas))
        scale = np.logaddexp(log_w, log_adapter + np.log(generator.chisquare(rank, n.shape)))
        if architecture == "relu":
            n = generator.binomial(n, 0.5)
        with np.errstate(divide="ignore"):
            total += 0.5 * (scale + np.log(2 * generator.standard_gamma(n / 2))).sum(axis=1)
    return total.T


def _chain(
    depth: int,
    n: int,
    rank: int,
    log_w: float,
    log_adapter: Float[np.ndarray, "columns 1"],
    replicas: int,
    generator: np.random.Generator,
) -> Growths:
    square = np.full((len(log_adapter), replicas), float(n))
    for _ in range(depth):
        v = n * np.exp(np.logaddexp(log_w, log_adapter + np.log(generator.chisquare(rank, replicas))))
        along, across = generator.standard_normal(replicas), generator.chisquare(n - 1, replicas)
        square = (np.sqrt(square) + np.sqrt(v) * along) ** 2 + v * across
    return 0.5 * np.log(square.T / n)
