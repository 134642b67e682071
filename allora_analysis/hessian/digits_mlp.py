"""A small real network for §3.2: a tanh MLP 64-32-10, pretrained on digits 0 to 4, adapted by LoRA to 300 of 5 to 9.

scikit-learn's embedded digits (1,797 images of 8 × 8), float64, full batch, plain gradient descent throughout, so that
a run depends on its seed alone. Checked by `tests/test_hessian_digits.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from allora_analysis.hessian.network import NetworkSpectrum, network_spectrum
from allora_analysis.hessian.network_inertia import LowRankLinear, NetworkInertia, add_adapters, negative_directions
from allora_analysis.validation import adapter_rank, count, positive

LARGEST_SEED = 2**64 - 1  # torch's
HIDDEN = 32
PRETRAINING_STEPS = 100
PRETRAINING_RATE = 0.5
LEARNING_RATE = 0.05
NEW_IMAGES = 300


@dataclass(frozen=True)
class DigitsSpectra:
    """The adapters' Hessian at LoRA's start (B = 0) and after training them.

    Attributes:
        start: the ends of the spectrum at B = 0.
        trained: after `steps` steps of gradient descent on the adapters.
        inertia: the exact counts at B = 0.
        gradient_a: ‖∇_A L‖ at B = 0, which is 0.
        gradient_b: ‖∇_B L‖ at B = 0.
    """

    start: NetworkSpectrum
    trained: NetworkSpectrum
    inertia: NetworkInertia
    gradient_a: float
    gradient_b: float


def digits(first: int, last: int, limit: int | None = None) -> tuple[Float[Tensor, "N 64"], Int[Tensor, " N"]]:
    """scikit-learn's digits of the classes first, …, last; pixels in [0, 1]."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    chosen = np.flatnonzero((classes >= first) & (classes <= last))[:limit]
    return torch.as_tensor(images[chosen] / 16.0, dtype=torch.float64), torch.as_tensor(classes[chosen])


def descend(model: nn.Module, loss: nn.Module, data: tuple[Tensor, Tensor], steps: int, learning_rate: float) -> None:
    """Full-batch gradient descent on the trainable parameters, in place."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(model(data[0]), data[1]), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= learning_rate * gradient


def adapted_mlp(seed: int, rank: int, eta: float = 1.0) -> nn.Module:
    """The MLP, pretrained on the digits 0 to 4, frozen, a LoRA adapter with B = 0 on both layers."""
    seed, rank = count("seed", seed, 0, LARGEST_SEED), adapter_rank(rank, 10, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10)).double()
    descend(model, nn.CrossEntropyLoss(), digits(0, 4), PRETRAINING_STEPS, PRETRAINING_RATE)
    return add_adapters(model, rank, positive("eta", eta), generator)


def gradient_norms(model: nn.Module, loss: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """‖∇_A L‖ and ‖∇_B L‖ over all adapters."""
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    factors = [layer.a for layer in layers] + [layer.b for layer in layers]
    gradients = torch.autograd.grad(loss(model(data[0]), data[1]), factors)
    squares = np.array([float(gradient.square().sum()) for gradient in gradients])
    return float(squares[: len(layers)].sum() ** 0.5), float(squares[len(layers) :].sum() ** 0.5)


def new_digits() -> tuple[Float[Tensor, "N 64"], Int[Tensor, " N"]]:
    """What the adapters learn: the first 300 images of the digits 5 to 9."""
    return digits(5, 9, NEW_IMAGES)


def digits_spectra(seed: int = 0, rank: int = 2, k: int = 6, steps: int = 300) -> DigitsSpectra:
    """The Hessian of the mean cross-entropy on `new_digits` in the adapters' (A, B), at B = 0 and after training."""
    steps = count("steps", steps)
    model, loss, data = adapted_mlp(seed, rank), nn.CrossEntropyLoss(), new_digits()
    start = network_spectrum(model, loss, data, k, generator=np.random.default_rng(seed))
    inertia, norms = negative_directions(model, loss, data), gradient_norms(model, loss, data)
    descend(model, loss, data, steps, LEARNING_RATE)
    trained = network_spectrum(model, loss, data, k, generator=np.random.default_rng(seed))
    return DigitsSpectra(start, trained, inertia, *norms)
