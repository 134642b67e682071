"""Parameter counts of LLaMA decoders by building them, weightless, in torch. Imports nothing from the package."""

from functools import cache

import torch
from torch import nn

# hidden, intermediate, key/value width, layers, vocabulary
SIZES = {
    "LLaMA-7B": (4096, 11008, 4096, 32, 32000),
    "LLaMA2-7B": (4096, 11008, 4096, 32, 32000),
    "LLaMA3-8B": (4096, 14336, 1024, 32, 128256),
}
ADAPTED = {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}


def layer(hidden, intermediate, narrow):
    linear = {
        "q_proj": nn.Linear(hidden, hidden, bias=False),
        "k_proj": nn.Linear(hidden, narrow, bias=False),
        "v_proj": nn.Linear(hidden, narrow, bias=False),
        "o_proj": nn.Linear(hidden, hidden, bias=False),
        "gate_proj": nn.Linear(hidden, intermediate, bias=False),
        "up_proj": nn.Linear(hidden, intermediate, bias=False),
        "down_proj": nn.Linear(intermediate, hidden, bias=False),
    }
    return nn.ModuleDict(linear | {"norm_1": nn.RMSNorm(hidden), "norm_2": nn.RMSNorm(hidden)})


@cache
def build(sizes):
    hidden, intermediate, narrow, layers, vocabulary = sizes
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "embedding": nn.Embedding(vocabulary, hidden),
                "layers": nn.ModuleList([layer(hidden, intermediate, narrow) for _ in range(layers)]),
                "norm": nn.RMSNorm(hidden),
                "head": nn.Linear(hidden, vocabulary, bias=False),
            }
        )


def pretrained(sizes):
    return sum(parameter.numel() for parameter in build(sizes).parameters())


def trainable(sizes, rank, dora):
    total = 0
    with torch.device("meta"):
        for name, module in build(sizes).named_modules():
            if name.rpartition(".")[2] in ADAPTED:
                a = torch.empty(rank, module.in_features)
                b = torch.empty(module.out_features, rank)
                magnitude = torch.empty(module.out_features if dora else 0)
                total += a.numel() + b.numel() + magnitude.numel()
    return total
