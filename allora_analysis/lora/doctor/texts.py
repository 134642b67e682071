"""The doctor's sentences that are of one kind of layer: what was found, and the way out.

Checked case by case by `tests/test_lora_doctor_advice.py`.
"""

from __future__ import annotations

ALLORA_ADAMW = (
    "plain LoRA layers (peft.LoraConfig) with allora_analysis.lora.optim.ALLoRAAdamW(param_groups(model), lr, eta)"
)

# effect → (level, text); {layers} and {variants} say which, {optimizer} and {response} what the optimizer does.
# "clipped" has none: the line on clipping says it, with numbers.
TEXTS = {
    "undone": (
        "problem",
        "{optimizer} divides a gradient by its own size ({response}), so {layers} train as LoRA: the first step is "
        "LoRA's at the same rate, later ones drift from it slowly; use torch.optim.SGD, or " + ALLORA_ADAMW,
    ),
    "partly undone": (
        "problem",
        "{optimizer} undoes a part of the factor ({response}) in {layers}; use torch.optim.SGD, or " + ALLORA_ADAMW,
    ),
    "twice": (
        "problem",
        "ALLoRAAdamW puts its factor on the update of {layers}, which scale their gradients already: Adam undoes that "
        "at the first step, but remembers earlier factors in its moments, so a part acts a second time; use "
        + ALLORA_ADAMW,
    ),
    "off": (
        "problem",
        "{layers} are plain LoRA and {optimizer} knows no factor; use peft.get_peft_model with allora_config(eta=…) "
        "and SGD, or " + ALLORA_ADAMW,
    ),
    "no pair": (
        "problem",
        "ALLoRAAdamW does not hold A and B of {layers} together as a pair, so the factor on their update is none or "
        "another layer's; build the groups with param_groups(model)",
    ),
    "not BA": (
        "problem",
        "what {layers} add to the weight is not s·BA (PEFT's {variants}), so ALLoRA has no row norms there; adapt "
        "nn.Linear layers by allora_config or plain LoRA (no target_parameters)",
    ),
    "not in the optimizer": (
        "problem",
        "{optimizer} does not hold A and B of {layers}, which will not move; build the optimizer after the adapters",
    ),
    "half in the optimizer": (
        "problem",
        "{optimizer} holds only one of A and B of {layers}, and the other will not move; build the optimizer from all "
        "trainable parameters, or freeze what is to stay (requires_grad_(False))",
    ),
    "backward is LoRA's": (
        "problem",
        "{layers} state a factor that their backward pass does not apply (measured): something replaced the layer's "
        "forward; call the layer's own, or use " + ALLORA_ADAMW,
    ),
    "merged": ("problem", "{layers} are merged into the base weight and get no gradient; call unmerge_adapter()"),
    "disabled": ("problem", "{layers} are disabled and get no gradient; call enable_adapter_layers()"),
    "unknown": (
        "note",
        "what becomes of the factor in {layers} depends on the optimizer; call doctor(model, optimizer)",
    ),
    "on the gradient": ("ok", "{optimizer} hands the factor of {layers} on to the step as it is ({response})"),
    "on the update": ("ok", "ALLoRAAdamW puts the factor on the update of {layers}; clipping does not touch it"),
    "in the forward": ("ok", "the rule of {layers} is in the forward pass, where no optimizer undoes it"),
}

LAYER_TEXTS = {
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
        "problem",
        "{layers} have a LoRA scaling other than 1, which multiplies the step beside d; set lora_alpha = r",
    ),
    "unmeasured": (
        "note",
        "the backward pass of {layers} could not be tried on the layer alone: it is taken to be what the layer states",
    ),
    "not finite": ("problem", "BA of {layers} is not finite; go back to an earlier checkpoint"),
    "gradient not finite": (
        "problem",
        "the gradient of {layers} is not finite, and a step would ruin the weights; leave this step out (a GradScaler "
        "does), and look at the loss, the data and the learning rate",
    ),
    "dropout": ("note", "{layers} have dropout on the adapter; lora_dropout=0 is the paper's ALLoRA-0"),
    "quantised": ("note", "the base weight of {layers} is quantised: d is of BA alone and does not see it"),
}

NO_GRADIENTS = (
    "no gradient yet: call doctor after loss.backward() and before the step; with a GradScaler, after "
    "scaler.unscale_(optimizer)"
)
