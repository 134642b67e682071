"""§4: PEFT's LoRA layer whose adapters may each follow ALLoRA's rule or one of its family's.

What it may be put on (finite weights in a floating-point type), what one adapter does beside LoRA (`Rule`, `DoRARule`),
what the layers of all kinds share, and the linear one (`nn.Linear`, GPT-2's `Conv1D`). A layer picks the rule per
adapter; saving, switching, mixed batches, disabling and merging are PEFT's. Checked by `tests/test_lora_peft.py`
(gradients, against a twin by hand), `tests/test_lora_peft_adapters.py` and `tests/test_lora_peft_refusals.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora.layer import Linear, LoraVariant
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import factor_of_rows, split_gradient
from allora_analysis.lora.functional import HOOKS, allora, allora_linear, allora_od, asf_lora, fusible, scaled_output
from allora_analysis.lora.watch import Watched, watch
from allora_analysis.validation import ArgumentError, count

# What a DTensor and DeepSpeed's ZeRO-3 have.
_SHARDED = ("device_mesh", "ds_id")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_weight(weight: Tensor, shape: tuple[int, ...], rank: int, where: str, quantised: bool = False) -> None:
    """A weight that makes a matrix of this shape can carry an adapter of this rank; `where` begins the message."""
    if any(hasattr(weight, mark) for mark in _SHARDED):
        raise ArgumentError(
            f"{where} has a sharded weight, which is not supported: call get_peft_model first, then shard whole "
            "transformer blocks, the adapters' A and B with them"
        )
    if not quantised and (type(weight) not in (nn.Parameter, torch.Tensor) or weight.dtype not in DTYPES):
        raise ArgumentError(
            f"{where} has a quantized weight ({weight.dtype}), which is not supported: load the model in float32, "
            "bfloat16 or float16, or in 4 or 8 bits by bitsandbytes"
        )
    count(f"{where}: r", rank)
    if not quantised and not is_finite(weight):
        raise ArgumentError(f"{where} has NaN or infinity in its weight: load the base model again")


def is_finite(tensor: torch.Tensor) -> bool:
    """Every entry is a finite number; in one pass and without a copy. A tensor without data (meta) passes."""
    if tensor.is_meta or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def refuse(target: nn.Module, *args: Any, **kwargs: Any) -> NoReturn:
    """For a target that has no layer of ours, on which PEFT would train plain LoRA in silence."""
    raise ArgumentError(
        f"target_modules: layer {kwargs.get('target_name', '')!r} is a {type(target).__name__}; ALLoRA is for linear, "
        "embedding and convolution layers that are called (nn.MultiheadAttention reads weights and calls none): leave "
        "it out of target_modules"
    )


_FUNCTIONS = {"allora": allora, "allora_0": allora, "allora_od": allora_od, "asf_lora": asf_lora}
LORA_X_ETA = "lora_x_eta"
_NOT_MERGEABLE = (
    "asf_lora cannot be merged or turned into LoRA: its output f·adaptor(|f|) is not linear in x, so no W + ΔW gives "
    "it; keep the adapter beside the base weight, or train with variant 'allora'"
)


@dataclass(frozen=True)
class Rule(LoraVariant):
    """The variant of one adapter in one layer. LoRA×η has none: it is LoRA at scaling η.

    Attributes:
        name: "allora", "allora_0", "allora_od" or "asf_lora".
        eta: η, the adaptor's value at 0.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
    """

    name: str
    eta: float
    adaptor: str

    @property
    def is_lora_forward(self) -> bool:
        """The output is LoRA's: s·BAx, for every variant but ASF-LoRA."""
        return self.name != "asf_lora"

    def supports_lora_conversion(self) -> bool:
        """Whether PEFT may turn the adapter into plain LoRA."""
        return self.is_lora_forward

    def init(self, module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing beside LoRA's own initialization: A as it draws it, B = 0."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Base output plus the adapter's, in PEFT's order: dropout, then A and B, then the scaling."""
        x = module.lora_dropout[active_adapter](x)
        if _wrapped(module, active_adapter):
            return result + self._called(module, active_adapter, x)
        a, b = _matrices(module, active_adapter)
        if a.is_meta and hasattr(module.lora_A[active_adapter], "_hf_hook"):
            trains = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
            output = self._offloaded(module, active_adapter, x, trains)
        else:
            output = self._output(x, a, b, module.scaling[active_adapter])
        bias = module.lora_B[active_adapter].bias  # `lora_bias`: it is no row of BA, and trains as in LoRA
        return result + output if bias is None else result + output + scaled(bias, module.scaling[active_adapter])

    def _output(self, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        # The rule at scaling s is the rule of (A, sB): d from ‖s(BA)_i‖. ASF-LoRA's output is scaled as a whole.
        if self.is_lora_forward:
            return _FUNCTIONS[self.name](x, a, scaled(b, scaling), self.eta, self.adaptor)
        return scaled(asf_lora(x, a, b, self.eta, self.adaptor), scaling)

    def _called(self, module: Any, name: str, x: Tensor) -> Tensor:
        # FSDP has A and B whole only while it calls their modules. Beside x, for ∂/∂x, they are called on it detached,
        # where d − 1 comes back: LoRA's gradient of A and B and (d − 1) times it are d times it.
        first, second, scaling = module.lora_A[name], module.lora_B[name], module.scaling[name]
        if second.bias is not None:
            raise ArgumentError(f"adapter {name!r}: lora_bias wanted False where FSDP wraps lora_A and lora_B")
        if not (torch.is_grad_enabled() and self.is_lora_forward):
            f = second(first(x))
            return scaled(f if self.is_lora_forward else scaled_output(f, self.eta, self.adaptor), scaling)
        with _weights_seen(first, second) as seen:
            through, own = scaled(second(first(torch.cat([x, x.detach()]))), scaling).chunk(2)
        with torch.no_grad():
            if self.name == "allora_od":
                d = ADAPTORS[self.adaptor](own.to(torch.promote_types(own.dtype, torch.float32)), self.eta)
            else:
                d = factor_of_rows(seen[0], scaled(seen[1], scaling), self.eta, self.adaptor)
        return split_gradient(through, own, d - 1)

    def _offloaded(self, module: Any, name: str, x: Tensor, trains: bool) -> Tensor:
        # accelerate's hooks bring A and B here for the time of a call of their modules alone: the output, no gradient.
        if trains:
            raise ArgumentError(
                f"adapter {name!r}: accelerate offloads its A and B, which therefore cannot be trained; call the model "
                "under torch.no_grad(), or train without offloading them"
            )
        f = module.lora_B[name](module.lora_A[name](x))
        return scaled(f if self.is_lora_forward else scaled_output(f, self.eta, self.adaptor), module.scaling[name])

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """W + sBA."""
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """W ← W + sBA, in place."""
        orig_weight.data += module.get_delta_weight(active_adapter)  # rounded once, as PEFT does

    def unmerge(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """W − sBA."""
        return orig_weight.data - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


class _Part(NamedTuple):
    """A factor as DoRA's layer of PEFT calls it: a weight, and what is done with an input."""

    weight: Tensor
    apply: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)


class DoRARule(Rule):
    """The rule on the direction's update: W' = m ∘ (W + sBA) / ‖W + sBA‖ by row, the magnitude m trained as in DoRA."""

    init = staticmethod(DoraLinearVariant.init)
    merge_safe = staticmethod(DoraLinearVariant.merge_safe)
    merge_unsafe = staticmethod(DoraLinearVariant.merge_unsafe)
    unmerge = staticmethod(DoraLinearVariant.unmerge)

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """PEFT's DoRA, with the rule's product in the place of LoRA's."""
        dropout, (a, b) = module.lora_dropout[active_adapter], _matrices(module, active_adapter)
        dropping = module.training and not isinstance(dropout, nn.Identity)
        product = _Part(b, lambda one: self._output(one, a, b, module.scaling[active_adapter]))
        return result + module.lora_magnitude_vector[active_adapter](
            dropout(x) if dropping else x,
            lora_A=_Part(a, lambda one: one),
            lora_B=product,
            scaling=1.0,
            base_layer=module.get_base_layer(),
            base_result=None if dropping else result,
            adapter_name=active_adapter,
        )


def scaled(tensor: Tensor, scaling: float) -> Tensor:
    """Times the LoRA scaling s, which mostly is 1."""
    return tensor if scaling == 1 else tensor * scaling


def _matrices(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """A and B as they are stored: they are read, and their modules never called."""
    parts = layer.lora_A[adapter], layer.lora_B[adapter]
    if any(getattr(part, hooks) for part in parts for hooks in HOOKS):
        raise ArgumentError(
            f"adapter {adapter!r}: hooks on lora_A or lora_B would not be called, because ALLoRA reads their weights; "
            "hook the layer that holds them"
        )
    a, b = (part.weight for part in parts)
    shapes = tuple(a.shape), tuple(b.shape)
    whole = a.ndim == b.ndim == 2 and shapes == ((b.shape[1], layer.in_features), (layer.out_features, a.shape[0]))
    sharded = any(type(one) not in (Tensor, nn.Parameter) and hasattr(one, "device_mesh") for one in (a, b))
    if sharded or not whole or any("_fsdp_wrapped_module" in part._modules for part in parts):
        received = "shards" if sharded else f"shapes {shapes[0]} and {shapes[1]}"
        raise ArgumentError(
            f"adapter {adapter!r}: A (r, {layer.in_features}) and B ({layer.out_features}, r) wanted, whole, "
            f"received {received}: FSDP must not wrap lora_A and lora_B on their own; wrap whole transformer blocks"
        )
    return a, b


def changes_base(config: Any) -> bool:
    """The initialization takes BA out of the base weight, so that the rows of BA do not start at 0."""
    return str(config.init_lora_weights).startswith(("pissa", "olora"))


@contextmanager
def _same_draw(config: Any, layer: Any) -> Iterator[None]:
    """A randomized SVD draws what it drew before: a resumed run builds its model, and the base weight, anew."""
    kind = getattr(getattr(layer, "weight", None), "device", torch.device("meta")).type
    if not str(config.init_lora_weights).startswith("pissa_niter") or kind not in ("cpu", "cuda"):
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if kind == "cuda" else ()):
        (torch.default_generator.manual_seed if kind == "cpu" else torch.cuda.manual_seed_all)(0)
        yield


def _wrapped(layer: Any, adapter: str) -> bool:
    """FSDP wraps or shards A and B on their own, as the Trainer has it do with PEFT's models."""
    parts = layer.lora_A[adapter], layer.lora_B[adapter]
    return any("_fsdp_wrapped_module" in part._modules or hasattr(part.weight, "device_mesh") for part in parts)


@contextmanager
def _weights_seen(*parts: Any) -> Iterator[list[Tensor]]:
    """The weights that the modules have when they are called meanwhile."""
    seen: list[Tensor] = []
    inner = [part._modules.get("_fsdp_wrapped_module", part) for part in parts]
    hooks = [part.register_forward_pre_hook(lambda one, _: seen.append(one.weight.detach().clone())) for part in inner]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def refuse_merge(names: list[str], adapter: str) -> None:
    """ASF-LoRA among the variants to merge."""
    if "asf_lora" in names:
        raise ArgumentError(f"adapter {adapter!r}: {_NOT_MERGEABLE}")


class ALLoRALayer(Watched):
    """What the layers of every kind share: one of PEFT's own layers comes after it among the bases."""

    kind: type[Rule] = Rule
    quantised = False

    @property
    def double_backward_is_hessian(self) -> bool:
        """False while an active adapter scales its gradients (`hessian.network_spectrum` then refuses the model)."""
        rules = (self.lora_variant.get(name) for name in self.active_adapters)
        return not any(isinstance(rule, Rule) and rule.is_lora_forward for rule in rules)

    def matrices(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A and B as matrices, views of what is trained."""
        return _matrices(self, adapter)

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        """The rule of an ALLoRA config, None for LoRA×η; PEFT's own answer for a plain LoraConfig."""
        if not hasattr(config, "rule"):
            return super().resolve_lora_variant(config=config, **kwargs)
        return config.rule and self.kind(config.rule.name, config.rule.eta, config.rule.adaptor)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **kwargs: Any) -> None:
        """A new adapter on this layer; nothing is touched if the layer cannot carry it."""
        if hasattr(config, "rule"):
            self.check(r, config, kwargs.get("target_name", ""))
        self.lora_variant.pop(adapter_name, None)
        with _same_draw(config, self.get_base_layer()):
            super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        watch(self)

    def check(self, rank: int, config: LoraConfig, name: str) -> None:
        """The layer can carry an adapter of this config; some are for linear layers alone."""
        layer, linear = self.get_base_layer(), self.kind is Rule
        place = f"layer {name!r}" if name else f"a layer {type(layer).__name__}"
        where = f"target_modules: {place}"
        shape = (layer.out_features, layer.in_features) if self.quantised else layer.weight.flatten(1).shape
        if getattr(layer, "_hf_tp_plan", None) is not None:
            raise ArgumentError(
                f"{where} has a sharded weight (tensor parallel), which is not supported: load it whole"
            )
        check_weight(layer.weight, shape, rank, where, self.quantised)
        asf = config.variant == "asf_lora"
        reasons = {
            # Its output is not BAx, which the base lacks.
            "would start from another function under ASF-LoRA": asf,
            "is quantized": self.quantised,
            "is not linear": not linear,
            "has adapters": len(self.r) > 0,
        }
        reason = next((words for words, holds in reasons.items() if holds), None)
        if changes_base(config) and reason:
            raise ArgumentError(
                f"init_lora_weights: {config.init_lora_weights!r} changes the base weight, and {place} {reason}; "
                "take init_lora_weights=True"
            )
        if config.use_dora and (self.quantised or not linear):  # on a CPU PEFT's DoRA misreads a 4-bit weight
            raise ArgumentError(f"use_dora: for dense linear layers alone; leave {place} out of target_modules")
        if asf and not linear:
            raise ArgumentError(f"variant 'asf_lora': for linear layers alone; leave {place} out of target_modules")

    def get_delta_weight(self, adapter: str, *args: Any, **kwargs: Any) -> Tensor:
        """s·BA."""
        self._refuse_asf([adapter])
        return super().get_delta_weight(adapter, *args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W ← W + Σ s·BA, unless one of the adapters is ASF-LoRA's or has NaN weights: then nothing is merged."""
        self.check_merge(adapter_names)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """The adapters can be merged."""
        names = [name for name in adapter_names or self.active_adapters if name in self.r]
        self._refuse_asf(names)
        for name in names:
            if not all(is_finite(part) for part in self.matrices(name)):
                raise ArgumentError(
                    f"adapter {name!r} has NaN or infinite weights and cannot be merged: load an earlier checkpoint"
                )

    def check_untied(self, homes: dict[int, list[str]], adapter_names: list[str] | None = None) -> None:
        """A merge of the adapters changes no other module's weight; `homes`: the modules that have each, by its id."""
        names = [name for name in adapter_names or self.active_adapters if name in self.r]
        weight = getattr(self.get_base_layer(), getattr(self, "parameter_name", "weight"), None)
        tied = homes.get(id(weight), [])
        if names and len(tied) > 1 and not self.quantised:  # which would be another tensor
            raise ArgumentError(
                f"adapter {names[0]!r}: its layer's weight is that of {' and '.join(map(repr, tied))}, so that a merge "
                "would change both, and the model's function; untie them first (tie_word_embeddings=False in the "
                "model's config, one weight an nn.Parameter of a clone), or leave the adapter unmerged"
            )

    def delete_adapter(self, adapter_name: str) -> None:
        """Without its rule, too."""
        super().delete_adapter(adapter_name)
        self.lora_variant.pop(adapter_name, None)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the adapter is W + ΔW."""
        rule = self.lora_variant.get(adapter_name)
        return rule is None or rule.supports_lora_conversion()

    def _refuse_asf(self, adapters: list[str]) -> None:
        for name in adapters:
            rule = self.lora_variant.get(name)
            refuse_merge([rule.name] if isinstance(rule, Rule) else [], name)

    def extra_repr(self) -> str:
        """Each adapter's rule, for `print(model)`."""
        rules = ((name, rule) for name, rule in self.lora_variant.items() if isinstance(rule, Rule))
        return ", ".join(f"{name}: {rule.name}, eta={rule.eta:g}, {rule.adaptor}" for name, rule in rules)


class ALLoRALinearLayer(ALLoRALayer, Linear):
    """x ↦ Wx + Σ over active adapters of s·BAx, the gradients by each adapter's rule in `lora_variant`.

    "Linear" is in its name because PEFT's `all-linear` finds adapted layers by that word in the name of their class.
    GPT-2's `Conv1D` is a linear layer too, whose weight is Wᵀ.
    """

    def __init__(self, base_layer: nn.Module, *args: Any, **kwargs: Any):
        inner = base_layer.get_base_layer() if isinstance(base_layer, BaseTunerLayer) else base_layer
        is_transposed = isinstance(inner, Conv1D)
        super().__init__(base_layer, *args, is_target_conv_1d_layer=is_transposed, **kwargs)

    def update_layer(self, *args: Any, **kwargs: Any) -> None:
        """A new adapter, whose initialization asks which way the weight lies."""
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        super().update_layer(*args, **kwargs)

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        """As of every kind; with `use_dora`, DoRA's forward under the same rule."""
        rule = super().resolve_lora_variant(config=config, **kwargs)
        return DoRARule(rule.name, rule.eta, rule.adaptor) if isinstance(rule, Rule) and config.use_dora else rule

    def check(self, rank: int, config: LoraConfig, name: str) -> None:
        """The layer can carry an adapter of this config."""
        layer = self.get_base_layer()
        if not isinstance(layer, nn.Linear | Conv1D) or isinstance(layer, NonDynamicallyQuantizableLinear):
            refuse(layer, target_name=name)
        super().check(rank, config, name)
        if isinstance(layer, Conv1D) and str(config.init_lora_weights).startswith("olora"):
            raise ArgumentError(
                f"init_lora_weights: PEFT's 'olora' takes a Conv1D's weight for its transpose, and layer {name!r} is "
                "one; take 'pissa' or True"
            )
        if changes_base(config):
            layer.weight.data = layer.weight.data.clone()  # PEFT may write into it; what failed is put back

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output plus the active adapters', in one function where that is the same; else PEFT's."""
        fused = None if args or kwargs else self._fused(x)
        if fused is None:
            return super().forward(x, *args, **kwargs)
        rule, weight, bias, a, b = fused
        return allora_linear(x, weight, bias, a, b, rule.eta, rule.adaptor, rule.name == "allora_od")

    def _fused(self, x: Tensor) -> tuple[Rule, Tensor, Tensor | None, Tensor, Tensor] | None:
        """The one active adapter, if base and adapter in one function give what PEFT's order gives."""
        name = self._active_adapter
        if not isinstance(name, str):
            name = name[0] if len(name) == 1 else None
        rule = self.lora_variant.get(name)
        if not isinstance(rule, Rule) or not rule.is_lora_forward or self._disable_adapters or self.merged_adapters:
            return None
        dropout, base = self.lora_dropout[name], self.base_layer
        if (dropout.training and type(dropout) is not nn.Identity) or not fusible(base):
            return None
        if self.lora_B[name].bias is not None or isinstance(rule, DoRARule) or _wrapped(self, name):
            return None
        weight, (a, b) = base.weight, _matrices(self, name)
        if not x.dtype == weight.dtype == a.dtype and not torch.is_autocast_enabled(x.device.type):
            return None
        return rule, weight, base.bias, a, scaled(b, self.scaling[name])


def layers_with(model: Any, adapter_name: str) -> list[ALLoRALayer]:
    """The layers that carry the adapter."""
    return [m for m in model.modules() if isinstance(m, ALLoRALayer) and adapter_name in m.r]


def is_foreign(module: Any) -> bool:
    """A LoRA layer of PEFT's own, which would train LoRA in silence whatever the config says."""
    return isinstance(module, LoraLayer) and not isinstance(module, ALLoRALayer)
