"""How row norms, the first step and the largest stable rate scale with width n and rank r; does ALLoRA's factor taper?

One adapted layer u = Wz + sBAz with n inputs and n outputs, r ≪ n, as LoRA starts: B = 0, A with variance 1/n; z has
entries of order 1, and training has done its work when every u_i has moved by order 1 (*stable feature learning*).
h = Az has r entries of order 1. s = r^σ: σ = −1 for LoRA and LoRA+ (s = α/r), −½ for rsLoRA, 0 for ALLoRA. B learns at
l, A at l/n^ρ: ρ = 1 for LoRA+ as its theory has it, else 0 (a fixed ratio, such as PEFT's, is a constant). The entries
of ∂L/∂u are of order n^{−κ}: κ = 0 for a linear teacher of n outputs, 1 for a hidden layer under a readout of entries
1/n. "Order" drops numbers that depend on neither n nor r; n grows first.

**The two parts of the change.** sBAz = sB(A₀z) + sB(A − A₀)z: what B learns on random features, and what A learns.

**Adam** moves every entry by its rate, in the sign of its gradient, so that sums over entries add up. In a few steps
the parts reach s·r·l and s·r·l·(l/n^ρ)·n. The largest stable rate brings the first of them to order 1:

    l = n^{−(1−ρ)/2} r^{−(1+σ)/2} for ρ < 1 (A's part),    l = n⁰ r^{−(1+σ)} for ρ = 1 (B's part).

The row of sBA: B's part has r random directions, norm s·l·√r; A's part is along z, norm of order n^{−½}. So

    ‖s(BA)_i‖ = n^{−½} r⁰ for ρ = 0,    n^{−(1−ρ)/2} r^{σ/2} for 0 < ρ < 1,    n⁰ r^{−½} for ρ = 1,

and a first step at a fixed rate (B's alone) moves u_i by s·r·l: r^{1+σ}. σ = −1, −½, 0 give rates r⁰, r^{−¼}, r^{−½} at
ρ = 0: those of µA for its Init[A] (Chen, Villar, Hayou 2026, arXiv 2602.06204, whose SignSGD is this limit of Adam).

**Gradient descent.** With e = ∂L/∂u the flow is Ḃ = −l·s·e hᵀ, ḣ = −(l/n^ρ)·s·Bᵀe‖z‖², ‖z‖² = n. For the teacher,
B = b·ŷûᵀ, û = h/‖h‖, and n^ρ‖h‖²/n − ‖B‖² stays n^ρ·r/n; at the end s·b·‖h‖ = ‖y‖, of order √n. So b² = n^{ρ/2}/s
while n^{ρ/2} ≪ n/(rs), thus ρ < 2. No minimum has less curvature than 2√(l_A l_B)·s‖y‖‖z‖ in the metric of the
rates (AM–GM, by equality there where the flow ends), which makes the largest stable rate *exactly*

    l = n^{ρ/2}/(s‖y‖‖z‖) = n^{κ−1+ρ/2} r^{−σ},

where κ = 1 replaces n outputs' gradients by their n-th parts. The first step moves u_i by l·s²·r·n^{−κ}. Rows: along z
n^{−½}, across it s·b/√n = s^{½}n^{−½+ρ/4}.

**Many directions.** All this is for one input, or for gradients of far fewer directions than r. With N unlike inputs, r
≪ N ≪ n, sums over r add as √r: a step helps each input by the r-fold over √N or N and disturbs it by the √r-fold, so
that Adam's largest rate is 1/(s√N) for B's part (ρ = 1), 1/√(s·n^{1−ρ}) for A's: r^{−σ} and r^{−σ/2}. The first step is
r^{½+σ}, r^{½+2σ} under gradient descent; the rows of as many directions add up, r^{½}, and r^{(1+σ)/2} where B's part
is the longer one (0 < ρ, under Adam ρ < 1). **Powers of n, and gradient descent's largest rate, stay.** So rules over
rank, µA's too, hinge on how many directions the gradient has; those over width do not.

**ALLoRA.** d_i = 1/√(‖(BA)_i‖ + 1/η²) tends to η as ‖(BA)_i‖ does to 0: by η²‖(BA)_i‖/2 of itself, so by n^{−½} with
one rate for A and B. **At width the factor is the constant η**, and ALLoRA is LoRA at s = 1 and rate ηl (under SGD, and
as `ALLoRAAdamW`); under plain Adam it is LoRA at l at every width. It keeps tapering where rows keep their length: at
LoRA+'s rates under Adam, or with η growing as n^{¼}.

**Transfer.** A rate tuned at one width (rank) is right at another where its power is 0. Lee et al. 2026 (arXiv
2602.04998) find that tuned variants tie and that their best rates differ as the Hessian's largest eigenvalue does:
under SGD l here is 2 over it. Checked by `tests/test_width.py` against training at n up to 4,096.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.adaptors import inverse_sqrt
from allora_analysis.validation import (
    ArgumentError,
    adapter_rank,
    choice,
    count,
    number,
    positive,
    representable,
    several,
    vector,
)

OPTIMIZERS = ("sgd", "adam")
FACTORS = ("gradient", "update")


@dataclass(frozen=True)
class Method:
    """A method as its scaling with n and r.

    Attributes:
        scale: σ of s = r^σ, in [−1, 0].
        ratio: ρ of l_B/l_A = n^ρ, in [0, 1].
        factor: where ALLoRA's factor acts: "gradient", "update" (after Adam), or None.
    """

    scale: float
    ratio: float = 0.0
    factor: str | None = None

    def __post_init__(self):
        for name, low, high in (("scale", -1, 0), ("ratio", 0, 1)):
            if not low <= number(name, getattr(self, name)) <= high:
                raise ArgumentError(f"{name} must be in [{low}, {high}], received {getattr(self, name)!r}")
        if self.factor is not None:
            choice("factor", self.factor, FACTORS)


METHODS = {
    "lora": Method(-1),
    "rslora": Method(-0.5),
    "loraplus": Method(-1, ratio=1),
    "allora": Method(0, factor="gradient"),
    "allora_adamw": Method(0, factor="update"),
}
"""LoRA's α is fixed; where α grows with r, LoRA scales as ALLoRA does."""


@dataclass(frozen=True)
class Power:
    """n^width · r^rank."""

    width: float
    rank: float


@dataclass(frozen=True)
class Exponents:
    """What grows how.

    Attributes:
        row_norm: ‖s(BA)_i‖ after training at the largest stable rate.
        first_step: the change of an output u_i by the first step, at a fixed rate.
        largest_rate: the largest stable rate, B's.
        tapers: whether 1 − d/η of ALLoRA's factor stays off 0 as n grows.
        transfers: by "width" and "rank", whether the largest rate is the same at another.
    """

    row_norm: Power
    first_step: Power
    largest_rate: Power

    @property
    def tapers(self) -> bool:
        """See the class."""
        return self.row_norm.width == 0

    @property
    def transfers(self) -> dict[str, bool]:
        """See the class."""
        return {"width": self.largest_rate.width == 0, "rank": self.largest_rate.rank == 0}


def exponents(method: str | Method, optimizer: str, *, network: bool = False, many: bool = False) -> Exponents:
    """Predicted powers of n and r; derivation in the module's text.

    Args:
        method: a name of `METHODS`, or any scaling.
        optimizer: "sgd" or "adam".
        network: a hidden layer of a two-layer network with readout 1/n, in place of a linear teacher: under "sgd" that
            is n times the rate and 1/n of the first step.
        many: the gradient has far more directions than r, in place of one.

    Raises:
        ArgumentError: an unknown name; the factor on Adam's update under "sgd".

    Examples:
        >>> from allora_analysis.width import exponents
        >>> exponents("lora", "adam").largest_rate, exponents("rslora", "adam").largest_rate
        (Power(width=-0.5, rank=0.0), Power(width=-0.5, rank=-0.25))
        >>> exponents("allora", "sgd").tapers  # its factor tends to η
        False
    """
    of = method if isinstance(method, Method) else METHODS[choice("method", method, METHODS)]
    ratio, sigma, rows = of.ratio, of.scale, many / 2
    if choice("optimizer", optimizer, OPTIMIZERS) == "sgd":
        if of.factor == "update":
            raise ArgumentError("optimizer must be adam for the factor on Adam's update, received 'sgd'")
        powers = (
            (-0.5 + ratio / 4, (sigma / 2 if ratio else 0) + rows),
            (-network, 1 + 2 * sigma - rows),
            (network - 1 + ratio / 2, -sigma),
        )
    else:
        share = (1 - ratio) / 2
        whole = ratio == 1  # then B's part is the larger one
        largest = (-sigma if many else -1 - sigma) / (1 if whole else 2)
        one, crossed = (-0.5, 0.5) if whole else (sigma / 2, (1 + sigma) / 2) if ratio else (0, 0.5)
        powers = ((-share, crossed if many else one), (0, 1 + sigma - rows), (-share, largest))
    return Exponents(*(Power(float(n) + 0.0, float(r) + 0.0) for n, r in powers))


Knobs = tuple[float, float]
"""s and l_B/l_A, as they are."""


@representable()
def flow_row_norm(method: str | Method | Knobs, width: int, rank: int) -> float:
    """Root mean square over rows of ‖s(BA)_i‖ where gradient flow on the linear teacher ends, ‖y‖² = n: exact in n, r.

    s√(b²(1 + ‖h‖²/n)/n) with b²(r/n + b²/n^ρ) = 1/s², ‖h‖² = r + n^{1−ρ}b²; without ALLoRA's factor, which changes b by
    less than it varies over rows.

    Args:
        method: a name of `METHODS`, any scaling, or s and l_B/l_A (n^ρ above) themselves.
        width: n.
        rank: r.
    """
    n, r = count("width", width), adapter_rank(rank, width, width)
    if isinstance(method, tuple):
        scale, ratio = several("method, s and l_B/l_A,", method, 2)
        scale, ratio = positive("s", scale), positive("l_B/l_A", ratio)
    else:
        of = method if isinstance(method, Method) else METHODS[choice("method", method, METHODS)]
        scale, ratio = r**of.scale, n**of.ratio
    square = 2 / scale**2 / (r / n + math.sqrt((r / n) ** 2 + 4 / (ratio * scale**2)))
    return scale * math.sqrt(square * (1 + r / n + square / ratio) / n)


@representable()
def flow_factor(method: str | Method | Knobs, width: int, rank: int, eta: float) -> float:
    """Mean of d_i/η there, y with Gaussian entries: E 1/√(1 + η²m|g|), m of `flow_row_norm`, by quadrature.

    Arguments as in `flow_row_norm`; η > 0.

    Returns:
        The part of η that is left: 1 where the factor is a constant.
    """
    norms, weights = _flow_norms(method, width, rank)
    return float(np.average(1 / np.sqrt(1 + positive("eta", eta) ** 2 * norms), weights=weights))


def _flow_norms(method: str | Method | Knobs, width: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    # m|g| and its density, trapezoidal in log|g|, where both tails vanish and the factor is smooth at every η: 1e-12.
    log_size = np.arange(-80, 4, 0.1)
    return flow_row_norm(method, width, rank) * np.exp(log_size), np.exp(log_size - np.exp(2 * log_size) / 2)


@representable(infinite=True)
def flow_eta_to_taper(method: str | Method | Knobs, width: int, rank: int) -> float:
    """The η at which `flow_factor` has fallen by a tenth of η, of the order of n^{¼}; `method` as in
    `flow_row_norm`.
    """
    return _eta_to_taper(*_flow_norms(method, width, rank), 0.1)


def _eta_to_taper(norms: np.ndarray, weights: np.ndarray, share: float) -> float:
    # The η at which the weighted mean of d/η is 1 − share; rows at 0 keep their factor at every η.
    from scipy.optimize import brentq

    if not 0 < number("share", share) < 1:
        raise ArgumentError(f"share must be in (0, 1), received {share!r}")

    def left(log_eta: float) -> float:
        return float(np.average(1 / np.hypot(1, np.exp(log_eta) * np.sqrt(norms)), weights=weights)) - (1 - share)

    reached = np.average(norms == 0, weights=weights) < 1 - share
    with np.errstate(over="ignore"):  # a factor of 0
        return float(np.exp(brentq(left, -420, 420))) if reached else math.inf


@dataclass(frozen=True)
class Taper:
    """What ALLoRA's factor is at measured row norms.

    Attributes:
        kept: the mean of d_i/η over rows: 1 where the factor is the constant η.
        least: the smallest d_i/η.
        tapers: whether the mean has fallen by the share asked for.
        eta_to_taper: the η at which it would have, at these norms; ∞ where all of them are 0.
    """

    kept: float
    least: float
    tapers: bool
    eta_to_taper: float


@representable(infinite=True)
def taper(norms: ArrayLike, eta: float, share: float = 0.1) -> Taper:
    """Whether ALLoRA's factor tapers at these row norms or is the constant η.

    Args:
        norms: ‖(BA)_i‖, the scaling included, of one layer or many.
        eta: η > 0.
        share: the fall of the mean factor, as a part of η, that counts as tapering; in (0, 1).

    Returns:
        The answer, and the η that would change it.

    Raises:
        ArgumentError: a negative norm, a share outside (0, 1).

    Examples:
        >>> from allora_analysis.width import taper
        >>> taper([0.0144, 0.0144], eta=2.0).tapers, round(taper([0.0144, 0.0144], eta=2.0).eta_to_taper, 2)
        (False, 4.04)
    """
    norms, eta = vector("norms", norms), positive("eta", eta)
    if norms.min() < 0:
        raise ArgumentError(f"norms must be 0 or above, received {norms.min():g}")
    needed = _eta_to_taper(norms, np.ones_like(norms), share)
    kept = inverse_sqrt(norms, eta) / eta
    return Taper(float(kept.mean()), float(kept.min()), bool(kept.mean() <= 1 - share), needed)
