"""Both ends of the Hessian's spectrum of a torch model's loss, matrix-free: curvlinops' products, SciPy's Lanczos.

§3.2 says that LoRA's parameters start from a saddle point; in a network that is a statement on the smallest
eigenvalues.

**No copy of a value is missed.** A residual certifies that a value *is* an eigenvalue; it does not say that a more
extreme one, or another copy of this one, was missed, and Lanczos from one start vector sees one direction of each
eigenspace (LoRA's spectrum at A = B = 0 is ±σ_i, r times each). So every run is followed by another, from a fresh
start, on the operator with the found pairs deflated, until a run finds nothing more extreme. Power iteration is of no
use here: on a ± symmetric spectrum it never settles. References: Lehoucq–Sorensen–Yang 1998 (ARPACK); Parlett 1998,
§§5, 13.

**Is the operator the Hessian of that loss?** Asked numerically, so that a custom autograd function needs no marker. A
layer that rescales gradients (ALLoRA's, by design) has a double backward, but what comes out is the Jacobian of its
update field: not symmetric in general, and not the loss's second derivative. Three questions settle it, at random
points and directions: is the reverse-mode gradient the loss's derivative, is Hv the gradient's derivative, is H
symmetric. Central differences in float64, in steps from 1e-5 out both ways: one that meets the tolerance is enough,
since a large step sees kinks (ReLU) and a small one rounding.

Checked by `tests/test_hessian_network.py` on spectra that are known and against a dense Hessian by double backward,
and by `tests/test_hessian_network_refusals.py`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from allora_analysis.hessian.empirical_risk import EmpiricalRisk, empirical_risk, evaluating, quiet
from allora_analysis.validation import ArgumentError, count, positive

Product = Callable[[np.ndarray], np.ndarray]
POLISHING = 10
WHOLE = 4096  # dimension up to which the whole space is taken where Lanczos does not converge
PATIENCE = 4  # products a run may cost there, over the dimension: the whole space costs one
RESIDUALS = {torch.float64: 1e-10, torch.float32: 1e-5}
DENSE_DIMENSION = 64
HELD = 2**17  # numbers in the inputs times columns that the Hessian multiplies at once; never below 32 columns
TRIALS = 3
STEPS = (1e-5, 1e-6, 1e-4, 1e-7, 1e-3, 1e-2)
AGREEMENT = {torch.float64: 1e-5, torch.float32: 1e-3}  # of the certificate
NOT_A_HESSIAN = (
    "model: its double backward is not a Hessian ({0}); a custom autograd function that rescales gradients (ALLoRA's, "
    "for example) or a random forward does this: give a model of plain, deterministic layers"
)


@dataclass(frozen=True)
class Ends:
    """The k smallest and the k largest eigenvalues, each list ascending, with ‖Hv − λv‖ for unit v beside each.

    Some eigenvalue lies within a residual of each value; where the gap to the others is known the error is far
    smaller, residual²/gap.

    Attributes:
        smallest: λ_1 ≤ … ≤ λ_k.
        largest: λ_{P−k+1} ≤ … ≤ λ_P.
        smallest_residuals: beside `smallest`.
        largest_residuals: beside `largest`.
    """

    smallest: Float[np.ndarray, " k"]
    largest: Float[np.ndarray, " k"]
    smallest_residuals: Float[np.ndarray, " k"]
    largest_residuals: Float[np.ndarray, " k"]


def ritz_ends(product: Product, basis: Float[np.ndarray, "P m"], k: int) -> tuple[Ends, np.ndarray, np.ndarray]:
    """Rayleigh–Ritz: the eigenpairs of QᵀHQ, Q an orthonormal basis of the span of `basis`; exact for all of R^P."""
    basis = np.linalg.qr(basis)[0]
    image = np.stack([product(column) for column in basis.T], axis=1)
    projected = basis.T @ image
    values, rotation = np.linalg.eigh((projected + projected.T) / 2)
    vectors = basis @ rotation
    residuals = np.linalg.norm(image @ rotation - vectors * values, axis=0)
    ends = Ends(values[:k], values[-k:], residuals[:k], residuals[-k:])
    return ends, values, vectors


class _NotConverged(ArgumentError):
    """ARPACK gave up; the message is for whoever cannot take the whole space."""


# Eigenvectors at both ends. The shift, about 2‖H‖, makes ARPACK's relative tolerance relative to ‖H‖, near 0 too.
def _arpack(
    product: Product, start: Float[np.ndarray, " P"], n_values: int, shift: float, tolerance: float
) -> Float[np.ndarray, "P m"]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    dimension = start.size
    operator = LinearOperator((dimension, dimension), matvec=lambda v: product(v) + shift * v, dtype=np.float64)
    basis_size = min(dimension - 1, max(2 * n_values + 1, 40))
    restarts = 10 * dimension if dimension > WHOLE else PATIENCE * dimension // (basis_size - n_values) + 1
    options = {"tol": tolerance / 3, "ncv": basis_size, "maxiter": restarts}
    try:
        return eigsh(operator, n_values, which="BE", v0=start, **options)[1]
    except ArpackNoConvergence as error:
        raise _NotConverged(
            f"tolerance: {tolerance:g} was not reached, {len(error.eigenvalues)} of {n_values} eigenvalues converged; "
            "a larger tolerance or another k would work"
        ) from error


# ‖H‖ to within a small factor, from eight products: a scale for tolerances, nobody's answer.
def _scale(product: Product, start: Float[np.ndarray, " P"]) -> float:
    krylov = [start / np.linalg.norm(start)]
    for _ in range(4):
        image = product(krylov[-1])
        size = float(np.linalg.norm(image))
        if size == 0:
            break
        krylov.append(image / size)
    _, values, _ = ritz_ends(product, np.stack(krylov, axis=1), 1)
    return float(np.max(np.abs(values)))


def lanczos_ends(
    product: Product, dimension: int, k: int, generator: np.random.Generator, tolerance: float = 1e-10
) -> Ends:
    """The k smallest and k largest eigenvalues of a symmetric operator on R^P, with multiplicities."""
    # Rounds: 2k extreme pairs; then, on the operator with every pair found so far moved to the middle of the spectrum,
    # the extremes again from a fresh start; until these are no more extreme than the k already there. With probability
    # 1 over the start vectors nothing is missed but what lies within the tolerance of the k-th value. Where a run does
    # not converge (an end whose gaps are tiny beside ‖H‖) and P ≤ 4096, the whole space is taken: P products.
    if dimension < 2 * k + 2:
        raise ArgumentError(f"dimension must be at least 2k + 2 = {2 * k + 2}, received {dimension}")
    start = generator.standard_normal(dimension)
    norm = _scale(product, start)
    if norm == 0:  # H = 0; a random vector in the kernel of another H has probability 0
        return Ends(*(np.zeros(k) for _ in range(4)))
    try:
        ends, vectors = _runs(product, k, generator.standard_normal(dimension), generator, norm, tolerance)
    except _NotConverged:
        if dimension > WHOLE:
            raise
        ends, _, vectors = ritz_ends(product, np.eye(dimension), k)
    return _polished(product, ends, vectors, k, tolerance * norm)


# The first run and the deflated ones after it: the ends found and every vector so far.
def _runs(
    product: Product, k: int, start: np.ndarray, generator: np.random.Generator, norm: float, tolerance: float
) -> tuple[Ends, np.ndarray]:
    dimension = start.size
    ends, values, vectors = ritz_ends(product, _arpack(product, start, 2 * k, 2 * norm, tolerance), k)
    n_values = 2  # enough to see whether anything is missing; all 2k once something was
    while vectors.shape[1] + n_values < dimension:
        moved = (values - (ends.smallest[-1] + ends.largest[0]) / 2)[:, None] * vectors.T
        start = generator.standard_normal(dimension)
        start -= vectors @ (vectors.T @ start)
        more = _arpack(_deflated(product, vectors, moved), start, n_values, 2 * norm, tolerance)
        before = ends
        ends, values, vectors = ritz_ends(product, np.concatenate([vectors, more], axis=1), k)
        changes = np.concatenate([before.smallest - ends.smallest, ends.largest - before.largest])
        if np.max(changes) <= 10 * tolerance * norm:
            break
        n_values = 2 * k
    else:  # no room is left in which to look again: the space is nearly all of R^P, take it whole
        ends, _, vectors = ritz_ends(product, np.eye(dimension), k)
    return ends, vectors


# ARPACK judges by an estimate that a degenerate spectrum can fool. Rayleigh–Ritz on the vectors and their residuals,
# the space growing, until the residuals themselves are small enough.
def _polished(product: Product, ends: Ends, vectors: Float[np.ndarray, "P m"], k: int, limit: float) -> Ends:
    for _ in range(POLISHING):
        if max(ends.smallest_residuals.max(), ends.largest_residuals.max()) <= limit:
            return ends
        extreme = np.concatenate([vectors[:, :k], vectors[:, -k:]], axis=1)
        images = np.stack([product(column) for column in extreme.T], axis=1)
        residuals = images - extreme * np.sum(extreme * images, axis=0)
        sizes = np.linalg.norm(residuals, axis=0)
        more = residuals[:, sizes > limit / 10] / sizes[sizes > limit / 10]
        ends, _, vectors = ritz_ends(product, np.concatenate([vectors, more], axis=1), k)
    worst = max(ends.smallest_residuals.max(), ends.largest_residuals.max())
    if worst > limit:
        raise ArgumentError(
            f"tolerance: residuals of {limit:.1e} wanted (tolerance · ‖H‖), {worst:.1e} reached; "
            "a larger tolerance would work"
        )
    return ends


def _deflated(product: Product, vectors: np.ndarray, moved: np.ndarray) -> Product:
    return lambda v: product(v) - vectors @ (moved @ v)


@dataclass(frozen=True)
class Certificate:
    """Relative deviations found, each at most the tolerance of the parameters' dtype (1e-5 or, for float32, 1e-3).

    Attributes:
        gradient: the loss's central difference against gᵀv, over the sum of the parameters' ‖g‖, at a nearby point.
        product: the gradient's central difference against Hv, over their norms.
        symmetry: |uᵀHv − vᵀHu| over ‖u‖‖Hv‖ + ‖v‖‖Hu‖.
    """

    gradient: float
    product: float
    symmetry: float


def _certify(risk: EmpiricalRisk, product: Product, generator: np.random.Generator) -> Certificate:
    """Check that `product` multiplies with the Hessian of `risk` at its parameters."""
    theta = risk.theta()
    scale, tolerance = max(float(np.linalg.norm(theta)), 1.0), AGREEMENT[risk.dtype]
    product_error = _product_error(risk, product, theta, scale, tolerance, _unit(generator, theta.size))
    nearby = theta + 0.05 * scale * _unit(generator, theta.size)
    gradient_error = _gradient_error(risk, nearby, scale, tolerance, generator)
    symmetry_error = _symmetry_error(product, *(_unit(generator, theta.size) for _ in range(2)))
    certificate = Certificate(gradient_error, product_error, symmetry_error)
    for error, what in (
        (certificate.gradient, "the gradient differs from the loss's own differences by {0:.1e}"),
        (certificate.product, "Hv differs from the gradient's differences by {0:.1e}"),
        (certificate.symmetry, "it is asymmetric by {0:.1e}"),
    ):
        if not error <= tolerance:
            raise ArgumentError(NOT_A_HESSIAN.format(f"{what.format(error)}, relative, {tolerance:.0e} allowed"))
    return certificate


def _unit(generator: np.random.Generator, size: int) -> Float[np.ndarray, " P"]:
    direction = generator.standard_normal(size)
    return direction / np.linalg.norm(direction)


def _flat(gradients: list[np.ndarray]) -> Float[np.ndarray, " P"]:
    return np.concatenate([gradient.ravel() for gradient in gradients])


# Along every parameter's own gradient at once, with random signs, and a random direction: a rescaled gradient of any
# parameter differs from the loss's slope along it.
def _gradient_error(
    risk: EmpiricalRisk, point: np.ndarray, scale: float, tolerance: float, generator: np.random.Generator
) -> float:
    parts = risk.value_and_gradient(point)[1]
    gradient, sizes = _flat(parts), [float(np.linalg.norm(part)) for part in parts]
    worst = 0.0
    for _ in range(TRIALS if any(sizes) else 0):
        signs = generator.choice([-1.0, 1.0], len(parts))
        units = [sign * part / (size or 1.0) for sign, part, size in zip(signs, parts, sizes, strict=True)]
        direction = _flat(units) + len(parts) ** 0.5 * _unit(generator, point.size)
        errors = []
        for step in STEPS:
            above, below = (risk.value_and_gradient(point + sign * step * scale * direction)[0] for sign in (1, -1))
            errors.append(abs((above - below) / (2 * step * scale) - gradient @ direction) / sum(sizes))
            if errors[-1] <= tolerance:
                break
        worst = max(worst, float(np.min(errors)))
    return worst


def _product_error(
    risk: EmpiricalRisk, product: Product, theta: np.ndarray, scale: float, tolerance: float, direction: np.ndarray
) -> float:
    image, errors = product(direction), []
    for step in STEPS:
        above, below = (_flat(risk.value_and_gradient(theta + sign * step * scale * direction)[1]) for sign in (1, -1))
        difference = (above - below) / (2 * step * scale)
        # Where H is small beside the gradient, the difference holds nothing but the gradient's rounding.
        rounding = 1e-15 * float(np.linalg.norm(above)) / (step * scale)
        gap = max(float(np.linalg.norm(image - difference)) - rounding, 0.0)
        errors.append(gap / (float(np.linalg.norm(image) + np.linalg.norm(difference)) or 1.0))
        if errors[-1] <= tolerance:
            break
    return float(np.min(errors))


def _symmetry_error(product: Product, u: np.ndarray, v: np.ndarray) -> float:
    image_u, image_v = product(u), product(v)
    size = float(np.linalg.norm(image_u) + np.linalg.norm(image_v))
    return abs(float(u @ image_v - v @ image_u)) / (size or 1.0)


@dataclass(frozen=True)
class NetworkSpectrum(Ends):
    """The `Ends` (smallest, largest, their residuals) of the Hessian of L in the trainable parameters.

    Attributes:
        dimension: P.
        loss: L.
        gradient_norm: ‖∇L‖.
        products: Hessian-vector products spent.
        method: "lanczos" (`lanczos_ends`, which takes the whole space where it must), or "dense" for a small P.
        certificate: how well the operator was found to be the Hessian.
    """

    dimension: int
    loss: float
    gradient_norm: float
    products: int
    method: str
    certificate: Certificate


def network_spectrum(
    model: nn.Module,
    loss: nn.Module,
    data: Iterable[Any],
    k: int = 10,
    *,
    tolerance: float | None = None,
    generator: np.random.Generator | None = None,
) -> NetworkSpectrum:
    """Both ends of the spectrum of ∇²L(θ), L(θ) = Σ_n ℓ(f_θ(x_n), y_n) or its mean, as the loss's `reduction` says.

    θ: the parameters with `requires_grad`. The model is in eval mode meanwhile (no dropout), and left as it was.
    With "mean" and several batches each batch weighs by its number of examples; class weights and ignored labels, by
    which torch's "mean" divides, want "sum" or one batch then. Every value comes with its residual; repeated deflated
    runs look for what one start vector cannot see (`lanczos_ends`).

    Assumes twice differentiable at θ (almost everywhere will do, as for ReLU), by layers whose backward is their
    derivative: ALLoRA's are not, and are refused, by a module's attribute `double_backward_is_hessian = False` or,
    unmarked, by numerical comparison with differences of the loss.

    Args:
        model: any torch model of which `model(inputs)` is what the loss takes.
        loss: a loss module (`nn.CrossEntropyLoss()`, …) with reduction "mean" or "sum".
        data: one pair (inputs, targets) or batches of such; inputs a tensor or a mapping of tensors.
        k: eigenvalues at each end, 1 ≤ k ≤ P.
        tolerance: largest residual, relative to ‖H‖; 1e-10 for float64 parameters and 1e-5 for float32, if None.
        generator: draws start vectors and test directions; seed 0 if None.

    Raises:
        ArgumentError: no trainable parameter, no data, a loss that is not finite or that depends on the batches, k out
            of range, a model whose double backward is not a Hessian, or no convergence.
    """
    risk = empirical_risk(model, loss, data)
    k = count("k", k, 1, risk.dimension)
    tolerance = RESIDUALS[risk.dtype] if tolerance is None else positive("tolerance", tolerance)
    generator = np.random.default_rng(0) if generator is None else generator
    with evaluating(model):
        value, gradient_norm = checked_value(risk)
        products = HessianProducts(risk)
        certificate = _certify(risk, products.vector, generator)
        dense = risk.dimension <= max(DENSE_DIMENSION, 2 * k + 2)
        if dense:
            ends = _dense_ends(products, k)
        else:
            ends = lanczos_ends(products.vector, risk.dimension, k, generator, tolerance)
    method = "dense" if dense else "lanczos"
    return NetworkSpectrum(
        *vars(ends).values(), risk.dimension, value, gradient_norm, products.spent, method, certificate
    )


def checked_value(risk: EmpiricalRisk) -> tuple[float, float]:
    """L and ‖∇L‖ at the parameters as they are."""
    try:
        value, gradients = risk.value_and_gradient()
    except (RuntimeError, IndexError, TypeError) as error:
        raise ArgumentError(f"data: model and loss cannot be evaluated on it ({_first_line(error)})") from error
    gradient_norm = math.sqrt(sum(float(np.sum(gradient**2)) for gradient in gradients))
    if not (math.isfinite(value) and math.isfinite(gradient_norm)):
        raise ArgumentError(
            f"loss: finite loss and gradient wanted at the model's parameters, received {value} and {gradient_norm}"
        )
    return value, gradient_norm


class HessianProducts:
    """Hv and HV for a risk, in NumPy float64 on the outside, counted.

    Attributes:
        spent: products with a vector so far.
        dimension: P.
    """

    def __init__(self, risk: EmpiricalRisk):
        self._operator, self.dimension, self.spent = risk.hessian(), risk.dimension, 0
        self._at_once = max(32, HELD // max(_numbers(inputs) for inputs, _ in risk.batches))

    def vector(self, v: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """Hv."""
        return self.matrix(v[:, None])[:, 0]

    def matrix(self, columns: Float[np.ndarray, "P m"]) -> Float[np.ndarray, "P m"]:
        """HV, a few columns at once to bound memory."""
        try:
            with quiet():
                pieces = [
                    self._operator.matmat(np.ascontiguousarray(columns[:, start : start + self._at_once]))
                    for start in range(0, columns.shape[1], self._at_once)
                ]
        except (RuntimeError, NotImplementedError) as error:
            raise ArgumentError(NOT_A_HESSIAN.format(f"torch: {_first_line(error)}")) from error
        self.spent += columns.shape[1]
        image = np.concatenate(pieces, axis=1)
        if not np.isfinite(image).all():
            raise ArgumentError("loss: its second derivative is not finite at the model's parameters")
        return image


def _dense_ends(products: HessianProducts, k: int) -> Ends:
    hessian = products.matrix(np.eye(products.dimension))  # many columns at once: ten times as fast as one by one
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    residuals = np.linalg.norm(hessian @ vectors - vectors * values, axis=0)
    return Ends(values[:k], values[-k:], residuals[:k], residuals[-k:])


def _numbers(inputs: Any) -> int:
    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return sum(part.numel() for part in parts if isinstance(part, torch.Tensor)) or 1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
