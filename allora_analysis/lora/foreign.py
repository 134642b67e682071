"""The LoRA pairs of any library, found by name and shape, and what each layer does, tried on the layer itself.

A layer is a module with two matrices, (r, n₂) and (n₁, r), as parameters or as modules with a `weight`, named as PEFT,
loralib, torchtune, kohya's scripts and their like name them (`SIDES`). Nothing else is looked up that can be tried: on
random inputs, with a random B in B's place, the forward pass gives the scaling s, and B's gradient over LoRA's a factor
d_i for each row, which is ALLoRA's where 1/d_i² − u_i is one constant 1/η² for row norms u_i from 0 to far above it.
Each is judged up to the layer's own rounding, and without autocast, which would keep the random B for later passes. The
layer keeps its B, its mode, its gradients and the random state. Checked by `tests/test_lora_foreign.py` on small
doubles of such libraries.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.adaptive.recipe import alpha_of_one
from allora_analysis.lora.autograd import doubled, norms_of_rows, without_autocast
from allora_analysis.lora.pairs import Pair, chained, lora_pairs

# What libraries call A and B.
SIDES = {"lora_A": "lora_B", "lora_a": "lora_b", "lora_down": "lora_up", "lora_embedding_A": "lora_embedding_B"}
_TOKENS = 8
_TOLERANCE = 1e-3
_WHOLE = "module_dropout"  # leaves the adapter out of a whole pass
_DROPOUTS = ("lora_dropout", "dropout", "drop", _WHOLE)
_MISSED = 1e-6  # the probability at which a mask that every pass has missed is taken for none
_PASSES = 160  # enough for the whole adapter at rate 0.1


def any_pairs(model: nn.Module) -> tuple[Pair, ...]:
    """The pairs of `lora_pairs`, then those of other libraries; without those of layers that have no outputs."""
    own = lora_pairs(model)
    taken = {id(part) for pair in own for part in (pair.a, pair.b)}
    others = (_foreign(name, module) for name, module in model.named_modules())
    rows = tuple(pair for pair in own if len(pair.b) or not chained(pair.a, pair.b))  # ZeRO-3's parts may be empty
    return rows + tuple(pair for pair in others if pair is not None and not taken & {id(pair.a), id(pair.b)})


def _foreign(name: str, module: nn.Module) -> Pair | None:
    for one, other in SIDES.items():
        a, b = (_matrix(module, side) for side in (one, other))
        if a is not None and b is not None and chained(a, b) and len(b):
            return _tried(Pair(name, None, module, a, b, 1.0, **_flags(module)))
    return None


def _matrix(module: nn.Module, side: str) -> Tensor | None:
    part = module._parameters.get(side, module._modules.get(side))
    part = getattr(part, "weight", None) if isinstance(part, nn.Module) else part
    return part if isinstance(part, Tensor) and part.ndim == 2 else None


def _rate(module: nn.Module, name: str) -> float:
    found = getattr(module, name, None)
    found = getattr(found, "p", found)
    return float(found) if isinstance(found, float | int) else 0.0


def _flags(module: nn.Module) -> dict[str, Any]:
    disabled = getattr(module, "disabled", False) is True or getattr(module, "enabled", True) is False
    return {
        "drop_rate": max(_rate(module, name) for name in _DROPOUTS),
        "disabled": disabled,
        "merged": getattr(module, "merged", False) is True,
    }


@dataclass(frozen=True)
class Trial:
    """What a layer does with a random B in B's place.

    Attributes:
        scaling: s, by least squares.
        is_product: what the layer adds is s·BA.
        factors: B's gradient over LoRA's, a row; None where it is not that of LoRA times a number for each row.
        norms: ‖(BA)_i‖.
        tolerance: of the layer's dtype.
        error: what rounding may take from s, relative: the tolerance, and more beside a large base output.
    """

    scaling: float
    is_product: bool
    factors: Tensor | None
    norms: Tensor
    tolerance: float
    error: float


def _tried(pair: Pair) -> Pair:
    stated = _stated(pair.module)
    a = pair.a.detach()
    if a.is_meta or not a.any() or not torch.isfinite(a).all():  # no numbers; or BA is 0 or NaN whatever B is
        return replace(pair, scaling=1.0 if stated is None else stated)
    try:
        with without_autocast(pair.b):
            found = _trial(pair)
    except Exception:  # another's forward, called in a way that it may not foresee
        return replace(pair, scaling=1.0 if stated is None else stated)
    if stated is not None and math.isclose(found.scaling, stated, rel_tol=found.error):
        found = replace(found, scaling=stated)  # without the rounding
    variant, eta = rule(found)
    adaptor = None if eta is None else "inverse_sqrt"
    return replace(pair, scaling=found.scaling, variant=variant, eta=eta, adaptor=adaptor)


def _stated(module: Any) -> float | None:
    """A layer's scaling as it states it."""
    for name in ("scaling", "scale"):
        if isinstance(value := getattr(module, name, None), float | int):
            return float(value)
    rank = getattr(module, "rank", getattr(module, "r", None))
    alpha = getattr(module, "alpha", getattr(module, "lora_alpha", None))
    if not rank or alpha is None:
        return None
    return float(alpha) / alpha_of_one(rank, getattr(module, "use_rslora", False))


def _trial(pair: Pair) -> Trial:
    """Try a layer: s by least squares on the forward pass, d_i on B's gradient."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(pair.b)

    (n1, r), n2 = pair.b.shape, pair.a.shape[1]
    x, v = normal(_TOKENS, n2), normal(_TOKENS, n1)
    scale = 10.0 ** torch.linspace(-3, 1, n1).to(pair.b)[:, None]
    other = scale * normal(n1, r) / float(pair.a.detach().norm() / r**0.5 or 1.0)
    with _quietly(pair, torch.zeros_like(other)), torch.enable_grad():
        without = pair.module(wants_gradient(x)).detach()
    with _quietly(pair, other), torch.enable_grad():
        b = pair.b
        wanted = b.requires_grad
        b.requires_grad_(True)
        try:
            output = pair.module(wants_gradient(x))
            (found,) = torch.autograd.grad((output * v).sum(), b)
        finally:
            b.requires_grad_(wanted)
    hidden = (doubled(x) @ doubled(pair.a.detach()).T).to(x.device, torch.promote_types(x.dtype, torch.float32))
    added, plain = doubled(output.detach() - without), doubled(hidden @ other.T.to(hidden))
    scaling = float((added * plain).sum() / (plain * plain).sum())
    # Rounding to the layer's dtype is a share of what it adds and of what it adds that to.
    eps = torch.finfo(output.dtype).eps
    tolerance = max(_TOLERANCE, 2 * eps)
    size = float(added.norm())
    error = tolerance + eps * float(doubled(without).norm()) / (size or 1.0)
    is_product = float((added - scaling * plain).norm()) <= error * size
    lora = scaling * v.T.to(hidden) @ hidden
    found = found.to(hidden)
    factors = (found * lora).sum(1) / (lora * lora).sum(1)
    whole = (found - factors[:, None] * lora).norm() <= tolerance * found.norm()
    with torch.no_grad():
        norms = norms_of_rows(pair.a, other)
    return Trial(scaling, is_product, doubled(factors) if whole else None, doubled(norms), tolerance, error)


def rule(found: Trial) -> tuple[str, float | None]:
    """LoRA, or ALLoRA with its η: is 1/d_i² − u_i the same for all rows, u_i = |s|‖(BA)_i‖ (or without s)?

    "allora" and η; "lora" for any other gradient (`doctor.measured` says where it is not LoRA's); "another" for a layer
    that adds something else than s·BA.
    """
    d = found.factors
    if not found.is_product:
        return "another", None
    if d is None or not bool((d > 0).all()) or float((d - 1).abs().max()) <= found.tolerance:
        return "lora", None
    for norms in (abs(found.scaling) * found.norms, found.norms):
        rest = d**-2 - norms
        # The smallest rows say it: at the largest ones 1/η² is lost beside u_i.
        eta = float(rest[norms.argmin()].clamp_min(1e-300)) ** -0.5
        expected = (norms + eta**-2) ** -0.5
        if bool(((d - expected).abs() <= 10 * found.tolerance * expected).all()):
            return "allora", eta
    return "lora", None


def dropout_applied(pair: Pair) -> bool | None:
    """Whether two forward passes of a layer in training differ, but for the random state.

    None where the layer cannot be tried (at A = 0 no mask is seen, on meta no number), or where as many passes as one
    would wait for may all have missed the mask.
    """
    if pair.a.is_meta or not pair.a.any():
        return None
    x = torch.randn(_TOKENS, pair.a.shape[1], generator=torch.Generator().manual_seed(0))
    base = getattr(getattr(pair.module, "base_layer", getattr(pair.module, "base", None)), "weight", pair.a)
    x = x.to(base.device, base.dtype if base.is_floating_point() else pair.a.dtype)
    wanted, first = _passes(pair), None
    try:
        for seed in range(1 + min(wanted, _PASSES)):
            with without_autocast(pair.b), _quietly(pair, torch.ones_like(pair.b), training=True), torch.no_grad():
                _seed(pair.b.device, seed)
                output = pair.module(x)
            first = output if first is None else first
            if not torch.equal(first, output):
                return True
    except Exception:  # as in `_tried`
        return None
    return False if wanted <= _PASSES else None


def _passes(pair: Pair) -> int:
    # After how many passes like the first a mask is there with probability `_MISSED` at most: one like the first has at
    # most max(p, 1 - p) for each number that is drawn, of which there are r for each token or more.
    rates = {_rate(pair.module, _WHOLE): 1}
    rates.setdefault(pair.drop_rate, _TOKENS * pair.a.shape[0])
    alike = [draws * math.log(max(rate, 1 - rate)) for rate, draws in rates.items() if rate > 0]
    return max((math.ceil(math.log(_MISSED) / one) if one else _PASSES + 1 for one in alike), default=1)


def _seed(device: torch.device, seed: int) -> None:
    # Of the CPU and of the layer's own device: `torch.manual_seed` would seed the other devices too.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def wants_gradient(x: Tensor) -> Tensor:
    """An input for a trial in eval mode, a copy whose gradient is wanted."""
    # Without, bitsandbytes' 4-bit layer on a CPU packs its weight for inference, and no gradient passes it any more.
    return x.clone().requires_grad_()


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Every part of a module in a mode meanwhile; set on the parts: loralib's `train` and `eval` merge the weights."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = training
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _quietly(pair: Pair, b: Tensor, training: bool = False) -> Iterator[None]:
    # Another B, and the random state kept.
    own, matrix = pair.b.data, pair.b
    state = torch.mps.get_rng_state() if pair.b.is_mps else None  # `fork_rng` knows CUDA's devices
    with in_mode(pair.module, training), torch.random.fork_rng(devices=[pair.b.device] if pair.b.is_cuda else []):
        try:
            matrix.data = b.to(own)
            yield
        finally:
            matrix.data = own
            if state is not None:
                torch.mps.set_rng_state(state)
