"""An exact counterexample to "ALLoRA descends" (§4.2): at every step l > 0 its loss is above where it started.

One input, x = 1, two outputs, rank 1, η = 1: f = b·a, L = ½‖b·a − y‖², at a = 1, b = (8, 24), y = (10, 23). So
g = (−2, 1), the row norms are 8 and 24 and d = (1/3, 1/5): rational. With full-batch gradients

    ALLoRA: dL/dl = −(gᵀb)(bᵀD_dg) − a²gᵀD_dg = 8·8/15 − 23/15 = 41/15 > 0,
    LoRA:   dL/dl = −(gᵀb)² − a²‖g‖² = −69 < 0.

gᵀb = 8 and bᵀD_dg = −8/15 differ in sign: ALLoRA moves a up its own gradient. L is a polynomial of degree 4 in l. For
ALLoRA all coefficients of (L(l) − L(0))/l are positive, so the loss rises at every l > 0, small or not; for LoRA it
falls for 0 < l < l_max, the smallest positive root, bracketed here in rational arithmetic by Sturm's theorem. Nothing
is rounded. Checked by `tests/test_adaptive_descent.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from numpy.polynomial.polynomial import polyadd, polyder, polydiv, polymul, polysub

from allora_analysis.validation import ArgumentError

Polynomial = tuple[Fraction, ...]  # coefficients, ascending powers; the last one not 0


@dataclass(frozen=True)
class Counterexample:
    """f = b·a (rank 1, one input x = 1) against y, L = ½‖b·a − y‖², in rational numbers.

    Attributes:
        a: A's only entry.
        b: B's entries.
        y: the targets.
        eta: η; each |b_i a| + 1/η² must be the square of a rational number.
    """

    a: Fraction
    b: tuple[Fraction, ...]
    y: tuple[Fraction, ...]
    eta: Fraction

    def gradient(self) -> tuple[Fraction, ...]:
        """The gradient with respect to the product, g = ba − y."""
        return tuple(b * self.a - y for b, y in zip(self.b, self.y, strict=True))

    def factor(self) -> tuple[Fraction, ...]:
        """d_i = 1/√(|b_i a| + 1/η²), exactly."""
        return tuple(1 / _square_root(abs(b * self.a) + 1 / self.eta**2) for b in self.b)

    def arrays(self) -> tuple[Float[np.ndarray, "1 1"], Float[np.ndarray, "n1 1"], Float[np.ndarray, "1 n1"]]:
        """The same as float64 A (1×1), B (n₁×1) and Y (1×n₁), for the layers; X is [[1]]."""
        return (
            np.array([[float(self.a)]]),
            np.array([[float(v)] for v in self.b]),
            np.array([[float(v) for v in self.y]]),
        )


EXAMPLE = Counterexample(Fraction(1), (Fraction(8), Fraction(24)), (Fraction(10), Fraction(23)), Fraction(1))


def loss_after_step(example: Counterexample, factor: Sequence[Fraction]) -> Polynomial:
    """L as a polynomial in l after the step a ← a − l Σ_k b_k d_k g_k, b_i ← b_i − l d_i g_i a.

    Args:
        example: the point.
        factor: d for A and B alike: `example.factor()` for ALLoRA, ones for LoRA.

    Returns:
        Five coefficients at most.
    """
    adapted = [d * g for d, g in zip(factor, example.gradient(), strict=True)]
    slope_a = -sum((b * g for b, g in zip(example.b, adapted, strict=True)), Fraction(0))
    total = (Fraction(0),)
    for b, g, y in zip(example.b, adapted, example.y, strict=True):
        residual = polysub(polymul((b, -g * example.a), (example.a, slope_a)), (y,))
        total = polyadd(total, Fraction(1, 2) * polymul(residual, residual))
    return tuple(total)


def first_return(loss: Polynomial, digits: int = 12) -> tuple[Fraction, Fraction] | None:
    """A bracket of the smallest l > 0 with L(l) = L(0): up to there the loss keeps the sign of its first change.

    Args:
        loss: L's coefficients, L'(0) ≠ 0.
        digits: the bracket's width relative to its upper end, 10^−digits.

    Returns:
        (below, above), the root in (below, above] and none in (0, below]; None if there is none at all.

    Raises:
        ArgumentError: L'(0) = 0.
    """
    if len(loss) < 2 or loss[1] == 0:
        raise ArgumentError(f"loss: the first change must not be 0, received coefficients {[str(c) for c in loss]}")
    chain = _sturm_chain(loss[1:])
    above = Fraction(1) + max(abs(c / loss[-1]) for c in loss[1:])  # Cauchy's bound on every root
    below = Fraction(0)
    if _roots_between(chain, below, above) == 0:
        return None
    while below == 0 or above - below > above / 10**digits:
        middle = (below + above) / 2
        below, above = (below, middle) if _roots_between(chain, Fraction(0), middle) else (middle, above)
    return below, above


def evaluate(polynomial: Polynomial, at: Fraction) -> Fraction:
    """The polynomial's value, exactly (Horner).

    Args:
        polynomial: coefficients, ascending.
        at: the point.

    Returns:
        The value.
    """
    value = Fraction(0)
    for coefficient in reversed(polynomial):
        value = value * at + coefficient
    return value


def _square_root(value: Fraction) -> Fraction:
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise ArgumentError(f"b: |b_i a| + 1/eta² = {value} is not the square of a rational number")
    return root


def _sturm_chain(polynomial: Polynomial) -> list[Polynomial]:
    chain = [polynomial, tuple(polyder(np.array(polynomial, dtype=object)))]
    while any(chain[-1]):
        chain.append(tuple(-polydiv(chain[-2], chain[-1])[1]))
    return chain[:-1]


def _roots_between(chain: list[Polynomial], low: Fraction, high: Fraction) -> int:
    # Sturm: the number of distinct real roots in (low, high].
    counts = []
    for point in (low, high):
        signs = [value > 0 for value in (evaluate(p, point) for p in chain) if value != 0]
        counts.append(sum(x != y for x, y in itertools.pairwise(signs)))
    return counts[0] - counts[1]
