"""One step of ALLoRAAdamW against torch's AdamW, its loop, foreach and fused: all adapters of Qwen2-0.5B.

`python benchmarks/optimizer.py` prints, for 24 layers of seven adapted matrices with r = 16, the median time of a step
of each and the median over interleaved rounds of ALLoRAAdamW's time over the peer's. What it computes beside AdamW is
the row norms, two thin products of 2r²(n₁ + n₂) operations a pair, and two passes over B. The norms alone are timed
too: they are 2r operations an entry, where AdamW has about fifteen. So is their sum with the fused kernel's step, the
least that a step can take on torch's kernels, with each row's factor for nothing.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from statistics import median

import torch
from layer import machine
from side_by_side import peak_memory, ratio, rounds
from torch import nn

from allora_analysis.lora.autograd import norms_of_pairs
from allora_analysis.lora.optim import ALLoRAAdamW

LAYERS, ETA, LEARNING_RATE = 24, 2.0, 1e-4
SHAPES = ((896, 896), (896, 128), (896, 128), (896, 896), (896, 4864), (896, 4864), (4864, 896))  # inputs, outputs
OURS, COMPILED, FUSED, LEAST = "ALLoRAAdamW", "ours, compiled", "AdamW, fused", "norms + fused"
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


def norms(pairs: list[list[nn.Parameter]]) -> None:
    """‖(BA)_i‖ of all pairs, those of one shape together, as the optimizer computes them."""
    by_shape: dict[tuple, list[tuple]] = {}
    for pair in pairs:
        by_shape.setdefault(tuple(part.shape for part in pair), []).append(tuple(pair))
    with torch.no_grad():
        for group in by_shape.values():
            norms_of_pairs(group)


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
    groups = [{"params": pair, "pair": True} for pair in pairs]
    tasks = {OURS: ALLoRAAdamW(groups, LEARNING_RATE, ETA).step}
    for name, switches in PEERS.items():
        parameters = [part for pair in pairs for part in pair]
        tasks[f"AdamW, {name}"] = torch.optim.AdamW(parameters, LEARNING_RATE, **switches).step
    if options.compiled:
        rate = torch.tensor(LEARNING_RATE)
        tasks[COMPILED] = torch.compile(ALLoRAAdamW(groups, rate, ETA).step, fullgraph=True)
        tasks[COMPILED]()  # the first step and all others are two graphs; `rounds` warms up the second
    tasks["row norms alone"] = partial(norms, pairs)
    tasks[LEAST] = lambda: (norms(pairs), tasks[FUSED]())
    times = rounds(tasks, options.rounds, options.device)
    count = sum(part.numel() for pair in pairs for part in pair) / 1e6
    print(
        f"{machine(options.device)}, {options.dtype}, {len(pairs)} pairs, {count:.1f} M parameters, r = {options.rank}"
    )
    print(f"{'':16s} {'ms':>9s} {'ours / it':>10s} {'(CPU time)':>11s} {'peak MiB':>9s}")
    for name, task in tasks.items():
        wall, own = (ratio(times, OURS, name, clock) for clock in (0, 1))
        milliseconds = median(pair[0] for pair in times[name])
        memory = math.nan if name == COMPILED else peak_memory(task, options.device)  # no modes in compiled code
        print(f"{name:16s} {milliseconds:9.2f} {wall:10.3f} {own:11.3f} {memory:9.1f}")
    print(f"{LEAST} is {ratio(times, LEAST, FUSED, 1):.2f} times {FUSED} (CPU time)")


if __name__ == "__main__":
    main()
