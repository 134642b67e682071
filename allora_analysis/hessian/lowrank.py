"""A plain LoRA layer, the one that the exact statements of §3.2 are about: x ↦ W*x + b + ηB(Ax), W* and b frozen.

Plain: nothing scales a gradient, so the double backward of a loss is its Hessian. Checked by
`tests/test_hessian_network.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.validation import ArgumentError, adapter_rank, positive


class LowRankLinear(nn.Module):
    """x ↦ W*x + b + ηBAx with A (r×n₂) drawn N(0, 1/n₂) and B (n₁×r) zero (paper, Definition 1); W* and b are frozen.

    Args:
        base: the pretrained layer, n₂ inputs and n₁ outputs; its parameters stop being trainable.
        rank: r.
        eta: η = α/r.
        generator: draws A, on the CPU.

    Attributes:
        base: the frozen layer.
        a: A.
        b: B.
        eta: η.
    """

    def __init__(self, base: nn.Linear, rank: int, eta: float, generator: torch.Generator):
        super().__init__()
        rank, weight = adapter_rank(rank, base.out_features, base.in_features), base.weight
        self.base, self.eta = base.requires_grad_(False), positive("eta", eta)
        a = torch.randn(rank, base.in_features, generator=generator, dtype=weight.dtype) / base.in_features**0.5
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer.

        Args:
            x: inputs, n₂ on the last axis.

        Returns:
            Outputs, n₁ on the last axis.
        """
        return self.base(x) + self.eta * (x @ self.a.T) @ self.b.T


def add_adapters(model: nn.Module, rank: int, eta: float, generator: torch.Generator) -> nn.Module:
    """Freeze a model and put a `LowRankLinear` in the place of every `nn.Linear` below it, in place.

    Args:
        model: the pretrained model; every parameter stops being trainable.
        rank: r of every adapter.
        eta: η of every adapter.
        generator: draws each A, in the order of `model.named_modules()`.

    Returns:
        The same model.

    Raises:
        ArgumentError: no `nn.Linear` below the model.
    """
    places = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name]
    if not places:
        raise ArgumentError("model: it must hold an nn.Linear to adapt, received none")
    model.requires_grad_(False)
    for place in places:
        parent, _, child = place.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, LowRankLinear(getattr(owner, child), rank, eta, generator))
    return model
