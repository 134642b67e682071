"""Rescalings that leave training unchanged, each exponent on trial; the hand-written training against torch's own."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import adaptive
from allora_analysis.adaptive import Setting
from allora_analysis.validation import ArgumentError
from tests.brute_force import adaptive as brute

STEPS = 50
LORA = Setting(scaling=1.7, init_a=0.8, rate_a=0.02, rate_b=0.03, eps_a=1e-3, eps_b=2e-3, decay_a=0.3, decay_b=0.2)
ALLORA = replace(LORA, eta=2.3)
A, B = 1.3, 0.4  # no powers of two


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(8)
    x = generator.standard_normal((12, 4))
    return x, np.tanh(x @ generator.standard_normal((4, 3))), generator.standard_normal((2, 4))


def gap(data, one, other, optimizer, **options):
    paths = [adaptive.train(*data, setting, STEPS, optimizer=optimizer, **options) for setting in (one, other)]
    return float(np.abs(paths[0] - paths[1]).max() / np.abs(paths[0]).max())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("setting", [LORA, ALLORA], ids=["lora", "allora"])
def test_training_is_torchs(data, setting, optimizer):
    if optimizer == "sgd":
        setting = replace(setting, decay_a=0.0, decay_b=0.0)  # torch's SGD couples its decay
    found = adaptive.train(*data, setting, STEPS, optimizer=optimizer)
    expected = brute.torch_training(*data, asdict(setting), STEPS, optimizer)
    assert found.shape == (STEPS + 1, 3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())


def test_the_settings_left_out_are_those_of_a_and_b_alike():
    assert Setting() == Setting(1.0, 1.0, 1e-2, 1e-2, 1e-8, 1e-8, 0.0, 0.0, None)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_lora_is_invariant(data, optimizer):
    assert gap(data, LORA, adaptive.rescaled(LORA, A, B, optimizer), optimizer) < 1e-10


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_eta_is_a_scaling_factor(data, optimizer):
    assert gap(data, ALLORA, adaptive.eta_as_scaling(ALLORA, optimizer), optimizer) < 1e-10


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("rule", ["rescaled", "eta_as_scaling"])
@pytest.mark.parametrize(
    "name", ["scaling", "init_a", "rate_a", "rate_b", "eps_a", "eps_b", "decay_a", "decay_b", "optimizer"]
)
def test_every_exponent_is_needed(data, optimizer, rule, name):
    """One exponent off by one in either direction, or the other optimizer's rule: no longer invariant."""
    if optimizer == "sgd" and name.startswith("eps"):
        return  # SGD has no ε
    start = LORA if rule == "rescaled" else ALLORA
    map_ = (lambda s, o: adaptive.rescaled(s, A, B, o)) if rule == "rescaled" else adaptive.eta_as_scaling
    if name == "optimizer":
        assert gap(data, start, map_(start, {"adam": "sgd", "sgd": "adam"}[optimizer]), optimizer) > 1e-6
        return
    for wrong in (A, 1 / A):
        right = map_(start, optimizer)
        assert gap(data, start, replace(right, **{name: wrong * getattr(right, name)}), optimizer) > 1e-6


def test_clipping_breaks_the_invariance(data):
    assert gap(data, LORA, adaptive.rescaled(LORA, A, B, "sgd"), "sgd", max_norm=0.05) > 1e-3
    # … for Adam too, through how much each step counts; a clip that never binds changes nothing.
    assert gap(data, LORA, adaptive.rescaled(LORA, A, B), "adam", max_norm=0.05) > 1e-3
    assert gap(data, LORA, LORA, "adam", max_norm=None) == 0.0
    loose = adaptive.train(*data, LORA, STEPS, max_norm=1e6)
    np.testing.assert_array_equal(loose, adaptive.train(*data, LORA, STEPS))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_clipped_at_a_norm_that_scales_along_eta_is_one(data, optimizer):
    norm, other = 0.05, adaptive.eta_as_scaling(ALLORA, optimizer)
    clipped = adaptive.train(*data, ALLORA, STEPS, optimizer=optimizer, max_norm=norm)
    gaps = [
        np.abs(adaptive.train(*data, other, STEPS, optimizer=optimizer, max_norm=norm / 2.3**power) - clipped).max()
        for power in (1, 2, 3)
    ]
    assert gaps[1] < 1e-10 * np.abs(clipped).max()
    assert min(gaps[0], gaps[2]) > 1e-3 * np.abs(clipped).max()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_clipped_in_every_step_start_and_one_rate_make_the_scaling_redundant(data, optimizer):
    rates = {"rate_a": 0.2, "rate_b": 0.3} if optimizer == "sgd" else {}
    plain = replace(LORA, decay_a=0.0, decay_b=0.0, eps_a=1e-14, eps_b=1e-14, **rates)
    for norm, tuned, expected in ((0.03, "rate", 2), (0.03, "rate_b", 3), (None, "rate_b", 2)):
        knobs = ("scaling", "init_a", tuned)
        assert adaptive.degrees_of_freedom(*data, plain, knobs, 10, optimizer=optimizer, max_norm=norm) == expected


def test_with_init_and_one_rate_the_scaling_is_real(data):
    """No single rate makes up for twice the scaling: the best of a fine grid stays far away."""
    one = replace(LORA, rate_b=LORA.rate_a, decay_a=0.0, decay_b=0.0, eps_a=1e-12, eps_b=1e-12)
    rates = one.rate_a * np.geomspace(0.1, 10.0, 21)
    gaps = [gap(data, one, replace(one, scaling=2 * one.scaling, rate_a=r, rate_b=r), "adam") for r in rates]
    assert min(gaps) > 0.01


ALL = ("scaling", "init_a", "rate_a", "rate_b", "eps_a", "eps_b")
PLAIN = replace(LORA, decay_a=0.0, decay_b=0.0)


@pytest.mark.parametrize(
    ("setting", "knobs", "optimizer", "expected"),
    [
        (PLAIN, ALL, "adam", 4),  # six, less a and b
        (PLAIN, ALL[:4], "sgd", 2),
        (PLAIN, ("scaling", "rate"), "adam", 2),
        (PLAIN, ("scaling", "rate"), "sgd", 2),
        (replace(PLAIN, eta=2.3), ("eta", "rate"), "adam", 2),
        (replace(PLAIN, eta=2.3), ("eta", "rate"), "sgd", 2),
        # η, s, init_A, l_A, l_B, ε_A, ε_B less the rescaling a = 1/b and the exchange of η for s.
        (replace(PLAIN, eta=2.3), ("eta", *ALL), "adam", 5),
        (replace(PLAIN, eta=2.3), ("eta", *ALL[:4]), "sgd", 3),
        (PLAIN, ("eps_a",), "sgd", 0),
    ],
)
def test_degrees_of_freedom(data, setting, knobs, optimizer, expected):
    assert adaptive.degrees_of_freedom(*data, setting, knobs, 20, optimizer=optimizer) == expected


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_degrees_of_freedom_do_not_depend_on_the_unit(data, unit):
    """X unit times larger and s that much smaller: ∂L/∂(BA) is what it was, and s·BA that much smaller."""
    x, y, a_draw = data
    setting = replace(PLAIN, scaling=PLAIN.scaling / unit)
    assert adaptive.degrees_of_freedom(unit * x, y, a_draw, setting, ALL[:4], 20, optimizer="sgd") == 2


@settings(deadline=None, max_examples=15)
@given(st.floats(0.2, 5.0), st.floats(0.2, 5.0), st.floats(0.2, 5.0), st.floats(0.2, 5.0))
def test_rescalings_compose(a, b, c, d):
    twice = adaptive.rescaled(adaptive.rescaled(LORA, a, b), c, d)
    once = adaptive.rescaled(LORA, a * c, b * d)
    for name, value in asdict(once).items():
        if value is not None:
            assert getattr(twice, name) == pytest.approx(value, rel=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: adaptive.rescaled(ALLORA, A, B), "eta must be None"),
        (lambda d: adaptive.rescaled(LORA, 0.0, B), "a must be"),
        (lambda d: adaptive.rescaled(LORA, A, B, "lion"), "optimizer"),
        (lambda d: adaptive.eta_as_scaling(LORA), "eta is None"),
        (lambda d: adaptive.train(*d, replace(LORA, eps_a=0.0), 3), "0/0"),
        (lambda d: adaptive.train(*d, replace(LORA, rate_a=0.0), 3), "rate_a"),
        (lambda d: adaptive.train(*d, replace(LORA, eta=-1.0), 3), "eta"),
        (lambda d: adaptive.train(*d, LORA, 0), "steps"),
        (lambda d: adaptive.train(*d, LORA, 3, max_norm=0.0), "max_norm"),
        (lambda d: adaptive.train(d[0], d[1][:5], d[2], LORA, 3), "y: shape"),
        (lambda d: adaptive.train(d[0], d[1], d[2][:, :2], LORA, 3), "a_draw: shape"),
        (lambda d: adaptive.train(d[0], d[1], np.ones((4, 4)), LORA, 3), "rank"),
        (lambda d: adaptive.degrees_of_freedom(*d, LORA, ("alpha",), 3), "knobs"),
        (lambda d: adaptive.degrees_of_freedom(*d, LORA, (), 3), "knobs"),
        (lambda d: adaptive.degrees_of_freedom(*d, PLAIN, ("decay_a",), 3), "decay_a"),
    ],
)
def test_bad_input(data, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(data)
