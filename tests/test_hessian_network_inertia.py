"""The exact count of negative directions at B = 0 against a dense Hessian's signs, and the ranks it rests on."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.hessian import LowRankLinear, add_adapters
from allora_analysis.hessian.network_inertia import (
    inertia_on_kernel,
    layer_gradient_ranks,
    negative_directions,
    numerical_rank,
)
from allora_analysis.validation import ArgumentError
from tests.brute_force import hessian as brute
from tests.test_hessian_network import problem

# sizes, rank, n, and how A is changed
CASES = {
    "tall and wide layers": ((5, 3, 6), 2, 12, None),
    "r = 1": ((4, 5, 3), 1, 12, None),
    "r = min(n1, n2)": ((4, 3, 3), 3, 12, None),
    "three layers": ((4, 3, 5, 3), 2, 12, None),
    "one example": ((5, 6, 4), 2, 1, None),
    "two examples": ((5, 6, 4), 2, 2, None),
    "A = 0": ((5, 6, 4), 2, 2, "zero"),
    "A of rank 1": ((5, 6, 4), 2, 2, "rank one"),
}


def changed(model, how):
    for layer in model:
        if isinstance(layer, LowRankLinear) and how is not None:
            with torch.no_grad():
                layer.a.copy_(0 * layer.a if how == "zero" else layer.a[:1].expand_as(layer.a))
    return model, torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def both_counts(sizes, rank, n, how, kind, seed):
    model, loss, data, _, by_hand = problem(sizes, rank, kind, seed, n=n)
    model, theta = changed(model, how)
    found = negative_directions(model, loss, data)
    counts, clear = brute.inertia(brute.dense_hessian(by_hand, theta))
    return found, counts, clear


def assert_inertia(found, counts):
    assert (found.negative, found.positive, found.zero) == counts


@pytest.mark.parametrize("kind", ["squares", "entropy"])
@pytest.mark.parametrize("name", CASES)
def test_the_exact_count_is_the_dense_inertia(name, kind):
    found, counts, clear = both_counts(*CASES[name], kind, seed=11)
    assert clear, "choose another seed: an eigenvalue lies at the dense threshold"
    assert_inertia(found, counts)
    assert found.negative == found.bound + found.kernel_negative >= found.bound


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.tuples(*[st.integers(2, 5)] * 3),
    n=st.integers(1, 8),
    kind=st.sampled_from(["squares", "entropy"]),
)
def test_random_networks(seed, sizes, n, kind):
    found, counts, clear = both_counts(sizes, seed % min(sizes) + 1, n, None, kind, seed)
    assume(clear)
    assert_inertia(found, counts)


def test_without_the_kernel_the_count_is_wrong():
    """The negative control: with few examples K has negative directions on ker C, which r · rank G does not see."""
    found, counts, _ = both_counts(*CASES["two examples"], "squares", seed=11)
    assert found.kernel_negative > 0
    assert found.bound < counts[0] == found.negative


def test_at_a_zero_nothing_but_the_ranks_counts():
    found, _, _ = both_counts(*CASES["A = 0"], "squares", seed=11)
    assert (found.kernel_negative, found.negative, found.positive) == (0, found.bound, found.bound)


@pytest.mark.parametrize("kind", ["squares", "entropy"])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_ranks(kind, n):
    """Against the hand-written gradient; at most n, and of cross-entropy's own layer at most n₁ − 1."""
    model, loss, data, *_ = problem((6, 5, 4), 2, kind, seed=12, n=n)
    ranks = layer_gradient_ranks(model, loss, data)
    weights, biases = ([getattr(model[i].base, name).detach() for i in (0, 2)] for name in ("weight", "bias"))
    gradients = brute.product_gradients(weights, biases, 0.7, kind, *data)
    assert list(ranks.values()) == [np.linalg.matrix_rank(g) for g in gradients]
    assert list(ranks) == ["0", "2"]
    assert ranks == {"0": min(n, 5), "2": min(n, 4 if kind == "squares" else 3)}


def test_a_gradient_of_rounding_errors_has_rank_zero():
    """At least squares' optimum G = −2RᵀX is 0 in exact arithmetic; its rounding has full numerical rank."""
    generator = torch.Generator().manual_seed(13)
    x, y = (torch.randn(200, n, generator=generator).double() for n in (6, 5))
    base = nn.Linear(6, 5, bias=False).double()
    with torch.no_grad():
        base.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    layer = LowRankLinear(base, 2, 1.0, generator)
    g = 2 * (layer(x) - y).detach().T @ x
    assert np.linalg.matrix_rank(g.numpy()) == 5
    found = negative_directions(layer, nn.MSELoss(reduction="sum"), (x, y))
    assert found.layer_ranks == {"": 0}
    assert (found.negative, found.positive, found.zero) == (0, 10, 12)


def test_other_trainable_parameters_join_k():
    """A trainable head and bias: the bound stands, and the count is still exact."""
    model, loss, (x, targets), *_ = problem((4, 3, 3), 2, "squares", seed=15, n=3)
    model[0].base.bias.requires_grad_()
    model.append(nn.Tanh()).append(nn.Linear(3, 3).double())
    with torch.no_grad():
        model[-1].weight.copy_(torch.eye(3) + 0.3), model[-1].bias.zero_()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def by_hand(theta):
        pieces = theta.split([p.numel() for p in parameters.values()])
        t = {name: piece.reshape(parameters[name].shape) for name, piece in zip(parameters, pieces, strict=True)}
        w1, w2 = model[0].base.weight.detach(), model[2].base.weight.detach()
        hidden = torch.tanh(x @ (w1 + 0.7 * t["0.b"] @ t["0.a"]).T + t["0.base.bias"])
        hidden = torch.tanh(hidden @ (w2 + 0.7 * t["2.b"] @ t["2.a"]).T + model[2].base.bias.detach())
        return ((hidden @ t["4.weight"].T + t["4.bias"] - targets) ** 2).sum()

    found = negative_directions(model, loss, [(x[:2], targets[:2]), (x[2:], targets[2:])])
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])
    counts, clear = brute.inertia(brute.dense_hessian(by_hand, theta))
    assert clear
    assert_inertia(found, counts)
    assert found.bound == 2 * sum(found.layer_ranks.values())


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_a_frozen_factor_takes_its_layer_out_of_c(frozen):
    model, loss, data, theta, by_hand = problem((4, 3, 3), 2, "squares", seed=15, n=4)
    names = [name for name, p in model.named_parameters() if p.requires_grad for _ in range(p.numel())]
    kept = np.array([name != f"2.{frozen}" for name in names])
    getattr(model[2], frozen).requires_grad_(False)
    counts, clear = brute.inertia(brute.dense_hessian(by_hand, theta)[np.ix_(kept, kept)])
    assert clear
    found = negative_directions(model, loss, data)
    assert_inertia(found, counts)
    assert found.bound == 2 * found.layer_ranks["0"]


def test_only_a_trainable_leaves_nothing_but_zeros():
    model, loss, data, *_ = problem((4, 3, 3), 2, "squares", seed=15)
    model[0].b.requires_grad_(False), model[2].b.requires_grad_(False)
    found = negative_directions(model, loss, data)
    assert (found.negative, found.positive, found.zero) == (0, 0, 14)


def test_inertia_on_a_kernel_ignores_rounding():
    k = np.diag([4.0, -3.0, 1e-13, -1e-13])
    assert inertia_on_kernel(k, np.eye(4)) == (1, 1)
    assert inertia_on_kernel(k, np.eye(4)[:, 2:]) == (0, 0)
    assert inertia_on_kernel(k, np.zeros((4, 0))) == (0, 0)


def test_numerical_rank_of_noise():
    assert numerical_rank(np.diag([1.0, 1e-9, 1e-11])) == 2
    assert numerical_rank(np.diag([1.0, 1e-9, 1e-11]), noise=1e-10) == 1
    assert numerical_rank(np.zeros((3, 2))) == 0


@pytest.mark.bad_input
def test_bad_input(monkeypatch):
    model, loss, data, *_ = problem((4, 3, 3), 2, "squares", seed=16, b_scale=0.1)
    with pytest.raises(ArgumentError, match=r"B of layer 0 must be zero, received a largest entry of 0\."):
        negative_directions(model, loss, data)
    with pytest.raises(ArgumentError, match="at least one LowRankLinear"):
        layer_gradient_ranks(nn.Linear(4, 3).double(), loss, data)
    with pytest.raises(ArgumentError, match=r"model\.double"):
        negative_directions(model.float(), loss, data)
    model, loss, data, *_ = problem((4, 3, 3), 2, "squares", seed=16)
    monkeypatch.setattr("allora_analysis.hessian.network_inertia.LARGEST_BLOCK", 11)
    with pytest.raises(ArgumentError, match="at most 11 trainable numbers besides A"):
        negative_directions(model, loss, data)


@pytest.mark.bad_input
def test_shared_base_weights_are_refused():
    model = add_adapters(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double(), 1, 1.0, torch.Generator())
    model[1].base.weight = model[0].base.weight
    with pytest.raises(ArgumentError, match="shares its base weight"):
        layer_gradient_ranks(model, nn.MSELoss(), (torch.ones(2, 3).double(), torch.ones(2, 3).double()))


def test_ranks_of_a_model_that_takes_a_mapping():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = LowRankLinear(nn.Linear(3, 2).double(), 1, 1.0, torch.Generator())

        def forward(self, inputs):
            return self.layer(inputs["x"])

    data = [({"x": torch.eye(3).double()}, torch.zeros(3, 2).double())]
    assert layer_gradient_ranks(Named(), nn.MSELoss(), data) == {"layer": 2}
