"""§4 in PEFT: `allora_config`, the config that `peft.get_peft_model` takes, and the tuner behind it, all or nothing.

PEFT replaces layers one by one and stops at the first that fails; here an adapter that cannot be made or merged leaves
the model as it was. Two exceptions, outside the tuner: a `task_type` that the model cannot do, at which
`get_peft_model` raises with the adapter in place, and `mixed=True`, which has a tuner of PEFT's own; build the model
again after an error there. `ALLoRAModel` and the config stand in LoRA's place in PEFT's registries; for plain LoRA
they do what PEFT's do. Checked by `tests/test_lora_peft_refusals.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import PeftType, hotswap
from torch import nn
from torch.nn.modules.conv import _ConvNd

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import VARIANTS
from allora_analysis.lora.functional import check_eta
from allora_analysis.lora.peft.layer import LORA_X_ETA, ALLoRALayer, Rule, is_foreign, refuse_merge
from allora_analysis.lora.peft.other_layers import new_layer
from allora_analysis.lora.peft.snapshot import Snapshot
from allora_analysis.validation import ArgumentError, choice, count, drop_rate, positive, shown

_INITS = (True, False, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16")
_ITERATED = re.compile(r"pissa_niter_\d+")  # by a randomized SVD: another device or version draws another one
# How an adapter whose start changed the base weight becomes LoRA's; PEFT leaves a head out of the converted file.
CONVERT = (
    "merge_and_unload() gives the whole model; for an adapter without modules_to_save PEFT converts it: save the model "
    "before its first step with init_lora_weights=True in its config, give that folder to save_pretrained as "
    "path_initial_model_for_weight_conversion, and export what load makes of the result"
)
# Each changes the forward pass or the gradients in a way that the rule has not been derived for.
# fmt: off
_LEFT_OUT = (
    "use_qalora", "fan_in_fan_out", "layer_replication", "megatron_config", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "arrow_config", "use_bdlora",
    "alora_invocation_tokens", "velora_config", "monteclora_config", "kasa_config",
)
# fmt: on
# Why, where it is not the forward pass.
_REASONS = {
    "fan_in_fan_out": "how a weight lies is read from the layer itself, a Conv1D's too",
    "layer_replication": "copies of a layer would share a base weight, which is not tried",
    "megatron_config": "Megatron's parallel layers are not tried",
    **dict.fromkeys(
        ("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        "it starts from data or another base weight; init_lora_weights has the starts that ALLoRA takes",
    ),
}
# What others call a field.
_MEANT = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "drop_rate": "lora_dropout",
    **dict.fromkeys(("eta_squared", "eta2"), "eta, its root: the paper's tables print η²"),
}
# LoRA×η is LoRA at scaling η, and ASF-LoRA's output at scaling s is no ASF-LoRA of (A, sB).
_OF_ONE_SCALING = (LORA_X_ETA, "asf_lora")
_BOTH_PATTERNS = "; or give rank_pattern and alpha_pattern the same keys, each alpha eta times its rank"
# ASF-LoRA's file must not be taken for LoRA's, neither by PEFT (peft_type, which is the text of its KeyError) nor by
# readers that look at r and lora_alpha alone. Older files say the first type.
_ASF_TYPES = ("ASF_LORA", "ASF_LORA, which is not LoRA: load it with allora_analysis.lora.peft.load")
_ASF_RANK = "asf_lora_r"
# A field of ALLoRA's files, because plain PEFT names the fields that it does not know and advises an upgrade.
_NOTE = "allora_analysis: plain PEFT rightly loads this as LoRA (the rule is for training), no upgrade is needed"


@dataclass
class ALLoRAConfig(LoraConfig):
    """A `LoraConfig` with a rule for the gradients.

    At LoRA scaling s (α/r; α/√r with `use_rslora`) the rule is that of the pair (A, sB): d_i = adaptor(‖s(BA)_i‖). Then
    SGD at rate l trains s·BA as it does BA at s = 1, rate s·l, from (√s A, √s B); so s is no knob of its own beside A's
    initialization and the rate (`tests/test_lora_peft.py::test_scaling_is_a_rate_and_a_start`).

    Attributes:
        eta: η, the adaptor's value at 0; the paper's η² is 4 in Listing 1.
        variant: "allora"; "allora_0", without dropout; "allora_od", the factor per token; "asf_lora", the factor on
            the output; "lora_x_eta", LoRA at scaling η.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
        lora_alpha: α > 0; r by default, also where r is set later (with `dataclasses.replace` say None again): s = 1,
            or √r with `use_rslora`; where `rank_pattern` gives a layer another rank r_i, r/r_i, or r/√r_i. For LoRA×η
            it is η·r and for ASF-LoRA r: no other, nor `use_rslora`, `rank_pattern` or `alpha_pattern`, but for
            LoRA×η's with α_i/r_i = η, key by key (PEFT's own for experts).
    """

    lora_alpha: float | None = field(default=None)
    eta: float = field(kw_only=True)
    # PEFT's own layers raise on the truthy field of a variant that they do not know (from 0.20).
    variant: str = field(default="allora", metadata={"is_lora_variant": True})
    adaptor: str = "inverse_sqrt"
    _filled = False  # α was left out, so that it follows r; no field

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()
        super()._register_custom_module({nn.Module: new_layer})

    def _register_custom_module(self, mapping: dict[type[nn.Module], type[nn.Module]]) -> None:
        """PEFT's way to bring one's own layers, which would bring them without the rule."""
        own = [layer for layer in mapping.values() if not issubclass(layer, ALLoRALayer)]
        if own:
            raise ArgumentError(
                f"_register_custom_module: a subclass of ALLoRALinearLayer wanted, received {own[0].__name__}, which "
                "knows no rule of ALLoRA's; leave it out, or train it with peft.LoraConfig and ALLoRAAdamW"
            )
        self._custom_modules = {**mapping, **self._custom_modules, **mapping}  # the first that fits is taken

    def check(self) -> None:
        """The fields make sense together; `lora_alpha` is filled in. Called again when an adapter is made."""
        self.eta = check_eta(self.eta)
        choice("variant", self.variant, VARIANTS)
        choice("adaptor", self.adaptor, ADAPTORS)
        self.r = count("r", self.r)
        self._check_scaling()
        self._check_drop_rate()
        init = self.init_lora_weights
        iterated = isinstance(init, str) and _ITERATED.fullmatch(init)
        if not iterated and not any(init is one or init == one for one in _INITS):
            raise ArgumentError(f"init_lora_weights must be one of {', '.join(map(str, _INITS))}, received {init!r}")
        if self.use_dora and (self.variant in _OF_ONE_SCALING or self.lora_bias):
            other = "lora_bias" if self.lora_bias else f"variant {self.variant!r}"
            raise ArgumentError(f"use_dora must be left out with {other}, received True")
        if getattr(self, "ensure_weight_tying", False):
            raise ArgumentError(
                "ensure_weight_tying must be left out, received True: the head's rows are the embedding's columns, so "
                "that one pair would have two factors; untie them first (tie_word_embeddings=False, the head a clone), "
                "or adapt one of the two and do not merge it: a merge would change both"
            )
        variants = [f.name for f in dataclasses.fields(self) if f.metadata.get("is_lora_variant")]
        for name in {*_LEFT_OUT, *variants} - {"variant", "use_dora"}:
            if getattr(self, name, None):
                raise ArgumentError(
                    f"{name} must be left out with ALLoRA's variants, received {shown(getattr(self, name))}: "
                    + _REASONS.get(name, "they have a forward pass of their own")
                )

    def __setattr__(self, name: str, value: Any) -> None:
        """An α that is said, whatever it is, stays."""
        if name == "lora_alpha":
            super().__setattr__("_filled", False)
        super().__setattr__(name, value)

    def _check_scaling(self) -> None:
        alpha = self.eta * self.r if self.variant == LORA_X_ETA else self.r
        filled = self.lora_alpha is None or self._filled
        if filled:
            self.lora_alpha = alpha
        self._check_alpha(alpha)
        self._filled = filled

    def _check_alpha(self, alpha: float) -> None:
        if self.variant not in _OF_ONE_SCALING:
            self.lora_alpha = positive("lora_alpha", self.lora_alpha)
            if not isinstance(self.alpha_pattern or {}, dict):
                raise ArgumentError(
                    f"alpha_pattern must give layers their alphas, received {shown(self.alpha_pattern)}"
                )
            for key, value in (self.alpha_pattern or {}).items():
                positive(f"alpha_pattern[{key!r}]", value)
            return
        if self.lora_alpha != alpha:
            wanted = "eta * r" if self.variant == LORA_X_ETA else "r (asf_lora is no multiple of itself at scaling 1)"
            raise ArgumentError(f"lora_alpha must be left out or {wanted} = {alpha}, received {self.lora_alpha!r}")
        self.lora_alpha = alpha
        patterns = () if self._keeps_eta() else ("rank_pattern", "alpha_pattern")
        for name in ("use_rslora", *patterns):
            if getattr(self, name):
                raise ArgumentError(
                    f"{name} must be left out with {self.variant}, received {getattr(self, name)!r}"
                    + (_BOTH_PATTERNS if self.variant == LORA_X_ETA and name != "use_rslora" else "")
                )

    def _keeps_eta(self) -> bool:
        # The scaling of every layer is η: PEFT takes the first key that fits, so both have the same in one order.
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        if self.variant != LORA_X_ETA or not (isinstance(ranks, dict) and isinstance(alphas, dict)):
            return False
        for name, pattern in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            for key, value in pattern.items():
                positive(f"{name}[{key!r}]", value)
        return [*ranks] == [*alphas] and all(math.isclose(alphas[key], self.eta * ranks[key]) for key in ranks)

    def _check_drop_rate(self) -> None:
        rate = drop_rate("lora_dropout", self.lora_dropout)
        if self.variant == "allora_0" and self.lora_dropout:
            raise ArgumentError(
                f"lora_dropout must be 0 with variant 'allora_0', received {self.lora_dropout!r}; 'allora' takes one"
            )
        self.lora_dropout = rate  # JSON holds no other number

    @property
    def rule(self) -> Rule | None:
        """What a layer does beside LoRA; None for LoRA×η."""
        return None if self.variant == LORA_X_ETA else Rule(self.variant, self.eta, self.adaptor)

    def to_dict(self) -> dict[str, Any]:
        """The fields of `adapter_config.json`: LoRA's and the rule; no r for ASF-LoRA, which is another function."""
        fields = super().to_dict()
        if self.variant != "asf_lora":
            return fields | {_NOTE: True}
        del fields["lora_alpha"]
        return fields | {"peft_type": _ASF_TYPES[-1], _ASF_RANK: fields.pop("r")}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ALLoRAConfig:
        """The config that `to_dict` wrote. Fields that this version of PEFT does not know are dropped if falsy."""
        if _ITERATED.fullmatch(str(init := fields.get("init_lora_weights"))):
            raise ArgumentError(
                f"init_lora_weights {init!r} draws its start and the base weight anew, by device or version: "
                "the file may be another function; take 'pissa', which is exact, or in the run's own process: "
                f"{CONVERT}"
            )
        fields = {name: value for name, value in fields.items() if name not in ("peft_type", _NOTE)}
        if _ASF_RANK in fields:
            fields["r"] = fields.pop(_ASF_RANK)
        known = {f.name for f in dataclasses.fields(cls) if f.init}
        unknown = sorted(name for name in set(fields) - known if fields[name])
        if unknown:
            raise ArgumentError(f"unknown to this version of PEFT: {', '.join(unknown)}; upgrade it")
        if "eta" not in fields:
            raise ArgumentError("eta is missing")
        return cls(**{name: value for name, value in fields.items() if name in known})


def allora_config(eta: float, variant: str = "allora", adaptor: str = "inverse_sqrt", **fields: Any) -> ALLoRAConfig:
    """A config for `peft.get_peft_model` and `add_adapter` (§4.1; Listing 1).

    Everything else is PEFT's: `r`, `target_modules`, `lora_dropout` (which masks A's input), `modules_to_save`, `bias`,
    `task_type`, … `lora_alpha` is r where it is left out, so that the scaling is 1 (η for LoRA×η) but for what
    `use_rslora` and `rank_pattern` make of it.

    Args:
        eta: η > 0, the factor of a row of zeros: the paper's 1/√(‖(BA)_i‖ + 1/η²) is η at the start.
        variant: see `ALLoRAConfig`.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
        **fields: of `peft.LoraConfig`.

    Raises:
        ArgumentError: a value out of range, a field that `LoraConfig` does not have, or one that ALLoRA has no
            meaning for.
    """
    known = {f.name for f in dataclasses.fields(LoraConfig) if f.init} - {"peft_type"}
    for name in fields:
        if name not in known:
            perhaps = _MEANT.get(name) or next(iter(difflib.get_close_matches(name, known, 1)), "")
            perhaps = perhaps and f"; perhaps {perhaps}"
            raise ArgumentError(f"{name}: no field of peft.LoraConfig; received {fields[name]!r}{perhaps}")
    return ALLoRAConfig(eta=eta, variant=variant, adaptor=adaptor, **fields)


class _ByContent(type(LoraConfig)):
    """Makes an `ALLoRAConfig` of the fields that have a rule, and PEFT's own config of others."""

    def __call__(cls, **fields: Any) -> LoraConfig:
        return ALLoRAConfig.from_dict(fields) if {"eta", "variant"} <= set(fields) else LoraConfig(**fields)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, LoraConfig)


class _SavedConfig(LoraConfig, metaclass=_ByContent):
    """What PEFT reads adapters of type LORA as, so that its own `from_pretrained` and `load_adapter` keep the rule."""


class ALLoRAModel(LoraModel):
    """`LoraModel`, which checks ALLoRA's configs and puts the model back if an adapter fails."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """An adapter on every target, or none."""
        config = self.peft_config[adapter_name]
        if not isinstance(config, ALLoRAConfig):
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            return
        config.check()
        before, names, targets = Snapshot(model), list(self.targeted_module_names), config.target_modules
        all_linear, stacks = isinstance(targets, str) and targets.lower() == "all-linear", config.target_parameters
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException as error:
            before.restore()
            self.targeted_module_names = names
            self.peft_config.pop(adapter_name, None)
            of_stack = "ParamWrapper" in str(error) or "target_parameters" in str(error)
            if all_linear and not stacks and config.target_parameters and isinstance(error, ValueError) and of_stack:
                raise ArgumentError(f"{str(error).rstrip('.')}; {_experts_taken_in(config)}") from error
            raise
        if all_linear:
            _warn_of_experts(model)

    def _create_and_replace(self, lora_config, adapter_name, target, *args, **kwargs) -> None:
        if isinstance(lora_config, ALLoRAConfig) and is_foreign(target):
            raise ArgumentError(
                f"adapter {adapter_name!r}: the model's layers are plain PEFT's ({type(target).__name__}) and would "
                "train LoRA in silence; make the model with allora_config from the start, or unload() it first"
            )
        super()._create_and_replace(lora_config, adapter_name, target, *args, **kwargs)

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Every layer can merge these adapters, and none has its weight in common with another module."""
        homes: dict[int, list[str]] = {}
        for name, module in self.model.named_modules():
            for part in module.parameters(recurse=False):
                homes.setdefault(id(part), []).append(name.replace(".base_layer", ""))
        for module in self.model.modules():
            if isinstance(module, ALLoRALayer):
                module.check_merge(adapter_names)
                module.check_untied(homes, adapter_names)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """PEFT's, in all layers or in none."""
        self.check_merge(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """PEFT's, in all layers or in none."""
        self.check_merge(adapter_names)
        return super().merge_and_unload(progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names)

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """PEFT's, from adapters that are matrices, or none. The new one has the rule of the first, and scaling 1."""
        _check_weighted({name: self.peft_config.get(name) for name in adapters}, adapter_name, self.peft_config)
        is_new = adapter_name not in self.peft_config
        try:
            super().add_weighted_adapter(adapters, weights, adapter_name, *args, **kwargs)
        except BaseException as error:
            if is_new and adapter_name in self.peft_config:
                self.delete_adapter(adapter_name)
            if isinstance(error, RuntimeError) and "equal size" in str(error):
                raise ArgumentError(
                    f"add_weighted_adapter: {' and '.join(map(repr, adapters))} have other ranks in a layer, and this "
                    "combination_type adds up A and B as they are; take 'cat' or 'svd'"
                ) from error
            raise
        rules = {name: _rule_in_words(self.peft_config[name]) for name in adapters}
        if unlike := [name for name in adapters if rules[name] != rules[adapters[0]]]:
            warnings.warn(
                f"add_weighted_adapter: the new adapter is trained by the rule of {adapters[0]!r}, "
                f"{rules[adapters[0]]}, not by that of {unlike[0]!r}, {rules[unlike[0]]}; name first the one whose "
                "rule it is to have",
                stacklevel=2,
            )


def _check_weighted(adapters: dict[str, Any], name: str, known: dict[str, Any]) -> None:
    """These adapters are s·BA alone, the first at a scaling that a new adapter of this name can have."""
    for one, config in adapters.items():
        refuse_merge([getattr(config, "variant", "")], one)
    first, config = next(iter(adapters.items()), ("", None))
    if getattr(config, "variant", "") == LORA_X_ETA:
        raise ArgumentError(
            f"adapter {first!r}: add_weighted_adapter gives the new adapter the first one's rule and scaling 1, but "
            "lora_x_eta's is eta; name an adapter of another variant first, or combine them in plain PEFT (export_lora)"
        )
    if getattr(config, "use_rslora", False):
        raise ArgumentError(
            f"adapter {first!r}: add_weighted_adapter would scale the new adapter by rsLoRA's factor again; name an "
            "adapter without use_rslora first"
        )
    if not any(isinstance(config, ALLoRAConfig) for config in adapters.values()):
        return
    if name in known:
        raise ArgumentError(
            f"adapter_name: the model has an adapter {name!r}; choose another name, or delete_adapter({name!r}) first"
        )
    for one, config in adapters.items():
        if beside := [field for field in ("use_dora", "lora_bias") if getattr(config, field, False)]:
            raise ArgumentError(
                f"adapter {one!r}: add_weighted_adapter combines A and B alone, without what {beside[0]} trains beside "
                "them; use the adapters at once (model.base_model.set_adapter([…])), or merge one after the other"
            )


def _rule_in_words(config: LoraConfig) -> str:
    """What trains an adapter."""
    ours = isinstance(config, ALLoRAConfig)
    return f"{config.variant} with eta {config.eta:g} and {config.adaptor}" if ours else "plain LoRA"


def _experts_taken_in(config: LoraConfig) -> str:
    """Why there is a `ParamWrapper` under `all-linear`, and the way out; of a config that PEFT has filled in."""
    names = ", ".join(sorted(config.target_parameters or ()))
    return f"PEFT's all-linear takes in this mixture's {names}: name target_modules without them"


def _warn_of_experts(model: nn.Module) -> None:
    """Counts in a warning the stacked weights (of a mixture of experts) that `all-linear` has not adapted."""
    adapters = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    adapted = {id(adapter.get_param()) for adapter in adapters}
    modules = [module for module in model.modules() if not isinstance(module, _ConvNd)]
    weights = [part for module in modules for part in module.parameters(recurse=False)]
    count = sum(part.ndim == 3 and id(part) not in adapted for part in weights)
    if count:
        warnings.warn(
            f"all-linear leaves out {count} stacked weight{'s' if count > 1 else ''} (experts in one 3-D parameter), "
            "which stay frozen; name them in target_parameters to adapt them too",
            stacklevel=2,
        )


PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = ALLoRAModel
PEFT_TYPE_TO_CONFIG_MAPPING |= dict.fromkeys((PeftType.LORA, *_ASF_TYPES), _SavedConfig)
# What must be equal for `peft.utils.hotswap` to put another adapter's weights into this one's place.
hotswap.CONFIG_KEYS_TO_CHECK[PeftType.LORA] += ["variant", "eta", "adaptor"]
