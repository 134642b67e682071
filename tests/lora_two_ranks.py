"""One of two processes: `python -m tests.lora_two_ranks RANK FILE`. Trains each variant under DDP on half of a batch,
and compares with one process on the whole of it. Exits 0 where they agree; gives up by itself after a minute."""

from __future__ import annotations

import copy
import sys
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from allora_analysis.lora.layers import VARIANTS, ALLoRALinear

STEPS, RATE = 4, 0.3


def network(variant: str) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = [ALLoRALinear(nn.Linear(*sizes), 2, 2.0, variant, generator=generator) for sizes in ((6, 8), (8, 3))]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


def train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimiser = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()


def main(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    x, y = torch.randn(8, 5, 6), torch.randn(8, 5, 3)
    half = slice(4 * rank, 4 * rank + 4)
    for variant in VARIANTS:
        shared = network(variant)
        alone, start = copy.deepcopy(shared), copy.deepcopy(shared)
        train(DistributedDataParallel(shared), x[half], y[half])
        train(alone, x, y)
        for name, part in alone.named_parameters():
            torch.testing.assert_close(shared.get_parameter(name), part, rtol=1e-10, atol=1e-12)
            moved = (part - start.get_parameter(name)).abs().max() > 1e-3
            assert moved == part.requires_grad, f"{variant}: {name}"
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
