"""§4, beyond the paper: what `ALLoRAAdamW` finds in its groups, a saved state or a step, and says of it.

Checked by `tests/test_lora_optim_groups.py` and `tests/test_lora_optim_state.py`.
"""

import warnings
from typing import Any

from allora_analysis.lora.pairs import is_pair, looks_like_a_pair, tensors_of
from allora_analysis.lora.watch import warn_of_run
from allora_analysis.validation import ArgumentError

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def warn_of_left_out(groups: list[dict[str, Any]], way_out: str) -> None:
    """Counts in a warning the pairs in larger groups that do not say `"pair"`, which get plain AdamW."""
    count = 0
    for tensors in (tensors_of(group["params"]) for group in groups):
        place = 0 if not is_pair(tensors, None) else len(tensors)
        while place < len(tensors) - 1:
            found = looks_like_a_pair(*tensors[place : place + 2])
            count, place = count + found, place + 1 + found
    if count:
        warnings.warn(
            f"ALLoRAAdamW: {count} pair{'s' if count > 1 else ''} (A, B) in groups of more than two parameters get "
            f'plain AdamW; {way_out}, or say "pair": False in the group',
            stacklevel=3,
        )


def warn_of_no_gradients(is_first: bool) -> None:
    """Says in a warning that a step, the first or a later one, moves nothing."""
    why = "are they another model's, or of before it was made anew?"
    if not is_first:
        why = "was another adapter switched on (set_adapter) after the groups were made?"
    warn_of_run(
        f"ALLoRAAdamW: no parameter of its groups has a gradient, so this step trains nothing; {why} Build them from "
        "what is trained: param_groups(model)"
    )


def warn_of_another_rule(saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> None:
    """Says in a warning that a pair trains on by the saved η, adaptor or scaling, not by this optimizer's."""
    for name in ("eta", "adaptor", "scaling"):
        pairs = [(theirs, ours) for theirs, ours in zip(saved, own, strict=True) if ours["pair"]]
        differ = [(theirs[name], ours[name]) for theirs, ours in pairs if theirs[name] != ours[name]]
        if differ:
            theirs, ours = differ[0]
            warnings.warn(
                f"ALLoRAAdamW: {len(differ)} of {len(pairs)} pairs go on with the saved {name} {theirs!r}, not with "
                f'{ours!r}; to train on with that, set group["{name}"] in optimizer.param_groups after loading (in a '
                "Trainer: a callback's on_train_begin)",
                stacklevel=3,
            )


def check_ours(saved: list[dict[str, Any]], own: list[dict[str, Any]], state: dict[Any, Any]) -> None:
    """A saved state is an Adam's over as many parameters in as many groups: torch would say less, or fail at a step."""
    moments = all({"exp_avg", "exp_avg_sq"} <= set(one) for one in state.values() if one)
    sizes, ours = ([len(group["params"]) for group in groups] for groups in (saved, own))
    if sizes == ours and moments and all("betas" in group for group in saved):
        return
    kinds = {"pair": "ALLoRAAdamW", "betas": "AdamW or another Adam", "momentum": "SGD"}
    whose = next((kind for key, kind in kinds.items() if saved and key in saved[0]), "another optimizer")
    raise ArgumentError(
        f"state_dict: of {whose}, {_counted(sizes)}, where this ALLoRAAdamW has {_counted(ours)}; to go on with its "
        "moments build the groups as they were saved, else load the adapter alone and start with fresh moments (in a "
        "Trainer: take optimizer.pt out of the checkpoint)"
    )


def _counted(sizes: list[int]) -> str:
    groups = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
    return f"{groups} of {sum(sizes)} parameters"


def check_same(theirs: dict[str, Any], ours: dict[str, Any], state: dict[Any, Any]) -> None:
    """A saved group fits this one: torch would load moments of another shape and fail at the next step."""
    if bool(theirs.get("pair", ours["pair"])) != ours["pair"]:
        words = {True: "a pair", False: "no pair"}
        raise ArgumentError(
            f"state_dict: a group is {words[not ours['pair']]} there and {words[ours['pair']]} here; "
            "build the groups in the same way and order"
        )
    for key, parameter in zip(theirs["params"], ours["params"], strict=True):
        for moment in MOMENTS:
            saved = state.get(key, {}).get(moment)
            if saved is not None and saved.shape != parameter.shape:
                raise ArgumentError(
                    f"state_dict: {moment} of shape {tuple(saved.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}; build the groups in the same way and order"
                )
