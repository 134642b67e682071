"""DDP on a PEFT model against one process on the joined batch, and torch.compile; without the typing hook.

`python -m tests.peft_in_two_processes RANK FILE` from the repository's root, once for rank 0 and once for rank 1;
FILE is where they meet. Rank 0 prints a JSON object of largest relative differences.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from allora_analysis.lora.peft import allora_config

VARIANTS = ("allora", "allora_od", "asf_lora")


def model(variant: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    adapted = get_peft_model(net, allora_config(2.0, variant, r=2, target_modules=["0", "2"], modules_to_save=["4"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


def steps(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}


def difference(found, wanted) -> float:
    pairs = [(found[name], wanted[name]) for name in wanted]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def main(rank: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 3
    mine = slice(4 * rank, 4 * rank + 4)
    results = {}
    for variant in VARIANTS:
        net = model(variant)
        start = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
        steps(DistributedDataParallel(net), x[mine], y[mine])
        found = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
        if rank == 0:
            results[f"{variant}, moved"] = difference(start, found)
            results[f"{variant}, ddp"] = difference(found, steps(model(variant), x, y))
            compiled = model(variant)
            steps(torch.compile(compiled, backend="aot_eager", fullgraph=True), x, y)
            results[f"{variant}, compiled"] = difference(
                {name: p.detach() for name, p in compiled.named_parameters() if p.requires_grad},
                steps(model(variant), x, y),
            )
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
