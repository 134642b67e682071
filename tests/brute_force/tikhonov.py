"""Dropout in a linear model by enumerating every mask, in plain loops. Imports nothing from the package."""

import itertools
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize, nnls


def masks(rows, columns, keep_prob):
    """Every mask with its probability."""
    for bits in itertools.product((0, 1), repeat=rows * columns):
        kept = sum(bits)
        probability = keep_prob**kept * (1 - keep_prob) ** (len(bits) - kept)
        yield np.array(bits, dtype=float).reshape(rows, columns) / keep_prob, probability


def output_loss(x, y, w, keep_prob):
    return sum(q * np.linalg.norm(y - (x @ w) * v) ** 2 for v, q in masks(*y.shape, keep_prob))


def input_loss(x, y, w, keep_prob):
    return sum(q * np.linalg.norm(y - (x * v) @ w) ** 2 for v, q in masks(*x.shape, keep_prob))


def bottleneck_loss(x, y, a, b, keep_prob):
    masked = masks(x.shape[0], a.shape[0], keep_prob)
    return sum(q * np.linalg.norm(y - ((x @ a.T) * v) @ b.T) ** 2 for v, q in masked)


LOSS = {"output": output_loss, "input": input_loss}


def quadratic_minimiser(loss, shape):
    """The least-norm minimizer of a quadratic function of a matrix, from its values alone (polarization)."""
    size = int(np.prod(shape))
    unit = np.eye(size).reshape(size, *shape)
    at_zero = loss(np.zeros(shape))
    plus = np.array([loss(e) for e in unit])
    minus = np.array([loss(-e) for e in unit])
    gradient = (plus - minus) / 2
    hessian = np.diag(plus + minus - 2 * at_zero)
    for i, j in itertools.combinations(range(size), 2):
        hessian[i, j] = hessian[j, i] = loss(unit[i] + unit[j]) - plus[i] - plus[j] + at_zero
    return (-np.linalg.pinv(hessian, rcond=1e-10) @ gradient).reshape(shape)


def exact_minimiser(x, y, keep_prob, placement):
    """The W with S/p·W = XᵀY (output) or (S + k diag S)W = XᵀY (input), in exact fractions; H must be invertible."""
    x, y = ([[Fraction(value) for value in row] for row in array.tolist()] for array in (x, y))
    p, d = Fraction(keep_prob), len(x[0])
    rows = []
    for i in range(d):
        left = [sum(row[i] * row[j] for row in x) for j in range(d)]
        left = [s / p if placement == "output" or i == j else s for j, s in enumerate(left)]  # 1 + k = 1/p
        rows.append(
            left + [sum(row[i] * target[c] for row, target in zip(x, y, strict=True)) for c in range(len(y[0]))]
        )
    for i in range(d):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in set(range(d)) - {i}:
            rows[j] = [value - rows[j][i] * other for value, other in zip(rows[j], rows[i], strict=True)]
    return np.array([[float(value) for value in row[d:]] for row in rows])


def bottleneck_minimum(x, y, keep_prob, rank, starts, generator):
    """Multi-start L-BFGS on the enumerated loss over (A, B), gradients summed mask by mask."""
    every = [(v, q) for v, q in masks(x.shape[0], rank, keep_prob) if q > 0]
    stack, weight = np.stack([v for v, _ in every]), np.array([q for _, q in every])
    d, c = x.shape[1], y.shape[1]

    def value(flat):
        a, b = flat[: rank * d].reshape(rank, d), flat[rank * d :].reshape(c, rank)
        hidden = stack * (x @ a.T)
        error = hidden @ b.T - y
        weighted = error * weight[:, None, None]
        by_b = 2 * np.tensordot(weighted, hidden, axes=([0, 1], [0, 1]))
        by_a = 2 * ((weighted @ b) * stack).sum(axis=0).T @ x
        return float((weighted * error).sum()), np.concatenate([by_a.ravel(), by_b.ravel()])

    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-16, "gtol": 1e-11}
    return min(
        minimize(value, generator.standard_normal(rank * (d + c)), jac=True, method="L-BFGS-B", options=options).fun
        for _ in range(starts)
    )


def thresholded(values, noise, rank):
    """argmin over t ≥ 0 of Σ_{i≤r}(σ_i − t_i)² + (k/r)(Σ t_i)², as non-negative least squares."""
    kept = np.sort(values)[::-1][:rank]
    design = np.vstack([np.eye(len(kept)), np.full((1, len(kept)), np.sqrt(noise / rank))])
    return nnls(design, np.append(kept, 0.0))[0]


def ridge(x, y, penalty):
    """(XᵀX + λI)⁻¹XᵀY for λ > 0, by the normal equations."""
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def grid_distance(x, y, fit, penalties):
    """‖Z − XW_λ‖/‖Z‖ on a grid of λ > 0."""
    return np.array([np.linalg.norm(fit - x @ ridge(x, y, penalty)) for penalty in penalties]) / np.linalg.norm(fit)
