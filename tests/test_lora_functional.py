"""`lora.functional` against twins by hand: values, planted bugs, shapes, dtypes, autocast, errors."""

import inspect

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora import functional
from allora_analysis.validation import ArgumentError
from tests.brute_force import lora as twin
from tests.stat_assert import assert_rejects

TWINS = {"allora": twin.listing_1, "allora_od": twin.allora_od, "asf_lora": twin.asf_lora}
PARTS = ("output", "∂/∂x", "A", "B")
ROUNDING = 1e-12


def problem(generator: np.random.Generator, leading=(6,), n2=7, n1=5, rank=2, scale=1.0):
    shapes = ((*leading, n2), (rank, n2), (n1, rank), (*leading, n1))
    return [generator.standard_normal(shape) * scale for shape in shapes]


def backward(rule, x, a, b, grad, *args, dtype=torch.float64):
    """(output, ∂/∂x, update of A, of B) of a function of tensors."""
    x, a, b, grad = (torch.as_tensor(part, dtype=dtype) for part in (x, a, b, grad))
    leaves = [part.requires_grad_(True) for part in (x, a, b)]
    output = rule(*leaves, *args)
    return [part.detach() for part in (output, *torch.autograd.grad(output, leaves, grad.to(output.dtype)))]


def by_hand(rule, x, a, b, grad, *args):
    """The twin's four on flattened leading dimensions."""
    flat_x, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    output, grad_x, *rest = rule(flat_x, a, b, flat_grad, *args)
    return [output.reshape(grad.shape), grad_x.reshape(x.shape), *rest]


def assert_agree(ours, theirs, tolerance=ROUNDING):
    """Each of the four, relative to its largest entry."""
    for name, own, other in zip(PARTS, ours, theirs, strict=True):
        own = own.double().numpy() if isinstance(own, torch.Tensor) else own
        assert own.shape == other.shape, f"{name}: {own.shape}, {other.shape}"
        gap = np.abs(own - other).max(initial=0)
        assert gap <= tolerance * np.abs(other).max(initial=0), f"{name}: off by {gap}"


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(TWINS)),
    adaptor=st.sampled_from(sorted(ADAPTORS)),
    leading=st.lists(st.integers(1, 4), max_size=3),
    n2=st.integers(1, 9),
    n1=st.integers(1, 9),
    rank=st.integers(1, 12),
    eta_squared=st.floats(0.05, 100),
    scale=st.sampled_from((1e-6, 1.0, 10.0)),
    seed=st.integers(0, 2**32),
)
def test_every_function_is_its_twin(name, adaptor, leading, n2, n1, rank, eta_squared, scale, seed):
    arrays = problem(np.random.default_rng(seed), tuple(leading), n2, n1, rank, scale)
    rule = (eta_squared**0.5, adaptor)
    if adaptor in ("exponential", "inverse"):  # exp(−u) has u times the error of u; so has the slope of f/(f + 1/η)
        largest = max(np.abs(arrays[0] @ (arrays[2] @ arrays[1]).T).max(), twin.row_norms(*arrays[1:3]).max())
        assume(largest * eta_squared / 2 <= 100)
    ours = backward(getattr(functional, name), *arrays, *rule)
    assert_agree(ours, by_hand(TWINS[name], *arrays, *rule))


PLANTED = (
    twin.norms_of_b,
    twin.input_scaled_too,
    twin.exponent_minus_one,
    twin.parameters_alone,
    twin.factor_on_b_alone,
    twin.lora,
    twin.allora_od,
)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda rule: rule.__name__)
def test_a_planted_bug_is_rejected(planted, rng):
    arrays = problem(rng)
    ours = backward(functional.allora, *arrays, 2.0)
    assert_agree(ours, by_hand(twin.listing_1, *arrays, 2.0))
    assert_rejects(assert_agree, ours, by_hand(planted, *arrays, 2.0), tolerance=1e-3)


def test_the_factor_follows_the_weights(rng):
    x, a, b, target = problem(rng, (20,))
    b *= 0
    settings_ = (x, a, b, target, 2.0, 0.01, 6)

    def trained():
        weights = [torch.tensor(part, requires_grad=True) for part in (a, b)]
        optimizer = torch.optim.SGD(weights, lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            (functional.allora(torch.as_tensor(x), *weights, 2.0) - torch.as_tensor(target)).square().sum().div(
                2
            ).backward()
            optimizer.step()
        return [part.detach().numpy() for part in weights]

    def compare(ours, theirs):
        for own, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-12)

    ours = trained()
    assert np.abs(ours[1]).max() > 0.01
    compare(ours, twin.descend(twin.listing_1, *settings_))
    assert_rejects(compare, ours, twin.descend_with_a_frozen_factor(*settings_))
    assert_rejects(compare, ours, twin.descend_with_a_late_factor(*settings_))


@pytest.mark.parametrize("name", sorted(TWINS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.04), (torch.float16, 5e-3)])
def test_other_dtypes(name, dtype, tolerance, rng):
    arrays = [torch.as_tensor(part).to(dtype).double().numpy() for part in problem(rng, (3, 4), 16, 12, 4)]
    ours = backward(getattr(functional, name), *arrays, 2.0, dtype=dtype)
    assert all(part.dtype == dtype for part in ours)
    assert_agree(ours, by_hand(TWINS[name], *arrays, 2.0), tolerance)


@pytest.mark.parametrize("name", sorted(TWINS))
@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_casts_as_linear_does(name, backward_inside, rng):
    arrays = problem(rng, (3, 4), 16, 12, 4)
    x, a, b, grad = (torch.as_tensor(part, dtype=torch.float32).requires_grad_(True) for part in arrays)
    with torch.autocast("cpu", torch.bfloat16):
        output = getattr(functional, name)(x, a, b, 2.0)
        assert output.dtype == torch.nn.functional.linear(x, a).dtype == torch.bfloat16
        if backward_inside:
            found = torch.autograd.grad(output, (x, a, b), grad.to(output.dtype))
    if not backward_inside:
        found = torch.autograd.grad(output, (x, a, b), grad.to(output.dtype))
    assert all(part.dtype == torch.float32 for part in found)
    assert_agree([output.detach(), *found], by_hand(TWINS[name], *arrays, 2.0), 0.04)


def test_the_norms_come_from_the_weights_before_autocast(rng):
    """Rounded to bfloat16, these rows are 0.4 % off; the norms are not."""
    a, b = (torch.as_tensor(part, dtype=torch.float32) for part in problem(rng, n1=300, rank=3)[1:3])
    exact = functional.row_norms(a.double(), b.double())
    with torch.autocast("cpu", torch.bfloat16):
        norms = functional.row_norms(a, b)
    assert norms.dtype == torch.float32
    assert ((norms - exact) / exact).abs().max() < 1e-5
    rounded = functional.row_norms(a.bfloat16(), b.bfloat16())
    assert rounded.dtype == torch.float32
    assert ((rounded - exact) / exact).abs().max() > 1e-4


def test_float64_stays_float64_under_autocast(rng):
    arrays = problem(rng)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.allora(*map(torch.as_tensor, arrays[:3]), 2.0).dtype == torch.float64


@pytest.mark.parametrize("name", sorted(TWINS))
@pytest.mark.parametrize("leading", [(0,), (2, 0), (0, 3)])
def test_empty_batches(name, leading, rng):
    arrays = problem(rng, leading)
    assert_agree(backward(getattr(functional, name), *arrays, 2.0), by_hand(TWINS[name], *arrays, 2.0))


@pytest.mark.parametrize("leading", [(3,), (2, 3), ()])
@pytest.mark.parametrize("name", sorted(TWINS))
def test_an_input_without_coordinates_gives_zeros(name, leading):
    x, a, b = torch.zeros(*leading, 0), torch.zeros(2, 0), torch.ones(4, 2, requires_grad=True)
    output = getattr(functional, name)(x, a, b, 2.0)
    output.sum().backward()
    assert output.shape == (*leading, 4)
    assert not output.any()
    assert not b.grad.any()


@pytest.mark.parametrize("name", sorted(TWINS))
def test_strided_and_expanded_tensors(name, rng):
    x, a, b, grad = problem(rng, (4, 3))
    x, grad = x.transpose(1, 0, 2), np.broadcast_to(grad[:1, :1], (3, 4, 5))
    leaves = [
        torch.tensor(x.transpose(1, 0, 2)).requires_grad_(True),
        *(torch.tensor(p.T.copy().T).requires_grad_(True) for p in (a, b)),
    ]
    output = getattr(functional, name)(leaves[0].transpose(0, 1), *leaves[1:], 2.0)
    found = torch.autograd.grad(output, leaves, torch.tensor(grad[0, 0]).expand(3, 4, 5))
    ours = [output.detach(), found[0].transpose(0, 1), *found[1:]]
    assert_agree(ours, by_hand(TWINS[name], x, a, b, grad, 2.0))


def test_only_what_needs_a_gradient_gets_one(rng):
    x, a, b, grad = map(torch.as_tensor, problem(rng))
    everything = backward(functional.allora, x.clone(), a.clone(), b.clone(), grad, 2.0)[1:]
    for wanted in range(3):
        leaves = [part.clone().requires_grad_(index == wanted) for index, part in enumerate((x, a, b))]
        output = functional.allora(*leaves, 2.0)
        (found,) = torch.autograd.grad(output, leaves[wanted], grad)
        torch.testing.assert_close(found, everything[wanted])
    with torch.no_grad():
        assert not functional.allora(*leaves, 2.0).requires_grad


@pytest.mark.parametrize("name", sorted(TWINS))
def test_an_adapter_of_rank_0_adds_nothing(name):
    x, a, b = (torch.ones(shape, requires_grad=True) for shape in ((2, 3, 7), (0, 7), (5, 0)))
    output = getattr(functional, name)(x, a, b, 2.0)
    output.sum().backward()
    assert not output.any()
    assert not x.grad.any()
    assert (a.grad.shape, b.grad.shape) == (a.shape, b.shape)


def test_on_a_device_without_data():
    x, a, b = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((2, 3, 7), (2, 7), (5, 2)))
    output = functional.allora(x, a, b, 2.0)
    assert output.shape == (2, 3, 5)
    assert output.device.type == "meta"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": torch.zeros(5, 3)}, "same rank r"),
        ({"x": torch.zeros(4, 6)}, r"x: shape \(4, 6\) received, n2 = 7"),
        ({"eta": 0.0}, "eta must be a finite number above 0"),
        ({"eta": -1.0}, "eta must be"),
        ({"eta": float("nan")}, "eta must be"),
        ({"eta": float("inf")}, "eta must be"),
        ({"adaptor": "inverse_square"}, "adaptor must be one of inverse_sqrt, inverse, exponential, constant"),
        ({"b": torch.zeros(5, 2, device="meta")}, "same device, received cpu and meta"),
        ({"x": torch.zeros(4, 7, device="meta")}, r"on the device of a and b \(cpu\), received meta"),
        ({"b": torch.zeros(5, 2, dtype=torch.float64)}, "same floating dtype"),
        ({"x": torch.zeros(4, 7, dtype=torch.float64)}, "cast x, or use torch.autocast"),
    ],
)
@pytest.mark.parametrize("name", sorted(TWINS))
def test_a_mistake_is_one_clear_line(name, change, words):
    arguments = {"x": torch.zeros(4, 7), "a": torch.zeros(2, 7), "b": torch.zeros(5, 2), "eta": 2.0} | change
    with pytest.raises(ArgumentError, match=words) as caught:
        getattr(functional, name)(**arguments)
    assert "\n" not in str(caught.value)


TENSORS = [
    (name, argument)
    for name in functional.__all__
    for argument in inspect.signature(getattr(functional, name)).parameters
    if argument in ("x", "a", "b", "weight", "bias")
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("name", "wrong"), TENSORS)
@pytest.mark.parametrize("value", [np.zeros((2, 2)), [[1.0, 2.0]], 3.0], ids=["array", "list", "number"])
def test_what_is_no_tensor_is_one_clear_line(name, wrong, value, request):
    arguments = {"x": torch.zeros(4, 7), "weight": torch.zeros(5, 7), "bias": torch.zeros(5)}
    arguments |= {"a": torch.zeros(2, 7), "b": torch.zeros(5, 2), wrong: value}
    taken = {key: arguments[key] for each, key in TENSORS if each == name}
    error = ArgumentError if request.config.option.untyped else jaxtyping.TypeCheckError
    with pytest.raises(error, match=f"{wrong}") as caught:
        getattr(functional, name)(**taken, **({} if name == "row_norms" else {"eta": 2.0}))
    if request.config.option.untyped:
        words = f"{wrong}: a torch.Tensor wanted, received {type(value).__name__}; use torch.as_tensor"
        assert str(caught.value) == words


def test_an_integer_eta_is_a_number(rng):
    arrays = problem(rng)
    assert_agree(backward(functional.allora, *arrays, 2), by_hand(twin.listing_1, *arrays, 2.0))
