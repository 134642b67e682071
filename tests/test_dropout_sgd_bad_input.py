"""What the entry points of `dropout_sgd` refuse, each with the argument, the value and what is allowed."""

import re

import numpy as np
import pytest

from allora_analysis.dropout_sgd import simulate, simulate_factors, stability_limits, stationary_moments, trajectory
from allora_analysis.validation import ArgumentError

GOOD = {
    "x": np.eye(3),
    "y": np.ones((3, 1)),
    "keep_prob": 0.5,
    "learning_rate": 0.01,
    "steps": 3,
    "placement": "output",
}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep_prob": 0.0}, "keep_prob.*received 0"),
        ({"keep_prob": 1.5}, "keep_prob.*received 1.5"),
        ({"x": np.full((3, 3), np.nan)}, "x: every entry must be finite"),
        ({"x": np.zeros((0, 3))}, r"x: shape \(0, 3\)"),
        ({"y": np.ones((4, 1))}, r"y: shape \(4, 1\) received"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 2**24}, r"steps: the means at 1.678e\+07 steps would need"),  # 3 and 12 numbers a step
        ({"placement": "bottleneck"}, "bottleneck.*not affine"),
        ({"placement": "latent"}, "placement must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": [0.1, 0.1]}, "schedule of 2 rates received; give one a step, 3"),
        ({"learning_rate": [0.1, -0.1, 0.1]}, "received -0.1 at index 1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"shared_mask": True}, "shared_mask is for input masks"),
        ({"placement": "input", "shared_mask": True, "batch_size": 2}, "shared_mask is for input masks"),
        ({"w_true": np.ones((2, 1))}, r"w_true: shape \(2, 1\)"),
        ({"risk_covariance": np.eye(3)}, "risk_covariance: received without w_true"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.triu(np.ones((3, 3)))}, "must be symmetric"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.diag([1.0, -0.5, 2.0])}, "an eigenvalue of -0.5"),
    ],
)
def test_what_cannot_be_used_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        trajectory(**{**GOOD, **change})


@pytest.mark.bad_input
def test_a_schedule_stops_at_the_first_value_that_is_not_finite():
    x, y = np.arange(15.0).reshape(5, 3), np.ones((5, 1))
    with pytest.raises(ValueError, match=r"first non-finite value at step 4 \(its rate 1e\+150\)"):
        trajectory(x, y, 0.5, [0.01, 0.01, 1e120, 1e150, 0.01], 5, "input")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 1}, "replicas must be a whole number, 2 or above"),
        ({"record": (4,)}, r"record must be a whole number in \[0, 3\]"),
        ({"replicas": 10**9}, "1 GiB; give fewer than"),
        ({"learning_rate": [0.1] * 2}, "learning_rate"),
        ({"batch_size": 2**26}, "rows and masks would need 2 GiB"),  # four numbers a row
    ],
)
def test_what_cannot_be_simulated_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        simulate(**{**GOOD, "replicas": 4, "generator": np.random.default_rng(0), **change})


@pytest.mark.bad_input
def test_the_other_entry_points_refuse_too():
    with pytest.raises(ValueError, match="keep_prob"):
        stability_limits(np.eye(2), 2.0)
    with pytest.raises(ValueError, match="x: shape"):
        stability_limits(3.0, 0.5)
    with pytest.raises(ValueError, match="past the mean-square stability limit"):
        stationary_moments(np.eye(2), np.ones((2, 1)), 0.5, 10.0)


SIZES = {"n": 800, "d": 400, "c": 30, "r": 20, "steps": 5, "replicas": 50}


def seconds(run, n, d, c, r, steps, replicas, most="1e-09"):
    """How long a run is told to take, which is refused as too long."""
    x, y, options = np.zeros((n, d)), np.zeros((n, c)), {"most_seconds": 1e-9} if most == "1e-09" else {}
    options |= {} if run is trajectory else {"replicas": replicas, "generator": np.random.default_rng(0)}
    start = (np.zeros((r, d)), np.zeros((c, r))) if run is simulate_factors else ()
    with pytest.raises(ArgumentError, match=f"take about .* most_seconds above {most}$") as caught:
        run(x, y, *start, 0.5, 0.1, steps, **options)
    return float(re.search(r"take about (\S+) s", str(caught.value))[1])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("run", "sizes"), [(trajectory, "n d c"), (simulate, "n d c replicas"), (simulate_factors, "n d r replicas")]
)
def test_what_is_twice_as_large_takes_longer(run, sizes):
    one = seconds(run, **SIZES)
    assert seconds(run, **SIZES | {"steps": 10}) == pytest.approx(2 * one, rel=0.1)
    assert seconds(run, **SIZES | {"steps": 10_000}, most="60") > 60
    for name in sizes.split():
        assert 1.3 * one < seconds(run, **SIZES | {name: 2 * SIZES[name]}) < 8 * one
