"""The LoRA pairs (A, B) of a model, wherever they come from: PEFT's LoRA layers, or modules with matrices `a` and `b`.

Found by their attributes, so that nothing needs PEFT: a PEFT layer has `lora_A`, `lora_B` and `scaling` by adapter, and
`lora_variant[adapter]` if the adapter is not plain LoRA. Checked by `tests/test_lora_pairs.py` and
`tests/test_lora_doctor.py`.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from allora_analysis.validation import ArgumentError

RECIPE = "ALLoRAAdamW(param_groups(model), lr, eta)"
# Plain LoRA forwards and gradients; LoRA×η is LoRA at scaling η.
PLAIN = ("lora", "lora_x_eta")
# MiCA trains A alone, from minor singular vectors in B.
_MICA = ("MiCALinearVariant", "MiCAEmbeddingVariant")
# Whose ΔW is s·BA, activated LoRA's from a token on, DoRA's up to a magnitude for each row.
_DORA = ("DoraLinearVariant", "DoraEmbeddingVariant", "DoraConv1dVariant", "DoraConv2dVariant", "DoraConv3dVariant")
_PRODUCTS = (*PLAIN, "allora", "allora_0", "allora_od", "asf_lora", "ALoraLinearVariant", *_DORA, *_MICA)
# What PEFT's layers have whose own ΔW is no BA: one with a diagonal (AdaLoRA).
_OTHERS = ("lora_E",)
_BASES = ("base_layer.", "base.")  # where PEFT and the toolkit keep the layer that is adapted
_TOKENS = "trainable_tokens_delta"  # PEFT's name
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_QUANTISED_WORDS = ("4bit", "8bit", "quant", "gptq", "awq", "hqq", "eetq", "aqlm")


@dataclass(frozen=True)
class Pair:
    """One adapter of one layer: x ↦ W*x + s·B(Ax), before a variant changes it.

    Attributes:
        name: the layer's path in the model.
        adapter: PEFT's name of the adapter, or None for a module with `a` and `b`.
        module: the layer.
        a: A, (r, n₂); a convolution's has its kernel's axes, a stack of experts' has r rows for each.
        b: B, (n₁, r); likewise, with r columns for each expert.
        scaling: s.
        variant: "lora", one of ALLoRA's family, or the class name of another of PEFT's variants or layers.
        eta: the variant's η, or None.
        adaptor: the variant's adaptor, or None.
        drop_rate: of the adapter's dropout.
        active: the adapter is one of those that the layer uses.
        merged: the adapter is in the base weight, and trains no more.
        disabled: the layer leaves its adapters out.
        quantised: the base weight is kept in few bits.
        experts: how many products B_eA_e the two hold.
    """

    name: str
    adapter: str | None
    module: nn.Module
    a: Tensor
    b: Tensor
    scaling: float
    variant: str = "lora"
    eta: float | None = None
    adaptor: str | None = None
    drop_rate: float = 0.0
    active: bool = True
    merged: bool = False
    disabled: bool = False
    quantised: bool = False
    experts: int = 1

    @property
    def label(self) -> str:
        """The layer's path, with the adapter's name if it has one."""
        return f"{self.name} ({self.adapter})" if self.adapter else self.name

    @property
    def trainable(self) -> bool:
        """A or B is trained."""
        return self.a.requires_grad or self.b.requires_grad

    @property
    def factor_is_one(self) -> bool:
        """The rule's factor is 1 whatever A and B are: LoRA, as asked."""
        return self.eta == 1 and self.adaptor == "constant"

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """A (experts, r, n₂) and B (experts, n₁, r), views; the first axis is 1 but for experts."""
        return as_matrices(self.a, self.b, self.experts)

    @property
    def is_product(self) -> bool:
        """The adapter's ΔW is s·BA, so that the norms of its rows are those of a product of A and B."""
        return self.variant in _PRODUCTS and chained(self.a, self.b) and not self.flattened

    @property
    def flattened(self) -> bool:
        """The adapter's ΔW is s·BA, and FSDP1 has flattened A or B, or freed it: no matrices are there."""
        return self.variant in _PRODUCTS and (_is_flat(self.a) or _is_flat(self.b))


def chained(a: Any, b: Any) -> bool:
    """Whether BA exists: shapes (r, n₂) and (n₁, r), or (r, channels, kernel …) and (n₁, r, 1 …)."""
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
    return tensors and a.ndim == b.ndim >= 2 and a.shape[0] == b.shape[1] == b.shape[1:].numel()


def as_matrices(a: Tensor, b: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Views of A and B as the factors of each product B_eA_e.

    Args:
        a: A, or what has its shape.
        b: B, likewise.
        experts: how many there are; PEFT keeps expert e's ranks as rows er, er + 1, … of A and as every `experts`-th
            column of B from e on.

    Returns:
        (experts, r, n₂) and (experts, n₁, r).
    """
    return stacked(a, 0, experts), stacked(b, 1, experts)


def stacked(part: Tensor, k: int, experts: int) -> Tensor:
    """A (k = 0) or B (k = 1) of `as_matrices`, unchecked."""
    if experts == 1:
        return part.flatten(1)[None]
    return part.unflatten(1, (-1, experts)).permute(2, 0, 1) if k else part.unflatten(0, (experts, -1))


def lora_pairs(model: nn.Module) -> tuple[Pair, ...]:
    """Every adapter of every layer, active or not, trainable or not, in the order of `named_modules`."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model must be a torch.nn.Module, received {type(model).__name__}: the model is the first argument, "
            "itself and not its state_dict or its name"
        )
    found: list[Pair] = []
    for name, module in model.named_modules():
        if _has(module, "lora_A", "lora_B", "scaling") and isinstance(module.scaling, dict):
            found += _peft_pairs(name, module)
        elif _has(module, "a", "b") and chained(module.a, module.b):
            found.append(_bare_pair(name, module))
    return tuple(found)


def _has(module: nn.Module, *names: str) -> bool:
    # Of its own: wrappers (a compiled module, PeftModel) hand on the attributes of the module inside.
    own = {*vars(module), *module._parameters, *module._buffers, *module._modules}
    return all(name in own or hasattr(type(module), name) for name in names)


def _peft_pairs(name: str, layer: Any) -> Iterator[Pair]:
    plain = type(layer).__name__ if any(hasattr(layer, mark) for mark in _OTHERS) else "lora"
    parts = {key: (layer.lora_A[key], layer.lora_B[key]) for key in layer.lora_A}
    weights = {key: tuple(map(_weight, both)) for key, both in parts.items()}
    embedding = getattr(layer, "lora_embedding_A", {})
    weights |= {key: (embedding[key], layer.lora_embedding_B[key]) for key in embedding}
    for adapter, (a, b) in weights.items():
        rule = getattr(layer, "lora_variant", {}).get(adapter)
        rate = getattr(layer.lora_dropout[adapter], "p", 0.0) if adapter in layer.lora_dropout else 0.0
        in_few_bits = getattr(layer, "quantization_backend", None) is not None
        yield Pair(
            name=name,
            adapter=adapter,
            module=layer,
            a=a,
            b=b,
            scaling=float(layer.scaling[adapter]),
            variant=plain if rule is None else getattr(rule, "name", type(rule).__name__),
            eta=getattr(rule, "eta", None),
            adaptor=getattr(rule, "adaptor", None),
            drop_rate=float(rate),
            active=adapter in layer.active_adapters,
            merged=adapter in layer.merged_adapters,
            disabled=bool(layer.disable_adapters),
            quantised=in_few_bits or _quantised(layer.get_base_layer()),
            experts=getattr(layer, "num_experts", 1),
        )


def _weight(part: Any) -> Tensor:
    # Where FSDP1 wraps A on its own without use_orig_params, its weight is a view of the parameter that is trained.
    inner = getattr(part, "_modules", {}).get("_fsdp_wrapped_module", part)
    flat = getattr(inner, "_parameters", {}).get("_flat_param")
    return getattr(part, "weight", part) if flat is None else flat


def _bare_pair(name: str, module: Any) -> Pair:
    variant = getattr(module, "variant", "lora")
    rule = variant not in PLAIN and hasattr(module, "eta")  # another's "variant" may mean something else
    # A plain layer's own eta is LoRA's α/r (`LowRankLinear`); a rule's is not in the forward pass.
    scaling = getattr(module, "scaling", 1.0 if rule else getattr(module, "eta", 1.0))
    return Pair(
        name=name,
        adapter=None,
        module=module,
        a=module.a,
        b=module.b,
        scaling=float(scaling),
        variant=variant if rule or variant in PLAIN else "lora",
        eta=float(module.eta) if rule else None,
        adaptor=getattr(module, "adaptor", None) if rule else None,
        drop_rate=float(getattr(module, "drop_rate", 0.0)),
        quantised=_quantised(getattr(module, "base", None)),
    )


def _quantised(base: Any) -> bool:
    weight = getattr(base, "weight", None)
    integers = isinstance(weight, Tensor) and not weight.is_floating_point()
    return integers or any(word in type(base).__name__.lower() for word in _QUANTISED_WORDS)


def param_groups(
    model: nn.Module, lr: float | None = None, head_lr: float | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups for `ALLoRAAdamW`: each LoRA pair of a model, and the rest of what is trainable.

    Each pair (per layer and adapter; of PEFT's LoRA layers, or of modules with matrices `a` and `b`) is a group with
    its LoRA scaling; what else the adapted layers train (PEFT's lora_bias, DoRA's magnitude) is a plain group at the
    pairs' rate, and so are their own biases (PEFT's bias="lora_only"; under its bias="all" all others too that are not
    modules_to_save's) and the rows of PEFT's trainable_token_indices, which do not decay: they are pretrained; all the
    rest (a classifier head, modules_to_save) is a plain group at a rate of its own: LoRA at learning rate η·l would
    train the head at η·l too, ALLoRA does not. Every trainable parameter is in exactly one group. A pair of which one
    matrix is frozen keeps both: the norms need them.

    Args:
        model: a model with LoRA adapters whose forward is plain LoRA's.
        lr: the pairs' learning rate; None leaves it to the optimizer's.
        head_lr: the rest's; None leaves it to the optimizer's.
        weight_decay: of all groups but the pretrained biases and rows; None leaves it to the optimizer's.

    Returns:
        The groups, pairs first.

    Raises:
        ArgumentError: no trainable LoRA pair, a layer of ALLoRA's own family (train those with SGD), an adapter that is
            no pair of matrices (a convolution's in groups) or whose ΔW is not s·BA (KaSA's, AdaLoRA's), or a matrix
            shared by several pairs.
    """
    rates = {"lr": lr, "weight_decay": weight_decay}
    pairs = [pair for pair in lora_pairs(model) if pair.trainable]
    if not pairs:
        raise ArgumentError("model: no trainable LoRA pair found; add adapters first, for example peft.get_peft_model")
    taken: set[Tensor] = set()
    groups = []
    for pair in pairs:
        _check_pair(pair, taken)
        taken |= {pair.a, pair.b}
        said = {"pair": True, "scaling": pair.scaling, "experts": pair.experts}
        groups.append(_group([pair.a, pair.b], pair.label, rates) | said)
    inside = {parameter for pair in pairs for parameter in _adapter_parameters(pair.module)}
    biases = {parameter for pair in pairs for parameter in _base_biases(pair.module)} - inside
    named = model.named_parameters()
    rest = {name: parameter for name, parameter in named if parameter.requires_grad and parameter not in taken}
    if _trains_all_biases(model):
        biases |= {one for name, one in rest.items() if "bias" in name and "modules_to_save" not in name} - inside
    tokens = {one for name, one in rest.items() if _TOKENS in name}
    kinds = {"adapters": inside, "biases": biases, "tokens": tokens}
    homes = {name: next((kind for kind in kinds if one in kinds[kind]), "head") for name, one in rest.items()}
    pretrained = rates | {"weight_decay": 0.0}
    settings = {"adapters": rates, "biases": pretrained, "tokens": pretrained, "head": rates | {"lr": head_lr}}
    for title, own in settings.items():
        if names := [name for name, home in homes.items() if home == title]:
            groups.append(_group([rest[name] for name in names], title, own) | {"pair": False, "names": names})
    return groups


def in_order_of(saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A state's groups, and the parameters of each, in the order of an optimizer's own: both are of `param_groups`.

    A model whose adapters were added in another order has its pairs in another. What has no name stays in its place,
    as do groups of another number, which torch refuses; where a group's name is another a warning says so.
    """
    places = {bare(group.get("name")): group for group in saved}
    if None in places or not len(places) == len(saved) == len(own) or any(group.get("name") is None for group in own):
        return saved
    if unlike := [name for group in own if (name := bare(group["name"])) not in places]:
        warnings.warn(
            f"ALLoRAAdamW: the saved state has no {unlike[0]!r} but {next(iter(places))!r}, …: moments are taken in "
            "the order of the groups; load it under the adapters' names that it was saved with",
            stacklevel=4,
        )
        return saved
    return [_named_alike(places[bare(group["name"])], group) for group in own]


def _named_alike(saved: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = ([bare(name) for name in group.get("names", ())] for group in (own, saved))
    if not ours or sorted(ours) != sorted(theirs):
        return saved
    keys = dict(zip(theirs, saved["params"], strict=True))
    return saved | {"params": [keys[name] for name in ours]}


def bare(name: str | None) -> str | None:
    """A name without what DDP, a compiled module and FSDP put into it."""
    return name and ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _group(params: list[Tensor], name: str, rates: dict[str, float | None]) -> dict[str, Any]:
    return {"params": params, "name": name} | {key: value for key, value in rates.items() if value is not None}


def _adapter_parameters(module: nn.Module) -> list[Tensor]:
    """What a layer holds beside its pair and its base."""
    return [one for name, one in module.named_parameters() if not name.startswith(_BASES) and name not in ("a", "b")]


def _base_biases(module: nn.Module) -> list[Tensor]:
    return [one for name, one in module.named_parameters() if name.startswith(_BASES) and name.endswith("bias")]


def _trains_all_biases(model: nn.Module) -> bool:
    configs = (getattr(module, "peft_config", None) for module in model.modules())
    stated = (one for config in configs if isinstance(config, dict) for one in config.values())
    return any(getattr(one, "bias", None) == "all" for one in stated)


def _is_flat(tensor: Tensor) -> bool:
    # FSDP1 frees what its views are of; a DTensor's storage is that of its local part.
    if tensor.ndim < 2:
        return True
    own = not (tensor.is_meta or hasattr(tensor, "device_mesh"))
    return own and tensor.numel() > 0 and tensor.untyped_storage().size() == 0


def _check_pair(pair: Pair, taken: set[Tensor]) -> None:
    if pair.eta is not None and pair.variant not in PLAIN:
        raise ArgumentError(
            f"model: {pair.label} trains {pair.variant!r}, whose own rule ALLoRAAdamW would come on top of; "
            "give it plain LoRA layers (peft.LoraConfig), or train these with SGD"
        )
    if _is_flat(pair.a) or _is_flat(pair.b):
        raise ArgumentError(
            f"model: {pair.label} has no matrices A and B of its own, FSDP1 flattens them; use FSDP2 (fully_shard) or "
            "DDP"
        )
    if not chained(pair.a, pair.b):
        raise ArgumentError(
            f"model: {pair.label} has no pair of matrices but {tuple(pair.a.shape)} and {tuple(pair.b.shape)}; leave "
            "it out of target_modules"
        )
    if not pair.is_product:
        raise ArgumentError(
            f"model: {pair.label} is PEFT's {pair.variant}, whose change of the weight is not s·BA, nor are its row "
            "norms BA's; adapt it by plain LoRA or DoRA"
        )
    places = {part.data_ptr() for part in taken if part.numel()}  # PEFT ties by two parameters in one place
    if taken & {pair.a, pair.b} or places & {pair.a.data_ptr(), pair.b.data_ptr()} - {0}:
        raise ArgumentError(f"model: {pair.label} shares a matrix with another pair; untie them (ensure_weight_tying)")


def is_pair(tensors: list[Any], said: Any) -> bool:
    """Whether a group's parameters are A and B: as it says itself, or by their shapes where it does not."""
    if said not in (None, True, False):
        raise ArgumentError(f"pair must be True or False, received {said!r}")
    if said and not (len(tensors) == 2 and chained(*tensors)):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ArgumentError(f"params: a pair is A (r, n2), then B (n1, r); received shapes {shapes}")
    if said is None:
        said = len(tensors) == 2 and looks_like_a_pair(*tensors)
    if not said:
        return False
    for what in ("device", "dtype"):
        a, b = (getattr(tensor, what) for tensor in tensors)
        if a != b:
            raise ArgumentError(f"params: A and B of one {what} wanted, received {a} and {b}")
    return True


def looks_like_a_pair(a: Any, b: Any) -> bool:
    """Two matrices whose shapes chain, of a rank that no side is below."""
    return chained(a, b) and a.ndim == 2 and a.shape[0] <= min(b.shape[0], a.shape[1])


def tensors_of(params: Any) -> list[Any]:
    """A group's parameters without their names."""
    if isinstance(params, Tensor):
        return [params]
    for parameter in params:
        if isinstance(parameter, tuple) and not isinstance(parameter[0], str):
            raise ArgumentError(
                "params: parameters or groups wanted, received a tuple of tensors; give each pair as "
                '{"params": [A, B], "pair": True, "scaling": s}, or call ' + RECIPE
            )
    return [parameter[1] if isinstance(parameter, tuple) else parameter for parameter in params]
