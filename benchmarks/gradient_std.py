"""The gradient's standard deviation over dropout masks: the toolkit's stream beside two plain ways to the same numbers.

`python benchmarks/gradient_std.py [--masks 1000] [--rounds 5] [--vmap-masks 100] [--device cpu|cuda]` measures, on an
MLP 784-512-512-10, batch 128, keep probability 0.5, float32, second layer's weight matrix:

- loop: a forward pass with torch's dropout and `torch.autograd.grad` for each mask, running sums in place;
- vmap: `torch.func.vmap(grad, randomness="different")` over chunks of masks, the best of a few chunk sizes.

Rounds are interleaved in one process; printed are the medians of the rounds' ratios, wall time and the process's CPU
time (which a neighbor on the same cores does not lengthen), and the memory that K costs. The peers' sums are the naive
ones in float32: the stream's float64 moments, its halves and its standard error come on top of the same work.
"""

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from allora_analysis.gradient_std.estimator import MLP, MLPGradient, gradient_moments, initialise

SIZES, BATCH, KEEP_PROB = (784, 512, 512, 10), 128, 0.5
VMAP_CHUNKS = (4, 16)


def problem(device: str) -> tuple[MLP, Tensor, Tensor]:
    """A network at its initialization and a random batch."""
    generator = np.random.default_rng(0)
    mlp = initialise(SIZES, generator)
    mlp = MLP(*(tuple(tensor.to(device) for tensor in part) for part in (mlp.weights, mlp.biases)))
    x = torch.as_tensor(generator.standard_normal((BATCH, SIZES[0])), dtype=torch.float32, device=device)
    return mlp, x, torch.as_tensor(generator.integers(0, SIZES[-1], BATCH), device=device)


def loss(mlp: MLP, second: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy with torch's own dropout, as a function of W₂."""
    hidden = x
    for layer, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        hidden = functional.linear(hidden, second if layer == 1 else weight, bias)
        if layer < len(mlp.weights) - 1:
            hidden = functional.dropout(torch.relu(hidden), 1 - KEEP_PROB)
    return functional.cross_entropy(hidden, y)


def from_sums(total: Tensor, squares: Tensor, k: int) -> Tensor:
    """The standard deviation by the naive formula."""
    return ((squares - total.square() / k) / (k - 1)).clamp(min=0).sqrt()


def by_loop(mlp: MLP, x: Tensor, y: Tensor, k: int) -> Tensor:
    """One mask after the other through autograd."""
    second = mlp.weights[1].clone().requires_grad_(True)
    total, squares = torch.zeros_like(mlp.weights[1]), torch.zeros_like(mlp.weights[1])
    for _ in range(k):
        (gradient,) = torch.autograd.grad(loss(mlp, second, x, y), second)
        total += gradient
        squares.addcmul_(gradient, gradient)
    return from_sums(total, squares, k)


def by_vmap(mlp: MLP, x: Tensor, y: Tensor, k: int, chunk: int) -> Tensor:
    """Chunks of masks through torch.func."""
    one = torch.func.grad(lambda second, _: loss(mlp, second, x, y))
    many = torch.func.vmap(one, in_dims=(None, 0), randomness="different")
    total, squares = torch.zeros_like(mlp.weights[1]), torch.zeros_like(mlp.weights[1])
    for start in range(0, k, chunk):
        gradients = many(mlp.weights[1], torch.arange(min(chunk, k - start), device=x.device))
        total += gradients.sum(0)
        squares += gradients.square().sum(0)
    return from_sums(total, squares, k)


def by_stream(mlp: MLP, x: Tensor, y: Tensor, k: int) -> np.ndarray:
    """The toolkit's."""
    generator = np.random.Generator(np.random.SFC64(0))
    return gradient_moments(MLPGradient(mlp, x, y, KEEP_PROB), k, generator).std


def milliseconds(task: Callable, k: int, device: str) -> np.ndarray:
    """Wall and CPU time of a run, per mask."""
    before = np.array([time.perf_counter(), time.process_time()])
    task(k)
    if device == "cuda":
        torch.cuda.synchronize()
    return (np.array([time.perf_counter(), time.process_time()]) - before) / k * 1e3


def peak(device: str) -> float:
    """The most memory held so far, in MiB: the process's, or the GPU's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vmap-masks", type=int, default=100, help="fewer: vmap's time a mask does not depend on K")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    arguments = problem(options.device)
    ours = lambda k: by_stream(*arguments, k)  # noqa: E731
    loop = lambda k: by_loop(*arguments, k)  # noqa: E731
    vmaps = [lambda k, chunk=chunk: by_vmap(*arguments, k, chunk) for chunk in VMAP_CHUNKS]

    ours(64)
    before = peak(options.device)
    ours(options.masks)
    grown = peak(options.device) - before
    expected, peer = ours(options.masks).mean(), float(loop(max(200, options.masks // 4)).mean())
    assert abs(peer / expected - 1) < 0.05, "the two do not measure the same thing"
    for task in vmaps:
        task(VMAP_CHUNKS[-1])

    rows = []
    for _ in range(options.rounds):
        own, plain = (milliseconds(task, options.masks, options.device) for task in (ours, loop))
        batched = min((milliseconds(task, options.vmap_masks, options.device) for task in vmaps), key=lambda t: t[0])
        rows.append([own, plain, batched])
    times = np.array(rows)  # rounds × methods × (wall, CPU)
    threads = f"{torch.get_num_threads()} thread(s)" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{'-'.join(map(str, SIZES))}, batch {BATCH}, K = {options.masks}, {options.device}, {threads}")
    for clock, name in enumerate(("wall", "CPU")):
        own, plain, batched = (median(times[:, method, clock]) for method in range(3))
        ratios = [median(times[:, method, clock] / times[:, 0, clock]) for method in (1, 2)]
        print(
            f"{name:4s} ms a mask: stream {own:.2f}, loop {plain:.2f} ({ratios[0]:.1f} ×), "
            f"vmap {batched:.2f} ({ratios[1]:.1f} ×)"
        )
    print(f"peak memory: {grown:.1f} MiB more with K = {options.masks} than with K = 64")


if __name__ == "__main__":
    main()
