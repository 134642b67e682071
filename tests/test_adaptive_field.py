"""The update field and its Jacobian, against automatic differentiation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import adaptive
from allora_analysis.adaptive.field import field
from allora_analysis.validation import ArgumentError
from tests.brute_force import adaptive as brute
from tests.stat_assert import assert_rejects

SHAPES = [(4, 3, 2), (5, 2, 1), (2, 5, 2), (3, 1, 1), (1, 4, 1)]  # n1, n2, rank
ETAS = [0.5, 1.0, 3.0]


def problem(rng, n1, n2, rank, samples=7):
    x, y = rng.standard_normal((samples, n2)), rng.standard_normal((samples, n1))
    a, b = rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank))
    return x, y, a, b, (x @ (b @ a).T - y).T @ x


def assert_field(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eta", ETAS)
def test_field_is_the_gradient_of_the_loss_with_frozen_factors(rng, shape, eta):
    x, y, a, b, g = problem(rng, *shape)
    d = brute.factor(a, b, eta)
    np.testing.assert_allclose(adaptive.row_factor(a, b, eta), d, rtol=1e-14)
    assert_field(adaptive.update_field(a, b, g, eta), brute.gradients_of_weighted_loss(x, y, a, b, d))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b, eta: (np.linalg.norm(b, axis=1) + eta**-2) ** -0.5,  # norms of B, not of BA
        lambda a, b, eta: 1 / (np.linalg.norm(b @ a, axis=1) + eta**-2),  # exponent −1
        lambda a, b, eta: (np.linalg.norm(b @ a, axis=1) + eta**-1) ** -0.5,
        lambda a, b, eta: np.full(len(b), eta),  # frozen at its first value
    ],
)
def test_planted_factors_are_rejected(rng, wrong):
    x, y, a, b, g = problem(rng, 4, 3, 2)
    expected = brute.gradients_of_weighted_loss(x, y, a, b, brute.factor(a, b, 2.0))
    assert_field(field(a, b, g, adaptive.row_factor(a, b, 2.0)), expected)
    assert_rejects(assert_field, field(a, b, g, wrong(a, b, 2.0)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eta", ETAS)
def test_jacobian_is_autograds(rng, shape, eta):
    x, y, a, b, g = problem(rng, *shape)
    expected = brute.field_jacobian(x, y, a, b, eta)
    found = adaptive.update_jacobian(a, b, g, x.T @ x, eta)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())
    # Leaving out the factor's own derivative, the mistake that would make it symmetric, is not within tolerance.
    frozen = adaptive.update_jacobian(a, b, np.zeros_like(g), x.T @ x, eta)
    assert not np.allclose(frozen, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


class Scaled(torch.autograd.Function):
    """The layer as §4.2 defines it, with a backward pass of differentiable operations."""

    @staticmethod
    def forward(ctx, x, a, b, eta):
        ctx.save_for_backward(x, a, b)
        ctx.eta = eta
        return x @ a.T @ b.T

    @staticmethod
    def backward(ctx, grad):
        x, a, b = ctx.saved_tensors
        d = ((b @ a).norm(dim=1) + ctx.eta**-2).rsqrt()
        return grad @ b @ a, (grad * d @ b).T @ x, (grad * d).T @ (x @ a.T), None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eta", ETAS)
def test_double_backward_of_the_layer(rng, shape, eta):
    x, y, a, b, g = problem(rng, *shape)
    pair = [torch.tensor(part, requires_grad=True) for part in (a, b)]
    loss = ((Scaled.apply(torch.tensor(x), *pair, eta) - torch.tensor(y)) ** 2).sum() / 2
    flat = torch.cat([part.ravel() for part in torch.autograd.grad(loss, pair, create_graph=True)])
    rows = [torch.cat([p.ravel() for p in torch.autograd.grad(entry, pair, retain_graph=True)]) for entry in flat]
    expected = torch.stack(rows).numpy()
    found = adaptive.layer_double_backward(a, b, g, x.T @ x, eta)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())
    jacobian = adaptive.update_jacobian(a, b, g, x.T @ x, eta)
    assert not np.allclose(jacobian, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_masked_field(rng):
    _, _, a, b, g = problem(rng, 4, 3, 2)
    keep = np.array([1.0, 0.0, 1.0, 0.5])
    assert_field(adaptive.masked_field(a, b, g, keep), (b.T @ np.diag(keep) @ g, np.diag(keep) @ g @ a.T))


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_is_symmetric_for_one_input_only(rng, shape):
    x, _, a, b, g = problem(rng, *shape)
    asymmetry = adaptive.relative_asymmetry(adaptive.update_jacobian(a, b, g, x.T @ x, 2.0))
    if shape[1] == 1:
        assert asymmetry < 1e-15
    else:
        assert asymmetry > 1e-3


def test_jacobian_is_symmetric_where_the_gradient_is_parallel_to_the_product(rng):
    x, _, a, b, _ = problem(rng, 4, 3, 2)
    g = rng.standard_normal((4, 1)) * (b @ a)
    assert adaptive.relative_asymmetry(adaptive.update_jacobian(a, b, g, x.T @ x, 2.0)) < 1e-15


def test_asymmetry_is_the_docstrings_closed_form(rng):
    x, _, a, b, g = problem(rng, 4, 3, 2)
    eta, (rank, n2), n1 = 1.5, a.shape, len(b)
    j = adaptive.update_jacobian(a, b, g, x.T @ x, eta)
    d, product = adaptive.row_factor(a, b, eta), b @ a
    basis = np.eye(rank * (n1 + n2))
    k = np.array([b @ e[: rank * n2].reshape(rank, n2) + e[rank * n2 :].reshape(n1, rank) @ a for e in basis])
    curl = np.einsum("i,ij,im->ijm", d**3 / 2 / np.linalg.norm(product, axis=1), product, g)
    expected = np.einsum("uij,ijm,vim->uv", k, curl - curl.transpose(0, 2, 1), k)
    np.testing.assert_allclose(j - j.T, expected, atol=1e-12 * np.abs(j).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_at_zero_the_smooth_part_is_eta_times_loras_hessian(rng, shape):
    x, y, a, b, _ = problem(rng, *shape)
    b, eta = np.zeros_like(b), 2.0
    g = -y.T @ x
    expected = eta * brute.lora_hessian(x, y, a, b)
    found = adaptive.update_jacobian(a, b, g, x.T @ x, eta)
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(brute.field_jacobian(x, y, a, b, eta), expected, atol=1e-11 * np.abs(expected).max())


def one_sided(x, y, a, b, eta, alpha, beta, t):
    def at(a, b):
        return brute.gradients_of_weighted_loss(x, y, a, b, brute.factor(a, b, eta))

    return [(new - old) / t for new, old in zip(at(a + t * alpha, b + t * beta), at(a, b), strict=True)]


@pytest.mark.parametrize("zero_rows", [0, 2, 4])
def test_directional_derivative_has_the_kink(rng, zero_rows):
    x, y, a, b, _ = problem(rng, 4, 3, 2)
    b[:zero_rows] = 0.0
    g, eta = (x @ (b @ a).T - y).T @ x, 1.5
    alpha, beta = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
    found = adaptive.directional_derivative(a, b, g, x.T @ x, eta, (alpha, beta))
    for one, other in zip(found, one_sided(x, y, a, b, eta, alpha, beta, 1e-7), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    back = adaptive.directional_derivative(a, b, g, x.T @ x, eta, (-alpha, -beta))
    # Even part: −½η³‖β_iA‖(GAᵀ)_i on the zero rows, nothing elsewhere: no linear map.
    kink = -0.5 * eta**3 * np.linalg.norm(beta @ a, axis=1)[:, None] * (g @ a.T)
    kink[zero_rows:] = 0.0
    np.testing.assert_allclose((found[1] + back[1]) / 2, kink, atol=1e-10 * np.abs(found[1]).max())
    np.testing.assert_allclose(found[0] + back[0], 0.0, atol=1e-10 * np.abs(found[0]).max())


def test_directional_derivative_is_the_jacobian_away_from_zero(rng):
    x, _, a, b, g = problem(rng, 4, 3, 2)
    alpha, beta = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
    found = adaptive.directional_derivative(a, b, g, x.T @ x, 1.5, (alpha, beta))
    j = adaptive.update_jacobian(a, b, g, x.T @ x, 1.5)
    flat = np.concatenate([part.ravel() for part in found])
    np.testing.assert_allclose(flat, j @ np.concatenate([alpha.ravel(), beta.ravel()]), atol=1e-11 * np.abs(flat).max())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.floats(-3.0, 3.0))
def test_field_scales(seed, eta, log_scale):
    """(A, B) → (cA, cB), η → η/c: F → F·(1/c)·c, since d → d/c: the identity behind η being a scaling factor."""
    _, _, a, b, g = problem(np.random.default_rng(seed), 3, 4, 2)
    c = 10.0**log_scale
    scaled = adaptive.update_field(c * a, c * b, g, eta / c)
    for one, other in zip(scaled, adaptive.update_field(a, b, g, eta), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12 * np.abs(other).max())


def test_relative_asymmetry():
    assert adaptive.relative_asymmetry([[1.0, 2.0], [2.0, 3.0]]) == 0.0
    for size in (1e-300, 1e-165, 1.0, 1e165, 1e300):
        assert adaptive.relative_asymmetry([[0.0, size], [-size, 0.0]]) == pytest.approx(1.0)
    assert adaptive.relative_asymmetry([[0.0, 0.0], [0.0, 0.0]]) == 0.0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adaptive.row_factor([[1.0]], [[1.0]], 0.0), "eta"),
        (lambda: adaptive.row_factor([[1.0]], [[1.0, 2.0]], 1.0), "b: shape"),
        (lambda: adaptive.row_factor([[1.0], [2.0]], [[1.0, 2.0]], 1.0), "rank"),
        (lambda: adaptive.update_field([[1.0]], [[1.0]], [[1.0, 2.0]], 1.0), "g: shape"),
        (lambda: adaptive.update_field([[np.nan]], [[1.0]], [[1.0]], 1.0), "finite"),
        (lambda: adaptive.update_jacobian([[1.0, 2.0]], [[1.0]], [[1.0, 2.0]], np.eye(3), 1.0), "s: shape"),
        (lambda: adaptive.update_jacobian([[1.0, 2.0]], [[1.0]], [[1.0, 2.0]], [[1, 2], [0, 1]], 1.0), "symmetric"),
        (lambda: adaptive.relative_asymmetry([[1.0, 2.0]]), "jacobian: shape"),
        (lambda: adaptive.masked_field([[1.0]], [[1.0]], [[1.0]], [1.0, 2.0]), "factor must hold 1"),
        (
            lambda: adaptive.directional_derivative([[1.0]], [[1.0]], [[1.0]], [[1.0]], 1.0, ([[1.0, 1.0]], [[1.0]])),
            "direction",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
