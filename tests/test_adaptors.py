"""The adaptor functions: the paper's values, slopes, tails and order; one core for arrays and tensors; bad input."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import adaptors
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.validation import ArgumentError

NAMES = tuple(ADAPTORS)
PUBLIC = {name: getattr(adaptors, name) for name in NAMES}
ETAS = (0.3, 1.0, math.sqrt(2), 2.0, 7.5)
SLOPES = {
    "inverse_sqrt": lambda eta: -(eta**3) / 2,
    "inverse": lambda eta: -(eta**2),
    "exponential": lambda eta: -(eta**3) / 2,
    "constant": lambda eta: 0.0,
}
HALF = {
    "inverse_sqrt": lambda eta: 3 / eta**2,
    "inverse": lambda eta: 1 / eta,
    "exponential": lambda eta: 2 * math.log(2) / eta**2,
}
etas = st.floats(1e-3, 1e3)
sizes = st.floats(-1e6, 1e6)


def figure_5(x: Fraction, eta_square: Fraction) -> float:
    """1/√(|x| + 1/η²) as Figure 5's caption prints it, the radicand exact."""
    return 1 / math.sqrt(abs(x) + 1 / eta_square)


@pytest.mark.parametrize("eta_square", [1, 2, 4])
def test_the_curves_of_figure_5(eta_square):
    """The caption's formula at rational points, and what a curve shows: √1, √2, √4 at 0, then a taper to one tail."""
    eta = math.sqrt(eta_square)
    points = [Fraction(k, 8) for k in range(-40, 41)]
    expected = [figure_5(point, Fraction(eta_square)) for point in points]
    values = adaptors.inverse_sqrt([float(point) for point in points], eta)
    np.testing.assert_allclose(values, expected, rtol=1e-15)
    assert values[40] == eta
    assert values.max() == values[40]
    assert adaptors.inverse_sqrt(1e8, eta) == pytest.approx(1e-4, rel=1e-7)


def test_known_values():
    # 1/√(3 + 1/4)·…: x = 2 at η² = 2 is 1/√2.5, at η = 2 is 1/√2.25 = 2/3.
    assert adaptors.inverse_sqrt(2.0, 2.0) == pytest.approx(2 / 3, rel=1e-15)
    assert adaptors.inverse(2.0, 2.0) == pytest.approx(0.4, rel=1e-15)
    assert adaptors.exponential(0.5, 2.0) == pytest.approx(2 / math.e, rel=1e-15)
    assert adaptors.constant(5.0, 2.0) == 2.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", ETAS)
def test_value_slope_and_half_point(name, eta):
    function = PUBLIC[name]
    assert function(0.0, eta) == eta
    # A one-sided difference of second order.
    step = 1e-5 / eta**2
    slope = (-3 * function(0.0, eta) + 4 * function(step, eta) - function(2 * step, eta)) / (2 * step)
    assert slope == pytest.approx(SLOPES[name](eta), rel=1e-4, abs=1e-9 * eta**3)
    if name in HALF:
        assert function(HALF[name](eta), eta) == pytest.approx(eta / 2, rel=1e-14)


@pytest.mark.parametrize(("name", "power"), [("inverse_sqrt", 0.5), ("inverse", 1.0)])
def test_tails(name, power):
    for eta in ETAS:
        assert PUBLIC[name](1e12, eta) * 1e12**power == pytest.approx(1.0, rel=1e-5)
        # Two η's curves meet in the tail.
        assert PUBLIC[name](1e12, eta) == pytest.approx(float(PUBLIC[name](1e12, 2 * eta)), rel=1e-5)
    assert adaptors.exponential(1e3, 2.0) < 1e-100


@pytest.mark.parametrize(("name", "wrong"), [("inverse_sqrt", "inverse"), ("inverse", "inverse_sqrt")])
def test_tails_tell_a_wrong_exponent(name, wrong):
    values = [float(PUBLIC[which](1e12, 1.0)) for which in (name, wrong)]
    assert max(values) / min(values) > 1e5


@given(x=sizes, y=sizes, eta=etas)
@settings(deadline=None, max_examples=80)
def test_even_decreasing_and_at_most_eta(x, y, eta):
    small, large = sorted((abs(x), abs(y)))
    for name, function in PUBLIC.items():
        at_small, at_large = float(function(small, eta)), float(function(large, eta))
        assert 0 <= at_large <= at_small <= eta
        assert function(-x, eta) == function(x, eta)
        if name != "constant" and large > small + 1e-6 * (1 + small) and at_small > 1e-300 and eta**2 * large > 1e-9:
            assert at_large < at_small


@given(x=st.floats(0, 1e6), eta=etas)
@settings(deadline=None, max_examples=80)
def test_definitions(x, eta):
    assert adaptors.inverse_sqrt(x, eta) == pytest.approx(1 / math.sqrt(x + 1 / eta**2), rel=1e-12)
    assert adaptors.inverse(x, eta) == pytest.approx(1 / (x + 1 / eta), rel=1e-12)
    assert adaptors.exponential(x, eta) == pytest.approx(eta * math.exp(-x * eta**2 / 2), rel=1e-11, abs=1e-300)
    # Larger η is never a smaller step for the two with the η-free tail.
    for function in (adaptors.inverse_sqrt, adaptors.inverse):
        assert function(x, 2 * eta) >= function(x, eta)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", ETAS)
def test_tensors_and_arrays_share_the_formula(name, eta):
    x = np.linspace(-3, 3, 31).reshape(1, 31)
    expected = PUBLIC[name](x, eta)
    core = ADAPTORS[name]
    np.testing.assert_allclose(core(x, eta), expected, rtol=1e-15)
    np.testing.assert_allclose(core(torch.from_numpy(x), eta).numpy(), expected, rtol=1e-14)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 3e-2)):
        tensor = torch.from_numpy(x).to(dtype)
        result = core(tensor, eta)
        assert result.dtype == dtype
        assert result.shape == tensor.shape
        # An exponent u rounds to a relative error of u roundings in e^u: far in the tail.
        np.testing.assert_allclose(result.double().numpy(), expected, rtol=tolerance, atol=1e-9 * eta)
    assert core(np.float32([1.0]), eta).dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_cores_differentiate(name):
    x = torch.linspace(0.1, 3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: ADAPTORS[name](value, 1.7), (x,))


@pytest.mark.parametrize("name", NAMES)
def test_extreme_eta(name):
    assert PUBLIC[name](1.0, 1e-200) == pytest.approx(1e-200)
    assert PUBLIC[name](0.0, 1e200) == 1e200
    assert PUBLIC[name](1e-320, 1e150) == pytest.approx(1e150)


@pytest.mark.parametrize(("name", "power"), [("inverse_sqrt", -0.5), ("inverse", -1.0)])
def test_the_tail_where_eta_square_x_is_beyond_a_float(name, power):
    for x, eta in ((1e300, 1e10), (-1e200, 1e150), (1e20, 1e300)):
        assert PUBLIC[name]([x, 0.0], eta).tolist() == pytest.approx([abs(x) ** power, eta], rel=1e-15, abs=0)
    # Just below the end of the range the closed form and the tail are one.
    assert PUBLIC[name](1.7e288, 1e10) == pytest.approx(1.7e288**power, rel=1e-15, abs=0)


def test_where_eta_square_x_is_beyond_a_float_the_others_have_their_values():
    assert adaptors.exponential([1e300, 0.0], 1e10).tolist() == [0.0, 1e10]
    assert adaptors.constant([1e300, 0.0], 1e10).tolist() == [1e10, 1e10]


def test_any_shape():
    for name, function in PUBLIC.items():
        assert function(1, 2).shape == (), name
        assert function([[1, 2, 3]], 2).shape == (1, 3)
        assert function(np.zeros((2, 3, 4), dtype=np.float32), 2).dtype == np.float64


@pytest.mark.bad_input
@pytest.mark.parametrize("function", PUBLIC.values(), ids=NAMES)
def test_bad_input(function):
    for eta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match="eta"):
            function(1.0, eta)
    for x in ([], math.nan, [1.0, math.inf]):
        with pytest.raises(ArgumentError, match="x"):
            function(x, 1.0)


def test_the_commands_rows_are_decades_after_zero_with_eta(capsys):
    adaptors._show(adaptors._Arguments())
    told = capsys.readouterr().out
    assert re.search(r"[│|] 0\s+([│|]\s+2 ){4}", told)
    assert re.findall(r"^[│|] ([\d.]+) ", told, re.MULTILINE) == ["0", "0.01", "0.1", "1", "10", "100"]
