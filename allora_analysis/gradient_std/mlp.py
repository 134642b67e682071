"""What is measured as a function of its dropout masks: a ReLU network's second-layer gradient, and a linear model's.

Layers h_0 = x, z_l = h_{l−1}W_lᵀ + b_l, h_l = relu(z_l) ⊙ V_l with V_l in {0, 1/p} (inverted dropout), logits z_{L+1};
L the mean cross-entropy. Figure 1 of the paper is about ∂L/∂W₂. The linear model of §3.1, mask on the output, has a
closed form, which is the estimator's oracle. Checked by `tests/test_gradient_std_mlp.py` and, against
`deviation.gradient_std`, by `tests/test_gradient_std_estimator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from allora_analysis.validation import ArgumentError, keep_probability


@dataclass(frozen=True)
class MLP:
    """The parameters.

    Attributes:
        weights: W_1, …, W_{L+1}; W_l is (width of layer l) × (width of layer l − 1), as PyTorch has it.
        biases: b_1, …, b_{L+1}.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors, W_1, b_1, W_2, …"""
        return [tensor for pair in zip(self.weights, self.biases, strict=True) for tensor in pair]


def initialise(sizes: Sequence[int], generator: np.random.Generator, dtype: torch.dtype = torch.float32) -> MLP:
    """PyTorch's own initialization of a linear layer: every entry uniform in ±1/√(inputs).

    Args:
        sizes: inputs, hidden widths, classes.
        generator: the randomness.
        dtype: of the parameters.

    Returns:
        The network, on the CPU.
    """

    def uniform(inputs: int, *shape: int) -> Tensor:
        bound = 1 / math.sqrt(inputs)
        return torch.as_tensor(generator.uniform(-bound, bound, shape), dtype=dtype)

    layers = [(uniform(a, b, a), uniform(a, b)) for a, b in pairwise(sizes)]
    return MLP(tuple(weight for weight, _ in layers), tuple(bias for _, bias in layers))


def forward(
    mlp: MLP, x: Float[Tensor, "N D"], kept: Sequence[Tensor] | None = None, keep_prob: float = 1.0
) -> Float[Tensor, "N C"]:
    """The logits."""
    hidden = x
    for layer, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        hidden = functional.linear(hidden, weight, bias)
        if layer < len(mlp.weights) - 1:
            hidden = torch.relu(hidden)
            hidden = hidden if kept is None else hidden * (kept[layer].to(x.dtype) / keep_prob)
    return hidden


class MLPGradient:
    """∂L/∂W₂ on one batch, as a function of the masks of all hidden layers: what lies below the first mask is kept.

    The gradient is leftᵀ right: `right` is layer 2's masked input (N × columns) and `left` is ∂L/∂z_2 (N × rows),
    back-propagated by hand. A mask is one row of Σ_l N·width_l entries, layer by layer.
    """

    def __init__(self, mlp: MLP, x: Float[Tensor, "N D"], y: Int[Tensor, " N"], keep_prob: float):
        self.keep_prob = keep_probability(keep_prob)
        if len(mlp.weights) < 2:
            raise ArgumentError("hidden must have at least one width: without a hidden layer there is no second layer")
        self.samples = x.shape[0]
        self.widths = tuple(weight.shape[0] for weight in mlp.weights[:-1])
        self.mask_size = self.samples * sum(self.widths)
        self.shape = tuple(mlp.weights[1].shape)
        # The masks' factor 1/p goes into what does not depend on them.
        first = functional.linear(x, mlp.weights[0], mlp.biases[0])
        self.below = torch.relu(first) / self.keep_prob
        self.weights = (mlp.weights[1], *(weight / self.keep_prob for weight in mlp.weights[2:]))
        self.biases = mlp.biases[1:]
        self.target = functional.one_hot(y, mlp.weights[-1].shape[0]).to(x.dtype)
        self._buffers: dict[tuple[str, int], Tensor] = {}

    @property
    def bytes_per_mask(self) -> int:
        """What one mask of a chunk takes: its bytes and flags, two tensors a layer."""
        return self.mask_size * (2 + 2 * self.below.element_size())

    def _buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        # Memory that is used again from chunk to chunk: fresh pages cost as much as the arithmetic on them.
        held = self._buffers.get(name)
        if held is None or held.shape[0] < rows:
            held = self._buffers[name] = torch.empty(rows, columns, dtype=dtype, device=self.below.device)
        return held[:rows]

    def factors(
        self, kept: Bool[Tensor, "masks entries"]
    ) -> tuple[Float[Tensor, "masks N rows"], Float[Tensor, "masks N columns"]]:
        """`left` and `right` for each of a chunk of masks, stacked along the batch: one GEMM a layer."""
        masks, n = kept.shape[0], self.samples
        # A product with bytes is several times as fast as one with booleans.
        parts = kept.view(torch.uint8).split([n * width for width in self.widths], dim=1)
        layers = [part.unflatten(1, (n, -1)) for part in parts]
        right = self._buffer("right", masks * n, self.widths[0], self.below.dtype)
        torch.mul(self.below, layers[0], out=right.unflatten(0, (masks, n)))
        hidden = [right]
        for depth, weight in enumerate(self.weights[:-1], start=1):
            z = self._buffer(f"z{depth}", masks * n, self.widths[depth], self.below.dtype)
            torch.addmm(self.biases[depth - 1], hidden[-1], weight.T, out=z)
            z.relu_().unflatten(0, (masks, n)).mul_(layers[depth])
            hidden.append(z)
        return self._backward(hidden).unflatten(0, (masks, n)), right.unflatten(0, (masks, n))

    def _backward(self, hidden: Sequence[Tensor]) -> Tensor:
        logits = torch.addmm(self.biases[-1], hidden[-1], self.weights[-1].T)
        error = torch.softmax(logits, dim=1).unflatten(0, (-1, self.samples)).sub_(self.target).flatten(0, 1)
        back = error.div_(self.samples)
        for depth in range(len(self.weights) - 1, 0, -1):
            delta = self._buffer(f"delta{depth}", len(back), self.widths[depth], self.below.dtype)
            # A unit passes its gradient on where it is above 0, which says that it is both active and kept.
            back = torch.mm(back, self.weights[depth], out=delta).mul_(hidden[depth].sign_())
        return back


class LinearGradient:
    """∂‖Y − (XW)⊙V‖²/∂W = −2 Xᵀ(V ⊙ (Y − XW⊙V)), V in {0, 1/p}, as a function of the mask: leftᵀ right, left = X."""

    def __init__(self, x: Float[Tensor, "N D"], y: Float[Tensor, "N C"], w: Float[Tensor, "D C"], keep_prob: float):
        self.keep_prob = keep_probability(keep_prob)
        self.below = x
        self.shape = tuple(w.shape)
        self.mask_size = y.numel()
        # A kept entry contributes −2(Y − Z/p)/p, a dropped one nothing.
        self._kept = -2 * (y - x @ w / self.keep_prob) / self.keep_prob

    @property
    def bytes_per_mask(self) -> int:
        """What one mask of a chunk takes."""
        return self.mask_size * (2 + self.below.element_size())

    def factors(
        self, kept: Bool[Tensor, "masks entries"]
    ) -> tuple[Float[Tensor, "masks N rows"], Float[Tensor, "masks N columns"]]:
        """`left` and `right` for each of a chunk of masks."""
        right = torch.mul(self._kept, kept.unflatten(1, tuple(self._kept.shape)))
        return self.below.expand(len(kept), -1, -1), right
