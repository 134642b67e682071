"""SGD under dropout by enumeration: every sequence of masks (and of minibatch draws), with its probability; the same in
LoRA's factors.

Imports nothing from the package.
"""

from itertools import product

import numpy as np


def outcomes(n, d, c, keep_prob, placement, batch_size=None, shared_mask=False):
    """Every (probability, rows, masks) of one step; masks are (rows, c) on outputs, (rows, d) on inputs."""
    batches = [tuple(range(n))] if batch_size is None else list(product(range(n), repeat=batch_size))
    for rows in batches:
        shape = (len(rows), c) if placement == "output" else (1 if shared_mask else len(rows), d)
        for bits in product((0, 1), repeat=shape[0] * shape[1]):
            ones = sum(bits)
            probability = keep_prob**ones * (1 - keep_prob) ** (len(bits) - ones) / len(batches)
            if probability > 0:
                masks = np.array(bits, dtype=float).reshape(shape) / keep_prob
                yield probability, list(rows), np.broadcast_to(masks, (len(rows), shape[1]))


def affine_steps(x, y, keep_prob, rate, placement, batch_size=None, shared_mask=False):
    """Every step as W_c ← M[c] W_c + v[c]: probabilities (K), M (K, C, D, D), v (K, C, D)."""
    (n, d), c = x.shape, y.shape[1]
    probabilities, maps, shifts = [], [], []
    for probability, rows, masks in outcomes(n, d, c, keep_prob, placement, batch_size, shared_mask):
        scale = 2 * rate * n / len(rows)
        probabilities.append(probability)
        per_column = []
        for j in range(c):
            # d/dw of Σ (y − masked row · w)²
            design = masks[:, [j]] * x[rows] if placement == "output" else masks * x[rows]
            per_column.append((np.eye(d) - scale * design.T @ design, scale * design.T @ y[rows, j]))
        maps.append([m for m, _ in per_column])
        shifts.append([v for _, v in per_column])
    return np.array(probabilities), np.array(maps), np.array(shifts)


def trajectory(x, y, keep_prob, rates, placement, batch_size=None, shared_mask=False):
    """Lists over steps 0 … T of mean (D, C), covariance (C, D, D), and the same of the average of W_1 … W_t."""
    d, c = x.shape[1], y.shape[1]
    weight, w, total = np.ones(1), np.zeros((1, c, d)), np.zeros((1, c, d))
    means, covariances, average_means, average_covariances = [], [], [], []

    def note(divisor):
        for values, mean_list, covariance_list in (
            (w, means, covariances),
            (total / divisor, average_means, average_covariances),
        ):
            mean = np.einsum("k,kcd->cd", weight, values)
            gaps = values - mean
            mean_list.append(mean.T)
            covariance_list.append(np.einsum("k,kcd,kce->cde", weight, gaps, gaps))

    note(1)
    for step, rate in enumerate(rates, start=1):
        probability, maps, shifts = affine_steps(x, y, keep_prob, rate, placement, batch_size, shared_mask)
        weight = np.outer(weight, probability).ravel()
        w_next = np.einsum("ocde,kce->kocd", maps, w) + shifts[None]
        total = (total[:, None] + w_next).reshape(-1, c, d)
        w = w_next.reshape(-1, c, d)
        note(step)
    return means, covariances, average_means, average_covariances


def covariance_radius(x, keep_prob, rate, placement, batch_size=None, shared_mask=False):
    """Spectral radius of E[M ⊗ M] on symmetric matrices that the steps can reach: 1s of unmoved directions left out."""
    y = np.zeros((len(x), 1))
    probability, maps, _ = affine_steps(x, y, keep_prob, rate, placement, batch_size, shared_mask)
    maps = maps[:, 0]
    reach = np.einsum("o,oij,okj->ik", probability, np.eye(x.shape[1]) - maps, np.eye(x.shape[1]) - maps)
    values, vectors = np.linalg.eigh(reach)
    basis = vectors[:, values > 1e-12 * values[-1]]
    inner = np.einsum("ia,oij,jb->oab", basis, maps, basis)
    operator = np.einsum("o,oab,ocd->acbd", probability, inner, inner).reshape(basis.shape[1] ** 2, -1)
    return float(np.abs(np.linalg.eigvals(operator)).max())


def covariance_limit(x, keep_prob, placement, batch_size=None, shared_mask=False):
    """The rate at which that radius reaches 1, by bisection."""
    low, high = 0.0, 1.0
    while covariance_radius(x, keep_prob, high, placement, batch_size, shared_mask) < 1:
        high *= 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        stable = covariance_radius(x, keep_prob, middle, placement, batch_size, shared_mask) < 1
        low, high = (middle, high) if stable else (low, middle)
    return 0.5 * (low + high)


def factor_masks(n, d, c, rank, keep_prob, placement):
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
    drawn, chance = factor_masks(len(x), x.shape[1], y.shape[1], len(a), keep_prob, placement)
    for mask in drawn:
        grad_a, grad_b = gradients(x, y, a, b, mask, placement)
        found.append(np.hstack([grad_a, grad_b.T]).ravel())
    found = np.array(found)
    mean = chance @ found
    return mean, (found - mean).T @ ((found - mean) * chance[:, None])


def factor_trajectory(x, y, a, b, keep_prob, rate, steps, placement):
    """E W_t and tr Cov W_t, W = AᵀBᵀ, at steps 0 … T."""
    drawn, chance = factor_masks(len(x), x.shape[1], y.shape[1], len(a), keep_prob, placement)
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
