"""§4.1: ALLoRA and the arms that the paper compares it with as a plain `nn.Module`, for toy networks.

For a pretrained model use `allora_config` (in `peft/`, and from here once it is asked for) with
`peft.get_peft_model`. Checked by `tests/test_lora_layers.py`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.arms import IN_FORWARD, VARIANTS
from allora_analysis.lora.functional import allora, allora_linear, allora_od, asf_lora, check_rule, fusible
from allora_analysis.lora.watch import Watched, watch
from allora_analysis.validation import ArgumentError, adapter_rank, choice, drop_rate


def __getattr__(name: str) -> Any:
    # PEFT is imported only where its config is asked for.
    if name == "allora_config":
        from allora_analysis.lora.peft import allora_config

        return allora_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ALLoRALinear(Watched, nn.Module):
    """x ↦ W*x + bias + BAx, W* and the bias frozen, A and B trained by one of §4's rules.

    A (r×n₂) is drawn N(0, 1/n₂), as in the paper's Definition 1 and `hessian.LowRankLinear`: the same generator
    gives both layers the same start. (PEFT draws it uniform with a third of that variance.) B (n₁×r) is zero, so that
    the layer starts as the base.

    | variant | output beside the base's | gradient |
    | --- | --- | --- |
    | `allora` | BAx | `functional.allora` |
    | `allora_0` | BAx, never with dropout | `functional.allora` |
    | `allora_od` | BAx | `functional.allora_od` |
    | `asf_lora` | `functional.asf_lora` | its own |
    | `lora_x_eta` | ηBAx: LoRA with α = ηr | its own |

    Args:
        base: the pretrained layer, n₂ inputs and n₁ outputs; its parameters stop being trainable.
        rank: r.
        eta: η.
        variant: one of the above.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`; `lora_x_eta` has none.
        drop_rate: of the dropout on the adapter's input while training, where PEFT places it; in [0, 1).
        generator: draws A, on the CPU; torch's own by default.

    Attributes:
        base: the frozen layer.
        a: A.
        b: B.
        double_backward_is_hessian: whether the variant's gradient is its output's own; not so for ALLoRA's.

    Raises:
        ArgumentError: a base that is no `nn.Linear` or that is quantized, sharded, or not finite; a rank above
            min(n₁, n₂); η that is not above 0; no such variant or adaptor; a drop rate outside [0, 1) or on `allora_0`.
    """

    double_backward_is_hessian = False

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        eta: float,
        variant: str = "allora",
        adaptor: str = "inverse_sqrt",
        drop_rate: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        _check_base(base)
        rank = adapter_rank(rank, base.out_features, base.in_features)
        self.eta, self.adaptor = check_rule(eta, adaptor)
        self.variant, self.drop_rate = choice("variant", variant, VARIANTS), _drop_rate(drop_rate, variant)
        self.double_backward_is_hessian = variant in IN_FORWARD
        self.base, like = base.requires_grad_(False), {"dtype": base.weight.dtype, "device": base.weight.device}
        a = torch.randn(rank, base.in_features, generator=generator, dtype=like["dtype"]) / base.in_features**0.5
        self.a = nn.Parameter(a.to(like["device"]))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        watch(self)

    def forward(self, x: Float[Tensor, "*batch n2"]) -> Float[Tensor, "*batch n1"]:
        """Apply the layer."""
        dropping, own = self.training and self.drop_rate > 0, self.variant in IN_FORWARD
        if not dropping and not own and fusible(self.base):
            parts = (self.base.weight, self.base.bias, self.a, self.b)
            return allora_linear(x, *parts, self.eta, self.adaptor, per_token=self.variant == "allora_od")
        return self.base(x) + self._adapt(nn.functional.dropout(x, self.drop_rate, dropping))

    def _adapt(self, x: Tensor) -> Tensor:
        if self.variant == "lora_x_eta":
            return self.eta * nn.functional.linear(nn.functional.linear(x, self.a), self.b)
        rule = {"allora_od": allora_od, "asf_lora": asf_lora}.get(self.variant, allora)
        return rule(x, self.a, self.b, self.eta, self.adaptor)

    @property
    def merged_weight(self) -> Float[Tensor, "n1 n2"]:
        """W* + BA (+ ηBA for `lora_x_eta`), added in float32 or better; in W*'s dtype, without a graph.

        ASF-LoRA is no matrix, and is refused.
        """
        if self.variant == "asf_lora":
            raise ArgumentError(
                "variant: 'asf_lora' cannot be merged: its output is not linear in x, so no weight matrix gives it;"
                " keep the layer, or train with 'allora', which merges"
            )
        weight, a, b = (part.detach() for part in (self.base.weight, self.a, self.b))
        _check_finite("a", a)
        _check_finite("b", b)
        wide = torch.promote_types(weight.dtype, torch.float32)
        scale = self.eta if self.variant == "lora_x_eta" else 1.0
        return torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=scale).to(weight.dtype)

    def merge(self) -> nn.Linear:
        """A plain layer with the merged weight; this one is left as it is."""
        weight, bias = self.merged_weight, self.base.bias
        merged = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
        merged.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            merged.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return merged.train(self.training)

    def extra_repr(self) -> str:
        """The rule, for `print(model)`."""
        dropout = f", drop_rate={self.drop_rate}" if self.drop_rate else ""
        return f"{self.variant}, rank={self.a.shape[0]}, eta={self.eta}, adaptor={self.adaptor}{dropout}"


def _drop_rate(value: float, variant: str) -> float:
    rate = drop_rate("drop_rate", value)
    if rate and variant == "allora_0":
        raise ArgumentError(f"drop_rate must be 0 for 'allora_0', received {value!r}; 'allora' takes one")
    return rate


def _check_base(base: nn.Module) -> None:
    if not isinstance(base, nn.Linear):
        raise ArgumentError(f"base must be an nn.Linear, received {type(base).__name__}")
    weight = base.weight
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        raise ArgumentError(
            f"base: quantized and sharded weights are not supported, received {type(weight).__name__} of"
            f" {weight.dtype}; give an nn.Linear with a float64, float32, bfloat16 or float16 weight"
        )
    _check_finite("base.weight", weight)
    if base.bias is not None:
        _check_finite("base.bias", base.bias)


def _check_finite(name: str, values: Tensor) -> None:
    if values.device.type != "meta" and not bool(values.isfinite().all()):
        raise ArgumentError(f"{name}: every entry must be finite, received NaN or infinity; load the weights again")
