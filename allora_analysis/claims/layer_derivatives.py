"""The layer's second derivatives, measured: its double backward, and its update field differenced.

The measured side of `section_4_gradient`; nothing is predicted here. Checked by `tests/test_claims_allora_escape.py`.
"""

from __future__ import annotations

import numpy as np

from allora_analysis.claims.layer_runs import Problem, backward, forward


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
        loss: "squared"; "Huber", which is linear where an entry is more than 1 off; or "cross-entropy" of the outputs'
            softmax with Y's largest entry of each row as its class.

    Returns:
        A square matrix.
    """
    from scipy.special import softmax

    from allora_analysis.lora import functional

    start = np.concatenate([task.a.ravel(), b.ravel()])
    classes = np.eye(task.y.shape[1])[task.y.argmax(axis=1)]
    upstream = {
        "squared": lambda output: output - task.y,
        "Huber": lambda output: np.clip(output - task.y, -1, 1),
        "cross-entropy": lambda output: softmax(output, axis=1) - classes,
    }[loss]

    def gradients(parameters: np.ndarray) -> np.ndarray:
        a, moved = parameters[: task.a.size].reshape(task.a.shape), parameters[task.a.size :].reshape(b.shape)
        g = upstream(task.x @ (moved @ a).T)
        return np.concatenate([part.ravel() for part in backward(functional.allora, task.x, g, a, moved, eta)[2:]])

    columns = [gradients(start + step * e) - gradients(start - step * e) for e in np.eye(start.size)]
    return np.array(columns).T / (2 * step)
