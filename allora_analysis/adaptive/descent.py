"""Does a small ALLoRA step descend (§4.2)? B's part always, A's part need not: the "adaptive learning rate" can climb.

With ΔA = −l BᵀD_dG and ΔB = −l D_dGAᵀ the loss changes, to first order in l, by ⟨G, BΔA + ΔB A⟩, the sum of

    B's part: −l⟨G, D_dGAᵀA⟩ = −l‖D_d^{1/2}GAᵀ‖²_F ≤ 0,            0 only if GAᵀ = 0 (then B stands still);
    A's part: −l⟨G, BBᵀD_dG⟩ = −l tr(Gᵀ sym(BBᵀD_d) G),             of either sign.

So scaling B alone by any D_d > 0 cannot ascend. A's part descends for every G iff sym(BBᵀD_d) ⪰ 0.

- r = 1, n₁ ≥ 2: sym(bbᵀD_d) = (b(D_db)ᵀ + (D_db)bᵀ)/2 has the eigenvalues (bᵀD_db ± ‖b‖‖D_db‖)/2, the rest 0. By
  Cauchy–Schwarz the smaller one is ≤ 0, and 0 iff D_db is parallel to b: iff d is equal on b's support.
- any r < n₁: let v ≠ 0 with Bᵀv = 0 (range B is not everything). vᵀsym(BBᵀD_d)v = 0, so if the matrix is ⪰ 0 then
  sym(BBᵀD_d)v = ½BBᵀD_dv = 0: D_d maps the complement of range B into itself. Unless range B is invariant under D_d
  (never for unequal d and a generic B), some G makes A's part ascend. For r = 1 this is also enough; not for r ≥ 2.
- If also r < n₂, G = v wᵀ with Aw = 0 and v the lowest eigenvector stops B: the whole step ascends.

`ascent_frequency` samples how often.

**An exact counterexample** (`EXAMPLE`): at every step l > 0 the loss is above where it started. One input, x = 1, two
outputs, rank 1, η = 1: f = b·a, L = ½‖b·a − y‖², at a = 1, b = (8, 24), y = (10, 23). So g = (−2, 1), the row norms are
8 and 24 and d = (1/3, 1/5): rational. With full-batch gradients

    ALLoRA: dL/dl = −(gᵀb)(bᵀD_dg) − a²gᵀD_dg = 8·8/15 − 23/15 = 41/15 > 0,
    LoRA:   dL/dl = −(gᵀb)² − a²‖g‖² = −69 < 0.

gᵀb = 8 and bᵀD_dg = −8/15 differ in sign: ALLoRA moves a up its own gradient. L is a polynomial of degree 4 in l. For
ALLoRA all coefficients of (L(l) − L(0))/l are positive, so the loss rises at every l > 0, small or not; for LoRA it
falls for 0 < l < l_max, the smallest positive root, bracketed here in rational arithmetic by Sturm's theorem. Nothing
is rounded. Checked by `tests/test_adaptive_descent.py`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from numpy.polynomial.polynomial import polyadd, polyder, polydiv, polymul, polysub
from numpy.typing import ArrayLike

from allora_analysis.adaptive.field import checked_gradient, factor_of, field
from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import (
    ArgumentError,
    adapter_rank,
    count,
    fits,
    positive,
    representable,
    several,
)


@dataclass(frozen=True)
class FirstOrderChange:
    """dL/dl at l = 0, split by which factor moved; negative is descent.

    Attributes:
        a_part: ⟨G, B ΔA⟩/l.
        b_part: ⟨G, ΔB A⟩/l.
    """

    a_part: float
    b_part: float

    @property
    def total(self) -> float:
        """The whole step's."""
        return self.a_part + self.b_part


@representable()
def first_order_change(a: ArrayLike, b: ArrayLike, g: ArrayLike, eta: float) -> FirstOrderChange:
    """The loss's first-order change under an ALLoRA step, per unit of learning rate; see the module's docstring.

    Arguments as in `update_field`.

    Returns:
        A's part and B's part.
    """
    a, b, g = checked_gradient(a, b, g)
    part_a, part_b = field(a, b, g, factor_of(a, b, eta))
    return FirstOrderChange(-float(np.sum((b.T @ g) * part_a)), -float(np.sum((g @ a.T) * part_b)))


CHUNK = 2**18  # numbers a batch may draw at once


@dataclass(frozen=True)
class AscentFrequency:
    """The share of draws whose first-order change is positive, with its standard error.

    Attributes:
        a_part: A's part climbs.
        a_part_stderr: its standard error.
        total: the whole step climbs.
        total_stderr: its standard error.
        draws: sample size.
    """

    a_part: float
    a_part_stderr: float
    total: float
    total_stderr: float
    draws: int


@representable("shape", "eta", "a_std", "b_std", "samples")
def ascent_frequency(
    shape: tuple[int, int, int],
    eta: float,
    a_std: float,
    b_std: float,
    *,
    samples: int,
    draws: int,
    generator: np.random.Generator,
) -> AscentFrequency:
    """How often ⟨G, BΔA + ΔB A⟩ > 0 for independent Gaussian entries of A, B and of G's parts (their scale drops out).

    Args:
        shape: n₁, n₂ and r.
        eta: η > 0.
        a_std: standard deviation of A's entries.
        b_std: of B's.
        samples: G = Σ_k δ_k x_kᵀ over so many tokens: its rank, at most.
        draws: sample size, up to ten million.
        generator: the randomness; the result does not depend on the chunks it is drawn in.

    Raises:
        ArgumentError: rows of BA that leave the range of a float.
    """
    n1, n2, rank = several("shape", shape, 3)
    n1, n2 = count("n1", n1), count("n2", n2)
    rank, draws, samples = adapter_rank(rank, n1, n2), count("draws", draws, maximum=10**7), count("samples", samples)
    eta, a_std, b_std = positive("eta", eta), positive("a_std", a_std), positive("b_std", b_std)
    each = (samples + rank) * (n1 + n2)
    fits("shape, samples", each, "a draw")
    climbs = np.zeros(2)
    for start in range(0, draws, max(1, CHUNK // each)):
        size = min(max(1, CHUNK // each), draws - start)
        numbers = generator.standard_normal((size, each))
        ends = np.cumsum([samples * n1, samples * n2, rank * n2])
        delta, x, a, b = np.split(numbers, ends, axis=1)
        g = delta.reshape(size, n1, samples) @ x.reshape(size, samples, n2)
        a, b = a_std * a.reshape(size, rank, n2), b_std * b.reshape(size, n1, rank)
        norms = np.linalg.norm(b @ a, axis=2)
        if not np.isfinite(norms).all():
            raise ArgumentError("a_std, b_std: rows of BA leave float64's range; give smaller ones")
        d = inverse_sqrt(norms, eta)[:, :, None]
        transposed = b.transpose(0, 2, 1)
        a_part = -np.sum((transposed @ g) * (transposed @ (d * g)), axis=(1, 2))
        b_part = -np.sum(d * (g @ a.transpose(0, 2, 1)) ** 2, axis=(1, 2))
        climbs += [np.count_nonzero(a_part > 0), np.count_nonzero(a_part + b_part > 0)]
    shares = climbs / draws
    errors = [math.sqrt(share * (1 - share) / draws) for share in shares]
    return AscentFrequency(float(shares[0]), errors[0], float(shares[1]), errors[1], draws)


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
    """
    adapted = [d * g for d, g in zip(factor, example.gradient(), strict=True)]
    slope_a = -sum((b * g for b, g in zip(example.b, adapted, strict=True)), Fraction(0))
    total = (Fraction(0),)
    for b, g, y in zip(example.b, adapted, example.y, strict=True):
        residual = polysub(polymul((b, -g * example.a), (example.a, slope_a)), (y,))
        total = polyadd(total, Fraction(1, 2) * polymul(residual, residual))
    return tuple(total)


def first_return(loss: Polynomial) -> tuple[Fraction, Fraction] | None:
    """A bracket of the smallest l > 0 with L(l) = L(0): up to there the loss keeps the sign of its first change.

    Args:
        loss: L's coefficients, L'(0) ≠ 0.

    Returns:
        (below, above), the root in (below, above] and none in (0, below], 10⁻¹² of it wide; None if there is none.

    Raises:
        ArgumentError: L'(0) = 0, or a last coefficient of 0.
    """
    if len(loss) < 2 or loss[1] == 0:
        raise ArgumentError(f"loss: the first change must not be 0, received coefficients {[str(c) for c in loss]}")
    if loss[-1] == 0:
        raise ArgumentError("loss: its last coefficient must not be 0; leave zeros at the end out")
    chain = _sturm_chain(loss[1:])
    above = Fraction(1) + max(abs(c / loss[-1]) for c in loss[1:])  # Cauchy's bound on every root
    below = Fraction(0)
    if _roots_between(chain, below, above) == 0:
        return None
    while below == 0 or above - below > above / 10**12:
        middle = (below + above) / 2
        below, above = (below, middle) if _roots_between(chain, Fraction(0), middle) else (middle, above)
    return below, above


def evaluate(polynomial: Polynomial, at: Fraction) -> Fraction:
    """The polynomial's value, exactly (Horner).

    Args:
        polynomial: coefficients, ascending.
        at: the point.
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
