"""§4 by hand: the paper's Listing 1 and each arm beside it, norms formed through BA, token by token.

Written from the paper and from claims on it, with NumPy in float64; each returns (output, ∂/∂x, update direction of A,
of B) for ∂L/∂output = grad. x is (tokens, n₂). Imports nothing from what it judges.
"""

import numpy as np


def adaptor(name: str, size: np.ndarray, eta: float) -> np.ndarray:
    """h(|x|), written with η² inside as the paper has it."""
    size = np.abs(size)
    return {
        "inverse_sqrt": lambda: 1 / np.sqrt(size + 1 / eta**2),
        "inverse": lambda: 1 / (size + 1 / eta),
        "exponential": lambda: eta * np.exp(-size * eta**2 / 2),
        "constant": lambda: np.full_like(size, eta),
    }[name]()


def row_norms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖(BA)_i‖, BA formed."""
    return np.sqrt(((b @ a) ** 2).sum(axis=1))


def lora(x, a, b, grad, eta=1.0, name="constant"):
    """f = x AᵀBᵀ and its own gradients, summed token by token."""
    grad_product = sum((np.outer(g, token) for g, token in zip(grad, x, strict=True)), np.zeros((len(b), a.shape[1])))
    return x @ (b @ a).T, grad @ (b @ a), b.T @ grad_product, grad_product @ a.T


def listing_1(x, a, b, grad, eta, name="inverse_sqrt"):
    """ALLoRA: row i of ∂L/∂(BA) times h(‖(BA)_i‖); ∂/∂x as it was."""
    d = adaptor(name, row_norms(a, b), eta)
    output, grad_x, _, _ = lora(x, a, b, grad)
    _, _, grad_a, grad_b = lora(x, a, b, grad * d)
    return output, grad_x, grad_a, grad_b


def allora_od(x, a, b, grad, eta, name="inverse_sqrt"):
    """ALLoRA-OD: entry (token, i) of ∂L/∂f times h(|f_i|), for the weights only."""
    output, grad_x, _, _ = lora(x, a, b, grad)
    _, _, grad_a, grad_b = lora(x, a, b, grad * adaptor(name, output, eta))
    return output, grad_x, grad_a, grad_b


def asf_lora(x, a, b, grad, eta, name="inverse_sqrt"):
    """ASF-LoRA: f̃ = f h(|f|), with df̃/df = h + |f| h' by hand."""
    f = x @ (b @ a).T
    h, size = adaptor(name, f, eta), np.abs(f)
    slope = {"inverse_sqrt": -(h**3) / 2, "inverse": -(h**2), "exponential": -h * eta**2 / 2, "constant": 0 * h}[name]
    return f * h, *lora(x, a, b, grad * (h + size * slope))[1:]


# What a wrong implementation would give: the same assertion must reject each.


def norms_of_b(x, a, b, grad, eta, name="inverse_sqrt"):
    """d from ‖B_i‖ where ‖(BA)_i‖ is meant."""
    d = adaptor(name, np.linalg.norm(b, axis=1), eta)
    return *lora(x, a, b, grad)[:2], *lora(x, a, b, grad * d)[2:]


def input_scaled_too(x, a, b, grad, eta, name="inverse_sqrt"):
    """d on ∂/∂x as well."""
    d = adaptor(name, row_norms(a, b), eta)
    return lora(x, a, b, grad)[0], *lora(x, a, b, grad * d)[1:]


def exponent_minus_one(x, a, b, grad, eta, name="inverse_sqrt"):
    """1/(‖(BA)_i‖ + 1/η²), no square root."""
    d = 1 / (row_norms(a, b) + 1 / eta**2)
    return *lora(x, a, b, grad)[:2], *lora(x, a, b, grad * d)[2:]


def parameters_alone(x, a, b, grad, eta, name="inverse_sqrt"):
    """Each parameter's gradient times a factor of its own rows' norms."""
    output, grad_x, grad_a, grad_b = lora(x, a, b, grad)
    scale_a, scale_b = (adaptor(name, np.linalg.norm(part, axis=1), eta)[:, None] for part in (a, b))
    return output, grad_x, scale_a * grad_a, scale_b * grad_b


def factor_on_b_alone(x, a, b, grad, eta, name="inverse_sqrt"):
    """The right d, on B's gradient but not inside A's."""
    output, grad_x, grad_a, _ = lora(x, a, b, grad)
    return output, grad_x, grad_a, listing_1(x, a, b, grad, eta, name)[3]


def descend(rule, x, a, b, target, eta, rate, steps):
    """`steps` of plain descent on ½‖f − target‖² by `rule`; returns A and B."""
    a, b = a.copy(), b.copy()
    for _ in range(steps):
        _, _, grad_a, grad_b = rule(x, a, b, x @ (b @ a).T - target, eta)
        a, b = a - rate * grad_a, b - rate * grad_b
    return a, b


def descend_with_a_frozen_factor(x, a, b, target, eta, rate, steps):
    """The factor of the first step kept for all."""
    a, b = a.copy(), b.copy()
    d = adaptor("inverse_sqrt", row_norms(a, b), eta)
    for _ in range(steps):
        _, _, grad_a, grad_b = lora(x, a, b, (x @ (b @ a).T - target) * d)
        a, b = a - rate * grad_a, b - rate * grad_b
    return a, b


def descend_with_a_late_factor(x, a, b, target, eta, rate, steps):
    """The factor of step t computed from the weights of step t, but used at step t + 1."""
    a, b = a.copy(), b.copy()
    d = adaptor("inverse_sqrt", row_norms(a, b), eta)
    for _ in range(steps):
        _, _, grad_a, grad_b = lora(x, a, b, (x @ (b @ a).T - target) * d)
        d = adaptor("inverse_sqrt", row_norms(a, b), eta)
        a, b = a - rate * grad_a, b - rate * grad_b
    return a, b
