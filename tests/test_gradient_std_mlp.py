"""The network, and its second layer's gradient as a function of the masks, against autograd and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allora_analysis.gradient_std.estimator import LinearGradient, MLPGradient, forward, initialise
from allora_analysis.validation import ArgumentError
from tests.brute_force import gradient_std as reference


def problem(rng, sizes=(6, 5, 4, 3), n=7, dtype=torch.float64):
    mlp = initialise(sizes, rng, dtype)
    return (
        mlp,
        torch.as_tensor(rng.standard_normal((n, sizes[0])), dtype=dtype),
        torch.as_tensor(rng.integers(0, sizes[-1], n)),
    )


def masks(rng, model, k, keep_prob=0.6):
    return torch.as_tensor(rng.random((k, model.mask_size)) < keep_prob)


def split(row, n, widths):
    parts = np.split(row.numpy(), np.cumsum([n * width for width in widths])[:-1])
    return [part.reshape(n, -1) for part in parts]


@pytest.mark.parametrize("sizes", [(6, 5, 3), (6, 5, 4, 3), (6, 5, 4, 8, 3), (2, 1, 1, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gradient_is_autograds_for_every_mask(rng, sizes, dtype, tolerance):
    mlp, x, y = problem(rng, sizes, dtype=dtype)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 5)
    left, right = model.factors(kept)
    for k in range(5):
        wanted = reference.second_layer_gradient(mlp.weights, mlp.biases, x, y, split(kept[k], 7, sizes[1:-1]), 0.6)
        got = (left[k].T @ right[k]).numpy()
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()
    assert model.shape == tuple(mlp.weights[1].shape)


def test_a_dropped_first_mask_is_seen_by_the_reference(rng):
    """The negative control of the test above: another mask is another gradient."""
    mlp, x, y = problem(rng)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 1)
    left, right = model.factors(kept)
    kept[0] = ~kept[0]
    other = reference.second_layer_gradient(mlp.weights, mlp.biases, x, y, split(kept[0], 7, (5, 4)), 0.6)
    assert np.abs((left[0].T @ right[0]).numpy() - other).max() > 1e-4


def test_chunks_do_not_overwrite_each_others_answers(rng):
    mlp, x, y = problem(rng)
    model = MLPGradient(mlp, x, y, 0.6)
    kept = masks(rng, model, 6)
    together = torch.einsum("kni,knj->kij", *model.factors(kept))
    alone = torch.cat([torch.einsum("kni,knj->kij", *model.factors(kept[k : k + 1])) for k in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)


def test_forward_is_the_references(rng):
    mlp, x, _ = problem(rng)
    kept = [torch.as_tensor(rng.random((7, width)) < 0.6) for width in (5, 4)]
    arrays = [part.numpy() for part in kept]
    torch.testing.assert_close(
        forward(mlp, x, kept, 0.6), reference.logits(mlp.weights, mlp.biases, x, arrays, 0.6), rtol=1e-12, atol=0
    )
    ones = [np.ones((7, width)) for width in (5, 4)]
    torch.testing.assert_close(forward(mlp, x), reference.logits(mlp.weights, mlp.biases, x, ones, 1.0))


def test_initialisation_is_uniform_within_pytorchs_bound_and_depends_on_the_generator(rng):
    mlp = initialise((100, 50, 10), np.random.default_rng(1))
    for weight, bias, inputs in zip(mlp.weights, mlp.biases, (100, 50), strict=True):
        everything = torch.cat([weight.flatten(), bias])
        assert 0.95 * inputs**-0.5 < everything.abs().max() <= inputs**-0.5
        assert abs(everything.mean()) < 5 * inputs**-0.5 / (3 * len(everything)) ** 0.5
    again = initialise((100, 50, 10), np.random.default_rng(1))
    assert all(torch.equal(a, b) for a, b in zip(mlp.parameters, again.parameters, strict=True))
    assert len(mlp.parameters) == 4
    assert mlp.weights[0].dtype == torch.float32


@pytest.mark.bad_input
def test_without_a_hidden_layer_there_is_no_second_layer(rng):
    mlp, x, y = problem(rng, (6, 3))
    with pytest.raises(ArgumentError, match="hidden must have at least one width"):
        MLPGradient(mlp, x, y, 0.5)


@pytest.mark.bad_input
@pytest.mark.parametrize("keep_prob", [0.0, -0.1, 1.5, float("nan")])
def test_a_keep_probability_out_of_range_is_refused(rng, keep_prob):
    mlp, x, y = problem(rng)
    with pytest.raises(ArgumentError, match="keep_prob must be"):
        MLPGradient(mlp, x, y, keep_prob)
    with pytest.raises(ArgumentError, match="keep_prob must be"):
        LinearGradient(x, x, x[:6].T @ x[:6], keep_prob)
