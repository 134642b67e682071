"""Escape in the scalar model: closed forms against an ODE solver and 50 digits, the trade-off, A trained too."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from allora_analysis import escape
from allora_analysis.validation import ArgumentError
from tests.brute_force.escape import ADAPTORS, pair_time

NAMES = tuple(ADAPTORS)
FALLING = ("inverse_sqrt", "inverse", "exponential")
SETTINGS = [(1.0, 1.0), (0.3, 2.0), (2.5, 0.5), (1.0, math.sqrt(2))]  # (gradient, eta)


def solved(rate, times):
    """m' = rate(m), m(0) = 0 by an ODE solver at 1e-12."""
    solution = solve_ivp(lambda _, m: [rate(m[0])], (0, times[-1]), [0.0], "DOP853", times, rtol=1e-12, atol=1e-13)
    assert solution.success
    return solution.y[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("gradient", "eta"), SETTINGS)
def test_trajectories_solve_the_ode(name, gradient, eta):
    times = np.linspace(0, 6, 13)
    expected = solved(lambda m: gradient * ADAPTORS[name](m, eta), times)
    np.testing.assert_allclose(escape.trajectory(times, gradient, eta, name), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", FALLING)
def test_a_wrong_adaptor_or_exponent_is_told(wrong):
    times = np.linspace(0.5, 6, 12)
    for name in NAMES:
        gap = np.abs(escape.trajectory(times, 1.0, 2.0, name) / solved(lambda m: ADAPTORS[wrong](m, 2.0), times) - 1)
        assert (gap.max() > 0.05) == (name != wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exponent", [-300, -30, -12, -3, 0, 3])
def test_small_and_large_times_have_all_digits(name, exponent):
    eta = 1.7
    with mpmath.workdps(400):
        precise_eta, s = mpmath.mpf(eta), mpmath.mpf(10.0**exponent)
        expected = {
            "inverse_sqrt": (3 * s / 2 + precise_eta**-3) ** (mpmath.mpf(2) / 3) - precise_eta**-2,
            "inverse": mpmath.sqrt(2 * s + precise_eta**-2) - 1 / precise_eta,
            "exponential": 2 / precise_eta**2 * mpmath.log(1 + s * precise_eta**3 / 2),
            "constant": precise_eta * s,
        }[name]
    assert escape.trajectory(10.0**exponent, 1.0, eta, name) == pytest.approx(float(expected), rel=1e-14)


def test_the_printed_form():
    t = np.linspace(0.1, 5, 7)
    printed = (1.5 * 0.7 * t + 2.0**-3) ** (2 / 3) - 2.0**-2
    np.testing.assert_allclose(escape.trajectory(t, 0.7, 2.0), printed, rtol=1e-13)


@given(
    name=st.sampled_from(NAMES),
    level=st.floats(1e-12, 50),
    gradient=st.floats(1e-3, 1e3),
    eta=st.floats(0.05, 3),
)
@settings(deadline=None, max_examples=100)
def test_times_invert_trajectories(name, level, gradient, eta):
    time = escape.time_to_reach(level, gradient, eta, name)
    assert escape.trajectory(time, gradient, eta, name) == pytest.approx(level, rel=1e-9)
    # Only g·t matters.
    assert escape.time_to_reach(level, 1.0, eta, name) == pytest.approx(gradient * time, rel=1e-12)
    # Dimensional analysis of the paper's adaptor: η²m is a function of η³gt.
    if name in ("inverse_sqrt", "exponential"):
        scaled = escape.trajectory(eta**3 * gradient * time, 1.0, 1.0, name)
        assert scaled == pytest.approx(eta**2 * level, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_starts_as_lora_at_eta_times_the_rate_and_stays_below(name):
    t, eta = np.geomspace(1e-9, 1e4, 40), 2.0
    allora, fast = escape.trajectory(t, 0.5, eta, name), escape.lora_trajectory(t, 0.5, eta)
    assert allora[0] == pytest.approx(fast[0], rel=1e-7)
    assert np.all(allora <= fast * (1 + 1e-15))
    np.testing.assert_allclose(fast, eta * escape.lora_trajectory(t, 0.5), rtol=1e-15)
    np.testing.assert_allclose(escape.lora_trajectory(t, 0.5), 0.5 * t, rtol=1e-15)
    slope = escape.trajectory(1e-12, 0.5, eta, name) / 1e-12
    assert slope == pytest.approx(eta * 0.5, rel=1e-9)


@pytest.mark.parametrize(("name", "power"), [("inverse_sqrt", 2 / 3), ("inverse", 1 / 2), ("constant", 1)])
def test_growth_exponents(name, power):
    late = escape.trajectory([1e12, 1e14], 1.0, 2.0, name)
    assert math.log(late[1] / late[0]) / math.log(100) == pytest.approx(power, abs=1e-4)
    constant = {"inverse_sqrt": 1.5 ** (2 / 3), "inverse": math.sqrt(2), "constant": 2.0}[name]
    assert late[0] / 1e12**power == pytest.approx(constant, rel=1e-3)


def test_second_order_loss_of_speed():
    # Against LoRA at η·l a row falls behind by η²m/4, relatively; half of that would not pass.
    fast = escape.lora_trajectory(1e-6, 1.0, 2.0)
    lost = 1 - escape.trajectory(1e-6, 1.0, 2.0) / fast
    assert lost == pytest.approx(2.0**2 * fast / 4, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1e-6, 0.2, 3.0, 40.0])
def test_tradeoff(name, level):
    gradient, eta = 0.7, 1.3
    result = escape.tradeoff(level, gradient, eta, name)
    time = quad(lambda m: 1 / ADAPTORS[name](m, eta), 0, level, epsabs=0)[0] / gradient
    assert result.time == pytest.approx(time, rel=1e-9)
    assert (result.rate_at_zero, result.rate_at_level) == (eta, pytest.approx(ADAPTORS[name](level, eta)))
    # Each fixed rate reaches the level when it says.
    for rate, when in (
        (result.rate_at_zero, result.fast_time),
        (result.rate_at_level, result.measured_time),
        (result.equal_time_rate, result.time),
    ):
        assert escape.lora_trajectory(when, gradient, rate) == pytest.approx(level, rel=1e-12)
    assert result.advantage == pytest.approx(result.measured_time / result.time)
    assert result.advantage == pytest.approx(result.equal_time_rate / result.rate_at_level)


@given(level=st.floats(1e-6, 1e6), eta=st.floats(0.1, 10))
@settings(deadline=None, max_examples=80)
def test_the_advantage_has_its_limits(level, eta):
    slack = 1e-9
    u, v = eta**2 * level, eta * level
    paper = escape.tradeoff(level, 1.0, eta).advantage
    assert 1 - slack <= paper <= 1.5
    assert paper == pytest.approx(1.5 * u * math.sqrt(1 + u) / math.expm1(1.5 * math.log1p(u)), rel=1e-9)
    inverse = escape.tradeoff(level, 1.0, eta, "inverse").advantage
    assert 1 - slack <= inverse <= 2 + slack
    assert inverse == pytest.approx((1 + v) / (1 + v / 2), rel=1e-9)
    assert escape.tradeoff(level, 1.0, eta, "constant").advantage == pytest.approx(1.0)
    if u < 1000:
        exponential = escape.tradeoff(level, 1.0, eta, "exponential").advantage
        assert exponential == pytest.approx(u / 2 / -math.expm1(-u / 2), rel=1e-9)


def test_the_advantage_is_a_number_where_the_times_are_not():
    """exp(u/2), u = η²m, leaves the range of double precision at u = 1420."""
    for eta, expected in ((30.0, 450.0), (1425**0.5, 712.5), (100.0, 5000.0)):
        assert escape.tradeoff(1.0, 1.0, eta, "exponential").advantage == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", [1e-50, 1e50])
def test_the_ends_of_the_range_of_eta(name, eta):
    assert escape.trajectory(1e-190, 1.0, eta, name) == pytest.approx(eta * 1e-190, rel=1e-12, abs=0)
    assert escape.time_to_reach(1e-190, 1.0, eta, name) == pytest.approx(1e-190 / eta, rel=1e-12, abs=0)
    log_eta = math.log(eta)
    late = {
        "inverse_sqrt": 1.5 ** (2 / 3) * 1e160,
        "inverse": 2**0.5 * 1e120,
        "exponential": 2 * math.exp(-2 * log_eta) * (240 * math.log(10) + 3 * log_eta - math.log(2)),
        "constant": eta * 1e240,
    }[name]
    assert escape.trajectory(1e240, 1.0, eta, name) == pytest.approx(late, rel=1e-9, abs=0)
    if name in ("inverse_sqrt", "inverse"):
        assert escape.time_to_reach(1e140, 1.0, eta, name) == pytest.approx(
            1e210 * 2 / 3 if name == "inverse_sqrt" else 0.5e280, rel=1e-9
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("level", "gradient", "eta"), [(1e-300, 1.0, 1e50), (1e-200, 1e-300, 1e50), (1.0, 1e300, 2.0)])
def test_a_tradeoff_whose_times_leave_the_range_has_its_rates(name, level, gradient, eta):
    found = escape.tradeoff(level, gradient, eta, name)
    assert found.equal_time_rate == pytest.approx(found.rate_at_level * found.advantage, rel=1e-9)
    assert found.fast_time == pytest.approx(level / gradient / eta)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("level", "eta"), [(9e227, 1e40), (9e207, 1e50), (1e307, 1.0)])
def test_a_tradeoff_is_a_number_up_to_the_end_of_the_range(name, level, eta):
    found = escape.tradeoff(level, 1.0, eta, name)
    limit = {"inverse_sqrt": 1.5, "inverse": 2.0, "exponential": eta**2 * level / 2, "constant": 1.0}[name]
    assert found.advantage == pytest.approx(limit, rel=1e-9)
    assert found.rate_at_level == pytest.approx(ADAPTORS[name](level, eta), rel=1e-9, abs=0)
    assert not any(math.isnan(value) for value in vars(found).values())


def test_the_advantage_reaches_its_limits():
    assert escape.tradeoff(1e9, 1.0, 1.0).advantage == pytest.approx(1.5, rel=1e-6)
    assert escape.tradeoff(1e9, 1.0, 1.0, "inverse").advantage == pytest.approx(2.0, rel=1e-6)
    assert escape.tradeoff(1e3, 1.0, 1.0, "exponential").advantage == pytest.approx(500.0)
    assert escape.tradeoff(1e-7, 1.0, 1.0).advantage == pytest.approx(1.0, rel=1e-6)


def test_pair_limits():
    # LoRA: (s/2)·sinh(2ηγt), and its inverse by quadrature.
    levels = np.array([1e-8, 0.3, 5.0])
    times = [pair_time(level, 2.0, 1.5, 0.4, "constant") for level in levels]
    np.testing.assert_allclose(0.4 / 2 * np.sinh(2 * 1.5 * 2.0 * np.array(times)), levels, rtol=1e-9)
    # ALLoRA in the end: m ≈ (γt)², an exponent 2 where the scalar model has 2/3.
    first, last = (pair_time(level, 2.0, 2.0, 0.5, "inverse_sqrt") for level in (1e8, 1e12))
    assert math.log(1e4) / math.log(last / first) == pytest.approx(2, abs=0.01)
    assert (2.0 * last) ** 2 == pytest.approx(1e12, rel=0.01)


@pytest.mark.bad_input
def test_bad_input():
    for call in (escape.trajectory, escape.time_to_reach):
        with pytest.raises(ArgumentError, match="0 or above"):
            call([1.0, -0.1], 1.0, 1.0)
        with pytest.raises(ArgumentError, match="finite"):
            call([1.0, math.nan], 1.0, 1.0)
        with pytest.raises(ArgumentError, match="gradient"):
            call(1.0, 0.0, 1.0)
        with pytest.raises(ArgumentError, match="eta"):
            call(1.0, 1.0, -2.0)
        with pytest.raises(ArgumentError, match="adaptor must be one of"):
            call(1.0, 1.0, 1.0, "sqrt")
        for eta in (1e-120, 1e-51, 1e51, 1e120):
            with pytest.raises(ArgumentError, match=r"eta must be in \[1e-50, 1e\+50\]"):
                call(1.0, 1.0, eta)
    for eta in (1e-80, 1e110):
        with pytest.raises(ArgumentError, match="eta must be in"):
            escape.tradeoff(1e-200, 1.0, eta)
    with pytest.raises(ArgumentError, match="rate"):
        escape.lora_trajectory(1.0, 1.0, 0.0)
    with pytest.raises(ArgumentError, match="level"):
        escape.tradeoff(0.0, 1.0, 1.0)
    for level, name in ((1e250, "inverse_sqrt"), (1e300, "inverse")):
        with pytest.raises(ArgumentError, match=r"level: eta²·level must be at most 1e308, received 1e\+"):
            escape.tradeoff(level, 1.0, 1e40, name)


def test_shapes_are_kept():
    assert escape.trajectory(np.ones((2, 3)), 1.0, 1.0).shape == (2, 3)
    assert escape.trajectory(1.0, 1.0, 1.0).shape == ()
