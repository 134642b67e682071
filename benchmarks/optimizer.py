"""One step of ALLoRAAdamW against torch's AdamW, its loop, foreach and fused: all adapters of Qwen2-0.5B.

`python benchmarks/optimizer.py` prints, for 24 layers of seven adapted matrices with r = 16, the median time of a step
of each and the median over interleaved rounds of its time over fused AdamW's. What it computes beside AdamW is
the row norms, two thin products of 2r²(n₁ + n₂) operations a pair, and two passes over B. The norms alone are timed
too: they are 2r operations an entry, where AdamW has about fifteen. So is their sum with the fused kernel's step, the
least that a step can take on torch's kernels, with each row's factor for nothing; and those kernels with the factors,
without the optimizer's bookkeeping. `cpp_kernel=True` is the package's own kernel, which a C++ compiler compiles first.
The last line is the bound of arithmetic: the norms' operations, at the rate of a large matrix product here, beside the
fused kernel's time.
"""

import argparse
import math
from functools import partial
from statistics import median

import torch
from layer import machine
from side_by_side import Task, peak_memory, ratio, rounds
from torch import nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import norms_of_pairs
from allora_analysis.lora.optim import ALLoRAAdamW

LAYERS, ETA, LEARNING_RATE = 24, 2.0, 1e-4
SHAPES = ((896, 896), (896, 128), (896, 128), (896, 896), (896, 4864), (896, 4864), (4864, 896))  # inputs, outputs
OURS, KERNEL, COMPILED = "ALLoRAAdamW", "cpp_kernel=True", "ours, compiled"
FUSED, LEAST, BARE = "AdamW, fused", "norms + fused", "kernels alone"
PEERS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def adapters(layers: int, device: str, dtype: torch.dtype, rank: int = 16) -> list[list[nn.Parameter]]:
    """[A, B] of every adapted matrix, with a gradient each."""
    pairs = []
    for inputs, outputs in SHAPES * layers:
        shapes = {"a": (rank, inputs), "b": (outputs, rank)}
        pair = [nn.Parameter(torch.randn(s, device=device, dtype=dtype) / inputs**0.5) for s in shapes.values()]
        for part in pair:
            part.grad = torch.randn_like(part)
        pairs.append(pair)
    return pairs


def by_shape(pairs: list[list[nn.Parameter]]) -> list[list[tuple[nn.Parameter, ...]]]:
    """The pairs, those of one shape together."""
    groups: dict[tuple, list[tuple]] = {}
    for pair in pairs:
        groups.setdefault(tuple(part.shape for part in pair), []).append(tuple(pair))
    return [*groups.values()]


@torch.no_grad()
def norms(groups: list[list[tuple[nn.Parameter, ...]]]) -> None:
    """‖(BA)_i‖ of all pairs, as the optimizer computes them."""
    for group in groups:
        norms_of_pairs(group)


def bare(groups: list[list[tuple[nn.Parameter, ...]]]) -> Task:
    """A step's calls of torch's kernels alone, in place: norms, factors, A at a rate of its own, B by its rows."""
    numbers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
    state = {
        part: (torch.zeros_like(part), torch.zeros_like(part)) for group in groups for pair in group for part in pair
    }
    count, decay = torch.ones(()), 0.01

    def fused(target: torch.Tensor, part: nn.Parameter, rate: float, decay: float) -> None:
        lists = ([one] for one in (target, part.grad, *state[part]))
        torch._fused_adamw_(*lists, [], [count], lr=rate, weight_decay=decay, **numbers)

    @torch.no_grad()
    def step() -> None:
        for group in groups:
            d, moved = norms_of_pairs(group), torch.empty_like(group[0][1])
            for some in d.view(-1).split(2**14):
                some.copy_(ADAPTORS["inverse_sqrt"](some, ETA))
            d = d.to(moved.dtype)
            spread = torch.empty_like(moved) if moved.shape[1] * moved.element_size() < 64 else None
            for (a, b), mean, rows in zip(group, d.mean(1).tolist(), d[..., None].unbind(), strict=True):
                fused(a, a, LEARNING_RATE * mean, decay / mean)
                fused(moved.zero_(), b, LEARNING_RATE, 0.0)
                b.mul_(1 - LEARNING_RATE * decay).addcmul_(moved, rows if spread is None else spread.copy_(rows))

    return step


def bound(pairs: list[list[nn.Parameter]], fused: float, device: str) -> str:
    """The norms' operations at the rate of a product of two large matrices, beside `fused` milliseconds."""
    size, dtype = 1024, torch.promote_types(pairs[0][0].dtype, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(own for _, own in rounds({"": lambda: left @ right}, 15, device)[""])
    rate = 2 * size**3 / best / 1e6  # 10⁹ operations a second
    least = sum(len(a) * (len(a) + 1) * (a.shape[1] + len(b)) + 2 * b.numel() for a, b in pairs) / rate / 1e6
    return (
        f"arithmetic of the norms, AAᵀ symmetric and its root triangular: {least:.2f} ms at {rate:.0f} GFLOP/s; "
        f"with the fused kernel {1 + least / fused:.2f} times {FUSED}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--compiled", action="store_true", help="torch.compile(step) too; it compiles for minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pairs = adapters(options.layers, options.device, getattr(torch, options.dtype), options.rank)
    own = [{"params": pair, "pair": True} for pair in pairs]
    tasks = {OURS: ALLoRAAdamW(own, LEARNING_RATE, ETA).step}
    if options.device == "cpu" and options.dtype != "float64":
        tasks[KERNEL] = ALLoRAAdamW(own, LEARNING_RATE, ETA, cpp_kernel=True).step
    for name, switches in PEERS.items():
        parameters = [part for pair in pairs for part in pair]
        tasks[f"AdamW, {name}"] = torch.optim.AdamW(parameters, LEARNING_RATE, **switches).step
    if options.compiled:
        rate = torch.tensor(LEARNING_RATE)
        tasks[COMPILED] = torch.compile(ALLoRAAdamW(own, rate, ETA).step, fullgraph=True)
        tasks[COMPILED]()  # the first step and all others are two graphs; `rounds` warms up the second
    groups = by_shape(pairs)
    tasks["row norms alone"] = partial(norms, groups)
    tasks[LEAST] = lambda: (norms(groups), tasks[FUSED]())
    if options.device == "cpu":
        tasks[BARE] = bare(groups)
    times = rounds(tasks, options.rounds, options.device)
    count = sum(part.numel() for pair in pairs for part in pair) / 1e6
    print(
        f"{machine(options.device)}, {options.dtype}, {len(pairs)} pairs, {count:.1f} M parameters, r = {options.rank}"
    )
    print(f"{'':16s} {'ms':>9s} {'it / fused':>10s} {'(CPU time)':>11s} {'peak MiB':>9s}")
    for name, task in tasks.items():
        wall, own = (ratio(times, name, FUSED, clock) for clock in (0, 1))
        milliseconds = median(pair[0] for pair in times[name])
        memory = math.nan if name == COMPILED else peak_memory(task, options.device)  # no modes in compiled code
        print(f"{name:16s} {milliseconds:9.2f} {wall:10.3f} {own:11.3f} {memory:9.1f}")
    print(bound(pairs, median(own for _, own in times[FUSED]), options.device))


if __name__ == "__main__":
    main()
