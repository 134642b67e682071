"""`allora_config`: the config that `peft.get_peft_model` takes to train with ALLoRA or one of its family (§4).

Checked by `tests/test_lora_peft_refusals.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from torch import nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.peft.layer import ALLoRALayer
from allora_analysis.lora.peft.rule import LORA_X_ETA, VARIANTS, Rule
from allora_analysis.lora.peft.targets import refuse
from allora_analysis.validation import ArgumentError, choice, count, number, positive

INITS = (True, False, "gaussian", "orthogonal")
# Each would change the scaling, the forward pass or the base weight, or put the adapter on what is no nn.Linear.
# fmt: off
LEFT_OUT = (
    "use_rslora", "use_dora", "use_qalora", "lora_bias",
    "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication",
    "target_parameters", "megatron_config", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "arrow_config", "use_bdlora",
    "alora_invocation_tokens", "velora_config", "monteclora_config", "kasa_config",
    "ensure_weight_tying",
)
# fmt: on
# Its file must not be taken for LoRA's, neither by PEFT (peft_type) nor by readers that look at r and lora_alpha alone.
ASF_TYPE, ASF_RANK = "ASF_LORA", "asf_lora_r"


@dataclass
class ALLoRAConfig(LoraConfig):
    """A `LoraConfig` with a rule for the gradients; scaling is 1, or η for LoRA×η.

    Attributes:
        eta: η, the adaptor's value at 0; the paper's η² is 4 in Listing 1.
        variant: "allora"; "allora_0", without dropout; "allora_od", the factor per token; "asf_lora", the factor on
            the output; "lora_x_eta", LoRA at scaling η.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
        lora_alpha: r (η·r for LoRA×η), whatever r is; another value is refused.
    """

    lora_alpha: float | None = field(default=None)
    eta: float = field(kw_only=True)
    # PEFT's own layers raise on the truthy field of a variant that they do not know (from 0.20).
    variant: str = field(default="allora", metadata={"is_lora_variant": True})
    adaptor: str = "inverse_sqrt"

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()
        self._register_custom_module({nn.Linear: ALLoRALayer, nn.Module: refuse})

    def check(self) -> None:
        """The fields make sense together; `lora_alpha` is filled in. Called again when an adapter is made.

        Raises:
            ArgumentError: a field that cannot be, or that ALLoRA has no meaning for.
        """
        self.eta = positive("eta", self.eta)
        choice("variant", self.variant, VARIANTS)
        choice("adaptor", self.adaptor, ADAPTORS)
        self.r = count("r", self.r)
        alpha = self.eta * self.r if self.variant == LORA_X_ETA else self.r
        if self.lora_alpha not in (None, alpha):
            wanted = "eta * r" if self.variant == LORA_X_ETA else "r (scaling 1; the step size is eta's)"
            raise ArgumentError(f"lora_alpha must be left out or {wanted} = {alpha}, received {self.lora_alpha!r}")
        self.lora_alpha = alpha
        self._check_dropout()
        if not any(self.init_lora_weights is init or self.init_lora_weights == init for init in INITS):
            raise ArgumentError(
                f"init_lora_weights must be one of {', '.join(map(str, INITS))}, received {self.init_lora_weights!r}"
            )
        others = [f.name for f in dataclasses.fields(self) if f.metadata.get("is_lora_variant") and f.name != "variant"]
        for name in {*LEFT_OUT, *others}:
            if getattr(self, name, None):
                raise ArgumentError(f"{name} must be left out with ALLoRA's variants, received {getattr(self, name)!r}")

    def _check_dropout(self) -> None:
        if not 0 <= number("lora_dropout", self.lora_dropout) < 1:
            raise ArgumentError(f"lora_dropout must be a drop rate in [0, 1), received {self.lora_dropout!r}")
        if self.variant == "allora_0" and self.lora_dropout:
            raise ArgumentError(
                f"lora_dropout must be 0 with variant 'allora_0', received {self.lora_dropout!r}; 'allora' takes one"
            )

    @property
    def rule(self) -> Rule | None:
        """What a layer does beside LoRA; None for LoRA×η."""
        return None if self.variant == LORA_X_ETA else Rule(self.variant, self.eta, self.adaptor)

    def to_dict(self) -> dict[str, Any]:
        """What `adapter_config.json` holds: LoRA's fields and the rule.

        ASF-LoRA's is of a type of its own, and has no r: plain PEFT raises on it, where it would load another function.

        Returns:
            A dictionary for JSON.
        """
        fields = super().to_dict()
        if self.variant == "asf_lora":
            fields |= {"peft_type": ASF_TYPE, ASF_RANK: fields.pop("r")}
            del fields["lora_alpha"]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ALLoRAConfig:
        """The config that `to_dict` wrote. Fields that this version of PEFT does not know are dropped if falsy.

        Args:
            fields: the JSON's.

        Returns:
            The config.

        Raises:
            ArgumentError: an unknown field with a value, or what `check` refuses.
        """
        fields = {name: value for name, value in fields.items() if name != "peft_type"}
        if ASF_RANK in fields:
            fields["r"] = fields.pop(ASF_RANK)
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
    `task_type`, … `lora_alpha` is set, so that the scaling is 1 (η for LoRA×η).

    Args:
        eta: η > 0, the factor of a row of zeros: the paper's 1/√(‖(BA)_i‖ + 1/η²) is η at the start.
        variant: see `ALLoRAConfig`.
        adaptor: a key of `allora_analysis.adaptors.ADAPTORS`.
        **fields: of `peft.LoraConfig`.

    Returns:
        The config.

    Raises:
        ArgumentError: a value out of range, a field that `LoraConfig` does not have, or one that ALLoRA has no
            meaning for.
    """
    known = {f.name for f in dataclasses.fields(LoraConfig) if f.init} - {"peft_type"}
    for name in fields:
        if name not in known:
            raise ArgumentError(f"{name}: no field of peft.LoraConfig; received {fields[name]!r}")
    return ALLoRAConfig(eta=eta, variant=variant, adaptor=adaptor, **fields)
