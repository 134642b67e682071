"""One layer's forward pass, on unit directions with the logarithm of the length beside them: no over- or underflow.

A state is a direction ĥ (norm 1; all 0 once a ReLU network has died) and log‖h‖. Shapes are (..., n, columns), a column
for each η and branch. Shared by the simulation and by the forward pass of a given network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from allora_analysis import validation
from allora_analysis.ripple.bounds import checked_layers
from allora_analysis.validation import ArgumentError

ARCHITECTURES = ("linear", "relu", "prelayernorm")
SQUARES = (1e-140, 1e150)  # norms within are sums of squares that neither vanish nor overflow


def damped_branch(f: ArrayLike, eta: ArrayLike) -> np.ndarray:
    """ASF-LoRA's branch f̃_i = f_i/√(|f_i| + 1/η²) for f = BAx (§4.3), in place of LoRA's ηf_i.

    |f̃_i| ≤ min(η|f_i|, √|f_i|): never above LoRA's, and a square root where |f_i| ≫ 1/η². ALLoRA's own forward pass has
    no such factor: it is LoRA's at η = 1. It is 0 at η = 0. Checked by `tests/test_ripple.py`.

    Args:
        f: the adapter's output, any shape.
        eta: η, one number or an array that broadcasts against f.

    Returns:
        f̃, an array of the broadcast shape.
    """
    shape, etas = np.shape(f), check_etas(np.ravel(eta)).reshape(np.shape(eta))
    values = validation.vector("f", np.ravel(f)).reshape(shape)
    return np.asarray(_damped(values, etas, np.zeros(())))


def _damped(f: np.ndarray, eta: np.ndarray, log_scale: np.ndarray) -> np.ndarray | np.floating:
    # f and the result are divided by exp(log_scale). e^600 stands for anything larger: f̃ is then nothing beside Wx.
    root = np.exp(0.5 * np.minimum(log_scale, 600.0)) * np.sqrt(np.abs(f))
    with np.errstate(divide="ignore", over="ignore"):
        return f / np.hypot(root, 1.0 / eta)  # no square is formed; 1/η = ∞ gives 0


def layer_norm(h: Float[np.ndarray, "*batch n columns"]) -> Float[np.ndarray, "*batch n columns"]:
    """(h − mean)/std over n, ε = 0, unit gain: norm √n exactly.

    Args:
        h: not constant over n.

    Returns:
        The normalised array.
    """
    centred = h - h.mean(axis=-2, keepdims=True)
    return centred * (math.sqrt(h.shape[-2]) / np.linalg.norm(centred, axis=-2, keepdims=True))


def branch_input(direction: Float[np.ndarray, "*batch n columns"], architecture: str) -> np.ndarray:
    """What W and BA are applied to: the direction, or LN(h), which does not depend on h's length.

    Args:
        direction: ĥ.
        architecture: one of `ARCHITECTURES`.

    Returns:
        The array.
    """
    return layer_norm(direction) if architecture == "prelayernorm" else direction


def advance(
    direction: Float[np.ndarray, "*batch n_in columns"],
    log_norm: Float[np.ndarray, "*batch 1 columns"],
    products: tuple[Float[np.ndarray, "*batch n columns"], Float[np.ndarray, "*batch n columns"]],
    eta: Float[np.ndarray, " columns"],
    damped: Bool[np.ndarray, " columns"],
    architecture: str,
) -> tuple[Float[np.ndarray, "*batch n columns"], Float[np.ndarray, "*batch 1 columns"]]:
    """The state after a layer, given Wu and BAu of `branch_input`'s u.

    Args:
        direction: ĥ.
        log_norm: log‖h‖.
        products: Wu and BAu.
        eta: each column's η.
        damped: whether a column takes ASF-LoRA's branch.
        architecture: one of `ARCHITECTURES`.

    Returns:
        The next direction and log norm (−∞ once dead).
    """
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


def _polar(
    h: Float[np.ndarray, "*batch n columns"],
) -> tuple[Float[np.ndarray, "*batch n columns"], Float[np.ndarray, "*batch 1 columns"]]:
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
    etas = check_etas(eta)
    validation.choice("architecture", architecture, ARCHITECTURES)
    validation.matrix_of("x", start[:, None], (checked[0].w.shape[1], 1), "the columns of the first W")
    size = float(np.abs(start).max())
    if size == 0 or (architecture == "prelayernorm" and np.ptp(start) == 0):
        raise ArgumentError("x must not be 0, nor constant before a layer norm: it has no direction")
    scaled = start / size  # no square overflows or vanishes
    length, log_length = float(np.linalg.norm(scaled)), math.log(size) + math.log(np.linalg.norm(scaled))
    direction, log_norm = np.tile((scaled / length)[:, None], etas.size), np.full((1, etas.size), log_length)
    for _ in range(validation.count("repeats", repeats)):
        for layer in checked:
            u = branch_input(direction, architecture)
            products = layer.w @ u, layer.b @ (layer.a @ u)
            direction, log_norm = advance(direction, log_norm, products, etas, np.full(etas.size, damped), architecture)
    return log_norm[0] - log_length


def check_etas(eta: ArrayLike) -> Float[np.ndarray, " etas"]:
    """One or several scaling factors, each finite and 0 or above.

    Args:
        eta: a number or a sequence.

    Returns:
        A vector.

    Raises:
        ArgumentError: none, a negative one, NaN or infinity.
    """
    etas = validation.vector("eta", np.atleast_1d(eta))
    if etas.min() < 0:
        raise ArgumentError(f"eta must be 0 or above, received {etas.min()}")
    return etas
