"""A transformer's output as a power series in η: coefficients, and the radius within which they say all.

The stream of a `Transformer` is built of sums, products, exponentials and divisions, so it is analytic in complex η as
long as nothing that it has divided by, a norm's mean square or a partition sum, is 0: the radius ρ about 0 is the
distance to the first zero of `Pass.squares` and `Pass.partitions`. Three ways to it, none of which uses another:

- **Winding** (`radius`): a denominator D, analytic inside, has (1/2π)·(change of arg D round |η| = R) zeros there. ρ is
  the largest R at which no D turns; bisected.
- **Quadratics** (`radius_by_quadratics`): each norm's D ≈ D₀ + D₁η + D₂η² from its first three coefficients, and the
  nearest root. Exact for the first norm after one adapted branch that is linear in η: D is the mean square of h + b +
  ηd, and the roots lie at |η| = ‖h + b‖/‖d‖, the size of the stream over that of the adapter's part in it.
- **Coefficients** (`radius_by_coefficients`): c_k of the output, by Cauchy's integral on a circle,
  c_k = (1/N) Σ_j f(Re^{2πij/N}) e^{−2πijk/N} R^{−k}, fall off as ρ^{−k}.

η enters as ηBA only, so ρ·‖BA‖ is the same for adapters of every size, exactly. Checked by
`tests/test_ripple_transformer.py`.
"""

import numpy as np
from jaxtyping import Float, Inexact

from allora_analysis import validation
from allora_analysis.ripple.transformer import Pass, Transformer, forward
from allora_analysis.validation import ArgumentError

FINEST = 256  # points on a circle
FARTHEST = 1e100  # |η| up to which a zero is looked for


def _on_circle(model: Transformer, x: Float[np.ndarray, "*batch T n"], size: float, points: int) -> Pass:
    """A pass at the upper half of `points` (even) evenly spaced η on |η| = size, axis 0: f(η̄) is f(η)'s conjugate."""
    half = points // 2
    etas = size * np.exp(2j * np.pi * np.arange(half + 1) / (2 * half))
    return forward(model, np.broadcast_to(x, (len(etas), *x.shape)), etas.reshape(-1, *(1,) * x.ndim))


def _flat(parts: list[np.ndarray]) -> Inexact[np.ndarray, "points D"]:
    # What was divided by, a row a point.
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _coefficients(half: np.ndarray, size: float, count: int) -> np.ndarray:
    # Of a function with real coefficients, from its values on the upper half circle (axis 0).
    return np.fft.irfft(half.conj(), axis=0)[:count] / size ** np.arange(count).reshape(-1, *(1,) * (half.ndim - 1))


def coefficients(
    model: Transformer, x: Float[np.ndarray, "*batch T n"], size: float, count: int, points: int = 64
) -> Float[np.ndarray, "count *batch T n"]:
    """c_0, …, c_{count − 1} of the output Σ_k c_k η^k; of a polynomial of a degree below `points` to rounding.

    The model is analytic in η: no ReLU. `size` is R of the circle, below the radius of convergence: the error of c_k is
    of the order of (R/ρ)^points R^{−k}. Of `points` points at most half as many coefficients are good (all of a
    polynomial).
    """
    points = validation.count("points", points, 2) // 2 * 2  # as `_on_circle` takes them
    if validation.count("count", count) > points:
        raise ArgumentError(f"count must be at most the {points} points, received {count}")
    return _coefficients(_on_circle(model, x, size, points).output, size, count)


def _zeros_within(
    model: Transformer, x: Float[np.ndarray, "*batch T n"], size: float, points: int = 64, finest: int = FINEST
) -> int:
    """How many zeros what is divided by has in |η| < size, counted where no two points are 0.4π of phase apart.

    Points are doubled until all is so, or something has a zero for certain; what is not at the finest counts as one.
    """
    while True:
        with np.errstate(over="ignore", invalid="ignore"):  # erf of a large complex number: no phase, never resolved
            run = _on_circle(model, x, size, points)
            half = _flat(run.squares + run.partitions)
            turns = np.angle(half[1:] / half[:-1])
        resolved = np.abs(turns).max(axis=0) < 0.4 * np.pi
        zeros = int(np.rint(turns[:, resolved].sum(axis=0) / np.pi).clip(0).sum())
        if zeros or resolved.all():
            return zeros
        if points >= finest:
            return 1
        points *= 2


def radius(
    model: Transformer,
    x: Float[np.ndarray, "*batch T n"],
    guess: float,
    tolerance: float = 0.03,
    points: tuple[int, int] = (64, FINEST),
) -> float:
    """The radius of convergence in η of the output's power series about 0, by winding numbers; ∞ where nothing is
    divided, softmax alone has one token, whose weight is 1, no map has both A and B other than 0, or no |η| up to 1e100
    has a zero.

    The model is analytic in η: no ReLU. `guess` says about where (`radius_by_quadratics` finds one), `tolerance` is the
    bisection's, relative, `points` are those on each circle, at first and at most.

    Raises:
        ArgumentError: a guess that is no finite number above 0.
    """
    run = forward(model, x, 0.0)
    moved = any(of.a.any() and of.b.any() for maps in model.blocks for of in maps.values())
    softmax_of_one = x.shape[-2] == 1 and model.design.activation != "silu"  # which divides, too
    if not moved or (not run.squares and (not run.partitions or softmax_of_one)):
        return np.inf
    low = high = validation.positive("guess", guess)
    while not _zeros_within(model, x, high, *points):
        low, high = high, 1.5 * high
        if high > FARTHEST:
            return np.inf
    while _zeros_within(model, x, low, *points):
        low, high = low / 1.5, low
    while high / low > 1 + tolerance:
        middle = np.sqrt(low * high)
        low, high = (low, middle) if _zeros_within(model, x, middle, *points) else (middle, high)
    return float(np.sqrt(low * high))


def radius_by_quadratics(model: Transformer, x: Float[np.ndarray, "*batch T n"]) -> float:
    """The nearest root of the norms' squares, each by its first three coefficients, from the circle |η| = 0.01; ∞ where
    none depends on η.

    Raises:
        ArgumentError: a model without norms.
    """
    if model.design.norm == "none":
        raise ArgumentError("model: its design has norm 'none', no square to find a root of; give it norms, or radius")
    size = 1e-2
    half = _flat(_on_circle(model, x, size, 8).squares)
    c0, c1, c2 = _coefficients(half, size, 3)
    root = np.sqrt((c1 * c1 - 4 * c0 * c2).astype(complex))
    with np.errstate(divide="ignore", invalid="ignore"):  # a square that does not depend on η has no root
        roots = np.array([np.abs(2 * c0 / (-c1 + sign * root)) for sign in (1, -1)])
    return float(np.nanmin(roots, initial=np.inf))


def radius_by_coefficients(terms: Float[np.ndarray, "count *batch T n"]) -> float:
    """ρ from ‖c_k‖ ~ k^a ρ^{−k}, fitted over the second half of the coefficients."""
    k = np.arange(len(terms))
    size = np.log(np.linalg.norm(terms.reshape(len(terms), -1), axis=1))
    half = slice(len(k) // 2, None)
    design = np.stack([np.ones_like(k[half]), np.log(k[half]), k[half]], axis=1)
    return float(np.exp(-np.linalg.lstsq(design, size[half], rcond=None)[0][2]))
