"""DDP on a PEFT model and on `ALLoRALinear` against one process on the joined batch; without the typing hook.

`python -m tests.lora_in_two_processes RANK FILE` from the repository's root, once for rank 0 and once for rank 1;
FILE is where they meet; both give up by themselves after a minute. Rank 0 prints a JSON object: how far the parameter
moved that moved least, and the largest relative difference.
"""

import json
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from allora_analysis.arms import VARIANTS
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.peft import allora_config


def in_peft(variant: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    adapted = get_peft_model(net, allora_config(2.0, variant, r=2, target_modules=["0", "2"], modules_to_save=["4"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


def of_our_layers(variant: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [ALLoRALinear(nn.Linear(*sizes, dtype=torch.float64), 2, 2.0, variant) for sizes in ((6, 8), (8, 3))]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


MODELS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "peft": (in_peft, ("allora", "allora_od", "asf_lora")),
    "layers": (of_our_layers, VARIANTS),
}


def trained(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}


def steps(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return trained(net)


def difference(found, wanted) -> float:
    pairs = [(found[name], wanted[name]) for name in wanted]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def main(rank: int, file: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 3
    mine = slice(4 * rank, 4 * rank + 4)
    results = {}
    for kind, (make, variants) in MODELS.items():
        for variant in variants:
            net = make(variant)
            start = trained(net)
            frozen = [p.detach().clone() for p in net.parameters() if not p.requires_grad]
            steps(DistributedDataParallel(net), x[mine], y[mine])
            same = zip(frozen, (p for p in net.parameters() if not p.requires_grad), strict=True)
            assert all(torch.equal(*pair) for pair in same)
            if rank == 0:
                found = trained(net)
                moved = min(float((found[name] - part).abs().max()) for name, part in start.items())
                results[f"{kind}, {variant}"] = [moved, difference(found, steps(make(variant), x, y))]
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
