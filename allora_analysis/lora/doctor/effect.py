"""What can become of ALLoRA's factor when a layer's A and B move: one word, what it means for the verdict, what to say.

Then what to say of what else is found in layers.

Checked case by case by `tests/test_lora_doctor_advice.py`.
"""

from __future__ import annotations

from enum import StrEnum

SGD = "torch.optim.SGD without clipping (max_grad_norm=0) at a rate of its own, usually far above Adam's, or "
_LAYERS = "plain LoRA layers (peft.LoraConfig) with"
ALLORA_ADAMW = f"{_LAYERS} allora_analysis.lora.optim.ALLoRAAdamW(param_groups(model), lr, eta)"


class Effect(StrEnum):
    """A word, equal to its string.

    Attributes:
        verdict: what a layer with this effect says of the model: "on", "partly", "off", "plain" or "unknown"; "idle"
            says nothing, because the adapter is not trained.
        level: of the advice, "problem", "note" or "ok".
        text: of the advice, or ""; {layers} and {variants} say which, {optimizer} and {response} what the optimizer
            does.
    """

    verdict: str
    level: str
    text: str

    UNDONE = (
        "undone",
        "off",
        "problem",
        "{optimizer} divides a gradient by its own size ({response}), so {layers} train as LoRA: the first step is "
        "LoRA's at the same rate, later ones drift from it slowly; use " + SGD + ALLORA_ADAMW,
    )
    PARTLY_UNDONE = (
        "partly undone",
        "partly",
        "problem",
        "{optimizer} undoes a part of the factor ({response}) in {layers}; use " + SGD + ALLORA_ADAMW,
    )
    TWICE = (
        "twice",
        "on",
        "problem",
        "ALLoRAAdamW puts its factor on the update of {layers}, which scale their gradients already: Adam undoes that "
        "at the first step, but remembers earlier factors in its moments, so a part acts a second time; use "
        + ALLORA_ADAMW,
    )
    OFF = (
        "off",
        "off",
        "problem",
        "{layers} are plain LoRA and {optimizer} knows no factor; use peft.get_peft_model with allora_config(eta=…) "
        "and " + SGD + ALLORA_ADAMW,
    )
    OF_OWN_ROWS = (
        "factor of p",
        "off",
        "problem",
        "{optimizer} multiplies the step of {layers} by {factor}, not of BA: no ALLoRA; with B = 0 at the start all "
        "rows of B have the same, a learning rate under another name; use " + ALLORA_ADAMW,
    )
    NO_PAIR = (
        "no pair",
        "off",
        "problem",
        "ALLoRAAdamW does not hold A and B of {layers} together as a pair, so the factor on their update is none or "
        "another layer's; build the groups with param_groups(model)",
    )
    NOT_BA = (
        "not BA",
        "off",
        "problem",
        "what {layers} add to the weight is not s·BA ({variants}), so ALLoRA has no row norms there; adapt "
        "nn.Linear layers by allora_config or plain LoRA (no target_parameters)",
    )
    NOT_HELD = (
        "not in the optimizer",
        "off",
        "problem",
        "{optimizer} does not hold A and B of {layers}, which will not move; build the optimizer after the adapters",
    )
    HALF_HELD = (
        "half in the optimizer",
        "partly",
        "problem",
        "{optimizer} holds only one of A and B of {layers}, and the other will not move; build the optimizer from all "
        "trainable parameters, or freeze what is to stay (requires_grad_(False))",
    )
    LORAS_BACKWARD = (
        "backward is LoRA's",
        "off",
        "problem",
        "{layers} state a factor that their backward pass does not apply (measured): something replaced the layer's "
        "forward; call the layer's own, or use " + ALLORA_ADAMW,
    )
    MERGED = (
        "merged",
        "idle",
        "problem",
        "{layers} are merged into the base weight and get no gradient; call unmerge_adapter()",
    )
    DISABLED = (
        "disabled",
        "idle",
        "problem",
        "{layers} are disabled and get no gradient; call enable_adapter_layers()",
    )
    NO_GRADIENT = (
        "no gradient",
        "idle",
        "note",
        "no gradient reached {layers}, though others have one: never called, detached, or no token was routed there",
    )
    UNKNOWN = (
        "unknown",
        "unknown",
        "note",
        "what becomes of the factor in {layers} depends on the optimizer; call doctor(model, optimizer)",
    )
    UNTRIED = (
        "optimizer not known",
        "unknown",
        "problem",
        "{optimizer} could not be tried alone, so what becomes of the factor in {layers} is not known; compare a step "
        "with LoRA's, or use " + SGD + ALLORA_ADAMW,
    )
    ON_GRADIENT = (
        "on the gradient",
        "on",
        "ok",
        "{optimizer} hands the factor of {layers} on to the step as it is ({response})",
    )
    ON_UPDATE = (
        "on the update",
        "on",
        "ok",
        "ALLoRAAdamW puts the factor on the update of {layers}; clipping does not touch it",
    )
    SHARDED = (
        "sharded",
        "unknown",
        "note",
        "FSDP1 has flattened A and B of {layers}: norms, backward pass and clipping are not measured there, "
        "{optimizer} is ({response}); call doctor before the model is wrapped",
    )
    ONE = (
        "factor 1",
        "plain",
        "ok",
        "the factor of {layers} is 1 at every row, as asked (adaptor 'constant', η = 1): plain LoRA",
    )
    IN_FORWARD = (
        "in the forward",
        "on",
        "ok",
        "the rule of {layers} is in the forward pass, where no optimizer undoes it",
    )
    CLIPPED_BEFORE = (
        "clipped before",
        "unknown",
        "problem",
        "the gradient's norm is max_grad_norm already, so that what clipping left of the factor of {layers} cannot be "
        "told; call doctor before clip_grad_norm_",
    )
    ANOTHERS_BACKWARD = ("another backward", "unknown", "problem", "")  # the line on the backward pass says it
    CLIPPED = ("clipped", "on", "problem", "")  # the line on clipping says it, with numbers
    INACTIVE = ("inactive", "idle", "ok", "")
    FROZEN = ("frozen", "idle", "ok", "")

    def __new__(cls, word: str, verdict: str, level: str, text: str) -> Effect:
        """A string with attributes."""
        one = str.__new__(cls, word)
        one._value_, one.verdict, one.level, one.text = word, verdict, level, text
        return one

    @property
    def idle(self) -> bool:
        """The adapter is not trained."""
        return self.verdict == "idle"

    @property
    def acts(self) -> bool:
        """The factor reaches the step, whole and once."""
        return self.verdict == "on" and self.level == "ok"


# Where nobody meant ALLoRA to be on.
NOT_MEANT = {
    Effect.OFF: ("ok", "{layers} train without a factor of ALLoRA's"),
    Effect.NOT_BA: (
        "note",
        "what {layers} add to the weight is not s·BA ({variants}), so no row norms or rates are told",
    ),
    Effect.UNKNOWN: ("note", "no optimizer: rates are not known"),
}

# What else is found in layers: level and text.
OF_LAYERS = {
    "registration lost": (
        "problem",
        "the config states a variant of ALLoRA, but {layers} are plain LoRA; make the adapter with get_peft_model and "
        "allora_config, or load it with allora_analysis.lora.peft.load",
    ),
    "backward": (
        "problem",
        "the gradient of B in {layers} is neither LoRA's nor what the layer states (measured); look for hooks or a "
        "replaced forward",
    ),
    "scaling": (
        "note",
        "{layers} have a LoRA scaling s other than 1: d is of ‖s(BA)_i‖, and SGD at rate l trains s·BA as it would at "
        "s = 1, rate s·l, from √s times A and B",
    ),
    "unmeasured": (
        "note",
        "the backward pass of {layers} could not be tried on the layer alone: it is taken to be what the layer states",
    ),
    "hooks": (
        "note",
        "A or B of {layers} have a hook that runs after the backward pass (register_post_accumulate_grad_hook): what "
        "it makes of the gradient is not measured",
    ),
    "not finite": ("problem", "BA of {layers} is not finite; go back to an earlier checkpoint"),
    "gradient not finite": (
        "problem",
        "the gradient of {layers} is not finite, and a step would ruin the weights; leave this step out (a GradScaler "
        "does), and look at the loss, the data and the learning rate",
    ),
    "constant factor": (
        "note",
        "the factor of {layers} is η at every row (adaptor 'constant'): LoRA at η times the rate, weight decay aside",
    ),
    "dropout not applied": (
        "problem",
        "{layers} state a dropout, and two passes in training are the same (measured): it is never applied; look where "
        "the forward pass uses it",
    ),
    "dropout": ("note", "{layers} have dropout on the adapter{allora_0}"),
    "quantised": ("note", "the base weight of {layers} is quantized: d is of BA alone and does not see it"),
}
