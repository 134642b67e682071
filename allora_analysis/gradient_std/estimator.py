"""The standard deviation of a gradient over dropout masks, and the models whose gradient it is, as functions of a mask.

**The models**: a ReLU network's second layer, and a linear model. Layers h_0 = x, z_l = h_{l−1}W_lᵀ + b_l,
h_l = relu(z_l) ⊙ V_l with V_l in {0, 1/p} (inverted dropout), logits z_{L+1}; L the mean cross-entropy. Figure 1 of the
paper is about ∂L/∂W₂. The linear model of §3.1, mask on the output, has a closed form, which is the estimator's oracle.
Checked by `tests/test_gradient_std_estimator.py`.

**The estimator**, of each entry: one pass, memory independent of K. The same code serves the network, the linear model
and, with minibatches in place of masks, the control without dropout. Masks come from random bytes: exactly
Bernoulli(keep_prob), one byte an entry for nearly all of them. Each gradient is leftᵀ right. A block of them is summed
in the gradient's own dtype as deviations from the running mean (subtracted by the GEMM itself), then merged into
float64 by Chan, Golub and LeVeque (1983): with nothing but small deviations squared, nothing cancels. Checked by
`tests/test_gradient_std_estimator.py` against two passes in float64 and all masks of a small model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from allora_analysis.gradient_std.summary import GradientMoments
from allora_analysis.validation import ArgumentError, count, keep_probability, several

LEVELS = 256  # of a mask's byte
MEMORY_LIMIT = 16 * 2**20  # bytes for a chunk of masks: what the caches near a core hold
FIRST = 4  # gradients in the first block, whose offset is their own mean's
BLOCK = 64  # gradients summed in their own dtype before they are merged into float64, half of them in each half
SEGMENTS = 8  # batch means behind the standard error
LEAST = 8  # gradients in each of them


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

    Raises:
        ArgumentError: fewer than two sizes, or one below 1.
    """
    sizes = [count("sizes", size) for size in several("sizes", sizes)]
    if len(sizes) < 2:
        raise ArgumentError(f"sizes must hold inputs and classes at least, received {sizes}")

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


class MaskStream:
    """Independent Bernoulli(p) entries U < p, U uniform, by the first byte of U; only a tie draws the rest of U.

    A byte below ⌊256p⌋ keeps its entry and one above drops it; at ⌊256p⌋ (one entry in 256) the rest of U decides,
    uniform again: keep with probability 256p − ⌊256p⌋. So p need not be a multiple of 1/256.
    """

    def __init__(self, keep_prob: float, generator: np.random.Generator):
        self.keep_prob = keep_probability(keep_prob)
        self._tie = math.floor(LEVELS * self.keep_prob)
        self._rest = LEVELS * self.keep_prob - self._tie
        self.threshold = min(max(self._tie, 1), LEVELS - 1)
        self._generator = generator

    def fill(self, out: UInt8[np.ndarray, "masks entries"]) -> None:
        """Draw masks one after the other, so that they depend on the stream and not on how many are asked for."""
        if self.keep_prob == 1.0:
            out[...] = 0
            return
        for row in out:
            words = self._generator.integers(0, 2**64 - 1, -(-row.size // 8), dtype=np.uint64, endpoint=True)
            row[:] = words.view(np.uint8)[: row.size]
            if self._rest:
                ties = np.flatnonzero(row == self._tie)
                row[ties] = np.where(self._generator.random(ties.size) < self._rest, 0, LEVELS - 1)


@dataclass
class Moments:
    """How many, mean and Σ(g − mean)² of some gradients, float64."""

    n: int
    mean: Float[Tensor, "rows columns"]
    squares: Float[Tensor, "rows columns"]

    @staticmethod
    def empty(like: Tensor) -> Moments:
        """Moments of nothing."""
        zeros = torch.zeros_like(like, dtype=torch.float64)
        return Moments(0, zeros, zeros.clone())

    def merge(self, n: int, mean: Float[Tensor, "rows columns"], squares: Float[Tensor, "rows columns"]) -> None:
        """Add another group: M ← M + M' + (mean' − mean)² nn'/(n + n')."""
        total = self.n + n
        delta = mean.sub_(self.mean)
        self.mean.add_(delta, alpha=n / total)
        self.squares.add_(squares).addcmul_(delta, delta, value=self.n * n / total)
        self.n = total

    def variance(self) -> Float[Tensor, "rows columns"]:
        """The unbiased variance, entry by entry; at least two gradients."""
        return self.squares / (self.n - 1)


class Block:
    """Σd and Σd² of the deviations d = leftᵀ right + offset, in the gradient's own dtype; the offset is about −mean."""

    def __init__(self, offset: Float[Tensor, "rows columns"]):
        self.n = 0
        self._offset = offset
        self._sum, self._squares, self._gradient = (torch.zeros_like(offset) for _ in range(3))

    def add(self, left: Float[Tensor, "N rows"], right: Float[Tensor, "N columns"]) -> None:
        """Add one gradient."""
        deviation = torch.addmm(self._offset, left.T, right, out=self._gradient)
        self._sum.add_(deviation)
        self._squares.addcmul_(deviation, deviation)
        self.n += 1

    def flush(self, into: Moments) -> None:
        """Merge the block into float64 moments and empty it."""
        if self.n:
            total = self._sum.double()
            # One deviation alone has no spread: its rounding is no variance.
            squares = self._squares.double().addcmul_(total, total, value=-1 / self.n).clamp_(min=0)
            squares = torch.zeros_like(total) if self.n == 1 else squares
            into.merge(self.n, total.div_(self.n).sub_(self._offset), squares)
        self._sum.zero_()
        self._squares.zero_()
        self.n = 0


@runtime_checkable
class MaskedGradient(Protocol):
    """What the estimator asks of a model on one batch: a gradient leftᵀ right as a function of the mask."""

    keep_prob: float
    mask_size: int
    shape: tuple[int, int]
    below: Tensor

    @property
    def bytes_per_mask(self) -> int:
        """Memory that one mask of a chunk takes."""

    def factors(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """`left` (masks × N × rows) and `right` (masks × N × columns) of a chunk of masks."""


def gradient_moments(
    model: MaskedGradient, masks: int, generator: np.random.Generator, memory_limit: int = MEMORY_LIMIT
) -> GradientMoments:
    """Moments of a model's gradient over random masks.

    Source: what Figure 1 of the paper shows, for the second layer. The masks depend on the generator alone.

    Args:
        model: the model on its batch.
        masks: K, at least 2.
        generator: the randomness of the masks.
        memory_limit: bytes for the activations of the masks that are forwarded together.

    Returns:
        The moments, float64; of standard deviation exactly 0 if keep_prob is 1.
    """
    masks = count("masks", masks, 2)
    if model.keep_prob == 1.0:
        return _constant(model, masks)
    chunk = max(1, min(BLOCK, count("memory_limit", memory_limit) // model.bytes_per_mask))
    stream = MaskStream(model.keep_prob, generator)
    drawn = np.empty((chunk, model.mask_size), dtype=np.uint8)
    kept = np.empty(drawn.shape, dtype=np.bool_)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        stream.fill(drawn[:size])
        np.less(drawn[:size], stream.threshold, out=kept[:size])
        return model.factors(torch.from_numpy(kept[:size]).to(model.below.device))

    return streaming_moments(draw, masks, chunk)


def _constant(model: MaskedGradient, masks: int) -> GradientMoments:
    # Every mask keeps everything: one gradient, whose spread is 0 and not the rounding of K sums.
    left, right = model.factors(torch.ones(1, model.mask_size, dtype=torch.bool, device=model.below.device))
    mean = _array(left[0].T @ right[0])
    zero = np.zeros_like(mean)
    return GradientMoments(masks, mean, zero, mean, mean, zero, zero, 0.0, 0.0)


def streaming_moments(draw: Callable[[int], tuple[Tensor, Tensor]], k: int, chunk: int = BLOCK) -> GradientMoments:
    """Moments of K gradients that come in chunks.

    Args:
        draw: gives `left` and `right` of the next so many gradients.
        k: K, at least 2.
        chunk: the most that are drawn at once.
    """
    k, stream = count("k", k, 2), None
    segments = max(1, min(SEGMENTS, k // LEAST))
    for segment in range(segments):
        left_over = (segment + 1) * k // segments - segment * k // segments
        while left_over:
            size = min(left_over, chunk, BLOCK if stream else FIRST)
            left, right = draw(size)
            stream = stream or _Stream(left.flatten(0, 1).T @ right.flatten(0, 1) / size)
            stream.add(left, right)
            left_over -= size
        stream.close_segment()
    return stream.finish()


class _Stream:
    """The moments of the even and of the odd gradients, of all segments and of the present one."""

    def __init__(self, pilot: Tensor):
        # The first block's deviations are from its own mean, those of later blocks from the running mean.
        self.offset = -pilot
        self.halves, self.parts = ([Moments.empty(pilot) for _ in range(2)] for _ in range(2))
        self.blocks = [Block(self.offset) for _ in range(2)]
        self.averages: list[float] = []
        self.seen = self.pending = 0

    def add(self, left: Tensor, right: Tensor) -> None:
        for one_left, one_right in zip(left, right, strict=True):
            self.blocks[self.seen % 2].add(one_left, one_right)
            self.seen += 1
        self.pending += len(left)
        if self.pending >= BLOCK or self.seen <= FIRST:
            self._flush()

    def _flush(self) -> None:
        for block, part in zip(self.blocks, self.parts, strict=True):
            block.flush(part)
        groups = [group for group in (*self.halves, *self.parts) if group.n]
        mean = sum(group.mean * (group.n / self.seen) for group in groups)
        self.offset.copy_(-mean)
        self.pending = 0

    def close_segment(self) -> None:
        self._flush()
        self.averages.append(float(_merged(self.parts).variance().sqrt().mean()))
        for half, part in zip(self.halves, self.parts, strict=True):
            half.merge(part.n, part.mean, part.squares)
        self.parts = [Moments.empty(self.offset) for _ in range(2)]

    def finish(self) -> GradientMoments:
        whole = _merged(self.halves)
        std = _array(whole.variance().sqrt())
        spreads = [_array((half.squares / max(half.n - 1, 1)).sqrt()) for half in self.halves]
        means = [_array(half.mean) for half in self.halves]
        stderr = None
        if len(self.averages) > 1:
            stderr = float(np.std(self.averages, ddof=1) / np.sqrt(len(self.averages)))
        return GradientMoments(whole.n, _array(whole.mean), std, *means, *spreads, float(std.mean()), stderr)


def _merged(groups: list[Moments]) -> Moments:
    whole = Moments(groups[0].n, groups[0].mean.clone(), groups[0].squares.clone())
    whole.merge(groups[1].n, groups[1].mean.clone(), groups[1].squares)
    return whole


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()
