"""§4's layers run: one backward pass, and training on a linear teacher with torch's own optimisers.

The measured side of §4's rows; nothing is predicted here. Checked by `tests/test_claims_allora_escape.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SEED = 41
OPTIMISERS = ("sgd", "momentum", "adamw", "allora_adamw")
ARMS = ("lora", "scaled", "constant", "allora", "asf")  # "scaled": LoRA×η


@dataclass(frozen=True)
class Problem:
    """Inputs X (N×n₂), targets Y (N×n₁), A at the start (r×n₂); the loss is ‖Y − X(BA)ᵀ‖²_F/(2N)."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray


def draws(n1: int = 4, n2: int = 3, rank: int = 2, tokens: int = 5) -> tuple[np.ndarray, ...]:
    """Gaussian numbers for one backward pass.

    Args:
        n1: outputs.
        n2: inputs.
        rank: r.
        tokens: rows of x.

    Returns:
        x (tokens×n₂), ∂L/∂f (tokens×n₁), A, B.
    """
    generator = np.random.default_rng(SEED)
    shapes = ((tokens, n2), (tokens, n1), (rank, n2), (n1, rank))
    return tuple(generator.standard_normal(shape) for shape in shapes)


def backward(rule: Callable, x: np.ndarray, upstream: np.ndarray, a: np.ndarray, b: np.ndarray, *args) -> list:
    """A layer's output and the gradients of x, A and B when ∂L/∂f is `upstream`.

    Args:
        rule: (x, a, b, *args) ↦ f on tensors.
        x: inputs.
        upstream: ∂L/∂f.
        a: A.
        b: B.
        *args: the rule's further arguments.

    Returns:
        Four arrays.
    """
    import torch

    tensors = [torch.tensor(part, requires_grad=True) for part in (x, a, b)]
    output = rule(*tensors, *args)
    output.backward(torch.tensor(upstream))
    return [output.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def lora(x, a, b):
    """X AᵀBᵀ on tensors, with autograd's own gradients.

    Args:
        x: inputs.
        a: A.
        b: B.

    Returns:
        The output.
    """
    return x @ a.mT @ b.mT


def problem(n1: int = 5, n2: int = 4, rank: int = 2, samples: int = 12) -> Problem:
    """A teacher with rows of different size.

    Args:
        n1: outputs.
        n2: inputs.
        rank: of the adapter.
        samples: N.

    Returns:
        The problem.
    """
    generator = np.random.default_rng(SEED)
    x = generator.standard_normal((samples, n2))
    teacher = np.geomspace(4.0, 0.5, n1)[:, None] * generator.standard_normal((n1, n2))
    return Problem(x, x @ teacher.T, generator.standard_normal((rank, n2)) / np.sqrt(n2))


def products(*args: Any, **options: Any) -> np.ndarray:
    """BA after 0, 1, … steps.

    Args:
        *args: as for `pairs`.
        **options: likewise.

    Returns:
        The products (steps + 1, n₁, n₂).
    """
    return np.array([b @ a for a, b in pairs(*args, **options)])


def pairs(
    task: Problem,
    optimiser: str,
    arm: str,
    eta: float,
    rate: float,
    steps: int,
    clip: float | None = None,
    start: np.ndarray | None = None,
    other_norm: float = 0.0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(A, B) after 0, 1, … steps of the real layer under a real optimiser.

    Args:
        task: the problem.
        optimiser: one of `OPTIMISERS`; for "allora_adamw" the arm must be "lora" or "allora", and "allora" puts the
            factor into the optimiser.
        arm: one of `ARMS`: "constant" is the gradient times η, no adaptation.
        eta: η.
        rate: the learning rate.
        steps: how many.
        clip: clip the gradients' norm at this; None for no clipping.
        start: B at the start (n₁×r); None for 0.
        other_norm: of a gradient that is clipped with those of A and B, as a classifier's is.

    Returns:
        steps + 1 pairs.
    """
    import torch

    x, y = (torch.tensor(part) for part in (task.x, task.y))
    zero = np.zeros((y.shape[1], len(task.a)))
    a, b = (torch.tensor(part, requires_grad=True) for part in (task.a, zero if start is None else start))
    other = torch.zeros((), dtype=x.dtype, requires_grad=True)
    rule, in_layer = _optimiser(optimiser, (a, b), arm, eta, rate)
    path = []
    for _ in range(steps + 1):
        path.append((a.detach().numpy().copy(), b.detach().numpy().copy()))
        rule.zero_grad()
        (((forward(in_layer, x, a, b, eta) - y) ** 2).sum() / (2 * len(x))).backward()
        if clip is not None:
            other.grad = torch.tensor(other_norm, dtype=x.dtype)
            torch.nn.utils.clip_grad_norm_([a, b, other], clip)
        rule.step()
    return path


def _optimiser(name: str, pair: tuple, arm: str, eta: float, rate: float) -> tuple:
    # The optimiser, and the arm that the layer itself takes.
    import torch

    if name == "sgd":
        return torch.optim.SGD(pair, lr=rate), arm
    if name == "momentum":
        return torch.optim.SGD(pair, lr=rate, momentum=0.9), arm
    if name == "allora_adamw" and arm == "allora":
        from allora_analysis.lora.optim import ALLoRAAdamW

        group = {"params": list(pair), "pair": True, "scaling": 1.0}
        return ALLoRAAdamW([group], lr=rate, eta=eta, weight_decay=0.0), "lora"
    return torch.optim.AdamW(pair, lr=rate, weight_decay=0.0), arm


def forward(arm: str, x, a, b, eta: float):
    """The layer of an arm, on tensors.

    Args:
        arm: one of `ARMS`.
        x: inputs.
        a: A.
        b: B.
        eta: η.

    Returns:
        The output.
    """
    from allora_analysis.lora import functional

    if arm == "lora":
        return lora(x, a, b)
    if arm == "scaled":
        return eta * lora(x, a, b)
    if arm == "asf":
        return functional.asf_lora(x, a, b, eta)
    return functional.allora(x, a, b, eta, "constant" if arm == "constant" else "inverse_sqrt")


def first_gradient(task: Problem) -> float:
    """The norm of LoRA's gradient at B = 0, the measure of a clipping threshold.

    Args:
        task: the problem.

    Returns:
        It.
    """
    return float(gradient_norms(task, [(task.a, np.zeros((task.y.shape[1], len(task.a))))])[0])


def gradient_norms(task: Problem, path: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The norm of LoRA's own gradient of A and B together at each pair of `pairs`: what clipping looks at.

    Args:
        task: the problem.
        path: pairs (A, B).

    Returns:
        A norm for each pair.
    """
    gradients = [((task.x @ (b @ a).T - task.y).T @ task.x / len(task.x), a, b) for a, b in path]
    return np.array([np.hypot(np.linalg.norm(b.T @ g), np.linalg.norm(g @ a.T)) for g, a, b in gradients])
