"""The empirical risk of a torch model as a function of its trainable parameters: value, gradient, Hessian products.

L(θ) = c Σ_n ℓ(f_θ(x_n), y_n), c = 1 for a loss with reduction "sum", 1/N for "mean" (batches then weigh by their number
of examples). With class weights w or ignored labels (w = 0) torch's "mean" has c = 1/Σ_n w(y_n): one batch only then.
The Hessian products are curvlinops' (forward over reverse); values and gradients here are plain reverse mode and always
float64, so that each can judge the other. Checked by `tests/test_hessian_network.py` and
`tests/test_hessian_network_refusals.py`.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from allora_analysis.validation import ArgumentError

Batch = tuple[Any, Tensor]


def each_tensor(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The function of a tensor, or of each one in a mapping; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: each_tensor(function, item) for name, item in value.items()}
    return function(value) if isinstance(value, Tensor) else value


def _batch_size(inputs: Any) -> int:
    # Examples lie along the first axis of a tensor, or of the first tensor in a mapping.
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def _checked_batches(data: Iterable[Any], device: torch.device) -> list[Batch]:
    one_pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)
    pairs = [data] if one_pair else list(data)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], Tensor) for pair in pairs):
        raise ArgumentError("data: each batch must be a pair (inputs, targets) with targets a tensor")
    if not pairs or any(_batch_size(inputs) == 0 for inputs, _ in pairs):
        raise ArgumentError("data: at least one example wanted in every batch and one batch, received none")
    return [tuple(each_tensor(lambda tensor: tensor.to(device), part) for part in pair) for pair in pairs]


def _refuse_uneven_means(loss: nn.Module, batches: Sequence[Batch]) -> None:
    # torch divides the "mean" of nn.CrossEntropyLoss and nn.NLLLoss (known by their `ignore_index`) by Σ_n w(y_n) of a
    # batch, w the class weights, 0 for ignored labels: such means do not add up to the whole's. Targets that are
    # probabilities are averaged over the examples whatever w.
    labels = [targets for _, targets in batches if not targets.is_floating_point()]
    if loss.reduction == "sum" or len(batches) == 1 or not labels or not hasattr(loss, "ignore_index"):
        return
    way_out = f'divides each of {len(batches)} batches by its labels\' weights; give reduction="sum" or one batch'
    if getattr(loss, "weight", None) is not None:
        raise ArgumentError(f'loss: "mean" with class weights {way_out}')
    if any(bool((targets == loss.ignore_index).any()) for targets in labels):
        raise ArgumentError(f'data: targets hold ignore_index {loss.ignore_index}, with which "mean" {way_out}')


@dataclass(frozen=True)
class EmpiricalRisk:
    """L(θ) for one model, loss and data set; θ lists the trainable parameters in the model's order, each row-major.

    Attributes:
        model: the model; its mode and its parameters are left as they are.
        loss: the loss module, reduction "sum" or "mean".
        batches: (inputs, targets) pairs, on the parameters' device.
    """

    model: nn.Module
    loss: nn.Module
    batches: Sequence[Batch]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @property
    def dtype(self) -> torch.dtype:
        """The trainable parameters' dtype."""
        return next(iter(self.parameters.values())).dtype

    @property
    def dimension(self) -> int:
        """P, the number of trainable numbers."""
        return sum(value.numel() for value in self.parameters.values())

    def theta(self) -> Float[np.ndarray, " P"]:
        """The parameters as they are now."""
        return np.concatenate([value.detach().double().cpu().numpy().ravel() for value in self.parameters.values()])

    def value_and_gradient(
        self, theta: Float[np.ndarray, " P"] | None = None, names: Sequence[str] | None = None
    ) -> tuple[float, list[np.ndarray]]:
        """L and its gradient at θ (None: as it is) in the named parameters (None: the trainable); in float64."""
        trainable = self.parameters
        state = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        values = {name: _double(value.detach()) for name, value in state.items()}
        if theta is not None:
            flat = torch.as_tensor(theta, device=next(iter(trainable.values())).device)
            pieces = flat.split([value.numel() for value in trainable.values()])
            values |= {
                name: piece.reshape(old.shape) for (name, old), piece in zip(trainable.items(), pieces, strict=True)
            }
        names = list(trainable) if names is None else list(names)
        points = [values[name].clone().requires_grad_() for name in names]
        values |= dict(zip(names, points, strict=True))
        total, gradients = 0.0, [torch.zeros_like(point) for point in points]
        for value in self._batch_losses(values):
            total += value.item()
            if not value.requires_grad:  # nothing that is differentiated enters this batch's loss
                continue
            parts = torch.autograd.grad(value, points, allow_unused=True, materialize_grads=True)
            gradients = [sum_so_far + part for sum_so_far, part in zip(gradients, parts, strict=True)]
        return total, [gradient.detach().cpu().numpy() for gradient in gradients]

    # Each batch's share of L, in float64.
    def _batch_losses(self, values: Mapping[str, Tensor]) -> Iterator[Tensor]:
        loss_state = {name: _double(value) for name, value in self.loss.state_dict().items()}
        n_data = sum(_batch_size(inputs) for inputs, _ in self.batches)
        for inputs, targets in self.batches:
            weight = _batch_size(inputs) / n_data if self.loss.reduction == "mean" else 1.0
            output = torch.func.functional_call(self.model, dict(values), (_double(inputs),))
            yield weight * torch.func.functional_call(self.loss, loss_state, (output, _double(targets)))

    def hessian(self):
        """The matrix-free Hessian of curvlinops, as a SciPy operator."""
        with quiet():
            from curvlinops import HessianLinearOperator

        operator = HessianLinearOperator(
            _Touching(self.model),
            self.loss,
            list(self.parameters.values()),
            self.batches,
            check_deterministic=False,  # fails on a parameter that the loss does not use; `certificate` is stricter
            batch_size_fn=_batch_size,
        )
        return operator.to_scipy()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what new releases of torch say of `torch.jit.script`, which curvlinops and torch itself still call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
        yield


class _Touching(nn.Module):
    """The same function, with 0·‖θ‖² added: torch's vmap fails on a parameter whose Hessian rows are constant zeros."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        trainable = [value for value in self.model.parameters() if value.requires_grad]
        output = self.model(inputs)
        return output + 0.0 * sum(value.square().sum() for value in trainable)


def _double(value: Any) -> Any:
    return each_tensor(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, with attention by kernels that have second derivatives; each module's own mode is restored."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, training in modes:
            module.training = training


def empirical_risk(model: nn.Module, loss: nn.Module, data: Iterable[Any]) -> EmpiricalRisk:
    """The checked risk of a model, a loss and data: a pair or batches, read once; inputs a tensor or a mapping."""
    for name, module in model.named_modules():
        if getattr(module, "double_backward_is_hessian", True) is False:
            raise ArgumentError(
                f"model: {name or 'itself'} ({type(module).__name__}) rescales its gradients, so that its double "
                "backward is not a Hessian; give a model with plain layers (LoRA's, for example)"
            )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ArgumentError("model: at least one parameter must have requires_grad, received none")
    kinds = {(parameter.dtype, parameter.device) for parameter in trainable}
    if len(kinds) > 1 or trainable[0].dtype not in (torch.float64, torch.float32):
        received = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ArgumentError(
            f"model: trainable parameters must be all float64 or all float32, on one device; received {received}"
        )
    if getattr(loss, "reduction", None) not in ("sum", "mean"):
        received = getattr(loss, "reduction", "none at all")
        raise ArgumentError(f'loss: its reduction must be "sum" or "mean", received {received!r}')
    batches = _checked_batches(data, trainable[0].device)
    _refuse_uneven_means(loss, batches)
    return EmpiricalRisk(model, loss, batches)
