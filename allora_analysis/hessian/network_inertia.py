"""How many negative directions a network's Hessian has at LoRA's start, exactly, from ranks (§3.2).

Layer l acts by W_l + ηB_lA_l; G_l = ∂L/∂(B_lA_l). Expand L at B = 0, all layers at once:
L(A + dA, dB) = L + Σ_l <G_l, dB_l(A_l + dA_l)> + ½K[dB, dB] + O(dB²·(dA, dB)), K[dB, dB] the second derivative along
(dB_lA_l)_l. So, the A first, H = [[0, C], [Cᵀ, K]], where C maps column j of dB_l to G_lᵀ(dB_l)_j: block-diagonal over
layers and over the r columns, rank C = Σ_l r·rank G_l whatever A is. Congruence (Chabrillac–Crouzeix 1984) gives
n₋ = rank C + n₋(K on ker C), n₊ likewise, the rest zero. A enters through K alone: layers couple only there, and at
A = B = 0, where K = 0, n₋ = Σ_l r·rank G_l. Other trainable parameters (a head, biases) count with B in K and lie in
ker C, as ∂L/∂A_l = 0 at B = 0 for all their values. Checked by `tests/test_hessian_network_inertia.py`.

At the end a small real network: a tanh MLP 64-32-10, pretrained on digits 0 to 4, adapted by LoRA to 300 of 5 to 9.
scikit-learn's embedded digits (1,797 images of 8 × 8), float64, full batch, plain gradient descent throughout, so that
a run depends on its seed alone. Checked by `tests/test_hessian_escape.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from allora_analysis import images
from allora_analysis.hessian.empirical_risk import EmpiricalRisk, each_tensor, empirical_risk, evaluating
from allora_analysis.hessian.network import HessianProducts, NetworkSpectrum, checked_value, network_spectrum
from allora_analysis.validation import ArgumentError, adapter_rank, count, positive

# Below this, relative to the largest singular value or eigenvalue, a number is a zero that rounding blurred.
ZERO = 1e-10
LARGEST_BLOCK = 4096


class LowRankLinear(nn.Module):
    """x ↦ W*x + b + ηBAx with A (r×n₂) drawn N(0, 1/n₂) and B (n₁×r) zero (paper, Definition 1); W* and b are frozen.

    Args:
        base: the pretrained layer, n₂ inputs and n₁ outputs; its parameters stop being trainable.
        rank: r.
        eta: η = α/r.
        generator: draws A, on the CPU.

    Attributes:
        base: the frozen layer.
        a: A.
        b: B.
        eta: η.
    """

    def __init__(self, base: nn.Linear, rank: int, eta: float, generator: torch.Generator):
        super().__init__()
        rank, weight = adapter_rank(rank, base.out_features, base.in_features), base.weight
        self.base, self.eta = base.requires_grad_(False), positive("eta", eta)
        a = torch.randn(rank, base.in_features, generator=generator, dtype=weight.dtype) / base.in_features**0.5
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer."""
        return self.base(x) + self.eta * (x @ self.a.T) @ self.b.T


def add_adapters(model: nn.Module, rank: int, eta: float, generator: torch.Generator) -> nn.Module:
    """Freeze a model and put a `LowRankLinear` in the place of every `nn.Linear` below it, in place.

    Args:
        model: the pretrained model; every parameter stops being trainable.
        rank: r of every adapter.
        eta: η of every adapter.
        generator: draws each A, in the order of `model.named_modules()`.

    Raises:
        ArgumentError: no `nn.Linear` below the model.
    """
    places = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name]
    if not places:
        raise ArgumentError("model: it must hold an nn.Linear to adapt, received none")
    model.requires_grad_(False)
    for place in places:
        parent, _, child = place.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, LowRankLinear(getattr(owner, child), rank, eta, generator))
    return model


@dataclass(frozen=True)
class NetworkInertia:
    """The signs of the Hessian's eigenvalues at B = 0, counted without computing them.

    Attributes:
        layer_ranks: rank G_l by layer.
        bound: Σ_l r·rank G_l over the layers that train A and B; n₋ and n₊ are at least this.
        kernel_dimension: dim ker C, among the parameters that are no A.
        kernel_negative: n₋(K on ker C).
        negative: n₋ = bound + kernel_negative.
        positive: n₊.
        zero: n₀.
    """

    layer_ranks: Mapping[str, int]
    bound: int
    kernel_dimension: int
    kernel_negative: int
    negative: int
    positive: int
    zero: int


def numerical_rank(g: Float[np.ndarray, "n1 n2"], noise: float = 0.0) -> int:
    """The number of singular values above `ZERO`·σ₁ and above 100 times the noise in the matrix."""
    values = np.linalg.svd(g, compute_uv=False)
    return int(np.sum(values > max(ZERO * values[0], 100 * noise)))


def _adapters(model: nn.Module) -> dict[str, LowRankLinear]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
    if not layers:
        raise ArgumentError("model: at least one LowRankLinear wanted (see add_adapters), received none")
    names = dict(model.named_parameters())
    for name in layers:
        if _inside(name, "base.weight") not in names:
            raise ArgumentError(f"model: {name} shares its base weight with another layer; give each its own")
    return layers


# A parameter's name in the model; the layer may be the model itself, named "".
def _inside(layer: str, name: str) -> str:
    return f"{layer}.{name}".lstrip(".")


# G_l = η ∂L/∂W_l and its numerical rank, by layer.
def _gradients_and_ranks(risk: EmpiricalRisk) -> dict[str, tuple[np.ndarray, int]]:
    layers = _adapters(risk.model)
    weights = [_inside(name, "base.weight") for name in layers]
    # The same risk summed in the opposite order: what changes is rounding.
    batches = [tuple(each_tensor(lambda part: part.flip(0), part) for part in batch) for batch in risk.batches[::-1]]
    forth, back = (each.value_and_gradient(names=weights)[1] for each in (risk, replace(risk, batches=batches)))
    return {
        name: (layer.eta * g, numerical_rank(g, float(np.linalg.norm(g - again))))
        for (name, layer), g, again in zip(layers.items(), forth, back, strict=True)
    }


def layer_gradient_ranks(model: nn.Module, loss: nn.Module, data: Iterable[Any]) -> dict[str, int]:
    """The rank of G_l for every LoRA layer, G_l = ∂L/∂(B_lA_l) = η ∂L/∂W_l, summed over the data.

    At most min(n₁, n₂, rows that the layer sees: examples, or their tokens); of a softmax cross-entropy's own layer at
    most n₁ − 1, since the gradient of each example's logits sums to 0. Zero means: below 1e-10 of σ₁, or within what
    reversing the order of summation changes. Checked by `tests/test_hessian_network_inertia.py::test_ranks`.

    Arguments as in `negative_directions`, B of any size.

    Returns:
        The ranks by the layer's name in the model.
    """
    risk = empirical_risk(model, loss, data)
    with evaluating(model):
        checked_value(risk)
        return {name: rank for name, (_, rank) in _gradients_and_ranks(risk).items()}


def inertia_on_kernel(k: Float[np.ndarray, "m m"], kernel: Float[np.ndarray, "m d"]) -> tuple[int, int]:
    """n₋ and n₊ of ZᵀKZ, zero being below `ZERO`·‖K‖."""
    limit = ZERO * float(np.linalg.norm(k, 2)) if k.size else 0.0
    values = np.linalg.eigvalsh(kernel.T @ k @ kernel) if kernel.shape[1] else np.zeros(0)
    return int(np.sum(values < -limit)), int(np.sum(values > limit))


def negative_directions(model: nn.Module, loss: nn.Module, data: Iterable[Any]) -> NetworkInertia:
    """The exact inertia of the Hessian at B = 0: n₋ = Σ_l r·rank G_l + n₋(K on ker C), for a small network.

    K is formed densely over the parameters that are no A, and nothing is read off the sign of a small eigenvalue of H:
    −σ²/(q + √(q² + σ²)) may be far below rounding. Assumes L smooth (tanh, not ReLU's kinks) and float64.

    Args:
        model: a model with `LowRankLinear` layers, B = 0 in each that trains its A.
        loss: as in `network_spectrum`.
        data: as in `network_spectrum`.

    Raises:
        ArgumentError: a B that is not zero, parameters that are not float64, or more than 4096 besides the A.
    """
    risk = empirical_risk(model, loss, data)
    layers, others = _checked_blocks(risk)
    with evaluating(model):
        checked_value(risk)
        gradients = _gradients_and_ranks(risk)
        block = _dense_block(risk, others)
    both = [name for name, layer in layers.items() if layer.a.requires_grad and layer.b.requires_grad]
    bound = sum(layers[name].a.shape[0] * gradients[name][1] for name in both)
    kernel = _kernel(others, {_inside(name, "b"): gradients[name] for name in both})
    negative, positive = inertia_on_kernel(block, kernel)
    return NetworkInertia(
        {name: rank for name, (_, rank) in gradients.items()},
        bound,
        kernel.shape[1],
        negative,
        bound + negative,
        bound + positive,
        risk.dimension - 2 * bound - negative - positive,
    )


# The adapters, and the trainable parameters that are no A.
def _checked_blocks(risk: EmpiricalRisk) -> tuple[dict[str, LowRankLinear], dict[str, Tensor]]:
    layers = _adapters(risk.model)
    if risk.dtype is not torch.float64:
        raise ArgumentError(f"model: float64 parameters wanted (model.double()), received {risk.dtype}")
    for name, layer in layers.items():
        if layer.a.requires_grad and torch.any(layer.b != 0):
            largest = layer.b.abs().max().item()
            raise ArgumentError(f"model: B of layer {name} must be zero, received a largest entry of {largest:g}")
    inputs = {_inside(name, "a") for name in layers}
    others = {name: value for name, value in risk.parameters.items() if name not in inputs}
    if sum(value.numel() for value in others.values()) > LARGEST_BLOCK:
        raise ArgumentError(
            f"model: at most {LARGEST_BLOCK} trainable numbers besides A wanted for the exact count; "
            "layer_gradient_ranks and network_spectrum work at any size"
        )
    return layers, others


# K over the parameters named in `others`.
def _dense_block(risk: EmpiricalRisk, others: Mapping[str, Tensor]) -> Float[np.ndarray, "m m"]:
    mask = np.concatenate([np.full(value.numel(), name in others) for name, value in risk.parameters.items()])
    columns = np.eye(risk.dimension)[:, mask]
    return HessianProducts(risk).matrix(columns)[mask] if mask.any() else np.zeros((0, 0))


# An orthonormal basis of ker C: G_lᵀ times every column of dB_l is zero; anything elsewhere.
def _kernel(others: Mapping[str, Tensor], gradients: Mapping[str, tuple[np.ndarray, int]]) -> Float[np.ndarray, "m d"]:
    from scipy.linalg import block_diag

    blocks = []
    for name, value in others.items():
        if name in gradients:
            g, rank = gradients[name]
            blocks.append(np.kron(np.linalg.svd(g)[0][:, rank:], np.eye(value.shape[1])))
        else:
            blocks.append(np.eye(value.numel()))
    return block_diag(*blocks) if blocks else np.zeros((0, 0))


LARGEST_SEED = 2**64 - 1  # torch's
HIDDEN = 32
PRETRAINING_STEPS = 100
PRETRAINING_RATE = 0.5
LEARNING_RATE = 0.05
NEW_IMAGES = 300


@dataclass(frozen=True)
class DigitsSpectra:
    """The ends of the adapters' spectrum at B = 0 and after training; at B = 0 the counts, ‖∇_A L‖ = 0 and ‖∇_B L‖."""

    start: NetworkSpectrum
    trained: NetworkSpectrum
    inertia: NetworkInertia
    gradient_a: float
    gradient_b: float


def digits(first: int, last: int, limit: int | None = None) -> tuple[Float[Tensor, "N 64"], Int[Tensor, " N"]]:
    """scikit-learn's digits of the classes first, …, last; pixels in [0, 1]."""
    pixels, classes = images.digits()
    chosen = np.flatnonzero((classes >= first) & (classes <= last))[:limit]
    return torch.as_tensor(pixels[chosen] / 16.0, dtype=torch.float64), torch.as_tensor(classes[chosen])


def descend(model: nn.Module, loss: nn.Module, data: tuple[Tensor, Tensor], steps: int, learning_rate: float) -> None:
    """Full-batch gradient descent on the trainable parameters, in place."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(model(data[0]), data[1]), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= learning_rate * gradient


def adapted_mlp(seed: int, rank: int) -> nn.Module:
    """The MLP, pretrained on the digits 0 to 4, frozen, a LoRA adapter with B = 0 on both layers."""
    seed, rank = count("seed", seed, 0, LARGEST_SEED), adapter_rank(rank, 10, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10)).double()
    descend(model, nn.CrossEntropyLoss(), digits(0, 4), PRETRAINING_STEPS, PRETRAINING_RATE)
    return add_adapters(model, rank, 1.0, generator)


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
