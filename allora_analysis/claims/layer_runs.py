"""§4's layers run: one backward pass, and training on a linear teacher with torch's own optimisers.

The measured side of §4's rows; nothing is predicted here. Checked by `tests/test_claims_allora_escape.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEED = 41
OPTIMISERS = ("sgd", "momentum", "adamw", "allora_adamw")
ARMS = ("lora", "constant", "allora")


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


def problem(n1: int = 5, n2: int = 4, rank: int = 2, samples: int = 12, scale: float = 1.0) -> Problem:
    """A teacher with rows of different size.

    Args:
        n1: outputs.
        n2: inputs.
        rank: of the adapter.
        samples: N.
        scale: of the teacher.

    Returns:
        The problem.
    """
    generator = np.random.default_rng(SEED)
    x = generator.standard_normal((samples, n2))
    teacher = scale * np.geomspace(4.0, 0.5, n1)[:, None] * generator.standard_normal((n1, n2))
    return Problem(x, x @ teacher.T, generator.standard_normal((rank, n2)) / np.sqrt(n2))


def products(
    task: Problem, optimiser: str, arm: str, eta: float, rate: float, steps: int, clip: float | None = None
) -> np.ndarray:
    """BA after 0, 1, … steps of the real layer under a real optimiser.

    Args:
        task: the problem.
        optimiser: one of `OPTIMISERS`; for "allora_adamw" the arm must be "lora" or "allora", and "allora" puts the
            factor into the optimiser.
        arm: "lora", "allora", or "constant" (the gradient times η, no adaptation).
        eta: η.
        rate: the learning rate.
        steps: how many.
        clip: clip the gradients' norm at this; None for no clipping.

    Returns:
        The products (steps + 1, n₁, n₂).
    """
    import torch

    x, y = (torch.tensor(part) for part in (task.x, task.y))
    a = torch.tensor(task.a).requires_grad_()
    b = torch.zeros(y.shape[1], len(a), dtype=a.dtype, requires_grad=True)
    rule, in_layer = _optimiser(optimiser, (a, b), arm, eta, rate)
    path = []
    for _ in range(steps + 1):
        path.append((b @ a).detach().numpy().copy())
        rule.zero_grad()
        (((forward(in_layer, x, a, b, eta) - y) ** 2).sum() / (2 * len(x))).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([a, b], clip)
        rule.step()
    return np.array(path)


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
    return functional.allora(x, a, b, eta, "constant" if arm == "constant" else "inverse_sqrt")


def double_backward(task: Problem, b: np.ndarray, eta: float) -> np.ndarray:
    """∂(the layer's gradients of A and B)/∂(A, B) by a second backward pass; the loss is ‖Y − X(BA)ᵀ‖²_F/2.

    Args:
        task: X, Y and A.
        b: B.
        eta: η.

    Returns:
        A square matrix, the parameters ordered as A, then B, row by row.
    """
    import torch

    a, b = (torch.tensor(part, requires_grad=True) for part in (task.a, b))
    output = forward("allora", torch.tensor(task.x), a, b, eta)
    loss = ((output - torch.tensor(task.y)) ** 2).sum() / 2
    gradients = torch.autograd.grad(loss, (a, b), create_graph=True)
    flat = torch.cat([part.ravel() for part in gradients])
    rows = (torch.autograd.grad(entry, (a, b), retain_graph=True, allow_unused=True) for entry in flat)
    zeros = tuple(torch.zeros_like(part) for part in (a, b))
    filled = ([z if p is None else p for p, z in zip(row, zeros, strict=True)] for row in rows)
    return torch.stack([torch.cat([part.ravel() for part in row]) for row in filled]).numpy()


def differenced_field(
    task: Problem, b: np.ndarray, eta: float, step: float = 1e-5, loss: str = "squared"
) -> np.ndarray:
    """The Jacobian of the layer's gradients by central differences; arguments and order as in `double_backward`.

    Args:
        task: X, Y and A.
        b: B.
        eta: η.
        step: of the differences.
        loss: "squared", or "cross-entropy" of the outputs' softmax with Y's largest entry of each row as its class.

    Returns:
        A square matrix.
    """
    from scipy.special import softmax

    from allora_analysis.lora import functional

    start = np.concatenate([task.a.ravel(), b.ravel()])
    classes = np.eye(task.y.shape[1])[task.y.argmax(axis=1)]

    def gradients(parameters: np.ndarray) -> np.ndarray:
        a, moved = parameters[: task.a.size].reshape(task.a.shape), parameters[task.a.size :].reshape(b.shape)
        output = task.x @ (moved @ a).T
        upstream = output - task.y if loss == "squared" else softmax(output, axis=1) - classes
        return np.concatenate(
            [part.ravel() for part in backward(functional.allora, task.x, upstream, a, moved, eta)[2:]]
        )

    columns = [gradients(start + step * e) - gradients(start - step * e) for e in np.eye(start.size)]
    return np.array(columns).T / (2 * step)
