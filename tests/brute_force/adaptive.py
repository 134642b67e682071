"""References for `adaptive`: automatic differentiation, exact fractions, loops. Imports nothing from the package."""

import functools
from fractions import Fraction

import numpy as np
import torch


def factor(a, b, eta):
    """d_i from a formed BA, row by row."""
    product = np.array(b) @ np.array(a)
    return np.array([(float(np.sqrt((row**2).sum())) + 1 / eta**2) ** -0.5 for row in product])


def gradients_of_weighted_loss(x, y, a, b, d):
    """Autograd's gradient in (A, B) of Σ_i d_i·½‖(XPᵀ − Y)_i‖², d held fixed: the update field of a squared loss."""
    x, y, d = (torch.tensor(v, dtype=torch.float64) for v in (x, y, d))
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b))
    (0.5 * d * (x @ a.T @ b.T - y) ** 2).sum().backward()
    return a.grad.numpy(), b.grad.numpy()


def first_order_changes(a, b, g, eta):
    """⟨G, B ΔA⟩/l and ⟨G, ΔB A⟩/l of an ALLoRA step."""
    d = factor(a, b, eta)[:, None]
    return np.sum(g * (b @ (-b.T @ (d * g)))), np.sum(g * ((-d * g @ a.T) @ a))


def field_jacobian(x, y, a, b, eta):
    """Autograd's Jacobian of F(A, B) = (BᵀD_dG, D_dGAᵀ) for a squared loss, d differentiated through the norm."""
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    shape_a, shape_b = np.shape(a), np.shape(b)
    size = int(np.prod(shape_a))

    def field(parameters):
        a, b = parameters[:size].reshape(shape_a), parameters[size:].reshape(shape_b)
        g = (x @ (b @ a).T - y).T @ x
        adapted = (torch.linalg.vector_norm(b @ a, dim=1) + eta**-2).rsqrt()[:, None] * g
        return torch.cat([(b.T @ adapted).ravel(), (adapted @ a.T).ravel()])

    start = torch.tensor(np.concatenate([np.ravel(a), np.ravel(b)]), dtype=torch.float64)
    return torch.autograd.functional.jacobian(field, start).numpy()


def lora_hessian(x, y, a, b):
    """Autograd's Hessian of ½‖X(BA)ᵀ − Y‖² in (A, B)."""
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    shape_a, shape_b = np.shape(a), np.shape(b)
    size = int(np.prod(shape_a))

    def loss(parameters):
        a, b = parameters[:size].reshape(shape_a), parameters[size:].reshape(shape_b)
        return 0.5 * ((x @ (b @ a).T - y) ** 2).sum()

    start = torch.tensor(np.concatenate([np.ravel(a), np.ravel(b)]), dtype=torch.float64)
    return torch.autograd.functional.hessian(loss, start).numpy()


def exact_loss_after_step(a, b, y, d, step):
    """½‖b′a′ − y‖² after one step, in fractions: rank 1, one input of 1."""
    g = [bi * a - yi for bi, yi in zip(b, y, strict=True)]
    moved_a = a - step * sum((bi * di * gi for bi, di, gi in zip(b, d, g, strict=True)), Fraction(0))
    moved_b = [bi - step * di * gi * a for bi, di, gi in zip(b, d, g, strict=True)]
    return sum(((bi * moved_a - yi) ** 2 for bi, yi in zip(moved_b, y, strict=True)), Fraction(0)) / 2


def torch_training(x, y, a_draw, knobs, steps, optimizer):
    """The same training with torch's own AdamW or SGD, A and B each a parameter group; `knobs` a mapping."""
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    a = (knobs["init_a"] * torch.tensor(a_draw, dtype=torch.float64)).requires_grad_()
    b = torch.zeros(y.shape[1], len(a_draw), dtype=torch.float64, requires_grad=True)
    groups = [
        {"params": [part], "lr": knobs[f"rate_{name}"], "weight_decay": knobs[f"decay_{name}"]}
        for name, part in (("a", a), ("b", b))
    ]
    if optimizer == "adam":
        for group, name in zip(groups, "ab", strict=True):
            group["eps"] = knobs[f"eps_{name}"]
        rule = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    else:
        rule = torch.optim.SGD([{**group, "weight_decay": 0.0} for group in groups], lr=1.0)
    path = [np.zeros((y.shape[1], x.shape[1]))]
    for _ in range(steps):
        rule.zero_grad()
        output = torch.tanh(knobs["scaling"] * (x @ a.T @ b.T))
        (((output - y) ** 2).sum() / (2 * len(x))).backward()
        if knobs["eta"] is not None:
            g = (knobs["scaling"] * ((output - y) * (1 - output**2)).T @ x / len(x)).detach()
            adapted = ((b @ a).norm(dim=1) + knobs["eta"] ** -2).rsqrt()[:, None].detach() * g
            a.grad, b.grad = (b.T @ adapted).detach(), (adapted @ a.T).detach()
        rule.step()
        path.append((knobs["scaling"] * b @ a).detach().numpy().copy())
    return np.array(path)


def factor_over_outputs(sigma, eta):
    """E[d], Var[d] and E[d z²] for f = σz, by mpmath at 30 digits."""
    import mpmath

    with mpmath.workdps(50):  # more than quadrature takes for itself
        norm = mpmath.sqrt(2 / mpmath.pi)
    with mpmath.workdps(30):
        sigma, offset = mpmath.mpf(sigma), mpmath.mpf(eta) ** -2
        unit = sigma + offset  # mpmath's tolerance is absolute

        @functools.cache  # three integrals have the same nodes
        def factor_and_density(z):
            return ((sigma * z + offset) / unit) ** mpmath.mpf("-0.5"), norm * mpmath.exp(-z * z / 2)

        def mean(function):
            def integrand(z):
                d, density = factor_and_density(z)
                return function(z, d) * density

            knee = min(offset / sigma, mpmath.mpf(1))
            powers = [knee * 10**power for power in range(2, 1 - int(mpmath.log10(knee)), 2)]
            return mpmath.quad(integrand, [0, knee / 100, knee, min(30 * knee, 2), *powers, 3, 6, 20])

        first = mean(lambda z, d: d)
        second = mean(lambda z, d: d * d)
        along = mean(lambda z, d: z * z * d)
        return float(first / mpmath.sqrt(unit)), float((second - first**2) / unit), float(along / mpmath.sqrt(unit))
