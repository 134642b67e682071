"""The twin of `exponents.py`: an adapted layer trained at widths up to 4,096, and powers fitted to what came out.

Matrix–vector products only: W enters through Wz, A and B through Az and B(Az). A *teacher* asks outputs u for targets y
with Gaussian entries, L = ½‖u − y‖²; a *network* has the readout (1/n)vᵀtanh(u), v = ±1, and one target. Both have one
input z, or several with targets of their own, summed over. Checked by `tests/test_width.py` against autograd.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, choice, matrix_of, vector
from allora_analysis.width.exponents import OPTIMIZERS, Method

BETAS, EPSILON = (0.9, 0.999), 1e-30
STEPS = {"sgd": 60, "adam": 10}  # SGD leaves 0 in log n steps and then settles
HALVINGS, BRACKET = 10, (-14.0, 10.0)  # of the bracket of log l: to 2.4 %
CEILING = 1 + 1e-9  # of the loss, over its start's: above it for all seeds, training ends
TARGET = 0.3  # of the network's output, above where it starts


class Layer(NamedTuple):
    """z, Wz (the network's) or the targets y, v, and A at the start; a leading axis of seeds."""

    z: Float[np.ndarray, "K n N"]
    base: Float[np.ndarray, "K n N"]
    readout: Float[np.ndarray, "K n"]
    a: Float[np.ndarray, "K r n"]
    network: bool


def layer(width: int, rank: int, seeds: int, rng: np.random.Generator, network: bool = False, inputs: int = 1) -> Layer:
    """A layer with n inputs and outputs, for each seed; ‖z‖² = n, W and A of variance 1/n.

    Args:
        width: n.
        rank: r.
        seeds: how many.
        rng: draws all of it.
        network: the hidden layer of a two-layer network in place of a linear teacher.
        inputs: N.
    """
    z, base = rng.standard_normal((2, seeds, width, inputs))
    z *= math.sqrt(width) / np.linalg.norm(z, axis=1, keepdims=True)
    a = rng.standard_normal((seeds, rank, width)) / math.sqrt(width)
    return Layer(z, base, rng.choice([-1.0, 1.0], (seeds, width)), a, network)


def _loss_and_slope(of: Layer, moved: Float[np.ndarray, "K n N"]) -> tuple[np.ndarray, np.ndarray]:
    """The loss by seed and ∂L/∂u, where the adapter has moved u by this."""
    if not of.network:
        gap = moved - of.base
        return 0.5 * (gap**2).sum(axis=(1, 2)), gap
    hidden, readout = np.tanh(of.base + moved), of.readout[:, :, None]
    gap = (readout * (hidden - np.tanh(of.base))).mean(axis=1) - TARGET
    return 0.5 * (gap**2).sum(axis=1), gap[:, None] * readout * (1 - hidden**2) / moved.shape[1]


@dataclass(frozen=True)
class Trained:
    """Losses at each step, u's change and the row norms ‖s(BA)_i‖ after the last, by seed."""

    losses: Float[np.ndarray, "steps K"]
    moved: Float[np.ndarray, "K n N"]
    norms: Float[np.ndarray, "K n"]


def row_norms(a: Float[np.ndarray, "K r n"], b: Float[np.ndarray, "K n r"]) -> Float[np.ndarray, "K n"]:
    """‖(BA)_i‖ without BA: √(B_i(AAᵀ)B_iᵀ).

    Args:
        a: A, for each seed.
        b: B.
    """
    return np.sqrt(np.maximum(((b @ (a @ a.swapaxes(1, 2))) * b) @ np.ones(b.shape[2]), 0.0))  # faster than `sum`


def _outer(left: Float[np.ndarray, "K i N"], right: Float[np.ndarray, "K j N"]) -> Float[np.ndarray, "K i j"]:
    # Summed over inputs; of one input BLAS takes three times as long as the loop.
    return np.einsum("kim,kjm->kij", left, right) if left.shape[2] == 1 else left @ right.swapaxes(1, 2)


def train(
    of: Layer, method: Method, optimizer: str, rates: Float[np.ndarray, " K"], steps: int, eta: float = 2.0
) -> Trained:
    """Full-batch steps from B = 0, each seed at a rate of its own; the end comes early when each loss has risen once.

    Args:
        of: the layer.
        method: its scaling.
        optimizer: "sgd" or "adam".
        rates: l by seed.
        steps: how many.
        eta: η of ALLoRA's factor.

    Raises:
        ArgumentError: another optimizer.
    """
    choice("optimizer", optimizer, OPTIMIZERS)
    (_, rank, width), losses = of.a.shape, []
    scale, a, b = rank**method.scale, of.a.copy(), np.zeros(of.a.swapaxes(1, 2).shape)
    rates, fell = np.asarray(rates)[:, None, None], np.ones(len(rates), dtype=bool)
    move = _Adam(a, b) if optimizer == "adam" else lambda *gradients: gradients
    with np.errstate(all="ignore"):
        for count in range(steps + 1):
            h = a @ of.z
            moved = scale * (b @ h)
            loss, slope = _loss_and_slope(of, moved)
            losses.append(loss)
            fell &= loss <= losses[0] * CEILING
            if count == steps or not fell.any():
                break
            d = 1 / np.sqrt(scale * row_norms(a, b) + eta**-2)[:, :, None] if method.factor else None
            rows = scale * (slope * d if method.factor == "gradient" else slope)
            step_a, step_b = move(_outer(b.swapaxes(1, 2) @ rows, of.z), _outer(rows, h))
            if method.factor == "update":
                step_a, step_b = step_a * d.mean(axis=1, keepdims=True), step_b * d
            step_a *= rates / width**method.ratio
            step_b *= rates
            a -= step_a
            b -= step_b
        return Trained(np.array(losses), moved, scale * row_norms(a, b))


class _Adam:
    """Adam's step without its rate, for A and B."""

    def __init__(self, *parameters: np.ndarray):
        self.moments, self.count = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters], 0

    def __call__(self, *gradients: np.ndarray) -> list[np.ndarray]:
        self.count += 1
        first, second = (1 - beta**self.count for beta in BETAS)
        steps = []
        for g, (m, v) in zip(gradients, self.moments, strict=True):
            m *= BETAS[0]
            m += (1 - BETAS[0]) * g
            v *= BETAS[1]
            v += (1 - BETAS[1]) * g * g
            size = np.sqrt(v)
            size *= first / math.sqrt(second)
            size += first * EPSILON
            steps.append(np.divide(m, size, out=size))
        return steps


def largest_rate(of: Layer, method: Method, optimizer: str) -> Float[np.ndarray, " K"]:
    """The largest l at which no loss of the first steps (60 of SGD, 10 of Adam) is above that of the start, by seed.

    Arguments as in `train`.

    Returns:
        The rates, by bisection to 2.4 %.
    """
    low, high = (np.full(len(of.z), end) for end in BRACKET)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        losses = train(of, method, optimizer, np.exp(middle), STEPS[optimizer]).losses
        stable = (losses <= losses[0] * CEILING).all(axis=0)  # false where it is no number
        low, high = np.where(stable, middle, low), np.where(stable, high, middle)
    return np.exp(low)


@dataclass(frozen=True)
class Fit:
    """A fitted power and its standard error."""

    power: float
    stderr: float


def fit_power(sizes: Sequence[int], values: ArrayLike) -> Fit:
    """The slope of log value over log size by least squares, each seed a point.

    Args:
        sizes: n or r.
        values: one row of seeds by size.

    Returns:
        The slope, with its error from the residuals.

    Raises:
        ArgumentError: fewer than two different sizes, a size or a value that is not above 0, not a row for each size.
    """
    at = vector("sizes", np.asarray(sizes))
    found = matrix_of("values", values, (at.size, None), "the sizes, a row of seeds each")
    if at.min() <= 0 or found.min() <= 0 or np.ptp(at) == 0:
        raise ArgumentError("sizes, values: all must be above 0, of two different sizes at least, to have a power")
    x, y = np.repeat(np.log(at), found.shape[1]), np.log(found).ravel()
    x, y = x - x.mean(), y - y.mean()
    power = float(x @ y / (x @ x))
    return Fit(power, math.sqrt(float(((y - power * x) ** 2).sum() / (x @ x)) / max(len(x) - 2, 1)))


QUANTITIES = ("largest_rate", "row_norm", "first_step")


def measure(
    method: Method,
    optimizer: str,
    width: int,
    rank: int,
    seeds: int,
    rng: np.random.Generator,
    network: bool = False,
    inputs: int = 1,
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """By quantity, a number a seed: rows after training at half of the largest rate, root mean square over outputs.

    Arguments as in `layer` and `train`; of the first step, cheap and noisy, there are 16 times as many seeds.

    Returns:
        The three quantities by seed, the rate again as `rate`, and `kept`, the mean of 1/√(1 + η²‖s(BA)_i‖) for η² = 4.
    """
    of, many = (layer(width, rank, number, rng, network, inputs) for number in (seeds, 16 * seeds))
    rates = largest_rate(of, method, optimizer)
    norms = train(of, method, optimizer, rates / 2, STEPS[optimizer]).norms
    moved = train(many, method, optimizer, np.full(16 * seeds, 1e-3), 1).moved
    found = (rates, np.sqrt((norms**2).mean(axis=1)), np.sqrt((moved**2).mean(axis=(1, 2))))
    return dict(zip(QUANTITIES, found, strict=True)) | {
        "rate": rates,
        "kept": (1 / np.sqrt(1 + 4 * norms)).mean(axis=1),
    }
