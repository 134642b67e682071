"""Row norms without BA: accuracy where BA vanishes, derivatives, nothing of BA's size, many pairs at once."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.autograd import gram_norms, norms_of_pairs, triangular_norms
from allora_analysis.lora.functional import allora, allora_linear, allora_od, asf_lora, row_factor, row_norms
from tests.brute_force import lora as twin


def pair(rng, n1=40, n2=60, rank=4, dtype=torch.float64):
    return (torch.as_tensor(rng.standard_normal(shape)).to(dtype) for shape in ((rank, n2), (n1, rank)))


@pytest.mark.parametrize("shape", [(40, 60, 4), (3, 2, 5), (1, 1, 1), (7, 4, 4), (5, 3, 20)])
def test_norms_and_factor_are_the_twins(shape, rng):
    a, b = pair(rng, *shape)
    expected = twin.row_norms(a.numpy(), b.numpy())
    np.testing.assert_allclose(row_norms(a, b), expected, rtol=1e-13)
    for name in ADAPTORS:
        np.testing.assert_allclose(row_factor(a, b, 1.7, name), twin.adaptor(name, expected, 1.7), rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [row_norms, gram_norms])
def test_small_products_keep_their_digits_in_float32(dtype, method, rng):
    """B near its zero initialization: B is small, BA with it."""
    a, b = pair(rng, dtype=dtype)
    b = b * (1e-12 if dtype is not torch.float16 else 1e-3)
    wide = (a.float(), b.float()) if method is gram_norms else (a, b)
    expected = twin.row_norms(a.double().numpy(), b.double().numpy())
    found = method(*wide)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_the_range_of_float32_is_as_documented(rng):
    a, b = pair(rng, dtype=torch.float32)
    b /= row_norms(a.double(), b.double())[:, None]  # every norm is 1
    for size, found in ((1e-24, 0.0), (1e-19, 1e-19), (1e19, 1e19), (4e19, float("inf"))):
        np.testing.assert_allclose(row_norms(a, size * b), found, rtol=1e-4)


def nearly_vanishing(rng, dtype):
    """BA ≈ 0 where neither B nor A is: B's rows lie along a direction that A nearly annihilates."""
    a, _ = pair(rng, rank=4)
    a[3] = -a[0] - a[1] - a[2] + 1e-5 * a[3]
    b = torch.outer(torch.as_tensor(rng.standard_normal(40)), torch.ones(4, dtype=torch.float64))
    return a.to(dtype), b.to(dtype)


def test_cancellation_the_plain_gram_form_fails_and_ours_do_not(rng):
    a, b = nearly_vanishing(rng, torch.float32)
    expected = twin.row_norms(a.double().numpy(), b.double().numpy())
    scale = b.norm(dim=1).numpy() * float(a.norm())
    plain = ((b @ (a @ a.mT)) * b).sum(-1)
    assert (plain < 0).any(), "the square of a norm came out negative nowhere: no case of cancellation"

    def right(norms):
        return (np.abs(norms.numpy() - expected) <= 3e-7 * scale).all()

    assert not right(plain.clamp_min(0).sqrt())
    assert right(triangular_norms(a, b))
    assert right(gram_norms(a, b))
    assert torch.equal(row_norms(a, b), triangular_norms(a, b))  # on a CPU
    wide = nearly_vanishing(rng, torch.float64)
    np.testing.assert_allclose(row_norms(*wide), twin.row_norms(*(part.numpy() for part in wide)), rtol=1e-8)


@pytest.mark.parametrize("method", [triangular_norms, gram_norms])
def test_a_stack_of_experts_has_each_ones_norms(method, rng):
    pairs = [pair(rng, 7, 5, 3) for _ in range(4)]
    a, b = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    np.testing.assert_allclose(method(a, b), (b @ a).norm(dim=2), rtol=1e-7)


def test_a_of_rank_one_with_many_rows(rng):
    """AAᵀ is singular but for rounding, and stays positive definite by a margin that grows with the rank."""
    pairs = []
    for _ in range(30):
        a, b = pair(rng, 8, 64, 64)
        rows = 10.0 ** rng.uniform(-4, 4) * torch.as_tensor(10 ** -rng.uniform(0, 6, (64, 1)))
        pairs.append(((rows * a[:1]).float(), b.float()))
    for (a, b), found in zip(pairs, norms_of_pairs(pairs), strict=True):
        error = (found - (b.double() @ a.double()).norm(dim=1)).abs()
        assert (error <= 1e-6 * b.norm(dim=1) * a.norm()).all()
    elsewhere = norms_of_pairs([tuple(part.to("meta") for part in one) for one in pairs])
    assert (elsewhere.shape, elsewhere.device.type) == ((30, 8), "meta")


def numeric(function, point, direction, step=1e-6):
    return (function(point + step * direction) - function(point - step * direction)) / (2 * step)


@pytest.mark.parametrize("shape", [(6, 5, 2), (4, 3, 5)], ids=["full rank", "r > n2: A rank-deficient"])
def test_derivatives_of_the_norms(shape, rng):
    a, b = (part.requires_grad_(True) for part in pair(rng, *shape))
    assert torch.autograd.gradcheck(row_norms, (a, b))
    assert torch.autograd.gradgradcheck(row_norms, (a, b))


@pytest.mark.parametrize("kind", ["b zero", "a zero", "both zero", "a of rank one", "one row of b zero"])
@pytest.mark.parametrize("rule", [allora, allora_od, asf_lora])
def test_a_second_backward_pass_is_finite_where_the_norm_vanishes(kind, rule, rng):
    a, b = pair(rng, 6, 5, 3)
    if kind in ("a zero", "both zero"):
        a.zero_()
    if kind in ("b zero", "both zero"):
        b.zero_()
    if kind == "a of rank one":
        a = a[:1].expand(3, 5).clone()
    if kind == "one row of b zero":
        b[2] = 0
    x = torch.as_tensor(rng.standard_normal((4, 5)))
    leaves = [part.requires_grad_(True) for part in (x, a, b)]
    output = rule(*leaves, 2.0)
    first = torch.autograd.grad((output + output.square()).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() + part.sum() for part in first), leaves)
    assert all(torch.isfinite(part).all() for part in (*first, *second))
    assert any(part.abs().max() > 0 for part in second)


@pytest.mark.parametrize("rule", [allora, allora_od])
def test_a_second_backward_pass_is_the_jacobian_of_the_update_field(rule, rng):
    """d depends on A and B, and the derivative of the update with it: not the Hessian."""
    a, b = pair(rng, 5, 4, 2)
    x, grad = (torch.as_tensor(rng.standard_normal(shape)) for shape in ((6, 4), (6, 5)))

    def field(x, a, b, create_graph=False):
        leaves = [part.detach().requires_grad_(True) if not part.requires_grad else part for part in (x, a, b)]
        return torch.autograd.grad(rule(*leaves, 2.0), leaves, grad, create_graph=create_graph)

    leaves = [part.clone().requires_grad_(True) for part in (x, a, b)]
    weights = [torch.as_tensor(rng.standard_normal(part.shape)) for part in leaves]
    found = torch.autograd.grad(
        sum((part * weight).sum() for part, weight in zip(field(*leaves, create_graph=True), weights, strict=True)),
        leaves,
    )
    for index, part in enumerate((x, a, b)):
        direction = torch.as_tensor(rng.standard_normal(part.shape))

        def value(moved, index=index):
            arguments = [moved if place == index else other for place, other in enumerate((x, a, b))]
            return sum((part * weight).sum() for part, weight in zip(field(*arguments), weights, strict=True))

        expected = numeric(value, part, direction)
        torch.testing.assert_close((found[index] * direction).sum(), expected, rtol=1e-6, atol=1e-7)


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation's result has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {
            part.untyped_storage()._cdata for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)
        }
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor) and part.untyped_storage()._cdata not in known:
                self.elements = max(self.elements, part.numel())
        return result


def largest(task) -> int:
    with LargestTensor() as watched:
        task()
    return watched.elements


def test_nothing_of_the_size_of_ba_or_with_a_token_axis_is_formed(rng):
    n1, n2, rank, tokens = 300, 400, 3, 16
    a, b = (part.requires_grad_(True) for part in pair(rng, n1, n2, rank))
    x = torch.as_tensor(rng.standard_normal((4, 4, n2))).requires_grad_(True)
    weight = torch.as_tensor(rng.standard_normal((n1, n2)))
    for rule in (allora, allora_od, asf_lora):
        assert largest(lambda rule=rule: rule(x, a, b, 2.0).sum().backward()) <= tokens * n2
    assert largest(lambda: allora_linear(x, weight, None, a, b, 2.0).sum().backward()) <= tokens * n2
    # The watch sees what it is to see.
    assert largest(lambda: b @ a) == n1 * n2


@pytest.mark.parametrize(
    "kind",
    ["random", "as far as float32 goes", "further", "nearly dependent rows", "rank one", "tiny", "r > n2", "zero"],
)
def test_norms_of_a_stack_are_the_norms_in_float64(kind, rng):
    """float32 and BA ≈ 0 too: to 1e-6 of ‖B_i‖‖A‖, where AAᵀ in float32 alone gives 3e-4.

    As far as AAᵀ is taken in float32 to 5e-7, and further, in float64, to 1e-7.
    """
    a = rng.normal(size=(5, 4, 3 if kind == "r > n2" else 60)) * (1e-18 if kind == "tiny" else 1.0)
    b = rng.normal(size=(5, 40, 4))
    if kind == "nearly dependent rows":
        a[:, 3] = -a[:, :3].sum(1) + 1e-5 * a[:, 3]
        b = b[..., :1] * np.ones(4)  # along what A nearly annihilates
    if kind in ("as far as float32 goes", "further"):  # κ = 7 or 14, B along the smallest singular vector
        smallest = 1 / 14 if kind == "further" else 1 / 7
        (left, _, right), small = np.linalg.svd(a, full_matrices=False), np.diag([1, 1, 1, smallest])
        a, b = left @ small @ right, b[..., :1] * left[:, None, :, -1]
    if kind in ("rank one", "zero"):
        a[1:4] = a[1:4, :1] if kind == "rank one" else 0.0
    a, b = (part.astype(np.float32) for part in (a, b))
    pairs = [(torch.tensor(one), torch.tensor(two)) for one, two in zip(a, b, strict=True)]
    true = np.linalg.norm(b.astype(float) @ a.astype(float), axis=-1)
    scale = np.linalg.norm(b.astype(float), axis=-1) * np.linalg.norm(a.astype(float), axis=(1, 2))[:, None]
    bound = {"as far as float32 goes": 5e-7, "further": 1e-7}.get(kind, 1e-6)
    assert (np.abs(norms_of_pairs(pairs).numpy() - true) <= bound * scale).all()
    if kind == "nearly dependent rows":
        gram = np.einsum("pir,prs,pis->pi", b, a @ a.transpose(0, 2, 1), b)
        assert (np.abs(np.sqrt(np.maximum(gram, 0)) - true) > 1e-5 * scale).any()
