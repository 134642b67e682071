"""The digits MLP: what its start promises, what training does, and that a run depends on its seed alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.hessian.network import network_spectrum
from allora_analysis.hessian.network_inertia import (
    adapted_mlp,
    descend,
    digits,
    digits_spectra,
    gradient_norms,
    new_digits,
)
from allora_analysis.validation import ArgumentError


@pytest.fixture(scope="module")
def spectra():
    return digits_spectra(seed=0, rank=2, k=4)


def test_the_start_is_indefinite_but_not_stationary(spectra):
    assert spectra.gradient_a == 0
    assert spectra.gradient_b > 0.1
    assert spectra.start.gradient_norm == pytest.approx(spectra.gradient_b, rel=1e-12)
    assert spectra.start.smallest[-1] < 0 < spectra.start.largest[0]
    # 32 hidden units; ten logits whose gradients sum to zero
    assert spectra.inertia.layer_ranks == {"0": 32, "2": 9}
    assert spectra.inertia.negative == spectra.inertia.bound == 2 * (32 + 9)


def test_training_lowers_the_loss_and_leaves_shallow_negative_directions(spectra):
    assert spectra.trained.loss < 0.3 * spectra.start.loss
    ratios = [-s.smallest[0] / s.largest[-1] for s in (spectra.start, spectra.trained)]
    assert ratios[0] > 0.9
    assert 0 < ratios[1] < 0.05


def test_both_spectra_are_certified(spectra):
    for spectrum in (spectra.start, spectra.trained):
        assert (spectrum.method, spectrum.dimension) == ("lanczos", 2 * (64 + 32 + 32 + 10))
        scale = spectrum.largest[-1]
        assert max(spectrum.smallest_residuals.max(), spectrum.largest_residuals.max()) <= 1e-9 * scale


def test_the_trained_ends_are_the_dense_hessians(spectra):
    model, loss, data = adapted_mlp(0, 2), nn.CrossEntropyLoss(), new_digits()
    descend(model, loss, data, 300, 0.05)
    dense = network_spectrum(model, loss, data, spectra.trained.dimension)
    assert dense.method == "dense"
    np.testing.assert_allclose(spectra.trained.smallest, dense.smallest[:4], rtol=1e-8)
    np.testing.assert_allclose(spectra.trained.largest, dense.largest[-4:], rtol=1e-8)


def test_a_run_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = adapted_mlp(5, 1).state_dict()
    before = torch.random.get_rng_state()
    second = adapted_mlp(5, 1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.a"], adapted_mlp(6, 1).state_dict()["0.a"])


def test_digits_are_the_classes_asked_for():
    x, y = digits(5, 9)
    assert x.shape == (len(y), 64)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert set(y.tolist()) == {5, 6, 7, 8, 9}
    assert len(digits(0, 4)[1]) + len(y) == 1797
    assert len(new_digits()[1]) == 300


def test_gradient_norms_of_b_alone_at_the_start():
    model, loss, data = adapted_mlp(0, 1), nn.CrossEntropyLoss(), digits(5, 9, 20)
    norms = gradient_norms(model, loss, data)
    weights = [model[0].base.weight.requires_grad_(), model[2].base.weight.requires_grad_()]
    gradients = torch.autograd.grad(loss(model(data[0]), data[1]), weights)
    products = [g @ model[i].a.T for g, i in zip(gradients, (0, 2), strict=True)]
    assert norms == (0.0, pytest.approx(sum(p.square().sum() for p in products).sqrt().item(), rel=1e-12))


def test_gradient_norms_of_both_factors_once_b_has_moved():
    model, loss, data = adapted_mlp(0, 1), nn.CrossEntropyLoss(), digits(5, 9, 20)
    descend(model, loss, data, 5, 0.5)
    loss(model(data[0]), data[1]).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    sizes = [math.sqrt(sum(float((g**2).sum()) for name, g in gradients.items() if name[-1] == end)) for end in "ab"]
    assert min(sizes) > 1e-3
    assert gradient_norms(model, loss, data) == pytest.approx(sizes, rel=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"rank": 11}, "at most"),
        ({"rank": 0}, "rank"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_bad_input(kwargs, words):
    with pytest.raises(ArgumentError, match=words):
        digits_spectra(**kwargs)
