"""References for `ALLoRAAdamW`: AdamW by hand, the row factor from BA, float64. Imports nothing from the package.

`rule` plants one bug at a time, so that a test can show that its assertion would reject it.
"""

import numpy as np

ADAPTORS = {
    "inverse_sqrt": lambda x, eta: 1 / np.sqrt(x + 1 / eta**2),
    "inverse": lambda x, eta: 1 / (x + 1 / eta),
    "exponential": lambda x, eta: eta * np.exp(-x * eta**2 / 2),
    "constant": lambda x, eta: np.full_like(x, eta),
    # planted: an exponent of −1 in place of −1/2, with the same value at 0
    "exponent_minus_one": lambda x, eta: 1 / (x + 1 / eta**2) / eta,
}


def row_factor(a, b, eta, adaptor="inverse_sqrt", scaling=1.0):
    """d_i = h(‖s(BA)_i‖), with BA formed."""
    return ADAPTORS[adaptor](np.sqrt(((scaling * (b @ a)) ** 2).sum(axis=1)), eta)


class AdamW:
    """One array's moments, and its update m̂/(√v̂ + ε)."""

    def __init__(self, betas, eps):
        self.betas, self.eps, self.m, self.v, self.t = betas, eps, 0.0, 0.0, 0

    def update(self, gradient):
        (beta1, beta2), self.t = self.betas, self.t + 1
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        return (self.m / (1 - beta1**self.t)) / (np.sqrt(self.v / (1 - beta2**self.t)) + self.eps)


PLANTED = ("before_adam", "decay_scaled", "norms_of_b", "mean_on_b", "rows_absent_on_a", "frozen", "after_step")


def trajectory(
    a,
    b,
    gradients,
    lr,
    eta,
    betas=(0.9, 0.999),
    eps=1e-8,
    decay=0.01,
    adaptor="inverse_sqrt",
    scaling=1.0,
    rule="after",
):
    """[(A_t, B_t)], t = 0 … T, for gradients (∂A_t, ∂B_t) of a callable (a, b, t); None leaves a matrix alone.

    rule "after": B ← (1 − lλ)B − l·diag(d)u_B, A ← (1 − lλ)A − l·mean(d)u_A, d before the step.
    """
    optimizer_a, optimizer_b = AdamW(betas, eps), AdamW(betas, eps)
    path, first = [(a, b)], row_factor(a, b, eta, adaptor, scaling)
    for t in range(gradients.steps):
        grad_a, grad_b = gradients(a, b, t)
        d = row_factor(a, b, eta, adaptor, scaling)
        if rule == "norms_of_b":
            d = ADAPTORS[adaptor](np.abs(scaling) * np.sqrt((b**2).sum(axis=1)), eta)
        if rule == "frozen":
            d = first
        on_a = 1.0 if rule == "rows_absent_on_a" else d.mean()
        on_b = np.full((len(d), 1), d.mean()) if rule == "mean_on_b" else d[:, None]
        before = rule == "before_adam"
        new_a, new_b = a, b
        if grad_a is not None:
            u = optimizer_a.update(on_a * grad_a) if before else on_a * optimizer_a.update(grad_a)
            new_a = a - lr * u - lr * decay * a * (on_a if rule == "decay_scaled" else 1)
        if rule == "after_step":  # B's factor from the A just moved
            on_b = row_factor(new_a, b, eta, adaptor, scaling)[:, None]
        if grad_b is not None:
            u = optimizer_b.update(on_b * grad_b) if before else on_b * optimizer_b.update(grad_b)
            new_b = b - lr * u - lr * decay * b * (on_b if rule == "decay_scaled" else 1)
        a, b = new_a, new_b
        path.append((a, b))
    return path
