"""ALLoRA under DDP and FSDP in two processes, against one process on the joined batch; without the typing hook.

`python -m tests.lora_sharded RANK FILE` from the repository's root, once for rank 0 and once for rank 1; FILE is where
they meet; both give up by themselves after a minute. Rank 0 prints a JSON object: for each case how far the parameter
moved that moved least and the largest relative difference, or the refusal.
"""

import json
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.peft import allora_config
from allora_analysis.lora.watch import FactorUndone
from allora_analysis.validation import ArgumentError
from tests.lora_in_two_processes import difference


class Block(nn.Module):
    """What a transformer's block is to FSDP."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.outer(self.inner(x).tanh())


class Net(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def adapted(config: Callable) -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(Net(), config(r=2, target_modules=["inner", "outer"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def allora(**fields):
    return lambda **more: allora_config(2.0, **fields, **more)


def of_leaves(model, use_orig_params):
    """FSDP1 as the Trainer sets it for a PEFT model: A and B are wrapped on their own."""
    policy = fsdp_auto_wrap_policy(model)
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=torch.device("cpu")
    )


def of_blocks(model, leaves=()):
    """FSDP2 on each block and, before it, on each module whose name ends so."""
    mesh = init_device_mesh("cpu", (2,))
    parts = [part for name, part in model.named_modules() if name.endswith(tuple(leaves))]
    for part in [*parts, *model.base_model.model.blocks, model]:
        fully_shard(part, mesh=mesh)
    return model


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


def adamw(model):
    return ALLoRAAdamW(param_groups(model), 0.01, 3.0, weight_decay=0.1)


WRAPS = {
    "DDP": DistributedDataParallel,
    "FSDP1, use_orig_params": lambda model: of_leaves(model, True),
    "FSDP1, flat": lambda model: of_leaves(model, False),
    "FSDP2, blocks": of_blocks,
    "FSDP2, A and B alone": lambda model: of_blocks(model, [".lora_A.default", ".lora_B.default"]),
    "FSDP2, B alone": lambda model: of_blocks(model, [".lora_B.default"]),
}
RULES = {
    "allora": (allora(), sgd),
    "allora_od": (allora(variant="allora_od"), sgd),
    "asf_lora": (allora(variant="asf_lora"), sgd),
    "ALLoRAAdamW": (LoraConfig, adamw),
}


def full(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters, whole."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return full(model.module)
    found = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            found[name.removeprefix("module.").replace("_fsdp_wrapped_module.", "")] = whole.detach().clone()
    return found


def train(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def case(wrap: Callable, config: Callable, optimizer: Callable, data: tuple, mine: slice, early=False, twin=None):
    """The refusal, or how far two processes moved, how far that is from one with `twin`'s rule, and of how many."""
    net, (x, y) = adapted(config), data
    made = optimizer(net) if early else None
    net = wrap(net)
    start = full(net)
    try:
        train(net, made or optimizer(net), x[mine], y[mine])
    except ArgumentError as error:
        return str(error)
    alone = adapted(twin or config)
    train(alone, optimizer(alone), x, y)
    found, wanted = full(net), full(alone)
    moved = min(float((found[name] - part).abs().max()) for name, part in start.items())
    return [moved, difference(found, wanted), len(found)]


def looked_at(wrap: Callable, optimizer: str, asked: bool, data: tuple, mine: slice) -> list:
    """What the doctor says of a sharded model of ALLoRA's, or the step's warning: words, or how many."""
    net, (x, y) = wrap(adapted(allora())), data
    made = getattr(torch.optim, optimizer)([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    nn.functional.cross_entropy(net(x[mine]), y[mine]).backward()
    if asked:
        found = doctor(net, made, 1.0)
        said = {line.code: line.text for line in found.advice}
        return [found.verdict, *sorted({(row.effect, row.rank) for row in found.layers}), said.get("sharded")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made.step()
    return [str(one.message) for one in told if one.category is FactorUndone]


def main(rank: int, file: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(1)
    data, mine = (torch.randn(8, 6, generator=generator), torch.arange(8) % 3), slice(4 * rank, 4 * rank + 4)
    results = {
        f"{kind}: {name}": case(wrap, *rule, data, mine) for kind, wrap in WRAPS.items() for name, rule in RULES.items()
    }
    kind = "FSDP1, use_orig_params"
    results[f"{kind}: made before"] = case(WRAPS[kind], *RULES["ALLoRAAdamW"], data, mine, early=True)
    results |= {
        f"{wrap}: {name}, {'asked' if asked else 'not asked'}": looked_at(WRAPS[wrap], name, asked, data, mine)
        for wrap in ("FSDP1, use_orig_params", "FSDP1, flat")
        for name in ("AdamW", "SGD")
        for asked in (True, False)
    }
    results["planted"] = case(WRAPS[kind], *RULES["allora"], data, mine, twin=LoraConfig)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
