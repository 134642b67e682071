"""A tanh MLP with LoRA written out by hand, its dense Hessian by double backward, and inertia by counting signs.

Imports nothing from the package.
"""

import numpy as np
import torch


def outputs(weights, biases, x):
    """Tanh after every layer but the last; weights are the effective matrices."""
    hidden = x
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = hidden @ weight.T + bias
        if index < len(weights) - 1:
            hidden = torch.tanh(hidden)
    return hidden


def summed_loss(kind, output, targets):
    if kind == "squares":
        return ((output - targets) ** 2).sum()
    return (torch.logsumexp(output, dim=1) - output[torch.arange(len(targets)), targets]).sum()


def adapted_loss(theta, weights, biases, rank, eta, kind, x, targets):
    """theta lists A then B of each layer, row-major."""
    effective, position = [], 0
    for weight in weights:
        n1, n2 = weight.shape
        a = theta[position : position + rank * n2].reshape(rank, n2)
        b = theta[position + rank * n2 : position + rank * (n1 + n2)].reshape(n1, rank)
        position += rank * (n1 + n2)
        effective.append(weight + eta * b @ a)
    return summed_loss(kind, outputs(effective, biases, x), targets)


def dense_hessian(function, theta):
    """Double backward, row by row."""
    theta = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(theta), theta, create_graph=True)
    rows = [torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in gradient]
    return torch.stack(rows).numpy()


def product_gradients(weights, biases, eta, kind, x, targets):
    """eta * dL/dW of every layer."""
    points = [weight.clone().requires_grad_() for weight in weights]
    gradients = torch.autograd.grad(summed_loss(kind, outputs(points, biases, x), targets), points)
    return [eta * gradient.numpy() for gradient in gradients]


def inertia(hessian, zero=1e-9):
    """(negative, positive, zero), and whether no eigenvalue is near the threshold (none in [1e-14, 1e-8])."""
    values = np.linalg.eigvalsh(hessian) / np.linalg.norm(hessian, 2)
    counts = int(np.sum(values < -zero)), int(np.sum(values > zero)), int(np.sum(np.abs(values) <= zero))
    clear = not np.any((np.abs(values) > 1e-5 * zero) & (np.abs(values) < 10 * zero))
    return counts, clear
