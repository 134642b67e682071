"""References for §3.2 by automatic differentiation in float64. Imports nothing from the package."""

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
