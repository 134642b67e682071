"""Both ends of the Hessian's spectrum of a torch model's loss, matrix-free: curvlinops' products, SciPy's Lanczos.

§3.2 says that LoRA's parameters start from a saddle point; in a network that is a statement on the smallest
eigenvalues. Checked by `tests/test_hessian_network.py` against a dense Hessian by double backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from allora_analysis.hessian.certificate import NOT_A_HESSIAN, Certificate, certify
from allora_analysis.hessian.empirical_risk import EmpiricalRisk, empirical_risk, evaluating, quiet
from allora_analysis.hessian.lanczos import Ends, lanczos_ends
from allora_analysis.validation import ArgumentError, count, positive

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
DENSE_DIMENSION = 64


@dataclass(frozen=True)
class NetworkSpectrum:
    """The k smallest and k largest eigenvalues of the Hessian of L with respect to the trainable parameters.

    Attributes:
        smallest: λ_1 ≤ … ≤ λ_k, with multiplicities.
        largest: λ_{P−k+1} ≤ … ≤ λ_P.
        smallest_residuals: ‖Hv − λv‖ with ‖v‖ = 1 beside `smallest`: an eigenvalue of H lies this close.
        largest_residuals: beside `largest`.
        dimension: P.
        loss: L.
        gradient_norm: ‖∇L‖.
        products: Hessian-vector products spent.
        method: "lanczos" (`lanczos_ends`, which takes the whole space where it must), or "dense" for a small P.
        certificate: how well the operator was found to be the Hessian.
    """

    smallest: Float[np.ndarray, " k"]
    largest: Float[np.ndarray, " k"]
    smallest_residuals: Float[np.ndarray, " k"]
    largest_residuals: Float[np.ndarray, " k"]
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
    runs look for what one start vector cannot see (`lanczos.lanczos_ends`).

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

    Returns:
        The spectrum's ends.

    Raises:
        ArgumentError: no trainable parameter, no data, a loss that is not finite or that depends on the batches, k out
            of range, a model whose double backward is not a Hessian, or no convergence.
    """
    risk = empirical_risk(model, loss, data)
    k = count("k", k, 1, risk.dimension)
    tolerance = TOLERANCES[risk.dtype] if tolerance is None else positive("tolerance", tolerance)
    generator = np.random.default_rng(0) if generator is None else generator
    with evaluating(model):
        value, gradient_norm = checked_value(risk)
        products = HessianProducts(risk)
        certificate = certify(risk, products.vector, generator)
        dense = risk.dimension <= max(DENSE_DIMENSION, 2 * k + 2)
        ends = (
            _dense_ends(products, k)
            if dense
            else lanczos_ends(products.vector, risk.dimension, k, generator, tolerance)
        )
    return NetworkSpectrum(
        ends.smallest,
        ends.largest,
        ends.smallest_residuals,
        ends.largest_residuals,
        risk.dimension,
        value,
        gradient_norm,
        products.spent,
        "dense" if dense else "lanczos",
        certificate,
    )


def checked_value(risk: EmpiricalRisk) -> tuple[float, float]:
    """L and ‖∇L‖ at the parameters as they are.

    Args:
        risk: the loss.

    Returns:
        Both.

    Raises:
        ArgumentError: the forward fails on the data, or either is not finite.
    """
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

    Args:
        risk: the loss.

    Attributes:
        spent: products with a vector so far.
        dimension: P.
    """

    def __init__(self, risk: EmpiricalRisk):
        self._operator, self.dimension, self.spent = risk.hessian(), risk.dimension, 0

    def vector(self, v: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """Hv.

        Args:
            v: a vector.

        Returns:
            The product.
        """
        return self.matrix(v[:, None])[:, 0]

    def matrix(self, columns: Float[np.ndarray, "P m"], at_once: int = 32) -> Float[np.ndarray, "P m"]:
        """HV, a few columns at once to bound memory.

        Args:
            columns: V.
            at_once: columns in one pass.

        Returns:
            The product.

        Raises:
            ArgumentError: torch cannot differentiate the model twice, or the product is not finite.
        """
        try:
            with quiet():
                pieces = [
                    self._operator.matmat(np.ascontiguousarray(columns[:, start : start + at_once]))
                    for start in range(0, columns.shape[1], at_once)
                ]
        except (RuntimeError, NotImplementedError) as error:
            raise ArgumentError(NOT_A_HESSIAN.format(f"torch: {_first_line(error)}")) from error
        self.spent += columns.shape[1]
        image = np.concatenate(pieces, axis=1)
        if not np.isfinite(image).all():
            raise ArgumentError("loss: its second derivative is not finite at the model's parameters")
        return image


def _dense_ends(products: HessianProducts, k: int) -> Ends:
    hessian = products.matrix(np.eye(products.dimension))
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    residuals = np.linalg.norm(hessian @ vectors - vectors * values, axis=0)
    return Ends(values[:k], values[-k:], residuals[:k], residuals[-k:])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
