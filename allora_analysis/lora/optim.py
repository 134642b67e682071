"""§4, beyond the paper: `ALLoRAAdamW`, AdamW with the row factor on its *update*, where Adam cannot undo it.

ALLoRA scales the gradients of A and B by d. Adam divides a gradient by its own size, so that under Adam the first step
is LoRA's up to O(ε/|dg|) and what follows drifts away slowly (`tests/test_lora_doctor.py` measures it). Here the factor
comes after Adam: with u_A, u_B AdamW's own updates m̂/(√v̂ + ε), s the LoRA scaling and l the learning rate,

    B ← (1 − lλ)B − l·diag(d) u_B,   A ← (1 − lλ)A − l·mean(d) u_A,   d_i = h(‖s(BA)_i‖, η),

h the adaptor (1/√(x + 1/η²) by default), d from the parameters before the step. d > 0, so every entry of the update
keeps the sign of AdamW's own; with β₁ = 0 and λ = 0 that sign is −sign(gradient), and each step is a descent direction
of the batch loss. With momentum nothing beyond the sign is promised. The decay is AdamW's: it does not see d.

The moments are torch's own: −l·u is what `torch.optim.adamw.adamw` (its loop, foreach or fused kernel) makes of zeros,
a stack of pairs of one shape at a time; with `cpp_kernel=True` what `row_kernel.cpp` makes of them. Checked by
`tests/test_lora_optim.py` (against a NumPy twin and torch's AdamW), `tests/test_lora_optim_groups.py`,
`tests/test_lora_optim_state.py` and `tests/test_lora_row_kernel.py`; timed by `benchmarks/optimizer.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora import kernels
from allora_analysis.lora.autograd import norms_of_pairs, without_autocast
from allora_analysis.lora.functional import check_eta
from allora_analysis.lora.kernels import Hyper, Tensors, adamw_on, but, hyper_of, move_one_by_one, move_together
from allora_analysis.lora.optim_checks import (
    MOMENTS,
    check_ours,
    check_same,
    warn_of_another_rule,
    warn_of_left_out,
    warn_of_no_gradients,
)
from allora_analysis.lora.pairs import (
    RECIPE,
    as_matrices,
    in_order_of,
    is_pair,
    param_groups,
    stacked,
    tensors_of,
)
from allora_analysis.validation import ArgumentError, choice, count, non_negative, number

__all__ = ["ALLoRAAdamW", "param_groups"]

_CACHED = 2**14  # factors at a time


class _Member(NamedTuple):
    """A pair in a step; `trained` says which of A (0) and B (1) have a gradient."""

    a: Tensor
    b: Tensor
    scaling: float
    experts: int
    trained: tuple[int, ...]


class ALLoRAAdamW(Optimizer):
    """AdamW with the update of each pair's B multiplied by diag(d) and of its A by mean(d) (the module's docstring).

    Meant for plain LoRA forwards (PEFT's `LoraConfig`, `LowRankLinear`, `ALLoRALinear` as plain LoRA); `param_groups`
    builds the groups of a model. A group is a pair if it says `"pair": True`, with params [A (r×n₂), B (n₁×r)] in this
    order and `"scaling"` the LoRA scaling s (1 if absent). A group that does not say is one if it holds exactly two
    matrices whose shapes chain, (r, n₂) then (n₁, r), with r ≤ min(n₁, n₂): so a matrix and its bias are none, and of
    two square matrices, where the shapes do not tell, the first is taken as A; say `"pair"` where that is not meant.
    All other groups get AdamW, bit for bit torch's. A group may set its own lr, eta, betas, eps, weight_decay, adaptor.

    `state_dict` holds tensors and plain numbers alone, under AdamW's names: torch.optim.AdamW's loads too.

    Args:
        params: parameters or groups of them.
        lr: l, 0 or above; a tensor stays one, so that `torch.compile(optimizer.step)` does not compile anew when a
            schedule changes it.
        eta: η, the factor at BA = 0, above 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, 0 or above.
        weight_decay: λ, 0 or above, applied as lλ, without d.
        adaptor: "inverse_sqrt", "inverse", "exponential" or "constant"; with "constant" and η = 1 this is AdamW.
        foreach: updates many tensors in one call, as in torch.
        fused: uses torch's fused kernel. The default takes it for pairs on a CPU; None elsewhere is torch's default.
        amsgrad: as in torch.
        maximize: as in torch.
        cpp_kernel: steps pairs on a CPU by a C++ kernel, whatever `foreach` and `fused` say. A C++ compiler compiles it
            once, in about a second; it is kept where torch keeps extensions (TORCH_EXTENSIONS_DIR). It takes contiguous
            float32 and bfloat16 matrices; other dtypes, layouts and tensor subclasses, experts, shards, a constant
            factor, GPUs and `torch.compile` go the way they go without it. In bfloat16 d stays in float32 and the new
            A and B are rounded once. It is no part of `state_dict`.

    Raises:
        ArgumentError: a value out of range; no group is a pair, so that this would be AdamW, but that is not what is
            asked for ("constant" and η = 1); tuples (A, B), or parameters that are sparse, sharded or flattened; the
            C++ kernel is asked for and cannot be compiled.
    """

    cpp_kernel = False
    _in_making = False
    _told = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        eta: float,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        adaptor: str = "inverse_sqrt",
        foreach: bool | None = None,
        fused: bool | None = None,
        amsgrad: bool = False,
        maximize: bool = False,
        cpp_kernel: bool = False,
    ):
        defaults = {"lr": lr, "eta": eta, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adaptor": adaptor}
        switches = {"foreach": foreach, "fused": fused, "amsgrad": amsgrad, "maximize": maximize}
        if isinstance(params, nn.Module):
            raise ArgumentError(f"params: parameter groups wanted, received the model; call {RECIPE}")
        params = params if isinstance(params, Tensor | dict) else list(params)
        unsaid = [k for k, group in enumerate(params) if isinstance(group, dict) and group.get("pair") is None]
        if cpp_kernel not in (True, False):
            raise ArgumentError(f"cpp_kernel must be True or False, received {cpp_kernel!r}")
        self._in_making = True
        super().__init__(params, _checked_options(defaults | switches))
        del self._in_making
        self.cpp_kernel = cpp_kernel
        if cpp_kernel:
            kernels.row_kernel()
        acts = any(group["eta"] != 1 or group["adaptor"] != "constant" for group in self.param_groups)
        if acts and not any(group["pair"] for group in self.param_groups):
            raise ArgumentError(
                f"params: no group is a pair (A, B), so eta = {eta:g} would do nothing; call {RECIPE}, in a Trainer's "
                'optimizer_cls_and_kwargs by "params": param_groups(model), anew for each Trainer, which takes it out'
            )
        warn_of_left_out([self.param_groups[k] for k in unsaid], f"call {RECIPE}")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes with it; torch's own leaves out all but the state and the groups."""
        return super().__getstate__() | {"cpp_kernel": self.cpp_kernel}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; `"pair"` and `"scaling"` as in the class's docstring.

        Args:
            param_group: `params` and what the group sets for itself; a value out of range, a pair of wrong shapes,
                complex or integer parameters raise an `ArgumentError`. Pairs among more than two parameters get plain
                AdamW, with a warning.
        """
        group = _checked_group(self.defaults | param_group)
        super().add_param_group(group)
        if not self._in_making and param_group.get("pair") is None:
            alone = 'add each as a group, {"params": [A, B], "pair": True, "scaling": s}'
            warn_of_left_out([group], alone)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict()` gave; from torch.optim.AdamW's, what it lacks (η, the pairs) stays as it is here.

        As in torch the saved groups' values replace those of this optimizer, but for names; where that is another η,
        adaptor or scaling, a warning says so. Groups of `param_groups` are matched by name, whatever their order.

        Args:
            state_dict: of an optimizer over the same parameters in the same groups; one of another kind or of other
                groups, moments of other shapes, a pair where this optimizer has none, or a value out of range raise an
                `ArgumentError`.
        """
        own = self.param_groups
        saved = in_order_of(state_dict["param_groups"], own)
        state_dict = {**state_dict, "param_groups": saved}
        check_ours(saved, own, state_dict["state"])
        for theirs, ours in zip(saved, own, strict=True):
            check_same(theirs, ours, state_dict["state"])
        names = [{key: group[key] for key in ("name", "names") if key in group} for group in own]
        merged = [_checked_options({**a, **b, **c}) for a, b, c in zip(own, saved, names, strict=True)]
        warn_of_another_rule(merged, own)
        state_dict = {**state_dict, "param_groups": merged}
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def update_factors(self, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What multiplies AdamW's update of each entry of a pair's A and B at the next step.

        Args:
            group: one of `param_groups` that is a pair.

        Returns:
            mean(d), of A's shape, and d_i, of B's.
        """
        (a, b), experts = group["params"], group["experts"]
        with without_autocast(a):
            norms = norms_of_pairs([*zip(*as_matrices(a, b, experts), strict=True)])
        d = ADAPTORS[group["adaptor"]](abs(group["scaling"]) * norms, group["eta"]).to(a.dtype)[..., None]
        on_a, on_b = (torch.ones(part.shape, dtype=part.dtype, device=part.device) for part in (a, b))
        stacked(on_a, 0, experts).mul_(d.mean(1, keepdim=True))
        stacked(on_b, 1, experts).mul_(d)
        return on_a, on_b

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over all parameters that have a gradient.

        Args:
            closure: evaluates the loss again and returns it.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        plain: dict[Hyper, list[Tensor]] = {}
        pairs: dict[tuple, list[_Member]] = {}
        for group in self.param_groups:
            trained = self._ready(group)
            if not trained:
                continue
            hyper = hyper_of(group)
            if group["pair"] and group["adaptor"] != "constant":
                a, b = group["params"]
                which = tuple(k for k in (0, 1) if group["params"][k].grad is not None)
                member = _Member(a, b, abs(group["scaling"]), group["experts"], which)
                kind = (a.device, a.dtype, a.shape, b.shape, _layout(member), member.experts, member.trained)
                pairs.setdefault((hyper, group["eta"], group["adaptor"], *kind), []).append(member)
                continue
            if group["pair"]:  # a factor η on all rows: AdamW at rate ηl
                eta = group["eta"]
                hyper = but(hyper, lr=eta * hyper.lr, weight_decay=hyper.weight_decay / eta)
            plain.setdefault(hyper, []).extend(trained)
        if not (torch.compiler.is_compiling() or plain or pairs or self._told):
            self._told = True
            warn_of_no_gradients(is_first=not self.state)
        for hyper, parameters in plain.items():
            own = self._tensors(parameters, hyper.amsgrad)
            adamw_on(own.parameters, own, hyper)
        for (hyper, eta, adaptor, *_), members in pairs.items():
            self._update_pairs(members, hyper, eta, adaptor)
        return loss

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        """Of the group's parameters those that have a gradient, each with its state."""
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in trained:
            state = self.state[parameter]
            if parameter.grad.layout is not torch.strided:
                raise ArgumentError(
                    "params: dense gradients wanted, received sparse ones; use nn.Embedding(sparse=False)"
                )
            if not state:
                on_device = {"device": parameter.device} if group["fused"] else {}
                state["step"] = torch.zeros((), dtype=_count_dtype(group["fused"]), **on_device)
                for moment in MOMENTS[: 3 if group["amsgrad"] else 2]:
                    state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return trained

    def _tensors(self, parameters: list[Tensor], amsgrad: bool) -> Tensors:
        """What a kernel reads and writes of `parameters`, this process's part of each."""
        states = [self.state[parameter] for parameter in parameters]
        own = [
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if amsgrad else [],
        ]
        if any(hasattr(parameter, "to_local") for parameter in parameters):
            own = [[_local(tensor) for tensor in of] for of in own]
        return Tensors(*own, [state["step"] for state in states])

    def _stepped_by_kernel(self, members: list[_Member], hyper: Hyper, eta: float, adaptor: str) -> bool:
        """Whether the C++ kernel takes these pairs, and has stepped them."""
        own = []
        for k in (0, 1):
            parameters = [member[k] for member in members]
            trained = k in members[0].trained
            own.append(self._tensors(parameters, hyper.amsgrad) if trained else Tensors(parameters, [], [], [], [], []))
        if taken := kernels.row_kernel_takes(own):
            kernels.move_by_rows(own, [member.scaling for member in members], hyper, eta, adaptor)
        return taken

    def _update_pairs(self, members: list[_Member], hyper: Hyper, eta: float, adaptor: str) -> None:
        """AdamW's step of pairs of one shape, device and dtype, each matrix's times its factor."""
        a, b, _, experts, trained = members[0]
        eager = a.device.type == "cpu" and not torch.compiler.is_compiling()
        if a.device.type == "cpu" and hyper.fused is None and hyper.foreach is None:
            hyper = but(hyper, fused=eager)
        if self.cpp_kernel and eager and experts == 1 and self._stepped_by_kernel(members, hyper, eta, adaptor):
            return
        with without_autocast(a):
            norms = norms_of_pairs([pair for one in members for pair in _products(one)])
        if any(member.scaling != 1 for member in members):
            scalings = [member.scaling for member in members for _ in range(experts)]
            norms *= torch.tensor(scalings, dtype=norms.dtype, device=norms.device)[:, None]
        if eager:  # some at a time, in the cache
            for some in norms.view(-1).split(_CACHED):
                some.copy_(ADAPTORS[adaptor](some, eta))
        else:
            norms = ADAPTORS[adaptor](norms, eta)
        d = norms.to(a.dtype).unflatten(0, (len(members), experts))[..., None]
        factors = _mean_of_rows(d, b), d
        for k in trained:
            own = self._tensors([member[k] for member in members], hyper.amsgrad)
            in_turn = eager and hyper.fused and own.without_gaps()
            move = move_one_by_one if in_turn else move_together
            move(own, k, factors[k], hyper)


# A and B that FSDP2 shards are DTensors: each process steps its part of both, d from the whole A and its rows of B.


def _local(tensor: Tensor) -> Tensor:
    """This process's part, in the same storage; all of it where nothing is sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _products(member: _Member) -> Iterator[tuple[Tensor, Tensor]]:
    """A and this process's rows of B, of each expert."""
    a, b = _whole(member.a), _local(member.b)
    if member.experts == 1:  # one view each, where a stack and its parts were five
        return iter([(a.flatten(1), b.flatten(1))])
    return zip(*as_matrices(a, b, member.experts), strict=True)


def _mean_of_rows(d: Tensor, b: Tensor) -> Tensor:
    """mean(d) over all rows, for d (pairs, experts, rows here, 1)."""
    if not hasattr(b, "placements"):
        return d.mean(2, keepdim=True)
    from torch.distributed.tensor import DTensor, Partial, Replicate

    placements = [Partial() if place.is_shard() else Replicate() for place in b.placements]
    return DTensor.from_local(d.sum(2, keepdim=True), b.device_mesh, placements).full_tensor() / len(b)


def _layout(member: _Member) -> tuple:
    """How A and B are laid out over processes: nothing, or what must be equal for pairs to be stepped together."""
    flat = [part for part in (member.a, member.b) if part.ndim < 2]
    sharded = hasattr(member.b, "placements")
    if flat or (
        sharded and (member.experts > 1 or any(place.is_shard() and place.dim for place in member.b.placements))
    ):
        raise ArgumentError(
            "params: A and B wanted as matrices, whole or sharded by their rows (FSDP2's fully_shard), received "
            f"shapes {tuple(member.a.shape)} and {tuple(member.b.shape)}"
            + ("; FSDP1 flattens them: use FSDP2 or DDP" if flat else "; shard on axis 0, and no experts")
        )
    return (member.a.placements, member.b.placements, member.b.device_mesh) if sharded else ()


def _count_dtype(fused: bool | None) -> torch.dtype:
    # As torch's own: a count in bfloat16, a default that large models are built under, would stop at 256.
    return torch.float64 if torch.get_default_dtype() == torch.float64 and not fused else torch.float32


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's options, checked and as plain numbers; what else is in the dictionary stays."""
    betas = options["betas"]
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ArgumentError(f"betas must be two numbers in [0, 1), received {betas!r}")
    betas = tuple(number("betas", beta, "two numbers in [0, 1)") for beta in betas)
    if not all(0 <= beta < 1 for beta in betas):
        raise ArgumentError(f"betas must be two numbers in [0, 1), received {betas!r}")
    for name, allowed in (
        ("foreach", (None, True, False)),
        ("fused", (None, True, False)),
        ("amsgrad", (True, False)),
        ("maximize", (True, False)),
    ):
        if options[name] not in allowed:
            raise ArgumentError(f"{name} must be {' or '.join(map(str, allowed))}, received {options[name]!r}")
    if options["foreach"] and isinstance(options["lr"], Tensor):
        raise ArgumentError("lr must be a number where foreach is True, received a tensor; leave foreach out")
    if options["foreach"] and options["fused"]:
        raise ArgumentError("fused, foreach: at most one can be True, received both; leave foreach out")
    rate = non_negative("lr", options["lr"])
    return options | {
        # A tensor stays one, which a scheduler changes in place, so that a compiled step is not compiled again.
        "lr": options["lr"] if isinstance(options["lr"], Tensor) else rate,
        "eta": check_eta(options["eta"]),
        "betas": betas,
        "eps": non_negative("eps", options["eps"]),
        "weight_decay": non_negative("weight_decay", options["weight_decay"]),
        "adaptor": choice("adaptor", options["adaptor"], ADAPTORS),
    }


def _checked_group(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group, checked, with `pair` and `scaling` filled in."""
    params = group["params"]
    if isinstance(params, Iterable) and not isinstance(params, Tensor | set):
        params = list(params)
    tensors = tensors_of(params)
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not tensor.is_floating_point():
            raise ArgumentError(f"params: real floating-point parameters wanted, received {tensor.dtype}")
        if hasattr(tensor, "_is_flat_param") or type(tensor).__name__ == "FlatParameter":
            raise ArgumentError(
                "params: A and B wanted as matrices, received FSDP1's flattened ones; use FSDP2 (fully_shard) or DDP"
            )
    scaling, experts = number("scaling", group.get("scaling", 1.0)), count("experts", group.get("experts", 1))
    pair = is_pair(tensors, group.get("pair"))
    if pair and tensors[0].shape[0] % experts:
        raise ArgumentError(f"experts: a divisor of A's {tensors[0].shape[0]} rows wanted, received {experts}")
    return _checked_options(group) | {"params": params, "pair": pair, "scaling": scaling, "experts": experts}
