"""Parameter groups of `optim.ALLoRAAdamW`: what a group may say, and the groups of a model.

Checked by `tests/test_lora_param_groups.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.pairs import PLAIN, Pair, chained, lora_pairs
from allora_analysis.validation import ArgumentError, choice, non_negative, number, positive

MOMENTS = ("exp_avg", "exp_avg_sq")


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's options, checked and as plain numbers; what else is in the dictionary stays.

    Args:
        options: lr, eta, betas, eps, weight_decay, adaptor, foreach and others.

    Returns:
        A new dictionary.

    Raises:
        ArgumentError: a value out of range.
    """
    betas, foreach = options["betas"], options["foreach"]
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ArgumentError(f"betas must be two numbers in [0, 1), received {betas!r}")
    betas = tuple(number("betas", beta, "two numbers in [0, 1)") for beta in betas)
    if not all(0 <= beta < 1 for beta in betas):
        raise ArgumentError(f"betas must be two numbers in [0, 1), received {betas!r}")
    if foreach not in (None, True, False):
        raise ArgumentError(f"foreach must be True, False or None, received {foreach!r}")
    return options | {
        "lr": non_negative("lr", options["lr"]),
        "eta": positive("eta", options["eta"]),
        "betas": betas,
        "eps": non_negative("eps", options["eps"]),
        "weight_decay": non_negative("weight_decay", options["weight_decay"]),
        "adaptor": choice("adaptor", options["adaptor"], ADAPTORS),
    }


def checked_group(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group, checked, with `pair` and `scaling` filled in.

    Args:
        group: `params` and all options.

    Returns:
        A new dictionary.

    Raises:
        ArgumentError: a value out of range, a pair of wrong shapes, complex or integer parameters.
    """
    params = group["params"]
    if isinstance(params, Iterable) and not isinstance(params, Tensor | set):
        params = list(params)
    tensors = [params] if isinstance(params, Tensor) else [p[1] if isinstance(p, tuple) else p for p in params]
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not tensor.is_floating_point():
            raise ArgumentError(f"params: real floating-point parameters wanted, received {tensor.dtype}")
    scaling = number("scaling", group.get("scaling", 1.0))
    return checked_options(group) | {"params": params, "pair": _is_pair(tensors, group.get("pair")), "scaling": scaling}


def _is_pair(tensors: list[Any], said: Any) -> bool:
    if said not in (None, True, False):
        raise ArgumentError(f"pair must be True or False, received {said!r}")
    chains = len(tensors) == 2 and chained(*tensors)
    if said and not chains:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ArgumentError(f"params: a pair is A (r, n2), then B (n1, r); received shapes {shapes}")
    if said is None and chains:
        (rank, n2), (n1, _) = tensors[0].shape, tensors[1].shape
        said = rank <= min(n1, n2)
    if not said:
        return False
    for what in ("device", "dtype"):
        a, b = (getattr(tensor, what) for tensor in tensors)
        if a != b:
            raise ArgumentError(f"params: A and B of one {what} wanted, received {a} and {b}")
    return True


def check_same(theirs: dict[str, Any], ours: dict[str, Any], state: dict[Any, Any]) -> None:
    """Whether a saved group fits this one: torch would load moments of another shape and fail at the next step.

    Args:
        theirs: the saved group, parameters by number.
        ours: this optimizer's.
        state: the saved state, by those numbers.

    Raises:
        ArgumentError: it does not.
    """
    if bool(theirs.get("pair", ours["pair"])) != ours["pair"]:
        words = {True: "a pair", False: "no pair"}
        raise ArgumentError(
            f"state_dict: a group is {words[not ours['pair']]} there and {words[ours['pair']]} here; "
            "build the groups in the same way and order"
        )
    for rule in ("maximize", "amsgrad"):
        if theirs.get(rule):
            raise ArgumentError(f"state_dict: its optimizer has {rule}=True, which ALLoRAAdamW has not")
    for key, parameter in zip(theirs["params"], ours["params"], strict=True):
        for moment in MOMENTS:
            saved = state.get(key, {}).get(moment)
            if saved is not None and saved.shape != parameter.shape:
                raise ArgumentError(
                    f"state_dict: {moment} of shape {tuple(saved.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}; build the groups in the same way and order"
                )


def param_groups(
    model: nn.Module, lr: float | None = None, head_lr: float | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups for `ALLoRAAdamW`: each LoRA pair of a model, and the rest of what is trainable.

    Each pair (per layer and adapter; of PEFT's LoRA layers, or of modules with matrices `a` and `b`) is a group with
    its LoRA scaling; what else the adapted layers train (PEFT's lora_bias, DoRA's magnitude) is a plain group at the
    pairs' rate; all the rest (a classifier head, modules_to_save) is a plain group at a rate of its own: LoRA at
    learning rate η·l would train the head at η·l too, ALLoRA does not. Every trainable parameter is in exactly one
    group. A pair of which one matrix is frozen keeps both: the norms need them.

    Args:
        model: a model with LoRA adapters whose forward is plain LoRA's.
        lr: the pairs' learning rate; None leaves it to the optimizer's.
        head_lr: the rest's; None leaves it to the optimizer's.
        weight_decay: of all groups; None leaves it to the optimizer's.

    Returns:
        The groups, pairs first.

    Raises:
        ArgumentError: no trainable LoRA pair, a layer of ALLoRA's own family (train those with SGD), an adapter that is
            no pair of matrices (a convolution's) or whose ΔW is not s·BA (a stack of experts', KaSA's), or a matrix
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
        groups.append(_group([pair.a, pair.b], pair.label, rates) | {"pair": True, "scaling": pair.scaling})
    inside = {parameter for pair in pairs for parameter in _adapter_parameters(pair.module)}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in taken]
    plain = [
        _group([parameter for parameter in rest if parameter in inside], "adapters", rates),
        _group([parameter for parameter in rest if parameter not in inside], "head", rates | {"lr": head_lr}),
    ]
    return groups + [group | {"pair": False} for group in plain if group["params"]]


def _group(params: list[Tensor], name: str, rates: dict[str, float | None]) -> dict[str, Any]:
    return {"params": params, "name": name} | {key: value for key, value in rates.items() if value is not None}


def _adapter_parameters(module: nn.Module) -> list[Tensor]:
    """What a layer holds beside its pair and its base: PEFT keeps that in `base_layer`, the toolkit in `base`.

    Args:
        module: the layer.

    Returns:
        The parameters.
    """
    return [
        parameter
        for name, parameter in module.named_parameters()
        if not name.startswith(("base_layer.", "base.")) and name not in ("a", "b")
    ]


def _check_pair(pair: Pair, taken: set[Tensor]) -> None:
    if pair.eta is not None and pair.variant not in PLAIN:
        raise ArgumentError(
            f"model: {pair.label} trains {pair.variant!r}, whose own rule ALLoRAAdamW would come on top of; "
            "give it plain LoRA layers (peft.LoraConfig), or train these with SGD"
        )
    if not chained(pair.a, pair.b):
        raise ArgumentError(
            f"model: {pair.label} has no pair of matrices but {tuple(pair.a.shape)} and {tuple(pair.b.shape)}; leave "
            "it out of target_modules"
        )
    if not pair.is_product:
        raise ArgumentError(
            f"model: {pair.label} is PEFT's {pair.variant}, whose change of the weight is not s·BA, nor are its row "
            "norms BA's; adapt nn.Linear layers by plain LoRA or DoRA (no target_parameters)"
        )
    if taken & {pair.a, pair.b}:
        raise ArgumentError(f"model: {pair.label} shares a matrix with another pair; untie them (ensure_weight_tying)")
