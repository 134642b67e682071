"""References for `escape`, written out entry by entry; imports nothing from the package.

Training from the raw data, one row, one entry and one term at a time. Adam's moments are sums over the whole history of
gradients, the way they are defined, and never a recursion.
"""

import math

import numpy as np
from scipy.integrate import quad

ADAPTORS = {
    "inverse_sqrt": lambda m, eta: 1 / math.sqrt(m + 1 / eta**2),
    "inverse": lambda m, eta: 1 / (m + 1 / eta),
    "exponential": lambda m, eta: eta * math.exp(-m * eta**2 / 2),
    "constant": lambda m, eta: eta,
}


def pair_time(level, gamma, eta, start, adaptor):
    """∫₀^level du/(γ·h(u)·√(s² + 4u²)), the time to a level where A is trained too; u = (s/2)·sinh(z)."""
    core = ADAPTORS[adaptor]
    end = math.asinh(2 * level / start)
    return quad(lambda z: 1 / (2 * gamma * core(start / 2 * math.sinh(z), eta)), 0.0, end, epsabs=0, epsrel=1e-11)[0]


def loss(x, y, a, b):
    """Σ over samples and outputs of (y − (BA)x)²/(2N)."""
    total = 0.0
    for sample, target in zip(x, y, strict=True):
        hidden = [sum(row[j] * sample[j] for j in range(len(sample))) for row in a]
        for i in range(len(target)):
            total += (target[i] - sum(b[i][k] * hidden[k] for k in range(len(hidden)))) ** 2
    return total / (2 * len(x))


def lora_gradients(x, y, a, b, factor):
    """∂L/∂A and ∂L/∂B by the chain rule, output i's error multiplied by `factor[i]` on the way to both."""
    grad_a, grad_b = np.zeros_like(a), np.zeros_like(b)
    for sample, target in zip(x, y, strict=True):
        hidden = a @ sample
        for i in range(len(target)):
            error = (float(b[i] @ hidden) - target[i]) / len(x) * factor[i]
            for k in range(len(a)):
                grad_b[i, k] += error * hidden[k]
                for j in range(len(sample)):
                    grad_a[k, j] += error * b[i, k] * sample[j]
    return grad_a, grad_b


def row_factors(a, b, eta, adaptor):
    """h(‖(BA)_i‖) with BA formed."""
    return [ADAPTORS[adaptor](math.sqrt(sum(value**2 for value in row)), eta) for row in np.einsum("ik,kj->ij", b, a)]


def clipped(gradients, max_norm):
    """Both gradients scaled so that their joint norm is at most `max_norm`."""
    norm = math.sqrt(sum(float(value) ** 2 for gradient in gradients for value in gradient.ravel()))
    scale = max_norm / (norm + 1e-6)
    return [gradient * scale if scale < 1 else gradient for gradient in gradients]


def scheduled(step, steps, warmup, schedule):
    """transformers' factor on the learning rate."""
    if step < warmup:
        return step / max(1, warmup)
    share = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": max(0.0, 1 - share), "cosine": 0.5 * (1 + math.cos(math.pi * share))}[schedule]


def adam_direction(history, beta1, beta2, eps):
    """m̂/(√v̂ + ε), the moments as weighted sums over the gradients so far."""
    count = len(history)
    first = sum(beta1 ** (count - 1 - k) * history[k] for k in range(count)) / sum(beta1**k for k in range(count))
    second = sum(beta2 ** (count - 1 - k) * history[k] ** 2 for k in range(count)) / sum(beta2**k for k in range(count))
    return first / (np.sqrt(second) + eps)


def train(
    x,
    y,
    a,
    *,
    arm,
    optimizer,
    eta,
    learning_rate,
    steps,
    adaptor="inverse_sqrt",
    momentum=0.9,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    max_grad_norm=None,
    warmup=0,
    schedule="constant",
):
    """(A, B) at the start and after every step."""
    a, b = np.array(a, dtype=float), np.zeros((y.shape[1], len(a)))
    path, history, buffer = [(a, b)], [[], []], None
    ones = [1.0] * y.shape[1]
    for index in range(steps):
        d = row_factors(a, b, eta, adaptor)
        on_gradient = arm == "allora" and optimizer != "allora_adamw"
        gradients = lora_gradients(x, y, a, b, d if on_gradient else ones)
        if max_grad_norm is not None:
            gradients = clipped(gradients, max_grad_norm)
        rate = learning_rate * (eta if arm == "lora_eta" else 1) * scheduled(index, steps, warmup, schedule)
        if optimizer in ("sgd", "momentum"):
            gradients = [g + weight_decay * w for g, w in zip(gradients, (a, b), strict=True)]
            if optimizer == "momentum":
                buffer = (
                    gradients if buffer is None else [momentum * u + g for u, g in zip(buffer, gradients, strict=True)]
                )
                gradients = buffer
            a, b = (w - rate * g for g, w in zip(gradients, (a, b), strict=True))
        else:
            for past, gradient in zip(history, gradients, strict=True):
                past.append(gradient)
            step_a, step_b = (adam_direction(past, *betas, eps) for past in history)
            if arm == "allora" and optimizer == "allora_adamw":
                step_a, step_b = step_a * (sum(d) / len(d)), np.diag(d) @ step_b
            a, b = a - rate * weight_decay * a - rate * step_a, b - rate * weight_decay * b - rate * step_b
        path.append((a, b))
    return path
