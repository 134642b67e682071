"""Is this operator the Hessian of that loss? Asked numerically, so that a custom autograd function needs no marker.

A layer that rescales gradients (ALLoRA's, by design) has a double backward, but what comes out is the Jacobian of its
update field: not symmetric in general, and not the loss's second derivative. Three questions settle it, at random
points and directions: is the reverse-mode gradient the loss's derivative, is Hv the gradient's derivative, is H
symmetric. Central differences in float64, in steps from 1e-5 out both ways: one that meets the tolerance is enough,
since a large step sees kinks (ReLU) and a small one rounding. Checked by `tests/test_hessian_network_refusals.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from allora_analysis.hessian.empirical_risk import EmpiricalRisk
from allora_analysis.validation import ArgumentError

TRIALS = 3
STEPS = (1e-5, 1e-6, 1e-4, 1e-7, 1e-3, 1e-2)
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
NOT_A_HESSIAN = (
    "model: its double backward is not a Hessian ({0}); a custom autograd function that rescales gradients (ALLoRA's, "
    "for example) or a random forward does this: give a model of plain, deterministic layers"
)


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


def certify(
    risk: EmpiricalRisk, product: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator
) -> Certificate:
    """Check that `product` multiplies with the Hessian of `risk` at its parameters.

    Args:
        risk: the loss.
        product: v ↦ Hv.
        generator: draws points and directions.

    Returns:
        How well it agrees.

    Raises:
        ArgumentError: it does not.
    """
    theta = risk.theta()
    scale, tolerance = max(float(np.linalg.norm(theta)), 1.0), TOLERANCES[risk.dtype]
    product_error = _product_error(risk, product, theta, scale, tolerance, _unit(generator, theta.size))
    nearby = theta + 0.05 * scale * _unit(generator, theta.size)
    certificate = Certificate(
        _gradient_error(risk, nearby, scale, tolerance, generator),
        product_error,
        _symmetry_error(product, _unit(generator, theta.size), _unit(generator, theta.size)),
    )
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
    risk: EmpiricalRisk,
    product: Callable[[np.ndarray], np.ndarray],
    theta: np.ndarray,
    scale: float,
    tolerance: float,
    direction: np.ndarray,
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


def _symmetry_error(product: Callable[[np.ndarray], np.ndarray], u: np.ndarray, v: np.ndarray) -> float:
    image_u, image_v = product(u), product(v)
    size = float(np.linalg.norm(image_u) + np.linalg.norm(image_v))
    return abs(float(u @ image_v - v @ image_u)) / (size or 1.0)
