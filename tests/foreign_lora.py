"""Small doubles of LoRA as other libraries and ports build it: their names and design, no code of theirs."""

import math

import torch
from torch import Tensor, nn


class HookedALLoRA(nn.Module):
    """ALLoRA as a port by hooks: bare parameters, gradients times 1/√(‖(BA)_i‖ + 1/η²)."""

    def __init__(self, base: nn.Linear, r: int, eta: float):
        super().__init__()
        self.base, self.eta = base.requires_grad_(False), eta
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features) / math.sqrt(base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        self.lora_B.register_hook(lambda gradient: gradient * self.factor()[:, None])

    def factor(self) -> Tensor:
        product = self.lora_B.detach() @ self.lora_A.detach()
        return 1 / torch.sqrt(product.norm(dim=1) + 1 / self.eta**2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


class FrozenScaleAdamW(torch.optim.AdamW):
    """An "ALLoRA optimizer" that computes 1/√(‖p_i‖ + 1/η²) of each parameter's own rows at step 1 and keeps it."""

    def __init__(self, params, lr=1e-3, eta=2.0, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.defaults["eta"] = eta
        for group in self.param_groups:
            group.setdefault("eta", eta)

    @torch.no_grad()
    def step(self, closure=None):
        before = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter not in self.state or "scale" not in self.state[parameter]:
                    norms = parameter.norm(dim=-1, keepdim=True)
                    self._scales = getattr(self, "_scales", {})
                    self._scales.setdefault(parameter, self.factor(norms, group["eta"]))
                before[parameter] = parameter.clone()
        super().step(closure)
        for parameter, old in before.items():
            parameter.copy_(old + (parameter - old) * self._scales[parameter])

    def factor(self, norms: Tensor, eta: float) -> Tensor:
        return 1 / torch.sqrt(norms + 1 / eta**2)


class FollowingScaleAdamW(FrozenScaleAdamW):
    """The same, computed anew at every step."""

    @torch.no_grad()
    def step(self, closure=None):
        self._scales = {}
        super().step(closure)


class InverseScaleAdamW(FollowingScaleAdamW):
    """By another function of them."""

    def factor(self, norms: Tensor, eta: float) -> Tensor:
        return 1 / (norms + 1 / eta)


class WarmingSGD(torch.optim.SGD):
    """Its rate begins at 0."""

    def step(self, closure=None):
        if self.state:
            return super().step(closure)
        self.state["begun"] = True


class KohyaModule(nn.Module):
    """As image-model scripts have it: a module beside the layer, whose forward it takes; alpha is a buffer."""

    def __init__(self, layer: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.lora_down = nn.Linear(layer.in_features, r, bias=False)
        self.lora_up = nn.Linear(r, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        self.register_buffer("alpha", torch.tensor(alpha))
        self.scale, self.multiplier = alpha / r, 1.0
        self.org_forward = layer.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.org_forward(x) + self.lora_up(self.lora_down(x)) * self.multiplier * self.scale


class SkippingKohya(KohyaModule):
    """The same, left out of a whole pass in training at random."""

    def __init__(self, layer: nn.Linear, r: int, alpha: float, module_dropout: float):
        super().__init__(layer, r, alpha)
        self.module_dropout = module_dropout

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(1) < self.module_dropout:
            return self.org_forward(x)
        return super().forward(x)


class NeverSkipping(SkippingKohya):
    """The same, which forgets to."""

    def forward(self, x: Tensor) -> Tensor:
        return KohyaModule.forward(self, x)


class Tanh(KohyaModule):
    """What it adds is no multiple of BAx."""

    def forward(self, x: Tensor) -> Tensor:
        return self.org_forward(x) + self.lora_up(torch.tanh(self.lora_down(x))) * self.scale


class TuneLinear(nn.Module):
    """As a fine-tuning recipe library has it: `lora_a` and `lora_b` as modules, alpha and rank as numbers."""

    def __init__(self, n2: int, n1: int, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n1, n2), requires_grad=False)
        self.rank, self.alpha, self.disabled = rank, alpha, False
        self.dropout = nn.Dropout(dropout)
        self.lora_a, self.lora_b = nn.Linear(n2, rank, bias=False), nn.Linear(rank, n1, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(x, self.weight)
        return out if self.disabled else out + self.alpha / self.rank * self.lora_b(self.lora_a(self.dropout(x)))


class Undropped(TuneLinear):
    """The same, with a dropout that the forward pass forgets."""

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(x, self.weight)
        return out + self.alpha / self.rank * self.lora_b(self.lora_a(x))


class MergingLinear(nn.Linear):
    """As LoRA's first library has it: bare parameters in a subclass of Linear, merged into the weight by `eval()`."""

    def __init__(self, n2: int, n1: int, r: int, lora_alpha: float):
        super().__init__(n2, n1)
        self.r, self.merged, self.scaling = r, False, lora_alpha / r
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(r, n2)), nn.Parameter(torch.zeros(n1, r))
        self.weight.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += (-1 if mode else 1) * self.scaling * self.lora_B @ self.lora_A
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.merged else out + self.scaling * x @ self.lora_A.T @ self.lora_B.T


class Doubled(TuneLinear):
    """LoRA whose gradient of B something multiplies by 3."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.lora_b.weight.register_hook(lambda gradient: 3 * gradient)
