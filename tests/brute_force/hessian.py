"""References for §3.2 by automatic differentiation in float64: a layer's, and those of a tanh MLP with LoRA
written out by hand, by double backward; inertia by counting signs. Imports nothing from the package.
"""

import numpy as np
import torch


def product_derivatives(x, y, w, delta) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (D×C) and Hessian on vec Δ (columns stacked) of ‖X(W + Δ) − Y‖²_F at Δ."""
    x, y, w, delta = (torch.as_tensor(np.array(value, dtype=np.float64)) for value in (x, y, w, delta))

    def loss(columns):
        return ((x @ (w + columns.reshape(delta.shape[1], delta.shape[0]).T) - y) ** 2).sum()

    point = delta.T.reshape(-1)
    gradient, hessian = torch.func.grad(loss)(point), torch.func.hessian(loss)(point)
    return gradient.reshape(delta.shape[1], delta.shape[0]).T.numpy(), hessian.numpy()


def factor_derivatives(x, g, a, b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∇_B, ∇_A and the dense Hessian in (B, A), row by row, of ⟨G, BA⟩ + ‖X(BA)ᵀ‖²_F: any matrix G."""
    x, g, a, b = (torch.as_tensor(np.array(value, dtype=np.float64)) for value in (x, g, a, b))
    split = b.numel()

    def loss(theta):
        product = theta[:split].reshape(b.shape) @ theta[split:].reshape(a.shape)
        return (g * product).sum() + ((x @ product.T) ** 2).sum()

    point = torch.cat([b.reshape(-1), a.reshape(-1)])
    gradient = torch.func.grad(loss)(point)
    parts = gradient[:split].reshape(b.shape).numpy(), gradient[split:].reshape(a.shape).numpy()
    return *parts, torch.func.hessian(loss)(point).numpy()


def layer_hessian(x, w, y, a, eta=1.0, mean=False) -> tuple[np.ndarray, np.ndarray]:
    """G = ∂L/∂(BA) and the dense (B, A) Hessian at B = 0 of the squared loss of x ↦ (W* + ηBA)x."""
    x, w, y, a = (torch.as_tensor(np.array(value, dtype=np.float64)) for value in (x, w, y, a))
    split = len(w) * len(a)

    def of_product(product):
        squares = (x @ (w + eta * product).T - y) ** 2
        return squares.mean() if mean else squares.sum()

    def loss(theta):
        return of_product(theta[:split].reshape(len(w), len(a)) @ theta[split:].reshape(a.shape))

    point = torch.cat([torch.zeros(split, dtype=torch.float64), a.reshape(-1)])
    return torch.func.grad(of_product)(torch.zeros_like(w)).numpy(), torch.func.hessian(loss)(point).numpy()


def loss_hessian(x, fit, a, b) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian in (B, A), row by row, of ‖X(BA − M)ᵀ‖²_F at any point."""
    x, fit, a, b = (torch.as_tensor(np.array(value, dtype=np.float64)) for value in (x, fit, a, b))

    def loss(theta):
        return ((x @ (theta[: b.numel()].reshape(b.shape) @ theta[b.numel() :].reshape(a.shape) - fit).T) ** 2).sum()

    point = torch.cat([b.reshape(-1), a.reshape(-1)])
    return torch.func.grad(loss)(point).numpy(), torch.func.hessian(loss)(point).numpy()


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
