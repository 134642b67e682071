"""SGD under dropout in LoRA's factors by enumeration of every sequence of masks. Imports nothing from the package."""

from itertools import product

import numpy as np


def masks(n, d, c, rank, keep_prob, placement):
    """Every mask of one step and its probability."""
    shape = (n, {"input": d, "output": c, "bottleneck": rank}[placement])
    bits = np.array(list(product((0.0, 1.0), repeat=shape[0] * shape[1])))
    ones = bits.sum(axis=1)
    chance = keep_prob**ones * (1 - keep_prob) ** (bits.shape[1] - ones)
    return bits.reshape(-1, *shape)[chance > 0] / keep_prob, chance[chance > 0]


def gradients(x, y, a, b, mask, placement):
    """∂‖Y − masked(XAᵀBᵀ)‖²/∂(A, B), for one mask, one layer after the other."""
    u = x * mask if placement == "input" else x
    z = u @ a.T
    hidden = z * mask if placement == "bottleneck" else z
    output = hidden @ b.T
    delta = -2 * (y - (output * mask if placement == "output" else output))
    delta = delta * mask if placement == "output" else delta
    back = delta @ b * mask if placement == "bottleneck" else delta @ b
    return back.T @ u, delta.T @ hidden


def first_step(x, y, a, b, keep_prob, placement):
    """Mean and covariance over masks of the gradient in (A_1, B_1, A_2, B_2, …), node by node."""
    found, chance = [], None
    drawn, chance = masks(len(x), x.shape[1], y.shape[1], len(a), keep_prob, placement)
    for mask in drawn:
        grad_a, grad_b = gradients(x, y, a, b, mask, placement)
        found.append(np.hstack([grad_a, grad_b.T]).ravel())
    found = np.array(found)
    mean = chance @ found
    return mean, (found - mean).T @ ((found - mean) * chance[:, None])


def trajectory(x, y, a, b, keep_prob, rate, steps, placement):
    """E W_t and tr Cov W_t, W = AᵀBᵀ, at steps 0 … T."""
    drawn, chance = masks(len(x), x.shape[1], y.shape[1], len(a), keep_prob, placement)
    states, weight, means, traces = [(a, b)], np.ones(1), [], []
    for step in range(steps + 1):
        w = np.array([(one_b @ one_a).T for one_a, one_b in states])
        mean = np.tensordot(weight, w, 1)
        means.append(mean)
        traces.append(float(weight @ ((w - mean) ** 2).sum(axis=(1, 2))))
        if step < steps:
            following = []
            for one_a, one_b in states:
                for mask in drawn:
                    grad_a, grad_b = gradients(x, y, one_a, one_b, mask, placement)
                    following.append((one_a - rate * grad_a, one_b - rate * grad_b))
            states, weight = following, np.multiply.outer(weight, chance).ravel()
    return np.array(means), np.array(traces)
